"""What is read from header fields, tokens and files: as written, nothing else, and in time."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from distsdk._secrets import redact
from distsdk.errors import DistError
from distsdk.remotes.listing import next_link
from distsdk.spec.media_types import parse_media_type
from distsdk.transport.auth import merge_scopes, parse_challenges, parse_token_reply
from distsdk.transport.credentials import parse_auth_file
from distsdk.transport.hosts import parse_hosts
from distsdk.transport.response import parse_retry_after
from distsdk.transport.resume import parse_content_range

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

# Content-Range, RFC 9110 section 14.4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("bytes 42-1233/1234", (42, 1233, 1234)),  # the examples of the RFC
        ("bytes 42-1233/*", (42, 1233, None)),
        ("bytes */1234", None),
        ("bytes 0-0/1", (0, 0, 1)),
        ("BYTES 0-0/1", (0, 0, 1)),
        (" bytes 0-0/1 ", (0, 0, 1)),
        ("bytes 0-9223372036854775806/9223372036854775807", (0, 2**63 - 2, 2**63 - 1)),
        ("", None),
        ("bytes", None),
        ("bytes=0-0/1", None),
        ("bytes 0-0", None),
        ("bytes 0-/1", None),
        ("bytes -1/1", None),
        ("bytes 1-0/2", None),
        ("bytes 0-1/1", None),
        ("bytes 0-0/0", None),
        ("bytes 0-0/1, bytes 0-0/1", None),
        ("bytes 0-0/1x", None),
        ("bytes 0x0-0/1", None),
        ("bytes +0-0/1", None),
        ("bytes 0_0-0/1", None),
        ("bytes \u0660-\u0660/\u0661", None),
        ("items 0-0/1", None),
        ("bytes 0-0/1\nbytes 0-0/1", None),
        ("bytes " + "0" * 5000 + "-0/1", None),
    ],
)
def test_content_range(text: str, expected: tuple[int, int, int | None] | None) -> None:
    """A satisfied range of bytes is first, last and total; anything else, an impossible one too, is no range."""
    assert expected == parse_content_range(text)


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.none() | st.integers(0, 2**63 - 1))
def test_ranges_are_read_as_written(first: int, last: int, total: int | None) -> None:
    """Every range that there can be, and no other, is read."""
    possible = first <= last and (total is None or last < total)
    text = f"bytes {first}-{last}/{'*' if total is None else total}"
    assert ((first, last, total) if possible else None) == parse_content_range(text)


@given(st.text() | st.text("bytes 0123456789-/*\t"))
def test_any_range_lies_within_its_total(text: str) -> None:
    """Whatever a registry writes, it is a range within its total or none."""
    if (found := parse_content_range(text)) is not None:
        first, last, total = found
        assert 0 <= first <= last
        assert total is None or last < total


# Link, RFC 8288 section 3

_TARGETS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, exclude_characters="<>"), max_size=30)
_NAMES = st.sampled_from(["rel", "REL", "title", "type", "anchor", "x-rel", "rel*"])
_VALUES = st.sampled_from(["next", "NEXT", "prev", "last next", "nextish", "a, <b>; rel=next", 'say "next"', "\\", ""])
_LINKS = st.lists(st.tuples(_TARGETS, st.lists(st.tuples(_NAMES, _VALUES), max_size=3)), max_size=4)


@given(_LINKS)
def test_links_are_read_as_written(links: list[tuple[str, list[tuple[str, str]]]]) -> None:
    """Of links written by the grammar, the first one whose first `rel` holds `next` is found, and no other text."""

    def written(target: str, params: list[tuple[str, str]]) -> str:
        quoted = ((name, value.replace("\\", r"\\").replace('"', r"\"")) for name, value in params)
        return f"<{target}>" + "".join(f'; {name}="{value}"' for name, value in quoted)

    def relation(params: list[tuple[str, str]]) -> str:
        return next((value for name, value in params if name.lower() == "rel"), "")

    expected = next((target for target, params in links if "next" in relation(params).lower().split()), None)
    assert expected == next_link(", ".join(written(target, params) for target, params in links))


@pytest.mark.slow
@given(st.lists(st.tuples(st.from_regex(r"/[a-z0-9/?=&%]{0,20}", fullmatch=True), st.sampled_from(["next", "prev"]))))
def test_links_are_those_of_requests(links: list[tuple[str, str]]) -> None:
    """For what registries send, requests' reader finds the same."""
    header = ", ".join(f'<{target}>; rel="{relation}"' for target, relation in links)
    found = [link["url"] for link in requests.utils.parse_header_links(header) if link.get("rel") == "next"]
    assert next(iter(found), None) == next_link(header)


@given(st.text('<>;, ="\\nextrl') | st.text())
def test_any_link_is_part_of_the_header(header: str) -> None:
    """Whatever a registry sends, what is found is what stands between a pair of angle brackets, or nothing."""
    target = next_link(header)
    assert target is None or f"<{target}>" in header


