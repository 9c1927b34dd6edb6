"""Archives that copy and push write: their contents, their names, and the state of the disk when writing fails."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import random
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

import distsdk
from distsdk import Credentials, Descriptor, Hosts, Retry, Store, copy, push
from distsdk.content.blob import Blob
from distsdk.errors import (
    Denied,
    DigestMismatch,
    DistError,
    InvalidConfig,
    InvalidReference,
    MalformedDocument,
    Unsafe,
    UnsupportedDocument,
)
from distsdk.layout.documents import IMAGE_NAME
from distsdk.layout.files import LocalFiles
from distsdk.layout.tar import TarFiles
from distsdk.layout.writer import ArchivePlan, new_archive
from distsdk.remotes.archive import ArchiveFetcher
from distsdk.spec import media_types as media
from distsdk.spec.descriptor import REF_NAME
from distsdk.spec.documents import Index, Manifest
from distsdk.testing import Registry, WrongBytes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distsdk.remotes.remote import Remote


PLATFORMS = ("linux/amd64", "linux/arm64")
BIG = random.Random(1).randbytes(300_000)


def layer(text: str) -> bytes:
    """The archive of one file."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        info = tarfile.TarInfo("file")
        info.size = len(text)
        tar.addfile(info, io.BytesIO(text.encode()))
    return file.getvalue()


@pytest.fixture
def source() -> Iterator[Registry]:
    """An index ``7`` of two platforms that share a layer, with a signature."""
    with Registry() as registry:
        images = [
            registry.add_image("library/x", name.replace("/", "-"), layers=[layer("base"), layer(name)], platform=name)
            for name in PLATFORMS
        ]
        index = registry.add_index("library/x", "7", manifests=images)
        registry.add_artifact("library/x", artifact_type="x/sig", files={"a": BIG}, subject=index)
        yield registry


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory."""
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path / "out")
    return tmp_path / "out"


def at(registry: Registry) -> Remote:
    """The remote for the repository."""
    return distsdk.connect(
        registry.locator("library/x"), credentials=Credentials.anonymous(), hosts=Hosts(), retry=Retry(attempts=1)
    )


def copied(source: Registry, target: str, tag: str = "7", **options: Any) -> Descriptor:  # noqa: ANN401 - as copy
    """Copy a tag."""
    return copy(f"{source.locator('library/x')}:{tag}", target, source_remote=at(source), **options)


def everything(remote: Remote, descriptor: Descriptor) -> dict[str, bytes]:
    """All that a document leads to, by digest."""
    raw = remote.fetch(descriptor).read()
    found = {str(descriptor.digest): raw}
    if descriptor.media_type in media.INDEXES:
        for child in Index.parse(raw, descriptor.media_type).manifests:
            found |= everything(remote, child)
    else:
        manifest = Manifest.parse(raw, descriptor.media_type)
        found |= {str(part.digest): remote.fetch(part).read() for part in (manifest.config, *manifest.layers)}
    return found


def members(path: Path) -> dict[str, bytes]:
    """The members of an archive, as Python's library reads them."""
    with tarfile.open(path) as tar:
        return {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr] # all are files


def names(folder: Path) -> list[str]:
    """The names in a directory."""
    return sorted(path.name for path in folder.iterdir())


def listed(path: Path) -> list[dict[str, Any]]:
    """The entries of ``manifest.json``."""
    found: list[dict[str, Any]] = json.loads(members(path)["manifest.json"])
    return found


# OCI archives


def test_copy_writes_an_oci_archive_of_all_platforms(source: Registry, folder: Path) -> None:
    """Byte for byte; with the source's tag, and its full name as containerd reads it."""
    found = copied(source, "x.tar")
    remote = distsdk.connect("x.tar")
    assert isinstance(remote.fetcher, ArchiveFetcher)
    assert everything(at(source), found) == everything(remote, found)
    assert found.digest == remote.fetch("7").digest == remote.fetch("latest").digest
    assert ["7"] == list(remote.tags())
    contents = members(folder / "x.tar")
    assert {"imageLayoutVersion": "1.0.0"} == json.loads(contents["oci-layout"])
    [entry] = json.loads(contents["index.json"])["manifests"]
    assert {
        "org.opencontainers.image.ref.name": "7",
        "io.containerd.image.name": f"{source.locator('library/x')}:7",
    } == entry["annotations"]
    blobs = {name: data for name, data in contents.items() if name.startswith("blobs/")}
    assert {name.rpartition("/")[2] for name in blobs} == {digest[7:] for digest in everything(remote, found)}
    assert all(name == f"blobs/sha256/{hashlib.sha256(data).hexdigest()}" for name, data in blobs.items())
    assert ["x.tar"] == names(folder)


