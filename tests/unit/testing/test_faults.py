from __future__ import annotations

import contextlib
import http.client
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from distsdk.testing import (
    Cut,
    Header,
    IgnoreRange,
    Long,
    NoContentLength,
    Redirect,
    Registry,
    Request,
    Response,
    Short,
    Stall,
    Status,
    WrongBytes,
    WrongDigestHeader,
    WrongLength,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = bytes(range(250)) * 4


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry with one blob and one image in ``x``."""
    with Registry() as registry:
        registry.add_blob("x", DATA)
        registry.add_image("x", "1")
        yield registry


def blob_path(registry: Registry) -> str:
    """The path of a blob with `DATA`."""
    return f"/v2/x/blobs/{registry.add_blob('x', DATA).digest}"


@contextlib.contextmanager
def asked(registry: Registry, path: str, method: str = "GET", **headers: str) -> Iterator[http.client.HTTPResponse]:
    """Ask on a connection of its own."""
    connection = http.client.HTTPConnection(registry.host, timeout=5)
    try:
        connection.request(method, path, headers=headers)
        yield connection.getresponse()
    finally:
        connection.close()


def raw(registry: Registry, path: str, method: str = "GET") -> bytes:
    """Everything on the wire until the server, of its own accord, ends the connection."""
    host, port = registry.host.split(":")
    with socket.create_connection((host, int(port)), timeout=5) as connection:
        connection.sendall(f"{method} {path} HTTP/1.1\r\nHost: {registry.host}\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize("after", [0, 1, 999])
def test_a_cut_body_ends_early(registry: Registry, after: int) -> None:
    """The header announces everything, exactly so many bytes come, and the connection ends."""
    registry.fault(Cut(after=after), path="/blobs/")
    head, _, body = raw(registry, blob_path(registry)).partition(b"\r\n\r\n")
    assert b"Content-Length: 1000" in head
    assert body == DATA[:after]
    with asked(registry, blob_path(registry)) as answer, pytest.raises(http.client.IncompleteRead):
        answer.read()
    assert registry.requests[-1].body_bytes_sent == after


def test_a_cut_may_be_a_reset(registry: Registry) -> None:
    """The client gets ECONNRESET rather than an end of the stream."""
    registry.fault(Cut(after=100, reset=True), path="/blobs/")
    with asked(registry, blob_path(registry)) as answer, pytest.raises(ConnectionResetError):
        answer.read()


def test_a_short_body_looks_whole(registry: Registry) -> None:
    """Content-Length, of GET and of HEAD, agrees with the bytes that come."""
    registry.fault(Short(10), path="/blobs/")
    with asked(registry, blob_path(registry)) as answer:
        assert (answer.headers["Content-Length"], answer.read()) == ("990", DATA[:990])
    with asked(registry, blob_path(registry), "HEAD") as answer:
        assert answer.headers["Content-Length"] == "990"


def test_a_long_body_looks_whole(registry: Registry) -> None:
    """Content-Length agrees with the bytes that come, and they are too many."""
    registry.fault(Long(10), path="/blobs/")
    with asked(registry, blob_path(registry)) as answer:
        assert (answer.headers["Content-Length"], answer.read()) == ("1010", DATA + bytes(10))


@pytest.mark.parametrize("by", [-5, 5])
def test_a_wrong_length_is_announced(registry: Registry, by: int) -> None:
    """The header is off in either direction; the body is whole, and the connection ends after it."""
    registry.fault(WrongLength(by), path="/blobs/")
    head, _, body = raw(registry, blob_path(registry)).partition(b"\r\n\r\n")
    assert f"Content-Length: {1000 + by}".encode() in head
    assert body == DATA


@pytest.mark.parametrize("at", [0, 500, 999])
def test_wrong_bytes_keep_the_size(registry: Registry, at: int) -> None:
    """Exactly one byte is another one."""
    registry.fault(WrongBytes(at), path="/blobs/")
    with asked(registry, blob_path(registry)) as answer:
        body = answer.read()
    assert [i for i in range(1000) if body[i] != DATA[i]] == [at]
    assert len(body) == 1000


def test_a_wrong_digest_is_claimed(registry: Registry) -> None:
    """The header names another digest, by default one that is nothing's."""
    registry.fault(WrongDigestHeader(), path="/manifests/")
    with asked(registry, "/v2/x/manifests/1") as answer:
        assert answer.headers["Docker-Content-Digest"] == "sha256:" + "0" * 64
        assert answer.status == 200


def test_a_header_is_set_or_taken_away(registry: Registry) -> None:
    """Any header can be wrong or missing, Content-Length included."""
    registry.fault(Header("Content-Type", "text/html"), path="/manifests/")
    registry.fault(Header("Docker-Content-Digest", None), path="/manifests/")
    registry.fault(Header("Content-Length", "many"), path="/blobs/")
    with asked(registry, "/v2/x/manifests/1") as answer:
        assert answer.headers["Content-Type"] == "text/html"
        assert "Docker-Content-Digest" not in answer.headers
    assert b"Content-Length: many\r\n" in raw(registry, blob_path(registry))


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_without_a_length(registry: Registry, chunked: bool) -> None:
    """The body is right and ends with the connection, or comes in chunks."""
    registry.fault(NoContentLength(chunked=chunked), path="/blobs/")
    with asked(registry, blob_path(registry)) as answer:
        assert "Content-Length" not in answer.headers
        assert answer.headers.get("Transfer-Encoding") == ("chunked" if chunked else None)
        assert answer.read() == DATA


def test_a_chunked_body_can_be_cut(registry: Registry) -> None:
    """Faults combine: without the last chunk the client knows that something is missing."""
    registry.fault(NoContentLength(chunked=True), path="/blobs/")
    registry.fault(Cut(after=400), path="/blobs/")
    with asked(registry, blob_path(registry)) as answer, pytest.raises(http.client.IncompleteRead) as caught:
        answer.read()
    assert caught.value.partial == DATA[:400]


def test_a_closed_body_can_be_cut(registry: Registry) -> None:
    """Without length or chunks nothing on the wire tells that the body was cut."""
    registry.fault(Cut(after=400), path="/blobs/")
    registry.fault(NoContentLength(), path="/blobs/")
    with asked(registry, blob_path(registry)) as answer:
        assert answer.read() == DATA[:400]


@pytest.mark.parametrize(
    ("fault", "body"),
    [
        (Status(503, "<html>busy</html>", {"Content-Type": "text/html", "Retry-After": "1"}), b"<html>busy</html>"),
        (
            Status.error(429, "TOOMANYREQUESTS", "slow down", {"Retry-After": "1"}),
            b'{"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]}',
        ),
        (Status(999, headers={"Retry-After": "1"}), b""),
    ],
)
def test_a_status_replaces_the_answer(registry: Registry, fault: Status, body: bytes) -> None:
    """Status, header and body are as given, and the next request on the connection is served."""
    registry.fault(fault, times=1)
    connection = http.client.HTTPConnection(registry.host, timeout=5)
    connection.request("GET", "/v2/x/manifests/1")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Retry-After"], answer.read()) == (fault.code, "1", body)
    connection.request("GET", "/v2/x/manifests/1")
    assert connection.getresponse().status == 200
    connection.close()


def test_a_redirect_leads_elsewhere(registry: Registry) -> None:
    """The path and query asked for may be part of the target; a refusal is not redirected."""
    registry.fault(Redirect("http://cdn.invalid/store{path}"))
    with asked(registry, "/v2/x/tags/list?n=1") as answer:
        assert (answer.status, answer.headers["Location"]) == (307, "http://cdn.invalid/store/v2/x/tags/list?n=1")
    with asked(registry, "/v2/y/tags/list") as answer:
        assert answer.status == 404


@pytest.mark.parametrize(("after", "early"), [(None, 0), (0, 0), (300, 300)])
def test_a_stall_ends_by_its_event(registry: Registry, after: int | None, early: int) -> None:
    """Nothing, or the header and so many bytes, come at once; the rest when the event is set."""
    event = threading.Event()
    registry.fault(Stall(after=after, event=event), path="/blobs/")
    host, port = registry.host.split(":")
    with socket.create_connection((host, int(port)), timeout=0.3) as connection:
        connection.sendall(f"GET {blob_path(registry)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        got = b""
        with contextlib.suppress(TimeoutError):
            while not got.endswith(DATA):
                got += connection.recv(65536)
        assert bool(got) == (after is not None)
        assert len(got.partition(b"\r\n\r\n")[2]) == early
        event.set()
        got += b"".join(iter(lambda: connection.recv(65536), b""))
        assert got.partition(b"\r\n\r\n")[2] == DATA


def test_a_stall_ends_by_its_time(registry: Registry) -> None:
    """After so many seconds the rest is sent."""
    registry.fault(Stall(after=10, seconds=0.2), path="/blobs/")
    begin = time.monotonic()
    with asked(registry, blob_path(registry)) as answer:
        assert answer.read() == DATA
    assert time.monotonic() - begin >= 0.2


def test_closing_ends_a_stall() -> None:
    """A stalled answer holds up neither the end of the registry nor its client, and leaves no thread behind."""
    threads = threading.active_count()
    with Registry() as registry:
        path = blob_path(registry)
        registry.fault(Stall(after=10))
        connection = http.client.HTTPConnection(registry.host, timeout=5)
        connection.request("GET", path)
        answer = connection.getresponse()
        begin = time.monotonic()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    connection.close()
    while threading.active_count() > threads and time.monotonic() - begin < 2:
        time.sleep(0.01)
    assert threading.active_count() == threads


def test_a_stalled_request_is_seen_and_stalls_no_other(registry: Registry) -> None:
    """It is counted while it waits, with the status that was sent, and others are served meanwhile."""
    registry.fault(Stall(after=10), path="/blobs/")
    with asked(registry, blob_path(registry)) as stalled:
        with asked(registry, "/v2/x/manifests/1") as answer:
            assert answer.status == 200
        assert (stalled.status, stalled.read(10)) == (200, DATA[:10])
        assert [(r.status, r.body_bytes_sent) for r in registry.requests[:1]] == [(200, 10)]


def test_ranges_can_be_ignored(registry: Registry) -> None:
    """The whole comes with 200, as from a server that knows no ranges."""
    registry.fault(IgnoreRange(), path="/blobs/")
    with asked(registry, blob_path(registry), Range="bytes=5-9") as answer:
        assert (answer.status, answer.read()) == (200, DATA)
        assert "Accept-Ranges" not in answer.headers
    assert registry.requests[0].headers["Range"] == "bytes=5-9"


def statuses(registry: Registry, path: str, times: int) -> list[object]:
    """Ask so often, and return each status, or "cut"."""
    got: list[object] = []
    for _ in range(times):
        with asked(registry, path) as answer:
            try:
                answer.read()
                got.append(answer.status)
            except http.client.IncompleteRead:
                got.append("cut")
    return got


def test_faults_take_turns(registry: Registry) -> None:
    """One that answers in the registry's place keeps the later ones waiting; each acts as often as it was told."""
    registry.fault(Status(503), path="/blobs/", times=2)
    registry.fault(Cut(after=1), path="/blobs/", times=1)
    assert statuses(registry, blob_path(registry), 5) == [503, 503, "cut", 200, 200]


def test_a_fault_that_changes_nothing_is_not_used_up(registry: Registry) -> None:
    """A HEAD request, a refusal and too small a body leave a cut for the answer that it can act on."""
    registry.fault(Cut(after=1), times=1)
    with asked(registry, blob_path(registry), "HEAD") as answer:
        assert answer.status == 200
    assert statuses(registry, "/v2/nope/tags/list", 1) == [404]
    assert statuses(registry, blob_path(registry), 2) == ["cut", 200]
    registry.fault(IgnoreRange(), times=1)
    assert statuses(registry, blob_path(registry), 1) == [200]
    with asked(registry, blob_path(registry), Range="bytes=0-0") as answer:
        assert answer.status == 200


def test_a_fault_acts_where_it_was_told(registry: Registry) -> None:
    """The path is a regular expression, the method exact; clearing the faults ends them."""
    registry.fault(Status(500), path="^/v2/x/manifests/1$", method="HEAD")
    for method, path, status in [
        ("HEAD", "/v2/x/manifests/1", 500),
        ("GET", "/v2/x/manifests/1", 200),
        ("HEAD", "/v2/x/manifests/10", 404),
    ]:
        with asked(registry, path, method) as answer:
            assert answer.status == status
    registry.clear_faults()
    with asked(registry, "/v2/x/manifests/1", "HEAD") as answer:
        assert answer.status == 200


def test_times_hold_across_threads(registry: Registry) -> None:
    """With many clients at once a fault acts exactly as often as it was told."""
    registry.fault(Status(503), times=10)
    got: list[object] = []

    def work() -> None:
        got.extend(statuses(registry, "/v2/", 5))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (got.count(503), got.count(200)) == (10, 30)


def test_anyone_can_write_a_fault(registry: Registry) -> None:
    """An object with `answer` is a fault; it sees the request and may ask the registry something else."""

    class Swap:
        def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
            assert request.headers["X-Asked"] == "yes"
            return respond(Request("GET", "/v2/_catalog"))

    registry.fault(Swap(), path="/tags/list")
    with asked(registry, "/v2/x/tags/list", **{"X-Asked": "yes"}) as answer:
        assert answer.read() == b'{"repositories":["x"]}'
