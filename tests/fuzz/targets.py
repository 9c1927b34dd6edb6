"""What is fuzzed: every parser of something that a registry, a file or a person wrote, and what has to hold for it.

A target takes bytes, feeds them to a parser as they would come from outside, and holds what comes back against what the
parser promises. It returns where that holds, also where the parser refuses in a documented way, and raises otherwise.
Nothing in here needs atheris: the same targets are run on the corpus by ``tests/unit/parsers``.
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import json
import pickle
import re
import struct
import tarfile
import time
import traceback
import zlib
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from distsdk._secrets import redact
from distsdk.analysis.sbom import Sbom
from distsdk.errors import (
    DigestMismatch,
    DistError,
    IntegrityError,
    InvalidConfig,
    InvalidDigest,
    InvalidHint,
    InvalidReference,
    LimitExceeded,
    MalformedDocument,
    MediaTypeMismatch,
    NotFound,
    PlatformNotFound,
    Unsafe,
    UnsupportedDocument,
)
from distsdk.layers import seek_index as layer_index
from distsdk.layers.compression import LayerLimits
from distsdk.layers.member import Kind, Role, place
from distsdk.layers.member import Member as LayerMember
from distsdk.layers.tar import read_tar
from distsdk.layers.toc import Toc, TocLocation, locate, read_toc, unpack_chunk
from distsdk.layout.docker import parse_saved_images
from distsdk.layout.tar import Member, TarFiles, read_headers
from distsdk.remotes.listing import next_link
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.documents import ImageConfig, Index, Manifest, check_document
from distsdk.spec.media_types import DOCUMENTS, INDEXES, MANIFESTS, parse_media_type
from distsdk.spec.platform import Platform
from distsdk.spec.reference import Hint, Locator, Object, Reference
from distsdk.spec.strict_json import MAX_DEPTH, load_json, parse_json
from distsdk.transport.auth import AuthChallenge, merge_scopes, parse_challenges, parse_token_reply
from distsdk.transport.credentials import AuthFile, parse_auth_file
from distsdk.transport.hosts import CAPABILITIES, EndpointPlan, parse_hosts
from distsdk.transport.origin import Origin, follow
from distsdk.transport.response import parse_retry_after
from distsdk.transport.resume import parse_content_range
from distsdk.trust.attestations import Envelope, Statement

if TYPE_CHECKING:
    from collections.abc import Callable

#: Seconds of CPU that one input may take. Linear work on the longest ones takes a tenth of it, quadratic work minutes.
MAX_SECONDS = 1.0
#: Characters of a message, however long the text is that it complains about; an escaped one counts as ten.
MAX_MESSAGE = 5000
#: What stands for a password or a token, wherever one is planted.
SECRET = "s3cr3t"
#: The same where somebody wrote it into an address, ``user:…@host``.
LOGIN = f":{SECRET}@"

#: RFC 9110 section 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")


@dataclass(frozen=True)
class Target:
    """One parser, or a few that read the same.

    Args:
        run: Takes one input.
        longest: Bytes that can come from outside: what a pumped input is filled up to.
        words: What the grammar is made of, for the fuzzer to insert.
    """

    run: Callable[[bytes], None]
    longest: int
    words: tuple[str, ...] = ()

    def __call__(self, data: bytes) -> None:
        """Run one input; it has to be done in time, too."""
        seconds = self._seconds(data)
        assert seconds < MAX_SECONDS, f"{len(data)} bytes took {seconds:.1f} s"

    def grown(self, data: bytes) -> None:
        """Run ``data`` with a part of it repeated until it is as long as can be; it has to be done in time.

        That is what a backtracking matcher, or a loop that copies what is left, takes quadratic time for. Which part is
        repeated depends on the data alone, so that a finding can be repeated. Two short runs tell whether the long one
        is worth its time: they are not in proportion, and not both too short to tell.
        """
        short, middle = (self._seconds(pumped(data, self.longest // part)) for part in (32, 8))
        if middle > max(4 * short, MAX_SECONDS / 100) * 1.3:
            self(pumped(data, self.longest))

    def _seconds(self, data: bytes) -> float:
        before = time.thread_time()
        self.run(data)
        return time.thread_time() - before


def pumped(data: bytes, length: int) -> bytes:
    """Return ``data`` with a few bytes of it repeated until it is about ``length`` bytes long."""
    if not data:
        return data
    chance = zlib.crc32(data)
    start = chance % len(data)
    end = start + 1 + (chance >> 16) % min(8, len(data) - start)
    times = max(1, (length - len(data)) // (end - start))
    return data[:start] + data[start:end] * times + data[end:]


def refused(error: DistError, *, url: str = "") -> str:
    """Hold an error against what every message promises, and return the message; URLs are quoted whole."""
    message = str(error)
    assert message
    assert message.isprintable(), message
    assert len(message) <= MAX_MESSAGE + 10 * len(url), message
    return message


def typed(data: bytes) -> str:
    """Return what a person typed or a file holds, as Python reads arguments: any bytes."""
    return data.decode("utf-8", "surrogateescape")


def header(data: bytes) -> str:
    """Return the value of a header field, as http.client reads it."""
    return data.decode("latin-1")


# --- names -----------------------------------------------------------------------------------------------------------


def locator(data: bytes) -> None:
    """What is accepted is read back as itself and can be put in a URL; a password is refused and not shown."""
    text = typed(data)
    try:
        found = Locator.parse(text)
    except InvalidReference as error:
        refused(error)
    else:
        assert found == Locator.parse(str(found)) == Locator.parse(found.familiar) == Locator(found.host, found.path)
        _check_locator(found)
    before, _, after = text.partition("\n")
    for scheme in ("s3", "https"):
        _refuses_password(Reference.parse, f"{scheme}://{before}:{SECRET}@{after}@sha256:{'0' * 64}")
    if before.startswith((".", "/", "~")):  # the name of a file may have an '@' in it
        return
    _refuses_password(Reference.parse, f"{before}:{SECRET}@{after}@sha256:{'0' * 64}")
    # Unless what follows could be a digest: then what precedes it is a name.
    if not re.search("sha|md5|blake|[0-9a-f]{32}", after, re.IGNORECASE):
        _refuses_password(Locator.parse, f"{before}:{SECRET}@{after}")
        _refuses_password(Reference.parse, f"{before}:{SECRET}@{after}")
        _refuses_password(Locator.parse, f"https://{before}:{SECRET}@{after}")


def reference(data: bytes) -> None:
    """What is accepted is read back as itself, in three forms; its object and locator are what their parsers read."""
    text = typed(data)
    try:
        found = Reference.parse(text)
    except InvalidReference as error:
        refused(error)
        return
    assert found == Reference.parse(str(found)) == Reference.parse(found.familiar)
    assert found == Reference(found.locator, found.tag, found.digest)
    assert (found.tag, found.digest) == ((asked := Object.parse(found.object)).tag, asked.digest)
    assert found == pickle.loads(pickle.dumps(found))
    assert "/" not in found.object
    _check_locator(found.locator)
    _check_html(found._repr_html_())


def object_(data: bytes) -> None:
    """What is accepted is written as it was; nothing else is."""
    text = typed(data)
    try:
        found = Object.parse(text)
    except (InvalidReference, InvalidDigest) as error:
        refused(error)
        return
    assert text == str(found)
    assert re.fullmatch(r"[A-Za-z0-9_.:@-]+", text)
    assert not text.startswith((".", "-"))


def hint(data: bytes) -> None:
    """What is accepted is read back as itself, fits on a line, and has a value of its kind."""
    text = typed(data)
    try:
        found = Hint.parse(text)
    except InvalidHint as error:
        refused(error)
        return
    assert found == Hint.parse(str(found))
    assert str(found).lower() == text.lower()
    assert str(found).isprintable()
    match found.kind:
        case "mediatype":
            assert found.value == parse_media_type(found.value)
        case "size":
            assert 0 <= int(found.value) < 2**63
        case "platform":
            Platform.parse(found.value)


def digest(data: bytes) -> None:
    """What is accepted is safe in a path and a URL, and written as it was."""
    text = typed(data)
    try:
        found = Digest.parse(text)
    except InvalidDigest as error:
        refused(error)
        return
    assert text == str(found)
    assert re.fullmatch(r"sha(256:[0-9a-f]{64}|384:[0-9a-f]{96}|512:[0-9a-f]{128})", text)


def platform(data: bytes) -> None:
    """What is accepted is written in a form that means the same, and runs what is made for itself."""
    text = typed(data)
    try:
        found = Platform.parse(text)
    except InvalidHint as error:
        refused(error)
        return
    normal = found.normalised()
    assert normal == normal.normalised() == Platform.parse(str(found)).normalised()
    assert str(found).isprintable()
    assert found == Platform.from_fields(found.to_fields())
    assert found.matches(found)
    assert found.matches(normal)
    assert normal.matches(found)
    assert 1 == found.choose([None, normal])


def media_type(data: bytes) -> None:
    """What comes back is in one spelling, and safe in a header."""
    text = header(data)
    try:
        found = parse_media_type(text)
    except ValueError as error:
        assert len(str(error)) <= MAX_MESSAGE
        assert str(error).isprintable()
        return
    assert found == found.lower() == parse_media_type(found) == parse_media_type(f"{found.upper()} ; charset=utf-8")
    assert text.lower().startswith(found)
    assert 2 == len(parts := found.split("/"))
    assert all(map(_TOKEN.fullmatch, parts))


# --- headers and token replies ---------------------------------------------------------------------------------------


def challenge(data: bytes) -> None:
    """What is read can be written by RFC 9110, and is then read as the same, also behind another challenge."""
    first, _, second = header(data).partition("\n")
    found = parse_challenges(first)
    for one in found:
        assert _TOKEN.fullmatch(one.scheme)
        assert all(map(_TOKEN.fullmatch, one.params))
    assert found == parse_challenges(_written(found))
    more = parse_challenges(second)
    assert found + more == parse_challenges(f"{_written(found)}, {_written(more)}")
    scopes = [scope for one in found + more for scope in one.params.get("scope", "").split()]
    merged = merge_scopes(*scopes)
    assert merged == merge_scopes(*merged, *scopes) == merge_scopes(*reversed(scopes))
    assert {scope.rpartition(":")[0] for scope in scopes} == {scope.rpartition(":")[0] for scope in merged}


def token_reply(data: bytes) -> None:
    """A token can go into a header and lives for a time; what is refused is not shown, nor where it went wrong."""
    try:
        token, lifetime = parse_token_reply(data)
    except MalformedDocument as error:
        refused(error)
    else:
        assert re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", token)
        assert 0 < lifetime <= 366 * 86400
    if SECRET.encode() in data:  # then what is planted could not be told from it
        return
    planted = b'{"token": "%s", "access_token": "%s' % (SECRET.encode(), SECRET.encode()) + data
    for body in (planted, planted + b'"}', SECRET.encode() + data):
        try:
            parse_token_reply(body)
        except MalformedDocument as error:
            assert SECRET not in "".join(traceback.format_exception(error))


def link(data: bytes) -> None:
    """A next link is a part of the header, and is read again from a header that has nothing else."""
    text = header(data)
    found = next_link(text)
    if found is None:
        return
    assert f"<{found}>" in text
    assert found == next_link(f'<{found}>; rel="next"') == next_link(f"<x>; rel=prev, <{found}>;title=a;REL=next")


def content_range(data: bytes) -> None:
    """A range that is accepted lies within its total, and is written as it was."""
    text = header(data)
    found = parse_content_range(text)
    if found is None:
        return
    first, last, total = found
    assert 0 <= first <= last < (2**64 if total is None else total)
    written = f"bytes {first}-{last}/{'*' if total is None else total}"
    assert found == parse_content_range(written)
    assert re.sub(r"\b0+(?=[0-9])", "", text.strip().lower()).split() == written.split()


def retry_after(data: bytes) -> None:
    """A wait is a finite number of seconds, and not negative."""
    seconds = parse_retry_after(header(data))
    assert seconds is None or 0 <= seconds < float("inf")


def url(data: bytes) -> None:
    """No URL is shown with a password, a signature or what a terminal acts on; none leads from https to elsewhere."""
    base, _, text = header(data).partition("\n")
    shown = redact(text)
    assert shown.isprintable()
    if SECRET.encode() in data:  # then what is planted could not be told from it
        return
    for planted in (
        f"https://user:{SECRET}@{text}",
        f"https://h/?{text}&sig={SECRET}",
        f"https://h/?X-Amz-Signature={SECRET}&{text}",
        f"https://h/{text}#{SECRET}",
    ):
        _check_redacted(planted)
    for start in ("https://registry.example/v2/x", f"https://{base}", f"http://{base}"):
        try:
            found = follow(start, text, what="redirects to")
        except Unsafe as error:
            refused(error, url=start + text)
            continue
        parts = urlsplit(found)
        assert parts.scheme in {"http", "https"}
        assert parts.scheme == "https" or not start.startswith("https:")
        assert parts.hostname
        assert "@" not in parts.netloc
        assert found.isascii()
        assert found.isprintable()
        assert Origin.of(found) == Origin.of(str(Origin.of(found)))
        assert Origin.of(found) == Origin.of(follow(start, found, what="redirects to"))


# --- files of a person ------------------------------------------------------------------------------------------------


def auth_file(data: bytes) -> None:
    """A login can be sent, a helper can be run; nothing but a file's keys is ever shown, not even in a traceback."""
    found = _auth_file(data, hidden=LOGIN)
    for host in ("docker.io", "localhost:5000", *(found.entries if found else ())):
        for repository in ("", "library/redis"):
            _check_login(found, host, repository, hidden=LOGIN)
    if SECRET.encode() in data:  # then what is planted could not be told from it
        return
    text = data.decode("utf-8", "ignore")
    key, _, value = text.partition("\n")
    secret = f"{SECRET}{value}"
    for planted in (
        {"auths": {"h": {"auth": base64.b64encode(f"{key}:{secret}".encode()).decode()}}},
        {"auths": {"h": {"auth": secret, "password": secret, "identitytoken": secret, "registrytoken": secret}}},
        {"auths": {"h": {"username": key, "password": secret}}},
        {"auths": {"h": {"username": key, "identitytoken": secret}}},
        {"auths": {"h": {"registrytoken": secret}}},
        {"auths": {"h": {"username": key, "password": [secret]}}},
        {"auths": {"h": secret, key: secret}},
        {"auths": secret, "credsStore": secret},
        {"auths": {f"user:{SECRET}@{key}": {"auth": value}}},
    ):
        written = json.dumps(planted).encode()
        for file in (written, written[:-2], written + data, written.replace(b'"h"', data)):
            _check_login(_auth_file(file, hidden=SECRET), "h", "x/y", hidden=SECRET)


