"""Copying: an image or artifact, and all that it consists of, from one place to another."""

from __future__ import annotations

import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING

from attrs import evolve

from distsdk._text import quoted
from distsdk.content.blob import Blob
from distsdk.content.protocols import Pushable, ReferrerLister
from distsdk.errors import DigestMismatch, InvalidConfig, InvalidReference, MalformedDocument, NotFound
from distsdk.layout.writer import plan_docker
from distsdk.remotes.archive import ArchiveFetcher
from distsdk.remotes.connect import connect
from distsdk.remotes.remote import fetcher_of, require
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.documents import ImageConfig, Manifest
from distsdk.spec.media_types import FOREIGN_LAYERS, OCTET_STREAM
from distsdk.spec.platform import Platform
from distsdk.spec.reference import Hint, Locator, Object, Reference
from distsdk.store.store import Store
from distsdk.transfer.events import reporting
from distsdk.transfer.graph import Walk, read_document
from distsdk.transfer.pull import name_in_store
from distsdk.transfer.upload_set import UploadSet, layout_plan, opened_target, push_target, send
from distsdk.transfer.workers import JOBS

if TYPE_CHECKING:
    from collections.abc import Callable

    from distsdk.content.protocols import Fetcher, Referrers, UploadSource
    from distsdk.layout.writer import ArchivePlan
    from distsdk.transfer.events import Event
    from distsdk.transfer.upload_set import PushTarget

#: What cosign puts behind the digest of an image, to a tag for what belongs to it.
_COSIGN = (".sig", ".att", ".sbom")

#: Characters of a tag.
_MAX_TAG = 128

_log = logging.getLogger(__name__)


def copy(
    source: str | Reference,
    target: str | Reference | Store,
    *,
    platform: str | Platform | None = None,
    referrers: bool = False,
    source_remote: Fetcher | Store | None = None,
    target_remote: Fetcher | Store | None = None,
    docker: bool = False,
    force: bool = False,
    progress: bool | Callable[[Event], object] = False,
    jobs: int = JOBS,
) -> Descriptor:
    """Copy an image or artifact, byte for byte, so that it keeps its digest.

    Only what is missing is read and sent, from one to the other, and nothing is written to disk between them; within
    one registry not even that, where it lets one repository have the blobs of another. Everything is verified. Blobs
    come first, then the documents that refer to them, and the tag last, when all of it is there.

    Args:
        source: What to copy: ``redis:7``, ``./layout:7``.
        target: What it is to be: ``registry.example/redis:7``, ``./layout:7``; or ``./new.tar`` for an OCI archive,
            which is written whole, with the source's tag unless it has one. A store takes it by the source's name. If
            it has a digest, it has to be that of what is copied.
        platform: Of an index, only the child for this platform, ``os/architecture[/variant]``; by default all of it.
        referrers: Also what refers to it and its children (signatures, SBOMs, attestations), what refers to that in
            turn, and what cosign keeps under tags.
        source_remote: Gives it: a remote, or a store that has it by that name. By default `connect` finds one.
        target_remote: Takes it: a remote, or a store. By default `connect` finds one.
        docker: Write the archive of one image as ``docker load`` takes it; without ``platform``, of an index the child
            for linux on this machine's architecture.
        force: Replace an archive that exists.
        progress: Show a bar where there is somebody to see it, unless ``DISTSDK_DISABLE_PROGRESS`` is set; or call this
            with each `Event`, in the calling thread.
        jobs: Blobs that are carried at once.

    Returns:
        What was copied: media type, digest, size.

    Raises:
        NotFound: The source does not have it, or a part of it.
        PlatformNotFound: The index has nothing for the platform.
        InvalidConfig: ``docker`` is set, and the target is not an archive, or ``referrers`` is set too.
        InvalidReference: With ``docker``, the target has a tag, and the source no name to go with it.
        UnsupportedDocument: ``docker load`` does not take what is copied.
        Unsafe: The archive exists.
        Denied: The target takes nothing, or the source lists no referrers; or not for whom they are shown.
        DigestMismatch: What came is not to be used, or not what the target's digest says.
        LimitExceeded: There are too many documents or blobs, or indexes within indexes.
        DistError: As `Remote.fetch` and `Pushable.push_blob`.
    """
    if isinstance(source, str):
        source = Reference.parse(source)
    if isinstance(target, Store):
        target_remote = target
        wanted = source
    else:
        wanted = Reference.parse(target) if isinstance(target, str) else target
    if isinstance(platform, str):
        platform = Platform.parse(platform)
    if docker and referrers:
        message = "an archive for docker load holds an image alone; leave referrers out, or docker"
        raise InvalidConfig(message)
    if docker and platform is None:
        platform = Platform.local()
    giver: Fetcher | _Shelf
    if isinstance(source_remote, Store):
        giver = _Shelf(source_remote, source.locator)
    else:
        giver = source_remote or connect(source.locator)
    taker = target_remote or connect(wanted.locator)
    name, image_name = _names(source, target, wanted, taker, docker=docker)
    lister = _lister(giver) if referrers else None
    walk = Walk(giver)
    root = walk.target(source, platform)
    if wanted.digest not in {None, root.digest}:
        message = f"{source} is {root.digest}, and the target is to be {wanted.digest}"
        raise DigestMismatch(message, expected=str(wanted.digest), got=str(root.digest))
    mount_from = None if isinstance(giver, _Shelf) else giver.locator
    with reporting(progress) as report:
        cargo = _cargo(walk, root, name, str(wanted), lister=lister, mount_from=mount_from)

        def plan() -> ArchivePlan:
            return _docker_plan(walk, root, image_name) if docker else layout_plan(cargo, image_name)

        with contextlib.ExitStack() as held:
            if isinstance(taker, Store):
                held.enter_context(taker.lease())
                opened: PushTarget = _Shelf(taker, wanted.locator)
            else:
                opened = held.enter_context(opened_target(taker, plan, force=force))
            send(cargo, opened, report, jobs)
    return root


