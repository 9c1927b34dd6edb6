"""Read the tar archives of layers, strictly and in one pass.

`tarfile` takes a damaged header for the end of an archive, and reading the headers of small files takes it longer than
writing the files. The formats read here are POSIX ustar and pax, GNU tar with long names and all four formats of sparse
files, and the older headers before them. References:

- pax, POSIX.1-2024: https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html
- GNU tar: https://www.gnu.org/software/tar/manual/html_node/Tar-Internals.html
"""

from __future__ import annotations

import hashlib
import re
import struct
from functools import lru_cache
from typing import TYPE_CHECKING, NoReturn
from zlib import adler32

from distsdk._text import human_size
from distsdk.errors import LimitExceeded, MalformedDocument
from distsdk.layers.compression import DEFAULT_LIMITS, raise_limit
from distsdk.layers.member import MAX_ID, Kind, Member, shown
from distsdk.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from distsdk.layers.compression import LayerLimits

BLOCK = 512
_ZEROS = bytes(BLOCK)

#: name, mode, uid, gid, size, mtime, checksum, type flag, link, magic and version, uname, gname, major, minor, prefix
_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_POSIX, _GNU = b"ustar\0", b"ustar  \0"

#: GNU's old sparse header: parts, whether blocks with more parts follow, size of the file. Then the following blocks.
_SPARSE = struct.Struct("386x96sc12s17x")
_MORE_SPARSE = struct.Struct("504sc7x")

#: Kinds by type flag: those of `Kind`, and three more for files: old archives, contiguous files, GNU's sparse files.
_KINDS = {kind.value.encode(): kind for kind in Kind} | dict.fromkeys((b"\0", b"7", b"S"), Kind.FILE)

#: The largest major or minor number: an int in C.
_MAX_DEVICE = 2**31 - 1
#: Nanoseconds that fit 64 bits, from 1677 to 2262. Times outside are set to the nearest, as file systems do.
_MAX_TIME = 2**63 - 1

_XATTR = b"SCHILY.xattr."
_DIGITS = re.compile(rb"[0-9]{1,20}")
_SECONDS = re.compile(rb"(-?)([0-9]{1,20})(?:\.([0-9]{0,100}))?")
_DAMAGED_MAP = "the map of a sparse file is damaged"
_CHARSETS = {b"", b"BINARY", b"ISO-IR 10646 2000 UTF-8"}

#: Records that a global header may set, and those refused there, which would give all entries one name or size. Other
#: records are ignored.
_GLOBAL = frozenset({b"uid", b"gid", b"uname", b"gname", b"mtime"})
_NOT_GLOBAL = (b"path", b"linkpath", b"size", b"GNU.sparse.", _XATTR)


def index_tar(
    chunks: Iterable[bytes], *, limits: LayerLimits = DEFAULT_LIMITS, vouched_for: bool = False
) -> tuple[list[Member], Digest]:
    """Return the members of an archive, and the SHA-256 of all its bytes, the layer's diffID.

    Args:
        chunks: As for `read_tar`.
        limits: As for `read_tar`.
        vouched_for: As for `read_tar`.

    Raises:
        DistError: As `read_tar`.
    """
    hasher = hashlib.sha256(usedforsecurity=False)

    def hashed() -> Iterator[bytes]:
        for chunk in chunks:
            hasher.update(chunk)
            yield chunk

    members = [member for member, _ in read_tar(hashed(), limits=limits, vouched_for=vouched_for)]
    return members, Digest("sha256", hasher.hexdigest())


