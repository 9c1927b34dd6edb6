"""Layers that try to change what is outside their directory: nothing there changes, content or metadata.

Each attack is also made on an extractor that trusts names, as many do: it has to fall for it, or the attack is none.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from distsdk.errors import DistError, LimitExceeded, MalformedDocument, Unsafe
from distsdk.layers.member import Kind
from distsdk.layers.rootfs import MARKER, RootfsWriter
from distsdk.layers.tar import read_tar
from distsdk.layers.unpack import apply, unpack

if TYPE_CHECKING:
    import tarfile
    from collections.abc import Callable
    from pathlib import Path

    from distsdk.layers.member import Member
    from distsdk.layers.merged import Overlay

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is unpacked on Windows")

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0

#: An entry: name, kind, fields.
Raw = tuple[str, str, dict[str, Any]]


def file(name: str, **fields: Any) -> Raw:  # noqa: ANN401 - as the fixture
    """An entry that is a file."""
    return name, "file", {"data": b"evil", **fields}


def symlink(name: str, to: str) -> Raw:
    """An entry that is a symbolic link."""
    return name, "symlink", {"to": to}


def hard_link(name: str, to: str) -> Raw:
    """An entry that is a hard link."""
    return name, "hard link", {"to": to}


def folder(name: str, **fields: Any) -> Raw:  # noqa: ANN401 - as the fixture
    """An entry that is a folder."""
    return name, "folder", fields


def too_long_to_resolve() -> list[Raw]:
    """CVE-2025-4517: links whose resolved path is longer than `os.path.realpath` looks at."""
    entries: list[Raw] = []
    steps, path = "abcdefghijklmnop", ""
    for step in steps:
        entries += [folder(f"{path}{'d' * 247}"), symlink(f"{path}{step}", "d" * 247)]
        path += "d" * 247 + "/"
    short = "/".join(steps) + "/" + "l" * 254
    up = "../" * len(steps)
    return [*entries, symlink(short, up), symlink("escape", f"{short}/../canary"), file("escape/new")]


CANARY = "{canary}"  # its absolute path

#: What falls for it, entries, and the error we end in, if any.
ATTACKS: dict[str, tuple[list[Raw], type[DistError] | None]] = {
    "dots": ([file("../canary/new")], Unsafe),
    "dots that go in first": ([folder("a"), file("a/../../canary/file")], Unsafe),
    "absolute name": ([file(CANARY + "/file")], None),
    "through a link": ([symlink("a", "../canary"), file("a/new")], None),
    "through an absolute link": ([symlink("a", CANARY), file("a/new")], None),
    "through a chain of links": ([symlink("b", "../canary"), symlink("a", "./b/."), file("a/new")], None),
    "through a link in a folder": ([folder("d"), symlink("d/a", "../../canary"), file("d/a/new")], None),
    "through a link to the root's parent": ([symlink("a", ".."), file("a/canary/new")], None),
    "through /proc": ([symlink("a", "/proc/self/cwd/canary"), file("a/new")], None),
    "into what a link leads to": ([symlink("a", "../canary/file"), file("a")], None),
    "into what a link would make": ([symlink("a", "../canary/new"), file("a")], None),
    "a folder through a link": ([symlink("a", "../canary"), folder("a/new")], None),
    "a link through a link": ([symlink("a", "../canary"), symlink("a/new", "x")], None),
    "a pipe through a link": ([symlink("a", "../canary"), ("a/new", "fifo", {})], None),
    "hard link to what is outside": ([hard_link("a", "../canary/file"), file("a")], Unsafe),
    "hard link, absolute": ([hard_link("a", CANARY + "/file"), file("a")], MalformedDocument),
    "hard link through a link": (
        [symlink("d", "../canary"), hard_link("a", "d/file"), file("a")],
        MalformedDocument,
    ),
    "hard link to a link": ([symlink("s", "../canary/file"), hard_link("a", "s"), file("a")], None),
    "hard link made through a link": ([file("f"), symlink("a", "../canary"), hard_link("a/new", "f")], None),
    "mode of what a link leads to": ([symlink("a", "../canary"), folder("a", mode=0o777)], None),
    "mode of a file that a link leads to": (
        [symlink("a", "../canary/file"), file("a", data=b"content", mode=0o6777)],
        None,
    ),
    "time of what a link leads to": ([symlink("a", "../canary/folder"), folder("a", mtime=1)], None),
    "owner of what a link leads to": ([symlink("a", "../canary/folder"), folder("a", uid=7, gid=7)], None),
    "attributes of what a link leads to": (
        [symlink("a", "../canary/folder"), folder("a", xattrs={"user.evil": "1"})],
        None,
    ),
    "attributes of a link": (
        [("a", "symlink", {"to": "../canary/folder", "xattrs": {"user.evil": "1"}})],
        None,
    ),
    "link in place of a folder": ([folder("a"), file("a/x"), symlink("a", "../canary"), file("a/new")], None),
    "link in place of a folder above": (
        [folder("a/b"), file("a/b/x"), symlink("a", "../canary"), file("a/folder/new")],
        None,
    ),
    "link in place of a folder, whose mode comes last": ([folder("a", mode=0o777), symlink("a", "../canary")], None),
    "link in place of a folder above one whose mode comes last": (
        [folder("a/folder", mode=0o777), symlink("a", "../canary")],
        None,
    ),
    "whiteout through a link": ([symlink("a", "../canary"), file("a/.wh.file")], None),
    "whiteout of a folder through a link": ([symlink("a", "../canary"), file("a/.wh.folder")], None),
    "opaque whiteout through a link": ([symlink("a", "../canary"), file("a/.wh..wh..opq")], None),
    "whiteout of the folder above": ([file(".wh...")], Unsafe),
    "whiteout of two folders above": ([folder("a"), file("a/../.wh...")], Unsafe),
    "folder in the way of a whiteout": ([symlink("a", ".."), file("a/.wh.canary")], None),
    "too long to resolve": (too_long_to_resolve(), None),
    "the root itself": ([symlink("a", "../canary"), hard_link("./a/new", "a")], None),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the canary, in which the target will be; it is the current one."""
    canary = tmp_path / "canary"
    (canary / "folder" / "deeper").mkdir(parents=True)
    for path in (canary / "file", canary / "folder" / "file"):
        path.write_text("content")
        path.chmod(0o640)
    (canary / "link").symlink_to("file")
    (tmp_path / "target").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def layers_of(
    entry: Callable[..., tuple[tarfile.TarInfo, bytes]], layer: Callable[..., bytes], place: Path
) -> Callable[[list[Raw]], bytes]:
    """Make a layer, with the canary's path put in."""

    def make(entries: list[Raw]) -> bytes:
        filled = []
        for name, kind, fields in entries:
            put = {
                key: text.replace(CANARY, f"{place}/canary") if key == "to" else text for key, text in fields.items()
            }
            filled.append(entry(name.replace(CANARY, f"{place}/canary"), kind, **put))
        return layer(*filled)

    return make