def _names(
    source: Reference, target: str | Reference | Store, wanted: Reference, taker: Fetcher | Store, *, docker: bool
) -> tuple[str | None, str | None]:
    """Return the name that the source gets at the target, and in an archive its full name; None for neither.

    Raises:
        Denied: The target takes nothing.
        InvalidConfig, InvalidReference: The target is not an archive for ``docker load``, or cannot name the image.
    """
    if not isinstance(taker, Store) and isinstance(fetcher_of(taker), ArchiveFetcher):
        return _names_in_archive(source, target, docker=docker)
    if docker:
        message = f"docker load takes an archive, and {wanted.locator} is not one; name a file that ends in .tar"
        raise InvalidConfig(message)
    if isinstance(taker, Store):
        return wanted.object, None
    push_target(taker)  # before anything is read
    return wanted.tag, None


def _names_in_archive(
    source: Reference, target: str | Reference | Store, *, docker: bool
) -> tuple[str | None, str | None]:
    """Return the tag that the source gets in an archive, the source's own unless one is written, and its full name.

    Raises:
        InvalidReference: ``docker load`` needs a repository beside the tag, and a source in files has none.
    """
    assert not isinstance(target, Store)  # noqa: S101 - a store is not an archive
    written = Reference.parse(target).tag if isinstance(target, str) else target.tag
    if isinstance(target, str):
        with contextlib.suppress(InvalidReference):
            Locator.parse(target)  # it is one where no tag is written
            written = None
    tag = written or source.tag
    if tag is None or not source.locator.names_files:
        return tag, None if tag is None else f"{source.locator}:{tag}"
    if docker and written is not None:
        message = (
            f"an archive for docker load cannot name the image {quoted(written)}: {source.locator} has no repository's "
            "name; leave the tag out"
        )
        raise InvalidReference(message)
    return tag, None


def _docker_plan(walk: Walk, root: Descriptor, image_name: str | None) -> ArchivePlan:
    """Plan an archive for ``docker load``, for an image whose config and manifest agree.

    Raises:
        UnsupportedDocument: It is not an image that ``docker load`` takes.
        MalformedDocument: Config and manifest contradict each other.
    """
    manifest = Manifest.parse(walk.documents[root.digest], root.media_type)
    plan = plan_docker(manifest, [] if image_name is None else [image_name])
    config = ImageConfig.parse(walk.remote.fetch(manifest.config).read())
    if len(config.diff_ids) != len(manifest.layers):
        message = f"{root.digest} has {len(manifest.layers)} layers, and its config lists {len(config.diff_ids)}"
        raise MalformedDocument(message)
    return plan


def _cargo(
    walk: Walk,
    root: Descriptor,
    tag: str | None,
    name: str,
    *,
    lister: ReferrerLister | None,
    mount_from: Locator | None,
) -> UploadSet:
    """Find all that is to be copied."""
    found: dict[Digest, Descriptor] = {}
    tags: list[tuple[str, Digest]] = []
    walk.add(root, found)
    if lister is not None:
        _add_referrers(walk, lister, found, tags)
    documents: list[tuple[Descriptor, bytes, str | None]]
    documents = [(found[digest], raw, None) for digest, raw in walk.documents.items()]
    if tag is not None:
        if documents[-1][0].digest == root.digest and not tags:
            documents.pop()  # nothing comes between it and its name
        tags.append((tag, root.digest))
    documents += [(found[digest], walk.documents[digest], text) for text, digest in tags]

    def source(descriptor: Descriptor) -> UploadSource:
        if descriptor.data is not None:
            return Blob.from_bytes(descriptor.data, digest=descriptor.digest)
        return walk.remote.fetch(evolve(descriptor, platform=None))

    blobs = tuple(d for d in found.values() if d.digest not in walk.documents and not _stays(d))
    return UploadSet(name, root, documents, blobs, source, mount_from)


