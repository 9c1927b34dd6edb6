"""Requests to one endpoint: a session a process, limits, logins, redirects, and errors translated at one seam.

`distsdk.transport.endpoints` chooses among several.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import http.cookiejar
import logging
import os
import pickle
import posixpath
import re
import ssl
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Protocol, Self
from urllib.parse import unquote, urlencode, urlsplit

import requests
import urllib3.exceptions
from attrs import evolve, frozen

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
    hide,
    redact,
)
from distsdk.model.shown import Shown
from distsdk.model.wording import human_time
from distsdk.transport.auth import Tokens, how_to_log_in
from distsdk.transport.deadline import (
    Deadline,
    TimedAdapter,
    TLSTimeoutError,
    bound_each_piece,
    reaching_the_socket,
)
from distsdk.transport.library_logs import redact_library_logs
from distsdk.transport.origin import Origin, follow
from distsdk.transport.pool import HostPool, HostPools
from distsdk.transport.record import active_recorder
from distsdk.transport.replay import active_session
from distsdk.transport.reported import ErrorBody, cause_of, parse_error_body, show_warnings
from distsdk.transport.retry import Patience, Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping

    from distsdk.transport.auth import TokenRequest
    from distsdk.transport.credentials import Login
    from distsdk.transport.hosts import Endpoint, Hosts
    from distsdk.transport.record import Exchange

_log = logging.getLogger(__name__)

#: Redirects that are followed for one request.
MAX_REDIRECTS = 5

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

#: Redirects that leave method and body as they are (RFC 9110 section 15.4); others would make a GET of an upload.
_SAME_METHOD = frozenset({307, 308})

#: What servers say to HTTP without TLS on a port for TLS: nginx, Go's net/http, Apache httpd.
_WANTS_TLS = re.compile(rb"HTTP request (was sent )?to (an )?HTTPS (port|server)|plain HTTP to an SSL-enabled")

#: Connections that are kept open to one host; more are opened when more are needed.
KEPT_CONNECTIONS = 16

#: Bytes of a request's body that are handed to the socket at once, each time within the read time-out.
PIECE = 256 * 1024


@frozen
class Timeouts(Shown):
    """How long to wait, in seconds.

    Attributes:
        connect: For a connection: the host's name, all its addresses and TLS together.
        read: Without a byte.
        document: For a whole document: manifest, token, page of tags. Blobs have no such limit.
        min_speed: Bytes a second that a blob has to arrive with at least; 0 for no limit. A slower connection is given
            up like one without a byte.
        min_speed_over: Seconds of waiting for bytes over which that is an average.
    """

    connect: float = 10.0
    read: float = 30.0
    document: float = 60.0
    min_speed: float = 1024.0
    min_speed_over: float = 60.0


@frozen
class Limits(Shown):
    """How much to take from a registry.

    Attributes:
        document: Bytes of a manifest, an index or a page of tags.
        token: Bytes of a token service's reply.
        error: Bytes of an error's body that are read.
        headers: Bytes of an answer's status line and headers.
        pages: Pages of one listing.
    """

    document: int = 4 * 1024 * 1024
    token: int = 64 * 1024
    error: int = 16 * 1024
    headers: int = 64 * 1024
    pages: int = 10_000


@frozen
class RateLimit:
    """How many requests a registry grants, as it last said.

    Attributes:
        remaining: Requests that are left.
        limit: Requests in all, in a span of time; None where it does not say.
    """

    remaining: int
    limit: int | None


class Body(Protocol):
    """What a request brings along. It is iterated over anew each time that the request has to be sent.

    Attributes:
        size: Bytes there are in all.
    """

    size: int

    def __iter__(self) -> Iterator[bytes | memoryview]:
        """Yield the bytes from the first to the last, in pieces of about `PIECE`."""
        ...


class Answer:
    """A successful answer: status, headers, and a body to read (a `ByteStream`).

    Attributes:
        url: Where the answer came from, after redirects.
        asked: The URL that was asked, before any redirect.
        broke: To be called where the body breaks before it has got far: another endpoint may do better.
    """

    def __init__(
        self,
        response: requests.Response,
        url: str,
        timeouts: Timeouts,
        recorded: Exchange | None = None,
        *,
        has_body: bool = True,
    ) -> None:
        """Made by `Transport.request`."""
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.url = url
        self.asked = url
        self.broke: Callable[[], None] = lambda: None
        self._response = response
        self._timeouts = timeouts
        self._recorded = recorded
        self._has_body = has_body

    @property
    def content_length(self) -> int | None:
        """The ``Content-Length`` in bytes; None where there is none or it is no number."""
        text = self.headers.get("Content-Length", "")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else None

    def read(self, size: int, /) -> bytes:
        """Return up to ``size`` bytes as they came over the wire, without undoing any Content-Encoding."""
        data = b""
        with _Translated(self.url, self._timeouts) as translated:
            data = self._response.raw.read1(size, decode_content=False)
        translated.tell()
        if self._recorded is not None:
            self._recorded.add(data)
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
            if self._has_body and (self.content_length or 0) <= limit:
                while limit > 0 and (part := self.read(limit)):
                    limit -= len(part)

    def shutdown(self) -> None:
        """Let a read in another thread end at once, with an error."""
        with contextlib.suppress(AttributeError, OSError, ValueError):  # urllib3 has it since 2.3
            self._response.raw.shutdown()

    def close(self) -> None:
        """Return the connection to its pool, or end it in the middle of a body."""
        if not self._has_body:  # urllib3 returns a connection at the end of a body, which a read has to find
            with contextlib.suppress(DistError):
                self.read(1)
        self._response.close()
        if self._recorded is not None:
            self._recorded.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@frozen
class _Process:
    """What belongs to one process."""

    pool: HostPool
    tokens: Tokens


class Transport:
    """What requests of one repository to one endpoint are sent through.

    Threads may share one. A forked child makes connections of its own.

    Args:
        endpoint: Where to, and by what; logins, headers and client certificates go nowhere else.
        hosts: Certificate authorities and proxies.
        login: Looks up the endpoint's login, when it asks for one.
        realms: Origins of token services, besides the endpoint's own, that may be given the login.
        retry: What is tried again.
        timeouts: How long to wait.
        limits: How much to take.
        session: Sends the requests, with its adapters, ``verify`` and ``cert``; its headers, cookies, ``auth``, proxies
            and ``trust_env`` are not used. By default one is made, or one that plays a cassette where `replay` says so.
        host: By which the endpoint's login is looked up, for messages; by default the endpoint's own.
        repository: Whose tokens these are.
        pools: Where connections, tokens and pauses are shared with other transports; by default with none.
        login_key: What, besides endpoint and hosts, the login depends on.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        hosts: Hosts,
        login: Callable[[], Login | None],
        realms: frozenset[Origin] = frozenset(),
        retry: Retry,
        timeouts: Timeouts,
        limits: Limits,
        session: requests.Session | None = None,
        host: str = "",
        repository: str = "",
        pools: HostPools | None = None,
        login_key: Hashable = None,
    ) -> None:
        self.endpoint = endpoint
        self.hosts = hosts
        self.retry = retry
        self.timeouts = timeouts if endpoint.dial_timeout is None else evolve(timeouts, connect=endpoint.dial_timeout)
        self.limits = limits
        self.origin = Origin.of(endpoint.base)
        self.host = host or str(self.origin).partition("://")[2]
        self.rate_limit: RateLimit | None = None
        hide(*(text.rpartition(" ")[2] for name, text in endpoint.headers.items() if name.lower() == "authorization"))
        self._realms = realms
        playing = None if session else active_session()
        self._recorder = active_recorder()
        # A cassette answers whoever asks; which logins this machine has must make no difference.
        self._login = login if playing is None else _login_for_cassettes
        self._given = session or playing
        self._given_in = os.getpid()
        self._pools = pools or HostPools()
        self._pool_key = endpoint, hosts, realms, login_key, self._given
        # A token is asked for within the time-outs of the transport that has it made.
        # A recording has every challenge and token of its remotes, whatever this process was given before.
        unshared = None if self._recorder is None else object()
        self._tokens_key = repository, host, self.timeouts, limits, unshared
        self._processes: dict[int, _Process] = {}
        self._proxies: dict[Origin, dict[str, str]] = {}

    def document_deadline(self) -> Deadline:
        """Return the moment by which a document that is asked for now has to be here."""
        return Deadline(self.timeouts.document)

    def request(
        self,
        method: str,
        path: str,
        *,
        scope: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Body | None = None,
        also: Collection[int] = (),
        deadline: Deadline | None = None,
        patience: Patience | None = None,
    ) -> Answer:
        """Send a request, meet a challenge, follow redirects, and return a successful answer.

        Args:
            method: ``GET``, ``HEAD``, or, not following redirects that would make a GET of it, any other.
            path: Path and query below the endpoint's base, or a whole URL. One of another origin is shown no login.
            scope: What a token has to allow, ``repository:library/redis:pull``; several, parted by spaces, of which the
                first one has the repository that the request is for.
            headers: Sent besides the transport's own.
            body: Sent with the request; once more where a challenge, a redirect or a broken connection needs it.
            also: Statuses that are answers too, and no errors.
            deadline: When the body has to be here; by default there is one for the headers, tokens and redirects
                included, but none for the body. What is sent takes its time, as long as it goes on; the answer's
                headers have the deadline's whole span after that.
            patience: The attempts there are; by default as many as ``retry`` says.

        Raises:
            NotFound, Denied, RateLimited, RegistryError: The registry's answer is no success.
            Unreachable, DeadlineExceeded: There was none.
            Unsafe: A redirect leads where none may lead.
            LimitExceeded: The headers are too long.
        """
        patience = patience or Patience(self.retry)
        until = deadline or self.document_deadline()
        while True:
            try:
                answer = self._request(method, path, scope, headers, until, patience=patience, body=body, also=also)
            except DistError as error:
                patience.wait(error, until, self._process().pool)
            else:
                if deadline is None:
                    until.lift()
                return answer

    def document(
        self,
        path: str,
        *,
        scope: str,
        headers: Mapping[str, str],
        deadline: Deadline,
        patience: Patience | None = None,
        check: Callable[[Answer], None] = lambda _: None,
    ) -> tuple[Answer, bytes]:
        """Get a document and read it whole; where its body breaks, get it again.

        Arguments and errors as `request`; ``check`` sees each answer before its body is read.
        """
        patience = patience or Patience(self.retry)
        while True:
            answer = self.request("GET", path, scope=scope, headers=headers, deadline=deadline, patience=patience)
            check(answer)
            if answer.status not in {200, 203}:
                answer.discard(self.limits.error)
                message = f"{redact(answer.url)} answered {answer.status} where a whole document was asked for"
                raise RegistryError(message, status=answer.status)
            try:
                return answer, answer.read_document(self.limits.document, deadline, what=redact(answer.url))
            except DistError as error:
                patience.wait(error, deadline, self._process().pool)

    def _request(
        self,
        method: str,
        path: str,
        scope: str,
        headers: Mapping[str, str] | None,
        deadline: Deadline,
        *,
        patience: Patience,
        body: bytes | Body | None,
        also: Collection[int],
    ) -> Answer:
        """Send a request once: what a challenge and redirects make of it included."""
        asked = url = self._url(path)
        process = self._process()
        tokens = process.tokens
        host = urlsplit(self.endpoint.base).netloc

        def send(url: str, authorization: str | None) -> Answer:
            patience.wait_for(process.pool, host, deadline)
            return self._send(method, url, headers, authorization, deadline, body=body)

        patience.wait_for(process.pool, host, deadline)  # before a token is asked for
        authorization = tokens.header(scope, deadline)
        challenged = False
        for _ in range(MAX_REDIRECTS + 1):
            at_home = Origin.of(url) == self.origin
            answer = send(url, authorization if at_home else None)
            # A token that was just given is not asked for again; a login that is refused leads on, or is told.
            while (
                answer.status == 401
                and at_home
                and (challenge := answer.headers.get("WWW-Authenticate"))
                and (not challenged or tokens.showed_login(authorization))
            ):
                challenged = True
                answer.discard(self.limits.error)
                try:
                    authorization = tokens.answer(challenge, scope, deadline, rejected=authorization)
                except Denied:
                    process.pool.forget(tokens)
                    raise
                answer = send(url, authorization)
            if answer.status not in _REDIRECTS:
                break
            answer.discard(self.limits.error)
            if method not in {"GET", "HEAD"} and answer.status not in _SAME_METHOD:
                message = f"{redact(url)} answered a {method} with the redirect {answer.status}: not followed"
                raise RegistryError(message, status=answer.status)
            url = follow(url, answer.headers.get("Location", ""), what="redirects to")
            self._check_repository(url, asked, scope, what="redirects to")
        else:
            message = f"{redact(url)}: more than {MAX_REDIRECTS} redirects"
            raise RegistryError(message, status=answer.status)
        if not 200 <= answer.status < 300 and answer.status not in also:
            if answer.status in {401, 403}:
                process.pool.forget(tokens)
            raise self._error(answer, method, note=tokens.note if at_home else "")
        answer.asked = asked
        return answer

    def located(self, answer: Answer, scope: str) -> str:
        """Return the URL in an answer's ``Location``, where an upload goes on.

        Args:
            answer: To a request that was sent by `request`.
            scope: Of that request.

        Raises:
            Unsafe: It is none, or leads from https to http, or out of the repository.
        """
        what = "names as the place of an upload"
        url = follow(answer.url, answer.headers.get("Location", ""), what=what)
        self._check_repository(url, answer.asked, scope, what=what)
        return url

    def _check_repository(self, url: str, asked: str, scope: str, *, what: str) -> None:
        """Refuse to be led to what the API of this endpoint has in another repository than the scope's."""
        kind, _, name = scope.partition(" ")[0].rpartition(":")[0].partition(":")
        if kind != "repository" or Origin.of(url) != self.origin:
            return
        base = urlsplit(self.endpoint.base).path  # mostly /v2; without one, nothing tells what is the API
        # As a server may read it: decoded, with dots and doubled slashes resolved.
        path = "/" + posixpath.normpath(unquote(urlsplit(url).path).replace("\\", "/")).lstrip("/")
        if base and path.startswith(f"{base}/") and not path.startswith(f"{base}/{name}/"):
            message = f"{redact(asked)} {what} {redact(url)}, which is outside the repository: not followed"
            raise Unsafe(message)

    def _url(self, path: str) -> str:
        if not path.startswith("/"):
            return path
        url = f"{self.endpoint.base}{path}"
        if self.endpoint.namespace is not None:
            url += f"{'&' if '?' in path else '?'}{urlencode({'ns': self.endpoint.namespace})}"
        return url

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None,
        authorization: str | None,
        deadline: Deadline,
        *,
        form: bytes | None = None,
        body: bytes | Body | None = None,
    ) -> Answer:
        timeouts = self.timeouts
        left = deadline.left()
        origin = Origin.of(url)
        prepared = requests.PreparedRequest()
        prepared.prepare_method(method)
        prepared.url = url
        prepared.headers = requests.structures.CaseInsensitiveDict(
            {
                "User-Agent": f"distsdk/{__version__}",
                "Accept-Encoding": "identity",
                **(self.endpoint.headers if origin == self.origin else {}),
                **(headers or {}),
            }
        )
        if authorization:
            prepared.headers["Authorization"] = authorization
        if form is not None:
            prepared.body = form
            prepared.headers["Content-Type"] = "application/x-www-form-urlencoded"
            prepared.headers["Content-Length"] = str(len(form))
        if body is not None:
            pieces = _pieces(body) if isinstance(body, bytes) else body
            prepared.body = _sending(pieces, deadline, timeouts.read)  # type: ignore[assignment] # the adapter takes any iterable
            prepared.headers["Content-Length"] = str(len(body) if isinstance(body, bytes) else body.size)
        prepared.hooks = {"response": []}
        session = self._process().pool.session
        if (proxies := self._proxies.get(origin)) is None:
            proxies = self.hosts.proxies_for(origin.scheme, origin.host, origin.port)
            if self._given is None:  # what another session can use is for it to say
                proxies = {scheme: _usable_proxy(scheme, proxy) for scheme, proxy in proxies.items()}
            self._proxies[origin] = proxies
        proxy = proxies.get(origin.scheme, "")
        with (
            _Translated(url, timeouts, authorities=str(session.verify), proxy=proxy) as translated,
            reaching_the_socket(deadline, self.limits.headers),
        ):
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
        translated.tell()
        _log.debug("%s %s: %s", method, redact(url), response.status_code)
        if origin == self.origin:
            self.rate_limit = parse_rate_limit(response.headers) or self.rate_limit
            show_warnings(self.endpoint.origin.partition("://")[2], response.headers.get("Warning", ""))
        recorded = None if self._recorder is None else self._recorder.exchange(prepared, response)
        # RFC 9110 sections 9.3.2 and 6.4.1
        has_body = method != "HEAD" and response.status_code not in {204, 304}
        return Answer(response, url, timeouts, recorded, has_body=has_body)

    def _process(self) -> _Process:
        """Return what this process has for itself: neither connections nor locks may come from before a fork."""
        pid = os.getpid()
        if (process := self._processes.get(pid)) is None:
            pool = self._pools.get(self._pool_key, self._new_session)
            tokens = pool.tokens(self._tokens_key, self._new_tokens)
            process = self._processes.setdefault(pid, _Process(pool, tokens))
        return process

    def _new_tokens(self) -> Tokens:
        return Tokens(self.origin, login=self._login, realms=self._realms, ask=self._ask_token_service, host=self.host)

    def _new_session(self) -> requests.Session:
        redact_library_logs()
        if self._given is not None:
            if os.getpid() == self._given_in:
                return self._given
            copied: requests.Session = pickle.loads(pickle.dumps(self._given))  # noqa: S301 - our own bytes
            return copied  # with the same adapters, and no connections
        session = requests.Session()
        session.trust_env = False
        session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        # What an endpoint is shown, and forgiven, no other host is: redirects lead to those.
        adapter = TimedAdapter(tls=self.hosts.tls(self.endpoint, elsewhere=True), pool_maxsize=KEPT_CONNECTIONS)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        if self.endpoint.client or self.endpoint.skip_verify:
            adapter = TimedAdapter(tls=self.hosts.tls(self.endpoint), pool_maxsize=KEPT_CONNECTIONS)
            session.mount(f"{self.origin}/", adapter)
        return session

    def check_login(self, login: Login) -> str | None:
        """Show a login to the registry, for nothing in particular.

        Returns:
            The identity token that the token service gives for the login, empty for none; None where the registry asks
            for no login.

        Raises:
            Denied: The login is refused.
            DistError: As `request`.
        """
        deadline = self.document_deadline()
        url = self._url("/")
        note = "check the name and the password"
        ask = functools.partial(self._ask_token_service, note=note)
        tokens = Tokens(self.origin, login=lambda: login, realms=self._realms, ask=ask, host=self.host)
        answer = self._send("GET", url, None, None, deadline)
        identity = None
        if answer.status == 401:
            answer.discard(self.limits.error)
            try:
                header, identity = tokens.show_login(answer.headers.get("WWW-Authenticate", ""), deadline)
            except Denied as refusal:
                raise self._refused(refusal) from refusal
            answer = self._send("GET", url, None, header, deadline)
        with answer:
            if answer.status != 200:
                error = self._error(answer, "GET", note=note)
                raise self._refused(error) if isinstance(error, Denied) else error
        return identity

    def _refused(self, error: DistError) -> Denied:
        return Denied(f"{self.origin} refused the login: {error}", status=401)

    def _ask_token_service(self, request: TokenRequest, deadline: Deadline, *, note: str = "") -> bytes:
        """Send a request that `Tokens` made to a token service that it found fit to be asked.

        Once: where it fails, the request that needs the token is tried again.
        """
        url, form = request.url, request.form
        method = "GET" if form is None else "POST"
        own = Origin.of(url)
        for _ in range(MAX_REDIRECTS + 1):
            authorization = request.authorization if Origin.of(url) == own else None
            answer = self._send(method, url, {"Accept": "application/json"}, authorization, deadline, form=form)
            if answer.status not in _REDIRECTS:
                break
            answer.discard(self.limits.error)
            url = follow(url, answer.headers.get("Location", ""), what="redirects to")
            if form is not None and (Origin.of(url) != own or answer.status not in {307, 308}):
                message = f"{redact(request.url)} redirects a request that holds a login to {redact(url)}"
                raise Unsafe(message)
        if answer.status != 200:
            error = self._error(answer, method, note=note)
            if isinstance(error, NotFound) and form is None:  # the service is missing, not what the token is for
                message = f"no token service: {error}"
                raise RegistryError(message, status=404, codes=error.codes, detail=error.detail)
            raise error
        return answer.read_document(self.limits.token, deadline, what=f"the reply of {redact(url)}")

    def _error(self, answer: Answer, method: str, *, note: str = "") -> DistError:
        """Return the error that an answer stands for, with the registry's own codes and words."""
        body = self._error_body(answer, method)
        codes, detail = body.codes, body.detail
        retry_after = parse_retry_after(answer.headers.get("Retry-After", ""))
        when = "" if retry_after is None else f"; try again in {human_time(retry_after)}"
        note = f"; {note}" if note else ""
        said = f": {body.message}" if body.message else ""
        shown = redact(answer.url)
        status = answer.status
        if status == 404:
            return NotFound(f"{shown} is not there (404{said})", codes=codes, detail=detail)
        if status == 401:
            note = note or f"; {how_to_log_in(self.host)}"
            message = f"{shown} does not exist or needs a login (401{said}){note}"
            return Denied(message, status=status, codes=codes, detail=detail)
        if status == 403:
            message = f"{shown} is forbidden (403{said}){note}"
            return Denied(message, status=status, codes=codes, detail=detail)
        if status == 429:
            message = f"{shown}: the registry wants fewer requests (429{said}){when or '; try again later'}"
            return RateLimited(message, retry_after=retry_after, codes=codes, detail=detail)
        name = http.client.responses.get(status, "")
        message = f"{shown} answered {status} {name}{said}{when}"
        return RegistryError(message, status=status, codes=codes, retry_after=retry_after, detail=detail)

    def _error_body(self, answer: Answer, method: str) -> ErrorBody:
        """Return the errors in the body of a response."""
        if method == "HEAD":
            answer.close()
            return ErrorBody()
        body = b""
        try:
            body = answer.read_document(self.limits.error, Deadline(self.timeouts.read), what="the error")
            return parse_error_body(body)
        except (DistError, ValueError, KeyError, TypeError, RecursionError):
            wants_tls = answer.status == 400 and answer.url.startswith("http:") and _WANTS_TLS.search(body)
            return ErrorBody(message="this port speaks TLS: use --tls, or Hosts(plain_http=False)" if wants_tls else "")


