"""The stack itself, tried with other people's tools: what later tests take for granted holds."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from inside import Lines, blob_file, push_random

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
STATE = Path(os.environ["LIVE_STATE"])
USER = f"{os.environ['LIVE_USER']}:{os.environ['LIVE_PASSWORD']}"
IDENTITY_TOKEN = os.environ["LIVE_IDENTITY_TOKEN"]
REGISTRY = "https://registry-1.docker.io/v2"
CDN = "https://production.cloudflare.docker.com"
AUTH = "https://auth.docker.io/token?service=registry.docker.io"
BASIC = "https://basic.example/v2"
PLAIN = "http://localhost:5000/v2"
GENUINE = "sha256:a027a470aa2b9b41cc2539847a97b8a14794ebd0a4c7c5d64e390df6bde56c73"

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
ACCEPT = f"Accept: {OCI_INDEX}, {OCI_MANIFEST}, {DOCKER_LIST}, {DOCKER_MANIFEST}"
TAGS = {
    "latest": DOCKER_MANIFEST,
    "3.2.6": DOCKER_MANIFEST,
    "7": OCI_INDEX,
    "7-list": DOCKER_LIST,
    "7-oci": OCI_MANIFEST,
}


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes


def curl(url: str, *options: str) -> Answer:
    """Ask with curl; redirects are not followed unless told so, and then the last answer counts."""
    argv = ["curl", "--silent", "--show-error", "--globoff", "--include", *options, url]
    raw = subprocess.run(argv, stdout=subprocess.PIPE, check=True).stdout
    while True:
        head, _, raw = raw.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        status = int(lines[0].split()[1])
        if not ("--location" in options and 300 <= status < 400):
            break
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines[1:])}
    return Answer(status, headers, raw)


def output(*argv: str | Path) -> str:
    """Return what a tool writes to its standard output."""
    return subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout


def token(scope: str, *options: str) -> str:
    """Return a token for `scope`; with `--user` among the options, for that user."""
    return str(json.loads(curl(f"{AUTH}&scope={scope}", *options).body)["token"])


def bearer(value: str) -> tuple[str, str]:
    """Return the options that make curl send a token."""
    return ("--header", f"Authorization: Bearer {value}")


def manifest(repository: str, reference: str, *options: str) -> Answer:
    """Ask for a manifest or index in any of the four media types."""
    return curl(f"{REGISTRY}/{repository}/manifests/{reference}", "--header", ACCEPT, *options)


def document(reference: str) -> dict[str, Any]:
    """Return the manifest or index of library/redis that skopeo gets."""
    parsed: dict[str, Any] = json.loads(
        output("skopeo", "inspect", "--raw", f"docker://docker.io/library/redis:{reference}")
    )
    return parsed


def requests_to(host: str, uri: str) -> list[str]:
    """Return with which kind of credentials `uri` was asked for; nginx logs a moment after it has answered."""
    time.sleep(0.2)
    entries = [json.loads(line) for line in (STATE / "access.jsonl").read_text().splitlines()]
    return [entry["authorization"] for entry in entries if (entry["host"], entry["uri"]) == (host, uri)]


@pytest.fixture(scope="module")
def pull() -> tuple[str, str]:
    """An anonymous token for library/redis, as options for curl."""
    return bearer(token("repository:library/redis:pull"))


@pytest.fixture(scope="module")
def layers(pull: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The layers of `latest`, lowest first, as files."""
    folder = tmp_path_factory.mktemp("layers")
    paths = []
    for number, layer in enumerate(document("latest")["layers"]):
        path = folder / f"{number}.tar.gz"
        path.write_bytes(curl(f"{REGISTRY}/library/redis/blobs/{layer['digest']}", "--location", *pull).body)
        paths.append(path)
    return paths


def test_nothing_but_loopback_is_there() -> None:
    """The namespace has one interface, so nothing here can reach the real Docker Hub."""
    names = [link["ifname"] for link in json.loads(output("ip", "-json", "link")) if "UP" in link["flags"]]
    assert names == ["lo"]
    assert subprocess.run(["getent", "hosts", "docker.io"], check=False).returncode == 2


