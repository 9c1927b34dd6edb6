"""One pass over a layer, and what it leaves behind."""

from __future__ import annotations

import gzip
import hashlib
import io
import random
import struct
import sys
import tarfile
import threading
import zlib
from typing import TYPE_CHECKING

import pytest
from attrs import evolve
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from distsdk.content.blob import Blob
from distsdk.errors import DigestMismatch, DistError, IntegrityError, LimitExceeded, MalformedDocument
from distsdk.layers import gzip_seek as deflate
from distsdk.layers import seek_index as index
from distsdk.layers.compression import DEFAULT_LIMITS, Compression, LayerLimits, decompress
from distsdk.layers.gzip_seek import PACKED_SPACING, SPACING, Gunzip, inflate
from distsdk.layers.member import Kind, Member
from distsdk.layers.seek_index import SeekIndex, Way
from distsdk.layers.tar import index_tar
from distsdk.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable

MIB = 1024 * 1024
PLAIN_TYPE = "application/vnd.oci.image.layer.v1.tar"
needs_zlib = pytest.mark.skipif(not deflate.available(), reason="needs the system's zlib")


def words(count: int, seed: int = 1) -> bytes:
    """Return text that compresses to a third."""
    source = random.Random(seed)
    known = [source.randbytes(source.randint(2, 9)).hex().encode() for _ in range(5000)]
    return b" ".join(source.choices(known, k=count // 10))[:count]


NOISE = random.Random(2).randbytes(3 * MIB)
MIXED = b"".join([words(6 * MIB), NOISE, bytes(9 * MIB), words(3 * MIB, 3)])


def archive(**files: bytes) -> bytes:
    """Return a tar archive of files."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def packed_by(level: int, strategy: int = zlib.Z_DEFAULT_STRATEGY) -> Callable[[bytes], bytes]:
    """Return a compressor of one gzip member."""

    def pack(data: bytes) -> bytes:
        compressor = zlib.compressobj(level, zlib.DEFLATED, 31, 9, strategy)
        return compressor.compress(data) + compressor.flush()

    return pack


def members_of(size: int, between: bytes = b"") -> Callable[[bytes], bytes]:
    """Return a compressor of many members, as pigz and estargz make them."""
    return lambda data: b"".join(gzip.compress(data[at : at + size], 6) + between for at in range(0, len(data), size))


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "stored": packed_by(0),
    "fast": packed_by(1),
    "default": packed_by(6),
    "best": packed_by(9),
    "fixed codes": packed_by(6, zlib.Z_FIXED),
    "huffman only": packed_by(6, zlib.Z_HUFFMAN_ONLY),
    "members": members_of(700_001),
    "large members": members_of(5 * MIB),
    "empty members": members_of(3_000_001, gzip.compress(b"")),
}


def spans(packed: bytes, step: int = MIB) -> Gunzip:
    """Return what was noted while bytes were unpacked, which were right."""
    gunzip = Gunzip(DEFAULT_LIMITS)
    unpacked = b"".join(gunzip.run(packed[at : at + step] for at in range(0, len(packed), step)))
    assert unpacked == gzip.decompress(packed)
    return gunzip


@pytest.mark.slow
@needs_zlib
@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS)
def test_every_span_can_be_read_by_itself(pack: Callable[[bytes], bytes]) -> None:
    """Spans follow on each other, have the hashes of their bytes, and unpack to what is there, wherever they begin."""
    packed = pack(MIXED)
    found = spans(packed).spans
    assert len(found) > 5
    at = 0
    for span in found:
        assert at == span.start
        at += span.size
        part = packed[span.packed_start : span.packed_end]
        assert hashlib.sha256(part).digest() == span.sha256
        assert inflate(span, part) == MIXED[span.start : at]
    assert len(MIXED) == at
    assert found == spans(packed, 99_991).spans


@pytest.mark.slow
@needs_zlib
def test_spans_begin_at_every_bit() -> None:
    """So that each way to fill up a byte is tried."""
    text = words(16 * MIB)
    tried = {span.bits for level in (1, 2, 3) for span in spans(packed_by(level)(text)).spans}
    assert set(range(8)) == tried


@pytest.mark.slow
@needs_zlib
def test_two_spans_are_less_than_a_megabyte_and_a_half() -> None:
    """What a read of a few bytes costs at most, whether the layer can be compressed or not."""
    for pack in (PACKERS["default"], PACKERS["stored"], PACKERS["fast"]):
        for span in spans(pack(MIXED)).spans:
            assert span.packed_end - span.packed_start < 750_000
            assert span.size < SPACING + 9 * MIB  # a block of zeros may be 8 MiB
    assert 2 * PACKED_SPACING < 1_500_000


@needs_zlib
@settings(max_examples=60)
@given(st.data())
def test_gzip_is_refused_as_by_the_standard_library(data: st.DataObject) -> None:
    """Cut, damaged, or followed by something: what one of the two readers takes, the other one takes, to the same."""
    whole = b"".join(gzip.compress(data.draw(st.binary(max_size=300)), data.draw(st.integers(0, 9))) for _ in range(3))
    change = data.draw(st.sampled_from(["cut", "flip", "append", "none"]))
    if change == "cut":
        whole = whole[: data.draw(st.integers(0, len(whole)))]
    elif change == "flip":
        at = data.draw(st.integers(0, len(whole) - 1))
        whole = whole[:at] + bytes([whole[at] ^ 1 << data.draw(st.integers(0, 7))]) + whole[at + 1 :]
    elif change == "append":
        whole += data.draw(st.binary(min_size=1, max_size=30))
    step = data.draw(st.integers(1, 100))
    pieces = [whole[at : at + step] for at in range(0, len(whole), step)]
    results: list[bytes | None] = []
    for output in (decompress(pieces, Compression.GZIP), Gunzip(DEFAULT_LIMITS).run(pieces)):
        try:
            results.append(b"".join(output))
        except MalformedDocument:
            results.append(None)
    assert results[0] == results[1]


@pytest.mark.slow
@needs_zlib
def test_a_bomb_is_refused_early() -> None:
    """By its ratio, before all of it was unpacked."""
    bomb = gzip.compress(bytes(300 * MIB), 1)
    seen = 0

    def unpack() -> None:
        nonlocal seen
        for part in Gunzip(LayerLimits(ratio_from=MIB, ratio=20)).run([bomb]):
            seen += len(part)

    with pytest.raises(LimitExceeded, match="bombs"):
        unpack()
    assert seen < 2 * MIB


@needs_zlib
def test_a_block_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A span has to be unpacked whole: of a block that does not end, that would be all of the layer."""
    monkeypatch.setattr(deflate, "MAX_SPAN", MIB)
    with pytest.raises(LimitExceeded, match="unpack the layer"):
        list(Gunzip(DEFAULT_LIMITS).run([packed_by(9)(bytes(3 * MIB))]))


@pytest.mark.slow
@needs_zlib
def test_threads_unpack_side_by_side() -> None:
    """Each has a stream of its own."""
    packed = PACKERS["default"](words(4 * MIB))
    wrong: list[object] = []

    def work() -> None:
        try:
            spans(packed)
        except BaseException as error:  # noqa: BLE001 - told in the other thread
            wrong.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == wrong


# The whole pass

LAYER = archive(a=words(3 * MIB), b=NOISE, c=b"", d=b"last")
LAYERS = {"plain": LAYER, "gzip": gzip.compress(LAYER), "zstd": zstd.compress(LAYER)}


def build(packed: bytes, *, copy: io.BytesIO | None = None, **options: object) -> SeekIndex:
    """Return the index of a layer."""
    file = io.BytesIO() if copy is None else copy
    return SeekIndex.build(
        Blob.from_bytes(packed),
        "application/octet-stream",
        copy=lambda: file,
        **options,  # type: ignore[arg-type] # as the test says
    )


@pytest.mark.parametrize("kind", LAYERS)
def test_a_pass_tells_members_diff_id_and_spans(kind: str) -> None:
    """Of each compression; the spans unpack to the archive, from the layer or from the copy that was made."""
    packed, copy, seen = LAYERS[kind], io.BytesIO(), list[int]()
    found = build(packed, copy=copy, diff_id=Digest.of(LAYER), on_progress=seen.append)
    assert tuple(index_tar([LAYER])[0]) == found.members
    assert (Digest.of(LAYER), Digest.of(packed), len(packed)) == (found.diff_id, found.digest, found.size)
    expected = {"plain": Way.PLAIN, "gzip": Way.GZIP if deflate.available() else Way.COPY, "zstd": Way.COPY}
    assert expected[kind] is found.way
    source = copy.getvalue() if found.way is Way.COPY else packed
    unpacked = [
        found.unpack(number, source[span.packed_start : span.packed_end]) for number, span in enumerate(found.spans)
    ]
    assert LAYER == b"".join(unpacked)
    assert [span.start for span in found.spans] == [sum(map(len, unpacked[:number])) for number in range(len(unpacked))]
    assert (len(packed), sorted(seen)) == (seen[-1], seen)


@pytest.mark.parametrize("without", ["libz", "functions"])
def test_gzip_without_the_systems_zlib_is_copied(monkeypatch: pytest.MonkeyPatch, without: str) -> None:
    """Where nobody tells the places, the layer is copied as zstd is; so where zlib is too old to."""
    if without == "libz":

        def missing(name: str) -> object:
            raise OSError(name)

        monkeypatch.setattr("ctypes.CDLL", missing)
    else:
        monkeypatch.setattr("ctypes.CDLL", lambda _: object())
    deflate._library.cache_clear()
    try:
        assert not deflate.available()
        copy = io.BytesIO()
        found = build(LAYERS["gzip"], copy=copy)
        assert Way.COPY is found.way
        span = found.spans[0]
        assert LAYER[: span.size] == found.unpack(0, copy.getvalue()[: span.packed_end])
        with pytest.raises(RuntimeError):
            list(Gunzip(DEFAULT_LIMITS).run([LAYERS["gzip"]]))
    finally:
        deflate._library.cache_clear()


@pytest.mark.slow
@pytest.mark.parametrize("kind", LAYERS)
def test_a_wrong_byte_in_a_span_is_refused_before_it_is_unpacked(kind: str) -> None:
    """Whatever of its bytes it is."""
    copy = io.BytesIO()
    found = build(LAYERS[kind], copy=copy)
    source = copy.getvalue() if found.way is Way.COPY else LAYERS[kind]
    for number, span in enumerate(found.spans):
        part = source[span.packed_start : span.packed_end]
        for at in {0, 1, len(part) // 3, len(part) - 2, len(part) - 1} & set(range(len(part))):
            with pytest.raises(DigestMismatch, match="none of them were returned"):
                found.unpack(number, part[:at] + bytes([part[at] ^ 1]) + part[at + 1 :])
        for wrong in (part[:-1], part + b"x", b""):
            with pytest.raises(DigestMismatch):
                found.unpack(number, wrong)


def test_a_wrong_layer_is_told_by_its_digest() -> None:
    """Also where the bytes that came cannot be unpacked, or are no archive."""
    right = Blob.from_bytes(LAYERS["gzip"])
    for wrong in (
        LAYERS["gzip"][:-1] + b"x",
        LAYERS["gzip"][:100] + bytes(100),
        gzip.compress(b"no archive"),
        b"x" * 99,
        archive(a=b"the first member, which is whole")[:1024],
    ):
        blob = Blob(Blob.from_bytes(wrong)._source, right.digest)
        with pytest.raises(DigestMismatch) as caught:
            SeekIndex.build(blob, "application/octet-stream", copy=io.BytesIO)
        assert str(right.digest) == caught.value.expected


@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd.compress])
def test_a_layer_may_end_with_its_last_member(pack: Callable[[bytes], bytes]) -> None:
    """As ctr-remote and `umoci insert` write it: the digest of the blob says that nothing is missing."""
    whole = archive(a=b"first", b=b"last")
    found = build(pack(whole[: 3 * 512 + 4]))
    assert index_tar([whole])[0] == [*found.members]
    assert 3 * 512 + 4 == sum(span.size for span in found.spans)


def test_a_layer_that_is_no_archive_is_refused() -> None:
    """It is what the manifest names, and cannot be read."""
    for packed in (b"", b"x" * 2000, gzip.compress(b"x"), LAYER[: 3 * MIB], LAYERS["gzip"][:-1], LAYERS["zstd"][:-1]):
        with pytest.raises(MalformedDocument):
            build(packed)
    with pytest.raises(MalformedDocument, match="media type"):
        SeekIndex.build(Blob.from_bytes(LAYERS["gzip"]), PLAIN_TYPE, copy=io.BytesIO)


def test_another_diff_id_is_refused() -> None:
    """The config says what a layer unpacks to."""
    other = Digest.of(b"other")
    with pytest.raises(DigestMismatch) as caught:
        build(LAYERS["gzip"], diff_id=other)
    assert (str(other), str(Digest.of(LAYER))) == (caught.value.expected, caught.value.got)


@pytest.mark.parametrize("kind", LAYERS)
def test_limits_hold_in_a_pass(kind: str) -> None:
    """Of what comes out, and of what is in it."""
    for limits in (LayerLimits(output=MIB), LayerLimits(members=3)):
        with pytest.raises(LimitExceeded):
            build(LAYERS[kind], limits=limits)


def test_a_pass_reads_all_of_a_layer() -> None:
    """Bytes after the end of the archive count for both digests."""
    padded = LAYER + bytes(5 * MIB)
    found = build(gzip.compress(padded))
    assert Digest.of(padded) == found.diff_id
    assert len(padded) == sum(span.size for span in found.spans)


# As a file

MEMBER = Member(
    path=b"a/\xff",
    kind=Kind.FILE,
    size=2**40,
    mode=0o4755,
    uid=2**32 - 2,
    gid=7,
    uname=b"user",
    gname=b"group",
    mtime=-(2**63 - 1),
    xattrs={b"user.\xfe": b"\x00\xff"},
    offset=512,
    stored=3,
    parts=((0, 1), (2**39, 2)),
)
INDEX = SeekIndex(
    Digest.of(b"layer"),
    5,
    Digest.of(b"archive"),
    Way.GZIP,
    (
        MEMBER,
        Member(path=b"l", kind=Kind.SYMLINK, link=b"../a"),
        Member(path=b"null", kind=Kind.CHARACTER_DEVICE, device=(1, 3)),
    ),
    (deflate.Span(0, 10, 3, 9, bytes(range(32)), 5, b"window"), deflate.Span(10, 5, 8, 12, bytes(32))),
)


def test_an_index_is_read_as_it_was_written() -> None:
    """Every field of it, for every kind of member."""
    assert INDEX == SeekIndex.from_bytes(INDEX.to_bytes(), INDEX.digest)
    for packed in LAYERS.values():
        found = build(packed)
        assert found == SeekIndex.from_bytes(found.to_bytes(), found.digest)


def test_an_index_is_small() -> None:
    """The members' share is less than a twentieth of what JSON would take."""
    members = tuple(
        evolve(MEMBER, path=b"usr/share/doc/package-%d/file-%d" % (i % 99, i), offset=i * 1024, mtime=10**18, xattrs={})
        for i in range(5000)
    )
    assert len(evolve(INDEX, members=members).to_bytes()) < 120_000


def test_a_wrong_bit_anywhere_in_an_index_is_found() -> None:
    """It is build it again then."""
    data = INDEX.to_bytes()
    for at in range(len(data)):
        with pytest.raises(MalformedDocument, match="build it again"):
            SeekIndex.from_bytes(data[:at] + bytes([data[at] ^ 1 << at % 8]) + data[at + 1 :], INDEX.digest)
    for cut in range(len(data)):
        with pytest.raises(MalformedDocument, match="build it again"):
            SeekIndex.from_bytes(data[:cut], INDEX.digest)


def test_an_index_of_another_layer_is_refused() -> None:
    """Whatever name the file has."""
    with pytest.raises(MalformedDocument, match="another layer"):
        SeekIndex.from_bytes(INDEX.to_bytes(), Digest.of(b"another layer"))


@pytest.mark.slow
@settings(max_examples=300)
@given(st.data())
def test_an_index_with_a_right_checksum_and_wrong_content(data: st.DataObject) -> None:
    """Somebody who can write it can lie; but it is refused with our error, or read, never anything else."""
    whole = INDEX.to_bytes()
    begin = len(b"distsdk layer index\0") + 4 + 32
    body = bytearray(whole[begin:])
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    forged = whole[: begin - 32] + hashlib.sha256(body).digest() + bytes(body)
    try:
        found = SeekIndex.from_bytes(forged, INDEX.digest)
    except MalformedDocument:
        return
    assert found.digest == INDEX.digest
    for number in range(len(found.spans)):
        with pytest.raises(IntegrityError):
            found.unpack(number, b"bytes of the layer")


@pytest.mark.slow
@needs_zlib
def test_spans_that_lie_are_refused() -> None:
    """Their bytes are right by their hashes and do not unpack to what they should: an error, not a traceback."""
    packed = gzip.compress(words(5 * MIB) + bytes(512))
    true = spans(packed).spans[1]
    part = packed[true.packed_start : true.packed_end]
    lies = [
        evolve(true, bits=(true.bits + 1) % 8),
        evolve(true, size=true.size + SPACING),
        evolve(true, window=b"no zlib"),
        evolve(true, window=b"", size=true.size),
    ]
    for lie in lies:
        found = evolve(INDEX, spans=(lie,))
        try:
            unpacked = found.unpack(0, part)
        except DistError:
            continue
        assert unpacked != MIXED  # bits that happen to be a block: nobody but a liar in the cache gets here


def test_numbers_that_do_not_fit_are_no_index() -> None:
    """Such a layer is read anew each time; nothing wraps around."""
    for change in ({"size": 2**64}, {"offset": -1}, {"path": bytes(2**16)}):
        with pytest.raises(ValueError, match=r"format|requires|argument|range|short"):
            evolve(INDEX, members=(evolve(MEMBER, **change),)).to_bytes()


def test_an_index_of_another_version_is_left_alone() -> None:
    """So that versions can be used side by side."""
    data = INDEX.to_bytes()
    at = len(b"distsdk layer index\0")
    newer = data[:at] + struct.pack("<I", index.VERSION + 1) + data[at + 4 :]
    with pytest.raises(MalformedDocument, match="version"):
        SeekIndex.from_bytes(newer, INDEX.digest)


def test_nothing_heavy_is_imported() -> None:
    """Reading from an index takes the standard library, and zstd for a copy."""
    assert "indexed_gzip" not in sys.modules