def _pieces(data: bytes) -> Iterator[memoryview]:
    """Yield bytes in pieces: the time-out of a socket is for all that it is handed at once."""
    view = memoryview(data)
    for start in range(0, len(view), PIECE):
        yield view[start : start + PIECE]


def _sending(pieces: Iterable[bytes | memoryview], deadline: Deadline, seconds: float) -> Iterator[bytes | memoryview]:
    """Yield a body's pieces; each that is sent gives all of the deadline back, so that only the answer has one."""
    bound_each_piece(seconds)
    for piece in pieces:
        deadline.restart()
        yield piece
    deadline.restart()


def _login_for_cassettes() -> Login:
    from distsdk.transport.credentials import Login

    return Login("nobody", "nothing", source="the cassette")


def parse_retry_after(text: str) -> float | None:
    """Return the seconds a ``Retry-After`` header asks to wait (RFC 9110 section 10.2.3), None if it says nothing."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        moment = parsedate_to_datetime(text)
        if moment.tzinfo is None:  # "-0000"
            moment = moment.replace(tzinfo=UTC)
        return max(0.0, moment.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def parse_rate_limit(headers: Mapping[str, str]) -> RateLimit | None:
    """Read what registries say of their limits, ``RateLimit-Limit: 100;w=21600`` (Docker Hub); None for nothing."""
    remaining, limit = (
        re.match(r"\s*([0-9]{1,9})\s*(?:[;,]|$)", headers.get(f"RateLimit-{name}", ""))
        for name in ("Remaining", "Limit")
    )
    return RateLimit(int(remaining[1]), int(limit[1]) if limit else None) if remaining else None


def _usable_proxy(scheme: str, proxy: str) -> str:
    """Return a proxy's URL as requests understands it: it would take ``localhost:3128`` for a scheme and a path.

    Raises:
        InvalidConfig: It is no URL of a proxy.
    """
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urllib3.util.parse_url(url)
        usable = parts.scheme in {"http", "https"} and not re.search(r"\s", parts.host or " ") and parts.port != 0
        usable = usable and "@" not in parts.request_uri + (parts.fragment or "")  # a slash in a password, say
    except urllib3.exceptions.LocationParseError:
        usable = False
    if not usable:
        message = (
            f"the proxy {_shown_proxy(proxy)} cannot be used: it has to be http://HOST:PORT or https://HOST:PORT, "
            f"what is special in a password percent-encoded: see {scheme.upper()}_PROXY and ALL_PROXY"
        )
        raise InvalidConfig(message)
    return url


def _shown_proxy(proxy: str) -> str:
    """Return a proxy's URL fit to be shown: whatever stands before the last ``@`` may be of a password."""
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", proxy)
    return redact((scheme[0] if scheme else "http://") + proxy[scheme.end() if scheme else 0 :].rpartition("@")[2])