def _auth_file(data: bytes, *, hidden: str) -> AuthFile | None:
    try:
        found = parse_auth_file(data, what="/home/me/.docker/config.json")
    except InvalidConfig as error:
        assert "/home/me/.docker/config.json" in refused(error)
        assert hidden not in "".join(traceback.format_exception(error))
        return None
    assert hidden not in repr(found)
    return found


def _check_login(file: AuthFile | None, host: str, repository: str, *, hidden: str) -> None:
    if file is None:
        return
    assert re.fullmatch(r"[A-Za-z0-9_.-]*", file.helper(host))
    try:
        login = file.login(host, repository)
    except InvalidConfig as error:
        refused(error)
        assert hidden not in "".join(traceback.format_exception(error))
        return
    if login is not None:
        assert hidden not in repr(login).replace(login.username, "")
        assert ":" not in login.username
        for text in (login.username, login.password, login.identity_token):
            assert not re.search(r"[\r\n]", text.encode().decode())
        assert re.fullmatch(r"([A-Za-z0-9._~+/-]+=*)?", login.registry_token)


def hosts(data: bytes) -> None:
    """Whatever a hosts.toml says, an endpoint is a URL of a registry; what may be a password in it is never shown."""
    text = data.decode("utf-8", "replace")
    for host in ("docker.io", "localhost:5000", "[::1]:5000"):
        _hosts(text, host, hidden=LOGIN)
    if SECRET.encode() in data:  # then what is planted could not be told from it
        return
    key, _, value = text.partition("\n")
    quoted = json.dumps(f"{SECRET}{value}")
    url = json.dumps(f"https://{key}:{SECRET}@{value}")
    query = json.dumps(f"{key}?token={SECRET}")
    for planted in (
        f'[host."https://h"]\nheader = {{"Authorization" = {quoted}}}',
        f'[host."https://h"]\nheader = {{"Authorization" = [{quoted}, 5]}}',
        f"[host.{url}]\nca = 5",
        f"[host.{url}]\n[host.{url}]",
        f"{url} = 5",
        f"server = {url}",
        f"server = {query}\n[host.{query}]",
        f"realms = [{url}]",
        f'remote = "x"\nurl = {url}',
        f'remote = "x"\nurl = {query}',
        f"header = {{a = {quoted}",
        f"dial_timeout = {quoted}\n",
    ):
        _hosts(planted, "h.example", hidden=SECRET)
        _hosts(f"{planted}\n{value}", "h.example", hidden=SECRET)


