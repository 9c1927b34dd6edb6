"""What nobody needs is removed, and nothing else; what is damaged is put out of the way and fetched anew."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from distsdk import Descriptor, Digest, DigestMismatch, LimitExceeded, MalformedDocument, NotFound, Store
from distsdk.content.blob import Blob
from distsdk.errors import IntegrityError, InvalidConfig, Unreachable
from distsdk.spec.media_types import (
    DOCKER_CONFIG,
    DOCKER_FOREIGN_LAYER_GZIP,
    DOCKER_LAYER_GZIP,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
)
from distsdk.store import store as local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.store.conftest import Put

    MakeImage = Callable[[str], Descriptor]

ARTIFACT = "application/vnd.oci.artifact.manifest.v1+json"


def here(store: Store) -> set[Digest]:
    """The digests of what is there."""
    return {info.digest for info in store.blobs()}


def document(**fields: Any) -> bytes:  # noqa: ANN401 - JSON
    """A document with these fields."""
    return json.dumps({"schemaVersion": 2, **fields}, default=Descriptor.to_fields).encode()


def begun(store: Store, key: str, data: bytes = b"some bytes") -> Path:
    """Leave an ingest that was interrupted, and return its bytes' file."""

    def chunks() -> Iterator[bytes]:
        yield data
        raise ConnectionError

    before = set((store.root / "ingest").glob("*.data"))
    with pytest.raises(ConnectionError):
        store.ingest(chunks(), key)
    [part] = set((store.root / "ingest").glob("*.data")) - before
    return part


# Garbage


def test_what_no_image_leads_to_is_removed(store: Store, image: MakeImage, put: Put) -> None:
    """Said first, on request; the images keep all that they have."""
    kept, lost = image("kept"), image("lost")
    loose = put(b"loose")
    store.tag("kept", kept)
    store.tag("lost", lost)
    before = here(store)
    assert {loose.digest} == {info.digest for info in store.gc(dry_run=True).blobs}
    assert before == here(store)
    store.untag("lost")
    would, did = store.gc(dry_run=True), store.gc()
    lost_layer = Digest.of(b"layer of lost")
    assert {loose.digest, lost.digest, lost_layer} == {info.digest for info in did.blobs}
    assert (set(would.blobs), would.size) == (set(did.blobs), did.size)
    assert did.size == len(b"loose") + lost.size + len(b"layer of lost")
    assert before - {loose.digest, lost.digest, lost_layer} == here(store)
    assert ((), (), 0) == (store.gc().blobs, store.gc().ingests, store.gc().size)


def test_every_descriptor_counts(store: Store, put: Put) -> None:
    """Indexes in indexes, Docker's documents, subjects, and documents of kinds that nobody knows here."""
    leaf = [put(b"leaf %d" % number) for number in range(6)]
    docker = put(
        document(
            config=Descriptor(DOCKER_CONFIG, leaf[0].digest, leaf[0].size),
            layers=[Descriptor(DOCKER_LAYER_GZIP, leaf[1].digest, leaf[1].size)],
        ),
        DOCKER_MANIFEST,
    )
    inner = put(document(manifests=[docker]), DOCKER_LIST)
    artifact = put(document(blobs=[leaf[2]], mediaType=ARTIFACT), ARTIFACT)
    referrer = put(document(config=leaf[3], layers=[leaf[4]], subject=artifact), OCI_MANIFEST)
    unknown = put(document(x={"y": [{"z": leaf[5].to_fields()}]}), "application/vnd.example.bundle+json")
    outer = put(document(manifests=[inner, referrer, unknown]), OCI_INDEX)
    everything = here(store)
    store.tag("x", outer)
    loose = put(b"loose")
    assert [loose.digest] == [info.digest for info in store.gc().blobs]
    assert everything == here(store)


