"""Logins: where they are looked up, and what is never done with them.

The files and their order are those of containers-auth.json(5), the variable with JSON in it and the programs that keep
passwords are docker's. ``~/.netrc`` is not read.
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

#: Bytes of a file with logins, and of the variable that holds one.
FILE_LIMIT = 1024 * 1024
#: Seconds that a credential helper may take. Some of them ask a person to unlock a key ring.
HELPER_TIMEOUT = 30.0
#: Seconds for which a helper's answer counts before it is asked again: the secrets of clouds expire.
HELPER_LIFETIME = 300.0
#: Bytes of a helper's answer.
HELPER_LIMIT = 64 * 1024
#: Bytes that are kept of what a helper says on stderr, and characters of it that a message shows.
_STDERR_LIMIT, _STDERR_SHOWN = 4096, 300

#: What a helper prints where it has no login (docker-credential-helpers, ``credentials/error.go``).
_NOT_FOUND = b"credentials not found in native keychain"
#: The user's name with which a helper marks an identity token (docker login, "Credential helper protocol").
TOKEN_USER = "<token>"  # noqa: S105 - a name

#: The names of Docker Hub, which are one.
_HUB = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
#: By what Docker Hub's login is asked for: docker stores it under the first, podman under the second.
_HUB_SERVERS = ("https://index.docker.io/v1/", "docker.io")

_HELPER_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
# RFC 6750 section 2.1: b64token. Nothing else may go into the Authorization header.
_BEARER = re.compile(r"[A-Za-z0-9._~+/-]+=*")


@frozen
class Login:
    """What one registry host is logged in to with.

    Its repr shows no secret, and it cannot be pickled.

    Attributes:
        username: For Basic, and for a token service; without ``:`` (RFC 7617 section 2).
        password: With the user's name.
        identity_token: An OAuth2 refresh token, which a token service gives tokens for.
        registry_token: A bearer token that is sent as it is.
        source: Where it was found, for messages: ``the arguments``, a file's path, ``docker-credential-pass``.

    Raises:
        InvalidConfig: Something cannot be sent, or belongs to something that is missing. The message names the source
            and the part, and does not repeat the value.
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
                message = f"the {part} is {type(value).__name__}, where text belongs: is it set where it is taken from?"
                self._refuse(message)
            # RFC 7617 section 2: "MUST NOT contain any control characters".
            if _CONTROL.search(value):
                message = f"the {part} has a line break or another control character in it"
                if not _CONTROL.search(value.rstrip("\r\n")):
                    message = f"the {part} ends with a line break, as `echo` adds one: use `printf %s`"
                self._refuse(message)
            if not _is_unicode(value):
                self._refuse(f"the {part} is not Unicode text")
        if ":" in self.username:
            self._refuse("the username has a colon in it, so that no registry could tell it from the password")
        if self.password and not self.username:
            self._refuse("there is a password without a username")
        if self.registry_token and not _BEARER.fullmatch(self.registry_token):
            self._refuse("the registry token has characters that no bearer token has (RFC 6750)")

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
    """What docker's ``config.json``, containers' ``auth.json`` or ``DOCKER_AUTH_CONFIG`` says about logins.

    Attributes:
        what: How messages name it.
        entries: The fields of ``auths`` by key, those that are not empty.
        helpers: ``credHelpers``: the name of the helper by host; an empty one stands for none.
        store: ``credsStore``: the helper for all other hosts, or nothing.
    """

    what: str
    entries: Mapping[str, Mapping[str, str]] = field(factory=dict, repr=lambda entries: f"<{len(entries)}>", hash=False)
    helpers: Mapping[str, str] = field(factory=dict, hash=False)
    store: str = ""

    def helper(self, host: str) -> str:
        """Return the name of the helper to ask for a host's login, or nothing."""
        exact = self.helpers.get(host)
        if exact is not None:
            return exact
        wanted = _normalised(host)
        return next((name for key, name in self.helpers.items() if _normalised(key) == wanted), self.store)

    def login(self, host: str, repository: str) -> Login | None:
        """Return the login that ``auths`` has for a repository.

        The keys are ``host/ns/repo``, ``host/ns`` and ``host`` in turn, as they are written; then once more with
        scheme and path of an API cut off, and the names of Docker Hub taken for one. A key that is a URL stands for its
        whole host, as in docker.

        Raises:
            InvalidConfig: There is an entry, and it cannot be used.
        """
        names = [host, *repository.split("/")] if repository else [host]
        wanted = ["/".join(names[:count]) for count in range(len(names), 0, -1)]
        for name in wanted:
            if name in self.entries:
                return self._login(name)
        normalised: dict[str, str] = {}
        for key in self.entries:
            normalised.setdefault(_normalised(key), key)
        for name in map(_normalised, wanted):
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
            # Old versions of docker filled it up with zeros.
            password = password.strip("\0")
        login = Login(username, password, entry.get("identitytoken", ""), entry.get("registrytoken", ""), where)
        if not (login.username or login.identity_token or login.registry_token):
            raise InvalidConfig(f"{where} has neither a user nor a token; log in again")
        return evolve(login, source=self.what)