class _Translated:
    """A block that turns what requests, urllib3 and the socket raise into an error of distsdk, and ends with it.

    Who uses it calls `tell` after the block. To raise inside would chain the error to what it came from, and that
    quotes URLs, which may hold secrets: Python prints no such chain after ``from``, but tblib pickles it, and so Dask.
    """

    def __init__(self, url: str, timeouts: Timeouts, *, authorities: str = "", proxy: str = "") -> None:
        """Enter nothing yet.

        Args:
            url: What was asked for.
            timeouts: How long was waited.
            authorities: The file of certificate authorities.
            proxy: URL of the proxy in between; empty for none.
        """
        self._url = url
        self._timeouts = timeouts
        self._authorities = authorities
        self._proxy = proxy
        self._error: DistError | None = None
        self._cause: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        kinds = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)
        if not isinstance(error, kinds) or isinstance(error, DistError):
            return False
        chain = list(_causes(error))
        if (ours := next((e for e in chain if isinstance(e, DistError)), None)) is not None:
            self._error = ours  # a deadline, raised at the socket
            return True
        self._error = _translate(chain, self._url, self._timeouts, self._authorities, self._proxy)
        # The cause that is told is the innermost one: what is wrapped around it quotes URLs.
        wrappers = (requests.RequestException, urllib3.exceptions.HTTPError)
        self._cause = next((e for e in reversed(chain) if not isinstance(e, wrappers)), None)
        return True

    def tell(self) -> None:
        """Raise the error that the block ended with, if it did."""
        if self._error is not None:
            raise self._error from self._cause


