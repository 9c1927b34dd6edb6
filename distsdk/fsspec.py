"""Registries as a filesystem of fsspec's: ``dist://HOST/REPOSITORY:TAG/path``, or ``…@DIGEST/path``.

https://filesystem-spec.readthedocs.io/en/latest/developer.html
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
from abc import ABC, abstractmethod
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import quote, unquote

from attrs import evolve, frozen

from distsdk._locks import ForkSafeLock
from distsdk._text import quoted
from distsdk.content.source import CHUNK_SIZE
from distsdk.errors import (
    InvalidDigest,
    InvalidReference,
    LimitExceeded,
    MalformedDocument,
    MissingExtra,
    NotFound,
    PlatformNotFound,
    Unsafe,
)
from distsdk.images.artifact import Artifact
from distsdk.images.image import Image, image_or_artifact
from distsdk.layers.cache import Cache
from distsdk.layers.compression import DEFAULT_LIMITS
from distsdk.layers.layer import GAP, READ_AHEAD
from distsdk.layers.member import Kind, inside
from distsdk.layers.merged import Overlay
from distsdk.remotes.connect import connect
from distsdk.spec.descriptor import TITLE, Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.media_types import OCI_EMPTY
from distsdk.spec.platform import Platform
from distsdk.spec.reference import Locator, Reference
from distsdk.store.store import Store

try:
    from fsspec.callbacks import DEFAULT_CALLBACK
    from fsspec.core import has_magic
    from fsspec.spec import AbstractBufferedFile, AbstractFileSystem
    from fsspec.utils import isfilelike
except ImportError as error:
    raise MissingExtra("fsspec", "a filesystem of dist:// paths") from error

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import Self, TypeVar

    from distsdk.content.blob import Blob
    from distsdk.content.reader import BlobReader, Trust
    from distsdk.layers.layer import LayerFiles, MemberFile
    from distsdk.layers.merged import Entry

    T = TypeVar("T")

__all__ = ["DistFile", "DistFileSystem"]

_log = logging.getLogger(__name__)

#: Bytes that a file's cache asks for beyond what is read, unless told otherwise. Who reads on is served from a range
#: that grows by itself, and who jumps pays for this once a jump.
BLOCK_SIZE = 256 * 1024

#: Ranges and files that are asked for at once.
AT_ONCE = 8

#: Images and artifacts that a filesystem keeps open: their manifests, and what is known of their files.
KEPT_OPEN = 16

#: Of a layer that is an archive, and is to be shown as a folder: https://github.com/oras-project/oras-go/blob/v2.5.0/content/file/file.go
_UNPACK = "io.deis.oras.content.unpack"
#: … and the digest of the archive when it is not compressed.
_UNPACKED = "io.deis.oras.content.digest"
# https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md#pre-defined-annotation-keys
_CREATED = "org.opencontainers.image.created"

#: What fsspec gives each filesystem.
_OPTIONS_OF_ALL = frozenset({"use_listings_cache", "listings_expiry_time", "max_paths", "asynchronous", "loop"})

#: What is escaped in names: what has a meaning in URLs, in chains of them, or on Windows, and what cannot be shown.
_ESCAPED = re.compile(r"[%:#?\\]")

_TYPES = {Kind.FILE: "file", Kind.FOLDER: "directory"}

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def escape(name: str) -> str:
    """Return a file's name, or path, as it stands in a ``dist://`` path: ``a:b`` is ``a%3Ab``."""
    if name.isprintable() and not _ESCAPED.search(name):
        return name
    return "".join(
        c if c.isprintable() and not _ESCAPED.match(c) else quote(c, safe="", errors="surrogateescape") for c in name
    )


def unescape(name: str) -> str:
    """Return the name of a file, or its path, that stands in a ``dist://`` path."""
    return unquote(name, errors="surrogateescape") if "%" in name else name


def split(path: str) -> tuple[str, str]:
    """Return what of a path names an image or artifact, and what is in there.

    Args:
        path: Without ``dist://``: host, and the segments up to the first one that has a ``:`` or an ``@``; the rest.

    Raises:
        InvalidReference: It has neither tag nor digest.
    """
    host, *segments = path.split("/")
    if "@" in host:  # not repeated: it may be a password
        raise InvalidReference("a dist:// path begins with the host alone: logins are found where docker keeps them")
    for number, segment in enumerate(segments, 1):
        if ":" in segment or "@" in segment:
            return "/".join([host, *segments[:number]]), "/".join(segments[number:])
    message = f"{quoted(f'dist://{path}')} names no image: write dist://host/repository:tag/path, or …@digest/path"
    raise InvalidReference(message)


