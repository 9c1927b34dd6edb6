"""A layer as files: what is asked of a registry for which of them, and how far the bytes can be trusted."""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import json
import os
import random
import tarfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

import distsdk
from distsdk.content.blob import Blob
from distsdk.content.source import Stat
from distsdk.errors import DigestMismatch, DistError, IntegrityError, MalformedDocument, NotFound, SizeMismatch, Unsafe
from distsdk.layers import gzip_seek as deflate
from distsdk.layers.cache import Cache
from distsdk.layers.layer import READ_AHEAD, LayerFiles
from distsdk.layers.member import Kind, Member
from distsdk.layers.seek_index import SeekIndex, Way
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.testing import IgnoreRange, Registry, WrongBytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distsdk.content.source import ByteStream

MIB = 1024 * 1024
DATA = Path(__file__).parents[2] / "data" / "layers"
REAL: dict[str, dict[str, Any]] = json.loads((DATA / "descriptors.json").read_text())
BLOBS = r"/blobs/"
needs_zlib = pytest.mark.skipif(not deflate.available(), reason="needs the system's zlib")


@functools.cache
def big_archive() -> tuple[bytes, dict[str, bytes]]:
    """Return an archive of 24 MiB, part text and part noise, and its files by name."""
    source = random.Random(5)
    known = [source.randbytes(source.randint(2, 9)).hex().encode() for _ in range(3000)]
    files = {"text": b" ".join(source.choices(known, k=1_200_000)), "noise": source.randbytes(6 * MIB)}
    files |= {f"small/{number}": b"%d" % number * (number + 1) for number in range(200)}
    files["empty"] = b""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "text"
        tar.addfile(link)
    return file.getvalue(), files


