"""The names that distsdk offers, and what a type checker makes of them."""

from __future__ import annotations

import importlib.util
import inspect
import pickle
import re
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
    if inspect.ismodule(value):
        assert value is import_module(f"distsdk.{distsdk._HOME_OF[name]}.{name}")
        return
    assert value is getattr(import_module(f"distsdk.{distsdk._HOME_OF[name]}"), name)
    if inspect.isclass(value) or inspect.isfunction(value):  # neither a type alias nor a module
        assert value.__name__ == name
        assert (value.__doc__ or "").strip()


def test_type_checkers_see_the_same_names() -> None:
    """The stub is as `python .ci/stub.py` writes it from the table of the package."""
    spec = importlib.util.spec_from_file_location("stub", ROOT / ".ci" / "stub.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.stub() == Path(distsdk.__file__).with_suffix(".pyi").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_reference_names_public_objects_only() -> None:
    """Each entry of the reference is exported by a public module, once; no page names a deeper path."""
    doors = ("distsdk.testing.suite", "distsdk.testing", "distsdk.fsspec", "distsdk")
    entries = re.compile(r"^\.\. auto(?:class|function|data):: (distsdk\.\S+)$", re.MULTILINE)
    listed = [
        entry
        for page in sorted((ROOT / "docs" / "reference").glob("*.md"))
        for entry in entries.findall(page.read_text(encoding="utf-8"))
    ]
    assert sorted(set(listed)) == sorted(listed)
    for entry in listed:
        door, _, name = entry.rpartition(".")
        assert door in doors, entry
        assert name in getattr(import_module(door), "__all__", [name]), entry
    pages = [ROOT / "README.md", *(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts)]
    deep = {
        path
        for page in pages
        for path in re.findall(r"distsdk\.[a-z_]+\.[A-Za-z]\w*", page.read_text(encoding="utf-8"))
    }
    assert {path for path in deep if not path.startswith(("distsdk.testing.", "distsdk.fsspec."))} == set()


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
        if inspect.ismodule(value):
            continue
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
