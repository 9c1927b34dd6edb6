"""Private files: opened without following links, checked for their owner, and renamed into place once on disk."""

from __future__ import annotations

import contextlib
import io
import os
import stat
import sys
from typing import TYPE_CHECKING

from distsdk.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Flags of `os.open` for private files: refuse a symbolic link, close on exec, do not wait for a pipe's other end, do
#: not translate line ends. Each system has some of them.
NO_FOLLOW = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))


def open_private(path: Path, flags: int, permissions: int = 0o666) -> io.FileIO:
    """Open a file unbuffered, without following a link at its name.

    Args:
        path: The file.
        flags: As for `os.open`; `NO_FOLLOW` is added.
        permissions: Of a new file, before the umask is applied.

    Raises:
        OSError: The file cannot be opened, or is a symbolic link.
    """
    mode = "rb" if flags & (os.O_WRONLY | os.O_RDWR) == os.O_RDONLY else "wb" if flags & os.O_WRONLY else "r+b"
    return io.FileIO(os.open(path, flags | NO_FOLLOW, permissions), mode)


def is_own_file(found: os.stat_result) -> bool:
    """Return whether this is a regular file of this user, with one name: no other user can write to it by another.

    Args:
        found: From `os.fstat` of the open file. Where there are no users (Windows), only the kind is checked.
    """
    if not stat.S_ISREG(found.st_mode):
        return False
    return not hasattr(os, "geteuid") or (found.st_nlink, found.st_uid) == (1, os.geteuid())


@contextlib.contextmanager
def part_of(target: Path, key: str, *, kept: bool) -> Iterator[io.FileIO]:
    """Yield a file next to ``target``. When the block ends well, synchronise it to disk and rename it to ``target``.

    Args:
        target: The path of the finished file; an existing file is replaced.
        key: Identifies the content: another run with the same key and target resumes the same file.
        kept: Keep the file when the block fails, and yield the one that an earlier run kept. Bytes that failed
            verification are never kept. Ignored where `_lock` returns None.

    Raises:
        OSError: The file cannot be written.
    """
    path = target.with_name(_part_name(target.name, key))
    file = _lock(path) if kept else None
    if file is None:
        kept = False
        path = target.with_name(f".distsdk-{os.urandom(8).hex()}.part")
        file = path.open("x+b", buffering=0)
    with file:
        try:
            yield file
            os.fsync(file.fileno())
            if not kept:
                file.close()  # Windows cannot rename an open file
            path.replace(target)  # under the lock, if there is one
        except BaseException as error:
            if not kept:
                file.close()
                path.unlink(missing_ok=True)
            elif isinstance(error, IntegrityError) or not os.fstat(file.fileno()).st_size:
                path.unlink(missing_ok=True)
            raise
    sync_folder(target.parent)


def _part_name(name: str, key: str) -> str:
    """Return the name of an unfinished file: the finished one's, cut so that the whole has at most 255 bytes."""
    tail = f".{key}.part"
    return "." + os.fsencode(name)[: 254 - len(tail)].decode("utf-8", "ignore") + tail


def _lock(path: Path) -> io.FileIO | None:
    """Open or create an unfinished file and lock it for this process.

    Return None if another process holds the lock, if the system has no such locks (Windows), or if the path is a link,
    not a regular file, or a file that another user could change after verification. Never wait for the lock: its holder
    may be a stopped process.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        file = open_private(path, os.O_RDWR | os.O_CREAT)
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        opened, named = os.fstat(file.fileno()), path.stat(follow_symlinks=False)
    except OSError:
        file.close()
        return None
    # The previous holder of the lock may have renamed or removed the file.
    if os.path.samestat(opened, named) and is_own_file(opened):
        return file
    file.close()
    return None


def sync_folder(folder: Path) -> None:
    """Write a directory's entries to disk, so that a rename in it survives a power failure; best effort.

    Args:
        folder: The directory.
    """
    with contextlib.suppress(OSError):  # some file systems cannot, and the file itself is on disk
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_all(file: io.RawIOBase, data: bytes) -> None:
    """Write all of ``data`` to an unbuffered file, whose `write` may accept fewer bytes than it was given.

    Args:
        file: Open for writing.
        data: The bytes.
    """
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]
