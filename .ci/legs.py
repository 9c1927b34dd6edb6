"""Run the legs of CI, each through make, and report how many tests each executed and how long it took.

A leg fails when its command fails, takes too long, executes no test, or skips one.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET


@dataclass(frozen=True)
class Leg:
    """One part of CI.

    Args:
        name: What it is called in the table and on the command line.
        target: The target of make.
        seconds: How long it may take.
        arguments: What make is given as ARGS.
        tests: Whether pytest runs in it and counts its tests; otherwise the leg itself counts as one.
    """

    name: str
    target: str
    seconds: int
    arguments: str = ""
    tests: bool = True


LEGS = (
    Leg("lint", "lint", 300, tests=False),  # the first leg also pays for the set-up
    Leg("types", "types", 300, tests=False),
    Leg("unit", "test", 1500, "tests/unit"),
    Leg("replay", "test", 300, "tests/replay"),
    Leg("notebook", "notebooks", 300),
    Leg("browser", "browser", 600),
    Leg("live", "live", 1200),
    Leg("fuzz", "fuzz", 300, "--seconds=60"),
    Leg("guards", "guards", 900),
    Leg("docs", "docs", 300, tests=False),
    Leg("walkthrough", "walkthrough", 120, tests=False),
)


@dataclass(frozen=True)
class Result:
    """What became of a leg: its counts, its time, and why it failed, if it did."""

    passed: int
    failed: int
    seconds: float
    reasons: tuple[str, ...] = ()


def count(report: Path) -> tuple[int, int, tuple[str, ...]]:
    """Read a JUnit report: tests passed, tests failed, and the tests skipped with their reasons."""
    passed = failed = 0
    skipped = []
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it, a moment ago
        skip = case.find("skipped")
        if skip is not None:
            skipped.append(f"{case.get('classname')}::{case.get('name')} was skipped: {skip.get('message')}")
        elif case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        else:
            passed += 1
    return passed, failed, tuple(skipped)


def run(leg: Leg) -> Result:
    """Run one leg to its end, or to the end of its time."""
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "junit.xml"
        arguments = f"{leg.arguments} --junitxml={report}" if leg.tests else leg.arguments
        start = time.monotonic()
        code = _call(["make", leg.target, f"ARGS={arguments}"], leg.seconds)
        seconds = time.monotonic() - start
        reasons = []
        if code is None:
            reasons.append(f"was stopped after {leg.seconds} s")
        elif code:
            reasons.append(f"ended with {code}")
        if not leg.tests:
            return Result(int(not reasons), int(bool(reasons)), seconds, tuple(reasons))
        passed, failed, skipped = count(report) if report.exists() else (0, 0, ())
        if not passed + failed:
            reasons.append("executed no test")
        reasons.extend(skipped)
        # What went wrong outside a test counts too: a run that is not green has failures.
        return Result(passed, max(failed, int(bool(reasons))), seconds, tuple(reasons))


def _call(command: list[str], seconds: int) -> int | None:
    # A session of its own, so that all of it can be stopped.
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)  # noqa: S603 - ours, above
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def main(names: list[str]) -> int:
    """Run the legs of these names, or all; print the table and the closing line; return the exit code."""
    unknown = set(names) - {leg.name for leg in LEGS}
    if unknown:
        print(f"No leg is called {', '.join(sorted(unknown))}; there are {', '.join(leg.name for leg in LEGS)}.")
        return 2
    results = {}
    for leg in LEGS:
        if not names or leg.name in names:
            print(f"=== {leg.name} ===", flush=True)
            results[leg.name] = run(leg)
    print(f"\n{'leg':<12} {'tests':>6} {'seconds':>8}")
    for name, result in results.items():
        print(f"{name:<12} {result.passed + result.failed:>6} {result.seconds:>8.1f}")
    for name, result in results.items():
        for reason in result.reasons:
            print(f"{name}: {reason}")
    if left_out := [leg.name for leg in LEGS if leg.name not in results]:
        print(f"left out, as asked: {', '.join(left_out)}")
    failed = sum(result.failed for result in results.values())
    print(f"{sum(result.passed for result in results.values())} passed, {failed} failed", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
