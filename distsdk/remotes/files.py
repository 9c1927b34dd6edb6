"""The files at a path or a URL: on this machine, or behind fsspec.

Each is opened at an offset, read and closed. Nothing here keeps a connection or an open file.
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, Any

from attrs import frozen

from distsdk._secrets import redact
from distsdk._text import quoted, shortened
from distsdk.content.source import CHUNK_SIZE
from distsdk.errors import Denied, DistError, InvalidConfig, InvalidReference, MissingExtra, NotFound, Unreachable
from distsdk.layout.files import LocalFiles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distsdk.content.source import ByteStream
    from distsdk.layout.files import Files

#: What of fsspec's details about a file changes when the file does, in the words of its many implementations.
_CHANGES = ("size", "mtime", "created", "updated", "LastModified", "last_modified", "Last-Modified", "ETag", "etag")

#: What is raised where a file is missing, or where one is where a folder would have to be.
_GONE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, FileExistsError)

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]*")


def files_at(place: str) -> Files:
    """Return the files at a path or a URL. Nothing is looked at yet.

    Args:
        place: As `Locator.path` has it. ``file:///x`` is the path ``/x``; every other URL is fsspec's.
    """
    scheme, found, rest = place.partition("://")
    if not found or "/" in scheme:
        scheme, rest = "file", place
    if scheme == "file":
        return LocalFiles(rest.rstrip("/") or "/")  # a slash would say that it is a folder, and it may be an archive
    # On the web it makes another name.
    return RemoteFiles(place if scheme in {"http", "https"} else place.rstrip("/"))


@frozen
class RemoteFiles:
    """Files at a URL that fsspec opens.

    fsspec and the package that a scheme takes are imported when something is read. Logins, certificates and proxies are
    theirs to know, from the environment and from fsspec's own configuration.
    """

    url: str

    def open(self, name: str, offset: int, end: int | None) -> ByteStream:
        """Open a file; see `Files`."""
        with self._translated(name):
            system, path = self._find(name)
            # Ranges are chosen by who reads: no bytes that nobody asked for.
            file = system.open(path, "rb", cache_type="none")
            if self.url.startswith("memory://"):
                file = _FileInMemory(system, path)
        return _RemoteStream(self, name, file, offset, end)

    def _open_in_order(self, name: str) -> Any:  # noqa: ANN401 - fsspec has no types
        """Open a file on a web server that gives no ranges, from its first byte on."""
        system, path = self._find(name)
        return system.open(path, "rb", block_size=0)

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes; see `Files`."""
        size = self._info(name).get("size")
        return size if isinstance(size, int) and size >= 0 else None

    def identity(self) -> tuple[object, ...]:
        """Return what fsspec tells of the file, as far as it changes with the file."""
        info = self._info("")
        return tuple(str(info.get(key)) for key in _CHANGES)

    def shown(self, name: str = "") -> str:
        """Return a URL."""
        return redact(self._url(name))

    def _info(self, name: str) -> dict[str, Any]:
        with self._translated(name):
            system, path = self._find(name)
            info: dict[str, Any] = system.info(path)
        if info.get("type") == "directory":
            message = f"{self.shown(name)} is a folder"
            raise NotFound(message)
        return info

    def _url(self, name: str) -> str:
        return f"{self.url.rstrip('/')}/{name}" if name else self.url

    def _find(self, name: str) -> tuple[Any, str]:
        """Return fsspec's file system, which it keeps itself, one a process and thread where it has to; and a path."""
        scheme = self.url.partition("://")[0]
        try:
            from fsspec.core import url_to_fs
            from fsspec.registry import get_filesystem_class
        except ImportError as error:
            raise MissingExtra("fsspec", f"reading {scheme}:// URLs") from error
        try:
            get_filesystem_class(scheme)
        except ImportError as error:  # the package that the scheme takes, which fsspec names
            message = f"{scheme}:// cannot be read here: {shortened(str(error), 200)}"
            raise InvalidConfig(message) from error
        except ValueError as error:
            message = f"{quoted(scheme)} is no scheme that fsspec knows: correct {shortened(self.shown(), 200)}"
            raise InvalidReference(message) from error
        system, path = url_to_fs(self._url(name))
        return system, str(path)

    @contextlib.contextmanager
    def _translated(self, name: str) -> Iterator[None]:
        """Let what fsspec and the libraries below it raise be errors of ours."""
        try:
            yield
        except DistError:
            raise
        except Exception as error:  # every scheme has a library, and errors, of its own
            raise _translation(error, self.shown(name)) from error


