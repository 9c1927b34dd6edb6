"""What a registry without faults answers to each request, from the content it holds."""

from __future__ import annotations

import json
import re
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlencode

from attrs import define, field

from distsdk.errors import InvalidDigest
from distsdk.model import media
from distsdk.model.digest import Digest
from distsdk.testing.access import Refused
from distsdk.testing.exchange import Request, Response

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable

    from distsdk.testing.access import Access, TokenService

# https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#pulling-manifests
NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_ROUTE = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs|tags|referrers)/(?P<object>[^/]+)")
# https://www.rfc-editor.org/rfc/rfc9110#section-14.1.1
_RANGE = re.compile(r"bytes=(?:(?P<first>\d+)-(?P<last>\d*)|-(?P<suffix>\d+))")


@define(eq=False)
class Repository:
    """What one repository holds."""

    blobs: dict[Digest, memoryview] = field(factory=dict)
    manifests: dict[Digest, tuple[str, memoryview]] = field(factory=dict)
    tags: dict[str, Digest] = field(factory=dict)


class _Refusal(Exception):
    """Ends the work on a request with an error of the registry."""

    def __init__(self, status: int, code: str, message: str, headers: Iterable[tuple[str, str]] = ()) -> None:
        super().__init__(message)
        # https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#error-codes
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self.response = Response(status, (("Content-Type", "application/json"), *headers), (memoryview(body),))


class Api:
    """The HTTP API of a registry over the repositories it is handed.

    Args:
        repositories: What there is, by name; it may change while it is served.
        lock: Held while anything in ``repositories`` is read or changed.
        access: Decides who may read; None where anyone may.
        tokens: Gives tokens at ``/token``, or None.
        page_size: The most names in one answer, or None.
        referrers: Whether there is the API that lists referrers.
    """

    def __init__(
        self,
        repositories: dict[str, Repository],
        lock: threading.RLock,
        *,
        access: Access | None,
        tokens: TokenService | None,
        page_size: int | None,
        referrers: bool,
    ) -> None:
        self._repositories = repositories
        self._lock = lock
        self._access = access
        self._tokens = tokens
        self._page_size = page_size
        self._referrers_api = referrers

    def respond(self, request: Request) -> Response:
        """Return the answer."""
        try:
            response = self._route(request)
        except _Refusal as refusal:
            response = refusal.response
        return response.with_header("Docker-Distribution-Api-Version", "registry/2.0")

    def _route(self, request: Request) -> Response:
        if self._tokens is not None and request.path == "/token":
            return self._token(self._tokens, request)
        if request.path == "/v2":
            return Response(HTTPStatus.MOVED_PERMANENTLY, (("Location", "/v2/"),))
        if not request.path.startswith("/v2/"):
            raise _Refusal(404, "UNSUPPORTED", "there is nothing here but /v2/")
        match = _ROUTE.fullmatch(request.path)
        self._authorize(request, match["name"] if match else "")
        if request.method not in {"GET", "HEAD"}:
            raise _Refusal(405, "UNSUPPORTED", "this registry is only read", [("Allow", "GET, HEAD")])
        if request.path == "/v2/":
            return _json({})
        if request.path == "/v2/_catalog":
            return self._catalog(request)
        if match is None:
            raise _Refusal(404, "UNSUPPORTED", "no such path in this registry")
        if not NAME.fullmatch(match["name"]):
            raise _Refusal(404, "NAME_INVALID", "invalid repository name")
        with self._lock:
            repository = self._repositories.get(match["name"])
            if match["kind"] == "tags":
                if match["object"] != "list":
                    raise _Refusal(404, "UNSUPPORTED", "no such path in this registry")
                return self._tags(request, match["name"], repository)
            if match["kind"] == "referrers":
                return self._referrers(request, repository or Repository(), match["object"])
            if match["kind"] == "blobs":
                return _blob(request, repository or Repository(), match["object"])
            return _manifest(request, repository or Repository(), match["object"])

    def _token(self, tokens: TokenService, request: Request) -> Response:
        try:
            return _json(tokens.reply(request))
        except Refused as refused:
            raise _Refusal(refused.status, refused.code, refused.message) from refused

    def _authorize(self, request: Request, repository: str) -> None:
        scope = f"repository:{repository}:pull" if repository else ""
        if request.path == "/v2/_catalog":
            scope = "registry:catalog:*"
        challenge = None if self._access is None else self._access.challenge(request, repository, scope)
        if challenge is not None:
            raise _Refusal(401, "UNAUTHORIZED", "authentication required", [("WWW-Authenticate", challenge)])

    def _tags(self, request: Request, name: str, repository: Repository | None) -> Response:
        if repository is None:
            raise _Refusal(404, "NAME_UNKNOWN", "repository name not known to registry")
        page, headers = self._page(request, repository.tags)
        return _json({"name": name, "tags": page}, headers)

    def _catalog(self, request: Request) -> Response:
        with self._lock:
            page, headers = self._page(request, self._repositories)
        return _json({"repositories": page}, headers)

    def _referrers(self, request: Request, repository: Repository, name: str) -> Response:
        # https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#listing-referrers
        if not self._referrers_api:
            raise _Refusal(404, "UNSUPPORTED", "no such path in this registry")
        subject = _parsed(name)
        if subject is None:
            raise _Refusal(400, "DIGEST_INVALID", "not a digest")
        wanted = parse_qs(request.query).get("artifactType", [""])[0]
        found = {
            str(digest): fields
            for digest, (media_type, raw) in repository.manifests.items()
            if (fields := referrer(digest, media_type, raw, subject)) and wanted in {"", fields.get("artifactType")}
        }
        page, headers = self._page(request, found)
        if wanted:
            headers.append(("OCI-Filters-Applied", "artifactType"))
        index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": [found[digest] for digest in page]}
        return _json(index, headers).with_header("Content-Type", media.OCI_INDEX)

    def _page(self, request: Request, names: Iterable[str]) -> tuple[list[str], list[tuple[str, str]]]:
        # https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#listing-tags
        query = parse_qs(request.query, keep_blank_values=True)
        left = sorted(names, key=_lexical)
        if last := query.get("last", [""])[0]:
            left = [name for name in left if _lexical(name) > _lexical(last)]
        number = query.get("n", [""])[0]
        if number and not number.isdecimal():
            raise _Refusal(400, "PAGINATION_NUMBER_INVALID", "n must be a number, 0 or more")
        limits = [int(number)] if number else []
        if self._page_size is not None:
            limits.append(self._page_size)
        limit = min(limits, default=len(left))
        page = left[:limit]
        if not page or len(page) == len(left):
            return page, []
        kept = {name: values[0] for name, values in query.items() if name not in {"last", "n"}}
        target = f"{quote(request.path)}?{urlencode({**kept, 'last': page[-1], 'n': limit})}"
        return page, [("Link", f'<{target}>; rel="next"')]


