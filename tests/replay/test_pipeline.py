"""What notebook 3 reads: a data set in an artifact, and three hundred images, played by vcrpy.

Recorded from the stand-in only, which is given them for that: the data set by oras-py, the images by umoci and skopeo.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import fsspec
import pyarrow
import pyarrow.parquet
import pytest

import distsdk
import distsdk.remotes.registry  # before vcrpy puts its own in the place of what that derives from

if TYPE_CHECKING:
    from pathlib import Path

    from pandas import DataFrame

pytestmark = [pytest.mark.vcr, pytest.mark.block_network]

PUSHED = "localhost:5000/library"
DATA = "docker.io/library/weather:2026"
FLEET = "docker.io/library/fleet"
#: Images in the stand-in, and in one cassette: vcrpy looks for an answer among all that a cassette has.
IMAGES, TOGETHER = 300, 12
STATIONS, ROWS, GROUPS = 12, 60_000, 12

ORAS = """
import sys
import oras.client
client = oras.client.OrasClient(hostname="localhost:5000", insecure=True)
answer = client.push(target=sys.argv[1], files=sys.argv[2:], disable_path_validation=True)
assert answer.status_code == 201, answer.text
"""
#: What an image is built on: its name, the bytes of its layer in units of 100 kB, and its licence.
BASES = (
    ("docker.io/library/debian:bookworm-slim", 28, "GPL-2.0-or-later"),
    ("docker.io/library/debian:trixie-slim", 30, "GPL-2.0-or-later"),
    ("docker.io/library/alpine:3.20", 4, "MIT"),
    ("docker.io/library/alpine:3.22", 4, "MIT"),
)
APPLICATIONS = (2, 9, 35)


def run(*command: str | Path, cwd: Path | None = None) -> None:
    """Run a tool."""
    subprocess.run(command, check=True, capture_output=True, cwd=cwd)


def weather() -> pyarrow.Table:
    """Return a year of made-up weather: a row group for each station, a few columns one wants and a large one."""
    source = random.Random(2026)
    hours = ROWS // STATIONS
    columns: dict[str, list[object]] = {"station": [], "hour": [], "temperature": [], "wind": [], "spectrum": []}
    for station in range(STATIONS):
        for hour in range(hours):
            season = 10 * (1 - abs(hour - hours / 2) / (hours / 4))
            columns["station"].append(f"station-{station:02}")
            columns["hour"].append(hour)
            columns["temperature"].append(round(10 + season - station / 2 + source.gauss(0, 3), 1))
            columns["wind"].append(round(source.expovariate(0.2), 1))
            columns["spectrum"].append(source.randbytes(64))
    return pyarrow.table(columns)


def push_weather(folder: Path) -> None:
    """Make the data set, and push it by oras-py."""
    pyarrow.parquet.write_table(weather(), folder / "weather.parquet", row_group_size=ROWS // GROUPS)
    (folder / "README.md").write_text("# Weather\n\nMade up: twelve stations, one value an hour.\n")
    run(sys.executable, "-c", ORAS, f"{PUSHED}/weather:2026", "weather.parquet", "README.md", cwd=folder)


def push_fleet(folder: Path) -> None:
    """Make images, and push them: of a few layers, each with a config of its own."""
    source = random.Random(7)
    layout = folder / "layout"
    run("umoci", "init", "--layout", layout)
    for number, (_, size, _) in enumerate(BASES):
        for index, more in enumerate(APPLICATIONS):
            image = f"{layout}:base-{number}-{index}"
            run("umoci", "new", "--image", image)
            for name, count in (("system", size), ("application", more)):
                file = folder / name
                file.write_bytes(source.randbytes(count * 100_000))
                os.utime(file, (1_700_000_000, 1_700_000_000))
                run("umoci", "insert", "--no-history", "--image", image, file, f"/{name}")
    for number in range(IMAGES):
        base = source.choices(range(len(BASES)), weights=(5, 3, 3, 2))[0]
        name, _, licence = BASES[base]
        age = min(number // 25 + source.choice((0, 0, 1)), 11)  # months: those of one month were built together
        image = f"{layout}:base-{base}-{source.choices(range(len(APPLICATIONS)), weights=(4, 3, 1))[0]}"
        made = ("--no-history", "--created", f"2026-{12 - age:02}-{source.randrange(1, 29):02}T00:00:00Z")
        said = {"title": f"app-{number:03}", "base.name": name}
        if source.random() < 0.9:
            said["licenses"] = licence
        labels = [f"--config.label=org.opencontainers.image.{key}={value}" for key, value in said.items()]
        user = ("--config.user", source.choice(("root", "app", "app", "1000")))
        run("umoci", "config", "--image", image, "--tag", f"app-{number:03}", *made, *labels, *user)
    copies = [
        (
            "skopeo",
            "copy",
            "--quiet",
            "--insecure-policy",
            "--dest-tls-verify=false",
            f"oci:{layout}:{tag}",
            f"docker://{PUSHED}/fleet:{tag}",
        )
        for tag in (f"app-{number:03}" for number in range(IMAGES))
    ]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda command: run(*command), copies))


@pytest.fixture(scope="module", autouse=True)
def _pushed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """While this is recorded, the stand-in has all of it."""
    if request.config.getoption("--record-mode") in {None, "none"}:
        return
    assert "LIVE_STATE" in os.environ, "what is recorded here needs the stand-in: make cassettes"
    push_weather(tmp_path_factory.mktemp("weather"))
    push_fleet(tmp_path_factory.mktemp("fleet"))


@pytest.fixture(autouse=True)
def _places(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An empty cache, of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))


@pytest.fixture
def fs() -> fsspec.AbstractFileSystem:
    """A filesystem that nothing was asked of yet."""
    return fsspec.filesystem("dist", skip_instance_cache=True)


def test_listing(fs: fsspec.AbstractFileSystem) -> None:
    """The files are named by their titles."""
    assert [f"{DATA}/README.md", f"{DATA}/weather.parquet"] == sorted(fs.ls(f"dist://{DATA}", detail=False))
    assert fs.read_text(f"dist://{DATA}/README.md").startswith("# Weather")


def test_columns(fs: fsspec.AbstractFileSystem) -> None:
    """Two columns of one station: the bytes of those, the table's end, and little more."""
    with fs.open(f"dist://{DATA}/weather.parquet") as file:
        table = pyarrow.parquet.ParquetFile(file).read_row_group(3, columns=["hour", "temperature"], use_threads=False)
        assert (ROWS // GROUPS, 2) == table.shape
        assert file.cache.total_requested_bytes < file.size / 4


def found(names: list[str], results: Path) -> DataFrame:
    """Return what a survey finds, one image after the other: what vcrpy plays and records is for one thread."""
    return distsdk.survey(names, results=results, per_host=1, platform="linux/amd64")


@pytest.mark.parametrize("first", range(0, IMAGES, TOGETHER))
def test_fleet(first: int, tmp_path: Path) -> None:
    """Each image has its row, and a second survey asks what each tag stands for."""
    names = [f"{FLEET}:app-{number:03}" for number in range(first, first + TOGETHER)]
    table = found(names, tmp_path)
    assert [] == list(table["error"].dropna())
    assert {name for name, *_ in BASES} >= set(table["base_name"])


def test_rows_that_are_errors(tmp_path: Path) -> None:
    """What is not there, and what is no image."""
    table = found([f"{FLEET}:app-999", DATA], tmp_path)
    assert ["NotFound", "MediaTypeMismatch"] == list(table["error_kind"])
