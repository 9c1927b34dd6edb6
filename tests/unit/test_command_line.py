"""The command line further out: options and their variables, order, the window's edge, signals, what is said."""

from __future__ import annotations

import datetime
import gc
import hashlib
import ipaddress
import json
import re
import shlex
import signal
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
import pytest

from distsdk.cli import EXIT_CODES, main, run
from distsdk.cli.app import ELSEWHERE, SECTIONS
from distsdk.cli.fetch import WINDOW
from distsdk.testing import Authority, Cut, Header, Redirect, Registry, Stall, Status, WrongBytes, WrongDigestHeader

from ..support import ENVIRONMENT, HANGS, digest, run_command, start_command, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from distsdk.testing import Fault, Request, Response

IMAGE = "application/vnd.oci.image.manifest.v1+json"

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and pipes as POSIX has them")


@pytest.fixture
def registry() -> Iterator[Registry]:
    """An index ``1`` of two platforms, listed in pages of two tags."""
    with Registry(page_size=2) as registry:
        images = [
            registry.add_image("library/x", name, layers=[name.encode()], platform=f"linux/{name}")
            for name in ("amd64", "arm64")
        ]
        registry.add_index("library/x", "1", manifests=images)
        yield registry


# Hosts


def test_the_plan_of_a_host_is_told(tmp_path: Path) -> None:
    """`hosts` names what would be asked, in order and without secrets, and asks nobody; as JSON too."""
    (tmp_path / "docker.io").mkdir()
    file = tmp_path / "docker.io/hosts.toml"
    file.write_text(
        '[host."https://mirror.invalid/hub"]\ncapabilities = ["pull"]\n'
        '[host."https://mirror.invalid/hub".header]\nX-Key = "hunter2"\n'
    )
    for arguments, variables in placed("--hosts-dir", str(tmp_path), "hosts", "redis"):
        told = run_command(*arguments, variables=variables)
        first, mirror, home, realms = told.stdout.decode().splitlines()
        assert f"docker.io: {file}" == first
        assert mirror.startswith("1. https://mirror.invalid/hub/v2: pull;")
        assert home.startswith("2. https://registry-1.docker.io/v2: ")
        assert "https://auth.docker.io" in realms
        assert (0, b"", False) == (told.returncode, told.stderr, b"hunter2" in told.stdout)
    plan = json.loads(run_command("hosts", "docker.io", "--json", "--hosts-dir", str(tmp_path)).stdout)
    assert ("docker.io", str(file), None) == (plan["host"], plan["why"], plan["remote"])
    assert [("https://mirror.invalid/hub/v2", ["pull"], "docker.io"), ("https://registry-1.docker.io/v2", None)] == [
        (plan["endpoints"][0]["url"], plan["endpoints"][0]["capabilities"], plan["endpoints"][0]["ns"]),
        (plan["endpoints"][1]["url"], plan["endpoints"][1]["ns"]),
    ]


def test_a_host_may_be_given_to_a_plug_in(tmp_path: Path) -> None:
    """`hosts` says so, and a plug-in that is not installed is an error of configuration."""
    (tmp_path / "models.invalid").mkdir()
    (tmp_path / "models.invalid/hosts.toml").write_text('remote = "no-such-remote"\nurl = "file:///srv"\n')
    told = run_command("hosts", "models.invalid/x", "--hosts-dir", str(tmp_path))
    assert "the remote no-such-remote serves it, from file:///srv" in told.stdout.decode()
    done = run_command("fetch", "models.invalid/x:1", "--hosts-dir", str(tmp_path))
    assert (2, True) == (done.returncode, b"no installed package offers" in done.stderr)


def test_warnings_are_told_unless_it_is_quiet(tmp_path: Path) -> None:
    """A stored login that is refused is told, on one line, and goes unused for what is public."""
    with Registry(auth="bearer", logins={"me": "right"}, private="secret/") as registry:
        registry.add_manifest("library/x", b"{}", "application/json", tags=["1"])
        login = {"auths": {registry.host: {"username": "me", "password": "hunter2"}}}
        variables = {"DOCKER_AUTH_CONFIG": json.dumps(login), "HOME": str(tmp_path)}
        x = registry.locator("library/x")
        done = run_command("fetch", x, "1", "mediatype:application/json", variables=variables)
        assert (0, b"{}", 1) == (done.returncode, done.stdout, done.stderr.count(b"\n"))
        assert done.stderr.startswith(b"distsdk: the login from DOCKER_AUTH_CONFIG")
        assert b"hunter2" not in done.stderr
        for arguments, more in placed("--quiet", "1", "fetch", x, "1", "mediatype:application/json"):
            done = run_command(*arguments, variables={**variables, **more})
            assert (0, b"{}", b"") == (done.returncode, done.stdout, done.stderr)


