"""`Image` and `Layer`: an image as a person thinks of it, with its history, its layers, and one tree of files."""

from __future__ import annotations

import contextlib
import logging
from functools import cached_property
from typing import TYPE_CHECKING

from distsdk.blob import progress_bar
from distsdk.errors import LimitExceeded, MalformedDocument, MediaTypeMismatch, NotFound
from distsdk.layers.cache import Cache
from distsdk.layers.layer import LayerFiles
from distsdk.layers.overlay import Overlay
from distsdk.layers.unpack import unpack
from distsdk.model.image import HistoryEntry, ImageConfig, Index, Manifest
from distsdk.model.media import CONFIGS, INDEXES
from distsdk.model.platform import Platform
from distsdk.model.reference import Hint, Reference
from distsdk.model.wording import counted, human_size, quoted
from distsdk.remotes.base import connect
from distsdk.store.local import Store
from distsdk.transfer import MAX_DEPTH, name_in_store

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from distsdk.analysis.diff import Diff
    from distsdk.analysis.packages import Package
    from distsdk.blob import Blob
    from distsdk.layers.layer import MemberFile
    from distsdk.layers.member import Member
    from distsdk.layers.overlay import Entry
    from distsdk.layers.unpack import Applied
    from distsdk.model.descriptor import Descriptor
    from distsdk.model.digest import Digest
    from distsdk.remotes.base import Remote

    Progress = bool | Callable[["Layer", int], object]

#: Bytes that `Image.read_bytes` and `Image.read_text` return at most unless told otherwise.
READ_LIMIT = 64 * 1024 * 1024

_log = logging.getLogger(__name__)


def image(
    reference: str | Reference,
    *,
    platform: str | Platform | None = None,
    remote: Remote | None = None,
    store: Store | str | os.PathLike[str] | None = None,
    cache: Cache | None = None,
    strict: bool = False,
    progress: Progress = False,
) -> Image:
    """Return an image. Its manifest and its config are fetched, and nothing of its layers.

    Args:
        reference: Which, ``redis:7``.
        platform: Which child of an index, ``os/architecture[/variant]``; by default linux on this machine's
            architecture, or what the store has under the name.
        remote: Gives it; by default `connect` finds one.
        store: Where it is looked for first, after a `pull`: what has the name there is it, and what is there is not
            fetched.
        cache: Keeps what is learnt of layers, so that none is read twice; by default a folder where this system keeps a
            user's caches.
        strict: Believe no table of contents and no byte that nothing vouches for.
        progress: Show a bar while a whole layer is read, or call this with the layer and the bytes read so far, the
            first time before any is read.

    Raises:
        NotFound: There is no such image.
        PlatformNotFound: Not for the platform.
        MediaTypeMismatch: It is no image but an artifact: `connect` and `fetch` its blobs.
        DistError: As `Remote.fetch`.
    """
    if isinstance(reference, str):
        reference = Reference.parse(reference)
    if isinstance(platform, str):
        platform = Platform.parse(platform)
    if store is not None and not isinstance(store, Store):
        store = Store(store)
    shelf = _Shelf(remote or connect(reference.locator), store)
    blob = shelf.manifest(reference, platform)
    manifest = Manifest.parse(blob.read(), blob.media_type)
    if manifest.config.media_type not in CONFIGS:
        kind = manifest.artifact_type or manifest.config.media_type
        message = f"{reference} is no image, but an artifact of type {kind}: fetch its blobs by their digests"
        raise MediaTypeMismatch(message, expected=tuple(sorted(CONFIGS)), got=manifest.config.media_type)
    config = ImageConfig.parse(shelf.blob(manifest.config).read(), manifest.config.media_type)
    return Image(reference, manifest, config, shelf, cache=cache or _default_cache(), strict=strict, progress=progress)


def _default_cache() -> Cache:
    from platformdirs import user_cache_path

    return Cache(user_cache_path("distsdk", appauthor=False) / "layers")


class _Shelf:
    """Where an image's bytes are: in a store, or at a remote."""

    def __init__(self, remote: Remote, store: Store | None) -> None:
        self._remote = remote
        self._store = store

    def manifest(self, reference: Reference, platform: Platform | None) -> Blob:
        """Return the manifest that a name stands for; by default for this machine, or what the store has."""
        known = None if self._store is None else self._store.images().get(name_in_store(reference))
        chosen = platform or Platform.local()
        if known is not None and platform is not None and known.platform is not None:
            known = known if platform.choose([known.platform]) is not None else None  # pulled for another one
        if known is None:
            return self._remote.fetch(reference.object, Hint("platform", str(chosen)))
        for _ in range(MAX_DEPTH + 1):
            if known.media_type not in INDEXES:
                return self.blob(known)
            known = Index.parse(self.blob(known).read(), known.media_type).select(chosen)
        message = f"{reference} leads through more than {MAX_DEPTH} indexes within indexes"
        raise LimitExceeded(message, limit=MAX_DEPTH)

    def blob(self, descriptor: Descriptor) -> Blob:
        """Return a blob, from the store where it has it."""
        if self._store is not None:
            with contextlib.suppress(NotFound):
                return self._store.blob(descriptor.digest, media_type=descriptor.media_type)
        return self._remote.fetch(descriptor)


