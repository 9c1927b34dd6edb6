"""A store in a folder: an OCI image layout, and beside it what is still coming in.

https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md

What happens when a process is killed, the disk is full, or several write at once is written down in
``docs/explanation/store.md``.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import json
import logging
import os
import stat
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from attrs import frozen

from distsdk._files import sync_folder, write_all
from distsdk._repr import Displayed, NamedRows, Rows
from distsdk._text import quoted
from distsdk.content.blob import Blob
from distsdk.content.source import CHUNK_SIZE, Stat
from distsdk.errors import (
    DigestMismatch,
    DistError,
    IntegrityError,
    InvalidDigest,
    InvalidReference,
    LimitExceeded,
    MalformedDocument,
    NotFound,
    SizeMismatch,
    Unsafe,
    UnsupportedDocument,
)
from distsdk.layout.directory import LayoutDirectory, check_directory
from distsdk.layout.documents import MAX_DOCUMENT, VERSION_FILE, oci_alias
from distsdk.layout.locks import POLL, SILENT_WAIT, acquire, acquired, lock_at, locked
from distsdk.spec.descriptor import REF_NAME, Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.documents import Index, Manifest
from distsdk.spec.media_types import (
    CONFIGS,
    DOCKER_DOCUMENTS,
    DOCUMENTS,
    FOREIGN_LAYERS,
    INDEXES,
    LAYERS,
)
from distsdk.spec.strict_json import load_json, parse_json
from distsdk.store.commits import Commits
from distsdk.store.reports import Active, Collected, Info, Ingested, Verified

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from filelock import FileLock

    from distsdk.content.reader import BlobReader
    from distsdk.content.source import ByteStream
    from distsdk.display.widgets import Watch

_log = logging.getLogger(__name__)

#: Bytes of the largest manifest or index that is searched for descriptors.
MAX_DOCUMENT_SIZE = MAX_DOCUMENT

#: Media types without references to other content.
_LEAVES = LAYERS | CONFIGS

#: Seconds without new bytes after which `Store.gc` removes an ingest.
STALE = 24 * 60 * 60.0

#: Characters of a key, and of a name.
_MAX_KEY = 4096
_MAX_NAME = 1024

#: The longest pause, in seconds, between two attempts to take a lock that another process holds.
_LONGEST_POLL = 0.1

#: An ingest makes progress if so many bytes come in so many seconds: the least speed of blobs, 1 KiB/s over a minute.
#: With less its process may be stopped, or its source; those that wait for the same digest then fetch it themselves.
_LEAST_PROGRESS, _STALLED = 60 * 1024, 60.0

#: Do not follow links, do not let child processes inherit files, and do not block on pipes.
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))

#: Errors of a full disk, an exceeded quota and an exceeded file size.
_NO_ROOM = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG})

#: Errors of opening a link, and a socket (Linux, macOS).
_NO_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.EOPNOTSUPP})


class Readable(Protocol):
    """A binary file object: the one method that `Store.ingest` needs."""

    def read(self, size: int, /) -> bytes | None:
        """Return at most ``size`` bytes, and ``b""`` at the end. None, from a non-blocking file, is refused."""
        ...


class Store(Displayed):
    """Content in a directory that is an OCI image layout, shared between processes and with other tools.

    Blobs are complete and verified. Unfinished ingests are kept apart, with one writer for each key, and resume at
    their offset after their writer has ended. Creating a `Store` does no I/O.

    Attributes:
        root: The directory.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Set the directory, without I/O.

        Args:
            path: A layout, an empty directory, or a path to create; ``~`` is the user's home. The default is
                ``DISTSDK_STORE``, or ``distsdk`` in the system's directory for user data.
        """
        path = path or os.environ.get("DISTSDK_STORE")
        if path is None or path == "":
            from platformdirs import user_data_path

            path = user_data_path("distsdk", appauthor=False)
        self.root = Path(path).expanduser().absolute()
        self._layout = LayoutDirectory(self.root)
        self._commits = Commits(self.root / "commits")
        self._made = False

    _repr_fields = ("root",)

    def __repr__(self) -> str:
        return f"Store({str(self.root)!r})"

    # Blobs

    def ingest(
        self,
        stream: Blob | Readable | Iterable[bytes],
        key: str | None = None,
        *,
        expected_digest: str | Digest | None = None,
        expected_size: int | None = None,
        connections: int | None = None,
        on_progress: Callable[[int], object] = lambda _: None,
    ) -> Ingested:
        """Store bytes. When this returns they are verified, synced to disk, and visible to all processes.

        One writer at a time ingests a digest, across all processes, or a key if no digest is expected. The others wait,
        and return once the expected blob is stored; a wait of more than 2 s is logged. If a writer receives
        less than 60 KiB in a minute, one of the others ingests the digest itself. A `Blob`, and a seekable file with an
        expected digest, resume at the offset of the last ingest of that digest, after its bytes are hashed again; any
        other stream starts over.

        Args:
            stream: A blob, a binary file, or the bytes in parts.
            key: The name of the ingest until it is committed; by default the expected digest.
            expected_digest: The digest that the bytes must have; by default that of the blob. Without one, the SHA-256
                of the bytes is computed.
            expected_size: In bytes.
            connections: For a blob, as `Blob.stream`.
            on_progress: Called repeatedly with the bytes stored so far, also while another process stores them. An
                exception that it raises ends the ingest.

        Returns:
            The digest and size, and whether the store had the blob before.

        Raises:
            DigestMismatch, SizeMismatch: The bytes differ from the expected ones. They are not kept.
            ValueError: Neither a key nor a digest was given.
            OSError: The directory cannot be written, the disk is full, or another process does not release a lock.
                The received bytes are kept, and the next ingest resumes after them.
            DistError: As `Blob.stream`.
        """
        if isinstance(stream, Blob) and expected_digest is None:
            expected_digest = stream.digest
        digest = None if expected_digest is None else _digest(expected_digest)
        key = key or (str(digest) if digest else "")
        _check_key(key)
        if digest is not None and (there := self._there(digest, expected_size)):
            return there
        self._make()
        with self._begun(key, digest, on_progress) as part:
            if digest is not None and (there := self._there(digest, expected_size)):
                part.drop()  # of a writer that was killed
                return there
            part.note(digest, expected_size)
            with part.open() as file:
                try:
                    got = _take_in(
                        file, stream, digest, expected_size, connections=connections, on_progress=on_progress
                    )
                    os.fsync(file.fileno())
                except IntegrityError:
                    part.drop()
                    raise
                except OSError as error:
                    if error.errno in _NO_ROOM:  # writing names no file; what the source says is its own
                        error.filename = error.filename or str(part.data)
                    raise
            return self._commit(part, got)

    def info(self, digest: str | Digest) -> Info:
        """Return digest, size and commit time of a blob without reading it.

        Args:
            digest: The digest of the blob.

        Raises:
            NotFound: The store lacks the blob.
        """
        digest = _digest(digest)
        info = self._info(digest)
        if info is None:
            raise self._not_found(digest)
        return info

    def blob(self, digest: str | Digest, *, media_type: str | None = None) -> Blob:
        """Return a stored blob, read like a blob of a remote: a whole read is verified.

        A read that finds damage moves the blob to ``quarantine/``, and its error says so. The store then lacks the blob
        until the next pull of its image.

        Args:
            digest: The digest of the blob.
            media_type: Its media type, if known.

        Raises:
            NotFound: The store lacks the blob.
        """
        info = self.info(digest)
        source = _Stored(self._path(info.digest), self, info.digest)
        return Blob(source, info.digest, size=info.size, media_type=media_type)

    def open(self, digest: str | Digest, *, verify: bool = False) -> BlobReader:
        """Open a blob as a file that can seek.

        Args:
            digest: The digest of the blob.
            verify: Hash the whole blob now. Otherwise it is hashed while it is read from front to back.

        Raises:
            NotFound: The store lacks the blob.
            DigestMismatch: ``verify`` found the blob damaged. The blob is now in ``quarantine/``.
        """
        blob = self.blob(digest)
        reader = blob.open()
        if verify:
            for _ in blob.stream(connections=1):
                pass
            reader.trust = "verified"
        return reader

    def path(self, digest: str | Digest) -> Path:
        """Return the path of the file that holds a blob. The file is read-only; do not change it.

        Args:
            digest: The digest of the blob.

        Raises:
            NotFound: The store lacks the blob.
        """
        return self._path(self.info(digest).digest)

    def blobs(self) -> Iterator[Info]:
        """Yield every blob in arbitrary order. Links and directories in place of a blob are skipped.

        Raises:
            InvalidConfig: The directory is not a store and not empty.
        """
        self._check()
        for digest in self._digests():
            try:
                info = self._info(digest)
            except Unsafe:
                continue
            if info is not None:
                yield info

    def delete(self, digest: str | Digest) -> None:
        """Remove a blob, even if an image references it. A link in its place is removed, not followed.

        Args:
            digest: The digest of the blob.

        Raises:
            NotFound: The store lacks the blob.
        """
        digest = _digest(digest)
        try:
            self._path(digest).unlink()
        except FileNotFoundError:
            raise self._not_found(digest) from None
        self._commits.forget(digest)

    def active(self) -> list[Active]:
        """Return the unfinished ingests, oldest first. Their writers may have ended.

        Raises:
            InvalidConfig: The directory is not a store and not empty.
        """
        self._check()
        found = [active for part in self._parts(".data") if (active := part.read()) is not None]
        return Rows(sorted(found, key=lambda active: active.started))

    def watch(self) -> Watch:
        """Return a notebook display of the active ingests, updated twice a second until it is stopped.

        Outside a notebook, the display shows the ingests once.
        """
        from distsdk.display.widgets import Watch

        return Watch(self)

    # Images

    def images(self) -> dict[str, Descriptor]:
        """Return the descriptor of each name, in the order of ``index.json``.

        Entries without a name are left out. If a name occurs twice, the last entry counts.

        Raises:
            InvalidConfig: The directory is not a store and not empty.
            MalformedDocument: ``index.json`` is not a valid index.
        """
        return NamedRows(
            (entry.annotations[REF_NAME], entry)
            for entry in self._layout.index().descriptors()
            if entry.annotations.get(REF_NAME)
        )

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Name a manifest or index; a previous image of that name loses it.

        Other tools accept only OCI media types in a layout. For a document with a Docker media type, an OCI index that
        references it is written too and gets the name first: other tools find the index, and `images` the document.

        Args:
            name: Such as ``docker.io/library/redis:7``: printable characters of ASCII without white space.
            descriptor: A stored document. Its annotations are kept, except the name.

        Raises:
            NotFound: The store lacks the document.
            InvalidReference: The name is invalid.
            LimitExceeded: ``index.json`` would exceed the size limit for reading it.
        """
        if not 0 < len(name) <= _MAX_NAME or not (name.isascii() and name.isprintable()) or " " in name:
            message = f"{quoted(name)} cannot name an image: write host/path:tag"
            raise InvalidReference(message)
        with contextlib.ExitStack() as held:
            targets = [descriptor]
            if descriptor.media_type in DOCKER_DOCUMENTS:
                held.enter_context(self.lease())
                alias, raw = oci_alias(descriptor, self.blob(descriptor.digest).read(limit=MAX_DOCUMENT_SIZE))
                self.ingest(Blob.from_bytes(raw))
                targets.insert(0, alias)
            # Once the lock is held, `gc` cannot remove the blob.
            self._layout.set_name(name, targets, check=lambda: self.info(descriptor.digest))

    def untag(self, name: str) -> None:
        """Remove a name. The content stays until `gc`.

        Args:
            name: As in `images`.

        Raises:
            NotFound: The store has no image of that name.
        """
        self._layout.remove_name(name)

    # Care

    def check(self, digests: Iterable[str | Digest], *, rehash: bool = False) -> dict[Digest, Info]:
        """Return the blobs that are stored and intact; damaged ones are moved to ``quarantine/``.

        A file whose size, modification time and inode match its commit record is trusted. Any other file is hashed: one
        that another tool wrote, that was changed, or that belongs to a copy of the store.

        Args:
            digests: The blobs to look for.
            rehash: Trust no file, and hash all of them.

        Raises:
            Unsafe: There is a link, or something else, in the place of a blob.
            OSError: A damaged blob cannot be moved.
        """
        found: dict[Digest, Info] = {}
        doubtful: list[Digest] = []
        for digest in map(_digest, digests):
            status = self._status(digest)
            if status is None:
                continue
            if not rehash and self._commits.holds(digest, status):
                found[digest] = _info(digest, status)
            else:
                doubtful.append(digest)
        for hashed in _hashed(doubtful, self._path):
            if hashed is not None and self._judged(hashed):
                found[hashed.digest] = _info(hashed.digest, hashed.stat)
        return found

    def missing(self, target: Descriptor) -> tuple[Descriptor, ...]:
        """Return the content of an image or artifact that is not here, each blob once.

        Content counts that a pull brings: children of an index, configs and layers. Layers that are not to be
        distributed, and content that its descriptor embeds, do not. A document that is missing hides its own content;
        so does one that is malformed.

        Args:
            target: The manifest or index, as `images` returns it.
        """
        lacking: list[Descriptor] = []
        seen: set[Digest] = set()
        todo = [target]
        while todo:
            descriptor = todo.pop()
            if descriptor.digest in seen or descriptor.data is not None or descriptor.media_type in FOREIGN_LAYERS:
                continue
            seen.add(descriptor.digest)
            info = self._info(descriptor.digest)
            if info is None or info.size != descriptor.size:
                lacking.append(descriptor)
            elif descriptor.media_type in DOCUMENTS:
                try:
                    todo += self._children(descriptor)
                except (DigestMismatch, NotFound):
                    lacking.append(descriptor)
        return tuple(lacking)

    def _children(self, descriptor: Descriptor) -> Iterable[Descriptor]:
        raw = self.blob(descriptor.digest).read(limit=MAX_DOCUMENT_SIZE)
        try:
            if descriptor.media_type in INDEXES:
                return Index.parse(raw, descriptor.media_type).manifests
            manifest = Manifest.parse(raw, descriptor.media_type)
        except (MalformedDocument, UnsupportedDocument):
            return ()
        return (manifest.config, *manifest.layers)

    @contextlib.contextmanager
    def lease(self) -> Iterator[None]:
        """Return a context manager that blocks `gc` while unnamed content arrives; name it before the block ends."""
        self._make()
        path = self.root / "ingest" / f"{os.urandom(16).hex()}.lock"
        owner = os.getpid()
        with self._door():
            lock = lock_at(path)
            acquire(lock)
        try:
            yield
        finally:
            if os.getpid() == owner:  # a child that was forked meanwhile ends nothing of its parent's
                lock.release()
                path.unlink(missing_ok=True)

    def gc(self, *, dry_run: bool = False) -> Collected:
        """Remove unused content.

        Removed are blobs that nothing in ``index.json`` references, ingests that received nothing for a day, and the
        files in ``quarantine/``.

        Every descriptor in a referenced document counts, in documents of any type. While a referenced manifest or index
        is in quarantine, nothing is removed, because its content would have to be fetched again.

        Args:
            dry_run: Only report; remove nothing.

        Raises:
            BlockingIOError: An ingest or a pull is running; its blobs may have no name yet.
            IntegrityError, MalformedDocument, LimitExceeded, Unsafe: A referenced document is damaged or
                cannot be read: nothing was removed. `verify` moves damaged documents to quarantine.
        """
        if not self.root.exists():
            return Collected((), ())
        self._make()
        # Nothing begins, and nothing gets a name, until this is over.
        with self._door(), self._layout.locked():
            stale = self._abandoned()
            reached = self._reached()
            blobs = tuple(info for info in self.blobs() if info.digest not in reached)
            if not dry_run:
                for info in blobs:
                    self._path(info.digest).unlink(missing_ok=True)
                    self._commits.forget(info.digest)
                for part, _ in stale:
                    part.remove()
                for path in self._left_over():
                    path.unlink(missing_ok=True)
        return Collected(blobs, tuple(active for _, active in stale))

    def verify(
        self,
        digests: Iterable[str | Digest] | None = None,
        *,
        fetch: Callable[[Digest], Blob] | None = None,
    ) -> Verified:
        """Hash blobs again, and move damaged ones to ``quarantine/``.

        Args:
            digests: The blobs to hash (default: all).
            fetch: Returns a blob that replaces a damaged one, such as ``remote.fetch``.

        Raises:
            NotFound: The store lacks one of ``digests``.
            InvalidConfig: The directory is not a store and not empty.
            DistError: A damaged blob could not be fetched; this is the first such error. The others were fetched.
        """
        self._check()
        count = size = 0
        damaged: list[Digest] = []
        healed: list[Digest] = []
        failures: list[DistError] = []
        for found in _hashed(self._digests() if digests is None else map(self._named, digests), self._path):
            if found is None:
                continue  # it was deleted meanwhile
            count += 1
            size += found.stat.st_size
            if not self._judged(found):
                damaged.append(found.digest)
        if fetch is not None:
            for digest in damaged:
                try:
                    self.ingest(fetch(digest), expected_digest=digest)
                except DistError as error:
                    failures.append(error)
                else:
                    healed.append(digest)
        if failures:
            raise failures[0]
        return Verified(count, size, tuple(damaged), tuple(healed))

    # Inside

    def _path(self, digest: Digest) -> Path:
        return self._layout.blob_path(digest)

    def _not_found(self, digest: Digest) -> NotFound:
        message = f"{digest} is not in {self.root}"
        if os.path.lexists(self._quarantined(digest)):
            message += ": it was damaged, and moved to quarantine; pull its image again"
        return NotFound(message)

    def _named(self, digest: str | Digest) -> Digest:
        """Return the digest of what has the name of a blob, whatever it is."""
        digest = _digest(digest)
        if not os.path.lexists(self._path(digest)):
            raise self._not_found(digest)
        return digest

    def _digests(self) -> Iterator[Digest]:
        """Yield the digest of all that has the name of a blob, whatever it is."""
        for algorithm in _names(self.root / "blobs"):
            folder = self.root / "blobs" / algorithm
            if folder.is_symlink():
                continue  # what is elsewhere is not ours to remove
            for name in _names(folder):
                try:
                    digest = Digest(algorithm, name)
                except InvalidDigest:  # somebody else left it there
                    continue
                yield digest

    def _parts(self, *suffixes: str) -> list[_PartialBlob]:
        """Return the ingests that have a file with one of these suffixes."""
        folder = self.root / "ingest"
        names = {name.rpartition(".")[0] for suffix in suffixes for name in _names(folder, suffix)}
        return [_PartialBlob(folder, name) for name in sorted(names)]

    def _status(self, digest: Digest) -> os.stat_result | None:
        path = self._path(digest)
        try:
            found = path.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise _no_file(path)
        return found

    def _info(self, digest: Digest) -> Info | None:
        found = self._status(digest)
        return None if found is None else _info(digest, found)

    def _there(self, digest: Digest, expected_size: int | None) -> Ingested | None:
        """Return a blob that is here and sound; one that is damaged is moved to quarantine."""
        info = self.check([digest]).get(digest)
        if info is None:
            return None
        if expected_size not in {None, info.size}:
            message = f"size of {digest} is {info.size} bytes, expected {expected_size}"
            raise SizeMismatch(message, expected=expected_size or 0, got=info.size)
        return Ingested(info.digest, info.size, info.committed, existed=True)

    def _judged(self, found: _Hashed) -> bool:
        """Whether a blob is sound, which is remembered; a damaged one is moved to quarantine."""
        if found.good:
            self._commits.record(found.digest, found.stat)
        else:
            self._quarantine(found)
        return found.good

    def _distrust(self, digest: Digest) -> None:
        """Move a blob whose bytes were refused to quarantine, unless it is sound.

        Raises:
            DigestMismatch: It is damaged; the message says where it is now, and what to do.
        """
        for place in (self._path, self._quarantined):  # in quarantine, if another reader has moved it there
            [found] = _hashed([digest], place)
            if found is None:
                continue
            if found.good:
                return
            became = f"it was moved to {self._quarantined(digest).parent}; pull its image again"
            if place == self._path:
                try:
                    self._quarantine(found)
                except (OSError, Unsafe) as error:
                    became = (
                        f"it could not be moved to quarantine ({error}); verify the store, and pull its image again"
                    )
            message = f"blob {digest} is damaged: its bytes hash to {found.got}; {became}"
            raise DigestMismatch(message, expected=str(digest), got=str(found.got)) from None

    def _quarantine(self, found: _Hashed) -> None:
        """Put what was hashed out of the way, unless something else has taken its place."""
        target = self._quarantined(found.digest)
        target.parent.mkdir(exist_ok=True)
        check_directory(target.parent)
        path = self._path(found.digest)
        with contextlib.suppress(FileNotFoundError):  # another process did it
            if os.path.samestat(path.lstat(), found.stat):
                path.replace(target)
                self._commits.forget(found.digest)

    def _quarantined(self, digest: Digest) -> Path:
        return self.root / "quarantine" / f"{digest.algorithm}-{digest.hex}"

    def _left_over(self) -> Iterator[Path]:
        """Yield the files of the quarantine, unfinished files of killed writers, and records of blobs that are gone."""
        for folder, suffix in ((self.root / "quarantine", ""), (self.root / "ingest", ".tmp")):
            if folder.is_symlink():
                continue
            for name in _names(folder, suffix):
                if not stat.S_ISDIR((folder / name).lstat().st_mode):
                    yield folder / name
        yield from self._commits.orphans({f"{digest.algorithm}-{digest.hex}" for digest in self._digests()})

    def _check(self) -> None:
        """Refuse a folder that holds something else than a layout, or one that has begun to be one.

        Raises:
            InvalidConfig: The message names an entry of the folder.
        """
        if self.root.is_dir() and not (self.root / VERSION_FILE).exists():
            self._layout.check_own()

    def _make(self) -> None:
        """Make the directory a layout with a place for ingests; refuse one that is something else."""
        if self._made and (self.root / VERSION_FILE).exists():
            return
        self._layout.create()
        for name in ("ingest", "commits"):
            folder = self.root / name
            folder.mkdir(exist_ok=True)
            check_directory(folder)
        self._made = True

    def _door(self) -> contextlib.AbstractContextManager[None]:
        """Return the lock that is held while an ingest or a lease begins or ends, and by `gc` all the time."""
        return locked(self.root / "ingest" / "door")

    @contextlib.contextmanager
    def _begun(self, key: str, digest: Digest | None, on_progress: Callable[[int], object]) -> Iterator[_PartialBlob]:
        """Yield what the bytes are written to, for this writer alone; nothing empty is left."""
        owner = os.getpid()
        part, lock = self._claimed(key, digest, on_progress)
        try:
            yield part
        finally:
            if os.getpid() == owner:  # a child that was forked meanwhile ends nothing of its parent's
                try:
                    if not part.offset:
                        # Behind the door nobody takes the lock's file whose name is about to go.
                        with self._door():
                            lock.release()
                            part.remove()
                finally:
                    lock.release()

    def _claimed(
        self, key: str, digest: Digest | None, on_progress: Callable[[int], object]
    ) -> tuple[_PartialBlob, FileLock]:
        """Return a part that this writer has for itself, and its lock: the first one that is free, or gets free."""
        # By the digest, where there is one: then those who name it otherwise wait too, and go on where this one ends.
        name = hashlib.sha256(str(digest or key).encode()).hexdigest()[:32]
        part = _PartialBlob(self.root / "ingest", name, key)
        number = 0
        while (lock := self._writers_lock(part, digest, on_progress)) is None:
            number += 1
            part = _PartialBlob(self.root / "ingest", f"{name}-{number}", key)
        return part, lock

    def _writers_lock(
        self, part: _PartialBlob, digest: Digest | None, on_progress: Callable[[int], object]
    ) -> FileLock | None:
        """Return the lock of a part's writer, once no other process has it.

        None where it is not worth waiting for: the other makes no progress, or the blob has come some other way.
        """
        since = began = time.monotonic()
        before = part.offset
        reported = False
        pause = POLL
        while True:
            with self._door():
                lock = lock_at(part.lock)
                if acquired(lock):
                    return lock
            here = part.offset
            on_progress(here)
            now = time.monotonic()
            if not before <= here < before + _LEAST_PROGRESS:  # enough came, or all is fetched again
                before, since = here, now
            elif now - since >= _STALLED:
                _log.warning("%s makes no progress with %s; fetching it here", part.writer(), digest or part.key)
                return None
            if digest is not None and self._info(digest) is not None:
                return None
            if not reported and now - began >= SILENT_WAIT:
                reported = True
                _log.warning("waiting for %s to bring %s", part.writer(), digest or part.key)
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_POLL)

    def _commit(self, part: _PartialBlob, digest: Digest) -> Ingested:
        """Let what is on disk and verified be seen. It takes the place of what is there: that may be damaged."""
        existed = self._info(digest) is not None
        target = self._path(digest)
        if not target.parent.exists():
            target.parent.mkdir(exist_ok=True)
            sync_folder(target.parent.parent)
        check_directory(target.parent)
        os.utime(part.data)
        part.data.chmod(target.parent.stat().st_mode & 0o444)  # for whoever may list the folder
        found = part.data.stat()
        self._commits.record(digest, found)
        part.data.replace(target)
        sync_folder(target.parent)
        return Ingested(digest, found.st_size, _utc(found.st_mtime), existed)

    def _abandoned(self) -> list[tuple[_PartialBlob, Active]]:
        """Return the ingests that nobody went on with for a day.

        Raises:
            BlockingIOError: Somebody is at one.
        """
        stale = []
        for part in self._parts(".data", ".json", ".lock"):
            lock = lock_at(part.lock)
            active = part.read()
            if not acquired(lock):
                what = f"the ingest of {active.key}" if active else "a pull"
                message = f"{what} is going on in {self.root}: collect garbage when it is done"
                raise BlockingIOError(errno.EWOULDBLOCK, message)
            lock.release()
            if not part.offset:
                part.remove()  # of a writer that was killed
            elif active and time.time() - active.updated.timestamp() > STALE:
                stale.append((part, active))
        return stale

    def _reached(self) -> set[Digest]:
        """Return the digests of all that ``index.json`` leads to."""
        reached: set[Digest] = set()
        looked_into: set[Digest] = set()
        todo = list(_mentioned(self._layout.index().entries))
        while todo:
            digest, media_type = todo.pop()
            reached.add(digest)
            # One document may call a layer what another calls a manifest.
            if digest in looked_into or media_type in _LEAVES:
                continue
            looked_into.add(digest)
            todo += _mentioned(self._document(digest, media_type))
        return reached

    def _document(self, digest: Digest, media_type: str) -> object:
        """Return the parsed document that a blob is; None for one that is not here, and for what is no document."""
        is_one = media_type in DOCUMENTS
        info = self._info(digest)
        if info is None and is_one and os.path.lexists(self._quarantined(digest)):
            message = f"{digest} is needed and in quarantine; pull its image again before collecting garbage"
            raise IntegrityError(message)
        if info is None or (info.size > MAX_DOCUMENT_SIZE and not is_one):
            return None
        with _open_file(self._path(digest)) as file:
            if not is_one and not file.read(64).lstrip().startswith(b"{"):
                return None
        raw = Blob(_OwnFile(self._path(digest)), digest, size=info.size).read(limit=MAX_DOCUMENT_SIZE)
        try:
            return parse_json(raw, what=str(digest))
        except MalformedDocument:
            if is_one:
                raise
            return None  # the bytes are as they were made: no JSON, but what happens to begin like it


