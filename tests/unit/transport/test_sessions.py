"""Sessions: what of the caller's and of the environment's is used, and what never goes over the wire."""

from __future__ import annotations

import gzip
import pickle
import re
import socket
from typing import TYPE_CHECKING

import pytest
import requests

import distsdk
from distsdk import Credentials, Hosts, Limits, Retry, Timeouts, connect
from distsdk.errors import InvalidConfig, Unreachable
from distsdk.spec.media_types import OCI_MANIFEST
from distsdk.testing import Header, Registry

if TYPE_CHECKING:
    from pathlib import Path

    from tests.unit.transport.conftest import Ask, Asked, Authority, MakeTransport, Peer, Reply, Serve

RAW = b'{"schemaVersion": 2}'
PATH = "/v2/x/manifests/1"
OWN_HEADERS = {"host", "user-agent", "accept-encoding"}


@pytest.fixture
def peer(serve: Serve, reply: Reply) -> Peer:
    """A registry that answers every request with the same document."""
    return serve(reply(200, RAW))


def test_what_a_request_says(peer: Peer, transport: MakeTransport, ask: Ask) -> None:
    """A request has the headers it needs: no body encodings, and who asks."""
    ask(transport(peer.url))
    [asked] = peer.asked
    assert asked.headers.keys() == OWN_HEADERS
    assert (asked.headers["accept-encoding"], asked.headers["user-agent"]) == (
        "identity",
        f"distsdk/{distsdk.__version__}",
    )


def test_connections_are_kept(peer: Peer, transport: MakeTransport, ask: Ask) -> None:
    """Requests one after the other go over one connection."""
    shared = transport(peer.url)
    for _ in range(5):
        ask(shared)
    assert [0] * 5 == [asked.connection for asked in peer.asked]


# A session that is passed


class _Counting(requests.adapters.HTTPAdapter):
    count = 0

    def send(self, *args: object, **kwargs: object) -> requests.Response:
        self.count += 1
        return super().send(*args, **kwargs)  # type: ignore[arg-type] # whatever it was called with


def test_the_adapters_of_a_session_are_used(peer: Peer, transport: MakeTransport, ask: Ask) -> None:
    """Requests go through the adapter that the caller mounted for the URL."""
    session = requests.Session()
    adapter, other = _Counting(), _Counting()
    session.mount("http://", other)
    session.mount(peer.url, adapter)
    ask(transport(peer.url, session=session))
    assert (1, 0) == (adapter.count, other.count)


def test_the_certificates_of_a_session_are_used(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, authority: Authority
) -> None:
    """A session's `verify` says which authorities count; the usual ones do when it says nothing."""
    peer = serve(reply(200, RAW), authority.context)
    session = requests.Session()
    with pytest.raises(Unreachable, match="certificate verification failed"):
        ask(transport(peer.url, session=session))
    session.verify = str(authority.file)
    assert RAW == ask(transport(peer.url, session=session))


def test_what_else_a_session_has_is_not_used(peer: Peer, transport: MakeTransport, ask: Ask) -> None:
    """Headers, cookies, login, parameters and hooks of a session stay where they are."""
    session = requests.Session()
    session.headers["X-Planted"] = "planted"
    session.headers["Authorization"] = "Bearer planted"
    session.cookies.set("planted", "planted", domain="127.0.0.1", path="/")
    session.auth = ("user", "planted")
    session.params = {"planted": "planted"}
    session.proxies = {"http": "http://127.0.0.1:1"}
    session.hooks["response"] = [lambda *_, **__: pytest.fail("a hook was called")]
    assert RAW == ask(transport(peer.url, session=session))
    [asked] = peer.asked
    assert (set(asked.headers), asked.target) == (OWN_HEADERS, PATH)


