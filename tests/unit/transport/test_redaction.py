"""Secrets have no way out: not in messages, representations, tracebacks or the log."""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import pickle
import secrets
import traceback
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

import distsdk
from distsdk import _secrets
from distsdk._secrets import hide, masked, redact
from distsdk.errors import DistError, DistWarning, Unreachable
from distsdk.testing import Registry, Stall
from distsdk.transport.credentials import Credentials
from distsdk.transport.hosts import Hosts
from distsdk.transport.settings import Limits, Timeouts

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.transport.conftest import Ask, Asked, MakeTransport, Reply, Serve

SECRET = "pl4nted"
SIGNED = f"/data?X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}&Expires=1"
RAW = b"{}"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://r.example/v2/x/tags/list?n=100&last=b", "https://r.example/v2/x/tags/list?n=100&last=b"),
        ("https://user:pl4nted@r.example/v2/", "https://r.example/v2/"),
        ("https://pl4nted@r.example:5000/v2/", "https://r.example:5000/v2/"),
        ("https://a@b:pl4nted@r.example/", "https://r.example/"),
        ("https://r.example/d?X-Amz-Signature=pl4nted", "https://r.example/d?X-Amz-Signature=REDACTED"),
        ("https://r.example/d?sig=pl4nted&digest=sha256:ab", "https://r.example/d?sig=REDACTED&digest=sha256:ab"),
        ("https://r.example/d?pl4nted", "https://r.example/d?REDACTED"),
        ("https://r.example/d?a=pl4nted=pl4nted", "https://r.example/d?a=REDACTED"),
        ("https://r.example/d?N=pl4nted", "https://r.example/d?N=REDACTED"),
        ("https://r.example/d?scope=a%3Ab&service=s", "https://r.example/d?scope=a:b&service=s"),
        ("https://r.example/d#access_token=pl4nted", "https://r.example/d"),
        ("https://r.example/\x1b[31m\n", "https://r.example/\\x1b[31m"),
        ("https://[::1", "<malformed URL>"),
        ("//user:pl4nted@r.example/x", "//r.example/x"),
        ("", ""),
        ("/v2/x?token=pl4nted", "/v2/x?token=REDACTED"),
    ],
)
def test_urls_are_shown_without_secrets(url: str, shown: str) -> None:
    """Login, fragment, and query values that are not known to be harmless are left out."""
    assert shown == redact(url)


_WORD = st.text("abcXYZ09-._~%:@/?#[] &=;\u00e9\u202e\n", max_size=12)


@given(_WORD, _WORD, _WORD, _WORD)
def test_a_login_is_never_shown(before: str, after: str, host: str, query: str) -> None:
    """Whatever the URL around it, what stands before the last @ of the authority is not shown."""
    before, after = (word.translate(dict.fromkeys(map(ord, "/?#"))) for word in (before, after))
    shown = redact(f"https://{before}{SECRET}{after}@{host}/?{query}")
    assert SECRET not in shown
    assert shown.isprintable()


@given(_WORD, st.text("abcXYZ09-._~%", min_size=1, max_size=12), _WORD)
def test_a_signature_is_never_shown(path: str, name: str, more: str) -> None:
    """Whatever the parameter's name but the few that are known, its value is not shown."""
    known = {"account", "client_id", "digest", "last", "n", "ns", "scope", "service"}
    path, more = (word.translate(dict.fromkeys(map(ord, "?#&;[]"))) for word in (path, more))
    shown = redact(f"https://cdn.example/{path}?{name}{'x' if name in known else ''}={SECRET}&{more}")
    assert SECRET not in shown


def told(error: BaseException) -> str:
    """All that an error tells those who print it: its message, its representation, its attributes."""
    return f"{error} {error!r} {vars(error)}"


def everything(error: BaseException) -> str:
    """All that is printed when nobody catches it, and pickled, with the errors that it came from.

    Those that Python does not print, too: tblib lets every process pickle them in which Dask is imported.
    """
    words = [*traceback.format_exception(error), pickle.dumps(error).decode("latin-1")]
    todo: list[BaseException | None] = [error]
    seen: list[BaseException] = []
    while todo:
        one = todo.pop()
        if one is not None:
            assert one not in seen, "errors that came from each other cannot be pickled so"
            seen.append(one)
            words += [repr(one.args), repr(vars(one))]
            todo += [one.__cause__] if one.__cause__ is one.__context__ else [one.__cause__, one.__context__]
    return "".join(words)


