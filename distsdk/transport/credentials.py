"""Look up logins in the files, variables and credential helpers of container tools.

The files and their order are those of containers-auth.json(5); ``DOCKER_AUTH_CONFIG`` and credential helpers are
docker's. ``~/.netrc`` is not read.
"""

from __future__ import annotations

import binascii
import contextlib
import logging
import math
import os
import re
import stat
import sys
import threading
import time
from json import JSONDecodeError
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

from attrs import define, evolve, field, frozen

from distsdk._repr import Displayed
from distsdk._text import printable, quoted, shortened
from distsdk.errors import InvalidConfig, MalformedDocument
from distsdk.spec.strict_json import as_object, load_json, optional_object, optional_text

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping
    from typing import IO, Self

_log = logging.getLogger(__name__)

#: Largest size of a file of logins, or of ``DOCKER_AUTH_CONFIG``, in bytes.
FILE_LIMIT = 1024 * 1024
#: Time limit of a credential helper in seconds. Some ask the user to unlock a key ring.
HELPER_TIMEOUT = 30.0
#: Seconds for which the output of a helper is cached: secrets of cloud registries expire.
HELPER_LIFETIME = 300.0
#: Largest output of a helper in bytes.
HELPER_LIMIT = 64 * 1024
#: Bytes of a helper's stderr that are kept, and characters of it that a message shows.
_STDERR_LIMIT, _STDERR_SHOWN = 4096, 300

#: Output of a helper that has no login (docker-credential-helpers, ``credentials/error.go``).
_NOT_FOUND = b"credentials not found in native keychain"
#: The username that marks an identity token (docker login, "Credential helper protocol").
TOKEN_USER = "<token>"  # noqa: S105 - a name

#: The names of Docker Hub; they share one login.
_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
#: Keys of Docker Hub's login: docker stores it under the first, podman under the second.
_HUB_SERVERS = ("https://index.docker.io/v1/", "docker.io")

_HELPER_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# RFC 6750 section 2.1: b64token. Other characters must not reach the Authorization header.
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@frozen
class Login:
    """The login for one registry host.

    The repr shows no secret, and a login cannot be pickled.

    Attributes:
        username: For Basic, and for a token service; without ``:`` (RFC 7617 section 2).
        password: Password of the user.
        identity_token: An OAuth2 refresh token, for which a token service issues tokens.
        registry_token: A bearer token that is sent unchanged.
        source: Where the login was found, for messages: ``the arguments``, a file's path, ``docker-credential-pass``.

    Raises:
        InvalidConfig: A part has characters that cannot be sent, or there is a password without a username. The
            message names the source and the part, and does not repeat the value.
    """

    username: str = ""
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)
    registry_token: str = field(default="", repr=False)
    source: str = ""

    def __attrs_post_init__(self) -> None:
        parts: dict[str, object] = {
            "username": self.username,
            "password": self.password,
            "identity token": self.identity_token,
            "registry token": self.registry_token,
        }
        for part, value in parts.items():
            if not isinstance(value, str):
                message = f"the {part} is {type(value).__name__}, expected text: is the variable that holds it set?"
                self._refuse(message)
            # RFC 7617 section 2: "MUST NOT contain any control characters".
            if _CONTROL.search(value):
                message = f"the {part} contains a line break or another control character"
                if not _CONTROL.search(value.rstrip("\r\n")):
                    message = f"the {part} ends with a line break, as `echo` adds one: use `printf %s`"
                self._refuse(message)
            if not _is_unicode(value):
                self._refuse(f"the {part} is not Unicode text")
        if ":" in self.username:
            self._refuse("the username contains a colon, which separates it from the password")
        if self.password and not self.username:
            self._refuse("there is a password without a username")
        if self.registry_token and not _BEARER.fullmatch(self.registry_token):
            self._refuse("the registry token contains characters that are invalid in a bearer token (RFC 6750)")

    def _refuse(self, message: str) -> NoReturn:
        raise InvalidConfig(f"{self.source}: {message}" if self.source else message)

    def __reduce__(self) -> NoReturn:
        _refuse_pickle()


def _refuse_pickle() -> NoReturn:
    raise TypeError("logins hold secrets and cannot be pickled: pickle Credentials, which look them up again")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


# Files


