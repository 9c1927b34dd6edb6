"""Pushing into a layout in a folder, beyond the contract: what is written where, and what is left alone."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

import distsdk
from distsdk import Remote
from distsdk.content.protocols import Deletable, Pushable, ReferrerLister
from distsdk.errors import InvalidConfig, InvalidReference, MalformedDocument, NotFound, SizeMismatch, Unsafe
from distsdk.spec import media_types as media
from distsdk.spec.descriptor import REF_NAME, Descriptor
from distsdk.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

EMPTY = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": []}).encode()


def connected(folder: Path) -> Remote:
    """The remote for a folder."""
    remote = distsdk.connect(str(folder))
    return remote


def note(remote: Remote, text: str, tag: str | None = None, **more: object) -> Descriptor:
    """Push an artifact."""
    config = remote.push_blob(b"{}", media_type=media.OCI_EMPTY)
    fields = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": config.to_fields(), "layers": []}
    fields |= {"artifactType": "a/b", "annotations": {"note": text}} | more
    return remote.push_document(json.dumps(fields).encode(), media.OCI_MANIFEST, tag=tag)


def index(folder: Path) -> dict[str, Any]:
    """What index.json says."""
    read: dict[str, Any] = json.loads((folder / "index.json").read_bytes())
    return read


def names(folder: Path) -> set[str]:
    """All files below a folder."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_folder_becomes_a_layout(tmp_path: Path) -> None:
    """With nothing in it but what a layout has, and a lock."""
    for folder in (tmp_path / "new" / "folder", tmp_path / "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        remote = connected(folder)
        blob = remote.push_blob(b"data")
        pushed = remote.push_document(EMPTY, media.OCI_INDEX, tag="v1")
        blobs = {f"blobs/sha256/{digest.hex}" for digest in (blob.digest, pushed.digest)}
        assert {"oci-layout", "index.json", *blobs} == names(folder) - {"index.lock"}
        assert [{**pushed.to_fields(), "annotations": {REF_NAME: "v1"}}] == index(folder)["manifests"]
        assert {"imageLayoutVersion": "1.0.0"} == json.loads((folder / "oci-layout").read_bytes())


def test_what_is_no_layout_is_left_alone(tmp_path: Path) -> None:
    """A folder of other things, and a file."""
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "thesis.tex").write_text("x")
    with pytest.raises(InvalidConfig, match=r"thesis\.tex"):
        connected(tmp_path / "folder").push_blob(b"data")
    assert {"thesis.tex"} == names(tmp_path / "folder")
    remote = connected(tmp_path / "later")
    (tmp_path / "later").write_text("x")
    with pytest.raises(InvalidConfig, match="is a file"):
        remote.push_blob(b"data")


def test_archives_and_urls_take_nothing(tmp_path: Path) -> None:
    """They have no such methods; they list referrers, though."""
    (tmp_path / "archive.tar").write_bytes(b"x")
    for locator in (str(tmp_path / "archive.tar"), "memory://layout", "https://files.example/layout/"):
        remote = distsdk.connect(locator)
        assert not isinstance(remote.fetcher, Pushable | Deletable)
        assert isinstance(remote.fetcher, ReferrerLister)


@pytest.mark.parametrize("place", ["blobs", "blobs/sha256"])
def test_nothing_is_written_through_a_link(tmp_path: Path, place: str) -> None:
    """Who made the layout could lead us anywhere."""
    folder, elsewhere = tmp_path / "layout", tmp_path / "elsewhere"
    connected(folder).push_document(EMPTY, media.OCI_INDEX, tag="v1")
    elsewhere.mkdir()
    (folder / place).rename(tmp_path / "moved")
    (folder / place).symlink_to(elsewhere)
    remote = connected(folder)
    with pytest.raises(Unsafe):
        remote.push_blob(b"data", descriptor=None)
    with pytest.raises(Unsafe):
        remote.delete(Digest.of(EMPTY))
    assert set() == names(elsewhere)
    assert not list(folder.glob(".distsdk*"))


