"""Archives: the members of a tar as files.

A tar is read by its headers only, once; its members are then read in place, by ranges.
"""

from __future__ import annotations

import contextlib
import posixpath
import tarfile
from typing import TYPE_CHECKING

from attrs import field, frozen

from distsdk._text import quoted
from distsdk.errors import LimitExceeded, MalformedDocument, NotFound, Unsafe, UnsupportedDocument

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from distsdk.content.source import ByteStream
    from distsdk.layout.files import Files

#: Members of an archive, and layers of all its images together.
MAX_MEMBERS = 100_000
#: Bytes of the headers that precede a member's own: its long name, pax records.
MAX_HEADER = 64 * 1024
#: Links that lead to one another: the oldest ``docker save`` has one for each layer that is there twice.
MAX_LINKS = 16

#: Bytes read at a time where headers are looked for.
_WINDOW = 64 * 1024
_BLOCK = 512

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_COMPRESSIONS = {
    GZIP: ("gzip", "gunzip"),
    ZSTD: ("zstd", "unzstd"),
    b"\xfd7zXZ\0": ("xz", "unxz"),
    b"BZh": ("bzip2", "bunzip2"),
}


@frozen
class Member:
    """Where a member's bytes are in its archive."""

    offset: int
    size: int


@frozen
class TarFiles:
    """The members of an archive that is not compressed, as files.

    Links lead to other members only. A name that is there twice, or that has a ``..``, is none: readers of archives do
    not agree on what it means.
    """

    archive: Files
    #: A member's bytes, or the name that a link leads to.
    members: Mapping[str, Member | str] = field(repr=False)

    @classmethod
    def read(cls, archive: Files) -> TarFiles:
        """Read the headers of an archive.

        Raises:
            MalformedDocument: It is none, damaged, or cut.
            UnsupportedDocument: It is compressed.
            LimitExceeded: More than `MAX_MEMBERS`, or a name of more than `MAX_HEADER` bytes.
            DistError: As `Files.open`.
        """
        shown = archive.shown()
        size = archive.size("")
        if size is None:
            message = f"{shown} tells no size, without which an archive cannot be read in place: get a copy of it first"
            raise MalformedDocument(message)
        return cls(archive, read_headers(_Window(archive, size).read, size, shown))

    def open(self, name: str, offset: int, end: int | None) -> ByteStream:
        """Open a member; see `Files`."""
        member = self._member(name)
        last = member.size if end is None else min(end, member.size)
        return self.archive.open("", member.offset + offset, member.offset + max(offset, last))

    def size(self, name: str) -> int:
        """Return a member's size in bytes; see `Files`."""
        return self._member(name).size

    def identity(self) -> tuple[object, ...]:
        """Return that of the archive."""
        return self.archive.identity()

    def shown(self, name: str = "") -> str:
        """Return the archive's name, and the member's."""
        return f"{self.archive.shown()}, member {quoted(name)}" if name else self.archive.shown()

    def _member(self, name: str) -> Member:
        return self.members[self.place(name)]  # type: ignore[return-value] # where links end there is a member

    def place(self, name: str) -> str:
        """Return the name of the member that a name leads to in the end; errors as `Files.open`."""
        for _ in range(MAX_LINKS):
            found = self.members.get(name)
            if found is None:
                message = f"there is no {quoted(name)} in {self.archive.shown()}"
                raise NotFound(message)
            if isinstance(found, Member):
                return name
            name = found
            if name.startswith("../"):
                message = f"{self.archive.shown()} has a link that leads out of it: it is not followed"
                raise Unsafe(message)
        message = f"{self.archive.shown()} has links that lead in a circle, or more than {MAX_LINKS} to one another"
        raise MalformedDocument(message)


