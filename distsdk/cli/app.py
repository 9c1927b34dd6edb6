"""What all commands have in common: how they begin, what options they share, how they write, and how they end."""

from __future__ import annotations

import contextlib
import difflib
import functools
import json
import os
import shutil
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import distsdk
from distsdk import errors
from distsdk._text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import FrameType

    from distsdk.remotes.remote import Remote
    from distsdk.spec.digest import Digest
    from distsdk.spec.reference import Locator, Reference
    from distsdk.transport.hosts import Hosts
    from distsdk.transport.settings import Timeouts

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
#: Columns of a terminal in which tables show digests in full, and the characters of a digest that they show in fewer.
_WIDE, _SHORT_DIGEST = 120, len("sha256:") + 12

#: Seconds for the tags that are near a missing one, and names that are compared with a missing one.
_NEAR_TIMEOUT, _NEAR_NAMES = 5.0, 10_000

#: Where the options keep which hosts were named with a scheme: whether it was ``http``, by host.
_SCHEMES = "schemes"
_UNREACHABLE, _OUT_OF_MEMORY, _INTERRUPTED, _CLOSED_PIPE = 6, 8, 130, 141


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
        say("; ".join((str(error), *getattr(error, "__notes__", ()))))
        return exit_code(error)
    except MemoryError:
        say("out of memory: the system gave this process no more; allow it more, or name something smaller")
        return _OUT_OF_MEMORY
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
    if isinstance(error, errors.RegistryError) and error.status == 503:
        return _UNREACHABLE
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
        click.echo(f"distsdk: {printable(str(message))}", err=True)


def _set_timeout(seconds: float) -> None:
    message = f"not done within {seconds:g} seconds (--timeout)"
    if hasattr(signal, "setitimer"):

        def stop(_signal: int, _frame: FrameType | None) -> None:
            raise End(_UNREACHABLE, message)

        signal.signal(signal.SIGALRM, stop)
        signal.setitimer(signal.ITIMER_REAL, seconds)
    else:  # Windows

        def end() -> None:
            say(message)
            os._exit(_UNREACHABLE)

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()


