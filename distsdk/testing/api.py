"""What a registry without faults answers to each request, from the content it holds."""

from __future__ import annotations

import json
import re
import secrets
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlencode

from attrs import define, field

from distsdk.errors import InvalidDigest
from distsdk.spec import media_types as media
from distsdk.spec.digest import Digest
from distsdk.testing.access import Refused
from distsdk.testing.exchange import Request, Response

if TYPE_CHECKING:
    import threading
    from collections.abc import Iterable

    from distsdk.testing.access import Access, TokenService

# https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#pulling-manifests
NAME = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_ROUTE = re.compile(r"/v2/(?P<name>.+)/(?P<kind>manifests|blobs/uploads|blobs|tags|referrers)/(?P<object>[^/]*)")
_CHUNK = re.compile(r"(?P<first>\d+)-(?P<last>\d+)")
#: Bytes of a manifest that is pushed.
MAX_MANIFEST = 4 * 1024 * 1024
# https://www.rfc-editor.org/rfc/rfc9110#section-14.1.1
_RANGE = re.compile(r"bytes=(?:(?P<first>\d+)-(?P<last>\d*)|-(?P<suffix>\d+))")


@define(eq=False)
class Upload:
    """A blob that is being pushed.

    Attributes:
        data: What came so far.
        short: Whether a chunk was shorter than chunks have to be: then it was the last one.
    """

    data: bytearray = field(factory=bytearray)
    short: bool = False


