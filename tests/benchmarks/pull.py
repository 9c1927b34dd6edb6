"""How fast a pull is, beside skopeo's copy and a bare prototype, over loopback.

``python -m tests.benchmarks.pull [ROUNDS]`` on a quiet machine with Debian's docker-registry and skopeo, as root. It
prints medians of whole processes, and the ratio of distsdk's wall time to each other's; nothing here passes or fails.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.benchmarks.run import MANIFEST, MIB, PROTOTYPE, PYTHON, compare, push, registry, upload

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG = b'{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}'


@contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """Mount a tmpfs there."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def push_image(host: str, tag: str, layers: list[tuple[str, int]]) -> None:
    """Make an image of layers that were pushed."""
    config = f"sha256:{hashlib.sha256(CONFIG).hexdigest()}"
    upload(host, io.BytesIO(CONFIG), config, len(CONFIG))
    kind = "application/vnd.oci.image.layer.v1.tar"
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": len(CONFIG)},
        "layers": [{"mediaType": kind, "digest": digest, "size": size} for digest, size in layers],
    }
    url = f"http://{host}/v2/bench/x/manifests/{tag}"
    raw = json.dumps(manifest).encode()
    with urllib.request.urlopen(urllib.request.Request(url, raw, {"Content-Type": MANIFEST}, method="PUT")):
        pass


def commands(host: str, tag: str, layers: list[str], target: Path, sync: str) -> dict[str, str]:
    """Return what brings an image to a folder that is not there."""
    urls = " ".join(f"http://{host}/v2/bench/x/blobs/{layer}" for layer in layers)
    copy = "skopeo copy -q --insecure-policy --src-tls-verify=false"
    return {
        "distsdk pull": f"{PYTHON} -m distsdk pull --quiet --store {target} {host}/bench/x:{tag}",
        "skopeo copy": f"{copy} docker://{host}/bench/x:{tag} oci:{target}:x",
        f"prototype, 4 threads, {sync}": f"{PROTOTYPE} layout {target} 4 {sync} {urls}",
    }


def main(rounds: int = 5) -> None:
    """Measure and print."""
    with (
        tempfile.TemporaryDirectory() as scratch,
        registry(Path(scratch)) as host,
        tmpfs(Path(scratch) / "memory", "8g") as memory,
    ):
        folder, in_memory, on_disk = Path(scratch), memory / "s", Path(scratch) / "s"
        for mib in (64, 256):
            layers = [push(host, folder / "data", mib) for _ in range(10)]
            push_image(host, f"{mib}", [(layer, mib * MIB) for layer in layers])
            for target, where, sync in ((in_memory, "tmpfs", "nosync"), (on_disk, "disk", "fsync")):
                fresh = partial(shutil.rmtree, target, ignore_errors=True)
                title = f"10 layers of {mib} MiB, to {where}"
                compare(title, rounds, commands(host, f"{mib}", layers, target, sync), before=fresh)
                fresh()

        again = commands(host, "64", [], in_memory, "")["distsdk pull"]
        compare("10 layers of 64 MiB, all here", rounds, {"distsdk pull": again, "python -c pass": f"{PYTHON} -c pass"})
        shutil.rmtree(in_memory)

        layers = [push(host, folder / "data", 1) for _ in range(120)]
        for count in (10, 30, 60, 120):
            push_image(host, f"l{count}", [(layer, MIB) for layer in layers[:count]])
            both = commands(host, f"l{count}", [], in_memory, "")
            both = {name: both[name] for name in ("distsdk pull", "skopeo copy")}
            fresh = partial(shutil.rmtree, in_memory, ignore_errors=True)
            compare(f"{count} layers of 1 MiB, to tmpfs", rounds, both, before=fresh)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
