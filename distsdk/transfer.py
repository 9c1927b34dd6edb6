"""Pulling: an image, and all that it consists of, from a remote into a store."""

from __future__ import annotations

import contextlib
import errno
import queue
import shutil
import threading
import time
from typing import TYPE_CHECKING, Literal, overload

from attrs import define, evolve, frozen

from distsdk.blob import Blob, progress_bar
from distsdk.errors import IntegrityError, LimitExceeded, MalformedDocument, NotFound, SizeMismatch
from distsdk.model.descriptor import Descriptor
from distsdk.model.image import Index, Manifest, load_json
from distsdk.model.media import DEFAULT_ACCEPT, DOCUMENTS
from distsdk.model.platform import Platform
from distsdk.model.reference import Hint, Reference
from distsdk.model.wording import counted, human_size
from distsdk.remotes.base import connect
from distsdk.store.local import Store

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from distsdk.model.digest import Digest
    from distsdk.remotes.base import Remote

#: Blobs that are brought at once.
JOBS = 4

#: Indexes within indexes.
MAX_DEPTH = 4

#: Manifests and indexes of one image, and bytes of all of them.
MAX_DOCUMENTS = 1_000
MAX_DOCUMENT_BYTES = 64 * 1024 * 1024

#: Blobs of one image, all its platforms together.
MAX_BLOBS = 100_000

#: Seconds between two events of one blob.
_INTERVAL = 0.1

#: Seconds that giving up waits for the threads to see it.
_PATIENCE = 0.5


@frozen
class Step:
    """A document or blob that a pull needs.

    Attributes:
        descriptor: Which.
        here: Bytes of it that the store has; all of them, or what an earlier ingest left.
    """

    descriptor: Descriptor
    here: int

    @property
    def missing(self) -> int:
        """Bytes that are still to come."""
        return self.descriptor.size - self.here


@frozen(repr=False)
class Plan:
    """What a pull will do.

    Attributes:
        name: What the store will know the image by.
        target: What the name will stand for: the manifest for a platform, or an index of all.
        steps: Everything it consists of, each once.
        requests: How many it takes at least: one for each document that is asked for, and one for each blob that is
            missing, though a large one may come in several.
        to_fetch: Bytes that come with them. Other than `missing`, it counts documents that are read to find the way,
            or to see whether a tag has moved, and not what a document holds itself (``data``).
    """

    name: str
    target: Descriptor
    steps: tuple[Step, ...]
    requests: int
    to_fetch: int

    @property
    def size(self) -> int:
        """Bytes of everything together, as they come over the wire."""
        return sum(step.descriptor.size for step in self.steps)

    @property
    def here(self) -> int:
        """Bytes of it that the store has."""
        return sum(step.here for step in self.steps)

    @property
    def missing(self) -> int:
        """Bytes that are still to come."""
        return self.size - self.here

    def lines(self) -> Iterator[str]:
        """Yield the plan as lines for people."""
        yield f"{self.name} is {self.target.media_type} {self.target.digest}"
        for step in self.steps:
            descriptor = step.descriptor
            state = "here" if not step.missing else f"{human_size(step.here)} here" if step.here else "missing"
            yield f"{descriptor.digest}  {human_size(descriptor.size):>12}  {state:<8}  {descriptor.media_type}"
        yield f"{counted(self.requests, 'request')} for {human_size(self.to_fetch)}; {human_size(self.here)} are here"

    def __repr__(self) -> str:
        return (
            f"<Plan {self.name}: {counted(self.requests, 'request')} for {human_size(self.to_fetch)}, "
            f"{human_size(self.here)} here>"
        )

    def _repr_html_(self) -> str:
        from distsdk.display.html import plan

        steps = tuple((step.descriptor, step.here) for step in self.steps)
        return plan(self.name, self.target, steps, self.requests, self.to_fetch)


@frozen
class Planned:
    """The first event of a pull: what it will do.

    Attributes:
        plan: It.
    """

    plan: Plan


@frozen
class Advanced:
    """More bytes of a blob are here; also while another process brings them.

    Attributes:
        descriptor: Which blob.
        here: Bytes of it that are here now; fewer than before where they turned out to be wrong.
    """

    descriptor: Descriptor
    here: int


@frozen
class Finished:
    """A document or blob is here, verified and on disk; what was here when the pull began is not told of.

    Attributes:
        descriptor: Which.
        existed: It was there already, or another process brought it.
    """

    descriptor: Descriptor
    existed: bool


Event = Planned | Advanced | Finished


