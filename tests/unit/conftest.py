"""What all unit tests share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# The same examples in each run, and none fails for its time: how long it takes says more about what else the machine
# does than about what is tested. `make fuzz` looks for examples that were never tried.
settings.register_profile(
    "distsdk", derandomize=True, deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("distsdk")

# Remove the settings, proxies and certificate bundles of the person who runs the tests, before a test reads the
# environment or hands it to a command. (To read a bundle takes longer than most tests.)
for name in tuple(os.environ):
    if name.upper().endswith(("_PROXY", "_CA_BUNDLE")) or name.startswith(("DISTSDK_", "_DISTSDK", "SSL_CERT_")):
        del os.environ[name]


@pytest.fixture(autouse=True)
def pauses() -> Iterator[list[float]]:
    """Take the pauses between tries without waiting, and yield how long they would have been, in seconds."""
    taken: list[float] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("distsdk.transport.retry.sleep", taken.append)
        yield taken
