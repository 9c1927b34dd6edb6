"""`ContentSource`: read the blobs of an image from a store or a remote."""

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
        """Add to the count.

        Args:
            count: Number of bytes.
        """
        with self._lock:
            self.count += count

    def __reduce__(self) -> tuple[object, ...]:
        return Meter, ()  # an unpickled blob has fetched nothing


class MeteredSource:
    """A source whose bytes are counted."""

    def __init__(self, source: Source, meter: Meter) -> None:
        self._source = source
        self._meter = meter

    def open(self, offset: int, end: int | None) -> ByteStream:
        """Open the source; see `Source.open`.

        Args:
            offset: First byte.
            end: Byte after the last one; None for the end of the source.
        """
        return _MeteredStream(self._source.open(offset, end), self._meter)

    def stat(self) -> Stat:
        """Return size and media type; see `Source.stat`."""
        return self._source.stat()

    def distrust(self) -> bool:
        """Report corrupt data; return whether a retry may reach another endpoint."""
        distrust = getattr(self._source, "distrust", None)
        return distrust is not None and distrust()


class _MeteredStream:
    """A stream whose bytes are counted. Other attributes are those of the wrapped stream."""

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
    """Reads the content of images from a store if it has it, else from a remote."""

    def __init__(self, remote: Fetcher, store: Store | None) -> None:
        self._remote = remote
        self._store = store

    def platforms(self, reference: Reference) -> tuple[Platform, ...]:
        """Return the platforms of the index with a name; empty if the name is that of an image.

        Args:
            reference: The name.
        """
        known = None if self._store is None else self._store.images().get(name_in_store(reference))
        if known is not None:
            blob = self.blob(known)
        else:
            # The same request as for an image, whatever the media type.
            blob = self._remote.fetch(reference.object, *(Hint("mediatype", kind) for kind in DEFAULT_ACCEPT))
        if blob.media_type not in INDEXES:
            return ()
        return Children(Index.parse(blob.read(), blob.media_type), self._index).platforms()

    def manifest(self, reference: Reference, platform: Platform | None) -> Blob:
        """Return the manifest with a name.

        Args:
            reference: The name.
            platform: Platform of the image; by default the one in the store, else linux on this machine's architecture.
        """
        known = None if self._store is None else self._store.images().get(name_in_store(reference))
        chosen = platform or Platform.local()
        if known is not None and platform is not None and known.platform is not None:
            known = known if platform.choose([known.platform]) is not None else None  # pulled for another platform
        if known is None:
            return self._remote.fetch(reference.object, Hint("platform", str(chosen)))
        if known.media_type in INDEXES:
            known = Children(self._index(known), self._index).choose(chosen)
        return self.blob(known)

    def _index(self, descriptor: Descriptor) -> Index:
        return Index.parse(self.blob(descriptor).read(), descriptor.media_type)

    def blob(self, descriptor: Descriptor, meter: Meter | None = None) -> Blob:
        """Return a blob, from the store if it has it, else from the remote.

        Args:
            descriptor: Descriptor of the blob.
            meter: Counts the bytes that are fetched from the remote.
        """
        if self._store is not None:
            with contextlib.suppress(NotFound):
                return self._store.blob(descriptor.digest, media_type=descriptor.media_type)
        blob = self._remote.fetch(descriptor)
        if meter is None:
            return blob
        source = MeteredSource(blob._source, meter)
        return Blob(source, blob.digest, size=descriptor.size, media_type=descriptor.media_type)
