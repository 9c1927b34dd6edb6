"""Read the tables of contents of eStargz and zstd:chunked layers.

Both are ordinary layers whose files are compressed in separate chunks. A JSON document at the end lists the position
and the digest of each chunk; an annotation of the layer's descriptor has the digest of that document.

https://github.com/containerd/stargz-snapshotter/blob/v0.12.0/docs/estargz.md
https://github.com/containers/storage/blob/v1.55.0/docs/containers-storage-zstd-chunked.md
"""

from __future__ import annotations

import base64
import json
import re
import struct
import sys
import zlib
from datetime import UTC, datetime, timedelta
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, TypeAlias

from attrs import field, frozen

from distsdk._text import quoted
from distsdk.errors import DigestMismatch, IntegrityError, LimitExceeded, MalformedDocument
from distsdk.layers.compression import DEFAULT_LIMITS, FIRST_SLICE, GZIP_WINDOW_BITS
from distsdk.layers.member import MAX_ID, Kind, Member, shown
from distsdk.layers.tar import BLOCK
from distsdk.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Bytes of a table of contents, compressed and uncompressed: some 200,000 files. (containers/storage allows 50 MiB.)
MAX_TOC = 64 * 1024 * 1024

#: Entries of a table of contents, chunks included.
MAX_ENTRIES = 500_000

#: Names and values in a table of contents, which bounds the memory that its JSON takes.
MAX_VALUES = 16 * MAX_ENTRIES

#: Bytes of one chunk, compressed and uncompressed: a chunk is held in memory until it is verified. Writers use 4 MiB.
MAX_CHUNK = 128 * 1024 * 1024

#: Bytes of the longest footer, a zstd frame of 64 bytes with its header of 8.
FOOTER = 72

#: The annotation with the digest of an eStargz table of contents, and the old and new prefixes of zstd:chunked.
ESTARGZ_DIGEST = "containerd.io/snapshot/stargz/toc.digest"
_ZSTD_CHUNKED = ("io.github.containers.zstd-chunked.", "io.containers.zstd-chunked.")

_TOC_NAME = b"stargz.index.json"
_GZIP_HEADER = b"\x1f\x8b\x08\x04\x00\x00\x00\x00\x00\xff"
_EMPTY_DEFLATE = b"\x01\x00\x00\xff\xff" + bytes(8)
_ESTARGZ = re.compile(
    re.escape(_GZIP_HEADER)
    + rb"(?:\x1a\x00SG\x16\x00|\x16\x00)([0-9a-f]{16})STARGZ"
    + re.escape(_EMPTY_DEFLATE)
    + rb"\Z",
    re.DOTALL,
)
_SKIPPABLE = 0x184D2A50
_ZSTD_CHUNKED_MAGICS = (b"GnUlInUx", b"GNUlInUx")  # until 2024, and since
_CRFS = 1  # the only defined type of zstd:chunked manifest

#: Window of a zstd frame, as a power of two: 128 MiB, as for ``zstd --long=27``.
_MAX_WINDOW_LOG = 27

