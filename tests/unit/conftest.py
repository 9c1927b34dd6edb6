"""What all unit tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def pauses() -> Iterator[list[float]]:
    """Take the pauses between tries without waiting, and yield how long they would have been, in seconds."""
    taken: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distsdk.transport.retry.sleep", taken.append)
        yield taken
