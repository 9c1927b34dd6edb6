"""The file object that `Blob.open` returns."""

from __future__ import annotations

import io
import os
import threading
from typing import TYPE_CHECKING, Literal

from distsdk._repr import Displayed
from distsdk.content.source import CHUNK_SIZE, ByteStream, MemorySource, Source
from distsdk.content.verifier import digest_mismatch
from distsdk.errors import SizeMismatch, Unsafe
from distsdk.spec.digest import Digest

if TYPE_CHECKING:
    import hashlib

    from _typeshed import WriteableBuffer

    from distsdk.content.blob import Blob


#: Bytes of a reader's first range. Each range that continues the one before is twice as long: a whole blob takes a
#: logarithmic number of requests, and a read at its end takes one small request.
FIRST_RANGE = 64 * 1024


#: Bytes up to which a seek forward reads and discards: cheaper than a new request.
SKIP_RATHER_THAN_ASK = 128 * 1024


Trust = Literal["verified", "chunk-verified", "unverified"]


class BlobReader(Displayed, io.BufferedIOBase):
    """A blob opened as a binary file: `read`, `seek`, `tell`, in constant memory.

    Bytes are requested in closed ranges that double while reading continues forward. Bytes read from front to back are
    hashed, and the read that reaches the end raises if the digest is wrong.

    Attributes:
        blob: The blob being read.
        trust: ``verified`` once the whole digest was checked, ``unverified`` before. (``chunk-verified`` is for formats
            whose table of contents has a digest for each chunk.)
    """

    def __init__(self, blob: Blob, source: Source, *, strict: bool = False) -> None:
        """Use `Blob.open`."""
        self.blob = blob
        self.trust: Trust = "verified" if isinstance(source, MemorySource) else "unverified"
        self._source = source
        self._strict = strict
        self._position = 0
        self._hasher = blob.digest.hasher()
        self._hashed = 0
        self._judged = False
        self._reread = False
        self._stream: ByteStream | None = None
        self._pid = os.getpid()
        self._stream_at = 0  # where the next byte of the stream belongs
        self._stream_end = -1
        self._range = FIRST_RANGE
        self._lock = threading.RLock()

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in bytes."""
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move the position. No request is sent, except for an unknown size if ``whence`` is `io.SEEK_END`.

        Args:
            offset: In bytes.
            whence: `io.SEEK_SET`, `io.SEEK_CUR` or `io.SEEK_END`.

        Raises:
            ValueError: ``whence`` is another value, the position would be negative, or the reader is closed.
        """
        self._check_open()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position}.get(whence)
        if base is None:
            if whence != io.SEEK_END:
                message = f"whence must be 0, 1 or 2, not {whence}"
                raise ValueError(message)
            base = self.blob.size
        if base + offset < 0:
            message = f"negative position {base + offset}"
            raise ValueError(message)
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return ``size`` bytes, fewer only at the end.

        Args:
            size: In bytes; negative or None for all remaining bytes.

        Raises:
            DigestMismatch: The read reached the end, and the bytes read from front to back have another digest.
            SizeMismatch: The source ended early.
            Unsafe: The reader is strict and the read is out of order.
            DistError: As `Blob.stream`.
        """
        with self._lock:
            self._check_open()
            left = max(0, self.blob.size - self._position)
            wanted = left if size is None or size < 0 else min(size, left)
            if wanted == left == 0:
                self._verify_if_whole()
            parts, before = [], self._state()
            try:
                while wanted:
                    part = self._read_some(wanted, whole_request=True)
                    parts.append(part)
                    wanted -= len(part)
            except BaseException:
                # No bytes are returned: restore the state before the read.
                self._position, self._hasher, self._hashed, self._judged, self._reread, self.trust = before
                self._drop_stream()
                raise
            return parts[0] if len(parts) == 1 else b"".join(parts)

    def read1(self, size: int = -1, /) -> bytes:
        """Return at least one byte unless at the end, with one read of the source.

        Args:
            size: Bytes at most; negative for up to 2 MiB.

        Raises:
            DistError: As `read`.
        """
        with self._lock:
            self._check_open()
            left = max(0, self.blob.size - self._position)
            wanted = min(left, CHUNK_SIZE if size < 0 else size)
            if left == 0:
                self._verify_if_whole()
            return self._read_some(wanted, whole_request=False) if wanted else b""

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill ``buffer`` and return the number of bytes; less than its size only at the end.

        Args:
            buffer: Writable.

        Raises:
            DistError: As `read`.
        """
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readinto1(self, buffer: WriteableBuffer, /) -> int:
        """Read into ``buffer`` with one read of the source, and return the number of bytes.

        Args:
            buffer: Writable.

        Raises:
            DistError: As `read`.
        """
        view = memoryview(buffer).cast("B")
        data = self.read1(len(view))
        view[: len(data)] = data
        return len(data)

    def close(self) -> None:
        """Close the reader and its connection."""
        self._drop_stream()
        super().close()

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"at {self._position}"
        return f"<BlobReader {self.blob.digest} {state} {self.trust}>"

    def _state(self) -> tuple[int, hashlib._Hash, int, bool, bool, Trust]:
        return self._position, self._hasher.copy(), self._hashed, self._judged, self._reread, self.trust

    def _check_open(self) -> None:
        if self.closed:
            message = "read of a closed BlobReader"
            raise ValueError(message)

    def _read_some(self, wanted: int, *, whole_request: bool) -> bytes:
        here = isinstance(self._source, MemorySource)
        if self._position == 0 and self._hashed and not here:  # read from the front again: verify this pass
            self._hasher, self._hashed, self._judged, self.trust = self.blob.digest.hasher(), 0, False, "unverified"
            self._reread = False
        if self._strict and self._position != self._hashed and not here:
            message = (
                f"strict read of {self.blob.digest} at {self._position} refused: the bytes from {self._hashed} are not "
                "read yet; read from front to back, or open without strict"
            )
            raise Unsafe(message)
        stream = self._stream_from(self._position, wanted if whole_request else 1)
        data = stream.read(min(wanted, self._stream_end - self._position, CHUNK_SIZE))
        if self._position < self._hashed and not here:
            self._reread, self.trust = True, "unverified"  # these bytes were fetched again and may differ
        if not data:
            self._drop_stream()
            message = f"size of {self.blob.digest} is {self._position} bytes, expected {self.blob.size}"
            raise SizeMismatch(message, expected=self.blob.size, got=self._position)
        self._stream_at += len(data)
        if self._stream_at == self._stream_end:
            self._drop_stream()
        self._hash(data)
        self._position += len(data)
        self._verify_if_whole()
        return data

    def _stream_from(self, position: int, wanted: int) -> ByteStream:
        """Return a stream whose next byte is at ``position``."""
        if self._pid != os.getpid():
            self._pid, self._stream = os.getpid(), None  # the stream belongs to the parent process
        if self._stream is not None:
            gap = position - self._stream_at
            if 0 <= gap <= SKIP_RATHER_THAN_ASK and position < self._stream_end:
                while gap:
                    skipped = self._stream.read(gap)
                    if not skipped:
                        break
                    gap -= len(skipped)
                self._stream_at = position - gap
                if not gap:
                    return self._stream
        follows = position == self._stream_end
        self._drop_stream()
        self._range = self._range * 2 if follows else FIRST_RANGE
        size = self.blob.size
        end = min(size, position + max(wanted, self._range))
        self._stream = self._source.open(position, None if (position, end) == (0, size) else end)
        self._stream_at, self._stream_end = position, end
        return self._stream

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def _hash(self, data: bytes) -> None:
        """Hash the part of ``data`` that continues the hashed bytes."""
        start = self._hashed - self._position
        if 0 <= start < len(data):
            self._hasher.update(memoryview(data)[start:])
            self._hashed = self._position + len(data)

    def _verify_if_whole(self) -> None:
        if not self._judged and self.trust != "verified" and self._hashed == self.blob.size:
            got = Digest(self.blob.digest.algorithm, self._hasher.hexdigest())
            if got != self.blob.digest:
                self.blob.distrust()
                raise digest_mismatch(self.blob.digest, got)
            if not self._reread:
                self.trust = "verified"
            self._judged = True