def _translation(error: Exception, url: str) -> DistError:
    # fsspec makes one "not found" of all that a web server can do wrong; what it was is the cause.
    cause = error.__cause__ if isinstance(error, FileNotFoundError) else error
    status = getattr(cause, "status", None)
    said = _URL.sub(lambda found: redact(found[0]), f"{type(cause or error).__name__}: {cause or error}")
    if isinstance(cause, PermissionError) or status in {401, 403}:
        return Denied(
            f"{url} may not be read: {shortened(said, 300)}", status=status if isinstance(status, int) else None
        )
    gone = isinstance(cause, _GONE) or status in {404, 410}
    broken = isinstance(cause, OSError) or status is not None
    if gone or (isinstance(error, FileNotFoundError) and not broken):
        return NotFound(f"there is no file {url}")
    return Unreachable(f"{url} cannot be read: {shortened(said, 300)}", url=url)


class _FileInMemory:
    """A file of fsspec's memory file system with its own position: fsspec opens the same file object for everyone."""

    def __init__(self, system: Any, path: str) -> None:  # noqa: ANN401 - fsspec has no types
        self._system = system
        self._path = path
        self._at = 0

    def seek(self, position: int) -> None:
        self._at = position

    def read(self, size: int) -> bytes:
        data: bytes = self._system.cat_file(self._path, self._at, self._at + size)
        self._at += len(data)
        return data

    def close(self) -> None:
        pass


class _RemoteStream:
    """A file of fsspec's, up to an end, read in requests of a good size whatever the reader's are."""

    def __init__(
        self,
        files: RemoteFiles,
        name: str,
        file: Any,  # noqa: ANN401 - fsspec has no types
        offset: int,
        end: int | None,
    ) -> None:
        self._files = files
        self._name = name
        self._file = file
        self._at = offset
        self._end = end
        self._ahead = memoryview(b"")
        self._placed = False  # whether the file is where it is read next
        self._in_order = False

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        if not self._ahead:
            wanted = CHUNK_SIZE if self._end is None else min(CHUNK_SIZE, self._end - self._at)
            with self._files._translated(self._name):
                data = self._next(wanted) if wanted > 0 else b""
            self._ahead = memoryview(data)[:wanted]
            self._at += len(self._ahead)
        data, self._ahead = bytes(self._ahead[:size]), self._ahead[size:]
        return data

    def _next(self, wanted: int) -> bytes:
        try:
            if not self._placed:
                self._file.seek(self._at)
                self._placed = True
            data: bytes = self._file.read(wanted)
        except ValueError:
            # What fsspec raises of a web server that gives no ranges. That is not known before: many give them and say
            # nothing of it, and one may give the first bytes of a file as asked and no others.
            if self._in_order or not self._files.url.startswith(("http://", "https://")):
                raise
            self._file.close()
            self._file, self._in_order, self._placed = self._files._open_in_order(self._name), True, True
            self._skip(self._at)
            data = self._file.read(wanted)
        return data

    def _skip(self, count: int) -> None:
        while count and (skipped := self._file.read(min(count, CHUNK_SIZE))):
            count -= len(skipped)

    def close(self) -> None:
        """Let go of it."""
        with self._files._translated(self._name):
            self._file.close()