@frozen
class AuthFile:
    """The logins in docker's ``config.json``, containers' ``auth.json`` or ``DOCKER_AUTH_CONFIG``.

    Attributes:
        what: Name of the file in messages.
        entries: The fields of ``auths`` by key, without empty ones.
        helpers: ``credHelpers``: the name of the helper by host; empty for a host without one.
        store: ``credsStore``: the helper for all other hosts; empty for none.
    """

    what: str
    entries: Mapping[str, Mapping[str, str]] = field(factory=dict, repr=lambda entries: f"<{len(entries)}>", hash=False)
    helpers: Mapping[str, str] = field(factory=dict, hash=False)
    store: str = ""

    def helper(self, host: str) -> str:
        """Return the name of the credential helper for a host, empty for none.

        Args:
            host: As in a locator.
        """
        exact = self.helpers.get(host)
        if exact is not None:
            return exact
        normalised = _normalised(host)
        return next((name for key, name in self.helpers.items() if _normalised(key) == normalised), self.store)

    def login(self, host: str, repository: str) -> Login | None:
        """Return the login that ``auths`` has for a repository; None if it has none.

        The keys ``host/ns/repo``, ``host/ns`` and ``host`` are tried in turn, first exactly, then without the scheme
        and the path of an API, and with all names of Docker Hub equal. A key that is a URL matches its whole host, as
        in docker.

        Args:
            host: As in a locator.
            repository: Name of the repository; empty for the host alone.

        Raises:
            InvalidConfig: The entry is invalid.
        """
        names = [host, *repository.split("/")] if repository else [host]
        candidates = ["/".join(names[:count]) for count in range(len(names), 0, -1)]
        for name in candidates:
            if name in self.entries:
                return self._login(name)
        normalised: dict[str, str] = {}
        for key in self.entries:
            normalised.setdefault(_normalised(key), key)
        for name in map(_normalised, candidates):
            if name in normalised:
                return self._login(normalised[name])
        return None

    def __reduce__(self) -> NoReturn:
        _refuse_pickle()

    def _login(self, key: str) -> Login:
        entry = self.entries[key]
        where = f"{self.what}: {_named('auths', key)}"
        username, password = entry.get("username", ""), entry.get("password", "")
        if "auth" in entry:
            decoded = _decoded(entry["auth"])
            if decoded is None:
                raise InvalidConfig(f"{where}.auth is not the base64 of user:password; log in again")
            username, colon, password = decoded.partition(":")
            if not colon:
                raise InvalidConfig(f"{where}.auth has no colon between user and password; log in again")
            # Old versions of docker padded the password with NULs.
            password = password.strip("\0")
        login = Login(username, password, entry.get("identitytoken", ""), entry.get("registrytoken", ""), where)
        if not (login.username or login.identity_token or login.registry_token):
            raise InvalidConfig(f"{where} has neither a user nor a token; log in again")
        return evolve(login, source=self.what)


def parse_auth_file(raw: bytes, *, what: str) -> AuthFile:
    """Parse a file of logins. An empty file has none, as for docker.

    Args:
        raw: Content of the file, at most `FILE_LIMIT` bytes.
        what: Name of the file in messages.

    Raises:
        InvalidConfig: The file is too long, not JSON, or not in the form that ``docker login`` and ``skopeo login``
            write; the message names the key. A login itself is checked when it is looked up.
    """
    if len(raw) > FILE_LIMIT:
        raise InvalidConfig(f"{what} exceeds the limit of {FILE_LIMIT:,} bytes for a file of logins")
    if not raw.strip():
        return AuthFile(what)
    # Raise outside `except`: the cause of the error would hold the whole file.
    problem = ""
    try:
        fields = load_json(raw)
        return AuthFile(what, _entries(fields), _helpers(fields), _helper_name(fields, "credsStore", "credsStore"))
    except MalformedDocument as error:
        problem = _problem(error)
    raise InvalidConfig(f"{what}: {problem}")


def _problem(error: MalformedDocument) -> str:
    if isinstance(error.__cause__, UnicodeError):
        return "the file is not UTF-8"
    # These messages quote keys, which may be URLs with a password; all others only name positions.
    if isinstance(error.__cause__, ValueError) and not isinstance(error.__cause__, JSONDecodeError):
        return "an object has a duplicate key, or a number is not valid JSON"
    return str(error)


