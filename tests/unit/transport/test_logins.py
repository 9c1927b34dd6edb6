"""Logins in use: what is sent to whom, in which order, and what happens where a login is refused."""

from __future__ import annotations

import base64
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest

import distsdk
from distsdk import Credentials, Hosts, Retry, Timeouts
from distsdk.errors import Denied, DistError, LimitExceeded, MalformedDocument, RegistryError, Unsafe
from distsdk.spec.media_types import OCI_MANIFEST
from distsdk.testing import Challenge, Fault, Header, JsonFields, Redirect, Registry, Status
from distsdk.transport.client import Transport
from distsdk.transport.hosts import Endpoint
from distsdk.transport.origin import Origin
from distsdk.transport.settings import Limits

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from distsdk import Remote
    from distsdk.testing import Request, Response
    from tests.unit.transport.conftest import Ask, Asked, Authority, Reply, Serve

RAW = b'{"schemaVersion":2,"config":{"mediaType":"a/b","digest":"sha256:%s","size":2},"layers":[]}' % (b"0" * 64)
PASSWORD = "s3cret-p4ssword"
ANN = Credentials(username="ann", password=PASSWORD)
BASIC = f"Basic {base64.b64encode(f'ann:{PASSWORD}'.encode()).decode()}"


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry that gives tokens itself; the repository ``secret`` takes ann's login."""
    with Registry(auth="bearer", logins={"ann": PASSWORD}, private="^secret") as registry:
        fill(registry)
        yield registry


@pytest.fixture
def basic() -> Iterator[Registry]:
    """The same, where the login itself is sent."""
    with Registry(auth="basic", logins={"ann": PASSWORD}, private="^secret") as registry:
        fill(registry)
        yield registry


@pytest.fixture
def apart() -> Iterator[tuple[Registry, Registry]]:
    """The same with a token service of another origin: the registry, and the service."""
    with (
        Registry(auth="bearer", logins={"ann": PASSWORD}, private="^secret") as service,
        Registry(auth="bearer", token_service=service) as registry,
    ):
        fill(registry)
        yield registry, service


def fill(registry: Registry) -> None:
    """Put a manifest into a public and into a private repository."""
    for repository in ("public", "secret"):
        registry.add_manifest(repository, RAW, OCI_MANIFEST, tags=["1"])


def connect(
    registry: Registry,
    repository: str,
    credentials: Credentials,
    folder: Path | None = None,
    limits: Limits | None = None,
) -> Remote:
    """Connect to a repository, without looking at this machine's configuration."""
    remote = distsdk.connect(
        registry.locator(repository),
        credentials=credentials,
        hosts=Hosts(hosts_dir=folder),
        retry=Retry(attempts=3),
        timeouts=Timeouts(5, 5, 10),
        limits=limits,
    )
    return remote


def found(monkeypatch: pytest.MonkeyPatch, registry: Registry, **entry: str) -> Credentials:
    """The login that a file of logins has for a registry."""
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": {registry.host: entry}}))
    return Credentials.from_environment()


def sent(registry: Registry) -> list[tuple[str, str]]:
    """Path and Authorization of each request: its scheme, or all of it where it is ann's login."""
    return [
        (request.path.split("/")[1], text if text == BASIC else text.partition(" ")[0])
        for request in registry.requests
        for text in [request.headers.get("Authorization", "")]
    ]


# In which order


def test_a_login_is_shown_to_the_token_service_alone(registry: Registry) -> None:
    """First nothing; then the token service gets the password, once, and the registry only ever sees tokens."""
    remote = connect(registry, "secret", ANN)
    assert [RAW] * 3 == [remote.fetch("1").read() for _ in range(3)]
    assert [("v2", ""), ("token", BASIC), *[("v2", "Bearer")] * 3] == sent(registry)


def test_a_login_is_shown_to_a_registry_that_asks_for_it(basic: Registry) -> None:
    """First nothing; what was accepted comes with each further request, without another challenge."""
    remote = connect(basic, "secret", ANN)
    assert [RAW] * 3 == [remote.fetch("1").read() for _ in range(3)]
    assert [("v2", ""), *[("v2", BASIC)] * 3] == sent(basic)


