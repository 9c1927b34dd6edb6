"""`apply` and `unpack`: write the files of layers to a directory.

Four threads work in a pipeline, each a few megabytes ahead of the next: one reads the compressed bytes, one
decompresses them, one hashes the result, and the calling thread reads the archive and writes files. Until all digests
are verified, the directory has a marker.
"""

from __future__ import annotations

import io
import logging
import os
import stat
import threading
from collections import deque
from contextlib import closing, contextmanager, suppress
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeAlias, TypeVar

from attrs import frozen

from distsdk._progress import progress_bar
from distsdk._repr import Displayed
from distsdk._text import counted, human_size, quoted
from distsdk.content.blob import Blob
from distsdk.errors import DigestMismatch, DistError, IntegrityError, LimitExceeded, MalformedDocument, Unsafe
from distsdk.layers.compression import DEFAULT_LIMITS, STEP, compression_of, decompress, peek, too_many_entries
from distsdk.layers.member import Role, place
from distsdk.layers.rootfs import MARKER, RootfsWriter
from distsdk.layers.tar import read_tar
from distsdk.spec.digest import Digest

if TYPE_CHECKING:
    import hashlib
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from distsdk.layers.compression import LayerLimits
    from distsdk.layers.member import Member

_log = logging.getLogger(__name__)

T = TypeVar("T")

#: Bytes that the reader may be ahead of the decompressor, the decompressor of the hasher, and the hasher of the writer.
_PACKED_AHEAD = 16 * 1024 * 1024
_UNPACKED_AHEAD = 4 * 1024 * 1024

#: Seconds to wait for a thread of a cancelled pipeline; the thread may be blocked in a read.
_JOIN_TIMEOUT = 0.5

#: Content of the marker: whether everything in the directory came from layers, and may be removed to start again.
_ALL_OURS, _NOT_ALL_OURS = b"unpack\n", b"apply\n"


class Readable(Protocol):
    """A readable binary file object: a file, a pipe, an HTTP response."""

    def read(self, size: int, /) -> bytes:
        """Return the next bytes; empty at the end.

        Args:
            size: Number of bytes, at most.
        """
        ...


AnyLayer: TypeAlias = "Blob | bytes | str | os.PathLike[str] | Readable"


