"""Texts of a server: the errors and warnings of its responses, and the causes of failed exchanges in sentences."""

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

if TYPE_CHECKING:
    from collections.abc import Iterable

#: Characters of a message, of a code, and of all details of a response that are kept.
_LONGEST_MESSAGE, _LONGEST_CODE, _LONGEST_DETAIL = 300, 64, 1000
#: Errors of one response whose messages are shown.
_SHOWN_ERRORS = 3

#: Messages that say nothing, in lower case: what distribution's registry sends for errors of its storage.
_EMPTY_MESSAGES = frozenset({"", "unknown error"})

# https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#warnings
_WARNING = re.compile(r'(?:^|[\s,])299 - "((?:[^"\\]|\\.)*)"')
#: Different warnings of one host that are shown.
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
        message: The first messages; details take the place of messages that say nothing.
        detail: All details, as text: JSON where they are not strings.
    """

    codes: tuple[str, ...] = ()
    message: str = ""
    detail: str = ""


def parse_error_body(body: bytes) -> ErrorBody:
    """Read the body of an error.

    Raises:
        ValueError, KeyError, TypeError, RecursionError: The body has no errors in the form of the specification.
    """
    errors = [error for error in json.loads(body)["errors"] if isinstance(error, dict)]
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
    """Return a ``detail`` as text; empty where it says nothing."""
    if not detail:
        return ""
    return without_secrets(detail if isinstance(detail, str) else json.dumps(detail, separators=(",", ":")))


def parse_warnings(header: str) -> list[str]:
    """Return the texts of the ``Warning`` headers of a registry; other warnings of HTTP are left out."""
    return [re.sub(r"\\(.)", r"\1", text) for text in _WARNING.findall(header)]


def show_warnings(host: str, header: str) -> None:
    """Give a `DistWarning` for each text of a ``Warning`` header that was not shown for this host before."""
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
        chain: The errors, the innermost last.
    """
    errors = list(chain)
    for error in reversed(errors):
        for kind, sentence in _CAUSES:
            if isinstance(error, kind):
                return sentence
    return f"the HTTP library failed ({type(errors[-1]).__name__})"
