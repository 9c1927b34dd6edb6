from __future__ import annotations

import gc
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsdk.errors import (
    DistError,
    LimitExceeded,
    MalformedDocument,
    MediaTypeMismatch,
    PlatformNotFound,
    UnsupportedDocument,
)
from distsdk.spec.digest import Digest
from distsdk.spec.documents import MAX_ENTRIES, HistoryEntry, ImageConfig, Index, Manifest, check_document
from distsdk.spec.media_types import (
    CONFIGS,
    DOCKER_CONFIG,
    DOCKER_LIST,
    DOCKER_MANIFEST,
    DOCKER_SCHEMA1,
    DOCKER_SCHEMA1_SIGNED,
    INDEXES,
    MANIFESTS,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_LAYER_GZIP,
    OCI_MANIFEST,
)
from distsdk.spec.platform import Platform
from distsdk.spec.strict_json import MAX_DEPTH, load_json, parse_json

REDIS = (Path(__file__).parents[2] / "data" / "redis-3.2.6.manifest.json").read_bytes()
EMPTY = {"mediaType": OCI_CONFIG, "digest": str(Digest.of(b"{}")), "size": 2}
LAYER = {"mediaType": OCI_LAYER_GZIP, "digest": str(Digest.of(b"layer")), "size": 5}
MANIFEST: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": EMPTY, "layers": [LAYER]}
INDEX: dict[str, Any] = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}


def encoded(fields: object, **changes: object) -> bytes:
    """Return a document; a change to None leaves the field out."""
    if isinstance(fields, dict):
        fields = {key: value for key, value in {**fields, **changes}.items() if value is not None}
    return json.dumps(fields).encode()


def entry(platform: str | None, number: int) -> dict[str, object]:
    """Return an entry of an index, told apart by its size."""
    found = {"mediaType": OCI_MANIFEST, "digest": str(Digest.of(bytes([number]))), "size": number}
    if platform is None:
        return found
    os, architecture, *variant = platform.split("/")
    return {**found, "platform": {"os": os, "architecture": architecture, "variant": "".join(variant)}}


# --- the genuine manifest ---------------------------------------------------------------------------------------------


def test_the_manifest_of_redis_326() -> None:
    """Docker Hub's manifest of January 2017 is read, and hashes to the digest that was published then."""
    manifest = Manifest.parse(REDIS, DOCKER_MANIFEST)
    assert "sha256:a027a470aa2b9b41cc2539847a97b8a14794ebd0a4c7c5d64e390df6bde56c73" == str(manifest.digest)
    assert (1783, 2, 7) == (manifest.size, manifest.schema_version, len(manifest.layers))
    assert json.loads(REDIS)["config"]["digest"] == str(manifest.config.digest)
    assert [layer["size"] for layer in json.loads(REDIS)["layers"]] == [layer.size for layer in manifest.layers]
    assert manifest == Manifest.parse(REDIS)
    assert f"<Manifest sha256:a027a470aa2b… 7 layers, 70.8 MiB {DOCKER_MANIFEST}>" == repr(manifest)


