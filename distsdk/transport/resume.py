"""A body that goes on where it broke."""

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

#: Bytes read at a time of what comes before the bytes that are wanted.
_SKIP = 1024 * 1024


def parse_content_range(text: str) -> tuple[int, int, int | None] | None:
    """Read a ``Content-Range`` header (RFC 9110 section 14.4).

    Returns:
        First byte, last byte, and bytes in all or None where that is ``*``; None if it names no satisfied range.
    """
    match = re.fullmatch(r"bytes[ \t]+([0-9]{1,19})-([0-9]{1,19})/([0-9]{1,19}|\*)", text.strip(), re.IGNORECASE)
    if match is None:
        return None
    first, last = int(match[1]), int(match[2])
    total = None if match[3] == "*" else int(match[3])
    if last < first or (total is not None and last >= total):
        return None
    return first, last, total


class Ask(Protocol):
    """Asks for the body from the registry's own URL: what it redirects to may be signed, and expire."""

    def __call__(self, headers: Mapping[str, str], retry_state: RetryState) -> Response:
        """Send a GET with these headers besides the usual ones."""
        ...


class ResumingStream:
    """The bytes of a blob from ``offset`` to ``end``; where the connection breaks, it goes on by a closed range.

    Attributes:
        size: Bytes of the whole blob, where they are known or were told by now; None otherwise.
        to_skip: Bytes before the wanted ones that the next read has to pass over, because the registry ignored the
            range. Who could do without should close the stream instead.
    """

    def __init__(
        self, ask: Ask, offset: int, end: int | None, *, size: int | None, retry: Retry, timeouts: Timeouts
    ) -> None:
        """Ask at once; what the registry answers instead is raised here.

        Args:
            ask: Sends the requests.
            offset: The first byte wanted.
            end: The byte after the last one; None for all there is.
            size: Bytes of the whole blob, where they are known.
            retry: How often to go on without progress.
            timeouts: The least speed.
        """
        self._ask = ask
        self._position = offset
        self._end = end
        self.size = size
        self._patience = RetryState(retry)
        self._timeouts = timeouts
        self._waited = 0.0  # seconds for the bytes of the present response, since the speed was last looked at
        self._received = 0  # bytes in that time
        self._is_slow = False
        self._etag = ""
        self._answer: Response | None = None
        self._closed = False
        self.to_skip = 0
        self._open()

    def read(self, size: int, /) -> bytes:
        """Return at least one byte and at most ``size``; ``b""`` at the end.

        Raises:
            Unreachable, DeadlineExceeded: It broke or was too slow, and trying again did not help.
            DistError: As the request, when it was sent again.
        """
        while True:
            if self._end is not None:
                size = min(size, self._end - self._position)
            if size <= 0:
                return b""
            try:
                data = self._read(size)
            except (Unreachable, DeadlineExceeded) as error:
                answer, is_slow = self._answer, self._is_slow
                self._drop()
                if self._closed:
                    raise
                if answer is not None and (is_slow or self._position - self._begun < PROGRESS):
                    answer.broke()
                self._patience.wait(error, is_slow=is_slow)
                if self._closed:
                    raise
                self._open()
                continue
            if data:
                self._position += len(data)
                self._patience.progressed(len(data))
            return data

    def _read(self, size: int) -> bytes:
        answer = self._answer
        if answer is None:
            message = "read of a closed stream"
            raise ValueError(message)
        while self.to_skip:
            skipped = self._receive(answer, min(self.to_skip, _SKIP))
            if not skipped:
                raise self._ended(answer)
            self.to_skip -= len(skipped)
        data = self._receive(answer, size)
        # Where the answer has a length of its own, http.client and urllib3 find a cut; where it has none, only the
        # known end tells. A complete answer of another length than declared is no cut: whoever verifies will say so.
        if not data and self._promised is not None and self._position < self._promised:
            raise self._ended(answer)
        return data

    def _receive(self, answer: Response, size: int) -> bytes:
        """Read from the connection.

        Raises:
            DeadlineExceeded: The average speed is below the least one.
        """
        began = monotonic()
        data = answer.read(size)
        self._waited += monotonic() - began  # only here: a caller may take its time between two reads
        self._received += len(data)
        if data and self._waited >= self._timeouts.min_speed_over:
            self._is_slow = self._received < self._timeouts.min_speed * self._waited
            if self._is_slow:
                raise self._too_slow(answer)
            self._patience.kept_pace()
            self._waited, self._received = 0.0, 0
        return data

    def _too_slow(self, answer: Response) -> DistError:
        message = (
            f"{redact(answer.url)}: {human_size(self._received)} arrived in {human_time(self._waited)}, fewer than "
            f"{human_size(int(self._timeouts.min_speed))} a second: try again, or allow less with Timeouts(min_speed=…)"
        )
        return DeadlineExceeded(message, seconds=self._timeouts.min_speed_over, temporary=True)

    def _ended(self, answer: Response) -> Unreachable:
        message = f"{redact(answer.url)}: the connection ended in the middle of the body, after byte {self._position}"
        return Unreachable(message, url=answer.url, temporary=True)

    def close(self) -> None:
        """Let go of the connection; also in the middle."""
        self._closed = True
        self._drop()

    def shutdown(self) -> None:
        """Let a read in another thread end at once, with an error; that thread still has to close the stream."""
        self._closed = True
        if (answer := self._answer) is not None:
            answer.shutdown()

    def _drop(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _open(self) -> None:
        """Ask for what is still to come, from the position on."""
        offset, end = self._position, self._end if self._end is not None else self.size
        answer = None
        if offset or self._end is not None:
            # Closed ranges where the end is known: some registries answer 416 to an open one. Accept-Ranges is no
            # guide: few send it.
            headers = {"Range": f"bytes={offset}-{'' if end is None else end - 1}"}
            if self._etag:
                headers["If-Range"] = self._etag
            try:
                answer = self._ask(headers, self._patience)
            except RegistryError as error:
                if error.status != 416:
                    raise
            if answer is not None and answer.status == 206:
                promised = self._satisfied(answer, offset, end)
                if promised is not None:
                    self._begin(answer, to_skip=0, promised=promised)
                    return
                answer.close()
                answer = None
        if answer is None:
            answer = self._ask({}, self._patience)
        # The whole body: nothing was asked for less, or the range was ignored, and it starts over.
        total = answer.content_length
        framed = total is not None or "chunked" in answer.headers.get("Transfer-Encoding", "").lower()
        self._begin(answer, to_skip=offset, promised=None if framed else self.size)
        if self.size is None:
            self.size = total

    def _begin(self, answer: Response, *, to_skip: int, promised: int | None) -> None:
        self._answer = answer
        self._begun = self._position
        self._waited, self._received, self._is_slow = 0.0, 0, False
        self.to_skip = to_skip
        self._promised = promised if self._end is None or promised is None else min(promised, self._end)
        etag = answer.headers.get("ETag", "")
        # RFC 9110 section 13.1.5: If-Range takes strong validators only.
        self._etag = etag if re.fullmatch(r'"[\x21\x23-\x7e]{1,256}"', etag) else ""

    def _satisfied(self, answer: Response, offset: int, end: int | None) -> int | None:
        """Return the byte after the last one of a 206; None if it holds anything but what was asked for."""
        told = parse_content_range(answer.headers.get("Content-Range", ""))
        if told is None:
            return None
        first, last, total = told
        if first != offset or (self.size is not None and total is not None and total != self.size):
            return None
        return last + 1 if last + 1 in {end, total} else None
