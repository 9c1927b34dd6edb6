"""The in-process registry beside other people's software: clients that read it, a registry that answers the same."""

from __future__ import annotations

import datetime
import gzip
import hashlib
import http.client
import io
import ipaddress
import json
import shutil
import socket
import ssl
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from distsdk.spec import media_types as media
from distsdk.testing import Registry

from ...support import HANGS, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")
needs_docker_registry = pytest.mark.skipif(
    shutil.which("docker-registry") is None, reason="docker-registry is not installed"
)


def layer(**files: bytes) -> bytes:
    """A gzip-compressed tar archive of these files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return gzip.compress(packed.getvalue(), mtime=0)


LAYERS = [layer(one=b"1" * 10_000), layer(two=b"2" * 100)]


def skopeo(*arguments: str) -> str:
    """Run skopeo and return what it prints."""
    done = subprocess.run(["skopeo", "--insecure-policy", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_skopeo
@pytest.mark.parametrize("auth", [None, "bearer"])
@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_skopeo_inspects_an_image(auth: str | None, kind: str) -> None:
    """Skopeo finds digest, tags, platform and layers, also where it has to get a token first."""
    with Registry(auth="bearer" if auth else None, page_size=2) as registry:
        image = registry.add_image(
            "library/x", "1", layers=LAYERS, platform="linux/arm64", media="oci" if kind == "oci" else "docker"
        )
        for tag in ("2", "3", "4"):
            registry.add_manifest("library/x", b"{}", media.OCI_MANIFEST, tags=[tag])
        name = f"docker://{registry.locator('library/x')}:1"
        seen = json.loads(skopeo("inspect", "--tls-verify=false", name))
        raw = skopeo("inspect", "--tls-verify=false", "--raw", name)
    assert seen["Digest"] == str(image.digest) == f"sha256:{hashlib.sha256(raw.encode()).hexdigest()}"
    assert seen["RepoTags"] == ["1", "2", "3", "4"]
    assert (seen["Architecture"], seen["Os"]) == ("arm64", "linux")
    assert seen["Layers"] == [f"sha256:{hashlib.sha256(data).hexdigest()}" for data in LAYERS]


@needs_skopeo
@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_skopeo_copies_an_index(tmp_path: Path, kind: str) -> None:
    """Skopeo, which checks every digest and diff ID it meets, copies an index with all its images."""
    family: dict[str, str] = {"oci": media.OCI_INDEX, "docker": media.DOCKER_LIST}
    with Registry() as registry:
        images = [
            registry.add_image(
                "library/x",
                layers=LAYERS[: number + 1],
                platform=platform,
                media="oci" if kind == "oci" else "docker",
            )
            for number, platform in enumerate(["linux/amd64", "linux/arm/v7"])
        ]
        index = registry.add_index("library/x", "1", manifests=images, media="oci" if kind == "oci" else "docker")
        source = f"docker://{registry.locator('library/x')}:1"
        skopeo("copy", "--all", "--src-tls-verify=false", source, f"dir:{tmp_path}/copy")
    copied = {hashlib.sha256(file.read_bytes()).hexdigest() for file in (tmp_path / "copy").iterdir()}
    assert index.media_type == family[kind]
    assert {index.digest.hex, *(image.digest.hex for image in images)} <= copied
    assert {hashlib.sha256(data).hexdigest() for data in LAYERS} <= copied


@needs_skopeo
def test_skopeo_unpacks_an_image_into_a_layout(tmp_path: Path) -> None:
    """The configuration that is written without being given is one that skopeo converts from."""
    with Registry() as registry:
        registry.add_image("library/x", "1", layers=LAYERS, media="docker")
        source = f"docker://{registry.locator('library/x')}:1"
        skopeo("copy", "--src-tls-verify=false", source, f"oci:{tmp_path}/layout:1")
    blobs = {file.name for file in (tmp_path / "layout" / "blobs" / "sha256").iterdir()}
    assert {hashlib.sha256(data).hexdigest() for data in LAYERS} <= blobs


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a self-signed certificate for 127.0.0.1 and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "server.pem"
    file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return file


@pytest.fixture
def secure(certificate: Path) -> Iterator[Registry]:
    """A registry that speaks HTTPS, with a blob of 3 MB."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    with Registry(ssl_context=context) as registry:
        registry.add_blob("x", bytes(3_000_000))
        yield registry


