"""Platforms: parsed, normalised and matched as containerd does.

The rules are those of https://github.com/containerd/platforms (``platforms.go``, ``database.go``, ``compare.go``).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

from attrs import evolve, frozen

from distsdk._repr import DisplayedAsText
from distsdk._text import printable, quoted, shortened
from distsdk.errors import InvalidHint
from distsdk.spec.strict_json import as_object, optional_text, optional_texts

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Self

_KNOWN_OS = re.compile(
    "aix|android|darwin|dragonfly|freebsd|hurd|illumos|ios|js|linux|nacl|netbsd|openbsd|plan9|solaris|windows|zos"
)
_KNOWN_ARCHITECTURE = re.compile(
    "386|amd64|amd64p32|arm|armbe|arm64|arm64be|ppc64|ppc64le|loong64|mips|mipsle|mips64|mips64le|mips64p32|mips64p32le|"
    "ppc|riscv|riscv64|s390|s390x|sparc|sparc64|wasm"
)

_COMPONENT = re.compile(r"[A-Za-z0-9_.-]+")
_OS = re.compile(r"([A-Za-z0-9_-]+)(?:\(([A-Za-z0-9_.%-]*)((?:\+[A-Za-z0-9_.%-]+)*)\))?")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")


@frozen
class Platform(DisplayedAsText):
    """What an image runs on: ``str(platform)`` is ``os[(os_version+feature)]/architecture[/variant]``.

    In the text, control and bidi characters are escaped, and more in version and features: as in URLs.

    Args:
        os: As Go names it: ``linux``, ``windows``.
        architecture: As Go names it: ``amd64``, ``arm64``.
        variant: ``v7``, ``v8``; empty for the usual one.
        os_version: ``10.0.17763.5329``; empty where it does not matter.
        os_features: What the operating system must have, such as ``win32k``.

    Examples:
        >>> distsdk.Platform.parse("linux/aarch64")
        Platform('linux/arm64')
    """

    os: str
    architecture: str
    variant: str = ""
    os_version: str = ""
    os_features: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the platform that ``text`` names.

        Aliases are understood (``x86_64``, ``aarch64``, ``armhf``, ``macOS``). An operating system alone means this
        machine's architecture, an architecture alone means ``linux``.

        Args:
            text: ``linux/arm64``, ``linux/arm/v7``, ``windows(10.0.17763)/amd64``, ``linux``, ``arm64``.

        Raises:
            InvalidHint: It names no platform.
        """
        os_part, *rest = text.split("/", 3)
        match = _OS.fullmatch(os_part)
        if match is None or len(rest) > 2 or not all(map(_COMPONENT.fullmatch, rest)):
            raise InvalidHint(
                f"{quoted(text)} is not a platform: write os/architecture[/variant], such as linux/arm64/v8"
            )
        os = _normalised_os(match[1])
        version = _unescaped(match[2] or "", text)
        features = tuple(_unescaped(part, text) for part in (match[3] or "").split("+") if part)
        if rest:
            architecture, variant = _normalised_architecture(rest[0], rest[1] if len(rest) == 2 else "")
            if len(rest) == 1 and (architecture, variant) == ("arm", "v7"):
                variant = ""
            elif len(rest) == 2 and (architecture, variant) == ("arm64", ""):
                variant = "v8"
            return cls(os, architecture, variant, version, features)
        if _KNOWN_OS.fullmatch(os):
            return evolve(cls.local(), os=os, os_version=version, os_features=features)
        architecture, variant = _normalised_architecture(os_part, "")
        if _KNOWN_ARCHITECTURE.fullmatch(architecture):
            return cls("linux", architecture, "" if (architecture, variant) == ("arm", "v7") else variant)
        raise InvalidHint(
            f"{quoted(text)} is neither an operating system nor an architecture that is known: "
            "write os/architecture, such as linux/amd64"
        )

    @classmethod
    def local(cls) -> Self:
        """Return ``linux`` on this machine's architecture: what a container runs on here."""
        # Late, for it is the one question in this package that this machine answers, and few ask it.
        import platform

        architecture, variant = _normalised_architecture(_OF_MACHINE.get(machine := platform.machine(), machine), "")
        if machine in _VARIANT_OF_MACHINE:
            variant = _VARIANT_OF_MACHINE[machine]
        return cls("linux", architecture, "" if (architecture, variant) == ("arm", "v7") else variant)

    @classmethod
    def from_fields(cls, fields: object, *, where: str = "platform") -> Self:
        """Return the platform of a descriptor or an image config.

        Args:
            fields: The parsed JSON object.
            where: Its JSON path, for messages.

        Raises:
            MalformedDocument: A value is of the wrong type.
        """
        found = as_object(fields, where)
        return cls(
            optional_text(found, "os", where),
            optional_text(found, "architecture", where),
            optional_text(found, "variant", where),
            optional_text(found, "os.version", where),
            optional_texts(found, "os.features", where),
        )

    def to_fields(self) -> dict[str, object]:
        """Return the JSON object, without what is empty."""
        fields: dict[str, object] = {"architecture": self.architecture, "os": self.os}
        if self.os_version:
            fields["os.version"] = self.os_version
        if self.os_features:
            fields["os.features"] = list(self.os_features)
        if self.variant:
            fields["variant"] = self.variant
        return fields

    def normalised(self) -> Self:
        """Return the platform with one spelling for the same: ``arm64/v8`` is ``arm64``, ``arm`` is ``arm/v7``."""
        architecture, variant = _normalised_architecture(self.architecture, self.variant)
        return evolve(
            self,
            os=_normalised_os(self.os),
            architecture=architecture,
            variant=variant,
            os_features=tuple(sorted(set(self.os_features))),
        )

    def matches(self, candidate: Platform) -> bool:
        """Tell whether what is made for ``candidate`` runs on this platform."""
        return self.choose([candidate]) is not None

    def choose(self, candidates: Iterable[Platform | None]) -> int | None:
        """Return the position of the candidate that suits this platform best, or None where none does.

        An exact match wins; then lower variants serve, from high to low, then ``386`` on ``amd64`` and ``arm`` on
        ``arm64``. Among equals the one with most operating system features wins, then the first. What names no platform
        is never chosen.

        Where containerd matches nothing for an ``arm64`` variant it does not know, here the exact match still counts.
        """
        offered = [(at, found, found.normalised()) for at, found in enumerate(candidates) if found is not None]
        for wanted in _runnable(self.normalised()):
            suitable = [(-len(found.os_features), at) for at, found, normal in offered if _serves(wanted, normal)]
            if suitable:
                return min(suitable)[1]
        return None

    def __str__(self) -> str:
        """Return the platform as text that is safe to print, whatever a document put into its parts."""
        os = printable(self.os) or "unknown"
        features = "".join(f"+{_escaped(feature)}" for feature in sorted(set(self.os_features)) if feature)
        if self.os_version or features:
            os = f"{os}({_escaped(self.os_version)}{features})"
        return "/".join(part for part in (os, printable(self.architecture), printable(self.variant)) if part)

    def __repr__(self) -> str:
        return f"Platform('{shortened(str(self), 160)}')"


