"""What a part of a table in a registry costs: two columns of ten, one row group of ten, of 200 MB.

``python -m tests.benchmarks.parquet [ROUNDS]`` on a quiet machine with Debian's docker-registry. It prints medians of
whole processes, over loopback, and the ratio of reading by ranges to downloading first; and the bytes, counted by a
registry of `distsdk.testing`. Nothing here passes or fails.
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
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from distsdk.testing import Registry
from tests.benchmarks.run import MANIFEST, PYTHON, compare, registry, upload

COLUMNS, GROUPS, ROWS = 10, 10, 250_000
EMPTY = b"{}"

RANGES = """
import sys, pandas
path = f"dist://{sys.argv[1]}/table.parquet"
print(len(pandas.read_parquet(path, columns=["c3", "c7"], filters=[("group", "==", 4)])))
"""
FIRST = """
import sys, fsspec, pandas
fsspec.filesystem("dist").get(f"dist://{sys.argv[1]}/table.parquet", sys.argv[2])
print(len(pandas.read_parquet(sys.argv[2], columns=["c3", "c7"], filters=[("group", "==", 4)])))
"""


def write(path: Path) -> None:
    """Write 200 MB of noise, in ten columns; the first one has the number of the row group."""
    count = GROUPS * ROWS
    noise = {
        f"c{number}": pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(os.urandom(count * 8))])
        for number in range(1, COLUMNS)
    }
    group = pa.array([number for number in range(GROUPS) for _ in range(ROWS)], pa.int64())
    pq.write_table(
        pa.table({"group": group} | noise), path, row_group_size=ROWS, compression="none", use_dictionary=False
    )


def push(host: str, path: Path) -> str:
    """Push the table as an artifact, and return its reference."""
    with path.open("rb") as file:
        digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        file.seek(0)
        upload(host, file, digest, path.stat().st_size)
    empty = f"sha256:{hashlib.sha256(EMPTY).hexdigest()}"
    upload(host, io.BytesIO(EMPTY), empty, len(EMPTY))
    title = {"org.opencontainers.image.title": path.name}
    size, kind = path.stat().st_size, "application/octet-stream"
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": empty, "size": len(EMPTY)},
        "layers": [{"mediaType": kind, "digest": digest, "size": size, "annotations": title}],
    }
    raw, url = json.dumps(manifest).encode(), f"http://{host}/v2/bench/x/manifests/1"
    with urllib.request.urlopen(urllib.request.Request(url, raw, {"Content-Type": MANIFEST}, method="PUT")):
        return f"{host}/bench/x:1"


def main(rounds: int = 5) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as scratch, registry(Path(scratch)) as host:
        folder = Path(scratch)
        table, got = folder / "table.parquet", folder / "got.parquet"
        write(table)
        reference = push(host, table)
        commands = {}
        for name, code, target in (("by ranges", RANGES, ""), ("downloaded first", FIRST, str(got))):
            script = folder / f"{name.partition(' ')[0]}.py"
            script.write_text(code)
            commands[name] = f"{PYTHON} {script} {reference} {target}"
        commands["import pandas"] = f"{PYTHON} -c 'import pandas, pyarrow.dataset'"
        before = partial(got.unlink, missing_ok=True)
        compare("two columns of ten, a row group of ten", rounds, commands, before=before)

        with Registry() as counting:
            counting.add_artifact("x", "1", artifact_type="a/b", files={table.name: table})
            script = folder / "by.py"
            done = subprocess.run(
                [sys.executable, script, f"{counting.host}/x:1"], check=True, capture_output=True, text=True
            )
            sent, size = counting.bytes_sent, table.stat().st_size
            print(
                f"\n{int(done.stdout):,} rows for {sent:,} of {size:,} bytes, {sent / size:.1%}, in {counting.count()}"
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
