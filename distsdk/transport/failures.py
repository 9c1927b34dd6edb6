"""Translate the HTTP library's exceptions into distsdk's."""

from __future__ import annotations

import http.client
import http.cookiejar
import re
import ssl
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

import requests
import urllib3.exceptions
from attrs import frozen

from distsdk._secrets import redact
from distsdk.errors import (
    DeadlineExceeded,
    DistError,
    InvalidConfig,
    LimitExceeded,
    Unreachable,
)
from distsdk.transport.deadline import (
    TLSTimeoutError,
)
from distsdk.transport.reported import cause_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from distsdk.transport.settings import Timeouts


def shown_proxy(proxy: str) -> str:
    """Return a proxy's URL without its login, for messages.

    Args:
        proxy: A URL, or ``host:port``. All text before the last ``@`` may be part of a password.
    """
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", proxy)
    return redact((scheme[0] if scheme else "http://") + proxy[scheme.end() if scheme else 0 :].rpartition("@")[2])


class ErrorTranslation:
    """A context manager that translates exceptions of requests, urllib3 and the socket into distsdk's.

    The block ends without an exception; the caller calls `reraise` after it. Raising inside the block would chain the
    error to the original exception, which quotes URLs that may hold secrets. Python does not print that chain after
    ``from``, but tblib, and therefore Dask, pickles it.
    """

    def __init__(self, url: str, timeouts: Timeouts, *, authorities: str = "", proxy: str = "") -> None:
        """Set the values that messages name.

        Args:
            url: URL of the request.
            timeouts: Time-outs of the request.
            authorities: File of certificate authorities.
            proxy: URL of the proxy; empty for none.
        """
        self._url = url
        self._timeouts = timeouts
        self._authorities = authorities
        self._proxy = proxy
        self._error: DistError | None = None
        self._cause: BaseException | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> bool:
        kinds = (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, OSError)
        if not isinstance(error, kinds) or isinstance(error, DistError):
            return False
        chain = list(_causes(error))
        if (ours := next((e for e in chain if isinstance(e, DistError)), None)) is not None:
            self._error = ours  # a deadline, raised at the socket
            return True
        self._error = _translate(chain, self._url, self._timeouts, self._authorities, self._proxy)
        # The innermost cause: the exceptions that wrap it quote URLs.
        wrappers = (requests.RequestException, urllib3.exceptions.HTTPError)
        self._cause = next((e for e in reversed(chain) if not isinstance(e, wrappers)), None)
        return True

    def reraise(self) -> None:
        """Raise the translated error of the block, if it failed."""
        if self._error is not None:
            raise self._error from self._cause


@frozen
class _Culprit:
    """The server that a failure is attributed to in messages: the registry's host, or the proxy.

    Attributes:
        name: Name of the server: ``registry.example:5000``, ``the proxy http://proxy.example:3128``.
        where: Prefix of messages that do not name the server: the URL of the request, or the proxy.
        is_proxy: Whether the server is the proxy.
    """

    name: str
    where: str
    is_proxy: bool


def _translate(chain: list[BaseException], url: str, timeouts: Timeouts, authorities: str, proxy: str) -> DistError:
    if any(isinstance(e, urllib3.exceptions.ProxyError) for e in chain):
        name = f"the proxy {shown_proxy(proxy)}" if proxy else "the proxy"  # a caller's session may have its own proxy
        culprit = _Culprit(name, name, is_proxy=True)
    else:
        culprit = _Culprit(urlsplit(url).netloc.rpartition("@")[2], redact(url), is_proxy=False)
    for e in chain:
        if type(e) is http.client.HTTPException and "headers" in str(e):  # "got more than 100 headers"
            return LimitExceeded(f"{redact(url)}: {e}", limit=http.client._MAXHEADERS)  # type: ignore[attr-defined]
        if isinstance(e, urllib3.exceptions.HeaderParsingError):
            return Unreachable(f"{redact(url)}: the response has invalid headers", url=url)
        if isinstance(e, ssl.SSLError):
            return _translate_tls(e, culprit, url, authorities)
    return (
        _translate_connecting(chain, culprit, url, timeouts)
        or _translate_timeout(chain, culprit, url, timeouts)
        or _translate_other(chain, culprit, url)
    )


