"""Challenges, logins and tokens: what a registry says on 401, what it is shown then, what a token service answers."""

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
from distsdk.transport.origin import Origin, follow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distsdk.transport.credentials import Login
    from distsdk.transport.deadline import Deadline

_log = logging.getLogger(__name__)

#: Seconds a token lives when its reply does not say (distribution's token specification: "defaults to 60 seconds").
DEFAULT_LIFETIME = 60.0

#: Seconds before its end at which a token counts as expired, so that it does not expire on the way; for tokens that
#: live less than ten times as long, a tenth of their life.
EXPIRY_MARGIN = 5.0

_LONGEST_LIFETIME = 365 * 86400

# RFC 9110 section 11.2 and 5.6: auth-scheme, then either a token68 or a list of auth-params.
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a grammar rule
_SCHEME = re.compile(rf"[ \t,]*({_TOKEN})(?=[ \t,]|$)[ \t]*")
_PARAM = re.compile(rf'[ \t,]*({_TOKEN})[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|({_TOKEN}))[ \t]*(?=,|$)')
_TOKEN68 = re.compile(r"[A-Za-z0-9._~+/-]+=*[ \t]*(?=,|$)")

# RFC 6750 section 2.1: b64token. Nothing else may go into the Authorization header.
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@frozen
class AuthChallenge:
    """One challenge of a ``WWW-Authenticate`` header (RFC 9110 section 11.6.1).

    Attributes:
        scheme: In lower case, ``bearer`` or ``basic``.
        params: By name in lower case; the first of a name counts.
    """

    scheme: str
    params: dict[str, str] = field(hash=False)


def parse_challenges(header: str) -> list[AuthChallenge]:
    """Read the challenges of one or several joined ``WWW-Authenticate`` headers; reading stops at what is none."""
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
    """What a token is good for: what tokens are kept by."""

    realm: str = field(repr=redact)
    service: str
    scopes: tuple[str, ...]

    @property
    def url(self) -> str:
        """The URL that is asked (distribution's token specification, "Requesting a token")."""
        query = [("service", self.service)] if self.service else []
        query += [("scope", scope) for scope in self.scopes]
        return f"{self.realm}{'&' if urlsplit(self.realm).query else '?'}{urlencode(query)}"


