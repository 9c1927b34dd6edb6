"""Archives: the headers of a tar, and images as ``docker save`` wrote them."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

import distsdk
from distsdk import Remote
from distsdk.errors import (
    DigestMismatch,
    DistError,
    LimitExceeded,
    MalformedDocument,
    NotFound,
    Unsafe,
    UnsupportedDocument,
)
from distsdk.layout import docker, tar
from distsdk.layout.docker import parse_saved_images
from distsdk.layout.tar import Member, TarFiles
from distsdk.spec import media_types as media
from distsdk.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    from distsdk.content.source import ByteStream
    from distsdk.layout.files import Files


@define
class Bytes:
    """One file in memory, as `Files`, which counts what is read."""

    raw: bytes
    asked: list[tuple[int, int]] = field(factory=list)

    def open(self, name: str, offset: int, end: int | None) -> ByteStream:
        """Open it."""
        assert name == ""
        self.asked.append((offset, len(self.raw) if end is None else end))
        return io.BytesIO(self.raw[offset:end])

    def size(self, _: str) -> int | None:
        """Tell its size."""
        return len(self.raw)

    def identity(self) -> tuple[object, ...]:
        """It is always the same."""
        return ()

    def shown(self, name: str = "") -> str:
        """Call it something."""
        return name or "x.tar"


def tar_of(members: Iterable[tuple[str | tarfile.TarInfo, bytes]], tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    """An archive with these members, in this order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tar_format) as tar:
        for member, raw in members:
            info = tarfile.TarInfo(member) if isinstance(member, str) else member
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return out.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    """A member that leads to another one."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def contents(raw: bytes) -> dict[str, bytes]:
    """What an archive has under its names."""
    files = TarFiles.read(Bytes(raw))
    found = {}
    for name in files.members:
        with contextlib.closing(files.open(name, 0, None)) as stream:
            found[name] = stream.read(1 << 30)
    return found


# Headers

_NAMES = st.lists(
    st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=120).filter(
        lambda segment: segment not in {".", ".."}
    ),
    min_size=1,
    max_size=3,
).map("/".join)


@pytest.mark.slow
@given(
    st.dictionaries(_NAMES, st.binary(max_size=2000), max_size=6),
    st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_what_python_writes_is_read(files: dict[str, bytes], tar_format: int) -> None:
    """Names of any length and script, in the words of GNU and of POSIX, and the bytes under them."""
    assert files == contents(tar_of(files.items(), tar_format))


@pytest.mark.parametrize("tar_format", ["v7", "oldgnu", "gnu", "ustar", "posix"])
def test_what_gnu_tar_writes_is_read(tmp_path: Path, tar_format: str) -> None:
    """Files, folders, both kinds of links, and a ``./`` before each name; pax headers have more than names in them."""
    folder = tmp_path / "files"
    long = "/".join(["l" * 45] * 2)
    names = ["a", "b/c", long] + (["d" * 120, "/".join(["e" * 90] * 3)] if tar_format in {"gnu", "posix"} else [])
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(os.urandom(1000 * number))
    expected = {name: (folder / name).read_bytes() for name in names}
    os.link(folder / "b/c", folder / "hard")
    (folder / "b/soft").symlink_to("../a")
    made = subprocess.run(
        ["tar", f"--format={tar_format}", "--sort=name", "-cf", "-", "."], cwd=folder, capture_output=True, check=True
    )
    assert expected | {"hard": expected["b/c"], "b/soft": expected["a"]} == contents(made.stdout)


def test_a_cut_archive_is_no_archive() -> None:
    """Wherever it is cut, at a member's end too, since what would have followed may be what is asked for."""
    raw = tar_of([("a" * 200, b"1" * 700), ("b", b"2")])
    end = len(raw.rstrip(b"\0")) // 512 * 512 + 512
    for size in range(0, end, 64):
        with pytest.raises(MalformedDocument, match=r"cut|no tar archive"):
            TarFiles.read(Bytes(raw[:size]))
    assert contents(raw) == contents(raw[: end + 512])


def test_a_damaged_header_is_not_the_end() -> None:
    """A byte that is another one anywhere in a header is noticed; Python's own reader ends there in silence."""
    raw = tar_of([("a", b"1" * 512), ("b", b"2" * 512)])
    for at in (*range(0, 257, 16), *range(1024, 1024 + 257, 16)):
        broken = bytearray(raw)
        broken[at] ^= 1
        with pytest.raises(
            MalformedDocument, match="no tar archive" if at < 512 else "damaged: no header at byte 1024"
        ):
            TarFiles.read(Bytes(bytes(broken)))


