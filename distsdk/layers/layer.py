"""A layer as files: its members, each to be opened, with as few of the layer's bytes as can be."""

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

#: Packed bytes asked for at once, and unpacked ones made of them, at most (but for one piece, which may be larger).
READ_AHEAD = 8 * 1024 * 1024

#: Unpacked bytes of a layer that are kept in memory, since neighbours are often read one after the other.
KEPT = 16 * 1024 * 1024

#: Packed bytes between two pieces that are read along, since a request costs more.
GAP = 64 * 1024

_INDEX_KIND = f"index{index.VERSION}"
_COPY_KIND = f"copy{index.VERSION}"

#: Bytes that `MemberFile.read1` returns at most.
_READ1 = 256 * 1024

Source = Literal["toc", "index", "pass"]

_T = TypeVar("_T")


class Fetch(Protocol):
    """Gets packed bytes, and somebody else's where these turn out to be wrong."""

    def __call__(self, start: int, end: int, check: Callable[[bytes], _T], /) -> _T:
        """Return what ``check`` makes of the bytes from ``start`` up to ``end``; it raises `IntegrityError`."""
        ...


class LayerFiles:
    """What is in a layer, and its files.

    How its members are learnt is decided on first use: from a table of contents (eStargz, zstd:chunked) that an
    annotation vouches for; from an index that an earlier pass has left in the cache; from a table of contents that
    nothing vouches for; else in one verified pass over all its bytes, which is not repeated as long as the cache keeps
    what it has found. Threads may share it.

    Attributes:
        blob: The layer's bytes.
        descriptor: What the manifest says about it.
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
            blob: Its bytes.
            descriptor: From the manifest: media type, size, and the annotations that vouch for a table of contents.
            diff_id: From the config: what it unpacks to; a pass checks it.
            cache: Where indexes and copies are kept; without one they end with this object.
            limits: Of what a pass unpacks.
            strict: Use no table of contents that nothing vouches for: take the pass.

        Raises:
            ValueError: Blob and descriptor have different digests.
        """
        if blob.digest != descriptor.digest:
            message = f"the blob is {blob.digest}, and the descriptor is that of {descriptor.digest}"
            raise ValueError(message)
        self.blob = blob
        self.descriptor = descriptor
        self._diff_id = diff_id
        self._cache = cache
        self._limits = limits
        self._strict = strict
        self._lock = ForkSafeLock()
        self._place: TocLocation | None = None
        self._looked = False  # for a table of contents, and an index
        self._toc: Toc | None = None
        self._index: SeekIndex | None = None
        self._copy: IO[bytes] | None = None
        self._stream: _LayerPieces | None = None

    @property
    def source(self) -> Source:
        """Where the members come from: a table of contents, an index, or a pass that has yet to be made.

        May cost one small request: a layer's last 72 bytes.
        """
        with self._lock:
            self._look()
            if self._index is not None:
                return "index"
            return "toc" if self._place is not None else "pass"

    @property
    def cost(self) -> int:
        """Bytes that `members` asks for: 0 once they are known. May cost one small request, as `source`."""
        with self._lock:
            source = self.source
            if source == "index" or self._toc is not None:
                return 0
            return self.descriptor.size if self._place is None else self._place.end - self._place.start

    @property
    def members(self) -> tuple[Member, ...]:
        """The entries, in the order of the archive. They cost what `cost` says, once.

        Raises:
            IntegrityError: What came is not what the manifest says.
            MalformedDocument: The layer, or its table of contents, is damaged.
            LimitExceeded: It unpacks to more than a limit allows.
            DistError: As `Blob.stream`.
        """
        self.prepare()
        found = self._toc or self._index
        assert found is not None  # noqa: S101 - prepared
        return found.members

    @property
    def trust(self) -> Trust:
        """Of the members: ``verified`` by a pass, ``chunk-verified`` by a table that is vouched for, or ``unverified``.

        Costs what `members` costs.
        """
        self.prepare()
        if self._toc is None:
            return "verified"
        return "chunk-verified" if self._toc.verified else "unverified"

    @property
    def diff_id(self) -> Digest | None:
        """What the layer was found to unpack to, or what the config says."""
        return self._diff_id if self._index is None else self._index.diff_id

    def prepare(self, *, on_progress: Callable[[int], object] = lambda _: None) -> None:
        """Learn the members, if they are not known.

        Args:
            on_progress: Called with the bytes that a pass has read so far.

        Raises:
            DistError: As `members`.
        """
        with self._lock:
            self._look()
            if self._toc is None and self._index is None:
                self._learn(on_progress)

    def _learn(self, on_progress: Callable[[int], object]) -> None:
        place = self._place
        if place is not None:
            found = self._again(lambda: toc.read_toc(place, self.blob.read_range))
            if found.complete or not self._strict:
                self._toc = found
                return
            self._place = None
        self._pass(on_progress)

    def digest(self, member: Member) -> Digest | None:
        """Return the digest of a file where a table of contents tells it, else None.

        Args:
            member: One of `members`.
        """
        self.prepare()
        return None if self._toc is None else self._toc.digest(member.path)

    def open(self, member: Member, *, strict: bool = False) -> MemberFile:
        """Open a file. Nothing is asked for until it is read.

        Args:
            member: One of `members` that is a file: where links lead, the merged tree knows.
            strict: Refuse bytes that nothing vouches for.

        Raises:
            NotFound: It is no file, or none of this layer.
            Unsafe: It is strict, and its bytes would be unverified.
            DistError: As `members`.
        """
        self.prepare()
        if member.kind is not Kind.FILE:
            kind = member.kind.name.lower().replace("_", " ")
            raise NotFound(f"{shown(member.path)} is a {kind}, no file that could be opened")
        with self._lock:
            if self._toc is not None:
                pieces, trust, start = *self._of_toc(self._toc, member), 0
            else:
                pieces, trust, start = self._of_index(), "chunk-verified", member.offset
        if start + member.stored > pieces.size:
            raise NotFound(f"{shown(member.path)} is not in the layer {self.blob.digest}")
        if strict and trust == "unverified":
            raise Unsafe(
                f"nothing vouches for the bytes of {shown(member.path)}: the manifest has no digest of the layer's"
                " table of contents, or that none of them. LayerFiles(…, strict=True) reads the layer once instead"
                f" ({human_size(self.descriptor.size)})"
            )
        return MemberFile(member, pieces, start, trust)

    def __reduce__(self) -> tuple[object, ...]:
        # What was learnt is in the cache, if there is one.
        given = (self.blob, self.descriptor, self._diff_id, self._cache, self._limits, self._strict)
        return _files_again, given

    def __repr__(self) -> str:
        state = "not looked at"
        if self._looked:
            state = self.source
        return f"<LayerFiles {self.blob.digest} {self.descriptor.size} bytes, {state}>"

    # How members are learnt

    def _look(self) -> None:
        """Look for a table of contents and for an index, once."""
        if self._looked:
            return
        vouched = toc.is_vouched_for(self.descriptor.annotations)
        found: SeekIndex | None = None
        place: TocLocation | None = None
        if not vouched:
            found = self._cached()
        if found is None and (vouched or not self._strict):
            try:
                place = toc.locate(self.descriptor.annotations, self.descriptor.size, self.blob.read_range)
            except (MalformedDocument, LimitExceeded):
                if vouched:
                    raise
        if place is None or place.digest is None:  # the annotation may be that of another format
            found = found or self._cached()
            if found is not None or self._strict:
                place = None
        self._index, self._place = found, place
        self._looked = True

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
        # Whoever wrote it may have had another config for the same layer, or none.
        return found if self._diff_id in {None, found.diff_id} else None

    def _pass(self, on_progress: Callable[[int], object]) -> None:
        """Read the layer from front to back, and keep what is found."""
        cache = self._cache
        with nullcontext() if cache is None else cache.alone(self.blob.digest):
            self._index = self._cached()  # by somebody who was waited for
            if self._copy_is_there():
                return
            self._index = None
            found = self._build(on_progress)
            if cache is not None:
                # Before others look. Without it they read the layer again; so they do where it cannot be written.
                with suppress(OSError, ValueError), cache.write(self.blob.digest, _INDEX_KIND) as file:
                    write_all(file, found.to_bytes())
            self._index = found

    def _build(self, on_progress: Callable[[int], object]) -> SeekIndex:
        with ExitStack() as stack:

            def copy() -> IO[bytes]:
                if self._cache is not None:
                    with suppress(OSError):
                        file = stack.enter_context(self._cache.write(self.blob.digest, _COPY_KIND))
                        # Of its own, since the cache may remove it.
                        self._hold(io.FileIO(os.dup(file.fileno()), "rb"))
                        return file
                nameless: IO[bytes] = TemporaryFile()  # noqa: SIM115 - as long as this object
                self._hold(nameless)
                return nameless

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

    def _copy_is_there(self) -> bool:
        """Return whether the spans of the index can be got: if that takes a copy, open it."""
        if self._index is None or self._index.way is not Way.COPY:
            return self._index is not None
        if self._copy is None and self._cache is not None:
            file = self._cache.open(self.blob.digest, _COPY_KIND)
            if file is not None:
                self._hold(file)
        return self._copy is not None

    def _hold(self, copy: IO[bytes]) -> None:
        """Keep a copy open as long as this object is in use."""
        self._copy = copy
        weakref.finalize(self, copy.close)

    # How files are read

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
        if not self._copy_is_there():  # the cache has the index still, and removed the copy
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
        """Return what ``check`` makes of bytes of the layer, which it refuses if they are others."""
        return self._again(lambda: check(self.blob.read_range(start, end)))

    def _copied(self, start: int, end: int, check: Callable[[bytes], _T]) -> _T:
        """Return what ``check`` makes of bytes of the copy."""
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

    def _again(self, read: Callable[[], _T]) -> _T:
        """Return what ``read`` does; once more where its bytes were wrong and somebody else may have others."""
        try:
            return read()
        except (IntegrityError, MalformedDocument):
            if not self.blob.distrust():
                raise
        return read()


