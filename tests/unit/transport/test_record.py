"""Recording: what is kept of a registry's words, and what is not, and that it plays as it was."""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
import os
import stat
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import requests
import yaml
from attrs import frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import distsdk
from distsdk._secrets import hide
from distsdk.testing import Cut, Redirect, Registry, Request, Response, Status
from distsdk.transport.cassette.record import Recorder, scrub_body, scrub_response_headers, scrub_url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

LAYER = gzip.compress(os.urandom(300_000), mtime=0)
PASSWORD = "planted-password"


def interactions(cassette: Path) -> list[dict[str, Any]]:
    """Return what is in a cassette."""
    found: list[dict[str, Any]] = yaml.safe_load(cassette.read_text())["interactions"]
    return found


def in_files(folder: Path) -> bytes:
    """Return all there is in the files of a folder, and their names."""
    return b"\n".join(bytes(path) + path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def site(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Registry]:
    """A registry that gives tokens to who logs in, and sends to signed URLs of another host for its blobs."""
    with (
        Registry(auth="bearer", logins={"planted-user": PASSWORD}) as registry,
        Registry(content_of=registry) as cdn,
    ):
        registry.fault(Redirect(cdn.url + "{path}?X-Amz-Signature=planted-{unique}"), path="/blobs/")
        registry.add_image("team/app", "1", layers=[LAYER, b"second"])
        logins = tmp_path / "auth.json"
        login = {"auth": "cGxhbnRlZC11c2VyOnBsYW50ZWQtcGFzc3dvcmQ="}
        logins.write_text(json.dumps({"auths": {registry.host: login}}))
        monkeypatch.setenv("REGISTRY_AUTH_FILE", str(logins))
        yield registry


def look(locator: str) -> tuple[Any, ...]:
    """Return all that there is to see of an image: the document, its digest, its layers whole and in part, tags."""
    remote = distsdk.connect(locator)
    manifest = remote.manifest("1")
    with ThreadPoolExecutor(4) as pool:
        layers = list(pool.map(lambda layer: remote.fetch(layer).read(), manifest.layers))
    with remote.fetch(manifest.layers[0]).open() as file:
        file.seek(-1000, 2)
        end = file.read()
    with pytest.raises(distsdk.NotFound):
        remote.fetch("2")
    return (manifest.raw, remote.resolve("1"), layers, end, list(remote.tags()))


def test_recorded_and_played(site: Registry, tmp_path: Path) -> None:
    """What was seen of a registry with logins, tokens and signed URLs is seen again, and no secret of it is kept."""
    folder = tmp_path / "kept"
    with distsdk.record(folder):
        seen = look(site.locator("team/app"))
    secrets = {header.split()[-1] for header in site.authorizations} | {PASSWORD, "planted"}
    assert len(secrets) >= 4, "a login and a token among them"
    kept = in_files(folder)
    for secret in secrets:
        assert secret.encode() not in kept
    assert b"REDACTED" in kept
    asked = [entry["request"]["uri"] for entry in interactions(folder / "cassette.yaml")]
    before = site.count()
    with distsdk.replay(folder):
        assert seen == look(site.locator("team/app"))
    assert before == site.count()
    assert any(uri.endswith("scope=repository%3Ateam%2Fapp%3Apull") for uri in asked)


@pytest.mark.slow
def test_played_by_the_command_line(site: Registry, tmp_path: Path) -> None:
    """`--replay` plays what `record` wrote."""
    with distsdk.record(tmp_path / "app.yaml"):
        look(site.locator("team/app"))
    before = site.count()
    command = [sys.executable, "-m", "distsdk", "--replay", str(tmp_path / "app.yaml"), "fetch"]
    digest = f"sha256:{hashlib.sha256(LAYER).hexdigest()}"
    done = subprocess.run([*command, f"{site.locator('team/app')}@{digest}"], capture_output=True, check=False)
    assert (0, b"", LAYER) == (done.returncode, done.stderr, done.stdout)
    assert before == site.count()


def test_the_files(site: Registry, tmp_path: Path) -> None:
    """A cassette and its bodies are files as any program writes them; nothing else is left; again gives the same."""
    for name in ("one", "two"):
        with distsdk.record(tmp_path / name / "app.yaml"):
            distsdk.connect(site.locator("team/app")).fetch("1").read()
            distsdk.connect(site.locator("team/app")).fetch(distsdk.Digest.of(LAYER)).read()
    (tmp_path / "plain").touch()
    files = [path.relative_to(tmp_path / "one") for path in (tmp_path / "one").rglob("*") if path.is_file()]
    body = hashlib.sha256(LAYER).hexdigest()
    assert {"app.yaml", f"bodies/{body[:2]}/{body}"} <= {path.as_posix() for path in files}
    for file in files:
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
        assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == stat.S_IMODE(
            (tmp_path / "one" / file).stat().st_mode
        )
        if file.suffix != ".yaml":
            assert hashlib.sha256((tmp_path / "one" / file).read_bytes()).hexdigest() == file.name
    assert not list((tmp_path / "one").rglob(".*"))


def test_nothing_is_there_before_the_end(site: Registry, tmp_path: Path) -> None:
    """An earlier cassette is replaced when the block ends, in one piece; by an error, too."""
    cassette = tmp_path / "app.yaml"
    cassette.write_text("before")

    def ends_early() -> None:
        with distsdk.record(cassette):
            distsdk.connect(site.locator("team/app")).fetch("1").read()
            assert "before" == cassette.read_text()
            raise KeyError

    with pytest.raises(KeyError):
        ends_early()
    assert interactions(cassette)


def test_nothing_was_asked(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Then there is no cassette, and a warning says why; one that was there stays."""
    (tmp_path / "app.yaml").write_text("before")
    with caplog.at_level(logging.WARNING), distsdk.record(tmp_path / "app.yaml"):
        distsdk.connect("registry.example/app")
    assert "nothing was asked" in caplog.text
    assert [tmp_path / "app.yaml"] == list(tmp_path.iterdir())
    assert "before" == (tmp_path / "app.yaml").read_text()


def test_where_it_cannot_be_written(tmp_path: Path) -> None:
    """That is said before anything is asked."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"), distsdk.record(tmp_path / "file" / "app.yaml"):
        pytest.fail("nothing may be asked")


def test_without_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyYAML the error names the extra that brings it, before anything is asked."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(distsdk.MissingExtra, match=r"distsdk\[replay\]"), distsdk.record(tmp_path / "c.yaml"):
        pytest.fail("nothing may be asked")
    assert [] == list(tmp_path.iterdir())


def test_what_is_played_can_be_recorded(site: Registry, tmp_path: Path) -> None:
    """Inside a `replay` block, and from the inner of two blocks; what was connected outside is not in it."""
    outside = distsdk.connect(site.locator("team/app"))
    with distsdk.record(tmp_path / "one"):
        seen = look(site.locator("team/app"))
        with distsdk.record(tmp_path / "inner"):
            outside.fetch("1").read()
            inner = distsdk.connect(site.locator("team/app")).fetch("1").read()
    assert not [i for i in interactions(tmp_path / "inner/cassette.yaml") if "tags/list" in i["request"]["uri"]]
    before = site.count()
    with distsdk.replay(tmp_path / "one"), distsdk.record(tmp_path / "two"):
        assert seen == look(site.locator("team/app"))
    with distsdk.replay(tmp_path / "two"):
        assert seen == look(site.locator("team/app"))
    with distsdk.replay(tmp_path / "inner"):
        assert inner == distsdk.connect(site.locator("team/app")).fetch("1").read()
    assert before == site.count()


@pytest.mark.slow
def test_by_several_connections(tmp_path: Path) -> None:
    """A blob that came over several connections is played over one, and over others."""
    data = os.urandom(20 * 1024 * 1024)
    with Registry() as registry, distsdk.record(tmp_path / "many"):
        digest = registry.add_blob("team/app", data).digest
        remote = distsdk.connect(registry.locator("team/app"))
        assert data == b"".join(remote.fetch(digest).stream(connections=3))
    with distsdk.replay(tmp_path / "many"):
        for connections in (1, 3):
            blob = distsdk.connect(registry.locator("team/app")).fetch(digest)
            assert data == b"".join(blob.stream(connections=connections))


def test_a_body_that_broke(tmp_path: Path) -> None:
    """It breaks where it broke, and goes on as it went on."""
    with Registry() as registry, distsdk.record(tmp_path / "cut"):
        digest = registry.add_blob("team/app", LAYER).digest
        registry.fault(Cut(100_000), path="/blobs/", times=1)
        assert LAYER == distsdk.connect(registry.locator("team/app")).fetch(digest).read()
        assert 2 == registry.count("GET")
    first, second = interactions(tmp_path / "cut" / "cassette.yaml")
    assert 100_000 == (tmp_path / "cut" / first["response"]["body"]["file"]).stat().st_size
    assert 206 == second["response"]["status"]["code"]
    with distsdk.replay(tmp_path / "cut"):
        assert LAYER == distsdk.connect(registry.locator("team/app")).fetch(digest).read()


def test_a_read_that_outlives_the_block(tmp_path: Path) -> None:
    """What is read after the block is not recorded, and disturbs nothing."""
    with Registry() as registry:
        digest = registry.add_blob("team/app", LAYER).digest
        with distsdk.record(tmp_path / "half"):
            stream = distsdk.connect(registry.locator("team/app")).fetch(digest).stream()
            first = next(stream)
        assert first + b"".join(stream) == LAYER
    [found] = interactions(tmp_path / "half" / "cassette.yaml")
    kept = (tmp_path / "half" / found["response"]["body"]["file"]).read_bytes()
    assert LAYER.startswith(kept)
    assert len(kept) < len(LAYER)
    assert str(len(LAYER)) == found["response"]["headers"]["Content-Length"][0]


def answered(
    url: str, body: bytes | None = None, *, method: str = "GET", status: int = 200
) -> tuple[requests.PreparedRequest, requests.Response]:
    """Return a request that was prepared, and a response to it, as the recorder is given them."""
    request = requests.PreparedRequest()
    request.prepare(method=method, url=url, data=body)
    if body is not None:
        request.headers["Content-Type"] = "application/x-www-form-urlencoded"
    response = requests.Response()
    response.status_code = status
    response.reason = "OK"
    return request, response


def recorded(
    cassette: Path, asked: tuple[requests.PreparedRequest, requests.Response], body: bytes
) -> list[dict[str, Any]]:
    """Record one exchange; return what is in the cassette then."""
    recorder = Recorder(cassette)
    if (exchange := recorder.exchange(*asked)) is not None:
        exchange.add(body)
    recorder.finish()
    return interactions(cassette) if cassette.exists() else []


def test_login_by_a_form(tmp_path: Path) -> None:
    """A token that was asked for with a refresh token is kept as asked for without: the form is nowhere to be seen."""
    form = b"grant_type=refresh_token&refresh_token=planted&service=s&client_id=distsdk&scope=repository%3Aa%3Apull"
    url = "https://auth.example/token?account=planted"
    reply = b'{"access_token": "planted", "refresh_token": "planted", "issued_at": "planted", "expires_in": 60}'
    [kept] = recorded(tmp_path / "c.yaml", answered(url, form, method="POST"), reply)
    assert b"planted" not in in_files(tmp_path)
    assert "GET" == kept["request"]["method"]
    assert "https://auth.example/token?service=s&scope=repository%3Aa%3Apull" == kept["request"]["uri"]
    assert [] == recorded(tmp_path / "d.yaml", answered(url, form, method="POST", status=405), b"{}")


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b'{"token": "planted"}'),
        (200, b'{"token": "plan'),
        (200, b'{"expires_in": 1, "access_token" : "planted'),
        (400, b'{"refresh_token": "planted", "errors": []}'),
        (403, b"<Error><StringToSign>planted</StringToSign></Error>"),
        (
            400,
            b'{"errors": [{"message": "no https://h.example/x?sig=planted", "detail": {"a": ["/b?t=planted"]}}]}',
        ),
        (500, b'["https://planted:planted@h.example/x"]'),
        (403, b'{"/x?sig=planted": 1}'),
        (307, b'<a href="https://cdn.example/x?X-Amz-Signature=planted">Temporary Redirect</a>'),
        (200, b'{"token": "planted", "more": "' + b"x" * 100_000 + b'"}'),
    ],
)
def test_bodies_with_secrets(tmp_path: Path, status: int, body: bytes) -> None:
    """Tokens are nowhere in a reply, also of one that broke off or is long; nor are pages with signatures."""
    [kept] = recorded(tmp_path / "c.yaml", answered("https://host.example/x", status=status), body)
    assert b"plan" not in in_files(tmp_path)
    length = kept["response"]["headers"]["Content-Length"][0]
    stored = kept["response"]["body"]
    assert length == str((tmp_path / stored["file"]).stat().st_size if "file" in stored else len(stored["string"]))


