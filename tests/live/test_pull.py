"""Pull against the live stack: what skopeo and umoci make of it, logins, mirrors, kills, and the page of the docs."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from inside import (
    CDN,
    DISTSDK,
    LOGIN,
    REDIS,
    REGISTRY,
    Log,
    blob_file,
    document,
    push_random,
    raw,
    refused,
    run,
    sha256sum,
    shell,
    skopeo,
)

from distsdk import Store
from distsdk.spec.media_types import OCI_LAYER, OCI_LAYER_ZSTD, OCI_MANIFEST
from distsdk.testing import Registry, Stall

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = Path(__file__).parents[2] / "docs/howto/pull-and-ingest.md"
MIRROR = "mirror.example"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store that is not there yet, and is the one of every command."""
    monkeypatch.setenv("DISTSDK_STORE", str(tmp_path / "store"))
    return Store()


def pulled(*arguments: str | Path, **variables: str) -> str:
    """Return the digest that a pull writes; off a terminal it says nothing."""
    done = run("pull", *arguments, **variables)
    assert (0, b"") == (done.returncode, done.stderr)
    return done.stdout.decode().strip()


def copied(source: str, folder: Path, *options: str) -> dict[str, bytes]:
    """Return what skopeo copies from somewhere, by file."""
    skopeo("copy", "--quiet", "--insecure-policy", "--src-tls-verify=false", *options, source, f"dir:{folder}")
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert "manifest.json" in found
    return found


def check(store: Store) -> set[str]:
    """Return the digests of what is visible; each is what its name says, by coreutils."""
    files = list((store.root / "blobs/sha256").iterdir())
    names = [f"sha256:{path.name}" for path in files]
    assert names == [sha256sum(path.read_bytes()) for path in files]
    return set(names)


def blobs_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the descriptors in a manifest."""
    return [manifest["config"], *manifest["layers"]]


# Other tools


def test_an_index_is_what_skopeo_copies(store: Store, tmp_path: Path) -> None:
    """All platforms and attestations, byte for byte as skopeo copies them from the registry itself."""
    expected = copied(f"docker://{REDIS}:7", tmp_path / "expected", "--all")
    assert sha256sum(raw("7")) == pulled("--all-platforms", "redis:7")
    assert expected == copied(f"oci:{store.root}:{REDIS}:7", tmp_path / "got", "--all")
    assert {sha256sum(data) for name, data in expected.items() if name != "version"} == check(store)


@pytest.mark.parametrize("platform", ["linux/amd64", "linux/arm64", "linux/arm/v7"])
def test_a_platform_is_what_skopeo_and_umoci_take(store: Store, tmp_path: Path, platform: str) -> None:
    """The name stands for the child; umoci unpacks the files that it unpacks from skopeo's own copy."""
    digest = pulled("--platform", platform, "redis:7")
    expected = copied(f"docker://{REDIS}@{digest}", tmp_path / "expected")
    name = f"{store.root}:{REDIS}:7"
    assert expected == copied(f"oci:{name}", tmp_path / "got")
    skopeo("copy", "--quiet", "--insecure-policy", f"docker://{REDIS}@{digest}", f"oci:{tmp_path / 'layout'}:x")
    for image, bundle in ((name, "ours"), (f"{tmp_path / 'layout'}:x", "theirs")):
        subprocess.run(["umoci", "unpack", "--image", image, tmp_path / bundle], check=True)
    subprocess.run(["diff", "-r", "--no-dereference", "ours/rootfs", "theirs/rootfs"], check=True, cwd=tmp_path)
    assert (tmp_path / "ours/rootfs/usr/bin/redis-server").exists()


@pytest.fixture
def zstd(tmp_path: Path) -> Iterator[str]:
    """A tag whose layers are compressed with zstd, made by skopeo."""
    layout, tag = f"oci:{tmp_path / 'zstd'}:x", f"docker://localhost:5000/library/redis:zstd-{os.getpid()}"
    quiet = ("copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false")
    skopeo(*quiet, "--dest-compress-format=zstd", f"docker://{REDIS}:7-oci", layout)
    skopeo(*quiet, layout, tag)
    yield tag.rpartition(":")[2]
    skopeo("delete", "--tls-verify=false", tag)


