"""A remote over a folder of files, for the host ``files.example``.

``FILES_ROOT`` names the folder. ``files.example/some/dir`` is ``some/dir`` in it: an object's bytes are in
``sha256/<hex>`` there, and ``tags/<tag>`` holds the digest that a tag names.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from attrs import frozen

from distsdk.content.blob import Blob
from distsdk.content.source import Stat
from distsdk.errors import DistError, InvalidConfig, LimitExceeded, MediaTypeMismatch, NotFound
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.documents import Index
from distsdk.spec.media_types import DOCUMENTS, INDEXES, OCTET_STREAM
from distsdk.spec.platform import Platform
from distsdk.spec.reference import Hint, Object
from distsdk.spec.strict_json import load_json

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from distsdk.remotes.settings import Settings
    from distsdk.spec.reference import Locator

#: Bytes of a manifest or index.
DOCUMENT_LIMIT = 4 * 1024 * 1024

#: Indexes within indexes.
DEPTH_LIMIT = 4


class FilesRemote:
    """Fetches from a folder, and lists its tags."""

    def __init__(self, locator: Locator, _: Settings) -> None:
        """Called by `distsdk.connect`; the settings are for remotes that have a network to reach."""
        root = os.environ.get("FILES_ROOT")
        if not root:
            message = "FILES_ROOT is not set: let it name the folder that files.example stands for"
            raise InvalidConfig(message)
        self.locator = locator
        self._folder = Path(root, locator.path)

    def __repr__(self) -> str:
        return f"<FilesRemote {self.locator}>"

    def fetch(self, object: str | Object | Digest | Descriptor, *hints: str | Hint) -> Blob:
        """Return the bytes of an object as a blob: a document is read at once, anything else when it is read."""
        known = [Hint.parse(hint) if isinstance(hint, str) else hint for hint in hints]
        if isinstance(object, Descriptor):
            known.append(Hint("size", str(object.size)))
            if object.media_type != OCTET_STREAM:
                known.append(Hint("mediatype", object.media_type))
            object = Object(digest=object.digest)
        elif isinstance(object, Digest):
            object = Object(digest=object)
        elif isinstance(object, str):
            object = Object.parse(object)
        types = tuple(hint.value for hint in known if hint.kind == "mediatype")
        size = next((int(hint.value) for hint in known if hint.kind == "size"), None)
        platform = next((Platform.parse(hint.value) for hint in known if hint.kind == "platform"), None)
        if object.digest is None or platform is not None or not DOCUMENTS.isdisjoint(types):
            digest = object.digest or self._tagged(str(object.tag))
            return self._document(self._blob(digest, size), types, platform)
        return self._blob(object.digest, size, types[0] if len(types) == 1 else None)

    def tags(self) -> Iterable[str]:
        """Return the tags, sorted."""
        return _Tags(self._folder / "tags")

    def _document(self, blob: Blob, types: tuple[str, ...], platform: Platform | None, depth: int = 1) -> Blob:
        raw = blob.read(limit=DOCUMENT_LIMIT)
        media_type = _media_type(raw)
        if platform is not None and media_type in INDEXES:
            if depth == DEPTH_LIMIT:
                message = f"{blob.digest}: indexes within indexes, more than {DEPTH_LIMIT} deep"
                raise LimitExceeded(message, limit=DEPTH_LIMIT)
            child = Index.parse(raw, media_type).select(platform)
            return self._document(self._blob(child.digest, child.size), types, platform, depth + 1)
        if types and media_type not in types:
            message = f"{blob.digest} is {media_type}: fetch it with the hint mediatype:{media_type}"
            raise MediaTypeMismatch(message, expected=types, got=media_type)
        return Blob.from_bytes(raw, media_type=media_type, digest=blob.digest)

    def _tagged(self, tag: str) -> Digest:
        path = self._folder / "tags" / tag
        try:
            return Digest.parse(path.read_text().strip())
        except FileNotFoundError as error:
            raise _missing(path) from error

    def _blob(self, digest: Digest, size: int | None, media_type: str | None = None) -> Blob:
        return Blob(_File(self._folder / digest.algorithm / digest.hex), digest, size=size, media_type=media_type)


@frozen
class _File:
    """Where the bytes of a blob come from; the file is opened when they are read."""

    path: Path

    def open(self, offset: int, end: int | None) -> BinaryIO:
        """Open the file at an offset; whoever reads stops at the end by itself."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError as error:
            raise _missing(self.path) from error
        file.seek(offset)
        return file

    def stat(self) -> Stat:
        """Tell the size."""
        try:
            return Stat(self.path.stat().st_size)
        except FileNotFoundError as error:
            raise _missing(self.path) from error


@frozen
class _Tags:
    """The names in a folder, read each time one iterates."""

    folder: Path

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(path.name for path in self.folder.iterdir()))


def _missing(path: Path) -> NotFound:
    return NotFound(f"there is no file {path}: check the tag or digest, and FILES_ROOT")


def _media_type(raw: bytes) -> str:
    """Return what a document says it is: a file has no header that could."""
    try:
        media_type = load_json(raw).get("mediaType")
    except DistError:
        return OCTET_STREAM
    return media_type if isinstance(media_type, str) else OCTET_STREAM
