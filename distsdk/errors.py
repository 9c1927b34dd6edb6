"""The errors that distsdk raises.

::

    DistError
    ├── InvalidReference      (ValueError)       a locator, reference, tag or repository name
    ├── InvalidDigest         (ValueError)
    ├── InvalidHint           (ValueError)
    ├── InvalidConfig         (ValueError)       a setting, an environment variable, a configuration file
    ├── NotFound              (LookupError)      the registry does not have the object
    ├── PlatformNotFound      (LookupError)      the index has no manifest for the platform
    ├── Denied                (PermissionError)  401, 403, or refused by a token service
    ├── IntegrityError                           the content differs from the requested content
    │   ├── DigestMismatch
    │   ├── SizeMismatch
    │   └── MediaTypeMismatch
    ├── MalformedDocument     (ValueError)       not JSON, or contradicts its media type
    ├── UnsupportedDocument   (ValueError)       well-formed, but of a kind that distsdk refuses
    ├── Unreachable           (ConnectionError)  the connection failed or broke
    ├── DeadlineExceeded      (TimeoutError)     a time limit was exceeded
    ├── RateLimited                              429
    ├── Unsafe                                   refused, because it could do harm
    ├── LimitExceeded                            a limit on size, depth or number was exceeded
    ├── RegistryError                            any other error response of a registry
    └── MissingExtra          (ImportError)      an optional dependency is not installed

Errors carry their data as attributes and can be pickled. Their messages are safe to print: control characters are
escaped, URLs are shown without secrets, and credentials that a server repeats are masked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from distsdk._secrets import masked, redact
from distsdk._text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator


class DistError(Exception):
    """The base class of the errors that distsdk raises.

    Args:
        message: The cause and the remedy. Control characters are escaped and known secrets are masked.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(masked(message)))

    def __reduce__(self) -> tuple[object, ...]:
        return (_rebuild, (type(self), str(self), self.__dict__.copy()))

    def __rich_repr__(self) -> Iterator[tuple[str, object]]:
        """Yield the message and the attributes, for rich."""
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
    """A warning of a setting or an argument that the caller should change.

    Issued through `warnings`: a filter for this category silences it or raises it as an error.

    Args:
        message: The cause and the remedy. Control characters are escaped and known secrets are masked.
    """

    def __init__(self, message: str) -> None:
        super().__init__(printable(masked(message)))


class InvalidReference(DistError, ValueError):
    """A locator, reference, tag or repository name is malformed."""


class InvalidDigest(DistError, ValueError):
    """A digest is not ``sha256:``, ``sha384:`` or ``sha512:`` with 64, 96 or 128 lower-case hex digits."""


class InvalidHint(DistError, ValueError):
    """A hint is not ``kind:value``, or its value is invalid for its kind."""


class InvalidConfig(DistError, ValueError):
    """A setting, an environment variable or a configuration file is invalid."""


class NotFound(DistError, LookupError):
    """The requested object does not exist.

    Attributes:
        codes: The registry's error codes, such as ``MANIFEST_UNKNOWN``; empty if no registry was asked.
        detail: The ``detail`` of the registry's errors, as text; empty if absent.
    """

    def __init__(self, message: str, *, codes: tuple[str, ...] = (), detail: str = "") -> None:
        super().__init__(message)
        self.codes = codes
        self.detail = detail


