from __future__ import annotations

import http.client
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from distsdk.testing import Authority, Redirect, Registry

from ...support import HANGS

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    """An authority."""
    return Authority(tmp_path_factory.mktemp("authority"))


def ask(registry: Registry, context: ssl.SSLContext, host: str | None = None) -> tuple[int, str | None]:
    """Ask over TLS, perhaps under another name of this machine; return status and location."""
    name = f"{host}:{registry.host.partition(':')[2]}" if host else registry.host
    connection = http.client.HTTPSConnection(name, timeout=HANGS, context=context)
    try:
        connection.request("GET", "/v2/")
        answer = connection.getresponse()
        return answer.status, answer.headers["Location"]
    finally:
        connection.close()


def trusting(authority: Authority) -> ssl.SSLContext:
    """A client's context that trusts the authority alone, as strictly as it can."""
    context = ssl.create_default_context(cafile=authority.file)
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    return context


def test_tls_is_trusted_with_the_authority_alone(authority: Authority) -> None:
    """Who trusts the authority is served, under both names of loopback; nobody else is."""
    with Registry(ssl_context=authority.server_context()) as registry:
        assert registry.url == f"https://{registry.host}"
        assert [(200, None)] * 2 == [ask(registry, trusting(authority), host) for host in (None, "localhost")]
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(registry, ssl.create_default_context())


def test_a_certificate_is_for_its_names(authority: Authority) -> None:
    """A server that is called something else is not trusted."""
    with (
        Registry(ssl_context=authority.server_context("mirror.example")) as registry,
        pytest.raises(ssl.SSLCertVerificationError, match="mismatch"),
    ):
        ask(registry, trusting(authority))


def test_clients_may_need_a_certificate(authority: Authority, tmp_path: Path) -> None:
    """With mutual TLS a client is served that has one of the authority, and none without, or with a foreign one."""
    with Registry(ssl_context=authority.server_context(clients=True)) as registry:
        context = trusting(authority)
        context.load_cert_chain(*authority.client("ann"))
        assert (200, None) == ask(registry, context)
        foreign = trusting(authority)
        foreign.load_cert_chain(*Authority(tmp_path).client())
        for refused in (trusting(authority), foreign):
            with pytest.raises((ssl.SSLError, ConnectionError)):
                ask(registry, refused)
        assert 1 == registry.count()
        assert 3 == len(registry.connections)


def test_tls_may_lead_to_plain_http(authority: Authority) -> None:
    """A registry behind TLS redirects to one without it."""
    with Registry() as plain, Registry(ssl_context=authority.server_context()) as registry:
        registry.fault(Redirect(plain.url + "{path}"))
        assert (307, f"http://{plain.host}/v2/") == ask(registry, trusting(authority))


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder alone on PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    return tmp_path


def test_openssl_is_needed(broken: Path) -> None:
    """Without the command, or where it fails, the message says so."""
    with pytest.raises(RuntimeError, match="install it"):
        Authority(broken)
    command = broken / "openssl"
    command.write_text("#!/bin/sh\necho no entropy today >&2\nexit 1\n")
    command.chmod(0o755)
    with pytest.raises(RuntimeError, match="no entropy today"):
        Authority(broken)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_agrees(authority: Authority) -> None:
    """Another implementation of TLS accepts server and client certificates too."""
    certificate, key = authority.client()
    with Registry(ssl_context=authority.server_context(clients=True)) as registry:
        trust = ["curl", "-sS", "--cacert", str(authority.file), f"{registry.url}/v2/"]
        identity = ["--cert", str(certificate), "--key", str(key)]
        assert b"{}" == subprocess.run([*trust, *identity], capture_output=True, check=True).stdout
        assert 0 != subprocess.run(trust, capture_output=True, check=False).returncode