class _PartialBlob:
    """What an ingest has on disk before it is done: its bytes, what it is, and the lock of its writer."""

    def __init__(self, folder: Path, name: str, key: str = "") -> None:
        self.data, self.state, self.lock = (folder / f"{name}.{kind}" for kind in ("data", "json", "lock"))
        self.key = key

    @property
    def offset(self) -> int:
        """Bytes that are here."""
        try:
            return self.data.lstat().st_size
        except FileNotFoundError:
            return 0

    def note(self, digest: Digest | None, total: int | None) -> None:
        """Write down who is at what."""
        state = {"key": self.key, "total": total, "started": time.time(), "pid": os.getpid()}
        state["digest"] = None if digest is None else str(digest)
        _replace(self.state, json.dumps(state).encode(), self.state.parent)

    def read(self) -> Active | None:
        """Return what is known; None where there are no bytes. Without a readable note it is known by its file."""
        try:
            data = self.data.lstat()
        except FileNotFoundError:
            return None
        updated = _utc(data.st_mtime)
        try:
            state = load_json(_read_file(self.state, MAX_DOCUMENT_SIZE))
            started = datetime.fromtimestamp(float(cast("float", state["started"])), UTC)
            total = None if state["total"] is None else int(cast("int", state["total"]))
            key, pid = str(state["key"]), int(cast("int", state["pid"]))
            _check_key(key)
            digest = None if state["digest"] is None else Digest.parse(str(state["digest"]))
        except (DistError, OSError, KeyError, TypeError, ValueError, OverflowError):
            return Active(self.data.name, None, data.st_size, None, updated, updated, 0)
        return Active(key, digest, data.st_size, total, started, updated, pid)

    def writer(self) -> str:
        """Name the writer that holds the lock, for a message."""
        active = self.read()
        if active is None or not active.pid:
            return "another process"
        return "another thread" if active.pid == os.getpid() else f"another process (pid {active.pid})"

    def open(self) -> io.FileIO:
        """Open the bytes, those that an earlier writer left included if nobody else can have touched them."""
        with contextlib.suppress(FileNotFoundError):
            found = self.data.lstat()
            if not _is_own(found):
                self.drop()
            elif not found.st_mode & stat.S_IWUSR:  # its writer was killed just before it got its name
                self.data.chmod(stat.S_IMODE(found.st_mode) | stat.S_IWUSR)
        file = io.FileIO(os.open(self.data, os.O_RDWR | os.O_CREAT | _FLAGS, 0o600), "r+b")
        if not _is_own(os.fstat(file.fileno())):
            file.close()
            raise _no_file(self.data)
        return file

    def drop(self) -> None:
        """Forget the bytes."""
        self.data.unlink(missing_ok=True)

    def remove(self) -> None:
        """Leave nothing."""
        for path in (self.data, self.state, self.lock):
            path.unlink(missing_ok=True)