def test_the_environment_of_a_session_is_not_used(
    peer: Peer, transport: MakeTransport, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`trust_env` of a session does not bring proxies in: those are read once, by `Hosts`."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    session = requests.Session()
    assert session.trust_env
    assert RAW == ask(transport(peer.url, session=session))


# What never goes over the wire


@pytest.mark.parametrize("given", [False, True])
def test_netrc_is_not_read(
    peer: Peer, transport: MakeTransport, ask: Ask, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: bool
) -> None:
    """A password in ~/.netrc is not for registries: neither they nor a redirect's target nor a token service get it."""
    text = "default login user password planted\n"
    for name in (".netrc", "_netrc", "other"):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "other"))
    assert requests.utils.get_netrc_auth(peer.url) == ("user", "planted")
    ask(transport(peer.url, session=requests.Session() if given else None))
    with Registry(auth="bearer") as registry:
        registry.add_manifest("x", RAW, "application/json", tags=["1"])
        ask(transport(registry.url, session=requests.Session() if given else None))
        sent = [request.headers.get("Authorization", "-") for request in registry.requests]
    assert [None] == peer.authorizations
    assert ["-", "-", "Bearer"] == [text.split(" ")[0] for text in sent]


@pytest.mark.parametrize("given", [False, True])
def test_cookies_are_not_sent_back(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, given: bool) -> None:
    """A registry cannot follow a caller by cookies, neither from one request to the next nor through a redirect."""

    def answer(asked: Asked, stream: socket.socket) -> bool:
        cookie = "planted=1; Path=/"
        stream.sendall(
            reply(307, Location="/there", Set_Cookie=cookie)
            if asked.target == PATH
            else reply(200, RAW, Set_Cookie=cookie)
        )
        return True

    peer = serve(answer)
    session = requests.Session() if given else None
    shared = transport(peer.url, session=session)
    assert [RAW, RAW] == [ask(shared), ask(shared)]
    assert [False] * 4 == ["cookie" in asked.headers for asked in peer.asked]
    if session is not None:
        assert len(session.cookies) == 0


def test_bytes_come_undecoded(transport: MakeTransport, ask: Ask) -> None:
    """A server that says a Content-Encoding although none is accepted does not change the bytes."""
    body = gzip.compress(b"what would come out")
    with Registry() as registry:
        registry.add_manifest("x", body, "application/json", tags=["1"])
        digest = registry.add_blob("x", body).digest
        registry.fault(Header("Content-Encoding", "gzip"))
        shared = transport(registry.url)
        assert body == ask(shared)
        with shared.request("GET", f"/v2/x/blobs/{digest}", scope="") as answer:
            assert body == b"".join(iter(lambda: answer.read(7), b""))
        assert {"identity"} == {request.headers["Accept-Encoding"] for request in registry.requests}


# Proxies


@pytest.fixture
def proxy(serve: Serve, reply: Reply) -> Peer:
    """A proxy that answers for everybody, and refuses tunnels."""

    def answer(asked: Asked, stream: socket.socket) -> bool:
        stream.sendall(reply(403 if asked.method == "CONNECT" else 200, b"" if asked.method == "CONNECT" else RAW))
        return True

    return serve(answer)