def test_warnings_of_a_registry_are_shown_unless_it_is_quiet() -> None:
    """A ``Warning`` header is one line on stderr, and none with ``--quiet``."""
    for quiet in ([], ["--quiet"]):
        with Registry() as registry:
            registry.add_image("library/x", "1")
            registry.fault(Header("Warning", '299 - "upgrade \x1b[1m soon"'))
            done = run_command("resolve", f"{registry.locator('library/x')}:1", *quiet)
            shown = f"distsdk: warning: {registry.host} says: upgrade \\x1b[1m soon\n"
            assert (0, "" if quiet else shown) == (done.returncode, done.stderr.decode())


def test_other_libraries_are_not_quoted() -> None:
    """What urllib3 logs may hold signed URLs; what a plug-in warns of is told."""
    code = (
        "import logging; from distsdk.cli import app; app._set_log({}); "
        "logging.getLogger('urllib3.connectionpool').warning('https://x?sig=hunter2'); "
        "logging.getLogger('plugin').warning('beware')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert b"distsdk: beware\n" == done.stderr


# What is written


@pytest.mark.slow
def test_a_listing_as_json_comes_page_by_page() -> None:
    """It is one JSON array, empty ones too, and its first page is written before the last one is there."""

    class StallLastPage:
        def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
            return (
                Stall(after=None, seconds=5).answer(request, respond) if "last=" in request.query else respond(request)
            )

    with Registry(page_size=2) as registry:
        registry.add_manifest("x", b"{}", "application/json", tags=["1", "2", "3"])
        x = registry.locator("x")
        assert b'["1", "2", "3"]\n' == run_command("tags", x, "--json").stdout
        registry.fault(Status(200, '{"tags": []}', {"Content-Type": "application/json"}), path="/tags/", times=1)
        assert b"[]\n" == run_command("tags", x, "--json").stdout
        registry.fault(StallLastPage())
        with start_command("tags", x, "--json") as process:
            assert process.stdout is not None
            assert b'["1", "2"' == process.stdout.read(9)
            process.kill()
            assert b"" == process.stdout.read()


def test_lines_are_split_at_ascii_spaces(registry: Registry) -> None:
    """Other white space is a name that cannot be, told for its line; the lines after it are fetched."""
    x = registry.locator("library/x")
    done = run_command("fetch", x, "-", stdin="\u00a0\n\u2003\n\x1c\n1\n".encode())
    assert (2, 3, True) == (done.returncode, done.stderr.count(b"\n"), len(done.stdout) > 0)
    assert b"Traceback" not in done.stderr


def test_every_form_leads_to_the_same_bytes(registry: Registry) -> None:
    """By tag, digest or both, as one word or two, with hints or an index to go through."""
    x = registry.locator("library/x")
    raw = run_command("fetch", x, "arm64").stdout
    own = digest(raw)
    assert IMAGE == json.loads(raw)["mediaType"]
    for arguments in (
        [f"{x}:arm64"],
        [f"{x}:arm64@{own}"],
        [x, f"arm64@{own}"],
        [f"{x}@{own}", f"size:{len(raw)}", f"mediatype:{IMAGE}"],
        [x, own, "mediatype:text/plain", f"mediatype:{IMAGE}"],
        [x, "1", "platform:linux/arm64"],
        [f"{x}:1", "platform:linux/arm64"],
    ):
        done = run_command("fetch", *arguments)
        assert (0, raw, b"") == (done.returncode, done.stdout, done.stderr)


def test_resolve_writes_a_descriptor(registry: Registry) -> None:
    """``--json`` is a descriptor as the image specification writes it; a platform leads to the child."""
    x = registry.locator("library/x")
    raw = run_command("fetch", x, "arm64").stdout
    done = run_command("resolve", f"{x}:1", "platform:linux/arm64", "--json")
    fields = json.loads(done.stdout)
    assert (IMAGE, digest(raw), len(raw)) == (fields["mediaType"], fields["digest"], fields["size"])
    assert f"{digest(raw)}\n".encode() == run_command("resolve", f"{x}:1", "platform:linux/arm64").stdout


def test_listings_go_through_all_pages(registry: Registry) -> None:
    """A line each, or one JSON array, over as many pages as the registry makes."""
    for name in ("library/y", "library/z"):
        registry.add_image(name, "1")
    assert b"1\namd64\narm64\n" == run_command("tags", registry.locator("library/x")).stdout
    names = ["library/x", "library/y", "library/z"]
    assert names == json.loads(run_command("catalog", "--json", registry.host).stdout)
    assert names == run_command("catalog", registry.host).stdout.decode().split()


def test_nothing_is_an_empty_array() -> None:
    """An empty listing is no line, and in JSON an array still."""
    with Registry() as registry:
        assert (0, b"") == ((done := run_command("catalog", registry.host)).returncode, done.stdout)
        assert b"[]\n" == run_command("catalog", registry.host, "--json").stdout


# Many objects


def test_order_is_that_of_the_lines(registry: Registry) -> None:
    """However late single objects come, on stdout they stand in the order of their lines, repeated ones too."""
    blobs = [bytes([n]) * (10_000 * n + 1) for n in range(24)]
    lines = [str(registry.add_blob("library/x", blob).digest) for blob in blobs]
    for n in (0, 5, 6, 17):
        registry.fault(Stall(after=0, seconds=0.3), path=lines[n], times=1)
    order = [*range(24), 3, 3]
    done = run_command(
        "fetch", registry.locator("library/x"), "-", "-j", "8", stdin="\r\n".join(lines[n] for n in order).encode()
    )
    assert (0, b"") == (done.returncode, done.stderr)
    assert digest(b"".join(blobs[n] for n in order)) == digest(done.stdout)


@pytest.mark.slow
def test_the_first_failure_makes_the_code(registry: Registry, tmp_path: Path) -> None:
    """First in the order of the lines, not of time; each is told once, and leaves no file behind."""
    good, bad = (str(registry.add_blob("library/x", data).digest) for data in (b"good", b"bad"))
    registry.fault(WrongBytes(), path=bad)
    registry.fault(Stall(after=0, seconds=0.5), path=bad, times=1)
    stdin = f"{good}\n{bad}\nmissing\n{good} no-colon\n".encode() + b"\xff\n" + f"{good} size:4\n".encode()
    done = run_command("fetch", registry.locator("library/x"), "-", "-o", str(tmp_path), stdin=stdin)
    assert (5, f"{good}\n{good}\n".encode()) == (done.returncode, done.stdout)
    said = done.stderr.decode().splitlines()
    assert [f"distsdk: line {n}" for n in (2, 3, 4, 5)] == [line[: len("distsdk: line 0")] for line in said]
    assert [good] == [path.name for path in tmp_path.iterdir()]


def test_no_lines_are_no_objects(registry: Registry) -> None:
    """Empty input is done at once, and asks nothing."""
    for stdin in (b"", b"\n \n"):
        done = run_command("fetch", registry.locator("library/x"), "-", stdin=stdin)
        assert (0, b"", b"") == (done.returncode, done.stdout, done.stderr)
    assert [] == registry.requests


@pytest.mark.slow
def test_the_window_ends_and_opens_again(registry: Registry) -> None:
    """While the first object stalls, the others stop at the window; when it goes on, all come whole and in order."""
    blobs = [bytes([n]) * (24 << 20) for n in range(5)]
    lines = [str(registry.add_blob("library/x", blob).digest) for blob in blobs]
    go_on = threading.Event()
    registry.fault(Stall(after=10, seconds=60, event=go_on), path=lines[0])
    with start_command("fetch", registry.locator("library/x"), "-", "-j", "4") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("\n".join(lines).encode())
        process.stdin.close()
        wait_until(lambda: registry.bytes_sent >= WINDOW - (4 << 20))
        sent, before = registry.bytes_sent, -1
        while sent != before:
            time.sleep(0.2)
            sent, before = registry.bytes_sent, sent
        # What three connections may hold on their way, beside the window: 6 MiB each, as Linux sizes its buffers.
        assert WINDOW - (4 << 20) <= sent <= WINDOW + 3 * (7 << 20)
        go_on.set()
        hashed = hashlib.sha256()
        while data := process.stdout.read(1 << 20):
            hashed.update(data)
        assert 0 == process.wait(timeout=HANGS)
    assert digest(b"".join(blobs)) == f"sha256:{hashed.hexdigest()}"


# Options


def elsewhere(registry: Registry) -> str:
    """Its host by an address that leads here too, but is no loopback address, and so speaks TLS."""
    return registry.host.replace("127.0.0.1", "0.0.0.0")  # noqa: S104 - to connect to, not to listen at


@contextmanager
def tls(folder: Path) -> Iterator[tuple[str, str]]:
    """A registry with a certificate that nobody knows, by its locator; and the file that would vouch for it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("0.0.0.0"))])  # noqa: S104 - as above
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(names, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = folder / "certificate.pem"
    path.write_bytes(certificate.public_bytes(pem) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    with Registry(ssl_context=context) as registry:
        registry.add_image("x", "1")
        yield f"{elsewhere(registry)}/x:1", str(path)


def placed(option: str, value: str, *command: str) -> list[tuple[list[str], dict[str, str]]]:
    """Return the arguments and variables of a command with an option before it, after it, and as a variable."""
    words = [option] if value == "1" else [option, value]
    variable = f"DISTSDK_{option.strip('-').replace('-', '_').upper()}"
    return [([*words, *command], {}), ([*command, *words], {}), ([*command], {variable: value})]


@posix
def test_a_certificate_needs_an_authority(tmp_path: Path) -> None:
    """Without one it is unreachable; with ``--cacert``, before or after the command or as a variable, it is not."""
    with tls(tmp_path) as (reference, file):
        done = run_command("resolve", reference)
        assert (6, b"") == (done.returncode, done.stdout)
        assert b"--cacert" in done.stderr
        assert 1 == done.stderr.count(b"\n")
        for arguments, variables in placed("--cacert", file, "resolve", reference):
            done = run_command(*arguments, variables=variables)
            assert (0, b"") == (done.returncode, done.stderr)


@posix
def test_plain_http_is_asked_for(registry: Registry) -> None:
    """A host that is not loopback is spoken to with TLS, unless told otherwise."""
    x = f"{elsewhere(registry)}/library/x"
    done = run_command("tags", x)
    assert (6, 0) == (done.returncode, registry.count())
    assert b"--plain-http" in done.stderr
    for arguments, variables in placed("--plain-http", "1", "tags", x):
        assert b"1\namd64\narm64\n" == run_command(*arguments, variables=variables).stdout


@posix
def test_loopback_speaks_tls_where_asked(tmp_path: Path) -> None:
    """``https://`` before a loopback host, ``--tls`` and DISTSDK_PLAIN_HTTP=0 each lead to a registry with TLS."""
    authority = Authority(tmp_path)
    with Registry(ssl_context=authority.server_context()) as registry:
        registry.add_image("x", "1")
        with Registry(content_of=registry) as plain:
            x, ca = registry.locator("x"), ("--cacert", str(authority.file))
            for arguments, variables in (
                ([f"https://{x}:1"], {}),
                (["--tls", f"{x}:1"], {}),
                ([f"{x}:1", "--tls"], {}),
                ([f"{x}:1"], {"DISTSDK_PLAIN_HTTP": "0"}),
                (["--plain-http", f"https://{x}:1"], {}),
                (["--tls", f"http://{plain.locator('x')}:1"], {}),
            ):
                assert 0 == run_command("resolve", *arguments, *ca, variables=variables).returncode, arguments
            assert b"1\n" == run_command("tags", f"https://{x}", *ca).stdout
            assert b"x\n" == run_command("catalog", registry.url, *ca).stdout
            for words in ([f"https://{x}", "1"], [f"https://{x}:1"]):
                assert 0 == run_command("fetch", *words, *ca).returncode
            assert 0 == run_command("copy", f"https://{x}:1", f"http://{plain.locator('y')}:1", *ca).returncode
            assert registry.url.encode() in run_command("hosts", f"https://{x}").stdout


def test_scheme_before_other_hosts_is_refused(registry: Registry) -> None:
    """A pasted URL of a host that is not loopback is a usage error, as is one host with both schemes."""
    x = registry.locator("x")
    for command in (
        ["tags", "https://registry.example/x"],
        ["resolve", "http://registry.example/x:1"],
        ["copy", f"https://{x}:1", f"http://{x}:2"],
    ):
        done = run_command(*command)
        assert (2, b"") == (done.returncode, done.stdout)
    assert 0 == registry.count()


@pytest.mark.parametrize(
    "words",
    [
        "<html><title>400 The plain HTTP request was sent to HTTPS port</title></html>",
        "Client sent an HTTP request to an HTTPS server.\n",
        "Reason: You're speaking plain HTTP to an SSL-enabled server port.<br />",
    ],
)
def test_plain_http_on_a_tls_port_names_the_remedy(registry: Registry, words: str) -> None:
    """The 400 of nginx, Go and httpd leads to a message with ``--tls``, also where the first request is a HEAD."""
    registry.fault(Status(400, words))
    x = registry.locator("library/x")
    for command in (["tags", x], ["fetch", x, "1"], ["resolve", f"{x}:1"], ["push", f"{x}:2", __file__]):
        done = run_command(*command)
        assert 1 == done.returncode
        assert b"this port expects TLS: use --tls, or Hosts(plain_http=False)" in done.stderr


@pytest.mark.parametrize(("status", "code"), [(429, 7), (503, 6)])
def test_wait_of_years_fails_at_once(registry: Registry, status: int, code: int) -> None:
    """Reads and pushes name the wait in days, without a wait: 429 ends with 7, 503 with 6."""
    registry.fault(Status(status, headers={"Retry-After": "99999999"}))
    x = registry.locator("library/x")
    for command in (["tags", x], ["fetch", f"{x}:1"], ["push", f"{x}:2", __file__]):
        done = run_command(*command)
        assert (code, b"") == (done.returncode, done.stdout)
        assert b"try again in 1,158 days" in done.stderr
        assert 1 == done.stderr.count(b"\n")


def test_long_wait_is_told_on_stderr(registry: Registry, pauses: list[float]) -> None:
    """A wait of more than two seconds is one line on stderr, and none with ``--quiet``."""
    for quiet in ((), ("--quiet",)):
        registry.fault(Status(503, headers={"Retry-After": "40"}), times=1)
        done = run_command("tags", registry.locator("library/x"), *quiet)
        assert (0, 0 if quiet else 1) == (done.returncode, done.stderr.count(b"\n"))
        assert bool(quiet) != done.stderr.startswith(b"distsdk: waiting 40 seconds before the next attempt: ")
    assert [40, 40] == pauses


def test_wait_beyond_the_time_of_the_command_is_not_begun(registry: Registry, pauses: list[float]) -> None:
    """A blob is not waited for longer than ``--timeout``."""
    registry.fault(Status(503, headers={"Retry-After": "40"}), path="/blobs/")
    layer = registry.add_blob("library/x", b"a layer")
    done = run_command("--timeout", "30", "fetch", registry.locator("library/x"), str(layer.digest))
    assert (6, []) == (done.returncode, pauses)


def test_debug_tells_requests(registry: Registry) -> None:
    """On stderr; stdout stays what it is."""
    x = registry.locator("library/x")
    for arguments, variables in placed("--debug", "1", "fetch", x, "1"):
        done = run_command(*arguments, variables=variables)
        assert 0 == done.returncode
        assert done.stdout == run_command("fetch", x, "1").stdout
        assert f"distsdk: GET {registry.url}/v2/library/x/manifests/1: 200\n" == done.stderr.decode()


def test_an_option_counts_more_than_a_variable(registry: Registry) -> None:
    """Wherever it stands; and after the command it counts more than before it."""
    x = registry.locator("library/x")
    soon = {"DISTSDK_TIMEOUT": "0.001"}
    gc.collect()  # an alarm within a finalizer would be lost
    assert 6 == run_command("tags", x, variables=soon).returncode
    for arguments in (
        ["--timeout", "25", "tags", x],
        ["tags", x, "--timeout", "25"],
        ["--timeout", "0.001", "tags", x, "--timeout", "25"],
    ):
        assert 0 == run_command(*arguments, variables=soon).returncode


@pytest.mark.slow
def test_times_are_limited(registry: Registry) -> None:
    """The whole by ``--timeout``, a silence by ``--read-timeout``: 6, one line, soon, and many objects alike."""
    registry.fault(Stall(after=None), path="/manifests/")
    x = registry.locator("library/x")
    for arguments, variables in (
        *placed("--timeout", "0.2", "fetch", x, "1"),
        (["resolve", f"{x}:1", "--read-timeout", "0.2"], {}),
        (["fetch", x, "-", "--timeout", "0.2"], {}),
    ):
        with start_command(*arguments, variables=variables) as process:
            out, said = process.communicate(b"1\n", timeout=HANGS)
        assert (6, b"") == (process.returncode, out)
        assert said.startswith(b"distsdk: ")
        assert 1 == said.count(b"\n")
    assert b"0.2 seconds (--timeout)" in said


def test_a_bad_setting_is_usage(registry: Registry) -> None:
    """Of an option or of a variable: 2, and nothing is asked."""
    x = registry.locator("library/x")
    for arguments, variables in (
        *placed("--timeout", "0", "tags", x),
        *placed("--read-timeout", "soon", "tags", x),
        *placed("--cacert", "/no/such/file", "tags", x),
        (["tags", x], {"DISTSDK_PLAIN_HTTP": "perhaps"}),
        (["fetch", x, "-", "-j", "0"], {}),
        (["fetch", x, "-", "size:1"], {}),
        (["fetch", f"{x}:1", "-"], {}),
        (["fetch", x, "1", "-o", "out"], {}),
        (["tags", f"{x}:1"], {}),
        (["catalog", x], {}),
        (["nonsense"], {}),
    ):
        done = run_command(*arguments, variables=variables)
        assert (2, b"") == (done.returncode, done.stdout), arguments
        assert b"Traceback" not in done.stderr
    assert [] == registry.requests


# What goes wrong


@pytest.mark.parametrize(
    ("code", "fault", "said"),
    [
        (1, Status(502), "502"),
        (1, Status.error(400, "NAME_INVALID", "evil \x1b[31m\nsecond line"), r"evil \x1b[31m\nsecond line"),
        (3, Status.error(404, "MANIFEST_UNKNOWN"), "MANIFEST_UNKNOWN"),
        (4, Status(401, headers={"WWW-Authenticate": 'Basic realm="x"'}), "login"),
        (4, Status.error(403, "DENIED", "not you"), "not you"),
        (5, Status(200, "<html>Log in</html>", {"Content-Type": "text/html"}), "text/html"),
        (5, Status(200, "{", {"Content-Type": IMAGE}), "JSON"),
        (5, WrongDigestHeader(), "sha256:000"),
        (6, Cut(5), ""),
        (7, Status.error(429, "TOOMANYREQUESTS", headers={"Retry-After": "1000"}), "17 minutes"),
        (8, Status(200, b" " * (5 << 20), {"Content-Type": IMAGE}), "limit"),
        (8, Redirect("ftp://127.0.0.1/x"), "ftp://"),
        (8, Status(401, headers={"WWW-Authenticate": 'Bearer realm="file:///etc/passwd"'}), "token service"),
    ],
)
def test_what_a_registry_does_has_its_code(registry: Registry, code: int, fault: Fault, said: str) -> None:
    """One line that names the cause, whatever the registry puts into its answer."""
    registry.fault(fault, path="/manifests/")
    done = run_command("fetch", registry.locator("library/x"), "1")
    line = done.stderr.decode()
    assert (code, b"") == (done.returncode, done.stdout)
    assert line.startswith("distsdk: ")
    assert line.endswith("\n")
    assert line[:-1].isprintable()
    assert said in line


def test_a_listing_that_leads_elsewhere_is_refused(registry: Registry) -> None:
    """The tags before it were written; the next page is not asked for."""

    class Elsewhere:
        def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
            return respond(request).with_header("Link", '<http://127.0.0.1:1/v2/library/x/tags/list>; rel="next"')

    registry.fault(Elsewhere(), path="/tags/list")
    assert 8 == run_command("tags", registry.locator("library/x")).returncode


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fetch", "docker://redis", "latest"], "redis"),
        (["fetch", "https://ghcr.io/x/y:1"], "ghcr.io/x/y"),
        (["tags", "user:hunter2@registry.invalid/x"], ""),
        (["resolve", "user:hunter2@registry.invalid/x:1"], ""),
        (["fetch", "user:hunter2@registry.invalid/x:1"], ""),
        (["catalog", "user:hunter2@registry.invalid"], ""),
        (["tags", "nosuch.invalid/\x1b[2J"], ""),
        (["resolve", "registry.invalid/x@sha256:12"], "sha256"),
        (["resolve", "registry.invalid/x@md5:d41d8cd98f00b204e9800998ecf8427e"], "sha256"),
        (["fetch", "registry.invalid/x", "1", "size:-1"], "size:"),
        (["fetch", "registry.invalid/x", "1", "mediatype:json"], "mediatype:"),
        (["fetch", "registry.invalid/x", ""], ""),
    ],
)
def test_malformed_names_are_told(arguments: list[str], said: str) -> None:
    """2 and one line, which says how to write it and repeats no password."""
    done = run_command(*arguments)
    line = done.stderr.decode()
    assert (2, b"") == (done.returncode, done.stdout)
    assert line.startswith("distsdk: ")
    assert line[:-1].isprintable()
    assert said in line
    assert "hunter2" not in line


