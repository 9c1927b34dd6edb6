"""`SeekIndex`: the members of a layer, and the spans in which it can be read, recorded in one verified pass.

The pass checks the digest of the layer and its diffID. Later reads fetch single spans, and compare the SHA-256 of each
with the recorded one before decompressing it. For a gzip layer the index keeps up to 32 KiB of window for each span. A
layer that cannot be read from its middle (zstd; gzip if the system has no zlib) is copied during the pass, in pieces of
zstd frames.

The file format is distsdk's own: magic, version, SHA-256 of the rest, a JSON head with the digest of the layer, and
compressed sections. The checksum detects damage but not forgery: `Cache` keeps other users from writing.
"""

from __future__ import annotations

import hashlib
import json
import struct
import sys
import zlib
from contextlib import closing
from enum import Enum
from typing import IO, TYPE_CHECKING, Any

from attrs import field, frozen

from distsdk.errors import DigestMismatch, IntegrityError, MalformedDocument
from distsdk.layers import gzip_seek as deflate
from distsdk.layers.compression import DEFAULT_LIMITS, Compression, compression_of, decompress, peek
from distsdk.layers.gzip_seek import Gunzip, Span
from distsdk.layers.member import Kind, Member
from distsdk.layers.tar import index_tar
from distsdk.spec.digest import Digest
from distsdk.spec.strict_json import load_json

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Self

    from distsdk.content.blob import Blob
    from distsdk.layers.compression import LayerLimits

#: Version of the file format. A file of another version is replaced.
VERSION = 1

_MAGIC = b"distsdk layer index\0"
_CHECKSUM = 32

#: Bytes of a span of an uncompressed layer, and of a piece of a copy before compression.
PLAIN_SPAN = 256 * 1024
COPY_SPAN = 1024 * 1024

#: kind, mode, size, uid, gid, mtime, device (2), offset, stored; lengths of path, link, uname, gname and the rest.
_MEMBER = struct.Struct("<BHQQQqQQQQHHHHI")
#: size, start and end of the compressed bytes, bits, length of the window, SHA-256.
_SPAN = struct.Struct("<QQQBI32s")

#: The largest size that C's ``off_t`` holds.
_MAX_SIZE = 2**63 - 1

#: Errors raised while parsing a file whose checksum is right but whose values are invalid.
_PARSE_ERRORS = (
    *(struct.error, zlib.error, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError),
)

#: Kinds by their numbers in the file: tar's type flags.
_KINDS = {int(kind.value): kind for kind in Kind}
_NO_XATTRS: dict[bytes, bytes] = {}


class Way(Enum):
    """The way to read the spans of a layer."""

    PLAIN = "plain"  # from the uncompressed layer
    GZIP = "gzip"  # from the gzip layer
    COPY = "copy"  # from the kept copy