@functools.cache
def big(kind: str) -> bytes:
    """Return that archive, packed."""
    archive, _ = big_archive()
    return {
        "plain": lambda: archive,
        "gzip": lambda: gzip.compress(archive, 5),
        "zstd": lambda: zstd.compress(archive),
    }[kind]()


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry that counts."""
    with Registry() as made:
        yield made


def put(registry: Registry, data: bytes, annotations: dict[str, str] | None = None) -> Descriptor:
    """Put a layer into a registry."""
    found = registry.add_blob("r", data, media_type="application/octet-stream")
    return evolve(found, annotations=annotations or {})


def real(registry: Registry, name: str, *, vouched: bool = True) -> Descriptor:
    """Put a layer that another tool has made into a registry."""
    return put(registry, (DATA / name).read_bytes(), REAL[name]["annotations"] if vouched else None)


def open_layer(registry: Registry, descriptor: Descriptor, **options: Any) -> LayerFiles:  # noqa: ANN401
    """Return a layer of a registry."""
    return LayerFiles(distsdk.connect(registry.locator("r")).fetch(descriptor), descriptor, **options)


def find(layer: LayerFiles, name: str) -> Member:
    """Return a member by its name."""
    (found,) = [member for member in layer.members if member.path.decode().removeprefix("./") == name]
    return found


def archive_of(name: str) -> tarfile.TarFile:
    """Return what a real layer unpacks to, by other code than the one under test."""
    data = (DATA / name).read_bytes()
    return tarfile.open(fileobj=io.BytesIO(gzip.decompress(data) if name == "estargz" else zstd.decompress(data)))


# Tables of contents


@pytest.mark.parametrize("name", REAL)
@pytest.mark.parametrize("vouched", [True, False])
def test_files_of_a_layer_with_a_table(registry: Registry, name: str, vouched: bool) -> None:
    """A listing costs the table, a file its chunks; all bytes are right, and say how far they can be trusted."""
    descriptor = real(registry, name, vouched=vouched)
    layer = open_layer(registry, descriptor)
    assert "toc" == layer.source
    cost, before = layer.cost, registry.count_bytes(path=BLOBS)
    assert before <= 72
    members = layer.members
    assert before + cost == registry.count_bytes(path=BLOBS) < descriptor.size / 20
    assert 0 == layer.cost
    trust = "chunk-verified" if vouched else "unverified"
    assert trust == layer.trust
    archive = archive_of(name)
    for member in members:
        if member.kind is not Kind.FILE:
            continue
        expected = archive.extractfile(member.path.decode())
        assert expected is not None
        with layer.open(member) as file:
            assert (expected.read(), trust, member.size) == (file.read(), file.trust, file.tell())
    registry.reset()
    with layer.open(find(layer, "opt/03.txt")) as file:
        file.read()
    assert (1, True) == (registry.count(path=BLOBS), registry.count_bytes(path=BLOBS) < 1500)


def test_a_strict_read_takes_no_table_that_nothing_vouches_for(registry: Registry) -> None:
    """A file is refused; a layer that is strict is read once instead, and verified."""
    descriptor = real(registry, "estargz", vouched=False)
    layer = open_layer(registry, descriptor)
    with pytest.raises(Unsafe, match="strict=True"):
        layer.open(find(layer, "etc/os-release"), strict=True)
    assert "unverified" == layer.open(find(layer, "etc/os-release")).trust
    registry.reset()
    strict = open_layer(registry, descriptor, strict=True)
    assert ("pass", descriptor.size, 0) == (strict.source, strict.cost, registry.count())
    file = strict.open(find(strict, "etc/os-release"), strict=True)
    assert ("verified", "chunk-verified") == (strict.trust, file.trust)
    assert b"ID=example\nVERSION_ID=1\n" == file.read()


def test_strict_is_at_peace_with_a_table_that_is_vouched_for(registry: Registry) -> None:
    """No pass is made."""
    layer = open_layer(registry, real(registry, "zstd-chunked"), strict=True)
    assert b"ID=example\nVERSION_ID=1\n" == layer.open(find(layer, "etc/os-release"), strict=True).read()
    assert registry.count_bytes(path=BLOBS) < 5000


def test_an_annotation_of_another_format_vouches_for_nothing(registry: Registry, tmp_path: Path) -> None:
    """A strict layer is read once then, and an index comes before such a table."""
    annotations = {"containerd.io/snapshot/stargz/toc.digest": str(Digest.of(b"")), "other": "x"}
    descriptor = put(registry, (DATA / "zstd-chunked").read_bytes(), annotations)
    assert "unverified" == open_layer(registry, descriptor).trust
    cache = Cache(tmp_path / "cache")
    strict = open_layer(registry, descriptor, strict=True, cache=cache)
    assert ("pass", "verified", "index") == (strict.source, strict.trust, strict.source)
    assert ("index", "verified") == ((later := open_layer(registry, descriptor, cache=cache)).source, later.trust)


def test_chunks_that_lie_side_by_side_cost_one_request(registry: Registry) -> None:
    """And those of a file that is read on, more and more of them at once."""
    descriptor = real(registry, "estargz")
    layer = open_layer(registry, descriptor)
    member = find(layer, "usr/bin/tool")
    assert member.size > 4 * 65536
    with layer.open(member) as file:
        registry.reset()
        whole = file.read()
        assert 1 == registry.count(path=BLOBS)
    with layer.open(member) as file:
        registry.reset()
        parts = list(iter(lambda: file.read(4096), b""))
        assert (whole, True) == (b"".join(parts), registry.count(path=BLOBS) <= 3)
    with layer.open(member) as file:
        registry.reset()
        file.seek(-10, io.SEEK_END)
        assert whole[-10:] == file.read()
        assert 1 == registry.count(path=BLOBS)


@pytest.mark.parametrize("name", REAL)
def test_the_digest_of_a_file_is_known_where_the_table_has_it(registry: Registry, name: str) -> None:
    """So that files can be compared without their bytes."""
    layer = open_layer(registry, real(registry, name))
    member = find(layer, "etc/os-release")
    assert Digest.of(layer.open(member).read()) == layer.digest(member)
    assert layer.digest(find(layer, "usr")) is None


# Passes, indexes and copies


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "gzip", "zstd"])
def test_a_pass_is_made_once(registry: Registry, tmp_path: Path, kind: str) -> None:
    """What it costs is said before; later a file costs its spans, or nothing where the layer was copied."""
    data, (archive, files) = big(kind), big_archive()
    descriptor = put(registry, data)
    cache = Cache(tmp_path / "cache")
    layer = open_layer(registry, descriptor, cache=cache, diff_id=Digest.of(archive))
    assert ("pass", len(data)) == (layer.source, layer.cost)
    seen: list[int] = []
    layer.prepare(on_progress=seen.append)
    assert ("index", 0, "verified", len(data)) == (layer.source, layer.cost, layer.trust, seen[-1])
    assert len(data) + 72 == registry.count_bytes(path=BLOBS)
    later = open_layer(registry, descriptor, cache=cache, diff_id=Digest.of(archive))
    for found in (layer, later):
        registry.reset()
        assert ("index", 0) == (found.source, found.cost)
        assert layer.members == found.members
        with found.open(find(found, "text")) as file:
            file.seek(7_000_000)
            assert files["text"][7_000_000:7_004_096] == file.read(4096)
            assert "chunk-verified" == file.trust
        assert registry.count_bytes(path=BLOBS) <= {"plain": 600_000, "gzip": 1_500_000, "zstd": 0}[kind]
        for name, content in files.items():
            assert content == found.open(find(found, name)).read()
        assert registry.count_bytes(path=BLOBS) <= 1.2 * len(data)  # neighbours are not asked for again and again


@pytest.mark.slow
@needs_zlib
def test_a_read_anywhere_costs_less_than_a_megabyte_and_a_half(registry: Registry, tmp_path: Path) -> None:
    """Of gzip, wherever it is."""
    _, files = big_archive()
    descriptor = put(registry, big("gzip"))
    cache = Cache(tmp_path / "cache")
    open_layer(registry, descriptor, cache=cache).prepare()
    source = random.Random(9)
    for _ in range(25):
        layer = open_layer(registry, descriptor, cache=cache)
        name = source.choice(["text", "noise"])
        at = source.randrange(len(files[name]))
        registry.reset()
        with layer.open(find(layer, name)) as file:
            file.seek(at)
            assert files[name][at : at + 4096] == file.read(4096)
        assert registry.count_bytes(path=BLOBS) <= 1_500_000
        assert registry.count(path=BLOBS) <= 2


def test_without_a_cache_a_layer_is_read_once_by_each_object(registry: Registry) -> None:
    """Its copy lies in a temporary file that has no name."""
    layer = open_layer(registry, put(registry, big("zstd")), strict=True)
    _, files = big_archive()
    for name in ("text", "noise", "small/7"):
        assert files[name] == layer.open(find(layer, name)).read()
    assert (1, len(big("zstd"))) == (registry.count(path=BLOBS), registry.count_bytes(path=BLOBS))


def test_threads_make_one_pass(registry: Registry, tmp_path: Path) -> None:
    """Of one object, or of several with the same cache; and read side by side."""
    descriptor = put(registry, big("zstd"))
    one = open_layer(registry, descriptor, cache=Cache(tmp_path / "cache"), strict=True)
    layers = [one, one, *(open_layer(registry, descriptor, cache=Cache(tmp_path / "cache"), strict=True) for _ in "ab")]
    _, files = big_archive()
    results: list[object] = []

    def work(number: int, layer: LayerFiles) -> None:
        try:
            name = f"small/{150 + number}"
            results.append(layer.open(find(layer, name)).read() == files[name])
        except BaseException as error:  # noqa: BLE001 - told in the other thread
            results.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in enumerate(layers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [True] * 4 == results
    assert len(big("zstd")) == registry.count_bytes(path=BLOBS)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_what_a_pass_has_found_is_there_before_others_look(registry: Registry, tmp_path: Path, kind: str) -> None:
    """All of it is written while nobody else may begin."""

    class Watched(Cache):
        """A cache that notices."""

        held = False
        written: list[str] = []  # noqa: RUF012 - one is made

        @contextlib.contextmanager
        def alone(self, digest: Digest) -> Iterator[None]:
            """Hold."""
            with super().alone(digest):
                self.held = True
                yield
                self.held = False

        @contextlib.contextmanager
        def write(self, digest: Digest, kind: str) -> Iterator[io.FileIO]:
            """Write."""
            assert self.held
            with super().write(digest, kind) as file:
                yield file
            assert self.held
            self.written.append(kind)

    cache = Watched(tmp_path / "cache")
    open_layer(registry, put(registry, big(kind)), cache=cache, strict=True).prepare()
    copied = kind == "zstd" or not deflate.available()
    assert (["copy1"] if copied else []) + ["index1"] == cache.written
    cache.written.clear()


@pytest.mark.slow
def test_a_cache_that_cannot_be_written_is_done_without(registry: Registry, tmp_path: Path) -> None:
    """Its folder cannot be made: a pass is made by each object, and its copy has no name."""
    (tmp_path / "file").touch()
    _, files = big_archive()
    for kind in ("gzip", "zstd"):
        layer = open_layer(registry, put(registry, big(kind)), cache=Cache(tmp_path / "file" / "cache"), strict=True)
        for name in ("small/5", "noise"):
            assert files[name] == layer.open(find(layer, name)).read()


@pytest.mark.slow
def test_a_copy_that_was_removed_is_made_anew(registry: Registry, tmp_path: Path) -> None:
    """Who is reading reads on; others list from the index, and read the layer again when they open a file."""
    descriptor, cache = put(registry, big("zstd")), Cache(tmp_path / "cache")
    _, files = big_archive()
    first = open_layer(registry, descriptor, cache=cache, strict=True)
    first.prepare()
    cache.discard(descriptor.digest, "copy1")
    registry.reset()
    assert files["small/3"] == first.open(find(first, "small/3")).read()
    later = open_layer(registry, descriptor, cache=cache, strict=True)
    member = find(later, "small/4")
    assert 0 == registry.count()
    assert files["small/4"] == later.open(member).read()
    assert 1 == registry.count(path=BLOBS)


def test_a_cache_too_small_for_a_copy_still_serves_who_made_it(registry: Registry, tmp_path: Path) -> None:
    """The bytes are kept as long as the object."""
    cache = Cache(tmp_path / "cache", limit=MIB)
    layer = open_layer(registry, put(registry, big("zstd")), cache=cache)
    _, files = big_archive()
    assert files["text"] == layer.open(find(layer, "text")).read()
    assert cache.size() <= MIB


# What is wrong is refused


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "gzip", "zstd"])
def test_a_wrong_byte_on_the_wire_is_refused(registry: Registry, tmp_path: Path, kind: str) -> None:
    """In the pass, and later in every span; nothing is handed out, and the next read, when all is well, is right."""
    _, files = big_archive()
    descriptor, cache = put(registry, big(kind)), Cache(tmp_path / "cache")
    registry.fault(WrongBytes(len(big(kind)) // 2), path=BLOBS, times=1)
    layer = open_layer(registry, descriptor, cache=cache, strict=True)
    with pytest.raises(IntegrityError):
        layer.prepare()
    assert 0 == cache.size()
    layer.prepare()
    if kind == "zstd":
        return
    for at in (0, 1000, 100_000):
        registry.fault(WrongBytes(at), path=BLOBS, times=1)
        with layer.open(find(layer, "noise")) as file:
            file.seek(at * 30)
            with pytest.raises(DigestMismatch, match="none of them were returned"):
                file.read(100)
            assert at * 30 == file.tell()
            assert files["noise"][at * 30 : at * 30 + 100] == file.read(100)
        registry.clear_faults()
        layer = open_layer(registry, descriptor, cache=cache)


def test_a_wrong_byte_in_a_chunk_is_refused(registry: Registry) -> None:
    """By the table's digest."""
    layer = open_layer(registry, real(registry, "estargz"))
    member = find(layer, "usr/bin/tool")
    registry.fault(WrongBytes(20_000), path=BLOBS, times=1)
    with layer.open(member) as file:
        with pytest.raises(IntegrityError, match="none of its bytes were returned"):
            file.read()
        assert member.size == len(file.read())


