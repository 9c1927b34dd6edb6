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
import os
import stat
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from attrs import evolve, frozen

from distsdk.blob import CHUNK_SIZE, Blob, Stat, sync_folder, write_all
from distsdk.errors import (
    DistError,
    IntegrityError,
    InvalidDigest,
    InvalidReference,
    LimitExceeded,
    MalformedDocument,
    NotFound,
    SizeMismatch,
    Unsafe,
)
from distsdk.layout.directory import LayoutDirectory, check_directory
from distsdk.layout.documents import MAX_DOCUMENT, VERSION_FILE
from distsdk.layout.locks import POLL, acquire, acquired, lock_at, locked
from distsdk.model.descriptor import REF_NAME, Descriptor
from distsdk.model.digest import Digest
from distsdk.model.image import Index, load_json, parse_json
from distsdk.model.media import CONFIGS, DOCKER_DOCUMENTS, DOCKER_LIST, DOCUMENTS, LAYERS, OCI_INDEX
from distsdk.model.shown import Named, Rows, Shown
from distsdk.model.wording import quoted
from distsdk.store.content import Active, Collected, Info, Ingested, Verified

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from distsdk.blob import BlobReader, ByteStream
    from distsdk.display.widgets import Watch

#: Bytes of a manifest or index that is looked into for what it leads to.
MAX_DOCUMENT_SIZE = MAX_DOCUMENT

#: What leads to nothing, whatever its bytes are.
_LEAVES = LAYERS | CONFIGS

#: Seconds after which `Store.gc` removes an ingest that nobody goes on with.
STALE = 24 * 60 * 60.0

#: Characters of a key, and of a name.
_MAX_KEY = 4096
_MAX_NAME = 1024

#: Seconds between two looks at a lock that another process holds, at last.
_LONGEST_POLL = 0.1

#: No link is followed, no child inherits a file, and nobody waits for the other end of a pipe that was planted.
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_CLOEXEC", "O_NONBLOCK", "O_BINARY"))

#: What the system says where bytes have no room: of a disk, a quota, a file.
_NO_ROOM = frozenset({errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG})

#: What the system says then: of a link, and of a socket (Linux, macOS).
_NO_FILE = frozenset({errno.ELOOP, errno.ENXIO, errno.EOPNOTSUPP})


class Readable(Protocol):
    """A binary file, as far as it has to be one."""

    def read(self, size: int, /) -> bytes | None:
        """Return at most ``size`` bytes, none at the end; None is an error: bytes are waited for."""
        ...


