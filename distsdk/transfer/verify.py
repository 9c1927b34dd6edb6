"""Verify the signatures of an image or artifact by its name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distsdk.remotes.connect import connect
from distsdk.remotes.remote import fetcher_of
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.media_types import DEFAULT_ACCEPT
from distsdk.spec.reference import Hint, Reference
from distsdk.trust.keys import PublicKey
from distsdk.trust.signatures import verify_candidates

if TYPE_CHECKING:
    from distsdk.content.protocols import Fetcher
    from distsdk.trust.keys import Key
    from distsdk.trust.signatures import Verdict

_DOCUMENTS = tuple(Hint("mediatype", media_type) for media_type in DEFAULT_ACCEPT)


def verify_signatures(reference: str | Reference, key: Key, *, remote: Fetcher | None = None) -> Verdict:
    """Verify that an image or artifact was signed with a key, as ``cosign sign --key`` does.

    Keyless signatures, and those in a transparency log, are not verified as such.

    Args:
        reference: The signed image or artifact. A tag is resolved once; for an index, the signature is over the index.
        key: The public key in PEM form as bytes, or the path of a file with it: ECDSA P-256, RSA or Ed25519.
        remote: Fetches the image and its signatures (default: `connect` chooses one).

    Returns:
        The verified signatures, at least one.

    Raises:
        NotFound: The image does not exist, or has no signature.
        IntegrityError: No signature is by this key over this digest; the message gives the reason for each.
        LimitExceeded: None of the first 1,000 candidates is by this key over this digest.
        InvalidConfig: The key cannot be used.
        MissingExtra: ``cryptography`` is not installed.
        DistError: As `Remote.fetch`.
    """
    public = PublicKey.load(key)
    if isinstance(reference, str):
        reference = Reference.parse(reference)
    fetcher = fetcher_of(remote or connect(reference.locator))
    # Read, so that the digest is that of the bytes: a registry's answer to HEAD proves nothing.
    blob = fetcher.fetch(reference.object, *_DOCUMENTS)
    subject = Descriptor(media_type=blob.media_type, digest=blob.digest, size=len(blob.read()))
    return verify_candidates(fetcher, reference, subject, public)
