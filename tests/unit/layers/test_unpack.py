"""Layers become files as image-spec says and as tar makes them; what is not verified is marked."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import logging
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import traceback
import tracemalloc
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsdk.content.blob import Blob
from distsdk.content.source import Stat
from distsdk.errors import DigestMismatch, DistError, LimitExceeded, MalformedDocument, Unreachable, Unsafe
from distsdk.layers.compression import LayerLimits
from distsdk.layers.unpack import _Ahead, apply, unpack
from distsdk.spec.digest import Digest
from distsdk.spec.media_types import OCI_LAYER, OCI_LAYER_GZIP

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Callable, Iterator

    from distsdk.content.source import ByteStream

    Info = tuple[tarfile.TarInfo, bytes]
    Seen = dict[str, tuple[object, ...]]

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is unpacked on Windows")

MARKER = ".distsdk-unpacking"
MIB = 1024 * 1024
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0
ROOT_ONLY = pytest.mark.skipif(not ROOT, reason="only the superuser sets owners")


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where to, in a folder of its own; it is not there yet."""
    return tmp_path / "target"


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    """However it ended, nobody reads ahead any more."""
    yield
    for thread in threading.enumerate():
        if thread.name == "distsdk-ahead":
            thread.join(10)
            assert not thread.is_alive()


def digest(data: bytes) -> Digest:
    """Return the digest of bytes."""
    return Digest.of(data)


def names(folder: Path) -> set[str]:
    """Return the paths of all that is in a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


# Progress


@pytest.mark.slow
@pytest.mark.parametrize("dry_run", [False, True])
def test_apply_reports_packed_bytes(
    dry_run: bool, entry: Callable[..., Info], layer: Callable[..., bytes], target: Path
) -> None:
    """`apply` calls ``progress`` with 0 first, never with fewer bytes than before, and with all packed bytes last."""
    packed = gzip.compress(layer(*(entry(f"{n}", data=os.urandom(MIB)) for n in range(40))), compresslevel=1)
    seen: list[int] = []
    threads = set()

    def progress(count: int) -> None:
        seen.append(count)
        threads.add(threading.current_thread())

    apply(target, packed, dry_run=dry_run, progress=progress)
    assert [0, len(packed)] == [seen[0], seen[-1]]
    assert sorted(seen) == seen
    assert len(set(seen)) > 5
    assert {threading.current_thread()} == threads


@pytest.mark.slow
def test_unpack_reports_empty_files(entry: Callable[..., Info], layer: Callable[..., bytes], target: Path) -> None:
    """A layer of files without content advances before its end is read."""
    packed = layer(*(entry(f"{n}") for n in range(100_000)))
    seen: list[int] = []
    unpack([packed], target, dry_run=True, on_read=seen.append)
    assert len(set(seen)) > 5


def test_apply_knows_the_size_of_a_file(
    entry: Callable[..., Info], layer: Callable[..., bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar's total is the size of the file, or of the file at a path; of a pipe it is unknown."""
    packed = layer(entry("file", data=b"x"))
    path = tmp_path / "layer.tar"
    path.write_bytes(packed)
    totals = []

    @contextmanager
    def progress_bar(name: object, total: Callable[[], int | None], *, shown: object) -> Iterator[object]:
        totals.append(total())
        yield lambda _: None

    monkeypatch.setattr("distsdk.layers.unpack.progress_bar", progress_bar)
    reading, writing = os.pipe()
    os.write(writing, packed)
    os.close(writing)
    with path.open("rb") as file, os.fdopen(reading, "rb") as pipe:
        for given in (packed, path, file, io.BytesIO(packed), pipe):
            apply(tmp_path / "target", given, progress=True)
    size = len(packed)
    assert [size, size, size, None, None] == totals


# As other tools do


@pytest.fixture
def various(entry: Callable[..., Info], layer: Callable[..., bytes]) -> bytes:
    """A layer of what layers hold."""
    owner = {"uid": 1000, "gid": 2000}
    return layer(
        entry("./", "folder", mode=0o1775, mtime=1),
        entry("bin", "symlink", to="usr/bin", mtime=2, **owner),
        entry("usr", "folder", mtime=3),
        entry("usr/bin", "folder", mode=0o2750, mtime=4, **owner),
        entry("bin/through", data=b"a link in its way", mtime=5.25),
        entry("usr/bin/su", data=b"#!", mode=0o4755, mtime=6),
        entry("usr/bin/su2", "hard link", to="./usr/bin/su"),
        entry("usr/bin/su3", "hard link", to="bin/su"),
        entry("link2", "hard link", to="bin"),
        entry("large", data=bytes(range(256)) * 8000, mode=0o400, **owner),
        entry("pipe", "fifo", mode=0o622, mtime=7, **owner),
        entry("locked", "folder", mode=0o500, mtime=8),
        entry("locked/file", mode=0),
        entry("no/entry/for/these", data=b"x"),
        entry("n" * 255, data=b"long"),
        entry("\udcff\n", data=b"bytes"),
        entry("dangling", "symlink", to="/no/where"),
        entry("xattrs", data=b"x", xattrs={"user.a": "1", "user.b": ""}),
        entry("large", data=b"replaced"),
    )


