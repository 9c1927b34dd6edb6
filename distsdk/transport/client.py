"""Send requests to one endpoint: sessions, limits, authentication, redirects, error translation.

`distsdk.transport.endpoints` chooses among several endpoints.
"""

from __future__ import annotations

import functools
import http.client
import http.cookiejar
import logging
import os
import pickle
import posixpath
import re
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlencode, urlsplit

import requests
import urllib3.exceptions
from attrs import evolve, frozen

from distsdk import __version__
from distsdk._secrets import hide, redact
from distsdk._text import human_time
from distsdk.errors import (
    Denied,
    DistError,
    InvalidConfig,
    NotFound,
    RateLimited,
    RegistryError,
    Unsafe,
)
from distsdk.transport.auth import Tokens, how_to_log_in
from distsdk.transport.cassette.record import active_recorder
from distsdk.transport.cassette.replay import active_session
from distsdk.transport.deadline import (
    Deadline,
    TimedAdapter,
    bound_each_piece,
    reaching_the_socket,
)
from distsdk.transport.failures import ErrorTranslation, shown_proxy
from distsdk.transport.library_logs import redact_library_logs
from distsdk.transport.origin import Origin, follow
from distsdk.transport.pool import HostPool, HostPools
from distsdk.transport.reported import ErrorBody, parse_error_body, show_warnings
from distsdk.transport.response import Body, RateLimitStatus, Response, iter_pieces, parse_rate_limit, parse_retry_after
from distsdk.transport.retry import Retry, RetryState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping

    from distsdk.transport.auth import TokenRequest
    from distsdk.transport.credentials import Login
    from distsdk.transport.hosts import Endpoint, Hosts
    from distsdk.transport.settings import Limits, Timeouts

_log = logging.getLogger(__name__)

#: Redirects followed for one request.
MAX_REDIRECTS = 5

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

#: Redirects that keep method and body (RFC 9110 section 15.4); others would turn an upload into a GET.
_SAME_METHOD = frozenset({307, 308})

#: Texts with which nginx, Go's net/http and Apache httpd answer plain HTTP on a TLS port.
_WANTS_TLS = re.compile(rb"HTTP request (was sent )?to (an )?HTTPS (port|server)|plain HTTP to an SSL-enabled")

#: Idle connections kept open to one host; more are opened when needed.
KEPT_CONNECTIONS = 16


@frozen
class _Process:
    """The connections and tokens of one process."""

    pool: HostPool
    tokens: Tokens


