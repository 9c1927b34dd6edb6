"""Which remote a locator gets, and what becomes of hosts that cannot be reached."""

from __future__ import annotations

import datetime
import ipaddress
import socket
import ssl
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

import distsdk
from distsdk.errors import DistWarning, InvalidConfig, InvalidReference, Unreachable
from distsdk.remotes import connect as base
from distsdk.remotes.registry import RegistryFetcher
from distsdk.spec.media_types import OCI_MANIFEST
from distsdk.testing import Registry
from distsdk.transport.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def endpoint(locator: str, hosts: distsdk.Hosts | None = None) -> str:
    """Where the remote for a locator would ask."""
    return repr(distsdk.connect(locator, hosts=hosts)).rpartition(" at ")[2].rstrip(">")


# Dispatch


@pytest.mark.parametrize(
    ("locator", "canonical", "expected"),
    [
        ("redis", "docker.io/library/redis", "https://registry-1.docker.io"),
        ("docker.io/library/redis", "docker.io/library/redis", "https://registry-1.docker.io"),
        ("index.docker.io/a/b", "docker.io/a/b", "https://registry-1.docker.io"),
        ("ghcr.io/a/b", "ghcr.io/a/b", "https://ghcr.io"),
        ("ghcr.io:8443/a/b", "ghcr.io:8443/a/b", "https://ghcr.io:8443"),
        ("localhost:5000/x", "localhost:5000/x", "http://localhost:5000"),
        ("localhost/x", "localhost/x", "http://localhost"),
        ("127.0.0.1:5000/x", "127.0.0.1:5000/x", "http://127.0.0.1:5000"),
        ("127.8.9.1/x", "127.8.9.1/x", "http://127.8.9.1"),
        ("[::1]:5000/x", "[::1]:5000/x", "http://[::1]:5000"),
        ("[2001:db8::1]/x", "[2001:db8::1]/x", "https://[2001:db8::1]"),
        ("10.0.0.1:5000/x", "10.0.0.1:5000/x", "https://10.0.0.1:5000"),
        ("localhost.example.com/x", "localhost.example.com/x", "https://localhost.example.com"),
        ("notlocalhost:5000/x", "notlocalhost:5000/x", "https://notlocalhost:5000"),
    ],
)
def test_a_locator_leads_to_an_endpoint(locator: str, canonical: str, expected: str) -> None:
    """Docker Hub's registry has another name; loopback speaks plain HTTP and nobody else does."""
    remote = distsdk.connect(locator)
    assert canonical == str(remote.locator)
    assert isinstance(remote.fetcher, RegistryFetcher)
    assert expected == endpoint(locator)
    assert expected == endpoint(str(distsdk.Locator.parse(locator)))


def test_plain_http_is_for_who_asks_for_it() -> None:
    """`Hosts.plain_http` counts for every host."""
    assert "http://ghcr.io" == endpoint("ghcr.io/a/b", distsdk.Hosts(plain_http=True))


@pytest.mark.parametrize(
    "locator",
    [
        "",
        "docker://redis",
        "https://ghcr.io/a/b",
        "oci:x",
        "redis:7",
        "ghcr.io/a/b@sha256:" + "0" * 64,
        "user:hunter2@ghcr.io/a",
        "https://user:hunter2@ghcr.io/a",
        "ghcr.io/A/b",
        "ghcr.io/../b",
        "gh cr.io/a",
    ],
)
def test_what_is_no_locator_is_refused(locator: str) -> None:
    """An object, a scheme, a password or a strange character: an error that shows no secret."""
    with pytest.raises(InvalidReference) as caught:
        distsdk.connect(locator)
    assert "hunter2" not in str(caught.value)
    assert str(caught.value).isprintable()


# Plug-ins


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that packages may be put into, as an installer does it; plug-ins are looked for anew."""
    monkeypatch.syspath_prepend(tmp_path)
    base._plugins.cache_clear()
    yield tmp_path
    base._plugins.cache_clear()


def install(folder: Path, name: str, code: str | None, entry_points: str) -> None:
    """Install a package of one module."""
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[distsdk.remotes]\n{entry_points}\n")
    if code is not None:
        (folder / f"{name}.py").write_text(code)


FACTORY = """
class SomeFetcher:
    def __init__(self, locator, settings):
        self.locator, self.settings = locator, settings
    def fetch(self, object, *hints):
        raise NotImplementedError
