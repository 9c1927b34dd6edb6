"""Documents: manifests, indexes and image configs, of OCI and of Docker (schema 2).

A document keeps its raw bytes, over which its digest is taken, and every field it came with. It is typed by agreement
of the media type it was served or described as, the ``mediaType`` in its body, and its fields; what is ambiguous is
refused, so that no other tool can read the same bytes as another document (CVE-2021-41190).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING

from attrs import field, frozen

from distsdk._repr import Displayed
from distsdk._text import counted, human_size, quoted, shortened
from distsdk.errors import (
    InvalidDigest,
    LimitExceeded,
    MalformedDocument,
    MediaTypeMismatch,
    PlatformNotFound,
    UnsupportedDocument,
)
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.media_types import (
    CONFIGS,
    DOCKER_SCHEMA1,
    DOCUMENTS,
    INDEXES,
    MANIFESTS,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_MANIFEST,
    SCHEMA1,
    parse_media_type,
)
from distsdk.spec.platform import Platform
from distsdk.spec.strict_json import (
    as_object,
    load_json,
    optional_flag,
    optional_list,
    optional_object,
    optional_text,
    optional_text_map,
    optional_texts,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from typing import Self

#: Descriptors in one document, and entries of a config's history.
MAX_ENTRIES = 10_000


def check_document(raw: bytes, media_type: str) -> None:
    """Check that the bytes of a manifest or index are of the media type they were served or described as.

    Bytes of other media types than `DOCUMENTS` and `SCHEMA1` are not checked.

    Args:
        raw: The bytes.
        media_type: From the ``Content-Type`` header or the descriptor.

    Raises:
        MalformedDocument: The bytes are not JSON, or their fields contradict the media type.
        MediaTypeMismatch: Their ``mediaType`` is another one. Ask for that type, if it is what you want.
        UnsupportedDocument: A Docker schema 1 manifest.
    """
    try:
        known = parse_media_type(media_type) in DOCUMENTS | SCHEMA1
    except ValueError:
        return
    if known:
        check_fields(load_json(raw), media_type)


def check_fields(fields: dict[str, object], media_type: str) -> None:
    """Check the fields of a manifest or index, parsed already, as `check_document` checks its bytes."""
    _agreed(fields, media_type)


def document_type(raw: bytes, media_type: str | None = None) -> str:
    """Return the media type of the bytes of a manifest or index, one of `DOCUMENTS`.

    Args:
        raw: The bytes.
        media_type: From a descriptor or a hint; None where only the bytes are known.

    Raises:
        MalformedDocument: The bytes are no document, or could be read as a manifest and as an index.
        MediaTypeMismatch: Their ``mediaType`` is another one than ``media_type``.
        UnsupportedDocument: A Docker schema 1 manifest, or a kind of document that is not known.
    """
    return _agreed(load_json(raw), media_type)


def _agreed(fields: dict[str, object], media_type: str | None) -> str:
    """Return the media type that header, body and fields agree upon, one of `DOCUMENTS`."""
    declared = _declared(fields)
    given = None if media_type is None else _parsed(media_type, "the given media type")
    # 1 == True == 1.0 to Python, so the type counts too.
    version = fields.get("schemaVersion")
    if given in SCHEMA1 or declared in SCHEMA1 or (type(version) is int and version == 1):
        raise UnsupportedDocument(
            "a Docker schema 1 manifest, which distsdk does not read: ask the registry for a schema 2 or OCI manifest",
            media_type=declared or given or DOCKER_SCHEMA1,
        )
    if version is not None and (type(version) is not int or version != 2):
        raise MalformedDocument("schemaVersion is not 2; the document cannot be used")
    if given and declared and given != declared:
        raise MediaTypeMismatch(
            f"served or described as {given}, but its own mediaType is {shortened(declared)}: ask for that type",
            expected=(given,),
            got=declared,
        )
    is_index, is_manifest = (fields.get(key) is not None for key in ("manifests", "layers"))
    if is_index and is_manifest:
        raise MalformedDocument(
            "it has both layers and manifests, so it could be read as an index or as a manifest; do not use it"
        )
    agreed = given or declared or (OCI_INDEX if is_index else OCI_MANIFEST if "config" in fields else "")
    if not agreed:
        raise MalformedDocument("it is neither a manifest (config, layers) nor an index (manifests)")
    if agreed not in DOCUMENTS:
        raise UnsupportedDocument(
            f"{shortened(agreed)} is neither a manifest nor an index of OCI or Docker: fetch its bytes instead",
            media_type=agreed,
        )
    strange = ("config", "layers", "fsLayers") if agreed in INDEXES else ("manifests", "fsLayers")
    for key in strange:
        if fields.get(key) is not None:
            raise MalformedDocument(f"{key} contradicts its media type {agreed}; do not use the document")
    return agreed


def _declared(fields: dict[str, object]) -> str | None:
    text = optional_text(fields, "mediaType", "")
    return _parsed(text, "mediaType") if text else None


def _parsed(media_type: str, what: str) -> str:
    try:
        return parse_media_type(media_type)
    except ValueError as error:
        raise MalformedDocument(f"{what}: {error}") from error


def _expected(agreed: str, kinds: frozenset[str], noun: str) -> str:
    if agreed not in kinds:
        raise MediaTypeMismatch(
            f"{shortened(agreed)} is no {noun}: read it as what it is", expected=tuple(sorted(kinds)), got=agreed
        )
    return agreed


def _entries(fields: dict[str, object], key: str) -> list[object]:
    entries = optional_list(fields, key, "")
    if len(entries) > MAX_ENTRIES:
        raise LimitExceeded(f"{len(entries):,} {key} in one document, more than {MAX_ENTRIES:,}", limit=MAX_ENTRIES)
    return entries


def _descriptors(fields: dict[str, object], key: str) -> tuple[Descriptor, ...]:
    return tuple(
        Descriptor.from_fields(entry, where=f"{key}[{number}]") for number, entry in enumerate(_entries(fields, key))
    )


def _optional_descriptor(fields: dict[str, object], key: str) -> Descriptor | None:
    found = fields.get(key)
    return None if found is None else Descriptor.from_fields(found, where=key)


@frozen
class _Document(Displayed, ABC):
    """What all documents have: the bytes, and what the bytes are by name.

    Equality is that of the bytes and the media type.
    """

    #: As fetched; digests are taken over these and nothing else.
    raw: bytes
    media_type: str
    #: The parsed JSON, with fields this version does not know. Not to be changed.
    fields: Mapping[str, object] = field(eq=False)

    @cached_property
    def digest(self) -> Digest:
        """The sha256 digest of `raw`."""
        return Digest.of(self.raw)

    @property
    def size(self) -> int:
        """The number of bytes of `raw`."""
        return len(self.raw)

    @classmethod
    @abstractmethod
    def parse(cls, raw: bytes, media_type: str | None = None) -> Self:
        """Return the document that ``raw`` is; each kind of document says which errors there are."""

    def __reduce__(self) -> tuple[object, ...]:
        # The parsed view would more than double a pickle, and what comes out of one is checked again.
        return (type(self).parse, (self.raw, self.media_type))

    def _repr(self, about: str) -> str:
        digest = f"{self.digest.algorithm}:{self.digest.short}…"
        return f"<{type(self).__name__} {digest} {shortened(about)} {self.media_type}>"


@frozen(repr=False)
class Manifest(_Document):
    """What an image or an artifact consists of.

    https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md

    Args:
        raw: The bytes.
        media_type: One of `MANIFESTS`.
        fields: The parsed JSON.
        config: The image config, or whatever an artifact has in its place.
        layers: Lowest first.
        annotations: Free text by key.
        artifact_type: What kind of artifact it is, or None.
        subject: The manifest that this one is about, or None.
        schema_version: 2.
    """

    config: Descriptor = field(eq=False)
    layers: tuple[Descriptor, ...] = field(eq=False)
    annotations: Mapping[str, str] = field(eq=False)
    artifact_type: str | None = field(eq=False)
    subject: Descriptor | None = field(eq=False)
    schema_version: int = field(eq=False)

    @classmethod
    def parse(cls, raw: bytes, media_type: str | None = None) -> Self:
        """Return the manifest that ``raw`` is.

        Args:
            raw: The bytes.
            media_type: From the ``Content-Type`` header or a descriptor; None where only the bytes are known.

        Raises:
            MalformedDocument: The bytes are no manifest; the message names the JSON path.
            MediaTypeMismatch: They are another document than ``media_type`` says, or an index.
            UnsupportedDocument: A Docker schema 1 manifest, or a kind of document that is not known.
            LimitExceeded: More than `MAX_ENTRIES` layers.
        """
        fields = load_json(raw)
        agreed = _expected(_agreed(fields, media_type), MANIFESTS, "manifest")
        return cls(
            raw,
            agreed,
            fields,
            Descriptor.from_fields(fields.get("config"), where="config"),
            _descriptors(fields, "layers"),
            optional_text_map(fields, "annotations", ""),
            optional_text(fields, "artifactType", "") or None,
            _optional_descriptor(fields, "subject"),
            2,
        )

    def __repr__(self) -> str:
        total = sum(layer.size for layer in self.layers)
        return self._repr(f"{counted(len(self.layers), 'layer')}, {human_size(total)}")

    def _repr_html_(self) -> str:
        from distsdk.display.html import manifest

        return manifest(self)


@frozen(repr=False)
class Index(_Document):
    """What there is under one name, mostly the same image for several platforms.

    https://github.com/opencontainers/image-spec/blob/v1.1.1/image-index.md

    Args:
        raw: The bytes.
        media_type: One of `INDEXES`.
        fields: The parsed JSON.
        manifests: In the order of the document.
        annotations: Free text by key.
        artifact_type: What kind of artifact it is, or None.
        subject: The manifest that this index is about, or None.
        schema_version: 2.
    """

    manifests: tuple[Descriptor, ...] = field(eq=False)
    annotations: Mapping[str, str] = field(eq=False)
    artifact_type: str | None = field(eq=False)
    subject: Descriptor | None = field(eq=False)
    schema_version: int = field(eq=False)

    @classmethod
    def parse(cls, raw: bytes, media_type: str | None = None) -> Self:
        """Return the index that ``raw`` is; arguments and errors are those of `Manifest.parse`."""
        fields = load_json(raw)
        agreed = _expected(_agreed(fields, media_type), INDEXES, "index")
        return cls(
            raw,
            agreed,
            fields,
            _descriptors(fields, "manifests"),
            optional_text_map(fields, "annotations", ""),
            optional_text(fields, "artifactType", "") or None,
            _optional_descriptor(fields, "subject"),
            2,
        )

    @property
    def platforms(self) -> tuple[Platform, ...]:
        """What there is to choose from, in the order of the document, without the ``unknown`` of attestations."""
        return tuple(platform for entry in self.manifests if (platform := runnable_platform(entry)))

    def select(self, platform: Platform) -> Descriptor:
        """Return the entry that suits ``platform`` best, chosen as `Platform.choose` does.

        Args:
            platform: What it is to run on.

        Raises:
            PlatformNotFound: Nothing suits. The error says what there is; an entry can also be fetched by its digest.
        """
        chosen = platform.choose(map(runnable_platform, self.manifests))
        if chosen is not None:
            return self.manifests[chosen]
        raise nothing_for(platform, self.manifests)

    def __repr__(self) -> str:
        platforms = ", ".join(map(str, self.platforms[:8]))
        return self._repr(counted(len(self.manifests), "manifest") + (f" for {platforms}" if platforms else ""))

    def _repr_html_(self) -> str:
        from distsdk.display.html import index

        return index(self)


def nothing_for(platform: Platform, entries: Iterable[Descriptor]) -> PlatformNotFound:
    """Return the error for a platform that no entry suits, with the platforms of the entries."""
    available = tuple(dict.fromkeys(str(found) for entry in entries if (found := runnable_platform(entry))))
    shown = ", ".join(available) or "no entry that names a platform"
    return PlatformNotFound(
        f"nothing here for {shortened(str(platform))}: choose one of {shortened(shown, 400)}, or fetch by digest",
        platform=str(platform),
        available=available,
    )


def runnable_platform(entry: Descriptor) -> Platform | None:
    """Return the platform of an entry; None too for attestations, whose platform is ``unknown/unknown``."""
    platform = entry.platform
    return None if platform is None or platform.os == platform.architecture == "unknown" else platform


@frozen
class HistoryEntry(Displayed):
    """A step that an image was built by.

    Args:
        created: When, as the document has it (RFC 3339), or empty.
        created_by: The command, or empty.
        comment: Free text.
        author: Who.
        empty_layer: True where the step left no layer.
    """

    created: str = ""
    created_by: str = ""
    comment: str = ""
    author: str = ""
    empty_layer: bool = False

    @classmethod
    def from_fields(cls, fields: object, *, where: str = "history") -> Self:
        """Return the entry that a config holds.

        Args:
            fields: The parsed JSON object.
            where: Its JSON path, for messages.

        Raises:
            MalformedDocument: A value is of the wrong type.
        """
        found = as_object(fields, where)
        return cls(
            optional_text(found, "created", where),
            optional_text(found, "created_by", where),
            optional_text(found, "comment", where),
            optional_text(found, "author", where),
            optional_flag(found, "empty_layer", where),
        )

    @property
    def created_at(self) -> datetime | None:
        """`created` as a time, or None where it is missing or no RFC 3339 time."""
        return _time(self.created)

    def __repr__(self) -> str:
        about = "no layer" if self.empty_layer else "layer"
        return f"<HistoryEntry {about} {shortened(self.created, 40)} {quoted(self.created_by)}>"


@frozen(repr=False)
class ImageConfig(_Document):
    """How an image is run, and how it was built.

    What the document does not say is empty.

    https://github.com/opencontainers/image-spec/blob/v1.1.1/config.md

    Args:
        raw: The bytes.
        media_type: One of `CONFIGS`.
        fields: The parsed JSON.
        os: ``linux``.
        architecture: ``amd64``.
        variant: ``v7``.
        created: When, as the document has it (RFC 3339).
        author: Who.
        env: ``NAME=value``.
        cmd: The arguments, or the whole command where there is no entrypoint.
        entrypoint: What is run.
        working_dir: Where.
        user: As whom: ``user[:group]``, names or numbers.
        labels: Free text by key.
        exposed_ports: ``6379/tcp``.
        volumes: Paths.
        stop_signal: ``SIGTERM``.
        diff_ids: The digests of the uncompressed layers, lowest first.
        history: The steps it was built by, first one first.
    """

    os: str = field(eq=False)
    architecture: str = field(eq=False)
    variant: str = field(eq=False)
    created: str = field(eq=False)
    author: str = field(eq=False)
    env: tuple[str, ...] = field(eq=False)
    cmd: tuple[str, ...] = field(eq=False)
    entrypoint: tuple[str, ...] = field(eq=False)
    working_dir: str = field(eq=False)
    user: str = field(eq=False)
    labels: Mapping[str, str] = field(eq=False)
    exposed_ports: tuple[str, ...] = field(eq=False)
    volumes: tuple[str, ...] = field(eq=False)
    stop_signal: str = field(eq=False)
    diff_ids: tuple[Digest, ...] = field(eq=False)
    history: tuple[HistoryEntry, ...] = field(eq=False)

    @classmethod
    def parse(cls, raw: bytes, media_type: str | None = None) -> Self:
        """Return the image config that ``raw`` is.

        Args:
            raw: The bytes.
            media_type: From the manifest's descriptor; None is the OCI one.

        Raises:
            MalformedDocument: The bytes are no image config; the message names the JSON path.
            MediaTypeMismatch: ``media_type`` is not that of an image config, as it is not for most artifacts.
            LimitExceeded: More than `MAX_ENTRIES` layers or steps.
        """
        agreed = OCI_CONFIG if media_type is None else _parsed(media_type, "the given media type")
        _expected(agreed, CONFIGS, "image config")
        fields = load_json(raw)
        config = optional_object(fields, "config", "")
        rootfs = optional_object(fields, "rootfs", "")
        Platform.from_fields(fields, where="")  # `platform` reads it again
        return cls(
            raw,
            agreed,
            fields,
            os=optional_text(fields, "os", ""),
            architecture=optional_text(fields, "architecture", ""),
            variant=optional_text(fields, "variant", ""),
            created=optional_text(fields, "created", ""),
            author=optional_text(fields, "author", ""),
            env=optional_texts(config, "Env", "config"),
            cmd=optional_texts(config, "Cmd", "config"),
            entrypoint=optional_texts(config, "Entrypoint", "config"),
            working_dir=optional_text(config, "WorkingDir", "config"),
            user=optional_text(config, "User", "config"),
            labels=optional_text_map(config, "Labels", "config"),
            exposed_ports=tuple(optional_object(config, "ExposedPorts", "config")),
            volumes=tuple(optional_object(config, "Volumes", "config")),
            stop_signal=optional_text(config, "StopSignal", "config"),
            diff_ids=_diff_ids(rootfs),
            history=tuple(
                HistoryEntry.from_fields(entry, where=f"history[{number}]")
                for number, entry in enumerate(_entries(fields, "history"))
            ),
        )

    @property
    def created_at(self) -> datetime | None:
        """`created` as a time, or None where it is missing or no RFC 3339 time."""
        return _time(self.created)

    @property
    def platform(self) -> Platform:
        """What the image runs on, as the config has it."""
        return Platform.from_fields(self.fields, where="")

    def __repr__(self) -> str:
        return self._repr(f"{self.platform} {counted(len(self.diff_ids), 'layer')}")

    def _repr_html_(self) -> str:
        from distsdk.display.html import image_config

        return image_config(self)


def _diff_ids(rootfs: dict[str, object]) -> tuple[Digest, ...]:
    texts = optional_texts(rootfs, "diff_ids", "rootfs")
    if len(texts) > MAX_ENTRIES:
        raise LimitExceeded(f"{len(texts):,} layers in one config, more than {MAX_ENTRIES:,}", limit=MAX_ENTRIES)
    digests: list[Digest] = []
    for number, text in enumerate(texts):
        try:
            digests.append(Digest.parse(text))
        except InvalidDigest as error:
            raise MalformedDocument(f"rootfs.diff_ids[{number}]: {error}") from error
    return tuple(digests)


def _time(text: str) -> datetime | None:
    from datetime import datetime

    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        return None
    # RFC 3339 times have an offset.
    return time if time.tzinfo else None
