"""Pushing: files as an artifact, as ORAS has them, and artifacts that belong to something.

https://oras.land/docs/how_to_guides/pushing_and_pulling/ and
https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md#guidelines-for-artifact-usage
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import stat
import tarfile
import tempfile
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, TypeAlias, cast

from attrs import evolve

from distsdk._text import quoted
from distsdk.errors import InvalidConfig, InvalidReference, Unsafe
from distsdk.remotes.archive import ArchiveFetcher
from distsdk.remotes.connect import connect
from distsdk.remotes.remote import fetcher_of
from distsdk.spec.descriptor import TITLE, Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.media_types import OCI_EMPTY, OCI_LAYER, OCI_LAYER_GZIP, OCI_MANIFEST, parse_media_type
from distsdk.spec.platform import Platform
from distsdk.spec.reference import Reference
from distsdk.transfer.events import reporting
from distsdk.transfer.graph import Walk
from distsdk.transfer.upload_set import UploadSet, layout_plan, opened_target, push_target, send
from distsdk.transfer.workers import JOBS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from distsdk.content.protocols import Fetcher, UploadSource
    from distsdk.transfer.events import Event

#: A file or folder, or one with the media type that it is to have.
File: TypeAlias = "str | os.PathLike[str] | tuple[str | os.PathLike[str], str]"

#: What an artifact is whose type nobody says, and a configuration, as ORAS has them.
UNKNOWN_ARTIFACT = "application/vnd.unknown.artifact.v1"
UNKNOWN_CONFIG = "application/vnd.unknown.config.v1+json"

# https://github.com/oras-project/oras-go/blob/v2.5.0/content/file/file.go
#: The annotations of a layer that is a folder: to be unpacked, and the digest of its archive before compression.
UNPACK = "io.deis.oras.content.unpack"
UNPACKED_DIGEST = "io.deis.oras.content.digest"

_EMPTY = b"{}"
_CHUNK = 1024 * 1024


def push(
    reference: str | Reference,
    *files: File,
    artifact_type: str | None = None,
    config: File | None = None,
    subject: Descriptor | None = None,
    annotations: Mapping[str, str] | None = None,
    remote: Fetcher | None = None,
    force: bool = False,
    progress: bool | Callable[[Event], object] = False,
    jobs: int = JOBS,
) -> Descriptor:
    """Push files as an artifact: a layer for each, named by its title.

    A folder becomes one layer, an archive that ``oras pull`` unpacks again: of names, content and what may be executed;
    owners and times are left out. The same files give the same digest, and what the remote has is not sent again. No
    file is held in memory; an archive is written to the folder for temporary files first.

    Args:
        reference: The tag that the artifact gets: ``registry.example/data:v1``, ``./layout:v1``, or ``./new.tar:v1``
            for an OCI archive, which is written whole.
        files: Paths of files and folders, or pairs of a path and a media type. By default the type is that of a layer,
            ``application/vnd.oci.image.layer.v1.tar``, and of a folder ``….tar+gzip``, as ORAS has it.
        artifact_type: What kind of artifact it is, a media type; by default ``application/vnd.unknown.artifact.v1``, or
            none where there is a configuration.
        config: A file that is its configuration; by default an empty one.
        subject: What it belongs to: it is listed among the referrers of that. See `attach`.
        annotations: Of the manifest, text by key.
        remote: Takes it; by default `connect` finds one.
        force: Replace an archive that exists.
        progress: Show a bar where there is somebody to see it, unless ``DISTSDK_DISABLE_PROGRESS`` is set; or call this
            with each `Event`, in the calling thread.
        jobs: Blobs that are sent at once.

    Returns:
        What refers to the manifest: media type, digest, size, and its artifact type.

    Raises:
        InvalidReference: The reference names a digest, which nobody knows before.
        InvalidConfig: There is nothing to push, a media type is invalid, or two files have the same name.
        Denied: The remote takes nothing, or not from whom it is shown.
        Unsafe: A file is neither a file nor a folder, or the archive exists.
        DigestMismatch, SizeMismatch: A file was changed meanwhile.
        OSError: A file cannot be read.
        DistError: As `Pushable.push_blob`.
    """
    if isinstance(reference, str):
        reference = Reference.parse(reference)
    if reference.digest is not None:
        message = f"{reference} names a digest: push to a tag, and be told the digest"
        raise InvalidReference(message)
    if not files and config is None and artifact_type is None and subject is None and not annotations:
        message = (
            f"nothing to push to {reference}; name files, or for an artifact without files its type, config or "
            "annotations"
        )
        raise InvalidConfig(message)
    return _push(
        reference,
        files,
        artifact_type=artifact_type,
        config=config,
        subject=subject,
        annotations=annotations,
        remote=remote,
        force=force,
        progress=progress,
        jobs=jobs,
    )


def attach(
    reference: str | Reference,
    *files: File,
    artifact_type: str,
    platform: str | Platform | None = None,
    annotations: Mapping[str, str] | None = None,
    remote: Fetcher | None = None,
    progress: bool | Callable[[Event], object] = False,
    jobs: int = JOBS,
) -> Descriptor:
    """Push files as an artifact that belongs to what a reference stands for: an SBOM, a signature, documentation.

    It has no tag. Whoever lists the `referrers` of that finds it.

    Args:
        reference: What it belongs to: an image, an index, an artifact.
        files: As for `push`.
        artifact_type: What kind of artifact it is, ``application/spdx+json``.
        platform: The child of an index that it belongs to, ``os/architecture[/variant]``; by default the index itself.
        annotations: Of the manifest, text by key.
        remote: Takes it; by default `connect` finds one.
        progress: As for `push`.
        jobs: Blobs that are sent at once.

    Returns:
        What refers to the artifact's manifest.

    Raises:
        NotFound: What it should belong to is not there.
        PlatformNotFound: The index has nothing for the platform.
        DistError: As `push`.
    """
    if isinstance(reference, str):
        reference = Reference.parse(reference)
    if isinstance(platform, str):
        platform = Platform.parse(platform)
    remote = remote or connect(reference.locator)
    push_target(remote)  # before anything is asked of anybody
    subject = Walk(remote).target(reference, platform)
    return _push(
        Reference(reference.locator, None, subject.digest),
        files,
        artifact_type=artifact_type,
        config=None,
        subject=subject,
        annotations=annotations,
        remote=remote,
        force=False,
        progress=progress,
        jobs=jobs,
    )


def _push(
    reference: Reference,
    files: tuple[File, ...],
    *,
    artifact_type: str | None,
    config: File | None,
    subject: Descriptor | None,
    annotations: Mapping[str, str] | None,
    remote: Fetcher | None,
    force: bool,
    progress: bool | Callable[[Event], object],
    jobs: int,
) -> Descriptor:
    if artifact_type is None and config is None:
        artifact_type = UNKNOWN_ARTIFACT
    kind = None if artifact_type is None else _media_type(artifact_type)
    remote = remote or connect(reference.locator)
    if not isinstance(fetcher_of(remote), ArchiveFetcher):
        push_target(remote)  # before any file is read
    with contextlib.ExitStack() as open_files:
        sources: dict[Digest, UploadSource] = {}
        layers = [_layer(file, sources, open_files) for file in files]
        titles = [layer.annotations[TITLE] for layer in layers]
        if twice := next((title for title in titles if titles.count(title) > 1), None):
            message = f"two files are named {quoted(twice)}: one would replace the other"
            raise InvalidConfig(message)
        empty = Descriptor(media_type=OCI_EMPTY, digest=Digest.of(_EMPTY), size=len(_EMPTY), data=_EMPTY)
        about = empty if config is None else _config(config, sources)
        layers = layers or [empty]
        if empty in (about, *layers):
            sources[empty.digest] = _EMPTY
        fields: dict[str, object] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST}
        if kind is not None:
            fields["artifactType"] = kind
        fields |= {"config": about.to_fields(), "layers": [layer.to_fields() for layer in layers]}
        if subject is not None:
            fields["subject"] = Descriptor(subject.media_type, subject.digest, subject.size).to_fields()
        if annotations:
            fields["annotations"] = dict(sorted(annotations.items()))
        raw = json.dumps(fields, separators=(",", ":"), ensure_ascii=False).encode()
        manifest = Descriptor(media_type=OCI_MANIFEST, digest=Digest.of(raw), size=len(raw), artifact_type=kind)
        blobs = {layer.digest: evolve(layer, data=None) for layer in (about, *layers)}
        cargo = UploadSet(
            str(evolve(reference, digest=manifest.digest if reference.tag is None else None)),
            manifest,
            [(manifest, raw, reference.tag)],
            tuple(blobs.values()),
            lambda blob: sources[blob.digest],
        )
        with opened_target(remote, lambda: layout_plan(cargo), force=force) as target, reporting(progress) as report:
            send(cargo, target, report, jobs)
        return manifest


def _media_type(text: str) -> str:
    try:
        return parse_media_type(text)
    except ValueError as error:
        raise InvalidConfig(str(error)) from error


def _layer(file: File, sources: dict[Digest, UploadSource], open_files: contextlib.ExitStack) -> Descriptor:
    """Return the descriptor of a file or folder, and keep where its bytes are."""
    path, media_type = _path(file)
    title = Path(os.path.abspath(path)).name  # noqa: PTH100 - resolve() would name what a link leads to
    if not title or any("\ud800" <= character <= "\udfff" for character in title):  # as bytes that are no UTF-8 are
        message = f"{quoted(str(path))} has no name that can be the title of a layer"
        raise InvalidConfig(message)
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        archive = open_files.enter_context(tempfile.TemporaryFile(prefix="distsdk-"))  # noqa: SIM115 - it is one
        packed = _pack(path.resolve(), title, archive)
        layer = Descriptor(
            media_type=media_type or OCI_LAYER_GZIP,
            digest=_hashed(archive),
            size=archive.tell(),
            annotations={UNPACKED_DIGEST: str(packed), UNPACK: "true", TITLE: title},
        )
        archive.seek(0)
        sources[layer.digest] = cast("BinaryIO", archive)
        return layer
    return _described(path, media_type or OCI_LAYER, sources, {TITLE: title})


def _config(config: File, sources: dict[Digest, UploadSource]) -> Descriptor:
    path, media_type = _path(config)
    return _described(path, media_type or UNKNOWN_CONFIG, sources, {})


def _path(file: File) -> tuple[Path, str | None]:
    if isinstance(file, tuple):
        path, media_type = file
        return Path(path), _media_type(media_type)
    return Path(file), None


def _described(
    path: Path, media_type: str, sources: dict[Digest, UploadSource], annotations: dict[str, str]
) -> Descriptor:
    if not stat.S_ISREG(path.stat().st_mode):
        raise _no_file(path)
    # Hashed before it is sent: what the remote has need not be sent, and what is sent can be gone on with.
    with path.open("rb", buffering=0) as file:
        digest = _hashed(file)
        size = file.tell()
    sources[digest] = path
    return Descriptor(media_type=media_type, digest=digest, size=size, annotations=annotations)


def _hashed(file: IO[bytes]) -> Digest:
    """Return the digest of a file, read from its first byte to its last."""
    file.seek(0)
    return Digest("sha256", hashlib.file_digest(cast("Any", file), "sha256").hexdigest())


def _no_file(path: Path) -> Unsafe:
    return Unsafe(f"{quoted(str(path))} is neither a file nor a folder: it is not read")


class _Hashing(io.RawIOBase):
    """Hashes what is written through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._hasher = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:  # noqa: ANN401 - whatever has the buffer protocol
        self._hasher.update(data)
        return self._file.write(data)

    @property
    def digest(self) -> Digest:
        """Of all that was written."""
        return Digest("sha256", self._hasher.hexdigest())


