"""What some remotes can and others cannot, as functions: list what refers to something, and delete."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distsdk.errors import Denied
from distsdk.model.platform import Platform
from distsdk.model.reference import Reference
from distsdk.remotes.base import Deletable, ReferrerLister, connect
from distsdk.transfer.graph import Walk

if TYPE_CHECKING:
    from distsdk.remotes.base import Referrers, Remote


def referrers(
    reference: str | Reference,
    *,
    artifact_type: str | None = None,
    platform: str | Platform | None = None,
    remote: Remote | None = None,
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
    lister = referrer_lister(remote)
    digest = reference.digest
    if digest is None or platform is not None:
        digest = Walk(remote).target(reference, platform).digest
    return lister.referrers(digest, artifact_type=artifact_type)


def referrer_lister(remote: Remote) -> ReferrerLister:
    """Return a remote that lists referrers.

    Raises:
        Denied: It does not.
    """
    if isinstance(remote, ReferrerLister):
        return remote
    message = f"the remote for {remote.locator} ({type(remote).__name__}) lists no referrers"
    raise Denied(message)


def delete(reference: str | Reference, *, remote: Remote | None = None) -> None:
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
    if not isinstance(remote, Deletable):
        message = f"nothing can be deleted from {remote.locator}: its remote ({type(remote).__name__}) only reads"
        raise Denied(message)
    remote.delete(reference.object)
