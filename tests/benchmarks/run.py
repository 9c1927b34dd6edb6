"""How fast it is, beside other tools, in turn, over loopback.

``python tests/benchmarks/run.py [ROUNDS]`` on a quiet machine with Debian's docker-registry, curl and openssl. It
prints medians of whole processes, and the ratio of distsdk's wall time to each other's; nothing here passes or fails.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
MIB = 1 << 20
PYTHON = f"exec {sys.executable}"
PROTOTYPE = f"{PYTHON} {Path(__file__).with_name('prototypes.py')}"
DOCUMENTS = f"""\
import sys, distsdk
remote = distsdk.connect(sys.argv[1])
for digest in open(sys.argv[2]):
    remote.fetch(digest.strip(), "mediatype:{MANIFEST}").read()
"""

CONFIG = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {root}}}}}
http: {{addr: "127.0.0.1:{port}"}}
"""


@contextmanager
def registry(folder: Path) -> Iterator[str]:
    """Run a docker-registry over ``folder`` and yield its host."""
    program = shutil.which("docker-registry")
    if program is None:
        sys.exit("docker-registry is not installed: apt-get install docker-registry")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = folder / "config.yml"
    config.write_text(CONFIG.format(root=folder / "storage", port=port))
    with subprocess.Popen(
        [program, "serve", str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            for _ in range(100):
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.05)
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def push(host: str, file: Path, mib: int) -> str:
    """Upload random bytes and return their digest.

    They are never in memory: what a child is measured to need includes what this process had when it was started.
    """
    with file.open("w+b") as data:
        for _ in range(mib):
            data.write(os.urandom(MIB))
        data.seek(0)
        digest = f"sha256:{hashlib.file_digest(data, 'sha256').hexdigest()}"
        data.seek(0)
        upload(host, data, digest, mib * MIB)
        file.unlink()
        return digest


def upload(host: str, data: BinaryIO, digest: str, size: int) -> None:
    """Upload a blob (distribution-spec, "Pushing a blob monolithically")."""
    start = urllib.request.Request(f"http://{host}/v2/bench/x/blobs/uploads/", method="POST")
    with urllib.request.urlopen(start) as answer:
        location = urlsplit(answer.headers["Location"])
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
    url = f"http://{host}{location.path}?{location.query}&digest={digest}"
    with urllib.request.urlopen(urllib.request.Request(url, data, headers, method="PUT")):
        pass


def push_manifest(host: str, layer: str, number: int) -> str:
    """Upload a manifest that differs from others by an annotation, and return its digest."""
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": layer, "size": 2},
        "layers": [],
        "annotations": {"number": str(number), "padding": "x" * 1200},
    }
    raw = json.dumps(manifest).encode()
    digest = f"sha256:{hashlib.sha256(raw).hexdigest()}"
    url = f"http://{host}/v2/bench/x/manifests/{digest}"
    with urllib.request.urlopen(urllib.request.Request(url, raw, {"Content-Type": MANIFEST}, method="PUT")):
        return digest


def run(command: str) -> tuple[float, float, float]:
    """Run a shell command to nowhere; return wall and CPU seconds, and the MiB of its largest process."""
    start = time.perf_counter()
    process = subprocess.Popen(["sh", "-c", command], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert 0 == process.returncode, command
    return time.perf_counter() - start, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def compare(title: str, rounds: int, commands: dict[str, str], before: Callable[[], object] = lambda: None) -> None:
    """Run the commands in turn, and print the medians and the ratio of the first to each; ``before`` is not timed."""
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name, command in commands.items():
            before()
            result = run(command)
            if number:  # the first round warms up
                results[name].append(result)
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in results.items()
    }
    first = next(iter(medians.values()))
    print(f"\n{title}\n{'':34}{'wall s':>8}{'ratio':>7}{'cpu s':>8}{'MiB':>6}")
    for name, (wall, cpu, memory) in medians.items():
        print(f"{name:34}{wall:8.3f}{first[0] / wall:7.2f}{cpu:8.3f}{memory:6.0f}")


def main(rounds: int = 5) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch, registry(Path(scratch)) as host:
        folder = Path(scratch)
        base = f"http://{host}/v2/bench/x"
        fetch = f"{PYTHON} -m distsdk fetch {host}/bench/x"

        for size in (100, 1024):
            digest = push(host, folder / "data", size)
            url = f"{base}/blobs/{digest}"
            commands = {
                "distsdk fetch": f"{fetch} {digest}",
                "curl | openssl dgst -sha256": f"curl -s {url} | openssl dgst -sha256",
                "prototype": f"{PROTOTYPE} blobs 1 {url}",
            }
            compare(f"one blob of {size} MiB", rounds, commands)

        layers = [push(host, folder / "data", 64) for _ in range(10)]
        lines = folder / "layers"
        lines.write_text("\n".join(layers))
        urls = " ".join(f"{base}/blobs/{layer}" for layer in layers)
        commands = {
            "distsdk fetch - -j 4": f"{fetch} - -j 4 < {lines}",
            "prototype, 4 threads": f"{PROTOTYPE} blobs 4 {urls}",
        }
        compare("ten blobs of 64 MiB", rounds, commands)

        config = push(host, folder / "data", 1)
        digests = [push_manifest(host, config, number) for number in range(500)]
        (folder / "digests").write_text("\n".join(digests))
        (folder / "urls").write_text("\n".join(f"{base}/manifests/{digest}" for digest in digests))
        script = folder / "documents.py"
        script.write_text(DOCUMENTS)
        commands = {
            "distsdk, one remote": f"{PYTHON} {script} {host}/bench/x {folder / 'digests'}",
            "requests.Session.get": f"{PROTOTYPE} documents {folder / 'urls'}",
        }
        compare("500 manifests", rounds, commands)

        commands = {
            "python -c pass": f"{PYTHON} -c pass",
            "import distsdk": f"{PYTHON} -c 'import distsdk'",
            "distsdk --version": f"{PYTHON} -m distsdk --version",
            "distsdk fetch of a manifest": f"{fetch} {digests[0]} mediatype:{MANIFEST}",
        }
        compare("starting up", max(rounds, 15), commands)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
