"""Plan the endpoints of a host: which ones, in which order, and how each is reached.

The configuration is a directory of ``hosts.toml`` files in containerd's format:
https://github.com/containerd/containerd/blob/main/docs/hosts.md.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import ssl
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Never
from urllib.request import getproxies_environment

from attrs import field, frozen

from distsdk._repr import Displayed
from distsdk._secrets import redact
from distsdk._text import printable, shortened
from distsdk.errors import InvalidConfig
from distsdk.spec.reference import Locator
from distsdk.transport.origin import Origin

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: Hosts whose registry has another host name.
_ENDPOINTS = {"docker.io": "registry-1.docker.io"}

#: Origins of token services that may receive a host's login.
_REALMS = {
    "docker.io": ("https://auth.docker.io",),
    "registry-1.docker.io": ("https://auth.docker.io",),
    "registry.gitlab.com": ("https://gitlab.com",),
}

#: Variables that name the CA bundle; the first that is set takes precedence.
_CA_VARIABLES = ("DISTSDK_CACERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE")

#: The value that selects the system's trust store instead of a file of authorities.
_SYSTEM: Literal["system"] = "system"

#: The directory for hosts that have none of their own.
_DEFAULT_FOLDER = "_default"

#: Largest size of a ``hosts.toml`` in bytes.
MAX_FILE = 1024 * 1024
#: Most ``[host]`` tables in one file.
MAX_HOSTS = 64
#: Most parts of a key; ``host."https://mirror.example".header.x-name`` has four. tomllib's time is quadratic in them.
_MAX_KEY_PARTS = 16

#: Capabilities of endpoints: blobs and manifests by digest, tags, uploads, and lists of referrers.
CAPABILITIES = frozenset({"pull", "resolve", "push", "referrers"})

_TLS_KEYS = ("ca", "client", "skip_verify")
_ENDPOINT_KEYS = ("capabilities", *_TLS_KEYS, "header", "override_path", "dial_timeout")
_TOP_KEYS = ("server", "host", *_ENDPOINT_KEYS, "remote", "url", "realms")

#: Strings and comments, which are not part of a key.
_NO_KEY = re.compile(r'"(?:[^"\\\n]|\\.)*"?|\'[^\'\n]*\'?|#.*')
# A host may contain an underscore here: container networks use such names.
_URL = re.compile(
    r"(https?)://([A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_])?|\[[0-9A-Fa-f:.]{2,45}\])(?::([0-9]{1,5}))?"
    r"((?:/[A-Za-z0-9._~!$&'()*+,;=:%-]*)*)",
    re.ASCII | re.IGNORECASE,
)
#: Names of entry points of remotes.
_REMOTE = re.compile(r"[A-Za-z0-9_.:\[\]-]+")
_WITH_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: https://pkg.go.dev/time#ParseDuration, without a sign.
_DURATION_PART = r"((?:[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9}))(ns|us|µs|μs|ms|s|m|h)"
_DURATION = re.compile(rf"(?:{_DURATION_PART})+")
_SECONDS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
#: Longest ``dial_timeout`` in seconds: a day. Sockets overflow at some years.
_LONGEST_DIAL = 86400.0

#: RFC 9110 sections 5.1 and 5.5, ASCII only.
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"(?:[!-~](?:[ -~\t]*[!-~])?)?")
#: Headers that distsdk sets for each request: framing and content negotiation.
_OUR_HEADER = re.compile(
    r"accept(-encoding)?|connection|content-length|expect|host|(if-)?range|te|trailer|transfer-encoding|upgrade",
    re.ASCII | re.IGNORECASE,
)


@frozen
class Endpoint:
    """One URL that serves a host, with its capabilities and connection settings.

    An endpoint cannot be pickled, since its headers may be secrets: pickle `Hosts`, and plan again.

    Attributes:
        base: Base URL of the API, ``https://mirror.example:5000/v2``, without a slash at the end.
        capabilities: Of ``pull`` (by digest), ``resolve`` (by tag), ``push`` and ``referrers``.
        namespace: Value of the query parameter ``ns``; None for the host itself.
        ca: PEM files of additional certificate authorities.
        client: PEM files of client certificates, each with the file of its key; None if the same file has the key.
        skip_verify: Accept any certificate from this endpoint.
        headers: Sent with each request to this endpoint, and to no other.
        dial_timeout: Seconds to connect; None for `Timeouts.connect`.
        why: The file or rule that defines the endpoint.
    """

    base: str
    capabilities: frozenset[str] = CAPABILITIES
    namespace: str | None = None
    ca: tuple[Path, ...] = ()
    client: tuple[tuple[Path, Path | None], ...] = ()
    skip_verify: bool = False
    headers: dict[str, str] = field(factory=dict, repr=lambda headers: f"<{len(headers)}>", hash=False)
    dial_timeout: float | None = None
    why: str = ""

    @property
    def origin(self) -> str:
        """The origin of the base URL: ``scheme://host[:port]``."""
        return "/".join(self.base.split("/")[:3])

    def __reduce__(self) -> Never:
        message = "endpoints may hold secrets and cannot be pickled: pickle Hosts instead, and plan again"
        raise TypeError(message)


