"""Pushing against the live stack: docker-registry behind nginx and a token service, read back with other tools."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import threading
from typing import TYPE_CHECKING

import pytest
from inside import AUTH, LOGIN, STATE, Lines, Log, blob_file, sha256sum, skopeo

import distsdk
from distsdk import Remote
from distsdk.content.protocols import Pushable
from distsdk.spec import media_types as media
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.reference import Locator

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distsdk.content.protocols import UploadSource

HOST, OPEN = "push.example", "localhost:5000"
USER, PASSWORD = LOGIN.split(":", 1)
DATA = random.Random(5).randbytes(20_000_003)
CONFIG = b'{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}'


@pytest.fixture
def name() -> Iterator[str]:
    """A repository of one's own, that is gone afterwards."""
    found = f"pushed/{os.getpid()}-{os.urandom(4).hex()}"
    yield found
    shutil.rmtree(STATE / "storage/docker/registry/v2/repositories/pushed", ignore_errors=True)


def with_login(folder: Path, name: str) -> Remote:
    """The remote behind the token service, which has to be named as the host's own before it is given the login."""
    place = folder / "certs.d" / HOST
    place.mkdir(parents=True, exist_ok=True)
    (place / "hosts.toml").write_text(f'server = "https://{HOST}"\nrealms = ["https://{AUTH}"]\n')
    remote = distsdk.connect(
        f"{HOST}/{name}",
        credentials=distsdk.Credentials(username=USER, password=PASSWORD),
        hosts=distsdk.Hosts.from_environment(hosts_dir=folder / "certs.d"),
    )
    return remote


def plainly(name: str, host: str = OPEN) -> Remote:
    """The remote that wants no login."""
    remote = distsdk.connect(f"{host}/{name}")
    return remote


def image(remote: Remote, tag: str | None, **more: object) -> Descriptor:
    """Push an image with one layer."""
    config = remote.push_blob(CONFIG, media_type=media.OCI_CONFIG)
    layer = remote.push_blob(DATA, descriptor=Descriptor(media.OCI_LAYER, Digest.of(DATA), len(DATA)))
    fields = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": config.to_fields(),
        "layers": [layer.to_fields()],
        **more,
    }
    return remote.push_document(json.dumps(fields, indent=2).encode(), media.OCI_MANIFEST, tag=tag)


def sources(folder: Path) -> dict[str, UploadSource]:
    """What the data can be pushed from, by name."""
    (folder / "data").write_bytes(DATA)
    pieces = (DATA[start : start + 1_000_001] for start in range(0, len(DATA), 1_000_001))
    return {"bytes": DATA, "path": folder / "data", "pieces": pieces}


@pytest.mark.parametrize("form", ["bytes", "path", "pieces"])
def test_a_pushed_image_is_read_by_others(tmp_path: Path, log: Log, name: str, form: str) -> None:
    """With tokens, through TLS: skopeo copies the image, curl gets the layer, coreutils knows its digest."""
    remote = with_login(tmp_path, name)
    tokens = Lines("tokens.jsonl")
    pushed = remote.push_blob(sources(tmp_path)[form])
    assert sha256sum(DATA) == str(pushed.digest)
    manifest = image(remote, "v1")
    assert DATA == blob_file(str(pushed.digest)).read_bytes()
    [granted] = [line["granted"] for line in tokens.read() if line["granted"]]
    assert [{"type": "repository", "name": name, "actions": ["pull", "push"]}] == granted
    assert {"Bearer"} == {line["authorization"] for line in log.entries(HOST) if line["status"] != 401}

    command = ("inspect", "--raw", "--creds", LOGIN, f"docker://{HOST}/{name}:v1")
    assert str(manifest.digest) == sha256sum(skopeo(*command))
    skopeo("copy", "-q", "--insecure-policy", "--src-creds", LOGIN, f"docker://{HOST}/{name}:v1", f"dir:{tmp_path}/got")
    assert DATA == (tmp_path / "got" / pushed.digest.hex).read_bytes()
    url = f"http://{OPEN}/v2/{name}/blobs/{pushed.digest}"
    assert DATA == subprocess.run(["curl", "-sf", url], stdout=subprocess.PIPE, check=True).stdout


