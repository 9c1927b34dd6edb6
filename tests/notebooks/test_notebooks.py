"""The notebooks show what is committed, and a change in what the registry said is seen."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WALKTHROUGH, INSIDE, PIPELINE = NOTEBOOKS
GENUINE = "a027a470aa2b9b41cc2539847a97b8a14794ebd0a4c7c5d64e390df6bde56c73"


def check(cassettes: Path) -> subprocess.CompletedProcess[str]:
    """Execute the notebooks from cassettes and compare."""
    script = str(ROOT / "tests" / "notebooks" / "execute.py")
    command = [sys.executable, script, "--check", "--cassettes", str(cassettes)]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=1200
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """Return a copy of the cassettes, to be changed."""
    copy = tmp_path / "cassettes"
    shutil.copytree(ROOT / "cassettes", copy)
    return copy


def manifest(cassettes: Path) -> Path:
    """Return the body of the manifest that the notebook fetches by its tag."""
    cassette = cassettes / "redis" / "walkthrough.yaml"
    for interaction in yaml.safe_load(cassette.read_text())["interactions"]:
        body = interaction["response"]["body"]
        if "file" in body and "/manifests/sha256:" in interaction["request"]["uri"]:
            return cassette.parent.joinpath(body["file"]).resolve()
    pytest.fail("no manifest by digest was recorded")


def test_as_committed() -> None:
    """Executed from the committed cassettes, the notebooks show what is committed."""
    done = check(ROOT / "cassettes")
    assert 0 == done.returncode, done.stdout
    # A kernel that is shut down on a busy machine may have a line of its own to say.
    said = [line for line in done.stdout.splitlines() if line.partition(":")[0].endswith(".ipynb")]
    assert [f"{path.name}: as committed" for path in NOTEBOOKS] == said


def outputs(notebook: Path, mime: str) -> list[str]:
    """Return what the cells of a notebook show, of one kind; what they print is `text`."""
    code = [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]
    shown = [output.get("data", {"text": output.get("text", "")}) for cell in code for output in cell["outputs"]]
    return ["".join(data[mime]) for data in shown if mime in data]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_what_is_committed(path: Path) -> None:
    """A notebook is committed with outputs and no state of widgets; it says what it shows and needs, and no replay."""
    notebook = json.loads(path.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in code)
    assert not outputs(path, "application/vnd.jupyter.widget-view+json")
    assert [] == [output for cell in code for output in cell["outputs"] if output.get("name") == "stderr"]
    assert {"kernelspec", "language_info"} == set(notebook["metadata"])
    opening = "".join(notebook["cells"][0]["source"])
    assert "**It shows**" in opening
    assert "**It needs**" in opening
    source = "".join("".join(cell["source"]) for cell in notebook["cells"])
    assert "replay" not in source.lower()
    assert not re.search(r"/(tmp|home|root|work)/", path.read_text()), "a path of the machine it was made on"


def test_what_the_walkthrough_shows() -> None:
    """The digest of January 2017, and that what was fetched is there, under its name and as files."""
    assert f"'{GENUINE}'" == outputs(WALKTHROUGH, "text/plain")[-1]
    printed = "".join(outputs(WALKTHROUGH, "text"))
    assert "6 layers, 5,450,243 bytes, all verified" in printed
    assert "8 blobs; the first layer was there before: True" in printed
    assert "\nbin boot data dev entrypoint.sh etc" in printed


def test_what_is_shown_inside() -> None:
    """A file costs a small part of the image; two tags differ in what was done to the one; a picture, and a page."""
    printed = "".join(outputs(INSIDE, "text"))
    cost, fetched, size = (
        int(number.replace(",", "")) for number in re.findall(r"(?:files: |far: |of )([0-9,]+)", printed)[:3]
    )
    assert fetched * 50 < cost < size
    assert "trust: chunk-verified" in printed
    assert "+maxmemory 100mb" in printed
    assert 1 == len(outputs(INSIDE, "image/png"))
    assert "distsdk-explorer" in outputs(INSIDE, "text/html")[-1]


def test_what_the_pipeline_shows() -> None:
    """A part of a file costs a part of its bytes; a survey goes on where it ended, and when a worker dies."""
    printed = "".join(outputs(PIPELINE, "text"))
    asked, size = (int(number.replace(",", "")) for number in re.findall(r"([0-9,]+) of ([0-9,]+) bytes", printed)[0])
    assert asked * 10 < size
    assert "302 rows; the same as before: True" in printed
    assert "1 worker killed, 300 images read" in printed
    assert "exit code 0" in printed
    assert 1 == len(outputs(PIPELINE, "image/png"))


def test_layer_with_one_other_byte(copied: Path) -> None:
    """One flipped bit in a layer turns it red."""
    layer = min(json.loads(manifest(copied).read_text())["layers"], key=lambda layer: int(layer["size"]))
    name = layer["digest"].removeprefix("sha256:")
    body = copied / "bodies" / name[:2] / name
    data = bytearray(body.read_bytes())
    data[-1] ^= 1
    body.write_bytes(data)
    done = check(copied)
    assert 1 == done.returncode
    assert "DigestMismatch" in done.stdout


def test_another_manifest(copied: Path) -> None:
    """A manifest that is another, with the digest and length that are its own, verifies and turns it red."""
    body = manifest(copied)
    old, other = body.name, body.read_bytes() + b"\n"
    new = hashlib.sha256(other).hexdigest()
    renamed = body.parents[1] / new[:2] / new
    renamed.parent.mkdir(exist_ok=True)
    renamed.write_bytes(other)
    for cassette in copied.rglob("*.yaml"):
        text = cassette.read_text().replace(f"/{old[:2]}/{old}", f"/{new[:2]}/{new}").replace(old, new)
        cassette.write_text(text.replace(f"'{len(other) - 1}'", f"'{len(other)}'"))
    done = check(copied)
    assert 1 == done.returncode
    assert "a cell failed" not in done.stdout
    removed, added = ([line for line in done.stdout.splitlines() if line.startswith(sign)] for sign in "-+")
    assert any(old in line for line in removed)
    assert any(new in line for line in added)
    assert any(f"{len(other):,} bytes" in line for line in added), "HTML counts too"
