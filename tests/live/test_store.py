"""A store beside skopeo and umoci, which read and write the same folder, and on a small disk of its own."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
from inside import DISTSDK, REDIS, document, sha256sum, skopeo

from distsdk import Descriptor, Digest, Store, connect, pull
from distsdk.content.blob import Blob
from distsdk.content.source import Stat
from distsdk.spec.media_types import OCI_MANIFEST
from distsdk.testing import Registry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MIB = 1024 * 1024
NAME = "docker.io/library/redis:7"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store that is not there yet."""
    return Store(tmp_path / "store")


def umoci(*arguments: str | Path) -> str:
    """Return what umoci writes."""
    return subprocess.run(["umoci", *arguments], stdout=subprocess.PIPE, check=True, text=True).stdout


def copy_into(store: Store, name: str, tag: str = "7-oci") -> None:
    """Let skopeo write an image into the store's folder."""
    skopeo("copy", "--quiet", "--insecure-policy", f"docker://{REDIS}:{tag}", f"oci:{store.root}:{name}")


def read_back(store: Store, name: str, folder: Path) -> dict[str, bytes]:
    """Return what skopeo gets out of the store for a name, by digest."""
    skopeo("copy", "--quiet", "--insecure-policy", f"oci:{store.root}:{name}", f"dir:{folder}")
    found = {path.name: path.read_bytes() for path in folder.iterdir() if path.name not in {"version"}}
    return {sha256sum(data): data for data in found.values()}


def ingest_image(store: Store, name: str, tag: str = "7-oci") -> Descriptor:
    """Bring an image of the stand-in into the store, blob by blob, and name it."""
    remote = connect(REDIS)
    with store.lease():
        blob = remote.fetch(tag)
        manifest = blob.json()
        for fields in (manifest["config"], *manifest["layers"]):
            descriptor = Descriptor.from_fields(fields)
            store.ingest(remote.fetch(descriptor), expected_size=descriptor.size)
        store.ingest(blob)
        store.tag(name, blob.descriptor)
    return blob.descriptor


def digests_of(tag: str = "7-oci") -> set[str]:
    """The digests of an image's config and layers, as skopeo gets them."""
    found = document(tag)
    return {entry["digest"] for entry in (found["config"], *found["layers"])}


def check(store: Store) -> None:
    """Every blob is what its name says, by coreutils."""
    for path in (store.root / "blobs/sha256").iterdir():
        assert f"sha256:{path.name}" == sha256sum(path.read_bytes())


# Other tools read


def test_skopeo_and_umoci_read_what_we_write(store: Store, tmp_path: Path) -> None:
    """An image that was ingested and named is theirs, byte for byte, under its whole name."""
    target = ingest_image(store, NAME)
    raw = skopeo("inspect", "--raw", f"oci:{store.root}:{NAME}")
    assert store.open(target.digest).read() == raw
    assert digests_of() | {str(target.digest)} == set(read_back(store, NAME, tmp_path / "out"))
    assert [NAME] == umoci("list", "--layout", store.root).split()
    store.tag("plain", target)
    stat = json.loads(umoci("stat", "--json", "--image", f"{store.root}:plain"))
    assert len(document("7-oci")["layers"]) == sum(not entry.get("empty_layer") for entry in stat["history"])
    umoci("unpack", "--rootless", "--image", f"{store.root}:plain", tmp_path / "bundle")
    assert (tmp_path / "bundle/rootfs/etc/os-release").exists()


def test_names_that_we_take_are_names_to_skopeo(store: Store) -> None:
    """A reference with a tag, a digest or a port, and a plain word."""
    target = ingest_image(store, NAME)
    for name in ("plain", "localhost:5000/a/b:1.0", f"docker.io/library/redis:7@{target.digest}", "a/b-c_d.e:f"):
        store.tag(name, target)
        assert skopeo("inspect", "--raw", f"oci:{store.root}:{name}")


# Other tools write


def test_we_read_what_skopeo_writes(store: Store) -> None:
    """Its image is listed, its blobs are not brought again, and what it writes into our store leaves ours alone."""
    copy_into(store, NAME)
    [(name, descriptor)] = store.images().items()
    assert (NAME, OCI_MANIFEST) == (name, descriptor.media_type)
    assert sha256sum(skopeo("inspect", "--raw", f"docker://{REDIS}:7-oci")) == str(descriptor.digest)
    remote = connect(REDIS)
    before = {path: path.stat().st_ino for path in (store.root / "blobs/sha256").iterdir()}
    for fields in (document("7-oci")["config"], *document("7-oci")["layers"]):
        assert store.ingest(remote.fetch(Descriptor.from_fields(fields))).existed
    assert before == {path: path.stat().st_ino for path in (store.root / "blobs/sha256").iterdir()}
    store.tag("ours", descriptor)
    copy_into(store, "theirs", "latest")
    assert {NAME, "ours", "theirs"} == set(store.images())
    assert () == store.verify().damaged
    check(store)


