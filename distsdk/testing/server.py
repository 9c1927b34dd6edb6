"""The sockets of the in-process registry: requests in, responses out exactly as they say, step by step."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import socketserver
import ssl
import struct
import threading
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote

from distsdk.testing.exchange import Connection, Exchange, HangUp, Headers, Incoming, Pace, Pause, Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Bytes given to the socket at once; a count of bytes is never further ahead of the socket than this.
_PIECE = 1024 * 1024
#: Bodies up to this many bytes go out in one write with their header.
_JOINED = 64 * 1024
#: Bytes of a request's own body that are kept.
_KEPT = 64 * 1024
#: What the path of an upload has in it, whose body is taken by the registry.
UPLOADS = "/blobs/uploads/"
#: Seconds between looks at what may end a pause.
_TICK = 0.02
#: Seconds that a steady pace makes up for when it has fallen behind, be it that this thread or the client was late.
_SLACK = 0.25
#: Seconds that the accepting thread may take to notice that the server is being closed.
_POLL = 0.01


class Server(ThreadingHTTPServer):
    """An HTTP server on a free loopback port, one thread for each connection.

    Args:
        answer: Given a request, returns the response and the exchange that is kept up to date while it is sent.
        ssl_context: Speak TLS with this context.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, answer: Callable[[Request], tuple[Exchange, Response]], ssl_context: ssl.SSLContext | None
    ) -> None:
        self.answer = answer
        self.closing = threading.Event()
        self.most_open = 0
        self._ssl_context = ssl_context
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._open: dict[socket.socket, int] = {}
        self._ended: list[int] = []
        super().__init__(("127.0.0.1", 0), _Handler)
        self._thread = threading.Thread(target=self.serve_forever, args=(_POLL,), name="distsdk-registry", daemon=True)
        self._thread.start()

    def server_bind(self) -> None:
        """Bind without the reverse look-up of the host name that HTTPServer does."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[0:2]  # type: ignore[assignment]  # typeshed: any address family

    def get_request(self) -> tuple[socket.socket, object]:
        """Accept a connection; its TLS handshake happens in its own thread."""
        connection, address = super().get_request()
        if self._ssl_context is not None:
            connection = self._ssl_context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False)
        with self._lock:
            self._open[connection] = next(self._numbers)
            self.most_open = max(self.most_open, len(self._open))
        return connection, address

    def number(self, connection: socket.socket) -> int:
        """Return the number of an open connection."""
        with self._lock:
            return self._open[connection]

    def connections(self) -> list[Connection]:
        """Return what there are and were since the last `forget`, in order, without counts."""
        with self._lock:
            ended = [Connection(number, open=False) for number in self._ended]
            there = [Connection(number, open=True) for number in self._open.values()]
            return sorted([*ended, *there], key=lambda connection: connection.number)

    def forget(self) -> None:
        """Forget the connections that have ended, and how many were open at once."""
        with self._lock:
            self._ended.clear()
            self.most_open = len(self._open)

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """End a connection."""
        with self._lock:
            self._ended.append(self._open.pop(cast("socket.socket", request)))
        super().shutdown_request(request)

    def stop(self) -> None:
        """Stop listening, end pauses and connections."""
        self.closing.set()
        self.shutdown()
        self.server_close()
        self._thread.join()
        with self._lock:
            left = tuple(self._open)
        for connection in left:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """Reads the requests of one connection and sends what they are answered with."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server
    connection: socket.socket

    def setup(self) -> None:
        super().setup()
        self._number = self.server.number(self.connection)
        self._sent = 0
        self._pace: Pace | None = None
        self._due = 0.0

    def handle(self) -> None:
        # A client may go away or fail the handshake at any time; that is nothing to report.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: requests are kept, not logged."""

    def _serve(self) -> None:
        incoming = Incoming(self._read_body())
        path, _, query = self.path.partition("?")
        request = Request(
            self.command,
            unquote(path),
            query,
            Headers(self.headers.items()),
            b"" if UPLOADS in path else incoming.begin(_KEPT),
            connection=self._number,
            sent_before=self._sent,
            incoming=incoming,
        )
        exchange, response = self.server.answer(request)
        if isinstance(response.hold, HangUp):
            self._hang_up(response.hold)
        for _ in incoming:
            pass  # so that the next request on this connection is understood
        if isinstance(response.hold, Pause):
            self._wait(response.hold.seconds, response.hold.event)
        self._pace, self._due = response.pace, time.monotonic()
        self._send(exchange, response)
        self._sent += exchange.sent

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _serve

    def _read_body(self) -> Iterator[bytes]:
        if "Transfer-Encoding" in self.headers:
            yield from self._read_chunks()
            return
        length = self.headers.get("Content-Length", "0")
        if not length.isdecimal():
            self.close_connection = True
            return
        yield from self._read_pieces(int(length))

    def _read_chunks(self) -> Iterator[bytes]:
        # https://www.rfc-editor.org/rfc/rfc9112#section-7.1
        while True:
            try:
                size = int(self.rfile.readline(_KEPT).partition(b";")[0], 16)
            except ValueError:
                self.close_connection = True
                return
            if size <= 0:
                break
            yield from self._read_pieces(size)
            self.rfile.readline(_KEPT)
        while self.rfile.readline(_KEPT).strip():
            pass  # fields after the last chunk

    def _read_pieces(self, size: int) -> Iterator[bytes]:
        """Yield so many bytes, as they come.

        Raises:
            ConnectionAbortedError: The client hung up in the middle.
        """
        while size > 0:
            piece = self.rfile.read1(min(size, _PIECE))
            if not piece:
                raise ConnectionAbortedError("the client has gone in the middle of a body")
            size -= len(piece)
            yield piece

    def _send(self, exchange: Exchange, response: Response) -> None:
        exchange.status = response.status
        if response.framing == "raw":
            self.close_connection = True
            self._send_body(exchange, response, b"")
            return
        bodiless = exchange.request.method == "HEAD" or response.status in {204, 304}
        length = response.header("Content-Length") or str(response.length)
        lines = [f"HTTP/1.1 {response.status} {_phrase(response.status)}", f"Date: {self.date_time_string()}"]
        lines += [f"{name}: {value}" for name, value in response.headers if name.lower() != "content-length"]
        if response.framing == "length" and response.status != 204:
            lines.append(f"Content-Length: {length}")
            self.close_connection |= not bodiless and length != str(response.size)
        elif response.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
        elif response.framing == "close" and not bodiless:
            self.close_connection = True
        if self.close_connection:
            lines.append("Connection: close")
        head = "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape")
        if self._pace is not None and self._pace.headers:
            for start in range(0, len(head), self._pace.size):
                piece = head[start : start + self._pace.size]
                self._take_turn(len(piece))
                self.connection.sendall(piece)
            head = b""
        if bodiless:
            self.connection.sendall(head)
        else:
            self._send_body(exchange, response, head)

    def _send_body(self, exchange: Exchange, response: Response, head: bytes) -> None:
        chunked = response.framing == "chunked"
        size = _PIECE if self._pace is None else min(self._pace.size, _PIECE)
        for step in response.body:
            if isinstance(step, memoryview):
                for start in range(0, len(step), size):
                    piece = step[start : start + size]
                    self._take_turn(len(piece))
                    if chunked:
                        head += b"%x\r\n" % len(piece)
                    # Counted first: a client that has read a byte must find it counted.
                    exchange.sent += len(piece)
                    if len(piece) <= _JOINED:
                        self.connection.sendall(head + piece)
                    else:
                        if head:
                            self.connection.sendall(head)
                        self.connection.sendall(piece)
                    head = b"\r\n" if chunked else b""
                continue
            if head:
                self.connection.sendall(head)
                head = b""
            if isinstance(step, Pause):
                self._wait(step.seconds, step.event)
            else:
                self._hang_up(step)
        if chunked:
            head += b"0\r\n\r\n"
        if head:
            self.connection.sendall(head)

    def _take_turn(self, size: int) -> None:
        """Wait until so many bytes may be sent."""
        pace = self._pace
        if pace is None:
            return
        now = time.monotonic()
        if pace.steady:
            self._due = max(self._due, now - _SLACK) + pace.seconds * size / pace.size
        self._wait(self._due - now)
        if not pace.steady:
            self._due = time.monotonic() + pace.seconds

    def _wait(self, seconds: float, event: threading.Event | None = None) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not (event and event.is_set()):
            if self.server.closing.wait(min(left, _TICK)):
                raise ConnectionAbortedError("the registry is being closed")
            if left > _TICK and self._left_alone():
                raise ConnectionAbortedError("the client has gone")

    def _left_alone(self) -> bool:
        try:
            # Of the plain socket also under TLS, where only the end of the connection is looked for.
            return socket.socket.recv(self.connection, 1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False

    def _hang_up(self, step: HangUp) -> None:
        if step.reset:
            # Without lingering, closing the descriptor sends RST; the socket object must not get to shut it down first.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            os.close(self.connection.detach())
        raise ConnectionAbortedError("the connection was cut on request")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"
