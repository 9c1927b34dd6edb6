"""Signatures as cosign writes them, made here with `cryptography`: what is verified, and what never is."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from base64 import b64decode, b64encode
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from attrs import evolve
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509 import load_pem_x509_certificate

import distsdk
from distsdk import Credentials, Descriptor, Digest, Envelope, Hosts, Verdict, verify_signatures
from distsdk.errors import (
    Denied,
    IntegrityError,
    InvalidConfig,
    LimitExceeded,
    MalformedDocument,
    MissingExtra,
    NotFound,
    UnsupportedDocument,
)
from distsdk.spec.media_types import OCI_CONFIG, OCI_MANIFEST
from distsdk.testing import JsonFields, Registry, Status
from distsdk.trust import signatures
from distsdk.trust.attestations import DSSE, IN_TOTO
from distsdk.trust.keys import PublicKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distsdk.remotes.remote import Remote

    Private = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey

NAME = "library/x"
ARTIFACT = "application/vnd.dev.cosign.artifact.sig.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
KEYS: dict[str, Private] = {
    "ECDSA P-256": ec.generate_private_key(ec.SECP256R1()),
    "RSA 2048": rsa.generate_private_key(65537, 2048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
}
OURS = KEYS["ECDSA P-256"]
OTHER = ec.generate_private_key(ec.SECP256R1())


def public(key: Private | ec.EllipticCurvePrivateKey) -> bytes:
    """The public half in PEM form."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return key.public_key().public_bytes(serialization.Encoding.PEM, form)


def signed(key: Private, data: bytes) -> bytes:
    """A signature as cosign makes it with such a key."""
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(data, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(data, padding.PKCS1v15(), hashes.SHA256())
    return key.sign(data)


def payload(digest: object, **changed: Any) -> bytes:  # noqa: ANN401 - fields of JSON
    """What cosign signs."""
    critical = {
        "identity": {"docker-reference": "registry.example/x"},
        "image": {"docker-manifest-digest": str(digest)},
        "type": "cosign container image signature",
    }
    return json.dumps({"critical": {**critical, **changed}, "optional": {"build": "7"}}).encode()


@pytest.fixture
def registry() -> Iterator[Registry]:
    """An image ``1`` that nobody signed."""
    with Registry() as registry:
        registry.add_image(NAME, "1", layers=[b"1"])
        yield registry


def remote(registry: Registry) -> Remote:
    """What is asked."""
    return distsdk.connect(registry.locator(NAME), credentials=Credentials.anonymous(), hosts=Hosts())


def image(registry: Registry) -> Descriptor:
    """What is to be signed."""
    return remote(registry).fetch("1").descriptor


def add(
    registry: Registry,
    *layers: tuple[bytes, bytes | str | None],
    subject: Descriptor | None = None,
    kind: str = signatures.SIMPLE_SIGNING,
    certificate: str | None = None,
) -> Descriptor:
    """Put signatures where cosign has them: under the tag, or as a referrer; returns the manifest."""
    listed = []
    for data, signature in layers:
        text = b64encode(signature).decode() if isinstance(signature, bytes) else signature
        own = {} if text is None else {signatures.SIGNATURE: text}
        if certificate is not None:
            own[signatures.CERTIFICATE] = certificate
        layer = registry.add_blob(NAME, data, media_type=kind)
        listed.append(evolve(layer, annotations=own).to_fields())
    config_type = OCI_CONFIG if subject is None else ARTIFACT
    fields = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": registry.add_blob(NAME, b'{"architecture":""}', media_type=config_type).to_fields(),
        "layers": listed,
    }
    if subject is not None:
        fields["subject"] = subject.to_fields()
    tags = [f"sha256-{image(registry).digest.hex}.sig"] if subject is None else []
    return registry.add_manifest(NAME, fields, OCI_MANIFEST, tags=tags)