#: What ``uname -m`` says where Go has another name and containerd no alias.
_OF_MACHINE = {
    **dict.fromkeys(("i486", "i586", "i686", "x86"), "386"),
    **dict.fromkeys(("armv5tel", "armv5tejl", "armv6l", "armv7l", "armv8l"), "arm"),
    "loongarch64": "loong64",
}
_VARIANT_OF_MACHINE = {"armv5tel": "v5", "armv5tejl": "v5", "armv6l": "v6"}


def _escaped(part: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.-]", lambda c: "".join(f"%{byte:02X}" for byte in c[0].encode(errors="replace")), part)


def _unescaped(part: str, text: str) -> str:
    if "%" not in part:
        return part
    plain = unquote(part)
    if _BAD_ESCAPE.search(part) or not plain.isprintable() or "\ufffd" in plain:
        raise InvalidHint(f"{quoted(text)} is not a platform: after %, two hex digits of a printable character belong")
    return plain


def _normalised_os(os: str) -> str:
    os = os.lower() or "linux"
    return "darwin" if os == "macos" else os


def _normalised_architecture(architecture: str, variant: str) -> tuple[str, str]:
    architecture, variant = architecture.lower(), variant.lower()
    match architecture:
        case "i386":
            return "386", ""
        case "x86_64" | "x86-64" | "amd64":
            return "amd64", "" if variant == "v1" else variant
        case "aarch64" | "arm64":
            return "arm64", {"8": "", "v8": "", "v8.0": "", "9": "v9", "9.0": "v9", "v9.0": "v9"}.get(variant, variant)
        case "armhf":
            return "arm", "v7"
        case "armel":
            return "arm", "v6"
        case "arm":
            return "arm", {"": "v7", "5": "v5", "6": "v6", "7": "v7", "8": "v8"}.get(variant, variant)
    return architecture, variant


