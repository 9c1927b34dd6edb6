"""Sending: blobs, and the documents that refer to them, to whatever takes them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from attrs import evolve, frozen

from distsdk.content.protocols import Pushable
from distsdk.errors import Denied, SizeMismatch
from distsdk.layout.documents import IMAGE_NAME, LayoutIndex, oci_alias
from distsdk.layout.writer import plan_layout
from distsdk.remotes.archive import ArchiveFetcher
from distsdk.remotes.remote import fetcher_of, require
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.media_types import DOCKER_DOCUMENTS
from distsdk.transfer.events import Finished, Plan, Planned, Step
from distsdk.transfer.graph import read_document
from distsdk.transfer.workers import Job, WorkerPool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from distsdk.content.protocols import Fetcher, UploadSource
    from distsdk.layout.writer import ArchivePlan
    from distsdk.spec.digest import Digest
    from distsdk.spec.reference import Locator
    from distsdk.transfer.events import Event


class PushTarget(Protocol):
    """Takes blobs and documents: a `Pushable`, or what looks like one."""

    def push_blob(
        self,
        source: UploadSource,
        *,
        descriptor: Descriptor | None = None,
        mount_from: Locator | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> Descriptor:
        """Take a blob."""
        ...

    def push_document(self, data: bytes, media_type: str, *, tag: str | None = None) -> Descriptor:
        """Take a document, and perhaps give it a name."""
        ...

    def has(self, descriptor: Descriptor) -> bool:
        """Whether it is there."""
        ...


@frozen
class UploadSet:
    """What is to be sent.

    Attributes:
        name: What it will be known by.
        root: The document that the name stands for.
        documents: Each with its bytes, and the tag that it gets, in the order in which they are sent: what one refers
            to before it, the referrers of one after it, and the one that the name stands for at last, with its tag. One
            may be there twice: without its tag first.
        blobs: What they refer to, each once.
        source: Gives the bytes of a blob.
        mount_from: The repository that has the blobs.
    """

    name: str
    root: Descriptor
    documents: Sequence[tuple[Descriptor, bytes, str | None]]
    blobs: Sequence[Descriptor]
    source: Callable[[Descriptor], UploadSource]
    mount_from: Locator | None = None


def push_target(remote: Fetcher) -> Pushable:
    """Return a remote's fetcher as a target of pushes.

    Raises:
        Denied: The remote is read-only, or an archive that exists already.
    """
    if isinstance(fetcher_of(remote), ArchiveFetcher):
        message = (
            f"cannot add to the archive {remote.locator}; copy its images to a directory, change that, and copy it "
            "to a new archive"
        )
        raise Denied(message)
    return require(remote, Pushable)


@contextlib.contextmanager
def opened_target(remote: Fetcher, plan: Callable[[], ArchivePlan], *, force: bool) -> Iterator[PushTarget]:
    """Yield the target for what is sent: the remote itself, or the writer of a new archive.

    Args:
        remote: The target's remote. An archive is there when the block ends without an error.
        plan: Returns the members of an archive.
        force: Replace an archive that is there.

    Raises:
        Denied: The remote takes nothing.
        Unsafe: The archive is there, and ``force`` is not set.
        OSError: The archive cannot be written.
    """
    fetcher = fetcher_of(remote)
    if not isinstance(fetcher, ArchiveFetcher):
        yield push_target(remote)
        return
    with fetcher.writing(plan(), replace=force) as target:
        yield target


def layout_plan(cargo: UploadSet, image_name: str | None = None) -> ArchivePlan:
    """Plan an OCI archive that lists the root, and the documents to which nothing but the list leads.

    Args:
        cargo: What is to be sent.
        image_name: The image's full name, for the archive to hold.

    Raises:
        LimitExceeded: There are too many names.
    """
    index = LayoutIndex.empty("index.json")
    contents = {blob.digest: blob for blob in cargo.blobs}
    aliases: dict[Digest, bytes] = {}
    for document, raw, tag in cargo.documents:
        plain = Descriptor(document.media_type, document.digest, document.size)
        contents[plain.digest] = plain
        is_root = plain.digest == cargo.root.digest
        if tag is not None:
            annotations = {IMAGE_NAME: image_name} if is_root and image_name is not None else {}
            targets = [evolve(plain, annotations=annotations)]
            if plain.media_type in DOCKER_DOCUMENTS:
                alias, index_raw = oci_alias(plain, raw)
                contents[alias.digest], aliases[alias.digest] = alias, index_raw
                targets.insert(0, alias)
            index = index.named(tag, targets, lambda _: False)
        elif is_root or read_document(raw, plain.media_type).subject is not None:
            index = index.listed(plain)
    return plan_layout(index, contents.values(), aliases)


def send(cargo: UploadSet, target: PushTarget, report: Callable[[Event], object], jobs: int) -> None:
    """Send what is missing, and return once all of it is there: blobs, then documents, and the name last of all.

    Raises:
        DistError: As `Pushable.push_blob` and `Pushable.push_document`.
    """
    everything = tuple({d.digest: d for d in (*(entry[0] for entry in cargo.documents), *cargo.blobs)}.values())
    there: set[Digest] = set()

    def look(job: Job, on_progress: Callable[[int], None]) -> None:
        on_progress(0)
        with contextlib.suppress(SizeMismatch):  # what is there is damaged: sending says what becomes of that
            if target.has(job.descriptor):
                there.add(job.descriptor.digest)

    WorkerPool("distsdk-look", [Job(descriptor, 0, told=0) for descriptor in everything], look).work(
        jobs, lambda _: None
    )
    steps = tuple(Step(descriptor, descriptor.size if descriptor.digest in there else 0) for descriptor in everything)
    missing = [step.missing for step in steps if step.descriptor.digest not in there]
    report(Planned(Plan(cargo.name, cargo.root, steps, len(missing), sum(missing))))

    def carry(job: Job, on_progress: Callable[[int], None]) -> None:
        told: list[int] = []

        def advanced(here: int) -> None:
            # Where nothing has to be sent, all that is told is the size, once.
            job.existed = not told and here == job.descriptor.size
            told[:] = [here]
            on_progress(here)

        source = cargo.source(job.descriptor)
        target.push_blob(source, descriptor=job.descriptor, mount_from=cargo.mount_from, on_progress=advanced)

    todo = [Job(descriptor, 0, told=0) for descriptor in cargo.blobs if descriptor.digest not in there]
    todo.sort(key=lambda job: job.descriptor.size)  # taken from the end: the large ones first
    if todo:
        WorkerPool("distsdk-push", todo, carry).work(jobs, report)
    for descriptor, raw, tag in cargo.documents:
        # One that refers to another is sent again, if need be: whoever sent it before may not have come to list it.
        if tag is None and descriptor.digest in there and read_document(raw, descriptor.media_type).subject is None:
            continue
        target.push_document(raw, descriptor.media_type, tag=tag)
        if descriptor.digest not in there:
            there.add(descriptor.digest)
            report(Finished(descriptor, existed=False))