@pytest.mark.parametrize(
    ("compressed", "tool"),
    [
        (gzip.compress, "gunzip"),
        (lambda raw: b"\x28\xb5\x2f\xfd" + raw, "unzstd"),
        (lambda raw: b"BZh" + raw, "bunzip2"),
    ],
)
def test_a_compressed_archive_is_refused(compressed: Callable[[bytes], bytes], tool: str) -> None:
    """Nothing in it could be read without all that is before; the message has the tool that helps."""
    with pytest.raises(UnsupportedDocument, match=f"{tool} it first"):
        TarFiles.read(Bytes(compressed(tar_of([("a", b"")]))))


def header(name: str = "a", kind: bytes = tarfile.REGTYPE, size: int = 0) -> bytes:
    """A header alone."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


def padded(raw: bytes) -> bytes:
    """Bytes of a member, filled up to a block."""
    return raw + bytes(-len(raw) % 512)


def pax(*records: bytes, kind: bytes = tarfile.XHDTYPE) -> bytes:
    """A pax header with records as they are."""
    body = b"".join(records)
    return header("x", kind, len(body)) + padded(body)


END = bytes(1024)


@pytest.mark.parametrize(
    ("raw", "error", "cause"),
    [
        (b"", MalformedDocument, "no tar archive"),
        (b"x" * 511, MalformedDocument, "no tar archive"),
        (b"x" * 1024, MalformedDocument, "no tar archive"),
        (header(size=2**62) + END, MalformedDocument, "is cut"),
        (header(size=-5) + END, MalformedDocument, "a member of -5 bytes"),
        (header("x", tarfile.GNUTYPE_LONGNAME, 2**40) + END, MalformedDocument, "is cut"),
        (
            header("x", tarfile.GNUTYPE_LONGNAME, 65_537) + padded(bytes(65_537)) + header() + END,
            LimitExceeded,
            "a header of more than 65536 bytes",
        ),
        (pax(b"x" * 65_537) + header() + END, LimitExceeded, "a header of more than 65536 bytes"),
        (pax(b"99 path=a\n") + header() + END, MalformedDocument, "pax header"),
        (pax(b"9 path=a\n9 path=b") + header() + END, MalformedDocument, "pax header"),
        (pax(b"-1 path=a\n") + header() + END, MalformedDocument, "pax header"),
        (pax(b"9" * 5000) + header() + END, MalformedDocument, "pax header"),
        (pax(b"0 x\n") + header() + END, MalformedDocument, "pax header"),
        (pax(b"5 abc") + header() + END, MalformedDocument, "pax header"),
        (pax(b"10 size=-1\n") + header() + END, MalformedDocument, "pax header"),
        (pax(b"12 size=-12\n") + header() + END, MalformedDocument, "impossible size"),
        (pax(b"29 size=99999999999999999999\n") + header() + END, MalformedDocument, "impossible size"),
        (pax(b"13 size=9999\n") + header() + END, MalformedDocument, "is cut"),
        (pax(b"22 GNU.sparse.major=1\n") + header() + END, MalformedDocument, "sparse"),
        (header("a", tarfile.GNUTYPE_SPARSE) + END, MalformedDocument, "sparse"),
        (pax(b"9 path=b\n", kind=tarfile.XGLTYPE) + header() + END, MalformedDocument, "global header"),
        (header("a") + header("./a") + END, MalformedDocument, "'a' twice"),
    ],
)
def test_a_hostile_archive_is_refused(raw: bytes, error: type[DistError], cause: str) -> None:
    """Sizes that cannot be, headers without end, names that mean two things."""
    with pytest.raises(error, match=cause) as caught:
        TarFiles.read(Bytes(raw))
    assert len(str(caught.value)) < 300


def test_members_have_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the limit are refused, whatever they are."""
    monkeypatch.setattr(tar, "MAX_MEMBERS", 10)
    assert 10 == len(TarFiles.read(Bytes(b"".join(header(str(n)) for n in range(10)) + END)).members)
    for raw in (b"".join(header(str(n)) for n in range(11)), header("x", tarfile.GNUTYPE_LONGNAME) * 11):
        with pytest.raises(LimitExceeded, match="more than 10 members"):
            TarFiles.read(Bytes(raw + END))