def parse_auth_file(raw: bytes, *, what: str) -> AuthFile:
    """Read a file of logins. No bytes at all are one without logins, as for docker.

    Args:
        raw: Its bytes, of which there may be `FILE_LIMIT`.
        what: How messages name it.

    Raises:
        InvalidConfig: It is too long, not JSON, or not what is written by ``docker login`` or ``skopeo login``; the
            message names the key. What a login consists of is looked at when it is asked for.
    """
    if len(raw) > FILE_LIMIT:
        raise InvalidConfig(f"{what} has more than {FILE_LIMIT:,} bytes, which no file of logins has")
    if not raw.strip():
        return AuthFile(what)
    # What is raised within `except` would have a cause, and that holds the whole file.
    problem = ""
    try:
        fields = load_json(raw)
        return AuthFile(what, _entries(fields), _helpers(fields), _helper_name(fields, "credsStore", "credsStore"))
    except MalformedDocument as error:
        problem = _problem(error)
    raise InvalidConfig(f"{what}: {problem}")


def _problem(error: MalformedDocument) -> str:
    if isinstance(error.__cause__, UnicodeError):
        return "it is not Unicode text in UTF-8"
    # All other messages but these name places only, and what they quote may be a URL with a password.
    if isinstance(error.__cause__, ValueError) and not isinstance(error.__cause__, JSONDecodeError):
        return "a key occurs twice in an object, or a number cannot be one of JSON's"
    return str(error)


def _entries(fields: Mapping[str, object]) -> dict[str, dict[str, str]]:
    entries = {}
    for key, value in optional_object(fields, "auths", "").items():
        where = _named("auths", key)
        # What docker leaves behind for a host whose login a helper has is an empty entry.
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
        message = f"{where} is not the name of a credential helper, which has letters, digits, '_', '.' and '-' only"
        raise MalformedDocument(message)
    return name


def _named(table: str, key: str) -> str:
    # Somebody may have written user and password into the address.
    return f"{table}[{quoted(key.rpartition('@')[2])}]"


def _normalised(key: str) -> str:
    _, scheme, rest = key.rpartition("://")
    host, _, path = rest.partition("/")
    host, path = host.lower(), path.strip("/")
    if host in _HUB:
        host = "docker.io"
    return host if scheme or path in {"", "v1", "v2"} else f"{host}/{path}"


def same_host(key: str, host: str) -> bool:
    """Whether a key of ``auths`` is a host's as a whole, in any of its spellings."""
    return _normalised(key) == _normalised(host)


def servers(host: str) -> tuple[str, ...]:
    """Return the names that a host's login may have in a helper; the first one is docker's."""
    return _HUB_SERVERS if _normalised(host) == "docker.io" else (host,)


def command_for(host: str) -> str:
    """Return the command that logs in to a host, for messages."""
    return f"distsdk login {'docker.io' if _normalised(host) == 'docker.io' else host}"


def _decoded(auth: str) -> str | None:
    """Return the text whose base64 this is, or None. Line breaks do not count, as in Go's decoder."""
    try:
        return binascii.a2b_base64(re.sub(r"[\r\n]", "", auth), strict_mode=True).decode()
    except ValueError:
        return None


