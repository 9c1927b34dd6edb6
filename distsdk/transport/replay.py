"""Playing cassettes: what a registry once said, said again without network.

A cassette is the YAML file that vcrpy writes. A body may lie in a file of its own, which `body.file` names relative to
the cassette: in the cassette's folder, or in the folder ``bodies`` beside that one, and nowhere else, as cassettes come
from others. Unlike vcrpy, this plays to any number of threads and streams bodies from their files.
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import threading
from collections import defaultdict
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import requests
import urllib3
from attrs import frozen

from distsdk.errors import InvalidConfig, MissingExtra, Unreachable, redact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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

    def open(self) -> io.BufferedIOBase:
        if isinstance(self.body, bytes):
            return io.BytesIO(self.body)
        try:
            return self.body.open("rb")
        except OSError as error:
            message = f"{str(self.body)!r} cannot be read: a cassette needs the files that it names for bodies"
            raise InvalidConfig(message) from error


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
        self._given: defaultdict[tuple[_Key, bool], int] = defaultdict(int)
        self._lock = threading.Lock()

    def send(  # noqa: D102 - as in BaseAdapter
        self, request: requests.PreparedRequest, *_: object, **__: object
    ) -> requests.Response:
        key = _key(request.method or "", request.url or "", request.headers)
        authorized = "Authorization" in request.headers
        if (key, authorized) not in self._answers:
            authorized = not authorized
        answers = self._answers.get((key, authorized))
        if not answers:
            message = f"{self._path} holds no answer to {key.method} {redact(key.url)}"
            details = [f"{name}: {value}" for name, value in (("Range", key.range), ("Accept", key.accept)) if value]
            raise Unreachable(f"{message} ({'; '.join(details)})" if details else message, url=key.url)
        with self._lock:
            number = self._given[key, authorized]
            self._given[key, authorized] += 1
        answer = answers[min(number, len(answers) - 1)]
        raw = urllib3.HTTPResponse(
            body=answer.open(),
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
