"""Descriptors: what a document says about something it points to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from attrs import field, frozen

from distsdk._repr import Displayed
from distsdk._text import human_size, shortened
from distsdk.errors import InvalidDigest, MalformedDocument
from distsdk.spec.digest import Digest
from distsdk.spec.media_types import parse_media_type
from distsdk.spec.platform import Platform
from distsdk.spec.strict_json import as_object, at, optional_text, optional_text_map, optional_texts, required_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

#: Bytes; sizes are signed 64-bit numbers everywhere else.
MAX_SIZE = 2**63 - 1

# https://github.com/opencontainers/image-spec/blob/v1.1.1/annotations.md#pre-defined-annotation-keys
#: The annotation by which the index of a layout names an image.
REF_NAME = "org.opencontainers.image.ref.name"
#: The annotation that names the file which a layer of an artifact is.
TITLE = "org.opencontainers.image.title"


def _copied(annotations: Mapping[str, str]) -> dict[str, str]:
    return dict(annotations)


@frozen
class Descriptor(Displayed):
    """What an object is, by media type, digest and size: enough to fetch it and to check it.

    https://github.com/opencontainers/image-spec/blob/v1.1.1/descriptor.md

    Args:
        media_type: In lower case and without parameters.
        digest: Of the object's bytes.
        size: Of the object, in bytes, 0 to 2^63-1.
        platform: What it runs on, in an index.
        annotations: Free text by key.
        urls: Other places of the bytes; nothing is fetched from them unasked.
        data: The bytes themselves, where the document carries them.
        artifact_type: What kind of artifact a manifest is.

    Raises:
        MalformedDocument: The size is out of range, or the data is not what digest and size say.
    """

    media_type: str
    digest: Digest
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(factory=dict, converter=_copied, hash=False)
    urls: tuple[str, ...] = ()
    data: bytes | None = None
    artifact_type: str | None = None

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.size <= MAX_SIZE:
            raise MalformedDocument(f"the size of {self.digest} is not between 0 and 2^63-1 bytes; it cannot be used")
        if self.data is None:
            return
        if len(self.data) != self.size or Digest.of(self.data, self.digest.algorithm) != self.digest:
            raise MalformedDocument(
                f"the data embedded for {self.digest} is not what its digest and size say; do not use the document"
            )

    @classmethod
    def from_fields(cls, fields: object, *, where: str = "descriptor") -> Self:
        """Return the descriptor that a document holds; fields of other names are left aside.

        Args:
            fields: The parsed JSON object.
            where: Its JSON path, for messages.

        Raises:
            MalformedDocument: Something is missing, of the wrong type, or contradicts the rest.
        """
        found = as_object(fields, where)
        size = found.get("size")
        # A boolean is an int to Python, not to JSON.
        if type(size) is not int or not 0 <= size <= MAX_SIZE:
            raise MalformedDocument(f"{at(where, 'size')} is not a whole number of bytes; the document cannot be used")
        digest_text, type_text = (required_text(found, key, where) for key in ("digest", "mediaType"))
        try:
            digest = Digest.parse(digest_text)
        except InvalidDigest as error:
            raise MalformedDocument(f"{at(where, 'digest')}: {error}") from error
        try:
            media_type = parse_media_type(type_text)
        except ValueError as error:
            raise MalformedDocument(f"{at(where, 'mediaType')}: {error}") from error
        platform = found.get("platform")
        data = found.get("data")
        return cls(
            media_type,
            digest,
            size,
            None if platform is None else Platform.from_fields(platform, where=at(where, "platform")),
            optional_text_map(found, "annotations", where),
            optional_texts(found, "urls", where),
            None if data is None else _decoded(data, at(where, "data")),
            optional_text(found, "artifactType", where) or None,
        )

    def to_fields(self) -> dict[str, object]:
        """Return the JSON object, without what is empty."""
        fields: dict[str, object] = {"mediaType": self.media_type, "digest": str(self.digest), "size": self.size}
        if self.urls:
            fields["urls"] = list(self.urls)
        if self.annotations:
            fields["annotations"] = dict(self.annotations)
        if self.data is not None:
            from base64 import b64encode

            fields["data"] = b64encode(self.data).decode()
        if self.platform is not None:
            fields["platform"] = self.platform.to_fields()
        if self.artifact_type is not None:
            fields["artifactType"] = self.artifact_type
        return fields

    def __repr__(self) -> str:
        platform = "" if self.platform is None else f" {shortened(str(self.platform), 30)}"
        digest = f"{self.digest.algorithm}:{self.digest.short}…"
        return f"<Descriptor {digest} {human_size(self.size)}{platform} {shortened(self.media_type)}>"

    def _repr_html_(self) -> str:
        from distsdk.display.html import descriptor

        return descriptor(self)


def _decoded(data: object, where: str) -> bytes:
    from base64 import b64decode

    try:
        if isinstance(data, str):
            return b64decode(data.encode("ascii"), validate=True)
    except ValueError as error:
        raise MalformedDocument(f"{where} is not base64 (RFC 4648, section 4); the document cannot be used") from error
    raise MalformedDocument(f"{where} is not a string of base64; the document cannot be used")