def _entries(fields: Mapping[str, object]) -> dict[str, dict[str, str]]:
    entries = {}
    for key, value in optional_object(fields, "auths", "").items():
        where = _named("auths", key)
        # For a host whose login is in a helper, docker writes an empty entry.
        if entry := {
            name: text
            for name in ("auth", "username", "password", "identitytoken", "registrytoken")
            if (text := optional_text({} if value is None else as_object(value, where), name, where))
        }:
            entries[key] = entry
    return entries


def _helpers(fields: Mapping[str, object]) -> dict[str, str]:
    helpers = optional_object(fields, "credHelpers", "")
    return {key: _helper_name(helpers, key, _named("credHelpers", key)) for key in helpers}


def _helper_name(fields: Mapping[str, object], key: str, where: str) -> str:
    name = fields.get(key)
    if name is None or name == "":
        return ""
    if not isinstance(name, str) or not _HELPER_NAME.fullmatch(name):
        message = f"{where} is not the name of a credential helper: expected letters, digits, '_', '.' and '-' only"
        raise MalformedDocument(message)
    return name


def _named(table: str, key: str) -> str:
    # The address may contain a user and a password.
    return f"{table}[{quoted(key.rpartition('@')[2])}]"


def _normalised(key: str) -> str:
    _, scheme, rest = key.rpartition("://")
    host, _, path = rest.partition("/")
    host, path = host.lower(), path.strip("/")
    if host in _HUB:
        host = "docker.io"
    return host if scheme or path in {"", "v1", "v2"} else f"{host}/{path}"


def same_host(key: str, host: str) -> bool:
    """Return whether a key of ``auths`` names a whole host, in any spelling.

    Args:
        key: A key of ``auths``.
        host: As in a locator.
    """
    return _normalised(key) == _normalised(host)


def servers(host: str) -> tuple[str, ...]:
    """Return the names of a host's login in a credential helper, docker's first.

    Args:
        host: As in a locator.
    """
    return _HUB_SERVERS if _normalised(host) == "docker.io" else (host,)


def command_for(host: str) -> str:
    """Return the command that logs in to a host, for messages.

    Args:
        host: As in a locator.
    """
    return f"distsdk login {'docker.io' if _normalised(host) == 'docker.io' else host}"


def _decoded(auth: str) -> str | None:
    """Decode base64; return None if it is invalid. Line breaks are ignored, as in Go's decoder."""
    try:
        return binascii.a2b_base64(re.sub(r"[\r\n]", "", auth), strict_mode=True).decode()
    except ValueError:
        return None


@frozen
class _LoginSource:
    """A file or an environment variable in which logins are looked up.

    Attributes:
        what: Name in messages.
        path: Path of the file; None for a variable.
        text: Content of the variable.
        is_named: Whether ``REGISTRY_AUTH_FILE`` names the file.
    """

    what: str
    path: Path | None = None
    text: bytes = field(default=b"", repr=False)
    is_named: bool = False

    def version(self) -> object:
        """Return a value that differs after each change of the file; None for a missing file or a pipe."""
        try:
            status = self.path.stat() if self.path else None
        except OSError:
            return None
        if status is None or not stat.S_ISREG(status.st_mode):
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def read(self) -> bytes:
        """Return the content, at most one byte more than `FILE_LIMIT`; empty if the file is missing."""
        if self.path is None:
            return self.text
        try:
            with self.path.open("rb") as file:
                return file.read(FILE_LIMIT + 1)
        except (FileNotFoundError, NotADirectoryError):
            if self.is_named:
                _log.warning("REGISTRY_AUTH_FILE names %s, which does not exist: there are no logins", self.what)
            return b""
        except OSError as error:
            message = f"the file of logins {self.what} cannot be read: {error.strerror}"
            raise InvalidConfig(f"{message}; make it readable, or name another file by REGISTRY_AUTH_FILE") from error


def sources(environment: Mapping[str, str]) -> tuple[_LoginSource, ...]:
    """Return the places where `Credentials.from_environment` looks up logins, in order.

    Args:
        environment: The environment variables.
    """
    if named := environment.get("REGISTRY_AUTH_FILE"):
        return (_LoginSource(named, Path(named), is_named=True),)
    sources = []
    if text := environment.get("DOCKER_AUTH_CONFIG"):
        sources.append(_LoginSource("DOCKER_AUTH_CONFIG", text=os.fsencode(text)))
    paths = []
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        paths.append(Path(runtime, "containers", "auth.json"))
    elif sys.platform == "linux":
        paths.append(Path("/run/containers", str(os.getuid()), "auth.json"))
    folders = {"config": environment.get("XDG_CONFIG_HOME"), "docker": environment.get("DOCKER_CONFIG")}
    with contextlib.suppress(RuntimeError):  # a user without a home
        folders = {name: folder or str(Path.home() / f".{name}") for name, folder in folders.items()}
    if config := folders["config"]:
        paths.append(Path(config, "containers", "auth.json"))
    if docker := folders["docker"]:
        paths.append(Path(docker, "config.json"))
    return (*sources, *(_LoginSource(str(path), path) for path in paths))