def test_a_link_in_the_place_of_a_blob_is_replaced(tmp_path: Path) -> None:
    """And what it leads to is not touched."""
    folder, precious = tmp_path / "layout", tmp_path / "precious"
    remote = connected(folder)
    remote.push_blob(b"first")
    precious.write_bytes(b"precious")
    digest = Digest.of(b"data")
    (folder / "blobs/sha256" / digest.hex).symlink_to(precious)
    with pytest.raises(Unsafe):
        remote.push_blob(b"data", descriptor=Descriptor("a/b", digest, 4))  # asking whether it is there finds the link
    assert digest == remote.push_blob(b"data").digest
    assert b"data" == remote.fetch(digest).read()
    assert b"precious" == precious.read_bytes()


def test_a_file_of_the_wrong_size_is_replaced(tmp_path: Path) -> None:
    """As a tool that was killed may have left one."""
    remote = connected(tmp_path / "layout")
    wanted = remote.push_blob(b"the data")
    path = tmp_path / "layout/blobs/sha256" / wanted.digest.hex
    path.chmod(0o644)
    path.write_bytes(b"the")
    with pytest.raises(SizeMismatch):
        remote.has(wanted)
    assert wanted == remote.push_blob(b"the data", descriptor=wanted)
    assert b"the data" == remote.fetch(wanted).read()


def test_what_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    """Neither under its name nor under another."""
    folder = tmp_path / "layout"
    remote = connected(folder)
    remote.push_blob(b"first")
    before = names(folder)

    def pieces() -> Iterator[bytes]:
        yield b"some"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        remote.push_blob(pieces())
    assert before == names(folder)


def test_what_others_wrote_into_the_index_stays(tmp_path: Path) -> None:
    """Fields that are not known, entries without names, an empty list as umoci writes it."""
    folder = tmp_path / "layout"
    remote = connected(folder)
    remote.push_blob(b"x")
    entry = {**Descriptor("a/b", Digest.of(b"x"), 1).to_fields(), "unknown": [1]}
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "more": {"a": 1}, "manifests": None}))
    pushed = remote.push_document(EMPTY, media.OCI_INDEX, tag="v1")
    assert {"a": 1} == index(folder)["more"]
    (folder / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    remote.push_document(EMPTY, media.OCI_INDEX, tag="v1")
    assert [entry, {**pushed.to_fields(), "annotations": {REF_NAME: "v1"}}] == index(folder)["manifests"]
    for damaged in ("{", '{"manifests": {}}'):
        (folder / "index.json").write_text(damaged)
        with pytest.raises(MalformedDocument):
            remote.push_document(EMPTY, media.OCI_INDEX, tag="v1")
        assert damaged == (folder / "index.json").read_text()


def test_a_tag_moves(tmp_path: Path) -> None:
    """It is in the index once; what had it is listed no more, unless it is about something."""
    folder = tmp_path / "layout"
    remote = connected(folder)
    first, second = note(remote, "1", "v1"), note(remote, "2", "v1")
    assert [second.to_fields() | {"annotations": {REF_NAME: "v1"}}] == index(folder)["manifests"]
    about = note(remote, "3", "v1", subject=first.to_fields())
    note(remote, "4", "v1")
    assert [about.digest] == [one.digest for one in remote.referrers(first)]
    assert ["v1"] == list(remote.tags())
    remote.delete("v1")
    assert [] == list(remote.tags())
    assert [about.digest] == [one.digest for one in remote.referrers(first)]
    with pytest.raises(NotFound):
        remote.delete("v1")


def test_a_document_does_not_name_itself(tmp_path: Path) -> None:
    """An annotation of its own is no name in the index."""
    remote = connected(tmp_path / "layout")
    first = note(remote, "1", "latest")
    note(remote, "2", None, annotations={REF_NAME: "latest", "x": "y"}, subject=first.to_fields())
    assert first == remote.fetch("latest").descriptor
    assert [{REF_NAME: "latest", "x": "y"}] == [one.annotations for one in remote.referrers(first)]


def test_a_tag_for_referrers_is_read(tmp_path: Path) -> None:
    """As a copy of what a registry has that lists none."""
    remote = connected(tmp_path / "layout")
    subject = note(remote, "1", "v1")
    entry = Descriptor(media.OCI_MANIFEST, Digest.of(b"x"), 1, artifact_type="a/b")
    fields = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [entry.to_fields()]}
    remote.push_document(json.dumps(fields).encode(), media.OCI_INDEX, tag=str(subject.digest).replace(":", "-"))
    assert [entry] == list(remote.referrers(subject))


