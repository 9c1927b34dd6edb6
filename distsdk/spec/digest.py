"""Digests: the names of bytes by their content."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

from attrs import frozen

from distsdk._repr import DisplayedAsText
from distsdk._text import quoted
from distsdk.errors import InvalidDigest

if TYPE_CHECKING:
    from typing import Self

#: Algorithms that are accepted, with the number of their hex digits.
#: https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md#registered-algorithms
_HEX_DIGITS = {"sha256": 64, "sha384": 96, "sha512": 128}

_LOWER_HEX = re.compile(r"[0-9a-f]+")


@frozen(order=True)
class Digest(DisplayedAsText):
    """A digest that is well-formed: ``str(digest)`` is ``algorithm:hex`` and safe in a path or URL.

    Args:
        algorithm: ``sha256``, ``sha384`` or ``sha512``.
        hex: Lower-case hex digits, exactly as many as the algorithm has.

    Raises:
        InvalidDigest: The algorithm is another one, or the hex digits are malformed.

    Examples:
        >>> digest = distsdk.Digest.of(b"")
        >>> digest.algorithm, digest.short
        ('sha256', 'e3b0c44298fc')
        >>> distsdk.Digest.parse("md5:d41d8cd98f00b204e9800998ecf8427e")
        Traceback (most recent call last):
        distsdk.errors.InvalidDigest: ...
    """

    algorithm: str
    hex: str

    def __attrs_post_init__(self) -> None:
        if len(self.hex) != _HEX_DIGITS.get(self.algorithm) or not _LOWER_HEX.fullmatch(self.hex):
            raise InvalidDigest(_complaint(self.algorithm, self.hex))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the digest that ``text`` spells.

        Args:
            text: ``algorithm:hex``, with nothing around it.

        Raises:
            InvalidDigest: It is not one; the message says in which way.
        """
        algorithm, colon, digits = text.partition(":")
        if not colon:
            raise InvalidDigest(f"{quoted(text)} is not a digest: write it as algorithm:hex, such as sha256:…")
        return cls(algorithm, digits)

    @classmethod
    def of(cls, data: bytes, algorithm: str = "sha256") -> Self:
        """Return the digest of ``data``.

        Args:
            data: The bytes as they are on the wire or on disk.
            algorithm: ``sha256``, ``sha384`` or ``sha512``.

        Raises:
            InvalidDigest: The algorithm is another one.
        """
        if algorithm not in _HEX_DIGITS:
            raise InvalidDigest(_complaint(algorithm, ""))
        return cls(algorithm, hashlib.new(algorithm, data, usedforsecurity=False).hexdigest())

    def hasher(self) -> hashlib._Hash:
        """Return a new ``hashlib`` object of this digest's algorithm, to be fed and compared with `hex`."""
        return hashlib.new(self.algorithm, usedforsecurity=False)

    @property
    def short(self) -> str:
        """The first twelve hex digits, for people; not enough to ask a registry with."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"

    def __repr__(self) -> str:
        return f"Digest('{self}')"

    def _repr_html_(self) -> str:
        from distsdk.display.html import digest

        return digest(self)


def _complaint(algorithm: str, digits: str) -> str:
    text = quoted(f"{algorithm}:{digits}")
    if algorithm not in _HEX_DIGITS:
        if algorithm.strip().lower() in _HEX_DIGITS:
            return f"{text} is not a digest: the algorithm is written in lower case, with no space around it"
        return f"{text} has a digest algorithm that cannot be verified: use sha256, sha384 or sha512"
    if digits.strip() != digits:
        return f"{text} is not a digest: remove the white space around it"
    if not _LOWER_HEX.fullmatch(digits.lower()):
        return f"{text} is not a digest: what follows the colon must be hex digits"
    if digits.lower() != digits:
        return f"{text} is not a digest: write its hex digits in lower case"
    expected = _HEX_DIGITS[algorithm]
    return f"{text} is not a digest: {algorithm} has {expected} hex digits, here are {len(digits)}; copy it whole"
