"""Origins: which URLs belong together, which a server may lead to, and what it takes for a login to go along."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
import urllib3
from hypothesis import example, given
from hypothesis import strategies as st
from requests import PreparedRequest, RequestException

from distsdk import Credentials, Hosts, Retry, Timeouts
from distsdk.errors import Unsafe
from distsdk.transport.client import Transport
from distsdk.transport.hosts import Endpoint
from distsdk.transport.origin import Origin, follow
from distsdk.transport.settings import Limits

if TYPE_CHECKING:
    import socket

    from tests.unit.transport.conftest import Ask, Asked, Authority, Peer, Reply, Serve

RAW = b"the bytes"
BASE = "https://r.example/v2/x/blobs/1?ns=a"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://r.example", "https://r.example"),
        ("https://r.example:443/v2/", "https://r.example"),
        ("https://r.example:/v2/", "https://r.example"),
        ("HTTPS://R.Example/V2?x#y", "https://r.example"),
        ("http://r.example:80", "http://r.example"),
        ("http://r.example:443", "http://r.example:443"),
        ("https://r.example:80", "https://r.example:80"),
        ("https://r.example:0443", "https://r.example"),
        ("http://[::1]:5000/x", "http://[::1]:5000"),
        ("http://[::1]/x", "http://[::1]"),
        ("https://user:planted@r.example", "https://r.example"),
        ("https://r.example.", "https://r.example."),
        ("https://r.example?.evil.example", "https://r.example"),
        ("https://r.example#@evil.example", "https://r.example"),
        ("https://r.example@evil.example", "https://evil.example"),
    ],
)
def test_origins(url: str, shown: str) -> None:
    """Scheme, host and port, and nothing else; the port a scheme has by itself counts as said."""
    assert shown == str(Origin.of(url))
    assert Origin.of(shown) == Origin.of(url)


@pytest.mark.parametrize(
    "url",
    [
        "http://r.example",
        "https://r.example:444",
        "https://r.example.evil.example",
        "https://evil.example/r.example",
        "https://r-example",
        "https://r.example.",
        "https://www.r.example",
    ],
)
def test_other_origins(url: str) -> None:
    """Each difference in one of the three makes another one."""
    assert Origin.of("https://r.example/") != Origin.of(url)


FOLLOWED = {
    "https://cdn.example/a": "https://cdn.example/a",
    "https://cdn.example": "https://cdn.example",
    "https://cdn.example:8443/a?b=c&d": "https://cdn.example:8443/a?b=c&d",
    "https://cdn.example/a#fragment": "https://cdn.example/a",
    "//cdn.example/a": "https://cdn.example/a",
    "/a": "https://r.example/a",
    "a": "https://r.example/v2/x/blobs/a",
    "../../y/blobs/1": "https://r.example/v2/y/blobs/1",
    "../../../../../../a": "https://r.example/a",
    "?n=2": "https://r.example/v2/x/blobs/1?n=2",
    "https://cdn.example/a b": "https://cdn.example/a%20b",
    "https://cdn.example/a%20b%2F?sig=a%2Bb%3D": "https://cdn.example/a%20b%2F?sig=a%2Bb%3D",
    "https://cdn.example/caf\xc3\xa9": "https://cdn.example/caf%C3%A9",
    "/caf\xe9?\x80=\xff": "https://r.example/caf%E9?%80=%FF",
    "https://[2001:db8::1]:8443/a": "https://[2001:db8::1]:8443/a",
}


@pytest.mark.parametrize(("target", "url"), FOLLOWED.items())
def test_where_a_server_may_lead(target: str, url: str) -> None:
    """Absolute or relative to what was asked (RFC 9110 section 10.2.2); a signature stays as it is, to the letter."""
    assert url == follow(BASE, target, what="redirects to")


REFUSED = [
    "",
    "http://r.example/a",
    "HTTP://r.example/a",
    "http:/a",
    "file:///etc/passwd",
    "FILE:///etc/passwd",
    "ftp://r.example/a",
    "data:,x",
    "javascript:alert(1)",
    "unix:///run/docker.sock",
    "https://:443/a",
    "https://user:planted@cdn.example/a",
    "https://planted@cdn.example/a",
    "https://@cdn.example/a",
    "//user:planted@cdn.example/a",
    "https://r.example:443@evil.example/planted",
    "https://cdn.example:port/a",
    "https://cdn.example:-1/a",
    "https://cdn.example:0/a",
    "https://cdn.example:65536/a",
    "https://cdn.example:99999999999999999999/a",
    "https://[::1/a",
    "https://[planted]/a",
]


@pytest.mark.parametrize("target", REFUSED)
def test_where_no_server_may_lead(target: str) -> None:
    """No other scheme, no way out of TLS, no user, no malformed host or port; what is refused is shown redacted."""
    with pytest.raises(Unsafe, match=r"^https://r\.example/v2/x/blobs/1.* redirects to ") as caught:
        follow(BASE, target, what="redirects to")
    assert "planted" not in str(caught.value).replace("/planted", "")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("target", ["/token", "token", "?x", "//r.example/token", "https://", "https:///token", ""])
def test_what_has_to_be_a_whole_url(target: str) -> None:
    """A token service is named by a whole URL."""
    with pytest.raises(Unsafe):
        follow(BASE, target, what="names as its token service", relative=False)


def test_plain_http_may_lead_anywhere() -> None:
    """Where there is no TLS, there is none to lose."""
    for target in ("http://cdn.example/a", "https://cdn.example/a"):
        assert target == follow("http://r.example/", target, what="redirects to")


_PARTS = st.sampled_from(
    [
        *(
            "https:",
            "http:",
            "HTTPS:",
            "ftp:",
            "/",
            "//",
            "\\",
            "@",
            ":",
            "#",
            "?",
            "%",
            "%40",
            "%2F",
            "..",
            ".",
            "[",
            "]",
        ),
        *("r.example", "evil.example", "127.0.0.1", "::1", "user", "443", "80", "x"),
        *("\xe9", "\uff0f", "\u2100", "\t", "\n", "\x00"),
    ]
)
TARGETS = st.lists(_PARTS, max_size=9).map("".join) | st.text(max_size=30)


@given(TARGETS)
@example("https://r.example\\@evil.example/")
@example("https://r.example%40evil.example/")
@example("https://r.example\uff0fevil.example/")
@example("https:\\\\evil.example")
@example("\t//evil.example")
def test_any_target_is_refused_or_means_the_same_to_all(target: str) -> None:
    """Whoever connects, urllib3, goes to the origin that decides about logins, or nowhere."""
    with contextlib.suppress(Unsafe):
        url = follow(BASE, target, what="redirects to")
        origin = Origin.of(url)
        assert "https" == origin.scheme
        assert (None, "") == (urlsplit(url).username, urlsplit(url).fragment)
        assert url.isascii()
        assert url.isprintable()
        try:
            there = urllib3.util.parse_url(url)
        except urllib3.exceptions.LocationParseError:
            return
        assert origin == Origin(there.scheme or "", (there.host or "").strip("[]").lower(), there.port or 443)
        assert there.auth is None
        asked = PreparedRequest()
        with contextlib.suppress(RequestException, UnicodeError):
            asked.prepare_url(url, None)
            assert asked.url is not None
            assert origin == Origin.of(asked.url)


# On the wire


def basic(peer: Peer, authority: Authority) -> Transport:
    """A transport with a login."""
    return Transport(
        Endpoint(peer.url, headers={"X-Key": "planted"}),
        hosts=Hosts(ca_file=authority.file),
        login=lambda: Credentials(username="ann", password="secret").login("any", ""),
        retry=Retry(attempts=1),
        timeouts=Timeouts(5, 5, 5),
        limits=Limits(),
    )


@pytest.mark.parametrize("where", ["the same", "another port", "another host", "another scheme"])
def test_a_login_goes_where_it_belongs(serve: Serve, reply: Reply, ask: Ask, authority: Authority, where: str) -> None:
    """A redirect within the origin takes login and headers along; one to another port, host or scheme takes neither."""
    other = serve(reply(200, RAW), authority.context if where == "another scheme" else None)

    def answer(asked: Asked, stream: socket.socket) -> bool:
        if "authorization" not in asked.headers:
            stream.sendall(reply(401, WWW_Authenticate="Basic realm=x"))
        elif asked.target == "/there":
            stream.sendall(reply(200, RAW))
        else:
            stream.sendall(reply(307, Location=f"{targets[where]}/there"))
        return True

    registry = serve(answer)
    targets = {
        "the same": registry.url.upper().replace("HTTP:", "http:"),
        "another port": other.url,
        "another host": other.url.replace("127.0.0.1", "localhost"),
        "another scheme": other.url,
    }
    assert RAW == ask(basic(registry, authority))
    login = "Basic YW5uOnNlY3JldA=="
    same = where == "the same"
    assert [None, login, *[login] * same] == registry.authorizations
    assert [None] * (not same) == other.authorizations
    assert {"planted"} == {asked.headers.get("x-key") for asked in registry.asked}
    assert [None] * (not same) == [asked.headers.get("x-key") for asked in other.asked]


def test_a_login_comes_back_to_where_it_belongs(serve: Serve, reply: Reply, ask: Ask, authority: Authority) -> None:
    """A way round through another host: there without the login, back home with it."""

    def answer(asked: Asked, stream: socket.socket) -> bool:
        if "authorization" not in asked.headers:
            stream.sendall(reply(401, WWW_Authenticate="Basic realm=x"))
        elif asked.target == "/back":
            stream.sendall(reply(200, RAW))
        else:
            stream.sendall(reply(307, Location=f"{other.url}/"))
        return True

    registry = serve(answer)
    other = serve(reply(307, Location=f"{registry.url}/back"))
    assert RAW == ask(basic(registry, authority))
    login = "Basic YW5uOnNlY3JldA=="
    assert ([None, login, login], [None]) == (registry.authorizations, other.authorizations)