def test_who_may_not_push_is_told(tmp_path: Path, name: str) -> None:
    """Without a login, and in a repository that is somebody else's."""
    with pytest.raises(distsdk.Denied):
        plainly(name, HOST).push_blob(b"x")
    with pytest.raises(distsdk.Denied):
        with_login(tmp_path, "library/redis").push_blob(b"x")


def test_the_login_is_not_given_to_a_token_service_that_nobody_knows(name: str) -> None:
    """The message says what to write into hosts.toml."""
    remote = distsdk.connect(f"{HOST}/{name}", credentials=distsdk.Credentials(username=USER, password=PASSWORD))
    with pytest.raises(distsdk.Denied, match=r"realms = \["):
        remote.push_blob(b"x")


def test_tokens_that_end_in_the_middle_are_renewed(tmp_path: Path, name: str) -> None:
    """Each lives a second, and the upload takes longer."""
    seconds = STATE / "token-seconds"
    before = seconds.read_text()
    seconds.write_text("1")
    try:
        remote = with_login(tmp_path, name)
        tokens = Lines("tokens.jsonl")
        gate = threading.Event()

        def slowly() -> Iterator[bytes]:
            for start in range(0, len(DATA), 5_000_000):
                yield DATA[start : start + 5_000_000]
                gate.wait(0.6)

        pushed = remote.push_blob(slowly())
        assert 2 <= len(tokens.read())
    finally:
        seconds.write_text(before)
    assert sha256sum(blob_file(str(pushed.digest)).read_bytes()) == str(pushed.digest) == sha256sum(DATA)


def test_a_blob_is_mounted(tmp_path: Path, name: str) -> None:
    """From one repository to another, with a token that is good for both; no byte is sent."""
    other = with_login(tmp_path, f"{name}/other")
    wanted = other.push_blob(DATA[1:])
    remote = with_login(tmp_path, name)
    log = Log()
    remote.push_blob(
        map(pytest.fail, ["it is read"]), descriptor=wanted, mount_from=Locator.parse(f"{HOST}/{name}/other")
    )
    assert [201] == [
        line["status"] for line in log.wait_for(4, HOST) if line["method"] == "POST" and line["status"] != 401
    ]
    assert DATA[1:] == remote.fetch(wanted.digest).read()


class Cutter:
    """Passes connections on to the open registry, and ends some after as many bytes as each is told.

    Args:
        cuts: Bytes that a connection may carry to the registry, for those that carry more than that.
    """

    def __init__(self, *cuts: int) -> None:
        self.cuts = list(cuts)
        self.sent = 0
        self._lock = threading.Lock()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.host = f"127.0.0.1:{self._server.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._server.accept()
            except OSError:
                return
            upstream = socket.create_connection(("localhost", 5000))
            threading.Thread(target=self._up, args=(client, upstream), daemon=True).start()
            threading.Thread(target=self._down, args=(upstream, client), daemon=True).start()

    def _up(self, client: socket.socket, upstream: socket.socket) -> None:
        carried = 0
        with client, upstream:
            while data := _received(client):
                with self._lock:
                    if self.cuts and carried + len(data) > self.cuts[0]:
                        data = data[: self.cuts.pop(0) - carried]
                        upstream.sendall(data)
                        self.sent += len(data)
                        break
                    self.sent += len(data)
                carried += len(data)
                upstream.sendall(data)
            for end in (upstream, client):
                with contextlib.suppress(OSError):
                    end.shutdown(socket.SHUT_RDWR)

    def _down(self, upstream: socket.socket, client: socket.socket) -> None:
        while data := _received(upstream):
            try:
                client.sendall(data)
            except OSError:
                return

    def close(self) -> None:
        """Take no more connections."""
        self._server.close()