@frozen
class _Party:
    """Who was at fault, as messages call it: the host that was asked, or the proxy in between.

    Attributes:
        name: ``registry.example:5000``, ``the proxy http://proxy.example:3128``.
        where: What stands before a fault that needs no name: the URL, or the proxy again.
        is_proxy: Whether it is the proxy.
    """

    name: str
    where: str
    is_proxy: bool


def _translate(chain: list[BaseException], url: str, timeouts: Timeouts, authorities: str, proxy: str) -> DistError:
    if any(isinstance(e, urllib3.exceptions.ProxyError) for e in chain):
        name = f"the proxy {_shown_proxy(proxy)}" if proxy else "the proxy"  # of a session that has its own
        party = _Party(name, name, is_proxy=True)
    else:
        party = _Party(urlsplit(url).netloc.rpartition("@")[2], redact(url), is_proxy=False)
    for e in chain:
        if type(e) is http.client.HTTPException and "headers" in str(e):  # "got more than 100 headers"
            return LimitExceeded(f"{redact(url)}: {e}", limit=http.client._MAXHEADERS)  # type: ignore[attr-defined]
        if isinstance(e, urllib3.exceptions.HeaderParsingError):
            return Unreachable(f"{redact(url)}: the headers of the answer cannot be read", url=url)
        if isinstance(e, ssl.SSLError):
            return _translate_tls(e, party, url, authorities)
    return (
        _translate_connecting(chain, party, url, timeouts)
        or _translate_timeout(chain, party, url, timeouts)
        or _translate_rest(chain, party, url)
    )


