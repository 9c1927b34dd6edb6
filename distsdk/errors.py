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

from typing import TYPE_CHECKING

from distsdk._secrets import masked, redact
from distsdk._text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator


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
