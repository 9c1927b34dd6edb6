"""What is tried again, how often and after how long: counted at the registry, and by the pauses that were taken."""

from __future__ import annotations

import email.utils
import math
import random
import socket
import threading
import time
from typing import TYPE_CHECKING, Any, cast

import pytest
from attrs import frozen

import distsdk
from distsdk import Credentials, Digest, Hosts, Retry, Timeouts
from distsdk.errors import (
    DeadlineExceeded,
    Denied,
    DigestMismatch,
    DistError,
    InvalidConfig,
    LimitExceeded,
    MalformedDocument,
    NotFound,
    RateLimited,
    RegistryError,
    SizeMismatch,
    Unreachable,
)
from distsdk.spec.media_types import OCI_MANIFEST
from distsdk.testing import (
    Cut,
    Fault,
    Header,
    JsonFields,
    Redirect,
    Registry,
    Short,
    Stall,
    Status,
    WrongBytes,
    WrongDigestHeader,
)
from distsdk.transport.client import MAX_REDIRECTS

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from distsdk import Remote
    from distsdk.testing import Request, Response
    from tests.unit.transport.conftest import Ask, Authority, MakeTransport

KIB = 1024
DATA = random.Random(6).randbytes(160 * KIB)
RAW = b'{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:%s","size":2},"layers":[]}' % (b"0" * 64)


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry with a manifest that has a tag, and a blob."""
    with Registry() as registry:
        fill(registry)
        yield registry


@pytest.fixture
def guarded() -> Iterator[Registry]:
    """The same, where a token is needed."""
    with Registry(auth="bearer") as registry:
        fill(registry)
        yield registry


def fill(registry: Registry) -> None:
    """Put a manifest and a blob into a registry."""
    registry.add_manifest("x", RAW, OCI_MANIFEST, tags=["1"])
    registry.add_blob("x", DATA)


def connect(registry: Registry, retry: Retry | None = None, timeouts: Timeouts | None = None) -> Remote:
    """Connect to the repository without looking at this machine's configuration."""
    remote = distsdk.connect(
        registry.locator("x"),
        credentials=Credentials.anonymous(),
        hosts=Hosts(),
        retry=retry,
        timeouts=timeouts or Timeouts(5, 0.3, 10),
    )
    return remote


def covering(statuses: Collection[int], attempts: int = 5) -> Retry:
    """A policy that tries these statuses again."""
    return Retry(attempts=attempts, statuses=cast("Any", statuses))


def get_document(remote: Remote) -> object:
    """Get a manifest by its tag."""
    return remote.fetch("1").read()


def get_blob(remote: Remote) -> object:
    """Read a blob from its first byte to its last."""
    return remote.fetch(Digest.of(DATA)).read()


def get_middle(remote: Remote) -> object:
    """Read a hundred bytes from the middle of a blob."""
    with remote.fetch(Digest.of(DATA), f"size:{len(DATA)}").open() as file:
        file.seek(100)
        return file.read(100)


@frozen
class Operation:
    """Something that asks a registry.

    Attributes:
        run: Does it.
        result: What it returns.
        path: Found in the paths that it asks for.
    """

    run: Callable[[Remote], object]
    result: object
    path: str


OPERATIONS = {
    "document": Operation(get_document, RAW, "/manifests/"),
    "head": Operation(lambda remote: remote.resolve("1").digest, Digest.of(RAW), "/manifests/"),
    "size": Operation(lambda remote: remote.fetch(Digest.of(DATA)).size, len(DATA), "/blobs/"),
    "blob": Operation(get_blob, DATA, "/blobs/"),
    "range": Operation(get_middle, DATA[100:200], "/blobs/"),
    "tags": Operation(lambda remote: list(remote.tags()), ["1"], "/tags/"),
}
BODIES = ("document", "blob", "tags")