def test_zstd_layers_come_as_they_are(store: Store, tmp_path: Path, zstd: str) -> None:
    """For skopeo, byte for byte; umoci reads no zstd."""
    assert {OCI_LAYER_ZSTD} == {layer["mediaType"] for layer in document(zstd)["layers"]}
    expected = copied(f"docker://{REDIS}:{zstd}", tmp_path / "expected")
    assert sha256sum(raw(zstd)) == pulled(f"redis:{zstd}")
    assert expected == copied(f"oci:{store.root}:{REDIS}:{zstd}", tmp_path / "got")


def test_a_schema_2_manifest_comes_as_it_is(store: Store, tmp_path: Path) -> None:
    """Docker's own documents are kept byte for byte, and skopeo copies them out, by way of an index of OCI's."""
    expected = copied(f"docker://{REDIS}:latest", tmp_path / "expected")
    digest = pulled("redis:latest")
    assert sha256sum(raw("latest")) == digest
    assert expected == copied(f"oci:{store.root}:{REDIS}:latest", tmp_path / "got")
    found = check(store)
    assert {sha256sum(data) for name, data in expected.items() if name != "version"} < found
    assert len(expected) == len(found)  # the index besides them, and without the file `version`
    assert digest == str(store.images()[f"{REDIS}:latest"].digest)
    assert () == store.gc(dry_run=True).blobs


def test_a_list_of_schema_2_comes_as_it_is(store: Store, tmp_path: Path) -> None:
    """So are lists: skopeo finds all their children."""
    expected = copied(f"docker://{REDIS}:7-list", tmp_path / "expected", "--all")
    digest = pulled("--all-platforms", "redis:7-list")
    assert sha256sum(raw("7-list")) == digest
    got = copied(f"oci:{store.root}:{REDIS}:7-list", tmp_path / "got", "--all")
    blobs = expected.keys() - {"manifest.json"}
    assert {name: expected[name] for name in blobs} == {name: got[name] for name in got.keys() - {"manifest.json"}}
    assert digest == str(store.images()[f"{REDIS}:7-list"].digest)


def test_what_umoci_wrote_stays(store: Store, tmp_path: Path, log: Log) -> None:
    """A second image that umoci writes into the store: both go on, a pull costs one request, nothing is garbage."""
    expected = copied(f"docker://{REDIS}:7-oci", tmp_path / "expected")
    digest = pulled("redis:7-oci")
    name = f"{REDIS}:7-oci"
    subprocess.run(
        ["umoci", "config", "--image", f"{store.root}:{name}", "--tag", "mine", "--config.user", "1000"], check=True
    )
    before = len(log.entries(REGISTRY, "/manifests/")), len(log.entries(CDN))
    assert digest == pulled("redis:7-oci")
    assert {name, "mine"} == store.images().keys()
    log.wait_for(before[0] + 2, REGISTRY, "/manifests/")  # 401, and 200
    assert before[1] == len(log.entries(CDN))
    assert expected == copied(f"oci:{store.root}:{name}", tmp_path / "got")
    mine = copied(f"oci:{store.root}:mine", tmp_path / "mine")
    assert "1000" == json.loads(mine[json.loads(mine["manifest.json"])["config"]["digest"][7:]])["config"]["User"]
    subprocess.run(["umoci", "unpack", "--image", f"{store.root}:mine", tmp_path / "bundle"], check=True)
    everything = check(store)
    assert 0 == run("content", "gc").returncode
    assert everything == check(store)
    subprocess.run(["umoci", "gc", "--layout", store.root], check=True)
    assert (everything, 0) == (check(store), run("content", "verify").returncode)


def test_what_skopeo_wrote_is_reused(store: Store, log: Log) -> None:
    """Its blobs are listed, and a pull of the same image fetches nothing but the manifest."""
    skopeo("copy", "--quiet", "--insecure-policy", f"docker://{REDIS}:7-oci", f"oci:{store.root}:theirs")
    listed = run("content", "ls", "-q").stdout.decode().split()
    assert check(store) == set(listed) == {sha256sum(raw("7-oci")), *(d["digest"] for d in blobs_of(document("7-oci")))}
    assert "theirs " in run("images").stdout.decode()
    assert sha256sum(raw("7-oci")) == pulled("redis:7-oci")
    assert [] == log.entries(CDN)
    assert {"theirs", f"{REDIS}:7-oci"} == store.images().keys()


# Logins and mirrors


