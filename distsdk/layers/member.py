"""`Member`: an entry of a layer, as its tar header tells it, and what its name says."""

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


class Kind(Enum):
    """What an entry is; the values are tar's type flags (POSIX.1-2024, pax, "ustar Interchange Format")."""

    FILE = "0"
    HARD_LINK = "1"
    SYMLINK = "2"
    CHARACTER_DEVICE = "3"
    BLOCK_DEVICE = "4"
    FOLDER = "5"
    FIFO = "6"


@frozen(kw_only=True)
class Member(Displayed):
    """An entry of a layer. Nothing in it is to be trusted: names may lead anywhere.

    Attributes:
        path: Its name as it stands in the archive, without a trailing slash.
        kind: What it is.
        size: Bytes of its content; 0 for all but files. Of a sparse file, with its holes.
        mode: The twelve permission bits.
        uid: Owner.
        gid: Group.
        uname: The owner's name, where there is one.
        gname: The group's name, where there is one.
        mtime: Nanoseconds since 1970, UTC.
        link: What a link points to: for a hard link the name of another entry, for a symlink its target.
        device: Major and minor number of a device.
        xattrs: Extended attributes by name.
        offset: Where its content begins in the uncompressed archive, in bytes.
        stored: Bytes of its content in the archive: fewer than ``size`` for a sparse file.
        parts: Of a sparse file, the parts that are stored, in order: offset in the file, and length. Empty for others.
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
    """Return a name for a message: in quotes, escaped, and not too long."""
    return quoted(path.decode("utf-8", "backslashreplace"))


def linked_nothing(member: Member) -> MalformedDocument:
    """Return the error of a hard link whose target is missing."""
    return _linked(member, "which is missing")


def linked_directory(member: Member) -> MalformedDocument:
    """Return the error of a hard link to a directory."""
    return _linked(member, "which is a directory")


def _linked(member: Member, what: str) -> MalformedDocument:
    return MalformedDocument(f"a layer's entry {shown(member.path)} is a hard link to {shown(member.link)}, {what}")


def inside(path: bytes) -> bytes:
    """Return the name of an entry as a path from the root: no slash around it, no ``.`` in it; empty for the root.

    Args:
        path: `Member.path`, or the ``link`` of a hard link: absolute names are inside the root too.

    Raises:
        Unsafe: It has a ``..`` or a zero byte.
    """
    if path[:2] == b"./":
        path = path[2:]
    # Most names hold nothing that would have to be looked at twice.
    if path[:1] not in b"./" and path[-1:] != b"/" and not (b"/." in path or b"//" in path or b"\0" in path):
        return path
    names = [name for name in path.split(b"/") if name not in {b"", b"."}]
    if b".." in names or b"\0" in path:
        raise Unsafe(f"a layer has an entry named {shown(path)}: names with '..' or a zero byte are refused")
    return b"/".join(names)


class Role(Enum):
    """What an entry does to the tree that its layer is put on."""

    ENTRY = "is put there"
    WHITEOUT = "removes what a lower layer has there"
    OPAQUE = "removes all that lower layers have in the folder"
    NOTHING = "is of no concern"


def place(path: bytes) -> tuple[Role, bytes, bytes]:
    """Return what an entry does, in which folder, and to which name there.

    Args:
        path: `Member.path`.

    Returns:
        The role, the folder as `inside` gives it, and the name: of what a whiteout removes, not its own. The name is
        empty for the root, and for `Role.OPAQUE`.

    Raises:
        Unsafe: As `inside`; or a whiteout would remove its own folder or the one above, names nothing, or is a folder.
    """
    path = inside(path)
    folder, _, name = path.rpartition(b"/")
    if WHITEOUT not in path:
        return Role.ENTRY, folder, name
    if path == OPAQUE:
        return Role.OPAQUE, b"", b""
    if path.startswith(WHITEOUT + WHITEOUT):  # what AUFS kept for itself, in images of its time; docker ignores it too
        return Role.NOTHING, folder, name
    if any(parent.startswith(WHITEOUT) for parent in folder.split(b"/")):
        raise Unsafe(f"a layer has an entry named {shown(path)}: nothing can be below a whiteout")
    if not name.startswith(WHITEOUT):
        return Role.ENTRY, folder, name
    if name == OPAQUE:
        return Role.OPAQUE, folder, b""
    removed = name[len(WHITEOUT) :]
    if removed in {b"", b".", b".."}:
        raise Unsafe(f"a layer has an entry named {shown(path)}: a whiteout has to name what it removes")
    return Role.WHITEOUT, folder, removed
