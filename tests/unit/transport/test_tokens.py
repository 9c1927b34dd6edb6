"""Tokens in use: when they are asked for, how long they are kept, and who gets to see them."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest

from distsdk.errors import DeadlineExceeded, Denied, LimitExceeded, MalformedDocument, Unsafe
from distsdk.testing import Registry, Stall, Status
from distsdk.transport.auth import EXPIRY_MARGIN, TokenRequest, Tokens
from distsdk.transport.deadline import Deadline
from distsdk.transport.hosts import Hosts
from distsdk.transport.origin import Origin
from distsdk.transport.settings import Limits, Timeouts

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from tests.unit.transport.conftest import Ask, Asked, Authority, MakeTransport, Peer, Reply, Serve

RAW = b'{"schemaVersion": 2}'


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry that wants tokens, with a manifest in each of two repositories."""
    with Registry(auth="bearer") as registry:
        for repository in ("x", "y"):
            registry.add_manifest(repository, RAW, "application/vnd.oci.image.manifest.v1+json", tags=["1"])
        yield registry


def scopes(registry: Registry) -> list[list[str]]:
    """The scopes that tokens were asked for, in order."""
    return [parse_qs(request.query)["scope"] for request in registry.requests if request.path == "/token"]


def test_a_challenge_is_met_and_the_token_kept(registry: Registry, transport: MakeTransport, ask: Ask) -> None:
    """The first request costs a challenge and a token; those that follow cost nothing more."""
    shared = transport(registry.url)
    assert [RAW] * 3 == [ask(shared) for _ in range(3)]
    assert [401, 200, 200, 200, 200] == [request.status for request in registry.requests]
    assert [["repository:x:pull"]] == scopes(registry)


def test_nothing_is_sent_before_a_challenge(transport: MakeTransport, ask: Ask) -> None:
    """A registry that asks for no token gets none, and no token service is looked for."""
    with Registry() as registry:
        registry.add_manifest("x", RAW, "application/vnd.oci.image.manifest.v1+json", tags=["1"])
        ask(transport(registry.url))
        [request] = registry.requests
    assert "Authorization" not in request.headers


def test_sixteen_threads_ask_for_one_token(registry: Registry, transport: MakeTransport, ask: Ask) -> None:
    """Threads that meet a challenge at the same time share one token."""
    shared = transport(registry.url)
    registry.fault(Stall(after=None, seconds=0.3), path="/token")
    barrier = threading.Barrier(16)

    def work(_: int) -> bytes:
        barrier.wait()
        return ask(shared)

    with ThreadPoolExecutor(16) as pool:
        assert [RAW] * 16 == list(pool.map(work, range(16)))
    assert registry.count(path="/token") == 1


@pytest.mark.slow
def test_a_stalled_token_service_holds_up_nobody_longer_than_once(
    registry: Registry, transport: MakeTransport, ask: Ask
) -> None:
    """Thirty threads that wait for a token that does not come give up together, not one after the other."""
    shared = transport(registry.url, timeouts=Timeouts(1, 1, 1))
    registry.fault(Stall(after=None), path="/token")

    def work(_: int) -> type[Exception]:
        with pytest.raises(DeadlineExceeded) as caught:
            ask(shared)
        return caught.type

    start = time.monotonic()
    with ThreadPoolExecutor(30) as pool:
        assert [DeadlineExceeded] * 30 == list(pool.map(work, range(30)))
    assert time.monotonic() - start < 25  # one after the other it takes thirty


def test_tokens_are_kept_by_scope(registry: Registry, transport: MakeTransport, ask: Ask) -> None:
    """Each repository gets a token of its own, which is used again when its turn comes again."""
    shared = transport(registry.url)
    for repository in ("x", "y", "x", "y"):
        ask(shared, f"/v2/{repository}/manifests/1", f"repository:{repository}:pull")
    assert [["repository:x:pull"], ["repository:y:pull"]] == scopes(registry)
    tokens = [r.headers["Authorization"] for r in registry.requests if r.path != "/token" and r.status == 200]
    assert tokens[0] == tokens[2] != tokens[1] == tokens[3]


