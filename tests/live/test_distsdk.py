"""distsdk against the live stack: its command line and its library, held against skopeo, sha256sum and nginx's log."""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import time
from typing import TYPE_CHECKING, Any

import pytest
from inside import (
    AUTH,
    CDN,
    DISTSDK,
    REDIS,
    REGISTRY,
    STATE,
    Log,
    blob_file,
    document,
    fetched,
    raw,
    refused,
    run,
    sha256sum,
    shell,
    skopeo,
)

import distsdk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Damage = Callable[[Callable[[bytes], bytes]], dict[str, Any]]

GENUINE = "sha256:a027a470aa2b9b41cc2539847a97b8a14794ebd0a4c7c5d64e390df6bde56c73"

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
TAGS = {
    "latest": DOCKER_MANIFEST,
    "3.2.6": DOCKER_MANIFEST,
    "7": OCI_INDEX,
    "7-list": DOCKER_LIST,
    "7-oci": OCI_MANIFEST,
}


def children(tag: str) -> list[dict[str, Any]]:
    """Return the descriptors in an index; none in what is a manifest."""
    found: list[dict[str, Any]] = document(tag).get("manifests", [])
    return found


def blob_path(digest: str) -> str:
    """Return the path of a blob in the CDN's URLs."""
    return f"/registry-v2/{blob_file(digest).relative_to(STATE / 'storage')}"


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Everything that the index `7` leads to, by digest, as skopeo copies it."""
    folder = tmp_path_factory.mktemp("skopeo")
    skopeo("copy", "--quiet", "--insecure-policy", "--all", f"docker://{REDIS}:7", f"dir:{folder}")
    named = re.compile(r"([0-9a-f]{64})(\.manifest\.json)?")
    found = {f"sha256:{m[1]}": path.read_bytes() for path in folder.iterdir() if (m := named.fullmatch(path.name))}
    assert {entry["digest"] for entry in children("7")} <= found.keys()
    return found


# The walkthrough


FIRST = f"distsdk fetch {REDIS} latest mediatype:{DOCKER_MANIFEST}"
SECOND = f"distsdk fetch {REDIS} sha256:$({FIRST} | shasum -a256 | cut -d' ' -f1)"
THIRD = (
    f"distsdk fetch {REDIS} $DIGEST | jq -r '.layers[] | .digest' | xargs -n1 -P10 distsdk fetch {REDIS} > /dev/null"
)


def test_walkthrough(log: Log, layers: list[dict[str, Any]]) -> None:
    """The three lines: by tag, by the digest of what came, and every layer at once, each whole from the CDN."""
    first = shell(FIRST)
    second = shell(SECOND)
    assert raw("latest") == first == second
    assert b"" == shell(THIRD, DIGEST=sha256sum(second))
    served = log.wait_for(len(layers), CDN)
    expected = sorted((blob_path(layer["digest"]), 200, layer["size"]) for layer in layers)
    assert expected == sorted((entry["uri"].partition("?")[0], entry["status"], entry["bytes"]) for entry in served)


def test_third_line_ends_badly_when_a_layer_is_missing() -> None:
    """With the genuine manifest of 2017, whose layers are not here, the same line fails: xargs says 123."""
    with pytest.raises(subprocess.CalledProcessError) as caught:
        shell(f"{THIRD} 2> /dev/null", DIGEST=GENUINE)
    assert 123 == caught.value.returncode


def test_genuine_manifest_hashes_to_its_digest() -> None:
    """The manifest of January 2017 comes by its digest, alone and as part of a reference, and by its tag."""
    assert GENUINE == sha256sum(fetched(REDIS, GENUINE))
    assert GENUINE == sha256sum(fetched(f"redis@{GENUINE}"))
    assert GENUINE == sha256sum(fetched("redis:3.2.6", f"mediatype:{DOCKER_MANIFEST}"))


@pytest.mark.parametrize("tag", ["latest", "7"])
def test_line_that_works_then_and_now(tag: str) -> None:
    """With both manifest types and a platform one line fits a schema 2 tag of 2017 and an index of today."""
    expected = raw(children(tag)[0]["digest"] if tag == "7" else tag)
    hints = (f"mediatype:{OCI_MANIFEST}", f"mediatype:{DOCKER_MANIFEST}", "platform:linux/amd64")
    assert expected == fetched(REDIS, tag, *hints)


# Hints


@pytest.mark.parametrize(("tag", "media_type"), [("7", OCI_INDEX), ("7-oci", OCI_MANIFEST)])
def test_wrong_media_type_names_the_right_hint(tag: str, media_type: str) -> None:
    """What is there under another type is an integrity failure, and the hint that the message names fetches it."""
    code, said = refused("fetch", REDIS, tag, f"mediatype:{DOCKER_MANIFEST}")
    assert 5 == code
    assert f"{REDIS}:{tag} is {media_type}, not {DOCKER_MANIFEST}" in said
    [hint] = re.findall(r"mediatype:[^ ,]+", said)
    assert f"mediatype:{media_type}" == hint
    assert raw(tag) == fetched(REDIS, tag, hint)


def test_registry_may_lead_from_a_list_to_its_child() -> None:
    """Asked for a list as schema 2, docker-registry answers with the amd64 child: as hinted, so it is taken."""
    amd64 = children("7-list")[0]["digest"]
    assert amd64 == sha256sum(fetched(REDIS, "7-list", f"mediatype:{DOCKER_MANIFEST}"))
    code, said = refused("fetch", REDIS, "7-list", f"mediatype:{OCI_INDEX}", f"mediatype:{OCI_MANIFEST}")
    assert 5 == code
    assert f"fetch it with the hint mediatype:{DOCKER_LIST}" in said


def test_child_of_another_media_type_names_the_right_hint() -> None:
    """A platform leads to an OCI manifest where a schema 2 one was hinted: the message names the type of the child."""
    hints = (f"mediatype:{DOCKER_MANIFEST}", "platform:linux/amd64")
    code, said = refused("fetch", REDIS, "7", *hints)
    assert 5 == code
    assert said.endswith(f"fetch it with the hint mediatype:{OCI_MANIFEST}")


@pytest.mark.parametrize("tag", ["7", "7-list"])
@pytest.mark.parametrize("platform", ["linux/amd64", "linux/arm64", "linux/arm64/v8", "linux/arm/v7"])
def test_platform_picks_the_child(platform: str, tag: str) -> None:
    """A platform leads to the child of that platform, with skopeo as the judge, and to its digest when resolved."""
    system, architecture, variant = (*platform.split("/"), "")[:3]
    override = [f"--override-os={system}", f"--override-arch={architecture}", f"--override-variant={variant}"]
    config = json.loads(skopeo(*override, "inspect", "--config", f"docker://{REDIS}:{tag}"))
    child = fetched(REDIS, tag, f"platform:{platform}")
    assert config == json.loads(fetched(REDIS, json.loads(child)["config"]["digest"]))
    assert architecture == config["architecture"]
    assert f"{sha256sum(child)}\n".encode() == run("resolve", f"{REDIS}:{tag}", f"platform:{platform}").stdout


def test_platform_that_is_not_there() -> None:
    """A platform the index lacks is not found, and the message lists those it has; no attestation among them."""
    code, said = refused("fetch", REDIS, "7", "platform:linux/s390x")
    assert 3 == code
    assert re.search(r"linux/s390x: choose one of linux/amd64, linux/arm64/v8, linux/arm/v7\b", said)
    assert "unknown" not in said


# Agreement with skopeo


@pytest.mark.parametrize("repository", [REDIS, "localhost:5000/library/redis", "localhost:5000/private/redis"])
@pytest.mark.parametrize("tag", TAGS)
def test_manifests_are_those_of_skopeo(tag: str, repository: str) -> None:
    """Each tag, and each child of an index by its digest, comes byte for byte as skopeo gets it; plain HTTP too."""
    names = [tag, *(entry["digest"] for entry in json.loads(raw(tag, repository)).get("manifests", []))]
    assert {"7": 7, "7-list": 4}.get(tag, 1) == len(names)
    assert [raw(name, repository) for name in names] == [fetched(repository, name) for name in names]


@pytest.mark.parametrize("tag", TAGS)
def test_resolve_is_the_digest(tag: str) -> None:
    """A tag resolves to the digest, size and media type of what skopeo gets, over plain HTTP and IPv6 too."""
    body = raw(tag)
    expected = {"mediaType": TAGS[tag], "digest": sha256sum(body), "size": len(body)}
    for repository in (REDIS, "localhost:5000/library/redis", "[::1]:5000/library/redis"):
        assert expected == json.loads(run("resolve", "--json", f"{repository}:{tag}").stdout)


def test_tags_are_those_of_skopeo() -> None:
    """Tags are listed as skopeo lists them, in lines and in JSON."""
    expected = json.loads(skopeo("list-tags", f"docker://{REDIS}"))["Tags"]
    assert sorted(TAGS) == sorted(expected)
    assert expected == run("tags", REDIS).stdout.decode().splitlines()
    assert expected == json.loads(run("tags", "--json", "redis").stdout)


def test_catalog_is_listed_with_a_token_of_its_own(log: Log) -> None:
    """The repositories of a host are listed, behind tokens and without them."""
    expected = ["library/redis", "private/redis"]
    assert expected == run("catalog", "docker.io").stdout.decode().splitlines()
    [request] = log.wait_for(1, AUTH)
    assert "scope=registry%3Acatalog%3A%2A" in request["uri"]
    assert expected == json.loads(run("catalog", "--json", "localhost:5000").stdout)


# Failures


def test_missing_layer_is_not_found() -> None:
    """A layer of the genuine manifest is not there: the message names repository, digest and registry."""
    layer = json.loads(fetched(REDIS, GENUINE))["layers"][0]["digest"]
    code, said = refused("fetch", REDIS, layer)
    assert 3 == code
    assert said.startswith(f"distsdk: {REDIS}@{layer} does not exist (")
    assert f"at https://{REGISTRY})" in said


@pytest.mark.parametrize("command", ["fetch", "resolve", "tags"])
@pytest.mark.parametrize("repository", ["private/redis", "library/nothing"])
def test_private_and_unknown_repositories_are_denied(repository: str, command: str) -> None:
    """As on Docker Hub nobody can tell a private repository from one that is not there, and the message says so."""
    reference = f"docker.io/{repository}" if command == "tags" else f"docker.io/{repository}:latest"
    code, said = refused(command, reference)
    assert 4 == code
    assert f"https://{REGISTRY}/v2/{repository}/" in said
    assert "does not exist or requires a login (401" in said


@pytest.fixture(scope="module")
def foreign_authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The certificate of an authority that has signed nothing here."""
    folder = tmp_path_factory.mktemp("foreign")
    request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=foreign", "-days", "2"]
    out = ["-keyout", str(folder / "ca.key"), "-out", str(folder / "ca.pem")]
    subprocess.run([*request, *out], check=True, capture_output=True)
    return folder / "ca.pem"


