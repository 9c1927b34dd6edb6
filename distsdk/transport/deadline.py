"""Deadlines, and how they reach the socket."""

from __future__ import annotations

import contextlib
import http.client
import io
import math
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import requests
import urllib3

from distsdk.errors import DeadlineExceeded

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from _typeshed import WriteableBuffer


class Deadline:
    """A moment by which something has to be done."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the seconds that are left, infinity once it was lifted.

        Raises:
            DeadlineExceeded: None are.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            message = f"not done within {self.seconds:g} seconds: try again, or allow more with timeouts= or --timeout"
            raise DeadlineExceeded(message, seconds=self.seconds)
        return left

    def lift(self) -> None:
        """Let what is still to be done take its time."""
        self._end = math.inf


#: The deadline of the request that a thread is about to send.
_current = threading.local()


class _TimedSocket(io.RawIOBase):
    """The reading side of a connection; no read of it outlasts the deadline of its answer.

    A time-out of the socket alone bounds each byte, so that a server that drips headers could go on for hours.
    """

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: Deadline) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock
        self._deadline = deadline
        self._timeout = sock.gettimeout()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        left = self._deadline.left()
        self._sock.settimeout(left if self._timeout is None else min(left, self._timeout))
        try:
            return cast("int | None", self._raw.readinto(buffer))
        except TimeoutError:
            self._deadline.left()  # raises, if that is what was exceeded
            raise

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    """An answer that is read, headers included, before the deadline of its request."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as in http.client
        super().__init__(sock, *args, **kwargs)
        if (deadline := getattr(_current, "deadline", None)) is not None:
            raw = self.fp.detach()
            self.fp = io.BufferedReader(_TimedSocket(raw, sock, deadline))


class _Timed:
    """Makes connections whose answers are `_TimedResponse`."""

    def _new_conn(self) -> Any:  # noqa: ANN401 - as in urllib3, where a recorder may put another class
        connection = super()._new_conn()  # type: ignore[misc] # of the pool
        connection.response_class = _TimedResponse
        return connection


class _HTTPPool(_Timed, urllib3.HTTPConnectionPool):
    pass


class _HTTPSPool(_Timed, urllib3.HTTPSConnectionPool):
    pass


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


class TimedAdapter(requests.adapters.HTTPAdapter):
    """An adapter whose answers come, headers included, before the deadline that `reaching_the_socket` sets."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as in requests
        """Make the pool manager, with our pools."""
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> urllib3.ProxyManager:  # noqa: ANN401 - as in requests
        """Return the pool manager for a proxy, with our pools."""
        manager: urllib3.ProxyManager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


@contextlib.contextmanager
def reaching_the_socket(deadline: Deadline) -> Iterator[None]:
    """Let the answer to a request that is sent inside the ``with`` block be read before the deadline, or fail."""
    _current.deadline = deadline
    try:
        yield
    finally:
        _current.deadline = None
