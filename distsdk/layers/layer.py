"""`LayerFiles`: list the members of a layer and open its files, reading as few bytes of the layer as possible."""

from __future__ import annotations

import io
import os
import weakref
from bisect import bisect_right
from collections import OrderedDict
from contextlib import ExitStack, nullcontext, suppress
from itertools import accumulate
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Literal, Protocol, TypeVar

from distsdk._files import write_all
from distsdk._locks import ForkSafeLock
from distsdk._repr import Displayed
from distsdk._text import human_size
from distsdk.errors import IntegrityError, LimitExceeded, MalformedDocument, NotFound, Unsafe
from distsdk.layers import seek_index as index
from distsdk.layers import toc
from distsdk.layers.compression import DEFAULT_LIMITS
from distsdk.layers.member import Kind, shown
from distsdk.layers.seek_index import SeekIndex, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from _typeshed import WriteableBuffer

    from distsdk.content.blob import Blob
    from distsdk.content.reader import Trust
    from distsdk.layers.cache import Cache
    from distsdk.layers.compression import LayerLimits
    from distsdk.layers.member import Member
    from distsdk.layers.toc import Toc, TocLocation
    from distsdk.spec.descriptor import Descriptor
    from distsdk.spec.digest import Digest

#: Compressed bytes of one request, and uncompressed bytes of its pieces, at most. A single piece may be larger.
READ_AHEAD = 8 * 1024 * 1024

#: Uncompressed bytes of a layer that are kept in memory, since files next to each other are often read in turn.
KEPT = 16 * 1024 * 1024

#: Compressed bytes between two pieces that are fetched with them, since a second request costs more.
GAP = 64 * 1024

_INDEX_KIND = f"index{index.VERSION}"
_COPY_KIND = f"copy{index.VERSION}"

#: Bytes that `MemberFile.read1` returns, at most.
_READ1 = 256 * 1024

Source = Literal["toc", "index", "pass"]

_T = TypeVar("_T")


class Fetch(Protocol):
    """Fetches compressed bytes, from another endpoint if they are corrupt."""

    def __call__(self, start: int, end: int, check: Callable[[bytes], _T], /) -> _T:
        """Fetch bytes, and return the result of ``check``.

        Args:
            start: First byte.
            end: Byte after the last one.
            check: Called with the bytes; raises `IntegrityError` if they are corrupt.
        """
        ...