# --- JSON -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "cause"),
    [
        (b"", "is not JSON"),
        (b"<html>", "is not JSON"),
        (b"{", "is not JSON"),
        (b"{} {}", "is not JSON"),
        (b"{'a': 1}", "is not JSON"),
        (b'{"a": 1,}', "is not JSON"),
        (b'\xef\xbb\xbf{"a": 1}', "is not JSON"),
        ('{"a": 1}'.encode("utf-16"), "is not JSON"),
        (b'{"a": "\xff"}', "is not JSON"),
        (b'{"a": "\n"}', "is not JSON"),
        (b'{"a": NaN}', "NaN is no JSON number"),
        (b'{"a": -Infinity}', "Infinity is no JSON number"),
        (b'{"a": 1e999}', "'1e999' is out of range"),
        (b'{"a": -1e999}', "'-1e999' is out of range"),
        (b'{"a": ' + b"9" * 5000 + b"}", "is not JSON"),
        (b'{"a": 1, "a": 1}', "the key 'a' occurs twice"),
        (b'{"b": [{"a": 1, "\\u0061": 2}]}', "the key 'a' occurs twice"),
        (b'{"a": "\\ud800"}', "half a surrogate"),
        (b'{"\\uDFFF": 1}', "half a surrogate"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "deeper than 64"),
        (b'{"a":' + b"[" * 64 + b"]" * 64 + b"}", "deeper than 64"),
        (b"[" * 100_000, "deeper than 64|is not JSON"),
        (b"[" * 100_000 + b"]" * 100_000, "deeper than 64"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "deeper than 64"),
        (b"[]", "is a list where an object belongs"),
        (b"null", "is missing or null where an object belongs"),
        (b'"x"', "is a string where an object belongs"),
        (b"1", "is a number where an object belongs"),
    ],
)
def test_what_is_no_plain_json_object_is_refused(raw: bytes, cause: str) -> None:
    """Malformed, ambiguous, deep or huge JSON gives one documented error."""
    with pytest.raises(MalformedDocument, match=cause) as caught:
        load_json(raw)
    assert len(str(caught.value)) < 400


def test_a_late_duplicate_takes_no_time() -> None:
    """Finding the key that occurs twice does not compare each with each."""
    pairs = ", ".join(f'"{number}": 1' for number in [*range(200_000), 199_999])
    with pytest.raises(MalformedDocument, match="the key '199999' occurs twice"):
        load_json(f"{{{pairs}}}".encode())


@pytest.mark.parametrize("value", [None, True, 1, 1.5, "x", [], {}, [{"a": [1]}], "\U0001f600"])
def test_parse_json_returns_any_value(value: object) -> None:
    """What is not a document may be any JSON; a surrogate pair is one character."""
    assert value == parse_json(json.dumps(value).encode())


def test_depth_is_what_counts_and_not_the_number_of_brackets() -> None:
    """Wide documents pass, and so do those exactly as deep as allowed."""
    wide = {"a": [{"b": 1} for _ in range(1000)]}
    deep = b'{"a":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH
    assert wide == load_json(json.dumps(wide).encode())
    assert "a" in load_json(deep)


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_malformed(raw: bytes) -> None:
    """No input gives another error, and what passes is what the standard library reads."""
    try:
        value = parse_json(raw)
    except MalformedDocument:
        return
    assert json.loads(raw) == value


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
KEYS = st.sampled_from(
    [
        *[
            "schemaVersion",
            "mediaType",
            "config",
            "layers",
            "manifests",
            "annotations",
            "artifactType",
            "subject",
            "size",
        ],
        *[
            "digest",
            "platform",
            "urls",
            "data",
            "os",
            "architecture",
            "rootfs",
            "diff_ids",
            "history",
            "created",
            "Env",
        ],
        *["Cmd", "Labels", "Volumes", "fsLayers", "empty_layer", "variant"],
    ]
)
VALUES = st.recursive(
    JSON
    | st.sampled_from(
        [2, OCI_MANIFEST, OCI_INDEX, DOCKER_LIST, EMPTY, [LAYER], MANIFEST, INDEX, EMPTY["digest"], "x/y"]
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=5),
    max_leaves=10,
)


@pytest.mark.slow
@given(st.dictionaries(KEYS, VALUES, max_size=8), st.sampled_from([None, OCI_MANIFEST, DOCKER_LIST, "x/y", "x"]))
def test_any_object_is_a_document_or_a_documented_error(fields: dict[str, object], media_type: str | None) -> None:
    """Fields of any type in any place: never a KeyError, TypeError or AttributeError."""
    raw = json.dumps(fields).encode()
    for parse in (Manifest.parse, Index.parse, ImageConfig.parse):
        for changed in (raw, encoded(MANIFEST, **fields), encoded(INDEX, **fields)):
            try:
                document = parse(changed, media_type)
            except DistError:
                continue
            assert changed == document.raw
            assert repr(document).isprintable()