def test_tls_is_spoken(secure: Registry, certificate: Path) -> None:
    """A client that trusts the certificate reads as over plain HTTP."""
    connection = http.client.HTTPSConnection(
        secure.host, context=ssl.create_default_context(cafile=str(certificate)), timeout=HANGS
    )
    digest = hashlib.sha256(bytes(3_000_000)).hexdigest()
    connection.request("GET", f"/v2/x/blobs/sha256:{digest}")
    assert hashlib.sha256(connection.getresponse().read()).hexdigest() == digest
    connection.close()
    assert secure.url.startswith("https://")


def test_a_failed_handshake_stops_nobody(
    secure: Registry, certificate: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """A client that speaks no TLS, one that says nothing and one that trusts nobody hold up no other client."""
    host, port = secure.host.split(":")
    with (
        socket.create_connection((host, int(port)), timeout=HANGS),
        socket.create_connection((host, int(port))) as plain,
    ):
        plain.sendall(b"GET /v2/ HTTP/1.1\r\n\r\n")
        distrustful = http.client.HTTPSConnection(secure.host, context=ssl.create_default_context(), timeout=HANGS)
        with pytest.raises(ssl.SSLCertVerificationError):
            distrustful.request("GET", "/v2/")
        distrustful.close()
        test_tls_is_spoken(secure, certificate)
    assert capfd.readouterr().err == ""


def ask(
    host: str, method: str, path: str, headers: Mapping[str, str] | None = None, body: bytes | None = None
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Ask on a connection of its own; return status, header, and the body as far as it came."""
    connection = http.client.HTTPConnection(host, timeout=HANGS)
    try:
        connection.request(method, path, body, dict(headers or {}))
        answer = connection.getresponse()
        try:
            return answer.status, answer.headers, answer.read()
        except http.client.IncompleteRead as cut:
            # docker-registry 2.8 announces the blob's length for the short text of a 416.
            return answer.status, answer.headers, cut.partial
    finally:
        connection.close()


def push(host: str, blobs: list[bytes], manifests: list[tuple[bytes, str, str]]) -> None:
    """Push into repository ``library/x`` by the API that Docker's registry has for it."""
    for blob in blobs:
        _, headers, _ = ask(host, "POST", "/v2/library/x/blobs/uploads/")
        location = headers["Location"].partition(host)[2]
        done = ask(
            host, "PUT", f"{location}&digest=sha256:{hashlib.sha256(blob).hexdigest()}",
            {"Content-Type": media.OCTET_STREAM}, blob,
        )  # fmt: skip
        assert done[0] == 201
    for raw, media_type, name in manifests:
        assert ask(host, "PUT", f"/v2/library/x/manifests/{name}", {"Content-Type": media_type}, raw)[0] == 201


def serves(host: str) -> bool:
    """Whether a registry takes connections."""
    try:
        ask(host, "GET", "/v2/")
    except ConnectionRefusedError:
        return False
    return True


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Registry, str]]:
    """The in-process registry and the host of a real one, with the same content."""
    folder = tmp_path_factory.mktemp("docker-registry")
    with socket.create_server(("127.0.0.1", 0)) as free:
        host = f"127.0.0.1:{free.getsockname()[1]}"
    configuration = folder / "config.yml"
    configuration.write_text(
        json.dumps(  # which is YAML too
            {
                "version": 0.1,
                "log": {"level": "error", "accesslog": {"disabled": True}},
                "storage": {"filesystem": {"rootdirectory": str(folder)}},
                "http": {"addr": host},
            }
        )
    )
    with (
        Registry() as registry,
        (folder / "log").open("wb") as log,
        subprocess.Popen(["docker-registry", "serve", str(configuration)], stdout=log, stderr=log) as process,
    ):
        try:
            wait_until(lambda: serves(host))
            config = b'{"architecture":"amd64","os":"linux"}'
            blobs = [config, *LAYERS]
            descriptors = [registry.add_blob("library/x", blob) for blob in blobs]
            manifests = []
            for tag, media_type, config_type, layer_type in (
                ("oci", media.OCI_MANIFEST, media.OCI_CONFIG, media.OCI_LAYER_GZIP),
                ("docker", media.DOCKER_MANIFEST, media.DOCKER_CONFIG, media.DOCKER_LAYER_GZIP),
            ):
                fields = {
                    "schemaVersion": 2,
                    "mediaType": media_type,
                    "config": descriptors[0].to_fields() | {"mediaType": config_type},
                    "layers": [d.to_fields() | {"mediaType": layer_type} for d in descriptors[1:]],
                }
                raw = json.dumps(fields).encode()
                registry.add_manifest("library/x", raw, media_type, tags=[tag])
                manifests.append((raw, media_type, tag))
            push(host, blobs, manifests)
            yield registry, host
        finally:
            process.terminate()


