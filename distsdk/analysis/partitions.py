"""Parts of a blob, for those who read one blob in many places."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from distsdk.content.blob import Blob


@frozen
class Partition:
    """A part of a blob. Nothing of it is held: it can be pickled and costs nothing until it is read.

    Attributes:
        blob: What it is a part of.
        offset: Its first byte.
        end: The byte after its last one.
    """

    blob: Blob
    offset: int
    end: int

    @property
    def size(self) -> int:
        """Its bytes."""
        return self.end - self.offset

    def read(self) -> bytes:
        """Return its bytes, in one request. They are unverified: no digest covers them.

        Raises:
            SizeMismatch: The blob ends before.
            DistError: As `Blob.stream`.
        """
        return self.blob.read_range(self.offset, self.end)


def partitions(blob: Blob, size: int) -> list[Partition]:
    """Return the parts of a blob; see `Blob.partitions`."""
    if size < 1:
        message = f"a partition has at least 1 byte, not {size}"
        raise ValueError(message)
    return [Partition(blob, offset, min(offset + size, blob.size)) for offset in range(0, blob.size, size)]