def test_oci_archive_has_an_oci_index_for_a_docker_document(source: Registry, folder: Path) -> None:
    """The index precedes the document under the same tag; only the document has the image's full name."""
    source.add_image("library/x", "docker", layers=[layer("base")], media="docker")
    root = copied(source, "x.tar", tag="docker")
    assert root == distsdk.connect("./x.tar").resolve("docker")
    written = members(folder / "x.tar")
    alias, document = json.loads(written["index.json"])["manifests"]
    assert ("docker", "docker") == (alias["annotations"][REF_NAME], document["annotations"][REF_NAME])
    assert (media.OCI_INDEX, root.to_fields()) == (
        alias["mediaType"],
        {key: value for key, value in document.items() if key != "annotations"},
    )
    raw = written[f"blobs/sha256/{alias['digest'].partition(':')[2]}"]
    assert [root.to_fields()] == json.loads(raw)["manifests"]
    assert (IMAGE_NAME in alias["annotations"], IMAGE_NAME in document["annotations"]) == (False, True)
    copied(source, "again.tar", tag="docker")
    assert (folder / "x.tar").read_bytes() == (folder / "again.tar").read_bytes()


def test_an_archive_depends_on_its_contents_alone(source: Registry, folder: Path) -> None:
    """Whenever it is written, by however many workers, in whatever order blobs arrive."""
    copied(source, "./one.tar", jobs=1)
    copied(source, "./two.tar", jobs=8)
    assert (folder / "one.tar").read_bytes() == (folder / "two.tar").read_bytes()
    with tarfile.open(folder / "one.tar") as tar:
        assert {(0, 0, 0, 0o644)} == {(info.mtime, info.uid, info.gid, info.mode) for info in tar}
        found = tar.getnames()
    assert ["oci-layout", "index.json"] == found[:2]
    assert sorted(found[2:]) == found[2:]


@pytest.mark.parametrize(
    ("target", "path", "tag"), [("a.tar", "a.tar", "7"), ("a.tar:v1", "a.tar", "v1"), ("new/a.tar", "new/a.tar", "7")]
)
def test_an_archive_has_the_tag_that_is_written_or_the_sources(
    source: Registry, folder: Path, target: str, path: str, tag: str
) -> None:
    """Its full name is the source's repository with that tag; directories on the way are made."""
    found = copied(source, target)
    assert [tag] == list(distsdk.connect(path).tags())
    assert found.digest == distsdk.connect(path).fetch(tag).digest
    assert f"{source.locator('library/x')}:{tag}".encode() in members(folder / path)["index.json"]


def test_referrers_come_with_it(source: Registry, folder: Path) -> None:
    """They are listed in the index without a name, and so found."""
    found = copied(source, "x.tar", referrers=True)
    remote = distsdk.connect("x.tar")
    assert isinstance(remote.fetcher, ArchiveFetcher)
    [signature] = remote.referrers(found)
    assert "x/sig" == signature.artifact_type
    assert BIG == remote.fetch(Manifest.parse(remote.fetch(signature).read()).layers[0]).read()
    assert 2 == len(json.loads(members(folder / "x.tar")["index.json"])["manifests"])


def test_archives_layouts_and_stores_give_and_take(source: Registry) -> None:
    """From a store and from a layout to an archive, and from there to a layout."""
    store = Store("store")
    name = f"{source.locator('library/x')}:7"
    found = copy(name, store, source_remote=at(source))
    assert found == copy(name, "a.tar", source_remote=store)
    assert found == copy("a.tar:7", "./layout:9")
    assert found == copy("./layout:9", "b.tar")
    assert ["9"] == list(distsdk.connect("b.tar").tags())
    remote = distsdk.connect("b.tar")
    assert everything(at(source), found) == everything(remote, found)


def test_push_writes_an_archive(folder: Path) -> None:
    """Of an artifact; nothing can be attached to it later, and no directory is made in its place."""
    (folder / "data").write_bytes(BIG)
    pushed = push("x.tar:1", "data")
    remote = distsdk.connect("x.tar")
    assert pushed.digest == remote.fetch("1").digest
    [artifact] = Manifest.parse(remote.fetch("1").read()).layers
    assert BIG == remote.fetch(artifact).read()
    with pytest.raises(Unsafe, match="exists"):
        push("x.tar:2", "data")
    push("x.tar:2", "data", force=True)
    assert ["2"] == list(distsdk.connect("x.tar").tags())
    with pytest.raises(Denied, match="cannot add to the archive"):
        distsdk.attach("x.tar:2", "data", artifact_type="x/y")
    assert {"data", "x.tar"} == set(names(folder))


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.TAR.zst"])
def test_compressed_archives_are_refused(source: Registry, folder: Path, name: str) -> None:
    """And no directory of that name is made."""
    with pytest.raises(InvalidConfig, match=r"compressed archives are not written; name a file that ends in \.tar"):
        copied(source, f"./{name}")
    with pytest.raises(InvalidConfig, match="compressed archives"):
        push(f"./{name}", artifact_type="a/b")
    assert [] == names(folder)


