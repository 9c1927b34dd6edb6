"""Copying: what arrives, what it costs, in which order, and what is left when it fails."""

from __future__ import annotations

import json
import random
import threading
from typing import TYPE_CHECKING

import pytest
from attrs import evolve

import distsdk
from distsdk import Credentials, Descriptor, Digest, Hosts, Retry, Store, copy, referrers
from distsdk.errors import (
    Denied,
    DigestMismatch,
    InvalidReference,
    LimitExceeded,
    NotFound,
    PlatformNotFound,
    RegistryError,
)
from distsdk.spec import media_types as media
from distsdk.spec.documents import Index, Manifest
from distsdk.testing import Cut, CutUpload, NoMount, Registry, Status, WrongBytes
from distsdk.transfer import graph
from distsdk.transfer.events import Finished, Planned

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distsdk.remotes.remote import Remote
    from distsdk.testing.registry import Media
    from distsdk.transfer.events import Event

BIG, SMALL = (random.Random(seed).randbytes(size) for seed, size in ((1, 3_000_000), (2, 50_000)))
PLATFORMS = ("linux/amd64", "linux/arm64", "linux/arm/v7")
UPLOADS = "/blobs/uploads/"


@pytest.fixture
def source() -> Iterator[Registry]:
    """An index ``7`` of three platforms that share a layer, with signatures and an SBOM, and its first image."""
    with Registry() as registry:
        images = [
            registry.add_image("library/x", name.replace("/", "-"), layers=[SMALL, name.encode() * 1000], platform=name)
            for name in PLATFORMS
        ]
        index = registry.add_index("library/x", "7", manifests=images)
        registry.add_artifact("library/x", artifact_type="x/sig", files={"a": b"all"}, subject=index)
        sbom = registry.add_artifact(
            "library/x", artifact_type="x/sbom", files={"b": BIG}, subject=evolve(images[0], platform=None)
        )
        registry.add_artifact("library/x", artifact_type="x/sig", files={"a": b"sbom"}, subject=plain(sbom))
        cosign = registry.add_artifact("library/x", artifact_type="x/cosign", files={"c": b"cosign"})
        registry.add_manifest("library/x", fields(registry, cosign), media.OCI_MANIFEST, tags=[cosign_tag(index)])
        yield registry


@pytest.fixture
def target() -> Iterator[Registry]:
    """Another one, that is empty."""
    with Registry() as registry:
        yield registry


def plain(descriptor: Descriptor) -> Descriptor:
    """What a subject is."""
    return Descriptor(descriptor.media_type, descriptor.digest, descriptor.size)


def fields(registry: Registry, descriptor: Descriptor) -> bytes:
    """The bytes of a document."""
    return at(registry).fetch(descriptor).read()


def cosign_tag(descriptor: Descriptor) -> str:
    """The tag under which cosign looks for signatures."""
    return f"sha256-{descriptor.digest.hex}.sig"


def at(registry: Registry, repository: str = "library/x", attempts: int = 5) -> Remote:
    """The remote for a repository."""
    return distsdk.connect(
        registry.locator(repository),
        credentials=Credentials.anonymous(),
        hosts=Hosts(),
        retry=Retry(attempts=attempts),
    )


def copied(
    source: Registry,
    target: Registry,
    tag: str = "7",
    *,
    to: str = "mirror/x",
    platform: str | None = None,
    referrers: bool = False,
    events: list[Event] | None = None,
) -> Descriptor:
    """Copy a tag of ``library/x``."""
    return copy(
        f"{source.locator('library/x')}:{tag}",
        f"{target.locator(to)}:{tag}",
        platform=platform,
        referrers=referrers,
        source_remote=at(source),
        target_remote=at(target, to),
        progress=False if events is None else events.append,
    )


def everything(remote: Remote, descriptor: Descriptor) -> dict[Digest, bytes]:
    """All that a document leads to, by digest, each as it is read from there."""
    raw = remote.fetch(descriptor).read()
    found = {descriptor.digest: raw}
    if descriptor.media_type in media.INDEXES:
        for child in Index.parse(raw, descriptor.media_type).manifests:
            found |= everything(remote, child)
    else:
        manifest = Manifest.parse(raw, descriptor.media_type)
        for part in (manifest.config, *manifest.layers):
            found[part.digest] = remote.fetch(part).read()
    return found


