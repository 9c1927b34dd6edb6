"""Record the responses of registries in cassettes, without secrets, so that `replay` can play them.

This module lists the headers and query parameters that a cassette keeps, for `record` and for recordings by vcrpy:
those that a client reads. All others may be secrets, or differ between recordings. Long or binary bodies are stored in
files named by their SHA-256.

A cassette contains only content that was read: other parts of a layer cannot be played.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import re
import shutil
import tempfile
import threading
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit, urlunsplit

from distsdk._secrets import HIDDEN, masked, replace_signatures, without_secrets
from distsdk.errors import MissingExtra
from distsdk.transport.auth import parse_challenges

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import BinaryIO

    import requests

    from distsdk.transport.auth import AuthChallenge

_log = logging.getLogger(__name__)

#: Bytes of text that stay in the cassette; what is longer, or no ASCII, is a file.
INLINE = 1024

#: Bytes of a body that are held in memory until it has ended.
_IN_MEMORY = 64 * 1024

#: Bytes of the longest body in which secrets are looked for: no document is longer, unless `Limits` says so.
_SCRUBBED = 4 * 1024 * 1024

REQUEST_HEADERS = frozenset({"accept", "authorization", "range"})
RESPONSE_HEADERS = frozenset(
    {
        "accept-ranges",
        "content-length",
        "content-range",
        "content-type",
        "docker-content-digest",
        "docker-distribution-api-version",
        "link",
        "location",
        "oci-filters-applied",
        "oci-subject",
        "retry-after",
        "www-authenticate",
    }
)
QUERY = frozenset({"artifactType", "digest", "from", "last", "mount", "n", "ns", "scope", "service"})
#: Parameters of a challenge that mean something to a client.
_CHALLENGE_PARAMS = ("realm", "service", "scope", "error")
#: Characters of a quoted string that take a backslash (RFC 9110 section 5.6.4).
_TO_ESCAPE, _ESCAPED = r'(["\\])', r"\\\1"
TOKENS = ("token", "access_token", "refresh_token", "id_token")
REDACTED = HIDDEN
_TOKEN = re.compile(rb'("(?:access_|refresh_|id_)?token"\s*:\s*")[^"]*')

_active: ContextVar[Recorder | None] = ContextVar("distsdk_record", default=None)


@contextlib.contextmanager
def record(path: str | os.PathLike[str]) -> Iterator[None]:
    """Record the requests of remotes connected inside the ``with`` block, with their responses, in a cassette.

    The cassette is written when the block ends, even by an error, and replaces an earlier one atomically. Logins,
    tokens, cookies, signatures of URLs and headers that no client reads are left out. Content is recorded, so that a
    cassette of a private image contains private content. `replay` plays the cassette. Threads may share the block.
    Inside a `replay` block, the played responses are recorded.

    Args:
        path: The cassette, ending in ``.yaml``; or a directory, in which it is named ``cassette.yaml``. Long or binary
            bodies are stored in the directory ``bodies`` next to the cassette.

    Raises:
        MissingExtra: PyYAML is not installed.
        OSError: The cassette cannot be written.

    Examples:
        >>> with distsdk.record("recorded/redis"):
        ...     descriptor = distsdk.connect("docker.io/library/redis").resolve("7")
        >>> with distsdk.replay("recorded/redis"):
        ...     descriptor == distsdk.connect("docker.io/library/redis").resolve("7")
        True
    """
    try:
        import yaml  # noqa: F401 - before anything is asked
    except ImportError as error:
        raise MissingExtra("replay", "recording a cassette") from error
    named = Path(path).absolute()
    recorder = Recorder(named if named.suffix in {".yaml", ".yml"} else named / "cassette.yaml")
    token = _active.set(recorder)
    try:
        yield
    finally:
        _active.reset(token)
        recorder.finish()


def active_recorder() -> Recorder | None:
    """Return what the `record` block around the caller writes with."""
    return _active.get()


class RecordedExchange:
    """A request and its answer, whose body is added as it is read."""

    def __init__(self, request_entry: dict[str, Any], response_entry: dict[str, Any], url: str, scratch: Path) -> None:
        """Made by `Recorder.exchange`."""
        self._request_entry = request_entry
        self._response_entry = response_entry
        self._url = url
        self._scratch = scratch
        self._hash = hashlib.sha256()
        self._start = bytearray()
        self._file: BinaryIO | None = None
        self._open = True
        self._lock = threading.Lock()

    def add(self, data: bytes) -> None:
        """Add the next bytes of the body."""
        with self._lock:
            if not self._open:
                return
            self._hash.update(data)
            if self._file is None and len(self._start) + len(data) <= _IN_MEMORY:
                self._start += data
                return
            if self._file is None:
                self._file = self._scratch.open("xb")
                self._file.write(self._start)
                self._start.clear()
            self._file.write(data)

    def close(self) -> None:
        """Nothing follows."""
        with self._lock:
            self._open = False
            if self._file is not None:
                self._file.close()

    def interaction(self, cassette: Path) -> dict[str, Any]:
        """Return what a cassette says of it, with the body where that names it."""
        self.close()
        response_entry = self._response_entry
        if self._file is not None and self._scratch.stat().st_size > _SCRUBBED:
            return {"request": self._request_entry, "response": {**response_entry, "body": self._moved(cassette)}}
        raw = bytes(self._start) if self._file is None else self._scratch.read_bytes()
        data = scrub_body(raw, url=self._url, status=response_entry["status"]["code"])
        if data != raw:
            response_entry = {**response_entry, "headers": with_length(response_entry["headers"], len(data))}
        body = keep_body(data, cassette, cassette.parent / "bodies")
        return {"request": self._request_entry, "response": {**response_entry, "body": body}}

    def _moved(self, cassette: Path) -> dict[str, Any]:
        """Return what a cassette says of a body that is a file already, which is moved to where it belongs."""
        name = self._hash.hexdigest()
        path = cassette.parent / "bodies" / name[:2] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        self._scratch.replace(path)
        return {"file": path.relative_to(cassette.parent).as_posix(), "string": ""}


class Recorder:
    """Collects exchanges for one cassette; threads may share it.

    A process that was forked off records nothing: its parent writes the cassette.
    """

    def __init__(self, cassette: Path) -> None:
        """Begin a cassette; where it cannot be written, fail now."""
        self._cassette = cassette
        cassette.parent.mkdir(parents=True, exist_ok=True)
        self._scratch = Path(tempfile.mkdtemp(prefix=".recording-", dir=cassette.parent))
        self._exchanges: list[RecordedExchange] = []
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._finished = False

    def exchange(self, request: requests.PreparedRequest, response: requests.Response) -> RecordedExchange | None:
        """Return what the body of an answer is to be added to; None where it is not recorded."""
        url = request.url or ""
        method = request.method or ""
        if method == "POST" and request.headers.get("Content-Type") == "application/x-www-form-urlencoded":
            # Record a token request with a login as the GET that replay, which has no login, will send:
            # https://distribution.github.io/distribution/spec/auth/token/
            if response.status_code != 200:
                return None  # a GET followed
            form = parse_qs(request.body.decode() if isinstance(request.body, bytes) else request.body)
            pairs = [("service", name) for name in form.get("service", [])]
            pairs += [("scope", scope) for scopes in form.get("scope", []) for scope in scopes.split()]
            method, url = "GET", f"{url}{'&' if '?' in url else '?'}{urlencode(pairs)}"
        request_entry = {
            "body": None,
            "headers": {name: [text] for name, text in scrub_request_headers(request.headers).items()},
            "method": method,
            "uri": scrub_url(url),
        }
        response_entry = {
            "headers": {name: [text] for name, text in scrub_response_headers(response.headers).items()},
            "status": {"code": response.status_code, "message": masked(response.reason or "")},
        }
        with self._lock:
            if self._finished or os.getpid() != self._process:
                return None
            scratch = self._scratch / str(len(self._exchanges))
            self._exchanges.append(RecordedExchange(request_entry, response_entry, url, scratch))
            return self._exchanges[-1]

    def finish(self) -> None:
        """Write the cassette, if anything was asked."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._finished = True
        try:
            if self._exchanges:
                self._write([exchange.interaction(self._cassette) for exchange in self._exchanges])
            else:
                _log.warning("%s was not written: nothing was asked of a registry", self._cassette)
        finally:
            for exchange in self._exchanges:
                exchange.close()
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _write(self, interactions: list[dict[str, Any]]) -> None:
        import yaml

        new = self._scratch / "cassette.yaml"
        dumper = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
        new.write_text(yaml.dump({"interactions": interactions, "version": 1}, Dumper=dumper), encoding="utf-8")
        new.replace(self._cassette)


