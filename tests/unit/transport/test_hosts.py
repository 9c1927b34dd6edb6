"""Folders of hosts: which endpoints serve a host, in which order, and what TLS with each goes by."""

from __future__ import annotations

import contextlib
import os
import pickle
import ssl
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attrs import frozen
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from distsdk.errors import InvalidConfig, InvalidReference
from distsdk.transport.hosts import CAPABILITIES, MAX_FILE, MAX_HOSTS, Endpoint, EndpointPlan, Hosts, parse_hosts

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER = Path("/certs.d/docker.io")
PULL = frozenset({"pull"})


def parse(text: str, host: str = "docker.io", **options: bool | None) -> EndpointPlan:
    """Return the plan for a file in FOLDER."""
    return parse_hosts(text, folder=FOLDER, host=host, **options)


def mirror(fields: str) -> Endpoint:
    """Return the endpoint of a mirror with these settings."""
    return parse(f'[host."https://mirror.example"]\n{fields}').endpoints[0]


def bases(plan: EndpointPlan) -> list[str]:
    """Return the URLs of a plan."""
    return [endpoint.base for endpoint in plan.endpoints]


# containerd's format. The texts are the examples of its docs/hosts.md, and of TestParseHostFile in its
# core/remotes/docker/config/hosts_test.go, with what is asserted there.

EVERYTHING = """
server = "https://test-default.registry"
ca = "/etc/path/default"
[header]
  x-custom-1 = "custom header"

[host."https://mirror.registry"]
  capabilities = ["pull"]
  ca = "/etc/certs/mirror.pem"
  skip_verify = false
  [host."https://mirror.registry".header]
    x-custom-2 = ["value1", "value2"]

[host."https://mirror-bak.registry/us"]
  capabilities = ["pull"]
  skip_verify = true

[host."http://mirror.registry"]
  capabilities = ["pull"]

[host."https://test-1.registry"]
  capabilities = ["pull", "resolve", "push", "referrers"]
  ca = ["/etc/certs/test-1-ca.pem", "/etc/certs/special.pem"]
  client = [["/etc/certs/client.cert", "/etc/certs/client.key"],["/etc/certs/client.pem", ""]]

[host."https://test-2.registry"]
  client = "/etc/certs/client.pem"

[host."https://test-3.registry"]
  client = ["/etc/certs/client-1.pem", "/etc/certs/client-2.pem"]

[host."https://no-referrers.registry"]
  capabilities = ["pull", "resolve", "push"]

[host."https://noncompliantmirror.registry/v2/namespaceprefix"]
  capabilities = ["pull"]
  override_path = true

[host."https://noprefixnoncompliant.registry"]
  override_path = true

[host."https://onlyheader.registry".header]
  x-custom-1 = "justaheader"

[host."https://dial-timeout.registry"]
  dial_timeout = "3s"
"""
CERTS = Path("/etc/certs")


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        *enumerate(
            [
                Endpoint(
                    "https://mirror.registry/v2",
                    PULL,
                    ca=(CERTS / "mirror.pem",),
                    headers={"x-custom-2": "value1, value2"},
                ),
                Endpoint("https://mirror-bak.registry/us/v2", PULL, skip_verify=True),
                Endpoint("http://mirror.registry/v2", PULL),
                Endpoint(
                    "https://test-1.registry/v2",
                    ca=(CERTS / "test-1-ca.pem", CERTS / "special.pem"),
                    client=((CERTS / "client.cert", CERTS / "client.key"), (CERTS / "client.pem", None)),
                ),
                Endpoint("https://test-2.registry/v2", client=((CERTS / "client.pem", None),)),
                Endpoint(
                    "https://test-3.registry/v2",
                    client=((CERTS / "client-1.pem", None), (CERTS / "client-2.pem", None)),
                ),
                Endpoint("https://no-referrers.registry/v2", frozenset({"pull", "resolve", "push"})),
                Endpoint("https://noncompliantmirror.registry/v2/namespaceprefix", PULL),
                Endpoint("https://noprefixnoncompliant.registry"),
                Endpoint("https://onlyheader.registry/v2", headers={"x-custom-1": "justaheader"}),
                Endpoint("https://dial-timeout.registry/v2", dial_timeout=3.0),
                Endpoint(
                    "https://test-default.registry/v2",
                    ca=(Path("/etc/path/default"),),
                    headers={"x-custom-1": "custom header"},
                ),
            ]
        )
    ],
)
def test_containerds_own_test_file(number: int, expected: Endpoint) -> None:
    """Each table of containerd's test is read as containerd reads it, in the order of the file, the server last."""
    got = parse(EVERYTHING).endpoints
    assert 12 == len(got)
    fields = ("base", "capabilities", "ca", "client", "skip_verify", "headers", "dial_timeout")
    assert [getattr(expected, name) for name in fields] == [getattr(got[number], name) for name in fields]
    assert "docker.io" == got[number].namespace