def test_nobody_is_shown_a_login_without_asking(registry: Registry, basic: Registry) -> None:
    """What is public needs none: where a registry does not ask, it gets none."""
    assert RAW == connect(basic, "public", ANN).fetch("1").read()
    assert [("v2", "")] == sent(basic)
    with Registry() as open_to_all:
        fill(open_to_all)
        assert RAW == connect(open_to_all, "secret", ANN).fetch("1").read()
        assert [("v2", "")] == sent(open_to_all)


def test_each_repository_has_its_own_token(registry: Registry) -> None:
    """A token for one is not shown for the other, also where one login gives both."""
    for repository in ("secret", "public"):
        assert RAW == connect(registry, repository, ANN).fetch("1").read()
    scopes = [parse_qs(request.query)["scope"] for request in registry.requests if request.path == "/token"]
    assert [["repository:secret:pull"], ["repository:public:pull"]] == scopes


@pytest.mark.parametrize(
    "challenges",
    [
        ["Basic realm=x", "{challenge}"],
        ["{challenge}", "Basic realm=x"],
        ["{challenge}, Basic realm=x"],
        ['Negotiate, Basic realm="a, Bearer realm=b", {challenge}'],
        ['bearer realm="{realm}",SERVICE={service}'],
    ],
)
def test_several_challenges(registry: Registry, challenges: list[str]) -> None:
    """A token is preferred wherever its challenge stands, so that the password goes to the token service alone."""
    registry.fault(Challenge(*challenges), path="/v2/")
    assert RAW == connect(registry, "secret", ANN).fetch("1").read()
    assert [("v2", ""), ("token", BASIC), ("v2", "Bearer")] == sent(registry)


def test_threads_with_a_login_ask_for_one_token(registry: Registry) -> None:
    """When the token of sixteen threads is no good any more, one of them shows the login, once."""
    remote = connect(registry, "secret", ANN)
    remote.fetch("1")
    registry.expire_tokens()
    registry.reset()
    barrier = threading.Barrier(16)

    def work(_: int) -> bytes:
        barrier.wait()
        return remote.fetch("1").read()

    with ThreadPoolExecutor(16) as pool:
        assert [RAW] * 16 == list(pool.map(work, range(16)))
    assert [BASIC] == [text for path, text in sent(registry) if path == "token"]
    assert BASIC not in [text for path, text in sent(registry) if path == "v2"]


def test_a_token_that_runs_out_is_renewed_before_it_is_refused() -> None:
    """The registry says how long a token lives; the next one is asked for in time, and no 401 comes."""
    with Registry(auth="bearer", logins={"ann": PASSWORD}, token_lifetime=60) as registry:
        fill(registry)
        registry.fault(JsonFields({"expires_in": 1e-9}), path="/token", times=1)
        remote = connect(registry, "secret", ANN)
        assert [RAW] * 3 == [remote.fetch("1").read() for _ in range(3)]
        assert [401, 200, 200, 200, 200, 200] == [request.status for request in registry.requests]
        assert 2 == registry.count(path="/token")


# Where it is refused