@pytest.mark.slow
def test_damage_in_a_copy_is_refused(registry: Registry, tmp_path: Path) -> None:
    """Every piece has its hash; the copy is thrown away, and made anew by who comes next."""
    descriptor, cache = put(registry, big("zstd")), Cache(tmp_path / "cache")
    open_layer(registry, descriptor, cache=cache).prepare()
    (path,) = cache.folder.glob("*.copy1")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    layer = open_layer(registry, descriptor, cache=cache)
    _, files = big_archive()
    text, noise = layer.open(find(layer, "text")), layer.open(find(layer, "noise"))
    with pytest.raises(DigestMismatch, match="copy"):
        _ = text.read(), noise.read()
    later = open_layer(registry, descriptor, cache=cache)
    assert files["noise"] == later.open(find(later, "noise")).read()


@pytest.mark.slow
def test_a_damaged_index_is_made_anew(registry: Registry, tmp_path: Path) -> None:
    """As if none were there; so is that of another layer under this one's name."""
    descriptor, cache = put(registry, big("gzip")), Cache(tmp_path / "cache")
    open_layer(registry, descriptor, cache=cache).prepare()
    (path,) = cache.folder.glob("*.index1")
    right = path.read_bytes()
    other = put(registry, gzip.compress(big_archive()[0], 1))
    open_layer(registry, other, cache=cache).prepare()
    (other_path,) = [found for found in cache.folder.glob("*.index1") if found != path]
    for wrong in (right[:-1], right[:5000] + b"x" + right[5001:], b"", other_path.read_bytes()):
        path.write_bytes(wrong)
        registry.reset()
        layer = open_layer(registry, descriptor, cache=cache, strict=True)
        assert "pass" == layer.source
        layer.prepare()
        assert (1, right) == (registry.count(path=BLOBS), path.read_bytes())