CASES = {
    "refused": (0, b""),
    "hangs up": (1, b""),
    "stalls": (1, None),
    "no HTTP": (1, b"SSH-2.0\r\n\r\n"),
    "404": (1, b"HTTP/1.1 404 X\r\nContent-Length: 0\r\n\r\n"),
    "403": (1, b"HTTP/1.1 403 X\r\nContent-Length: 0\r\n\r\n"),
    "401": (1, b"HTTP/1.1 401 X\r\nContent-Length: 0\r\n\r\n"),
    "429": (1, b"HTTP/1.1 429 X\r\nContent-Length: 0\r\n\r\n"),
    "503": (1, b"HTTP/1.1 503 X\r\nContent-Length: 0\r\n\r\n"),
    "ends early": (1, b"HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\n{}"),
    "bad chunks": (1, b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
    "too large": (1, b"HTTP/1.1 200 X\r\nContent-Length: 9999\r\n\r\n{}"),
    "redirects to ftp": (1, f"HTTP/1.1 307 X\r\nLocation: ftp://u:{SECRET}@h{SIGNED}\r\n\r\n".encode()),
    "redirects nowhere": (1, f"HTTP/1.1 307 X\r\nLocation: http://[{SECRET}{SIGNED}\r\n\r\n".encode()),
    "redirects to an odd host": (1, f"HTTP/1.1 307 X\r\nLocation: http://a..b{SIGNED}\r\n\r\n".encode()),
    "redirects to a long host": (1, f"HTTP/1.1 307 X\r\nLocation: http://{'a' * 70}.b{SIGNED}\r\n\r\n".encode()),
    "redirects to an unknown host": (1, f"HTTP/1.1 307 X\r\nLocation: http://h.invalid{SIGNED}\r\n\r\n".encode()),
    "redirects for ever": (1, f"HTTP/1.1 307 X\r\nLocation: {SIGNED}\r\nContent-Length: 0\r\n\r\n".encode()),
    "broken headers": (1, b"HTTP/1.1 404 X\r\nContent-Length: 0\r\nno header\r\n\r\n"),
    "TLS": (1, f"HTTP/1.1 307 X\r\nLocation: https://{{host}}{SIGNED}\r\nContent-Length: 0\r\n\r\n".encode()),
}


@pytest.fixture(params=list(CASES.values()), ids=list(CASES))
def failing(
    request: pytest.FixtureRequest, serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask
) -> DistError:
    """The error of a registry that redirects to a signed URL, where something fails."""
    listens, answer = request.param

    def send(_: Asked, stream: socket.socket) -> bool:
        if answer is None:
            cdn.closing.wait()
            return False
        stream.sendall(answer.replace(b"{host}", cdn.host.encode()))
        return bool(answer)

    cdn = serve(send)
    if not listens:
        cdn.close()
    peer = serve(reply(307, Location=f"{cdn.url}{SIGNED}"))
    with pytest.raises(DistError) as caught:
        ask(transport(peer.url, timeouts=Timeouts(1, 0.3, 1), limits=Limits(document=100)))
    return caught.value


@pytest.mark.slow
def test_a_signed_url_is_not_in_the_error(failing: DistError) -> None:
    """Whatever fails at a signed URL, the error does not give its signature away."""
    assert SECRET not in told(failing)


@pytest.mark.slow
def test_a_signed_url_is_not_in_the_traceback(failing: DistError) -> None:
    """Nor does what Python prints when nobody catches it, causes included, nor the error's pickle."""
    assert SECRET not in everything(failing)


def test_a_session_that_cannot_go_there(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask) -> None:
    """A session without an adapter for https is Unreachable, without the signature that requests puts in its words."""
    peer = serve(reply(307, Location=f"https://cdn.invalid{SIGNED}"))
    session = requests.Session()
    del session.adapters["https://"]
    with pytest.raises(Unreachable) as caught:
        ask(transport(peer.url, session=session))
    assert SECRET not in told(caught.value)


def test_a_session_that_tells(serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask) -> None:
    """An adapter may put the URL into its error; ours does not repeat it."""

    class Adapter(requests.adapters.HTTPAdapter):
        def send(self, request: requests.PreparedRequest, *_: object, **__: object) -> requests.Response:
            message = f"cannot get {request.url}"
            raise requests.ConnectionError(message)

    peer = serve(reply(307, Location=f"http://localhost:1{SIGNED}"))
    session = requests.Session()
    session.mount("http://localhost", Adapter())
    with pytest.raises(Unreachable) as caught:
        ask(transport(peer.url, session=session))
    assert SECRET not in told(caught.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("proxy", ["http://user:pl4nted@127.0.0.1:1", "http://user:pl4nted@[::1", "x://u:pl4nted@h:1"])
def test_a_proxys_password_is_not_in_the_error(transport: MakeTransport, ask: Ask, scheme: str, proxy: str) -> None:
    """A proxy that does not work, or is none, is told without its password."""
    hosts = Hosts(proxies={"http": proxy, "https": proxy})
    with pytest.raises(DistError) as caught:
        ask(transport(f"{scheme}://registry.invalid", hosts=hosts))
    assert SECRET not in told(caught.value) + repr(hosts)


def test_nothing_secret_is_logged(
    serve: Serve, reply: Reply, transport: MakeTransport, ask: Ask, caplog: pytest.LogCaptureFixture
) -> None:
    """The debug logs of distsdk and of urllib3 have every request, and neither tokens nor signatures."""

    def answer(asked: Asked, stream: socket.socket) -> bool:
        if asked.target.startswith("/token"):
            stream.sendall(reply(200, b'{"token": "pl4nted"}'))
        elif asked.target.startswith("/data"):
            stream.sendall(reply(200, RAW, X_Secret=SECRET, Set_Cookie=SECRET))
        elif asked.headers.get("authorization"):
            stream.sendall(reply(307, Location=SIGNED))
        else:
            stream.sendall(reply(401, WWW_Authenticate=f'Bearer realm="{peer.url}/token?key={SECRET}"'))
        return True

    peer = serve(answer)
    shared = transport(peer.url)
    with caplog.at_level(logging.DEBUG):
        ask(shared)
    assert {"distsdk", "urllib3"} <= {record.name.partition(".")[0] for record in caplog.records}
    assert SECRET not in "".join(f"{record.getMessage()} {vars(record)}" for record in caplog.records)
    own = [record for record in caplog.records if record.name.startswith("distsdk")]
    assert [401, 200, 307, 200] == [int(record.getMessage().rpartition(" ")[2]) for record in own]
    assert SECRET not in f"{shared!r} {vars(shared)!r}"


@pytest.mark.slow
def test_a_refused_token_is_not_in_the_error(transport: MakeTransport, ask: Ask) -> None:
    """An error that comes while a token is in use does not tell it, nor does its traceback."""
    with Registry(auth="bearer") as registry:
        registry.add_manifest("x", RAW, "application/json", tags=["1"])
        registry.fault(Stall(1), path="/v2/")
        with pytest.raises(DistError) as caught:
            ask(transport(registry.url, timeouts=Timeouts(1, 1, 1)))
        [token] = {r.headers["Authorization"].split(" ")[1] for r in registry.requests if "Authorization" in r.headers}
    assert token not in told(caught.value) + everything(caught.value)


# Paths that may be signed


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/downloads/AF2bZyhgR0mYBWhRhbBqwUVPGRdL51FcYGlnbIPo_x", "/downloads/REDACTED"),
        ("/eyJhbGciOiJSUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl/blob", "/REDACTED/blob"),
        ("/secure/q3fY0zT1kJ8wXv9LhB2s7A/1700000000/x", "/secure/REDACTED/1700000000/x"),
        ("/x/d41d8cd98f00b204e9800998ecf8427e/y", "/x/REDACTED/y"),
        ("/x/a;sig=pl4nted-1/y", "/x/REDACTED/y"),
        (f"/registry-v2/docker/registry/v2/blobs/sha256/ab/{'a1' * 32}/data", None),
        (f"/ghcr1/blobs/sha256:{'a1' * 32}", None),
        (f"/v2/library/redis/manifests/{'a1b2' * 10}", None),
        (f"/v2/a1b2c3d4e5f6a1b2c3d4e5f6/x/blobs/sha256:{'a1' * 32}", None),
        (f"/x/{'a1' * 32}/y", "/x/REDACTED/y"),
        ("/datasets/DistributionManifestV2Schema1/index.json", None),
        ("/redis-7.2.4-1748304052123-amd64-20240115/containerregistryapplication", None),
    ],
)
def test_signed_paths_are_redacted(path: str, shown: str | None) -> None:
    """Segments of random text are left out; digests, names and the paths of the API stay."""
    assert f"https://h.example{shown or path}" == redact(f"https://h.example{path}")


