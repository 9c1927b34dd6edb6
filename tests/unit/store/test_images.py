"""Names stand for manifests in `index.json`, which other tools write too, and in which anything may stand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve

from distsdk import (
    Descriptor,
    Digest,
    InvalidReference,
    LimitExceeded,
    MalformedDocument,
    NotFound,
    Platform,
    Store,
)
from distsdk.layout import documents, reader
from distsdk.spec import media_types as media
from distsdk.spec.descriptor import REF_NAME

if TYPE_CHECKING:
    from collections.abc import Callable

    MakeImage = Callable[[str], Descriptor]

NAME = "docker.io/library/redis:7"


def index(store: Store) -> dict[str, Any]:
    """What the file says."""
    parsed: dict[str, Any] = json.loads((store.root / "index.json").read_bytes())
    return parsed


def write(store: Store, *entries: object, **fields: object) -> None:
    """Write the file as another tool might."""
    store.root.mkdir(exist_ok=True)
    (store.root / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (store.root / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": entries, **fields}))


def test_a_name_stands_for_a_manifest(store: Store, image: MakeImage) -> None:
    """With what is known of it besides, as the layout's specification has it; the last one named counts."""
    first, second = image("first"), image("second")
    platform = Platform.parse("linux/amd64")
    store.tag(NAME, evolve(first, platform=platform, annotations={"a": "b", REF_NAME: "old"}))
    expected = evolve(first, platform=platform, annotations={"a": "b", REF_NAME: NAME})
    assert {NAME: expected} == store.images()
    assert [expected.to_fields()] == index(store)["manifests"]
    store.tag("other", first)
    store.tag(NAME, second)
    assert {"other": first.digest, NAME: second.digest} == {n: d.digest for n, d in store.images().items()}
    assert ["other", NAME] == list(store.images())
    store.untag(NAME)
    assert ["other"] == list(store.images())
    with pytest.raises(NotFound, match=f"no image in .* is named '{NAME}'"):
        store.untag(NAME)


def test_a_name_needs_its_content(store: Store, image: MakeImage) -> None:
    """What is not there gets no name, also if it was there a moment ago."""
    descriptor = image("x")
    store.tag("kept", descriptor)
    store.delete(descriptor.digest)
    with pytest.raises(NotFound, match=str(descriptor.digest)):
        store.tag(NAME, descriptor)
    assert ["kept"] == list(store.images())


@pytest.mark.parametrize("name", ["", "a b", "a\n", "\x1b[2J", "é", "x" * 1025, "a\tb", "\udcff"])
def test_names_that_cannot_be_names(store: Store, image: MakeImage, name: str) -> None:
    """They would be shown, and read by other tools."""
    with pytest.raises(InvalidReference, match="cannot name an image: write host/path:tag"):
        store.tag(name, image("x"))
    assert {} == store.images()


def test_a_document_of_dockers_has_an_index_that_leads_to_it(store: Store) -> None:
    """It stands before it under the same name, goes with it, and is needed as long as it has the name."""
    blob = store.ingest([b"{}"], "config")
    config = {"mediaType": media.DOCKER_CONFIG, "digest": str(blob.digest), "size": 2}
    raw = json.dumps({"schemaVersion": 2, "mediaType": media.DOCKER_MANIFEST, "config": config, "layers": []}).encode()
    image = Descriptor(media.DOCKER_MANIFEST, store.ingest([raw], "manifest").digest, len(raw))
    for _ in range(2):
        store.tag("x", image)
        way, itself = index(store)["manifests"]
        assert ("x", "x") == (way["annotations"][REF_NAME], itself["annotations"][REF_NAME])
        assert {**image.to_fields(), "annotations": {REF_NAME: "x"}} == itself
        assert media.OCI_INDEX == way["mediaType"]
        assert [image.to_fields()] == json.loads(store.blob(way["digest"]).read())["manifests"]
        assert image.digest == store.images()["x"].digest
        assert () == store.gc().blobs
    store.untag("x")
    assert [] == index(store)["manifests"]
    assert 3 == len(store.gc().blobs)


def test_what_others_wrote_is_kept(store: Store, image: MakeImage) -> None:
    """Entries without a name, garbage, and fields that we do not know."""
    descriptor = image("x")
    garbage: list[object] = [7, None, "x", [], {}, {"annotations": 5}, {"annotations": {REF_NAME: 5}}, {"digest": "x"}]
    unnamed = {**descriptor.to_fields(), "x": {"y": [1.5]}}
    write(store, *garbage, unnamed, annotations={"k": "v"}, later=[1])
    assert {} == store.images()
    store.tag(NAME, descriptor)
    found = index(store)
    assert [*garbage, unnamed] == found["manifests"][:-1]
    assert ({"k": "v"}, [1]) == (found["annotations"], found["later"])
    assert [NAME] == list(store.images())
    assert 2 * [descriptor.digest] == [Digest.parse(e["digest"]) for e in found["manifests"][-2:]]


