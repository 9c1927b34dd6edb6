from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from types import ModuleType

LEGS = Path(__file__).parents[2] / ".ci" / "legs.py"


@pytest.fixture
def legs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, in a folder whose Makefile has legs that pass, skip, fail, run nothing and do not exist."""
    (tmp_path / "test_passes.py").write_text("def test_one(): pass\n")
    (tmp_path / "test_skips.py").write_text(
        "import pytest\ndef test_one(): pass\n@pytest.mark.skip(reason='no nginx')\ndef test_two(): pass\n"
    )
    (tmp_path / "test_fails.py").write_text("def test_one(): pass\ndef test_two(): assert 0\n")
    pytest_ = f"{sys.executable} -m pytest -q -p no:cacheprovider --rootdir=."
    (tmp_path / "Makefile").write_text(f"%:\n\t{pytest_} test_$@.py $(ARGS)\nchecks:\n\ttrue\nslow:\n\tsleep 60\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    spec = importlib.util.spec_from_file_location("legs", LEGS)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "legs", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
@pytest.mark.parametrize(
    ("target", "arguments", "tests", "passed", "failed", "reasons"),
    [
        ("passes", "", True, 1, 0, []),
        ("skips", "", True, 1, 1, ["test_skips::test_two was skipped: no nginx"]),
        ("fails", "", True, 1, 1, ["ended with 2"]),
        ("passes", "-k nothing", True, 0, 1, ["ended with 2", "executed no test"]),
        ("absent", "", True, 0, 1, ["ended with 2", "executed no test"]),
        ("checks", "", True, 0, 1, ["executed no test"]),
        ("checks", "", False, 1, 0, []),
        ("absent", "", False, 0, 1, ["ended with 2"]),
    ],
)
def test_a_leg_passes_only_with_tests_that_ran(
    legs: ModuleType, target: str, arguments: str, tests: bool, passed: int, failed: int, reasons: list[str]
) -> None:
    """A leg that skips a test, executes none, or cannot be run at all has failed, whatever its command said."""
    result = legs.run(legs.Leg("leg", target, 60, arguments, tests))
    assert (passed, failed, reasons) == (result.passed, result.failed, list(result.reasons))


@pytest.mark.slow
def test_a_leg_is_stopped_when_its_time_is_over(legs: ModuleType) -> None:
    """A leg that hangs fails, with all the processes it started."""
    result = legs.run(legs.Leg("leg", "slow", 1, tests=False))
    assert (0, 1, ("was stopped after 1 s",)) == (result.passed, result.failed, result.reasons)


@pytest.mark.slow
def test_the_closing_line_adds_up_the_legs(
    legs: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last line alone says how it went, and the exit code agrees."""
    table = (legs.Leg("good", "passes", 60), legs.Leg("bad", "fails", 60), legs.Leg("more", "passes", 60))
    monkeypatch.setattr(legs, "LEGS", table)
    assert legs.main([]) == 1
    assert capsys.readouterr().out.splitlines()[-1] == "3 passed, 1 failed"
    assert legs.main(["good", "more"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "2 passed, 0 failed"
    assert legs.main(["other"]) == 2
