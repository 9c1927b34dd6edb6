"""Read the errors and warnings that registries report, and describe failed exchanges in sentences."""

from __future__ import annotations

import http.client
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import requests
import urllib3.exceptions
from attrs import frozen

from distsdk._secrets import masked, without_secrets
from distsdk._text import printable
from distsdk._warnings import warn
from distsdk.spec.strict_json import no_collection

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Largest length in characters of a message, of a code, and of all details of a response; the rest is cut.
_LONGEST_MESSAGE, _LONGEST_CODE, _LONGEST_DETAIL = 300, 64, 1000
#: Most messages shown of the errors of one response.
_SHOWN_ERRORS = 3

#: Messages without information, in lower case: distribution's registry sends them for errors of its storage.
_EMPTY_MESSAGES = frozenset({"", "unknown error"})

# https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#warnings
_WARNING = re.compile(r'(?:^|[\s,])299 - "((?:[^"\\]|\\.)*)"')
#: Most different warnings shown for one host.
_MOST_WARNINGS = 10
_warned: dict[str, set[str]] = {}

_PACKAGE = str(Path(__file__).parents[1])

_CAUSES: tuple[tuple[type[BaseException], str], ...] = (
    (http.client.LineTooLong, "a line of the response is longer than 65,536 bytes"),
    (http.client.RemoteDisconnected, "the connection was closed without a response"),
    (http.client.BadStatusLine, "the response is not HTTP"),
    (http.client.UnknownProtocol, "the response has an unknown version of HTTP"),
    (urllib3.exceptions.InvalidHeader, "the response has contradictory Content-Length headers"),
    (requests.exceptions.InvalidHeader, "a header of the request is invalid"),
    (requests.exceptions.InvalidSchema, "the session has no adapter for this URL"),
    (urllib3.exceptions.LocationParseError, "the host name is invalid"),
    (requests.exceptions.InvalidURL, "the host name is invalid"),
    (UnicodeError, "the host name is invalid"),
    (urllib3.exceptions.ClosedPoolError, "the session is closed"),
    (http.client.HTTPException, "the response is not valid HTTP"),
    (urllib3.exceptions.ProtocolError, "the response is not valid HTTP"),
    (ValueError, "the response is not valid HTTP"),
)


@frozen
class ErrorBody:
    """The errors of a response (distribution-spec, "Error Codes"), bounded and without secrets.

    Attributes:
        codes: Such as ``MANIFEST_UNKNOWN``.
        message: The first messages, joined; a message without information is replaced by its detail.
        detail: All details, as text: JSON where they are not strings.
    """

    codes: tuple[str, ...] = ()
    message: str = ""
    detail: str = ""


def parse_error_body(body: bytes) -> ErrorBody:
    """Parse the body of an error response.

    Args:
        body: JSON in the form of the specification.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: The body has no errors in the form of the specification.
    """
    with no_collection():
        fields = json.loads(body)
    errors = [error for error in fields["errors"] if isinstance(error, dict)]
    codes = tuple(masked(str(error["code"]))[:_LONGEST_CODE] for error in errors if error.get("code"))
    details = [_detail(error.get("detail")) for error in errors]
    messages = [_message(error, detail) for error, detail in zip(errors, details, strict=True)]
    return ErrorBody(
        codes,
        "; ".join(filter(None, messages[:_SHOWN_ERRORS])),
        printable("; ".join(filter(None, details)))[:_LONGEST_DETAIL],
    )


def _message(error: dict[str, object], detail: str) -> str:
    message = str(error.get("message") or "").strip()
    if message.lower().rstrip(".") in _EMPTY_MESSAGES:
        message = detail or message or str(error.get("code") or "")
    return without_secrets(message)[:_LONGEST_MESSAGE]


def _detail(detail: object) -> str:
    """Return a ``detail`` as text; empty for a missing or empty one."""
    if not detail:
        return ""
    return without_secrets(detail if isinstance(detail, str) else json.dumps(detail, separators=(",", ":")))


def parse_warnings(header: str) -> list[str]:
    """Return the texts of a registry's warnings; other HTTP warnings are left out.

    Args:
        header: Value of the ``Warning`` header; several are joined by commas.
    """
    return [re.sub(r"\\(.)", r"\1", text) for text in _WARNING.findall(header)]


def show_warnings(host: str, header: str) -> None:
    """Issue a `DistWarning` for each text of a ``Warning`` header that was not yet shown for this host.

    Args:
        host: Name of the registry for the message.
        header: Value of the ``Warning`` header; empty for none.
    """
    if not header:
        return
    shown = _warned.setdefault(host, set())
    for text in (without_secrets(text)[:_LONGEST_MESSAGE] for text in parse_warnings(header)):
        if text not in shown and len(shown) < _MOST_WARNINGS:
            shown.add(text)
            warn(f"{host} says: {text}")


def cause_of(chain: Iterable[BaseException]) -> str:
    """Return the cause of a failed exchange as a sentence.

    Args:
        chain: The errors, from the outermost to the innermost.
    """
    errors = list(chain)
    for error in reversed(errors):
        for kind, sentence in _CAUSES:
            if isinstance(error, kind):
                return sentence
    return f"the HTTP library failed ({type(errors[-1]).__name__})"