class _Window:
    """Reads small pieces that lie close together with few requests."""

    def __init__(self, archive: Files, size: int) -> None:
        self._archive = archive
        self._size = size
        self._start = 0
        self._data = b""

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes from an offset, fewer only at the end."""
        end = min(offset + length, self._size)
        if not self._start <= offset <= end <= self._start + len(self._data):
            last = min(max(end, offset + _WINDOW), self._size)
            with contextlib.closing(self._archive.open("", offset, last)) as stream:
                self._data = b"".join(iter(lambda: stream.read(last - offset), b""))
            self._start = offset
        return self._data[offset - self._start : max(0, end - self._start)]


def read_headers(read: Callable[[int, int], bytes], size: int, shown: str) -> dict[str, Member | str]:
    """Return the files and links of a tar by their names, without a ``./`` before them.

    https://pubs.opengroup.org/onlinepubs/9799919799/utilities/pax.html, and GNU's long names and large numbers.

    Args:
        read: Returns bytes from an offset, fewer only at the end.
        size: Of the archive, in bytes.
        shown: Its name for messages.

    Raises:
        MalformedDocument, UnsupportedDocument, LimitExceeded: As `TarFiles.read`.
    """
    members: dict[str, Member | str] = {}
    count = offset = 0
    path = target = length = None  # what headers of its own say of the next member
    while True:
        block = read(offset, _BLOCK)
        if block == bytes(_BLOCK):
            return members
        info = _header(block, offset, shown)
        count += 1
        if count > MAX_MEMBERS:
            message = f"{shown} has more than {MAX_MEMBERS:,} members"
            raise LimitExceeded(message, limit=MAX_MEMBERS)
        start = offset + _BLOCK
        if info.type in _EXTENSIONS:
            offset = _end(start, info.size, size, shown)
            if info.size > MAX_HEADER:
                message = f"{shown} has a header of more than {MAX_HEADER} bytes, before byte {offset}"
                raise LimitExceeded(message, limit=MAX_HEADER)
            body = read(start, info.size)
            if info.type == tarfile.GNUTYPE_LONGNAME:
                path = path or _text(body.partition(b"\0")[0])
            elif info.type == tarfile.GNUTYPE_LONGLINK:
                target = target or _text(body.partition(b"\0")[0])
            else:
                records = _pax_records(body, shown)
                if info.type == tarfile.XGLTYPE and records:
                    message = f"{shown} has a global header that changes every member: it is not read"
                    raise MalformedDocument(message)
                path, target = records.get("path", path), records.get("linkpath", target)
                length = records.get("size", length)
            continue
        bytes_there = info.size if length is None else int(length)
        if info.type in tarfile.SUPPORTED_TYPES and not info.isreg():
            bytes_there = 0  # links, folders and devices have none, whatever the header says
        offset = _end(start, bytes_there, size, shown)
        name = member_name(path or info.name)
        found = _found(info, name, target or info.linkname, Member(start, bytes_there), shown) if name else None
        if found is not None:
            if name in members:
                message = f"{shown} has {quoted(name)} twice: it could be read as the one or the other"
                raise MalformedDocument(message)
            members[name] = found
        path = target = length = None


_EXTENSIONS = frozenset(
    {tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE}
)


def _header(block: bytes, offset: int, shown: str) -> tarfile.TarInfo:
    if offset == 0:
        for magic, (compression, tool) in _COMPRESSIONS.items():
            if block.startswith(magic):
                message = (
                    f"{shown} is compressed ({compression}), so nothing in it can be read by itself: {tool} it first"
                )
                raise UnsupportedDocument(message, media_type=f"application/{compression}")
    if len(block) < _BLOCK:
        message = f"{shown} is no tar archive" if not offset else f"{shown} is cut after byte {offset + len(block)}"
        raise MalformedDocument(message)
    try:
        # The standard library's reader of one block: checksum, numbers and prefix. Its reader of whole archives takes
        # a damaged header for the end, and holds names of any length.
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        message = f"{shown} is no tar archive" if not offset else f"{shown} is damaged: no header at byte {offset}"
        raise MalformedDocument(message) from error
    if info.size < 0:
        message = f"{shown} is damaged: a member of {info.size} bytes at byte {offset}"
        raise MalformedDocument(message)
    return info


def _end(start: int, length: int, size: int, shown: str) -> int:
    """Return where the next header is, after a member's bytes."""
    end = start + -(-length // _BLOCK) * _BLOCK
    if end > size:
        message = f"{shown} is cut: it has {size} bytes, and a member in it ends at {end}"
        raise MalformedDocument(message)
    return end


def _pax_records(body: bytes, shown: str) -> dict[str, str]:
    """Return what pax records say of a member's path, link and size; other keys are left aside."""
    records: dict[str, str] = {}
    at = 0
    while at < len(body) and body[at]:
        space = body.find(b" ", at, at + 20)
        digits = body[at:space] if space > 0 else b""
        end = at + int(digits) if digits.isdigit() else 0
        key, equals, value = body[space + 1 : end - 1].partition(b"=")
        if not (space < end <= len(body)) or body[end - 1 : end] != b"\n" or not equals:
            message = f"{shown} is damaged: a pax header that is none"
            raise MalformedDocument(message)
        at = end
        name = _text(key)
        if name.startswith("GNU.sparse"):
            raise _sparse(shown)
        if name == "size" and not (value.isdigit() and len(value) < 20):
            message = f"{shown} is damaged: a pax header with an impossible size"
            raise MalformedDocument(message)
        if name in {"path", "linkpath", "size"}:
            records[name] = _text(value)
    return records


def _sparse(shown: str) -> MalformedDocument:
    return MalformedDocument(
        f"{shown} has a sparse file, whose bytes are not there as they are: make it without --sparse"
    )


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


def _found(info: tarfile.TarInfo, name: str, target: str, member: Member, shown: str) -> Member | str | None:
    """Return what a header stands for: a file, the name that a link leads to, or None for anything else."""
    if info.type == tarfile.GNUTYPE_SPARSE:
        raise _sparse(shown)
    if info.isreg():
        return member
    if info.islnk():
        return posixpath.normpath(target.lstrip("/"))
    if info.issym():
        return posixpath.normpath(posixpath.join(posixpath.dirname(name), target).lstrip("/"))
    return None


def member_name(path: str) -> str:
    """Return a member's name in the form it is looked up by; empty where it has none."""
    segments = [segment for segment in path.split("/") if segment not in {"", "."}]
    return "" if ".." in segments else "/".join(segments)
