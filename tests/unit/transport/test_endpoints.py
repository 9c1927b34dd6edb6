"""Mirrors and the registry itself: who is asked for what, in which order, how often, and who gets which login."""

from __future__ import annotations

import base64
import json
import logging
import random
import re
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING

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
    NotFound,
    RegistryError,
    SizeMismatch,
    Unreachable,
)
from distsdk.spec.media_types import OCI_MANIFEST
from distsdk.testing import Cut, Drip, Fault, Registry, Short, Stall, Status, WrongBytes
from distsdk.transport import endpoints
from distsdk.transport.endpoints import REST

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distsdk import Remote

KIB = 1024
DATA = random.Random(10).randbytes(300 * KIB)
RAW = b'{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:%s","size":2},"layers":[]}' % (b"0" * 64)
BLOB, MANIFEST = Digest.of(DATA), Digest.of(RAW)
PULL = 'capabilities = ["pull"]'


@frozen
class House:
    """A registry with two mirrors that hold the same.

    Attributes:
        folder: Where hosts are configured.
        upstream: The registry.
        first: The mirror that is asked first.
        second: The mirror that is asked next.
    """

    folder: Path
    upstream: Registry
    first: Registry
    second: Registry

    def write(self, *tables: str, top: str = "") -> None:
        """Configure the registry's host: what is said of it, then the tables of its mirrors."""
        folder = self.folder / self.upstream.host
        folder.mkdir(exist_ok=True)
        (folder / "hosts.toml").write_text("\n".join([top, *tables]))

    def mirrors(self, *, first: str = PULL, second: str = PULL, top: str = "") -> None:
        """Configure both mirrors."""
        self.write(table(self.first, first), table(self.second, second), top=top)

    def connect(
        self,
        credentials: Credentials | None = None,
        attempts: int = 5,
        timeouts: Timeouts = Timeouts(5, 0.3, 10),  # noqa: B008 - frozen
    ) -> Remote:
        """Connect to the repository, with what is configured by now."""
        remote = distsdk.connect(
            self.upstream.locator("x"),
            credentials=credentials or Credentials.anonymous(),
            hosts=Hosts(hosts_dir=self.folder),
            retry=Retry(attempts=attempts),
            timeouts=timeouts,
        )
        return remote

    @property
    def counts(self) -> tuple[int, int, int]:
        """How many requests came to the mirrors, in order, and to the registry."""
        return self.first.count(), self.second.count(), self.upstream.count()

    def reset(self) -> None:
        """Forget what was asked."""
        for registry in (self.first, self.second, self.upstream):
            registry.reset()


def table(registry: Registry, fields: str = PULL) -> str:
    """The table of a mirror."""
    return f'[host."{registry.url}"]\n{fields}'


def blob(remote: Remote) -> bytes:
    """Read the blob, its size known."""
    return remote.fetch(BLOB, f"size:{len(DATA)}").read()


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    """A registry with two mirrors that may pull."""
    with Registry() as upstream, Registry(content_of=upstream) as first, Registry(content_of=upstream) as second:
        upstream.add_blob("x", DATA)
        upstream.add_manifest("x", RAW, OCI_MANIFEST, tags=["1"])
        house = House(tmp_path, upstream, first, second)
        house.mirrors()
        yield house


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list whose one number is how many seconds the clock of the endpoints is ahead."""
    ahead = [0.0]
    monkeypatch.setattr(endpoints, "time", SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0]))
    return ahead


# Order


def test_the_first_mirror_serves(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """Who is named first is asked first, and nobody else; the log says who it was."""
    caplog.set_level(logging.INFO, "distsdk")
    assert DATA == blob(house.connect())
    assert (1, 0, 0) == house.counts
    assert f"served by {house.first.url}" in caplog.messages


def test_the_order_is_that_of_the_file(house: House) -> None:
    """The other way round it is the other one."""
    house.write(table(house.second), table(house.first))
    assert DATA == blob(house.connect())
    assert (0, 1, 0) == house.counts


def test_the_plan_is_shown(house: House) -> None:
    """A remote's repr names the endpoints in the order in which they are asked."""
    shown = repr(house.connect())
    assert [house.first.url, house.second.url, house.upstream.url] == re.findall(r"http://127.0.0.1:\d+", shown)


