"""What pyproject.toml promises is there."""

from __future__ import annotations

import ast
import importlib
import re
import sys
import tomllib
from pathlib import Path

import pytest

import distsdk

ROOT = Path(__file__).parents[2]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]

#: The distribution that brings a module, where their names differ.
DISTRIBUTIONS = {"backports": "backports-zstd", "vcr": "vcrpy", "yaml": "pyyaml", "indexed_gzip": "indexed-gzip"}


def name(requirement: str) -> str:
    """Return the normalised name in a requirement (PEP 503)."""
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def declared() -> set[str]:
    """Return the names of everything that distsdk may need, extras included."""
    extras = [r for extra in PROJECT["optional-dependencies"].values() for r in extra]
    return {name(requirement) for requirement in [*PROJECT["dependencies"], *extras]}


def test_the_extra_all_is_all_of_them() -> None:
    """`distsdk[all]` brings what every other extra brings."""
    extras = dict(PROJECT["optional-dependencies"])
    (everything,) = extras.pop("all")
    assert f"distsdk[{','.join(extras)}]" == everything


@pytest.mark.slow
def test_whatever_is_imported_is_declared() -> None:
    """A library that distsdk imports is one of its dependencies or extras, not one that happens to be installed."""
    imported: set[str] = set()
    # The suite that tests inherit runs under pytest, or not at all.
    under_pytest = {ROOT / "distsdk/testing/suite.py", ROOT / "distsdk/testing/fixtures.py"}
    for path in set((ROOT / "distsdk").rglob("*.py")) - under_pytest:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                imported.add(node.module.split(".")[0])
    # `compression` is in the standard library from Python 3.14 on; `_typeshed` exists for type checkers only.
    foreign = imported - sys.stdlib_module_names - {"distsdk", "compression", "_typeshed"}
    assert set() == {DISTRIBUTIONS.get(module, name(module)) for module in foreign} - declared()


def test_the_command_is_there() -> None:
    """The script that an installation puts on PATH points at a function."""
    module, _, function = PROJECT["scripts"]["distsdk"].partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_distsdk_is_typed() -> None:
    """Type checkers read the annotations of an installed distsdk (PEP 561)."""
    assert (Path(distsdk.__file__).parent / "py.typed").exists()


def test_constraints_pin_every_dependency_and_name_no_host() -> None:
    """constraints.txt pins what pyproject.toml asks for, and says nothing of where it was made."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pinned = {name(line) for line in text.splitlines() if "==" in line}
    assert set() == declared() - {"distsdk"} - pinned
    assert not re.search(r"https?:|file:|^-", text, re.MULTILINE)


def test_the_changelog_knows_the_version() -> None:
    """A version is either being worked on or has its entry."""
    assert re.fullmatch(r"\d+\.\d+\.\d+", distsdk.__version__)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert "## Unreleased" in changelog or f"## {distsdk.__version__}" in changelog