def sent(registry: Registry) -> int:
    """Bytes of blobs that a registry was sent."""
    return sum(request.body_bytes_received for request in registry.requests if UPLOADS in request.path)


def read(registry: Registry) -> int:
    """Bytes of blobs that a registry gave."""
    return registry.count_bytes("GET", "/blobs/")


# What arrives


@pytest.mark.slow
def test_an_index_arrives_byte_for_byte(source: Registry, target: Registry) -> None:
    """With all its platforms, and nothing of what refers to it."""
    found = copied(source, target)
    there = at(target, "mirror/x")
    assert at(source).fetch("7").descriptor == found == there.fetch("7").descriptor
    assert everything(at(source), found) == everything(there, found)
    assert [] == list(referrers(f"{target.locator('mirror/x')}:7", remote=there))
    with pytest.raises(NotFound):
        there.fetch(cosign_tag(found))


def test_each_blob_goes_once(source: Registry, target: Registry) -> None:
    """However many images share it: what is read is what is sent."""
    found = copied(source, target)
    carried = read(source), sent(target)
    parts = everything(at(source), found)
    documents = {found.digest, *(child.digest for child in Index.parse(parts[found.digest]).manifests)}
    total = sum(len(data) for digest, data in parts.items() if digest not in documents)
    assert (total, total) == carried
    assert 3 + 1 + 3 == len(parts) - len(documents) == target.count("POST", UPLOADS)


def test_one_platform_is_its_manifest(source: Registry, target: Registry) -> None:
    """The tag stands for the child then, and nothing of the others comes."""
    found = copied(source, target, platform="linux/arm64")
    assert everything(at(source), found) == everything(at(target, "mirror/x"), found)
    assert 2 + 1 == target.count("PUT", UPLOADS)
    assert found.digest == at(target, "mirror/x").fetch("7").digest
    with pytest.raises(PlatformNotFound):
        copied(source, target, platform="windows/arm64")


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_dockers_documents_stay_what_they_are(source: Registry, target: Registry, kind: Media) -> None:
    """Byte for byte, under their own media types."""
    image = source.add_image("library/x", "one", layers=[b"1"], media=kind, platform="linux/s390x")
    source.add_index("library/x", "all", manifests=[image], media=kind)
    for tag in ("one", "all"):
        found = copied(source, target, tag)
        there = at(target, "mirror/x").fetch(tag)
        assert (found.media_type, fields(source, found)) == (there.media_type, there.read())


def test_what_refers_to_it_comes_on_request(source: Registry, target: Registry) -> None:
    """To the index and to its children, what refers to that, and what cosign has under a tag."""
    found = copied(source, target, referrers=True)
    here, there = at(source), at(target, "mirror/x")

    def tree(remote: Remote, digest: Digest) -> dict[Digest, object]:
        name = f"{remote.locator}@{digest}"
        return {entry.digest: tree(remote, entry.digest) for entry in referrers(name, remote=remote)}

    index = here.index("7")
    for digest in (found.digest, *(child.digest for child in index.manifests)):
        assert tree(here, digest) == tree(there, digest)
    [sbom] = tree(there, index.manifests[0].digest)
    assert 1 == len(tree(there, sbom))
    tag = cosign_tag(found)
    assert here.fetch(tag).read() == there.fetch(tag).read()
    for remote in (here, there):
        artifact = Manifest.parse(remote.fetch(sbom, f"mediatype:{media.OCI_MANIFEST}").read())
        assert BIG == remote.fetch(artifact.layers[0]).read()