@overload
def pull(
    reference: str | Reference,
    store: Store | str | os.PathLike[str] | None = None,
    *,
    remote: Remote | None = None,
    platform: str | Platform | None = None,
    all_platforms: bool = False,
    plan: Literal[False] = False,
    progress: bool | Callable[[Event], object] = False,
    jobs: int = JOBS,
    connections: int | None = None,
) -> Descriptor: ...


@overload
def pull(
    reference: str | Reference,
    store: Store | str | os.PathLike[str] | None = None,
    *,
    remote: Remote | None = None,
    platform: str | Platform | None = None,
    all_platforms: bool = False,
    plan: Literal[True],
    progress: bool | Callable[[Event], object] = False,
    jobs: int = JOBS,
    connections: int | None = None,
) -> Plan: ...


def pull(
    reference: str | Reference,
    store: Store | str | os.PathLike[str] | None = None,
    *,
    remote: Remote | None = None,
    platform: str | Platform | None = None,
    all_platforms: bool = False,
    plan: bool = False,
    progress: bool | Callable[[Event], object] = False,
    jobs: int = JOBS,
    connections: int | None = None,
) -> Descriptor | Plan:
    """Bring an image or artifact into a store, and name it there.

    What the store has is not fetched again, and what an earlier pull left is gone on with. Everything is verified
    before it is there; the name comes last, when all of it is.

    Args:
        reference: What to pull, ``redis:7``. The store knows it by its full name, ``docker.io/library/redis:7``; what
            comes out of files, ``./layout:7``, by its tag or digest alone.
        store: Where to; a path makes one, and by default it is `Store`'s own default.
        remote: Gives it; by default `connect` finds one.
        platform: Which child of an index, ``os/architecture[/variant]``; by default linux on this machine's
            architecture. The name then stands for that child.
        all_platforms: Bring all children of an index. The name then stands for the index.
        plan: Only tell what would be done. The documents are read for it, and nothing is written.
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
    walk = _Walk(remote, store)
    target = walk.target(reference, None if all_platforms else platform or Platform.local())
    planned = walk.plan(name_in_store(reference), target)
    if plan:
        return planned
    with store.lease(), _reporting(progress) as report:
        report(Planned(planned))
        _bring(walk, planned, report, jobs=jobs, connections=connections)
        store.tag(planned.name, target)
    return target


def complete(target: Descriptor, store: Store, remote: Remote) -> None:
    """Bring what a store lacks of an image that it knows, when blobs were damaged or deleted.

    Args:
        target: The image's manifest or index.
        store: That has it, but not all of it.
        remote: Where it came from.

    Raises:
        DistError: As `pull`.
    """
    walk = _Walk(remote, store)
    with store.lease():
        _bring(walk, walk.plan("", target), lambda _: None, jobs=JOBS, connections=None)


def name_in_store(reference: Reference) -> str:
    """Return what a store calls an image: its full name, or for one that came out of files the name it had there."""
    return reference.object if reference.locator.names_files else str(reference)


class _Walk:
    """Reads the documents of an image, from the store where it has them, and finds all that it consists of."""

    def __init__(self, remote: Remote, store: Store) -> None:
        self.remote = remote
        self.store = store
        self.documents: dict[Digest, bytes] = {}  # children before parents
        self.damaged: set[Digest] = set()  # documents that the store has, but not as they should be
        self._bytes = 0
        self._fetched: list[int] = []  # bytes of each document that came from the remote
        self._read_already: dict[Digest, bytes] = {}

    def target(self, reference: Reference, platform: Platform | None) -> Descriptor:
        """Return what a name is to stand for: what it stands for at the remote, or its child for a platform."""
        wanted = reference.digest
        known = self._known(wanted) if wanted is not None else None
        if known is None:
            # Hinted to be a document, a digest is looked for among documents first.
            hints = [Hint("mediatype", media_type) for media_type in DEFAULT_ACCEPT] if wanted is not None else []
            blob = self.remote.fetch(reference.object, *hints)
            known = blob.descriptor, blob.read()
            self._fetched.append(len(known[1]))
        descriptor, raw = known
        for _ in range(MAX_DEPTH):
            document = self._parsed(descriptor, raw)
            if platform is None or isinstance(document, Manifest):
                self._read_already[descriptor.digest] = raw
                return evolve(descriptor, annotations={}, urls=(), data=None)
            descriptor = document.select(platform)
            raw = self._read(descriptor)
        message = f"indexes within indexes, more than {MAX_DEPTH} deep"
        raise LimitExceeded(message, limit=MAX_DEPTH)

    def plan(self, name: str, target: Descriptor) -> Plan:
        """Find what the target consists of: documents before what they refer to, each once."""
        found: dict[Digest, Descriptor] = {}
        self._add(target, found, set(), 1)
        left = {active.digest: active.offset for active in self.store.active() if active.digest is not None}
        steps = tuple(Step(descriptor, self._here(descriptor, left)) for descriptor in found.values())
        missing = [
            step.missing
            for step in steps
            if step.descriptor.digest not in self.documents
            and step.descriptor.data is None
            and (step.missing or not step.descriptor.size)
            and not _is_here(self.store, step.descriptor)
        ]
        return Plan(name, target, steps, len(self._fetched) + len(missing), sum(self._fetched) + sum(missing))

    def _here(self, descriptor: Descriptor, left: dict[Digest, int]) -> int:
        if descriptor.digest in self.damaged:
            return 0
        if _is_here(self.store, descriptor):
            return descriptor.size
        return min(left.get(descriptor.digest, 0), descriptor.size)

    def _add(
        self, descriptor: Descriptor, found: dict[Digest, Descriptor], looked_into: set[Digest], depth: int
    ) -> None:
        """Add a document and what it refers to. One document may call a blob what another calls a document."""
        _add_once(descriptor, found)
        if descriptor.digest in looked_into:
            return
        looked_into.add(descriptor.digest)
        document = self._parsed(descriptor, self._read(descriptor))
        if isinstance(document, Manifest):
            for blob in (document.config, *document.layers):
                _add_once(blob, found)
        else:
            if depth == MAX_DEPTH:
                message = f"indexes within indexes, more than {MAX_DEPTH} deep"
                raise LimitExceeded(message, limit=MAX_DEPTH)
            for child in document.manifests:
                if child.media_type in DOCUMENTS:
                    self._add(child, found, looked_into, depth + 1)
                else:
                    _add_once(child, found)
        if len(found) > MAX_BLOBS:
            message = f"the image consists of more than {MAX_BLOBS} blobs"
            raise LimitExceeded(message, limit=MAX_BLOBS)
        self.documents[descriptor.digest] = document.raw

    def _known(self, digest: Digest) -> tuple[Descriptor, bytes] | None:
        """Return a document that the store has, whatever it is."""
        raw = self._stored(digest)
        if raw is None:
            return None
        return Descriptor(media_type=_document(raw, None).media_type, digest=digest, size=len(raw)), raw

    def _read(self, descriptor: Descriptor) -> bytes:
        stored = self._stored(descriptor.digest)  # looked at in any case, so that damage is seen
        raw = self._read_already.pop(descriptor.digest, None) or stored or descriptor.data
        if raw is None:
            raw = self.remote.fetch(descriptor).read()
            self._fetched.append(len(raw))
        if len(raw) != descriptor.size:
            message = f"{descriptor.digest} has {len(raw)} bytes, declared are {descriptor.size}"
            raise SizeMismatch(message, expected=descriptor.size, got=len(raw))
        return raw

    def _stored(self, digest: Digest) -> bytes | None:
        """Return the bytes that the store has; None where they are damaged, which is kept in mind."""
        try:
            return self.store.blob(digest).read(limit=MAX_DOCUMENT_BYTES)
        except NotFound:
            return None
        except IntegrityError:
            self.damaged.add(digest)
            return None

    def _parsed(self, descriptor: Descriptor, raw: bytes) -> Index | Manifest:
        self._bytes += len(raw)
        if self._bytes > MAX_DOCUMENT_BYTES:
            message = f"the documents of the image have more than {MAX_DOCUMENT_BYTES} bytes"
            raise LimitExceeded(message, limit=MAX_DOCUMENT_BYTES)
        if len(self.documents) >= MAX_DOCUMENTS:
            message = f"the image consists of more than {MAX_DOCUMENTS} manifests and indexes"
            raise LimitExceeded(message, limit=MAX_DOCUMENTS)
        return _document(raw, descriptor.media_type)


def _add_once(descriptor: Descriptor, found: dict[Digest, Descriptor]) -> None:
    same = found.setdefault(descriptor.digest, descriptor)
    if same.size != descriptor.size:
        message = f"{descriptor.digest} is said to have {same.size} bytes and {descriptor.size} bytes"
        raise MalformedDocument(message)


def _document(raw: bytes, media_type: str | None) -> Index | Manifest:
    kind = Index if "manifests" in load_json(raw) else Manifest
    return kind.parse(raw, media_type)


class _Stopped(Exception):
    """Ends a transfer that is no longer wanted."""


@define(eq=False)
class _Job:
    """A blob that a thread brings."""

    descriptor: Descriptor
    here: int
    told: int
    existed: bool = False


def _bring(walk: _Walk, plan: Plan, report: Callable[[Event], object], *, jobs: int, connections: int | None) -> None:
    """Bring what is missing, and return once all of it is in the store: the documents last, children before parents."""
    store = walk.store
    _check_room(store, plan.missing)
    for digest in walk.damaged & walk.documents.keys():
        with contextlib.suppress(NotFound):  # somebody else put it out of the way
            store.verify([digest])
    todo = [
        _Job(step.descriptor, step.here, told=step.here)
        for step in plan.steps
        if step.descriptor.digest not in walk.documents and not _is_here(store, step.descriptor)
    ]
    todo.sort(key=lambda job: job.descriptor.size)  # taken from the end: the large ones first
    if todo:
        _Crew(walk.remote, store, todo, connections).work(jobs, report)
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


class _Crew:
    """The threads that bring blobs; the thread that called tells of them."""

    def __init__(self, remote: Remote, store: Store, todo: list[_Job], connections: int | None) -> None:
        self._remote = remote
        self._store = store
        self._todo = todo
        self._left = len(todo)
        self._connections = connections
        self._at_work: dict[_Job, None] = {}
        self._done: queue.SimpleQueue[_Job | BaseException] = queue.SimpleQueue()
        self._stopped = threading.Event()

    def work(self, jobs: int, report: Callable[[Event], object]) -> None:
        """Bring all of them.

        Raises:
            BaseException: The first that a thread met, or that the report raised; the other threads are told to stop.
        """
        count = max(1, min(jobs, self._left))
        threads = [
            threading.Thread(target=self._run, name=f"distsdk-pull-{number + 1}", daemon=True)
            for number in range(count)
        ]
        try:
            for thread in threads:
                try:
                    thread.start()
                except RuntimeError as error:  # the system has no more
                    if thread is threads[0]:
                        raise OSError(errno.EAGAIN, f"no blob can be brought: {error}") from error
                    break
            told = 0.0
            while self._left:
                done = None
                with contextlib.suppress(queue.Empty):
                    done = self._done.get(timeout=_INTERVAL)
                if isinstance(done, BaseException):
                    raise done
                if done is not None:
                    self._left -= 1
                    report(Finished(done.descriptor, done.existed))
                if time.monotonic() - told >= _INTERVAL:
                    told = time.monotonic()
                    for job in self._at_work.copy():  # at once: the threads go on
                        if job.here != job.told:
                            job.told = job.here
                            report(Advanced(job.descriptor, job.here))
        finally:
            self._stopped.set()
            until = time.monotonic() + _PATIENCE
            for thread in threads:
                if thread.is_alive():
                    thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    job = self._todo.pop()
                except IndexError:
                    return
                self._at_work[job] = None
                self._fetch(job)
                del self._at_work[job]
                self._done.put(job)
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that called
            self._done.put(error)

    def _fetch(self, job: _Job) -> None:
        def at(here: int) -> None:
            job.here = here
            if self._stopped.is_set():
                raise _Stopped

        descriptor = job.descriptor
        if descriptor.data is not None:
            blob = Blob.from_bytes(descriptor.data, digest=descriptor.digest)
        else:
            blob = self._remote.fetch(evolve(descriptor, platform=None))
        ingested = self._store.ingest(
            blob,
            expected_digest=descriptor.digest,
            expected_size=descriptor.size,
            connections=self._connections,
            at=at,
        )
        job.here, job.existed = ingested.size, ingested.existed


@contextlib.contextmanager
def _reporting(progress: bool | Callable[[Event], object]) -> Iterator[Callable[[Event], object]]:
    """Yield what is told of events."""
    if callable(progress):
        yield progress
        return
    here: dict[Digest, int] = {}
    total = 0
    name = ""
    with progress_bar(lambda: name, lambda: total, shown=progress) as at:

        def show(event: Event) -> None:
            nonlocal total, name
            if isinstance(event, Planned):
                total, name = event.plan.size, event.plan.name
                here.update((step.descriptor.digest, step.here) for step in event.plan.steps)
            elif isinstance(event, Advanced):
                here[event.descriptor.digest] = event.here
            else:
                here[event.descriptor.digest] = event.descriptor.size
            at(sum(here.values()))

        yield show
