"""Layers are told apart, unpacked whatever their chunks, and refused when they are damaged or bombs."""

from __future__ import annotations

import gzip
import random
import subprocess
import sys
import tracemalloc
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distsdk.errors import LimitExceeded, MalformedDocument
from distsdk.layers import compression, toc
from distsdk.layers import gzip_seek as deflate
from distsdk.layers.compression import FIRST_SLICE, STEP, Compression, LayerLimits, compression_of, decompress, peek
from distsdk.spec import media_types as media

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1024 * 1024
PLAIN, GZIP, ZSTD = Compression.PLAIN, Compression.GZIP, Compression.ZSTD
TEXT = b"".join(b"%d: what compresses well, but not too well\n" % number for number in range(40_000))


@pytest.fixture(params=["zlib", "isal"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """What unpacks gzip: the standard library, and isal where it is installed."""
    name: str = request.param
    if name == "isal":
        pytest.importorskip("isal", reason="isal is not installed: only the standard library's zlib is tested")
    else:
        for module in ("isal", "isal.isal_zlib"):
            monkeypatch.setitem(sys.modules, module, None)
    return name


def pack(data: bytes, how: Compression) -> bytes:
    """Return ``data`` packed, as tools do."""
    if how is GZIP:
        return gzip.compress(data, mtime=0)
    return zstd.compress(data, options={zstd.CompressionParameter.checksum_flag: 1}) if how is ZSTD else data


def unpack(packed: bytes, how: Compression, *cuts: int, limits: LayerLimits = compression.DEFAULT_LIMITS) -> bytes:
    """Return what comes out of ``packed``, given in chunks that end at ``cuts``."""
    ends = sorted({0, len(packed), *(cut % (len(packed) + 1) for cut in cuts)})
    return b"".join(decompress([packed[a:b] for a, b in pairwise(ends)], how, limits=limits))


class Sizes:
    """How much came, also where it ended in an error."""

    total = 0

    def extend(self, chunks: Iterator[bytes]) -> None:
        """Take all of it."""
        for chunk in chunks:
            self.total += len(chunk)


# What it is


@pytest.mark.parametrize("media_type", sorted(media.LAYERS))
def test_media_type_and_bytes_have_to_agree(media_type: str) -> None:
    """Each media type of a layer says how it is packed; other bytes are refused by name."""
    said = GZIP if "gzip" in media_type else ZSTD if "zstd" in media_type else PLAIN
    for how in Compression:
        head = pack(TEXT[:100], how)[:4]
        if how is said:
            assert how is compression_of(media_type, head)
        else:
            with pytest.raises(MalformedDocument, match=f"got {how.value}; the image must be built again"):
                compression_of(media_type, head)


@pytest.mark.parametrize("media_type", ["", media.OCTET_STREAM, "application/vnd.example.model"])
@pytest.mark.parametrize("how", list(Compression))
def test_bytes_decide_where_nothing_is_said(media_type: str, how: Compression) -> None:
    """What may be anything is what its first bytes are; so are a few bytes, and none."""
    assert how is compression_of(media_type, pack(TEXT, how)[:4])
    assert PLAIN is compression_of(media_type, b"")
    assert PLAIN is compression_of(media_type, b"\x1f")


@pytest.mark.parametrize("first", [0x50, 0x5F])
def test_zstd_may_begin_with_a_skippable_frame(first: int) -> None:
    """Some tools put what they have to say first."""
    assert ZSTD is compression_of(media.OCI_LAYER_ZSTD, bytes([first]) + b"\x2a\x4d\x18")
    assert PLAIN is compression_of("", bytes([first + 0x10]) + b"\x2a\x4d\x18")


def test_a_look_at_the_beginning_takes_nothing_away() -> None:
    """Whatever the chunks, what was looked at comes again."""
    head, chunks = peek([b"a", b"", b"bc", b"defg", b"h"])
    assert (b"abcd", b"abcdefgh") == (head, b"".join(chunks))
    head, chunks = peek([b"a"])
    assert (b"a", [b"a"]) == (head, list(chunks))


# What comes out


@settings(max_examples=60)
@given(
    parts=st.lists(st.binary(max_size=2000) | st.integers(0, 60_000).map(lambda n: TEXT[:n]), min_size=1, max_size=5),
    cuts=st.lists(st.integers(0, 1 << 20), max_size=6),
    how=st.sampled_from(Compression),
)
def test_members_and_frames_in_any_chunks(parts: list[bytes], cuts: list[int], how: Compression) -> None:
    """Several members or frames, empty ones too, unpack to what they were, wherever the chunks end."""
    assert b"".join(parts) == unpack(b"".join(pack(part, how) for part in parts), how, *cuts)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("size", [0, 1, STEP - 1, STEP, STEP + 1, 3 * STEP])
@pytest.mark.parametrize("chunk", [1 << 10, 1 << 16, 1 << 18, 1 << 24])
def test_sizes_around_a_step(size: int, chunk: int) -> None:
    """Output that just fills a step is followed by the rest of it, and chunks are of one step at most."""
    data = bytes(size)
    packed = gzip.compress(data, mtime=0) + gzip.compress(data, mtime=0)
    chunks = list(decompress([packed[at : at + chunk] for at in range(0, len(packed), chunk)], GZIP))
    assert data * 2 == b"".join(chunks)
    assert all(0 < len(found) <= STEP for found in chunks)


@pytest.mark.usefixtures("engine")
def test_bytes_one_by_one() -> None:
    """Headers, footers and blocks may be cut anywhere."""
    for how in (GZIP, ZSTD):
        packed = (pack(TEXT[:300], how) + pack(b"", how)) * 2
        assert TEXT[:300] * 2 == unpack(packed, how, *range(len(packed)))


@pytest.mark.parametrize(
    ("tool", "how"), [("gzip", GZIP), ("pigz", GZIP), ("zstd", ZSTD), ("zstd --long=27", ZSTD), ("zstd -19", ZSTD)]
)
def test_what_other_tools_pack(tool: str, how: Compression) -> None:
    """What command line tools write is unpacked."""
    try:
        packed = subprocess.run([*tool.split(), "-c"], input=TEXT, stdout=subprocess.PIPE, check=True).stdout
    except FileNotFoundError:
        pytest.skip(f"{tool.split(maxsplit=1)[0]} is not installed")
    assert how is compression_of("", packed[:4])
    assert TEXT == unpack(packed, how)


def skippable(data: bytes) -> bytes:
    """Return a frame that means nothing to a decompressor."""
    return b"\x57\x2a\x4d\x18" + len(data).to_bytes(4, "little") + data


def test_skippable_frames_are_skipped() -> None:
    """Before, between and after: zstd:chunked has its table of contents there."""
    packed = skippable(b"x") + pack(b"a", ZSTD) + skippable(b"") + pack(b"b", ZSTD) + skippable(bytes(70_000))
    assert b"ab" == unpack(packed, ZSTD)
    assert b"ab" == unpack(packed, ZSTD, *range(60))
    with pytest.raises(MalformedDocument, match="is truncated after"):
        unpack(packed[:-1], ZSTD)


# Many members or frames


class Counted:
    """A decompressor that counts the bytes given to it: it copies what it does not use of them."""

    given = 0

    def __init__(self, decompressor: Any) -> None:  # noqa: ANN401 - of three kinds
        self._decompressor = decompressor

    def decompress(self, data: bytes | memoryview, *limit: int) -> bytes:
        """Decompress as the decompressor does."""
        Counted.given += len(data)
        output: bytes = self._decompressor.decompress(data, *limit)
        return output

    def __getattr__(self, name: str) -> object:
        return getattr(self._decompressor, name)


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """Return the bytes given to decompressors since the last call."""

    class Zlib:
        error = zlib.error

        @staticmethod
        def decompressobj(wbits: int, zdict: bytes = b"") -> Counted:
            return Counted(zlib.decompressobj(wbits, zdict))

        decompress = staticmethod(zlib.decompress)

    decompressor = zstd.ZstdDecompressor
    monkeypatch.setattr("distsdk.layers.compression._zlib", lambda: Zlib)
    monkeypatch.setattr("distsdk.layers.gzip_seek.zlib", Zlib)
    monkeypatch.setattr("distsdk.layers.toc.zlib", Zlib)
    monkeypatch.setattr(zstd, "ZstdDecompressor", lambda **options: Counted(decompressor(**options)))

    def since() -> int:
        found, Counted.given = Counted.given, 0
        return found

    since()
    return since


@pytest.mark.parametrize("part", [b"", b"x", TEXT[:2000]])
@pytest.mark.parametrize("how", [GZIP, ZSTD])
def test_members_and_frames_are_unpacked_in_linear_work(how: Compression, part: bytes, fed: Callable[[], int]) -> None:
    """Of the bytes after a short member or frame, no more are copied than a fixed number and its own size."""
    packed = pack(part, how)
    number = 4000
    assert part * number == b"".join(decompress([packed * number], how))
    assert fed() <= number * (2 * len(packed) + FIRST_SLICE)


def test_skippable_frames_are_skipped_in_linear_work(fed: Callable[[], int]) -> None:
    """Of the bytes after a skippable frame, no more are copied than a fixed number."""
    number = 20_000
    assert b"" == unpack(skippable(b"") * number, ZSTD)
    assert fed() <= number * (8 + FIRST_SLICE)


@pytest.mark.parametrize("size", [0, 1])
def test_a_span_of_many_members_is_read_in_linear_work(size: int, fed: Callable[[], int]) -> None:
    """A span that is read again, with many short members, is copied no more than they are when all is unpacked."""
    packed = pack(TEXT, GZIP)
    rest = pack(b"x" * size, GZIP) * 4000
    if not deflate.available():
        pytest.skip("the system has no zlib that can be asked for places")
    gunzip = deflate.Gunzip(LayerLimits())
    chunks = list(gunzip.run([packed + rest]))
    assert len(chunks) <= len(TEXT) // (64 * 1024) + 2  # no chunk for each member
    fed()
    (span,) = gunzip.spans
    part = (packed + rest)[span.packed_start : span.packed_end]
    assert b"".join(chunks)[span.start :] == deflate.inflate(span, part)
    assert fed() <= 2 * len(packed) + len(rest) + 4000 * FIRST_SLICE


@pytest.mark.parametrize("how", [GZIP, ZSTD])
def test_a_chunk_of_many_members_is_read_in_linear_work(how: Compression, fed: Callable[[], int]) -> None:
    """A chunk of a table of contents, with many short members or frames, is copied no more than a layer of them."""
    packed = pack(b"x", how)
    number = 4000
    chunk = toc.Chunk(offset=0, start=0, end=number * len(packed), inner=0, size=number, digest=None)
    assert b"x" * number == toc.unpack_chunk(chunk, packed * number, "gzip" if how is GZIP else "zstd")
    assert fed() <= number * (2 * len(packed) + FIRST_SLICE)


# What is refused


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("how", [GZIP, ZSTD])
def test_every_cut_is_an_error(how: Compression) -> None:
    """However much of it is missing, none at all and all of it included, unless it ends with a member or frame."""
    first = pack(TEXT[:200], how)
    packed = first + pack(TEXT[:100], how)
    for end in range(len(packed)):
        if end == len(first):
            assert TEXT[:200] == unpack(packed[:end], how)
            continue
        with pytest.raises(MalformedDocument, match="is truncated after"):
            unpack(packed[:end], how)


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("how", [GZIP, ZSTD])
def test_every_damaged_byte_is_an_error(how: Compression) -> None:
    """A changed byte is found out, or changes nothing: a time, a system, bits that fill up a byte."""
    packed = pack(TEXT[:200], how)
    harmless = 0
    for at in range(len(packed)):
        damaged = packed[:at] + bytes([packed[at] ^ 0x10]) + packed[at + 1 :]
        try:
            assert TEXT[:200] == unpack(damaged, how)
            harmless += 1
        except (MalformedDocument, LimitExceeded):
            pass
    assert harmless <= 8


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("how", [GZIP, ZSTD])
@pytest.mark.parametrize("garbage", [b"\0", b"\0" * 512, b"garbage", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"])
def test_what_follows_is_an_error(how: Compression, garbage: bytes) -> None:
    """Zeros that pad, another format, the beginning of another member."""
    packed = pack(TEXT, how)
    for cut in (0, len(packed), len(packed) + 1):
        with pytest.raises(MalformedDocument):
            unpack(packed + garbage, how, cut)


def test_a_dictionary_is_an_error() -> None:
    """No layer can bring one along."""
    trained = zstd.train_dict([b"a sample %d of many" % number for number in range(500)], 2048)
    packed = zstd.compress(TEXT, zstd_dict=trained)
    with pytest.raises(MalformedDocument, match="needs a dictionary"):
        unpack(packed, ZSTD)


@pytest.mark.parametrize("how", list(Compression))
def test_output_has_a_limit(how: Compression) -> None:
    """No byte beyond the limit is handed out."""
    limits = LayerLimits(output=len(TEXT) - 1)
    got = Sizes()
    with pytest.raises(LimitExceeded, match="output=") as caught:
        got.extend(decompress([pack(TEXT, how)], how, limits=limits))
    assert len(TEXT) - 1 == caught.value.limit
    assert got.total < len(TEXT)
    assert TEXT == unpack(pack(TEXT, how), how, limits=LayerLimits(output=len(TEXT)))


def bomb(how: Compression, mib: int) -> bytes:
    """Return zeros, packed."""
    if how is ZSTD:
        return b"".join([zstd.compress(bytes(MIB))] * mib)
    packer = zlib.compressobj(9, wbits=31)
    return b"".join([packer.compress(bytes(MIB)) for _ in range(mib)] + [packer.flush()])


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize("how", [GZIP, ZSTD])
def test_a_bomb_is_refused_in_little_memory(how: Compression) -> None:
    """What unpacks to a thousand times its size is stopped once it is large, and never held."""
    packed = bomb(how, 300)
    tracemalloc.start()
    try:
        got = Sizes()
        with pytest.raises(LimitExceeded, match="250 times") as caught:
            got.extend(decompress([packed], how))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 250 == caught.value.limit
    assert 254 * MIB <= got.total <= 256 * MIB
    assert peak < 8 * MIB
    assert 300 * MIB == sum(map(len, decompress([packed], how, limits=LayerLimits(ratio=100_000))))


def long_window(log: int) -> bytes:
    """Return random bytes packed with a window of 2 to the power of ``log``, streamed so that it is not cut down."""
    parameters = zstd.CompressionParameter
    packer = zstd.ZstdCompressor(options={parameters.window_log: log, parameters.enable_long_distance_matching: 0})
    data = random.Random(1).randbytes(MIB)
    return packer.compress(data) + packer.flush()


def test_a_window_has_a_limit() -> None:
    """128 MiB, what `zstd --long=27` needs, is unpacked; twice that is refused, and the message says both."""
    assert MIB == len(unpack(long_window(27), ZSTD))
    packed = long_window(28)
    for cuts in ((), range(10)):
        with pytest.raises(
            LimitExceeded, match=r"needs a window of 256\.0 MiB, .* limit is 128\.0 MiB.*window="
        ) as caught:
            unpack(packed, ZSTD, *cuts)
        assert 128 * MIB == caught.value.limit
    assert MIB == len(unpack(packed, ZSTD, limits=LayerLimits(window=256 * MIB)))


def test_a_frame_of_one_segment_has_the_same_limit() -> None:
    """It needs as much memory as it unpacks to."""
    packed = zstd.compress(TEXT, options={zstd.CompressionParameter.window_log: 21})
    assert packed[4] & 0x20  # as libzstd writes what it has at once and fits a window
    with pytest.raises(LimitExceeded, match="window="):
        unpack(packed, ZSTD, limits=LayerLimits(window=len(TEXT) - 1))
    assert TEXT == unpack(packed, ZSTD, limits=LayerLimits(window=2 * MIB))


def test_limits_are_positive() -> None:
    """A limit of nothing is a mistake."""
    with pytest.raises(ValueError, match="ratio"):
        LayerLimits(ratio=0)


def test_isal_is_used_where_it_is_installed(engine: str) -> None:
    """The module that unpacks is the fastest there is."""
    module: Any = compression._zlib()
    assert {"zlib": "zlib", "isal": "isal.isal_zlib"}[engine] == module.__name__


def test_nothing_is_read_ahead() -> None:
    """A chunk is asked for when what the one before unpacked to was taken."""
    asked = []

    def chunks() -> Iterator[bytes]:
        for number in range(3):
            asked.append(number)
            yield pack(TEXT[:100], GZIP)

    output = decompress(chunks(), GZIP)
    assert (TEXT[:100], [0]) == (next(output), asked)
