"""What pytest finds where distsdk is installed: a fixture with a registry.

pytest loads this module by itself (entry point ``pytest11``), so that it imports nothing but pytest.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distsdk.testing import Registry


@pytest.fixture
def distsdk_registry() -> Iterator[Registry]:
    """A `distsdk.testing.Registry` that serves on loopback and is empty; it ends with the test."""
    from distsdk.testing import Registry

    with Registry() as registry:
        yield registry
