"""Image layouts in a folder of this machine, which can be written to.

https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Any

from distsdk.blob import Blob, sync_folder, write_all
from distsdk.errors import (
    Denied,
    DistError,
    InvalidConfig,
    LimitExceeded,
    MalformedDocument,
    NotFound,
    SizeMismatch,
    Unsafe,
)
from distsdk.model.descriptor import REF_NAME, Descriptor
from distsdk.model.image import load_json
from distsdk.model.media import OCI_INDEX, OCTET_STREAM
from distsdk.model.reference import Object
from distsdk.model.wording import quoted
from distsdk.remotes.base import Wanted
from distsdk.remotes.layout import LayoutRemote
from distsdk.remotes.referrers import parse_document
from distsdk.remotes.source import Reader

if TYPE_CHECKING:
    import io
    from collections.abc import Callable, Iterator

    from distsdk.model.digest import Digest
    from distsdk.model.reference import Locator
    from distsdk.remotes.base import Source

#: What `oci-layout` says.
_LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'

#: Bytes that are read and written at a time.
_PIECE = 1024 * 1024

#: Seconds between two looks at a lock that another process holds.
_POLL = 0.02


class FolderRemote(LayoutRemote):
    """Reads the images in a layout that is a folder, and writes into it; a folder that is not there yet is made.

    Threads and processes may share one, a `Store` at the same place too: ``index.json`` is changed by one of them at a
    time, all other files are there as a whole or not at all. Nothing is written through a link inside of the folder.
    """

    def push_blob(
        self,
        source: Source,
        *,
        descriptor: Descriptor | None = None,
        media_type: str = OCTET_STREAM,
        mount_from: Locator | None = None,
        at: Callable[[int], object] | None = None,
    ) -> Descriptor:
        """Write a blob into the layout, unless it is there already; see `Pushable.push_blob`.

        Args:
            source: The bytes.
            descriptor: What they have to be. What is there under that digest with another size is replaced.
            media_type: Of what is returned, where there is no ``descriptor``.
            mount_from: Not looked at.
            at: Called with the bytes that are written.

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
        tell = at or (lambda _: None)
        if descriptor is not None:
            with contextlib.suppress(SizeMismatch):
                if self.has(descriptor):
                    tell(descriptor.size)
                    return descriptor
        with contextlib.closing(Reader.of(source, descriptor)) as reader, self._new_file() as (file, place):
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
        if tag is not None or document.subject is not None:
            # Without its annotations, one of which could be a name.
            self._edit_index(lambda entries: _listed(entries, found, tag, self._is_about_something))
        return found

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the layout has a file with this digest and size; see `Pushable.has`."""
        try:
            size = self._files.size(_blob_name(descriptor.digest))
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
        wanted = Wanted.read(object).object
        digest = wanted.digest
        if digest is None:
            self._edit_index(lambda entries: self._untagged(entries, str(wanted.tag)))
            return
        with self._parent(digest, make=False) as folder:
            try:
                os.unlink(digest.hex, dir_fd=folder)
            except FileNotFoundError as error:
                message = f"there is no {digest} in {self._files.shown()}"
                raise NotFound(message) from error
        self._edit_index(lambda entries: [entry for entry in entries if _digest_of(entry) != str(digest)])

    # Writing

    def _root(self) -> Path:
        if os.open not in os.supports_dir_fd:
            message = f"{self._files.shown()}: a layout is written on Linux and macOS only"
            raise InvalidConfig(message)
        return Path(os.path.expanduser(self._files.root))  # type: ignore[attr-defined] # noqa: PTH111 - as where it is read

    def _make(self) -> Path:
        """Return the folder, which is a layout now.

        Raises:
            InvalidConfig: There is a folder of other things.
        """
        root = self._root()
        with self._translated():
            root.mkdir(parents=True, exist_ok=True)
            if not (root / "oci-layout").exists():
                foreign = {entry.name for entry in os.scandir(root)} - {"blobs", "index.json", "index.lock", "ingest"}
                if foreign := {name for name in foreign if not name.startswith(_PART)}:
                    message = (
                        f"{root} is no image layout: name an empty or a new folder (it holds {quoted(min(foreign))})"
                    )
                    raise InvalidConfig(message)
                with self._locked(root):
                    if not (root / "index.json").exists():
                        self._replace(
                            "index.json", _json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})
                        )
                    if not (root / "oci-layout").exists():
                        self._replace("oci-layout", _LAYOUT)
        return root

    @contextlib.contextmanager
    def _new_file(self) -> Iterator[tuple[io.FileIO, Callable[[Digest], None]]]:
        """Yield a file without a place, and what gives it the place that its digest says."""
        root = self._make()
        part = root / f"{_PART}{os.urandom(8).hex()}"
        with self._translated():
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
        root = self._root()
        flags = os.O_RDONLY | os.O_DIRECTORY
        with contextlib.ExitStack() as stack, self._translated():
            folder = stack.enter_context(_opened(str(root), flags))
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

    def _edit_index(self, change: Callable[[list[Any]], list[Any]]) -> None:
        root = self._make()
        with self._translated(), self._locked(root):
            index = self._index()
            raw = _json({**index, "manifests": change(index["manifests"])})
            if len(raw) > self._limit:
                message = f"{self._files.shown('index.json')} would be longer than the limit of {self._limit} bytes"
                raise LimitExceeded(message, limit=self._limit)
            self._replace("index.json", raw)

    def _index(self) -> dict[str, Any]:
        from distsdk.remotes.files import read_document

        shown = self._files.shown("index.json")
        index = load_json(read_document(self._files, "index.json", self._limit), what=shown)
        manifests = index.get("manifests")
        if manifests is None:
            manifests = []  # as umoci writes that there are none
        if not isinstance(manifests, list):
            message = f"{shown} has no list of manifests"
            raise MalformedDocument(message)
        return {**index, "manifests": manifests}

    def _replace(self, name: str, data: bytes) -> None:
        """Let a file of the folder have this content, at once and for good."""
        root = self._root()
        part = root / f"{_PART}{os.urandom(8).hex()}"
        try:
            with part.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            part.replace(root / name)
        finally:
            part.unlink(missing_ok=True)
        sync_folder(root)

    def _locked(self, root: Path) -> contextlib.AbstractContextManager[object]:
        """Hold the lock that a `Store` has at the same place."""
        from filelock import FileLock

        lock = root / "index.lock"
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISREG(lock.lstat().st_mode):
                message = f"{lock} is no file of its own: it is not used"
                raise Unsafe(message)
        return FileLock(lock).acquire(poll_interval=_POLL)

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

    # The list of images

    def _untagged(self, entries: list[Any], tag: str) -> list[Any]:
        kept = [entry for entry in entries if _name_of(entry) != tag]
        if len(kept) == len(entries):
            message = f"nothing in {self._files.shown('index.json')} is called {quoted(tag)}"
            raise NotFound(message)
        return _listed(entries, None, tag, self._is_about_something)

    def _is_about_something(self, entry: object) -> bool:
        """Whether what an entry lists has a subject, so that it is found by its listing alone."""
        try:
            described = Descriptor.from_fields(entry)
            return parse_document(self._read(described.digest, None), described.media_type).subject is not None
        except DistError:
            return False


#: What the names of unfinished files begin with.
_PART = ".distsdk-"


def _listed(
    entries: list[Any], new: Descriptor | None, tag: str | None, is_referrer: Callable[[object], bool]
) -> list[Any]:
    """Return the list of images with a new one, whose tag no other has any more."""
    kept = []
    for entry in entries:
        if new is not None and _digest_of(entry) == str(new.digest) and _name_of(entry) in {None, tag}:
            continue  # listed anew
        if tag is not None and _name_of(entry) == tag:
            if not is_referrer(entry):
                continue
            others = {key: text for key, text in entry["annotations"].items() if key != REF_NAME}
            entry = {**entry, "annotations": others}  # noqa: PLW2901 - the same, without its name
        kept.append(entry)
    if new is None or (tag is None and any(_digest_of(entry) == str(new.digest) for entry in kept)):
        return kept
    return [*kept, {**new.to_fields(), **({} if tag is None else {"annotations": {REF_NAME: tag}})}]


def _name_of(entry: Any) -> str | None:  # noqa: ANN401 - of a file that anybody may have written
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    return annotations.get(REF_NAME) if isinstance(annotations, dict) else None


def _digest_of(entry: Any) -> object:  # noqa: ANN401 - as above
    return entry.get("digest") if isinstance(entry, dict) else None


def _blob_name(digest: Digest) -> str:
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _json(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


@contextlib.contextmanager
def _opened(path: str, flags: int, *, dir_fd: int | None = None) -> Iterator[int]:
    descriptor = os.open(path, flags | getattr(os, "O_CLOEXEC", 0), dir_fd=dir_fd)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
