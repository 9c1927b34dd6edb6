"""The protocols that a remote implements."""

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


#: What the bytes of a blob are pushed from: as such, a file by its path or open for reading, pieces, or a blob.
UploadSource: TypeAlias = "bytes | os.PathLike[str] | BinaryIO | Iterable[bytes] | Blob"


#: Referrers that the repr of a list shows.
_SHOWN_REFERRERS = 5


@runtime_checkable
class Fetcher(Protocol):
    """Fetches objects by name: the one power every remote has."""

    @property
    def locator(self) -> Locator:
        """What the remote was made for."""
        ...

    def fetch(self, object: str | Object | Digest | Descriptor, *hints: str | Hint) -> Blob:
        """Return the bytes of an object as a blob.

        Args:
            object: A tag, a digest, ``tag@digest``, or a descriptor.
            hints: ``kind:value``, each a help that need not be taken. ``mediatype:`` says what is expected, in order of
                preference; ``size:`` how many bytes; ``platform:`` which child of an index is meant.

        Raises:
            NotFound: There is no such object.
            MediaTypeMismatch: There is, but of none of the hinted media types.
            PlatformNotFound: There is, but not for the hinted platform.
            InvalidReference, InvalidDigest, InvalidHint: What was asked for cannot be.
        """
        ...


@runtime_checkable
class Located(Protocol):
    """Names the place that answers, where the locator does not."""

    @property
    def endpoint(self) -> str:
        """A URL or a path without secrets; empty where it is the locator."""
        ...


@runtime_checkable
class Resolver(Protocol):
    """Tells what an object's name stands for, without reading it."""

    def resolve(self, object: str | Object | Digest | Descriptor, *hints: str | Hint) -> Descriptor:
        """Return media type, digest and size of an object; arguments and errors as `Remote.fetch`."""
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
    """Takes blobs and documents: what a registry and a layout on this machine can, and an archive cannot."""

    def push_blob(
        self,
        source: UploadSource,
        *,
        descriptor: Descriptor | None = None,
        media_type: str = OCTET_STREAM,
        mount_from: Locator | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> Descriptor:
        """Give the remote a blob, unless it has it already. Once this returns, it is there and has the digest.

        Args:
            source: The bytes: as such, in a file that has a path, in a file that is open for reading (from where it
                stands), one piece after the other, or as a `Blob` of this or any other remote or store. What can be
                read twice (bytes, a path, a seekable file, a blob) goes on where a connection broke; of what cannot,
                the bytes sent since the remote last said how many it has are kept, no more than 16 MiB.
            descriptor: What the bytes have to be. With it, nothing is read of ``source`` where the remote has the
                blob. Of a `Blob`, its own by default. Its size and digest are held against what was read before the
                last byte is sent, and it is what is returned.
            media_type: Of what is returned, where there is no ``descriptor``; blobs themselves have none.
            mount_from: A repository that has the blob. Where it is on the same host, that host is asked to let both
                repositories have it, and no byte is sent if it does; it need not. Elsewhere it is not looked at.
                Takes a ``descriptor``.
            on_progress: Called with the number of bytes sent so far; fewer than before if some are sent again. The last
                call has the size, whether or not bytes were sent.

        Returns:
            Digest, size and media type of what is there now.

        Raises:
            DigestMismatch, SizeMismatch: ``source`` is not what ``descriptor`` says. Nothing was put under its digest.
            IntegrityError: The remote says that it has other bytes than were sent.
            NotFound: The remote knows no such repository and makes none.
            Denied: It takes no blob from whom it is shown, or from anybody.
            Unreachable, DeadlineExceeded, RateLimited, RegistryError: It did not answer well, and trying again did not
                help, or ``source`` cannot be read twice.
            Unsafe: It names a place for the bytes where none may go.
            OSError: ``source`` cannot be read.
        """
        ...

    def push_document(self, data: bytes, media_type: str, *, tag: str | None = None) -> Descriptor:
        """Give the remote a manifest or an index; what that refers to has to be there.

        It is read first as whoever fetches it would: what they would refuse is not pushed. If it has a ``subject``, it
        is listed among the subject's referrers afterwards.

        Args:
            data: The document.
            media_type: Of a manifest or an index.
            tag: A name to give it, which moves if something else has it; None for the digest alone.

        Returns:
            Media type, digest and size of the document.

        Raises:
            MalformedDocument, UnsupportedDocument, LimitExceeded: ``data`` is no document of that type. Nothing was
                asked of anybody.
            InvalidReference: ``tag`` cannot be one.
            DigestMismatch: The remote says that it has another document than was sent.
            DistError: As `push_blob`; the remote refuses a document that refers to what it does not have.
        """
        ...

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the remote has what is described, under its digest; a document among documents, a blob among blobs.

        Raises:
            SizeMismatch: It has it, of another size.
            DistError: As `Remote.fetch`.
        """
        ...


@runtime_checkable
class Deletable(Protocol):
    """Gives up what it has."""

    def delete(self, object: str | Object | Digest) -> None:
        """Remove a tag, or what has a digest.

        Args:
            object: A tag, which is removed alone, as far as the remote can: the document keeps its digest. A digest, of
                a manifest or, if there is none, of a blob. ``tag@digest`` stands for the digest.

        Raises:
            NotFound: There is no such object.
            Denied: The remote does not allow it, or does not allow anybody to.
            RegistryError: It answered otherwise.
        """
        ...


class Referrers:
    """What refers to a document by its ``subject``: read each time one iterates, page by page, and not before.

    Nothing is kept but the first few, for the repr.
    """

    def __init__(self, name: str, read: Callable[[], Iterable[Descriptor]]) -> None:
        """Make a list, for those who write a remote.

        Args:
            name: What is referred to, for the repr.
            read: Called for each iteration; returns what refers to it. What is told twice is passed on once.
        """
        self._name = name
        self._read = read
        self._shown: tuple[Descriptor, ...] = ()
        self._count: int | None = None

    def __iter__(self) -> Iterator[Descriptor]:
        """Yield a descriptor for each, with ``artifact_type`` and ``annotations``, in the remote's order.

        Whether a manifest is about what its list says it is, its own `Manifest.subject` tells whoever fetches it.

        Raises:
            MalformedDocument: The list is not what the specification says.
            Unsafe: A page names a next one that is elsewhere.
            LimitExceeded: It is too long.
            DistError: As `Remote.fetch`.
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
    """Lists what refers to a document: signatures, SBOMs, attestations."""

    def referrers(self, digest: str | Digest | Descriptor, *, artifact_type: str | None = None) -> Referrers:
        """Return what refers to a document. Nothing is asked for until it is iterated over.

        Args:
            digest: Of the document, which need not be there.
            artifact_type: Only those of this type; None for all.

        Raises:
            InvalidDigest: ``digest`` is none.
        """
        ...
