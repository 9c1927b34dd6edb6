"""Public keys in PEM form, and the signatures that `cryptography` verifies with them."""

from __future__ import annotations

import functools
import os
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from attrs import field, frozen

from distsdk._repr import Displayed
from distsdk.errors import InvalidConfig, MissingExtra
from distsdk.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable

#: A public key: PEM, or the path of a file with it.
Key: TypeAlias = "bytes | str | os.PathLike[str]"

#: Bytes of a file with a key.
MAX_KEY_FILE = 64 * 1024

#: Bits of an RSA key: sigstore's own bounds, https://github.com/sigstore/sigstore/blob/main/pkg/cryptoutils/publickey.go.
_RSA_BITS = range(2048, 4096 + 1)


@frozen
class PublicKey(Displayed):
    """A key that signatures are held against.

    The key says how they are made: nothing that comes with a signature does. ECDSA on P-256 with SHA-256, RSA by
    PKCS #1 v1.5 with SHA-256, Ed25519.

    Attributes:
        kind: ``ECDSA P-256``, ``RSA 3072``, ``Ed25519``.
        fingerprint: The SHA-256 of the key in DER form (SubjectPublicKeyInfo), as
            ``openssl pkey -pubin -outform DER | sha256sum`` says it.
        der: The key in that form.
    """

    kind: str
    fingerprint: Digest
    der: bytes = field(repr=False)

    @classmethod
    def load(cls, key: Key) -> PublicKey:
        """Return the key that a file or bytes in PEM form hold.

        Raises:
            InvalidConfig: They hold none, or one of another kind.
            MissingExtra: ``cryptography`` is not installed.
            OSError: The file cannot be read.
        """
        try:
            from cryptography.exceptions import UnsupportedAlgorithm
            from cryptography.hazmat.primitives import serialization
        except ImportError as error:
            raise MissingExtra("verify", "verifying a signature") from error
        what = "the key" if isinstance(key, bytes) else f"the key in {os.fspath(key)}"
        pem = key if isinstance(key, bytes) else _read(key)
        try:
            loaded = serialization.load_pem_public_key(pem)
        except (ValueError, UnsupportedAlgorithm) as error:
            hint = ": this is a private key; name the public one" if b"PRIVATE KEY-----" in pem else ""
            raise InvalidConfig(f"{what} is no public key in PEM form{hint}") from error
        der = loaded.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        kind, _ = _way(der)
        if not kind:
            bits = f"{_RSA_BITS[0]} to {_RSA_BITS[-1]} bits"
            message = f"{what} is none that is verified with: use ECDSA on P-256, Ed25519, or RSA of {bits}"
            raise InvalidConfig(message)
        return cls(kind, Digest.of(der), der)

    def signed(self, data: bytes, signature: bytes) -> bool:
        """Whether a signature over these bytes was made by this key's other half."""
        from cryptography.exceptions import InvalidSignature

        _, check = _way(self.der)
        try:
            check(signature, data)
        except InvalidSignature:
            return False
        return True

    def __str__(self) -> str:
        return f"{self.kind} {self.fingerprint}"


@functools.lru_cache(maxsize=16)
def _way(der: bytes) -> tuple[str, Callable[[bytes, bytes], None]]:
    """Return the kind of a key, and what raises ``InvalidSignature`` for a signature and bytes."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa

    key = serialization.load_der_public_key(der)
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        elliptic = key
        return "ECDSA P-256", lambda signature, data: elliptic.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    if isinstance(key, rsa.RSAPublicKey) and key.key_size in _RSA_BITS:
        old = key
        padded = padding.PKCS1v15()
        return f"RSA {old.key_size}", lambda signature, data: old.verify(signature, data, padded, hashes.SHA256())
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "Ed25519", key.verify

    def refuse(signature: bytes, data: bytes) -> None:
        raise InvalidSignature

    return "", refuse


def from_base64(text: str) -> bytes:
    """Decode base64; line breaks in it are ignored, as Go's decoder does, which cosign reads it with.

    Raises:
        ValueError: The text is not base64 (RFC 4648, section 4).
    """
    return b64decode(text.replace("\r", "").replace("\n", "").encode("ascii"), validate=True)


def _read(path: str | os.PathLike[str]) -> bytes:
    with Path(path).open("rb") as file:
        return file.read(MAX_KEY_FILE)