#: What a mirror does instead of serving a blob, and how many requests it gets for it: a 404 is looked for among
#: manifests too.
FAILURES: dict[str, tuple[Fault, int]] = {
    "401": (Status(401), 1),
    "403": (Status.error(403, "DENIED"), 1),
    "404": (Status(404), 2),
    "429": (Status(429, headers={"Retry-After": "0"}), 1),
    "500": (Status(500), 1),
    "503": (Status(503), 1),
    "hangs up": (Cut(None), 1),
    "resets": (Cut(None, reset=True), 1),
    "says nothing": (Stall(None), 1),
}


@pytest.mark.parametrize(("fault", "requests"), FAILURES.values(), ids=FAILURES)
def test_a_mirror_that_does_not_serve_is_passed_over(
    house: House, pauses: list[float], caplog: pytest.LogCaptureFixture, fault: Fault, requests: int
) -> None:
    """It has one attempt, without a pause; then the next one is asked. The log says why."""
    caplog.set_level(logging.INFO, "distsdk")
    house.first.fault(fault)
    assert DATA == blob(house.connect())
    assert (requests, 1, 0) == house.counts
    assert [] == pauses
    assert any(text.startswith(f"{house.first.url} failed: ") for text in caplog.messages)
    assert f"served by {house.second.url}" in caplog.messages


@pytest.mark.parametrize(("fault", "requests"), FAILURES.values(), ids=FAILURES)
def test_the_registry_itself_comes_last(house: House, fault: Fault, requests: int) -> None:
    """Where no mirror serves, documents and sizes come from the registry as well as blobs."""
    for mirror in (house.first, house.second):
        mirror.fault(fault)
    assert RAW == house.connect().fetch(MANIFEST, f"mediatype:{OCI_MANIFEST}").read()
    assert (requests, requests, 1) == house.counts
    house.reset()
    assert len(DATA) == house.connect().fetch(BLOB).size
    assert (requests, requests, 1) == house.counts


def test_a_mirror_that_refuses_connections_is_passed_over(house: House) -> None:
    """Nobody listens there."""
    with Registry() as gone:
        pass
    house.write(table(gone), table(house.second))
    assert DATA == blob(house.connect())
    assert (0, 1, 0) == house.counts


def test_the_last_one_has_all_attempts(house: House, pauses: list[float]) -> None:
    """What is temporary is tried again at the registry itself, and nowhere else."""
    for registry in (house.first, house.second, house.upstream):
        registry.fault(Status(503))
    with pytest.raises(RegistryError, match="503") as caught:
        blob(house.connect(attempts=4))
    assert house.upstream.host in str(caught.value)
    assert (1, 1, 4) == house.counts
    assert 3 == len(pauses)


def test_where_all_fail_the_log_names_each(house: House, caplog: pytest.LogCaptureFixture) -> None:
    """The error is the registry's; what the mirrors said can be read in the log."""
    caplog.set_level(logging.INFO, "distsdk")
    house.first.fault(Status(500))
    house.second.fault(Status(403))
    house.upstream.fault(Status(404))
    with pytest.raises(NotFound, match=house.upstream.host):
        blob(house.connect())
    told = [text for text in caplog.messages if "; trying the next endpoint" in text]
    assert [house.first.url, house.second.url] == [text.split()[0] for text in told]
    assert ["500", "403"] == re.findall(r"\b(500|403)\b", " ".join(told))


def test_the_host_itself_may_be_replaced(house: House) -> None:
    """`server` is asked last, in place of the host."""
    house.write(table(house.first), top=f'server = "{house.second.url}"')
    house.first.fault(Status(500))
    assert DATA == blob(house.connect())
    assert (1, 1, 0) == house.counts
    assert {f"ns={house.upstream.host.replace(':', '%3A')}"} == {r.query for r in house.second.requests}


# Rest

