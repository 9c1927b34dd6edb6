"""Whatever is done to a store, it holds what a dictionary would."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from distsdk import Descriptor, Digest, DigestMismatch, NotFound, Store
from distsdk.content.blob import Blob

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = [b"", b"a", b"bc", b"\0" * 1000]
DIGESTS = [*(Digest.of(data) for data in DATA), Digest.of(b"a", "sha512")]
BYTES = dict(zip(DIGESTS, [*DATA, b"a"], strict=True))
NAMES = ["a", "b:1", "docker.io/library/c:latest"]


class Model(RuleBasedStateMachine):
    """A store beside two dictionaries: bytes by digest, digests by name; and what was begun."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.store = Store(self.folder / "store")
        self.blobs: dict[Digest, bytes] = {}
        self.images: dict[str, Digest] = {}
        self.damaged: set[Digest] = set()
        self.begun: dict[Digest, int] = {}

    def teardown(self) -> None:
        """Leave nothing."""
        shutil.rmtree(self.folder)

    @rule(digest=st.sampled_from(DIGESTS), sized=st.booleans())
    def ingest(self, digest: Digest, sized: bool) -> None:
        """Bring the right bytes."""
        blob = Blob.from_bytes(BYTES[digest], digest=digest)
        got = self.store.ingest(blob, expected_size=len(BYTES[digest]) if sized else None)
        assert got.existed is (digest in self.blobs)
        self.blobs[digest] = BYTES[digest]
        if not got.existed:
            self.begun.pop(digest, None)

    @rule(digest=st.sampled_from(DIGESTS), data=st.sampled_from([b"wrong", b"\0"]))
    def ingest_wrong(self, digest: Digest, data: bytes) -> None:
        """Bring other bytes."""
        if digest in self.blobs:
            assert self.store.ingest([data], expected_digest=digest).existed
            return
        with pytest.raises(DigestMismatch):
            self.store.ingest([data], expected_digest=digest)
        self.begun.pop(digest, None)

    @rule(digest=st.sampled_from(DIGESTS))
    def begin(self, digest: Digest) -> None:
        """Bring the first byte, and no more."""

        def one() -> Iterator[bytes]:
            yield BYTES[digest][:1]
            raise ConnectionError

        if digest not in self.blobs and BYTES[digest]:
            with pytest.raises(ConnectionError):
                self.store.ingest(one(), expected_digest=digest)
            self.begun[digest] = 1

    @rule(digest=st.sampled_from(DIGESTS))
    def delete(self, digest: Digest) -> None:
        """Remove it."""
        if digest in self.blobs:
            self.store.delete(digest)
            del self.blobs[digest]
            self.damaged.discard(digest)
        else:
            with pytest.raises(NotFound):
                self.store.delete(digest)

    @rule(digest=st.sampled_from([digest for digest in DIGESTS if BYTES[digest]]))
    def damage(self, digest: Digest) -> None:
        """Change a byte on the disk."""
        if digest in self.blobs:
            path = self.store.path(digest)
            path.chmod(0o644)
            path.write_bytes(b"!" + BYTES[digest][1:])
            self.damaged.add(digest)

    @rule(heal=st.booleans())
    def verify(self, heal: bool) -> None:
        """Find what was damaged."""
        found = self.store.verify(fetch=(lambda d: Blob.from_bytes(BYTES[d], digest=d)) if heal else None)
        assert (len(self.blobs), self.damaged) == (found.count, set(found.damaged))
        assert set(found.healed) == (self.damaged if heal else set())
        for digest in self.damaged:
            self.begun.pop(digest, None)
            if not heal:
                del self.blobs[digest]
        self.damaged = set()

    @rule(name=st.sampled_from(NAMES), digest=st.sampled_from(DIGESTS))
    def tag(self, name: str, digest: Digest) -> None:
        """Name it."""
        descriptor = Descriptor("application/x-file", digest, len(BYTES[digest]))
        if digest in self.blobs:
            self.store.tag(name, descriptor)
            self.images.pop(name, None)
            self.images[name] = digest
        else:
            with pytest.raises(NotFound):
                self.store.tag(name, descriptor)

    @rule(name=st.sampled_from(NAMES))
    def untag(self, name: str) -> None:
        """Take the name away."""
        if self.images.pop(name, None):
            self.store.untag(name)
        else:
            with pytest.raises(NotFound):
                self.store.untag(name)

    @rule(dry_run=st.booleans())
    def gc(self, dry_run: bool) -> None:
        """Remove what has no name; nothing here leads anywhere."""
        unnamed = self.blobs.keys() - set(self.images.values())
        assert unnamed == {info.digest for info in self.store.gc(dry_run=dry_run).blobs}
        if not dry_run:
            for digest in unnamed:
                del self.blobs[digest]
                self.damaged.discard(digest)

    @rule()
    def another(self) -> None:
        """Go on in another process, as it were."""
        self.store = Store(self.store.root)

    @invariant()
    def holds(self) -> None:
        """What is there is what the dictionaries have."""
        assert self.blobs.keys() == {info.digest for info in self.store.blobs()}
        assert list(self.images.items()) == [(name, found.digest) for name, found in self.store.images().items()]
        assert {str(digest): count for digest, count in self.begun.items()} == {
            active.key: active.offset for active in self.store.active()
        }
        for digest, data in self.blobs.items():
            if digest not in self.damaged:
                assert data == self.store.open(digest).read()


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=20, stateful_step_count=25, suppress_health_check=list(HealthCheck))
