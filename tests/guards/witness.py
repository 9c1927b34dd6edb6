"""A plug-in of pytest that writes down which distsdk was tested, and what became of each test."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

import distsdk

if TYPE_CHECKING:
    import pytest

_outcomes: dict[str, set[str]] = defaultdict(set)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Note the outcome of each phase: ``call passed``, ``setup failed``."""
    _outcomes[report.nodeid].add(f"{report.when} {report.outcome}")


def pytest_sessionfinish() -> None:
    """Write it to the file that ``WITNESS`` names."""
    told = {
        "package": str(Path(distsdk.__file__).parent),
        "outcomes": {name: sorted(phases) for name, phases in _outcomes.items()},
    }
    Path(os.environ["WITNESS"]).write_text(json.dumps(told), encoding="utf-8")
