"""Tables of images and tags, and parts of blobs: what they hold, what they cost, and that they sort and sum."""

from __future__ import annotations

import io
import os
import pickle
import sys
import tarfile
from typing import TYPE_CHECKING

import pandas
import pytest

import distsdk
from distsdk import Cache, Image, MissingExtra
from distsdk.testing import Registry, Status

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HISTORY: list[dict[str, object]] = [
    {"created": "2026-01-01T00:00:00Z", "created_by": "ADD rootfs"},
    {"created": "0001-01-01T00:00:00Z", "created_by": "ENV A=b", "empty_layer": True, "comment": "c"},
    {"created": "2026-01-02T00:00:00+01:00", "created_by": "COPY x", "author": "me"},
]


def archive(*members: tarfile.TarInfo) -> bytes:
    """Return a layer of entries with zeros for content."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for member in members:
            tar.addfile(member, io.BytesIO(bytes(member.size)))
    return buffer.getvalue()


def member(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **more: object) -> tarfile.TarInfo:
    """Return an entry."""
    info = tarfile.TarInfo(name)
    info.size, info.type, info.mtime = size, kind, 1_700_000_000
    for key, value in more.items():
        setattr(info, key, value)
    return info


LOWER = archive(
    member("etc", kind=tarfile.DIRTYPE, mode=0o755),
    member("etc/a", 10, uid=1000, gid=100),
    member("etc/b", 20),
    member("bin", kind=tarfile.SYMTYPE, linkname="usr/bin"),
)
UPPER = archive(
    member("etc/b", 5, mtime=1_700_000_001.5),
    member("etc/c", kind=tarfile.LNKTYPE, linkname="etc/b"),
    member("far", mtime=2**62, uid=2**31),
    member("odd-\udcff", 1),
)


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Registry]:
    """An image of two layers, ``x:1``; the user's caches are elsewhere."""
    for name in [name for name in os.environ if name.startswith("DISTSDK_") or name.upper().endswith("_PROXY")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    with Registry() as registry:
        about = {"history": HISTORY, "created": "2026-01-02T00:00:00Z"}
        registry.add_image("x", "1", layers=[LOWER, UPPER], config=about)
        yield registry


@pytest.fixture
def image(registry: Registry, tmp_path: Path) -> Image:
    """That image."""
    return distsdk.image(f"{registry.locator('x')}:1", platform="linux/amd64", cache=Cache(tmp_path / "cache"))


# Images


def test_files_are_those_of_the_merged_tree(image: Image) -> None:
    """Each row as `walk` yields it."""
    table = image.to_pandas()
    assert [entry.path.replace("\udcff", "\\xff") for entry in image.walk()] == list(table["path"])
    assert [entry.layer for entry in image.walk()] == list(table["layer"])
    rows = table.set_index("path").to_dict("index")
    assert (10, 0o644, 1000, 100, 0, "file") == tuple(
        rows["/etc/a"][name] for name in ("size", "mode", "uid", "gid", "layer", "kind")
    )
    assert ("symlink", "usr/bin") == (rows["/bin"]["kind"], rows["/bin"]["link"])
    assert (True, 5, 1) == tuple(rows["/etc/c"][name] for name in ("hard_link", "size", "layer"))
    assert pandas.Timestamp(1_700_000_001.5, unit="s", tz="UTC") == rows["/etc/b"]["modified"]
    assert 2262 == rows["/far"]["modified"].year
    assert 2**31 == rows["/far"]["uid"]


def test_files_sort_and_sum(image: Image) -> None:
    """Sizes are integers, times are times, kinds are categories."""
    table = image.to_pandas("files")
    expected = {"path": "string", "size": "Int64", "modified": "datetime64[us, UTC]", "kind": "category"}
    assert expected == {name: str(table[name].dtype) for name in expected}
    files = table[(table["kind"] == "file") & ~table["hard_link"]]
    assert 16 == files["size"].sum()
    assert "/far" == table.sort_values("modified")["path"].iloc[-1]


def test_layers_and_history_cost_nothing(registry: Registry, image: Image) -> None:
    """They are in the manifest and the config, which are here."""
    registry.reset()
    layers, history = image.to_pandas("layers"), image.to_pandas("history")
    assert [] == registry.requests
    assert [len(LOWER), len(UPPER)] == list(layers["size"])
    assert ["ADD rootfs", "COPY x"] == list(layers["created_by"])
    assert [str(layer.diff_id) for layer in image.layers] == list(layers["diff_id"])
    assert [0, None, 1] == [None if pandas.isna(number) else number for number in history["layer"]]
    assert [len(LOWER), 0, len(UPPER)] == list(history["size"])
    first = pandas.Timestamp("2026-01-01", tz="UTC")
    assert [first, None, pandas.Timestamp("2026-01-01T23:00", tz="UTC")] == [
        None if pandas.isna(moment) else moment for moment in history["created"]
    ]


def test_a_history_that_does_not_fit_the_layers_says_so(registry: Registry, tmp_path: Path) -> None:
    """Nobody knows which step made which layer then."""
    registry.add_image("x", "2", layers=[LOWER], config={"history": HISTORY})
    history = distsdk.image(f"{registry.locator('x')}:2", platform="linux/amd64").to_pandas("history")
    assert 3 == history["layer"].isna().sum()
    assert [True, False, True] == list(history["size"].isna())


def test_packages_are_a_table(registry: Registry) -> None:
    """One row for each."""
    status = b"Package: a\nStatus: install ok installed\nVersion: 1:2\nArchitecture: amd64\n"
    info = tarfile.TarInfo("var/lib/dpkg/status")
    info.size = len(status)
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(info, io.BytesIO(status))
    registry.add_image("x", "3", layers=[buffer.getvalue()])
    table = distsdk.image(f"{registry.locator('x')}:3", platform="linux/amd64").to_pandas("packages")
    assert [["a", "1:2", "amd64", "dpkg"]] == table.to_numpy().tolist()


def test_there_are_no_other_tables(image: Image) -> None:
    """The message names those there are."""
    with pytest.raises(ValueError, match="no table of 'colours': ask for files, layers, history, packages"):
        image.to_pandas("colours")  # type: ignore[arg-type] # that is the point


def test_pandas_is_asked_for_before_anything_else(
    registry: Registry, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without it no layer is read."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    registry.reset()
    with pytest.raises(MissingExtra, match=r"pip install 'distsdk\[pandas\]'"):
        image.to_pandas()
    with pytest.raises(MissingExtra):
        distsdk.connect(registry.locator("x")).tags().to_pandas()
    assert [] == registry.requests


# Tags


def tags(registry: Registry, repository: str = "x") -> distsdk.TagList:
    """Return the tags of a repository."""
    remote = distsdk.connect(registry.locator(repository))
    found: distsdk.TagList = remote.tags()
    return found


def test_tags_are_a_table(registry: Registry) -> None:
    """Their names cost a listing, and nothing else is asked."""
    registry.add_image("x", "2")
    assert ["1", "2"] == list(tags(registry).to_pandas()["tag"])
    assert 1 == len(registry.requests)


def test_details_of_tags_are_looked_up(registry: Registry) -> None:
    """Digest, size, time and platforms; errors are rows; so many are asked for at once, and no more."""
    children = [registry.add_image("x", layers=[LOWER], platform=f"linux/{name}") for name in ("amd64", "arm64")]
    index = registry.add_index("x", "index", manifests=children)
    registry.add_artifact("x", "artifact", artifact_type="application/x")
    registry.add_image("x", "odd", config={"created": "yesterday"})
    table = tags(registry).to_pandas(details=True, per_host=2)
    assert ["tag", "digest", "size", "created", "platforms", "error", "error_kind"] == list(table)
    rows = table.set_index("tag").to_dict("index")
    assert ["1", "artifact", "index", "odd"] == sorted(rows)
    assert (str(index.digest), ("linux/amd64", "linux/arm64")) == (rows["index"]["digest"], rows["index"]["platforms"])
    assert pandas.Timestamp("2026-01-02", tz="UTC") == rows["1"]["created"]
    assert pandas.isna(rows["odd"]["created"])
    assert "MediaTypeMismatch" == rows["artifact"]["error_kind"]
    assert "Int64" == str(table["size"].dtype)
    assert rows["1"]["size"] > len(LOWER) + len(UPPER)
    assert registry.most_open <= 3  # that of the listing, and two


def test_a_tag_that_is_none_is_a_row(registry: Registry) -> None:
    """A registry may list what it likes; it leads nowhere else."""
    listing = b'{"name": "x", "tags": ["1", "../y:1", "1@sha256:00", ""]}'
    registry.fault(Status(200, listing, {"Content-Type": "application/json"}), path="/tags/list")
    table = tags(registry).to_pandas(details=True)
    assert ["1", "../y:1", "1@sha256:00", ""] == list(table["tag"])
    assert ["InvalidReference"] * 3 == list(table["error_kind"])[1:]
    assert 2 == registry.count("GET", "/x/(manifests|blobs)/")


def test_repositories_have_no_details(registry: Registry) -> None:
    """Their names are a table all the same."""
    catalog = distsdk.connect(f"{registry.host}/").catalog()
    assert ["x"] == list(catalog.to_pandas()["repository"])
    with pytest.raises(ValueError, match="connect to one and list those"):
        catalog.to_pandas(details=True)


def test_tags_of_files_are_a_table_too(registry: Registry, tmp_path: Path) -> None:
    """Of a layout: nothing is asked of anybody."""
    store = distsdk.Store(tmp_path / "store")
    distsdk.pull(f"{registry.locator('x')}:1", store, platform="linux/amd64")
    registry.reset()
    remote = distsdk.connect(f"{tmp_path}/store")
    table = remote.tags().to_pandas(details=True)
    assert ["1"] == list(table["tag"])
    assert 1 == table["size"].count()
    assert [] == registry.requests


# Parts of blobs


def test_partitions_make_up_the_blob(registry: Registry) -> None:
    """In order, without gaps, each read by one request for its own bytes."""
    data = bytes(range(256)) * 10
    descriptor = registry.add_blob("x", data)
    blob = distsdk.connect(registry.locator("x")).fetch(descriptor)
    parts = pickle.loads(pickle.dumps(blob.partitions(1000)))  # noqa: S301 - our own bytes
    assert [(0, 1000), (1000, 2000), (2000, 2560)] == [(part.offset, part.end) for part in parts]
    assert [1000, 1000, 560] == [part.size for part in parts]
    assert [] == registry.requests
    assert data == b"".join(part.read() for part in parts)
    ranges = [request.headers["Range"] for request in registry.requests]
    assert ["bytes=0-999", "bytes=1000-1999", "bytes=2000-2559"] == ranges


def test_partitions_of_little(registry: Registry) -> None:
    """A small blob is one part, an empty one has none; a part of no bytes is a mistake."""
    remote = distsdk.connect(registry.locator("x"))
    assert [b"abc"] == [part.read() for part in remote.fetch(registry.add_blob("x", b"abc")).partitions(1000)]
    assert [] == remote.fetch(registry.add_blob("x", b"")).partitions(1000)
    with pytest.raises(ValueError, match="at least 1 byte, not 0"):
        remote.fetch(registry.add_blob("x", b"abc")).partitions(0)
