"""The protocols of remotes, and `connect`, which finds the remote for a locator."""

from __future__ import annotations

import functools
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, cast, runtime_checkable

from attrs import frozen

from distsdk.errors import DistWarning, InvalidConfig, InvalidHint, printable
from distsdk.model.descriptor import Descriptor
from distsdk.model.digest import Digest
from distsdk.model.media import DEFAULT_ACCEPT, DOCUMENTS, INDEXES, OCTET_STREAM
from distsdk.model.platform import Platform
from distsdk.model.reference import KNOWN_KINDS, Hint, Locator, Object
from distsdk.model.wording import quoted, shortened

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterable, Iterator
    from importlib.metadata import EntryPoint
    from typing import BinaryIO

    import requests

    from distsdk.blob import Blob
    from distsdk.model.image import Index, Manifest
    from distsdk.transport.credentials import Credentials
    from distsdk.transport.hosts import Hosts, Plan
    from distsdk.transport.http import Limits, Timeouts
    from distsdk.transport.retry import Retry

#: What the bytes of a blob are pushed from: as such, a file by its path or open for reading, pieces, or a blob.
Source: TypeAlias = "bytes | os.PathLike[str] | BinaryIO | Iterable[bytes] | Blob"

#: The entry-point group in which packages offer remotes. An entry point's name is the host that it claims; what it
#: points to is called with a `Locator` and `Settings`, and returns a `Remote`.
PLUGIN_GROUP = "distsdk.remotes"

#: Referrers that the repr of a list shows.
_SHOWN_REFERRERS = 5

#: What a hosts.toml calls the remote for layouts and archives, which needs no plug-in.
LAYOUT = "layout"


@runtime_checkable
class Remote(Protocol):
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
        source: Source,
        *,
        descriptor: Descriptor | None = None,
        media_type: str = OCTET_STREAM,
        mount_from: Locator | None = None,
        at: Callable[[int], object] | None = None,
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
            at: Called with the bytes that were handed to the remote so far; where some have to be sent again, with
                fewer than before. The last call has the size, however the blob got there.

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


class Documents(ABC):
    """What a remote's documents can be read as, written once over `Remote.fetch`."""

    @abstractmethod
    def fetch(self, object: str | Object | Digest | Descriptor, *hints: str | Hint) -> Blob:
        """Return the bytes of an object as a blob; see `Remote`."""

    def manifest(
        self, object: str | Object | Digest | Descriptor, *, platform: str | Platform | None = None
    ) -> Manifest:
        """Return the manifest of an image or artifact; of an index, the child for a platform.

        Args:
            object: As `fetch`.
            platform: ``os/architecture[/variant]``; by default linux on this machine's architecture.

        Raises:
            DistError: As `fetch`.
        """
        from distsdk.model.image import Manifest

        chosen = Platform.local() if platform is None else platform
        blob = self.fetch(object, Hint("platform", str(chosen)))
        return Manifest.parse(blob.read(), blob.media_type)

    def index(self, object: str | Object | Digest | Descriptor) -> Index:
        """Return an index.

        Raises:
            MediaTypeMismatch: It is there, but it is no index.
            DistError: As `fetch`.
        """
        from distsdk.model.image import Index

        blob = self.fetch(object, *(Hint("mediatype", t) for t in DEFAULT_ACCEPT if t in INDEXES))
        return Index.parse(blob.read(), blob.media_type)


