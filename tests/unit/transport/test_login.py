"""`distsdk login` and `logout`: what is checked, where logins are stored, and that nothing secret is shown."""

from __future__ import annotations

import base64
import json
import os
import stat
from typing import TYPE_CHECKING

import pytest

from distsdk.errors import InvalidConfig
from distsdk.testing import Registry
from distsdk.transport.credentials import Credentials, Login
from distsdk.transport.login import remove_login, store_login

from ...support import run_command

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SECRET = "s3cr3t"
posix = pytest.mark.skipif(os.name != "posix", reason="helpers of these tests are shell scripts")

#: A helper that keeps logins in files, and what it is asked in another.
KEEPING = """#!/bin/sh
cd "$(dirname "$0")"
text="$(cat)"
echo "$1" >> calls
case "$1" in
  store) name="$(printf %s "$text" | sed 's/.*"ServerURL": "\\([^"]*\\)".*/\\1/' | tr -c 'a-z0-9\\n' _)"
         printf %s "$text" > "kept_$name" ;;
  get) name="$(printf %s "$text" | tr -c 'a-z0-9\\n' _)"
       if [ -e "kept_$name" ]; then cat "kept_$name"; else echo credentials not found in native keychain; exit 1; fi ;;
  erase) rm "kept_$(printf %s "$text" | tr -c 'a-z0-9\\n' _)" ;;
esac
"""
FAILING = "#!/bin/sh\necho the key ring is locked >&2\nexit 3\n"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home without any login."""
    for name in ("DOCKER_AUTH_CONFIG", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "run"))
    return tmp_path / "home"


@pytest.fixture
def config(home: Path) -> Path:
    """Where docker keeps its logins."""
    return home / ".docker/config.json"


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry with a token service, for which ``me`` has a login."""
    with Registry(auth="bearer", logins={"me": SECRET}, private="") as registry:
        yield registry


def install_helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    """Install ``docker-credential-test`` and return its directory."""
    directory = tmp_path / "bin"
    directory.mkdir()
    program = directory / "docker-credential-test"
    program.write_text(script)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}{os.pathsep}{os.environ['PATH']}")
    return directory