def test_a_folder_that_cannot_be_made_is_told(registry: Registry, tmp_path: Path) -> None:
    """An error of the system is a line too, not a traceback."""
    (tmp_path / "file").write_bytes(b"")
    done = run_command("fetch", registry.locator("library/x"), "-", "-o", str(tmp_path / "file" / "out"), stdin=b"1\n")
    assert (1, b"") == (done.returncode, done.stdout)
    assert done.stderr.startswith(b"distsdk: ")
    assert 1 == done.stderr.count(b"\n")


def test_a_missing_tag_names_near_ones(registry: Registry) -> None:
    """Tags of the first page that are close are named, for one request; not with ``--quiet``, nor for a digest."""
    for tag in ("7.2.1", "7.2.2"):
        registry.add_image("library/y", tag, layers=[b"y"])
    y = registry.locator("library/y")
    for arguments in (
        ("resolve", f"{y}:7.2.3"),
        ("fetch", y, "7.2.3"),
        ("ls", f"{y}:7.2.3"),
        ("copy", f"{y}:7.2.3", f"{y}:1"),
    ):
        registry.reset()
        done = run_command(*arguments)
        assert 3 == done.returncode
        assert done.stderr.decode().endswith("; near tags: 7.2.2, 7.2.1\n")
        assert 1 == registry.count(path="/tags/list")
    for arguments in (
        ("resolve", f"{y}:7.2.3", "--quiet"),
        ("resolve", f"{y}@{digest(b'')}"),
        ("tags", registry.locator("z")),
    ):
        registry.reset()
        done = run_command(*arguments)
        assert (3, False) == (done.returncode, b"near" in done.stderr)
        assert int(arguments[0] == "tags") == registry.count(path="/tags/list")


