"""Hash and count a stream, and compare both with the descriptor."""

from __future__ import annotations

from distsdk.errors import DigestMismatch, SizeMismatch
from distsdk.spec.digest import Digest


class Verifier:
    """Counts and hashes a stream.

    In the same thread: while one chunk is hashed, the kernel receives the next. A second thread gains nothing on that,
    since it has to read from another core's cache what is hot in this one's (measured: 0.54 s a GiB hot, 0.74 s not).
    """

    def __init__(self, digest: Digest) -> None:
        self.count = 0
        self.size: int | None = None  # in bytes, where it is declared
        self._digest = digest
        self._hasher = digest.hasher()

    def feed(self, chunk: bytes) -> None:
        """Take note of the next bytes.

        Raises:
            SizeMismatch: They are more than declared.
        """
        self.count += len(chunk)
        if self.size is not None and self.count > self.size:
            message = f"{self._digest} has more bytes than the {self.size} declared"
            raise SizeMismatch(message, expected=self.size, got=self.count)
        self._hasher.update(chunk)

    def matches(self) -> bool:
        """Whether these are all the bytes, and the right ones."""
        return self.size in (None, self.count) and self._got() == self._digest

    def verdict(self) -> int:
        """Return the count of bytes if they are what they should be.

        Raises:
            SizeMismatch: They are fewer than declared.
            DigestMismatch: They hash to something else.
        """
        if self.size is not None and self.count != self.size:
            message = f"{self._digest} ended after {self.count} bytes, declared are {self.size}"
            raise SizeMismatch(message, expected=self.size, got=self.count)
        if not self.matches():
            raise digest_mismatch(self._digest, self._got())
        return self.count

    def _got(self) -> Digest:
        return Digest(self._digest.algorithm, self._hasher.hexdigest())


def digest_mismatch(expected: Digest, got: Digest) -> DigestMismatch:
    """Return the error for bytes that hash to another digest."""
    return DigestMismatch(
        f"the bytes are not those asked for: expected {expected}, got {got}", expected=str(expected), got=str(got)
    )
