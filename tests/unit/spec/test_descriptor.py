from __future__ import annotations

import base64
import json
from typing import Any

import pytest

from distsdk.errors import MalformedDocument
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.media_types import OCI_LAYER_GZIP, OCI_MANIFEST
from distsdk.spec.platform import Platform

DIGEST = Digest.of(b"hello")
LEAST: dict[str, Any] = {"mediaType": OCI_LAYER_GZIP, "digest": str(DIGEST), "size": 5}
FULL: dict[str, Any] = {
    "mediaType": OCI_MANIFEST,
    "digest": str(DIGEST),
    "size": 5,
    "urls": ["https://example.com/hello"],
    "annotations": {"org.opencontainers.image.title": "hello"},
    "data": base64.b64encode(b"hello").decode(),
    "platform": {"architecture": "arm", "os": "linux", "os.version": "1", "os.features": ["f"], "variant": "v7"},
    "artifactType": "application/x",
}


def test_all_fields_are_read_and_written() -> None:
    """What a document says of an object is there, and is written back with the same keys."""
    descriptor = Descriptor.from_fields(FULL)
    assert FULL == descriptor.to_fields()
    assert (OCI_MANIFEST, DIGEST, 5) == (descriptor.media_type, descriptor.digest, descriptor.size)
    assert Platform("linux", "arm", "v7", "1", ("f",)) == descriptor.platform
    assert b"hello" == descriptor.data
    assert ("https://example.com/hello",) == descriptor.urls
    assert {"org.opencontainers.image.title": "hello"} == descriptor.annotations
    assert "application/x" == descriptor.artifact_type


def test_what_is_missing_or_null_is_empty() -> None:
    """Go's tools write null where nothing is."""
    nulls = dict.fromkeys(["urls", "annotations", "data", "platform", "artifactType"])
    expected = Descriptor(OCI_LAYER_GZIP, DIGEST, 5)
    assert expected == Descriptor.from_fields(LEAST)
    assert expected == Descriptor.from_fields({**LEAST, **nulls, "unknown": {"is": "ignored"}})
    assert LEAST == expected.to_fields()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": None}, r"layers\[3\]\.size is not a whole number"),
        ({"size": True}, r"layers\[3\]\.size"),
        ({"size": 5.0}, r"layers\[3\]\.size"),
        ({"size": "5"}, r"layers\[3\]\.size"),
        ({"size": -1}, r"layers\[3\]\.size"),
        ({"size": 2**63}, r"layers\[3\]\.size"),
        ({"digest": None}, r"layers\[3\]\.digest is missing"),
        ({"digest": 5}, r"layers\[3\]\.digest is a number where a string belongs"),
        ({"digest": "sha256:ab"}, r"layers\[3\]\.digest: 'sha256:ab' is not a digest"),
        ({"digest": "sha256:../../../etc/passwd"}, r"layers\[3\]\.digest: "),
        ({"digest": "md5:" + "a" * 32}, "cannot be verified"),
        ({"mediaType": None}, r"layers\[3\]\.mediaType is missing"),
        ({"mediaType": ""}, r"layers\[3\]\.mediaType is missing"),
        ({"mediaType": "a/b\r\nX: y"}, r"layers\[3\]\.mediaType: .* is not a media type"),
        ({"annotations": []}, r"layers\[3\]\.annotations is a list where an object belongs"),
        ({"annotations": {"a": 1}}, r"layers\[3\]\.annotations\.a is a number where a string belongs"),
        ({"annotations": {"a": None}}, r"layers\[3\]\.annotations\.a is missing or null"),
        ({"urls": "https://example.com"}, r"layers\[3\]\.urls is a string where a list belongs"),
        ({"urls": [1]}, r"layers\[3\]\.urls\[0\] is a number where a string belongs"),
        ({"platform": "linux"}, r"layers\[3\]\.platform is a string where an object belongs"),
        ({"platform": {"os": 1}}, r"layers\[3\]\.platform\.os is a number"),
        ({"platform": {"os.features": [None]}}, r"layers\[3\]\.platform\.os\.features\[0\]"),
        ({"artifactType": {}}, r"layers\[3\]\.artifactType is an object"),
        ({"data": 5}, r"layers\[3\]\.data is not a string of base64"),
        ({"data": "aGVsbG8"}, r"layers\[3\]\.data is not base64"),
        ({"data": "aGVsbG8=\n"}, r"layers\[3\]\.data is not base64"),
        ({"data": "aGVs-G8="}, r"layers\[3\]\.data is not base64"),
        ({"data": "aGVsbG8ü"}, r"layers\[3\]\.data is not base64"),
        ({"data": base64.b64encode(b"hell0").decode()}, "not what its digest and size say"),
        ({"data": base64.b64encode(b"hello!").decode()}, "not what its digest and size say"),
        ({"data": ""}, "not what its digest and size say"),
    ],
)
def test_what_is_wrong_is_refused_by_its_path(change: dict[str, object], message: str) -> None:
    """A hostile descriptor gives one documented error that names the place, never a KeyError or TypeError."""
    with pytest.raises(MalformedDocument, match=message):
        Descriptor.from_fields({**LEAST, **change}, where="layers[3]")