def parse_reference(text: str) -> Reference:
    """Return the reference that a path begins with. Nothing is added to it: neither host nor tag.

    Args:
        text: The first part of what `split` returns. In the host, ``%3A`` is a colon, for IPv6 addresses in chains.

    Raises:
        InvalidReference, InvalidDigest: It is none.
    """
    host, _, rest = text.partition("/")
    if not host:
        raise InvalidReference(f"{quoted(f'dist://{text}')} begins with no host: write dist://host/repository:tag/path")
    match = re.fullmatch(r"([^:@]*)(?::([^@]*))?(?:@(.*))?", rest)
    if match is None:
        raise InvalidReference(f"{quoted(f'dist://{text}')} is no reference: write dist://host/repository:tag/path")
    digest = None if match[3] is None else Digest.parse(match[3])
    return Reference(Locator(unescape(host), match[1]), match[2], digest)


# Files


class _OpenFile(ABC):
    """A file's bytes. Who opens it has a file of one's own."""

    @abstractmethod
    def open(self) -> BlobReader | MemberFile:
        """Open it."""

    def read(self, start: int, end: int) -> bytes:
        """Return a range of it."""
        with self.open() as file:
            file.seek(start)
            return file.read(end - start)

    def whole(self) -> bytes:
        """Return all of it, verified as far as can be."""
        with self.open() as file:
            return file.read()

    @abstractmethod
    def save(self, target: Path) -> None:
        """Write it to a file that appears when it is whole."""


@frozen
class _LayerFile(_OpenFile):
    """A file that is a layer of an artifact. Only reading all of it can be verified."""

    blob: Blob
    strict: bool

    def open(self) -> BlobReader:
        return self.blob.open(strict=self.strict)

    def read(self, start: int, end: int) -> bytes:
        if self.strict:
            return super().read(start, end)
        return self.blob.read_range(start, end) if start < end else b""

    def whole(self) -> bytes:
        return self.blob.read(limit=self.blob.size)

    def save(self, target: Path) -> None:
        self.blob.save(target, resume=True)


@frozen
class _TreeFile(_OpenFile):
    """A file in a merged tree."""

    opened: Callable[[], MemberFile]

    def open(self) -> MemberFile:
        return self.opened()

    def save(self, target: Path) -> None:
        part = target.with_name(f".distsdk-{os.urandom(8).hex()}.part")
        try:
            with part.open("xb") as out, self.open() as file:
                while data := file.read(CHUNK_SIZE):
                    out.write(data)
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


# Trees


@frozen
class _Item:
    """What is at a path.

    Attributes:
        type: ``file``, ``directory`` or ``other``; of a symbolic link, what it leads to.
        size: In bytes.
        key: What changes with the content, and is the same as long as that is.
        mtime: Seconds since 1970; None where nobody says.
        link: Of a symbolic link, its target as it stands there.
        dangling: Whether it is a symbolic link to nothing, or in a circle.
        more: Details for who asks.
    """

    type: str
    size: int
    key: str
    mtime: float | None = None
    link: str | None = None
    dangling: bool = False
    more: Mapping[str, object] = {}

    def info(self, name: str) -> dict[str, Any]:
        """Return it as fsspec has it."""
        found = {"name": name, "size": self.size, "type": self.type, "islink": self.link is not None, **self.more}
        if self.mtime is not None:
            found["mtime"] = self.mtime
        if self.link is not None:
            found["destination"] = self.link
        return found


class _FileTree(ABC):
    """The files of an image, an artifact, or a layer. Paths are text from the root; there are no escapes in them."""

    @abstractmethod
    def stat(self, path: str) -> _Item:
        """Return what is at a path, symbolic links followed; of a dangling one, the link."""

    @abstractmethod
    def ls(self, path: str) -> list[tuple[str, _Item]]:
        """Return what is in a folder by name; of what is none, itself with the empty name."""

    @abstractmethod
    def open(self, path: str) -> _OpenFile:
        """Return a file."""


class _Merged(_FileTree):
    """The merged tree of layers."""

    def __init__(self, layers: Sequence[Any], files: Sequence[LayerFiles], digest: Digest, *, strict: bool) -> None:
        """Name the layers.

        Args:
            layers: As `Overlay` takes them.
            files: What is in each of them.
            digest: Of what has these layers, and no others.
            strict: Refuse bytes that nothing vouches for.
        """
        self._overlay = Overlay(layers)
        self._files = files
        self._digest = digest
        self._strict = strict

    def stat(self, path: str) -> _Item:
        return self._at(self._overlay.stat(path, follow_symlinks=False))

    def ls(self, path: str) -> list[tuple[str, _Item]]:
        if self.stat(path).type != "directory":
            return [("", self.stat(path))]
        return [(entry.name, self._at(entry)) for entry in self._overlay.ls(path)]

    def _at(self, entry: Entry) -> _Item:
        if entry.member.kind is not Kind.SYMLINK:
            return self._item(entry)
        link = os.fsdecode(entry.member.link)
        try:
            return evolve(self._item(self._overlay.stat(entry.path)), link=link)
        except (NotFound, LimitExceeded):  # it leads nowhere, or in a circle
            return _Item("other", 0, f"{self._digest} {entry.path}", link=link, dangling=True)

    def _item(self, entry: Entry) -> _Item:
        member = entry.member
        more: dict[str, object] = {"mode": member.mode, "uid": member.uid, "gid": member.gid}
        key = f"{self._digest} {entry.path}"
        if member.kind is Kind.FILE and not entry.hard_link:  # what a hard link leads to may be in a layer below
            files = self._files[entry.layer]
            key = f"{files.blob.digest} {member.offset} {os.fsdecode(member.path)}"
            digest = files.digest(member)
            if digest is not None:
                more["digest"] = str(digest)
        return _Item(_TYPES.get(member.kind, "other"), member.size, key, member.mtime / 1e9, more=more)

    def open(self, path: str) -> _OpenFile:
        self._overlay.stat(path)  # what is not there is an error now
        return _TreeFile(lambda: self._overlay.open(path, strict=self._strict))