@define(eq=False)
class Repository:
    """What one repository holds."""

    blobs: dict[Digest, memoryview] = field(factory=dict)
    manifests: dict[Digest, tuple[str, memoryview]] = field(factory=dict)
    tags: dict[str, Digest] = field(factory=dict)
    uploads: dict[str, Upload] = field(factory=dict)


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
        access: Decides who may read and write; None where anyone may.
        tokens: Gives tokens at ``/token``, or None.
        page_size: The most names in one answer, or None.
        referrers: Whether there is the API that lists referrers.
        read_only: Whether nothing can be pushed or deleted.
        min_chunk: Bytes that all chunks of an upload but the last must have.
        if_match: Whether ``If-Match`` and ``If-None-Match`` count for a manifest that is pushed.
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
        read_only: bool,
        min_chunk: int,
        if_match: bool,
    ) -> None:
        self._repositories = repositories
        self._lock = lock
        self._access = access
        self._tokens = tokens
        self._page_size = page_size
        self._referrers_api = referrers
        self._read_only = read_only
        self._min_chunk = min_chunk
        self._if_match = if_match

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
        if request.method not in {"GET", "HEAD"} and (self._read_only or match is None):
            raise _Refusal(405, "UNSUPPORTED", "this registry is only read", [("Allow", "GET, HEAD")])
        if request.path == "/v2/":
            return _json({})
        if request.path == "/v2/_catalog":
            return self._catalog(request)
        if match is None:
            raise _Refusal(404, "UNSUPPORTED", "no such path in this registry")
        if not NAME.fullmatch(match["name"]):
            raise _Refusal(404, "NAME_INVALID", "invalid repository name")
        return self._of_repository(request, match)

    def _of_repository(self, request: Request, match: re.Match[str]) -> Response:
        if match["kind"] == "blobs/uploads":
            return self._upload(request, match["name"], match["object"])
        if request.method == "PUT" and match["kind"] == "manifests":
            return self._put_manifest(request, match["name"], match["object"])
        with self._lock:
            repository = self._repositories.get(match["name"])
            if request.method == "DELETE" and match["kind"] in {"manifests", "blobs"}:
                return _delete(repository or Repository(), match["kind"], match["object"])
            if request.method not in {"GET", "HEAD"}:
                raise _Refusal(405, "UNSUPPORTED", "that cannot be done here", [("Allow", "GET, HEAD")])
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
        actions = {"GET": "pull", "HEAD": "pull", "DELETE": "delete"}.get(request.method, "pull,push")
        scope = f"repository:{repository}:{actions}" if repository else ""
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

    # Pushing: https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#push

    def _upload(self, request: Request, name: str, key: str) -> Response:
        with self._lock:
            repository = self._repositories.setdefault(name, Repository())
            if request.method == "POST" and not key:
                return self._begin(request, repository, name)
            upload = repository.uploads.get(key)
            if upload is None:
                raise _Refusal(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry")
        if request.method in {"GET", "HEAD"}:
            return self._progress(204, name, key, upload)
        if request.method == "DELETE":
            with self._lock:
                repository.uploads.pop(key, None)
            return Response(HTTPStatus.NO_CONTENT)
        if request.method not in {"PATCH", "PUT"}:
            raise _Refusal(405, "UNSUPPORTED", "an upload takes PATCH and PUT")
        refusal = self._chunk_refusal(request, name, key, upload)
        if refusal is not None:
            return refusal
        before = len(upload.data)
        for piece in request.incoming:
            with self._lock:
                upload.data += piece  # what came before the client hung up stays
        if request.method == "PATCH":
            upload.short = len(upload.data) - before < self._min_chunk
            return self._progress(202, name, key, upload)
        return self._finish(request, repository, name, key)

    def _begin(self, request: Request, repository: Repository, name: str) -> Response:
        query = {field: values[0] for field, values in parse_qs(request.query).items()}
        mounted, source = _parsed(query.get("mount", "")), query.get("from", "")
        if mounted is not None and source:
            held = self._repositories.get(source, Repository()).blobs.get(mounted)
            scope = f"repository:{source}:pull"
            if held is not None and (self._access is None or self._access.challenge(request, source, scope) is None):
                repository.blobs[mounted] = held
                return _created(name, "blobs", mounted)
        key = secrets.token_hex(16)
        upload = repository.uploads[key] = Upload()
        return self._progress(202, name, key, upload)

    def _progress(self, status: int, name: str, key: str, upload: Upload) -> Response:
        headers = [
            ("Location", f"/v2/{name}/blobs/uploads/{key}?_state={key[:8]}"),
            ("Range", f"0-{max(len(upload.data) - 1, 0)}"),
        ]
        if self._min_chunk:
            headers.append(("OCI-Chunk-Min-Length", str(self._min_chunk)))
        return Response(status, tuple(headers))

    def _chunk_refusal(self, request: Request, name: str, key: str, upload: Upload) -> Response | None:
        asked = request.headers.get("Content-Range")
        match = _CHUNK.fullmatch(asked or "")
        length = request.headers.get("Content-Length")
        if asked is not None and (match is None or int(match["first"]) != len(upload.data)):
            return self._progress(416, name, key, upload)
        if match is not None and length is not None and int(match["last"]) - int(match["first"]) + 1 != int(length):
            raise _Refusal(400, "SIZE_INVALID", "Content-Range and Content-Length contradict each other")
        if upload.short and length != "0":
            raise _Refusal(400, "BLOB_UPLOAD_INVALID", f"a chunk was shorter than {self._min_chunk} bytes")
        return None

    def _finish(self, request: Request, repository: Repository, name: str, key: str) -> Response:
        digest = _parsed(parse_qs(request.query).get("digest", [""])[0])
        with self._lock:
            upload = repository.uploads.pop(key, Upload())
            if digest is None or Digest.of(bytes(upload.data), digest.algorithm) != digest:
                raise _Refusal(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
            repository.blobs[digest] = memoryview(upload.data)
        return _created(name, "blobs", digest)

    def _put_manifest(self, request: Request, name: str, object: str) -> Response:
        raw = bytearray()
        for piece in request.incoming:
            raw += piece
            if len(raw) > MAX_MANIFEST:
                raise _Refusal(413, "SIZE_INVALID", f"a manifest of more than {MAX_MANIFEST} bytes")
        given = _parsed(object) if ":" in object else None
        if given is None and not TAG.fullmatch(object):
            raise _Refusal(400, "TAG_INVALID" if ":" not in object else "DIGEST_INVALID", "no such tag or digest")
        digest = Digest.of(bytes(raw), given.algorithm if given else "sha256")
        if given is not None and given != digest:
            raise _Refusal(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
        media_type = request.headers.get("Content-Type", "")
        with self._lock:
            repository = self._repositories.setdefault(name, Repository())
            subject = _checked(bytes(raw), media_type, repository)
            there = repository.tags.get(object) if given is None else given if given in repository.manifests else None
            if self._if_match and not _matches(request, there):
                raise _Refusal(412, "DENIED", "the manifest is another one by now")
            repository.manifests[digest] = (media_type, memoryview(raw))
            if given is None:
                repository.tags[object] = digest
        response = _created(name, "manifests", digest)
        return response.with_header("OCI-Subject", subject if self._referrers_api else None)

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


def _created(name: str, kind: str, digest: Digest) -> Response:
    headers = (("Location", f"/v2/{name}/{kind}/{digest}"), ("Docker-Content-Digest", str(digest)))
    return Response(HTTPStatus.CREATED, headers)


def _delete(repository: Repository, kind: str, name: str) -> Response:
    # https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#deleting-tags
    digest = _parsed(name)
    if kind == "blobs":
        if digest is None or repository.blobs.pop(digest, None) is None:
            raise _Refusal(404, "BLOB_UNKNOWN", "blob unknown to registry")
    elif digest is None:
        if repository.tags.pop(name, None) is None:
            raise _Refusal(404, "MANIFEST_UNKNOWN", "manifest unknown")
    else:
        if repository.manifests.pop(digest, None) is None:
            raise _Refusal(404, "MANIFEST_UNKNOWN", "manifest unknown")
        for tag in [tag for tag, named in repository.tags.items() if named == digest]:
            del repository.tags[tag]
    return Response(HTTPStatus.ACCEPTED)


def _checked(raw: bytes, media_type: str, repository: Repository) -> str | None:
    """Return the digest of a manifest's subject.

    All that a manifest refers to has to be in the repository, except its subject and its non-distributable layers:
    clients do not push those (https://github.com/opencontainers/image-spec/blob/v1.1.1/layer.md#non-distributable-layers).
    """
    try:
        fields = json.loads(raw)
        right = fields["schemaVersion"] == 2 and fields.get("mediaType", media_type) == media_type
        entries = [entry for entry in (fields.get("config"), *fields.get("layers", ())) if entry]
        blobs = [
            Digest.parse(entry["digest"]) for entry in entries if entry.get("mediaType") not in media.FOREIGN_LAYERS
        ]
        children = [Digest.parse(entry["digest"]) for entry in fields.get("manifests", ())]
        subject = fields["subject"]["digest"] if fields.get("subject") else None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _Refusal(400, "MANIFEST_INVALID", "manifest invalid") from error
    if not right:
        raise _Refusal(400, "MANIFEST_INVALID", "manifest invalid: another mediaType or schemaVersion")
    if not repository.blobs.keys() >= set(blobs) or not repository.manifests.keys() >= set(children):
        raise _Refusal(400, "MANIFEST_BLOB_UNKNOWN", "what the manifest refers to is unknown to registry")
    return subject


def _matches(request: Request, there: Digest | None) -> bool:
    # https://www.rfc-editor.org/rfc/rfc9110#section-13.1
    wanted, unwanted = request.headers.get("If-Match"), request.headers.get("If-None-Match")
    return (wanted is None or wanted == f'"{there}"') and (unwanted != "*" or there is None)


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
