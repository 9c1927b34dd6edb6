"""The two documents of an OCI image layout, ``oci-layout`` and ``index.json``, and where its blobs are.

https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md
"""

from __future__ import annotations

import contextlib
import json
import re
from typing import TYPE_CHECKING, Any

from attrs import evolve, frozen

from distsdk._text import quoted
from distsdk.errors import DistError, LimitExceeded, MalformedDocument, UnsupportedDocument
from distsdk.spec.descriptor import REF_NAME, Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.documents import Index, check_fields
from distsdk.spec.media_types import DOCKER_DOCUMENTS, DOCKER_LIST, OCI_INDEX
from distsdk.spec.strict_json import load_json, optional_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import Self

#: The files that make a directory or an archive a layout.
VERSION_FILE = "oci-layout"
INDEX_FILE = "index.json"

#: Bytes of a manifest, of an index that is a blob, and of ``oci-layout``, unless the caller says otherwise.
MAX_DOCUMENT = 4 * 1024 * 1024
#: Bytes and entries of ``index.json``, which names every image of a layout: some 100,000.
MAX_INDEX = 64 * 1024 * 1024
MAX_INDEX_ENTRIES = 200_000

#: The annotation by which containerd, and Docker since version 25, gives an image's full name.
IMAGE_NAME = "io.containerd.image.name"

#: Contents of ``oci-layout`` in a new layout.
NEW_VERSION = b'{"imageLayoutVersion":"1.0.0"}'

_HEADER = "application/vnd.oci.layout.header.v1+json"
#: A higher minor version may add to the format and takes nothing away: https://semver.org/#spec-item-7.
_VERSION = re.compile(r"1\.[0-9]+\.[0-9]+")


