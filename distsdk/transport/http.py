"""Requests to a registry: one session a process, time limits, tokens, redirects, and errors translated at one seam."""

from __future__ import annotations

import contextlib
import http.client
import http.cookiejar
import json
import logging
import os
import pickle
import ssl
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Self
from urllib.parse import urljoin, urlsplit

import requests
import urllib3.exceptions
from attrs import frozen

from distsdk import __version__
from distsdk.errors import (
    DeadlineExceeded,
    Denied,
    DistError,
    InvalidConfig,
    LimitExceeded,
    NotFound,
    RateLimited,
    RegistryError,
    Unreachable,
    Unsafe,
    redact,
)
from distsdk.transport.auth import Tokens
from distsdk.transport.deadline import Deadline, TimedAdapter, reaching_the_socket
from distsdk.transport.replay import active_session

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from distsdk.transport.hosts import Hosts

_log = logging.getLogger(__name__)

#: Redirects that are followed for one request.
MAX_REDIRECTS = 5

#: Connections that are kept open to one host; more are opened when more are needed.
KEPT_CONNECTIONS = 16


@frozen
class Timeouts:
    """How long to wait, in seconds.

    Attributes:
        connect: For a connection, TLS included.
        read: Without a byte.
        document: For a whole document: manifest, token, page of tags. Blobs have no such limit.
    """

    connect: float = 10.0
    read: float = 30.0
    document: float = 60.0


@frozen
class Limits:
    """How much to take from a registry.

    Attributes:
        document: Bytes of a manifest, an index or a page of tags.
        token: Bytes of a token service's reply.
        error: Bytes of an error's body that are read.
        pages: Pages of one listing.
    """

    document: int = 4 * 1024 * 1024
    token: int = 64 * 1024
    error: int = 16 * 1024
    pages: int = 10_000


class Answer:
    """A successful answer: status, headers, and a body to read (a `ByteStream`).

    Attributes:
        url: Where the answer came from, after redirects.
        path: The path that was asked for, before any redirect.
    """

    def __init__(self, response: requests.Response, url: str, read_timeout: float) -> None:
        """Made by `Transport.request`."""
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.url = url
        self.path = urlsplit(url).path
        self._response = response
        self._read_timeout = read_timeout

    @property
    def content_length(self) -> int | None:
        """The ``Content-Length`` in bytes; None where there is none or it is no number."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes as they came over the wire, without undoing any Content-Encoding."""
        with _translated(self.url, self._read_timeout):
            data: bytes = self._response.raw.read1(size, decode_content=False)
            return data

    def read_document(self, limit: int, deadline: Deadline, *, what: str) -> bytes:
        """Return the whole body, which must be no longer than ``limit`` bytes.

        Raises:
            LimitExceeded: It is longer.
            DeadlineExceeded: It does not come in time.
        """
        declared = self.content_length
        parts: list[bytes] = []
        total = 0
        with self:
            while declared is None or declared <= limit:
                deadline.left()
                part = self.read(min(64 * 1024, limit + 1 - total))
                if not part:
                    return b"".join(parts)
                parts.append(part)
                total += len(part)
                if total > limit:
                    break
        message = f"{what} is longer than the limit of {limit} bytes"
        raise LimitExceeded(message, limit=limit)

    def discard(self, limit: int) -> None:
        """Be done with the answer; a body of up to ``limit`` bytes is read so that its connection can be used again."""
        with contextlib.suppress(DistError), self:
            if (self.content_length or 0) <= limit:
                while limit > 0 and (part := self.read(limit)):
                    limit -= len(part)

    def close(self) -> None:
        """Give the connection back, or end it in the middle of a body."""
        self._response.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@frozen
class _Process:
    """What belongs to one process."""

    session: requests.Session
    tokens: Tokens


