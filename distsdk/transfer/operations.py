"""What some remotes can and others cannot, as functions: list what refers to something, and delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distsdk.content.protocols import Deletable, ReferrerLister
from distsdk.remotes.connect import connect
from distsdk.remotes.remote import require
from distsdk.spec.platform import Platform
from distsdk.spec.reference import Reference
from distsdk.transfer.graph import Walk

if TYPE_CHECKING:
    from distsdk.content.protocols import Fetcher, Referrers


def referrers(
    reference: str | Reference,
    *,
    artifact_type: str | None = None,
    platform: str | Platform | None = None,
    remote: Fetcher | None = None,
) -> Referrers:
    """Return what refers to what a reference stands for: signatures, SBOMs, attestations, whatever was attached.

    A tag is resolved at once; the list is asked for when it is iterated over, each time anew.

    Args:
        reference: What they refer to.
        artifact_type: Only those of this type; by default all.
        platform: Of an index, the child that they refer to; by default the index itself.
        remote: Lists them; by default `connect` finds one.

    Raises:
        NotFound: There is no such tag.
        Denied: The remote lists no referrers.
        DistError: As `Remote.fetch`.
    """
    if isinstance(reference, str):
        reference = Reference.parse(reference)
    if isinstance(platform, str):
        platform = Platform.parse(platform)
    remote = remote or connect(reference.locator)
    lister = require(remote, ReferrerLister)
    digest = reference.digest
    if digest is None or platform is not None:
        digest = Walk(remote).target(reference, platform).digest
    return lister.referrers(digest, artifact_type=artifact_type)


def delete(reference: str | Reference, *, remote: Fetcher | None = None) -> None:
    """Remove a tag, or what has a digest, from where it is. Nothing brings it back.

    Args:
        reference: ``registry.example/app:v1``: the tag alone, as far as the remote can; the content keeps its digest.
            ``registry.example/app@sha256:…``: the manifest, or the blob, and all its tags.
        remote: Has it; by default `connect` finds one.

    Raises:
        NotFound: It is not there.
        Denied: The remote does not delete, or not for whom it is shown.
        RegistryError: The registry answered otherwise.
        DistError: As `Remote.fetch`.
    """
    if isinstance(reference, str):
        reference = Reference.parse(reference)
    remote = remote or connect(reference.locator)
    require(remote, Deletable).delete(reference.object)
