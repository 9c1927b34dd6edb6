"""Share connections, tokens and rate-limit pauses between all requests of a process to one host.

All remotes and repositories of a host use one pool. A forked child has its own pools.
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

#: Seconds for which a 429 holds back all requests to a host, even if the host asked for more. After that, a request
#: finds out whether the limit still applies: the user may have logged in meanwhile.
LONGEST_PAUSE = 60.0


class HostPool:
    """Connections, tokens and the pause of one host. Threads may share a pool.

    Attributes:
        session: Session that holds the connections.
    """

    def __init__(self, session: requests.Session) -> None:
        self.session = session
        self._lock = threading.Lock()
        self._tokens: WeakValueDictionary[Hashable, Tokens] = WeakValueDictionary()
        self._paused_until = 0.0  # on the monotonic clock

    def tokens(self, key: Hashable, make: Callable[[], Tokens]) -> Tokens:
        """Return the tokens of a repository.

        Args:
            key: The repository, and all other settings that its tokens depend on.
            make: Makes the object, called if no transport holds one for the key.
        """
        with self._lock:
            if (tokens := self._tokens.get(key)) is None:
                tokens = self._tokens[key] = make()
            return tokens

    def forget(self, tokens: Tokens) -> None:
        """Discard tokens, so that the next remote for the repository looks up its login again.

        Args:
            tokens: As returned by `tokens`.
        """
        with self._lock:
            for key, held in list(self._tokens.items()):
                if held is tokens:
                    del self._tokens[key]

    def pause(self, seconds: float) -> bool:
        """Hold back all requests to the host.

        Args:
            seconds: From now on; at most `LONGEST_PAUSE` count.

        Returns:
            Whether the end of the pause moved by more than a second, so that it is worth reporting.
        """
        until = time.monotonic() + min(seconds, LONGEST_PAUSE)
        with self._lock:
            is_news = until > self._paused_until + 1
            self._paused_until = max(self._paused_until, until)
        return is_news

    def paused(self, waited_until: float = 0.0) -> float:
        """Return the seconds until requests may be sent again, 0 if they may be sent now.

        Args:
            waited_until: Time on the monotonic clock up to which the caller has waited; pauses that ended before are
                over for it.
        """
        until = self._paused_until
        return max(0.0, until - time.monotonic()) if until > waited_until else 0.0


@frozen
class _Process:
    """The pools of one process."""

    lock: threading.Lock = field(factory=threading.Lock)
    pools: WeakValueDictionary[Hashable, HostPool] = field(factory=WeakValueDictionary)


class HostPools:
    """The pools of all hosts; a pool lives as long as a transport uses it."""

    def __init__(self) -> None:
        self._processes: dict[int, _Process] = {}  # a lock that is held during a fork is never released in the child

    def get(self, key: Hashable, make: Callable[[], requests.Session]) -> HostPool:
        """Return the pool of a host for this process.

        Args:
            key: The host, and all settings that its connections and logins depend on.
            make: Makes the session, called if the host has no pool yet.
        """
        process = self._processes.setdefault(os.getpid(), _Process())
        with process.lock:
            if (pool := process.pools.get(key)) is None:
                pool = process.pools[key] = HostPool(make())
            return pool


#: The pools that remotes use by default.
SHARED = HostPools()