@frozen
class _OwnFile:
    """The bytes of a file that is no link."""

    path: Path

    def open(self, offset: int, end: int | None) -> ByteStream:
        file = _open_file(self.path)
        file.seek(offset)
        return cast("ByteStream", file)

    def stat(self) -> Stat:
        return Stat(self.path.lstat().st_size)


@frozen
class _Stored(_OwnFile):
    """The bytes of a blob in a store, which moves the blob to quarantine when they turn out wrong."""

    store: Store
    digest: Digest

    def open(self, offset: int, end: int | None) -> ByteStream:
        try:
            return super().open(offset, end)
        except FileNotFoundError:
            raise self.store._not_found(self.digest) from None

    def distrust(self) -> bool:
        self.store._distrust(self.digest)
        return False


class _Given:
    """A stream that somebody handed in, as a source; only one that can seek is opened at an offset."""

    def __init__(self, stream: Readable | Iterable[bytes]) -> None:
        self._parts = None if hasattr(stream, "read") else iter(stream)
        self._stream = cast("Readable", stream)
        self._rest = memoryview(b"")
        seekable = getattr(stream, "seekable", None)
        self.can_seek = seekable is not None and seekable()
        self._start = cast("io.RawIOBase", stream).tell() if self.can_seek else 0

    def open(self, offset: int, end: int | None) -> ByteStream:
        if self.can_seek:
            cast("io.RawIOBase", self._stream).seek(self._start + offset)
        return self

    def stat(self) -> Stat:
        if not self.can_seek:
            return Stat()
        return Stat(cast("io.RawIOBase", self._stream).seek(0, io.SEEK_END) - self._start)

    def read(self, size: int, /) -> bytes:
        if self._parts is None:
            data = self._stream.read(size)
            if data is None:
                raise BlockingIOError(errno.EWOULDBLOCK, "the stream has no bytes yet: give one that waits for them")
            return data
        while not self._rest:
            part = next(self._parts, None)
            if part is None:
                return b""
            self._rest = memoryview(part)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return bytes(taken)

    def close(self) -> None:
        """It is not ours."""


