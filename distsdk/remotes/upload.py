"""Uploads: the bytes of a blob on their way to a registry, going on where they broke.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pushing-blobs
"""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote, urlsplit

from distsdk._secrets import redact
from distsdk.errors import (
    DeadlineExceeded,
    Denied,
    DigestMismatch,
    DistError,
    IntegrityError,
    InvalidDigest,
    LimitExceeded,
    NotFound,
    RateLimited,
    RegistryError,
    Unreachable,
)
from distsdk.spec.digest import Digest
from distsdk.transport.deadline import Deadline
from distsdk.transport.origin import Origin
from distsdk.transport.response import PIECE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from distsdk.content.uploads import UploadReader
    from distsdk.spec.descriptor import Descriptor
    from distsdk.transport.client import Transport
    from distsdk.transport.response import Body, Response
    from distsdk.transport.retry import RetryState

#: Bytes of a chunk of what cannot be read twice, which is kept until the registry has it; and the most there may be of
#: one, where the registry wants larger ones (``OCI-Chunk-Min-Length``).
CHUNK, MAX_CHUNK = 8 * 1024 * 1024, 16 * 1024 * 1024

#: Seconds for telling the registry that an upload is given up: a courtesy.
_FAREWELL = 5.0

#: The content type of every body that is part of a blob.
_BYTES = {"Content-Type": "application/octet-stream"}

_RANGE = re.compile(r"(?:bytes=)?0-([0-9]{1,19})")


class SourceFailedError(Exception):
    """What went wrong on this side while a request was sent: no fault of the connection, whatever its class is.

    Args:
        error: What was raised.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class _SentChunk:
    """The bytes of a source from an offset to its end, as a request's `Body`."""

    def __init__(self, upload: UploadSession, start: int, size: int) -> None:
        self._upload = upload
        self._start = start
        self.size = size

    def __iter__(self) -> Iterator[bytes | memoryview]:
        upload, reader = self._upload, self._upload.reader
        try:
            reader.seek(self._start)
            left = self.size
            while left:
                piece = reader.read(min(PIECE, left))
                left -= len(piece)
                if not left or not piece:
                    reader.check_end()  # before the last bytes go: nobody then has all of what is wrong
                upload.sent = max(upload.sent, self._start + self.size - left)
                yield piece
                upload.at(self._start + self.size - left)
        except Exception as error:
            raise SourceFailedError(error) from error