UNREACHABLE = {name: FAILURES[name][0] for name in ("hangs up", "resets", "says nothing")}


@pytest.mark.parametrize("fault", UNREACHABLE.values(), ids=UNREACHABLE)
def test_a_mirror_that_cannot_be_reached_rests(house: House, clock: list[float], fault: Fault) -> None:
    """For half a minute nobody waits for it again; then it is asked again, whether it is back or not."""
    house.first.fault(fault, times=2)
    remote = house.connect()
    for ahead, counts in [
        (0, (1, 1, 0)),
        (0, (0, 1, 0)),
        (REST - 5, (0, 1, 0)),
        (REST + 1, (1, 1, 0)),
        (REST + 1, (0, 1, 0)),
        (2 * REST + 5, (1, 0, 0)),
        (2 * REST + 5, (1, 0, 0)),
    ]:
        clock[0] = ahead
        house.reset()
        assert DATA == blob(remote)
        assert counts == house.counts, f"after {ahead} seconds"


def test_a_mirror_that_answers_does_not_rest(house: House) -> None:
    """That it has one thing not says nothing about the next."""
    remote = house.connect()
    for name, (fault, _) in FAILURES.items():
        if name in UNREACHABLE:
            continue
        house.reset()
        house.first.clear_faults()
        house.first.fault(fault, times=2)
        blob(remote)
        house.first.clear_faults()
        assert DATA == blob(remote)
        assert (1, 0) == (house.second.count(), house.upstream.count()), name


def test_slow_mirror_is_passed_over(house: House) -> None:
    """A blob that arrives below the least speed is resumed at the next mirror."""
    house.first.fault(Drip(size=10_000, seconds=0.05))
    remote = house.connect(timeouts=Timeouts(5, 5, 10, min_speed=500_000, min_speed_over=0.5))
    assert DATA == blob(remote)
    assert (1, 1, 0) == house.counts


def test_mirror_is_passed_over_during_its_pause(house: House, pauses: list[float]) -> None:
    """A mirror that answers 429 gets no request for as long as it asks, and nobody waits for it."""
    house.first.fault(Status(429, headers={"Retry-After": "30"}), times=1)
    remotes = [house.connect(), house.connect()]
    assert [DATA, DATA] == [blob(remote) for remote in remotes]
    assert ((1, 2, 0), []) == (house.counts, pauses)


def test_the_last_one_never_rests(house: House) -> None:
    """There is nobody else to ask."""
    house.write()
    house.upstream.fault(Cut(None), times=1)
    remote = house.connect(attempts=1)
    with pytest.raises(Unreachable):
        blob(remote)
    assert DATA == blob(remote)


def test_one_connection_rests_for_all_threads_and_for_no_other_remote(house: House) -> None:
    """A remote knows who rests; another one finds out for itself."""
    house.first.fault(Cut(None))
    remote = house.connect()
    blob(remote)
    blob(remote)
    blob(house.connect())
    assert (2, 3, 0) == house.counts


# Trust


def test_a_tag_is_resolved_by_who_may(house: House) -> None:
    """A mirror that may pull is not asked what a tag means, by no way of asking, nor for the list of tags."""
    remote = house.connect()
    assert RAW == remote.fetch("1").read()
    assert MANIFEST == remote.resolve("1").digest
    assert ["1"] == list(remote.tags())
    assert (0, 0, 3) == house.counts
    assert RAW == remote.fetch(f"1@{MANIFEST}").read()
    assert MANIFEST == remote.resolve(MANIFEST).digest
    assert 3 == house.upstream.count()


def test_a_mirror_may_be_trusted_with_tags(house: House) -> None:
    """With `resolve`, or where nothing is said, it is asked like the registry."""
    for fields in ('capabilities = ["pull", "resolve"]', ""):
        house.reset()
        house.mirrors(second=fields)
        remote = house.connect()
        assert RAW == remote.fetch("1").read()
        assert MANIFEST == remote.resolve("1").digest
        assert ["1"] == list(remote.tags())
        assert (0, 3, 0) == house.counts


