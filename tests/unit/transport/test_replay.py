"""Cassettes made here, played: which answer is given to which request, and what happens when there is none."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
import requests
import vcr.request
import vcr.serialize
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from vcr.serializers import yamlserializer

import distsdk
import distsdk.spec.media_types
from distsdk.content.protocols import TagLister
from distsdk.transport.cassette.replay import CassetteAdapter

if TYPE_CHECKING:
    from pathlib import Path

ROOT = "https://registry.example"
MANIFEST = b'{"schemaVersion": 2}'
ACCEPT = {"Accept": "application/json"}


def interaction(
    uri: str,
    body: bytes | dict[str, Any] = b"",
    *,
    method: str = "GET",
    status: int = 200,
    asked: dict[str, str] | None = None,
    said: dict[str, str] | None = None,
) -> dict[str, Any]:
    """Return one exchange as vcrpy's YAML has it; a body that is a dict is one in a file of its own."""
    return {
        "request": {
            "body": None,
            "headers": {name: [value] for name, value in (asked or {}).items()},
            "method": method,
            "uri": uri,
        },
        "response": {
            "body": {"string": body} if isinstance(body, bytes) else body,
            "headers": {name: [value] for name, value in (said or {}).items()},
            "status": {"code": status, "message": "whatever"},
        },
    }


