"""A repository of a registry that speaks the OCI distribution protocol.

https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md
"""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlencode

from attrs import Factory, evolve, frozen

from distsdk._moved import moved_names, restore_fields, saved_fields
from distsdk._secrets import redact
from distsdk.content.blob import Blob
from distsdk.content.protocols import Referrers
from distsdk.content.request import FetchRequest
from distsdk.content.source import Stat
from distsdk.content.uploads import UploadReader
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
    UnsupportedDocument,
)
from distsdk.remotes.listing import RegistryListing, iter_pages, read_listing
from distsdk.remotes.referrers import Listing, as_referrer, chosen, fallback_tag, parse_document
from distsdk.remotes.remote import fetcher_of
from distsdk.remotes.settings import Settings
from distsdk.remotes.upload import CHUNK, UploadSession, check_created, content_digest
from distsdk.spec.choice import Children
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.documents import Index, check_document, document_type
from distsdk.spec.media_types import (
    DEFAULT_ACCEPT,
    DOCUMENTS,
    INDEXES,
    OCI_INDEX,
    OCTET_STREAM,
    SCHEMA1,
)
from distsdk.spec.reference import Object
from distsdk.transport.deadline import Deadline
from distsdk.transport.endpoints import Endpoints
from distsdk.transport.response import content_type
from distsdk.transport.resume import ResumingStream
from distsdk.transport.retry import RetryState

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from distsdk.content.protocols import UploadSource
    from distsdk.content.source import ByteStream
    from distsdk.spec.reference import Hint, Locator
    from distsdk.transport.client import Transport
    from distsdk.transport.response import Response

T = TypeVar("T")