@frozen
class EndpointPlan:
    """The endpoints of a host in the order in which they are tried, or the remote that serves it instead.

    Attributes:
        host: As in a locator.
        endpoints: The endpoints, in order.
        remote: Kind of the remote that serves the host instead of a registry: ``layout``, or a name in the entry-point
            group ``distsdk.remotes``; None for a registry.
        url: Location passed to that remote.
        realms: Origins, ``https://auth.example``, of token services that may receive the host's login.
        why: The file or rule that defines the plan.
    """

    host: str
    endpoints: tuple[Endpoint, ...]
    remote: str | None = None
    url: str | None = field(default=None, repr=lambda url: repr(url and _shown(url)))
    realms: tuple[str, ...] = ()
    why: str = ""

    def lines(self) -> list[str]:
        """Return the plan in words, without secrets."""
        lines = [f"{self.host}: {self.why}"]
        if self.remote is not None:
            lines.append(f"the remote {self.remote} serves it" + (f", from {_shown(self.url)}" if self.url else ""))
            return [printable(line) for line in lines]
        for number, endpoint in enumerate(self.endpoints, 1):
            details = [", ".join(sorted(endpoint.capabilities))]
            if endpoint.namespace is not None:
                details.append(f"ns={endpoint.namespace}")
            details += [f"authority {file}" for file in endpoint.ca]
            details += [f"client certificate {file}" for file, _ in endpoint.client]
            details += ["certificates are not verified"] * endpoint.skip_verify
            details += [f"headers {', '.join(endpoint.headers)}"] * bool(endpoint.headers)
            if endpoint.dial_timeout is not None:
                details.append(f"connects within {endpoint.dial_timeout:g} s")
            lines.append(f"{number}. {endpoint.base}: {'; '.join(details)}")
        if self.realms:
            lines.append(f"its login may also be sent to {', '.join(self.realms)}")
        return [printable(line) for line in lines]


