"""`Image` and `Layer`: an image as a person thinks of it, with its history, its layers, and one tree of files."""

from __future__ import annotations

import contextlib
import logging
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from distsdk._progress import progress_bar
from distsdk._repr import Displayed, FixedRows, Rows
from distsdk._text import counted, human_size, quoted, shortened
from distsdk.errors import LimitExceeded, MalformedDocument, MediaTypeMismatch
from distsdk.images.artifact import Artifact
from distsdk.images.content import ContentSource, Meter
from distsdk.layers.cache import Cache
from distsdk.layers.layer import LayerFiles
from distsdk.layers.merged import Overlay
from distsdk.layers.unpack import unpack
from distsdk.remotes.connect import connect
from distsdk.spec.choice import Meanings
from distsdk.spec.documents import HistoryEntry, ImageConfig, Manifest
from distsdk.spec.media_types import CONFIGS
from distsdk.spec.platform import Platform
from distsdk.spec.reference import Reference
from distsdk.store.store import Store

if TYPE_CHECKING:
    import os
    from collections.abc import Callable, Iterator

    from matplotlib.axes import Axes
    from pandas import DataFrame

    from distsdk.analysis.diff import Diff
    from distsdk.analysis.packages import Package
    from distsdk.content.blob import Blob
    from distsdk.content.protocols import Fetcher
    from distsdk.display.widgets import ImageExplorer
    from distsdk.layers.layer import MemberFile
    from distsdk.layers.member import Member
    from distsdk.layers.merged import Entry
    from distsdk.layers.unpack import Applied
    from distsdk.spec.descriptor import Descriptor
    from distsdk.spec.digest import Digest

    Progress = bool | Callable[["Layer", int], object]

#: Bytes that `Image.read_bytes` and `Image.read_text` return at most unless told otherwise.
READ_LIMIT = 64 * 1024 * 1024

_log = logging.getLogger(__name__)


