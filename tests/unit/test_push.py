"""Pushing files: what the artifact is, that it is the same each time, and what is sent."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import random
import sys
import tarfile
import threading
from typing import TYPE_CHECKING, Any

import pytest

import distsdk
from distsdk import Blob, Credentials, Descriptor, Digest, Hosts, Locator, Reference, push
from distsdk.errors import (
    Denied,
    DigestMismatch,
    InvalidConfig,
    InvalidReference,
    RegistryError,
    SizeMismatch,
    Unreachable,
    Unsafe,
)
from distsdk.spec.descriptor import TITLE
from distsdk.spec.media_types import DOCUMENTS, OCI_EMPTY, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST
from distsdk.testing import Registry, Status
from distsdk.transfer.events import Advanced, Finished, Planned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from distsdk.content.protocols import UploadSource
    from distsdk.remotes.remote import Remote
    from distsdk.spec.reference import Hint, Object
    from distsdk.transfer.events import Event

BIG = random.Random(1).randbytes(3_000_000)
EMPTY = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"

posix = pytest.mark.skipif(sys.platform == "win32", reason="links, modes and pipes as POSIX has them")


@pytest.fixture
def registry() -> Iterator[Registry]:
    """An empty one."""
    with Registry() as registry:
        yield registry


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with two files and a folder."""
    work = tmp_path / "work"
    work.mkdir()
    (work / "a.txt").write_bytes(b"hello")
    (work / "big").write_bytes(BIG)
    tree = work / "tree"
    (tree / "sub" / "empty").mkdir(parents=True)
    (tree / "sub" / "z").write_bytes(b"z" * 1000)
    (tree / "run.sh").write_bytes(b"#!/bin/sh\n")
    (tree / "run.sh").chmod(0o700)
    (tree / ("é" * 60)).write_bytes(b"")
    monkeypatch.chdir(work)
    return work


def connected(registry: Registry, name: str = "data/x") -> Remote:
    """What takes it."""
    return distsdk.connect(registry.locator(name), credentials=Credentials.anonymous(), hosts=Hosts())


def pushed(registry: Registry, *files: Any, tag: str = "v1", **more: Any) -> Descriptor:  # noqa: ANN401 - as of push
    """Push there."""
    return push(f"{registry.locator('data/x')}:{tag}", *files, remote=connected(registry), **more)


def manifest(registry: Registry, found: Descriptor) -> dict[str, Any]:
    """Its fields, as anybody may fetch it; no other than `push` said it is."""
    blob = connected(registry).fetch(found)
    fields: dict[str, Any] = blob.json()
    assert (OCI_MANIFEST, found.size) == (blob.media_type, len(blob.read()))
    return fields


def content(registry: Registry, layer: dict[str, Any]) -> bytes:
    """The bytes of a layer."""
    return connected(registry).fetch(Descriptor.from_fields(layer)).read()


# What it is


def test_files_are_layers_by_their_names(registry: Registry, folder: Path) -> None:
    """As ORAS has it: a title each, an empty configuration that the manifest holds itself, and a type."""
    found = pushed(
        registry, "a.txt", folder / "big", artifact_type="application/vnd.x", annotations={"b": "2", "a": "ä"}
    )
    assert found.digest == connected(registry).fetch("v1").digest
    fields = manifest(registry, found)
    assert list(fields) == ["schemaVersion", "mediaType", "artifactType", "config", "layers", "annotations"]
    assert (2, OCI_MANIFEST, "application/vnd.x") == tuple(
        fields[key] for key in ("schemaVersion", "mediaType", "artifactType")
    )
    assert {"mediaType": OCI_EMPTY, "digest": EMPTY, "size": 2, "data": "e30="} == fields["config"]
    assert b"{}" == content(registry, fields["config"])
    assert [("a", "ä"), ("b", "2")] == list(fields["annotations"].items())
    assert [("a.txt", OCI_LAYER, b"hello"), ("big", OCI_LAYER, BIG)] == [
        (layer["annotations"][TITLE], layer["mediaType"], content(registry, layer)) for layer in fields["layers"]
    ]


