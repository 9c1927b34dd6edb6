"""The sockets of the in-process registry: requests in, responses out exactly as they say, step by step."""

from __future__ import annotations

import contextlib
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

from distsdk.testing.exchange import Exchange, HangUp, Headers, Pause, Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes given to the socket at once; a count of bytes is never further ahead of the socket than this.
_PIECE = 1024 * 1024
#: Bodies up to this many bytes go out in one write with their header.
_JOINED = 64 * 1024
#: Seconds between looks at the events that may end a pause.
_TICK = 0.02
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
        self._ssl_context = ssl_context
        self._connections: set[socket.socket] = set()
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
        self._connections.add(connection)
        return connection, address

    def shutdown_request(self, request: socket.socket | tuple[bytes, socket.socket]) -> None:
        """End a connection."""
        self._connections.discard(cast("socket.socket", request))
        super().shutdown_request(request)

    def stop(self) -> None:
        """Stop listening, end pauses and connections."""
        self.closing.set()
        self.shutdown()
        self.server_close()
        self._thread.join()
        for connection in tuple(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """Reads the requests of one connection and sends what they are answered with."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server
    connection: socket.socket

    def handle(self) -> None:
        # A client may go away or fail the handshake at any time; that is nothing to report.
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            super().handle()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: requests are kept, not logged."""

    def _serve(self) -> None:
        self._drop_body()
        path, _, query = self.path.partition("?")
        request = Request(self.command, unquote(path), query, Headers(self.headers.items()))
        exchange, response = self.server.answer(request)
        if response.hold is not None:
            self._wait(response.hold)
        self._send(exchange, response)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _serve

    def _drop_body(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdecimal():
            self.close_connection = True
            return
        left = int(length)
        while left > 0 and (got := len(self.rfile.read(min(left, _PIECE)))):
            left -= got

    def _send(self, exchange: Exchange, response: Response) -> None:
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
        exchange.status = response.status
        if bodiless:
            self.connection.sendall(head)
        else:
            self._send_body(exchange, response, head)

    def _send_body(self, exchange: Exchange, response: Response, head: bytes) -> None:
        chunked = response.framing == "chunked"
        for step in response.body:
            if isinstance(step, memoryview):
                for start in range(0, len(step), _PIECE):
                    piece = step[start : start + _PIECE]
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
                self._wait(step)
            else:
                self._hang_up(step)
        if chunked:
            head += b"0\r\n\r\n"
        if head:
            self.connection.sendall(head)

    def _wait(self, pause: Pause) -> None:
        end = time.monotonic() + pause.seconds
        while (left := end - time.monotonic()) > 0 and not (pause.event and pause.event.is_set()):
            if self.server.closing.wait(min(left, _TICK if pause.event else threading.TIMEOUT_MAX)):
                raise ConnectionAbortedError("the registry is being closed")

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