class Store(Shown):
    """Content in a folder that is an OCI image layout: processes share it, and other tools read it as it stands.

    Blobs are there whole and verified, or not at all. What is still coming in is kept apart, one writer for each key,
    and goes on where it was when its writer is gone. Nothing is read or made when a store is made.

    Attributes:
        root: The folder.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        """Name the folder.

        Args:
            path: A layout, an empty folder, or one that is not there yet; ``~`` is the user's home. By default what
                ``DISTSDK_STORE`` names, else ``distsdk`` in the place where this system keeps a user's data.
        """
        path = path or os.environ.get("DISTSDK_STORE")
        if path is None or path == "":
            from platformdirs import user_data_path

            path = user_data_path("distsdk", appauthor=False)
        self.root = Path(path).expanduser().absolute()
        self._layout = LayoutDirectory(self.root)
        self._made = False

    _worth_a_look = ("root",)

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
        at: Callable[[int], object] = lambda _: None,
    ) -> Ingested:
        """Take bytes in: when this returns they are verified, on disk, and there for everybody.

        One ingest of a digest goes on at a time, in all processes; of a key, where no digest is expected. The others
        wait for it, and have nothing to do when the bytes are there that they expect. A `Blob`, and a file that can
        seek and has an expected digest, go on where the last ingest of that digest ended, once what is there was
        hashed; any other stream starts over.

        Args:
            stream: A blob, a binary file, or the bytes in parts.
            key: What the ingest is known by until it is done; by default the expected digest.
            expected_digest: What the bytes must hash to; by default that of the blob. Where nobody expects one, their
                SHA-256 is taken.
            expected_size: In bytes.
            connections: For a blob, as `Blob.stream`.
            at: Called with the bytes that are here, again and again, also while it is another process that brings them.
                What it raises ends the ingest.

        Returns:
            Digest and size, and whether it was there before.

        Raises:
            DigestMismatch, SizeMismatch: The bytes are others than expected. They are not kept.
            ValueError: There is neither a key nor a digest.
            OSError: The folder cannot be written, or is full. What came is kept, to go on from.
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
        with self._begun(key, digest, at) as part:
            if digest is not None and (there := self._there(digest, expected_size)):
                part.drop()  # of a writer that was killed
                return there
            part.note(digest, expected_size)
            with part.open() as file:
                try:
                    got = _take_in(file, stream, digest, expected_size, connections=connections, at=at)
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
        """Tell what is known of a blob without reading it.

        Raises:
            NotFound: It is not here.
        """
        digest = _digest(digest)
        info = self._info(digest)
        if info is None:
            raise self._not_found(digest)
        return info

    def blob(self, digest: str | Digest, *, media_type: str | None = None) -> Blob:
        """Return a blob that is here, to be read like one of a remote: a whole read is verified.

        Raises:
            NotFound: It is not here.
        """
        info = self.info(digest)
        return Blob(_File(self._path(info.digest)), info.digest, size=info.size, media_type=media_type)

    def open(self, digest: str | Digest, *, verify: bool = False) -> BlobReader:
        """Open a blob as a file that can seek.

        Args:
            digest: Which.
            verify: Hash all of it now; otherwise it is hashed as far as it is read from front to back.

        Raises:
            NotFound: It is not here.
            DigestMismatch: It is damaged, and ``verify`` was asked for. `Store.verify` puts it out of the way.
        """
        blob = self.blob(digest)
        reader = blob.open()
        if verify:
            for _ in blob.stream(connections=1):
                pass
            reader.trust = "verified"
        return reader

    def path(self, digest: str | Digest) -> Path:
        """Return the file that holds a blob. It is read-only, and not to be changed.

        Raises:
            NotFound: It is not here.
        """
        return self._path(self.info(digest).digest)

    def blobs(self) -> Iterator[Info]:
        """Yield every blob, in no order, as the folder is read. What only has the name of one is passed over."""
        for digest in self._digests():
            try:
                info = self._info(digest)
            except Unsafe:
                continue
            if info is not None:
                yield info

    def delete(self, digest: str | Digest) -> None:
        """Remove a blob, whether or not an image leads to it; a link in its place is removed, and not followed.

        Raises:
            NotFound: It is not here.
        """
        digest = _digest(digest)
        try:
            self._path(digest).unlink()
        except FileNotFoundError:
            raise self._not_found(digest) from None

    def active(self) -> list[Active]:
        """Return the ingests that have begun and are not done, the oldest first; their writers may be gone."""
        found = [active for part in self._parts(".data") if (active := part.read()) is not None]
        return Rows(sorted(found, key=lambda active: active.started))

    def watch(self) -> Watch:
        """Return what shows in a notebook which ingests are active, twice a second until it is stopped.

        Elsewhere it shows them as they are when it is shown.
        """
        from distsdk.display.widgets import Watch

        return Watch(self)

    # Images

    def images(self) -> dict[str, Descriptor]:
        """Return what each name stands for, in the order in which ``index.json`` has them.

        What other tools wrote there without a name is left out. Of a name that is there twice, the last counts.

        Raises:
            MalformedDocument: ``index.json`` cannot be read as what it should be.
        """
        return Named(
            (entry.annotations[REF_NAME], entry)
            for entry in self._layout.index().descriptors()
            if entry.annotations.get(REF_NAME)
        )

    def tag(self, name: str, descriptor: Descriptor) -> None:
        """Let a name stand for a manifest or index; what it stood for before loses it.

        Other tools know of OCI's media types alone in a layout. For a document of Docker's, an OCI index that leads to
        it is written too, and has the name before the document itself: they find the one, and `images` the other.

        Args:
            name: Such as ``docker.io/library/redis:7``: printable characters of ASCII without white space.
            descriptor: What is here; its annotations stay, but for the name.

        Raises:
            NotFound: Its bytes are not here.
            InvalidReference: The name cannot be one.
            LimitExceeded: ``index.json`` would become too long to be read again.
        """
        if not 0 < len(name) <= _MAX_NAME or not (name.isascii() and name.isprintable()) or " " in name:
            message = f"{quoted(name)} cannot name an image: write host/path:tag"
            raise InvalidReference(message)
        with contextlib.ExitStack() as held:
            targets = [descriptor]
            if descriptor.media_type in DOCKER_DOCUMENTS:
                held.enter_context(self.lease())
                targets.insert(0, self._way_to(descriptor))
            # Once the lock is held, `gc` cannot remove the blob.
            self._layout.set_name(name, targets, check=lambda: self.info(descriptor.digest))

    def _way_to(self, target: Descriptor) -> Descriptor:
        """Bring an OCI index that leads to a document of Docker's: to a manifest, or to all that a list names."""
        leads_to: tuple[Descriptor, ...] = (target,)
        if target.media_type == DOCKER_LIST:
            leads_to = Index.parse(self.blob(target.digest).read(limit=MAX_DOCUMENT_SIZE), DOCKER_LIST).manifests
        entries = [evolve(entry, annotations={}).to_fields() for entry in leads_to]
        raw = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
        index = self.ingest(Blob.from_bytes(raw))
        return Descriptor(media_type=OCI_INDEX, digest=index.digest, size=index.size)

    def untag(self, name: str) -> None:
        """Take a name away. The content stays until `gc`.

        Raises:
            NotFound: There is no such name.
        """
        self._layout.remove_name(name)

    # Care

    @contextlib.contextmanager
    def lease(self) -> Iterator[None]:
        """Keep `gc` away while content comes in that no image leads to yet: name it before the block ends."""
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
        """Remove what nobody needs.

        That is: blobs that nothing in ``index.json`` leads to, ingests of which nothing was heard for a day, and what
        `verify` put out of the way.

        Every descriptor that a document names counts, whatever kind of document it is.

        Args:
            dry_run: Only tell what would be removed.

        Raises:
            BlockingIOError: An ingest or a pull is going on, which may need what no image leads to yet.
            IntegrityError, MalformedDocument, LimitExceeded, Unsafe: A document that images lead to is damaged, or
                cannot be looked into: nothing was removed. `verify` puts what is damaged out of the way.
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
        """Hash blobs anew, and put those out of the way that are damaged, to ``quarantine/``.

        Args:
            digests: Which; by default all.
            fetch: Gives a damaged one again, ``remote.fetch`` for instance; what it brings takes its place.

        Raises:
            NotFound: One that was named is not here.
            DistError: A damaged one could not be fetched; the others were. This is the error of the first.
        """
        count = size = 0
        damaged: list[Digest] = []
        healed: list[Digest] = []
        failures: list[DistError] = []
        for found in _hashed(self._digests() if digests is None else map(self._named, digests), self._path):
            if found is None:
                continue  # it was deleted meanwhile
            count += 1
            size += found.stat.st_size
            if not found.good:
                self._quarantine(found)
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
        return NotFound(f"{digest} is not in {self.root}")

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

    def _parts(self, *suffixes: str) -> list[_Part]:
        """Return the ingests that have a file with one of these suffixes."""
        folder = self.root / "ingest"
        names = {name.rpartition(".")[0] for suffix in suffixes for name in _names(folder, suffix)}
        return [_Part(folder, name) for name in sorted(names)]

    def _info(self, digest: Digest) -> Info | None:
        path = self._path(digest)
        try:
            found = path.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode):
            raise _no_file(path)
        return Info(digest, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC))

    def _there(self, digest: Digest, expected_size: int | None) -> Ingested | None:
        """Return a blob that is here, as it should be; one that is damaged is put out of the way."""
        info = self._info(digest)
        if info is None:
            return None
        if expected_size not in {None, info.size}:
            [found] = _hashed([digest], self._path)
            if found is not None and found.good:
                message = f"{digest} has {info.size} bytes, expected are {expected_size}"
                raise SizeMismatch(message, expected=expected_size, got=info.size)
            if found is not None:
                self._quarantine(found)
            return None
        return Ingested(info.digest, info.size, info.committed, existed=True)

    def _quarantine(self, found: _Hashed) -> None:
        """Put what was hashed out of the way, unless something else has taken its place."""
        folder = self.root / "quarantine"
        folder.mkdir(exist_ok=True)
        check_directory(folder)
        path = self._path(found.digest)
        with contextlib.suppress(FileNotFoundError):  # somebody else did it
            if os.path.samestat(path.lstat(), found.stat):
                path.replace(folder / f"{found.digest.algorithm}-{found.digest.hex}")

    def _left_over(self) -> Iterator[Path]:
        """Yield the files of the quarantine, and those that were to become an index when their writer was killed."""
        for folder, suffix in ((self.root / "quarantine", ""), (self.root / "ingest", ".tmp")):
            if folder.is_symlink():
                continue
            for name in _names(folder, suffix):
                if not stat.S_ISDIR((folder / name).lstat().st_mode):
                    yield folder / name

    def _make(self) -> None:
        """Make the directory a layout with a place for ingests; refuse one that is something else."""
        if self._made and (self.root / VERSION_FILE).exists():
            return
        self._layout.create()
        ingest = self.root / "ingest"
        ingest.mkdir(exist_ok=True)
        check_directory(ingest)
        self._made = True

    def _door(self) -> contextlib.AbstractContextManager[None]:
        """Return the lock that is held while an ingest or a lease begins or ends, and by `gc` all the time."""
        return locked(self.root / "ingest" / "door")

    @contextlib.contextmanager
    def _begun(self, key: str, digest: Digest | None, at: Callable[[int], object]) -> Iterator[_Part]:
        """Yield what the bytes are written to, for this writer alone; nothing empty is left."""
        # By the digest, where there is one: then those who name it otherwise wait too, and go on where this one ends.
        name = hashlib.sha256(str(digest or key).encode()).hexdigest()[:32]
        part = _Part(self.root / "ingest", name, key)
        owner = os.getpid()
        wait = POLL
        while True:
            with self._door():
                lock = lock_at(part.lock)
                if acquired(lock):
                    break
            at(part.offset)
            time.sleep(wait)
            wait = min(2 * wait, _LONGEST_POLL)
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

    def _commit(self, part: _Part, digest: Digest) -> Ingested:
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
        part.data.replace(target)
        sync_folder(target.parent)
        return Ingested(digest, found.st_size, datetime.fromtimestamp(found.st_mtime, UTC), existed)

    def _abandoned(self) -> list[tuple[_Part, Active]]:
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
        if info is None or (info.size > MAX_DOCUMENT_SIZE and not is_one):
            return None
        with _open_file(self._path(digest)) as file:
            if not is_one and not file.read(64).lstrip().startswith(b"{"):
                return None
        raw = self.blob(digest).read(limit=MAX_DOCUMENT_SIZE)
        try:
            return parse_json(raw, what=str(digest))
        except MalformedDocument:
            if is_one:
                raise
            return None  # the bytes are as they were made: no JSON, but what happens to begin like it


class _Part:
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
        updated = datetime.fromtimestamp(data.st_mtime, UTC)
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
class _File:
    """The bytes of a file that is no link."""

    path: Path

    def open(self, offset: int, end: int | None) -> ByteStream:
        file = _open_file(self.path)
        file.seek(offset)
        return cast("ByteStream", file)

    def stat(self) -> Stat:
        return Stat(self.path.lstat().st_size)


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
    at: Callable[[int], object],
) -> Digest:
    """Write what a file lacks of a stream, and return the digest of all of it.

    Raises:
        IntegrityError: It is not as expected.
    """

    def checked(here: int) -> None:
        if expected_size is not None and here > expected_size:
            message = f"there are more bytes than the {expected_size} expected"
            raise SizeMismatch(message, expected=expected_size, got=here)
        at(here)

    if isinstance(stream, Blob) and digest == stream.digest:
        stream.complete(file, connections=connections, at=checked)
    else:
        given = _Given(stream.stream() if isinstance(stream, Blob) else stream)
        if digest is None or not given.can_seek:
            file.truncate(0)
        if digest is None:
            digest = _copy(file, given, checked)
        else:
            Blob(given, digest, size=expected_size).complete(file, connections=1, at=checked)
    got = os.fstat(file.fileno()).st_size
    if expected_size not in {None, got}:
        message = f"{digest} has {got} bytes, expected are {expected_size}"
        raise SizeMismatch(message, expected=expected_size, got=got)
    return digest


def _copy(file: io.FileIO, given: _Given, at: Callable[[int], object]) -> Digest:
    hasher = hashlib.sha256(usedforsecurity=False)
    count = 0
    while chunk := given.read(CHUNK_SIZE):
        count += len(chunk)
        at(count)
        hasher.update(chunk)
        write_all(file, chunk)
    return Digest("sha256", hasher.hexdigest())


@frozen
class _Hashed:
    """What has the name of a blob: whether its bytes are what the name says, and which file it was."""

    digest: Digest
    stat: os.stat_result
    good: bool


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
            return _Hashed(digest, path(digest).lstat(), good=False)
        with file:
            got = hashlib.file_digest(file, digest.hasher).hexdigest()
            return _Hashed(digest, os.fstat(file.fileno()), good=got == digest.hex)

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
