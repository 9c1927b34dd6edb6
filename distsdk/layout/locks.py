"""Locks on files: between threads and between processes, released when the process ends."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from filelock import FileLock

#: Seconds between two attempts at a lock that another process holds.
POLL = 0.01


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


def acquired(lock: FileLock) -> bool:
    """Take a lock if it is free; return whether it was. Errors as `acquire`."""
    from filelock import Timeout

    try:
        acquire(lock, timeout=0)
    except Timeout:
        return False
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock on a file; errors as `acquire`."""
    lock = lock_at(path)
    acquire(lock)
    try:
        yield
    finally:
        lock.release()
