"""How fast a Debian image is unpacked, beside tar and umoci, in memory.

``python -m tests.benchmarks.unpack [ROUNDS [ROOTFS.tar]]`` on a quiet machine with umoci, as root. Without an archive,
mmdebstrap makes one, and where there is no mmdebstrap or no mirror, a tree of that shape is made up. It prints medians
of whole processes, and the ratio of distsdk's wall time to each other's; nothing here passes or fails.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import random
import shutil
import subprocess
import sys
import tarfile
import tempfile
from functools import partial
from pathlib import Path

from tests.benchmarks.pull import tmpfs
from tests.benchmarks.run import PYTHON, compare

MIB = 1024 * 1024

#: Every check on: the layer's digest, its diffID, names, limits.
UNPACK = """\
import sys
if sys.argv[1] == "plain":
    sys.modules["isal"] = None  # as where the extra is not installed
from distsdk.layers.unpack import unpack
from distsdk.spec.digest import Digest
from distsdk.store.store import Store
_, _, layout, layer, diff_id, folder = sys.argv
unpack([Store(layout).blob(layer)], folder, diff_ids=[Digest.parse(diff_id)], devices=True)
"""


def debian(archive: Path) -> None:
    """Write the root file system of Debian's important packages."""
    try:
        subprocess.run(["mmdebstrap", "--quiet", "--variant=important", "bookworm", archive], check=True)
    except (OSError, subprocess.CalledProcessError):
        print("mmdebstrap is not there or found no mirror: a tree like Debian's is made up")
        made_up(archive)


def made_up(archive: Path) -> None:
    """Write 12,000 entries in 1,400 folders; most files are small, a few make up most of 250 MB."""
    chance = random.Random(1)
    words = [bytes(chance.choices(b"abcdefghijklmnopqrstuvwxyz\n ", k=chance.randint(2, 12))) for _ in range(20_000)]
    with tarfile.open(archive, "w", format=tarfile.GNU_FORMAT) as tar:
        for number in range(1400):
            folder = f"usr/share/f{number // 40}/d{number}"
            info = tarfile.TarInfo(folder)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(info)
            for entry in range(7):
                size = min(4 * MIB, int(chance.lognormvariate(8.3, 1.8)))
                data = b" ".join(chance.choices(words, k=size // 7 + 1))
                info = tarfile.TarInfo(f"{folder}/file-{entry}")
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
            info = tarfile.TarInfo(f"{folder}/link")
            info.type, info.linkname = tarfile.SYMTYPE, "file-0"
            tar.addfile(info)


def layer_of(layout: Path, archive: Path) -> tuple[str, str, Path]:
    """Make an image of an archive; return the digest of its layer, its diffID, and the file of the layer."""

    def blob(digest: str) -> Path:
        return layout / "blobs" / digest.replace(":", "/")

    subprocess.run(["umoci", "init", "--layout", layout], check=True)
    subprocess.run(["umoci", "new", "--image", f"{layout}:x"], check=True)
    subprocess.run(["umoci", "raw", "add-layer", "--image", f"{layout}:x", archive], check=True)
    [manifest] = json.loads((layout / "index.json").read_text())["manifests"]
    found = json.loads(blob(manifest["digest"]).read_text())
    [layer] = found["layers"]
    [diff_id] = json.loads(blob(found["config"]["digest"]).read_text())["rootfs"]["diff_ids"]
    return layer["digest"], diff_id, blob(layer["digest"])


def main(rounds: int = 5, archive: str = "") -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch, tmpfs(Path(scratch) / "memory", "8g") as memory:
        rootfs = memory / "rootfs.tar"
        if archive:
            shutil.copyfile(archive, rootfs)
        else:
            debian(rootfs)
        layer, diff_id, file = layer_of(memory / "layout", rootfs)
        with tarfile.open(rootfs) as tar:
            entries = len(tar.getnames())
        title = f"{entries} entries, {rootfs.stat().st_size / MIB:.0f} MiB, packed {file.stat().st_size / MIB:.0f}"
        rootfs.unlink()
        # An installed package has its bytecode; the first round, which does not count, writes it.
        os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
        os.environ["PYTHONPYCACHEPREFIX"] = str(memory / "bytecode")
        target, script = memory / "out", memory / "unpack.py"
        script.write_text(UNPACK)
        others = {
            "tar -xzf": f"mkdir {target} && exec tar -xzf {file} -C {target}",
            "umoci raw unpack": f"exec umoci raw unpack --image {memory / 'layout'}:x {target}",
        }
        variants = {"plain": "distsdk, standard library"}
        if importlib.util.find_spec("isal"):
            variants["fast"] = "distsdk, isal"
        for variant, name in variants.items():
            ours = f"{PYTHON} {script} {variant} {memory / 'layout'} {layer} {diff_id} {target}"
            compare(title, rounds, {name: ours, **others}, before=partial(shutil.rmtree, target, ignore_errors=True))


if __name__ == "__main__":
    main(*(int(text) if text.isdigit() else text for text in sys.argv[1:]))  # type: ignore[arg-type] # as usage says