@pytest.mark.slow
def test_an_index_for_another_diff_id_is_not_taken(registry: Registry, tmp_path: Path) -> None:
    """Somebody else had a config that said so, or none: here it is an error, as in a pass."""
    descriptor, cache = put(registry, big("gzip")), Cache(tmp_path / "cache")
    open_layer(registry, descriptor, cache=cache).prepare()
    layer = open_layer(registry, descriptor, cache=cache, diff_id=Digest.of(b"other"))
    with pytest.raises(DigestMismatch, match="config"):
        layer.prepare()


def test_a_registry_without_ranges_still_serves(registry: Registry, tmp_path: Path) -> None:
    """What comes before the wanted bytes is passed over."""
    cache = Cache(tmp_path / "cache")
    descriptor = put(registry, big("gzip"))
    open_layer(registry, descriptor, cache=cache).prepare()
    registry.fault(IgnoreRange(), path=BLOBS)
    layer = open_layer(registry, descriptor, cache=cache)
    _, files = big_archive()
    with layer.open(find(layer, "noise")) as file:
        file.seek(3 * MIB)
        assert files["noise"][3 * MIB : 3 * MIB + 10] == file.read(10)
    chunked = open_layer(registry, real(registry, "zstd-chunked"))
    assert b"ID=example\nVERSION_ID=1\n" == chunked.open(find(chunked, "etc/os-release")).read()