def _hosts(text: str, host: str, *, hidden: str) -> None:
    try:
        plan = parse_hosts(text, folder=Path("/etc/containerd/certs.d/x"), host=host)
    except InvalidConfig as error:
        refused(error, url=text)
        assert hidden not in "".join(traceback.format_exception(error))
        return
    _check_plan(plan, host)
    shown = repr(plan) + "".join(plan.lines())
    assert hidden not in shown
    assert shown.isprintable()


def _check_plan(plan: EndpointPlan, host: str) -> None:
    assert host == plan.host
    assert plan.endpoints
    for endpoint in plan.endpoints:
        parts = urlsplit(endpoint.base)
        assert parts.scheme in {"http", "https"}
        assert parts.hostname
        assert "@" not in endpoint.base
        assert not endpoint.base.endswith("/")
        assert not {"..", ".", ""} & set(parts.path.split("/")[1:])
        assert (parts.query, parts.fragment) == ("", "")
        assert str(Origin.of(endpoint.base)) == endpoint.origin
        assert endpoint.namespace in {None, host}
        assert set() < endpoint.capabilities <= CAPABILITIES
        assert endpoint.dial_timeout is None or 0 < endpoint.dial_timeout < 1e6
        assert all(map(_TOKEN.fullmatch, map(str.lower, endpoint.headers)))
        assert all(value.isascii() and not re.search(r"[\r\n\0]", value) for value in endpoint.headers.values())
    for realm in plan.realms:
        assert realm == str(Origin.of(realm))
        assert realm.startswith(("http://", "https://"))


