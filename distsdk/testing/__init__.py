"""For tests of code that reads registries: a registry in the process that can fail on request.

Nothing here is needed to use distsdk, and nothing in distsdk imports it.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as type checkers know it

if TYPE_CHECKING:
    from distsdk.testing.authority import Authority as Authority
    from distsdk.testing.exchange import Connection as Connection
    from distsdk.testing.exchange import HangUp as HangUp
    from distsdk.testing.exchange import Headers as Headers
    from distsdk.testing.exchange import Incoming as Incoming
    from distsdk.testing.exchange import Pace as Pace
    from distsdk.testing.exchange import Pause as Pause
    from distsdk.testing.exchange import Request as Request
    from distsdk.testing.exchange import Response as Response
    from distsdk.testing.exchange import Step as Step
    from distsdk.testing.faults import Challenge as Challenge
    from distsdk.testing.faults import Cut as Cut
    from distsdk.testing.faults import CutUpload as CutUpload
    from distsdk.testing.faults import Drip as Drip
    from distsdk.testing.faults import EndlessPages as EndlessPages
    from distsdk.testing.faults import Fault as Fault
    from distsdk.testing.faults import Gzip as Gzip
    from distsdk.testing.faults import Header as Header
    from distsdk.testing.faults import IgnoreRange as IgnoreRange
    from distsdk.testing.faults import JsonFields as JsonFields
    from distsdk.testing.faults import Link as Link
    from distsdk.testing.faults import Long as Long
    from distsdk.testing.faults import NoContentLength as NoContentLength
    from distsdk.testing.faults import NoLink as NoLink
    from distsdk.testing.faults import NoMount as NoMount
    from distsdk.testing.faults import PaddedDigestHeader as PaddedDigestHeader
    from distsdk.testing.faults import RateLimit as RateLimit
    from distsdk.testing.faults import Raw as Raw
    from distsdk.testing.faults import Redirect as Redirect
    from distsdk.testing.faults import RefuseAuthorization as RefuseAuthorization
    from distsdk.testing.faults import RefuseRange as RefuseRange
    from distsdk.testing.faults import Short as Short
    from distsdk.testing.faults import Stall as Stall
    from distsdk.testing.faults import Status as Status
    from distsdk.testing.faults import Throttle as Throttle
    from distsdk.testing.faults import UploadLocation as UploadLocation
    from distsdk.testing.faults import UrlExpires as UrlExpires
    from distsdk.testing.faults import WrongBytes as WrongBytes
    from distsdk.testing.faults import WrongDigestHeader as WrongDigestHeader
    from distsdk.testing.faults import WrongLength as WrongLength
    from distsdk.testing.faults import WrongRange as WrongRange
    from distsdk.testing.faults import WrongStatus as WrongStatus
    from distsdk.testing.faults import WrongUploadRange as WrongUploadRange
    from distsdk.testing.registry import Registry as Registry

# Loaded on first use: pytest imports this package wherever distsdk is installed, for `fixtures` alone.
_HOMES = {
    "distsdk.testing.authority": ("Authority",),
    "distsdk.testing.exchange": (
        "Connection",
        "HangUp",
        "Headers",
        "Incoming",
        "Pace",
        "Pause",
        "Request",
        "Response",
        "Step",
    ),
    "distsdk.testing.faults": (
        "Challenge",
        "Cut",
        "CutUpload",
        "Drip",
        "EndlessPages",
        "Fault",
        "Gzip",
        "Header",
        "IgnoreRange",
        "JsonFields",
        "Link",
        "Long",
        "NoContentLength",
        "NoLink",
        "NoMount",
        "PaddedDigestHeader",
        "RateLimit",
        "Raw",
        "Redirect",
        "RefuseAuthorization",
        "RefuseRange",
        "Short",
        "Stall",
        "Status",
        "Throttle",
        "UploadLocation",
        "UrlExpires",
        "WrongBytes",
        "WrongDigestHeader",
        "WrongLength",
        "WrongRange",
        "WrongStatus",
        "WrongUploadRange",
    ),
    "distsdk.testing.registry": ("Registry",),
}
_HOME_OF = {name: module for module, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - a test holds it against the imports above


if not TYPE_CHECKING:  # a type checker would take any name to be there

    def __getattr__(name: str) -> object:
        """Load a name on first use (PEP 562)."""
        if name not in _HOME_OF:
            message = f"module 'distsdk.testing' has no attribute {name!r}"
            raise AttributeError(message)
        from importlib import import_module

        value = getattr(import_module(_HOME_OF[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return __all__
