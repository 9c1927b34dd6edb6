"""Bills of materials in both formats, and what is none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from distsdk import Sbom
from distsdk.analysis import sbom
from distsdk.analysis.sbom import SbomPackage
from distsdk.errors import DistError, LimitExceeded, MalformedDocument, UnsupportedDocument

SPDX: dict[str, Any] = {
    "spdxVersion": "SPDX-2.3",
    "name": "redis",
    "packages": [
        {
            "name": "openssl",
            "SPDXID": "SPDXRef-openssl",
            "versionInfo": "3.0.11",
            "licenseDeclared": "Apache-2.0",
            "licenseConcluded": "Apache-2.0",
            "externalRefs": [
                {"referenceType": "cpe23Type", "referenceLocator": "cpe:2.3:a:openssl"},
                {"referenceType": "purl", "referenceLocator": "pkg:deb/debian/openssl@3.0.11"},
            ],
        },
        {"name": "musl", "licenseDeclared": "MIT", "licenseConcluded": "MIT AND BSD-2-Clause"},
        {"name": "x", "licenseDeclared": "NOASSERTION", "licenseConcluded": "NONE"},
    ],
}
CYCLONEDX: dict[str, Any] = {
    "bomFormat": "CycloneDX",
    "specVersion": "1.6",
    "metadata": {"component": {"name": "redis", "type": "container"}},
    "components": [
        {
            "type": "library",
            "group": "org.apache",
            "name": "commons",
            "version": "1",
            "purl": "pkg:maven/org.apache/commons@1",
            "licenses": [{"license": {"id": "Apache-2.0"}}, {"license": {"name": "Ours"}}],
            "components": [{"name": "inner", "licenses": [{"expression": "MIT OR ISC"}]}],
        },
        {"name": "last"},
    ],
}


def read(fields: object) -> Sbom:
    """Read a document."""
    return Sbom.parse(json.dumps(fields).encode())


def test_spdx() -> None:
    """Names, versions, purls and licenses; what is not asserted is not told."""
    found = read(SPDX)
    assert ("spdx", "2.3", "redis") == (found.format, found.version, found.name)
    assert found.packages == (
        SbomPackage("openssl", "3.0.11", "pkg:deb/debian/openssl@3.0.11", ("Apache-2.0",)),
        SbomPackage("musl", "", "", ("MIT", "MIT AND BSD-2-Clause")),
        SbomPackage("x", "", "", ()),
    )
    assert "<Sbom spdx 2.3 redis 3 packages>" == repr(found)


def test_cyclonedx() -> None:
    """Groups are part of names, and what is within a component follows it."""
    found = read(CYCLONEDX)
    assert ("cyclonedx", "1.6", "redis") == (found.format, found.version, found.name)
    assert found.packages == (
        SbomPackage("org.apache/commons", "1", "pkg:maven/org.apache/commons@1", ("Apache-2.0", "Ours")),
        SbomPackage("inner", "", "", ("MIT OR ISC",)),
        SbomPackage("last", "", "", ()),
    )
    assert () == read({"bomFormat": "CycloneDX", "specVersion": "1.4"}).packages


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"spdxVersion": "SPDX-3.0"},
        {"@context": "https://spdx.org/rdf/3.0.1/spdx-context.jsonld"},
        {"bomFormat": "Other"},
    ],
)
def test_what_is_neither_is_not_read(fields: object) -> None:
    """SPDX 3 is another format; anything else is no SBOM."""
    with pytest.raises(UnsupportedDocument, match="neither SPDX 2 nor CycloneDX"):
        read(fields)


@pytest.mark.parametrize(
    "fields",
    [
        7,
        {**SPDX, "packages": {}},
        {**SPDX, "packages": [7]},
        {**SPDX, "packages": [{}]},
        {**SPDX, "packages": [{"name": "x", "versionInfo": 7}]},
        {**SPDX, "packages": [{"name": "x", "externalRefs": [7]}]},
        {**SPDX, "name": []},
        {**CYCLONEDX, "specVersion": 1.6},
        {**CYCLONEDX, "metadata": []},
        {**CYCLONEDX, "components": [{"name": ""}]},
        {**CYCLONEDX, "components": [{"name": "x", "licenses": [{}]}]},
        {**CYCLONEDX, "components": [{"name": "x", "licenses": ["MIT"]}]},
        {**CYCLONEDX, "components": [{"name": "x", "components": 7}]},
    ],
)
def test_a_broken_document_is_refused(fields: object) -> None:
    """By an error of ours that says where."""
    with pytest.raises(MalformedDocument):
        read(fields)


def test_there_are_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packages are counted, those within others too, and nesting ends somewhere."""
    monkeypatch.setattr(sbom, "MAX_PACKAGES", 2)
    for fields in (SPDX, CYCLONEDX):
        with pytest.raises(LimitExceeded, match="more than 2 packages"):
            read(fields)
    monkeypatch.undo()
    for depth, error in ((20, None), (100, MalformedDocument), (100_000, DistError)):
        deep = b'{"bomFormat":"CycloneDX","specVersion":"1.6"' + b',"components":[{"name":"x"' * depth + b"}]" * depth
        if error is None:
            assert depth == len(Sbom.parse(deep + b"}").packages)
        else:
            with pytest.raises(error):
                Sbom.parse(deep + b"}")