class Transport:
    """Send the requests for one repository to one endpoint.

    Threads may share a transport. A forked child opens its own connections.

    Args:
        endpoint: URL and settings of the endpoint. Its login, headers and client certificates are sent to no other
            origin.
        hosts: Certificate authorities and proxies.
        login: Looks up the endpoint's login, called at the first challenge.
        realms: Origins of token services, besides the endpoint's own, that may receive the login.
        retry: Which failures are retried.
        timeouts: How long to wait.
        limits: Largest sizes of responses.
        session: Sends the requests, with its adapters, ``verify`` and ``cert``; its headers, cookies, ``auth``, proxies
            and ``trust_env`` are not used. By default a new session, which plays the cassette inside a `replay` block.
        host: Name under which the login is looked up, for messages; by default the endpoint's host and port.
        repository: The repository whose tokens are used.
        pools: Connections, tokens and pauses shared with other transports; by default not shared.
        login_key: A value that the login depends on, besides endpoint and hosts.
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
        self.rate_limit: RateLimitStatus | None = None
        hide(*(text.rpartition(" ")[2] for name, text in endpoint.headers.items() if name.lower() == "authorization"))
        self._realms = realms
        replay_session = None if session else active_session()
        self._recorder = active_recorder()
        # A cassette answers with or without a login: the logins of this machine must make no difference.
        self._login = login if replay_session is None else _login_for_cassettes
        self._given = session or replay_session
        self._given_in = os.getpid()
        self._pools = pools or HostPools()
        self._pool_key = endpoint, hosts, realms, login_key, self._given
        # A token is requested within the time-outs of the transport that needs it, and a recording must contain every
        # challenge and token request, even if this process has a token already.
        unshared = None if self._recorder is None else object()
        self._tokens_key = repository, host, self.timeouts, limits, unshared
        self._processes: dict[int, _Process] = {}
        self._proxies: dict[Origin, dict[str, str]] = {}

    def document_deadline(self) -> Deadline:
        """Return the deadline of a document that is requested now."""
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
        retry_state: RetryState | None = None,
    ) -> Response:
        """Send a request, respond to challenges, follow redirects, and return a successful response.

        Args:
            method: Any method. For other than ``GET`` and ``HEAD``, redirects that change the method are errors.
            path: Path and query below the endpoint's base, or an absolute URL. Another origin receives no login.
            scope: Scope that the token must allow, ``repository:library/redis:pull``. Several are separated by spaces;
                the first names the repository of the request.
            headers: Headers added to the transport's own.
            body: Body of the request; sent again after a challenge, a redirect or a broken connection.
            also: Statuses to return instead of raising, besides 2xx.
            deadline: When the body must have arrived. By default the headers, including tokens and redirects, must
                arrive within `Timeouts.document`, and the body has no deadline. Each part of a sent body restarts it,
                so that the response's headers have the whole time after an upload.
            retry_state: The remaining attempts; by default those of ``retry``.

        Raises:
            NotFound, Denied, RateLimited, RegistryError: The response is an error.
            Unreachable, DeadlineExceeded: No response arrived.
            Unsafe: A redirect leads from https to http, out of the repository, or to an invalid URL.
            LimitExceeded: The headers are too long.
        """
        retry_state = retry_state or RetryState(self.retry)
        until = deadline or self.document_deadline()
        while True:
            try:
                response = self._request(
                    method, path, scope, headers, until, retry_state=retry_state, body=body, also=also
                )
            except DistError as error:
                retry_state.wait(error, until, self._process().pool)
            else:
                if deadline is None:
                    until.lift()
                return response

    def document(
        self,
        path: str,
        *,
        scope: str,
        headers: Mapping[str, str],
        deadline: Deadline,
        retry_state: RetryState | None = None,
        check: Callable[[Response], None] = lambda _: None,
    ) -> tuple[Response, bytes]:
        """Request a document and read it whole; if its body breaks off, request it again.

        Args:
            path: As `request`.
            scope: As `request`.
            headers: As `request`.
            deadline: When the body must have arrived.
            retry_state: As `request`.
            check: Called with each response before its body is read; may raise.

        Returns:
            The response, and its body.

        Raises:
            DistError: As `request`, or as raised by ``check``.
            LimitExceeded: The body is longer than `Limits.document`.
        """
        retry_state = retry_state or RetryState(self.retry)
        while True:
            response = self.request(
                "GET", path, scope=scope, headers=headers, deadline=deadline, retry_state=retry_state
            )
            check(response)
            if response.status not in {200, 203}:
                response.discard(self.limits.error)
                message = f"{redact(response.url)} answered {response.status}, expected 200 and a whole document"
                raise RegistryError(message, status=response.status)
            try:
                return response, response.read_document(self.limits.document, deadline, what=redact(response.url))
            except DistError as error:
                retry_state.wait(error, deadline, self._process().pool)

    def _request(
        self,
        method: str,
        path: str,
        scope: str,
        headers: Mapping[str, str] | None,
        deadline: Deadline,
        *,
        retry_state: RetryState,
        body: bytes | Body | None,
        also: Collection[int],
    ) -> Response:
        """Send a request once, and again after a challenge and for redirects."""
        requested = url = self._url(path)
        process = self._process()
        tokens = process.tokens
        host = urlsplit(self.endpoint.base).netloc

        def send(url: str, authorization: str | None) -> Response:
            retry_state.wait_for(process.pool, host, deadline)
            return self._send(method, url, headers, authorization, deadline, body=body)

        retry_state.wait_for(process.pool, host, deadline)  # before a token is requested
        authorization = tokens.header(scope, deadline)
        challenged = False
        for _ in range(MAX_REDIRECTS + 1):
            same_origin = Origin.of(url) == self.origin
            response = send(url, authorization if same_origin else None)
            # A token that was just issued is not requested again; a refused login is replaced or reported.
            while (
                response.status == 401
                and same_origin
                and (challenge := response.headers.get("WWW-Authenticate"))
                and (not challenged or tokens.showed_login(authorization))
            ):
                challenged = True
                response.discard(self.limits.error)
                try:
                    authorization = tokens.respond(challenge, scope, deadline, rejected=authorization)
                except Denied:
                    process.pool.forget(tokens)
                    raise
                response = send(url, authorization)
            if response.status not in _REDIRECTS:
                break
            response.discard(self.limits.error)
            if method not in {"GET", "HEAD"} and response.status not in _SAME_METHOD:
                message = (
                    f"redirect {response.status} from {redact(url)} refused: it would change the {method} to a GET"
                )
                raise RegistryError(message, status=response.status)
            url = follow(url, response.headers.get("Location", ""), what="redirects to")
            self._check_repository(url, requested, scope, what="redirects to")
        else:
            message = f"more than {MAX_REDIRECTS} redirects, the last one to {redact(url)}"
            raise RegistryError(message, status=response.status)
        if not 200 <= response.status < 300 and response.status not in also:
            if response.status in {401, 403}:
                process.pool.forget(tokens)
            raise self._error(response, method, note=tokens.note if same_origin else "")
        response.asked = requested
        return response

    def located(self, response: Response, scope: str) -> str:
        """Return the URL in the ``Location`` of a response: the next URL of an upload session.

        Args:
            response: As returned by `request`.
            scope: Scope of that request.

        Raises:
            Unsafe: The value is not an http(s) URL, or leads from https to http or out of the repository.
        """
        what = "names as the URL of an upload"
        url = follow(response.url, response.headers.get("Location", ""), what=what)
        self._check_repository(url, response.asked, scope, what=what)
        return url

    def _check_repository(self, url: str, requested: str, scope: str, *, what: str) -> None:
        """Refuse a URL of this endpoint's API in a repository other than the scope's."""
        kind, _, name = scope.partition(" ")[0].rpartition(":")[0].partition(":")
        if kind != "repository" or Origin.of(url) != self.origin:
            return
        base = urlsplit(self.endpoint.base).path  # usually /v2; without a path, API URLs cannot be distinguished
        # As a server may interpret it: decoded, with dot segments and double slashes resolved.
        path = "/" + posixpath.normpath(unquote(urlsplit(url).path).replace("\\", "/")).lstrip("/")
        if base and path.startswith(f"{base}/") and not path.startswith(f"{base}/{name}/"):
            message = f"{redact(requested)} {what} {redact(url)}, outside the repository: refused"
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
    ) -> Response:
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
            pieces = iter_pieces(body) if isinstance(body, bytes) else body
            prepared.body = _sending(pieces, deadline, timeouts.read)  # type: ignore[assignment] # the adapter takes any iterable
            prepared.headers["Content-Length"] = str(len(body) if isinstance(body, bytes) else body.size)
        prepared.hooks = {"response": []}
        session = self._process().pool.session
        if (proxies := self._proxies.get(origin)) is None:
            proxies = self.hosts.proxies_for(origin.scheme, origin.host, origin.port)
            if self._given is None:  # a caller's session may support other proxies
                proxies = {scheme: _usable_proxy(scheme, proxy) for scheme, proxy in proxies.items()}
            self._proxies[origin] = proxies
        proxy = proxies.get(origin.scheme, "")
        with (
            ErrorTranslation(url, timeouts, authorities=str(session.verify), proxy=proxy) as translated,
            reaching_the_socket(deadline, self.limits.headers),
        ):
            # Call the adapter directly: Session.send reads the bodies of redirects without a limit, even of redirects
            # that it does not follow, and needs a cookie jar, which these requests do not have.
            response = session.get_adapter(url).send(
                prepared,
                stream=True,
                timeout=(min(timeouts.connect, left), timeouts.read),
                proxies=proxies,
                verify=True if session.verify is None else session.verify,
                cert=session.cert,
            )
        translated.reraise()
        _log.debug("%s %s: %s", method, redact(url), response.status_code)
        if origin == self.origin:
            self.rate_limit = parse_rate_limit(response.headers) or self.rate_limit
            show_warnings(self.endpoint.origin.partition("://")[2], response.headers.get("Warning", ""))
        recorded = None if self._recorder is None else self._recorder.exchange(prepared, response)
        # RFC 9110 sections 9.3.2 and 6.4.1
        has_body = method != "HEAD" and response.status_code not in {204, 304}
        return Response(response, url, timeouts, recorded, has_body=has_body)

    def _process(self) -> _Process:
        """Return the connections and tokens of this process: neither connections nor locks survive a fork."""
        pid = os.getpid()
        if (process := self._processes.get(pid)) is None:
            pool = self._pools.get(self._pool_key, self._new_session)
            tokens = pool.tokens(self._tokens_key, self._new_tokens)
            process = self._processes.setdefault(pid, _Process(pool, tokens))
        return process

    def _new_tokens(self) -> Tokens:
        return Tokens(self.origin, login=self._login, realms=self._realms, send=self._ask_token_service, host=self.host)

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
        # Client certificates and skipped verification are for the endpoint only, not for the targets of redirects.
        adapter = TimedAdapter(tls=self.hosts.tls(self.endpoint, elsewhere=True), pool_maxsize=KEPT_CONNECTIONS)
        session.mount("https://", adapter)
        session.mount("http://", adapter)
        if self.endpoint.client or self.endpoint.skip_verify:
            adapter = TimedAdapter(tls=self.hosts.tls(self.endpoint), pool_maxsize=KEPT_CONNECTIONS)
            session.mount(f"{self.origin}/", adapter)
        return session

    def check_login(self, login: Login) -> str | None:
        """Check a login at the registry, without requesting content.

        Args:
            login: Sent to the registry, and to a token service that may receive it.

        Returns:
            The identity token that the token service issued for the login, empty for none; None if the registry
            requires no login.

        Raises:
            Denied: The login was refused.
            DistError: As `request`.
        """
        deadline = self.document_deadline()
        url = self._url("/")
        note = "check the name and the password"
        send = functools.partial(self._ask_token_service, note=note)
        tokens = Tokens(self.origin, login=lambda: login, realms=self._realms, send=send, host=self.host)
        response = self._send("GET", url, None, None, deadline)
        identity = None
        if response.status == 401:
            response.discard(self.limits.error)
            try:
                header, identity = tokens.show_login(response.headers.get("WWW-Authenticate", ""), deadline)
            except Denied as refusal:
                raise self._refused(refusal) from refusal
            response = self._send("GET", url, None, header, deadline)
        with response:
            if response.status != 200:
                error = self._error(response, "GET", note=note)
                raise self._refused(error) if isinstance(error, Denied) else error
        return identity

    def _refused(self, error: DistError) -> Denied:
        return Denied(f"{self.origin} refused the login: {error}", status=401)

    def _ask_token_service(self, request: TokenRequest, deadline: Deadline, *, note: str = "") -> bytes:
        """Send a request of `Tokens` to a token service, and return the body of the response.

        The request is not retried: if it fails, the request that needs the token is.
        """
        url, form = request.url, request.form
        method = "GET" if form is None else "POST"
        own = Origin.of(url)
        for _ in range(MAX_REDIRECTS + 1):
            authorization = request.authorization if Origin.of(url) == own else None
            response = self._send(method, url, {"Accept": "application/json"}, authorization, deadline, form=form)
            if response.status not in _REDIRECTS:
                break
            response.discard(self.limits.error)
            url = follow(url, response.headers.get("Location", ""), what="redirects to")
            if form is not None and (Origin.of(url) != own or response.status not in {307, 308}):
                message = f"{redact(request.url)} redirects a request with a login to {redact(url)}: refused"
                raise Unsafe(message)
        if response.status != 200:
            error = self._error(response, method, note=note)
            if isinstance(error, NotFound) and form is None:  # the service is missing, not the object
                message = f"no token service found: {error}"
                raise RegistryError(message, status=404, codes=error.codes, detail=error.detail)
            raise error
        return response.read_document(self.limits.token, deadline, what=f"the response of {redact(url)}")

    def _error(self, response: Response, method: str, *, note: str = "") -> DistError:
        """Return the error for a response, with the registry's own codes and messages."""
        body = self._error_body(response, method)
        codes, detail = body.codes, body.detail
        retry_after = parse_retry_after(response.headers.get("Retry-After", ""))
        wait = "" if retry_after is None else f"; try again in {human_time(retry_after)}"
        note = f"; {note}" if note else ""
        words = f": {body.message}" if body.message else ""
        shown = redact(response.url)
        status = response.status
        if status == 404:
            return NotFound(f"{shown} not found (404{words})", codes=codes, detail=detail)
        if status == 401:
            note = note or f"; {how_to_log_in(self.host)}"
            message = f"{shown} does not exist or requires a login (401{words}){note}"
            return Denied(message, status=status, codes=codes, detail=detail)
        if status == 403:
            message = f"{shown} is forbidden (403{words}){note}"
            return Denied(message, status=status, codes=codes, detail=detail)
        if status == 429:
            message = f"too many requests for {shown} (429{words}){wait or '; try again later'}"
            return RateLimited(message, retry_after=retry_after, codes=codes, detail=detail)
        name = http.client.responses.get(status, "")
        message = f"{shown} answered {status} {name}{words}{wait}"
        return RegistryError(message, status=status, codes=codes, retry_after=retry_after, detail=detail)

    def _error_body(self, response: Response, method: str) -> ErrorBody:
        """Return the errors in the body of a response."""
        if method == "HEAD":
            response.close()
            return ErrorBody()
        body = b""
        try:
            body = response.read_document(self.limits.error, Deadline(self.timeouts.read), what="the error")
            return parse_error_body(body)
        except (DistError, ValueError, KeyError, TypeError, RecursionError):
            wants_tls = response.status == 400 and response.url.startswith("http:") and _WANTS_TLS.search(body)
            return ErrorBody(
                message="this port expects TLS: use --tls, or Hosts(plain_http=False)" if wants_tls else ""
            )