def made(origin: str, ask: Callable[[TokenRequest, Deadline], bytes]) -> Tokens:
    """Make the tokens of a registry that there is no login for."""
    return Tokens(Origin.of(origin), login=lambda: None, realms=frozenset(), send=ask)


def test_realm_service_and_scope_tell_tokens_apart() -> None:
    """A registry that names another realm, service or scope gets another token, one that names the same gets that."""
    asked: list[str] = []

    def get(request: TokenRequest, _: Deadline) -> bytes:
        asked.append(request.url)
        return json.dumps({"token": f"t{len(asked)}"}).encode()

    tokens = made("https://r.example", get)
    first = 'Bearer realm="https://a.example/t",service="s",scope="c"'
    others = [
        'Bearer realm="https://b.example/t",service="s",scope="c"',
        'Bearer realm="https://a.example/t",service="z",scope="c"',
        'Bearer realm="https://a.example/t",service="s",scope="d"',
    ]
    answers = [tokens.respond(challenge, "x", Deadline(5), rejected=None) for challenge in (first, *others, first)]
    assert ["Bearer t1", "Bearer t2", "Bearer t3", "Bearer t4", "Bearer t1"] == answers


def test_a_scope_that_is_not_named_is_derived(transport: MakeTransport, ask: Ask, serve: Serve, reply: Reply) -> None:
    """Where a challenge has no scope, the token is asked for what the request needs."""

    def answer(asked: Asked, stream: socket.socket) -> bool:
        if asked.target.startswith("/token"):
            stream.sendall(reply(200, b'{"token": "t"}'))
        elif "authorization" in asked.headers:
            stream.sendall(reply(200, RAW))
        else:
            stream.sendall(reply(401, WWW_Authenticate=f'Bearer realm="{peer.url}/token",service="s"'))
        return True

    peer = serve(answer)
    assert RAW == ask(transport(peer.url))
    assert ["/v2/x/manifests/1", "/token?service=s&scope=repository%3Ax%3Apull", "/v2/x/manifests/1"] == [
        asked.target for asked in peer.asked
    ]


@pytest.mark.parametrize(("lifetime", "kept"), [(300, 300 - EXPIRY_MARGIN), (10, 9), (1, 0.9)])
def test_tokens_are_renewed_before_they_expire(monkeypatch: pytest.MonkeyPatch, lifetime: float, kept: float) -> None:
    """A token counts as expired five seconds early, or a tenth of a short life; then a new one is asked for."""
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    given = iter("abc")
    tokens = made("https://r", lambda *_: json.dumps({"token": next(given), "expires_in": lifetime}).encode())
    assert tokens.respond('Bearer realm="https://r/t"', "x", Deadline(5), rejected=None) == "Bearer a"
    now += kept - 0.01
    assert tokens.header("x", Deadline(5)) == "Bearer a"
    now += 0.02
    assert tokens.header("x", Deadline(5)) == "Bearer b"