@frozen
class Hosts(Displayed):
    """How hosts are reached: endpoints, TLS, certificate authorities, proxies.

    Attributes:
        plain_http: Use plain HTTP (True) or TLS (False) for the registry, unless its directory names a scheme. By
            default, ``localhost`` and loopback addresses use plain HTTP, and all other hosts TLS.
        ca_file: PEM file or directory of the certificate authorities to trust instead of certifi's, or ``"system"``:
            the system's trust store, as OpenSSL finds it.
        proxies: Proxy URLs by scheme (``http``, ``https``, ``all``), and under ``no`` the hosts that use none,
            separated by commas.
        hosts_dir: Directory with one directory for each configured host, which contains ``hosts.toml`` or certificates,
            as ``certs.d`` of containerd and Docker.
    """

    plain_http: bool | None = None
    ca_file: Path | Literal["system"] | None = None
    proxies: dict[str, str] = field(factory=dict, repr=lambda proxies: f"<{len(proxies)}>", hash=False)
    hosts_dir: Path | None = None

    @classmethod
    def from_environment(
        cls,
        *,
        plain_http: bool | None = None,
        ca_file: Path | Literal["system"] | None = None,
        hosts_dir: Path | None = None,
    ) -> Hosts:
        """Return the settings in the environment variables, read once.

        The variables are ``DISTSDK_PLAIN_HTTP``; ``DISTSDK_CACERT``, ``REQUESTS_CA_BUNDLE``, ``CURL_CA_BUNDLE``,
        ``SSL_CERT_FILE``; ``DISTSDK_HOSTS_DIR``, by default the directory ``$XDG_CONFIG_HOME/distsdk/certs.d``
        (``~/.config`` if unset) if it exists; ``HTTPS_PROXY``, ``HTTP_PROXY``, ``ALL_PROXY``, ``NO_PROXY`` and their
        lower-case forms.

        Args:
            plain_http: Overrides the variable.
            ca_file: Overrides the variables.
            hosts_dir: Overrides the variable and the default directory.

        Raises:
            InvalidConfig: The CA file or the directory does not exist, or ``DISTSDK_PLAIN_HTTP`` is neither 0 nor 1.
        """
        if plain_http is None:
            text = os.environ.get("DISTSDK_PLAIN_HTTP", "")
            if text not in {"", "0", "1"}:
                message = f"DISTSDK_PLAIN_HTTP must be 0 or 1, not {text!r}"
                raise InvalidConfig(message)
            plain_http = text == "1" if text else None
        origin = "the CA file"
        if ca_file is None:
            for variable in _CA_VARIABLES:
                if value := os.environ.get(variable):
                    # In the other variables, which belong to other tools, the word is a file name.
                    system = value == _SYSTEM and variable == "DISTSDK_CACERT"
                    ca_file, origin = _SYSTEM if system else Path(value), variable
                    break
        if isinstance(ca_file, Path) and not ca_file.exists():
            message = f"{origin} names {str(ca_file)!r}, which does not exist"
            raise InvalidConfig(message)
        if hosts_dir is None and (value := os.environ.get("DISTSDK_HOSTS_DIR")):
            hosts_dir = Path(value)
        hosts_dir = hosts_dir.absolute() if hosts_dir is not None else _user_directory()
        if hosts_dir is not None:
            _check_folder(hosts_dir)
        return cls(plain_http=plain_http, ca_file=ca_file, proxies=getproxies_environment(), hosts_dir=hosts_dir)

    def plan(self, host: str) -> EndpointPlan:
        """Return the plan of a host, from its directory, else from ``_default``, else by the default rules.

        The directories of ``registry.example:5000`` are ``registry.example_5000_`` and ``registry.example:5000``; only
        the first that exists is read. No network is used.

        Args:
            host: As in a locator, ``docker.io``, ``localhost:5000``.

        Raises:
            InvalidReference: ``host`` is not a host.
            InvalidConfig: The directory or a file in it cannot be read, or is invalid.
        """
        Locator(host, "")  # no invalid host becomes part of a path
        if self.hosts_dir is None:
            return _plan({}, "no hosts directory is configured", folder=Path(), host=host, plain_http=self.plain_http)
        _check_folder(self.hosts_dir)
        for folder in (self.hosts_dir / name for name in _folder_names(host)):
            if not _is_there(folder):
                continue
            text = _read(folder / "hosts.toml")
            if text:
                return parse_hosts(text, folder=folder, host=host, plain_http=self.plain_http)
            return _plan(_certificates(folder), str(folder), folder=folder, host=host, plain_http=self.plain_http)
        why = f"{self.hosts_dir} has no directory for it"
        return _plan({}, why, folder=Path(), host=host, plain_http=self.plain_http)

    def tls(self, endpoint: Endpoint, *, elsewhere: bool = False) -> ssl.SSLContext | None:
        """Return the TLS settings for an endpoint; None for plain HTTP, or if only certifi's bundle is used.

        Args:
            endpoint: An endpoint of a plan.
            elsewhere: For other origins that the endpoint refers to, such as a token service. They may use the
                endpoint's authorities; no client certificate is sent, and certificates are always verified.

        Raises:
            InvalidConfig: A file cannot be read or is not in PEM format, a key needs a passphrase, or there is more
                than one client certificate.
        """
        files = () if elsewhere else endpoint.client
        unverified = endpoint.skip_verify and not elsewhere
        if endpoint.base.startswith("http:") and not elsewhere:
            return None
        if self.ca_file is None and not (endpoint.ca or files or unverified):
            return None
        from urllib3.util.ssl_ import create_urllib3_context

        # urllib3's own context, so that only the certificates differ from those of other hosts.
        context = create_urllib3_context(
            ssl_minimum_version=ssl.TLSVersion.TLSv1_2, cert_reqs=ssl.CERT_NONE if unverified else ssl.CERT_REQUIRED
        )
        self._trust(context, endpoint)
        if len(files) > 1:
            message = (
                f"{endpoint.why}: {len(files)} client certificates, expected one; "
                'write a certificate and its key as a pair, client = [["cert.pem", "key.pem"]]'
            )
            raise InvalidConfig(message)
        for certificate, key in files:
            _load_client_certificate(context, certificate, key, endpoint.why)
        return context

    def _trust(self, context: ssl.SSLContext, endpoint: Endpoint) -> None:
        """Load the configured authorities, by default certifi's, and those of the endpoint."""
        if self.ca_file is None:
            from requests.utils import DEFAULT_CA_BUNDLE_PATH

            context.load_verify_locations(DEFAULT_CA_BUNDLE_PATH)
        elif not isinstance(self.ca_file, Path):
            context.load_default_certs()
            paths = ssl.get_default_verify_paths()
            if not (paths.cafile or paths.capath or context.get_ca_certs()):
                message = f"this system has no trust store at {paths.openssl_cafile}; pass a file of authorities"
                raise InvalidConfig(message)
        elif _is_folder(self.ca_file):
            context.load_verify_locations(capath=self.ca_file)
        else:
            _add_authority(context, self.ca_file, "--cacert and DISTSDK_CACERT")
        for file in endpoint.ca:
            _add_authority(context, file, endpoint.why)

    def proxies_for(self, scheme: str, host: str, port: int) -> dict[str, str]:
        """Return the proxy for a URL in the form that requests expects; empty for none.

        Loopback hosts have none: a proxy would connect to itself, and receive a login that is meant for this machine.

        Args:
            scheme: Scheme of the URL.
            host: Host of the URL.
            port: Port of the URL.
        """
        if is_loopback(host):
            return {}
        proxy = self.proxies.get(scheme) or self.proxies.get("all")
        exempt = [entry.strip().lower() for entry in self.proxies.get("no", "").split(",")]
        if not proxy or any(_is_exempt(host.lower(), port, entry) for entry in exempt if entry):
            return {}
        return {scheme: proxy}

    def __reduce__(self) -> tuple[object, ...]:
        # A proxy's URL may hold a password, so that unpickling reads the proxies from the environment.
        return _with_proxies_from_here, (self.plain_http, self.ca_file, self.hosts_dir)


