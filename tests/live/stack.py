#!/usr/bin/env python3
"""The live stack: Docker Hub's stand-in on one machine, for one command.

    python tests/live/stack.py run -- CMD…     run CMD inside
    python tests/live/stack.py build           only fetch packages and build the images

`run` returns CMD's exit code. README.md beside this file says what stands for what.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import secrets
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import content

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("LIVE_CACHE", HERE / ".state"))
USER = "reader"
TOKEN_SECONDS = 300
CUT_BYTES = 5_000_000
START_SECONDS = 30.0
STOP_SECONDS = 5.0
HOSTS = """\
127.0.0.1 localhost
::1 localhost
127.0.0.2 registry-1.docker.io
127.0.0.3 auth.docker.io
127.0.0.4 production.cloudflare.docker.com
127.0.0.5 basic.example
127.0.0.6 mirror.example
127.0.0.7 mutual.example
127.0.0.8 files.example slow.example
127.0.0.9 push.example
"""
READY = {
    "https://registry-1.docker.io/v2/": 401,
    "https://auth.docker.io/token?service=registry.docker.io": 200,
    "https://production.cloudflare.docker.com/": 404,
    "http://localhost:5000/v2/": 200,
    "https://basic.example/v2/": 401,
    "https://mirror.example/v2/": 200,
    "https://mutual.example/v2/": 400,
    "https://slow.example/v2/": 200,
    "https://push.example/v2/": 401,
    "http://127.0.0.1:5012/v2/": 200,
}
NAMESPACES = ("--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")


def tools() -> None:
    """Stop with the line that installs them if programs are missing."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    os.environ["PATH"] = path  # a plain user's PATH lacks nginx and ip
    needed = (
        *("apt-get", "curl", "docker-credential-pass", "docker-registry", "dpkg-deb", "gpg", "htpasswd", "ip"),
        *("nginx", "openssl", "pass", "skopeo", "umoci", "unshare"),
    )
    if missing := [name for name in needed if shutil.which(name) is None]:
        raise SystemExit(
            f"live stack: missing {', '.join(missing)}; on Debian: xargs apt-get install -y < {HERE / 'packages.txt'}"
        )


@contextlib.contextmanager
def locked(cache: Path) -> Iterator[None]:
    """Hold the cache for this process, so that two runs do not build at once."""
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# Outside the namespaces


