"""What is inside docker.io/library/redis, played by vcrpy, and two tags of it compared.

Recorded from the stand-in only, which is given the other tag for that: an image that umoci makes of the first one.
"""

from __future__ import annotations

import gzip
import io
import os
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

import distsdk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.vcr, pytest.mark.block_network]

LOCATOR = "docker.io/library/redis"
PLATFORM = "linux/amd64"
#: Where the stand-in takes pushes, and when what is pushed there was made.
PUSHED = "localhost:5000/library/redis"
MOMENT = 1783814400
CREATED = "2026-07-12T00:00:00Z"


def run(*command: str | Path) -> None:
    """Run a tool."""
    subprocess.run(command, check=True, capture_output=True)


@pytest.fixture(scope="module", autouse=True)
def tuned(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """While this is recorded there is a tag `7-tuned`: `7` with a file more, one less, and one that is another."""
    if request.config.getoption("--record-mode") in {None, "none"}:
        yield
        return
    assert "LIVE_STATE" in os.environ, "what is recorded here needs the stand-in: make cassettes"
    folder = tmp_path_factory.mktemp("tuned")
    run("skopeo", "copy", "--src-tls-verify=false", f"docker://{PUSHED}:7-oci", f"oci:{folder}/layout:7")
    run("umoci", "unpack", "--image", f"{folder}/layout:7", folder / "bundle")
    root = folder / "bundle" / "rootfs"
    with (root / "etc/redis/redis.conf").open("a") as file:
        file.write("\nmaxmemory 100mb\nmaxmemory-policy allkeys-lru\n")
    check = root / "usr/local/bin/healthcheck.sh"
    check.write_text("#!/bin/sh\nexec redis-cli ping | grep -q PONG\n")
    check.chmod(0o755)
    (root / "etc/logrotate.d/redis-server").unlink()
    for path in (
        root / "etc/redis/redis.conf",
        check,
        *(root / name for name in ("etc/redis", "etc/logrotate.d", "usr/local/bin")),
    ):
        os.utime(path, (MOMENT, MOMENT))
    made = ("--history.created", CREATED, "--history.created_by", "/bin/sh -c tune-redis --maxmemory 100mb")
    run("umoci", "repack", "--image", f"{folder}/layout:7-tuned", *made, folder / "bundle")
    said = ("--config.env", "REDIS_MAXMEMORY=100mb", "--config.label", "org.example.tuned=yes", "--no-history")
    run("umoci", "config", "--image", f"{folder}/layout:7-tuned", *said, "--created", CREATED)
    run("skopeo", "copy", "--dest-tls-verify=false", f"oci:{folder}/layout:7-tuned", f"docker://{PUSHED}:7-tuned")
    shutil.rmtree(folder)
    yield
    run("skopeo", "delete", "--tls-verify=false", f"docker://{PUSHED}:7-tuned")


def image(tag: str, folder: Path) -> distsdk.Image:
    """Return an image of which nothing is known yet."""
    return distsdk.image(f"{LOCATOR}:{tag}", platform=PLATFORM, cache=distsdk.Cache(folder))


def known(found: distsdk.Image) -> distsdk.Image:
    """Return an image whose layers were read, one after the other: what vcrpy plays and records is for one thread."""
    for layer in found.layers:
        assert layer.members
    return found


def test_index() -> None:
    """The tag is an index, whose child for a platform is the image's manifest."""
    remote = distsdk.connect(LOCATOR)
    index = remote.index("7")
    chosen = index.select(distsdk.Platform.parse(PLATFORM))
    assert chosen.digest == remote.manifest(chosen.digest).digest
    assert chosen in index.manifests


def test_file(tmp_path: Path) -> None:
    """A file is what the tar of its layer holds, and is read without the layers that have nothing to do with it."""
    found = image("7", tmp_path)
    assert 0 == found.fetched
    text = found.read_bytes("/etc/redis/redis.conf")
    entry = found.stat("/etc/redis/redis.conf")
    whole = found.layers[entry.layer].blob.read()
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(whole))) as archive:
        member = archive.extractfile("etc/redis/redis.conf")
        assert member is not None
        assert text == member.read()
    assert found.fetched < found.download_size + len(whole)


def test_tree(tmp_path: Path) -> None:
    """All files are known after each layer was read once."""
    found = known(image("7", tmp_path))
    assert {"/bin", "/etc", "/usr"} <= {entry.path for entry in found.ls()}
    assert 0 == found.cost
    assert found.fetched < found.download_size + 20 * 1024


def test_two_tags(tmp_path: Path) -> None:
    """What differs is what was done to the one to make the other."""
    found = known(image("7", tmp_path)).diff(known(image("7-tuned", tmp_path)))
    assert {
        "/etc/redis/redis.conf": "changed",
        "/etc/logrotate.d/redis-server": "removed",
        "/usr/local/bin/healthcheck.sh": "added",
    } == {change.path: change.what for change in found.files if change.how != ("mtime",)}
    assert 1 == len(found.layers.after)
    assert 0 == len(found.layers.before)
    assert {"Env.REDIS_MAXMEMORY", "Labels.org.example.tuned", "created"} == {change.name for change in found.settings}
