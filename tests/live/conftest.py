"""The tests in this folder run inside the live stack, or not at all."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

if "LIVE_STATE" not in os.environ:
    collect_ignore_glob = ["test_*.py"]

    def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was left out, and how to run it."""
        terminalreporter.write_line("tests/live left out; run: python tests/live/stack.py run -- pytest tests/live")
