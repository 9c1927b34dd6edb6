"""`Lookups`: a bound for the names that are looked up on the way to the entries of layers."""

from __future__ import annotations

from distsdk.errors import LimitExceeded

#: Names that one entry may take beyond those in its own path: links such as ``/lib64`` take one to three.
PER_ENTRY = 64
#: Names that all entries together may take beyond that.
SPARE = 1_000_000


class Lookups:
    """Counts the names that are looked up, so that the work is linear in the entries and their names.

    Symbolic links multiply it otherwise: the path of an entry may lead through 40 of them, each with thousands of
    names, and be another one than that of the entry before.
    """

    def __init__(self, spare: int = SPARE) -> None:
        """Begin.

        Args:
            spare: Names that may be looked up beyond those that entries allow.
        """
        self._spare = self._left = spare

    def allow(self, path: bytes) -> None:
        """Add the names that an entry with this path may take."""
        self._left += PER_ENTRY + path.count(b"/")

    def count(self) -> None:
        """Count a name that is looked up.

        Raises:
            LimitExceeded: There have been too many.
        """
        self._left -= 1
        if self._left < 0:
            raise LimitExceeded(
                f"symbolic links lead through too many directories: looking up {self._spare:,} names more than the "
                "paths have exceeds the limit",
                limit=self._spare,
            )
