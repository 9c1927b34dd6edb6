"""Layouts and archives keep the contract of remotes: in a folder, in a tar, and behind each kind of URL."""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import threading
import uuid
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import fsspec
import pytest

import distsdk
from distsdk import Remote
from distsdk.remotes.files import RemoteFiles
from distsdk.remotes.layout import LayoutFetcher
from distsdk.spec import media_types as media
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.reference import Locator
from distsdk.testing.suite import (
    SAMPLE,
    Content,
    DeletableSuite,
    PushableSuite,
    ReferrerListerSuite,
    RemoteSuite,
    ResolverSuite,
    TagListerSuite,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


def layout_files(content: Content) -> dict[str, bytes]:
    """The files of an OCI image layout with this content."""
    entries = [
        {**content.descriptor(digest).to_fields(), "annotations": {"org.opencontainers.image.ref.name": tag}}
        for tag, digest in content.tags.items()
    ]
    index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": entries}
    files = {f"blobs/{digest.algorithm}/{digest.hex}": raw for digest, raw in content.objects.items()}
    return {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}', "index.json": json.dumps(index).encode(), **files}


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files below a folder."""
    for name, raw in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(raw)


def tar_of(files: Mapping[str, bytes]) -> bytes:
    """An archive with these members, in this order."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, raw in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))
    return out.getvalue()


def saved() -> tuple[Content, bytes]:
    """What ``docker save`` writes of two images that share a layer, and what is to be read from that.

    The manifests are written down here as the decision record has them, and not made by the code under test.
    """
    noise = random.Random(2013).randbytes
    layers = {Digest.of(raw): raw for raw in (noise(300_288), noise(1_500_160), noise(10_240))}
    digests = list(layers)
    members: dict[str, bytes] = {}
    listed, tags, documents, blobs = [], {}, {}, dict(layers)
    for name, used in (("redis:latest", digests[:2]), ("redis:7", [digests[0], digests[2]])):
        fields = {"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": [*map(str, used)]}}
        config = json.dumps(fields).encode()
        blobs[Digest.of(config)] = config
        members[f"{Digest.of(config).hex}.json"] = config
        members |= {f"{digest.hex}/layer.tar": layers[digest] for digest in used}
        described = ",".join(
            f'{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"{digest}","size":{len(layers[digest])}}}'
            for digest in used
        )
        manifest = (
            '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",'
            '"config":{"mediaType":"application/vnd.oci.image.config.v1+json",'
            f'"digest":"{Digest.of(config)}","size":{len(config)}}},"layers":[{described}]}}'
        ).encode()
        documents[Digest.of(manifest)] = media.OCI_MANIFEST, manifest
        tags[name.partition(":")[2]] = Digest.of(manifest)
        files = [f"{digest.hex}/layer.tar" for digest in used]
        listed.append({"Config": f"{Digest.of(config).hex}.json", "RepoTags": [name], "Layers": files})
    members["manifest.json"] = json.dumps(listed).encode()
    return Content(tags, documents, blobs), tar_of(members)


FILES = layout_files(SAMPLE)
ARCHIVE = tar_of(FILES)
SAVED, DOCKER_ARCHIVE = saved()


class _Suites(RemoteSuite, ResolverSuite, TagListerSuite, ReferrerListerSuite):
    pass


# On this machine


class _Folder(_Suites, PushableSuite, DeletableSuite):
    pass


class TestFolder(_Folder):
    @pytest.fixture
    def remote(self, tmp_path: Path) -> Remote:
        """Over the path of a layout."""
        write_folder(tmp_path / "layout", FILES)
        return distsdk.connect(str(tmp_path / "layout"))


class TestFileURL(_Folder):
    @pytest.fixture
    def remote(self, tmp_path: Path) -> Remote:
        """Over the same as a URL."""
        write_folder(tmp_path / "layout", FILES)
        return distsdk.connect(f"file://{tmp_path}/layout")


class TestFolderOfAHost(_Folder):
    @pytest.fixture
    def remote(self, tmp_path: Path) -> Remote:
        """Over a host that configuration gives to a folder of layouts."""
        write_folder(tmp_path / "models/some/layout", FILES)
        (tmp_path / "certs.d/models.internal").mkdir(parents=True)
        settings = f'remote = "layout"\nurl = "{tmp_path}/models"\n'
        (tmp_path / "certs.d/models.internal/hosts.toml").write_text(settings)
        hosts = distsdk.Hosts(hosts_dir=tmp_path / "certs.d")
        return distsdk.connect("models.internal/some/layout", hosts=hosts)


class TestArchive(_Suites):
    @pytest.fixture
    def remote(self, tmp_path: Path) -> Remote:
        """Over the path of an archive, whose name tells nothing."""
        (tmp_path / "archive").write_bytes(ARCHIVE)
        return distsdk.connect(str(tmp_path / "archive"))


class TestDockerArchive(_Suites):
    @pytest.fixture
    def content(self) -> Content:
        """No index, and no name but SHA-256: an archive of Docker's has neither."""
        return SAVED

    @pytest.fixture
    def remote(self, tmp_path: Path) -> Remote:
        """Over what ``docker save`` writes."""
        (tmp_path / "saved.tar").write_bytes(DOCKER_ARCHIVE)
        return distsdk.connect(str(tmp_path / "saved.tar"))


# Behind fsspec


class TestLocalThroughFsspec(_Suites):
    @pytest.fixture
    def remote(self, tmp_path: Path) -> Remote:
        """Over fsspec's own way to the files of this machine, which `connect` does not take."""
        write_folder(tmp_path / "layout", FILES)
        url = f"file://{tmp_path}/layout"
        return Remote(LayoutFetcher(Locator.parse(url), RemoteFiles(url)))


