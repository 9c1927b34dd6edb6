"""Indexes that contradict themselves, or have others in them, as each command meets them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from attrs import evolve

import distsdk
from distsdk import Cache, MalformedDocument, Platform, Remote, Store
from distsdk.spec import media_types as media
from distsdk.testing import Registry
from distsdk.transfer.graph import Walk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

AMD64 = Platform.parse("linux/amd64")

#: What commands do with a name, in Python; each returns the digest that it came to.
COMMANDS: dict[str, Callable[[str, Path], object]] = {
    "fetch": lambda name, _: remote(name).fetch("1", "platform:linux/amd64").digest,
    "inspect": lambda name, _: remote(name).manifest("1", platform="linux/amd64").digest,
    "image": lambda name, place: distsdk.image(name, platform="linux/amd64", cache=Cache(place / "cache")).digest,
    "image in a store": lambda name, place: (
        distsdk.image(name, platform="linux/amd64", store=pulled(name, place)).digest
    ),
    "pull": lambda name, place: distsdk.pull(name, place / "store", platform="linux/amd64").digest,
    "pull from a layout": lambda name, place: distsdk.pull(layout(name, place), place / "x", platform=AMD64).digest,
    "copy": lambda name, place: distsdk.copy(name, f"{place}/layout:1", platform="linux/amd64").digest,
    "attach, referrers": lambda name, _: Walk(remote(name)).target(distsdk.Reference.parse(name), AMD64).digest,
}


def remote(name: str) -> Remote:
    """Connect to where a name is."""
    found = distsdk.connect(distsdk.Reference.parse(name).locator)
    return found


def pulled(name: str, place: Path) -> Store:
    """Return a store that has all of an index."""
    store = Store(place / "all")
    distsdk.pull(name, store, all_platforms=True)
    return store


def layout(name: str, place: Path) -> str:
    """Return the reference of a layout that has all of an index."""
    distsdk.copy(name, f"{place}/all-of-it:1")
    return f"{place}/all-of-it:1"


@pytest.fixture
def registry() -> Iterator[Registry]:
    """An empty registry."""
    with Registry() as registry:
        yield registry


@pytest.mark.parametrize("command", COMMANDS)
def test_contradictions_are_refused(registry: Registry, tmp_path: Path, command: str) -> None:
    """A digest with two types or two platforms in an index is refused, even where another entry is chosen."""
    wanted = registry.add_image("x", layers=[b"a"], platform="linux/amd64")
    other = registry.add_image("x", layers=[b"b"], platform="linux/arm64")
    contradictions = [evolve(other, media_type=media.OCI_INDEX), evolve(other, platform=Platform.parse("linux/s390x"))]
    for number, contradiction in enumerate(contradictions):
        registry.add_index("x", "1", manifests=[wanted, other, contradiction])
        with pytest.raises(MalformedDocument, match="is named"):
            COMMANDS[command](f"{registry.locator('x')}:1", tmp_path / str(number))


@pytest.mark.parametrize("command", COMMANDS)
def test_a_platform_is_found_in_nested_indexes(registry: Registry, tmp_path: Path, command: str) -> None:
    """The child for a platform is found in an index within an index whose entry names no platform."""
    images = [registry.add_image("x", layers=[b"a"], platform=f"linux/{name}") for name in ("arm64", "amd64")]
    inner = registry.add_index("x", manifests=images)
    registry.add_index("x", "1", manifests=[registry.add_image("x", platform="linux/s390x"), inner])
    assert images[1].digest == COMMANDS[command](f"{registry.locator('x')}:1", tmp_path)


def test_platforms_of_nested_indexes_are_listed(registry: Registry, tmp_path: Path) -> None:
    """The platforms of an image include those of indexes within its index."""
    inner = registry.add_index("x", manifests=[registry.add_image("x", layers=[b"a"], platform="linux/amd64")])
    registry.add_index("x", "1", manifests=[registry.add_image("x", platform="linux/s390x"), inner])
    image = distsdk.image(f"{registry.locator('x')}:1", platform="linux/amd64", cache=Cache(tmp_path))
    assert ["linux/s390x", "linux/amd64"] == [str(platform) for platform in image.platforms()]


def test_two_sizes_in_a_manifest_are_refused(registry: Registry, tmp_path: Path) -> None:
    """An image whose manifest gives one layer two sizes is refused before any layer is asked for."""
    layer = registry.add_blob("x", b"layer", media_type=media.OCI_LAYER)
    config = registry.add_blob("x", b"{}", media_type=media.OCI_CONFIG)
    layers = [layer.to_fields(), evolve(layer, size=4).to_fields()]
    fields = {"schemaVersion": 2, "config": config.to_fields(), "layers": layers}
    registry.add_manifest("x", fields, media.OCI_MANIFEST, tags=["1"])
    with pytest.raises(MalformedDocument, match="is said to have"):
        distsdk.image(f"{registry.locator('x')}:1", cache=Cache(tmp_path))