@pytest.mark.parametrize(
    ("host", "text", "expected"),
    [
        pytest.param(
            "docker.io",
            'server = "https://docker.io"\n[host."https://registry-1.docker.io"]\ncapabilities = ["pull", "resolve"]',
            [
                ("https://registry-1.docker.io/v2", {"pull", "resolve"}, None),
                ("https://registry-1.docker.io/v2", set(CAPABILITIES), None),
            ],
            id="simple",
        ),
        pytest.param(
            "docker.io",
            'server = "https://registry-1.docker.io"\n'
            '[host."https://public-mirror.example.com"]\n  capabilities = ["pull"]\n'
            '[host."https://docker-mirror.internal"]\n  capabilities = ["pull", "resolve"]\n  ca = "docker-mirror.crt"',
            [
                ("https://public-mirror.example.com/v2", {"pull"}, "docker.io"),
                ("https://docker-mirror.internal/v2", {"pull", "resolve"}, "docker.io"),
                ("https://registry-1.docker.io/v2", set(CAPABILITIES), None),
            ],
            id="local mirror",
        ),
        pytest.param(
            "quay.io",
            '[host."https://registry.example.com"]\n  capabilities = ["pull", "resolve"]',
            [
                ("https://registry.example.com/v2", {"pull", "resolve"}, "quay.io"),
                ("https://quay.io/v2", set(CAPABILITIES), None),
            ],
            id="default mirror, upstream afterwards",
        ),
        pytest.param(
            "quay.io",
            'server = "https://registry.example.com"',
            [("https://registry.example.com/v2", set(CAPABILITIES), "quay.io")],
            id="only the mirror",
        ),
        pytest.param(
            "docker.io",
            'server = "https://registry-1.docker.io"\n'
            '[host."http://192.168.31.250:5000"]\n  capabilities = ["pull", "resolve", "push"]\n  skip_verify = true',
            [
                ("http://192.168.31.250:5000/v2", {"pull", "resolve", "push"}, "docker.io"),
                ("https://registry-1.docker.io/v2", set(CAPABILITIES), None),
            ],
            id="bypass TLS verification",
        ),
        pytest.param(
            "myregistry.io:5000",
            '[host."https://mymirror.io"]',
            [
                ("https://mymirror.io/v2", set(CAPABILITIES), "myregistry.io:5000"),
                ("https://myregistry.io:5000/v2", set(CAPABILITIES), None),
            ],
            id="a namespace with a port",
        ),
    ],
)
def test_documented_examples(host: str, text: str, expected: list[tuple[str, set[str], str | None]]) -> None:
    """The files that containerd documents work as they are documented; Docker Hub's two names are one host."""
    plan = parse(text, host)
    assert expected == [(e.base, set(e.capabilities), e.namespace) for e in plan.endpoints]


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("mirror.example", "https://mirror.example/v2"),
        ("httpbin.example:5000", "https://httpbin.example:5000/v2"),
        ("https://mirror.example/", "https://mirror.example/v2"),
        ("https://mirror.example/v2/", "https://mirror.example/v2"),
        ("https://mirror.example/proxy/hub", "https://mirror.example/proxy/hub/v2"),
        ("https://mirror.example/proxy//v2", "https://mirror.example/proxy/v2"),
        ("HTTPS://Mirror.Example:443", "https://mirror.example/v2"),
        ("http://mirror.example:80/v2", "http://mirror.example/v2"),
        ("http://mirror_1:5000", "http://mirror_1:5000/v2"),
        ("http://[::1]:5000", "http://[::1]:5000/v2"),
        ("https://[2001:DB8::1]", "https://[2001:db8::1]/v2"),
    ],
)
def test_urls_of_mirrors(url: str, base: str) -> None:
    """A URL without a scheme is HTTPS; `/v2` ends the path, once; default port and case count for nothing."""
    endpoint = parse(f'[host."{url}"]').endpoints[0]
    assert base == endpoint.base
    assert base.partition("//")[2].partition("/")[0] == endpoint.origin.partition("//")[2]


@pytest.mark.parametrize("place", ['server = "{}"', '[host."{}"]', 'realms = ["{}"]'])
@pytest.mark.parametrize(
    "url",
    [
        "",
        "ftp://mirror.example",
        "file:///etc",
        "https://",
        "https:///v2",
        "https://user:planted@mirror.example",
        "user:planted@mirror.example",
        "x:planted://a@b@mirror.example",
        "https:////user:planted" + "x" * 190 + "@mirror.example",
        "https://mirror.example?sig=planted",
        "https://mirror.example#planted",
        "https://mirror.example:0",
        "https://mirror.example:65536",
        "https://mirror.example:port",
        "https://mirror.example/../v2",
        "https://mirror example",
        "https://mirror.example/\\u0000",
        "https://mirror.example\\r\\nX: y",
        "https://m\u0131rror.example",
        "http\u017f://mirror.example",
        "https://[::1",
        "https://[::g]",
        "https://[1::2::3]",
    ],
)
def test_urls_that_are_none(place: str, url: str) -> None:
    """Anything but an http(s) URL of host, port and path is an error, which never shows a password."""
    with pytest.raises(InvalidConfig, match=r"^/certs\.d/docker\.io/hosts\.toml") as caught:
        parse(place.format(url))
    assert "planted" not in str(caught.value)


@pytest.mark.parametrize(
    ("duration", "seconds"),
    [
        ("3s", 3.0),
        ("1.5s", 1.5),
        ("500ms", 0.5),
        (".5s", 0.5),
        ("1m", 60.0),
        ("1m30s", 90.0),
        ("250us", 0.00025),
        ("250µs", 0.00025),
        ("24h", 86400.0),
    ],
)
def test_durations(duration: str, seconds: float) -> None:
    """A time to connect is written as in Go."""
    assert seconds == pytest.approx(mirror(f'dial_timeout = "{duration}"').dial_timeout)


@pytest.mark.parametrize("value", ['""', '"3"', '"0s"', '"-1s"', '"3 s"', '"25h"', '"."', '".s"', '"9999999999h"', "3"])
def test_durations_that_are_none(value: str) -> None:
    """No time at all, none without a unit, and none of days."""
    with pytest.raises(InvalidConfig, match=r'mirror\.example": dial_timeout must be a time such as "3s"'):
        mirror(f"dial_timeout = {value}")