def test_a_tag_that_a_mirror_lacks_is_the_registrys(house: House) -> None:
    """A mirror that is behind leads on."""
    house.mirrors(second="")
    house.second.fault(Status(404))
    assert RAW == house.connect().fetch("1").read()
    assert (0, 1, 1) == house.counts


def test_who_may_not_pull_is_not_asked(house: House) -> None:
    """A mirror for tags alone serves no blob; where nobody may, that is said, and nobody is asked."""
    house.mirrors(first='capabilities = ["resolve"]', top=PULL)
    remote = house.connect()
    assert DATA == blob(remote)
    assert RAW == remote.fetch("1").read()
    assert (1, 1, 0) == house.counts
    house.mirrors(top=PULL)
    house.reset()
    with pytest.raises(
        InvalidConfig, match=rf"no endpoint of {house.upstream.host} has the capability .resolve.: see .*hosts\.toml"
    ):
        house.connect().fetch("1")
    assert (0, 0, 0) == house.counts


def test_mirrors_are_told_whom_they_stand_for(house: House) -> None:
    """Each request to a mirror has `ns`, besides what else is in its query; the registry's own have none."""
    house.mirrors(second="")
    remote = house.connect()
    house.first.fault(Status(500))
    blob(remote)
    list(remote.tags())
    house.second.fault(Status(500))
    blob(remote)
    host = house.upstream.host.replace(":", "%3A")
    assert [f"ns={host}", f"ns={host}"] == [request.query for request in house.first.requests]
    queries = [sorted(request.query.split("&")) for request in house.second.requests]
    assert [[f"ns={host}"], ["n=1000", f"ns={host}"], [f"ns={host}"]] == queries
    assert [""] == [request.query for request in house.upstream.requests]


#: What a mirror gives instead of a blob's bytes, and what those are when nobody has others.
LIES: list[tuple[Fault, type[DistError]]] = [(WrongBytes(200_000), DigestMismatch), (Short(1), SizeMismatch)]


@pytest.mark.parametrize(("fault", "error"), LIES, ids=repr)
def test_a_mirror_that_lies_is_found_out(house: House, fault: Fault, error: type[DistError]) -> None:
    """A stream of wrong bytes ends with an error like anybody's; then the mirror is passed over."""
    house.first.fault(fault)
    remote = house.connect()
    wanted = remote.fetch(BLOB, f"size:{len(DATA)}")
    with pytest.raises(error):
        list(wanted.stream())
    assert (1, 0, 0) == house.counts
    assert DATA == b"".join(wanted.stream())
    assert (1, 1, 0) == house.counts
    assert DATA == blob(remote)
    assert (1, 2, 0) == house.counts


@pytest.mark.parametrize("size", [True, False], ids=["sized", "unsized"])
@pytest.mark.parametrize("fault", [fault for fault, _ in LIES], ids=repr)
def test_nobody_suffers_from_a_mirror_that_lies(house: House, tmp_path: Path, fault: Fault, size: bool) -> None:
    """Where nothing was handed out yet, the next endpoint is asked for all of it."""
    hints = [f"size:{len(DATA)}"] if size else []
    house.first.fault(fault)
    house.second.fault(fault)
    assert DATA == house.connect().fetch(BLOB, *hints).read()
    target = house.connect().fetch(BLOB, *hints).save(tmp_path / "blob")
    assert DATA == target.read_bytes()
    target = house.connect().fetch(BLOB, *hints).save(tmp_path / "resumed", resume=True, connections=3)
    assert DATA == target.read_bytes()


@pytest.mark.parametrize(("fault", "error"), LIES, ids=repr)
def test_where_all_lie_each_is_asked_once(house: House, tmp_path: Path, fault: Fault, error: type[DistError]) -> None:
    """There is an end to it, and no file."""
    for registry in (house.first, house.second, house.upstream):
        registry.fault(fault)
    with pytest.raises(error):
        house.connect().fetch(BLOB, f"size:{len(DATA)}").save(tmp_path / "blob")
    assert (1, 1, 1) == house.counts
    assert not (tmp_path / "blob").exists()