def _pack(folder: Path, name: str, file: IO[bytes]) -> Digest:
    """Write a folder as a compressed archive that depends on nothing but its names and content.

    Returns:
        The digest of the archive before compression.
    """
    # No name and no time in gzip's header, and of zlib's levels the one that gzip has by default.
    with gzip.GzipFile("", "wb", 6, file, mtime=0) as compressed:
        hashing = _Hashing(cast("IO[bytes]", compressed))
        with tarfile.open(fileobj=cast("IO[bytes]", hashing), mode="w|", format=tarfile.PAX_FORMAT) as tar:
            for path, inside in _below(folder, name):
                info = _entry(path, inside)
                if info.isreg():
                    with path.open("rb") as content:
                        tar.addfile(info, content)
                else:
                    tar.addfile(info)
    return hashing.digest


def _below(folder: Path, name: str) -> Iterator[tuple[Path, str]]:
    """Yield a folder and all that is below it, each with its name in the archive; links are not followed."""
    todo = [(folder, name)]
    while todo:
        path, inside = todo.pop()
        yield path, inside
        if path.is_dir() and not path.is_symlink():
            names = sorted(os.listdir(path), key=os.fsencode, reverse=True)  # noqa: PTH208 - names are all it takes
            todo += [(path / name, f"{inside}/{name}") for name in names]


def _entry(path: Path, name: str) -> tarfile.TarInfo:
    found = path.lstat()
    info = tarfile.TarInfo(name)
    if stat.S_ISDIR(found.st_mode):
        info.type, info.mode = tarfile.DIRTYPE, 0o755
    elif stat.S_ISLNK(found.st_mode):
        info.type, info.mode, info.linkname = tarfile.SYMTYPE, 0o777, str(path.readlink())
    elif stat.S_ISREG(found.st_mode):
        info.mode, info.size = 0o755 if found.st_mode & 0o111 else 0o644, found.st_size
    else:
        raise _no_file(path)
    return info
