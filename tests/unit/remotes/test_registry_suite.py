"""The registry remote keeps the contract of remotes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

import distsdk
from distsdk.testing import Registry
from distsdk.testing.suite import (
    SAMPLE,
    CatalogSuite,
    DeletableSuite,
    PushableSuite,
    ReferrerListerSuite,
    RemoteSuite,
    ResolverSuite,
    TagListerSuite,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from distsdk.remotes.remote import Remote


def fill(registry: Registry) -> None:
    """Put the content of the suites into one repository, and something else into another."""
    for digest, (media_type, raw) in SAMPLE.documents.items():
        tags = [tag for tag, named in SAMPLE.tags.items() if named == digest]
        registry.add_manifest("library/sample", raw, media_type, tags=tags, digest=digest)
    for digest, raw in SAMPLE.blobs.items():
        registry.add_blob("library/sample", raw, digest=digest)
    registry.add_image("library/other", "1")


@pytest.fixture
def open_registry() -> Iterator[Registry]:
    """A registry that anyone may read and write."""
    with Registry() as registry:
        fill(registry)
        yield registry


@pytest.fixture
def token_registry() -> Iterator[Registry]:
    """A registry that wants a token for everything, and answers listings in pages of two."""
    with Registry(auth="bearer", page_size=2) as registry:
        fill(registry)
        yield registry


class _Suites(
    RemoteSuite,
    ResolverSuite,
    TagListerSuite,
    CatalogSuite,
    ReferrerListerSuite,
    PushableSuite,
    DeletableSuite,
):
    @pytest.fixture
    def repositories(self) -> Collection[str]:
        """What `fill` made."""
        return {"library/sample", "library/other"}


class TestOpenRegistry(_Suites):
    @pytest.fixture
    def remote(self, open_registry: Registry) -> Remote:
        """A new remote for each test."""
        return distsdk.connect(open_registry.locator("library/sample"))


class TestRegistryWithTokens(_Suites):
    @pytest.fixture
    def remote(self, token_registry: Registry) -> Remote:
        """A new remote for each test, which has no token yet."""
        return distsdk.connect(token_registry.locator("library/sample"))
