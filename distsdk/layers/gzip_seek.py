"""Read gzip data from its middle: find the points where decompression can start, and start there.

Decompression can start between two deflate blocks, even inside a byte, if the 32 KiB of output before that point are
known. The system's zlib reports these points while it decompresses. Python's `zlib` does not report them, but can start
there. (indexed_gzip finds them too, but needs files instead of streams, holds the interpreter lock, and accepts
truncated files.)
"""

from __future__ import annotations

import ctypes
import hashlib
import sys
import zlib
from functools import cache
from typing import TYPE_CHECKING, Any

from attrs import frozen

from distsdk.errors import LimitExceeded, MalformedDocument
from distsdk.layers.compression import FIRST_SLICE, GZIP_WINDOW_BITS, check_ratio

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from distsdk.layers.compression import LayerLimits

#: Uncompressed and compressed bytes after which a span ends with the next block. A short read costs one span, or two at
#: a border; two spans are less than 1.5 MB of compressed data.
SPACING = 2 * 1024 * 1024
PACKED_SPACING = 640 * 1024

#: Bytes of one span, compressed and uncompressed: a span is held in memory. No usual compressor writes longer blocks.
MAX_SPAN = 128 * 1024 * 1024

#: Bytes of a decompressed chunk.
_STEP = 256 * 1024

#: Compressed bytes passed to zlib at a time, at most: its counters have 32 bits.
_SLICE = 1024 * 1024

_WINDOW = 32 * 1024

# https://zlib.net/manual.html
_RAW = -15
_Z_BLOCK = 5
_Z_OK, _Z_STREAM_END, _Z_BUF_ERROR = 0, 1, -5
_BITS_LEFT, _LAST_BLOCK, _BLOCK_ENDED = 7, 64, 128

_TRAILER = 8  # bytes after a member's data: CRC and size

#: Empty deflate blocks (RFC 1951, section 3.2), least significant bit first, and their lengths in bits: one with fixed
#: codes, one with dynamic codes. Together they give every length modulo 8, which fills up the first byte of a span.
_FIXED, _FIXED_BITS = 0x2, 10
_DYNAMIC, _DYNAMIC_BITS = 0x5FE17F200000000000A1C004, 97


@frozen
class Span:
    """A part of a layer that is fetched, verified and decompressed on its own.

    Attributes:
        start: First byte of the span in the uncompressed layer.
        size: Uncompressed bytes.
        packed_start: First compressed byte, in the layer or in the kept copy of it.
        packed_end: Byte after the last compressed one.
        sha256: SHA-256 of the compressed bytes.
        bits: Number of bits of the first compressed byte, the highest ones, that belong to the span; 0 for all.
        window: Up to 32 KiB of output before the span, compressed by zlib; empty if not needed.
    """

    start: int
    size: int
    packed_start: int
    packed_end: int
    sha256: bytes
    bits: int = 0
    window: bytes = b""


