from __future__ import annotations

import base64
import http.client
import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

import pytest

from distsdk.testing import JsonFields, Long, Registry, Status

from ...support import HANGS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LOGINS = {"ann": "pass:word", "bob": "π"}
FORM = {"service": "distsdk.testing", "client_id": "test"}
PULL = "repository:private/x:pull"


def basic(user: str, password: str) -> dict[str, str]:
    """The header that logs a user in."""
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def bearer(token: object) -> dict[str, str]:
    """The header that shows a token."""
    return {"Authorization": f"Bearer {token}"}


def ask(url: str, headers: Mapping[str, str] | None = None, body: str | None = None) -> tuple[int, str, bytes]:
    """Ask on a connection of its own, with POST where there is a body; return status, challenge and body."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.netloc, timeout=HANGS)
    try:
        target = url.removeprefix(f"{parts.scheme}://{parts.netloc}")
        connection.request("GET" if body is None else "POST", target, body, dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.headers.get("WWW-Authenticate", ""), answer.read()
    finally:
        connection.close()


def form(registry: Registry, **fields: str) -> tuple[int, dict[str, Any]]:
    """Ask the token service with a form; return status and reply."""
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    status, _, body = ask(f"{registry.url}/token", kind, urlencode({**FORM, **fields}))
    return status, json.loads(body)


def status_of(registry: Registry, name: str, headers: Mapping[str, str] | None = None) -> int:
    """The status of a read of an image's manifest."""
    return ask(f"{registry.url}/v2/{name}/manifests/1", headers)[0]


def filled(registry: Registry) -> Registry:
    """The registry, with an image that takes a login and one that does not."""
    for name in ("private/x", "public/x"):
        registry.add_image(name, "1")
    return registry


@pytest.mark.parametrize(
    ("headers", "private", "public"),
    [
        ({}, 401, 200),
        (basic("ann", "pass:word"), 200, 200),
        (basic("bob", "π"), 200, 200),
        (basic("ann", "wrong"), 401, 401),
        (basic("eve", ""), 401, 401),
        ({"Authorization": "Basic !"}, 401, 401),
        ({"Authorization": basic("ann", "pass:word")["Authorization"].replace("Basic", "Bearer")}, 401, 401),
        ({"Authorization": "Basic " + base64.b64encode(b"\xff:\xff").decode()}, 401, 401),
    ],
)
def test_basic_takes_a_right_login(headers: dict[str, str], private: int, public: int) -> None:
    """Where a login is needed it has to be right; a wrong one is refused also where none is needed."""
    with filled(Registry(auth="basic", logins=LOGINS, private="^private/")) as registry:
        assert private == status_of(registry, "private/x", headers)
        assert public == status_of(registry, "public/x", headers)
        _, challenge, _ = ask(f"{registry.url}/v2/private/x/manifests/1")
        assert 'Basic realm="distsdk.testing"' == challenge
        assert ask(f"{registry.url}/token")[0] == 404
        assert [*headers.values()] * 2 == registry.authorizations


def test_everything_is_private_unless_said() -> None:
    """Without `private` all takes a login, `/v2/` included."""
    with filled(Registry(auth="basic", logins=LOGINS)) as registry:
        assert 401 == status_of(registry, "public/x")
        assert [401, 200] == [ask(f"{registry.url}/v2/", h)[0] for h in ({}, basic("ann", "pass:word"))]


@pytest.mark.parametrize(
    ("headers", "status", "private", "public"),
    [
        ({}, 200, 401, 200),
        (basic("ann", "pass:word"), 200, 200, 200),
        (basic("ann", "wrong"), 401, None, None),
        ({"Authorization": "Bearer x"}, 401, None, None),
    ],
)
def test_the_token_service_takes_a_login(
    headers: dict[str, str], status: int, private: int | None, public: int | None
) -> None:
    """Anyone gets a token, good for what takes no login; who logs in gets one for all; a wrong login gets none."""
    with filled(Registry(auth="bearer", logins=LOGINS, private="^private/")) as registry:
        query = "service=distsdk.testing&scope=repository:public/x:pull&scope=repository:private/x:pull"
        got, _, body = ask(f"{registry.url}/token?{query}", headers)
        reply = json.loads(body)
        assert (status, status == 200) == (got, "token" in reply)
        assert "refresh_token" not in reply
        if status == 200:
            assert private == status_of(registry, "private/x", bearer(reply["token"]))
            assert public == status_of(registry, "public/x", bearer(reply["token"]))


