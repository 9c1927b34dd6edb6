"""`survey`: one row for each of many images, read by threads or by a Dask cluster, and resumed where it ended."""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import os
import time
from collections import deque
from collections.abc import Mapping, Sized
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from datetime import datetime
from functools import partial
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from attrs import define, evolve, field, frozen

from distsdk._text import printable
from distsdk.analysis.tables import CATEGORY, FLAG, NUMBER, OBJECT, TEXT, TIME, Dtype, frame, import_pandas
from distsdk.content.protocols import Resolver
from distsdk.content.request import FetchRequest
from distsdk.errors import DistError, RateLimited
from distsdk.images.image import image
from distsdk.remotes.connect import connect
from distsdk.remotes.remote import fetcher_of
from distsdk.spec.choice import Children
from distsdk.spec.documents import Index
from distsdk.spec.media_types import DEFAULT_ACCEPT, INDEXES
from distsdk.spec.platform import Platform
from distsdk.spec.reference import Hint, Reference
from distsdk.transport.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from concurrent.futures import Executor, Future
    from typing import TypeAlias

    from distributed import Client
    from pandas import DataFrame

    from distsdk.content.blob import Blob
    from distsdk.content.protocols import Fetcher
    from distsdk.images.image import Image
    from distsdk.spec.descriptor import Descriptor
    from distsdk.spec.digest import Digest
    from distsdk.spec.reference import Locator, Object

    Row: TypeAlias = dict[str, object]
    _Answer: TypeAlias = "tuple[list[_Outcome], float]"
    _Outcome: TypeAlias = "Row | Digest | _Failure"

#: Images at work at once, in all and on one host, unless told otherwise.
JOBS = 32
PER_HOST = 8

#: References that are taken from the iterator before there is a place for them, so that one slow host does not keep
#: the others waiting.
AHEAD = 512

#: Seconds of work that a task should have at most: several images of one host, one after the other, where one takes
#: less. A task by itself costs a cluster some 5 ms, and threads a change from one to the other.
TASK = 2.0
#: Images in one task.
MOST_IN_TASK = 32

#: Seconds that a host which wants fewer requests is waited for. One that asks for more is given up for this survey.
LONGEST_PAUSE = 900.0
#: How often in a row a host may say so before it is given up.
MOST_PAUSES = 8

#: Repositories that a process keeps a connection and a token of.
KEPT_REMOTES = 64

#: Characters of an error that come from a user's function.
_MAX_MESSAGE = 1000
#: Bytes of a result on disk that are read.
_MAX_RESULT = 64 * 1024 * 1024

_DOCUMENT = tuple(Hint("mediatype", media_type) for media_type in DEFAULT_ACCEPT)
_LICENSES, _BASE_NAME, _BASE_DIGEST = (
    # https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md#pre-defined-annotation-keys
    f"org.opencontainers.image.{key}"
    for key in ("licenses", "base.name", "base.digest")
)