# Helpers


def ask_helper(name: str, servers: tuple[str, ...], *, where: str) -> Login | None:
    """Return the first login that ``docker-credential-NAME`` has under one of several names; None for none.

    https://github.com/docker/docker-credential-helpers#development

    Args:
        name: Name of the helper, without ``docker-credential-``.
        servers: Names to look up, in order.
        where: The file that names the helper, for messages.

    Raises:
        InvalidConfig: The helper is not installed, fails, takes longer than `HELPER_TIMEOUT`, or prints no valid
            login. The message shows its stderr, and never its stdout.
    """
    helper = f"docker-credential-{name}"
    for server in servers:
        status, stdout, stderr = _run_helper(helper, "get", server, server, where=where)
        if len(stdout) > HELPER_LIMIT:
            raise InvalidConfig(
                f"{helper} printed more than {HELPER_LIMIT:,} bytes for {server}: is it a credential helper?"
            )
        if status == 0:
            login = _parse_helper_reply(stdout, helper, server)
            if login is not None:
                return login
        elif stdout.strip() != _NOT_FOUND:
            raise InvalidConfig(
                f"{_failure(helper, server, status, stderr)}; run `printf %s {server} | {helper} get` to see why"
            )
    return None


def run_helper(name: str, action: str, text: str, server: str, *, where: str) -> None:
    """Store or erase a login with ``docker-credential-NAME``.

    Args:
        name: Name of the helper, without ``docker-credential-``.
        action: ``store`` or ``erase``.
        text: Input of the helper.
        server: Server of the login, for messages.
        where: The file that names the helper, for messages.

    Raises:
        InvalidConfig: The helper is not installed, fails, or takes longer than `HELPER_TIMEOUT`.
    """
    helper = f"docker-credential-{name}"
    status, _, stderr = _run_helper(helper, action, text, server, where=where)
    if status:
        raise InvalidConfig(f"{_failure(helper, server, status, stderr)}; {action} failed, nothing was changed")


def _failure(helper: str, server: str, status: int, stderr: bytes) -> str:
    said = shortened(printable(stderr.decode(errors="replace").strip()), _STDERR_SHOWN)
    return f"{helper} failed for {server} with exit code {status}: {said or 'nothing on stderr'}"


def _run_helper(helper: str, action: str, text: str, server: str, *, where: str) -> tuple[int, bytes, bytes]:
    """Run a helper that a file names, as `_run`, and raise failures as `InvalidConfig`."""
    import shutil

    program = shutil.which(helper)
    # Do not run a program of the current directory (as Go's exec.ErrDot).
    if program is None or not Path(program).is_absolute():
        message = f"{helper}, which {where} names for {server}, is not installed: install it in a directory of PATH"
        raise InvalidConfig(f"{message}, or remove its name from the file")
    try:
        return _run(program, action, text)
    except TimeoutError:
        message = f"{helper} exceeded {HELPER_TIMEOUT:g} seconds for {server}"
        raise InvalidConfig(f"{message}: does it wait for a key ring to be unlocked?") from None
    except OSError as error:
        message = f"{helper} cannot be run: {error.strerror}; check {program}"
        raise InvalidConfig(message) from error


def _parse_helper_reply(raw: bytes, helper: str, server: str) -> Login | None:
    problem = ""
    try:
        fields = load_json(raw)
        username, secret = (optional_text(fields, key, "") for key in ("Username", "Secret"))
    except MalformedDocument:
        # Raise outside `except`: message and cause of the original error may quote a secret.
        problem = (
            f"{helper} did not print a JSON object with Username and Secret for {server}: is it a credential helper?"
        )
    if problem:
        raise InvalidConfig(problem)
    if not username and not secret:
        return None  # as docker-credential-pass prints before it is set up
    if username == TOKEN_USER:
        return Login(identity_token=secret, source=helper)
    return Login(username, secret, source=helper)