class LayerFiles:
    """The members of a layer and the content of its files. Threads may share an object.

    The source of the members is chosen on first use, in this order: a table of contents (eStargz, zstd:chunked) whose
    digest is in an annotation; an index in the cache; a table of contents without a digest; one verified pass over the
    whole layer, whose index the cache keeps.

    Attributes:
        blob: The bytes of the layer.
        descriptor: The descriptor of the layer in the manifest.
    """

    def __init__(
        self,
        blob: Blob,
        descriptor: Descriptor,
        *,
        diff_id: Digest | None = None,
        cache: Cache | None = None,
        limits: LayerLimits = DEFAULT_LIMITS,
        strict: bool = False,
    ) -> None:
        """Name a layer. Nothing is read.

        Args:
            blob: The bytes of the layer.
            descriptor: Descriptor from the manifest: media type, size, and annotations about a table of contents.
            diff_id: Digest of the uncompressed layer from the config; checked by a pass.
            cache: Keeps indexes and copies; without a cache they are lost with this object.
            limits: Limits of a pass.
            strict: Do not use a table of contents without a digest in an annotation; read the layer instead.

        Raises:
            ValueError: Blob and descriptor have different digests.
        """
        if blob.digest != descriptor.digest:
            message = f"digest of the blob is {blob.digest}, expected that of the descriptor, {descriptor.digest}"
            raise ValueError(message)
        self.blob = blob
        self.descriptor = descriptor
        self._diff_id = diff_id
        self._cache = cache
        self._limits = limits
        self._strict = strict
        self._lock = ForkSafeLock()
        self._location: TocLocation | None = None
        self._located = False  # whether a table of contents and an index were searched for
        self._toc: Toc | None = None
        self._index: SeekIndex | None = None
        self._copy: IO[bytes] | None = None
        self._stream: _LayerPieces | None = None

    @property
    def source(self) -> Source:
        """The source of the members: a table of contents, an index, or a pass that is still to be made.

        May make one small request, for the last 72 bytes of the layer.
        """
        with self._lock:
            self._locate()
            if self._index is not None:
                return "index"
            return "toc" if self._location is not None else "pass"

    @property
    def cost(self) -> int:
        """Bytes that `members` reads: 0 once they are known. May make one small request, as `source`."""
        with self._lock:
            source = self.source
            if source == "index" or self._toc is not None:
                return 0
            return self.descriptor.size if self._location is None else self._location.end - self._location.start

    @property
    def members(self) -> tuple[Member, ...]:
        """The entries in the order of the archive. The first access reads `cost` bytes.

        Raises:
            IntegrityError: The bytes differ from the digest in the manifest.
            MalformedDocument: The layer or its table of contents is damaged.
            LimitExceeded: The layer exceeds a limit.
            DistError: As `Blob.stream`.
        """
        self.prepare()
        found = self._toc or self._index
        assert found is not None  # noqa: S101 - prepared
        return found.members

    @property
    def trust(self) -> Trust:
        """Trust in the members: ``verified`` by a pass, ``chunk-verified`` by a table with a digest, or ``unverified``.

        Reads `cost` bytes, as `members`.
        """
        self.prepare()
        if self._toc is None:
            return "verified"
        return "chunk-verified" if self._toc.verified else "unverified"

    @property
    def diff_id(self) -> Digest | None:
        """Digest of the uncompressed layer: computed by a pass, or else from the config."""
        return self._diff_id if self._index is None else self._index.diff_id

    def prepare(self, *, on_progress: Callable[[int], object] = lambda _: None) -> None:
        """Read the members unless they are known.

        Args:
            on_progress: Called with the bytes that a pass has read so far.

        Raises:
            DistError: As `members`.
        """
        with self._lock:
            self._locate()
            if self._toc is None and self._index is None:
                self._read_members(on_progress)

    def _read_members(self, on_progress: Callable[[int], object]) -> None:
        location = self._location
        if location is not None:
            found = self._retry(lambda: toc.read_toc(location, self.blob.read_range))
            if found.complete or not self._strict:
                self._toc = found
                return
            self._location = None
        self._pass(on_progress)

    def digest(self, member: Member) -> Digest | None:
        """Return the digest of a file from the table of contents; None if the table does not have it.

        Args:
            member: One of `members`.

        Raises:
            DistError: As `members`.
        """
        self.prepare()
        return None if self._toc is None else self._toc.digest(member.path)

    def open(self, member: Member, *, strict: bool = False) -> MemberFile:
        """Open a file. Its content is fetched when it is read.

        Args:
            member: One of `members` that is a file. Links are not followed; the merged tree follows them.
            strict: Refuse bytes that cannot be verified.

        Raises:
            NotFound: The member is not a file, or not of this layer.
            Unsafe: ``strict`` is set, and the bytes cannot be verified.
            DistError: As `members`.
        """
        self.prepare()
        if member.kind is not Kind.FILE:
            raise NotFound(f"{shown(member.path)} is a {member.kind.noun}")
        with self._lock:
            if self._toc is not None:
                pieces, trust, start = *self._of_toc(self._toc, member), 0
            else:
                pieces, trust, start = self._of_index(), "chunk-verified", member.offset
        if start + member.stored > pieces.size:
            raise NotFound(f"{shown(member.path)} not found in layer {self.blob.digest}")
        if strict and trust == "unverified":
            raise Unsafe(
                f"bytes of {shown(member.path)} cannot be verified: the manifest has no digest of the layer's table of"
                " contents, or the table has no digest of the file; LayerFiles(…, strict=True) reads the whole layer"
                f" once instead ({human_size(self.descriptor.size)})"
            )
        return MemberFile(member, pieces, start, trust)

    def __reduce__(self) -> tuple[object, ...]:
        # The index is not pickled: the cache has it.
        arguments = (self.blob, self.descriptor, self._diff_id, self._cache, self._limits, self._strict)
        return _files_again, arguments

    def __repr__(self) -> str:
        state = self.source if self._located else "not read"
        return f"<LayerFiles {self.blob.digest} {self.descriptor.size} bytes, {state}>"

    # Members

    def _locate(self) -> None:
        """Search for a table of contents and for an index, once."""
        if self._located:
            return
        vouched = toc.is_vouched_for(self.descriptor.annotations)
        found: SeekIndex | None = None
        location: TocLocation | None = None
        if not vouched:
            found = self._cached()
        if found is None and (vouched or not self._strict):
            try:
                location = toc.locate(self.descriptor.annotations, self.descriptor.size, self.blob.read_range)
            except (MalformedDocument, LimitExceeded):
                if vouched:
                    raise
        if location is None or location.digest is None:  # the annotation may be that of another format
            found = found or self._cached()
            if found is not None or self._strict:
                location = None
        self._index, self._location = found, location
        self._located = True

    def _cached(self) -> SeekIndex | None:
        if self._cache is None:
            return None
        data = self._cache.load(self.blob.digest, _INDEX_KIND)
        if data is None:
            return None
        try:
            found = SeekIndex.from_bytes(data, self.blob.digest)
        except MalformedDocument:
            self._cache.discard(self.blob.digest, _INDEX_KIND)
            return None
        # The process that wrote it may have had another config for the same layer, or none.
        return found if self._diff_id in {None, found.diff_id} else None

    def _pass(self, on_progress: Callable[[int], object]) -> None:
        """Read the whole layer, and keep its index."""
        cache = self._cache
        with nullcontext() if cache is None else cache.alone(self.blob.digest):
            self._index = self._cached()  # another process may have written it
            if self._has_spans():
                return
            self._index = None
            found = self._build(on_progress)
            if cache is not None:
                # Written inside the lock, so that waiting processes find it. If this fails, they read the layer too.
                with suppress(OSError, ValueError), cache.write(self.blob.digest, _INDEX_KIND) as file:
                    write_all(file, found.to_bytes())
            self._index = found

    def _build(self, on_progress: Callable[[int], object]) -> SeekIndex:
        with ExitStack() as stack:

            def copy() -> IO[bytes]:
                if self._cache is not None:
                    with suppress(OSError):
                        file = stack.enter_context(self._cache.write(self.blob.digest, _COPY_KIND))
                        # A descriptor of its own, since the cache may remove the file.
                        self._hold(io.FileIO(os.dup(file.fileno()), "rb"))
                        return file
                temporary: IO[bytes] = TemporaryFile()  # noqa: SIM115 - closed with this object
                self._hold(temporary)
                return temporary

            try:
                return SeekIndex.build(
                    self.blob,
                    self.descriptor.media_type,
                    diff_id=self._diff_id,
                    limits=self._limits,
                    copy=copy,
                    on_progress=on_progress,
                )
            except BaseException:
                self._copy = None
                raise

    def _has_spans(self) -> bool:
        """Return whether the spans of the index can be read. Opens the copy if they are in one."""
        if self._index is None or self._index.way is not Way.COPY:
            return self._index is not None
        if self._copy is None and self._cache is not None:
            file = self._cache.open(self.blob.digest, _COPY_KIND)
            if file is not None:
                self._hold(file)
        return self._copy is not None

    def _hold(self, copy: IO[bytes]) -> None:
        """Keep a copy open until this object is collected."""
        self._copy = copy
        weakref.finalize(self, copy.close)

    # Files

    def _of_toc(self, table: Toc, member: Member) -> tuple[_LayerPieces, Trust]:
        chunks = table.chunks(member.path)
        vouched = table.verified and all(chunk.digest is not None or chunk.zeros for chunk in chunks)
        pieces = _LayerPieces(
            [chunk.size for chunk in chunks],
            [None if chunk.zeros else (chunk.start, chunk.end) for chunk in chunks],
            lambda number, packed: toc.unpack_chunk(chunks[number], packed, table.compression),
            self._fetched,
            _KeptPieces(KEPT),
        )
        return pieces, "chunk-verified" if vouched else "unverified"

    def _of_index(self) -> _LayerPieces:
        if self._stream is not None:
            return self._stream
        if not self._has_spans():  # the cache has removed the copy, but not the index
            self._index = None
            self._pass(lambda _: None)
        found = self._index
        assert found is not None  # noqa: S101 - prepared
        self._stream = _LayerPieces(
            [span.size for span in found.spans],
            [(span.packed_start, span.packed_end) for span in found.spans],
            found.unpack,
            self._fetched if found.way is not Way.COPY else self._copied,
            _KeptPieces(KEPT),
        )
        return self._stream

    def _fetched(self, start: int, end: int, check: Callable[[bytes], _T]) -> _T:
        """Read and check bytes of the layer; see `Fetch`."""
        return self._retry(lambda: check(self.blob.read_range(start, end)))

    def _copied(self, start: int, end: int, check: Callable[[bytes], _T]) -> _T:
        """Read and check bytes of the copy; see `Fetch`. A damaged copy is removed from the cache."""
        with self._lock:
            copy = self._copy
            assert copy is not None  # noqa: S101 - opened with the index
            copy.seek(start)
            packed = copy.read(end - start)
        try:
            return check(packed)
        except IntegrityError:
            if self._cache is not None:
                self._cache.discard(self.blob.digest, _COPY_KIND)
            raise

    def _retry(self, read: Callable[[], _T]) -> _T:
        """Return the result of ``read``; call it again if the bytes were corrupt and there is another endpoint."""
        try:
            return read()
        except (IntegrityError, MalformedDocument):
            if not self.blob.distrust():
                raise
        return read()


