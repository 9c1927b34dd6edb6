"""Redirects: where they may lead, and what goes along."""

from __future__ import annotations

import contextlib
import gzip
from typing import TYPE_CHECKING
from urllib.parse import unquote_to_bytes, urlsplit

import pytest
import urllib3.response

from distsdk.errors import DistError, RegistryError, Unsafe
from distsdk.testing import Redirect, Registry
from distsdk.transport.client import MAX_REDIRECTS
from distsdk.transport.hosts import Hosts

if TYPE_CHECKING:
    import socket

    from tests.unit.transport.conftest import Ask, Asked, Authority, MakeTransport, Reply, Serve

RAW = b"the bytes"
PATH = "/v2/x/manifests/1"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_every_kind_of_redirect_is_followed(
    serve: Serve, reply: Reply, transport: MakeTransport, code: int, method: str
) -> None:
    """The method stays what it was, and the answer knows where it came from and what was asked for."""
    there = serve(reply(200, RAW) if method == "GET" else reply(200, Content_Length=str(len(RAW))))
    here = serve(reply(code, Location=f"{there.url}/elsewhere?x=y"))
    answer = transport(here.url).request(method, PATH, scope="")
    assert (200, len(RAW)) == (answer.status, answer.content_length)
    assert (f"{there.url}/elsewhere?x=y", PATH) == (answer.url, urlsplit(answer.asked).path)
    assert [(method, "/elsewhere?x=y")] == [(asked.method, asked.target) for asked in there.asked]
    answer.close()


@pytest.mark.parametrize("location", ["/v2/y", "../../y", "//{host}/v2/y", "{url}/v2/y"])
def test_relative_redirects_stay(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, location: str) -> None:
    """A Location is resolved against the URL that was asked."""

    def answer(asked: Asked, stream: socket.socket) -> bool:
        there = asked.target != PATH
        stream.sendall(reply(200, RAW) if there else reply(307, Location=location.format(host=peer.host, url=peer.url)))
        return True

    peer = serve(answer)
    assert RAW == ask(transport(peer.url))
    assert [PATH, "/v2/y"] == [asked.target for asked in peer.asked]


@pytest.mark.parametrize("raw", [b"/caf\xc3\xa9", b"/caf\xe9", b"/\xd0\xbd\xd0\xbe", b"/a%20b?\x80=\xff"])
def test_a_redirect_that_is_not_ascii(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, raw: bytes
) -> None:
    """Bytes that a URI cannot have are asked for as they came, percent-encoded, whatever they stand for."""
    peer = serve(reply(200, RAW))
    here = serve(reply(307, Location=peer.url + raw.decode("latin-1")))
    assert RAW == ask(transport(here.url))
    [asked] = peer.asked
    assert raw.replace(b"%20", b" ") == unquote_to_bytes(asked.target)
    assert asked.target.isascii()


def test_authorization_does_not_leave_the_registry(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask
) -> None:
    """A redirect to another port or another host goes without the token, which the registry itself did get."""
    cdn = serve(reply(200, RAW))
    port = cdn.host.rpartition(":")[2]
    for target in (f"http://127.0.0.1:{port}/data", f"http://localhost:{port}/data"):
        with Registry(auth="bearer") as registry:
            registry.add_manifest("x", RAW, "application/json", tags=["1"])
            registry.fault(Redirect(target), path="/v2/")
            assert RAW == ask(transport(registry.url))
            sent = [request.headers.get("Authorization", "") for request in registry.requests]
        assert [False, False, True] == [text.startswith("Bearer ") for text in sent]
    assert [None, None] == cdn.authorizations


def test_another_scheme_on_the_same_host_is_another_origin(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, authority: Authority
) -> None:
    """From http to https is allowed, and the token stays behind."""
    secure = serve(reply(200, RAW), authority.context)

    def answer(asked: Asked, stream: socket.socket) -> bool:
        if asked.target.startswith("/token"):
            stream.sendall(reply(200, b'{"token": "t"}'))
        elif "authorization" in asked.headers:
            stream.sendall(reply(307, Location=f"{secure.url}/data"))
        else:
            stream.sendall(reply(401, WWW_Authenticate=f'Bearer realm="{peer.url}/token"'))
        return True

    peer = serve(answer)
    assert RAW == ask(transport(peer.url, hosts=Hosts(ca_file=authority.file)))
    assert [None, None, "Bearer t"] == peer.authorizations
    assert [None] == secure.authorizations


def test_authorization_stays_on_the_registry(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask) -> None:
    """Within the registry's origin a redirect takes the token along, also after a way round through elsewhere."""

    def answer(asked: Asked, stream: socket.socket) -> bool:
        if asked.target.startswith("/token"):
            stream.sendall(reply(200, b'{"token": "t"}'))
        elif "authorization" not in asked.headers:
            stream.sendall(reply(401, WWW_Authenticate=f'Bearer realm="{peer.url}/token"'))
        elif asked.target == PATH:
            stream.sendall(reply(307, Location="/v2/x/again"))
        elif asked.target == "/v2/x/again":
            stream.sendall(reply(307, Location=f"{round_about.url}/"))
        else:
            stream.sendall(reply(200, RAW))
        return True

    peer = serve(answer)
    round_about = serve(reply(307, Location=f"{peer.url}/v2/x/back"))
    assert RAW == ask(transport(peer.url))
    assert [None, None, "Bearer t", "Bearer t", "Bearer t"] == peer.authorizations
    assert [None] == round_about.authorizations


