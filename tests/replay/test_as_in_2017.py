"""The walkthrough as it was written in January 2017, played by vcrpy.

Recorded from the stand-in only: on today's Docker Hub `latest` is an index, which the lone hint does not fit.
"""

from __future__ import annotations

import hashlib
import json

import pytest

import distsdk

pytestmark = [pytest.mark.vcr, pytest.mark.block_network]

LOCATOR = "docker.io/library/redis"
HINT = "mediatype:application/vnd.docker.distribution.manifest.v2+json"
GENUINE = "sha256:a027a470aa2b9b41cc2539847a97b8a14794ebd0a4c7c5d64e390df6bde56c73"


def test_walkthrough() -> None:
    """By tag with one hint, by digest with none, and every layer by its digest."""
    remote = distsdk.connect(LOCATOR)
    by_tag = remote.fetch("latest", HINT).read()
    by_digest = remote.fetch(f"sha256:{hashlib.sha256(by_tag).hexdigest()}").read()
    assert by_tag == by_digest
    for layer in json.loads(by_digest)["layers"]:
        data = remote.fetch(layer["digest"]).read()
        assert (layer["digest"], layer["size"]) == (f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))


def test_genuine_manifest() -> None:
    """The manifest of redis 3.2.6 has, byte for byte, the digest that it had in January 2017, by digest and by tag."""
    remote = distsdk.connect(LOCATOR)
    manifest = remote.fetch(GENUINE)
    assert GENUINE == f"sha256:{hashlib.sha256(manifest.read()).hexdigest()}"
    assert manifest.read() == remote.fetch("3.2.6", HINT).read()
    assert manifest.read() == remote.manifest(GENUINE).raw
    assert 1783 == manifest.size


def test_layer_of_the_genuine_manifest() -> None:
    """Its layers are not to be had where this was recorded, and the error says which one is missing."""
    remote = distsdk.connect(LOCATOR)
    digest = remote.fetch(GENUINE).json()["layers"][0]["digest"]
    with pytest.raises(distsdk.NotFound, match=digest):
        remote.fetch(digest).read()