def test_what_is_harmless_is_passed_over() -> None:
    """A comment for all members, as git writes, records of other keys, folders twice, devices."""
    raw = pax(b"17 comment=abcde\n", kind=tarfile.XGLTYPE)
    raw += header("d/", tarfile.DIRTYPE) * 2 + header("null", tarfile.CHRTYPE)
    raw += pax(b"30 mtime=1783728000.123456789\n", b"9 path=b\n", b"10 size=3\n") + header("a") + padded(b"xyz") + END
    assert {"b": b"xyz"} == contents(raw)


@pytest.mark.parametrize("name", ["../x", "a/../b", "/../x", ".."])
def test_a_name_that_leads_elsewhere_is_none(name: str) -> None:
    """Nobody asks for such a member, and it stands for no other."""
    assert {"b": b"2"} == contents(tar_of([(name, b"1"), ("b", b"2")]))


def test_links_lead_to_members() -> None:
    """As the oldest `docker save` wrote a layer that was there twice: as a link of either kind, before it or after."""
    raw = tar_of(
        [
            (link("1/layer.tar", "../2/layer.tar"), b""),
            ("2/layer.tar", b"layer"),
            (link("3/layer.tar", "2/layer.tar", tarfile.LNKTYPE), b""),
            (link("4/layer.tar", "./../1/layer.tar"), b""),
            (link("5/layer.tar", "/2/layer.tar"), b""),
        ]
    )
    assert {f"{number}/layer.tar": b"layer" for number in range(1, 6)} == contents(raw)


@pytest.mark.parametrize(
    ("links", "error", "cause"),
    [
        ({"a": "../../etc/shadow"}, Unsafe, "leads out of it"),
        ({"d/a": "../../x"}, Unsafe, "leads out of it"),
        ({"a": ".."}, NotFound, "no '..'"),
        ({"a": "/etc/shadow"}, NotFound, "no 'etc/shadow'"),
        ({"a": "nothing"}, NotFound, "no 'nothing'"),
        ({"a": "a"}, MalformedDocument, "in a circle"),
        ({"a": "b", "b": "a"}, MalformedDocument, "in a circle"),
        ({"a": "00"} | {f"{n:02}": f"{n + 1:02}" for n in range(20)}, MalformedDocument, "more than 16"),
    ],
)
def test_links_lead_nowhere_else(links: dict[str, str], error: type[DistError], cause: str) -> None:
    """Neither out of the archive nor round and round; that is found out by who asks for them."""
    files = TarFiles.read(Bytes(tar_of((link(name, target), b"") for name, target in links.items())))
    for look in (lambda: files.size(next(iter(links))), lambda: files.open(next(iter(links)), 0, None)):
        with pytest.raises(error, match=cause):
            look()


def test_a_member_ends_where_it_ends() -> None:
    """Whatever range is asked for, nothing of the next member comes."""
    files = TarFiles.read(Bytes(tar_of([("a", b"0123456789"), ("b", b"secret")])))
    for offset, end, expected in [
        (0, None, b"0123456789"),
        (0, 99, b"0123456789"),
        (3, 5, b"34"),
        (9, None, b"9"),
        (10, None, b""),
        (12, 1000, b""),
        (10_000, None, b""),
    ]:
        assert expected == files.open("a", offset, end).read(100)


def test_only_headers_are_read() -> None:
    """Of ten members of a megabyte, less than a megabyte in all; many small ones take few requests."""
    large = Bytes(tar_of((str(number), bytes(1 << 20)) for number in range(10)))
    TarFiles.read(large)
    assert sum(end - start for start, end in large.asked) < 1 << 20
    small = Bytes(tar_of((str(number), b"x") for number in range(1000)))
    TarFiles.read(small)
    assert len(small.asked) <= 20


# docker save


class Saved:
    """An archive of Docker's in the making."""

    def __init__(self) -> None:
        self.members: dict[str | tarfile.TarInfo, bytes] = {}
        self.listed: list[dict[str, Any]] = []

    def layer(self, raw: bytes, name: str = "") -> str:
        """Add a layer, and return its name."""
        name = name or f"{Digest.of(raw).hex}/layer.tar"
        self.members[name] = raw
        return name

    def image(
        self, tags: list[str] | None, layers: Mapping[str, Digest], *, config: dict[str, object] | None = None
    ) -> Digest:
        """Add an image with these layers and their diff IDs; return the config's digest."""
        diff_ids = [str(digest) for digest in layers.values()]
        raw = json.dumps(
            {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}}
            | (config or {})
        ).encode()
        self.members[f"{Digest.of(raw).hex}.json"] = raw
        self.listed.append({"Config": f"{Digest.of(raw).hex}.json", "RepoTags": tags, "Layers": list(layers)})
        return Digest.of(raw)

    def write(self, path: Path, listed: object = None) -> Remote:
        """Write the archive, and return a remote over it."""
        raw = json.dumps(self.listed if listed is None else listed).encode()
        path.write_bytes(tar_of([*self.members.items(), ("manifest.json", raw)]))
        remote = distsdk.connect(str(path))
        return remote


