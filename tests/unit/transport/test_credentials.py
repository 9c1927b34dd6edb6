"""Logins: which one is found where, how helpers are asked, and that nothing secret gets out."""

from __future__ import annotations

import base64
import contextlib
import copy
import itertools
import json
import logging
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsdk.errors import InvalidConfig
from distsdk.transport import credentials
from distsdk.transport.credentials import AuthFile, Credentials, Login, parse_auth_file

from ...support import HANGS

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.unit.transport.conftest import Asked, Authority, Reply, Serve

HOST, REPOSITORY = "registry.example", "team/app"
VARIABLES = (
    "DOCKER_AUTH_CONFIG",
    "DOCKER_CONFIG",
    "HOME",
    "REGISTRY_AUTH_FILE",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
)
#: What no message, log or pickle may show.
SECRET = "s3cr3t"
NOT_FOUND = "echo credentials not found in native keychain; exit 1"

posix = pytest.mark.skipif(os.name != "posix", reason="helpers of these tests are shell scripts")
skopeo = pytest.mark.skipif(shutil.which("skopeo") is None, reason="needs skopeo")


def encoded(text: str) -> str:
    """Return what stands in the field ``auth`` for ``user:password``."""
    return base64.b64encode(text.encode()).decode()


def auths(**users: str) -> dict[str, object]:
    """Return a file in which hosts have users, each with the same password."""
    return {"auths": {host: {"auth": encoded(f"{user}:pw")} for host, user in users.items()}}


def user(login: Login | None) -> str | None:
    """Return the user of a login, if there is one."""
    return None if login is None else login.username


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home without any logins, and no variable that leads elsewhere."""
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return home


def write(path: Path, content: Mapping[str, object] | str | bytes) -> Path:
    """Write a file of logins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = content if isinstance(content, bytes) else content.encode() if isinstance(content, str) else None
    path.write_bytes(json.dumps(content).encode() if raw is None else raw)
    return path


