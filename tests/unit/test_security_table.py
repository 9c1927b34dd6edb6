"""The page on security, the guards that are taken out, the code and the tests name each other rightly."""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/security.md").read_text(encoding="utf-8")
GUARDS: list[dict[str, Any]] = tomllib.loads((ROOT / "tests/guards/guards.toml").read_text(encoding="utf-8"))["guard"]

ROW = re.compile(r"^\| (P[0-9]+[a-z]) \| `([^`]+)`: `([^`]+)` \| [^|]+ \| ((?:`[^`]+` ?)+)\|$", re.MULTILINE)
PROMISES = [f"P{number}" for number in range(1, 31)]


@cache
def tree(file: str) -> ast.Module:
    """The syntax of a file."""
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def found(file: str, name: str) -> tuple[int, int] | None:
    """Return the first and the last line of a class or function, ``Class.method``; None if there is none."""
    scope: ast.AST = tree(file)
    for part in name.split("."):
        inside = [
            node
            for node in ast.iter_child_nodes(scope)
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == part
        ]
        if not inside:
            return None
        scope = inside[-1]
    assert isinstance(scope, ast.ClassDef | ast.FunctionDef)
    assert scope.end_lineno is not None
    return scope.lineno, scope.end_lineno


def test_every_promise_has_guards() -> None:
    """The page has a part for each, which can be linked to, with rows of its own and no others, in order."""
    parts = re.split(r"^\((P[0-9]+)\)=\n\n## (?=P)", PAGE.partition("## What is not promised")[0], flags=re.MULTILINE)[
        1:
    ]
    assert PROMISES == parts[::2]
    for promise, part in zip(parts[::2], parts[1::2], strict=True):
        assert part.startswith(f"{promise}. ")
        letters = [id.removeprefix(promise) for id, *_ in ROW.findall(part)]
        assert letters
        assert [chr(ord("a") + number) for number in range(len(letters))] == letters
    assert "## What is not promised" in PAGE


def test_every_row_is_a_guard() -> None:
    """A guard that is taken out is a row, with the same function and the same tests, and every row is one."""
    rows = [
        (id, file, function, tuple(re.findall("`([^`]+)`", tests))) for id, file, function, tests in ROW.findall(PAGE)
    ]
    guards = [
        (g["id"], g["file"], g["function"], tuple(dict.fromkeys(t.partition("[")[0] for t in g["tests"])))
        for g in GUARDS
    ]
    assert guards == rows
    assert len(rows) == PAGE.count("| `distsdk/"), "a row is not written like the others"


@pytest.mark.parametrize("guard", GUARDS, ids=[guard["id"] for guard in GUARDS])
def test_a_guard_is_there(guard: dict[str, Any]) -> None:
    """What is taken out is there once, in the function that is named, and what is left is Python."""
    source = (ROOT / guard["file"]).read_text(encoding="utf-8")
    assert 1 == source.count(guard["snippet"])
    before, _, after = source.partition(guard["snippet"])
    lines = found(guard["file"], guard["function"])
    assert lines is not None
    first = before.count("\n") + 1 + (len(guard["snippet"]) - len(guard["snippet"].lstrip("\n")))
    assert lines[0] <= first <= lines[1]
    assert guard["instead"] != guard["snippet"]
    compile(before + guard["instead"] + after, guard["file"], "exec")


@pytest.mark.parametrize("guard", GUARDS, ids=[guard["id"] for guard in GUARDS])
def test_its_tests_are_there(guard: dict[str, Any]) -> None:
    """A test that was renamed is noticed here, and not first where the guards are taken out."""
    assert guard["tests"]
    for test in guard["tests"]:
        file, _, name = test.partition("::")
        assert found(file, name.partition("[")[0]), test