# --- agreement --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "media_type", "error"),
    [
        # Body, header and fields agree, or the body says nothing.
        (encoded(MANIFEST), OCI_MANIFEST, None),
        (encoded(MANIFEST), f"{OCI_MANIFEST.upper()}; charset=utf-8", None),
        (encoded(MANIFEST, mediaType=None), OCI_MANIFEST, None),
        (encoded(MANIFEST, mediaType=None), DOCKER_MANIFEST, None),
        (encoded(MANIFEST, schemaVersion=None), OCI_MANIFEST, None),
        (encoded(INDEX), OCI_INDEX, None),
        (encoded(INDEX, mediaType=None), DOCKER_LIST, None),
        (b'{"schemaVersion": 2, "mediaType": null, "manifests": null, "layers": null}', OCI_INDEX, None),
        # They do not.
        (encoded(MANIFEST), DOCKER_MANIFEST, MediaTypeMismatch),
        (encoded(MANIFEST), OCI_INDEX, MediaTypeMismatch),
        (encoded(INDEX), DOCKER_LIST, MediaTypeMismatch),
        (encoded(MANIFEST, mediaType="text/plain"), OCI_MANIFEST, MediaTypeMismatch),
        (encoded(MANIFEST, mediaType=OCI_INDEX), OCI_INDEX, MalformedDocument),
        (encoded(INDEX, mediaType=OCI_MANIFEST), OCI_MANIFEST, MalformedDocument),
        (encoded(MANIFEST, manifests=[]), OCI_MANIFEST, MalformedDocument),
        (encoded(MANIFEST, manifests=[], mediaType=None), OCI_MANIFEST, MalformedDocument),
        (encoded(INDEX, layers=[], mediaType=None), OCI_INDEX, MalformedDocument),
        (encoded(INDEX, config={}), OCI_INDEX, MalformedDocument),
        (encoded(MANIFEST, fsLayers=[]), OCI_MANIFEST, MalformedDocument),
        (encoded(MANIFEST, mediaType=5), OCI_MANIFEST, MalformedDocument),
        (encoded(MANIFEST, mediaType="x"), OCI_MANIFEST, MalformedDocument),
        (encoded(MANIFEST, schemaVersion=3), OCI_MANIFEST, MalformedDocument),
        (encoded(MANIFEST, schemaVersion=True), OCI_MANIFEST, MalformedDocument),
        (encoded(MANIFEST, schemaVersion="2"), OCI_MANIFEST, MalformedDocument),
        (encoded(MANIFEST, schemaVersion=2.0), OCI_MANIFEST, MalformedDocument),
        (b"<html>", OCI_MANIFEST, MalformedDocument),
        (b"[]", OCI_MANIFEST, MalformedDocument),
        # Schema 1, by its media type or by its number.
        (b'{"schemaVersion": 1, "fsLayers": []}', DOCKER_SCHEMA1, UnsupportedDocument),
        (b'{"schemaVersion": 1, "fsLayers": []}', DOCKER_SCHEMA1_SIGNED, UnsupportedDocument),
        (b'{"schemaVersion": 1, "fsLayers": []}', OCI_MANIFEST, UnsupportedDocument),
        (encoded(MANIFEST, mediaType=DOCKER_SCHEMA1), DOCKER_SCHEMA1, UnsupportedDocument),
        # Not a document: none of its business.
        (b"<html>", "text/html", None),
        (b"<html>", OCI_CONFIG, None),
        (b"<html>", "", None),
    ],
)
def test_check_document(raw: bytes, media_type: str, error: type[DistError] | None) -> None:
    """Header, body and fields must tell the same story (CVE-2021-41190); parsing says the same as checking."""
    if error is None:
        check_document(raw, media_type)
        return
    with pytest.raises(error):
        check_document(raw, media_type)
    for parse in (Manifest.parse, Index.parse):
        with pytest.raises(error):
            parse(raw, media_type)


