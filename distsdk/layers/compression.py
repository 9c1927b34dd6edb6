"""Detect the compression of a layer, and decompress it within limits."""

from __future__ import annotations

import sys
from enum import Enum
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from attrs import field, frozen, validators

from distsdk._moved import restore_fields, saved_fields
from distsdk._text import human_size, quoted
from distsdk.errors import LimitExceeded, MalformedDocument

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Bytes of a decompressed chunk, at most. Of 256 KiB to 4 MiB, 2 MiB was the fastest between threads.
STEP = 2 * 1024 * 1024

#: Compressed bytes passed to a decompressor at a time, at most. It copies all unused input whenever it returns.
_SLICE = 512 * 1024
#: Compressed bytes passed first for each gzip member or zstd frame, then doubled. So the input that is copied at the
#: end of a member is never longer than the member, and many small members take linear time.
FIRST_SLICE = 256

#: Bytes at the beginning of a layer that identify its compression.
MAGIC_SIZE = 4

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
#: https://www.rfc-editor.org/rfc/rfc8878#section-3.1.2: a first byte from 0x50 to 0x5F precedes these three.
_SKIPPABLE = b"\x2a\x4d\x18"

#: Bytes of the header of a zstd frame, at most: https://www.rfc-editor.org/rfc/rfc8878#section-3.1.1.1
_MAX_FRAME_HEADER = 18

#: zlib's ``wbits`` for gzip (16) with a window of 32 KiB (15): https://zlib.net/manual.html
GZIP_WINDOW_BITS = 31


class Compression(Enum):
    """The compression of a layer."""

    PLAIN = "plain"
    GZIP = "gzip"
    ZSTD = "zstd"


def _limit(default: int) -> int:
    value: int = field(default=default, validator=validators.gt(0))
    return value


@frozen(kw_only=True)
class LayerLimits:
    """Limits on the resources that a layer may use, since it may be a decompression bomb.

    Attributes:
        output: Uncompressed bytes of a layer, and of all layers that are unpacked together. Also the size of one file,
            holes included.
        ratio: Uncompressed bytes per compressed byte. Zeros in gzip reach 1,030, usual layers 10, logs 30.
        ratio_from: Uncompressed bytes from which on ``ratio`` is checked.
        window: Bytes of the window of a zstd frame; the default is that of ``zstd --long=27``.
        members: Entries of one layer.
        image_members: Entries of all layers of an image together; a layer that the manifest lists twice counts twice.
            The directories that entries imply in the merged tree have a limit of the same size.
        path: Bytes of the name of an entry and of a link's target; the default is Linux's ``PATH_MAX``.
        header: Bytes of the extended headers of one entry: pax records including extended attributes, long names, the
            map of a sparse file.
        headers: Bytes of the extended headers of all entries of a layer.
    """

    output: int = _limit(64 * 1024**3)
    ratio: int = _limit(250)
    ratio_from: int = _limit(256 * 1024**2)
    window: int = _limit(128 * 1024**2)
    members: int = _limit(1_000_000)
    image_members: int = _limit(2_000_000)
    path: int = _limit(4096)
    header: int = _limit(1024**2)
    headers: int = _limit(256 * 1024**2)

    def __getstate__(self) -> dict[str, object]:
        return saved_fields(self)

    def __setstate__(self, state: object) -> None:
        restore_fields(self, state)


DEFAULT_LIMITS = LayerLimits()


def raise_limit(name: str) -> str:
    """Return the remedy for a message: how to raise a limit of `LayerLimits`.

    Args:
        name: The attribute.
    """
    return f"if you trust the layer, pass limits=LayerLimits({name}=…) to distsdk.apply or distsdk.LayerFiles"


def too_many_entries(limits: LayerLimits) -> LimitExceeded:
    """Return the error for layers that exceed the common limit of entries.

    Args:
        limits: ``image_members`` is the limit.
    """
    return LimitExceeded(
        f"the layers, with the directories that they imply, have more than {limits.image_members:,} entries together, "
        "which is the limit; if you trust them, unpack one after the other with distsdk.apply",
        limit=limits.image_members,
    )