def scrub_url(url: str) -> str:
    """Return a URL, absolute or relative, without a user, and without what may be a signature or a secret.

    Parameters are kept by name. Segments of a path that look like signatures are replaced by their hashes, so that the
    same URL stays the same, and others stay others.
    """
    parts = urlsplit(url)
    query = "&".join(pair for pair in parts.query.split("&") if pair.partition("=")[0] in QUERY)
    path = replace_signatures(parts.path, _hashed)
    return masked(urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], path, query, "")))


def _hashed(segment: str) -> str:
    return f"{HIDDEN}-{hashlib.sha256(segment.encode()).hexdigest()[:12]}"


def scrub_request_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that tell one request from another; that there was a login stays to be seen."""
    kept = {name: text for name, text in headers.items() if name.lower() in REQUEST_HEADERS}
    return {name: REDACTED if name.lower() == "authorization" else text for name, text in kept.items()}


def scrub_response_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Return the headers that mean something to a client, with the URLs in them scrubbed."""
    return {name: _scrub_urls(name.lower(), text) for name, text in headers.items() if name.lower() in RESPONSE_HEADERS}


def _scrub_urls(name: str, value: str) -> str:
    match name:
        case "location":
            return scrub_url(value)
        case "link":
            return masked(re.sub("<([^>]*)>", lambda target: f"<{scrub_url(target[1])}>", value))
        case "www-authenticate":
            return ", ".join(map(_scrub_challenge, parse_challenges(value)))
    return masked(value)


