"""What `docs/security.md` promises and no other test shows: who gets a login, and who does not, side by side."""

from __future__ import annotations

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

import distsdk
from distsdk import Credentials, Hosts, Retry, Timeouts
from distsdk.errors import InvalidDigest, LimitExceeded, NotFound, RegistryError, Unreachable, Unsafe
from distsdk.spec.media_types import DOCKER_FOREIGN_LAYER_GZIP
from distsdk.testing import Cut, Fault, Redirect, Registry, Stall, Status
from distsdk.transport.auth import basic_authorization
from distsdk.transport.client import Transport
from distsdk.transport.credentials import Login
from distsdk.transport.hosts import Endpoint
from distsdk.transport.origin import Origin, follow
from distsdk.transport.response import parse_retry_after
from distsdk.transport.settings import Limits

from ...support import HANGS

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from tests.unit.transport.conftest import Ask, Asked, MakeTransport, Peer, Reply, Serve

RAW = b"the bytes"
TOKEN = b'{"token": "t"}'
LOGIN = Login("ann", "planted", source="the test")
BASIC = basic_authorization("ann", "planted")


def made(url: str, login: Login | None = LOGIN, *realms: str, headers: dict[str, str] | None = None) -> Transport:
    """Make a transport with a login."""
    return Transport(
        Endpoint(url, headers=headers or {}),
        hosts=Hosts(),
        login=lambda: login,
        realms=frozenset(map(Origin.of, realms)),
        retry=Retry(attempts=1),
        timeouts=Timeouts(5, 5, 5),
        limits=Limits(),
    )


def at(peer: Peer, path: str) -> list[str | None]:
    """The Authorization headers of the requests for a path."""
    return [asked.headers.get("authorization") for asked in peer.asked if asked.target.startswith(path)]


def guarded(serve: Serve, reply: Reply, realms: dict[str, str]) -> Peer:
    """A registry that wants a token for each path, from the realm named here, and gives tokens itself.

    Args:
        serve: Starts it.
        reply: Writes its answers.
        realms: By the beginning of a path; ``{own}`` stands for the registry.
    """

    def answer(asked: Asked, stream: socket.socket) -> bool:
        if asked.target.startswith("/token"):
            stream.sendall(reply(200, TOKEN))
        elif asked.headers.get("authorization") == "Bearer t":
            stream.sendall(reply(200, RAW))
        else:
            [realm] = [realm for path, realm in realms.items() if asked.target.startswith(path)]
            stream.sendall(reply(401, WWW_Authenticate=f'Bearer realm="{realm.format(own=peer.url)}"'))
        return True

    peer = serve(answer)
    return peer


def test_a_login_is_for_the_registrys_own_token_service(serve: Serve, reply: Reply, ask: Ask) -> None:
    """A realm elsewhere is asked without it, unless the user said that it is the registry's; that at home is given it.

    What the realm elsewhere is told instead is nothing.
    """
    stranger, friend = serve(reply(200, TOKEN)), serve(reply(200, TOKEN))
    realms = {"/v2/a/": f"{stranger.url}/token", "/v2/b/": f"{friend.url}/token", "/v2/c/": "{own}/token"}
    registry = guarded(serve, reply, realms)
    transport = made(registry.url, LOGIN, friend.url)
    for name in ("a", "b", "c"):
        assert RAW == ask(transport, f"/v2/{name}/manifests/1", f"repository:{name}:pull")
    assert ([None], [BASIC], [BASIC]) == (stranger.authorizations, friend.authorizations, at(registry, "/token"))
    assert [None, "Bearer t"] * 3 == at(registry, "/v2/")


def test_a_redirect_of_the_token_service_goes_without_the_login(serve: Serve, reply: Reply, ask: Ask) -> None:
    """The token service that the login belongs to gets it, and the place where that leads does not."""
    elsewhere = serve(reply(200, TOKEN))
    service = serve(reply(307, Location=f"{elsewhere.url}/token"))
    registry = guarded(serve, reply, {"/v2/": f"{service.url}/token"})
    assert RAW == ask(made(registry.url, LOGIN, service.url))
    assert ([BASIC], [None]) == (service.authorizations, elsewhere.authorizations)


