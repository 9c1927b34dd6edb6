"""Hash and count the bytes of a stream, and compare both with the descriptor."""

from __future__ import annotations

from distsdk.errors import DigestMismatch, SizeMismatch
from distsdk.spec.digest import Digest


class Verifier:
    """Counts and hashes a stream, in the reading thread.

    While one chunk is hashed, the kernel receives the next. A second thread would gain nothing: the chunk is in the
    cache of the reading core (measured: 0.54 s per GiB from this cache, 0.74 s from another core).

    Args:
        digest: The expected digest.
    """

    def __init__(self, digest: Digest) -> None:
        self.count = 0
        self.size: int | None = None  # in bytes; None if not declared
        self._digest = digest
        self._hasher = digest.hasher()

    def feed(self, chunk: bytes) -> None:
        """Count and hash the next bytes.

        Args:
            chunk: The bytes.

        Raises:
            SizeMismatch: There are more bytes than declared.
        """
        self.count += len(chunk)
        if self.size is not None and self.count > self.size:
            message = f"size of {self._digest} is more than {self.size} bytes, expected {self.size}"
            raise SizeMismatch(message, expected=self.size, got=self.count)
        self._hasher.update(chunk)

    def matches(self) -> bool:
        """Return whether the size, if declared, and the digest are the expected ones."""
        return self.size in (None, self.count) and self._got() == self._digest

    def verdict(self) -> int:
        """Return the number of bytes, if they are the expected ones.

        Raises:
            SizeMismatch: There are fewer bytes than declared.
            DigestMismatch: The bytes have another digest.
        """
        if self.size is not None and self.count != self.size:
            message = f"size of {self._digest} is {self.count} bytes, expected {self.size}"
            raise SizeMismatch(message, expected=self.size, got=self.count)
        if not self.matches():
            raise digest_mismatch(self._digest, self._got())
        return self.count

    def _got(self) -> Digest:
        return Digest(self._digest.algorithm, self._hasher.hexdigest())


def digest_mismatch(expected: Digest, got: Digest) -> DigestMismatch:
    """Return the error for bytes with another digest.

    Args:
        expected: The requested digest.
        got: The digest of the bytes.
    """
    return DigestMismatch(
        f"digest verification failed: expected {expected}, got {got}", expected=str(expected), got=str(got)
    )
