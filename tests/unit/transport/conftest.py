"""What the tests of the transport share: servers on loopback that answer as they are told, and an authority."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING, Protocol

import pytest
from attrs import field, frozen

import distsdk.testing
from distsdk.transport.client import Transport
from distsdk.transport.hosts import Endpoint, Hosts
from distsdk.transport.retry import Retry
from distsdk.transport.settings import Limits, Timeouts

from ...support import fork

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import requests

#: What the tests ask for, and what a token for it has to allow.
PATH = "/v2/x/manifests/1"
SCOPE = "repository:x:pull"


@frozen
class Asked:
    """A request as it came.

    Attributes:
        method: ``GET``; of a proxy also ``CONNECT``.
        target: What stands after the method.
        headers: By name in lower case; of a name that comes twice, the last.
        connection: Number of the connection it came over, from 0.
    """

    method: str
    target: str
    headers: dict[str, str] = field(repr=False)
    connection: int


class Peer:
    """A server that answers byte for byte as a function says.

    Args:
        answer: Is handed each request and its socket, and sends what it likes; the connection goes on while it
            returns True.
        context: Speak TLS with it.
        address: Where to listen.
    """

    def __init__(
        self,
        answer: Callable[[Asked, socket.socket], bool | None],
        context: ssl.SSLContext | None = None,
        address: str = "127.0.0.1",
    ) -> None:
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        self._answer = answer
        self._context = context
        self._listener = socket.create_server((address, 0))
        self._connections: list[socket.socket] = []
        self.host = f"{address}:{self._listener.getsockname()[1]}"
        self.url = f"{'https' if context else 'http'}://{self.host}"
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def authorizations(self) -> list[str | None]:
        """The Authorization header of each request."""
        return [asked.headers.get("authorization") for asked in self.asked]

    def close(self) -> None:
        """End everything."""
        self.closing.set()
        for sock in (self._listener, *self._connections):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._connections.append(sock)
                threading.Thread(target=self._serve, args=(sock, len(self._connections) - 1), daemon=True).start()

    def _serve(self, sock: socket.socket, number: int) -> None:
        with contextlib.suppress(OSError), sock:
            stream = self._context.wrap_socket(sock, server_side=True) if self._context else sock
            with stream:
                while (head := _read_head(stream)) and self._respond(head, stream, number):
                    pass

    def _respond(self, head: str, stream: socket.socket, number: int) -> bool:
        first, *lines = head.split("\r\n")
        method, target, _ = first.split(" ")
        pairs = (line.partition(":") for line in lines if line)
        asked = Asked(method, target, {name.lower(): value.strip() for name, _, value in pairs}, number)
        self.asked.append(asked)
        return bool(self._answer(asked, stream))


def _read_head(stream: socket.socket) -> str:
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        byte = stream.recv(1)
        if not byte:
            return ""
        data += byte
    return data.decode("latin-1")


class Serve(Protocol):
    """Starts a `Peer`; it ends with the test."""

    def __call__(
        self,
        answer: Callable[[Asked, socket.socket], bool | None] | bytes,
        context: ssl.SSLContext | None = None,
        address: str = "127.0.0.1",
    ) -> Peer:
        """Start one; bytes are sent in answer to every request."""
        ...


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers; bytes are sent in answer to each request, and the connection goes on."""
    with contextlib.ExitStack() as stack:

        def start(
            answer: Callable[[Asked, socket.socket], bool | None] | bytes,
            context: ssl.SSLContext | None = None,
            address: str = "127.0.0.1",
        ) -> Peer:
            def send(_: Asked, stream: socket.socket) -> bool:
                assert isinstance(answer, bytes)
                stream.sendall(answer)
                return True

            peer = Peer(send if isinstance(answer, bytes) else answer, context, address)
            stack.callback(peer.close)
            return peer

        yield start


@pytest.fixture
def blackhole() -> Iterator[str]:
    """A port that neither accepts connections nor refuses them: its backlog is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        waiting = []
        for _ in range(8):
            sock = socket.socket()
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
            waiting.append(sock)
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        for sock in waiting:
            sock.close()


class Reply(Protocol):
    """Writes an answer: the body's length is right unless a header says otherwise."""

    def __call__(self, status: int = 200, body: bytes = b"", **headers: str) -> bytes:
        """Return status line, header and body; underscores in names stand for hyphens."""
        ...


@pytest.fixture(scope="session")
def reply() -> Reply:
    """Return the bytes of an answer; underscores in the names of headers stand for hyphens."""

    def write(status: int = 200, body: bytes = b"", **headers: str) -> bytes:
        fields = {"Content-Length": str(len(body))} | {name.replace("_", "-"): text for name, text in headers.items()}
        lines = [f"HTTP/1.1 {status} Words", *(f"{name}: {text}" for name, text in fields.items())]
        return "\r\n".join([*lines, "", ""]).encode("latin-1") + body

    return write


class MakeTransport(Protocol):
    """Makes a transport whose time-outs are short."""

    def __call__(
        self,
        url: str,
        *,
        hosts: Hosts = ...,
        retry: Retry = ...,
        timeouts: Timeouts = ...,
        limits: Limits = ...,
        session: requests.Session | None = ...,
    ) -> Transport:
        """Make one."""
        ...


@pytest.fixture(scope="session")
def transport() -> MakeTransport:
    """Make a transport that gives up after a minute: where a test waits for that, it says how long."""

    def make(
        url: str,
        *,
        hosts: Hosts = Hosts(),  # noqa: B008 - frozen
        retry: Retry = Retry(attempts=1),  # noqa: B008 - frozen
        timeouts: Timeouts = Timeouts(60, 60, 60),  # noqa: B008 - frozen
        limits: Limits = Limits(),  # noqa: B008 - frozen
        session: requests.Session | None = None,
    ) -> Transport:
        return Transport(
            Endpoint(url),
            hosts=hosts,
            login=lambda: None,
            retry=retry,
            timeouts=timeouts,
            limits=limits,
            session=session,
        )

    return make


class Ask(Protocol):
    """Asks a transport for a document."""

    def __call__(self, transport: Transport, path: str = PATH, scope: str = SCOPE) -> bytes:
        """Return the bytes."""
        ...


@pytest.fixture(scope="session")
def ask() -> Ask:
    """Return a document's bytes, read with its deadline."""

    def get(transport: Transport, path: str = PATH, scope: str = SCOPE) -> bytes:
        deadline = transport.document_deadline()
        answer = transport.request("GET", path, scope=scope, deadline=deadline)
        return answer.read_document(transport.limits.document, deadline, what="the document")

    return get


@frozen
class Authority:
    """A certificate authority made for the tests.

    Attributes:
        file: PEM of its certificate.
        context: For a server on loopback, with a certificate that it signed.
    """

    file: Path
    context: ssl.SSLContext


@pytest.fixture(scope="session")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority, and a server's certificate for 127.0.0.1 and localhost that it signed."""
    made = distsdk.testing.Authority(tmp_path_factory.mktemp("authority"))
    return Authority(made.file, made.server_context())


class InChild(Protocol):
    """Does something in a forked child."""

    def __call__(self, work: Callable[[], object]) -> Callable[[], None]:
        """Begin; return what waits for the child, and says whether it went well."""
        ...


@pytest.fixture(scope="session")
def in_child() -> InChild:
    """Do something in a forked child."""
    return fork