def verify(registry: Registry, key: bytes = public(OURS), tag: str = "1") -> Verdict:
    """Ask for the verdict."""
    return verify_signatures(f"{registry.locator(NAME)}:{tag}", key, remote=remote(registry))


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("where", ["tag", "referrer"])
def test_a_signature_is_verified(registry: Registry, kind: str, where: str) -> None:
    """By each kind of key, at each place: the verdict says what was signed, by which key, and what the signer said."""
    key, subject = KEYS[kind], image(registry)
    data = payload(subject.digest)
    holder = add(registry, (data, signed(key, data)), subject=subject if where == "referrer" else None)
    verdict = verify(registry, public(key))
    assert (subject, kind, ()) == (verdict.subject, verdict.key.kind, verdict.rejected)
    assert "\x1b" not in repr(verdict)
    assert len(repr(verdict)) < 2000
    [found] = verdict.signatures
    assert (holder.digest, Digest.of(data)) == (found.manifest, found.payload)
    assert ("registry.example/x", {"build": "7"}) == (found.identity, found.annotations)
    for name, other in KEYS.items():
        if name != kind:
            with pytest.raises(IntegrityError, match="by another key"):
                verify(registry, public(other))


def test_the_same_signature_in_two_places_is_one(registry: Registry) -> None:
    """It may be written to both."""
    subject = image(registry)
    data = payload(subject.digest)
    entry = (data, signed(OURS, data))
    add(registry, entry)
    add(registry, entry, subject=subject)
    assert 1 == len(verify(registry).signatures)


def test_openssl_agrees(registry: Registry, tmp_path: Path) -> None:
    """The fingerprint is the one that openssl gives, and openssl verifies what was verified."""
    data = payload(image(registry).digest)
    signature = signed(OURS, data)
    add(registry, (data, signature))
    for name, content in {"key": public(OURS), "data": data, "signature": signature}.items():
        (tmp_path / name).write_bytes(content)
    key = verify(registry).key
    der = subprocess.run(
        ["openssl", "pkey", "-pubin", "-in", tmp_path / "key", "-outform", "DER"], capture_output=True, check=True
    )
    assert Digest.of(der.stdout) == key.fingerprint
    words = ["openssl", "dgst", "-sha256", "-verify", "key", "-signature", "signature", "data"]
    assert 0 == subprocess.run(words, capture_output=True, check=False, cwd=tmp_path).returncode


def test_no_signature_is_no_verdict(registry: Registry) -> None:
    """There is none, or none in what is found: nothing is ever verified by no signature."""
    with pytest.raises(NotFound, match="has no signature"):
        verify(registry)
    registry.add_artifact(NAME, artifact_type="application/spdx+json", files={"a": b"1"}, subject=image(registry))
    with pytest.raises(NotFound, match="has no signature"):
        verify(registry)
    add(registry)
    with pytest.raises(NotFound, match="has no signature"):
        verify(registry)
    with pytest.raises(IntegrityError, match="is not verified"):
        Verdict(image(registry), PublicKey.load(public(OURS)), (), ())


def _wrong_digest(registry: Registry) -> tuple[bytes, bytes | str | None]:
    data = payload(Digest.of(b"another image"))
    return data, signed(OURS, data)


def _wrong_type(registry: Registry) -> tuple[bytes, bytes | str | None]:
    data = payload(image(registry).digest, type="atomic container signature")
    return data, signed(OURS, data)


def _no_json(registry: Registry) -> tuple[bytes, bytes | str | None]:
    return b"[[[", signed(OURS, b"[[[")


def _changed(registry: Registry) -> tuple[bytes, bytes | str | None]:
    data = payload(image(registry).digest)
    return data, signed(OURS, data + b" ")


def _by_other(registry: Registry) -> tuple[bytes, bytes | str | None]:
    data = payload(image(registry).digest)
    return data, signed(OTHER, data)