def test_challenge_names_the_token_service() -> None:
    """Without a token a pull is answered 401, and the challenge says where to get one and for what."""
    answer = manifest("library/redis", "latest")
    assert answer.status == 401
    assert answer.headers["www-authenticate"] == (
        'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/redis:pull"'
    )


@pytest.mark.parametrize(("tag", "media_type"), TAGS.items())
def test_anonymous_token_pulls_each_tag(tag: str, media_type: str, pull: tuple[str, str]) -> None:
    """With an anonymous token each tag is there, in the media type promised, and hashes to its digest."""
    answer = manifest("library/redis", tag, *pull)
    assert answer.status == 200
    assert answer.headers["content-type"] == media_type
    assert answer.headers["docker-content-digest"] == f"sha256:{hashlib.sha256(answer.body).hexdigest()}"


def base64url(data: bytes) -> str:
    """Return `data` as unpadded URL-safe base64."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(part: str) -> dict[str, Any]:
    """Return a part of a JWT as JSON."""
    parsed: dict[str, Any] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return parsed


def encode(part: object) -> str:
    """Return a part of a JWT from JSON."""
    return base64url(json.dumps(part).encode())


def changed_claims(good: str) -> str:
    """Other claims under the signature of the true ones."""
    header, claims, signature = good.split(".")
    return f"{header}.{encode(decode(claims) | {'sub': 'root'})}.{signature}"


def unsigned(good: str) -> str:
    """The same claims with the algorithm `none`."""
    return f"{encode({'typ': 'JWT', 'alg': 'none'})}.{good.split('.')[1]}."


def foreign_key(good: str) -> str:
    """The same claims, rightly signed, but by a key whose certificate nobody trusts."""
    key, certificate = STATE / "foreign.key", STATE / "foreign.pem"
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=foreign", "-days", "2"]
    subprocess.run([*request, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    der = subprocess.run(["openssl", "x509", "-in", certificate, "-outform", "DER"], check=True, capture_output=True)
    header = encode({"typ": "JWT", "alg": "RS256", "x5c": [base64.b64encode(der.stdout).decode()]})
    signed = f"{header}.{good.split('.')[1]}"
    sign = ["openssl", "dgst", "-sha256", "-sign", str(key)]
    signature = subprocess.run(sign, input=signed.encode(), check=True, capture_output=True).stdout
    return f"{signed}.{base64url(signature)}"


@pytest.mark.parametrize("forge", [changed_claims, unsigned, foreign_key])
def test_forged_token_is_refused(forge: Callable[[str], str]) -> None:
    """The registry checks claims, signature and the certificate chain of a token."""
    good = token("repository:library/redis:pull")
    assert manifest("library/redis", "latest", *bearer(good)).status == 200
    assert manifest("library/redis", "latest", *bearer(forge(good))).status == 401


def test_expired_token_is_refused(token_seconds: Callable[[int], None]) -> None:
    """A token is good until its `expires_in` is over, and not longer."""
    token_seconds(2)
    short = bearer(token("repository:library/redis:pull"))
    assert manifest("library/redis", "latest", *short).status == 200
    time.sleep(3)
    assert manifest("library/redis", "latest", *short).status == 401


def test_private_needs_the_password() -> None:
    """private/redis is for the user alone: not for an anonymous caller, not with a wrong password."""
    scope = "repository:private/redis:pull"
    assert manifest("private/redis", "7", *bearer(token(scope))).status == 401
    assert curl(f"{AUTH}&scope={scope}", "--user", "reader:wrong").status == 401
    assert manifest("private/redis", "7", *bearer(token(scope, "--user", USER))).status == 200


def test_identity_token_stands_for_the_password(tmp_path: Path) -> None:
    """A refresh token is taken in a POST (OAuth 2), from an auth.json by skopeo too; any other one is refused."""
    login = base64.b64encode(b"00000000-0000-0000-0000-000000000000:").decode()
    for identity_token, code in ((IDENTITY_TOKEN, 0), ("wrong", 1)):
        file = tmp_path / "auth.json"
        file.write_text(json.dumps({"auths": {"docker.io": {"auth": login, "identitytoken": identity_token}}}))
        inspect = ["skopeo", "inspect", "--raw", f"--authfile={file}", "docker://docker.io/private/redis:7"]
        assert code == subprocess.run(inspect, capture_output=True, check=False).returncode
    lines = [json.loads(line) for line in (STATE / "tokens.jsonl").read_text().splitlines()]
    assert [("POST", 200), ("POST", 401)] == [(line["method"], line["status"]) for line in lines[-2:]]


def test_token_is_for_its_repository_only() -> None:
    """A token for one repository does not open another; one for both opens both."""
    one = bearer(token("repository:library/redis:pull", "--user", USER))
    assert manifest("private/redis", "7", *one).status == 401
    both = bearer(token("repository:library/redis:pull&scope=repository:private/redis:pull", "--user", USER))
    assert [manifest(name, "7", *both).status for name in ("library/redis", "private/redis")] == [200, 200]


def test_what_does_not_exist() -> None:
    """As on Docker Hub: an unknown repository is 401 even with a token, an unknown tag of a known one 404."""
    assert manifest("library/nope", "latest", *bearer(token("repository:library/nope:pull"))).status == 401
    assert manifest("library/redis", "nope", *bearer(token("repository:library/redis:pull"))).status == 404


def test_nobody_may_push_to_docker_hub() -> None:
    """The token service grants no pushes, so the registry refuses to begin one."""
    both = bearer(token("repository:library/redis:pull,push", "--user", USER))
    assert curl(f"{REGISTRY}/library/redis/blobs/uploads/", "--request", "POST", *both).status == 401


def test_push_over_plain_http_is_seen(tmp_path: Path) -> None:
    """localhost:5000 takes pushes without a token; what was pushed is on the other side at once."""
    quiet = ("skopeo", "copy", "--quiet", "--insecure-policy")
    output(*quiet, "docker://docker.io/library/redis:7-oci", f"oci:{tmp_path}:x")
    output(*quiet, "--dest-tls-verify=false", f"oci:{tmp_path}:x", "docker://localhost:5000/library/pushed:x")
    answer = manifest("library/pushed", "x", *bearer(token("repository:library/pushed:pull")))
    assert answer.body == manifest("library/redis", "7-oci", *bearer(token("repository:library/redis:pull"))).body


def test_plain_http_needs_nothing() -> None:
    """localhost:5000 answers documents and blobs itself: no token, no redirect."""
    digest = document("latest")["layers"][-1]["digest"]
    answer = curl(f"{PLAIN}/library/redis/blobs/{digest}")
    assert answer.status == 200
    assert f"sha256:{hashlib.sha256(answer.body).hexdigest()}" == digest


def test_tags_and_catalog(pull: tuple[str, str]) -> None:
    """Tags can be listed with a pull token, the catalog with an anonymous token of its own."""
    tags = json.loads(curl(f"{REGISTRY}/library/redis/tags/list", *pull).body)
    assert sorted(tags["tags"]) == sorted(TAGS)
    assert curl(f"{REGISTRY}/_catalog", *pull).status == 401
    catalog = json.loads(curl(f"{REGISTRY}/_catalog", *bearer(token("registry:catalog:*"))).body)
    assert {"library/redis", "private/redis"} <= set(catalog["repositories"])


def test_index_is_404_for_who_accepts_only_schema_2(pull: tuple[str, str]) -> None:
    """The tag `7` with a lone schema 2 Accept is 404, as on today's Docker Hub."""
    answer = curl(f"{REGISTRY}/library/redis/manifests/7", "--header", f"Accept: {DOCKER_MANIFEST}", *pull)
    assert answer.status == 404