def test_the_life_of_a_token_starts_when_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a slow token service takes is taken off: when it issued the token is not known."""
    now = 0.0
    monkeypatch.setattr(time, "monotonic", lambda: now)

    def slow(*_: object) -> bytes:
        nonlocal now
        now += 50
        return b'{"token": "t", "expires_in": 60}'

    tokens = made("https://r", slow)
    tokens.respond('Bearer realm="https://r/t"', "x", Deadline(5), rejected=None)
    now += 6
    before = now
    tokens.header("x", Deadline(5))
    assert now == before + 50


def test_a_token_that_is_refused_in_mid_use_is_renewed(registry: Registry, transport: MakeTransport, ask: Ask) -> None:
    """A registry that forgets a token early answers 401; the request goes on with a new one."""
    shared = transport(registry.url)
    ask(shared)
    registry.expire_tokens()
    assert RAW == ask(shared)
    assert registry.count(path="/token") == 2


def test_threads_renew_a_refused_token_once(registry: Registry, transport: MakeTransport, ask: Ask) -> None:
    """When a token is refused to eight threads at once, one new token serves them all."""
    shared = transport(registry.url)
    ask(shared)
    registry.expire_tokens()
    registry.reset()
    barrier = threading.Barrier(8)

    def work(_: int) -> bytes:
        barrier.wait()
        return ask(shared)

    with ThreadPoolExecutor(8) as pool:
        assert [RAW] * 8 == list(pool.map(work, range(8)))
    assert registry.count(path="/token") == 1


def test_a_registry_that_refuses_every_token_is_not_asked_for_ever(
    registry: Registry, transport: MakeTransport, ask: Ask
) -> None:
    """A 401 on a fresh token is the answer."""
    challenge = {"WWW-Authenticate": f'Bearer realm="{registry.url}/token",service="distsdk.testing"'}
    registry.fault(Status.error(401, "UNAUTHORIZED", headers=challenge), path="/v2/")
    with pytest.raises(Denied, match="does not exist or requires a login") as caught:
        ask(transport(registry.url))
    assert (401, ("UNAUTHORIZED",)) == (caught.value.status, caught.value.codes)
    assert registry.count(path="/v2/") == 2


@pytest.mark.parametrize(
    ("challenge", "schemes"),
    [
        ('Basic realm="x"', "basic"),
        ('Negotiate, Basic realm="x"', "basic, negotiate"),
        ("Bearer", "bearer"),
        ('Bearer service="s"', "bearer"),
        ("", "not named"),
    ],
)
def test_other_schemes_need_a_login(challenge: str, schemes: str) -> None:
    """A challenge that cannot be met without a password is Denied, and the message says what was asked for."""
    with pytest.raises(Denied, match="requires a login") as caught:
        made("https://r.example", lambda *_: b"{}").respond(challenge, "x", Deadline(5), rejected=None)
    assert f"(scheme: {schemes})" in str(caught.value)
    assert caught.value.status == 401


def test_bearer_is_preferred_to_basic() -> None:
    """Of several challenges the one that can be met is met, wherever it stands."""
    tokens = made("https://r", lambda *_: b'{"token": "t"}')
    assert tokens.respond('Basic realm="x", Bearer realm="https://r/t"', "x", Deadline(5), rejected=None) == "Bearer t"


@pytest.mark.parametrize(
    ("origin", "realm"),
    [
        ("https://r.example", "file:///etc/passwd"),
        ("https://r.example", "ftp://r.example/token"),
        ("https://r.example", "/token"),
        ("https://r.example", "r.example/token"),
        ("https://r.example", "//r.example/token"),
        ("https://r.example", "https://"),
        ("https://r.example", "https:///token"),
        ("https://r.example", "https://[::1/token"),
        ("https://r.example", "https://user:password@r.example/token"),
        ("https://r.example", "https://user@r.example/token"),
        ("https://r.example", "javascript:alert(1)"),
        ("https://r.example", "http://r.example/token"),
        ("http://127.0.0.1:5000", "file:///etc/passwd"),
        ("https://r.example", "https://r.example:port/token"),
    ],
)
def test_realms_that_are_not_asked(origin: str, realm: str) -> None:
    """A realm must be an http(s) URL without a password, and of https where the registry is."""
    asked: list[str] = []

    def get(request: TokenRequest, _: Deadline) -> bytes:
        asked.append(request.url)
        return b'{"token": "t"}'

    with pytest.raises(Unsafe, match="token service") as caught:
        made(origin, get).respond(f'Bearer realm="{realm}"', "x", Deadline(5), rejected=None)
    assert "password" not in str(caught.value)
    assert asked == []


@pytest.mark.parametrize(
    ("origin", "realm"),
    [
        ("https://r.example", "https://auth.example/token"),
        ("http://127.0.0.1:5000", "http://127.0.0.1:5001/token"),
        ("http://127.0.0.1:5000", "https://auth.example/token"),
    ],
)
def test_realms_that_are_asked(origin: str, realm: str) -> None:
    """A token service may be anywhere else."""
    tokens = made(origin, lambda *_: b'{"token": "t"}')
    assert tokens.respond(f'Bearer realm="{realm}"', "x", Deadline(5), rejected=None) == "Bearer t"


def test_a_realm_without_tls_is_refused_to_a_registry_with(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, authority: Authority
) -> None:
    """Over a real TLS connection: the token service without TLS gets no request."""
    plain = serve(reply(200, b'{"token": "t"}'))
    registry = serve(reply(401, WWW_Authenticate=f'Bearer realm="{plain.url}/token"'), authority.context)
    with pytest.raises(Unsafe, match="from https to http"):
        ask(transport(registry.url, hosts=Hosts(ca_file=authority.file)))
    assert plain.asked == []
    assert len(registry.asked) == 1


# What a token service answers


@pytest.fixture
def challenging(serve: Serve, reply: Reply) -> Callable[[bytes], tuple[Peer, Peer]]:
    """Start a registry and its token service, which gives the answer that is passed."""

    def start(answer: bytes) -> tuple[Peer, Peer]:
        service = serve(answer)
        registry = serve(reply(401, WWW_Authenticate=f'Bearer realm="{service.url}/token"'))
        return registry, service

    return start


def test_a_token_service_that_refuses(
    challenging: Callable[[bytes], tuple[Peer, Peer]], reply: Reply, transport: MakeTransport, ask: Ask
) -> None:
    """Its refusal is Denied, and says what it said."""
    body = b'{"errors": [{"code": "DENIED", "message": "not for you"}]}'
    registry, service = challenging(reply(403, body))
    with pytest.raises(Denied, match="not for you") as caught:
        ask(transport(registry.url))
    assert (403, ("DENIED",)) == (caught.value.status, caught.value.codes)
    assert f"{service.url}/token" in str(caught.value)


@pytest.mark.parametrize("declared", [True, False])
def test_a_token_reply_is_bounded(
    challenging: Callable[[bytes], tuple[Peer, Peer]], transport: MakeTransport, ask: Ask, declared: bool
) -> None:
    """A reply of more than its limit is not read further, whether it tells its size or not."""
    body = json.dumps({"token": "t" * 5000}).encode()
    length = f"Content-Length: {len(body)}\r\n" if declared else "Connection: close\r\n"
    registry, _ = challenging(f"HTTP/1.1 200 OK\r\n{length}\r\n".encode() + body)
    with pytest.raises(LimitExceeded, match="1000 bytes") as caught:
        ask(transport(registry.url, limits=Limits(token=1000)))
    assert caught.value.limit == 1000


def test_a_token_cannot_bring_headers(
    challenging: Callable[[bytes], tuple[Peer, Peer]], reply: Reply, transport: MakeTransport, ask: Ask
) -> None:
    """A token with a line break in it is refused before it goes anywhere."""
    registry, _ = challenging(reply(200, b'{"token": "t\\r\\nX-Injected: 1"}'))
    with pytest.raises(MalformedDocument, match="response of the token service has no valid token"):
        ask(transport(registry.url))
    assert len(registry.asked) == 1


def test_a_token_service_gets_no_token(
    challenging: Callable[[bytes], tuple[Peer, Peer]], reply: Reply, transport: MakeTransport, ask: Ask
) -> None:
    """Also when an old token is refused, the service is asked without it."""
    registry, service = challenging(reply(200, b'{"token": "t"}'))
    shared = transport(registry.url)
    for _ in range(2):
        with pytest.raises(Denied):
            ask(shared)
    assert service.authorizations == [None] * len(service.asked)
    assert "Bearer t" in registry.authorizations