@pytest.fixture
def proxies(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment without proxies."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    return monkeypatch


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_http_goes_through_a_proxy(
    proxies: pytest.MonkeyPatch, proxy: Peer, transport: MakeTransport, ask: Ask, variable: str
) -> None:
    """What the usual variables name gets the request, with the whole URL, and without anybody's token."""
    proxies.setenv(variable, proxy.url)
    assert RAW == ask(transport("http://registry.invalid", hosts=Hosts.from_environment()))
    assert [("GET", f"http://registry.invalid{PATH}")] == [(asked.method, asked.target) for asked in proxy.asked]


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY"])
def test_https_goes_through_a_tunnel(
    proxies: pytest.MonkeyPatch, proxy: Peer, transport: MakeTransport, ask: Ask, variable: str
) -> None:
    """For https a tunnel is asked for; the proxy sees host and port, and no path."""
    proxies.setenv(variable, proxy.url)
    with pytest.raises(Unreachable, match=f"^the proxy {proxy.url}: Tunnel connection failed: 403 "):
        ask(transport("https://registry.invalid", hosts=Hosts.from_environment()))
    assert [("CONNECT", "registry.invalid:443")] == [(asked.method, asked.target) for asked in proxy.asked]


def test_a_tunnel_carries_the_whole_conversation(
    proxies: pytest.MonkeyPatch,
    serve: Serve,
    reply: Reply,
    transport: MakeTransport,
    ask: Ask,
    authority: Authority,
) -> None:
    """Through a tunnel TLS is spoken with the registry, whose certificate counts; the proxy reads nothing."""
    registry = serve(reply(200, RAW), authority.context)
    host, port = registry.host.split(":")

    def relay(_: Asked, stream: socket.socket) -> None:
        import selectors

        with socket.create_connection((host, int(port))) as there, selectors.DefaultSelector() as both:
            stream.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
            both.register(stream, selectors.EVENT_READ, there)
            both.register(there, selectors.EVENT_READ, stream)
            while True:
                for key, _ready in both.select():
                    assert isinstance(key.fileobj, socket.socket)
                    if not (data := key.fileobj.recv(65536)):
                        return
                    key.data.sendall(data)

    proxy = serve(relay)
    proxies.setenv("HTTPS_PROXY", proxy.url)
    proxies.setattr("distsdk.transport.hosts.is_loopback", lambda _: False)
    assert RAW == ask(transport(registry.url, hosts=Hosts.from_environment(ca_file=authority.file)))
    assert [("CONNECT", registry.host)] == [(asked.method, asked.target) for asked in proxy.asked]
    assert "authorization" not in proxy.asked[0].headers


def test_a_proxy_without_a_scheme(proxies: pytest.MonkeyPatch, proxy: Peer, transport: MakeTransport, ask: Ask) -> None:
    """A variable may name host and port alone, also a host without a dot, which looks like a scheme."""
    port = proxy.host.partition(":")[2]
    for value in (proxy.host, f"localhost:{port}", f"ann:secret@localhost:{port}"):
        proxies.setenv("HTTP_PROXY", value)
        assert RAW == ask(transport("http://registry.invalid", hosts=Hosts.from_environment()))
    sent = [asked.headers.get("proxy-authorization") for asked in proxy.asked]
    assert [None, None, "Basic YW5uOnNlY3JldA=="] == sent


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("x://ann:pl4nted@proxy.invalid:3128", "x://proxy.invalid:3128"),
        ("socks5h://localhost:1080", "socks5h://localhost:1080"),
        ("http://", "http://"),
        ("http://:3128", "http://:3128"),
        ("http://ann:pl4nted@:3128", "http://:3128"),
        ("http://ann:pl4nted@proxy.invalid:port", "<malformed URL>"),
        ("http://ann:pl4nted@proxy.invalid:0", "http://proxy.invalid:0"),
        ("http://ann:pl4nted@proxy.invalid:65536", "<malformed URL>"),
        ("ann:pl4nted@proxy.invalid:port", "<malformed URL>"),
        ("http://ann:12/pl4nted@proxy.invalid:3128", "http://proxy.invalid:3128"),
        ("http://ann:12#pl4nted@proxy.invalid:3128", "http://proxy.invalid:3128"),
        ("http://ann:12?pl4nted@proxy.invalid:3128", "http://proxy.invalid:3128"),
        ("ann:12/pl4nted@proxy.invalid:3128", "http://proxy.invalid:3128"),
        ("http://ann:pl4nted@[::1", "<malformed URL>"),
        ("http://pro xy.invalid:3128", "http://pro xy.invalid:3128"),
    ],
)
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxies_that_cannot_be_used(
    proxies: pytest.MonkeyPatch, transport: MakeTransport, ask: Ask, scheme: str, value: str, shown: str
) -> None:
    """What is no proxy's URL is named, with the variables that may hold it, and without a password, or a part of it."""
    proxies.setenv(f"{scheme}_PROXY", value)
    with pytest.raises(InvalidConfig) as caught:
        ask(transport(f"{scheme}://registry.invalid", hosts=Hosts.from_environment()))
    message = str(caught.value)
    assert message.startswith(f"invalid proxy {shown}: ")
    assert f"{scheme.upper()}_PROXY" in message
    assert not {"ann", "pl4nted", "12"} & set(re.findall(r"\w+", message))


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("proxy", "told"),
    [
        ("http://ann:pl4nted@127.0.0.1:1", "connection refused by the proxy http://127.0.0.1:1: is it running?"),
        ("https://ann:pl4nted@127.0.0.1:1", "connection refused by the proxy https://127.0.0.1:1: is it running?"),
        (
            "http://ann:pl4nted@proxy.invalid:3128",
            "the proxy http://proxy.invalid:3128 not found: check the name and the network",
        ),
    ],
)
def test_it_is_the_proxy_that_is_told(transport: MakeTransport, ask: Ask, scheme: str, proxy: str, told: str) -> None:
    """Where it is the proxy that cannot be reached, the message says so and does not name the registry."""
    with pytest.raises(Unreachable) as caught:
        ask(transport(f"{scheme}://registry.invalid", hosts=Hosts(proxies={scheme: proxy})))
    assert told == str(caught.value)
    assert caught.value.url.startswith(f"{scheme}://registry.invalid/")


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_speaks_no_tls(transport: MakeTransport, ask: Ask, authority: Authority, scheme: str) -> None:
    """A proxy's URL may have the wrong scheme."""
    with Registry() as proxy:
        hosts = Hosts(proxies={scheme: f"https://{proxy.host}"}, ca_file=authority.file)
        with pytest.raises(Unreachable, match=f"^TLS with the proxy https://{proxy.host} failed .*http:// in its URL$"):
            ask(transport(f"{scheme}://registry.invalid", hosts=hosts))


