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
    """Return a proxy's URL fit to be shown: whatever stands before the last ``@`` may be of a password."""
    scheme = re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", proxy)
    return redact((scheme[0] if scheme else "http://") + proxy[scheme.end() if scheme else 0 :].rpartition("@")[2])


class ErrorTranslation:
    """A block that turns what requests, urllib3 and the socket raise into an error of distsdk, and ends with it.

    Who uses it calls `tell` after the block. To raise inside would chain the error to what it came from, and that
    quotes URLs, which may hold secrets: Python prints no such chain after ``from``, but tblib pickles it, and so Dask.
    """

    def __init__(self, url: str, timeouts: Timeouts, *, authorities: str = "", proxy: str = "") -> None:
        """Enter nothing yet.

        Args:
            url: What was asked for.
            timeouts: How long was waited.
            authorities: The file of certificate authorities.
            proxy: URL of the proxy in between; empty for none.
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
        # The cause that is told is the innermost one: what is wrapped around it quotes URLs.
        wrappers = (requests.RequestException, urllib3.exceptions.HTTPError)
        self._cause = next((e for e in reversed(chain) if not isinstance(e, wrappers)), None)
        return True

    def tell(self) -> None:
        """Raise the error that the block ended with, if it did."""
        if self._error is not None:
            raise self._error from self._cause


@frozen
class _Party:
    """Who was at fault, as messages call it: the host that was asked, or the proxy in between.

    Attributes:
        name: ``registry.example:5000``, ``the proxy http://proxy.example:3128``.
        where: What stands before a fault that needs no name: the URL, or the proxy again.
        is_proxy: Whether it is the proxy.
    """

    name: str
    where: str
    is_proxy: bool


def _translate(chain: list[BaseException], url: str, timeouts: Timeouts, authorities: str, proxy: str) -> DistError:
    if any(isinstance(e, urllib3.exceptions.ProxyError) for e in chain):
        name = f"the proxy {shown_proxy(proxy)}" if proxy else "the proxy"  # of a session that has its own
        party = _Party(name, name, is_proxy=True)
    else:
        party = _Party(urlsplit(url).netloc.rpartition("@")[2], redact(url), is_proxy=False)
    for e in chain:
        if type(e) is http.client.HTTPException and "headers" in str(e):  # "got more than 100 headers"
            return LimitExceeded(f"{redact(url)}: {e}", limit=http.client._MAXHEADERS)  # type: ignore[attr-defined]
        if isinstance(e, urllib3.exceptions.HeaderParsingError):
            return Unreachable(f"{redact(url)}: the headers of the answer cannot be read", url=url)
        if isinstance(e, ssl.SSLError):
            return _translate_tls(e, party, url, authorities)
    return (
        _translate_connecting(chain, party, url, timeouts)
        or _translate_timeout(chain, party, url, timeouts)
        or _translate_rest(chain, party, url)
    )


def _translate_tls(error: ssl.SSLError, party: _Party, url: str, authorities: str) -> DistError:
    if isinstance(error, ssl.SSLCertVerificationError):
        message = (
            f"the certificate of {party.name} does not convince ({error.verify_message}): "
            "name its authority with --cacert or DISTSDK_CACERT if it is a private one"
        )
        return Unreachable(message, url=url)
    if error.library in {"X509", "PEM"}:
        message = f"{authorities} holds no certificate authority in PEM form: see --cacert and DISTSDK_CACERT"
        return InvalidConfig(message)
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return Unreachable(f"{party.where}: the TLS connection ended too early", url=url, temporary=True)
    how = "write http:// in its URL" if party.is_proxy else "allow that with --plain-http"
    message = f"no TLS with {party.name} ({error.reason or error}): if it speaks plain HTTP, {how}"
    return Unreachable(message, url=url)


def _translate_connecting(
    chain: list[BaseException], party: _Party, url: str, timeouts: Timeouts
) -> Unreachable | None:
    """Return the error of a connection that did not come about; None where there was one."""
    seconds = f"{timeouts.connect:g} seconds"
    if any(isinstance(e, ConnectionRefusedError) for e in chain):
        running = "is it running?" if party.is_proxy else "is a registry running there?"
        return Unreachable(f"{party.name} refuses connections: {running}", url=url)
    if any(isinstance(e, urllib3.exceptions.NameResolutionError) for e in chain):
        if any(isinstance(e, TimeoutError) for e in chain):
            message = f"the name of {party.name} was not resolved within {seconds}: check the network"
            return Unreachable(message, url=url, temporary=True)
        known = f"{party.name} is not known" if party.is_proxy else f"no host {party.name} is known"
        return Unreachable(f"{known}: check the name and the network", url=url)
    if any(isinstance(e, TLSTimeoutError) for e in chain):
        message = f"no TLS connection with {party.name} came about within {seconds}"
        return Unreachable(message, url=url, temporary=True)
    # urllib3's errors of a new connection are all derived from ConnectTimeoutError: it comes after them.
    if any(isinstance(e, urllib3.exceptions.ConnectTimeoutError) for e in chain):
        return Unreachable(f"{party.name} did not accept a connection in time", url=url, temporary=True)
    return None


def _translate_timeout(chain: list[BaseException], party: _Party, url: str, timeouts: Timeouts) -> DistError | None:
    if not any(isinstance(e, urllib3.exceptions.ReadTimeoutError | TimeoutError) for e in chain):
        return None
    if party.is_proxy:
        message = f"{party.name} opened no tunnel within {timeouts.connect:g} seconds"
        return Unreachable(message, url=url, temporary=True)
    message = f"{party.where}: no byte came for {timeouts.read:g} seconds"
    return DeadlineExceeded(message, seconds=timeouts.read, temporary=True)


def _translate_rest(chain: list[BaseException], party: _Party, url: str) -> Unreachable:
    if any(isinstance(e, urllib3.exceptions.IncompleteRead | http.client.IncompleteRead) for e in chain):
        message = f"{party.where}: the connection ended in the middle of the body"
        return Unreachable(message, url=url, temporary=True)
    # Errors of the system quote no URL; a proxy's refusal of a tunnel is a plain OSError.
    told = [
        e.strerror or str(e) for e in chain if isinstance(e, OSError) and type(e).__module__ in {"builtins", "socket"}
    ]
    broke = any(isinstance(e, ConnectionResetError | ConnectionAbortedError | BrokenPipeError) for e in chain)
    return Unreachable(f"{party.where}: {told[0] if told else cause_of(chain)}", url=url, temporary=broke)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it wraps, by any of the ways urllib3 and requests wrap."""
    seen: set[int] = set()
    todo: list[object] = [error]
    while todo:
        e = todo.pop()
        if isinstance(e, BaseException) and id(e) not in seen:
            seen.add(id(e))
            yield e
            todo += [*e.args, getattr(e, "reason", None), e.__cause__, e.__context__]