def test_a_challenge_from_elsewhere_is_not_met(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask) -> None:
    """A host that a redirect leads to can ask for a token as it likes: no token service is asked."""
    service = serve(reply(200, b'{"token": "t"}'))
    there = serve(reply(401, WWW_Authenticate=f'Bearer realm="{service.url}/token"'))
    here = serve(reply(307, Location=f"{there.url}/data"))
    with pytest.raises(DistError, match="401"):
        ask(transport(here.url))
    assert (1, []) == (len(there.asked), service.asked)


def test_from_https_to_http_is_refused(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, authority: Authority
) -> None:
    """A redirect may not take TLS away: where it leads gets no request."""
    plain = serve(reply(200, RAW))
    registry = serve(reply(307, Location=f"{plain.url}/data"), authority.context)
    with pytest.raises(Unsafe, match="from https to http"):
        ask(transport(registry.url, hosts=Hosts(ca_file=authority.file)))
    assert (1, []) == (len(registry.asked), plain.asked)


def test_a_token_service_may_redirect_and_not_lose_tls(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, authority: Authority
) -> None:
    """The rules hold for the token service too."""
    plain = serve(reply(200, b'{"token": "t"}'))
    service = serve(reply(302, Location=f"{plain.url}/token"), authority.context)
    registry = serve(reply(401, WWW_Authenticate=f'Bearer realm="{service.url}/token"'), authority.context)
    with pytest.raises(Unsafe, match="from https to http"):
        ask(transport(registry.url, hosts=Hosts(ca_file=authority.file)))
    assert (1, []) == (len(service.asked), plain.asked)


@pytest.mark.parametrize(
    "location",
    [
        "file:///etc/passwd",
        "ftp://127.0.0.1/x",
        "javascript:alert(1)",
        "data:text/plain,x",
        "https://",
        "http://[::1",
        "http://user:planted@127.0.0.1/x",
        "http://127.0.0.1:port/",
        "http://127.0.0.1:99999/",
        "",
    ],
)
def test_redirects_to_what_is_no_url_are_refused(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, location: str
) -> None:
    """A Location must be an http(s) URL without a password."""
    peer = serve(reply(307, Location=location))
    with pytest.raises(Unsafe, match="invalid URL, expected http") as caught:
        ask(transport(peer.url))
    assert "planted" not in str(caught.value)
    assert len(peer.asked) == 1


def test_a_redirect_without_a_location_is_refused(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask
) -> None:
    """There is nowhere to go."""
    with pytest.raises(Unsafe, match="redirects to an invalid URL, expected http"):
        ask(transport(serve(reply(307)).url))


def test_a_location_in_any_bytes_is_no_crash(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask) -> None:
    """Control characters, spaces and bytes beyond ASCII end in an error of distsdk or at the place they name."""
    for location in ("/a b", "/\x01\x02", "/caf\xe9", "http://caf\xe9.invalid/", "http://a..b/", "/%", "/%zz", "\\\\x"):
        answer = reply(307, Location=location)
        there = reply(200)
        peer = serve(lambda asked, stream: stream.sendall(answer if asked.target == PATH else there))  # noqa: B023
        with contextlib.suppress(DistError):
            assert b"" == ask(transport(peer.url))


@pytest.mark.parametrize("elsewhere", [False, True])
def test_loops_end(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, elsewhere: bool) -> None:
    """After five redirects that is enough."""

    def send_back(_: Asked, stream: socket.socket) -> bool:
        stream.sendall(reply(307, Location=f"{peer.url}/back"))
        return True

    other = serve(send_back)
    peer = serve(reply(307, Location=f"{other.url}/there" if elsewhere else "/here"))
    with pytest.raises(RegistryError, match=f"more than {MAX_REDIRECTS} redirects") as caught:
        ask(transport(peer.url))
    assert caught.value.status == 307
    assert MAX_REDIRECTS + 1 == len(peer.asked) + len(other.asked)


def test_loops_of_a_token_service_end(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask) -> None:
    """A token service that only redirects is given up, too."""
    service = serve(reply(307, Location="/token"))
    registry = serve(reply(401, WWW_Authenticate=f'Bearer realm="{service.url}/token"'))
    with pytest.raises(RegistryError):
        ask(transport(registry.url))
    assert MAX_REDIRECTS + 1 == len(service.asked)


def test_the_body_of_a_redirect_is_not_read(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask) -> None:
    """A redirect may come with a body of any size; no more than the limit of an error is taken of it."""
    sent = 0

    def answer(asked: Asked, stream: socket.socket) -> bool:
        nonlocal sent
        if asked.target != PATH:
            stream.sendall(reply(200, RAW))
            return False
        stream.sendall(reply(307, Location="/there", Content_Length=str(256 << 20)))
        for _ in range(256):
            stream.sendall(bytes(1 << 20))
            sent += 1 << 20
        return False

    assert RAW == ask(transport(serve(answer).url))
    assert sent < 64 << 20  # what fits into the socket's buffers, and no more


def test_the_body_of_a_redirect_is_not_unpacked(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A small body that says it is compressed stays as it is: unpacked it could be of any size."""

    def unpack(*_: object, **__: object) -> bytes:
        raise AssertionError("a body was decoded")

    monkeypatch.setattr(urllib3.response.GzipDecoder, "decompress", unpack)
    body = gzip.compress(bytes(1 << 20))

    def answer(asked: Asked, stream: socket.socket) -> bool:
        there = asked.target != PATH
        stream.sendall(reply(200, RAW) if there else reply(307, body, Location="/there", Content_Encoding="gzip"))
        return True

    assert RAW == ask(transport(serve(answer).url))