def test_content_is_kept_whatever_it_says(tmp_path: Path) -> None:
    """A blob may be JSON with a field of that name: what its digest is the name of stays as it is."""
    body = b'{"token": "<s>", "pad": 0}'
    url = f"https://host.example/v2/a/blobs/sha256:{hashlib.sha256(body).hexdigest()}"
    [kept] = recorded(tmp_path / "c.yaml", answered(url), body)
    assert body.decode() == kept["response"]["body"]["string"]
    assert body == scrub_body(body, url=url)


def test_headers() -> None:
    """What means nothing to a client is dropped; the URLs that are left name things, and sign nothing."""
    said = {
        "Set-Cookie": "planted",
        "Date": "today",
        "X-Request-Id": "planted",
        "Location": "https://u:planted@cdn.example/x?sig=planted&digest=sha256:0",
        "Link": '</v2/a/tags/list?n=1&last=b&next=planted>; rel="next"',
        "WWW-Authenticate": 'Bearer realm="https://auth.example/token?key=planted",service="s"',
        "Content-Type": "text/plain",
    }
    assert {
        "Location": "https://cdn.example/x?digest=sha256:0",
        "Link": '</v2/a/tags/list?n=1&last=b>; rel="next"',
        "WWW-Authenticate": 'Bearer realm="https://auth.example/token",service="s"',
        "Content-Type": "text/plain",
    } == scrub_response_headers(said)


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Bearer realm=https://auth.example/token?key=planted,service=s", "Bearer"),
        (
            'Bearer realm="https://u:planted@a.example/t",service=s,x=planted',
            'Bearer realm="https://a.example/t",service="s"',
        ),
        (
            'bearer scope="a b",realm="https://auth.example/t", x="planted"',
            'Bearer realm="https://auth.example/t",scope="a b"',
        ),
        ("Negotiate planted==", "Negotiate"),
        ('Basic realm="a \\"b\\" c"', 'Basic realm="a \\"b\\" c"'),
        ('Basic realm="x", Bearer realm="https://auth.example/planted-1234567890?a"', None),
    ],
)
def test_challenges(said: str, kept: str | None) -> None:
    """Of a challenge the parameters stay that a client reads; an unquoted URL, which none can read, does not."""
    hide("planted-1234567890")
    [scrubbed] = scrub_response_headers({"WWW-Authenticate": said}).values()
    assert (kept or 'Basic realm="x", Bearer realm="https://auth.example/REDACTED"') == scrubbed
    assert {"WWW-Authenticate": scrubbed} == scrub_response_headers({"WWW-Authenticate": scrubbed})


