"""Play cassettes: answer requests with recorded responses, without a network.

A cassette is a YAML file as vcrpy writes it. `body.file` may name a file with the body, relative to the cassette: in
the cassette's directory, or in the directory ``bodies`` next to that one, and nowhere else, since cassettes may be
untrusted. Unlike vcrpy, this module serves any number of threads and streams bodies from their files.

A recorded request gets its recorded response. Other requests are answered if the response follows from recorded ones: a
range of recorded bytes, the headers of a recorded GET, or a recorded redirect of another range. The ranges in which a
blob is read depend on the speed of the network, so that they differ between recording and replay.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import threading
from collections import defaultdict
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
import urllib3
from attrs import evolve, frozen

from distsdk._secrets import redact
from distsdk.errors import InvalidConfig, MissingExtra, Unreachable
from distsdk.transport.cassette.record import scrub_url

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from _typeshed import WriteableBuffer

#: Levels of mappings and lists in a cassette; vcrpy writes six.
_DEPTH = 32

_active: ContextVar[Path | None] = ContextVar("distsdk_replay", default=None)


@contextlib.contextmanager
def replay(path: str | os.PathLike[str]) -> Iterator[None]:
    """Answer the requests of remotes connected inside the ``with`` block from cassettes, without the network.

    ``DISTSDK_REPLAY`` in the environment does the same for a whole process.

    Args:
        path: A cassette, or a directory with cassettes, ``*.yaml``, at any depth.

    Raises:
        InvalidConfig: No cassette was found, or one is invalid.
        MissingExtra: PyYAML is not installed.

    Examples:
        >>> with distsdk.replay("cassettes"):
        ...     remote = distsdk.connect("docker.io/library/redis")
        >>> len(remote.fetch("latest", "mediatype:application/vnd.docker.distribution.manifest.v2+json").read())
        1238
    """
    cassettes = Path(path)
    _load_cassettes(cassettes)
    token = _active.set(cassettes)
    try:
        yield
    finally:
        _active.reset(token)


def active_session() -> requests.Session | None:
    """Return a session that plays the cassette of the `replay` block around the caller, else of ``DISTSDK_REPLAY``."""
    named = _active.get() or os.environ.get("DISTSDK_REPLAY")
    if not named:
        return None
    path = Path(named)
    session = requests.Session()
    adapter = CassetteAdapter(path)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


@frozen
class _Key:
    """The parts of a request that select the recorded response; the token is not among them."""

    method: str
    url: str
    range: str
    accept: str


@frozen
class _RecordedResponse:
    """A recorded response."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | Path

    @property
    def stored(self) -> int:
        """Number of recorded bytes of the body; less than `length` if it was not read to its end."""
        if isinstance(self.body, bytes):
            return len(self.body)
        with contextlib.suppress(OSError):  # reported by `open`
            return self.body.stat().st_size
        return 0

    @property
    def length(self) -> int | None:
        """The ``Content-Length``; None if it is missing or invalid."""
        text = self.header("Content-Length")
        return int(text) if re.fullmatch("[0-9]{1,18}", text) else None

    @property
    def span(self) -> tuple[int, int] | None:
        """Offset of the body in the whole content, and the size of that; None for a response without content."""
        if self.status == 200:
            return (0, self.stored if self.length is None else self.length)
        part = re.fullmatch("bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})", self.header("Content-Range"))
        return (int(part[1]), int(part[2])) if self.status == 206 and part else None

    def header(self, name: str) -> str:
        """Return the value of a header, "" if it is missing."""
        return next((value for own, value in self.headers if own.lower() == name.lower()), "")

    def open(self, offset: int = 0) -> io.BufferedIOBase:
        """Open the body, from an offset on."""
        if isinstance(self.body, bytes):
            return io.BytesIO(self.body[offset:])
        try:
            file = self.body.open("rb")
        except OSError as error:
            message = f"{str(self.body)!r} cannot be read: a cassette needs the files that it names for bodies"
            raise InvalidConfig(message) from error
        file.seek(offset)
        return file


@frozen
class _Piece:
    """A range of the recorded bytes of one response."""

    response: _RecordedResponse
    offset: int
    count: int


class _JoinedPieces(io.RawIOBase):
    """Concatenated pieces; each is opened when it is reached."""

    def __init__(self, pieces: list[_Piece]) -> None:
        super().__init__()
        self._pieces = iter(pieces)
        self._file: io.BufferedIOBase = io.BytesIO()
        self._left = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        while True:
            # 0 also where a file has become shorter: what follows would not be what is due.
            if count := self._file.readinto1(memoryview(buffer)[: self._left]):
                self._left -= count
                return count
            if self._left or (piece := next(self._pieces, None)) is None:
                return 0
            self._file.close()
            self._file, self._left = piece.response.open(piece.offset), piece.count

    def close(self) -> None:
        self._file.close()
        super().close()