class Helper(Protocol):
    """Installs a credential helper."""

    def __call__(self, name: str, script: str) -> Path:
        """Put it on PATH; return the file to which it appends what it is asked, a line each time."""
        ...


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Helper:
    """Install helpers: shell scripts that note what they are asked, and then go on as they are told."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    def install(name: str, script: str) -> Path:
        program, asked = folder / f"docker-credential-{name}", tmp_path / f"{name}.asked"
        program.write_text(f'#!/bin/sh\nserver=$(cat)\necho "$@ $server" >> "{asked}"\n{script}\n')
        program.chmod(0o755)
        return asked

    return install


def answering(username: str, secret: str) -> str:
    """Return the script of a helper that has one login for all."""
    return f"""printf '%s' '{json.dumps({"ServerURL": "x", "Username": username, "Secret": secret})}'"""


# What is in a file

TABLE = {
    "a host": (auths(**{HOST: "me"}), HOST, "me"),
    "another host": (auths(**{"other.example": "me"}), HOST, None),
    "host and port": (auths(**{"localhost:5000": "me"}), "localhost:5000", "me"),
    "another port": (auths(**{"localhost:5000": "me"}), "localhost:5001", None),
    "host without the port": (auths(localhost="me"), "localhost:5000", None),
    "a domain above": (auths(**{"example": "me"}), HOST, None),
    "the repository": (auths(**{HOST: "a", f"{HOST}/team": "b", f"{HOST}/team/app": "c"}), HOST, "c"),
    "its namespace": (auths(**{HOST: "a", f"{HOST}/team": "b", f"{HOST}/team/other": "c"}), HOST, "b"),
    "no part of a name": (auths(**{HOST: "a", f"{HOST}/tea": "b", f"{HOST}/team/ap": "c"}), HOST, "a"),
    "a URL": (auths(**{f"https://{HOST}": "me"}), HOST, "me"),
    "a URL with a path": (auths(**{f"http://{HOST}/v1/": "me"}), HOST, "me"),
    "as written comes first": (auths(**{f"https://{HOST}/": "a", HOST: "b"}), HOST, "b"),
    "docker's own key": (auths(**{"https://index.docker.io/v1/": "me"}), "docker.io", "me"),
    "docker's own key by the endpoint": (auths(**{"https://index.docker.io/v1/": "me"}), "registry-1.docker.io", "me"),
    "podman's key": (auths(**{"docker.io": "me"}), "docker.io", "me"),
    "podman's key by the endpoint": (auths(**{"docker.io": "me"}), "registry-1.docker.io", "me"),
    "a namespace of the hub": (auths(**{"docker.io": "a", "docker.io/team": "b"}), "docker.io", "b"),
    "an empty entry": ({"auths": {HOST: {}}}, HOST, None),
    "no entries": ({"auths": {}}, HOST, None),
    "other settings": ({"HttpHeaders": {"X": "y"}, "proxies": {}, "currentContext": "x"}, HOST, None),
}


@pytest.mark.parametrize(("content", "host", "expected"), TABLE.values(), ids=TABLE)
def test_the_best_key_of_a_file_counts(content: dict[str, object], host: str, expected: str | None) -> None:
    """As it is written, the longest first; then with what a URL has besides its host cut off."""
    file = parse_auth_file(json.dumps(content).encode(), what="x")
    assert expected == user(file.login(host, REPOSITORY))


@pytest.mark.parametrize("key", ["Registry.EXAMPLE", f"{HOST}/v1/", f"{HOST}/v2", f"{HOST}/"])
def test_hosts_are_found_however_they_are_spelled(key: str) -> None:
    """Letters of a host are alike, as in DNS, and the path of an API is none of a repository; skopeo takes neither."""
    file = parse_auth_file(json.dumps(auths(**{key: "me"})).encode(), what="x")
    assert "me" == user(file.login(HOST, REPOSITORY))


@skopeo
@pytest.mark.parametrize(("content", "host", "expected"), TABLE.values(), ids=TABLE)
def test_skopeo_takes_the_same_key(tmp_path: Path, content: dict[str, object], host: str, expected: str | None) -> None:
    """The table is not only our opinion."""
    assert expected == skopeo_user(f"{host}/{REPOSITORY}", "--authfile", str(write(tmp_path / "auth.json", content)))


def skopeo_user(name: str, *options: str) -> str | None:
    """Return the user that skopeo would log in as."""
    command = ["skopeo", "login", "--get-login", *options, name]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=HANGS)
    assert run.returncode == 0 or "not logged into" in run.stderr, run.stderr
    return run.stdout.strip() if run.returncode == 0 else None


ENTRIES: dict[str, tuple[dict[str, str], tuple[str, str, str, str]]] = {
    "auth": ({"auth": encoded("me:pw")}, ("me", "pw", "", "")),
    "a colon in the password": ({"auth": encoded("me:p:w")}, ("me", "p:w", "", "")),
    "no password": ({"auth": encoded("me:")}, ("me", "", "", "")),
    "text of any script": ({"auth": encoded("mé:пароль")}, ("mé", "пароль", "", "")),
    "filled up with zeros": ({"auth": encoded("me:pw\0\0")}, ("me", "pw", "", "")),
    "wrapped": ({"auth": "bWU6\ncHc=\n"}, ("me", "pw", "", "")),
    "username and password": ({"username": "me", "password": "pw"}, ("me", "pw", "", "")),
    "auth wins": ({"auth": encoded("me:pw"), "username": "x", "password": "y"}, ("me", "pw", "", "")),
    "identity token": ({"identitytoken": "token"}, ("", "", "token", "")),
    "identity token with a user": (
        {"auth": encoded("00000000-0000-0000-0000-000000000000:"), "identitytoken": "token"},
        ("00000000-0000-0000-0000-000000000000", "", "token", ""),
    ),
    "registry token": ({"registrytoken": "to.k-en=="}, ("", "", "", "to.k-en==")),
    "an address for mail": ({"auth": encoded("me:pw"), "email": "me@example"}, ("me", "pw", "", "")),
}


@pytest.mark.parametrize(("entry", "expected"), ENTRIES.values(), ids=ENTRIES)
def test_every_way_of_writing_a_login_is_read(entry: dict[str, str], expected: tuple[str, str, str, str]) -> None:
    """Also those that only old tools, or only clouds, write."""
    file = parse_auth_file(json.dumps({"auths": {HOST: entry}}).encode(), what="/auth.json")
    assert Login(*expected, source="/auth.json") == file.login(HOST, REPOSITORY)


BROKEN: dict[str, tuple[object, str]] = {
    "not JSON": (b'{"auths": ' + SECRET.encode(), "JSON"),
    "cut short": (b'{"auths": {"registry.example": {"auth": "' + SECRET.encode(), "JSON"),
    "not UTF-8": (b'{"auths": {"registry.example": {"password": "s3cr3t\xff"}}}', "UTF-8"),
    "a list": ([SECRET], "object"),
    "a key twice": (b'{"auths": {}, "auths": {"x": {"auth": "s3cr3t"}}}', "duplicate key"),
    "deep": (b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested"),
    "too long": (b" " * 1024 * 1024 + b'{"x": "s3cr3t"}', "1,048,576 bytes"),
    "auths is a list": ({"auths": [SECRET]}, "auths"),
    "an entry is text": ({"auths": {HOST: SECRET}}, f"auths['{HOST}']"),
    "auth is a number": ({"auths": {HOST: {"auth": 1}}}, f"auths['{HOST}'].auth"),
    "a password is a list": ({"auths": {HOST: {"username": "me", "password": [SECRET]}}}, "password"),
    "helpers are a list": ({"credHelpers": [SECRET]}, "credHelpers"),
    "a helper is a number": ({"credHelpers": {HOST: 1}}, f"credHelpers['{HOST}']"),
    "a helper is a path": ({"credHelpers": {HOST: "../x"}}, f"credHelpers['{HOST}']"),
    "a helper has an argument": ({"credsStore": "pass; id"}, "credsStore"),
    "a helper ends its line": ({"credsStore": "pass\n"}, "credsStore"),
    "auth is not base64": ({"auths": {HOST: {"auth": SECRET}}}, f"auths['{HOST}'].auth"),
    "auth is base64 and more": ({"auths": {HOST: {"auth": "bWU6cHc=" + SECRET}}}, f"auths['{HOST}'].auth"),
    "auth lacks its padding": ({"auths": {HOST: {"auth": "bWU6cHc"}}}, f"auths['{HOST}'].auth"),
    "auth is not text": (
        {"auths": {HOST: {"auth": base64.b64encode(b"me:s3cr3t\xff").decode()}}},
        f"auths['{HOST}'].auth",
    ),
    "auth has no colon": ({"auths": {HOST: {"auth": encoded(SECRET)}}}, "colon"),
    "auth has no user": ({"auths": {HOST: {"auth": encoded(f":{SECRET}")}}}, "without a username"),
    "auth is a colon": ({"auths": {HOST: {"auth": encoded(":")}}}, "neither a user nor a token"),
    "made by echo": ({"auths": {HOST: {"auth": encoded(f"me:{SECRET}\n")}}}, "ends with a line break"),
    "a header in the password": ({"auths": {HOST: {"auth": encoded(f"me:x\r\nX: {SECRET}")}}}, "control character"),
    "a header in the user": ({"auths": {HOST: {"auth": encoded(f"me\r\nX: {SECRET}:x")}}}, "username"),
    "a colon in the user": ({"auths": {HOST: {"username": "m:e", "password": SECRET}}}, "colon"),
    "a space in the token": ({"auths": {HOST: {"registrytoken": f"a {SECRET}"}}}, "registry token"),
    "a header in the token": ({"auths": {HOST: {"registrytoken": f"a\nX: {SECRET}"}}}, "registry token"),
    "half a character": (
        b'{"auths": {"registry.example": {"username": "me", "password": "s3cr3t\\ud800"}}}',
        "not UTF-8",
    ),
}


@pytest.mark.parametrize(("content", "about"), BROKEN.values(), ids=BROKEN)
def test_a_broken_file_is_an_error_that_tells_no_secret(tmp_path: Path, content: object, about: str) -> None:
    """The message names the file and what is wrong in it; neither it nor what it was raised from holds a value."""
    raw = content if isinstance(content, bytes) else json.dumps(content).encode()
    what = str(tmp_path / "auth.json")
    with pytest.raises(InvalidConfig) as caught:
        parse_auth_file(raw, what=what).login(HOST, REPOSITORY)
    assert str(caught.value).startswith(f"{what}: ") or str(caught.value).startswith(f"{what} exceeds")
    assert about in str(caught.value)
    assert [] == [text for text in everything(caught.value) if SECRET in text]
    assert len(str(caught.value)) < len(what) + 300


def everything(error: BaseException) -> list[str]:
    """Return what an error, and all that it was raised from, holds, as a crash report would."""
    texts = []
    chain: BaseException | None = error
    while chain is not None:
        texts += [repr(chain), str(chain), *(repr(getattr(chain, name, "")) for name in ("doc", "object"))]
        chain = chain.__cause__ or chain.__context__
    return texts


@pytest.mark.parametrize("rest", ["1}}", '{"auth": 1}}}', '1, "https://me:s3cr3t@registry.example": 1}}'])
def test_a_password_in_a_key_is_not_shown(rest: str) -> None:
    """Somebody may have typed it into the address."""
    raw = f'{{"auths": {{"https://me:{SECRET}@{HOST}": {rest}'.encode()
    with pytest.raises(InvalidConfig) as caught:
        parse_auth_file(raw, what="x")
    assert [] == [text for text in everything(caught.value) if SECRET in text]


def test_a_broken_entry_is_an_error_for_its_own_host_only() -> None:
    """Other hosts of the file can be read from."""
    content = {"auths": {"broken.example": {"auth": "?"}, HOST: {"auth": encoded("me:pw")}}}
    assert "me" == user(parse_auth_file(json.dumps(content).encode(), what="x").login(HOST, ""))


NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"], exclude_characters=":"), min_size=1)
PASSWORDS = st.text(st.characters(exclude_categories=["Cc", "Cs"]))


@given(NAMES, PASSWORDS, st.sampled_from([HOST, f"{HOST}/team", f"https://{HOST}/v2/"]))
def test_what_docker_writes_is_read_back(name: str, password: str, key: str) -> None:
    """Any user and password that can be sent."""
    raw = json.dumps({"auths": {key: {"auth": encoded(f"{name}:{password}")}}}).encode()
    assert Login(name, password, source="x") == parse_auth_file(raw, what="x").login(HOST, REPOSITORY)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([encoded("me:pw"), encoded("x"), "pass"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.text()
            | st.sampled_from(["auths", "credHelpers", "credsStore", "auth", "identitytoken", "registrytoken", HOST]),
            inner,
            max_size=4,
        )
    ),
)


@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()), st.text(), st.text())
def test_any_bytes_are_a_file_or_an_error(raw: bytes, host: str, repository: str) -> None:
    """Whatever a file holds, whoever is asked for: a login that can be sent, none, or `InvalidConfig`."""
    try:
        file = parse_auth_file(raw, what="x")
        login = file.login(host, repository)
        name = file.helper(host)
    except InvalidConfig:
        return
    assert login is None or login.username or login.identity_token or login.registry_token
    assert name == "" or not set(name) & set("/\\ \n\0")


# Which file


def places(home: Path) -> dict[str, Path]:
    """Return the files that are looked into, in order."""
    return {
        "runtime": home.parent / "run/containers/auth.json",
        "config": home / ".config/containers/auth.json",
        "docker": home / ".docker/config.json",
    }


SUBSETS = [names for count in range(4) for names in itertools.combinations(("runtime", "config", "docker"), count)]


@pytest.mark.parametrize("names", SUBSETS)
def test_the_first_file_with_a_login_counts(home: Path, names: tuple[str, ...]) -> None:
    """Files that are not there, and those without a login for the host, lead to the next one."""
    for name, path in places(home).items():
        write(path, auths(**{HOST: name} if name in names else {"other.example": name}))
    assert (names or (None,))[0] == user(Credentials.from_environment().login(HOST, REPOSITORY))


@skopeo
@pytest.mark.parametrize("names", SUBSETS)
def test_skopeo_takes_the_same_file(home: Path, names: tuple[str, ...]) -> None:
    """The same files, with no others besides."""
    for name in names:
        write(places(home)[name], auths(**{HOST: name}))
    (home.parent / "run").mkdir(exist_ok=True)
    found = user(Credentials.from_environment().login(HOST, ""))
    assert skopeo_user(HOST) == found == (names or (None,))[0]


def test_variables_lead_to_other_files(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_CONFIG_HOME and DOCKER_CONFIG count instead of the folders in the user's home."""
    for path in places(home).values():
        write(path, auths(**{HOST: "home"}))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    assert None is Credentials.from_environment().login(HOST, "")
    write(tmp_path / "docker/config.json", auths(**{HOST: "docker"}))
    assert "docker" == user(Credentials.from_environment().login(HOST, ""))
    write(tmp_path / "config/containers/auth.json", auths(**{HOST: "config"}))
    assert "config" == user(Credentials.from_environment().login(HOST, ""))


