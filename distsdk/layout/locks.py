"""Locks on files: between threads and between processes, released when the process ends."""

from __future__ import annotations

import contextlib
import errno
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from filelock import FileLock

_log = logging.getLogger(__name__)

#: Seconds between two attempts at a lock that another process holds.
POLL = 0.01

#: Seconds after which a wait for another process is reported, and those after which it ends. A process holds these
#: locks for milliseconds, `Store.gc` until it is done, and one that is stopped for ever.
SILENT_WAIT, _LONGEST_WAIT = 2.0, 600.0


def lock_at(path: Path) -> FileLock:
    """Return the lock on a file, which is made when the lock is taken. A lock object is for one thread."""
    from filelock import FileLock

    return FileLock(path)


def acquire(lock: FileLock, *, timeout: float = -1) -> None:
    """Take a lock, and wait for it while another one holds it.

    Args:
        lock: From `lock_at`.
        timeout: Seconds to wait; negative for ever.

    Raises:
        filelock.Timeout: The lock is held.
        OSError: The file cannot be a lock; the error names it.
    """
    try:
        lock.acquire(timeout=timeout, poll_interval=POLL)
    except OSError as error:
        if error.errno is not None:  # a held lock's Timeout has none
            error.filename = error.filename or lock.lock_file
        raise


def acquired(lock: FileLock, *, timeout: float = 0) -> bool:
    """Take a lock if it is free, or gets free in so many seconds; return whether it was. Errors as `acquire`."""
    from filelock import Timeout

    try:
        acquire(lock, timeout=timeout)
    except Timeout:
        return False
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock on a file, once no other process and no other thread does; a long wait is logged as a warning.

    Raises:
        BlockingIOError: Another one has held it for ten minutes.
        OSError: The file cannot be a lock; the error names it.
    """
    lock = lock_at(path)
    if not acquired(lock, timeout=SILENT_WAIT):
        _log.warning("waiting for another process that holds %s", path)
        if not acquired(lock, timeout=_LONGEST_WAIT):
            message = f"another process has held this lock for {_LONGEST_WAIT:g} s; end that process, or let it go on"
            raise BlockingIOError(errno.EWOULDBLOCK, message, str(path))
    try:
        yield
    finally:
        lock.release()