def test_unknown_authority_is_refused(log: Log, foreign_authority: Path) -> None:
    """With a certificate of an unknown authority nothing is asked, and the message names the way out."""
    code, said = refused("fetch", REDIS, "latest", DISTSDK_CACERT=str(foreign_authority))
    assert 6 == code
    assert f"certificate verification failed for {REGISTRY}" in said
    assert "--cacert" in said
    time.sleep(0.2)
    log.wait_for(0, REGISTRY)


@pytest.mark.parametrize("place", ["before the command", "after the command"])
def test_authority_of_the_option_counts_more_than_the_variable(place: str, foreign_authority: Path) -> None:
    """With --cacert, before the command's name or after it, DISTSDK_CACERT does not count."""

    def outcome(option: str, variable: str) -> int:
        command = ("resolve", "redis:7")
        arguments = ("--cacert", option, *command) if place.startswith("before") else (*command, "--cacert", option)
        return run(*arguments, DISTSDK_CACERT=variable).returncode

    known, foreign = os.environ["DISTSDK_CACERT"], str(foreign_authority)
    assert (0, 6) == (outcome(known, foreign), outcome(foreign, known))


@pytest.fixture
def damaged(layers: list[dict[str, Any]]) -> Iterator[Damage]:
    """Change the bytes of a layer in the storage, and return its descriptor."""
    layer = layers[-2]
    file = blob_file(layer["digest"])
    before = file.read_bytes()

    def change(how: Callable[[bytes], bytes]) -> dict[str, Any]:
        file.write_bytes(how(before))
        return layer

    yield change
    file.write_bytes(before)