def test_tags_that_cannot_be_listed_leave_the_error_as_it_is(registry: Registry) -> None:
    """A registry that refuses to list tags, or has them on many pages, is asked once."""
    for fault in (Status(403), Status(503), Status(404)):
        registry.clear_faults()
        registry.fault(fault, path="/tags/list")
        registry.reset()
        done = run_command("resolve", f"{registry.locator('library/x')}:none")
        assert (3, 1, False) == (done.returncode, done.stderr.count(b"\n"), b"near" in done.stderr)
        assert 1 == registry.count(path="/tags/list")
    registry.clear_faults()
    registry.reset()
    done = run_command("resolve", f"{registry.locator('library/x')}:arm65")
    assert (True, 1) == (done.stderr.endswith(b"; near tags: amd64\n"), registry.count(path="/tags/list"))


# How it ends


# Runs the command in a process that interrupts itself at the so manieth event of a kind.
INTERRUPTED = """
import os, signal, sys

event, left = sys.argv[1], int(sys.argv[2])

def interrupt(name, _):
    global left
    if name == event:
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGINT)

from distsdk.__main__ import main

del sys.argv[1:3]
sys.addaudithook(interrupt)
main()
"""


@pytest.mark.slow
@posix
@pytest.mark.parametrize(
    ("event", "number"),
    [
        *(("import", number) for number in (1, 2, 5, 20, 60, 120, 200)),
        *((event, 1) for event in ("socket.getaddrinfo", "socket.connect", "http.client.send")),
    ],
)
def test_interrupted_at_any_time(registry: Registry, event: str, number: int) -> None:
    """130 without a word, or the signal itself ends it as quietly. While Python itself starts, it has its own ways."""
    registry.fault(Stall(after=None), path="/manifests/")
    command = [sys.executable, "-c", INTERRUPTED, event, str(number), "fetch", registry.locator("library/x"), "1"]
    done = subprocess.run(command, capture_output=True, check=False, env=ENVIRONMENT, timeout=HANGS)
    assert done.returncode in {130, -signal.SIGINT}
    assert (b"", b"") == (done.stdout, done.stderr.strip())