def _with_proxies_from_here(
    plain_http: bool | None, ca_file: Path | Literal["system"] | None, hosts_dir: Path | None
) -> Hosts:
    return Hosts(plain_http=plain_http, ca_file=ca_file, proxies=getproxies_environment(), hosts_dir=hosts_dir)


def parse_hosts(text: str, *, folder: Path, host: str, plain_http: bool | None = None) -> EndpointPlan:
    """Parse the text of a ``hosts.toml``. No file is read.

    Args:
        text: TOML.
        folder: Directory of the file, to which the files it names are relative.
        host: The served host, as in a locator.
        plain_http: As in `Hosts`, for the host itself if the text names no ``server``.

    Raises:
        InvalidConfig: The text is not TOML, or has invalid settings; the message names the file and the table.
    """
    import tomllib

    file = str(folder / "hosts.toml")
    for line in _NO_KEY.sub("", text).splitlines():
        if line.count(".") >= _MAX_KEY_PARTS:
            message = f"{file}: a key has more than {_MAX_KEY_PARTS} parts separated by dots"
            raise InvalidConfig(message)
    try:
        table = tomllib.loads(text)
    except RecursionError as error:
        message = f"{file} is nested too deeply"
        raise InvalidConfig(message) from error
    except ValueError as error:  # also raised for a number of too many digits
        # The parser quotes keys, which are URLs here.
        message = f"{file} is not TOML" + (f": {error}" if "@" not in str(error) else "")
        raise InvalidConfig(message) from None
    return _plan(table, file, folder=folder, host=host, plain_http=plain_http)


