"""dist:// paths: what they name, what reading them costs, and what fsspec's own suite asks of a filesystem to read."""

from __future__ import annotations

import errno
import gzip
import hashlib
import inspect
import io
import json
import os
import random
import subprocess
import sys
import tarfile
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.tests.abstract import AbstractFixtures, AbstractGetTests

from distsdk import Descriptor, Digest, Store, pull
from distsdk.errors import (
    DigestMismatch,
    InvalidDigest,
    InvalidReference,
    LimitExceeded,
    MalformedDocument,
    RegistryError,
    Unreachable,
    Unsafe,
)
from distsdk.fsspec import DistFileSystem, escape, parse_reference, split, unescape
from distsdk.spec.media_types import OCI_EMPTY, OCI_LAYER_GZIP, OCI_MANIFEST
from distsdk.testing import Cut, Registry, Request, Response, Stall, Status, WrongBytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOISE = random.Random(7).randbytes(3_000_000)
DATA = Path(__file__).parents[1] / "data" / "layers"
BLOBS = r"/blobs/"
TITLE = "org.opencontainers.image.title"
STRANGE = ["a::b", "a:b", "a#b", "a?b", "a%b", "a%3Ab", "100%", "a b", "é", "\\x", "new\nline", "[", "@at", "a*"]