# --- documents -------------------------------------------------------------------------------------------------------


def json_(data: bytes) -> None:
    """What is accepted is what Python's own reader makes of it, bounded in depth, and can be written again."""
    try:
        found = parse_json(data)
    except MalformedDocument as error:
        refused(error)
        return
    text = data.decode()
    assert found == json.loads(text)
    again = json.dumps(found, ensure_ascii=False, allow_nan=False).encode()
    assert found == parse_json(again)
    level, depth = [found], 0
    while level := [value for value in level if isinstance(value, dict | list)]:
        depth += 1
        level = [inner for value in level for inner in (value.values() if isinstance(value, dict) else value)]
    assert depth <= MAX_DEPTH


def document(data: bytes) -> None:
    """Bytes are a manifest, or an index, or nothing, but never two of them; what is read keeps its bytes and digest."""
    kinds: set[str] = set()
    for media in (None, *sorted(DOCUMENTS)):
        for kind, family in ((Manifest, MANIFESTS), (Index, INDEXES)):
            try:
                found = kind.parse(data, media)
            except (MalformedDocument, MediaTypeMismatch, UnsupportedDocument, LimitExceeded) as error:
                refused(error)
                continue
            assert found.media_type in family
            assert media in {None, found.media_type}
            check_document(data, found.media_type)
            _check_document(found, data)
            if "mediaType" in found.fields:
                kinds.add(found.media_type)
            if found.fields.get("layers") or found.fields.get("manifests"):
                kinds.add(kind.__name__)
    assert len(kinds & {"Manifest", "Index"}) <= 1
    assert len(kinds - {"Manifest", "Index"}) <= 1


def image_config(data: bytes) -> None:
    """Bytes are an image's config, or are refused; what is read keeps its bytes and digest."""
    try:
        found = ImageConfig.parse(data)
    except (MalformedDocument, LimitExceeded) as error:
        refused(error)
        return
    _check_document(found, data)
    for step in found.history:
        assert repr(step).isprintable()
        assert step.created_at is None or step.created_at.tzinfo is not None


def evidence(data: bytes) -> None:
    """Bytes are a statement, an envelope, an SBOM, or refused by each with its documented errors."""
    for parse in (Statement.parse, Envelope.parse, Sbom.parse):
        try:
            found: Statement | Envelope | Sbom = parse(data)
        except (MalformedDocument, UnsupportedDocument, LimitExceeded) as error:
            refused(error)
            continue
        assert repr(found).isprintable()
        if isinstance(found, Envelope):
            assert found.signed.endswith(found.payload)
        if isinstance(found, Sbom):
            assert all(repr(package).isprintable() for package in found.packages)


