"""Container registries as something you read: name a thing, get a lazy, verified object."""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it; to import typing would double the time this module takes

if TYPE_CHECKING:
    from distsdk.analysis.diff import Diff as Diff
    from distsdk.analysis.diff import FileChange as FileChange
    from distsdk.analysis.diff import PackageChange as PackageChange
    from distsdk.analysis.diff import SequenceDiff as SequenceDiff
    from distsdk.analysis.diff import SettingChange as SettingChange
    from distsdk.analysis.packages import Package as Package
    from distsdk.analysis.partitions import Partition as Partition
    from distsdk.analysis.sbom import Sbom as Sbom
    from distsdk.analysis.sbom import SbomPackage as SbomPackage
    from distsdk.analysis.survey import survey as survey
    from distsdk.content.blob import Blob as Blob
    from distsdk.content.protocols import Catalog as Catalog
    from distsdk.content.protocols import Deletable as Deletable
    from distsdk.content.protocols import Fetcher as Fetcher
    from distsdk.content.protocols import Pushable as Pushable
    from distsdk.content.protocols import ReferrerLister as ReferrerLister
    from distsdk.content.protocols import Referrers as Referrers
    from distsdk.content.protocols import Resolver as Resolver
    from distsdk.content.protocols import TagLister as TagLister
    from distsdk.content.protocols import UploadSource as UploadSource
    from distsdk.content.reader import BlobReader as BlobReader
    from distsdk.content.request import FetchRequest as FetchRequest
    from distsdk.content.source import ByteStream as ByteStream
    from distsdk.content.source import Source as Source
    from distsdk.content.source import Stat as Stat
    from distsdk.content.uploads import UploadReader as UploadReader
    from distsdk.display.widgets import DiffExplorer as DiffExplorer
    from distsdk.display.widgets import ImageExplorer as ImageExplorer
    from distsdk.display.widgets import TagExplorer as TagExplorer
    from distsdk.display.widgets import Watch as Watch
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
    from distsdk.images.image import Image as Image
    from distsdk.images.image import Layer as Layer
    from distsdk.images.image import image as image
    from distsdk.layers.cache import Cache as Cache
    from distsdk.layers.layer import LayerFiles as LayerFiles
    from distsdk.layers.layer import MemberFile as MemberFile
    from distsdk.layers.member import Kind as Kind
    from distsdk.layers.member import Member as Member
    from distsdk.layers.merged import Entry as Entry
    from distsdk.layers.unpack import Applied as Applied
    from distsdk.layers.unpack import apply as apply
    from distsdk.remotes.connect import connect as connect
    from distsdk.remotes.remote import Remote as Remote
    from distsdk.remotes.settings import Settings as Settings
    from distsdk.remotes.tag_list import TagList as TagList
    from distsdk.spec.descriptor import Descriptor as Descriptor
    from distsdk.spec.digest import Digest as Digest
    from distsdk.spec.documents import HistoryEntry as HistoryEntry
    from distsdk.spec.documents import ImageConfig as ImageConfig
    from distsdk.spec.documents import Index as Index
    from distsdk.spec.documents import Manifest as Manifest
    from distsdk.spec.platform import Platform as Platform
    from distsdk.spec.reference import Hint as Hint
    from distsdk.spec.reference import Locator as Locator
    from distsdk.spec.reference import Object as Object
    from distsdk.spec.reference import Reference as Reference
    from distsdk.store.reports import Active as Active
    from distsdk.store.reports import Collected as Collected
    from distsdk.store.reports import Info as Info
    from distsdk.store.reports import Ingested as Ingested
    from distsdk.store.reports import Verified as Verified
    from distsdk.store.store import Store as Store
    from distsdk.transfer.copy import copy as copy
    from distsdk.transfer.events import Advanced as Advanced
    from distsdk.transfer.events import Finished as Finished
    from distsdk.transfer.events import Plan as Plan
    from distsdk.transfer.events import Planned as Planned
    from distsdk.transfer.events import Step as Step
    from distsdk.transfer.operations import delete as delete
    from distsdk.transfer.operations import referrers as referrers
    from distsdk.transfer.pull import pull as pull
    from distsdk.transfer.push import attach as attach
    from distsdk.transfer.push import push as push
    from distsdk.transfer.verify import verify_signatures as verify_signatures
    from distsdk.transport.cassette.record import record as record
    from distsdk.transport.cassette.replay import replay as replay
    from distsdk.transport.credentials import Credentials as Credentials
    from distsdk.transport.hosts import Hosts as Hosts
    from distsdk.transport.retry import Retry as Retry
    from distsdk.transport.settings import Limits as Limits
    from distsdk.transport.settings import Timeouts as Timeouts
    from distsdk.trust.attestations import Envelope as Envelope
    from distsdk.trust.attestations import Statement as Statement
    from distsdk.trust.attestations import Subject as Subject
    from distsdk.trust.keys import PublicKey as PublicKey
    from distsdk.trust.signatures import Rejected as Rejected
    from distsdk.trust.signatures import Signature as Signature
    from distsdk.trust.signatures import Verdict as Verdict

