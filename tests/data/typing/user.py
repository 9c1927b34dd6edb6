"""A user's script and plug-in, checked against the types that distsdk ships; it never runs."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import assert_type

import requests

import distsdk

# What one sees first.
remote = distsdk.connect("docker.io/library/redis")
assert_type(remote, distsdk.Remote)
assert_type(remote.locator, distsdk.Locator)
blob = remote.fetch("latest", "mediatype:application/vnd.oci.image.index.v1+json", distsdk.Hint("size", "5"))
assert_type(blob, distsdk.Blob)
assert_type(blob.digest, distsdk.Digest)
assert_type(blob.size, int)
assert_type(blob.media_type, str)
assert_type(blob.descriptor, distsdk.Descriptor)
assert_type(blob.read(limit=1024), bytes)
assert_type(blob.text(), str)
assert_type(blob.save("layer.tar.gz", progress=True), Path)
for chunk in blob.stream():
    assert_type(chunk, bytes)
with blob.open(strict=True) as reader:
    assert_type(reader, distsdk.BlobReader)
    assert_type(reader.read(10), bytes)
    assert_type(reader.seek(-1024, 2), int)

# The other methods of a remote.
assert_type(remote.resolve("7", "platform:linux/arm64"), distsdk.Descriptor)
assert_type(remote.manifest("7"), distsdk.Manifest)
assert_type(remote.index("7"), distsdk.Index)
assert_type(list(remote.tags()), list[str])
assert_type(list(remote.catalog()), list[str])
for referrer in remote.referrers(blob.digest, artifact_type="application/spdx+json"):
    assert_type(referrer, distsdk.Descriptor)
assert_type(remote.fetcher, distsdk.Fetcher)
if isinstance(remote.fetcher, distsdk.Pushable):
    assert_type(remote.fetcher.push_document(b"{}", distsdk.media_types.OCI_MANIFEST, tag="1"), distsdk.Descriptor)

# An object in every accepted form.
for wanted in ("7", blob.digest, blob.descriptor, distsdk.Object.parse("7")):
    remote.fetch(wanted)

# Policies.
remote = distsdk.connect(
    distsdk.Locator.parse("ghcr.io/org/data"),
    session=requests.Session(),
    hosts=distsdk.Hosts(plain_http=True, ca_file=Path("ca.pem"), proxies={"https": "http://proxy:3128"}),
    timeouts=distsdk.Timeouts(connect=5, read=10.5),
    limits=distsdk.Limits(document=1024),
)

# What errors carry.
try:
    remote.fetch(distsdk.Reference.parse("redis:7").object)
except distsdk.NotFound as error:
    assert_type(error.codes, tuple[str, ...])
except distsdk.RateLimited as error:
    assert_type(error.retry_after, float | None)
except distsdk.DigestMismatch as error:
    assert_type((error.expected, error.got), tuple[str, str])
except distsdk.DistError as error:
    assert_type(str(error), str)

# Values.
manifest = distsdk.Manifest.parse(blob.read(), blob.media_type)
assert_type(manifest.raw, bytes)
assert_type(manifest.layers, tuple[distsdk.Descriptor, ...])
assert_type(distsdk.Index.parse(b"{}").select(distsdk.Platform.parse("linux/arm64")), distsdk.Descriptor)
assert_type(distsdk.Digest.parse("sha256:00").algorithm, str)
assert_type(sorted([manifest.digest, blob.digest]), list[distsdk.Digest])
pickle.dumps(manifest)

with distsdk.replay(Path("cassettes")):
    distsdk.connect("redis")


# A plug-in: `locator` and `fetch` are all that it implements.
class Bytes:
    """The bytes behind a blob of the plug-in."""

    def open(self, offset: int, end: int | None) -> distsdk.ByteStream:
        """Open the bytes from `offset` to `end`."""
        return io.BytesIO(b"hello"[offset:end])

    def stat(self) -> distsdk.Stat:
        """Return the size."""
        return distsdk.Stat(5)


class Mirror:
    """A fetcher, checked without a base class."""

    def __init__(self, locator: distsdk.Locator, settings: distsdk.Settings) -> None:
        self._locator = locator

    @property
    def locator(self) -> distsdk.Locator:
        """The repository."""
        return self._locator

    def fetch(
        self, object: str | distsdk.Object | distsdk.Digest | distsdk.Descriptor, *hints: str | distsdk.Hint
    ) -> distsdk.Blob:
        """Return the blob."""
        request = distsdk.FetchRequest.read(object, hints)
        assert_type(request, distsdk.FetchRequest)
        return distsdk.Blob(Bytes(), distsdk.Digest.of(b"hello"))


mirror: distsdk.Fetcher = Mirror(remote.locator, distsdk.Settings.of("mirror.example"))
assert_type(distsdk.Remote(mirror).manifest("7"), distsdk.Manifest)

# What must not pass: mypy says so by finding each of these ignores needed.
remote.fetch(7)  # type: ignore[arg-type]
distsdk.Nothing  # type: ignore[attr-defined]  # noqa: B018
manifest.raw = b""  # type: ignore[misc]