OCI = {"Accept": media.OCI_MANIFEST}
DOCKER = {"Accept": media.DOCKER_MANIFEST}
BLOB = f"/v2/library/x/blobs/sha256:{hashlib.sha256(LAYERS[0]).hexdigest()}"
UNKNOWN = "sha256:" + "0" * 64
#: What is said about content, and must be the same. Dates, caching and connections may differ.
COMPARED = (
    "Accept-Ranges",
    "Content-Length",
    "Content-Range",
    "Content-Type",
    "Docker-Content-Digest",
    "Docker-Distribution-Api-Version",
    "ETag",
    "Location",
)


@needs_docker_registry
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v2/library/x/manifests/oci", OCI),
        ("/v2/library/x/manifests/docker", DOCKER),
        ("/v2/library/x/manifests/docker", {"Accept": f"{media.OCI_INDEX}, {media.DOCKER_MANIFEST};q=0.1"}),
        ("/v2/library/x/manifests/{oci}", OCI),
        ("/v2/library/x/manifests/{docker}", DOCKER),
        ("/v2/library/x/manifests/oci", DOCKER),
        ("/v2/library/x/manifests/{oci}", DOCKER),
        ("/v2/library/x/manifests/nope", OCI),
        (f"/v2/library/x/manifests/{UNKNOWN}", OCI),
        ("/v2/library/y/manifests/oci", OCI),
        (BLOB, {}),
        (f"/v2/library/x/blobs/{UNKNOWN}", {}),
        ("/v2/library/x/blobs/sha256:00", {}),
        (BLOB.replace("/x/", "/y/"), {}),
        ("/v2/library/x/blobs/{oci}", {}),
    ],
)
def test_documents_and_blobs_are_served_as_docker_registry_does(
    hosts: tuple[Registry, str], method: str, path: str, headers: dict[str, str]
) -> None:
    """Status, header and body, or the error's code, are the same for what is there and for what is not."""
    registry, host = hosts
    digests = {
        tag: ask(host, "HEAD", f"/v2/library/x/manifests/{tag}", accept)[1]["Docker-Content-Digest"]
        for tag, accept in (("oci", OCI), ("docker", DOCKER))
    }
    ours = ask(registry.host, method, path.format(**digests), headers)
    theirs = ask(host, method, path.format(**digests), headers)
    compare(ours, theirs)


@needs_docker_registry
@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("/v2/", {}),
        ("/v2/library/y/tags/list", {}),
        ("/v2/_catalog", {}),
        ("/v2/_catalog?n=1", {}),
        ("/v2/_catalog?n=0", {}),
        ("/v2/_catalog?last=library/x", {}),
        *(
            (BLOB, {"Range": f"bytes={asked}"})
            for asked in (
                "0-0",
                "0-9",
                "5-",
                "-7",
                "0-99999",
                "-99999",
                f"{len(LAYERS[0])}-",
                "99999-100000",
                "3-1",
                "x",
            )
        ),
        (BLOB, {"Range": "bytes=0-9", "If-Range": '"other"'}),
        (BLOB, {"Range": "bytes=0-9", "If-Range": f'"{BLOB.rpartition("/")[2]}"'}),
    ],
)
def test_lists_and_ranges_are_served_as_docker_registry_does(
    hosts: tuple[Registry, str], path: str, headers: dict[str, str]
) -> None:
    """Status, header and body are the same for lists, and for ranges that can and cannot be had."""
    registry, host = hosts
    compare(ask(registry.host, "GET", path, headers), ask(host, "GET", path, headers))