class Mirrors:
    """A source that has wrong bytes until it is told so."""

    def __init__(self, right: bytes, wrong: bytes) -> None:
        self.data, self.right = wrong, right

    def open(self, offset: int, end: int | None) -> ByteStream:
        """Open a range."""
        return io.BytesIO(self.data[offset:end])

    def stat(self) -> Stat:
        """Tell nothing."""
        return Stat()

    def distrust(self) -> bool:
        """Ask somebody else, once."""
        others, self.data = self.data != self.right, self.right
        return others


@pytest.mark.parametrize("at", [100, 40_000, 65_000, 65_600])
def test_wrong_bytes_of_a_mirror_are_asked_of_somebody_else(at: int) -> None:
    """Of the table, or of a chunk: whoever reads does not notice."""
    right = (DATA / "estargz").read_bytes()
    descriptor = Descriptor(
        "application/octet-stream", Digest.of(right), len(right), annotations=REAL["estargz"]["annotations"]
    )
    source = Mirrors(right, right[:at] + bytes([right[at] ^ 0xFF]) + right[at + 1 :])
    layer = LayerFiles(Blob(source, descriptor.digest, size=descriptor.size), descriptor)
    archive = archive_of("estargz")
    for member in layer.members:
        if member.kind is Kind.FILE:
            expected = archive.extractfile(member.path.decode())
            assert expected is not None
            assert expected.read() == layer.open(member).read()


def test_a_layer_that_ends_early_is_an_error() -> None:
    """Whatever the source promised."""
    right = (DATA / "estargz").read_bytes()
    descriptor = Descriptor("application/octet-stream", Digest.of(right), len(right))
    layer = LayerFiles(Blob(Mirrors(right[:-10], right[:-10]), descriptor.digest, size=len(right)), descriptor)
    with pytest.raises(SizeMismatch):
        _ = layer.members


