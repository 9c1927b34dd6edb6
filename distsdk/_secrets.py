"""Mask secrets in URLs and messages."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, unquote_plus, urlsplit, urlunsplit

from distsdk._text import printable

if TYPE_CHECKING:
    from collections.abc import Callable


#: Query parameters whose values may be shown. Everything else in a query may be a signature.
_SHOWN_QUERY = frozenset({"account", "client_id", "digest", "last", "n", "ns", "scope", "service"})


#: Characters of a URL to show at most.
_LONGEST_URL = 1000


#: Replaces a secret.
HIDDEN = "REDACTED"


#: Characters from which a secret is masked, with a digit in it and without one: shorter ones may be ordinary words.
_SHORT_SECRET, _LONG_SECRET = 8, 16


#: Secrets to mask, in lower case, oldest first, and how many are kept at most: tokens are renewed.
_hidden: dict[str, None] = {}


_MOST_HIDDEN = 1024


#: Letters and digits from which a segment may be a random token.
_RANDOM = 20


_HEX = re.compile("[0-9a-fA-F-]{32,}")


_RUN = re.compile("[a-z]+|[A-Z]+|[0-9]+")


#: Characters of a directory name between algorithm and digest: ``sha256/ab/ab12…``.
_SHARD = 2


_DIGEST = re.compile("sha256[:_-]?[0-9a-f]{64}|sha384[:_-]?[0-9a-f]{96}|sha512[:_-]?[0-9a-f]{128}")


# https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#endpoints
_API_PATH = re.compile(
    r".*/v2/[a-z0-9._/-]+/(?:manifests/[A-Za-z0-9_][\w.:+-]{0,200}|blobs/[a-z0-9+._-]+:[0-9a-f]+|tags/list|referrers/.*)",
    re.ASCII,
)


#: A URL, or the path and query of one, in running text.
_URL = re.compile(r"(?:https?:/|(?<![^\s\"'(=]))/[^\s\"'<>\\]*[^\s\"'<>\\.,:;)]")


def redact(url: str) -> str:
    """Return ``url`` without user, password and possible signatures, escaped and cut, safe to show.

    Args:
        url: Any URL; a malformed one is not shown at all.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises if a slash in the password makes a part of it the port
    except ValueError:
        return "<malformed URL>"
    host = parts.netloc.rpartition("@")[2]
    query = "&".join(_redact_pair(pair) for pair in parts.query.split("&")) if parts.query else ""
    path = parts.path if parts.scheme not in {"", "http", "https"} else replace_signatures(parts.path, lambda _: HIDDEN)
    shown = printable(masked(urlunsplit((parts.scheme, host, path, query, ""))))
    return shown if len(shown) <= _LONGEST_URL else f"{shown[:_LONGEST_URL]}…"


def _redact_pair(pair: str) -> str:
    name, equals, value = pair.partition("=")
    if name in _SHOWN_QUERY:
        return f"{name}{equals}{quote(unquote_plus(value), safe=':/,')}"
    return f"{name}={HIDDEN}" if equals else HIDDEN


def replace_signatures(path: str, replaced: Callable[[str], str]) -> str:
    """Replace the segments of a URL's path that look like signatures or tokens.

    These are segments of random letters and digits, and segments with a parameter's value. Digests are kept, and so
    are the paths of the distribution API, whose tags may look random.

    Args:
        path: As in a URL.
        replaced: Called with each such segment; returns its replacement.
    """
    if _API_PATH.fullmatch(path):
        return path
    segments = path.split("/")
    before = ""
    for number, segment in enumerate(segments):
        if _is_signature(segment, before):
            segments[number] = replaced(segment)
        before = segment if len(segment) != _SHARD else before
    return "/".join(segments)


def _is_signature(segment: str, before: str) -> bool:
    text = unquote(segment)
    if _DIGEST.fullmatch(text if ":" in text else f"{before}:{text}"):
        return False
    if len(text.rpartition("=")[2]) >= _SHORT_SECRET and "=" in text:
        return True
    if _HEX.fullmatch(text) and any(c.isdigit() for c in text):
        return True
    count = sum(c.isascii() and c.isalnum() for c in text)
    # Names change between lower case, upper case and digits at most every third character; random text more often.
    return count >= _RANDOM and 3 * len(_RUN.findall(text)) > count


def hide(*secrets: str) -> None:
    """Mask secrets in later messages, shown URLs, logs and cassettes of this process, since servers repeat them.

    Secrets that may be ordinary words are not masked: those with fewer than 8 characters, or fewer than 16 without a
    digit.

    Args:
        secrets: Passwords and tokens, as they are sent.
    """
    for secret in secrets:
        for form in {secret.lower(), quote(secret, safe="").lower()}:
            if len(form) >= _LONG_SECRET or (len(form) >= _SHORT_SECRET and any(c.isdigit() for c in form)):
                _hidden.pop(form, None)  # the newest are last
                _hidden[form] = None
    for old in list(_hidden)[:-_MOST_HIDDEN]:
        _hidden.pop(old, None)


def masked(text: str) -> str:
    """Mask the secrets passed to `hide`, in upper or lower case, truncated or percent-encoded.

    Args:
        text: Any text.
    """
    low = _lower(text)
    for start in {secret[:_LONG_SECRET] for secret in list(_hidden)}:
        while (at := low.find(start)) >= 0:
            forms = (secret for secret in list(_hidden) if secret.startswith(start))
            length = max(_common(low, at, form) for form in forms)
            text = f"{text[:at]}{HIDDEN}{text[at + length :]}"
            low = _lower(text)
    return text


def _common(text: str, at: int, form: str) -> int:
    """Return how many leading characters of a secret the text has at an offset."""
    pairs = enumerate(zip(text[at : at + len(form)], form, strict=False))
    return next((number for number, (one, other) in pairs if one != other), min(len(form), len(text) - at))


def _lower(text: str) -> str:
    """Return ``text`` in lower case with unchanged length: a few characters have two in lower case."""
    low = text.lower()
    return low if len(low) == len(text) else "".join(c.lower()[:1] for c in text)


def without_secrets(text: str) -> str:
    """Return ``text`` with its URLs redacted and its secrets masked.

    Args:
        text: As a server sent it.
    """
    return masked(_URL.sub(lambda url: redact(url[0]), text))