def compare(
    ours: tuple[int, http.client.HTTPMessage, bytes], theirs: tuple[int, http.client.HTTPMessage, bytes]
) -> None:
    """Hold two answers against each other."""
    assert ours[0] == theirs[0]
    if ours[0] < 300:
        shown = [{name: plain(name, headers.get(name)) for name in COMPARED} for _, headers, _ in (ours, theirs)]
        if "json" in (ours[1]["Content-Type"] or "") and "Docker-Content-Digest" not in ours[1]:
            assert json.loads(ours[2]) == json.loads(theirs[2])  # lists: docker-registry ends them with a line break
            shown = [{**fields, "Content-Length": ""} for fields in shown]
        else:
            assert ours[2] == theirs[2]
        assert shown[0] == shown[1]
    elif ours[0] != 416 and ours[2]:
        codes = [[error["code"] for error in json.loads(body)["errors"]] for _, _, body in (ours, theirs)]
        assert codes[0] == codes[1]
    elif theirs[1]["Content-Range"]:
        assert ours[1]["Content-Range"] == theirs[1]["Content-Range"]


def plain(name: str, value: str | None) -> str | None:
    """The value without a character set, which docker-registry names for JSON."""
    return value.partition(";")[0] if value and name == "Content-Type" else value


@needs_docker_registry
def test_tags_are_those_of_docker_registry_but_in_order(hosts: tuple[Registry, str]) -> None:
    """Docker's registry 2.8 gives tags in any order; the specification wants them sorted."""
    registry, host = hosts
    ours, theirs = (json.loads(ask(at, "GET", "/v2/library/x/tags/list")[2]) for at in (registry.host, host))
    assert ours == {"name": "library/x", "tags": ["docker", "oci"]}
    assert sorted(theirs["tags"]) == ours["tags"]


@needs_docker_registry
@pytest.mark.parametrize(
    ("method", "path", "headers", "ours", "theirs"),
    [
        # RFC 9110 12.5.1: no Accept header, and a wildcard, allow any type. docker-registry takes both for old clients.
        ("GET", "/v2/library/x/manifests/oci", {}, 200, 404),
        ("GET", "/v2/library/x/manifests/oci", {"Accept": "*/*"}, 200, 404),
        # docker-registry serves a Docker manifest by its digest whatever is accepted (by its tag it tries schema 1).
        ("GET", "/v2/library/x/manifests/{docker}", OCI, 404, 200),
        # RFC 9110 14.2: a Range is for GET alone; several in one request may be ignored; no last 0 bytes can be had.
        ("HEAD", BLOB, {"Range": "bytes=0-1"}, 200, 206),
        ("GET", BLOB, {"Range": "bytes=0-1,5-6"}, 200, 206),
        ("GET", BLOB, {"Range": "bytes=-0"}, 416, 206),
        # The specification pages tags and wants a number; docker-registry 2.8 ignores what it does not understand.
        ("GET", "/v2/_catalog?n=many", {}, 400, 200),
    ],
)
def test_where_docker_registry_is_not_followed(
    hosts: tuple[Registry, str], method: str, path: str, headers: dict[str, str], ours: int, theirs: int
) -> None:
    """The known differences, each for a reason of the specifications."""
    registry, host = hosts
    path = path.format(docker=ask(host, "HEAD", "/v2/library/x/manifests/docker", DOCKER)[1]["Docker-Content-Digest"])
    assert (ask(registry.host, method, path, headers)[0], ask(host, method, path, headers)[0]) == (ours, theirs)