def read_tar(
    chunks: Iterable[bytes], *, limits: LayerLimits = DEFAULT_LIMITS, vouched_for: bool = False
) -> Iterator[tuple[Member, Iterator[memoryview]]]:
    """Yield the members of an archive, each with the stored bytes of its content.

    The archive is read to its end, in constant memory. Chunks are not copied.

    Args:
        chunks: The bytes of the archive, uncompressed.
        limits: ``members``, ``path``, ``header``, ``headers`` and, for the size of a file, ``output`` apply.
        vouched_for: Whether a digest of all bytes is checked elsewhere, so that a truncated archive is detected. Then
            an archive may end after the content of a member: `umoci insert` and ctr-remote write no end-of-archive
            blocks, and do not pad the last block.

    Yields:
        A member, and an iterator over `Member.stored` bytes in pieces of at least one byte. The iterator is valid until
        the next member is requested; content that is not read by then is skipped.

    Raises:
        MalformedDocument: The archive is damaged or truncated, does not end with two blocks of zeros (see
            ``vouched_for``) and nothing but zeros after them, or has an entry that is not of a file system: a volume
            label, or a part of a multi-volume archive.
        LimitExceeded: The archive exceeds a limit.
    """
    return iter(_TarReader(chunks, limits, vouched_for=vouched_for))