@pytest.mark.slow
@posix
@pytest.mark.parametrize("how", ["closed", "interrupted", "timed out"])
def test_stdin_may_stay_open(registry: Registry, how: str) -> None:
    """Many objects end as one does, also while the next line is waited for."""
    blob = str(registry.add_blob("library/x", b"a" * 3_000_000).digest)
    limit = ["--timeout", "1"] if how == "timed out" else []
    with start_command("fetch", registry.locator("library/x"), "-", *limit) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        if how == "closed":
            process.stdout.close()
        if how != "timed out":
            process.stdin.write(f"{blob}\n".encode())
            process.stdin.flush()
        if how == "interrupted":
            assert b"a" * 3_000_000 == process.stdout.read(3_000_000)
            process.send_signal(signal.SIGINT)
        code = process.wait(timeout=HANGS)
        said = process.stderr.read().strip()
    expected = {
        "closed": (141, b""),
        "interrupted": (130, b""),
        "timed out": (6, b"distsdk: not done within 1 seconds (--timeout)"),
    }
    assert expected[how] == (code, said)


@pytest.mark.slow
@posix
@pytest.mark.parametrize("command", ["tags", "catalog"])
def test_listings_into_a_closed_pipe(registry: Registry, command: str) -> None:
    """They end with 141 and without a word."""
    registry.fault(Stall(after=0, seconds=0.3))
    with start_command(command, registry.locator("library/x") if command == "tags" else registry.host) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert b"" == process.stderr.read()
        assert 141 == process.wait(timeout=HANGS)