def compression_of(media_type: str, head: bytes) -> Compression:
    """Return the compression of a layer.

    Args:
        media_type: Media type of the layer. If it names a compression, the bytes must agree; others, such as
            ``application/octet-stream``, leave the decision to the bytes.
        head: First `MAGIC_SIZE` bytes of the layer, or all of a shorter one.

    Raises:
        MalformedDocument: Media type and bytes disagree.
    """
    if head.startswith(_GZIP):
        found = Compression.GZIP
    elif head.startswith(_ZSTD) or _is_skippable(head):
        found = Compression.ZSTD
    else:
        found = Compression.PLAIN
    declared = _declared_by(media_type)
    if declared is not None and declared is not found:
        raise MalformedDocument(
            f"compression of a layer is invalid: expected {declared.value} for media type {quoted(media_type)}, got "
            f"{found.value}; the image must be built again"
        )
    return found


def _declared_by(media_type: str) -> Compression | None:
    if media_type.endswith(("+gzip", ".gzip")):
        return Compression.GZIP
    if media_type.endswith(("+zstd", ".zstd")):
        return Compression.ZSTD
    return Compression.PLAIN if media_type.endswith(".tar") else None


def _is_skippable(head: bytes) -> bool:
    return head[:1] >= b"\x50" and head[:1] <= b"\x5f" and head[1:4] == _SKIPPABLE


def peek(chunks: Iterable[bytes], size: int = MAGIC_SIZE) -> tuple[bytes, Iterator[bytes]]:
    """Return the first bytes of an iterable, and an iterator over all of its chunks.

    Args:
        chunks: The chunks.
        size: Number of bytes; fewer are returned if the chunks have fewer.
    """
    rest = iter(chunks)
    seen: list[bytes] = []
    while sum(map(len, seen)) < size and (chunk := next(rest, None)) is not None:
        seen.append(chunk)
    return b"".join(seen)[:size], chain(seen, rest)


def decompress(
    chunks: Iterable[bytes], compression: Compression, *, limits: LayerLimits = DEFAULT_LIMITS
) -> Iterator[bytes]:
    """Yield the uncompressed bytes of a layer in constant memory, and read the compressed bytes to their end.

    gzip data may have several members, zstd data several frames, including skippable ones. No other data may follow.

    Args:
        chunks: The compressed bytes.
        compression: Their compression.
        limits: ``output``, ``ratio`` and ``window`` apply.

    Yields:
        Chunks of at least one byte, and of at most `STEP` bytes unless the layer is uncompressed.

    Raises:
        MalformedDocument: The data is damaged or truncated, or other data follows.
        LimitExceeded: The layer exceeds a limit.
    """
    consumed = produced = 0

    def counted() -> Iterator[memoryview]:
        nonlocal consumed
        for chunk in chunks:
            view = memoryview(chunk)
            for start in range(0, len(view), _SLICE):
                piece = view[start : start + _SLICE]
                consumed += len(piece)
                yield piece

    if compression is Compression.GZIP:
        output = _gunzip(counted())
    elif compression is Compression.ZSTD:
        output = _unzstd(counted(), limits.window)
    else:
        output = filter(None, iter(chunks))
    for chunk in output:
        produced += len(chunk)
        if produced > limits.output:
            raise LimitExceeded(
                f"a layer unpacks to more than the limit of {human_size(limits.output)}; {raise_limit('output')}",
                limit=limits.output,
            )
        if compression is not Compression.PLAIN:
            check_ratio(produced, consumed, limits)
        yield chunk


def check_ratio(produced: int, consumed: int, limits: LayerLimits) -> None:
    """Refuse a layer that grows as decompression bombs do.

    Args:
        produced: Uncompressed bytes so far.
        consumed: Compressed bytes so far.
        limits: ``ratio`` and ``ratio_from`` apply.

    Raises:
        LimitExceeded: The ratio exceeds the limit.
    """
    if produced > limits.ratio_from and produced > limits.ratio * consumed:
        raise LimitExceeded(
            f"a layer unpacks to more than {limits.ratio} times its compressed size, as decompression bombs do; "
            f"{raise_limit('ratio')}",
            limit=limits.ratio,
        )


class _Inflater(Protocol):
    """The decompressor objects of `zlib` and of isal."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    def decompress(self, data: memoryview, max_length: int, /) -> bytes: ...


class _Zlib(Protocol):
    """The module `zlib`, or isal's replacement for it."""

    error: type[Exception]

    def decompressobj(self, wbits: int) -> _Inflater: ...


def _zlib() -> _Zlib:
    """Return the fastest module that is installed."""
    for name in ("isal.isal_zlib", "zlib"):
        try:
            module: _Zlib = import_module(name)
        except ImportError:
            continue
        return module
    raise AssertionError


