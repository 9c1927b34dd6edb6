"""The graph of descriptors that an image or artifact is: read, and bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from attrs import evolve

from distsdk.errors import LimitExceeded, SizeMismatch
from distsdk.spec.choice import MAX_DEPTH, Children, Meanings
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.documents import Index, Manifest
from distsdk.spec.media_types import DEFAULT_ACCEPT, DOCUMENTS
from distsdk.spec.reference import Hint
from distsdk.spec.strict_json import load_json

if TYPE_CHECKING:
    from distsdk.content.blob import Blob
    from distsdk.spec.digest import Digest
    from distsdk.spec.platform import Platform
    from distsdk.spec.reference import Object, Reference

#: Manifests and indexes of one image, and bytes of all of them.
MAX_DOCUMENTS = 1_000
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024

#: Blobs of one image, all its platforms together.
MAX_BLOBS = 100_000


class Fetching(Protocol):
    """Gives blobs, as a `Remote` does."""

    def fetch(self, object: str | Object | Digest | Descriptor, *hints: str | Hint) -> Blob:
        """Return the bytes of an object."""
        ...


class Walk:
    """Reads the documents of an image, and finds all that it consists of.

    Attributes:
        remote: Gives them.
        documents: What was read, by digest: children before parents.
        fetched: Bytes of each document that came from the remote.
    """

    def __init__(self, remote: Fetching) -> None:
        self.remote = remote
        self.documents: dict[Digest, bytes] = {}
        self.fetched: list[int] = []
        self._bytes = 0
        self._meanings = Meanings()
        self._looked_into: set[Digest] = set()
        self._read_already: dict[Digest, bytes] = {}

    def target(self, reference: Reference, platform: Platform | None) -> Descriptor:
        """Return what a name is to stand for: what it stands for at the remote, or its child for a platform."""
        wanted = reference.digest
        known = self.known(wanted) if wanted is not None else None
        if known is None:
            # Hinted to be a document, a digest is looked for among documents first.
            hints = [Hint("mediatype", media_type) for media_type in DEFAULT_ACCEPT] if wanted is not None else []
            blob = self.remote.fetch(reference.object, *hints)
            known = blob.descriptor, blob.read()
            self.fetched.append(len(known[1]))
        descriptor, raw = known
        document = self._parsed(descriptor, raw)
        if platform is not None and isinstance(document, Index):
            descriptor = Children(document, self._index, self._meanings).choose(platform)
            raw = self._read(descriptor)
            self._parsed(descriptor, raw)
        self._read_already[descriptor.digest] = raw
        return evolve(descriptor, annotations={}, urls=(), data=None)

    def _index(self, descriptor: Descriptor) -> Index:
        document = self._parsed(descriptor, self._read(descriptor))
        assert isinstance(document, Index)  # noqa: S101 - as its descriptor says, which parsing holds it against
        return document

    def add(self, descriptor: Descriptor, found: dict[Digest, Descriptor], depth: int = 1) -> None:
        """Add a document and what it refers to: documents before what they refer to, each once.

        Args:
            descriptor: The document.
            found: What there is so far.
            depth: In how many indexes it is, itself included.

        Raises:
            LimitExceeded: There are too many, or they are too deep.
            MalformedDocument: Two descriptors contradict each other, see `Meanings`.
            DistError: A document cannot be had, or is none.
        """
        self._add_once(descriptor, found)
        if descriptor.digest in self._looked_into:
            return
        self._looked_into.add(descriptor.digest)
        document = self._parsed(descriptor, self._read(descriptor))
        if isinstance(document, Manifest):
            for blob in (document.config, *document.layers):
                self._add_once(blob, found)
        else:
            if depth == MAX_DEPTH:
                message = f"indexes within indexes, more than {MAX_DEPTH} deep"
                raise LimitExceeded(message, limit=MAX_DEPTH)
            for child in document.manifests:
                if child.media_type in DOCUMENTS:
                    self.add(child, found, depth + 1)
                else:
                    self._add_once(child, found)
        if len(found) > MAX_BLOBS:
            message = f"the image consists of more than {MAX_BLOBS} blobs"
            raise LimitExceeded(message, limit=MAX_BLOBS)
        self.documents[descriptor.digest] = document.raw

    def _add_once(self, descriptor: Descriptor, found: dict[Digest, Descriptor]) -> None:
        self._meanings.add([descriptor])
        found.setdefault(descriptor.digest, descriptor)

    def remember(self, digest: Digest, raw: bytes) -> None:
        """Let a document be used that was read already, and verified."""
        self._read_already[digest] = raw

    def known(self, digest: Digest) -> tuple[Descriptor, bytes] | None:
        """Return a document that need not be asked for; None where there is no such thing."""
        raw = self.stored(digest)
        if raw is None:
            return None
        return Descriptor(media_type=read_document(raw, None).media_type, digest=digest, size=len(raw)), raw

    def stored(self, digest: Digest) -> bytes | None:
        """Return the bytes of a document that need not be asked for: where there is a store, from there."""
        return None

    def _read(self, descriptor: Descriptor) -> bytes:
        stored = self.stored(descriptor.digest)  # looked at in any case, so that damage is seen
        raw = self._read_already.pop(descriptor.digest, None) or stored or descriptor.data
        if raw is None:
            raw = self.remote.fetch(descriptor).read()
            self.fetched.append(len(raw))
        if len(raw) != descriptor.size:
            message = f"{descriptor.digest} has {len(raw)} bytes, declared are {descriptor.size}"
            raise SizeMismatch(message, expected=descriptor.size, got=len(raw))
        return raw

    def _parsed(self, descriptor: Descriptor, raw: bytes) -> Index | Manifest:
        self._bytes += len(raw)
        if self._bytes > MAX_DOCUMENT_BYTES:
            message = f"the documents of the image have more than {MAX_DOCUMENT_BYTES} bytes"
            raise LimitExceeded(message, limit=MAX_DOCUMENT_BYTES)
        if len(self.documents) >= MAX_DOCUMENTS:
            message = f"the image consists of more than {MAX_DOCUMENTS} manifests and indexes"
            raise LimitExceeded(message, limit=MAX_DOCUMENTS)
        return read_document(raw, descriptor.media_type)


def read_document(raw: bytes, media_type: str | None) -> Index | Manifest:
    """Return the manifest or index that ``raw`` is; None for a media type that is not known."""
    kind = Index if "manifests" in load_json(raw) else Manifest
    return kind.parse(raw, media_type)
