"""Push, attach and copy against the live stack: what oras-py and skopeo make of it, and we of what oras-py pushed."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
from typing import TYPE_CHECKING, Any

import pytest
from inside import CDN, REDIS, REGISTRY, STATE, document, fetched, raw, run, sha256sum, skopeo
from oras.client import OrasClient

import distsdk
from distsdk.spec.media_types import INDEXES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from inside import Log

#: An open registry, without nginx in front of it and with.
OPEN, MIRROR = "localhost:5000", "mirror.example"
BIG = random.Random(8).randbytes(3_000_000)


@pytest.fixture
def name() -> Iterator[str]:
    """A repository of one's own, that is gone afterwards."""
    found = f"written/{os.getpid()}-{os.urandom(4).hex()}"
    yield found
    storage = STATE / "storage/docker/registry/v2/repositories"
    for repository in (found, f"{found}-copied"):
        shutil.rmtree(storage / repository, ignore_errors=True)
    with contextlib.suppress(OSError):
        (storage / "written").rmdir()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with files and a folder."""
    work = tmp_path / "work"
    (work / "tree" / "sub").mkdir(parents=True)
    (work / "a.txt").write_bytes(b"hello")
    (work / "big.bin").write_bytes(BIG)
    (work / "tree" / "sub" / "x").write_bytes(b"x" * 100_000)
    (work / "tree" / "run").write_bytes(b"#!/bin/sh\n")
    (work / "tree" / "run").chmod(0o755)
    monkeypatch.chdir(work)
    return work


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def written(*arguments: str | Path) -> str:
    """What a command writes that succeeds; off a terminal it says nothing."""
    done = run(*arguments)
    assert (0, b"") == (done.returncode, done.stderr)
    return done.stdout.decode().strip()


# oras-py and skopeo


def test_oras_pulls_what_we_push(name: str, folder: Path, tmp_path: Path) -> None:
    """Files as they are, a folder unpacked; skopeo copies the same bytes, and names the same digest."""
    reference = f"{OPEN}/{name}:1"
    digest = written("push", reference, "a.txt:text/plain", "big.bin", "tree", "--artifact-type", "application/x.test")
    out = tmp_path / "out"
    out.mkdir()
    OrasClient(insecure=True).pull(target=reference, outdir=str(out))
    assert files(folder) == files(out)
    assert (out / "tree/run").stat().st_mode & 0o100
    text = raw("1", f"{OPEN}/{name}")
    assert digest == sha256sum(text)
    skopeo(
        "copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", f"docker://{reference}", f"dir:{tmp_path}/dir"
    )
    assert text == (tmp_path / "dir/manifest.json").read_bytes()
    assert BIG in files(tmp_path / "dir").values()
    assert "application/x.test" == json.loads(text)["artifactType"]


def test_we_read_what_oras_pushes(name: str, folder: Path) -> None:
    """The bytes of each file, by its title; and what it pushed, once copied, oras pulls again."""
    reference = f"{OPEN}/{name}:1"
    client = OrasClient(insecure=True)
    client.push(target=reference, files=["a.txt", "big.bin", "tree"])
    remote = distsdk.connect(f"{OPEN}/{name}")
    manifest = distsdk.Manifest.parse(remote.fetch("1").read())
    titles = {layer.annotations["org.opencontainers.image.title"]: layer for layer in manifest.layers}
    assert {"a.txt", "big.bin", "tree"} == titles.keys()
    for title in ("a.txt", "big.bin"):
        assert (folder / title).read_bytes() == fetched(f"{OPEN}/{name}@{titles[title].digest}")
    # An archive is a layer like any other: its files are those of the folder.
    taken = folder.parent / "taken"
    taken.mkdir()
    with remote.fetch(titles["tree"]).open() as archive:
        distsdk.apply(taken, archive)
    assert files(folder / "tree") == files(taken / "tree")
    assert sha256sum(raw("1", f"{OPEN}/{name}")) == written("copy", reference, f"{OPEN}/{name}-copied:1")
    out = folder.parent / "out"
    out.mkdir()
    client.pull(target=f"{OPEN}/{name}-copied:1", outdir=str(out))
    assert files(folder) == files(out)


def test_the_same_files_are_pushed_once(name: str, folder: Path, log: Log) -> None:
    """The digest is the same again, and no upload begins."""
    words = ("a.txt", "big.bin", "tree")
    first = written("push", f"{MIRROR}/{name}:1", *words)
    before = len(uploads(log))
    assert 4 == len({entry["uri"].partition("?")[0] for entry in uploads(log) if entry["method"] == "PUT"})
    assert first == written("push", f"{MIRROR}/{name}:2", *words)
    assert before == len(uploads(log))


def uploads(log: Log) -> list[dict[str, Any]]:
    """What began, carried or ended an upload."""
    return [entry for entry in log.entries(MIRROR, "/blobs/uploads/") if entry["method"] != "HEAD"]


# Copies


def children(index: dict[str, Any]) -> list[str]:
    """The digests of an index's manifests."""
    return [entry["digest"] for entry in index["manifests"]]


