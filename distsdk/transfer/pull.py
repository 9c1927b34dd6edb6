"""Pulling: an image, and all that it consists of, from a remote into a store."""

from __future__ import annotations

import contextlib
import errno
import shutil
from typing import TYPE_CHECKING, Literal, overload

from attrs import evolve

from distsdk._text import human_size
from distsdk.content.blob import Blob
from distsdk.errors import IntegrityError, NotFound
from distsdk.remotes.connect import connect
from distsdk.spec.platform import Platform
from distsdk.spec.reference import Reference
from distsdk.store.store import Store
from distsdk.transfer.events import Finished, Plan, Planned, Step, reporting
from distsdk.transfer.graph import MAX_DOCUMENT_BYTES, Walk
from distsdk.transfer.workers import JOBS, Job, WorkerPool

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from distsdk.content.protocols import Fetcher
    from distsdk.spec.descriptor import Descriptor
    from distsdk.spec.digest import Digest
    from distsdk.transfer.events import Event


@overload
def pull(
    reference: str | Reference,
    store: Store | str | os.PathLike[str] | None = None,
    *,
    remote: Fetcher | None = None,
    platform: str | Platform | None = None,
    all_platforms: bool = False,
    plan: Literal[False] = False,
    rehash: bool = False,
    progress: bool | Callable[[Event], object] = False,
    jobs: int = JOBS,
    connections: int | None = None,
) -> Descriptor: ...


@overload
def pull(
    reference: str | Reference,
    store: Store | str | os.PathLike[str] | None = None,
    *,
    remote: Fetcher | None = None,
    platform: str | Platform | None = None,
    all_platforms: bool = False,
    plan: Literal[True],
    rehash: bool = False,
    progress: bool | Callable[[Event], object] = False,
    jobs: int = JOBS,
    connections: int | None = None,
) -> Plan: ...


def pull(
    reference: str | Reference,
    store: Store | str | os.PathLike[str] | None = None,
    *,
    remote: Fetcher | None = None,
    platform: str | Platform | None = None,
    all_platforms: bool = False,
    plan: bool = False,
    rehash: bool = False,
    progress: bool | Callable[[Event], object] = False,
    jobs: int = JOBS,
    connections: int | None = None,
) -> Descriptor | Plan:
    """Bring an image or artifact into a store, and name it there.

    Blobs that the store has are not fetched again, and what an earlier pull left is gone on with. A blob is trusted
    whose file has size, modification time and inode of the commit; any other is hashed, and fetched again if it is
    damaged. Everything is verified before it is there; the name comes last, when all of it is.

    Args:
        reference: What to pull, ``redis:7``. The store knows it by its full name, ``docker.io/library/redis:7``; what
            comes out of files, ``./layout:7``, by its tag or digest alone.
        store: Where to; a path makes one, and by default it is `Store`'s own default.
        remote: Gives it; by default `connect` finds one.
        platform: Which child of an index, ``os/architecture[/variant]``; by default linux on this machine's
            architecture. The name then stands for that child.
        all_platforms: Bring all children of an index. The name then stands for the index.
        plan: Only tell what would be done. The documents are read for it; nothing is fetched into the store, but blobs
            found damaged are moved to its quarantine.
        rehash: Trust no file of the store, and hash all blobs of the image.
        progress: Show a bar where there is somebody to see it, unless ``DISTSDK_DISABLE_PROGRESS`` is set; or call this
            with each `Event`, in the calling thread.
        jobs: Blobs that are brought at once.
        connections: For each blob, as `Blob.stream`.

    Returns:
        What the name stands for; with ``plan``, the plan.

    Raises:
        NotFound: The remote does not have it, or a part of it.
        PlatformNotFound: The index has nothing for the platform.
        IntegrityError, MalformedDocument, UnsupportedDocument: What came is not to be used, and was not kept.
        LimitExceeded: There are too many documents or blobs, or indexes within indexes.
        OSError: The store cannot be written, or has no room.
        DistError: As `Remote.fetch` and `Blob.stream`. What came so far is kept, to go on from.
    """
    if all_platforms and platform is not None:
        message = "a platform, or all platforms: one of them"
        raise ValueError(message)
    if isinstance(reference, str):
        reference = Reference.parse(reference)
    if isinstance(platform, str):
        platform = Platform.parse(platform)
    if not isinstance(store, Store):
        store = Store(store)
    remote = remote or connect(reference.locator)
    walk = _StoreWalk(remote, store, rehash=rehash)
    target = walk.target(reference, None if all_platforms else platform or Platform.local())
    planned = walk.plan(name_in_store(reference), target)
    if plan:
        return planned
    with store.lease(), reporting(progress) as report:
        report(Planned(planned))
        _bring(walk, planned, report, jobs=jobs, connections=connections)
        store.tag(planned.name, target)
    return target


