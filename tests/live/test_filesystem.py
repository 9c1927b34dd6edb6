"""Tables in a registry, read by the libraries that read tables: what they find, and what it costs by nginx's log.

oras-py, umoci and skopeo made what is read, and pushed it.
"""

from __future__ import annotations

import base64
import json
import os
import random
import subprocess
import sys
import tarfile
import warnings
from typing import TYPE_CHECKING, Any

import dask.dataframe as dd
import duckdb
import fsspec
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from inside import Log, sha256sum, skopeo
from upath import UPath

from distsdk.errors import Unsafe
from distsdk.fsspec import DistFileSystem
from distsdk.spec.media_types import OCI_LAYER_GZIP

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

PUSH = "localhost:5000"
#: nginx serves the same from files, with ranges, and logs the bytes.
HOST = "files.example"

GROUPS, ROWS, COLUMNS = 10, 25_000, 10
#: The row group and the columns that are read, of as many.
WANTED, NAMES = 3, ["group", "c7"]
#: Of all bytes, the share that reading these may cost.
SHARE = 0.15

#: oras-py, in a process of its own: it works in the current folder, and pushes what is there.
ORAS = """
import sys
import oras.client
client = oras.client.OrasClient(hostname="localhost:5000", insecure=True)
answer = client.push(target=sys.argv[1], files=sys.argv[2:-1], annotation_file=sys.argv[-1])
assert answer.status_code == 201, answer.text
"""