def test_what_is_public_stays_readable_with_an_old_login(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """A login that is refused is told in the log, by its source, and left; it is not shown again."""
    remote = connect(registry, "public", Credentials(username="ann", password="0ld-password"))
    assert [RAW] * 2 == [remote.fetch("1").read() for _ in range(2)]
    assert [("v2", ""), ("token", "Basic"), ("token", ""), ("v2", "Bearer"), ("v2", "Bearer")] == sent(registry)
    [warning] = [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert f"the login from the arguments for {registry.url} was refused" in warning.getMessage()
    registry.expire_tokens()
    assert RAW == remote.fetch("1").read()
    assert 1 == sum(text.startswith("Basic") for text in registry.authorizations)
    assert "0ld-password" not in caplog.text


def test_what_is_private_is_denied_with_an_old_login(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """The error says whose login was refused, and does not repeat it."""
    with pytest.raises(Denied) as caught:
        connect(registry, "secret", Credentials(username="ann", password="0ld-password")).fetch("1")
    assert "the login from the arguments" in str(caught.value)
    assert "was refused: log in again" in str(caught.value)
    assert "0ld-password" not in str(caught.value) + caplog.text
    assert ([401, 401, 200, 401], 401) == ([request.status for request in registry.requests], caught.value.status)


def test_where_a_login_came_from_is_said(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that it can be mended there."""
    credentials = found(monkeypatch, registry, auth=base64.b64encode(b"ann:0ld-password").decode())
    with pytest.raises(Denied, match="the login from DOCKER_AUTH_CONFIG"):
        connect(registry, "secret", credentials).fetch("1")


def test_a_refused_password_is_not_sent_again_at_once(basic: Registry) -> None:
    """One that is wrong ends with the registry's refusal: no loop, and no lock-out of the account."""
    remote = connect(basic, "secret", Credentials(username="ann", password="0ld-password"))
    with pytest.raises(Denied, match="refused the login from the arguments: log in again") as caught:
        remote.fetch("1")
    assert "0ld-password" not in str(caught.value)
    assert [("v2", ""), ("v2", "Basic")] == sent(basic)


class Forbids:
    """Answers 403 to whoever brings a token."""

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Refuse a token, whatever it is good for."""
        if "Authorization" in request.headers:
            return Status.error(403, "DENIED").answer(request, respond)
        return respond(request)


def test_a_refusal_with_a_login_is_final(registry: Registry, pauses: list[float]) -> None:
    """403 to a token that was given is the answer: no other token is asked for, and nothing is tried again."""
    registry.fault(Forbids(), path="/v2/")
    with pytest.raises(Denied, match="forbidden"):
        connect(registry, "secret", ANN).fetch("1")
    assert ([401, 200, 403], []) == ([request.status for request in registry.requests], pauses)


def test_without_a_login_the_private_is_denied(registry: Registry, basic: Registry) -> None:
    """The error says that the repository is missing or requires a login, and that none is configured."""
    with pytest.raises(Denied, match="does not exist or requires a login"):
        connect(registry, "secret", Credentials.anonymous()).fetch("1")
    with pytest.raises(Denied, match=r"requires a login \(scheme: basic\), and none is configured"):
        connect(basic, "secret", Credentials.anonymous()).fetch("1")
    assert [("v2", "")] == sent(basic)


@pytest.mark.parametrize("status", [400, 404, 500])
def test_a_token_service_that_fails_does_not_lose_the_login(registry: Registry, status: int) -> None:
    """Only 401 and 403 refuse a login; after another failure it is shown again, to the same service."""
    registry.fault(Status(status), path="/token", times=1)
    remote = connect(registry, "secret", ANN)
    with pytest.raises(DistError):
        remote.fetch("1")
    assert RAW == remote.fetch("1").read()
    assert [BASIC, BASIC] == [text for path, text in sent(registry) if path == "token"]


# Identity tokens, registry tokens


def test_an_identity_token_is_sent_in_a_form(registry: Registry) -> None:
    """As the OAuth2 form of the token specification has it: in the body, and nowhere else."""
    identity = registry.identity_token("ann")
    assert RAW == connect(registry, "secret", Credentials(identity_token=identity)).fetch("1").read()
    first, asked, last = registry.requests
    assert ("POST", "/token", "") == (asked.method, asked.path, asked.query)
    form = parse_qs(asked.body.decode(), strict_parsing=True)
    assert form == {
        "grant_type": ["refresh_token"],
        "refresh_token": [identity],
        "service": ["distsdk.testing"],
        "client_id": ["distsdk"],
        "scope": ["repository:secret:pull"],
    }
    assert "Authorization" not in asked.headers
    assert all(identity not in str(dict(request.headers)) for request in (first, asked, last))


@pytest.mark.parametrize("fault", [Status(503), Status(429, headers={"Retry-After": "1"})], ids=["503", "429"])
def test_a_form_is_sent_again_after_a_failure(registry: Registry, pauses: list[float], fault: Fault) -> None:
    """Asking for a token changes nothing, so that a POST may be repeated as well."""
    registry.fault(fault, path="/token", times=2)
    credentials = Credentials(identity_token=registry.identity_token("ann"))
    assert RAW == connect(registry, "secret", credentials).fetch("1").read()
    assert ["POST"] * 3 == [request.method for request in registry.requests if request.path == "/token"]
    assert 1 == len({request.body for request in registry.requests if request.path == "/token"})
    assert 2 == len(pauses)


@pytest.mark.parametrize("status", [400, 404, 405])
def test_a_service_without_forms_takes_an_identity_token_as_a_password(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Where POST is not known and there is a user's name, the token is sent as that user's password."""
    registry.fault(Status(status), path="/token", method="POST")
    credentials = found(monkeypatch, registry, username="ann", password="x", identitytoken=PASSWORD)
    assert RAW == connect(registry, "secret", credentials).fetch("1").read()
    assert [("v2", ""), ("token", ""), ("token", BASIC), ("v2", "Bearer")] == sent(registry)


def test_without_a_name_there_is_no_other_way(registry: Registry) -> None:
    """The failure is told as it is."""
    registry.fault(Status(405), path="/token", method="POST")
    with pytest.raises(RegistryError, match="405"):
        connect(registry, "secret", Credentials(identity_token="x")).fetch("1")


def test_an_identity_token_that_is_refused(registry: Registry, caplog: pytest.LogCaptureFixture) -> None:
    """As a password: what is public stays readable, what is private is denied, and the token is not shown."""
    credentials = Credentials(identity_token="0ld-identity")
    assert RAW == connect(registry, "public", credentials).fetch("1").read()
    with pytest.raises(Denied, match="was refused: log in again") as caught:
        connect(registry, "secret", credentials).fetch("1")
    assert "0ld-identity" not in str(caught.value) + caplog.text
    assert ["POST", "GET", "POST", "GET"] == [r.method for r in registry.requests if r.path == "/token"]


def a_token(registry: Registry) -> str:
    """A bearer token for what is private."""
    remote = connect(registry, "secret", ANN)
    remote.fetch("1")
    token = registry.authorizations[-1].removeprefix("Bearer ")
    registry.reset()
    return token


def test_a_registry_token_is_sent_as_it_is(registry: Registry) -> None:
    """No token service is asked; nothing is sent before the registry asks."""
    token = a_token(registry)
    remote = connect(registry, "secret", Credentials(registry_token=token))
    assert [RAW] * 2 == [remote.fetch("1").read() for _ in range(2)]
    texts = [request.headers.get("Authorization") for request in registry.requests]
    assert [None, f"Bearer {token}", f"Bearer {token}"] == texts


def test_a_registry_token_that_is_refused(registry: Registry) -> None:
    """What is public is read with a token that anybody gets; what is private is denied, and says why."""
    remote = connect(registry, "public", Credentials(registry_token="0ld-token"))
    assert [RAW] * 2 == [remote.fetch("1").read() for _ in range(2)]
    assert [("v2", ""), ("v2", "Bearer"), ("token", ""), ("v2", "Bearer"), ("v2", "Bearer")] == sent(registry)
    with pytest.raises(Denied, match="was refused: log in again") as caught:
        connect(registry, "secret", Credentials(registry_token="0ld-token")).fetch("1")
    assert "0ld-token" not in str(caught.value)


# Which token services get it


def test_a_token_service_of_another_origin_gets_no_login(
    apart: tuple[Registry, Registry], caplog: pytest.LogCaptureFixture
) -> None:
    """A registry can name any; what is public is read without, what is private is denied with the way out."""
    registry, service = apart
    assert RAW == connect(registry, "public", ANN).fetch("1").read()
    with pytest.raises(Denied) as caught:
        connect(registry, "secret", ANN).fetch("1")
    assert f"the login from the arguments was not sent to {service.url}" in str(caught.value)
    assert f'write realms = ["{service.url}"] into the hosts.toml of the registry' in str(caught.value)
    assert str(caught.value).partition("; ")[2] in caplog.text
    assert (2, []) == (service.count(), service.authorizations)
    assert all(text.startswith("Bearer ") for text in registry.authorizations)


@pytest.mark.parametrize("identity", [False, True])
def test_a_token_service_that_was_named_gets_it(
    apart: tuple[Registry, Registry], tmp_path: Path, identity: bool
) -> None:
    """`realms` in the host's hosts.toml names the services that are its own; the registry itself gets no password."""
    registry, service = apart
    (tmp_path / registry.host).mkdir()
    (tmp_path / registry.host / "hosts.toml").write_text(f'realms = ["{service.url}"]')
    credentials = Credentials(identity_token=service.identity_token("ann")) if identity else ANN
    assert RAW == connect(registry, "secret", credentials, tmp_path).fetch("1").read()
    assert ["POST" if identity else "GET"] == [request.method for request in service.requests]
    assert ([] if identity else [BASIC]) == service.authorizations
    assert [("v2", ""), ("v2", "Bearer")] == sent(registry)


def test_an_identity_token_goes_to_no_other_origin_either(apart: tuple[Registry, Registry]) -> None:
    """The form is not sent; a token for anybody is asked for instead."""
    registry, service = apart
    identity = service.identity_token("ann")
    assert RAW == connect(registry, "public", Credentials(identity_token=identity)).fetch("1").read()
    assert [("GET", b"")] == [(request.method, request.body) for request in service.requests]
    assert identity not in str([request.query for request in service.requests])


def test_another_name_of_the_same_machine_is_another_origin(registry: Registry) -> None:
    """The same port of a host of another name gets nothing: names are compared, and not addresses."""
    elsewhere = registry.url.replace("127.0.0.1", "localhost")
    registry.fault(Challenge(f'Bearer realm="{elsewhere}/token",service="{{service}}"'), path="/v2/")
    with pytest.raises(Denied, match=f"was not sent to {elsewhere}"):
        connect(registry, "secret", ANN).fetch("1")
    assert [("v2", ""), ("token", ""), ("v2", "Bearer")] == sent(registry)


@pytest.mark.parametrize(
    ("host", "realm"), [("docker.io", "https://auth.docker.io"), ("registry.gitlab.com", "https://gitlab.com")]
)
def test_services_that_are_known(host: str, realm: str) -> None:
    """Hosts whose token service is known to be elsewhere need no configuration, and no other host has them."""
    assert realm in Hosts().plan(host).realms
    assert () == Hosts().plan("registry.example").realms


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_of_the_token_request_does_not_carry_the_login(registry: Registry, code: int) -> None:
    """The service itself gets the password; where it redirects to does not, and gives a token that anybody gets."""
    with Registry(auth="bearer", logins={"ann": PASSWORD}, private="^secret") as other:
        registry.fault(Redirect(other.url + "{path}", code), path="/token")
        with pytest.raises(Denied):
            connect(registry, "secret", ANN).fetch("1")
        assert BASIC in registry.authorizations
        assert (1, []) == (other.count(path="/token"), other.authorizations)


def test_a_redirect_within_the_token_service_carries_the_login(registry: Registry) -> None:
    """It is the same origin."""
    registry.fault(
        Redirect("/token?again&service=distsdk.testing&scope=repository:secret:pull"), path="/token", times=1
    )
    assert RAW == connect(registry, "secret", ANN).fetch("1").read()
    assert [("v2", ""), ("token", BASIC), ("token", BASIC), ("v2", "Bearer")] == sent(registry)


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_form_is_not_redirected_elsewhere(registry: Registry, code: int) -> None:
    """It holds the login in its body: that goes to no other origin, whatever the kind of redirect."""
    with Registry(auth="bearer", logins={"ann": PASSWORD}) as other:
        registry.fault(Redirect(other.url + "/token", code), path="/token")
        identity = registry.identity_token("ann")
        with pytest.raises(Unsafe, match="redirects a request with a login") as caught:
            connect(registry, "secret", Credentials(identity_token=identity)).fetch("1")
        assert identity not in str(caught.value)
        assert identity.encode() in registry.requests[1].body
        assert 0 == other.count()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_form_within_its_origin(registry: Registry, code: int) -> None:
    """It is sent again where the redirect keeps the method (307, 308), and otherwise refused."""
    registry.fault(Redirect("/token", code), path="/token", times=1)
    remote = connect(registry, "secret", Credentials(identity_token=registry.identity_token("ann")))
    if code in {307, 308}:
        assert RAW == remote.fetch("1").read()
        assert ["POST", "POST"] == [request.method for request in registry.requests if request.path == "/token"]
    else:
        with pytest.raises(Unsafe):
            remote.fetch("1")
        assert 1 == registry.count(path="/token")


@pytest.mark.parametrize("how", ["realm", "redirect"])
def test_a_login_does_not_leave_tls(serve: Serve, reply: Reply, ask: Ask, authority: Authority, how: str) -> None:
    """Neither a realm nor a redirect leads the password from https to http; over https the right one did get it."""
    plain = serve(reply(200, b'{"token": "t"}'))

    def answer(asked: Asked, stream: socket.socket) -> bool:
        if asked.target.startswith("/token"):
            stream.sendall(reply(302, Location=f"{plain.url}/token"))
        else:
            realm = plain.url if how == "realm" else secure.url
            stream.sendall(reply(401, WWW_Authenticate=f'Bearer realm="{realm}/token"'))
        return True

    secure = serve(answer, authority.context)
    shared = Transport(
        Endpoint(secure.url),
        hosts=Hosts(ca_file=authority.file),
        login=lambda: ANN.login("any", ""),
        realms=frozenset({Origin.of(plain.url)}),
        retry=Retry(attempts=1),
        timeouts=Timeouts(5, 5, 5),
        limits=Limits(),
    )
    with pytest.raises(Unsafe, match="from https to http"):
        ask(shared)
    assert [] == plain.asked
    assert ([None] if how == "realm" else [None, BASIC]) == secure.authorizations


# What a token service answers


ODD: dict[str, tuple[Fault, type[DistError]]] = {
    "too long": (JsonFields({"padding": "x" * 70_000}), LimitExceeded),
    "too long a token": (JsonFields({"token": "x" * 70_000}), LimitExceeded),
    "a length without end": (Header("Content-Length", str(1 << 50)), LimitExceeded),
    "no token": (JsonFields({"token": None, "access_token": None}), MalformedDocument),
    "a number": (JsonFields({"token": 5}), MalformedDocument),
    "a line break": (JsonFields({"token": "x\r\nX-Injected: 1"}), MalformedDocument),
    "a space": (JsonFields({"token": "x y"}), MalformedDocument),
    "letters beyond ASCII": (JsonFields({"token": "t\u00f6ken"}), MalformedDocument),
    "no life": (JsonFields({"expires_in": -1}), MalformedDocument),
    "a life in words": (JsonFields({"expires_in": "long"}), MalformedDocument),
    "a page": (Status(200, "<html>log in here</html>", {"Content-Type": "text/html"}), MalformedDocument),
    "nothing": (Status(200), MalformedDocument),
    "no content": (Status(204), RegistryError),
    "a nest": (Status(200, '{"token":' + "[" * 20_000), MalformedDocument),
}


@pytest.mark.parametrize(("fault", "error"), ODD.values(), ids=ODD)
def test_odd_replies_end_it(registry: Registry, pauses: list[float], fault: Fault, error: type[DistError]) -> None:
    """Nothing of such a reply reaches the registry; the login is shown once, and stays out of the message."""
    registry.fault(fault, path="/token")
    with pytest.raises(error) as caught:
        connect(registry, "secret", ANN).fetch("1")
    assert PASSWORD not in str(caught.value)
    assert ([("v2", ""), ("token", BASIC)], []) == (sent(registry), pauses)


def test_the_size_of_a_reply_counts_for_the_whole_of_it(registry: Registry) -> None:
    """Exactly the limit is taken, one byte more is not."""
    remote = connect(registry, "secret", ANN)
    remote.fetch("1")
    [size] = [request.body_bytes_sent for request in registry.requests if request.path == "/token"]
    assert RAW == connect(registry, "secret", ANN, limits=Limits(token=size)).fetch("1").read()
    with pytest.raises(LimitExceeded) as caught:
        connect(registry, "secret", ANN, limits=Limits(token=size - 1)).fetch("1")
    assert size - 1 == caught.value.limit
