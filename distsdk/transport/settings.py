"""Time-outs and size limits of requests."""

from __future__ import annotations

from attrs import frozen

from distsdk._moved import restore_fields, saved_fields
from distsdk._repr import Displayed


@frozen
class Timeouts(Displayed):
    """How long to wait, in seconds.

    Attributes:
        connect: Time to connect: name resolution, all addresses of the host and TLS together.
        read: Longest time in which no data arrives.
        document: Time for a whole document: manifest, token, page of tags. Blobs have no such limit.
        min_speed: Least average speed of a blob in bytes per second; 0 for no limit. A slower transfer counts as one
            in which no data arrives.
        min_speed_over: Seconds spent waiting for data over which `min_speed` is averaged.
    """

    connect: float = 10.0
    read: float = 30.0
    document: float = 60.0
    min_speed: float = 1024.0
    min_speed_over: float = 60.0

    def __getstate__(self) -> dict[str, object]:
        return saved_fields(self)

    def __setstate__(self, state: object) -> None:
        restore_fields(self, state)


@frozen
class Limits(Displayed):
    """Largest sizes of responses, in bytes unless stated otherwise.

    Attributes:
        document: A manifest, an index or a page of tags.
        token: The response of a token service.
        error: The body of an error response.
        headers: Status line and headers together.
        pages: Number of pages of one listing.
    """

    document: int = 4 * 1024 * 1024
    token: int = 64 * 1024
    error: int = 16 * 1024
    headers: int = 64 * 1024
    pages: int = 10_000
