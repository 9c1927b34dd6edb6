"""Bodies over TLS: many records in one read, and none of them lost or held back."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest

import distsdk
from distsdk import Digest
from distsdk.testing import Cut, Registry, Stall

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.unit.transport.conftest import Authority

DATA = random.Random(8).randbytes(3 * 1024 * 1024)
RECORD = 16 * 1024


@pytest.fixture
def registry(authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """A registry behind TLS, which is trusted, with a blob."""
    monkeypatch.setenv("DISTSDK_CACERT", str(authority.file))
    with Registry(ssl_context=authority.context) as registry:
        folder = tmp_path / "certs.d" / registry.host
        folder.mkdir(parents=True)
        (folder / "hosts.toml").write_text(f'server = "{registry.url}"\n')
        monkeypatch.setenv("DISTSDK_HOSTS_DIR", str(folder.parent))
        registry.add_blob("x", DATA)
        yield registry


def test_a_chunk_holds_many_records(registry: Registry) -> None:
    """A read takes what has come, not one record of 16 KiB."""
    remote = distsdk.connect(registry.locator("x"))
    chunks = list(remote.fetch(Digest.of(DATA)).stream(connections=1))
    assert b"".join(chunks) == DATA
    assert len(chunks) < len(DATA) / RECORD / 2


def test_what_comes_before_a_stall_is_handed_out(registry: Registry) -> None:
    """Bytes are not held back until a chunk is full."""
    came = 5 * RECORD + 77
    registry.fault(Stall(after=came), path="blobs", times=1)
    remote = distsdk.connect(registry.locator("x"))
    got = b""
    chunks = remote.fetch(Digest.of(DATA)).stream(connections=1)
    while len(got) < came:
        got += next(chunks)
    assert got == DATA[:came]


@pytest.mark.parametrize("reset", [False, True])
def test_a_cut_loses_nothing(registry: Registry, *, reset: bool) -> None:
    """A connection that breaks between two records is gone on with, from where it broke."""
    registry.fault(Cut(after=1_000_000, reset=reset), path="blobs", times=1)
    remote = distsdk.connect(registry.locator("x"))
    assert remote.fetch(Digest.of(DATA)).read() == DATA