def test_damaged_layer_is_an_integrity_failure(damaged: Damage, tmp_path: Path) -> None:
    """A bit that flipped in the CDN's storage is told: exit code 5, and no file where files were to be."""
    layer = damaged(lambda data: data[:-1] + bytes([data[-1] ^ 1]))
    there = blob_file(layer["digest"]).read_bytes()
    assert layer["size"] == len(there)
    done = run("fetch", REDIS, layer["digest"])
    assert (5, there) == (done.returncode, done.stdout)
    assert layer["digest"] in done.stderr.decode()
    assert sha256sum(there) in done.stderr.decode()
    done = run("fetch", REDIS, "-", "-o", str(tmp_path), stdin=f"{layer['digest']}\n")
    assert (5, b"", []) == (done.returncode, done.stdout, list(tmp_path.iterdir()))


@pytest.mark.parametrize("change", [lambda data: data[:-1], lambda data: data + b"\0"], ids=["shorter", "longer"])
def test_wrong_size_is_an_integrity_failure(damaged: Damage, change: Callable[[bytes], bytes]) -> None:
    """With a size: hint a layer that is shorter or longer fails, and not a byte beyond the size is written."""
    layer = damaged(change)
    done = run("fetch", REDIS, layer["digest"], f"size:{layer['size']}")
    assert 5 == done.returncode
    assert len(done.stdout) <= layer["size"]
    assert str(layer["size"]) in done.stderr.decode()