def _no_base64(registry: Registry) -> tuple[bytes, bytes | str | None]:
    return payload(image(registry).digest), "no base64 \x1b[31m"


def _unsigned(registry: Registry) -> tuple[bytes, bytes | str | None]:
    return payload(image(registry).digest), None


def _empty(registry: Registry) -> tuple[bytes, bytes | str | None]:
    return payload(image(registry).digest), b""


def _large(registry: Registry) -> tuple[bytes, bytes | str | None]:
    data = payload(image(registry).digest) + b" " * signatures.MAX_PAYLOAD
    return data, signed(OURS, data)


WRONG: dict[str, tuple[Callable[[Registry], tuple[bytes, bytes | str | None]], str]] = {
    "over another image": (_wrong_digest, "another image"),
    "of another type": (_wrong_type, "not of the type"),
    "no JSON": (_no_json, "is not JSON"),
    "over other bytes": (_changed, "over other bytes"),
    "by another key": (_by_other, "by another key"),
    "not base64": (_no_base64, "not base64"),
    "no signature": (_unsigned, "no annotation"),
    "empty": (_empty, "by another key"),
    "too large": (_large, "larger than the limit"),
}


@pytest.mark.parametrize("case", WRONG)
@pytest.mark.parametrize("place", ["tag", "referrer"])
def test_what_is_wrong_is_not_verified(registry: Registry, case: str, place: str) -> None:
    """The error says why; beside one that is right, the wrong one is named, and does no harm."""
    make, why = WRONG[case]
    wrong = make(registry)
    subject = image(registry) if place == "referrer" else None
    holder = add(registry, wrong, subject=subject)
    with pytest.raises(IntegrityError, match=why) as raised:
        verify(registry)
    assert "\x1b" not in str(raised.value)
    data = payload(image(registry).digest)
    add(registry, wrong, (data, signed(OURS, data)), subject=subject)
    verdict = verify(registry)
    assert [Digest.of(data)] == [found.payload for found in verdict.signatures]
    assert {Digest.of(wrong[0])} == {entry.payload for entry in verdict.rejected}
    assert all(why in entry.why for entry in verdict.rejected)
    assert place == "tag" or holder.digest in {entry.manifest for entry in verdict.rejected}


def test_damaged_bytes_are_not_verified(registry: Registry) -> None:
    """A registry that gives other bytes, or a manifest that is none, is told; a signature elsewhere still counts."""
    subject = image(registry)
    data = payload(subject.digest)
    add(registry, (data, signed(OURS, data)))
    registry.add_blob(NAME, data.replace(b"7", b"8"), digest=Digest.of(data))
    with pytest.raises(IntegrityError, match="digest verification failed"):
        verify(registry)
    registry.add_blob(NAME, data)
    fields = {"schemaVersion": 2, "config": {}, "layers": [{"mediaType": "x/y"}], "subject": subject.to_fields()}
    registry.add_manifest(NAME, fields, OCI_MANIFEST)
    assert 1 == len(verify(registry).signatures)


def test_only_absence_means_that_there_is_none(registry: Registry) -> None:
    """A registry that refuses, or does not answer, is an error of its own."""
    data = payload(image(registry).digest)
    add(registry, (data, signed(OURS, data)))
    registry.fault(Status(403), path=r"\.sig")
    with pytest.raises(Denied):
        verify(registry)


def test_of_an_index_the_index_is_signed(registry: Registry) -> None:
    """A signature of a child says nothing of the index, nor the other way round."""
    child = registry.add_image(NAME, "child", layers=[b"2"], platform="linux/amd64")
    index = registry.add_index(NAME, "all", manifests=[child])
    for signed_one, unsigned in ((index, "child"), (child, "all")):
        data = payload(signed_one.digest)
        add(registry, (data, signed(OURS, data)), subject=evolve(signed_one, platform=None))
        tag = {"child": "all", "all": "child"}[unsigned]
        assert signed_one.digest == verify(registry, tag=tag).subject.digest
        if unsigned == "child":
            with pytest.raises(NotFound):
                verify(registry, tag=unsigned)


