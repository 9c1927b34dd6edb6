"""A survey of three hundred images, by threads and by a cluster, held against skopeo and the server's log."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pandas
import pytest
from inside import AUTH, REDIS, REGISTRY, Log, document, raw, sha256sum, skopeo

import distsdk

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distributed import Client

    from distsdk import Image

IMAGES = 300
SURVEY = "docker.io/library/survey"
NAMES = [f"{SURVEY}:t{number}" for number in range(IMAGES)]
OPEN = "http://localhost:5000/v2/library/survey"
PER_HOST = 4


def send(method: str, url: str, data: bytes = b"", media_type: str = "application/octet-stream") -> str:
    """Send a request to the registry that takes pushes, and return where its answer leads."""
    request = urllib.request.Request(url, data, {"Content-Type": media_type}, method=method)
    with urllib.request.urlopen(request) as answer:
        return str(answer.headers.get("Location", ""))


def push_blob(data: bytes) -> dict[str, Any]:
    """Push a blob as the distribution-spec says, "Pushing a blob monolithically", and return what refers to it."""
    location = urlsplit(send("POST", f"{OPEN}/blobs/uploads/"))
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    send("PUT", f"http://localhost:5000{location.path}?{location.query}&digest={digest}", data)
    return {"digest": digest, "size": len(data)}


@pytest.fixture(scope="module")
def images() -> list[dict[str, Any]]:
    """The manifests of three hundred images of library/survey: redis of two kinds, each with a label of its own.

    Their layers are redis's, which the registry mounts; manifests and configs are skopeo's, with a few fields changed.
    """
    bases = []
    for tag in ("latest", "7-oci"):
        config = json.loads(skopeo("inspect", "--config", "--raw", "--tls-verify=false", f"docker://{REDIS}:{tag}"))
        bases.append((document(tag), config))
        for layer in bases[-1][0]["layers"]:
            send("POST", f"{OPEN}/blobs/uploads/?mount={layer['digest']}&from=library/redis")

    def push(number: int) -> dict[str, Any]:
        manifest, config = bases[number % len(bases)]
        created = f"2026-{number % 12 + 1:02}-{number % 28 + 1:02}T00:00:00Z"
        labels = {"number": str(number), "org.opencontainers.image.licenses": "BSD-3-Clause"}
        changed = {**config, "created": created, "config": {**config["config"], "Labels": labels}}
        pushed = {**manifest, "config": {**manifest["config"], **push_blob(json.dumps(changed).encode())}}
        media_type = manifest.get("mediaType", "application/vnd.oci.image.manifest.v1+json")
        send("PUT", f"{OPEN}/manifests/t{number}", json.dumps(pushed).encode(), media_type)
        return pushed

    with ThreadPoolExecutor(8) as threads:  # a registry waits for its disk
        return list(threads.map(push, range(IMAGES)))


@pytest.fixture(autouse=True)
def places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    """Two workers, which are processes, on this machine."""
    distributed: Any = pytest.importorskip("distributed")  # which has types for some of this
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=4, host="127.0.0.1", dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def most_at_once(lines: list[dict[str, Any]]) -> int:
    """Return how many requests were there at once, as the log has it, in milliseconds.

    What was rounded is taken off at both ends, so that one that follows on another is not with it.
    """
    turns = []
    for line in lines:
        begin, end = line["ended"] - line["took"] + 0.001, line["ended"] - 0.001
        if begin < end:
            turns += [(begin, 1), (end, -1)]
    now = most = 0
    for _, change in sorted(turns):
        now += change
        most = max(most, now)
    return most


def served(log: Log, count: int) -> list[dict[str, Any]]:
    """Return the requests to the registry that it did not answer with a challenge, once there are `count`."""
    deadline = time.monotonic() + 5
    while True:
        found = [line for line in log.entries(REGISTRY) if line["status"] != 401]
        if len(found) >= count or time.monotonic() > deadline:
            assert count == len(found)
            return found
        time.sleep(0.02)


def number_of(image: Image) -> int:
    """Return by what an image differs."""
    return int(image.config.labels["number"])


def test_rows_are_what_skopeo_says(images: list[dict[str, Any]], log: Log) -> None:
    """Digests, sizes and times; two requests to the registry for each image; never more at once than four."""
    table = distsdk.survey(NAMES, per_host=PER_HOST, platform="linux/amd64")
    assert [] == list(table["error"].dropna())
    requests = served(log, 2 * IMAGES)
    assert 1 < most_at_once(requests) <= PER_HOST
    assert len({request["connection"] for request in requests}) <= PER_HOST
    assert len(log.entries(AUTH)) <= PER_HOST
    assert [sha256sum(raw(f"t{number}", SURVEY)) for number in (0, 1, 150, 299)] == [
        table["digest"][number] for number in (0, 1, 150, 299)
    ]
    for number in range(4):
        parts = (images[number]["config"], *images[number]["layers"])
        assert len(raw(f"t{number}", SURVEY)) + sum(part["size"] for part in parts) == table["size"][number]
    for number in (7, 8):
        config = json.loads(skopeo("inspect", "--config", "--raw", f"docker://{NAMES[number]}"))
        assert pandas.Timestamp(config["created"]) == table["created"][number]
    assert {"BSD-3-Clause": IMAGES} == table["licenses"].value_counts().to_dict()
    assert [6] * IMAGES == list(table["layers"])


def test_a_second_survey_reads_no_config(images: list[dict[str, Any]], log: Log, tmp_path: Path) -> None:
    """It asks what each tag stands for, and no more."""
    first = distsdk.survey(NAMES, results=tmp_path, function=number_of)
    before = len(served(log, 3 * IMAGES))
    second = distsdk.survey(NAMES, results=tmp_path, function=number_of)
    pandas.testing.assert_frame_equal(first, second)
    assert {"HEAD"} == {request["method"] for request in served(log, before + IMAGES)[before:]}
    assert [*range(IMAGES)] == list(second["value"])


def test_a_cluster_finds_the_same_within_the_limit(images: list[dict[str, Any]], client: Client, log: Log) -> None:
    """Two workers with four threads each have no more than four requests at once, together."""
    here = distsdk.survey(NAMES, function=number_of)
    before = len(served(log, 2 * IMAGES))
    there = distsdk.survey(NAMES, function=number_of, client=client, per_host=PER_HOST)
    pandas.testing.assert_frame_equal(here, there)
    assert 1 < most_at_once(served(log, before + 2 * IMAGES)[before:]) <= PER_HOST


def test_a_worker_killed_in_the_middle_loses_nothing(
    images: list[dict[str, Any]], client: Client, tmp_path: Path
) -> None:
    """What it was at is done by another one, and each image has its row."""
    workers = sorted(client.run(os.getpid).values())
    killed: list[int] = []

    def at(done: int, total: int | None) -> None:
        if done >= IMAGES // 3 and not killed:
            os.kill(workers[0], signal.SIGKILL)
            killed.append(done)

    table = distsdk.survey(NAMES, function=number_of, client=client, progress=at, results=tmp_path)
    assert killed
    assert killed[0] < IMAGES
    assert [] == list(table["error"].dropna())
    assert [*range(IMAGES)] == list(table["value"])


def test_details_of_tags() -> None:
    """Of library/redis: what can be read of each, and why the genuine one of 2017 cannot."""
    remote = distsdk.connect(REDIS)
    table = remote.tags().to_pandas(details=True)
    rows = table.set_index("tag").to_dict("index")
    assert sha256sum(raw("7")) == rows["7"]["digest"]
    assert ("linux/amd64", "linux/arm64/v8", "linux/arm/v7") == rows["7"]["platforms"]
    assert "NotFound" == rows["3.2.6"]["error_kind"]
    assert 4 == table["size"].count()