def survey(
    references: Iterable[str | Reference],
    *,
    columns: Sequence[str] | None = None,
    function: Callable[[Image], object] | None = None,
    platform: str | Platform | None = None,
    client: Client | None = None,
    jobs: int = JOBS,
    per_host: int = PER_HOST,
    progress: bool | Callable[[int, int | None], object] = False,
    results: str | os.PathLike[str] | None = None,
    connect: Callable[[Locator], Fetcher] | None = None,
) -> DataFrame:
    """Return a table with a row for each of many images, in the order of their references.

    What fails is a row too: its columns are empty but for ``error``, the message, and ``error_kind``, the error's
    class. A host that wants fewer requests (429) gets none from this process for as long as it says; if
    that is more than `LONGEST_PAUSE` seconds, what is left of it are rows with that error.

    Args:
        references: Which images; also an iterator of very many, of which some are taken at a time.
        columns: Which of `COLUMNS`; by default all but ``packages``, which takes reading the layers that hold the
            package manager's database.
        function: Called with each `Image`; the mapping it returns makes more columns, anything else one named
            ``value``. What it raises is that row's error. On a cluster it is sent to the workers.
        platform: Which child of an index, ``os/architecture[/variant]``; by default linux on this machine's
            architecture, also where the workers' is another.
        client: A Dask cluster that does the work; by default threads of this process do. A worker that dies loses
            nothing: what it was at is done by another one.
        jobs: Images at work at once.
        per_host: Those of them that may be on one host, over all threads, workers and repositories. Each sends one
            request after the other, and repositories share connections; only large layers, where ``packages`` or the
            function read them, come over several connections.
        progress: Show a bar, or call this with the rows that are done and the number there will be, None where
            ``references`` does not tell.
        results: A folder for what was found, by digest: a later survey with the same ``columns``, ``function`` and
            ``platform`` asks once for each tag what it stands for now, and reads only what is not there yet. Errors are
            not kept. Several surveys may share it. What the function returns must be numbers, text, lists and dicts.
        connect: Gives the remote of a locator; by default `distsdk.connect` does. On a cluster it is sent to the
            workers, so that it must be picklable; workers look logins up where they run.

    Returns:
        A `pandas.DataFrame` with the columns ``reference``, those asked for, ``error`` and ``error_kind``.

    Raises:
        MissingExtra: pandas is not installed.
        ValueError: There is no such column, or a number is not at least 1.
        OSError: The folder of results cannot be written to.
    """
    return gather(
        ((str(reference), reference) for reference in references),
        "reference",
        asked=Asked.of(columns, function, platform, connect),
        client=client,
        jobs=jobs,
        per_host=per_host,
        progress=progress,
        total=len(references) if isinstance(references, Sized) else None,
        results=results,
    )


# What is asked of an image


@frozen
class _Found:
    """An image, and the document that its name stands for."""

    top: Blob
    index: Index | None
    image: Image

    def said(self, key: str) -> str | None:
        """Return what an annotation or a label says; the manifest counts first, the index last."""
        index = {} if self.index is None else self.index.annotations
        for said in (self.image.manifest.annotations, self.image.config.labels, index):
            if said.get(key):
                return said[key]
        return None

    @property
    def platforms(self) -> tuple[str, ...]:
        """What there is to choose from."""
        return tuple(map(str, (self.image.platform,) if self.index is None else self.index.platforms))

    @property
    def created(self) -> str | None:
        """When the image was made, if that is a time."""
        created = self.image.config.created_at
        return None if created is None else created.isoformat()


#: What a survey finds out, and how its column is kept. ``digest`` and ``media_type`` are those of what the reference
#: stands for, an index as it may be; ``manifest`` and all that follow on it are the chosen platform's. ``size`` is
#: bytes to download, ``layers`` a count. ``platforms`` and ``packages`` are tuples, for `DataFrame.explode`.
COLUMNS: Mapping[str, Dtype] = {
    "digest": TEXT,
    "media_type": CATEGORY,
    "platforms": OBJECT,
    "manifest": TEXT,
    "platform": CATEGORY,
    "size": NUMBER,
    "layers": NUMBER,
    "created": TIME,
    "licenses": TEXT,
    "base_name": TEXT,
    "base_digest": TEXT,
    "packages": OBJECT,
}
_READ: Mapping[str, Callable[[_Found], object]] = {
    "digest": lambda found: str(found.top.digest),
    "media_type": lambda found: found.top.media_type,
    "platforms": lambda found: found.platforms,
    "manifest": lambda found: str(found.image.digest),
    "platform": lambda found: str(found.image.platform),
    "size": lambda found: found.image.download_size,
    "layers": lambda found: len(found.image.layers),
    "created": lambda found: found.created,
    "licenses": lambda found: found.said(_LICENSES),
    "base_name": lambda found: found.said(_BASE_NAME),
    "base_digest": lambda found: found.said(_BASE_DIGEST),
    "packages": lambda found: tuple(f"{package.name}={package.version}" for package in found.image.packages()),
}
#: What is made of a value that JSON may have kept.
_MEANT: Mapping[str, Callable[[Any], object]] = {
    "platforms": lambda value: value if value is None else tuple(value),
    "created": lambda value: value if value is None else datetime.fromisoformat(value),
    "packages": lambda value: value if value is None else tuple(value),
}
_COSTLY = frozenset({"packages"})
_RESERVED = frozenset({"reference", "error", "error_kind"})