_MAX_INT = 2**63 - 1
_POSITION = re.compile(r"(\d{1,19}):(\d{1,19}):(\d{1,19}):(\d{1,19})", re.ASCII)
_TIME = re.compile(r"([^.]*?)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_SPACE = re.compile(r"[ \t\n\r]*")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_XATTRS: Mapping[bytes, bytes] = {}

#: Fields of an entry besides its names and attributes, with the values of missing ones.
_NUMBERS = dict.fromkeys(
    (
        *("chunkOffset", "chunkSize", "offset", "innerOffset", "endOffset"),
        *("size", "mode", "uid", "gid", "devMajor", "devMinor"),
    ),
    0,
)
_TEXTS = dict.fromkeys(("type", "digest", "chunkDigest", "chunkType", "userName", "groupName", "modtime"), "")
_FIELDS: Mapping[str, int | str] = {**_NUMBERS, **_TEXTS}
_TYPES = [type(missing) for missing in _FIELDS.values()]
_get_fields = itemgetter(*_FIELDS)

#: eStargz's names of entry types. zstd:chunked uses the same.
_KINDS = {
    "reg": Kind.FILE,
    "hardlink": Kind.HARD_LINK,
    "symlink": Kind.SYMLINK,
    "char": Kind.CHARACTER_DEVICE,
    "block": Kind.BLOCK_DEVICE,
    "dir": Kind.FOLDER,
    "fifo": Kind.FIFO,
}
_LINKS = frozenset({"hardlink", "symlink"})
_DEVICES = frozenset({"char", "block"})


@frozen
class Chunk:
    """A part of a file, and its position in the layer.

    Attributes:
        offset: First byte of the chunk in the file.
        size: Bytes of the chunk in the file.
        start: First compressed byte in the layer.
        end: Byte after the last compressed one.
        inner: Bytes to skip in the data that is decompressed from ``start``.
        digest: Digest of the chunk, ``algorithm:hex``; None if the table has none.
        zeros: Whether the chunk is a hole, which is not stored in the layer.
    """

    offset: int
    size: int
    start: int
    end: int
    inner: int
    digest: str | None
    zeros: bool = False


#: The attributes of a `Chunk` in order.
Tile: TypeAlias = tuple[int, int, int, int, int, str | None, bool]


@frozen
class TocLocation:
    """The position of a table of contents in its layer.

    Attributes:
        compression: Compression of the table and of the chunks.
        start: First byte of the table.
        end: Byte after the last one.
        digest: Digest from the annotation: of the JSON (eStargz) or of its compressed bytes (zstd:chunked). None if no
            annotation has one.
        raw_size: Bytes of the JSON if an annotation or the footer has the number.
    """

    compression: Literal["gzip", "zstd"]
    start: int
    end: int
    digest: Digest | None
    raw_size: int | None = None


@frozen
class Toc:
    """A parsed table of contents.

    Attributes:
        members: The entries in the order of the archive, without the table itself. ``offset`` is 0, since tables do not
            have it.
        tiles: The chunks of each file that is not empty, by name. Tuples instead of `Chunk` objects, since creating
            hundreds of thousands of objects would take half a second.
        digests: Digests of whole files, ``algorithm:hex``, by name; only those in the table.
        verified: Whether an annotation has the digest of the table.
        compression: Compression of the chunks.
    """

    members: tuple[Member, ...] = field(repr=False)
    tiles: Mapping[bytes, tuple[Tile, ...]] = field(repr=False)
    digests: Mapping[bytes, str] = field(repr=False)
    verified: bool
    compression: Literal["gzip", "zstd"]

    def chunks(self, path: bytes) -> tuple[Chunk, ...]:
        """Return the chunks of a file, in order and without gaps; empty for an empty file and for other entries.

        Args:
            path: `Member.path` of the file.
        """
        return tuple(Chunk(*tile) for tile in self.tiles.get(path, ()))

    def digest(self, path: bytes) -> Digest | None:
        """Return the digest of a file; None if the table does not have it.

        Args:
            path: `Member.path` of the file.

        Raises:
            MalformedDocument: The table has an invalid digest for the file.
        """
        text = self.digests.get(path)
        return None if text is None else _digest(text, shown(path))

    @property
    def complete(self) -> bool:
        """Whether the table has a digest for every byte of every file."""
        return all(digest is not None or zeros for tiles in self.tiles.values() for *_, digest, zeros in tiles)


def is_vouched_for(annotations: Mapping[str, str]) -> bool:
    """Return whether annotations have the digest of a table of contents.

    Args:
        annotations: Annotations of the layer's descriptor.
    """
    return ESTARGZ_DIGEST in annotations or any(f"{prefix}manifest-checksum" in annotations for prefix in _ZSTD_CHUNKED)


def locate(annotations: Mapping[str, str], size: int, read: Callable[[int, int], bytes]) -> TocLocation | None:
    """Return the position of the table of contents; None if the layer has no table.

    Args:
        annotations: Annotations of the layer's descriptor.
        size: Size of the layer in bytes.
        read: Returns the bytes of the layer from one offset up to another. Called once for the last 72 bytes, or not at
            all if an annotation has the position.

    Raises:
        MalformedDocument: The position in the annotation or the footer is invalid.
        LimitExceeded: The table is larger than `MAX_TOC`.
        DistError: Raised by ``read``.
    """
    for prefix in _ZSTD_CHUNKED:
        position = annotations.get(f"{prefix}manifest-position")
        if position is not None:
            return _annotated(position, annotations.get(f"{prefix}manifest-checksum"), size)
    if not size:
        return None
    tail = read(max(0, size - FOOTER), size)
    found = _ESTARGZ.search(tail)
    if found:
        text = annotations.get(ESTARGZ_DIGEST)
        start, end = int(found[1], 16), size - len(tail) + found.start()
        return _checked(TocLocation("gzip", start, end, None if text is None else _digest(text, ESTARGZ_DIGEST)), size)
    return _footer(tail, size)


def _annotated(position: str, checksum: str | None, size: int) -> TocLocation:
    found = _POSITION.fullmatch(position)
    if not found:
        _refuse(f"its position {quoted(position)} in the annotation is invalid")
    start, length, raw_size, kind = map(int, found.groups())
    digest = None if checksum is None else _digest(checksum, "manifest-checksum")
    return _checked(TocLocation("zstd", start, start + length, digest, raw_size), size, kind)


def _footer(tail: bytes, size: int) -> TocLocation | None:
    """Return the position in the footer of zstd:chunked, a skippable frame of 40 bytes (64 since 2024)."""
    for length in (40, 64):
        frame = tail[-8 - length :]
        if len(frame) == 8 + length and frame.endswith(_ZSTD_CHUNKED_MAGICS):
            magic, payload, start, packed, raw_size, kind = struct.unpack_from("<II4Q", frame)
            if (magic, payload) == (_SKIPPABLE, length):
                return _checked(TocLocation("zstd", start, start + packed, None, raw_size), size, kind)
    return None


def _checked(location: TocLocation, size: int, kind: int = _CRFS) -> TocLocation:
    if kind != _CRFS:
        _refuse(f"expected type {_CRFS}, got {kind}")
    if not 0 < location.start < location.end <= size:
        _refuse(f"its position, bytes {location.start} to {location.end}, is invalid in a layer of {size} bytes")
    largest = max(location.end - location.start, location.raw_size or 0)
    if largest > MAX_TOC:
        message = (
            f"the layer's table of contents exceeds the limit of {MAX_TOC} bytes: it has {largest}; unpack the layer "
            "instead"
        )
        raise LimitExceeded(message, limit=MAX_TOC)
    return location


def read_toc(location: TocLocation, read: Callable[[int, int], bytes]) -> Toc:
    """Read and parse the table of contents.

    Args:
        location: Position from `locate`.
        read: Returns the bytes of the layer from one offset up to another. Called once.

    Raises:
        DigestMismatch: The digest of the table differs from the annotation's.
        MalformedDocument: The table cannot be decompressed, is not JSON, or contradicts itself: files overlap, occur
            twice, have gaps or lie outside the layer.
        LimitExceeded: The table exceeds `MAX_TOC` or `MAX_ENTRIES`, or a chunk exceeds `MAX_CHUNK`.
        DistError: Raised by ``read``.
    """
    packed = read(location.start, location.end)
    if location.compression == "zstd":
        _verify(packed, location.digest)
        raw = _unpacked(packed, location.compression)
        if location.raw_size is not None and len(raw) != location.raw_size:
            _refuse(f"its size is {len(raw)} bytes, expected {location.raw_size}")
    else:
        raw = _from_tar(_unpacked(packed, location.compression))
        _verify(raw, location.digest)
    text = _decoded(raw)
    del raw, packed  # frees memory for the parsed values
    members, chunks, digests = _TocParser(location).read(text)
    return Toc(members, chunks, digests, location.digest is not None, location.compression)


def unpack_chunk(chunk: Chunk, packed: bytes, compression: Literal["gzip", "zstd"]) -> bytes:
    """Decompress a chunk, and verify it if the table of contents has its digest.

    Args:
        chunk: The chunk; not a hole.
        packed: The bytes of the layer from ``chunk.start`` to ``chunk.end``.
        compression: Compression of the bytes.

    Raises:
        DigestMismatch: The chunk has another digest.
        IntegrityError: The bytes cannot be decompressed, or are too few.
    """
    where = f"the chunk at bytes {chunk.start} to {chunk.end} of the layer"
    needed = chunk.inner + chunk.size
    try:
        data = _decompress(packed, compression, needed)
    except ValueError as error:
        message = f"{where} cannot be decompressed: {error}; none of its bytes were returned"
        raise IntegrityError(message) from error
    if len(data) < needed:
        message = f"{where} is too short: got {len(data)} bytes, expected {needed}; none of them were returned"
        raise IntegrityError(message)
    data = data[chunk.inner :]
    if chunk.digest is not None:
        _verify(data, _digest(chunk.digest, where), where)
    return data


def _verify(data: bytes, expected: Digest | None, name: str = "the layer's table of contents") -> None:
    if expected is None:
        return
    got = Digest.of(data, expected.algorithm)
    if got != expected:
        message = f"{name} has a wrong digest: expected {expected}, got {got}; none of its bytes were returned"
        raise DigestMismatch(message, expected=str(expected), got=str(got))


def _unpacked(packed: bytes, compression: Literal["gzip", "zstd"]) -> bytes:
    try:
        raw = _decompress(packed, compression, MAX_TOC + 1)
    except ValueError as error:
        _refuse(f"it cannot be decompressed ({error})")
    if len(raw) > MAX_TOC:
        message = f"the layer's table of contents exceeds the limit of {MAX_TOC} bytes; unpack the layer instead"
        raise LimitExceeded(message, limit=MAX_TOC)
    return raw


class _Decompressor(Protocol):
    """Decompresses one gzip member or one zstd frame."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: memoryview, max_length: int, /) -> bytes: ...


def _decompressor(compression: Literal["gzip", "zstd"]) -> tuple[_Decompressor, type[Exception]]:
    """Return a decompressor for one member or frame, and the class of its errors."""
    if compression == "gzip":
        return zlib.decompressobj(GZIP_WINDOW_BITS), zlib.error
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
    return zstd.ZstdDecompressor(options=options), zstd.ZstdError


def _decompress(packed: bytes, compression: Literal["gzip", "zstd"], size: int) -> bytes:
    """Return the first ``size`` uncompressed bytes, or all if there are fewer.

    Raises:
        ValueError: The bytes cannot be decompressed.
    """
    parts: list[bytes] = []
    missing, left = size, memoryview(packed)
    while missing > 0 and left:
        member, error = _decompressor(compression)
        piece = FIRST_SLICE
        while missing > 0 and left and not member.eof:
            given = left[:piece]
            try:
                part = member.decompress(given, missing)
            except error as cause:
                raise ValueError(str(cause)) from cause
            parts.append(part)
            missing -= len(part)
            left = left[len(given) - len(member.unused_data) :]
            piece *= 2
    return b"".join(parts)


def _from_tar(archive: bytes) -> bytes:
    """Return the JSON from the tar archive of one file in which eStargz stores it."""
    name, size_field = archive[:100].rstrip(b"\0"), archive[124:136].strip(b"\0 ")
    if name != _TOC_NAME or not re.fullmatch(rb"[0-7]{1,11}", size_field):
        _refuse(f"expected a tar archive with {_TOC_NAME.decode()}")
    size = int(size_field, 8)
    if len(archive) < BLOCK + size:
        _refuse(f"it is truncated after {len(archive) - BLOCK} bytes of {size}")
    return archive[BLOCK : BLOCK + size]


def _decoded(raw: bytes) -> str:
    """Return the JSON as text.

    Raises:
        LimitExceeded: There are too many objects or values.
    """
    if max(raw.count(b"{"), raw.count(b"[")) > MAX_ENTRIES or raw.count(b",") > MAX_VALUES:
        message = f"the layer's table of contents exceeds the limit of {MAX_ENTRIES} entries; unpack the layer instead"
        raise LimitExceeded(message, limit=MAX_ENTRIES)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise _unusable(f"it is not UTF-8 ({error})") from error


#: A part of a file as an entry has it: offset in the file, size, start in the layer, bytes to skip there, digest, end
#: of the file in the layer, whether it is a hole.
_Part: TypeAlias = tuple[int, int, int, int, str, int, bool]


class _TocParser:
    """Parses the JSON one entry at a time, so that its objects are never all in memory."""

    def __init__(self, location: TocLocation) -> None:
        self._location = location
        self._decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
        self._times: dict[str, int] = {}
        self._users: dict[int, bytes] = {}
        self._groups: dict[int, bytes] = {}

    def read(self, text: str) -> tuple[tuple[Member, ...], dict[bytes, tuple[Tile, ...]], dict[bytes, str]]:
        """Return the members, and the chunks and digests by name."""
        members: dict[bytes, Member] = {}
        parts: dict[bytes, list[_Part]] = {}
        digests: dict[bytes, str] = {}
        current: list[_Part] | None = None
        for entry in self._entries(text):
            fields = _fields(entry)
            offset, length, start, inner, end = fields[:5]
            kind, digest, chunk_digest, chunk_type = fields[11:15]
            if kind == "reg" or kind == "chunk":  # noqa: PLR1714 - there may be hundreds of thousands
                if chunk_type and chunk_type != "zeros":
                    _refuse(f"a chunk has the unknown type {quoted(chunk_type)}")
                if chunk_digest == digest:
                    chunk_digest = digest  # one object for both
                part = (offset, length, start, inner, chunk_digest, end, bool(chunk_type))
                if kind == "chunk":
                    if current is None:
                        _refuse("a chunk does not follow a file")
                    current.append(part)
                    continue
            member = self._member(entry, fields)
            path = member.path
            if path in members:
                _refuse(f"{shown(path)} occurs twice")
            members[path] = member
            current = None
            if kind == "reg" and member.size:
                current = parts[path] = [part]
            elif kind == "reg":
                current = []  # chunks of an empty file are ignored
            if digest:
                digests[path] = digest
        return tuple(members.values()), self._locate_chunks(members, parts, digests), digests

    def _entries(self, text: str) -> Iterator[dict[str, Any]]:
        """Yield the objects in the list ``entries`` of the document."""
        try:
            yield from self._scan(text)
        except RecursionError as error:
            raise _unusable("its JSON is nested too deep") from error
        except MalformedDocument:
            raise
        # JSONDecodeError, and ints of more digits than Python converts, are ValueErrors.
        except ValueError as error:
            raise _unusable(f"invalid JSON: {error}") from error

    def _scan(self, text: str) -> Iterator[dict[str, Any]]:
        at = _punctuation(text, 0, "{")
        seen: set[str] = set()
        more = not text.startswith("}", _skip(text, at))
        while more:
            key, at = self._decoder.raw_decode(text, _skip(text, at))
            if not isinstance(key, str) or key in seen:
                _refuse(f"the name {quoted(str(key))} is not a string, or occurs twice")
            seen.add(key)
            at = _skip(text, _punctuation(text, at, ":"))
            if key == "entries" and text.startswith("[", at):
                at = _skip(text, at + 1)
                another = not text.startswith("]", at)
                while another:
                    if not text.startswith("{", at):
                        at = _skip(text, at)
                    entry, at = self._decoder.raw_decode(text, at)
                    if not isinstance(entry, dict):
                        _refuse("an entry is not an object")
                    yield entry
                    if not text.startswith(",", at):
                        at = _skip(text, at)
                    another = text.startswith(",", at)
                    at += another
                at = _punctuation(text, at, "]")
            else:
                value, at = self._decoder.raw_decode(text, at)
                if key == "version" and value != 1:
                    _refuse("its version is not 1")
                if key == "entries" and value is not None:
                    _refuse("its entries are not a list")
            at = _skip(text, at)
            more = text.startswith(",", at)
            at += more
        at = _punctuation(text, at, "}")
        if _skip(text, at) != len(text):
            _refuse("other data follows the JSON")
        if "entries" not in seen:
            _refuse("its list of entries is missing")

    def _member(self, entry: dict[str, Any], fields: tuple[Any, ...]) -> Member:
        size, mode, uid, gid, major, minor, type_ = fields[5:12]
        user, group, time = fields[15:]
        name = _name(entry, "name")
        kind = _KINDS.get(type_)
        if kind is None:
            _refuse(f"{shown(name)} has the unknown type {quoted(type_)}")
        if uid > MAX_ID or gid > MAX_ID:
            _refuse(f"{shown(name)} has an owner or group above {MAX_ID}")
        # Only the first entry of each user and group has its name.
        if user:
            self._users[uid] = user.encode()
        if group:
            self._groups[gid] = group.encode()
        if type_ != "reg":
            size = 0
        return Member(
            path=name.rstrip(b"/") or b"/",
            kind=kind,
            size=size,
            stored=size,
            mode=mode & 0o7777,
            uid=uid,
            gid=gid,
            uname=self._users.get(uid, b""),
            gname=self._groups.get(gid, b""),
            mtime=self._time(time) if time else 0,
            link=_name(entry, "linkName") if type_ in _LINKS else b"",
            device=(major, minor) if type_ in _DEVICES else (0, 0),
            xattrs=_xattrs(entry) if entry.get("xattrs") else _NO_XATTRS,
        )

    def _time(self, text: str) -> int:
        """Return a time of RFC 3339 in nanoseconds since 1970, limited to 64 bits as in archives."""
        known = self._times.get(text)
        if known is not None:
            return known
        found = _TIME.fullmatch(text) or _refuse(f"{quoted(text)} is not a time of RFC 3339")
        try:
            since = datetime.fromisoformat(found[1] + found[3]) - _EPOCH
        except (ValueError, OverflowError):
            _refuse(f"{quoted(text)} is not a time of RFC 3339")
        nanoseconds = since // timedelta(seconds=1) * 10**9 + int((found[2] or "").ljust(9, "0"))
        self._times[text] = nanoseconds = max(-_MAX_INT, min(_MAX_INT, nanoseconds))
        return nanoseconds

    def _locate_chunks(
        self, members: dict[bytes, Member], parts: dict[bytes, list[_Part]], digests: dict[bytes, str]
    ) -> dict[bytes, tuple[Tile, ...]]:
        """Return the chunks of each file. A chunk ends where the next one in the layer begins."""
        limit = self._location.start
        data = [part for own in parts.values() for part in own if not part[6]]
        starts = sorted({part[2] for part in data})
        # Chunks with distinct starts and without ends of their own cannot overlap.
        may_overlap = len(starts) < len(data) or any(part[5] for part in data)
        ends = dict(zip(starts, [*starts[1:], limit], strict=False))
        del data, starts
        placed: dict[bytes, tuple[Tile, ...]] = {}
        for path, own in parts.items():
            size, at = members[path].size, 0
            # The entry of the file may have the end of its last chunk.
            file_end = own[0][5]
            last = max((number for number, part in enumerate(own) if not part[6]), default=-1) if file_end else -1
            # A file of one chunk may have only the digest of the whole file.
            alone = digests.get(path) if len(own) == 1 else None
            tiles: list[Tile] = []
            for number, (offset, declared, start, inner, chunk_digest, _, zeros) in enumerate(own):
                length = declared or size - offset
                if offset != at or not 0 < length <= size - at:
                    _refuse(f"the chunks of {shown(path)} have a gap, overlap, or are larger than the file")
                at += length
                digest = chunk_digest or alone
                if zeros:
                    tiles.append((offset, length, 0, 0, 0, digest, True))
                    continue
                end = file_end if number == last else ends[start]
                if not 0 < start < end <= limit:
                    _refuse(f"the position of {shown(path)}, bytes {start} to {end}, is invalid")
                if end - start > MAX_CHUNK or inner + length > MAX_CHUNK:
                    message = (
                        f"a chunk of {shown(path)} exceeds the limit of {MAX_CHUNK} bytes; unpack the layer instead"
                    )
                    raise LimitExceeded(message, limit=MAX_CHUNK)
                tiles.append((offset, length, start, end, inner, digest, False))
            if at != size:
                _refuse(f"the chunks of {shown(path)} have {at} bytes, expected {size}")
            placed[path] = tuple(tiles)
        if may_overlap:
            _check_overlaps(placed)
        return placed


def _check_overlaps(placed: dict[bytes, tuple[Tile, ...]]) -> None:
    """Refuse chunks that share bytes. Chunks with the same start may follow each other in the uncompressed data."""
    before = (0, 0, 0)
    ranges = sorted(
        (start, inner, end, size)
        for tiles in placed.values()
        for _, size, start, end, inner, _, zeros in tiles
        if not zeros
    )
    for start, inner, end, size in ranges:
        if start < before[1] and (start != before[0] or inner < before[2]):
            _refuse(f"two files overlap at byte {start}")
        before = (start, end, inner + size)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name occurs twice in an object")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _punctuation(text: str, at: int, mark: str) -> int:
    at = _skip(text, at)
    if not text.startswith(mark, at):
        _refuse(f"missing {quoted(mark)} at character {at}")
    return at + 1


def _fields(entry: dict[str, Any]) -> tuple[Any, ...]:
    """Return the numbers and texts of an entry in the order of `_FIELDS`, with defaults for missing ones."""
    fields: tuple[Any, ...] = _get_fields({**_FIELDS, **entry})
    # Types are compared exactly, since a boolean is an int in Python.
    if [*map(type, fields)] != _TYPES:
        _refuse(f"one of {', '.join(_NUMBERS)} is not an integer, or one of {', '.join(_TEXTS)} not a string")
    a, b, c, d, e, f, g, h, i, j, k = fields[:11]
    # One comparison for all: the union of the bits is negative, or too large, if one of the numbers is.
    if not 0 <= a | b | c | d | e | f | g | h | i | j | k <= _MAX_INT:
        _refuse(f"one of {', '.join(_NUMBERS)} is not in the range 0 to 2^63-1")
    return fields


def _name(entry: dict[str, Any], key: str) -> bytes:
    text = entry.get(key)
    try:
        name = text.encode() if isinstance(text, str) else b""
    except UnicodeEncodeError as error:
        raise _unusable(f"{key} is not valid Unicode") from error
    if not 0 < len(name) <= DEFAULT_LIMITS.path or b"\0" in name:
        _refuse(f"{key} is empty, is longer than {DEFAULT_LIMITS.path} bytes, or has a zero byte")
    return name


def _xattrs(entry: dict[str, Any]) -> dict[bytes, bytes]:
    found = entry["xattrs"]
    if not isinstance(found, dict):
        _refuse("xattrs is not an object")
    try:
        return {key.encode(): base64.b64decode(value, validate=True) for key, value in found.items()}
    except (TypeError, ValueError) as error:
        raise _unusable(f"xattrs are not base64 ({error})") from error


def _digest(text: str, where: str) -> Digest:
    try:
        return Digest.parse(text)
    except ValueError as error:
        raise _unusable(f"{where}: {error}") from error


def _refuse(reason: str) -> NoReturn:
    raise _unusable(reason)


def _unusable(reason: str) -> MalformedDocument:
    return MalformedDocument(f"the layer's table of contents is invalid: {reason}; unpack the layer instead")
