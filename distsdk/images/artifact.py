"""`Artifact`: a manifest whose layers are files or archives."""

from __future__ import annotations

from typing import TYPE_CHECKING

from distsdk._repr import Displayed
from distsdk.layers.layer import LayerFiles

if TYPE_CHECKING:
    from collections.abc import Callable

    from distsdk.content.blob import Blob
    from distsdk.images.content import ContentSource
    from distsdk.images.image import Layer
    from distsdk.layers.cache import Cache
    from distsdk.spec.descriptor import Descriptor
    from distsdk.spec.digest import Digest
    from distsdk.spec.documents import Manifest
    from distsdk.spec.reference import Reference

    Progress = bool | Callable[["Layer", int], object]


class Artifact(Displayed):
    """What is no image: a manifest, and layers that are files, or archives of files, each for itself.

    Attributes:
        reference: By what name it was asked for.
        manifest: What it consists of.
    """

    def __init__(
        self, reference: Reference, manifest: Manifest, shelf: ContentSource, *, cache: Cache, strict: bool
    ) -> None:
        """Use `image_or_artifact`."""
        self.reference = reference
        self.manifest = manifest
        self._shelf = shelf
        self._cache = cache
        self._strict = strict

    def blob(self, layer: Descriptor) -> Blob:
        """Return the bytes of a layer."""
        return self._shelf.blob(layer)

    def files(self, layer: Descriptor, diff_id: Digest | None) -> LayerFiles:
        """Return a layer that is an archive, as files."""
        return LayerFiles(self.blob(layer), layer, diff_id=diff_id, cache=self._cache, strict=self._strict)
