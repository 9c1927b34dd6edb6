"""Records of the files whose bytes a store has verified."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from distsdk.spec.digest import Digest

#: Bytes of a record: three integers of at most 20 digits, and their separators.
_MAX_RECORD = 64

#: Do not follow links, and do not block on pipes.
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))


@frozen
class Commits:
    """Records of verified files: size, modification time and inode, a small file for each blob.

    A record is a cache: if it is missing, or the file was replaced, the bytes are hashed again. Records are therefore
    not synced, and a failure to write one is ignored.

    Attributes:
        folder: The directory of the records; the store makes it.
    """

    folder: Path

    def record(self, digest: Digest, found: os.stat_result) -> None:
        """Record a file whose bytes have a digest.

        Args:
            digest: The digest of the bytes.
            found: The file's status, taken before hashing or after the file became read-only.
        """
        with contextlib.suppress(OSError):  # a read-only or full disk, or a layout without records
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS
            descriptor = os.open(self._path(digest), flags, 0o666)
            try:
                os.write(descriptor, _text(found))
            finally:
                os.close(descriptor)

    def holds(self, digest: Digest, found: os.stat_result) -> bool:
        """Return whether a file is the one whose bytes were verified.

        Args:
            digest: The digest of the blob.
            found: The file's status now.
        """
        try:
            descriptor = os.open(self._path(digest), os.O_RDONLY | _FLAGS)
        except OSError:
            return False
        try:
            return os.read(descriptor, _MAX_RECORD) == _text(found)
        except OSError:
            return False
        finally:
            os.close(descriptor)

    def forget(self, digest: Digest) -> None:
        """Remove the record of a blob.

        Args:
            digest: The digest of the blob.
        """
        with contextlib.suppress(OSError):
            self._path(digest).unlink()

    def orphans(self, is_here: frozenset[str] | set[str]) -> Iterator[Path]:
        """Yield the records of blobs that other programs removed.

        Args:
            is_here: The blobs of the store, ``algorithm-hex``.
        """
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                if entry.name not in is_here and not entry.is_dir(follow_symlinks=False):
                    yield self.folder / entry.name

    def _path(self, digest: Digest) -> Path:
        return self.folder / f"{digest.algorithm}-{digest.hex}"


def _text(found: os.stat_result) -> bytes:
    return f"{found.st_size} {found.st_mtime_ns} {found.st_ino}\n".encode()