def test_entries_without_a_name_count(store: Store, image: MakeImage) -> None:
    """Other tools leave such, and referrers have none."""
    first, second = image("first"), image("second")
    fields = {"mediaType": "application/x-unheard-of", "digest": str(first.digest), "size": 1}
    (store.root / "index.json").write_text(json.dumps({"manifests": [{}, 5, fields]}))
    assert {second.digest, Digest.of(b"layer of second")} == {info.digest for info in store.gc().blobs}


def test_a_document_that_is_called_a_layer_elsewhere(store: Store, image: MakeImage, put: Put) -> None:
    """An image cannot take away what another consists of, whichever is looked at first."""
    victim = image("victim")
    outer = put(document(manifests=[victim]), OCI_INDEX)
    liar = put(document(layers=[Descriptor(DOCKER_LAYER_GZIP, victim.digest, victim.size)]), OCI_MANIFEST)
    everything = here(store)
    for targets in ((outer, liar), (liar, outer)):
        for name, target in zip("ab", targets, strict=True):
            store.tag(name, target)
        assert () == store.gc().blobs
        store.untag("a")
        store.untag("b")
    assert everything == here(store)


def test_what_only_begins_like_a_document(store: Store, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """A template, or a long listing, among an artifact's blobs leads to nothing and hinders nothing."""
    monkeypatch.setattr(local, "MAX_DOCUMENT_SIZE", 2000)
    blobs = [
        put(data, "application/x-file")
        for data in (b"{% if x %}", b"{" * 1000, b'{"a":1,"a":2}', b"{" + bytes(3000), b"", gzip.compress(b"{"), b"{}")
    ]
    store.tag("x", put(document(layers=blobs), OCI_MANIFEST))
    everything = here(store)
    assert () == store.gc().blobs
    assert everything == here(store)


@pytest.mark.parametrize(
    ("data", "error"), [(b"no JSON", MalformedDocument), (b'{"x":' + bytes(3000) + b"}", LimitExceeded)]
)
def test_a_document_that_cannot_be_looked_into(
    store: Store, put: Put, data: bytes, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is removed while it is not known what is needed."""
    monkeypatch.setattr(local, "MAX_DOCUMENT_SIZE", 2000)
    store.tag("x", put(document(manifests=[put(data, OCI_MANIFEST)]), OCI_INDEX))
    put(b"loose")
    everything = here(store)
    with pytest.raises(error):
        store.gc()
    assert everything == here(store)


def test_a_damaged_document_removes_nothing(store: Store, image: MakeImage, put: Put) -> None:
    """What it led to may be needed; `verify` tells."""
    descriptor = image("x")
    put(b"loose")
    store.tag("x", descriptor)
    everything = here(store)
    raw = damage(store, descriptor.digest)
    with pytest.raises(DigestMismatch):
        store.gc()
    assert everything == here(store)
    assert (descriptor.digest,) == store.verify(fetch=lambda _: Blob.from_bytes(raw)).healed
    assert [Digest.of(b"loose")] == [info.digest for info in store.gc().blobs]


def test_a_quarantined_document_removes_nothing(store: Store, image: MakeImage) -> None:
    """A read has moved a manifest to quarantine: what it led to stays until the manifest is back, or has no name."""
    descriptor = image("x")
    store.tag("x", descriptor)
    raw = damage(store, descriptor.digest)
    with pytest.raises(DigestMismatch):
        store.blob(descriptor.digest).read()
    left = here(store)
    for dry_run in (True, False):
        with pytest.raises(IntegrityError, match="in quarantine; pull its image again"):
            store.gc(dry_run=dry_run)
    assert left == here(store)
    store.ingest(Blob.from_bytes(raw))
    assert () == store.gc().blobs
    damage(store, descriptor.digest)
    assert (descriptor.digest,) == store.verify().damaged
    store.untag("x")
    assert left == {info.digest for info in store.gc().blobs}
    assert [] == quarantined(store)


def test_records_of_commits_go_with_their_blobs(store: Store, image: MakeImage, put: Put) -> None:
    """Deleted, quarantined or removed as garbage, by this store or by another program."""
    store.tag("x", image("x"))
    for text in (b"deleted", b"damaged", b"removed by another program", b"garbage"):
        put(text)
    store.delete(Digest.of(b"deleted"))
    damage(store, Digest.of(b"damaged"))
    store.verify()
    store.path(Digest.of(b"removed by another program")).unlink()
    store.gc()
    records = {path.name.replace("-", ":") for path in (store.root / "commits").iterdir()}
    assert {str(digest) for digest in here(store)} == records


def test_a_document_that_is_not_there(store: Store, image: MakeImage) -> None:
    """Is no error: somebody may have taken one platform of several."""
    descriptor = image("x")
    store.tag("x", descriptor)
    store.delete(descriptor.digest)
    assert 2 == len(store.gc().blobs)


def test_old_ingests_are_removed(store: Store, put: Put) -> None:
    """Those of which nothing was heard for a day; what is fresher is left."""
    put(b"the store is there")
    old, fresh = begun(store, "old", b"0123456789"), begun(store, "fresh")
    day = 24 * 60 * 60
    for part, age in ((old, day + 60), (fresh, day - 60)):
        then = part.stat().st_mtime - age
        os.utime(part, (then, then))
    assert ["old"] == [ingest.key for ingest in store.gc(dry_run=True).ingests]
    collected = store.gc()
    assert ["old"] == [ingest.key for ingest in collected.ingests]
    assert 10 + len(b"the store is there") == collected.size
    assert ["fresh"] == [ingest.key for ingest in store.active()]
    assert [] == [path.name for path in (store.root / "ingest").glob(f"{old.stem}.*")]


@pytest.mark.parametrize("left", [(), (".data",), (".lock",), (".json",), (".json", ".lock"), (".data", ".lock")])
def test_what_a_killed_writer_left_is_removed(store: Store, put: Put, left: tuple[str, ...]) -> None:
    """Whatever of its three files is there without bytes, and indexes that were not finished."""
    put(b"the store is there")
    for suffix in left:
        (store.root / "ingest" / f"0123{suffix}").touch()
    (store.root / "ingest" / "0123456789abcdef.tmp").write_bytes(b'{"man')
    store.gc()
    assert {"door"} >= {path.name for path in (store.root / "ingest").iterdir()}


def test_nothing_is_removed_under_an_ingest(store: Store, put: Put) -> None:
    """One that goes on may belong to a pull, of which no image tells yet."""
    loose = put(b"loose")
    refused = []

    def chunks() -> Iterator[bytes]:
        for chunk in (b"a", b"b"):
            yield chunk
            for dry_run in (True, False):
                with pytest.raises(BlockingIOError, match=r"(?s)the ingest of a key is going on in .*when it is done"):
                    store.gc(dry_run=dry_run)
                refused.append(dry_run)

    store.ingest(chunks(), "a key")
    assert ([True, False, True, False], 2) == (refused, len(here(store)))
    assert {loose.digest, Digest.of(b"ab")} == {info.digest for info in store.gc().blobs}


def test_nothing_is_removed_under_a_lease(store: Store, image: MakeImage) -> None:
    """What a pull brings stays until it has a name; leases of several do not hinder each other."""
    with store.lease(), store.lease():
        descriptor = image("x")
        with pytest.raises(BlockingIOError, match="a pull is going on in "):
            store.gc()
        store.tag("x", descriptor)
    assert () == store.gc().blobs
    with pytest.raises(KeyError), store.lease():
        raise KeyError
    store.gc()
    assert {"door"} >= {path.name for path in (store.root / "ingest").iterdir()}


def test_a_store_that_is_not_there_has_no_garbage(store: Store) -> None:
    """And is not made for it."""
    assert ((), ()) == (store.gc().blobs, store.gc().ingests)
    assert not store.root.exists()


# Damage


def damage(store: Store, digest: Digest) -> bytes:
    """Change a byte of a blob, and return what it was."""
    path = store.path(digest)
    raw = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(bytes([raw[0] ^ 1]) + raw[1:])
    return raw


def quarantined(store: Store) -> list[str]:
    """What is out of the way."""
    return sorted(path.name for path in (store.root / "quarantine").iterdir())


def test_a_damaged_blob_is_put_out_of_the_way(store: Store, put: Put) -> None:
    """It is no longer there, is told of once, and is there again when somebody brings it."""
    good, bad = put(b"good"), put(b"bad")
    damage(store, bad.digest)
    found = store.verify()
    assert (2, 7, (bad.digest,), ()) == (found.count, found.size, found.damaged, found.healed)
    assert {good.digest} == here(store)
    assert [f"sha256-{bad.digest.hex}"] == quarantined(store)
    with pytest.raises(NotFound):
        store.open(bad.digest)
    assert () == store.verify().damaged
    assert not store.ingest(Blob.from_bytes(b"bad")).existed
    store.tag("x", put(document(layers=[good, bad]), OCI_MANIFEST))
    store.gc()
    assert [] == quarantined(store)
    assert b"bad" == store.open(bad.digest, verify=True).read()


def test_some_are_verified_by_name(store: Store, put: Put) -> None:
    """Only those are read; one that is not there is an error, before anything is done."""
    first, second = put(b"first"), put(b"second")
    for descriptor in (first, second):
        damage(store, descriptor.digest)
    with pytest.raises(NotFound):
        store.verify([first.digest, Digest.of(b"")])
    assert {first.digest, second.digest} == here(store)
    found = store.verify([str(second.digest)])
    assert (1, (second.digest,)) == (found.count, found.damaged)
    assert {first.digest} == here(store)


def test_damaged_blobs_are_fetched_anew(store: Store, put: Put) -> None:
    """All of those that can be had; the error of the first that cannot is raised."""
    texts = [b"%d" % number for number in range(10)]
    for text in texts:
        put(text)
    for text in texts[:6]:
        damage(store, Digest.of(text))
    gone, wrong = Digest.of(b"1"), Digest.of(b"2")
    originals = {Digest.of(text): text for text in texts}

    def fetch(digest: Digest) -> Blob:
        if digest == gone:
            raise Unreachable("no connection")
        return Blob.from_bytes(b"?" if digest == wrong else originals[digest])

    with pytest.raises((Unreachable, DigestMismatch)):
        store.verify(fetch=fetch)
    assert {Digest.of(text) for text in texts} - {gone, wrong} == here(store)
    found = store.verify(fetch=fetch)
    assert (8, (), ()) == (found.count, found.damaged, found.healed)
    damage(store, Digest.of(b"7"))
    assert (Digest.of(b"7"),) == store.verify(fetch=fetch).healed


def test_what_was_healed_meanwhile_is_left(store: Store, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two that verify find the same damage: the second does not put away what the first has brought."""
    digest = put(b"bad").digest
    damage(store, digest)
    other = Store(store.root)
    hashed = local._hashed

    def meanwhile(*arguments: Any) -> Iterator[Any]:  # noqa: ANN401 - what it stands for
        found = list(hashed(*arguments))
        monkeypatch.setattr(local, "_hashed", hashed)
        assert (digest,) == other.verify(fetch=lambda _: Blob.from_bytes(b"bad")).healed
        yield from found

    monkeypatch.setattr(local, "_hashed", meanwhile)
    assert (digest,) == store.verify().damaged
    assert b"bad" == store.open(digest, verify=True).read()


def test_what_was_deleted_meanwhile_is_no_damage(store: Store, put: Put, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not counted either."""
    put(b"there")
    gone = put(b"gone")
    digests = store._digests

    def meanwhile() -> Iterator[Digest]:
        yield from digests()
        store.delete(gone.digest)

    monkeypatch.setattr(store, "_digests", meanwhile)
    found = store.verify()
    assert (1, ()) == (found.count, found.damaged)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_content_that_a_name_needs_is_missing(store: Store, put: Put, image: MakeImage, algorithm: str) -> None:
    """Whatever a pull would bring, each once; not what a missing document leads to, nor what nobody may distribute."""
    config = put(b'{"architecture":"amd64","os":"linux"}', OCI_CONFIG)
    data = b"a layer"
    layer = Descriptor(OCI_LAYER, Digest.of(data, algorithm), len(data))
    foreign = Descriptor(DOCKER_FOREIGN_LAYER_GZIP, Digest.of(b"elsewhere"), 9)
    inside = Descriptor("text/plain", Digest.of(b"inside"), 6, data=b"inside")
    manifest = put(
        document(mediaType=OCI_MANIFEST, config=config, layers=[layer, foreign, inside, layer]), OCI_MANIFEST
    )
    other = image("x")
    target = put(document(mediaType=OCI_INDEX, manifests=[manifest, other, manifest]), OCI_INDEX)
    assert [layer.digest] == [descriptor.digest for descriptor in store.missing(target)]
    store.ingest([data], expected_digest=layer.digest)
    assert () == store.missing(target)
    os.truncate(store.path(layer.digest), 3)
    assert [layer.digest] == [descriptor.digest for descriptor in store.missing(target)]
    damage(store, other.digest)
    assert {layer.digest, other.digest} == {descriptor.digest for descriptor in store.missing(target)}
    assert [f"sha256-{other.digest.hex}"] == quarantined(store)
    store.delete(target.digest)
    assert (target,) == store.missing(target)


def test_a_document_that_is_malformed_leads_to_nothing(store: Store, put: Put) -> None:
    """Another program wrote it: it is here, and nothing can be said about its content."""
    assert () == store.missing(put(b"{}", OCI_MANIFEST))


@pytest.mark.parametrize("call", ["images", "blobs", "active", "verify", "gc"])
def test_a_directory_that_holds_something_else_is_no_store(tmp_path: Path, call: str) -> None:
    """Commands that only read refuse it too, and write nothing into it."""
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(InvalidConfig, match=r"not an OCI image layout.*'thesis\.txt'"):
        list(getattr(Store(tmp_path), call)())
    assert ["thesis.txt"] == [path.name for path in tmp_path.iterdir()]


@pytest.mark.parametrize("seconds", [300_000_000_000, -70_000_000_000])
def test_file_times_that_no_calendar_has(store: Store, put: Put, monkeypatch: pytest.MonkeyPatch, seconds: int) -> None:
    """A time beyond year 9999, or before year 1, is shown as the last or first there is."""
    descriptor = put(b"x")
    begun(store, "key")
    lstat = Path.lstat

    def on_a_disk_that_keeps_such_times(path: Path) -> Any:  # noqa: ANN401 - in place of a status
        found = lstat(path)
        fields = {name: getattr(found, name) for name in dir(found) if name.startswith("st_")}
        return SimpleNamespace(**{**fields, "st_mtime": float(seconds)})

    monkeypatch.setattr(Path, "lstat", on_a_disk_that_keeps_such_times)
    year = 9999 if seconds > 0 else 1
    assert {year} == {info.committed.year for info in (store.info(descriptor.digest), *store.blobs())}
    assert [year] == [active.updated.year for active in store.active()]
    assert (True, ()) == (store.ingest(Blob.from_bytes(b"x")).existed, store.verify().damaged)
    store.delete(descriptor.digest)
    assert seconds > 0 or store.gc().ingests


def test_many_are_verified(store: Store, put: Put) -> None:
    """More than are hashed in one batch."""
    texts = [b"%d" % number for number in range(600)]
    folder = store.path(put(texts[0]).digest).parent
    for text in texts[1:]:
        (folder / Digest.of(text).hex).write_bytes(text)
    (folder / Digest.of(texts[300]).hex).write_bytes(b"")
    found = store.verify()
    assert (600, (Digest.of(texts[300]),)) == (found.count, found.damaged)
