"""Layouts and archives that skopeo and umoci write, read by distsdk, and archives of distsdk, read by other tools."""

from __future__ import annotations

import json
import subprocess
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
from inside import REDIS, document, fetched, raw, refused, run, sha256sum, skopeo

import distsdk
from distsdk import Remote

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def copy(*arguments: str) -> None:
    """Copy an image by skopeo."""
    skopeo("copy", "--quiet", "--insecure-policy", *arguments)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the tests read, all of the registry's redis: a layout, the same as an archive, an archive of Docker's."""
    folder = tmp_path_factory.mktemp("made")
    source = f"docker://{REDIS}"
    copy("--all", "--preserve-digests", f"{source}:7", f"oci:{folder}/layout:7")
    copy("--all", "--preserve-digests", f"{source}:7", f"oci-archive:{folder}/archive.tar:{REDIS}:7")
    copy(f"{source}:latest", f"docker-archive:{folder}/saved.tar:{REDIS}:latest")
    return folder


def remote_of(place: Path) -> Remote:
    """Our remote for a path."""
    remote = distsdk.connect(str(place))
    return remote


def everything(remote: Remote, index: distsdk.Index) -> dict[str, bytes]:
    """All that an index leads to, by digest."""
    found: dict[str, bytes] = {}
    for entry in index.manifests:
        manifest = distsdk.Manifest.parse(remote.fetch(entry).read(), entry.media_type)
        found |= {str(part.digest): remote.fetch(part).read() for part in (entry, manifest.config, *manifest.layers)}
    return found


@pytest.mark.parametrize("place", ["layout", "archive.tar"])
def test_a_layout_gives_what_the_registry_gave(made: Path, place: str) -> None:
    """The index, each manifest, config and layer of each platform: byte for byte, and no part is missing."""
    remote = remote_of(made / place)
    assert ["7"] == list(remote.tags())
    assert raw("7") == remote.fetch("7").read() == remote.fetch("latest").read()
    parts = everything(remote, remote.index("7"))
    assert {entry["digest"] for entry in document("7")["manifests"]} <= parts.keys()
    for digest, content in parts.items():
        assert digest == sha256sum(content)
    registry = distsdk.connect(REDIS)
    for digest in list(parts)[:8]:
        assert registry.fetch(digest).read() == parts[digest]
    blobs = {f"sha256:{path.name}" for path in (made / "layout/blobs/sha256").iterdir()}
    assert blobs == parts.keys() | {str(remote.resolve("7").digest)}


def test_the_command_reads_files_as_it_reads_registries(made: Path) -> None:
    """By locator and object, and by reference; with hints; and its exit codes are the same."""
    layout, saved = made / "layout", made / "saved.tar"
    assert raw("7") == fetched(layout, "7") == fetched(f"{layout}:7") == fetched(f"{made}/archive.tar:7")
    child = fetched(layout, "7", "platform:linux/arm64")
    assert sha256sum(child).encode() == run("resolve", f"{layout}:7", "platform:linux/arm64").stdout.strip()
    layer = json.loads(child)["layers"][0]["digest"]
    assert layer == sha256sum(fetched(layout, layer)) == sha256sum(fetched(f"{layout}@{layer}"))
    assert b"7\n" == run("tags", layout).stdout
    assert b"latest\n" == run("tags", saved).stdout
    assert 3 == refused("fetch", layout, "nothing")[0]
    assert 3 == refused("fetch", made / "nothing", "7")[0]
    assert 5 == refused("fetch", layout, "7", f"mediatype:{MANIFEST}")[0]


def test_dockers_archive_has_what_skopeo_sees_in_it(made: Path) -> None:
    """The config and the uncompressed layers, by digest, size and bytes; only the manifest is written differently."""
    remote = remote_of(made / "saved.tar")
    manifest = remote.manifest("latest")
    assert manifest == remote.manifest("latest"), "its bytes are the same each time"
    seen = json.loads(skopeo("inspect", "--raw", f"docker-archive:{made}/saved.tar"))
    assert (seen["config"]["digest"], seen["config"]["size"]) == (str(manifest.config.digest), manifest.config.size)
    assert [(layer["digest"], layer["size"]) for layer in seen["layers"]] == [
        (str(layer.digest), layer.size) for layer in manifest.layers
    ]
    assert document("latest")["config"]["digest"] == str(manifest.config.digest), "the image keeps its ID"
    copy(f"docker-archive:{made}/saved.tar", f"dir:{made}/dir")
    for part in (manifest.config, *manifest.layers):
        assert (made / "dir" / part.digest.hex).read_bytes() == remote.fetch(part).read()
    assert {LAYER} == {layer.media_type for layer in manifest.layers}


def test_other_tools_take_the_manifest_that_was_made(made: Path, tmp_path: Path) -> None:
    """A layout of what distsdk reads from Docker's archive: skopeo copies it, umoci checks and unpacks each layer."""
    remote = remote_of(made / "saved.tar")
    manifest = remote.manifest("latest")
    blobs = tmp_path / "layout/blobs/sha256"
    blobs.mkdir(parents=True)
    descriptor = remote.resolve("latest")
    for part in (descriptor, manifest.config, *manifest.layers):
        remote.fetch(part).save(blobs / part.digest.hex)
    entry: dict[str, Any] = {
        **descriptor.to_fields(),
        "annotations": {"org.opencontainers.image.ref.name": "made"},
    }
    (tmp_path / "layout/index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [entry]}))
    (tmp_path / "layout/oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    copy("--preserve-digests", f"oci:{tmp_path}/layout:made", f"dir:{tmp_path}/dir")
    assert manifest.raw == (tmp_path / "dir/manifest.json").read_bytes()
    subprocess.run(
        ["umoci", "unpack", "--rootless", "--image", f"{tmp_path}/layout:made", f"{tmp_path}/bundle"],
        check=True,
        capture_output=True,
    )
    assert (tmp_path / "bundle/rootfs/usr/bin/redis-server").stat().st_size > 0


def test_dockers_archive_has_links_in_it(made: Path) -> None:
    """Skopeo writes layers twice, the second time as a link, as the oldest Docker would look for it: both are there."""
    with tarfile.open(made / "saved.tar") as tar:
        links = [member for member in tar.getmembers() if member.issym()]
        assert links
        listed = json.load(tar.extractfile("manifest.json"))  # type: ignore[arg-type] # it is there
    [image] = listed
    assert [f"{REDIS}:latest"] == image["RepoTags"]
    from distsdk.layout.files import LocalFiles
    from distsdk.layout.tar import TarFiles

    files = TarFiles.read(LocalFiles(str(made / "saved.tar")))
    assert {files.place(link.name) for link in links} <= set(image["Layers"])


def test_an_archive_that_gnu_tar_made_of_a_layout_is_one(made: Path, tmp_path: Path) -> None:
    """With a ``./`` before each name, folders, and whatever format."""
    for tar_format in ("gnu", "posix"):
        archive = tmp_path / f"{tar_format}.tar"
        subprocess.run(["tar", f"--format={tar_format}", "-cf", archive, "-C", made / "layout", "."], check=True)
        assert raw("7") == remote_of(archive).fetch("7").read()


def test_what_umoci_does_to_a_layout_is_seen(made: Path, tmp_path: Path) -> None:
    """A tag that it adds, and an image that it makes, without a new remote."""
    copy(f"docker://{REDIS}:7-oci", f"oci:{tmp_path}/layout:amd64")
    remote = remote_of(tmp_path / "layout")
    before = remote.resolve("amd64")
    assert raw("7-oci") == remote.fetch("amd64").read()
    umoci = ["umoci", "config", "--image", f"{tmp_path}/layout:amd64", "--tag", "labelled", "--config.label", "a=b"]
    subprocess.run(umoci, check=True, capture_output=True)
    assert ["amd64", "labelled"] == sorted(remote.tags())
    assert before == remote.resolve("amd64") != remote.resolve("labelled")
    config = distsdk.ImageConfig.parse(remote.fetch(remote.manifest("labelled").config).read())
    assert "b" == config.labels["a"]


# Archives that distsdk writes


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The registry's redis as distsdk writes it: all platforms in an OCI archive, one for docker load."""
    folder = tmp_path_factory.mktemp("written")
    for words in (["copy", f"{REDIS}:7"], ["copy", "--docker", "--platform", "linux/amd64", f"{REDIS}:7"]):
        done = run(*words, folder / ("docker.tar" if "--docker" in words else "oci.tar"))
        assert 0 == done.returncode, done.stderr
    return folder


def test_skopeo_reads_an_oci_archive_of_ours(written: Path, tmp_path: Path) -> None:
    """All platforms, byte for byte, by the tag."""
    assert raw("7") == skopeo("inspect", "--raw", f"oci-archive:{written}/oci.tar:7")
    copy("--all", "--preserve-digests", f"oci-archive:{written}/oci.tar:7", f"oci:{tmp_path}/layout:7")
    parts = everything(remote_of(written / "oci.tar"), remote_of(written / "oci.tar").index("7"))
    for path in (tmp_path / "layout/blobs/sha256").iterdir():
        digest = f"sha256:{path.name}"
        assert path.read_bytes() == parts.get(digest, raw("7"))


@pytest.mark.parametrize("target", ["layout", "layout.tar"])
@pytest.mark.parametrize("tag", ["latest", "7-list"])
def test_skopeo_finds_docker_media_types_by_tag(tmp_path: Path, target: str, tag: str) -> None:
    """Skopeo inspects and copies a Docker manifest or manifest list that `copy` wrote; distsdk keeps its digest."""
    assert "vnd.docker" in document(tag)["mediaType"]
    place = tmp_path / target
    done = run("copy", f"{REDIS}:{tag}", f"{place}:{tag}")
    assert 0 == done.returncode, done.stderr
    transport = "oci-archive" if place.suffix else "oci"
    seen = json.loads(skopeo("inspect", "--override-arch=amd64", f"{transport}:{place}:{tag}"))
    image = document(tag)
    if "manifests" in image:
        image = document(next(m["digest"] for m in image["manifests"] if m["platform"]["architecture"] == "amd64"))
    assert [layer["digest"] for layer in image["layers"]] == seen["Layers"]
    copy("--override-arch=amd64", f"{transport}:{place}:{tag}", f"dir:{tmp_path}/dir")
    assert raw(tag) == fetched(f"{place}:{tag}")
    assert f"{tag}\n".encode() == run("tags", place).stdout


def test_umoci_unpacks_an_oci_archive_of_ours(written: Path, tmp_path: Path) -> None:
    """Once tar has unpacked it."""
    (tmp_path / "layout").mkdir()
    done = run("copy", "--platform", "linux/amd64", f"{written}/oci.tar:7", tmp_path / "amd64.tar")
    assert 0 == done.returncode, done.stderr
    subprocess.run(["tar", "-C", tmp_path / "layout", "-xf", tmp_path / "amd64.tar"], check=True)
    unpack = ["umoci", "unpack", "--rootless", "--image", f"{tmp_path}/layout:7", f"{tmp_path}/bundle"]
    subprocess.run(unpack, check=True, capture_output=True)
    assert (tmp_path / "bundle/rootfs/usr/bin/redis-server").stat().st_size > 0


def test_skopeo_reads_a_docker_archive_of_ours(written: Path, tmp_path: Path) -> None:
    """By its name; config and layers are the image's, which skopeo unpacks on the way."""
    archive = f"docker-archive:{written}/docker.tar"
    remote = remote_of(written / "docker.tar")
    manifest = remote.manifest("7")
    config = distsdk.ImageConfig.parse(remote.fetch(manifest.config).read())
    seen = json.loads(skopeo("inspect", "--raw", f"{archive}:{REDIS}:7"))
    assert str(manifest.config.digest) == seen["config"]["digest"]
    assert [str(diff_id) for diff_id in config.diff_ids] == [layer["digest"] for layer in seen["layers"]]
    assert [f"{REDIS}:7"] == json.loads(skopeo("list-tags", archive))["Tags"]
    copy(f"{archive}:{REDIS}:7", f"dir:{tmp_path}/dir")
    for diff_id in config.diff_ids:
        assert str(diff_id) == sha256sum((tmp_path / "dir" / diff_id.hex).read_bytes())
    assert fetched(f"{REDIS}@{manifest.config.digest}") == (tmp_path / "dir" / manifest.config.digest.hex).read_bytes()


def test_containerd_imports_archives_of_ours(written: Path, tmp_path: Path) -> None:
    """Both kinds, under the full name; the image of the OCI archive keeps its digest."""
    with tempfile.TemporaryDirectory(prefix="c") as short:
        socket = f"{short}/socket"
        config = Path(short, "config.toml")
        config.write_text(
            f'version = 2\nroot = "{short}/root"\nstate = "{short}/state"\n[grpc]\naddress = "{socket}"\n'
        )
        with (tmp_path / "log").open("wb") as log:
            daemon = subprocess.Popen(["containerd", "--config", config], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while subprocess.run(["ctr", "-a", socket, "version"], capture_output=True, check=False).returncode:
                assert time.monotonic() < deadline
                assert daemon.poll() is None, (tmp_path / "log").read_text()
                time.sleep(0.1)
            images = ["ctr", "-a", socket, "-n", "test", "images"]
            for name, options in (("oci.tar", ["--all-platforms"]), ("docker.tar", [])):
                importing = [*images, "import", "--no-unpack", *options, str(written / name)]
                subprocess.run(importing, check=True, capture_output=True)
                listed = subprocess.run([*images, "ls"], check=True, capture_output=True, text=True).stdout
                [line] = [line for line in listed.splitlines() if line.startswith(f"{REDIS}:7 ")]
                if name == "oci.tar":
                    assert str(remote_of(written / name).resolve("7").digest) in line
                subprocess.run([*images, "check"], check=True, capture_output=True)
        finally:
            daemon.terminate()
            daemon.wait(60)
