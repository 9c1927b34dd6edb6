"""`Image` and `Layer`: an image with its configuration, history, layers and the merged tree of its files."""

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

#: Bytes that `Image.read_bytes` and `Image.read_text` return, at most, by default.
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
    """Return an image. Fetches its manifest and config, but no layers.

    Args:
        reference: Name of the image, such as ``redis:7``.
        platform: Platform in an index, ``os/architecture[/variant]``; by default that of the image in the store, else
            linux on this machine's architecture.
        remote: Remote to fetch from; by default that of `connect`.
        store: Store to read from first: an image that was pulled under the name is used, and its blobs are not fetched.
        cache: Keeps the indexes of layers, so that each layer is read once; by default in the user's cache directory.
        strict: Refuse tables of contents and bytes that cannot be verified.
        progress: Show a bar while a whole layer is read; or a function, called with the layer and the bytes read so
            far, first with 0.

    Raises:
        NotFound: The image does not exist.
        PlatformNotFound: The index has no image for the platform.
        MediaTypeMismatch: The reference names an artifact, not an image: fetch its blobs with `connect`.
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
    source = ContentSource(remote or connect(reference.locator), store)
    return _load(reference, platform, source, cache or _default_cache(), strict=strict, progress=progress)


def _load(
    reference: Reference,
    platform: Platform | None,
    source: ContentSource,
    cache: Cache,
    *,
    strict: bool,
    progress: Progress,
) -> Image:
    """Return the image with a name; see `image`."""
    found = _load_any(reference, platform, source, cache, strict=strict, progress=progress)
    if isinstance(found, Image):
        return found
    kind = found.manifest.artifact_type or found.manifest.config.media_type
    message = f"{reference} is not an image but an artifact of type {kind}; fetch its blobs by their digests"
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
    """Return the image or artifact with a name.

    Args:
        reference: The name.
        remote: Remote to fetch from.
        known: Descriptor of the manifest if it is known; saves a request.
        platform: As `image`.
        store: As `image`.
        cache: As `image`.
        strict: As `image`.

    Raises:
        DistError: As `image`.
    """
    source = ContentSource(remote, store)
    cache = cache or _default_cache()
    return _load_any(reference, platform, source, cache, known=known, strict=strict, progress=False)


def _load_any(
    reference: Reference,
    platform: Platform | None,
    source: ContentSource,
    cache: Cache,
    *,
    known: Descriptor | None = None,
    strict: bool,
    progress: Progress,
) -> Image | Artifact:
    blob = source.manifest(reference, platform) if known is None else source.blob(known)
    manifest = Manifest.parse(blob.read(), blob.media_type)
    Meanings().add([manifest.config, *manifest.layers])
    if manifest.config.media_type not in CONFIGS:
        return Artifact(reference, manifest, source, cache=cache, strict=strict)
    config = ImageConfig.parse(source.blob(manifest.config).read(), manifest.config.media_type)
    return Image(reference, manifest, config, source, cache=cache, strict=strict, progress=progress)


def _default_cache() -> Cache:
    from platformdirs import user_cache_path

    return Cache(user_cache_path("distsdk", appauthor=False) / "layers")


class Layer(Displayed):
    """A layer of an image.

    Attributes:
        number: Number from 0, the lowest layer.
        descriptor: Descriptor in the manifest.
        diff_id: Digest of the uncompressed layer in the config.
        history: Build step that created the layer; None if the config does not have it.
        blob: The bytes of the layer.
        files: The members and files of the layer.
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
        """The bytes of the layer."""
        return self.files.blob

    @property
    def size(self) -> int:
        """Compressed size in bytes."""
        return self.descriptor.size

    @property
    def members(self) -> tuple[Member, ...]:
        """The entries in the order of the archive. The first access reads ``files.cost`` bytes.

        Raises:
            DistError: As `LayerFiles.members`.
        """
        if self.files.source == "pass":
            _log.info("reading layer %d, %s, once: it has no table of contents", self.number, human_size(self.size))
            with self._report() as on_progress:
                on_progress(0)
                self.files.prepare(on_progress=on_progress)
        return self.files.members

    def open(self, member: Member, *, strict: bool = False) -> MemberFile:
        """Open a file of the layer.

        Args:
            member: One of `members` that is a file.
            strict: Refuse bytes that cannot be verified.

        Raises:
            DistError: As `LayerFiles.open`.
        """
        return self.files.open(member, strict=strict)

    @contextlib.contextmanager
    def _report(self) -> Iterator[Callable[[int], object]]:
        if callable(self._progress):
            report = self._progress
            yield lambda count: report(self, count)
            return
        with progress_bar(lambda: f"layer {self.number}", lambda: self.size, shown=self._progress) as on_progress:
            yield on_progress

    def __getstate__(self) -> dict[str, object]:
        # A function for progress is not passed to another process.
        return {**self.__dict__, "_progress": self._progress is True}

    def __dask_tokenize__(self) -> object:
        return "distsdk.Layer", str(self.descriptor.digest)

    _repr_fields = ("number", "descriptor", "diff_id", "history")

    def __repr__(self) -> str:
        made_by = "" if self.history is None else f" {self.history.created_by[:60]!r}"
        return f"<Layer {self.number} {self.descriptor.digest} {human_size(self.size)}{made_by}>"