@frozen
class Asked:
    """What is asked of each image. It goes to the workers with each task, so that any of them may die.

    Attributes:
        columns: Of `COLUMNS`, in order.
        function: The user's.
        platform: Which child of an index.
        connect: Gives remotes.
        run: A name of this survey, for what a process keeps for it.
    """

    columns: tuple[str, ...]
    function: Callable[[Image], object] | None
    platform: Platform
    connect: Callable[[Locator], Fetcher]
    run: str = field(factory=lambda: uuid4().hex)

    @classmethod
    def of(
        cls,
        columns: Sequence[str] | None,
        function: Callable[[Image], object] | None = None,
        platform: str | Platform | None = None,
        connect: Callable[[Locator], Fetcher] | None = None,
    ) -> Asked:
        """Read the arguments of `survey`."""
        chosen = [name for name in COLUMNS if name not in _COSTLY] if columns is None else list(dict.fromkeys(columns))
        if unknown := [name for name in chosen if name not in COLUMNS]:
            message = f"there is no column {unknown[0]!r}: choose from {', '.join(COLUMNS)}, or write a function"
            raise ValueError(message)
        if isinstance(platform, str):
            platform = Platform.parse(platform)
        return cls(tuple(chosen), function, platform or Platform.local(), connect or _connect)

    @property
    def question(self) -> str:
        """What tells results apart that are kept in one folder."""
        function = "" if self.function is None else _identity(self.function)
        asked = [1, sorted(self.columns), str(self.platform), function]
        return hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:16]


def _identity(function: object) -> str:
    """Return a text that is another one when a function is: its name, its source, and what is bound to it.

    What it calls is not looked at.
    """
    if isinstance(function, partial):
        return f"{_identity(function.func)} {function.args!r} {sorted(function.keywords.items())!r}"
    code: Any = function if inspect.isroutine(function) else type(function)
    bound = function if code is not function else getattr(function, "__self__", None)
    cells = [cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]
    try:
        source = inspect.getsource(code)
    except (OSError, TypeError):  # typed in where nobody keeps it, or not written in Python
        body = getattr(code, "__code__", None)
        source = "" if body is None else f"{body.co_code.hex()} {body.co_consts!r} {body.co_names!r}"
    defaults = getattr(function, "__defaults__", None), getattr(function, "__kwdefaults__", None)
    return f"{code.__module__}.{code.__qualname__} {bound!r} {cells!r} {defaults!r} {source}"


def _connect(locator: Locator) -> Fetcher:
    # Who is told to ask less says so, and everybody else who works on the survey is told.
    return connect(locator, retry=Retry(statuses=Retry().statuses - {429}))


# What a thread or a worker does


@frozen
class _Step:
    """What is to be done next about a reference: find out what it stands for, or read that."""

    reference: Reference
    resolve: bool


@frozen
class _Failure:
    """What became of an image that could not be read.

    Attributes:
        message: The error's.
        kind: Its class.
        limited: Whether its host wants fewer requests.
        pause: For how many seconds, where it says.
    """

    message: str
    kind: str
    limited: bool = False
    pause: float | None = None

    @classmethod
    def of(cls, error: BaseException) -> _Failure:
        """Return what an error comes to."""
        kind = type(error).__name__
        message = str(error) if isinstance(error, DistError) else printable(str(error)[:_MAX_MESSAGE]) or kind
        if isinstance(error, RateLimited):
            return cls(message, kind, limited=True, pause=error.retry_after)
        return cls(message, kind)


_UNREAD = _Failure("it was never read", "")

#: By survey and repository. What a thread puts there, another one finds; who makes one in vain has asked for nothing.
_remotes: dict[tuple[str, Locator], Fetcher] = {}