def test_an_identity_token_is_not_redirected(serve: Serve, reply: Reply, ask: Ask) -> None:
    """It is in the body of a POST, which its token service got and nobody else gets."""
    elsewhere = serve(reply(200, TOKEN))
    location = reply(307, Location=f"{elsewhere.url}/token")
    service = serve(lambda _, stream: stream.sendall(location))  # the connection ends, as its body is not read
    registry = guarded(serve, reply, {"/v2/": f"{service.url}/token"})
    with pytest.raises(Unsafe, match="redirects a request with a login"):
        ask(made(registry.url, Login(identity_token="planted", source="the test"), service.url))
    assert (["POST"], []) == ([asked.method for asked in service.asked], elsewhere.asked)


def test_an_endpoints_headers_stay_with_it(serve: Serve, reply: Reply, ask: Ask) -> None:
    """Headers that the user configured for an endpoint may be secrets: it gets them, a redirect's target does not."""
    there = serve(reply(200, RAW))
    here = serve(reply(307, Location=f"{there.url}/data"))
    assert RAW == ask(made(here.url, None, headers={"X-Key": "planted"}))
    assert ["planted"] == [asked.headers.get("x-key") for asked in here.asked]
    assert [None] == [asked.headers.get("x-key") for asked in there.asked]


@pytest.mark.parametrize(
    "other",
    [
        "http://r.example:5000",
        "https://r.example",
        "https://r.example:443",
        "https://x.r.example:5000",
        "https://r:5000",
    ],
)
def test_scheme_host_and_port_make_an_origin(other: str) -> None:
    """Each of them alone makes another one; how they are written does not."""
    own = Origin.of("https://r.example:5000/v2/x")
    assert own != Origin.of(other)
    assert own == Origin.of("HTTPS://R.Example:5000/y?z")