def test_our_garbage_collection_leaves_theirs(store: Store, tmp_path: Path) -> None:
    """What skopeo and umoci brought is needed by what they named."""
    copy_into(store, "theirs")
    umoci("config", "--image", f"{store.root}:theirs", "--tag", "changed", "--config.user", "nobody")
    store.ingest([b"loose"], "x")
    assert [Digest.of(b"loose")] == [info.digest for info in store.gc().blobs]
    for name in ("theirs", "changed"):
        assert digests_of() & set(read_back(store, name, tmp_path / name))
    store.untag("theirs")
    umoci("rm", "--image", f"{store.root}:changed")
    store.gc()
    assert [] == list(store.blobs())


def test_umoci_gc_leaves_ours(store: Store, tmp_path: Path) -> None:
    """It removes what no image leads to, an image of ours stays whole, and so does an ingest that is not done."""
    target = ingest_image(store, NAME)
    store.ingest([b"loose"], "x")

    def broken() -> Iterator[bytes]:
        yield b"the beginning"
        raise ConnectionError

    with pytest.raises(ConnectionError):
        store.ingest(broken(), "begun")
    umoci("gc", "--layout", store.root)
    assert digests_of() | {str(target.digest)} == {str(info.digest) for info in store.blobs()}
    assert digests_of() <= set(read_back(store, NAME, tmp_path / "out"))
    assert [("begun", 13)] == [(active.key, active.offset) for active in store.active()]


def test_we_read_what_umoci_writes(store: Store, tmp_path: Path) -> None:
    """A layout that it made, tags that it sets and removes, an image that it changes."""
    umoci("init", "--layout", store.root)
    assert ({}, []) == (store.images(), list(store.blobs()))
    target = ingest_image(store, "ours")
    umoci("tag", "--image", f"{store.root}:ours", "theirs")
    images = store.images()
    assert {"ours": target.digest, "theirs": target.digest} == {name: d.digest for name, d in images.items()}
    umoci("config", "--image", f"{store.root}:theirs", "--config.user", "nobody")
    changed = store.images()["theirs"]
    assert target.digest != changed.digest
    config = Descriptor.from_fields(store.blob(changed.digest).json()["config"])
    assert "nobody" == store.blob(config.digest).json()["config"]["User"]
    store.tag("kept", changed)
    umoci("rm", "--image", f"{store.root}:theirs")
    assert {"ours", "kept"} == set(store.images())
    store.gc()
    umoci("gc", "--layout", store.root)
    for name in ("ours", "kept"):
        assert read_back(store, name, tmp_path / name)
    assert () == store.verify().damaged


def test_a_name_that_another_tool_takes_away(store: Store) -> None:
    """Other tools know nothing of our lock: a name that is set while they write may be lost, but no image is damaged.

    Its blobs are still there, and naming it again is all it takes.
    """
    target = ingest_image(store, "first")
    theirs = (store.root / "index.json").read_bytes()  # they have read it
    store.tag("second", target)
    (store.root / "index.json").write_bytes(theirs)  # and write it
    assert ["first"] == list(store.images())
    store.tag("second", target)
    assert ["first", "second"] == list(store.images())
    assert () == store.verify().damaged


def test_tools_at_the_same_time(store: Store) -> None:
    """While skopeo, umoci and we write into one store, what is there is whole, and every index that is seen is one."""
    target = ingest_image(store, "ours")
    ours: list[Exception] = []
    stop = threading.Event()

    def tag() -> None:
        number = 0
        try:
            while not stop.is_set():
                number += 1
                Store(store.root).tag(f"ours-{number % 5}", target)
        except Exception as error:  # noqa: BLE001 - there is none, below
            ours.append(error)

    thread = threading.Thread(target=tag)
    thread.start()
    try:
        for number in range(5):
            copy_into(store, f"theirs-{number}", "latest")
            umoci("tag", "--image", f"{store.root}:ours", f"umoci-{number}")
    except subprocess.CalledProcessError as error:
        # What umoci looked for was lost to skopeo, or the other way round: neither takes a lock.
        assert "umoci" in str(error) or "skopeo" in str(error)  # noqa: PT017 - it may or may not happen
    finally:
        stop.set()
        thread.join()
    assert [] == ours
    assert store.images()
    assert () == store.verify().damaged
    check(store)


# Disks


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m,mode=0777", "small", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