def test_a_form_gives_tokens_for_a_password() -> None:
    """The OAuth2 form takes user and password, answers with `access_token`, and on request with an identity token."""
    with filled(Registry(auth="bearer", logins=LOGINS, token_lifetime=7)) as registry:
        login = {"grant_type": "password", "username": "ann", "password": "pass:word", "scope": PULL}
        status, reply = form(registry, **login)
        token = reply.pop("access_token")
        assert (200, {"expires_in": 7, "scope": PULL}) == (status, reply)
        assert 200 == status_of(registry, "private/x", bearer(token))
        _, reply = form(registry, **login, access_type="offline")
        identity = reply["refresh_token"]
        status, reply = form(registry, grant_type="refresh_token", refresh_token=identity, scope=PULL)
        assert (200, identity) == (status, reply["refresh_token"])
        assert 200 == status_of(registry, "private/x", bearer(reply["access_token"]))
        posted = [request for request in registry.requests if request.method == "POST"]
        assert f"refresh_token={identity}".encode() in posted[-1].body
        assert identity not in repr(posted)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"grant_type": "password", "username": "ann", "password": "wrong"}, 401),
        ({"grant_type": "password"}, 401),
        ({"grant_type": "refresh_token", "refresh_token": "made-up"}, 401),
        ({"grant_type": "refresh_token"}, 401),
        ({"grant_type": "client_credentials"}, 400),
        ({}, 400),
        ({"grant_type": "password", "username": "ann", "password": "pass:word", "service": "other"}, 400),
    ],
)
def test_a_wrong_form_gives_no_token(fields: dict[str, str], status: int) -> None:
    """A wrong login is refused with 401, a form that is not one with 400."""
    with Registry(auth="bearer", logins=LOGINS) as registry:
        got, reply = form(registry, **fields)
        assert (status, ["errors"]) == (got, list(reply))


def test_a_form_has_its_type_and_names_the_client() -> None:
    """Without the media type of forms, or without a client_id, there is no token."""
    with Registry(auth="bearer", logins=LOGINS) as registry:
        login = urlencode({**FORM, "grant_type": "password", "username": "ann", "password": "pass:word"})
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        assert 200 == ask(f"{registry.url}/token", kind, login)[0]
        assert 400 == ask(f"{registry.url}/token", {}, login)[0]
        assert 400 == ask(f"{registry.url}/token", kind, login.replace("client_id", "x"))[0]


def test_identity_tokens_stand_for_a_login() -> None:
    """One made by hand, or asked for with GET, gets tokens until the end; it is for users there are."""
    with filled(Registry(auth="bearer", logins=LOGINS)) as registry:
        _, _, body = ask(f"{registry.url}/token?service=distsdk.testing&offline_token=true", basic("ann", "pass:word"))
        for identity in (registry.identity_token("bob"), json.loads(body)["refresh_token"]):
            registry.expire_tokens()
            _, reply = form(registry, grant_type="refresh_token", refresh_token=identity, scope=PULL)
            assert 200 == status_of(registry, "private/x", bearer(reply["access_token"]))
        with pytest.raises(ValueError, match="eve"):
            registry.identity_token("eve")
    with pytest.raises(ValueError, match="bearer"):
        Registry().identity_token("ann")


def granted(registry: Registry) -> str:
    """A token that anyone gets for `private/x`."""
    _, _, body = ask(f"{registry.url}/token?service=distsdk.testing&scope={PULL}")
    return str(json.loads(body)["token"])


def test_tokens_wear_out() -> None:
    """A token is good for so many requests, refused ones not counted."""
    with filled(Registry(auth="bearer", token_uses=2)) as registry:
        token = granted(registry)
        names = ["private/x", "public/x", "private/x", "private/x"]
        assert [200, 401, 200, 401] == [status_of(registry, name, bearer(token)) for name in names]
        assert 'error="invalid_token"' in ask(f"{registry.url}/v2/", bearer(token))[1]


