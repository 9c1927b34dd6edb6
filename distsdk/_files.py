"""Private files: partial downloads, locks, and atomic replacement."""

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


@contextlib.contextmanager
def part_of(target: Path, key: str, *, kept: bool) -> Iterator[io.FileIO]:
    """Yield a file beside ``target`` that takes its name, synchronised to disk, when the block ends well.

    Args:
        target: Where it goes.
        key: Names the content, so that another run resumes the same file.
        kept: Whether it is to be there again the next time if the block does not end well. Then it may hold something
            already. Bytes that did not match are never kept.
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
                file.close()  # Windows renames no open file
            path.replace(target)  # with the lock, where there is one
        except BaseException as error:
            if not kept:
                file.close()
                path.unlink(missing_ok=True)
            elif isinstance(error, IntegrityError) or not os.fstat(file.fileno()).st_size:
                path.unlink(missing_ok=True)
            raise
    sync_folder(target.parent)


def _part_name(name: str, key: str) -> str:
    """Return what an unfinished file is called: after the one it is to become, within the 255 bytes of a name."""
    tail = f".{key}.part"
    return "." + os.fsencode(name)[: 254 - len(tail)].decode("utf-8", "ignore") + tail


def _lock(path: Path) -> io.FileIO | None:
    """Open an unfinished file, or begin one, for this process alone.

    None where that cannot be had: somebody else is at it; it is a link, or no file, or another user's, who could change
    it when it was verified; the system has no such locks. Nobody waits: who has the lock may be stopped for good.
    """
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        file = io.FileIO(os.open(path, flags, 0o666), "r+b")
    except OSError:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        opened, named = os.fstat(file.fileno()), path.stat(follow_symlinks=False)
    except OSError:
        file.close()
        return None
    # Who had the lock before may have renamed or removed it.
    same = os.path.samestat(opened, named)
    if same and stat.S_ISREG(opened.st_mode) and (opened.st_nlink, opened.st_uid) == (1, os.geteuid()):
        return file
    file.close()
    return None


def sync_folder(folder: Path) -> None:
    """Bring a renaming to disk, on systems where one can."""
    with contextlib.suppress(OSError):  # not every file system can, and the file itself is there
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_all(file: io.RawIOBase, data: bytes) -> None:
    """Write all of ``data`` to an unbuffered file, which may take it in parts."""
    view = memoryview(data)
    while view:
        view = view[file.write(view) or 0 :]