def tar(data: bytes) -> None:
    """Each member lies within the archive, by itself, and links end; what is not damaged is what Python reads."""
    data += bytes(-len(data) % 512)  # the fuzzer need not find that out
    try:
        members = read_headers(lambda start, size: data[start : start + size], len(data), "x.tar")
    except (MalformedDocument, UnsupportedDocument, LimitExceeded) as error:
        refused(error)
        return
    files = TarFiles(_Archive(data), members)
    found: dict[str, bytes] = {}
    for name, member in members.items():
        assert name
        assert not {"", ".", ".."} & set(name.split("/"))
        assert not isinstance(member, Member) or 512 <= member.offset <= member.offset + member.size <= len(data)
        try:
            assert files.place(name) in members
        except (MalformedDocument, NotFound, Unsafe) as error:
            refused(error)
        if isinstance(member, Member):
            found[name] = files.open(name, 0, None).read(len(data))
    ends = sorted((m.offset, m.offset + m.size) for m in members.values() if isinstance(m, Member))
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(ends))
    for name, raw in _by_python(data).items():
        assert found.get(name, raw) == raw


@dataclass(frozen=True)
class _Archive:
    """Bytes as the one file that an archive is."""

    raw: bytes

    def open(self, _: str, offset: int, end: int | None) -> io.BytesIO:
        return io.BytesIO(self.raw[offset:end])

    def size(self, _: str) -> int:
        return len(self.raw)

    def identity(self) -> tuple[object, ...]:
        return ()

    def shown(self, name: str = "") -> str:
        return name


def _by_python(data: bytes) -> dict[str, bytes]:
    """What the standard library finds in an archive, under names that nobody disputes."""
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for member in archive:
                if (
                    member.isreg()
                    and not member.issparse()
                    and re.fullmatch(r"[a-z0-9][a-z0-9/]*[a-z0-9]", member.name)
                ):
                    opened = archive.extractfile(member)
                    assert opened is not None
                    found["/".join(filter(None, member.name.split("/")))] = opened.read()
    except (tarfile.TarError, ValueError, OSError, RecursionError, MemoryError):
        return {}
    return found


def saved_images(data: bytes) -> None:
    """A list of images names a config and layers for each, or is refused."""
    try:
        found = parse_saved_images(data)
    except (MalformedDocument, LimitExceeded) as error:
        refused(error)
        return
    listed = json.loads(data)
    assert [image.config for image in found] == [entry["Config"] for entry in listed]
    for image, entry in zip(found, listed, strict=True):
        assert image.config
        assert list(image.layers) == (entry.get("Layers") or [])
        assert list(image.tags) == (entry.get("RepoTags") or [])


# --- what the invariants share ---------------------------------------------------------------------------------------


def _check_locator(found: Locator) -> None:
    """A locator can be part of a URL and leads nowhere else; one of files is a path or a URL, without a password."""
    assert found == pickle.loads(pickle.dumps(found))
    assert str(found).isprintable()
    if found.names_files:
        _check_files(found)
        return
    parts = urlsplit(f"https://{found.host}/v2/{found.path}/tags/list")
    assert parts.netloc == found.host
    assert "@" not in found.host
    assert parts.hostname
    assert parts.port is None or parts.port > 0
    assert parts.path == f"/v2/{found.path}/tags/list"
    assert (parts.query, parts.fragment) == ("", "")
    assert not {".", ".."} & set(found.path.split("/"))
    assert len(found.path) <= 255
    assert str(found).isascii()


def _check_files(found: Locator) -> None:
    assert "" == found.host
    assert str(found) == found.path == found.familiar
    assert len(found.path) <= 4096
    if re.match(r"[/~]|\.{1,2}(/|$)", found.path):
        return
    scheme, _, rest = found.path.partition("://")
    assert re.fullmatch(r"[a-z][a-z0-9+.-]*", scheme)
    assert scheme not in {"docker", "oci", "dist"}
    assert rest.strip("/")
    assert not re.search(r"[?#@]|::", rest)
    assert not {".", ".."} & set(rest.split("/"))
    if scheme in {"http", "https"}:
        assert rest.endswith(("/", ".tar"))
        assert rest.partition("/")[2]


def _refuses_password(parse: Callable[[str], object], text: str) -> None:
    try:
        parse(text)
    except InvalidReference as error:
        assert SECRET not in "".join(traceback.format_exception(error)), error
    else:
        raise AssertionError(text)


def _check_redacted(planted: str) -> None:
    shown = redact(planted)
    assert SECRET not in shown, shown
    try:
        follow("https://registry.example/v2/x", planted, what="redirects to")
    except Unsafe as error:
        assert SECRET not in refused(error, url=planted)


def _written(challenges: list[AuthChallenge]) -> str:
    def quoted(value: str) -> str:
        return '"' + value.replace("\\", r"\\").replace('"', r"\"") + '"'

    return ", ".join(
        f"{one.scheme} {', '.join(f'{name}={quoted(value)}' for name, value in one.params.items())}"
        for one in challenges
    )