@pytest.mark.parametrize("fields", [None, [], "x", 5, 1.5, True])
def test_what_is_no_object_is_refused(fields: object) -> None:
    """A descriptor is a JSON object."""
    with pytest.raises(MalformedDocument, match=r"descriptor is .* where an object belongs"):
        Descriptor.from_fields(fields)


def test_the_constructor_holds_data_against_digest_and_size() -> None:
    """A descriptor made by hand is checked too."""
    assert b"hello" == Descriptor(OCI_MANIFEST, DIGEST, 5, data=b"hello").data
    with pytest.raises(MalformedDocument, match="not what its digest"):
        Descriptor(OCI_MANIFEST, DIGEST, 5, data=b"hellO")
    with pytest.raises(MalformedDocument, match="between 0 and"):
        Descriptor(OCI_MANIFEST, DIGEST, -1)


def test_sha512_data_is_checked_with_sha512() -> None:
    """The algorithm of the digest decides, not a habit."""
    digest = Digest.of(b"hello", "sha512")
    fields = {**LEAST, "digest": str(digest), "data": base64.b64encode(b"hello").decode()}
    assert b"hello" == Descriptor.from_fields(fields).data


def test_annotations_are_a_copy() -> None:
    """Changing the dict a descriptor was made from does not change the descriptor."""
    annotations = {"a": "b"}
    descriptor = Descriptor(OCI_MANIFEST, DIGEST, 5, annotations=annotations)
    annotations["a"] = "c"
    assert {"a": "b"} == descriptor.annotations


def test_media_type_is_normalised() -> None:
    """Two spellings of a media type are one."""
    expected = Descriptor.from_fields(LEAST)
    assert expected == Descriptor.from_fields({**LEAST, "mediaType": OCI_LAYER_GZIP.upper() + "; a=b"})


def test_to_fields_is_json() -> None:
    """The written form can be serialised and read again."""
    descriptor = Descriptor.from_fields(FULL)
    assert descriptor == Descriptor.from_fields(json.loads(json.dumps(descriptor.to_fields())))


def test_repr_is_one_bounded_line() -> None:
    """The repr says digest, size and media type, and does not grow with hostile fields."""
    assert f"<Descriptor sha256:2cf24dba5fb0… 5 bytes {OCI_LAYER_GZIP}>" == repr(Descriptor.from_fields(LEAST))
    platform = {"os": "\x1b[2J" * 1000, "architecture": "x"}
    shown = repr(Descriptor.from_fields({**LEAST, "mediaType": f"a/{'b' * 127}", "platform": platform}))
    assert len(shown) <= 300
    assert shown.isprintable()
