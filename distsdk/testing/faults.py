"""Faults: values that make a registry answer wrongly.

A fault stands between a request and the registry. It may change the request, ask the registry or not, and change the
answer; any object with such an ``answer`` method is one. Faults on the same path combine.
"""

from __future__ import annotations

import gzip
import json
import re
import secrets
import threading
import time
from http import HTTPStatus
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qsl, urlencode

from attrs import define, evolve, field, frozen

from distsdk.testing.exchange import HangUp, Pace, Pause, Request, Response

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_RANGE = re.compile(r"bytes=(?P<first>\d+)-(?P<last>\d*)")
#: Zero bytes that an endless body is made of.
_ZEROS = memoryview(bytes(1024 * 1024))


class Fault(Protocol):
    """What `Registry.fault` takes."""

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return what is sent.

        A fault that hands on the request it got and returns the answer it was given has not acted, and is not counted.

        Args:
            request: What is asked for.
            respond: Gives the answer of the registry, or of the next fault in line.
        """


@frozen
class Cut:
    """The connection ends after some bytes of the body, though ``Content-Length`` announces all of it.

    Acts on successful answers that have more bytes than that.

    Attributes:
        after: Bytes of the body that are sent; None for nothing at all, not even a status.
        reset: End with a reset (TCP RST) rather than in order (FIN). Fewer than ``after`` bytes may then arrive.
        connection: Count the bytes of all bodies sent over the connection, rather than those of each answer.
    """

    after: int | None
    reset: bool = False
    connection: bool = False

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry, cut."""
        response = respond(request)
        if not response.ok:
            return response
        if self.after is None:
            return evolve(response, hold=HangUp(self.reset))
        left = self.after - (request.sent_before if self.connection else 0)
        if request.method == "HEAD" or response.size <= left:
            return response
        return evolve(response, body=(*response.split(left)[0], HangUp(self.reset)))


@frozen
class CutUpload:
    """The connection ends in the middle of the body of a request: a blob that is pushed. What came until then is kept.

    Acts on bodies that are longer than that.

    Attributes:
        after: Bytes of the body that are taken.
        reset: End with a reset (TCP RST) rather than in order (FIN), which bytes that were not taken may make a reset.
    """

    after: int
    reset: bool = False

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Hang up, once the registry has the first bytes."""
        length = request.headers.get("Content-Length", "")
        if not _UPLOAD.search(request.path) or not length.isdecimal() or int(length) <= self.after:
            return respond(request)
        try:
            return respond(evolve(request, incoming=request.incoming.cut(self.after)))
        except ConnectionAbortedError:
            return Response(0, hold=HangUp(self.reset))


@frozen
class UploadLocation:
    """An upload goes on elsewhere: ``Location`` is another one in answers to who uploads.

    Attributes:
        value: What it says. ``{path}`` in it stands for path and query of the right one, so that
            ``"https://elsewhere.example{path}"`` is another host's, ``{id}`` for what is after the last slash of it.
    """

    value: str

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry with that field."""
        response = respond(request)
        right = response.header("Location")
        if right is None or not _UPLOAD.search(right):
            return response
        there = self.value.replace("{path}", right).replace("{id}", right.rpartition("/")[2])
        return response.with_header("Location", there)


@frozen
class WrongUploadRange:
    """``Range`` says that another number of an upload's bytes is there.

    Attributes:
        by: Beyond the right number; negative for fewer.
        value: What it says instead; ``"nonsense"``, or None for the field to be missing.
    """

    by: int = 0
    value: str | None = ""

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry with that field."""
        response = respond(request)
        right = re.fullmatch(r"0-(\d+)", response.header("Range") or "")
        if right is None or not _UPLOAD.search(request.path):
            return response
        return response.with_header("Range", f"0-{max(int(right[1]) + self.by, 0)}" if self.value == "" else self.value)


@frozen
class NoMount:
    """A blob of another repository is not given: an upload begins instead (202), as with registries that cannot."""

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer to the request without what it asks for."""
        if request.method != "POST" or "mount=" not in request.query:
            return respond(request)
        return respond(evolve(request, query=""))