def test_a_variable_with_json_comes_before_the_files(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DOCKER_AUTH_CONFIG has what a pipeline was given; the files have the rest, as for docker."""
    write(places(home)["docker"], auths(**{HOST: "file", "other.example": "file"}))
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps(auths(**{HOST: "variable"})))
    found = Credentials.from_environment()
    assert ["variable", "file", None] == [
        user(found.login(host, "")) for host in (HOST, "other.example", "third.example")
    ]
    login = found.login(HOST, "")
    assert login is not None
    assert "DOCKER_AUTH_CONFIG" == login.source


def test_a_named_file_is_the_only_place(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """REGISTRY_AUTH_FILE says which logins there are, all of them."""
    for path in places(home).values():
        write(path, auths(**{HOST: "home", "other.example": "home"}))
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps(auths(**{"other.example": "variable"})))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(write(tmp_path / "named", auths(**{HOST: "named"}))))
    found = Credentials.from_environment()
    assert ["named", None] == [user(found.login(host, "")) for host in (HOST, "other.example")]


def test_a_named_file_that_is_missing_is_said_and_holds_no_logins(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What is public can be read with it, as with skopeo; no other login is used instead; a warning is logged once."""
    write(places(home)["docker"], auths(**{HOST: "home"}))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "missing"))
    found = Credentials.from_environment()
    assert [None, None] == [found.login(HOST, ""), found.login(HOST, "")]
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [f"REGISTRY_AUTH_FILE names {tmp_path / 'missing'}, which does not exist: there are no logins"] == warnings


