"""The same cassettes, played by distsdk's own transport: to many threads at once, and in whole folders."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import distsdk
from distsdk.content.protocols import Resolver, TagLister
from distsdk.spec.media_types import DOCKER_MANIFEST

pytestmark = pytest.mark.block_network

CASSETTES = Path(__file__).parents[2] / "cassettes"
LOCATOR = "docker.io/library/redis"
HINT = f"mediatype:{DOCKER_MANIFEST}"
THREADS = 10


def test_ten_threads() -> None:
    """Ten threads on one remote, each asking for everything, each get everything, verified."""
    with distsdk.replay(CASSETTES / "as-in-2017"):
        remote = distsdk.connect(LOCATOR)
    layers = distsdk.Manifest.parse(remote.fetch("latest", HINT).read(), DOCKER_MANIFEST).layers

    def read(number: int) -> str:
        hasher = hashlib.sha256()
        for chunk in remote.fetch(layers[number % len(layers)].digest).stream():
            hasher.update(chunk)
        return f"sha256:{hasher.hexdigest()}"

    with ThreadPoolExecutor(THREADS) as pool:
        digests = list(pool.map(read, range(THREADS * len(layers))))
    assert [str(layer.digest) for layer in layers] * THREADS == digests


def test_all_cassettes_together() -> None:
    """A folder of folders plays as one: what was recorded apart is found side by side."""
    with distsdk.replay(CASSETTES):
        remote = distsdk.connect(LOCATOR)
    manifest = remote.fetch("latest", HINT)
    assert manifest.read() == remote.fetch(manifest.digest).read()
    assert isinstance(remote, TagLister)
    assert isinstance(remote, Resolver)
    assert "7" in set(remote.tags())
    assert remote.resolve("7").digest == remote.fetch("7").digest


def test_what_was_not_recorded() -> None:
    """A request without an answer in the cassette fails as an unreachable registry does, and names the cassette."""
    with distsdk.replay(CASSETTES / "as-in-2017"):
        remote = distsdk.connect(LOCATOR)
    with pytest.raises(distsdk.Unreachable, match=r"as-in-2017'? holds no answer to GET .*/manifests/5\b"):
        remote.fetch("5").read()