TEMPORARY: dict[str, Fault] = {
    "429": Status.error(429, "TOOMANYREQUESTS"),
    "502": Status(502, "<html>"),
    "503": Status(503),
    "504": Status(504),
    "hangs up": Cut(None),
    "resets": Cut(None, reset=True),
    "stalls": Stall(None),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
@pytest.mark.parametrize("fault", TEMPORARY.values(), ids=TEMPORARY)
def test_what_is_temporary_heals(registry: Registry, pauses: list[float], fault: Fault, operation: Operation) -> None:
    """Any request that fails twice for a time is sent a third time, after two pauses; the caller notices nothing."""
    failures = 1 if isinstance(fault, Stall) else 2
    registry.fault(fault, path=operation.path, times=failures)
    assert operation.result == operation.run(connect(registry))
    assert failures == len(pauses)
    failed, answered = registry.requests[: failures + 1], registry.requests[failures:]
    assert {failed[0].path} == {request.path for request in failed}
    assert all(200 <= request.status < 300 for request in answered)


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("fault", [Cut(5), Cut(5, reset=True), Cut(0), Stall(5)], ids=repr)
def test_a_body_that_breaks_is_got_again(registry: Registry, pauses: list[float], fault: Fault, name: str) -> None:
    """Also where the headers came well and the body broke: a document, a page of tags and a blob come whole."""
    operation = OPERATIONS[name]
    registry.fault(fault, path=operation.path, times=1)
    assert operation.result == operation.run(connect(registry))
    assert (2, 1) == (registry.count(path=operation.path), len(pauses))


@pytest.mark.parametrize("fault", TEMPORARY.values(), ids=TEMPORARY)
def test_a_token_service_that_fails_for_a_time(guarded: Registry, pauses: list[float], fault: Fault) -> None:
    """A token that did not come is asked for again."""
    failures = 1 if isinstance(fault, Stall) else 2
    guarded.fault(fault, path="/token", times=failures)
    assert RAW == get_document(connect(guarded))
    assert (failures + 1, failures) == (guarded.count(path="/token"), len(pauses))


# What is final

FINAL: dict[str, tuple[Fault, str, type[DistError]]] = {
    "400": (Status(400), "document", RegistryError),
    "403": (Status(403), "document", Denied),
    "404": (Status(404), "document", NotFound),
    "500": (Status(500), "document", RegistryError),
    "501": (Status(501), "tags", RegistryError),
    "a tag that leads elsewhere": (WrongDigestHeader(), "document", DigestMismatch),
    "another byte": (WrongBytes(), "blob", DigestMismatch),
    "a byte less": (Short(), "blob", SizeMismatch),
    "no tags": (JsonFields({"tags": 5}), "tags", MalformedDocument),
    "a page without end": (Header("Content-Length", str(1 << 40)), "tags", LimitExceeded),
    "a challenge without a way": (Status(401, headers={"WWW-Authenticate": "Negotiate"}), "document", Denied),
    "a loop": (Redirect("{path}"), "document", RegistryError),
}


@pytest.mark.parametrize(("fault", "name", "error"), FINAL.values(), ids=FINAL)
def test_what_is_final_is_not_tried_again(
    registry: Registry, pauses: list[float], fault: Fault, name: str, error: type[DistError]
) -> None:
    """A refusal, and an answer that is not what was asked for, stay what they are however often one asks."""
    operation = OPERATIONS[name]
    registry.fault(fault, path=operation.path)
    sized = Digest.of(DATA), f"size:{len(DATA)}"
    with pytest.raises(error):
        connect(registry).fetch(*sized).read() if name == "blob" else operation.run(connect(registry))
    assert [] == pauses
    expected = MAX_REDIRECTS + 1 if isinstance(fault, Redirect) else 1
    assert expected == registry.count()


def test_refused_connections_are_final(pauses: list[float]) -> None:
    """Where nobody listens, nobody will in a second: the error comes at once."""
    with Registry() as registry:
        pass
    with pytest.raises(Unreachable, match="connection refused by") as caught:
        get_document(connect(registry))
    assert ([], False) == (pauses, caught.value.temporary)


def test_certificates_that_do_not_convince_are_final(
    authority: Authority, transport: MakeTransport, ask: Ask, pauses: list[float]
) -> None:
    """One handshake is enough to see an unknown authority."""
    with Registry(ssl_context=authority.context) as registry:
        with pytest.raises(Unreachable, match="certificate"):
            ask(transport(registry.url, retry=Retry()))
        assert (1, 0, []) == (len(registry.connections), registry.count(), pauses)


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_a_token_service_that_refuses_is_final(guarded: Registry, pauses: list[float], status: int) -> None:
    """Its refusal is not asked for twice."""
    guarded.fault(Status(status), path="/token")
    with pytest.raises(DistError):
        get_document(connect(guarded))
    assert (1, []) == (guarded.count(path="/token"), pauses)


def test_statuses_may_be_chosen(registry: Registry) -> None:
    """The policy says which statuses count as temporary; others then do not."""
    remote = connect(registry, covering([500], 3))
    for status, requests in ((500, 3), (503, 1)):
        registry.clear_faults()
        registry.reset()
        registry.fault(Status(status))
        with pytest.raises(RegistryError):
            get_document(remote)
        assert requests == registry.count()


# How often


@pytest.mark.parametrize("attempts", range(1, 7))
@pytest.mark.parametrize("name", OPERATIONS)
def test_attempts_are_bounded(registry: Registry, pauses: list[float], attempts: int, name: str) -> None:
    """The first try is one of the attempts; the error that is raised is that of the last one."""
    registry.fault(Status.error(503, "UNAVAILABLE", "come back later"))
    with pytest.raises(RegistryError, match=r"503 .*" + ("" if name in {"head", "size"} else "come back later")):
        OPERATIONS[name].run(connect(registry, Retry(attempts=attempts)))
    assert (attempts, attempts - 1) == (registry.count(), len(pauses))


def test_there_are_five_attempts_by_default(registry: Registry) -> None:
    """That is what the documentation says."""
    registry.fault(Status(429))
    with pytest.raises(RateLimited):
        get_document(connect(registry))
    assert 5 == registry.count()


@pytest.mark.parametrize("name", BODIES)
def test_attempts_are_not_multiplied(registry: Registry, name: str) -> None:
    """Whether it is the request or its body that fails, the same attempts are used up: five, and not five by five."""
    operation = OPERATIONS[name]
    registry.fault(Status(503), path=operation.path, times=2)
    registry.fault(Cut(0), path=operation.path)
    with pytest.raises(Unreachable):
        operation.run(connect(registry))
    assert 5 == registry.count()


def test_attempts_at_a_token_are_not_multiplied(guarded: Registry) -> None:
    """A token service that is down is asked five times for one request; the registry has said what it wants."""
    guarded.fault(Status(503), path="/token")
    with pytest.raises(RegistryError):
        get_document(connect(guarded))
    assert (5, 1) == (guarded.count(path="/token"), guarded.count(path="/v2/"))


@pytest.mark.parametrize("after", [0, 1, 100, 2000])
def test_little_progress_ends(registry: Registry, after: int) -> None:
    """A registry that sends some bytes and breaks, again and again, does not go on for ever."""
    registry.fault(Cut(after))
    with pytest.raises(Unreachable):
        get_blob(connect(registry))
    assert 5 == registry.count()


def test_progress_gives_attempts_back(registry: Registry, pauses: list[float]) -> None:
    """Sixteen KiB are progress: with two attempts, ten connections may break."""
    registry.fault(Cut(16 * KIB))
    assert DATA == get_blob(connect(registry, Retry(attempts=2, backoff=1)))
    assert 10 == registry.count()
    assert all(0.5 <= pause <= 1 for pause in pauses), "each pause is a first one"


def test_what_arrives_before_a_break_adds_up(registry: Registry) -> None:
    """Four breaks with a quarter of that between them are progress as well, and three are none."""
    registry.fault(Cut(4 * KIB))
    assert DATA == get_blob(connect(registry, Retry(attempts=5)))
    registry.reset()
    with pytest.raises(Unreachable):
        get_blob(connect(registry, Retry(attempts=3)))
    assert 3 == registry.count()


@pytest.mark.parametrize(("after", "heals"), [(16 * KIB, False), (256 * KIB, True)])
def test_stalls_need_more_progress(registry: Registry, after: int, heals: bool) -> None:
    """A time-out costs half a minute: 256 KiB give the attempts back, and not 16."""
    data = random.Random(7).randbytes(4 * after)
    digest = registry.add_blob("x", data).digest
    registry.fault(Stall(after))
    remote = connect(registry, Retry(attempts=2), Timeouts(5, 0.15, 10))
    if heals:
        assert data == remote.fetch(digest).read()
        assert 4 == registry.count()
    else:
        with pytest.raises(DeadlineExceeded):
            remote.fetch(digest).read()
        assert 2 == registry.count()


# After how long


def failed_pauses(registry: Registry, pauses: list[float], retry: Retry, fault: Fault, document: float) -> list[float]:
    """The pauses that were taken until it was given up."""
    registry.clear_faults()
    registry.fault(fault)
    del pauses[:]
    with pytest.raises((RegistryError, RateLimited)):
        get_document(connect(registry, retry, Timeouts(5, 5, document)))
    return list(pauses)


def test_pauses_double(registry: Registry, pauses: list[float]) -> None:
    """Each pause is between half and all of twice the one before, up to the longest."""
    retry = Retry(attempts=9, backoff=1, longest=20)
    taken = failed_pauses(registry, pauses, retry, Status(503), 1000)
    assert 8 == len(taken)
    for full, pause in zip((1, 2, 4, 8, 16, 20, 20, 20), taken, strict=True):
        assert full / 2 <= pause <= full


def test_pauses_are_left_to_chance(registry: Registry, pauses: list[float]) -> None:
    """Clients that were turned away together do not come back together; the chance is between half and all."""
    retry = Retry(attempts=41, backoff=1, longest=1)
    taken = failed_pauses(registry, pauses, retry, Status(503), 1000)
    assert 40 == len(set(taken))
    assert min(taken) < 0.7
    assert max(taken) > 0.8


@pytest.mark.slow
def test_many_attempts_do_not_overflow(registry: Registry, pauses: list[float]) -> None:
    """After two thousand failures the pause is still the longest, and no error of arithmetic."""
    retry = Retry(attempts=1200, backoff=1e-6, longest=0.001)
    assert 1199 == len(failed_pauses(registry, pauses, retry, Status(503), 1000))


def date(seconds: float) -> str:
    """The HTTP date of so many seconds from now."""
    return email.utils.formatdate(time.time() + seconds, usegmt=True)


WAITS: dict[str, tuple[Callable[[], str], float, float]] = {
    "seconds": (lambda: "3", 3, 3),
    "none": (lambda: "0", 0, 0),
    "more than the longest pause": (lambda: "45", 45, 45),
    "a date": (lambda: date(40), 35, 41),
    "a date that is over": (lambda: date(-1000), 0, 0),
    # What says nothing is as if it were not there.
    "negative": (lambda: "-5", 0.125, 0.25),
    "words": (lambda: "soon", 0.125, 0.25),
    "empty": (lambda: "", 0.125, 0.25),
    "a fraction": (lambda: "1.5", 0.125, 0.25),
    "no number": (lambda: "nan", 0.125, 0.25),
    "without end": (lambda: "inf", 0.125, 0.25),
    "a float": (lambda: "1e30", 0.125, 0.25),
    "no date": (lambda: "Mon, 99 Xyz 2024 00:00:00 GMT", 0.125, 0.25),
}


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("text", "least", "most"), WAITS.values(), ids=WAITS)
def test_retry_after(
    registry: Registry, pauses: list[float], status: int, text: Callable[[], str], least: float, most: float
) -> None:
    """The registry's word counts in place of the back-off, in both forms of RFC 9110 section 10.2.3."""
    registry.fault(Status(status, headers={"Retry-After": text()}), times=1)
    assert RAW == get_document(connect(registry, timeouts=Timeouts(5, 5, 60)))
    [pause] = pauses
    assert least <= pause <= most