def test_types_and_a_configuration_can_be_named(registry: Registry, folder: Path) -> None:
    """A type by file; a configuration of its own, with no artifact type then unless there is one."""
    fields = manifest(registry, pushed(registry, ("a.txt", "Text/Plain; charset=utf-8"), config=("big", "x/y")))
    assert ("text/plain", "x/y", None) == (
        fields["layers"][0]["mediaType"],
        fields["config"]["mediaType"],
        fields.get("artifactType"),
    )
    assert BIG == content(registry, fields["config"])
    fields = manifest(registry, pushed(registry, config="a.txt", artifact_type="x/z"))
    assert ("application/vnd.unknown.config.v1+json", "x/z") == (fields["config"]["mediaType"], fields["artifactType"])


def test_without_files_the_layer_is_empty(registry: Registry) -> None:
    """As the specification asks for; the type is nobody's."""
    fields = manifest(registry, pushed(registry, annotations={"a": "b"}))
    assert [OCI_EMPTY] == [layer["mediaType"] for layer in fields["layers"]]
    assert "application/vnd.unknown.artifact.v1" == fields["artifactType"]


@posix
def test_a_folder_is_an_archive(registry: Registry, folder: Path) -> None:
    """Sorted, below its own name, without owners and times; links are kept as they are and not followed."""
    (folder / "tree" / "link").symlink_to("../../elsewhere")
    (folder / "tree" / "sub" / "loop").symlink_to("..")
    [layer] = manifest(registry, pushed(registry, "tree/"))["layers"]
    archive = gzip.decompress(content(registry, layer))
    assert OCI_LAYER_GZIP == layer["mediaType"]
    assert {
        TITLE: "tree",
        "io.deis.oras.content.unpack": "true",
        "io.deis.oras.content.digest": f"sha256:{hashlib.sha256(archive).hexdigest()}",
    } == layer["annotations"]
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        members = tar.getmembers()
        assert b"#!/bin/sh\n" == tar.extractfile("tree/run.sh").read()  # type: ignore[union-attr] # it is a file
    assert [
        ("tree", 0o755, ""),
        ("tree/link", 0o777, "../../elsewhere"),
        ("tree/run.sh", 0o755, ""),
        ("tree/sub", 0o755, ""),
        ("tree/sub/empty", 0o755, ""),
        ("tree/sub/loop", 0o777, ".."),
        ("tree/sub/z", 0o644, ""),
        (f"tree/{'é' * 60}", 0o644, ""),
    ] == [(member.name, member.mode, member.linkname) for member in members]
    assert {(0, 0, 0, "", "")} == {(m.uid, m.gid, m.mtime, m.uname, m.gname) for m in members}


def test_the_same_files_give_the_same_digest(registry: Registry, folder: Path, tmp_path: Path) -> None:
    """Wherever they lie, whenever they were written, and whoever may read them; other content is another digest."""
    first = pushed(registry, "a.txt", "tree")
    copied = tmp_path / "copied"
    for name in ("tree/sub/empty", "tree/sub"):
        (copied / name).mkdir(parents=True, exist_ok=True)
    for path in sorted((folder / "tree").rglob("*"), reverse=True):
        if path.is_file():
            other = copied / path.relative_to(folder)
            other.write_bytes(path.read_bytes())
            other.chmod(path.stat().st_mode & 0o100 | 0o600)
            os.utime(other, (1, 1))
    (copied / "a.txt").write_bytes(b"hello")
    assert first == pushed(registry, copied / "a.txt", str(copied / "tree"), tag="v2")
    (copied / "tree/sub/z").write_bytes(b"y" * 1000)
    assert first.digest != pushed(registry, "a.txt", copied / "tree", tag="v3").digest


def test_what_is_there_is_not_sent_again(registry: Registry, folder: Path) -> None:
    """The second time no byte of a blob goes, and of a third artifact only what is new."""
    pushed(registry, "a.txt", "big", "tree")
    registry.reset()
    pushed(registry, "a.txt", "big", "tree", tag="again")
    assert 0 == registry.count(path="/blobs/uploads/")
    (folder / "new").write_bytes(b"new")
    pushed(registry, "new", "big", "tree", tag="third")
    sent = [r for r in registry.requests if r.method in {"PUT", "PATCH", "POST"} and "/blobs/uploads/" in r.path]
    assert 3 == sum(request.body_bytes_received for request in sent)


def test_one_content_under_two_names_goes_once(registry: Registry, folder: Path) -> None:
    """It is two layers and one blob."""
    (folder / "other").write_bytes(BIG)
    fields = manifest(registry, pushed(registry, "big", "other"))
    assert ["big", "other"] == [layer["annotations"][TITLE] for layer in fields["layers"]]
    assert len(BIG) + 2 == sum(r.body_bytes_received for r in registry.requests if "/blobs/uploads/" in r.path)