@frozen
class Wanted:
    """An object and its hints, read: what `Remote.fetch` is asked for, for those who write one.

    Attributes:
        object: Tag, digest, or both.
        media_types: As hinted, best first; from a descriptor, its own.
        size: In bytes, as hinted or from a descriptor.
        platform: As hinted.
    """

    object: Object
    media_types: tuple[str, ...] = ()
    size: int | None = None
    platform: Platform | None = None

    @classmethod
    def read(cls, wanted: str | Object | Digest | Descriptor, hints: tuple[str | Hint, ...] = ()) -> Wanted:
        """Read the arguments of `Remote.fetch`.

        Hints of unknown kinds are ignored, with a `DistWarning`.

        Raises:
            InvalidReference, InvalidDigest, InvalidHint: They are malformed, or contradict each other.
        """
        if isinstance(wanted, Descriptor):
            own = (Hint("mediatype", wanted.media_type),) if wanted.media_type != OCTET_STREAM else ()
            hints = (*own, Hint("size", str(wanted.size)), *hints)
            wanted = wanted.digest
        if isinstance(wanted, Digest):
            wanted = Object(tag=None, digest=wanted)
        elif isinstance(wanted, str):
            wanted = Object.parse(wanted)
        read = [Hint.parse(hint) if isinstance(hint, str) else hint for hint in hints]
        values = {kind: [h.value for h in read if h.kind == kind] for kind in KNOWN_KINDS}
        for hint in read:
            if hint.kind not in values:
                _warn_of_kind(hint)
        for kind in ("size", "platform"):
            if len(set(values[kind])) > 1:
                message = f"there can be one {kind}: hint only"
                raise InvalidHint(message)
        return cls(
            object=wanted,
            media_types=tuple(dict.fromkeys(values["mediatype"])),
            size=int(values["size"][0]) if values["size"] else None,
            platform=Platform.parse(values["platform"][0]) if values["platform"] else None,
        )

    @property
    def is_document(self) -> bool:
        """Whether it is read at once and whole, as is what goes by a tag or is hinted to be a manifest."""
        return self.object.digest is None or self.platform is not None or not DOCUMENTS.isdisjoint(self.media_types)

    @property
    def accept(self) -> tuple[str, ...]:
        """The media types to accept, best first, as hinted, and indexes, where a child of one may be meant."""
        if not self.media_types:
            return DEFAULT_ACCEPT
        indexes = tuple(t for t in DEFAULT_ACCEPT if t in INDEXES) if self.platform is not None else ()
        return tuple(dict.fromkeys((*self.media_types, *indexes)))

    @property
    def identifier(self) -> str:
        """What stands in the URL."""
        return str(self.object.digest or self.object.tag)


def _warn_of_kind(hint: Hint) -> None:
    """Warn of a hint that no remote here reads, in the line of whoever called the remote's method."""
    import warnings
    from difflib import get_close_matches

    near = get_close_matches(hint.kind.lower(), KNOWN_KINDS, 1)
    advice = f"write {near[0]}:{shortened(hint.value)}" if near else f"known kinds are {', '.join(KNOWN_KINDS)}"
    message = f"hint {quoted(str(hint))} ignored: unknown kind {quoted(hint.kind)}; {advice}"
    warnings.warn(DistWarning(message), stacklevel=4)


@frozen
class Settings:
    """What `connect` was told, for the remote that is made.

    Attributes:
        plan: What the configuration says of the locator's host: its endpoints, or the ``url`` for a plug-in's remote.
        credentials: Where logins are looked up.
        hosts: Certificate authorities and proxies.
        retry: What is tried again.
        timeouts: In seconds.
        limits: In bytes and pages.
        session: Sends the requests; None for a new one.
    """

    plan: Plan
    credentials: Credentials
    hosts: Hosts
    retry: Retry
    timeouts: Timeouts
    limits: Limits
    session: requests.Session | None = None

    @classmethod
    def of(
        cls,
        host: str,
        *,
        credentials: Credentials | None = None,
        hosts: Hosts | None = None,
        retry: Retry | None = None,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
        session: requests.Session | None = None,
    ) -> Settings:
        """Return the settings for a host; for what is not given, those that the environment says.

        Raises:
            InvalidConfig: The environment or the host's configuration cannot be used.
        """
        from distsdk.transport.credentials import Credentials
        from distsdk.transport.hosts import Hosts
        from distsdk.transport.http import Limits, Timeouts
        from distsdk.transport.retry import Retry

        hosts = hosts or Hosts.from_environment()
        return cls(
            plan=hosts.plan(host),
            credentials=credentials or Credentials.from_environment(),
            hosts=hosts,
            retry=retry or Retry(),
            timeouts=timeouts or Timeouts(),
            limits=limits or Limits(),
            session=session,
        )

    def portable(self) -> dict[str, Any]:
        """Return what `of` needs to make such settings elsewhere: nothing secret, and no connection."""
        return {name: getattr(self, name) for name in ("credentials", "hosts", "retry", "timeouts", "limits")}