def _set_log(options: dict[str, object]) -> None:
    """Let the log speak on stderr: warnings, or with ``--debug`` each request, or with ``--quiet`` nothing."""
    import logging

    class Formatter(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return printable(super().format(record))

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
    # Of two that contradict each other, the second is False.
    if value is not None and (value is not False or option.secondary_opts):
        context.find_root().ensure_object(dict)[option.name] = value


class _Authorities(click.Path):
    """A file, or the word ``system``."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:  # noqa: ANN401
        return value if value == "system" else super().convert(value, param, ctx)


class _GlobalOption(click.Option):
    """An option of every command, which may stand before the command's name or after it."""


def _global_options(*, variables: bool) -> list[click.Parameter]:
    def option(name: str, help: str, **more: Any) -> click.Option:  # noqa: ANN401 - as in click
        variable = f"DISTSDK_{name.partition('/')[0].strip('-').replace('-', '_').upper()}"
        return _GlobalOption(
            [name],
            help=help,
            # Read by `main` alone: an option before the command's name wins over the variable.
            envvar=variable if variables else None,
            expose_value=False,
            callback=_remember,
            **more,
        )

    seconds = click.FloatRange(min=0, min_open=True)
    path = click.Path(exists=True, path_type=Path)
    directory = click.Path(exists=True, file_okay=False, path_type=Path)
    return [
        option("--plain-http/--tls", "Use HTTP without TLS, or TLS (default: HTTP to loopback).", default=None),
        option(
            "--cacert",
            "Trust the CAs in this PEM file, or the system's.",
            type=_Authorities(exists=True, path_type=Path),
            metavar="FILE|system",
        ),
        option("--hosts-dir", "Read DIR/HOST/hosts.toml: mirrors, certificates.", type=directory, metavar="DIR"),
        option(
            "--store",
            "Keep the store in DIR (default: in user data).",
            type=click.Path(file_okay=False),
            metavar="DIR",
        ),
        option("--timeout", "Abort after SECONDS (default: no limit).", type=seconds, metavar="SECONDS"),
        option(
            "--read-timeout",
            "Abort when no data arrives for SECONDS (default: 30).",
            type=seconds,
            metavar="SECONDS",
        ),
        option("--debug", "Log every request on stderr.", is_flag=True),
        option("--quiet", "Show errors only, no warnings and no progress.", is_flag=True),
        option("--replay", "Replay a recording instead of using the network.", type=path, metavar="CASSETTE"),
    ]


class _Documented(click.Command):
    """A command whose help ends with the global options and an example.

    Args:
        example: One command line, shown at the end of the help.
        usages: The forms that the arguments take, one a line; by default click's.
    """

    def __init__(self, *args: Any, example: str, usages: tuple[str, ...] = (), **kwargs: Any) -> None:  # noqa: ANN401 - as in click
        super().__init__(*args, **kwargs)
        self.example = example
        self._usages = usages
        taken = {text for parameter in self.params for text in parameter.opts}
        self.params += [option for option in _shared_options() if taken.isdisjoint(option.opts)]

    def format_usage(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write a line for each form of the arguments."""
        if not self._usages:
            super().format_usage(ctx, formatter)
        prefix = "Usage: "
        for usage in self._usages:
            formatter.write_usage(ctx.command_path, f"[OPTIONS] {usage}", prefix=prefix)
            prefix = " " * len(prefix)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the command's own options, its commands if it is a group, and the global options."""
        own: list[tuple[str, str]] = []
        shared: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx) if isinstance(parameter, click.Option) else None
            if record is not None:
                (shared if isinstance(parameter, _GlobalOption) else own).append(record)
        with formatter.section("Options"):
            formatter.write_dl(own)
        if isinstance(self, click.Group):
            self.format_commands(ctx, formatter)
        with formatter.section("Global options"):
            formatter.write_dl(shared)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example, which is not wrapped."""
        with formatter.section("Example"):
            formatter.write(f"{'':{formatter.current_indent}}{self.example}\n")


class _Command(_Documented):
    """A command that acts on the options that concern the whole run."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - as in click
        begin(ctx)
        try:
            return super().invoke(ctx)
        except errors.NotFound as error:
            _add_near_tags(error, ctx.find_root().ensure_object(dict))
            raise


class _Group(_Documented, click.Group):
    """A command with commands of its own; one that does something without them calls `begin` itself."""

    command_class = _Command


@functools.cache
def _shared_options() -> tuple[click.Parameter, ...]:
    """Return the global options as all commands have them: made once, since there are many commands."""
    return tuple(_global_options(variables=False))


#: The commands by heading, as ``distsdk --help`` lists them.
SECTIONS = {
    "Read a registry": ("resolve", "tags", "catalog", "referrers", "verify", "hosts", "login", "logout"),
    "Download": ("fetch", "pull"),
    "Look inside an image": ("inspect", "ls", "cat", "du", "diff", "unpack", "apply"),
    "Manage the store": ("images", "content"),
    "Upload, copy and delete": ("push", "attach", "copy", "delete"),
}

#: Commands of docker, skopeo, crane, oras and their like, and what does the same here.
ELSEWHERE = {
    "auth": "login HOST",
    "blob": "fetch LOCATOR DIGEST",
    "config": "inspect --json REF",
    "cp": "copy SRC DST",
    "digest": "resolve REF",
    "discover": "referrers REF",
    "download": "fetch REF",
    "export": "unpack REF DIRECTORY",
    "extract": "unpack REF DIRECTORY",
    "help": "--help",
    "history": "inspect REF",
    "image": "images",
    "import": "pull ./FILE.tar:TAG",
    "info": "inspect REF",
    "layers": "inspect REF",
    "list": "images",
    "list-tags": "tags LOCATOR",
    "load": "pull ./FILE.tar:TAG",
    "manifest": "fetch REF",
    "manifest-digest": "resolve REF",
    "prune": "content gc",
    "remove": "delete REF",
    "repo": "tags LOCATOR",
    "rm": "delete REF",
    "rmi": "images rm NAME",
    "save": "copy REF ./FILE.tar:TAG",
    "search": "catalog HOST",
    "standalone-verify": "verify --key FILE REF",
    "sync": "copy SRC DST",
    "tag": "copy REF NEW_REF",
    "tree": "referrers REF",
    "version": "--version",
}


class _Main(_Group):
    """The command itself."""

    group_class = _Group

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands under their headings."""
        width = max(map(len, self.commands))
        for heading, names in SECTIONS.items():
            with formatter.section(heading):
                rows = [(f"{name:{width}}", self.commands[name].get_short_help_str(formatter.width)) for name in names]
                formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command; for the name that another tool has for it, say what it is called here."""
        if args[0] not in self.commands and args[0] in ELSEWHERE:
            message = f"no command {args[0]!r}; use: distsdk {ELSEWHERE[args[0]]}"
            raise click.UsageError(message, ctx)
        return super().resolve_command(ctx, args)


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


@click.group(
    cls=_Main,
    params=_global_options(variables=True),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    example="distsdk ls redis:7 /etc",
)
@click.version_option(distsdk.__version__, message="%(prog)s %(version)s", help="Show the version and exit.")
def main() -> None:
    """Read and write container registries.

    A LOCATOR is a host and a path, docker.io/library/redis, or a short name of Docker Hub, redis. A REF is a locator
    with a tag or a digest, redis:7. Global options stand before the command or after it; the variable DISTSDK_TIMEOUT
    sets --timeout, and so on for each.

    Exit codes: 0 done, 1 any other error, 2 usage or a malformed name, 3 not found, 4 denied, 5 integrity,
    6 unreachable or timed out, 7 rate-limited, 8 refused as unsafe or over a limit, 130 interrupted, 141 stdout was
    closed.
    """


def option(name: str) -> Any:  # noqa: ANN401 - as it was read
    """Return a global option, None where it was not given."""
    return click.get_current_context().find_root().ensure_object(dict).get(name)


def configured_hosts(host: str) -> Hosts:
    """Return how a host is reached, as its argument, the options and the environment have it."""
    from distsdk.transport.hosts import Hosts

    options = click.get_current_context().find_root().ensure_object(dict)
    return Hosts.from_environment(
        plain_http=options.get(_SCHEMES, {}).get(host, options.get("plain_http")),
        ca_file=options.get("cacert"),
        hosts_dir=options.get("hosts_dir"),
    )


def timeouts() -> Timeouts:
    """Return the time-outs as the options have them."""
    from distsdk.transport.settings import Timeouts

    options = click.get_current_context().find_root().ensure_object(dict)
    usual = Timeouts()
    # No wait that a registry asks for is begun if it outlasts the command.
    document = min(usual.document, options.get("timeout", usual.document))
    return Timeouts(read=options.get("read_timeout", usual.read), document=document)


def connect(locator: Locator) -> Remote:
    """Return the remote for a locator, as the options have it."""
    from distsdk.transport.retry import Retry

    most = Retry().max_wait
    retry = Retry(max_wait=min(most, option("timeout") or most))
    return distsdk.connect(locator, hosts=configured_hosts(locator.host), retry=retry, timeouts=timeouts())


def names_object(word: str) -> bool:
    """Whether a locator's word goes on with a tag or a digest."""
    last = word.rpartition("/")[2]
    return "@" in last or ":" in last.rpartition("]")[2]


#: For commands that take hints: ``--platform`` says the same as the hint ``platform:``.
child_platform = click.option("--platform", metavar="OS/ARCH", help="Select a child of an index (default: the index).")


def platform_hint(platform: str | None) -> list[str]:
    """Return the hint that ``--platform`` stands for, if it was given."""
    return [] if platform is None else [f"platform:{platform}"]


def without_scheme(word: str) -> str:
    """Return an argument without the scheme before a loopback host, ``https://localhost:5000/x``, which is remembered.

    Before other hosts a scheme has nothing to say, and is refused with the argument.
    """
    from distsdk.spec.reference import split_scheme
    from distsdk.transport.hosts import is_loopback

    scheme, rest = split_scheme(word)
    host = rest.partition("/")[0]
    if not scheme or not is_loopback(host):
        return word
    schemes = click.get_current_context().find_root().ensure_object(dict).setdefault(_SCHEMES, {})
    if schemes.setdefault(host, scheme == "http") != (scheme == "http"):
        message = f"{host} is named with http:// and with https://: write one of them"
        raise click.UsageError(message)
    return rest


def read_locator(word: str) -> Locator:
    """Return the locator that an argument spells."""
    from distsdk.spec.reference import Locator

    return Locator.parse(without_scheme(word))


def read_reference(word: str) -> Reference:
    """Return the reference that an argument spells."""
    from distsdk.spec.reference import Reference

    return expect(Reference.parse(without_scheme(word)))


def expect(reference: Reference) -> Reference:
    """Return a reference that the command is going to use: if its tag is missing, the message names near ones."""
    click.get_current_context().find_root().ensure_object(dict).setdefault("references", []).append(reference)
    return reference


def _add_near_tags(error: errors.NotFound, options: dict[str, Any]) -> None:
    """Note tags that are close to a missing one: those of the first page that the registry lists.

    That is one request, which is not repeated and may take `_NEAR_TIMEOUT`. A command that is to be quiet, or has a
    time limit, makes none.
    """
    from distsdk.content.protocols import TagLister
    from distsdk.transport.retry import Retry
    from distsdk.transport.settings import Limits, Timeouts

    if "quiet" in options or "timeout" in options:
        return
    for reference in options.get("references", ()):
        if reference.tag is None or reference.digest is not None or str(reference) not in str(error):
            continue
        known: list[str] = []
        # A second page is over the limit, and a registry that lists no tags is left alone.
        with contextlib.suppress(errors.DistError, OSError):
            remote = distsdk.connect(
                reference.locator,
                hosts=configured_hosts(reference.locator.host),
                timeouts=Timeouts(connect=_NEAR_TIMEOUT, read=_NEAR_TIMEOUT, document=_NEAR_TIMEOUT),
                limits=Limits(pages=1),
                retry=Retry(attempts=1),
            )
            if isinstance(remote, TagLister):
                known.extend(remote.tags())
        add_near_names(error, "tags", reference.tag, known)


def add_near_names(error: errors.NotFound, what: str, name: str, known: list[str]) -> None:
    """Note the names that are close to a missing one, three at most."""
    if near := difflib.get_close_matches(name, known[:_NEAR_NAMES], cutoff=0.5):
        error.add_note(f"near {what}: {', '.join(near)}")


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


def shows_progress(*, stdout: bool = False) -> bool:
    """Whether the command shows bars: not with ``--quiet``, and on a terminal only.

    Args:
        stdout: The command writes data to stdout, so that no bar is shown if that is the terminal.
    """
    if option("quiet") or sys.stderr is None or not sys.stderr.isatty():
        return False
    return not (stdout and sys.stdout.isatty())


def terminal_width() -> int:
    """Return the columns of the terminal that stdout is, 0 where it is none."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def fitted_digest(digest: Digest) -> str:
    """Return a digest for a table: all of it, or its beginning on a terminal of fewer than `_WIDE` columns."""
    return str(digest)[:_SHORT_DIGEST] if 0 < terminal_width() < _WIDE else str(digest)


def write_line(text: str) -> None:
    """Write a line to stdout, fit for a terminal."""
    write(f"{printable(text)}\n".encode())


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
