"""Children of indexes: the one for a platform, and the one meaning that a digest has within a request."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distsdk._text import shortened
from distsdk.errors import LimitExceeded, MalformedDocument
from distsdk.spec.documents import Index, nothing_for, runnable_platform
from distsdk.spec.media_types import DOCUMENTS, INDEXES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from distsdk.spec.descriptor import Descriptor
    from distsdk.spec.digest import Digest
    from distsdk.spec.platform import Platform

#: Levels of documents: an index, indexes in it, and a manifest.
MAX_DEPTH = 4

#: Indexes that are read to find one child, and bytes of all of them.
MAX_INDEXES = 100
MAX_INDEX_BYTES = 64 * 1024 * 1024


class Meanings:
    """Descriptors that a request has met. Each digest has one size, one platform and, if it is a document, one type.

    Documents that disagree about a digest could be read as one thing by one tool and as another by the next
    (CVE-2021-41190). The same blob may be a layer of OCI here and one of Docker there.
    """

    def __init__(self) -> None:
        self._known: dict[Digest, Descriptor] = {}

    def add(self, descriptors: Iterable[Descriptor]) -> None:
        """Add descriptors.

        Raises:
            MalformedDocument: One contradicts another.
        """
        for descriptor in descriptors:
            known = self._known.setdefault(descriptor.digest, descriptor)
            if known is not descriptor:
                _check_same(known, descriptor)
                if known.platform is None:
                    self._known[descriptor.digest] = descriptor


def _check_same(one: Descriptor, other: Descriptor) -> None:
    digest = one.digest
    if one.size != other.size:
        raise MalformedDocument(f"{digest} is said to have {one.size} bytes and {other.size} bytes")
    types = {one.media_type, other.media_type}
    if len(types) > 1 and not DOCUMENTS.isdisjoint(types):
        raise MalformedDocument(f"{digest} is named as {' and as '.join(sorted(types))}; do not use the documents")
    if one.platform is None or other.platform is None:
        return
    platforms = {one.platform.normalised(), other.platform.normalised()}
    if len(platforms) > 1:
        shown = " and ".join(sorted(shortened(str(platform)) for platform in platforms))
        raise MalformedDocument(f"{digest} is named for two platforms, {shown}; do not use the documents")


class Children:
    """The children of an index: its entries, and in place of indexes that name no platform, theirs.

    Args:
        index: Where to begin.
        read: Returns an index by its descriptor, verified.
        meanings: What the request has met so far; by default nothing.
    """

    def __init__(self, index: Index, read: Callable[[Descriptor], Index], meanings: Meanings | None = None) -> None:
        self._index = index
        self._read = read
        self._meanings = Meanings() if meanings is None else meanings
        self._opened: dict[Digest, Index] = {}
        self._bytes = 0

    def choose(self, platform: Platform) -> Descriptor:
        """Return the child for a platform, which is no index.

        An entry of the index itself comes first, chosen as `Index.select` does. Where none suits, the indexes in it
        that name no platform are read, and the best of their entries counts.

        Args:
            platform: What it is to run on.

        Raises:
            PlatformNotFound: Nothing suits; the error says what there is.
            MalformedDocument: Two entries contradict each other, see `Meanings`.
            LimitExceeded: There are more than `MAX_DEPTH` levels, or more indexes than `MAX_INDEXES`, or of more bytes.
            DistError: As ``read``.
        """
        index, depth = self._index, 1
        while True:
            self._meanings.add(index.manifests)
            entries = [(entry, depth) for entry in index.manifests]
            at = platform.choose(runnable_platform(entry) for entry, _ in entries)
            if at is None:
                entries = list(self._below(index, depth))
                at = platform.choose(runnable_platform(entry) for entry, _ in entries)
            if at is None:
                raise nothing_for(platform, [entry for entry, _ in entries])
            entry, depth = entries[at]
            if entry.media_type not in INDEXES:
                return entry
            index, depth = self._open(entry, depth), depth + 1

    def platforms(self) -> tuple[Platform, ...]:
        """Return the platforms to choose from, in the order of the documents; errors as `choose`."""
        self._meanings.add(self._index.manifests)
        found = (runnable_platform(entry) for entry, _ in self._below(self._index, 1))
        return tuple(platform for platform in found if platform is not None)

    def _below(self, index: Index, depth: int, seen: set[Digest] | None = None) -> Iterator[tuple[Descriptor, int]]:
        """Yield entries, each with the level of its index; in place of an index without a platform, its entries."""
        seen = set() if seen is None else seen
        for entry in index.manifests:
            if entry.media_type not in INDEXES or entry.platform is not None:
                yield entry, depth
            elif entry.digest not in seen:
                seen.add(entry.digest)
                inner = self._open(entry, depth)
                self._meanings.add(inner.manifests)
                yield from self._below(inner, depth + 1, seen)

    def _open(self, entry: Descriptor, depth: int) -> Index:
        """Read an index that one on level ``depth`` lists, once."""
        if depth + 1 >= MAX_DEPTH:
            message = f"indexes within indexes, more than {MAX_DEPTH} deep"
            raise LimitExceeded(message, limit=MAX_DEPTH)
        if entry.digest not in self._opened:
            if len(self._opened) == MAX_INDEXES:
                message = f"more than {MAX_INDEXES} indexes within one index"
                raise LimitExceeded(message, limit=MAX_INDEXES)
            self._bytes += entry.size
            if self._bytes > MAX_INDEX_BYTES:
                message = f"indexes within one index have more than {MAX_INDEX_BYTES} bytes"
                raise LimitExceeded(message, limit=MAX_INDEX_BYTES)
            self._opened[entry.digest] = self._read(entry)
        return self._opened[entry.digest]
