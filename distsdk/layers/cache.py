"""`Cache`: indexes and copies of layers on disk, limited in size, shared by processes, safe to clear at any time."""

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

#: Bytes that a cache keeps by default.
LIMIT = 4 * 1024**3

#: Bytes of a file that `Cache.load` reads into memory at most; an index of a million members fits.
MAX_LOADED = 256 * 1024**2

#: Seconds after which an unfinished file or a lock is taken for that of a killed process.
STALE = 24 * 60 * 60.0

#: Seconds to wait for another process that writes the same file; after that both write it.
LOCK_TIMEOUT = 600.0

#: Open flags: do not follow links, do not pass the file to child processes, do not block on a planted pipe.
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))

_BEGUN, _LOCK = ".begun", ".lock"

_log = logging.getLogger(__name__)


class Cache(Displayed):
    """Files named by the digest of a layer. Each can be created again from the layer.

    A process that can write to the directory can forge the content of layers. Therefore the directory must belong to
    the user, and no other user may write to it. Links, and files of other users, are ignored.

    A file appears under its name only when it is complete. The least recently used files are removed when the total
    exceeds the limit; a reader that has one open can finish. Threads and processes may share a cache.

    Attributes:
        folder: The directory; created on first use.
        limit: Bytes of all files together.
    """

    def __init__(self, folder: str | os.PathLike[str], *, limit: int = LIMIT) -> None:
        """Name the directory. Nothing is read or created.

        Args:
            folder: The directory, used by this cache alone.
            limit: Bytes of all files together. A single file larger than this is not kept.
        """
        self.folder = Path(folder)
        self.limit = limit

    _repr_fields = ("folder", "limit")

    def __repr__(self) -> str:
        return f"<Cache {self.folder} at most {human_size(self.limit)}>"

    def load(self, digest: Digest, kind: str) -> bytes | None:
        """Return the bytes of a file, or None if there is no usable file.

        Args:
            digest: Digest of the layer.
            kind: Kind and version of the file: letters and digits.

        Raises:
            Unsafe: Other users may write to the directory.
        """
        file = self.open(digest, kind)
        if file is None:
            return None
        with file:
            data = file.read(MAX_LOADED + 1)
        return data if len(data) <= MAX_LOADED else None

    def open(self, digest: Digest, kind: str) -> io.FileIO | None:
        """Open a file for reading, or return None if there is no usable file.

        Args:
            digest: Digest of the layer.
            kind: Kind and version of the file: letters and digits.

        Raises:
            Unsafe: Other users may write to the directory.
        """
        if not self._exists():
            return None
        path = self._path(digest, kind)
        try:
            file = io.FileIO(os.open(path, os.O_RDONLY | _FLAGS), "rb")
        except OSError:
            return None
        if not _is_ours(os.fstat(file.fileno()), regular=True):
            file.close()
            _log.debug("cache file %s ignored: it is a link or belongs to another user", path)
            return None
        with contextlib.suppress(OSError):
            os.utime(file.fileno() if os.utime in os.supports_fd else path)  # marks it as used now
        return file

    @contextlib.contextmanager
    def write(self, digest: Digest, kind: str) -> Iterator[io.FileIO]:
        """Yield a new file, and put it under its name when the block ends without an exception.

        The file is also open for reading, and closed after the block. A duplicate of its descriptor stays readable if
        the file is removed. An older file of the same name is replaced.

        Args:
            digest: Digest of the layer.
            kind: Kind and version of the file: letters and digits.

        Raises:
            Unsafe: Other users may write to the directory.
            OSError: The file cannot be written.
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
                _log.debug("cache file %s not kept: larger than the limit of the cache", path)
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
        """Hold a lock for a layer, so that only one thread of one process fetches it.

        A caller should check the cache again inside the block, since another process may have written the file while
        this one waited. The block also runs, without the lock, after `LOCK_TIMEOUT` and on file systems without locks.

        Args:
            digest: Digest of the layer.

        Raises:
            Unsafe: Other users may write to the directory.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self._path(digest, "pass").with_suffix(_LOCK), timeout=LOCK_TIMEOUT, thread_local=False)
        try:
            self._make()
            lock.acquire()
        except (Timeout, OSError) as error:
            _log.debug("cache lock for %s failed: %s", digest, error)
        try:
            yield
        finally:
            lock.release()

    def discard(self, digest: Digest, kind: str) -> None:
        """Remove a file that cannot be used, if it exists.

        Args:
            digest: Digest of the layer.
            kind: Kind and version of the file: letters and digits.
        """
        with contextlib.suppress(OSError):
            self._path(digest, kind).unlink()

    def size(self) -> int:
        """Return the size of all files together, in bytes."""
        return sum(size for _, size, _ in self._files())

    def clear(self) -> int:
        """Remove all files, and return their size in bytes. A reader that has one open can finish."""
        freed = 0
        for path, size, _ in self._files():
            with contextlib.suppress(OSError):
                path.unlink()
                freed += size
        return freed

    def _path(self, digest: Digest, kind: str) -> Path:
        return self.folder / f"{digest.algorithm}-{digest.hex}.{kind}"

    def _files(self) -> list[tuple[Path, int, float]]:
        """Return each file with its size in bytes and the time of its last use."""
        found = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    about = entry.stat(follow_symlinks=False)
                    if not stat.S_ISDIR(about.st_mode):
                        found.append((Path(entry.path), about.st_size, about.st_mtime))
        return found

    def _trim(self, newest: Path) -> None:
        """Remove the least recently used files until the rest is within the limit."""
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
        if not self._exists():
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._exists()

    def _exists(self) -> bool:
        """Return whether the directory exists.

        Raises:
            Unsafe: The directory belongs to another user, or others may write to it.
        """
        try:
            about = self.folder.stat()
        except OSError:
            return False
        if not stat.S_ISDIR(about.st_mode) or not _is_ours(about, regular=False):
            message = (
                f"cache {self.folder} refused: it is not a directory of this user that only this user may write to, so"
                " other users could forge the content of layers; run chmod 700 on it, or name another directory"
            )
            raise Unsafe(message)
        return True


def _is_ours(about: os.stat_result, *, regular: bool) -> bool:
    """Return whether only this user can have written a file or directory."""
    if regular and (not stat.S_ISREG(about.st_mode) or about.st_nlink > 1):
        return False
    if not hasattr(os, "geteuid"):  # Windows has no numeric owners
        return True
    return about.st_uid == os.geteuid() and not about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