class Layer:
    """A layer of an image.

    Attributes:
        number: From 0, the lowest.
        descriptor: What the manifest says about it.
        diff_id: What it unpacks to, as the config says.
        history: The step that made it; None where the config does not tell.
        blob: Its bytes.
        files: What is in it.
    """

    def __init__(
        self,
        number: int,
        descriptor: Descriptor,
        diff_id: Digest,
        *,
        history: HistoryEntry | None,
        files: LayerFiles,
        progress: Progress,
    ) -> None:
        """Use `Image.layers`."""
        self.number = number
        self.descriptor = descriptor
        self.diff_id = diff_id
        self.history = history
        self.files = files
        self._progress = progress

    @property
    def blob(self) -> Blob:
        """The layer's bytes."""
        return self.files.blob

    @property
    def size(self) -> int:
        """Bytes over the wire."""
        return self.descriptor.size

    @property
    def members(self) -> tuple[Member, ...]:
        """Its entries, in the order of the archive. This may read all of the layer, once: ``files.cost`` tells.

        Raises:
            DistError: As `LayerFiles.members`.
        """
        if self.files.source == "pass":
            _log.info("reading layer %d, %s, once: it has no table of contents", self.number, human_size(self.size))
            with self._reported() as at:
                at(0)
                self.files.prepare(at=at)
        return self.files.members

    def open(self, member: Member, *, strict: bool = False) -> MemberFile:
        """Open one of its files, as `LayerFiles.open`."""
        return self.files.open(member, strict=strict)

    @contextlib.contextmanager
    def _reported(self) -> Iterator[Callable[[int], object]]:
        if callable(self._progress):
            tell = self._progress
            yield lambda count: tell(self, count)
            return
        with progress_bar(lambda: f"layer {self.number}", lambda: self.size, shown=self._progress) as at:
            yield at

    def __repr__(self) -> str:
        made_by = "" if self.history is None else f" {self.history.created_by[:60]!r}"
        return f"<Layer {self.number} {self.descriptor.digest} {human_size(self.size)}{made_by}>"