__version__ = "0.1.0"

_HOMES = {
    "distsdk.analysis.diff": (
        "Diff",
        "FileChange",
        "PackageChange",
        "SequenceDiff",
        "SettingChange",
    ),
    "distsdk.analysis.packages": ("Package",),
    "distsdk.analysis.partitions": ("Partition",),
    "distsdk.analysis.sbom": (
        "Sbom",
        "SbomPackage",
    ),
    "distsdk.analysis.survey": ("survey",),
    "distsdk.content.blob": ("Blob",),
    "distsdk.content.protocols": (
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
    "distsdk.content.reader": ("BlobReader",),
    "distsdk.content.request": ("FetchRequest",),
    "distsdk.content.source": (
        "ByteStream",
        "Source",
        "Stat",
    ),
    "distsdk.content.uploads": ("UploadReader",),
    "distsdk.display.widgets": (
        "DiffExplorer",
        "ImageExplorer",
        "TagExplorer",
        "Watch",
    ),
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
    "distsdk.images.image": (
        "Image",
        "Layer",
        "image",
    ),
    "distsdk.layers.cache": ("Cache",),
    "distsdk.layers.layer": (
        "LayerFiles",
        "MemberFile",
    ),
    "distsdk.layers.member": (
        "Kind",
        "Member",
    ),
    "distsdk.layers.merged": ("Entry",),
    "distsdk.layers.unpack": (
        "Applied",
        "apply",
    ),
    "distsdk.remotes.connect": ("connect",),
    "distsdk.remotes.remote": ("Remote",),
    "distsdk.remotes.settings": ("Settings",),
    "distsdk.remotes.tag_list": ("TagList",),
    "distsdk.spec.descriptor": ("Descriptor",),
    "distsdk.spec.digest": ("Digest",),
    "distsdk.spec.documents": (
        "HistoryEntry",
        "ImageConfig",
        "Index",
        "Manifest",
    ),
    "distsdk.spec.platform": ("Platform",),
    "distsdk.spec.reference": (
        "Hint",
        "Locator",
        "Object",
        "Reference",
    ),
    "distsdk.store.reports": (
        "Active",
        "Collected",
        "Info",
        "Ingested",
        "Verified",
    ),
    "distsdk.store.store": ("Store",),
    "distsdk.transfer.copy": ("copy",),
    "distsdk.transfer.events": (
        "Advanced",
        "Finished",
        "Plan",
        "Planned",
        "Step",
    ),
    "distsdk.transfer.operations": (
        "delete",
        "referrers",
    ),
    "distsdk.transfer.pull": ("pull",),
    "distsdk.transfer.push": (
        "attach",
        "push",
    ),
    "distsdk.transfer.verify": ("verify_signatures",),
    "distsdk.transport.cassette.record": ("record",),
    "distsdk.transport.cassette.replay": ("replay",),
    "distsdk.transport.credentials": ("Credentials",),
    "distsdk.transport.hosts": ("Hosts",),
    "distsdk.transport.retry": ("Retry",),
    "distsdk.transport.settings": (
        "Limits",
        "Timeouts",
    ),
    "distsdk.trust.attestations": (
        "Envelope",
        "Statement",
        "Subject",
    ),
    "distsdk.trust.keys": ("PublicKey",),
    "distsdk.trust.signatures": (
        "Rejected",
        "Signature",
        "Verdict",
    ),
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
