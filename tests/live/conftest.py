"""The tests in this folder run inside the live stack, or not at all."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inside import Log

if "LIVE_STATE" in os.environ:
    # What the tests have in common is imported like the stack's own modules, which find each other beside them.
    sys.path.insert(0, str(Path(__file__).parent))
else:
    collect_ignore_glob = ["test_*.py"]

    def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
        """Say what was left out, and how to run it."""
        terminalreporter.write_line("tests/live left out; run: python tests/live/stack.py run -- pytest tests/live")


@pytest.fixture
def log() -> Log:
    """What distsdk asks nginx for during the test."""
    import inside

    return inside.Log()


def setting(name: str) -> Iterator[Callable[[int], None]]:
    """Yield what sets a number that the stack reads again and again; it is what it was at the end."""
    file = Path(os.environ["LIVE_STATE"], name)
    before = file.read_text()

    def write(number: int) -> None:
        file.write_text(str(number))

    yield write
    file.write_text(before)


@pytest.fixture
def token_seconds() -> Iterator[Callable[[int], None]]:
    """Set how long the next tokens live."""
    yield from setting("token-seconds")


@pytest.fixture
def cut_bytes() -> Iterator[Callable[[int], None]]:
    """Set after how many bytes the proxy cuts the next connections."""
    yield from setting("cut-bytes")


@pytest.fixture(scope="session")
def layers() -> list[dict[str, Any]]:
    """The descriptors of the layers of `latest`, as skopeo gets them, lowest first."""
    import inside

    found: list[dict[str, Any]] = inside.document("latest")["layers"]
    assert 6 == len(found)
    return found