@pytest.mark.parametrize("place", ["tag", "referrers", "referrers that hold none"])
def test_candidates_are_bounded(registry: Registry, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    """Checking ends at a number of candidates; a signature that was verified before counts, a later one does not."""
    monkeypatch.setattr(signatures, "MAX_CANDIDATES", 3)
    subject = image(registry)
    data = payload(subject.digest)
    good, junk = (data, signed(OURS, data)), [(data, bytes([number])) for number in range(4)]
    if place == "tag":
        add(registry, *junk, good)
    for layer in junk if place != "tag" else []:
        add(registry, layer, subject=subject, kind=DSSE if "none" in place else signatures.SIMPLE_SIGNING)
    registry.reset()
    with pytest.raises(LimitExceeded, match="more than 3 candidates for a signature") as caught:
        verify(registry)
    assert 3 == caught.value.limit
    assert registry.count() <= 2 + 2 * 4 + 2  # the image, the tag, manifests and layers, the list of referrers
    add(registry, good, *junk)
    assert 1 == len(verify(registry).signatures)


@pytest.mark.parametrize("place", ["layers", "referrers"])
def test_junk_does_not_block_a_good_signature(registry: Registry, place: str) -> None:
    """A signature after 101 signatures of somebody else is verified, and the others are listed as rejected."""
    subject = image(registry)
    data = payload(subject.digest)
    junk = [(data, number.to_bytes(2)) for number in range(101)]
    if place == "layers":
        add(registry, *junk, (data, signed(OURS, data)))
    else:
        for layer in junk:
            add(registry, layer, subject=subject)
        add(registry, (data, signed(OURS, data)), subject=subject)
    verdict = verify(registry)
    assert (1, 101) == (len(verdict.signatures), len(verdict.rejected))


@pytest.mark.parametrize("spoilt", ["tag", "index under the tag", "list"])
def test_a_spoilt_place_does_not_block_the_other(registry: Registry, spoilt: str) -> None:
    """A tag or a list of referrers that cannot be used is named as the cause, and signatures elsewhere count."""
    subject = image(registry)
    data = payload(subject.digest)
    tag = f"sha256-{subject.digest.hex}.sig"
    if spoilt == "tag":
        registry.add_manifest(NAME, b'{"schemaVersion": 1}', OCI_MANIFEST, tags=[tag])
    elif spoilt == "index under the tag":
        registry.add_index(NAME, tag, manifests=[subject])
    else:
        registry.fault(JsonFields({"manifests": "none"}), path=r"/referrers/")
    with pytest.raises(IntegrityError, match="is not verified by the key"):
        verify(registry)
    add(registry, (data, signed(OURS, data)), subject=None if spoilt == "list" else subject)
    assert 1 == len(verify(registry).signatures)


@pytest.mark.parametrize("line_break", ["\n", "\r\n"])
def test_line_breaks_in_base64(registry: Registry, line_break: str) -> None:
    """A signature whose base64 is broken into lines is verified; other white space is refused."""
    data = payload(image(registry).digest)
    text = b64encode(signed(OURS, data)).decode()
    lines = line_break.join([text[:40], text[40:], ""])
    add(registry, (data, lines))
    assert 1 == len(verify(registry).signatures)
    broken = Envelope.from_fields({"payloadType": "x", "payload": lines, "signatures": []})
    assert signed(OURS, data)[:1] == broken.payload[:1]
    add(registry, (data, f"{text[:40]} {text[40:]}"))
    with pytest.raises(IntegrityError, match="is not base64"):
        verify(registry)


# Signatures that cosign and skopeo made

COSIGN = Path(__file__).parents[1] / "data" / "cosign"


def add_fixture(registry: Registry, name: str) -> None:
    """Push an image of skopeo's ``dir:`` form as the tag ``fixture``, and its signatures where cosign keeps them."""
    raw = (COSIGN / name / "manifest.json").read_bytes()
    registry.add_manifest(NAME, raw, json.loads(raw)["mediaType"], tags=["fixture"])
    layers = []
    for file in sorted((COSIGN / name).glob("signature-*")):
        fields = json.loads(file.read_bytes().removeprefix(b"\0sigstore-json\n"))
        layer = registry.add_blob(NAME, b64decode(fields["payload"]), media_type=fields["mimeType"])
        layers.append(evolve(layer, annotations=fields["annotations"]).to_fields())
    config = registry.add_blob(NAME, b"{}", media_type=OCI_CONFIG).to_fields()
    fields = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers}
    registry.add_manifest(NAME, fields, OCI_MANIFEST, tags=[f"sha256-{Digest.of(raw).hex}.sig"])


