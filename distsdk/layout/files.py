"""Files by their names: the directory or archive that a layout is read from.

Each is opened at an offset, read and closed. Nothing here keeps an open file.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from typing import TYPE_CHECKING, Protocol

from attrs import frozen

from distsdk._text import shortened
from distsdk.errors import Denied, LimitExceeded, NotFound, Unreachable, Unsafe

if TYPE_CHECKING:
    from distsdk.content.source import ByteStream


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