def write(path: Path, fields: object) -> None:
    """Write a file of logins."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(fields))


def places() -> dict[str, str]:
    """Return the variables that say where logins are."""
    return {name: os.environ[name] for name in ("HOME", "XDG_RUNTIME_DIR", "PATH")}


def log_in(registry: Registry, *arguments: str, password: str = SECRET) -> tuple[int, str]:
    """Run the command with a password on stdin, and return its code and what it says; the password is not shown."""
    done = run_command(
        "login",
        registry.host,
        "--username",
        "me",
        "--password-stdin",
        *arguments,
        stdin=f"{password}\n".encode(),
        variables=places(),
    )
    assert b"" == done.stdout
    assert password not in done.stderr.decode()
    return done.returncode, done.stderr.decode()


# The command


def test_login_stores_what_the_registry_accepts(home: Path, config: Path) -> None:
    """A login is checked, stored in a file of mode 0600, found by the next request, and removed by logout."""
    with Registry(auth="basic", logins={"me": SECRET}, private="") as registry:
        assert (0, f"distsdk: logged in to {registry.host}; stored in {config}, not encrypted\n") == log_in(registry)
        if os.name == "posix":
            assert 0o600 == stat.S_IMODE(config.stat().st_mode)
        stored = json.loads(config.read_text())
        assert {"auths": {registry.host: {"auth": base64.b64encode(b"me:s3cr3t").decode()}}} == stored
        assert Login("me", SECRET, source=str(config)) == Credentials.from_environment().login(registry.host, "x")
        assert 0 == run_command("logout", registry.host, variables=places()).returncode
        assert {"auths": {}} == json.loads(config.read_text())
        assert 0 == run_command("logout", registry.host, variables=places()).returncode


def test_login_stores_nothing_that_is_refused(home: Path, config: Path, registry: Registry) -> None:
    """A wrong password ends with 4 and one line, by Basic and by token alike, and no file is written."""
    with Registry(auth="basic", logins={"me": SECRET}, private="") as basic:
        for refusing in (registry, basic):
            code, said = log_in(refusing, password="wr0ng")
            assert (4, 1) == (code, said.count("\n"))
            assert f"http://{refusing.host} refused the login" in said
    assert not config.exists()


def test_login_stores_an_identity_token_instead_of_the_password(home: Path, config: Path, registry: Registry) -> None:
    """A token service that issues one is asked for it; the password is not on disk, and the token logs in."""
    assert 0 == log_in(registry)[0]
    entry = json.loads(config.read_text())["auths"][registry.host]
    assert base64.b64encode(b"me:").decode() == entry["auth"]
    assert SECRET not in config.read_text()
    image = registry.add_image("x", "1", layers=[b"x"])
    done = run_command("resolve", f"{registry.locator('x')}:1", variables=places())
    assert (0, f"{image.digest}\n") == (done.returncode, done.stdout.decode())


def test_login_takes_an_identity_token(home: Path, config: Path, registry: Registry) -> None:
    """With the name ``<token>``, the password is an identity token."""
    token = registry.identity_token("me")
    assert 0 == log_in(registry, "--username", "<token>", password=token)[0]
    assert {"identitytoken": token} == json.loads(config.read_text())["auths"][registry.host]


def test_login_takes_no_secret_on_the_command_line(home: Path, registry: Registry) -> None:
    """There is no option for a password; without a terminal, ``--password-stdin`` is required."""
    for arguments, said in (
        (["--password", "x"], b"No such option"),
        (["--username", "me"], b"--password-stdin"),
        (["--password-stdin"], b"--username"),
    ):
        done = run_command("login", registry.host, *arguments)
        assert (2, True) == (done.returncode, said in done.stderr)
    assert 2 == run_command("login", f"{registry.host}/team").returncode
    assert 0 == registry.count()


@posix
def test_login_prompts_on_a_terminal(
    home: Path, config: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Name and password are prompted for on stderr; the password is read without an echo."""
    asked: list[tuple[str, bool]] = []

    def prompt(text: str, *, err: bool, hide_input: bool = False) -> str:
        assert err
        asked.append((text, hide_input))
        return SECRET if hide_input else "me"

    monkeypatch.setattr("click.prompt", prompt)
    monkeypatch.setattr("distsdk.cli.registry._stdin_is_terminal", lambda: True)
    done = run_command("login", registry.host, "--quiet", variables=places())
    assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)
    assert [("Username", False), ("Password", True)] == asked
    assert config.exists()


def test_the_message_of_a_missing_login_names_the_command(home: Path) -> None:
    """A 401 says how to log in, in the shell and in Python."""
    for auth in ("basic", "bearer"):
        with Registry(auth=auth, logins={"me": SECRET}, private="") as registry:
            done = run_command("resolve", f"{registry.locator('x')}:1", variables=places())
            assert 4 == done.returncode
            assert f"log in: distsdk login {registry.host}; in Python: connect(…, credentials=" in done.stderr.decode()


# Files


def test_the_hub_is_stored_under_the_name_that_docker_uses(home: Path, config: Path) -> None:
    """Docker Hub's key is a URL, whichever of its names is given; older entries are replaced."""
    write(config, {"auths": {"docker.io": {"auth": "b2xkOm9sZA=="}, "docker.io/team": {"auth": "dGVhbTp0ZWFt"}}})
    store_login("docker.io", Login("me", SECRET))
    assert ["docker.io/team", "https://index.docker.io/v1/"] == sorted(json.loads(config.read_text())["auths"])
    found = Credentials.from_environment().login("docker.io", "library/redis")
    assert found is not None
    assert "me" == found.username
    assert [str(config)] == [stored.place for stored in remove_login("docker.io")]
    assert ["docker.io/team"] == list(json.loads(config.read_text())["auths"])


