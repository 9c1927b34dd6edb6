"""Read the body of a blob, and resume it at its position after the connection breaks."""

from __future__ import annotations

import re
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from distsdk._secrets import redact
from distsdk._text import human_size, human_time
from distsdk.errors import DeadlineExceeded, DistError, RegistryError, Unreachable
from distsdk.transport.retry import PROGRESS, RetryState

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distsdk.transport.response import Response
    from distsdk.transport.retry import Retry
    from distsdk.transport.settings import Timeouts

#: Bytes read at a time while skipping to the first requested byte.
_SKIP = 1024 * 1024


def parse_content_range(text: str) -> tuple[int, int, int | None] | None:
    """Parse a ``Content-Range`` header (RFC 9110 section 14.4).

    Args:
        text: The header's value.

    Returns:
        First byte, last byte, and the total size or None for ``*``; None if the header is invalid or names no
        satisfied range.
    """
    match = re.fullmatch(r"bytes[ \t]+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", text.strip(), re.IGNORECASE)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if last < first or (total is not None and last >= total):
        return None
    return first, last, total


class BodySender(Protocol):
    """Request a body from the registry's own URL; the target of its redirect may be signed and expire."""

    def __call__(self, headers: Mapping[str, str], retry_state: RetryState) -> Response:
        """Send a GET.

        Args:
            headers: Headers added to the usual ones.
            retry_state: The remaining attempts.
        """
        ...


