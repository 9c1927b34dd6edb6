"""Tables of contents that layers carry with them: eStargz and zstd:chunked.

Both are ordinary layers whose files are compressed one by one, in chunks, and that end with a JSON document which says
where each chunk lies and what it hashes to. An annotation of the layer's descriptor vouches for that document.

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
from distsdk.layers.compression import DEFAULT_LIMITS, FIRST_SLICE
from distsdk.layers.member import Kind, Member, shown
from distsdk.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Bytes of a table of contents, compressed and not: some 200,000 files. (containers/storage takes 50 MiB.)
MAX_TOC = 64 * 1024 * 1024

#: Entries of a table of contents, chunks included.
MAX_ENTRIES = 500_000

#: Names and values in it: what bounds the memory that its JSON takes.
MAX_VALUES = 16 * MAX_ENTRIES

#: Bytes of one chunk, compressed and not; it has to be in memory before a byte of it is believed. Writers make 4 MiB.
MAX_CHUNK = 128 * 1024 * 1024

#: Bytes at the end of a layer that tell whether it has a table of contents: of the longest footer, a zstd frame of 64
#: bytes with its header.
FOOTER = 72

#: The annotation with the digest of an eStargz layer's table of contents, and two that zstd:chunked has had.
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
_CRFS = 1  # the one type of manifest there is

#: A zstd frame that asks for more memory than this is refused: 128 MiB, as by ``zstd --long=27``.
_MAX_WINDOW_LOG = 27

_TAR_BLOCK = 512
_MAX_INT = 2**63 - 1
_MAX_ID = 2**32 - 2  # what comes after it is -1
_POSITION = re.compile(r"(\d{1,19}):(\d{1,19}):(\d{1,19}):(\d{1,19})", re.ASCII)
_TIME = re.compile(r"([^.]*?)(?:\.(\d{1,9})\d*)?(Z|[+-]\d\d:\d\d)", re.ASCII)
_SPACE = re.compile(r"[ \t\n\r]*")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NO_XATTRS: Mapping[bytes, bytes] = {}

#: What is read of an entry besides its names and attributes, and what stands for what is missing.
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
    """A part of a file, and where the layer has it.

    Attributes:
        offset: Its first byte's place in the file.
        size: Its bytes in the file.
        start: Where in the layer what holds it begins, in compressed bytes.
        end: Where that ends.
        inner: Bytes that come before it when what is at ``start`` is decompressed.
        digest: What it hashes to, ``algorithm:hex``; None where the table does not say.
        zeros: Whether it is a hole, which the layer need not be asked for.
    """

    offset: int
    size: int
    start: int
    end: int
    inner: int
    digest: str | None
    zeros: bool = False


#: What a `Chunk` has.
Tile: TypeAlias = tuple[int, int, int, int, int, str | None, bool]


@frozen
class TocLocation:
    """Where in a layer its table of contents lies.

    Attributes:
        compression: Of the table and of the chunks.
        start: Its first byte.
        end: The byte after its last one.
        digest: What vouches for it; None where no annotation does. Of the JSON (eStargz), or of its compressed bytes.
        raw_size: Bytes of the JSON, where that is known beforehand.
    """

    compression: Literal["gzip", "zstd"]
    start: int
    end: int
    digest: Digest | None
    raw_size: int | None = None


@frozen
class Toc:
    """What a table of contents says.

    Attributes:
        members: The entries, in the order of the archive, but for the table itself. The names end in no slash; their
            `offset` is 0, since no table tells it.
        tiles: Of each file that is not empty, by name, its chunks, as tuples of what a `Chunk` has: values of such a
            number would take half a second to make.
        digests: Of each file whose digest the table knows, by name, ``algorithm:hex``.
        verified: Whether an annotation vouches for all that.
        compression: Of the chunks.
    """

    members: tuple[Member, ...] = field(repr=False)
    tiles: Mapping[bytes, tuple[Tile, ...]] = field(repr=False)
    digests: Mapping[bytes, str] = field(repr=False)
    verified: bool
    compression: Literal["gzip", "zstd"]

    def chunks(self, path: bytes) -> tuple[Chunk, ...]:
        """Return the chunks of a file, in order and without a gap; none for an empty one, or what is no file."""
        return tuple(Chunk(*tile) for tile in self.tiles.get(path, ()))

    def digest(self, path: bytes) -> Digest | None:
        """Return the digest of a file, None where the table does not know it.

        Raises:
            MalformedDocument: What it has there is no digest.
        """
        text = self.digests.get(path)
        return None if text is None else _digest(text, shown(path))

    @property
    def complete(self) -> bool:
        """Whether it has a digest for every byte of every file."""
        return all(digest is not None or zeros for tiles in self.tiles.values() for *_, digest, zeros in tiles)


def is_vouched_for(annotations: Mapping[str, str]) -> bool:
    """Return whether the annotations of a layer's descriptor have the digest of a table of contents."""
    return ESTARGZ_DIGEST in annotations or any(f"{prefix}manifest-checksum" in annotations for prefix in _ZSTD_CHUNKED)


