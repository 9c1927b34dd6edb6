"""How the bytes of a layer are packed: told apart, and unpacked within limits."""

from __future__ import annotations

import sys
from enum import Enum
from importlib import import_module
from itertools import chain
from typing import TYPE_CHECKING, Protocol

from attrs import field, frozen, validators

from distsdk._moved import restore_fields
from distsdk._text import human_size, quoted
from distsdk.errors import LimitExceeded, MalformedDocument

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

#: Bytes handed out at a time, at most: of 256 KiB to 4 MiB, 2 MiB was the fastest where threads pass them on.
STEP = 2 * 1024 * 1024

#: Packed bytes given to a decompressor at a time, at most: it copies what it has not yet used whenever it returns …
_SLICE = 512 * 1024
#: … and of a member or frame that begins. Doubled as it goes on, so that what is copied at its end is no more than it
#: had itself, and members of few bytes cost few.
FIRST_SLICE = 256

#: Bytes from the beginning of a layer that tell how it is packed.
MAGIC_SIZE = 4

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
#: https://www.rfc-editor.org/rfc/rfc8878#section-3.1.2: of the first byte, the lower four bits are anything.
_SKIPPABLE = b"\x2a\x4d\x18"

#: Bytes of the header of a zstd frame, at most: https://www.rfc-editor.org/rfc/rfc8878#section-3.1.1.1
_MAX_FRAME_HEADER = 18

#: Bytes of a member's header, footer and window bits included: gzip, not zlib or raw deflate.
_GZIP_WINDOW_BITS = 31


class Compression(Enum):
    """How a layer is packed."""

    PLAIN = "plain"
    GZIP = "gzip"
    ZSTD = "zstd"


def _limit(default: int) -> int:
    value: int = field(default=default, validator=validators.gt(0))
    return value


@frozen(kw_only=True)
class LayerLimits:
    """How much a layer may be: whoever packed it may have meant it as a bomb.

    Attributes:
        output: Bytes it may unpack to; for several layers that are unpacked together, all of them. No file in it may be
            larger either, holes included.
        ratio: How many times as many as its packed bytes that may be; gzip reaches 1,030 with zeros, files that are no
            bombs some 10, logs 30.
        ratio_from: Bytes it may unpack to before the ratio counts.
        window: Bytes that a zstd decompressor may have to keep, as ``zstd --long=27`` does.
        members: Entries it may have …
        image_members: … and all layers of an image together, a layer that is named twice counted twice. In the merged
            tree, the directories that they imply may be as many again.
        path: Bytes of the name of an entry, and of what a link points to: what Linux takes in one call.
        header: Bytes of the extended headers of one entry (PAX records with its extended attributes, long names, the
            map of a sparse file) …
        headers: … and of all entries together.
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

    def __setstate__(self, state: object) -> None:
        restore_fields(self, state)


DEFAULT_LIMITS = LayerLimits()


def too_many_entries(limits: LayerLimits) -> LimitExceeded:
    """Return the error of layers that have more entries than they may have together."""
    return LimitExceeded(
        f"the layers have more entries together, with the directories these imply, than the limit of "
        f"{limits.image_members:,}: pass limits=LayerLimits(image_members=…) if they are to be trusted",
        limit=limits.image_members,
    )


def compression_of(media_type: str, head: bytes) -> Compression:
    """Return how a layer is packed.

    Args:
        media_type: What it is said to be. A media type that says how it is packed has to be right; one that does not,
            such as ``application/octet-stream``, leaves it to the bytes.
        head: Its first bytes, `MAGIC_SIZE` of them where there are so many.

    Raises:
        MalformedDocument: Media type and bytes disagree.
    """
    if head.startswith(_GZIP):
        found = Compression.GZIP
    elif head.startswith(_ZSTD) or _is_skippable(head):
        found = Compression.ZSTD
    else:
        found = Compression.PLAIN
    said = _said_by(media_type)
    if said is not None and said is not found:
        raise MalformedDocument(
            f"a layer of media type {quoted(media_type)} is {found.value} by its first bytes: whoever made the image "
            "has to correct one of them"
        )
    return found


def _said_by(media_type: str) -> Compression | None:
    if media_type.endswith(("+gzip", ".gzip")):
        return Compression.GZIP
    if media_type.endswith(("+zstd", ".zstd")):
        return Compression.ZSTD
    return Compression.PLAIN if media_type.endswith(".tar") else None


def _is_skippable(head: bytes) -> bool:
    return head[:1] >= b"\x50" and head[:1] <= b"\x5f" and head[1:4] == _SKIPPABLE


def peek(chunks: Iterable[bytes], size: int = MAGIC_SIZE) -> tuple[bytes, Iterator[bytes]]:
    """Return the first bytes, ``size`` of them unless there are fewer, and all chunks, those looked at included."""
    rest = iter(chunks)
    seen: list[bytes] = []
    while sum(map(len, seen)) < size and (chunk := next(rest, None)) is not None:
        seen.append(chunk)
    return b"".join(seen)[:size], chain(seen, rest)


def decompress(
    chunks: Iterable[bytes], compression: Compression, *, limits: LayerLimits = DEFAULT_LIMITS
) -> Iterator[bytes]:
    """Yield what a layer unpacks to, in constant memory; all of the packed bytes have been read when it ends.

    gzip may have several members, zstd several frames, skippable ones among them. What follows on the last one has to
    be another one.

    Args:
        chunks: The packed bytes.
        compression: How they are packed.
        limits: Those of output, ratio and window hold here.

    Yields:
        Chunks of at least one byte: of `STEP` bytes, 2 MiB, at most where something was unpacked.

    Raises:
        MalformedDocument: The bytes are damaged, end in the middle, or are followed by something else.
        LimitExceeded: They would unpack to more than a limit allows.
    """
    taken = given = 0

    def counted() -> Iterator[memoryview]:
        nonlocal taken
        for chunk in chunks:
            view = memoryview(chunk)
            for start in range(0, len(view), _SLICE):
                piece = view[start : start + _SLICE]
                taken += len(piece)
                yield piece

    if compression is Compression.GZIP:
        output = _gunzip(counted())
    elif compression is Compression.ZSTD:
        output = _unzstd(counted(), limits.window)
    else:
        output = filter(None, iter(chunks))
    for chunk in output:
        given += len(chunk)
        if given > limits.output:
            raise LimitExceeded(
                f"a layer unpacks to more than the limit of {human_size(limits.output)}: pass limits=LayerLimits("
                "output=…) if it is to be trusted",
                limit=limits.output,
            )
        if compression is not Compression.PLAIN and given > limits.ratio_from and given > limits.ratio * taken:
            raise LimitExceeded(
                f"a layer unpacks to more than {limits.ratio} times its packed size, as bombs do: pass "
                "limits=LayerLimits(ratio=…) if it is to be trusted",
                limit=limits.ratio,
            )
        yield chunk


class _Inflater(Protocol):
    """What `zlib.decompressobj` returns, and isal's like it."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    def decompress(self, data: memoryview, max_length: int, /) -> bytes: ...


