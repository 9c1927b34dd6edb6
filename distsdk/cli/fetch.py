"""``fetch``: the bytes of an object, or of many, on stdout."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

import click

from distsdk import errors
from distsdk.cli.app import (
    End,
    child_platform,
    connect,
    exit_code,
    expect,
    main,
    names_object,
    platform_hint,
    read_locator,
    read_reference,
    say,
    shows_progress,
    without_scheme,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from distsdk.content.blob import Blob
    from distsdk.remotes.remote import Remote

#: Bytes that multi-fetch holds of objects whose turn on stdout has not come.
WINDOW = 16 * 1024 * 1024

#: Bytes taken from the window before a chunk is read: the largest there can be.
_CHUNK = 2 * 1024 * 1024


@main.command(
    example="distsdk fetch redis:7 platform:linux/amd64 > manifest.json",
    usages=("REF [HINT]...", "LOCATOR OBJECT [HINT]...", "LOCATOR -"),
)
@click.argument("words", nargs=-1, required=True, metavar="REF [HINT]...")
@child_platform
@click.option(
    "-j", "--jobs", type=click.IntRange(1, 64), metavar="N", help="With -: fetch N objects at once (default: 4)."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="With -: write each object to a file in DIR named by its digest, and print the digest.",
)
@click.option(
    "--connections",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Fetch N ranges of one object at once (default: as many as are faster).",
)
def fetch(
    *, words: tuple[str, ...], platform: str | None, jobs: int | None, output: Path | None, connections: int | None
) -> None:
    """Download an object, verified, to stdout.

    An OBJECT is a tag or a digest; - reads objects from stdin, one per line: OBJECT [HINT]...

    Hints describe the object: mediatype:TYPE names an expected media type (repeated: in order of preference),
    platform:OS/ARCH selects a child of an index as --platform
    does, size:BYTES is the expected size. Hints of other kinds are ignored, with a warning.

    Bytes are written as they arrive. They are verified when the last one has arrived: use the output only if the exit
    code is 0. With -, the output has the order of the lines, a line that fails is reported on stderr and the others
    continue; the exit code is that of the first line that failed.
    """
    from distsdk.spec.reference import Reference

    first, *rest = words
    first = without_scheme(first)
    if names_object(first):
        reference, hints = read_reference(first), rest
        locator, wanted = reference.locator, reference.object
    else:
        locator = read_locator(first)
        if not rest:
            message = f"which object of {first}? Add a tag or a digest, or - to read objects from stdin."
            raise click.UsageError(message)
        wanted, *hints = rest
        if wanted != "-" and not names_object(wanted):
            expect(Reference(locator, wanted))
    if wanted == "-" and not names_object(first):
        if hints or platform is not None:
            raise click.UsageError("with -, hints stand on the lines of stdin: platform:OS/ARCH for --platform")
        if sys.stdin is None:
            raise click.UsageError("with -, objects are read from stdin, which is closed")
        # Not sys.stdin: at exit the interpreter closes that, and dies where a thread still waits for a line of it.
        lines = io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False))
        _fetch_many(connect(locator), lines, jobs or 4, output, connections or 1)
        return
    if "-" in words:
        raise click.UsageError("- goes with a locator, without tag or digest: distsdk fetch LOCATOR -")
    if jobs is not None or output is not None:
        raise click.UsageError("--jobs and --output go with -, which reads objects from stdin")
    for chunk in (
        connect(locator)
        .fetch(wanted, *hints, *platform_hint(platform))
        .stream(connections=connections, progress=shows_progress(stdout=True))
    ):
        write(chunk)


class _Task:
    """A line of stdin, and what came of it before its turn."""

    def __init__(self, line: bytes, number: int, lock: threading.Lock) -> None:
        self.line = line
        self.number = number
        self.early: deque[bytes] = deque()
        self.may_read = threading.Condition(lock)
        self.error: Exception | None = None
        self.done = False


class _Pipeline:
    """Works on many lines at once and gives out what comes of them in the order of the lines.

    The thread whose line's turn it is gives out what it reads at once, and then what was done early of the lines that
    follow; all others together hold at most `WINDOW` bytes.

    Args:
        lines: Empty ones are passed over.
        work: Yields what comes of a line, in chunks of at most `_CHUNK` bytes.
        write: Takes what is given out.
        report: Takes a task once all that came of it was given out.
    """

    def __init__(
        self,
        lines: Iterable[bytes],
        work: Callable[[bytes], Iterator[bytes]],
        write: Callable[[bytes], None],
        report: Callable[[_Task], None],
    ) -> None:
        self._lines = enumerate(lines, 1)
        self._work = work
        self._write = write
        self._report = report
        self._tasks: deque[_Task] = deque()  # the first is the one whose turn it is
        self._used = 0  # bytes held or about to be
        self._running = 0
        self._failure: BaseException | None = None
        self._taking = threading.Lock()  # held while a line is waited for
        self._lock = threading.Lock()
        self._may_take = threading.Condition(self._lock)
        self._ended = threading.Condition(self._lock)

    def run(self, jobs: int) -> None:
        """Work on all lines, ``jobs`` at once.

        Raises:
            BaseException: What ``write`` or ``report`` raised.
        """
        self._running = jobs
        for _ in range(jobs):
            threading.Thread(target=self._worker, name="distsdk-fetch", daemon=True).start()
        with self._lock:
            self._ended.wait_for(lambda: not self._running or self._failure)
        if self._failure is not None:
            raise self._failure

    def _worker(self) -> None:
        try:
            while (task := self._take()) is not None:
                try:
                    self._read(task)
                except Exception as error:  # noqa: BLE001 - whatever it is, it is told when it is the task's turn
                    task.error = error
                self._finish(task)
        except BaseException as failure:  # noqa: BLE001 - raised by run
            self._failure = failure
        with self._lock:
            self._running -= 1
            self._ended.notify()

    def _take(self) -> _Task | None:
        """Take the next line, once there is room for what it brings."""
        with self._taking:
            with self._lock:
                self._may_take.wait_for(lambda: not self._tasks or self._has_room())
            for number, line in self._lines:
                if line.strip():
                    task = _Task(line, number, self._lock)
                    with self._lock:
                        self._tasks.append(task)
                    return task
            return None

    def _read(self, task: _Task) -> None:
        chunks = self._work(task.line)
        while True:
            with self._lock:
                task.may_read.wait_for(lambda: task is self._tasks[0] or self._has_room())
                its_turn = task is self._tasks[0]
                if not its_turn:  # room for the largest chunk, before it is read
                    self._used += _CHUNK
            if its_turn:
                self._give_out(task)
                for chunk in chunks:
                    self._write(chunk)
                return
            chunk = b""
            try:
                chunk = next(chunks, b"")
            finally:
                task.early.append(chunk)
                self._free(_CHUNK - len(chunk))
            if not chunk:
                return

    def _finish(self, task: _Task) -> None:
        """End a task; if it was its turn, pass the turn on, over those that are done already."""
        with self._lock:
            task.done = True
            if task is not self._tasks[0]:
                return
        while task.done:
            self._give_out(task)
            self._report(task)
            with self._lock:
                self._tasks.popleft()
                self._may_take.notify()
                if not self._tasks:
                    return
                task = self._tasks[0]
                task.may_read.notify()
                if not task.done:
                    return

    def _give_out(self, task: _Task) -> None:
        while task.early:
            chunk = task.early.popleft()
            self._write(chunk)
            self._free(len(chunk))

    def _has_room(self) -> bool:
        return self._used + _CHUNK <= WINDOW

    def _free(self, size: int) -> None:
        with self._lock:
            self._used -= size
            if size and self._has_room():
                for task in self._tasks:
                    task.may_read.notify()
                self._may_take.notify()


def _fetch_many(remote: Remote, lines: Iterable[bytes], jobs: int, output: Path | None, connections: int) -> None:
    if output is not None:
        output.mkdir(parents=True, exist_ok=True)
    failed: list[int] = []

    def work(line: bytes) -> Iterator[bytes]:
        try:
            wanted, *hints = (word.decode() for word in line.split())
        except UnicodeDecodeError as error:
            message = "the line is not UTF-8"
            raise errors.InvalidReference(message) from error
        blob = remote.fetch(wanted, *hints)
        if output is None:
            yield from blob.stream(connections=connections)
        else:
            blob.save(output / _file_name(blob), resume=True, connections=connections)
            yield f"{blob.digest}\n".encode()

    def report(task: _Task) -> None:
        if isinstance(task.error, errors.DistError | OSError):
            say(f"line {task.number}: {task.error}")
            failed.append(exit_code(task.error))
        elif task.error is not None:
            raise task.error

    _Pipeline(lines, work, write, report).run(jobs)
    if failed:
        raise End(failed[0])


def _file_name(blob: Blob) -> str:
    """Return ``sha256:…``; on Windows, where a file's name cannot hold a colon, ``sha256-…``."""
    return str(blob.digest).replace(":", "-") if os.name == "nt" else str(blob.digest)
