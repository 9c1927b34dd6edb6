"""Image layouts in a folder of this machine, which can be written to.

https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
"""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING

from distsdk._files import write_all
from distsdk._moved import moved_names
from distsdk.content.blob import Blob
from distsdk.content.request import FetchRequest
from distsdk.content.uploads import UploadReader
from distsdk.errors import (
    Denied,
    DistError,
    InvalidConfig,
    LimitExceeded,
    NotFound,
    SizeMismatch,
    Unsafe,
)
from distsdk.layout.directory import UNFINISHED, LayoutDirectory
from distsdk.layout.documents import blob_name, oci_alias
from distsdk.remotes.layout import LayoutFetcher
from distsdk.remotes.referrers import parse_document
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.media_types import DOCKER_DOCUMENTS, OCTET_STREAM
from distsdk.spec.reference import Object

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterator

    from distsdk.content.protocols import UploadSource
    from distsdk.spec.digest import Digest
    from distsdk.spec.reference import Locator

#: Bytes that are read and written at a time.
_PIECE = 1024 * 1024


class FolderFetcher(LayoutFetcher):
    """Reads the images in a layout that is a folder, and writes into it; a folder that is not there yet is made.

    Threads and processes may share one, a `Store` at the same place too: ``index.json`` is changed by one of them at a
    time, all other files are there as a whole or not at all. Nothing is written through a link inside of the folder.
    """

    def push_blob(
        self,
        source: UploadSource,
        *,
        descriptor: Descriptor | None = None,
        media_type: str = OCTET_STREAM,
        mount_from: Locator | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> Descriptor:
        """Write a blob into the layout, unless it is there already; see `Pushable.push_blob`.

        Args:
            source: The bytes.
            descriptor: What they have to be. What is there under that digest with another size is replaced.
            media_type: Of what is returned, where there is no ``descriptor``.
            mount_from: Not looked at.
            on_progress: Called with the bytes that are written.

        Raises:
            InvalidConfig: There is a folder of other things.
            Unsafe: There is a link where a folder belongs.
            Denied: The folder may not be written to.
            DigestMismatch, SizeMismatch: The bytes are not what ``descriptor`` says. They are not kept.
            OSError: ``source`` cannot be read, or the disk is full.
            DistError: What reading ``source`` raises, if it is a `Blob`.
        """
        del mount_from
        if descriptor is None and isinstance(source, Blob):
            descriptor = Descriptor(
                source.media_type if media_type == OCTET_STREAM else media_type, source.digest, source.size
            )
        tell = on_progress or (lambda _: None)
        if descriptor is not None:
            with contextlib.suppress(SizeMismatch):
                if self.has(descriptor):
                    tell(descriptor.size)
                    return descriptor
        with contextlib.closing(UploadReader.of(source, descriptor)) as reader, self._new_file() as (file, place):
            tell(0)
            while piece := reader.read(_PIECE):
                write_all(file, piece)  # type: ignore[arg-type] # any buffer will do
                if reader.size is not None and reader.position > reader.size:
                    break  # too many
                tell(reader.position)
            reader.check_end()
            found = descriptor or Descriptor(media_type, reader.digest(), reader.hashed)
            place(found.digest)
        tell(found.size)
        return found

    def push_document(self, data: bytes, media_type: str, *, tag: str | None = None) -> Descriptor:
        """Write a manifest or an index into the layout; see `Pushable.push_document`.

        ``index.json`` lists it if it has a tag, which it takes away from whatever had it, or a ``subject``.

        Args:
            data: The document.
            media_type: Of a manifest or an index.
            tag: A name to give it.

        Raises:
            MalformedDocument, UnsupportedDocument, LimitExceeded: ``data`` is no document of that type, or longer than
                it could be read again.
            InvalidReference: ``tag`` cannot be one.
            DistError: As `push_blob`.
        """
        if len(data) > self._limit:
            message = f"a document of {len(data)} bytes, more than the limit of {self._limit}: nobody would read it"
            raise LimitExceeded(message, limit=self._limit)
        document = parse_document(data, media_type)
        if tag is not None:
            tag = Object(tag=tag, digest=None).tag
        found = Descriptor(document.media_type, document.digest, len(data))
        self.push_blob(data, descriptor=found)
        targets = [found]
        if tag is not None and found.media_type in DOCKER_DOCUMENTS:
            alias, raw = oci_alias(found, data)
            targets.insert(0, self.push_blob(raw, descriptor=alias))
        # Entries are without the document's own annotations, one of which could be a name.
        with self._translated():
            if tag is not None:
                self._directory().set_name(tag, targets)
            elif document.subject is not None:
                self._directory().add(found)
        return found

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the layout has a file with this digest and size; see `Pushable.has`."""
        try:
            size = self._files.size(blob_name(descriptor.digest))
        except NotFound:
            return False
        if size != descriptor.size:
            message = f"{descriptor.digest} in {self._files.shown()} has {size} bytes: declared are {descriptor.size}"
            raise SizeMismatch(message, expected=descriptor.size, got=size or 0)
        return True

    def delete(self, object: str | Object | Digest) -> None:
        """Remove a tag, or the file with a digest and what lists it; see `Deletable.delete`.

        Args:
            object: A tag, as ``index.json`` has it, or a digest.

        Raises:
            NotFound: There is none.
            Denied: The folder may not be written to.
        """
        wanted = FetchRequest.read(object).object
        digest = wanted.digest
        if digest is None:
            with self._translated():
                self._directory().remove_name(str(wanted.tag))
            return
        with self._parent(digest, make=False) as folder:
            try:
                os.unlink(digest.hex, dir_fd=folder)
            except FileNotFoundError as error:
                message = f"there is no {digest} in {self._files.shown()}"
                raise NotFound(message) from error
        with self._translated():
            self._directory().remove(digest)

    # Writing

    def _directory(self) -> LayoutDirectory:
        if os.open not in os.supports_dir_fd:
            message = f"{self._files.shown()}: a layout is written on Linux and macOS only"
            raise InvalidConfig(message)
        return LayoutDirectory(Path(os.path.expanduser(self._files.root)))  # type: ignore[attr-defined] # noqa: PTH111 - as where it is read

    @contextlib.contextmanager
    def _new_file(self) -> Iterator[tuple[io.FileIO, Callable[[Digest], None]]]:
        """Yield a file without a place, and what gives it the place that its digest says."""
        directory = self._directory()
        part = directory.root / f"{UNFINISHED}{os.urandom(8).hex()}"
        with self._translated():
            directory.create()
            file = part.open("xb", buffering=0)

        def place(digest: Digest) -> None:
            os.fsync(file.fileno())
            with self._parent(digest, make=True) as folder:
                os.replace(part, digest.hex, dst_dir_fd=folder)
                with contextlib.suppress(OSError):  # not every file system can
                    os.fsync(folder)

        try:
            with file:
                yield file, place
        finally:
            part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _parent(self, digest: Digest, *, make: bool) -> Iterator[int]:
        """Open the folder of a blob, through no link."""
        flags = os.O_RDONLY | os.O_DIRECTORY
        with contextlib.ExitStack() as stack, self._translated():
            folder = stack.enter_context(_opened(str(self._directory().root), flags))
            for name in ("blobs", digest.algorithm):
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, dir_fd=folder)
                try:
                    folder = stack.enter_context(_opened(name, flags | os.O_NOFOLLOW, dir_fd=folder))
                except FileNotFoundError as error:
                    message = f"there is no {digest} in {self._files.shown()}"
                    raise NotFound(message) from error
                except OSError as error:
                    if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
                        raise
                    message = f"{self._files.shown(name)} is no folder, but a link or a file: nothing is written there"
                    raise Unsafe(message) from error
            yield folder

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Let what may not be written be `Denied`; a full disk stays an OSError."""
        try:
            yield
        except DistError:
            raise
        except PermissionError as error:
            message = f"{self._files.shown()} may not be written to: {error.strerror}"
            raise Denied(message) from error
        except (FileExistsError, NotADirectoryError) as error:
            message = f"{self._files.shown()} is a file: only a folder takes pushes"
            raise InvalidConfig(message) from error


@contextlib.contextmanager
def _opened(path: str, flags: int, *, dir_fd: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), dir_fd=dir_fd)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__ = moved_names(__name__)