def blob_name(digest: Digest) -> str:
    """Return the name of a blob below a layout."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


def check_version(raw: bytes, shown: str) -> None:
    """Check the contents of ``oci-layout``.

    Args:
        raw: The contents.
        shown: The file's name for messages.

    Raises:
        MalformedDocument: The contents are not as specified.
        UnsupportedDocument: The version is not 1.
    """
    version = optional_text(load_json(raw, what=shown), "imageLayoutVersion", shown)
    if not version:
        message = f"{shown} has no imageLayoutVersion; the layout cannot be used"
        raise MalformedDocument(message)
    if not _VERSION.fullmatch(version):
        message = f"{shown} has version {quoted(version)}: distsdk reads and writes version 1"
        raise UnsupportedDocument(message, media_type=_HEADER)


@frozen
class LayoutIndex:
    """The contents of ``index.json``; fields and entries of other tools are kept as they are.

    Args:
        fields: The parsed JSON.
        shown: The file's name for messages.
    """

    fields: Mapping[str, object]
    shown: str

    @classmethod
    def empty(cls, shown: str) -> Self:
        """Return the contents for a new layout."""
        return cls({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}, shown)

    @classmethod
    def parse(cls, raw: bytes, shown: str) -> Self:
        """Read the contents of ``index.json``.

        Args:
            raw: The contents.
            shown: The file's name for messages.

        Raises:
            MalformedDocument, MediaTypeMismatch, UnsupportedDocument: The contents are not an OCI index.
            LimitExceeded: There are more than `MAX_INDEX_ENTRIES` entries.
        """
        try:
            fields = load_json(raw)
            check_fields(fields, OCI_INDEX)
        except MalformedDocument as error:
            message = f"{shown}: {error}"
            raise MalformedDocument(message) from error
        entries = fields.get("manifests", ())
        if entries is None:
            entries = []  # as umoci writes an empty list
        if not isinstance(entries, list):
            message = f"{shown} has no list of manifests; the layout cannot be used"
            raise MalformedDocument(message)
        return cls(fields, shown)._with(entries)

    def dump(self) -> bytes:
        """Return the JSON.

        Raises:
            LimitExceeded: There are more than `MAX_INDEX` bytes, which could not be read again.
        """
        raw = json.dumps(self.fields, separators=(",", ":")).encode()
        if len(raw) > MAX_INDEX:
            message = f"{self.shown} would be longer than the limit of {MAX_INDEX} bytes; remove names first"
            raise LimitExceeded(message, limit=MAX_INDEX)
        return raw

    @property
    def entries(self) -> list[object]:
        """The list of manifests as it is in the JSON."""
        return self.fields["manifests"]  # type: ignore[return-value] # `parse` has made it a list

    def descriptors(self) -> Iterator[Descriptor]:
        """Yield the entries that are descriptors, in order. One without a name that is not a descriptor is left out.

        Raises:
            MalformedDocument: An entry with a name is not a descriptor.
        """
        for number, entry in enumerate(self.entries):
            names = _annotated(entry)
            try:
                yield Descriptor.from_fields(entry, where=f"manifests[{number}]")
            except MalformedDocument as error:
                if names:
                    message = f"{self.shown}: {quoted(names[0])}: {error}"
                    raise MalformedDocument(message) from error

    def named(self, name: str, targets: Sequence[Descriptor], is_referrer: Callable[[object], bool]) -> Self:
        """Return the contents in which a name stands for these targets and nothing else.

        Args:
            name: The value of the annotation `REF_NAME`.
            targets: Entries to add, in order; other annotations stay.
            is_referrer: Whether an entry's document has a subject: then the entry stays when it loses its name, since
                nothing else lists the document.
        """
        plain = [evolve(target, annotations={}).to_fields() for target in targets]
        kept = [entry for entry in self._without_name(name, is_referrer) if entry not in plain]
        added = [evolve(t, annotations={**t.annotations, REF_NAME: name}).to_fields() for t in targets]
        return self._with([*kept, *added])

    def unnamed(self, name: str, is_referrer: Callable[[object], bool]) -> Self | None:
        """Return the contents without a name; None where no entry has it. Arguments as for `named`."""
        if not any(name_of(entry) == name for entry in self.entries):
            return None
        return self._with(list(self._without_name(name, is_referrer)))

    def listed(self, target: Descriptor) -> Self:
        """Return the contents that list a document, with or without a name."""
        if any(_digest_of(entry) == str(target.digest) for entry in self.entries):
            return self
        return self._with([*self.entries, evolve(target, annotations={}).to_fields()])

    def unlisted(self, digest: Digest) -> Self:
        """Return the contents without the entries for a document, and without those for its `oci_alias`."""
        removed = [entry for entry in self.entries if _digest_of(entry) == str(digest)]
        names = {name_of(entry) for entry in removed if _media_type_of(entry) in DOCKER_DOCUMENTS} - {None}
        removed += [entry for entry in self.entries if name_of(entry) in names and _media_type_of(entry) == OCI_INDEX]
        return self._with([entry for entry in self.entries if entry not in removed])

    def _without_name(self, name: str, is_referrer: Callable[[object], bool]) -> Iterator[object]:
        for entry in self.entries:
            if name_of(entry) != name:
                yield entry
            elif is_referrer(entry):
                assert isinstance(entry, dict)  # noqa: S101 - or it would have no name
                annotations = {key: text for key, text in entry["annotations"].items() if key != REF_NAME}
                rest = {key: value for key, value in entry.items() if key != "annotations"}
                yield rest | ({"annotations": annotations} if annotations else {})

    def _with(self, entries: Iterable[object]) -> Self:
        found = list(entries)
        if len(found) > MAX_INDEX_ENTRIES:
            message = f"{self.shown} lists {len(found):,} manifests, more than {MAX_INDEX_ENTRIES:,}"
            raise LimitExceeded(message, limit=MAX_INDEX_ENTRIES)
        return evolve(self, fields={**self.fields, "manifests": found})


def oci_alias(target: Descriptor, raw: bytes) -> tuple[Descriptor, bytes]:
    """Return an OCI index that leads to a document with a Docker media type.

    skopeo and umoci find only OCI media types by name in a layout. Therefore ``index.json`` gives each name of a Docker
    document to this index too, in an entry before the document's own: these tools find the index, and distsdk, which
    prefers the later entry, finds the document with its own digest.

    Args:
        target: The document, of one of `DOCKER_DOCUMENTS`.
        raw: Its bytes.

    Returns:
        The index, and its bytes: it lists a manifest, or all children of a Docker manifest list.

    Raises:
        MalformedDocument, UnsupportedDocument: The manifest list is invalid.
    """
    children = Index.parse(raw, DOCKER_LIST).manifests if target.media_type == DOCKER_LIST else (target,)
    entries = [evolve(child, annotations={}).to_fields() for child in children]
    index = json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()
    return Descriptor(OCI_INDEX, Digest.of(index), len(index)), index


def names_of(entry: Descriptor) -> list[str]:
    """Return the names that an entry's annotations give it: a tag or a full name, each once."""
    return list(dict.fromkeys(entry.annotations[key] for key in (REF_NAME, IMAGE_NAME) if entry.annotations.get(key)))


def name_of(entry: object) -> str | None:
    """Return the name by which an entry is changed and removed; ``entry`` may be any JSON value."""
    return next(iter(_annotated(entry, REF_NAME)), None)


def _annotated(entry: object, *keys: str) -> list[str]:
    annotations = entry.get("annotations") if isinstance(entry, dict) else None
    found = annotations if isinstance(annotations, dict) else {}
    return [found[key] for key in keys or (REF_NAME, IMAGE_NAME) if isinstance(found.get(key), str) and found[key]]


def _digest_of(entry: Any) -> object:  # noqa: ANN401 - of a file that any tool may have written
    return entry.get("digest") if isinstance(entry, dict) else None


def _media_type_of(entry: object) -> str | None:
    media_type = entry.get("mediaType") if isinstance(entry, dict) else None
    return media_type if isinstance(media_type, str) else None


def entry_or_none(entry: object) -> Descriptor | None:
    """Return the descriptor that an entry is; None if it is not one."""
    with contextlib.suppress(DistError):
        return Descriptor.from_fields(entry)
    return None