def test_a_file_keeps_its_other_fields(home: Path, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unknown fields and other hosts stay; a write that fails leaves the file as it was, and nothing beside it."""
    before = {"HttpHeaders": {"a": "b"}, "auths": {"other.example": {"auth": "eDp5", "new": [1]}}, "z": 1.5}
    write(config, before)
    text = config.read_text()
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        store_login("registry.example", Login("me", SECRET))
    assert (text, [config]) == (config.read_text(), list(config.parent.iterdir()))
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(home))
    store_login("registry.example", Login("me", SECRET), {"HOME": str(home), "DOCKER_CONFIG": str(config.parent)})
    after = json.loads(config.read_text())
    assert "registry.example" in after["auths"]
    del after["auths"]["registry.example"]
    assert before == after


def test_a_login_is_stored_where_it_is_found_first(home: Path, config: Path, tmp_path: Path) -> None:
    """A file that wins over docker's and has a login for the host gets the new one; a named file gets all."""
    podman = tmp_path / "run/containers/auth.json"
    write(podman, {"auths": {"registry.example": {"auth": "b2xkOm9sZA=="}}})
    assert str(podman) == store_login("registry.example", Login("me", SECRET)).place
    assert str(config) == store_login("other.example", Login("me", SECRET)).place
    named = {"REGISTRY_AUTH_FILE": str(tmp_path / "named.json")}
    assert named["REGISTRY_AUTH_FILE"] == store_login("registry.example", Login("me", SECRET), named).place


def test_a_variable_that_would_win_is_an_error(home: Path, config: Path) -> None:
    """A login in ``DOCKER_AUTH_CONFIG`` hides stored ones, and no program can take it out."""
    variable = {"DOCKER_AUTH_CONFIG": json.dumps({"auths": {"registry.example": {"auth": "eDp5"}}})}
    with pytest.raises(InvalidConfig, match=r"DOCKER_AUTH_CONFIG has a login for registry\.example"):
        store_login("registry.example", Login("me", SECRET), variable)
    assert not config.exists()


def test_a_broken_file_is_not_overwritten(home: Path, config: Path) -> None:
    """A file that cannot be read is an error, and stays."""
    config.parent.mkdir(parents=True)
    config.write_text("{")
    with pytest.raises(InvalidConfig):
        store_login("registry.example", Login("me", SECRET))
    assert "{" == config.read_text()


# Helpers


@posix
def test_a_helper_stores_the_login(home: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A helper that is configured has the secret, and the file an empty entry in the place of an old one."""
    directory = install_helper(tmp_path, monkeypatch, KEEPING)
    write(config, {"auths": {"registry.example": {"auth": "b2xkOm9sZA=="}}, "credsStore": "test"})
    stored = store_login("registry.example", Login("me", SECRET))
    assert ("docker-credential-test", False) == (stored.place, stored.is_plain)
    assert {"auths": {"registry.example": {}}, "credsStore": "test"} == json.loads(config.read_text())
    found = Credentials.from_environment().login("registry.example", "x")
    assert found is not None
    assert ("me", SECRET) == (found.username, found.password)
    store_login("registry.example", Login("me", identity_token="refresh"))
    found = Credentials.from_environment().login("registry.example", "x")
    assert found is not None
    assert "refresh" == found.identity_token
    assert ["docker-credential-test"] == [stored.place for stored in remove_login("registry.example")]
    assert {"auths": {}, "credsStore": "test"} == json.loads(config.read_text())
    assert None is Credentials.from_environment().login("registry.example", "x")
    assert [] == remove_login("registry.example")
    assert [] == list(directory.glob("kept_*"))


@posix
def test_the_hub_has_the_name_that_docker_uses_in_a_helper(
    home: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A helper stores Docker Hub's login under the URL."""
    directory = install_helper(tmp_path, monkeypatch, KEEPING)
    write(config, {"credsStore": "test"})
    store_login("docker.io", Login("me", SECRET))
    [kept] = directory.glob("kept_*")
    assert "https://index.docker.io/v1/" == json.loads(kept.read_text())["ServerURL"]
    assert {"https://index.docker.io/v1/": {}} == json.loads(config.read_text())["auths"]


@posix
@pytest.mark.parametrize("script", [FAILING, None])
def test_a_helper_that_fails_is_an_error(
    home: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, registry: Registry, script: str | None
) -> None:
    """Where a helper is configured and fails, or is missing, nothing is stored in the file instead: 2."""
    if script:
        install_helper(tmp_path, monkeypatch, script)
    write(config, {"credHelpers": {registry.host: "test"}, "z": 1})
    before = config.read_bytes()
    code, said = log_in(registry)
    assert (2, 1) == (code, said.count("\n"))
    assert ("the key ring is locked" if script else "docker-credential-test, which") in said
    assert before == config.read_bytes()