def test_a_member_may_have_more_than_8_gib(folder: Path) -> None:
    """The old header has no room for such a size; readers find the next member all the same."""
    size = 8 * 1024**3 + 1
    plan = ArchivePlan({"big": size, "small": b"data"}, {})
    with new_archive(folder / "x.tar", plan, replace=False) as writer, writer.member("big"):
        pass
    files = TarFiles.read(LocalFiles(str(folder / "x.tar")))
    assert size == files.size("big")
    with contextlib.closing(files.open("small", 0, None)) as stream:
        assert b"data" == stream.read(10)
    with tarfile.open(folder / "x.tar") as tar:
        assert [("big", size), ("small", 4)] == [(info.name, info.size) for info in tar]


# What is there, and what fails


def test_a_file_is_replaced_only_by_force(source: Registry, folder: Path) -> None:
    """Whatever it is; by force it is replaced at once, with the same mode as a new file."""
    (folder / "x.tar").write_bytes(b"thesis")
    with pytest.raises(Unsafe, match="exists and is not replaced"):
        copied(source, "x.tar")
    assert b"thesis" == (folder / "x.tar").read_bytes()
    found = copied(source, "x.tar", force=True)
    assert found.digest == distsdk.connect("x.tar").fetch("7").digest
    assert ["x.tar"] == names(folder)


