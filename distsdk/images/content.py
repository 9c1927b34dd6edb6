"""Where an image's blobs are read from: a store, or a remote."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from distsdk._locks import ForkSafeLock
from distsdk.content.blob import Blob
from distsdk.errors import NotFound
from distsdk.spec.choice import Children
from distsdk.spec.documents import Index
from distsdk.spec.media_types import DEFAULT_ACCEPT, INDEXES
from distsdk.spec.platform import Platform
from distsdk.spec.reference import Hint, Reference
from distsdk.transfer.pull import name_in_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from distsdk.content.protocols import Fetcher
    from distsdk.content.source import ByteStream, Source, Stat
    from distsdk.images.image import Layer
    from distsdk.spec.descriptor import Descriptor
    from distsdk.store.store import Store

    Progress = bool | Callable[["Layer", int], object]


class Meter:
    """Counts bytes, from several threads."""

    def __init__(self) -> None:
        self.count = 0
        self._lock = ForkSafeLock()

    def add(self, count: int) -> None:
        """Add to the count."""
        with self._lock:
            self.count += count

    def __reduce__(self) -> tuple[object, ...]:
        return Meter, ()  # where a blob is unpickled, nothing was fetched


class MeteredSource:
    """A source whose bytes are counted."""

    def __init__(self, source: Source, meter: Meter) -> None:
        self._source = source
        self._meter = meter

    def open(self, offset: int, end: int | None) -> ByteStream:
        """Open the source; see `Source.open`."""
        return _MeteredStream(self._source.open(offset, end), self._meter)

    def stat(self) -> Stat:
        """Return size and media type; see `Source.stat`."""
        return self._source.stat()

    def distrust(self) -> bool:
        """Report corrupt data; return whether a retry may reach another endpoint."""
        distrust = getattr(self._source, "distrust", None)
        return distrust is not None and distrust()


class _MeteredStream:
    """A stream whose bytes are counted; what else it has, it has still."""

    def __init__(self, stream: ByteStream, meter: Meter) -> None:
        self._stream = stream
        self._meter = meter

    def read(self, size: int, /) -> bytes:
        data = self._stream.read(size)
        self._meter.add(len(data))
        return data

    def close(self) -> None:
        self._stream.close()

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


class ContentSource:
    """Where an image's bytes are: in a store, or at a remote."""

    def __init__(self, remote: Fetcher, store: Store | None) -> None:
        self._remote = remote
        self._store = store

    def platforms(self, reference: Reference) -> tuple[Platform, ...]:
        """Return the platforms of the index that a name stands for; none where it stands for an image."""
        known = None if self._store is None else self._store.images().get(name_in_store(reference))
        if known is not None:
            blob = self.blob(known)
        else:
            # Whatever it is: the same request as for the image.
            blob = self._remote.fetch(reference.object, *(Hint("mediatype", kind) for kind in DEFAULT_ACCEPT))
        if blob.media_type not in INDEXES:
            return ()
        return Children(Index.parse(blob.read(), blob.media_type), self._index).platforms()

    def manifest(self, reference: Reference, platform: Platform | None) -> Blob:
        """Return the manifest that a name stands for; by default for this machine, or what the store has."""
        known = None if self._store is None else self._store.images().get(name_in_store(reference))
        chosen = platform or Platform.local()
        if known is not None and platform is not None and known.platform is not None:
            known = known if platform.choose([known.platform]) is not None else None  # pulled for another one
        if known is None:
            return self._remote.fetch(reference.object, Hint("platform", str(chosen)))
        if known.media_type in INDEXES:
            known = Children(self._index(known), self._index).choose(chosen)
        return self.blob(known)

    def _index(self, descriptor: Descriptor) -> Index:
        return Index.parse(self.blob(descriptor).read(), descriptor.media_type)

    def blob(self, descriptor: Descriptor, meter: Meter | None = None) -> Blob:
        """Return a blob, from the store where it has it; ``meter`` counts the bytes that the remote gives of it."""
        if self._store is not None:
            with contextlib.suppress(NotFound):
                return self._store.blob(descriptor.digest, media_type=descriptor.media_type)
        blob = self._remote.fetch(descriptor)
        if meter is None:
            return blob
        source = MeteredSource(blob._source, meter)
        return Blob(source, blob.digest, size=descriptor.size, media_type=descriptor.media_type)
