"""Content sources: the protocols behind a blob, and a source for bytes in memory."""

from __future__ import annotations

import io
from typing import Protocol

from attrs import frozen


@frozen
class Stat:
    """Size and media type of a content source, known without reading it.

    Attributes:
        size: In bytes; None if unknown.
        media_type: None if unknown.
    """

    size: int | None = None
    media_type: str | None = None


class Source(Protocol):
    """Opens the bytes of one blob. A plug-in's `Fetcher` supplies one for each blob.

    A source holds no connection and no open file. Its methods may be called from several threads.

    A source may have a further method ``distrust()``. It is called when the bytes failed verification, and returns
    whether the next request goes to another endpoint, such as a second mirror.
    """

    def open(self, offset: int, end: int | None) -> ByteStream:
        """Open a range of the bytes.

        Args:
            offset: Offset of the first byte, from 0.
            end: Offset after the last byte; None for all bytes. The caller checks that the stream does not end earlier.
        """
        ...

    def stat(self) -> Stat:
        """Return size and media type. May cost a request."""
        ...


@frozen
class MemorySource:
    """A source for bytes in memory."""

    data: bytes

    def open(self, offset: int, end: int | None) -> ByteStream:
        """Open the bytes from ``offset`` up to ``end``."""
        return io.BytesIO(self.data[offset:end])

    def stat(self) -> Stat:
        """Return the size."""
        return Stat(size=len(self.data))


#: Bytes to read from a source at a time. Of 64 KiB to 8 MiB, 2 MiB was the fastest: still in cache when it is hashed.
CHUNK_SIZE = 2 * 1024 * 1024


class ByteStream(Protocol):
    """A stream that `Source.open` returns. Any binary file object is one.

    A stream may have three further members:

    - ``size``, an int or None: bytes of the whole blob, as the server reports. Used for planning, never trusted.
    - ``to_skip``, an int: bytes before the requested range that the first `read` must discard, because the server
      ignored the range. The caller may close the stream instead of reading it.
    - ``shutdown()``: called from another thread, ends a waiting `read` at once, with any result or error. The reading
      thread calls `close` afterwards. Without it, a waiting thread ends after its next byte.
    """

    def read(self, size: int, /) -> bytes:
        """Return at least one byte and at most ``size``, as they arrive; ``b""`` at the end.

        Retries happen inside this method: an error that it raises ends the transfer.

        Args:
            size: Bytes, at least 1.
        """
        ...

    def close(self) -> None:
        """Release the stream's resources; may be called before the end of the stream."""
        ...
