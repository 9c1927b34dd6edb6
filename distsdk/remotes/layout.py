"""Images in files: an OCI image layout in a folder or an archive, or an archive of ``docker save``.

https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
"""

from __future__ import annotations

import contextlib
import os
import threading
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from distsdk._moved import moved_names
from distsdk._text import quoted, shortened
from distsdk.content.blob import Blob
from distsdk.content.protocols import Referrers
from distsdk.content.request import FetchRequest
from distsdk.content.source import Stat
from distsdk.errors import (
    DistError,
    InvalidConfig,
    InvalidReference,
    LimitExceeded,
    MalformedDocument,
    MediaTypeMismatch,
    NotFound,
    SizeMismatch,
)
from distsdk.layout.docker import MANIFEST, DockerArchive
from distsdk.layout.documents import MAX_DOCUMENT, VERSION_FILE, names_of
from distsdk.layout.files import LocalFiles
from distsdk.layout.reader import Layout
from distsdk.layout.tar import TarFiles
from distsdk.remotes.files import files_at
from distsdk.remotes.referrers import as_referrer, chosen, fallback_tag, parse_document
from distsdk.spec.choice import Children
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.documents import Index, check_document
from distsdk.spec.media_types import (
    DOCKER_DOCUMENTS,
    DOCUMENTS,
    INDEXES,
    MANIFESTS,
    OCI_INDEX,
    OCI_MANIFEST,
    OCTET_STREAM,
    SCHEMA1,
)
from distsdk.spec.reference import Locator, Object, Reference
from distsdk.spec.strict_json import load_json, optional_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distsdk.content.source import ByteStream
    from distsdk.layout.files import Files
    from distsdk.remotes.settings import Settings
    from distsdk.spec.reference import Hint

#: The tag where none is written: in files it also stands for the only image there is.
_ONLY = "latest"

_SHOWN_NAMES = 20


class Contents(Protocol):
    """What files hold, by name and by digest."""

    def entries(self) -> list[Descriptor]:
        """Return what has a name, told by annotations, and what else is listed beside it."""
        ...

    def open(self, digest: Digest, offset: int, end: int | None) -> ByteStream:
        """Open what has a digest; as `Files.open`."""
        ...

    def size(self, digest: Digest) -> int | None:
        """Return its size in bytes, None where that is not told; errors as `open`."""
        ...