def test_a_token_service_may_be_another_registry() -> None:
    """The challenge leads there; its tokens and logins count, and it records who got which credentials."""
    with (
        Registry(auth="bearer", logins=LOGINS, private="^private/") as service,
        filled(Registry(auth="bearer", token_service=service)) as registry,
    ):
        _, challenge, _ = ask(f"{registry.url}/v2/private/x/manifests/1")
        assert f'Bearer realm="{service.url}/token",service="distsdk.testing",scope="{PULL}"' == challenge
        login = basic("ann", "pass:word")
        _, _, body = ask(f"{service.url}/token?service=distsdk.testing&scope={PULL}", login)
        token = bearer(json.loads(body)["token"])
        assert 200 == status_of(registry, "private/x", token)
        assert [login["Authorization"]] == service.authorizations
        assert [token["Authorization"]] == registry.authorizations
        assert 401 == status_of(registry, "private/x", bearer(granted(service)))
        assert 404 == ask(f"{registry.url}/token?scope={PULL}", token)[0]


def test_token_replies_can_be_hostile() -> None:
    """Faults reach the token service: any field, any bytes, any size, and a form that is not understood."""
    with Registry(auth="bearer", logins=LOGINS, private="^private/") as registry:
        url = f"{registry.url}/token?service=distsdk.testing"
        right = json.loads(ask(url)[2])
        for values in ({"token": 7}, {"token": "a\nb"}, {"expires_in": -5}):
            registry.fault(JsonFields(values), path="^/token$")
            reply = json.loads(ask(url)[2])
            assert [*right] == [*reply]
            assert values == {name: reply[name] for name in values}
            registry.clear_faults()
        registry.fault(JsonFields(without=["token"]), path="^/token$", times=1)
        assert ["access_token", "expires_in"] == list(json.loads(ask(url)[2]))
        registry.fault(Long(10_000_000), path="^/token$", times=1)
        assert 10_000_000 < len(ask(url)[2])
        registry.fault(Status(404), path="^/token$", method="POST")
        kind = {"Content-Type": "application/x-www-form-urlencoded"}
        assert [404, 200] == [ask(url, kind, "grant_type=password")[0], ask(url)[0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"logins": LOGINS}, "say which"),
        ({"auth": "basic"}, "takes logins"),
        ({"auth": "basic", "token_service": Registry(auth="bearer")}, "a token service has"),
        ({"auth": "bearer", "token_service": Registry()}, "a token service has"),
        ({"auth": "bearer", "token_service": Registry(auth="bearer"), "logins": LOGINS}, "a token service has"),
    ],
)
def test_contradictions_are_refused(arguments: dict[str, Any], message: str) -> None:
    """Arguments that cannot mean anything together are an error at once."""
    with pytest.raises(ValueError, match=message):
        Registry(**arguments)


needs_skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="skopeo is not installed")


def skopeo(file: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run skopeo with this file of logins."""
    command = ["skopeo", *words, "--tls-verify=false", "--authfile", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANGS)


@needs_skopeo
@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_skopeo_logs_in(tmp_path: Path, auth: str) -> None:
    """What skopeo writes after a login reads what takes one, and a wrong password is refused."""
    file = tmp_path / "auth.json"
    with filled(Registry(auth="basic" if auth == "basic" else "bearer", logins=LOGINS)) as registry:
        login = ("login", registry.host, "--username", "ann", "--password")
        assert "invalid username/password" in skopeo(file, *login, "wrong").stderr
        assert 0 == skopeo(file, *login, "pass:word").returncode
        done = skopeo(file, "inspect", "--raw", f"docker://{registry.host}/private/x:1")
        assert 0 == done.returncode, done.stderr
        assert "schemaVersion" in done.stdout


@needs_skopeo
def test_skopeo_uses_an_identity_token(tmp_path: Path) -> None:
    """Skopeo gets its token with the form, and reads with it."""
    file = tmp_path / "auth.json"
    with filled(Registry(auth="bearer", logins=LOGINS)) as registry:
        entry = {"auth": base64.b64encode(b"<token>:").decode(), "identitytoken": registry.identity_token("ann")}
        file.write_text(json.dumps({"auths": {registry.host: entry}}))
        done = skopeo(file, "inspect", "--raw", f"docker://{registry.host}/private/x:1")
        assert 0 == done.returncode, done.stderr
        assert "schemaVersion" in done.stdout
        assert ["POST"] == [request.method for request in registry.requests if request.path == "/token"]