@pytest.mark.skipif(sys.platform != "linux", reason="a path of Linux")
def test_without_a_runtime_directory_podman_has_one(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There root's logins are, who has no XDG_RUNTIME_DIR."""
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert f"from /run/containers/{os.getuid()}/auth.json, {home}" in repr(Credentials.from_environment())


@pytest.mark.parametrize("name", ["runtime", "config", "docker"])
@pytest.mark.parametrize("content", [b"", b"\n", b"{}", b'{"auths": null, "credHelpers": null, "credsStore": null}'])
def test_a_file_may_be_empty(home: Path, name: str, content: bytes) -> None:
    """Docker leaves such files behind, and `mktemp` makes them."""
    write(places(home)[name], content)
    assert None is Credentials.from_environment().login(HOST, "")


def test_a_file_that_cannot_be_read_is_an_error(home: Path) -> None:
    """It is not taken for one that has no login: the next place might have another user's."""
    write(places(home)["docker"], auths(**{HOST: "me"}))
    places(home)["config"].mkdir(parents=True)
    with pytest.raises(InvalidConfig, match=r"file of logins .*\.config/containers/auth\.json cannot be read"):
        Credentials.from_environment().login(HOST, "")


def test_a_file_where_a_folder_would_be_is_no_error(home: Path) -> None:
    """There can be no file of logins below it."""
    (home / ".docker").touch()
    assert None is Credentials.from_environment().login(HOST, "")


def test_no_more_of_a_file_is_read_than_may_be_there(home: Path) -> None:
    """However large it is."""
    path = write(places(home)["docker"], "{}")
    os.truncate(path, 256 * 1024 * 1024)
    with peak_of_memory(8 * 1024 * 1024), pytest.raises(InvalidConfig, match="1,048,576 bytes"):
        Credentials.from_environment().login(HOST, "")


@contextlib.contextmanager
def peak_of_memory(limit: int) -> Iterator[None]:
    """Check that what is done takes at most so many bytes."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


def test_nothing_is_read_before_a_login_is_asked_for(home: Path) -> None:
    """A broken file does no harm to what needs no login."""
    write(places(home)["docker"], "{")
    found = Credentials.from_environment()
    with pytest.raises(InvalidConfig):
        found.login(HOST, "")


def test_variables_are_read_at_once(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the environment becomes later is of no importance."""
    write(places(home)["docker"], auths(**{HOST: "before"}))
    found = Credentials.from_environment()
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(write(tmp_path / "named", auths(**{HOST: "after"}))))
    assert "before" == user(found.login(HOST, ""))


