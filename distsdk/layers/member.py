"""`Member`: an entry of a layer as its tar header describes it, and the meaning of its name."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from attrs import field, frozen

from distsdk._repr import Displayed
from distsdk._text import quoted
from distsdk.errors import MalformedDocument, Unsafe

if TYPE_CHECKING:
    from collections.abc import Mapping

# https://github.com/opencontainers/image-spec/blob/v1.1.1/layer.md#whiteouts
WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"

#: The largest number of an owner or group: the next one is -1, which chown(2) takes for "do not change".
MAX_ID = 2**32 - 2


class Kind(Enum):
    """The type of an entry. The values are tar's type flags (POSIX.1-2024, pax, "ustar Interchange Format")."""

    FILE = "0"
    HARD_LINK = "1"
    SYMLINK = "2"
    CHARACTER_DEVICE = "3"
    BLOCK_DEVICE = "4"
    FOLDER = "5"
    FIFO = "6"

    @property
    def noun(self) -> str:
        """The name for messages: ``file``, ``directory``, ``symlink``, ``hard link``."""
        return "directory" if self is Kind.FOLDER else self.name.lower().replace("_", " ")


@frozen(kw_only=True)
class Member(Displayed):
    """An entry of a layer. All of its values are untrusted: paths and links may lead anywhere.

    Attributes:
        path: Name as written in the archive, without a trailing slash.
        kind: Type of the entry.
        size: Content size in bytes, holes of a sparse file included; 0 unless the entry is a file.
        mode: The twelve permission bits.
        uid: Number of the owner.
        gid: Number of the group.
        uname: Name of the owner; empty if the archive has none.
        gname: Name of the group; empty if the archive has none.
        mtime: Modification time in nanoseconds since 1970, UTC.
        link: Target of a symlink, or for a hard link the name of another entry; empty for other kinds.
        device: Major and minor number of a device.
        xattrs: Extended attributes by name.
        offset: Where the content begins in the uncompressed archive, in bytes.
        stored: Content bytes in the archive: fewer than ``size`` for a sparse file.
        parts: The stored parts of a sparse file in order, as pairs of offset in the file and length; else empty.
    """

    path: bytes
    kind: Kind
    size: int = 0
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    uname: bytes = b""
    gname: bytes = b""
    mtime: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: Mapping[bytes, bytes] = field(factory=dict, hash=False)
    offset: int = 0
    stored: int = 0
    parts: tuple[tuple[int, int], ...] = ()


def shown(path: bytes) -> str:
    """Return a name for a message: quoted, escaped and shortened.

    Args:
        path: The name.
    """
    return quoted(path.decode("utf-8", "backslashreplace"))


def linked_nothing(member: Member) -> MalformedDocument:
    """Return the error for a hard link whose target is missing.

    Args:
        member: The hard link.
    """
    return _linked(member, "which is missing")


def linked_directory(member: Member) -> MalformedDocument:
    """Return the error for a hard link to a directory.

    Args:
        member: The hard link.
    """
    return _linked(member, "which is a directory")


def _linked(member: Member, problem: str) -> MalformedDocument:
    return MalformedDocument(f"a layer's entry {shown(member.path)} is a hard link to {shown(member.link)}, {problem}")


def inside(path: bytes) -> bytes:
    """Return the name of an entry as a path relative to the root: no slash at either end, no ``.``; empty for the root.

    Args:
        path: `Member.path`, or the ``link`` of a hard link. Absolute names are taken relative to the root.

    Raises:
        Unsafe: The name has a ``..`` component or a zero byte.
    """
    if path[:2] == b"./":
        path = path[2:]
    # Fast path: most names are normalised already.
    if path[:1] not in b"./" and path[-1:] != b"/" and not (b"/." in path or b"//" in path or b"\0" in path):
        return path
    names = [name for name in path.split(b"/") if name not in {b"", b"."}]
    if b".." in names or b"\0" in path:
        raise Unsafe(f"entry name {shown(path)} of a layer refused: it has '..' or a zero byte")
    return b"/".join(names)


class Role(Enum):
    """The effect of an entry on the tree below its layer."""

    ENTRY = "adds or replaces a name"
    WHITEOUT = "removes a name of lower layers"
    OPAQUE = "removes all names that lower layers have in the directory"
    NOTHING = "has no effect"


def place(path: bytes) -> tuple[Role, bytes, bytes]:
    """Return the role of an entry, the directory it applies to, and the name in that directory.

    Args:
        path: `Member.path`.

    Returns:
        The role; the directory as `inside` returns it; the name, which for a whiteout is the name that it removes. The
        name is empty for the root and for `Role.OPAQUE`.

    Raises:
        Unsafe: As `inside`; or a whiteout names nothing, ``.`` or ``..``, or has entries below it.
    """
    path = inside(path)
    folder, _, name = path.rpartition(b"/")
    if WHITEOUT not in path:
        return Role.ENTRY, folder, name
    if path == OPAQUE:
        return Role.OPAQUE, b"", b""
    if path.startswith(WHITEOUT + WHITEOUT):  # AUFS metadata in old images; docker ignores it too
        return Role.NOTHING, folder, name
    if any(parent.startswith(WHITEOUT) for parent in folder.split(b"/")):
        raise Unsafe(f"entry name {shown(path)} of a layer refused: it is below a whiteout")
    if not name.startswith(WHITEOUT):
        return Role.ENTRY, folder, name
    if name == OPAQUE:
        return Role.OPAQUE, folder, b""
    removed = name[len(WHITEOUT) :]
    if removed in {b"", b".", b".."}:
        raise Unsafe(f"entry name {shown(path)} of a layer refused: a whiteout must name an entry")
    return Role.WHITEOUT, folder, removed
