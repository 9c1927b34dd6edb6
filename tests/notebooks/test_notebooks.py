"""The notebooks show what is committed, and a change in what the registry said is seen."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "notebooks" / "01-redis-walkthrough.ipynb"
GENUINE = "a027a470aa2b9b41cc2539847a97b8a14794ebd0a4c7c5d64e390df6bde56c73"


def check(cassettes: Path) -> subprocess.CompletedProcess[str]:
    """Execute the notebooks from cassettes and compare."""
    script = str(ROOT / "tests" / "notebooks" / "execute.py")
    command = [sys.executable, script, "--check", "--cassettes", str(cassettes)]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, timeout=200
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
    assert "as committed" in done.stdout


def test_what_is_committed() -> None:
    """The notebook is committed with outputs, the digest of January 2017 among them, and does not mention replay."""
    notebook = json.loads(NOTEBOOK.read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert all(cell["outputs"] for cell in code)
    assert f"'{GENUINE}'" == "".join(code[-1]["outputs"][0]["data"]["text/plain"])
    assert "replay" not in "".join("".join(cell["source"]) for cell in notebook["cells"]).lower()
    assert {"kernelspec", "language_info"} == set(notebook["metadata"])


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
