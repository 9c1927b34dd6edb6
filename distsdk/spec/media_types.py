"""Media types: what an object says it is."""

from __future__ import annotations

import re

from distsdk._text import quoted

# https://github.com/opencontainers/image-spec/blob/v1.1.1/media-types.md
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_EMPTY = "application/vnd.oci.empty.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
OCI_LAYER_GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"
OCI_LAYER_ZSTD = "application/vnd.oci.image.layer.v1.tar+zstd"
OCI_NONDISTRIBUTABLE_LAYER = "application/vnd.oci.image.layer.nondistributable.v1.tar"
OCI_NONDISTRIBUTABLE_LAYER_GZIP = "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
OCI_NONDISTRIBUTABLE_LAYER_ZSTD = "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd"

# https://github.com/distribution/distribution/blob/v2.8.3/docs/spec/manifest-v2-2.md#media-types
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
DOCKER_LAYER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
DOCKER_LAYER_ZSTD = "application/vnd.docker.image.rootfs.diff.tar.zstd"
DOCKER_FOREIGN_LAYER = "application/vnd.docker.image.rootfs.foreign.diff.tar"
DOCKER_FOREIGN_LAYER_GZIP = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
DOCKER_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+json"
DOCKER_SCHEMA1_SIGNED = "application/vnd.docker.distribution.manifest.v1+prettyjws"

OCTET_STREAM = "application/octet-stream"

INDEXES = frozenset({OCI_INDEX, DOCKER_LIST})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
DOCUMENTS = INDEXES | MANIFESTS
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
#: Docker's own: in a layout other tools look for OCI's alone.
DOCKER_DOCUMENTS = frozenset({DOCKER_LIST, DOCKER_MANIFEST})
SCHEMA1 = frozenset({DOCKER_SCHEMA1, DOCKER_SCHEMA1_SIGNED})
#: Layers that a registry may not hold: their bytes are at the descriptor's `urls`.
FOREIGN_LAYERS = frozenset(
    {
        OCI_NONDISTRIBUTABLE_LAYER,
        OCI_NONDISTRIBUTABLE_LAYER_GZIP,
        OCI_NONDISTRIBUTABLE_LAYER_ZSTD,
        DOCKER_FOREIGN_LAYER,
        DOCKER_FOREIGN_LAYER_GZIP,
    }
)
LAYERS = FOREIGN_LAYERS | {
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD,
    DOCKER_LAYER,
    DOCKER_LAYER_GZIP,
    DOCKER_LAYER_ZSTD,
}

#: What is asked for where no hint names a media type, most wanted first.
DEFAULT_ACCEPT = (OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST)

_KNOWN = DOCUMENTS | CONFIGS | LAYERS | SCHEMA1 | {OCI_EMPTY, OCTET_STREAM}

# The restricted names of https://www.rfc-editor.org/rfc/rfc6838#section-4.2, at most 127 characters each.
_NAME = r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}"
_MEDIA_TYPE = re.compile(rf"{_NAME}/{_NAME}")
# What may follow: parameters of printable ASCII, https://www.rfc-editor.org/rfc/rfc9110#section-5.6.6.
_PARAMETERS = re.compile(r"[ \t]*(?:;[\t\x20-\x7e]*)?")


def parse_media_type(text: str) -> str:
    """Return ``text`` in lower case and without parameters, safe to be sent in a header.

    Args:
        text: ``type/subtype``, perhaps with ``; parameters``, as in a ``Content-Type`` header or a descriptor.

    Raises:
        ValueError: It is not ``type/subtype`` of restricted names (RFC 6838, section 4.2).
    """
    if text in _KNOWN:
        return text
    end = min((at for at in map(text.find, "; \t") if at >= 0), default=len(text))
    media_type = text[:end].lower() if text.isascii() else ""
    if not _MEDIA_TYPE.fullmatch(media_type) or not _PARAMETERS.fullmatch(text, end):
        raise ValueError(f"{quoted(text)} is not a media type: write type/subtype, such as {OCI_MANIFEST}")
    return media_type
