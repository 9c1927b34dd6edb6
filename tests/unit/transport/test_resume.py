"""A body that goes on where it broke: what is asked for then, byte for byte, and which answers are used."""

from __future__ import annotations

import contextlib
import random
from typing import TYPE_CHECKING, Any

import pytest
from attrs import frozen
from hypothesis import given
from hypothesis import strategies as st

import distsdk
from distsdk import Credentials, Digest, Hosts, Limits, Retry, Timeouts
from distsdk.errors import (
    DeadlineExceeded,
    Denied,
    DigestMismatch,
    IntegrityError,
    NotFound,
    RegistryError,
    SizeMismatch,
    Unreachable,
)
from distsdk.testing import (
    Cut,
    Fault,
    Header,
    IgnoreRange,
    Long,
    NoContentLength,
    Raw,
    Redirect,
    RefuseRange,
    Registry,
    Short,
    Stall,
    Status,
    UrlExpires,
    WrongBytes,
    WrongRange,
    WrongStatus,
)
from distsdk.transport.resume import ResumingStream, parse_content_range

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from distsdk import Remote
    from distsdk.content.blob import Blob
    from distsdk.testing import Request, Response
    from distsdk.transport.retry import RetryState

KIB = 1024
SIZE = 1024 * KIB
DATA = random.Random(8).randbytes(SIZE)
OTHER = random.Random(9).randbytes(SIZE)
DIGEST = Digest.of(DATA)
#: Where the first answer breaks, unless a test says otherwise.
BREAK = 100 * KIB


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry that holds one blob of 1 MiB."""
    with Registry() as registry:
        registry.add_blob("x", DATA)
        yield registry


def connect(registry: Registry, credentials: Credentials | None = None, attempts: int = 5) -> Remote:
    """Connect to the repository without looking at this machine's configuration."""
    remote = distsdk.connect(
        registry.locator("x"),
        credentials=credentials or Credentials.anonymous(),
        hosts=Hosts(),
        retry=Retry(attempts=attempts),
        timeouts=Timeouts(5, 5, 10),
        limits=Limits(),
    )
    return remote


def sized(remote: Remote) -> Blob:
    """The blob, its size known."""
    return remote.fetch(DIGEST, f"size:{SIZE}")


def ranges(registry: Registry, path: str = "/blobs/") -> list[str | None]:
    """The ranges that were asked for, in order; None stands for the whole."""
    return [request.headers.get("Range") for request in registry.requests if path in request.path]


def rest(start: int) -> str:
    """The closed range from a byte to the end."""
    return f"bytes={start}-{SIZE - 1}"