def test_schema_1_is_refused_by_name() -> None:
    """A newcomer learns what the registry sent and what to ask for."""
    with pytest.raises(UnsupportedDocument, match=r"Docker schema 1 manifest.*ask the registry") as caught:
        Manifest.parse(b'{"schemaVersion": 1, "name": "library/redis", "fsLayers": []}')
    assert DOCKER_SCHEMA1 == caught.value.media_type


def test_a_mismatch_says_both_types() -> None:
    """The error carries what was expected and what is there."""
    with pytest.raises(MediaTypeMismatch) as caught:
        Manifest.parse(encoded(MANIFEST), DOCKER_MANIFEST)
    assert ((DOCKER_MANIFEST,), OCI_MANIFEST) == (caught.value.expected, caught.value.got)


def test_a_document_is_read_as_its_kind_only() -> None:
    """An index is no manifest, a manifest no index, and what is neither is named."""
    with pytest.raises(MediaTypeMismatch, match="is no manifest") as caught:
        Manifest.parse(encoded(INDEX))
    assert (tuple(sorted(MANIFESTS)), OCI_INDEX) == (caught.value.expected, caught.value.got)
    with pytest.raises(MediaTypeMismatch, match="is no index") as caught:
        Index.parse(REDIS)
    assert (tuple(sorted(INDEXES)), DOCKER_MANIFEST) == (caught.value.expected, caught.value.got)
    with pytest.raises(MediaTypeMismatch, match="is no image config") as caught:
        ImageConfig.parse(b"{}", "application/vnd.cncf.helm.config.v1+json")
    assert tuple(sorted(CONFIGS)) == caught.value.expected
    with pytest.raises(UnsupportedDocument, match="neither a manifest nor an index") as other:
        Manifest.parse(encoded(MANIFEST, mediaType="application/vnd.oci.artifact.manifest.v1+json"))
    assert "application/vnd.oci.artifact.manifest.v1+json" == other.value.media_type


@pytest.mark.parametrize(
    ("raw", "media_type"),
    [
        (encoded(MANIFEST, mediaType=None), OCI_MANIFEST),
        (encoded(MANIFEST, mediaType=None, layers=None), OCI_MANIFEST),
        (encoded(MANIFEST, mediaType=DOCKER_MANIFEST), DOCKER_MANIFEST),
        (encoded(INDEX, mediaType=None), OCI_INDEX),
        (encoded(INDEX, mediaType=DOCKER_LIST), DOCKER_LIST),
    ],
)
def test_bytes_alone_are_typed_by_body_or_shape(raw: bytes, media_type: str) -> None:
    """Without a header the body is believed, and without that its fields."""
    kind = Index if media_type in INDEXES else Manifest
    assert media_type == kind.parse(raw).media_type


def test_bytes_that_say_nothing_are_refused() -> None:
    """No type is guessed."""
    with pytest.raises(MalformedDocument, match="neither a manifest"):
        Manifest.parse(b'{"schemaVersion": 2}')


# --- manifests --------------------------------------------------------------------------------------------------------


def test_manifest_fields() -> None:
    """Everything the specification names is read, and what it does not name survives."""
    raw = encoded(
        MANIFEST,
        annotations={"a": "b"},
        artifactType="application/x",
        subject={**EMPTY, "mediaType": OCI_MANIFEST},
        new=[1],
    )
    manifest = Manifest.parse(raw)
    assert {"a": "b"} == manifest.annotations
    assert "application/x" == manifest.artifact_type
    assert manifest.subject is not None
    assert OCI_MANIFEST == manifest.subject.media_type
    assert [1] == manifest.fields["new"]
    assert raw == manifest.raw


