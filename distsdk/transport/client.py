"""Requests to one endpoint: a session a process, limits, logins, redirects, and errors translated at one seam.

`distsdk.transport.endpoints` chooses among several.
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

#: Redirects that are followed for one request.
MAX_REDIRECTS = 5

_REDIRECTS = frozenset({301, 302, 303, 307, 308})

#: Redirects that leave method and body as they are (RFC 9110 section 15.4); others would make a GET of an upload.
_SAME_METHOD = frozenset({307, 308})

#: What servers say to HTTP without TLS on a port for TLS: nginx, Go's net/http, Apache httpd.
_WANTS_TLS = re.compile(rb"HTTP request (was sent )?to (an )?HTTPS (port|server)|plain HTTP to an SSL-enabled")

#: Connections that are kept open to one host; more are opened when more are needed.
KEPT_CONNECTIONS = 16


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
        self.rate_limit: RateLimitStatus | None = None
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
        retry_state: RetryState | None = None,
    ) -> Response:
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
            retry_state: The attempts there are; by default as many as ``retry`` says.

        Raises:
            NotFound, Denied, RateLimited, RegistryError: The registry's answer is no success.
            Unreachable, DeadlineExceeded: There was none.
            Unsafe: A redirect leads where none may lead.
            LimitExceeded: The headers are too long.
        """
        retry_state = retry_state or RetryState(self.retry)
        until = deadline or self.document_deadline()
        while True:
            try:
                answer = self._request(
                    method, path, scope, headers, until, retry_state=retry_state, body=body, also=also
                )
            except DistError as error:
                retry_state.wait(error, until, self._process().pool)
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
        retry_state: RetryState | None = None,
        check: Callable[[Response], None] = lambda _: None,
    ) -> tuple[Response, bytes]:
        """Get a document and read it whole; where its body breaks, get it again.

        Arguments and errors as `request`; ``check`` sees each answer before its body is read.
        """
        retry_state = retry_state or RetryState(self.retry)
        while True:
            answer = self.request("GET", path, scope=scope, headers=headers, deadline=deadline, retry_state=retry_state)
            check(answer)
            if answer.status not in {200, 203}:
                answer.discard(self.limits.error)
                message = f"{redact(answer.url)} answered {answer.status} where a whole document was asked for"
                raise RegistryError(message, status=answer.status)
            try:
                return answer, answer.read_document(self.limits.document, deadline, what=redact(answer.url))
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
        """Send a request once: what a challenge and redirects make of it included."""
        asked = url = self._url(path)
        process = self._process()
        tokens = process.tokens
        host = urlsplit(self.endpoint.base).netloc

        def send(url: str, authorization: str | None) -> Response:
            retry_state.wait_for(process.pool, host, deadline)
            return self._send(method, url, headers, authorization, deadline, body=body)

        retry_state.wait_for(process.pool, host, deadline)  # before a token is asked for
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

    def located(self, answer: Response, scope: str) -> str:
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
            if self._given is None:  # what another session can use is for it to say
                proxies = {scheme: _usable_proxy(scheme, proxy) for scheme, proxy in proxies.items()}
            self._proxies[origin] = proxies
        proxy = proxies.get(origin.scheme, "")
        with (
            ErrorTranslation(url, timeouts, authorities=str(session.verify), proxy=proxy) as translated,
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
        return Response(response, url, timeouts, recorded, has_body=has_body)

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

    def _error(self, answer: Response, method: str, *, note: str = "") -> DistError:
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

    def _error_body(self, answer: Response, method: str) -> ErrorBody:
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
            f"the proxy {shown_proxy(proxy)} cannot be used: it has to be http://HOST:PORT or https://HOST:PORT, "
            f"what is special in a password percent-encoded: see {scheme.upper()}_PROXY and ALL_PROXY"
        )
        raise InvalidConfig(message)
    return url