@pytest.mark.parametrize(
    ("fields", "place"),
    [
        ('capabilites = ["pull"]', "unknown setting capabilites: "),
        ('server = "https://x.example"', r"unknown setting server: .* it belongs above the first \[table\]"),
        ("capabilities = []", "capabilities"),
        ('capabilities = "pull"', "capabilities"),
        ('capabilities = ["pull", "fetch"]', "capabilities must be a list of pull, push, referrers, resolve"),
        ("capabilities = [1]", "capabilities"),
        ("ca = 1", "ca must be"),
        ('ca = ""', "ca must be"),
        ('ca = ["a.pem", 2]', "ca must be"),
        ('ca = "a\\u0000b"', "ca must be"),
        ("client = {}", "client must be"),
        ("client = [[]]", "client must be"),
        ('client = [["a", "b", "c"]]', "client must be"),
        ('client = [["", "b"]]', "client must be"),
        ('client = [["a", 1]]', "client must be"),
        ('skip_verify = "yes"', "skip_verify must be true or false"),
        ("skip_verify = 1", "skip_verify must be true or false"),
        ("override_path = 0", "override_path must be true or false"),
        ("header = 1", "header must be a table"),
        ('[host."https://mirror.example".host."https://double.example"]', "unknown setting host: "),
    ],
)
def test_settings_that_cannot_be(fields: str, place: str) -> None:
    """A wrong word, type or value is an error that names the file, the table and the setting."""
    with pytest.raises(
        InvalidConfig, match=rf'^/certs\.d/docker\.io/hosts\.toml: host\."https://mirror\.example".*{place}'
    ):
        mirror(fields)


@pytest.mark.parametrize(
    "text",
    [
        "server",
        "server = 1",
        'server = ""',
        "host = 1",
        "host = []",
        '[host]\n"https://mirror.example" = 1',
        '[[host."https://mirror.example"]]',
        'capabilities = ["anything"]',
        "override_path = true",
        "mirrors = []",
        'url = "s3://bucket"',
        'remote = ""',
        'remote = "x\\u001b"',
        'remote = "s3://bucket"',
        'remote = "x\\n"',
        'url = ""\nremote = "x"',
        'url = "x\\u001b"\nremote = "x"',
        'realms = "https://auth.example"',
        "realms = []",
        '[host."https://a.example"]\n[host."https://a.example"]',
        "a = " + "[" * 100_000,
        "a = " + "1" * 10_000,
        ".".join("a" * 100) + " = 1",
        "\ufeff",
        "a = 2020-13-13",
    ],
)
def test_files_that_cannot_be(text: str) -> None:
    """So is what stands above the tables, and what is no TOML; never is a broken file a way to go upstream."""
    with pytest.raises(InvalidConfig, match=r"^/certs\.d/docker\.io/hosts\.toml"):
        parse(text)


def test_an_error_of_the_syntax_says_where() -> None:
    """Line and column are told, but no key that may hold a password."""
    with pytest.raises(InvalidConfig, match=r"is not TOML: .*line 2, column"):
        parse("\nserver = x")
    table = '[host."https://u:planted@m.example"]\n'
    with pytest.raises(InvalidConfig) as caught:
        parse(table + table)
    assert "planted" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "text",
    [
        '[host]\n"https://u:planted@m.example" = 1',
        '"https://u:planted@m.example" = 1',
        '[host."https://m.example"."https://u:planted@m.example"]',
    ],
)
def test_a_key_with_a_password_is_not_shown(text: str) -> None:
    """A URL in the wrong place is told without it."""
    with pytest.raises(InvalidConfig) as caught:
        parse(text)
    assert "planted" not in str(caught.value)


def test_tables_are_bounded() -> None:
    """So many mirrors are read, and no more."""
    tables = [f'[host."https://m{number}.example"]\n' for number in range(MAX_HOSTS + 1)]
    assert MAX_HOSTS + 1 == len(parse("".join(tables[:MAX_HOSTS])).endpoints)
    with pytest.raises(InvalidConfig, match=f"more than {MAX_HOSTS} host tables"):
        parse("".join(tables))


@pytest.mark.parametrize(
    "text",
    [
        "# " + "." * 200 + "\nserver = 'https://a.example'",
        f'ca = "{"a." * 200}pem"\nserver = "https://a.example"',
        "ca = '" + "a." * 200 + "pem'\nserver = 'https://a.example'",
        "server = 'https://a.example' # it's " + "." * 200,
    ],
)
def test_dots_elsewhere_are_no_parts_of_a_key(text: str) -> None:
    """Strings and comments may have as many as they like."""
    assert ["https://a.example/v2"] == bases(parse(text))


@pytest.mark.parametrize(
    "text", ["a." * 60_000 + "a=1", '\\"' * 60_000, "'\"" * 60_000, "[a.b]\n" + "a.b.c=1\n" * 9_000]
)
def test_no_text_takes_long(text: str) -> None:
    """The parser's time grows with the square of a key's parts: 120 kB of them would take a minute."""
    start = time.process_time()
    with pytest.raises(InvalidConfig):
        parse(text)
    assert time.process_time() - start < 5


@pytest.mark.slow
@given(st.text() | st.text(alphabet="abhost.=\"[]{}\n\\'#-:/@1 ", max_size=200))
def test_any_text_is_a_plan_or_an_error(text: str) -> None:
    """Whatever stands in a file: it has a plan, or is an error of the configuration, and nothing else."""
    with contextlib.suppress(InvalidConfig):
        assert parse(text).endpoints


#: Settings with values of every type, so that most files are TOML, and wrong somewhere.
VALUES = st.sampled_from(
    ['"https://a.example"', '"pull"', '["pull"]', "true", "1", '"1s"', "{}", '[["a", "b"]]', '"é\\r"']
)
KEYS = st.sampled_from(
    [
        "server",
        *("capabilities", "ca", "client", "skip_verify", "header", "override_path", "dial_timeout"),
        "remote",
        "url",
    ]
)
SETTINGS = st.dictionaries(KEYS, VALUES, max_size=4).map(lambda d: "".join(f"{k} = {v}\n" for k, v in d.items()))