def test_manifest_nulls_are_empty() -> None:
    """Go's tools write null for what is empty."""
    nulls = dict.fromkeys(["layers", "annotations", "artifactType", "subject", "mediaType"])
    manifest = Manifest.parse(json.dumps({**MANIFEST, **nulls}).encode())
    assert ((), {}, None, None) == (manifest.layers, manifest.annotations, manifest.artifact_type, manifest.subject)


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"config": None}, "config is missing"),
        ({"config": []}, "config is a list"),
        ({"config": {}}, "config.size"),
        ({"layers": {}}, "layers is an object where a list belongs"),
        ({"layers": [LAYER, LAYER, {**LAYER, "digest": "x"}]}, r"layers\[2\]\.digest"),
        ({"layers": [LAYER, None]}, r"layers\[1\] is missing or null"),
        ({"annotations": {"a": 1}}, r"annotations\.a is a number"),
        ({"artifactType": 1}, "artifactType is a number"),
        ({"subject": "x"}, "subject is a string"),
    ],
)
def test_manifests_with_wrong_types_are_refused_by_path(changes: dict[str, Any], cause: str) -> None:
    """The message names the place."""
    with pytest.raises(MalformedDocument, match=cause):
        Manifest.parse(encoded(MANIFEST, **changes))


def test_the_number_of_descriptors_is_bounded() -> None:
    """A document of millions of entries is refused before a value is made of each."""
    assert MAX_ENTRIES == len(Manifest.parse(encoded(MANIFEST, layers=[LAYER] * MAX_ENTRIES)).layers)
    many = [LAYER] * (MAX_ENTRIES + 1)
    with pytest.raises(LimitExceeded, match="10,001 layers") as caught:
        Manifest.parse(encoded(MANIFEST, layers=many))
    assert MAX_ENTRIES == caught.value.limit
    with pytest.raises(LimitExceeded, match="10,001 manifests"):
        Index.parse(encoded(INDEX, manifests=many))
    with pytest.raises(LimitExceeded, match="10,001 history"):
        ImageConfig.parse(encoded({"history": [{}] * (MAX_ENTRIES + 1)}))
    with pytest.raises(LimitExceeded, match="10,001 layers"):
        ImageConfig.parse(encoded({"rootfs": {"diff_ids": [LAYER["digest"]] * (MAX_ENTRIES + 1)}}))


# --- indexes ----------------------------------------------------------------------------------------------------------

SEVERAL = Index.parse(
    encoded(
        INDEX,
        manifests=[
            entry(None, 1),
            entry("unknown/unknown", 2),
            entry("linux/386", 3),
            entry("linux/arm/v7", 4),
            entry("linux/amd64", 5),
            entry("linux/amd64", 6),
            entry("linux/arm64/v8", 7),
            entry("windows/amd64", 8),
        ],
    )
)


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("linux/amd64", 5),
        ("linux/amd64/v3", 5),
        ("linux/386", 3),
        ("linux/arm64", 7),
        ("linux/arm/v8", 4),
        ("linux/arm", 4),
        ("windows/amd64", 8),
    ],
)
def test_select(platform: str, expected: int) -> None:
    """The entry that suits best is chosen, the first among equals."""
    assert expected == SEVERAL.select(Platform.parse(platform)).size


def test_select_says_what_there_is() -> None:
    """Attestations and entries without a platform are neither chosen nor offered."""
    with pytest.raises(PlatformNotFound, match="nothing here for linux/s390x: choose one of linux/386, ") as caught:
        SEVERAL.select(Platform.parse("linux/s390x"))
    assert "linux/s390x" == caught.value.platform
    assert ("linux/386", "linux/arm/v7", "linux/amd64", "linux/arm64/v8", "windows/amd64") == caught.value.available
    for platform in (Platform("unknown", "unknown"), Platform("", "")):
        with pytest.raises(PlatformNotFound):
            SEVERAL.select(platform)
    with pytest.raises(PlatformNotFound, match="no entry"):
        Index.parse(encoded(INDEX, manifests=[entry(None, 1)])).select(Platform("linux", "amd64"))


def test_index_fields_and_repr() -> None:
    """An index may be empty, and may be about something."""
    index = Index.parse(encoded(INDEX, annotations={"a": "b"}, artifactType="x/y", subject=EMPTY))
    assert ({"a": "b"}, "x/y", ()) == (index.annotations, index.artifact_type, index.manifests)
    assert EMPTY == (index.subject and index.subject.to_fields())
    assert f"<Index sha256:{index.digest.short}… 0 manifests {OCI_INDEX}>" == repr(index)
    assert len(repr(SEVERAL)) <= 200
    assert "8 manifests for linux/386, linux/arm/v7" in repr(SEVERAL)