@pytest.fixture
def saved() -> Saved:
    """An empty one."""
    return Saved()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where it is written; the name tells nothing of what it is."""
    return tmp_path / "backup"


LAYER, OTHER = b"layer" * 1000, b"other" * 1000


def test_an_image_is_read_by_its_tag(saved: Saved, path: Path) -> None:
    """The config keeps its bytes, and so the image its ID; the layers are what the archive has."""
    layers = {saved.layer(LAYER): Digest.of(LAYER), saved.layer(OTHER): Digest.of(OTHER)}
    config = saved.image(["redis:7", "localhost:5000/redis:seven"], layers)
    remote = saved.write(path)
    assert ["7", "seven"] == list(remote.tags())
    manifest = remote.manifest("7")
    assert manifest.digest == remote.resolve("seven").digest == remote.resolve("latest").digest
    assert (config, media.OCI_CONFIG) == (manifest.config.digest, manifest.config.media_type)
    assert [LAYER, OTHER] == [remote.fetch(layer).read() for layer in manifest.layers]
    assert {media.OCI_LAYER} == {layer.media_type for layer in manifest.layers}
    assert config == distsdk.ImageConfig.parse(remote.fetch(manifest.config).read()).digest


def test_an_image_without_a_name_is_read(saved: Saved, path: Path) -> None:
    """As `docker save` writes one that it was given by its ID."""
    saved.image(None, {saved.layer(LAYER): Digest.of(LAYER)})
    remote = saved.write(path)
    assert [] == list(remote.tags())
    assert LAYER == remote.fetch(remote.manifest("latest").layers[0]).read()


def test_a_compressed_layer_is_what_it_is(saved: Saved, path: Path) -> None:
    """Other tools put compressed layers into such archives: they have their own digest and media type."""
    zipped, zstd = gzip.compress(LAYER), b"\x28\xb5\x2f\xfd and the rest"
    saved.image(["x:1"], {saved.layer(zipped): Digest.of(LAYER), saved.layer(zstd): Digest.of(OTHER)})
    remote = saved.write(path)
    first, second = remote.manifest("1").layers
    assert (media.OCI_LAYER_GZIP, Digest.of(zipped), len(zipped)) == (first.media_type, first.digest, first.size)
    assert (media.OCI_LAYER_ZSTD, Digest.of(zstd), len(zstd)) == (second.media_type, second.digest, second.size)
    assert [zipped, zstd] == [remote.fetch(layer).read() for layer in (first, second)]


def test_a_layer_that_is_not_what_the_config_says_is_a_mismatch(saved: Saved, path: Path) -> None:
    """The digest in the manifest is the config's diff ID; the bytes are held against it when they are read."""
    saved.image(["x:1"], {saved.layer(LAYER): Digest.of(OTHER)})
    remote = saved.write(path)
    with pytest.raises(DigestMismatch) as caught:
        remote.fetch(remote.manifest("1").layers[0]).read()
    assert (str(Digest.of(OTHER)), str(Digest.of(LAYER))) == (caught.value.expected, caught.value.got)


def test_no_layer_is_read_for_a_manifest(saved: Saved, path: Path) -> None:
    """Only a few bytes of each, which tell whether it is compressed."""
    saved.image(["x:1"], {saved.layer(bytes(10_000_000) + b"x"): Digest.of(LAYER)})
    saved.write(path)
    files = Bytes(path.read_bytes())
    docker.DockerArchive(TarFiles.read(files), 1 << 20)
    assert sum(end - start for start, end in files.asked) < 1_000_000


def test_two_images_with_one_tag_are_told_apart_by_digest(saved: Saved, path: Path) -> None:
    """`redis:latest` and `nginx:latest` have the same tag."""
    saved.image(["redis:latest"], {saved.layer(LAYER): Digest.of(LAYER)})
    saved.image(["nginx:latest"], {saved.layer(OTHER): Digest.of(OTHER)})
    remote = saved.write(path)
    with pytest.raises(NotFound, match=r"redis:latest is sha256:[0-9a-f]{64}; nginx:latest is sha256:") as caught:
        remote.fetch("latest")
    digest = str(caught.value).rpartition(" ")[2]
    assert OTHER == remote.fetch(remote.manifest(digest).layers[0]).read()


