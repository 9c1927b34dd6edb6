"""How fast it is where the wire matters: slow connections, TLS, broken ones; beside curl and skopeo, over loopback.

Run it inside the live stack, on a quiet machine:

    python tests/live/stack.py run -- .venv/bin/python -m tests.benchmarks.transfer [ROUNDS [MIB]]

It prints medians of whole processes as `run.py` does, for a blob of MIB (1024), and where connections are slow for one
of half that size. There the first line is curl's single stream, and the ratio says how many times as fast each is.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from tests.benchmarks.run import MANIFEST, MIB, PYTHON, compare, push, upload

STATE = Path(os.environ["LIVE_STATE"])
OPEN = "localhost:5000"  # a docker-registry
CUT, PACED = "127.0.0.1:5010", "127.0.0.1:5012"  # proxies in front of it: each 50 MB; 20 MB a second for a connection
PLAIN, TLS, SLOW = "127.0.0.8", "files.example", "slow.example"  # nginx on the same files; the last is held to a rate
CONFIG = b'{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":[]}}'


def push_image(layer: str, size: int) -> None:
    """Make an image of one layer with the tag `one`, for skopeo."""
    config = f"sha256:{hashlib.sha256(CONFIG).hexdigest()}"
    upload(OPEN, io.BytesIO(CONFIG), config, len(CONFIG))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": len(CONFIG)},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": size}],
    }
    url = f"http://{OPEN}/v2/bench/x/manifests/one"
    headers = {"Content-Type": MANIFEST}
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(manifest).encode(), headers, method="PUT")):
        pass


def url(host: str, digest: str) -> str:
    """Return the URL of a blob."""
    return f"{'https' if host.endswith('.example') else 'http'}://{host}/v2/bench/x/blobs/{digest}"


def fetch(host: str, digest: str, *options: str) -> str:
    """Return the command that fetches a blob."""
    return " ".join([PYTHON, "-m distsdk fetch", f"{host}/bench/x", digest, *options])


def check(digest: str, command: str) -> None:
    """Stop unless coreutils says that a command writes the blob."""
    done = subprocess.run(["sh", "-c", f"({command}) | sha256sum"], stdout=subprocess.PIPE, check=True)
    assert digest == f"sha256:{done.stdout.split()[0].decode()}", command


def main(rounds: int = 5, mib: int = 1024) -> None:
    """Measure and print."""
    (STATE / "cut-bytes").write_text("50000000")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        half = push(OPEN, folder / "data", mib // 2)
        push_image(half, mib // 2 * MIB)
        for host, what in ((SLOW, "TLS, nginx limit_rate 20m"), (PACED, "plain HTTP, paced sockets, 20 MB/s")):
            check(half, fetch(host, half, "--connections 8"))
            target = folder / "copy"
            skopeo = f"rm -rf {target}; skopeo copy -q --insecure-policy --src-tls-verify=false"
            commands = {
                "curl, single stream": f"curl -s {url(host, half)}",
                "skopeo copy": f"{skopeo} docker://{host}/bench/x:one dir:{target}",
                "distsdk fetch --connections 1": fetch(host, half, "--connections 1"),
                "distsdk fetch": fetch(host, half),
                "distsdk fetch --connections 8": fetch(host, half, "--connections 8"),
            }
            compare(f"{mib // 2} MiB, each connection slow ({what})", (rounds + 2) // 3, commands)

        whole = push(OPEN, folder / "data", mib)
        for host, what in ((OPEN, "docker-registry"), (PLAIN, "nginx"), (TLS, "nginx with TLS")):
            commands = {
                "distsdk fetch": fetch(host, whole),
                "distsdk fetch --connections 1": fetch(host, whole, "--connections 1"),
                "distsdk fetch --connections 8": fetch(host, whole, "--connections 8"),
                "curl | openssl dgst -sha256": f"curl -s {url(host, whole)} | openssl dgst -sha256",
            }
            compare(f"{mib} MiB, no limit ({what})", rounds, commands)

        check(whole, fetch(CUT, whole))
        saved = folder / "saved"
        commands = {
            "distsdk fetch": fetch(CUT, whole),
            "distsdk fetch --connections 8": fetch(CUT, whole, "--connections 8"),
            "distsdk fetch - -o": f"echo {whole} | {fetch(CUT, '-', '-o', str(saved))} && rm {saved / whole}",
        }
        compare(f"{mib} MiB, connections cut each 50 MB", (rounds + 2) // 3, commands)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
