"""`Blob`: a lazy, seekable, verifying source of bytes, and `BlobReader`, the file one opens on it."""

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

#: Bytes `Blob.read` returns at most unless told otherwise.
READ_LIMIT = 64 * 1024 * 1024


#: Bytes of a blob whose stream shows a bar where that is asked for.
_WORTH_A_BAR = 1024 * 1024


class Blob(Displayed):
    """The bytes with a certain digest, wherever they are.

    An unread blob holds no connection. A blob may be read again, from several threads, and given up in the middle.
    Every completed whole read has been checked for size and digest.

    Attributes:
        digest: What the bytes must hash to.
    """

    def __init__(
        self, source: Source, digest: Digest, *, size: int | None = None, media_type: str | None = None
    ) -> None:
        """Make a blob; nothing is read.

        Args:
            source: Opens the bytes.
            digest: What they must hash to.
            size: In bytes, where it is known; it will be enforced.
            media_type: Where it is known.
        """
        self.digest = digest
        self._source = source
        self._size = size
        self._size_told = False  # by the source, which may be wrong
        self._media_type = media_type

    @classmethod
    def from_bytes(cls, data: bytes, *, media_type: str | None = None, digest: Digest | None = None) -> Blob:
        """Make a blob of bytes that are here.

        Args:
            data: The bytes.
            media_type: What they are.
            digest: What they must hash to; checked when given, otherwise their SHA-256 is taken.

        Raises:
            DigestMismatch: They hash to something else.
        """
        own = Digest.of(data, digest.algorithm if digest else "sha256")
        if digest is not None and own != digest:
            raise digest_mismatch(digest, own)
        return cls(MemorySource(data), own, size=len(data), media_type=media_type)

    @property
    def size(self) -> int:
        """Bytes there are. Costs a request where neither descriptor nor hint told it.

        Raises:
            SizeMismatch: Never here, but when reading, if it turns out to be another.
        """
        if self._size is None:
            self._ask()
        if self._size is None:  # the source cannot tell: count
            self._size = sum(map(len, self.stream()))
        return self._size

    @property
    def media_type(self) -> str:
        """What the bytes are; ``application/octet-stream`` where nobody says. May cost a request, as `size`."""
        if self._media_type is None:
            self._ask()
        return self._media_type or OCTET_STREAM

    @property
    def descriptor(self) -> Descriptor:
        """Media type, digest and size together. May cost a request, as `size`."""
        return Descriptor(media_type=self.media_type, digest=self.digest, size=self.size)

    def _ask(self) -> None:
        stat = self._source.stat()
        if self._size is None and stat.size is not None:
            self._size, self._size_told = stat.size, True
        if self._media_type is None:
            self._media_type = stat.media_type or OCTET_STREAM

    def stream(self, *, connections: int | None = None, progress: bool = False) -> Iterator[bytes]:
        """Yield the bytes as they arrive, from the first to the last.

        Memory stays constant. The verdict comes after the last chunk, as an exception or as none: whatever was done
        with the chunks counts only when the iteration has ended by itself.

        Args:
            connections: How many at once, from 1 to 64. By default one, and more, up to eight, while it is the network
                that is waited for and more of them are faster; a blob of less than 32 MiB has one. Several read ranges
                and hold up to 80 MiB in memory; where the source gives no ranges, one connection goes on alone.
            progress: Show a bar if stderr is a terminal and the blob has at least 1 MiB. May cost a request, as `size`.

        Yields:
            Chunks of at least one byte and at most `CHUNK_SIZE`, 2 MiB.

        Raises:
            DigestMismatch: The bytes hash to something else.
            SizeMismatch: There are more or fewer than declared; no byte beyond the declared size is handed out.
            Unreachable, DeadlineExceeded: The transfer broke or stalled.
            NotFound, Denied, RateLimited, RegistryError: The registry did not give it.
            ValueError: At once, for an impossible number of connections.
        """
        _check_connections(connections)
        return self._stream_once(connections, progress=progress)

    def _stream_once(self, connections: int | None, *, progress: bool) -> Iterator[bytes]:
        verifier = Verifier(self.digest)
        if progress and self._size is None:
            self._ask()
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
        """Return the bytes from ``start`` up to ``end``, asked for as one closed range. No digest covers them.

        Args:
            start: The first byte, from 0.
            end: The byte after the last one; all of them are held in memory.

        Raises:
            SizeMismatch: The source ends before.
            DistError: As `stream`.
        """
        parts: list[bytes] = []
        left = end - start
        with contextlib.closing(self._source.open(start, end)) as stream:
            while left:
                part = stream.read(left)
                if not part:
                    message = f"{self.digest} ended after {end - left} bytes, asked for are those up to {end}"
                    raise SizeMismatch(message, expected=end, got=end - left)
                parts.append(part)
                left -= len(part)
        return b"".join(parts)

    def distrust(self) -> bool:
        """Say that what was read turned out wrong; return whether a second try may bring others, of somebody else."""
        if self._size_told:
            self._size, self._size_told = None, False
        distrust = getattr(self._source, "distrust", None)
        return distrust is not None and distrust()

    def _stream(self, verifier: Verifier, connections: int | None) -> Generator[bytes, None, None]:
        """Yield what follows on the bytes that the verifier has seen."""
        if self._size is None and (connections or 1) > 1:
            self._ask()
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
            limit: Bytes that may be held in memory.

        Raises:
            LimitExceeded: There are more than ``limit``; stream or save it, or raise the limit.
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
            f"{self.digest} is larger than the limit of {limit} bytes: stream() or save() it, or pass a higher limit=",
            limit=limit,
        )

    def text(self, *, limit: int = READ_LIMIT) -> str:
        """Return all bytes decoded as UTF-8, verified.

        Raises:
            UnicodeDecodeError: It is not UTF-8.
            DistError: As `read`.
        """
        return self.read(limit=limit).decode("utf-8")

    def json(self, *, limit: int = READ_LIMIT) -> Any:  # noqa: ANN401 - as json.loads
        """Return the JSON value the bytes stand for, verified.

        Raises:
            MalformedDocument: Not JSON, or JSON that is nested too deep or names a key twice.
            DistError: As `read`.
        """
        from distsdk.spec.strict_json import parse_json

        return parse_json(self.read(limit=limit), what=str(self.digest))

    def open(self, *, strict: bool = False) -> BlobReader:
        """Open the bytes as a file that can seek. Nothing is asked for until it is read.

        Args:
            strict: Refuse reads that cannot lead to a verdict: reading is from front to back only.
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
        """Write the bytes to a file that appears under its name only when they are verified and on disk.

        Args:
            path: Where to; an existing file is replaced. Its folder must exist.
            resume: Keep what has come when the transfer fails, or the process is killed, in a hidden file beside
                ``path``, and go on from there the next time. What is there is hashed anew; if it turns out to be wrong,
                all of it is fetched again, once. Where somebody else is at it, or the system has no locks (Windows),
                the bytes are fetched from the first one on, as without this option.
            progress: Show a bar where there is somebody to see it.
            connections: As `stream`.

        Returns:
            The path.

        Raises:
            OSError: The file cannot be written.
            DistError: As `stream`. Nothing is left behind then, unless ``resume`` is asked for.
        """
        target = Path(path)
        bar = progress_bar(lambda: f"{self.digest}"[:19], lambda: self.size, shown=progress)
        with part_of(target, f"{self.digest.algorithm}-{self.digest.hex}", kept=resume) as file, bar as at:
            self.complete(file, connections=connections, on_progress=at)
        return target

    def complete(
        self, file: io.FileIO, *, connections: int | None = None, on_progress: Callable[[int], object] = lambda _: None
    ) -> None:
        """Write what a file lacks of the bytes, and return once all of them are verified.

        What the file holds is hashed and gone on from. If it turns out to be wrong, or what follows on it does, all
        bytes are fetched again, once. After an error the file holds what has come; it is synchronised by nobody.

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
                # The old bytes were wrong, or the range that followed on them: now without either. Or what came was:
                # then only if it comes from somebody else.
                if not had_some and not self.distrust():
                    raise
                file.truncate(0)
                verifier, had_some, connections = Verifier(self.digest), False, 1

    def _resumed(self, file: io.FileIO) -> Verifier:
        """Return a verifier that has seen what a file holds; the file is emptied if that cannot be the beginning."""
        verifier = Verifier(self.digest)
        if self._size is not None and os.fstat(file.fileno()).st_size > self._size:
            file.truncate(0)
        while chunk := file.read(CHUNK_SIZE):
            verifier.feed(chunk)
        verifier.size = self._size
        if verifier.count and not verifier.matches():
            if self._size is None:
                self._ask()
            if self._size is None or verifier.count >= self._size:
                file.truncate(0)
                return Verifier(self.digest)
        return verifier

    def partitions(self, size: int) -> list[Partition]:
        """Return the parts of at most ``size`` bytes that make up the blob, each to be read by itself, where one likes.

        They can be pickled: ``dask.bag.from_sequence(blob.partitions(2**26)).map(lambda part: part.read())``. What is
        read is unverified, as of `read_range`: the digest is one of all the bytes. May cost a request, as `size`.

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
        message = f"connections must be from 1 to {MAX_CONNECTIONS}, or None for as many as help, not {connections}"
        raise ValueError(message)
