"""Children of indexes, and the one meaning of a digest, without a registry."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

from distsdk.errors import LimitExceeded, MalformedDocument, PlatformNotFound
from distsdk.spec import choice
from distsdk.spec import media_types as media
from distsdk.spec.choice import MAX_DEPTH, Children, Meanings
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.documents import Index
from distsdk.spec.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Iterable

AMD64, ARM64, OLD = (Platform.parse(text) for text in ("linux/amd64", "linux/arm64", "linux/386"))


def manifest(name: str, platform: Platform | None = None) -> Descriptor:
    """Describe a manifest that need not exist."""
    return Descriptor(media.OCI_MANIFEST, Digest.of(name.encode()), 10, platform)


class Documents:
    """Indexes by digest, and the digests that were read."""

    def __init__(self) -> None:
        self.raw: dict[Digest, bytes] = {}
        self.read: list[Digest] = []

    def index(self, entries: Iterable[Descriptor], platform: Platform | None = None, note: str = "") -> Descriptor:
        """Add an index, and describe it."""
        fields = {"schemaVersion": 2, "manifests": [entry.to_fields() for entry in entries], "annotations": {"": note}}
        raw = json.dumps(fields).encode()
        digest = Digest.of(raw)
        self.raw[digest] = raw
        return Descriptor(media.OCI_INDEX, digest, len(raw), platform)

    def children(self, *entries: Descriptor) -> Children:
        """Return the children of an index with these entries."""
        return Children(Index.parse(self.raw[self.index(entries).digest]), self._read)

    def _read(self, entry: Descriptor) -> Index:
        self.read.append(entry.digest)
        return Index.parse(self.raw[entry.digest])


@pytest.fixture
def documents() -> Documents:
    """No documents."""
    return Documents()


def test_own_entries_come_first(documents: Documents) -> None:
    """An entry of the index that suits is chosen without reading the indexes in it."""
    inner = documents.index([manifest("inner", AMD64)])
    children = documents.children(inner, manifest("own", OLD))
    assert manifest("own", OLD) == children.choose(AMD64)
    assert [] == documents.read


def test_indexes_without_platform_are_searched(documents: Documents) -> None:
    """The best entry of all indexes that name no platform is chosen, at any level, and each is read once."""
    deepest = documents.index([manifest("amd64", AMD64)])
    middle = documents.index([deepest, manifest("386", OLD)])
    children = documents.children(manifest("arm64", ARM64), manifest("none"), middle, deepest, middle)
    assert manifest("amd64", AMD64) == children.choose(AMD64)
    assert sorted([middle.digest, deepest.digest]) == sorted(documents.read)
    assert (ARM64, AMD64, OLD) == children.platforms()
    assert 2 == len(documents.read)


def test_an_index_for_the_platform_is_entered(documents: Documents) -> None:
    """An index whose entry names the platform is searched in the same way, and no other one is read."""
    nameless = documents.index([manifest("found", AMD64)])
    named = documents.index([nameless], AMD64)
    assert manifest("found", AMD64) == documents.children(documents.index([]), named).choose(AMD64)
    assert [named.digest, nameless.digest] == documents.read


def test_what_no_level_offers_is_not_found(documents: Documents) -> None:
    """The error lists the platforms of all levels that were searched."""
    children = documents.children(documents.index([manifest("x", ARM64)]), manifest("y", OLD))
    with pytest.raises(PlatformNotFound) as caught:
        children.choose(Platform.parse("linux/s390x"))
    assert ("linux/arm64", "linux/386") == caught.value.available


def test_levels_are_bounded(documents: Documents) -> None:
    """A tree of indexes with too many levels is given up, with and without platforms."""
    for platform in (None, AMD64):
        entry = manifest("deep", AMD64)
        for _ in range(MAX_DEPTH - 2):
            entry = documents.index([entry], platform)
        assert manifest("deep", AMD64) == documents.children(entry).choose(AMD64)
        with pytest.raises(LimitExceeded, match="more than 4 deep"):
            documents.children(documents.index([entry], platform)).choose(AMD64)


def test_number_of_indexes_is_bounded(documents: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading ends at a number of indexes."""
    monkeypatch.setattr(choice, "MAX_INDEXES", 3)
    inner = [documents.index([], note=str(number)) for number in range(5)]
    with pytest.raises(LimitExceeded, match="more than 3 indexes"):
        documents.children(*inner).choose(AMD64)
    assert 3 == len(documents.read)


def test_bytes_of_indexes_are_bounded(documents: Documents, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading ends before the indexes have too many bytes."""
    inner = [documents.index([], note=str(number)) for number in range(5)]
    monkeypatch.setattr(choice, "MAX_INDEX_BYTES", 2 * inner[0].size)
    with pytest.raises(LimitExceeded, match="bytes"):
        documents.children(*inner).choose(AMD64)
    assert 2 == len(documents.read)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 11}, "is said to have 1[01] bytes and 1[01] bytes"),
        ({"media_type": media.OCI_INDEX}, "is named as .*index.* and as .*manifest"),
        ({"media_type": media.DOCKER_MANIFEST}, "is named as "),
        ({"media_type": media.OCI_LAYER}, "is named as "),
        ({"platform": ARM64}, "is named for two platforms, linux/amd64 and linux/arm64"),
    ],
)
@pytest.mark.parametrize("level", ["one index", "two indexes"])
def test_contradictions_are_refused(documents: Documents, change: dict[str, object], message: str, level: str) -> None:
    """Two descriptors of one digest that contradict each other are refused, whichever was to be chosen."""
    one = manifest("x", AMD64)
    other = evolve(one, **change)  # type: ignore[arg-type] # one field
    entries = [one, other] if level == "one index" else [one, documents.index([other])]
    for _ in range(2):
        with pytest.raises(MalformedDocument, match=message):
            documents.children(*entries).platforms()
        entries.reverse()
    if level == "one index":
        with pytest.raises(MalformedDocument, match=message):
            documents.children(manifest("y", OLD), *entries).choose(OLD)


def test_descriptions_that_agree_are_taken() -> None:
    """Two spellings of a platform, a missing platform, other annotations and two types of a layer are taken."""
    one = manifest("x", ARM64)
    layer = evolve(manifest("layer"), media_type=media.OCI_LAYER_GZIP)
    meanings = Meanings()
    meanings.add([one, evolve(one, platform=Platform("linux", "arm64", "v8")), evolve(one, platform=None)])
    meanings.add([evolve(one, annotations={"a": "b"}), layer, evolve(layer, media_type=media.DOCKER_LAYER_GZIP)])
    with pytest.raises(MalformedDocument):
        meanings.add([evolve(one, platform=AMD64)])
