"""The walkthrough in a shell, replayed."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CASSETTES = ROOT / "cassettes"
GENUINE = "sha256:a027a470aa2b9b41cc2539847a97b8a14794ebd0a4c7c5d64e390df6bde56c73"

FIRST = "distsdk fetch docker.io/library/redis latest mediatype:application/vnd.docker.distribution.manifest.v2+json"
SECOND = f"distsdk fetch docker.io/library/redis sha256:$({FIRST} | shasum -a256 | cut -d' ' -f1)"
THIRD = (
    "distsdk fetch docker.io/library/redis $DIGEST_OF_THE_SECOND"
    " | jq -r '.layers[] | .digest' | xargs -n1 -P10 distsdk fetch docker.io/library/redis > /dev/null"
)
WALKTHROUGH = f"sh {shlex.quote(str(ROOT / 'tests' / 'walkthrough.sh'))}"


def shell(
    line: str, cassettes: Path = CASSETTES / "as-in-2017", **variables: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a line in a shell that finds this interpreter's distsdk and plays cassettes."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, "DISTSDK_REPLAY": str(cassettes), **variables}
    return subprocess.run(["sh", "-c", line], env=environment, capture_output=True, check=False, timeout=120)


def sha256(data: bytes) -> str:
    """Return the digest of bytes as text."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


@pytest.mark.skipif(not (shutil.which("shasum") and shutil.which("jq")), reason="the lines need shasum (perl) and jq")
def test_three_lines() -> None:
    """The three lines run as they are written: both manifests are the same bytes, and every layer verifies."""
    first = shell(FIRST)
    assert (0, b"") == (first.returncode, first.stderr)
    second = shell(SECOND)
    assert (0, b"", first.stdout) == (second.returncode, second.stderr, second.stdout)
    third = shell(THIRD, DIGEST_OF_THE_SECOND=sha256(second.stdout))
    assert (0, b"", b"") == (third.returncode, third.stderr, third.stdout)


def test_layers() -> None:
    """A layer's bytes on stdout are those that the manifest names; with `-`, all of them come in one run."""
    manifest = json.loads(shell(FIRST).stdout)
    digests = [layer["digest"] for layer in manifest["layers"]]
    one = shell(f"distsdk fetch docker.io/library/redis {digests[0]}")
    assert digests[0] == sha256(one.stdout)
    lines = "\n".join(digests)
    all_of_them = shell(f"printf '%s\\n' '{lines}' | distsdk fetch docker.io/library/redis -")
    assert sum(layer["size"] for layer in manifest["layers"]) == len(all_of_them.stdout)
    assert all_of_them.stdout.startswith(one.stdout)


def test_genuine_manifest() -> None:
    """The manifest of January 2017 has its digest still; its layers are not there, which is exit code 3."""
    manifest = shell(f"distsdk fetch docker.io/library/redis {GENUINE}")
    assert GENUINE == sha256(manifest.stdout)
    layer = json.loads(manifest.stdout)["layers"][0]["digest"]
    missing = shell(f"distsdk fetch docker.io/library/redis {layer}")
    assert (3, b"") == (missing.returncode, missing.stdout)
    assert layer in missing.stderr.decode()


def test_replay_option() -> None:
    """`--replay` does what the variable does, and wins over it."""
    line = f"distsdk fetch docker.io/library/redis@{GENUINE} --replay {CASSETTES / 'as-in-2017'}"
    assert GENUINE == sha256(shell(line, DISTSDK_REPLAY="").stdout)
    assert GENUINE == sha256(shell(line, DISTSDK_REPLAY=str(CASSETTES / "redis" / "tags.yaml")).stdout)


def test_index_hinted_as_one_manifest() -> None:
    """The lone hint on a tag that is an index is exit code 5, and the message names the hint that fits."""
    line = "distsdk fetch docker.io/library/redis 7 mediatype:application/vnd.docker.distribution.manifest.v2+json"
    done = shell(line, CASSETTES / "redis")
    assert (5, b"") == (done.returncode, done.stdout)
    assert b"mediatype:application/vnd.oci.image.index.v1+json" in done.stderr


def test_tampered_layer(tmp_path: Path) -> None:
    """A layer with one other byte is exit code 5, and ends the walkthrough: replay verifies like anything else."""
    copy = tmp_path / "cassettes"
    shutil.copytree(CASSETTES, copy)
    layer = min(json.loads(shell(FIRST).stdout)["layers"], key=lambda layer: int(layer["size"]))
    name = layer["digest"].removeprefix("sha256:")
    body = copy / "bodies" / name[:2] / name
    data = bytearray(body.read_bytes())
    data[len(data) // 2] ^= 1
    body.write_bytes(data)
    done = shell(f"distsdk fetch docker.io/library/redis {layer['digest']}", copy / "as-in-2017")
    assert 5 == done.returncode
    assert layer["digest"] in done.stderr.decode()
    walkthrough = shell(WALKTHROUGH, copy / "as-in-2017")
    assert 1 == walkthrough.returncode
    assert b"walkthrough: a layer could not be fetched" in walkthrough.stderr


def test_walkthrough_script() -> None:
    """`make walkthrough` ends well and names the digest of January 2017."""
    done = shell(f"unset DISTSDK_REPLAY; {WALKTHROUGH}")
    assert (0, b"") == (done.returncode, done.stderr)
    assert GENUINE.removeprefix("sha256:") in done.stdout.decode()