def test_layers_are_shared_through_links(saved: Saved, path: Path) -> None:
    """Two images of which one has its layer as a link into the other's folder."""
    saved.members[link("b/layer.tar", "../a/layer.tar")] = b""
    saved.image(["x:1"], {saved.layer(LAYER, "a/layer.tar"): Digest.of(LAYER)})
    saved.image(["x:2"], {"b/layer.tar": Digest.of(LAYER)}, config={"author": "other"})
    remote = saved.write(path)
    assert remote.manifest("1").layers == remote.manifest("2").layers
    assert LAYER == remote.fetch(Digest.of(LAYER)).read()


@pytest.mark.parametrize(
    ("listed", "cause"),
    [
        ({}, "no list of images"),
        ([5], r"manifest.json\[0\] is a number"),
        ([{}], r"manifest.json\[0\].Config is missing"),
        ([{"Config": "x", "Layers": "y"}], "Layers is a string"),
        ([{"Config": "x", "Layers": [5]}], r"Layers\[0\] is a number"),
        ([{"Config": "x", "RepoTags": {}}], "RepoTags is an object"),
        ([{"Config": "nothing.json", "Layers": []}], "not whole: there is no 'nothing.json'"),
        ([{"Config": "../../etc/passwd", "Layers": []}], "not whole: there is no ''"),
        ([{"Config": "a.json", "Layers": ["nothing"]}], "not whole: there is no 'nothing'"),
        ([{"Config": "a.json", "Layers": []}], "tells of 1 layers, and manifest.json lists 0"),
        ([{"Config": "b.json", "Layers": []}], "not JSON"),
        ([{"Config": "c.json", "Layers": []}], "diff_ids"),
    ],
)
def test_a_list_that_contradicts_its_archive_is_refused(saved: Saved, path: Path, listed: object, cause: str) -> None:
    """The message names the archive and what is wrong in it."""
    saved.members["a.json"] = json.dumps({"rootfs": {"diff_ids": [str(Digest.of(LAYER))]}}).encode()
    saved.members["b.json"] = b"{"
    saved.members["c.json"] = b'{"rootfs": {"diff_ids": ["sha256:../.."]}}'
    remote = saved.write(path, listed)
    with pytest.raises(MalformedDocument, match=f"backup.*{cause}"):
        remote.fetch("latest")


