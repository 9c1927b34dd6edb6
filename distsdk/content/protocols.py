"""The protocols that the fetcher of a remote implements: `Fetcher`, and optional ones found by `isinstance`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from distsdk._text import printable, shortened
from distsdk.spec.media_types import OCTET_STREAM

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO

    from distsdk.content.blob import Blob
    from distsdk.spec.descriptor import Descriptor
    from distsdk.spec.digest import Digest
    from distsdk.spec.reference import Hint, Locator, Object


#: Sources of an upload: bytes, the path of a file, a file object, an iterable of bytes, or a blob.
UploadSource: TypeAlias = "bytes | os.PathLike[str] | BinaryIO | Iterable[bytes] | Blob"


#: Referrers to show in a repr.
_SHOWN_REFERRERS = 5


@runtime_checkable
class Fetcher(Protocol):
    """Fetches objects by tag or digest: the only required protocol."""

    @property
    def locator(self) -> Locator:
        """The locator that the remote was opened with."""
        ...

    def fetch(self, object: str | Object | Digest | Descriptor, *hints: str | Hint) -> Blob:
        """Return an object as a blob.

        Args:
            object: A tag, a digest, ``tag@digest``, or a descriptor.
            hints: Optional help, ``kind:value``: ``mediatype:`` an accepted media type, in order of preference;
                ``size:`` the size in bytes; ``platform:`` selects a child of an index.

        Raises:
            NotFound: The object does not exist.
            MediaTypeMismatch: The object has none of the hinted media types.
            PlatformNotFound: The index has no manifest for the hinted platform.
            InvalidReference, InvalidDigest, InvalidHint: An argument is malformed.
        """
        ...


@runtime_checkable
class Located(Protocol):
    """Names the endpoint, if it differs from the locator: a mirror, for example."""

    @property
    def endpoint(self) -> str:
        """A URL or a path without secrets; empty if it is the locator's."""
        ...


@runtime_checkable
class Resolver(Protocol):
    """Resolves the name of an object to its descriptor, without reading the object."""

    def resolve(self, object: str | Object | Digest | Descriptor, *hints: str | Hint) -> Descriptor:
        """Return media type, digest and size of an object.

        Args:
            object: As `Fetcher.fetch`.
            hints: As `Fetcher.fetch`.

        Raises:
            DistError: As `Fetcher.fetch`.
        """
        ...


@runtime_checkable
class TagLister(Protocol):
    """Lists the tags of a repository."""

    def tags(self) -> Iterable[str]:
        """Return the tags, lazily, in the remote's order."""
        ...


@runtime_checkable
class Catalog(Protocol):
    """Lists the repositories of a host."""

    def catalog(self) -> Iterable[str]:
        """Return the repositories, lazily, in the remote's order."""
        ...


