"""An HTTP response: headers, bounded documents, and undecoded bodies."""

from __future__ import annotations

import contextlib
import re
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Protocol, Self

from attrs import frozen

from distsdk._secrets import masked
from distsdk.errors import DistError, LimitExceeded
from distsdk.spec.media_types import OCTET_STREAM, parse_media_type
from distsdk.transport.failures import ErrorTranslation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import requests

    from distsdk.transport.cassette.record import RecordedExchange
    from distsdk.transport.deadline import Deadline
    from distsdk.transport.settings import Timeouts

#: Bytes of a request body that are handed to the socket at once. The read time-out applies to each piece.
PIECE = 256 * 1024

#: Content types that servers use for unknown files; they say nothing about the media type of a document.
_NO_CLAIM = frozenset({OCTET_STREAM, "application/json", "text/plain"})


def content_type(response: Response) -> str | None:
    """Return the media type in the ``Content-Type`` of a response.

    Args:
        response: Any response.

    Returns:
        The media type; None if it is missing, malformed, or generic such as ``application/json``.
    """
    try:
        media_type = parse_media_type(masked(response.headers.get("Content-Type", "")))  # errors carry it
    except ValueError:
        return None
    return None if media_type in _NO_CLAIM else media_type


@frozen
class RateLimitStatus:
    """The rate limit that a registry last reported.

    Attributes:
        remaining: Requests left in the present period.
        limit: Requests allowed in a period; None if the registry does not report it.
    """

    remaining: int
    limit: int | None


class Body(Protocol):
    """The body of a request. Iteration starts again each time the request is sent.

    Attributes:
        size: Length of the body in bytes.
    """

    size: int

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes from the first to the last, in pieces of about `PIECE`."""
        ...


class Response:
    """A successful response: status, headers, and a body to read (a `ByteStream`).

    Attributes:
        url: URL of the response, after redirects.
        asked: URL of the request, before redirects.
        broke: Called by a reader when the body breaks off early, so that another endpoint is used next.
    """

    def __init__(
        self,
        response: requests.Response,
        url: str,
        timeouts: Timeouts,
        recorded: RecordedExchange | None = None,
        *,
        has_body: bool = True,
    ) -> None:
        """Wrap a response of requests; `Transport.request` does."""
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.url = url
        self.asked = url
        self.broke: Callable[[], None] = lambda: None
        self._response = response
        self._timeouts = timeouts
        self._recorded = recorded
        self._has_body = has_body

    @property
    def content_length(self) -> int | None:
        """The ``Content-Length`` in bytes; None if it is missing or not a number."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def read(self, size: int, /) -> bytes:
        """Return the next bytes of the body as sent; a Content-Encoding is not decoded.

        Args:
            size: The most bytes to return.

        Raises:
            Unreachable, DeadlineExceeded: The connection broke, or no data arrived in time.
        """
        data = b""
        with ErrorTranslation(self.url, self._timeouts) as translated:
            data = self._response.raw.read1(size, decode_content=False)
        translated.reraise()
        if self._recorded is not None:
            self._recorded.add(data)
        return data

    def read_document(self, limit: int, deadline: Deadline, *, what: str) -> bytes:
        """Return the whole body, and close the response.

        Args:
            limit: Largest allowed size in bytes.
            deadline: When the body must have arrived.
            what: Name of the body in the message of `LimitExceeded`.

        Raises:
            LimitExceeded: The body is longer than ``limit``.
            DeadlineExceeded: The body did not arrive in time.
            Unreachable: The connection broke.
        """
        declared = self.content_length
        parts: list[bytes] = []
        total = 0
        with self:
            while declared is None or declared <= limit:
                deadline.left()
                part = self.read(min(64 * 1024, limit + 1 - total))
                if not part:
                    return b"".join(parts)
                parts.append(part)
                total += len(part)
                if total > limit:
                    break
        message = f"{what} is longer than the limit of {limit} bytes"
        raise LimitExceeded(message, limit=limit)

    def discard(self, limit: int) -> None:
        """Close the response without using its body.

        Args:
            limit: A body of up to so many bytes is read to its end, so that the connection can be reused.
        """
        with contextlib.suppress(DistError), self:
            if self._has_body and (self.content_length or 0) <= limit:
                while limit > 0 and (part := self.read(limit)):
                    limit -= len(part)

    def shutdown(self) -> None:
        """End a read in another thread at once, with an error."""
        with contextlib.suppress(AttributeError, OSError, ValueError):  # urllib3 has it since 2.3
            self._response.raw.shutdown()

    def close(self) -> None:
        """Return the connection to its pool, or close it if the body was not read to its end."""
        if not self._has_body:  # urllib3 returns a connection to the pool only after a read has reached the end
            with contextlib.suppress(DistError):
                self.read(1)
        self._response.close()
        if self._recorded is not None:
            self._recorded.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def iter_pieces(data: bytes) -> Iterator[memoryview]:
    """Yield pieces of at most `PIECE` bytes, because the time-out of a socket applies to each piece.

    Args:
        data: The whole body.
    """
    view = memoryview(data)
    for start in range(0, len(view), PIECE):
        yield view[start : start + PIECE]


def parse_retry_after(text: str) -> float | None:
    """Return the seconds to wait that a ``Retry-After`` header requests (RFC 9110 section 10.2.3).

    Args:
        text: The header's value: seconds or an HTTP date.

    Returns:
        Seconds from now on, 0 for a date in the past; None for an invalid value.
    """
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:  # "-0000"
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def parse_rate_limit(headers: Mapping[str, str]) -> RateLimitStatus | None:
    """Parse the rate-limit headers of Docker Hub, such as ``RateLimit-Limit: 100;w=21600``.

    Args:
        headers: Headers of a response.

    Returns:
        The limit; None if ``RateLimit-Remaining`` is missing or invalid.
    """
    remaining, limit = (
        re.match(r"\s*([0-9]{1,9})\s*(?:[;,]|$)", headers.get(f"RateLimit-{name}", ""))
        for name in ("Remaining", "Limit")
    )
    return RateLimitStatus(int(remaining[1]), int(limit[1]) if limit else None) if remaining else None
