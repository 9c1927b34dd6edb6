"""Writes an OCI image layout in a directory of this machine."""

from __future__ import annotations

import contextlib
import io
import os
import stat
from typing import TYPE_CHECKING

from attrs import field, frozen

from distsdk._files import sync_folder, write_all
from distsdk._text import quoted
from distsdk.errors import DistError, InvalidConfig, MalformedDocument, NotFound, Unsafe
from distsdk.layout.documents import (
    INDEX_FILE,
    NEW_VERSION,
    VERSION_FILE,
    LayoutIndex,
    blob_name,
    entry_or_none,
)
from distsdk.layout.files import LocalFiles
from distsdk.layout.locks import locked
from distsdk.layout.reader import Layout
from distsdk.spec.documents import Index, Manifest
from distsdk.spec.media_types import DOCUMENTS, INDEXES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from distsdk.spec.descriptor import Descriptor
    from distsdk.spec.digest import Digest

#: Names of unfinished files begin so; `TEMPORARY` is one that only the holder of the lock writes.
UNFINISHED = ".distsdk-"
TEMPORARY = f"{UNFINISHED}index"

#: Held by the process that changes ``index.json``.
LOCK = "index.lock"

#: A directory with other names than these, and without ``oci-layout``, holds something else. These may be there before
#: ``oci-layout`` is: made by another process at the same moment, by one that was killed, or kept by a store.
_OWN = frozenset({VERSION_FILE, INDEX_FILE, LOCK, "blobs", "ingest", "commits", "quarantine"})

_NO_LINK = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))


@frozen
class LayoutDirectory:
    """An OCI image layout in a directory, which may not be there yet.

    Threads and processes may share one directory: ``index.json`` is changed by one of them at a time, and files are
    there whole or not at all.

    Args:
        root: The directory. A link to it is followed; links in it are not.
    """

    root: Path
    layout: Layout = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "layout", Layout(LocalFiles(str(self.root))))

    def blob_path(self, digest: Digest) -> Path:
        """Return the path of a blob, which need not be there."""
        return self.root / blob_name(digest)

    def create(self) -> None:
        """Make the directory a layout, unless it is one.

        Raises:
            InvalidConfig: The directory holds something else.
            UnsupportedDocument, MalformedDocument: It is a layout of another version than 1, or a damaged one.
            Unsafe: A link or a file is in the place of a directory.
            OSError: The directory cannot be written to.
        """
        version = self.root / VERSION_FILE
        self.root.mkdir(parents=True, exist_ok=True)
        if not version.exists():
            self.check_own()
        for name in ("blobs", "blobs/sha256"):
            folder = self.root / name
            with contextlib.suppress(FileExistsError):
                folder.mkdir()
            check_directory(folder)
        if not version.exists():
            with self.locked():
                # `oci-layout` comes last: where it is, the index is too.
                if not version.exists():
                    if not (self.root / INDEX_FILE).exists():
                        self._replace(INDEX_FILE, LayoutIndex.empty("").dump())
                    self._replace(VERSION_FILE, NEW_VERSION)
        self.layout.check()

    def check_own(self) -> None:
        """Check that a directory without ``oci-layout`` holds nothing but the beginnings of a layout.

        Raises:
            InvalidConfig: It holds something else.
        """
        with os.scandir(self.root) as found:
            foreign = {entry.name for entry in found} - _OWN
        if foreign := {name for name in foreign if not name.startswith(UNFINISHED)}:
            message = (
                f"{self.root} is not an OCI image layout: name an empty or a new directory "
                f"(it holds {quoted(min(foreign))})"
            )
            raise InvalidConfig(message)

    def index(self) -> LayoutIndex:
        """Read ``index.json``; a directory that is not there, or not a layout yet, lists nothing.

        Raises:
            InvalidConfig: The directory holds something else.
            DistError: As `Layout.index`.
        """
        try:
            return self.layout.index()
        except MalformedDocument as error:
            if not isinstance(error.__cause__, NotFound):
                raise
        try:
            self.layout.check()
        except NotFound:
            if self.root.is_dir():
                self.check_own()
            return LayoutIndex.empty(str(self.root / INDEX_FILE))
        return self.layout.index()  # another process may have made the layout meanwhile

    def set_name(self, name: str, targets: Sequence[Descriptor], *, check: Callable[[], object] = lambda: None) -> None:
        """Let a name stand for these targets; others lose it.

        Args:
            name: The name.
            targets: Entries for ``index.json``.
            check: Called while the lock is held, before the name is set.

        Raises:
            LimitExceeded: ``index.json`` would be too long.
            OSError, DistError: As `create`, and what ``check`` raises.
        """

        def change(index: LayoutIndex) -> LayoutIndex:
            check()
            return index.named(name, targets, self._is_referrer)

        self._edit(change)

    def remove_name(self, name: str) -> None:
        """Remove a name; the blobs stay.

        Raises:
            NotFound: No entry has the name.
            OSError, DistError: As `create`.
        """

        def change(index: LayoutIndex) -> LayoutIndex:
            found = index.unnamed(name, self._is_referrer)
            if found is None:
                message = f"no image in {self.root} is named {quoted(name)}"
                raise NotFound(message)
            return found

        self._edit(change)

    def add(self, target: Descriptor) -> None:
        """List a document without a name; errors as `set_name`."""
        self._edit(lambda index: index.listed(target))

    def remove(self, digest: Digest) -> None:
        """List a document no more; errors as `set_name`."""
        self._edit(lambda index: index.unlisted(digest))

    def locked(self) -> contextlib.AbstractContextManager[None]:
        """Hold the lock of the process that changes ``index.json``.

        Raises:
            Unsafe: A link, or not a regular file, is in the lock's place.
            OSError: The directory cannot be written to.
        """
        path = self.root / LOCK
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(path.lstat().st_mode):
                message = f"{path} is a link or not a regular file: it is not used as a lock; remove it"
                raise Unsafe(message)
        return locked(path)

    def _edit(self, change: Callable[[LayoutIndex], LayoutIndex]) -> None:
        self.create()
        with self.locked():
            before = self.layout.index()
            after = change(before)
            if after is not before:
                self._replace(INDEX_FILE, after.dump())

    def _replace(self, name: str, data: bytes) -> None:
        """Replace a file of the layout at once and for good; the lock has to be held."""
        part = self.root / TEMPORARY
        part.unlink(missing_ok=True)  # of a process that was killed
        try:
            descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _NO_LINK, 0o666)
            with io.FileIO(descriptor, "wb") as file:
                try:
                    write_all(file, data)
                    os.fsync(file.fileno())
                except OSError as error:
                    error.filename = str(self.root / name)
                    raise
            part.replace(self.root / name)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
        sync_folder(self.root)

    def _is_referrer(self, entry: object) -> bool:
        found = entry_or_none(entry)
        if found is None or found.media_type not in DOCUMENTS:
            return False
        try:
            raw = self.layout.document(found.digest)
            kind = Index if found.media_type in INDEXES else Manifest
            return kind.parse(raw, found.media_type).subject is not None
        except DistError:
            return False


def check_directory(path: Path) -> None:
    """Check that a path is a directory itself, and not a link to one.

    Raises:
        Unsafe: It is a link or a file.
    """
    if not stat.S_ISDIR(path.lstat().st_mode):
        message = f"{path} is a link or a file, not a directory: files written there would go elsewhere"
        raise Unsafe(message)