def complete(target: Descriptor, store: Store, remote: Fetcher) -> tuple[Digest, ...]:
    """Fetch the content of an image that is damaged in a store, or missing.

    Args:
        target: The image's manifest or index.
        store: Has the image, but not all of it.
        remote: Where the image came from.

    Returns:
        The digests of what was fetched.

    Raises:
        DistError: As `pull`.
    """
    walk = _StoreWalk(remote, store)
    fetched: list[Digest] = []

    def report(event: Event) -> None:
        if isinstance(event, Finished) and not event.existed:
            fetched.append(event.descriptor.digest)

    with store.lease():
        _bring(walk, walk.plan("", target), report, jobs=JOBS, connections=None)
    return tuple(fetched)


def name_in_store(reference: Reference) -> str:
    """Return what a store calls an image: its full name, or for one that came out of files the name it had there."""
    return reference.object if reference.locator.names_files else str(reference)


class _StoreWalk(Walk):
    """Reads documents from the store where it has them."""

    def __init__(self, remote: Fetcher, store: Store, *, rehash: bool = False) -> None:
        super().__init__(remote)
        self.store = store
        self._rehash = rehash

    def plan(self, name: str, target: Descriptor) -> Plan:
        """Find what the target consists of: documents before what they refer to, each once."""
        found: dict[Digest, Descriptor] = {}
        self.add(target, found)
        self.store.check(found, rehash=self._rehash)  # from here on, a blob that is here is sound
        left: dict[Digest, int] = {}
        for active in self.store.active():
            if active.digest is not None:
                left.setdefault(active.digest, active.offset)  # the first began where the next will resume
        steps = tuple(Step(descriptor, self._here(descriptor, left)) for descriptor in found.values())
        missing = [
            step.missing
            for step in steps
            if step.descriptor.digest not in self.documents
            and step.descriptor.data is None
            and (step.missing or not step.descriptor.size)
            and not _is_here(self.store, step.descriptor)
        ]
        return Plan(name, target, steps, len(self.fetched) + len(missing), sum(self.fetched) + sum(missing))

    def _here(self, descriptor: Descriptor, left: dict[Digest, int]) -> int:
        if _is_here(self.store, descriptor):
            return descriptor.size
        return min(left.get(descriptor.digest, 0), descriptor.size)

    def stored(self, digest: Digest) -> bytes | None:
        """Return the bytes that the store has; None where they were damaged, and are in quarantine now."""
        try:
            return self.store.blob(digest).read(limit=MAX_DOCUMENT_BYTES)
        except (NotFound, IntegrityError):
            return None


def _bring(
    walk: _StoreWalk, plan: Plan, report: Callable[[Event], object], *, jobs: int, connections: int | None
) -> None:
    """Bring what is missing, and return once all of it is in the store: the documents last, children before parents."""
    store = walk.store
    _check_room(store, plan.missing)
    todo = [
        Job(step.descriptor, step.here, told=step.here)
        for step in plan.steps
        if step.descriptor.digest not in walk.documents and not _is_here(store, step.descriptor)
    ]
    todo.sort(key=lambda job: job.descriptor.size)  # taken from the end: the large ones first
    if todo:

        def act(job: Job, on_progress: Callable[[int], None]) -> None:
            descriptor = job.descriptor
            if descriptor.data is not None:
                blob = Blob.from_bytes(descriptor.data, digest=descriptor.digest)
            else:
                blob = walk.remote.fetch(evolve(descriptor, platform=None))
            ingested = store.ingest(
                blob,
                expected_digest=descriptor.digest,
                expected_size=descriptor.size,
                connections=connections,
                on_progress=on_progress,
            )
            job.here, job.existed = ingested.size, ingested.existed

        WorkerPool("distsdk-pull", todo, act).work(jobs, report)
    steps = {step.descriptor.digest: step for step in plan.steps}
    for digest, raw in walk.documents.items():
        step = steps[digest]
        ingested = store.ingest(Blob.from_bytes(raw, digest=digest))
        if step.missing:
            report(Finished(step.descriptor, ingested.existed))


def _is_here(store: Store, descriptor: Descriptor) -> bool:
    with contextlib.suppress(NotFound):
        return store.info(descriptor.digest).size == descriptor.size
    return False


def _check_room(store: Store, missing: int) -> None:
    """Say beforehand that there is not enough room, rather than when the disk is full."""
    place = next(folder for folder in (store.root, *store.root.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    if missing > free:
        message = f"{human_size(missing)} are still to come, and there is room for {human_size(free)}"
        raise OSError(errno.ENOSPC, message, str(store.root))