class _Archive(_Merged):
    """A layer of an artifact that is an archive of a folder."""

    def __init__(self, artifact: Artifact, layer: Descriptor, path: str, *, strict: bool) -> None:
        """Name the layer.

        Args:
            artifact: What has it.
            layer: Which.
            path: The title: the names in the archive begin with it, as oras writes them, or with its last part.
            strict: Refuse bytes that nothing vouches for.
        """
        unpacked = layer.annotations.get(_UNPACKED)
        try:
            files = artifact.files(layer, None if unpacked is None else Digest.parse(unpacked))
        except InvalidDigest as error:
            raise MalformedDocument(f"the annotation {_UNPACKED} of {layer.digest}: {error}") from error
        super().__init__([files], [files], layer.digest, strict=strict)
        self._names = (path, path.rpartition("/")[2])
        self._found: str | None = None

    @property
    def _root(self) -> str:
        if self._found is None:
            self._found = next((name for name in self._names if self._is_folder(name)), "")
        return self._found

    def _is_folder(self, path: str) -> bool:
        try:
            return self._overlay.stat(path).member.kind is Kind.FOLDER
        except NotFound:
            return False

    def stat(self, path: str) -> _Item:
        return super().stat(path if path.startswith("/") else f"/{self._root}/{path}")

    def ls(self, path: str) -> list[tuple[str, _Item]]:
        return super().ls(f"/{self._root}/{path}")

    def open(self, path: str) -> _OpenFile:
        return super().open(f"/{self._root}/{path}")


class _Titled(_FileTree):
    """An artifact: its layers by their titles, those without one by their digests.

    Raises:
        Unsafe: A title leads out.
        MalformedDocument: Two layers would be at the same place.
        LimitExceeded: A title is longer than a path can be.
    """

    def __init__(self, artifact: Artifact, *, strict: bool) -> None:
        self._artifact = artifact
        self._strict = strict
        self._root: dict[str, Any] = {}
        mtime = _time(artifact.manifest.annotations.get(_CREATED, ""))
        self._mtime = None if mtime is None else mtime.timestamp()
        for layer in artifact.manifest.layers:
            title = layer.annotations.get(TITLE, "")
            if title or layer.media_type != OCI_EMPTY:
                self._put(layer, title)

    def _put(self, layer: Descriptor, title: str) -> None:
        raw = title.encode()
        if len(raw) > DEFAULT_LIMITS.path:
            limit = DEFAULT_LIMITS.path
            raise LimitExceeded(f"{layer.digest} has a title of {len(raw)} bytes, more than {limit}", limit=limit)
        try:
            path = inside(raw).decode() or f"{layer.digest.algorithm}-{layer.digest.hex}"
        except Unsafe as error:
            message = (
                f"{layer.digest} has the title {quoted(title)}, which leads out of the artifact: fetch it by digest"
            )
            raise Unsafe(message) from error
        *folders, name = path.split("/")
        at = self._root
        for folder in folders:
            at = at.setdefault(folder, {})
            if not isinstance(at, dict):
                raise _twice(folder)
        there = at.setdefault(name, layer)
        if not isinstance(there, Descriptor) or there.digest != layer.digest:
            raise _twice(path)
        if layer.annotations.get(_UNPACK) == "true":
            at[name] = _Archive(self._artifact, layer, path, strict=self._strict)

    def _find(self, path: str) -> tuple[dict[str, Any] | Descriptor | _Archive, str]:
        """Return what is at a path; for an archive on the way, it and the rest of the path."""
        at: Any = self._root
        names: list[str] = []
        for name in path.split("/"):
            if name == "..":
                names = names[:-1]
            elif name not in {"", "."}:
                names.append(name)
        for number, name in enumerate(names):
            if isinstance(at, _Archive):
                return at, "/".join(names[number:])
            if not isinstance(at, dict) or name not in at:
                raise NotFound(f"{quoted(path)} is not there")
            at = at[name]
        return at, ""

    def stat(self, path: str) -> _Item:
        found, rest = self._find(path)
        return found.stat(rest) if isinstance(found, _Archive) and rest else self._item(found)

    def ls(self, path: str) -> list[tuple[str, _Item]]:
        found, rest = self._find(path)
        if isinstance(found, _Archive):
            return found.ls(rest)
        if isinstance(found, dict):
            return [(name, self._item(child)) for name, child in sorted(found.items())]
        return [("", self._item(found))]

    def _item(self, found: dict[str, Any] | Descriptor | _Archive) -> _Item:
        if isinstance(found, Descriptor):
            more = {"digest": str(found.digest), "media_type": found.media_type}
            return _Item("file", found.size, str(found.digest), self._mtime, more=more)
        return _Item("directory", 0, str(self._artifact.manifest.digest), self._mtime)

    def open(self, path: str) -> _OpenFile:
        found, rest = self._find(path)
        if isinstance(found, _Archive):
            return found.open(rest)
        if isinstance(found, dict):
            raise NotFound(f"{quoted(path)} is a folder, no file that could be opened")
        return _LayerFile(self._artifact.blob(found), self._strict)


