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
    """A manifest that is not an image: each layer is a file or an archive of files of its own.

    Attributes:
        reference: The requested reference.
        manifest: The manifest.
    """

    def __init__(
        self, reference: Reference, manifest: Manifest, source: ContentSource, *, cache: Cache, strict: bool
    ) -> None:
        """Use `image_or_artifact`."""
        self.reference = reference
        self.manifest = manifest
        self._source = source
        self._cache = cache
        self._strict = strict

    def blob(self, layer: Descriptor) -> Blob:
        """Return the bytes of a layer.

        Args:
            layer: Descriptor of the layer.
        """
        return self._source.blob(layer)

    def files(self, layer: Descriptor, diff_id: Digest | None) -> LayerFiles:
        """Return the files of a layer that is an archive.

        Args:
            layer: Descriptor of the layer.
            diff_id: Expected digest of the uncompressed layer; None to skip the check.
        """
        return LayerFiles(self.blob(layer), layer, diff_id=diff_id, cache=self._cache, strict=self._strict)
