"""The inputs that fuzzing begins with, and those it once failed on, on every Python: atheris is not needed for that."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

FUZZ = Path(__file__).parents[2] / "fuzz"
INPUTS = sorted(path for path in (FUZZ / "corpus").glob("*/*") if path.is_file())


@pytest.fixture(scope="module")
def targets() -> ModuleType:
    """The module with the targets; it is no part of a package."""
    spec = importlib.util.spec_from_file_location("targets", FUZZ / "targets.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["targets"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", INPUTS, ids=[f"{path.parent.name}-{path.name}" for path in INPUTS])
def test_what_a_parser_promises(targets: ModuleType, path: Path) -> None:
    """Each target says what has to hold for any input; it also holds, and in time, where a part of it is repeated."""
    target = targets.TARGETS[path.parent.name]
    target(path.read_bytes())
    target.grown(path.read_bytes())


def test_every_target_has_a_corpus(targets: ModuleType) -> None:
    """A target without a folder of inputs would not be fuzzed."""
    assert set(targets.TARGETS) == {path.parent.name for path in INPUTS}


@pytest.mark.slow
def test_a_target_can_fail(targets: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """A parser that answers wrongly, tells a password or takes quadratic time is found out."""
    with monkeypatch.context() as patch:
        patch.setattr(targets, "parse_content_range", lambda _: (5, 4, None))
        with pytest.raises(AssertionError):
            targets.TARGETS["content_range"](b"bytes 5-4/*")
    with monkeypatch.context() as patch:
        patch.setattr(targets, "redact", lambda url: url)
        with pytest.raises(AssertionError, match=targets.SECRET):
            targets.TARGETS["url"](b"/")
    with monkeypatch.context() as patch:
        patch.setattr(targets, "next_link", lambda text: sum(0 for at in range(len(text)) for _ in range(at)) or None)
        link = dataclasses.replace(targets.TARGETS["link"], longest=12 * 1024)
        link(b";")
        with pytest.raises(AssertionError, match=r"took [0-9.]+ s"):
            link.grown(b";")
