"""Everything distsdk raises on purpose.

::

    DistError
    ├── InvalidReference      (ValueError)       a locator, reference, tag or repository name
    ├── InvalidDigest         (ValueError)
    ├── InvalidHint           (ValueError)
    ├── InvalidConfig         (ValueError)       a setting, a variable, a file of settings
    ├── NotFound              (LookupError)      the registry does not have it
    ├── PlatformNotFound      (LookupError)      the index has nothing for that platform
    ├── Denied                (PermissionError)  401, 403, or a token service that refuses
    ├── IntegrityError                           what came is not what was asked for
    │   ├── DigestMismatch
    │   ├── SizeMismatch
    │   └── MediaTypeMismatch
    ├── MalformedDocument     (ValueError)       not JSON, or not what its media type says
    ├── UnsupportedDocument   (ValueError)       well-formed, but of a kind distsdk refuses
    ├── Unreachable           (ConnectionError)  no connection, or one that broke
    ├── DeadlineExceeded      (TimeoutError)     too slow
    ├── RateLimited                              429
    ├── Unsafe                                   refused, since it could do harm
    ├── LimitExceeded                            larger, deeper or more than a limit allows
    ├── RegistryError                            any other answer of a registry
    └── MissingExtra          (ImportError)      an optional dependency is not installed

Errors carry their data as attributes and can be pickled. Their messages are safe to print: control characters that came
from elsewhere are escaped, URLs are shown without secrets, and logins and tokens that a server repeats are masked.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, unquote_plus, urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

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


def printable(text: str) -> str:
    """Return ``text`` with everything escaped that a terminal would act on rather than show.

    Control characters, line breaks, bidirectional overrides and lone surrogates are written as Python writes them in a
    string literal; all other text, letters of any script included, stays as it is.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


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


class DistError(Exception):
    """The root of everything distsdk raises on purpose.

    Args:
        message: What happened and what to do about it. Escaped with `printable`, and without known secrets.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(masked(message)))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), str(self), self.__dict__.copy()))

    def __rich_repr__(self) -> Iterator[tuple[str, object]]:
        """Yield the message and the data, as rich asks for them."""
        yield "message", str(self)
        yield from self.__dict__.items()

    def _repr_html_(self) -> str:
        from distsdk.display.html import error

        return error(type(self).__name__, str(self), self.__dict__)

    def _render_traceback_(self) -> list[str]:
        from distsdk.display.tracebacks import render

        return render(self, _rebuild(type(self), str(self), self.__dict__))


def _rebuild(kind: type[DistError], message: str, data: dict[str, object]) -> DistError:
    error = kind.__new__(kind, message)
    DistError.__init__(error, message)
    error.__dict__.update(data)
    return error


class DistWarning(UserWarning):
    """Something that distsdk does not fail for, and that the caller probably wants to change.

    Given through `warnings`, so that a filter for this category silences or raises it.

    Args:
        message: What happened and what to do about it. Escaped with `printable`, and without known secrets.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(masked(message)))


class InvalidReference(DistError, ValueError):
    """A locator, reference, tag or repository name that cannot be one."""


class InvalidDigest(DistError, ValueError):
    """Not ``sha256:``, ``sha384:`` or ``sha512:`` followed by as many lower-case hex digits as that algorithm has."""


class InvalidHint(DistError, ValueError):
    """Not ``kind:value``, or a value that its kind cannot have."""


class InvalidConfig(DistError, ValueError):
    """A setting, an environment variable or a file of settings that cannot be used."""


class NotFound(DistError, LookupError):
    """What was asked for is not there.

    Attributes:
        codes: The registry's own error codes, such as ``MANIFEST_UNKNOWN``; empty where there is no registry.
        detail: The registry's ``detail`` of its errors, as text; empty where there is none.
    """

    def __init__(self, message: str, *, codes: tuple[str, ...] = (), detail: str = "") -> None:
        super().__init__(message)
        self.codes = codes
        self.detail = detail