class CassetteAdapter(requests.adapters.BaseAdapter):
    """Answer the requests of a session from cassettes.

    The responses to one request are played in recorded order, and the last one repeatedly. Requests with and without a
    token are distinguished, so that recorded challenges are replayed.
    """

    def __init__(self, path: Path) -> None:
        """Read the cassette, or all cassettes below a folder."""
        super().__init__()
        self._path = path
        self._responses = _load_cassettes(path)
        self._by_url: defaultdict[tuple[str, str], list[tuple[_Key, bool]]] = defaultdict(list)
        for entry in self._responses:
            if entry[0].method == "GET":
                self._by_url[scrub_url(entry[0].url), entry[0].accept].append(entry)
        self._replayed: defaultdict[tuple[_Key, bool], int] = defaultdict(int)
        self._lock = threading.Lock()

    def send(  # noqa: D102 - as in BaseAdapter
        self, request: requests.PreparedRequest, *_: object, **__: object
    ) -> requests.Response:
        key = _key(request.method or "", request.url or "", request.headers)
        authorized = "Authorization" in request.headers
        found = self._find_recorded(key, authorized) or self._derive(key, authorized)
        recorded, body = found or self._raise_missing(key)
        raw = urllib3.HTTPResponse(
            body=body,
            headers=urllib3.HTTPHeaderDict(recorded.headers),
            status=recorded.status,
            reason=recorded.reason,
            preload_content=False,
            decode_content=False,
            request_method=key.method,
        )
        response = requests.Response()
        response.status_code = recorded.status
        response.reason = recorded.reason
        response.headers = requests.structures.CaseInsensitiveDict(raw.headers)
        response.raw = raw
        response.url = request.url or ""
        response.request = request
        return response

    def _recorded_for(self, key: _Key, authorized: bool) -> tuple[tuple[_Key, bool], list[_RecordedResponse]] | None:
        """Return the responses to a request; those recorded with a token are preferred if the request has one."""
        for entry in ((key, authorized), (key, not authorized)):
            if responses := self._responses.get(entry):
                return entry, responses
        return None

    def _find_recorded(self, key: _Key, authorized: bool) -> tuple[_RecordedResponse, io.BufferedIOBase] | None:
        """Return the recorded response to a request, and its body."""
        # A caller's URL may have parameters that the recorder left out.
        found = self._recorded_for(key, authorized) or self._recorded_for(
            evolve(key, url=scrub_url(key.url)), authorized
        )
        if found is None:
            return None
        entry, responses = found
        with self._lock:
            number = self._replayed[entry]
            self._replayed[entry] += 1
        response = responses[min(number, len(responses) - 1)]
        if key.method == "GET" and response.span and response.length is not None and response.stored < response.length:
            start, size = response.span
            if (pieces := self._pieces(entry[0], authorized, size, start, start + response.length)) is not None:
                return response, io.BufferedReader(_JoinedPieces(pieces))
        return response, response.open()

    def _derive(self, key: _Key, authorized: bool) -> tuple[_RecordedResponse, io.BufferedIOBase] | None:
        """Return the response to a request that was not recorded, if it follows from the responses to a GET."""
        if key.method not in {"GET", "HEAD"}:
            return None
        similar = self._same_url(key, authorized)
        spans = {response.span[1]: response for response in reversed(similar) if response.span}
        if len(spans) == 1:
            [(size, like)] = spans.items()
            return self._part(key, authorized, like, size)
        # Redirects, denials and 404 do not depend on the requested range.
        elsewhere = [response for response in similar if 300 <= response.status < 405]
        return (elsewhere[-1], elsewhere[-1].open()) if elsewhere and not spans else None

    def _part(
        self, key: _Key, authorized: bool, like: _RecordedResponse, size: int
    ) -> tuple[_RecordedResponse, io.BufferedIOBase] | None:
        """Return the requested range of a body of ``size`` bytes, if all of it was recorded."""
        start, end = 0, size
        if key.range:
            match = re.fullmatch("bytes=([0-9]{0,18})-([0-9]{0,18})", key.range)
            if match is None or match[0] == "bytes=-":
                return None
            first, last = match.groups()
            start = int(first) if first else max(0, size - int(last))
            end = min(size, int(last) + 1) if first and last else size
        framing = {"content-length", "content-range"}
        headers = [(name, value) for name, value in like.headers if name.lower() not in framing]
        if key.range and start >= end:
            headers += [("Content-Range", f"bytes */{size}"), ("Content-Length", "0")]
            return _RecordedResponse(416, "Range Not Satisfiable", tuple(headers), b""), io.BytesIO()
        pieces = self._pieces(key, authorized, size, start, end) if key.method == "GET" else []
        if pieces is None:
            return None
        headers.append(("Content-Length", str(end - start)))
        if key.range:
            headers.append(("Content-Range", f"bytes {start}-{end - 1}/{size}"))
        response = _RecordedResponse(206 if key.range else 200, "", tuple(headers), b"")
        return response, io.BufferedReader(_JoinedPieces(pieces))

    def _same_url(self, key: _Key, authorized: bool) -> list[_RecordedResponse]:
        """Return the responses to a GET of a URL, of any range; first those with or without a token as the request."""
        at = self._by_url.get((scrub_url(key.url), key.accept), [])
        alike = sorted(at, key=lambda entry: entry[1] != authorized)
        return [response for entry in alike for response in self._responses[entry]]

    def _pieces(self, key: _Key, authorized: bool, size: int, start: int, end: int) -> list[_Piece] | None:
        """Return where bytes of a body of ``size`` are, from ``start`` to before ``end``; None if one is missing."""
        spans = [
            (response.span[0], response.span[0] + response.stored, response)
            for response in self._same_url(key, authorized)
            if response.span and response.span[1] == size
        ]
        pieces: list[_Piece] = []
        while start < end:
            first, stop, response = max(
                (span for span in spans if span[0] <= start), key=lambda span: span[1], default=(0, 0, None)
            )
            if response is None or stop <= start:
                return None
            pieces.append(_Piece(response, start - first, min(stop, end) - start))
            start = min(stop, end)
        return pieces

    def _raise_missing(self, key: _Key) -> tuple[_RecordedResponse, io.BufferedIOBase]:
        message = f"{self._path} holds no answer to {key.method} {redact(key.url)}"
        details = [f"{name}: {value}" for name, value in (("Range", key.range), ("Accept", key.accept)) if value]
        raise Unreachable(f"{message} ({'; '.join(details)})" if details else message, url=key.url)

    def close(self) -> None:
        """Do nothing: the adapter holds no resources."""

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self._path,))


