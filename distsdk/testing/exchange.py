"""What goes in and out of the in-process registry: a request, a response, and the steps of a response's body."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Literal, TypeAlias

from attrs import Factory, define, evolve, field, frozen

if TYPE_CHECKING:
    import threading

_SECRET = frozenset({"authorization", "cookie", "proxy-authorization"})


class Headers(Mapping[str, str]):
    """Header fields by name, whatever the case of the name; fields of one name are joined with a comma.

    Args:
        pairs: Names and values, in the order in which they were sent.
    """

    def __init__(self, pairs: Iterable[tuple[str, str]] = ()) -> None:
        self._fields: dict[str, tuple[str, str]] = {}
        for name, value in pairs:
            known = self._fields.get(name.lower())
            # https://www.rfc-editor.org/rfc/rfc9110#section-5.3
            self._fields[name.lower()] = (known[0], f"{known[1]}, {value}") if known else (name, value)

    def __getitem__(self, name: str) -> str:
        return self._fields[name.lower()][1]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._fields

    def __iter__(self) -> Iterator[str]:
        return (name for name, _ in self._fields.values())

    def __len__(self) -> int:
        return len(self._fields)

    def __repr__(self) -> str:
        shown = {name: "REDACTED" if name.lower() in _SECRET else value for name, value in self.items()}
        return f"Headers({shown})"

    def without(self, name: str) -> Headers:
        """Return these fields without the one of that name."""
        return Headers((kept, value) for kept, value in self.items() if kept.lower() != name.lower())


class Incoming:
    """The body of a request while it comes: bytes are taken from the connection as they are iterated over, once.

    Where the client hangs up in the middle, that is a `ConnectionAbortedError`.

    Attributes:
        received: Bytes that were taken so far.
    """

    def __init__(self, pieces: Iterable[bytes] = ()) -> None:
        self.received = 0
        self._pieces = iter(pieces)
        self._ahead: list[bytes] = []

    def __iter__(self) -> Iterator[bytes]:
        while self._ahead:
            yield self._ahead.pop(0)
        yield from self._take()

    def _take(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.received += len(piece)
            yield piece
        self._pieces = iter(())

    def begin(self, size: int) -> bytes:
        """Return the first bytes, which stay there for whoever iterates."""
        pieces = self._take()
        while sum(map(len, self._ahead)) < size and (piece := next(pieces, b"")):
            self._ahead.append(piece)
        return b"".join(self._ahead)[:size]

    def cut(self, size: int) -> Incoming:
        """Return a body that breaks off after so many bytes of this one, as if the client hung up then."""

        def pieces() -> Iterator[bytes]:
            left = size
            for piece in self:
                yield piece[:left]
                left -= len(piece)
                if left <= 0:
                    raise ConnectionAbortedError("the connection was cut on request")

        return Incoming(pieces())


@frozen
class Request:
    """One request as the registry saw it.

    Attributes:
        method: ``GET``, ``HEAD`` and so on.
        path: The path, percent-decoded, without the query: ``/v2/library/redis/manifests/7``.
        query: The query as it was sent, without ``?``; empty where there was none.
        headers: The header fields; names match in any case.
        body: The first 64 KiB of the request's own body, such as the form that asks for a token; empty where it is
            part of a blob that is uploaded.
        incoming: The body while it comes.
        connection: Number of the connection it came over, from 0 in the order in which they were opened.
        sent_before: Bytes of bodies that had been sent over that connection when it came.
        status: The status that was answered; 0 while there is no answer yet.
        body_bytes_sent: Bytes of the answer's body handed to the socket so far. Where the client hung up, up to 1 MiB
            more than it could have taken.
        body_bytes_received: Bytes of the request's own body that were taken from the connection so far.
    """

    method: str
    path: str
    query: str = ""
    headers: Headers = field(factory=Headers, eq=False)
    body: bytes = field(default=b"", eq=False, repr=False)
    connection: int = field(default=0, eq=False)
    sent_before: int = field(default=0, eq=False)
    status: int = 0
    body_bytes_sent: int = 0
    body_bytes_received: int = field(default=0, eq=False)
    incoming: Incoming = field(factory=Incoming, eq=False, repr=False)


@frozen
class Connection:
    """One connection as the registry saw it.

    Attributes:
        number: From 0, in the order in which they were opened.
        open: Whether it is still there.
        requests: How many requests came over it since the last `Registry.reset`.
        body_bytes_sent: Bytes of bodies handed to its socket since then.
    """

    number: int
    open: bool
    requests: int = 0
    body_bytes_sent: int = 0


@frozen(eq=False)
class Pause:
    """A step of an answer: nothing is sent for a time. Closing the registry ends it, and so does a client that goes.

    Attributes:
        seconds: The longest it lasts.
        event: Ends it when set.
    """

    seconds: float = float("inf")
    event: threading.Event | None = None


@frozen
class HangUp:
    """A step of an answer: the connection ends here.

    Attributes:
        reset: End it with a reset (TCP RST), which may take bytes on their way with it, rather than in order (FIN).
    """

    reset: bool = False


@frozen
class Pace:
    """How fast an answer goes out.

    Attributes:
        size: Bytes that are sent at once.
        seconds: From one such piece to the next.
        headers: Whether status line and header go out so too, and not at once.
        steady: Whether the first piece waits too, and pieces that come late are made up for, so that the mean is kept;
            otherwise every pause is at least that long.
    """

    size: int
    seconds: float
    headers: bool = False
    steady: bool = False


Step: TypeAlias = memoryview | Pause | HangUp


def body_size(steps: Iterable[Step]) -> int:
    """Return how many bytes the steps of a body have in all."""
    return sum(len(step) for step in steps if isinstance(step, memoryview))


def _own_size(response: Response) -> int:
    return body_size(response.body)


@frozen(eq=False)
class Response:
    """An answer, to the last detail of how its bytes go out. Faults turn one into another.

    Attributes:
        status: The HTTP status.
        headers: Header fields in order, without those that frame the body; a ``Content-Length`` among them replaces the
            right one.
        body: What is sent after the header, step by step; a HEAD request gets the header alone.
        length: What ``Content-Length`` says, in bytes; by default the size of the body.
        framing: How the client learns where the body ends: by its length, by chunks, or by the connection's end.
            ``"raw"`` sends the body's steps alone, without status line or header, and then ends the connection.
        hold: What happens before anything is sent.
        pace: How fast it goes out; as fast as the client takes it by default.
    """

    status: int
    headers: tuple[tuple[str, str], ...] = ()
    body: tuple[Step, ...] = ()
    length: int = field(default=Factory(_own_size, takes_self=True))
    framing: Literal["length", "chunked", "close", "raw"] = "length"
    hold: Pause | HangUp | None = None
    pace: Pace | None = None

    @property
    def ok(self) -> bool:
        """Whether the status is one of success, 200 to 299."""
        return 200 <= self.status < 300

    @property
    def size(self) -> int:
        """Bytes in the body."""
        return body_size(self.body)

    def header(self, name: str) -> str | None:
        """Return the value of the first header field of that name, or None."""
        return next((value for known, value in self.headers if known.lower() == name.lower()), None)

    def with_header(self, name: str, *values: str | None) -> Response:
        """Return this answer with header fields of these values in place of all of that name; None adds no field."""
        kept = tuple(pair for pair in self.headers if pair[0].lower() != name.lower())
        return evolve(self, headers=(*kept, *((name, value) for value in values if value is not None)))

    def split(self, at: int) -> tuple[tuple[Step, ...], tuple[Step, ...]]:
        """Return the steps up to and after the first ``at`` bytes of the body."""
        before: list[Step] = []
        steps = iter(self.body)
        for step in steps:
            if not isinstance(step, memoryview):
                before.append(step)
            elif len(step) <= at:
                before.append(step)
                at -= len(step)
            else:
                return (*before, step[:at]), (step[at:], *steps)
        return tuple(before), ()


@define(eq=False)
class Exchange:
    """A request and what became of it so far; one server thread writes it, anyone may read it."""

    request: Request
    status: int = 0
    sent: int = 0

    def record(self) -> Request:
        """Return the request with its status and count as they are now."""
        received = self.request.incoming.received
        return evolve(self.request, status=self.status, body_bytes_sent=self.sent, body_bytes_received=received)