def referrer(digest: Digest, media_type: str, raw: memoryview, subject: Digest) -> dict[str, object]:
    """Return the descriptor under which a manifest is listed as a referrer of ``subject``; empty if it is none.

    https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#listing-referrers
    """
    try:
        fields = json.loads(bytes(raw))
        if Digest.parse(fields["subject"]["digest"]) != subject:
            return {}
    except (ValueError, KeyError, TypeError, RecursionError):
        return {}
    listed: dict[str, object] = {"mediaType": media_type, "digest": str(digest), "size": len(raw)}
    config = fields.get("config")
    kind = fields.get("artifactType") or (config.get("mediaType") if isinstance(config, dict) else None)
    if kind:
        listed["artifactType"] = kind
    if fields.get("annotations"):
        listed["annotations"] = fields["annotations"]
    return listed


def _manifest(request: Request, repository: Repository, name: str) -> Response:
    digest = _parsed(name) if ":" in name else repository.tags.get(name)
    stored = repository.manifests.get(digest) if digest else None
    if stored is None:
        raise _Refusal(404, "MANIFEST_UNKNOWN", "manifest unknown")
    media_type, raw = stored
    if not _accepted(media_type, request.headers.get("Accept")):
        # Docker's registry says 404 rather than 406, and skips the wildcard; the wildcard is honoured here.
        raise _Refusal(404, "MANIFEST_UNKNOWN", f"found {media_type}, which the Accept header does not allow")
    headers = (("Content-Type", media_type), ("Docker-Content-Digest", str(digest)), ("ETag", f'"{digest}"'))
    return Response(200, headers, (raw,))


def _blob(request: Request, repository: Repository, name: str) -> Response:
    digest = _parsed(name)
    if digest is None:
        raise _Refusal(400, "DIGEST_INVALID", "not a digest")
    data = repository.blobs.get(digest)
    if data is None:
        raise _Refusal(404, "BLOB_UNKNOWN", "blob unknown to registry")
    headers = (
        ("Content-Type", media.OCTET_STREAM),
        ("Accept-Ranges", "bytes"),
        ("Docker-Content-Digest", str(digest)),
        ("ETag", f'"{digest}"'),
    )
    asked = request.headers.get("Range", "")
    # Ranges are for GET alone, and several at once may be ignored: https://www.rfc-editor.org/rfc/rfc9110#section-14.2
    whole = request.method == "HEAD" or not asked.startswith("bytes=") or "," in asked
    if whole or request.headers.get("If-Range", f'"{digest}"') != f'"{digest}"':
        return Response(200, headers, (data,))
    start, end = _span(asked, len(data))
    if start >= end:
        raise _Refusal(416, "RANGE_INVALID", "no such range", [("Content-Range", f"bytes */{len(data)}")])
    content_range = ("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
    return Response(206, (*headers, content_range), (data[start:end],))


def _span(asked: str, size: int) -> tuple[int, int]:
    """Return the first byte and the one after the last; an empty span where there is nothing to send."""
    match = _RANGE.fullmatch(asked)
    if match is None:
        return 0, 0
    if match["suffix"]:
        return max(size - int(match["suffix"]), 0), size
    return int(match["first"]), min(int(match["last"] or size) + 1, size)


def _accepted(media_type: str, accept: str | None) -> bool:
    if accept is None:
        return True
    ranges = {part.partition(";")[0].strip().lower() for part in accept.split(",")}
    return not ranges.isdisjoint({media_type, f"{media_type.partition('/')[0]}/*", "*/*"})


def _parsed(text: str) -> Digest | None:
    try:
        return Digest.parse(text)
    except InvalidDigest:
        return None


def _lexical(name: str) -> tuple[str, str]:
    """Sort as the specification asks: without regard to case."""
    return name.lower(), name


def _json(fields: object, headers: Iterable[tuple[str, str]] = ()) -> Response:
    body = json.dumps(fields, separators=(",", ":")).encode()
    return Response(200, (("Content-Type", "application/json"), *headers), (memoryview(body),))
