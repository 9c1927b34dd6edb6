"""What a transfer will do, what it tells on the way, and the bar that shows it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from attrs import frozen

from distsdk._progress import progress_bar
from distsdk._repr import Displayed
from distsdk._text import counted, human_size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distsdk.spec.descriptor import Descriptor
    from distsdk.spec.digest import Digest


@frozen
class Step(Displayed):
    """A document or blob that a transfer is about.

    Attributes:
        descriptor: Which.
        here: Bytes of it that are where it goes; all of them, or what an earlier ingest left in a store.
    """

    descriptor: Descriptor
    here: int

    @property
    def missing(self) -> int:
        """Bytes that are still to come."""
        return self.descriptor.size - self.here


@frozen(repr=False)
class Plan(Displayed):
    """What a pull, a push or a copy will do.

    Attributes:
        name: What it will be known by where it goes.
        target: What the name will stand for: the manifest for a platform, or an index of all.
        steps: Everything it consists of, each once.
        requests: How many it takes at least: one for each document that is asked for, and one for each blob that is
            missing, though a large one may take several.
        to_fetch: Bytes that come with them. Other than `missing`, a pull counts documents that are read to find the
            way, or to see whether a tag has moved, and not what a document holds itself (``data``).
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
    """The first event of a transfer: what it will do.

    Attributes:
        plan: It.
    """

    plan: Plan


@frozen
class Advanced:
    """More bytes of a blob are where they go; also while another process brings them.

    Attributes:
        descriptor: Which blob.
        here: Bytes of it that are there now; fewer than before where they have to be sent or fetched again.
    """

    descriptor: Descriptor
    here: int


@frozen
class Finished:
    """A document or blob is where it goes, verified; what was there when the transfer began is not told of.

    Attributes:
        descriptor: Which.
        existed: It was there already: another process brought it, or a registry let one repository have it of another.
    """

    descriptor: Descriptor
    existed: bool


Event = Planned | Advanced | Finished


@contextlib.contextmanager
def reporting(progress: bool | Callable[[Event], object]) -> Iterator[Callable[[Event], object]]:
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