# Blobs and the CDN


@pytest.fixture(scope="module")
def layer() -> dict[str, Any]:
    """The descriptor of a layer of `latest`, some hundred kilobytes or more."""
    found: dict[str, Any] = document("latest")["layers"][0]
    return found


def locate(layer: dict[str, Any], pull: tuple[str, str]) -> str:
    """Return the CDN's URL of a layer."""
    return curl(f"{REGISTRY}/library/redis/blobs/{layer['digest']}", *pull).headers["location"]


def test_blob_is_redirected_to_the_cdn(layer: dict[str, Any], pull: tuple[str, str]) -> None:
    """A blob is answered 307 with a signed URL of the CDN, which differs each time; HEAD likewise."""
    url = f"{REGISTRY}/library/redis/blobs/{layer['digest']}"
    answers = [curl(url, *pull), curl(url, *pull), curl(url, "--head", *pull)]
    assert [answer.status for answer in answers] == [307, 307, 307]
    signed = re.compile(re.escape(f"{CDN}/registry-v2/docker/") + r".*/data\?X-Amz-.*&X-Amz-Signature=[0-9a-f]{64}")
    assert all(signed.fullmatch(answer.headers["location"]) for answer in answers)
    assert len({answer.headers["location"] for answer in answers}) == 3


def test_cdn_refuses_credentials(layer: dict[str, Any], pull: tuple[str, str]) -> None:
    """A signed URL and an Authorization header together are 400 InvalidArgument, as on S3."""
    url = locate(layer, pull)
    for credentials in (pull, ("--user", "a:b")):
        answer = curl(url, *credentials)
        assert answer.status == 400
        assert b"<Code>InvalidArgument</Code>" in answer.body
    assert curl(url).status == 200
    assert requests_to("production.cloudflare.docker.com", url.removeprefix(CDN)) == ["Bearer", "Basic", ""]