@frozen
class _Table:
    """A table of a ``hosts.toml``.

    Attributes:
        fields: The values by key.
        place: File and name of the table, for messages.
        folder: Directory of the file.
    """

    fields: Mapping[str, object]
    place: str
    folder: Path

    def invalid(self, key: str, needed: str) -> InvalidConfig:
        """Return the error for an invalid value, which is not shown since it may be a secret."""
        return InvalidConfig(f"{self.place}: {_shown_key(key)} must be {needed}")

    def check_keys(self, known: Iterable[str]) -> None:
        """Refuse unknown keys; containerd ignores them, so that a typing error gives a mirror all capabilities."""
        for key in self.fields:
            if key not in known:
                message = f"{self.place}: unknown setting {_shown_key(key)}: expected one of {', '.join(known)}"
                if key in _TOP_KEYS:
                    message += "; it belongs above the first [table]"
                raise InvalidConfig(message)

    def table(self, key: str, place: str) -> _Table:
        """Return the table under a key, an empty one if the key is missing."""
        found = self.fields.get(key, {})
        if not isinstance(found, dict):
            raise self.invalid(key, "a table")
        return _Table(found, place, self.folder)

    def flag(self, key: str) -> bool:
        found = self.fields.get(key, False)
        if not isinstance(found, bool):
            raise self.invalid(key, "true or false")
        return found

    def word(self, key: str) -> str | None:
        found = self.fields.get(key)
        if found is not None and not (isinstance(found, str) and found and found.isprintable()):
            raise self.invalid(key, "a string without control characters, and not empty")
        return found

    def strings(self, key: str, needed: str) -> tuple[str, ...]:
        """Return the strings of a list; empty if the key is missing."""
        found = self.fields.get(key)
        if found is None:
            return ()
        if not isinstance(found, list) or not found or not all(isinstance(entry, str) for entry in found):
            raise self.invalid(key, needed)
        return tuple(found)

    def capabilities(self) -> frozenset[str]:
        """Return the capabilities of the endpoint; by default all, as in containerd."""
        needed = f"a list of {', '.join(sorted(CAPABILITIES))}, and not empty"
        found = frozenset(word.lower() for word in self.strings("capabilities", needed))
        if not found <= CAPABILITIES:
            raise self.invalid("capabilities", needed)
        return found or CAPABILITIES

    def authorities(self) -> tuple[Path, ...]:
        found = self.fields.get("ca", [])
        return tuple(self._path("ca", entry) for entry in (found if isinstance(found, list) else [found]))

    def client(self) -> tuple[tuple[Path, Path | None], ...]:
        """Return pairs of files; a single file, or one paired with an empty string, contains certificate and key."""
        found = self.fields.get("client", [])
        pairs: list[tuple[Path, Path | None]] = []
        for entry in found if isinstance(found, list) else [found]:
            certificate, key = entry if isinstance(entry, list) and len(entry) == 2 else (entry, "")
            pairs.append((self._path("client", certificate), None if key == "" else self._path("client", key)))
        return tuple(pairs)

    def _path(self, key: str, entry: object) -> Path:
        if not isinstance(entry, str) or not entry or "\0" in entry:
            forms = {
                "ca": "a file or a list of files",
                "client": 'a file, a list of files, or a list of pairs, [["cert.pem", "key.pem"]]',
            }
            raise self.invalid(key, forms[key])
        return self.folder / entry

    def headers(self) -> dict[str, str]:
        """Return the headers; several values of one header are joined by commas (RFC 9110 section 5.3)."""
        table = self.table("header", f"{self.place}: header")
        needed = "a string, or a list of strings, of printable ASCII without spaces around it"
        headers: dict[str, str] = {}
        for name, found in table.fields.items():
            if not _HEADER_NAME.fullmatch(name):
                message = f"{table.place}: the name of a header contains invalid characters"
                raise InvalidConfig(message)
            if _OUR_HEADER.fullmatch(name):
                raise table.invalid(name, "left out: distsdk sets it for each request")
            if name.lower() in (other.lower() for other in headers):
                raise table.invalid(name, "given once: names of headers are case-insensitive")
            values = (found,) if isinstance(found, str) else table.strings(name, needed)
            if not all(map(_HEADER_VALUE.fullmatch, values)):
                raise table.invalid(name, needed)
            headers[name] = ", ".join(values)
        return headers

    def dial_timeout(self) -> float | None:
        """Return the seconds of a Go duration."""
        found = self.fields.get("dial_timeout")
        if found is None:
            return None
        text = found if isinstance(found, str) and _DURATION.fullmatch(found) else ""
        seconds = sum(float(number) * _SECONDS[unit] for number, unit in re.findall(_DURATION_PART, text))
        if not 0 < seconds <= _LONGEST_DIAL:
            raise self.invalid("dial_timeout", 'a time such as "3s" or "500ms", of at most a day')
        return seconds

    def endpoint(self, url: str, host: str, *, named: bool) -> Endpoint:
        """Return the endpoint of the table at a URL, which is ``named`` in the file or derived from the host."""
        origin, segments = _read_url(url, self.place)
        override = self.flag("override_path")
        if override and not named:
            raise self.invalid("override_path", "used with a server: name the server too")
        if not override and segments[-1:] != ["v2"]:
            segments.append("v2")
        itself, _ = _read_url(f"{origin.scheme}://{host}", self.place)
        return Endpoint(
            base="/".join([str(origin), *segments]),
            capabilities=self.capabilities(),
            namespace=None if origin == itself else host,
            ca=self.authorities(),
            client=self.client(),
            skip_verify=self.flag("skip_verify"),
            headers=self.headers(),
            dial_timeout=self.dial_timeout(),
            why=self.place,
        )