def test_a_reader_finds_a_mirror_out(house: House) -> None:
    """The read that reaches the end fails, as it must; the next reader reads from the next endpoint."""
    house.first.fault(WrongBytes(200_000))
    wanted = house.connect().fetch(BLOB, f"size:{len(DATA)}")
    with wanted.open() as file, pytest.raises(DigestMismatch):
        file.read()
    with wanted.open() as file:
        assert DATA == file.read()
        assert "verified" == file.trust


def test_a_document_that_a_mirror_changed_is_found_out(house: House) -> None:
    """A manifest is held against its digest before anybody sees it, and the next endpoint is asked for it."""
    house.first.fault(WrongBytes(3))
    remote = house.connect()
    assert RAW == remote.fetch(MANIFEST, f"mediatype:{OCI_MANIFEST}").read()
    assert RAW == remote.fetch(MANIFEST, f"mediatype:{OCI_MANIFEST}").read()
    assert (1, 2, 0) == house.counts
    house.second.fault(WrongBytes(3))
    house.upstream.fault(WrongBytes(3))
    with pytest.raises(DigestMismatch) as caught:
        house.connect().fetch(MANIFEST, f"mediatype:{OCI_MANIFEST}")
    assert (str(MANIFEST), True) == (caught.value.expected, house.upstream.host in str(caught.value))


# In the middle


def test_a_blob_that_breaks_at_a_mirror_goes_on_there(house: House) -> None:
    """A break is no reason to go elsewhere."""
    house.first.fault(Cut(100 * KIB), times=1)
    assert DATA == blob(house.connect())
    assert (2, 0, 0) == house.counts
    assert len(DATA) == house.first.bytes_sent


@pytest.mark.parametrize("status", [404, 403, 503])
def test_a_blob_that_breaks_for_good_at_a_mirror_goes_on_elsewhere(house: House, status: int) -> None:
    """What the mirror gave is kept: the next one, and after it the registry, are asked for the rest."""
    house.first.fault(Cut(100 * KIB), times=1)
    house.second.fault(Cut(100 * KIB), times=1)
    chunks = house.connect().fetch(BLOB, f"size:{len(DATA)}").stream()
    taken = next(chunks)
    house.first.fault(Status(status))
    while not house.second.count():
        taken += next(chunks)
    house.second.fault(Status(status))
    assert DATA == taken + b"".join(chunks)
    last = len(DATA) - 1
    for registry, start in ((house.first, 0), (house.second, 100 * KIB), (house.upstream, 200 * KIB)):
        assert (f"bytes={start}-{last}" if start else None) == registry.requests[0].headers.get("Range")
    assert 100 * KIB == house.upstream.bytes_sent
    assert len(DATA) == sum(registry.bytes_sent for registry in (house.first, house.second, house.upstream))


# Logins


def authorization(user: str, password: str) -> str:
    """What a client sends for a login."""
    return f"Basic {base64.b64encode(f'{user}:{password}'.encode()).decode()}"


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[House]:
    """A registry with a mirror that each want a login of their own, and a second mirror that wants none."""
    with (
        Registry(auth="basic", logins={"ann": "upstream-secret"}) as upstream,
        Registry(auth="basic", logins={"bob": "mirror-secret"}, content_of=upstream) as first,
        Registry(content_of=upstream) as second,
    ):
        upstream.add_blob("x", DATA)
        upstream.add_manifest("x", RAW, OCI_MANIFEST, tags=["1"])
        house = House(tmp_path, upstream, first, second)
        house.write(table(first))
        yield house


def looked_up(monkeypatch: pytest.MonkeyPatch, **logins: tuple[str, str]) -> Credentials:
    """The logins of hosts, found in the environment."""
    auths = {
        host: {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}
        for host, (user, password) in logins.items()
    }
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": auths}))
    return Credentials.from_environment()