def _twice(path: str) -> MalformedDocument:
    return MalformedDocument(f"two layers of the artifact would be at {quoted(path)}: fetch them by their digests")


def _time(text: str) -> datetime | None:
    with contextlib.suppress(ValueError):
        time = datetime.fromisoformat(text)
        return time if time.tzinfo else None
    return None


@frozen
class _Opened:
    """An image or artifact that is open.

    Attributes:
        manifest: Its descriptor.
        created: When it was made, as it says itself.
        tree: Its files.
    """

    manifest: Descriptor
    created: datetime | None
    tree: _FileTree

    @classmethod
    def of(cls, found: Image | Artifact, *, strict: bool) -> Self:
        manifest = Descriptor(found.manifest.media_type, found.manifest.digest, found.manifest.size)
        if isinstance(found, Artifact):
            created = _time(found.manifest.annotations.get(_CREATED, ""))
            return cls(manifest, created, _Titled(found, strict=strict))
        files = [layer.files for layer in found.layers]
        return cls(manifest, found.config.created_at, _Merged(found.layers, files, found.digest, strict=strict))


@contextlib.contextmanager
def _translated(path: str) -> Iterator[None]:
    """Let what is not there be what fsspec, and who uses it, take for that."""
    try:
        yield
    except (NotFound, PlatformNotFound) as error:
        raise FileNotFoundError(errno.ENOENT, str(error), path) from error
    except (InvalidReference, InvalidDigest) as error:
        raise FileNotFoundError(errno.ENOENT, str(error)) from error


class DistFile(AbstractBufferedFile):  # type: ignore[misc] # fsspec has no types
    """A file of `DistFileSystem`, open for reading; ``fs.open`` returns it.

    A pickle has its path and position, and what its tag stood for.
    """

    def __init__(self, fs: DistFileSystem, path: str, file: _OpenFile, item: _Item, **options: Any) -> None:  # noqa: ANN401
        self._file = file
        self._key = item.key
        self._lock = ForkSafeLock()
        self._reader: BlobReader | MemberFile | None = None
        self._process = os.getpid()
        super().__init__(fs, path, "rb", size=item.size, **options)

    @property
    def trust(self) -> Trust:
        """Who vouches for what was read: ``verified``, ``chunk-verified`` or ``unverified``.

        A layer of an artifact is ``verified`` when all of it was read from front to back.
        """
        with self._lock:
            return self._opened().trust

    def _opened(self) -> BlobReader | MemberFile:
        if self._process != os.getpid():  # the connection is the parent's
            self._reader, self._process = None, os.getpid()
        if self._reader is None:
            self._reader = self._file.open()
        return self._reader

    def _fetch_range(self, start: int, end: int) -> bytes:
        with self._lock, _translated(self.path):
            reader = self._opened()
            reader.seek(start)
            return reader.read(end - start)

    def close(self) -> None:
        """Let go of the connection, if one is held."""
        super().close()
        reader = getattr(self, "_reader", None)
        if reader is not None and self._process == os.getpid():
            reader.close()

    def __dask_tokenize__(self) -> object:
        return "distsdk.DistFile", self._key, self.loc