def table() -> pa.Table:
    """Return 20 MB of noise, in ten columns; the first one has the number of the row group."""
    noise = random.Random(5)
    columns = {
        f"c{number}": pa.Array.from_buffers(
            pa.int64(), GROUPS * ROWS, [None, pa.py_buffer(noise.randbytes(GROUPS * ROWS * 8))]
        )
        for number in range(1, COLUMNS)
    }
    return pa.table({"group": [row // ROWS for row in range(GROUPS * ROWS)]} | columns)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that are pushed: a table, a folder, an archive with the table in it."""
    folder = tmp_path_factory.mktemp("work")
    pq.write_table(table(), folder / "table.parquet", row_group_size=ROWS, compression="none", use_dictionary=False)
    (folder / "set" / "deep").mkdir(parents=True)
    (folder / "set" / "a.csv").write_text("n,name\n1,one\n2,two\n")
    (folder / "set" / "deep" / "b.txt").write_text("deep")
    with tarfile.open(folder / "all.tar", "w") as tar:
        tar.add(folder / "table.parquet", "inner/table.parquet")
    # oras-py packs folders, but gives them no annotation: it looks for that of the archive it has just made.
    (folder / "packed").mkdir()
    subprocess.run(["tar", "-czf", folder / "packed" / "set", "-C", folder, "set"], check=True)
    (folder / "annotations.json").write_text(
        '{"packed/set": {"io.deis.oras.content.unpack": "true"},'
        ' "$manifest": {"org.opencontainers.image.created": "2024-05-06T07:08:09Z"}}'
    )
    return folder


@pytest.fixture(scope="module")
def artifact(work: Path) -> str:
    """Where oras-py pushed the files."""
    names = ["table.parquet", f"packed/set:{OCI_LAYER_GZIP}", "all.tar", "annotations.json"]
    command = [sys.executable, "-c", ORAS, f"{PUSH}/data/table:v1", *names]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    return f"dist://{HOST}/data/table:v1"


@pytest.fixture(scope="module")
def image(work: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An image that umoci put the table into, beside much else, and skopeo pushed."""
    layout = tmp_path_factory.mktemp("image") / "layout"
    skopeo("copy", "--quiet", "--insecure-policy", "docker://docker.io/library/redis:7-oci", f"oci:{layout}:7")
    insert = ["umoci", "insert", "--image", f"{layout}:7", str(work / "table.parquet"), "/srv/table.parquet"]
    subprocess.run(insert, check=True, capture_output=True)
    options = ["--quiet", "--insecure-policy", "--preserve-digests", "--dest-tls-verify=false"]
    skopeo("copy", *options, f"oci:{layout}:7", f"docker://{PUSH}/data/image:7")
    return f"dist://{HOST}/data/image:7"


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """An empty cache of the test's own, and filesystems that know nothing."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    yield
    DistFileSystem.clear_instance_cache()


@pytest.fixture
def parquet(artifact: str) -> str:
    """The table."""
    return f"{artifact}/table.parquet"


@pytest.fixture(scope="module")
def expected() -> pa.Table:
    """The columns and rows that are read."""
    whole = table()
    return whole.slice(WANTED * ROWS, ROWS).select(NAMES)


def cost(log: Log) -> int:
    """Return the bytes of blobs that nginx has sent since."""
    Log()  # lets what was asked be written
    return sum(line["bytes"] for line in log.entries(HOST, "/blobs/"))


# What others pushed


def test_what_oras_pushed_is_there(artifact: str, work: Path, log: Log) -> None:
    """Files by their titles, the folder as one; each is what it was, by sha256sum; to list them costs no blob."""
    fs = fsspec.filesystem("dist")
    base = artifact.removeprefix("dist://")
    assert [f"{base}/{name}" for name in ("all.tar", "set", "table.parquet")] == fs.ls(artifact, detail=False)
    assert 0 == cost(log)
    assert sha256sum((work / "table.parquet").read_bytes()) == fs.info(f"{artifact}/table.parquet")["digest"]
    assert "2024-05-06T07:08:09+00:00" == fs.modified(f"{artifact}/table.parquet").isoformat()
    assert fs.isdir(f"{artifact}/set")
    assert [f"{base}/set/a.csv", f"{base}/set/deep/b.txt"] == fs.find(f"{artifact}/set")
    assert "deep" == fs.read_text(f"{artifact}/set/deep/b.txt")
    assert {"n": [1, 2], "name": ["one", "two"]} == pd.read_csv(f"{artifact}/set/a.csv").to_dict("list")


def test_what_skopeo_copied_is_the_same(artifact: str) -> None:
    """Another repository, and a layout: the same keys, so that a cache has each once."""
    options = ["--quiet", "--insecure-policy", "--src-tls-verify=false", "--dest-tls-verify=false"]
    skopeo("copy", *options, f"docker://{PUSH}/data/table:v1", f"docker://{PUSH}/data/copy:v2")
    fs = fsspec.filesystem("dist")
    names = ["table.parquet", "all.tar"]
    copies = [fs.ukey(f"dist://{HOST}/data/copy:v2/{name}") for name in names]
    assert [fs.ukey(f"{artifact}/{name}") for name in names] == copies
    assert 2 == len(set(copies))


def test_get_is_what_was_pushed(artifact: str, work: Path, tmp_path: Path) -> None:
    """A folder with all in it, by `diff -r`."""
    fs = fsspec.filesystem("dist")
    fs.get(f"{artifact}/set", str(tmp_path / "got"), recursive=True)
    subprocess.run(["diff", "-r", work / "set", tmp_path / "got"], check=True)
    fs.get(f"{artifact}/table.parquet", str(tmp_path / "table.parquet"))
    subprocess.run(["cmp", work / "table.parquet", tmp_path / "table.parquet"], check=True)


# What reads tables


def by_pandas(path: str) -> pa.Table:
    """Read by pandas."""
    frame = pd.read_parquet(path, columns=NAMES, filters=[("group", "==", WANTED)])
    return pa.Table.from_pandas(frame, preserve_index=False)


def by_dataset(path: str) -> pa.Table:
    """Read by a dataset of pyarrow's."""
    dataset = ds.dataset(path.removeprefix("dist://"), format="parquet", filesystem=fsspec.filesystem("dist"))
    return dataset.to_table(columns=NAMES, filter=pc.field("group") == WANTED)


def by_pyarrow(path: str) -> pa.Table:
    """Read a row group by pyarrow, from an open file."""
    with fsspec.open(path) as file:
        return pq.ParquetFile(file).read_row_group(WANTED, columns=NAMES)


def by_duckdb(path: str) -> pa.Table:
    """Read by DuckDB."""
    with duckdb.connect() as connection:
        connection.register_filesystem(fsspec.filesystem("dist"))
        found = connection.read_parquet(path).filter(f'"group" = {WANTED}').select(*NAMES)
        return found.to_arrow_table()


def by_polars(path: str) -> pa.Table:
    """Read by polars, from an open file."""
    with fsspec.open(path) as file:
        return pl.read_parquet(file, columns=NAMES, use_pyarrow=True).filter(pl.col("group") == WANTED).to_arrow()


def by_polars_scan(path: str) -> pa.Table:
    """Read by polars, lazily, from a dataset."""
    dataset = ds.dataset(path.removeprefix("dist://"), format="parquet", filesystem=fsspec.filesystem("dist"))
    return pl.scan_pyarrow_dataset(dataset).select(NAMES).filter(pl.col("group") == WANTED).collect().to_arrow()


def by_dask(path: str) -> pa.Table:
    """Read by Dask."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of pandas, for what Dask does
        frame = dd.read_parquet(path, columns=NAMES, filters=[("group", "==", WANTED)]).compute(scheduler="sync")
    return pa.Table.from_pandas(frame, preserve_index=False)


def by_upath(path: str) -> pa.Table:
    """Read by pyarrow, from a path of universal-pathlib."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that it knows the protocol from fsspec alone
        place = UPath(path)
        beside = place.parent / place.name
        assert str(beside) == path
        assert place.name in [child.name for child in place.parent.iterdir()]
        assert "deep" == (place.parent / "set" / "deep" / "b.txt").read_text()
    with beside.open("rb") as file:
        return pq.ParquetFile(file).read_row_group(WANTED, columns=NAMES)


@pytest.mark.parametrize(
    ("read", "share"),
    [
        (by_pandas, SHARE),
        (by_dataset, SHARE),
        (by_pyarrow, SHARE),
        (by_duckdb, SHARE),
        (by_polars, 0.5),  # it takes all row groups of the columns
        (by_polars_scan, SHARE),
        (by_dask, SHARE),
        (by_upath, SHARE),
    ],
)
def test_a_part_of_a_table_costs_a_part(
    parquet: str, work: Path, log: Log, expected: pa.Table, read: Callable[[str], pa.Table], share: float
) -> None:
    """Two columns of ten, of one row group of ten: what is read is right, and takes few of the bytes."""
    found = read(parquet)
    assert expected.to_pydict() == found.select(NAMES).to_pydict()
    size = (work / "table.parquet").stat().st_size
    print(f"{read.__name__}: {cost(log):,} of {size:,} bytes, {len(log.entries(HOST, '/blobs/'))} requests")
    assert size * 0.02 < cost(log) < size * share


def test_a_table_in_an_image(image: str, work: Path, log: Log, expected: pa.Table) -> None:
    """The first look takes the layer once; later ones, in another filesystem too, the parts that are read."""
    path = f"{image}/srv/table.parquet"
    assert expected.equals(by_pyarrow(path).cast(expected.schema))
    first = cost(log)
    DistFileSystem.clear_instance_cache()
    later = Log()
    assert expected.equals(by_pyarrow(path).cast(expected.schema))
    assert cost(later) < first * 0.5
    strict = DistFileSystem(strict=True)
    assert sha256sum((work / "table.parquet").read_bytes()) == sha256sum(strict.cat(path))


# Chains, and the rest of fsspec


def test_a_table_in_an_archive(artifact: str, expected: pa.Table, log: Log, work: Path) -> None:
    """A part of a table in an archive in an artifact costs a part, too."""
    with fsspec.open(f"tar://inner/table.parquet::{artifact}/all.tar") as file:
        found = pq.ParquetFile(file).read_row_group(WANTED, columns=NAMES)
    assert expected.equals(found.cast(expected.schema))
    assert cost(log) < (work / "all.tar").stat().st_size * SHARE


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # fsspec leaves its files to the collector
@pytest.mark.parametrize(("kind", "share"), [("filecache", 1.01), ("simplecache", 1.01), ("blockcache", 0.5)])
def test_a_cache_asks_once(
    parquet: str, log: Log, expected: pa.Table, work: Path, tmp_path: Path, kind: str, share: float
) -> None:
    """What a cache of fsspec's has, whole or in blocks, is not asked for again."""
    options: dict[str, Any] = {kind: {"cache_storage": str(tmp_path / kind)}, "dist": {"strict": kind == "filecache"}}
    for again in (False, True):
        now = Log()
        with fsspec.open(f"{kind}::{parquet}", **options) as file:
            found = pq.ParquetFile(file).read_row_group(WANTED, columns=NAMES)
        assert expected.equals(found.cast(expected.schema))
        assert again == (cost(now) == 0)
    assert cost(log) <= (work / "table.parquet").stat().st_size * share


def test_strict_reads_whole_files(parquet: str, work: Path) -> None:
    """Parts of a layer of an artifact are vouched for by nobody: a strict filesystem reads all of it, or refuses."""
    with pytest.raises(Unsafe, match="front to back"):
        pd.read_parquet(parquet, columns=NAMES, storage_options={"strict": True})
    with fsspec.open(parquet, strict=True) as file:
        assert (work / "table.parquet").read_bytes() == file.read()
        assert "verified" == file.trust


def test_several_ranges_are_asked_for_at_once(parquet: str, work: Path, log: Log) -> None:
    """Eight at once, neighbours in one request."""
    fs = fsspec.filesystem("dist")
    data = (work / "table.parquet").read_bytes()
    starts: list[int | None] = [begin + step for begin in range(0, 16_000_000, 2_000_000) for step in (0, 5000, 10_000)]
    ends: list[int | None] = [begin + 1000 for begin in starts if begin is not None]
    found = fs.cat_ranges([parquet] * len(starts), starts, ends)
    assert [data[begin:end] for begin, end in zip(starts, ends, strict=True)] == found
    cost(log)
    assert 8 == len(log.entries(HOST, "/blobs/"))
    assert len({line["connection"] for line in log.entries(HOST, "/blobs/")}) > 1


def test_a_login_is_found_where_docker_keeps_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A private image on Docker Hub's stand-in: refused without a login, read with the one in config.json."""
    path = "dist://docker.io/private/redis:7-oci/etc/redis/redis.conf"
    with pytest.raises(PermissionError):
        fsspec.filesystem("dist").cat(path)
    login = base64.b64encode(f"{os.environ['LIVE_USER']}:{os.environ['LIVE_PASSWORD']}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": login}}}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "config.json"))
    DistFileSystem.clear_instance_cache()
    assert b"port 6379" in fsspec.filesystem("dist").cat(path)