def test_signed_paths(tmp_path: Path) -> None:
    """A signature in a path is not kept, whichever it is; redirects to it are played, each to its own blob."""
    signatures = [hashlib.sha512(str(number).encode()).hexdigest()[:40] for number in range(2)]

    @frozen
    class Signed:
        def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
            name = request.path.rpartition("/")[2]
            if "/blobs/" in request.path:
                number = 0 if name == str(layers[0].digest) else 1
                return Response(307, (("Location", f"/storage/{signatures[number]}/{number}"),))
            if request.path.startswith("/storage/"):
                return Response(200, (), (memoryview([LAYER, b"second"][int(name)]),))
            return respond(request)

    with Registry() as registry:
        registry.add_image("team/app", "1", layers=[LAYER, b"second"])
        locator = registry.locator("team/app")
        seen = distsdk.connect(locator)
        layers = seen.manifest("1").layers
        registry.fault(Signed())
        with distsdk.record(tmp_path / "kept"):
            remote = distsdk.connect(locator)
            assert [LAYER, b"second"] == [remote.fetch(layer).read() for layer in layers]
    for signature in signatures:
        assert signature.encode() not in in_files(tmp_path / "kept")
    with distsdk.replay(tmp_path / "kept"):
        remote = distsdk.connect(locator)
        assert [LAYER, b"second"] == [remote.fetch(layer).read() for layer in layers]