def connect(
    locator: str | Locator,
    *,
    session: requests.Session | None = None,
    credentials: Credentials | None = None,
    hosts: Hosts | None = None,
    retry: Retry | None = None,
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
) -> Remote:
    """Return the remote for a locator. Nothing is asked of anybody yet, and no file is read.

    A path or a URL is an image layout or an archive. A host that configuration gives to another kind of remote
    (``remote`` in its hosts.toml), or that an installed package claims (entry-point group ``distsdk.remotes``), gets
    that; every other host is taken to be a registry that speaks the OCI distribution protocol.

    Args:
        locator: Host and path without a scheme, ``docker.io/library/redis``; a familiar name such as ``redis`` will do.
            A host alone, ``localhost:5000``, gives a remote that can list its repositories and nothing else. Or the
            path of files, ``./layout``, or their URL, ``s3://bucket/layout``: of what follows, only ``limits`` counts
            then.
        session: Sends the requests; its adapters, ``verify`` and ``cert`` count. By default a new one does.
        credentials: The login for the host, or where to look it up; by default in the files and through the helpers
            that docker, podman and skopeo use.
        hosts: Mirrors, TLS and proxies; by default what the environment says.
        retry: What is tried again, and when.
        timeouts: In seconds.
        limits: In bytes and pages.

    Raises:
        InvalidReference: The locator is none.
        InvalidConfig: The environment, the host's configuration, or a package that claims the host, cannot be used.

    Examples:
        >>> remote = distsdk.connect("docker.io/library/redis")
        >>> remote.resolve("7").media_type
        'application/vnd.oci.image.index.v1+json'
    """
    if isinstance(locator, str):
        locator = Locator.parse(locator)
    if locator.names_files:
        from distsdk.layout.documents import MAX_DOCUMENT
        from distsdk.remotes.files import files_at
        from distsdk.remotes.layout import layout_remote

        return layout_remote(locator, files_at(locator.path), MAX_DOCUMENT if limits is None else limits.document)
    settings = Settings.of(
        locator.host,
        credentials=credentials,
        hosts=hosts,
        retry=retry,
        timeouts=timeouts,
        limits=limits,
        session=session,
    )
    return _factory(locator.host, settings.plan)(locator, settings)


def _factory(host: str, plan: Plan) -> Callable[[Locator, Settings], Remote]:
    if plan.remote == LAYOUT:
        from distsdk.remotes.layout import LayoutRemote

        return LayoutRemote.configured
    if plan.remote is not None:
        entry_point = _plugins().get(plan.remote)
        if entry_point is None:
            message = f"{plan.why} gives {host} to the remote {plan.remote!r}, which no installed package offers"
            raise InvalidConfig(message)
    else:
        entry_point = _plugins().get(host) or _plugins().get(host.rpartition(":")[0])
    if entry_point is None:
        from distsdk.remotes.registry import RegistryRemote

        return RegistryRemote
    try:
        return cast("Callable[[Locator, Settings], Remote]", entry_point.load())
    except (ImportError, AttributeError) as error:
        message = f"the plug-in {entry_point.value!r}, which claims {host}, cannot be loaded: {error}"
        raise InvalidConfig(message) from error


@functools.cache
def _plugins() -> dict[str, EntryPoint]:
    """Return the plug-ins by the host they claim. The installed packages are looked through once a process."""
    from importlib.metadata import entry_points

    return {entry_point.name: entry_point for entry_point in entry_points(group=PLUGIN_GROUP)}