def test_a_list_has_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of images, and of layers in all of them."""
    with pytest.raises(LimitExceeded, match="1,001 images"):
        parse_saved_images(json.dumps([{"Config": "x"}] * 1001).encode())
    monkeypatch.setattr(docker, "MAX_MEMBERS", 10)
    with pytest.raises(LimitExceeded, match="more than 10 layers"):
        parse_saved_images(json.dumps([{"Config": "x", "Layers": ["y"] * 6}] * 2).encode())


# What an archive is


def layout_members(layers: list[bytes], *, named: int) -> dict[str | tarfile.TarInfo, bytes]:
    """A layout with one image, whose manifest names the first layers only."""
    config = json.dumps({"rootfs": {"diff_ids": [str(Digest.of(raw)) for raw in layers]}}).encode()
    described = [
        {"mediaType": media.OCI_LAYER, "digest": str(Digest.of(raw)), "size": len(raw)} for raw in layers[:named]
    ]
    manifest = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "config": {"mediaType": media.OCI_CONFIG, "digest": str(Digest.of(config)), "size": len(config)},
            "layers": described,
        }
    ).encode()
    entry = {
        "mediaType": media.OCI_MANIFEST,
        "digest": str(Digest.of(manifest)),
        "size": len(manifest),
        "annotations": {
            "io.containerd.image.name": "docker.io/library/redis:7",
            "org.opencontainers.image.ref.name": "7",
        },
    }
    blobs: dict[str | tarfile.TarInfo, bytes] = {
        f"blobs/sha256/{Digest.of(raw).hex}": raw for raw in (config, manifest, *layers)
    }
    listed = [
        {
            "Config": f"blobs/sha256/{Digest.of(config).hex}",
            "RepoTags": ["redis:7"],
            "Layers": [f"blobs/sha256/{Digest.of(raw).hex}" for raw in layers],
        }
    ]
    return {
        **blobs,
        "oci-layout": b'{"imageLayoutVersion":"1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
        "manifest.json": json.dumps(listed).encode(),
    }


def test_a_layout_in_an_archive_of_dockers_wins(path: Path) -> None:
    """Docker 25 and newer, and containerd, write both: the layout has the manifest that there was."""
    members = layout_members([LAYER, OTHER], named=2)
    path.write_bytes(tar_of(members.items()))
    remote = distsdk.connect(str(path))
    index = json.loads(members["index.json"])
    assert index["manifests"][0]["digest"] == str(remote.fetch("7").digest)


def test_a_layout_that_lacks_its_layers_does_not(path: Path) -> None:
    """As Docker 25.0 wrote it: a manifest without layers, whose config has some. What is listed beside it helps."""
    path.write_bytes(tar_of(layout_members([LAYER, OTHER], named=0).items()))
    remote = distsdk.connect(str(path))
    assert [LAYER, OTHER] == [remote.fetch(layer).read() for layer in remote.manifest("7").layers]
    # An image that has none is whole.
    path.write_bytes(tar_of(layout_members([], named=0).items()))
    index = json.loads(layout_members([], named=0)["index.json"])
    assert index["manifests"][0]["digest"] == str(remote.fetch("7").digest)


def test_an_archive_may_have_any_name(saved: Saved, tmp_path: Path) -> None:
    """Also one in which a tag or a digest could be seen; a slash at its end makes no folder of it."""
    saved.image(["x:1"], {saved.layer(LAYER): Digest.of(LAYER)})
    expected = saved.write(tmp_path / "x").resolve("1")
    for name in ("10:30", "a@b", "x@sha256", "ä b?#.gz"):
        (tmp_path / "x").replace(tmp_path / name)
        reference = distsdk.Reference.parse(f"{tmp_path}/{name}/:1")
        remote = distsdk.connect(reference.locator)
        assert expected.digest == remote.fetch(reference.object).digest
        (tmp_path / name).replace(tmp_path / "x")


def test_an_archive_of_something_else_is_refused(path: Path) -> None:
    """The message says what was looked for."""
    path.write_bytes(tar_of([("etc/passwd", b"root")]))
    with pytest.raises(MalformedDocument, match=r"neither an OCI layout .* nor Docker's manifest\.json"):
        distsdk.connect(str(path)).fetch("latest")
    path.write_bytes(b"MZ" * 1000)
    with pytest.raises(MalformedDocument, match="no tar archive"):
        distsdk.connect(str(path)).fetch("latest")


def test_an_archive_is_looked_through_once(saved: Saved, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until another one is in its place."""
    looked: list[object] = []
    real = TarFiles.read

    def look(files: Files) -> TarFiles:
        looked.append(files)
        return real(files)

    monkeypatch.setattr(TarFiles, "read", look)
    saved.image(["x:1"], {saved.layer(LAYER): Digest.of(LAYER)})
    remote = saved.write(path)
    assert ["1"] == list(remote.tags())
    assert LAYER == remote.fetch(remote.manifest("1").layers[0]).read()
    assert 1 == len(looked)
    saved.image(["x:2"], {saved.layer(OTHER): Digest.of(OTHER)}, config={"author": "other"})
    saved.write(path.with_name("new"))
    path.with_name("new").replace(path)
    assert ["1", "2"] == list(remote.tags())
    assert OTHER == remote.fetch(remote.manifest("2").layers[0]).read()
    assert 2 == len(looked)


def test_members_are_where_tar_says(tmp_path: Path) -> None:
    """The offsets are those of GNU tar (``--block-number``)."""
    if shutil.which("tar") is None:  # pragma: no cover
        pytest.fail("tar is missing")
    (tmp_path / "a").write_bytes(b"1" * 600)
    (tmp_path / "b").write_bytes(b"2")
    subprocess.run(["tar", "--format=ustar", "-cf", "x.tar", "a", "b"], cwd=tmp_path, check=True)
    told = subprocess.run(["tar", "-tRf", "x.tar"], cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    blocks = {line.split()[2]: int(line.split()[1].rstrip(":")) for line in told.splitlines()[:2]}
    members = TarFiles.read(Bytes((tmp_path / "x.tar").read_bytes())).members
    assert {name: Member((block + 1) * 512, {"a": 600, "b": 1}[name]) for name, block in blocks.items()} == members