def test_each_endpoint_gets_its_own_login(guarded: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mirror's login goes to the mirror, the registry's to the registry, in the same transfer."""
    logins = {guarded.upstream.host: ("ann", "upstream-secret"), guarded.first.host: ("bob", "mirror-secret")}
    remote = guarded.connect(looked_up(monkeypatch, **logins))
    assert RAW == remote.fetch("1").read()
    assert DATA == blob(remote)
    assert [authorization("ann", "upstream-secret")] == guarded.upstream.authorizations
    assert [authorization("bob", "mirror-secret")] == guarded.first.authorizations


def test_a_mirror_does_not_get_the_registrys_login(guarded: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """A login that is given, or found under the registry's name, is the registry's; a mirror's 401 leads on to it."""
    given = Credentials(username="ann", password="upstream-secret")
    found = looked_up(monkeypatch, **{guarded.upstream.host: ("ann", "upstream-secret")})
    for credentials in (given, found):
        guarded.reset()
        assert DATA == blob(guarded.connect(credentials))
        assert [] == guarded.first.authorizations
        assert [authorization("ann", "upstream-secret")] == guarded.upstream.authorizations
        assert (1, 0, 2) == guarded.counts


def test_the_registry_does_not_get_a_mirrors_login(guarded: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither does it go the other way."""
    credentials = looked_up(monkeypatch, **{guarded.first.host: ("bob", "mirror-secret")})
    remote = guarded.connect(credentials)
    with pytest.raises(Denied):
        remote.fetch("1")
    assert DATA == blob(remote)
    assert ([authorization("bob", "mirror-secret")], []) == (
        guarded.first.authorizations,
        guarded.upstream.authorizations,
    )


def test_a_mirrors_token_service_is_not_the_registrys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`realms` are the registry's: the same token service, named by a mirror, gets no login from anybody."""
    with (
        Registry(auth="bearer", logins={"ann": "secret", "bob": "secret"}, private="^none$") as service,
        Registry(auth="bearer", token_service=service) as upstream,
        Registry(auth="bearer", token_service=service, content_of=upstream) as first,
        Registry() as second,
    ):
        upstream.add_blob("x", DATA)
        house = House(tmp_path, upstream, first, second)
        house.write(table(first), top=f'realms = ["{service.url}"]')
        logins = {upstream.host: ("ann", "secret"), first.host: ("bob", "secret")}
        remote = house.connect(looked_up(monkeypatch, **logins))
        assert DATA == blob(remote)
        assert ([], 1) == (service.authorizations, service.count())
        first.fault(Status(500))
        assert DATA == blob(remote)
        assert [authorization("ann", "secret")] == service.authorizations
        assert all(text.startswith("Bearer ") for text in first.authorizations + upstream.authorizations)


def test_headers_of_an_endpoint_go_nowhere_else(house: House) -> None:
    """A header that is configured for a mirror comes there with each request, and to nobody else."""
    house.mirrors(first=f'{PULL}\nheader = {{ "X-Key" = "planted" }}', top='header = { "X-Own" = "mine" }')
    house.first.fault(Cut(100 * KIB), times=1)
    remote = house.connect()
    blob(remote)
    remote.fetch("1")
    house.first.fault(Status(500))
    blob(remote)
    sent = [
        [(request.headers.get("X-Key"), request.headers.get("X-Own")) for request in registry.requests]
        for registry in (house.first, house.second, house.upstream)
    ]
    assert [[("planted", None)] * 3, [(None, None)], [(None, "mine")]] == sent


def test_a_mirror_that_stalls_costs_its_read_time_out_once(house: House) -> None:
    """The rest of a listing of ten blobs does not wait for it."""
    house.mirrors(second='capabilities = ["resolve"]')
    house.first.fault(Stall(None))
    remote = house.connect()
    assert [DATA] * 10 == [blob(remote) for _ in range(10)]
    assert (1, 0, 10) == house.counts


@pytest.mark.slow
def test_a_stall_at_the_last_one_is_told(house: House) -> None:
    """What the caller hears is the registry's silence."""
    for registry in (house.first, house.second, house.upstream):
        registry.fault(Stall(None))
    with pytest.raises(DeadlineExceeded, match=house.upstream.host):
        blob(house.connect(attempts=1))
    assert (1, 1, 1) == house.counts