def test_retry_after_of_a_token_service(guarded: Registry, pauses: list[float]) -> None:
    """It counts there too."""
    guarded.fault(Status(429, headers={"Retry-After": "7"}), path="/token", times=1)
    assert RAW == get_document(connect(guarded))
    assert [7] == pauses


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("text", ["11", "999999999", str(10**30), "9" * 400, "Fri, 31 Dec 9999 23:59:59 GMT"])
def test_a_wait_beyond_the_deadline_is_not_begun(registry: Registry, pauses: list[float], name: str, text: str) -> None:
    """Who has ten seconds is told at once, with the registry's number; a registry keeps nobody waiting for days."""
    registry.fault(Status(429, headers={"Retry-After": text}))
    with pytest.raises(RateLimited) as caught:
        OPERATIONS[name].run(connect(registry))
    assert caught.value.retry_after is not None
    assert caught.value.retry_after >= 11
    assert (1, []) == (registry.count(), pauses)


# A limit to what servers ask for


def test_waits_add_up_to_a_limit(registry: Registry, pauses: list[float]) -> None:
    """Of two waits of 45 seconds while one blob is read, the second does not fit into 60: it fails at once."""
    registry.fault(Status(503, headers={"Retry-After": "45"}))
    with pytest.raises(RegistryError, match="503 Service Unavailable; try again in 45 seconds"):
        get_blob(connect(registry, timeouts=Timeouts(5, 5, 100)))
    assert (2, [45]) == (registry.count(), pauses)