def locate(annotations: Mapping[str, str], size: int, read: Callable[[int, int], bytes]) -> TocLocation | None:
    """Return where the table of contents is, or None where the layer has none.

    Args:
        annotations: Of the layer's descriptor.
        size: Of the layer, in bytes.
        read: Returns the bytes of the layer from one offset up to another one. It is called once for the last 72 bytes,
            or not at all where an annotation says where the table is.

    Raises:
        MalformedDocument: Annotation or footer point to where no table can be.
        LimitExceeded: The table is larger than `MAX_TOC`.
        DistError: What ``read`` raises.
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
        _refuse(f"its annotation says that it is at {quoted(position)}, which is no position")
    start, length, raw_size, kind = map(int, found.groups())
    digest = None if checksum is None else _digest(checksum, "manifest-checksum")
    return _checked(TocLocation("zstd", start, start + length, digest, raw_size), size, kind)


def _footer(tail: bytes, size: int) -> TocLocation | None:
    """Return what the footer of zstd:chunked points to: a skippable frame of 40 bytes (64 since 2024)."""
    for length in (40, 64):
        frame = tail[-8 - length :]
        if len(frame) == 8 + length and frame.endswith(_ZSTD_CHUNKED_MAGICS):
            magic, payload, start, packed, raw_size, kind = struct.unpack_from("<II4Q", frame)
            if (magic, payload) == (_SKIPPABLE, length):
                return _checked(TocLocation("zstd", start, start + packed, None, raw_size), size, kind)
    return None


def _checked(place: TocLocation, size: int, kind: int = _CRFS) -> TocLocation:
    if kind != _CRFS:
        _refuse(f"it is of type {kind}, and only 1 is known")
    if not 0 < place.start < place.end <= size:
        _refuse(f"it is said to be at bytes {place.start} to {place.end} of {size}")
    largest = max(place.end - place.start, place.raw_size or 0)
    if largest > MAX_TOC:
        message = f"the layer's table of contents has {largest} bytes, more than the limit of {MAX_TOC}: unpack it"
        raise LimitExceeded(message, limit=MAX_TOC)
    return place


def read_toc(place: TocLocation, read: Callable[[int, int], bytes]) -> Toc:
    """Return the table of contents that is at a place.

    Args:
        place: From `locate`.
        read: Returns the bytes of the layer from one offset up to another one; called once.

    Raises:
        DigestMismatch: It is not the one that the annotation vouches for.
        MalformedDocument: It cannot be decompressed, is not JSON, or contradicts itself: files overlap, occur twice,
            have gaps or lie outside the layer.
        LimitExceeded: It has more bytes than `MAX_TOC` or more entries than `MAX_ENTRIES`, or a chunk has more bytes
            than `MAX_CHUNK`.
        DistError: What ``read`` raises.
    """
    packed = read(place.start, place.end)
    if place.compression == "zstd":
        _verify(packed, place.digest)
        raw = _unpacked(packed, place.compression)
        if place.raw_size is not None and len(raw) != place.raw_size:
            _refuse(f"it has {len(raw)} bytes where {place.raw_size} were announced")
    else:
        raw = _from_tar(_unpacked(packed, place.compression))
        _verify(raw, place.digest)
    text = _decoded(raw)
    del raw, packed  # they may be as large as what becomes of them
    members, chunks, digests = _TocParser(place).read(text)
    return Toc(members, chunks, digests, place.digest is not None, place.compression)


def unpack_chunk(chunk: Chunk, packed: bytes, compression: Literal["gzip", "zstd"]) -> bytes:
    """Return the bytes of a chunk, verified where the table of contents knows its digest.

    Args:
        chunk: Which one; no hole.
        packed: The bytes of the layer from ``chunk.start`` to ``chunk.end``.
        compression: Theirs.

    Raises:
        DigestMismatch: They hash to something else.
        IntegrityError: They cannot be decompressed, or are too few.
    """
    where = f"the chunk at bytes {chunk.start} to {chunk.end} of the layer"
    wanted = chunk.inner + chunk.size
    try:
        data = _decompress(packed, compression, wanted)
    except ValueError as error:
        message = f"{where} is not what its table of contents says: {error}; nothing of it was handed out"
        raise IntegrityError(message) from error
    if len(data) < wanted:
        message = f"{where} has {len(data)} bytes where its table of contents says {wanted}; nothing was handed out"
        raise IntegrityError(message)
    data = data[chunk.inner :]
    if chunk.digest is not None:
        _verify(data, _digest(chunk.digest, where), where)
    return data


def _verify(data: bytes, expected: Digest | None, what: str = "the layer's table of contents") -> None:
    if expected is None:
        return
    got = Digest.of(data, expected.algorithm)
    if got != expected:
        message = f"{what} is not what was asked for: expected {expected}, got {got}; nothing of it was handed out"
        raise DigestMismatch(message, expected=str(expected), got=str(got))


def _unpacked(packed: bytes, compression: Literal["gzip", "zstd"]) -> bytes:
    try:
        raw = _decompress(packed, compression, MAX_TOC + 1)
    except ValueError as error:
        _refuse(f"it cannot be decompressed ({error})")
    if len(raw) > MAX_TOC:
        message = f"the layer's table of contents has more than {MAX_TOC} bytes, the limit: unpack the layer instead"
        raise LimitExceeded(message, limit=MAX_TOC)
    return raw


class _Decompressor(Protocol):
    """What unpacks a gzip member or a zstd frame."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: memoryview, max_length: int, /) -> bytes: ...


