"""What all commands have in common: how they begin, what options they share, how they write, and how they end."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import distsdk
from distsdk import errors

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

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


def run(arguments: list[str]) -> int:
    """Run a command and return its exit code; every error becomes one line on stderr."""
    if sys.stdout is None:
        say("stdout is closed: direct it to /dev/null if what is written there does not matter")
        return 1
    try:
        code = main.main(arguments, prog_name="distsdk", standalone_mode=False)
        _flush()
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (errors.DistError, OSError) as error:
        say(error)
        return exit_code(error)
    except click.Abort:
        return _INTERRUPTED
    except End as end:
        if end.message:
            say(end.message)
        if end.code == _CLOSED_PIPE:
            _silence()
        return end.code
    except SystemExit:  # of click: a word was completed, or nobody reads its own help or version
        if os.environ.get("_DISTSDK_COMPLETE"):
            raise
        _silence()
        return _CLOSED_PIPE
    return code or 0


def _silence() -> None:
    """Let what is still to be flushed go nowhere: the interpreter would complain at its exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def exit_code(error: Exception) -> int:
    """Return the exit code for an error."""
    return next((code for kinds, code in EXIT_CODES if isinstance(error, kinds)), 1)


class End(BaseException):
    """Ends the command with a code. No Exception, so that nothing on the way mistakes it for a failure of its own."""

    def __init__(self, code: int, message: str = "") -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


def say(message: object) -> None:
    """Write a line to stderr."""
    with contextlib.suppress(OSError):
        click.echo(f"distsdk: {errors.printable(str(message))}", err=True)


def _set_timeout(seconds: float) -> None:
    message = f"not done within {seconds:g} seconds (--timeout)"
    if hasattr(signal, "setitimer"):

        def stop(_signal: int, _frame: FrameType | None) -> None:
            raise End(_TIMED_OUT, message)

        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    else:  # Windows

        def end() -> None:
            say(message)
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


def _show_warnings(*, quiet: bool) -> None:
    """Write the warnings of distsdk to stderr as lines of its own, each once; with ``--quiet``, none."""
    import warnings

    others = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:  # noqa: ANN401
        if issubclass(category, errors.DistWarning):
            say(f"warning: {message}")
        else:
            others(message, category, *where, **more)

    warnings.showwarning = show
    warnings.simplefilter("ignore" if quiet else "default", errors.DistWarning)


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
        option("--store", "Folder of the store; an OCI image layout.", type=click.Path(file_okay=False), metavar="DIR"),
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
        _add_global_options(self)

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as in click
        begin(ctx)
        return super().invoke(ctx)


class _Group(click.Group):
    """A command with commands of its own; one that does something without them calls `begin` itself."""

    command_class = _Command
    group_class = type  # as this one

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - as in click
        super().__init__(*args, **kwargs)
        _add_global_options(self)


def _add_global_options(command: click.Command) -> None:
    taken = {text for parameter in command.params for text in parameter.opts}
    command.params += [option for option in _hidden_options() if taken.isdisjoint(option.opts)]


@functools.cache
def _hidden_options() -> tuple[click.Parameter, ...]:
    """Return what all commands share: made once, since there are many commands and making takes time."""
    return tuple(_global_options(hidden=True))


def begin(context: click.Context) -> None:
    """Act on the options that concern the whole run: what every command does first."""
    root = context.find_root()
    options = root.ensure_object(dict)
    if "timeout" in options:
        _set_timeout(options["timeout"])
    _set_log(options)
    _show_warnings(quiet="quiet" in options)
    if "replay" in options:
        root.with_resource(distsdk.replay(options["replay"]))


@click.group(cls=_Group, params=_global_options(hidden=False))
@click.version_option(distsdk.__version__, message="%(prog)s %(version)s")
def main() -> None:
    """Read container registries.

    A LOCATOR is a host and a path, docker.io/library/redis, or a familiar name, redis. A REF is a locator with a tag or
    a digest, redis:7. The options below may stand after the command's name too; each has a variable, DISTSDK_TIMEOUT.

    Exit codes: 0 done, 1 anything else, 2 usage or a malformed name, 3 not found, 4 denied, 5 integrity, 6 unreachable
    or timed out, 7 rate-limited, 8 refused as unsafe or over a limit, 130 interrupted, 141 stdout was closed.
    """


def option(name: str) -> Any:  # noqa: ANN401 - as it was read
    """Return a global option, None where it was not given."""
    return click.get_current_context().find_root().ensure_object(dict).get(name)


def configured_hosts() -> Hosts:
    """Return the hosts as the options and the environment have them."""
    from distsdk.transport.hosts import Hosts

    options = click.get_current_context().find_root().ensure_object(dict)
    return Hosts.from_environment(
        plain_http=options.get("plain_http"), ca_file=options.get("cacert"), hosts_dir=options.get("hosts_dir")
    )


def connect(locator: Locator) -> Remote:
    """Return the remote for a locator, as the options have it."""
    from distsdk.transport.http import Timeouts

    options = click.get_current_context().find_root().ensure_object(dict)
    timeouts = Timeouts()
    # No wait that a registry asks for is begun if it outlasts the command.
    document = min(timeouts.document, options.get("timeout", timeouts.document))
    timeouts = Timeouts(read=options.get("read_timeout", timeouts.read), document=document)
    return distsdk.connect(locator, hosts=configured_hosts(), timeouts=timeouts)


def names_object(word: str) -> bool:
    """Whether a locator's word goes on with a tag or a digest."""
    last = word.rpartition("/")[2]
    return "@" in last or ":" in last.rpartition("]")[2]


#: For commands that take hints: ``--platform`` says the same as the hint ``platform:``.
child_platform = click.option("--platform", metavar="OS/ARCH", help="Of an index, one child; by default the index.")


def platform_hint(platform: str | None) -> list[str]:
    """Return the hint that ``--platform`` stands for, if it was given."""
    return [] if platform is None else [f"platform:{platform}"]


def read_reference(word: str) -> Reference:
    """Return the reference that an argument spells."""
    from distsdk.model.reference import Reference

    return Reference.parse(word)


def write(data: bytes) -> None:
    """Write to stdout at once; a pipe that nobody reads ends the command."""
    # To the descriptor itself: at exit the interpreter dies where a thread is busy with the file object over it.
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(sys.stdout.fileno(), view) :]
    except BrokenPipeError:
        raise End(_CLOSED_PIPE) from None


def _flush() -> None:
    try:
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise End(_CLOSED_PIPE) from None


def write_line(text: str) -> None:
    """Write a line to stdout, fit for a terminal."""
    write(f"{errors.printable(text)}\n".encode())


def write_listing(entries: Iterable[str], *, as_json: bool) -> None:
    """Write entries as they come, a line each or as one JSON array."""
    if as_json:
        before = "["
        for entry in entries:
            write(f"{before}{json.dumps(entry)}".encode())
            before = ", "
        write(b"[]\n" if before == "[" else b"]\n")
        return
    for entry in entries:
        write_line(entry)
