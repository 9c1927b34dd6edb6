"""Bound connections and responses at the socket: their time, and the size of headers."""

from __future__ import annotations

import contextlib
import functools
import http.client
import io
import ipaddress
import math
import socket
import ssl
import sys
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import requests
import urllib3
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError, ProxyError
from urllib3.util.connection import allowed_gai_family
from urllib3.util.response import assert_header_parsing

from distsdk.errors import DeadlineExceeded, LimitExceeded

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from _typeshed import WriteableBuffer


class Deadline:
    """A time by which an operation must have ended.

    Args:
        seconds: Time allowed, from now on.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._end = time.monotonic() + seconds

    def left(self) -> float:
        """Return the remaining seconds; infinity after `lift`.

        Raises:
            DeadlineExceeded: No time is left.
        """
        left = self._end - time.monotonic()
        if left <= 0:
            message = f"not done within {self.seconds:g} seconds: try again, or allow more with timeouts= or --timeout"
            raise DeadlineExceeded(message, seconds=self.seconds)
        return left

    def lift(self) -> None:
        """Remove the time limit from the rest of the operation."""
        self._end = math.inf

    def restart(self) -> None:
        """Start the time again from now on."""
        self._end = time.monotonic() + self.seconds


#: Bytes of a TLS record (RFC 8446 section 5.1).
_RECORD = 16 * 1024

#: For the present request of a thread: its deadline, the limit in bytes of the response's headers, and the seconds in
#: which the server must accept each piece of the body.
_current = threading.local()


class _TimedSocket(io.RawIOBase):
    """The reading side of a connection, bounded by the deadline of the request.

    The time-out of a socket bounds each receive only, so that a server that sends headers byte by byte could take
    hours.

    Over TLS, a socket returns one record of at most 16 KiB at a time; a read here returns all that have arrived.
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
            self._deadline.left()  # raises if the deadline was exceeded
            raise
        view = memoryview(buffer)
        if count and self._gathers and len(view) > _RECORD:
            return count + self._gather(view[count:])
        return count

    def _gather(self, view: memoryview) -> int:
        """Read the bytes that have already arrived, and return their number; the next read raises any failure."""
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
    """The header lines of a response, with a limit on their total size."""

    def __init__(self, fp: io.BufferedReader, limit: int) -> None:
        self._fp = fp
        self._limit = self._left = limit

    def readline(self, size: int = -1, /) -> bytes:
        line = self._fp.readline(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(line)
        if self._left < 0:
            message = f"the headers of the response exceed the limit of {self._limit} bytes"
            raise LimitExceeded(message, limit=self._limit)
        return line

    def close(self) -> None:
        self._fp.close()


class _TimedResponse(http.client.HTTPResponse):
    """A response whose headers and body are read before the deadline of its request."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as in http.client
        super().__init__(sock, *args, **kwargs)
        if (deadline := getattr(_current, "deadline", None)) is not None:
            raw = self.fp.detach()
            self.fp = io.BufferedReader(_TimedSocket(raw, sock, deadline))

    def begin(self) -> None:
        """Read status line and headers, with a limit on their size."""
        self._limit: int | None = getattr(_current, "headers", None)
        with self._limited():
            super().begin()
        # urllib3 would log invalid headers with the URL, and ignore all lines after them.
        assert_header_parsing(self.msg)

    def _read_status(self) -> tuple[str, int, str]:
        """Read the status line of the final response; skip interim responses (RFC 9110 section 15.2)."""
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc] # of http.client
            if not 101 < status < 200:
                return version, status, reason
            http.client.parse_headers(self.fp)

    def _read_next_chunk_size(self) -> int:
        size: int = super()._read_next_chunk_size()  # type: ignore[misc] # of http.client
        if size < 0:
            self.close()
            message = "negative chunk size"
            raise ValueError(message)  # as http.client raises for an invalid number
        return size

    def _read_and_discard_trailer(self) -> None:
        """Read the trailer after the last chunk of a body, whose lines are headers too (RFC 9112 section 7.1.2)."""
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
            if self.fp is not None:  # None: the response has no body and was closed
                self.fp = fp


class TLSTimeoutError(ConnectTimeoutError):
    """The host accepted the connection, but the TLS handshake timed out."""


#: The result of `socket.getaddrinfo`, one entry for each address.
_Addresses: TypeAlias = "Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]]"

#: Least seconds for each of several addresses, within the time-out: enough for a host on the other side of the earth.
_FOR_ONE_ADDRESS = 2.0


class _TimedConnection:
    """A connection whose time-out covers name resolution, all addresses and TLS together.

    urllib3 alone would wait for the name as long as the system does, and start the time-out again for each address and
    for TLS. The response of a proxy to CONNECT is bounded by the request's deadline.
    """

    def connect(self) -> None:
        self._end = time.monotonic() + cast("float", self.timeout)  # type: ignore[attr-defined] # of http.client
        try:
            super().connect()  # type: ignore[misc]
        except TimeoutError as error:  # of the TLS handshake; earlier steps raise other errors
            _raise_if_late()
            raise TLSTimeoutError(self, str(error)) from error
        self.sock.settimeout(self.timeout)  # type: ignore[attr-defined]

    def send(self, data: Any) -> None:  # noqa: ANN401 - as in http.client
        """Send data; each piece of a body has its own time-out."""
        seconds: float | None = getattr(_current, "sending", None)
        sock: socket.socket | None = self.sock  # type: ignore[attr-defined] # of http.client
        if sock is not None and seconds is not None:
            sock.settimeout(seconds)
        super().send(data)  # type: ignore[misc]

    def _new_conn(self) -> socket.socket:
        """Connect to the host or its proxy, and raise the same errors as urllib3's own method."""
        host: str = self.host  # type: ignore[attr-defined]
        try:
            addresses = _resolve(self._dns_host.strip("[]"), self.port, self._left())  # type: ignore[attr-defined]
        except TimeoutError as error:
            _raise_if_late()
            raise NameResolutionError(host, cast("Any", self), cast("Any", error)) from error
        except (socket.gaierror, UnicodeError) as error:
            raise NameResolutionError(host, cast("Any", self), cast("Any", error)) from error
        try:
            sock = self._connect_to_one(addresses)
        except TimeoutError as error:
            _raise_if_late()
            raise ConnectTimeoutError(self, str(error)) from error
        except OSError as error:
            raise NewConnectionError(cast("Any", self), str(error)) from error
        sys.audit("http.client.connect", self, host, self.port)  # type: ignore[attr-defined] # as http.client does
        return sock

    def _connect_to_one(self, addresses: _Addresses) -> socket.socket:
        """Connect to the first address that accepts; if none does, raise the last one's error."""
        for left, (family, kind, protocol, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
            sock = None
            try:
                sock = socket.socket(family, kind, protocol)
                for option in self.socket_options or ():  # type: ignore[attr-defined]
                    sock.setsockopt(*option)
                # As Go's Dialer: an address that does not respond, such as IPv6 without a route, leaves time.
                sock.settimeout(min(self._left(), max(self._left() / left, _FOR_ONE_ADDRESS)))
                if self.source_address:  # type: ignore[attr-defined]
                    sock.bind(self.source_address)  # type: ignore[attr-defined]
                sock.connect(address)
                sock.settimeout(self._left())  # for TLS
            except OSError:
                if sock is not None:
                    sock.close()
                if left == 1:
                    raise
            else:
                return sock
        raise OSError("the host has no address")

    def _tunnel(self) -> None:
        try:
            super()._tunnel()  # type: ignore[misc]
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, TimeoutError):
                _raise_if_late()
            raise ProxyError("no tunnel", error) from error  # urllib3 does not always blame the proxy
        self.sock.settimeout(self._left())  # type: ignore[attr-defined] # for TLS

    def _left(self) -> float:
        """Return the remaining seconds, never zero: that would make the socket non-blocking."""
        return max(self._end - time.monotonic(), 0.001)


class _HTTPConnection(_TimedConnection, urllib3.connection.HTTPConnection):
    pass


class _HTTPSConnection(_TimedConnection, urllib3.connection.HTTPSConnection):
    pass


def _raise_if_late() -> None:
    """Raise `DeadlineExceeded` if the deadline of the request was exceeded."""
    deadline: Deadline | None = getattr(_current, "deadline", None)
    if deadline is not None:
        deadline.left()


def _resolve(host: str, port: int, seconds: float) -> _Addresses:
    """Return the addresses of a host.

    `socket.getaddrinfo` has no time-out, ignores signals, and takes half a minute or longer if name servers do not
    respond. A thread therefore calls it, and the caller waits for the thread.

    Raises:
        TimeoutError: The resolution takes longer than ``seconds``.
        OSError: The name has no address.
        UnicodeError: The name is invalid.
    """
    look_up = functools.partial(socket.getaddrinfo, host, port, allowed_gai_family(), socket.SOCK_STREAM)
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return look_up()  # without a request to a name server
    found: Future[_Addresses] = Future()

    def work() -> None:
        try:
            found.set_result(look_up())
        except BaseException as error:  # noqa: BLE001 - raised by `Future.result`
            found.set_exception(error)

    threading.Thread(target=work, name="distsdk-resolve", daemon=True).start()
    return found.result(seconds)


_CONNECTIONS: dict[type, type] = {
    urllib3.connection.HTTPConnection: _HTTPConnection,
    urllib3.connection.HTTPSConnection: _HTTPSConnection,
}


class _Timed:
    """A pool of `_TimedConnection`, whose responses are `_TimedResponse`."""

    @property
    def ConnectionCls(self) -> Any:  # noqa: ANN401 - as in urllib3, where a recorder may put a class of its own
        usual = super().ConnectionCls  # type: ignore[misc] # of the pool
        return _CONNECTIONS.get(usual, usual)

    def _new_conn(self) -> Any:  # noqa: ANN401 - as above
        connection = super()._new_conn()  # type: ignore[misc] # of the pool
        connection.response_class = _TimedResponse
        return connection


class _HTTPPool(_Timed, urllib3.HTTPConnectionPool):  # type: ignore[override] # a property for an attribute
    pass


class _HTTPSPool(_Timed, urllib3.HTTPSConnectionPool):  # type: ignore[override]
    pass


_POOLS = {"http": _HTTPPool, "https": _HTTPSPool}


class TimedAdapter(requests.adapters.HTTPAdapter):
    """An adapter whose responses, including headers, stay within the bounds of `reaching_the_socket`.

    Args:
        tls: Settings and certificates of TLS; None for the bundle of certifi.
        pool_maxsize: Idle connections kept open to one host.
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
        """Set the certificates of a connection, unless there is a context, which has them already."""
        if self._tls is None:
            super().cert_verify(conn, url, verify, cert)  # type: ignore[no-untyped-call]

    def build_connection_pool_key_attributes(self, request: Any, verify: Any, cert: Any = None) -> Any:  # noqa: ANN401
        """Choose the pool as requests does, without the verification settings if there is a context."""
        host, pool = super().build_connection_pool_key_attributes(request, verify, cert)
        if self._tls is None:
            return host, pool
        verification = {"ca_certs", "ca_cert_dir", "cert_reqs", "cert_file", "key_file"}
        return host, {name: value for name, value in pool.items() if name not in verification}

    def _tls_arguments(self) -> dict[str, Any]:
        return {} if self._tls is None else {"ssl_context": self._tls}


@contextlib.contextmanager
def reaching_the_socket(deadline: Deadline, headers: int) -> Iterator[None]:
    """Bound the response to a request that is sent inside the ``with`` block.

    Args:
        deadline: When the last byte must have been read.
        headers: Largest size of status line and headers in bytes.
    """
    _current.deadline, _current.headers, _current.sending = deadline, headers, None
    try:
        yield
    finally:
        _current.deadline = _current.headers = _current.sending = None


def bound_each_piece(seconds: float) -> None:
    """Bound the time to send each piece of the body of this thread's present request.

    Args:
        seconds: Time in which the server must accept a piece.
    """
    _current.sending = seconds