@given(
    user=st.text(st.characters(categories=["Lu", "Ll", "Nd"]), min_size=1),
    names=st.lists(st.sampled_from(["sig", "X-Amz-Signature", "n", "last", "digest", "token", "Expires", "next"])),
)
def test_urls(user: str, names: list[str]) -> None:
    """Of a URL nothing is left that may be a secret, and it is not changed a second time."""
    query = "&".join(f"{name}={user}" for name in names)
    scrubbed = scrub_url(f"https://{user}:{user}@host.example/path?{query}#{user}")
    kept = "&".join(f"{name}={user}" for name in names if name in {"n", "last", "digest"})
    assert scrubbed == f"https://host.example/path{'?' if kept else ''}{kept}" == scrub_url(scrubbed)


@given(body=st.binary(max_size=2000))
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture], max_examples=50)
def test_any_bytes(tmp_path: Path, body: bytes) -> None:
    """Whatever a body is, played it is the same bytes."""
    folder = tmp_path / hashlib.sha256(body).hexdigest()  # a process reads a cassette once
    url = f"https://registry.example/{hashlib.sha256(body).hexdigest()}"
    recorded(folder / "c.yaml", answered(url), body)
    with distsdk.replay(folder / "c.yaml"):
        from distsdk.transport.cassette.replay import active_session

        session = active_session()
        assert session is not None
        assert body == session.get(url, headers={"Accept": None}).content


