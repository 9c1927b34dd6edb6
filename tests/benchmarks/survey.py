"""What a survey costs: beside a shell loop over `skopeo inspect`, on a cluster beside threads, and ten times as long.

    python -m tests.benchmarks.survey [IMAGES]

It needs Debian's docker-registry and skopeo, makes ten times IMAGES (300) images of one layer each, and prints figures;
nothing here passes or fails.
"""

from __future__ import annotations

import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import distsdk
from tests.benchmarks.run import MANIFEST, registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distributed import Client

ROUNDS = 5
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"


def fill(storage: Path, images: int) -> None:
    """Put images into a registry's storage before it runs; the places are those of distribution's filesystem layout."""
    root = storage / "docker/registry/v2"
    repository = root / "repositories/survey"

    def link(place: str, digest: str) -> None:
        file = repository / place / "link"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(digest)

    def blob(data: bytes, kind: str) -> dict[str, object]:
        text = hashlib.sha256(data).hexdigest()
        file = root / "blobs/sha256" / text[:2] / text / "data"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        link(f"{'_manifests/revisions' if kind == MANIFEST else '_layers'}/sha256/{text}", f"sha256:{text}")
        return {"mediaType": kind, "digest": f"sha256:{text}", "size": len(data)}

    layer = blob(bytes(10240), LAYER)
    for number in range(images):
        rootfs = {"type": "layers", "diff_ids": [layer["digest"]]}
        about = {"created": "2026-01-01T00:00:00Z", "config": {"Labels": {"number": str(number)}}, "rootfs": rootfs}
        config = blob(json.dumps({"os": "linux", "architecture": "amd64", **about}).encode(), CONFIG)
        fields = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer]}
        digest = str(blob(json.dumps(fields).encode(), MANIFEST)["digest"])
        link(f"_manifests/tags/t{number}/current", digest)
        link(f"_manifests/tags/t{number}/index/sha256/{digest[7:]}", digest)


def names(host: str, count: int) -> Iterator[str]:
    """Yield references."""
    return (f"{host}/survey:t{number}" for number in range(count))


def survey(host: str, count: int, client: Client | None = None) -> None:
    """Read so many images."""
    table = distsdk.survey(names(host, count), client=client)
    assert count == table["created"].count(), table["error"].unique()


def skopeo(host: str, count: int) -> None:
    """Read so many as a shell does."""
    loop = "while read -r name; do skopeo inspect --config --tls-verify=false docker://$name; done"
    text = "\n".join(names(host, count)) + "\n"
    subprocess.run(["sh", "-ec", loop], input=text, text=True, stdout=subprocess.DEVNULL, check=True)


def seconds(work: Callable[[], object]) -> float:
    """Return how long a call takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def peak() -> float:
    """Return the most memory that this process has needed, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(count: int) -> None:
    """Print the figures: medians of calls that take turns, so that what else the machine does meets all of them."""
    distributed: Any = import_module("distributed")  # which has types for some of this
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder, "storage"), 10 * count)
        with (
            registry(Path(folder)) as host,
            distributed.LocalCluster(n_workers=2, threads_per_worker=4, dashboard_address=":0") as cluster,
            distributed.Client(cluster) as client,
        ):
            survey(host, count)  # imports, and what the registry keeps in memory
            survey(host, count, client)
            some = max(1, count // 10)
            turns: list[tuple[float, ...]] = []
            for _ in range(ROUNDS):
                threads, before = seconds(lambda: survey(host, count)), peak()
                workers = seconds(lambda: survey(host, count, client))
                loop = seconds(lambda: skopeo(host, some)) * count / some
                turns.append((threads, workers, loop))
            threads, workers, loop = (statistics.median(column) for column in zip(*turns, strict=True))
            many, after = seconds(lambda: survey(host, 10 * count)), peak()
    print(f"{count} images by threads {threads:.2f} s")
    print(f"by two workers {workers:.2f} s: {threads / workers:.2f} of that rate")
    print(f"by skopeo inspect --config in a loop {loop:.2f} s: {loop / threads:.1f} times as long")
    print(f"{10 * count} images by threads {many:.2f} s: {many / threads:.1f} times as long")
    print(f"memory at most {before:.0f} MB, then {after:.0f} MB")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 300)
