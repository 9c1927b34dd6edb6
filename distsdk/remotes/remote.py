"""`Remote`: what `connect` returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from distsdk._repr import Displayed
from distsdk._text import printable, shortened
from distsdk.content.protocols import (
    Catalog,
    Deletable,
    Fetcher,
    Located,
    Pushable,
    ReferrerLister,
    Resolver,
    TagLister,
)
from distsdk.errors import Denied
from distsdk.remotes.tag_list import TagList
from distsdk.spec.media_types import DEFAULT_ACCEPT, INDEXES, OCTET_STREAM
from distsdk.spec.platform import Platform
from distsdk.spec.reference import Hint

if TYPE_CHECKING:
    from collections.abc import Callable

    from distsdk.content.blob import Blob
    from distsdk.content.protocols import Referrers, UploadSource
    from distsdk.display.widgets import TagExplorer
    from distsdk.spec.descriptor import Descriptor
    from distsdk.spec.digest import Digest
    from distsdk.spec.documents import Index, Manifest
    from distsdk.spec.reference import Locator, Object

#: One of the optional protocols.
P = TypeVar("P")

#: What a fetcher cannot do that lacks a protocol, for the message of `Denied`.
_LACKS: dict[type, str] = {
    TagLister: "list tags",
    Catalog: "list repositories",
    ReferrerLister: "list referrers",
    Pushable: "be pushed to",
    Deletable: "delete",
}


class Remote(Displayed):
    """A repository to fetch from, and to push to where its fetcher can.

    Threads may share a remote. A pickled remote carries the locator and the settings without secrets; hosts, proxies
    and logins are looked up again where it is loaded.

    Args:
        fetcher: Implements the requests: distsdk's own for registries, layouts and archives, or a plug-in's.

    Attributes:
        fetcher: As passed.
    """

    _repr_fields = ("locator",)

    def __init__(self, fetcher: Fetcher) -> None:
        self.fetcher = fetcher

    @property
    def locator(self) -> Locator:
        """The locator that the remote was made for."""
        return self.fetcher.locator

    @property
    def endpoint(self) -> str:
        """The URL or path where requests go first; empty where the locator is that already, or the fetcher has none."""
        return self.fetcher.endpoint if isinstance(self.fetcher, Located) else ""

    def fetch(self, object: str | Object | Digest | Descriptor, *hints: str | Hint) -> Blob:
        """Return an object as a blob.

        A tag, or an object that a hint declares to be a document (a manifest or index media type, a platform), is
        requested and read at once, and checked against its media type. Any other blob is requested when it is read.

        Args:
            object: A tag, a digest, ``tag@digest`` (the digest counts), or a descriptor.
            hints: ``kind:value``. ``mediatype:`` may be repeated, in order of preference; ``size:`` is in bytes;
                ``platform:os/architecture[/variant]`` selects the child of an index. Remotes ignore unknown kinds.

        Raises:
            NotFound: The remote does not have the object.
            Denied: The object does not exist, or needs a login.
            MediaTypeMismatch: The object exists, but has none of the hinted media types.
            PlatformNotFound: The index has no manifest for the platform.
            DigestMismatch, SizeMismatch, MalformedDocument, UnsupportedDocument: The document is invalid.
            InvalidReference, InvalidDigest, InvalidHint: An argument is malformed.
            Unreachable, DeadlineExceeded, RateLimited, RegistryError: The request failed.
        """
        return self.fetcher.fetch(object, *hints)

    def resolve(self, object: str | Object | Digest | Descriptor, *hints: str | Hint) -> Descriptor:
        """Return media type, digest and size of an object; with a HEAD request where that is enough.

        Args:
            object: As for `fetch`.
            hints: As for `fetch`.

        Raises:
            DistError: As `fetch`.
        """
        if isinstance(self.fetcher, Resolver):
            return self.fetcher.resolve(object, *hints)
        return self.fetch(object, *hints).descriptor

    def manifest(
        self, object: str | Object | Digest | Descriptor, *, platform: str | Platform | None = None
    ) -> Manifest:
        """Return the manifest of an image or artifact; for an index, the child for a platform.

        Args:
            object: As for `fetch`.
            platform: ``os/architecture[/variant]`` (default: linux on this machine's architecture).

        Raises:
            DistError: As `fetch`.
        """
        from distsdk.spec.documents import Manifest

        chosen = Platform.local() if platform is None else platform
        blob = self.fetch(object, Hint("platform", str(chosen)))
        return Manifest.parse(blob.read(), blob.media_type)

    def index(self, object: str | Object | Digest | Descriptor) -> Index:
        """Return an index.

        Args:
            object: As for `fetch`.

        Raises:
            MediaTypeMismatch: The object is not an index.
            DistError: As `fetch`.
        """
        from distsdk.spec.documents import Index

        blob = self.fetch(object, *(Hint("mediatype", t) for t in DEFAULT_ACCEPT if t in INDEXES))
        return Index.parse(blob.read(), blob.media_type)

    def tags(self) -> TagList:
        """Return the tags of the repository. Nothing is requested before the list is iterated.

        Raises:
            Denied: The remote cannot list tags.
        """
        return TagList(str(self.locator), require(self, TagLister).tags(), remote=self)

    def catalog(self) -> TagList:
        """Return the repositories of the host, which many registries refuse to list.

        Nothing is requested before the list is iterated.

        Raises:
            Denied: The remote cannot list repositories.
        """
        return TagList(self.locator.host, require(self, Catalog).catalog())

    def referrers(self, digest: str | Digest | Descriptor, *, artifact_type: str | None = None) -> Referrers:
        """Return the manifests whose ``subject`` is a digest. Nothing is requested before they are iterated.

        Args:
            digest: Of the subject, which need not exist.
            artifact_type: Only manifests of this type (default: all).

        Raises:
            Denied: The remote cannot list referrers.
            InvalidDigest: ``digest`` is malformed.
        """
        return require(self, ReferrerLister).referrers(digest, artifact_type=artifact_type)

    def has(self, descriptor: Descriptor) -> bool:
        """Return whether the remote has the described document or blob; see `Pushable.has`.

        Raises:
            Denied: The remote cannot be pushed to.
            DistError: As `Pushable.has`.
        """
        return require(self, Pushable).has(descriptor)

    def push_blob(
        self,
        source: UploadSource,
        *,
        descriptor: Descriptor | None = None,
        media_type: str = OCTET_STREAM,
        mount_from: Locator | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> Descriptor:
        """Push a blob unless the remote has it; arguments, result and errors as `Pushable.push_blob`.

        Raises:
            Denied: The remote cannot be pushed to.
        """
        return require(self, Pushable).push_blob(
            source, descriptor=descriptor, media_type=media_type, mount_from=mount_from, on_progress=on_progress
        )

    def push_document(self, data: bytes, media_type: str, *, tag: str | None = None) -> Descriptor:
        """Push a manifest or an index; arguments, result and errors as `Pushable.push_document`.

        Raises:
            Denied: The remote cannot be pushed to.
        """
        return require(self, Pushable).push_document(data, media_type, tag=tag)

    def delete(self, object: str | Object | Digest) -> None:
        """Delete a tag, or the content with a digest; see `Deletable.delete`.

        Raises:
            Denied: The remote cannot delete.
        """
        require(self, Deletable).delete(object)

    def explore(self) -> TagExplorer:
        """Return an explorer of the tags, which opens each as an image: widgets in a notebook, a page elsewhere.

        The tags are requested at once. Display the explorer at the end of a cell, or with ``display``.

        Raises:
            Denied: The remote cannot list tags.
            DistError: As iterating over `tags`.
        """
        from distsdk.display.widgets import TagExplorer

        require(self, TagLister)
        return TagExplorer(self)

    def __reduce__(self) -> tuple[object, ...]:
        return Remote, (self.fetcher,)

    def __repr__(self) -> str:
        at = f" at {shortened(self.endpoint, 200)}" if self.endpoint else ""
        return printable(f"<Remote {shortened(str(self.locator), 400)}{at}>")

    def _repr_html_(self) -> str:
        from distsdk.display.html import remote

        return remote(str(self.locator), self.endpoint)


def fetcher_of(remote: Fetcher) -> Fetcher:
    """Return the fetcher behind a remote, or the fetcher itself."""
    return remote.fetcher if isinstance(remote, Remote) else remote


def require(remote: Fetcher, power: type[P]) -> P:
    """Return a remote's fetcher as one of the optional protocols.

    Args:
        remote: A remote or a fetcher.
        power: A runtime-checkable protocol: `TagLister`, `Catalog`, `ReferrerLister`, `Pushable` or `Deletable`.

    Raises:
        Denied: The fetcher does not implement the protocol.
    """
    fetcher = fetcher_of(remote)
    if isinstance(fetcher, power):
        return fetcher
    message = f"{remote.locator} cannot {_LACKS[power]}: {type(fetcher).__name__} does not implement it"
    raise Denied(message)
