"""A container registry in this process, on loopback, that counts what it is asked and fails on request."""

from __future__ import annotations

import gzip
import hashlib
import json
import mmap
import re
import threading
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

from attrs import define, evolve, frozen

from distsdk.spec import media_types as media
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.platform import Platform
from distsdk.testing.access import Access, Accounts, BasicAccess, BearerAccess, TokenService
from distsdk.testing.api import NAME, TAG, Api, Repository, referrer
from distsdk.testing.exchange import Connection, Exchange, Request, Response
from distsdk.testing.server import Server

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Self

    from distsdk.testing.faults import Fault

#: Bytes, or a file that holds them and is not changed while the registry serves it.
Content: TypeAlias = bytes | Path
Media: TypeAlias = Literal["oci", "docker"]


@define(eq=False)
class _Rule:
    """A fault and where it acts."""

    fault: Fault
    path: re.Pattern[str]
    method: str | None
    left: int | None


class Registry:
    """A registry over HTTP on ``127.0.0.1``, for tests and examples.

    It answers reads and pushes as the OCI distribution specification 1.1 says, and the catalog as Docker's registry
    does. What it holds is put into it by methods, or pushed. It serves while it is a context::

        with Registry() as registry:
            registry.add_image("library/redis", "7", layers=[b"one", b"two"])
            ...  # ask http://{registry.host}/v2/library/redis/manifests/7

    Content may be added, and everything else called, from any thread, before and while it serves.

    Args:
        auth: ``"basic"`` to take a login with each request, ``"bearer"`` to take a token, which its own ``/token``
            gives for pulling: to anyone, or where ``logins`` says so to who logs in there. Where there are logins,
            pushing and deleting take one.
        logins: Passwords by user. The token service takes them with ``GET`` (Basic) and with the OAuth2 form
            (``grant_type=password``). A wrong login is refused also where none is needed.
        private: Found, as a regular expression, in the names of repositories that take one of the logins. By default
            all do, and ``/v2/`` too.
        token_lifetime: Seconds for which a token is good.
        token_uses: Requests for which a token is good; by default any number.
        token_service: Another registry with ``auth="bearer"`` that gives the tokens in place of its own ``/token``; the
            logins are its own then.
        page_size: The most tags, repositories or referrers in one answer, also where a client asks for more. By default
            a client that asks for no number gets all.
        referrers: Whether it lists referrers; without, `add_artifact` writes the tags that stand in for that, and so
            has whoever pushes.
        read_only: Whether pushes and deletes are refused.
        min_chunk: Bytes that each chunk of an upload but the last one must have, as ``OCI-Chunk-Min-Length`` says.
        if_match: Whether a manifest is pushed only if the one before is what ``If-Match`` says, and there is none where
            ``If-None-Match: *`` says so. Few registries heed that.
        content_of: Another registry whose content it serves and adds to, as its mirror or CDN does.
        ssl_context: Serve HTTPS with this context, such as `Authority.server_context` gives.

    Raises:
        ValueError: The arguments contradict each other.
    """

    def __init__(
        self,
        *,
        auth: Literal["basic", "bearer"] | None = None,
        logins: Mapping[str, str] | None = None,
        private: str = "",
        token_lifetime: float = 60,
        token_uses: int | None = None,
        token_service: Registry | None = None,
        page_size: int | None = None,
        referrers: bool = True,
        read_only: bool = False,
        min_chunk: int = 0,
        if_match: bool = False,
        content_of: Registry | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if token_service is not None and (auth != "bearer" or logins or token_service._tokens is None):
            raise ValueError('a token service has auth="bearer" and the logins, and who takes its tokens auth="bearer"')
        if logins and auth is None:
            raise ValueError('logins are for auth="basic" or auth="bearer": say which')
        if auth == "basic" and not logins:
            raise ValueError('auth="basic" takes logins={"user": "password"}')
        accounts = Accounts(logins or {}, re.compile(private) if logins else None)
        self._tokens: TokenService | None = None
        access: Access | None = None
        if auth == "basic":
            access = BasicAccess(accounts)
        elif auth == "bearer":
            service = token_service or self
            self._tokens = service._tokens or TokenService(accounts, token_lifetime, token_uses)
            access = BearerAccess(self._tokens, lambda: service.url)
        self._ssl_context = ssl_context
        self._server: Server | None = None
        self._lock: threading.RLock = threading.RLock() if content_of is None else content_of._lock
        self._repositories: dict[str, Repository] = {} if content_of is None else content_of._repositories
        self._referrers_api = referrers
        self._api = Api(
            self._repositories,
            self._lock,
            access=access,
            tokens=None if token_service else self._tokens,
            page_size=page_size,
            referrers=referrers,
            read_only=read_only,
            min_chunk=min_chunk,
            if_match=if_match,
        )
        self._rules: list[_Rule] = []
        self._exchanges: list[Exchange] = []

    def __enter__(self) -> Self:
        self._server = Server(self._answer, self._ssl_context)
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.stop()

    def __repr__(self) -> str:
        return f"<Registry {self.host if self._server else 'not started'}>"

    @property
    def host(self) -> str:
        """Host and port, as they stand in a reference, ``127.0.0.1:40123``. They stay known after the end.

        Raises:
            RuntimeError: The registry was not started.
        """
        if self._server is None:
            raise RuntimeError("the registry was not started: use it as `with Registry() as registry:`")
        return f"127.0.0.1:{self._server.server_port}"

    @property
    def url(self) -> str:
        """The origin, ``http://127.0.0.1:40123``, or ``https`` where it has a TLS context."""
        return f"{'https' if self._ssl_context else 'http'}://{self.host}"

    def locator(self, repository: str) -> str:
        """Return the locator of a repository here: ``127.0.0.1:40123/library/redis``."""
        return f"{self.host}/{repository}"

    # What it holds

    def add_blob(
        self,
        repository: str,
        data: Content,
        *,
        digest: Digest | None = None,
        media_type: str = media.OCTET_STREAM,
    ) -> Descriptor:
        """Put a blob into a repository.

        Args:
            repository: Its name, ``library/redis``.
            data: The bytes, or the path of a file with them; neither is copied.
            digest: The digest it is found under; by default the SHA-256 of the bytes. It is not checked: a wrong one
                makes a registry that holds a damaged blob.
            media_type: The media type for the descriptor; a registry serves every blob as ``application/octet-stream``.

        Returns:
            What refers to the blob.

        Raises:
            ValueError: The repository's name is malformed.
        """
        view = _view(data)
        found = digest or _digest(view)
        with self._lock:
            self._repository(repository).blobs[found] = view
        return Descriptor(media_type=media_type, digest=found, size=len(view))

    def add_manifest(
        self,
        repository: str,
        raw: bytes | Mapping[str, object],
        media_type: str,
        *,
        tags: Iterable[str] = (),
        digest: Digest | None = None,
    ) -> Descriptor:
        """Put a manifest or index into a repository, as it is: what it refers to need not be there.

        Args:
            repository: Its name, ``library/redis``.
            raw: The bytes, or fields to be written as JSON.
            media_type: The media type it is served with.
            tags: Tags that name it from now on.
            digest: The digest it is found under; by default the SHA-256 of the bytes. It is not checked.

        Returns:
            What refers to the manifest.

        Raises:
            ValueError: The repository's name or a tag is malformed.
        """
        data = raw if isinstance(raw, bytes) else json.dumps(raw, separators=(",", ":")).encode()
        view = memoryview(data)
        found = digest or _digest(view)
        names = tuple(tags)
        for tag in names:
            if not TAG.fullmatch(tag):
                raise ValueError(f"{tag!r} is not a tag: use letters, digits, '_', '.', '-', at most 128")
        with self._lock:
            target = self._repository(repository)
            target.manifests[found] = (media_type, view)
            target.tags.update(dict.fromkeys(names, found))
        return Descriptor(media_type=media_type, digest=found, size=len(view))

    def add_image(
        self,
        repository: str,
        tag: str | None = None,
        *,
        layers: Sequence[Content] = (),
        config: Mapping[str, object] | bytes | None = None,
        platform: str | None = None,
        media: Media = "oci",
    ) -> Descriptor:
        """Put an image into a repository: its layers, its configuration and its manifest.

        Args:
            repository: Its name, ``library/redis``.
            tag: A tag that names it from now on.
            layers: The layers, lowest first: tar archives, plain or compressed with gzip or zstd (any bytes will do
                where nothing unpacks them). Their media types follow from their first bytes.
            config: The configuration, as bytes or as fields beside ``os``, ``architecture`` and ``rootfs``.
            platform: ``os/architecture[/variant]``; by default ``linux/amd64``. Where it is given, the descriptor that
                is returned has it too, as `add_index` needs it.
            media: Write OCI documents or Docker's.

        Returns:
            What refers to the manifest.

        Raises:
            ValueError: A name is malformed, or a layer is compressed with zstd and no configuration in bytes is given,
                so that its diff ID is not known.
        """
        views = [_view(layer) for layer in layers]
        kinds = [_compression(view) for view in views]
        target = Platform.parse(platform or "linux/amd64")
        if not isinstance(config, bytes):
            diff_ids = [_diff_id(view, kind) for view, kind in zip(views, kinds, strict=True)]
            fields: dict[str, object] = {"architecture": target.architecture, "os": target.os}
            if target.variant:
                fields["variant"] = target.variant
            fields |= {"config": {}, "rootfs": {"type": "layers", "diff_ids": diff_ids}, **(config or {})}
            config = json.dumps(fields, separators=(",", ":")).encode()
        types = _TYPES[media]
        manifest = {
            "schemaVersion": 2,
            "mediaType": types.manifest,
            "config": self.add_blob(repository, config, media_type=types.config).to_fields(),
            "layers": [
                self._add_view(repository, view, types.layers[kind]).to_fields()
                for view, kind in zip(views, kinds, strict=True)
            ],
        }
        descriptor = self.add_manifest(repository, manifest, types.manifest, tags=() if tag is None else (tag,))
        return descriptor if platform is None else evolve(descriptor, platform=target)

    def add_index(
        self, repository: str, tag: str | None = None, *, manifests: Iterable[Descriptor], media: Media = "oci"
    ) -> Descriptor:
        """Put an index into a repository.

        Args:
            repository: Its name, ``library/redis``.
            tag: A tag that names it from now on.
            manifests: What it refers to, in order, such as `add_image` with a ``platform`` returns it.
            media: Write an OCI index or Docker's manifest list.

        Returns:
            What refers to the index.

        Raises:
            ValueError: A name is malformed.
        """
        media_type = _TYPES[media].index
        fields = {
            "schemaVersion": 2,
            "mediaType": media_type,
            "manifests": [descriptor.to_fields() for descriptor in manifests],
        }
        return self.add_manifest(repository, fields, media_type, tags=() if tag is None else (tag,))

    def add_artifact(
        self,
        repository: str,
        tag: str | None = None,
        *,
        artifact_type: str,
        files: Mapping[str, Content] | None = None,
        subject: Descriptor | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> Descriptor:
        """Put an artifact into a repository: files under an OCI manifest without a configuration.

        Args:
            repository: Its name, ``library/redis``.
            tag: A tag that names it from now on.
            artifact_type: Its media type, such as ``application/spdx+json``.
            files: The layers by title.
            subject: What it belongs to: it is listed among the referrers of that. Where the registry does not list
                referrers, the tag ``sha256-…`` of the subject gets an index that does, as clients write it then.
            annotations: Of the manifest; the listing of referrers shows them too.

        Returns:
            What refers to the manifest, with its artifact type and annotations.

        Raises:
            ValueError: A name is malformed.
        """
        layers = [
            evolve(self.add_blob(repository, data), annotations={"org.opencontainers.image.title": title})
            for title, data in (files or {}).items()
        ]
        # https://github.com/opencontainers/image-spec/blob/v1.1.1/manifest.md#guidelines-for-artifact-usage
        empty = self.add_blob(repository, b"{}", media_type=media.OCI_EMPTY)
        manifest: dict[str, object] = {
            "schemaVersion": 2,
            "mediaType": media.OCI_MANIFEST,
            "artifactType": artifact_type,
            "config": empty.to_fields(),
            "layers": [layer.to_fields() for layer in layers or [empty]],
        }
        if subject is not None:
            manifest["subject"] = {
                "mediaType": subject.media_type,
                "digest": str(subject.digest),
                "size": subject.size,
            }
        if annotations:
            manifest["annotations"] = dict(annotations)
        added = self.add_manifest(repository, manifest, media.OCI_MANIFEST, tags=() if tag is None else (tag,))
        if subject is not None and not self._referrers_api:
            self._write_fallback(repository, subject.digest)
        return evolve(added, artifact_type=artifact_type, annotations=annotations or {})

    def _write_fallback(self, repository: str, subject: Digest) -> None:
        # https://github.com/opencontainers/distribution-spec/blob/v1.1.0/spec.md#referrers-tag-schema
        with self._lock:
            manifests = self._repository(repository).manifests.items()
            found = [fields for digest, (kind, raw) in manifests if (fields := referrer(digest, kind, raw, subject))]
            index = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": found}
            tag = f"{subject.algorithm}-{subject.hex[:64]}"
            self.add_manifest(repository, index, media.OCI_INDEX, tags=(tag,))

    def _add_view(self, repository: str, view: memoryview, media_type: str) -> Descriptor:
        digest = _digest(view)
        with self._lock:
            self._repository(repository).blobs[digest] = view
        return Descriptor(media_type=media_type, digest=digest, size=len(view))

    def _repository(self, name: str) -> Repository:
        if not NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a repository name: use lower-case words with '/' between them")
        return self._repositories.setdefault(name, Repository())

    # What goes wrong

    def fault(self, fault: Fault, *, path: str = "", method: str | None = None, times: int | None = None) -> None:
        """Make something go wrong from now on.

        Of several faults on one path the first declared is the outermost: it sees the request first and the answer
        last, and one that does not ask the registry, such as `Status`, keeps the later ones waiting. So
        ``Status(503)`` once and then ``Cut(100)`` once fail the first request, cut the second, and leave the third
        alone.

        Args:
            fault: What goes wrong.
            path: Where: a regular expression that is searched for in the path, so that ``/v2/x/blobs/`` means all
                blobs of ``x``. By default everywhere, ``/token`` included.
            method: Only for this method. By default for all, HEAD included.
            times: How often it acts; requests that it leaves as they were do not count. By default until
                `clear_faults`.
        """
        with self._lock:
            self._rules.append(_Rule(fault, re.compile(path), method, times))

    def clear_faults(self) -> None:
        """Let nothing go wrong any more; answers under way are not changed."""
        with self._lock:
            self._rules.clear()

    # Tokens

    def identity_token(self, user: str) -> str:
        """Return a new identity token, which the token service takes in the place of the user's login.

        It is what a client sends with ``grant_type=refresh_token``, and what a credential store keeps under the user
        ``<token>``.

        Args:
            user: One of the ``logins``.

        Raises:
            ValueError: There is no such user, or no token service.
        """
        if self._tokens is None or user not in self._tokens.accounts.passwords:
            raise ValueError(f'identity tokens are for users of auth="bearer" with logins; {user!r} is none')
        return self._tokens.identity_token(user)

    def expire_tokens(self) -> None:
        """Make every token given out so far worthless; identity tokens stay good."""
        if self._tokens is not None:
            self._tokens.expire()

    # What it was asked

    @property
    def requests(self) -> list[Request]:
        """All requests since the start or the last `reset`, in the order in which they came, as they are by now."""
        with self._lock:
            exchanges = tuple(self._exchanges)
        return [exchange.record() for exchange in exchanges]

    @property
    def bytes_sent(self) -> int:
        """Bytes of bodies handed to sockets since the start or the last `reset`."""
        with self._lock:
            return sum(exchange.sent for exchange in self._exchanges)

    @property
    def bytes_received(self) -> int:
        """Bytes of requests' own bodies that came since the start or the last `reset`."""
        return sum(request.body_bytes_received for request in self.requests)

    @property
    def authorizations(self) -> list[str]:
        """The ``Authorization`` fields that came since the start or the last `reset`, in order, as they were sent."""
        return [request.headers["Authorization"] for request in self.requests if "Authorization" in request.headers]

    @property
    def connections(self) -> list[Connection]:
        """The connections that were open at some time since the start or the last `reset`, with what they carried."""
        requests, sent = Counter[int](), Counter[int]()
        for request in self.requests:
            requests[request.connection] += 1
            sent[request.connection] += request.body_bytes_sent
        return [
            evolve(known, requests=requests[known.number], body_bytes_sent=sent[known.number])
            for known in ([] if self._server is None else self._server.connections())
        ]

    @property
    def most_open(self) -> int:
        """The most connections that were open at once since the start or the last `reset`."""
        return 0 if self._server is None else self._server.most_open

    def count(self, method: str | None = None, path: str = "") -> int:
        """Return how many requests came.

        Args:
            method: Only those of this method.
            path: Only those in whose path this regular expression is found.
        """
        return len(self._matching(method, path))

    def count_bytes(self, method: str | None = None, path: str = "") -> int:
        """Return how many bytes of bodies were sent in answer to some of the requests.

        Args:
            method: Only those of this method.
            path: Only those in whose path this regular expression is found.
        """
        return sum(request.body_bytes_sent for request in self._matching(method, path))

    def _matching(self, method: str | None, path: str) -> list[Request]:
        wanted = re.compile(path)
        return [r for r in self.requests if method in {None, r.method} and wanted.search(r.path)]

    def reset(self) -> None:
        """Forget the requests and the connections that have ended so far. Content, faults and tokens stay."""
        with self._lock:
            self._exchanges.clear()
        if self._server is not None:
            self._server.forget()

    # How it answers

    def _answer(self, request: Request) -> tuple[Exchange, Response]:
        exchange = Exchange(request)
        with self._lock:
            self._exchanges.append(exchange)
            rules = tuple(self._rules)
        return exchange, self._through(rules, request)

    def _through(self, rules: tuple[_Rule, ...], request: Request) -> Response:
        if not rules:
            return self._api.respond(request)
        rule, later = rules[0], rules[1:]
        if rule.method not in {None, request.method} or not rule.path.search(request.path) or not self._take(rule):
            return self._through(later, request)
        untouched: Response | None = None

        def respond(asked: Request) -> Response:
            nonlocal untouched
            response = self._through(later, asked)
            untouched = response if asked is request else None
            return response

        response = rule.fault.answer(request, respond)
        if response is untouched and rule.left is not None:
            with self._lock:
                rule.left += 1
        return response

    def _take(self, rule: _Rule) -> bool:
        with self._lock:
            if rule.left is None:
                return True
            if rule.left == 0:
                return False
            rule.left -= 1
            return True


def _view(data: Content) -> memoryview:
    """Return the bytes without copying them; a file is mapped and its pages are read when they are served."""
    if isinstance(data, bytes):
        return memoryview(data)
    with data.open("rb") as file:
        if not data.stat().st_size:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _digest(view: memoryview) -> Digest:
    return Digest("sha256", hashlib.sha256(view, usedforsecurity=False).hexdigest())


@frozen
class _Types:
    index: str
    manifest: str
    config: str
    layers: Mapping[str, str]


_TYPES: Mapping[Media, _Types] = {
    "oci": _Types(
        media.OCI_INDEX,
        media.OCI_MANIFEST,
        media.OCI_CONFIG,
        {"": media.OCI_LAYER, "gzip": media.OCI_LAYER_GZIP, "zstd": media.OCI_LAYER_ZSTD},
    ),
    "docker": _Types(
        media.DOCKER_LIST,
        media.DOCKER_MANIFEST,
        media.DOCKER_CONFIG,
        {"": media.DOCKER_LAYER, "gzip": media.DOCKER_LAYER_GZIP, "zstd": media.DOCKER_LAYER_ZSTD},
    ),
}


def _compression(view: memoryview) -> str:
    # https://www.rfc-editor.org/rfc/rfc1952#section-2.3.1 and https://www.rfc-editor.org/rfc/rfc8878#section-3.1.1
    start = bytes(view[:4])
    if start.startswith(b"\x1f\x8b"):
        return "gzip"
    return "zstd" if start == b"\x28\xb5\x2f\xfd" else ""


def _diff_id(view: memoryview, compression: str) -> str:
    if compression == "zstd":
        raise ValueError("the diff ID of a zstd layer is not computed here: give the configuration as bytes")
    return str(_digest(memoryview(gzip.decompress(view)) if compression == "gzip" else view))