class BusyPages:
    """Each page but the first is asked for twice: the first request gets a 503."""

    def __init__(self) -> None:
        self._asked: set[str] = set()

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Response, or refuse."""
        if "last=" not in request.query or request.query in self._asked:
            return respond(request)
        self._asked.add(request.query)
        return Status(503, headers={"Retry-After": "40"}).answer(request, respond)


def test_waits_of_one_listing_add_up(pauses: list[float]) -> None:
    """All pages of a listing share one limit."""
    with Registry(page_size=1) as registry:
        for number in range(3):
            registry.add_manifest("x", RAW, OCI_MANIFEST, tags=[str(number)])
        registry.fault(BusyPages())
        with pytest.raises(RegistryError, match="try again in 40 seconds"):
            list(connect(registry, timeouts=Timeouts(5, 5, 100)).tags())
    assert [40] == pauses


def test_limit_of_waits_is_a_value(registry: Registry, pauses: list[float]) -> None:
    """`Retry.max_wait` is the limit, and 0 waits for nothing that a server asks for."""
    for max_wait, waited in ((90, [45, 45]), (89, [45]), (0, [])):
        registry.clear_faults()
        registry.fault(Status(503, headers={"Retry-After": "45"}), times=2)
        del pauses[:]
        remote = connect(registry, Retry(max_wait=max_wait), timeouts=Timeouts(5, 5, 100))
        if max_wait == 90:
            assert DATA == get_blob(remote)
        else:
            with pytest.raises(RegistryError):
                get_blob(remote)
        assert waited == pauses


def test_own_pauses_are_not_limited_by_it(registry: Registry, pauses: list[float]) -> None:
    """`max_wait` bounds what servers ask for, and `attempts`, `backoff` and `longest` all other pauses."""
    taken = failed_pauses(registry, pauses, Retry(attempts=9, backoff=1, longest=20, max_wait=1), Status(503), 1000)
    assert 8 == len(taken)


@pytest.mark.parametrize(("seconds", "is_told"), [("2", False), ("3", True), ("45", True)])
def test_long_waits_are_told(registry: Registry, caplog: pytest.LogCaptureFixture, seconds: str, is_told: bool) -> None:
    """A wait of more than two seconds is a warning, which the command line writes to stderr, with its length."""
    registry.fault(Status(429, headers={"Retry-After": seconds}), times=1)
    assert RAW == get_document(connect(registry, timeouts=Timeouts(5, 5, 60)))
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert ([f"waiting {seconds} seconds before the next attempt"] if is_told else []) == [
        text.partition(":")[0] for text in told
    ]


def test_a_back_off_beyond_the_deadline_is_not_begun(registry: Registry, pauses: list[float]) -> None:
    """The same for pauses of our own: what failed is told, rather than a deadline a while later."""
    registry.fault(Status(503))
    with pytest.raises(RegistryError, match="503"):
        get_document(connect(registry, Retry(backoff=30), Timeouts(5, 5, 10)))
    assert (1, []) == (registry.count(), pauses)


def test_tries_share_one_deadline(registry: Registry) -> None:
    """A document that stalls each time is given up when its time is over, not five times later."""
    registry.fault(Stall(None))
    with pytest.raises(DeadlineExceeded):
        get_document(connect(registry, Retry(attempts=50), Timeouts(60, 0.2, 0.7)))
    assert registry.count() <= 5


# The value


@pytest.mark.parametrize("value", [-1, math.nan, -math.inf])
def test_impossible_limit_of_waits_is_refused(value: float) -> None:
    """`max_wait` is a number of seconds, and may be 0."""
    with pytest.raises(InvalidConfig, match="max_wait must be 0 or more"):
        Retry(max_wait=value)
    assert 0 == Retry(max_wait=0).max_wait


@pytest.mark.parametrize("name", ["attempts", "backoff", "longest"])
@pytest.mark.parametrize("value", [0, -1, math.nan, -math.inf])
def test_impossible_numbers_are_refused(name: str, value: float) -> None:
    """The message names the field."""
    fields: dict[str, Any] = {name: value}
    with pytest.raises(InvalidConfig, match=f"{name} must be more than 0"):
        Retry(**fields)


def test_a_policy_is_a_value() -> None:
    """It compares, and takes statuses in any collection."""
    assert Retry() == Retry(5, 0.25, 30) == covering({504, 503, 502, 429})
    assert covering([503, 503]) == covering(frozenset({503})) != covering([])
    assert Retry() != Retry(attempts=4)


def test_a_break_while_it_is_read_by_ranges_of_one_socket(registry: Registry) -> None:
    """The connection that broke is not used again: each try after a reset comes over another one."""
    registry.fault(Cut(20 * KIB, reset=True), times=3)
    assert DATA == get_blob(connect(registry))
    assert 4 == len({request.connection for request in registry.requests})


def test_a_kept_connection_that_the_registry_closed(pauses: list[float]) -> None:
    """A registry may close a connection that idles; the next request goes over a new one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        body = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nContent-Type: %s\r\n\r\n%s"
        answer = body % (len(RAW), OCI_MANIFEST.encode(), RAW)
        counts: list[int] = []

        def serve() -> None:
            for _ in range(2):
                sock, _address = listener.accept()
                with sock:
                    counts.append(len(sock.recv(65536)))
                    sock.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        remote = distsdk.connect(
            f"127.0.0.1:{listener.getsockname()[1]}/x", credentials=Credentials.anonymous(), hosts=Hosts()
        )
        assert [RAW, RAW] == [remote.fetch("1").read() for _ in range(2)]
        thread.join(5)
    assert 2 == len(counts)
    assert len(pauses) <= 1