def test_what_looks_like_a_footer_and_is_none(registry: Registry) -> None:
    """An annotation that vouches for it makes it an error; without one it is a layer like others."""
    archive, _ = big_archive()
    footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0" + b"%016xSTARGZ" % 2**50 + b"\x01\0\0\xff\xff" + bytes(8)
    data = gzip.compress(archive[: 3 * 512] + bytes(1024), 1) + footer
    layer = open_layer(registry, put(registry, data))
    assert "pass" == layer.source
    vouched = open_layer(registry, put(registry, data, REAL["estargz"]["annotations"]))
    with pytest.raises(MalformedDocument):
        _ = vouched.source


def test_a_table_with_holes_in_its_digests(registry: Registry) -> None:
    """What it vouches for is verified, what not is unverified; a strict layer is read once."""
    payload, entries = b"padding", []
    for name, digest in (("a", str(Digest.of(b"a" * 50))), ("b", "")):
        entry = {"name": name, "type": "reg", "size": 50, "offset": len(payload), "chunkDigest": digest}
        entries.append(entry)
        payload += gzip.compress(name.encode() * 50)
    raw = json.dumps({"version": 1, "entries": entries}).encode()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo("stargz.index.json")
        info.size = len(raw)
        tar.addfile(info, io.BytesIO(raw))
    footer = b"\x1f\x8b\x08\x04\0\0\0\0\0\xff\x1a\0SG\x16\0" + b"%016xSTARGZ" % len(payload)
    data = payload + gzip.compress(file.getvalue()) + footer + b"\x01\0\0\xff\xff" + bytes(8)
    annotations = {"containerd.io/snapshot/stargz/toc.digest": str(Digest.of(raw))}
    layer = open_layer(registry, put(registry, data, annotations))
    files = {member.path: layer.open(member) for member in layer.members}
    assert {b"a": "chunk-verified", b"b": "unverified"} == {name: file.trust for name, file in files.items()}
    assert {b"a": b"a" * 50, b"b": b"b" * 50} == {name: file.read() for name, file in files.items()}
    with pytest.raises(Unsafe):
        layer.open(find(layer, "b"), strict=True)
    strict = open_layer(registry, put(registry, data, annotations), strict=True)
    with pytest.raises(MalformedDocument):  # this one is no layer
        strict.prepare()
    assert len(data) == registry.requests[-1].body_bytes_sent


# Files


@pytest.fixture(scope="module")
def plain() -> LayerFiles:
    """A layer in memory."""
    data = big("plain")
    return LayerFiles(Blob.from_bytes(data), Descriptor("application/octet-stream", Digest.of(data), len(data)))


def test_a_file_behaves_as_files_do(plain: LayerFiles) -> None:
    """As `io.BytesIO` does, in and beyond its bounds."""
    _, files = big_archive()
    for name in ("small/9", "empty"):
        file, expected = plain.open(find(plain, name)), io.BytesIO(files[name])
        assert (True, True, False) == (file.readable(), file.seekable(), file.writable())
        for offset, whence in ((3, 0), (2, 1), (-2, 2) if files[name] else (0, 2), (100, 0), (0, 0)):
            assert expected.seek(offset, whence) == file.seek(offset, whence)
            for size in (0, 1, 4, None, -1):
                assert (expected.read(size), expected.tell()) == (file.read(size), file.tell())
                expected.seek(offset, 0 if offset >= 0 else 2)
                file.seek(offset, 0 if offset >= 0 else 2)
        file.seek(0)
        buffer = bytearray(5)
        assert min(5, len(files[name])) == file.readinto(buffer)
        assert files[name][:5] == bytes(buffer[: file.tell()])
        with pytest.raises(ValueError, match="negative"):
            file.seek(-1)
        with pytest.raises(ValueError, match="whence"):
            file.seek(0, 7)
        file.close()
        for call in (file.read, file.tell, lambda: file.seek(0), file.read1):  # noqa: B023 - called at once
            with pytest.raises(ValueError, match="closed"):
                call()


def test_lines_and_text_of_a_file(plain: LayerFiles) -> None:
    """It is a file for whoever wants one."""
    with io.TextIOWrapper(io.BufferedReader(plain.open(find(plain, "small/11")))) as text:
        assert ["11" * 12] == text.readlines()
    with plain.open(find(plain, "noise")) as file:
        assert big_archive()[1]["noise"].split(b"\n", 1)[0] + b"\n" == file.readline()