def _remote(asked: Asked, locator: Locator) -> Fetcher:
    found = _remotes.get((asked.run, locator))
    if found is None:
        for key in list(_remotes)[: -KEPT_REMOTES + 1]:
            _remotes.pop(key, None)
        found = _remotes.setdefault((asked.run, locator), asked.connect(locator))
    return found


def _forget(asked: Asked) -> None:
    for key in list(_remotes):
        if key[0] == asked.run:
            _remotes.pop(key, None)


def _work(asked: Asked, steps: Sequence[_Step]) -> tuple[list[_Outcome], float]:
    """Take some steps, one after the other, up to the first that a host was asked too much for.

    Returns:
        What came of each that was taken, and the seconds that all of them took.
    """
    began = time.monotonic()
    outcomes: list[_Outcome] = []
    for step in steps:
        try:
            outcomes.append(_resolve(asked, step.reference) if step.resolve else _read(asked, step.reference))
        except Exception as error:  # noqa: BLE001 - whatever it is, also of a user's function, it is this row's
            failure = _Failure.of(error)
            outcomes.append(failure)
            if failure.limited:
                break
    return outcomes, time.monotonic() - began


def _resolve(asked: Asked, reference: Reference) -> Digest:
    """Return the digest that a name stands for now; a HEAD, where the registry answers that."""
    remote = _remote(asked, reference.locator)
    fetcher = fetcher_of(remote)
    if isinstance(fetcher, Resolver):
        return fetcher.resolve(reference.object).digest
    return remote.fetch(reference.object, *_DOCUMENT).digest


def _read(asked: Asked, reference: Reference) -> Row:
    """Return the values that are asked for of an image."""
    found = _look(asked, reference)
    row = {name: _READ[name](found) for name in asked.columns}
    if asked.function is not None:
        row |= _own_columns(asked.function(found.image))
    return row


def _look(asked: Asked, reference: Reference) -> _Found:
    remote = _remote(asked, reference.locator)
    top = blob = remote.fetch(reference.object, *_DOCUMENT)
    index = None
    if blob.media_type in INDEXES:
        index = Index.parse(blob.read(), blob.media_type)

        def read(descriptor: Descriptor) -> Index:
            return Index.parse(remote.fetch(descriptor).read(), descriptor.media_type)

        blob = remote.fetch(Children(index, read).choose(asked.platform))
    name = evolve(reference, digest=blob.digest)
    return _Found(top, index, image(name, platform=asked.platform, remote=_Knowing(remote, blob)))


def _own_columns(returned: object) -> Row:
    if not isinstance(returned, Mapping):
        return {"value": returned}
    for name in returned:
        if not isinstance(name, str) or name in _RESERVED or name in COLUMNS:
            message = f"the function returns {name!r}, which cannot be the name of a column of its own"
            raise ValueError(message)
    return dict(returned)


@frozen
class _Knowing:
    """A remote that is not asked again for the manifest which is here already."""

    remote: Fetcher
    manifest: Blob

    @property
    def locator(self) -> Locator:
        return self.remote.locator

    def fetch(self, object: str | Object | Digest | Descriptor, *hints: str | Hint) -> Blob:
        if FetchRequest.read(object).object.digest == self.manifest.digest:
            return self.manifest
        return self.remote.fetch(object, *hints)


# What is kept