#: An Armv9 core runs what is made for these Armv8 minors: 9.0 contains 8.5, and so on; there is no 8.10.
_ARMV8_IN_ARMV9 = {minor: min(minor + 5, 9) for minor in range(8)}


def _runnable(platform: Platform) -> list[Platform]:
    """Return what a normalised platform runs, best first, normalised."""

    def made_for(architecture: str, *variants: str) -> list[Platform]:
        return [evolve(platform, architecture=architecture, variant=variant).normalised() for variant in variants]

    variant = platform.variant
    match platform.architecture:
        case "amd64":
            lower = range(_version(variant) - 1, 0, -1)
            return [platform, *made_for("amd64", *(f"v{version}" for version in lower)), *made_for("386", "")]
        case "arm":
            return [platform, *made_for("arm", *_arm_below(_version(variant)))]
        case "arm64":
            minors = _arm64_variants(variant or "v8")
            if not minors:
                return [platform]
            return [*made_for("arm64", *minors), *made_for("arm", "v8", *_arm_below(8))]
    return [platform]


def _version(variant: str) -> int:
    """Return the number of ``v3``; no real one has two digits, and none above nine is worth a list."""
    digits = variant.removeprefix("v")
    return int(digits) if len(digits) == 1 and digits in "123456789" else 0


def _arm_below(version: int) -> list[str]:
    return [f"v{lower}" for lower in range(version - 1, 4, -1)]


def _arm64_variants(variant: str) -> list[str]:
    """Return an ``arm64`` variant and those below it, highest first; none where the variant is not known."""
    match = re.fullmatch(r"v([89])(?:\.([0-9]))?", variant)
    if match is None:
        return []
    minor = int(match[2] or 0)
    if match[1] == "8":
        return [f"v8.{lower}" for lower in range(minor, -1, -1)]
    if minor not in _ARMV8_IN_ARMV9:
        return []
    return [f"v9.{lower}" for lower in range(minor, -1, -1)] + _arm64_variants(f"v8.{_ARMV8_IN_ARMV9[minor]}")


def _serves(wanted: Platform, found: Platform) -> bool:
    """Tell whether ``found`` is what is ``wanted``, both normalised, and needs no more than that has."""
    if (wanted.os, wanted.architecture, wanted.variant) != (found.os, found.architecture, found.variant):
        return False
    features = set(found.os_features)
    if wanted.os == "windows":
        features.discard("win32k")
        if not _windows_serves(wanted.os_version, found.os_version):
            return False
    return features <= set(wanted.os_features)


#: Builds of Windows Server releases with a stable interface: 2022, 2025. Since the first of them, a host runs what is
#: made for the release before it up to its own build; older hosts run their own build only.
#: https://learn.microsoft.com/en-us/virtualization/windowscontainers/deploy-containers/version-compatibility
_WINDOWS_LTSC = (20348, 26100)


def _windows_serves(host: str, container: str) -> bool:
    wanted = _windows_version(host)
    if not any(wanted) or not container:
        return True
    found = _windows_version(container)
    if wanted[:2] != found[:2]:
        return False
    if wanted[2] < _WINDOWS_LTSC[0]:
        return wanted[2] == found[2]
    oldest = max((build for build in _WINDOWS_LTSC if build < wanted[2]), default=_WINDOWS_LTSC[0])
    return oldest <= found[2] <= wanted[2]


def _windows_version(text: str) -> tuple[int, int, int]:
    match = re.match(r"([0-9]{1,3})\.([0-9]{1,3})\.([0-9]{1,5})(?:\.|$)", text)
    if match is None:
        return (0, 0, 0)
    return (int(match[1]), int(match[2]), int(match[3]))
