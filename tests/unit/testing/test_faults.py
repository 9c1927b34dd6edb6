from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from distsdk.testing import (
    Challenge,
    Cut,
    Drip,
    EndlessPages,
    Gzip,
    Header,
    IgnoreRange,
    JsonFields,
    Link,
    Long,
    NoContentLength,
    NoLink,
    PaddedDigestHeader,
    RateLimit,
    Raw,
    Redirect,
    RefuseAuthorization,
    RefuseRange,
    Registry,
    Request,
    Response,
    Short,
    Stall,
    Status,
    Throttle,
    UrlExpires,
    WrongBytes,
    WrongDigestHeader,
    WrongLength,
    WrongRange,
    WrongStatus,
)

from ...support import HANGS, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distsdk.testing import Fault

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
    connection = http.client.HTTPConnection(registry.host, timeout=HANGS)
    try:
        connection.request(method, path, headers=headers)
        yield connection.getresponse()
    finally:
        connection.close()


def raw(registry: Registry, path: str, method: str = "GET") -> bytes:
    """Everything on the wire until the server, of its own accord, ends the connection."""
    host, port = registry.host.split(":")
    with socket.create_connection((host, int(port)), timeout=HANGS) as connection:
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


def test_a_digest_is_padded_and_repeated(registry: Registry) -> None:
    """``PaddedDigestHeader`` writes the right digest as it is told."""
    path = blob_path(registry)
    registry.fault(PaddedDigestHeader("\t", 2), path="/blobs/")
    with asked(registry, path) as response:
        assert [f"{path.rpartition('/')[2]}\t"] * 2 == response.msg.get_all("Docker-Content-Digest")


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
    connection = http.client.HTTPConnection(registry.host, timeout=HANGS)
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
    with socket.create_connection((host, int(port)), timeout=HANGS) as connection:
        connection.sendall(f"GET {blob_path(registry)} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        got = b""
        while after is not None and not (b"\r\n\r\n" in got and len(got.partition(b"\r\n\r\n")[2]) >= early):
            got += connection.recv(65536)
        connection.settimeout(0.3)
        with contextlib.suppress(TimeoutError):  # no more is to come
            got += connection.recv(65536)
        connection.settimeout(HANGS)
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
        connection = http.client.HTTPConnection(registry.host, timeout=HANGS)
        connection.request("GET", path)
        answer = connection.getresponse()
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        answer.read()
    connection.close()
    wait_until(lambda: threading.active_count() <= threads)


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


def one_connection(registry: Registry, path: str, times: int) -> list[bytes | None]:
    """Ask so often over one connection; return each body, None where it or its status did not come whole."""
    connection = http.client.HTTPConnection(registry.host, timeout=HANGS)
    connection.connect()
    connection.auto_open = False
    got: list[bytes | None] = []
    try:
        for _ in range(times):
            try:
                connection.request("GET", path)
                got.append(connection.getresponse().read())
            except (http.client.IncompleteRead, http.client.NotConnected, ConnectionError):
                got.append(None)
        return got
    finally:
        connection.close()


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_may_come_before_the_status(registry: Registry, reset: bool) -> None:
    """Nothing is answered at all: the connection ends, in order or with a reset."""
    registry.fault(Cut(after=None, reset=reset), path="/blobs/")
    expected = ConnectionResetError if reset else http.client.RemoteDisconnected
    with pytest.raises(expected) as caught, asked(registry, blob_path(registry)):
        pass
    assert expected is type(caught.value)


def test_a_cut_may_count_the_whole_connection(registry: Registry) -> None:
    """Each connection carries so many bytes of bodies, be it in one answer or in several."""
    registry.fault(Cut(after=2500, connection=True))
    for _ in range(2):
        assert [DATA, DATA, None] == one_connection(registry, blob_path(registry), 3)
    assert [1000, 1000, 500] * 2 == [request.body_bytes_sent for request in registry.requests]
    assert [2500, 2500] == [connection.body_bytes_sent for connection in registry.connections]


def test_a_body_may_be_without_end(registry: Registry) -> None:
    """An answer of a terabyte takes neither memory nor time before it is read."""
    registry.fault(Long(10**12), path="/blobs/")
    with asked(registry, blob_path(registry)) as answer:
        assert str(1000 + 10**12) == answer.headers["Content-Length"]
        assert DATA + bytes(3_000_000) == answer.read(3_001_000)


@pytest.mark.parametrize(
    ("fault", "content_range", "first", "last"),
    [
        (WrongRange(first=7, last=7), "bytes 107-206/1000", 107, 206),
        (WrongRange(first=7, last=7, said=False), "bytes 100-199/1000", 107, 206),
        (WrongRange(first=7, last=7, sent=False), "bytes 107-206/1000", 100, 199),
        (WrongRange(first=-7), "bytes 93-199/1000", 93, 199),
        (WrongRange(first=-700), "bytes 0-199/1000", 0, 199),
        (WrongRange(last=-1), "bytes 100-198/1000", 100, 198),
        (WrongRange(last=1, said=False), "bytes 100-199/1000", 100, 200),
        (WrongRange(last=5000), "bytes 100-999/1000", 100, 999),
        (WrongRange(first=200), "bytes 300-199/1000", 300, 299),
        (WrongRange(total=1), "bytes 100-199/1001", 100, 199),
        (WrongRange(total=-900), "bytes 100-199/100", 100, 199),
    ],
)
def test_a_range_can_be_another_one(
    registry: Registry, fault: Fault, content_range: str, first: int, last: int
) -> None:
    """The body, what `Content-Range` says of it, and the total can be wrong, each for itself; the length is right."""
    registry.fault(fault, path="/blobs/")
    with asked(registry, blob_path(registry), Range="bytes=100-199") as answer:
        assert (206, content_range) == (answer.status, answer.headers["Content-Range"])
        assert str(last + 1 - first) == answer.headers["Content-Length"]
        assert DATA[first : last + 1] == answer.read()


def test_a_range_is_wrong_only_where_it_was_right(registry: Registry) -> None:
    """An open range is met too; the whole, HEAD, and a range that is not there stay as they are."""
    registry.fault(WrongRange(first=1), path="/blobs/", times=1)
    with asked(registry, blob_path(registry)) as answer:
        assert (200, DATA) == (answer.status, answer.read())
    with asked(registry, blob_path(registry), "HEAD", Range="bytes=0-9") as answer:
        assert 200 == answer.status
    with asked(registry, blob_path(registry), Range="bytes=1000-") as answer:
        assert (416, "bytes */1000") == (answer.status, answer.headers["Content-Range"])
    with asked(registry, blob_path(registry), Range="bytes=990-") as answer:
        assert (206, DATA[991:]) == (answer.status, answer.read())


def test_a_wrong_range_is_sent_as_other_faults_say(registry: Registry) -> None:
    """Faults combine: it may come in chunks, and be cut."""
    registry.fault(WrongRange(first=1), path="/blobs/")
    registry.fault(NoContentLength(chunked=True), path="/blobs/")
    with asked(registry, blob_path(registry), Range="bytes=5-9") as answer:
        assert (206, "chunked") == (answer.status, answer.headers["Transfer-Encoding"])
        assert DATA[6:10] == answer.read()


@pytest.mark.parametrize(
    ("fault", "statuses"),
    [(RefuseRange(), [200, 416, 416]), (RefuseRange(closed=False), [200, 206, 416])],
)
def test_ranges_can_be_refused(registry: Registry, fault: Fault, statuses: list[int]) -> None:
    """All, or open ones alone, get 416; the whole can still be had."""
    registry.fault(fault)
    got = []
    for headers in ({}, {"Range": "bytes=5-9"}, {"Range": "bytes=5-"}):
        with asked(registry, blob_path(registry), **headers) as answer:
            got.append(answer.status)
    assert statuses == got


def test_a_status_can_be_the_only_lie(registry: Registry) -> None:
    """A range comes with 200, the whole with 206; a refusal stays."""
    registry.fault(WrongStatus(200))
    with asked(registry, blob_path(registry), Range="bytes=5-9") as answer:
        assert (200, "bytes 5-9/1000", DATA[5:10]) == (answer.status, answer.headers["Content-Range"], answer.read())
    registry.clear_faults()
    registry.fault(WrongStatus(206))
    with asked(registry, blob_path(registry)) as answer:
        assert (206, None, DATA) == (answer.status, answer.headers["Content-Range"], answer.read())
    with asked(registry, "/v2/x/manifests/none") as answer:
        assert 404 == answer.status


def test_a_body_can_be_compressed_unasked(registry: Registry) -> None:
    """The header says gzip, the length is that of what is sent, and it unpacks to the right bytes."""
    registry.fault(Gzip(), path="/blobs/")
    with asked(registry, blob_path(registry), **{"Accept-Encoding": "identity"}) as answer:
        body = answer.read()
        assert ("gzip", str(len(body))) == (answer.headers["Content-Encoding"], answer.headers["Content-Length"])
    assert DATA == gzip.decompress(body)
    with asked(registry, blob_path(registry).replace("sha256", "sha512")) as answer:
        assert (400, None) == (answer.status, answer.headers["Content-Encoding"])


def test_header_fields_can_be_many(registry: Registry) -> None:
    """One name comes as often as it is told, beside what the registry says or in its place, and may be huge."""
    registry.fault(Header("X-Many", "y" * 1000, count=5000), path="/manifests/")
    registry.fault(Header("Docker-Content-Digest", "sha256:0", add=True), path="/manifests/")
    registry.fault(Header("X-Huge", "z" * 1_000_000), path="/blobs/")
    host, port = registry.host.split(":")
    with socket.create_connection((host, int(port)), timeout=HANGS) as connection:
        connection.sendall(b"GET /v2/x/manifests/1 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        head = b"".join(iter(lambda: connection.recv(1 << 20), b"")).partition(b"\r\n\r\n")[0]
    lines = head.split(b"\r\n")
    assert 5000 == lines.count(b"X-Many: " + b"y" * 1000)
    digests = [line for line in lines if line.startswith(b"Docker-Content-Digest: ")]
    assert (2, b"Docker-Content-Digest: sha256:0") == (len(digests), digests[1])
    with pytest.raises(http.client.LineTooLong), asked(registry, blob_path(registry)):
        pass


@pytest.mark.parametrize("data", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"SSH-2.0-x\r\n", b"HTTP/1.1 200 OK\n\nx"])
def test_an_answer_need_not_be_http(registry: Registry, data: bytes) -> None:
    """Exactly these bytes come, and the connection ends."""
    registry.fault(Raw(data), path="/blobs/")
    assert data == raw(registry, blob_path(registry))
    assert [200 if b"200" in data else 0] == [request.status for request in registry.requests]


def arrivals(registry: Registry, path: str) -> list[tuple[float, bytes]]:
    """What arrives, with the seconds since it was asked for."""
    host, port = registry.host.split(":")
    with socket.create_connection((host, int(port)), timeout=HANGS) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        begin = time.monotonic()
        return [(time.monotonic() - begin, data) for data in iter(lambda: connection.recv(65536), b"")]


@pytest.mark.parametrize("headers", [False, True])
def test_an_answer_can_drip(registry: Registry, headers: bool) -> None:
    """Never more than so many bytes come in so many seconds, of the body or of the header too."""
    registry.add_manifest("drop", b"0123456789", "text/plain", tags=["1"])
    registry.fault(Drip(size=50 if headers else 2, seconds=0.02, headers=headers))
    got = arrivals(registry, "/v2/drop/manifests/1")
    text = b"".join(data for _, data in got)
    assert b"0123456789" == text.partition(b"\r\n\r\n")[2]
    counted = len(text) if headers else 10
    pieces = -(-counted // (50 if headers else 2))
    assert got[-1][0] >= (pieces - 1) * 0.02
    assert b"\r\n\r\n" not in got[0][1] if headers else b"\r\n\r\n" in got[0][1]


def throttled(registry: Registry, path: str, times: int = 1) -> float:
    """Seconds that it takes to read a body so often over one connection."""
    begin = time.monotonic()
    assert None not in one_connection(registry, path, times)
    return time.monotonic() - begin


@pytest.mark.slow
@pytest.mark.parametrize("rate", [2_000_000, 20_000_000])
def test_a_throttled_connection_keeps_its_rate(registry: Registry, rate: int) -> None:
    """Half a second's worth of bytes takes half a second: in one answer, in several, and on several connections."""
    registry.fault(Throttle(rate))
    half, quarter = (registry.add_blob("x", bytes(rate // part)) for part in (2, 4))
    with ThreadPoolExecutor(3) as pool:
        whole = [pool.submit(throttled, registry, f"/v2/x/blobs/{half.digest}") for _ in range(2)]
        parts = pool.submit(throttled, registry, f"/v2/x/blobs/{quarter.digest}", 2)
        took = [task.result() for task in (*whole, parts)]
    # Never faster; a machine under load may make all of them slower, which is not this server's doing.
    assert 0.49 <= min(took) < 20


def test_a_client_that_goes_ends_its_connection(registry: Registry) -> None:
    """A stalled answer does not keep a connection that the client has closed."""
    registry.fault(Stall(after=10), path="/blobs/")
    with asked(registry, blob_path(registry)) as answer:
        answer.read(10)
        assert [True] == [connection.open for connection in registry.connections]
    wait_until(lambda: not registry.connections[0].open)
    assert [False] == [connection.open for connection in registry.connections]


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize(
    ("to", "location"),
    [
        ("{path}", "/v2/x/tags/list?n=1"),
        ("file:///etc/passwd", "file:///etc/passwd"),
        ("http://user:secret@127.0.0.1{path}", "http://user:secret@127.0.0.1/v2/x/tags/list?n=1"),
        (None, None),
    ],
)
def test_a_redirect_can_lead_anywhere(registry: Registry, code: int, to: str | None, location: str | None) -> None:
    """To itself, to another scheme, with a login in it, or nowhere, with any status."""
    registry.fault(Redirect(to, code))
    with asked(registry, "/v2/x/tags/list?n=1") as answer:
        assert (code, location) == (answer.status, answer.headers["Location"])


def test_redirects_can_be_many(registry: Registry) -> None:
    """A loop that acts so often is a chain of that length."""
    registry.fault(Redirect("{path}"), times=3)
    assert [307, 307, 307, 200] == statuses(registry, "/v2/x/manifests/1", 4)


def test_signed_urls_expire(registry: Registry) -> None:
    """A CDN with the registry's content serves each URL once, and none with an Authorization header."""
    with Registry(content_of=registry) as cdn:
        cdn.fault(RefuseAuthorization())
        cdn.fault(UrlExpires(after=1))
        registry.fault(Redirect(cdn.url + "{path}?signature={unique}"), path="/blobs/")
        targets = []
        for _ in range(2):
            with asked(registry, blob_path(registry), Authorization="Bearer token") as answer:
                targets.append(answer.headers["Location"].removeprefix(cdn.url))
        assert targets[0].partition("?")[0] == targets[1].partition("?")[0] == blob_path(registry)
        assert targets[0] != targets[1]
        with asked(cdn, targets[0], Authorization="Bearer token") as answer:
            assert (400, True) == (answer.status, b"<Code>InvalidArgument</Code>" in answer.read())
        with asked(cdn, targets[0]) as answer:
            assert (200, DATA) == (answer.status, answer.read())
        with asked(cdn, targets[0]) as answer:
            assert (403, True) == (answer.status, b"<Code>AccessDenied</Code>" in answer.read())
        with asked(cdn, targets[1]) as answer:
            assert (200, DATA) == (answer.status, answer.read())
        assert ["Bearer token"] == cdn.authorizations
        assert ["Bearer token"] * 2 == registry.authorizations


def test_fields_of_an_answer_can_be_others(registry: Registry) -> None:
    """Fields are set to any value or left out; what is no object, or refused, stays."""
    registry.fault(JsonFields({"tags": None, "more": [1]}, without=["name"]))
    with asked(registry, "/v2/x/tags/list") as answer:
        body = answer.read()
        assert str(len(body)) == answer.headers["Content-Length"]
    assert {"tags": None, "more": [1]} == json.loads(body)
    with asked(registry, blob_path(registry)) as answer:
        assert DATA == answer.read()
    with asked(registry, "/v2/none/tags/list") as answer:
        assert ["errors"] == list(json.loads(answer.read()))


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Challenge("Negotiate", "{challenge}"), ["Negotiate", 'Bearer realm="{url}/token",service="S",scope="{s}"']),
        (Challenge("Digest a=1, {challenge}"), ['Digest a=1, Bearer realm="{url}/token",service="S",scope="{s}"']),
        (Challenge('Bearer realm="{realm}",service="{service}"'), ['Bearer realm="{url}/token",service="S"']),
        (Challenge('Bearer realm="{realm}",scope=""'), ['Bearer realm="{url}/token",scope=""']),
        (Challenge('Bearer scope="{scope},a", x="b,\\"c"'), ['Bearer scope="{s},a", x="b,\\"c"']),
        (Challenge("Bearer {realm"), ["Bearer {realm"]),
        (Challenge(), []),
    ],
)
def test_challenges_can_be_odd(fault: Fault, expected: list[str]) -> None:
    """A 401 carries exactly these fields, in order, made from what the registry would have said."""
    with Registry(auth="bearer") as registry:
        registry.fault(fault)
        with asked(registry, "/v2/x/manifests/1") as answer:
            got = answer.headers.get_all("WWW-Authenticate", [])
        with asked(registry, "/token") as answer:
            assert (200, None) == (answer.status, answer.headers["WWW-Authenticate"])
        replaced = {"{url}": registry.url, "{s}": "repository:x:pull", '"S"': '"distsdk.testing"'}
        for name, value in replaced.items():
            expected = [text.replace(name, value) for text in expected]
        assert expected == got


def test_a_rate_limit_counts_down(registry: Registry) -> None:
    """GET requests that are served count, HEAD and refusals do not; then 429 comes until the time is over."""
    registry.fault(RateLimit(2, window=21600, retry_after="Wed, 21 Oct 2099 07:28:00 GMT"), path="/manifests/")
    got = []
    for method, name in [("HEAD", "1"), ("GET", "none"), ("GET", "1"), ("GET", "1"), ("GET", "1"), ("HEAD", "1")]:
        with asked(registry, f"/v2/x/manifests/{name}", method) as answer:
            assert "2;w=21600" == answer.headers["RateLimit-Limit"]
            got.append((answer.status, answer.headers["RateLimit-Remaining"], answer.headers["Retry-After"]))
    assert [
        (200, "2;w=21600", None),
        (404, "2;w=21600", None),
        (200, "1;w=21600", None),
        (200, "0;w=21600", None),
        (429, "0;w=21600", "Wed, 21 Oct 2099 07:28:00 GMT"),
        (200, "0;w=21600", None),
    ] == got


def test_a_rate_limit_starts_over(registry: Registry) -> None:
    """After its window as much is served again."""
    registry.fault(RateLimit(1, window=0), path="/manifests/")
    assert [200, 200] == statuses(registry, "/v2/x/manifests/1", 2)


def links(registry: Registry, path: str, times: int) -> list[str | None]:
    """The `Link` field of so many answers."""
    got = []
    for _ in range(times):
        with asked(registry, path) as answer:
            got.append(answer.headers["Link"])
    return got


@pytest.mark.parametrize(
    ("value", "first", "last"),
    [
        ('<http://other.example{next}>; rel="next"', '<http://other.example{next}>; rel="next"', None),
        ('<{path}>; rel="next"', '<{path}>; rel="next"', '<{path}>; rel="next"'),
        ("<<;;", "<<;;", "<<;;"),
    ],
)
def test_pages_can_lead_astray(value: str, first: str, last: str | None) -> None:
    """A link can be absolute, to another host, to the page itself, or malformed; other answers have none."""
    with Registry(page_size=2) as registry:
        registry.add_manifest("x", {}, "text/plain", tags=["a", "b", "c"])
        registry.fault(Link(value))
        path = "/v2/x/tags/list?n=2"
        after = "/v2/x/tags/list?last=b&n=2"
        assert [first.format(next=after, path=path)] == links(registry, path, 1)
        assert [last and last.format(next="", path=after)] == links(registry, after, 1)
        assert [None, None] == links(registry, "/v2/x/manifests/a", 1) + links(registry, "/v2/none/tags/list", 1)


@pytest.mark.parametrize(
    ("query", "expected"),
    [("", "abc"), ("?n=2", "ab"), ("?n=9", "abc"), ("?n=2&last=b", "cd"), ("?n=2&last=e", "ab"), ("?last=e", "abc")],
)
def test_pages_can_lack_their_link(query: str, expected: str) -> None:
    """``NoLink`` caps pages, names no next one, and starts again where nothing follows ``last``."""
    with Registry() as registry:
        registry.add_manifest("x", b"{}", "application/json", tags="abcde")
        registry.fault(NoLink(size=3))
        with asked(registry, f"/v2/x/tags/list{query}") as response:
            assert list(expected) == json.loads(response.read())["tags"]
            assert None is response.headers["Link"]


@pytest.mark.parametrize(("path", "key"), [("/v2/x/tags/list", "tags"), ("/v2/_catalog", "repositories")])
def test_pages_can_be_endless(registry: Registry, path: str, key: str) -> None:
    """Each page leads to one with other names, in order."""
    registry.fault(EndlessPages(size=3))
    seen: list[str] = []
    for _ in range(4):
        with asked(registry, path) as answer:
            seen += json.loads(answer.read())[key]
            path = answer.headers["Link"].removeprefix("<").partition(">")[0]
    assert 12 == len(set(seen))
    assert sorted(seen) == seen
    with asked(registry, "/v2/none/tags/list") as answer:
        assert (404, None, ["errors"]) == (answer.status, answer.headers["Link"], list(json.loads(answer.read())))
