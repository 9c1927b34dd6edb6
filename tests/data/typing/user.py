"""A user's script, held against the types that distsdk ships: mypy reads it, nobody runs it."""

from __future__ import annotations

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

# An object in every form that is taken.
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

# What must not pass: mypy says so by finding each of these ignores needed.
remote.fetch(7)  # type: ignore[arg-type]
distsdk.Nothing  # type: ignore[attr-defined]  # noqa: B018
manifest.raw = b""  # type: ignore[misc]