class TestMemory(_Suites):
    @pytest.fixture
    def remote(self) -> Iterator[Remote]:
        """Over a layout in memory."""
        name = uuid.uuid4().hex
        system = fsspec.filesystem("memory")
        system.pipe({f"/{name}/{path}": raw for path, raw in FILES.items()})
        yield distsdk.connect(f"memory://{name}")
        system.rm(f"/{name}", recursive=True)


class TestArchiveInMemory(_Suites):
    @pytest.fixture
    def remote(self) -> Iterator[Remote]:
        """Over an archive in memory."""
        name = uuid.uuid4().hex
        system = fsspec.filesystem("memory")
        system.pipe(f"/{name}", ARCHIVE)
        yield distsdk.connect(f"memory://{name}")
        system.rm(f"/{name}")


class Ranges(SimpleHTTPRequestHandler):
    """The standard library's server of files, with ranges, which it does not have."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        """Send a file or a range of one."""
        path = Path(self.translate_path(self.path))
        asked = re.fullmatch(r"bytes=([0-9]+)-([0-9]+)", self.headers.get("Range", ""))
        if not path.is_file():
            self.send_error(404)
            return
        raw = path.read_bytes()
        first, last = (int(asked[1]), min(int(asked[2]), len(raw) - 1)) if asked else (0, len(raw) - 1)
        self.send_response(206 if asked else 200)
        self.send_header("Accept-Ranges", "bytes")
        if asked:
            self.send_header("Content-Range", f"bytes {first}-{last}/{len(raw)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        self.wfile.write(raw[first : last + 1])

    def send_head(self) -> None:
        """Answer HEAD; a folder is nothing here."""
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        self.send_response(200)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(path.stat().st_size))
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def web(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a web server with all three kinds of files."""
    folder = tmp_path_factory.mktemp("web")
    write_folder(folder / "layout", FILES)
    (folder / "archive.tar").write_bytes(ARCHIVE)
    (folder / "saved.tar").write_bytes(DOCKER_ARCHIVE)
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.mark.slow
class TestWeb(_Suites):
    @pytest.fixture
    def remote(self, web: str) -> Remote:
        """Over a layout on a web server."""
        return distsdk.connect(f"{web}/layout/")


@pytest.mark.slow
class TestDockerArchiveOnTheWeb(TestDockerArchive):
    @pytest.fixture
    def remote(self, web: str) -> Remote:
        """Over what ``docker save`` writes, on a web server."""
        return distsdk.connect(f"{web}/saved.tar")


S3 = """
import sys
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(*server.get_host_and_port(), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """A bucket of moto's S3 server, a process by itself, with all three kinds of files."""
    with pytest.MonkeyPatch.context() as patch, _s3() as endpoint:
        for name in [name for name in os.environ if name.startswith(("AWS_", "FSSPEC_"))]:
            patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", "someone")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "anything")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_CONFIG_FILE", os.devnull)
        patch.setenv("AWS_SHARED_CREDENTIALS_FILE", os.devnull)
        # fsspec keeps what it made for other tests, with what the environment said then.
        kind = fsspec.get_filesystem_class("s3")
        kind.clear_instance_cache()
        system = kind()
        system.mkdir("models")
        system.pipe({f"models/layout/{path}": raw for path, raw in FILES.items()})
        system.pipe({"models/archive.tar": ARCHIVE, "models/saved.tar": DOCKER_ARCHIVE})
        yield "s3://models"
        kind.clear_instance_cache()


@contextlib.contextmanager
def _s3() -> Iterator[str]:
    with subprocess.Popen(
        [sys.executable, "-c", S3], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        try:
            address = next(line for line in server.stdout if line.startswith("127.0.0.1 "))
            yield "http://{}:{}".format(*address.split())
        finally:
            server.communicate("")  # it ends with its input


@pytest.mark.slow
class TestS3(_Suites):
    @pytest.fixture
    def remote(self, bucket: str) -> Remote:
        """Over a layout in a bucket."""
        return distsdk.connect(f"{bucket}/layout")


@pytest.mark.slow
class TestArchiveOnS3(_Suites):
    @pytest.fixture
    def remote(self, bucket: str) -> Remote:
        """Over an archive in a bucket."""
        return distsdk.connect(f"{bucket}/archive.tar")


@pytest.mark.slow
def test_all_kinds_of_files_are_read_in_all_places(web: str, bucket: str, tmp_path: Path) -> None:
    """What the suites above leave out to save time gives the same bytes, also for a host that a bucket stands for."""
    (tmp_path / "models.internal").mkdir()
    (tmp_path / "models.internal/hosts.toml").write_text(f'remote = "layout"\nurl = "{bucket}/"\n')
    hosts = distsdk.Hosts(hosts_dir=tmp_path)
    for place, content in (
        (f"{web}/archive.tar", SAMPLE),
        (f"{bucket}/saved.tar", SAVED),
        ("models.internal/archive.tar", SAMPLE),
        ("models.internal/layout", SAMPLE),
    ):
        remote = distsdk.connect(place, hosts=hosts)
        assert {*content.tags} == {*remote.tags()}
        assert dict(content.objects) == {digest: remote.fetch(digest).read() for digest in content.objects}


@pytest.mark.slow
def test_a_saved_image_is_what_the_archive_holds() -> None:
    """The content that the suites expect of Docker's archive is made of it by hand: each part has its digest."""
    for digest, (_, raw) in SAVED.documents.items():
        manifest = distsdk.Manifest.parse(raw)
        assert Digest.of(raw) == digest
        for part in (manifest.config, *manifest.layers):
            assert Descriptor(part.media_type, Digest.of(SAVED.blobs[part.digest]), part.size) == part
