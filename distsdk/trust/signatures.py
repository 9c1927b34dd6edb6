"""Who signed an image: cosign's signatures, verified with a public key.

https://github.com/sigstore/cosign/blob/main/specs/SIGNATURE_SPEC.md

They are looked for where cosign keeps them: under the tag ``sha256-….sig``, and among the referrers, as signatures of
the same form and as the bundles that cosign 3 writes. Nothing is asked of a transparency log, and certificates (keyless
signing) count for nothing here: a signature is verified by the key that one names, or not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen

from distsdk._repr import Displayed
from distsdk._text import counted, quoted, shortened
from distsdk.content.protocols import ReferrerLister
from distsdk.errors import IntegrityError, LimitExceeded, MalformedDocument, NotFound, UnsupportedDocument
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.documents import Manifest
from distsdk.spec.media_types import DEFAULT_ACCEPT, MANIFESTS, OCI_EMPTY
from distsdk.spec.reference import Hint, Reference
from distsdk.spec.strict_json import load_json, optional_object, optional_text, required_text
from distsdk.trust.attestations import Envelope
from distsdk.trust.keys import PublicKey, from_base64

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from distsdk.content.protocols import Fetcher
    from distsdk.spec.digest import Digest

#: Media types of what is signed, of an artifact that holds signatures, and of cosign 3's bundles.
SIMPLE_SIGNING = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE_ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
BUNDLE_PREFIX = "application/vnd.dev.sigstore.bundle."

#: The annotation of a layer that holds the signature over it, and the one that holds the certificate of a keyless one.
SIGNATURE = "dev.cosignproject.cosign/signature"
CERTIFICATE = "dev.sigstore.cosign/certificate"

#: Candidates that are checked: layers that claim to be signatures, and manifests that could hold one and do not.
MAX_CANDIDATES = 1_000
#: Bytes of what was signed, and of a bundle.
MAX_PAYLOAD = 1024 * 1024

_SIGNED_TYPE = "cosign container image signature"
_SIGNED_PREDICATE = "https://sigstore.dev/cosign/sign/v1"

#: What is wrong with one signature, and no reason not to look at the next.
_UNUSABLE = (IntegrityError, MalformedDocument, UnsupportedDocument, LimitExceeded, NotFound)


@frozen
class Signature(Displayed):
    """A signature that was verified: all of this was signed.

    Attributes:
        manifest: Where it was found.
        payload: The digest of the bytes that were signed, or that hold what was.
        identity: What the signer called the image, ``registry.example/app``. It is what he said, and nobody checks it:
            images are copied. Empty in a bundle.
        annotations: What else he said.
    """

    manifest: Digest
    payload: Digest
    identity: str = field(repr=quoted)
    annotations: Mapping[str, object] = field(hash=False, repr=lambda said: shortened(str(said)))


@frozen
class Rejected(Displayed):
    """A signature that was not verified.

    Attributes:
        manifest: Where it was found.
        payload: As of a `Signature`; None where the manifest itself cannot be used.
        why: What is wrong with it.
    """

    manifest: Digest
    payload: Digest | None
    why: str = field(repr=quoted)


@frozen
class Verdict(Displayed):
    """What was verified, by which key. There is none without a signature that was.

    Attributes:
        subject: What was signed. Go on with its digest: the tag may stand for something else by now.
        key: The key that made the signatures.
        signatures: Those that were verified, one at least.
        rejected: The others among the first `MAX_CANDIDATES`, which say nothing: anybody may add some.
    """

    subject: Descriptor
    key: PublicKey
    signatures: tuple[Signature, ...]
    rejected: tuple[Rejected, ...] = field(repr=lambda rejected: str(len(rejected)))

    def __attrs_post_init__(self) -> None:
        if not self.signatures:
            raise IntegrityError(f"{self.subject.digest} is not verified: it has no signature by the key {self.key}")


def verify_candidates(fetcher: Fetcher, reference: Reference, subject: Descriptor, key: PublicKey) -> Verdict:
    """Verify the signatures of a document with a key.

    Args:
        fetcher: Fetches the signatures; its referrers count if it lists them.
        reference: The name of the document, for messages.
        subject: The document.
        key: The key.

    Raises:
        NotFound: The document has no signature.
        IntegrityError: No signature is by this key over this digest; the message gives the reason for each.
        LimitExceeded: None of the first `MAX_CANDIDATES` candidates is by this key over this digest.
        DistError: As `Fetcher.fetch`.
    """
    signatures: dict[tuple[Digest, str], Signature] = {}
    rejected: list[Rejected] = []
    unreadable: list[str] = []
    for number, candidate in enumerate(_candidates(fetcher, subject.digest, unreadable)):
        if number == MAX_CANDIDATES:
            if signatures:
                break
            message = (
                f"{reference} has more than {MAX_CANDIDATES:,} candidates for a signature, "
                f"and none of the first {MAX_CANDIDATES:,} is verified by the key {key}"
            )
            raise LimitExceeded(message, limit=MAX_CANDIDATES)
        if candidate is None:
            continue
        if isinstance(candidate, Rejected):
            rejected.append(candidate)
            continue
        try:
            found = candidate.check(fetcher, subject.digest, key)
        except _UNUSABLE as error:
            rejected.append(Rejected(candidate.manifest, candidate.layer.digest, str(error)))
            continue
        if found is not None:
            # cosign writes the same signature under its tag and as a referrer.
            signatures.setdefault((found.payload, candidate.layer.annotations.get(SIGNATURE, "")), found)
    causes = [*unreadable, *(entry.why for entry in rejected)]
    if not signatures and not causes:
        raise NotFound(f"{reference} ({subject.digest}) has no signature")
    if not signatures:
        reasons = "; ".join(dict.fromkeys(causes[:3]))
        more = "; …" if len(causes) > 3 else ""
        counts = counted(len(causes), "signature")
        message = f"{reference} ({subject.digest}) is not verified by the key {key}: of {counts}, {reasons}{more}"
        raise IntegrityError(message)
    return Verdict(subject, key, tuple(signatures.values()), tuple(rejected))


@frozen
class _Candidate:
    """A layer that says it is a signature."""

    manifest: Digest
    layer: Descriptor

    def check(self, remote: Fetcher, subject: Digest, key: PublicKey) -> Signature | None:
        """Return the signature, verified; None for what turns out to be none of an image.

        Raises:
            DistError: It is not by the key, or over something else, or cannot be read.
        """
        raw = remote.fetch(self.layer).read(limit=MAX_PAYLOAD)
        if self.layer.media_type != SIMPLE_SIGNING:
            return self._check_bundle(raw, subject, key)
        text = self.layer.annotations.get(SIGNATURE)
        if text is None:
            raise MalformedDocument(f"it has no annotation {SIGNATURE}")
        try:
            signature = from_base64(text)
        except ValueError as error:
            raise MalformedDocument(f"its annotation {SIGNATURE} is not base64") from error
        # The bytes are not looked into before it is known who wrote them.
        if not key.signed(raw, signature):
            keyless = (
                ", and without one: keyless signatures are not verified"
                if CERTIFICATE in self.layer.annotations
                else ""
            )
            raise IntegrityError(f"it was made by another key, or over other bytes{keyless}")
        return self._check_payload(raw, subject)

    def _check_payload(self, raw: bytes, subject: Digest) -> Signature:
        fields = load_json(raw, what="what was signed")
        critical = optional_object(fields, "critical", "")
        if optional_text(critical, "type", "critical") != _SIGNED_TYPE:
            raise MalformedDocument(f"what was signed is not of the type {quoted(_SIGNED_TYPE)}")
        image = optional_object(critical, "image", "critical")
        signed = required_text(image, "docker-manifest-digest", "critical.image")
        if signed != str(subject):
            raise IntegrityError(f"it is over {quoted(signed)}, another image")
        identity = optional_object(critical, "identity", "critical")
        return Signature(
            self.manifest,
            self.layer.digest,
            optional_text(identity, "docker-reference", "critical.identity"),
            optional_object(fields, "optional", ""),
        )

    def _check_bundle(self, raw: bytes, subject: Digest, key: PublicKey) -> Signature | None:
        # https://github.com/sigstore/protobuf-specs/blob/main/protos/sigstore_bundle.proto
        bundle = load_json(raw, what="the bundle")
        if bundle.get("dsseEnvelope") is None:
            raise UnsupportedDocument("the bundle holds no DSSE envelope", media_type=self.layer.media_type)
        envelope = Envelope.from_fields(optional_object(bundle, "dsseEnvelope", ""), where="dsseEnvelope")
        envelope.verify(key)
        statement = envelope.statement
        if statement.predicate_type != _SIGNED_PREDICATE:
            return None  # an attestation
        if not statement.is_about(subject):
            raise IntegrityError("it is over another image")
        return Signature(self.manifest, self.layer.digest, "", statement.predicate)


def _candidates(remote: Fetcher, subject: Digest, unreadable: list[str]) -> Iterator[_Candidate | Rejected | None]:
    """Yield what claims to be a signature, and None for each manifest that was read in vain.

    Args:
        remote: Gives the manifests.
        subject: The digest of what was signed.
        unreadable: Takes what is wrong with the tag, or with the list of referrers, where one cannot be used. Whoever
            can push can spoil one of them: signatures in the other count all the same.
    """
    for holders in (_tagged, _referring):
        try:
            for descriptor in holders(remote, subject):
                yield from _in_manifest(remote, descriptor)
        except NotFound:
            pass
        except _UNUSABLE as error:
            unreadable.append(str(error))


def _in_manifest(remote: Fetcher, descriptor: Descriptor) -> Iterator[_Candidate | Rejected | None]:
    try:
        manifest = Manifest.parse(remote.fetch(descriptor).read(), descriptor.media_type)
    except _UNUSABLE as error:
        yield Rejected(descriptor.digest, None, str(error))
        return
    layers = [
        layer
        for layer in manifest.layers
        if layer.media_type == SIMPLE_SIGNING or layer.media_type.startswith(BUNDLE_PREFIX)
    ]
    if not layers:
        yield None
    for layer in layers:
        yield _Candidate(descriptor.digest, layer)


def _tagged(remote: Fetcher, subject: Digest) -> Iterator[Descriptor]:
    """Yield the manifest that cosign keeps under a tag."""
    tag = f"{subject.algorithm}-{subject.hex}.sig"
    if len(tag) <= 128:  # of a tag
        blob = remote.fetch(
            tag, *(Hint("mediatype", media_type) for media_type in DEFAULT_ACCEPT if media_type in MANIFESTS)
        )
        yield Descriptor(media_type=blob.media_type, digest=blob.digest, size=len(blob.read()))


def _referring(remote: Fetcher, subject: Digest) -> Iterator[Descriptor]:
    """Yield the referrers that may hold signatures; pages and bytes of their list are bounded where it is read."""
    if not isinstance(remote, ReferrerLister):
        return
    for descriptor in remote.referrers(subject):
        # cosign wrote no artifactType for years (before 2.6.4 and 3.0.6), and not every registry fills it in.
        kind = descriptor.artifact_type
        known = kind in {None, OCI_EMPTY, SIGNATURE_ARTIFACT} or str(kind).startswith(BUNDLE_PREFIX)
        if known and descriptor.media_type in MANIFESTS:
            yield descriptor