# Help


def commands(group: click.Group = main, above: click.Context | None = None) -> Iterator[click.Context]:
    """Yield the context of a group and of every command below it."""
    context = click.Context(
        group, parent=above, info_name="distsdk" if above is None else group.name, **group.context_settings
    )
    yield context
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, context)
        else:
            yield click.Context(command, parent=context, info_name=name)


@pytest.mark.parametrize("context", [*commands()], ids=lambda context: context.command_path)
@pytest.mark.parametrize("columns", [80, 120])
def test_help_has_one_form(context: click.Context, columns: int) -> None:
    """A short summary, options with their defaults, the global options, and one example that is a valid command."""
    context.terminal_width = columns
    command = context.command
    summary = command.get_short_help_str(columns)
    assert re.fullmatch(r"[A-Z][^.\x00-\x1f]{3,58}[^.\x00-\x1f]", summary.removesuffix(".")), summary
    assert summary.removesuffix(".") == (command.help or "").partition("\n")[0].removesuffix(".")
    text = command.get_help(context)
    assert text.startswith(f"Usage: {context.command_path} ")
    assert "\\b" not in text
    assert max(map(len, text.splitlines())) <= columns
    own, _, shared = text.partition("\nGlobal options:\n")
    options, example = shared.split("\n\nExample:\n")
    assert "-h, --help" in own
    for option in main.params:
        if option.name in {"timeout", "store", "replay", "cacert"}:
            assert f"\n  --{option.name} " in f"\n{options}"
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help
            assert parameter.help[0].isupper()
            assert parameter.help.endswith(".")
            if type(parameter.default) is int:
                assert f"(default: {parameter.default})" in parameter.help
    words = shlex.split(example.partition(">")[0].partition("<")[0])
    path = context.command_path.split()
    if not isinstance(command, click.Group):
        assert path == words[: len(path)]
        command.make_context(path[-1], words[len(path) :], parent=context.parent)  # raises for what is not valid


