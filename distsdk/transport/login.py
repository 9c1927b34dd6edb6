"""Log in and out: check a login at the registry, and store it where docker and podman find it.

`distsdk.transport.credentials` reads the same files and credential helpers.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from attrs import evolve, frozen

from distsdk.errors import InvalidConfig
from distsdk.spec.strict_json import load_json, optional_object
from distsdk.transport import credentials
from distsdk.transport.credentials import TOKEN_USER, Credentials, Login, parse_auth_file, same_host
from distsdk.transport.endpoints import Endpoints
from distsdk.transport.retry import Retry
from distsdk.transport.settings import Limits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from distsdk.transport.credentials import AuthFile
    from distsdk.transport.hosts import Hosts
    from distsdk.transport.settings import Timeouts

_log = logging.getLogger(__name__)


def read_login(username: str, secret: str) -> Login:
    """Return the login that a user entered.

    Args:
        username: ``<token>`` marks an identity token, as for docker.
        secret: The password or the identity token.

    Raises:
        InvalidConfig: One is empty, or cannot be sent.
    """
    if not username or not secret:
        raise InvalidConfig("a login requires a username and a password")
    if username == TOKEN_USER:
        return Login(identity_token=secret, source="the arguments")
    return Login(username, secret, source="the arguments")


def check_login(host: str, login: Login, *, hosts: Hosts, timeouts: Timeouts) -> Login:
    """Check a login at a registry, and return the login to store.

    The result has an identity token instead of the password if the token service issues one.

    Args:
        host: As in a locator.
        login: Sent to the registry, and to a token service that is trusted with it.
        hosts: Certificate authorities and proxies.
        timeouts: In seconds.

    Raises:
        Denied: The registry or its token service refused the login.
        InvalidConfig: The host is not a registry.
        DistError: As `Transport.request`.
    """
    plan = hosts.plan(host)
    if plan.remote is not None:
        raise InvalidConfig(f"{plan.why} assigns {host} to the remote {plan.remote!r}, which has no logins")
    endpoints = Endpoints(
        plan,
        "",
        credentials=Credentials.anonymous(),
        hosts=hosts,
        retry=Retry(),
        timeouts=timeouts,
        limits=Limits(),
        session=None,
    )
    token = endpoints.home.check_login(login)
    if token is None:
        _log.warning("%s does not require a login: the login is stored unchecked", host)
    return evolve(login, password="", identity_token=token) if token else login


@frozen
class Stored:
    """The place where a login was stored or removed.

    Attributes:
        place: A file, or the name of a credential helper.
        is_plain: Whether the secret is readable in the file.
    """

    place: str
    is_plain: bool


def store_login(host: str, login: Login, environment: Mapping[str, str] = os.environ) -> Stored:
    """Store a login where docker, podman and distsdk find it, and replace earlier logins for the host.

    The login is stored in the first file of `Credentials.from_environment` that has a login or a credential helper for
    the host, else in the file that ``REGISTRY_AUTH_FILE`` names, else in docker's. If that file names a helper for the
    host, the helper stores the login, and the file contains no secret.

    Args:
        host: As in a locator.
        login: The login to store.
        environment: The environment variables.

    Raises:
        InvalidConfig: The file is invalid, the helper failed, or ``DOCKER_AUTH_CONFIG`` has a login for the host, which
            would take precedence. Nothing was stored.
        OSError: The file cannot be written.
    """
    *_, (path, auths) = files = _files(environment, host)
    path, auths = next((f for f in files if f[1].helper(host) or f[1].login(host, "") is not None), (path, auths))
    server = credentials.servers(host)[0]
    helper = auths.helper(host)
    entry: dict[str, str] = {}
    if helper:
        secret = (TOKEN_USER, login.identity_token) if login.identity_token else (login.username, login.password)
        fields = {"ServerURL": server, "Username": secret[0], "Secret": secret[1]}
        credentials.run_helper(helper, "store", json.dumps(fields), server, where=str(path))
    else:
        user = f"{login.username}:{login.password}"
        entry = {"auth": base64.b64encode(user.encode()).decode()} if login.username else {}
        if login.identity_token:
            entry["identitytoken"] = login.identity_token
    _write_entry(path, host, server, entry)
    return Stored(f"docker-credential-{helper}" if helper else str(path), is_plain=not helper)


def remove_login(host: str, environment: Mapping[str, str] = os.environ) -> list[Stored]:
    """Remove the logins for a host from all files and credential helpers.

    Logins for a part of the host (``host/team``) are kept.

    Args:
        host: As in a locator.
        environment: The environment variables.

    Returns:
        The places from which a login was removed.

    Raises:
        InvalidConfig: A file is invalid, a helper failed, or ``DOCKER_AUTH_CONFIG`` has a login for the host.
        OSError: A file cannot be written.
    """
    removed = []
    for path, auths in _files(environment, host):
        if helper := auths.helper(host):
            for server in credentials.servers(host):
                if credentials.ask_helper(helper, (server,), where=str(path)) is not None:
                    credentials.run_helper(helper, "erase", server, server, where=str(path))
                    removed.append(Stored(f"docker-credential-{helper}", is_plain=False))
        had_entry = any(same_host(key, host) for key in auths.entries)
        if _write_entry(path, host, "", {}) and had_entry:
            removed.append(Stored(str(path), is_plain=True))
    return removed


def _files(environment: Mapping[str, str], host: str) -> list[tuple[Path, AuthFile]]:
    """Return the files that may contain logins, in order.

    Raises:
        InvalidConfig: A file is invalid, no file is configured, or ``DOCKER_AUTH_CONFIG`` has a login for the host.
    """
    files = []
    for source in credentials.sources(environment):
        auths = parse_auth_file(source.read(), what=source.what)
        if source.path is not None:
            files.append((source.path, auths))
        elif auths.login(host, "") is not None or auths.helper(host):
            message = f"{source.what} has a login for {host}, which takes precedence: remove it from the variable"
            raise InvalidConfig(message)
    if not files:
        raise InvalidConfig("no file for logins is configured: set HOME, DOCKER_CONFIG or REGISTRY_AUTH_FILE")
    return files


def _write_entry(path: Path, host: str, server: str, entry: Mapping[str, str]) -> bool:
    """Replace a host's entries by one under the key ``server``; return whether the file has changed.

    An empty ``server`` removes the entries. Other fields are kept. The file is written atomically, with mode 0600.
    """
    try:
        raw = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raw = b""
    fields = load_json(raw, what=str(path)) if raw.strip() else {}
    before = optional_object(fields, "auths", "")
    auths = {key: value for key, value in before.items() if not same_host(key, host)}
    if server:
        auths[server] = entry
    if auths == before:
        return False
    fields["auths"] = auths
    target = Path(os.path.realpath(path))  # a symbolic link is kept
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}-")  # mode 0600
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(fields, file, indent="\t")
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return True