def image(
    reference: str | Reference,
    *,
    platform: str | Platform | None = None,
    remote: Fetcher | None = None,
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

    Examples:
        >>> image = distsdk.image("redis:7", platform="linux/amd64")
        >>> len(image.layers), image.read_text("/etc/debian_version").strip()
        (6, '12.15')
    """
    if isinstance(reference, str):
        reference = Reference.parse(reference)
    if isinstance(platform, str):
        platform = Platform.parse(platform)
    if store is not None and not isinstance(store, Store):
        store = Store(store)
    shelf = ContentSource(remote or connect(reference.locator), store)
    return _load(reference, platform, shelf, cache or _default_cache(), strict=strict, progress=progress)


def _load(
    reference: Reference,
    platform: Platform | None,
    shelf: ContentSource,
    cache: Cache,
    *,
    strict: bool,
    progress: Progress,
) -> Image:
    """Return the image that a name stands for: `image`."""
    found = _load_any(reference, platform, shelf, cache, strict=strict, progress=progress)
    if isinstance(found, Image):
        return found
    kind = found.manifest.artifact_type or found.manifest.config.media_type
    message = f"{reference} is no image, but an artifact of type {kind}: fetch its blobs by their digests"
    raise MediaTypeMismatch(message, expected=tuple(sorted(CONFIGS)), got=found.manifest.config.media_type)


def image_or_artifact(
    reference: Reference,
    *,
    remote: Fetcher,
    known: Descriptor | None = None,
    platform: Platform | None = None,
    store: Store | None = None,
    cache: Cache | None = None,
    strict: bool = False,
) -> Image | Artifact:
    """Return what a name stands for, an image or anything else that has layers.

    Args:
        reference: Which.
        remote: Gives it.
        known: The manifest that it is known to stand for.
        platform: As `image`.
        store: As `image`.
        cache: As `image`.
        strict: As `image`.

    Raises:
        DistError: As `image`.
    """
    shelf = ContentSource(remote, store)
    cache = cache or _default_cache()
    return _load_any(reference, platform, shelf, cache, known=known, strict=strict, progress=False)


def _load_any(
    reference: Reference,
    platform: Platform | None,
    shelf: ContentSource,
    cache: Cache,
    *,
    known: Descriptor | None = None,
    strict: bool,
    progress: Progress,
) -> Image | Artifact:
    blob = shelf.manifest(reference, platform) if known is None else shelf.blob(known)
    manifest = Manifest.parse(blob.read(), blob.media_type)
    Meanings().add([manifest.config, *manifest.layers])
    if manifest.config.media_type not in CONFIGS:
        return Artifact(reference, manifest, shelf, cache=cache, strict=strict)
    config = ImageConfig.parse(shelf.blob(manifest.config).read(), manifest.config.media_type)
    return Image(reference, manifest, config, shelf, cache=cache, strict=strict, progress=progress)


def _default_cache() -> Cache:
    from platformdirs import user_cache_path

    return Cache(user_cache_path("distsdk", appauthor=False) / "layers")


class Layer(Displayed):
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
                self.files.prepare(on_progress=at)
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

    def __getstate__(self) -> dict[str, object]:
        # Nobody is to be told of progress in another process.
        return {**self.__dict__, "_progress": self._progress is True}

    def __dask_tokenize__(self) -> object:
        return "distsdk.Layer", str(self.descriptor.digest)

    _repr_fields = ("number", "descriptor", "diff_id", "history")

    def __repr__(self) -> str:
        made_by = "" if self.history is None else f" {self.history.created_by[:60]!r}"
        return f"<Layer {self.number} {self.descriptor.digest} {human_size(self.size)}{made_by}>"


class Image(Displayed):
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
        shelf: ContentSource,
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
        self._shelf = shelf
        self._cache = cache
        self._progress = progress
        self._meter = Meter()
        made = [entry for entry in config.history if not entry.empty_layer]
        files: dict[tuple[Descriptor, Digest], LayerFiles] = {}  # a layer that is named twice is held in memory once
        for descriptor, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
            if (descriptor, diff_id) not in files:
                blob = shelf.blob(descriptor, self._meter)
                found = LayerFiles(blob, descriptor, diff_id=diff_id, cache=cache, strict=strict)
                files[descriptor, diff_id] = found
        self.layers = FixedRows(
            Layer(
                number,
                descriptor,
                diff_id,
                history=made[number] if len(made) == len(manifest.layers) else None,
                files=files[descriptor, diff_id],
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
        return FixedRows(self.config.history)

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

    @property
    def fetched(self) -> int:
        """Bytes of its layers that have come from the remote so far; none where a store has them."""
        return self._meter.count

    def platforms(self) -> tuple[Platform, ...]:
        """Return the platforms that there is an image for under its name. Costs a request; `for_platform` gets another.

        Raises:
            DistError: As `Remote.fetch`.
        """
        return tuple(dict.fromkeys(self._shelf.platforms(self.reference))) or (self.platform,)

    def for_platform(self, platform: str | Platform) -> Image:
        """Return the image that has the same name, for another platform. Errors as `distsdk.image`.

        Args:
            platform: One of `platforms`.
        """
        if isinstance(platform, str):
            platform = Platform.parse(platform)
        return _load(self.reference, platform, self._shelf, self._cache, strict=self._strict, progress=self._progress)

    @cached_property
    def _tree(self) -> Overlay:
        return Overlay(self.layers)

    def ls(self, path: str = "/") -> list[Entry]:
        """Return what is in a folder, sorted by name; of a file, itself.

        Raises:
            NotFound: There is nothing there.
            DistError: As `Blob.stream`; a layer may be damaged, or larger than a limit allows.
        """
        return Rows(self._tree.ls(path))

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

    def diff(self, other: Image, *, on_progress: Callable[[int, int], object] = lambda _done, _total: None) -> Diff:
        """Return what another image has that is different: configs, histories, layers, packages and files.

        It takes all that is known of the files of both (`cost`). Files that have the same size, and do not come from a
        layer that both have, are told apart by the digests in their tables of contents; where there is none, by reading
        them, each once.

        Args:
            other: What is taken for the later one.
            on_progress: Called with the bytes of files read so far and the bytes to read, first before any is read; not
                called if none has to be read.

        Raises:
            Unsafe: Nothing vouches for a file's bytes, and its image is strict.
            DistError: As `packages`.
        """
        from distsdk.analysis.diff import compare

        return compare(self, other, on_progress=on_progress)

    def unpack(
        self,
        directory: str | os.PathLike[str],
        *,
        devices: bool = False,
        dry_run: bool = False,
        on_progress: Callable[[Member], object] = lambda _: None,
        progress: bool | Callable[[int], object] = False,
    ) -> Applied:
        """Write its files to a new directory, and change nothing outside of it, whatever the layers hold.

        Args:
            directory: Where to: a new or an empty one, or what is left of an unpacking that ended early.
            devices: Make device nodes.
            dry_run: Write nothing; read and check all there is.
            on_progress: Called with each entry before it is written.
            progress: Show a bar of the layers' packed bytes if stderr is a terminal, unless
                ``DISTSDK_DISABLE_PROGRESS`` is set; or call this with the packed bytes read so far: 0 at first, all of
                them at the end.

        Returns:
            What was unpacked, and what was left out.

        Raises:
            Unsafe: A name leads out of the directory, or that is not empty.
            OSError: Something cannot be written.
            DistError: As `ls`.
        """
        blobs = [layer.blob for layer in self.layers]
        total = sum(layer.size for layer in self.layers)
        with progress_bar(lambda: str(self.reference), lambda: total, shown=progress) as taken:
            return unpack(
                blobs,
                directory,
                diff_ids=self.config.diff_ids,
                devices=devices,
                dry_run=dry_run,
                on_progress=on_progress,
                taken=taken,
            )

    def to_pandas(self, of: Literal["files", "layers", "history", "packages"] = "files") -> DataFrame:
        """Return a table, whose columns sort and sum: sizes are integers, times are in UTC.

        Args:
            of: ``files`` of the merged tree, which takes all that is known of them (`cost`): path, kind, size, mode,
                uid, gid, modified, link, hard_link, and the layer that put it there; names that are no UTF-8 are
                escaped. ``layers``, with the step that made each, or ``history``, the steps, with the layer that each
                made: both cost nothing. Or ``packages``.

        Raises:
            MissingExtra: pandas is not installed.
            ValueError: There is no such table.
            DistError: As `ls`.
        """
        from distsdk.analysis.tables import table

        return table(self, of)

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Draw where its bytes are: by folder, and by the layer they came with; also those that nobody sees.

        This takes all its files: `cost` tells beforehand.

        Args:
            ax: Where to draw; by default in a new figure.

        Raises:
            MissingExtra: matplotlib is not there.
            DistError: As `ls`.
        """
        from distsdk.display.plots import plot

        return plot(self, ax)

    def explore(self) -> ImageExplorer:
        """Return an explorer: in a notebook widgets, to look at folders, files and layers; elsewhere a page about it.

        It costs a few small requests. Whatever takes more than a megabyte is asked for first, by a button that says how
        much. It is not shown in this call, but at the end of a cell, or with ``display``.
        """
        from distsdk.display.widgets import ImageExplorer

        return ImageExplorer(self)

    def __reduce__(self) -> tuple[object, ...]:
        # Documents and places, and nothing of what was learnt of the layers: the cache has that.
        return _image_again, (
            self.reference,
            self.manifest,
            self.config,
            self._shelf,
            self._cache,
            self._strict,
            self._progress is True,
        )

    def __dask_tokenize__(self) -> object:
        return "distsdk.Image", str(self.digest)

    _repr_fields = ("reference", "digest", "platform", "download_size", "layers")

    def __repr__(self) -> str:
        layers = counted(len(self.layers), "layer")
        platform = shortened(str(self.platform))
        return f"<Image {self.reference} {platform} {layers}, {human_size(self.download_size)}>"

    def _repr_html_(self) -> str:
        from distsdk.display.html import image

        layers = tuple((layer.descriptor, layer.history) for layer in self.layers)
        return image(str(self.reference), self.digest, self.config, layers, self.download_size)


def _image_again(  # noqa: PLR0917 - as pickled
    reference: Reference,
    manifest: Manifest,
    config: ImageConfig,
    shelf: ContentSource,
    cache: Cache,
    strict: bool,
    progress: bool,
) -> Image:
    return Image(reference, manifest, config, shelf, cache=cache, strict=strict, progress=progress)