"""


def test_a_plug_in_gets_the_hosts_that_it_claims(installed: Path) -> None:
    """A host, with any port or with one; every other host stays a registry."""
    install(
        installed,
        "some_plugin",
        FACTORY,
        "files.example = some_plugin:SomeFetcher\nports.example:5000 = some_plugin:SomeFetcher",
    )
    remote = distsdk.connect("files.example/a/b", timeouts=distsdk.Timeouts(read=3))
    assert ("SomeFetcher", "files.example/a/b") == (type(remote.fetcher).__name__, str(remote.locator))
    assert 3 == vars(remote.fetcher)["settings"].timeouts.read
    expected = {
        "files.example:80/a": "SomeFetcher",
        "ports.example:5000/a": "SomeFetcher",
        "ports.example:5001/a": "RegistryFetcher",
        "ports.example/a": "RegistryFetcher",
        "sub.files.example/a": "RegistryFetcher",
        "ghcr.io/a/b": "RegistryFetcher",
    }
    assert expected == {locator: type(distsdk.connect(locator).fetcher).__name__ for locator in expected}


@pytest.mark.parametrize(
    ("code", "target"),
    [
        (None, "gone_plugin:Remote"),
        ("import no_such_module", "gone_plugin:Remote"),
        ("", "gone_plugin:Remote"),
        ("from distsdk import no_such_name", "gone_plugin:Remote"),
    ],
)
def test_a_plug_in_that_cannot_be_loaded_is_named(
    installed: Path, monkeypatch: pytest.MonkeyPatch, code: str | None, target: str
) -> None:
    """The error says which one claims the host; other hosts are not affected."""
    monkeypatch.delitem(sys.modules, "gone_plugin", raising=False)
    install(installed, "gone_plugin", code, f"gone.example = {target}")
    with pytest.raises(InvalidConfig, match=r"gone_plugin:Remote.*gone\.example"):
        distsdk.connect("gone.example/a")
    assert isinstance(distsdk.connect("ghcr.io/a").fetcher, RegistryFetcher)


# Hosts that cannot be reached


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """``registry.test`` is this machine; no other name is known."""
    known = socket.getaddrinfo

    def look_up(host: str, *args: Any, **kwargs: Any) -> Any:  # noqa: ANN401 - as the function it stands in for
        if host == "registry.test":
            return known("127.0.0.1", *args, **kwargs)
        if host[0].isdigit():
            return known(host, *args, **kwargs)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)


def unreachable(locator: str, **options: Any) -> Unreachable:  # noqa: ANN401 - those of connect
    """The error of fetching there, by tag and by digest."""
    remote = distsdk.connect(locator, **options)
    with pytest.raises(Unreachable) as by_digest:
        remote.fetch("sha256:" + "0" * 64).read()
    with pytest.raises(Unreachable) as by_tag:
        remote.fetch("latest")
    assert isinstance(by_tag.value, ConnectionError)
    for caught in (by_tag, by_digest):
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400
        assert "/v2/" in caught.value.url
    return by_tag.value


@pytest.mark.usefixtures("names")
def test_an_unknown_host_is_unreachable() -> None:
    """The message names the host, and not what libraries below called it."""
    error = unreachable("no-such-host.test/x")
    assert "host no-such-host.test not found" in str(error)
    assert "object at 0x" not in str(error)


def test_a_host_that_refuses_is_unreachable() -> None:
    """Nobody listens on a port that was just closed."""
    with Registry() as registry:
        pass
    assert f"connection refused by {registry.host}" in str(unreachable(registry.locator("x")))


def test_a_host_that_hangs_up_is_unreachable() -> None:
    """A connection that ends before there is an answer is no answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            for _ in range(2 * Retry().attempts):
                connection, _ = server.accept()
                connection.recv(1000)
                connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        unreachable(f"127.0.0.1:{server.getsockname()[1]}/x")
        thread.join()


