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


#: Characters of a URL that are shown.
_LONGEST_URL = 1000


#: Put in the place of a secret.
HIDDEN = "REDACTED"


#: Characters of a secret that could not be an ordinary word: with a digit in it, and without.
_SHORT_SECRET, _LONG_SECRET = 8, 16


#: Secrets to be masked, in lower case, and how many of them are remembered: tokens are renewed.
_hidden: dict[str, None] = {}


_MOST_HIDDEN = 1024


#: Letters and digits of a segment that may be random.
_RANDOM = 20


_HEX = re.compile("[0-9a-fA-F-]{32,}")


_RUN = re.compile("[a-z]+|[A-Z]+|[0-9]+")


#: Characters of the folders between an algorithm and a digest: ``sha256/ab/ab12…``.
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
    """Return ``url`` fit to be shown: not too long, without user and password, and without what may be a signature."""
    try:
        parts = urlsplit(url)
        _ = parts.port  # a password with a slash in it looks like a port that is none
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
    """Return the path of a URL with those segments replaced that look like signatures or tokens.

    Those are segments of random letters and digits, and the values of parameters. Digests stay, and so do the paths of
    the distribution API, whose tags may look random.

    Args:
        path: As in a URL.
        replaced: Called with each such segment; returns what takes its place.
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
    # Names change between lower case, upper case and digits at most every third character; random text does so more.
    return count >= _RANDOM and 3 * len(_RUN.findall(text)) > count


def hide(*secrets: str) -> None:
    """Mask secrets in the messages, shown URLs, logs and cassettes of this process from now on.

    Servers repeat what they were sent. Secrets that could be ordinary words are not masked: those of fewer than 8
    characters, and those of fewer than 16 without a digit.
    """
    for secret in secrets:
        for form in {secret.lower(), quote(secret, safe="").lower()}:
            if len(form) >= _LONG_SECRET or (len(form) >= _SHORT_SECRET and any(c.isdigit() for c in form)):
                _hidden.pop(form, None)  # the newest are last
                _hidden[form] = None
    for old in list(_hidden)[:-_MOST_HIDDEN]:
        _hidden.pop(old, None)


def masked(text: str) -> str:
    """Return ``text`` with the secrets that `hide` was given masked, in any case, cut off or percent-encoded."""
    low = _lower(text)
    for start in {secret[:_LONG_SECRET] for secret in list(_hidden)}:
        while (at := low.find(start)) >= 0:
            forms = (secret for secret in list(_hidden) if secret.startswith(start))
            length = max(_common(low, at, form) for form in forms)
            text = f"{text[:at]}{HIDDEN}{text[at + length :]}"
            low = _lower(text)
    return text


def _common(text: str, at: int, form: str) -> int:
    """Return how many characters of a secret there are in a text, from an offset on."""
    pairs = enumerate(zip(text[at : at + len(form)], form, strict=False))
    return next((number for number, (one, other) in pairs if one != other), min(len(form), len(text) - at))


def _lower(text: str) -> str:
    """Return ``text`` in lower case, character by character: a few have two in lower case."""
    low = text.lower()
    return low if len(low) == len(text) else "".join(c.lower()[:1] for c in text)


def without_secrets(text: str) -> str:
    """Return the words of a server with its URLs redacted and secrets masked."""
    return masked(_URL.sub(lambda url: redact(url[0]), text))
