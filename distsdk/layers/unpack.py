"""`apply` and `unpack`: layers become files in a directory.

Four threads, each ahead of the next by a few megabytes: one gets the packed bytes, layer after layer; one decompresses;
one hashes; the one that calls reads the archive and writes. Nothing counts before the verdict: until then the directory
has a marker in it.
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

#: Bytes that the packed layers may be ahead of the decompressor, and this of the hasher, and this of the writer.
_PACKED_AHEAD = 16 * 1024 * 1024
_UNPACKED_AHEAD = 4 * 1024 * 1024

#: Seconds that giving up waits for a thread which may be waiting for bytes itself.
_PATIENCE = 0.5

#: What the marker says: whether all that is in the directory came from layers, and may be removed to start over.
_ALL_OURS, _NOT_ALL_OURS = b"unpack\n", b"apply\n"


class Readable(Protocol):
    """What bytes can be read from: a binary file, a pipe, an answer."""

    def read(self, size: int, /) -> bytes:
        """Return at most ``size`` bytes; none at the end."""
        ...


AnyLayer: TypeAlias = "Blob | bytes | str | os.PathLike[str] | Readable"


@frozen(kw_only=True)
class Applied(Displayed):
    """What was unpacked, and what was left out.

    Attributes:
        diff_ids: The digest of each layer's uncompressed bytes.
        entries: Entries of the layers, without whiteouts.
        removed: Whiteouts.
        size: Bytes of the files' content, as it is stored in the layers.
        owners: Whether owners were set (and setuid and setgid bits): only the superuser may.
        devices_skipped: Device nodes that were not made, since they were not asked for.
        xattrs_refused: Extended attributes that were not set: the system or the file system refused, or they are the
            machine's own (``security.selinux``, overlayfs's).
    """

    diff_ids: tuple[Digest, ...]
    entries: int
    removed: int
    size: int
    owners: bool
    devices_skipped: int
    xattrs_refused: int

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each kind of thing that was left out."""
        return tuple(
            text
            for text, said in (
                ("owners and setuid bits were not set: only the superuser may", not self.owners),
                (f"{counted(self.devices_skipped, 'device node')} left out: ask for devices", self.devices_skipped),
                (f"{counted(self.xattrs_refused, 'extended attribute')} not set", self.xattrs_refused),
            )
            if said
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
    """Put a layer on top of what is in a directory, as image-spec says, and change nothing outside of it.

    Whiteouts remove what was there before; of what the layer brings they remove nothing. A folder is merged with the
    one that is there; anything else takes the place of what is there. Links lead to places inside the directory.

    From the first write until all is verified there is a file ``.distsdk-unpacking`` in the directory. If it stays,
    this ended early, and the tree is neither what it was nor what it was to be.

    Args:
        directory: Where to; made if it is not there.
        layer: A path, bytes, a binary file that is read to its end, or a blob. Plain, gzip or zstd.
        diff_id: What its uncompressed bytes must hash to. (The digest of a blob is checked in any case.)
        devices: Make device nodes.
        dry_run: Write nothing: read, check and count all there is. What only the directory can tell, such as links that
            lead to nothing, is not checked.
        limits: How much it may be.
        on_progress: Called with each entry, whiteouts included, before it is written. What it raises ends all.
        progress: Show a bar of the packed bytes if stderr is a terminal, unless ``DISTSDK_DISABLE_PROGRESS`` is set; or
            call this, in the calling thread, with the packed bytes read so far: 0 at first, all of them at the end.

    Returns:
        What was unpacked.

    Raises:
        Unsafe: A name leads out of the directory; the directory is marked, or somebody else is unpacking into it. Or
            the system cannot look up names in an open directory, as Windows cannot.
        MalformedDocument: The layer is damaged, or cannot be a layer.
        DigestMismatch: It is not the one that was asked for.
        LimitExceeded: It is more than a limit allows.
        OSError: Something cannot be written; ``filename`` is the path of the entry.
        DistError: As `Blob.stream`.
    """
    layers = [(layer, diff_id)]
    with progress_bar(lambda: os.fspath(directory), lambda: _size_of(layer), shown=progress) as taken:
        if dry_run:
            return _put(_DryRun(), layers, limits, on_progress, taken)
        with _opened(directory, devices=devices) as target:
            if target.marked() is not None:
                raise Unsafe(
                    f"{_quoted(directory)} is not whole, something that unpacked into it ended early: unpack into a "
                    f"new directory, or remove {MARKER.decode()} from it if you know better"
                )
            target.mark(_NOT_ALL_OURS)
            return _put(target, layers, limits, on_progress, taken)


def unpack(
    layers: Iterable[AnyLayer],
    directory: str | os.PathLike[str],
    *,
    diff_ids: Sequence[Digest] | None = None,
    devices: bool = False,
    dry_run: bool = False,
    limits: LayerLimits = DEFAULT_LIMITS,
    on_progress: Callable[[Member], object] = lambda _: None,
    taken: Callable[[int], object] = lambda _: None,
) -> Applied:
    """Put layers on top of each other in a new directory: the files of an image.

    Args:
        layers: From the lowest to the topmost; each as in `apply`.
        directory: Where to; made if it is not there. It has to be empty, or what is left of an `unpack` that ended
            early, which is removed.
        diff_ids: What their uncompressed bytes must hash to, as an image's config says.
        devices: Make device nodes.
        dry_run: Write nothing, as in `apply`.
        limits: How much each may be, and, in output and entries, all of them together.
        on_progress: As in `apply`.
        taken: Called, in the calling thread, with the packed bytes read so far: 0 at first, all of them at the end.

    Returns:
        What was unpacked of all of them together.

    Raises:
        MalformedDocument: There are more layers than ``diff_ids``, or fewer.
        DistError, OSError: As `apply`.
    """
    found = list(layers)
    wanted: Sequence[Digest | None] = [None] * len(found) if diff_ids is None else diff_ids
    if len(wanted) != len(found):
        message = f"an image has {counted(len(found), 'layer')}, and its config names {counted(len(wanted), 'diffID')}"
        raise MalformedDocument(message)
    pairs = list(zip(found, wanted, strict=True))
    if dry_run:
        return _put(_DryRun(), pairs, limits, on_progress, taken)
    with _opened(directory, devices=devices) as target:
        if target.marked() == _ALL_OURS:
            target.empty()
        elif target.is_empty():
            target.mark(_ALL_OURS)
        else:
            raise Unsafe(f"{_quoted(directory)} is not empty: name a new directory, or apply layers on top of this one")
        return _put(target, pairs, limits, on_progress, taken)


@contextmanager
def _opened(directory: str | os.PathLike[str], *, devices: bool) -> Iterator[RootfsWriter]:
    """Open a directory to unpack into, for this process alone."""
    if os.open not in os.supports_dir_fd or os.link not in os.supports_follow_symlinks:
        raise Unsafe("unpacking takes a system that looks up names in open directories, as Linux and macOS do")
    from fcntl import LOCK_EX, LOCK_NB, flock

    Path(directory).mkdir(exist_ok=True)
    root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    target = RootfsWriter(root, devices=devices)
    try:
        try:
            flock(root, LOCK_EX | LOCK_NB)
        except BlockingIOError as error:
            raise Unsafe(f"something else is unpacking into {_quoted(directory)}: wait for it") from error
        yield target
    finally:
        target.close()


def _put(
    target: RootfsWriter | _DryRun,
    layers: list[tuple[AnyLayer, Digest | None]],
    limits: LayerLimits,
    on_progress: Callable[[Member], object],
    taken: Callable[[int], object],
) -> Applied:
    """Unpack layers, check them, and finish the target."""
    entries = size = whole = count = 0
    diff_ids: list[Digest] = []

    def counted_chunks(parts: Iterable[tuple[int, bytes]]) -> Iterator[bytes]:
        nonlocal count
        for _, chunk in parts:
            count += len(chunk)
            yield chunk

    def told(content: Iterator[memoryview]) -> Iterator[memoryview]:
        for part in content:
            taken(count)
            yield part

    taken(0)
    with _Ahead(_packed([layer for layer, _ in layers]), _PACKED_AHEAD, weight=lambda item: len(item[1])) as packed:
        for (number, parts), (layer, wanted) in zip(groupby(packed, itemgetter(0)), layers, strict=True):
            chunks = counted_chunks(parts)
            unpacked = _Unpacked(layer, chunks, wanted, limits, whole)
            target.next_layer()
            try:
                with closing(unpacked):
                    vouched_for = wanted is not None or isinstance(layer, Blob)
                    for member, content in read_tar(unpacked.ahead, limits=limits, vouched_for=vouched_for):
                        entries += 1
                        if entries > limits.image_members:
                            raise too_many_entries(limits)
                        on_progress(member)
                        taken(count)
                        target.add(member, told(content))
                        size += member.stored
            except MalformedDocument:
                if isinstance(layer, Blob):
                    # Were the packed bytes the right ones? Then whoever made the layer is to blame.
                    unpacked.close(retry_state=None)
                    _verdict(chunks)
                raise
            whole = unpacked.whole
            taken(count)
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
    """What stands for a target where nothing is to be written."""

    owners = True
    removed = devices_skipped = xattrs_refused = 0

    def next_layer(self) -> None: ...

    def finish(self) -> None: ...

    def add(self, member: Member, content: Iterator[memoryview]) -> None:
        """Check names."""
        del content
        role, _, name = place(member.path)
        self.removed += role in {Role.WHITEOUT, Role.OPAQUE}
        RootfsWriter.check(member, role, name)


class _Unpacked:
    """The uncompressed bytes of a layer, got ahead, and what they hash to.

    Attributes:
        ahead: The bytes.
        whole: How many they are, and those of the layers before.
    """

    def __init__(
        self, layer: AnyLayer, chunks: Iterator[bytes], wanted: Digest | None, limits: LayerLimits, before: int
    ) -> None:
        self.whole = before
        self._wanted = wanted
        self._limits = limits
        self._hasher: hashlib._Hash = (wanted or Digest.of(b"")).hasher()
        media_type = layer.media_type if isinstance(layer, Blob) else ""
        self._unhashed = _Ahead(self._decompress(chunks, media_type), _UNPACKED_AHEAD, weight=len)
        self.ahead = _Ahead(self._hash(), _UNPACKED_AHEAD, weight=len)

    def close(self, *, retry_state: float | None = _PATIENCE) -> None:
        """Get no more; ``retry_state`` as in `_Ahead.close`."""
        self._unhashed.close(retry_state=retry_state)
        self.ahead.close(retry_state=retry_state)

    def _decompress(self, chunks: Iterator[bytes], media_type: str) -> Iterator[bytes]:
        head, chunks = peek(chunks)
        for chunk in decompress(chunks, compression_of(media_type, head), limits=self._limits):
            self.whole += len(chunk)
            if self.whole > self._limits.output:
                raise LimitExceeded(
                    f"layers unpack to more than the limit of {human_size(self._limits.output)} together: pass "
                    "limits=LayerLimits(output=…) if they are to be trusted",
                    limit=self._limits.output,
                )
            yield chunk

    def _hash(self) -> Iterator[bytes]:
        for chunk in self._unhashed:
            self._hasher.update(chunk)
            yield chunk

    def diff_id(self, number: int) -> Digest:
        """Return the digest of all bytes.

        Raises:
            DigestMismatch: It is not the one that was wanted.
        """
        wanted = self._wanted
        found = Digest(wanted.algorithm if wanted else "sha256", self._hasher.hexdigest())
        if wanted is not None and found != wanted:
            raise DigestMismatch(
                f"layer {number + 1} unpacks to something else than it should: expected {wanted}, got {found}; what "
                "was written must not be used",
                expected=str(wanted),
                got=str(found),
            )
        return found


def _packed(layers: list[AnyLayer]) -> Iterator[tuple[int, bytes]]:
    """Return the packed bytes of layers, each chunk with the number of its layer; each has one, if an empty one."""
    ready = [_unbuffered(layer) if isinstance(layer, io.BufferedReader) else (b"", layer) for layer in layers]

    def chunks() -> Iterator[tuple[int, bytes]]:
        for number, (head, layer) in enumerate(ready):
            yield number, head
            for chunk in _chunks(layer):
                yield number, chunk

    return chunks()


def _unbuffered(file: io.BufferedReader) -> tuple[bytes, AnyLayer]:
    """Return what a file has buffered, and the file below.

    A thread that waits in a buffered read holds the buffer's lock, without which the interpreter cannot end: so it
    would with standard input, whose other end may write nothing for hours.
    """
    return file.read(len(file.peek(1))), file.raw


def _size_of(layer: AnyLayer) -> int | None:
    """Return how many packed bytes a layer has; None if that is not known before it is read."""
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


def _verdict(chunks: Iterator[bytes]) -> None:
    """Read the packed bytes of a layer to their end.

    Raises:
        IntegrityError: They are not those that were asked for.
    """
    try:
        deque(chunks, maxlen=0)
    except IntegrityError:
        raise
    except (DistError, OSError):
        return


class _Ahead(Generic[T]):
    """What an iterator gives, got by a thread ahead of who takes it."""

    def __init__(self, items: Iterator[T], room: int, *, weight: Callable[[T], int]) -> None:
        """Start to get.

        Args:
            items: What to get, all of it in the thread.
            room: How much may wait to be taken; one more item is got when there is less.
            weight: How much of it an item is.
        """
        self._items = items
        self._room = room
        self._weight = weight
        self._waiting: deque[T] = deque()
        self._weighs = 0
        self._ended = self._closed = False
        self._failure: BaseException | None = None
        self._changed = threading.Condition()
        # Ended by force with the interpreter if it waits for bytes then.
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

    def close(self, *, retry_state: float | None = _PATIENCE) -> None:
        """Get no more, and forget what waits.

        Args:
            retry_state: Seconds to wait for the thread to end; None for as long as it takes.
        """
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._changed.notify_all()
        self._thread.join(retry_state)

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
        except BaseException as error:  # noqa: BLE001 - it is raised where the items are taken
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