# What it tells


def test_it_tells_what_it_does(registry: Registry, folder: Path) -> None:
    """A plan, blobs as they go, and everything that is there at the end, the manifest last."""
    events: list[Event] = []
    found = pushed(registry, "big", "a.txt", progress=events.append)
    first, *rest, last = events
    assert isinstance(first, Planned)
    assert (f"{registry.locator('data/x')}:v1", found.digest) == (first.plan.name, first.plan.target.digest)
    assert (0, found.size + 2 + 5 + len(BIG)) == (first.plan.here, first.plan.missing)
    finished = [event for event in events if isinstance(event, Finished)]
    assert {len(BIG), 5, 2} == {event.descriptor.size for event in finished[:-1]}
    assert [last] == finished[-1:]
    assert [(found.digest, False)] == [(event.descriptor.digest, event.existed) for event in finished[-1:]]
    assert all(isinstance(event, Advanced | Finished) for event in rest)
    assert {False} == {event.existed for event in finished}
    again: list[Event] = []
    pushed(registry, "big", "a.txt", progress=again.append)
    assert [Planned] == [type(event) for event in again]


def test_a_report_that_fails_ends_it(registry: Registry, folder: Path) -> None:
    """Its error comes out, no tag is written, and no thread is left."""

    class Enough(Exception):
        pass

    def tell(event: Event) -> None:
        if isinstance(event, Finished):
            raise Enough

    with pytest.raises(Enough):
        pushed(registry, "big", "a.txt", progress=tell)
    assert 0 == registry.count("PUT", "/manifests/")
    assert [] == [t.name for t in threading.enumerate() if t.name.startswith(("distsdk-push", "distsdk-look"))]


# What goes wrong


def test_a_tag_is_needed(registry: Registry, folder: Path) -> None:
    """A digest cannot be chosen."""
    digest = Digest.of(b"")
    for reference in (f"{registry.locator('x')}@{digest}", f"{registry.locator('x')}:1@{digest}"):
        with pytest.raises(InvalidReference, match="push to a tag"):
            push(reference, "a.txt")
    assert 0 == registry.count()


@pytest.mark.parametrize(
    ("files", "more", "match"),
    [
        ((("a.txt", "nonsense"),), {}, "is not a media type"),
        (("a.txt",), {"artifact_type": "nonsense"}, "is not a media type"),
        (("a.txt",), {"config": ("a.txt", "nonsense")}, "is not a media type"),
        (("a.txt", "tree/../a.txt"), {}, "two files are named 'a.txt'"),
        (("/",), {}, "no name that can be the title"),
    ],
)
def test_what_cannot_be_is_refused(
    registry: Registry, folder: Path, files: tuple[Any, ...], more: dict[str, Any], match: str
) -> None:
    """Before anything is asked of anybody."""
    with pytest.raises(InvalidConfig, match=match):
        pushed(registry, *files, **more)
    assert 0 == registry.count()


@posix
def test_only_files_and_folders_are_read(registry: Registry, folder: Path) -> None:
    """A pipe is not waited for, in a folder neither; what is missing is an OSError, and nothing was asked for."""
    os.mkfifo(folder / "pipe")
    os.mkfifo(folder / "tree" / "pipe")
    for name in ("pipe", "tree"):
        with pytest.raises(Unsafe, match="neither a file nor a folder"):
            pushed(registry, "a.txt", name)
    with pytest.raises(Unsafe, match="neither a file nor a folder"):
        pushed(registry, config=folder / "tree")
    with pytest.raises(FileNotFoundError):
        pushed(registry, "nothing")
    assert 0 == registry.count()


@posix
def test_a_link_to_a_file_is_the_file(registry: Registry, folder: Path) -> None:
    """Under the link's name; so is one to a folder."""
    (folder / "here").symlink_to("a.txt")
    (folder / "there").symlink_to("tree")
    file, tree = manifest(registry, pushed(registry, "here", "there"))["layers"]
    assert ("here", b"hello") == (file["annotations"][TITLE], content(registry, file))
    assert "there" == tree["annotations"][TITLE]
    with tarfile.open(fileobj=io.BytesIO(content(registry, tree))) as tar:
        assert "there/run.sh" in tar.getnames()