def test_a_file_that_appears_meanwhile_is_not_replaced(
    source: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name is taken at the end, and only if it is free then."""
    real = os.fsync

    def late(file: int) -> None:
        (folder / "x.tar").write_bytes(b"thesis")
        real(file)

    monkeypatch.setattr(os, "fsync", late)
    with pytest.raises(Unsafe, match="exists"):
        copied(source, "x.tar")
    assert b"thesis" == (folder / "x.tar").read_bytes()
    assert ["x.tar"] == names(folder)


@pytest.mark.parametrize("docker", [False, True])
def test_a_copy_that_fails_leaves_nothing_or_the_old_archive(source: Registry, folder: Path, docker: bool) -> None:
    """Wrong bytes of a layer: no archive, and no unfinished file."""
    (folder / "old.tar").write_bytes(b"old")
    source.fault(WrongBytes())
    for target, force in (("x.tar", False), ("old.tar", True)):
        with pytest.raises(DistError):
            copied(source, target, force=force, docker=docker)
    assert ["old.tar"] == names(folder)
    assert b"old" == (folder / "old.tar").read_bytes()


def test_bytes_are_held_against_their_digest_when_they_are_written(
    source: Registry, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the source is: one byte too many, too few, or another one ends it."""
    found = at(source).fetch("7").descriptor
    monkeypatch.setattr(Blob, "stream", lambda *_, **__: iter([b"x" * 20_000]))
    with pytest.raises(DistError):
        copied(source, "x.tar")
    assert found.size
    assert [] == names(folder)


def test_an_interrupted_copy_leaves_nothing(source: Registry, folder: Path) -> None:
    """Ctrl-C in the middle of a blob."""

    def interrupt(_: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copied(source, "x.tar", progress=interrupt)
    assert [] == names(folder)


# Docker's archives


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_docker_writes_an_image_as_docker_load_takes_it(source: Registry, folder: Path, kind: Any) -> None:  # noqa: ANN401 - a literal
    """Its list, config and layers by their digests; distsdk reads the same image from it, by its name."""
    layers = [layer("1"), gzip.compress(layer("2"), mtime=0), layer("1")]
    image = source.add_image("library/x", "one", layers=layers, platform="linux/amd64", media=kind)
    assert image.digest == copied(source, "d.tar", "one", docker=True).digest
    manifest = Manifest.parse(at(source).fetch(image).read())
    first, second, _ = (found.digest.hex for found in manifest.layers)
    assert [
        {
            "Config": f"{manifest.config.digest.hex}.json",
            "RepoTags": [f"{source.locator('library/x')}:one"],
            "Layers": [f"{first}.tar", f"{second}.tar.gz", f"{first}.tar"],
        }
    ] == listed(folder / "d.tar")
    contents = members(folder / "d.tar")
    assert "manifest.json" == next(iter(contents))
    assert 4 == len(contents)
    remote = distsdk.connect("d.tar")
    assert ["one"] == list(remote.tags())
    read = Manifest.parse(remote.fetch("one").read())
    assert manifest.config.digest == read.config.digest
    assert [found.digest for found in manifest.layers] == [found.digest for found in read.layers]
    assert layers == [remote.fetch(found).read() for found in read.layers]


def test_docker_takes_this_machines_platform_of_an_index(source: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the one that is asked for: such an archive holds one."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    images = {name: at(source).fetch(name.replace("/", "-")).digest for name in PLATFORMS}
    assert images["linux/arm64"] == copied(source, "a.tar", docker=True).digest
    assert images["linux/amd64"] == copied(source, "b.tar", docker=True, platform="linux/amd64").digest


def test_docker_needs_a_repository_for_a_tag(source: Registry, folder: Path) -> None:
    """An image out of files has none: without a tag it is written without a name."""
    copied(source, "./layout:7", "linux-amd64")
    with pytest.raises(InvalidReference, match="leave the tag out"):
        copy("./layout:7", "d.tar:7", docker=True)
    found = copy("./layout:7", "d.tar", docker=True)
    assert [[]] == [entry["RepoTags"] for entry in listed(folder / "d.tar")]
    assert found.media_type == distsdk.connect("d.tar").fetch("latest").media_type


def test_docker_refuses_what_docker_load_does_not_take(source: Registry, folder: Path) -> None:
    """Artifacts, layers of other types, referrers; and a target that is not an archive."""
    artifact = source.add_artifact("library/x", artifact_type="x/y", files={"a": b"1"})
    image = Manifest.parse(at(source).fetch("linux-amd64").read())
    strange = {**image.fields, "layers": [{**image.layers[0].to_fields(), "mediaType": "x/y"}]}
    few = {**image.fields, "layers": [image.layers[0].to_fields()]}
    for tag, fields in (("strange", strange), ("few", few)):
        source.add_manifest("library/x", fields, media.OCI_MANIFEST, tags=[tag])
    with pytest.raises(UnsupportedDocument, match="docker load takes images only"):
        copy(f"{source.locator('library/x')}@{artifact.digest}", "x.tar", source_remote=at(source), docker=True)
    with pytest.raises(UnsupportedDocument, match="a layer of type x/y"):
        copied(source, "x.tar", "strange", docker=True)
    with pytest.raises(MalformedDocument, match="has 1 layers, and its config lists 2"):
        copied(source, "x.tar", "few", docker=True)
    with pytest.raises(InvalidConfig, match="leave referrers out"):
        copied(source, "x.tar", docker=True, referrers=True)
    with pytest.raises(InvalidConfig, match=r"name a file that ends in \.tar"):
        copied(source, "./layout:7", docker=True)
    assert [] == names(folder)


def test_a_target_with_another_digest_is_refused(source: Registry, folder: Path) -> None:
    """As for any target."""
    with pytest.raises(DigestMismatch):
        copied(source, f"./x.tar@sha256:{'0' * 64}")
    assert [] == names(folder)


# Names


@pytest.mark.parametrize(
    ("text", "path", "tag"),
    [
        ("x.tar", "./x.tar", "latest"),
        ("x.tar:7", "./x.tar", "7"),
        ("out/X_y.tar:7", "./out/X_y.tar", "7"),
        (f"x.tar@sha256:{'0' * 64}", "./x.tar", None),
    ],
)
def test_a_name_without_a_host_that_ends_in_tar_is_a_path(text: str, path: str, tag: str | None) -> None:
    """For every command; with a host it is a repository, and its familiar form keeps the host."""
    reference = distsdk.Reference.parse(text)
    assert (path, tag) == (str(reference.locator), reference.tag)
    assert reference == distsdk.Reference.parse(str(reference))
    assert "./x.tar" == str(distsdk.Locator.parse("x.tar"))


@pytest.mark.parametrize(
    "name", ["docker.io/library/x.tar", "docker.io/org/x.tar", "localhost:5000/x.tar", "ghcr.io/a/x.tar"]
)
def test_a_name_with_a_host_that_ends_in_tar_is_a_repository(name: str) -> None:
    """The shortest form that is read back as the same keeps the host."""
    locator = distsdk.Locator.parse(name)
    assert not locator.names_files
    assert name == str(locator) == locator.familiar
    assert locator == distsdk.Locator.parse(locator.familiar)


# Nothing to push


def test_nothing_to_push_is_refused(source: Registry, folder: Path) -> None:
    """The tag of an image stays; an artifact without files is pushed when that is what was asked for."""
    before = at(source).fetch("7").digest
    name = f"{source.locator('library/x')}:7"
    with pytest.raises(InvalidConfig, match="nothing to push to"):
        push(name, remote=at(source))
    assert before == at(source).fetch("7").digest
    (folder / "config").write_text("{}")
    options: list[dict[str, Any]] = [{"artifact_type": "a/b"}, {"config": "config"}, {"annotations": {"a": "b"}}]
    for option in options:
        assert push(name, remote=at(source), **option).digest == at(source).fetch("7").digest
