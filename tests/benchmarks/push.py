"""How fast a push is, beside a bare PUT with requests and the SHA-256 that it takes, over loopback.

``python -m tests.benchmarks.push [ROUNDS]`` on a quiet machine with Debian's docker-registry. It prints medians of
whole processes, and the ratio of distsdk's wall time to each other's; nothing here passes or fails.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests.benchmarks.run import MIB, PYTHON, compare, registry

OURS = """\
import sys, pathlib, distsdk
distsdk.connect(sys.argv[1]).push_blob(pathlib.Path(sys.argv[2]))
"""
PIECES = """\
import sys, distsdk
with open(sys.argv[2], "rb") as file:
    distsdk.connect(sys.argv[1]).push_blob(iter(lambda: file.read(1 << 20), b""))
"""
BARE = """\
import sys, hashlib, requests
host, _, name = sys.argv[1].partition("/")
with open(sys.argv[2], "rb") as file:
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    start = requests.post(f"http://{host}/v2/{name}/blobs/uploads/")
    done = requests.put(f"{start.headers['Location']}&digest=sha256:{digest}", data=file)
    assert done.status_code == 201, done.text
"""


def main(rounds: int = 5) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch, registry(Path(scratch)) as host:
        folder = Path(scratch)
        for name, text in (("ours.py", OURS), ("pieces.py", PIECES), ("bare.py", BARE)):
            (folder / name).write_text(text)
        for size in (64, 1024):
            with (folder / "data").open("wb") as data:
                for _ in range(size):
                    data.write(os.urandom(MIB))
            commands = {
                name: f"{PYTHON} {folder / script} {host}/bench/x {folder / 'data'}"
                for name, script in (
                    ("distsdk, a file", "ours.py"),
                    ("distsdk, pieces", "pieces.py"),
                    ("SHA-256, and requests.put", "bare.py"),
                )
            }
            # Whatever is there already would not be sent again.
            fresh = partial(shutil.rmtree, folder / "storage", ignore_errors=True)
            compare(f"one blob of {size} MiB", rounds, commands, before=fresh)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