@runtime_checkable
class Pushable(Protocol):
    """Accepts blobs and documents, as registries and local layouts do; archives do not."""

    def push_blob(
        self,
        source: UploadSource,
        *,
        descriptor: Descriptor | None = None,
        media_type: str = OCTET_STREAM,
        mount_from: Locator | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> Descriptor:
        """Upload a blob, unless the remote has it. On return, the remote has the blob under its digest.

        Args:
            source: Bytes, the path of a file, a file object (read from its position), an iterable of bytes, or a
                `Blob` of any remote or store. After a broken connection, a source that can be read twice (bytes, a
                path, a seekable file, a blob) resumes. For any other source, the bytes that the remote has not yet
                acknowledged are kept in memory, at most 16 MiB.
            descriptor: The expected digest and size, checked before the last byte is sent, and the returned value. With
                it, ``source`` is not read if the remote has the blob. Defaults to the descriptor of a `Blob`.
            media_type: Of the returned descriptor, without ``descriptor``. The blob itself has no media type.
            mount_from: A repository with the blob. On the same host, the registry is asked to mount the blob from
                there, without an upload; it may decline. On another host, this is ignored. Requires ``descriptor``.
            on_progress: Called with the number of bytes sent so far; fewer than before if some are sent again. The last
                call has the size, whether or not bytes were sent.

        Returns:
            Digest, size and media type of the blob.

        Raises:
            DigestMismatch, SizeMismatch: ``source`` differs from ``descriptor``. Nothing was stored under its digest.
            IntegrityError: The remote reports another digest than that of the sent bytes.
            NotFound: The repository does not exist, and the remote does not create it.
            Denied: The credentials do not permit the upload, or the remote is read-only.
            Unreachable, DeadlineExceeded, RateLimited, RegistryError: The upload failed after retries, or ``source``
                cannot be read again for one.
            Unsafe: The remote redirects the upload to a URL that is not permitted.
            OSError: ``source`` cannot be read.
        """
        ...

    def push_document(self, data: bytes, media_type: str, *, tag: str | None = None) -> Descriptor:
        """Upload a manifest or an index. The remote must already have the objects that it refers to.

        The document is checked first as when it is fetched. If it has a ``subject``, it is added to the subject's
        referrers.

        Args:
            data: The document.
            media_type: Of a manifest or an index.
            tag: The tag to set, which is moved if it exists; None to push by digest.

        Returns:
            Media type, digest and size of the document.

        Raises:
            MalformedDocument, UnsupportedDocument, LimitExceeded: ``data`` is not a document of that type. No request
                was sent.
            InvalidReference: ``tag`` is malformed.
            DigestMismatch: The remote reports another digest than that of the sent document.
            DistError: As `push_blob`; also if the remote lacks an object that the document refers to.
        """
        ...

    def has(self, descriptor: Descriptor) -> bool:
        """Return whether the remote has an object with this digest.

        Args:
            descriptor: The object; its media type says whether it is a document or a blob.

        Raises:
            SizeMismatch: The object has another size.
            DistError: As `Fetcher.fetch`.
        """
        ...


@runtime_checkable
class Deletable(Protocol):
    """Deletes tags, manifests and blobs."""

    def delete(self, object: str | Object | Digest) -> None:
        """Delete a tag, or the object with a digest.

        Args:
            object: A tag, to delete it alone and keep its document, if the remote supports this; or the digest of a
                manifest or, if no manifest has it, of a blob. ``tag@digest`` is read as the digest.

        Raises:
            NotFound: The object does not exist.
            Denied: The credentials do not permit it, or the remote does not support deletion.
            RegistryError: Another error response.
        """
        ...


class Referrers:
    """The referrers of a document: manifests whose ``subject`` it is. Each iteration reads them page by page.

    Only the first few are kept, for the repr.
    """

    def __init__(self, name: str, read: Callable[[], Iterable[Descriptor]]) -> None:
        """Make a list, for authors of remotes.

        Args:
            name: The document, for the repr.
            read: Called for each iteration; returns the referrers. Duplicates are dropped.
        """
        self._name = name
        self._read = read
        self._shown: tuple[Descriptor, ...] = ()
        self._count: int | None = None

    def __iter__(self) -> Iterator[Descriptor]:
        """Yield the descriptor of each referrer, with ``artifact_type`` and ``annotations``, in the remote's order.

        The list is not verified: fetch the manifest and compare `Manifest.subject`.

        Raises:
            MalformedDocument: The list does not follow the specification.
            Unsafe: A page links to a next page on another host.
            LimitExceeded: The list is too long.
            DistError: As `Fetcher.fetch`.
        """
        seen: set[Digest] = set()
        shown: list[Descriptor] = []
        for referrer in self._read():
            if referrer.digest in seen:
                continue
            seen.add(referrer.digest)
            if len(shown) < _SHOWN_REFERRERS:
                shown.append(referrer)
                self._shown = tuple(shown)
            yield referrer
        self._shown, self._count = tuple(shown), len(seen)

    def __repr__(self) -> str:
        if not self._shown and self._count is None:
            return f"<Referrers of {self._name}: not read yet>"
        kinds = (f"{one.artifact_type or one.media_type} {one.digest.short}…" for one in self._shown)
        more = "" if self._count == len(self._shown) else ", …"
        return printable(f"<Referrers of {self._name}: {', '.join(map(shortened, kinds))}{more}>")

    def _repr_html_(self) -> str:
        from distsdk.display.html import referrers

        return referrers(self._name, self._shown, self._count)


@runtime_checkable
class ReferrerLister(Protocol):
    """Lists the referrers of a document: signatures, SBOMs, attestations."""

    def referrers(self, digest: str | Digest | Descriptor, *, artifact_type: str | None = None) -> Referrers:
        """Return the referrers of a document. No request is sent until the iteration.

        Args:
            digest: Of the document, which need not exist.
            artifact_type: Return only those of this type; None for all.

        Raises:
            InvalidDigest: ``digest`` is malformed.
        """
        ...