def unshare() -> list[str]:
    """Return the command that starts another in namespaces of its own, after trying it."""
    identity = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *identity, *NAMESPACES]
    tried = subprocess.run([*command, "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        raise SystemExit(
            "live stack: cannot make network, mount and process namespaces. "
            "It needs root (in a container: CAP_SYS_ADMIN) "
            f"or user namespaces for everyone (sysctl user.max_user_namespaces).\n{tried.stderr.strip()}"
        )
    return command


def outside(arguments: argparse.Namespace) -> int:
    """Prepare, run this script again inside, and clean up whatever happened there."""
    tools()
    command = unshare()
    with locked(arguments.cache):
        content.fetch_packages(arguments.cache)
    # The command decides what Ctrl-C means; this process waits for it. SIGTERM ends everything.
    signal.signal(signal.SIGINT, lambda number, frame: None)

    def terminate(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    signal.signal(signal.SIGTERM, terminate)
    signal.signal(signal.SIGHUP, terminate)
    state = Path(tempfile.mkdtemp(prefix="live-"))
    # The chain of deaths: this process, unshare (by setpriv), process 1 in there (by --kill-child), all the rest.
    inner = [sys.executable, str(Path(__file__).resolve()), "--cache", str(arguments.cache), "inside", str(state)]
    process = subprocess.Popen(["setpriv", "--pdeathsig", "KILL", "--", *command, *inner, "--", *arguments.command])
    try:
        return process.wait()
    finally:
        process.kill()
        process.wait()
        deadline = time.monotonic() + STOP_SECONDS
        while state.exists() and time.monotonic() < deadline:  # until the last process has stopped writing
            shutil.rmtree(state, ignore_errors=True)
            time.sleep(0.02)


# Inside


class Servers:
    """The processes of the stack, each with its log in the state directory."""

    def __init__(self, state: Path) -> None:
        self._state = state
        self._running: list[tuple[str, subprocess.Popen[bytes]]] = []

    def start(self, name: str, *command: str, env: dict[str, str] | None = None) -> None:
        """Start a server in the state directory, with `env` on top of the environment."""
        # docker-registry takes REGISTRY_… variables for its configuration, and REGISTRY_AUTH_FILE means something else.
        own = {name: value for name, value in os.environ.items() if not name.startswith("REGISTRY_")}
        # A session of its own keeps Ctrl-C, which is for the command, away from the servers.
        with (self._state / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                cwd=self._state,
                env=own | (env or {}),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._running.append((name, process))

    def wait_for(self, url: str, status: int, context: ssl.SSLContext | None = None) -> None:
        """Wait until `url` answers with `status`.

        Raises:
            SystemExit: a server has ended, or none answered in time; carries the end of its log.
        """
        deadline = time.monotonic() + START_SECONDS
        seen: object = None
        while time.monotonic() < deadline:
            for name, process in self._running:
                if process.poll() is not None:
                    raise SystemExit(f"live stack: {name} ended with {process.returncode}:\n{self._log(name)}")
            try:
                with urllib.request.urlopen(url, timeout=5, context=context) as response:
                    seen = response.status
            except urllib.error.HTTPError as error:
                seen = error.code
            except OSError as error:
                seen = error
            if seen == status:
                return
            time.sleep(0.02)
        logs = "\n".join(f"{name}:\n{self._log(name)}" for name, _ in self._running)
        raise SystemExit(f"live stack: {url} should answer {status}, last seen: {seen}\n{logs}")

    def stop(self) -> None:
        """Stop all servers: politely, then not."""
        for _, process in reversed(self._running):
            process.terminate()
        for _, process in self._running:
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running.clear()

    def _log(self, name: str) -> str:
        return (self._state / f"{name}.log").read_text(errors="replace")[-2000:]


@contextlib.contextmanager
def servers(state: Path) -> Iterator[Servers]:
    """Give servers that are stopped at the end."""
    running = Servers(state)
    try:
        yield running
    finally:
        running.stop()


def prepare_namespace(state: Path) -> None:
    """Bring loopback up and put our names over /etc/hosts; without DNS, so that unknown names fail at once."""
    content.run("ip", "link", "set", "lo", "up")
    for name, text in (("hosts", HOSTS), ("nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n")):
        (state / name).write_text(text)
        if Path("/etc", name).exists():
            content.run("mount", "--bind", state / name, Path("/etc", name))


def make_certificates(state: Path) -> None:
    """Make authorities of two days: for servers, for the token service's signing key, and for clients."""
    tls = state / "tls"
    tls.mkdir()
    for authority, leaf, kind in (
        ("ca", "tls", ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")),
        ("token-ca", "token", ("rsa:2048",)),
        ("client-ca", "client", ("ec", "-pkeyopt", "ec_paramgen_curve:P-256")),
    ):
        config = ("-config", HERE / "config" / "openssl.cnf")
        request = ("openssl", "req", "-x509", "-nodes", "-days", "2", *config, "-newkey", *kind)
        out = ("-keyout", tls / f"{authority}.key", "-out", tls / f"{authority}.pem")
        content.run(*request, "-extensions", "ca", "-subj", f"/CN=distsdk live stack {authority}", *out)
        signer = ("-CA", tls / f"{authority}.pem", "-CAkey", tls / f"{authority}.key")
        out = ("-keyout", tls / f"{leaf}.key", "-out", tls / f"{leaf}.pem")
        content.run(*request, *signer, "-extensions", leaf, "-subj", f"/CN=distsdk live stack {leaf}", *out)


def make_login(state: Path, password: str) -> None:
    """Make the password file of basic.example; the cost of bcrypt is the least, since each request pays it."""
    command = ("htpasswd", "-n", "-i", "-B", "-C", "4", USER)
    made = subprocess.run(command, input=password, capture_output=True, text=True, check=True)
    (state / "htpasswd").write_text(made.stdout)


def fill_storage(cache: Path, state: Path) -> None:
    """Put the content into the run's storage; it is built when it is not in the cache, or was made by older code."""
    recipe = Path(content.__file__).read_bytes() + content.GENUINE.read_bytes()
    kept = cache / f"content-{hashlib.sha256(recipe).hexdigest()[:16]}"
    with locked(cache):
        if not kept.exists():
            for old in cache.glob("content-*"):
                shutil.rmtree(old)
            print("live stack: building the images", file=sys.stderr)
            build = state / "build"
            build.mkdir()
            content.build_layout(build / "layout", cache / "debs", build)
            with servers(build) as running:
                running.start("writer", "docker-registry", "serve", str(HERE / "config" / "writer.yml"))
                running.wait_for("http://localhost:5000/v2/", 200)
                content.push(build / "layout", "localhost:5000")
            content.place_genuine(build / "storage")
            content.settle(build / "storage")
            partial = cache / "content-partial"
            shutil.copytree(build / "storage", partial)
            partial.rename(kept)
            shutil.rmtree(build)
        shutil.copytree(kept, state / "storage")


def environment(cache: Path, state: Path, login: dict[str, str]) -> dict[str, str]:
    """Return the command's environment: our authority for everyone, nobody's own credentials, no proxy."""
    proxies = {"http_proxy", "https_proxy", "all_proxy", "no_proxy"}
    others = {"SSL_CERT_DIR", "DOCKER_AUTH_CONFIG"}
    kept = {name: value for name, value in os.environ.items() if name.lower() not in proxies and name not in others}
    authority = str(state / "tls" / "ca.pem")
    return (
        kept
        | login
        | {
            "LIVE_STATE": str(state),
            "LIVE_CACHE": str(cache),
            "DISTSDK_CACERT": authority,
            "SSL_CERT_FILE": authority,
            "CURL_CA_BUNDLE": authority,
            "REQUESTS_CA_BUNDLE": authority,
            "DOCKER_CONFIG": str(state / "docker"),
            "REGISTRY_AUTH_FILE": str(state / "docker" / "config.json"),
        }
    )


def inside(arguments: argparse.Namespace) -> int:
    """Start everything, run the command, stop everything."""
    # A handler that does nothing, unlike SIG_IGN, is not inherited by the command.
    signal.signal(signal.SIGINT, lambda number, frame: None)
    state: Path = arguments.state
    prepare_namespace(state)
    fill_storage(arguments.cache, state)
    if not arguments.command:
        return 0
    make_certificates(state)
    (state / "nginx-tmp").mkdir()
    (state / "docker").mkdir()
    (state / "docker" / "config.json").write_text("{}\n")
    (state / "token-seconds").write_text(os.environ.get("LIVE_TOKEN_SECONDS", str(TOKEN_SECONDS)))
    (state / "cut-bytes").write_text(str(CUT_BYTES))
    shutil.copy(HERE / "config" / "nginx.conf", state)
    password, identity_token = secrets.token_urlsafe(16), secrets.token_urlsafe(32)
    login = {"LIVE_USER": USER, "LIVE_PASSWORD": password, "LIVE_IDENTITY_TOKEN": identity_token}
    make_login(state, password)
    env = environment(arguments.cache, state, login)
    with servers(state) as running:
        running.start("registry", "docker-registry", "serve", str(HERE / "config" / "registry.yml"))
        running.start("writer", "docker-registry", "serve", str(HERE / "config" / "writer.yml"))
        running.start("htpasswd", "docker-registry", "serve", str(HERE / "config" / "htpasswd.yml"))
        running.start("pushed", "docker-registry", "serve", str(HERE / "config" / "pushed.yml"))
        running.start("proxy", sys.executable, str(HERE / "proxy.py"), str(state))
        running.start("tokens", sys.executable, str(HERE / "token_service.py"), str(state), env=login)
        running.start("nginx", "nginx", "-p", str(state), "-e", "nginx-error.log", "-c", "nginx.conf")
        trust = ssl.create_default_context(cafile=env["SSL_CERT_FILE"])
        for url, status in READY.items():
            running.wait_for(url, status, trust if url.startswith("https") else None)
        for log in (
            "access.jsonl",
            "tokens.jsonl",
            "connections.jsonl",
        ):  # what was asked while starting is nobody's business
            (state / log).write_text("")
        try:
            code = subprocess.run(arguments.command, env=env, check=False).returncode
        except OSError as error:
            print(f"live stack: cannot run {arguments.command[0]}: {error.strerror}", file=sys.stderr)
            code = 127
    return code if code >= 0 else 128 - code


def main(argv: Sequence[str]) -> int:
    """Run the command line `argv` and return the exit code."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="stack.py", description=__doc__, formatter_class=as_written)
    help_text = "where packages and built images are kept (default: %(default)s)"
    parser.add_argument("--cache", type=Path, default=CACHE, help=help_text)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="run|build")
    run = verbs.add_parser("run", help="run a command inside the stack")
    run.add_argument("command", nargs="+", help="the command, after --")
    verbs.add_parser("build", help="fetch packages and build the images, so that the next run starts at once")
    inner = verbs.add_parser("inside")
    inner.add_argument("state", type=Path)
    inner.add_argument("command", nargs="*")
    arguments = parser.parse_args(argv)
    arguments.cache = arguments.cache.resolve()
    if arguments.verb == "build":
        arguments.command = []
    return inside(arguments) if arguments.verb == "inside" else outside(arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