def _gunzip(pieces: Iterator[memoryview]) -> Iterator[bytes]:
    zlib = _zlib()
    inflater = zlib.decompressobj(GZIP_WINDOW_BITS)
    size = FIRST_SLICE
    at = 0
    for piece in pieces:
        left = piece
        output = b""
        while left or len(output) == STEP:  # after a full step the decompressor may hold more output
            if inflater.eof:
                if not left:
                    break
                inflater, size = zlib.decompressobj(GZIP_WINDOW_BITS), FIRST_SLICE
            given = left[:size]
            try:
                output = inflater.decompress(given, STEP)
            except zlib.error as error:
                raise MalformedDocument(
                    f"a layer's gzip data is damaged, or followed by other data, between byte {at} and "
                    f"{at + len(piece)}: {error}"
                ) from error
            left = left[len(given) - len(inflater.unused_data if inflater.eof else inflater.unconsumed_tail) :]
            size = min(2 * size, _SLICE)
            if output:
                yield output
        at += len(piece)
    if not inflater.eof:
        raise _cut("gzip", at)


def _unzstd(pieces: Iterator[memoryview], window: int) -> Iterator[bytes]:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: min(31, max(10, window.bit_length() - 1))}
    frame: zstd.ZstdDecompressor | None = None
    begun = b""  # an incomplete frame header
    size = FIRST_SLICE
    at = 0
    for piece in pieces:
        left = piece
        while left:
            if frame is None:
                head = begun + bytes(left[: _MAX_FRAME_HEADER - len(begun)])
                if not _has_frame_header(head, at, window):
                    begun = head
                    break
                frame, size = zstd.ZstdDecompressor(options=options), FIRST_SLICE
                frame.decompress(begun, STEP)
                begun = b""
            given = left[:size]
            try:
                output = frame.decompress(given, STEP)
                while output:
                    yield output
                    output = b"" if frame.eof or frame.needs_input else frame.decompress(b"", STEP)
            except zstd.ZstdError as error:
                raise MalformedDocument(
                    f"a layer's zstd data is damaged between byte {at} and {at + len(piece)}: {error}"
                ) from error
            left = left[len(given) - len(frame.unused_data) if frame.eof else len(given) :]
            size = min(2 * size, _SLICE)
            if frame.eof:
                frame = None
        at += len(piece)
    if frame is not None or begun or not at:
        raise _cut("zstd", at)


def _has_frame_header(head: bytes, at: int, window: int) -> bool:
    """Check the beginning of a zstd frame, and return whether the header is complete.

    The library refuses large windows too, but with the same error as for damaged data.

    Args:
        head: First bytes of the frame.
        at: Position of the frame in the layer, for messages.
        window: Largest window in bytes.

    Raises:
        MalformedDocument: The bytes do not begin a frame, or the frame needs a dictionary.
        LimitExceeded: The frame needs a larger window.
    """
    if len(head) < MAGIC_SIZE:
        return False
    if _is_skippable(head):
        return True
    if not head.startswith(_ZSTD):
        raise MalformedDocument(f"a layer's zstd data is damaged, or followed by other data, near byte {at}")
    # https://www.rfc-editor.org/rfc/rfc8878#section-3.1.1.1
    if len(head) == MAGIC_SIZE:
        return False
    flags = head[4]
    single = bool(flags & 0x20)
    window_size = 0 if single else 1
    dictionary_size = (0, 1, 2, 4)[flags & 3]
    content_size = (1 if single else 0, 2, 4, 8)[flags >> 6]
    if len(head) < 5 + window_size + dictionary_size + content_size:
        return False
    rest = head[5 + window_size :]
    if any(rest[:dictionary_size]):
        raise MalformedDocument("a layer's zstd data cannot be decompressed: it needs a dictionary")
    if single:
        needed = int.from_bytes(rest[dictionary_size : dictionary_size + content_size], "little")
        needed += 256 if content_size == 2 else 0
    else:
        base = 1 << (10 + (head[5] >> 3))
        needed = base + base // 8 * (head[5] & 7)
    if needed > window:
        raise LimitExceeded(
            f"a layer's zstd data needs a window of {human_size(needed)}, the limit is {human_size(window)}; "
            f"{raise_limit('window')}",
            limit=window,
        )
    return True


def _cut(name: str, size: int) -> MalformedDocument:
    return MalformedDocument(f"a layer's {name} data is truncated after {size} bytes")
