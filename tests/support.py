"""What tests of several modules share: the command, in this process or in one of its own, and what waits for others."""

from __future__ import annotations

import hashlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING
from unittest import mock

import pytest

from distsdk import cli

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

#: The command, to be started as a process of its own.
COMMAND = [sys.executable, "-m", "distsdk"]
#: The variables of such a process. `tests/unit/conftest.py` has removed the settings of the person who runs the tests.
#: There is no store: theirs is not touched.
ENVIRONMENT = {**os.environ, "DISTSDK_STORE": os.path.join(os.devnull, "store")}  # noqa: PTH118 - a text
#: Seconds after which a test gives up: it hangs. Nothing takes as long, however busy the machine is.
HANGS = 300


def digest(data: bytes) -> str:
    """Return the digest of bytes, by hashlib."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def wait_until(true: Callable[[], object]) -> None:
    """Wait for something that happens elsewhere: in another thread, or in another process."""
    end = time.monotonic() + HANGS
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.005)


def fork(work: Callable[[], object]) -> Callable[[], None]:
    """Do something in a forked child; return what waits for the child and checks that nothing was raised in it."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - the child must not go on as a second pytest
            traceback.print_exc(file=sys.stderr)
        finally:
            os._exit(code)

    def wait() -> None:
        end = time.monotonic() + HANGS
        while (ended := os.waitpid(child, os.WNOHANG))[0] == 0:
            if time.monotonic() > end:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                pytest.fail("the child hangs")
            time.sleep(0.01)
        assert 0 == os.waitstatus_to_exitcode(ended[1])

    return wait


def run_command(
    *arguments: str | Path,
    stdin: bytes = b"",
    variables: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run the command in this process, with all that a process has for itself, and return how it ended.

    What is about signals, pipes, threads at the exit or imports takes a process of its own: `start_command`.

    Args:
        arguments: Of the command.
        stdin: What it reads.
        variables: Added to `ENVIRONMENT`.
        cwd: The current directory.
    """
    with ExitStack() as stack:
        stack.enter_context(_new_warnings())
        stack.enter_context(_new_log())
        stack.enter_context(_no_alarm())
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        files = {name: stack.enter_context(tempfile.TemporaryFile()) for name in ("stdin", "stdout", "stderr")}
        files["stdin"].write(stdin)
        for name, file in files.items():
            file.seek(0)
            mode, errors = ("r" if name == "stdin" else "w"), ("backslashreplace" if name == "stderr" else "strict")
            stream = open(file.fileno(), mode, encoding="utf-8", errors=errors, closefd=False)  # noqa: SIM115
            patch.setattr(sys, name, stack.enter_context(stream))
        if cwd is not None:
            patch.chdir(cwd)
        stack.enter_context(mock.patch.dict(os.environ, {**ENVIRONMENT, **(variables or {})}, clear=True))
        try:
            code = cli.run([os.fsdecode(argument) for argument in arguments])
        except SystemExit as end:  # where the shell completes a word
            code = int(end.code or 0)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        files["stdout"].seek(0)
        files["stderr"].seek(0)
        return subprocess.CompletedProcess(arguments, code, files["stdout"].read(), files["stderr"].read())


@contextmanager
def _new_warnings() -> Iterator[None]:
    """Filter warnings as an interpreter does that has just started."""
    with warnings.catch_warnings():
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)
        yield


@contextmanager
def _new_log() -> Iterator[None]:
    """Give the log no handlers, and take those away that it gets."""
    root, own = logging.getLogger(), logging.getLogger("distsdk")
    handlers, levels = root.handlers, (root.level, own.level)
    root.handlers = []
    try:
        yield
    finally:
        root.handlers = handlers
        root.setLevel(levels[0])
        own.setLevel(levels[1])


@contextmanager
def _no_alarm() -> Iterator[None]:
    """End the time limit of a command with the command."""
    if not hasattr(signal, "setitimer"):
        yield
        return
    before = signal.getsignal(signal.SIGALRM)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def start_command(
    *arguments: str | Path, variables: Mapping[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Start the command in a process of its own, with pipes on all sides; it does not outlive the test.

    Args:
        arguments: Of the command.
        variables: Added to `ENVIRONMENT`.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [*COMMAND, *arguments], stdin=pipe, stdout=pipe, stderr=pipe, env={**ENVIRONMENT, **(variables or {})}
    ) as process:
        try:
            yield process
        finally:
            process.kill()
