"""An HTTP response: headers, bounded documents, and undecoded bodies."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

from attrs import frozen

from distsdk._secrets import masked
from distsdk.errors import (
    DistError,
    LimitExceeded,
)
from distsdk.spec.media_types import (
    OCTET_STREAM,
    parse_media_type,
)
from distsdk.transport.failures import ErrorTranslation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    import requests

    from distsdk.transport.deadline import Deadline
    from distsdk.transport.settings import Timeouts


import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from distsdk.transport.cassette.record import RecordedExchange


#: Content types of files that a server knows nothing about; they claim nothing about a document.
_NO_CLAIM = frozenset({OCTET_STREAM, "application/json", "text/plain"})


def content_type(answer: Response) -> str | None:
    """Return the media type that a response claims; None where it claims none that is well-formed."""
    try:
        media_type = parse_media_type(masked(answer.headers.get("Content-Type", "")))  # errors carry it
    except ValueError:
        return None
    return None if media_type in _NO_CLAIM else media_type


#: Bytes of a request's body that are handed to the socket at once, each time within the read time-out.
PIECE = 256 * 1024


@frozen
class RateLimitStatus:
    """How many requests a registry grants, as it last said.

    Attributes:
        remaining: Requests that are left.
        limit: Requests in all, in a span of time; None where it does not say.
    """

    remaining: int
    limit: int | None


class Body(Protocol):
    """What a request brings along. It is iterated over anew each time that the request has to be sent.

    Attributes:
        size: Bytes there are in all.
    """

    size: int

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes from the first to the last, in pieces of about `PIECE`."""
        ...


class Response:
    """A successful answer: status, headers, and a body to read (a `ByteStream`).

    Attributes:
        url: Where the answer came from, after redirects.
        asked: The URL that was asked, before any redirect.
        broke: To be called where the body breaks before it has got far: another endpoint may do better.
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
        """Made by `Transport.request`."""
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
        """The ``Content-Length`` in bytes; None where there is none or it is no number."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes as they came over the wire, without undoing any Content-Encoding."""
        data = b""
        with ErrorTranslation(self.url, self._timeouts) as translated:
            data = self._response.raw.read1(size, decode_content=False)
        translated.tell()
        if self._recorded is not None:
            self._recorded.add(data)
        return data

    def read_document(self, limit: int, deadline: Deadline, *, what: str) -> bytes:
        """Return the whole body, which must be no longer than ``limit`` bytes.

        Raises:
            LimitExceeded: It is longer.
            DeadlineExceeded: It does not come in time.
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
        """Be done with the answer; a body of up to ``limit`` bytes is read so that its connection can be used again."""
        with contextlib.suppress(DistError), self:
            if self._has_body and (self.content_length or 0) <= limit:
                while limit > 0 and (part := self.read(limit)):
                    limit -= len(part)

    def shutdown(self) -> None:
        """Let a read in another thread end at once, with an error."""
        with contextlib.suppress(AttributeError, OSError, ValueError):  # urllib3 has it since 2.3
            self._response.raw.shutdown()

    def close(self) -> None:
        """Return the connection to its pool, or end it in the middle of a body."""
        if not self._has_body:  # urllib3 returns a connection at the end of a body, which a read has to find
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
    """Yield bytes in pieces: the time-out of a socket is for all that it is handed at once."""
    view = memoryview(data)
    for start in range(0, len(view), PIECE):
        yield view[start : start + PIECE]


def parse_retry_after(text: str) -> float | None:
    """Return the seconds a ``Retry-After`` header asks to wait (RFC 9110 section 10.2.3), None if it says nothing."""
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
    """Read what registries say of their limits, ``RateLimit-Limit: 100;w=21600`` (Docker Hub)."""
    remaining, limit = (
        re.match(r"\s*([0-9]{1,9})\s*(?:[;,]|$)", headers.get(f"RateLimit-{name}", ""))
        for name in ("Remaining", "Limit")
    )
    return RateLimitStatus(int(remaining[1]), int(limit[1]) if limit else None) if remaining else None
