"""Origins, and the check that every URL from a server passes before it is used."""

from __future__ import annotations

import re
from typing import Self
from urllib.parse import urldefrag, urljoin, urlsplit, urlunsplit

from attrs import frozen

from distsdk._secrets import redact
from distsdk.errors import Unsafe

_PORTS = {"http": 80, "https": 443}

#: A byte that is invalid in a URI (RFC 3986 section 2). `http.client` decodes each byte of a header as one character.
_NO_URI_BYTE = re.compile(r"[\x80-\xff]")


@frozen
class Origin:
    """Scheme, host and port (RFC 6454 section 4): the unit to which credentials are sent.

    Attributes:
        scheme: ``http`` or ``https``.
        host: In lower case; an IPv6 address without brackets.
        port: The port; that of the scheme if the URL names none.
    """

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Self:
        """Return the origin of a URL.

        Args:
            url: An absolute URL.

        Raises:
            ValueError: The URL's port is not a number.
        """
        parts = urlsplit(url)
        scheme = parts.scheme.lower()
        return cls(scheme, (parts.hostname or "").lower(), parts.port or _PORTS.get(scheme, 0))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}" + ("" if self.port == _PORTS.get(self.scheme) else f":{self.port}")


def follow(base: str, target: str, *, what: str, relative: bool = True) -> str:
    """Return the absolute URL for a target that a server named, if it may be followed.

    Redirects, ``Link``, ``Location``, ``realm`` and the ``urls`` of layers all pass through here. The caller compares
    the `Origin` of the result, and sends no credentials to another one.

    Args:
        base: URL of the request.
        target: The URL from a header, each byte as one character. Bytes that are invalid in a URI are percent-encoded,
            as browsers do.
        what: Verb phrase for the message: ``redirects to``.
        relative: Whether ``target`` may be relative to ``base``.

    Returns:
        An absolute http(s) URL without user, password and fragment.

    Raises:
        Unsafe: ``target`` is not such a URL, or leads from https to http.
    """
    from requests import RequestException
    from requests.utils import requote_uri

    target = _NO_URI_BYTE.sub(lambda byte: f"%{ord(byte[0]):02X}", target)
    try:
        url = urldefrag(requote_uri(urljoin(base, target) if relative else target)).url
        parts = urlsplit(url)
        valid = bool(target) and parts.scheme in _PORTS and bool(parts.hostname) and parts.username is None
        valid = valid and parts.port != 0  # raises ValueError if it is not a number
    except (ValueError, RequestException):
        valid = False
    if not valid:
        message = f"{redact(base)} {what} an invalid URL, expected http(s): {redact(target)}"
        raise Unsafe(message)
    if urlsplit(base).scheme == "https" and parts.scheme != "https":
        message = f"{redact(base)} {what} {redact(url)}: refused, since it leads from https to http"
        raise Unsafe(message)
    return urlunsplit(parts)  # with the scheme in lower case
