"""Read container registries: name an image, a manifest or a blob and get a lazy, verified object.

Public is what this module, `distsdk.testing` and `distsdk.fsspec` export. Every other module path may change.
"""

from __future__ import annotations

import sys

__version__ = "0.1.0"

#: The public names by the module that defines them, here alone: `python .ci/stub.py` writes `__init__.pyi` from it.
_HOMES = {
    "analysis.diff": ("Diff", "FileChange", "PackageChange", "SequenceDiff", "SettingChange"),
    "analysis.packages": ("Package",),
    "analysis.partitions": ("Partition",),
    "analysis.sbom": ("Sbom", "SbomPackage"),
    "analysis.survey": ("survey",),
    "analysis.usage": ("LayerUsage", "Usage", "usage"),
    "content.blob": ("Blob",),
    "content.protocols": (
        "Catalog",
        "Deletable",
        "Fetcher",
        "Pushable",
        "ReferrerLister",
        "Referrers",
        "Resolver",
        "TagLister",
        "UploadSource",
    ),
    "content.reader": ("BlobReader",),
    "content.request": ("FetchRequest",),
    "content.source": ("ByteStream", "Source", "Stat"),
    "content.uploads": ("UploadReader",),
    "display.widgets": ("DiffExplorer", "ImageExplorer", "TagExplorer", "Watch"),
    "errors": (
        "DeadlineExceeded",
        "Denied",
        "DigestMismatch",
        "DistError",
        "DistWarning",
        "IntegrityError",
        "InvalidConfig",
        "InvalidDigest",
        "InvalidHint",
        "InvalidReference",
        "LimitExceeded",
        "MalformedDocument",
        "MediaTypeMismatch",
        "MissingExtra",
        "NotFound",
        "PlatformNotFound",
        "RateLimited",
        "RegistryError",
        "SizeMismatch",
        "Unreachable",
        "Unsafe",
        "UnsupportedDocument",
    ),
    "images.image": ("Image", "Layer", "image"),
    "layers.cache": ("Cache",),
    "layers.layer": ("LayerFiles", "MemberFile"),
    "layers.member": ("Kind", "Member"),
    "layers.merged": ("Entry",),
    "layers.unpack": ("Applied", "apply"),
    "remotes.connect": ("connect",),
    "remotes.remote": ("Remote",),
    "remotes.settings": ("Settings",),
    "remotes.tag_list": ("TagList",),
    "spec": ("media_types",),
    "spec.descriptor": ("Descriptor",),
    "spec.digest": ("Digest",),
    "spec.documents": ("HistoryEntry", "ImageConfig", "Index", "Manifest"),
    "spec.platform": ("Platform",),
    "spec.reference": ("Hint", "Locator", "Object", "Reference"),
    "store.reports": ("Active", "Collected", "Info", "Ingested", "Verified"),
    "store.store": ("Store",),
    "transfer.copy": ("copy",),
    "transfer.events": ("Advanced", "Finished", "Plan", "Planned", "Step"),
    "transfer.operations": ("delete", "referrers"),
    "transfer.pull": ("pull",),
    "transfer.push": ("attach", "push"),
    "transfer.verify": ("verify_signatures",),
    "transport.cassette.record": ("record",),
    "transport.cassette.replay": ("replay",),
    "transport.credentials": ("Credentials",),
    "transport.hosts": ("Hosts",),
    "transport.retry": ("Retry",),
    "transport.settings": ("Limits", "Timeouts"),
    "trust.attestations": ("Envelope", "Statement", "Subject"),
    "trust.keys": ("PublicKey",),
    "trust.signatures": ("Rejected", "Signature", "Verdict"),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - type checkers read the stub


def __getattr__(name: str) -> object:
    """Load a public name on first use (PEP 562)."""
    if name not in _HOME_OF:
        message = f"module 'distsdk' has no attribute {name!r}"
        raise AttributeError(message)
    value = getattr(__import__(f"distsdk.{_HOME_OF[name]}", fromlist=[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


class _MovedFinder:
    """Finds the import paths of 0.1 until 0.3; comes last, and is asked only for modules that no other finder has."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> object:
        """Return the spec of a module path of 0.1, `None` for any other path."""
        if not name.startswith("distsdk."):
            return None
        from distsdk._moved import find_spec

        return find_spec(name)


sys.meta_path.append(_MovedFinder)  # type: ignore[arg-type]