def naive(target: Path, *layers: bytes) -> None:
    """Extract layers with paths that are joined, as many an extractor does: it follows whatever is there."""
    folders = []
    for data in layers:
        for member, content in read_tar([data]):
            path = target / os.fsdecode(member.path)
            if path.name == ".wh..wh..opq":
                for child in list(path.parent.iterdir()):
                    remove(child)
                continue
            if path.name.startswith(".wh."):
                remove(path.parent / path.name.removeprefix(".wh."))
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if member.kind is Kind.FOLDER:
                path.mkdir(exist_ok=True)
                folders.append((path, member))
                for name, value in member.xattrs.items():
                    os.setxattr(path, name, value)
            elif member.kind is Kind.FILE:
                path.write_bytes(b"".join(content))
                path.chmod(member.mode)
            else:
                remove(path)
                naive_link(target, path, member)
    for path, member in folders:
        with suppress(FileNotFoundError):
            if ROOT:
                os.chown(path, member.uid, member.gid)
            path.chmod(member.mode)
            os.utime(path, ns=(member.mtime, member.mtime))


def naive_link(target: Path, path: Path, member: Member) -> None:
    """Make what is neither a file nor a folder."""
    link = os.fsdecode(member.link)
    if member.kind is Kind.SYMLINK:
        path.symlink_to(link)
        for name, value in member.xattrs.items():
            os.setxattr(path, name, value)
    elif member.kind is Kind.HARD_LINK:
        path.hardlink_to(target / link)
    else:
        os.mkfifo(path)