# --- image configs ----------------------------------------------------------------------------------------------------

# The example of the image-spec's config.md, shortened.
CONFIG = {
    "created": "2015-10-31T22:22:56.015925234Z",
    "author": "Alyssa P. Hacker <alyspdev@example.com>",
    "architecture": "amd64",
    "os": "linux",
    "config": {
        "User": "alice",
        "ExposedPorts": {"8080/tcp": {}},
        "Env": ["PATH=/usr/bin:/bin", "FOO=oci_is_a"],
        "Entrypoint": ["/bin/my-app-binary"],
        "Cmd": ["--foreground", "--config"],
        "Volumes": {"/var/job-result-data": {}, "/var/log/my-app-logs": {}},
        "StopSignal": "SIGKILL",
        "WorkingDir": "/home/alice",
        "Labels": {"com.example.project.git.url": "https://example.com/project.git"},
    },
    "rootfs": {"diff_ids": [str(Digest.of(b"a")), str(Digest.of(b"b"))], "type": "layers"},
    "history": [
        {"created": "2015-10-31T22:22:54.690851953Z", "created_by": "/bin/sh -c #(nop) ADD file in /"},
        {"created_by": "/bin/sh -c #(nop) CMD", "empty_layer": True, "comment": "c", "author": "a"},
    ],
}


def test_image_config_fields() -> None:
    """The specification's own example is read."""
    config = ImageConfig.parse(encoded(CONFIG))
    assert (OCI_CONFIG, "linux", "amd64", "") == (config.media_type, config.os, config.architecture, config.variant)
    assert Platform("linux", "amd64") == config.platform
    assert "2015-10-31T22:22:56.015925234Z" == config.created
    assert datetime(2015, 10, 31, 22, 22, 56, 15925, UTC) == config.created_at
    assert ("PATH=/usr/bin:/bin", "FOO=oci_is_a") == config.env
    assert (("/bin/my-app-binary",), ("--foreground", "--config")) == (config.entrypoint, config.cmd)
    assert ("/home/alice", "alice", "SIGKILL") == (config.working_dir, config.user, config.stop_signal)
    assert {"com.example.project.git.url": "https://example.com/project.git"} == config.labels
    assert (("8080/tcp",), ("/var/job-result-data", "/var/log/my-app-logs")) == (config.exposed_ports, config.volumes)
    assert (Digest.of(b"a"), Digest.of(b"b")) == config.diff_ids
    first, second = config.history
    assert datetime(2015, 10, 31, 22, 22, 54, 690851, UTC) == first.created_at
    assert HistoryEntry("", "/bin/sh -c #(nop) CMD", "c", "a", empty_layer=True) == second
    assert "Alyssa P. Hacker <alyspdev@example.com>" == config.author
    assert f"<ImageConfig sha256:{config.digest.short}… linux/amd64 2 layers {OCI_CONFIG}>" == repr(config)
    assert DOCKER_CONFIG == ImageConfig.parse(encoded(CONFIG), DOCKER_CONFIG).media_type


def test_image_config_nulls_are_empty() -> None:
    """Docker writes null for what is empty, and old images have no history."""
    nulls = dict.fromkeys(["Env", "Cmd", "Entrypoint", "Volumes", "Labels", "ExposedPorts", "User"])
    for raw in (encoded({}), json.dumps({"config": nulls, "history": None, "rootfs": {"diff_ids": None}}).encode()):
        config = ImageConfig.parse(raw)
        assert ((), (), (), (), ()) == (config.env, config.cmd, config.entrypoint, config.volumes, config.exposed_ports)
        assert ((), (), {}, "") == (config.history, config.diff_ids, config.labels, config.user)
        assert None is config.created_at