def write(path: Path, *interactions: dict[str, Any]) -> Path:
    """Write a cassette."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({"version": 1, "interactions": list(interactions)}))
    return path


def player(path: Path) -> requests.Session:
    """Return a session that plays a cassette."""
    session = requests.Session()
    session.trust_env = False
    session.headers.clear()
    session.mount("https://", CassetteAdapter(path))
    return session


def test_order(tmp_path: Path) -> None:
    """Answers to the same request come in the order they were recorded, the last one ever again."""
    cassette = write(tmp_path / "c.yaml", *(interaction(f"{ROOT}/a", text) for text in (b"1", b"2", b"3")))
    session = player(cassette)
    assert [b"1", b"2", b"3", b"3", b"3"] == [session.get(f"{ROOT}/a").content for _ in range(5)]


def test_each_session_starts_over(tmp_path: Path) -> None:
    """Another session, and a pickled one, hear the first answer first."""
    session = player(write(tmp_path / "c.yaml", interaction(f"{ROOT}/a", b"1"), interaction(f"{ROOT}/a", b"2")))
    assert b"1" == session.get(f"{ROOT}/a").content
    assert b"1" == pickle.loads(pickle.dumps(session)).get(f"{ROOT}/a").content  # noqa: S301 - made a moment ago
    assert b"2" == session.get(f"{ROOT}/a").content


@pytest.mark.parametrize("header", ["Accept", "Range", "Authorization"])
def test_headers_that_count(tmp_path: Path, header: str) -> None:
    """The same URL asked for another type, another range, or with a token is another request, if it was recorded."""
    cassette = write(
        tmp_path / "c.yaml",
        interaction(f"{ROOT}/a", b"without"),
        interaction(f"{ROOT}/a", b"with", asked={header: "REDACTED"}),
    )
    session = player(cassette)
    assert b"with" == session.get(f"{ROOT}/a", headers={header: "REDACTED"}).content
    assert b"without" == session.get(f"{ROOT}/a").content


DATA = bytes(range(256)) * 40
WHOLE = {"Content-Length": str(len(DATA)), "Content-Type": "application/octet-stream"}


@pytest.fixture
def cut(tmp_path: Path) -> requests.Session:
    """A session that plays a body read whole, ``/whole``, and one read in parts, the first of them left, ``/a``."""
    (tmp_path / "data").write_bytes(DATA)
    (tmp_path / "start").write_bytes(DATA[:3000])
    part = {"Content-Range": f"bytes 2000-8999/{len(DATA)}", "Content-Length": "7000"}
    last = {"Content-Range": f"bytes 9000-{len(DATA) - 1}/{len(DATA)}"}
    cassette = write(
        tmp_path / "c.yaml",
        interaction(f"{ROOT}/whole", {"string": "", "file": "data"}, said=WHOLE),
        interaction(f"{ROOT}/a", {"string": "", "file": "start"}, said=WHOLE),
        interaction(f"{ROOT}/a", DATA[2000:9000], status=206, asked={"Range": "bytes=2000-8999"}, said=part),
        interaction(f"{ROOT}/a", DATA[9000:], status=206, asked={"Range": "bytes=9000-"}, said=last),
        interaction(f"{ROOT}/gap", {"string": "", "file": "start"}, said=WHOLE),
        interaction(f"{ROOT}/moved", status=307, said={"Location": f"{ROOT}/a"}),
    )
    return player(cassette)


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=10-4999", 10, 5000),
        ("bytes=2500-9499", 2500, 9500),
        ("bytes=10000-99999", 10000, len(DATA)),
        ("bytes=10000-", 10000, len(DATA)),
        ("bytes=-100", len(DATA) - 100, len(DATA)),
        ("bytes=-99999", 0, len(DATA)),
    ],
)
@pytest.mark.parametrize("path", ["whole", "a"])
def test_part_of_what_was_read(cut: requests.Session, path: str, asked: str, first: int, end: int) -> None:
    """A range that was not recorded is cut out of a body that was, or put together from several."""
    response = cut.get(f"{ROOT}/{path}", headers={"Range": asked})
    assert (206, DATA[first:end]) == (response.status_code, response.content)
    assert f"bytes {first}-{end - 1}/{len(DATA)}" == response.headers["Content-Range"]
    assert str(end - first) == response.headers["Content-Length"]
    assert "application/octet-stream" == response.headers["Content-Type"]


def test_the_rest_of_a_body_that_was_left(cut: requests.Session) -> None:
    """How far a stream got before others had the rest is chance: played, it goes on to the end if all is there."""
    assert DATA == cut.get(f"{ROOT}/a").content
    with pytest.raises(requests.exceptions.ChunkedEncodingError, match="3000 bytes read"):
        cut.get(f"{ROOT}/gap")  # it broke there, or was left: more is not known


@pytest.mark.parametrize("asked", ["bytes=2000-3000", "bytes=-1", "bytes=3000-"])
def test_a_part_that_nobody_read(cut: requests.Session, asked: str) -> None:
    """Of a body of which the start was read, there is the start."""
    assert DATA[:3000] == cut.get(f"{ROOT}/gap", headers={"Range": "bytes=0-2999"}).content
    with pytest.raises(distsdk.Unreachable, match=r"holds no answer to GET .*gap"):
        cut.get(f"{ROOT}/gap", headers={"Range": asked})


@pytest.mark.parametrize("asked", ["bytes=0-1,5-6", "bytes=-", "items=0-1", "bytes=a-b"])
def test_ranges_that_are_none(cut: requests.Session, asked: str) -> None:
    """Several ranges at once, or none, have to have been recorded."""
    with pytest.raises(distsdk.Unreachable, match="holds no answer"):
        cut.get(f"{ROOT}/whole", headers={"Range": asked})


def test_a_range_behind_the_end(cut: requests.Session) -> None:
    """It is refused as registries do (RFC 9110 section 15.5.17)."""
    response = cut.get(f"{ROOT}/whole", headers={"Range": f"bytes={len(DATA)}-"})
    assert (416, f"bytes */{len(DATA)}") == (response.status_code, response.headers["Content-Range"])


def test_where_a_part_is(cut: requests.Session) -> None:
    """A redirect is one whatever part is asked for."""
    response = cut.get(f"{ROOT}/moved", headers={"Range": "bytes=1-2"}, allow_redirects=False)
    assert (307, f"{ROOT}/a") == (response.status_code, response.headers["Location"])
    assert DATA[1:3] == cut.get(f"{ROOT}/moved", headers={"Range": "bytes=1-2"}).content


def test_headers_of_what_was_read(cut: requests.Session) -> None:
    """A HEAD follows from a GET; the other way round there is no body."""
    response = cut.head(f"{ROOT}/gap")
    assert (200, str(len(DATA)), b"") == (response.status_code, response.headers["Content-Length"], response.content)
    assert 307 == cut.head(f"{ROOT}/moved").status_code
    with pytest.raises(distsdk.Unreachable, match="holds no answer to HEAD"):
        cut.head(f"{ROOT}/other")


def test_a_range_that_was_recorded_is_played_as_it_was(tmp_path: Path) -> None:
    """Also one that is answered wrongly: what the registry did is what is to be seen."""
    cassette = write(
        tmp_path / "c.yaml",
        interaction(f"{ROOT}/a", DATA, said=WHOLE),
        interaction(f"{ROOT}/a", b"oops", asked={"Range": "bytes=0-3"}, said={"Content-Length": "4"}),
    )
    assert b"oops" == player(cassette).get(f"{ROOT}/a", headers={"Range": "bytes=0-3"}).content


def test_versions_are_not_mixed(tmp_path: Path) -> None:
    """Of a URL that once said one thing and later another, no part is made up."""
    cassette = write(
        tmp_path / "c.yaml",
        interaction(f"{ROOT}/a", b"12345", said={"Content-Length": "5"}),
        interaction(f"{ROOT}/a", b"123456", said={"Content-Length": "6"}),
    )
    with pytest.raises(distsdk.Unreachable, match="holds no answer"):
        player(cassette).get(f"{ROOT}/a", headers={"Range": "bytes=0-2"})


def test_parts_in_threads(cut: requests.Session) -> None:
    """Ten threads read all of it in different parts, and each gets its own."""

    def read(size: int) -> bytes:
        starts = range(0, len(DATA), size)
        return b"".join(cut.get(f"{ROOT}/a", headers={"Range": f"bytes={at}-{at + size - 1}"}).content for at in starts)

    with ThreadPoolExecutor(10) as pool:
        assert {DATA} == set(pool.map(read, range(400, 3400, 100)))


def test_any_token_will_do(tmp_path: Path) -> None:
    """Which token is sent does not matter; nor does whether, where only one of both was recorded."""
    session = player(write(tmp_path / "c.yaml", interaction(f"{ROOT}/a", b"x", asked={"Authorization": "REDACTED"})))
    assert b"x" == session.get(f"{ROOT}/a", headers={"Authorization": "Bearer another"}).content
    assert b"x" == session.get(f"{ROOT}/a").content


def test_no_answer(tmp_path: Path) -> None:
    """A request that was not recorded is Unreachable; the message names it, without what may be a signature."""
    session = player(write(tmp_path / "c.yaml", interaction(f"{ROOT}/a")))
    with pytest.raises(distsdk.Unreachable) as caught:
        session.get(f"{ROOT}/b?n=1&X-Amz-Signature=secret", headers={"Range": "bytes=0-9", **ACCEPT})
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / 'c.yaml'} holds no answer to GET {ROOT}/b?n=1&")
    assert "Range: bytes=0-9; Accept: application/json" in message
    assert "secret" not in message


def test_body_in_a_file(tmp_path: Path) -> None:
    """A body may lie beside the cassette; a stream of it is undecoded, and closed where it is left."""
    data = bytes(range(256)) * 4096
    (tmp_path / "bodies").mkdir()
    (tmp_path / "bodies" / "data").write_bytes(data)
    cassette = write(
        tmp_path / "sub" / "c.yaml",
        interaction(f"{ROOT}/a", {"string": "", "file": "../bodies/data"}, said={"Content-Length": str(len(data))}),
    )
    session = player(cassette)
    with session.get(f"{ROOT}/a", stream=True) as response:
        assert data[:1000] == response.raw.read(1000)
    assert response.raw.closed
    assert data == session.get(f"{ROOT}/a").content


def test_body_whose_file_is_missing(tmp_path: Path) -> None:
    """A cassette without its bodies says which file it lacks."""
    cassette = write(tmp_path / "c.yaml", interaction(f"{ROOT}/a", {"string": "", "file": "gone"}))
    with pytest.raises(distsdk.InvalidConfig, match="gone' cannot be read"):
        player(cassette).get(f"{ROOT}/a")


@pytest.mark.parametrize(
    "name",
    [
        "../../secret",
        "../secret",
        "../other/secret",
        "../bodies/../secret",
        "../bodies2/secret",
        "sub/../../secret",
        "{root}/secret",
        "link",
        "../bodies/link",
        "../bodies-link/secret",
        "a\0b",
        5,
        None,
        ["secret"],
    ],
)
def test_a_body_elsewhere(tmp_path: Path, name: object) -> None:
    """A cassette that somebody else made reads no file but those that came with it, links followed."""
    root = tmp_path / "root"
    for place in (tmp_path, root, root / "other", root / "bodies2"):
        place.mkdir(exist_ok=True)
        (place / "secret").write_bytes(b"planted")
    (root / "bodies").mkdir()
    (root / "cassettes" / "sub").mkdir(parents=True)
    if os.name != "nt":
        (root / "cassettes" / "link").symlink_to(root / "secret")
        (root / "bodies" / "link").symlink_to("../secret")
        (root / "bodies-link").symlink_to(tmp_path)
    body = {"string": "", "file": name.format(root=root) if isinstance(name, str) else name}
    cassette = write(root / "cassettes" / "c.yaml", interaction(f"{ROOT}/a", body))
    with pytest.raises(
        distsdk.InvalidConfig, match=r"c\.yaml'.* in the folder of the cassette, or in a folder 'bodies'"
    ):
        player(cassette)


@pytest.mark.skipif(os.name == "nt", reason="links take a privilege there")
def test_a_body_that_is_a_link_to_itself(tmp_path: Path) -> None:
    """Whether the system follows such a link or not, it is a cassette that cannot be played."""
    (tmp_path / "circle").symlink_to("circle")
    cassette = write(tmp_path / "c.yaml", interaction(f"{ROOT}/a", {"string": "", "file": "circle"}))
    with pytest.raises(distsdk.InvalidConfig, match="circle"):
        player(cassette).get(f"{ROOT}/a")


@pytest.mark.skipif(os.name == "nt", reason="links take a privilege there")
def test_a_folder_of_bodies_that_is_a_link(tmp_path: Path) -> None:
    """The folder for bodies may not lead elsewhere itself; the path to the cassette, which is the user's, may."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "data").write_bytes(b"planted")
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "bodies").symlink_to(tmp_path / "elsewhere")
    linked = write(
        tmp_path / "one" / "sub" / "c.yaml", interaction(f"{ROOT}/a", {"string": "", "file": "../bodies/data"})
    )
    with pytest.raises(distsdk.InvalidConfig, match="in the folder of the cassette"):
        player(linked)
    write(tmp_path / "elsewhere" / "c.yaml", interaction(f"{ROOT}/a", {"string": "", "file": "data"}))
    assert b"planted" == player(tmp_path / "one" / "bodies" / "c.yaml").get(f"{ROOT}/a").content