def _decompressor(compression: Literal["gzip", "zstd"]) -> tuple[_Decompressor, type[Exception]]:
    """Return what unpacks one member or frame, and the error it raises."""
    if compression == "gzip":
        return zlib.decompressobj(31), zlib.error
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _MAX_WINDOW_LOG}
    return zstd.ZstdDecompressor(options=options), zstd.ZstdError


def _decompress(packed: bytes, compression: Literal["gzip", "zstd"], size: int) -> bytes:
    """Return the first ``size`` bytes that ``packed`` decompresses to; fewer where there are no more.

    Raises:
        ValueError: It cannot be decompressed.
    """
    parts: list[bytes] = []
    wanted, left = size, memoryview(packed)
    while wanted > 0 and left:
        member, error = _decompressor(compression)
        piece = FIRST_SLICE
        while wanted > 0 and left and not member.eof:
            given = left[:piece]
            try:
                part = member.decompress(given, wanted)
            except error as cause:
                raise ValueError(str(cause)) from cause
            parts.append(part)
            wanted -= len(part)
            left = left[len(given) - len(member.unused_data) :]
            piece *= 2
    return b"".join(parts)


def _from_tar(archive: bytes) -> bytes:
    """Return the JSON from the archive of one file that eStargz has it in."""
    name, size_field = archive[:100].rstrip(b"\0"), archive[124:136].strip(b"\0 ")
    if name != _TOC_NAME or not re.fullmatch(rb"[0-7]{1,11}", size_field):
        _refuse(f"it is in no archive of {_TOC_NAME.decode()}")
    size = int(size_field, 8)
    if len(archive) < _TAR_BLOCK + size:
        _refuse(f"it ends after {len(archive) - _TAR_BLOCK} bytes of {size}")
    return archive[_TAR_BLOCK : _TAR_BLOCK + size]


def _decoded(raw: bytes) -> str:
    """Return the JSON as text, if there is not too much in it."""
    if max(raw.count(b"{"), raw.count(b"[")) > MAX_ENTRIES or raw.count(b",") > MAX_VALUES:
        message = f"the layer's table of contents has more than {MAX_ENTRIES} entries, the limit: unpack the layer"
        raise LimitExceeded(message, limit=MAX_ENTRIES)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise MalformedDocument(f"the layer's table of contents is no UTF-8 ({error}); it cannot be used") from error


#: What an entry says about a part of a file: its place in the file, its size, its place in the layer, and in what is
#: unpacked there, its digest, where the file ends in the layer, and whether it is a hole.
_Part: TypeAlias = tuple[int, int, int, int, str, int, bool]


