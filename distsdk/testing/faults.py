"""Faults: values that make a registry answer wrongly.

A fault stands between a request and the registry. It may change the request, ask the registry or not, and change the
answer; any object with such an ``answer`` method is one. Faults on the same path combine.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Protocol

from attrs import evolve, field, frozen

from distsdk.testing.exchange import HangUp, Pause, Request, Response

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Mapping


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
        after: Bytes of the body that are sent.
        reset: End with a reset (TCP RST) rather than in order (FIN). Fewer than ``after`` bytes may then arrive.
    """

    after: int
    reset: bool = False

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry, cut."""
        response = respond(request)
        if request.method == "HEAD" or not response.ok or response.size <= self.after:
            return response
        return evolve(response, body=(*response.split(self.after)[0], HangUp(self.reset)))


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
        by: Bytes that are too many.
    """

    by: int = 1

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry with bytes added."""
        response = respond(request)
        if not response.ok:
            return response
        return evolve(response, body=(*response.body, memoryview(bytes(self.by))), length=response.length + self.by)


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
class Header:
    """A header field has another value, or is missing.

    Attributes:
        name: The field.
        value: Its value; None takes the field away.
    """

    name: str
    value: str | None

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry with that header field."""
        return respond(request).with_header(self.name, self.value)


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
        to: The URL; ``{path}`` in it stands for the path and query that were asked for.
        code: The HTTP status.
    """

    to: str
    code: int = 307

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return a redirect, unless the registry refuses."""
        response = respond(request)
        if not response.ok:
            return response
        target = f"{request.path}?{request.query}" if request.query else request.path
        return Response(self.code, (("Location", self.to.replace("{path}", target)),))


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