def test_a_proxy_whose_certificate_does_not_convince(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, authority: Authority
) -> None:
    """It is the proxy's, not the registry's."""
    proxy = serve(reply(200, RAW), authority.context)
    with pytest.raises(Unreachable, match=f"^certificate verification failed for the proxy {proxy.url}"):
        ask(transport("https://registry.invalid", hosts=Hosts(proxies={"https": proxy.url})))


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_accepts_no_connection(transport: MakeTransport, ask: Ask, blackhole: str, scheme: str) -> None:
    """A proxy that does not answer at all is told after the connect time-out."""
    hosts = Hosts(proxies={scheme: f"http://ann:pl4nted@{blackhole}"})
    with pytest.raises(Unreachable, match=f"^the proxy http://{blackhole} did not accept a connection in time$"):
        ask(transport(f"{scheme}://registry.invalid", hosts=hosts, timeouts=Timeouts(1, 30, 30)))


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b"", "did not open a tunnel within 1 seconds$"),
        (b"HTTP/1.1 200 Connection est", "did not open a tunnel within 1 seconds$"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ": the response is not HTTP$"),
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", ": Tunnel connection failed: 407 Proxy Auth"),
        (None, ": the connection was closed without a response$"),
    ],
)
def test_a_proxy_that_opens_no_tunnel(
    serve: Serve, transport: MakeTransport, ask: Ask, said: bytes | None, told: str
) -> None:
    """Whatever a proxy says, or does not say, when it is asked for a tunnel, it is the proxy that is told."""

    def answer(_: Asked, stream: socket.socket) -> None:
        if said is not None:
            stream.sendall(said)
            there.closing.wait(20)

    there = serve(answer)
    with pytest.raises(Unreachable, match=f"^the proxy {there.url}.*{told}") as caught:
        ask(
            transport(
                "https://registry.invalid", hosts=Hosts(proxies={"https": there.url}), timeouts=Timeouts(1, 30, 30)
            )
        )
    assert "registry.invalid" not in str(caught.value)


def test_each_scheme_has_its_own_proxy(proxies: pytest.MonkeyPatch) -> None:
    """A proxy for https is not asked for http."""
    proxies.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    assert {} == Hosts.from_environment().proxies_for("http", "registry.invalid", 80)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1", "[::1]"])