@pytest.mark.slow
@given(SETTINGS, st.dictionaries(st.sampled_from(["https://a.example", "b.example", "ftp://c"]), SETTINGS, max_size=2))
def test_any_settings_are_a_plan_or_an_error(top: str, tables: dict[str, str]) -> None:
    """The same for files that are nearly right."""
    text = top + "".join(f'[host."{url}"]\n{fields}' for url, fields in tables.items())
    with contextlib.suppress(InvalidConfig):
        plan = parse(text)
        assert len(tables) + 1 == len(plan.endpoints)
        assert all(endpoint.capabilities and endpoint.base.startswith("https://") for endpoint in plan.endpoints)


@pytest.mark.slow
@given(st.lists(st.integers(0, 999), unique=True, max_size=20))
def test_the_order_is_that_of_the_file(numbers: list[int]) -> None:
    """Mirrors are asked in the order in which their tables first appear, also where one has a table of headers."""
    text = "".join(f'[host."http://m{n}.example".header]\nx = "y"\n' for n in numbers)
    text += "".join(f'[host."http://m{n}.example"]\nskip_verify = true\n' for n in reversed(numbers))
    assert [*(f"http://m{n}.example/v2" for n in numbers), "https://ghcr.io/v2"] == bases(parse(text, "ghcr.io"))


# Headers


@pytest.mark.parametrize(
    "line",
    [
        'x = "a\\r\\nplanted: b"',
        'x = "a\\nplanted"',
        'x = "planted\\u0000"',
        'x = " planted"',
        'x = "planted "',
        'x = "planted\\u00e9"',
        'x = ["fine", "planted\\r\\n"]',
        "x = 1",
        "x = []",
        "x = [1]",
        'x.y = "planted"',
        '"x: planted" = "y"',
        '"x\\r\\nplanted" = "y"',
        '"" = "planted"',
        'x = "planted"\nX = "planted"',
        'Host = "planted"',
        'content-length = "0"',
        'Transfer-Encoding = "chunked"',
        'Range = "bytes=0-1"',
        'If-Range = "planted"',
        'Accept = "planted"',
        'Accept-Encoding = "gzip"',
    ],
)
def test_headers_that_cannot_be_sent(line: str) -> None:
    """What would start another header, change what a request means, or be there twice is refused, and not shown."""
    with pytest.raises(InvalidConfig, match=r'host\."https://mirror\.example": header') as caught:
        mirror(f'[host."https://mirror.example".header]\n{line}')
    assert "planted" not in str(caught.value)


def test_headers_are_secrets() -> None:
    """Their values are in no repr and no explanation, and no pickle is made of them."""
    plan = parse('[header]\nAuthorization = "Basic planted"\nx-team = ["a", "b"]')
    assert {"Authorization": "Basic planted", "x-team": "a, b"} == plan.endpoints[0].headers
    assert "planted" not in repr(plan) + repr(plan.endpoints) + str(plan.lines())
    for value in (plan, plan.endpoints[0]):
        with pytest.raises(TypeError, match="pickle Hosts instead"):
            pickle.dumps(value)


# Our own settings


def test_another_kind_of_remote() -> None:
    """A host may be served by another kind of remote; a password in its URL is not shown."""
    plan = parse('remote = "layout"\nurl = "s3://key:planted@bucket/models"', "models.internal")
    assert ("layout", "s3://key:planted@bucket/models") == (plan.remote, plan.url)
    assert "planted" not in repr(plan) + str(plan.lines())
    assert "the remote layout serves it, from s3://bucket/models" == plan.lines()[1]
    assert (None, None) == (parse("").remote, parse("").url)


@pytest.mark.parametrize(
    ("host", "text", "expected"),
    [
        ("docker.io", "", ("https://auth.docker.io",)),
        ("registry.gitlab.com", "", ("https://gitlab.com",)),
        ("ghcr.io", "", ()),
        ("gitlab.com", "", ()),
        ("registry.gitlab.com.example", "", ()),
        (
            "registry.gitlab.example",
            'realms = ["https://GitLab.example:443/jwt/auth", "https://b.example:8443"]',
            ("https://gitlab.example", "https://b.example:8443"),
        ),
        ("docker.io", 'realms = ["https://a.example"]', ("https://a.example", "https://auth.docker.io")),
    ],
)
def test_realms(host: str, text: str, expected: tuple[str, ...]) -> None:
    """Token services of other origins that may get a host's login are those that are known, and those named."""
    assert expected == parse(text, host).realms


# Schemes


@pytest.mark.parametrize(
    ("host", "text", "plain_http", "base"),
    [
        ("localhost:5000", "", None, "http://localhost:5000/v2"),
        ("127.0.0.1", "", None, "http://127.0.0.1/v2"),
        ("[::1]:5000", "", None, "http://[::1]:5000/v2"),
        ("localhost:5000", "", False, "https://localhost:5000/v2"),
        ("127.0.0.1", "", False, "https://127.0.0.1/v2"),
        ("localhost:5000", 'server = "http://localhost:5000"', False, "http://localhost:5000/v2"),
        ("ghcr.io", "", None, "https://ghcr.io/v2"),
        ("ghcr.io", "", False, "https://ghcr.io/v2"),
        ("ghcr.io", "", True, "http://ghcr.io/v2"),
        ("ghcr.io", 'server = "https://ghcr.io"', True, "https://ghcr.io/v2"),
        ("ghcr.io", 'server = "ghcr.io"', True, "https://ghcr.io/v2"),
        ("ghcr.io", 'server = "http://ghcr.io"', False, "http://ghcr.io/v2"),
        ("localhost:5000", 'ca = "ca.pem"', None, "https://localhost:5000/v2"),
        ("localhost:5000", 'client = "client.pem"', None, "https://localhost:5000/v2"),
        ("localhost:5000", "skip_verify = true", None, "https://localhost:5000/v2"),
        ("localhost:5000", 'ca = "ca.pem"', True, "http://localhost:5000/v2"),
        ("localhost:5000", 'capabilities = ["pull"]', None, "http://localhost:5000/v2"),
    ],
)
def test_schemes(host: str, text: str, plain_http: bool | None, base: str) -> None:
    """Loopback speaks HTTP unless certificates are configured for it; a scheme that is written counts more than all."""
    endpoint = parse(text, host, plain_http=plain_http).endpoints[-1]
    assert (base, None) == (endpoint.base, endpoint.namespace)