@frozen
class _Place:
    """Where logins may be: a file, or the text of a variable."""

    what: str
    path: Path | None = None
    text: bytes = field(default=b"", repr=False)
    is_named: bool = False

    def version(self) -> object:
        """Return what is another value once the file was changed; None where there is none, or it is a pipe."""
        try:
            status = self.path.stat() if self.path else None
        except OSError:
            return None
        if status is None or not stat.S_ISREG(status.st_mode):
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino

    def read(self) -> bytes:
        """Return what is there, up to one byte more than may be; nothing where there is no file."""
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
            message = f"{self.what}, where logins may be, cannot be read: {error.strerror}"
            raise InvalidConfig(f"{message}; make it readable, or name another file by REGISTRY_AUTH_FILE") from error


def places(environment: Mapping[str, str]) -> tuple[_Place, ...]:
    """Return where logins are looked up, in order: `Credentials.from_environment`."""
    if named := environment.get("REGISTRY_AUTH_FILE"):
        return (_Place(named, Path(named), is_named=True),)
    places = []
    if text := environment.get("DOCKER_AUTH_CONFIG"):
        places.append(_Place("DOCKER_AUTH_CONFIG", text=os.fsencode(text)))
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
    return (*places, *(_Place(str(path), path) for path in paths))


# Helpers


def ask_helper(name: str, servers: tuple[str, ...], *, where: str) -> Login | None:
    """Return the login that ``docker-credential-NAME`` has under the first of these names for which it has one.

    https://github.com/docker/docker-credential-helpers#development

    Args:
        name: What stands after ``docker-credential-``.
        servers: By what it is asked, in turn.
        where: What names it, for messages.

    Raises:
        InvalidConfig: It is not installed, fails, takes longer than `HELPER_TIMEOUT`, or answers what is no login. What
            it prints on stdout is in no message; what it says on stderr is.
    """
    helper = f"docker-credential-{name}"
    for server in servers:
        status, answer, complaint = _run_helper(helper, "get", server, server, where=where)
        if len(answer) > HELPER_LIMIT:
            raise InvalidConfig(f"{helper} printed more than {HELPER_LIMIT:,} bytes for {server}: see what it is")
        if status == 0:
            login = _parse_answer(answer, helper, server)
            if login is not None:
                return login
        elif answer.strip() != _NOT_FOUND:
            raise InvalidConfig(
                f"{_failure(helper, server, status, complaint)}; run `printf %s {server} | {helper} get` to see why"
            )
    return None


def run_helper(name: str, action: str, text: str, server: str, *, where: str) -> None:
    """Let ``docker-credential-NAME`` store or erase a login.

    Args:
        name: What stands after ``docker-credential-``.
        action: ``store`` or ``erase``.
        text: What it reads on stdin.
        server: Whose login it is, for messages.
        where: What names the helper, for messages.

    Raises:
        InvalidConfig: It is not installed, fails, or takes longer than `HELPER_TIMEOUT`.
    """
    helper = f"docker-credential-{name}"
    status, _, complaint = _run_helper(helper, action, text, server, where=where)
    if status:
        raise InvalidConfig(f"{_failure(helper, server, status, complaint)}; {action} failed, nothing was changed")


def _failure(helper: str, server: str, status: int, complaint: bytes) -> str:
    said = shortened(printable(complaint.decode(errors="replace").strip()), _STDERR_SHOWN)
    return f"{helper} failed for {server} with exit code {status}: {said or 'it says nothing on stderr'}"


def _run_helper(helper: str, action: str, text: str, server: str, *, where: str) -> tuple[int, bytes, bytes]:
    """Run a helper that a file names: `_run`, with its failures as `InvalidConfig`."""
    import shutil

    program = shutil.which(helper)
    # A program in the current directory is nobody's helper (Go's exec.ErrDot).
    if program is None or not Path(program).is_absolute():
        message = f"{helper}, which {where} names for {server}, is not installed: put it where PATH finds it"
        raise InvalidConfig(f"{message}, or take its name out of there")
    try:
        return _run(program, action, text)
    except TimeoutError:
        message = f"{helper} did not answer for {server} within {HELPER_TIMEOUT:g} seconds"
        raise InvalidConfig(f"{message}: see whether it waits for somebody to unlock a key ring") from None
    except OSError as error:
        message = f"{helper} cannot be run: {error.strerror}; see what {program} is"
        raise InvalidConfig(message) from error


