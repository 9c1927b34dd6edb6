"""Challenges and tokens: what a registry says on 401, and what a token service answers."""

from __future__ import annotations

import contextlib
import json
import re
import threading
import time
from typing import TYPE_CHECKING
from urllib.parse import urlencode, urlsplit

from attrs import field, frozen

from distsdk.errors import Denied, MalformedDocument, Unsafe, redact

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distsdk.transport.deadline import Deadline

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
class Challenge:
    """One challenge of a ``WWW-Authenticate`` header (RFC 9110 section 11.6.1).

    Attributes:
        scheme: In lower case, ``bearer`` or ``basic``.
        params: By name in lower case; the first of a name counts.
    """

    scheme: str
    params: dict[str, str] = field(hash=False)


def parse_challenges(header: str) -> list[Challenge]:
    """Read the challenges of one or several joined ``WWW-Authenticate`` headers; reading stops at what is none."""
    return list(_challenges(header))


def _challenges(header: str) -> Iterator[Challenge]:
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
        yield Challenge(scheme[1].lower(), params)


@frozen
class Grant:
    """Where a token comes from: what tokens are kept by."""

    realm: str = field(repr=redact)
    service: str
    scope: str

    @property
    def url(self) -> str:
        """The URL that is asked (distribution's token specification, "Requesting a token")."""
        query = [(name, value) for name, value in (("service", self.service), ("scope", self.scope)) if value]
        return f"{self.realm}{'&' if urlsplit(self.realm).query else '?'}{urlencode(query)}"


@frozen
class _Token:
    text: str = field(repr=False)
    expires: float

    @property
    def fresh(self) -> bool:
        return time.monotonic() < self.expires


class Tokens:
    """The anonymous bearer tokens of one registry, kept by realm, service and scope.

    Several threads may ask at once; a token is requested by one of them.

    Args:
        origin: ``scheme://host[:port]`` of the registry.
        get: Fetches a token service's URL before a deadline and returns the body of its answer.
    """

    def __init__(self, origin: str, get: Callable[[str, Deadline], bytes]) -> None:
        self._origin = origin
        self._get = get
        self._lock = threading.Lock()
        self._grants: dict[str, Grant] = {}  # by the scope a request needs: what the registry last asked for it
        self._tokens: dict[Grant, _Token] = {}

    def header(self, scope: str, deadline: Deadline) -> str | None:
        """Return the Authorization header for a request that needs ``scope``; None before the registry asked for one.

        An expired token is renewed first.
        """
        with self._locked(deadline):
            grant = self._grants.get(scope)
            return self._bearer(grant, deadline) if grant else None

    def answer(self, header: str, scope: str, deadline: Deadline, *, rejected: str | None) -> str:
        """Meet a 401.

        Args:
            header: The registry's ``WWW-Authenticate``.
            scope: What the request needs; asked for where the challenge names none.
            deadline: When the token has to be here.
            rejected: The Authorization header that was refused, if there was one.

        Returns:
            The Authorization header to try again with.

        Raises:
            Denied: The registry asks for something that needs a login, or its token service refuses.
            Unsafe: The realm is not a URL that may be asked.
        """
        challenges = parse_challenges(header)
        bearer = next((c for c in challenges if c.scheme == "bearer" and c.params.get("realm")), None)
        if bearer is None:
            schemes = ", ".join(sorted({c.scheme for c in challenges})) or "none it names"
            message = f"{redact(self._origin)} asks for a login (scheme: {schemes}), and none is configured"
            raise Denied(message, status=401)
        realm = bearer.params["realm"]
        self._check_realm(realm)
        grant = Grant(realm, bearer.params.get("service", ""), bearer.params.get("scope") or scope)
        with self._locked(deadline):
            self._grants[scope] = grant
            token = self._tokens.get(grant)
            if token is not None and f"Bearer {token.text}" == rejected:
                del self._tokens[grant]
            return self._bearer(grant, deadline)

    @contextlib.contextmanager
    def _locked(self, deadline: Deadline) -> Iterator[None]:
        if not self._lock.acquire(timeout=deadline.left()):
            deadline.left()  # raises
        try:
            yield
        finally:
            self._lock.release()

    def _bearer(self, grant: Grant, deadline: Deadline) -> str:
        token = self._tokens.get(grant)
        if token is None or not token.fresh:
            asked = time.monotonic()
            text, lifetime = parse_token_reply(self._get(grant.url, deadline))
            token = self._tokens[grant] = _Token(text, asked + lifetime - min(EXPIRY_MARGIN, lifetime / 10))
        return f"Bearer {token.text}"

    def _check_realm(self, realm: str) -> None:
        try:
            parts = urlsplit(realm)
            valid = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.username is None
            valid = valid and parts.port != 0  # and asking for the port raises if it is none
        except ValueError:
            valid = False
        if not valid:
            message = f"{redact(self._origin)} names a token service that is no http(s) URL: {redact(realm)}"
            raise Unsafe(message)
        if self._origin.startswith("https:") and parts.scheme != "https":
            message = f"{redact(self._origin)} names a token service without TLS: {redact(realm)}"
            raise Unsafe(message)


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
