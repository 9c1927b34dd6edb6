"""What docker.io/library/redis said, played by vcrpy: true of today's Docker Hub as of the stand-in on this machine.

Expectations come from what was recorded, by other means than distsdk's where there are any, so that these cassettes may
be recorded from either.
"""

from __future__ import annotations

import hashlib
import io
import json

import pytest

import distsdk
from distsdk.content.protocols import Resolver, TagLister
from distsdk.spec.media_types import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST

pytestmark = [pytest.mark.vcr, pytest.mark.block_network]

LOCATOR = "docker.io/library/redis"
#: Lead to the manifest for one platform where the tag is an index, and where it is that manifest itself.
HINTS = (f"mediatype:{OCI_MANIFEST}", f"mediatype:{DOCKER_MANIFEST}", "platform:linux/amd64")


def sha256(data: bytes) -> str:
    """Return the digest of bytes as text."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def test_walkthrough() -> None:
    """A manifest by its tag has a digest, by which it comes without hints, and names layers that all verify."""
    remote = distsdk.connect(LOCATOR)
    by_tag = remote.fetch("latest", *HINTS).read()
    digest = sha256(by_tag)
    by_digest = remote.fetch(digest)
    assert by_tag == by_digest.read()
    layers = json.loads(by_tag)["layers"]
    assert layers
    for layer in layers:
        data = remote.fetch(layer["digest"]).read()
        assert (layer["digest"], layer["size"]) == (sha256(data), len(data))


def test_hint_that_does_not_fit_an_index() -> None:
    """A tag that is an index, hinted as one platform's manifest, says what it is and which hint would fetch it."""
    remote = distsdk.connect(LOCATOR)
    with pytest.raises(distsdk.MediaTypeMismatch) as caught:
        remote.fetch("7", f"mediatype:{DOCKER_MANIFEST}").read()
    assert OCI_INDEX == caught.value.got
    assert f"mediatype:{OCI_INDEX}" in str(caught.value)
    assert "platform:" in str(caught.value)


@pytest.mark.parametrize("architecture", ["amd64", "arm64"])
def test_platform(architecture: str) -> None:
    """A platform hint leads from an index to the child that the index names for it."""
    remote = distsdk.connect(LOCATOR)
    index = remote.fetch("7", f"mediatype:{OCI_INDEX}").json()
    [child] = [entry for entry in index["manifests"] if entry["platform"]["architecture"] == architecture]
    blob = remote.fetch("7", f"platform:linux/{architecture}")
    assert (child["digest"], child["size"]) == (sha256(blob.read()), blob.size)
    assert child["mediaType"] == blob.media_type


def test_tags() -> None:
    """The tags are listed, each once, those of this file among them."""
    remote = distsdk.connect(LOCATOR)
    assert isinstance(remote, TagLister)
    tags = list(remote.tags())
    assert len(tags) == len(set(tags))
    assert {"7", "latest"} <= set(tags)


def test_resolve() -> None:
    """What a HEAD says of a tag is what a GET then brings."""
    remote = distsdk.connect(LOCATOR)
    assert isinstance(remote, Resolver)
    descriptor = remote.resolve("7")
    blob = remote.fetch("7")
    assert descriptor == blob.descriptor
    assert str(descriptor.digest) == sha256(blob.read())


def test_ranges() -> None:
    """A layer is read at its end, in its middle and at its start, and the bytes are those of the whole."""
    remote = distsdk.connect(LOCATOR)
    manifest = remote.fetch("latest", *HINTS).json()
    layer = min((layer for layer in manifest["layers"] if layer["size"] > 2**19), key=lambda layer: layer["size"])
    whole = io.BytesIO(remote.fetch(layer["digest"]).read())
    with remote.fetch(layer["digest"]).open() as file:
        for offset, whence in ((-100, io.SEEK_END), (layer["size"] // 2, io.SEEK_SET), (0, io.SEEK_SET)):
            assert whole.seek(offset, whence) == file.seek(offset, whence)
            assert whole.read(100) == file.read(100)
        assert "unverified" == file.trust


def test_reading_a_file_to_its_end() -> None:
    """A blob that is opened and read from front to back, by ranges, ends verified."""
    remote = distsdk.connect(LOCATOR)
    config = remote.fetch("latest", *HINTS).json()["config"]
    with remote.fetch(config["digest"]).open() as file:
        data = b"".join(iter(lambda: file.read(500), b""))
        assert "verified" == file.trust
    assert config["digest"] == sha256(data)


def test_tag_that_is_not_there() -> None:
    """An unknown tag is NotFound, with the registry's own code."""
    with pytest.raises(distsdk.NotFound) as caught:
        distsdk.connect(LOCATOR).fetch("no-such-tag")
    assert caught.value.codes == ("MANIFEST_UNKNOWN",)


def test_repository_that_is_not_there() -> None:
    """Docker Hub answers 401 for an unknown repository, so the message leaves open what is the matter."""
    with pytest.raises(distsdk.Denied, match="does not exist or requires a login"):
        distsdk.connect("docker.io/library/no-such-repository").fetch("latest")
