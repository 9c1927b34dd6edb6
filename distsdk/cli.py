"""The command line: data on stdout, talk on stderr, an exit code for a kind of failure."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import threading
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import distsdk
from distsdk import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import FrameType

    from distsdk.blob import Blob
    from distsdk.model.descriptor import Descriptor
    from distsdk.model.reference import Locator, Reference
    from distsdk.remotes.base import Remote
    from distsdk.transport.hosts import Hosts

#: Exit codes by kind of error; the first that fits counts. Anything else is 1.
EXIT_CODES: tuple[tuple[tuple[type[errors.DistError], ...], int], ...] = (
    ((errors.InvalidReference, errors.InvalidDigest, errors.InvalidHint, errors.InvalidConfig), 2),
    ((errors.NotFound, errors.PlatformNotFound), 3),
    ((errors.Denied,), 4),
    ((errors.IntegrityError, errors.MalformedDocument, errors.UnsupportedDocument), 5),
    ((errors.Unreachable, errors.DeadlineExceeded), 6),
    ((errors.RateLimited,), 7),
    ((errors.Unsafe, errors.LimitExceeded), 8),
)
_TIMED_OUT, _INTERRUPTED, _CLOSED_PIPE = 6, 130, 141

#: Bytes that multi-fetch holds of objects whose turn on stdout has not come.
WINDOW = 16 * 1024 * 1024

#: Bytes taken from the window before a chunk is read: the largest there can be.
_CHUNK = 2 * 1024 * 1024


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code; every error becomes one line on stderr."""
    if sys.stdout is None:
        _say("stdout is closed: direct it to /dev/null if what is written there does not matter")
        return 1
    try:
        code = main.main(arguments, prog_name="distsdk", standalone_mode=False)
        _flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (errors.DistError, OSError) as error:
        _say(error)
        return exit_code(error)
    except click.Abort:
        return _INTERRUPTED
    except _End as end:
        if end.message:
            _say(end.message)
        if end.code == _CLOSED_PIPE:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the interpreter would complain when it flushes at exit
        return end.code
    return code or 0


def exit_code(error: Exception) -> int:
    """Return the exit code for an error."""
    return next((code for kinds, code in EXIT_CODES if isinstance(error, kinds)), 1)


class _End(BaseException):
    """Ends the command with a code. No Exception, so that nothing on the way mistakes it for a failure of its own."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


def _say(message: object) -> None:
    with contextlib.suppress(OSError):
        click.echo(f"distsdk: {errors.printable(str(message))}", err=True)


def _set_timeout(seconds: float) -> None:
    message = f"not done within {seconds:g} seconds (--timeout)"
    if hasattr(signal, "setitimer"):

        def stop(_signal: int, _frame: FrameType | None) -> None:
            raise _End(_TIMED_OUT, message)

        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    else:  # Windows

        def end() -> None:
            _say(message)
            os._exit(_TIMED_OUT)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()


def _set_log(options: dict[str, object]) -> None:
    """Let the log speak on stderr: warnings, or with ``--debug`` each request, or with ``--quiet`` nothing."""
    import logging

    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return errors.printable(super().format(record))

    level = logging.DEBUG if "debug" in options else logging.ERROR if "quiet" in options else logging.WARNING
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Formatter("distsdk: %(message)s"))
    # What distsdk does not tell by itself: it quotes URLs, which may be signed.
    handler.addFilter(lambda record: record.name.partition(".")[0] != "urllib3")
    logging.basicConfig(handlers=[handler])
    logging.getLogger("distsdk").setLevel(level)


def _remember(context: click.Context, option: click.Parameter, value: object) -> None:
    """Keep a global option, which may stand before the command's name or after it."""
    if value is not None and value is not False:
        context.find_root().ensure_object(dict)[option.name] = value