def test_cdn_refuses_what_is_not_signed(layer: dict[str, Any], pull: tuple[str, str]) -> None:
    """Without the signature the CDN answers 403, and 404 for what is not a blob."""
    assert curl(locate(layer, pull).partition("?")[0]).status == 403
    assert curl(f"{CDN}/registry-v2/docker/registry/v2/repositories/library/redis/_manifests").status == 404


def test_cdn_serves_ranges(layer: dict[str, Any], pull: tuple[str, str]) -> None:
    """Closed, open and suffix ranges are answered 206 with those bytes; one past the end is 416."""
    url, size = locate(layer, pull), layer["size"]
    whole = curl(url)
    assert (whole.status, whole.headers["accept-ranges"], len(whole.body)) == (200, "bytes", size)
    ranges = (("0-0", 0, 1), ("1000-1999", 1000, 2000), ("1000-", 1000, size), ("-10", size - 10, size))
    for asked, start, stop in ranges:
        answer = curl(url, "--range", asked)
        assert answer.status == 206
        assert answer.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
        assert answer.body == whole.body[start:stop]
    assert curl(url, "--range", f"{size}-").status == 416


# The hosts for credentials, mirrors and bad connections


def test_basic_registry_wants_the_password_itself() -> None:
    """basic.example has no token service: it challenges with Basic and takes the one login, as skopeo finds too."""
    url = f"{BASIC}/library/redis/manifests/latest"
    answer = curl(url)
    assert (401, 'Basic realm="basic.example"') == (answer.status, answer.headers["www-authenticate"])
    assert 401 == curl(url, "--user", "reader:wrong").status
    body = curl(url, "--user", USER, "--header", ACCEPT).body
    there = output("skopeo", "inspect", "--raw", f"--creds={USER}", "docker://basic.example/library/redis:latest")
    assert there.encode() == body == curl(f"{PLAIN}/library/redis/manifests/latest", "--header", ACCEPT).body


def test_mirror_has_everything_and_is_logged(pull: tuple[str, str]) -> None:
    """mirror.example serves what Docker Hub's stand-in has, without tokens, and the log keeps `ns=`."""
    digest = document("latest")["layers"][0]["digest"]
    upstream = manifest("library/redis", "latest", *pull).body
    path = "/v2/library/redis/manifests/latest?ns=docker.io"
    assert upstream == curl(f"https://mirror.example{path}", "--header", ACCEPT).body
    assert [""] == requests_to("mirror.example", path)
    blob = curl(f"https://mirror.example/v2/library/redis/blobs/{digest}?ns=docker.io")
    assert (200, digest) == (blob.status, f"sha256:{hashlib.sha256(blob.body).hexdigest()}")


