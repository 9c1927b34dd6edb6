"""Image layouts and docker's archives in a file of this machine, which is read in place and written as a whole."""

from __future__ import annotations

import contextlib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import frozen

from distsdk._files import write_all
from distsdk.content.uploads import UploadReader
from distsdk.errors import Denied, InvalidConfig
from distsdk.layout.writer import new_archive
from distsdk.remotes.layout import LayoutFetcher
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distsdk.content.protocols import UploadSource
    from distsdk.layout.writer import ArchivePlan, ArchiveWriter
    from distsdk.spec.reference import Locator

#: How the path of an archive ends that is not there yet.
_ARCHIVE = re.compile(r".*\.(?:tar|tgz|tar\.(?:gz|bz2|xz|zst))", re.DOTALL | re.IGNORECASE)

#: Bytes that are read and written at a time.
_PIECE = 1024 * 1024


def names_archive(path: str) -> bool:
    """Whether a path is that of an archive: of a file, or of nothing yet with an archive's ending."""
    path = os.path.expanduser(path)  # noqa: PTH111 - Path.expanduser raises where there is no home
    return os.path.isfile(path) or (_ARCHIVE.fullmatch(path) is not None and not os.path.isdir(path))  # noqa: PTH112, PTH113


class ArchiveFetcher(LayoutFetcher):
    """Reads the images in an archive. A new archive is written as a whole, by `copy` and `push`."""

    @contextlib.contextmanager
    def writing(self, plan: ArchivePlan, *, replace: bool) -> Iterator[ArchiveTarget]:
        """Write the archive, which is there when the block ends without an error; otherwise nothing is.

        Args:
            plan: Its members.
            replace: Replace the file that is there.

        Raises:
            InvalidConfig: The path ends as that of a compressed archive.
            Unsafe: There is a file, and ``replace`` is not set.
            Denied: The directory may not be written to.
            OSError: The disk is full.
        """
        path = Path(os.path.expanduser(self._files.root))  # type: ignore[attr-defined] # noqa: PTH111 - as above
        if path.suffix.lower() != ".tar" and _ARCHIVE.fullmatch(path.name):
            message = f"{path}: compressed archives are not written; name a file that ends in .tar"
            raise InvalidConfig(message)
        try:
            with new_archive(path, plan, replace=replace) as writer:
                yield ArchiveTarget(writer, plan)
        except PermissionError as error:
            if isinstance(error, Denied):
                raise
            message = f"{path} cannot be written: {error.strerror}"
            raise Denied(message) from error


@frozen
class ArchiveTarget:
    """Takes the blobs and documents of an archive that is being written."""

    writer: ArchiveWriter
    plan: ArchivePlan

    def push_blob(
        self,
        source: UploadSource,
        *,
        descriptor: Descriptor | None = None,
        mount_from: Locator | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> Descriptor:
        """Write a blob that the plan has.

        Args:
            source: The bytes.
            descriptor: What they have to be; required.
            mount_from: Not used.
            on_progress: Called with the number of bytes written.

        Raises:
            DigestMismatch, SizeMismatch: The bytes are others. The archive cannot be finished then.
            OSError: ``source`` cannot be read, or the disk is full.
        """
        del mount_from
        assert descriptor is not None  # noqa: S101 - only transfers write archives
        report = on_progress or (lambda _: None)
        name = self.plan.places[descriptor.digest]
        with contextlib.closing(UploadReader.of(source, descriptor)) as reader, self.writer.member(name) as file:
            report(0)
            while piece := reader.read(_PIECE):
                if reader.position > descriptor.size:
                    break  # the next member begins here
                write_all(file, piece)  # type: ignore[arg-type] # any buffer will do
                report(reader.position)
            reader.check_end()
        report(descriptor.size)
        return descriptor

    def push_document(self, data: bytes, media_type: str, *, tag: str | None = None) -> Descriptor:
        """Write a document, if the format keeps it; its names are in the plan."""
        del tag
        descriptor = Descriptor(media_type, Digest.of(data), len(data))
        if descriptor.digest in self.plan.places:
            self.push_blob(data, descriptor=descriptor)
        return descriptor

    def has(self, descriptor: Descriptor) -> bool:
        """Return False: a new archive has nothing yet."""
        del descriptor
        return False