def _plan(fields: Mapping[str, object], why: str, *, folder: Path, host: str, plain_http: bool | None) -> EndpointPlan:
    top = _Table(fields, why, folder)
    top.check_keys(_TOP_KEYS)
    mirrors = top.table("host", why)
    if len(mirrors.fields) > MAX_HOSTS:
        message = f"{why}: more than {MAX_HOSTS} host tables"
        raise InvalidConfig(message)
    endpoints = []
    for url in mirrors.fields:
        mirror = mirrors.table(url, f'{why}: host."{_shown(url)}"')
        mirror.check_keys(_ENDPOINT_KEYS)
        endpoints.append(mirror.endpoint(url, host, named=True))
    server = top.word("server")
    if server is None:
        # Certificates configured for one host imply TLS, even on loopback.
        secured = folder.name != _DEFAULT_FOLDER and any(key in fields for key in _TLS_KEYS)
        plain = is_loopback(host) and not secured if plain_http is None else plain_http
        endpoints.append(top.endpoint(f"{'http' if plain else 'https'}://{host}", host, named=False))
    else:
        endpoints.append(top.endpoint(server, host, named=True))
    remote, where = top.word("remote"), top.word("url")
    if remote is not None and not _REMOTE.fullmatch(remote):
        raise top.invalid("remote", "the name of a plug-in; its location is set by url")
    if where is not None and remote is None:
        raise top.invalid("url", "used with a remote: name the remote too")
    realms = [str(_read_url(realm, f"{why}: realms")[0]) for realm in top.strings("realms", "a list of URLs")]
    realms += _REALMS.get(host, ())
    return EndpointPlan(host, tuple(endpoints), remote, where, tuple(dict.fromkeys(realms)), why)


def _read_url(text: str, place: str) -> tuple[Origin, list[str]]:
    """Return the origin of a URL, by default with ``https``, and the segments of its path."""
    match = _URL.fullmatch(text if _WITH_SCHEME.match(text) else f"https://{text}")
    segments = [segment for segment in match[4].split("/") if segment] if match else []
    if match is None or int(match[3] or 443) not in range(1, 65536) or {".", ".."} & set(segments):
        message = f"{place}: invalid URL {_shown(text)}: expected https://host[:port][/path]"
        raise InvalidConfig(message)
    name = match[2].lower()
    if name.startswith("["):
        try:
            ipaddress.IPv6Address(name[1:-1])
        except ValueError as error:
            message = f"{place}: invalid IPv6 address in {_shown(text)}"
            raise InvalidConfig(message) from error
    name = _ENDPOINTS.get(name, name) if match[3] is None else name
    return Origin.of(f"{match[1].lower()}://{name}" + (f":{match[3]}" if match[3] else "")), segments


def _shown(url: str) -> str:
    """Return a URL for a message or a repr; a URL that may still hold a password is replaced."""
    shown = redact(url)
    return "a URL with a password" if "@" in shown else shortened(shown, 200)


def _shown_key(key: str) -> str:
    """Return a key for a message; a misplaced URL may be a key."""
    return _shown(key) if "@" in key else shortened(key)


def _folder_names(host: str) -> list[str]:
    """Return the directory names of a host, in the order of containerd's ``hostPaths``."""
    name, colon, port = host.rpartition(":")
    underscored = [f"{name}_{port}_"] if colon and port.isdigit() else []
    return [*underscored, host, _DEFAULT_FOLDER]


def _user_directory() -> Path | None:
    """Return the directory in the user's configuration, if it exists.

    The XDG rule applies on every system, as for the logins of container tools. platformdirs would take 28 ms to import.
    """
    configuration = Path(os.environ.get("XDG_CONFIG_HOME", ""))
    if not configuration.is_absolute():  # ignored then, as the XDG Base Directory Specification requires
        configuration = Path(os.path.expanduser("~/.config"))  # noqa: PTH111 - Path.home raises where there is none
    folder = configuration / "distsdk" / "certs.d"
    try:
        folder.lstat()
    except OSError:  # missing, or in a home directory of another user
        return None
    return folder