@frozen
class Short:
    """The last bytes of the body are missing, and ``Content-Length`` agrees: nothing looks wrong but the size.

    Attributes:
        by: Bytes that are missing.
    """

    by: int = 1

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry without its last bytes."""
        response = respond(request)
        if not response.ok or not response.size:
            return response
        kept = max(response.size - self.by, 0)
        return evolve(response, body=response.split(kept)[0], length=kept)


@frozen
class Long:
    """Zero bytes follow the body, and ``Content-Length`` agrees: nothing looks wrong but the size.

    Attributes:
        by: Bytes that are too many; they take no memory, so that a body may be without end.
    """

    by: int = 1

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry with bytes added."""
        response = respond(request)
        if not response.ok:
            return response
        zeros = [_ZEROS] * (self.by // len(_ZEROS)) + [_ZEROS[: self.by % len(_ZEROS)]]
        return evolve(response, body=(*response.body, *zeros), length=response.length + self.by)


@frozen
class WrongLength:
    """``Content-Length`` is off; the body is whole, and the connection ends after it.

    Attributes:
        by: What ``Content-Length`` says beyond the body's size, in bytes; negative for less.
    """

    by: int

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry with another ``Content-Length``."""
        response = respond(request)
        return evolve(response, length=max(response.length + self.by, 0)) if response.ok else response


@frozen
class WrongBytes:
    """One byte of the body is another one; the size is right.

    Acts on successful answers that have that byte.

    Attributes:
        at: Which byte, counted from 0 within the body that is sent.
    """

    at: int = 0

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry with one byte changed."""
        response = respond(request)
        if request.method == "HEAD" or not response.ok or response.size <= self.at:
            return response
        before, rest = response.split(self.at)
        one, after = evolve(response, body=rest).split(1)
        wrong = (memoryview(bytes([step[0] ^ 0xFF])) if isinstance(step, memoryview) and step else step for step in one)
        return evolve(response, body=(*before, *wrong, *after))


@frozen
class WrongDigestHeader:
    """``Docker-Content-Digest`` names something else; the body is right.

    Attributes:
        digest: What it says instead.
    """

    digest: str = "sha256:" + "0" * 64

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry with another digest in its header."""
        response = respond(request)
        return response.with_header("Docker-Content-Digest", self.digest) if response.ok else response


@frozen
class PaddedDigestHeader:
    """``Docker-Content-Digest`` has the right digest, with blanks around it or more than once.

    Clients have to read both alike (RFC 9110 sections 5.3 and 5.5).

    Attributes:
        padding: Put before and after the digest.
        count: How many fields of that name there are.
    """

    padding: str = "  "
    count: int = 1

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the response of the registry with its digest written in that way."""
        response = respond(request)
        right = response.header("Docker-Content-Digest")
        if right is None:
            return response
        return response.with_header("Docker-Content-Digest", *[f"{self.padding}{right}{self.padding}"] * self.count)


@frozen
class Header:
    """A header field has another value, comes more than once, or is missing.

    Attributes:
        name: The field.
        value: Its value, of any length; None takes the field away.
        count: How many fields of that name and value there are.
        add: Keep what the registry says, and add to it.
    """

    name: str
    value: str | None
    count: int = 1
    add: bool = False

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry with that header field."""
        response = respond(request)
        kept = [value for name, value in response.headers if self.add and name.lower() == self.name.lower()]
        return response.with_header(self.name, *kept, *[self.value] * self.count)


@frozen
class NoContentLength:
    """The answer does not say how long it is.

    Attributes:
        chunked: Send the body in chunks, rather than up to the connection's end.
    """

    chunked: bool = False

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry in another framing."""
        return evolve(respond(request), framing="chunked" if self.chunked else "close")


@frozen
class Status:
    """The registry is not asked; this is answered.

    Attributes:
        code: The HTTP status.
        body: The body, as text or bytes.
        headers: Header fields, such as ``{"Retry-After": "1"}``.
    """

    code: int
    body: bytes | str = b""
    headers: Mapping[str, str] = field(factory=dict)

    @classmethod
    def error(cls, code: int, error: str, message: str = "", headers: Mapping[str, str] | None = None) -> Status:
        """Return a status with an error as registries write it.

        Args:
            code: The HTTP status.
            error: The registry's code, such as ``TOOMANYREQUESTS``.
            message: What a person reads.
            headers: Header fields beside ``Content-Type``.
        """
        # https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#error-codes
        body = json.dumps({"errors": [{"code": error, "message": message or error.lower()}]})
        return cls(code, body, {"Content-Type": "application/json", **(headers or {})})

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return this status."""
        body = self.body.encode() if isinstance(self.body, str) else self.body
        return Response(self.code, tuple(self.headers.items()), (memoryview(body),))


@frozen
class Redirect:
    """What the registry would answer with success is elsewhere. Refusals, such as a 401, stay.

    Attributes:
        to: The URL, or None for a redirect that does not say where to. ``{path}`` in it stands for the path and query
            that were asked for, so that ``"{path}"`` is a loop, ``{unique}`` for letters that are others each time.
        code: The HTTP status.
    """

    to: str | None
    code: int = 307

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return a redirect, unless the registry refuses."""
        response = respond(request)
        if not response.ok:
            return response
        if self.to is None:
            return Response(self.code)
        to = self.to.replace("{path}", _target(request)).replace("{unique}", secrets.token_hex(8))
        return Response(self.code, (("Location", to),))


@frozen
class Stall:
    """The answer comes to a halt, and the connection stays open.

    Acts on successful answers that have more bytes than that.

    Attributes:
        after: Bytes of the body that are sent first; None for nothing at all, not even a status.
        seconds: How long the halt is; then the rest is sent. By default until the registry is closed.
        event: Ends the halt when set.
    """

    after: int | None = 0
    seconds: float = float("inf")
    event: threading.Event | None = field(default=None, eq=False)

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry with a pause in it."""
        response = respond(request)
        pause = Pause(self.seconds, self.event)
        if not response.ok:
            return response
        if self.after is None:
            return evolve(response, hold=pause)
        if request.method == "HEAD" or response.size <= self.after:
            return response
        before, after = response.split(self.after)
        return evolve(response, body=(*before, pause, *after))


@frozen
class IgnoreRange:
    """A request for a range is answered with the whole, as a server without ranges does."""

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer to the request without its range."""
        if "Range" not in request.headers:
            return respond(request)
        return respond(evolve(request, headers=request.headers.without("Range"))).with_header("Accept-Ranges", None)


@frozen
class WrongRange:
    """A request for a range is answered with 206, but not as it was asked.

    Acts where the range has a first byte that is there. Offsets are in bytes, negative for earlier; a range ends with
    the blob at the latest. A ``Content-Range`` that is no range at all is a `Header`.

    Attributes:
        first: Where the range begins, beyond what was asked for.
        last: Where it ends, beyond what was asked for.
        total: The size that ``Content-Range`` gives for the whole, beyond the right one.
        sent: Whether the body is that other range, or the right one.
        said: Whether ``Content-Range`` says that other range, or the right one.
    """

    first: int = 0
    last: int = 0
    total: int = 0
    sent: bool = True
    said: bool = True

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return another range."""
        asked = _RANGE.fullmatch(request.headers.get("Range", ""))
        if asked is None or request.method != "GET":
            return respond(request)
        whole = respond(evolve(request, headers=request.headers.without("Range")))
        size = whole.size
        right = int(asked["first"]), min(int(asked["last"] or size), size - 1)
        if whole.status != HTTPStatus.OK or right[0] > right[1]:
            return respond(request)
        wrong = max(right[0] + self.first, 0), min(right[1] + self.last, size - 1)
        sent = wrong if self.sent else right
        said = wrong if self.said else right
        length = max(sent[1] + 1 - sent[0], 0)
        body = evolve(whole, body=whole.split(sent[0])[1]).split(length)[0]
        content_range = f"bytes {said[0]}-{said[1]}/{size + self.total}"
        return evolve(whole, status=206, body=body, length=length).with_header("Content-Range", content_range)


@frozen
class RefuseRange:
    """A request for a range is answered with 416.

    Attributes:
        closed: Whether ranges that say where they end are refused too, or open ones alone.
    """

    closed: bool = True

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return a refusal."""
        asked = request.headers.get("Range", "")
        if not asked or not (self.closed or asked.endswith("-")):
            return respond(request)
        return Status.error(416, "RANGE_INVALID").answer(request, respond)


@frozen
class WrongStatus:
    """A successful answer has another status; header and body are as they were.

    Attributes:
        code: The HTTP status, such as 206 for a whole, or 200 for a range.
    """

    code: int

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry with another status."""
        response = respond(request)
        return evolve(response, status=self.code) if response.ok else response


@frozen
class Gzip:
    """The body is compressed, and ``Content-Encoding: gzip`` says so, though nobody asked for it."""

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry, compressed."""
        response = respond(request)
        if not response.ok:
            return response
        return _with_body(response, gzip.compress(_body(response), mtime=0)).with_header("Content-Encoding", "gzip")


@frozen
class JsonFields:
    """The JSON object in the body has other fields: a token's reply, a listing, a document.

    Acts on successful answers with a JSON object.

    Attributes:
        values: Values by name, of any kind.
        without: Names of fields that are left out.
    """

    values: Mapping[str, object] = field(factory=dict)
    without: Sequence[str] = ()

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry with other fields."""
        response = respond(request)
        try:
            fields = json.loads(_body(response)) if response.ok else None
        except ValueError:
            fields = None
        if not isinstance(fields, dict):
            return response
        fields = {name: value for name, value in {**fields, **self.values}.items() if name not in self.without}
        return _with_body(response, json.dumps(fields).encode())


@frozen
class Raw:
    """The registry is not asked; these bytes are sent, and the connection ends. They need not be HTTP.

    Attributes:
        data: All that is sent: status line, header and body, or what stands in their place.
    """

    data: bytes

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return these bytes."""
        status = re.match(rb"HTTP/1\.[01] (\d{3})", self.data)
        return Response(int(status[1]) if status else 0, body=(memoryview(self.data),), framing="raw")


@frozen
class Drip:
    """The answer comes in small pieces, with a pause after each.

    Attributes:
        size: Bytes in a piece.
        seconds: Length of a pause.
        headers: Whether status line and header come so too, and not at once.
    """

    size: int = 1
    seconds: float = 0.1
    headers: bool = False

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry, at that pace."""
        return evolve(respond(request), pace=Pace(self.size, self.seconds, self.headers))


@frozen
class Throttle:
    """Each connection is slow, as with a server that gives every connection its share.

    Bodies go out in some 50 pieces per second; the mean is kept to about one percent, also over several answers.

    Attributes:
        rate: Bytes of bodies per second and connection.
    """

    rate: int

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry, at that pace."""
        size = max(self.rate // 50, 1)
        return evolve(respond(request), pace=Pace(size, size / self.rate, steady=True))


@frozen
class RefuseAuthorization:
    """A request that brings an ``Authorization`` field is answered with 400, as S3 does with signed URLs."""

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return a refusal, unless there is no such field."""
        if "Authorization" not in request.headers:
            return respond(request)
        return _storage_error(400, "InvalidArgument", "Only one auth mechanism allowed")


@define(eq=False)
class UrlExpires:
    """A URL, with its query, is good for a number of answers and refused with 403 afterwards, as signed ones are.

    Attributes:
        after: How many answers.
    """

    after: int = 1
    _answers: dict[str, int] = field(factory=dict, init=False, repr=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry, or a refusal."""
        with self._lock:
            answers = self._answers[_target(request)] = self._answers.get(_target(request), 0) + 1
        if answers > self.after:
            return _storage_error(403, "AccessDenied", "Request has expired")
        return respond(request)


@frozen(init=False)
class Challenge:
    """A 401 has other ``WWW-Authenticate`` fields.

    Attributes:
        values: One value for each field, in order. In them ``{challenge}`` stands for what the registry says, and
            ``{realm}``, ``{service}`` and ``{scope}`` for parameters of that.
    """

    values: tuple[str, ...]

    def __init__(self, *values: str) -> None:
        self.__attrs_init__(values)

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry with other challenges."""
        response = respond(request)
        if response.status != HTTPStatus.UNAUTHORIZED:
            return response
        right = response.header("WWW-Authenticate") or ""
        parameters = {"realm": "", "service": "", "scope": "", **dict(re.findall(r'(\w+)="([^"]*)"', right))}
        values = list(self.values)
        for name, value in {**parameters, "challenge": right}.items():
            values = [text.replace(f"{{{name}}}", value) for text in values]
        return response.with_header("WWW-Authenticate", *values)


@define(eq=False)
class RateLimit:
    """Only so many ``GET`` requests are served in a time; then 429 is answered.

    ``RateLimit-Limit`` and ``RateLimit-Remaining`` say so as Docker Hub's do. Requests that the registry refuses do not
    count. A 429 without counting is ``Status.error(429, "TOOMANYREQUESTS")``.

    Attributes:
        limit: How many requests.
        window: In how many seconds, from the first of them on.
        retry_after: What ``Retry-After`` says with a 429: seconds, or an HTTP date; None for no such field.
    """

    limit: int
    window: int = 21600
    retry_after: str | None = None
    _used: int = field(default=0, init=False, repr=False)
    _end: float = field(default=0.0, init=False, repr=False)
    _lock: threading.Lock = field(factory=threading.Lock, init=False, repr=False)

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry, or a refusal, with what is left."""
        counts = request.method == "GET"
        with self._lock:
            if time.monotonic() >= self._end:
                self._used, self._end = 0, time.monotonic() + self.window
            refused = counts and self._used >= self.limit
            if counts and not refused:
                self._used += 1
        if refused:
            response = Status.error(429, "TOOMANYREQUESTS", "you have reached your pull rate limit").answer(
                request, respond
            )
            response = response.with_header("Retry-After", self.retry_after)
        else:
            response = respond(request)
        with self._lock:
            if counts and not refused and not response.ok:
                self._used -= 1
            left = self.limit - self._used
        response = response.with_header("RateLimit-Limit", f"{self.limit};w={self.window}")
        return response.with_header("RateLimit-Remaining", f"{left};w={self.window}")


@frozen
class Link:
    """A page of tags, repositories or referrers has another ``Link`` field.

    Attributes:
        value: The field, such as ``<https://elsewhere.example{next}>; rel="next"``. ``{next}`` in it stands for path
            and query of the right next page, and nothing happens where there is none; ``{path}`` for those of this
            page, so that ``<{path}>; rel="next"`` is a loop.
    """

    value: str

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry with that field."""
        response = respond(request)
        right = (response.header("Link") or "").partition(">")[0].removeprefix("<")
        if not response.ok or not _LISTING.search(request.path) or ("{next}" in self.value and not right):
            return response
        return response.with_header("Link", self.value.replace("{next}", right).replace("{path}", _target(request)))


@frozen
class NoLink:
    """A page of tags or repositories names no next page: it has no ``Link``.

    Where nothing follows ``last``, the listing starts again from its first name, as in the registry of
    go-containerregistry.

    Attributes:
        size: Names in a page at most, also where a client asks for more; None for as many as it asks for.
    """

    size: int | None = None

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return a page of the registry without that field."""
        key = _LISTING_KEYS.get(request.path.rpartition("/")[2])
        if key is None:
            return respond(request)
        query = dict(parse_qsl(request.query))
        if self.size is not None and query.get("n", "0").isdecimal():
            query["n"] = str(min(int(query.get("n", self.size)), self.size))
        response = respond(evolve(request, query=urlencode(query)))
        if response.ok and "last" in query and not json.loads(_body(response))[key]:
            del query["last"]
            response = respond(evolve(request, query=urlencode(query)))
        return response.with_header("Link", None)


@frozen
class EndlessPages:
    """Tags or repositories never end: each page has new names, and a next page.

    Attributes:
        size: Names in a page.
    """

    size: int = 100

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the next page."""
        response = respond(request)
        key = _LISTING_KEYS.get(request.path.rpartition("/")[2])
        if key is None or not response.ok:
            return response
        last = re.search(r"last=n(\d+)", request.query)
        first = int(last[1]) + 1 if last else 0
        names = [f"n{number:012}" for number in range(first, first + self.size)]
        page = JsonFields({key: names}).answer(request, lambda _: response)
        return page.with_header("Link", f'<{request.path}?last={names[-1]}&n={self.size}>; rel="next"')


#: The field of a listing that has its names, by the end of the path.
_LISTING_KEYS = {"list": "tags", "_catalog": "repositories"}
_UPLOAD = re.compile(r"/blobs/uploads/")
_LISTING = re.compile(r"/tags/list$|/_catalog$|/referrers/")


def _target(request: Request) -> str:
    return f"{request.path}?{request.query}" if request.query else request.path


def _body(response: Response) -> bytes:
    return b"".join(step for step in response.body if isinstance(step, memoryview))


def _with_body(response: Response, body: bytes) -> Response:
    return evolve(response, body=(memoryview(body),), length=len(body))


def _storage_error(code: int, error: str, message: str) -> Response:
    # https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html
    body = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{error}</Code><Message>{message}</Message></Error>'
    return Response(code, (("Content-Type", "application/xml"),), (memoryview(body.encode()),))
