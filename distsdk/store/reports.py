"""Values that a store returns about its content. They do no I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen

from distsdk._repr import Displayed
from distsdk._text import counted, human_size

if TYPE_CHECKING:
    from datetime import datetime

    from distsdk.spec.digest import Digest


@frozen
class Info(Displayed):
    """A blob that a store has.

    Attributes:
        digest: The digest of its bytes, verified at commit.
        size: Its size in bytes.
        committed: The time of the commit, in UTC.
    """

    digest: Digest
    size: int
    committed: datetime = field(eq=False)


@frozen
class Ingested(Info):
    """The result of an ingest: a blob that the store has now.

    Attributes:
        existed: Whether the store had the blob before, or another writer committed it first.
    """

    existed: bool


@frozen
class Active(Displayed):
    """An ingest that is not committed. Its writer may have ended.

    Attributes:
        key: The key passed to `Store.ingest`; the name of its file if the key cannot be read.
        digest: The expected digest; None if unknown.
        offset: Bytes received so far.
        total: The expected size in bytes; None if unknown.
        started: The time at which its last writer began, in UTC.
        updated: The time at which bytes last arrived, in UTC.
        pid: The process ID of its last writer, on that writer's machine; 0 if unknown.
    """

    key: str
    digest: Digest | None
    offset: int
    total: int | None
    started: datetime
    updated: datetime
    pid: int


@frozen(repr=False)
class Collected(Displayed):
    """The content that `Store.gc` removed, or would remove.

    Attributes:
        blobs: Blobs that no image references.
        ingests: Unfinished ingests that received nothing for a day.
    """

    blobs: tuple[Info, ...]
    ingests: tuple[Active, ...]

    @property
    def size(self) -> int:
        """The total size in bytes."""
        return sum(blob.size for blob in self.blobs) + sum(ingest.offset for ingest in self.ingests)

    def __repr__(self) -> str:
        blobs, ingests = counted(len(self.blobs), "blob"), counted(len(self.ingests), "ingest")
        return f"<Collected {blobs} and {ingests}, {human_size(self.size)}>"


@frozen(repr=False)
class Verified(Displayed):
    """The result of `Store.verify`.

    Attributes:
        count: The number of hashed blobs.
        size: Their total size in bytes.
        damaged: Blobs whose bytes do not match their digests, now in quarantine.
        healed: Damaged blobs that were fetched again.
    """

    count: int
    size: int
    damaged: tuple[Digest, ...]
    healed: tuple[Digest, ...]

    def __repr__(self) -> str:
        found = f"{counted(self.count, 'blob')}, {human_size(self.size)}"
        return f"<Verified {found}: {len(self.damaged):,} damaged, {len(self.healed):,} of them healed>"
