"""Challenges and token replies, as they are read."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from distsdk.errors import MalformedDocument
from distsdk.transport.auth import DEFAULT_LIFETIME, AuthChallenge, Grant, parse_challenges, parse_token_reply

BEARER = AuthChallenge(
    "bearer", {"realm": "https://auth.example/token", "service": "s", "scope": "repository:x:pull,push"}
)

#: A header, and the challenges in it. The grammar is RFC 9110, sections 5.6.1, 11.2, 11.3 and 11.6.1.
TABLE: dict[str, tuple[str, list[AuthChallenge]]] = {
    "Docker Hub": (
        'Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:library/redis:pull"',
        [
            AuthChallenge(
                "bearer",
                {
                    "realm": "https://auth.docker.io/token",
                    "service": "registry.docker.io",
                    "scope": "repository:library/redis:pull",
                },
            )
        ],
    ),
    "commas in quotes": (
        'Bearer realm="https://auth.example/token",service="s",scope="repository:x:pull,push"',
        [BEARER],
    ),
    "white space around everything": (
        '\t Bearer   realm =\t"https://auth.example/token" , service = s ,\tscope="repository:x:pull,push" ',
        [BEARER],
    ),
    "names in any case": (
        'BEARER Realm="https://auth.example/token",SERVICE="s",sCoPe="repository:x:pull,push"',
        [BEARER],
    ),
    "empty list elements": (
        ', ,Bearer realm="https://auth.example/token",, service=s, ,scope="repository:x:pull,push",,',
        [BEARER],
    ),
    "the example of RFC 9110": (
        'Basic realm="simple", Newauth realm="apps", type=1, title="Login to \\"apps\\""',
        [
            AuthChallenge("basic", {"realm": "simple"}),
            AuthChallenge("newauth", {"realm": "apps", "type": "1", "title": 'Login to "apps"'}),
        ],
    ),
    "schemes alone": ("Negotiate, NTLM", [AuthChallenge("negotiate", {}), AuthChallenge("ntlm", {})]),
    "a scheme alone before one with parameters": (
        'Negotiate, Basic realm="x"',
        [AuthChallenge("negotiate", {}), AuthChallenge("basic", {"realm": "x"})],
    ),
    "token68": (
        'NTLM TlRMTVNTUAAC+/==, Basic realm="x"',
        [AuthChallenge("ntlm", {}), AuthChallenge("basic", {"realm": "x"})],
    ),
    "escapes in quotes": (r'Basic realm="a\"b\\c\d, e=f"', [AuthChallenge("basic", {"realm": r'a"b\cd, e=f'})]),
    "an empty value": ('Bearer realm="",service=""', [AuthChallenge("bearer", {"realm": "", "service": ""})]),
    "a parameter twice": ('Bearer realm="first",realm="second"', [AuthChallenge("bearer", {"realm": "first"})]),
    "two headers joined": (
        'Basic realm="x", Bearer realm="https://auth.example/token",service="s",scope="repository:x:pull,push"',
        [AuthChallenge("basic", {"realm": "x"}), BEARER],
    ),
    "nothing": ("", []),
    "commas alone": (" ,\t, ", []),
    "no scheme": ('realm="x"', []),
    "quotes that do not end": ('Bearer realm="https://auth.example', [AuthChallenge("bearer", {})]),
    "not a token": ("{}", []),
}


@pytest.mark.parametrize(("header", "expected"), TABLE.values(), ids=TABLE.keys())
def test_challenges(header: str, expected: list[AuthChallenge]) -> None:
    """A header holds any number of challenges, each with a list of parameters or a token68."""
    assert expected == parse_challenges(header)


@given(st.text() | st.text('Bar ="\\,\t=x/'))
@example('Bearer realm="x" service="y"')
def test_any_header_can_be_read(header: str) -> None:
    """Whatever a registry sends, reading it ends with challenges and not with an error."""
    for challenge in parse_challenges(header):
        assert challenge.scheme == challenge.scheme.lower() != ""


_TOKENS = st.text("!#$%&'*+-.^_`|~0123456789abcxyz", min_size=1)
_QUOTABLE = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]))


@pytest.mark.slow
@given(st.lists(st.tuples(_TOKENS, st.dictionaries(_TOKENS, _QUOTABLE, min_size=1)), min_size=1))
def test_challenges_are_read_as_written(written: list[tuple[str, dict[str, str]]]) -> None:
    """What is written by the grammar, every value quoted, is read back."""

    def quoted(value: str) -> str:
        return '"' + value.replace("\\", r"\\").replace('"', r"\"") + '"'

    challenges = (
        f"{scheme} {', '.join(f'{name}={quoted(value)}' for name, value in params.items())}"
        for scheme, params in written
    )
    assert [AuthChallenge(scheme, params) for scheme, params in written] == parse_challenges(", ".join(challenges))


#: Beginnings and repeated parts that are hard on a backtracking matcher.
_HARD = [
    ("", ","),
    ("", " "),
    ("a", " "),
    ("a ", "="),
    ("a ", "b"),
    ("", "a "),
    ("", "a ,"),
    ("", 'a b="'),
    ('a b="', "\\"),
    ('a b="', '\\"'),
    ('a b="c"', " "),
    ("", "a=b,"),
    ("a b", " "),
    ("", "a b=c, "),
    ("", "a b==, "),
    ("a b", "="),
    ("a b=", "\t"),
]


@pytest.mark.parametrize(("start", "part"), _HARD)
@pytest.mark.parametrize("end", ["", "\x00", '"', "x"])
def test_long_headers_are_read_in_linear_time(start: str, part: str, end: str) -> None:
    """64 KiB take well under a second of CPU, however they are made: quadratic work would take minutes."""
    header = start + part * (64 * 1024 // len(part)) + end
    before = time.thread_time()
    parse_challenges(header)
    assert time.thread_time() - before < 1


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"token": "abc"}, ("abc", DEFAULT_LIFETIME)),
        ({"access_token": "abc", "expires_in": 300}, ("abc", 300.0)),
        ({"token": "abc", "access_token": "def", "expires_in": 1.5}, ("abc", 1.5)),
        ({"token": "", "access_token": "def"}, ("def", DEFAULT_LIFETIME)),
        ({"token": None, "access_token": "def", "expires_in": None}, ("def", DEFAULT_LIFETIME)),
        ({"token": "a.b-c_d~e+f/g==", "issued_at": "2026-01-01T00:00:00Z", "more": [1]}, ("a.b-c_d~e+f/g==", 60.0)),
    ],
)
def test_token_replies(fields: dict[str, object], expected: tuple[str, float]) -> None:
    """A reply holds a token under one of two names, and perhaps how many seconds it lives: 60 by default."""
    assert expected == parse_token_reply(json.dumps(fields).encode())


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Welcome to the hotel</html>",
        b"[]",
        b'"token"',
        b"null",
        b"\xff\xfe",
        b"[" * 60_000,
        b"{}",
        b'{"token": 5}',
        b'{"token": ["a"]}',
        b'{"token": "a b"}',
        b'{"token": "a\\r\\nX-Injected: 1"}',
        b'{"token": "caf\\u00e9"}',
        b'{"token": "a\\n"}',
        b'{"token": "a", "expires_in": "60"}',
        b'{"token": "a", "expires_in": -1}',
        b'{"token": "a", "expires_in": true}',
        b'{"token": "a", "expires_in": NaN}',
        b'{"token": "a", "expires_in": [1]}',
        pytest.param(b'{"token": "a", "expires_in": 1' + b"0" * 5000 + b"}", id="more digits than Python reads"),
    ],
)
def test_malformed_token_replies(body: bytes) -> None:
    """What is no reply of a token service, or holds a token that is not fit for a header, is refused."""
    with pytest.raises(MalformedDocument, match="response of the token service"):
        parse_token_reply(body)


def test_tokens_do_not_live_for_ever() -> None:
    """A life beyond what a float holds, or without an end, counts as a year."""
    for seconds in ("1" + "0" * 400, "1e999", "Infinity"):
        assert parse_token_reply(b'{"token": "a", "expires_in": %s}' % seconds.encode()) == ("a", 365 * 86400)


@given(
    st.binary()
    | st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists).map(
        lambda value: json.dumps({"token": "a", "expires_in": value}).encode()
    )
)
def test_any_token_reply_can_be_read(body: bytes) -> None:
    """Whatever a token service answers, it is a token or the one error that says it is none."""
    try:
        token, lifetime = parse_token_reply(body)
    except MalformedDocument:
        return
    assert token.isascii()
    assert lifetime > 0


@pytest.mark.parametrize(
    ("grant", "url"),
    [
        (
            Grant("https://auth.example/token", "registry example", ("repository:a/b:pull,push",)),
            "https://auth.example/token?service=registry+example&scope=repository%3Aa%2Fb%3Apull%2Cpush",
        ),
        (Grant("https://auth.example/token?a=b", "s", ()), "https://auth.example/token?a=b&service=s"),
        (Grant("https://auth.example/token", "", ("x&y=z",)), "https://auth.example/token?scope=x%26y%3Dz"),
    ],
)
def test_the_url_of_a_token(grant: Grant, url: str) -> None:
    """Service and scope go into the realm's query, escaped; what is empty does not."""
    assert url == grant.url