@pytest.mark.parametrize(
    ("fields", "cause"),
    [
        ({"config": []}, "config is a list"),
        ({"config": {"Env": {}}}, r"config\.Env is an object"),
        ({"config": {"Env": ["a", 1]}}, r"config\.Env\[1\] is a number"),
        ({"config": {"Cmd": "sh"}}, r"config\.Cmd is a string"),
        ({"config": {"Labels": {"a": None}}}, r"config\.Labels\.a is missing or null"),
        ({"config": {"Volumes": ["/data"]}}, r"config\.Volumes is a list"),
        ({"config": {"User": 0}}, r"config\.User is a number"),
        ({"os": 1}, "os is a number"),
        ({"rootfs": {"diff_ids": ["x"]}}, r"rootfs\.diff_ids\[0\]: 'x' is not a digest"),
        ({"rootfs": {"diff_ids": [1]}}, r"rootfs\.diff_ids\[0\] is a number"),
        ({"history": {}}, "history is an object"),
        ({"history": [1]}, r"history\[0\] is a number"),
        ({"history": [{}, {"empty_layer": 1}]}, r"history\[1\]\.empty_layer is a number where a boolean belongs"),
    ],
)
def test_image_configs_with_wrong_types_are_refused_by_path(fields: dict[str, Any], cause: str) -> None:
    """The message names the place."""
    with pytest.raises(MalformedDocument, match=cause):
        ImageConfig.parse(encoded(fields))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2017-01-10T20:02:22Z", datetime(2017, 1, 10, 20, 2, 22, tzinfo=UTC)),
        ("2017-01-10T21:02:22.5+01:00", datetime(2017, 1, 10, 20, 2, 22, 500000, UTC)),
        ("0001-01-01T00:00:00Z", datetime(1, 1, 1, tzinfo=UTC)),
        ("2017-01-10T20:02:22", None),
        ("yesterday", None),
        ("", None),
    ],
)
def test_created_at(text: str, expected: datetime | None) -> None:
    """RFC 3339 times are read to the microsecond; anything else is no time, and stays readable as text."""
    config = ImageConfig.parse(encoded({"created": text}))
    assert (text, expected) == (config.created, config.created_at)


# --- all of them ------------------------------------------------------------------------------------------------------


def test_equality_is_that_of_the_bytes() -> None:
    """Two spellings of the same fields are two documents, as they have two digests."""
    spaced = json.dumps(MANIFEST, indent=1).encode()
    assert Manifest.parse(encoded(MANIFEST)) != Manifest.parse(spaced)
    assert {Manifest.parse(spaced)} == {Manifest.parse(spaced, OCI_MANIFEST)}
    untyped = encoded(MANIFEST, mediaType=None)
    assert Manifest.parse(untyped, DOCKER_MANIFEST) != Manifest.parse(untyped, OCI_MANIFEST)


def test_reprs_do_not_grow() -> None:
    """Hostile documents are shown in one bounded, printable line."""
    hostile = {"os": "\x1b[2J" * 10_000, "architecture": "x" * 10_000}
    index = Index.parse(encoded(INDEX, manifests=[{**LAYER, "mediaType": OCI_LAYER, "platform": hostile}] * 100))
    config = ImageConfig.parse(encoded(hostile))
    step = HistoryEntry(created="\n" * 1000, created_by="\x1b" * 1000)
    for shown in (repr(index), repr(config), repr(step), repr(index.manifests[0])):
        assert shown.isprintable()
        assert len(shown) < 700


def test_nested_json_is_parsed_without_a_collection() -> None:
    """No finalizer of another object runs near the recursion limit; the collector is on again afterwards."""
    collected: list[str] = []
    gc.callbacks.append(lambda phase, _: collected.append(phase))
    try:
        with pytest.raises(MalformedDocument):
            parse_json(b"[" * 900 + b"{}," * 200_000 + b"]" * 900, what="x")
        during = len(collected)
    finally:
        gc.callbacks.pop()
    assert (0, True) == (during, gc.isenabled())
