"""Bills of materials: what somebody says is in an image, as SPDX 2 or CycloneDX in JSON.

https://spdx.github.io/spdx-spec/v2.3/ and https://cyclonedx.org/docs/1.6/json/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from attrs import field, frozen

from distsdk._repr import Displayed
from distsdk._text import counted, quoted, shortened
from distsdk.errors import LimitExceeded, MalformedDocument, UnsupportedDocument
from distsdk.spec.strict_json import (
    as_object,
    at,
    load_json,
    optional_list,
    optional_object,
    optional_text,
    required_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

#: The media types that SBOMs are attached with.
SPDX = "application/spdx+json"
CYCLONEDX = "application/vnd.cyclonedx+json"

#: Packages of one document.
MAX_PACKAGES = 100_000

#: How SPDX says that nothing is said.
_NOTHING = frozenset({"", "NOASSERTION", "NONE"})


@frozen
class SbomPackage(Displayed):
    """A package, as a bill of materials lists it.

    Attributes:
        name: With its group, where CycloneDX has one: ``org.apache/commons``.
        version: Empty where it is not told.
        purl: Its package URL, ``pkg:deb/debian/openssl@3.0.11``; empty where it is not told.
        licenses: Identifiers, expressions or names, each once; what was declared and what was concluded.
    """

    name: str = field(repr=quoted)
    version: str = field(repr=quoted)
    purl: str = field(repr=quoted)
    licenses: tuple[str, ...] = field(repr=lambda licenses: shortened(", ".join(licenses)))


@frozen(repr=False)
class Sbom(Displayed):
    """A bill of materials.

    Attributes:
        format: ``spdx`` or ``cyclonedx``.
        version: Of the format, ``2.3``.
        name: Of the document, or of what it describes; may be empty.
        packages: In its own order; of CycloneDX, components within components after those they are in.
    """

    format: Literal["spdx", "cyclonedx"]
    version: str
    name: str
    packages: tuple[SbomPackage, ...] = field(hash=False)

    @classmethod
    def parse(cls, raw: bytes) -> Self:
        """Return the bill of materials that ``raw`` is; whoever reads the bytes from a registry bounds their number.

        Raises:
            MalformedDocument: The bytes are none.
            UnsupportedDocument: A document of another format or version: SPDX 3, or no bill of materials.
            LimitExceeded: It has more than `MAX_PACKAGES`.
        """
        return cls.from_fields(load_json(raw, what="the SBOM"))

    @classmethod
    def from_fields(cls, fields: Mapping[str, object]) -> Self:
        """Return the bill of materials that a parsed document is, such as the predicate of a `Statement`.

        Raises:
            DistError: As `parse`.
        """
        version = optional_text(fields, "spdxVersion", "")
        if version.startswith("SPDX-2."):
            packages = _spdx(fields)
            return cls("spdx", version.removeprefix("SPDX-"), optional_text(fields, "name", ""), _bounded(packages))
        if fields.get("bomFormat") == "CycloneDX":
            metadata = optional_object(fields, "metadata", "")
            described = optional_object(metadata, "component", "metadata")
            version = required_text(fields, "specVersion", "")
            name = optional_text(described, "name", "metadata.component")
            return cls("cyclonedx", version, name, _bounded(_cyclonedx(fields, "")))
        message = "neither SPDX 2 nor CycloneDX in JSON: no other SBOM is read"
        if "spdxVersion" in fields or "@context" in fields:
            message += f" (it says {quoted(version or 'SPDX 3')})"
        raise UnsupportedDocument(message, media_type="application/json")

    def __repr__(self) -> str:
        packages = counted(len(self.packages), "package")
        return f"<Sbom {self.format} {shortened(self.version, 20)} {shortened(self.name)} {packages}>"


def _bounded(packages: Iterator[SbomPackage]) -> tuple[SbomPackage, ...]:
    found: list[SbomPackage] = []
    for package in packages:
        if len(found) == MAX_PACKAGES:
            raise LimitExceeded(f"the SBOM has more than {MAX_PACKAGES:,} packages", limit=MAX_PACKAGES)
        found.append(package)
    return tuple(found)


def _spdx(fields: Mapping[str, object]) -> Iterator[SbomPackage]:
    for number, entry in enumerate(optional_list(fields, "packages", "")):
        where = f"packages[{number}]"
        package = as_object(entry, where)
        licenses = [optional_text(package, key, where) for key in ("licenseDeclared", "licenseConcluded")]
        yield SbomPackage(
            required_text(package, "name", where),
            optional_text(package, "versionInfo", where),
            _purl(package, where),
            tuple(dict.fromkeys(text for text in licenses if text not in _NOTHING)),
        )


def _purl(package: Mapping[str, object], where: str) -> str:
    for number, entry in enumerate(optional_list(package, "externalRefs", where)):
        here = f"{where}.externalRefs[{number}]"
        found = as_object(entry, here)
        if optional_text(found, "referenceType", here) == "purl":
            return optional_text(found, "referenceLocator", here)
    return ""


def _cyclonedx(fields: Mapping[str, object], where: str) -> Iterator[SbomPackage]:
    for number, entry in enumerate(optional_list(fields, "components", where)):
        here = f"{at(where, 'components')}[{number}]"
        component = as_object(entry, here)
        group = optional_text(component, "group", here)
        name = required_text(component, "name", here)
        yield SbomPackage(
            f"{group}/{name}" if group else name,
            optional_text(component, "version", here),
            optional_text(component, "purl", here),
            _licenses(component, here),
        )
        # No deeper than JSON may be: parse_json bounds that.
        yield from _cyclonedx(component, here)


def _licenses(component: Mapping[str, object], where: str) -> tuple[str, ...]:
    found: dict[str, None] = {}
    for number, entry in enumerate(optional_list(component, "licenses", where)):
        here = f"{where}.licenses[{number}]"
        choice = as_object(entry, here)
        license = optional_object(choice, "license", here)
        texts = (
            optional_text(choice, "expression", here),
            optional_text(license, "id", f"{here}.license"),
            optional_text(license, "name", f"{here}.license"),
        )
        text = next(filter(None, texts), None)
        if text is None:
            raise MalformedDocument(f"{here} names no license; the SBOM cannot be used")
        found[text] = None
    return tuple(found)