class DistFileSystem(AbstractFileSystem):  # type: ignore[misc] # fsspec has no types
    """Images and artifacts as files, by paths ``dist://HOST/REPOSITORY:TAG/path`` and ``dist://HOST/REPOSITORY@DIGEST/path``.

    Host and tag, or digest, have to be written: nothing is added to them. In an image, the path leads to a file of its
    merged tree, symbolic links followed. In an artifact, to a layer by its title; what oras packed as a folder is one,
    and a layer without a title is named by its digest, ``sha256-…``. In names, ``%``, ``:``, ``#``, ``?``, a backslash
    and what cannot be shown are escaped as in URLs, ``a%3Ab``.

    Nothing is fetched before it has to be, and only as much. What a tag stands for is asked once, and stays so until
    `invalidate_cache`; a pickle carries it. Logins, mirrors and certificates are found where `distsdk.connect` finds
    them, and no pickle has any. Threads may share one, and a forked child may go on with it.

    Nothing can be written: that is an `OSError` with ``errno.EROFS``.
    """

    protocol = "dist"
    root_marker = ""

    def __init__(
        self,
        *,
        platform: str | None = None,
        strict: bool = False,
        store: str | os.PathLike[str] | None = None,
        cache: str | os.PathLike[str] | None = None,
        **options: Any,  # noqa: ANN401 - fsspec's own
    ) -> None:
        """Say what is read; nothing is asked of anybody yet.

        Args:
            platform: Which child of an index, ``os/architecture[/variant]``; by default linux on this machine's
                architecture.
            strict: Refuse to hand out bytes that nothing vouches for. A layer of an artifact can then be read from
                front to back only.
            store: A folder that is looked into first; see `Store`.
            cache: A folder for what is learnt of layers; by default one where this system keeps a user's caches.
            options: fsspec's own.

        Raises:
            TypeError: There is no such option. Logins are none: they would be in each pickle.
            ValueError: The platform is none.
        """
        unknown = sorted(options.keys() - _OPTIONS_OF_ALL)
        if unknown:
            message = (
                f"dist:// has no option {quoted(unknown[0])}: it has platform, strict, store and cache. Logins are"
                " found where docker, podman and skopeo keep them"
            )
            raise TypeError(message)
        super().__init__(**options)
        self._platform = None if platform is None else Platform.parse(platform)
        self._strict = strict
        self._store = None if store is None else Store(store)
        self._cache = None if cache is None else Cache(cache)
        self._lock = ForkSafeLock()
        self._process = os.getpid()
        self._open_ones: OrderedDict[str, _Opened] = OrderedDict()
        self._known: dict[str, Descriptor] = {}
        self._turns: dict[str, ForkSafeLock] = {}  # of who asks what a name stands for
        self._connect = lru_cache(KEPT_OPEN)(connect)

    @property
    def fsid(self) -> str:
        """``dist``: a path means the same on every machine that has the same configuration."""
        return "dist"

    def __reduce__(self) -> tuple[object, ...]:
        with self._lock:
            return _again, (type(self), self.storage_options, dict(self._known))

    def __dask_tokenize__(self) -> object:
        return "distsdk.DistFileSystem", sorted((name, str(value)) for name, value in self.storage_options.items())

    # Names

    @classmethod
    def _parent(cls, path: str) -> str:
        return str(cls._strip_protocol(path)).rpartition("/")[0]

    def _at(self, path: str) -> tuple[_Opened, str, str]:
        """Return what a path leads into, the path there, and the whole path as it is shown."""
        name, inner = split(path)
        inner = unescape(inner).strip("/")
        return self._opened(name), inner, f"{name}/{escape(inner)}" if inner else name

    def _opened(self, name: str) -> _Opened:
        with self._lock:
            if self._process != os.getpid():  # a fork, maybe in the middle of another thread's look
                self._open_ones.clear()
                self._process = os.getpid()
            found = self._open_ones.get(name)
            if found is not None:
                self._open_ones.move_to_end(name)
                return found
            turn = self._turns.setdefault(name, ForkSafeLock())
        with turn:
            found = self._open_ones.get(name)  # by somebody who was waited for
            try:
                if found is None:
                    found = self._ask(name)
            finally:
                with self._lock:
                    self._turns.pop(name, None)
                    if found is not None:
                        self._keep(name, found)
            return found

    def _keep(self, name: str, found: _Opened) -> None:
        self._open_ones[name] = found
        self._known[name] = found.manifest
        while len(self._open_ones) > KEPT_OPEN:
            self._open_ones.popitem(last=False)

    def _ask(self, name: str) -> _Opened:
        reference = parse_reference(name)
        return _Opened.of(
            image_or_artifact(
                reference,
                remote=self._connect(reference.locator),
                known=self._known.get(name),
                platform=self._platform,
                store=self._store,
                cache=self._cache,
                strict=self._strict,
            ),
            strict=self._strict,
        )

    def _learn(self, known: Mapping[str, Descriptor]) -> None:
        """Take over what tags stand for, where somebody else has asked."""
        with self._lock:
            for name, manifest in known.items():
                if self._known.get(name) != manifest:
                    self._known[name] = manifest
                    self._open_ones.pop(name, None)

    def invalidate_cache(self, path: str | None = None) -> None:
        """Ask anew what tags stand for: that of a path, or all."""
        with self._lock:
            if path is None:
                self._open_ones.clear()
                self._known.clear()
                self._connect.cache_clear()
            else:
                with contextlib.suppress(InvalidReference):
                    name, _ = split(self._strip_protocol(path))
                    self._open_ones.pop(name, None)
                    self._known.pop(name, None)
        super().invalidate_cache(path)

    # Looking

    def _item(self, path: str) -> tuple[_Opened, _Item, str]:
        path = self._strip_protocol(path)
        with _translated(path):
            opened, inner, name = self._at(path)
            return opened, opened.tree.stat(inner), name

    def info(self, path: str, **_: Any) -> dict[str, Any]:  # noqa: ANN401 - as fsspec has it
        """Return ``name``, ``size``, ``type`` and more of what is at a path; of a symbolic link, of what it leads to.

        A link to nothing is of the type ``other`` and has the size 0, as in `ls`, although it does not `exist`.

        ``digest`` is there where it is known without reading: of the layers of an artifact, and of files that a table
        of contents has one for.

        Raises:
            FileNotFoundError: There is nothing, or no such image.
            DistError: As `Image.stat`.
        """
        _opened, item, name = self._item(path)
        return item.info(name)

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:  # noqa: ANN401 - as fsspec has it
        """Return what is in a folder, as `info`; or the paths alone.

        Args:
            path: Where; of what is no folder, itself.
            detail: Whether all of `info` is wanted.

        Raises:
            FileNotFoundError: There is nothing, or no such image.
            DistError: As `Image.ls`.
        """
        path = self._strip_protocol(path)
        with _translated(path):
            opened, inner, name = self._at(path)
            found = opened.tree.ls(inner)
        infos = [item.info(f"{name}/{escape(child)}" if child else name) for child, item in found]
        return infos if detail else [info["name"] for info in infos]

    def walk(
        self,
        path: str,
        maxdepth: int | None = None,
        topdown: bool = True,
        on_error: str | Callable[[OSError], object] = "omit",
        detail: bool = False,
        **_: Any,  # noqa: ANN401 - as fsspec has it
    ) -> Iterator[tuple[str, Any, Any]]:
        """Yield each folder below a path, with the folders and the files in it, as `os.walk` does.

        Links to folders are listed among the folders, and not followed: they may lead in a circle.

        Args:
            path: Where.
            maxdepth: Levels, at least 1.
            topdown: A folder before what is in it; who takes folders out of the list does not get them.
            on_error: ``omit`` passes over what is not there, and nothing else; ``raise``; or a function.
            detail: Yield dictionaries by name, as `info`.
        """
        if maxdepth is not None and maxdepth < 1:
            raise ValueError("maxdepth must be at least 1")
        path = self._strip_protocol(path)
        try:
            self.info(path)
        except OSError as error:
            if callable(on_error):
                on_error(error)
            elif on_error == "raise" or not isinstance(error, FileNotFoundError):
                raise
            return
        later: list[tuple[str, Any, Any]] = []
        todo = [(path, 1)]
        while todo:
            at, depth = todo.pop()
            folders: dict[str, Any] = {}
            files: dict[str, Any] = {}
            for info in self.ls(at):
                name = "" if info["name"] == at else info["name"].rpartition("/")[2]
                (folders if name and info["type"] == "directory" else files)[name] = info
            step = (at, dict(folders), files) if detail else (at, list(folders), list(files))
            if topdown:
                yield step
            else:
                later.append(step)
            if maxdepth is None or depth < maxdepth:
                wanted = [folders[name] for name in step[1] if name in folders]
                todo += [(info["name"], depth + 1) for info in reversed(wanted) if not info["islink"]]
        yield from reversed(later)

    def exists(self, path: str, **_: Any) -> bool:  # noqa: ANN401 - as fsspec has it
        """Whether there is something at a path, and not a link to nothing. An unreachable registry is an error."""
        return self._type(path) is not None

    def isdir(self, path: str) -> bool:
        """Whether there is a folder at a path; errors as `exists`."""
        return self._type(path) == "directory"

    def isfile(self, path: str) -> bool:
        """Whether there is a file at a path; errors as `exists`."""
        return self._type(path) == "file"

    def _type(self, path: str) -> str | None:
        try:
            item = self._item(path)[1]
        except FileNotFoundError:
            return None
        return None if item.dangling else item.type

    def created(self, path: str) -> datetime:
        """Return when the image or artifact was made, as it says itself; else as `modified`."""
        opened, item, _name = self._item(path)
        return opened.created or _modified(opened, item)

    def modified(self, path: str) -> datetime:
        """Return the time that a file has; where it has none, that of the image or artifact, or the start of 1970."""
        opened, item, _name = self._item(path)
        return _modified(opened, item)

    def ukey(self, path: str) -> str:
        """Return what changes when the content of a file does, in hex; it is made of digests, and costs nothing."""
        return sha256(self._item(path)[1].key.encode("utf-8", "surrogateescape")).hexdigest()

    def checksum(self, path: str) -> int:
        """Return `ukey` as a number."""
        return int(self.ukey(path), 16)

    # Reading

    def _file(self, path: str) -> tuple[_OpenFile, _Item, str]:
        path = self._strip_protocol(path)
        with _translated(path):
            opened, inner, name = self._at(path)
            item = opened.tree.stat(inner)
            if item.type == "directory":
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            return opened.tree.open(inner), item, name

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | str | None = None,
        cache_type: str = "readahead",
        cache_options: dict[str, Any] | None = None,
        **_: Any,  # noqa: ANN401 - as fsspec has it
    ) -> DistFile:
        if mode != "rb":
            self._refuse(path)
        file, item, _name = self._file(path)
        size = BLOCK_SIZE if block_size in {None, "default"} else block_size
        return DistFile(self, path, file, item, block_size=size, cache_type=cache_type, cache_options=cache_options)

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:  # noqa: ANN401
        """Return the content of a file, or a range of it. All of it is verified, where that can be.

        Args:
            path: Which.
            start: The first byte, from the end where it is negative.
            end: The byte after the last one, from the end where it is negative.

        Raises:
            FileNotFoundError, IsADirectoryError: There is no file.
            Unsafe: Nothing vouches for the bytes, and the filesystem is strict.
            DistError: As `Blob.read`.
        """
        file, item, _name = self._file(path)
        first, last, _step = slice(start, end).indices(item.size)
        with _translated(path):
            return file.whole() if (first, last) == (0, item.size) else file.read(first, max(first, last))

    def cat_ranges(
        self,
        paths: list[str],
        starts: list[int | None] | int | None,
        ends: list[int | None] | int | None,
        max_gap: int | None = None,
        on_error: str = "return",
        **_: Any,  # noqa: ANN401 - as fsspec has it
    ) -> list[bytes | Exception]:
        """Return ranges of files. Those of a file that are near each other are one request; several go on at once.

        Args:
            paths: A file for each range.
            starts: As `cat_file`; one for all of them, or a list.
            ends: The same.
            max_gap: Bytes between two ranges that are read along; by default 64 KiB.
            on_error: ``return`` puts an error in the place of what could not be read, ``raise`` raises it.
        """
        if not isinstance(paths, list):
            raise TypeError("paths must be a list")
        begins = starts if isinstance(starts, list) else [starts] * len(paths)
        stops = ends if isinstance(ends, list) else [ends] * len(paths)
        if not len(paths) == len(begins) == len(stops):
            raise ValueError("there must be as many starts and ends as paths")
        files = dict(zip(dict.fromkeys(paths), _all(self._file, [*dict.fromkeys(paths)]), strict=True))
        answers: list[bytes | Exception] = [b""] * len(paths)
        ranges: list[_Range] = []
        for number, path in enumerate(paths):
            found = files[path]
            if isinstance(found, Exception):
                answers[number] = found
                continue
            file, item, _name = found
            first, last, _step = slice(begins[number], stops[number]).indices(item.size)
            ranges.append(_Range(path, file, first, max(first, last), item.size, (number,)))
        groups = _coalesced(ranges, GAP if max_gap is None else max_gap)
        for group, data in zip(groups, _all(_Range.read, groups), strict=True):
            for number in group.numbers:
                if isinstance(data, Exception):
                    answers[number] = data
                    continue
                first, last, _step = slice(begins[number], stops[number]).indices(group.size)
                answers[number] = data[first - group.start : max(first, last) - group.start]
        if on_error != "return":
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return answers

    def cat(self, path: Any, recursive: bool = False, on_error: str = "raise", **options: Any) -> Any:  # noqa: ANN401
        """Return the content of a file, or by path that of several, which are read at once.

        Args:
            path: One, a pattern, or a list.
            recursive: All files below it.
            on_error: ``raise``; ``omit`` leaves out what cannot be read; ``return`` has the error in its place.
            options: As `cat_file`.
        """
        paths = self.expand_path(path, recursive=recursive)
        if len(paths) == 1 and not isinstance(path, list) and paths[0] == self._strip_protocol(path):
            return self.cat_file(paths[0], **options)
        if recursive:
            paths = [found for found in paths if self.isfile(found)]
        contents: dict[str, bytes | Exception] = {}
        for found, data in zip(paths, _all(lambda name: self.cat_file(name, **options), paths), strict=True):
            if isinstance(data, Exception) and on_error == "raise":
                raise data
            if not isinstance(data, Exception) or on_error == "return":
                contents[found] = data
        return contents

    def get(
        self,
        rpath: Any,  # noqa: ANN401 - a path, or several
        lpath: Any,  # noqa: ANN401 - the same
        recursive: bool = False,
        callback: Any = DEFAULT_CALLBACK,  # noqa: ANN401 - as fsspec has it
        maxdepth: int | None = None,
        **options: Any,  # noqa: ANN401 - as fsspec has it
    ) -> None:
        """Write files to local ones, and with ``recursive`` directories and all files in them.

        Where several entries are found by ``recursive`` or by a pattern, those that are neither file nor directory are
        skipped and counted in one warning of the log: symbolic links to nothing, devices. No link is made, since its
        target on this machine may be something else.

        Args:
            rpath: A path, a pattern, or a list.
            lpath: Where to; as ``rpath``.
            recursive: All that is below.
            callback: As `get_file`, for each file.
            maxdepth: Levels, at least 1.
            options: As `get_file`.

        Raises:
            FileNotFoundError: There is nothing at a path.
            OSError, DistError: As `get_file`.
        """
        skipped: list[str] = []
        searched = recursive or (isinstance(rpath, str) and has_magic(rpath))
        more = {"_skipped": skipped} if searched else {}
        super().get(rpath, lpath, recursive=recursive, callback=callback, maxdepth=maxdepth, **more, **options)
        if skipped:
            entries = "1 entry" if len(skipped) == 1 else f"{len(skipped):,} entries"
            _log.warning(
                "%s not written: neither file nor directory (symbolic links to nothing, devices); the first is %s",
                entries,
                quoted(skipped[0], 300),
            )

    def get_file(
        self,
        rpath: str,
        lpath: Any,  # noqa: ANN401 - a path, or a file
        callback: Any = DEFAULT_CALLBACK,  # noqa: ANN401 - as fsspec has it
        outfile: Any = None,  # noqa: ANN401 - a file
        _skipped: list[str] | None = None,
        **_: Any,  # noqa: ANN401 - as fsspec has it
    ) -> None:
        """Write a file to a local one, which appears under its name when it is whole and verified; a folder is made.

        A layer of an artifact that was begun by an earlier call is gone on with.

        Args:
            rpath: What.
            lpath: Where to; or a file that is open, which gets what is there as it comes.
            callback: Is told the size, and that it is here.
            outfile: A file that is open.

        Raises:
            OSError: It cannot be written.
            DistError: As `Blob.save`.
        """
        if outfile is None and isfilelike(lpath):
            outfile = lpath
        elif outfile is None and self.isdir(rpath):
            Path(lpath).mkdir(parents=True, exist_ok=True)
            return
        if _skipped is not None and self._item(rpath)[1].type == "other":
            _skipped.append(rpath)
            return
        file, item, _name = self._file(rpath)
        callback.set_size(item.size)
        with _translated(rpath):
            if outfile is None:
                target = Path(lpath)
                target.parent.mkdir(parents=True, exist_ok=True)
                file.save(target)
                callback.relative_update(item.size)
                return
            with file.open() as reader:
                while data := reader.read(CHUNK_SIZE):
                    outfile.write(data)
                    callback.relative_update(len(data))

    # Writing

    def _refuse(self, path: object, *_: object, **__: object) -> NoReturn:
        message = "dist:// is for reading: images and artifacts do not change, push a new one (distsdk push)"
        raise OSError(errno.EROFS, message, str(path))

    cp_file = mkdir = makedirs = rmdir = rm = rm_file = put_file = pipe_file = touch = _refuse