def test_capabilities_have_no_case() -> None:
    """As in containerd, `Pull` is `pull`."""
    assert PULL == mirror('capabilities = ["Pull", "PULL"]').capabilities


def test_certificates_for_all_are_no_word_about_loopback() -> None:
    """An authority in `_default` counts for whoever speaks TLS, and makes nobody speak it."""
    [endpoint] = parse_hosts('ca = "ca.pem"', folder=Path("/certs.d/_default"), host="localhost:5000").endpoints
    assert "http://localhost:5000/v2" == endpoint.base


def test_what_is_said_of_the_host_itself_counts_without_a_server() -> None:
    """Settings above the tables are about the host itself; unlike containerd, distsdk keeps capabilities there too."""
    endpoint = parse('capabilities = ["pull"]\ndial_timeout = "1s"', "ghcr.io").endpoints[-1]
    assert ("https://ghcr.io/v2", PULL, 1.0) == (endpoint.base, endpoint.capabilities, endpoint.dial_timeout)


# Folders


@pytest.fixture
def certs_d(tmp_path: Path) -> Callable[[str, str | bytes], Path]:
    """Write files below a folder of hosts, which is returned."""

    def write(name: str, content: str | bytes) -> Path:
        file = tmp_path / "certs.d" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return tmp_path / "certs.d"

    return write


@pytest.mark.parametrize(
    ("host", "folders"),
    [
        ("ghcr.io", ["ghcr.io", "_default"]),
        ("registry.example:5000", ["registry.example_5000_", "registry.example:5000", "_default"]),
        ("[::1]:5000", ["[::1]_5000_", "[::1]:5000", "_default"]),
        ("[::1]", ["[::1]", "_default"]),
    ],
)
def test_spellings(certs_d: Callable[[str, str], Path], host: str, folders: list[str]) -> None:
    """Of a host's folders the first that is there counts, in containerd's order, and no other with it."""
    for name in reversed([*folders, "registry.example", "5000", "default", "[:_1]_"]):
        folder = certs_d(
            f"{name}/hosts.toml", f'server = "https://from.example/{folders.index(name)}"' if name in folders else "!"
        )
        if name in folders:
            assert [f"https://from.example/{folders.index(name)}/v2"] == bases(Hosts(hosts_dir=folder).plan(host))


def test_a_folder_shadows_the_default(certs_d: Callable[[str, str], Path]) -> None:
    """A host with a folder of its own has nothing of `_default`, even if its folder is empty."""
    folder = certs_d("_default/hosts.toml", 'server = "https://mirror.example"')
    certs_d("_default/ca.crt", "")
    hosts = Hosts(hosts_dir=folder)
    assert ["https://mirror.example/v2"] == bases(hosts.plan("ghcr.io"))
    (folder / "ghcr.io").mkdir()
    [endpoint] = hosts.plan("ghcr.io").endpoints
    assert ("https://ghcr.io/v2", ()) == (endpoint.base, endpoint.ca)
    assert ["https://mirror.example/v2"] == bases(hosts.plan("ghcr.io:5000"))


def test_files_are_relative_to_their_folder(certs_d: Callable[[str, str], Path]) -> None:
    """Files that a file names are looked for beside it, unless they are named from the root."""
    folder = certs_d("ghcr.io/hosts.toml", 'ca = ["ca.pem", "../ca.pem", "/etc/ca.pem"]\nclient = [["c.pem", "k.pem"]]')
    [endpoint] = Hosts(hosts_dir=folder).plan("ghcr.io").endpoints
    assert (folder / "ghcr.io/ca.pem", folder / "ghcr.io/../ca.pem", Path("/etc/ca.pem")) == endpoint.ca
    assert ((folder / "ghcr.io/c.pem", folder / "ghcr.io/k.pem"),) == endpoint.client


@pytest.mark.parametrize("hosts_toml", [None, ""])
def test_certificates_without_a_file(certs_d: Callable[[str, str], Path], hosts_toml: str | None) -> None:
    """Without hosts.toml the folder's *.crt, *.cert and *.key count, as for Docker, and mean TLS."""
    for name in ("b.crt", "a.crt", "x.cert", "x.key", "both.cert", "readme.txt", "folder.crt/x"):
        folder = certs_d(f"localhost:5000/{name}", "")
    if hosts_toml is not None:
        certs_d("localhost:5000/hosts.toml", hosts_toml)
    [endpoint] = Hosts(hosts_dir=folder).plan("localhost:5000").endpoints
    own = folder / "localhost:5000"
    assert "https://localhost:5000/v2" == endpoint.base
    assert (own / "a.crt", own / "b.crt") == endpoint.ca
    assert ((own / "both.cert", None), (own / "x.cert", own / "x.key")) == endpoint.client
    certs_d("localhost:5000/hosts.toml", "# nothing")
    assert [()] == [endpoint.ca for endpoint in Hosts(hosts_dir=folder).plan("localhost:5000").endpoints]


def test_a_key_without_its_certificate(certs_d: Callable[[str, str], Path]) -> None:
    """A key alone was meant for something, and is an error, as for Docker."""
    folder = certs_d("ghcr.io/x.key", "")
    with pytest.raises(InvalidConfig, match=r"ghcr\.io/x\.key is a key without its certificate, .*x\.cert"):
        Hosts(hosts_dir=folder).plan("ghcr.io")