def _run(program: str, action: str, text: str) -> tuple[int, bytes, bytes]:
    """Run a helper; return its exit code, and the beginning of its stdout and stderr.

    Raises:
        TimeoutError: The helper took too long; it and its child processes were killed.
        OSError: The program cannot be run.
    """
    import subprocess

    # A session of its own, so that its child processes can be killed with it.
    process = subprocess.Popen(  # noqa: S603 - no shell, and a name that was checked
        [program, action],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    stdin, *pipes = (cast("IO[bytes]", pipe) for pipe in (process.stdin, process.stdout, process.stderr))
    try:
        stdout, stderr = map(_PipeReader, pipes, (HELPER_LIMIT + 1, _STDERR_LIMIT))
        with contextlib.suppress(BrokenPipeError), stdin:  # a helper need not read its input
            stdin.write(text.encode())
        status = process.wait(HELPER_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    finally:
        if process.returncode is None:
            _kill(process)
    return status, stdout.result(), stderr.result()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if os.name == "posix":
        import signal

        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


class _PipeReader:
    """Read a pipe to its end in a thread, and keep the beginning."""

    def __init__(self, pipe: IO[bytes], limit: int) -> None:
        self._pipe = pipe
        self._limit = limit
        self._kept = bytearray()
        self._thread = threading.Thread(target=self._read, name="distsdk-helper", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with self._pipe:
            while chunk := os.read(self._pipe.fileno(), 65536):
                self._kept += chunk[: self._limit - len(self._kept)]

    def result(self) -> bytes:
        """Return the kept bytes, once the helper has ended.

        A child process of the helper, such as a key ring, may keep the pipe open; its end is not awaited.
        """
        self._thread.join(0.5)
        return bytes(self._kept)


# Looking up


@define
class _HelperReply:
    """The cached output of a helper for one server, and the lock for running the helper.

    Attributes:
        lock: Held while the helper runs.
        login: The login; None for none.
        failure: Message of the error; empty if the helper succeeded.
        time: When the helper ended, on the monotonic clock.
    """

    lock: threading.Lock = field(factory=threading.Lock)
    login: Login | None = None
    failure: str = ""
    time: float = -math.inf


@frozen
class _LoginCache:
    """The files and helper outputs that a process has read."""

    lock: threading.Lock = field(factory=threading.Lock)
    files: dict[_LoginSource, tuple[object, AuthFile]] = field(factory=dict)
    helpers: dict[tuple[str, str], _HelperReply] = field(factory=dict)


class _LoginSources:
    """Look up logins in several places, and cache them. The first place with a login wins."""

    def __init__(self, sources: tuple[_LoginSource, ...]) -> None:
        self.sources = sources
        # By process: a lock that is held during a fork is never released in the child.
        self._caches: dict[int, _LoginCache] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _LoginSources) and self.sources == other.sources

    def __hash__(self) -> int:
        return hash(self.sources)

    def login(self, host: str, repository: str) -> Login | None:
        """Return the login for a repository, None for none."""
        cache = self._caches.setdefault(os.getpid(), _LoginCache())
        for source in self.sources:
            auths = _read(source, cache)
            helper = auths.helper(host)
            login = _cached_helper_login(helper, host, cache, where=source.what) if helper else None
            login = login or auths.login(host, repository)
            if login is not None:
                _log.debug("the login for %s is from %s", host, login.source)
                return login
        _log.debug("no login for %s in any of: %s", host, ", ".join(source.what for source in self.sources))
        return None


def _read(source: _LoginSource, cache: _LoginCache) -> AuthFile:
    with cache.lock:
        version = source.version()
        before, auths = cache.files.get(source, (None, None))
        if auths is None or before != version:
            auths = parse_auth_file(source.read(), what=source.what)
            cache.files[source] = (version, auths)
        return auths


def _cached_helper_login(helper: str, host: str, cache: _LoginCache, *, where: str) -> Login | None:
    """Return the login that a helper has; concurrent threads run it once."""
    names = servers(host)
    with cache.lock:
        reply = cache.helpers.setdefault((helper, names[0]), _HelperReply())
    came = time.monotonic()
    with reply.lock:
        # An output that arrived while this thread waited for the lock is used, even a failure.
        if reply.time < came and (reply.failure or reply.time + HELPER_LIFETIME < came):
            reply.login, reply.failure = None, ""
            try:
                reply.login = ask_helper(helper, names, where=where)
            except InvalidConfig as error:
                reply.failure = str(error)
            reply.time = time.monotonic()
        if reply.failure:
            raise InvalidConfig(reply.failure)
        return reply.login


@frozen(init=False, repr=False)
class Credentials(Displayed):
    """The source of logins. A login is looked up only after a registry has requested one.

    `connect` uses `from_environment` by default. To choose the login yourself, use one of::

        Credentials(username="me", password="…")
        Credentials(identity_token="…")
        Credentials(registry_token="…")
        Credentials.anonymous()

    Such a login is sent to the host that `connect` is given, and not to its mirrors. Neither the repr nor a pickle
    contains it: unpickling returns `from_environment` of the process that unpickles.

    Args:
        username: With ``password``, as for ``docker login``.
        password: Usually an access token.
        identity_token: An OAuth2 refresh token, for which the registry's token service issues tokens.
        registry_token: A bearer token, sent to the registry unchanged.

    Raises:
        InvalidConfig: The arguments are not one of these combinations, or cannot be sent; the message does not repeat
            their values.
    """

    _given: Login | None
    _sources: _LoginSources | None

    def __init__(
        self, *, username: str = "", password: str = "", identity_token: str = "", registry_token: str = ""
    ) -> None:
        login = Login(username, password, identity_token, registry_token, "the arguments")
        is_whole = bool(username) == bool(password)
        if not is_whole or [bool(username), bool(identity_token), bool(registry_token)].count(True) != 1:
            message = "Credentials take a username and a password, or an identity_token, or a registry_token"
            raise InvalidConfig(f"{message}; to use no login, pass Credentials.anonymous()")
        self.__attrs_init__(login, None)

    @classmethod
    def anonymous(cls) -> Self:
        """Return credentials that never log in, even if a login is configured."""
        return cls._of(None)

    @classmethod
    def from_environment(cls) -> Self:
        """Return credentials that look up logins where other container tools store them.

        Variables are read at once; files when a registry first requests a login, and again after they have changed. The
        order is:

        1. The file that ``REGISTRY_AUTH_FILE`` names, and no other place, even if the file does not exist, as for
           skopeo. Without that variable, the JSON in ``DOCKER_AUTH_CONFIG``, then
        2. ``$XDG_RUNTIME_DIR/containers/auth.json``; without that variable, on Linux,
           ``/run/containers/$UID/auth.json``
        3. ``$XDG_CONFIG_HOME/containers/auth.json``, by default in ``~/.config``
        4. ``$DOCKER_CONFIG/config.json``, by default in ``~/.docker``

        If a place has no login for the repository, the next one is tried, since users log in to different registries
        with different tools; containers-auth.json(5) specifies this for the files, and docker for the variable. A place
        that cannot be read or parsed is an error.

        Within a file, ``credHelpers`` or else ``credsStore`` name the credential helper of the host. Without a helper,
        or if it has no login, ``auths`` are searched: docker removes logins there that its helper stores, other tools
        do not. See `AuthFile.login` for the keys. The output of a helper is cached for five minutes.
        """
        return cls._of(_LoginSources(sources(os.environ)))

    @classmethod
    def _of(cls, sources: _LoginSources | None) -> Self:
        credentials = cls.__new__(cls)
        credentials.__attrs_init__(None, sources)
        return credentials

    def login(self, host: str, repository: str, *, given: bool = True) -> Login | None:
        """Return the login for a repository, None for none. Threads may share the credentials.

        Args:
            host: As in a locator or an endpoint: ``docker.io``, ``localhost:5000``.
            repository: Its name, ``library/redis``; empty for the host alone.
            given: Whether the host is the one passed to `connect`; only that one receives a login from the arguments.

        Raises:
            InvalidConfig: A file cannot be read or parsed, or a credential helper is missing, fails, or takes too long.
        """
        if self._sources is not None:
            return self._sources.login(host, repository)
        return self._given if given else None

    def __repr__(self) -> str:
        if self._given is not None:
            return f"<Credentials {self._given!r}>"
        sources = self._sources.sources if self._sources is not None else ()
        return (
            f"<Credentials from {', '.join(source.what for source in sources)}>" if sources else "<Credentials: none>"
        )

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: object) -> Self:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        is_anonymous = self._given is None and self._sources is None
        return (type(self).anonymous if is_anonymous else type(self).from_environment, ())