def _parse_answer(raw: bytes, helper: str, server: str) -> Login | None:
    problem = ""
    try:
        fields = load_json(raw)
        username, secret = (optional_text(fields, key, "") for key in ("Username", "Secret"))
    except MalformedDocument:
        # Neither its message nor its cause is to be seen: they are about a secret.
        problem = f"{helper} did not answer a JSON object with Username and Secret for {server}: see what it is"
    if problem:
        raise InvalidConfig(problem)
    if not username and not secret:
        return None  # so says docker-credential-pass where it was never set up
    if username == TOKEN_USER:
        return Login(identity_token=secret, source=helper)
    return Login(username, secret, source=helper)


def _run(program: str, action: str, text: str) -> tuple[int, bytes, bytes]:
    """Run a helper; return its exit code, and the beginning of what it printed and of what it said on stderr.

    Raises:
        TimeoutError: It takes too long; it was ended, with all that it started.
        OSError: It cannot be run.
    """
    import subprocess

    # A session of its own, so that what it starts can be ended with it.
    process = subprocess.Popen(  # noqa: S603 - no shell, and a name that was checked
        [program, action],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    question, *pipes = (cast("IO[bytes]", pipe) for pipe in (process.stdin, process.stdout, process.stderr))
    try:
        answer, complaint = map(_PipeReader, pipes, (HELPER_LIMIT + 1, _STDERR_LIMIT))
        with contextlib.suppress(BrokenPipeError), question:  # it need not read what it is asked
            question.write(text.encode())
        status = process.wait(HELPER_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise TimeoutError from None
    finally:
        if process.returncode is None:
            _kill(process)
    return status, answer.result(), complaint.result()


def _kill(process: subprocess.Popen[bytes]) -> None:
    if os.name == "posix":
        import signal

        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.kill()
    process.wait()


class _PipeReader:
    """Reads a pipe to its end in a thread of its own, and keeps the beginning."""

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
        """Return what was kept, once the helper has ended.

        What it leaves running, such as a key ring, may hold the pipe's other end for good: that is not waited for.
        """
        self._thread.join(0.5)
        return bytes(self._kept)


# Looking up


@define
class _Asked:
    """A helper's last answer, and the lock for asking it."""

    lock: threading.Lock = field(factory=threading.Lock)
    answer: Login | None = None
    failure: str = ""
    time: float = -math.inf


@frozen
class _Known:
    """What a process has read and asked so far."""

    lock: threading.Lock = field(factory=threading.Lock)
    files: dict[_Place, tuple[object, AuthFile]] = field(factory=dict)
    helpers: dict[tuple[str, str], _Asked] = field(factory=dict)


class _Finder:
    """Looks logins up in places, the first that has an answer wins, and keeps what it read."""

    def __init__(self, places: tuple[_Place, ...]) -> None:
        self.places = places
        self._known: dict[
            int, _Known
        ] = {}  # by process: what holds a lock during a fork never releases it in the child

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Finder) and self.places == other.places

    def __hash__(self) -> int:
        return hash(self.places)

    def login(self, host: str, repository: str) -> Login | None:
        """Return the login for a repository, None where no place has one."""
        known = self._known.setdefault(os.getpid(), _Known())
        for place in self.places:
            auths = _read(place, known)
            helper = auths.helper(host)
            login = _ask(helper, host, known, where=place.what) if helper else None
            login = login or auths.login(host, repository)
            if login is not None:
                _log.debug("the login for %s is from %s", host, login.source)
                return login
        _log.debug("no login for %s in any of: %s", host, ", ".join(place.what for place in self.places))
        return None


def _read(place: _Place, known: _Known) -> AuthFile:
    with known.lock:
        version = place.version()
        before, auths = known.files.get(place, (None, None))
        if auths is None or before != version:
            auths = parse_auth_file(place.read(), what=place.what)
            known.files[place] = (version, auths)
        return auths


def _ask(helper: str, host: str, known: _Known, *, where: str) -> Login | None:
    """Return what a helper answers, asked once however many threads want to know."""
    names = servers(host)
    with known.lock:
        asked = known.helpers.setdefault((helper, names[0]), _Asked())
    came = time.monotonic()
    with asked.lock:
        # What was answered while this thread waited for the lock is its answer too, a failure included.
        if asked.time < came and (asked.failure or asked.time + HELPER_LIFETIME < came):
            asked.answer, asked.failure = None, ""
            try:
                asked.answer = ask_helper(helper, names, where=where)
            except InvalidConfig as error:
                asked.failure = str(error)
            asked.time = time.monotonic()
        if asked.failure:
            raise InvalidConfig(asked.failure)
        return asked.answer


@frozen(init=False, repr=False)
class Credentials(Displayed):
    """Where a registry's login comes from; nothing is looked up before a registry asks for one.

    Without arguments to `connect`, that is `from_environment`. Otherwise say which login it is, in one of these ways::

        Credentials(username="me", password="…")
        Credentials(identity_token="…")
        Credentials(registry_token="…")
        Credentials.anonymous()

    A login that is given so is for the host that `connect` is given, and for no mirror of it. Neither its repr nor a
    pickle holds it: what comes out of a pickle is `from_environment`, of the process that it comes out in.

    Args:
        username: With ``password``, as for ``docker login``.
        password: Mostly an access token.
        identity_token: An OAuth2 refresh token, which the registry's token service gives tokens for.
        registry_token: A bearer token, sent to the registry as it is.

    Raises:
        InvalidConfig: It is none of these, or something that cannot be sent; the message does not repeat it.
    """

    _given: Login | None
    _finder: _Finder | None

    def __init__(
        self, *, username: str = "", password: str = "", identity_token: str = "", registry_token: str = ""
    ) -> None:
        login = Login(username, password, identity_token, registry_token, "the arguments")
        is_whole = bool(username) == bool(password)
        if not is_whole or [bool(username), bool(identity_token), bool(registry_token)].count(True) != 1:
            message = "Credentials take a username and a password, or an identity_token, or a registry_token"
            raise InvalidConfig(f"{message}; for no login there is Credentials.anonymous()")
        self.__attrs_init__(login, None)

    @classmethod
    def anonymous(cls) -> Self:
        """Return credentials that log in nowhere, whatever is configured."""
        return cls._of(None)

    @classmethod
    def from_environment(cls) -> Self:
        """Return credentials that are looked up where other tools keep them.

        The variables are read at once, files when a registry first asks, and again when they have changed. In order:

        1. The file that ``REGISTRY_AUTH_FILE`` names. Then no other place counts, also where it does not exist: so
           does skopeo. Without it, the JSON in ``DOCKER_AUTH_CONFIG``, then
        2. ``$XDG_RUNTIME_DIR/containers/auth.json``; without that variable, on Linux,
           ``/run/containers/$UID/auth.json``
        3. ``$XDG_CONFIG_HOME/containers/auth.json``, by default in ``~/.config``
        4. ``$DOCKER_CONFIG/config.json``, by default in ``~/.docker``

        A place without a login for the repository leads to the next one, since people log in to different registries
        with different tools; containers-auth.json(5) says so of the files, and docker of the variable. A place that
        cannot be read or understood is an error, and leads nowhere.

        Within a file ``credHelpers`` name the program that keeps the host's login, else ``credsStore`` does. Where
        there is none, or it has no login, ``auths`` count: docker leaves no login there that its store has, other
        tools write theirs there without looking. See `AuthFile.login` for their keys. A program's answer counts for
        five minutes.
        """
        return cls._of(_Finder(places(os.environ)))

    @classmethod
    def _of(cls, finder: _Finder | None) -> Self:
        credentials = cls.__new__(cls)
        credentials.__attrs_init__(None, finder)
        return credentials

    def login(self, host: str, repository: str, *, given: bool = True) -> Login | None:
        """Return the login for a repository, None for none. Threads may share the credentials.

        Args:
            host: As in a locator or an endpoint: ``docker.io``, ``localhost:5000``.
            repository: Its name, ``library/redis``; empty for the host alone.
            given: Whether the host is the one that `connect` was given. No other one has a login from the arguments.

        Raises:
            InvalidConfig: A file cannot be read or used, or a credential helper is missing, fails, or takes too long.
        """
        if self._finder is not None:
            return self._finder.login(host, repository)
        return self._given if given else None

    def __repr__(self) -> str:
        if self._given is not None:
            return f"<Credentials {self._given!r}>"
        places = self._finder.places if self._finder is not None else ()
        return f"<Credentials from {', '.join(place.what for place in places)}>" if places else "<Credentials: none>"

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, _: object) -> Self:
        return self

    def __reduce__(self) -> tuple[object, ...]:
        is_anonymous = self._given is None and self._finder is None
        return (type(self).anonymous if is_anonymous else type(self).from_environment, ())