class LayoutFetcher:
    """Reads the images in a layout or an archive; which of them it is, is told by its content.

    Threads may share one. It holds no open file; of an archive it remembers where things are, until the archive is
    replaced. Pickles carry the place.
    """

    def __init__(self, locator: Locator, files: Files, limit: int = MAX_DOCUMENT) -> None:
        """Use `distsdk.connect`.

        Args:
            locator: What the remote is made for.
            files: Where that is.
            limit: Bytes of a document.
        """
        self._locator = locator
        self._files = files
        self._limit = limit
        self._held: tuple[tuple[object, ...] | None, Contents] | None = None
        self._lock = threading.RLock()
        self._process = os.getpid()

    @classmethod
    def configured(cls, locator: Locator, settings: Settings) -> LayoutFetcher:
        """Return the remote for a host that configuration gives to files: its ``url``, and the locator's path below it.

        Raises:
            InvalidConfig: There is no ``url``, or it is none of a folder.
            InvalidReference: The locator is a host alone.
        """
        plan = settings.plan
        if not plan.url or plan.url.startswith("."):
            message = (
                f'{plan.why}: with remote = "layout", url must be the URL or the whole path of a folder of layouts'
            )
            raise InvalidConfig(message)
        if not locator.path:
            message = f"{locator.host} is a folder of layouts: add the name of one, {locator.host}/name"
            raise InvalidReference(message)
        place = f"{plan.url.rstrip('/')}/{locator.path}"
        try:
            Locator("", f"{place}/" if place.startswith("http") else place)
        except InvalidReference as error:
            message = f"{plan.why}: url: {error}"
            raise InvalidConfig(message) from error
        return layout_fetcher(locator, files_at(place), settings.limits.document)

    @property
    def locator(self) -> Locator:
        """What the remote was made for."""
        return self._locator

    def fetch(self, object: str | Object | Digest | Descriptor, *hints: str | Hint) -> Blob:
        """Return the bytes of an object as a blob.

        A tag, or what is hinted to be a document, is read at once. Anything else costs nothing until it is read.

        Args:
            object: A tag, a digest, ``tag@digest`` (the digest counts), or a descriptor. A tag names the image that
                is called so, or whose full name ends in that tag if there is only one; ``latest``, where nothing is
                called so, the only image there is.
            hints: As for `Remote.fetch`.

        Raises:
            NotFound: There is no such file or object, or several images have that tag; the message has their names.
            MediaTypeMismatch: It is there, but of none of the hinted media types.
            PlatformNotFound: The index has nothing for the platform.
            DigestMismatch, SizeMismatch, MalformedDocument, UnsupportedDocument: What is there is not to be used.
            Unsafe: There is a link, or no regular file, where a file belongs.
            Denied, Unreachable, DeadlineExceeded: The files cannot be read.
            MissingExtra, InvalidConfig: A package that the URL takes is not installed.
        """
        return self._blob(FetchRequest.read(object, hints))

    def _blob(self, wanted: FetchRequest) -> Blob:
        if wanted.is_document:
            return self._document(wanted)
        digest = wanted.object.digest
        assert digest is not None  # noqa: S101 - or it would be a document
        media_type = wanted.media_types[0] if len(wanted.media_types) == 1 else None
        return Blob(_LayoutSource(self, digest), digest, size=wanted.size, media_type=media_type)

    def resolve(self, object: str | Object | Digest | Descriptor, *hints: str | Hint) -> Descriptor:
        """Return media type, digest and size of an object; arguments and errors as `fetch`."""
        wanted = FetchRequest.read(object, hints)
        blob = self._blob(wanted)
        if wanted.is_document:
            return blob.descriptor
        stat = self._stat(blob.digest)  # what is there, whatever the hints say
        hinted = wanted.media_types[0] if len(wanted.media_types) == 1 else OCTET_STREAM
        return Descriptor(stat.media_type or hinted, blob.digest, blob.size if stat.size is None else stat.size)

    def tags(self) -> _LayoutTags:
        """Return the tags that name one image each, in the order of ``index.json``; see `TagLister.tags`."""
        return _LayoutTags(self)

    def referrers(self, digest: str | Digest | Descriptor, *, artifact_type: str | None = None) -> Referrers:
        """Return what refers to a document, to be iterated over. Nothing is read until then.

        That is what the list of images has and what is in an index that is called as the tag for lists of referrers
        (distribution-spec, "Referrers Tag Schema"). Every document of the list is read for it.

        Args:
            digest: Of the document, which need not be there.
            artifact_type: Only those of this type.

        Raises:
            InvalidDigest: ``digest`` is none.
        """
        if isinstance(digest, Descriptor):
            digest = digest.digest
        subject = Digest.parse(digest) if isinstance(digest, str) else digest
        name = f"{shortened(str(self._locator), 400)}@{subject}"
        return Referrers(name, lambda: chosen(self._referrers(subject), subject, artifact_type))

    def _referrers(self, subject: Digest) -> Iterator[Descriptor]:
        for entry in self._contents().entries():
            if entry.media_type not in DOCUMENTS:
                continue
            with contextlib.suppress(DistError):  # what cannot be read is about nothing
                raw = self._read(entry.digest, None)
                if fallback_tag(subject) in names_of(entry) and entry.media_type == OCI_INDEX:
                    yield from Index.parse(raw, OCI_INDEX).manifests
                document = parse_document(raw, entry.media_type)
                if document.subject is not None and document.subject.digest == subject:
                    yield as_referrer(document, entry.digest)

    @property
    def endpoint(self) -> str:
        """The place of the files; empty where the locator is that place."""
        return "" if self._locator.names_files else self._files.shown()

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self._locator, self._files, self._limit)

    # What the files are

    def _contents(self, *, anew: bool = True) -> Contents:
        """Return what the files hold.

        Args:
            anew: Whether to see first that an archive is still the same one.
        """
        if self._process != os.getpid():  # a fork, maybe in the middle of another thread's turn
            self._lock, self._process = threading.RLock(), os.getpid()
        with self._lock:
            if self._held is not None:
                identity, contents = self._held
                if identity is None or not anew or identity == self._files.identity():
                    return contents
            self._held = self._look()
            return self._held[1]

    def _look(self) -> tuple[tuple[object, ...] | None, Contents]:
        layout = Layout(self._files, self._limit)
        try:
            layout.check()
        except NotFound:
            pass
        else:
            return None, layout
        try:
            identity = self._files.identity()
        except NotFound as error:
            message = f"there is no image layout, and no archive, at {self._files.shown()}: {error}"
            raise NotFound(message) from error
        return identity, _archive_contents(TarFiles.read(self._files), self._limit)

    def _names(self) -> _Names:
        return _Names(self._contents().entries(), self._files.shown())

    # Documents

    def _document(self, wanted: FetchRequest) -> Blob:
        """Read a document whole, check it, and follow an index if a platform is wanted."""
        described: str | None
        size: int | None
        if wanted.object.digest is None:
            found = self._names().find(str(wanted.object.tag))
            digest, size, described = found.digest, found.size, found.media_type
        else:
            digest, size = wanted.object.digest, wanted.size
            described = self._described(digest)
        if wanted.size not in {None, size}:
            message = f"{digest} has {size} bytes, declared are {wanted.size}"
            raise SizeMismatch(message, expected=wanted.size or 0, got=size or 0)
        blob, media_type = self._one_document(digest, size, described, wanted)
        if wanted.platform is not None and media_type in INDEXES:

            def read(index: Descriptor) -> Index:
                found, media_type = self._one_document(index.digest, index.size, index.media_type, wanted)
                return Index.parse(found.read(), media_type)

            child = Children(Index.parse(blob.read(), media_type), read).choose(wanted.platform)
            blob, media_type = self._one_document(child.digest, child.size, child.media_type, wanted)
        _check_type(wanted, media_type, blob.digest)
        return blob

    def _one_document(
        self, digest: Digest, size: int | None, described: str | None, wanted: FetchRequest
    ) -> tuple[Blob, str]:
        """Return a document, read whole, and its media type; of anything else, what it is described as."""
        if described is not None and described not in DOCUMENTS | SCHEMA1:
            return Blob(_LayoutSource(self, digest), digest, size=size, media_type=described), described
        raw = self._read(digest, size)
        media_type = _type_of(raw, described, wanted)
        return Blob.from_bytes(raw, media_type=media_type, digest=digest), media_type

    def _described(self, digest: Digest) -> str | None:
        """Return the media type that the list of images has for a digest."""
        return next((entry.media_type for entry in self._contents().entries() if entry.digest == digest), None)

    def _read(self, digest: Digest, size: int | None) -> bytes:
        source = _LayoutSource(self, digest)
        there = self._contents(anew=False).size(digest)
        if there is not None and there > self._limit:
            message = f"{digest} in {self._files.shown()} has {there} bytes, more than the {self._limit} of a document"
            raise LimitExceeded(message, limit=self._limit)
        return Blob(source, digest, size=size).read(limit=self._limit)

    def _stat(self, digest: Digest) -> Stat:
        """Return the size of what has a digest; and its media type, if it is a document."""
        contents = self._contents()
        size = contents.size(digest)
        if size is None or size <= self._limit:
            with contextlib.closing(contents.open(digest, 0, 1)) as stream:
                first = stream.read(1)
            if first == b"{":  # as every document begins that a tool wrote
                with contextlib.suppress(DistError):
                    media_type = _type_of(self._read(digest, None), self._described(digest), None)
                    return Stat(size, media_type if media_type in DOCUMENTS else None)
        return Stat(size)


