"""What bounds an answer where it is read, at the socket: its deadline, and the size of its headers."""

from __future__ import annotations

import contextlib
import http.client
import io
import math
import ssl
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import requests
import urllib3
from urllib3.util.response import assert_header_parsing

from distsdk.errors import DeadlineExceeded, LimitExceeded

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


#: Bytes of a TLS record (RFC 8446 section 5.1).
_RECORD = 16 * 1024

#: The deadline of the request that a thread is about to send, and the bytes of headers it takes in answer.
_current = threading.local()


class _TimedSocket(io.RawIOBase):
    """The reading side of a connection; no read of it outlasts the deadline of its answer.

    A time-out of the socket alone bounds each byte, so that a server that drips headers could go on for hours.

    Over TLS a socket gives one record at a time, of 16 KiB at most: here a read takes all those that have come.
    """

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: Deadline) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock
        self._deadline = deadline
        self._timeout = sock.gettimeout()
        self._gathers = isinstance(sock, ssl.SSLSocket)
        self._failure: OSError | None = None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        if self._failure is not None:
            raise self._failure
        left = self._deadline.left()
        self._sock.settimeout(left if self._timeout is None else min(left, self._timeout))
        try:
            count = cast("int | None", self._raw.readinto(buffer))
        except TimeoutError:
            self._deadline.left()  # raises, if that is what was exceeded
            raise
        view = memoryview(buffer)
        if count and self._gathers and len(view) > _RECORD:
            return count + self._gather(view[count:])
        return count

    def _gather(self, view: memoryview) -> int:
        """Return how many bytes were there already; what goes wrong is for the next read to tell."""
        receive = self._sock.recv_into
        count = 0
        self._sock.settimeout(0)
        try:
            while count < len(view) and (more := receive(view[count:])):
                count += more
        except ssl.SSLWantReadError:
            pass
        except OSError as error:
            self._failure = error
        finally:
            self._sock.settimeout(self._timeout)
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Headers:
    """The lines before a body, of which there may be so many bytes and no more."""

    def __init__(self, fp: io.BufferedReader, limit: int) -> None:
        self._fp = fp
        self._limit = self._left = limit

    def readline(self, size: int = -1, /) -> bytes:
        line = self._fp.readline(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            message = f"the headers of the answer are longer than the limit of {self._limit} bytes"
            raise LimitExceeded(message, limit=self._limit)
        return line

    def close(self) -> None:
        self._fp.close()


class _TimedResponse(http.client.HTTPResponse):
    """An answer that is read, headers included, before the deadline of its request."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as in http.client
        super().__init__(sock, *args, **kwargs)
        if (deadline := getattr(_current, "deadline", None)) is not None:
            raw = self.fp.detach()
            self.fp = io.BufferedReader(_TimedSocket(raw, sock, deadline))

    def begin(self) -> None:
        """Read status and headers, of bounded size."""
        self._limit: int | None = getattr(_current, "headers", None)
        with self._limited():
            super().begin()
        # urllib3 would log what does not parse, with the URL, and go on without the lines that follow.
        assert_header_parsing(self.msg)

    def _read_status(self) -> tuple[str, int, str]:
        """Read the status line of the answer; what is said in between is passed over (RFC 9110 section 15.2)."""
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc] # of http.client
            if not 101 < status < 200:
                return version, status, reason
            http.client.parse_headers(self.fp)

    def _read_next_chunk_size(self) -> int:
        size: int = super()._read_next_chunk_size()  # type: ignore[misc] # of http.client
        if size < 0:
            self.close()
            message = "a chunk of negative size"
            raise ValueError(message)  # as http.client does for one that is no number
        return size

    def _read_and_discard_trailer(self) -> None:
        """Read what follows the last chunk of a body: header lines too (RFC 9112 section 7.1.2)."""
        with self._limited():
            super()._read_and_discard_trailer()  # type: ignore[misc] # of http.client

    @contextlib.contextmanager
    def _limited(self) -> Iterator[None]:
        if self._limit is None:
            yield
            return
        fp = self.fp
        self.fp = cast("io.BufferedReader", _Headers(fp, self._limit))
        try:
            yield
        finally:
            if self.fp is not None:  # None: there is no body, and it was closed
                self.fp = fp


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
    """An adapter whose answers come, headers included, within the bounds that `reaching_the_socket` sets.

    Args:
        tls: What TLS goes by, certificates included; None for the usual bundle.
        pool_maxsize: Connections kept open to one host.
    """

    _tls: ssl.SSLContext | None = None  # also of a copy, which requests makes without the arguments

    def __init__(self, *, tls: ssl.SSLContext | None = None, pool_maxsize: int) -> None:
        self._tls = tls
        super().__init__(pool_maxsize=pool_maxsize)

    def init_poolmanager(self, connections: int, maxsize: int, block: bool = False, **kwargs: Any) -> None:  # noqa: ANN401 - as in requests
        """Make the pool manager, with our pools."""
        super().init_poolmanager(connections, maxsize, block, **kwargs, **self._tls_arguments())
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> urllib3.ProxyManager:  # noqa: ANN401 - as in requests
        """Return the pool manager for a proxy, with our pools."""
        manager: urllib3.ProxyManager = super().proxy_manager_for(proxy, **kwargs, **self._tls_arguments())
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def cert_verify(self, conn: Any, url: str, verify: Any, cert: Any) -> None:  # noqa: ANN401 - as in requests
        """Name the certificates that count; where there is a context, it knows, and no bundle is added to it."""
        if self._tls is None:
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:  # noqa: ANN401
        """Choose the pool; as in requests, but for verification, which belongs to the context where there is one."""
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
        if self._tls is None:
            return host, pool
        verification = {"ca_certs", "ca_cert_dir", "cert_reqs", "cert_file", "key_file"}
        return host, {name: value for name, value in pool.items() if name not in verification}

    def _tls_arguments(self) -> dict[str, Any]:
        return {} if self._tls is None else {"ssl_context": self._tls}


@contextlib.contextmanager
def reaching_the_socket(deadline: Deadline, headers: int) -> Iterator[None]:
    """Bound the answer to a request that is sent inside the ``with`` block.

    Args:
        deadline: Before which every byte is read, or the reading fails.
        headers: Bytes of status line and headers.
    """
    _current.deadline, _current.headers = deadline, headers
    try:
        yield
    finally:
        _current.deadline = _current.headers = None