def _check_document(found: Manifest | Index | ImageConfig, data: bytes) -> None:
    assert data == found.raw
    assert len(data) == found.size
    assert f"sha256:{hashlib.sha256(data).hexdigest()}" == str(found.digest)
    assert load_json(data) == found.fields
    assert found == pickle.loads(pickle.dumps(found))
    assert repr(found).isprintable()
    assert len(repr(found)) <= MAX_MESSAGE
    entries: tuple[Descriptor, ...] = ()
    if isinstance(found, Manifest):
        entries = (found.config, *found.layers)
    elif isinstance(found, Index):
        entries = found.manifests
        _check_selection(found)
    for entry in entries:
        assert entry == Descriptor.from_fields(entry.to_fields())
        assert repr(entry).isprintable()
        assert len(repr(entry)) <= MAX_MESSAGE
    _check_html(found._repr_html_())


def _check_selection(found: Index) -> None:
    for wanted in (Platform("linux", "amd64"), Platform("linux", "arm64", "v8"), Platform("windows", "amd64")):
        try:
            chosen = found.select(wanted)
        except PlatformNotFound as error:
            refused(error)
        else:
            assert chosen in found.manifests


class _Elements(HTMLParser):
    """Refuses every element and attribute that is not among those distsdk shows values with."""

    allowed = frozenset(
        {"div", "span", "table", "thead", "tbody", "tr", "td", "th", "details", "summary", "code", "style"}
        | {"p", "em", "strong"}
    )

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.allowed, tag
        assert {name for name, _ in attrs} <= {"class", "title", "open", "colspan", "scope", "style"}, attrs

    def handle_comment(self, data: str) -> None:
        raise AssertionError(data)

    def handle_pi(self, data: str) -> None:
        raise AssertionError(data)


def _check_html(html: str) -> None:
    """What a notebook shows has no element that came from outside."""
    # The style sheet is long, ours, and the same every time.
    parser = _Elements()
    parser.feed(re.sub(r"<style>.*?</style>", "", html, count=1, flags=re.DOTALL))
    parser.close()


# --- layers ----------------------------------------------------------------------------------------------------------

_BLOCK = 512


def layer_tar(data: bytes) -> None:
    """An archive is read the same however its chunks are cut, what is stored is where its members say, in bounds."""
    _check_archive(data)
    # Few inputs have headers whose sums are right, and an end.
    blocks = [data[at : at + _BLOCK].ljust(_BLOCK, b"\0") for at in range(0, len(data), _BLOCK)]
    _check_archive(b"".join(_signed(block) if block[257:262] == b"ustar" else block for block in blocks) + bytes(1024))


def _signed(header: bytes) -> bytes:
    total = sum(header[:148]) + 8 * 32 + sum(header[156:])
    return header[:148] + b"%06o\0 " % total + header[156:]


def _check_archive(data: bytes) -> None:
    limits = LayerLimits(output=1 << 20, members=1000, path=300, header=1 << 16, headers=1 << 18)
    whole = _read_archive([data], limits)
    assert whole == _read_archive([data[at : at + 777] for at in range(0, len(data), 777)], limits)
    vouched_for = _read_archive([data], limits, vouched_for=True)
    # Without its end it may be taken where a digest vouches for it; nothing else is read in another way.
    assert whole == vouched_for or (isinstance(whole, str) and "truncated" in whole)
    if isinstance(whole, str):
        return
    end = 0
    for member, stored in whole:
        assert end <= member.offset
        end = member.offset + member.stored
        assert stored == data[member.offset : end]
        assert 0 < len(member.path) <= limits.path >= len(member.link)
        assert b"\0" not in member.path + member.link + member.uname + member.gname
        assert 0 <= member.mode <= 0o7777
        assert max(member.uid, member.gid) < 2**32 - 1
        assert abs(member.mtime) < 2**63
        assert member.stored <= member.size <= limits.output
        assert sum(length for _, length in member.parts) == (member.stored if member.parts else 0)
        assert all(a + length <= b for (a, length), (b, _) in zip(member.parts, member.parts[1:], strict=False))
        _check_place(member.path)


def _read_archive(
    chunks: list[bytes], limits: LayerLimits, *, vouched_for: bool = False
) -> list[tuple[LayerMember, bytes]] | str:
    """Return the members of an archive and what is stored of them, or the message of the error."""
    try:
        members = read_tar(chunks, limits=limits, vouched_for=vouched_for)
        return [(member, b"".join(content)) for member, content in members]
    except (MalformedDocument, LimitExceeded) as error:
        return refused(error)


def _check_place(path: bytes) -> None:
    try:
        role, folder, name = place(path)
    except Unsafe as error:
        refused(error)
        return
    names = [part for part in (*folder.split(b"/"), name) if part]
    assert not {b".", b".."} & {*names}
    assert b"/" not in name
    assert (folder + b"/" + name).strip(b"/") == b"/".join(names)
    assert role is Role.ENTRY or b".wh." in path


def layer_toc(data: bytes) -> None:
    """A table of contents has chunks without gaps or overlaps, inside the layer; wrong chunks are refused."""
    try:
        place = locate({}, len(data), lambda start, end: data[start:end])
    except (MalformedDocument, LimitExceeded) as error:
        refused(error)
    else:
        if place is not None:
            _check_toc(place, data[place.start : place.end])
    # Few inputs have a footer, and are packed. These are the layer's last bytes, after 10,000 of files.
    info = tarfile.TarInfo("stargz.index.json")
    info.size = len(data)
    packer = zlib.compressobj(0, zlib.DEFLATED, 31)
    packed = packer.compress(info.tobuf() + data) + packer.flush()
    _check_toc(TocLocation("gzip", 10_000, 10_000 + len(packed), None), packed)
    _check_toc(TocLocation("gzip", 10_000, 10_000 + len(packed), Digest.of(data)), packed)
    try:
        read_toc(TocLocation("gzip", 10_000, 10_000 + len(packed), Digest.of(data + b"x")), lambda *_: packed)
    except DigestMismatch as error:
        refused(error)
    else:
        raise AssertionError