def _translate_tls(error: ssl.SSLError, culprit: _Culprit, url: str, authorities: str) -> DistError:
    if isinstance(error, ssl.SSLCertVerificationError):
        message = (
            f"certificate verification failed for {culprit.name} ({error.verify_message}); "
            "pass its CA with --cacert or DISTSDK_CACERT if it is a private one"
        )
        return Unreachable(message, url=url)
    if error.library in {"X509", "PEM"}:
        message = f"{authorities} contains no certificate authority in PEM format; see --cacert and DISTSDK_CACERT"
        return InvalidConfig(message)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return Unreachable(f"{culprit.where}: the TLS connection was closed early", url=url, temporary=True)
    how = "write http:// in its URL" if culprit.is_proxy else "pass --plain-http"
    message = f"TLS with {culprit.name} failed ({error.reason or error}); if it expects plain HTTP, {how}"
    return Unreachable(message, url=url)


def _translate_connecting(
    chain: list[BaseException], culprit: _Culprit, url: str, timeouts: Timeouts
) -> Unreachable | None:
    """Return the error of a failed connection; None if the connection was established."""
    seconds = f"{timeouts.connect:g} seconds"
    if any(isinstance(e, ConnectionRefusedError) for e in chain):
        running = "is it running?" if culprit.is_proxy else "is a registry running there?"
        return Unreachable(f"connection refused by {culprit.name}: {running}", url=url)
    if any(isinstance(e, urllib3.exceptions.NameResolutionError) for e in chain):
        if any(isinstance(e, TimeoutError) for e in chain):
            message = f"name resolution of {culprit.name} took longer than {seconds}; check the network"
            return Unreachable(message, url=url, temporary=True)
        host = culprit.name if culprit.is_proxy else f"host {culprit.name}"
        return Unreachable(f"{host} not found: check the name and the network", url=url)
    if any(isinstance(e, TLSTimeoutError) for e in chain):
        message = f"TLS with {culprit.name} took longer than {seconds}"
        return Unreachable(message, url=url, temporary=True)
    # urllib3's errors of a new connection are all derived from ConnectTimeoutError: it comes after them.
    if any(isinstance(e, urllib3.exceptions.ConnectTimeoutError) for e in chain):
        return Unreachable(f"{culprit.name} did not accept a connection in time", url=url, temporary=True)
    return None


def _translate_timeout(chain: list[BaseException], culprit: _Culprit, url: str, timeouts: Timeouts) -> DistError | None:
    if not any(isinstance(e, urllib3.exceptions.ReadTimeoutError | TimeoutError) for e in chain):
        return None
    if culprit.is_proxy:
        message = f"{culprit.name} did not open a tunnel within {timeouts.connect:g} seconds"
        return Unreachable(message, url=url, temporary=True)
    message = f"{culprit.where}: no data arrived for {timeouts.read:g} seconds"
    return DeadlineExceeded(message, seconds=timeouts.read, temporary=True)


def _translate_other(chain: list[BaseException], culprit: _Culprit, url: str) -> Unreachable:
    if any(isinstance(e, urllib3.exceptions.IncompleteRead | http.client.IncompleteRead) for e in chain):
        message = f"{culprit.where}: the connection was closed in the middle of the body"
        return Unreachable(message, url=url, temporary=True)
    # Messages of system errors contain no URL; a proxy that refuses a tunnel raises a plain OSError.
    reasons = [
        e.strerror or str(e) for e in chain if isinstance(e, OSError) and type(e).__module__ in {"builtins", "socket"}
    ]
    broke = any(isinstance(e, ConnectionResetError | ConnectionAbortedError | BrokenPipeError) for e in chain)
    return Unreachable(f"{culprit.where}: {reasons[0] if reasons else cause_of(chain)}", url=url, temporary=broke)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and all errors that it wraps in the ways of urllib3 and requests."""
    seen: set[int] = set()
    todo: list[object] = [error]
    while todo:
        e = todo.pop()
        if isinstance(e, BaseException) and id(e) not in seen:
            seen.add(id(e))
            yield e
            todo += [*e.args, getattr(e, "reason", None), e.__cause__, e.__context__]