def _sending(pieces: Iterable[bytes | memoryview], deadline: Deadline, seconds: float) -> Iterator[bytes | memoryview]:
    """Yield the pieces of a request body; each one sent restarts the deadline, so that only the response is bounded."""
    bound_each_piece(seconds)
    for piece in pieces:
        deadline.restart()
        yield piece
    deadline.restart()


def _login_for_cassettes() -> Login:
    from distsdk.transport.credentials import Login

    return Login("nobody", "nothing", source="the cassette")


def _usable_proxy(scheme: str, proxy: str) -> str:
    """Return a proxy's URL in the form that requests expects: ``localhost:3128`` would parse as scheme and path.

    Raises:
        InvalidConfig: The URL is invalid.
    """
    url = proxy if "://" in proxy else f"http://{proxy}"
    try:
        parts = urllib3.util.parse_url(url)
        usable = parts.scheme in {"http", "https"} and not re.search(r"\s", parts.host or " ") and parts.port != 0
        usable = usable and "@" not in parts.request_uri + (parts.fragment or "")  # for example a slash in a password
    except urllib3.exceptions.LocationParseError:
        usable = False
    if not usable:
        message = (
            f"invalid proxy {shown_proxy(proxy)}: expected http://HOST:PORT or https://HOST:PORT, with special "
            f"characters of a password percent-encoded; see {scheme.upper()}_PROXY and ALL_PROXY"
        )
        raise InvalidConfig(message)
    return url