def test_h_is_help() -> None:
    """``-h`` prints what ``--help`` prints, everywhere."""
    for words in (["-h"], ["fetch", "-h"], ["content", "-h"], ["content", "verify", "-h"]):
        done = run_command(*words)
        assert (0, b"") == (done.returncode, done.stderr)
        assert run_command(*words[:-1], "--help").stdout == done.stdout


def test_commands_are_listed_in_groups() -> None:
    """The list of commands has each once, under a heading, with its whole summary."""
    assert sorted(main.commands) == sorted(name for names in SECTIONS.values() for name in names)
    listed = run_command("--help", variables={"COLUMNS": "80"}).stdout.decode()
    for heading, names in SECTIONS.items():
        assert f"\n{heading}:\n" in listed
        for name in names:
            assert f"\n  {name:<9}  {main.commands[name].get_short_help_str(80)}\n" in listed


@pytest.mark.parametrize("name", sorted(ELSEWHERE))
def test_commands_of_other_tools_point_to_ours(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A name that skopeo, crane, oras or docker uses ends with 2 and names the command here."""
    assert 2 == run([name, "redis"])
    assert f"use: distsdk {ELSEWHERE[name]}\n" in capsys.readouterr().err
    command: click.Command = main
    for word in ELSEWHERE[name].split():
        if word.startswith("-"):
            assert any(
                word in option.opts for option in command.get_params(click.Context(command, **main.context_settings))
            )
        elif isinstance(command, click.Group) and word in command.commands:
            command = command.commands[word]
    assert command is not main or ELSEWHERE[name].startswith("--")


def test_help_names_every_exit_code() -> None:
    """The codes of the table, and those of its ends, stand in ``distsdk --help``."""
    listed = " ".join(run_command("--help").stdout.decode().split())
    for code in {0, 1, 130, 141} | {code for _, code in EXIT_CODES}:
        assert f" {code} " in listed


def test_the_shell_completes() -> None:
    """``_DISTSDK_COMPLETE`` gives bash its function, and then the commands."""
    source = run_command(variables={"_DISTSDK_COMPLETE": "bash_source"})
    assert 0 == source.returncode
    assert b"_distsdk_completion" in source.stdout
    words = {"_DISTSDK_COMPLETE": "bash_complete", "COMP_WORDS": "distsdk t", "COMP_CWORD": "1"}
    assert b"plain,tags\n" == run_command(variables=words).stdout
    words = {"_DISTSDK_COMPLETE": "bash_complete", "COMP_WORDS": "distsdk tags --", "COMP_CWORD": "2"}
    completed = run_command(variables=words).stdout.decode().splitlines()
    assert {f"plain,{option.opts[0]}" for option in main.params if option.name != "version"} < set(completed)
