"""Answer the authentication challenges of registries: parse a 401, find the login, request tokens."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import math
import re
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from attrs import field, frozen

from distsdk._secrets import hide, redact
from distsdk.errors import Denied, MalformedDocument, NotFound, RegistryError
from distsdk.spec.strict_json import no_collection
from distsdk.transport.origin import Origin, follow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distsdk.transport.credentials import Login
    from distsdk.transport.deadline import Deadline

_log = logging.getLogger(__name__)

#: Lifetime in seconds of a token whose reply has no ``expires_in`` (distribution's token specification: "defaults to 60
#: seconds").
DEFAULT_LIFETIME = 60.0

#: Seconds before its expiry at which a token is renewed, so that it does not expire in transit. Tokens that live less
#: than ten times as long are renewed after nine tenths of their lifetime.
EXPIRY_MARGIN = 5.0

_LONGEST_LIFETIME = 365 * 86400

# RFC 9110 section 11.2 and 5.6: auth-scheme, then either a token68 or a list of auth-params.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a grammar rule
_SCHEME = re.compile(rf"[ \t,]*({_TOKEN})(?=[ \t,]|$)[ \t]*")
_PARAM = re.compile(rf'[ \t,]*({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))[ \t]*(?=,|$)')
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")

# RFC 6750 section 2.1: b64token. Other characters must not reach the Authorization header.
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@frozen
class AuthChallenge:
    """One challenge of a ``WWW-Authenticate`` header (RFC 9110 section 11.6.1).

    Attributes:
        scheme: In lower case, ``bearer`` or ``basic``.
        params: Values by name in lower case; of several with one name, the first.
    """

    scheme: str
    params: dict[str, str] = field(hash=False)


def parse_challenges(header: str) -> list[AuthChallenge]:
    """Parse one ``WWW-Authenticate`` header, or several joined by commas.

    Args:
        header: The header's value.

    Returns:
        The challenges up to the first malformed one.
    """
    return list(_challenges(header))


def _challenges(header: str) -> Iterator[AuthChallenge]:
    position = 0
    while scheme := _SCHEME.match(header, position):
        position = scheme.end()
        params: dict[str, str] = {}
        if token68 := _TOKEN68.match(header, position):
            position = token68.end()
        while param := _PARAM.match(header, position):
            position = param.end()
            name, quoted, plain = param.groups()
            params.setdefault(name.lower(), plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted))
        yield AuthChallenge(scheme[1].lower(), params)


@frozen
class Grant:
    """The use of a token, by which tokens are cached.

    Attributes:
        realm: URL of the token service.
        service: Name of the registry at the token service; empty for none.
        scopes: Sorted, one for each resource.
    """

    realm: str = field(repr=redact)
    service: str
    scopes: tuple[str, ...]

    @property
    def url(self) -> str:
        """The URL to request a token from (distribution's token specification, "Requesting a token")."""
        query = [("service", self.service)] if self.service else []
        query += [("scope", scope) for scope in self.scopes]
        return f"{self.realm}{'&' if urlsplit(self.realm).query else '?'}{urlencode(query)}"


@frozen
class TokenRequest:
    """A request to a token service.

    Attributes:
        url: An absolute URL without fragment.
        authorization: Value of the Authorization header of a GET with a login; None without one.
        form: The body of a POST, ``application/x-www-form-urlencoded``; None for a GET.
    """

    url: str = field(repr=redact)
    authorization: str | None = field(default=None, repr=False)
    form: bytes | None = field(default=None, repr=False)


@frozen
class _Token:
    text: str = field(repr=False)
    expires: float

    @property
    def fresh(self) -> bool:
        return time.monotonic() < self.expires


class Tokens:
    """Authorize requests to one registry: with a login, or with bearer tokens cached by realm, service and scopes.

    The login is sent only to the registry's own origin and to token services that are known to belong to it, even if
    the registry names another one. Threads may share the object; concurrent callers request a token once.

    Args:
        origin: Origin of the registry.
        login: Looks up the login, called at the registry's first challenge.
        realms: Origins of other token services that may receive the login.
        send: Sends a request to a token service before a deadline and returns the body of the response.
        host: Name under which the login is looked up, for messages; by default the origin's host and port.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        login: Callable[[], Login | None],
        realms: frozenset[Origin],
        send: Callable[[TokenRequest, Deadline], bytes],
        host: str = "",
    ) -> None:
        self._origin = origin
        self._host = host or str(origin).partition("://")[2]
        self._look_up = login
        self._realms = realms
        self._send = send
        self._lock = threading.Lock()
        self._login: Login | None = None
        self._looked_up = False
        self._basic: str | None = None
        self._grants: dict[str, Grant] = {}  # by the scope a request needs: from the registry's last challenge
        self._tokens: dict[Grant, _Token] = {}
        #: Why the login was not used or was refused, appended to the error if the registry denies access; empty if the
        #: login is not the cause.
        self.note = ""

    def header(self, scope: str, deadline: Deadline) -> str | None:
        """Return the Authorization header for a request; None before the registry's first challenge.

        An expired token is renewed first.

        Args:
            scope: The scope that the request needs.
            deadline: When a renewed token must have arrived.

        Raises:
            Denied, DeadlineExceeded, DistError: The token service refused or failed to renew the token.
        """
        with self._locked(deadline):
            grant = self._grants.get(scope)
            return self._bearer(grant, deadline) if grant else self._basic

    def showed_login(self, header: str | None) -> bool:
        """Return whether an Authorization header holds the login itself rather than a token issued for it.

        Args:
            header: As returned by `header`; None for a request without one.
        """
        login = self._login
        return header is not None and (
            header == self._basic or (login is not None and header == f"Bearer {login.registry_token}")
        )

    def respond(self, header: str, scope: str, deadline: Deadline, *, rejected: str | None) -> str:
        """Respond to the challenge of a 401.

        Args:
            header: The registry's ``WWW-Authenticate``.
            scope: Scopes that the request needs, separated by spaces; added to those of the challenge.
            deadline: When the token must have arrived.
            rejected: The Authorization header that was refused; None if the request had none.

        Returns:
            The Authorization header to retry with.

        Raises:
            Denied: The registry requires a login and none is configured, the login was refused, or the token service
                refused the request.
            Unsafe: The realm is not an http(s) URL, or is http while the registry uses https.
        """
        challenges = parse_challenges(header)
        bearer = next((c for c in challenges if c.scheme == "bearer" and c.params.get("realm")), None)
        with self._locked(deadline):
            if bearer is None:
                return self._respond_basic(challenges, rejected)
            grant = self._grants[scope] = self._grant(bearer, scope)
            login = self._own_login()
            if login is not None and login.registry_token:
                token = f"Bearer {login.registry_token}"
                if rejected != token:
                    self._tokens[grant] = _Token(login.registry_token, math.inf)
                    return token
                self._refuse(login)
            held = self._tokens.get(grant)
            if held is not None and f"Bearer {held.text}" == rejected:
                del self._tokens[grant]
            return self._bearer(grant, deadline)

    @contextlib.contextmanager
    def _locked(self, deadline: Deadline) -> Iterator[None]:
        if not self._lock.acquire(timeout=min(deadline.left(), threading.TIMEOUT_MAX)):
            deadline.left()  # raises
        try:
            yield
        finally:
            self._lock.release()

    def _own_login(self) -> Login | None:
        if not self._looked_up:
            self._login = login = self._look_up()
            self._looked_up = True
            if login is not None:
                secrets = [secret for secret in (login.password, login.identity_token) if secret]
                headers = [basic_authorization(login.username, secret) for secret in secrets]
                hide(*secrets, login.registry_token, *(header.removeprefix("Basic ") for header in headers))
        return self._login

    def _respond_basic(self, challenges: list[AuthChallenge], rejected: str | None) -> str:
        """Respond to a challenge for username and password (RFC 7617)."""
        schemes = ", ".join(sorted({c.scheme for c in challenges})) or "not named"
        login = self._own_login() if any(c.scheme == "basic" for c in challenges) else None
        if login is None or not login.username:
            message = f"{self._origin} requires a login (scheme: {schemes}), and none is configured for it"
            message += f": {self.note}" if self.note else f"; {how_to_log_in(self._host)}"
            raise Denied(message, status=401)
        header = basic_authorization(login.username, login.password)
        if header == rejected:
            self._basic = None
            message = f"{self._origin} refused the login from {login.source}: log in again, or correct it there"
            raise Denied(f"{message}; {how_to_log_in(self._host)}", status=401)
        self._basic = header
        return header

    def show_login(self, header: str, deadline: Deadline) -> tuple[str, str]:
        """Respond to a challenge with the login, for no scope, to check the login.

        Args:
            header: The registry's ``WWW-Authenticate``.
            deadline: When a token must have arrived.

        Returns:
            The Authorization header for the registry, and the identity token that the token service issued for the
            login; empty if it issued none.

        Raises:
            Denied: The token service refused the login, or is not trusted with it.
            Unsafe: The realm is not an http(s) URL, or is http while the registry uses https.
        """
        challenges = parse_challenges(header)
        bearer = next((c for c in challenges if c.scheme == "bearer" and c.params.get("realm")), None)
        with self._locked(deadline):
            if bearer is None:
                return self._respond_basic(challenges, None), ""
            grant = self._grant(bearer, "")
            login = self._login_for(grant.realm)
            if login is None:
                raise Denied(self.note, status=401)
            body = self._request_with_login(login, grant, deadline, offline=True)
            token, _ = parse_token_reply(body)
            with no_collection():
                identity = json.loads(body).get("refresh_token")
            return f"Bearer {token}", identity if isinstance(identity, str) else ""

    def _grant(self, bearer: AuthChallenge, scope: str) -> Grant:
        """Return the grant to request: the scopes of the challenge and those of the request."""
        realm = follow(str(self._origin), bearer.params["realm"], what="names as its token service", relative=False)
        scopes = merge_scopes(*scope.split(), *bearer.params.get("scope", "").split())
        return Grant(realm, bearer.params.get("service", ""), scopes)

    def _bearer(self, grant: Grant, deadline: Deadline) -> str:
        token = self._tokens.get(grant)
        if token is None or not token.fresh:
            requested = time.monotonic()
            text, lifetime = parse_token_reply(self._reply(grant, deadline))
            hide(text)
            token = self._tokens[grant] = _Token(text, requested + lifetime - min(EXPIRY_MARGIN, lifetime / 10))
        return f"Bearer {token.text}"

    def _reply(self, grant: Grant, deadline: Deadline) -> bytes:
        """Request a token with the login, if one may be sent, and without it if it is refused.

        Public repositories stay readable with an outdated login.
        """
        login = self._login_for(grant.realm)
        if login is None:
            return self._send(TokenRequest(grant.url), deadline)
        try:
            return self._request_with_login(login, grant, deadline)
        except Denied as refusal:
            self._refuse(login)
            _log.warning("%s: continuing without a login (%s)", self.note, refusal)
        return self._send(TokenRequest(grant.url), deadline)

    def _request_with_login(self, login: Login, grant: Grant, deadline: Deadline, *, offline: bool = False) -> bytes:
        if login.identity_token:
            # https://distribution.github.io/distribution/spec/auth/oauth/
            fields = {
                "grant_type": "refresh_token",
                "refresh_token": login.identity_token,
                "service": grant.service,
                "client_id": "distsdk",
                "scope": " ".join(grant.scopes),
            }
            try:
                return self._send(TokenRequest(grant.realm, form=urlencode(fields).encode()), deadline)
            except (NotFound, RegistryError) as error:
                # Some token services support no POST; they accept the token as a password.
                if not login.username or (isinstance(error, RegistryError) and error.status not in {400, 405}):
                    raise
        header = basic_authorization(login.username, login.identity_token or login.password)
        # https://distribution.github.io/distribution/spec/auth/token/: request an identity token.
        more = "&offline_token=true&client_id=distsdk" if offline else ""
        return self._send(TokenRequest(f"{grant.url}{more}", authorization=header), deadline)

    def _login_for(self, realm: str) -> Login | None:
        """Return the login if it may be sent to the realm's origin."""
        login = self._own_login()
        if login is None or not (login.username or login.identity_token):
            return None
        origin = Origin.of(realm)
        if origin == self._origin or origin in self._realms:
            return login
        if not self.note:
            self.note = (
                f"the login from {login.source} was not sent to {origin}, which {self._origin} names as its token "
                f'service: if you trust it, write realms = ["{origin}"] into the hosts.toml of the registry'
            )
            _log.warning("%s", self.note)
        return None

    def _refuse(self, login: Login) -> None:
        """Discard a login that was refused."""
        self.note = f"the login from {login.source} for {self._origin} was refused: log in again, or remove it there"
        self.note += f"; {how_to_log_in(self._host)}"
        self._login = None


def how_to_log_in(host: str) -> str:
    """Return the remedy that messages give for a missing or refused login.

    Args:
        host: As in a locator.
    """
    from distsdk.transport.credentials import command_for

    return f"log in: {command_for(host)}; in Python: connect(…, credentials=Credentials(…))"


def basic_authorization(username: str, password: str) -> str:
    """Return the Authorization header for a login (RFC 7617, with UTF-8).

    Args:
        username: Without a colon.
        password: The password, or a token in its place.
    """
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


def merge_scopes(*scopes: str) -> tuple[str, ...]:
    """Return scopes sorted, with all actions on one resource in one scope.

    Args:
        scopes: Each ``type:name:action,…`` (https://distribution.github.io/distribution/spec/auth/scope/); others are
            kept unchanged.
    """
    actions: dict[str, set[str]] = {}
    for scope in scopes:
        resource, colon, names = scope.rpartition(":")
        if colon and ":" in resource:
            actions.setdefault(f"{resource}:", set()).update(filter(None, names.split(",")))
        elif scope:
            actions.setdefault(scope, set())
    return tuple(resource + ",".join(sorted(names)) for resource, names in sorted(actions.items()))


def parse_token_reply(body: bytes) -> tuple[str, float]:
    """Parse the response of a token service.

    Args:
        body: JSON with ``token`` or ``access_token``, and optionally ``expires_in``
            (https://distribution.github.io/distribution/spec/auth/token/).

    Returns:
        The token, and its lifetime in seconds.

    Raises:
        MalformedDocument: The body has no such fields, or the token has characters that a header cannot carry.
    """
    try:
        with no_collection():
            reply = json.loads(body)
        token = reply.get("token") or reply.get("access_token")
        lifetime = reply.get("expires_in") or DEFAULT_LIFETIME
    except (ValueError, AttributeError, RecursionError) as error:
        message = "invalid response of the token service (not a JSON object): is the registry's realm a token service?"
        raise MalformedDocument(message) from error
    if not isinstance(token, str) or not _BEARER.fullmatch(token):
        message = "the response of the token service has no valid token"
        raise MalformedDocument(message)
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or not lifetime > 0:
        message = "invalid expires_in in the response of the token service: not a positive number"
        raise MalformedDocument(message)
    return token, float(min(lifetime, _LONGEST_LIFETIME))