def _check_toc(place: TocLocation, packed: bytes) -> None:
    try:
        found = read_toc(place, lambda *_: packed)
    except (MalformedDocument, LimitExceeded) as error:
        refused(error)
        return
    assert found.verified is (place.digest is not None)
    files = {member.path: member for member in found.members}
    assert len(files) == len(found.members)
    assert found.tiles.keys() == {m.path for m in found.members if m.kind is Kind.FILE and m.size}
    for member in found.members:
        assert 0 < len(member.path) <= 4096
        assert b"\0" not in member.path + member.link
        assert 0 <= member.mode <= 0o7777
        assert max(member.uid, member.gid) < 2**32 - 1
        assert abs(member.mtime) < 2**63
        assert member.size == member.stored >= 0
        _check_place(member.path)
        try:
            found.digest(member.path)
        except MalformedDocument as error:
            refused(error)
    _check_chunks(found, place)


def _check_chunks(found: Toc, place: TocLocation) -> None:
    extents = set()
    for member in found.members:
        at = 0
        for chunk in found.chunks(member.path):
            assert at == chunk.offset
            assert 0 < chunk.size
            at += chunk.size
            if chunk.zeros:
                continue
            assert 0 < chunk.start < chunk.end <= place.start
            extents.add((chunk.start, chunk.end))
            try:
                unpacked = unpack_chunk(chunk, zlib.compress(b"other bytes", wbits=31), found.compression)
            except (IntegrityError, MalformedDocument) as error:
                refused(error)
            else:
                assert chunk.digest in {None, str(Digest.of(unpacked)), str(Digest.of(unpacked, "sha512"))}
        assert at == member.size
    for (begin, end), (start, _) in itertools.pairwise(sorted(extents)):
        assert end <= start or begin == start


def layer_index_(data: bytes) -> None:
    """An index is read back as it is written; whoever writes a right checksum around nonsense gets an error."""
    _check_index(data)
    before = layer_index._MAGIC + struct.pack("<I", layer_index.VERSION)
    _check_index(before + hashlib.sha256(data).digest() + data)
    # Few inputs are whole: here members, names, spans and windows are lines of the input, the head is what fits.
    rows, texts, spans, windows = (data.split(b"\n", 3) + [b""] * 3)[:4]
    sections = [(zlib.compress(raw), len(raw)) for raw in (rows, texts, spans)] + [(windows, len(windows))]
    head = {
        "digest": str(_ANY_LAYER),
        "size": 10_000,
        "diffID": str(_ANY_LAYER),
        "way": "gzip",
        "members": len(rows) // layer_index._MEMBER.size,
        "spans": len(spans) // layer_index._SPAN.size,
        "sections": [[len(packed), size] for packed, size in sections],
    }
    raw = json.dumps(head).encode()
    body = struct.pack("<I", len(raw)) + raw + b"".join(packed for packed, _ in sections)
    _check_index(before + hashlib.sha256(body).digest() + body)


_ANY_LAYER = Digest.of(b"any layer")


def _check_index(data: bytes) -> None:
    try:
        found = layer_index.SeekIndex.from_bytes(data, _ANY_LAYER)
    except MalformedDocument as error:
        refused(error)
        return
    assert found.digest == _ANY_LAYER
    assert found == layer_index.SeekIndex.from_bytes(found.to_bytes(), _ANY_LAYER)
    start = 0
    for number, span in enumerate(found.spans):
        assert start == span.start
        start += span.size
        try:
            found.unpack(number, b"other bytes")
        except IntegrityError as error:
            refused(error)
        else:
            raise AssertionError