class _Authorities(click.Path):
    """A file, or the word ``system``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        return value if value == "system" else super().convert(value, param, ctx)


def _global_options(*, hidden: bool) -> list[click.Parameter]:
    def option(name: str, help: str, **more: Any) -> click.Option:  # noqa: ANN401 - as in click
        variable = f"DISTSDK_{name.strip('-').replace('-', '_').upper()}"
        return click.Option(
            [name],
            help=help,
            envvar=None if hidden else variable,  # the group has read it, and an option before the command counts more
            hidden=hidden,
            expose_value=False,
            callback=_remember,
            **more,
        )

    seconds = click.FloatRange(min=0, min_open=True)
    path = click.Path(exists=True, path_type=Path)
    folder = click.Path(exists=True, file_okay=False, path_type=Path)
    return [
        option("--plain-http", "Speak HTTP without TLS to the registry.", is_flag=True),
        option(
            "--cacert",
            "PEM file of the certificate authorities that count; system for the system's.",
            type=_Authorities(exists=True, path_type=Path),
            metavar="FILE",
        ),
        option("--hosts-dir", "Folder of hosts.toml folders: mirrors, certificates.", type=folder, metavar="DIR"),
        option("--timeout", "For the whole command.", type=seconds, metavar="SECONDS"),
        option("--read-timeout", "Without a byte; 30 by default.", type=seconds, metavar="SECONDS"),
        option("--debug", "Tell every request on stderr.", is_flag=True),
        option("--quiet", "Tell failures only, and no warnings.", is_flag=True),
        option("--replay", "Play a cassette, or a folder of them; no network.", type=path, metavar="CASSETTE"),
    ]


class _Command(click.Command):
    """A command that takes the global options too, and acts on those that concern the whole run."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as in click
        super().__init__(*args, **kwargs)
        self.params += _global_options(hidden=True)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as in click
        options = ctx.find_root().ensure_object(dict)
        if "timeout" in options:
            _set_timeout(options["timeout"])
        _set_log(options)
        if "replay" in options:
            ctx.with_resource(distsdk.replay(options["replay"]))
        return super().invoke(ctx)


class _Group(click.Group):
    command_class = _Command