def _key(method: str, url: str, headers: Mapping[str, Any]) -> _Key:
    return _Key(method, url, headers.get("Range", ""), headers.get("Accept", ""))


@functools.lru_cache(maxsize=16)
def _load_cassettes(path: Path) -> dict[tuple[_Key, bool], list[_RecordedResponse]]:
    """Read cassettes; a process reads each once."""
    files = sorted(path.rglob("*.yaml")) if path.is_dir() else [path]
    responses: dict[tuple[_Key, bool], list[_RecordedResponse]] = {}
    for file in files:
        for key, authorized, response in _interactions(file):
            responses.setdefault((key, authorized), []).append(response)
    if not responses:
        message = f"{str(path)!r} holds no cassette"
        raise InvalidConfig(message)
    return responses


def _interactions(file: Path) -> Iterator[tuple[_Key, bool, _RecordedResponse]]:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra("replay", "playing a cassette") from error
    try:
        for interaction in _load(file)["interactions"]:
            request, response = interaction["request"], interaction["response"]
            headers = requests.structures.CaseInsensitiveDict(
                {name: values[0] for name, values in request["headers"].items()}
            )
            body = response["body"]
            text = body["string"]
            inline = text if isinstance(text, bytes) else text.encode()
            yield (
                _key(request["method"], request["uri"], headers),
                "Authorization" in headers,
                _RecordedResponse(
                    status=response["status"]["code"],
                    reason=response["status"]["message"] or "",
                    headers=tuple((name, value) for name, values in response["headers"].items() for value in values),
                    body=_body_file(file, body["file"]) if "file" in body else inline,
                ),
            )
    except InvalidConfig:
        raise
    except (OSError, LookupError, TypeError, AttributeError, ValueError, RecursionError, yaml.YAMLError) as error:
        message = f"{str(file)!r} cannot be read as a cassette: {type(error).__name__}: {error}"
        raise InvalidConfig(message) from error


def _load(file: Path) -> Any:  # noqa: ANN401 - whatever is in the file
    """Return what a file of YAML holds, if it is no deeper than a cassette may be."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = file.read_bytes()
    depth = 0
    for event in yaml.parse(text, Loader=loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > _DEPTH:  # to load what is deep enough would end the process: libyaml's side of it recurses in C
            message = f"{str(file)!r} is nested deeper than {_DEPTH} levels, which no cassette is"
            raise InvalidConfig(message)
    return yaml.load(text, Loader=loader)  # noqa: S506 - both are safe


def _body_file(cassette: Path, name: object) -> Path:
    """Return the file that a cassette names for a body, which lies where its own files do, links followed."""
    folder = cassette.parent.resolve()
    if isinstance(name, str):
        with contextlib.suppress(OSError, ValueError, RuntimeError):  # a NUL, or links that lead in a circle
            file = (folder / name).resolve()
            if any(file.is_relative_to(place) for place in (folder, folder.parent / "bodies")):
                return file
    message = (
        f"{str(cassette)!r} names {name!r} as the file of a body: that has to be in the folder of the cassette, "
        "or in a folder 'bodies' beside it"
    )
    raise InvalidConfig(message)
