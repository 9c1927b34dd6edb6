"""`Lookups`: a limit on the path components that are looked up while entries of layers are placed."""

from __future__ import annotations

from distsdk.errors import LimitExceeded

#: Lookups that one entry may use beyond one for each component of its path. Links such as ``/lib64`` use one to three.
PER_ENTRY = 64
#: Lookups that all entries together may use beyond their own allowances.
SPARE = 1_000_000


class Lookups:
    """Counts lookups of path components, so that the work stays linear in the entries and the length of their paths.

    Without a limit, symbolic links multiply the work: the path of each entry may lead through 40 links, and the target
    of each link may have thousands of components.
    """

    def __init__(self, spare: int = SPARE) -> None:
        """Start with the common allowance.

        Args:
            spare: Lookups that all entries together may use beyond their own allowances.
        """
        self._spare = self._left = spare

    def allow(self, path: bytes) -> None:
        """Add the allowance of an entry.

        Args:
            path: The path of the entry.
        """
        self._left += PER_ENTRY + path.count(b"/")

    def count(self) -> None:
        """Count one lookup.

        Raises:
            LimitExceeded: The allowances are used up.
        """
        self._left -= 1
        if self._left < 0:
            raise LimitExceeded(
                f"symbolic links lead through too many directories: {self._spare:,} lookups beyond those of the paths "
                "themselves is the limit",
                limit=self._spare,
            )