def test_a_file_is_read_again_when_it_has_changed(home: Path) -> None:
    """Whoever logs in while a notebook is open goes on there."""
    found = Credentials.from_environment()
    assert None is found.login(HOST, "")
    path = write(places(home)["docker"], auths(**{HOST: "one"}))
    assert "one" == user(found.login(HOST, ""))
    write(path, auths(**{HOST: "other"}))
    assert "other" == user(found.login(HOST, ""))
    path.unlink()
    assert None is found.login(HOST, "")


@posix
def test_a_pipe_is_read_once(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`REGISTRY_AUTH_FILE=<(…)` has nothing the second time, and a named pipe would never end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(pipe))
    found = Credentials.from_environment()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(found.login, HOST, "")
        pipe.write_text(json.dumps(auths(**{HOST: "me"})))
        assert "me" == user(first.result())
        second = pool.submit(found.login, HOST, "")
        try:
            assert "me" == user(second.result(timeout=HANGS))
        finally:
            if not second.done():
                pipe.write_text("")


@skopeo
def test_what_skopeo_login_writes_is_read(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Serve, reply: Reply, authority: Authority
) -> None:
    """It logs in to a registry that asks for a password, and we find user and password as they were given."""

    def answer(asked: Asked, stream: socket.socket) -> bool:
        granted = asked.headers.get("authorization") == f"Basic {encoded('me:p:ä w')}"
        stream.sendall(reply() if granted else reply(401, WWW_Authenticate='Basic realm="x"'))
        return True

    registry = serve(answer, authority.context)
    file = tmp_path / "auth.json"
    login = ["skopeo", "login", "--tls-verify=false", f"--authfile={file}", "-u", "me", "-p", "p:ä w", registry.host]
    subprocess.run(login, check=True, capture_output=True, timeout=HANGS)
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(file))
    assert Login("me", "p:ä w", source=str(file)) == Credentials.from_environment().login(registry.host, "x")


# Helpers


@posix
@pytest.mark.parametrize(
    ("host", "server"),
    [
        (HOST, HOST),
        ("localhost:5000", "localhost:5000"),
        ("docker.io", "https://index.docker.io/v1/"),
        ("registry-1.docker.io", "https://index.docker.io/v1/"),
    ],
)
def test_a_helper_is_asked_by_the_name_that_docker_uses(home: Path, helper: Helper, host: str, server: str) -> None:
    """`get` is its argument, the server comes over stdin without a line break."""
    asked = helper("one", answering("me", "pw"))
    write(places(home)["docker"], {"credsStore": "one"})
    assert Login("me", "pw", source="docker-credential-one") == Credentials.from_environment().login(host, "x/y")
    assert f"get {server}\n" == asked.read_text()


@posix
def test_the_hub_is_also_asked_for_by_the_name_that_podman_uses(home: Path, helper: Helper) -> None:
    """`podman login docker.io` stores it under that name."""
    asked = helper("one", f'if [ "$server" = docker.io ]; then {answering("me", "pw")}; else {NOT_FOUND}; fi')
    write(places(home)["runtime"], {"credHelpers": {"docker.io": "one"}})
    assert "me" == user(Credentials.from_environment().login("docker.io", "library/redis"))
    assert "get https://index.docker.io/v1/\nget docker.io\n" == asked.read_text()


@posix
def test_a_helper_may_have_an_identity_token(home: Path, helper: Helper) -> None:
    """The user `<token>` marks it."""
    helper("one", answering("<token>", "refresh"))
    write(places(home)["docker"], {"credsStore": "one"})
    login = Credentials.from_environment().login(HOST, "")
    assert Login(identity_token="refresh", source="docker-credential-one") == login


SOURCES: dict[str, tuple[dict[str, object], str, str | None]] = {
    "the host's": ({"credHelpers": {HOST: "one"}, "credsStore": "two"}, HOST, "one"),
    "the host's by a URL": ({"credHelpers": {f"https://{HOST}/v2/": "one"}, "credsStore": "two"}, HOST, "one"),
    "the hub's": ({"credHelpers": {"https://index.docker.io/v1/": "one"}, "credsStore": "two"}, "docker.io", "one"),
    "that of all others": ({"credHelpers": {"other.example": "one"}, "credsStore": "two"}, HOST, "two"),
    "before auths": ({"credsStore": "two", **auths(**{HOST: "auths"})}, HOST, "two"),
    "the host's before auths": ({"credHelpers": {HOST: "one"}, **auths(**{HOST: "auths"})}, HOST, "one"),
    "with docker's empty entry": ({"credsStore": "two", "auths": {HOST: {}}}, HOST, "two"),
    "none for this host": ({"credHelpers": {HOST: ""}, "credsStore": "two", **auths(**{HOST: "auths"})}, HOST, "auths"),
    "without a login": ({"credsStore": "none", **auths(**{HOST: "auths"})}, HOST, "auths"),
    "the host's without a login": (
        {"credHelpers": {HOST: "none"}, "credsStore": "two", **auths(**{HOST: "auths"})},
        HOST,
        "auths",
    ),
    "never set up": ({"credsStore": "empty"}, HOST, None),
    "nowhere": ({"credsStore": "none", "auths": {HOST: {}}}, HOST, None),
}


@posix
@pytest.mark.parametrize(("content", "host", "expected"), SOURCES.values(), ids=SOURCES)
def test_which_helper_is_asked(
    home: Path, helper: Helper, content: dict[str, object], host: str, expected: str | None
) -> None:
    """The host's own, else that of all hosts; where it has no login, `auths` may have one."""
    for name in ("one", "two"):
        helper(name, answering(name, "pw"))
    helper("none", NOT_FOUND)
    helper("empty", answering("", ""))
    write(places(home)["docker"], content)
    assert expected == user(Credentials.from_environment().login(host, "library/app"))