class Transport:
    """What a remote sends its requests through.

    Threads may share one. A forked child makes a session of its own. Pickles carry neither session nor tokens.

    Args:
        endpoint: ``scheme://host[:port]`` of the registry; tokens go nowhere else.
        hosts: Certificate authorities and proxies.
        timeouts: How long to wait.
        limits: How much to take.
        session: Sends the requests, with its adapters, ``verify`` and ``cert``; its headers, cookies, ``auth``, proxies
            and ``trust_env`` are not used. By default one is made, or one that plays a cassette where `replay` says so.
    """

    def __init__(
        self,
        endpoint: str,
        *,
        hosts: Hosts,
        timeouts: Timeouts,
        limits: Limits,
        session: requests.Session | None = None,
    ) -> None:
        self.endpoint = endpoint
        self.hosts = hosts
        self.timeouts = timeouts
        self.limits = limits
        self._origin = _origin(endpoint)
        self._given = session or active_session()
        self._given_in = os.getpid()
        self._processes: dict[int, _Process] = {}
        self._proxies: dict[tuple[str, str, int], dict[str, str]] = {}

    def document_deadline(self) -> Deadline:
        """Return the moment by which a document that is asked for now has to be here."""
        return Deadline(self.timeouts.document)

    def request(
        self,
        method: str,
        url: str,
        *,
        scope: str,
        headers: Mapping[str, str] | None = None,
        deadline: Deadline | None = None,
    ) -> Answer:
        """Send a request, meet a challenge, follow redirects, and return a successful answer.

        Args:
            method: ``GET`` or ``HEAD``.
            url: Path and query at the endpoint, or a whole URL of the same origin.
            scope: What a token has to allow, ``repository:library/redis:pull``.
            headers: Sent besides the transport's own.
            deadline: When the body has to be here; by default there is one for the headers, tokens and redirects
                included, but none for the body.

        Raises:
            NotFound, Denied, RateLimited, RegistryError: The registry's answer is no success.
            Unreachable, DeadlineExceeded: There was none.
            Unsafe: A redirect leads where none may lead.
        """
        url = urljoin(self.endpoint, url)
        path = urlsplit(url).path
        until = deadline or self.document_deadline()
        tokens = self._process().tokens
        authorization = tokens.header(scope, until)
        challenged = False
        for _ in range(MAX_REDIRECTS + 1):
            at_home = _origin(url) == self._origin
            answer = self._send(method, url, headers, authorization if at_home else None, until)
            challenge = answer.headers.get("WWW-Authenticate", "")
            if answer.status == 401 and challenge and at_home and not challenged:
                challenged = True
                answer.discard(self.limits.error)
                authorization = tokens.answer(challenge, scope, until, rejected=authorization)
                answer = self._send(method, url, headers, authorization, until)
            if answer.status not in {301, 302, 303, 307, 308}:
                break
            answer.discard(self.limits.error)
            url = self._redirect_target(url, answer.headers.get("Location", ""))
        else:
            message = f"{redact(url)}: more than {MAX_REDIRECTS} redirects"
            raise RegistryError(message, status=answer.status)
        if not 200 <= answer.status < 300:
            raise self._error(answer, method)
        if deadline is None:
            until.lift()
        answer.path = path
        return answer

    def __getstate__(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in ("endpoint", "hosts", "timeouts", "limits")}

    def __setstate__(self, state: dict[str, object]) -> None:
        endpoint = str(state.pop("endpoint"))
        self.__init__(endpoint, **state)  # type: ignore[misc] # the arguments, as __getstate__ names them

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        authorization: str | None,
        deadline: Deadline,
    ) -> Answer:
        timeouts = self.timeouts
        left = deadline.left()
        prepared = requests.PreparedRequest()
        prepared.prepare_method(method)
        prepared.url = url
        prepared.headers = requests.structures.CaseInsensitiveDict(
            {"User-Agent": f"distsdk/{__version__}", "Accept-Encoding": "identity", **(headers or {})}
        )
        if authorization:
            prepared.headers["Authorization"] = authorization
        prepared.hooks = {"response": []}
        session = self._process().session
        key = _origin(url)
        if (proxies := self._proxies.get(key)) is None:
            proxies = self._proxies[key] = self.hosts.proxies_for(*key)
        with _translated(url, timeouts.read, str(session.verify)), reaching_the_socket(deadline):
            # The adapter itself: Session.send reads the bodies of redirects, also of those it does not follow, without
            # a limit, and needs the cookie jar that these requests are made without.
            response = session.get_adapter(url).send(
                prepared,
                stream=True,
                timeout=(min(timeouts.connect, left), timeouts.read),
                proxies=proxies,
                verify=True if session.verify is None else session.verify,
                cert=session.cert,
            )
        _log.debug("%s %s: %s", method, redact(url), response.status_code)
        return Answer(response, url, timeouts.read)

    def _process(self) -> _Process:
        """Return what this process has for itself: neither connections nor locks may come from before a fork."""
        pid = os.getpid()
        if (process := self._processes.get(pid)) is None:
            if self._given is None:
                session = self._new_session()
            elif pid == self._given_in:
                session = self._given
            else:  # a copy has the same adapters and no connections
                session = pickle.loads(pickle.dumps(self._given))  # noqa: S301 - our own bytes
            process = _Process(session, Tokens(self.endpoint, self._fetch_token))
            process = self._processes.setdefault(pid, process)
        return process

    def _new_session(self) -> requests.Session:
        session = requests.Session()
        session.trust_env = False
        session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        adapter = TimedAdapter(pool_maxsize=KEPT_CONNECTIONS)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        if self.hosts.ca_file is not None:
            session.verify = str(self.hosts.ca_file)
        return session

    def _fetch_token(self, url: str, deadline: Deadline) -> bytes:
        """Ask a token service, which the registry named and `Tokens` found fit to be asked."""
        for _ in range(MAX_REDIRECTS + 1):
            answer = self._send("GET", url, {"Accept": "application/json"}, None, deadline)
            if answer.status not in {301, 302, 303, 307, 308}:
                break
            answer.discard(self.limits.error)
            url = self._redirect_target(url, answer.headers.get("Location", ""))
        if answer.status != 200:
            raise self._error(answer, "GET")
        return answer.read_document(self.limits.token, deadline, what=f"the reply of {redact(url)}")

    def _redirect_target(self, url: str, location: str) -> str:
        """Return where a redirect leads, if it may.

        Raises:
            Unsafe: To something that is no http(s) URL, or from https to http.
            RegistryError: Nowhere.
        """
        try:
            target = requests.utils.requote_uri(urljoin(url, location))
            parts = urlsplit(target)
            valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None
            valid = valid and parts.port != 0  # and asking for the port raises if it is none
        except (ValueError, requests.RequestException):
            valid = False
        if not location or not valid:
            message = f"{redact(url)} redirects to something that is no http(s) URL: {redact(location)}"
            raise Unsafe(message)
        if url.startswith("https:") and parts.scheme != "https":
            message = f"{redact(url)} redirects from https to http, to {redact(target)}"
            raise Unsafe(message)
        return target

    def _error(self, answer: Answer, method: str) -> DistError:
        """Return the error that an answer stands for, with the registry's own codes and words."""
        codes, words = self._registry_words(answer, method)
        said = f": {words}" if words else ""
        shown = redact(answer.url)
        status = answer.status
        if status == 404:
            return NotFound(f"{shown} is not there (404{said})", codes=codes)
        if status == 401:
            return Denied(f"{shown} does not exist or needs a login (401{said})", status=status, codes=codes)
        if status == 403:
            return Denied(f"{shown} is forbidden (403{said})", status=status, codes=codes)
        if status == 429:
            retry_after = parse_retry_after(answer.headers.get("Retry-After", ""))
            when = f"in {retry_after:g} seconds" if retry_after is not None else "later"
            message = f"{shown}: the registry wants fewer requests (429{said}); try again {when}"
            return RateLimited(message, retry_after=retry_after, codes=codes)
        name = http.client.responses.get(status, "")
        return RegistryError(f"{shown} answered {status} {name}{said}", status=status, codes=codes)

    def _registry_words(self, answer: Answer, method: str) -> tuple[tuple[str, ...], str]:
        """Return the codes and messages of an error's body (distribution-spec, "Error Codes")."""
        if method == "HEAD":
            answer.close()
            return (), ""
        try:
            body = answer.read_document(self.limits.error, Deadline(self.timeouts.read), what="the error")
            reported = [error for error in json.loads(body)["errors"] if isinstance(error, dict)]
        except (DistError, ValueError, KeyError, TypeError, RecursionError):
            return (), ""
        codes = tuple(str(error["code"])[:64] for error in reported if error.get("code"))
        words = [str(error.get("message") or error.get("code") or "")[:300] for error in reported]
        return codes, "; ".join(filter(None, words[:3]))