# Scopes, https://distribution.github.io/distribution/spec/auth/scope/

_SCOPES = st.lists(
    st.builds(
        lambda resource, actions: f"{resource}:{','.join(actions)}",
        st.sampled_from(["repository:a", "repository:h:5000/a", "repository(plugin):a", "registry:catalog"]),
        st.lists(st.sampled_from(["pull", "push", "delete", "*"]), min_size=1),
    )
    | st.sampled_from(["aws", "", "a:b"])
)


@pytest.mark.slow
@given(_SCOPES, st.randoms(use_true_random=False))
def test_scopes_are_merged_once(scopes: list[str], chance: Random) -> None:
    """Order, repetition and what was merged before make no difference; every resource keeps its actions."""

    def actions(scopes: list[str] | tuple[str, ...]) -> set[tuple[str, str]]:
        split = (scope.rpartition(":") for scope in scopes if scope)
        return {
            (resource, action)
            for resource, _, listed in split
            for action in (listed.split(",") if resource else [listed])
        }

    merged = merge_scopes(*scopes)
    shuffled = chance.sample(scopes, len(scopes))
    assert actions(scopes) == actions(merged)
    assert merged == merge_scopes(*merged) == merge_scopes(*shuffled) == merge_scopes(*scopes, *scopes)
    resources = [scope.rpartition(":")[0] for scope in merged if scope.count(":") > 1]
    assert sorted(set(resources)) == sorted(resources)


# Time: 64 KiB, which is what http.client takes of a line, and a token service's reply may have.

#: Beginnings and repeated parts that are hard on a backtracking matcher.
_HARD = [
    *[("", "<"), ("", "<>"), ("", '<>"'), ("", '<>\\"'), ("<a>", ";"), ("<a>", "; "), ("<a>;", " "), ("<a>;a", " ")],
    *[("<a>;a=", " "), ('<a>;a="', "\\"), ("<a>", ';a="'), ("<a>", ";a=b"), ('<a>;rel="', "next "), ("<a>", '""')],
    *[("bytes", " "), ("bytes", "\t"), ("bytes ", "0"), ("bytes 0-", "0"), ("bytes 0-0/", "*"), ("", " bytes 0-0/1")],
    *[("", " "), ("", "0"), ("Mon, 0", "0"), ("", "Mon, "), ("", ":"), ("Mon, 01 Jan 2024 00:00:00 +", "0"), ("", "(")],
    *[("a/b", " "), ("a/b;", " "), ("", "/"), ("a/", "b"), ("", "a/"), ("", "; ")],
    *[("http://", "@"), ("http://", "["), ("http://a/?", "&"), ("http://a/?", "a=b&"), ("http://a/", "%"), ("", "//")],
    *[('{"token":"', "a"), ('{"token":', "["), ('{"token":', '{"a":'), ("", '{"a":1,'), ('{"expires_in":', "1")],
    *[('{"auths":{', '"a":{},'), ('{"auths":{"a":{"auth":"', "A"), ('{"auths":{"', "a/")],
    *[
        ("x = ", "["),
        ("", "a."),
        ("a", ".a"),
        ('x = "', "\\\\"),
        ("x = '''", "''"),
        ("", "[a]\n"),
        ("", "#\n"),
        ("x=", "{x="),
    ],
    *[('server = "https://', "a."), ('dial_timeout = "', "1"), ('dial_timeout = "', "1s"), ('dial_timeout = "', "1.")],
]


#: Readers of text from outside; what they make of it is not looked at here.
_READERS: dict[str, Callable[[str], object]] = {
    "next_link": next_link,
    "parse_content_range": parse_content_range,
    "parse_retry_after": parse_retry_after,
    "parse_media_type": parse_media_type,
    "parse_challenges": parse_challenges,
    "merge_scopes": lambda text: merge_scopes(*text.split()),
    "redact": redact,
    "parse_token_reply": lambda text: parse_token_reply(text.encode()),
    "parse_auth_file": lambda text: parse_auth_file(text.encode(), what="file").login("a", "a/" * 100),
    "parse_hosts": lambda text: parse_hosts(text, folder=Path("/certs.d/a"), host="a.example"),
}


@pytest.mark.slow
@pytest.mark.parametrize("reader", _READERS.values(), ids=_READERS.keys())
def test_long_texts_are_read_in_linear_time(reader: Callable[[str], object]) -> None:
    """64 KiB take well under a second of CPU, however they are made: quadratic work takes ten, or minutes."""
    for start, part in _HARD:
        for end in ("", "\0", '"', "x"):
            text = start + part * (64 * 1024 // len(part)) + end
            before = time.thread_time()
            with contextlib.suppress(DistError, ValueError):
                reader(text)
            assert time.thread_time() - before < 1, (start, part, end)