def test_a_private_image_takes_a_login(store: Store, log: Log, tmp_path: Path) -> None:
    """Without one it is denied, and nothing is made; with one it comes, and the CDN sees nothing of the login."""
    code, said = refused("pull", "docker.io/private/redis:7", "--platform", "linux/amd64")
    assert (4, True, False) == (code, "requires a login" in said, store.root.exists())
    auth = base64.b64encode(LOGIN.encode()).decode()
    file = tmp_path / "auth.json"
    file.write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": auth}}}))
    digest = pulled("docker.io/private/redis:7", "--platform", "linux/amd64", REGISTRY_AUTH_FILE=str(file))
    assert {digest, *(entry["digest"] for entry in blobs_of(document(digest)))} == check(store)
    assert {""} == {entry["authorization"] for entry in log.wait_for(7, CDN)}


def hosts_dir(folder: Path, *urls: str) -> Path:
    """Write a hosts.toml that asks mirrors for what has a digest."""
    (folder / "docker.io").mkdir(parents=True)
    text = "".join(f'[host."{url}"]\ncapabilities = ["pull"]\n' for url in urls)
    (folder / "docker.io/hosts.toml").write_text(text)
    return folder


def test_a_mirror_brings_what_has_a_digest(store: Store, log: Log, tmp_path: Path) -> None:
    """The tag is the registry's, all else the mirror's."""
    pulled("redis:7", "--platform", "linux/amd64", "--hosts-dir", hosts_dir(tmp_path / "hosts", f"https://{MIRROR}"))
    assert 8 == len(log.wait_for(8, MIRROR))
    assert (["/v2/library/redis/manifests/7"] * 2, []) == (
        [entry["uri"] for entry in log.entries(REGISTRY)],
        log.entries(CDN),
    )
    assert 8 == len(check(store))


def test_mirrors_that_break_are_survived(store: Store, tmp_path: Path) -> None:
    """One answers 503, one is not there, two end each connection after some bytes: all comes, once."""
    urls = ("https://mirror.example:8443", "https://mirror.example:1", "http://127.0.0.1:5010", "http://127.0.0.1:5011")
    digest = pulled("redis:7", "--all-platforms", "--hosts-dir", hosts_dir(tmp_path / "hosts", *urls))
    assert sha256sum(raw("7")) == digest
    expected = copied(f"docker://{REDIS}:7", tmp_path / "expected", "--all")
    assert {sha256sum(data) for name, data in expected.items() if name != "version"} == check(store)


# Kills


@pytest.fixture
def large() -> Iterator[tuple[str, int]]:
    """An image with two large layers and small ones, by tag; and the bytes of its blobs."""
    sizes = [48_000_000, 24_000_000, 300_000, 2_000]
    layers = [{"mediaType": OCI_LAYER, "digest": push_random(size), "size": size} for size in sizes]
    config = {"mediaType": "application/x-config", "digest": push_random(100), "size": 100}
    fields = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}
    tag = f"large-{os.getpid()}"
    url = f"http://localhost:5000/v2/library/redis/manifests/{tag}"
    body = json.dumps(fields).encode()
    with urllib.request.urlopen(
        urllib.request.Request(url, body, {"Content-Type": OCI_MANIFEST}, method="PUT")
    ) as answer:
        assert 201 == answer.status
    yield tag, sum(sizes) + 100
    skopeo("delete", "--tls-verify=false", f"docker://localhost:5000/library/redis:{tag}")


@pytest.mark.parametrize("connections", [(), ("--connections", "1")], ids=["several connections", "one connection"])
def test_kills_cost_little(store: Store, log: Log, large: tuple[str, int], connections: tuple[str, ...]) -> None:
    """SIGKILL again and again: no blob is wrong or half there, and no more than a fifth is sent twice."""
    tag, size = large
    name = f"slow.example/library/redis:{tag}"
    everything = {sha256sum(raw(tag)), *(entry["digest"] for entry in blobs_of(document(tag)))}
    chance = random.Random(7)
    kills = 0
    ended = False
    while not ended:
        with subprocess.Popen([DISTSDK, "pull", name, *connections], stdout=subprocess.PIPE) as pull:
            try:
                pull.wait(0.4 + 0.5 * chance.random() if kills < 20 else 120)
                ended = True
            except subprocess.TimeoutExpired:
                pull.send_signal(signal.SIGKILL)
                kills += 1
        if (store.root / "blobs/sha256").exists():
            # The name comes last: where it is, all is.
            assert check(store) >= (everything if store.images() else set())
    assert (0, True) == (pull.returncode, kills >= 2)
    assert everything == check(store)
    assert [] == store.active()
    time.sleep(0.5)  # the log is written a moment later
    sent = sum(entry["bytes"] for entry in log.entries("slow.example", "/blobs/"))
    print(f"{kills} kills, {sent / size:.3f} x the size", file=sys.stderr)
    assert size <= sent <= 1.2 * size
    code = run("content", "gc").returncode
    assert 0 == code
    assert {} != store.images()