@frozen
class _Range:
    """Bytes that are asked for as one range.

    Attributes:
        path: Of which file.
        file: The file.
        start: The first byte.
        end: The byte after the last one.
        size: The file's.
        numbers: Whom it is for.
    """

    path: str
    file: _OpenFile
    start: int
    end: int
    size: int
    numbers: tuple[int, ...]

    def read(self) -> bytes:
        with _translated(self.path):
            return (
                self.file.whole() if (self.start, self.end) == (0, self.size) else self.file.read(self.start, self.end)
            )


def _coalesced(ranges: list[_Range], gap: int) -> list[_Range]:
    """Return ranges that hold all the given ones: those near each other in one, as long as it is of a good size."""
    groups: list[_Range] = []
    for one in sorted(ranges, key=lambda one: (one.path, one.start)):
        last = groups[-1] if groups else one
        end = max(last.end, one.end)
        if last is not one and last.path == one.path and one.start - last.end <= gap and end - last.start <= READ_AHEAD:
            groups[-1] = evolve(last, end=end, numbers=last.numbers + one.numbers)
        else:
            groups.append(one)
    return groups


def _all(do: Callable[[Any], T], these: Sequence[Any]) -> list[T | Exception]:
    """Do the same for several at once; what raises has its error for an answer."""

    def one(this: Any) -> T | Exception:  # noqa: ANN401 - whatever it is
        try:
            return do(this)
        except Exception as error:  # noqa: BLE001 - it is the answer
            return error

    if len(these) <= 1:
        return [one(this) for this in these]
    with ThreadPoolExecutor(min(AT_ONCE, len(these)), "distsdk-read") as pool:
        return list(pool.map(one, these))


def _modified(opened: _Opened, item: _Item) -> datetime:
    if item.mtime is not None:
        return datetime.fromtimestamp(item.mtime, UTC)
    return opened.created or _EPOCH


def _again(kind: type[DistFileSystem], options: dict[str, Any], known: dict[str, Descriptor]) -> DistFileSystem:
    made = kind(**options)
    made._learn(known)
    return made
