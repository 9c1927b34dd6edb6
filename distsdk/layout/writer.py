"""Writes archives: an OCI image layout, or an image as ``docker load`` takes it.

An archive depends on nothing but its contents: no times, no owners, members in a fixed order. Its members' sizes are
known first, so several can be written at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import tarfile
from typing import TYPE_CHECKING

from attrs import frozen

from distsdk._files import sync_folder, write_all
from distsdk.errors import Unsafe, UnsupportedDocument
from distsdk.layout.directory import UNFINISHED
from distsdk.layout.docker import MANIFEST
from distsdk.layout.documents import INDEX_FILE, NEW_VERSION, VERSION_FILE, blob_name
from distsdk.spec.media_types import (
    CONFIGS,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
)

if TYPE_CHECKING:
    import io
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from distsdk.layout.documents import LayoutIndex
    from distsdk.spec.descriptor import Descriptor
    from distsdk.spec.digest import Digest
    from distsdk.spec.documents import Manifest

_BLOCK = 512

#: How the names of layers end in an archive for ``docker load``, which tells compression by the first bytes.
_LAYER_SUFFIXES = {
    OCI_LAYER: ".tar",
    DOCKER_LAYER: ".tar",
    OCI_LAYER_GZIP: ".tar.gz",
    DOCKER_LAYER_GZIP: ".tar.gz",
    OCI_LAYER_ZSTD: ".tar.zst",
    DOCKER_LAYER_ZSTD: ".tar.zst",
}

_CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL | sum(getattr(os, name, 0) for name in ("O_CLOEXEC", "O_BINARY"))


@frozen
class ArchivePlan:
    """The members of an archive that is to be written.

    Attributes:
        members: Names, in order; the contents where they are known already, otherwise the size in bytes.
        places: The member for the bytes that have a digest.
    """

    members: Mapping[str, bytes | int]
    places: Mapping[Digest, str]


def plan_layout(
    index: LayoutIndex, contents: Iterable[Descriptor], known: Mapping[Digest, bytes] | None = None
) -> ArchivePlan:
    """Plan the archive of an OCI image layout.

    Args:
        index: The contents of ``index.json``.
        contents: Its blobs, documents included, in any order.
        known: The contents of those blobs that are written at once; all others are written later, by digest.

    Raises:
        LimitExceeded: ``index.json`` would be too long.
    """
    blobs = sorted(contents, key=lambda blob: str(blob.digest))
    members: dict[str, bytes | int] = {VERSION_FILE: NEW_VERSION, INDEX_FILE: index.dump()}
    members |= {blob_name(blob.digest): (known or {}).get(blob.digest, blob.size) for blob in blobs}
    return ArchivePlan(members, {blob.digest: blob_name(blob.digest) for blob in blobs})


def plan_docker(manifest: Manifest, names: Sequence[str]) -> ArchivePlan:
    """Plan the archive of an image for ``docker load``; layers are in it as they are, compressed or not.

    https://github.com/moby/docker-image-spec/blob/v1.3.1/v1.2.md#combined-image-json--filesystem-changeset-format

    Args:
        manifest: Of the image.
        names: The image's names, ``docker.io/library/redis:7``.

    Raises:
        UnsupportedDocument: It is the manifest of something else, or has a layer that Docker does not load.
    """
    config = manifest.config
    if config.media_type not in CONFIGS:
        message = f"{config.media_type} is not the config of an image: docker load takes images only"
        raise UnsupportedDocument(message, media_type=config.media_type)
    strange = next((layer for layer in manifest.layers if layer.media_type not in _LAYER_SUFFIXES), None)
    if strange is not None:
        message = f"docker load does not take a layer of type {strange.media_type}: write an OCI archive instead"
        raise UnsupportedDocument(message, media_type=strange.media_type)
    places = {layer.digest: f"{layer.digest.hex}{_LAYER_SUFFIXES[layer.media_type]}" for layer in manifest.layers}
    places[config.digest] = f"{config.digest.hex}.json"
    listed = [
        {
            "Config": places[config.digest],
            "RepoTags": list(names),
            "Layers": [places[layer.digest] for layer in manifest.layers],
        }
    ]
    members: dict[str, bytes | int] = {MANIFEST: json.dumps(listed, separators=(",", ":")).encode()}
    members |= {places[blob.digest]: blob.size for blob in (config, *manifest.layers)}
    return ArchivePlan(members, places)


class ArchiveWriter:
    """An archive without a name yet, whose members are written in any order and by several threads."""

    def __init__(self, path: Path, members: Mapping[str, bytes | int]) -> None:
        """Use `new_archive`.

        Args:
            path: The unfinished file, which is there and empty.
            members: As `ArchivePlan.members`.
        """
        self._path = path
        self._offsets: dict[str, int] = {}
        self._missing = {name for name, content in members.items() if isinstance(content, int)}
        with path.open("r+b", buffering=0) as file:
            for name, content in members.items():
                size = content if isinstance(content, int) else len(content)
                write_all(file, _header(name, size))
                self._offsets[name] = file.tell()
                if not isinstance(content, int):
                    write_all(file, content)
                file.seek(self._offsets[name] + -(-size // _BLOCK) * _BLOCK)
            file.truncate(file.tell() + 2 * _BLOCK)  # two empty blocks end an archive

    @contextlib.contextmanager
    def member(self, name: str) -> Iterator[io.FileIO]:
        """Open the place of a member, which is written when the block ends without an error.

        The caller writes as many bytes as the member was planned with.
        """
        with self._path.open("r+b", buffering=0) as file:
            file.seek(self._offsets[name])
            yield file
        self._missing.discard(name)

    def finish(self) -> None:
        """Bring the archive to disk."""
        assert not self._missing, self._missing  # noqa: S101 - the caller writes all that it planned
        with self._path.open("r+b", buffering=0) as file:
            os.fsync(file.fileno())


@contextlib.contextmanager
def new_archive(path: Path, plan: ArchivePlan, *, replace: bool) -> Iterator[ArchiveWriter]:
    """Write an archive, which gets its name when the block ends without an error; otherwise nothing is left.

    Args:
        path: Where it will be.
        plan: Its members.
        replace: Replace a file that has the name.

    Raises:
        Unsafe: There is a file with that name, and ``replace`` is not set.
        OSError: The directory cannot be written to, or is full.
    """
    if not replace and os.path.lexists(path):
        raise _exists(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.parent / f"{UNFINISHED}{os.urandom(8).hex()}"
    os.close(os.open(part, _CREATE, 0o666))
    try:
        writer = ArchiveWriter(part, plan.members)
        yield writer
        writer.finish()
        if replace:
            part.replace(path)
        else:
            _rename_to_new(part, path)
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _rename_to_new(part: Path, path: Path) -> None:
    """Give a file a name that no other file has."""
    try:
        os.link(part, path)
    except FileExistsError as error:
        raise _exists(path) from error
    except OSError:  # a file system without links
        if os.path.lexists(path):
            raise _exists(path) from None
        part.rename(path)


def _exists(path: Path) -> Unsafe:
    return Unsafe(f"{path} exists and is not replaced; remove it first, or add --force (force=True)")


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.PAX_FORMAT)