@click.group(cls=_Group, params=_global_options(hidden=False))
@click.version_option(distsdk.__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Read container registries.

    A LOCATOR is a host and a path, docker.io/library/redis, or a familiar name, redis. A REF is a locator with a tag or
    a digest, redis:7. The options below may stand after the command's name too; each has a variable, DISTSDK_TIMEOUT.

    Exit codes: 0 done, 1 anything else, 2 usage or a malformed name, 3 not found, 4 denied, 5 integrity, 6 unreachable
    or timed out, 7 rate-limited, 8 refused as unsafe or over a limit, 130 interrupted, 141 stdout was closed.
    """


def _hosts() -> Hosts:
    from distsdk.transport.hosts import Hosts

    options = click.get_current_context().find_root().ensure_object(dict)
    return Hosts.from_environment(
        plain_http=options.get("plain_http"), ca_file=options.get("cacert"), hosts_dir=options.get("hosts_dir")
    )


def _connect(locator: Locator) -> Remote:
    from distsdk.transport.http import Timeouts

    options = click.get_current_context().find_root().ensure_object(dict)
    timeouts = Timeouts()
    # No wait that a registry asks for is begun if it outlasts the command.
    document = min(timeouts.document, options.get("timeout", timeouts.document))
    timeouts = Timeouts(read=options.get("read_timeout", timeouts.read), document=document)
    return distsdk.connect(locator, hosts=_hosts(), timeouts=timeouts)


@main.command()
@click.argument("words", nargs=-1, required=True, metavar="LOCATOR OBJECT|REF|LOCATOR - [HINT]...")
@click.option("-j", "--jobs", type=click.IntRange(1, 64), help="With -: how many objects at once; 4 by default.")
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    help="With -: write each object to a file named by its digest, and its digest to stdout.",
)
@click.option(
    "--connections", type=click.IntRange(1, 64), help="Ranges of one object at once; by default as many as help."
)
def fetch(words: tuple[str, ...], jobs: int | None, output: Path | None, connections: int | None) -> None:
    r"""Write an object's bytes to stdout, verified.

    \b
    distsdk fetch LOCATOR OBJECT [HINT]...
    distsdk fetch REF [HINT]...
    distsdk fetch LOCATOR -       objects from stdin, a line each: OBJECT [HINT]...

    An OBJECT is a tag or a digest. Hints help: mediatype:TYPE, repeated in order of preference, says what is expected;
    platform:os/architecture leads from an index to the child for that platform; size:BYTES tells the size.

    The bytes are written as they arrive; whether they are the right ones is known at the end, and told by the exit
    code. With -, they are written in the order of the lines; a failure is told on stderr, the others go on, and the
    first failure in that order makes the exit code.
    """
    from distsdk.model.reference import Locator

    first, *rest = words
    if _names_object(first):
        reference, hints = _reference(first), rest
        locator, wanted = reference.locator, reference.object
    else:
        locator = Locator.parse(first)
        if not rest:
            message = f"which object of {first}? Add a tag or a digest, or - to read objects from stdin."
            raise click.UsageError(message)
        wanted, *hints = rest
    if wanted == "-" and not _names_object(first):
        if hints:
            raise click.UsageError("with -, hints stand on the lines of stdin")
        if sys.stdin is None:
            raise click.UsageError("with -, objects are read from stdin, which is closed")
        # Not sys.stdin: at exit the interpreter closes that, and dies where a thread still waits for a line of it.
        lines = io.BufferedReader(io.FileIO(sys.stdin.fileno(), closefd=False))
        _fetch_many(_connect(locator), lines, jobs or 4, output, connections or 1)
        return
    if "-" in words:
        raise click.UsageError("- goes with a locator, without tag or digest: distsdk fetch LOCATOR -")
    if jobs is not None or output is not None:
        raise click.UsageError("--jobs and --output go with -, which reads objects from stdin")
    for chunk in _connect(locator).fetch(wanted, *hints).stream(connections=connections):
        _write(chunk)


@main.command()
@click.argument("ref")
@click.argument("hints", nargs=-1, metavar="[HINT]...")
@click.option("--json", "as_json", is_flag=True, help="Write the descriptor: media type, digest, size.")
def resolve(ref: str, hints: tuple[str, ...], as_json: bool) -> None:
    """Write the digest that REF stands for.

    Hints as for fetch: platform:linux/arm64 leads to the child of an index.
    """
    from distsdk.remotes.base import Resolver

    reference = _reference(ref)
    remote = _connect(reference.locator)
    descriptor: Descriptor
    if isinstance(remote, Resolver):
        descriptor = remote.resolve(reference.object, *hints)
    else:
        descriptor = remote.fetch(reference.object, *hints).descriptor
    _write_line(json.dumps(descriptor.to_fields()) if as_json else str(descriptor.digest))


@main.command()
@click.argument("locator")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON array.")
def tags(locator: str, as_json: bool) -> None:
    """Write the tags of LOCATOR, a line each."""
    from distsdk.model.reference import Locator
    from distsdk.remotes.base import TagLister

    remote = _connect(Locator.parse(locator))
    if not isinstance(remote, TagLister):
        message = f"what serves {remote.locator} lists no tags"
        raise click.UsageError(message)
    _write_listing(remote.tags(), as_json=as_json)


@main.command()
@click.argument("host")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON array.")
def catalog(host: str, as_json: bool) -> None:
    """Write the repositories of HOST, a line each.

    Many registries, Docker Hub among them, do not tell.
    """
    from distsdk.model.reference import Locator
    from distsdk.remotes.base import Catalog

    locator = Locator.parse(host if "/" in host else f"{host}/")
    if locator.path:
        message = f"the catalog is of a host: {locator.host}"
        raise click.UsageError(message)
    remote = _connect(locator)
    if not isinstance(remote, Catalog):
        message = f"what serves {locator.host} lists no repositories"
        raise click.UsageError(message)
    _write_listing(remote.catalog(), as_json=as_json)


@main.command()
@click.argument("locator")
@click.option("--json", "as_json", is_flag=True, help="Write one JSON object.")
def hosts(locator: str, as_json: bool) -> None:
    """Write which endpoints would be asked for LOCATOR, in which order, what for, and why.

    Nothing is asked of anybody.
    """
    from distsdk.model.reference import Locator

    is_host = "/" not in locator and (locator == "localhost" or not {".", ":"}.isdisjoint(locator))
    host = Locator.parse(f"{locator}/" if is_host else locator).host
    plan = _hosts().plan(host)
    if as_json:
        endpoints = [
            {"url": e.base, "capabilities": sorted(e.capabilities), "ns": e.namespace, "why": e.why}
            for e in plan.endpoints
        ]
        fields = {"host": host, "why": plan.why, "remote": plan.remote, "endpoints": [] if plan.remote else endpoints}
        _write_line(json.dumps(fields))
        return
    for line in plan.lines():
        _write_line(line)


def _names_object(word: str) -> bool:
    """Whether a locator's word goes on with a tag or a digest."""
    return "@" in word or ":" in word.rpartition("/")[2].rpartition("]")[2]


def _reference(word: str) -> Reference:
    from distsdk.model.reference import Reference

    return Reference.parse(word)


def _write(data: bytes) -> None:
    # To the descriptor itself: at exit the interpreter dies where a thread is busy with the file object over it.
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(sys.stdout.fileno(), view) :]
    except BrokenPipeError:
        raise _End(_CLOSED_PIPE) from None


def _flush() -> None:
    try:
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise _End(_CLOSED_PIPE) from None


def _write_line(text: str) -> None:
    _write(f"{errors.printable(text)}\n".encode())


def _write_listing(entries: Iterable[str], *, as_json: bool) -> None:
    if as_json:
        before = "["
        for entry in entries:
            _write(f"{before}{json.dumps(entry)}".encode())
            before = ", "
        _write(b"[]\n" if before == "[" else b"]\n")
        return
    for entry in entries:
        _write_line(entry)


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
            _say(f"line {task.number}: {task.error}")
            failed.append(exit_code(task.error))
        elif task.error is not None:
            raise task.error

    _Pipeline(lines, work, _write, report).run(jobs)
    if failed:
        raise _End(failed[0])


def _file_name(blob: Blob) -> str:
    """Return ``sha256:…``; on Windows, where a file's name cannot hold a colon, ``sha256-…``."""
    return str(blob.digest).replace(":", "-") if os.name == "nt" else str(blob.digest)