class _Zlib(Protocol):
    """The module `zlib`, or isal's like it."""

    error: type[Exception]

    def decompressobj(self, wbits: int) -> _Inflater: ...


def _zlib() -> _Zlib:
    """Return the fastest there is; what comes out is the same."""
    for name in ("isal.isal_zlib", "zlib"):
        try:
            module: _Zlib = import_module(name)
        except ImportError:
            continue
        return module
    raise AssertionError


def _gunzip(pieces: Iterator[memoryview]) -> Iterator[bytes]:
    zlib = _zlib()
    inflater = zlib.decompressobj(_GZIP_WINDOW_BITS)
    size = FIRST_SLICE
    at = 0
    for piece in pieces:
        left = piece
        output = b""
        while left or len(output) == STEP:  # a full step may leave more in the decompressor than it has taken in
            if inflater.eof:
                if not left:
                    break
                inflater, size = zlib.decompressobj(_GZIP_WINDOW_BITS), FIRST_SLICE
            given = left[:size]
            try:
                output = inflater.decompress(given, STEP)
            except zlib.error as error:
                raise MalformedDocument(
                    f"a layer's gzip data is damaged, or followed by something else, between byte {at} and "
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
    begun = b""  # the header of a frame, as long as it is not all there
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
    """Look at the beginning of a frame, and return whether it is all there.

    The library refuses large windows too, but does not say so in a way that can be told from damage.

    Raises:
        MalformedDocument: It is not one, or one that needs a dictionary.
        LimitExceeded: It needs a larger window than ``window``.
    """
    if len(head) < MAGIC_SIZE:
        return False
    if _is_skippable(head):
        return True
    if not head.startswith(_ZSTD):
        raise MalformedDocument(f"a layer's zstd data is damaged, or followed by something else, near byte {at}")
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
        raise MalformedDocument("a layer's zstd data needs a dictionary, which no layer may: it cannot be unpacked")
    if single:
        needed = int.from_bytes(rest[dictionary_size : dictionary_size + content_size], "little")
        needed += 256 if content_size == 2 else 0
    else:
        base = 1 << (10 + (head[5] >> 3))
        needed = base + base // 8 * (head[5] & 7)
    if needed > window:
        raise LimitExceeded(
            f"a layer's zstd data needs {human_size(needed)} of memory to be unpacked, the limit is "
            f"{human_size(window)}: pass limits=LayerLimits(window=…) if it is to be trusted",
            limit=window,
        )
    return True


def _cut(name: str, size: int) -> MalformedDocument:
    return MalformedDocument(f"a layer's {name} data ends after {size} bytes, in the middle: it was cut")