_LAYER_TAR = (
    *("ustar", "ustar  ", "path=", "linkpath=", "size=", "uid=", "mtime=-1.5", "SCHILY.xattr.user.a=", "hdrcharset="),
    *("GNU.sparse.major=1", "GNU.sparse.minor=0", "GNU.sparse.realsize=", "GNU.sparse.map=0,1", "GNU.sparse.size="),
    *("../", "./", "/", ".wh.", ".wh..wh..opq", "00000000000"),
)
_EVIDENCE = (
    *('"_type":"https://in-toto.io/Statement/v1"', '"predicateType":', '"subject":[', '"digest":{', '"predicate":{'),
    *('"payloadType":', '"payload":', '"signatures":[{"sig":', '"spdxVersion":"SPDX-2.3"', '"packages":[', '"name":'),
    *('"versionInfo":', '"licenseConcluded":', '"externalRefs":[', '"bomFormat":"CycloneDX"', '"specVersion":"1.6"'),
    *('"components":[', '"purl":', '"licenses":[', '"license":{', '"expression":', '"metadata":{"component":{'),
)
_TOC = (
    *('"version":1', '"entries":[', '"name":', '"type":', '"reg"', '"chunk"', '"dir"', '"symlink"', '"hardlink"'),
    *('"char"', '"fifo"', '"size":', '"offset":', '"endOffset":', '"innerOffset":', '"chunkOffset":', '"chunkSize":'),
    *('"chunkDigest":', '"digest":', '"chunkType":"zeros"', '"linkName":', '"modtime":', '"2026-07-11T00:00:00Z"'),
    *('"mode":', '"uid":', '"devMajor":', '"xattrs":{', '"userName":', "sha256:", "STARGZ", "GnUlInUx"),
)
_JSON = ("{", "}", "[", "]", ":", ",", '"', "null", "true", "1e999", "NaN", "\\ud800", "\\u0000", "\ufeff")
_MEDIA = tuple(f'"{media}"' for media in sorted(DOCUMENTS))
_DOCUMENT = (
    *_JSON,
    *_MEDIA,
    *(
        f'"{key}":'
        for key in (
            *("schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers", "annotations", "subject"),
            *("digest", "size", "platform", "os", "architecture", "variant", "os.version", "os.features"),
            *("urls", "data", "artifactType", "rootfs", "diff_ids", "history", "created", "created_by", "empty_layer"),
            *("Env", "Cmd", "Entrypoint", "Labels", "ExposedPorts", "Volumes", "User", "WorkingDir", "StopSignal"),
        )
    ),
)
_NAMES = (
    "docker.io",
    "index.docker.io",
    "library/",
    "localhost",
    ":5000",
    "[::1]",
    "@",
    "sha256:",
    "oci:",
    "://",
    "..",
    "./",
    "~",
    "s3://",
    "https://",
    ".tar",
)
_AUTH_FILE = tuple(
    f'"{key}"'
    for key in (
        *("auths", "auth", "username", "password", "identitytoken", "registrytoken", "credHelpers", "credsStore"),
        *("docker.io", "https://index.docker.io/v1/", "localhost:5000", "dXNlcjpwYXNz", f"user{LOGIN}h"),
    )
)
_HOSTS = (
    *(
        "server = ",
        "[host.",
        '"https://',
        '"]\n',
        "capabilities = [",
        '"pull"',
        '"resolve"',
        '"push"',
        "ca = ",
        "client = [",
    ),
    *(
        "skip_verify = true",
        "override_path = true",
        "dial_timeout = ",
        '"500ms"',
        ".header]\n",
        "header = {",
        "realms = [",
    ),
    *(
        "remote = ",
        "url = ",
        '"""',
        "'''",
        "#",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        ".",
        "1979-05-27T07:32:00Z",
        "\\u0000",
        LOGIN,
    ),
)
_HEADER_LINE = 64 * 1024
_DOCUMENT_LENGTH = 256 * 1024

TARGETS = {
    "locator": Target(locator, _HEADER_LINE, _NAMES),
    "reference": Target(reference, _HEADER_LINE, _NAMES),
    "object": Target(object_, _HEADER_LINE, ("@", "sha256:", "sha512:", "latest")),
    "hint": Target(hint, _HEADER_LINE, ("mediatype:", "size:", "platform:", "application/", "linux/")),
    "digest": Target(digest, _HEADER_LINE, ("sha256:", "sha384:", "sha512:", "0123456789abcdef")),
    "platform": Target(platform, _HEADER_LINE, ("linux", "windows(", "arm64", "amd64", "v8.1", "/", "+", "%2F", ")")),
    "media_type": Target(media_type, _HEADER_LINE, ("application/", "vnd.oci.image", "+json", "; charset=utf-8")),
    "challenge": Target(challenge, _HEADER_LINE, ("Bearer ", "Basic ", 'realm="', "service=", 'scope="', "\\", ", ")),
    "token_reply": Target(token_reply, _HEADER_LINE, ('"token":', '"access_token":', '"expires_in":', *_JSON)),
    "link": Target(link, _HEADER_LINE, ("<", ">", ";", "rel=", '"next"', "next", ", ", '\\"', "title=")),
    "content_range": Target(content_range, _HEADER_LINE, ("bytes ", "0-", "/", "*", "99999999999999999999")),
    "retry_after": Target(retry_after, _HEADER_LINE, ("Mon, ", " Jan ", "GMT", "+0000", "1994", "08:49:37")),
    "url": Target(url, _HEADER_LINE, ("https://", "http://", "file:", "@", "?", "#", "%", "[::1]", "..", "//", ":0")),
    "auth_file": Target(auth_file, _DOCUMENT_LENGTH, (*_AUTH_FILE, *_JSON)),
    "hosts": Target(hosts, _HEADER_LINE, _HOSTS),
    "json": Target(json_, _DOCUMENT_LENGTH, _JSON),
    "document": Target(document, _DOCUMENT_LENGTH, _DOCUMENT),
    "image_config": Target(image_config, _DOCUMENT_LENGTH, _DOCUMENT),
    "evidence": Target(evidence, _DOCUMENT_LENGTH, (*_JSON, *_EVIDENCE)),
    "layer_tar": Target(layer_tar, _DOCUMENT_LENGTH, _LAYER_TAR),
    "layer_toc": Target(layer_toc, _DOCUMENT_LENGTH, (*_JSON, *_TOC)),
    "layer_index": Target(layer_index_, _DOCUMENT_LENGTH, (*_JSON, '[{"user.a":"b"},[[0,5]]]')),
    "tar": Target(
        tar, _DOCUMENT_LENGTH, ("ustar\x0000", "ustar  \x00", "././@LongLink", "path=", "linkpath=", "size=")
    ),
    "saved_images": Target(saved_images, _DOCUMENT_LENGTH, (*_JSON, '"Config":', '"RepoTags":', '"Layers":')),
}