def _take_in(
    file: io.FileIO,
    stream: Blob | Readable | Iterable[bytes],
    digest: Digest | None,
    expected_size: int | None,
    *,
    connections: int | None,
    on_progress: Callable[[int], object],
) -> Digest:
    """Write what a file lacks of a stream, and return the digest of all of it.

    Raises:
        IntegrityError: It is not as expected.
    """

    def checked(here: int) -> None:
        if expected_size is not None and here > expected_size:
            message = f"there are more bytes than the {expected_size} expected"
            raise SizeMismatch(message, expected=expected_size, got=here)
        on_progress(here)

    if isinstance(stream, Blob) and digest == stream.digest:
        stream.complete(file, connections=connections, on_progress=checked)
    else:
        given = _Given(stream.stream() if isinstance(stream, Blob) else stream)
        if digest is None or not given.can_seek:
            file.truncate(0)
        if digest is None:
            digest = _copy(file, given, checked)
        else:
            Blob(given, digest, size=expected_size).complete(file, connections=1, on_progress=checked)
    got = os.fstat(file.fileno()).st_size
    if expected_size not in {None, got}:
        message = f"{digest} has {got} bytes, expected are {expected_size}"
        raise SizeMismatch(message, expected=expected_size, got=got)
    return digest


def _copy(file: io.FileIO, given: _Given, on_progress: Callable[[int], object]) -> Digest:
    hasher = hashlib.sha256(usedforsecurity=False)
    count = 0
    while chunk := given.read(CHUNK_SIZE):
        count += len(chunk)
        on_progress(count)
        hasher.update(chunk)
        write_all(file, chunk)
    return Digest("sha256", hasher.hexdigest())