def inflate(span: Span, packed: bytes) -> bytes:
    """Return the uncompressed bytes of a gzip span; fewer than ``span.size`` if the data ends too early.

    Args:
        span: The span.
        packed: Its compressed bytes, verified.

    Raises:
        ValueError: The bytes cannot be decompressed.
    """
    data = packed
    if span.bits:
        padding, length = (_DYNAMIC, _DYNAMIC_BITS) if span.bits % 2 else (0, 0)
        while (length + span.bits) % 8:
            padding |= _FIXED << length
            length += _FIXED_BITS
        padding |= packed[0] >> (8 - span.bits) << length
        data = padding.to_bytes((length + span.bits) // 8, "little") + packed[1:]
    parts, missing = [], span.size
    left, size = memoryview(data), FIRST_SLICE
    try:
        window = zlib.decompress(span.window) if span.window else b""
        inflater, trailer = zlib.decompressobj(_RAW, zdict=window), _TRAILER
        while missing and left:
            given = left[:size]
            part = inflater.decompress(given, missing)
            parts.append(part)
            missing -= len(part)
            left = left[len(given) - len(inflater.unused_data if inflater.eof else inflater.unconsumed_tail) :]
            size *= 2
            if inflater.eof:
                left = left[trailer:]
                # Later members are read with their headers and trailers.
                inflater, trailer, size = zlib.decompressobj(GZIP_WINDOW_BITS), 0, FIRST_SLICE
    except zlib.error as error:
        raise ValueError(str(error)) from error
    return b"".join(parts)


class Gunzip:
    """Decompresses a gzip layer, and records the spans in which it can be read later.

    Attributes:
        spans: Finished spans; all of them after `run`.
    """

    def __init__(self, limits: LayerLimits) -> None:
        """Prepare to decompress one layer. Requires `available`.

        Args:
            limits: ``ratio`` applies.
        """
        self.spans: list[Span] = []
        self._limits = limits
        self._produced = 0
        self._consumed = 0
        self._hasher = hashlib.sha256(usedforsecurity=False)
        # The open span.
        self._start = -1
        self._packed_start = 0
        self._bits = 0
        self._window = b""

    def run(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the uncompressed bytes, and read the chunks to their end.

        Args:
            chunks: The compressed bytes.

        Raises:
            MalformedDocument: The data is damaged or truncated, or other data follows.
            LimitExceeded: The layer exceeds a limit.
        """
        library = _library()
        if library is None:
            message = "zlib not found: check gzip_seek.available() first"
            raise RuntimeError(message)
        stream = _Stream()
        version = library.zlibVersion()
        if library.inflateInit2_(ctypes.byref(stream), GZIP_WINDOW_BITS, version, ctypes.sizeof(stream)) != _Z_OK:
            raise MemoryError
        try:
            yield from self._run(library, stream, chunks)
        finally:
            library.inflateEnd(ctypes.byref(stream))

    def _run(self, library: Any, stream: _Stream, chunks: Iterable[bytes]) -> Iterator[bytes]:  # noqa: ANN401
        output = ctypes.create_string_buffer(_STEP)
        stream.next_out, stream.avail_out = ctypes.addressof(output), _STEP
        reference = ctypes.byref(stream)
        ended = False  # between two members, or after the last
        last = b""  # the byte before this slice
        for packed in _slices(chunks):
            source = ctypes.c_char_p(packed)  # keeps the bytes alive and in place
            stream.next_in, stream.avail_in = ctypes.cast(source, ctypes.c_void_p).value, len(packed)
            hashed = 0
            while True:
                if ended and stream.avail_in:
                    library.inflateReset(reference)
                    ended = False
                in_before, out_before = stream.avail_in, stream.avail_out
                code = library.inflate(reference, _Z_BLOCK)
                self._consumed += in_before - stream.avail_in
                self._produced += out_before - stream.avail_out
                if code not in {_Z_OK, _Z_STREAM_END, _Z_BUF_ERROR}:
                    reason = (stream.msg or b"it needs a dictionary").decode("ascii", "replace")
                    raise MalformedDocument(
                        f"a layer's gzip data is damaged, or followed by other data, near byte {self._consumed}:"
                        f" {reason}"
                    )
                ended = code == _Z_STREAM_END
                flags = stream.data_type
                if not ended and flags & _BLOCK_ENDED and not flags & _LAST_BLOCK and self._is_due():
                    at = len(packed) - stream.avail_in
                    self._hasher.update(packed[hashed:at])
                    hashed = at
                    bits = flags & _BITS_LEFT
                    self._begin(bits, packed[at - 1 : at] if at else last, _window(library, stream))
                if not stream.avail_out:
                    self._check()
                    yield output.raw
                    stream.next_out, stream.avail_out = ctypes.addressof(output), _STEP
                elif code == _Z_BUF_ERROR or not stream.avail_in:
                    # All input is consumed. (With room for output, zlib holds no output back.)
                    break
            self._check()
            self._hasher.update(packed[hashed:])
            last = packed[-1:]
        if not ended:
            message = f"a layer's gzip data is truncated after {self._consumed} bytes"
            raise MalformedDocument(message)
        self._end(self._consumed)
        if stream.avail_out < _STEP:
            yield output.raw[: _STEP - stream.avail_out]

    def _is_due(self) -> bool:
        return (
            self._start < 0
            or self._produced - self._start >= SPACING
            or self._consumed - self._packed_start >= PACKED_SPACING
        )

    def _begin(self, bits: int, last: bytes, window: bytes) -> None:
        """Begin a span here; ``bits`` bits of the last consumed byte, ``last``, belong to it."""
        self._end(self._consumed)
        self._start, self._bits = self._produced, bits
        self._packed_start = self._consumed - bool(bits)
        self._hasher = hashlib.sha256(last if bits else b"", usedforsecurity=False)
        # Level 1 is fast enough for the network. Windows are the largest part of an index.
        self._window = zlib.compress(window, 1) if window else b""

    def _end(self, packed_end: int) -> None:
        size = self._produced - self._start
        if self._start >= 0 and size:
            self.spans.append(
                Span(
                    self._start,
                    size,
                    self._packed_start,
                    packed_end,
                    self._hasher.digest(),
                    self._bits,
                    self._window,
                )
            )

    def _check(self) -> None:
        if max(self._produced - self._start, self._consumed - self._packed_start) > MAX_SPAN:
            message = (
                f"a layer's gzip data has a block larger than the limit of {MAX_SPAN} bytes; unpack the layer instead"
            )
            raise LimitExceeded(message, limit=MAX_SPAN)
        check_ratio(self._produced, self._consumed, self._limits)


class _Stream(ctypes.Structure):
    """``z_stream``, which is the same in all versions of zlib 1."""

    _fields_ = (
        ("next_in", ctypes.c_void_p),
        ("avail_in", ctypes.c_uint),
        ("total_in", ctypes.c_ulong),
        ("next_out", ctypes.c_void_p),
        ("avail_out", ctypes.c_uint),
        ("total_out", ctypes.c_ulong),
        ("msg", ctypes.c_char_p),
        ("state", ctypes.c_void_p),
        ("zalloc", ctypes.c_void_p),
        ("zfree", ctypes.c_void_p),
        ("opaque", ctypes.c_void_p),
        ("data_type", ctypes.c_int),
        ("adler", ctypes.c_ulong),
        ("reserved", ctypes.c_ulong),
    )


def available() -> bool:
    """Return whether the system has a zlib that reports block borders."""
    return _library() is not None


@cache
def _library() -> Any:  # noqa: ANN401 - C functions
    name = "libz.1.dylib" if sys.platform == "darwin" else "libz.so.1"
    try:
        library = ctypes.CDLL(name)
        library.zlibVersion.restype = ctypes.c_char_p
        stream = ctypes.POINTER(_Stream)
        library.inflateInit2_.argtypes = (stream, ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
        library.inflate.argtypes = (stream, ctypes.c_int)
        library.inflateGetDictionary.argtypes = (stream, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint))
        library.inflateReset.argtypes = library.inflateEnd.argtypes = (stream,)
    except (OSError, AttributeError):  # missing, or older than 2013
        return None
    return library


def _window(library: Any, stream: _Stream) -> bytes:  # noqa: ANN401
    buffer = ctypes.create_string_buffer(_WINDOW)
    length = ctypes.c_uint(0)
    library.inflateGetDictionary(ctypes.byref(stream), buffer, ctypes.byref(length))
    return buffer.raw[: length.value]


def _slices(chunks: Iterable[bytes]) -> Iterator[bytes]:
    for chunk in chunks:
        if len(chunk) <= _SLICE:
            yield chunk
        else:
            for start in range(0, len(chunk), _SLICE):
                yield chunk[start : start + _SLICE]