class Shelf:
    """A source that counts its bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.count = 0

    def open(self, offset: int, end: int | None) -> Stream:
        """Open a range."""
        return Stream(self, offset)

    def stat(self) -> Stat:
        """Tell the size."""
        return Stat(len(self.data))


class Stream:
    """What `Shelf` opens."""

    def __init__(self, shelf: Shelf, offset: int) -> None:
        self.shelf, self.offset = shelf, offset

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        data = self.shelf.data[self.offset : self.offset + min(size, 65536)]
        self.offset += len(data)
        self.shelf.count += len(data)
        return data

    def close(self) -> None:
        """Be closed."""


def fill(disk: Path, leave: int) -> Path:
    """Fill a disk but for some bytes, and return the file that does it."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize - leave))
    return ballast


def test_a_disk_that_is_full_in_the_middle(disk: Path) -> None:
    """The error names it, what came is kept, and with more room the rest comes, and only the rest."""
    data = random.Random(1).randbytes(2 * MIB)
    digest = Digest("sha256", hashlib.sha256(data).hexdigest())
    store = Store(disk / "store")
    store.ingest([b"{}"], "x")
    store.tag("x", store.blob(Digest.of(b"{}"), media_type=OCI_MANIFEST).descriptor)
    ballast = fill(disk, MIB)
    with pytest.raises(OSError, match=r"No space left on device.*\.data"):
        store.ingest(Blob(Shelf(data), digest))
    [active] = store.active()
    assert MIB // 2 < active.offset <= MIB
    assert [Digest.of(b"{}")] == [info.digest for info in store.blobs()]
    ballast.unlink()
    shelf = Shelf(data)
    assert not store.ingest(Blob(shelf, digest)).existed
    assert len(data) - active.offset == shelf.count
    assert str(digest) == sha256sum(store.path(digest).read_bytes())
    assert [] == store.active()


def test_a_disk_that_is_full_when_a_name_is_written(disk: Path) -> None:
    """The index is the old one, whole, and so is the layout for others; with room it is written."""
    store = Store(disk / "store")
    store.ingest([b"{}"], "x")
    target = store.blob(Digest.of(b"{}"), media_type=OCI_MANIFEST).descriptor
    for number in range(50):
        store.tag(f"{number}", target)
    ballast = fill(disk, 0)
    before = (store.root / "index.json").read_bytes()
    with pytest.raises(OSError, match=r"No space left on device.*index\.json"):
        store.tag("more", target)
    assert before == (store.root / "index.json").read_bytes()
    assert 50 == len(umoci("list", "--layout", store.root).split())
    assert [] == list((store.root / "ingest").glob("*.tmp"))
    store.ingest([b"{}"], expected_digest=Digest.of(b"{}"))
    ballast.unlink()
    store.tag("more", target)
    assert 51 == len(store.images())


def test_a_disk_without_room_for_anything(disk: Path) -> None:
    """A store that could not be made is made later; garbage can be removed from a disk that is full."""
    ballast = fill(disk, 0)
    store = Store(disk / "store")
    with pytest.raises(OSError, match="No space left on device"):
        store.ingest([b"{}"], "x")
    ballast.unlink()
    store.ingest([bytes(MIB)], "x")
    fill(disk, 0)
    assert MIB == store.gc().size
    store.ingest([b"now there is room"], "y")


def test_a_disk_that_is_read_only(disk: Path) -> None:
    """All that reads still reads, what is there is a known outcome, the rest names what it could not write."""
    store = Store(disk / "store")
    target = ingest_image(store, NAME)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        fresh = Store(store.root)
        assert ([NAME], []) == (list(fresh.images()), fresh.active())
        assert fresh.ingest(fresh.blob(target.digest)).existed
        assert 0 == len(fresh.verify().damaged)
        assert target.size == len(fresh.open(target.digest, verify=True).read())
        assert skopeo("inspect", "--raw", f"oci:{store.root}:{NAME}")
        for write in (
            lambda: fresh.ingest([b"new"], "x"),
            lambda: fresh.tag("y", target),
            lambda: fresh.untag(NAME),
            lambda: fresh.delete(target.digest),
            fresh.gc,
            lambda: fresh.lease().__enter__(),
        ):
            with pytest.raises(OSError, match=f"Read-only file system: .*{store.root}"):
                write()
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
    fresh.untag(NAME)
    assert fresh.gc().blobs


def test_an_image_that_umoci_collected_is_incomplete_until_the_next_pull(store: Store) -> None:
    """``umoci gc`` does not follow Docker's media types; the store names the missing content, and a pull heals."""
    with Registry() as registry:
        registry.add_image("x", "1", layers=[b"a layer"], media="docker")
        name = f"{registry.locator('x')}:1"
        image = pull(name, store)
        assert () == store.missing(image)
        umoci("gc", "--layout", store.root)
        assert 0 < len(store.missing(image))
        done = subprocess.run(
            [DISTSDK, "content", "verify", "--store", store.root], capture_output=True, text=True, check=False
        )
        assert (5, True) == (done.returncode, f"{name} is incomplete" in done.stderr)
        pull(name, store)
        assert () == store.missing(image)
    check(store)