def test_a_digest_is_removed_with_what_lists_it(tmp_path: Path) -> None:
    """Its names are gone."""
    folder = tmp_path / "layout"
    remote = connected(folder)
    first = note(remote, "1", "a")
    note(remote, "1", "b")
    remote.delete(first.digest)
    assert [] == index(folder)["manifests"]
    assert not remote.has(first)
    with pytest.raises(InvalidReference):
        remote.delete("../x")


def test_a_store_at_the_same_place_sees_it(tmp_path: Path) -> None:
    """Both lock the index in the same way, and read what the other wrote."""
    store = distsdk.Store(tmp_path / "store")
    store.ingest(iter([b"data"]), "key")
    remote = connected(tmp_path / "store")
    assert remote.has(Descriptor("a/b", Digest.of(b"data"), 4))
    pushed = remote.push_document(EMPTY, media.OCI_INDEX, tag="v1")
    assert pushed.digest == store.images()["v1"].digest


@pytest.mark.parametrize("tagged", [media.DOCKER_MANIFEST, media.DOCKER_LIST])
def test_docker_document_has_an_oci_index_under_its_tag(tmp_path: Path, tagged: str) -> None:
    """An entry with an OCI media type precedes the document's own; both lose the tag together."""
    remote = connected(tmp_path)
    config = remote.push_blob(b"{}", media_type=media.DOCKER_CONFIG)
    fields = {"schemaVersion": 2, "mediaType": media.DOCKER_MANIFEST, "config": config.to_fields(), "layers": []}
    pushed = image = remote.push_document(json.dumps(fields).encode(), media.DOCKER_MANIFEST)
    assert [] == index(tmp_path)["manifests"], "untagged documents need no index"
    if tagged == media.DOCKER_LIST:
        fields = {"schemaVersion": 2, "mediaType": media.DOCKER_LIST, "manifests": [image.to_fields()]}
        pushed = Descriptor(tagged, Digest.of(json.dumps(fields).encode()), len(json.dumps(fields)))
    raw = json.dumps(fields).encode()
    for tag in ("a", "b", "a"):
        assert pushed == remote.push_document(raw, tagged, tag=tag)
    entries = index(tmp_path)["manifests"]
    assert [("b", media.OCI_INDEX), ("b", tagged), ("a", media.OCI_INDEX), ("a", tagged)] == [
        (entry["annotations"][REF_NAME], entry["mediaType"]) for entry in entries
    ]
    alias = remote.fetch(entries[0]["digest"]).read()
    assert [image.to_fields()] == json.loads(alias)["manifests"]
    assert pushed == remote.resolve("a") == remote.resolve("b")
    assert ["b", "a"] == list(remote.tags())
    remote.delete("a")
    assert ["b"] == list(remote.tags())
    assert 2 == len(index(tmp_path)["manifests"])
    remote.delete(pushed.digest)
    assert [] == index(tmp_path)["manifests"]


WRITER = """
import json, sys
import distsdk
from distsdk.spec import media_types as media
remote = distsdk.connect(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for number in range(20):
    remote.push_blob(b"the same" * 10000)
    fields = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [], "annotations": {"n": f"{number}"}}
    remote.push_document(json.dumps(fields).encode(), media.OCI_INDEX, tag=f"{sys.argv[2]}{number}")
"""


@pytest.mark.slow
def test_processes_lose_no_tag(tmp_path: Path) -> None:
    """Two that write at once into a folder that is not there yet."""
    command = [sys.executable, "-c", WRITER, str(tmp_path / "layout")]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([*command, name], **pipes) for name in "ab"]
    for writer in writers:
        assert writer.stdout is not None
        assert "ready\n" == writer.stdout.readline()
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        writer.communicate()
        assert 0 == writer.returncode
    assert {f"{name}{n}" for name in "ab" for n in range(20)} == set(connected(tmp_path / "layout").tags())