@pytest.mark.parametrize(
    ("name", "key", "verified", "rejected"),
    [
        ("valid", "cosign.pub", 1, 0),
        ("valid-2", "cosign.pub", 2, 0),
        ("valid-with-tag", "cosign.pub", 1, 0),
        ("mixed", "cosign.pub", 1, 1),
        ("key-rekor-valid", "cosign2.pub", 1, 0),
        ("pki-valid", "pki-cert", 1, 0),  # its base64 has line breaks
    ],
)
def test_signatures_of_cosign(registry: Registry, name: str, key: str, verified: int, rejected: int) -> None:
    """Signatures that cosign and skopeo made with a key are verified with it."""
    add_fixture(registry, name)
    pem = (COSIGN / key).read_bytes()
    if key == "pki-cert":
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        pem = load_pem_x509_certificate(pem).public_key().public_bytes(serialization.Encoding.PEM, form)
    verdict = verify(registry, pem, "fixture")
    assert (verified, rejected) == (len(verdict.signatures), len(verdict.rejected))


@pytest.mark.parametrize(
    ("name", "key", "error", "match"),
    [
        ("valid", "cosign2.pub", IntegrityError, "by another key"),
        ("modified-manifest", "cosign.pub", IntegrityError, "another image"),
        ("fulcio-rekor-valid", "cosign.pub", IntegrityError, "keyless signatures are not verified"),
        ("other-attachment", "cosign.pub", NotFound, "has no signature"),
    ],
)
def test_what_cosign_did_not_sign(registry: Registry, name: str, key: str, error: type[Exception], match: str) -> None:
    """Signatures of cosign over something else, by another key or by none are refused; attachments are none."""
    add_fixture(registry, name)
    with pytest.raises(error, match=match):
        verify(registry, (COSIGN / key).read_bytes(), "fixture")


def test_keyless_signatures_are_not_verified(registry: Registry) -> None:
    """The error says so."""
    data = payload(image(registry).digest)
    add(registry, (data, signed(OTHER, data)), certificate="-----BEGIN CERTIFICATE-----")
    with pytest.raises(IntegrityError, match="keyless signatures are not verified"):
        verify(registry)


# Bundles, as cosign 3 has them


def envelope(key: Private, statement: dict[str, Any] | bytes, kind: str = IN_TOTO) -> dict[str, Any]:
    """A DSSE envelope, signed."""
    raw = statement if isinstance(statement, bytes) else json.dumps(statement).encode()
    over = b" ".join([b"DSSEv1", str(len(kind)).encode(), kind.encode(), str(len(raw)).encode(), raw])
    return {
        "payload": b64encode(raw).decode(),
        "payloadType": kind,
        "signatures": [{"keyid": "", "sig": b64encode(signed(key, over)).decode()}],
    }


def said(digest: Digest, kind: str = "https://sigstore.dev/cosign/sign/v1") -> dict[str, Any]:
    """A statement."""
    return {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"name": "x", "digest": {digest.algorithm: digest.hex}}],
        "predicateType": kind,
        "predicate": {"who": "us"},
    }


