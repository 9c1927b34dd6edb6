"""The public names, for type checkers: written by .ci/stub.py, not by hand."""

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
from distsdk.analysis.usage import LayerUsage as LayerUsage
from distsdk.analysis.usage import Usage as Usage
from distsdk.analysis.usage import usage as usage
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
from distsdk.spec import media_types as media_types
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

__version__: str

#: Private: the table in `__init__.py`, which is the source of this file.
_HOMES: dict[str, tuple[str, ...]]
_HOME_OF: dict[str, str]

__all__ = [
    "Active",
    "Advanced",
    "Applied",
    "Blob",
    "BlobReader",
    "ByteStream",
    "Cache",
    "Catalog",
    "Collected",
    "Credentials",
    "DeadlineExceeded",
    "Deletable",
    "Denied",
    "Descriptor",
    "Diff",
    "DiffExplorer",
    "Digest",
    "DigestMismatch",
    "DistError",
    "DistWarning",
    "Entry",
    "Envelope",
    "FetchRequest",
    "Fetcher",
    "FileChange",
    "Finished",
    "Hint",
    "HistoryEntry",
    "Hosts",
    "Image",
    "ImageConfig",
    "ImageExplorer",
    "Index",
    "Info",
    "Ingested",
    "IntegrityError",
    "InvalidConfig",
    "InvalidDigest",
    "InvalidHint",
    "InvalidReference",
    "Kind",
    "Layer",
    "LayerFiles",
    "LayerUsage",
    "LimitExceeded",
    "Limits",
    "Locator",
    "MalformedDocument",
    "Manifest",
    "MediaTypeMismatch",
    "Member",
    "MemberFile",
    "MissingExtra",
    "NotFound",
    "Object",
    "Package",
    "PackageChange",
    "Partition",
    "Plan",
    "Planned",
    "Platform",
    "PlatformNotFound",
    "PublicKey",
    "Pushable",
    "RateLimited",
    "Reference",
    "ReferrerLister",
    "Referrers",
    "RegistryError",
    "Rejected",
    "Remote",
    "Resolver",
    "Retry",
    "Sbom",
    "SbomPackage",
    "SequenceDiff",
    "SettingChange",
    "Settings",
    "Signature",
    "SizeMismatch",
    "Source",
    "Stat",
    "Statement",
    "Step",
    "Store",
    "Subject",
    "TagExplorer",
    "TagList",
    "TagLister",
    "Timeouts",
    "Unreachable",
    "Unsafe",
    "UnsupportedDocument",
    "UploadReader",
    "UploadSource",
    "Usage",
    "Verdict",
    "Verified",
    "Watch",
    "apply",
    "attach",
    "connect",
    "copy",
    "delete",
    "image",
    "media_types",
    "pull",
    "push",
    "record",
    "referrers",
    "replay",
    "survey",
    "usage",
    "verify_signatures",
]