def _received(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65536)
    except OSError:
        return b""


@pytest.mark.parametrize("form", ["bytes", "known", "path", "pieces"])
def test_an_upload_that_is_cut_three_times_ends_well(tmp_path: Path, name: str, form: str) -> None:
    """Or starts over: docker-registry 2.8 gives up an upload that was cut, whose offset is not what its URL says."""
    cutter = Cutter(6_000_000, 3_000_000, 4_000_000)
    try:
        remote = plainly(name, cutter.host)
        known = Descriptor(media.OCI_LAYER, Digest.of(DATA), len(DATA)) if form == "known" else None
        pushed = remote.push_blob(sources(tmp_path)["path" if known else form], descriptor=known)
    finally:
        cutter.close()
    assert [] == cutter.cuts
    assert Digest.of(DATA) == pushed.digest
    url = f"http://{OPEN}/v2/{name}/blobs/{pushed.digest}"
    got = subprocess.run(["curl", "-sf", url], stdout=subprocess.PIPE, check=True).stdout
    assert sha256sum(DATA) == sha256sum(got)
    assert len(DATA) <= cutter.sent <= len(DATA) + 13_000_000 + 10_000  # of headers


def test_referrers_are_listed_by_their_tag(name: str) -> None:
    """docker-registry has no API for them: the tag has the list, which skopeo reads, and two writers lose nothing."""
    remote = plainly(name)
    subject = image(remote, "v1")
    remotes = [remote, plainly(name)]
    pushed: list[Descriptor] = []

    def attach(number: int) -> None:
        note = {"artifactType": "application/x-note", "subject": subject.to_fields(), "annotations": {"n": str(number)}}
        pushed.append(image(remotes[number % 2], None, **note))

    threads = [threading.Thread(target=attach, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 6 == len(pushed)
    listed = list(remote.referrers(subject, artifact_type="application/x-note"))
    assert {one.digest for one in pushed} == {one.digest for one in listed}
    tag = str(subject.digest).replace(":", "-")
    read = json.loads(skopeo("inspect", "--raw", "--tls-verify=false", f"docker://{OPEN}/{name}:{tag}"))
    assert {str(one.digest) for one in pushed} == {entry["digest"] for entry in read["manifests"]}
    gone = pushed[0]
    remote.delete(gone.digest)
    assert gone.digest not in {one.digest for one in remote.referrers(subject)}
    assert 5 == len(list(remote.referrers(subject)))


def test_manifests_and_blobs_are_deleted(tmp_path: Path, name: str) -> None:
    """By digest, with a token for that; docker-registry removes no tag alone, and the message says what to do."""
    remote = with_login(tmp_path, name)
    manifest = image(remote, "v1")
    with pytest.raises(distsdk.RegistryError, match="give the digest"):
        remote.delete("v1")
    remote.delete(manifest.digest)
    remote.delete(Digest.of(DATA))
    for gone in ("v1", manifest, Digest.of(DATA)):
        with pytest.raises(distsdk.NotFound):
            remote.fetch(gone).read()
    # One storage for all: what the next test pushes is not to be found missing.
    plainly(name).push_blob(DATA)


def test_a_layout_that_we_wrote_is_read_by_others(tmp_path: Path) -> None:
    """It is inspected by skopeo, and listed by umoci."""
    remote = distsdk.connect(str(tmp_path / "layout"))
    assert isinstance(remote, Pushable)
    config = remote.push_blob(CONFIG, media_type=media.OCI_CONFIG)
    fields = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": config.to_fields(), "layers": []}
    pushed = remote.push_document(json.dumps(fields).encode(), media.OCI_MANIFEST, tag="v1")
    assert str(pushed.digest) == sha256sum(skopeo("inspect", "--raw", f"oci:{tmp_path}/layout:v1"))
    listed = subprocess.run(["umoci", "list", "--layout", tmp_path / "layout"], stdout=subprocess.PIPE, check=True)
    assert ["v1"] == listed.stdout.decode().split()
