"""One remote for many: threads share its connections, processes share nothing, and a pickle holds no secret."""

from __future__ import annotations

import base64
import json
import multiprocessing
import os
import pickle
import random
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from operator import attrgetter, methodcaller
from typing import TYPE_CHECKING, Any

import pytest

import distsdk
from distsdk import Credentials, Digest, Hosts, Limits, Retry, Timeouts
from distsdk.spec.media_types import OCI_MANIFEST
from distsdk.testing import Cut, Registry
from distsdk.transport.client import KEPT_CONNECTIONS

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distsdk import Remote
    from distsdk.content.blob import Blob
    from tests.unit.transport.conftest import InChild

KIB = 1024
PASSWORD = "s3cret-p4ssword"
RAW = b'{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:%s","size":2},"layers":[]}' % (b"0" * 64)
BLOBS = [random.Random(number).randbytes(100 * KIB + number) for number in range(16)]
DIGESTS = [Digest.of(data) for data in BLOBS]


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry that gives tokens to ann alone, with sixteen blobs and a manifest."""
    with Registry(auth="bearer", logins={"ann": PASSWORD}) as registry:
        registry.add_manifest("x", RAW, OCI_MANIFEST, tags=["1"])
        for data in BLOBS:
            registry.add_blob("x", data)
        yield registry


@pytest.fixture
def credentials(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Credentials:
    """Ann's login, where a process finds it that looks for it."""
    auth = base64.b64encode(f"ann:{PASSWORD}".encode()).decode()
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": {registry.host: {"auth": auth}}}))
    return Credentials.from_environment()


def connect(registry: Registry, credentials: Credentials, folder: Path | None = None) -> Remote:
    """Connect to the repository."""
    remote = distsdk.connect(
        registry.locator("x"),
        credentials=credentials,
        hosts=Hosts(hosts_dir=folder),
        retry=Retry(attempts=7),
        timeouts=Timeouts(5, 5, 10),
        limits=Limits(token=50_000),
    )
    return remote


# Threads


@pytest.mark.slow
def test_threads_share_a_remote(registry: Registry, credentials: Credentials) -> None:
    """Sixteen threads, 256 blobs and as many documents: the right bytes, one token, a connection each."""
    remote = connect(registry, credentials)
    barrier = threading.Barrier(16)

    def work(number: int) -> list[bytes]:
        barrier.wait()
        order = [(number + step) % 16 for step in range(16)]
        got = [remote.fetch(DIGESTS[which]).read() for which in order]
        return [got[order.index(which)] for which in range(16)] + [remote.fetch("1").read() for _ in range(16)]

    with ThreadPoolExecutor(16) as pool:
        assert [BLOBS + [RAW] * 16] * 16 == list(pool.map(work, range(16)))
    answered = [request for request in registry.requests if request.status == 200 and request.path != "/token"]
    assert 512 == len(answered)
    assert 1 == registry.count(path="/token")
    assert len(registry.connections) <= KEPT_CONNECTIONS
    assert 16 * (sum(map(len, BLOBS)) + 16 * len(RAW)) == sum(request.body_bytes_sent for request in answered)


def test_threads_share_a_blob_whose_connections_break(registry: Registry, credentials: Credentials) -> None:
    """Each thread goes on where its own body broke."""
    registry.fault(Cut(30 * KIB), path="/blobs/")
    blob = connect(registry, credentials).fetch(DIGESTS[0], f"size:{len(BLOBS[0])}")
    with ThreadPoolExecutor(16) as pool:
        assert [BLOBS[0]] * 16 == list(pool.map(lambda _: blob.read(), range(16)))
    answered = [request for request in registry.requests if request.status in {200, 206} and "/blobs/" in request.path]
    assert (16 * 4, 16 * len(BLOBS[0])) == (len(answered), sum(request.body_bytes_sent for request in answered))


def test_threads_share_a_reader(registry: Registry, credentials: Credentials) -> None:
    """A file that several threads read from gives each byte to one of them."""
    with connect(registry, credentials).fetch(DIGESTS[3], f"size:{len(BLOBS[3])}").open() as file:

        def work(_: int) -> list[bytes]:
            return list(iter(lambda: file.read(1000), b""))

        with ThreadPoolExecutor(8) as pool:
            parts = [part for found in pool.map(work, range(8)) for part in found]
    expected = [BLOBS[3][start : start + 1000] for start in range(0, len(BLOBS[3]), 1000)]
    assert sorted(expected) == sorted(parts)