class UploadSession:
    """One blob on its way to one endpoint.

    Attributes:
        reader: Its bytes.
        sent: How many of them, from the start, were handed to the connection for the registry's present upload.
        at: Told how many those are.
    """

    def __init__(
        self,
        transport: Transport,
        path: str,
        scope: str,
        reader: UploadReader,
        *,
        expected: Descriptor | None,
        head: bytes = b"",
        there: Callable[[Digest], bool],
        on_progress: Callable[[int], object],
        retry_state: RetryState,
    ) -> None:
        """Make one; nothing is sent.

        Args:
            transport: Where to.
            path: Where uploads begin, below the endpoint's base.
            scope: What a token has to allow.
            reader: Its bytes.
            expected: What they have to be, where that is known; the reader holds them against it.
            head: What was read already of a source that cannot be read again.
            there: Asks whether the registry has a blob.
            on_progress: Told how many bytes were handed over.
            retry_state: The attempts there are without progress, and the time to wait.
        """
        self.reader = reader
        self.at = on_progress
        self.sent = 0
        self._transport = transport
        self._path = path
        self._scope = scope
        self._digest = None if expected is None else expected.digest
        self._there = there
        self._patience = retry_state
        self._location: str | None = None
        self._offset = 0  # bytes that the registry has
        self._most = 0  # the most it ever had
        self._window, self._window_start = head, 0
        self._chunk = CHUNK
        self._minimum = 0
        self._resumed = False
        self._fruitless = 0  # answers that told of no progress, since there was some
        self._begun_again = 0

    def run(self, mount: tuple[str, str] | None = None) -> Digest:
        """Bring the blob there.

        Args:
            mount: The path that asks for the blob of another repository, and the scope for that.

        Returns:
            The digest under which it is there now.

        Raises:
            DistError: As `Pushable.push_blob`.
        """
        try:
            if mount is not None and self._mounted(*mount):
                assert self._digest is not None  # noqa: S101 - what is mounted has a name
                return self._digest
            while not self._step():
                pass
        except SourceFailedError as failed:
            self._cancel()
            raise failed.error from failed.error.__cause__
        except (IntegrityError, LimitExceeded):
            self._cancel()
            raise
        return self._digest or self.reader.digest()

    # Begin

    def _mounted(self, path: str, scope: str) -> bool:
        """Ask for a blob of another repository; return whether it is there now, and begin an upload if one was offered.

        Whatever is wrong with asking for it, the upload will tell if it is wrong with that too.
        """
        try:
            answer = self._transport.request("POST", path, scope=scope, body=b"", retry_state=self._patience.renewed())
        except (Denied, NotFound, RegistryError) as error:
            if isinstance(error, RegistryError) and error.status in self._transport.retry.statuses:
                raise
            return False
        answer.discard(self._transport.limits.error)
        if answer.status == 201 and self._digest is not None:
            return self._is_done(answer, self._digest)
        self._begun(answer, scope)
        return False

    def _begin(self) -> None:
        retry_state = self._patience.renewed()
        answer = self._transport.request("POST", self._path, scope=self._scope, body=b"", retry_state=retry_state)
        answer.discard(self._transport.limits.error)
        self._begun(answer, self._scope)

    def _begun(self, answer: Response, scope: str) -> None:
        if answer.status != 202:
            message = f"{redact(answer.url)} answered {answer.status} where an upload was to begin"
            raise RegistryError(message, status=answer.status)
        self._location = self._transport.located(answer, scope)
        self._offset = self.sent = 0
        text = answer.headers.get("OCI-Chunk-Min-Length", "")
        self._minimum = int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0
        if self._minimum > MAX_CHUNK and not self.reader.again:
            message = (
                f"{redact(answer.url)} takes no chunk of less than {self._minimum} bytes, more than the {MAX_CHUNK} "
                "that are kept of what cannot be read again: write it to a file first"
            )
            raise LimitExceeded(message, limit=MAX_CHUNK)
        self._chunk = min(max(CHUNK, self._minimum), MAX_CHUNK)

    # Go on

    def _step(self) -> bool:
        """Send what comes next; return whether that was all."""
        try:
            if self._location is None:
                self._begin()
            return self._send_all() if self.reader.again else self._send_chunk()
        except (Unreachable, DeadlineExceeded, RateLimited, RegistryError, NotFound) as error:
            return self._recover(error)

    def _send_all(self) -> bool:
        """Send all that the registry does not have."""
        reader, size = self.reader, cast("int", self.reader.size)
        if self._digest is None and size < self._minimum:
            # Too short for a chunk: it has to go as a whole, under its name.
            while reader.read(PIECE):
                pass
        if self._digest is None and reader.hashed >= size:
            reader.check_end()
            self._digest = reader.digest()
        rest = size - self._offset
        body = _SentChunk(self, self._offset, rest) if rest else b""
        if self._digest is not None and (not self._offset or rest < max(self._minimum, 1)):
            return self._put(self._digest, body, rest)
        self._patch(body, rest)
        return False

    def _send_chunk(self) -> bool:
        """Send the next chunk, with what the registry lacks of the one before at its beginning."""
        reader = self.reader
        chunk = self._window[self._offset - self._window_start :]
        try:
            chunk += reader.take(self._chunk - len(chunk))
            last = len(chunk) < self._chunk or (reader.size is not None and reader.position >= reader.size)
            if last:
                reader.check_end()
        except Exception as error:
            raise SourceFailedError(error) from error
        self._window, self._window_start = chunk, self._offset
        self.sent = self._offset + len(chunk)
        if last:
            return self._put(self._digest or reader.digest(), chunk, len(chunk))
        self._patch(chunk, len(chunk))
        return False

    def _patch(self, body: bytes | Body, size: int) -> None:
        headers = {**_BYTES, "Content-Range": f"{self._offset}-{self._offset + size - 1}"}
        answer = self._ask("PATCH", str(self._location), headers, body, also={416})
        self._moved(answer)
        told = self._told(answer)
        if answer.status == 416:
            self._resumed = True
            self._resync(self._status() if told is None else told)
        else:
            self._resync(self._offset + size if told is None else told)

    def _put(self, digest: Digest, body: bytes | Body, size: int) -> bool:
        url = str(self._location)
        url += f"{'&' if urlsplit(url).query else '?'}digest={digest}"
        headers = dict(_BYTES)
        if self._offset and size:
            headers["Content-Range"] = f"{self._offset}-{self._offset + size - 1}"
        self._digest = digest
        try:
            answer = self._ask("PUT", url, headers, body, also={416})
        except RegistryError as error:
            # Of what came in parts some may be there twice, or be missing: once more as a whole.
            if error.status == 400 and "DIGEST_INVALID" in error.codes and self._resumed:
                self._start_over(error)
                return False
            raise
        if answer.status == 416:
            self._resumed = True
            self._moved(answer)
            told = self._told(answer)
            self._resync(self._status() if told is None else told)
            return False
        if not self._is_done(answer, digest):
            message = f"{redact(answer.url)} answered {answer.status}, and has no {digest} now"
            raise RegistryError(message, status=answer.status)
        self._location = None
        return True

    def _ask(
        self, method: str, url: str, headers: dict[str, str], body: bytes | Body | None, also: Collection[int]
    ) -> Response:
        """Send a request once: what comes after a failure depends on what the registry has then."""
        once = self._patience.renewed(1)
        answer = self._transport.request(
            method, url, scope=self._scope, headers=headers, body=body, also=also, retry_state=once
        )
        answer.discard(self._transport.limits.error)
        return answer

    # Go on after a failure

    def _recover(self, error: DistError) -> bool:
        """Find out how far the upload got, once it may be gone on with; return whether it is done.

        Raises:
            DistError: ``error``, if it cannot be gone on with.
        """
        if self._location is None:
            raise error  # of the beginning, which was tried again as often as may be
        if isinstance(error, NotFound):
            self._start_over(error)  # the upload is gone; what is gone besides, the next one will tell
            return False
        self._patience.wait(error)
        self._resumed = True
        if self._digest is not None and self.sent == self.reader.size and self._there(self._digest):
            self._location = None  # it was the answer that got lost
            return True
        try:
            told = self._status()
        except (NotFound, Denied, RegistryError) as refusal:
            if isinstance(refusal, RegistryError) and refusal.status in self._transport.retry.statuses:
                raise
            self._start_over(error)
        else:
            self._resync(told)
        return False

    def _status(self) -> int:
        """Ask how many bytes the registry has."""
        retry_state = self._patience.renewed()
        answer = self._transport.request("GET", str(self._location), scope=self._scope, retry_state=retry_state)
        answer.discard(self._transport.limits.error)
        self._moved(answer)
        told = self._told(answer)
        if told is None:
            message = f"{redact(answer.url)} does not say how many bytes of the upload it has (Range)"
            raise RegistryError(message, status=answer.status)
        return told

    def _moved(self, answer: Response) -> None:
        """Take over where the upload goes on, if the answer says so."""
        if answer.headers.get("Location"):
            self._location = self._transport.located(answer, self._scope)

    def _told(self, answer: Response) -> int | None:
        """Return how many bytes an answer says the registry has; None if it does not say."""
        text = answer.headers.get("Range", "").strip()
        if not text:
            return None
        match = _RANGE.fullmatch(text)
        if match is None:
            message = f"{redact(answer.url)}: the registry's Range is none, so that nobody knows what it has"
            raise IntegrityError(message)
        # None and one are written alike: docker-registry says 0-0 of an upload that has just begun.
        last = int(match[1])
        return last + 1 if last or self.sent == 1 else 0

    def _resync(self, told: int) -> None:
        """Go on from where the registry is.

        Raises:
            IntegrityError: It cannot be there, or bytes are missing that cannot be read again.
        """
        if told > self.sent:
            message = f"{redact(str(self._location))}: the registry says it has {told} bytes, and {self.sent} were sent"
            raise IntegrityError(message)
        if told > self._most:
            self._patience.progressed(told - self._most)
            self._most, self._fruitless = told, 0
        else:
            self._fruitless += 1
            if self._fruitless >= self._transport.retry.attempts:
                message = f"{redact(str(self._location))}: the registry stays at byte {told}, whatever is sent"
                raise IntegrityError(message)
        if not told and self.sent:  # or it has one byte
            self._start_over(None)
            return
        if told < self._window_start and not self.reader.again:
            message = (
                f"{redact(str(self._location))}: the registry lost bytes from {told} on, which cannot be read again: "
                "push it from a file"
            )
            raise IntegrityError(message)
        self._offset = told
        if not self.reader.again:
            self.at(told)

    def _start_over(self, error: DistError | None) -> None:
        """Begin a new upload, of the same bytes.

        Raises:
            DistError: ``error``, where they cannot be read again, or it was begun often enough.
        """
        location = redact(str(self._location))
        if not self.reader.again and self._window_start:
            message = f"{location}: the upload was lost, and what was sent cannot be read again: push it from a file"
            raise Unreachable(message, url=location) from error
        self._begun_again += 1
        if self._begun_again >= self._transport.retry.attempts:
            raise error or IntegrityError(f"{location}: the registry keeps nothing of what is sent")
        self._location, self._offset, self.sent, self._most = None, 0, 0, 0
        self._resumed = False

    # End

    def _is_done(self, answer: Response, digest: Digest) -> bool:
        """Whether an answer says that the registry has the blob, or it says so when it is asked.

        Raises:
            DigestMismatch: It says that it has another one.
        """
        check_created(answer, digest)
        return answer.status == 201 or self._there(digest)

    def _cancel(self) -> None:
        """Tell the registry that nothing more comes."""
        location, self._location = self._location, None
        if location is None or Origin.of(location) != self._transport.origin:
            return
        once = self._patience.renewed(1)
        with contextlib.suppress(DistError):
            self._transport.request(
                "DELETE", location, scope=self._scope, deadline=Deadline(_FAREWELL), retry_state=once
            ).discard(self._transport.limits.error)


