"""What requests to one host share within a process: connections, tokens, and the pause that the host asked for.

There is one pool for a host, whatever number of remotes and repositories use it. A forked child gets pools of its own.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from attrs import field, frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    import requests

    from distsdk.transport.auth import Tokens

#: Seconds for which the word of a host keeps all requests back. After that, one that is sent learns whether it still
#: holds: the user may have logged in since.
LONGEST_PAUSE = 60.0


class HostPool:
    """Connections, tokens and the pause of one host. Threads share it.

    Attributes:
        session: Holds the connections.
    """

    def __init__(self, session: requests.Session) -> None:
        self.session = session
        self._lock = threading.Lock()
        self._tokens: WeakValueDictionary[Hashable, Tokens] = WeakValueDictionary()
        self._paused_until = 0.0  # on the monotonic clock

    def tokens(self, key: Hashable, make: Callable[[], Tokens]) -> Tokens:
        """Return the tokens of a repository; made where none are in use."""
        with self._lock:
            if (tokens := self._tokens.get(key)) is None:
                tokens = self._tokens[key] = make()
            return tokens

    def forget(self, tokens: Tokens) -> None:
        """Let the next remote for the same repository begin without tokens, and look its login up anew."""
        with self._lock:
            for key, held in list(self._tokens.items()):
                if held is tokens:
                    del self._tokens[key]

    def pause(self, seconds: float) -> bool:
        """Send nothing for so long; return whether that is later by a second than what was known."""
        until = time.monotonic() + min(seconds, LONGEST_PAUSE)
        with self._lock:
            is_news = until > self._paused_until + 1
            self._paused_until = max(self._paused_until, until)
        return is_news

    def paused(self, waited_until: float = 0.0) -> float:
        """Return the seconds for which nothing may be sent, 0 for none.

        Args:
            waited_until: A moment on the monotonic clock up to which pauses were waited out.
        """
        until = self._paused_until
        return max(0.0, until - time.monotonic()) if until > waited_until else 0.0


@frozen
class _Process:
    """The pools of one process."""

    lock: threading.Lock = field(factory=threading.Lock)
    pools: WeakValueDictionary[Hashable, HostPool] = field(factory=WeakValueDictionary)


class HostPools:
    """The pools of all hosts; each is kept as long as something uses it."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}  # a lock that is held during a fork is never released in the child

    def get(self, key: Hashable, make: Callable[[], requests.Session]) -> HostPool:
        """Return the pool of a host for this process.

        Args:
            key: The host, and all that its connections and logins depend on.
            make: Makes the session, where there is no pool yet.
        """
        process = self._processes.setdefault(os.getpid(), _Process())
        with process.lock:
            if (pool := process.pools.get(key)) is None:
                pool = process.pools[key] = HostPool(make())
            return pool


#: The pools of all remotes that were not given others.
SHARED = HostPools()
