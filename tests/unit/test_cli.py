"""The command line against a registry on loopback."""

from __future__ import annotations

import inspect
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from distsdk import errors
from distsdk.cli import EXIT_CODES
from distsdk.cli.app import run
from distsdk.cli.fetch import WINDOW
from distsdk.testing import Cut, Registry, Short, Stall, Status, WrongBytes

from ..support import HANGS, digest, run_command, start_command, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SCHEMA_2 = "mediatype:application/vnd.docker.distribution.manifest.v2+json"


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry with an image of two layers."""
    with Registry() as registry:
        registry.add_image("library/x", "1", layers=[b"a" * 3_000_000, b"b" * 10])
        yield registry


A, B = digest(b"a" * 3_000_000), digest(b"b" * 10)


def test_fetch(registry: Registry) -> None:
    """Bytes go to stdout, by locator and object or by reference, and nothing is said."""
    x = registry.locator("library/x")
    for arguments in ([x, A], [f"{x}@{A}"]):
        done = run_command("fetch", *arguments)
        assert (0, A, b"") == (done.returncode, digest(done.stdout), done.stderr)
    assert run_command("fetch", x, "1").stdout == run_command("fetch", f"{x}:1").stdout
    assert run_command("resolve", f"{x}:1").stdout.decode().strip() == digest(run_command("fetch", x, "1").stdout)
    assert (b"1\n", b'["1"]\n') == (run_command("tags", x).stdout, run_command("tags", "--json", x).stdout)
    assert b"library/x\n" == run_command("catalog", registry.host).stdout


def test_platform_option() -> None:
    """The option `--platform` of fetch and resolve leads to the same child as the hint; two platforms are refused."""
    with Registry() as registry:
        children = [registry.add_image("x", platform=f"linux/{name}") for name in ("amd64", "arm64")]
        registry.add_index("x", "1", manifests=children)
        x, child = registry.locator("x"), str(children[1].digest)
        assert child == run_command("resolve", f"{x}:1", "--platform", "linux/arm64").stdout.decode().strip()
        for arguments in ([x, "1"], [f"{x}:1"]):
            assert child == digest(run_command("fetch", *arguments, "--platform", "linux/arm64").stdout)
        two = run_command("resolve", f"{x}:1", "platform:linux/amd64", "--platform", "linux/arm64")
        assert (2, b"") == (two.returncode, two.stdout)
        many = run_command("fetch", x, "-", "--platform", "linux/arm64", stdin=b"1\n")
        assert 2 == many.returncode
        assert b"hints stand on the lines" in many.stderr


@pytest.mark.parametrize("command", ["fetch", "resolve"])
def test_unknown_hint_kinds(registry: Registry, command: str) -> None:
    """A misspelt kind of hint is ignored with one line on stderr, and with none under `--quiet`."""
    x = f"{registry.locator('library/x')}:1"
    plain, loud = run_command(command, x), run_command(command, x, "plaform:linux/arm64")
    assert (0, plain.stdout) == (loud.returncode, loud.stdout)
    assert [
        "distsdk: warning: hint 'plaform:linux/arm64' ignored: unknown kind 'plaform'; write platform:linux/arm64"
    ] == loud.stderr.decode().splitlines()
    assert b"" == run_command(command, x, "plaform:linux/arm64", "--quiet").stderr


def test_many(registry: Registry, tmp_path: Path) -> None:
    """Objects come in the order of their lines; a failure is told by its line, and makes the exit code."""
    x = registry.locator("library/x")
    done = run_command("fetch", x, "-", "-j", "3", stdin=f"{A}\nnope\n\n{B} size:10\n".encode())
    assert b"a" * 3_000_000 + b"b" * 10 == done.stdout
    assert 3 == done.returncode
    assert done.stderr.startswith(b"distsdk: line 2: ")
    assert 1 == done.stderr.count(b"\n")
    done = run_command("fetch", x, "-", "-o", str(tmp_path / "out"), stdin=f"{A}\n{B}\n".encode())
    assert f"{A}\n{B}\n".encode() == done.stdout
    assert {A, B} == {digest(path.read_bytes()) for path in (tmp_path / "out").iterdir()}
    assert {A, B} == {path.name for path in (tmp_path / "out").iterdir()}


def test_lines_are_answered_as_they_come(registry: Registry) -> None:
    """The object of a line is written before the next line is."""
    with start_command("fetch", registry.locator("library/x"), "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        for _ in range(2):
            process.stdin.write(f"{B}\n".encode())
            process.stdin.flush()
            assert b"b" * 10 == process.stdout.read(10)
        process.stdin.close()
        assert 0 == process.wait(timeout=HANGS)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_stalled_first_object(registry: Registry) -> None:
    """The others go on as far as the window, and memory stays bounded."""
    layers = [bytes([n]) * (8 << 20) for n in range(6)]
    lines = [str(registry.add_blob("library/x", data).digest) for data in layers]
    registry.fault(Stall(after=10), path=lines[0])
    with start_command("fetch", registry.locator("library/x"), "-", "-j", "4") as process:
        assert process.stdin is not None
        process.stdin.write("\n".join(lines).encode())
        process.stdin.close()
        wait_until(lambda: registry.bytes_sent >= WINDOW - (2 << 20))
        time.sleep(0.5)  # more than the window would come now
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
    done = run_command(*(argument.replace("HOST", registry.host) for argument in arguments))
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
    done = run_command("fetch", registry.locator("library/x"), B)
    assert code == done.returncode
    assert done.stderr.startswith(b"distsdk: ")
    assert 1 == done.stderr.count(b"\n")


def test_out_of_memory(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that gets no memory ends with 8 and a sentence, without a traceback."""

    def nothing_left(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("distsdk.cli.app.main.main", nothing_left)
    assert 8 == run(["ls", "example.org/x"])
    said = capsys.readouterr().err
    assert said.startswith("distsdk: out of memory: ")
    assert 1 == said.count("\n")


@pytest.mark.slow
def test_time_is_limited(registry: Registry) -> None:
    """``--timeout`` ends the whole command, wherever it stands."""
    registry.fault(Stall(after=None), path="/manifests/")
    x = registry.locator("library/x")
    for arguments in (["--timeout", "1", "fetch", x, "1"], ["fetch", x, "1", "--timeout", "1"]):
        with start_command(*arguments) as process:
            _, said = process.communicate(timeout=HANGS)
        # The time for a document is no longer than the command's: that, too, would have ended it, in other words.
        assert (6, b"distsdk: not done within 1 seconds (--timeout)\n") == (process.returncode, said)


@pytest.mark.slow
def test_interrupted(registry: Registry) -> None:
    """Ctrl-C ends it with 130 and without a traceback."""
    registry.fault(Stall(after=None), path="/manifests/")
    with start_command("fetch", registry.locator("library/x"), "1") as process:
        wait_until(registry.count)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=HANGS)
    assert (130, b"") == (process.returncode, said.strip())


@pytest.mark.slow
@pytest.mark.parametrize("many", [False, True])
def test_a_closed_stdout(registry: Registry, many: bool) -> None:
    """It ends quietly, as other tools in a pipe do."""
    with start_command("fetch", registry.locator("library/x"), "-" if many else A) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write(f"{A}\n".encode())
        process.stdin.close()
        assert b"" == process.stderr.read()
        assert 141 == process.wait(timeout=HANGS)


def test_every_error_has_its_exit_code() -> None:
    """Only a registry's other answers, a missing extra, and the root itself are 1."""
    named = tuple(kind for kinds, _ in EXIT_CODES for kind in kinds)
    every = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, errors.DistError)]
    assert {"DistError", "RegistryError", "MissingExtra"} == {k.__name__ for k in every if not issubclass(k, named)}