def test_all_platforms_are_copied_with_what_refers_to_them(name: str, folder: Path, tmp_path: Path, log: Log) -> None:
    """From Docker Hub's stand-in: digests are equal at the other end for skopeo; the second time no blob moves."""
    own, there = f"{OPEN}/{name}", f"{MIRROR}/{name}-copied"
    digest = written("copy", "redis:7", f"{own}:7")
    assert sha256sum(raw("7")) == digest
    sbom = written("attach", f"{own}:7", "a.txt", "--artifact-type", "application/spdx+json")
    platform = ("--platform", "linux/arm64")
    part = written("attach", f"{own}:7", "big.bin", "--artifact-type", "application/x.note", *platform)
    signature = written("attach", f"{own}@{sbom}", "a.txt", "--artifact-type", "application/x.signature")

    assert digest == written("copy", f"{own}:7", f"{there}:7", "--referrers")
    assert raw("7") == raw("7", there)
    for child in children(document("7")):
        assert raw(child) == raw(child, there)
    for referrer in (sbom, part, signature):
        assert referrer == sha256sum(raw(referrer, there))
    tree = json.loads(written("referrers", f"{there}:7", "--json"))
    assert [(sbom, [signature])] == [
        (entry["digest"], [inner["digest"] for inner in entry["referrers"]]) for entry in tree["referrers"]
    ]
    assert part in written("referrers", f"{there}:7", *platform)
    quiet = ("copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", "--all")
    skopeo(*quiet, f"docker://{REDIS}:7", f"dir:{tmp_path}/expected")
    skopeo(*quiet, f"docker://{there}:7", f"dir:{tmp_path}/got")
    assert files(tmp_path / "expected") == files(tmp_path / "got")

    before = len(uploads(log))
    assert digest == written("copy", f"{own}:7", f"{there}:7", "--referrers")
    assert before == len(uploads(log))


def test_a_copy_of_what_is_there_asks_for_no_blob(name: str, log: Log) -> None:
    """Neither of the source, whose CDN sees nothing, nor of the target; between two tags it is one document."""
    there = f"{MIRROR}/{name}"
    digest = written("copy", "redis:7", f"{there}:7")
    moved = len(log.entries(CDN)), len(uploads(log))
    assert all(moved)
    assert digest == written("copy", "redis:7", f"{there}:7") == written("copy", f"{there}:7", f"{there}:again")
    assert moved == (len(log.entries(CDN)), len(uploads(log)))
    assert [] == [e for e in log.entries(REGISTRY, "/blobs/") if e["method"] == "GET"][moved[0] :]


def test_within_one_registry_blobs_are_mounted(name: str, log: Log) -> None:
    """docker-registry lets one repository have the blobs of another, and no byte of them is read."""
    there = f"{MIRROR}/{name}"
    written("copy", "redis:7-oci", f"{there}:1")
    read = len([entry for entry in log.entries(MIRROR, "/blobs/") if entry["method"] == "GET"])
    before = len(uploads(log))
    assert sha256sum(raw("7-oci")) == written("copy", f"{there}:1", f"{there}-copied:1")
    mounts = uploads(log)[before:]
    assert {"POST"} == {entry["method"] for entry in mounts}
    assert {201} == {entry["status"] for entry in mounts}
    assert all("mount=sha256" in entry["uri"] for entry in mounts)
    assert read == len([entry for entry in log.entries(MIRROR, "/blobs/") if entry["method"] == "GET"])
    assert raw("7-oci") == raw("1", f"{there}-copied")


def test_dockers_documents_are_copied_as_they_are(name: str, tmp_path: Path) -> None:
    """A list and a manifest of schema 2, to a layout and back, byte for byte."""
    for tag in ("latest", "7-list"):
        digest = written("copy", f"redis:{tag}", f"{tmp_path}/layout:{tag}")
        assert digest == written("copy", f"{tmp_path}/layout:{tag}", f"{OPEN}/{name}:{tag}")
        assert raw(tag) == raw(tag, f"{OPEN}/{name}")
    assert document("7-list")["mediaType"] in INDEXES


def test_skopeo_reads_the_layout_that_a_copy_writes(tmp_path: Path) -> None:
    """All platforms, byte for byte."""
    written("copy", "redis:7", f"{tmp_path}/layout:7")
    quiet = ("copy", "--quiet", "--insecure-policy", "--all")
    skopeo(*quiet, "--src-tls-verify=false", f"docker://{REDIS}:7", f"dir:{tmp_path}/expected")
    skopeo(*quiet, f"oci:{tmp_path}/layout:7", f"dir:{tmp_path}/got")
    assert files(tmp_path / "expected") == files(tmp_path / "got")


def test_what_is_deleted_is_gone(name: str, folder: Path) -> None:
    """By digest; docker-registry removes no tag alone, and that is told."""
    digest = written("push", f"{OPEN}/{name}:1", "a.txt")
    done = run("delete", "--yes", f"{OPEN}/{name}:1")
    assert (1, True) == (done.returncode, b"give the digest" in done.stderr)
    written("delete", "--yes", f"{OPEN}/{name}@{digest}")
    assert 3 == run("resolve", f"{OPEN}/{name}:1").returncode