def test_mirror_has_a_port_that_fails_and_one_that_is_closed() -> None:
    """On port 8443 the mirror answers 503 to everything; on 9443 nobody listens (curl's exit code 7)."""
    assert 503 == curl("https://mirror.example:8443/v2/library/redis/manifests/latest").status
    closed = ["curl", "--silent", "https://mirror.example:9443/v2/"]
    assert 7 == subprocess.run(closed, check=False).returncode


def test_mutual_wants_a_certificate() -> None:
    """mutual.example serves who shows a certificate of the run's client authority, and no other one."""
    url = "https://mutual.example/v2/library/redis/tags/list"
    assert 400 == curl(url).status
    foreign = ("--cert", str(STATE / "tls/tls.pem"), "--key", str(STATE / "tls/tls.key"))
    assert 400 == curl(url, *foreign).status
    known = ("--cert", str(STATE / "tls/client.pem"), "--key", str(STATE / "tls/client.key"))
    assert sorted(TAGS) == sorted(json.loads(curl(url, *known).body)["tags"])


@pytest.fixture(scope="module")
def random_blob() -> str:
    """The digest of a blob of 12 MB."""
    return push_random(12_000_000)


def seconds(url: str, *options: str) -> float:
    """Return how long curl takes for a whole answer."""
    return float(output("curl", "--silent", "--fail", "-o", "/dev/null", "-w", "%{time_total}", *options, url))


@pytest.mark.parametrize("host", ["https://slow.example", "http://127.0.0.1:5012"])
def test_slow_hosts_give_each_connection_its_rate(host: str, random_blob: str) -> None:
    """They pass some 20 MB in a second: for a whole blob, for ranges of it one after the other, for each of several."""
    path = f"/v2/library/redis/blobs/{random_blob}"
    alone = seconds(f"{host}{path}")
    assert 0.4 < alone
    ranges = [f"{first}-{first + 2_999_999}" for first in range(0, 12_000_000, 3_000_000)]
    assert 0.3 < sum(seconds(f"{host}{path}", "--range", part) for part in ranges)
    with ThreadPoolExecutor(4) as pool:
        start = time.monotonic()
        assert 4 == len(list(pool.map(lambda _: seconds(f"{host}{path}"), range(4))))
        assert time.monotonic() - start < 2.5 * alone
    assert seconds(f"https://files.example{path}") < alone / 2


@pytest.mark.parametrize(("port", "code"), [(5010, 18), (5011, 56)], ids=["politely", "by a reset"])
def test_proxy_cuts_connections(port: int, code: int, random_blob: str, cut_bytes: Callable[[int], None]) -> None:
    """The proxy ends a connection after so many bytes; a range that is shorter comes whole."""
    cut_bytes(3_000_000)
    log = Lines("connections.jsonl")
    url = f"http://127.0.0.1:{port}/v2/library/redis/blobs/{random_blob}"
    done = subprocess.run(["curl", "--silent", url], capture_output=True, check=False)
    whole = blob_file(random_blob).read_bytes()
    assert code == done.returncode
    assert len(done.stdout) < 3_000_000
    assert whole.startswith(done.stdout)
    assert whole[5_000_000:7_000_000] == curl(url, "--range", "5000000-6999999").body
    time.sleep(0.2)
    cut, answered = log.read()
    assert ({"port": port, "sent": 3_000_000, "cut": True}, False) == (cut, answered["cut"])


# Content