@pytest.mark.parametrize("change", [b"other", b"longer than before", b""])
def test_a_file_that_changes_meanwhile_is_not_pushed(registry: Registry, folder: Path, change: bytes) -> None:
    """Nobody gets it under the digest that it had before, and there is no manifest."""

    def tell(event: Event) -> None:
        if isinstance(event, Planned):
            (folder / "a.txt").write_bytes(change)

    with pytest.raises((DigestMismatch, SizeMismatch)):
        pushed(registry, "a.txt", progress=tell)
    assert 0 == registry.count("PUT", "/manifests/")


def test_a_registry_that_refuses_is_told(folder: Path) -> None:
    """One that only gives, and one that asks for a login."""
    with Registry(read_only=True) as registry, pytest.raises(RegistryError, match="405"):
        pushed(registry, "a.txt")
    with Registry(auth="basic", logins={"me": "secret"}) as registry:
        with pytest.raises(Denied):
            pushed(registry, "a.txt")
        remote = distsdk.connect(
            registry.locator("data/x"), credentials=Credentials(username="me", password="secret"), hosts=Hosts()
        )
        push(f"{registry.locator('data/x')}:v1", "a.txt", remote=remote)


def test_layouts_behind_a_url_take_nothing(folder: Path) -> None:
    """The error says so."""
    with pytest.raises(Denied, match="cannot be pushed to"):
        push("memory://layout:v1", folder / "a.txt")


# Other remotes


class Memory:
    """A remote that takes what is pushed, and writes down what it was asked in which order."""

    def __init__(self) -> None:
        self.blobs: dict[Digest, bytes] = {}
        self.log: list[str] = []

    @property
    def locator(self) -> Locator:
        """What it is called."""
        return Locator.parse("memory.example/x")

    def fetch(self, object: str | Object | Digest | Descriptor, *hints: str | Hint) -> Blob:
        """Give nothing."""
        raise NotImplementedError

    def push_blob(
        self,
        source: UploadSource,
        *,
        descriptor: Descriptor | None = None,
        media_type: str = "",
        mount_from: Locator | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> Descriptor:
        """Take it."""
        assert descriptor is not None
        if isinstance(source, os.PathLike):
            with open(source, "rb") as file:  # noqa: PTH123 - whatever it is
                data = file.read()
        else:
            data = source if isinstance(source, bytes) else source.read()  # type: ignore[union-attr]
        assert descriptor.digest == Digest.of(data)
        self.blobs[descriptor.digest] = data
        self.log.append("blob")
        return descriptor

    def push_document(self, data: bytes, media_type: str, *, tag: str | None = None) -> Descriptor:
        """Take it, if all that it refers to is here."""
        for entry in (json.loads(data)["config"], *json.loads(data)["layers"]):
            assert Digest.parse(entry["digest"]) in self.blobs
        self.log.append(f"document {tag}")
        return Descriptor(media_type, Digest.of(data), len(data))

    def has(self, descriptor: Descriptor) -> bool:
        """Whether it is here."""
        assert (descriptor.media_type in DOCUMENTS) == (descriptor.media_type == OCI_MANIFEST)
        return descriptor.digest in self.blobs


def test_anything_that_takes_will_do(folder: Path) -> None:
    """The protocol is all it takes: blobs come before the document that refers to them."""
    remote = Memory()
    push(Reference.parse("memory.example/x:v1"), "a.txt", "big", "tree", remote=remote)
    assert [*["blob"] * 4, "document v1"] == remote.log


def test_a_layout_takes_it_too(folder: Path) -> None:
    """Under the same digest as a registry."""
    found = push("./layout:v1", "a.txt", "tree")
    assert found.digest == distsdk.connect("./layout").fetch("v1").digest
    with Registry() as registry:
        assert found.digest == pushed(registry, "a.txt", "tree").digest


def test_what_breaks_is_gone_on_with(registry: Registry, folder: Path) -> None:
    """A registry that is busy is asked again; one that is gone is an error, and then there is no manifest."""
    registry.fault(Status(503), path="/blobs/uploads/", times=1)
    pushed(registry, "big")
    host = registry.host
    with pytest.raises(Unreachable):
        push(f"{host.rpartition(':')[0]}:1/data/x:v1", "a.txt", remote=distsdk.connect("127.0.0.1:1/data/x"))
