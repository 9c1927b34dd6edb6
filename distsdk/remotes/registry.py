"""A repository of a registry that speaks the OCI distribution protocol.

https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import Factory, evolve, frozen

from distsdk.blob import Blob, Stat
from distsdk.errors import (
    DigestMismatch,
    DistError,
    InvalidDigest,
    InvalidReference,
    LimitExceeded,
    MalformedDocument,
    MediaTypeMismatch,
    NotFound,
    RegistryError,
    SizeMismatch,
    Unsafe,
    UnsupportedDocument,
    printable,
    redact,
)
from distsdk.model.descriptor import Descriptor
from distsdk.model.digest import Digest
from distsdk.model.image import Index, check_document, load_json
from distsdk.model.media import DEFAULT_ACCEPT, DOCUMENTS, INDEXES, OCTET_STREAM, SCHEMA1, parse_media_type
from distsdk.remotes.base import Documents, Settings, Wanted
from distsdk.transport.deadline import Deadline
from distsdk.transport.endpoints import Endpoints
from distsdk.transport.origin import follow
from distsdk.transport.resume import ResumingStream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from distsdk.blob import ByteStream
    from distsdk.model.reference import Hint, Locator, Object
    from distsdk.transport.http import Answer, Transport
    from distsdk.transport.retry import Patience

T = TypeVar("T")

#: Indexes within indexes that a ``platform:`` hint is followed through.
MAX_INDEX_DEPTH = 4

#: Entries asked for in a page of tags; some registries refuse more.
PAGE_SIZE = 1000

#: Entries of a listing that its repr shows.
_SHOWN_ENTRIES = 20


class RegistryRemote(Documents):
    """Reads a repository of a registry.

    Threads may share one; it holds one session a process. Pickles carry the locator and the settings, no secrets: where
    one is unpickled, hosts, proxies and logins are looked up anew.
    """

    def __init__(self, locator: Locator, settings: Settings) -> None:
        """Use `distsdk.connect`."""
        self._locator = locator
        self._settings = settings
        self._scope = f"repository:{locator.path}:pull"
        self._endpoints = Endpoints(
            settings.plan,
            locator.path,
            credentials=settings.credentials,
            hosts=settings.hosts,
            retry=settings.retry,
            timeouts=settings.timeouts,
            limits=settings.limits,
            session=settings.session,
        )

    @property
    def locator(self) -> Locator:
        """The host and the repository."""
        return self._locator

    def fetch(self, object: str | Object | Digest | Descriptor, *hints: str | Hint) -> Blob:
        """Return the bytes of an object as a blob.

        A tag, or what is hinted to be a document (a manifest or index media type, a platform), is asked for and read at
        once, and held against its media type. Anything else costs nothing until it is read.

        Args:
            object: A tag, a digest, ``tag@digest`` (the digest counts), or a descriptor.
            hints: ``mediatype:…``, repeated in order of preference; ``size:N``; ``platform:os/architecture``, which
                leads from an index to the child for that platform. Unknown kinds are ignored.

        Raises:
            NotFound: The registry does not have it.
            Denied: It does not exist, or needs a login.
            MediaTypeMismatch: It is there, but of none of the hinted media types.
            PlatformNotFound: The index has nothing for the platform.
            DigestMismatch, SizeMismatch, MalformedDocument, UnsupportedDocument: What came is not to be used.
            Unreachable, DeadlineExceeded, RateLimited, RegistryError: The registry did not answer well.
        """
        wanted = Wanted.read(object, hints)
        self._need_repository()
        if wanted.is_document:
            return self._document(wanted)
        digest = wanted.object.digest
        assert digest is not None  # noqa: S101 - or it would be a document
        media_type = wanted.media_types[0] if len(wanted.media_types) == 1 else None
        source = _RegistrySource(self, wanted, self._paths(wanted))
        return Blob(source, digest, size=wanted.size, media_type=media_type)

    def resolve(self, object: str | Object | Digest | Descriptor, *hints: str | Hint) -> Descriptor:
        """Return media type, digest and size of an object; by HEAD, where the registry tells enough on one.

        Args:
            object: As `fetch`.
            hints: As `fetch`.

        Raises:
            DistError: As `fetch`.
        """
        wanted = Wanted.read(object, hints)
        self._need_repository()
        if wanted.platform is not None:
            return self._document(wanted).descriptor
        try:
            answer = self._first_found("HEAD", self._paths(wanted), wanted)
        except RegistryError as error:
            if error.status not in {405, 501}:
                raise
            return self._document(wanted).descriptor
        answer.close()
        digest = self._content_digest(answer)
        expected = wanted.object.digest
        if expected is not None:
            if digest is not None and digest.algorithm == expected.algorithm and digest != expected:
                raise _digest_mismatch(answer, expected, digest)
            digest = expected
        size = answer.content_length
        if digest is None or not size:  # not told: read it
            return self._document(wanted).descriptor
        hinted = wanted.media_types[0] if len(wanted.media_types) == 1 else OCTET_STREAM
        media_type = _content_type(answer) if _is_manifest(answer.asked) else hinted
        return Descriptor(media_type=media_type, digest=digest, size=size)

    def tags(self) -> TagList:
        """Return the repository's tags, to be iterated over. Nothing is asked for until then."""
        self._need_repository()
        return TagList(self._endpoints, f"/{self._locator.path}/tags/list", "tags", self._scope, str(self._locator))

    def catalog(self) -> TagList:
        """Return the registry's repositories, to be iterated over. Many registries do not tell."""
        return TagList(self._endpoints, "/_catalog", "repositories", "registry:catalog:*", self._locator.host)

    def __repr__(self) -> str:
        where = ", ".join(f"{endpoint.origin}" for endpoint in self._settings.plan.endpoints)
        return f"<RegistryRemote {self._locator} at {where}{self._limits_shown()}>"

    def _repr_html_(self) -> str:
        from distsdk.display.html import remote

        where = ", ".join(f"{endpoint.origin}" for endpoint in self._settings.plan.endpoints)
        return remote(str(self._locator), f"{where}{self._limits_shown()}")

    def _limits_shown(self) -> str:
        limit = self._endpoints.rate_limit
        if limit is None:
            return ""
        return f", {limit.remaining} {'' if limit.limit is None else f'of {limit.limit} '}requests left"

    def __reduce__(self) -> tuple[object, ...]:
        return _connect_again, (self._locator, self._settings.portable())

    def _need_repository(self) -> None:
        if not self._locator.path:
            message = f"{self._locator.host} is a host: add the repository, {self._locator.host}/name"
            raise InvalidReference(message)

    def _paths(self, wanted: Wanted) -> list[str]:
        """Return where an object may be, in the order of the original's rule: a 404 leads to the next."""
        manifests, blobs = (f"/{self._locator.path}/{kind}/{wanted.identifier}" for kind in ("manifests", "blobs"))
        if wanted.object.digest is None:
            return [manifests]
        return [manifests, blobs] if wanted.is_document else [blobs, manifests]

    def _first_found(
        self,
        method: str,
        paths: list[str],
        wanted: Wanted,
        extra: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> Answer:
        """Ask for an object, headers ``extra`` besides; arguments and errors as `_find`."""

        def get(transport: Transport, path: str, headers: Mapping[str, str], patience: Patience) -> Answer:
            headers = {**headers, **(extra or {})}
            answer = transport.request(method, path, scope=self._scope, headers=headers, patience=patience)
            answer.broke = functools.partial(self._endpoints.rest, transport)
            self._check_type(wanted, answer)
            return answer

        return self._find(get, paths, wanted, patience)

    def _find(
        self,
        get: Callable[[Transport, str, Mapping[str, str], Patience], T],
        paths: list[str],
        wanted: Wanted,
        patience: Patience | None = None,
    ) -> T:
        """Ask the endpoints for an object, at each of ``paths`` until one is no 404; ``paths`` keeps that one.

        Args:
            get: Asks an endpoint for a path, with headers.
            paths: Below an endpoint's base.
            wanted: The object.
            patience: The attempts there are.

        Raises:
            NotFound: It is at none of them.
            MediaTypeMismatch: It is there, but of none of the accepted media types.
        """

        def ask(transport: Transport, patience: Patience) -> T:
            codes: tuple[str, ...] = ()
            for path in tuple(paths):
                headers = {"Accept": ", ".join(wanted.accept)} if _is_manifest(path) else {}
                try:
                    found = get(transport, path, headers, patience)
                except NotFound as error:
                    codes += tuple(code for code in error.codes if code not in codes)
                else:
                    paths[:] = [path]
                    return found
            why = ", ".join(codes) or "404"
            message = f"{self._name(wanted)} does not exist ({why} at {transport.origin})"
            raise NotFound(message, codes=codes)

        try:
            # What its digest vouches for, a mirror may serve; what a tag stands for, only who is trusted to resolve.
            return self._endpoints.first("resolve" if wanted.object.digest is None else "pull", ask, patience)
        except NotFound:
            if wanted.media_types:
                self._explain_missing(wanted)
            raise

    def _name(self, wanted: Wanted) -> str:
        return f"{self._locator}{'@' if wanted.object.digest else ':'}{wanted.identifier}"

    def _explain_missing(self, wanted: Wanted) -> None:
        """Raise MediaTypeMismatch if an object that was not given as hinted is there under another media type."""
        anything = evolve(wanted, media_types=())
        headers = {"Accept": ", ".join((*DEFAULT_ACCEPT, "*/*"))}
        [path] = filter(_is_manifest, self._paths(wanted))

        def get(transport: Transport, path: str, _: Mapping[str, str], patience: Patience) -> Answer:
            return transport.request("HEAD", path, scope=self._scope, headers=headers, patience=patience)

        try:
            answer = self._find(get, [path], anything)
        except DistError:
            return  # what the registry said at first is enough
        answer.close()
        self._refuse_type(wanted, _content_type(answer))

    def _check_type(self, wanted: Wanted, answer: Answer) -> None:
        """Hold a manifest's media type against the hints; be done with the answer if it is none of them.

        Raises:
            MediaTypeMismatch, UnsupportedDocument: It is none of them.
        """
        if not _is_manifest(answer.asked):
            return
        media_type = _content_type(answer)
        if media_type in SCHEMA1 or (wanted.is_document and media_type not in wanted.accept):
            answer.close()  # not read to its end: that may take its time
            self._explain_missing(wanted)  # some registries convert to what nobody asked for: name what is there
            self._refuse_type(wanted, media_type)

    def _refuse_type(self, wanted: Wanted, media_type: str) -> None:
        if media_type in SCHEMA1:
            message = (
                f"{self._name(wanted)} is a Docker schema 1 manifest ({media_type}), which is not supported: "
                "its digest does not cover its bytes"
            )
            raise UnsupportedDocument(message, media_type=media_type)
        if wanted.is_document and media_type not in wanted.accept:
            message = (
                f"{self._name(wanted)} is {media_type}, not {' or '.join(wanted.media_types or wanted.accept)}: "
                + (
                    f"is {self._locator.host} a registry, and no login page in between?"
                    if media_type == "text/html"
                    else f"fetch it with the hint mediatype:{media_type}"
                )
            )
            if media_type in INDEXES:
                message += ", or add a hint platform:os/architecture to be led to one of its children"
            raise MediaTypeMismatch(message, expected=wanted.media_types or wanted.accept, got=media_type)

    def _document(self, wanted: Wanted) -> Blob:
        """Ask for a document, read it whole, check it, and follow an index if a platform is wanted."""
        deadline = Deadline(self._settings.timeouts.document)
        asked = wanted
        for _ in range(MAX_INDEX_DEPTH):
            blob = self._one_document(wanted, deadline)
            if asked.platform is None or blob.media_type not in INDEXES:
                return blob
            child = Index.parse(blob.read(), blob.media_type).select(asked.platform)
            if asked.media_types and child.media_type not in asked.accept:
                message = (
                    f"the manifest for {asked.platform} is {child.media_type}, not {' or '.join(asked.media_types)}: "
                    f"fetch it with the hint mediatype:{child.media_type}"
                )
                raise MediaTypeMismatch(message, expected=asked.media_types, got=child.media_type)
            wanted = Wanted.read(child, ())  # without the platform: only what the index declares is accepted now
        message = f"{self._locator}: indexes within indexes, more than {MAX_INDEX_DEPTH} deep"
        raise LimitExceeded(message, limit=MAX_INDEX_DEPTH)

    def _one_document(self, wanted: Wanted, deadline: Deadline) -> Blob:

        def get(transport: Transport, path: str, headers: Mapping[str, str], patience: Patience) -> Blob:
            answer, raw = transport.document(
                path,
                scope=self._scope,
                headers=headers,
                deadline=deadline,
                patience=patience,
                check=lambda answer: self._check_type(wanted, answer),
            )
            return self._checked(wanted, answer, raw)

        return self._find(get, self._paths(wanted), wanted)

    def _checked(self, wanted: Wanted, answer: Answer, raw: bytes) -> Blob:
        if _is_manifest(answer.asked):
            media_type = _content_type(answer)
        else:
            media_type = wanted.media_types[0] if len(wanted.media_types) == 1 else OCTET_STREAM
        if wanted.size is not None and len(raw) != wanted.size:
            message = f"{redact(answer.url)} has {len(raw)} bytes, declared are {wanted.size}"
            raise SizeMismatch(message, expected=wanted.size, got=len(raw))
        told = self._content_digest(answer)
        expected = wanted.object.digest
        digest = Digest.of(raw, (expected or told or _SHA256).algorithm)
        for claim in (expected, told):
            if claim is not None and claim.algorithm == digest.algorithm and claim != digest:
                raise _digest_mismatch(answer, claim, digest)
        if media_type in DOCUMENTS:
            check_document(raw, media_type)
        return Blob.from_bytes(raw, media_type=media_type, digest=digest)

    def _content_digest(self, answer: Answer) -> Digest | None:
        text = answer.headers.get("Docker-Content-Digest")
        if not text:
            return None
        try:
            return Digest.parse(text)
        except InvalidDigest as error:
            message = f"{redact(answer.url)} answered with a Docker-Content-Digest that is none"
            raise MalformedDocument(message) from error


_SHA256 = Digest.of(b"")


def _connect_again(locator: Locator, portable: dict[str, Any]) -> RegistryRemote:
    return RegistryRemote(locator, Settings.of(locator.host, **portable))


def _digest_mismatch(answer: Answer, expected: Digest, got: Digest) -> DigestMismatch:
    message = f"{redact(answer.url)}: expected {expected}, got {got}"
    return DigestMismatch(message, expected=str(expected), got=str(got))


def _content_type(answer: Answer) -> str:
    """Return the media type of an answer; ``application/octet-stream`` where it names none that is well-formed."""
    try:
        return parse_media_type(answer.headers.get("Content-Type", ""))
    except ValueError:
        return OCTET_STREAM


def _is_manifest(path: str) -> bool:
    """Whether a path or URL is that of a manifest; a repository may have ``manifests`` in its name."""
    return path.partition("?")[0].rpartition("/")[0].endswith("/manifests")


@frozen
class _RegistrySource:
    """The bytes with a digest, as a repository has them. Where they were found is remembered."""

    remote: RegistryRemote
    wanted: Wanted
    paths: list[str]
    asked: set[str] = Factory(set)  # the URLs that gave bytes, before redirects
    wrong: set[str] = Factory(set)  # those of them whose bytes were wrong once: no reason to try a third time

    def open(self, offset: int, end: int | None) -> ByteStream:
        return ResumingStream(self._get, offset, end, size=self.wanted.size, retry=self.remote._settings.retry)

    def stat(self) -> Stat:
        answer = self.remote._first_found("HEAD", self.paths, self.wanted)
        answer.close()
        return Stat(answer.content_length, _content_type(answer) if _is_manifest(answer.asked) else None)

    def distrust(self) -> bool:
        new = self.asked - self.wrong
        self.wrong.update(new)
        self.asked.clear()
        return self.remote._endpoints.distrust("pull", new)

    def _get(self, headers: Mapping[str, str], patience: Patience) -> Answer:
        answer = self.remote._first_found("GET", self.paths, self.wanted, headers, patience)
        self.asked.add(answer.asked)
        return answer


class TagList:
    """The tags of a repository, or the repositories of a registry: read page by page, each time one iterates.

    Nothing is kept but the first few, for the repr.
    """

    def __init__(self, endpoints: Endpoints, path: str, key: str, scope: str, name: str) -> None:
        """Use `RegistryRemote.tags` or `RegistryRemote.catalog`."""
        self._endpoints = endpoints
        self._path = path
        self._key = key
        self._scope = scope
        self._name = name
        self._shown: tuple[str, ...] = ()
        self._count: int | None = None

    def __iter__(self) -> Iterator[str]:
        """Yield the entries in the registry's order.

        Raises:
            MalformedDocument: A page is not what the distribution specification says.
            Unsafe: A page names a next one that is elsewhere.
            LimitExceeded: There are more pages than `Limits.pages`, or one has more bytes than `Limits.document`.
            DistError: As `RegistryRemote.fetch`.
        """
        count = 0
        shown: list[str] = []
        for page in self._pages():
            for entry in page:
                count += 1
                if len(shown) < _SHOWN_ENTRIES:
                    shown.append(entry)
                    self._shown = tuple(shown)
                yield entry
        self._shown, self._count = tuple(shown), count

    def _pages(self) -> Iterator[list[str]]:
        limits = self._endpoints.limits
        path = f"{self._path}?n={PAGE_SIZE}"
        # All pages from the endpoint that gave the first one.
        transport, answer, raw = self._endpoints.first(
            "resolve", lambda transport, patience: (transport, *self._page(transport, path, patience))
        )
        seen: set[str] = set()
        while True:
            seen.add(answer.asked)
            yield self._entries(raw, answer.asked)
            url = self._next(answer.headers.get("Link", ""), answer.asked)
            if url is None:
                return
            if url in seen:
                message = f"{redact(url)}: the pages lead in a circle"
                raise MalformedDocument(message)
            if len(seen) >= limits.pages:
                message = f"{self._name} has more pages of {self._key} than the limit of {limits.pages}"
                raise LimitExceeded(message, limit=limits.pages)
            answer, raw = self._page(transport, url, None)

    def _page(self, transport: Transport, path: str, patience: Patience | None) -> tuple[Answer, bytes]:
        return transport.document(
            path,
            scope=self._scope,
            headers={"Accept": "application/json"},
            deadline=transport.document_deadline(),
            patience=patience,
        )

    def _entries(self, raw: bytes, url: str) -> list[str]:
        page = load_json(raw, what=redact(url))
        entries = page.get(self._key)
        if entries is None:
            entries = []  # some registries write null for none
        if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
            message = f"{redact(url)}: {self._key} is no list of strings"
            raise MalformedDocument(message)
        return entries

    def _next(self, link: str, url: str) -> str | None:
        """Return the next page that a Link header names (RFC 8288), if it is a page of the same listing."""
        target = next_link(link)
        if target is None:
            return None
        resolved = follow(url, target, what="names as its next page")
        if resolved.partition("?")[0] != url.partition("?")[0]:
            message = f"{redact(url)} names a next page elsewhere, {redact(resolved)}: not followed"
            raise Unsafe(message)
        return resolved

    def __repr__(self) -> str:
        if not self._shown and self._count is None:
            return f"<TagList {self._name}: not read yet>"
        more = "" if self._count == len(self._shown) else ", …"
        return printable(f"<TagList {self._name}: {', '.join(self._shown)}{more}>")

    def _repr_html_(self) -> str:
        from distsdk.display.html import tag_list

        return tag_list(self._name, self._shown, self._count)


def next_link(header: str) -> str | None:
    """Return the target of the first link with relation ``next`` in a Link header (RFC 8288 section 3)."""
    for target, params in re.findall(r"<([^<>]*)>((?:[^<>,\"]|\"(?:[^\"\\]|\\.?)*(?:\"|$))*)", header):
        named = re.findall(r';\s*([^\s=;,"]+)(?:\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s";,]*)))?', params)
        relation = next((quoted or plain for name, quoted, plain in named if name.lower() == "rel"), "")
        if "next" in relation.lower().split():
            return str(target)
    return None