# Forks


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_fork_in_the_middle_of_a_blob(registry: Registry, credentials: Credentials, in_child: InChild) -> None:
    """The child reads the same blob over connections of its own, with a token of its own; the parent's body goes on."""
    remote = connect(registry, credentials)
    blob = remote.fetch(DIGESTS[5], f"size:{len(BLOBS[5])}")
    with blob.open() as file:
        start = file.read(1000)
        before = {request.connection for request in registry.requests}

        def work() -> None:
            assert BLOBS[5] == blob.read()
            assert RAW == remote.fetch("1").read()

        in_child(work)()
        childs = {request.connection for request in registry.requests} - before
        known = len(registry.requests)
        assert BLOBS[5] == start + file.read()
        assert "verified" == file.trust
    assert (1, 2) == (len(childs), registry.count(path="/token"))
    after = {request.connection for request in registry.requests[known:]}
    assert after
    assert after.isdisjoint(childs)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_forks_while_threads_read(registry: Registry, credentials: Credentials, in_child: InChild) -> None:
    """Children that are born while sixteen threads are at work hang at none of their locks."""
    remote = connect(registry, credentials)
    done = threading.Event()

    def work(number: int) -> int:
        count = 0
        while not done.is_set():
            assert BLOBS[number] == remote.fetch(DIGESTS[number]).read()
            count += 1
        return count

    def child() -> None:
        assert BLOBS[7] == remote.fetch(DIGESTS[7]).read()

    with ThreadPoolExecutor(16) as pool:
        futures = [pool.submit(work, number) for number in range(16)]
        try:
            while registry.count() < 32:
                time.sleep(0.01)
            for wait in [in_child(child) for _ in range(5)]:
                wait()
        finally:
            done.set()
        assert all(future.result() for future in futures)


# Other processes


@pytest.mark.slow
@pytest.mark.parametrize("method", sorted({"spawn", "forkserver"} & set(multiprocessing.get_all_start_methods())))
def test_other_processes(registry: Registry, credentials: Credentials, method: str) -> None:
    """A remote and a blob that are sent to a new process read there, over its own connections, with its own login."""
    remote = connect(registry, credentials)
    blob = remote.fetch(DIGESTS[0])
    document = remote.fetch("1")
    assert BLOBS[0] == blob.read()
    before = {request.connection for request in registry.requests}
    registry.reset()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        assert BLOBS[0] == pool.submit(methodcaller("read"), blob).result(60)
        assert RAW == pool.submit(methodcaller("read"), document).result(60)
        got: Blob = pool.submit(methodcaller("fetch", "1"), remote).result(60)
        assert (RAW, OCI_MANIFEST) == (got.read(), got.media_type)
        assert remote.locator == pool.submit(attrgetter("locator"), remote).result(60)
    after = {request.connection for request in registry.requests}
    assert after
    assert before.isdisjoint(after)
    tokens = [request for request in registry.requests if request.path == "/token"]
    assert 1 <= len(tokens) <= 2, "remotes that are in use at the same time share one"
    assert all(request.headers.get("Authorization", "").startswith("Basic ") for request in tokens)


# Pickles


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_no_pickle_holds_a_secret(registry: Registry, credentials: Credentials, tmp_path: Path, protocol: int) -> None:
    """Neither login, token, configured header nor their base64 is in the bytes, after all of them were in use."""
    (tmp_path / registry.host).mkdir()
    (tmp_path / registry.host / "hosts.toml").write_text('header = { "X-Key" = "h3ader-secret" }')
    given = Credentials(username="ann", password=PASSWORD)
    for login in (credentials, given):
        registry.reset()
        remote = connect(registry, login, tmp_path)
        blob = remote.fetch(DIGESTS[0])
        assert BLOBS[0] == blob.read()
        tags = remote.tags()
        assert ["1"] == list(tags)
        assert "h3ader-secret" == registry.requests[0].headers["X-Key"]
        secrets = {text.partition(" ")[2] for text in registry.authorizations} | {PASSWORD, "h3ader-secret"}
        assert 4 == len(secrets), "token, login, password, header"
        copied: list[Any] = [remote, blob, tags]
        for value in copied:
            data = pickle.dumps(value, protocol)
            assert not [secret for secret in secrets if secret.encode() in data]
            assert repr(value) == repr(pickle.loads(data))  # noqa: S301 - our own bytes


def test_a_copy_has_the_same_policies(registry: Registry, credentials: Credentials, pauses: list[float]) -> None:
    """Retries, time-outs and limits go along; what was counted at the registry shows it."""
    remote = connect(registry, credentials)
    copy: Remote = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(remote))))  # noqa: S301 - our own bytes
    assert RAW == copy.fetch("1").read()
    registry.reset()
    registry.fault(Cut(None), path="/v2/")
    with pytest.raises(distsdk.Unreachable):
        copy.fetch("1")
    assert (7, 6) == (registry.count(), len(pauses))


def test_a_copy_of_what_was_given_looks_for_a_login_of_its_own(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password that was given does not go along; where none is to be found, the copy is nobody."""
    for variable in ("DOCKER_AUTH_CONFIG", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("REGISTRY_AUTH_FILE", os.devnull)
    remote = connect(registry, Credentials(username="ann", password=PASSWORD))
    assert RAW == remote.fetch("1").read()
    copy: Remote = pickle.loads(pickle.dumps(remote))  # noqa: S301 - our own bytes
    registry.reset()
    with pytest.raises(distsdk.Denied):
        copy.fetch("1")
    assert all(text.startswith("Bearer ") for text in registry.authorizations)
