"""The names that distsdk offers, and what a type checker makes of them."""

from __future__ import annotations

import ast
import pickle
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import distsdk

ROOT = Path(distsdk.__file__).parents[1]
SCRIPT = Path(__file__).parents[1] / "data" / "typing" / "user.py"


def test_names_are_sorted() -> None:
    """Every name stands once, in order, and none is private."""
    assert sorted(set(distsdk.__all__)) == distsdk.__all__
    assert [name for name in distsdk.__all__ if name.startswith("_")] == []


@pytest.mark.parametrize("name", distsdk.__all__)
def test_every_name_is_there(name: str) -> None:
    """A public name is the object that its module defines under that name, and has a docstring."""
    value = getattr(distsdk, name)
    assert value is getattr(import_module(distsdk._HOME_OF[name]), name)
    if not isinstance(value, str):  # a type alias
        assert value.__name__ == name
        assert (value.__doc__ or "").strip()


def test_type_checkers_see_the_same_names() -> None:
    """What is imported for type checkers alone is what is loaded on first use, module by module."""
    tree = ast.parse(Path(distsdk.__file__).read_text(encoding="utf-8"))
    [block] = [node for node in tree.body if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"]
    imported: dict[str, list[str]] = {}
    for node in block.body:
        assert isinstance(node, ast.ImportFrom)
        assert node.module is not None
        for alias in node.names:
            assert alias.name == alias.asname, "without `as`, a strict checker takes the name for private"
            imported.setdefault(node.module, []).append(alias.name)
    assert {module: list(names) for module, names in distsdk._HOMES.items()} == imported


def test_every_error_is_public() -> None:
    """Whatever distsdk raises on purpose can be caught by a public name."""
    from distsdk import errors

    raised = {
        name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, errors.DistError)
    }
    assert raised <= set(distsdk.__all__)


def test_names_can_be_listed_and_missing_ones_are_missing() -> None:
    """`dir` shows all names without loading them; a name that is not there is an AttributeError like any other."""
    assert {*distsdk.__all__, "__version__"} <= set(dir(distsdk))
    assert not hasattr(distsdk, "nothing")
    with pytest.raises(AttributeError, match="module 'distsdk' has no attribute 'nothing'"):
        distsdk.nothing  # type: ignore[attr-defined] # that is the point  # noqa: B018


@pytest.mark.slow
def test_a_star_import_brings_them_all() -> None:
    """`from distsdk import *` gives every public name and no other."""
    program = "from distsdk import *; print(*sorted(name for name in dir() if not name.startswith('__')))"
    names = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout.split()
    assert distsdk.__all__ == names


def test_names_are_pickled_by_their_homes() -> None:
    """A class that was reached through the public face can be pickled: it is found again."""
    for name in distsdk.__all__:
        value = getattr(distsdk, name)
        assert value == pickle.loads(pickle.dumps(value))  # noqa: S301 - our own bytes


@pytest.mark.slow
def test_a_users_script_has_the_types_it_says(tmp_path: Path) -> None:
    """mypy, strict, reads a user's script from outside the repository, with distsdk as it is installed."""
    pytest.importorskip("mypy")
    script = tmp_path / "user.py"
    script.write_bytes(SCRIPT.read_bytes())
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}", str(script)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert (0, "Success: no issues found in 1 source file\n") == (done.returncode, done.stdout)
