"""What belongs to something: attached, listed and deleted, wherever a remote can do that."""

from __future__ import annotations

import json
import tarfile
from typing import TYPE_CHECKING

import pytest

import distsdk
from distsdk import Credentials, Descriptor, Digest, Hosts, attach, delete, push, referrers
from distsdk.errors import Denied, InvalidReference, NotFound, PlatformNotFound, RegistryError
from distsdk.spec.media_types import OCI_CONFIG, OCI_MANIFEST
from distsdk.testing import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distsdk.remotes.remote import Remote


SBOM = "application/spdx+json"


@pytest.fixture(params=["API", "tag", "layout"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where it is: a registry that lists referrers, one that does not, and a layout; there is an image ``app:1``."""
    if request.param == "layout":
        yield f"{tmp_path}/layout"
        return
    with Registry(referrers=request.param == "API") as registry:
        yield registry.locator("app")


@pytest.fixture
def sbom(tmp_path: Path) -> Path:
    """A file to attach."""
    path = tmp_path / "sbom.json"
    path.write_text('{"spdxVersion": "SPDX-2.3", "packages": []}')
    return path


def remote(place: str) -> Remote:
    """What has it."""
    return distsdk.connect(place, credentials=Credentials.anonymous(), hosts=Hosts())


def listed(place: str, tag: str = "1", artifact_type: str | None = None) -> list[Descriptor]:
    """What refers to a tag."""
    return list(referrers(f"{place}:{tag}", artifact_type=artifact_type, remote=remote(place)))


def test_what_is_attached_is_listed(place: str, sbom: Path) -> None:
    """By type and with its annotations; its manifest says what it belongs to."""
    app = push(f"{place}:1", sbom, artifact_type="x/app", remote=remote(place))
    assert [] == listed(place)
    found = attach(f"{place}:1", sbom, artifact_type=SBOM, annotations={"tool": "ours"}, remote=remote(place))
    other = attach(f"{place}@{app.digest}", artifact_type="x/note", annotations={"a": "b"}, remote=remote(place))
    assert {found.digest, other.digest} == {entry.digest for entry in listed(place)}
    [entry] = listed(place, artifact_type=SBOM)
    assert (found.digest, found.size, SBOM, {"tool": "ours"}) == (
        entry.digest,
        entry.size,
        entry.artifact_type,
        entry.annotations,
    )
    manifest = distsdk.Manifest.parse(remote(place).fetch(entry).read())
    assert manifest.subject == Descriptor(app.media_type, app.digest, app.size)
    assert sbom.read_bytes() == remote(place).fetch(manifest.layers[0]).read()
    assert app.digest == remote(place).fetch("1").digest, "the tag stays where it was"


def test_the_same_again_is_the_same(place: str, sbom: Path) -> None:
    """It is listed once."""
    push(f"{place}:1", sbom, remote=remote(place))
    twice = [attach(f"{place}:1", sbom, artifact_type=SBOM, remote=remote(place)) for _ in range(2)]
    assert twice[0] == twice[1]
    assert [twice[0].digest] == [entry.digest for entry in listed(place)]


@pytest.mark.slow
def test_what_was_pushed_but_not_listed_is_listed(sbom: Path) -> None:
    """As when its writer was killed before: the manifest is there, and the tag that lists it is not."""
    with Registry(referrers=False) as registry:
        place = registry.locator("app")
        app = push(f"{place}:1", sbom, remote=remote(place))
        found = attach(f"{place}:1", sbom, artifact_type=SBOM, remote=remote(place))
        delete(f"{place}:sha256-{app.digest.hex}", remote=remote(place))
        assert [] == listed(place)
        attach(f"{place}:1", sbom, artifact_type=SBOM, remote=remote(place))
        assert [found.digest] == [entry.digest for entry in listed(place)]


def test_what_refers_to_it_can_be_referred_to(place: str, sbom: Path) -> None:
    """A signature of an SBOM, say."""
    push(f"{place}:1", sbom, remote=remote(place))
    first = attach(f"{place}:1", sbom, artifact_type=SBOM, remote=remote(place))
    second = attach(f"{place}@{first.digest}", sbom, artifact_type="x/signature", remote=remote(place))
    [found] = referrers(f"{place}@{first.digest}", remote=remote(place))
    assert second.digest == found.digest


def test_of_an_index_a_child_or_the_index() -> None:
    """By default the index; by platform, its child."""
    with Registry() as registry:
        children = [registry.add_image("app", layers=[b"1"], platform=name) for name in ("linux/amd64", "linux/arm64")]
        index = registry.add_index("app", "1", manifests=children)
        place = registry.locator("app")
        whole = attach(f"{place}:1", artifact_type="x/y", annotations={"of": "it"}, remote=remote(place))
        part = attach(f"{place}:1", artifact_type="x/y", platform="linux/arm64", remote=remote(place))
        assert [whole.digest] == [entry.digest for entry in listed(place)]
        found = referrers(f"{place}:1", platform="linux/arm64", remote=remote(place))
        assert [part.digest] == [entry.digest for entry in found]
        subjects = [
            remote(place).fetch(entry.digest, f"mediatype:{OCI_MANIFEST}").json()["subject"] for entry in (whole, part)
        ]
        assert [str(index.digest), str(children[1].digest)] == [subject["digest"] for subject in subjects]
        with pytest.raises(PlatformNotFound):
            attach(f"{place}:1", artifact_type="x/y", platform="windows/arm64", remote=remote(place))
        with pytest.raises(PlatformNotFound):
            referrers(f"{place}:1", platform="windows/arm64", remote=remote(place))


def test_what_is_not_there_cannot_be_attached_to(place: str, sbom: Path) -> None:
    """Nothing is pushed then, and nothing is listed."""
    with pytest.raises(NotFound):
        attach(f"{place}:1", sbom, artifact_type=SBOM, remote=remote(place))
    with pytest.raises(NotFound):
        listed(place)
    with pytest.raises(NotFound):
        attach(f"{place}@{Digest.of(b'nothing')}", sbom, artifact_type=SBOM, remote=remote(place))


def test_a_list_of_a_digest_costs_no_look_at_it() -> None:
    """Nothing is asked for before one iterates, and then for the list alone."""
    with Registry() as registry:
        image = registry.add_image("app", "1", layers=[b"1"])
        place = registry.locator("app")
        found = referrers(f"{place}@{image.digest}", remote=remote(place))
        assert 0 == registry.count()
        assert [] == list(found)
        assert 1 == registry.count() == registry.count(path="/referrers/")


# Deleting


def test_a_tag_or_a_digest_is_deleted(place: str, sbom: Path) -> None:
    """The tag alone; then the manifest; what is not there cannot be deleted."""
    app = push(f"{place}:1", sbom, remote=remote(place))
    push(f"{place}:2", sbom, remote=remote(place))
    delete(f"{place}:1", remote=remote(place))
    with pytest.raises(NotFound):
        remote(place).fetch("1")
    assert app.digest == remote(place).fetch("2").digest
    delete(f"{place}@{app.digest}", remote=remote(place))
    for gone in ("2", str(app.digest)):
        with pytest.raises(NotFound):
            remote(place).fetch(gone, f"mediatype:{OCI_MANIFEST}").read()
    for gone in (f"{place}:1", f"{place}@{app.digest}"):
        with pytest.raises(NotFound):
            delete(gone, remote=remote(place))


@pytest.mark.slow
def test_what_was_deleted_is_listed_no_more(place: str, sbom: Path) -> None:
    """Where the list is kept by clients, too."""
    push(f"{place}:1", sbom, remote=remote(place))
    kept = attach(f"{place}:1", sbom, artifact_type=SBOM, remote=remote(place))
    gone = attach(f"{place}:1", sbom, artifact_type="x/y", remote=remote(place))
    delete(f"{place}@{gone.digest}", remote=remote(place))
    assert [kept.digest] == [entry.digest for entry in listed(place)]


def test_a_registry_that_does_not_delete_says_so() -> None:
    """And nothing is gone."""
    with Registry(read_only=True) as registry:
        registry.add_image("app", "1", layers=[b"1"])
        place = registry.locator("app")
        with pytest.raises(RegistryError, match="does not delete"):
            delete(f"{place}:1", remote=remote(place))
        remote(place).fetch("1")


def test_files_that_are_only_read_say_so(tmp_path: Path) -> None:
    """An archive deletes nothing, takes nothing, and lists what refers to something."""
    subject = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": {"mediaType": OCI_CONFIG, "digest": str(Digest.of(b"{}")), "size": 2},
            "layers": [],
        }
    ).encode()
    layout = distsdk.connect(f"{tmp_path}/layout")
    layout.push_blob(b"{}")
    layout.push_document(subject, OCI_MANIFEST, tag="1")
    found = attach(f"{tmp_path}/layout:1", artifact_type="x/y", annotations={"a": "b"})
    with tarfile.open(tmp_path / "archive.tar", "w") as tar:
        for name in ("oci-layout", "index.json", "blobs"):
            tar.add(tmp_path / "layout" / name, name)
    archive = f"{tmp_path}/archive.tar"
    with pytest.raises(Denied, match="cannot delete"):
        delete(f"{archive}:1")
    with pytest.raises(Denied, match="cannot add to the archive"):
        attach(f"{archive}:1", artifact_type="x/y")
    assert [found.digest] == [entry.digest for entry in referrers(f"{archive}:1")]


def test_a_host_alone_is_no_place() -> None:
    """A repository is needed."""
    with pytest.raises(InvalidReference):
        delete("localhost:5000/")