def parse_retry_after(text: str) -> float | None:
    """Return the seconds a ``Retry-After`` header asks to wait (RFC 9110 section 10.2.3), None if it says nothing."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    return max(0.0, moment.timestamp() - time.time())


def _origin(url: str) -> tuple[str, str, int]:
    """Return scheme, host and port (RFC 6454 section 4)."""
    parts = urlsplit(url)
    return parts.scheme, (parts.hostname or "").lower(), parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)


@contextlib.contextmanager
def _translated(url: str, read_timeout: float, authorities: str = "") -> Iterator[None]:
    """Turn what requests, urllib3 and the socket raise into errors of distsdk."""
    try:
        yield
    except DistError:
        raise
    except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
        chain = list(_causes(error))
        if (ours := next((e for e in chain if isinstance(e, DistError)), None)) is not None:
            raise ours from None  # a deadline, raised at the socket
        # The cause that is told is the innermost one: what is wrapped around it quotes URLs, which may hold secrets.
        wrappers = (requests.RequestException, urllib3.exceptions.HTTPError)
        inner = (e for e in reversed(chain) if not isinstance(e, wrappers))
        raise _translate(chain, url, read_timeout, authorities) from next(inner, None)


def _translate(chain: list[BaseException], url: str, read_timeout: float, authorities: str) -> DistError:
    host = urlsplit(url).netloc.rpartition("@")[2]
    for e in chain:
        if isinstance(e, ssl.SSLCertVerificationError):
            message = (
                f"the certificate of {host} does not convince ({e.verify_message}): "
                "name its authority with --cacert or DISTSDK_CACERT if it is a private one"
            )
            return Unreachable(message, url=url)
        if isinstance(e, ssl.SSLError) and e.library in {"X509", "PEM"}:
            message = f"{authorities} holds no certificate authority in PEM form: see --cacert and DISTSDK_CACERT"
            return InvalidConfig(message)
        if isinstance(e, ssl.SSLError):
            message = f"no TLS with {host} ({e.reason or e}): if it speaks plain HTTP, allow that with --plain-http"
            return Unreachable(message, url=url)
        if isinstance(e, urllib3.exceptions.NameResolutionError):
            return Unreachable(f"no host {host} is known: check the name and the network", url=url)
        if isinstance(e, ConnectionRefusedError):
            return Unreachable(f"{host} refuses connections: is a registry running there?", url=url)
    # urllib3's errors of a new connection are all derived from ConnectTimeoutError: it comes after them.
    if any(isinstance(e, urllib3.exceptions.ConnectTimeoutError) for e in chain):
        return Unreachable(f"{host} did not accept a connection in time", url=url)
    if any(isinstance(e, urllib3.exceptions.ReadTimeoutError | TimeoutError) for e in chain):
        message = f"{redact(url)}: no byte came for {read_timeout:g} seconds"
        return DeadlineExceeded(message, seconds=read_timeout)
    if any(isinstance(e, urllib3.exceptions.IncompleteRead | http.client.IncompleteRead) for e in chain):
        return Unreachable(f"{redact(url)}: the connection ended in the middle of the body", url=url)
    # Errors of the system quote no URL; a proxy's refusal of a tunnel is a plain OSError.
    told = [
        e.strerror or str(e) for e in chain if isinstance(e, OSError) and type(e).__module__ in {"builtins", "socket"}
    ]
    proxy = "the proxy: " if any(isinstance(e, urllib3.exceptions.ProxyError) for e in chain) else ""
    return Unreachable(f"{redact(url)}: {proxy}{[*told, type(chain[-1]).__name__][0]}", url=url)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it wraps, by any of the ways urllib3 and requests wrap."""
    seen: set[int] = set()
    todo: list[object] = [error]
    while todo:
        e = todo.pop()
        if isinstance(e, BaseException) and id(e) not in seen:
            seen.add(id(e))
            yield e
            todo += [*e.args, getattr(e, "reason", None), e.__cause__, e.__context__]