@pytest.mark.parametrize("packed", [False, True])
def test_as_tar(packed: bool, various: bytes, target: Path, seen: Callable[[Path], Seen], tmp_path: Path) -> None:
    """Types, modes, owners, contents, attributes, links and times, those of folders included, are what tar makes."""
    other = tmp_path / "tar"
    other.mkdir()
    user = [] if ROOT else ["--no-same-owner", "--mode=u-s,g-s"]
    subprocess.run(
        ["tar", "--xattrs", "--xattrs-include=*", *user, "-xpf", "-", "-C", other], input=various, check=True
    )
    result = apply(target, gzip.compress(various) if packed else various)
    assert (f"sha256:{hashlib.sha256(various).hexdigest()}", 19) == (str(result.diff_ids[0]), result.entries)
    # Times of folders without an entry are nobody's; and tar was done with one before a link led it there again.
    untimed = {"no", "no/entry", "no/entry/for", "usr/bin"}

    def comparable(found: Seen) -> Seen:
        return {name: what[:5] if name in untimed else what[:6] for name, what in found.items()}

    assert comparable(seen(other)) == comparable(seen(target))


@ROOT_ONLY
def test_device_nodes_on_request(
    entry: Callable[..., Info], layer: Callable[..., bytes], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are made where they are asked for, with their numbers, owners and modes."""
    data = layer(
        entry("null", "character device", devmajor=1, devminor=3, mode=0o666, uid=5),
        entry("disk", "block device", devmajor=8, devminor=1, mode=0o660),
    )
    try:
        result = apply(target, data, devices=True)
    except PermissionError:
        monkeypatch.undo()
        pytest.skip("no device nodes can be made here")
    assert 0 == result.devices_skipped
    null, disk = (target / "null").stat(), (target / "disk").stat()
    assert (stat.S_IFCHR | 0o666, os.makedev(1, 3), 5) == (null.st_mode, null.st_rdev, null.st_uid)
    assert (stat.S_IFBLK | 0o660, os.makedev(8, 1)) == (disk.st_mode, disk.st_rdev)


def test_sparse_files_stay_sparse(target: Path, tmp_path: Path) -> None:
    """Holes are not written, whatever the format, and are read as zeros."""
    source = tmp_path / "source"
    source.mkdir()
    with (source / "sparse").open("wb") as file:
        for at in (5 * MIB, 9 * MIB):
            file.seek(at)
            file.write(b"data" * 1000)
        file.truncate(20 * MIB)
    for number, options in enumerate(
        (["--format=gnu"], ["--format=posix", "--sparse-version=0.1"], ["--format=posix"])
    ):
        command: list[str | Path] = ["tar", *options, "--sparse", "-c", "-f", "-", "-C", source, "sparse"]
        data = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
        apply(target.with_name(f"target{number}"), data)
        found = target.with_name(f"target{number}") / "sparse"
        assert (source / "sparse").read_bytes() == found.read_bytes()
        assert found.stat().st_blocks * 512 < MIB


def test_attributes_that_may_not_be_set_are_counted(
    entry: Callable[..., Info], layer: Callable[..., bytes], target: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The machine's own, those of overlayfs, of links, and what the system refuses; it is said once."""
    data = layer(
        entry("a", xattrs={"security.selinux": "x", "user.overlay.opaque": "y", "trusted.overlay.redirect": "/etc"}),
        entry("b", "symlink", to="a", xattrs={"user.x": "1"}),
        entry("c", "folder", xattrs={"nonsense": "1"}),
        entry("d", xattrs={"user.": "1"}),
    )
    with caplog.at_level(logging.WARNING):
        result = apply(target, data)
    assert 6 == result.xattrs_refused
    if hasattr(os, "listxattr"):
        assert [] == os.listxattr(target / "a")
    assert [text for text in caplog.messages if "attribute" in text] == ["6 extended attributes not set"]
    assert ROOT is ("owners" not in "".join(caplog.messages))


@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="extended attributes are Linux's")
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_attributes_without_room_are_counted(
    code: int, entry: Callable[..., Info], layer: Callable[..., bytes], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that has no room for an attribute, as ext4 beyond 4 KiB, does not end the unpacking."""

    def setxattr(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "setxattr", setxattr)
    result = apply(target, layer(entry("a", data=b"x", xattrs={"user.a": "1"}), entry("b", "folder")))
    assert (1, b"x") == (result.xattrs_refused, (target / "a").read_bytes())


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_content_without_room_is_an_error(
    code: int, entry: Callable[..., Info], layer: Callable[..., bytes], target: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that has no room for content ends the unpacking, with the path of the entry."""
    write = os.write

    def full(file: int, data: bytes) -> int:
        if bytes(data) == b"content":
            raise OSError(code, os.strerror(code))
        return write(file, data)

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        apply(target, layer(entry("a/b", data=b"content")))
    assert (code, "a/b") == (caught.value.errno, caught.value.filename)


@ROOT_ONLY
@pytest.mark.skipif(not hasattr(os, "setxattr"), reason="extended attributes are Linux's")
def test_attributes_of_links_and_pipes_are_their_own(
    entry: Callable[..., Info], layer: Callable[..., bytes], target: Path
) -> None:
    """They are set, as tar does, and not those of what a link leads to."""
    data = layer(
        entry("file"),
        entry("link", "symlink", to="file", xattrs={"trusted.a": "1"}),
        entry("nowhere", "symlink", to="missing", xattrs={"trusted.a": "2"}),
        entry("pipe", "fifo", xattrs={"trusted.a": "3", "user.b": "4"}),
    )
    probe = target.with_name("probe")
    probe.symlink_to("missing")
    try:
        os.setxattr(probe, "trusted.a", b"", follow_symlinks=False)
    except OSError:
        pytest.skip("no attributes of that kind can be set here")
    result = apply(target, data)
    found = {}
    for name in names(target):
        for key in os.listxattr(target / name, follow_symlinks=False):
            found[name, key] = os.getxattr(target / name, key, follow_symlinks=False)
    assert {("link", "trusted.a"): b"1", ("nowhere", "trusted.a"): b"2", ("pipe", "trusted.a"): b"3"} == found
    assert 1 == result.xattrs_refused  # of a pipe, by the system
    other = target.with_name("tar")
    other.mkdir()
    subprocess.run(["tar", "--xattrs", "--xattrs-include=trusted.*", "-xpf", "-", "-C", other], input=data, check=True)
    for (name, key), value in found.items():
        assert value == os.getxattr(other / name, key, follow_symlinks=False)


# Not the superuser


@pytest.fixture
def as_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """As far as is asked, this is not the superuser."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)


@pytest.mark.usefixtures("as_user")
def test_owners_are_left_to_the_superuser(various: bytes, target: Path) -> None:
    """Everything belongs to who unpacks, and no program runs as them for others; the result says so."""
    result = apply(target, various)
    assert not result.owners
    assert any("owners" in note for note in result.notes())
    assert {os.getuid()} == {path.lstat().st_uid for path in target.rglob("*")}
    assert 0 == sum(path.lstat().st_mode & 0o6000 for path in target.rglob("*"))
    assert (0o755, 0o750, 0o500, 0) == tuple(
        stat.S_IMODE((target / name).stat().st_mode) for name in ("usr/bin/su", "usr/bin", "locked", "locked/file")
    )


NOBODY = 65534


@ROOT_ONLY
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_folders_that_may_not_be_written_to(entry: Callable[..., Info], layer: Callable[..., bytes]) -> None:
    """An unprivileged user unpacks into them, replaces and removes what is in them, and they are as they were."""
    lower = layer(
        entry("a", "folder", mode=0o500, mtime=5), entry("a/b", "folder", mode=0), entry("a/b/c"), entry("a/b/d/e")
    )
    upper = layer(
        entry("a/new"), entry("a/b/.wh.d"), entry("x", "folder", mode=0), entry("x/y", "folder", mode=0), entry("x/y/z")
    )
    expected = {"a": 0o500, "a/b": 0, "a/b/c": 0o644, "a/new": 0o644, "x": 0, "x/y": 0, "x/y/z": 0o644}

    def work(folder: Path) -> None:
        with pytest.raises(PermissionError):
            apply(folder.with_name("warm"), lower)
        assert not unpack([lower], folder).owners
        apply(folder, upper)
        modes = {name: stat.S_IMODE((folder / name).stat().st_mode) for name in ("a", "a/new", "x")}
        assert modes.items() <= expected.items()
        assert (5 * 10**9, NOBODY) == ((folder / "a").stat().st_mtime_ns, (folder / "a").stat().st_uid)
        shutil.copyfile(folder / "a/new", folder / "copied")
        unpack([lower], folder.with_name("two"))
        with pytest.raises(DigestMismatch):
            unpack([lower, upper], folder.with_name("three"), diff_ids=[digest(lower)] * 2)
        unpack([upper], folder.with_name("three"))  # empties it

    with tempfile.TemporaryDirectory() as scratch:  # tmp_path is the superuser's alone
        apply(f"{scratch}/warm", gzip.compress(lower))  # what is imported late is: the child may not read it
        os.chown(scratch, NOBODY, NOBODY)
        child = os.fork()
        if not child:
            code = 1
            try:
                os.setgroups([])
                os.setresgid(NOBODY, NOBODY, NOBODY)
                os.setresuid(NOBODY, NOBODY, NOBODY)
                work(Path(scratch, "one"))
                code = 0
            except BaseException:  # noqa: BLE001 - the child ends here, whatever happens
                traceback.print_exc()
            finally:
                os._exit(code)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        one = Path(scratch, "one")
        assert expected == {name: stat.S_IMODE((one / name).stat().st_mode) for name in names(one) - {"copied"}}
        assert {"a", "a/new", "x", "x/y", "x/y/z"} == names(Path(scratch, "three"))


# Layers on top of each other


def stack(entry: Callable[..., Info], layer: Callable[..., bytes], *layers: str) -> list[bytes]:
    """Return layers of words: ``a/b`` is a file, ``a/`` a folder, ``a>b`` a link; a file says which layer it is of."""
    found = []
    for number, words in enumerate(layers):
        entries = []
        for word in words.split():
            name, is_link, to = word.partition(">")
            kind = "symlink" if is_link else "folder" if name.endswith("/") else "file"
            entries.append(entry(name, kind, to=to, data=b"%d" % number if kind == "file" else b""))
        found.append(layer(*entries))
    return found


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (["a b", ".wh.a"], "b"),
        (["a/x a/y b", ".wh.a"], "b"),
        (["a/x a/y", "a/.wh.x"], "a a/y"),
        (["a/x a/y", "a/.wh..wh..opq"], "a"),
        (["a/x a/y", "a/.wh..wh..opq a/z"], "a a/z"),
        (["a/x a/y", "a/z a/.wh..wh..opq"], "a a/z"),
        (["a/x a/y", "a/x a/.wh..wh..opq"], "a a/x"),
        (["a", "a .wh.a"], "a"),
        (["a", ".wh.a a"], "a"),
        (["a/x/1 a/y", "a/x/2 .wh.a"], "a a/x a/x/2"),
        (["a/x/1 a/y", ".wh.a a/x/2"], "a a/x a/x/2"),
        (["a/x a/y", "a/ .wh.a"], "a"),
        (["a/x", ".wh..wh..opq"], ""),
        (["a/x", "b .wh..wh..opq"], "b"),
        (["a", ".wh.b c/.wh.d"], "a"),
        (["a b", "b", ".wh.b"], "a"),
        (["a/x l>a", "l/.wh.x"], "a l"),
        (["a/x l>a", "l/.wh..wh..opq"], "a l"),
        (["a/x l>a", ".wh.l"], "a a/x"),
        (["a/x l>a", "l/"], "a a/x l"),
        (["a/x l>a", "l/y"], "a a/x a/y l"),
        (["l>a", "l/x"], "a a/x l"),
        (["l>/a/b", "l/x"], "a a/b a/b/x l"),
        (["l>../../a", "l/x"], "a a/x l"),
        (["d/l>../a d/m>l/b", "d/m/x"], "a a/b a/b/x d d/l d/m"),
        (["a/x", "a"], "a"),
        (["a", "a/x"], None),
        (["a", "a/ a/x"], "a a/x"),
        (["a>b", "a"], "a"),
        (["a/x", "a>b"], "a"),
        (["a/.wh.b"], ""),
        (["a/b", "a a/.wh.b"], "a"),
        (["a/b l>a", "a l/.wh..wh..opq"], "a l"),
        (["x/a", ".wh..wh.aufs .wh..wh.plnk/ .wh..wh.plnk/5"], "x x/a"),
        (["./a ./b/c", "/.wh.a .//b//.wh.c"], "b"),
        (["a/b", "a/.wh.b a/.wh.b/c"], Unsafe),
    ],
)
def test_whiteouts_and_replacements(
    layers: list[str],
    expected: str | type[DistError] | None,
    entry: Callable[..., Info],
    layer: Callable[..., bytes],
    target: Path,
) -> None:
    """What a layer removes, replaces and merges, whatever the order; of what it brings it removes nothing."""
    data = stack(entry, layer, *layers)
    if not isinstance(expected, str):
        with pytest.raises(expected or MalformedDocument):
            unpack(data, target)
        return
    result = unpack(data, target)
    assert set(expected.split()) == names(target)
    assert (
        sum(word.rpartition("/")[2].startswith(".wh.") for word in " ".join(layers).split())
        - (2 if "aufs" in layers[-1] else 0)
        == result.removed
        or "plnk" in layers[-1]
    )


#: Where files and folders are, in a few places, so that layers meet.
places = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
things = st.one_of(
    places.map(lambda path: ("file", path)),
    places.map(lambda path: ("folder", path)),
    places.map(lambda path: ("whiteout", path)),
    places.map(lambda path: ("opaque", path)),
)


def above(path: str) -> list[str]:
    """Return the folders above a path."""
    return [str(folder) for folder in Path(path).parents if str(folder) != "."]


def expected_tree(layers: list[list[tuple[str, str]]]) -> dict[str, str] | None:
    """Return what image-spec says about layers, by path: "folder" or the number of the layer; None for an error."""
    tree: dict[str, str] = {}
    for number, things in enumerate(layers):
        own: set[str] = set()
        for kind, path in things:
            if kind in {"whiteout", "opaque"}:
                on_the_way = above(path) if kind == "whiteout" else [*above(path), path]
                if any(tree.get(folder, "folder") != "folder" for folder in on_the_way):
                    continue
                kept = own | {folder for one in own for folder in above(one)}
                gone = [name for name in tree if name.startswith(f"{path}/") or (kind == "whiteout" and name == path)]
                for name in gone:
                    if name not in kept:
                        del tree[name]
                continue
            for folder in above(path):
                if tree.setdefault(folder, "folder") != "folder":
                    return None
            if kind == "file" or tree.get(path) != "folder":
                for name in [name for name in tree if name.startswith(f"{path}/")]:
                    del tree[name]
            tree[path] = "folder" if kind == "folder" else f"{number}"
            own.add(path)
            own -= {name for name in own if name not in tree}
    return tree


@pytest.mark.slow
@settings(max_examples=150)
@given(layers=st.lists(st.lists(things, max_size=6), min_size=1, max_size=4))
def test_any_layers(
    layers: list[list[tuple[str, str]]],
    entry: Callable[..., Info],
    layer: Callable[..., bytes],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Files, folders and whiteouts in any order make the tree that image-spec's sentences, put one by one, make."""
    data = []
    for number, things in enumerate(layers):
        entries = []
        for kind, path in things:
            folder, _, name = path.rpartition("/")
            written = {
                "whiteout": f"{folder}/.wh.{name}" if folder else f".wh.{name}",
                "opaque": f"{path}/.wh..wh..opq",
            }.get(kind, path)
            body = b"%d" % number if kind == "file" else b""
            entries.append(entry(written, "folder" if kind == "folder" else "file", data=body))
        data.append(layer(*entries))
    expected = expected_tree(layers)
    target = tmp_path_factory.mktemp("any") / "target"
    if expected is None:
        with pytest.raises(MalformedDocument, match="not a directory"):
            unpack(data, target)
    else:
        unpack(data, target)
        assert expected == {
            name: "folder" if (target / name).is_dir() else (target / name).read_text() for name in names(target)
        }
    shutil.rmtree(target)


def test_folders_keep_what_no_layer_says_of_them(
    entry: Callable[..., Info], layer: Callable[..., bytes], target: Path
) -> None:
    """Who adds to a folder or removes from it without an entry for it leaves its time, mode and attributes alone."""
    lower = layer(
        entry("./", "folder", mtime=7, mode=0o711),
        entry("a", "folder", mtime=5, mode=0o700, xattrs={"user.x": "1"}),
        entry("a/x"),
        entry("b", "folder", mtime=6, mode=0o700, xattrs={"user.x": "1", "user.y": "1"}),
    )
    upper = layer(entry("a/new"), entry("a/.wh.x"), entry("b", "folder", mtime=9, mode=0o755, xattrs={"user.y": "2"}))
    unpack([lower], target)
    apply(target, upper)
    for name, mode, seconds, xattrs in (
        (".", 0o711, 7, {}),
        ("a", 0o700, 5, {"user.x": b"1"}),
        ("b", 0o755, 9, {"user.y": b"2"}),
    ):
        status = (target / name).stat()
        assert (mode, seconds * 10**9) == (stat.S_IMODE(status.st_mode), status.st_mtime_ns)
        if hasattr(os, "listxattr"):
            assert xattrs == {key: os.getxattr(target / name, key) for key in os.listxattr(target / name)}


def test_a_folder_that_was_replaced_does_not_lend_its_metadata(
    entry: Callable[..., Info], layer: Callable[..., bytes], target: Path
) -> None:
    """One that is made anew without an entry of its own is an ordinary one."""
    lower = layer(entry("a", "folder", mode=0o777, mtime=5), entry("a/x"))
    unpack([lower, layer(entry(".wh.a")), layer(entry("a/y"))], target)
    assert 0o755 == stat.S_IMODE((target / "a").stat().st_mode)
    assert 5 != (target / "a").stat().st_mtime
    assert {"a", "a/y"} == names(target)


# The marker


def test_the_marker_is_there_until_all_is_well(
    entry: Callable[..., Info], layer: Callable[..., bytes], target: Path
) -> None:
    """From before the first write; no whiteout takes it away."""
    found = []
    data = [layer(entry("a")), layer(entry(".wh..wh..opq"), entry(f".wh.{MARKER}"), entry("b"))]
    unpack(
        data, target, on_progress=lambda member: found.append((member.path, (target / MARKER).exists(), names(target)))
    )
    assert [False, True, True, True] == [there for _, there, _ in found]
    assert set() == found[0][2]
    assert {"b"} == names(target)
    apply(target, layer(entry(".wh..wh..opq")))
    assert set() == names(target)


@pytest.mark.parametrize("how", ["a wrong diffID", "cut", "interrupted", "a hostile entry"])
def test_what_ends_early_is_marked(
    how: str, entry: Callable[..., Info], layer: Callable[..., bytes], target: Path
) -> None:
    """The tree stays as it is then, marked; `apply` refuses it, `unpack` starts over, also with another image."""
    data = layer(entry("old/x"), entry("b"), *([entry("../x")] if how == "a hostile entry" else []))
    work: Callable[[], object] = lambda: unpack([data], target)  # noqa: E731 - one of four
    error: type[BaseException] = Unsafe
    if how == "a wrong diffID":
        work, error = lambda: unpack([data], target, diff_ids=[digest(b"")]), DigestMismatch
    elif how == "cut":
        work, error = lambda: unpack([data[:-1024].rstrip(b"\0")], target), MalformedDocument
    elif how == "interrupted":

        def interrupt(member: object) -> None:
            if (target / "b").exists() or getattr(member, "path", b"") == b"b":
                raise KeyboardInterrupt

        work, error = lambda: unpack([data], target, on_progress=interrupt), KeyboardInterrupt
    with pytest.raises(error):
        work()
    assert {MARKER, "old", "old/x"} <= names(target)
    with pytest.raises(Unsafe, match=r"is incomplete.*new directory"):
        apply(target, layer(entry("c")))
    unpack([layer(entry("new"))], target)
    assert {"new"} == names(target)


def test_what_was_not_begun_is_not_marked(
    target: Path, entry: Callable[..., Info], layer: Callable[..., bytes]
) -> None:
    """A layer that cannot be had, or is none, leaves a directory as it was."""
    unpack([layer(entry("a"))], target)
    before = target.stat().st_mtime_ns
    for wrong in (b"no archive", target / "missing", Blob(Broken(), digest(b"x"), size=1)):
        with pytest.raises((DistError, OSError)):
            apply(target, wrong)
    assert ({"a"}, before) == (names(target), target.stat().st_mtime_ns)


def test_unpack_takes_an_empty_directory(entry: Callable[..., Info], layer: Callable[..., bytes], target: Path) -> None:
    """And no other: what is there is somebody's, also where an `apply` ended early, and nothing of it is touched."""
    data = layer(entry("a"))
    target.mkdir()
    unpack([data], target)
    with pytest.raises(Unsafe, match="not empty"):
        unpack([data], target)
    with pytest.raises(DigestMismatch):
        apply(target, layer(entry("b")), diff_id=digest(b""))
    with pytest.raises(Unsafe, match="not empty"):
        unpack([data], target)
    assert {"a", "b", MARKER} == names(target)
    (target / "file").touch()
    with pytest.raises(FileExistsError):
        unpack([data], target / "file")
    with pytest.raises(FileNotFoundError):
        unpack([data], target / "no/such")


def test_a_marker_is_obeyed_only_as_a_file(
    entry: Callable[..., Info], layer: Callable[..., bytes], target: Path
) -> None:
    """A link of that name, a pipe, or another text does not have a directory emptied."""
    target.mkdir()
    (target / "mine").touch()
    (target.parent / "elsewhere").write_bytes(b"unpack\n")
    for make in (
        lambda: (target / MARKER).symlink_to("../elsewhere"),
        lambda: os.mkfifo(target / MARKER),
        lambda: (target / MARKER).write_bytes(b"unpack"),
    ):
        make()
        with pytest.raises(Unsafe):
            unpack([layer(entry("a"))], target)
        with pytest.raises(Unsafe):
            apply(target, layer(entry("a")))
        (target / MARKER).unlink()
    assert {"mine"} == names(target)


def test_two_at_once(entry: Callable[..., Info], layer: Callable[..., bytes], target: Path) -> None:
    """The second one is refused, and the first one goes on."""
    refused = []

    def again(_: object) -> None:
        with pytest.raises(Unsafe, match="another process is unpacking") as caught:
            unpack([layer(entry("b"))], target)
        refused.append(caught)

    unpack([layer(entry("a"))], target, on_progress=again)
    assert ({"a"}, 1) == (names(target), len(refused))


# Verdicts


class Broken:
    """A source that is not there."""

    def open(self, offset: int, end: int | None) -> ByteStream:
        """Fail."""
        raise Unreachable(f"no connection for {offset} to {end}")

    def stat(self) -> Stat:
        """Know nothing."""
        return Stat()


class Lying(Broken):
    """A source with other bytes than asked for."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def open(self, offset: int, end: int | None) -> ByteStream:
        """Open them."""
        return io.BytesIO(self.data[offset:end])


def test_damage_on_the_way_and_damage_at_the_source(
    entry: Callable[..., Info], layer: Callable[..., bytes], tmp_path: Path
) -> None:
    """Bytes that are not those asked for are the digest's matter, wherever they hurt; a wrong layer is its maker's."""
    good = gzip.compress(layer(entry("a", data=b"x" * 100_000), entry("b")), mtime=0)
    for at in (3, 20, len(good) // 2, len(good) - 5, len(good) - 1):
        bad = good[:at] + bytes([good[at] ^ 0xFF]) + good[at + 1 :]
        with pytest.raises(DigestMismatch):
            apply(tmp_path / f"a{at}", Blob(Lying(bad), digest(good), size=len(good), media_type=OCI_LAYER_GZIP))
    for bad in (good[:-1], good + b"\0", gzip.compress(b"no archive")):
        with pytest.raises(MalformedDocument):
            apply(tmp_path / f"b{len(bad)}", Blob.from_bytes(bad, media_type=OCI_LAYER_GZIP))


def test_media_type_and_bytes_have_to_agree(
    entry: Callable[..., Info], layer: Callable[..., bytes], target: Path
) -> None:
    """A blob's media type says how it is packed."""
    data = layer(entry("a"))
    apply(target, Blob.from_bytes(data, media_type=OCI_LAYER))
    for wrong in (
        Blob.from_bytes(data, media_type=OCI_LAYER_GZIP),
        Blob.from_bytes(gzip.compress(data), media_type=OCI_LAYER),
    ):
        with pytest.raises(MalformedDocument, match="compression of a layer is invalid"):
            apply(target, wrong)


def test_diff_ids_are_checked(entry: Callable[..., Info], layer: Callable[..., bytes], tmp_path: Path) -> None:
    """Each layer's, whatever the algorithm; the error says which layer it was."""
    data = [layer(entry("a")), layer(entry("b"))]
    for algorithm in ("sha256", "sha384", "sha512"):
        wanted = [Digest.of(one, algorithm) for one in data]
        assert tuple(wanted) == unpack(data, tmp_path / algorithm, diff_ids=wanted).diff_ids
    with pytest.raises(DigestMismatch, match="layer 2") as caught:
        unpack(data, tmp_path / "x", diff_ids=[digest(data[0]), digest(data[0])])
    assert (str(digest(data[0])), str(digest(data[1]))) == (caught.value.expected, caught.value.got)
    for count in (1, 3):
        with pytest.raises(MalformedDocument, match=f"expected 2 diffIDs.*got {count}"):
            unpack(data, tmp_path / "y", diff_ids=[digest(data[0])] * count)
    assert () == unpack([], tmp_path / "z", diff_ids=[]).diff_ids


def test_only_what_is_vouched_for_may_lack_its_end(
    entry: Callable[..., Info], layer: Callable[..., bytes], tmp_path: Path
) -> None:
    """As `umoci insert` leaves it: taken with a digest, the layer's or its diffID; without one it may have been cut."""
    data = layer(entry("a", data=b"1"), entry("b", data=b"2"))[: 3 * 512 + 1]
    apply(tmp_path / "blob", Blob.from_bytes(data))
    apply(tmp_path / "packed", gzip.compress(data), diff_id=digest(data))
    unpack([data], tmp_path / "unpack", diff_ids=[digest(data)])
    for name in ("blob", "packed", "unpack"):
        assert {"a", "b"} == names(tmp_path / name)
    with pytest.raises(MalformedDocument, match="it may be truncated"):
        apply(tmp_path / "stream", io.BytesIO(data))
    assert {"a", "b", MARKER} == names(tmp_path / "stream")
    # Cut where a member ends, and therefore not told by anything but the digest.
    cut = data[:1024]
    with pytest.raises(DigestMismatch):
        apply(tmp_path / "cut", cut, diff_id=digest(data))
    assert MARKER in names(tmp_path / "cut")
    lying = Blob(Blob.from_bytes(cut)._source, digest(data))
    with pytest.raises(DistError):
        apply(tmp_path / "lying", lying)
    assert MARKER in names(tmp_path / "lying")


def test_limits_hold_for_all_layers_together(
    entry: Callable[..., Info], layer: Callable[..., bytes], tmp_path: Path
) -> None:
    """Two layers of half the size are as large as one."""
    data = [layer(entry("a", data=bytes(50_000)))] * 2
    unpack(data, tmp_path / "a", limits=LayerLimits(output=2 * len(data[0])))
    with pytest.raises(LimitExceeded, match="together") as caught:
        unpack(data, tmp_path / "b", limits=LayerLimits(output=2 * len(data[0]) - 1))
    assert 2 * len(data[0]) - 1 == caught.value.limit


# What layers come as


def test_what_layers_come_as(entry: Callable[..., Info], layer: Callable[..., bytes], tmp_path: Path) -> None:
    """A path, bytes, a file of any kind, a blob; each is read to its end."""
    data = gzip.compress(layer(entry("a", data=bytes(range(256)) * 4000)))
    path = tmp_path / "layer"
    path.write_bytes(data)
    reading, writing = os.pipe()

    def feed() -> None:
        with os.fdopen(writing, "wb") as pipe:
            pipe.write(data)

    feeder = threading.Thread(target=feed)
    feeder.start()
    with path.open("rb") as buffered, path.open("rb", buffering=0) as plain, os.fdopen(reading, "rb") as pipe:
        started = path.open("rb")
        assert started.peek(1)
        sources: list[Any] = [path, str(path), data, buffered, plain, pipe, started, io.BytesIO(data)]
        sources += [Blob.from_bytes(data), io.BufferedReader(io.BytesIO(data))]
        for number, source in enumerate(sources):
            apply(tmp_path / f"{number}", source)
            assert bytes(range(256)) * 4000 == (tmp_path / f"{number}/a").read_bytes()
        started.close()
    feeder.join()


def test_a_dry_run_writes_nothing(entry: Callable[..., Info], layer: Callable[..., bytes], target: Path) -> None:
    """It lists, counts and checks; the directory need not be there."""
    listed: list[bytes] = []
    data = layer(entry("a", data=b"12345"), entry(".wh.b"), entry("c/"))
    result = unpack([data, data], target, dry_run=True, on_progress=lambda member: listed.append(member.path))
    assert (4, 2, 10, (digest(data),) * 2) == (result.entries, result.removed, result.size, result.diff_ids)
    assert [b"a", b".wh.b", b"c"] * 2 == listed
    assert not target.exists()
    for wrong, error in ((layer(entry("../a")), Unsafe), (data[:1000], MalformedDocument)):
        with pytest.raises(error):
            apply(target, wrong, dry_run=True)
    with pytest.raises(DigestMismatch):
        apply(target, data, dry_run=True, diff_id=digest(b""))
    assert not target.exists()


class Endless:
    """A layer with one file that is as long as is said, made as it is read."""

    def __init__(self, header: bytes, size: int) -> None:
        self.pieces = [header, *[bytes(MIB)] * (size // MIB), bytes(1024)]

    def read(self, size: int) -> bytes:
        """Return some more of it."""
        piece = self.pieces[0][:size] if self.pieces else b""
        if self.pieces:
            self.pieces[0] = self.pieces[0][size:]
            if not self.pieces[0]:
                del self.pieces[0]
        return piece


def test_memory_does_not_grow(entry: Callable[..., Info], target: Path) -> None:
    """A file of 300 MiB takes what a small one takes: what is read ahead."""
    info, _ = entry("large")
    info.size = 300 * MIB
    stream = Endless(info.tobuf(), info.size)
    tracemalloc.start()
    try:
        assert 300 * MIB == apply(target, stream, dry_run=True).size
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 40 * MIB


def test_the_system_says_no(entry: Callable[..., Info], layer: Callable[..., bytes], target: Path) -> None:
    """What cannot be written is the system's error, with the path of the entry."""
    with pytest.raises(OSError, match="File name too long") as caught:
        apply(target, layer(entry("folder/" + "n" * 256)))
    assert "folder/" + "n" * 256 == caught.value.filename


def test_a_systems_error_of_the_layer_is_left_as_it_is(
    entry: Callable[..., Info], layer: Callable[..., bytes], target: Path
) -> None:
    """An error of the network in the middle of a file is not the file's."""
    data = layer(entry("a", data=bytes(10 * MIB)))

    class Cut(Lying):
        def open(self, offset: int, end: int | None) -> ByteStream:
            if offset or end is not None:
                raise Unreachable("the connection broke")
            stream = io.BytesIO(self.data[: 5 * MIB])
            read = stream.read

            def reading(size: int | None = -1, /) -> bytes:
                found = read(size)
                if not found:
                    raise Unreachable("the connection broke")
                return found

            stream.read = reading  # type: ignore[method-assign] # ends in an error
            return stream

    with pytest.raises(Unreachable) as caught:
        apply(target, Blob(Cut(data), digest(data), size=len(data)))
    assert "the connection broke" == str(caught.value)


# Threads

STDIN = """\
import sys
from distsdk.errors import MalformedDocument
from distsdk.layers.unpack import apply
try:
    apply(sys.argv[1], sys.stdin.buffer)
except MalformedDocument as error:
    sys.exit(f"refused: {error}")
"""


@pytest.mark.slow
def test_giving_up_does_not_wait_for_standard_input(target: Path) -> None:
    """A layer that is none ends the program at once, though the other end of the pipe stays open and silent."""
    with subprocess.Popen(
        [sys.executable, "-c", STDIN, target], stdin=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stderr is not None
        process.stdin.write(b"x" * 5000)
        process.stdin.flush()
        assert process.stderr.read().startswith(b"refused: ")  # to its end: until the process has ended
        assert 1 == process.wait(60)


def test_what_is_got_ahead_has_an_end() -> None:
    """Room for so much, and one more; who gives up ends the thread, which closes what it reads."""
    closed = threading.Event()
    got: list[int] = []
    full = threading.Semaphore(0)

    def items() -> Iterator[bytes]:
        try:
            while True:
                got.append(len(got))
                full.release()
                yield b"12345"
        finally:
            closed.set()

    ahead = _Ahead(items(), 12, weight=len)
    for _ in range(4):  # three have room, the fourth waits for it
        assert full.acquire(timeout=30)
    assert 4 == len(got)
    assert b"12345" == next(ahead)
    assert full.acquire(timeout=30)
    ahead.close(timeout=None)
    assert closed.is_set()
    assert [] == list(ahead)


def test_what_fails_ahead_fails_in_its_turn() -> None:
    """What came before the error is handed out, then the error, each time."""

    def items() -> Iterator[bytes]:
        yield b"1"
        raise MalformedDocument("no more")

    ahead = _Ahead(items(), 12, weight=len)
    assert b"1" == next(ahead)
    for _ in range(2):
        with pytest.raises(MalformedDocument, match="no more"):
            next(ahead)


def test_layers_are_got_ahead(entry: Callable[..., Info], layer: Callable[..., bytes], target: Path) -> None:
    """The next layer is asked for while this one is written."""
    asked = threading.Event()

    class Asked(Lying):
        def open(self, offset: int, end: int | None) -> ByteStream:
            asked.set()
            return super().open(offset, end)

    second = layer(entry("b"))
    blob = Blob(Asked(second), digest(second), size=len(second))

    def wait(member: object) -> None:
        assert member
        assert asked.wait(30)

    unpack([layer(entry("a")), blob], target, on_progress=wait)
    assert {"a", "b"} == names(target)


def test_where_it_cannot_be_done_safely_it_is_not_done(
    target: Path, entry: Callable[..., Info], layer: Callable[..., bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A system without lookups in open directories is told so; reading still works."""
    monkeypatch.setattr(os, "supports_dir_fd", set())
    with pytest.raises(Unsafe, match="Linux or macOS"):
        apply(target, layer(entry("a")))
    assert not target.exists()
    assert 1 == apply(target, layer(entry("a")), dry_run=True).entries


def test_descriptors_are_bounded_and_given_back(
    entry: Callable[..., Info], layer: Callable[..., bytes], target: Path
) -> None:
    """Thousands of folders are not open at once, and none is in the end."""
    target.mkdir()
    most = 0
    before = len(os.listdir("/dev/fd"))  # noqa: PTH208 - counted

    def count(_: object) -> None:
        nonlocal most
        most = max(most, len(os.listdir("/dev/fd")))  # noqa: PTH208 - counted

    apply(target, layer(*(entry(f"{number % 40}/{number}/file") for number in range(600))), on_progress=count)
    assert 1200 + 40 == len(names(target))
    assert most < before + 150
    assert before == len(os.listdir("/dev/fd"))  # noqa: PTH208 - counted