@posix
def test_a_helper_without_a_login_leads_to_the_next_file(home: Path, helper: Helper) -> None:
    """As a file without an entry does."""
    helper("none", NOT_FOUND)
    write(places(home)["runtime"], {"credHelpers": {HOST: "none"}})
    write(places(home)["docker"], auths(**{HOST: "next"}))
    assert "next" == user(Credentials.from_environment().login(HOST, ""))


FAILURES = {
    "fails": (f"echo {SECRET}; echo 'no \033[31mkey ring' >&2; exit 3", "exit code 3: no \\x1b[31mkey ring"),
    "fails at length": ("yes complaint | head -c 100000 >&2; exit 3", "complaint\\ncomplaint"),
    "fails silently": (f"echo {SECRET}; exit 1", "nothing on stderr"),
    "dies": ("kill -9 $$", "exit code -9"),
    "prints something else": (f"echo {SECRET}", "JSON object"),
    "prints a list": (f"echo '[\"{SECRET}\"]'", "JSON object"),
    "prints nothing": ("true", "JSON object"),
    "prints a number as a secret": (f'echo \'{{"Username": "{SECRET}", "Secret": 1}}\'', "JSON object"),
    "prints a megabyte": (f"yes {SECRET} | head -c 1000000", "65,536 bytes"),
    "ends its secret with a line": (answering("me", f"{SECRET}\n"), "docker-credential-one: the password ends with"),
    "puts a header into the user": (answering("me\r\nX: y", SECRET), "docker-credential-one: the username contains"),
}