@frozen
class _Hashed:
    """A file that has the name of a blob.

    Attributes:
        digest: Its name.
        stat: Its status from before it was hashed.
        got: The digest of its bytes; None for what is no file.
    """

    digest: Digest
    stat: os.stat_result
    got: Digest | None

    @property
    def good(self) -> bool:
        """Whether its bytes are those that the name says."""
        return self.got == self.digest


def _hashed(digests: Iterable[Digest], path: Callable[[Digest], Path]) -> Iterator[_Hashed | None]:
    """Yield what was found of each, None of one that is gone; several are hashed at once."""
    from concurrent.futures import ThreadPoolExecutor
    from itertools import islice

    def look(digest: Digest) -> _Hashed | None:
        try:
            file = _open_file(path(digest))
        except FileNotFoundError:
            return None
        except Unsafe:
            return _Hashed(digest, path(digest).lstat(), None)
        with file:
            status = os.fstat(file.fileno())
            got = hashlib.file_digest(file, digest.hasher).hexdigest()
            return _Hashed(digest, status, Digest(digest.algorithm, got))

    left = iter(digests)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        while batch := tuple(islice(left, 256)):
            yield from pool.map(look, batch)


def _mentioned(document: object) -> Iterator[tuple[Digest, str]]:
    """Yield digest and media type of every descriptor in a parsed document, wherever it stands."""
    todo = [document]
    while todo:
        value = todo.pop()
        if isinstance(value, list):
            todo += value
        elif isinstance(value, dict):
            todo += value.values()
            if isinstance(text := value.get("digest"), str):
                with contextlib.suppress(InvalidDigest):
                    yield Digest.parse(text), str(value.get("mediaType"))


