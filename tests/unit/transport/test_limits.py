"""Time-outs, byte limits, and what becomes of answers that are no success."""

from __future__ import annotations

import contextlib
import email.utils
import gc
import http.client
import json
import pickle
import re
import socket
import threading
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests
import urllib3
from hypothesis import given
from hypothesis import strategies as st

from distsdk.errors import (
    DeadlineExceeded,
    Denied,
    DistError,
    DistWarning,
    LimitExceeded,
    NotFound,
    RateLimited,
    RegistryError,
    Unreachable,
)
from distsdk.testing import Cut, Registry, Stall, Status
from distsdk.transport.hosts import Hosts
from distsdk.transport.reported import cause_of
from distsdk.transport.response import parse_retry_after
from distsdk.transport.settings import Limits, Timeouts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.transport.conftest import Ask, Asked, Authority, MakeTransport, Reply, Serve

RAW = b'{"schemaVersion": 2}'
PATH = "/v2/x/manifests/1"


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry with one manifest and a blob of 200,000 bytes."""
    with Registry() as registry:
        registry.add_manifest("x", RAW, "application/vnd.oci.image.manifest.v1+json", tags=["1"])
        registry.add_blob("x", bytes(200_000))
        yield registry


#: Seconds in which a busy machine, too, sees the end of a time-out of one; the time-outs next to it are longer.
SOON = 20


def elapsed(work: Callable[[], object]) -> float:
    """Return how many seconds something takes."""
    start = time.monotonic()
    work()
    return time.monotonic() - start


# Time-outs


@pytest.mark.slow
def test_no_connection_in_time(blackhole: str, transport: MakeTransport, ask: Ask) -> None:
    """A host that does not answer at all is Unreachable after the connect time-out, not the read time-out."""

    def work() -> None:
        with pytest.raises(Unreachable, match=f"{blackhole} did not accept a connection in time"):
            ask(transport(f"http://{blackhole}", timeouts=Timeouts(1, 120, 120)))

    assert elapsed(work) < SOON


@pytest.mark.slow
@pytest.mark.parametrize("drips", [False, True])
@pytest.mark.parametrize("tunnel", [False, True])
def test_no_tls_handshake_in_time(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, drips: bool, tunnel: bool
) -> None:
    """A host that lets a TLS client wait, or has a byte for it now and then, is told as that and not as the proxy."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        over = threading.Event()

        def stall(stream: socket.socket) -> None:
            with contextlib.suppress(OSError):
                if drips:
                    stream.sendall(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc")  # a long message of the handshake
                while not over.wait(0.2):
                    if drips:
                        stream.sendall(b"\x03")

        def open_tunnel(_: Asked, stream: socket.socket) -> None:
            stream.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            stall(stream)

        def listen() -> None:
            with contextlib.suppress(OSError):
                sock, _ = listener.accept()
                with sock:
                    stall(sock)

        threading.Thread(target=listen, daemon=True).start()
        host = "registry.invalid:443" if tunnel else f"127.0.0.1:{listener.getsockname()[1]}"
        hosts = Hosts(proxies={"https": serve(open_tunnel).url} if tunnel else {})

        def work() -> None:
            message = f"^TLS with {host} took longer than 1 seconds$"
            with pytest.raises(Unreachable, match=message) as caught:
                ask(transport(f"https://{host}", hosts=hosts, timeouts=Timeouts(1, 120, 120)))
            assert caught.value.temporary

        assert 0.9 < elapsed(work) < SOON
        over.set()
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.slow
def test_no_tls_handshake_before_the_deadline(transport: MakeTransport, ask: Ask) -> None:
    """Where the time for the document is shorter than that for a connection, it counts, and it is what is told."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(DeadlineExceeded, match="not done within 1 seconds") as caught:
            ask(transport(url, timeouts=Timeouts(120, 120, 1)))
    assert caught.value.seconds == 1


# Names and addresses


class Names:
    """What this machine's resolver says, and which thread asked it."""

    def __init__(self, known: Callable[..., Any]) -> None:
        self.known = known
        self.addresses: dict[str, list[str]] = {}
        self.asked: list[tuple[str, str]] = []
        self.over = threading.Event()

    def look_up(self, host: str, port: int, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as in socket
        """Return the addresses that a test gave to a name; of ``silent.invalid`` there is no answer."""
        self.asked.append((host, threading.current_thread().name))
        if host == "silent.invalid":
            self.over.wait(20)
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        if host not in self.addresses:
            return self.known(host, port, *args, **kwargs)
        there = [address.split(":") for address in self.addresses[host]]
        return [answer for ip, number in there for answer in self.known(ip, int(number), *args, **kwargs)]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """The machine's resolver, with a name that it cannot resolve and those that a test adds."""
    names = Names(socket.getaddrinfo)
    monkeypatch.setattr(socket, "getaddrinfo", names.look_up)
    yield names
    names.over.set()


@pytest.mark.slow
@pytest.mark.usefixtures("names")
def test_a_name_that_is_not_resolved_in_time(transport: MakeTransport, ask: Ask) -> None:
    """The connect time-out holds for name servers too, and the message says that it is them."""

    def work() -> None:
        message = r"^name resolution of silent\.invalid:5000 took longer than 1 seconds; check the network$"
        with pytest.raises(Unreachable, match=message) as caught:
            ask(transport("http://silent.invalid:5000", timeouts=Timeouts(1, 120, 120)))
        assert caught.value.temporary
        assert caught.value.url == f"http://silent.invalid:5000{PATH}"

    assert 0.9 < elapsed(work) < SOON


@pytest.mark.slow
@pytest.mark.usefixtures("names")
def test_a_name_that_is_not_resolved_before_the_deadline(transport: MakeTransport, ask: Ask) -> None:
    """The time for a document holds for name servers too."""

    def work() -> None:
        with pytest.raises(DeadlineExceeded, match="not done within 1 seconds"):
            ask(transport("http://silent.invalid", timeouts=Timeouts(120, 120, 1)))

    assert elapsed(work) < SOON


@pytest.mark.slow
@pytest.mark.usefixtures("names")
def test_a_proxys_name_that_is_not_resolved_in_time(transport: MakeTransport, ask: Ask) -> None:
    """Where a proxy is asked, its name is the one that is told."""
    hosts = Hosts(proxies={"http": "http://user:pl4nted@silent.invalid:3128"})

    def work() -> None:
        message = r"^name resolution of the proxy http://silent\.invalid:3128 took longer than 1 seconds"
        with pytest.raises(Unreachable, match=message):
            ask(transport("http://registry.invalid", hosts=hosts, timeouts=Timeouts(1, 120, 120)))

    assert elapsed(work) < SOON


def test_addresses_need_no_thread(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, names: Names) -> None:
    """A name is looked up by a thread of its own; of an address that says itself where it is, no one is asked."""
    peer = serve(reply(200, RAW))
    names.addresses["registry.invalid"] = [peer.host]
    assert RAW == ask(transport(peer.url))
    assert RAW == ask(transport("http://registry.invalid"))
    own = threading.current_thread().name
    assert [("127.0.0.1", own), ("registry.invalid", "distsdk-resolve")] == names.asked


def test_a_name_that_cannot_be_one(transport: MakeTransport, ask: Ask) -> None:
    """A label that is empty or too long is a name that nobody knows."""
    for name in ("a..invalid", f"{'a' * 64}.invalid"):
        with pytest.raises(Unreachable, match=f"host {name} not found"):
            ask(transport(f"http://{name}"))


@pytest.mark.slow
def test_the_next_address_is_tried(
    serve: Serve, reply: Reply, transport: MakeTransport, names: Names, blackhole: str
) -> None:
    """Where one address refuses and the next is silent, there is time for the one that answers; options as ever."""
    peer = serve(reply(200, RAW))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        refuses = f"127.0.0.1:{listener.getsockname()[1]}"
    names.addresses["registry.invalid"] = [refuses, blackhole, peer.host]
    with transport("http://registry.invalid", timeouts=Timeouts(4, 30, 30)).request("GET", PATH, scope="") as answer:
        sock = answer._response.raw._connection.sock  # type: ignore[union-attr]
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert RAW == answer.read(100)


@pytest.mark.slow
def test_all_addresses_together_have_the_time_of_a_connection(
    transport: MakeTransport, ask: Ask, names: Names, blackhole: str
) -> None:
    """A host with many addresses of which none answers is given up as soon as one with one."""
    names.addresses["registry.invalid"] = [blackhole] * 20

    def work() -> None:
        with pytest.raises(Unreachable, match=r"registry\.invalid did not accept a connection in time"):
            ask(transport("http://registry.invalid", timeouts=Timeouts(1, 120, 120)))

    assert 0.9 < elapsed(work) < SOON


@pytest.mark.slow
@pytest.mark.parametrize("after", [None, 0, 5])
def test_no_byte_in_time(registry: Registry, transport: MakeTransport, ask: Ask, after: int | None) -> None:
    """An answer that stalls, before it begins or within its body, is given up after the read time-out."""
    registry.fault(Stall(after))

    def work() -> None:
        with pytest.raises(DeadlineExceeded, match="no data arrived for 1 seconds") as caught:
            ask(transport(registry.url, timeouts=Timeouts(120, 1, 120)))
        assert caught.value.seconds == 1
        assert f"{registry.host}{PATH}" in str(caught.value)

    assert 0.9 < elapsed(work) < SOON


@pytest.mark.slow
def test_a_stalled_blob_is_given_up(registry: Registry, transport: MakeTransport) -> None:
    """The read time-out holds for bodies that have no deadline."""
    registry.fault(Stall(100_000))
    digest = registry.add_blob("x", bytes(200_000)).digest
    # Neither the time-out of the connection nor the deadline of documents would end it as soon.
    with transport(registry.url, timeouts=Timeouts(120, 1, 120)).request(
        "GET", f"/v2/x/blobs/{digest}", scope=""
    ) as answer:
        chunks: list[bytes] = []

        def work() -> None:
            with pytest.raises(DeadlineExceeded, match="no data arrived for 1 seconds") as caught:
                chunks.extend(iter(lambda: answer.read(1 << 20), b""))
            assert (1, True) == (caught.value.seconds, caught.value.temporary)

        assert 0.9 < elapsed(work) < SOON
    assert sum(map(len, chunks)) == 100_000


def drip(prefix: bytes) -> Callable[[Asked, socket.socket], None]:
    """Send something, and then a byte ten times a second for thirty seconds."""

    def answer(_: Asked, stream: socket.socket) -> None:
        stream.sendall(prefix)
        for _number in range(300):
            stream.sendall(b"x")
            time.sleep(0.1)

    return answer


DRIPPING = {
    "body": b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n",
    "header": b"HTTP/1.1 200 OK\r\nX-Long: ",
    "status line": b"HTTP/1.1 200 ",
    "body of a redirect": b"HTTP/1.1 307 Words\r\nContent-Length: 1000\r\nLocation: /here\r\n\r\n",
    "body of a challenge": (
        b'HTTP/1.1 401 Words\r\nContent-Length: 1000\r\nWWW-Authenticate: Bearer realm="http://127.0.0.1:1/"\r\n\r\n'
    ),
    "body of an error": b"HTTP/1.1 500 Words\r\nContent-Length: 1000\r\n\r\n",
}


@pytest.mark.slow
@pytest.mark.parametrize("prefix", DRIPPING.values(), ids=DRIPPING.keys())
def test_documents_have_a_deadline(serve: Serve, transport: MakeTransport, ask: Ask, prefix: bytes) -> None:
    """An answer that never stalls and never ends, wherever it drips, is given up when a document's time is over."""

    def work() -> None:
        with pytest.raises(DistError):
            ask(transport(serve(drip(prefix)).url, timeouts=Timeouts(5, 2, 1)))

    assert elapsed(work) < SOON


@pytest.mark.slow
def test_the_deadline_is_told(serve: Serve, transport: MakeTransport, ask: Ask) -> None:
    """The message says how long a document may take and how to allow more."""
    with pytest.raises(DeadlineExceeded, match=r"not done within 1 seconds: .*allow more") as caught:
        ask(transport(serve(drip(DRIPPING["body"])).url, timeouts=Timeouts(5, 2, 1)))
    assert caught.value.seconds == 1


@pytest.mark.slow
def test_a_read_ends_with_the_deadline(registry: Registry, transport: MakeTransport, ask: Ask) -> None:
    """Where a document stalls, its deadline counts if it comes before the read time-out; and it is told as it is."""
    registry.fault(Stall(5))

    def work() -> None:
        with pytest.raises(DeadlineExceeded) as caught:
            ask(transport(registry.url, timeouts=Timeouts(120, 120, 1)))
        assert caught.value.seconds <= 1
        assert "120 seconds" not in str(caught.value)

    assert elapsed(work) < SOON


# Connections that fail


def test_refused_connections(transport: MakeTransport, ask: Ask) -> None:
    """Where nobody listens, the message says so."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        host = f"127.0.0.1:{listener.getsockname()[1]}"
    with pytest.raises(Unreachable, match=f"connection refused by {host}") as caught:
        ask(transport(f"http://{host}"))
    assert caught.value.url == f"http://{host}{PATH}"


def test_unknown_hosts(transport: MakeTransport, ask: Ask) -> None:
    """A name that nobody knows (.invalid is reserved for that, RFC 6761)."""
    with pytest.raises(Unreachable, match=r"host registry\.invalid not found"):
        ask(transport("https://registry.invalid"))


def test_certificates_that_do_not_convince(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, authority: Authority
) -> None:
    """A certificate of an unknown authority is refused; the message names the option that would allow it."""
    peer = serve(reply(200, RAW), authority.context)
    with pytest.raises(Unreachable, match=r"certificate verification failed for 127\.0\.0\.1:\d+ .*--cacert"):
        ask(transport(peer.url))
    assert peer.asked == []


def test_certificates_for_another_name(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, authority: Authority
) -> None:
    """A certificate of a known authority for another host is refused as well."""
    peer = serve(reply(200, RAW), authority.context, "127.0.0.2")
    url = peer.url
    with pytest.raises(Unreachable, match=r"certificate verification failed .*IP address mismatch"):
        ask(transport(url, hosts=Hosts(ca_file=authority.file)))
    assert peer.asked == []


def test_tls_with_a_host_that_speaks_none(registry: Registry, transport: MakeTransport, ask: Ask) -> None:
    """A registry without TLS is not spoken to in plain HTTP unless that is allowed; the message says how."""
    with pytest.raises(Unreachable, match=r"TLS with 127\.0\.0\.1:\d+ failed .*--plain-http"):
        ask(transport(registry.url.replace("http:", "https:")))
    assert registry.requests == []


@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("after", [0, 5])
def test_broken_connections(registry: Registry, transport: MakeTransport, ask: Ask, after: int, reset: bool) -> None:
    """A connection that ends within a body is Unreachable, whether in order or not."""
    registry.fault(Cut(after, reset=reset))
    with pytest.raises(Unreachable, match="127"):
        ask(transport(registry.url))


@pytest.mark.slow
@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        b"HTTP/1.1 99999 X\r\n\r\n",
        b"HTTP/1.1 -1 X\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n12345",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n12",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\n\r\n",
        b"HTTP/1.1 600 X\r\nContent-Length: 0\r\n\r\n",
        b"\x16\x03\x01\x00\x05hello",
    ],
)
def test_what_is_no_http(serve: Serve, transport: MakeTransport, ask: Ask, junk: bytes) -> None:
    """A peer that breaks the protocol gives an error of distsdk, or a body that ends; nothing else and no hang."""

    def answer(_: Asked, stream: socket.socket) -> None:
        stream.sendall(junk)

    shared = transport(serve(answer).url)
    with contextlib.suppress(DistError):
        assert ask(shared) in {b"", b"12345"}
    with warnings.catch_warnings():  # urllib3 leaves a socket behind when it refuses two Content-Lengths
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


# Limits


@pytest.mark.parametrize("framing", ["length", "close", "chunked", "lie"])
def test_documents_are_bounded(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, framing: str) -> None:
    """A document of more bytes than the limit is refused, however its length is told; one of as many is not."""

    def answer(asked: Asked, stream: socket.socket) -> None:
        body = bytes(1000) if asked.target == "/fits" else bytes(1001)
        head = {
            "length": f"Content-Length: {len(body)}",
            "close": "X: y",
            "chunked": "Transfer-Encoding: chunked",
            "lie": "Content-Length: 99999999999999999999999",
        }[framing]
        if framing == "chunked":
            body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
        stream.sendall(f"HTTP/1.1 200 OK\r\n{head}\r\n\r\n".encode() + body)

    shared = transport(serve(answer).url, limits=Limits(document=1000))
    with pytest.raises((LimitExceeded, Unreachable) if framing == "lie" else LimitExceeded) as caught:
        ask(shared)
    if framing != "lie":
        assert "the document is longer than the limit of 1000 bytes" in str(caught.value)
        assert bytes(1000) == ask(shared, "/fits")


def test_a_document_that_says_it_is_too_long_is_not_read(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask
) -> None:
    """Its Content-Length is enough to refuse it."""
    head = reply(200, Content_Length=str(1 << 40))
    with pytest.raises(LimitExceeded):
        ask(transport(serve(head).url))


@pytest.mark.parametrize("declared", [True, False])
def test_error_bodies_are_bounded(serve: Serve, transport: MakeTransport, ask: Ask, declared: bool) -> None:
    """An error's body beyond the limit is not read, and the error is told without it."""
    sent = 0

    def answer(_: Asked, stream: socket.socket) -> None:
        nonlocal sent
        stream.sendall(b"HTTP/1.1 500 X\r\n" + (b"Content-Length: 268435456\r\n\r\n" if declared else b"\r\n"))
        for _number in range(256):
            stream.sendall(bytes(1 << 20))
            sent += 1 << 20

    with pytest.raises(RegistryError, match=r"500 Internal Server Error$"):
        ask(transport(serve(answer).url))
    assert sent < 64 << 20  # what fits into the socket's buffers, and no more


@pytest.mark.parametrize(
    ("junk", "sentence"),
    [
        (b"", "the connection was closed without a response"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the response is not HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n", "the response has contradictory Content-Length headers"),
        (b"HTTP/7.1 200 OK\r\n\r\n", "the response has an unknown version of HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5, 6\r\n\r\n12345", "contradictory Content-Length"),
    ],
)
def test_causes_are_sentences(serve: Serve, transport: MakeTransport, ask: Ask, junk: bytes, sentence: str) -> None:
    """A broken response is named in words, without the class of an exception."""

    def answer(_: Asked, stream: socket.socket) -> None:
        stream.sendall(junk)

    with warnings.catch_warnings():  # urllib3 leaves a socket behind when it refuses two Content-Lengths
        warnings.simplefilter("ignore", ResourceWarning)
        with pytest.raises(Unreachable, match=sentence) as caught:
            ask(transport(serve(answer).url))
        gc.collect()
    assert not re.search(r"[a-z][A-Z]", str(caught.value).partition(": ")[2].replace("Content-Length", ""))


@pytest.mark.parametrize("error", [*http.client.__all__, *vars(urllib3.exceptions), *vars(requests.exceptions)])
def test_every_error_of_a_library_has_a_cause(error: str) -> None:
    """Whichever error a library raises, its cause is a sentence."""
    found = getattr(http.client, error, None) or getattr(urllib3.exceptions, error, None)
    kind = found or getattr(requests.exceptions, error)
    if isinstance(kind, type) and issubclass(kind, Exception):
        assert " " in cause_of([kind.__new__(kind)])


# Warnings of registries


def test_warnings_are_given_once_a_host(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask) -> None:
    """A ``Warning`` header with code 299 is a `DistWarning`, the same text once a host; other codes are not."""
    header = '299 - "Old \\"TLS\\" \x1b[1m", 110 - "Response is stale", 299 - "Soon /x?sig=pl4nted"'
    peers = [serve(reply(200, b"{}", Warning=header)) for _ in range(2)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for peer in (*peers, *peers):
            ask(transport(peer.url))
    given = [str(warning.message) for warning in caught if warning.category is DistWarning]
    expected = [
        f"{peer.host} says: {text}" for peer in peers for text in ('Old "TLS" \\x1b[1m', "Soon /x?sig=REDACTED")
    ]
    assert expected == given
    # In the line that called distsdk: that of the fixture `ask`.
    assert {Path(__file__).with_name("conftest.py")} == {Path(warning.filename) for warning in caught}


def test_warnings_are_bounded(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask) -> None:
    """Ten warnings of a host are given, each cut; those of another origin that it leads to are not."""
    cdn = serve(reply(200, b"{}", Warning='299 - "of another"'))
    many = ", ".join(f'299 - "{n} {"x" * 1000}"' for n in range(50))
    peer = serve(reply(307, Location=f"{cdn.url}/data", Warning=many))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ask(transport(peer.url))
    assert 10 == len(caught)
    assert max(len(str(warning.message)) for warning in caught) < 400


# Errors of registries


def error_body(*errors: object) -> bytes:
    """The body of an error as the distribution specification has it."""
    return json.dumps({"errors": errors}).encode()


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (400, RegistryError, "400 Bad Request"),
        (403, Denied, "forbidden"),
        (404, NotFound, "not found"),
        (405, RegistryError, "405 Method Not Allowed"),
        (406, RegistryError, "406 Not Acceptable"),
        (416, RegistryError, "Range Not Satisfiable"),
        (418, RegistryError, "418 "),
        (429, RateLimited, "too many requests"),
        (500, RegistryError, "500 Internal Server Error"),
        (502, RegistryError, "502 Bad Gateway"),
        (503, RegistryError, "503 Service Unavailable"),
        (599, RegistryError, "599"),
        (300, RegistryError, "300 Multiple Choices"),
        (304, RegistryError, "304 Not Modified"),
    ],
)
def test_every_status_is_an_error_of_its_kind(
    registry: Registry, transport: MakeTransport, ask: Ask, status: int, kind: type[DistError], words: str
) -> None:
    """An error names the URL and the status, and carries the registry's own code and words. (401: test_tokens.py.)."""
    registry.fault(Status.error(status, "SOME_CODE", "because of the weather"))
    with pytest.raises(kind) as caught:
        ask(transport(registry.url))
    assert words in str(caught.value)
    assert registry.host in str(caught.value)
    assert getattr(caught.value, "status", status) == status
    if status != 304:  # which has no body
        assert "because of the weather" in str(caught.value)
        assert caught.value.codes == ("SOME_CODE",)  # type: ignore[attr-defined] # every kind in the table has them


def test_several_errors_are_told(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask) -> None:
    """Codes are all kept; of the words the first three are told."""
    errors = [{"code": f"CODE{n}", "message": f"word{n}", "detail": {"x": 1}} for n in range(5)]
    with pytest.raises(NotFound, match="word0; word1; word2") as caught:
        ask(transport(serve(reply(404, error_body(*errors))).url))
    assert caught.value.codes == tuple(f"CODE{n}" for n in range(5))
    assert "word3" not in str(caught.value)


@pytest.mark.parametrize(
    ("fields", "message", "detail"),
    [
        ({"code": "X", "message": "no", "detail": {"Tag": "7"}}, "no", '{"Tag":"7"}'),
        ({"code": "X", "message": "", "detail": "unknown tag=7"}, "unknown tag=7", "unknown tag=7"),
        ({"code": "X", "detail": ["a", 1]}, '["a",1]', '["a",1]'),
        (
            {"code": "UNKNOWN", "message": "unknown error", "detail": {"DriverName": "s3"}},
            '{"DriverName":"s3"}',
            '{"DriverName":"s3"}',
        ),
        ({"code": "UNKNOWN", "message": "Unknown error.", "detail": {}}, "Unknown error.", ""),
        ({"code": "X", "message": None, "detail": None}, "X", ""),
        ({"message": "", "detail": "/d?sig=pl4nted"}, "/d?sig=REDACTED", "/d?sig=REDACTED"),
        ({"message": "", "detail": "\x1b[1m"}, r"\x1b[1m", r"\x1b[1m"),
        ({"message": "", "detail": "x" * 5000}, "x" * 300, "x" * 1000),
    ],
)
def test_detail_is_kept_and_shown_where_the_message_says_nothing(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, fields: object, message: str, detail: str
) -> None:
    """``detail`` of a registry's error is an attribute, and takes the place of a message that says nothing."""
    for status, kind in ((404, NotFound), (401, Denied), (403, Denied), (429, RateLimited), (500, RegistryError)):
        with pytest.raises(kind) as caught:
            ask(transport(serve(reply(status, error_body(fields))).url))
        assert f": {message}" in str(caught.value)
        assert detail == caught.value.detail  # type: ignore[attr-defined] # every kind in the table has it
        assert detail == pickle.loads(pickle.dumps(caught.value)).detail  # noqa: S301 - our own


@pytest.mark.parametrize(
    "body",
    [
        b"<html><body>Bad gateway</body></html>",
        b"\xff\xfe\x00",
        b"null",
        b"[]",
        b'"errors"',
        b"{}",
        b'{"errors": null}',
        b'{"errors": 5}',
        b'{"errors": "text"}',
        b'{"errors": {"code": "X"}}',
        b'{"errors": [null, 5, "text", []]}',
        b'{"errors": [{}, {"code": null, "message": null}]}',
        b'{"errors": [{"code": {"a": [1]}, "message": ["b"]}]}',
        b'{"errors": [{"code": 1e999, "message": NaN}]}',
        b'{"errors": [{"code": "\\ud800", "message": "\\udfff\\u202e\\u0000"}]}',
        b'{"errors":' + b"[" * 15_000,
        pytest.param(b'{"errors":[{"code":' + b"[" * 900 + b"]" * 900 + b"}]}", id="deep, but not too deep"),
        b'{"errors": [{"code": "' + b"x" * 10_000 + b'", "message": "' + b"y" * 5000 + b'"}]}',
    ],
)
def test_hostile_error_bodies(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, body: bytes) -> None:
    """Whatever stands in an error's body, the error is the status's, in one line that is safe to print."""
    with pytest.raises(RegistryError, match="502 Bad Gateway") as caught:
        ask(transport(serve(reply(502, body)).url))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1500
    assert [code[:64] for code in caught.value.codes] == list(caught.value.codes)


@pytest.mark.parametrize("depth", range(880, 1000, 3))
def test_error_bodies_of_any_depth(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, depth: int) -> None:
    """Around the depth at which Python gives up reading JSON, too."""
    body = b'{"errors":[{"code":' + b"[" * depth + b"]" * depth + b"}]}"
    with pytest.raises(NotFound):
        ask(transport(serve(reply(404, body)).url))


def test_words_are_made_safe_to_print(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask) -> None:
    """What a terminal would act on is escaped."""
    body = error_body({"code": "X", "message": "\x1b[31mred\x1b[0m\r\nline \u202etxet"})
    with pytest.raises(NotFound) as caught:
        ask(transport(serve(reply(404, body)).url))
    assert r"\x1b[31mred\x1b[0m\r\nline \u202etxet" in str(caught.value)


# Retry-After


def test_retry_after_in_seconds(registry: Registry, transport: MakeTransport, ask: Ask) -> None:
    """A number is seconds, and is told."""
    registry.fault(Status.error(429, "TOOMANYREQUESTS", headers={"Retry-After": "120"}))
    with pytest.raises(RateLimited, match="try again in 120 seconds") as caught:
        ask(transport(registry.url))
    assert (120, ("TOOMANYREQUESTS",)) == (caught.value.retry_after, caught.value.codes)


def test_retry_after_as_a_date(registry: Registry, transport: MakeTransport, ask: Ask) -> None:
    """A date is the seconds until then."""
    date = email.utils.formatdate(time.time() + 100, usegmt=True)
    registry.fault(Status(429, headers={"Retry-After": date}))
    with pytest.raises(RateLimited) as caught:
        ask(transport(registry.url))
    assert caught.value.retry_after is not None
    assert 90 < caught.value.retry_after < 101


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0", 0),
        (" 5 ", 5),
        ("999999999", 999_999_999),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
        ("Sunday, 06-Nov-94 08:49:37 GMT", 0),
        ("Sun Nov  6 08:49:37 1994", 0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("\u0661", None),
        ("\u00b2", None),
        ("1e3", None),
        ("Mon, 01 Jan 2024 00:00:00 +99999999999999999999", None),
        ("Mon, 01 Jan 2024 99999999999:00:00 GMT", None),
        ("Mon, 99 Xyz 2024 00:00:00 GMT", None),
    ],
)
def test_retry_after(text: str, expected: float | None) -> None:
    """Seconds or one of three forms of a date (RFC 9110 section 10.2.3); a date that is over is no wait."""
    assert expected == parse_retry_after(text)


@given(st.text() | st.from_regex(r"(Mon, )?[0-9]{1,3} (Jan|Feb) [0-9]{1,6} [0-9:]{1,12}( GMT| [+-][0-9]{1,12})?"))
def test_any_retry_after_can_be_read(text: str) -> None:
    """Whatever a registry writes, it is a number of seconds or says nothing."""
    seconds = parse_retry_after(text)
    assert seconds is None or seconds >= 0