def test_one_that_is_gone_is_left_out(target: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """A list that clients keep may name what was removed: that is told, and the rest comes."""
    with Registry(referrers=False) as source:
        image = source.add_image("library/x", "1", layers=[b"1"])
        kept = source.add_artifact("library/x", artifact_type="x/y", files={"a": b"1"})
        gone = Descriptor(media.OCI_MANIFEST, Digest.of(b"gone"), 4, artifact_type="x/gone")
        listed = {"schemaVersion": 2, "manifests": [entry.to_fields() for entry in (gone, kept)]}
        source.add_manifest("library/x", listed, media.OCI_INDEX, tags=[f"sha256-{image.digest.hex}"])
        copied(source, target, "1", referrers=True)
    assert f"{gone.digest} is listed as a referrer, and is not there" in caplog.text
    there = at(target, "mirror/x")
    assert image.digest == there.fetch("1").digest
    assert kept.digest == there.fetch(kept).digest


def test_a_document_may_have_several_of_cosigns_tags(source: Registry, target: Registry) -> None:
    """They all come."""
    found = at(source).fetch("linux-arm64").descriptor
    other = f"sha256-{found.digest.hex}"
    signature = fields(source, at(source).fetch(cosign_tag(at(source).fetch("7").descriptor)).descriptor)
    tags = [f"{other}.sig", f"{other}.att", f"{other}.sbom"]
    source.add_manifest("library/x", signature, media.OCI_MANIFEST, tags=tags)
    copied(source, target, "linux-arm64", referrers=True)
    there = at(target, "mirror/x")
    assert {*tags, "linux-arm64"} == set(there.tags())
    assert {signature} == {there.fetch(tag).read() for tag in tags}


@pytest.mark.slow
def test_they_are_listed_where_clients_have_to_do_that(source: Registry) -> None:
    """A registry without the list gets the tags that stand in for it."""
    with Registry(referrers=False) as target:
        found = copied(source, target, referrers=True)
        [entry] = referrers(f"{target.locator('mirror/x')}:7", remote=at(target, "mirror/x"))
        assert "x/sig" == entry.artifact_type
        assert 1 == target.count("PUT", f"/manifests/sha256-{found.digest.hex}$")


# In which order


def test_the_tag_comes_last(source: Registry, target: Registry) -> None:
    """Blobs, then documents, children before parents; referrers after what they refer to; the name at the end."""
    found = copied(source, target, referrers=True)
    puts = [r.path.rpartition("/")[2] for r in target.requests if r.method == "PUT" and "/manifests/" in r.path]
    last_blob = max(number for number, r in enumerate(target.requests) if r.method == "PUT" and UPLOADS in r.path)
    first_document = next(
        number for number, r in enumerate(target.requests) if r.method == "PUT" and "/manifests/" in r.path
    )
    assert last_blob < first_document
    assert "7" == puts[-1]
    index = puts.index(str(found.digest))
    children = at(source).index("7").manifests
    assert all(puts.index(str(child.digest)) < index for child in children)
    assert index < puts.index(cosign_tag(found)) < len(puts) - 1


def test_without_referrers_no_document_goes_twice(source: Registry, target: Registry) -> None:
    """The index has its tag at once."""
    copied(source, target)
    assert 4 == target.count("PUT", "/manifests/")


# What it costs


def test_what_is_there_is_not_carried(source: Registry, target: Registry) -> None:
    """The second time no byte of a blob is read or sent; a new tag of the same costs a document."""
    copied(source, target, referrers=True)
    source.reset()
    target.reset()
    events: list[Event] = []
    copied(source, target, referrers=True, events=events)
    assert (0, 0) == (read(source), sent(target))
    assert 0 == target.count("POST", UPLOADS)
    assert [Planned] == [type(event) for event in events]
    [event] = events
    assert isinstance(event, Planned)
    assert (0, 0) == (event.plan.missing, event.plan.to_fetch)
    copied(source, target, "linux-arm64")
    assert 0 == sent(target)


def test_within_one_registry_blobs_are_mounted(source: Registry) -> None:
    """No byte of one moves; where the registry does not do that, it is carried."""
    events: list[Event] = []
    found = copied(source, source, events=events)
    assert (0, 0) == (read(source), sent(source))
    assert 3 + 4 == source.count("POST", UPLOADS)
    finished = [event for event in events if isinstance(event, Finished)]
    assert {True: 7, False: 4} == {e: [f.existed for f in finished].count(e) for e in (True, False)}
    assert everything(at(source), found) == everything(at(source, "mirror/x"), found)
    source.fault(NoMount())
    source.reset()
    copied(source, source, "linux-amd64", to="other/x")
    assert sent(source) == read(source) > len(SMALL)


def test_within_one_repository_only_the_tag_is_new(source: Registry) -> None:
    """A copy to another tag is one document."""
    place = source.locator("library/x")
    found = copy(f"{place}:7", f"{place}:stable", source_remote=at(source), target_remote=at(source))
    assert found == at(source).fetch("stable").descriptor
    assert (0, 1, 0) == (read(source), source.count("PUT"), source.count("POST"))


# Other places


@pytest.mark.slow
def test_layouts_and_registries(source: Registry, target: Registry, tmp_path: Path) -> None:
    """From a registry to a layout, from there to another, and on to a registry, referrers and all."""
    first, second = f"{tmp_path}/one:7", f"{tmp_path}/two:7"
    found = copy(f"{source.locator('library/x')}:7", first, referrers=True, source_remote=at(source))
    assert found == copy(first, second, referrers=True)
    assert found == copy(second, f"{target.locator('x')}:7", referrers=True, target_remote=at(target, "x"))
    assert everything(at(source), found) == everything(at(target, "x"), found)
    [entry] = referrers(f"{target.locator('x')}:7", remote=at(target, "x"))
    assert "x/sig" == entry.artifact_type
    assert at(target, "x").fetch(cosign_tag(found)).size


@pytest.mark.slow
def test_a_store_takes_and_gives(source: Registry, target: Registry, tmp_path: Path) -> None:
    """By its own names; what refers to something is kept and found there too, and is no garbage."""
    store = Store(tmp_path / "store")
    name = f"{source.locator('library/x')}:7"
    found = copy(name, store, referrers=True, source_remote=at(source))
    assert {name, f"{source.locator('library/x')}:{cosign_tag(found)}"} <= store.images().keys()
    assert found.digest == store.images()[name].digest
    assert () == store.gc(dry_run=True).blobs
    assert (
        found.digest
        == copy(
            name, f"{target.locator('x')}:7", referrers=True, source_remote=store, target_remote=at(target, "x")
        ).digest
    )
    assert everything(at(source), found) == everything(at(target, "x"), found)
    assert 1 == len(list(referrers(f"{target.locator('x')}:7", remote=at(target, "x"))))
    other = Store(tmp_path / "other")
    copy(name, "registry.example/renamed:1", source_remote=store, target_remote=other)
    assert {"registry.example/renamed:1"} == other.images().keys()
    with pytest.raises(NotFound, match="is named"):
        copy("registry.example/nothing:1", other, source_remote=store)


def test_what_takes_nothing_says_so(source: Registry) -> None:
    """Before anything is asked for."""
    before = source.count()
    with pytest.raises(Denied, match="cannot be pushed to"):
        copy(f"{source.locator('library/x')}:7", "memory://layout:7", source_remote=at(source))
    assert before == source.count()
    with Registry(read_only=True) as target, pytest.raises(RegistryError, match="405"):
        copied(source, target)


# What goes wrong


def test_a_digest_is_held_against_it(source: Registry, target: Registry) -> None:
    """A target with a digest takes nothing else; with the right one it is pushed by that alone."""
    digest = at(source).fetch("7").digest
    name, place = f"{source.locator('library/x')}:7", target.locator("x")
    with pytest.raises(DigestMismatch, match="the target is to be"):
        copy(name, f"{place}@{Digest.of(b'')}", source_remote=at(source), target_remote=at(target, "x"))
    assert 0 == target.count()
    copy(name, f"{place}@{digest}", source_remote=at(source), target_remote=at(target, "x"))
    assert [] == list(at(target, "x").tags())
    assert digest == at(target, "x").fetch(digest, f"mediatype:{media.OCI_INDEX}").digest


@pytest.mark.slow
def test_nothing_is_called_by_its_name_before_it_is_there(source: Registry, target: Registry) -> None:
    """A blob that the source lost, or has damaged, ends it: no document is pushed."""
    source.fault(Status(404), path=f"/blobs/{Digest.of(SMALL)}")
    with pytest.raises(NotFound):
        copied(source, target)
    source.clear_faults()
    source.fault(WrongBytes(), path=f"/blobs/{Digest.of(SMALL)}", method="GET")
    with pytest.raises(DigestMismatch):
        copied(source, target)
    assert 0 == target.count("PUT", "/manifests/")
    with pytest.raises(NotFound):
        at(target, "mirror/x").fetch("7")
    assert [] == [t.name for t in threading.enumerate() if t.name.startswith("distsdk-push")]
    source.clear_faults()
    found = copied(source, target)
    assert everything(at(source), found) == everything(at(target, "mirror/x"), found)


def test_what_is_damaged_in_a_layout_is_replaced(source: Registry, tmp_path: Path) -> None:
    """A blob there that has another size than it should is written anew."""
    place = f"{tmp_path}/layout:7"
    found = copy(f"{source.locator('library/x')}:7", place, source_remote=at(source))
    damaged = tmp_path / "layout/blobs/sha256" / Digest.of(SMALL).hex
    damaged.chmod(0o644)
    damaged.write_bytes(b"damaged")
    copy(f"{source.locator('library/x')}:7", place, source_remote=at(source))
    assert everything(at(source), found) == everything(distsdk.connect(f"{tmp_path}/layout"), found)


def test_a_cut_on_either_side_is_gone_on_with(source: Registry, target: Registry) -> None:
    """A broken reading, and a broken sending: neither starts over."""
    source.add_image("library/x", "big", layers=[BIG])
    source.fault(Cut(after=1_000_000), path=f"/blobs/{Digest.of(BIG)}", method="GET", times=1)
    target.fault(CutUpload(after=2_000_000), method="PUT", times=1)
    found = copied(source, target, "big")
    assert everything(at(source), found) == everything(at(target, "mirror/x"), found)
    assert sent(target) < 1.5 * len(BIG)


@pytest.mark.parametrize("to", ["a layout", "a registry"])
def test_layers_that_are_elsewhere_stay_there(source: Registry, target: Registry, tmp_path: Path, to: str) -> None:
    """A layer that is not to be distributed, and has URLs, is not sent; the manifest names it as before."""
    layer = Descriptor(
        media_type=media.OCI_NONDISTRIBUTABLE_LAYER, digest=Digest.of(b"foreign"), size=7, urls=("https://a.example/x",)
    )
    config = source.add_blob("library/x", b"{}", media_type=media.OCI_CONFIG)
    raw = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "config": config.to_fields(),
            "layers": [layer.to_fields()],
        }
    ).encode()
    source.add_manifest("library/x", raw, media.OCI_MANIFEST, tags=["foreign"])
    if to == "a registry":
        copied(source, target, "foreign", to="mirror/x")
        assert raw == at(target, "mirror/x").fetch("foreign").read()
        assert 0 == target.count(path=str(layer.digest))
    else:
        copy(f"{source.locator('library/x')}:foreign", f"{tmp_path}/layout:1", source_remote=at(source))
        assert raw == distsdk.connect(f"{tmp_path}/layout").fetch("1").read()
    assert 0 == source.count(path=str(layer.digest))


