"""What bounds a connection and an answer at the socket: the time they take, and the size of headers."""

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

    def restart(self) -> None:
        """Count the seconds from now on."""
        self._end = time.monotonic() + self.seconds


#: Bytes of a TLS record (RFC 8446 section 5.1).
_RECORD = 16 * 1024

#: The deadline of the request that a thread is about to send, the bytes of headers it takes in answer, and the seconds
#: in which a piece of its body has to be taken.
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


class TLSTimeoutError(ConnectTimeoutError):
    """The host accepted a connection, and TLS was not agreed upon in time."""


#: What `socket.getaddrinfo` says of a host, a line for each address.
_Addresses: TypeAlias = "Sequence[tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]]"

#: Seconds for one address of several, if there are as many, so that a host on the other side of the earth has a chance.
_FOR_ONE_ADDRESS = 2.0


class _TimedConnection:
    """A connection that comes about within its time-out: the name, all addresses and TLS together.

    urllib3 alone would wait for the name as long as the system does, and begin anew for each address and for TLS. What
    a proxy says before it opens a tunnel is an answer, and read within the request's deadline.
    """

    def connect(self) -> None:
        self._end = time.monotonic() + cast("float", self.timeout)  # type: ignore[attr-defined] # of http.client
        try:
            super().connect()  # type: ignore[misc]
        except TimeoutError as error:  # of TLS; of what comes before, there are other errors
            _raise_if_late()
            raise TLSTimeoutError(self, str(error)) from error
        self.sock.settimeout(self.timeout)  # type: ignore[attr-defined]

    def send(self, data: Any) -> None:  # noqa: ANN401 - as in http.client
        """Send something; a piece of a body within its own time, where the socket would have that of what was last."""
        seconds: float | None = getattr(_current, "sending", None)
        sock: socket.socket | None = self.sock  # type: ignore[attr-defined] # of http.client
        if sock is not None and seconds is not None:
            sock.settimeout(seconds)
        super().send(data)  # type: ignore[misc]

    def _new_conn(self) -> socket.socket:
        """Connect to the host, or to its proxy, with the errors that urllib3's own method has."""
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
        """Connect to the first address that accepts; the last one's error is raised."""
        for left, (family, kind, protocol, _, address) in zip(range(len(addresses), 0, -1), addresses, strict=True):
            sock = None
            try:
                sock = socket.socket(family, kind, protocol)
                for option in self.socket_options or ():  # type: ignore[attr-defined]
                    sock.setsockopt(*option)
                # As Go's Dialer: an address that is silent, IPv6 without a way out say, leaves time for the others.
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
            raise ProxyError("no tunnel", error) from error  # urllib3 does not always tell whose fault it was
        self.sock.settimeout(self._left())  # type: ignore[attr-defined] # for TLS

    def _left(self) -> float:
        """Return the seconds that are left, never zero: that would stand for a socket that waits for nothing."""
        return max(self._end - time.monotonic(), 0.001)


class _HTTPConnection(_TimedConnection, urllib3.connection.HTTPConnection):
    pass


class _HTTPSConnection(_TimedConnection, urllib3.connection.HTTPSConnection):
    pass


def _raise_if_late() -> None:
    """Raise `DeadlineExceeded` where it is the deadline of the request that was exceeded."""
    deadline: Deadline | None = getattr(_current, "deadline", None)
    if deadline is not None:
        deadline.left()


def _resolve(host: str, port: int, seconds: float) -> _Addresses:
    """Return the addresses of a host.

    `socket.getaddrinfo` knows no time-out, heeds no signal, and goes on for half a minute or longer where name servers
    are silent: a thread is left to wait for it, and the caller waits for the thread.

    Raises:
        TimeoutError: It takes longer than ``seconds``.
        OSError: There are none.
        UnicodeError: The name cannot be one.
    """
    look_up = functools.partial(socket.getaddrinfo, host, port, allowed_gai_family(), socket.SOCK_STREAM)
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return look_up()  # nobody is asked
    found: Future[_Addresses] = Future()

    def work() -> None:
        try:
            found.set_result(look_up())
        except BaseException as error:  # noqa: BLE001 - raised by whoever waits, if they still do
            found.set_exception(error)

    threading.Thread(target=work, name="distsdk-resolve", daemon=True).start()
    return found.result(seconds)


_CONNECTIONS: dict[type, type] = {
    urllib3.connection.HTTPConnection: _HTTPConnection,
    urllib3.connection.HTTPSConnection: _HTTPSConnection,
}


class _Timed:
    """Makes connections in time, whose answers are `_TimedResponse`."""

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
    _current.deadline, _current.headers, _current.sending = deadline, headers, None
    try:
        yield
    finally:
        _current.deadline = _current.headers = _current.sending = None


def bound_each_piece(seconds: float) -> None:
    """Bound what this thread sends from now on with its present request: the pieces of the body.

    Args:
        seconds: In which the other side has to take each of them.
    """
    _current.sending = seconds
