"""What comes before a body is bounded: status lines, headers and interim answers without end are given up at once."""

from __future__ import annotations

import itertools
import tracemalloc
from typing import TYPE_CHECKING

import pytest
from attrs import frozen

from distsdk.errors import DistError, LimitExceeded, Unreachable
from distsdk.transport.hosts import Hosts
from distsdk.transport.retry import Retry
from distsdk.transport.settings import Limits, Timeouts

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable, Iterator

    from tests.unit.transport.conftest import Ask, Asked, Authority, MakeTransport, Peer, Reply, Serve

RAW = b"the bytes"
PIECE = 64 * 1024
#: Bytes that a peer may send before it notices that nobody listens: what fits into the buffers of two sockets.
BUFFERED = 32 << 20


@frozen
class Endless:
    """An answer that never comes to its body.

    Attributes:
        start: What is sent first.
        more: What is sent then, again and again.
    """

    start: bytes
    more: bytes

    def __iter__(self) -> Iterator[bytes]:
        return itertools.chain([self.start], itertools.repeat(self.more * (PIECE // len(self.more))))


ENDLESS = {
    "a status line": Endless(b"HTTP/1.1 200 ", b"O"),
    "anything": Endless(b"", b"\0"),
    "a header's name": Endless(b"HTTP/1.1 200 OK\r\n", b"X"),
    "a header's value": Endless(b"HTTP/1.1 200 OK\r\nX: ", b"y"),
    "a header that goes on": Endless(b"HTTP/1.1 200 OK\r\nX: y\r\n", b" " + b"y" * 999 + b"\r\n"),
    "long headers": Endless(b"HTTP/1.1 200 OK\r\n", b"X: " + b"y" * 999 + b"\r\n"),
    "100 Continue": Endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "100 Continue with headers": Endless(b"", b"HTTP/1.1 100 Continue\r\n" + b"X: y\r\n" * 9 + b"\r\n"),
}


class Sender:
    """Answers each request with the same pieces, and counts the bytes that went out."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self.sent = 0

    def __call__(self, asked: Asked, stream: socket.socket) -> bool:
        """Send until nobody takes it any more, or it is far too much."""
        for piece in self._pieces:
            if self.sent > 4 * BUFFERED:
                break
            stream.sendall(piece)
            self.sent += len(piece)
        return False


@pytest.mark.parametrize("endless", ENDLESS.values(), ids=ENDLESS)
def test_headers_without_end_are_given_up(
    serve: Serve, transport: MakeTransport, ask: Ask, pauses: list[float], endless: Endless
) -> None:
    """At the limit, in a moment, in little memory; and it is not tried again, since it would be the same again."""
    sender = Sender(endless)
    peer = serve(sender)
    shared = transport(peer.url, retry=Retry())
    tracemalloc.start()
    try:
        with pytest.raises(LimitExceeded, match="the headers of the response exceed the limit of 65536") as caught:
            ask(shared)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (64 * 1024, 1, []) == (caught.value.limit, len(peer.asked), pauses)
    assert peak < 2 << 20
    assert sender.sent < BUFFERED


MANY = {
    "one 100 Continue": Endless(b"HTTP/1.1 100 Continue\r\n", b"X: y\r\n"),
    "short headers": Endless(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "lines that go on": Endless(b"HTTP/1.1 200 OK\r\nX: y\r\n", b" y\r\n"),
    "interim answers of another kind": Endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
}


@pytest.mark.parametrize("endless", MANY.values(), ids=MANY)
def test_lines_without_end_are_given_up(
    serve: Serve, transport: MakeTransport, ask: Ask, pauses: list[float], endless: Endless
) -> None:
    """So many short lines that they are given up before they are long: at once, and once, too."""
    sender = Sender(endless)
    peer = serve(sender)
    with pytest.raises(DistError):
        ask(transport(peer.url, retry=Retry()))
    assert (1, []) == (len(peer.asked), pauses)
    assert sender.sent < BUFFERED


def padded(total: int) -> bytes:
    """An answer whose status line and headers have so many bytes."""
    bare = f"HTTP/1.1 200 OK\r\nContent-Length: {len(RAW)}\r\nX: \r\n\r\n".encode()
    return bare.replace(b"X: ", b"X: " + b"y" * (total - len(bare))) + RAW


def test_the_limit_is_exact(serve: Serve, transport: MakeTransport, ask: Ask) -> None:
    """Status line and headers may have as many bytes as the limit says, and not one more."""
    for limit in (100, 1000, 60_000):
        assert RAW == ask(transport(serve(padded(limit)).url, limits=Limits(headers=limit)))
        with pytest.raises(LimitExceeded) as caught:
            ask(transport(serve(padded(limit + 1)).url, limits=Limits(headers=limit)))
        assert limit == caught.value.limit


def test_ordinary_answers_are_far_below_it(serve: Serve, transport: MakeTransport, ask: Ask) -> None:
    """Fifty headers and a long signature are no reason to refuse; nor is one interim answer."""
    headers = "".join(f"X-{number}: {'y' * 200}\r\n" for number in range(50))
    start = "HTTP/1.1 100 Continue\r\nX: y\r\n\r\nHTTP/1.1 200 OK\r\n"
    peer = serve(f"{start}{headers}Content-Length: {len(RAW)}\r\n\r\n".encode() + RAW)
    shared = transport(peer.url)
    assert [RAW, RAW] == [ask(shared), ask(shared)]
    assert [0, 0] == [asked.connection for asked in peer.asked]


def test_each_answer_has_the_whole_limit(serve: Serve, transport: MakeTransport, ask: Ask) -> None:
    """A connection that is kept may bring any number of answers."""
    peer = serve(padded(1000))
    shared = transport(peer.url, limits=Limits(headers=1000))
    assert [RAW] * 20 == [ask(shared) for _ in range(20)]
    assert {0} == {asked.connection for asked in peer.asked}


def test_bodies_do_not_count(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask) -> None:
    """The limit is for what comes before the body."""
    assert bytes(100_000) == ask(transport(serve(reply(200, bytes(100_000))).url, limits=Limits(headers=1000)))


def token_service(serve: Serve, reply: Reply, long: Peer) -> Peer:
    """A registry whose token service sends long headers."""
    return serve(reply(401, WWW_Authenticate=f'Bearer realm="{long.url}/token"'))


def redirecting(serve: Serve, reply: Reply, long: Peer) -> Peer:
    """A registry that redirects to where long headers come from."""
    return serve(reply(307, Location=f"{long.url}/there"))


@pytest.mark.parametrize("lead", [token_service, redirecting])
def test_whoever_answers_is_bounded(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, lead: Callable[[Serve, Reply, Peer], Peer]
) -> None:
    """The limit holds for a token service, and for where a redirect leads."""
    long = serve(padded(2001))
    with pytest.raises(LimitExceeded):
        ask(transport(lead(serve, reply, long).url, limits=Limits(headers=2000)))
    assert 1 == len(long.asked)


@pytest.mark.parametrize("status", [204, 304, 401, 404, 503])
def test_every_status_is_bounded(serve: Serve, transport: MakeTransport, ask: Ask, status: int) -> None:
    """Errors and answers without a body as well."""
    start = f"HTTP/1.1 {status} Words\r\n".encode()
    with pytest.raises(LimitExceeded):
        ask(transport(serve(start + b"X: " + b"y" * 5000 + b"\r\n\r\n").url, limits=Limits(headers=4000)))


def test_over_tls_too(serve: Serve, transport: MakeTransport, ask: Ask, authority: Authority) -> None:
    """A certificate is no promise to be brief."""
    hosts = Hosts(ca_file=authority.file)
    sender = Sender(ENDLESS["a header's value"])
    with pytest.raises(LimitExceeded):
        ask(transport(serve(sender, authority.context).url, hosts=hosts))
    assert sender.sent < BUFFERED


@pytest.mark.parametrize("start", ["5;", "5", "0" * 10, ""])
def test_sizes_of_chunks_are_bounded(serve: Serve, transport: MakeTransport, ask: Ask, start: str) -> None:
    """The line before a chunk, with its extensions, is not read for ever either."""
    head = f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{start}"
    sender = Sender(Endless(head.encode(), b"0"))
    with pytest.raises(Unreachable):
        ask(transport(serve(sender).url))
    assert sender.sent < BUFFERED


@pytest.mark.slow
def test_what_follows_the_last_chunk_ends_with_the_deadline(serve: Serve, transport: MakeTransport, ask: Ask) -> None:
    """Fields after the last chunk keep nobody longer than a document may take."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n"

    def drip(_: Asked, stream: socket.socket) -> bool:
        stream.sendall(head)
        while not peer.closing.wait(0.05):
            stream.sendall(b"X: y\r\n")
        return False

    peer = serve(drip)
    with pytest.raises(DistError):
        ask(transport(peer.url, timeouts=Timeouts(60, 60, 0.5)))
