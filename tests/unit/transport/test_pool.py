"""What remotes of one host share within a process: connections, tokens, and the pause after a 429."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, cast

import pytest
import requests

import distsdk
from distsdk import Credentials, Denied, Digest, Hosts, RateLimited, Retry, Timeouts
from distsdk.spec.media_types import OCI_MANIFEST
from distsdk.testing import Registry, Status
from distsdk.transport.pool import LONGEST_PAUSE, HostPool, HostPools

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distsdk import Remote

RAW = b'{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:%s","size":2},"layers":[]}' % (b"0" * 64)
DATA = b"data" * 1000


@pytest.fixture
def registry() -> Iterator[Registry]:
    """Three repositories with a manifest and a blob each."""
    with Registry() as registry:
        fill(registry)
        yield registry


@pytest.fixture
def guarded() -> Iterator[Registry]:
    """The same for ann alone, with tokens."""
    with Registry(auth="bearer", logins={"ann": "secret"}) as registry:
        fill(registry)
        yield registry


def fill(registry: Registry) -> None:
    """Put the manifest and the blob into each repository."""
    for repository in ("x", "y", "z"):
        registry.add_manifest(repository, RAW, OCI_MANIFEST, tags=["1"])
        registry.add_blob(repository, DATA)


def connect(registry: Registry, repository: str, **settings: Any) -> Remote:  # noqa: ANN401 - as connect takes them
    """Connect to a repository without looking at this machine's configuration."""
    settings = {"credentials": Credentials.anonymous(), "hosts": Hosts(), **settings}
    return distsdk.connect(registry.locator(repository), **settings)


# Connections


def test_repositories_of_a_host_share_connections(registry: Registry) -> None:
    """Requests one after the other to three repositories go over one connection."""
    remotes = [connect(registry, repository) for repository in "xyz"]
    for remote in remotes * 3:
        assert RAW == remote.fetch("1").read()
        assert DATA == remote.fetch(Digest.of(DATA)).read()
    assert [0] == [connection.number for connection in registry.connections]


def test_remotes_for_others_share_nothing(registry: Registry, tmp_path: Path) -> None:
    """Other logins and other hosts settings have connections of their own."""
    ann = Credentials(username="ann", password="secret")
    (tmp_path / "hosts").mkdir()
    others: list[dict[str, Any]] = [
        {},
        {"credentials": ann},
        {"hosts": Hosts(hosts_dir=tmp_path / "hosts")},
        {"hosts": Hosts(proxies={"https": "http://127.0.0.1:1"})},
        {"session": requests.Session()},
    ]
    remotes = [connect(registry, "x", **settings) for settings in others]
    assert [RAW] * 5 == [remote.fetch("1").read() for remote in remotes]
    assert 5 == len(registry.connections)


def test_a_session_that_is_passed_is_used(registry: Registry) -> None:
    """``session=`` counts more than the pool of the host, and remotes with the same one share its connections."""
    session = requests.Session()
    assert RAW == connect(registry, "x").fetch("1").read()
    remotes = [connect(registry, repository, session=session) for repository in "yz"]
    assert [RAW, RAW] == [remote.fetch("1").read() for remote in remotes]
    assert [0, 1, 1] == [request.connection for request in registry.requests]


def test_threads_make_one_pool() -> None:
    """Threads that ask for the pool of a host at the same time get the same one."""
    pools, barrier = HostPools(), threading.Barrier(16)

    def get(_: int) -> HostPool:
        barrier.wait()
        return pools.get("host", requests.Session)

    with ThreadPoolExecutor(16) as threads:
        assert 1 == len(set(threads.map(get, range(16))))


# Tokens


def test_remotes_of_a_repository_share_tokens(guarded: Registry) -> None:
    """Two remotes with the same login ask for one token for a repository, and for one more for another."""
    ann = Credentials(username="ann", password="secret")
    remotes = [connect(guarded, repository, credentials=ann) for repository in ("x", "x", "y")]
    assert [RAW] * 3 == [remote.fetch("1").read() for remote in remotes]
    assert 2 == guarded.count(path="/token")


def test_a_new_remote_looks_a_refused_login_up_anew(
    guarded: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who logs in after a refusal is let in by the next remote, also while the refused one is still there."""
    file = tmp_path / "auth.json"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(file))
    file.write_text("{}")
    refused = connect(guarded, "x", credentials=Credentials.from_environment())
    with pytest.raises(Denied):
        refused.fetch("1")
    file.write_text(json.dumps({"auths": {guarded.host: {"auth": "YW5uOnNlY3JldA=="}}}))
    assert RAW == connect(guarded, "x", credentials=Credentials.from_environment()).fetch("1").read()


# The pause


@pytest.mark.parametrize("repository", ["x", "y"])
def test_429_pauses_the_host_for_all_remotes(registry: Registry, pauses: list[float], repository: str) -> None:
    """Who asks during a pause waits for its end first, and then asks once."""
    registry.fault(Status(429, headers={"Retry-After": "30"}), times=1)
    first, second = connect(registry, "x"), connect(registry, repository)
    assert RAW == first.fetch("1").read()
    assert [30] == pauses
    assert RAW == second.fetch("1").read()
    assert 25 < pauses[1] <= 30
    assert (2, 3) == (len(pauses), registry.count())


def test_a_pause_beyond_the_limit_fails_without_a_request(registry: Registry, pauses: list[float]) -> None:
    """A pause that does not fit into `Retry.max_wait` or the deadline is an error at once, as without attempts."""
    registry.fault(Status(429, headers={"Retry-After": "30"}), times=1)
    first = connect(registry, "x", retry=Retry(attempts=1))
    with pytest.raises(RateLimited):
        first.fetch("1")
    for settings in (
        {"retry": Retry(max_wait=20)},
        {"retry": Retry(attempts=1)},
        {"retry": Retry(statuses=cast("Any", {503}))},
        {"timeouts": Timeouts(document=20)},
    ):
        with pytest.raises(RateLimited, match=r"requested a pause \(429\); try again in (2\d|30) seconds"):
            connect(registry, "y", **settings).fetch("1")
    assert ([], 1) == (pauses, registry.count())


def test_a_pause_of_one_user_is_none_of_another(registry: Registry, pauses: list[float]) -> None:
    """A registry limits by login: other credentials and another host are asked at once."""
    registry.fault(Status(429, headers={"Retry-After": "30"}), times=1)
    with Registry(content_of=registry) as other:
        limited = connect(registry, "x", retry=Retry(attempts=1))
        with pytest.raises(RateLimited):
            limited.fetch("1")
        ann = Credentials(username="ann", password="secret")
        assert RAW == connect(registry, "x", credentials=ann).fetch("1").read()
        assert RAW == connect(other, "x").fetch("1").read()
    assert [] == pauses


def test_503_pauses_nobody_else(registry: Registry, pauses: list[float]) -> None:
    """A 503 is about one request."""
    registry.fault(Status(503, headers={"Retry-After": "30"}), times=1)
    first, second = connect(registry, "x"), connect(registry, "y")
    assert [RAW, RAW] == [first.fetch("1").read(), second.fetch("1").read()]
    assert [30] == pauses


def test_a_pause_of_days_ends_after_a_minute() -> None:
    """After `LONGEST_PAUSE` a request learns whether the host's word still holds."""
    pool = HostPool(requests.Session())
    assert pool.pause(99999999)
    assert LONGEST_PAUSE - 10 < pool.paused() <= LONGEST_PAUSE
    assert not pool.pause(1)
