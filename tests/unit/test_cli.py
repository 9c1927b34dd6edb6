"""The command line in processes of its own, against a registry on loopback."""

from __future__ import annotations

import hashlib
import inspect
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from distsdk import errors
from distsdk.cli import EXIT_CODES
from distsdk.cli.fetch import WINDOW
from distsdk.testing import Cut, Registry, Short, Stall, Status, WrongBytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMAND = [sys.executable, "-m", "distsdk"]
SCHEMA_2 = "mediatype:application/vnd.docker.distribution.manifest.v2+json"


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry with an image of two layers."""
    with Registry() as registry:
        registry.add_image("library/x", "1", layers=[b"a" * 3_000_000, b"b" * 10])
        yield registry


def distsdk(*arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run the command."""
    return subprocess.run([*COMMAND, *arguments], input=stdin, capture_output=True, check=False, timeout=60)


def digest(data: bytes) -> str:
    """Return the digest of bytes, by hashlib."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


A, B = digest(b"a" * 3_000_000), digest(b"b" * 10)


def test_fetch(registry: Registry) -> None:
    """Bytes go to stdout, by locator and object or by reference, and nothing is said."""
    x = registry.locator("library/x")
    for arguments in ([x, A], [f"{x}@{A}"]):
        done = distsdk("fetch", *arguments)
        assert (0, A, b"") == (done.returncode, digest(done.stdout), done.stderr)
    assert distsdk("fetch", x, "1").stdout == distsdk("fetch", f"{x}:1").stdout
    assert distsdk("resolve", f"{x}:1").stdout.decode().strip() == digest(distsdk("fetch", x, "1").stdout)
    assert (b"1\n", b'["1"]\n') == (distsdk("tags", x).stdout, distsdk("tags", "--json", x).stdout)
    assert b"library/x\n" == distsdk("catalog", registry.host).stdout


def test_platform_option() -> None:
    """The option `--platform` of fetch and resolve leads to the same child as the hint; two platforms are refused."""
    with Registry() as registry:
        children = [registry.add_image("x", platform=f"linux/{name}") for name in ("amd64", "arm64")]
        registry.add_index("x", "1", manifests=children)
        x, child = registry.locator("x"), str(children[1].digest)
        assert child == distsdk("resolve", f"{x}:1", "--platform", "linux/arm64").stdout.decode().strip()
        for arguments in ([x, "1"], [f"{x}:1"]):
            assert child == digest(distsdk("fetch", *arguments, "--platform", "linux/arm64").stdout)
        two = distsdk("resolve", f"{x}:1", "platform:linux/amd64", "--platform", "linux/arm64")
        assert (2, b"") == (two.returncode, two.stdout)
        many = distsdk("fetch", x, "-", "--platform", "linux/arm64", stdin=b"1\n")
        assert 2 == many.returncode
        assert b"hints stand on the lines" in many.stderr


@pytest.mark.parametrize("command", ["fetch", "resolve"])
def test_unknown_hint_kinds(registry: Registry, command: str) -> None:
    """A misspelt kind of hint is ignored with one line on stderr, and with none under `--quiet`."""
    x = f"{registry.locator('library/x')}:1"
    plain, loud = distsdk(command, x), distsdk(command, x, "plaform:linux/arm64")
    assert (0, plain.stdout) == (loud.returncode, loud.stdout)
    assert [
        "distsdk: warning: hint 'plaform:linux/arm64' ignored: unknown kind 'plaform'; write platform:linux/arm64"
    ] == loud.stderr.decode().splitlines()
    assert b"" == distsdk(command, x, "plaform:linux/arm64", "--quiet").stderr


def test_many(registry: Registry, tmp_path: Path) -> None:
    """Objects come in the order of their lines; a failure is told by its line, and makes the exit code."""
    x = registry.locator("library/x")
    done = distsdk("fetch", x, "-", "-j", "3", stdin=f"{A}\nnope\n\n{B} size:10\n".encode())
    assert b"a" * 3_000_000 + b"b" * 10 == done.stdout
    assert 3 == done.returncode
    assert done.stderr.startswith(b"distsdk: line 2: ")
    assert 1 == done.stderr.count(b"\n")
    done = distsdk("fetch", x, "-", "-o", str(tmp_path / "out"), stdin=f"{A}\n{B}\n".encode())
    assert f"{A}\n{B}\n".encode() == done.stdout
    assert {A, B} == {digest(path.read_bytes()) for path in (tmp_path / "out").iterdir()}
    assert {A, B} == {path.name for path in (tmp_path / "out").iterdir()}


def test_lines_are_answered_as_they_come(registry: Registry) -> None:
    """The object of a line is written before the next line is."""
    with subprocess.Popen(
        [*COMMAND, "fetch", registry.locator("library/x"), "-"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):
            process.stdin.write(f"{B}\n".encode())
            process.stdin.flush()
            assert b"b" * 10 == process.stdout.read(10)
        process.stdin.close()
    assert 0 == process.returncode


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_stalled_first_object(registry: Registry) -> None:
    """The others go on as far as the window, and memory stays bounded."""
    layers = [bytes([n]) * (8 << 20) for n in range(6)]
    lines = [str(registry.add_blob("library/x", data).digest) for data in layers]
    registry.fault(Stall(after=10, seconds=60), path=lines[0])
    with subprocess.Popen(
        [*COMMAND, "fetch", registry.locator("library/x"), "-", "-j", "4"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write("\n".join(lines).encode())
        process.stdin.close()
        end = time.monotonic() + 20
        while registry.bytes_sent < WINDOW - (2 << 20) and time.monotonic() < end:
            time.sleep(0.1)
        time.sleep(0.5)
        sent = registry.bytes_sent
        with open(f"/proc/{process.pid}/status", encoding="ascii") as status:  # noqa: PTH123 - no file of ours
            peak = next(int(line.split()[1]) for line in status if line.startswith("VmHWM"))
        process.kill()
    assert WINDOW - (2 << 20) <= sent
    assert peak <= 80 * 1024


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, ["fetch", "docker://redis", "latest"]),
        (2, ["fetch", "user:hunter2@registry.invalid/x", "1"]),
        (2, ["fetch", "registry.invalid/X", "1"]),
        (2, ["fetch", "registry.invalid/x", "a b"]),
        (2, ["fetch", "registry.invalid/x", "sha256:zz"]),
        (2, ["fetch", "registry.invalid/x", "1", "no-colon"]),
        (2, ["fetch", "registry.invalid/x"]),
        (2, ["fetch", "registry.invalid/x", "1", "-j", "2"]),
        (6, ["fetch", "registry.invalid/x", "1"]),
        (6, ["fetch", "127.0.0.1:1/x", "1"]),
        (3, ["fetch", "HOST/library/x", "nope"]),
        (3, ["fetch", "HOST/library/x", "sha256:" + "0" * 64]),
        (5, ["fetch", "HOST/library/x", "1", SCHEMA_2]),
    ],
)
def test_bad_input(registry: Registry, code: int, arguments: list[str]) -> None:
    """Each has the exit code of its kind and one message, without a traceback or a secret."""
    done = distsdk(*(argument.replace("HOST", registry.host) for argument in arguments))
    said = done.stderr.decode()
    assert (code, b"") == (done.returncode, done.stdout)
    assert said.startswith("Usage: ") or (said.startswith("distsdk: ") and said.count("\n") == 1)
    assert "Traceback" not in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        (4, Status(401)),
        (4, Status(403)),
        (3, Status(404)),
        (7, Status(429)),
        (1, Status(500)),
        (5, WrongBytes()),
        (5, Short(5)),
        (6, Cut(0)),
    ],
)
def test_bad_answers(registry: Registry, code: int, fault: Status | WrongBytes | Short | Cut) -> None:
    """So has what a registry does wrong."""
    registry.fault(fault, path="/blobs/|/manifests/")
    done = distsdk("fetch", registry.locator("library/x"), B)
    assert code == done.returncode
    assert done.stderr.startswith(b"distsdk: ")
    assert 1 == done.stderr.count(b"\n")


def test_time_is_limited(registry: Registry) -> None:
    """``--timeout`` ends the whole command, wherever it stands."""
    registry.fault(Stall(after=None, seconds=60), path="/manifests/")
    x = registry.locator("library/x")
    for arguments in (["--timeout", "1", "fetch", x, "1"], ["fetch", x, "1", "--timeout", "1"]):
        start = time.monotonic()
        done = distsdk(*arguments)
        # The time for a document is no longer than the command's: that, too, would have ended it, in other words.
        assert (6, b"distsdk: not done within 1 seconds (--timeout)\n") == (done.returncode, done.stderr)
        assert time.monotonic() - start < 20


def test_interrupted(registry: Registry) -> None:
    """Ctrl-C ends it with 130 and without a traceback."""
    registry.fault(Stall(after=None, seconds=60), path="/manifests/")
    arguments = [*COMMAND, "fetch", registry.locator("library/x"), "1"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        end = time.monotonic() + 20
        while not registry.count() and time.monotonic() < end:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
    assert (130, b"") == (process.returncode, said.strip())


@pytest.mark.parametrize("many", [False, True])
def test_a_closed_stdout(registry: Registry, many: bool) -> None:
    """It ends quietly, as other tools in a pipe do."""
    arguments = [*COMMAND, "fetch", registry.locator("library/x"), "-" if many else A]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(f"{A}\n".encode())
        process.stdin.close()
        assert b"" == process.stderr.read()
        assert 141 == process.wait(timeout=20)


def test_every_error_has_its_exit_code() -> None:
    """Only a registry's other answers, a missing extra, and the root itself are 1."""
    named = tuple(kind for kinds, _ in EXIT_CODES for kind in kinds)
    every = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.DistError)]
    assert {"DistError", "RegistryError", "MissingExtra"} == {k.__name__ for k in every if not issubclass(k, named)}
