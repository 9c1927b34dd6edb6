"""Playing cassettes: what a registry once said, said again without network.

A cassette is the YAML file that vcrpy writes. A body may lie in a file of its own, which `body.file` names relative to
the cassette: in the cassette's folder, or in the folder ``bodies`` beside that one, and nowhere else, as cassettes come
from others. Unlike vcrpy, this plays to any number of threads and streams bodies from their files.

A request that was recorded gets its own answer. What was not, but follows from what was, is answered too: a part of a
body of which all was read, or the parts it consists of; the headers of what was read; and where a part is said to be,
if that is another host. What is read of a blob depends on the speed of a network, which a cassette has not.
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
    """Let every remote that is connected inside the ``with`` block read from cassettes instead of the network.

    ``DISTSDK_REPLAY`` in the environment does the same for a whole process.

    Args:
        path: A cassette, or a folder: then every ``*.yaml`` below it.

    Raises:
        InvalidConfig: There is no cassette there, or it is none.
        MissingExtra: PyYAML is not installed.

    Examples:
        >>> with distsdk.replay("cassettes"):
        ...     remote = distsdk.connect("docker.io/library/redis")
        >>> len(remote.fetch("latest", "mediatype:application/vnd.docker.distribution.manifest.v2+json").read())
        1238
    """
    cassettes = Path(path)
    _recorded(cassettes)
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
    """What tells one request from another. Who asked, with which token, does not."""

    method: str
    url: str
    range: str
    accept: str


@frozen
class _Recorded:
    """An answer as it was recorded."""

    status: int
    reason: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | Path

    @property
    def stored(self) -> int:
        """Bytes of the body that are there; fewer than its length where it was left, or broke."""
        if isinstance(self.body, bytes):
            return len(self.body)
        with contextlib.suppress(OSError):  # which `open` tells
            return self.body.stat().st_size
        return 0

    @property
    def length(self) -> int | None:
        """The ``Content-Length``, None where there is none."""
        text = self.header("Content-Length")
        return int(text) if re.fullmatch("[0-9]{1,18}", text) else None

    @property
    def span(self) -> tuple[int, int] | None:
        """Where the body begins in the whole, and the length of that; None where this is no such body."""
        if self.status == 200:
            return (0, self.stored if self.length is None else self.length)
        part = re.fullmatch("bytes ([0-9]{1,18})-[0-9]{1,18}/([0-9]{1,18})", self.header("Content-Range"))
        return (int(part[1]), int(part[2])) if self.status == 206 and part else None

    def header(self, name: str) -> str:
        """Return the value of a header, "" where there is none."""
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
    """Bytes of a body that one answer holds: so many, from an offset in what it stored."""

    answer: _Recorded
    offset: int
    count: int


class _Joined(io.RawIOBase):
    """Pieces, one after the other; each is opened when it is come to."""

    def __init__(self, pieces: list[_Piece]) -> None:
        super().__init__()
        self.iter_pieces = iter(pieces)
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
            if self._left or (piece := next(self.iter_pieces, None)) is None:
                return 0
            self._file.close()
            self._file, self._left = piece.answer.open(piece.offset), piece.count

    def close(self) -> None:
        self._file.close()
        super().close()


class CassetteAdapter(requests.adapters.BaseAdapter):
    """Answers the requests of a session from cassettes.

    The answers to one request are given in the order they were recorded, the last one again and again. Requests with
    a token and without one are told apart, so that a recorded challenge is met where it was met.
    """

    def __init__(self, path: Path) -> None:
        """Read the cassette, or all cassettes below a folder."""
        super().__init__()
        self._path = path
        self._answers = _recorded(path)
        self._by_url: defaultdict[tuple[str, str], list[tuple[_Key, bool]]] = defaultdict(list)
        for known in self._answers:
            if known[0].method == "GET":
                self._by_url[scrub_url(known[0].url), known[0].accept].append(known)
        self._given: defaultdict[tuple[_Key, bool], int] = defaultdict(int)
        self._lock = threading.Lock()

    def send(  # noqa: D102 - as in BaseAdapter
        self, request: requests.PreparedRequest, *_: object, **__: object
    ) -> requests.Response:
        key = _key(request.method or "", request.url or "", request.headers)
        authorized = "Authorization" in request.headers
        answer, body = self._find(key, authorized) or self._follows(key, authorized) or self._missing(key)
        raw = urllib3.HTTPResponse(
            body=body,
            headers=urllib3.HTTPHeaderDict(answer.headers),
            status=answer.status,
            reason=answer.reason,
            preload_content=False,
            decode_content=False,
            request_method=key.method,
        )
        response = requests.Response()
        response.status_code = answer.status
        response.reason = answer.reason
        response.headers = requests.structures.CaseInsensitiveDict(raw.headers)
        response.raw = raw
        response.url = request.url or ""
        response.request = request
        return response

    def _recorded_for(self, key: _Key, authorized: bool) -> tuple[tuple[_Key, bool], list[_Recorded]] | None:
        """Return what was said to a request, with a token or without; whether there was one counts where both were."""
        for known in ((key, authorized), (key, not authorized)):
            if answers := self._answers.get(known):
                return known, answers
        return None

    def _find(self, key: _Key, authorized: bool) -> tuple[_Recorded, io.BufferedIOBase] | None:
        """Return the answer to what was recorded."""
        # What a recorder left out of a URL, a caller who was not told it by the cassette may still ask with.
        found = self._recorded_for(key, authorized) or self._recorded_for(
            evolve(key, url=scrub_url(key.url)), authorized
        )
        if found is None:
            return None
        known, answers = found
        with self._lock:
            number = self._given[known]
            self._given[known] += 1
        answer = answers[min(number, len(answers) - 1)]
        if key.method == "GET" and answer.span and answer.length is not None and answer.stored < answer.length:
            start, size = answer.span
            if (pieces := self.iter_pieces(known[0], authorized, size, start, start + answer.length)) is not None:
                return answer, io.BufferedReader(_Joined(pieces))
        return answer, answer.open()

    def _follows(self, key: _Key, authorized: bool) -> tuple[_Recorded, io.BufferedIOBase] | None:
        """Return the answer to a request that was not recorded, where it follows from what was said to a GET."""
        if key.method not in {"GET", "HEAD"}:
            return None
        known = self._others(key, authorized)
        spans = {answer.span[1]: answer for answer in reversed(known) if answer.span}
        if len(spans) == 1:
            [(size, like)] = spans.items()
            return self._part(key, authorized, like, size)
        # Where the bytes are, who may have them, and that there are none, does not depend on which are asked for.
        elsewhere = [answer for answer in known if 300 <= answer.status < 405]
        return (elsewhere[-1], elsewhere[-1].open()) if elsewhere and not spans else None

    def _part(
        self, key: _Key, authorized: bool, like: _Recorded, size: int
    ) -> tuple[_Recorded, io.BufferedIOBase] | None:
        """Return what was asked for of a body of ``size`` bytes, if all of that was recorded."""
        start, end = 0, size
        if key.range:
            asked = re.fullmatch("bytes=([0-9]{0,18})-([0-9]{0,18})", key.range)
            if asked is None or asked[0] == "bytes=-":
                return None
            first, last = asked.groups()
            start = int(first) if first else max(0, size - int(last))
            end = min(size, int(last) + 1) if first and last else size
        framing = {"content-length", "content-range"}
        headers = [(name, value) for name, value in like.headers if name.lower() not in framing]
        if key.range and start >= end:
            headers += [("Content-Range", f"bytes */{size}"), ("Content-Length", "0")]
            return _Recorded(416, "Range Not Satisfiable", tuple(headers), b""), io.BytesIO()
        pieces = self.iter_pieces(key, authorized, size, start, end) if key.method == "GET" else []
        if pieces is None:
            return None
        headers.append(("Content-Length", str(end - start)))
        if key.range:
            headers.append(("Content-Range", f"bytes {start}-{end - 1}/{size}"))
        answer = _Recorded(206 if key.range else 200, "", tuple(headers), b"")
        return answer, io.BufferedReader(_Joined(pieces))

    def _others(self, key: _Key, authorized: bool) -> list[_Recorded]:
        """Return what was said to a GET of a URL, whatever range was asked for; first, to who had a token, too."""
        at = self._by_url.get((scrub_url(key.url), key.accept), [])
        alike = sorted(at, key=lambda known: known[1] != authorized)
        return [answer for known in alike for answer in self._answers[known]]

    def iter_pieces(self, key: _Key, authorized: bool, size: int, start: int, end: int) -> list[_Piece] | None:
        """Return where bytes of a body of ``size`` are, from ``start`` to before ``end``; None if one is missing."""
        known = [answer for answer in self._others(key, authorized) if answer.span and answer.span[1] == size]
        spans = [(answer.span[0], answer.span[0] + answer.stored, answer) for answer in known if answer.span]
        pieces: list[_Piece] = []
        while start < end:
            first, stop, answer = max(
                (span for span in spans if span[0] <= start), key=lambda span: span[1], default=(0, 0, None)
            )
            if answer is None or stop <= start:
                return None
            pieces.append(_Piece(answer, start - first, min(stop, end) - start))
            start = min(stop, end)
        return pieces

    def _missing(self, key: _Key) -> tuple[_Recorded, io.BufferedIOBase]:
        message = f"{self._path} holds no answer to {key.method} {redact(key.url)}"
        details = [f"{name}: {value}" for name, value in (("Range", key.range), ("Accept", key.accept)) if value]
        raise Unreachable(f"{message} ({'; '.join(details)})" if details else message, url=key.url)

    def close(self) -> None:
        """Nothing is held."""

    def __reduce__(self) -> tuple[object, ...]:
        return (type(self), (self._path,))


def _key(method: str, url: str, headers: Mapping[str, Any]) -> _Key:
    return _Key(method, url, headers.get("Range", ""), headers.get("Accept", ""))


@functools.lru_cache(maxsize=16)
def _recorded(path: Path) -> dict[tuple[_Key, bool], list[_Recorded]]:
    """Read cassettes; a process reads each once."""
    files = sorted(path.rglob("*.yaml")) if path.is_dir() else [path]
    answers: dict[tuple[_Key, bool], list[_Recorded]] = {}
    for file in files:
        for key, authorized, answer in _interactions(file):
            answers.setdefault((key, authorized), []).append(answer)
    if not answers:
        message = f"{str(path)!r} holds no cassette"
        raise InvalidConfig(message)
    return answers


def _interactions(file: Path) -> Iterator[tuple[_Key, bool, _Recorded]]:
    try:
        import yaml
    except ImportError as error:
        raise MissingExtra("replay", "playing a cassette") from error
    try:
        for interaction in _load(file)["interactions"]:
            asked, said = interaction["request"], interaction["response"]
            headers = requests.structures.CaseInsensitiveDict(
                {name: values[0] for name, values in asked["headers"].items()}
            )
            body = said["body"]
            text = body["string"]
            inline = text if isinstance(text, bytes) else text.encode()
            yield (
                _key(asked["method"], asked["uri"], headers),
                "Authorization" in headers,
                _Recorded(
                    status=said["status"]["code"],
                    reason=said["status"]["message"] or "",
                    headers=tuple((name, value) for name, values in said["headers"].items() for value in values),
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
