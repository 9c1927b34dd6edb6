"""A lock that is free in a forked child."""

from __future__ import annotations

import os
import threading
from typing import Self
from weakref import WeakSet


class ForkSafeLock:
    """A re-entrant lock that is free in a forked child, where the thread that held it does not exist.

    The guarded state must be consistent at each moment, since the fork may happen while the lock is held.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        _all.add(self)

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self._lock.release()


_all: WeakSet[ForkSafeLock] = WeakSet()


def _free() -> None:
    for lock in _all:
        lock._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_free)