@pytest.mark.parametrize("size", [20, 24, 32, 48, 64])
def test_a_random_segment_is_redacted(size: int) -> None:
    """Base64 and hex of random bytes are recognised as signatures."""
    for number in range(200):
        signature = hashlib.sha512(str(number).encode()).digest()[:size]
        for text in (base64.urlsafe_b64encode(signature).decode().rstrip("="), signature.hex()):
            assert "https://h.example/x/REDACTED/y" == redact(f"https://h.example/x/{text}/y")


# Secrets that a server repeats


def test_hidden_secrets_are_masked() -> None:
    """A secret is masked in any case, percent-encoded, cut off, and in the midst of text."""
    secret = "Hidden+Token/1234567890=="
    assert secret == masked(secret)
    hide(secret)
    for text in (secret, secret.lower(), secret.upper(), quote(secret, safe=""), secret[:18]):
        assert "a REDACTED." == masked(f"a {text}.")
    assert "xREDACTEDy REDACTED" == masked(f"x{secret}y {secret}")
    assert "\u0130 REDACTED" == masked(f"\u0130 {secret}")
    assert "REDACTED" == str(Unreachable(secret)) == str(DistWarning(secret))


@pytest.mark.parametrize("word", ["", "a", "abc1234", "registry", "documents", "fifteen-letters"])
def test_ordinary_words_are_not_masked(word: str) -> None:
    """What is too short for a secret, or has no digit and is not long, stays."""
    hide(word)
    assert word == masked(word)