def _scrub_challenge(challenge: AuthChallenge) -> str:
    """Return a challenge with the parameters that a client reads; what cannot be parsed no client can."""
    params = {name: challenge.params[name] for name in _CHALLENGE_PARAMS if name in challenge.params}
    if "realm" in params:
        params["realm"] = scrub_url(params["realm"])
    quoted = (f'{name}="{re.sub(_TO_ESCAPE, _ESCAPED, masked(text))}"' for name, text in params.items())
    return masked(f"{challenge.scheme.capitalize()} {','.join(quoted)}".strip())


def scrub_body(body: bytes, *, url: str = "", status: int = 200) -> bytes:
    """Return a body without tokens. What is scrubbed already stays as it is.

    Args:
        body: All of it.
        url: Where it came from. What this names by its SHA-256 is content, and stays as it is.
        status: Of what is no success only JSON is kept, with its texts without secrets: pages that redirect, and errors
            of object stores, quote signatures.
    """
    if hashlib.sha256(body).hexdigest() in url:
        return body
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        if not 200 <= status < 300:
            return b""
        # A reply that broke off in the middle of a token.
        return _TOKEN.sub(rb"\1REDACTED", body) if body.lstrip().startswith(b"{") else body
    scrubbed = reply
    if isinstance(reply, dict) and any(name in reply for name in TOKENS):
        scrubbed = {**reply, **{name: REDACTED for name in TOKENS if name in reply}}
        scrubbed.pop("issued_at", None)
    if not 200 <= status < 300:
        try:
            scrubbed = _scrub_texts(scrubbed)
        except RecursionError:
            return b""
    return body if scrubbed == reply else json.dumps(scrubbed, sort_keys=True).encode()


def _scrub_texts(value: object) -> object:
    """Return a JSON value whose texts have their URLs redacted and known secrets masked."""
    match value:
        case str():
            return without_secrets(value)
        case list():
            return [_scrub_texts(inner) for inner in value]
        case dict():
            return {without_secrets(name): _scrub_texts(inner) for name, inner in value.items()}
    return value


def with_length(headers: Mapping[str, list[str]], length: int) -> dict[str, list[str]]:
    """Return headers as vcrpy has them, with another length of the body."""
    kept = {name: values for name, values in headers.items() if name.lower() != "content-length"}
    return {**kept, "Content-Length": [str(length)]}


def keep_body(data: bytes, cassette: Path, bodies: Path) -> dict[str, Any]:
    """Return what a cassette says of a body, which is put into the folder ``bodies`` where it is long or binary."""
    if len(data) <= INLINE and data.isascii():
        return {"string": data.decode()}
    name = hashlib.sha256(data).hexdigest()
    path = bodies / name[:2] / name
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{name}-{os.getpid()}")
    new.write_bytes(data)
    new.replace(path)
    return {"file": Path(os.path.relpath(path, cassette.parent)).as_posix(), "string": ""}
