"""The documentation names all there is, says what the code says, and its examples run."""

from __future__ import annotations

import doctest
import inspect
import os
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import click
import pytest

import distsdk
from distsdk import cli, errors, testing

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)]
COMMAND_LINE = (DOCS / "reference/command-line.md").read_text(encoding="utf-8")
ERRORS = (DOCS / "reference/errors.md").read_text(encoding="utf-8")

#: What the examples for the shell use besides distsdk.
SHELL_TOOLS = ("sh", "jq", "sha256sum", "cmp", "xargs")


def blocks(page: Path, language: str) -> list[str]:
    """Return the code blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def pages_with(language: str) -> list[str]:
    """Return the pages that have code in a language, to be given to `parametrize`."""
    return [str(page.relative_to(ROOT)) for page in PAGES if blocks(page, language)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder that examples may write to, with the recordings in it, and the variables of a new shell."""
    for variable in [name for name in os.environ if name.startswith("DISTSDK_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("DISTSDK_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    (tmp_path / "cassettes").symlink_to(ROOT / "cassettes", target_is_directory=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("page", pages_with("python"))
def test_python_examples_run(page: str, folder: Path) -> None:
    """The Python of a page, put together, runs to its end; what would ask a registry is played."""
    (folder / "ca.pem").touch()  # a name that examples give to files of their own
    program = folder / "page.py"
    code = "\n".join(blocks(ROOT / page, "python"))
    program.write_text(code, encoding="utf-8")
    replay = {} if "Registry(" in code else {"DISTSDK_REPLAY": "cassettes/redis"}
    done = subprocess.run(
        [sys.executable, program], env={**os.environ, **replay}, capture_output=True, check=False, timeout=120
    )
    assert (0, b"") == (done.returncode, done.stderr)


@pytest.mark.slow
@pytest.mark.skipif(not all(map(shutil.which, SHELL_TOOLS)), reason=f"needs {', '.join(SHELL_TOOLS)}")
@pytest.mark.parametrize("page", pages_with("sh"))
def test_shell_examples_run(page: str, folder: Path) -> None:
    """So do its commands."""
    code = "\n".join(block for block in blocks(ROOT / page, "sh") if "make " not in block and "pip " not in block)
    (folder / "bin").mkdir()
    command = folder / "bin" / "distsdk"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m distsdk "$@"\n')
    command.chmod(0o755)
    done = subprocess.run(
        ["sh", "-euc", code],
        env={
            **os.environ,
            "DISTSDK_REPLAY": "cassettes/redis",
            "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        check=False,
        timeout=120,
    )
    assert 0 == done.returncode, done.stderr.decode()


@pytest.mark.slow
def test_the_first_image_takes_five_lines(folder: Path) -> None:
    """The README leads from nothing to an image in five lines; what follows the installation runs as it stands."""
    [lines] = [block.splitlines() for block in blocks(ROOT / "README.md", "text") if "git clone" in block]
    assert 5 == len(lines)
    assert "pip install" in lines[2]
    for line in lines[3:]:
        command = [sys.executable, "-m", *shlex.split(line)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)
        assert 0 == done.returncode, done.stderr
        assert re.search("redis-server|debian_version", done.stdout)


MODULES = sorted(path for path in (ROOT / "distsdk").rglob("*.py") if ">>> " in path.read_text(encoding="utf-8"))


@pytest.mark.slow
@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_examples_in_docstrings_run(path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a docstring shows is what happens; what would ask a registry is played."""
    monkeypatch.setenv("DISTSDK_REPLAY", str(folder / "cassettes"))
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    names = {"distsdk": distsdk}
    for example in doctest.DocTestFinder().find(import_module(name), extraglobs=names):
        runner.run(example, out=said.append)
    assert runner.tries
    assert 0 == runner.failures, "".join(said)


def test_the_parts_that_are_used_most_have_examples() -> None:
    """A name that most begin with shows how in its docstring."""
    for name in ("Digest", "Hint", "Locator", "Platform", "Reference", "connect", "image", "record", "replay"):
        assert ">>> " in (getattr(distsdk, name).__doc__ or ""), name


def commands(group: click.Group = cli.main, before: str = "") -> Iterator[tuple[str, click.Command]]:
    """Yield a group and its commands, each by its name; the name of the first is empty."""
    yield before.strip(), group
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", command


def test_every_command_is_documented() -> None:
    """Each has help, and a row in the reference that begins with it, unless it does nothing by itself."""
    for name, command in commands():
        assert command.help
        if not isinstance(command, click.Group) or (name and command.invoke_without_command):
            assert re.search(rf"\| `{name}[ `]", COMMAND_LINE), name


def test_every_option_is_documented() -> None:
    """Each option has help, and its names and its variable are in the reference; no other option or variable is."""
    options = [o for _, command in commands() for o in command.params if isinstance(o, click.Option)]
    shown = {name for option in options for name in (*option.opts, *option.secondary_opts)} | {"-h", "--help"}
    variables = {str(option.envvar) for option in options if option.envvar}
    assert all(option.help for option in options)
    named = re.findall(
        r"(?:^|[ |])(--?[a-zA-Z][a-z-]*)", "\n".join(re.findall(r"`([^`\n]+)`", COMMAND_LINE)), re.MULTILINE
    )
    assert shown == set(named)
    assert variables == set(re.findall(r"`(DISTSDK_\w+)", COMMAND_LINE))


def test_every_exit_code_is_documented() -> None:
    """The table of exit codes has those of the errors, and those that the command's own help names."""
    table = COMMAND_LINE.partition("## Exit codes")[2].partition("## ")[0]
    listed = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    assert {code for _, code in cli.EXIT_CODES} <= listed
    assert cli.main.help is not None
    assert listed == {int(code) for code in re.findall(r"(\d+) [a-z]", cli.main.help.partition("Exit codes:")[2])}


def every_error() -> list[type[errors.DistError]]:
    """Return the classes of `distsdk.errors`."""
    kinds = [kind for _, kind in inspect.getmembers(errors, inspect.isclass)]
    return [kind for kind in kinds if issubclass(kind, errors.DistError)]


def example_of(kind: type[errors.DistError], status: int = 500) -> errors.DistError:
    """Return an error of a class; one that carries a status has this one."""
    error = kind.__new__(kind)
    error.__dict__["status"] = status
    return error


def test_every_error_is_documented() -> None:
    """Each has a row that names the builtin it also is, or the error above it, and its exit code."""
    rows = {
        (name, also, int(code))
        for name, also, code in re.findall(r"^\| `(\w+)` \| (.*?) ?\| (\d)(?:, and .*)? \|$", ERRORS, re.M)
    }
    expected = set()
    for kind in every_error():
        above = [base.__name__ for base in kind.__bases__ if base not in {errors.DistError, Exception}]
        expected.add((kind.__name__, f"`{above[0]}`" if above else "", cli.exit_code(example_of(kind))))
    assert expected == rows


def test_what_goes_wrong_agrees_with_the_errors() -> None:
    """Each row of bad input has the exit code of its error."""
    table = COMMAND_LINE.partition("## What goes wrong")[2]
    rows = re.findall(r"^\|.*\| (?:usage, )?`(\w+)` \| (\d) \|$", table, re.MULTILINE)
    codes = {
        kind.__name__: {cli.exit_code(example_of(kind, status)) for status in (500, 503)} for kind in every_error()
    }
    assert rows
    assert [] == [(name, code) for name, code in rows if int(code) not in codes[name]]


@pytest.mark.parametrize("name", distsdk.__all__)
def test_every_public_name_is_documented(name: str) -> None:
    """The reference has an entry for each, or leads to the page of errors."""
    reference = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    if name in vars(errors) or inspect.ismodule(getattr(distsdk, name)):
        assert f"`{name}`" in reference
    else:
        assert re.search(rf"^\.\. auto(class|function|data):: distsdk\.{name}$", reference, re.MULTILINE)


@pytest.mark.parametrize("name", [name for name in testing.__all__ if inspect.isclass(getattr(testing, name))])
def test_every_name_for_tests_is_documented(name: str) -> None:
    """So has what users' tests import."""
    page = (DOCS / "reference/testing.md").read_text(encoding="utf-8")
    assert re.search(rf"^\.\. autoclass:: distsdk\.testing\.{name}$", page, re.MULTILINE)
