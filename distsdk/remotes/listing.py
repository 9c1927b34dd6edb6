"""Paged lists of a registry: tags and repositories."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from distsdk._secrets import redact
from distsdk.errors import (
    LimitExceeded,
    MalformedDocument,
    MediaTypeMismatch,
    RegistryError,
    Unsafe,
)
from distsdk.spec.media_types import (
    DEFAULT_ACCEPT,
    OCI_INDEX,
)
from distsdk.spec.strict_json import load_json
from distsdk.transport.origin import follow
from distsdk.transport.response import content_type
from distsdk.transport.retry import RetryState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from distsdk.transport.client import Transport
    from distsdk.transport.endpoints import Endpoints
    from distsdk.transport.response import Response


#: Entries asked for in a page of tags; some registries refuse more.
PAGE_SIZE = 1000


#: Statuses that refuse a request for what it says, rather than fail.
_REFUSALS = range(400, 500)


#: Entries of a listing that its repr shows.
_SHOWN_ENTRIES = 20


def read_listing(transport: Transport, path: str, scope: str, retry_state: RetryState | None) -> tuple[bytes, Response]:
    """Return the index behind a tag that lists referrers.

    Raises:
        MediaTypeMismatch: The tag names something else.
    """
    answer, raw = transport.document(
        path,
        scope=scope,
        headers={"Accept": ", ".join(DEFAULT_ACCEPT)},
        deadline=transport.document_deadline(),
        retry_state=retry_state,
    )
    if (media_type := content_type(answer)) is not None and media_type != OCI_INDEX:
        message = (
            f"{redact(answer.url)} is {media_type}, where the index that lists referrers belongs: it is left alone"
        )
        raise MediaTypeMismatch(message, expected=(OCI_INDEX,), got=media_type)
    return raw, answer


def iter_pages(
    endpoints: Endpoints,
    capability: str,
    path: str,
    *,
    accept: str,
    scope: str,
    what: str,
    after: Callable[[str], str | None] = lambda _: None,
) -> Iterator[tuple[bytes, str]]:
    """Yield the pages of a listing, and the URLs that were asked for them, all from the endpoint that has the first.

    Args:
        endpoints: Who is asked.
        capability: What they have to be trusted with.
        path: Of the first page.
        accept: The media type of a page.
        scope: What a token has to allow.
        what: Is listed, for messages.
        after: Called with the URL of a page without a next one, if no page before it named one either. Returns the URL
            of a page that may follow; None ends the listing, and so does a registry that refuses that URL.

    Raises:
        Unsafe: A page names a next one that is elsewhere.
        MalformedDocument: The pages lead in a circle.
        LimitExceeded: There are more than `Limits.pages`, or one has more bytes than `Limits.document`.
    """

    def get(transport: Transport, path: str, retry_state: RetryState) -> tuple[Response, bytes]:
        return transport.document(
            path,
            scope=scope,
            headers={"Accept": accept},
            deadline=transport.document_deadline(),
            retry_state=retry_state,
        )

    def first(transport: Transport, retry_state: RetryState) -> tuple[Transport, Response, bytes]:
        try:
            return transport, *get(transport, path, retry_state)
        except RegistryError as error:
            whole, number, _ = path.partition("?n=")
            if not number or error.status not in _REFUSALS:
                raise
            # distribution refuses more than its catalog.maxentries, others any number:
            # https://distribution.github.io/distribution/about/configuration/#catalog
            return transport, *get(transport, whole, retry_state)

    limits = endpoints.limits
    retry_state = RetryState(endpoints.retry)
    transport, answer, raw = endpoints.first(capability, first, retry_state)
    seen: set[str] = set()
    linked = False
    while True:
        seen.add(answer.asked)
        yield raw, answer.asked
        url = _next_page(answer.headers.get("Link", ""), answer.asked)
        linked = linked or url is not None
        if url is None and not linked:
            url = after(answer.asked)
        if url is None:
            return
        if url in seen:
            message = f"{redact(url)}: the pages lead in a circle"
            raise MalformedDocument(message)
        if len(seen) >= limits.pages:
            message = f"more pages of {what} than the limit of {limits.pages}"
            raise LimitExceeded(message, limit=limits.pages)
        try:
            answer, raw = get(transport, url, retry_state.renewed())
        except RegistryError as error:
            if linked or error.status not in _REFUSALS:
                raise
            return


def _next_page(link: str, url: str) -> str | None:
    """Return the next page that a Link header names (RFC 8288), if it is a page of the same listing."""
    target = next_link(link)
    if target is None:
        return None
    resolved = follow(url, target, what="names as its next page")
    # Some write the colon of a digest as %3A.
    if unquote(resolved.partition("?")[0]) != unquote(url.partition("?")[0]):
        message = f"{redact(url)} names a next page elsewhere, {redact(resolved)}: not followed"
        raise Unsafe(message)
    return resolved


class RegistryListing:
    """The entries of a paged listing, requested page by page each time one iterates.

    Args:
        endpoints: Where the pages are requested.
        path: Of the listing, without a query.
        key: The field of a page that holds its entries: ``tags`` or ``repositories``.
        scope: The token's scope.
        name: What the entries belong to, for messages.
    """

    def __init__(self, endpoints: Endpoints, path: str, key: str, scope: str, name: str) -> None:
        self._endpoints = endpoints
        self._path = path
        self._key = key
        self._scope = scope
        self._name = name

    def __iter__(self) -> Iterator[str]:
        page: list[str] = []
        starts: set[str] = set()
        unlinked = False

        def after(url: str) -> str | None:
            nonlocal unlinked
            query = dict(parse_qsl(urlsplit(url).query))
            # Only a page of fewer names than were asked for is the last one without saying so:
            # https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#listing-tags
            if not page or query.get("n") != str(len(page)):
                return None
            unlinked = True
            return f"{url.partition('?')[0]}?{urlencode({**query, 'last': page[-1]})}"

        pages = iter_pages(
            self._endpoints,
            "resolve",
            f"{self._path}?n={PAGE_SIZE}",
            accept="application/json",
            scope=self._scope,
            what=f"{self._key} of {self._name}",
            after=after,
        )
        for raw, url in pages:
            before, page = set(page), self._entries(raw, url)
            new = page if not unlinked else [name for name in page if name not in before]
            if unlinked and (not new or new[0] in starts):  # ``last`` was ignored
                return
            starts.update(new[:1])
            yield from new

    def _entries(self, raw: bytes, url: str) -> list[str]:
        page = load_json(raw, what=redact(url))
        entries = page.get(self._key)
        if entries is None:
            entries = []  # some registries write null for none
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            message = f"{redact(url)}: {self._key} is no list of strings"
            raise MalformedDocument(message)
        return entries


def next_link(header: str) -> str | None:
    """Return the target of the first link with relation ``next`` in a Link header (RFC 8288 section 3)."""
    for target, params in re.findall(r"<([^<>]*)>((?:[^<>,\"]|\"(?:[^\"\\]|\\.?)*(?:\"|$))*)", header):
        named = re.findall(r';\s*([^\s=;,"]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s";,]*)))?', params)
        relation = next((quoted or plain for name, quoted, plain in named if name.lower() == "rel"), "")
        if "next" in relation.lower().split():
            return str(target)
    return None