def archive(files: dict[str, bytes], links: dict[str, str] | None = None, *, mtime: int = 1_600_000_000) -> bytes:
    """Return a layer of files, folders (``/`` at the end) and symbolic links, compressed."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            info.size, info.mtime = len(data), mtime
            tar.addfile(info, io.BytesIO(data))
        for name, target in (links or {}).items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.SYMTYPE, target
            tar.addfile(info)
    return gzip.compress(buffer.getvalue(), mtime=0)


@pytest.fixture(scope="module")
def served() -> Iterator[Registry]:
    """A registry for all of these tests; each puts there what it needs."""
    with Registry() as registry:
        yield registry


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """The variables of a new shell, and caches of the test's own."""
    for name in [name for name in os.environ if name.startswith("DISTSDK_") or name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    yield
    DistFileSystem.clear_instance_cache()


#: fsspec's memory-mapped cache leaves it to the collector to close its file.
lets_files_lie = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture
def registry(served: Registry) -> Registry:
    """The registry, with nothing going wrong, and nothing counted."""
    served.clear_faults()
    served.reset()
    return served


@pytest.fixture
def fs() -> DistFileSystem:
    """A filesystem that knows nothing."""
    return DistFileSystem(skip_instance_cache=True)


def push(registry: Registry, name: str, layers: list[tuple[str | None, bytes, dict[str, str]]], **more: Any) -> str:  # noqa: ANN401
    """Push an artifact of titles, contents and annotations, and return its path."""
    described = []
    for title, data, notes in layers:
        media_type = OCI_LAYER_GZIP if notes else "application/octet-stream"
        fields = registry.add_blob(name, data, media_type=media_type).to_fields()
        described.append(fields | {"annotations": notes | ({} if title is None else {TITLE: title})})
    config = registry.add_blob(name, b"{}", media_type=OCI_EMPTY).to_fields()
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": described, **more}
    registry.add_manifest(name, manifest, OCI_MANIFEST, tags=["1"])
    return f"dist://{registry.locator(name)}:1"


# fsspec's own suite


FOLDERS: dict[str, bytes] = {
    **dict.fromkeys(("bulk/file1", "bulk/file2", "bulk/subdir/subfile1", "bulk/subdir/subfile2"), b""),
    "bulk/subdir/nesteddir/nestedfile": b"",
    **{f"edge/{name}": b"" for name in ("file1", "file2")},
    **{
        f"edge/subdir{number}/{name}": b""
        for number in range(2)
        for name in ("subfile1", "subfile2", "nesteddir/nestedfile")
    },
    **dict.fromkeys(("prefix/subdir.txt", "prefix/subdir/subfile.txt"), b""),
    **{
        f"ten/{hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()}.txt": str(number).encode()
        for number in range(10)
    },
}


class Fixtures(AbstractFixtures):  # type: ignore[misc] # fsspec has no types
    """The folders that fsspec's tests are about, already there: nobody has to write them."""

    @pytest.fixture(params=["image", "artifact"])
    def fs_path(self, request: pytest.FixtureRequest, registry: Registry) -> str:
        """Where they are: in an image, and as the layers of an artifact."""
        if request.param == "image":
            registry.add_image("suite", "1", layers=[archive(FOLDERS)])
            return f"{registry.locator('suite')}:1"
        registry.add_artifact("suite/artifact", "1", artifact_type="a/b", files=FOLDERS)
        return f"{registry.locator('suite/artifact')}:1"

    @pytest.fixture
    def fs(self) -> DistFileSystem:
        """The filesystem."""
        return DistFileSystem(skip_instance_cache=True)

    @pytest.fixture
    def fs_join(self) -> Callable[..., str]:
        """Join paths."""
        return lambda *parts: "/".join(parts)

    @pytest.fixture
    def supports_empty_directories(self) -> bool:
        """An artifact has none."""
        return False

    @pytest.fixture
    def fs_bulk_operations_scenario_0(self, fs_path: str) -> str:
        """Where it is."""
        return f"{fs_path}/bulk"

    @pytest.fixture
    def fs_glob_edge_cases_files(self, fs_path: str) -> str:
        """Where they are."""
        return f"{fs_path}/edge"

    @pytest.fixture
    def fs_dir_and_file_with_same_name_prefix(self, fs_path: str) -> str:
        """Where they are."""
        return f"{fs_path}/prefix"

    @pytest.fixture
    def fs_10_files_with_hashed_names(self, fs_path: str) -> str:
        """Where they are."""
        return f"{fs_path}/ten"


class TestGet(Fixtures, AbstractGetTests):  # type: ignore[misc] # fsspec has no types
    """All of fsspec's tests of `get`."""

    def test_get_directory_recursive(self) -> None:
        """It makes the folder that it gets: `test_get_brings_folders` does the rest."""


def test_the_suite_is_whole() -> None:
    """Of fsspec's tests of `get`, none but the one that writes is left out."""
    own = {name for name in vars(TestGet) if name.startswith("test_")}
    theirs = {name for name, _ in inspect.getmembers(AbstractGetTests, inspect.isfunction) if name.startswith("test_")}
    assert {"test_get_directory_recursive"} == own
    assert own < theirs


@pytest.mark.parametrize("kind", ["image", "artifact"])
def test_get_brings_folders(fs: DistFileSystem, registry: Registry, tmp_path: Path, kind: str) -> None:
    """A folder, to one that is not there, with or without a slash, and into one that is: fsspec's test."""
    if kind == "image":
        registry.add_image("suite", "1", layers=[archive(FOLDERS)])
    else:
        registry.add_artifact("suite", "1", artifact_type="a/b", files=FOLDERS)
    source = f"dist://{registry.locator('suite')}:1/bulk"
    expected = sorted(name.removeprefix("bulk/") for name in FOLDERS if name.startswith("bulk/"))
    for name, below in (("new", ""), ("new", "bulk/")):
        fs.get(source, str(tmp_path / name), recursive=True)
        found = [path.relative_to(tmp_path / name) for path in (tmp_path / name).rglob("*") if path.is_file()]
        assert [f"{below}{path}" for path in expected] == [str(p) for p in sorted(found) if str(p).startswith(below)][
            -5:
        ]
    fs.get(f"{source}/", str(tmp_path / "slash"), recursive=True)
    assert expected == sorted(
        str(p.relative_to(tmp_path / "slash")) for p in (tmp_path / "slash").rglob("*") if p.is_file()
    )


# Paths


@pytest.mark.parametrize(
    ("path", "reference", "inner"),
    [
        ("docker.io/library/redis:7/etc/os-release", "docker.io/library/redis:7", "etc/os-release"),
        ("localhost:5000/a:1", "localhost:5000/a:1", ""),
        ("localhost:5000/a:1/b:2/c@d", "localhost:5000/a:1", "b:2/c@d"),
        ("[::1]:5000/a/b:1/c", "[::1]:5000/a/b:1", "c"),
        ("[%3A%3A1]:5000/a:1/c", "[::1]:5000/a:1", "c"),
        ("[0:0:0:0:0:0:0:1]/a:1/c", "[0:0:0:0:0:0:0:1]/a:1", "c"),
        (f"ghcr.io/o/r@sha256:{'a' * 64}/x", f"ghcr.io/o/r@sha256:{'a' * 64}", "x"),
        (f"ghcr.io/o/r:v1@sha256:{'a' * 64}/x", f"ghcr.io/o/r:v1@sha256:{'a' * 64}", "x"),
    ],
)
def test_what_a_path_names(path: str, reference: str, inner: str) -> None:
    """The first segment is the host; the next one with a colon or an at sign ends the reference."""
    name, rest = split(path)
    assert (reference, inner) == (str(parse_reference(name)), rest)


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("", "names no image"),
        ("docker.io", "names no image"),
        ("docker.io/library/redis", "names no image"),
        ("docker.io/library/redis/etc/passwd", "names no image"),
        ("redis:7", "names no image"),
        ("redis:7/etc/passwd", "names no image"),
        ("library/redis:7/x", "no host"),
        ("docker.io/redis:7/x", "library/redis"),
        ("index.docker.io/library/redis:7/x", "docker.io"),
        ("/a:1/x", "no host"),
        ("ghcr.io/Org/x:1", "upper-case"),
        ("ghcr.io/x:sha256:abc/y", "not a tag"),
        ("ghcr.io/x@1/y", "not a digest"),
        ("ghcr.io/x:/y", "not a tag"),
        ("ghcr.io:99999/x:1", "port"),
        ("me:secret@ghcr.io/x:1", "host alone"),
    ],
)
def test_what_names_nothing(fs: DistFileSystem, path: str, said: str) -> None:
    """Neither host nor tag is guessed: there is no such file, and the message says why; nobody is asked."""
    with pytest.raises(FileNotFoundError, match=said) as caught:
        fs.info(f"dist://{path}")
    assert isinstance(caught.value.__cause__, InvalidReference | InvalidDigest)
    assert "secret" not in str(caught.value)
    assert not fs.exists(f"dist://{path}")
    assert [] == list(fs.walk(f"dist://{path}"))


@pytest.mark.parametrize("name", [*STRANGE, os.fsdecode(b"\xff"), "\u202eevil", "a/b:c"])
def test_names_are_escaped_and_read_back(name: str) -> None:
    """Whatever a name is, its escape can be chained, joined and shown, and leads back to it."""
    escaped = escape(name)
    assert name == unescape(escaped)
    assert escaped.isprintable()
    assert not set(":#?\\") & set(escaped)
    assert escaped.encode()


def test_unstrip_gives_back_what_strip_took(fs: DistFileSystem) -> None:
    """A path loses its protocol, and nothing else."""
    for path in ("docker.io/library/redis:7/etc/passwd", "[::1]:5000/a:1/b", "h.io/a@sha256:1/b%3Ac", "h.io/a:1"):
        assert f"dist://{path}" == fs.unstrip_protocol(fs._strip_protocol(f"dist://{path}"))
        assert path == fs._strip_protocol(f"dist://{path}")
        assert path == fs._strip_protocol(f"{path}/")


