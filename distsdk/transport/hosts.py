"""Which endpoint serves a host that a locator names, and how it is reached."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from urllib.request import getproxies_environment

from attrs import field, frozen

from distsdk.errors import InvalidConfig

#: Hosts whose registry answers under another name.
_ENDPOINTS = {"docker.io": "registry-1.docker.io"}

#: Where the CA bundle is looked for when none is given; the first variable that is set wins.
_CA_VARIABLES = ("DISTSDK_CACERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")


@frozen
class Hosts:
    """How hosts are reached: with or without TLS, whose certificates count, through which proxy.

    Attributes:
        plain_http: Speak HTTP without TLS to the registry. Loopback addresses and ``localhost`` are anyway.
        ca_file: PEM file of the certificate authorities that count instead of the usual ones.
        proxies: Proxy URLs by scheme (``http``, ``https``, ``all``), and under ``no`` the hosts that need none,
            separated by commas.
    """

    plain_http: bool = False
    ca_file: Path | None = None
    proxies: dict[str, str] = field(factory=dict, repr=lambda proxies: f"<{len(proxies)}>", hash=False)

    @classmethod
    def from_environment(cls, *, plain_http: bool | None = None, ca_file: Path | None = None) -> Hosts:
        """Read the usual variables, once.

        ``DISTSDK_PLAIN_HTTP``; ``DISTSDK_CACERT``, ``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE``, ``SSL_CERT_FILE``;
        ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``, ``NO_PROXY`` and their lower-case forms.

        Args:
            plain_http: Counts instead of the variable.
            ca_file: Counts instead of the variables.

        Raises:
            InvalidConfig: The CA file does not exist, or the variable is neither 0 nor 1.
        """
        if plain_http is None:
            text = os.environ.get("DISTSDK_PLAIN_HTTP", "0")
            if text not in {"", "0", "1"}:
                message = f"DISTSDK_PLAIN_HTTP must be 0 or 1, not {text!r}"
                raise InvalidConfig(message)
            plain_http = text == "1"
        origin = "the CA file"
        if ca_file is None:
            for variable in _CA_VARIABLES:
                if value := os.environ.get(variable):
                    ca_file, origin = Path(value), variable
                    break
        if ca_file is not None and not ca_file.exists():
            message = f"{origin} names {str(ca_file)!r}, which does not exist"
            raise InvalidConfig(message)
        return cls(plain_http=plain_http, ca_file=ca_file, proxies=getproxies_environment())

    def endpoint(self, host: str) -> str:
        """Return the URL, ``scheme://host[:port]``, at which the registry of a locator's host answers."""
        scheme = "http" if self.plain_http or _is_loopback(host) else "https"
        return f"{scheme}://{_ENDPOINTS.get(host, host)}"

    def proxies_for(self, scheme: str, host: str, port: int) -> dict[str, str]:
        """Return the proxy for a URL of this scheme, host and port as requests takes it; empty for none."""
        proxy = self.proxies.get(scheme) or self.proxies.get("all")
        exempt = [entry.strip().lower() for entry in self.proxies.get("no", "").split(",")]
        if not proxy or any(_is_exempt(host.lower(), port, entry) for entry in exempt if entry):
            return {}
        return {scheme: proxy}

    def __reduce__(self) -> tuple[object, ...]:
        # A proxy's URL may hold a password: whoever unpickles reads the environment there.
        return _with_proxies_from_here, (self.plain_http, self.ca_file)


def _with_proxies_from_here(plain_http: bool, ca_file: Path | None) -> Hosts:
    return Hosts(plain_http=plain_http, ca_file=ca_file, proxies=getproxies_environment())


def _is_exempt(host: str, port: int, entry: str) -> bool:
    """Whether an entry of NO_PROXY means a host: ``*``, a domain and all below it, an address, a network."""
    if entry in {"*", host, f"{host}:{port}"}:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return f"{host}:{port}".endswith(f".{entry.lstrip('.')}") or host.endswith(f".{entry.lstrip('.')}")


def _is_loopback(host: str) -> bool:
    name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
