"""distsdk in the live stack: the walkthrough as written, and agreement with skopeo."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REDIS = "docker.io/library/redis"
GENUINE = "sha256:a027a470aa2b9b41cc2539847a97b8a14794ebd0a4c7c5d64e390df6bde56c73"
SCHEMA_2 = "mediatype:application/vnd.docker.distribution.manifest.v2+json"
ENVIRONMENT = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


def sh(line: str, code: int = 0) -> tuple[bytes, str]:
    """Run a line of shell and return what it wrote."""
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", line], capture_output=True, check=False, env=ENVIRONMENT, timeout=60
    )
    assert code == done.returncode, done.stderr.decode()
    return done.stdout, done.stderr.decode()


def digest(data: bytes) -> str:
    """Return the digest of bytes, by hashlib."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_the_walkthrough() -> None:
    """The manifest by tag, the same by digest, and all layers, verified."""
    tagged, _ = sh(f"distsdk fetch {REDIS} latest {SCHEMA_2}")
    again, _ = sh(
        f"distsdk fetch {REDIS} sha256:$(distsdk fetch {REDIS} latest {SCHEMA_2} | shasum -a256 | cut -d' ' -f1)"
    )
    assert tagged == again
    sh(
        f"distsdk fetch {REDIS} {digest(again)} | jq -r '.layers[] | .digest' "
        f"| xargs -n1 -P10 distsdk fetch {REDIS} > /dev/null"
    )
    for layer in json.loads(again)["layers"]:
        data, _ = sh(f"distsdk fetch {REDIS} {layer['digest']}")
        assert (layer["digest"], layer["size"]) == (digest(data), len(data))


def test_the_genuine_manifest() -> None:
    """It is there byte for byte; its layers are not."""
    raw, _ = sh(f"distsdk fetch {REDIS} {GENUINE}")
    assert GENUINE == digest(raw)
    _, said = sh(f"distsdk fetch {REDIS} {json.loads(raw)['layers'][0]['digest']}", code=3)
    assert "does not exist" in said


def test_the_right_hint_is_named() -> None:
    """An index that was hinted to be a schema 2 manifest is refused, and the message says how to get it."""
    _, said = sh(f"distsdk fetch {REDIS} 7 {SCHEMA_2}", code=5)
    assert "mediatype:application/vnd.oci.image.index.v1+json" in said


@pytest.mark.parametrize("platform", ["linux/amd64", "linux/arm64", "linux/arm/v7"])
def test_a_platform_picks_the_child(platform: str) -> None:
    """``platform:`` leads to the child that the index names for it."""
    index = json.loads(sh(f"distsdk fetch {REDIS} 7")[0])
    os_name, architecture, *_ = platform.split("/")
    children = [
        child["digest"]
        for child in index["manifests"]
        if (child["platform"]["os"], child["platform"]["architecture"]) == (os_name, architecture)
    ]
    assert children == [digest(sh(f"distsdk fetch {REDIS} 7 platform:{platform}")[0])]


def test_skopeo_agrees() -> None:
    """Both give the same tags, and the same bytes for every manifest and every child."""
    tags = sh(f"distsdk tags {REDIS}")[0].decode().split()
    assert sorted(json.loads(sh(f"skopeo list-tags docker://{REDIS}")[0])["Tags"]) == sorted(tags)
    for tag in tags:
        ours, _ = sh(f"distsdk fetch {REDIS} {tag}")
        assert sh(f"skopeo inspect --raw docker://{REDIS}:{tag}")[0] == ours
        for child in json.loads(ours).get("manifests", []):
            expected, _ = sh(f"skopeo inspect --raw docker://{REDIS}@{child['digest']}")
            assert expected == sh(f"distsdk fetch {REDIS} {child['digest']}")[0]


def test_refusals() -> None:
    """What needs a login is denied; a certificate of an unknown authority is not believed."""
    sh("distsdk fetch docker.io/private/redis latest", code=4)
    sh(f"distsdk fetch --cacert /etc/ssl/certs/ca-certificates.crt {REDIS} latest", code=6)
