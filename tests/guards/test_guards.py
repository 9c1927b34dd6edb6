"""Every guard that `docs/security.md` names is taken out in turn, of a copy of the package, and its tests have to fail.

``guards.toml`` says how. With each guard in its place the same tests have to pass: also on a copy, in the same way.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]

#: Seconds after which the tests of one guard, and those of all guards with all of them in place, hang.
WITHOUT, WITH = 300, 800


@frozen
class Guard:
    """A few lines of the package that keep a promise.

    Attributes:
        id: As in the documentation, ``P1a``.
        file: Where it is, from the root of the project.
        function: In which class and function.
        snippet: The lines; they are there once.
        instead: What stands there once the guard is taken out.
        tests: Node IDs of the tests that fail then. Of a test with parameters, one case has to.
    """

    id: str
    file: str
    function: str
    snippet: str
    instead: str
    tests: tuple[str, ...]


@frozen
class Run:
    """What became of a run of pytest.

    Attributes:
        code: What it ended with; None if it took too long.
        package: The folder of the package that was tested.
        outcomes: The phases of each case with their outcomes, ``call failed``.
        output: What it printed.
    """

    code: int | None
    package: Path | None
    outcomes: dict[str, list[str]]
    output: str

    def cases(self, test: str) -> list[list[str]]:
        """Return the outcomes of a test's cases."""
        return [phases for name, phases in self.outcomes.items() if name == test or name.startswith(f"{test}[")]


GUARDS = [
    Guard(**{**fields, "tests": tuple(fields["tests"])})
    for fields in tomllib.loads((FOLDER / "guards.toml").read_text(encoding="utf-8"))["guard"]
]


def run(tests: Iterable[str], scratch: Path, seconds: float, change: Callable[[Path], None] = lambda _: None) -> Run:
    """Run tests against a copy of the package.

    Args:
        tests: Their node IDs.
        scratch: A folder for the copy and whatever else comes to be.
        seconds: After which they are stopped.
        change: Is handed the folder that the copy is in.
    """
    shutil.copytree(ROOT / "distsdk", scratch / "distsdk")  # with what is compiled: that goes by the times of files
    change(scratch)
    report = scratch / "report.json"
    environment = {
        **os.environ,
        # Before the package that is installed; and without the current folder, where that is, too.
        "PYTHONPATH": os.pathsep.join([str(scratch), str(FOLDER)]),
        "PYTHONSAFEPATH": "1",
        "WITNESS": str(report),
        "HYPOTHESIS_STORAGE_DIRECTORY": str(scratch / "hypothesis"),
        "TMPDIR": str(scratch),
    }
    command = [sys.executable, "-m", "pytest", "-q", "-p", "witness", "-p", "no:cacheprovider", "--tb=short", *tests]
    with (scratch / "output").open("w+b") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # to be stopped with what it started
        )
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
    told = json.loads(report.read_text(encoding="utf-8")) if report.exists() else {"package": None, "outcomes": {}}
    return Run(code, told["package"] and Path(told["package"]), told["outcomes"], text[-6000:])


def without(guard: Guard, scratch: Path) -> Run:
    """Run the tests of a guard without it."""

    def take_out(folder: Path) -> None:
        file = folder / guard.file
        source = file.read_text(encoding="utf-8")
        assert 1 == source.count(guard.snippet), f"{guard.file} has not once what is to be taken out:\n{guard.snippet}"
        for compiled in file.parent.glob(f"__pycache__/{file.stem}.*"):
            compiled.unlink()
        file.write_text(source.replace(guard.snippet, guard.instead), encoding="utf-8")

    return run(guard.tests, scratch, WITHOUT, take_out)


@pytest.fixture(scope="session")
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Future[Run]]]:
    """Begin all runs, some at once, the longest first: one for each guard to be tested, and one with all in place."""
    wanted = {item.callspec.params["guard"].id: item for item in request.session.items if hasattr(item, "callspec")}
    guards = [guard for guard in GUARDS if guard.id in wanted]
    tests = dict.fromkeys(test for guard in guards for test in guard.tests)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        futures = {"": pool.submit(run, tests, tmp_path_factory.mktemp("all"), WITH)}
        futures |= {guard.id: pool.submit(without, guard, tmp_path_factory.mktemp(guard.id)) for guard in guards}
        try:
            yield futures
        finally:
            pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("guard", GUARDS, ids=[guard.id for guard in GUARDS])
def test_a_guard_is_missed(
    guard: Guard, runs: dict[str, Future[Run]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With the guard its tests pass, and without it each of them fails: not by an error on the way, and in time."""
    base = tmp_path_factory.getbasetemp()
    whole = runs[""].result()
    assert whole.package is not None, whole.output
    assert whole.package.is_relative_to(base)
    for test in guard.tests:
        assert whole.cases(test), f"{test} was not run:\n{whole.output}"
        assert all("call passed" in phases for phases in whole.cases(test)), whole.output
    less = runs[guard.id].result()
    assert 1 == less.code, less.output
    assert less.package is not None
    assert less.package.is_relative_to(base)
    assert less.package != whole.package
    for test in guard.tests:
        assert any("call failed" in phases for phases in less.cases(test)), f"{test} did not fail:\n{less.output}"