class RegistryFetcher:
    """Reads a repository of a registry, and writes into it.

    What is written goes to the first endpoint that may be pushed to, and what is asked for it is asked there: no mirror
    is told of it.

    Threads may share one; it holds one session a process. Pickles carry the locator and the settings, no secrets: where
    one is unpickled, hosts, proxies and logins are looked up anew.
    """

    def __init__(self, locator: Locator, settings: Settings) -> None:
        """Use `distsdk.connect`."""
        self._locator = locator
        self._settings = settings
        self._scope = f"repository:{locator.path}:pull"
        self._push_scope = f"repository:{locator.path}:pull,push"
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
        # Blobs that `has` did not find: whoever pushes one of them next need not ask again.
        self._missing: set[Digest] = set()

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
                leads from an index to the child for that platform. Unknown kinds are ignored, with a warning.

        Raises:
            NotFound: The registry does not have it.
            Denied: It does not exist, or needs a login.
            MediaTypeMismatch: It is there, but of none of the hinted media types.
            PlatformNotFound: The index has nothing for the platform.
            DigestMismatch, SizeMismatch, MalformedDocument, UnsupportedDocument: What came is not to be used.
            Unreachable, DeadlineExceeded, RateLimited, RegistryError: The registry did not answer well.
        """
        wanted = FetchRequest.read(object, hints)
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
        wanted = FetchRequest.read(object, hints)
        self._need_repository()
        if wanted.platform is not None:
            return self._document(wanted).descriptor
        try:
            answer = self._first_found("HEAD", self._paths(wanted), wanted)
        except RegistryError as error:
            if error.status not in {400, 405, 501}:  # to a GET, a registry says what is wrong
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
        hinted = wanted.media_types[0] if len(wanted.media_types) == 1 else OCTET_STREAM
        media_type = content_type(answer) if _is_manifest(answer.asked) else hinted
        if digest is None or not size or media_type is None:  # not told: read it
            return self._document(wanted).descriptor
        return Descriptor(media_type=media_type, digest=digest, size=size)

    def tags(self) -> RegistryListing:
        """Return the repository's tags; see `TagLister.tags`."""
        self._need_repository()
        path = f"/{self._locator.path}/tags/list"
        return RegistryListing(self._endpoints, path, "tags", self._scope, str(self._locator))

    def catalog(self) -> RegistryListing:
        """Return the host's repositories; see `Catalog.catalog`."""
        return RegistryListing(self._endpoints, "/_catalog", "repositories", "registry:catalog:*", self._locator.host)

    def referrers(self, digest: str | Digest | Descriptor, *, artifact_type: str | None = None) -> Referrers:
        """Return what refers to a document, as the registry lists it; nothing is asked for until it is iterated over.

        Where it has no API for that, the tag that stands in for it is read (distribution-spec, "Referrers Tag Schema").

        Args:
            digest: Of the document, which need not be there.
            artifact_type: Only those of this type, whether the registry can choose them or not.

        Raises:
            InvalidDigest: ``digest`` is none.
        """
        self._need_repository()
        if isinstance(digest, Descriptor):
            digest = digest.digest
        subject = Digest.parse(digest) if isinstance(digest, str) else digest
        return Referrers(f"{self._locator}@{subject}", lambda: self._referrers(subject, artifact_type))

    def _referrers(self, subject: Digest, artifact_type: str | None) -> Iterator[Descriptor]:
        query = "" if artifact_type is None else f"?{urlencode({'artifactType': artifact_type})}"
        path = f"/{self._locator.path}/referrers/{subject}{query}"
        pages = iter_pages(
            self._endpoints,
            "referrers",
            path,
            accept=OCI_INDEX,
            scope=self._scope,
            what=f"referrers of {subject}",
        )
        try:
            first = next(pages, None)
        except NotFound:
            yield from chosen(self._listed_by_tag(subject), subject, artifact_type)
            return
        except RegistryError as error:
            if error.status not in {405, 501}:
                raise
            yield from chosen(self._listed_by_tag(subject), subject, artifact_type)
            return
        while first is not None:
            raw, url = first
            try:
                entries = Index.parse(raw).manifests
            except (MalformedDocument, MediaTypeMismatch) as error:
                raise MalformedDocument(f"{redact(url)} is no list of referrers: {error}") from error
            yield from chosen(entries, subject, artifact_type)
            first = next(pages, None)

    def _listed_by_tag(self, subject: Digest) -> tuple[Descriptor, ...]:
        path = f"/{self._locator.path}/manifests/{fallback_tag(subject)}"

        def read(transport: Transport, retry_state: RetryState) -> bytes:
            return read_listing(transport, path, self._scope, retry_state)[0]

        try:
            return Index.parse(self._endpoints.first("resolve", read), OCI_INDEX).manifests
        except NotFound:
            return ()

    # Writing

    def push_blob(
        self,
        source: UploadSource,
        *,
        descriptor: Descriptor | None = None,
        media_type: str = OCTET_STREAM,
        mount_from: Locator | None = None,
        on_progress: Callable[[int], object] | None = None,
    ) -> Descriptor:
        """Give the repository a blob, unless it has it already; see `Pushable.push_blob`.

        Args:
            source: The bytes. What can be read twice goes as a whole, hashed as it goes where its digest is not known.
                Of what cannot, chunks of 8 MiB are sent, or larger ones where the registry wants them
                (``OCI-Chunk-Min-Length``).
            descriptor: What the bytes have to be.
            media_type: Of what is returned, where there is no ``descriptor``.
            mount_from: A repository of the same host that has the blob.
            on_progress: Called with the bytes that were handed over so far.

        Raises:
            InvalidConfig: No endpoint of the host may be pushed to.
            DistError: As `Pushable.push_blob`.
            OSError: ``source`` cannot be read.
        """
        self._need_repository()
        if descriptor is None and isinstance(source, Blob):
            descriptor = source.descriptor
            if media_type != OCTET_STREAM:
                descriptor = evolve(descriptor, media_type=media_type)
        tell = on_progress or (lambda _: None)
        transport = self._endpoints.one("push")
        retry_state = RetryState(self._settings.retry)
        if descriptor is not None:
            known_missing = descriptor.digest in self._missing
            self._missing.discard(descriptor.digest)
            if not known_missing and self._has(transport, descriptor, retry_state.renewed()):
                tell(descriptor.size)
                return descriptor
        with contextlib.closing(UploadReader.of(source, descriptor)) as reader:
            head = b""
            if descriptor is None:
                head = reader.take(CHUNK)
                if len(head) < CHUNK:  # all of it, so that its name is known
                    small = Descriptor(media_type, reader.digest(), len(head))
                    return self.push_blob(head, descriptor=small, on_progress=on_progress)
            path = f"/{self._locator.path}/blobs/uploads/"
            upload = UploadSession(
                transport,
                path,
                self._push_scope,
                reader,
                expected=descriptor,
                head=b"" if reader.again else head,
                there=lambda digest: self._has(
                    transport, descriptor or Descriptor(media_type, digest, reader.hashed), retry_state.renewed()
                ),
                on_progress=tell,
                retry_state=retry_state,
            )
            mount = None
            if descriptor is not None and mount_from is not None and self._is_neighbour(mount_from):
                query = urlencode({"mount": str(descriptor.digest), "from": mount_from.path}, safe=":/")
                mount = f"{path}?{query}", f"{self._push_scope} repository:{mount_from.path}:pull"
            digest = upload.run(mount)
            if descriptor is None:
                descriptor = Descriptor(media_type, digest, reader.hashed)
        tell(descriptor.size)
        return descriptor

    def push_document(self, data: bytes, media_type: str, *, tag: str | None = None) -> Descriptor:
        """Give the repository a manifest or an index; see `Pushable.push_document`.

        Where it has a ``subject`` and the registry does not say that it lists it (``OCI-Subject``), it is added to the
        index behind the tag that stands in for such a list. Writers that do so at once lose no entry of each other, if
        none of them takes longer from reading that index to writing it than the others look at it afterwards, which is
        ten times as long as it took themselves, half a second at least and five at most.

        Args:
            data: The document.
            media_type: Of a manifest or an index.
            tag: A name to give it.

        Raises:
            InvalidConfig: No endpoint of the host may be pushed to.
            DistError: As `Pushable.push_document`.
        """
        self._need_repository()
        if len(data) > self._endpoints.limits.document:
            limit = self._endpoints.limits.document
            message = f"a document of {len(data)} bytes, more than the limit of {limit}: nobody would read it"
            raise LimitExceeded(message, limit=limit)
        document = parse_document(data, media_type)
        digest = document.digest
        name = digest if tag is None else Object(tag=tag, digest=None)
        transport = self._endpoints.one("push")
        answer = transport.request(
            "PUT",
            f"/{self._locator.path}/manifests/{name}",
            scope=self._push_scope,
            headers={"Content-Type": document.media_type},
            body=data,
        )
        answer.discard(self._endpoints.limits.error)
        check_created(answer, digest)
        if document.subject is not None and answer.headers.get("OCI-Subject") != str(document.subject.digest):
            self._listing(transport, document.subject.digest).add(as_referrer(document, digest))
        return Descriptor(document.media_type, digest, len(data))

    def has(self, descriptor: Descriptor) -> bool:
        """Whether the repository has what is described, where it would be pushed to; see `Pushable.has`."""
        self._need_repository()
        found = self._has(self._endpoints.one("push"), descriptor)
        if not found and descriptor.media_type not in DOCUMENTS:
            self._missing.add(descriptor.digest)
        return found

    def _has(self, transport: Transport, descriptor: Descriptor, retry_state: RetryState | None = None) -> bool:
        document = descriptor.media_type in DOCUMENTS
        path = f"/{self._locator.path}/{'manifests' if document else 'blobs'}/{descriptor.digest}"
        headers = {"Accept": descriptor.media_type} if document else {}
        answer = None
        for method in ("HEAD", "GET"):
            try:
                answer = transport.request(
                    method, path, scope=self._push_scope, headers=headers, retry_state=retry_state
                )
            except NotFound:
                return False
            except RegistryError as error:
                if error.status not in {400, 405, 501} or method == "GET":
                    raise
            else:
                break
        assert answer is not None  # noqa: S101 - or it was raised
        answer.close()
        size = answer.content_length
        if size and size != descriptor.size:
            message = f"{redact(answer.url)} is there, with {size} bytes: declared are {descriptor.size}"
            raise SizeMismatch(message, expected=descriptor.size, got=size)
        return True

    def delete(self, object: str | Object | Digest) -> None:
        """Remove a tag, or what has a digest; see `Deletable.delete`.

        Args:
            object: A tag, which many registries do not remove: they remove the manifest, by its digest, with all the
                tags that name it. A digest, of a manifest or, if there is none, of a blob.

        Raises:
            NotFound: There is no such object.
            Denied: It needs another login.
            RegistryError: The registry does not delete, or not what was named.
            InvalidConfig: No endpoint of the host may be pushed to.
        """
        self._need_repository()
        wanted = FetchRequest.read(object)
        transport = self._endpoints.one("push")
        digest = wanted.object.digest
        if digest is None:
            self._delete(transport, f"manifests/{wanted.identifier}", wanted)
            return
        subject = self._subject(transport, digest)
        try:
            self._delete(transport, f"manifests/{digest}", wanted)
        except NotFound:
            self._delete(transport, f"blobs/{digest}", wanted)
        if subject is not None and not self._lists_referrers(transport, subject):
            self._listing(transport, subject).remove(digest)

    def _delete(self, transport: Transport, path: str, wanted: FetchRequest) -> None:
        scope = f"repository:{self._locator.path}:delete,pull"
        try:
            transport.request("DELETE", f"/{self._locator.path}/{path}", scope=scope).discard(
                self._endpoints.limits.error
            )
        except NotFound as error:
            message = f"{self._name(wanted)} does not exist ({', '.join(error.codes) or '404'} at {transport.origin})"
            raise NotFound(message, codes=error.codes, detail=error.detail) from error
        except RegistryError as error:
            if error.status not in {400, 405, 501}:
                raise
            message = f"{transport.origin} does not delete {self._name(wanted)}: {error}"
            if wanted.object.digest is None:
                message += (
                    "; many registries remove no tag alone: give the digest to remove the manifest and all its tags"
                )
            raise RegistryError(message, status=error.status, codes=error.codes, detail=error.detail) from error

    def _subject(self, transport: Transport, digest: Digest) -> Digest | None:
        """Return what a manifest is about; None if it is there and about nothing, or cannot be read."""
        path = f"/{self._locator.path}/manifests/{digest}"
        headers = {"Accept": ", ".join(DEFAULT_ACCEPT)}
        try:
            answer, raw = transport.document(
                path, scope=self._push_scope, headers=headers, deadline=transport.document_deadline()
            )
            subject = parse_document(raw, content_type(answer)).subject
        except DistError:
            return None
        return None if subject is None else subject.digest

    def _lists_referrers(self, transport: Transport, subject: Digest) -> bool:
        path = f"/{self._locator.path}/referrers/{subject}"
        try:
            answer = transport.request("GET", path, scope=self._push_scope, headers={"Accept": OCI_INDEX})
            answer.discard(self._endpoints.limits.error)
        except (NotFound, RegistryError):
            return False
        return True

    def _listing(self, transport: Transport, subject: Digest) -> Listing:
        tag = fallback_tag(subject)
        place = _TagPlace(transport, f"/{self._locator.path}/manifests/{tag}", self._push_scope)
        return Listing(place, (str(transport.origin), self._locator.path, tag), self._endpoints.limits.document)

    def _is_neighbour(self, other: Locator) -> bool:
        return other.host == self._locator.host and bool(other.path) and other.path != self._locator.path

    @property
    def endpoint(self) -> str:
        """The origins that are asked, in their order, and the requests left where the registry limits them."""
        origins = ", ".join(f"{endpoint.origin}" for endpoint in self._settings.plan.endpoints)
        return f"{origins}{self._limits_shown()}"

    def _limits_shown(self) -> str:
        limit = self._endpoints.rate_limit
        if limit is None:
            return ""
        return f", {limit.remaining} {'' if limit.limit is None else f'of {limit.limit} '}requests left"

    def __reduce__(self) -> tuple[object, ...]:
        return _fetcher_again, (self._locator, self._settings.portable())

    def _need_repository(self) -> None:
        if not self._locator.path:
            message = f"{self._locator.host} is a host: add the repository, {self._locator.host}/name"
            raise InvalidReference(message)

    def _paths(self, wanted: FetchRequest) -> list[str]:
        """Return where an object may be, in the order of the original's rule: a 404 leads to the next."""
        manifests, blobs = (f"/{self._locator.path}/{kind}/{wanted.identifier}" for kind in ("manifests", "blobs"))
        if wanted.object.digest is None:
            return [manifests]
        return [manifests, blobs] if wanted.is_document else [blobs, manifests]

    def _first_found(
        self,
        method: str,
        paths: list[str],
        wanted: FetchRequest,
        extra: Mapping[str, str] | None = None,
        retry_state: RetryState | None = None,
    ) -> Response:
        """Ask for an object, headers ``extra`` besides; arguments and errors as `_find`."""

        def get(transport: Transport, path: str, headers: Mapping[str, str], retry_state: RetryState) -> Response:
            headers = {**headers, **(extra or {})}
            answer = transport.request(method, path, scope=self._scope, headers=headers, retry_state=retry_state)
            answer.broke = functools.partial(self._endpoints.rest, transport)
            self._check_type(wanted, answer)
            return answer

        return self._find(get, paths, wanted, retry_state)

    def _find(
        self,
        get: Callable[[Transport, str, Mapping[str, str], RetryState], T],
        paths: list[str],
        wanted: FetchRequest,
        retry_state: RetryState | None = None,
    ) -> T:
        """Ask the endpoints for an object, at each of ``paths`` until one is no 404; ``paths`` keeps that one.

        Args:
            get: Asks an endpoint for a path, with headers.
            paths: Below an endpoint's base.
            wanted: The object.
            retry_state: The attempts there are.

        Raises:
            NotFound: It is at none of them.
            MediaTypeMismatch: It is there, but of none of the accepted media types.
        """

        def ask(transport: Transport, retry_state: RetryState) -> T:
            codes: tuple[str, ...] = ()
            detail = ""
            for path in tuple(paths):
                headers = {"Accept": ", ".join(wanted.accept)} if _is_manifest(path) else {}
                try:
                    found = get(transport, path, headers, retry_state)
                except NotFound as error:
                    codes += tuple(code for code in error.codes if code not in codes)
                    detail = detail or error.detail
                else:
                    paths[:] = [path]
                    return found
            why = ", ".join(codes) or "404"
            message = f"{self._name(wanted)} does not exist ({why} at {transport.origin})"
            raise NotFound(message, codes=codes, detail=detail)

        try:
            # What its digest vouches for, a mirror may serve; what a tag stands for, only who is trusted to resolve.
            return self._endpoints.first("resolve" if wanted.object.digest is None else "pull", ask, retry_state)
        except NotFound:
            if wanted.media_types:
                self._explain_missing(wanted)
            raise

    def _name(self, wanted: FetchRequest) -> str:
        return f"{self._locator}{'@' if wanted.object.digest else ':'}{wanted.identifier}"

    def _explain_missing(self, wanted: FetchRequest) -> None:
        """Raise MediaTypeMismatch if an object that was not given as hinted is there under another media type."""
        anything = evolve(wanted, media_types=())
        headers = {"Accept": ", ".join((*DEFAULT_ACCEPT, "*/*"))}
        [path] = filter(_is_manifest, self._paths(wanted))

        def get(transport: Transport, path: str, _: Mapping[str, str], retry_state: RetryState) -> Response:
            return transport.request("HEAD", path, scope=self._scope, headers=headers, retry_state=retry_state)

        try:
            answer = self._find(get, [path], anything)
        except DistError:
            return  # what the registry said at first is enough
        answer.close()
        if (media_type := content_type(answer)) is not None:
            self._refuse_type(wanted, media_type)

    def _check_type(self, wanted: FetchRequest, answer: Response) -> None:
        """Hold the media type that a manifest is served as against the hints; close the response if it is none of them.

        Where a response claims none, `_type_of` reads it from the body.

        Raises:
            MediaTypeMismatch, UnsupportedDocument: It is none of them.
        """
        if not _is_manifest(answer.asked):
            return
        media_type = content_type(answer)
        if media_type is None:
            return
        if media_type in SCHEMA1 or (wanted.is_document and media_type not in wanted.accept):
            answer.close()  # not read to its end: that may take its time
            self._explain_missing(wanted)  # some registries convert to what nobody asked for: name what is there
            self._refuse_type(wanted, media_type)

    def _refuse_type(self, wanted: FetchRequest, media_type: str) -> None:
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

    def _document(self, wanted: FetchRequest) -> Blob:
        """Ask for a document, read it whole, check it, and follow an index if a platform is wanted."""
        deadline = Deadline(self._settings.timeouts.document)
        blob = self._one_document(wanted, deadline)
        if wanted.platform is None or blob.media_type not in INDEXES:
            return blob

        def read(descriptor: Descriptor) -> Blob:
            # Without the platform: only what the index declares is accepted now.
            return self._one_document(FetchRequest.read(descriptor), deadline)

        children = Children(
            Index.parse(blob.read(), blob.media_type),
            lambda descriptor: Index.parse(read(descriptor).read(), descriptor.media_type),
        )
        child = children.choose(wanted.platform)
        if wanted.media_types and child.media_type not in wanted.accept:
            message = (
                f"the manifest for {wanted.platform} is {child.media_type}, not {' or '.join(wanted.media_types)}: "
                f"fetch it with the hint mediatype:{child.media_type}"
            )
            raise MediaTypeMismatch(message, expected=wanted.media_types, got=child.media_type)
        return read(child)

    def _one_document(self, wanted: FetchRequest, deadline: Deadline) -> Blob:

        def get(transport: Transport, path: str, headers: Mapping[str, str], retry_state: RetryState) -> Blob:
            answer, raw = transport.document(
                path,
                scope=self._scope,
                headers=headers,
                deadline=deadline,
                retry_state=retry_state,
                check=lambda answer: self._check_type(wanted, answer),
            )
            return self._checked(wanted, answer, raw)

        return self._find(get, self._paths(wanted), wanted)

    def _checked(self, wanted: FetchRequest, answer: Response, raw: bytes) -> Blob:
        if wanted.size is not None and len(raw) != wanted.size:
            message = f"{redact(answer.url)} has {len(raw)} bytes, declared are {wanted.size}"
            raise SizeMismatch(message, expected=wanted.size, got=len(raw))
        told = self._content_digest(answer)
        expected = wanted.object.digest
        digest = Digest.of(raw, (expected or told or _SHA256).algorithm)
        for claim in (expected, told):
            if claim is not None and claim.algorithm == digest.algorithm and claim != digest:
                raise _digest_mismatch(answer, claim, digest)
        media_type = self._type_of(wanted, answer, raw)
        if media_type in DOCUMENTS:
            check_document(raw, media_type)
        return Blob.from_bytes(raw, media_type=media_type, digest=digest)

    def _type_of(self, wanted: FetchRequest, answer: Response, raw: bytes) -> str:
        """Return the media type of a whole object: of its response, else of its body, its descriptor, or its hint.

        Raises:
            MediaTypeMismatch, UnsupportedDocument, MalformedDocument: These do not agree.
        """
        if not _is_manifest(answer.asked):
            return wanted.media_types[0] if len(wanted.media_types) == 1 else OCTET_STREAM
        claimed = content_type(answer)
        if claimed is not None:
            return claimed
        expected = wanted.accept[0] if len(wanted.accept) == 1 else None
        if expected is None or expected in DOCUMENTS | SCHEMA1:
            media_type = document_type(raw, expected)
        else:
            try:
                media_type = document_type(raw)
            except (MalformedDocument, UnsupportedDocument):
                media_type = expected
        self._refuse_type(wanted, media_type)
        return media_type

    def _content_digest(self, answer: Response) -> Digest | None:
        try:
            return content_digest(answer)
        except InvalidDigest as error:
            message = f"{redact(answer.url)} has an invalid Docker-Content-Digest header"
            raise MalformedDocument(message) from error