@frozen
class TokenRequest:
    """What a token service is sent.

    Attributes:
        url: Without fragment.
        authorization: The header, for a GET with a login.
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
    """What one registry is shown: nothing, a login, or bearer tokens kept by realm, service and scopes.

    The login goes to the registry's own origin and to the token services that are known to be its own, and nowhere
    else, whatever the registry says. Several threads may ask at once; a token is requested by one of them.

    Args:
        origin: The registry's.
        login: Looks the login up, when the registry asks for one for the first time.
        realms: Origins of other token services that may be given the login.
        ask: Sends a request to a token service before a deadline and returns the body of its answer.
        host: By which its login is looked up, for messages; by default the origin's.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        login: Callable[[], Login | None],
        realms: frozenset[Origin],
        ask: Callable[[TokenRequest, Deadline], bytes],
        host: str = "",
    ) -> None:
        self._origin = origin
        self._host = host or str(origin).partition("://")[2]
        self._look_up = login
        self._realms = realms
        self._ask = ask
        self._lock = threading.Lock()
        self._login: Login | None = None
        self._looked_up = False
        self._basic: str | None = None
        self._grants: dict[str, Grant] = {}  # by the scope a request needs: what the registry last asked for it
        self._tokens: dict[Grant, _Token] = {}
        #: What the user has to know about the login when the registry refuses in the end; empty if there is nothing.
        self.note = ""

    def header(self, scope: str, deadline: Deadline) -> str | None:
        """Return the Authorization header for a request that needs ``scope``; None before the registry asked for one.

        An expired token is renewed first.
        """
        with self._locked(deadline):
            grant = self._grants.get(scope)
            return self._bearer(grant, deadline) if grant else self._basic

    def showed_login(self, header: str | None) -> bool:
        """Whether an Authorization header is the login itself, rather than a token that was given for it."""
        login = self._login
        return header is not None and (
            header == self._basic or (login is not None and header == f"Bearer {login.registry_token}")
        )

    def answer(self, header: str, scope: str, deadline: Deadline, *, rejected: str | None) -> str:
        """Meet a 401.

        Args:
            header: The registry's ``WWW-Authenticate``.
            scope: What the request needs, parted by spaces if it is more than one; added to what the challenge names.
            deadline: When the token has to be here.
            rejected: The Authorization header that was refused, if there was one.

        Returns:
            The Authorization header to try again with.

        Raises:
            Denied: The registry asks for a login, and there is none or it was refused; or its token service refuses.
            Unsafe: The realm is not a URL that may be asked.
        """
        challenges = parse_challenges(header)
        bearer = next((c for c in challenges if c.scheme == "bearer" and c.params.get("realm")), None)
        with self._locked(deadline):
            if bearer is None:
                return self._answer_basic(challenges, rejected)
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

    def _answer_basic(self, challenges: list[AuthChallenge], rejected: str | None) -> str:
        """Meet a challenge that asks for user and password (RFC 7617)."""
        asked = ", ".join(sorted({c.scheme for c in challenges})) or "none it names"
        login = self._own_login() if any(c.scheme == "basic" for c in challenges) else None
        if login is None or not login.username:
            message = f"{self._origin} asks for a login (scheme: {asked}), and none is configured for it"
            message += f": {self.note}" if self.note else f"; {how_to_log_in(self._host)}"
            raise Denied(message, status=401)
        header = basic_authorization(login.username, login.password)
        if header == rejected:
            self._basic = None
            message = f"{self._origin} refuses the login from {login.source}: log in again, or correct it there"
            raise Denied(f"{message}; {how_to_log_in(self._host)}", status=401)
        self._basic = header
        return header

    def show_login(self, header: str, deadline: Deadline) -> tuple[str, str]:
        """Show the login to who asks for it, for nothing in particular.

        Args:
            header: The registry's ``WWW-Authenticate``.
            deadline: When a token has to be here.

        Returns:
            The Authorization header to ask the registry with, and the identity token that the token service gives for
            the login, if it does.

        Raises:
            Denied: The token service refuses the login, or may not have it.
            Unsafe: The realm is not a URL that may be asked.
        """
        challenges = parse_challenges(header)
        bearer = next((c for c in challenges if c.scheme == "bearer" and c.params.get("realm")), None)
        with self._locked(deadline):
            if bearer is None:
                return self._answer_basic(challenges, None), ""
            grant = self._grant(bearer, "")
            login = self._login_for(grant.realm)
            if login is None:
                raise Denied(self.note, status=401)
            body = self._ask_with(login, grant, deadline, offline=True)
            token, _ = parse_token_reply(body)
            identity = json.loads(body).get("refresh_token")
            return f"Bearer {token}", identity if isinstance(identity, str) else ""

    def _grant(self, bearer: AuthChallenge, scope: str) -> Grant:
        """Return what a token has to be good for: the challenge's scopes and those of the request."""
        realm = follow(str(self._origin), bearer.params["realm"], what="names as its token service", relative=False)
        scopes = merge_scopes(*scope.split(), *bearer.params.get("scope", "").split())
        return Grant(realm, bearer.params.get("service", ""), scopes)

    def _bearer(self, grant: Grant, deadline: Deadline) -> str:
        token = self._tokens.get(grant)
        if token is None or not token.fresh:
            asked = time.monotonic()
            text, lifetime = parse_token_reply(self._reply(grant, deadline))
            hide(text)
            token = self._tokens[grant] = _Token(text, asked + lifetime - min(EXPIRY_MARGIN, lifetime / 10))
        return f"Bearer {token.text}"

    def _reply(self, grant: Grant, deadline: Deadline) -> bytes:
        """Ask a token service, with the login if there is one for it, and without where it is refused.

        What is public stays readable with a login that is out of date.
        """
        login = self._login_for(grant.realm)
        if login is None:
            return self._ask(TokenRequest(grant.url), deadline)
        try:
            return self._ask_with(login, grant, deadline)
        except Denied as refusal:
            self._refuse(login)
            _log.warning("%s: going on without (%s)", self.note, refusal)
        return self._ask(TokenRequest(grant.url), deadline)

    def _ask_with(self, login: Login, grant: Grant, deadline: Deadline, *, offline: bool = False) -> bytes:
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
                return self._ask(TokenRequest(grant.realm, form=urlencode(fields).encode()), deadline)
            except (NotFound, RegistryError) as error:
                # Some token services know no POST; they take the token as a password.
                if not login.username or (isinstance(error, RegistryError) and error.status not in {400, 405}):
                    raise
        header = basic_authorization(login.username, login.identity_token or login.password)
        # https://distribution.github.io/distribution/spec/auth/token/: an identity token is asked for.
        more = "&offline_token=true&client_id=distsdk" if offline else ""
        return self._ask(TokenRequest(f"{grant.url}{more}", authorization=header), deadline)

    def _login_for(self, realm: str) -> Login | None:
        """Return the login if the realm's origin may be given it."""
        login = self._own_login()
        if login is None or not (login.username or login.identity_token):
            return None
        origin = Origin.of(realm)
        if origin == self._origin or origin in self._realms:
            return login
        if not self.note:
            self.note = (
                f"the login from {login.source} was not given to {origin}, which {self._origin} names as its token "
                f'service: if it is, write realms = ["{origin}"] into its hosts.toml'
            )
            _log.warning("%s", self.note)
        return None

    def _refuse(self, login: Login) -> None:
        """Be done with a login that is of no use."""
        self.note = f"the login from {login.source} for {self._origin} was refused: log in again, or remove it there"
        self.note += f"; {how_to_log_in(self._host)}"
        self._login = None


