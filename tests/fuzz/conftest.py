"""How long the fuzz targets run in all."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Take ``--seconds``."""
    parser.addoption(
        "--seconds", type=float, default=60.0, help="seconds of fuzzing, shared by the targets that are run"
    )


@pytest.fixture
def seconds(request: pytest.FixtureRequest) -> float:
    """The seconds for one target."""
    total: float = request.config.getoption("--seconds")
    return total / len(request.session.items)