def test_genuine_manifest_byte_for_byte(pull: tuple[str, str]) -> None:
    """The manifest of redis 3.2.6 is what it was in January 2017, by tag and by digest; its layers are not there."""
    committed = (HERE.parent / "data" / "redis-3.2.6.manifest.json").read_bytes()
    assert f"sha256:{hashlib.sha256(committed).hexdigest()}" == GENUINE
    for repository, options in (
        ("library/redis", pull),
        ("private/redis", bearer(token("repository:private/redis:pull", "--user", USER))),
    ):
        assert [manifest(repository, name, *options).body for name in ("3.2.6", GENUINE)] == [committed, committed]
    for layer in json.loads(committed)["layers"]:
        assert curl(f"{REGISTRY}/library/redis/blobs/{layer['digest']}", *pull).status == 404


@pytest.mark.parametrize("tag", sorted(TAGS.keys() - {"3.2.6"}))
def test_everything_hashes_to_its_digest(tag: str, pull: tuple[str, str]) -> None:
    """From each tag down, every manifest, config and layer has the digest and the size that name it."""
    found = 0
    todo = [("manifests", entry) for entry in document(tag).get("manifests", [])] or [("manifests", None)]
    while todo:
        kind, entry = todo.pop()
        name = entry["digest"] if entry else tag
        body = curl(f"{REGISTRY}/library/redis/{kind}/{name}", "--location", "--header", ACCEPT, *pull).body
        if entry:
            assert (f"sha256:{hashlib.sha256(body).hexdigest()}", len(body)) == (entry["digest"], entry["size"])
        if kind == "manifests":
            parsed = json.loads(body)
            todo += [("blobs", child) for child in (parsed["config"], *parsed["layers"])]
        found += 1
    assert found == {"latest": 8, "7-oci": 8, "7": 3 * 8 + 3 * 3, "7-list": 3 * 8}[tag]


def test_index_platforms() -> None:
    """`7` holds three architectures, each followed by its attestation; `7-list` the same three without."""
    platforms = [entry["platform"] for entry in document("7")["manifests"]]
    images = [
        {"architecture": "amd64", "os": "linux"},
        {"architecture": "arm64", "os": "linux", "variant": "v8"},
        {"architecture": "arm", "os": "linux", "variant": "v7"},
    ]
    assert platforms[::2] == images
    assert platforms[1::2] == [{"architecture": "unknown", "os": "unknown"}] * 3
    assert [entry["platform"] for entry in document("7-list")["manifests"]] == images


def test_attestation_speaks_of_its_image(pull: tuple[str, str]) -> None:
    """An attestation names the image beside it, in the index and in its statement."""
    image, attestation = document("7")["manifests"][:2]
    assert attestation["annotations"]["vnd.docker.reference.digest"] == image["digest"]
    (layer,) = json.loads(manifest("library/redis", attestation["digest"], *pull).body)["layers"]
    statement = json.loads(curl(f"{REGISTRY}/library/redis/blobs/{layer['digest']}", "--location", *pull).body)
    assert f"sha256:{statement['subject'][0]['digest']['sha256']}" == image["digest"]
    assert "redis-server" in [package["name"] for package in statement["predicate"]["packages"]]


def test_layers_hold_links_and_whiteouts(layers: list[Path]) -> None:
    """Tar finds hard links, symbolic links, whiteouts of files and folders, and an opaque whiteout."""
    listings = [output("tar", "-tvzf", layer) for layer in layers]
    assert len(listings) == 6
    assert "bin/sh link to bin/busybox" in listings[0]
    assert "usr/bin/redis-server -> redis-check-rdb" in listings[2]
    names = [line.rsplit(" ", 1)[-1] for line in listings[3].splitlines()]
    whiteouts = {name for name in names if "/.wh." in name}
    assert whiteouts == {
        "etc/init.d/.wh.redis-server",
        "lib/.wh.systemd",
        "usr/bin/.wh.redis-benchmark",
        "usr/share/.wh.man",
    }
    assert "entrypoint.sh -> usr/local/bin/docker-entrypoint.sh" in listings[4]
    assert "usr/share/doc/.wh..wh..opq" in listings[5]


def test_layers_are_dated(layers: list[Path]) -> None:
    """No entry is younger than the date of the build, so that building again gives the same digests."""
    for layer in layers:
        with tarfile.open(layer) as archive:
            assert max(member.mtime for member in archive) <= 1783728000


