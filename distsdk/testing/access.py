"""Who may read the in-process registry: logins, and a token service whose opaque tokens are really checked."""

from __future__ import annotations

import base64
import binascii
import re
import secrets
import threading
import time
from typing import TYPE_CHECKING, Protocol
from urllib.parse import parse_qs

from attrs import define, field, frozen

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from distsdk.testing.exchange import Request

#: The name that tokens are given under.
SERVICE = "distsdk.testing"

#: A resource type, a name that may hold colons (a port), and actions.
#: https://distribution.github.io/distribution/spec/auth/scope/
_SCOPE = re.compile(r"(?P<type>[a-z]+(?:\([a-z0-9]+\))?):(?P<name>[^ ]+):(?P<actions>[a-z*,]+)")


class Refused(Exception):
    """The token service gives no token.

    Args:
        status: The HTTP status that says so.
        code: The registry's code for it.
        message: The reason.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message


@frozen
class Accounts:
    """The logins there are, and what they are needed for.

    Attributes:
        passwords: By user.
        private: Found in the names of repositories that take a login; None where none does.
    """

    passwords: Mapping[str, str] = field(factory=dict, repr=False)
    private: re.Pattern[str] | None = None

    def needed(self, name: str, *, writes: bool = False) -> bool:
        """Return whether reading, or writing, what is called so takes a login; writing does wherever there are any."""
        return (writes and bool(self.passwords)) or (self.private is not None and bool(self.private.search(name)))

    def user(self, authorization: str | None) -> str:
        """Return whom an ``Authorization`` field (RFC 7617) logs in; empty for nobody.

        Raises:
            Refused: There is one, and it is wrong.
        """
        if authorization is None:
            return ""
        scheme, _, encoded = authorization.partition(" ")
        try:
            user, _, password = base64.b64decode(encoded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise Refused(401, "UNAUTHORIZED", "not a login") from error
        if scheme.lower() != "basic":
            raise Refused(401, "UNAUTHORIZED", "not a login")
        return self.login(user, password)

    def login(self, user: str, password: str) -> str:
        """Return the user, if the password is right.

        Raises:
            Refused: It is not.
        """
        known = self.passwords.get(user)
        if known is None or not secrets.compare_digest(known.encode(), password.encode()):
            raise Refused(401, "UNAUTHORIZED", "incorrect username or password")
        return user


class Access(Protocol):
    """What decides whether a request may read."""

    def challenge(self, request: Request, repository: str, scope: str) -> str | None:
        """Return what ``WWW-Authenticate`` says to a request that is refused, None to one that may pass.

        Args:
            request: What is asked for.
            repository: The repository's name; empty for what belongs to none.
            scope: What a token has to be good for; empty where any will do.
        """


@frozen
class BasicAccess:
    """A login comes with each request (RFC 7617)."""

    accounts: Accounts

    def challenge(self, request: Request, repository: str, scope: str) -> str | None:
        """Return a Basic challenge to who needs a login, and to who brings a wrong one."""
        try:
            user = self.accounts.user(request.headers.get("Authorization"))
        except Refused:
            user = None
        writes = request.method not in {"GET", "HEAD"} and not scope.endswith(":pull")
        passes = user if self.accounts.needed(repository, writes=writes) else user is not None
        return None if passes else f'Basic realm="{SERVICE}"'


@frozen
class BearerAccess:
    """A token comes with each request (RFC 6750).

    Attributes:
        tokens: The service that gave it.
        origin: Returns where that service is.
    """

    tokens: TokenService
    origin: Callable[[], str]

    def challenge(self, request: Request, repository: str, scope: str) -> str | None:
        """Return a Bearer challenge that names realm, service and scope."""
        del repository
        error = self.tokens.refusal(request.headers.get("Authorization"), scope)
        if error is None:
            return None
        # https://distribution.github.io/distribution/spec/auth/token/
        parameters = {"realm": f"{self.origin()}/token", "service": SERVICE, "scope": scope, "error": error}
        return "Bearer " + ",".join(f'{name}="{value}"' for name, value in parameters.items() if value)


@define
class _IssuedToken:
    grants: frozenset[tuple[str, str]]
    expires: float
    left: float


class TokenService:
    """Grants and checks tokens.

    Args:
        accounts: Who gets a token for what takes a login.
        lifetime: Seconds for which a token is good.
        uses: Requests for which a token is good; None for any number.
    """

    def __init__(self, accounts: Accounts, lifetime: float, uses: int | None) -> None:
        self.accounts = accounts
        self._lifetime = lifetime
        self._uses = float("inf") if uses is None else uses
        self._tokens: dict[str, _IssuedToken] = {}
        self._identities: dict[str, str] = {}
        self._lock = threading.Lock()

    def reply(self, request: Request) -> dict[str, object]:
        """Return the fields of the answer to a request for a token.

        Raises:
            Refused: It gets none.
        """
        if request.method == "POST":
            return self._post(request)
        # https://distribution.github.io/distribution/spec/auth/token/
        query = parse_qs(request.query)
        if query.get("service", [SERVICE]) != [SERVICE]:
            raise Refused(400, "UNSUPPORTED", f"tokens are given for the service {SERVICE} alone")
        user = self.accounts.user(request.headers.get("Authorization"))
        token = self._grant(user, query.get("scope", ()))
        fields: dict[str, object] = {"token": token, "access_token": token, "expires_in": int(self._lifetime)}
        if user and query.get("offline_token") == ["true"]:
            fields["refresh_token"] = self.identity_token(user)
        return fields

    def _post(self, request: Request) -> dict[str, object]:
        # https://distribution.github.io/distribution/spec/auth/oauth/
        if request.headers.get("Content-Type", "").partition(";")[0].strip() != "application/x-www-form-urlencoded":
            raise Refused(400, "UNSUPPORTED", "a token is asked for with a form")
        form = {name: values[0] for name, values in parse_qs(request.body.decode("utf-8", "replace")).items()}
        if form.get("service") != SERVICE or "client_id" not in form:
            raise Refused(400, "UNSUPPORTED", f"the form has to name service={SERVICE} and a client_id")
        if form.get("grant_type") == "password":
            user = self.accounts.login(form.get("username", ""), form.get("password", ""))
        elif form.get("grant_type") == "refresh_token":
            with self._lock:
                found = self._identities.get(form.get("refresh_token", ""))
            if found is None:
                raise Refused(401, "UNAUTHORIZED", "the identity token is not known")
            user = found
        else:
            raise Refused(400, "UNSUPPORTED", "grant_type has to be password or refresh_token")
        scopes = form.get("scope", "")
        fields: dict[str, object] = {
            "access_token": self._grant(user, [scopes]),
            "expires_in": int(self._lifetime),
            "scope": scopes,
        }
        if form["grant_type"] == "refresh_token":
            fields["refresh_token"] = form["refresh_token"]
        elif form.get("access_type") == "offline":
            fields["refresh_token"] = self.identity_token(user)
        return fields

    def identity_token(self, user: str) -> str:
        """Return a new identity token, which stands for the user's login in the OAuth2 form.

        Raises:
            KeyError: There is no such user.
        """
        if user not in self.accounts.passwords:
            raise KeyError(user)
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._identities[token] = user
        return token

    def _grant(self, user: str, scopes: Iterable[str]) -> str:
        """Return a new token, good for the scopes that are well-formed and that the user may have."""
        matches = (_SCOPE.fullmatch(scope) for text in scopes for scope in text.split())
        grants = frozenset(
            grant
            for match in matches
            if match is not None
            for grant in _grants(match)
            if user or not self.accounts.needed(match["name"], writes=grant[1] in {"push", "delete"})
        )
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._tokens[token] = _IssuedToken(grants, time.monotonic() + self._lifetime, self._uses)
        return token

    def refusal(self, authorization: str | None, scope: str) -> str | None:
        """Return why a request is refused; one that may pass uses the token up by one.

        Args:
            authorization: The request's ``Authorization`` field, or None.
            scope: What the request needs; empty where any token will do.

        Returns:
            An error code of RFC 6750 section 3.1, empty where the request brought no token, or None where it may pass.
        """
        scheme, _, text = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return ""
        match = _SCOPE.fullmatch(scope)
        with self._lock:
            token = self._tokens.get(text.strip())
            if token is None or token.expires <= time.monotonic() or token.left < 1:
                return "invalid_token"
            if match is not None and not token.grants.issuperset(_grants(match)):
                return "insufficient_scope"
            token.left -= 1
            return None

    def expire(self) -> None:
        """Make every token granted so far worthless; identity tokens stay."""
        with self._lock:
            self._tokens.clear()


def _grants(scope: re.Match[str]) -> Iterable[tuple[str, str]]:
    return ((f"{scope['type']}:{scope['name']}", action) for action in scope["actions"].split(","))