def _files_again(  # noqa: PLR0917 - as pickled
    blob: Blob,
    descriptor: Descriptor,
    diff_id: Digest | None,
    cache: Cache | None,
    limits: LayerLimits,
    strict: bool,
) -> LayerFiles:
    return LayerFiles(blob, descriptor, diff_id=diff_id, cache=cache, limits=limits, strict=strict)


class _KeptPieces:
    """Unpacked pieces, those that were used last, and at least one."""

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
    """Bytes in pieces, each of which is verified before any of it is handed out."""

    def __init__(
        self,
        sizes: Sequence[int],
        extents: Sequence[tuple[int, int] | None],
        unpack: Callable[[int, bytes], bytes],
        fetch: Fetch,
        kept: _KeptPieces,
    ) -> None:
        """Say how to get them.

        Args:
            sizes: Of the pieces, unpacked.
            extents: Where their packed bytes begin and end; None for zeros, which are nowhere.
            unpack: Returns a piece by its number, verified.
            fetch: Gets packed bytes.
            kept: Where pieces are kept.
        """
        self._starts = list(accumulate(sizes, initial=0))
        self.size = self._starts.pop()
        self._sizes = sizes
        self._extents = extents
        self._unpack = unpack
        self._fetch = fetch
        self._kept = kept

    def read(self, offset: int, size: int, until: int) -> bytes:
        """Return ``size`` bytes from ``offset`` on.

        Args:
            offset: The first one.
            size: How many; they have to be there.
            until: Where what will be read next ends: what is fetched for these bytes may go up to there.
        """
        parts: list[bytes] = []
        at, end = offset, offset + size
        while at < end:
            number = bisect_right(self._starts, at) - 1
            begin = at - self._starts[number]
            wanted = min(end - at, self._sizes[number] - begin)
            if self._extents[number] is None:
                parts.append(bytes(wanted))
            else:
                data = self._kept.get(number)
                if data is None:
                    data = self._load(number, max(until, end))
                parts.append(data[begin : begin + wanted])
            at += wanted
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _load(self, first: int, until: int) -> bytes:
        """Fetch a piece, and in the same request those that follow up to a place, within limits; return the first."""
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
            # Spans of gzip share a byte where one begins inside it; files may share a chunk.
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
    """A file of a layer: `read`, `seek`, `tell`.

    Every byte was verified, as `trust` says, before it is handed out. Reading on fetches more at a time, up to 8 MiB.

    Attributes:
        member: Which file.
        trust: ``chunk-verified`` by a table of contents that the manifest vouches for, or by what an earlier pass over
            the whole layer saw; ``unverified`` otherwise.
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
        """Move the position; nothing is asked for until the next read."""
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
        """Return ``size`` bytes, fewer only at the end; all that are left when ``size`` is negative or None.

        Raises:
            IntegrityError: The layer's bytes are not those that were vouched for. Nothing was handed out of them.
            SizeMismatch: The layer ends earlier than declared.
            DistError: As `Blob.stream`.
        """
        self._check_open()
        left = max(0, self.member.size - self._position)
        wanted = left if size is None or size < 0 else min(size, left)
        if not wanted:
            return b""
        self._ahead = min(READ_AHEAD, max(self._ahead * 2, wanted)) if self._position == self._read_to else 0
        parts = []
        at, end = self._position, self._position + wanted
        while at < end:
            part = self._part(at, end)
            parts.append(part)
            at += len(part)
        self._position = self._read_to = end
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def read1(self, size: int = -1, /) -> bytes:
        """Return at least one byte unless at the end, and at most ``size``."""
        return self.read(_READ1 if size < 0 else min(size, _READ1))

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        """Fill ``buffer`` and return how many bytes that took; fewer only at the end."""
        view = memoryview(buffer).cast("B")
        data = self.read(len(view))
        view[: len(data)] = data
        return len(data)

    def readinto1(self, buffer: WriteableBuffer, /) -> int:
        """Fill ``buffer`` as far as `read1` goes."""
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
        """Return bytes from ``at`` on, up to ``end`` or where a part or a hole ends."""
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