def layout_fetcher(locator: Locator, files: Files, limit: int) -> LayoutFetcher:
    """Return the remote for files: one that writes directories or archives, unless they are behind a URL."""
    from distsdk.remotes.archive import ArchiveFetcher, names_archive
    from distsdk.remotes.folder import FolderFetcher

    if not isinstance(files, LocalFiles):
        return LayoutFetcher(locator, files, limit)
    return (ArchiveFetcher if names_archive(files.root) else FolderFetcher)(locator, files, limit)


@frozen
class _LayoutTags:
    """The tags in a layout, read from ``index.json`` each time they are iterated."""

    fetcher: LayoutFetcher

    def __iter__(self) -> Iterator[str]:
        return iter(self.fetcher._names().tags())


@frozen
class _LayoutSource:
    """The bytes with a digest, as files have them."""

    remote: LayoutFetcher
    digest: Digest

    def open(self, offset: int, end: int | None) -> ByteStream:
        return self.remote._contents(anew=False).open(self.digest, offset, end)

    def stat(self) -> Stat:
        return self.remote._stat(self.digest)


class _Names:
    """What images are called."""

    def __init__(self, entries: list[Descriptor], shown: str) -> None:
        self._entries = entries
        self._shown = shown
        #: By the name itself, and by the tag of a full name. Each has the images, by their digests.
        self._exact: dict[str, dict[Digest, Descriptor]] = {}
        self._full: dict[str, dict[Digest, Descriptor]] = {}
        last: dict[str, Descriptor] = {}
        for entry in entries:
            for name in names_of(entry):
                tag, group = _tag_of(name)
                if tag is None:
                    continue
                found = (self._exact if group else self._full).setdefault(tag, {})
                # A store has an index of OCI's before a document of Docker's, for tools that know no other.
                before = last.get(name)
                if before is not None and before.media_type == OCI_INDEX and entry.media_type in DOCKER_DOCUMENTS:
                    found.pop(before.digest, None)
                found[entry.digest] = last[name] = entry

    def tags(self) -> list[str]:
        """Return what `find` finds, without the only image's ``latest``."""
        tags = dict.fromkeys([*self._exact, *self._full])
        return [tag for tag in tags if len(self._exact.get(tag) or self._full[tag]) == 1]

    def find(self, tag: str) -> Descriptor:
        """Return the image that a tag names.

        Raises:
            NotFound: There is none, or more than one.
        """
        found = self._exact.get(tag) or self._full.get(tag) or (self._only() if tag == _ONLY else {})
        if len(found) == 1:
            return next(iter(found.values()))
        if found:
            names = "; ".join(f"{', '.join(names_of(entry))} is {entry.digest}" for entry in found.values())
            message = (
                f"{len(found)} images in {self._shown} have the tag {quoted(tag)}, ask for one by its digest: "
                f"{shortened(names, 1000)}"
            )
            raise NotFound(message)
        names = ", ".join(
            list(dict.fromkeys(name for entry in self._entries for name in names_of(entry)))[:_SHOWN_NAMES]
        )
        there = f"there are {shortened(names, 400)}" if names else "no image there has a name: ask by digest"
        message = f"no image in {self._shown} has the tag {quoted(tag)}: {there}"
        raise NotFound(message)

    def _only(self) -> dict[Digest, Descriptor]:
        named = {
            digest: entry for found in (*self._exact.values(), *self._full.values()) for digest, entry in found.items()
        }
        found = named or {entry.digest: entry for entry in self._entries}
        return found if len(found) == 1 else {}