@frozen(kw_only=True)
class Applied(Displayed):
    """Counts of the entries that were unpacked and of those that were left out.

    Attributes:
        diff_ids: Digest of the uncompressed bytes of each layer.
        entries: Number of entries, without whiteouts.
        removed: Number of whiteouts.
        size: Content bytes of all files, as stored in the layers.
        owners: Whether owners, setuid and setgid bits were set, which only the superuser may do.
        devices_skipped: Number of device nodes that were not created because ``devices`` was not set.
        xattrs_refused: Number of extended attributes that were not set: refused by the system or the file system, or
            reserved for the machine (``security.selinux``, those of overlayfs).
    """

    diff_ids: tuple[Digest, ...]
    entries: int
    removed: int
    size: int
    owners: bool
    devices_skipped: int
    xattrs_refused: int

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each kind of entry or attribute that was left out."""
        return tuple(
            text
            for text, applies in (
                ("owners and setuid bits were not set: only the superuser may", not self.owners),
                (f"{counted(self.devices_skipped, 'device node')} left out: ask for devices", self.devices_skipped),
                (f"{counted(self.xattrs_refused, 'extended attribute')} not set", self.xattrs_refused),
            )
            if applies
        )


def apply(
    directory: str | os.PathLike[str],
    layer: AnyLayer,
    *,
    diff_id: Digest | None = None,
    devices: bool = False,
    dry_run: bool = False,
    limits: LayerLimits = DEFAULT_LIMITS,
    on_progress: Callable[[Member], object] = lambda _: None,
    progress: bool | Callable[[int], object] = False,
) -> Applied:
    """Apply a layer to a directory as image-spec describes, and change nothing outside of the directory.

    Whiteouts remove existing names, but none that the layer itself has. A directory is merged with an existing one; any
    other entry replaces an existing name. Symbolic links in paths are followed inside the directory.

    From the first write until all bytes are verified the directory has a file ``.distsdk-unpacking``. If the file
    stays, the call failed, and the tree is incomplete.

    Args:
        directory: Directory to write to; created if missing.
        layer: A path, bytes, a binary file that is read to its end, or a blob; uncompressed, gzip or zstd.
        diff_id: Expected digest of the uncompressed bytes. (The digest of a blob is always checked.)
        devices: Create device nodes.
        dry_run: Write nothing, but read, check and count all entries. Checks that depend on the directory, such as
            those of hard links, are skipped.
        limits: Limits of the layer.
        on_progress: Called with each entry, whiteouts included, before it is written. An exception ends the call.
        progress: Show a bar of the compressed bytes if stderr is a terminal, unless ``DISTSDK_DISABLE_PROGRESS`` is
            set; or a function, called in the calling thread with the compressed bytes read so far, first with 0.

    Returns:
        Counts of the entries.

    Raises:
        Unsafe: A name leads out of the directory, the directory has a marker, or another process unpacks into it; or
            the system cannot look up names in open directories, as Windows.
        MalformedDocument: The layer is damaged or has invalid entries.
        DigestMismatch: The layer has another digest or diffID.
        LimitExceeded: The layer exceeds a limit.
        OSError: An entry cannot be written; ``filename`` is its path.
        DistError: As `Blob.stream`.
    """
    layers = [(layer, diff_id)]
    with progress_bar(lambda: os.fspath(directory), lambda: _size_of(layer), shown=progress) as on_read:
        if dry_run:
            return _put(_DryRun(), layers, limits, on_progress, on_read)
        with _opened(directory, devices=devices) as target:
            if target.marked() is not None:
                raise Unsafe(
                    f"{_quoted(directory)} is incomplete: an earlier unpack into it failed; unpack into a new "
                    f"directory, or remove {MARKER.decode()} from it to ignore this"
                )
            target.mark(_NOT_ALL_OURS)
            return _put(target, layers, limits, on_progress, on_read)


def unpack(
    layers: Iterable[AnyLayer],
    directory: str | os.PathLike[str],
    *,
    diff_ids: Sequence[Digest] | None = None,
    devices: bool = False,
    dry_run: bool = False,
    limits: LayerLimits = DEFAULT_LIMITS,
    on_progress: Callable[[Member], object] = lambda _: None,
    on_read: Callable[[int], object] = lambda _: None,
) -> Applied:
    """Write the files of an image to a new directory.

    Args:
        layers: The layers, the lowest first; each as in `apply`.
        directory: Directory to write to; created if missing. It must be empty, or have the remains of a failed
            `unpack`, which are removed.
        diff_ids: Expected digests of the uncompressed layers, from the config.
        devices: Create device nodes.
        dry_run: Write nothing, as in `apply`.
        limits: Limits of each layer; ``output`` and ``image_members`` also apply to all layers together.
        on_progress: As in `apply`.
        on_read: Called in the calling thread with the compressed bytes read so far, first with 0.

    Returns:
        Counts of the entries of all layers together.

    Raises:
        MalformedDocument: The numbers of layers and ``diff_ids`` differ.
        DistError, OSError: As `apply`.
    """
    found = list(layers)
    expected: Sequence[Digest | None] = [None] * len(found) if diff_ids is None else diff_ids
    if len(expected) != len(found):
        message = (
            f"config of an image is invalid: expected {counted(len(found), 'diffID')}, one for each layer, got"
            f" {len(expected)}"
        )
        raise MalformedDocument(message)
    pairs = list(zip(found, expected, strict=True))
    if dry_run:
        return _put(_DryRun(), pairs, limits, on_progress, on_read)
    with _opened(directory, devices=devices) as target:
        if target.marked() == _ALL_OURS:
            target.empty()
        elif target.is_empty():
            target.mark(_ALL_OURS)
        else:
            raise Unsafe(f"{_quoted(directory)} is not empty; name a new directory, or apply single layers to this one")
        return _put(target, pairs, limits, on_progress, on_read)


@contextmanager
def _opened(directory: str | os.PathLike[str], *, devices: bool) -> Iterator[RootfsWriter]:
    """Open a directory to unpack into, for this process alone."""
    if os.open not in os.supports_dir_fd or os.link not in os.supports_follow_symlinks:
        raise Unsafe("unpacking failed: the system cannot look up names in open directories; use Linux or macOS")
    from fcntl import LOCK_EX, LOCK_NB, flock

    Path(directory).mkdir(exist_ok=True)
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    target = RootfsWriter(root, devices=devices)
    try:
        try:
            flock(root, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            raise Unsafe(f"another process is unpacking into {_quoted(directory)}; wait until it ends") from error
        yield target
    finally:
        target.close()


def _put(
    target: RootfsWriter | _DryRun,
    layers: list[tuple[AnyLayer, Digest | None]],
    limits: LayerLimits,
    on_progress: Callable[[Member], object],
    on_read: Callable[[int], object],
) -> Applied:
    """Unpack layers, check them, and finish the target."""
    entries = size = whole = count = 0
    diff_ids: list[Digest] = []

    def counted_chunks(parts: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
        nonlocal count
        for _, chunk in parts:
            count += len(chunk)
            yield chunk

    def reported(content: Iterator[memoryview]) -> Iterator[memoryview]:
        for part in content:
            on_read(count)
            yield part

    on_read(0)
    with _Ahead(_packed([layer for layer, _ in layers]), _PACKED_AHEAD, weight=lambda item: len(item[1])) as packed:
        for (number, parts), (layer, expected) in zip(groupby(packed, itemgetter(0)), layers, strict=True):
            chunks = counted_chunks(parts)
            unpacked = _Unpacked(layer, chunks, expected, limits, whole)
            target.next_layer()
            try:
                with closing(unpacked):
                    vouched_for = expected is not None or isinstance(layer, Blob)
                    for member, content in read_tar(unpacked.ahead, limits=limits, vouched_for=vouched_for):
                        entries += 1
                        if entries > limits.image_members:
                            raise too_many_entries(limits)
                        on_progress(member)
                        on_read(count)
                        target.add(member, reported(content))
                        size += member.stored
            except MalformedDocument:
                if isinstance(layer, Blob):
                    # Corrupt bytes explain the damage: raises their error if the blob's digest is wrong.
                    unpacked.close(timeout=None)
                    _verify_rest(chunks)
                raise
            whole = unpacked.whole
            on_read(count)
            diff_ids.append(unpacked.diff_id(number))
    target.finish()
    result = Applied(
        diff_ids=tuple(diff_ids),
        entries=entries - target.removed,
        removed=target.removed,
        size=size,
        owners=target.owners,
        devices_skipped=target.devices_skipped,
        xattrs_refused=target.xattrs_refused,
    )
    for note in result.notes():
        _log.warning("%s", note)
    return result


class _DryRun:
    """A target that writes nothing."""

    owners = True
    removed = devices_skipped = xattrs_refused = 0

    def next_layer(self) -> None: ...

    def finish(self) -> None: ...

    def add(self, member: Member, content: Iterator[memoryview]) -> None:
        """Check the names of an entry.

        Args:
            member: The entry.
            content: Ignored.
        """
        del content
        role, _, name = place(member.path)
        self.removed += role in {Role.WHITEOUT, Role.OPAQUE}
        RootfsWriter.check(member, role, name)


class _Unpacked:
    """The uncompressed bytes of a layer, read ahead, and their digest.

    Attributes:
        ahead: The bytes.
        whole: Uncompressed bytes of this layer and the layers before it, so far.
    """

    def __init__(
        self, layer: AnyLayer, chunks: Iterator[bytes], expected: Digest | None, limits: LayerLimits, before: int
    ) -> None:
        self.whole = before
        self._expected = expected
        self._limits = limits
        self._hasher: hashlib._Hash = (expected or Digest.of(b"")).hasher()
        media_type = layer.media_type if isinstance(layer, Blob) else ""
        self._unhashed = _Ahead(self._decompress(chunks, media_type), _UNPACKED_AHEAD, weight=len)
        self.ahead = _Ahead(self._hash(), _UNPACKED_AHEAD, weight=len)

    def close(self, *, timeout: float | None = _JOIN_TIMEOUT) -> None:
        """Stop reading.

        Args:
            timeout: As in `_Ahead.close`.
        """
        self._unhashed.close(timeout=timeout)
        self.ahead.close(timeout=timeout)

    def _decompress(self, chunks: Iterator[bytes], media_type: str) -> Iterator[bytes]:
        head, chunks = peek(chunks)
        for chunk in decompress(chunks, compression_of(media_type, head), limits=self._limits):
            self.whole += len(chunk)
            if self.whole > self._limits.output:
                raise LimitExceeded(
                    f"the layers together unpack to more than the limit of {human_size(self._limits.output)}; if you "
                    "trust them, unpack one after the other with distsdk.apply",
                    limit=self._limits.output,
                )
            yield chunk

    def _hash(self) -> Iterator[bytes]:
        for chunk in self._unhashed:
            self._hasher.update(chunk)
            yield chunk

    def diff_id(self, number: int) -> Digest:
        """Return the digest of all bytes.

        Args:
            number: Number of the layer, from 0, for the message.

        Raises:
            DigestMismatch: The digest differs from the expected one.
        """
        expected = self._expected
        found = Digest(expected.algorithm if expected else "sha256", self._hasher.hexdigest())
        if expected is not None and found != expected:
            raise DigestMismatch(
                f"diffID of layer {number + 1} is wrong: expected {expected}, got {found}; do not use the files that "
                "were written",
                expected=str(expected),
                got=str(found),
            )
        return found


def _packed(layers: list[AnyLayer]) -> Iterator[tuple[int, bytes]]:
    """Return the compressed chunks of layers, each with the number of its layer. Every layer has at least one chunk."""
    ready = [_unbuffered(layer) if isinstance(layer, io.BufferedReader) else (b"", layer) for layer in layers]

    def chunks() -> Iterator[tuple[int, bytes]]:
        for number, (head, layer) in enumerate(ready):
            yield number, head
            for chunk in _chunks(layer):
                yield number, chunk

    return chunks()


def _unbuffered(file: io.BufferedReader) -> tuple[bytes, AnyLayer]:
    """Return the buffered bytes of a file, and the unbuffered file below.

    A thread that waits in a buffered read holds the lock of the buffer, which the interpreter needs to exit: a read of
    standard input could block the exit for hours.
    """
    return file.read(len(file.peek(1))), file.raw


def _size_of(layer: AnyLayer) -> int | None:
    """Return the compressed size of a layer in bytes; None if it is not known before the layer is read."""
    if isinstance(layer, Blob):
        return layer.size
    if isinstance(layer, bytes):
        return len(layer)
    status = None
    with suppress(OSError):  # opening it raises the error; not every file object has a descriptor
        if isinstance(layer, str | os.PathLike):
            status = Path(layer).stat()
        elif isinstance(layer, io.IOBase):
            status = os.fstat(layer.fileno())
    return status.st_size if status is not None and stat.S_ISREG(status.st_mode) else None


def _chunks(layer: AnyLayer) -> Iterator[bytes]:
    if isinstance(layer, Blob):
        yield from layer.stream()
    elif isinstance(layer, bytes):
        for start in range(0, len(layer), STEP):
            yield layer[start : start + STEP]
    elif isinstance(layer, str | os.PathLike):
        with Path(layer).open("rb", buffering=0) as file:
            while chunk := file.read(STEP):
                yield chunk
    else:
        while chunk := layer.read(STEP):
            yield chunk


def _verify_rest(chunks: Iterator[bytes]) -> None:
    """Read the compressed bytes of a layer to their end, where the digest is checked.

    Raises:
        IntegrityError: The bytes have another digest or size.
    """
    try:
        deque(chunks, maxlen=0)
    except IntegrityError:
        raise
    except (DistError, OSError):
        return


class _Ahead(Generic[T]):
    """The items of an iterator, read ahead by a thread."""

    def __init__(self, items: Iterator[T], room: int, *, weight: Callable[[T], int]) -> None:
        """Start the thread.

        Args:
            items: The iterator, used by the thread alone.
            room: Total weight of waiting items; the next item is read while the total is below.
            weight: Returns the weight of an item.
        """
        self._items = items
        self._room = room
        self._weight = weight
        self._waiting: deque[T] = deque()
        self._weighs = 0
        self._ended = self._closed = False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        # A daemon, so that a blocked read does not keep the interpreter from exiting.
        self._thread = threading.Thread(target=self._get, name="distsdk-ahead", daemon=True)
        self._thread.start()

    def __enter__(self) -> _Ahead[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> _Ahead[T]:
        return self

    def __next__(self) -> T:
        with self._changed:
            while not (self._waiting or self._ended or self._closed):
                self._changed.wait()
            if self._waiting:
                item = self._waiting.popleft()
                self._weighs -= self._weight(item)
                self._changed.notify_all()
                return item
        if self._failure is not None:
            raise self._failure
        raise StopIteration

    def close(self, *, timeout: float | None = _JOIN_TIMEOUT) -> None:
        """Stop reading, and drop the waiting items.

        Args:
            timeout: Seconds to wait for the thread to end; None for no limit.
        """
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(timeout)

    def _get(self) -> None:
        failure: BaseException | None = None
        try:
            for item in self._items:
                with self._changed:
                    while self._weighs >= self._room and not self._closed:
                        self._changed.wait()
                    if self._closed:
                        break
                    self._waiting.append(item)
                    self._weighs += self._weight(item)
                    self._changed.notify_all()
        except BaseException as error:  # noqa: BLE001 - raised in `__next__`
            failure = error
        finally:
            close = getattr(self._items, "close", None)
            if close is not None:
                close()
        with self._changed:
            self._failure = failure
            self._ended = True
            self._changed.notify_all()


def _quoted(directory: str | os.PathLike[str]) -> str:
    return quoted(os.fspath(directory), 400)
