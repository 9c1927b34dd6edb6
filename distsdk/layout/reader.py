"""Reads an OCI image layout in a directory, an archive or behind a URL."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, TypeVar

from attrs import frozen

from distsdk.errors import MalformedDocument, NotFound
from distsdk.layout.documents import (
    INDEX_FILE,
    MAX_DOCUMENT,
    MAX_INDEX,
    VERSION_FILE,
    LayoutIndex,
    blob_name,
    check_version,
)
from distsdk.layout.files import LocalFiles, read_document
from distsdk.spec.documents import ImageConfig, Manifest
from distsdk.spec.media_types import CONFIGS, OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable

    from distsdk.content.source import ByteStream
    from distsdk.layout.files import Files
    from distsdk.spec.descriptor import Descriptor
    from distsdk.spec.digest import Digest

#: Seconds for which a file of a layout in a directory may be malformed: skopeo empties both before it writes them.
BEING_WRITTEN = 0.5

#: Seconds between two reads of such a file.
_POLL = 0.01

#: Entries that are looked into for missing layers.
_SAMPLED = 20

_Value = TypeVar("_Value")


@frozen
class Layout:
    """An OCI image layout, read.

    Args:
        files: The directory or archive.
        limit: Bytes of a manifest or of an index that is a blob; ``index.json`` has its own limit, `MAX_INDEX`.
    """

    files: Files
    limit: int = MAX_DOCUMENT

    def check(self) -> None:
        """Check the file that makes a directory or an archive a layout.

        Raises:
            NotFound: The file is missing.
            MalformedDocument, UnsupportedDocument: Its contents are not as specified, or of another version than 1.
            DistError: As `Files.open`.
        """
        self._read(VERSION_FILE, MAX_DOCUMENT, check_version)

    def index(self) -> LayoutIndex:
        """Read ``index.json``.

        Raises:
            MalformedDocument, MediaTypeMismatch, UnsupportedDocument: The file is missing or not an OCI index.
            LimitExceeded: The file is longer than `MAX_INDEX`, or lists too much.
            DistError: As `Files.open`.
        """
        try:
            return self._read(INDEX_FILE, MAX_INDEX, LayoutIndex.parse)
        except NotFound as error:
            message = f"{self.files.shown(INDEX_FILE)} is missing, or not a file: the layout cannot be used"
            raise MalformedDocument(message) from error

    def entries(self) -> list[Descriptor]:
        """Return the entries of ``index.json``; the file is read at each call, since names move.

        Raises:
            DistError: As `index`.
        """
        return list(self.index().descriptors())

    def open(self, digest: Digest, offset: int, end: int | None) -> ByteStream:
        """Open a blob; arguments and errors as `Files.open`."""
        return self.files.open(blob_name(digest), offset, end)

    def size(self, digest: Digest) -> int | None:
        """Return a blob's size in bytes; errors as `Files.open`."""
        return self.files.size(blob_name(digest))

    def document(self, digest: Digest) -> bytes:
        """Return the bytes of a blob that is a document, unverified.

        Raises:
            LimitExceeded: It is longer than the limit.
            DistError: As `Files.open`.
        """
        return read_document(self.files, blob_name(digest), self.limit)

    def lacks_layers(self) -> bool:
        """Whether a manifest leaves out layers that its config lists.

        Docker 25.0 wrote such layouts, which are of no use, beside a good ``manifest.json``:
        https://github.com/moby/moby/blob/v25.0.0/image/tarexport/save.go
        """
        for entry in self.entries()[:_SAMPLED]:
            if entry.media_type != OCI_MANIFEST:
                continue
            with contextlib.suppress(NotFound):
                manifest = Manifest.parse(self.document(entry.digest), OCI_MANIFEST)
                if manifest.config.media_type in CONFIGS and not manifest.layers:
                    return bool(ImageConfig.parse(self.document(manifest.config.digest)).diff_ids)
        return False

    def _read(self, name: str, limit: int, parse: Callable[[bytes, str], _Value]) -> _Value:
        """Read and parse a file of the layout; one that another tool is writing, when that is done."""
        until = time.monotonic() + (BEING_WRITTEN if isinstance(self.files, LocalFiles) else 0)
        while True:
            try:
                return parse(read_document(self.files, name, limit), self.files.shown(name))
            except MalformedDocument:
                if time.monotonic() >= until:
                    raise
            time.sleep(_POLL)