@pytest.mark.parametrize(
    "headers",
    [b"X: " + b"y" * 70_000, b"\r\n".join(b"X-%d: " % n + b"y" * 1000 for n in range(70))],
    ids=["one", "many"],
)
def test_headers_are_bounded(serve: Serve, transport: MakeTransport, ask: Ask, headers: bytes) -> None:
    """64 KiB of them in all: one that is longer, or several together."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n" + headers + b"\r\n\r\n" + RAW
    with pytest.raises(LimitExceeded, match="headers") as caught:
        ask(transport(serve(answer).url))
    assert 64 * 1024 == caught.value.limit


@pytest.mark.parametrize("text", ["sha256:../../../etc/passwd", "sha256:", f"sha256:{'A' * 64}", f"md5:{'a' * 32}"])
def test_what_is_no_digest_is_not_asked_for(text: str) -> None:
    """It is refused before there is a URL that it could become part of."""
    with Registry() as registry:
        remote = distsdk.connect(registry.locator("x"), credentials=Credentials.anonymous(), hosts=Hosts())
        for name in (text, f"1@{text}"):
            with pytest.raises(InvalidDigest):
                remote.fetch(name)
        assert 0 == registry.count()


def test_a_layers_urls_are_not_asked(serve: Serve, reply: Reply) -> None:
    """What a manifest names as another place of a layer gets no request, also where the registry lacks the layer."""
    other = serve(reply(200, RAW))
    with Registry() as registry:
        remote = distsdk.connect(registry.locator("x"), credentials=Credentials.anonymous(), hosts=Hosts())
        digest = distsdk.Digest.of(RAW)
        layer = distsdk.Descriptor(DOCKER_FOREIGN_LAYER_GZIP, digest, len(RAW), urls=(f"{other.url}/layer",))
        with pytest.raises(NotFound):
            remote.fetch(layer).read()
        assert registry.count() > 0
        registry.add_blob("x", RAW)
        assert RAW == remote.fetch(layer).read()
    assert [] == other.asked


@pytest.mark.parametrize(
    "target",
    [
        "/v2/y/blobs/{}",
        "/v2/x/../y/blobs/{}",
        "/v2/x/%2e%2e/y/blobs/{}",
        "//{host}/v2/xx/blobs/{}",
        "/v2//y/blobs/{}",
        "/v2/_catalog",
        "/v2/x",
    ],
)
def test_a_redirect_into_another_repository_is_not_followed(target: str) -> None:
    """A registry that has a token for one repository may not have it shown for another one."""
    digest = distsdk.Digest.of(RAW)
    with Registry(auth="bearer") as registry:
        for name in ("x", "y", "xx"):
            registry.add_blob(name, RAW)
        registry.fault(Redirect(target.format(digest, host=registry.host)), path="/v2/x/blobs/", times=1)
        remote = distsdk.connect(registry.locator("x"), credentials=Credentials.anonymous(), hosts=Hosts())
        with pytest.raises(Unsafe, match="outside the repository"):
            remote.fetch(digest).read()
        assert {f"/v2/x/blobs/{digest}"} == {r.path for r in registry.requests if r.path.startswith("/v2/")}
        assert RAW == remote.fetch(digest).read()


@pytest.mark.parametrize("target", ["/v2/x/blobs/{}?again", "/v2/x/blobs/uploads/../{}", "/storage/{}"])
def test_a_redirect_at_home_is_followed(target: str) -> None:
    """To another place of the repository, or to where the registry keeps its files."""
    digest = distsdk.Digest.of(RAW)
    with Registry() as registry:
        registry.add_blob("x", RAW)
        registry.fault(Redirect(target.format(digest)), path="/v2/x/blobs/", times=1)
        registry.fault(Status(200, RAW), path="/storage/")
        remote = distsdk.connect(registry.locator("x"), credentials=Credentials.anonymous(), hosts=Hosts())
        assert RAW == remote.fetch(digest).read()


def test_the_case_of_a_scheme_hides_no_downgrade() -> None:
    """A URL that is written with HTTPS leads to https only."""
    url = follow("https://r.example", "HTTPS://auth.example/token", what="names", relative=False)
    assert url == "https://auth.example/token"
    for base in (url, "HTTPS://auth.example/token"):
        with pytest.raises(Unsafe):
            follow(base, "http://plain.example/", what="redirects to")


def test_trailers_are_bounded(serve: Serve) -> None:
    """Header lines after the last chunk of a body count like those before it."""

    def answer(_: Asked, stream: socket.socket) -> bool:
        stream.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n")
        with contextlib.suppress(OSError):
            for _batch in range(100):
                stream.sendall(b"X: y\r\n" * 10_000)
        return False

    reply = made(serve(answer).url).request("GET", "/v2/x/blobs/1", scope="")
    assert b"hello" == reply.read(5)
    with pytest.raises(LimitExceeded):
        reply.read(1024)


def test_a_missing_token_service_is_no_missing_blob() -> None:
    """Its 404 is told as its own, after one request."""
    with Registry(auth="bearer") as registry:
        digest = registry.add_blob("x", RAW).digest
        registry.fault(Status(404), path="/token")
        remote = distsdk.connect(registry.locator("x"), credentials=Credentials.anonymous(), hosts=Hosts())
        with pytest.raises(RegistryError, match="/token"):
            remote.fetch(digest).read()
        assert 1 == registry.count(path="/token")


@pytest.mark.parametrize("fault", [Cut(0), Cut(5000), Stall(5000)])
def test_a_mirror_that_breaks_at_once_is_passed_over(tmp_path: Path, fault: Fault) -> None:
    """Where a mirror answers, and gives no bytes, the registry is asked."""
    data = RAW * 10_000
    with Registry() as registry, Registry(content_of=registry) as mirror:
        registry.add_blob("x", data)
        (tmp_path / registry.host).mkdir()
        (tmp_path / registry.host / "hosts.toml").write_text(f'[host."{mirror.url}"]\ncapabilities = ["pull"]')
        mirror.fault(fault)
        remote = distsdk.connect(
            registry.locator("x"),
            credentials=Credentials.anonymous(),
            hosts=Hosts(hosts_dir=tmp_path),
            timeouts=Timeouts(5, 0.2, 10),
        )
        assert data == remote.fetch(distsdk.Digest.of(data), f"size:{len(data)}").read()
        assert (1, 1) == (mirror.count(), registry.count())


def test_odd_dates_ask_for_no_wait() -> None:
    """A date that no clock reaches, without a zone, is read as UTC or not at all."""
    assert parse_retry_after("Fri, 31 Dec 9999 23:59:59 -0000") != 0
    assert 0 == parse_retry_after("Thu, 01 Jan 1970 00:00:00 -0000")


def test_bytes_that_came_twice_stay_unverified() -> None:
    """Read again after a seek they may be others: that the first ones were right says nothing of them."""
    data = bytes(range(256)) * 1000
    with Registry() as registry:
        digest = registry.add_blob("x", data).digest
        remote = distsdk.connect(registry.locator("x"), credentials=Credentials.anonymous(), hosts=Hosts())
        with remote.fetch(digest, f"size:{len(data)}").open() as file:
            file.read(3000)
            file.seek(1000)
            file.read(5000)
            while file.read(64 * 1024):
                pass
            trusts = [file.trust]
            file.seek(0)
            while file.read(64 * 1024):
                pass
            assert ["unverified", "verified"] == [*trusts, file.trust]


def test_headers_that_cannot_be_read_are_refused_and_not_logged(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    """A line without a colon ends it; nobody's log holds the URL, which may be signed."""
    cdn = serve(b"HTTP/1.1 200 OK\r\nA: b\r\nno colon\r\nContent-Length: 2\r\n\r\nhi")
    home = serve(f"HTTP/1.1 307 -\r\nLocation: {cdn.url}/x?sig=planted\r\nContent-Length: 0\r\n\r\n".encode())
    with pytest.raises(Unreachable, match=f"{cdn.host}/x.*headers"):
        made(home.url).request("GET", "/v2/x/blobs/1", scope="")
    assert 1 == len(cdn.asked)
    assert "planted" not in caplog.text