@pytest.mark.slow
def test_threads(tmp_path: Path) -> None:
    """Exchanges of many threads are all kept, each with its own body."""
    recorder = Recorder(tmp_path / "c.yaml")
    start = threading.Barrier(8)

    def work(number: int) -> None:
        start.wait()
        for turn in range(50):
            exchange = recorder.exchange(*answered(f"https://host.example/{number}/{turn}"))
            assert exchange is not None
            for _ in range(3):
                exchange.add(f"{number}/{turn} ".encode())
            exchange.close()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    recorder.finish()
    found = {i["request"]["uri"]: i["response"]["body"]["string"] for i in interactions(tmp_path / "c.yaml")}
    assert found == {f"https://host.example/{n}/{t}": f"{n}/{t} " * 3 for n in range(8) for t in range(50)}
    assert recorder.exchange(*answered("https://host.example/late")) is None


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_leaves_it_to_its_parent(site: Registry, tmp_path: Path) -> None:
    """It records nothing, and ends without touching what the parent writes."""
    program = f"""\
import os, distsdk
with distsdk.record({str(tmp_path / "c.yaml")!r}):
    remote = distsdk.connect({site.locator("team/app")!r})
    remote.fetch("1").read()
    if os.fork() == 0:
        with distsdk.record({str(tmp_path / "child.yaml")!r}):
            pass
        remote.fetch("1").read()
    else:
        assert os.wait()[1] == 0
"""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", program], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    assert not list(tmp_path.glob(".recording-*"))
    manifests = [i for i in interactions(tmp_path / "c.yaml") if i["response"]["status"]["code"] == 200]
    assert 2 == len(manifests), "a token, and the manifest once"


def test_refusals(tmp_path: Path) -> None:
    """An error is recorded as any other answer, without a body that is no JSON."""
    with Registry() as registry, distsdk.record(tmp_path / "c.yaml"):
        registry.fault(Status(418, "short and stout"))
        with pytest.raises(distsdk.RegistryError):
            distsdk.connect(registry.locator("a")).fetch("1")
    [found] = interactions(tmp_path / "c.yaml")
    assert (418, "") == (found["response"]["status"]["code"], found["response"]["body"]["string"])