def test_what_is_no_file_cannot_be_opened(plain: LayerFiles) -> None:
    """Where links lead, the merged tree knows."""
    with pytest.raises(NotFound, match="symlink"):
        plain.open(find(plain, "link"))
    for wrong in (Member(path=b"x", kind=Kind.FILE, size=2**40, stored=2**40), Member(path=b"x", kind=Kind.FOLDER)):
        with pytest.raises(NotFound):
            plain.open(wrong)


@pytest.mark.slow
@settings(max_examples=150)
@given(st.lists(st.tuples(st.integers(0, 5 * MIB), st.integers(0, 200_000)), max_size=6))
def test_reads_in_any_order(plain: LayerFiles, reads: list[tuple[int, int]]) -> None:
    """Across pieces, again, backwards: the bytes that are there."""
    _, files = big_archive()
    with plain.open(find(plain, "text")) as file:
        for offset, size in reads:
            file.seek(offset)
            assert files["text"][offset : offset + size] == file.read(size)


def test_a_sparse_file_is_filled_with_zeros(tmp_path: Path) -> None:
    """As GNU tar stores it, and as it reads on disk."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        for at, data in ((100_000, b"first"), (900_000, b"second" * 1000), (1_500_000, b"")):
            file.seek(at)
            file.write(data)
        file.truncate(2_000_000)
    if os.system(f"tar -C {tmp_path} --sparse -cf {tmp_path}/layer.tar sparse 2>/dev/null") != 0:  # noqa: S605
        pytest.skip("needs GNU tar")
    data = (tmp_path / "layer.tar").read_bytes()
    assert len(data) < 200_000
    layer = LayerFiles(Blob.from_bytes(data), Descriptor("application/octet-stream", Digest.of(data), len(data)))
    expected = path.read_bytes()
    with layer.open(find(layer, "sparse")) as file:
        assert expected == file.read()
        for at in (0, 99_999, 100_002, 899_999, 905_999, 1_999_999):
            file.seek(at)
            assert expected[at : at + 5000] == file.read(5000)


def test_memory_does_not_grow_with_a_file(registry: Registry) -> None:
    """A range and what it unpacks to, a few times over."""
    import tracemalloc

    layer = open_layer(registry, put(registry, big("plain")), strict=True)
    file = layer.open(find(layer, "text"))
    tracemalloc.start()
    while file.read(100_000):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * READ_AHEAD


def test_blob_and_descriptor_have_to_agree() -> None:
    """They are given apart."""
    with pytest.raises(ValueError, match="descriptor"):
        LayerFiles(Blob.from_bytes(b"a"), Descriptor("application/octet-stream", Digest.of(b"b"), 1))


def test_a_repr_asks_nothing(registry: Registry) -> None:
    """It tells what is known."""
    layer = open_layer(registry, real(registry, "estargz"))
    assert "not read" in repr(layer)
    assert 0 == registry.count()
    file = layer.open(find(layer, "etc/os-release"))
    assert "toc" in repr(layer)
    assert "os-release" in repr(file)
    file.close()
    assert "closed" in repr(file)


def test_nothing_is_kept_of_a_pass_that_was_given_up(registry: Registry, tmp_path: Path) -> None:
    """Whoever watches it may end it."""

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    cache = Cache(tmp_path / "cache")
    layer = open_layer(registry, put(registry, big("zstd")), cache=cache)
    with pytest.raises(KeyboardInterrupt):
        layer.prepare(on_progress=stop)
    assert 0 == cache.size()
    assert "text" in {member.path.decode() for member in layer.members}


def test_a_planted_index_with_a_right_checksum_gives_no_bytes_of_others(registry: Registry, tmp_path: Path) -> None:
    """Whoever may write into the cache can lie about names; others than the layer's bytes cannot be had so."""
    descriptor, cache = put(registry, big("gzip")), Cache(tmp_path / "cache")
    layer = open_layer(registry, descriptor, cache=cache)
    layer.prepare()
    (path,) = cache.folder.glob("*.index1")
    true = SeekIndex.from_bytes(path.read_bytes(), descriptor.digest)
    forged = evolve(
        true, way=Way.PLAIN, members=tuple(evolve(member, offset=member.offset + 2**40) for member in true.members)
    )
    path.write_bytes(forged.to_bytes())
    later = open_layer(registry, descriptor, cache=cache)
    with pytest.raises(DistError):
        later.open(find(later, "text")).read()