def how_to_log_in(host: str) -> str:
    """Return what a message says to who has no login for a registry."""
    from distsdk.transport.credentials import command_for

    return f"log in: {command_for(host)}; in Python: connect(…, credentials=Credentials(…))"


def basic_authorization(username: str, password: str) -> str:
    """Return the header for a user and a password (RFC 7617, with UTF-8)."""
    return f"Basic {base64.b64encode(f'{username}:{password}'.encode()).decode()}"


def merge_scopes(*scopes: str) -> tuple[str, ...]:
    """Return scopes, sorted, with the actions on each resource in one.

    ``type:name:action,…`` (https://distribution.github.io/distribution/spec/auth/scope/); what is none stays as it is.
    """
    actions: dict[str, set[str]] = {}
    for scope in scopes:
        resource, colon, wanted = scope.rpartition(":")
        if colon and ":" in resource:
            actions.setdefault(f"{resource}:", set()).update(filter(None, wanted.split(",")))
        elif scope:
            actions.setdefault(scope, set())
    return tuple(resource + ",".join(sorted(wanted)) for resource, wanted in sorted(actions.items()))


def parse_token_reply(body: bytes) -> tuple[str, float]:
    """Read the reply of a token service.

    Args:
        body: JSON with ``token`` or ``access_token``, and perhaps ``expires_in``
            (https://distribution.github.io/distribution/spec/auth/token/).

    Returns:
        The token, and the seconds it lives.

    Raises:
        MalformedDocument: Not such a reply, or a token that cannot go into a header.
    """
    try:
        reply = json.loads(body)
        token = reply.get("token") or reply.get("access_token")
        lifetime = reply.get("expires_in") or DEFAULT_LIFETIME
    except (ValueError, AttributeError, RecursionError) as error:
        message = "the token service's reply is not a JSON object: is the registry's realm a token service?"
        raise MalformedDocument(message) from error
    if not isinstance(token, str) or not _BEARER.fullmatch(token):
        message = "the token service's reply holds no token that can be used"
        raise MalformedDocument(message)
    if isinstance(lifetime, bool) or not isinstance(lifetime, int | float) or not lifetime > 0:
        message = "the token service's reply has an expires_in that is no positive number"
        raise MalformedDocument(message)
    return token, float(min(lifetime, _LONGEST_LIFETIME))