@given(body=st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
def test_bytes_as_vcrpy_writes_them(tmp_path: Path, body: bytes) -> None:
    """Whatever vcrpy writes of a body, text or not, is played as the bytes it was."""
    request = vcr.request.Request("GET", f"{ROOT}/a", None, {})
    response = {"body": {"string": body}, "headers": {}, "status": {"code": 200, "message": "OK"}}
    text = vcr.serialize.serialize({"requests": [request], "responses": [response]}, yamlserializer)
    cassette = tmp_path / f"{hashlib.sha256(body).hexdigest()}.yaml"  # a process reads a cassette once
    cassette.write_text(text)
    assert body == player(cassette).get(f"{ROOT}/a").content


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a: [",
        "- 1",
        "interactions: 1",
        "interactions: [1]",
        "interactions: []",
        "interactions: [{request: {}}]",
        "interactions: 2001-99-99",
        "[" * 100_000,
        "interactions: " + "[" * 1000 + "]" * 1000,
    ],
)
def test_what_is_no_cassette(tmp_path: Path, text: str) -> None:
    """A file that is no cassette is InvalidConfig, and named."""
    path = tmp_path / "not-a-cassette.yaml"
    path.write_text(text)
    with pytest.raises(distsdk.InvalidConfig, match=r"not-a-cassette\.yaml"), distsdk.replay(path):
        pass