class PlatformNotFound(DistError, LookupError):
    """An index has no manifest for the platform.

    Attributes:
        platform: The requested platform, ``os/architecture[/variant]``.
        available: The platforms of the index, in the same form.
    """

    def __init__(self, message: str, *, platform: str, available: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.platform = platform
        self.available = available


class Denied(DistError, PermissionError):
    """The registry or its token service refused access.

    Docker Hub and other registries also respond so if the repository does not exist.

    Attributes:
        status: The HTTP status, 401 or 403; None if there was no HTTP response.
        codes: The registry's error codes, such as ``UNAUTHORIZED``.
        detail: The ``detail`` of the registry's errors, as text; empty if absent.
    """

    def __init__(
        self, message: str, *, status: int | None = None, codes: tuple[str, ...] = (), detail: str = ""
    ) -> None:
        super().__init__(message)
        self.status = status
        self.codes = codes
        self.detail = detail


class IntegrityError(DistError):
    """The content differs from the requested content. Do not use bytes that were returned before this error."""


class DigestMismatch(IntegrityError):
    """The bytes have another digest than expected.

    Attributes:
        expected: The requested digest.
        got: The digest of the bytes.
    """

    def __init__(self, message: str, *, expected: str, got: str) -> None:
        super().__init__(message)
        self.expected = expected
        self.got = got


class SizeMismatch(IntegrityError):
    """There are more or fewer bytes than declared.

    Attributes:
        expected: The declared size in bytes.
        got: The received bytes; if they are more than declared, those received when reading stopped.
    """

    def __init__(self, message: str, *, expected: int, got: int) -> None:
        super().__init__(message)
        self.expected = expected
        self.got = got


class MediaTypeMismatch(IntegrityError):
    """The object has another media type than expected.

    Attributes:
        expected: The media types that were hinted or declared.
        got: The media type of the object.
    """

    def __init__(self, message: str, *, expected: tuple[str, ...], got: str) -> None:
        super().__init__(message)
        self.expected = expected
        self.got = got


class MalformedDocument(DistError, ValueError):
    """A document is not JSON, or contradicts its media type or its specification."""


class UnsupportedDocument(DistError, ValueError):
    """A document is of a kind that distsdk refuses, such as a Docker schema 1 manifest.

    Attributes:
        media_type: The media type of the document.
    """

    def __init__(self, message: str, *, media_type: str) -> None:
        super().__init__(message)
        self.media_type = media_type


class Unreachable(DistError, ConnectionError):
    """The connection failed or broke, or certificate verification failed.

    Attributes:
        url: The requested URL, redacted.
        temporary: Whether a retry of the same request may succeed: the connection broke instead of being refused.
    """

    def __init__(self, message: str, *, url: str = "", temporary: bool = False) -> None:
        super().__init__(message)
        self.url = redact(url)
        self.temporary = temporary


class DeadlineExceeded(DistError, TimeoutError):
    """No data arrived in time, or the operation took longer than allowed.

    Attributes:
        seconds: The limit that was exceeded.
        temporary: Whether a retry of the same request may succeed: no data arrived, and there is time left.
    """

    def __init__(self, message: str, *, seconds: float, temporary: bool = False) -> None:
        super().__init__(message)
        self.seconds = seconds
        self.temporary = temporary


class RateLimited(DistError):
    """The registry limits the rate of requests (429).

    Attributes:
        retry_after: Seconds to wait before the next request; None if the registry does not say.
        codes: The registry's error codes, such as ``TOOMANYREQUESTS``.
        detail: The ``detail`` of the registry's errors, as text; empty if absent.
    """

    def __init__(
        self, message: str, *, retry_after: float | None = None, codes: tuple[str, ...] = (), detail: str = ""
    ) -> None:
        super().__init__(message)
        self.retry_after = retry_after
        self.codes = codes
        self.detail = detail


class Unsafe(DistError):
    """An operation was refused, because it could do harm."""


class LimitExceeded(DistError):
    """A limit on size, depth or number was exceeded.

    Attributes:
        limit: The limit, in the unit that the message names.
    """

    def __init__(self, message: str, *, limit: int) -> None:
        super().__init__(message)
        self.limit = limit


class RegistryError(DistError):
    """A registry sent an error response that no other error describes.

    Attributes:
        status: The HTTP status.
        codes: The registry's error codes.
        retry_after: Seconds to wait before the next request; None if the registry does not say.
        detail: The ``detail`` of the registry's errors, as text; empty if absent.
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
        extra: The extra of distsdk that installs it.
        what: The feature that needs it.
    """

    def __init__(self, extra: str, what: str) -> None:
        super().__init__(f"{what} needs an optional dependency: pip install 'distsdk[{extra}]'")
        self.extra = extra
        self.what = what