def bundle(registry: Registry, fields: dict[str, Any]) -> Descriptor:
    """A bundle that belongs to the image."""
    raw = json.dumps({"mediaType": BUNDLE, "verificationMaterial": {"publicKey": {"hint": ""}}, **fields}).encode()
    return add(registry, (raw, None), subject=image(registry), kind=BUNDLE)


def test_a_bundle_is_verified(registry: Registry) -> None:
    """It is over the image, by the key; an attestation beside it is no signature, and none of it verifies an image."""
    digest = image(registry).digest
    bundle(registry, {"dsseEnvelope": envelope(OURS, said(digest, "https://slsa.dev/provenance/v1"))})
    with pytest.raises(NotFound, match="has no signature"):
        verify(registry)
    bundle(registry, {"dsseEnvelope": envelope(OTHER, said(digest))})
    bundle(registry, {"dsseEnvelope": envelope(OURS, said(Digest.of(b"other")))})
    bundle(registry, {"messageSignature": {}})
    with pytest.raises(IntegrityError, match="3 signatures") as raised:
        verify(registry)
    for why in ("is by the key", "over another image", "no DSSE envelope"):
        assert why in str(raised.value)
    holder = bundle(registry, {"dsseEnvelope": envelope(OURS, said(digest))})
    verdict = verify(registry)
    assert [(holder.digest, {"who": "us"})] == [(found.manifest, found.annotations) for found in verdict.signatures]
    assert 3 == len(verdict.rejected)


# Keys


@pytest.mark.parametrize(
    ("key", "match"),
    [
        (b"", "no public key in PEM form"),
        (b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", "no public key in PEM form"),
        (
            OTHER.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            ),
            "private key; name the public one",
        ),
        (public(ec.generate_private_key(ec.SECP384R1())), "use ECDSA on P-256"),
        (public(rsa.generate_private_key(65537, 1024)), "use ECDSA on P-256"),  # noqa: S505 - it is refused
    ],
    ids=["empty", "damaged", "private", "P-384", "short RSA"],
)
def test_a_key_that_cannot_be_used_is_refused(registry: Registry, key: bytes, match: str) -> None:
    """Before anything is asked for."""
    with pytest.raises(InvalidConfig, match=match):
        verify(registry, key)
    assert 0 == registry.count()


def test_a_key_may_be_in_a_file(registry: Registry, tmp_path: Path) -> None:
    """By its path; the verdict can be pickled with it."""
    data = payload(image(registry).digest)
    add(registry, (data, signed(OURS, data)))
    file = tmp_path / "cosign.pub"
    file.write_bytes(public(OURS))
    reference = f"{registry.locator(NAME)}:1"
    verdict = verify_signatures(reference, file, remote=remote(registry))
    assert verify(registry) == verdict == verify_signatures(reference, str(file), remote=remote(registry))
    again = pickle.loads(pickle.dumps(verdict))  # noqa: S301 - our own bytes
    assert verdict == again
    assert again.key.signed(data, signed(OURS, data))
    with pytest.raises(FileNotFoundError):
        verify_signatures(reference, tmp_path / "nothing", remote=remote(registry))