@pytest.mark.parametrize("variable", ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"])
def test_loopback_hosts_have_no_proxy(proxies: pytest.MonkeyPatch, host: str, variable: str) -> None:
    """Whatever the variables say, this machine is asked directly, on any port."""
    proxies.setenv(variable, "http://proxy.invalid:3128")
    for scheme in ("http", "https"):
        assert {} == Hosts.from_environment().proxies_for(scheme, host, 5000)


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_a_login_for_a_loopback_host_goes_to_no_proxy(proxies: pytest.MonkeyPatch, proxy: Peer, name: str) -> None:
    """A registry on this machine gets its login although ``HTTP_PROXY`` names a proxy, which sees no request."""
    proxies.setenv("HTTP_PROXY", proxy.url)
    with Registry(auth="basic", logins={"ann": "pl4nted"}) as registry:
        registry.add_image("x", "1")
        host = registry.host.replace("127.0.0.1", name)
        remote = distsdk.connect(f"{host}/x", credentials=Credentials(username="ann", password="pl4nted"))
        remote.fetch("1")
        assert 1 == len(registry.authorizations)
    assert [] == proxy.asked


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("*", "http://registry.invalid", True),
        ("registry.invalid", "http://registry.invalid", True),
        ("registry.invalid", "http://registry.invalid:5000", True),
        ("REGISTRY.INVALID", "http://registry.invalid", True),
        ("invalid", "http://registry.invalid", True),
        (".invalid", "http://registry.invalid", True),
        ("example.com, .invalid ,x", "http://registry.invalid", True),
        ("registry.invalid:5000", "http://registry.invalid:5000", True),
        ("registry.invalid:5000", "http://registry.invalid:5001", False),
        ("10.0.0.0/8", "http://10.1.2.3", True),
        ("10.0.0.0/8", "http://11.1.2.3", False),
        ("10.1.2.3", "http://10.1.2.3:5000", True),
        ("gistry.invalid", "http://registry.invalid", False),
        ("example.com", "http://registry.invalid", False),
        ("", "http://registry.invalid", False),
    ],
)
def test_some_hosts_need_no_proxy(
    proxies: pytest.MonkeyPatch,
    transport: MakeTransport,
    ask: Ask,
    monkeypatch: pytest.MonkeyPatch,
    no_proxy: str,
    url: str,
    direct: bool,
) -> None:
    """NO_PROXY lists hosts, domains with all below them, host:port, addresses and networks, separated by commas."""
    used: list[object] = []

    class Adapter(requests.adapters.HTTPAdapter):
        def send(self, *_: object, proxies: object = None, **__: object) -> requests.Response:
            used.append(proxies)
            raise requests.ConnectionError("not sent")

    session = requests.Session()
    session.mount("http://", Adapter())
    proxies.setenv("HTTP_PROXY", "http://proxy.invalid:3128")
    proxies.setenv("NO_PROXY", no_proxy)
    with pytest.raises(Unreachable):
        ask(transport(url, hosts=Hosts.from_environment(), session=session))
    assert [{} if direct else {"http": "http://proxy.invalid:3128"}] == used


def test_a_proxy_gets_its_own_password(
    proxies: pytest.MonkeyPatch, proxy: Peer, transport: MakeTransport, ask: Ask
) -> None:
    """User and password in a proxy's URL go to the proxy, and nowhere else."""
    proxies.setenv("HTTP_PROXY", proxy.url.replace("//", "//user:planted@"))
    hosts = Hosts.from_environment()
    ask(transport("http://registry.invalid", hosts=hosts))
    assert requests.auth._basic_auth_str("user", "planted") == proxy.asked[0].headers["proxy-authorization"]
    assert "planted" not in repr(hosts)


def test_a_proxy_is_not_for_the_redirects_target_alone(
    proxies: pytest.MonkeyPatch, proxy: Peer, serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask
) -> None:
    """Each URL on the way is looked up by itself: the registry needs no proxy, the CDN does."""
    peer = serve(reply(307, Location="http://cdn.invalid/data?sig=1"))
    proxies.setenv("HTTP_PROXY", proxy.url)
    proxies.setenv("NO_PROXY", "127.0.0.1")
    assert RAW == ask(transport(peer.url, hosts=Hosts.from_environment()))
    assert ["http://cdn.invalid/data?sig=1"] == [asked.target for asked in proxy.asked]


# Certificate authorities by variable