def test_hidden_secrets_are_bounded() -> None:
    """The newest secrets are masked, of any number."""
    for number in range(2000):
        hide(f"a-token-with-number-{number:08}")
    assert len(_secrets._hidden) <= _secrets._MOST_HIDDEN
    assert "REDACTED" == masked("a-token-with-number-00001999")


REPEATS: dict[str, Callable[[str], tuple[int, dict[str, str], str]]] = {
    "message": lambda said: (403, {}, json.dumps({"errors": [{"code": "X", "message": f"not {said}"}]})),
    "cut message": lambda said: (403, {}, json.dumps({"errors": [{"message": "x" * 280 + said}]})),
    "code": lambda said: (404, {}, json.dumps({"errors": [{"code": said}]})),
    "detail": lambda said: (500, {}, json.dumps({"errors": [{"code": "X", "detail": {said: [said]}}]})),
    "challenge": lambda said: (401, {"WWW-Authenticate": f'{said} realm="x"'}, ""),
    "realm": lambda said: (401, {"WWW-Authenticate": f'Bearer realm="ftp://h.example/{quote(said)}"'}, ""),
    "redirect": lambda said: (307, {"Location": f"ftp://h.example/{quote(said)}"}, ""),
    "redirect within": lambda said: (307, {"Location": f"/{quote(said)}"}, ""),
    "redirect with a query": lambda said: (307, {"Location": f"/x?{quote(said)}&n={quote(said)}"}, ""),
    "media type": lambda said: (200, {"Content-Type": f"application/{said.replace(' ', '').rstrip('=')}"}, "{}"),
    "warning": lambda said: (200, {"Warning": f'299 - "{said}"'}, "{"),
}


@pytest.mark.parametrize("how", REPEATS)
@pytest.mark.parametrize("scheme", ["Basic", "Bearer"])
def test_a_login_that_a_server_repeats_is_masked(
    serve: Serve,
    reply: Reply,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    recwarn: pytest.WarningsRecorder,
    scheme: str,
    how: str,
) -> None:
    """The Authorization header or its token in a response is in no message, warning, log, pickle or cassette."""
    token = f"planted.{secrets.token_hex(20)}"
    password = f"planted-{secrets.token_hex(8)}"
    seen: list[str] = []

    def answer(asked: Asked, stream: socket.socket) -> bool:
        authorization = asked.headers.get("authorization", "")
        if asked.target.startswith("/token"):
            stream.sendall(reply(200, json.dumps({"token": token}).encode()))
        elif not authorization.startswith(scheme):
            realm = f'Bearer realm="{peer.url}/token"' if scheme == "Bearer" else 'Basic realm="x"'
            stream.sendall(reply(401, WWW_Authenticate=realm))
        else:
            seen.append(authorization.rpartition(" ")[2])
            status, headers, body = REPEATS[how](authorization)
            stream.sendall(reply(status, body.encode(), **headers))
        return True

    peer = serve(answer)
    login = Credentials(username="ann", password=password)
    with caplog.at_level(logging.DEBUG), distsdk.record(tmp_path / "kept"):
        remote = distsdk.connect(f"{peer.host}/x", credentials=login, retry=distsdk.Retry(attempts=1))
        with pytest.raises(DistError) as caught:
            remote.fetch("1")
    assert seen
    kept = b"".join(path.read_bytes() for path in (tmp_path / "kept").rglob("*") if path.is_file())
    logged = "".join(record.getMessage() for record in caplog.records)
    warned = "".join(str(warning.message) for warning in recwarn)
    shown = told(caught.value) + everything(caught.value) + logged + warned + kept.decode()
    for secret in {*seen, password}:
        for start in (secret[:12], quote(secret[:12], safe="")):
            assert start.lower() not in shown.lower()
