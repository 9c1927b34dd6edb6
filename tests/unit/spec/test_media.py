from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsdk.spec import media_types as media

NAME = st.text(string.ascii_letters + string.digits + "!#$&-^_.+", min_size=1, max_size=127).filter(
    lambda name: name[0].isalnum()
)


def test_constants_are_media_types() -> None:
    """Every constant is spelled as `parse_media_type` would."""
    constants = [value for name, value in vars(media).items() if name[0].isupper() and isinstance(value, str)]
    assert len(constants) > 20
    assert constants == [media.parse_media_type(value) for value in constants]


def test_sets_are_what_they_say() -> None:
    """Manifests and indexes are documents, schema 1 is not, and the default `Accept` asks for documents only."""
    assert media.DOCUMENTS == media.INDEXES | media.MANIFESTS
    assert not media.DOCUMENTS & media.SCHEMA1
    assert set(media.DEFAULT_ACCEPT) == media.DOCUMENTS
    assert media.OCI_INDEX == media.DEFAULT_ACCEPT[0]
    assert {kind for kind in media.LAYERS if "nondistributable" in kind or "foreign" in kind} == media.FOREIGN_LAYERS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("application/json", "application/json"),
        ("application/json; charset=utf-8", "application/json"),
        ("application/json;charset=utf-8", "application/json"),
        ('application/json ; a="b;c"', "application/json"),
        ("Application/JSON", "application/json"),
        ("application/vnd.OCI.image.index.v1+json", media.OCI_INDEX),
        ("text/plain", "text/plain"),
        ("x/y", "x/y"),
        (f"{'a' * 127}/{'b' * 127}", f"{'a' * 127}/{'b' * 127}"),
    ],
)
def test_parse_drops_parameters_and_case(text: str, expected: str) -> None:
    """Media types compare without regard to case, and what follows the ``;`` is not part of the name."""
    assert expected == media.parse_media_type(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "json",
        "/",
        "application/",
        "/json",
        "a/b/c",
        "*/*",
        "application/*",
        " application/json",
        "application/json\n",
        "application/json\r\nX-Evil: 1",
        "application/json; charset=utf-8\r\nX-Evil: 1",
        "application/json, text/plain",
        "application/json text/plain",
        "application/jsön",
        "application/\u212aelvin",  # the Kelvin sign lower-cases to an ASCII k
        "application/json; charset=ü",
        ";application/json",
        f"{'a' * 128}/b",
        f"a/{'b' * 128}",
        ".a/b",
        "a/-b",
    ],
)
def test_parse_refuses_what_is_no_media_type(text: str) -> None:
    """Nothing passes that could end a header, or that is not one type and subtype."""
    with pytest.raises(ValueError, match="is not a media type"):
        media.parse_media_type(text)


@given(NAME, NAME, st.sampled_from(["", "; charset=utf-8", ";", " ; q=1", "\t;x"]))
def test_parse_accepts_every_restricted_name(kind: str, subtype: str, parameters: str) -> None:
    """All names of RFC 6838 section 4.2 pass, and parsing again changes nothing."""
    parsed = media.parse_media_type(f"{kind}/{subtype}{parameters}")
    assert f"{kind}/{subtype}".lower() == parsed
    assert parsed == media.parse_media_type(parsed)


@given(st.text())
def test_what_parse_returns_is_safe_in_a_header(text: str) -> None:
    """Whatever the text, the result is printable ASCII without spaces or separators."""
    try:
        parsed = media.parse_media_type(text)
    except ValueError:
        return
    assert set(parsed) <= set(string.ascii_lowercase + string.digits + "!#$&-^_.+/")