CA_VARIABLES = ("DISTSDK_CACERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


@pytest.fixture
def no_ca(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """An environment that names no authorities."""
    for name in CA_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("first", range(len(CA_VARIABLES)))
def test_the_first_variable_counts(no_ca: pytest.MonkeyPatch, tmp_path: Path, first: int) -> None:
    """Four variables may name the authorities, in this order; an empty one names none."""
    for number, name in enumerate(CA_VARIABLES):
        file = tmp_path / str(number)
        file.touch()
        no_ca.setenv(name, "" if number < first else str(file))
    assert tmp_path / str(first) == Hosts.from_environment().ca_file
    assert tmp_path / "0" == Hosts.from_environment(ca_file=tmp_path / "0").ca_file


def test_no_variable_means_the_usual_ones(no_ca: pytest.MonkeyPatch) -> None:
    """Without any of them nothing is set."""
    assert Hosts.from_environment().ca_file is None


@pytest.mark.parametrize("variable", CA_VARIABLES)
def test_a_variable_that_names_nothing(no_ca: pytest.MonkeyPatch, tmp_path: Path, variable: str) -> None:
    """A file that is not there is an error that names the variable, and not a silent fallback."""
    no_ca.setenv(variable, str(tmp_path / "missing.pem"))
    with pytest.raises(InvalidConfig, match=f"{variable} names .*missing.pem.*does not exist"):
        Hosts.from_environment()


def test_an_option_that_names_nothing(no_ca: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same for the argument."""
    with pytest.raises(InvalidConfig, match=r"missing\.pem"):
        Hosts.from_environment(ca_file=tmp_path / "missing.pem")


@pytest.mark.parametrize("variable", CA_VARIABLES)
def test_the_authority_of_a_variable_is_the_one(
    no_ca: pytest.MonkeyPatch,
    serve: Serve,
    reply: Reply,
    transport: MakeTransport,
    ask: Ask,
    authority: Authority,
    variable: str,
) -> None:
    """Over a real connection: with the variable the certificate convinces, without it it does not."""
    peer = serve(reply(200, RAW), authority.context)
    with pytest.raises(Unreachable, match="certificate verification failed"):
        ask(transport(peer.url, hosts=Hosts.from_environment()))
    no_ca.setenv(variable, str(authority.file))
    assert RAW == ask(transport(peer.url, hosts=Hosts.from_environment()))


@pytest.mark.parametrize("content", [b"", b"nothing of the kind\n", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_file_without_certificates(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, authority: Authority, tmp_path: Path, content: bytes
) -> None:
    """A file that holds no certificate is an error that says where it was named: the registry is not to blame."""
    file = tmp_path / "empty.pem"
    file.write_bytes(content)
    peer = serve(reply(200, RAW), authority.context)
    with pytest.raises(InvalidConfig, match=r"contains no certificate.*--cacert and DISTSDK_CACERT"):
        ask(transport(peer.url, hosts=Hosts.from_environment(ca_file=file)))


@pytest.mark.parametrize(("text", "expected"), [("", None), ("0", False), ("1", True)])
def test_plain_http_by_variable(monkeypatch: pytest.MonkeyPatch, text: str, expected: bool | None) -> None:
    """DISTSDK_PLAIN_HTTP is 0 or 1; an argument counts instead."""
    monkeypatch.setenv("DISTSDK_PLAIN_HTTP", text)
    assert expected == Hosts.from_environment().plain_http
    assert expected != Hosts.from_environment(plain_http=not expected).plain_http


def test_plain_http_that_is_neither(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything else is an error that says what is allowed."""
    monkeypatch.setenv("DISTSDK_PLAIN_HTTP", "yes")
    with pytest.raises(InvalidConfig, match="DISTSDK_PLAIN_HTTP must be 0 or 1, not 'yes'"):
        Hosts.from_environment()


# Copies


def test_pickles_carry_no_secrets(proxies: pytest.MonkeyPatch) -> None:
    """A pickled remote works elsewhere, with the same limits, and holds neither token nor session nor login."""
    with Registry(auth="bearer") as registry:
        registry.add_manifest("x", RAW, OCI_MANIFEST, tags=["1"])
        session = requests.Session()
        session.headers["X-Planted"] = "planted"
        original = connect(
            registry.locator("x"),
            hosts=Hosts(),
            timeouts=Timeouts(read=7),
            limits=Limits(token=70_000),
            retry=Retry(attempts=3),
            credentials=Credentials(username="me", password="planted"),
            session=session,
        )
        assert RAW == original.fetch("1").read()
        [token] = [
            r.headers["Authorization"] for r in registry.requests if "Bearer" in r.headers.get("Authorization", "")
        ]
        data = pickle.dumps(original)
        assert (False, False) == (token.split(" ")[1].encode() in data, b"planted" in data)
        copy = pickle.loads(data)  # noqa: S301 - our own bytes
        settings = copy.fetcher._settings
        assert (7, 70_000, 3) == (settings.timeouts.read, settings.limits.token, settings.retry.attempts)
        assert str(original.locator) == str(copy.locator)
        registry.reset()
        assert RAW == copy.fetch("1").read()
        assert registry.count(path="/token") == 1


def test_pickles_carry_no_proxys_password(proxies: pytest.MonkeyPatch) -> None:
    """A proxy's password belongs to the machine it was configured on."""
    proxies.setenv("HTTPS_PROXY", "http://user:planted@proxy.invalid:3128")
    assert b"planted" not in pickle.dumps(connect("r.example/x", hosts=Hosts.from_environment()))
