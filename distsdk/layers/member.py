"""`Member`: an entry of a layer, as its tar header tells it."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import Mapping


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
class Member:
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
