"""Files by their names, on this machine or behind fsspec: what a layout or an archive is read from.

Both are opened at an offset, read and closed. Nothing here keeps a connection or an open file.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import stat
from typing import TYPE_CHECKING, Any, Protocol

from attrs import frozen

from distsdk.blob import CHUNK_SIZE
from distsdk.errors import (
    Denied,
    DistError,
    InvalidConfig,
    InvalidReference,
    LimitExceeded,
    MissingExtra,
    NotFound,
    Unreachable,
    Unsafe,
    redact,
)
from distsdk.model.wording import quoted, shortened

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distsdk.blob import ByteStream

#: What of fsspec's details about a file changes when the file does, in the words of its many implementations.
_CHANGES = ("size", "mtime", "created", "updated", "LastModified", "last_modified", "Last-Modified", "ETag", "etag")

#: What is raised where a file is missing, or where one is where a folder would have to be.
_GONE = (FileNotFoundError, IsADirectoryError, NotADirectoryError, FileExistsError)

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]*")


class Files(Protocol):
    """A folder, or a file by itself, which has the empty name.

    Threads may share one, and it can be pickled.
    """

    def open(self, name: str, offset: int, end: int | None) -> ByteStream:
        """Open a file.

        Args:
            name: Below the folder, with ``/`` between segments.
            offset: The first byte wanted, from 0.
            end: The byte after the last one wanted; None for all there is. The stream may end earlier.

        Raises:
            NotFound: There is no such file.
            Denied: It may not be read.
            Unsafe: It is a link or no regular file.
            Unreachable: What is behind the URL did not answer well.
        """
        ...

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes, None where that is not told; errors as `open`."""
        ...

    def identity(self) -> tuple[object, ...]:
        """Return what differs once the file with the empty name was replaced; errors as `open`."""
        ...

    def shown(self, name: str = "") -> str:
        """Return a file's name for messages."""
        ...


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


def read_document(files: Files, name: str, limit: int) -> bytes:
    """Return all bytes of a small file.

    Args:
        files: Where it is.
        name: Its name there.
        limit: Bytes it may have.

    Raises:
        LimitExceeded: It has more.
        DistError: As `Files.open`.
    """
    parts, left = [], limit + 1
    with contextlib.closing(files.open(name, 0, left)) as stream:
        while left and (part := stream.read(left)):
            parts.append(part)
            left -= len(part)
    if not left:
        message = f"{files.shown(name)} has more bytes than the limit of {limit} for a document"
        raise LimitExceeded(message, limit=limit)
    return b"".join(parts)


@frozen
class LocalFiles:
    """Files on this machine.

    The folder is the user's to name, links and all. What is in it may be somebody else's: there no link is followed,
    since it could lead to any file that the user may read.
    """

    root: str

    def open(self, name: str, offset: int, end: int | None) -> ByteStream:
        """Open a file; see `Files`."""
        file = self._open(name)
        try:
            file.seek(offset)
        except BaseException:
            file.close()
            raise
        return _LocalStream(file, None if end is None else max(0, end - offset))

    def size(self, name: str) -> int | None:
        """Return a file's size in bytes."""
        with self._open(name) as file:
            return os.fstat(file.fileno()).st_size

    def identity(self) -> tuple[object, ...]:
        """Return which file it is, and its size and time."""
        with self._open("") as file:
            found = os.fstat(file.fileno())
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns

    def shown(self, name: str = "") -> str:
        """Return a path."""
        return shortened(f"{self.root.rstrip('/')}/{name}" if name else self.root, 400)

    def _open(self, name: str) -> io.FileIO:
        try:
            descriptor = _open_below(os.path.expanduser(self.root), name.split("/") if name else [])  # noqa: PTH111 - Path.expanduser raises where there is no home
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            message = f"there is no file {self.shown(name)}"
            raise NotFound(message) from error
        except PermissionError as error:
            message = f"{self.shown(name)} may not be read: {error.strerror}"
            raise Denied(message) from error
        except (OSError, ValueError) as error:  # a name that no file can have, too
            message = f"{self.shown(name)} cannot be read: {getattr(error, 'strerror', error)}"
            raise NotFound(message) from error
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISREG(mode):
            return io.FileIO(descriptor, "rb")
        os.close(descriptor)
        if stat.S_ISDIR(mode):
            message = f"{self.shown(name)} is a folder"
            raise NotFound(message)
        message = f"{self.shown(name)} is no regular file: it is not read"
        raise Unsafe(message)


#: Without O_NONBLOCK, opening a FIFO would wait for a writer. Windows has none of these but O_BINARY.
_FLAGS = os.O_RDONLY
for _flag in ("O_CLOEXEC", "O_NONBLOCK", "O_NOCTTY", "O_BINARY"):
    _FLAGS |= getattr(os, _flag, 0)
_NO_LINK = getattr(os, "O_NOFOLLOW", 0)


def _open_below(root: str, segments: list[str]) -> int:
    """Open what has a name below a folder, through no link; return the descriptor.

    Raises:
        Unsafe: There is a link on the way.
        OSError: It cannot be opened.
    """
    if not segments:
        return os.open(root, _FLAGS)
    if os.open not in os.supports_dir_fd:  # Windows
        path = root
        for segment in segments:
            path = os.path.join(path, segment)  # noqa: PTH118 - as the rest of it
            if os.path.islink(path):  # noqa: PTH114
                raise _link(path)
        return os.open(path, _FLAGS)
    folder = os.open(root, _FLAGS | os.O_DIRECTORY)
    try:
        for number, segment in enumerate(segments, 1):
            kind = os.O_DIRECTORY if number < len(segments) else 0
            try:
                inner = os.open(segment, _FLAGS | _NO_LINK | kind, dir_fd=folder)
            except OSError:
                if _is_link(segment, folder):
                    raise _link("/".join([root, *segments[:number]])) from None
                raise
            os.close(folder)
            folder = inner
    except BaseException:
        os.close(folder)
        raise
    return folder


def _is_link(name: str, folder: int) -> bool:
    try:
        return stat.S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    except OSError:
        return False


def _link(path: str) -> Unsafe:
    return Unsafe(
        f"{shortened(path, 400)} is a link, and a layout's links are not followed: they could lead to any file here; "
        "put a copy in its place if you trust it"
    )


class _LocalStream:
    """An open file, up to a number of bytes."""

    def __init__(self, file: io.FileIO, left: int | None) -> None:
        self._file = file
        self._left = left

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        wanted = size if self._left is None else min(size, self._left)
        try:
            data = self._file.read(wanted) or b""
        except OSError as error:
            message = f"a file broke off while it was read: {error.strerror}"
            raise Unreachable(message) from error
        if self._left is not None:
            self._left -= len(data)
        return data

    def close(self) -> None:
        """Close the file."""
        self._file.close()


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
