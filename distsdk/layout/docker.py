"""Images as ``docker save`` wrote them before it wrote layouts, and as ``docker load`` takes them.

https://github.com/moby/docker-image-spec/blob/v1.3.1/v1.2.md#combined-image-json--filesystem-changeset-format
"""

from __future__ import annotations

import contextlib
import io
import json
from typing import TYPE_CHECKING

from attrs import frozen

from distsdk._text import quoted
from distsdk.content.source import CHUNK_SIZE
from distsdk.errors import LimitExceeded, MalformedDocument, NotFound
from distsdk.layout.documents import IMAGE_NAME
from distsdk.layout.files import read_document
from distsdk.layout.tar import GZIP, MAX_MEMBERS, ZSTD, member_name
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.documents import ImageConfig
from distsdk.spec.media_types import OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP, OCI_LAYER_ZSTD, OCI_MANIFEST
from distsdk.spec.strict_json import as_object, optional_texts, parse_json, required_text

if TYPE_CHECKING:
    from distsdk.content.source import ByteStream
    from distsdk.layout.tar import TarFiles

#: The file that lists the images of an archive.
MANIFEST = "manifest.json"

#: Images in one ``manifest.json``.
MAX_IMAGES = 1000


@frozen
class SavedImage:
    """An entry of ``manifest.json``.

    Args:
        config: The member with the image's config.
        tags: Its names, ``redis:7``.
        layers: The members with the layers, lowest first.
    """

    config: str
    tags: tuple[str, ...]
    layers: tuple[str, ...]


def parse_saved_images(raw: bytes) -> tuple[SavedImage, ...]:
    """Return what a ``manifest.json`` lists.

    Raises:
        MalformedDocument: It is none; the message names the JSON path.
        LimitExceeded: More than `MAX_IMAGES`, or more than `MAX_MEMBERS` layers in all.
    """
    found = parse_json(raw, what="manifest.json")
    if not isinstance(found, list):
        message = "manifest.json is no list of images; the archive cannot be used"
        raise MalformedDocument(message)
    if len(found) > MAX_IMAGES:
        message = f"{len(found):,} images in one manifest.json, more than {MAX_IMAGES:,}"
        raise LimitExceeded(message, limit=MAX_IMAGES)
    images = []
    for number, entry in enumerate(found):
        where = f"manifest.json[{number}]"
        fields = as_object(entry, where)
        images.append(
            SavedImage(
                required_text(fields, "Config", where),
                optional_texts(fields, "RepoTags", where),
                optional_texts(fields, "Layers", where),
            )
        )
    if sum(len(image.layers) for image in images) > MAX_MEMBERS:
        message = f"more than {MAX_MEMBERS:,} layers in one manifest.json"
        raise LimitExceeded(message, limit=MAX_MEMBERS)
    return tuple(images)


class DockerArchive:
    """The images of an archive that has no layout in it, with the manifests that Docker leaves out.

    A manifest is made of what is there: the config and the layers as they are in the archive, in OCI's words, since
    those have a media type for a layer that is not compressed. Its bytes are the same each time. A layer that is not
    compressed has the digest that the config tells (its diff ID); as any digest, it is held against the bytes when they
    are read. One that is compressed is hashed, once.
    """

    def __init__(self, tar: TarFiles, limit: int) -> None:
        """Read ``manifest.json`` and the configs.

        Args:
            tar: The archive.
            limit: Bytes of a document.

        Raises:
            MalformedDocument: Something is missing, or a config and its list of layers contradict each other.
            LimitExceeded: A document is too large, or lists too much.
            DistError: As `Files.open`.
        """
        self._tar = tar
        self._limit = limit
        #: What has a digest: a manifest's bytes, or a member's name.
        self._objects: dict[Digest, bytes | str] = {}
        self._configs: dict[str, ImageConfig] = {}
        self._layers: dict[str, tuple[str, Digest | None]] = {}
        try:
            saved = parse_saved_images(read_document(tar, MANIFEST, limit))
            self._entries = [entry for image in saved for entry in self._image(image)]
        except NotFound as error:
            message = f"{tar.shown()} is not whole: {error}"
            raise MalformedDocument(message) from error
        except MalformedDocument as error:
            message = f"{tar.shown()}: {error}"
            raise MalformedDocument(message) from error

    def entries(self) -> list[Descriptor]:
        """Return a descriptor for each name, and one without for an image that has none."""
        return self._entries

    def open(self, digest: Digest, offset: int, end: int | None) -> ByteStream:
        """Open what has a digest; see `Files.open`."""
        found = self._find(digest)
        return io.BytesIO(found[offset:end]) if isinstance(found, bytes) else self._tar.open(found, offset, end)

    def size(self, digest: Digest) -> int:
        """Return the size of what has a digest, in bytes."""
        found = self._find(digest)
        return len(found) if isinstance(found, bytes) else self._tar.size(found)

    def _find(self, digest: Digest) -> bytes | str:
        if digest in self._objects:
            return self._objects[digest]
        message = f"there is no {digest} in {self._tar.shown()}"
        raise NotFound(message)

    def _image(self, image: SavedImage) -> list[Descriptor]:
        """Take an image in, and return a descriptor of its manifest for each of its names."""
        config = self._config(member_name(image.config))
        if len(config.diff_ids) != len(image.layers):
            message = (
                f"{quoted(image.config)} tells of {len(config.diff_ids)} layers, and manifest.json lists "
                f"{len(image.layers)} for it"
            )
            raise MalformedDocument(message)
        fields = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": Descriptor(OCI_CONFIG, config.digest, config.size).to_fields(),
            "layers": [
                self._layer(member_name(name), diff_id).to_fields()
                for name, diff_id in zip(image.layers, config.diff_ids, strict=True)
            ],
        }
        raw = json.dumps(fields, separators=(",", ":")).encode()
        digest = Digest.of(raw)
        self._objects[digest] = raw
        annotations: list[dict[str, str]] = [{IMAGE_NAME: tag} for tag in image.tags]
        return [Descriptor(OCI_MANIFEST, digest, len(raw), annotations=found) for found in annotations or [{}]]

    def _config(self, name: str) -> ImageConfig:
        place = self._tar.place(name)
        if place not in self._configs:
            config = self._configs[place] = ImageConfig.parse(read_document(self._tar, place, self._limit))
            self._objects.setdefault(config.digest, place)
        return self._configs[place]

    def _layer(self, name: str, diff_id: Digest) -> Descriptor:
        place = self._tar.place(name)
        if place not in self._layers:
            self._layers[place] = self._look_at(place)
        media_type, digest = self._layers[place]
        digest = digest or diff_id
        self._objects.setdefault(digest, place)
        return Descriptor(media_type, digest, self._tar.size(place))

    def _look_at(self, place: str) -> tuple[str, Digest | None]:
        """Return a layer's media type by its first bytes, and its digest where that is not its diff ID."""
        with contextlib.closing(self._tar.open(place, 0, 4)) as stream:
            first = b"".join(iter(lambda: stream.read(4), b""))
        if not first.startswith((GZIP, ZSTD)):
            return OCI_LAYER, None
        media_type = OCI_LAYER_GZIP if first.startswith(GZIP) else OCI_LAYER_ZSTD
        hasher = Digest.of(b"").hasher()
        with contextlib.closing(self._tar.open(place, 0, None)) as stream:
            for chunk in iter(lambda: stream.read(CHUNK_SIZE), b""):
                hasher.update(chunk)
        return media_type, Digest("sha256", hasher.hexdigest())