@frozen
class SeekIndex:
    """The members and spans of a layer.

    Attributes:
        digest: Digest of the layer.
        size: Size of the layer in bytes.
        diff_id: SHA-256 of the uncompressed layer.
        way: The way to read its spans.
        members: The entries in the order of the archive.
        spans: Spans that cover the uncompressed layer from its first byte to its last.
    """

    digest: Digest
    size: int
    diff_id: Digest
    way: Way
    members: tuple[Member, ...] = field(repr=False)
    spans: tuple[Span, ...] = field(repr=False)

    @classmethod
    def build(
        cls,
        blob: Blob,
        media_type: str,
        *,
        diff_id: Digest | None = None,
        limits: LayerLimits = DEFAULT_LIMITS,
        copy: Callable[[], IO[bytes]],
        on_progress: Callable[[int], object] = lambda _: None,
    ) -> Self:
        """Read a whole layer, and return its index.

        Args:
            blob: The layer.
            media_type: Media type from the manifest.
            diff_id: Expected digest of the uncompressed layer; None to skip the check.
            limits: Limits of the layer.
            copy: Returns a writable file for a copy; called only if a copy is needed.
            on_progress: Called with the bytes that were read so far.

        Raises:
            DigestMismatch, SizeMismatch: The layer has another digest or size, or another diffID than ``diff_id``.
            MalformedDocument: The layer is damaged.
            LimitExceeded: The layer exceeds a limit.
            DistError: As `Blob.stream`.
            OSError: The copy cannot be written.
        """
        with closing(_Counted(blob, on_progress)) as source:
            try:
                way, spans, unpacked = _unpacked(source, media_type, limits, copy)
                members, got = index_tar(unpacked, limits=limits, vouched_for=True)  # the blob's digest is checked
            except MalformedDocument:
                source.finish()  # raises DigestMismatch if the bytes are corrupt, which explains the damage
                raise
            source.finish()
        if diff_id is not None and diff_id != got:
            message = f"diffID of layer {blob.digest} is wrong: expected {diff_id} from the config, got {got}"
            raise DigestMismatch(message, expected=str(diff_id), got=str(got))
        return cls(blob.digest, source.count, got, way, tuple(members), tuple(spans))

    def unpack(self, number: int, packed: bytes) -> bytes:
        """Verify and decompress a span.

        Args:
            number: Number of the span, from 0.
            packed: Its compressed bytes.

        Raises:
            DigestMismatch: The bytes differ from those of the pass. They were not decompressed.
            IntegrityError: The bytes are right but cannot be decompressed: the index is wrong.
        """
        span = self.spans[number]
        got = hashlib.sha256(packed, usedforsecurity=False)
        where = f"bytes {span.packed_start} to {span.packed_end} of {self.digest}"
        if self.way is Way.COPY:
            where = f"bytes {span.start} to {span.start + span.size} in the copy of {self.digest}"
        if got.digest() != span.sha256:
            raise DigestMismatch(
                f"{where} have a wrong digest: expected sha256:{span.sha256.hex()}, got sha256:{got.hexdigest()}; none"
                " of them were returned",
                expected=f"sha256:{span.sha256.hex()}",
                got=f"sha256:{got.hexdigest()}",
            )
        try:
            if self.way is Way.GZIP:
                data = deflate.inflate(span, packed)
            elif self.way is Way.COPY:
                data = _unpacked_piece(packed, span.size)
            else:
                data = packed
        except ValueError as error:
            message = f"{where} cannot be decompressed ({error}): the index is wrong; clear the cache"
            raise IntegrityError(message) from error
        if len(data) != span.size:
            message = f"{where} unpack to {len(data)} bytes, expected {span.size}: the index is wrong; clear the cache"
            raise IntegrityError(message)
        return data

    # File format

    def to_bytes(self) -> bytes:
        """Return the index in the format that `from_bytes` reads.

        Raises:
            ValueError: A member has a number of more than 64 bits, or a name of 64 KiB or more.
        """
        sections = list(self._sections())
        head = json.dumps(
            {
                "digest": str(self.digest),
                "size": self.size,
                "diffID": str(self.diff_id),
                "way": self.way.value,
                "members": len(self.members),
                "spans": len(self.spans),
                "sections": [[len(packed), size] for packed, size in sections],
            }
        ).encode()
        body = b"".join([struct.pack("<I", len(head)), head, *(packed for packed, _ in sections)])
        checksum = hashlib.sha256(body, usedforsecurity=False).digest()
        return b"".join([_MAGIC, struct.pack("<I", VERSION), checksum, body])

    def _sections(self) -> Iterator[tuple[bytes, int]]:
        """Yield the sections, each with its uncompressed size: members, their names, spans, windows."""
        rows: list[bytes] = []
        texts: list[bytes] = []
        try:
            for member in self.members:
                rest = _rest(member)
                names = (member.path, member.link, member.uname, member.gname, rest)
                texts.extend(names)
                rows.append(
                    _MEMBER.pack(
                        int(member.kind.value),
                        member.mode,
                        member.size,
                        member.uid,
                        member.gid,
                        member.mtime,
                        *member.device,
                        member.offset,
                        member.stored,
                        *map(len, names),
                    )
                )
            spans = [
                _SPAN.pack(s.size, s.packed_start, s.packed_end, s.bits, len(s.window), s.sha256) for s in self.spans
            ]
        except struct.error as error:
            raise ValueError(str(error)) from error
        for raw in (b"".join(rows), b"".join(texts), b"".join(spans)):
            yield zlib.compress(raw, 6), len(raw)
        windows = b"".join(span.window for span in self.spans)
        yield windows, len(windows)

    @classmethod
    def from_bytes(cls, data: bytes, digest: Digest) -> Self:
        """Parse an index.

        Args:
            data: The bytes of the file.
            digest: Digest of the layer.

        Raises:
            MalformedDocument: The file is damaged, of another version, or of another layer. Build the index again.
        """
        begin = len(_MAGIC) + 4
        if data[:begin] != _MAGIC + struct.pack("<I", VERSION):
            raise MalformedDocument(f"layer index invalid: expected version {VERSION}; build it again")
        body = memoryview(data)[begin + _CHECKSUM :]
        if hashlib.sha256(body, usedforsecurity=False).digest() != data[begin : begin + _CHECKSUM]:
            raise MalformedDocument("layer index invalid: wrong checksum; build it again")
        try:
            return cls._parsed(body, digest)
        except _PARSE_ERRORS as error:
            raise MalformedDocument(f"layer index invalid: {error}; build it again") from error

    @classmethod
    def _parsed(cls, body: memoryview, digest: Digest) -> Self:
        (length,) = struct.unpack_from("<I", body)
        head: dict[str, Any] = load_json(bytes(body[4 : 4 + length]), what="the head of a layer index")
        if head["digest"] != str(digest):
            raise ValueError("it is the index of another layer")
        at = 4 + length
        sections = []
        for packed, size in head["sections"]:
            sections.append((body[at : at + packed], size))
            at += packed
        (rows, texts, spans), (windows, _) = [_inflated(*section) for section in sections[:3]], sections[3]
        members = tuple(_members(rows, texts))
        found = tuple(_spans(spans, windows))
        if (len(members), len(found), at) != (head["members"], head["spans"], len(body)):
            raise ValueError("its numbers of members, spans or bytes are wrong")
        return cls(digest, int(head["size"]), Digest.parse(head["diffID"]), Way(head["way"]), members, found)