class _SavedResults:
    """Rows in a folder, a file for each digest: written whole or not at all, by as many processes as like to."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, digest: Digest) -> Row | None:
        """Return what is known; None where nothing is, or the file is damaged."""
        try:
            with self._path(digest).open("rb") as file:
                row = json.loads(file.read(_MAX_RESULT))
        except (OSError, ValueError, RecursionError):
            return None
        return row if isinstance(row, dict) else None

    def put(self, digest: Digest, row: Row) -> Row | _Failure:
        """Keep a row; return what will be read of it."""
        try:
            text = json.dumps(row)
        except (TypeError, ValueError, RecursionError) as error:
            return _Failure(
                f"the function's result cannot be kept ({error}): return numbers, text, lists and dicts, "
                "or survey without results=",
                type(error).__name__,
            )
        path = self._path(digest)
        draft = path.with_name(f".{path.name}-{uuid4().hex}")
        try:
            draft.write_text(text, encoding="utf-8")
            draft.replace(path)
        except BaseException:
            draft.unlink(missing_ok=True)
            raise
        kept: Row = json.loads(text)
        return kept

    def _path(self, digest: Digest) -> Path:
        return self._folder / f"{digest.algorithm}-{digest.hex}.json"


# Who does what when


@define(eq=False)
class _Job:
    """A reference that is not done.

    Attributes:
        number: Of its row.
        reference: Which.
        digest: What it stands for, once that is known.
        round: Which of its host's rounds it was begun in.
        alone: Whether it has to have a task to itself, since it was in one that killed workers.
    """

    number: int
    reference: Reference
    digest: Digest | None = None
    round: int = 0
    alone: bool = False


@define(eq=False)
class _Host:
    """What is to be asked of a host, and how much of it at once.

    As soon as it wants fewer requests, everything waits. Then half as many go on, and one more for each that is done.
    A task takes one step after the other, so that a host has no more connections than tasks.

    Attributes:
        waiting: What is to come, in order.
        window: Tasks that may be at work.
        at_work: Those that are.
        until: When it may be asked again, on the monotonic clock.
        round: How often it wanted fewer requests. What was begun before the last time tells nothing new.
        refused: The same, since anything was done.
        given_up: Why it is asked no more.
    """

    window: int
    waiting: deque[_Job] = field(factory=deque)
    at_work: int = 0
    until: float = 0.0
    round: int = 0
    refused: int = 0
    given_up: _Failure | None = None

    @property
    def has_place(self) -> bool:
        """Whether another task may be begun, once the host may be asked."""
        return bool(self.waiting) and self.at_work < self.window

    @property
    def idle(self) -> bool:
        """Whether nothing has to be remembered of it."""
        return not (self.waiting or self.at_work or self.refused or self.given_up)

    def done(self, most: int) -> None:
        """Take note of a job that was done."""
        self.refused = 0
        self.window = min(most, self.window + 1)

    def limited(self, job: _Job, failure: _Failure) -> None:
        """Take note of a job that was refused, since there were too many."""
        if job.round == self.round:
            self.round += 1
            self.refused += 1
            self.window = max(1, self.window // 2)
        pause = 2.0 ** min(self.refused, 6) if failure.pause is None else failure.pause
        if pause > LONGEST_PAUSE or self.refused > MOST_PAUSES:
            self.given_up = evolve(failure, message=f"given up: {failure.message}", limited=False)
        self.until = max(self.until, time.monotonic() + pause)


@define(eq=False)
class _Survey:
    """The work on one survey: nothing is begun but from here, so that what is counted here holds for all workers."""

    asked: Asked
    submit: Callable[[Callable[[Asked, Sequence[_Step]], _Answer], Asked, Sequence[_Step]], Future[_Answer]]
    jobs: int
    per_host: int
    kept: _SavedResults | None
    at: Callable[[int], object]
    names: list[str] = field(factory=list)
    rows: list[Row | _Failure] = field(factory=list)
    finished: int = 0
    seconds: float = TASK / 16  # that a step takes: a guess, at first
    waiting: int = 0
    hosts: dict[str, _Host] = field(factory=dict)
    at_work: dict[Future[_Answer], list[_Job]] = field(factory=dict)
    ended: SimpleQueue[Future[_Answer]] = field(factory=SimpleQueue)

    def run(self, named: Iterator[tuple[str, str | Reference | DistError]]) -> None:
        """Do it all."""
        try:
            self._fill(named)
            while self.at_work or self.waiting:
                self._wait()
                self._fill(named)
        finally:
            for future in tuple(self.at_work):
                future.cancel()

    def _fill(self, named: Iterator[tuple[str, str | Reference | DistError]]) -> None:
        """Take as many references as may wait, and begin as much of them as may be."""
        while self.waiting < AHEAD and (found := next(named, None)) is not None:
            self._take(*found)
        now = time.monotonic()
        for host in self.hosts.values():
            while len(self.at_work) < self.jobs and host.has_place and host.until <= now:
                self._begin(host)

    def _take(self, name: str, reference: str | Reference | DistError) -> None:
        number = len(self.rows)
        self.names.append(name)
        self.rows.append(_UNREAD)
        try:
            parsed = Reference.parse(reference) if isinstance(reference, str) else reference
        except DistError as error:
            parsed = error
        if isinstance(parsed, Reference):
            self._queue(_Job(number, parsed, parsed.digest))
        else:
            self._finish(number, _Failure.of(parsed))

    def _queue(self, job: _Job, *, first: bool = False) -> None:
        if self.kept is not None and job.digest is not None and (row := self.kept.get(job.digest)) is not None:
            self._finish(job.number, row)
            return
        host = self.hosts.setdefault(job.reference.locator.host, _Host(self.per_host))
        if host.given_up is not None:
            self._finish(job.number, host.given_up)
        else:
            self._put(host, job, first=first)

    def _put(self, host: _Host, job: _Job, *, first: bool) -> None:
        self.waiting += 1
        if first:
            host.waiting.appendleft(job)
        else:
            host.waiting.append(job)

    def _begin(self, host: _Host) -> None:
        """Begin a task: as many steps as it should have, but not so many that others have nothing to do at the end."""
        size = min(MOST_IN_TASK, int(TASK / self.seconds), len(host.waiting) // host.window)
        jobs = [host.waiting.popleft()]
        while len(jobs) < size and not jobs[0].alone and not host.waiting[0].alone:
            jobs.append(host.waiting.popleft())
        self.waiting -= len(jobs)
        host.at_work += 1
        steps = []
        for job in jobs:
            job.round = host.round
            resolve = self.kept is not None and job.digest is None
            steps.append(_Step(evolve(job.reference, digest=job.digest), resolve=resolve))
        future = self.submit(_work, self.asked, steps)
        self.at_work[future] = jobs
        future.add_done_callback(self.ended.put)

    def _wait(self) -> None:
        """Wait for something to end, or for a host that may be asked again."""
        held = [host.until for host in self.hosts.values() if host.has_place and len(self.at_work) < self.jobs]
        with contextlib.suppress(Empty):
            self._end(self.ended.get(timeout=max(0.0, min(held) - time.monotonic()) if held else None))
            while True:
                self._end(self.ended.get_nowait())

    def _end(self, future: Future[_Answer]) -> None:
        jobs = self.at_work.pop(future)
        name = jobs[0].reference.locator.host
        host = self.hosts[name]
        host.at_work -= 1
        outcomes = self._outcomes(future, jobs)
        for job in reversed(jobs[len(outcomes) :]):
            self._put(host, job, first=True)
        for job, outcome in zip(jobs, outcomes, strict=False):
            self._settle(host, job, outcome)
        while host.given_up is not None and host.waiting:
            self.waiting -= 1
            self._finish(host.waiting.popleft().number, host.given_up)
        if host.idle:
            del self.hosts[name]

    def _outcomes(self, future: Future[_Answer], jobs: list[_Job]) -> list[_Outcome]:
        """Return what came of the first of the jobs, and maybe of more; the others have to be done yet."""
        if (error := future.exception()) is not None:  # raised is only that the cluster has gone
            # As where one worker after the other died: by which job, the next tasks tell.
            alone = len(jobs) == 1
            for job in jobs:
                job.alone = True
            return [_Failure.of(error)] if alone else []
        outcomes, seconds = future.result()
        self.seconds = (self.seconds + max(seconds, 0.001) / len(outcomes)) / 2
        return outcomes

    def _settle(self, host: _Host, job: _Job, outcome: _Outcome) -> None:
        if isinstance(outcome, _Failure) and outcome.limited:
            host.limited(job, outcome)
            self._put(host, job, first=True)
            return
        host.done(self.per_host)
        if isinstance(outcome, _Failure):
            self._finish(job.number, outcome)
        elif isinstance(outcome, dict):
            if self.kept is not None and job.digest is not None:
                outcome = self.kept.put(job.digest, outcome)
            self._finish(job.number, outcome)
        else:
            job.digest = outcome
            self._queue(job, first=True)

    def _finish(self, number: int, outcome: Row | _Failure) -> None:
        self.rows[number] = outcome
        self.finished += 1
        self.at(self.finished)


def gather(
    named: Iterator[tuple[str, str | Reference | DistError]],
    label: str,
    *,
    asked: Asked,
    client: Client | None = None,
    jobs: int = JOBS,
    per_host: int = PER_HOST,
    progress: bool | Callable[[int, int | None], object] = False,
    total: int | None = None,
    results: str | os.PathLike[str] | None = None,
) -> DataFrame:
    """Return the table of `survey` for references that have names of their own, which make the column ``label``.

    Args:
        named: Names and what they stand for; an error is that row's.
        label: Of the first column.
        asked: Of each image.
        client: As `survey`.
        jobs: As `survey`.
        per_host: As `survey`.
        progress: As `survey`.
        total: How many references there are, where that is known.
        results: As `survey`.

    Raises:
        MissingExtra, ValueError, OSError: As `survey`.
    """
    import_pandas("a survey")  # before anything is asked
    for what, number in (("jobs", jobs), ("per_host", per_host)):
        if number < 1:
            message = f"{what} must be at least 1, not {number}"
            raise ValueError(message)
    kept = None if results is None else _SavedResults(Path(results).expanduser() / asked.question)
    executor: Executor
    if client is None:
        executor = ThreadPoolExecutor(jobs, thread_name_prefix="distsdk-survey")
        submit = _in_this_context(executor.submit)
    else:
        # Not pure: what a tag stands for is not what it stood for when the cluster was asked the last time.
        executor = client.get_executor(pure=False)  # type: ignore[no-untyped-call] # of distributed
        submit = executor.submit
    try:
        with _reported(progress, total) as at:
            work = _Survey(asked, submit, jobs, per_host, kept, at)
            work.run(named)
    finally:
        executor.shutdown(wait=False)
        _forget(asked)
    return _table(label, work, asked)


def _in_this_context(submit: Callable[..., Future[Any]]) -> Callable[..., Future[Any]]:
    """Return what submits calls to threads in which context variables are those of here: a cassette that is played."""
    return lambda *call: submit(copy_context().run, *call)


@contextlib.contextmanager
def _reported(
    progress: bool | Callable[[int, int | None], object], total: int | None
) -> Iterator[Callable[[int], object]]:
    if callable(progress):
        yield lambda done: progress(done, total)
        return
    if not progress or os.environ.get("DISTSDK_DISABLE_PROGRESS"):
        yield lambda _: None
        return
    from tqdm.auto import tqdm

    with tqdm(desc="survey", total=total, unit=" images", disable=None) as bar:
        yield lambda done: bar.update(done - bar.n)


def _table(label: str, work: _Survey, asked: Asked) -> DataFrame:
    dtypes: dict[str, Dtype | None] = {name: COLUMNS[name] for name in asked.columns}
    found = [row for row in work.rows if isinstance(row, dict)]
    for name in dict.fromkeys(name for row in found for name in row):
        if name not in dtypes:
            dtypes[name] = _dtype_of([row[name] for row in found if row.get(name) is not None])
    meant = {name: _MEANT[name] for name in asked.columns if name in _MEANT}

    def values(row: Row | _Failure) -> Iterator[object]:
        known = row if isinstance(row, dict) else {}
        for name in dtypes:
            yield meant[name](known.get(name)) if name in meant else known.get(name)
        yield row.message if isinstance(row, _Failure) else None
        yield row.kind if isinstance(row, _Failure) else None

    return frame(
        ((name, *values(row)) for name, row in zip(work.names, work.rows, strict=True)),
        {label: TEXT, **dtypes, "error": TEXT, "error_kind": CATEGORY},
    )


def _dtype_of(values: list[object]) -> Dtype | None:
    """Return how a user's column is kept, so that a row without a value changes nothing about it."""
    kinds = {type(value) for value in values}
    if len(kinds) != 1:
        return None
    return {int: NUMBER, bool: FLAG, str: TEXT}.get(kinds.pop())
