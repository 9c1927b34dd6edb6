"""How fast a copy from one registry to another is, beside skopeo's, over loopback.

``python -m tests.benchmarks.copy [ROUNDS]`` on a quiet machine with Debian's docker-registry and skopeo, as root: both
registries keep what they have in memory, or it is the disk that is measured. It prints medians of whole processes, and
the ratio of distsdk's wall time to skopeo's; nothing here passes or fails.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

from tests.benchmarks.pull import push_image, tmpfs
from tests.benchmarks.run import MIB, PYTHON, compare, push, registry


def commands(source: str, target: str) -> dict[str, str]:
    """Return what copies an image."""
    skopeo = "skopeo copy -q --insecure-policy --src-tls-verify=false --dest-tls-verify=false"
    return {
        "distsdk copy": f"{PYTHON} -m distsdk copy --quiet {source} {target}",
        "skopeo copy": f"{skopeo} docker://{source} docker://{target}",
    }


def main(rounds: int = 5) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch, tmpfs(Path(scratch) / "memory", "4g") as memory:
        here, there = memory / "here", memory / "there"
        here.mkdir()
        there.mkdir()
        with registry(here) as source, registry(there) as target:
            layers = [(push(source, here / "data", 64), 64 * MIB) for _ in range(10)]
            push_image(source, "64", layers)
            wanted = f"{source}/bench/x:64"

            def empty() -> None:
                shutil.rmtree(there / "storage", ignore_errors=True)

            compare("10 layers of 64 MiB", rounds, commands(wanted, f"{target}/bench/x:64"), before=empty)
            compare("the same, all there", rounds, commands(wanted, f"{target}/bench/x:64"))
            within = commands(wanted, f"{source}/bench/y:64")

            def unmounted() -> None:
                for folder in here.rglob("repositories/bench/y"):
                    shutil.rmtree(folder)

            compare("the same, within one registry", rounds, within, before=unmounted)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