def _broken(folder: Path, kind: str) -> None:
    """Make what is at ``ghcr.io`` or its hosts.toml unreadable in one way."""
    own = folder / "ghcr.io"
    if kind == "folder is a file":
        own.write_text("")
    elif kind == "folder leads nowhere":
        own.symlink_to("nowhere")
    else:
        own.mkdir()
        file = own / "hosts.toml"
        if kind == "leads nowhere":
            file.symlink_to("nowhere")
        elif kind == "is a folder":
            file.mkdir()
        elif kind == "is a pipe":
            os.mkfifo(file)
        elif kind == "is too long":
            file.write_text("#" * (MAX_FILE + 1))
        elif kind == "is no UTF-8":
            file.write_bytes(b"# \xff")


@pytest.mark.parametrize(
    "kind",
    [
        "folder is a file",
        "folder leads nowhere",
        "leads nowhere",
        "is a folder",
        "is a pipe",
        "is too long",
        "is no UTF-8",
    ],
)
def test_what_cannot_be_read_is_an_error(certs_d: Callable[[str, str], Path], kind: str) -> None:
    """What is there and cannot be read is an error that names it, and never a way to `_default` or upstream."""
    folder = certs_d("_default/hosts.toml", "")
    _broken(folder, kind)
    with pytest.raises(InvalidConfig, match=r"certs\.d/ghcr\.io"):
        Hosts(hosts_dir=folder).plan("ghcr.io")
    assert ["https://quay.io/v2"] == bases(Hosts(hosts_dir=folder).plan("quay.io"))


def test_what_may_not_be_read_is_an_error() -> None:
    """The same where a folder may not be entered. Root may enter every one, and becomes somebody else meanwhile."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "ghcr.io").mkdir()
        folder.chmod(0o644)
        me = os.geteuid()
        try:
            if me == 0:
                os.seteuid(65534)
            with pytest.raises(InvalidConfig, match=r"ghcr\.io cannot be read: Permission denied"):
                Hosts(hosts_dir=folder).plan("ghcr.io")
        finally:
            os.seteuid(me)
            folder.chmod(0o700)


def test_a_host_whose_folder_would_have_too_long_a_name(certs_d: Callable[[str, str], Path]) -> None:
    """A file system may not have room for a host's longest name; then there is no such folder."""
    folder = certs_d("_default/hosts.toml", 'server = "https://mirror.example"')
    host = ".".join(["a" * 63] * 3 + ["a" * 61]) + ":65535"
    assert ["https://mirror.example/v2"] == bases(Hosts(hosts_dir=folder).plan(host))


def test_a_file_of_the_longest_size(certs_d: Callable[[str, str], Path]) -> None:
    """The bound is no byte lower than it says."""
    folder = certs_d("ghcr.io/hosts.toml", "#" * MAX_FILE)
    assert ["https://ghcr.io/v2"] == bases(Hosts(hosts_dir=folder).plan("ghcr.io"))


@pytest.mark.parametrize(
    "host", ["", "..", "../ghcr.io", "/etc", "ghcr.io/x", "_default", "a\0b", "ghcr.io:x", "ghcr.io\n"]
)
def test_only_a_hosts_name_becomes_part_of_a_path(certs_d: Callable[[str, str], Path], host: str) -> None:
    """What is no host is refused before anything is looked up."""
    folder = certs_d("_default/hosts.toml", "")
    with pytest.raises(InvalidReference):
        Hosts(hosts_dir=folder).plan(host)


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("docker.io", "https://registry-1.docker.io/v2"),
        ("ghcr.io:443", "https://ghcr.io/v2"),
        ("a:80", "https://a:80/v2"),
    ],
)
def test_without_a_folder(host: str, base: str) -> None:
    """Without any configuration a host is asked itself, and trusted with everything."""
    plan = Hosts().plan(host)
    assert [Endpoint(base, why="no hosts directory is configured")] == list(plan.endpoints)
    assert (host, None, None) == (plan.host, plan.remote, plan.url)


def test_a_plan_explains_itself(certs_d: Callable[[str, str], Path]) -> None:
    """One line for the file, one for each endpoint in order, one for the realms; nothing a terminal would act on."""
    text = '[host."http://mirror.example"]\ncapabilities = ["pull"]\ndial_timeout = "1.5s"\n[header]\nx-a = "planted"\n'
    folder = certs_d("docker.io/hosts.toml", 'ca = "\\u001b.pem"\nskip_verify = true\n' + text)
    own = folder / "docker.io"
    assert [
        f"docker.io: {own / 'hosts.toml'}",
        "1. http://mirror.example/v2: pull; ns=docker.io; connects within 1.5 s",
        "2. https://registry-1.docker.io/v2: pull, push, referrers, resolve; "
        rf"authority {own}/\x1b.pem; certificates are not verified; headers x-a",
        "its login may also be sent to https://auth.docker.io",
    ] == Hosts(hosts_dir=folder).plan("docker.io").lines()


# Where the folder is


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A home without configuration, and an environment that names none."""
    for name in ("DISTSDK_HOSTS_DIR", "XDG_CONFIG_HOME", "DISTSDK_CACERT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_argument_the_variable_the_users_folder(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first that is named counts; the user's own folder counts where none is named, if it is there."""
    assert Hosts.from_environment().hosts_dir is None
    (home / ".config/distsdk/certs.d").mkdir(parents=True)
    assert home / ".config/distsdk/certs.d" == Hosts.from_environment().hosts_dir
    (tmp_path / "xdg/distsdk/certs.d").mkdir(parents=True)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert tmp_path / "xdg/distsdk/certs.d" == Hosts.from_environment().hosts_dir
    monkeypatch.setenv("XDG_CONFIG_HOME", "xdg")  # relative: to be ignored
    assert home / ".config/distsdk/certs.d" == Hosts.from_environment().hosts_dir
    monkeypatch.setenv("DISTSDK_HOSTS_DIR", str(tmp_path / "xdg"))
    assert tmp_path / "xdg" == Hosts.from_environment().hosts_dir
    monkeypatch.chdir(tmp_path)
    assert tmp_path / "home" == Hosts.from_environment(hosts_dir=Path("home")).hosts_dir