class InTurn:
    """Lets each request meet another fault; those after the last one meet none.

    Args:
        faults: In order.
    """

    def __init__(self, *faults: Fault) -> None:
        self._left = list(faults)

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Answer with the next fault."""
        return self._left.pop(0).answer(request, respond) if self._left else respond(request)


# What is asked for


@pytest.mark.parametrize("framing", [None, NoContentLength(), NoContentLength(chunked=True)], ids=repr)
def test_many_cuts(registry: Registry, framing: Fault | None) -> None:
    """A connection that breaks every 20 KiB costs a request each time, and not one byte twice."""
    if framing:
        registry.fault(framing)
    registry.fault(Cut(20 * KIB))
    assert DATA == sized(connect(registry)).read()
    assert [None, *(rest(start) for start in range(20 * KIB, SIZE, 20 * KIB))] == ranges(registry)
    assert [200] + [206] * 51 == [request.status for request in registry.requests]
    assert SIZE == registry.bytes_sent


@pytest.mark.parametrize("framing", [None, NoContentLength(), NoContentLength(chunked=True)], ids=repr)
@pytest.mark.parametrize("known", [True, False])
def test_a_cut_is_never_an_end(registry: Registry, framing: Fault | None, known: bool) -> None:
    """Whatever tells the end of a body, one that is cut is gone on with, or an error where nobody knows the size."""
    if framing:
        registry.fault(framing)
    registry.fault(Cut(BREAK), times=1)
    remote = connect(registry)
    blob = sized(remote) if known else remote.fetch(DIGEST)
    if not known and framing == NoContentLength():
        with pytest.raises(DigestMismatch):
            blob.read()
        assert [None] == ranges(registry)
        return
    assert DATA == blob.read()
    # Chunks tell no size, so that the range has to be an open one.
    unknown = not known and framing is not None
    assert [None, f"bytes={BREAK}-" if unknown else rest(BREAK)] == ranges(registry)


def test_an_open_range_may_be_refused(registry: Registry) -> None:
    """Where the size is not known and the registry gives no open range, it starts over."""
    registry.fault(NoContentLength(chunked=True))
    registry.fault(RefuseRange(closed=False))
    registry.fault(Cut(BREAK), times=1)
    assert DATA == connect(registry).fetch(DIGEST).read()
    assert [None, f"bytes={BREAK}-", None] == ranges(registry)


def test_a_range_that_breaks_goes_on_to_its_own_end(registry: Registry) -> None:
    """A part of a blob that breaks is completed, and nothing beyond it is asked for."""
    registry.fault(Cut(20 * KIB))
    with sized(connect(registry)).open() as file:
        file.seek(500_000)
        assert DATA[500_000:550_000] == file.read(50_000)
        file.seek(0)
    starts = range(500_000, 500_000 + 64 * KIB, 20 * KIB)
    assert [f"bytes={start}-{500_000 + 64 * KIB - 1}" for start in starts][: len(ranges(registry))] == ranges(registry)
    assert 3 == len(ranges(registry))


def test_it_goes_on_at_the_registrys_own_url(registry: Registry) -> None:
    """What the registry redirects to is signed and good for once: each range gets a new signature."""
    with Registry(content_of=registry) as cdn:
        cdn.fault(UrlExpires(1))
        cdn.fault(Cut(BREAK))
        registry.fault(Redirect(cdn.url + "{path}?signature={unique}"), path="/blobs/")
        assert DATA == sized(connect(registry)).read()
        expected = [None, *(rest(start) for start in range(BREAK, SIZE, BREAK))]
        assert expected == ranges(registry) == ranges(cdn)
        assert [307] * 11 == [request.status for request in registry.requests]
        assert [200] + [206] * 10 == [request.status for request in cdn.requests]
        assert 11 == len({request.query for request in cdn.requests})


@pytest.mark.parametrize(
    ("etag", "sent"),
    [
        ('"v1"', '"v1"'),
        ('"sha256:0/+=!~"', '"sha256:0/+=!~"'),
        ('""', None),
        ('W/"v1"', None),
        ('w/"v1"', None),
        ("v1", None),
        ('"v1', None),
        ('"v"1"', None),
        ('"a", "b"', None),
        ('"v 1"', None),
        ('"v\t1"', None),
        ('"caf\xe9"', None),
        (f'"{"x" * 257}"', None),
        ("*", None),
        (None, None),
    ],
)
def test_only_a_strong_validator_is_a_condition(registry: Registry, etag: str | None, sent: str | None) -> None:
    """If-Range repeats a strong ETag and nothing else (RFC 9110 section 13.1.5); the range is asked for anyway."""
    registry.fault(Header("ETag", etag))
    registry.fault(Cut(BREAK), times=1)
    assert DATA == sized(connect(registry)).read()
    first, second = registry.requests[:2]
    assert (None, rest(BREAK)) == (first.headers.get("Range"), second.headers.get("Range"))
    assert (None, sent) == (first.headers.get("If-Range"), second.headers.get("If-Range"))


def test_the_condition_is_that_of_the_answer_before(registry: Registry) -> None:
    """Each range is bound to what the answer before it said."""
    registry.fault(Cut(BREAK), times=3)
    assert DATA == sized(connect(registry)).read()
    assert [None] + [f'"{DIGEST}"'] * 3 == [request.headers.get("If-Range") for request in registry.requests]


# Which answers are used


def read_with(registry: Registry, *faults: Fault) -> list[str | None]:
    """Break the first answer, let the next ones be wrong; the bytes have to be right. Return what was asked for."""
    registry.fault(Cut(BREAK), times=1)
    for fault in faults:
        registry.fault(fault)
    assert DATA == sized(connect(registry)).read()
    return ranges(registry)


def test_a_whole_in_place_of_a_range_is_skipped_over(registry: Registry) -> None:
    """200 to a range is the whole blob: it starts over, in the same answer, and hands no byte out twice."""
    assert [None, rest(BREAK)] == read_with(registry, IgnoreRange())
    assert BREAK + SIZE == registry.bytes_sent


def test_a_whole_that_breaks_while_it_is_skipped_over(registry: Registry) -> None:
    """A break among the bytes that are passed over is one like others; what was handed out stays where it was."""
    registry.fault(IgnoreRange())
    registry.fault(InTurn(*map(Cut, (100 * KIB, 50 * KIB, 99 * KIB, 100 * KIB, 200 * KIB))))
    assert DATA == sized(connect(registry)).read()
    assert [None, *[rest(100 * KIB)] * 4, rest(200 * KIB)] == ranges(registry)


def test_passing_over_is_no_progress(registry: Registry) -> None:
    """A registry without ranges that always breaks at the same byte is given up."""
    registry.fault(IgnoreRange())
    registry.fault(Cut(BREAK))
    with pytest.raises(Unreachable, match=f"after byte {BREAK}|in the middle of the body"):
        sized(connect(registry)).read()
    assert [None, *[rest(BREAK)] * 4] == ranges(registry)


UNUSABLE: dict[str, Fault] = {
    "begins later": WrongRange(first=1),
    "begins earlier": WrongRange(first=-1),
    "begins at the first byte": WrongRange(first=-BREAK),
    "ends earlier": WrongRange(last=-1),
    "says that it begins later": WrongRange(first=1, sent=False),
    "says that it ends earlier": WrongRange(last=-1, sent=False),
    "of a larger whole": WrongRange(total=1),
    "of a smaller whole": WrongRange(total=-1),
    "no range": Header("Content-Range", None),
    "nothing": Header("Content-Range", ""),
    "another unit": Header("Content-Range", f"items {BREAK}-{SIZE - 1}/{SIZE}"),
    "no unit": Header("Content-Range", f"{BREAK}-{SIZE - 1}/{SIZE}"),
    "unsatisfied": Header("Content-Range", f"bytes */{SIZE}"),
    "backwards": Header("Content-Range", f"bytes {SIZE - 1}-{BREAK}/{SIZE}"),
    "negative": Header("Content-Range", f"bytes -{BREAK}-{SIZE - 1}/{SIZE}"),
    "beyond the whole": Header("Content-Range", f"bytes {BREAK}-{SIZE}/{SIZE}"),
    "absurd": Header("Content-Range", f"bytes {'9' * 30}-{'9' * 31}/*"),
    "words": Header("Content-Range", "the rest"),
    "other digits": Header("Content-Range", f"bytes {BREAK}-{SIZE - 1}/{SIZE}".replace("1", "\u0661")),
    "two of them": Header("Content-Range", f"bytes {BREAK}-{SIZE - 1}/{SIZE}", count=2),
    "refused": RefuseRange(),
}


@pytest.mark.parametrize("fault", UNUSABLE.values(), ids=UNUSABLE)
def test_what_is_not_the_range_is_not_used(registry: Registry, fault: Fault) -> None:
    """A 206 that does not say, in one header, that it is what was asked for is closed; one request brings the whole."""
    # The first answer has no such header, and the last, the whole, has it as well: there it says nothing.
    assert [None, rest(BREAK), None] == read_with(registry, fault)


def test_several_parts_are_not_used(registry: Registry) -> None:
    """multipart/byteranges was not asked for: its boundaries are no bytes of the blob."""
    part = f"--b\r\nContent-Range: bytes {BREAK}-{SIZE - 1}/{SIZE}\r\n\r\n".encode() + DATA[BREAK:] + b"\r\n--b--\r\n"
    head = (
        "HTTP/1.1 206 Partial Content\r\nContent-Type: multipart/byteranges; boundary=b\r\n"
        f"Content-Length: {len(part)}\r\n\r\n"
    )
    registry.fault(InTurn(Cut(BREAK), Raw(head.encode() + part)))
    assert DATA == sized(connect(registry)).read()
    assert [None, rest(BREAK), None] == ranges(registry)


@pytest.mark.parametrize("total", ["*", str(SIZE)])
@pytest.mark.parametrize("unit", ["bytes", "Bytes", "BYTES"])
def test_ways_to_say_the_right_range(registry: Registry, total: str, unit: str) -> None:
    """The whole's size need not be told, and a unit has no case."""
    said = Header("Content-Range", f"{unit} {BREAK}-{SIZE - 1}/{total}")
    assert [None, rest(BREAK)] == read_with(registry, said)
    assert SIZE == registry.bytes_sent


