"""Read the source of an upload in order, hash it once, and read it again after a retry where possible."""

from __future__ import annotations

import io
import os
import stat
from typing import TYPE_CHECKING, Protocol, Self, cast

from attrs import frozen

from distsdk.content.blob import Blob
from distsdk.errors import DigestMismatch, SizeMismatch
from distsdk.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distsdk.content.protocols import UploadSource
    from distsdk.spec.descriptor import Descriptor

#: Bytes that `UploadReader.take` reads at a time.
_PIECE = 256 * 1024


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes | memoryview: ...

    def close(self) -> None: ...


class _Iterated:
    """A file object over an iterator of bytes."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._left = memoryview(b"")

    def read(self, size: int, /) -> memoryview:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                break
            self._left = memoryview(_checked(piece))
        taken, self._left = self._left[:size], self._left[size:]
        return taken

    def close(self) -> None:
        if (close := getattr(self._pieces, "close", None)) is not None:
            close()


@frozen
class _Borrowed:
    """A file object that the caller closes."""

    file: _Readable

    def read(self, size: int, /) -> bytes | memoryview:
        return _checked(self.file.read(size) or b"")

    def close(self) -> None:
        pass


class UploadReader:
    """Reads the source of an upload in order, hashes it once, and seeks back for a retry if the source allows.

    Attributes:
        size: In bytes; None if unknown before the end.
        again: Whether the source can be read more than once.
        position: Offset of the next byte.
        hashed: Bytes from the start that were hashed.
    """

    def __init__(
        self,
        stream: _Readable | None,
        open_at: Callable[[int], _Readable] | None,
        *,
        size: int | None,
        expected: Descriptor | None,
    ) -> None:
        """Use `UploadReader.of`."""
        self._stream = stream
        self._open_at = open_at
        self._expected = expected
        self._hash = Digest.of(b"", expected.digest.algorithm if expected else "sha256").hasher()
        self.size = size if expected is None else expected.size
        self.again = open_at is not None
        self.position = self.hashed = 0

    @classmethod
    def of(cls, source: UploadSource, expected: Descriptor | None) -> Self:
        """Make a reader for a source.

        Args:
            source: As for `Pushable.push_blob`.
            expected: The expected digest and size; None if unknown.

        Raises:
            OSError: The source cannot be opened.
            TypeError: The source is of an unsupported type.
        """
        if isinstance(source, bytes | bytearray | memoryview):
            data = bytes(source)
            return cls(None, lambda offset: _at(io.BytesIO(data), offset), size=len(data), expected=expected)
        if isinstance(source, Blob):
            blob = source
            return cls(None, lambda offset: _blob_at(blob, offset), size=blob.size, expected=expected)
        if isinstance(source, str):
            message = "a str cannot be uploaded: pass a pathlib.Path for a file, or bytes"
            raise TypeError(message)
        if isinstance(source, os.PathLike):
            path = os.fspath(source)
            file = open(path, "rb", buffering=0)  # noqa: PTH123, SIM115 - closed by close
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode):  # a pipe
                return cls(file, None, size=None, expected=expected)
            file.close()
            return cls(None, lambda offset: _path_at(path, offset), size=found.st_size, expected=expected)
        if hasattr(source, "read"):
            readable = cast("io.BufferedIOBase", source)
            if not (hasattr(readable, "seekable") and readable.seekable()):
                return cls(_Borrowed(readable), None, size=None, expected=expected)
            start = readable.tell()
            size = readable.seek(0, io.SEEK_END) - start
            readable.seek(start)
            return cls(
                None, lambda offset: _Borrowed(_at(readable, start + offset)), size=max(size, 0), expected=expected
            )
        return cls(_Iterated(iter(source)), None, size=None, expected=expected)

    def seek(self, offset: int) -> None:
        """Move to an offset.

        Args:
            offset: From 0; the present position if the source cannot be read `again`.
        """
        if self._stream is not None and offset == self.position:
            return
        assert self._open_at is not None  # noqa: S101 - the caller checks `again`
        self.close()
        self._stream = self._open_at(offset)
        self.position = offset

    def read(self, size: int) -> bytes | memoryview:
        """Return up to ``size`` bytes, and an empty result at the end.

        Args:
            size: Bytes, at least 1.
        """
        if self._stream is None:
            self.seek(self.position)
        data = self._stream.read(size)  # type: ignore[union-attr] # there is one now
        new = self.hashed - self.position
        if 0 <= new < len(data):
            self._hash.update(memoryview(data)[new:] if new else data)
            self.hashed = self.position + len(data)
        self.position += len(data)
        return data

    def take(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer only at the end.

        Args:
            size: Bytes to hold in memory.
        """
        parts = []
        while size and (part := self.read(min(size, _PIECE))):
            parts.append(bytes(part))
            size -= len(part)
        return b"".join(parts)

    def check_end(self) -> None:
        """Check size and digest, once all bytes are read.

        Raises:
            SizeMismatch: The source has more or fewer bytes than expected.
            DigestMismatch: The bytes have another digest.
        """
        expected = self._expected
        if self.position == self.size:
            self.read(1)
        if self.size is not None and self.position != self.size:
            found = self.position if self.position < self.size else f"more than {self.size}"
            message = f"size of the upload's source is {found} bytes, " + (
                f"expected {self.size}"
                if expected
                else f"but was {self.size} before; do not change it during the upload"
            )
            raise SizeMismatch(message, expected=self.size, got=self.position)
        if expected is not None and (got := self.digest()) != expected.digest:
            message = f"digest of the upload's source is {got}, expected {expected.digest}"
            raise DigestMismatch(message, expected=str(expected.digest), got=str(got))

    def digest(self) -> Digest:
        """Return the digest of the bytes hashed so far."""
        return Digest(self._hash.name, self._hash.hexdigest())

    def close(self) -> None:
        """Close the source, unless the caller opened it."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _checked(piece: object) -> bytes:
    if isinstance(piece, bytes | bytearray | memoryview):
        return piece  # type: ignore[return-value] # as good as bytes
    message = f"the upload's source yields {type(piece).__name__}, expected bytes; open files with mode 'rb'"
    raise TypeError(message)


def _at(file: io.BufferedIOBase, offset: int) -> io.BufferedIOBase:
    file.seek(offset)
    return file


def _path_at(path: str | bytes, offset: int) -> io.FileIO:
    file = open(path, "rb", buffering=0)  # noqa: PTH123, SIM115 - closed by UploadReader.close
    file.seek(offset)
    return file


def _blob_at(blob: Blob, offset: int) -> _Readable:
    if not offset:
        return _Iterated(blob.stream())
    reader = blob.open()
    reader.seek(offset)
    return reader