def _translate_tls(error: ssl.SSLError, party: _Party, url: str, authorities: str) -> DistError:
    if isinstance(error, ssl.SSLCertVerificationError):
        message = (
            f"the certificate of {party.name} does not convince ({error.verify_message}): "
            "name its authority with --cacert or DISTSDK_CACERT if it is a private one"
        )
        return Unreachable(message, url=url)
    if error.library in {"X509", "PEM"}:
        message = f"{authorities} holds no certificate authority in PEM form: see --cacert and DISTSDK_CACERT"
        return InvalidConfig(message)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return Unreachable(f"{party.where}: the TLS connection ended too early", url=url, temporary=True)
    how = "write http:// in its URL" if party.is_proxy else "allow that with --plain-http"
    message = f"no TLS with {party.name} ({error.reason or error}): if it speaks plain HTTP, {how}"
    return Unreachable(message, url=url)


def _translate_connecting(
    chain: list[BaseException], party: _Party, url: str, timeouts: Timeouts
) -> Unreachable | None:
    """Return the error of a connection that did not come about; None where there was one."""
    seconds = f"{timeouts.connect:g} seconds"
    if any(isinstance(e, ConnectionRefusedError) for e in chain):
        running = "is it running?" if party.is_proxy else "is a registry running there?"
        return Unreachable(f"{party.name} refuses connections: {running}", url=url)
    if any(isinstance(e, urllib3.exceptions.NameResolutionError) for e in chain):
        if any(isinstance(e, TimeoutError) for e in chain):
            message = f"the name of {party.name} was not resolved within {seconds}: check the network"
            return Unreachable(message, url=url, temporary=True)
        known = f"{party.name} is not known" if party.is_proxy else f"no host {party.name} is known"
        return Unreachable(f"{known}: check the name and the network", url=url)
    if any(isinstance(e, TLSTimeoutError) for e in chain):
        message = f"no TLS connection with {party.name} came about within {seconds}"
        return Unreachable(message, url=url, temporary=True)
    # urllib3's errors of a new connection are all derived from ConnectTimeoutError: it comes after them.
    if any(isinstance(e, urllib3.exceptions.ConnectTimeoutError) for e in chain):
        return Unreachable(f"{party.name} did not accept a connection in time", url=url, temporary=True)
    return None


