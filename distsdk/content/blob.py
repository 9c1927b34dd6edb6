"""`Blob`: lazy content that is verified when it is read."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distsdk._files import part_of, write_all
from distsdk._progress import progress_bar
from distsdk._repr import Displayed
from distsdk.content.parallel import MAX_CONNECTIONS, Ranges
from distsdk.content.reader import BlobReader
from distsdk.content.source import CHUNK_SIZE, MemorySource, Source
from distsdk.content.verifier import Verifier, digest_mismatch
from distsdk.errors import IntegrityError, LimitExceeded, SizeMismatch
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.media_types import OCTET_STREAM

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Generator, Iterator

    from distsdk.analysis.partitions import Partition

#: Bytes that `Blob.read` returns at most by default.
READ_LIMIT = 64 * 1024 * 1024


#: Bytes of a blob from which its stream shows a progress bar.
_WORTH_A_BAR = 1024 * 1024


class Blob(Displayed):
    """Lazy content with a known digest: of a remote, a file or memory.

    An unread blob holds no connection. A blob may be read several times and from several threads, and a read may be
    abandoned. Every completed whole read has been checked for size and digest.

    Attributes:
        digest: The digest of the content.
    """

    def __init__(
        self, source: Source, digest: Digest, *, size: int | None = None, media_type: str | None = None
    ) -> None:
        """Make a blob; nothing is read.

        Args:
            source: Opens the content.
            digest: The expected digest.
            size: The expected size in bytes, enforced when reading; None if unknown.
            media_type: None if unknown.
        """
        self.digest = digest
        self._source = source
        self._size = size
        self._size_unverified = False  # True if reported by the source, which may be wrong
        self._media_type = media_type

    @classmethod
    def from_bytes(cls, data: bytes, *, media_type: str | None = None, digest: Digest | None = None) -> Blob:
        """Make a blob of bytes in memory.

        Args:
            data: The content.
            media_type: Its media type; ``application/octet-stream`` by default.
            digest: The expected digest; by default the SHA-256 is computed.

        Raises:
            DigestMismatch: The bytes have another digest.
        """
        own = Digest.of(data, digest.algorithm if digest else "sha256")
        if digest is not None and own != digest:
            raise digest_mismatch(digest, own)
        return cls(MemorySource(data), own, size=len(data), media_type=media_type)

    @property
    def size(self) -> int:
        """The size in bytes. Costs a request if neither a descriptor nor a hint gave it.

        The size is checked when the content is read: a wrong one raises `SizeMismatch` there.

        Raises:
            DistError: As `stream`, if a request is needed.
        """
        if self._size is None:
            self._stat()
        if self._size is None:  # unknown to the source as well: count
            self._size = sum(map(len, self.stream()))
        return self._size

    @property
    def media_type(self) -> str:
        """The media type; ``application/octet-stream`` if unknown. May cost a request, as `size`."""
        if self._media_type is None:
            self._stat()
        return self._media_type or OCTET_STREAM

    @property
    def descriptor(self) -> Descriptor:
        """Media type, digest and size together. May cost a request, as `size`."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=self.size)

    def _stat(self) -> None:
        stat = self._source.stat()
        if self._size is None and stat.size is not None:
            self._size, self._size_unverified = stat.size, True
        if self._media_type is None:
            self._media_type = stat.media_type or OCTET_STREAM

    def stream(self, *, connections: int | None = None, progress: bool = False) -> Iterator[bytes]:
        """Yield the bytes in order, as they arrive, in constant memory.

        Verification ends after the last chunk: use the result only if the iteration ended without an exception.

        Args:
            connections: Connections to use at once, from 1 to 64. By default one, then up to eight while the reader
                waits for the network and more connections raise the throughput; one for a blob of less than 32 MiB.
                Several connections read ranges and hold up to 80 MiB in memory. If the source refuses ranges, a single
                connection is used.
            progress: Show a bar if stderr is a terminal and the blob has at least 1 MiB. May cost a request, as `size`.

        Yields:
            Chunks of at least one byte and at most 2 MiB.

        Raises:
            DigestMismatch: The bytes have another digest.
            SizeMismatch: There are more or fewer bytes than declared. Bytes beyond the declared size are not yielded.
            Unreachable, DeadlineExceeded: The transfer broke or stalled.
            NotFound, Denied, RateLimited, RegistryError: The registry refused the request.
            ValueError: ``connections`` is out of range; raised before the iteration starts.
        """
        _check_connections(connections)
        return self._stream_once(connections, progress=progress)

    def _stream_once(self, connections: int | None, *, progress: bool) -> Iterator[bytes]:
        verifier = Verifier(self.digest)
        if progress and self._size is None:
            self._stat()
        shown = progress and (self._size is None or self._size >= _WORTH_A_BAR)
        bar = progress_bar(lambda: f"{self.digest}"[:19], lambda: self._size, shown=shown)
        try:
            with bar as at, contextlib.closing(self._stream(verifier, connections)) as chunks:
                at(0)
                for chunk in chunks:
                    yield chunk
                    at(verifier.count)
        except IntegrityError:
            self.distrust()
            raise

    def read_range(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` up to ``end``, requested as one closed range. They are not verified.

        Args:
            start: Offset of the first byte, from 0.
            end: Offset after the last byte. The whole range is held in memory.

        Raises:
            SizeMismatch: The content ends before ``end``.
            DistError: As `stream`.
        """
        parts: list[bytes] = []
        left = end - start
        with contextlib.closing(self._source.open(start, end)) as stream:
            while left:
                part = stream.read(left)
                if not part:
                    message = f"{self.digest} ended after {end - left} bytes, expected at least {end}"
                    raise SizeMismatch(message, expected=end, got=end - left)
                parts.append(part)
                left -= len(part)
        return b"".join(parts)

    def distrust(self) -> bool:
        """Report that the content failed verification; return whether another endpoint may supply the right one."""
        if self._size_unverified:
            self._size, self._size_unverified = None, False
        distrust = getattr(self._source, "distrust", None)
        return distrust is not None and distrust()

    def _stream(self, verifier: Verifier, connections: int | None) -> Generator[bytes, None, None]:
        """Yield the bytes after those that the verifier has hashed."""
        if self._size is None and (connections or 1) > 1:
            self._stat()
        verifier.size = self._size
        ranges = Ranges(self._source.open, verifier.count, self._size, connections=connections)
        with contextlib.closing(iter(ranges)) as chunks:
            for chunk in chunks:
                verifier.feed(chunk)
                yield chunk
        self._size = verifier.verdict()

    def read(self, *, limit: int = READ_LIMIT) -> bytes:
        """Return all bytes, verified.

        Args:
            limit: Bytes to hold in memory at most; 64 MiB by default.

        Raises:
            LimitExceeded: The blob is larger than ``limit``; use `stream` or `save`, or pass a higher limit.
            DistError: As `stream`.
        """
        if isinstance(self._source, MemorySource) and len(self._source.data) <= limit:
            return self._source.data
        while self._size is None or self._size <= limit:
            parts, total = [], 0
            try:
                for chunk in self._stream(Verifier(self.digest), None):
                    total += len(chunk)
                    if total > limit:
                        break
                    parts.append(chunk)
                else:
                    return b"".join(parts)
            except IntegrityError:
                if not self.distrust():
                    raise
            else:
                break
        raise LimitExceeded(
            f"{self.digest} is larger than the limit of {limit} bytes; use stream() or save(), or pass a higher limit=",
            limit=limit,
        )

    def text(self, *, limit: int = READ_LIMIT) -> str:
        """Return all bytes decoded as UTF-8, verified.

        Args:
            limit: As `read`.

        Raises:
            UnicodeDecodeError: The content is not UTF-8.
            DistError: As `read`.
        """
        return self.read(limit=limit).decode("utf-8")

    def json(self, *, limit: int = READ_LIMIT) -> Any:  # noqa: ANN401 - as json.loads
        """Return the content parsed as JSON, verified.

        Args:
            limit: As `read`.

        Raises:
            MalformedDocument: The content is not JSON, is nested too deep or has a duplicate key.
            DistError: As `read`.
        """
        from distsdk.spec.strict_json import parse_json

        return parse_json(self.read(limit=limit), what=str(self.digest))

    def open(self, *, strict: bool = False) -> BlobReader:
        """Open the content as a seekable file object. No request is sent until the first read.

        Args:
            strict: Refuse reads that cannot be verified: those that are not from front to back.
        """
        return BlobReader(self, self._source, strict=strict)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        resume: bool = False,
        progress: bool = False,
        connections: int | None = None,
    ) -> Path:
        """Save the content to a file, which gets its name only after the bytes are verified and on disk.

        Args:
            path: The file to write. An existing file is replaced; the directory must exist.
            resume: Keep the received bytes in a hidden file next to ``path`` if the transfer fails or the process is
                killed, and resume there in the next call. Kept bytes are hashed again; if they turn out to be wrong,
                all bytes are fetched again, once. If another process writes the same file, or the system has no file
                locks (Windows), the transfer starts at the first byte, as without this option.
            progress: Show a bar if stderr is a terminal.
            connections: As `stream`.

        Returns:
            The path.

        Raises:
            OSError: The file cannot be written.
            DistError: As `stream`. Without ``resume``, no file is left then.
        """
        target = Path(path)
        bar = progress_bar(lambda: f"{self.digest}"[:19], lambda: self.size, shown=progress)
        with part_of(target, f"{self.digest.algorithm}-{self.digest.hex}", kept=resume) as file, bar as at:
            self.complete(file, connections=connections, on_progress=at)
        return target

    def complete(
        self, file: io.FileIO, *, connections: int | None = None, on_progress: Callable[[int], object] = lambda _: None
    ) -> None:
        """Append the missing bytes to a file, and return once the whole content is verified.

        The bytes already in the file are hashed and kept. If they or the bytes after them turn out to be wrong, all
        bytes are fetched again, once. After an error the file holds the received bytes. The caller synchronises the
        file to disk.

        Args:
            file: Open for reading and writing, unbuffered, at its beginning.
            connections: As `stream`.
            on_progress: Called with the number of bytes in the file: first those it had, then as more arrive; fewer
                than before if they are fetched again. An exception that it raises ends the transfer.

        Raises:
            OSError: The file cannot be written.
            DistError: As `stream`.
        """
        _check_connections(connections)
        verifier = self._resumed(file)
        had_some = verifier.count > 0
        while not (had_some and verifier.matches()):
            try:
                file.seek(verifier.count)
                on_progress(verifier.count)
                for chunk in self._stream(verifier, connections):
                    write_all(file, chunk)
                    on_progress(verifier.count)
                return
            except IntegrityError:
                # Either the old bytes are wrong, or the range after them: fetch all without ranges. If there were no
                # old bytes, the source is wrong: retry only with another endpoint.
                if not had_some and not self.distrust():
                    raise
                file.truncate(0)
                verifier, had_some, connections = Verifier(self.digest), False, 1

    def _resumed(self, file: io.FileIO) -> Verifier:
        """Return a verifier that has hashed the file; empty the file first if its bytes cannot be a beginning."""
        verifier = Verifier(self.digest)
        if self._size is not None and os.fstat(file.fileno()).st_size > self._size:
            file.truncate(0)
        while chunk := file.read(CHUNK_SIZE):
            verifier.feed(chunk)
        verifier.size = self._size
        if verifier.count and not verifier.matches():
            if self._size is None:
                self._stat()
            if self._size is None or verifier.count >= self._size:
                file.truncate(0)
                return Verifier(self.digest)
        return verifier

    def partitions(self, size: int) -> list[Partition]:
        """Split the blob into parts that can be pickled and read on their own.

        Example: ``dask.bag.from_sequence(blob.partitions(2**26)).map(lambda part: part.read())``. Parts are not
        verified, as with `read_range`: the digest covers the whole blob only. May cost a request, as `size`.

        Args:
            size: Bytes of a part at most.

        Raises:
            ValueError: ``size`` is not at least 1.
        """
        from distsdk.analysis.partitions import partitions

        return partitions(self, size)

    def __dask_tokenize__(self) -> object:
        return "distsdk.Blob", str(self.digest)

    def __repr__(self) -> str:
        size = "size unknown" if self._size is None else f"{self._size} bytes"
        return f"<Blob {self.digest} {size} {self._media_type or 'media type unknown'}>"

    def __rich_repr__(self) -> Iterator[tuple[str, object]]:
        """Yield what is known without asking."""
        yield "digest", str(self.digest)
        yield "size", self._size
        yield "media_type", self._media_type

    def _repr_html_(self) -> str:
        from distsdk.display.html import blob

        return blob(self.digest, self._size, self._media_type)


def _check_connections(connections: int | None) -> None:
    if connections is not None and not 1 <= connections <= MAX_CONNECTIONS:
        message = f"connections is {connections}, expected 1 to {MAX_CONNECTIONS}, or None to adapt"
        raise ValueError(message)
