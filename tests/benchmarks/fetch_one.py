"""One large blob: `distsdk fetch` beside `curl | openssl dgst` and the bare prototype, in turn.

Run it on a quiet machine: ``python tests/benchmarks/fetch_one.py [MIB] [ROUNDS]``. The registry is Debian's
docker-registry where it is installed, serving random bytes over loopback. It prints medians and ratios; nothing here
passes or fails.
"""

from __future__ import annotations

import hashlib
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
    from collections.abc import Iterator

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


def push(host: str, data: bytes) -> str:
    """Upload a blob (distribution-spec, "Pushing a blob monolithically") and return its digest."""
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    start = urllib.request.Request(f"http://{host}/v2/bench/x/blobs/uploads/", method="POST")
    with urllib.request.urlopen(start) as answer:
        location = urlsplit(answer.headers["Location"])
    headers = {"Content-Type": "application/octet-stream"}
    url = f"http://{host}{location.path}?{location.query}&digest={digest}"
    with urllib.request.urlopen(urllib.request.Request(url, data=data, headers=headers, method="PUT")):
        return digest


def seconds(command: str) -> float:
    """Run a shell command to nowhere and return its wall time."""
    start = time.perf_counter()
    subprocess.run(["sh", "-c", command], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def main(mib: int = 1024, rounds: int = 5) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch, registry(Path(scratch)) as host:
        digest = push(host, os.urandom(mib << 20))
        url = f"http://{host}/v2/bench/x/blobs/{digest}"
        prototype = Path(__file__).with_name("prototype.py")
        commands = {
            "distsdk fetch": f"exec {sys.executable} -m distsdk fetch {host}/bench/x {digest}",
            "curl | openssl": f"curl -s {url} | openssl dgst -sha256",
            "prototype": f"exec {sys.executable} {prototype} {url} {digest}",
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for number in range(rounds + 1):
            for name, command in commands.items():
                taken = seconds(command)
                if number:  # the first round warms up
                    times[name].append(taken)
        ours = statistics.median(times["distsdk fetch"])
        for name, taken_times in times.items():
            median = statistics.median(taken_times)
            print(f"{name:16} {median:7.3f} s   distsdk / it {ours / median:5.2f}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