def test_without_cryptography_the_extra_is_named(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """And importing distsdk does not bring it along."""
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(MissingExtra, match=r"distsdk\[verify\]"):
        verify(registry)
    program = "import sys, distsdk; distsdk.verify_signatures, distsdk.Sbom; assert 'cryptography' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True)


# Envelopes and statements


def test_an_envelope_is_verified() -> None:
    """Over type and payload together, by any of its signatures, in either alphabet of base64."""
    digest = Digest.of(b"x")
    fields = envelope(OURS, said(digest, "https://slsa.dev/provenance/v1"))
    fields["signatures"].insert(0, envelope(OTHER, b"{}")["signatures"][0])
    found = Envelope.parse(json.dumps(fields).encode())
    assert "ECDSA P-256" == found.verify(public(OURS)).kind
    assert found.statement.is_about(digest)
    assert found.statement.is_about(str(digest))
    assert not found.statement.is_about(Digest.of(b"y"))
    assert ("https://slsa.dev/provenance/v1", {"who": "us"}) == (
        found.statement.predicate_type,
        found.statement.predicate,
    )
    with pytest.raises(IntegrityError, match="none of 2 signatures"):
        found.verify(public(KEYS["Ed25519"]))
    with pytest.raises(IntegrityError, match="none of 2 signatures"):
        evolve(found, payload_type="text/plain").verify(public(OURS))
    with pytest.raises(IntegrityError, match="none of 0 signatures"):
        evolve(found, signatures=()).verify(public(OURS))
    binary = envelope(OURS, bytes(range(256)), "x/y")
    binary["payload"] = binary["payload"].translate(str.maketrans("+/", "-_"))
    other = Envelope.parse(json.dumps(binary).encode())
    assert (bytes(range(256)), "ECDSA P-256") == (other.payload, other.verify(public(OURS)).kind)
    with pytest.raises(UnsupportedDocument, match="no in-toto statement"):
        _ = other.statement


def test_the_encoding_is_that_of_the_specification() -> None:
    """The test vector of https://github.com/secure-systems-lab/dsse/blob/master/protocol.md."""
    found = Envelope("http://example.com/HelloWorld", b"hello world", ())
    assert b"DSSEv1 29 http://example.com/HelloWorld 11 hello world" == found.signed


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"payload": "no base64!"}, MalformedDocument),
        ({"payload": "é"}, MalformedDocument),
        ({"payload": None}, MalformedDocument),
        ({"payloadType": 7}, MalformedDocument),
        ({"signatures": {}}, MalformedDocument),
        ({"signatures": [7]}, MalformedDocument),
        ({"signatures": [{}]}, MalformedDocument),
        ({"signatures": [{"sig": "AAAA"}] * 101}, LimitExceeded),
    ],
)
def test_a_broken_envelope_is_refused(change: dict[str, object], error: type[Exception]) -> None:
    """By an error of ours."""
    with pytest.raises(error):
        Envelope.parse(json.dumps({**envelope(OURS, b"{}"), **change}).encode())


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"_type": "https://in-toto.io/Statement/v9"}, UnsupportedDocument),
        ({"_type": None}, MalformedDocument),
        ({"subject": 7}, MalformedDocument),
        ({"subject": [7]}, MalformedDocument),
        ({"subject": [{"digest": {"sha256": 7}}]}, MalformedDocument),
        ({"subject": [{}] * 10_001}, LimitExceeded),
        ({"predicateType": ""}, MalformedDocument),
        ({"predicate": []}, MalformedDocument),
    ],
)
def test_a_broken_statement_is_refused(change: dict[str, object], error: type[Exception]) -> None:
    """By an error of ours."""
    with pytest.raises(error):
        distsdk.Statement.parse(json.dumps({**said(Digest.of(b"x")), **change}).encode())


def test_attestations_are_found_by_their_type(registry: Registry) -> None:
    """The way from an image to what somebody said of it: the referrers, a manifest, a layer."""
    subject = image(registry)
    raw = json.dumps(envelope(OURS, said(subject.digest, "https://spdx.dev/Document"))).encode()
    registry.add_artifact(NAME, artifact_type=DSSE, files={"attestation": raw}, subject=subject)
    where = remote(registry)
    [found] = distsdk.referrers(f"{registry.locator(NAME)}:1", artifact_type=DSSE, remote=where)
    manifest = distsdk.Manifest.parse(where.fetch(found).read())
    read = Envelope.parse(where.fetch(manifest.layers[0]).read())
    read.verify(public(OURS))
    assert read.statement.is_about(subject.digest)
