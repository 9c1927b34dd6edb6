"""Time-outs and limits."""

from __future__ import annotations

from attrs import frozen

from distsdk._moved import restore_fields
from distsdk._repr import Displayed


@frozen
class Timeouts(Displayed):
    """How long to wait, in seconds.

    Attributes:
        connect: For a connection: the host's name, all its addresses and TLS together.
        read: Without a byte.
        document: For a whole document: manifest, token, page of tags. Blobs have no such limit.
        min_speed: Bytes a second that a blob has to arrive with at least; 0 for no limit. A slower connection is given
            up like one without a byte.
        min_speed_over: Seconds of waiting for bytes over which that is an average.
    """

    connect: float = 10.0
    read: float = 30.0
    document: float = 60.0
    min_speed: float = 1024.0
    min_speed_over: float = 60.0

    def __setstate__(self, state: object) -> None:
        restore_fields(self, state)


@frozen
class Limits(Displayed):
    """How much to take from a registry.

    Attributes:
        document: Bytes of a manifest, an index or a page of tags.
        token: Bytes of a token service's reply.
        error: Bytes of an error's body that are read.
        headers: Bytes of an answer's status line and headers.
        pages: Pages of one listing.
    """

    document: int = 4 * 1024 * 1024
    token: int = 64 * 1024
    error: int = 16 * 1024
    headers: int = 64 * 1024
    pages: int = 10_000