@posix
@pytest.mark.parametrize(("script", "about"), FAILURES.values(), ids=FAILURES)
def test_a_helper_that_fails_is_an_error_that_tells_no_secret(
    home: Path, helper: Helper, script: str, about: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It names the helper; what that prints is not shown, what it says on stderr is, shortened and escaped."""
    caplog.set_level(logging.DEBUG)
    helper("one", script)
    write(places(home)["docker"], {"credsStore": "one", **auths(**{HOST: "auths"})})
    with pytest.raises(InvalidConfig) as caught:
        Credentials.from_environment().login(HOST, "")
    message = str(caught.value)
    assert message.startswith("docker-credential-one")
    assert about in message
    assert message.isprintable()
    assert len(message) < 1000
    assert [] == [text for text in [*everything(caught.value), caplog.text] if SECRET in text]


@posix
def test_no_more_is_kept_of_what_a_helper_prints_than_an_answer_has(home: Path, helper: Helper) -> None:
    """On stdout and on stderr."""
    helper("one", "head -c 64000000 /dev/zero; head -c 64000000 /dev/zero >&2; exit 1")
    write(places(home)["docker"], {"credsStore": "one"})
    with peak_of_memory(8 * 1024 * 1024), pytest.raises(InvalidConfig, match="printed more"):
        Credentials.from_environment().login(HOST, "")


@posix
def test_a_helper_need_not_read_what_it_is_asked(home: Path, helper: Helper, tmp_path: Path) -> None:
    """It may have one login only."""
    helper("one", "")
    (tmp_path / "bin" / "docker-credential-one").write_text(f"#!/bin/sh\n{answering('me', 'pw')}\n")
    write(places(home)["docker"], {"credsStore": "one"})
    assert "me" == user(Credentials.from_environment().login("x" * 1_000_000, ""))  # more than a pipe holds


def test_a_helper_that_is_missing_is_an_error(home: Path) -> None:
    """It says which one, and which file wants it."""
    path = write(places(home)["docker"], {"credsStore": "no-such-helper"})
    with pytest.raises(InvalidConfig) as caught:
        Credentials.from_environment().login(HOST, "")
    expected = f"docker-credential-no-such-helper, which {path} names for {HOST}, is not installed: "
    assert str(caught.value).startswith(expected)


@posix
def test_a_helper_in_the_current_directory_is_not_run(
    home: Path, helper: Helper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where PATH has an empty or relative folder in it: whoever unpacked something there would get the secrets."""
    asked = helper("one", answering("me", "pw"))
    monkeypatch.chdir(tmp_path / "bin")
    monkeypatch.setenv("PATH", os.pathsep.join(["", ".", "/usr/bin", "/bin"]))
    write(places(home)["docker"], {"credsStore": "one"})
    with pytest.raises(InvalidConfig, match="not installed"):
        Credentials.from_environment().login(HOST, "")
    assert not asked.exists()


@posix
def test_a_helper_that_is_no_program_is_an_error(home: Path, tmp_path: Path, helper: Helper) -> None:
    """A script without its first line, say."""
    helper("one", "")
    (tmp_path / "bin" / "docker-credential-one").write_text("echo x\n")
    write(places(home)["docker"], {"credsStore": "one"})
    with pytest.raises(InvalidConfig, match="docker-credential-one cannot be run"):
        Credentials.from_environment().login(HOST, "")


@pytest.mark.slow
@posix
def test_a_helper_that_hangs_is_ended_with_what_it_started(
    home: Path, helper: Helper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a while, with an error that says how long that was."""
    helper("one", f'sleep 1000 & echo $! > "{tmp_path}/child"; wait')
    write(places(home)["docker"], {"credsStore": "one"})
    monkeypatch.setattr(credentials, "HELPER_TIMEOUT", 0.7)
    with pytest.raises(InvalidConfig, match=r"exceeded 0\.7 seconds for registry\.example"):
        Credentials.from_environment().login(HOST, "")
    assert is_gone(int((tmp_path / "child").read_text()))


def is_gone(pid: int) -> bool:
    """Whether a process ends: at once, though a busy machine may need a moment."""
    end = time.monotonic() + 60
    while time.monotonic() < end:
        run = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False)
        if run.stdout.strip()[:1] in {"", "Z"}:
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
@posix
def test_what_a_helper_leaves_running_is_left_alone(home: Path, helper: Helper, tmp_path: Path) -> None:
    """A key ring that it unlocked goes on, holds its pipes, and keeps nobody waiting."""
    helper("one", f'sleep 1000 & echo $! > "{tmp_path}/child"; {answering("me", "pw")}')
    write(places(home)["docker"], {"credsStore": "one"})
    try:
        assert "me" == user(Credentials.from_environment().login(HOST, ""))
    finally:
        os.kill(int((tmp_path / "child").read_text()), signal.SIGKILL)  # fails if it is gone


@posix
@pytest.mark.parametrize("script", [f"sleep 0.3; {answering('me', 'pw')}", f"sleep 0.3; {NOT_FOUND}"])
def test_a_helper_is_run_once_however_many_threads_ask(home: Path, helper: Helper, script: str) -> None:
    """What it answers, or that it has no login, counts for all, and for a while."""
    asked = helper("one", script)
    write(places(home)["docker"], {"credsStore": "one"})
    found = Credentials.from_environment()
    with ThreadPoolExecutor(16) as pool:
        logins = list(pool.map(lambda number: found.login(HOST, f"x/{number}"), range(32)))
    assert 1 == len(set(map(user, logins)))
    assert 1 == len(asked.read_text().splitlines())


@pytest.mark.slow
@posix
def test_threads_that_wait_for_a_helper_get_its_failure(home: Path, helper: Helper) -> None:
    """They do not wait for a time-out each; whoever asks later starts it anew."""
    asked = helper("one", "sleep 0.3; exit 7")
    write(places(home)["docker"], {"credsStore": "one"})
    found, together = Credentials.from_environment(), threading.Barrier(8)

    def ask() -> str:
        together.wait()
        with pytest.raises(InvalidConfig) as caught:
            found.login(HOST, "")
        return str(caught.value)

    with ThreadPoolExecutor(8) as pool:
        messages = {future.result() for future in [pool.submit(ask) for _ in range(8)]}
    assert 1 == len(messages)
    assert 1 == len(asked.read_text().splitlines())
    with pytest.raises(InvalidConfig):
        found.login(HOST, "")
    assert 2 == len(asked.read_text().splitlines())


@posix
def test_a_slow_helper_keeps_other_hosts_from_nothing(home: Path, helper: Helper, tmp_path: Path) -> None:
    """Only those who wait for the same answer wait."""
    helper("slow", f'while [ ! -e "{tmp_path}/go" ]; do sleep 0.05; done; {answering("slow", "pw")}')
    helper("fast", answering("fast", "pw"))
    write(places(home)["docker"], {"credHelpers": {"slow.example": "slow", "fast.example": "fast"}})
    found = Credentials.from_environment()
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(found.login, "slow.example", "")
        try:
            assert "fast" == user(found.login("fast.example", ""))
            assert not slow.done()
        finally:
            (tmp_path / "go").touch()
        assert "slow" == user(slow.result())


@posix
def test_a_helper_is_asked_again_after_a_while(home: Path, helper: Helper, monkeypatch: pytest.MonkeyPatch) -> None:
    """What clouds hand out expires."""
    asked = helper("one", answering("me", "pw"))
    write(places(home)["docker"], {"credsStore": "one"})
    found = Credentials.from_environment()
    found.login(HOST, "")
    found.login(HOST, "")
    assert 1 == len(asked.read_text().splitlines())
    monkeypatch.setattr(credentials, "HELPER_LIFETIME", 0.0)
    found.login(HOST, "")
    assert 2 == len(asked.read_text().splitlines())


@posix
# Python 3.12 and newer warn of what this test is about.
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_child_waits_for_no_lock_and_asks_itself(home: Path, helper: Helper, tmp_path: Path) -> None:
    """Although another thread of its parent is asking the same helper while it is forked off."""
    asked = helper(
        "one",
        f'if [ -e "{tmp_path}/asked" ]; then {answering("child", "pw")}; exit; fi; touch "{tmp_path}/asked"; '
        f'while [ ! -e "{tmp_path}/go" ]; do sleep 0.05; done; {answering("parent", "pw")}',
    )
    write(places(home)["docker"], {"credsStore": "one"})
    found = Credentials.from_environment()
    with ThreadPoolExecutor(1) as pool:
        parents = pool.submit(found.login, HOST, "")
        try:
            while not (tmp_path / "asked").exists():
                time.sleep(0.01)
            child = os.fork()
            if child == 0:
                signal.alarm(HANGS)
                os._exit(0 if user(found.login(HOST, "")) == "child" else 1)
            assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        finally:
            (tmp_path / "go").touch()
        assert "parent" == user(parents.result())
    assert 2 == len(asked.read_text().splitlines())


# What is given


def test_what_is_given_is_for_the_given_host_only(home: Path) -> None:
    """A mirror's own login is looked up nowhere; neither does it get this one."""
    write(places(home)["docker"], auths(**{HOST: "file"}))
    for given_login, expected in (
        (Credentials(username="me", password="pw"), Login("me", "pw", source="the arguments")),
        (Credentials(identity_token="a"), Login(identity_token="a", source="the arguments")),
        (Credentials(registry_token="a"), Login(registry_token="a", source="the arguments")),
    ):
        assert expected == given_login.login(HOST, REPOSITORY, given=True)
        assert None is given_login.login(HOST, REPOSITORY, given=False)


def test_anonymous_is_nobody_whatever_is_configured(home: Path) -> None:
    """It looks nothing up."""
    write(places(home)["docker"], auths(**{HOST: "file"}))
    assert None is Credentials.anonymous().login(HOST, "")


@pytest.mark.parametrize("given_host", [True, False])
def test_what_is_looked_up_is_looked_up_for_mirrors_too(home: Path, given_host: bool) -> None:
    """Each host has its own login there."""
    write(places(home)["docker"], auths(**{HOST: "me"}))
    assert "me" == user(Credentials.from_environment().login(HOST, "", given=given_host))


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"username": "", "password": ""},
        {"username": "me"},
        {"username": "me", "password": ""},
        {"password": SECRET},
        {"username": "me", "password": SECRET, "identity_token": SECRET},
        {"identity_token": SECRET, "registry_token": SECRET},
        {"username": "me", "password": f"{SECRET}\n"},
        {"username": "me", "password": f"{SECRET}\x7f"},
        {"username": "me", "password": f"{SECRET}\udc80"},
        {"username": "m:e", "password": SECRET},
        {"identity_token": f"{SECRET}\0"},
        {"registry_token": f"{SECRET}, Basic x"},
        {"username": "me", "password": None},
        {"username": b"me", "password": SECRET},
    ],
)
def test_what_is_given_must_be_fit_to_be_sent(arguments: dict[str, str]) -> None:
    """What is not is told without the value: a variable that is not set, a line break at the end, a bit of each."""
    with pytest.raises(InvalidConfig) as caught:
        Credentials(**arguments)
    assert [] == [text for text in everything(caught.value) if SECRET in text]