def _stays(descriptor: Descriptor) -> bool:
    """Whether a layer is not to be given to others: it is where its ``urls`` say."""
    # https://github.com/opencontainers/image-spec/blob/v1.1.1/layer.md#non-distributable-layers
    return bool(descriptor.urls) and descriptor.media_type in FOREIGN_LAYERS


def _add_referrers(
    walk: Walk, lister: ReferrerLister, found: dict[Digest, Descriptor], tags: list[tuple[str, Digest]]
) -> None:
    """Add what refers to the documents so far, and to those that it adds itself, and what cosign has of them."""
    todo = deque(walk.documents)
    asked: set[Digest] = set()
    while todo:
        subject = todo.popleft()
        if subject in asked:
            continue
        asked.add(subject)
        for descriptor in lister.referrers(subject):
            _add_referrer(walk, descriptor, found)
        for suffix in _COSIGN:
            tag = f"{subject.algorithm}-{subject.hex}{suffix}"
            tagged = _add_tagged(walk, tag, found)
            if tagged is not None:
                tags.append((tag, tagged.digest))
        todo += [digest for digest in walk.documents if digest not in asked]


def _add_referrer(walk: Walk, descriptor: Descriptor, found: dict[Digest, Descriptor]) -> None:
    descriptor = Descriptor(descriptor.media_type, descriptor.digest, descriptor.size)
    try:
        walk.remember(descriptor.digest, walk.remote.fetch(descriptor).read())
    except NotFound:
        # Where clients keep the list, who removes a manifest need not know of it.
        _log.warning("%s is listed as a referrer, and is not there: left out", descriptor.digest)
        return
    walk.add(descriptor, found)


def _add_tagged(walk: Walk, tag: str, found: dict[Digest, Descriptor]) -> Descriptor | None:
    if len(tag) > _MAX_TAG:
        return None
    try:
        blob = walk.remote.fetch(tag)
    except NotFound:
        return None
    descriptor = blob.descriptor
    walk.remember(descriptor.digest, blob.read())
    walk.add(descriptor, found)
    return descriptor


def _lister(giver: Fetcher | _Shelf) -> ReferrerLister:
    return giver if isinstance(giver, _Shelf) else require(giver, ReferrerLister)


class _Shelf:
    """A store, as what gives and takes."""

    def __init__(self, store: Store, locator: Locator) -> None:
        self._store = store
        self._locator = locator

    def fetch(self, object: str | Object | Digest | Descriptor, *hints: str | Hint) -> Blob:
        """Return what is here, by its name or its digest; hints are not needed."""
        if isinstance(object, Descriptor):
            return self._store.blob(object.digest, media_type=object.media_type)
        if isinstance(object, Digest):
            return self._store.blob(object)
        name = self._name(object)
        known = self._store.images().get(name)
        if known is None:
            message = f"no image in {self._store.root} is named {name}"
            raise NotFound(message)
        return self.fetch(known)

    def referrers(self, digest: str | Digest | Descriptor, *, artifact_type: str | None = None) -> Referrers:
        """Return what refers to a document, as the store's layout says."""
        return require(self._layout(), ReferrerLister).referrers(digest, artifact_type=artifact_type)

    def push_blob(
        self,
        source: UploadSource,
        *,
        descriptor: Descriptor | None = None,
        media_type: str = OCTET_STREAM,
        mount_from: Locator | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> Descriptor:
        """Take a blob that is one: nobody gives anything else here."""
        assert isinstance(source, Blob)  # noqa: S101 - see above
        assert descriptor is not None  # noqa: S101
        self._store.ingest(
            source,
            expected_digest=descriptor.digest,
            expected_size=descriptor.size,
            on_progress=on_progress or (lambda _: None),
        )
        return descriptor

    def push_document(self, data: bytes, media_type: str, *, tag: str | None = None) -> Descriptor:
        """Take a document, and name it; one that refers to another is found by that."""
        digest = self._store.ingest(Blob.from_bytes(data)).digest
        descriptor = Descriptor(media_type=media_type, digest=digest, size=len(data))
        if tag is not None:
            self._store.tag(self._name(tag), descriptor)
        elif read_document(data, media_type).subject is not None:
            require(self._layout(), Pushable).push_document(
                data, media_type
            )  # no name leads to it: it is listed by itself
        return descriptor

    def has(self, descriptor: Descriptor) -> bool:
        """Whether it is here."""
        info = self._store.check([descriptor.digest]).get(descriptor.digest)
        return info is not None and info.size == descriptor.size

    def _name(self, object: str | Object) -> str:
        read = Object.parse(object) if isinstance(object, str) else object
        return name_in_store(Reference(self._locator, read.tag, read.digest))

    def _layout(self) -> Fetcher:
        return connect(str(self._store.root))
