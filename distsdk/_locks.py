"""A lock that a forked child finds free."""

from __future__ import annotations

import os
import threading
from typing import Self
from weakref import WeakSet


class ForkSafeLock:
    """A lock that its thread may take again. In a forked child it is free: whoever held it stayed with the parent.

    What it guards has to be right at each moment, or be made anew by who finds it half done.
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