def test_early_hints_are_passed_over(serve: Serve) -> None:
    """The answer comes after them (RFC 8297), and too many are too many headers."""
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"
    peer = serve(hints * 2 + b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")
    assert b"hi" == made(peer.url).request("GET", "/v2/x/blobs/1", scope="").read(9)
    with pytest.raises(LimitExceeded):
        made(serve(hints * 10_000).url).request("GET", "/v2/x/blobs/1", scope="")


def test_a_chunk_of_negative_size_is_an_error(serve: Serve) -> None:
    """No read returns more than it was asked for."""
    peer = serve(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n" + b"E" * 9000)
    with pytest.raises(Unreachable):
        made(peer.url).request("GET", "/v2/x/blobs/1", scope="").read(10)


def test_a_part_is_no_document(serve: Serve) -> None:
    """A document is taken from a 200, and from no 206 that nobody asked for."""
    head = b"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 0-1/4\r\nContent-Length: 2\r\n"
    peer = serve(head + b"Content-Type: application/vnd.oci.image.manifest.v1+json\r\n\r\n{}")
    remote = distsdk.connect(f"{peer.host}/x", credentials=Credentials.anonymous(), hosts=Hosts())
    with pytest.raises(RegistryError, match="206"):
        remote.fetch("1")


def test_a_hundred_headers_are_enough(serve: Serve) -> None:
    """More are refused, and by that name."""
    peer = serve(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 101 + b"Content-Length: 0\r\n\r\n")
    with pytest.raises(LimitExceeded, match="headers"):
        made(peer.url).request("GET", "/v2/x/blobs/1", scope="")


def test_who_closes_a_stream_says_nothing_of_the_mirror(tmp_path: Path) -> None:
    """A read that was ended from here is no break: the next blob comes from the mirror too."""
    with Registry() as registry, Registry(content_of=registry) as mirror:
        first, second = (registry.add_blob("x", raw).digest for raw in (RAW, RAW * 2))
        (tmp_path / registry.host).mkdir()
        (tmp_path / registry.host / "hosts.toml").write_text(f'[host."{mirror.url}"]\ncapabilities = ["pull"]')
        remote = distsdk.connect(
            registry.locator("x"), credentials=Credentials.anonymous(), hosts=Hosts(hosts_dir=tmp_path)
        )
        mirror.fault(Stall(after=0, seconds=10), times=1)
        stream = remote.fetch(first)._source.open(0, None)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(stream.read, 10)
            time.sleep(0.2)
            assert not reading.done()
            stream.shutdown()  # type: ignore[attr-defined] # of streams over HTTP
            reading.exception(HANGS)  # at once, or by an urllib3 older than 2.3 when the bytes come
        assert RAW * 2 == remote.fetch(second).read()
        assert 0 == registry.count()