def remove(path: Path) -> None:
    """Remove whatever is there."""
    if path.is_dir() and not path.is_symlink():
        with suppress(FileNotFoundError):  # the way there, perhaps
            shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def outside(place: Path, seen: Callable[[Path], dict[str, tuple[object, ...]]]) -> dict[str, tuple[object, ...]]:
    """Look at all that is beside the target."""
    if not (place / "canary").exists():
        return {}
    beside = sorted(path.name for path in place.iterdir())
    return {"": (beside, place.stat().st_mode, place.stat().st_uid), **seen(place / "canary")}


def attempt(work: Callable[[], object], error: type[DistError] | None) -> None:
    """Do it; it has to end in the error."""
    if error is None:
        work()
    else:
        with pytest.raises(error):
            work()


@pytest.mark.parametrize("attack", ATTACKS)
def test_nothing_outside_changes(
    attack: str,
    place: Path,
    layers_of: Callable[[list[Raw]], bytes],
    seen: Callable[[Path], dict[str, tuple[object, ...]]],
) -> None:
    """In one layer, and with each entry in a layer of its own, as `apply` and as `unpack`."""
    entries, error = ATTACKS[attack]
    before = outside(place, seen)
    target = place / "target"
    attempt(lambda: apply(target, layers_of(entries)), error)
    assert before == outside(place, seen)
    shutil.rmtree(target)
    target.mkdir()
    before = outside(place, seen)
    attempt(lambda: unpack([layers_of([one]) for one in entries], target), error)
    assert before == outside(place, seen)
    attempt(lambda: apply(place / "new", layers_of(entries), dry_run=True), Unsafe if error is Unsafe else None)
    assert before == outside(place, seen)
    left = [path.name for path in target.iterdir()]
    assert (MARKER.decode() in left) is (error is not None and bool(left))


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_attacks_work(
    attack: str,
    place: Path,
    layers_of: Callable[[list[Raw]], bytes],
    seen: Callable[[Path], dict[str, tuple[object, ...]]],
) -> None:
    """An extractor that trusts names changes what is outside: each attack would be noticed."""
    if attack == "owner of what a link leads to" and not ROOT:
        pytest.skip("only the superuser changes owners")
    entries, _ = ATTACKS[attack]
    before = outside(place, seen)
    naive(place / "target", layers_of(entries))
    assert before != outside(place, seen)


def test_what_is_there_already_leads_nowhere(
    place: Path, layers_of: Callable[[list[Raw]], bytes], seen: Callable[[Path], dict[str, tuple[object, ...]]]
) -> None:
    """A tree in which somebody has put links before, as a container may, is no way out either (CVE-2018-15664)."""
    target = place / "target"
    (target / "etc").symlink_to("../canary")
    (target / "abs").symlink_to(place / "canary")
    before = outside(place, seen)
    apply(target, layers_of([file("etc/new"), file("abs/new"), file("etc/.wh.file"), folder("abs/folder", mode=0o777)]))
    assert before == outside(place, seen)
    assert (target / "canary/new").exists()
    assert (target / str(place).lstrip("/") / "canary/new").exists()


def test_a_file_with_another_name_outside_is_not_written_into(
    place: Path, layers_of: Callable[[list[Raw]], bytes]
) -> None:
    """What is replaced is unlinked, never opened: its content may be somebody else's too."""
    (place / "target/a").hardlink_to(place / "canary/file")
    apply(place / "target", layers_of([file("a", mode=0o777), hard_link("b", "a")]))
    assert ("content", 0o640, 1) == (
        (place / "canary/file").read_text(),
        (place / "canary/file").stat().st_mode & 0o7777,
        (place / "canary/file").stat().st_nlink,
    )
    assert "evil" == (place / "target/b").read_text()