def _check_key(key: str) -> None:
    if not 0 < len(key) <= _MAX_KEY or not key.isprintable():
        message = f"an ingest needs a key of 1 to {_MAX_KEY} printable characters, or a digest that is expected"
        raise ValueError(message)


def _info(digest: Digest, found: os.stat_result) -> Info:
    return Info(digest, found.st_size, _utc(found.st_mtime))


def _utc(seconds: float) -> datetime:
    """Return a time of a file; one before year 1 or after year 9999 as the first or the last that Python can tell."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        return datetime.max.replace(tzinfo=UTC) if seconds > 0 else datetime.min.replace(tzinfo=UTC)


def _digest(digest: str | Digest) -> Digest:
    return digest if isinstance(digest, Digest) else Digest.parse(digest)


def _names(folder: Path, suffix: str = "") -> Iterator[str]:
    """Yield the names in a folder that end so, as it is read; none where there is no folder."""
    try:
        entries = os.scandir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return
    with entries:
        for entry in entries:
            if entry.name.endswith(suffix):
                yield entry.name


def _open_file(path: Path) -> io.FileIO:
    """Open a file to read, but no link and nothing else: a folder that others can write may hold what they planted."""
    try:
        descriptor = os.open(path, os.O_RDONLY | _FLAGS)
    except OSError as error:
        if error.errno in _NO_FILE:
            raise _no_file(path) from None
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise _no_file(path)
    return io.FileIO(descriptor, "rb")


def _read_file(path: Path, limit: int) -> bytes:
    with _open_file(path) as file:
        raw = file.read(limit + 1)
    if len(raw) > limit:
        message = f"{path} is longer than the limit of {limit} bytes"
        raise LimitExceeded(message, limit=limit)
    return raw


def _replace(path: Path, data: bytes, folder: Path) -> None:
    """Let a file have this content at once: it is written in a folder of the same disk, and renamed."""
    part = folder / f"{os.urandom(8).hex()}.tmp"
    try:
        with io.FileIO(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666), "wb") as file:
            try:
                write_all(file, data)
            except OSError as error:
                error.filename = str(path)
                raise
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def _no_file(path: Path) -> Unsafe:
    return Unsafe(f"{path} is no file of its own, but a link, or something else: it is not used")


def _is_own(found: os.stat_result) -> bool:
    """Whether it is a file of this user's with no other name."""
    user = os.geteuid() if hasattr(os, "geteuid") else 0  # Windows says 0 of every file
    return stat.S_ISREG(found.st_mode) and (found.st_nlink, found.st_uid) == (1, user)
