"""For tests of code that reads registries: a registry in the process that can fail on request.

Nothing here is needed to use distsdk, and nothing in distsdk imports it.
"""

from distsdk.testing.exchange import HangUp, Headers, Pause, Request, Response, Step
from distsdk.testing.faults import (
    Cut,
    Fault,
    Header,
    IgnoreRange,
    Long,
    NoContentLength,
    Redirect,
    Short,
    Stall,
    Status,
    WrongBytes,
    WrongDigestHeader,
    WrongLength,
)
from distsdk.testing.registry import Registry

__all__ = [
    "Cut",
    "Fault",
    "HangUp",
    "Header",
    "Headers",
    "IgnoreRange",
    "Long",
    "NoContentLength",
    "Pause",
    "Redirect",
    "Registry",
    "Request",
    "Response",
    "Short",
    "Stall",
    "Status",
    "Step",
    "WrongBytes",
    "WrongDigestHeader",
    "WrongLength",
]