class ResumingStream:
    """The bytes of a blob from ``offset`` to ``end``. After a broken connection, a closed range requests the rest.

    Attributes:
        size: Size of the whole blob in bytes; None until it is known.
        to_skip: Bytes that the next read skips because the registry ignored the range. A caller that has another way
            to the bytes should close the stream instead.
    """

    def __init__(
        self, send: BodySender, offset: int, end: int | None, *, size: int | None, retry: Retry, timeouts: Timeouts
    ) -> None:
        """Send the first request; its errors are raised here.

        Args:
            send: Sends a request.
            offset: Offset of the first byte.
            end: Offset after the last byte; None for the end of the blob.
            size: Size of the whole blob in bytes; None if unknown.
            retry: Which failures are retried, and how often without progress.
            timeouts: Least speed.
        """
        self._send = send
        self._position = offset
        self._end = end
        self.size = size
        self._retry_state = RetryState(retry)
        self._timeouts = timeouts
        self._waited = 0.0  # seconds spent waiting for data since the speed was last checked
        self._received = 0  # bytes in that time
        self._is_slow = False
        self._etag = ""
        self._response: Response | None = None
        self._closed = False
        self.to_skip = 0
        self._open()

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, at least one; ``b""`` at the end.

        Args:
            size: The most bytes to return.

        Raises:
            Unreachable, DeadlineExceeded: The connection broke or was too slow, and retries did not help.
            DistError: A repeated request failed.
        """
        while True:
            if self._end is not None:
                size = min(size, self._end - self._position)
            if size <= 0:
                return b""
            try:
                data = self._read(size)
            except (Unreachable, DeadlineExceeded) as error:
                response, is_slow = self._response, self._is_slow
                self._drop()
                if self._closed:
                    raise
                if response is not None and (is_slow or self._position - self._begun < PROGRESS):
                    response.broke()
                self._retry_state.wait(error, is_slow=is_slow)
                if self._closed:
                    raise
                self._open()
                continue
            if data:
                self._position += len(data)
                self._retry_state.progressed(len(data))
            return data

    def _read(self, size: int) -> bytes:
        response = self._response
        if response is None:
            message = "read of a closed stream"
            raise ValueError(message)
        while self.to_skip:
            skipped = self._receive(response, min(self.to_skip, _SKIP))
            if not skipped:
                raise self._ended(response)
            self.to_skip -= len(skipped)
        data = self._receive(response, size)
        # http.client and urllib3 detect a truncated response that declares its length. Without a length, the response
        # ends too early if its end is known and not reached. A complete response of the wrong size is not truncated:
        # verification rejects it.
        if not data and self._promised is not None and self._position < self._promised:
            raise self._ended(response)
        return data

    def _receive(self, response: Response, size: int) -> bytes:
        """Read from the connection.

        Raises:
            DeadlineExceeded: The average speed is below `Timeouts.min_speed`.
        """
        began = monotonic()
        data = response.read(size)
        self._waited += monotonic() - began  # without the caller's time between two reads
        self._received += len(data)
        if data and self._waited >= self._timeouts.min_speed_over:
            self._is_slow = self._received < self._timeouts.min_speed * self._waited
            if self._is_slow:
                raise self._too_slow(response)
            self._retry_state.kept_pace()
            self._waited, self._received = 0.0, 0
        return data

    def _too_slow(self, response: Response) -> DistError:
        message = (
            f"{redact(response.url)}: {human_size(self._received)} arrived in {human_time(self._waited)}, fewer than "
            f"{human_size(int(self._timeouts.min_speed))} a second: try again, or lower Timeouts(min_speed=…)"
        )
        return DeadlineExceeded(message, seconds=self._timeouts.min_speed_over, temporary=True)

    def _ended(self, response: Response) -> Unreachable:
        message = (
            f"{redact(response.url)}: the connection was closed in the middle of the body, after byte {self._position}"
        )
        return Unreachable(message, url=response.url, temporary=True)

    def close(self) -> None:
        """Close the response; its connection is closed too unless the body was read to its end."""
        self._closed = True
        self._drop()

    def shutdown(self) -> None:
        """End a read in another thread at once, with an error; that thread must still close the stream."""
        self._closed = True
        if (response := self._response) is not None:
            response.shutdown()

    def _drop(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def _open(self) -> None:
        """Request the remaining bytes."""
        offset, end = self._position, self._end if self._end is not None else self.size
        response = None
        if offset or self._end is not None:
            # Request a closed range if the end is known: some registries answer 416 to an open one. Few registries
            # send Accept-Ranges, so that its absence means nothing.
            headers = {"Range": f"bytes={offset}-{'' if end is None else end - 1}"}
            if self._etag:
                headers["If-Range"] = self._etag
            try:
                response = self._send(headers, self._retry_state)
            except RegistryError as error:
                if error.status != 416:
                    raise
            if response is not None and response.status == 206:
                promised = self._satisfied(response, offset, end)
                if promised is not None:
                    self._begin(response, to_skip=0, promised=promised)
                    return
                response.close()
                response = None
        if response is None:
            response = self._send({}, self._retry_state)
        # The response has the whole body: no range was requested, or it was ignored.
        total = response.content_length
        framed = total is not None or "chunked" in response.headers.get("Transfer-Encoding", "").lower()
        self._begin(response, to_skip=offset, promised=None if framed else self.size)
        if self.size is None:
            self.size = total

    def _begin(self, response: Response, *, to_skip: int, promised: int | None) -> None:
        self._response = response
        self._begun = self._position
        self._waited, self._received, self._is_slow = 0.0, 0, False
        self.to_skip = to_skip
        self._promised = promised if self._end is None or promised is None else min(promised, self._end)
        etag = response.headers.get("ETag", "")
        # RFC 9110 section 13.1.5: If-Range requires a strong validator.
        self._etag = etag if re.fullmatch(r'"[\x21\x23-\x7e]{1,256}"', etag) else ""

    def _satisfied(self, response: Response, offset: int, end: int | None) -> int | None:
        """Return the offset after the last byte of a 206; None if it does not hold the requested range."""
        content_range = parse_content_range(response.headers.get("Content-Range", ""))
        if content_range is None:
            return None
        first, last, total = content_range
        if first != offset or (self.size is not None and total is not None and total != self.size):
            return None
        return last + 1 if last + 1 in {end, total} else None