def test_the_whole_may_be_called_a_part(registry: Registry) -> None:
    """206 to a request for the whole, as some caches answer, is taken for the whole; size and digest are checked."""
    registry.fault(WrongStatus(206))
    assert DATA == sized(connect(registry)).read()
    assert [None] == ranges(registry)


def test_a_part_in_place_of_the_whole_is_found_out(registry: Registry) -> None:
    """The same with half of the bytes is no success, and no cut either: it is not asked for again."""
    registry.fault(WrongStatus(206))
    registry.fault(Short(SIZE // 2))
    with pytest.raises(SizeMismatch) as caught:
        sized(connect(registry)).read()
    assert (SIZE, SIZE // 2) == (caught.value.expected, caught.value.got)
    with pytest.raises(DigestMismatch):
        connect(registry).fetch(DIGEST).read()
    assert [None, None] == ranges(registry)


@pytest.mark.parametrize("framing", [None, NoContentLength(), NoContentLength(chunked=True)], ids=repr)
@pytest.mark.parametrize("broken", [True, False])
def test_no_byte_beyond_the_blob(registry: Registry, framing: Fault | None, broken: bool) -> None:
    """A body that is longer is refused: what was handed out is a beginning of the right bytes."""
    if framing:
        registry.fault(framing)
    if broken:
        registry.fault(Cut(BREAK), times=1)
    registry.fault(Long(1))
    taken: list[bytes] = []
    with pytest.raises(SizeMismatch):
        taken.extend(sized(connect(registry)).stream())
    assert DATA.startswith(b"".join(taken))
    assert taken or framing is None
    assert ([None, rest(BREAK)] if broken else [None]) == ranges(registry)


def test_a_body_without_end_is_not_read_to_it(registry: Registry) -> None:
    """What follows on a range is left where it is; the reader gets its bytes, and the connection is given up."""
    registry.fault(Long(1 << 40))
    with sized(connect(registry)).open() as file:
        file.seek(1000)
        assert DATA[1000:2000] == file.read(1000)
    with pytest.raises(SizeMismatch):
        sized(connect(registry)).read()
    assert registry.bytes_sent < 64 * KIB * KIB


@pytest.mark.parametrize(("status", "error"), [(404, NotFound), (403, Denied), (500, RegistryError)])
@pytest.mark.parametrize("busy", [0, 1])
def test_a_refusal_to_go_on_is_final(registry: Registry, status: int, error: type[Exception], busy: int) -> None:
    """What is gone in the meantime is gone: what came before is not all of it, and nobody goes on asking."""
    registry.fault(InTurn(Cut(BREAK), *[Status(503)] * busy, *[Status(status)] * 9))
    with pytest.raises(error):
        sized(connect(registry)).read()
    # What is no blob any more is looked for among the manifests neither.
    assert [None, *[rest(BREAK)] * (busy + 1)] == ranges(registry)
    assert registry.count() == registry.count(path="/blobs/")


def test_what_fails_for_a_time_is_asked_again_for_the_same_range(registry: Registry) -> None:
    """Busy, silent or broken, between two parts: the range stays the same."""
    registry.fault(InTurn(Cut(BREAK), Status(503), Cut(None), Cut(0), Status(429)))
    assert DATA == sized(connect(registry, attempts=6)).read()
    assert [None, *[rest(BREAK)] * 5] == ranges(registry)


# Other bytes in the meantime


@frozen
class Replacement:
    """What a registry has in place of the blob when it is asked to go on.

    Attributes:
        data: Its bytes.
        obeys: Whether it obeys If-Range, and then answers with the whole.
        declared: What is raised where the size is known.
        unknown: What is raised where it is not.
        asked: The requests, after the first.
    """

    data: bytes
    obeys: bool
    declared: type[IntegrityError] | None
    unknown: type[IntegrityError] | None
    asked: list[str | None]


REPLACED = {
    "as long": Replacement(OTHER, True, DigestMismatch, DigestMismatch, [rest(BREAK)]),
    "as long, unnoticed": Replacement(OTHER, False, DigestMismatch, DigestMismatch, [rest(BREAK)]),
    "longer": Replacement(OTHER + b"x", True, SizeMismatch, DigestMismatch, [rest(BREAK)]),
    "longer, unnoticed": Replacement(OTHER + b"x", False, SizeMismatch, DigestMismatch, [rest(BREAK), None]),
    "shorter": Replacement(OTHER[:-1], True, SizeMismatch, DigestMismatch, [rest(BREAK)]),
    "shorter, unnoticed": Replacement(OTHER[:-1], False, SizeMismatch, DigestMismatch, [rest(BREAK), None]),
    "the same, under another name": Replacement(DATA, True, None, None, [rest(BREAK)]),
}


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("new", REPLACED.values(), ids=REPLACED)
def test_bytes_that_change_in_between(registry: Registry, new: Replacement, known: bool) -> None:
    """The digest is over all that was handed out: two halves of two blobs are never a success."""
    registry.fault(Header("ETag", '"old"' if new.obeys else f'"{DIGEST}"'))
    registry.fault(Cut(BREAK), times=1)
    remote = connect(registry)
    chunks = (sized(remote) if known else remote.fetch(DIGEST)).stream()
    taken = next(chunks)
    registry.add_blob("x", new.data, digest=DIGEST)
    error = new.declared if known else new.unknown
    with pytest.raises(error) if error else contextlib.nullcontext():
        for chunk in chunks:
            taken += chunk
    assert (DATA if error is None else DATA[:BREAK]) == taken[: SIZE if error is None else BREAK]
    assert [None, *new.asked] == ranges(registry)


def test_a_wrong_byte_after_the_break_is_found_out(registry: Registry, tmp_path: Path) -> None:
    """A range that is right by its header and wrong by its bytes is a mismatch, is not tried again, and not kept."""
    registry.fault(Cut(BREAK), times=1)
    registry.fault(WrongBytes(SIZE - BREAK - 1))
    with pytest.raises(DigestMismatch) as caught:
        sized(connect(registry)).save(tmp_path / "blob")
    assert (str(DIGEST), True) == (caught.value.expected, caught.value.got != str(DIGEST))
    assert [None, rest(BREAK)] == ranges(registry)
    assert [] == list(tmp_path.iterdir())


# Logins


def test_a_token_that_expires_in_mid_transfer_is_renewed_once() -> None:
    """The first range that is refused gets a new token, which then serves the rest."""
    with Registry(auth="bearer") as registry:
        registry.add_blob("x", DATA)
        registry.fault(Cut(BREAK), path="/blobs/", times=5)
        chunks = sized(connect(registry)).stream()
        taken = next(chunks)
        registry.expire_tokens()
        assert DATA == taken + b"".join(chunks)
        assert 2 == registry.count(path="/token")
        expected = [(None, 401), (None, 200), (rest(BREAK), 401), *((rest(BREAK * n), 206) for n in range(1, 6))]
        assert expected == [(r.headers.get("Range"), r.status) for r in registry.requests if r.path != "/token"]


def test_tokens_that_are_good_for_few_requests() -> None:
    """However often one is used up on the way, there is one new token for it, and no byte comes twice."""
    with Registry(auth="bearer", token_uses=10) as registry:
        registry.add_blob("x", DATA)
        registry.fault(Cut(20 * KIB), path="/blobs/")
        assert DATA == sized(connect(registry)).read()
        answered = [
            request for request in registry.requests if request.status in {200, 206} and request.path != "/token"
        ]
        assert (52, SIZE) == (len(answered), sum(request.body_bytes_sent for request in answered))
        assert (6, 6) == (registry.count(path="/token"), sum(request.status == 401 for request in registry.requests))


def test_a_login_comes_with_each_range() -> None:
    """Where a password is asked for, it is asked for once."""
    with Registry(auth="basic", logins={"ann": "secret"}) as registry:
        registry.add_blob("x", DATA)
        registry.fault(Cut(BREAK))
        assert DATA == sized(connect(registry, Credentials(username="ann", password="secret"))).read()
        assert [401, 200] + [206] * 10 == [request.status for request in registry.requests]
        assert 11 == len(registry.authorizations)


# The end of it


def test_a_stream_is_closed_in_the_middle(registry: Registry) -> None:
    """Who stops reading takes no more: the connection is not kept, and the next blob comes over another one."""
    registry.fault(Stall(10 * KIB), times=1)
    remote = connect(registry)
    with sized(remote).open() as file:
        assert DATA[:1000] == file.read(1000)
    assert DATA == sized(remote).read()
    assert [0, 1] == [request.connection for request in registry.requests]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 0-0/1", (0, 0, 1)),
        ("bytes 5-9/10", (5, 9, 10)),
        ("bytes 5-9/*", (5, 9, None)),
        (" Bytes \t5-9/10 ", (5, 9, 10)),
        ("bytes 0-9223372036854775806/9223372036854775807", (0, 2**63 - 2, 2**63 - 1)),
        ("bytes 5-9/9", None),
        ("bytes 9-5/10", None),
        ("bytes */10", None),
        ("bytes 5-9", None),
        ("bytes 5-9/", None),
        ("bytes=5-9/10", None),
        ("bytes 5 - 9 / 10", None),
        ("bytes +5-9/10", None),
        ("bytes 5-9/10, bytes 5-9/10", None),
        ("bytes 0x5-9/10", None),
        ("bytes \u0665-9/10", None),
        (f"bytes 0-9/{'1' * 20}", None),
        ("", None),
    ],
)
def test_content_ranges(text: str, expected: tuple[int, int, int | None] | None) -> None:
    """RFC 9110 section 14.4, in bytes; what names no satisfied range says nothing."""
    assert expected == parse_content_range(text)


@given(st.text(alphabet="bytes 0123456789-/*\t,=", max_size=40) | st.text(max_size=40))
def test_any_content_range_is_a_range_or_nothing(text: str) -> None:
    """Whatever stands there, what is made of it lies within its whole."""
    told = parse_content_range(text)
    if told is not None:
        first, last, total = told
        assert 0 <= first <= last
        assert total is None or last < total


# The least speed


class Clock:
    """A clock that goes on by what is read."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.reads = 0
        monkeypatch.setattr("distsdk.transport.resume.monotonic", lambda: self.now)

    def opened(self, *speeds: int, timeouts: Timeouts = Timeouts()) -> ResumingStream:  # noqa: B008 - frozen
        """Open a stream of `DATA`, of which each connection brings so many bytes a second, the last one and so on."""
        left = list(speeds)

        def ask(headers: Mapping[str, str], retry_state: RetryState) -> Any:  # noqa: ANN401 - a stand-in for a response
            speed = left.pop(0) if len(left) > 1 else left[0]
            start = int(headers.get("Range", "bytes=0-")[6:].partition("-")[0])
            return Trickle(self, start, speed)

        return ResumingStream(ask, 0, None, size=SIZE, retry=Retry(), timeouts=timeouts)


class Trickle:
    """A response whose every read takes a second."""

    url = "https://registry.example/v2/x/blobs/1"
    broke = staticmethod(lambda: None)

    def __init__(self, clock: Clock, start: int, speed: int) -> None:
        self._clock, self._at, self._speed = clock, start, speed
        self.status = 206 if start else 200
        self.headers = {"Content-Range": f"bytes {start}-{SIZE - 1}/{SIZE}"} if start else {}
        self.content_length = SIZE - start

    def read(self, size: int) -> bytes:
        """Return the bytes of a second."""
        self._clock.now += 1
        self._clock.reads += 1
        data = DATA[self._at : self._at + min(size, self._speed)]
        self._at += len(data)
        return data

    def close(self) -> None:
        """Do nothing."""


def drained(stream: ResumingStream) -> bytes:
    """Read a stream to its end."""
    return b"".join(iter(lambda: stream.read(1 << 20), b""))


@pytest.mark.parametrize("speed", [1, 100, 1023])
def test_blob_below_the_least_speed_is_given_up(monkeypatch: pytest.MonkeyPatch, speed: int) -> None:
    """Five connections have a minute each, whatever their bytes add up to; the error is that of a time-out."""
    clock = Clock(monkeypatch)
    with pytest.raises(DeadlineExceeded, match="arrived in 60 seconds, fewer than 1,024 bytes a second") as caught:
        drained(clock.opened(speed))
    assert (5 * 60, 60, True) == (clock.reads, caught.value.seconds, caught.value.temporary)


def test_blob_at_the_least_speed_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """1 KiB a second is enough, for as long as a blob takes."""
    clock = Clock(monkeypatch)
    assert DATA == drained(clock.opened(KIB))
    assert SIZE // KIB <= clock.reads <= SIZE // KIB + 1


def test_slow_blob_resumes_over_another_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """What arrived slowly is kept, and the rest comes from where the next connection goes on."""
    clock = Clock(monkeypatch)
    assert DATA == drained(clock.opened(500, 500, 100 * KIB))
    assert clock.reads < 2 * 60 + 15


def test_slow_connections_between_good_ones_are_forgiven(monkeypatch: pytest.MonkeyPatch) -> None:
    """A minute at the least speed gives the attempts back."""
    clock = Clock(monkeypatch)

    def speeds() -> Iterator[int]:
        while True:
            yield 2 * KIB if clock.reads % 120 < 60 else 100

    speed = speeds()
    monkeypatch.setattr(Trickle, "read", lambda self, size: varied(self, size, next(speed)))

    def varied(response: Trickle, size: int, now: int) -> bytes:
        clock.now += 1
        clock.reads += 1
        data = DATA[response._at : response._at + min(size, now)]
        response._at += len(data)
        return data

    assert DATA == drained(clock.opened(1))


def test_time_of_the_caller_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only waiting for bytes is measured: a caller may take hours between two reads."""
    clock = Clock(monkeypatch)
    stream = clock.opened(100 * KIB)
    data = b""
    for _ in range(150):
        data += stream.read(5000)
        clock.now += 3600
    assert (DATA[:750_000], 150) == (data, clock.reads)


def test_least_speed_is_a_value(monkeypatch: pytest.MonkeyPatch) -> None:
    """0 is no limit, and a limit over ten seconds fails after ten."""
    clock = Clock(monkeypatch)
    assert DATA == drained(clock.opened(700, timeouts=Timeouts(min_speed=0)))
    clock.reads = 0
    with pytest.raises(DeadlineExceeded, match="fewer than 2,000 bytes a second"):
        drained(clock.opened(1500, timeouts=Timeouts(min_speed=2000, min_speed_over=10)))
    assert 5 * 10 == clock.reads