@pytest.mark.parametrize(("bound", "value"), [("MAX_DOCUMENTS", 2), ("MAX_BLOBS", 6), ("MAX_DEPTH", 1)])
def test_there_are_bounds(
    source: Registry, target: Registry, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    """An image that is too much of anything is not begun."""
    monkeypatch.setattr(graph, bound, value)
    with pytest.raises(LimitExceeded):
        copied(source, target)
    assert 0 == target.count()


def test_referrers_have_bounds(source: Registry, target: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """They count like the rest, and those that refer to each other come to an end."""
    monkeypatch.setattr(graph, "MAX_DOCUMENTS", 6)
    with pytest.raises(LimitExceeded):
        copied(source, target, referrers=True)
    assert 0 == target.count()


def test_what_is_malformed_is_refused(source: Registry) -> None:
    """References, as everywhere."""
    for wrong in ("docker://x", "x:y:z"):
        with pytest.raises(InvalidReference):
            copy(wrong, "./layout:1")
        with pytest.raises(InvalidReference):
            copy(f"{source.locator('library/x')}:7", wrong)


def test_copy_asks_once_for_each_missing_blob(source: Registry, target: Registry) -> None:
    """Each blob and document that the target does not have costs one HEAD there, and one upload."""
    root = copied(source, target)
    blobs = [request.path for request in target.requests if request.method == "HEAD"]
    assert len(blobs) == len(set(blobs))
    assert str(root.digest) in "".join(blobs)
    assert 4 + 3 == sum("/blobs/" in path for path in blobs), "layers and configurations"