class _TarReader:
    """An archive, and the position up to which it was read."""

    def __init__(self, chunks: Iterable[bytes], limits: LayerLimits, *, vouched_for: bool) -> None:
        self._chunks = iter(chunks)
        self._limits = limits
        self._vouched_for = vouched_for
        self._chunk = b""
        self._view = memoryview(b"")
        self._at = 0  # position in the chunk
        self._before = 0  # bytes of the chunks before it
        self._headers = 0  # bytes of extended headers so far
        self._block_at = 0  # position of the current header, for messages

    def __iter__(self) -> Iterator[tuple[Member, Iterator[memoryview]]]:
        common: dict[bytes, bytes] = {}  # records of global headers
        own: dict[bytes, bytes] = {}  # records for the next member
        sparse: list[bytes] = []  # its sparse map in format 0.0, whose records repeat
        names: dict[bytes, bytes] = {}  # its long names in GNU's format
        count = 0
        while True:
            self._block_at = self._before + self._at
            if self._at == len(self._chunk) and self._is_over(whole=bool(count) and not own and not names):
                return
            block = self._take(BLOCK)
            if block == _ZEROS:
                if own or names:
                    self._refuse("the end of the archive follows extended headers")
                self._end()
                return
            flag = block[156:157]
            if flag in b"xgLK":
                data = self._extension(block)
                if flag == b"g":
                    common |= self._global_records(data)
                elif flag == b"x":
                    if own:
                        self._refuse("two extended headers for one entry")
                    own = self._records(data, sparse)
                else:
                    if flag in names:
                        self._refuse("two long names for one entry")
                    names[flag] = data.partition(b"\0")[0]
                continue
            count += 1
            if count > self._limits.members:
                self._exceeds("entries", self._limits.members, "members", f"{self._limits.members:,}")
            records = {**common, **own} if common else own
            member = self._member(block, records, sparse, names)
            if own or names:
                own, sparse, names = {}, [], {}
            end = member.offset + member.stored
            yield member, self._content(member.offset, end)
            self._skip(end)

    # Reading bytes

    def _next_chunk(self) -> bool:
        for chunk in self._chunks:
            if chunk:
                self._before += len(self._chunk)
                self._chunk, self._view, self._at = chunk, memoryview(chunk), 0
                return True
        return False

    def _take(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        end = self._at + size
        if end <= len(self._chunk):
            taken = self._chunk[self._at : end]
            self._at = end
            return taken
        parts = []
        while size:
            if self._at == len(self._chunk) and not self._next_chunk():
                self._cut()
            part = self._chunk[self._at : self._at + size]
            parts.append(part)
            self._at += len(part)
            size -= len(part)
        return b"".join(parts)

    def _content(self, start: int, end: int) -> Iterator[memoryview]:
        if self._before + self._at != start:
            message = "content of a tar member cannot be read after the next member was requested"
            raise ValueError(message)
        while left := end - self._before - self._at:
            if self._at == len(self._chunk):
                if not self._next_chunk():
                    self._cut()
                continue
            piece = self._view[self._at : self._at + left]
            self._at += len(piece)
            yield piece

    def _skip(self, end: int) -> None:
        """Skip to the block after content that ends at ``end``, or to the end of an archive without padding."""
        while (at := end + -end % BLOCK - self._before) > len(self._chunk):
            self._at = len(self._chunk)
            if not self._next_chunk():
                if self._before + self._at < end:
                    self._cut()
                return
        self._at = at

    def _end(self) -> None:
        """Read the rest of the archive after the first block of zeros: a second block, then zeros only."""
        if self._take(BLOCK) != _ZEROS:
            self._refuse("expected a second block of zeros at the end of the archive")
        while True:
            if self._chunk[self._at :].strip(b"\0"):
                self._refuse("other data follows the end of the archive")
            self._at = len(self._chunk)
            if not self._next_chunk():
                return

    def _is_over(self, *, whole: bool) -> bool:
        """Return whether the archive ends here, without the two blocks of zeros.

        Args:
            whole: Whether the archive has members, and no extended header without one.

        Raises:
            MalformedDocument: The archive must not end here.
        """
        if self._next_chunk():
            return False
        if not whole:
            self._cut()
        if not self._vouched_for:
            raise MalformedDocument(
                f"a layer's tar archive has no end-of-archive blocks after {self._before + self._at} bytes: it may be "
                "truncated; pass its digest, or a blob, to have it checked"
            )
        return True

    # Headers

    def _member(
        self, block: bytes, records: dict[bytes, bytes], sparse: list[bytes], names: dict[bytes, bytes]
    ) -> Member:
        """Return the member of a header. Reads the sparse map that may precede the content."""
        (path, mode, uid, gid, size, mtime, _, flag, link, magic, uname, gname, major, minor, prefix) = self._fields(
            block
        )
        kind = _KINDS.get(flag)
        if kind is None:
            self._refuse(f"entry type {shown(flag)} is not supported in layers")
        path, link = path.partition(b"\0")[0], link.partition(b"\0")[0]
        uname, gname = uname.partition(b"\0")[0], gname.partition(b"\0")[0]
        if magic[:6] == _POSIX:
            if prefix[0]:
                path = prefix.partition(b"\0")[0] + b"/" + path
        elif magic != _GNU:
            uname = gname = b""
        if names:
            if b"path" in records or b"linkpath" in records:
                self._refuse("an entry has long names in two formats")
            path, link = names.get(b"L", path), names.get(b"K", link)
        length, permissions = self._number(_number(size)), self._number(_repeating(mode))
        owner, group = self._number(_repeating(uid)), self._number(_repeating(gid))
        time = self._number(_repeating(mtime), negative=True) * 1_000_000_000
        xattrs: dict[bytes, bytes] = {}
        if records:
            path, link = self._text(records, b"path", path), self._text(records, b"linkpath", link)
            uname, gname = self._text(records, b"uname", uname), self._text(records, b"gname", gname)
            owner, group = self._decimal(records, b"uid", owner), self._decimal(records, b"gid", group)
            length, time = self._decimal(records, b"size", length), self._time(records, time)
            xattrs = {key[len(_XATTR) :]: records[key] for key in records if key.startswith(_XATTR)}
            path = self._text(records, b"GNU.sparse.name", path)
        if path[-1:] == b"/":
            path = path.rstrip(b"/") or b"/"
            if flag == b"\0":  # a directory in old archives, which have no flag for it
                if length:
                    self._refuse("a directory has content")
                kind = Kind.FOLDER
        stored = file_size = length if kind is Kind.FILE else 0  # content follows files only, whatever the size field
        parts: tuple[tuple[int, int], ...] = ()
        if flag == b"S" or (records and kind is Kind.FILE):
            file_size, parts, stored = self._sparse(block, records, sparse, stored)
        is_device = kind is Kind.CHARACTER_DEVICE or kind is Kind.BLOCK_DEVICE
        is_link = kind is Kind.SYMLINK or kind is Kind.HARD_LINK
        if not path or (is_link and not link):
            self._refuse("an entry has no name, or a link no target")
        member = Member(
            path=path,
            kind=kind,
            size=file_size,
            mode=permissions & 0o7777,
            uid=owner,
            gid=group,
            uname=uname,
            gname=gname,
            mtime=max(-_MAX_TIME, min(_MAX_TIME, time)),
            link=link if is_link else b"",
            device=(self._number(_number(major)), self._number(_number(minor))) if is_device else (0, 0),
            xattrs=xattrs,
            offset=self._before + self._at,
            stored=stored,
            parts=parts,
        )
        self._check(member)
        return member

    def _fields(self, block: bytes) -> tuple[bytes, ...]:
        """Return the fields of a header after checking its checksum."""
        fields = _HEADER.unpack(block)
        # The low half of Adler-32 of 256 bytes is their sum plus 1: at most 1 + 256 * 255, less than its modulus of
        # 65,521. The checksum is computed with spaces in its own field.
        found = (adler32(block[:256]) & 0xFFFF) + (adler32(block[256:]) & 0xFFFF) - 2 - sum(fields[6]) + 8 * 32
        declared = self._number(_number(fields[6]))
        # Some old tars computed the sum with signed bytes.
        if found != declared and found - 256 * sum(byte > 127 for byte in block[:148] + block[156:]) != declared:
            self._refuse("a header has a wrong checksum")
        return fields

    def _number(self, found: int | None, *, negative: bool = False) -> int:
        if found is None or (found < 0 and not negative):
            self._refuse("a header has an invalid number")
        return found

    def _extension(self, block: bytes) -> bytes:
        """Return the content of an extended header."""
        size = self._number(_number(self._fields(block)[4]))
        self._headers += size
        if size > self._limits.header:
            self._exceeds("an extended header", self._limits.header, "header")
        if self._headers > self._limits.headers:
            self._exceeds("extended headers", self._limits.headers, "headers")
        data = self._take(size)
        self._take(-size % BLOCK)
        return data

    def _records(self, data: bytes, sparse: list[bytes]) -> dict[bytes, bytes]:
        """Return the records of a pax header by keyword. An empty value removes a record of a global header."""
        records: dict[bytes, bytes] = {}
        at = 0
        while at < len(data):
            # "%d %s=%s\n": the number is the length of the whole record
            space = data.find(b" ", at, at + 20)
            length = data[at:space] if space > at else b""
            end = at + int(length) if length.isdigit() else 0
            equals = data.find(b"=", space, end)
            if not at < space < equals < end <= len(data) or data[end - 1] != 10 or equals == space + 1:
                self._refuse("an extended header is damaged")
            key, value = data[space + 1 : equals], data[equals + 1 : end - 1]
            if b"\0" in key:
                self._refuse("an extended header has a keyword with a zero byte")
            if key in {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}:
                sparse += (key, value)
            records[key] = value
            at = end
        if records.get(b"hdrcharset", b"") not in _CHARSETS:
            self._refuse("an extended header has an unknown character set")
        return records

    def _global_records(self, data: bytes) -> dict[bytes, bytes]:
        records = self._records(data, [])
        for key in records:
            if key.startswith(_NOT_GLOBAL):
                self._refuse(f"a global header must not set {shown(key)}")
        return {key: records[key] for key in _GLOBAL & records.keys()}

    def _text(self, records: dict[bytes, bytes], key: bytes, default: bytes) -> bytes:
        value = records.get(key) or default
        if b"\0" in value:
            self._refuse(f"an extended header has a {shown(key)} with a zero byte")
        return value

    def _decimal(self, records: dict[bytes, bytes], key: bytes, default: int | None = None) -> int:
        value = records.get(key, b"")
        if not value and default is not None:
            return default
        if not _DIGITS.fullmatch(value):
            self._refuse(f"an extended header has an invalid number for {shown(key)}")
        return int(value)

    def _time(self, records: dict[bytes, bytes], default: int) -> int:
        """Return ``mtime`` in nanoseconds, rounded down as the system does."""
        value = records.get(b"mtime")
        if not value:
            return default
        match = _SECONDS.fullmatch(value)
        if match is None:
            self._refuse("an extended header has an invalid time for 'mtime'")
        sign, seconds, fraction = match[1], match[2], match[3] or b""
        found = int(seconds) * 1_000_000_000 + int(fraction[:9].ljust(9, b"0"))
        return -found - bool(fraction[9:].strip(b"0")) if sign else found

    def _check(self, member: Member) -> None:
        limits = self._limits
        if len(member.path) > limits.path or len(member.link) > limits.path:
            self._exceeds("a name", limits.path, "path")
        if member.size > limits.output:
            self._exceeds("a file", limits.output, "output")
        if member.uid > MAX_ID or member.gid > MAX_ID or max(member.device) > _MAX_DEVICE:
            self._refuse(f"an owner or group is above {MAX_ID}, or a device number above {_MAX_DEVICE}")

    # Sparse files

    def _sparse(
        self, block: bytes, records: dict[bytes, bytes], pairs: list[bytes], stored: int
    ) -> tuple[int, tuple[tuple[int, int], ...], int]:
        """Return the size of a file, its stored parts if it is sparse, and the number of stored bytes."""
        in_records = any(key.startswith(b"GNU.sparse.") for key in records)
        if block[156:157] == b"S":
            if in_records:
                self._refuse("a sparse file has maps in two formats")
            size, parts = self._old_sparse(block)
        elif in_records:
            size, parts, stored = self._sparse_of_records(records, pairs, stored)
        else:
            return stored, (), stored
        if sum(length for _, length in parts) != stored:
            self._refuse("the parts of a sparse file have another size than its stored bytes")
        return size, parts, stored

    def _sparse_of_records(
        self, records: dict[bytes, bytes], pairs: list[bytes], stored: int
    ) -> tuple[int, tuple[tuple[int, int], ...], int]:
        """Return the size of a sparse file in a pax format, its parts, and the number of stored bytes.

        https://www.gnu.org/software/tar/manual/html_node/PAX-0.html and -1.html
        """
        major, minor = records.get(b"GNU.sparse.major", b"0"), records.get(b"GNU.sparse.minor", b"0")
        if (major, minor) == (b"1", b"0"):
            size = self._decimal(records, b"GNU.sparse.realsize")
            numbers, used = self._sparse_map(stored)
            return size, self._parts(numbers, size), stored - used
        if major != b"0" or minor not in {b"0", b"1"}:
            self._refuse("a sparse file has an unknown format")
        size = self._decimal(records, b"GNU.sparse.size")
        if b"GNU.sparse.map" in records:
            texts = records[b"GNU.sparse.map"].split(b",") if records[b"GNU.sparse.map"] else []
        else:
            if pairs[::2] != [b"GNU.sparse.offset", b"GNU.sparse.numbytes"] * (len(pairs) // 4):
                self._refuse(_DAMAGED_MAP)
            texts = pairs[1::2]
        if not all(map(_DIGITS.fullmatch, texts)):
            self._refuse(_DAMAGED_MAP)
        if 2 * self._decimal(records, b"GNU.sparse.numblocks", len(texts) // 2) != len(texts):
            self._refuse(_DAMAGED_MAP)
        return size, self._parts([int(text) for text in texts], size), stored

    def _sparse_map(self, stored: int) -> tuple[list[int], int]:
        """Read the map before the content of a sparse file (format 1.0); return its numbers and its size in bytes."""
        texts: list[bytes] = []
        rest = b""
        wanted = used = 0
        while not used or len(texts) <= wanted:
            used += BLOCK
            self._headers += BLOCK
            if used > stored:
                self._refuse(_DAMAGED_MAP)
            if used > self._limits.header:
                self._exceeds("the map of a sparse file", self._limits.header, "header")
            if self._headers > self._limits.headers:
                self._exceeds("extended headers", self._limits.headers, "headers")
            *found, rest = (rest + self._take(BLOCK)).split(b"\n")
            for text in found:
                if texts and len(texts) > wanted:
                    break
                if not _DIGITS.fullmatch(text):
                    self._refuse(_DAMAGED_MAP)
                texts.append(text)
                wanted = 2 * int(texts[0])
            if len(rest) > BLOCK:
                self._refuse(_DAMAGED_MAP)
        return [int(text) for text in texts[1:]], used

    def _old_sparse(self, block: bytes) -> tuple[int, tuple[tuple[int, int], ...]]:
        """Return the size and the parts of a sparse file in GNU's old format, reading the rest of its map."""
        first, more, size = _SPARSE.unpack(block)
        if block[257:265] != _GNU:
            self._refuse("a sparse file has a header that is not GNU's")
        maps = [first]
        used = 0
        while more != b"\0":
            used += BLOCK
            self._headers += BLOCK
            if used > self._limits.header:
                self._exceeds("the map of a sparse file", self._limits.header, "header")
            if self._headers > self._limits.headers:
                self._exceeds("extended headers", self._limits.headers, "headers")
            further, more = _MORE_SPARSE.unpack(self._take(BLOCK))
            maps.append(further)
        entries = b"".join(maps)
        numbers: list[int] = []
        for at in range(0, len(entries), 24):
            if not entries[at]:
                break
            numbers += (self._number(_number(entries[i : i + 12])) for i in (at, at + 12))
        file_size = self._number(_number(size))
        return file_size, self._parts(numbers, file_size)

    def _parts(self, numbers: list[int], size: int) -> tuple[tuple[int, int], ...]:
        """Return pairs of offset and length, without empty ones, which only mark the end."""
        pairs = list(zip(numbers[::2], numbers[1::2], strict=False))
        end = 0
        for offset, length in pairs:
            if offset < end or offset + length > size:
                self._refuse("the parts of a sparse file overlap or exceed its size")
            end = offset + length
        if len(numbers) % 2:
            self._refuse(_DAMAGED_MAP)
        return tuple(pair for pair in pairs if pair[1])

    # Errors

    def _refuse(self, problem: str) -> NoReturn:
        raise MalformedDocument(f"a layer's tar archive is invalid near byte {self._block_at}: {problem}")

    def _cut(self) -> NoReturn:
        raise MalformedDocument(f"a layer's tar archive is truncated after {self._before + len(self._chunk)} bytes")

    def _exceeds(self, subject: str, limit: int, name: str, amount: str = "") -> NoReturn:
        verb = "exceed" if subject.endswith("s") else "exceeds"
        raise LimitExceeded(
            f"a layer's tar archive, near byte {self._block_at}: {subject} {verb} the limit of "
            f"{amount or human_size(limit)}; {raise_limit(name)}",
            limit=limit,
        )


def _number(value: bytes) -> int | None:
    """Return the number in a field of a header; None if the field is invalid.

    A number is in octal digits, padded with spaces and zero bytes; or, if the first bit is set, in the other bits as
    two's complement, which star and GNU tar use for numbers with too many digits.
    """
    if value[0] & 0x80:
        number = int.from_bytes(value, "big", signed=False) & ((1 << (8 * len(value) - 1)) - 1)
        return number - (1 << (8 * len(value) - 1)) if value[0] & 0x40 else number
    digits = value.strip(b" \0")
    if not digits:
        return 0
    # int() alone would accept signs, underscores and white space.
    return int(digits, 8) if digits.isdigit() and not (b"8" in digits or b"9" in digits) else None


#: For owners, modes and times, which have few distinct values.
_repeating = lru_cache(maxsize=4096)(_number)
