"""Container registries as something you read: name a thing, get a lazy, verified object."""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; to import typing would double the time this module takes

if TYPE_CHECKING:
    from distsdk.analysis.attestations import Envelope as Envelope
    from distsdk.analysis.attestations import Statement as Statement
    from distsdk.analysis.diff import Diff as Diff
    from distsdk.analysis.packages import Package as Package
    from distsdk.analysis.sbom import Sbom as Sbom
    from distsdk.analysis.signatures import Verdict as Verdict
    from distsdk.analysis.signatures import verify_signatures as verify_signatures
    from distsdk.analysis.survey import survey as survey
    from distsdk.blob import Blob as Blob
    from distsdk.blob import BlobReader as BlobReader
    from distsdk.errors import DeadlineExceeded as DeadlineExceeded
    from distsdk.errors import Denied as Denied
    from distsdk.errors import DigestMismatch as DigestMismatch
    from distsdk.errors import DistError as DistError
    from distsdk.errors import DistWarning as DistWarning
    from distsdk.errors import IntegrityError as IntegrityError
    from distsdk.errors import InvalidConfig as InvalidConfig
    from distsdk.errors import InvalidDigest as InvalidDigest
    from distsdk.errors import InvalidHint as InvalidHint
    from distsdk.errors import InvalidReference as InvalidReference
    from distsdk.errors import LimitExceeded as LimitExceeded
    from distsdk.errors import MalformedDocument as MalformedDocument
    from distsdk.errors import MediaTypeMismatch as MediaTypeMismatch
    from distsdk.errors import MissingExtra as MissingExtra
    from distsdk.errors import NotFound as NotFound
    from distsdk.errors import PlatformNotFound as PlatformNotFound
    from distsdk.errors import RateLimited as RateLimited
    from distsdk.errors import RegistryError as RegistryError
    from distsdk.errors import SizeMismatch as SizeMismatch
    from distsdk.errors import Unreachable as Unreachable
    from distsdk.errors import Unsafe as Unsafe
    from distsdk.errors import UnsupportedDocument as UnsupportedDocument
    from distsdk.images import Image as Image
    from distsdk.images import Layer as Layer
    from distsdk.images import image as image
    from distsdk.layers.cache import Cache as Cache
    from distsdk.layers.unpack import Applied as Applied
    from distsdk.layers.unpack import apply as apply
    from distsdk.model.descriptor import Descriptor as Descriptor
    from distsdk.model.digest import Digest as Digest
    from distsdk.model.image import ImageConfig as ImageConfig
    from distsdk.model.image import Index as Index
    from distsdk.model.image import Manifest as Manifest
    from distsdk.model.platform import Platform as Platform
    from distsdk.model.reference import Hint as Hint
    from distsdk.model.reference import Locator as Locator
    from distsdk.model.reference import Object as Object
    from distsdk.model.reference import Reference as Reference
    from distsdk.remotes.base import Remote as Remote
    from distsdk.remotes.base import connect as connect
    from distsdk.remotes.registry import TagList as TagList
    from distsdk.store.local import Store as Store
    from distsdk.transfer import Plan as Plan
    from distsdk.transfer import pull as pull
    from distsdk.transfer.copying import copy as copy
    from distsdk.transfer.powers import delete as delete
    from distsdk.transfer.powers import referrers as referrers
    from distsdk.transfer.pushing import attach as attach
    from distsdk.transfer.pushing import push as push
    from distsdk.transport.credentials import Credentials as Credentials
    from distsdk.transport.hosts import Hosts as Hosts
    from distsdk.transport.http import Limits as Limits
    from distsdk.transport.http import Timeouts as Timeouts
    from distsdk.transport.record import record as record
    from distsdk.transport.replay import replay as replay
    from distsdk.transport.retry import Retry as Retry

__version__ = "0.1.0"

_HOMES = {
    "distsdk.analysis.attestations": ("Envelope", "Statement"),
    "distsdk.analysis.diff": ("Diff",),
    "distsdk.analysis.packages": ("Package",),
    "distsdk.analysis.sbom": ("Sbom",),
    "distsdk.analysis.signatures": ("Verdict", "verify_signatures"),
    "distsdk.analysis.survey": ("survey",),
    "distsdk.blob": ("Blob", "BlobReader"),
    "distsdk.errors": (
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
    "distsdk.images": ("Image", "Layer", "image"),
    "distsdk.layers.cache": ("Cache",),
    "distsdk.layers.unpack": ("Applied", "apply"),
    "distsdk.model.descriptor": ("Descriptor",),
    "distsdk.model.digest": ("Digest",),
    "distsdk.model.image": ("ImageConfig", "Index", "Manifest"),
    "distsdk.model.platform": ("Platform",),
    "distsdk.model.reference": ("Hint", "Locator", "Object", "Reference"),
    "distsdk.remotes.base": ("Remote", "connect"),
    "distsdk.remotes.registry": ("TagList",),
    "distsdk.store.local": ("Store",),
    "distsdk.transfer": ("Plan", "pull"),
    "distsdk.transfer.copying": ("copy",),
    "distsdk.transfer.powers": ("delete", "referrers"),
    "distsdk.transfer.pushing": ("attach", "push"),
    "distsdk.transport.credentials": ("Credentials",),
    "distsdk.transport.hosts": ("Hosts",),
    "distsdk.transport.http": ("Limits", "Timeouts"),
    "distsdk.transport.record": ("record",),
    "distsdk.transport.replay": ("replay",),
    "distsdk.transport.retry": ("Retry",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - a test holds it against the imports above


if not TYPE_CHECKING:  # a type checker would take any name to be there

    def __getattr__(name: str) -> object:
        """Load a public name on first use (PEP 562)."""
        if name not in _HOME_OF:
            message = f"module 'distsdk' has no attribute {name!r}"
            raise AttributeError(message)
        from importlib import import_module

        value = getattr(import_module(_HOME_OF[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