# The page


def blocks(kind: str) -> list[str]:
    """Return the blocks of the page that are of a kind."""
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, of somebody whose skopeo trusts every image."""
    policy = tmp_path / "home/.config/containers/policy.json"
    policy.parent.mkdir(parents=True)
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "home")
    return tmp_path / "home"


def test_the_page_pulls(store: Store, home: Path) -> None:
    """The page's plan, pull, images and repair run, then skopeo and umoci, then Python."""
    first, repair, *_ = blocks("sh")
    said = shell(first).decode()
    digest = document("7")["manifests"][0]["digest"]
    assert f"\n{digest}\nNAME " in said
    assert re.search(r"^9 requests for 5\.2 MiB; 0 bytes are here$", said, re.MULTILINE)
    [tools] = blocks("text")
    shell(tools.replace("STORE", str(store.root)))
    assert (home / "bundle/rootfs/usr/bin/redis-server").exists()
    assert (home / "redis.tar").stat().st_size > 5_000_000
    assert [digest] == re.findall(r"^sha256:[0-9a-f]{64}$", shell(repair).decode(), re.MULTILINE)
    script, events = blocks("python")
    (home / "script.py").write_text(f"{script}\n{events}")
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, check=True, text=True)
    assert ("", digest in {str(d.digest) for d in Store(home / "images").images().values()}) == (done.stderr, True)
    first_line, second_line = done.stdout.splitlines()
    assert re.fullmatch(r"9 5\d{6}", first_line)
    assert "0 bytes to fetch" == second_line


def test_the_page_goes_piece_by_piece(store: Store, home: Path) -> None:
    """The original's demonstration as it stands: fetch, jq, xargs, ingest; watched in the middle; path, ls and rm."""
    _, _, ingest, watch, afterwards = blocks("sh")
    layers = document(document("7")["manifests"][0]["digest"])["layers"]
    assert "distsdk content active\n" == watch
    with Registry() as mirror:
        # It gives some bytes of each layer and then waits, so that there is a middle.
        for layer in layers:
            mirror.add_blob("library/redis", blob_file(layer["digest"]))
        go_on = threading.Event()
        mirror.fault(Stall(after=100, event=go_on), path="/blobs/")
        variables = {"DISTSDK_HOSTS_DIR": str(hosts_dir(home / "hosts", mirror.url))}
        env = os.environ | {"PATH": f"{DISTSDK.parent}:{os.environ['PATH']}"} | variables
        with subprocess.Popen(["sh", "-ec", ingest], stdout=subprocess.PIPE, env=env) as ingesting:
            try:
                end = time.monotonic() + 30
                while len(store.active()) < 4 or min(active.offset for active in store.active()) < 100:
                    assert time.monotonic() < end, "there was no middle"
                    time.sleep(0.02)
                head, *rows = shell(watch).decode().splitlines()
            finally:
                go_on.set()
            out, _ = ingesting.communicate(timeout=60)
        assert 0 == ingesting.returncode
    assert ["KEY", "OFFSET", "TOTAL", "STARTED", "UPDATED", "PID"] == head.split()
    expected = [layer["digest"] for layer in layers]
    assert {f"layer-{digest}" for digest in expected[:4]} == {row.split()[0] for row in rows}
    assert {"100 bytes"} == {" ".join(row.split()[1:3]) for row in rows}
    assert sorted(expected) == sorted(out.decode().split())
    assert set(expected) == check(store)
    path, *listed = shell(afterwards).decode().splitlines()
    assert expected[0] == f"sha256:{Path(path).name}"
    assert sorted(expected) == sorted(line.split()[0] for line in listed)
    assert set() == check(store)
    shutil.rmtree(home / "hosts")
