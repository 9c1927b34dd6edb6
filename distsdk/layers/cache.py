"""A folder in which what was learnt about layers is kept: bounded, shared by processes, cleared at any time."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from distsdk._files import sync_folder
from distsdk._repr import Displayed
from distsdk._text import human_size
from distsdk.errors import Unsafe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distsdk.spec.digest import Digest

#: Bytes that a cache keeps, unless told otherwise.
LIMIT = 4 * 1024**3

#: Bytes of a file that is read into memory: an index of a million members.
MAX_LOADED = 256 * 1024**2

#: Seconds after which a file that nobody finished was left behind by somebody who was killed.
STALE = 24 * 60 * 60.0

#: Seconds to wait for another process that is about to write the same; then both do.
PATIENCE = 600.0

#: No link is followed, no child inherits a file, and nobody waits for the other end of a pipe that was planted.
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))

_BEGUN, _LOCK = ".begun", ".lock"

_log = logging.getLogger(__name__)


class Cache(Displayed):
    """Files by the digest of the layer they are about. What is not there can be made anew.

    Whoever can write into the folder decides what a layer seems to hold. So it has to belong to the user, and be
    writable by nobody else; files in it that are links, or another user's, are passed over.

    Files appear under their names whole. Those that were not used for longest are removed when there are more bytes
    than the limit; who is reading one reads on. Threads and processes may share a cache.

    Attributes:
        folder: Where they are; made on first use.
        limit: Bytes of all files together.
    """

    def __init__(self, folder: str | os.PathLike[str], *, limit: int = LIMIT) -> None:
        """Name the folder. Nothing is read or made.

        Args:
            folder: For this cache alone.
            limit: Bytes of all files together. A file that is larger by itself is not kept.
        """
        self.folder = Path(folder)
        self.limit = limit

    _repr_fields = ("folder", "limit")

    def __repr__(self) -> str:
        return f"<Cache {self.folder} at most {human_size(self.limit)}>"

    def load(self, digest: Digest, kind: str) -> bytes | None:
        """Return a file's bytes, or None where there is none that can be used.

        Args:
            digest: The layer's.
            kind: What it is, and its version: letters and digits.

        Raises:
            Unsafe: Others may write into the folder.
        """
        file = self.open(digest, kind)
        if file is None:
            return None
        with file:
            data = file.read(MAX_LOADED + 1)
        return data if len(data) <= MAX_LOADED else None

    def open(self, digest: Digest, kind: str) -> io.FileIO | None:
        """Open a file for reading, or return None where there is none that can be used.

        Args:
            digest: The layer's.
            kind: What it is, and its version: letters and digits.

        Raises:
            Unsafe: Others may write into the folder.
        """
        if not self._is_there():
            return None
        path = self._path(digest, kind)
        try:
            file = io.FileIO(os.open(path, os.O_RDONLY | _FLAGS), "rb")
        except OSError:
            return None
        if not _is_ours(os.fstat(file.fileno()), regular=True):
            file.close()
            _log.debug("%s is a link, or another user's: passed over", path)
            return None
        with contextlib.suppress(OSError):
            os.utime(file.fileno() if os.utime in os.supports_fd else path)  # it was used just now
        return file

    @contextlib.contextmanager
    def write(self, digest: Digest, kind: str) -> Iterator[io.FileIO]:
        """Yield a new file that takes its name when the block ends well, in place of one that has it.

        It is open for reading too, and closed in the end. A duplicate of its descriptor reads on, also when the file
        was removed.

        Args:
            digest: The layer's.
            kind: What it is, and its version: letters and digits.

        Raises:
            Unsafe: Others may write into the folder.
            OSError: It cannot be written.
        """
        self._make()
        path = self._path(digest, kind)
        begun = path.with_name(f"{path.name}.{os.urandom(8).hex()}{_BEGUN}")
        file = io.FileIO(os.open(begun, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o600), "r+b")
        try:
            with file:
                yield file
                os.fsync(file.fileno())
                size = os.fstat(file.fileno()).st_size
            if size <= self.limit:
                begun.replace(path)
            else:
                _log.debug("%s is larger than the cache's limit: not kept", path)
                begun.unlink()
                return
        except BaseException:
            with contextlib.suppress(OSError):
                begun.unlink()
            raise
        sync_folder(self.folder)
        self._trim(path)

    @contextlib.contextmanager
    def alone(self, digest: Digest) -> Iterator[None]:
        """Let no other process, or thread, do the same for this layer meanwhile, so that it is fetched once.

        Whoever waited looks again whether there is something now. After ten minutes nobody waits any longer, and nobody
        does where there can be no lock.

        Args:
            digest: The layer's.

        Raises:
            Unsafe: Others may write into the folder.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self._path(digest, "pass").with_suffix(_LOCK), timeout=PATIENCE, thread_local=False)
        try:
            self._make()
            lock.acquire()
        except (Timeout, OSError) as error:
            _log.debug("no lock for %s: %s", digest, error)
        try:
            yield
        finally:
            lock.release()

    def discard(self, digest: Digest, kind: str) -> None:
        """Remove a file that turned out to be of no use, if it is there."""
        with contextlib.suppress(OSError):
            self._path(digest, kind).unlink()

    def size(self) -> int:
        """Return the bytes of all files in it."""
        return sum(size for _, size, _ in self._files())

    def clear(self) -> int:
        """Remove all files, and return how many bytes they had. Who is reading one reads on."""
        freed = 0
        for path, size, _ in self._files():
            with contextlib.suppress(OSError):
                path.unlink()
                freed += size
        return freed

    def _path(self, digest: Digest, kind: str) -> Path:
        return self.folder / f"{digest.algorithm}-{digest.hex}.{kind}"

    def _files(self) -> list[tuple[Path, int, float]]:
        """Return the files with their bytes and when they were used."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    about = entry.stat(follow_symlinks=False)
                    if not stat.S_ISDIR(about.st_mode):
                        found.append((Path(entry.path), about.st_size, about.st_mtime))
        return found

    def _trim(self, newest: Path) -> None:
        """Remove what was not used for longest, until the rest is within the limit."""
        now = time.time()
        files = sorted(self._files(), key=lambda file: (file[0] == newest, file[2]))
        total = sum(size for _, size, _ in files)
        for path, size, used in files:
            unfinished = path.name.endswith((_BEGUN, _LOCK))
            stale = unfinished and now - used > STALE
            if stale or (not unfinished and total > self.limit):
                with contextlib.suppress(OSError):
                    path.unlink()
                total -= size

    def _make(self) -> None:
        if not self._is_there():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._is_there()

    def _is_there(self) -> bool:
        """Return whether there is a folder; raise where it is not safe."""
        try:
            about = self.folder.stat()
        except OSError:
            return False
        if not stat.S_ISDIR(about.st_mode) or not _is_ours(about, regular=False):
            message = (
                f"the cache {self.folder} is no folder, belongs to somebody else, or may be written by others, who"
                " could plant what layers seem to hold: make it yours alone (chmod 700), or name another one"
            )
            raise Unsafe(message)
        return True


def _is_ours(about: os.stat_result, *, regular: bool) -> bool:
    """Return whether this user alone can have written it."""
    if regular and (not stat.S_ISREG(about.st_mode) or about.st_nlink > 1):
        return False
    if not hasattr(os, "geteuid"):  # Windows has no such owners
        return True
    return about.st_uid == os.geteuid() and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