class Image(Displayed):
    """An image for one platform, whose files can be read without pulling it.

    Paths are text from the root, ``/etc/passwd``; symbolic links are followed inside the image. The members of a layer
    come from its table of contents if it has one (eStargz, zstd:chunked); else the layer is read once, and the cache
    keeps its index. `cost` is the number of bytes to read. Layers that do not matter for a path are not read.

    Attributes:
        reference: The requested reference.
        manifest: The manifest.
        config: The config: how to run the image, and how it was built.
        layers: The layers, the lowest first.
    """

    def __init__(
        self,
        reference: Reference,
        manifest: Manifest,
        config: ImageConfig,
        source: ContentSource,
        *,
        cache: Cache,
        strict: bool,
        progress: Progress,
    ) -> None:
        """Use `distsdk.image`."""
        if len(manifest.layers) != len(config.diff_ids):
            message = (
                f"config of {reference} is invalid: expected {counted(len(manifest.layers), 'diffID')}, one for each "
                f"layer, got {len(config.diff_ids)}"
            )
            raise MalformedDocument(message)
        self.reference = reference
        self.manifest = manifest
        self.config = config
        self._strict = strict
        self._source = source
        self._cache = cache
        self._progress = progress
        self._meter = Meter()
        made = [entry for entry in config.history if not entry.empty_layer]
        files: dict[tuple[Descriptor, Digest], LayerFiles] = {}  # one object for a layer that is listed twice
        for descriptor, diff_id in zip(manifest.layers, config.diff_ids, strict=True):
            if (descriptor, diff_id) not in files:
                blob = source.blob(descriptor, self._meter)
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
        """Digest of the manifest."""
        return self.manifest.digest

    @property
    def platform(self) -> Platform:
        """The platform of the image."""
        return self.config.platform

    @property
    def history(self) -> tuple[HistoryEntry, ...]:
        """The build steps, the first one first."""
        return FixedRows(self.config.history)

    @property
    def download_size(self) -> int:
        """Bytes of manifest, config and compressed layers together."""
        return self.manifest.size + self.config.size + sum(layer.size for layer in self.layers)

    @property
    def cost(self) -> int:
        """Bytes to read before all files are known: tables of contents, and whole layers without one; 0 afterwards.

        May make a small request for each layer.
        """
        # A layer that is listed twice is read once.
        return sum({layer.descriptor.digest: layer.files.cost for layer in self.layers}.values())

    @property
    def fetched(self) -> int:
        """Bytes of layers that were fetched from the remote so far. Bytes from a store do not count."""
        return self._meter.count

    def platforms(self) -> tuple[Platform, ...]:
        """Return the platforms of the images with the same name. Makes a request; see `for_platform`.

        Raises:
            DistError: As `Remote.fetch`.
        """
        return tuple(dict.fromkeys(self._source.platforms(self.reference))) or (self.platform,)

    def for_platform(self, platform: str | Platform) -> Image:
        """Return the image with the same name for another platform.

        Args:
            platform: One of `platforms`.

        Raises:
            DistError: As `distsdk.image`.
        """
        if isinstance(platform, str):
            platform = Platform.parse(platform)
        return _load(self.reference, platform, self._source, self._cache, strict=self._strict, progress=self._progress)

    @cached_property
    def _tree(self) -> Overlay:
        return Overlay(self.layers)

    def ls(self, path: str = "/") -> list[Entry]:
        """Return the entries in a directory, sorted by name; for any other path, its own entry.

        Args:
            path: The path; symbolic links are followed.

        Raises:
            NotFound: The path does not exist.
            MalformedDocument: A layer is damaged.
            LimitExceeded: A layer exceeds a limit.
            DistError: As `Blob.stream`.
        """
        return Rows(self._tree.ls(path))

    def walk(self, path: str = "/") -> Iterator[Entry]:
        """Yield all entries below a directory, each directory before its entries.

        Args:
            path: The directory.

        Raises:
            DistError: As `ls`.
        """
        return self._tree.walk(path)

    def glob(self, pattern: str) -> Iterator[Entry]:
        """Yield the entries that match a pattern.

        Args:
            pattern: Pattern from the root: ``*``, ``?`` and ``[…]`` match within a name, ``**`` any directories.

        Raises:
            DistError: As `ls`.
        """
        return self._tree.glob(pattern)

    def stat(self, path: str, *, follow_symlinks: bool = True) -> Entry:
        """Return the entry at a path.

        Args:
            path: The path.
            follow_symlinks: Whether to follow a symbolic link at the end of the path.

        Raises:
            DistError: As `ls`.
        """
        return self._tree.stat(path, follow_symlinks=follow_symlinks)

    def which_layer(self, path: str) -> Layer:
        """Return the layer that added a path; its ``history`` is the build step.

        Args:
            path: The path. A symbolic link at the end is not followed.

        Raises:
            DistError: As `ls`.
        """
        return self.layers[self._tree.which_layer(path)]

    def open(self, path: str) -> MemberFile:
        """Open a file for reading and seeking. Only the parts that are read are fetched.

        Args:
            path: The path; symbolic links are followed.

        Returns:
            A file object, whose ``trust`` is how its bytes are verified.

        Raises:
            NotFound: There is no file at the path.
            Unsafe: The image is strict, and the bytes cannot be verified.
            DistError: As `ls`.
        """
        return self._tree.open(path, strict=self._strict)

    def read_bytes(self, path: str, *, limit: int = READ_LIMIT) -> bytes:
        """Return the content of a file.

        Args:
            path: The path; symbolic links are followed.
            limit: Size of the file in bytes, at most.

        Raises:
            LimitExceeded: The file is larger.
            DistError: As `open`.
        """
        with self.open(path) as file:
            if file.member.size > limit:
                message = (
                    f"{quoted(path)} is larger than the limit of {limit} bytes; open() it, or pass a higher limit="
                )
                raise LimitExceeded(message, limit=limit)
            return file.read()

    def read_text(self, path: str, *, limit: int = READ_LIMIT) -> str:
        """Return the content of a file, decoded as UTF-8.

        Args:
            path: As `read_bytes`.
            limit: As `read_bytes`.

        Raises:
            UnicodeDecodeError: The content is not UTF-8.
            DistError: As `read_bytes`.
        """
        return self.read_bytes(path, limit=limit).decode("utf-8")

    def packages(self) -> tuple[Package, ...]:
        """Return the installed packages in the databases of dpkg, apk and rpm. No other files are read.

        Raises:
            MalformedDocument: A database is damaged.
            LimitExceeded: A database exceeds a limit.
            DistError: As `ls`.
        """
        from distsdk.analysis.packages import read_packages

        return read_packages(self)

    def diff(self, other: Image, *, on_progress: Callable[[int, int], object] = lambda _done, _total: None) -> Diff:
        """Return the differences to another image: config, history, layers, packages and files.

        All files of both images must be known (`cost`). Files of equal size from different layers are compared by the
        digests in tables of contents; files without such a digest are read once.

        Args:
            other: The later image.
            on_progress: Called with the bytes of files read so far and the bytes to read, first before any is read; not
                called if no file has to be read.

        Raises:
            Unsafe: An image is strict, and the bytes of one of its files cannot be verified.
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
        """Write the files to a new directory, and change nothing outside of it.

        Args:
            directory: A new or empty directory, or the remains of a failed `unpack`.
            devices: Create device nodes.
            dry_run: Write nothing, but read and check all layers.
            on_progress: Called with each entry before it is written.
            progress: Show a bar of the compressed bytes if stderr is a terminal, unless ``DISTSDK_DISABLE_PROGRESS``
                is set; or a function, called with the compressed bytes read so far, first with 0.

        Returns:
            Counts of the entries that were unpacked and of those that were left out.

        Raises:
            Unsafe: A name leads out of the directory, or the directory is not empty.
            OSError: An entry cannot be written.
            DistError: As `ls`.
        """
        blobs = [layer.blob for layer in self.layers]
        total = sum(layer.size for layer in self.layers)
        with progress_bar(lambda: str(self.reference), lambda: total, shown=progress) as on_read:
            return unpack(
                blobs,
                directory,
                diff_ids=self.config.diff_ids,
                devices=devices,
                dry_run=dry_run,
                on_progress=on_progress,
                on_read=on_read,
            )

    def to_pandas(self, of: Literal["files", "layers", "history", "packages"] = "files") -> DataFrame:
        """Return a table with sizes as integers and times in UTC.

        Args:
            of: The table. ``files``: the merged tree with path, kind, size, mode, uid, gid, modified, link, hard_link
                and layer; reads `cost` bytes, and escapes names that are not UTF-8. ``layers``: the layers with their
                build steps. ``history``: the build steps with their layers. ``packages``: the installed packages.

        Raises:
            MissingExtra: pandas is not installed.
            ValueError: ``of`` is not one of these names.
            DistError: As `ls`.
        """
        from distsdk.analysis.tables import table

        return table(self, of)

    def plot(self, *, ax: Axes | None = None) -> Axes:
        """Plot the bytes of files by directory and layer, including files hidden by upper layers. Reads `cost` bytes.

        Args:
            ax: Axes to draw on; by default those of a new figure.

        Raises:
            MissingExtra: matplotlib is not installed.
            DistError: As `ls`.
        """
        from distsdk.display.plots import plot

        return plot(self, ax)

    def explore(self) -> ImageExplorer:
        """Return an explorer of directories, files and layers: widgets in a notebook, elsewhere a page about the image.

        Makes a few small requests. Anything over a megabyte is fetched after a click on a button with its size. The
        explorer is shown at the end of a cell, or by ``display``.
        """
        from distsdk.display.widgets import ImageExplorer

        return ImageExplorer(self)

    def __reduce__(self) -> tuple[object, ...]:
        # The indexes of layers are not pickled: the cache has them.
        progress = self._progress is True
        return _image_again, (
            *(self.reference, self.manifest, self.config, self._source),
            *(self._cache, self._strict, progress),
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


def _image_again(  # noqa: PLR0917 - pickles of 0.1 have this name and these arguments
    reference: Reference,
    manifest: Manifest,
    config: ImageConfig,
    source: ContentSource,
    cache: Cache,
    strict: bool,
    progress: bool,
) -> Image:
    return Image(reference, manifest, config, source, cache=cache, strict=strict, progress=progress)