@pytest.mark.parametrize("answer", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 xxx\r\n\r\n", b"\0" * 10])
def test_what_speaks_no_http_is_unreachable(answer: bytes) -> None:
    """An answer in another protocol is an error of distsdk too."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def talk() -> None:
            for _ in range(2):
                connection, _ = server.accept()
                connection.recv(1000)
                connection.sendall(answer)
                connection.close()

        thread = threading.Thread(target=talk)
        thread.start()
        unreachable(f"127.0.0.1:{server.getsockname()[1]}/x")
        thread.join()


# Certificates


def certificate(folder: Path, *, name: str = "registry.test", days: tuple[int, int] = (-1, 1)) -> Path:
    """Make a certificate that vouches for itself; returns the file with it and its key."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now + datetime.timedelta(days=days[0] - 1))
        .not_valid_after(now + datetime.timedelta(days=days[1]))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
        .add_extension(x509.KeyUsage(True, False, False, False, False, True, True, False, False), True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "certificate.pem"
    path.write_bytes(
        made.public_bytes(serialization.Encoding.PEM)
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return path


def served_with(path: Path) -> Registry:
    """A registry with TLS and that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    registry = Registry(ssl_context=context)
    registry.add_image("library/x", "latest")
    return registry


def locator_of(registry: Registry) -> str:
    """Its locator under a name that is not loopback, and so speaks TLS."""
    return f"registry.test:{registry.host.rpartition(':')[2]}/library/x"


@pytest.mark.usefixtures("names")
def test_a_certificate_of_a_known_authority_convinces(tmp_path: Path) -> None:
    """An authority that was named is enough."""
    path = certificate(tmp_path)
    with served_with(path) as registry:
        remote = distsdk.connect(locator_of(registry), hosts=distsdk.Hosts(ca_file=path))
        assert remote.fetch("latest").size > 0


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    ("options", "named", "why"),
    [
        ({}, False, "self-signed"),
        ({"days": (-3, -1)}, True, "expired"),
        ({"name": "other.test"}, True, "mismatch"),
        ({"days": (3, 5)}, True, "not yet valid"),
    ],
)
def test_a_certificate_that_does_not_convince_is_said(
    tmp_path: Path, options: dict[str, Any], named: bool, why: str
) -> None:
    """Unknown authority, expired, other name: the reason and the way out are in the message, and there is no HTTP."""
    path = certificate(tmp_path, **options)
    with served_with(path) as registry:
        error = unreachable(locator_of(registry), hosts=distsdk.Hosts(ca_file=path if named else None))
        assert why in str(error).replace("Hostname mismatch", "mismatch")
        assert "certificate verification failed for registry.test" in str(error)
        assert "--cacert" in str(error)
        assert [] == registry.requests


@pytest.mark.usefixtures("names")
def test_https_is_not_http() -> None:
    """A server without TLS is not spoken to without it; the message names the option that would."""
    with Registry() as registry:
        assert "--plain-http" in str(unreachable(locator_of(registry)))
        assert [] == registry.requests


@pytest.mark.usefixtures("names")
def test_http_is_not_https(tmp_path: Path) -> None:
    """A server with TLS does not answer plain HTTP."""
    with served_with(certificate(tmp_path)) as registry:
        unreachable(locator_of(registry), hosts=distsdk.Hosts(plain_http=True))


# Hints


@pytest.mark.parametrize(
    ("hint", "advice"),
    [
        ("plaform:linux/arm64", "write platform:linux/arm64"),
        ("Platform:linux/arm64", "write platform:linux/arm64"),
        ("media-type:text/plain", "write mediatype:text/plain"),
        ("colour:blue", "known kinds are mediatype, platform, size"),
    ],
)
def test_unknown_hint_kinds_warn(hint: str, advice: str) -> None:
    """A hint of an unknown kind is ignored with a warning in the caller's line that names the nearest known kind."""
    with Registry() as registry:
        registry.add_image("x", "1")
        remote = distsdk.connect(registry.locator("x"))
        with pytest.warns(DistWarning, match=f"ignored: unknown kind '{hint.partition(':')[0]}'; {advice}$") as caught:
            blob = remote.fetch("1", hint)
        assert [__file__] == [warning.filename for warning in caught]
        assert remote.fetch("1").digest == blob.digest


def test_known_hint_kinds_do_not_warn() -> None:
    """Hints of known kinds, and none at all, give no warning."""
    with Registry() as registry:
        registry.add_image("x", "1")
        distsdk.connect(registry.locator("x")).fetch("1", f"mediatype:{OCI_MANIFEST}")
