"""A certificate authority for tests: TLS on loopback, in both directions."""

from __future__ import annotations

import ipaddress
import secrets
import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

#: Days for which certificates are good.
_DAYS = "2"


class Authority:
    """A certificate authority, made anew by the ``openssl`` command, that is good for two days.

    A registry behind TLS takes a context from it::

        authority = Authority(tmp_path)
        with Registry(ssl_context=authority.server_context()) as registry:
            ...  # ask https://{registry.host}/v2/, trusting authority.file

    Args:
        folder: Where keys and certificates are kept; it has to be there.

    Attributes:
        file: Its own certificate, in PEM, for clients to trust.

    Raises:
        RuntimeError: The ``openssl`` command is not there, or fails.
    """

    def __init__(self, folder: Path) -> None:
        self.file = folder / "authority.pem"
        self._folder = folder
        self._make("authority", "basicConstraints = critical,CA:TRUE\nkeyUsage = critical,keyCertSign", signed=False)

    def server_context(self, *names: str, clients: bool = False) -> ssl.SSLContext:
        """Return a context for a server, with a new certificate.

        Args:
            names: The host names and addresses that the certificate is for; by default ``127.0.0.1`` and ``localhost``.
            clients: Serve only clients with a certificate that `client` made.

        Raises:
            RuntimeError: The ``openssl`` command fails.
        """
        alternatives = ",".join(map(_alternative, names or ("127.0.0.1", "localhost")))
        certificate, key = self._make("server", f"subjectAltName = {alternatives}\nextendedKeyUsage = serverAuth")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.file)
        return context

    def client(self, name: str = "client") -> tuple[Path, Path]:
        """Make a certificate for a client.

        Args:
            name: Whom it names.

        Returns:
            Files in PEM: the certificate, and its key without a passphrase.

        Raises:
            RuntimeError: The ``openssl`` command fails.
        """
        return self._make(name, "extendedKeyUsage = clientAuth")

    def _make(self, name: str, extensions: str, *, signed: bool = True) -> tuple[Path, Path]:
        stem = self._folder / (f"{name}-{secrets.token_hex(4)}" if signed else name)
        certificate, key, config = (stem.with_name(f"{stem.name}.{kind}") for kind in ("pem", "key", "cnf"))
        identifier = "authorityKeyIdentifier = keyid" if signed else "subjectKeyIdentifier = hash"
        config.write_text(
            "[req]\ndistinguished_name = name\nprompt = no\n"
            f"[name]\ncommonName = {name}\n"
            f"[extensions]\n{extensions}\n{identifier}\n"
        )
        with_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", str(key))
        request = ("req", "-new", "-config", str(config), *with_key)
        if not signed:
            _openssl(*request, "-x509", "-extensions", "extensions", "-days", _DAYS, "-out", str(certificate))
            return certificate, key
        asked = stem.with_name(f"{stem.name}.csr")
        _openssl(*request, "-out", str(asked))
        by = ("-CA", str(self.file), "-CAkey", str(self.file.with_suffix(".key")), "-days", _DAYS)
        serial = ("-set_serial", str(secrets.randbits(64)))
        extended = ("-extfile", str(config), "-extensions", "extensions")
        _openssl("x509", "-req", "-in", str(asked), *by, *serial, *extended, "-out", str(certificate))
        return certificate, key


def _openssl(*words: str) -> None:
    command = shutil.which("openssl")
    if command is None:
        raise RuntimeError("certificates for tests are made by the openssl command: install it")
    done = subprocess.run([command, *words], capture_output=True, check=False)  # noqa: S603 - our own words
    if done.returncode:
        raise RuntimeError(f"openssl {words[0]} failed: {done.stderr.decode(errors='replace').strip()}")


def _alternative(name: str) -> str:
    try:
        return f"IP:{ipaddress.ip_address(name)}"
    except ValueError:
        return f"DNS:{name}"
