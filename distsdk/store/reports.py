"""What a store tells of its content: values, without I/O."""

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
        digest: What its bytes hashed to when it was committed.
        size: In bytes.
        committed: When, in UTC.
    """

    digest: Digest
    size: int
    committed: datetime = field(eq=False)


@frozen
class Ingested(Info):
    """A blob that was to be ingested, and is there now.

    Attributes:
        existed: It was there before, or somebody else brought it meanwhile: nothing new was kept.
    """

    existed: bool


@frozen
class Active(Displayed):
    """An ingest that has begun and is not committed; whoever began it may be gone.

    Attributes:
        key: What it was begun under; the name of its file where that can no longer be read.
        digest: What the bytes are expected to hash to; None where nobody said.
        offset: Bytes that are here.
        total: Bytes there will be; None where nobody said.
        started: When its last writer began, in UTC.
        updated: When bytes came last, in UTC.
        pid: The process of its last writer, on the machine it ran on.
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
    """What `Store.gc` removed, or would remove.

    Attributes:
        blobs: That no image leads to.
        ingests: That nobody went on with for a day.
    """

    blobs: tuple[Info, ...]
    ingests: tuple[Active, ...]

    @property
    def size(self) -> int:
        """Bytes of all of them."""
        return sum(blob.size for blob in self.blobs) + sum(ingest.offset for ingest in self.ingests)

    def __repr__(self) -> str:
        blobs, ingests = counted(len(self.blobs), "blob"), counted(len(self.ingests), "ingest")
        return f"<Collected {blobs} and {ingests}, {human_size(self.size)}>"


@frozen(repr=False)
class Verified(Displayed):
    """What `Store.verify` found.

    Attributes:
        count: Blobs that were read.
        size: Their bytes.
        damaged: Blobs that were not what their names say. They are out of the way now.
        healed: Those of them that were fetched anew.
    """

    count: int
    size: int
    damaged: tuple[Digest, ...]
    healed: tuple[Digest, ...]

    def __repr__(self) -> str:
        found = f"{counted(self.count, 'blob')}, {human_size(self.size)}"
        return f"<Verified {found}: {len(self.damaged):,} damaged, {len(self.healed):,} of them healed>"