@pytest.mark.slow
def test_strange_names_work_everywhere(fs: DistFileSystem, registry: Registry) -> None:
    """Each name that `ls` gives is opened by it, also by `fsspec.open`, in a chain, from an image and an artifact."""
    files = {f"dir/{name}": name.encode() for name in STRANGE}
    registry.add_image("strange", "1", layers=[archive(files)])
    registry.add_artifact("strange/artifact", "1", artifact_type="a/b", files=files)
    for name in ("strange", "strange/artifact"):
        found = fs.ls(f"dist://{registry.locator(name)}:1/dir", detail=False)
        assert sorted(STRANGE) == sorted(unescape(path.rpartition("/")[2]) for path in found)
        for path in found:
            expected = unescape(path.rpartition("/")[2]).encode()
            assert expected == fs.open(path).read() == fs.cat_file(fs.unstrip_protocol(path))
            assert path == fs.info(path)["name"]
            with fsspec.open(f"simplecache::dist://{path}") as file:
                assert expected == file.read()


def test_an_ipv6_host(fs: DistFileSystem, registry: Registry) -> None:
    """An address in brackets is a host; in a chain, where ``::`` parts, its colons are escaped or its zeros written."""
    for host in ("[::1]", "[0:0:0:0:0:0:0:1]", "[%3A%3A1]"):
        with pytest.raises(Unreachable):
            fs.info(f"dist://{host}:9/a:1/b")
    for host in ("[0:0:0:0:0:0:0:1]", "[%3A%3A1]"):
        chained, path = fsspec.core.url_to_fs(f"simplecache::dist://{host}:9/a:1/b")
        assert f"{host}:9/a:1/b" == path
        with pytest.raises(Unreachable):
            chained.fs.info(path)
    assert registry.count() == 0


# Images


def test_an_image_is_its_merged_tree(fs: DistFileSystem, registry: Registry) -> None:
    """Upper layers replace and remove; types, sizes, modes and times are those of the entries."""
    lower = archive({"etc/": b"", "etc/a": b"old", "etc/gone": b"x", "top": b"1234"})
    upper = archive({"etc/a": b"newer", "etc/.wh.gone": b""}, mtime=1_700_000_000)
    registry.add_image("merged", "1", layers=[lower, upper], config={"created": "2024-05-06T07:08:09Z"})
    base = f"dist://{registry.locator('merged')}:1"
    assert [f"{registry.locator('merged')}:1/{name}" for name in ("etc/a", "top")] == fs.find(base)
    assert b"newer" == fs.cat(f"{base}/etc/a")
    info = fs.info(f"{base}/etc/a")
    assert (5, "file", 0o644, 1_700_000_000) == (info["size"], info["type"], info["mode"], info["mtime"])
    assert "directory" == fs.info(base)["type"] == fs.info(f"{base}/etc")["type"]
    assert datetime.fromtimestamp(1_700_000_000, UTC) == fs.modified(f"{base}/etc/a")
    assert datetime(2024, 5, 6, 7, 8, 9, tzinfo=UTC) == fs.created(f"{base}/etc/a")
    assert 9 == fs.du(base)
    with pytest.raises(FileNotFoundError):
        fs.cat(f"{base}/etc/gone")
    with pytest.raises(IsADirectoryError):
        fs.open(f"{base}/etc")


def test_symbolic_links_are_followed(fs: DistFileSystem, registry: Registry) -> None:
    """A link is what it leads to; one in a circle, or to nowhere, is neither file nor folder, and no walk gets lost."""
    links = {"file": "etc/a", "folder": "/etc", "self": ".", "up": "etc/../etc", "nowhere": "x", "circle": "circle"}
    registry.add_image("links", "1", layers=[archive({"etc/": b"", "etc/a": b"abc"}, links)])
    base = f"{registry.locator('links')}:1"
    types = {info["name"].removeprefix(f"{base}/"): info["type"] for info in fs.ls(base)}
    expected = {"etc": "directory", "file": "file", "folder": "directory", "self": "directory", "up": "directory"}
    assert expected | {"nowhere": "other", "circle": "other"} == types
    info = fs.info(f"{base}/file")
    assert (3, "file", True, "etc/a") == (info["size"], info["type"], info["islink"], info["destination"])
    assert b"abc" == fs.cat(f"{base}/file") == fs.cat(f"{base}/folder/a") == fs.cat(f"{base}/self/self/up/a")
    assert [f"{base}/{name}" for name in ("circle", "etc/a", "file", "nowhere")] == fs.find(base)
    assert [f"{base}/folder/a"] == fs.find(f"{base}/folder")
    assert not fs.exists(f"{base}/nowhere")