_SHA256 = Digest.of(b"")


def _fetcher_again(locator: Locator, portable: dict[str, Any]) -> RegistryFetcher:
    return RegistryFetcher(locator, Settings.of(locator.host, **portable))


def _digest_mismatch(answer: Response, expected: Digest, got: Digest) -> DigestMismatch:
    message = f"{redact(answer.url)}: expected {expected}, got {got}"
    return DigestMismatch(message, expected=str(expected), got=str(got))


def _is_manifest(path: str) -> bool:
    """Whether a path or URL is that of a manifest; a repository may have ``manifests`` in its name."""
    return path.partition("?")[0].rpartition("/")[0].endswith("/manifests")


@frozen
class _RegistrySource:
    """The bytes with a digest, as a repository has them. Where they were found is remembered."""

    remote: RegistryFetcher
    wanted: FetchRequest
    paths: list[str]
    asked: set[str] = Factory(set)  # the URLs that gave bytes, before redirects
    wrong: set[str] = Factory(set)  # those of them whose bytes were wrong once: no reason to try a third time

    def __getstate__(self) -> dict[str, object]:
        return saved_fields(self)

    def __setstate__(self, state: object) -> None:
        restore_fields(self, state, {"request": "wanted"})
        object.__setattr__(self, "remote", fetcher_of(self.remote))  # 0.1 had no `Remote` around it

    def open(self, offset: int, end: int | None) -> ByteStream:
        settings = self.remote._settings
        return ResumingStream(
            self._get, offset, end, size=self.wanted.size, retry=settings.retry, timeouts=settings.timeouts
        )

    def stat(self) -> Stat:
        answer = self.remote._first_found("HEAD", self.paths, self.wanted)
        answer.close()
        return Stat(answer.content_length, content_type(answer) if _is_manifest(answer.asked) else None)

    def distrust(self) -> bool:
        new = self.asked - self.wrong
        self.wrong.update(new)
        self.asked.clear()
        return self.remote._endpoints.distrust("pull", new)

    def _get(self, headers: Mapping[str, str], retry_state: RetryState) -> Response:
        answer = self.remote._first_found("GET", self.paths, self.wanted, headers, retry_state)
        self.asked.add(answer.asked)
        return answer