def _translate_timeout(chain: list[BaseException], party: _Party, url: str, timeouts: Timeouts) -> DistError | None:
    if not any(isinstance(e, urllib3.exceptions.ReadTimeoutError | TimeoutError) for e in chain):
        return None
    if party.is_proxy:
        message = f"{party.name} opened no tunnel within {timeouts.connect:g} seconds"
        return Unreachable(message, url=url, temporary=True)
    message = f"{party.where}: no byte came for {timeouts.read:g} seconds"
    return DeadlineExceeded(message, seconds=timeouts.read, temporary=True)


def _translate_rest(chain: list[BaseException], party: _Party, url: str) -> Unreachable:
    if any(isinstance(e, urllib3.exceptions.IncompleteRead | http.client.IncompleteRead) for e in chain):
        message = f"{party.where}: the connection ended in the middle of the body"
        return Unreachable(message, url=url, temporary=True)
    # Errors of the system quote no URL; a proxy's refusal of a tunnel is a plain OSError.
    told = [
        e.strerror or str(e) for e in chain if isinstance(e, OSError) and type(e).__module__ in {"builtins", "socket"}
    ]
    broke = any(isinstance(e, ConnectionResetError | ConnectionAbortedError | BrokenPipeError) for e in chain)
    return Unreachable(f"{party.where}: {told[0] if told else cause_of(chain)}", url=url, temporary=broke)


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