def test_umoci_unpacks_the_image(tmp_path: Path) -> None:
    """Another tool merges the layers: what was removed is gone, what was replaced is new, the rest is there."""
    source = "docker://docker.io/library/redis:7-oci"
    output("skopeo", "copy", "--quiet", "--insecure-policy", source, f"oci:{tmp_path / 'layout'}:x")
    unpack = ["umoci", "unpack", "--image", f"{tmp_path / 'layout'}:x", str(tmp_path / "bundle")]
    subprocess.run(unpack, check=True, capture_output=True)
    rootfs = tmp_path / "bundle" / "rootfs"
    for gone in ("usr/share/man", "lib/systemd", "etc/init.d/redis-server", "usr/bin/redis-benchmark"):
        assert not (rootfs / gone).exists()
    assert [path.name for path in (rootfs / "usr/share/doc").iterdir()] == ["README"]
    assert "\nprotected-mode no\n" in (rootfs / "etc/redis/redis.conf").read_text()
    assert (rootfs / "bin/sh").samefile(rootfs / "bin/busybox")
    assert (rootfs / "usr/bin/redis-server").read_bytes()[:4] == b"\x7fELF"
    assert 'PRETTY_NAME="Debian' in (rootfs / "etc/os-release").read_text()


# The script


def test_logs_hold_no_secrets() -> None:
    """The logs say who asked for what, and by which kind of credentials, but not the credentials."""
    scope = "repository:private/redis:pull"
    secret = token(scope, "--user", USER)
    assert manifest("private/redis", "7-list", *bearer(secret)).status == 200
    assert requests_to("registry-1.docker.io", "/v2/private/redis/manifests/7-list") == ["Bearer"]
    grant = json.loads((STATE / "tokens.jsonl").read_text().splitlines()[-1])
    granted = [{"type": "repository", "name": "private/redis", "actions": ["pull"]}]
    assert grant == {
        "method": "GET",
        "account": os.environ["LIVE_USER"],
        "scope": [scope],
        "granted": granted,
        "status": 200,
    }
    basic = base64.b64encode(USER.encode()).decode()
    secret_things = (secret, basic, os.environ["LIVE_PASSWORD"], IDENTITY_TOKEN)
    for file in (*STATE.glob("*.jsonl"), *STATE.glob("*.log")):
        text = file.read_text()
        assert [needle for needle in secret_things if needle in text] == []


@contextlib.contextmanager
def stack(*command: str) -> Iterator[subprocess.Popen[str]]:
    """Run a command in a second stack inside this one; it has namespaces of its own."""
    argv = [sys.executable, str(HERE / "stack.py"), "run", "--", *command]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def processes(pattern: str) -> list[str]:
    """Return the command lines of running processes that hold `pattern`."""
    return [line for line in output("ps", "-eo", "args").splitlines() if pattern in line]


@pytest.mark.parametrize(("command", "code"), [("exit 7", 7), ("kill -9 $$", 137)])
def test_exit_code_is_the_commands(command: str, code: int) -> None:
    """The script ends as its command did; 128 + n for one that was killed by a signal."""
    with stack("sh", "-c", command) as process:
        assert process.wait() == code


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_outlives_the_script(number: signal.Signals) -> None:
    """However the script ends, its servers, its command and its mounts end with it."""
    before = processes("docker-registry serve")
    with stack("sh", "-c", 'echo "$LIVE_STATE"; exec sleep 600') as process:
        assert process.stdout
        state = Path(process.stdout.readline().strip())
        assert len(processes("docker-registry serve")) == len(before) + 4
        process.send_signal(number)
        process.wait()
    deadline = time.monotonic() + 10
    while processes("docker-registry serve") != before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert processes("docker-registry serve") == before
    assert processes("sleep 600") == []
    assert str(state) not in Path("/proc/mounts").read_text()
    if number == signal.SIGKILL:  # who is killed leaves a folder behind, and nothing else
        shutil.rmtree(state)
    assert not state.exists()
