"""The token service of the in-process registry: opaque tokens that are really checked."""

from __future__ import annotations

import re
import secrets
import threading
import time
from typing import TYPE_CHECKING

from attrs import frozen

if TYPE_CHECKING:
    from collections.abc import Iterable

#: A resource type, a name that may hold colons (a port), and actions.
#: https://distribution.github.io/distribution/spec/auth/scope/
_SCOPE = re.compile(r"(?P<resource>[a-z]+(?:\([a-z0-9]+\))?:[^ ]+):(?P<actions>[a-z*,]+)")


def _grants(scopes: Iterable[str]) -> Iterable[tuple[str, str]]:
    for scope in scopes:
        if match := _SCOPE.fullmatch(scope):
            yield from ((match["resource"], action) for action in match["actions"].split(","))


@frozen
class _Token:
    grants: frozenset[tuple[str, str]]
    expires: float


class TokenService:
    """Grants and checks tokens.

    Args:
        lifetime: Seconds for which a token is good.
    """

    def __init__(self, lifetime: float) -> None:
        self.lifetime = lifetime
        self._tokens: dict[str, _Token] = {}
        self._lock = threading.Lock()

    def grant(self, scopes: Iterable[str]) -> str:
        """Return a new token that is good for ``scopes``, as far as they are well-formed."""
        token = secrets.token_urlsafe(24)
        with self._lock:
            self._tokens[token] = _Token(frozenset(_grants(scopes)), time.monotonic() + self.lifetime)
        return token

    def refusal(self, authorization: str | None, scope: str) -> str | None:
        """Return why a request is refused.

        Args:
            authorization: The request's ``Authorization`` field, or None.
            scope: What the request needs; empty where any token will do.

        Returns:
            An error code of RFC 6750 section 3.1, empty where the request brought no token, or None where it may pass.
        """
        scheme, _, token = (authorization or "").partition(" ")
        if scheme.lower() != "bearer":
            return ""
        with self._lock:
            known = self._tokens.get(token.strip())
        if known is None or known.expires <= time.monotonic():
            return "invalid_token"
        return None if known.grants.issuperset(_grants([scope])) else "insufficient_scope"

    def expire(self) -> None:
        """Make every token granted so far worthless."""
        with self._lock:
            self._tokens.clear()