def test_recursive_calls_pass_over_dangling_links(
    fs: DistFileSystem, registry: Registry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Recursive get skips and counts symbolic links to nothing, du counts them as empty, cat leaves them out."""
    links = {"etc/mtab": "/proc/mounts", "etc/circle": "circle", "etc/good": "a"}
    registry.add_image("dangling", "1", layers=[archive({"etc/": b"", "etc/a": b"one", "etc/b": b"four"}, links)])
    base = f"{registry.locator('dangling')}:1"
    fs.get(f"{base}/etc", str(tmp_path / "etc"), recursive=True)
    assert {"a": b"one", "b": b"four", "good": b"one"} == {p.name: p.read_bytes() for p in (tmp_path / "etc").iterdir()}
    [message] = caplog.messages
    assert message.startswith("2 entries not written: neither file nor directory")
    assert message.endswith(f"the first is '{base}/etc/circle'")
    fs.get(f"{base}/etc/*", f"{tmp_path}/pattern/")
    assert ["a", "b", "good"] == sorted(p.name for p in (tmp_path / "pattern").iterdir())
    assert 10 == fs.du(f"{base}/etc")
    sizes = {"a": 3, "b": 4, "circle": 0, "good": 3, "mtab": 0}
    assert {f"{base}/etc/{name}": size for name, size in sizes.items()} == fs.du(f"{base}/etc", total=False)
    assert {f"{base}/etc/{name}" for name in ("a", "b", "good")} == set(fs.cat(f"{base}/etc", recursive=True))


def test_a_dangling_link_by_its_name(fs: DistFileSystem, registry: Registry, tmp_path: Path) -> None:
    """The info of a dangling link is that of ls; the link does not exist, and reading it is an error."""
    registry.add_image("dangling", "2", layers=[archive({"a": b"one"}, {"link": "nowhere"})])
    base = f"{registry.locator('dangling')}:2"
    info = fs.info(f"{base}/link")
    assert info in fs.ls(base)
    assert ("other", 0, "nowhere") == (info["type"], info["size"], info["destination"])
    assert not fs.exists(f"{base}/link")
    for read in (fs.cat_file, fs.open, lambda path: fs.get(path, str(tmp_path / "x"))):
        with pytest.raises(FileNotFoundError):
            read(f"{base}/link")
    assert [] == list(tmp_path.glob("x*"))


def test_a_look_at_an_image_costs_what_it_must(fs: DistFileSystem, registry: Registry) -> None:
    """A file of the top layer leaves the layer below alone; the second look at the same image costs nothing."""
    lower, upper = archive({"big": NOISE}), archive({"etc/small": b"abc"})
    registry.add_image("lazy", "1", layers=[lower, upper])
    base = f"dist://{registry.locator('lazy')}:1"
    assert b"abc" == fs.cat(f"{base}/etc/small")
    assert registry.count_bytes(path=BLOBS) < len(upper) * 3 + 5000
    count = registry.count()
    assert fs.isfile(f"{base}/etc/small")
    assert 3 == fs.size(f"{base}/etc/small")
    assert registry.count() == count


def test_ranges_of_a_file_in_a_layer_with_a_table_of_contents(fs: DistFileSystem, registry: Registry) -> None:
    """A few bytes of a file take the chunk they are in, which the manifest vouches for."""
    described: dict[str, Any] = json.loads((DATA / "descriptors.json").read_text())
    data = (DATA / "estargz").read_bytes()
    diff_id = str(Digest.of(gzip.decompress(data)))
    config = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [diff_id]}}
    registry.add_blob("toc", data)
    config_fields = registry.add_blob(
        "toc", json.dumps(config).encode(), media_type="application/vnd.oci.image.config.v1+json"
    ).to_fields()
    layer = Descriptor.from_fields(described["estargz"], where="").to_fields()
    manifest = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config_fields, "layers": [layer]}
    registry.add_manifest("toc", manifest, OCI_MANIFEST, tags=["1"])
    fs = DistFileSystem(strict=True, platform="linux/amd64", skip_instance_cache=True)
    files = fs.find(f"dist://{registry.locator('toc')}:1", detail=True)
    name, info = max(((n, i) for n, i in files.items() if i["type"] == "file"), key=lambda pair: pair[1]["size"])
    with fs.open(name) as file:
        assert file.read(10) == fs.cat_file(name, 0, 10)
        assert "chunk-verified" == file.trust
    assert hashlib.sha256(fs.cat(name)).hexdigest() == info["digest"].removeprefix("sha256:")


def test_the_platform_is_chosen(registry: Registry) -> None:
    """An index leads to the child for the platform; where it has none, there is no such file, and the message lists."""
    images = [
        registry.add_image("multi", layers=[archive({"arch": name.encode()})], platform=name)
        for name in ("linux/arm64", "linux/s390x")
    ]
    registry.add_index("multi", "1", manifests=images)
    path = f"dist://{registry.locator('multi')}:1/arch"
    for name in ("linux/arm64", "linux/s390x"):
        assert name.encode() == DistFileSystem(platform=name).cat(path)
    with pytest.raises(FileNotFoundError, match="linux/arm64, linux/s390x"):
        DistFileSystem(platform="linux/386").cat(path)
    with pytest.raises(ValueError, match="platform"):
        DistFileSystem(platform="")


# Artifacts


def test_an_artifact_is_its_layers_by_title(fs: DistFileSystem, registry: Registry) -> None:
    """A slash in a title makes a folder; what has no title has its digest for a name; the filler is no file."""
    base = push(
        registry,
        "titles",
        [("a/b/c.bin", b"one", {}), ("/a/./d", b"two", {}), (None, b"three", {})],
        annotations={"org.opencontainers.image.created": "2020-01-02T03:04:05Z"},
    )
    digest = hashlib.sha256(b"three").hexdigest()
    found = fs.find(base, detail=True)
    names = [name.removeprefix(base.removeprefix("dist://")) for name in found]
    assert ["/a/b/c.bin", "/a/d", f"/sha256-{digest}"] == names
    assert [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in (b"one", b"two", b"three")] == [
        info["digest"] for info in found.values()
    ]
    assert b"one" == fs.cat(f"{base}/a/b/../b/./c.bin")
    assert datetime(2020, 1, 2, 3, 4, 5, tzinfo=UTC) == fs.modified(f"{base}/a/d") == fs.created(f"{base}/a/d")
    with pytest.raises(FileNotFoundError):
        fs.cat(f"{base}/a/d/e")
    with pytest.raises(IsADirectoryError):
        fs.cat_file(f"{base}/a")
    registry.add_artifact("empty", "1", artifact_type="a/b")
    assert [] == fs.ls(f"dist://{registry.locator('empty')}:1")
    assert datetime(1970, 1, 1, tzinfo=UTC) == fs.modified(f"dist://{registry.locator('empty')}:1")


@pytest.mark.parametrize(
    ("titles", "error"),
    [
        (["../../etc/passwd"], Unsafe),
        (["a/../../b"], Unsafe),
        (["a\0b"], Unsafe),
        (["same", "same"], MalformedDocument),
        (["same", "./same"], MalformedDocument),
        (["a", "a/b"], MalformedDocument),
        (["a/b", "a"], MalformedDocument),
        (["a/" * 2100 + "b"], LimitExceeded),
    ],
)
def test_hostile_titles_are_refused(
    fs: DistFileSystem, registry: Registry, titles: list[str], error: type[Exception]
) -> None:
    """A title that leads out, a place that two layers want, or a path that is none, are errors before any is read."""
    base = push(registry, "hostile", [(title, str(n).encode(), {}) for n, title in enumerate(titles)])
    with pytest.raises(error):
        fs.ls(base)
    assert registry.count(path=BLOBS) == 0


@pytest.mark.slow
def test_a_deep_title_is_no_recursion(fs: DistFileSystem, registry: Registry, tmp_path: Path) -> None:
    """As many folders as a path may have are walked through, up and down."""
    base = push(registry, "deep", [("a/" * 2000 + "b", b"x", {})])
    assert [f"{base}/{'a/' * 2000}b".removeprefix("dist://")] == fs.find(base)
    assert 2001 == len(list(fs.walk(base, topdown=False)))
    registry.add_image("deep/image", "1", layers=[archive({"a/" * 1000 + "b": b"x"})])
    assert 1001 == len(list(fs.walk(f"dist://{registry.locator('deep/image')}:1")))


@pytest.mark.parametrize(
    ("title", "inside"), [("set", "set/"), ("path/set", "path/set/"), ("path/set", "set/"), ("set", ""), ("set", "./")]
)
def test_a_folder_that_oras_packed_is_a_folder(fs: DistFileSystem, registry: Registry, title: str, inside: str) -> None:
    """Its files are below its title, however the archive names them; it is not fetched before."""
    packed = archive({f"{inside}x.bin": NOISE[:5000], f"{inside}deep/y": b"y"}, {f"{inside}link": "deep/y"})
    annotations = {
        "io.deis.oras.content.unpack": "true",
        "io.deis.oras.content.digest": str(Digest.of(gzip.decompress(packed))),
    }
    base = push(registry, "packed", [(title, packed, annotations), ("plain.txt", b"plain", {})])
    assert sorted([title.partition("/")[0], "plain.txt"]) == [
        path.rpartition("/")[2] for path in fs.ls(base, detail=False)
    ]
    assert fs.isdir(f"{base}/{title}")
    assert registry.count(path=BLOBS) == 0
    names = [path.removeprefix(f"{base}/{title}/".removeprefix("dist://")) for path in fs.find(f"{base}/{title}")]
    assert ["deep/y", "link", "x.bin"] == names
    assert NOISE[:5000] == fs.cat(f"{base}/{title}/x.bin")
    assert b"y" == fs.cat(f"{base}/{title}/link")
    with fs.open(f"{base}/{title}/x.bin") as file:
        assert NOISE[4000:4010] == (file.seek(4000), file.read(10))[1]
        assert "chunk-verified" == file.trust


def test_a_packed_folder_is_held_against_its_digest(fs: DistFileSystem, registry: Registry) -> None:
    """What it unpacks to has to be what the annotation says; one that is no digest is no help."""
    packed = archive({"set/x": b"x"})
    for text, error in ((str(Digest.of(b"another")), DigestMismatch), ("md5:1", MalformedDocument)):
        annotations = {"io.deis.oras.content.unpack": "true", "io.deis.oras.content.digest": text}
        base = push(registry, "wrong", [("set", packed, annotations)])
        fs.invalidate_cache()
        with pytest.raises(error):
            fs.ls(f"{base}/set")


# Reading


@pytest.fixture
def noise(registry: Registry) -> str:
    """Return the path of 3 MB in an artifact."""
    registry.add_artifact("noise", "1", artifact_type="a/b", files={"noise.bin": NOISE, "b/small": b"small"})
    registry.reset()
    return f"dist://{registry.locator('noise')}:1/noise.bin"


def test_a_range_costs_a_range(fs: DistFileSystem, registry: Registry, noise: str) -> None:
    """A jump costs what is read and a block more; the rest of three megabytes stays where it is."""
    with fs.open(noise, block_size=4096) as file:
        file.seek(-100_000, 2)
        assert NOISE[-100_000:-99_000] == file.read(1000)
        file.seek(500_000)
        assert NOISE[500_000:501_000] == file.read(1000)
        assert "unverified" == file.trust
    assert registry.count_bytes(path=BLOBS) < 400_000
    registry.reset()
    assert NOISE[10:20] == fs.cat_file(noise, 10, 20)
    assert NOISE[-10:] == fs.cat_file(noise, -10)
    assert NOISE[-10:-5] == fs.cat_file(noise, -10, -5)
    assert b"" == fs.cat_file(noise, 20, 10) == fs.cat_file(noise, len(NOISE) + 5)
    assert 25 == registry.count_bytes(path=BLOBS)


def test_reading_on_takes_few_requests(fs: DistFileSystem, registry: Registry, noise: str) -> None:
    """In small pieces from front to back: the ranges grow, and at the end the digest was checked."""
    with fs.open(noise) as file:
        parts = list(iter(lambda: file.read(10_000), b""))
        assert "verified" == file.trust
    assert NOISE == b"".join(parts)
    assert registry.count(path=BLOBS) <= 12
    assert registry.count_bytes(path=BLOBS) <= len(NOISE)


@pytest.mark.parametrize(
    "cache_type", ["none", "readahead", "bytes", "mmap", "blockcache", "background", "all", "first"]
)
@lets_files_lie
def test_the_caches_of_fsspec(fs: DistFileSystem, noise: str, cache_type: str) -> None:
    """Each of them reads the same, forwards, backwards and again."""
    with fs.open(noise, block_size=50_000, cache_type=cache_type) as file:
        for start, end in ((0, 10), (2_000_000, 2_200_000), (100, 200_000), (len(NOISE) - 5, len(NOISE)), (0, 10)):
            file.seek(start)
            assert NOISE[start:end] == file.read(end - start)


def test_lines_and_text(fs: DistFileSystem, registry: Registry) -> None:
    """A text is read line by line, decoded, and decompressed."""
    text = "".join(f"zeile {number} ä\n" for number in range(50_000))
    packed = gzip.compress(text.encode())
    base = push(registry, "text", [("t.txt", text.encode(), {}), ("t.txt.gz", packed, {})])
    assert text.splitlines(keepends=True) == list(fs.open(f"{base}/t.txt", "r", encoding="utf-8"))
    assert text == fs.read_text(f"{base}/t.txt")
    with fsspec.open(f"{base}/t.txt.gz", "rt", compression="infer", encoding="utf-8") as file:
        assert text == file.read()
    assert "zeile 0 ä\n".encode() == fs.head(f"{base}/t.txt", 11)


def test_ranges_are_coalesced_and_asked_for_at_once(fs: DistFileSystem, registry: Registry, noise: str) -> None:
    """Neighbours are one request, and those far apart wait for no other; a mistake is in its own place."""
    paths = [noise] * 40 + [f"{noise}x", f"{noise.rpartition('/')[0]}/b/small"]
    begins = [*range(0, 20_000, 1000), *range(2_000_000, 2_020_000, 1000)]
    starts: list[int | None] = [*begins, 0, None]
    ends: list[int | None] = [*(begin + 100 for begin in begins), 10, None]
    fs.info(noise)
    registry.reset()
    found = fs.cat_ranges(paths, starts, ends)
    assert [NOISE[begin : begin + 100] for begin in begins] == found[:40]
    assert isinstance(found[40], FileNotFoundError)
    assert b"small" == found[41]
    assert 3 == registry.count(path=BLOBS)
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(paths, starts, ends, on_error="raise")
    registry.reset()
    assert [NOISE[:10], NOISE[100:110]] == fs.cat_ranges([noise] * 2, [0, 100], [10, 110], max_gap=10)
    assert 2 == registry.count(path=BLOBS)
    assert [NOISE[-5:], NOISE[5:10]] == fs.cat_ranges([noise] * 2, [-5, 5], [None, 10])
    assert [] == fs.cat_ranges([], [], [])
    with pytest.raises(ValueError, match="as many"):
        fs.cat_ranges([noise], [1, 2], [3])


def test_several_files_are_read_at_once(
    fs: DistFileSystem, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files wait for no other: while one is held up, all others have come."""
    files = {f"f{number}": str(number).encode() * 10 for number in range(8)}
    registry.add_artifact("many", "1", artifact_type="a/b", files=files)
    base = f"dist://{registry.locator('many')}:1"
    fs.info(f"{base}/f0")
    both = threading.Barrier(2, timeout=30)
    first = registry.locator("many")
    read = fs.cat_file

    def together(path: str, **options: Any) -> bytes:  # noqa: ANN401
        if path.endswith(("f0", "f1")):
            both.wait()  # raises if the two are not read at the same time
        data: bytes = read(path, **options)
        return data

    monkeypatch.setattr(fs, "cat_file", together)
    found = fs.cat([f"{base}/{name}" for name in files])
    assert {f"{first}:1/{name}": data for name, data in files.items()} == found
    mapper: Any = fs.get_mapper(base)
    assert files["f3"] == mapper["f3"]
    assert {"f2": files["f2"]} == mapper.getitems(["f2", "no"], on_error="omit")
    assert sorted(files) == sorted(mapper)


def test_all_of_a_file_is_verified(fs: DistFileSystem, registry: Registry, noise: str, tmp_path: Path) -> None:
    """What is read whole, and is not what its digest says, is an error, and no file."""
    registry.fault(WrongBytes(at=100), path=BLOBS)
    target = str(tmp_path / "n")
    reads: list[Callable[[], object]] = [
        lambda: fs.cat(noise),
        lambda: fs.open(noise).read(),
        lambda: fs.get(noise, target),
    ]
    for read in reads:
        with pytest.raises(DigestMismatch):
            read()
    assert [] == list(tmp_path.glob("*n*"))
    assert isinstance(fs.cat([noise], on_error="return")[noise.removeprefix("dist://")], DigestMismatch)


def test_strict_hands_out_nothing_unverified(registry: Registry, noise: str) -> None:
    """A layer of an artifact is read from front to back, or whole; a jump in it is refused with a way out."""
    fs = DistFileSystem(strict=True)
    assert NOISE == fs.cat(noise)
    with fs.open(noise) as file:
        assert NOISE == b"".join(iter(lambda: file.read(100_000), b""))
        assert "verified" == file.trust
    for read in (lambda: fs.cat_file(noise, 100, 200), lambda: fs.open(noise).seek(5) and fs.tail(noise)):
        with pytest.raises(Unsafe, match="front to back"):
            read()
    [refused] = fs.cat_ranges([noise], [5], [10])
    assert isinstance(refused, Unsafe)


class RefusesToGoOn:
    """Nobody may ask for a range."""

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Answer 403 to one."""
        return Response(403) if "Range" in request.headers else respond(request)


def test_get_goes_on_where_it_was(fs: DistFileSystem, registry: Registry, noise: str, tmp_path: Path) -> None:
    """What came before a connection broke for good is not fetched again; at the end it is verified and there."""
    registry.fault(Cut(2_500_000), path=BLOBS, times=1)
    registry.fault(RefusesToGoOn(), path=BLOBS)
    target = tmp_path / "new" / "noise.bin"
    with pytest.raises(PermissionError):
        fs.get(noise, str(target))
    assert not target.exists()
    registry.clear_faults()
    registry.reset()
    told = fsspec.Callback()
    fs.get_file(noise, str(target), callback=told)
    assert NOISE == target.read_bytes()
    assert registry.count_bytes(path=BLOBS) < 1_100_000
    assert (len(NOISE), len(NOISE)) == (told.size, told.value)
    buffer = io.BytesIO()
    fs.get_file(noise, buffer)
    assert NOISE == buffer.getvalue()


def test_get_of_a_damaged_image_leaves_nothing(registry: Registry, tmp_path: Path) -> None:
    """A file of a layer that turns out to be damaged does not appear."""
    registry.add_image("damaged", "1", layers=[archive({"big": NOISE})])
    path = f"dist://{registry.locator('damaged')}:1/big"
    fs = DistFileSystem(skip_instance_cache=True)
    assert 3_000_000 == fs.info(path)["size"]
    registry.fault(WrongBytes(at=1000), path=BLOBS)
    with pytest.raises((DigestMismatch, MalformedDocument)):
        fs.get(path, str(tmp_path / "out" / "big"))
    assert [] == list((tmp_path / "out").iterdir())


# Errors


def test_a_registry_that_fails_is_no_empty_folder(fs: DistFileSystem, registry: Registry) -> None:
    """What cannot be asked is an error in `exists`, `glob` and `find` too, which pass over what is not there."""
    path = f"dist://{registry.locator('failing')}:1/*.parquet"
    assert [] == fs.glob(path) == fs.find(path)
    registry.fault(Status(400))
    for look in (fs.exists, fs.isdir, fs.isfile, fs.glob, fs.find, lambda name: list(fs.walk(name)), fs.ls):
        with pytest.raises(RegistryError):
            look(path)
    registry.clear_faults()
    registry.fault(Status(403))
    for look in (fs.exists, fs.find):
        with pytest.raises(PermissionError):
            look(path)


def test_walk_tells_who_asks(fs: DistFileSystem, registry: Registry) -> None:
    """`on_error` says what happens with what is not there; `maxdepth` and pruning keep to their folders."""
    registry.add_image("walk", "1", layers=[archive({"a/b/c": b"", "d/e": b""})])
    base = f"{registry.locator('walk')}:1"
    heard: list[OSError] = []
    assert [] == list(fs.walk(f"{base}/no", on_error=heard.append))
    assert [FileNotFoundError] == [type(error) for error in heard]
    with pytest.raises(FileNotFoundError):
        list(fs.walk(f"{base}/no", on_error="raise"))
    assert [base, f"{base}/a", f"{base}/d"] == [path for path, _, _ in fs.walk(base, maxdepth=2)]
    seen = []
    for path, folders, _ in fs.walk(base):
        seen.append(path)
        folders[:] = [name for name in folders if name != "a"]
    assert [base, f"{base}/d"] == seen
    with pytest.raises(ValueError, match="maxdepth"):
        list(fs.walk(base, maxdepth=0))


@pytest.mark.parametrize(
    "write",
    [
        lambda fs, path: fs.open(path, "wb"),
        lambda fs, path: fs.open(path, "ab"),
        lambda fs, path: fs.open(path, "xb"),
        lambda fs, path: fs.open(path, "w"),
        lambda fs, path: fs.pipe(path, b"x"),
        lambda fs, path: fs.pipe({path: b"x"}),
        lambda fs, path: fs.touch(path),
        lambda fs, path: fs.mkdir(path),
        lambda fs, path: fs.makedirs(path, exist_ok=True),
        lambda fs, path: fs.rm(path),
        lambda fs, path: fs.rm(path, recursive=True),
        lambda fs, path: fs.rm_file(path),
        lambda fs, path: fs.rmdir(path),
        lambda fs, path: fs.mv(path, f"{path}2"),
        lambda fs, path: fs.cp(path, f"{path}2"),
        lambda fs, path: fs.put(__file__, path),
        lambda fs, path: fs.write_text(path, "x"),
        lambda fs, path: fs.get_mapper(path.rpartition("/")[0]).__setitem__("x", b"x"),
    ],
)
def test_nothing_is_written(fs: DistFileSystem, noise: str, write: Callable[[DistFileSystem, str], object]) -> None:
    """Every way to write is an `OSError` that says how to push."""
    with pytest.raises(OSError, match="distsdk push") as caught:
        write(fs, noise)
    assert errno.EROFS == caught.value.errno


def test_options_are_few_and_none_is_a_secret() -> None:
    """A password for an option would be in every pickle: it is refused, and not repeated."""
    with pytest.raises(TypeError, match="no option 'password'") as caught:
        fsspec.filesystem("dist", password="hunter2")
    assert "hunter2" not in str(caught.value)


@pytest.mark.slow
def test_without_fsspec_the_extra_is_named(tmp_path: Path) -> None:
    """Where fsspec is missing, the module says what to install; the rest of distsdk does without."""
    code = (
        "import sys; sys.modules['fsspec'] = None\n"
        "import distsdk.images.image\n"
        "try:\n    import distsdk.fsspec\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("MissingExtra")
    assert "distsdk[fsspec]" in done.stdout


# What is remembered


def test_a_tag_is_resolved_once(fs: DistFileSystem, registry: Registry) -> None:
    """A tag that moves means what it meant, until the cache is invalidated; keys follow the content."""
    registry.add_artifact("moving", "1", artifact_type="a/b", files={"x": b"old", "same": b"same"})
    base = f"dist://{registry.locator('moving')}:1"
    before = fs.ukey(f"{base}/x"), fs.ukey(f"{base}/same"), fs.checksum(f"{base}/x")
    registry.add_artifact("moving", "1", artifact_type="a/b", files={"x": b"newer", "same": b"same"})
    assert b"old" == fs.cat(f"{base}/x")
    fs.invalidate_cache("dist://elsewhere.example/x:1/y")
    fs.invalidate_cache("dist://no")
    assert b"old" == fs.cat(f"{base}/x")
    fs.invalidate_cache(f"{base}/x")
    assert b"newer" == fs.cat(f"{base}/x")
    after = fs.ukey(f"{base}/x"), fs.ukey(f"{base}/same"), fs.checksum(f"{base}/x")
    assert (False, True, False) == tuple(a == b for a, b in zip(before, after, strict=True))
    fs.invalidate_cache()
    assert b"newer" == fs.cat(f"{base}/x")


def test_threads_ask_once_for_a_name_and_wait_for_no_other(fs: DistFileSystem, registry: Registry) -> None:
    """While a manifest is waited for, another one is read; ten threads that want the same one ask for it once."""
    for tag in "12":
        registry.add_artifact("turns", tag, artifact_type="a/b", files={"x": tag.encode()})
    first, second = (f"dist://{registry.locator('turns')}:{tag}/x" for tag in "12")
    held = threading.Event()
    registry.fault(Stall(after=None, event=held), path="/manifests/1", times=1)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(fs.cat(first))) for _ in range(10)]
    for thread in threads:
        thread.start()
    try:
        assert b"2" == fs.cat(second)
    finally:
        held.set()
    for thread in threads:
        thread.join()
    assert [b"1"] * 10 == found
    assert 1 == registry.count(path="/manifests/1")
    assert {} == fs._turns


def test_a_repository_has_one_session(fs: DistFileSystem, registry: Registry) -> None:
    """Names in the same repository are asked for over the same connection."""
    for tag in "123":
        registry.add_artifact("sessions", tag, artifact_type="a/b", files={"x": tag.encode()})
        assert tag.encode() == fs.cat(f"dist://{registry.locator('sessions')}:{tag}/x")
    assert 1 == len({request.connection for request in registry.requests})


def test_keys_of_files_in_images(fs: DistFileSystem, registry: Registry) -> None:
    """A file of a layer that two images share has one key; a replaced one has another; none takes the file's bytes."""
    shared = archive({"a": b"a", "b": b"b"})
    registry.add_image("keys", "1", layers=[shared])
    registry.add_image("keys", "2", layers=[shared, archive({"b": b"B"})])
    one, two = (f"dist://{registry.locator('keys')}:{tag}" for tag in "12")
    assert fs.ukey(f"{one}/a") == fs.ukey(f"{two}/a")
    assert fs.ukey(f"{one}/b") != fs.ukey(f"{two}/b")
    assert fs.ukey(f"{one}/a") != fs.ukey(f"{one}/b")


def test_few_stay_open_and_a_tag_stays_what_it_was(
    fs: DistFileSystem, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of many artifacts those used last are kept; one that is opened again is the one that was seen first."""
    monkeypatch.setattr("distsdk.fsspec.KEPT_OPEN", 2)
    for tag in "123":
        registry.add_artifact("kept", tag, artifact_type="a/b", files={"x": tag.encode()})
        assert tag.encode() == fs.cat(f"dist://{registry.locator('kept')}:{tag}/x")
    assert 2 == len(fs._open_ones)
    registry.add_artifact("kept", "1", artifact_type="a/b", files={"x": b"moved"})
    assert b"1" == fs.cat(f"dist://{registry.locator('kept')}:1/x")


def test_a_store_is_looked_into_first(registry: Registry, tmp_path: Path) -> None:
    """What was pulled is read without the registry."""
    registry.add_image("pulled", "1", layers=[archive({"a": b"from the store"})])
    name = f"{registry.locator('pulled')}:1"
    pull(name, Store(tmp_path / "store"))
    registry.reset()
    fs = DistFileSystem(store=str(tmp_path / "store"), cache=str(tmp_path / "cache"))
    assert b"from the store" == fs.cat(f"dist://{name}/a")
    assert registry.count() == 0
    assert [] != list((tmp_path / "cache").iterdir())


# Chains


@lets_files_lie
def test_chains(registry: Registry, noise: str, tmp_path: Path) -> None:
    """An archive in an artifact is a filesystem of its own; a cache keeps files and blocks, and asks no second time."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        info = tarfile.TarInfo("in/side.txt")
        info.size = 5
        tar.addfile(info, io.BytesIO(b"chain"))
    base = push(registry, "chains", [("data.tar", buffer.getvalue(), {})])
    with fsspec.open(f"tar://in/side.txt::{base}/data.tar") as file:
        assert b"chain" == file.read()
    for kind in ("filecache", "blockcache", "simplecache"):
        options = {kind: {"cache_storage": str(tmp_path / kind)}}
        for expected in (True, False):
            registry.reset()
            with fsspec.open(f"{kind}::{noise}", **options) as file:
                file.seek(1_000_000)
                assert NOISE[1_000_000:1_000_010] == file.read(10)
            assert expected == (registry.count_bytes(path=BLOBS) > 0), kind


def test_generic_copies(registry: Registry, noise: str, tmp_path: Path) -> None:
    """It is copied from into another filesystem."""
    target = LocalFileSystem()
    with fsspec.open(noise, "rb") as source, target.open(str(tmp_path / "copy"), "wb") as out:
        while data := source.read(1_000_000):
            out.write(data)
    assert NOISE == (tmp_path / "copy").read_bytes()
