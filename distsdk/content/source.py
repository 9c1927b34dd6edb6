"""Where a blob's bytes come from: the protocols, and bytes in memory."""

from __future__ import annotations

import io
from typing import Protocol

from attrs import frozen


@frozen
class Stat:
    """What a source knows about its bytes without reading them.

    Attributes:
        size: In bytes; None where even the source cannot say.
        media_type: None where the source cannot say.
    """

    size: int | None = None
    media_type: str | None = None


class Source(Protocol):
    """Where the bytes of a blob come from: the one thing a remote has to write for its blobs.

    A source holds no connection and no open file; it may be asked from several threads.

    One more method is used where a source has it: ``distrust()`` is called when the bytes were not those asked for, and
    returns whether others may come now, because somebody else will be asked.
    """

    def open(self, offset: int, end: int | None) -> ByteStream:
        """Start to read.

        Args:
            offset: The first byte wanted, from 0.
            end: The byte after the last one wanted; None for all there is. A stream that ends earlier is reported as an
                error by whoever reads it.
        """
        ...

    def stat(self) -> Stat:
        """Tell size and media type; this may cost a request."""
        ...


@frozen
class MemorySource:
    """A source over bytes that are here already."""

    data: bytes

    def open(self, offset: int, end: int | None) -> ByteStream:
        """Open the bytes from ``offset`` up to ``end``."""
        return io.BytesIO(self.data[offset:end])

    def stat(self) -> Stat:
        """Return the size."""
        return Stat(size=len(self.data))


#: Bytes asked of a source at a time: of 64 KiB to 8 MiB, 2 MiB was the fastest (still in cache when it is hashed).
CHUNK_SIZE = 2 * 1024 * 1024


class ByteStream(Protocol):
    """What a `Source` opens. Any binary file will do.

    Three more things are used where a stream has them:

    - ``size``, an int or None: bytes of the whole blob, as the other side tells. It is used to plan, not believed.
    - ``to_skip``, an int: bytes before the wanted ones that the first `read` has to pass over, since the other side
      ignored the range. Whoever can do without closes the stream instead of reading it.
    - ``shutdown()``: called from another thread, it makes a `read` that waits end at once, in any way; the thread that
      reads calls `close` then. Without it, a thread that waits ends with its next byte.
    """

    def read(self, size: int, /) -> bytes:
        """Return at least one byte and at most ``size``, as they arrive; ``b""`` at the end.

        What breaks is mended in here as far as it can be: an error that is raised ends the transfer.
        """
        ...

    def close(self) -> None:
        """Let go of what the stream holds; also in the middle."""
        ...
