"""Sending: blobs, and the documents that refer to them, to whatever takes them."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from distsdk.errors import Denied, SizeMismatch
from distsdk.remotes.base import Pushable
from distsdk.transfer.crew import Crew, Job
from distsdk.transfer.events import Finished, Plan, Planned, Step
from distsdk.transfer.graph import read_document

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from distsdk.model.descriptor import Descriptor
    from distsdk.model.digest import Digest
    from distsdk.model.reference import Locator
    from distsdk.remotes.base import Remote, Source
    from distsdk.transfer.events import Event


class Taking(Protocol):
    """Takes blobs and documents: a `Pushable`, or what looks like one."""

    def push_blob(
        self,
        source: Source,
        *,
        descriptor: Descriptor | None = None,
        mount_from: Locator | None = None,
        at: Callable[[int], object] | None = None,
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
class Cargo:
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
    source: Callable[[Descriptor], Source]
    mount_from: Locator | None = None


def pushable(remote: Remote) -> Pushable:
    """Return a remote that takes what is pushed.

    Raises:
        Denied: It takes nothing.
    """
    if isinstance(remote, Pushable):
        return remote
    message = f"nothing can be pushed to {remote.locator}: its remote ({type(remote).__name__}) only reads"
    raise Denied(message)


def send(cargo: Cargo, target: Taking, report: Callable[[Event], object], jobs: int) -> None:
    """Send what is missing, and return once all of it is there: blobs, then documents, and the name last of all.

    Raises:
        DistError: As `Pushable.push_blob` and `Pushable.push_document`.
    """
    everything = tuple({d.digest: d for d in (*(entry[0] for entry in cargo.documents), *cargo.blobs)}.values())
    there: set[Digest] = set()

    def look(job: Job, at: Callable[[int], None]) -> None:
        at(0)
        with contextlib.suppress(SizeMismatch):  # what is there is damaged: sending says what becomes of that
            if target.has(job.descriptor):
                there.add(job.descriptor.digest)

    Crew("distsdk-look", [Job(descriptor, 0, told=0) for descriptor in everything], look).work(jobs, lambda _: None)
    steps = tuple(Step(descriptor, descriptor.size if descriptor.digest in there else 0) for descriptor in everything)
    missing = [step.missing for step in steps if step.descriptor.digest not in there]
    report(Planned(Plan(cargo.name, cargo.root, steps, len(missing), sum(missing))))

    def carry(job: Job, at: Callable[[int], None]) -> None:
        told: list[int] = []

        def advanced(here: int) -> None:
            # Where nothing has to be sent, all that is told is the size, once.
            job.existed = not told and here == job.descriptor.size
            told[:] = [here]
            at(here)

        source = cargo.source(job.descriptor)
        target.push_blob(source, descriptor=job.descriptor, mount_from=cargo.mount_from, at=advanced)

    todo = [Job(descriptor, 0, told=0) for descriptor in cargo.blobs if descriptor.digest not in there]
    todo.sort(key=lambda job: job.descriptor.size)  # taken from the end: the large ones first
    if todo:
        Crew("distsdk-push", todo, carry).work(jobs, report)
    for descriptor, raw, tag in cargo.documents:
        # One that refers to another is sent again, if need be: whoever sent it before may not have come to list it.
        if tag is None and descriptor.digest in there and read_document(raw, descriptor.media_type).subject is None:
            continue
        target.push_document(raw, descriptor.media_type, tag=tag)
        if descriptor.digest not in there:
            there.add(descriptor.digest)
            report(Finished(descriptor, existed=False))