def test_a_folder_that_is_not_there(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that was named has to be there, when it is named and when a host is looked up; so has a link's end."""
    for missing in (tmp_path / "missing", tmp_path / "missing\0"):
        with pytest.raises(InvalidConfig, match=r"hosts directory .* cannot be read"):
            Hosts.from_environment(hosts_dir=missing)
    with pytest.raises(InvalidConfig, match="missing"):
        Hosts(hosts_dir=tmp_path / "missing").plan("ghcr.io")
    (home / ".config/distsdk").mkdir(parents=True)
    (home / ".config/distsdk/certs.d").symlink_to("nowhere")
    with pytest.raises(InvalidConfig, match=r"distsdk/certs\.d"):
        Hosts.from_environment()
    monkeypatch.setenv("DISTSDK_HOSTS_DIR", str(tmp_path / "missing"))
    with pytest.raises(InvalidConfig, match=r"missing.*DISTSDK_HOSTS_DIR"):
        Hosts.from_environment()


def test_hosts_are_pickled_by_the_name_of_their_folder(certs_d: Callable[[str, str], Path]) -> None:
    """A pickle holds no header: the folder is read again where it arrives."""
    folder = certs_d("ghcr.io/hosts.toml", '[header]\nx = "planted"')
    hosts = Hosts(hosts_dir=folder, ca_file="system")
    hosts.plan("ghcr.io")
    data = pickle.dumps(hosts)
    copy = pickle.loads(data)  # noqa: S301 - our own bytes
    assert b"planted" not in data
    assert (folder, "system") == (copy.hosts_dir, copy.ca_file)
    assert {"x": "planted"} == copy.plan("ghcr.io").endpoints[0].headers


# TLS, with certificates that openssl made

#: What OpenSSL says of a certificate whose authority is not among those that count.
UNTRUSTED = "unable to get local issuer|self-signed certificate in certificate chain"


@frozen
class Certificates:
    """Files in PEM form, and what a server needs.

    Attributes:
        folder: ``ca.pem``, an authority; ``client.pem`` with ``client.key``, which it signed, and ``both.pem``, which
            holds these two; ``locked.key``, the same with a passphrase; ``other.pem`` and ``other.key``, of nobody.
        server: For a server at localhost, signed by the authority; it asks for a client certificate, and does without.
    """

    folder: Path
    server: ssl.SSLContext

    def endpoint(self, **options: object) -> Endpoint:
        """Return an endpoint at localhost."""
        return Endpoint("https://localhost/v2", why="/x/hosts.toml", **options)  # type: ignore[arg-type] # as they say


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """An authority, a server and a client, by openssl."""
    folder = tmp_path_factory.mktemp("certificates")

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc")
    usage = ("-addext", "keyUsage=critical,keyCertSign")
    for name in ("ca", "other"):
        openssl("req", "-x509", *key, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}", *usage)
    signer = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "leaf.cnf", "-days", "2")
    (folder / "leaf.cnf").write_text("subjectAltName = DNS:localhost\nauthorityKeyIdentifier = keyid\n")
    for name in ("server", "client"):
        openssl("req", *key, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        openssl("x509", "-req", "-in", f"{name}.csr", *signer, "-out", f"{name}.pem")
    openssl("pkey", "-in", "client.key", "-aes256", "-passout", "pass:x", "-out", "locked.key")
    (folder / "both.pem").write_bytes((folder / "client.pem").read_bytes() + (folder / "client.key").read_bytes())
    (folder / "empty.pem").touch()
    openssl("x509", "-in", "ca.pem", "-outform", "DER", "-out", "ca.der")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(folder / "server.pem", folder / "server.key")
    server.load_verify_locations(folder / "ca.pem")
    server.verify_mode = ssl.CERT_OPTIONAL
    return Certificates(folder, server)


def handshake(context: ssl.SSLContext | None, server: ssl.SSLContext, name: str = "localhost") -> str:
    """Let a client and a server greet each other in memory.

    Returns:
        The name in the certificate that the client showed, empty for none.

    Raises:
        ssl.SSLError: One of them ends it.
    """
    assert context is not None
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client_side = context.wrap_bio(to_client, to_server, server_hostname=name)
    server_side = server.wrap_bio(to_server, to_client, server_side=True)
    for _ in range(5):
        for side in (client_side, server_side):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()
    shown = server_side.getpeercert(binary_form=True)
    return "" if shown is None else x509.load_der_x509_certificate(shown).subject.rfc4514_string()


def test_nothing_special_needs_no_context() -> None:
    """Where only the bundle that requests brings along counts, or there is no TLS, there is nothing to be set up."""
    assert Hosts().tls(Endpoint("https://ghcr.io/v2")) is None
    assert Hosts(ca_file="system").tls(Endpoint("http://localhost/v2", skip_verify=True)) is None


def test_an_endpoints_authority_counts_besides_the_usual_ones(made: Certificates) -> None:
    """With it the server's certificate convinces, for its own name, and those that others trust go on to count."""
    context = Hosts().tls(made.endpoint(ca=(made.folder / "ca.pem",)))
    assert context is not None
    handshake(context, made.server)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(context, made.server, "elsewhere.example")
    assert len(context.get_ca_certs()) > 50
    with pytest.raises(ssl.SSLCertVerificationError, match=UNTRUSTED):
        handshake(Hosts().tls(made.endpoint(ca=(made.folder / "other.pem",))), made.server)


def test_a_ca_file_counts_instead_of_the_usual_ones(made: Certificates) -> None:
    """`Hosts.ca_file` is all there is, but for what an endpoint adds."""
    context = Hosts(ca_file=made.folder / "ca.pem").tls(made.endpoint())
    assert context is not None
    handshake(context, made.server)
    assert 1 == len(context.get_ca_certs())
    other = Hosts(ca_file=made.folder / "other.pem")
    with pytest.raises(ssl.SSLCertVerificationError, match=UNTRUSTED):
        handshake(other.tls(made.endpoint()), made.server)
    handshake(other.tls(made.endpoint(ca=(made.folder / "ca.pem",))), made.server)


def test_a_folder_of_authorities(made: Certificates, tmp_path: Path) -> None:
    """A folder with the names that `openssl rehash` gives may stand for a file."""
    (tmp_path / "ca.pem").write_bytes((made.folder / "ca.pem").read_bytes())
    with pytest.raises(ssl.SSLCertVerificationError, match=UNTRUSTED):
        handshake(Hosts(ca_file=tmp_path).tls(made.endpoint()), made.server)
    subprocess.run(["openssl", "rehash", tmp_path], check=True)
    handshake(Hosts(ca_file=tmp_path).tls(made.endpoint()), made.server)


def test_the_systems_trust_store(
    made: Certificates, monkeypatch: pytest.MonkeyPatch, home: Path, tmp_path: Path
) -> None:
    """The word `system` means what OpenSSL finds, and nothing of the bundle that requests brings along."""
    monkeypatch.setenv("DISTSDK_CACERT", "system")
    hosts = Hosts.from_environment()
    assert "system" == hosts.ca_file
    monkeypatch.setenv("SSL_CERT_FILE", str(made.folder / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    context = hosts.tls(made.endpoint())
    assert context is not None
    handshake(context, made.server)
    assert 1 == len(context.get_ca_certs())
    monkeypatch.setenv("SSL_CERT_FILE", str(made.folder / "other.pem"))
    with pytest.raises(ssl.SSLCertVerificationError, match=UNTRUSTED):
        handshake(hosts.tls(made.endpoint()), made.server)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "missing"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "missing"))
    with pytest.raises(InvalidConfig, match="no trust store"):
        hosts.tls(made.endpoint())


def test_the_word_is_a_word_of_ours_alone(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    """Other tools' variables name files; a path of that name is a file too."""
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SSL_CERT_FILE", "system")
    with pytest.raises(InvalidConfig, match="SSL_CERT_FILE names 'system', which does not exist"):
        Hosts.from_environment()
    with pytest.raises(InvalidConfig, match="the CA file names 'system', which does not exist"):
        Hosts.from_environment(ca_file=Path("system"))


def test_skipping_verification_is_for_one_endpoint(made: Certificates) -> None:
    """Any certificate will do at the endpoint; where it sends its clients, everything is verified."""
    endpoint = made.endpoint(skip_verify=True)
    handshake(Hosts().tls(endpoint), made.server, "elsewhere.example")
    assert Hosts().tls(endpoint, elsewhere=True) is None
    with pytest.raises(ssl.SSLCertVerificationError, match=UNTRUSTED):
        handshake(Hosts(ca_file=made.folder / "other.pem").tls(endpoint, elsewhere=True), made.server)


@pytest.mark.parametrize("files", [("client.pem", "client.key"), ("both.pem", None)])
def test_a_client_certificate_is_shown_to_one_endpoint(made: Certificates, files: tuple[str, str | None]) -> None:
    """With its key beside it or in the same file; where the endpoint sends its clients, only its authority counts."""
    certificate, key = made.folder / files[0], made.folder / files[1] if files[1] else None
    endpoint = made.endpoint(ca=(made.folder / "ca.pem",), client=((certificate, key),))
    assert "CN=client" == handshake(Hosts().tls(endpoint), made.server)
    assert "" == handshake(Hosts().tls(endpoint, elsewhere=True), made.server)


@pytest.mark.parametrize("ca_file", [None, "system", "ca.pem"])
def test_tls_is_1_2_at_least(made: Certificates, ca_file: str | None) -> None:
    """An older server is refused, whatever else is configured."""
    named = made.folder / ca_file if ca_file and ca_file.endswith("pem") else ca_file
    hosts = Hosts(ca_file=named)  # type: ignore[arg-type] # a literal, or a path
    context = hosts.tls(made.endpoint(ca=(made.folder / "ca.pem",)))
    assert context is not None
    assert ssl.TLSVersion.TLSv1_2 == context.minimum_version
    assert context.check_hostname
    assert ssl.CERT_REQUIRED == context.verify_mode


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ca": ("empty.pem",)}, "empty.pem contains no certificate authority in PEM format; see /x/hosts.toml"),
        ({"ca": ("ca.pem", "ca.der")}, "ca.der contains no certificate authority in PEM format"),
        ({"ca": ("client.key",)}, "client.key contains no certificate authority in PEM format"),
        ({"ca": ("missing.pem",)}, r"missing.pem cannot be read \(No such file or directory\): see /x/hosts.toml"),
        ({"client": (("client.pem", None),)}, "client.pem: no client certificate with its key in PEM form"),
        ({"client": (("client.pem", "other.key"),)}, "client.pem and .*other.key: no client certificate with its key"),
        ({"client": (("client.key", "client.key"),)}, "no client certificate with its key in PEM form"),
        ({"client": (("client.pem", "missing.key"),)}, r"client.pem or its key cannot be read \(No such file"),
        ({"client": (("client.pem", "locked.key"),)}, "locked.key needs a passphrase.*store the key without one"),
        ({"client": (("both.pem", None), ("other.pem", "other.key"))}, "/x/hosts.toml: 2 client certificates"),
    ],
)
def test_files_that_are_no_certificates(
    made: Certificates, options: dict[str, tuple[object, ...]], message: str
) -> None:
    """A file that cannot be used is an error that names it and the file that names it; nobody is asked a passphrase."""
    found: dict[str, object] = {}
    for key, entries in options.items():
        pairs = [entry if isinstance(entry, tuple) else (entry,) for entry in entries]
        paths = [tuple(made.folder / str(name) if name else None for name in pair) for pair in pairs]
        found[key] = tuple(path[0] for path in paths) if key == "ca" else tuple(paths)
    with pytest.raises(InvalidConfig, match=message):
        Hosts().tls(made.endpoint(**found))