# Somebody moves things about meanwhile


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_links_that_appear_between_entries(
    number: int,
    place: Path,
    layers_of: Callable[[list[Raw]], bytes],
    seen: Callable[[Path], dict[str, tuple[object, ...]]],
) -> None:
    """Before any of the entries a folder is moved away, and a link to the canary put in its place."""
    entries = [folder("a"), file("a/1"), file("a/folder/2"), file("a/.wh.file"), file("a/.wh.folder")]
    before = outside(place, seen)
    target = place / "target"
    count = 0

    def swap(_: object) -> None:
        nonlocal count
        if count == number:
            (target / "a").rename(target / "moved")
            (target / "a").symlink_to("../canary")
        count += 1

    apply(target, layers_of(entries), on_progress=swap)
    assert before == outside(place, seen)


def test_a_folder_that_is_moved_out_while_it_is_removed(
    place: Path, layers_of: Callable[[list[Raw]], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The way up leads to where it was moved: that is noticed, and nothing is removed there."""
    deep = place / "target/a/b/c/d"
    deep.mkdir(parents=True)
    sweep = RootfsWriter._sweep

    def moving(self: RootfsWriter, opened: int, path: bytes, keep: set[int] | None) -> Any:  # noqa: ANN401 - private
        found = sweep(self, opened, path, keep)
        if path == b"a/b/c/d":
            (place / "target/a/b/c").rename(place / "canary/folder/c")
        return found

    monkeypatch.setattr(RootfsWriter, "_sweep", moving)
    with pytest.raises(Unsafe, match="another process moved it"):
        apply(place / "target", layers_of([file(".wh.a")]))
    assert {"file", "deeper", "c"} == {path.name for path in (place / "canary/folder").iterdir()}
    assert (place / "target/a/b").is_dir()


# Special names and kinds


@pytest.mark.parametrize(
    ("entries", "error"),
    [
        ([file(".")], Unsafe),
        ([symlink("./", "/")], Unsafe),
        ([file("/")], Unsafe),
        ([file(MARKER.decode())], Unsafe),
        ([file("a/" + MARKER.decode())], Unsafe),
        ([folder(MARKER.decode().upper())], Unsafe),
        ([symlink("a", "a"), file("a/x")], Unsafe),
        ([symlink("a", "b"), symlink("b", "a"), file("a/x")], Unsafe),
        ([symlink(f"{n}", f"{n + 1}") for n in range(41)] + [file("0/x")], Unsafe),
        ([file("a"), file("a/b")], MalformedDocument),
        ([file("a"), symlink("b", "a"), file("b/c")], MalformedDocument),
        ([hard_link("a", "missing")], MalformedDocument),
        ([hard_link("a", "missing/too")], MalformedDocument),
        ([file(".wh.")], Unsafe),
        ([file("a/.wh..")], Unsafe),
        ([file(".wh.a/b")], Unsafe),
        ([file("x" * 4097)], LimitExceeded),
    ],
)
def test_entries_that_are_refused(
    entries: list[Raw], error: type[DistError], place: Path, layers_of: Callable[[list[Raw]], bytes]
) -> None:
    """The root as a file, the marker's name, links in a circle, files as folders, links to nothing."""
    with pytest.raises(error) as caught:
        apply(place / "target", layers_of(entries))
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("to", ["a", "./a", "/a", "b/../a"])
def test_a_hard_link_to_itself(to: str, place: Path, layers_of: Callable[[list[Raw]], bytes]) -> None:
    """It stays what it is; dots are refused in the names that links go to as well."""
    attempt(lambda: apply(place / "target", layers_of([file("a"), hard_link("a", to)])), Unsafe if ".." in to else None)
    assert b"evil" == (place / "target/a").read_bytes()


@pytest.mark.parametrize(
    "entries",
    [
        [folder("a"), hard_link("b", "a")],
        [folder("a"), file("b"), hard_link("b", "a")],
        [folder("a"), folder("b"), hard_link("b", "a")],
        [folder("a"), hard_link("a", "a")],
        [file("a/b"), hard_link("c", "a")],
        [hard_link("b", ".")],
    ],
)
def test_a_hard_link_to_a_directory(
    entries: list[Raw],
    place: Path,
    layers_of: Callable[[list[Raw]], bytes],
    merged: Callable[..., Overlay],
) -> None:
    """A hard link to a directory is malformed, on disk and in the merged tree, and the error says why."""
    packed = layers_of(entries)
    with pytest.raises(MalformedDocument, match=r"is a hard link to '.', which is a directory"):
        apply(place / "target", packed)
    with pytest.raises(MalformedDocument, match=r"is a hard link to '.', which is a directory"):
        merged(packed).ls()


@pytest.mark.parametrize("dry_run", [False, True])
@pytest.mark.parametrize("to", [MARKER.decode(), f"a/{MARKER.decode()}", f"./{MARKER.decode().upper()}"])
def test_a_hard_link_to_the_marker(
    to: str, dry_run: bool, place: Path, layers_of: Callable[[list[Raw]], bytes]
) -> None:
    """A layer gets no second name for the marker of an unfinished tree, by which it could outlast it."""
    packed = layers_of([symlink("a", "."), hard_link("b", to)])
    with pytest.raises(Unsafe, match=r"hard link .* refused: .* marker of incomplete trees"):
        apply(place / "target", packed, dry_run=dry_run)


def test_names_that_differ_in_case_or_form(place: Path, layers_of: Callable[[list[Raw]], bytes]) -> None:
    """They are what the file system takes them for; a link under one of them is no way out under the other."""
    entries = [symlink("A", "../canary"), file("a/new"), symlink("\u00e9", "../canary"), file("e\u0301/new")]
    before = sorted(path.name for path in (place / "canary").iterdir())
    apply(place / "target", layers_of(entries))
    assert before == sorted(path.name for path in (place / "canary").iterdir())


@pytest.mark.slow
def test_a_tree_deeper_than_any_path(place: Path, layers_of: Callable[[list[Raw]], bytes]) -> None:
    """Links take entries deeper than a path can be; a whiteout removes it all with few descriptors."""
    entries: list[Raw] = [symlink("0", ".")]
    for number in range(30):
        deep = f"{number}/" + "/".join(["d"] * 100)
        entries += [folder(deep), symlink(f"{number + 1}", deep)]
    layers = [layers_of([*entries, file("30/bottom")]), layers_of([file(".wh.d")])]
    limit = 400
    import resource

    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        unpack(layers, place / "target")
        assert {f"{number}" for number in range(31)} == {path.name for path in (place / "target").iterdir()}
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
        # What a failure leaves is deeper than Python can remove, and would end every later run of pytest.
        subprocess.run(["rm", "-rf", place / "target"], check=True)


def test_device_nodes_are_left_out(place: Path, layers_of: Callable[[list[Raw]], bytes]) -> None:
    """And counted; what was there under their names is gone all the same."""
    entries: list[Raw] = [
        file("null"),
        ("null", "character device", {"devmajor": 1, "devminor": 3}),
        ("disk", "block device", {"devmajor": 8, "devminor": 0}),
    ]
    result = apply(place / "target", layers_of(entries))
    assert (2, 3) == (result.devices_skipped, result.entries)
    assert [] == list((place / "target").iterdir())
    assert any("2 device nodes" in note for note in result.notes())


def test_writing_a_file_where_a_pipe_is_waits_for_nobody(place: Path, layers_of: Callable[[list[Raw]], bytes]) -> None:
    """It takes the pipe's place."""
    apply(place / "target", layers_of([("a", "fifo", {}), file("a"), ("b", "fifo", {}), hard_link("c", "b")]))
    assert (place / "target/a").is_file()
    assert (place / "target/c").is_fifo()


@pytest.mark.skipif(not ROOT, reason="only the superuser mounts")
def test_a_mounted_file_system_is_not_emptied(place: Path, layers_of: Callable[[list[Raw]], bytes]) -> None:
    """A whiteout of a folder in which one is mounted is refused."""
    from subprocess import run

    mounted = place / "target/a/mounted"
    mounted.mkdir(parents=True)
    if run(["mount", "-t", "tmpfs", "tmpfs", mounted], check=False).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        (mounted / "file").touch()
        with pytest.raises(Unsafe, match="removal of 'a/mounted' refused"):
            apply(place / "target", layers_of([file(".wh.a")]))
        assert (mounted / "file").exists()
    finally:
        run(["umount", mounted], check=True)
