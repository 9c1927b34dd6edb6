"""How the command ends when what is around it is gone or does not come: quietly, at once, and with the right code."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import termios
import time
from typing import IO, TYPE_CHECKING

import pytest

from distsdk.testing import Registry

from ..support import COMMAND, ENVIRONMENT, HANGS, start_command, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals, shells and pipes as POSIX has them")


@pytest.fixture(scope="module")
def registry() -> Iterator[Registry]:
    """A registry with one image; nobody changes it."""
    with Registry() as registry:
        registry.add_image("x", "1")
        yield registry


def unread(pipe: IO[bytes] | None) -> int:
    """Return how many bytes of a pipe were not read yet."""
    assert pipe is not None
    left = bytearray(4)
    fcntl.ioctl(pipe, termios.FIONREAD, left)
    return int.from_bytes(left, sys.byteorder)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGINT", "--timeout", "closed stdout"])
@pytest.mark.parametrize("first", [b"", b"1\n"])
def test_the_end_does_not_wait_for_stdin(registry: Registry, how: str, first: bytes) -> None:
    """Many objects are fetched, and the next line does not come: the command can be ended all the same."""
    if how == "closed stdout" and not first:
        first = b"1\n1\n"  # who writes nothing does not notice
    arguments = ["fetch", registry.locator("x"), "-", *(["--timeout", "1"] if how == "--timeout" else [])]
    before = registry.count()
    with start_command(*arguments) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        if how == "closed stdout":
            process.stdout.close()
        process.stdin.write(first or b"\n")  # an empty line means nothing
        process.stdin.flush()
        if how == "SIGINT":
            wait_until(lambda: registry.count() > before or not first)
            wait_until(lambda: not unread(process.stdin))  # now the next line is waited for
            process.send_signal(signal.SIGINT)
        code = process.wait(HANGS)
        said = process.stderr.read().decode().strip()
    expected = {
        "SIGINT": (130, ""),
        "--timeout": (6, "distsdk: not done within 1 seconds (--timeout)"),
        "closed stdout": (141, ""),
    }
    assert expected[how] == (code, said)


#: Looking a name up hangs as glibc's resolver does where name servers are silent: inside C, whatever signals come.
SILENT_NAMES = """
import ctypes, os, socket, sys

def hang(*_, **__):
    c, lock = ctypes.CDLL(None), ctypes.create_string_buffer(256)
    c.pthread_mutex_init(lock, None)
    c.pthread_mutex_lock(lock)
    os.write(2, b"looking up\\n")
    c.pthread_mutex_lock(lock)

socket.getaddrinfo = hang
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", ["SIGINT", "--timeout"])
def test_the_end_does_not_wait_for_name_servers(how: str) -> None:
    """While a name is looked up, which nothing can interrupt, the command can be ended all the same."""
    run = f"{SILENT_NAMES}\nfrom distsdk.__main__ import main\nmain()"
    arguments = ["fetch", "registry.invalid/x", "1", *(["--timeout", "1"] if how == "--timeout" else [])]
    command = [sys.executable, "-c", run, *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
        assert process.stderr is not None
        try:
            assert b"looking up\n" == process.stderr.readline()
            if how == "SIGINT":
                time.sleep(0.2)  # until it is inside C
                process.send_signal(signal.SIGINT)
            code = process.wait(HANGS)
        finally:
            process.kill()
        said = process.stderr.read().decode().strip()
    expected = {"SIGINT": (130, ""), "--timeout": (6, "distsdk: not done within 1 seconds (--timeout)")}
    assert expected[how] == (code, said)


@pytest.mark.slow
def test_a_program_does_not_wait_for_name_servers() -> None:
    """A program that was told that a name was not resolved ends, whatever still waits for the name servers."""
    code = f"""{SILENT_NAMES}
import distsdk
timeouts = distsdk.Timeouts(connect=0.2)
try:
    distsdk.connect("registry.invalid/x", timeouts=timeouts, retry=distsdk.Retry(attempts=1)).fetch("1")
except distsdk.Unreachable as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, timeout=HANGS, env=ENVIRONMENT, text=True
    )
    assert (0, "looking up\n") == (done.returncode, done.stderr)
    assert done.stdout.startswith("name resolution of registry.invalid took longer than 0.2 seconds")


@pytest.mark.slow
@pytest.mark.parametrize("arguments", ["--help", "--version", "fetch --help", "tags {x}", "resolve {x}:1", "hosts {x}"])
def test_a_stdout_that_is_closed_by_its_reader(registry: Registry, arguments: str) -> None:
    """Whatever is written to a pipe that nobody reads any longer, the end is quiet, and the same: 141."""
    command = [*COMMAND, *arguments.format(x=registry.locator("x")).split()]
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, check=False, timeout=HANGS, env=ENVIRONMENT
        )
    finally:
        os.close(writer)
    assert (141, b"") == (done.returncode, done.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("descriptor", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", ["fetch {x} 1", "fetch {x} -", "fetch {x} missing", "tags {x}", "--help"])
def test_descriptors_that_are_closed_from_the_start(registry: Registry, arguments: str, descriptor: str) -> None:
    """Without stdin, stdout or stderr, as some supervisors start commands, there may be failures but no tracebacks."""
    command = f'"$0" -m distsdk {arguments.format(x=registry.locator("x"))} {descriptor}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable],
        input=b"1\n",
        capture_output=True,
        check=False,
        timeout=HANGS,
        env=ENVIRONMENT,
    )
    assert b"Traceback" not in done.stderr
    assert b"Fatal" not in done.stderr
    assert done.returncode in {0, 1, 2, 3, 141}
    if "missing" in arguments and ">&-" not in descriptor.split():
        assert done.returncode == 3


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is full")  # noqa: PTH110
@pytest.mark.parametrize("arguments", [["fetch", "1"], ["tags"], ["resolve"]])
def test_a_full_disk_is_told_once(registry: Registry, arguments: list[str]) -> None:
    """What cannot be written is one line and code 1, also where Python flushes once more at its end."""
    command, *rest = arguments
    x = registry.locator("x")
    with open("/dev/full", "wb") as full:  # noqa: PTH123
        done = subprocess.run(
            [*COMMAND, command, f"{x}:1" if command == "resolve" else x, *rest],
            stdout=full,
            stderr=subprocess.PIPE,
            check=False,
            timeout=HANGS,
            env=ENVIRONMENT,
        )
    assert (1, "distsdk: [Errno 28] No space left on device\n") == (done.returncode, done.stderr.decode())