def test_no_cassette_there(tmp_path: Path) -> None:
    """Neither is a folder without cassettes one, nor what does not exist."""
    for path in (tmp_path, tmp_path / "gone.yaml"):
        with pytest.raises(distsdk.InvalidConfig, match=path.name), distsdk.replay(path):
            pass


def test_without_yaml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without PyYAML the error names the extra that brings it."""
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(distsdk.MissingExtra, match=r"distsdk\[replay\]"), distsdk.replay(tmp_path / "c.yaml"):
        pass


def tagged(tag: bytes) -> tuple[dict[str, Any], ...]:
    """Return the exchange in which a repository lists one tag."""
    return (interaction(f"{ROOT}/v2/app/tags/list?n=1000", b'{"tags": ["%s"]}' % tag, asked=ACCEPT),)


def test_block_and_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The innermost block counts, then the one around it, then the variable; a remote keeps its own."""
    for name in ("one", "two", "variable"):
        write(tmp_path / f"{name}.yaml", *tagged(name.encode()))
    monkeypatch.setenv("DISTSDK_REPLAY", str(tmp_path / "variable.yaml"))
    remotes = [distsdk.connect("registry.example/app")]
    with distsdk.replay(tmp_path / "one.yaml"):
        with distsdk.replay(tmp_path / "two.yaml"):
            remotes.append(distsdk.connect("registry.example/app"))
        remotes.append(distsdk.connect("registry.example/app"))
    remotes.append(distsdk.connect("registry.example/app"))
    seen: list[str] = []
    for remote in remotes:
        assert isinstance(remote, TagLister)
        seen += remote.tags()
    assert ["variable", "two", "one", "variable"] == seen