class PlatformNotFound(DistError, LookupError):
    """An index has no manifest for the platform.

    Attributes:
        platform: What was asked for, ``os/architecture[/variant]``.
        available: What the index has, in the same form.
    """

    def __init__(self, message: str, *, platform: str, available: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.platform = platform
        self.available = available


class Denied(DistError, PermissionError):
    """The registry or its token service refused.

    Docker Hub, and others, answer so for what does not exist too.

    Attributes:
        status: The HTTP status, 401 or 403; None where the refusal came without one.
        codes: The registry's own error codes, such as ``UNAUTHORIZED``.
        detail: The registry's ``detail`` of its errors, as text; empty where there is none.
    """

    def __init__(
        self, message: str, *, status: int | None = None, codes: tuple[str, ...] = (), detail: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.codes = codes
        self.detail = detail


class IntegrityError(DistError):
    """What came is not what was asked for. Bytes handed out before this error must not be used."""


class DigestMismatch(IntegrityError):
    """The bytes hash to something else.

    Attributes:
        expected: The digest that was asked for.
        got: The digest of the bytes.
    """

    def __init__(self, message: str, *, expected: str, got: str) -> None:
        super().__init__(message)
        self.expected = expected
        self.got = got


class SizeMismatch(IntegrityError):
    """More or fewer bytes than declared.

    Attributes:
        expected: The declared size in bytes.
        got: The bytes that came; where more came than declared, what was seen when reading stopped.
    """

    def __init__(self, message: str, *, expected: int, got: int) -> None:
        super().__init__(message)
        self.expected = expected
        self.got = got


class MediaTypeMismatch(IntegrityError):
    """The object is there under another media type.

    Attributes:
        expected: The media types that were hinted or declared.
        got: The media type that is there.
    """

    def __init__(self, message: str, *, expected: tuple[str, ...], got: str) -> None:
        super().__init__(message)
        self.expected = expected
        self.got = got


class MalformedDocument(DistError, ValueError):
    """Not JSON, or JSON that contradicts its media type or its specification."""


class UnsupportedDocument(DistError, ValueError):
    """A document distsdk refuses by name, such as a Docker schema 1 manifest.

    Attributes:
        media_type: What it is.
    """

    def __init__(self, message: str, *, media_type: str) -> None:
        super().__init__(message)
        self.media_type = media_type


class Unreachable(DistError, ConnectionError):
    """No connection could be made, its certificate did not convince, or it broke.

    Attributes:
        url: What was asked for, redacted.
        temporary: Whether the same request may do better the next time: the connection broke, rather than was refused.
    """

    def __init__(self, message: str, *, url: str = "", temporary: bool = False) -> None:
        super().__init__(message)
        self.url = redact(url)
        self.temporary = temporary


class DeadlineExceeded(DistError, TimeoutError):
    """No byte came in time, or the whole took longer than allowed.

    Attributes:
        seconds: The limit that was exceeded.
        temporary: Whether the same request may do better the next time: no byte came, and there is time left.
    """

    def __init__(self, message: str, *, seconds: float, temporary: bool = False) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.temporary = temporary


class RateLimited(DistError):
    """The registry wants fewer requests (429).

    Attributes:
        retry_after: Seconds to wait as the registry says, or None where it does not say.
        codes: The registry's own error codes, such as ``TOOMANYREQUESTS``.
        detail: The registry's ``detail`` of its errors, as text; empty where there is none.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, codes: tuple[str, ...] = (), detail: str = ""
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.codes = codes
        self.detail = detail


class Unsafe(DistError):
    """Refused, since doing it could do harm."""


class LimitExceeded(DistError):
    """Larger, deeper or more than a limit allows.

    Attributes:
        limit: The limit, in the unit that the message names.
    """

    def __init__(self, message: str, *, limit: int) -> None:
        super().__init__(message)
        self.limit = limit


class RegistryError(DistError):
    """An answer of a registry that no other error describes.

    Attributes:
        status: The HTTP status.
        codes: The registry's own error codes.
        retry_after: Seconds to wait as the registry says, or None where it does not say.
        detail: The registry's ``detail`` of its errors, as text; empty where there is none.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        codes: tuple[str, ...] = (),
        retry_after: float | None = None,
        detail: str = "",
    ) -> None:
        super().__init__(message)
        self.status = status
        self.codes = codes
        self.retry_after = retry_after
        self.detail = detail


class MissingExtra(DistError, ImportError):
    """An optional dependency is not installed.

    Args:
        extra: The extra of distsdk that brings it.
        what: What needs it.
    """

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(f"{what} needs an optional dependency: pip install 'distsdk[{extra}]'")
        self.extra = extra
        self.what = what
