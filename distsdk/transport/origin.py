"""Origins, and the one way through for every URL that a server names."""

from __future__ import annotations

import re
from typing import Self
from urllib.parse import urldefrag, urljoin, urlsplit, urlunsplit

from attrs import frozen

from distsdk._secrets import redact
from distsdk.errors import Unsafe

_PORTS = {"http": 80, "https": 443}

#: A byte that no URI has (RFC 3986 section 2), in a header as `http.client` reads it: each byte a character.
_NO_URI_BYTE = re.compile(r"[\x80-\xff]")


@frozen
class Origin:
    """Scheme, host and port (RFC 6454 section 4): what credentials belong to.

    Attributes:
        scheme: ``http`` or ``https``.
        host: In lower case; an IPv6 address without brackets.
        port: A number.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        """Return the origin of a URL.

        Raises:
            ValueError: The URL's port is no number.
        """
        parts = urlsplit(url)
        scheme = parts.scheme.lower()
        return cls(scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(scheme, 0))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS.get(self.scheme) else f":{self.port}")


def follow(base: str, target: str, *, what: str, relative: bool = True) -> str:
    """Return the URL that a server's words lead to, if they may lead there.

    Redirects, ``Link``, ``Location``, ``realm`` and the ``urls`` of layers all pass through here. What belongs to one
    origin, credentials above all, is for the caller to hold back when the `Origin` of the result is another.

    Args:
        base: The URL that was asked.
        target: What the server named in a header, each of its bytes a character; those that no URI has are
            percent-encoded as they are, as browsers do.
        what: How the server came to name it, for the message: ``redirects to``.
        relative: Whether ``target`` may be relative to ``base``.

    Returns:
        An absolute http(s) URL without user, password and fragment.

    Raises:
        Unsafe: It is no such URL, or leads from https to http.
    """
    from requests import RequestException
    from requests.utils import requote_uri

    target = _NO_URI_BYTE.sub(lambda byte: f"%{ord(byte[0]):02X}", target)
    try:
        url = urldefrag(requote_uri(urljoin(base, target) if relative else target)).url
        parts = urlsplit(url)
        valid = bool(target) and parts.scheme in _PORTS and bool(parts.hostname) and parts.username is None
        valid = valid and parts.port != 0  # and asking for the port raises if it is none
    except (ValueError, RequestException):
        valid = False
    if not valid:
        message = f"{redact(base)} {what} something that is no http(s) URL: {redact(target)}"
        raise Unsafe(message)
    if urlsplit(base).scheme == "https" and parts.scheme != "https":
        message = f"{redact(base)} {what} {redact(url)}: from https to http nothing is followed"
        raise Unsafe(message)
    return urlunsplit(parts)  # its scheme in lower case