def test_folder(tmp_path: Path) -> None:
    """A folder plays every cassette below it; what several of them answer comes in the order of their names."""
    write(tmp_path / "b" / "two.yaml", interaction(f"{ROOT}/a", b"2"), interaction(f"{ROOT}/b", b"only here"))
    write(tmp_path / "a" / "one.yaml", interaction(f"{ROOT}/a", b"1"))
    session = player(tmp_path)
    assert [b"1", b"2"] == [session.get(f"{ROOT}/a").content for _ in range(2)]
    assert b"only here" == session.get(f"{ROOT}/b").content


def test_logins_of_the_machine_make_no_difference(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A recorded challenge is met as it was met, also where docker's configuration is broken or has an OAuth2 login."""
    bearer = f'Bearer realm="{ROOT}/token",service="x"'
    url = f"{ROOT}/v2/a/manifests/1"
    accept = {"Accept": ", ".join(distsdk.spec.media_types.DEFAULT_ACCEPT)}
    said = {"Content-Type": distsdk.spec.media_types.OCI_MANIFEST}
    cassette = write(
        tmp_path / "c.yaml",
        interaction(url, status=401, asked=accept, said={"WWW-Authenticate": bearer}),
        interaction(f"{ROOT}/token?service=x&scope=repository%3Aa%3Apull", b'{"token": "t"}', asked=ACCEPT),
        interaction(url, MANIFEST, asked={**accept, "Authorization": "Bearer t"}, said=said),
    )
    logins = tmp_path / "auth.json"
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(logins))
    for text in ('{"auths": {"registry.example": {"identitytoken": "secret"}}}', "{", ""):
        logins.write_text(text)
        with distsdk.replay(cassette):
            assert distsdk.connect("registry.example/a").fetch("1").read() == MANIFEST