class _TocParser:
    """Makes values of the JSON, one entry after the other, so that it is never in memory as objects."""

    def __init__(self, place: TocLocation) -> None:
        self._place = place
        self._decoder = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
        self._times: dict[str, int] = {}
        self._users: dict[int, bytes] = {}
        self._groups: dict[int, bytes] = {}

    def read(self, text: str) -> tuple[tuple[Member, ...], dict[bytes, tuple[Tile, ...]], dict[bytes, str]]:
        """Return members, chunks and digests by name."""
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
                    _refuse(f"a chunk is of the type {quoted(chunk_type)}, which is none")
                if chunk_digest == digest:
                    chunk_digest = digest  # one object for both
                part = (offset, length, start, inner, chunk_digest, end, bool(chunk_type))
                if kind == "chunk":
                    if current is None:
                        _refuse("a chunk follows on no file")
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
                current = []  # chunks of an empty file are of no use
            if digest:
                digests[path] = digest
        return tuple(members.values()), self._placed(members, parts, digests), digests

    def _entries(self, text: str) -> Iterator[dict[str, Any]]:
        """Yield the objects in the list ``entries`` of the document."""
        try:
            yield from self._scan(text)
        except RecursionError as error:
            raise MalformedDocument("the layer's table of contents is nested too deep; it cannot be used") from error
        except MalformedDocument:
            raise
        # JSONDecodeError, and ints of more digits than Python converts, are ValueErrors.
        except ValueError as error:
            raise MalformedDocument(f"the layer's table of contents is not JSON that can be used: {error}") from error

    def _scan(self, text: str) -> Iterator[dict[str, Any]]:
        at = _punctuation(text, 0, "{")
        seen: set[str] = set()
        more = not text.startswith("}", _skip(text, at))
        while more:
            key, at = self._decoder.raw_decode(text, _skip(text, at))
            if not isinstance(key, str) or key in seen:
                _refuse(f"the name {quoted(str(key))} is no text or occurs twice")
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
                        _refuse("an entry is no object")
                    yield entry
                    if not text.startswith(",", at):
                        at = _skip(text, at)
                    another = text.startswith(",", at)
                    at += another
                at = _punctuation(text, at, "]")
            else:
                value, at = self._decoder.raw_decode(text, at)
                if key == "version" and value != 1:
                    _refuse("it is of another version than 1")
                if key == "entries" and value is not None:
                    _refuse("its entries are no list")
            at = _skip(text, at)
            more = text.startswith(",", at)
            at += more
        at = _punctuation(text, at, "}")
        if _skip(text, at) != len(text):
            _refuse("something follows on it")
        if "entries" not in seen:
            _refuse("it has no entries")

    def _member(self, entry: dict[str, Any], fields: tuple[Any, ...]) -> Member:
        size, mode, uid, gid, major, minor, type_ = fields[5:12]
        user, group, time = fields[15:]
        name = _name(entry, "name")
        kind = _KINDS.get(type_)
        if kind is None:
            _refuse(f"{shown(name)} is of the type {quoted(type_)}, which is none")
        if uid > _MAX_ID or gid > _MAX_ID:
            _refuse(f"{shown(name)} has an owner or group that no system has")
        # Only the first entry of a user has the name.
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
        """Return RFC 3339 as nanoseconds since 1970."""
        known = self._times.get(text)
        if known is not None:
            return known
        found = _TIME.fullmatch(text) or _refuse(f"{quoted(text)} is no time")
        try:
            since = datetime.fromisoformat(found[1] + found[3]) - _EPOCH
        except (ValueError, OverflowError):
            _refuse(f"{quoted(text)} is no time")
        nanoseconds = since // timedelta(seconds=1) * 10**9 + int((found[2] or "").ljust(9, "0"))
        self._times[text] = nanoseconds = max(-_MAX_INT, min(_MAX_INT, nanoseconds))  # as for members of archives
        return nanoseconds

    def _placed(
        self, members: dict[bytes, Member], parts: dict[bytes, list[_Part]], digests: dict[bytes, str]
    ) -> dict[bytes, tuple[Tile, ...]]:
        """Return the chunks of each file: where each ends is told by where the next one begins."""
        limit = self._place.start
        data = [part for own in parts.values() for part in own if not part[6]]
        starts = sorted({part[2] for part in data})
        # Where all begin elsewhere, and none says where it ends, none can lie over another one.
        may_overlap = len(starts) < len(data) or any(part[5] for part in data)
        ends = dict(zip(starts, [*starts[1:], limit], strict=False))
        del data, starts
        placed: dict[bytes, tuple[Tile, ...]] = {}
        for path, own in parts.items():
            size, at = members[path].size, 0
            # The file's own entry says, if at all, where its last part ends.
            file_end = own[0][5]
            last = max((number for number, part in enumerate(own) if not part[6]), default=-1) if file_end else -1
            # A file of one chunk may have its own digest alone.
            alone = digests.get(path) if len(own) == 1 else None
            tiles: list[Tile] = []
            for number, (offset, told, start, inner, chunk_digest, _, zeros) in enumerate(own):
                length = told or size - offset
                if offset != at or not 0 < length <= size - at:
                    _refuse(f"the chunks of {shown(path)} leave a gap, overlap, or are more than the file")
                at += length
                digest = chunk_digest or alone
                if zeros:
                    tiles.append((offset, length, 0, 0, 0, digest, True))
                    continue
                end = file_end if number == last else ends[start]
                if not 0 < start < end <= limit:
                    _refuse(f"{shown(path)} is said to be at bytes {start} to {end}, where no files are")
                if end - start > MAX_CHUNK or inner + length > MAX_CHUNK:
                    message = (
                        f"{shown(path)} has a chunk in the layer's table of contents that is larger than the limit of"
                        f" {MAX_CHUNK} bytes: unpack the layer instead"
                    )
                    raise LimitExceeded(message, limit=MAX_CHUNK)
                tiles.append((offset, length, start, end, inner, digest, False))
            if at != size:
                _refuse(f"the chunks of {shown(path)} have {at} bytes where the file has {size}")
            placed[path] = tuple(tiles)
        if may_overlap:
            _check_overlaps(placed)
        return placed