def _tag_of(name: str) -> tuple[str | None, bool]:
    """Return the tag that an image's name is or ends in, None for none; and whether that is all of it."""
    with contextlib.suppress(DistError):
        return Object(name).tag, True
    with contextlib.suppress(DistError):
        reference = Reference.parse(name)
        if not reference.locator.names_files:
            return reference.tag, False
    return None, False


def _archive_contents(tar: TarFiles, limit: int) -> Contents:
    """Return what an archive holds: a layout, if there is a good one, or else what ``docker save`` lists."""
    layout = Layout(tar, limit)
    saved = MANIFEST in tar.members
    if VERSION_FILE in tar.members:
        layout.check()
        if not (saved and layout.lacks_layers()):
            return layout
    if saved:
        return DockerArchive(tar, limit)
    message = f"{tar.shown()} has neither an OCI layout (oci-layout, index.json) in it nor Docker's manifest.json"
    raise MalformedDocument(message)


def _type_of(raw: bytes, described: str | None, wanted: FetchRequest | None) -> str:
    """Return the media type of a document, on which all that tells of it agrees; there is no header in a file.

    Raises:
        MalformedDocument, MediaTypeMismatch, UnsupportedDocument: They do not, or it is no document.
    """
    if described is None:
        fields = load_json(raw)
        described = optional_text(fields, "mediaType", "")
        if not described and fields.get("schemaVersion") == 2:
            # Where even the body is silent, whoever led here counts, if that can be.
            kinds, likely = (INDEXES, OCI_INDEX) if "manifests" in fields else (MANIFESTS, OCI_MANIFEST)
            hinted = wanted.media_types if wanted is not None else ()
            described = next((media_type for media_type in hinted if media_type in kinds), likely)
    check_document(raw, described)
    return described if described in DOCUMENTS else OCTET_STREAM


def _check_type(wanted: FetchRequest, media_type: str, digest: Digest) -> None:
    """Hold a media type against the hints.

    Raises:
        MediaTypeMismatch: It is none of them.
    """
    if media_type in wanted.accept:
        return
    message = (
        f"{digest} is {media_type}, not {' or '.join(wanted.media_types or wanted.accept)}: "
        f"fetch it with the hint mediatype:{media_type}"
    )
    if media_type in INDEXES:
        message += ", or add a hint platform:os/architecture to be led to one of its children"
    raise MediaTypeMismatch(message, expected=wanted.media_types or wanted.accept, got=media_type)


if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__ = moved_names(__name__)