@frozen
class _TagPlace:
    """The tag that lists referrers, where a registry has no API for that."""

    transport: Transport
    path: str
    scope: str

    def read(self) -> tuple[bytes, str] | None:
        try:
            raw, answer = read_listing(self.transport, self.path, self.scope, None)
        except NotFound:
            return None
        return raw, answer.headers.get("ETag", "")

    def write(self, raw: bytes, before: str | None) -> bool:
        headers = {"Content-Type": OCI_INDEX}
        if before is None:
            headers["If-None-Match"] = "*"  # RFC 9110 section 13.1
        elif before:
            headers["If-Match"] = before
        answer = self.transport.request("PUT", self.path, scope=self.scope, headers=headers, body=raw, also={409, 412})
        answer.discard(self.transport.limits.error)
        if answer.status in {409, 412}:
            return False
        check_created(answer, Digest.of(raw))
        return True

    def lacks(self, entry: Descriptor) -> bool:
        path = f"{self.path.rpartition('/')[0]}/{entry.digest}"
        try:
            self.transport.request("HEAD", path, scope=self.scope, headers={"Accept": entry.media_type}).close()
        except NotFound:
            return True
        return False


if not TYPE_CHECKING:  # a type checker would accept any name
    __getattr__ = moved_names(__name__)