def _check_overlaps(placed: dict[bytes, tuple[Tile, ...]]) -> None:
    """Refuse chunks that share bytes; those of the same start may lie behind each other in what is there."""
    before = (0, 0, 0)
    ranges = sorted(
        (start, inner, end, size)
        for tiles in placed.values()
        for _, size, start, end, inner, _, zeros in tiles
        if not zeros
    )
    for start, inner, end, size in ranges:
        if start < before[1] and (start != before[0] or inner < before[2]):
            _refuse(f"two files are said to be at byte {start}")
        before = (start, end, inner + size)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a name occurs twice in an object")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _skip(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _punctuation(text: str, at: int, mark: str) -> int:
    at = _skip(text, at)
    if not text.startswith(mark, at):
        _refuse(f"{quoted(mark)} is missing at character {at}")
    return at + 1


def _fields(entry: dict[str, Any]) -> tuple[Any, ...]:
    """Return the numbers and texts of an entry, in the order of `_FIELDS`, for what is missing too."""
    fields: tuple[Any, ...] = _get_fields({**_FIELDS, **entry})
    # A boolean is an int to Python, not to JSON.
    if [*map(type, fields)] != _TYPES:
        _refuse(f"one of {', '.join(_NUMBERS)} is no whole number, or one of {', '.join(_TEXTS)} no text")
    a, b, c, d, e, f, g, h, i, j, k = fields[:11]
    # Of all their bits together the sign is set if one is negative, and too high a bit if one is too large.
    if not 0 <= a | b | c | d | e | f | g | h | i | j | k <= _MAX_INT:
        _refuse(f"one of {', '.join(_NUMBERS)} is no number from 0 to 2^63-1")
    return fields


def _name(entry: dict[str, Any], key: str) -> bytes:
    text = entry.get(key)
    try:
        name = text.encode() if isinstance(text, str) else b""
    except UnicodeEncodeError as error:
        raise MalformedDocument(f"the layer's table of contents: {key} is no Unicode; it cannot be used") from error
    if not 0 < len(name) <= DEFAULT_LIMITS.path or b"\0" in name:
        _refuse(f"{key} is empty, longer than {DEFAULT_LIMITS.path} bytes, or has a zero byte in it")
    return name


def _xattrs(entry: dict[str, Any]) -> dict[bytes, bytes]:
    found = entry["xattrs"]
    if not isinstance(found, dict):
        _refuse("xattrs is no object")
    try:
        return {key.encode(): base64.b64decode(value, validate=True) for key, value in found.items()}
    except (TypeError, ValueError) as error:
        raise MalformedDocument(f"the layer's table of contents has xattrs that are no base64 ({error})") from error


def _digest(text: str, where: str) -> Digest:
    try:
        return Digest.parse(text)
    except ValueError as error:
        raise MalformedDocument(f"the layer's table of contents: {where}: {error}") from error


def _refuse(reason: str) -> NoReturn:
    raise MalformedDocument(f"the layer's table of contents cannot be used: {reason}; unpack the layer instead")