class _Counted:
    """The chunks of a blob, with the number of bytes read so far."""

    def __init__(self, blob: Blob, on_progress: Callable[[int], object]) -> None:
        self.count = 0
        self._stream = blob.stream()
        self._on_progress = on_progress

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        chunk = next(self._stream)
        self.count += len(chunk)
        self._on_progress(self.count)
        return chunk

    def finish(self) -> None:
        """Read the rest of the blob, whose digest is checked after the last byte."""
        for _ in self:
            pass

    def close(self) -> None:
        close = getattr(self._stream, "close", None)
        if close is not None:
            close()


def _unpacked(
    source: Iterable[bytes], media_type: str, limits: LayerLimits, copy: Callable[[], IO[bytes]]
) -> tuple[Way, list[Span], Iterator[bytes]]:
    """Return the way to read the layer later, the list to which its spans are added, and its uncompressed bytes."""
    head, chunks = peek(source)
    compression = compression_of(media_type, head)
    spans: list[Span] = []
    if compression is Compression.PLAIN:
        return Way.PLAIN, spans, _plain(decompress(chunks, compression, limits=limits), spans)
    if compression is Compression.GZIP and deflate.available():
        gunzip = Gunzip(limits)
        # Already decompressed; this applies the limit of the output.
        return Way.GZIP, gunzip.spans, decompress(gunzip.run(chunks), Compression.PLAIN, limits=limits)
    return Way.COPY, spans, _copied(decompress(chunks, compression, limits=limits), copy(), spans)


