"""gzip that is read from its middle: where that can begin, and how.

Deflate can be entered between two of its blocks, even inside a byte, by whoever has the 32 KiB that come before. The
system's zlib tells those places while it unpacks. Python's `zlib` does not, but needs nothing more to read from them.
(indexed_gzip tells them too. It wants files rather than streams, holds the interpreter's lock, and takes a cut file
for a whole one.)
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
from distsdk.layers.compression import FIRST_SLICE

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from distsdk.layers.compression import LayerLimits

#: Bytes between two places, unpacked and packed, the last block of each not counted: a read of a few bytes costs one
#: span, or two where it lies across a border. Two are less than 1.5 MB.
SPACING = 2 * 1024 * 1024
PACKED_SPACING = 640 * 1024

#: Bytes of one span, packed and unpacked, since it has to be in memory. A block that is longer was made to be.
MAX_SPAN = 128 * 1024 * 1024

#: Bytes handed out at a time.
_STEP = 256 * 1024

#: Packed bytes given to zlib at a time, at most: its counters have 32 bits.
_SLICE = 1024 * 1024

_WINDOW = 32 * 1024

# https://zlib.net/manual.html
_GZIP = 31  # window bits
_RAW = -15
_Z_BLOCK = 5
_Z_OK, _Z_STREAM_END, _Z_BUF_ERROR = 0, 1, -5
_BITS_LEFT, _LAST_BLOCK, _BLOCK_ENDED = 7, 64, 128

_TRAILER = 8  # bytes after a member's data: CRC and size

#: A block of deflate with nothing in it (RFC 1951, section 3.2), least significant bit first, and its bits: with fixed
#: codes, and with codes of its own. Of these, every number of bits modulo 8 can be put together; that fills up the byte
#: inside which a span begins.
_FIXED, _FIXED_BITS = 0x2, 10
_DYNAMIC, _DYNAMIC_BITS = 0x5FE17F200000000000A1C004, 97


@frozen
class Span:
    """A part of a layer that is fetched, verified and unpacked by itself.

    Attributes:
        start: Where what it unpacks to begins, in the unpacked layer.
        size: Bytes that it unpacks to.
        packed_start: Where its packed bytes begin: in the layer, or in the copy that is kept of it.
        packed_end: Where they end.
        sha256: Of the packed bytes.
        bits: How many of the first packed byte's bits, the highest ones, belong to it; 0 for all.
        window: What comes before, 32 KiB at most, deflated by zlib; empty where it is not needed.
    """

    start: int
    size: int
    packed_start: int
    packed_end: int
    sha256: bytes
    bits: int = 0
    window: bytes = b""


def inflate(span: Span, packed: bytes) -> bytes:
    """Return what a span of gzip unpacks to, with the standard library alone; fewer bytes where it ends too early.

    Args:
        span: Which one.
        packed: Its packed bytes, verified.

    Raises:
        ValueError: They cannot be unpacked.
    """
    data = packed
    if span.bits:
        junk, length = (_DYNAMIC, _DYNAMIC_BITS) if span.bits % 2 else (0, 0)
        while (length + span.bits) % 8:
            junk |= _FIXED << length
            length += _FIXED_BITS
        junk |= packed[0] >> (8 - span.bits) << length
        data = junk.to_bytes((length + span.bits) // 8, "little") + packed[1:]
    parts, wanted = [], span.size
    left, size = memoryview(data), FIRST_SLICE
    try:
        window = zlib.decompress(span.window) if span.window else b""
        inflater, trailer = zlib.decompressobj(_RAW, zdict=window), _TRAILER
        while wanted and left:
            given = left[:size]
            part = inflater.decompress(given, wanted)
            parts.append(part)
            wanted -= len(part)
            left = left[len(given) - len(inflater.unused_data if inflater.eof else inflater.unconsumed_tail) :]
            size *= 2
            if inflater.eof:
                left = left[trailer:]
                # The next ones take header and trailer themselves.
                inflater, trailer, size = zlib.decompressobj(_GZIP), 0, FIRST_SLICE
    except zlib.error as error:
        raise ValueError(str(error)) from error
    return b"".join(parts)


class Gunzip:
    """Unpacks a layer as `decompress` does, and takes note of the spans it could be read in.

    Attributes:
        spans: Those that have ended; all, when `run` has.
    """

    def __init__(self, limits: LayerLimits) -> None:
        """Begin; `available` has to have said yes.

        Args:
            limits: Those of output and ratio hold here.
        """
        self.spans: list[Span] = []
        self._limits = limits
        self._given = 0
        self._taken = 0
        self._hasher = hashlib.sha256(usedforsecurity=False)
        # Where the span begins that has not ended yet.
        self._start = -1
        self._packed_start = 0
        self._bits = 0
        self._window = b""

    def run(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield what the chunks unpack to; all of them have been read when it ends.

        Raises:
            MalformedDocument: They are damaged, end in the middle, or are followed by something else.
            LimitExceeded: They would unpack to more than a limit allows.
        """
        library = _library()
        if library is None:
            message = "there is no zlib to ask"
            raise RuntimeError(message)
        stream = _Stream()
        version = library.zlibVersion()
        if library.inflateInit2_(ctypes.byref(stream), _GZIP, version, ctypes.sizeof(stream)) != _Z_OK:
            raise MemoryError
        try:
            yield from self._run(library, stream, chunks)
        finally:
            library.inflateEnd(ctypes.byref(stream))

    def _run(self, library: Any, stream: _Stream, chunks: Iterable[bytes]) -> Iterator[bytes]:  # noqa: ANN401
        output = ctypes.create_string_buffer(_STEP)
        stream.next_out, stream.avail_out = ctypes.addressof(output), _STEP
        reference = ctypes.byref(stream)
        ended = False  # a member, and none has begun since
        last = b""  # byte before this slice
        for packed in _slices(chunks):
            source = ctypes.c_char_p(packed)  # keeps it alive, and where it is
            stream.next_in, stream.avail_in = ctypes.cast(source, ctypes.c_void_p).value, len(packed)
            hashed = 0
            while True:
                if ended and stream.avail_in:
                    library.inflateReset(reference)
                    ended = False
                in_before, out_before = stream.avail_in, stream.avail_out
                code = library.inflate(reference, _Z_BLOCK)
                self._taken += in_before - stream.avail_in
                self._given += out_before - stream.avail_out
                if code not in {_Z_OK, _Z_STREAM_END, _Z_BUF_ERROR}:
                    reason = (stream.msg or b"it needs a dictionary").decode("ascii", "replace")
                    raise MalformedDocument(
                        f"a layer's gzip data is damaged, or followed by something else, near byte {self._taken}:"
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
                    # Nothing is left to be taken. (With room for output, zlib holds nothing back.)
                    break
            self._check()
            self._hasher.update(packed[hashed:])
            last = packed[-1:]
        if not ended:
            message = f"a layer's gzip data ends after {self._taken} bytes, in the middle: it was cut"
            raise MalformedDocument(message)
        self._end(self._taken)
        if stream.avail_out < _STEP:
            yield output.raw[: _STEP - stream.avail_out]

    def _is_due(self) -> bool:
        return (
            self._start < 0
            or self._given - self._start >= SPACING
            or self._taken - self._packed_start >= PACKED_SPACING
        )

    def _begin(self, bits: int, last: bytes, window: bytes) -> None:
        """Begin a span here; ``last`` is the byte that was taken last, of which ``bits`` were not used."""
        self._end(self._taken)
        self._start, self._bits = self._given, bits
        self._packed_start = self._taken - bool(bits)
        self._hasher = hashlib.sha256(last if bits else b"", usedforsecurity=False)
        # Level 1: windows are most of what an index has, and are made while a layer comes in.
        self._window = zlib.compress(window, 1) if window else b""

    def _end(self, packed_end: int) -> None:
        size = self._given - self._start
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
        if max(self._given - self._start, self._taken - self._packed_start) > MAX_SPAN:
            message = (
                f"a layer's gzip data has a block larger than the limit of {MAX_SPAN} bytes: unpack the layer instead"
            )
            raise LimitExceeded(message, limit=MAX_SPAN)
        limits = self._limits
        if self._given > limits.ratio_from and self._given > limits.ratio * self._taken:
            raise LimitExceeded(
                f"a layer unpacks to more than {limits.ratio} times its packed size, as bombs do: pass "
                "limits=LayerLimits(ratio=…) if it is to be trusted",
                limit=limits.ratio,
            )


class _Stream(ctypes.Structure):
    """``z_stream``, which has been the same in all versions of zlib 1."""

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
    """Return whether the system has a zlib that can be asked for places."""
    return _library() is not None


@cache
def _library() -> Any:  # noqa: ANN401 - functions of another language
    name = "libz.1.dylib" if sys.platform == "darwin" else "libz.so.1"
    try:
        library = ctypes.CDLL(name)
        library.zlibVersion.restype = ctypes.c_char_p
        stream = ctypes.POINTER(_Stream)
        library.inflateInit2_.argtypes = (stream, ctypes.c_int, ctypes.c_char_p, ctypes.c_int)
        library.inflate.argtypes = (stream, ctypes.c_int)
        library.inflateGetDictionary.argtypes = (stream, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint))
        library.inflateReset.argtypes = library.inflateEnd.argtypes = (stream,)
    except (OSError, AttributeError):  # not there, or older than 2013
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