# Blobs, the CDN and tokens


def test_cdn_sees_no_credentials(log: Log, layers: list[dict[str, Any]]) -> None:
    """A layer's request carries the token to the registry, is redirected, and carries none to the CDN."""
    layer = layers[0]
    assert layer["digest"] == sha256sum(fetched(REDIS, layer["digest"]))
    [from_cdn] = log.wait_for(1, CDN)
    assert ("", 200, layer["size"]) == (from_cdn["authorization"], from_cdn["status"], from_cdn["bytes"])
    assert [("", 401), ("Bearer", 307)] == [
        (entry["authorization"], entry["status"]) for entry in log.wait_for(2, REGISTRY, "/blobs/")
    ]
    assert [""] == [entry["authorization"] for entry in log.wait_for(1, AUTH)]
    seen = [*log.entries(REGISTRY), *log.entries(CDN)]
    assert {"identity"} == {entry["accept_encoding"] for entry in seen}


def test_reader_reads_ranges_through_the_redirect(log: Log, layers: list[dict[str, Any]]) -> None:
    """A reader that seeks gets the layer's bytes and asks the CDN for ranges, each time by the registry's redirect."""
    layer = layers[1]
    whole = blob_file(layer["digest"]).read_bytes()
    size = layer["size"]
    blob = distsdk.connect(REDIS).fetch(layer["digest"], f"size:{size}")
    with blob.open() as reader:
        reader.seek(-1024, os.SEEK_END)
        assert whole[-1024:] == reader.read()
        for offset, count in ((0, 1), (size // 2, 70_000), (1_000_000, 4096), (size - 1, 10)):
            reader.seek(offset)
            assert whole[offset : offset + count] == reader.read(count)
        assert "unverified" == reader.trust
    served = log.entries(CDN)
    redirects = log.entries(REGISTRY, "/blobs/")
    assert 5 <= len(served) == sum(entry["status"] == 307 for entry in redirects)
    assert {206} == {entry["status"] for entry in served}
    assert {""} == {entry["authorization"] for entry in served}
    assert all(re.fullmatch(r"bytes=[0-9]+-[0-9]+", entry["range"]) for entry in served)
    assert size // 4 > sum(entry["bytes"] for entry in served)


def test_reader_verifies_what_is_read_from_front_to_back(layers: list[dict[str, Any]]) -> None:
    """Read in pieces to the end, a reader has the layer's bytes and has verified them; the size came from a HEAD."""
    layer = layers[0]
    blob = distsdk.connect(REDIS).fetch(layer["digest"])
    assert layer["size"] == blob.size
    with blob.open(strict=True) as reader:
        pieces = list(iter(lambda: reader.read(100_000), b""))
        assert "verified" == reader.trust
    assert blob_file(layer["digest"]).read_bytes() == b"".join(pieces)


@pytest.mark.parametrize("jobs", ["1", "4"])
def test_multi_fetch_into_a_folder(jobs: str, layers: list[dict[str, Any]], tmp_path: Path) -> None:
    """All layers at once: files named by digest, whose sha256sum is their name, and the digests in input order."""
    digests = [layer["digest"] for layer in layers]
    done = run("fetch", REDIS, "-", "-j", jobs, "-o", str(tmp_path), stdin="\n".join(digests))
    assert (0, b"", digests) == (done.returncode, done.stderr, done.stdout.decode().splitlines())
    assert sorted(digests) == sorted(path.name for path in tmp_path.iterdir())
    for path in tmp_path.iterdir():
        assert path.name == sha256sum(path.read_bytes())


def test_multi_fetch_brings_what_skopeo_copies(copied: dict[str, bytes], tmp_path: Path) -> None:
    """Manifests, attestations, configs and layers of the index `7`, mixed in one list, are those skopeo copies."""
    done = run("fetch", REDIS, "-", "-j", "4", "-o", str(tmp_path), stdin="\n".join(copied))
    assert (0, b"") == (done.returncode, done.stderr)
    assert copied == {path.name: path.read_bytes() for path in tmp_path.iterdir()}


def test_multi_fetch_writes_in_input_order_and_goes_on(log: Log, layers: list[dict[str, Any]]) -> None:
    """To standard output the bytes come in the order of the lines; one missing line is told, the rest comes.

    One token serves all, though four threads want it at once.
    """
    digests = [layer["digest"] for layer in layers]
    lines = [*digests[:2], "no-such-tag", *digests[2:]]
    done = run("fetch", REDIS, "-", "-j", "4", stdin="\n".join(lines))
    assert b"".join(blob_file(digest).read_bytes() for digest in digests) == done.stdout
    assert 3 == done.returncode
    [said] = done.stderr.decode().splitlines()
    assert said.startswith(f"distsdk: line 3: {REDIS}:no-such-tag does not exist")
    log.wait_for(1, AUTH)


def test_short_lived_tokens_are_renewed(
    log: Log, token_seconds: Callable[[int], None], layers: list[dict[str, Any]]
) -> None:
    """A token is kept while it lives and renewed before the registry would refuse it, also in the middle of a blob."""
    token_seconds(3)
    gc.collect()  # remotes of earlier tests would share their longer tokens
    layer = layers[1]
    whole = blob_file(layer["digest"]).read_bytes()
    remote = distsdk.connect(REDIS)
    assert raw("latest") == remote.fetch("latest").read()
    with remote.fetch(layer["digest"], f"size:{layer['size']}").open() as reader:
        first = reader.read(1000)
        log.wait_for(1, AUTH)
        time.sleep(3.1)
        assert whole == first + reader.read()
        assert "verified" == reader.trust
    log.wait_for(2, AUTH)
    assert [401] == [entry["status"] for entry in log.entries(REGISTRY) if entry["status"] not in {200, 307}]


def test_closed_pipe_ends_quietly(layers: list[dict[str, Any]]) -> None:
    """Who reads only the beginning of a layer gets it; the command ends as others do in a pipe, without a word."""
    line = f"{{ distsdk fetch {REDIS} {layers[1]['digest']}; echo $? >&3; }} 3>&2 2>&1 | head -c 1000"
    env = os.environ | {"PATH": f"{DISTSDK.parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", line], capture_output=True, env=env, check=True)
    assert blob_file(layers[1]["digest"]).read_bytes()[:1000] == done.stdout
    assert b"141\n" == done.stderr


def test_debug_tells_requests_and_no_secrets(layers: list[dict[str, Any]]) -> None:
    """With --debug each request is a line on standard error; tokens and the CDN's signature are not in it."""
    done = run("--debug", "fetch", REDIS, layers[-1]["digest"])
    said = done.stderr.decode()
    assert layers[-1]["digest"] == sha256sum(done.stdout)
    hosts = re.findall(r"GET https://([^/]+)/\S+: ([0-9]{3})", said)
    assert [(REGISTRY, "401"), (AUTH, "200"), (REGISTRY, "307"), (CDN, "200")] == hosts
    assert "X-Amz-Signature=REDACTED" in said
    assert not re.search(r"X-Amz-Signature=[0-9a-f]|eyJ|Bearer", said)