class Image:
    """An image for one platform, to look into: its files are read without pulling it.

    Paths are text from the root, ``/etc/passwd``; symbolic links lead inside the image. What a layer holds is learnt
    from the table of contents that it carries, if it does (eStargz, zstd:chunked); else by reading it once, which the
    cache remembers. `cost` tells beforehand what that takes. Layers that a path does not need are left alone.

    Attributes:
        reference: By what name it was asked for.
        manifest: What it consists of.
        config: How it is run, and how it was built.
        layers: The lowest first.
    """

    def __init__(
        self,
        reference: Reference,
        manifest: Manifest,
        config: ImageConfig,
        shelf: _Shelf,
        *,
        cache: Cache,
        strict: bool,
        progress: Progress,
    ) -> None:
        """Use `distsdk.image`."""
        if len(manifest.layers) != len(config.diff_ids):
            message = f"{reference} has {counted(len(manifest.layers), 'layer')}, its config {len(config.diff_ids)}"
            raise MalformedDocument(message)
        self.reference = reference
        self.manifest = manifest
        self.config = config
        self._strict = strict
        made = [entry for entry in config.history if not entry.empty_layer]
        self.layers = tuple(
            Layer(
                number,
                descriptor,
                diff_id,
                history=made[number] if len(made) == len(manifest.layers) else None,
                files=LayerFiles(shelf.blob(descriptor), descriptor, diff_id=diff_id, cache=cache, strict=strict),
                progress=progress,
            )
            for number, (descriptor, diff_id) in enumerate(zip(manifest.layers, config.diff_ids, strict=True))
        )

    @property
    def digest(self) -> Digest:
        """Of the manifest."""
        return self.manifest.digest

    @property
    def platform(self) -> Platform:
        """What it runs on."""
        return self.config.platform

    @property
    def history(self) -> tuple[HistoryEntry, ...]:
        """The steps it was built by, the first one first."""
        return self.config.history

    @property
    def download_size(self) -> int:
        """Bytes of manifest, config and layers, as they come over the wire."""
        return self.manifest.size + self.config.size + sum(layer.size for layer in self.layers)

    @property
    def cost(self) -> int:
        """Bytes that it takes to know all its files: tables of contents, and the layers that have none. 0 later on.

        May cost a small request for each layer.
        """
        # What is there twice is read once.
        return sum({layer.descriptor.digest: layer.files.cost for layer in self.layers}.values())

    @cached_property
    def _tree(self) -> Overlay:
        return Overlay(self.layers)

    def ls(self, path: str = "/") -> list[Entry]:
        """Return what is in a folder, sorted by name; of a file, itself.

        Raises:
            NotFound: There is nothing there.
            DistError: As `Blob.stream`; a layer may be damaged, or larger than a limit allows.
        """
        return self._tree.ls(path)

    def walk(self, path: str = "/") -> Iterator[Entry]:
        """Yield all that is below a folder: each folder before what is in it. Errors as `ls`."""
        return self._tree.walk(path)

    def glob(self, pattern: str) -> Iterator[Entry]:
        """Yield what a pattern matches: ``*``, ``?`` and ``[…]`` within a name, ``**`` any folders. Errors as `ls`."""
        return self._tree.glob(pattern)

    def stat(self, path: str, *, follow_symlinks: bool = True) -> Entry:
        """Return what is at a path. Errors as `ls`."""
        return self._tree.stat(path, follow_symlinks=follow_symlinks)

    def which_layer(self, path: str) -> Layer:
        """Return the layer that put what is at a path; its ``history`` is the step that did. Errors as `ls`."""
        return self.layers[self._tree.which_layer(path)]

    def open(self, path: str) -> MemberFile:
        """Open a file, which can seek and reads no more than it has to; its ``trust`` says who vouches for that.

        Raises:
            NotFound: There is no file.
            Unsafe: Nothing vouches for its bytes, and the image is strict.
            DistError: As `ls`.
        """
        return self._tree.open(path, strict=self._strict)

    def read_bytes(self, path: str, *, limit: int = READ_LIMIT) -> bytes:
        """Return the content of a file.

        Args:
            path: Which.
            limit: Bytes that may be held in memory.

        Raises:
            LimitExceeded: It has more.
            DistError: As `open`.
        """
        with self.open(path) as file:
            if file.member.size > limit:
                message = (
                    f"{quoted(path)} is larger than the limit of {limit} bytes: open() it, or pass a higher limit="
                )
                raise LimitExceeded(message, limit=limit)
            return file.read()

    def read_text(self, path: str, *, limit: int = READ_LIMIT) -> str:
        """Return the content of a file, decoded as UTF-8.

        Raises:
            UnicodeDecodeError: It is not UTF-8.
            DistError: As `read_bytes`.
        """
        return self.read_bytes(path, limit=limit).decode("utf-8")

    def packages(self) -> tuple[Package, ...]:
        """Return what is installed, as the databases of dpkg, apk and rpm say; no other files are read.

        Raises:
            MalformedDocument: A database is damaged.
            LimitExceeded: It is larger than can be.
            DistError: As `ls`.
        """
        from distsdk.analysis.packages import read_packages

        return read_packages(self)

    def diff(self, other: Image, *, at: Callable[[int, int], object] = lambda _done, _total: None) -> Diff:
        """Return what another image has that is different: configs, histories, layers, packages and files.

        It takes all that is known of the files of both (`cost`). Files that have the same size, and do not come from a
        layer that both have, are told apart by the digests in their tables of contents; where there is none, by reading
        them, each once.

        Args:
            other: What is taken for the later one.
            at: Called with how many bytes of files have been read for that, and how many have to be: the first time
                before any is, and not at all where none has to be.

        Raises:
            Unsafe: Nothing vouches for a file's bytes, and its image is strict.
            DistError: As `packages`.
        """
        from distsdk.analysis.diff import compare

        return compare(self, other, at=at)

    def unpack(
        self,
        directory: str | os.PathLike[str],
        *,
        devices: bool = False,
        dry_run: bool = False,
        at: Callable[[Member], object] = lambda _: None,
    ) -> Applied:
        """Write its files to a new directory, and change nothing outside of it, whatever the layers hold.

        Args:
            directory: Where to: a new or an empty one, or what is left of an unpacking that ended early.
            devices: Make device nodes.
            dry_run: Write nothing; read and check all there is.
            at: Called with each entry before it is written.

        Returns:
            What was unpacked, and what was left out.

        Raises:
            Unsafe: A name leads out of the directory, or that is not empty.
            OSError: Something cannot be written.
            DistError: As `ls`.
        """
        blobs = [layer.blob for layer in self.layers]
        return unpack(blobs, directory, diff_ids=self.config.diff_ids, devices=devices, dry_run=dry_run, at=at)

    def __repr__(self) -> str:
        layers = counted(len(self.layers), "layer")
        return f"<Image {self.reference} {self.platform} {layers}, {human_size(self.download_size)}>"

    def _repr_html_(self) -> str:
        from distsdk.display.html import image

        layers = tuple((layer.descriptor, layer.history) for layer in self.layers)
        return image(str(self.reference), self.digest, self.config, layers, self.download_size)