def _plain(chunks: Iterable[bytes], spans: list[Span]) -> Iterator[bytes]:
    """Yield the chunks of an uncompressed layer, and add its spans to ``spans``."""
    hasher, start, end = hashlib.sha256(usedforsecurity=False), 0, 0
    for chunk in chunks:
        view = memoryview(chunk)
        while view:
            part = view[: start + PLAIN_SPAN - end]
            hasher.update(part)
            end += len(part)
            view = view[len(part) :]
            if end == start + PLAIN_SPAN:
                spans.append(Span(start, end - start, start, end, hasher.digest()))
                hasher, start = hashlib.sha256(usedforsecurity=False), end
        yield chunk
    if end > start:
        spans.append(Span(start, end - start, start, end, hasher.digest()))


def _copied(chunks: Iterable[bytes], file: IO[bytes], spans: list[Span]) -> Iterator[bytes]:
    """Yield the chunks, and write them to a file as zstd frames, which are added to ``spans``."""
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    pending: list[bytes] = []
    start = packed_start = size = 0

    def write() -> None:
        nonlocal start, packed_start, size
        # Level 1 is fast enough for the network.
        packed = zstd.compress(b"".join(pending), 1)
        file.write(packed)
        digest = hashlib.sha256(packed, usedforsecurity=False).digest()
        spans.append(Span(start, size, packed_start, packed_start + len(packed), digest))
        start, packed_start, size = start + size, packed_start + len(packed), 0
        pending.clear()

    for chunk in chunks:
        pending.append(chunk)
        size += len(chunk)
        if size >= COPY_SPAN:
            write()
        yield chunk
    if size:
        write()


def _unpacked_piece(packed: bytes, size: int) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    try:
        return zstd.ZstdDecompressor().decompress(packed, size)
    except zstd.ZstdError as error:
        raise ValueError(str(error)) from error


def _rest(member: Member) -> bytes:
    """Return the attributes that few members have: extended attributes, and the parts of a sparse file."""
    if not member.xattrs and not member.parts:
        return b""
    xattrs = {key.decode("latin-1"): value.decode("latin-1") for key, value in member.xattrs.items()}
    return json.dumps([xattrs, member.parts], separators=(",", ":")).encode()


def _inflated(packed: memoryview, size: int) -> bytes:
    data = zlib.decompressobj().decompress(packed, size + 1)
    if len(data) != size:
        raise ValueError("a section has a wrong size")
    return data


def _members(rows: bytes, texts: bytes) -> Iterator[Member]:
    at = 0
    same: dict[bytes, bytes] = {}  # one object for each name of a user or group
    for row in _MEMBER.iter_unpack(rows):
        kind, mode, size, uid, gid, mtime, major, minor, offset, stored, path, link, uname, gname, rest = row
        to_link = at + path
        to_user = to_link + link
        to_group = to_user + uname
        to_rest = to_group + gname
        end = to_rest + rest
        user, group = texts[to_user:to_group], texts[to_group:to_rest]
        xattrs = _NO_XATTRS
        parts: tuple[tuple[int, int], ...] = ()
        if rest:
            found, pairs = json.loads(texts[to_rest:end])
            xattrs = {key.encode("latin-1"): value.encode("latin-1") for key, value in found.items()}
            parts = tuple((int(start), int(length)) for start, length in pairs)
        yield Member(
            path=texts[at:to_link],
            kind=_KINDS[kind],
            size=size,
            mode=mode,
            uid=uid,
            gid=gid,
            uname=same.setdefault(user, user),
            gname=same.setdefault(group, group),
            mtime=mtime,
            link=texts[to_link:to_user],
            device=(major, minor),
            xattrs=xattrs,
            offset=offset,
            stored=stored,
            parts=parts,
        )
        at = end
    if at != len(texts):
        raise ValueError("the section of names is too long")


def _spans(rows: bytes, windows: memoryview) -> Iterator[Span]:
    start = at = 0
    for size, packed_start, packed_end, bits, length, digest in _SPAN.iter_unpack(rows):
        if not size or start + size > _MAX_SIZE or packed_end <= packed_start or bits > 7:
            raise ValueError("a span is invalid")
        yield Span(start, size, packed_start, packed_end, digest, bits, bytes(windows[at : at + length]))
        start += size
        at += length
