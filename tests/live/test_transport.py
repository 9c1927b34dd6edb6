"""Logins, mirrors, certificates and bad connections, against the live stack and beside skopeo."""

from __future__ import annotations

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from inside import (
    AUTH,
    CDN,
    DISTSDK,
    LOGIN,
    REDIS,
    REGISTRY,
    STATE,
    Lines,
    Log,
    blob_file,
    fetched,
    push_random,
    raw,
    refused,
    run,
    sha256sum,
    skopeo,
)

import distsdk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USER, _, PASSWORD = LOGIN.partition(":")
IDENTITY_TOKEN = os.environ["LIVE_IDENTITY_TOKEN"]
PRIVATE = "docker.io/private/redis"
BASIC = "basic.example"
DOCKER_HUB = "https://index.docker.io/v1/"  # under this name docker login keeps the one for docker.io
DOCKER_MANIFEST = "mediatype:application/vnd.docker.distribution.manifest.v2+json"
#: Variables that name authorities; the stack sets them all.
AUTHORITIES = ("DISTSDK_CACERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


def shown(log: Log, host: str, kind: str = "") -> set[str]:
    """Return which kinds of credentials distsdk has shown to a host."""
    time.sleep(0.2)
    return {entry["authorization"] for entry in log.entries(host, kind)}


def basic(username: str, password: str) -> str:
    """Return the `auth` of a file with logins."""
    return base64.b64encode(f"{username}:{password}".encode()).decode()


def write_logins(file: Path, auths: dict[str, dict[str, str]]) -> Path:
    """Write a file with logins as docker and podman do."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"auths": auths}))
    return file


def skopeo_login(file: Path, server: str, password: str = PASSWORD) -> Path:
    """Let skopeo log in to a server, and return the file in which it wrote that down."""
    login: list[str | Path] = ["skopeo", "login", "--authfile", file, "--username", USER, "--password-stdin", server]
    subprocess.run(login, input=password.encode(), stdout=subprocess.DEVNULL, check=True)
    assert PASSWORD not in file.read_text()
    return file


# Logins


def test_login_of_skopeo_is_used(log: Log, tmp_path: Path, layers: list[dict[str, Any]]) -> None:
    """What `skopeo login` wrote opens private/*; the password goes to the token service, the token to the registry.

    The CDN, which the registry redirects to, gets neither.
    """
    file = skopeo_login(tmp_path / "auth.json", "docker.io")
    for name in ("latest", "7"):
        assert raw(name, PRIVATE, "--authfile", file) == fetched(PRIVATE, name, REGISTRY_AUTH_FILE=str(file))
    digest = layers[0]["digest"]
    assert digest == sha256sum(fetched(PRIVATE, digest, REGISTRY_AUTH_FILE=str(file)))
    assert {"Basic"} == shown(log, AUTH)
    assert {"", "Bearer"} == shown(log, REGISTRY)
    assert {""} == shown(log, CDN)


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("XDG_RUNTIME_DIR", "containers/auth.json"),
        ("XDG_CONFIG_HOME", "containers/auth.json"),
        ("HOME", ".config/containers/auth.json"),
        ("DOCKER_CONFIG", "config.json"),
        ("HOME", ".docker/config.json"),
    ],
)
def test_login_is_found_where_it_usually_is(variable: str, place: str, tmp_path: Path) -> None:
    """Each of the usual places will do, when nothing names another one."""
    (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
    skopeo_login(tmp_path / place, "docker.io")
    unset = dict.fromkeys(("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG"), "")
    variables = unset | {"HOME": str(tmp_path / "nowhere")} | {variable: str(tmp_path)}
    assert 4 == refused("fetch", PRIVATE, "latest", **unset | {"HOME": str(tmp_path / "nowhere")})[0]
    assert raw("latest", f"localhost:5000/{PRIVATE.partition('/')[2]}") == fetched(PRIVATE, "latest", **variables)


def test_login_for_a_namespace_is_for_that_namespace(log: Log, tmp_path: Path) -> None:
    """A login that skopeo has for docker.io/private is not used for docker.io/library."""
    file = str(skopeo_login(tmp_path / "auth.json", "docker.io/private"))
    assert raw("latest") == fetched(REDIS, "latest", REGISTRY_AUTH_FILE=file)
    assert {""} == shown(log, AUTH)
    assert raw("latest", PRIVATE, "--authfile", file) == fetched(PRIVATE, "latest", REGISTRY_AUTH_FILE=file)
    assert {"", "Basic"} == shown(log, AUTH)


def test_login_for_one_host_is_not_shown_to_another(log: Log, tmp_path: Path) -> None:
    """Docker Hub gets nothing of the login for basic.example, which does get it."""
    file = str(skopeo_login(tmp_path / "auth.json", BASIC))
    fetched(f"{BASIC}/library/redis", "latest", REGISTRY_AUTH_FILE=file)
    fetched(REDIS, "latest", REGISTRY_AUTH_FILE=file)
    assert "Basic" in shown(log, BASIC)
    assert {""} == shown(log, AUTH)
    assert {"", "Bearer"} == shown(log, REGISTRY)


def test_login_in_the_arguments(log: Log, layers: list[dict[str, Any]]) -> None:
    """connect() takes a login, which nothing shows again; its token opens what is private, the CDN gets nothing."""
    remote = distsdk.connect(PRIVATE, credentials=distsdk.Credentials(username=USER, password=PASSWORD))
    assert raw("7", PRIVATE, f"--creds={LOGIN}") == remote.fetch("7").read()
    assert layers[0]["digest"] == sha256sum(remote.fetch(layers[0]["digest"]).read(limit=layers[0]["size"]))
    assert ({"Basic"}, {""}) == (shown(log, AUTH), shown(log, CDN))
    assert PASSWORD not in repr(remote)


def test_basic_registry(log: Log, tmp_path: Path, layers: list[dict[str, Any]]) -> None:
    """A registry without a token service gets user and password itself, with each request for a document or a blob."""
    file = skopeo_login(tmp_path / "auth.json", BASIC)
    repository = f"{BASIC}/private/redis"
    tag = fetched(repository, "latest", REGISTRY_AUTH_FILE=str(file))
    assert raw("latest", repository, "--authfile", file) == tag
    digest = layers[0]["digest"]
    assert digest == sha256sum(fetched(repository, digest, REGISTRY_AUTH_FILE=str(file)))
    done = run("tags", repository, REGISTRY_AUTH_FILE=str(file))
    assert json.loads(skopeo("list-tags", "--authfile", file, f"docker://{repository}"))["Tags"] == (
        done.stdout.decode().splitlines()
    )
    answered = {(entry["authorization"], entry["status"]) for entry in log.entries(BASIC)}
    assert {("", 401), ("Basic", 200)} == answered


@pytest.mark.parametrize(("host", "repository"), [("docker.io", PRIVATE), (BASIC, f"{BASIC}/library/redis")])
def test_wrong_password_is_denied(host: str, repository: str, tmp_path: Path) -> None:
    """A password that is not right is told, with the file that it is from, and is not in what is told."""
    secret = "not-the-right-one"
    file = write_logins(tmp_path / "auth.json", {host: {"auth": basic(USER, secret)}})
    for options in ((), ("--debug",)):
        done = run(*options, "fetch", repository, "latest", REGISTRY_AUTH_FILE=str(file))
        said = done.stderr.decode()
        assert (4, b"") == (done.returncode, done.stdout)
        assert str(file) in said.splitlines()[-1]
        assert "refuse" in said.splitlines()[-1]
        assert [] == [word for word in (secret, basic(USER, secret)) if word in said]


def test_netrc_is_not_read(log: Log, tmp_path: Path) -> None:
    """A login in ~/.netrc, which curl takes for the host, is not looked at; the one in an auth.json is."""
    netrc = tmp_path / ".netrc"
    netrc.write_text(f"machine {BASIC} login {USER} password {PASSWORD}\n")
    netrc.chmod(0o600)
    curl: list[str | Path] = ["curl", "--silent", "--fail", "--netrc-file", netrc, f"https://{BASIC}/v2/"]
    subprocess.run(curl, stdout=subprocess.DEVNULL, check=True)
    repository = f"{BASIC}/library/redis"
    assert 4 == refused("fetch", repository, "latest", HOME=str(tmp_path), NETRC=str(netrc))[0]
    assert {""} == shown(log, BASIC)
    file = skopeo_login(tmp_path / "auth.json", BASIC)
    assert raw("latest") == fetched(repository, "latest", HOME=str(tmp_path), REGISTRY_AUTH_FILE=str(file))
    assert {"", "Basic"} == shown(log, BASIC)


def test_missing_login_is_denied() -> None:
    """Without a login a registry that wants one is denied, and the message says that there is none."""
    code, said = refused("fetch", f"{BASIC}/library/redis", "latest")
    assert 4 == code
    assert re.search(rf"https://{BASIC}\b.* requires a login .*none", said)


def test_what_is_public_is_read_without_the_login_that_is_refused(log: Log, tmp_path: Path) -> None:
    """A stored login that is out of date is tried, told, and done without where an anonymous caller may read."""
    file = write_logins(tmp_path / "auth.json", {"docker.io": {"auth": basic(USER, "out-of-date")}})
    done = run("fetch", REDIS, "latest", REGISTRY_AUTH_FILE=str(file))
    assert (0, raw("latest")) == (done.returncode, done.stdout)
    assert str(file) in done.stderr.decode()
    assert "out-of-date" not in done.stderr.decode()
    assert [("Basic", 401), ("", 200)] == [(entry["authorization"], entry["status"]) for entry in log.entries(AUTH)]


def test_identity_token_is_posted(log: Log, tmp_path: Path) -> None:
    """An identity token goes to the token service in the body of a POST, as with skopeo, and not into any URL."""
    login = {"auth": basic("00000000-0000-0000-0000-000000000000", ""), "identitytoken": IDENTITY_TOKEN}
    file = write_logins(tmp_path / "auth.json", {"docker.io": login})
    grants = Lines("tokens.jsonl")
    done = run("--debug", "fetch", PRIVATE, "latest", REGISTRY_AUTH_FILE=str(file))
    assert [("POST", USER, 200)] == [(line["method"], line["account"], line["status"]) for line in grants.read()]
    assert raw("latest", PRIVATE, "--authfile", file) == done.stdout
    assert [("POST", "/token", "")] == [
        (entry["method"], entry["uri"], entry["authorization"]) for entry in log.wait_for(1, AUTH)
    ]
    assert IDENTITY_TOKEN not in done.stderr.decode()


# Credential helpers


def tool(variables: dict[str, str], *command: str, given: str = "") -> None:
    """Run a tool that belongs to a password store."""
    env = os.environ | variables
    subprocess.run(command, input=given.encode(), env=env, capture_output=True, check=True)


def keep(variables: dict[str, str], server: str, username: str, secret: str) -> None:
    """Let the credential helper keep a login, as docker login does."""
    login = {"ServerURL": server, "Username": username, "Secret": secret}
    tool(variables, "docker-credential-pass", "store", given=json.dumps(login))


@pytest.fixture(scope="module")
def password_store() -> Iterator[dict[str, str]]:
    """The variables of a new password store (pass) that holds the logins, with a key that needs no passphrase."""
    folder = Path(tempfile.mkdtemp(prefix="gnupg-", dir=STATE))  # the path of gpg-agent's socket has to be short
    variables = {"GNUPGHOME": str(folder), "PASSWORD_STORE_DIR": str(folder / "store")}
    who = "live@example.org"
    key = ("--quick-generate-key", who, "default", "default", "never")
    tool(variables, "gpg", "--batch", "--passphrase", "", *key)
    tool(variables, "pass", "init", who)
    keep(variables, DOCKER_HUB, USER, PASSWORD)
    keep(variables, BASIC, USER, PASSWORD)
    yield variables
    tool(variables, "gpgconf", "--kill", "all")


@pytest.fixture
def empty_store(password_store: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The variables of a password store without logins."""
    variables = password_store | {"PASSWORD_STORE_DIR": str(tmp_path / "store")}
    shutil.copytree(password_store["PASSWORD_STORE_DIR"], tmp_path / "store")
    shutil.rmtree(tmp_path / "store/docker-credential-helpers")
    (tmp_path / "store/docker-credential-helpers").mkdir()
    return variables


@pytest.mark.parametrize(
    "config", [{"credHelpers": {BASIC: "pass"}}, {"credsStore": "pass"}, {"auths": {BASIC: {}}, "credsStore": "pass"}]
)
def test_credential_helper(
    config: dict[str, Any], password_store: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A docker config that names a helper works as it is, and as it does for skopeo, which knows no credsStore."""
    for name, value in password_store.items():
        monkeypatch.setenv(name, value)
    (tmp_path / "config.json").write_text(json.dumps(config))
    repository = f"{BASIC}/library/redis"
    options = [f"--creds={LOGIN}"] if "credsStore" in config else ["--authfile", tmp_path / "config.json"]
    variables = {"DOCKER_CONFIG": str(tmp_path), "REGISTRY_AUTH_FILE": ""}
    assert raw("latest", repository, *options) == fetched(repository, "latest", **variables)


def test_credential_helper_knows_docker_hub_by_its_old_name(
    log: Log, password_store: dict[str, str], tmp_path: Path
) -> None:
    """The login that docker keeps for https://index.docker.io/v1/ is that of docker.io; one token serves 4 threads."""
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "pass"}))
    variables = password_store | {"DOCKER_CONFIG": str(tmp_path), "REGISTRY_AUTH_FILE": ""}
    done = run("fetch", PRIVATE, "-", "-j", "4", stdin="latest\n7\n7-oci\n7-list\n", **variables)
    plain = "localhost:5000/private/redis"
    assert (0, b"") == (done.returncode, done.stderr)
    assert b"".join(raw(name, plain) for name in ("latest", "7", "7-oci", "7-list")) == done.stdout
    assert ["Basic"] == [entry["authorization"] for entry in log.wait_for(1, AUTH)]


def test_credential_helper_with_an_identity_token(log: Log, empty_store: dict[str, str], tmp_path: Path) -> None:
    """A login whose user is `<token>` is an identity token, and is posted."""
    keep(empty_store, DOCKER_HUB, "<token>", IDENTITY_TOKEN)
    (tmp_path / "config.json").write_text(json.dumps({"credsStore": "pass"}))
    variables = empty_store | {"DOCKER_CONFIG": str(tmp_path), "REGISTRY_AUTH_FILE": ""}
    assert raw("latest", "localhost:5000/private/redis") == fetched(PRIVATE, "latest", **variables)
    assert ["POST"] == [entry["method"] for entry in log.wait_for(1, AUTH)]


def test_credential_helper_that_knows_nothing(empty_store: dict[str, str], tmp_path: Path) -> None:
    """A helper without a login for the host leads to an anonymous pull, silently."""
    (tmp_path / "config.json").write_text(json.dumps({"credHelpers": {"docker.io": "pass"}}))
    variables = empty_store | {"DOCKER_CONFIG": str(tmp_path), "REGISTRY_AUTH_FILE": ""}
    assert raw("latest") == fetched(REDIS, "latest", **variables)


# Tokens


def test_threads_share_tokens(log: Log, token_seconds: Callable[[int], None], layers: list[dict[str, Any]]) -> None:
    """Ten threads that need a token at once make one request for it; so they do when it has expired in mid-transfer."""
    token_seconds(4)
    remote = distsdk.connect(PRIVATE, credentials=distsdk.Credentials(username=USER, password=PASSWORD))
    grants = Lines("tokens.jsonl")
    wanted = [layer for layer in layers if layer["size"] > 1000]
    together = threading.Barrier(10)

    def read(number: int) -> bool:
        layer = wanted[number % len(wanted)]
        with remote.fetch(layer["digest"], f"size:{layer['size']}").open() as reader:
            together.wait(10)
            data = reader.read(500)
            together.wait(10)
            if number == 0:
                time.sleep(4.1)
            together.wait(10)
            return bool(blob_file(layer["digest"]).read_bytes() == data + reader.read())

    with ThreadPoolExecutor(10) as pool:
        assert [True] * 10 == list(pool.map(read, range(10)))
        assert [True] * 10 == list(pool.map(read, range(10, 20)))
    expected = [("GET", USER, 200)] * len(log.entries(AUTH))
    assert expected == [(line["method"], line["account"], line["status"]) for line in grants.read()]
    assert 2 <= len(expected) <= 4
    assert {"Basic"} == shown(log, AUTH)


# Hosts


def write_hosts(folder: Path, host: str, text: str) -> str:
    """Write a host's hosts.toml, and return the folder of them all."""
    (folder / host).mkdir(parents=True, exist_ok=True)
    (folder / host / "hosts.toml").write_text(text)
    return str(folder)


def mirrored(folder: Path, *mirrors: str, capabilities: str = '"pull"') -> str:
    """Write that Docker Hub has mirrors, and return the folder of hosts."""
    tables = [f'[host."{mirror}"]\ncapabilities = [{capabilities}]\n' for mirror in mirrors]
    return write_hosts(folder, "docker.io", 'server = "https://registry-1.docker.io"\n' + "".join(tables))


@pytest.mark.parametrize("how", ["option", "variable"])
def test_mirror_serves_digests_and_no_tags(how: str, log: Log, tmp_path: Path, layers: list[dict[str, Any]]) -> None:
    """A tag is resolved at Docker Hub; what goes by a digest comes from the mirror, which is told for whom it serves.

    The mirror, whom the login of docker.io does not concern, gets nothing of it; Docker Hub's token service does.
    """
    folder = mirrored(tmp_path / "hosts", "https://mirror.example")
    logins = write_logins(tmp_path / "auth.json", {"docker.io": {"auth": basic(USER, PASSWORD)}})
    option = ("--hosts-dir", folder) if how == "option" else ()
    variables = {"REGISTRY_AUTH_FILE": str(logins)} | ({} if option else {"DISTSDK_HOSTS_DIR": folder})
    tag = fetched(PRIVATE, "latest", *option, **variables)
    assert raw("latest") == tag
    assert [] == log.entries("mirror.example")
    assert {"", "Bearer"} == shown(log, REGISTRY)
    assert {"Basic"} == shown(log, AUTH)
    upstream = len(log.entries(REGISTRY))

    assert tag == fetched(PRIVATE, sha256sum(tag), DOCKER_MANIFEST, *option, **variables)
    digest = layers[0]["digest"]
    assert digest == sha256sum(fetched(PRIVATE, digest, *option, **variables))
    served = {entry["uri"] for entry in log.wait_for(2, "mirror.example")}
    assert {
        f"/v2/private/redis/manifests/{sha256sum(tag)}?ns=docker.io",
        f"/v2/private/redis/blobs/{digest}?ns=docker.io",
    } == served
    assert {""} == shown(log, "mirror.example")
    assert upstream == len(log.entries(REGISTRY))
    assert [] == log.entries(CDN)


def test_mirror_is_shown_its_own_login_only(log: Log, tmp_path: Path, layers: list[dict[str, Any]]) -> None:
    """A mirror that asks for a login gets the one for its own name; where there is none, Docker Hub serves."""
    folder = mirrored(tmp_path / "hosts", f"https://{BASIC}")
    upstream = {"docker.io": {"auth": basic(USER, PASSWORD)}}
    digest = layers[0]["digest"]
    file = write_logins(tmp_path / "auth.json", upstream)
    variables = {"DISTSDK_HOSTS_DIR": folder, "REGISTRY_AUTH_FILE": str(file)}
    assert digest == sha256sum(fetched(PRIVATE, digest, **variables))
    assert ({""}, {"Basic"}) == (shown(log, BASIC), shown(log, AUTH))
    asked = len(log.entries(REGISTRY))
    write_logins(file, upstream | {BASIC: {"auth": basic(USER, PASSWORD)}})
    assert digest == sha256sum(fetched(PRIVATE, digest, **variables))
    assert {"", "Basic"} == shown(log, BASIC)
    assert asked == len(log.entries(REGISTRY))


def test_mirror_that_may_resolve_is_asked_for_tags(log: Log, tmp_path: Path) -> None:
    """A mirror that is trusted to resolve turns a tag into bytes, and Docker Hub is not asked."""
    folder = mirrored(tmp_path, "https://mirror.example", capabilities='"pull", "resolve"')
    assert raw("7") == fetched(REDIS, "7", DISTSDK_HOSTS_DIR=folder)
    log.wait_for(1, "mirror.example", "/manifests/7?ns=docker.io")
    assert [] == log.entries(REGISTRY)


@pytest.mark.parametrize(
    "mirrors",
    [
        ["https://mirror.example:8443"],
        ["https://mirror.example:9443"],
        ["https://nowhere.example"],
        ["https://mirror.example:9443", "https://mirror.example:8443"],
    ],
    ids=["503", "closed", "unknown", "two"],
)
def test_mirror_that_is_down_is_passed_over(
    mirrors: list[str], log: Log, tmp_path: Path, layers: list[dict[str, Any]]
) -> None:
    """Whatever is wrong with the mirrors, Docker Hub serves; soon, and without an error."""
    folder = mirrored(tmp_path, *mirrors, capabilities='"pull", "resolve"')
    start = time.monotonic()
    digest = layers[0]["digest"]
    assert digest == sha256sum(fetched(REDIS, digest, DISTSDK_HOSTS_DIR=folder))
    assert raw("latest") == fetched(REDIS, "latest", DISTSDK_HOSTS_DIR=folder)
    assert time.monotonic() - start < 10
    assert {"", "Bearer"} == shown(log, REGISTRY)


def test_mirror_that_lacks_something_is_passed_over(log: Log, tmp_path: Path) -> None:
    """What the mirror does not have is asked of the next endpoint; what no endpoint has is not found."""
    folder = mirrored(tmp_path, "https://mirror.example")
    missing = f"sha256:{'0' * 64}"
    code, said = refused("fetch", REDIS, missing, DISTSDK_HOSTS_DIR=folder)
    assert 3 == code
    assert missing in said
    assert {404} == {entry["status"] for entry in log.entries("mirror.example")}
    assert {401, 404} == {entry["status"] for entry in log.entries(REGISTRY)}


@pytest.mark.parametrize(
    "text",
    ["server = ", '[host."https://mirror.example"]\ncapabilities = ["pul"]', '[host."file:///etc"]'],
    ids=["no TOML", "unknown capability", "no URL of a registry"],
)
def test_broken_hosts_file_asks_nobody(text: str, log: Log, tmp_path: Path) -> None:
    """A hosts.toml that cannot be understood is an error which names it, not a way around the mirror."""
    folder = write_hosts(tmp_path, "docker.io", text)
    for command in (("fetch", REDIS, "latest"), ("hosts", REDIS)):
        code, said = refused(*command, DISTSDK_HOSTS_DIR=folder)
        assert 2 == code
        assert str(tmp_path / "docker.io/hosts.toml") in said
    time.sleep(0.2)
    assert [] == [*log.entries(REGISTRY), *log.entries("mirror.example")]


def test_hosts_explains_the_plan(log: Log, tmp_path: Path) -> None:
    """`distsdk hosts` names the endpoints in their order and the file that says so, and asks nobody."""
    folder = mirrored(tmp_path, "https://mirror.example", "https://mirror.example:8443")
    told = run("hosts", REDIS, DISTSDK_HOSTS_DIR=folder).stdout.decode()
    places = [told.index(f"https://{host}/v2") for host in ("mirror.example", "mirror.example:8443", REGISTRY)]
    assert sorted(places) == places
    assert str(tmp_path / "docker.io/hosts.toml") in told
    time.sleep(0.2)
    assert [] == [*log.entries(REGISTRY), *log.entries("mirror.example")]


@pytest.mark.parametrize("style", ["hosts.toml", "files"])
def test_mutual_tls(style: str, log: Log, tmp_path: Path) -> None:
    """A client certificate opens mutual.example: named in a hosts.toml, or lying in the host's folder as for Docker.

    The authority comes from the same place, and is the only one there is.
    """
    folder = tmp_path / "mutual.example"
    folder.mkdir()
    for source, target in (("ca.pem", "ca.crt"), ("client.pem", "client.cert"), ("client.key", "client.key")):
        shutil.copy(STATE / "tls" / source, folder / target)
    if style == "hosts.toml":
        settings = 'ca = "ca.crt"\nclient = [["client.cert", "client.key"]]\n'
        (folder / "hosts.toml").write_text(f'server = "https://mutual.example"\n{settings}')
    repository = "mutual.example/library/redis"
    unset = dict.fromkeys(AUTHORITIES, "")
    assert raw("latest") == fetched(repository, "latest", DISTSDK_HOSTS_DIR=str(tmp_path), **unset)
    assert 6 == refused("fetch", repository, "latest", **unset)[0]
    done = run("fetch", repository, "latest")
    assert (1, b"") == (done.returncode, done.stdout)
    assert [200, 400] == [entry["status"] for entry in log.wait_for(2, "mutual.example")]


# Bad connections


@pytest.fixture(scope="module")
def large() -> str:
    """The digest of a blob of 60 MB."""
    return push_random(60_000_000)


@pytest.mark.parametrize("options", [(), ("--connections", "1"), ("--connections", "4")])
@pytest.mark.parametrize("port", [5010, 5011], ids=["closed", "reset"])
def test_cut_connections_go_on(
    port: int, options: tuple[str, ...], large: str, cut_bytes: Callable[[int], None]
) -> None:
    """A blob whose connection is cut again and again comes whole, and no byte of it much more than once."""
    cut_bytes(5_000_000 if "4" in options else 15_000_000)  # of four connections each brings a part
    connections = Lines("connections.jsonl")
    assert large == sha256sum(fetched(f"127.0.0.1:{port}/library/redis", large, *options))
    time.sleep(0.2)
    lines = connections.read()
    assert sum(line["cut"] for line in lines) >= 3
    assert 60_000_000 < sum(line["sent"] for line in lines)
    if port == 5010:  # a reset also takes what was on its way
        assert sum(line["sent"] for line in lines) < 63_000_000


def test_cut_every_five_megabytes(large: str, cut_bytes: Callable[[int], None], tmp_path: Path) -> None:
    """Twelve cuts are no failure: each followed progress. Saved, nothing of the way there is left beside the file."""
    cut_bytes(5_000_000)
    connections = Lines("connections.jsonl")
    done = run("fetch", "127.0.0.1:5010/library/redis", "-", "-o", str(tmp_path), stdin=large)
    assert (0, b"") == (done.returncode, done.stderr)
    assert [large] == [path.name for path in tmp_path.iterdir()]
    assert large == sha256sum((tmp_path / large).read_bytes())
    assert 12 <= sum(line["cut"] for line in connections.read())


def test_killed_fetch_goes_on_where_it_was(log: Log, large: str, tmp_path: Path) -> None:
    """After kill -9 in the middle the same command asks only for the rest: counted at the server."""
    command: list[str | Path] = [DISTSDK, "fetch", "slow.example/library/redis", "-", "-o", tmp_path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        process.stdin.write(f"{large}\n".encode())
        process.stdin.close()
        deadline = time.monotonic() + 10
        while sum(path.stat().st_size for path in tmp_path.iterdir()) < 20_000_000 and time.monotonic() < deadline:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    [part] = tmp_path.iterdir()
    kept = part.stat().st_size
    assert 20_000_000 <= kept < 60_000_000
    assert blob_file(large).read_bytes().startswith(part.read_bytes())
    assert large != part.name

    time.sleep(0.5)
    again = Log()
    done = run("fetch", "slow.example/library/redis", "-", "-o", str(tmp_path), stdin=large)
    assert (0, b"", f"{large}\n".encode()) == (done.returncode, done.stderr, done.stdout)
    assert [large] == [path.name for path in tmp_path.iterdir()]
    assert large == sha256sum((tmp_path / large).read_bytes())
    time.sleep(0.2)
    served = [entry for entry in again.entries("slow.example", "/blobs/") if entry["method"] == "GET"]
    assert kept == min(int(entry["range"].removeprefix("bytes=").partition("-")[0]) for entry in served)
    assert 60_000_000 - kept == sum(entry["bytes"] for entry in served)


@pytest.mark.parametrize(("options", "least"), [(("--connections", "8"), 8), ((), 2), (("--connections", "1"), 1)])
def test_slow_connections_are_added_up(options: tuple[str, ...], least: int, log: Log, large: str) -> None:
    """Where each connection is slow several serve one blob: as many as asked for, by default as many as help."""
    start = time.monotonic()
    assert large == sha256sum(fetched("slow.example/library/redis", large, *options))
    seconds = time.monotonic() - start
    time.sleep(0.2)
    served = [entry for entry in log.entries("slow.example", "/blobs/") if entry["method"] == "GET"]
    connections = {entry["connection"] for entry in served}
    assert 60_000_000 <= sum(entry["bytes"] for entry in served) < 90_000_000
    if least == 1:
        assert (1, 1) == (len(connections), len(served))
        assert 2.5 < seconds  # 60 MB at 20 MiB/s
    else:
        assert least <= len(connections) <= 8
        assert seconds < 2.8