def test_an_index_without_a_list(store: Store, image: MakeImage) -> None:
    """This is how umoci writes that there are no images."""
    descriptor = image("x")
    (store.root / "index.json").write_text('{"schemaVersion":2,"manifests":null}')
    assert {} == store.images()
    store.tag(NAME, descriptor)
    assert [NAME] == list(store.images())


def test_a_name_that_is_there_twice(store: Store, image: MakeImage) -> None:
    """The last one counts, and naming it anew leaves one."""
    first, second = image("first"), image("second")
    named = [{**d.to_fields(), "annotations": {REF_NAME: NAME}} for d in (first, second)]
    write(store, *named)
    assert second.digest == store.images()[NAME].digest
    store.tag(NAME, first)
    assert 1 == len(index(store)["manifests"])


@pytest.mark.parametrize(
    "entry",
    [
        {},
        {"digest": "sha256:abc", "size": 1, "mediaType": "a/b"},
        {"digest": f"sha256:{'0' * 64}", "size": -1, "mediaType": "a/b"},
        {"digest": f"sha256:{'0' * 64}", "size": True, "mediaType": "a/b"},
        {"digest": f"sha256:{'0' * 64}", "size": 1, "mediaType": "\x1b[31m"},
        {"digest": "sha256:../../../etc/passwd", "size": 1, "mediaType": "a/b"},
    ],
)
def test_a_named_entry_that_cannot_be_one(store: Store, image: MakeImage, entry: dict[str, object]) -> None:
    """It is named in an error that can be shown, can be taken away, and hinders no other."""
    name = "bad\x1b[31m"
    write(store, {**entry, "annotations": {REF_NAME: name}})
    with pytest.raises(MalformedDocument) as caught:
        store.images()
    assert "bad" in str(caught.value)
    assert str(caught.value).isprintable()
    store.tag(NAME, image("x"))
    store.untag(name)
    assert [NAME] == list(store.images())


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"{}",
        b'{"manifests":{}}',
        b'{"manifests":[],"manifests":[]}',
        b'{"manifests":[NaN]}',
        b'{"manifests":' + b"[" * 100 + b"]" * 100 + b"}",
        b"[" * 1_000_000,
        b"\xff\xfe",
        b'{"manifests":["\\ud800"]}',
    ],
)
def test_an_index_that_cannot_be_read(
    store: Store, image: MakeImage, raw: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Is an error that names it. It is not written over, and nothing is removed by its word."""
    monkeypatch.setattr(reader, "BEING_WRITTEN", 0)
    descriptor = image("x")
    before = {info.digest for info in store.blobs()}
    (store.root / "index.json").write_bytes(raw)
    for ask in (store.images, lambda: store.tag(NAME, descriptor), lambda: store.untag(NAME), store.gc):
        with pytest.raises(MalformedDocument, match=r"index\.json"):
            ask()
    assert raw == (store.root / "index.json").read_bytes()
    assert before == {info.digest for info in store.blobs()}


@pytest.mark.parametrize("name", ["index.json", "oci-layout"])
def test_a_file_that_another_tool_is_writing(
    store: Store, image: MakeImage, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It is empty for a moment, and read when that is over."""
    descriptor = image("x")
    path = store.root / name
    whole = path.read_bytes()
    path.write_bytes(b"")
    monkeypatch.setattr("time.sleep", lambda _: path.write_bytes(whole))
    fresh = Store(store.root)
    fresh.tag(NAME, descriptor)
    assert [NAME] == list(fresh.images())


def test_an_index_is_not_longer_than_it_may_be(store: Store, image: MakeImage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A longer one is not read, and ours does not become longer: nobody could read it again."""
    descriptor = image("x")
    store.tag(NAME, descriptor)
    before = (store.root / "index.json").read_bytes()
    monkeypatch.setattr(documents, "MAX_INDEX", len(before) + 100)
    with pytest.raises(LimitExceeded, match=r"index\.json would be longer than the limit"):
        store.tag("other", evolve(descriptor, annotations={"k": 100 * "v"}))
    assert before == (store.root / "index.json").read_bytes()
    monkeypatch.setattr(reader, "MAX_INDEX", len(before) - 1)
    with pytest.raises(LimitExceeded, match=r"index\.json has more bytes than the limit"):
        store.images()


def test_an_index_that_is_no_file(store: Store, image: MakeImage) -> None:
    """A folder in its place is neither followed nor waited for."""
    image("x")
    (store.root / "index.json").unlink()
    (store.root / "index.json").mkdir()
    with pytest.raises(MalformedDocument, match=r"index\.json is missing, or not a file"):
        store.images()