def content_digest(answer: Response) -> Digest | None:
    """Return the digest that a response names in ``Docker-Content-Digest``; None where it names none.

    Raises:
        InvalidDigest: The header is malformed, or names several digests.
    """
    # Blanks do not count, and a field that comes twice is one with commas (RFC 9110 sections 5.5 and 5.3).
    named = {text.strip() for text in answer.headers.get("Docker-Content-Digest", "").split(",")} - {""}
    if len(named) > 1:
        raise InvalidDigest("several digests in one Docker-Content-Digest header")
    return Digest.parse(named.pop()) if named else None


def check_created(answer: Response, digest: Digest) -> None:
    """Hold what a registry says it has now against what was sent.

    Names by other algorithms are passed over: there is nothing to hold them against.

    Raises:
        DigestMismatch: It is something else.
    """
    place = unquote(urlsplit(answer.headers.get("Location", "")).path.rpartition("/")[2])
    named: list[Digest | None] = []
    with contextlib.suppress(InvalidDigest):
        named.append(content_digest(answer))
    with contextlib.suppress(InvalidDigest):
        named.append(Digest.parse(place))
    for told in named:
        if told is not None and told.algorithm == digest.algorithm and told != digest:
            message = f"{redact(answer.url)}: {digest} was sent, and the registry says that it has {told}"
            raise DigestMismatch(message, expected=str(digest), got=str(told))