def _check_folder(folder: Path) -> None:
    if not _is_folder(folder):
        message = f"the hosts directory {str(folder)!r} cannot be read: see --hosts-dir, DISTSDK_HOSTS_DIR"
        raise InvalidConfig(message)


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 - Path.is_dir raises if a parent directory may not be entered


def _is_there(path: Path) -> bool:
    """Return whether a path exists; a broken symbolic link counts."""
    try:
        path.lstat()
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENAMETOOLONG}:
            return False
        message = f"{path} cannot be read: {error.strerror}"
        raise InvalidConfig(message) from error
    return True


def _read(file: Path) -> str:
    """Return the text of a file, empty if it is missing."""
    if not _is_there(file):
        return ""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            message = f"{file} is not a regular file"
            raise InvalidConfig(message)
        with file.open("rb") as opened:
            data = opened.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            message = f"{file} exceeds the limit of {MAX_FILE} bytes"
            raise InvalidConfig(message)
        return data.decode()
    except UnicodeDecodeError as error:
        message = f"{file} is not valid UTF-8 (byte {error.start})"
        raise InvalidConfig(message) from error
    except OSError as error:
        message = f"{file} cannot be read: {error.strerror}"
        raise InvalidConfig(message) from error


def _certificates(folder: Path) -> dict[str, object]:
    """Return the settings that the certificate files of a directory imply.

    ``*.crt`` is an authority, ``x.cert`` a client certificate with its key in ``x.key``, as for Docker:
    https://docs.docker.com/engine/security/certificates/. The key may be in the same file.
    """
    try:
        files = sorted(entry.name for entry in folder.iterdir() if not entry.is_dir())
    except OSError as error:
        message = f"{folder} cannot be read: {error.strerror}"
        raise InvalidConfig(message) from error
    for name in files:
        if name.endswith(".key") and f"{name.removesuffix('.key')}.cert" not in files:
            message = f"{folder / name} is a key without its certificate, expected in {name.removesuffix('.key')}.cert"
            raise InvalidConfig(message)
    pairs = [(name, f"{name.removesuffix('.cert')}.key") for name in files if name.endswith(".cert")]
    found = {
        "ca": [name for name in files if name.endswith(".crt")],
        "client": [[certificate, key if key in files else ""] for certificate, key in pairs],
    }
    return {key: entries for key, entries in found.items() if entries}


def _add_authority(context: ssl.SSLContext, file: Path, named: str) -> None:
    try:
        context.load_verify_locations(file)
    except ssl.SSLError as error:
        message = f"{file} contains no certificate authority in PEM format; see {named}"
        raise InvalidConfig(message) from error
    except OSError as error:
        message = f"{file} cannot be read ({error.strerror}): see {named}"
        raise InvalidConfig(message) from error


def _load_client_certificate(context: ssl.SSLContext, certificate: Path, key: Path | None, named: str) -> None:
    def refuse() -> str:
        message = f"{key or certificate} needs a passphrase, which cannot be entered: store the key without one"
        raise InvalidConfig(message)

    try:
        context.load_cert_chain(certificate, key, password=refuse)
    except ssl.SSLError as error:
        files = f"{certificate} and {key}" if key else str(certificate)
        message = f"{files}: no client certificate with its key in PEM format; see {named}"
        raise InvalidConfig(message) from error
    except OSError as error:
        message = f"{certificate} or its key cannot be read ({error.strerror}): see {named}"
        raise InvalidConfig(message) from error


def _is_exempt(host: str, port: int, entry: str) -> bool:
    """Return whether an entry of NO_PROXY matches a host: ``*``, a domain and its subdomains, an address, a network."""
    if entry in {"*", host, f"{host}:{port}"}:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        return f"{host}:{port}".endswith(f".{entry.lstrip('.')}") or host.endswith(f".{entry.lstrip('.')}")


def is_loopback(host: str) -> bool:
    """Return whether a host is ``localhost`` or a loopback address.

    Args:
        host: With or without a port.
    """
    name = host.rpartition(":")[0] if re.fullmatch(r"(\[.*\]|[^:]*):[0-9]+", host) else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