def _files_again(  # noqa: PLR0917 - pickles of 0.1 have this name and these arguments
    blob: Blob,
    descriptor: Descriptor,
    diff_id: Digest | None,
    cache: Cache | None,
    limits: LayerLimits,
    strict: bool,
) -> LayerFiles:
    return LayerFiles(blob, descriptor, diff_id=diff_id, cache=cache, limits=limits, strict=strict)


class _KeptPieces:
    """The most recently used pieces, uncompressed; at least one."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._size = 0
        self._pieces: OrderedDict[int, bytes] = OrderedDict()
        self._lock = ForkSafeLock()

    def get(self, number: int) -> bytes | None:
        with self._lock:
            found = self._pieces.get(number)
            if found is not None:
                self._pieces.move_to_end(number)
            return found

    def put(self, number: int, data: bytes) -> None:
        with self._lock:
            self._size += len(data) - len(self._pieces.pop(number, b""))
            self._pieces[number] = data
            while self._size > self._limit and len(self._pieces) > 1:
                self._size -= len(self._pieces.popitem(last=False)[1])


class _LayerPieces:
    """Bytes in pieces. A piece is verified before any of its bytes are returned."""

    def __init__(
        self,
        sizes: Sequence[int],
        extents: Sequence[tuple[int, int] | None],
        unpack: Callable[[int, bytes], bytes],
        fetch: Fetch,
        kept: _KeptPieces,
    ) -> None:
        """Name the pieces and the functions that read them.

        Args:
            sizes: Uncompressed sizes of the pieces, in bytes.
            extents: First compressed byte of each piece and the byte after its last one; None for a hole.
            unpack: Verifies and decompresses a piece, by its number and its compressed bytes.
            fetch: Fetches compressed bytes.
            kept: Keeps pieces.
        """
        self._starts = list(accumulate(sizes, initial=0))
        self.size = self._starts.pop()
        self._sizes = sizes
        self._extents = extents
        self._unpack = unpack
        self._fetch = fetch
        self._kept = kept

    def read(self, offset: int, size: int, until: int) -> bytes:
        """Return a range of bytes.

        Args:
            offset: First byte.
            size: Number of bytes; the range must not exceed `size`.
            until: End of the range that is likely read next; a request may fetch pieces up to here.
        """
        parts: list[bytes] = []
        at, end = offset, offset + size
        while at < end:
            number = bisect_right(self._starts, at) - 1
            begin = at - self._starts[number]
            length = min(end - at, self._sizes[number] - begin)
            if self._extents[number] is None:
                parts.append(bytes(length))
            else:
                data = self._kept.get(number)
                if data is None:
                    data = self._load(number, max(until, end))
                parts.append(data[begin : begin + length])
            at += length
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _load(self, first: int, until: int) -> bytes:
        """Fetch a piece, and in the same request the following ones up to ``until``; return the first."""
        extents, sizes = self._extents, self._sizes
        extent = extents[first]
        assert extent is not None  # noqa: S101 - not called for zeros
        start, end = extent
        group, total = [first], sizes[first]
        for number in range(first + 1, len(sizes)):
            following = extents[number]
            if self._starts[number] >= until or following is None or self._kept.get(number) is not None:
                break
            total += sizes[number]
            apart = following[0] - end
            # Two gzip spans share a byte if the second begins inside it.
            if not -1 <= apart <= GAP or following[1] - start > READ_AHEAD or total > READ_AHEAD:
                break
            group.append(number)
            end = max(end, following[1])

        def unpacked(packed: bytes) -> list[bytes]:
            view = memoryview(packed)
            return [
                self._unpack(number, bytes(view[begin - start : stop - start]))
                for number in group
                for begin, stop in [extents[number] or (0, 0)]
            ]

        pieces = self._fetch(start, end, unpacked)
        for number, data in zip(group, pieces, strict=True):
            self._kept.put(number, data)
        return pieces[0]


class MemberFile(Displayed, io.BufferedIOBase):
    """A file of a layer, readable and seekable.

    Bytes are verified as `trust` says before they are returned. Sequential reads fetch up to 8 MiB ahead.

    Attributes:
        member: The entry of the file.
        trust: ``chunk-verified`` if each byte is compared with a digest from a verified table of contents or from an
            earlier pass over the whole layer; else ``unverified``.
    """

    def __init__(self, member: Member, pieces: _LayerPieces, start: int, trust: Trust) -> None:
        """Use `LayerFiles.open`."""
        self.member = member
        self.trust = trust
        self._pieces = pieces
        self._start = start
        self._position = 0
        self._read_to = 0
        self._ahead = 0
        # A file that is not sparse is one part of itself.
        self._parts = member.parts or ((0, member.size),)
        self._stored = list(accumulate((length for _, length in self._parts), initial=start))

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
        """Set the position and return it. Nothing is fetched until the next read.

        Args:
            offset: Bytes from the base.
            whence: The base: 0 for the beginning, 1 for the position, 2 for the end.

        Raises:
            ValueError: The position is negative, ``whence`` is invalid, or the file is closed.
        """
        self._check_open()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.member.size}.get(whence)
        if base is None:
            message = f"whence must be 0, 1 or 2, not {whence}"
            raise ValueError(message)
        if base + offset < 0:
            message = f"negative position {base + offset}"
            raise ValueError(message)
        self._position = base + offset
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return ``size`` bytes; fewer only at the end of the file.

        Args:
            size: Number of bytes; None or a negative number for all that are left.

        Raises:
            IntegrityError: The bytes have another digest; none of them are returned.
            SizeMismatch: The layer is shorter than its declared size.
            DistError: As `Blob.stream`.
        """
        self._check_open()
        left = max(0, self.member.size - self._position)
        length = left if size is None or size < 0 else min(size, left)
        if not length:
            return b""
        self._ahead = min(READ_AHEAD, max(self._ahead * 2, length)) if self._position == self._read_to else 0
        parts = []
        at, end = self._position, self._position + length
        while at < end:
            part = self._part(at, end)
            parts.append(part)
            at += len(part)
        self._position = self._read_to = end
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read1(self, size: int = -1, /) -> bytes:
        """Return at least one byte unless the position is at the end.

        Args:
            size: Number of bytes, at most; 256 KiB if negative.
        """
        return self.read(_READ1 if size < 0 else min(size, _READ1))

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Read into a buffer, and return the number of bytes read; it is filled unless the file ends.

        Args:
            buffer: A writable buffer.
        """
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readinto1(self, buffer: WriteableBuffer, /) -> int:
        """Read into a buffer as `read1`, and return the number of bytes read.

        Args:
            buffer: A writable buffer.
        """
        view = memoryview(buffer).cast("B")
        data = self.read1(len(view))
        view[: len(data)] = data
        return len(data)

    def __repr__(self) -> str:
        state = "closed" if self.closed else f"at {self._position}"
        return f"<MemberFile {shown(self.member.path)} {state} {self.trust}>"

    def _check_open(self) -> None:
        if self.closed:
            message = "read of a closed MemberFile"
            raise ValueError(message)

    def _part(self, at: int, end: int) -> bytes:
        """Return the bytes from ``at`` up to ``end``, or up to the end of the stored part or hole at ``at``."""
        number = bisect_right(self._parts, at, key=_begin) - 1
        begin, length = self._parts[number] if number >= 0 else (0, 0)
        if at >= begin + length:
            following = self._parts[number + 1][0] if number + 1 < len(self._parts) else end
            return bytes(min(end, following) - at)
        stored = self._stored[max(0, number)]
        part_end = min(end, begin + length)
        until = min(stored + length, stored + end - begin + self._ahead)
        return self._pieces.read(stored + at - begin, part_end - at, until)


def _begin(part: tuple[int, int]) -> int:
    return part[0]