# What never gets out


def unpickled(data: bytes) -> Credentials:
    """Return what comes out of a pickle."""
    found = pickle.loads(data)  # noqa: S301 - our own bytes
    assert isinstance(found, Credentials)
    return found


def secretive(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Credentials]:
    """Return credentials of every kind that hold a secret, and have been asked."""
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps({"auths": {HOST: {"username": "me", "password": SECRET}}}))
    write(places(home)["docker"], {"auths": {"other.example": {"identitytoken": SECRET}}})
    yield Credentials.from_environment()
    yield Credentials(username="me", password=SECRET)
    yield Credentials(identity_token=SECRET)
    yield Credentials(registry_token=SECRET)


def test_no_secret_is_shown_or_logged(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither credentials nor logins show it, nor does what is logged, which says where a login is from."""
    caplog.set_level(logging.DEBUG)
    for found in secretive(home, monkeypatch):
        logins = [found.login(host, "") for host in (HOST, "other.example", "third.example")]
        shown = [f"{found!r} {found} {found.__reduce__()}", *(f"{login!r} {login}" for login in logins)]
        assert [] == [text for text in shown if SECRET in text]
        assert any(login and SECRET in (login.password, login.identity_token, login.registry_token) for login in logins)
    file = parse_auth_file(json.dumps({"auths": {HOST: {"registrytoken": SECRET}}}).encode(), what="x")
    assert SECRET not in repr(file)
    assert f"the login for {HOST} is from DOCKER_AUTH_CONFIG" in caplog.text
    assert f"no login for third.example in any of: DOCKER_AUTH_CONFIG, {home.parent}/run" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_holds_no_secret_and_is_looked_up_where_it_comes_out(
    home: Path, monkeypatch: pytest.MonkeyPatch, protocol: int
) -> None:
    """Neither what was read nor the variable; whoever unpickles it has the logins of that place."""
    pickles = []
    for found in secretive(home, monkeypatch):
        found.login(HOST, "")
        pickles.append(pickle.dumps(found, protocol))
    assert [] == [data for data in pickles if SECRET.encode() in data]
    monkeypatch.setenv("DOCKER_AUTH_CONFIG", json.dumps(auths(**{HOST: "there"})))
    assert ["there"] * 4 == [user(unpickled(data).login(HOST, "")) for data in pickles]


def test_anonymous_stays_so_in_a_pickle(home: Path) -> None:
    """Nobody becomes somebody on the way."""
    write(places(home)["docker"], auths(**{HOST: "file"}))
    found = unpickled(pickle.dumps(Credentials.anonymous()))
    assert Credentials.anonymous() == found
    assert None is found.login(HOST, "")


def test_a_login_cannot_be_pickled() -> None:
    """Nor can a file of them, so that no mistake writes one down."""
    for held in (
        Login("me", SECRET),
        AuthFile("x", {HOST: {"password": SECRET}}),
    ):
        with pytest.raises(TypeError, match="pickle"):
            pickle.dumps(held)


def test_copies_keep_what_was_given() -> None:
    """A copy is in the same process, so it is the same login."""
    original = Credentials(username="me", password="pw")
    assert [original, original] == [copy.copy(original), copy.deepcopy(original)]
    assert original != Credentials(username="me", password="other")
