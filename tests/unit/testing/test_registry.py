from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import re
import threading
import urllib.request
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distsdk.spec import media_types as media
from distsdk.spec.digest import Digest
from distsdk.spec.platform import Platform
from distsdk.testing import Headers, Registry, Stall

from ...support import HANGS, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

UNKNOWN = "sha256:" + "0" * 64


def ask(
    registry: Registry, path: str, headers: Mapping[str, str] | None = None, *, method: str = "GET"
) -> tuple[int, http.client.HTTPMessage, bytes]:
    """Ask on a connection of its own; return status, header and body."""
    connection = http.client.HTTPConnection(registry.host, timeout=HANGS)
    try:
        connection.request(method, path, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def codes(body: bytes) -> list[str]:
    """The error codes in a refusal."""
    return [error["code"] for error in json.loads(body)["errors"]]


@pytest.fixture
def registry() -> Iterator[Registry]:
    """An empty registry."""
    with Registry() as registry:
        yield registry


@pytest.fixture(scope="module")
def shared() -> Iterator[Registry]:
    """A registry with one blob of the bytes 0 to 99."""
    with Registry() as registry:
        registry.add_blob("x", bytes(range(100)))
        yield registry


def test_a_host_is_known_only_once_it_was_started() -> None:
    """Before the start there is no port; afterwards host, URL and locator name the same one, also after the end."""
    registry = Registry()
    with pytest.raises(RuntimeError, match="with Registry"):
        _ = registry.host
    with registry:
        host = registry.host
        assert re.fullmatch(r"127\.0\.0\.1:\d+", host)
        assert registry.url == f"http://{host}"
        assert registry.locator("library/x") == f"{host}/library/x"
    assert registry.host == host
    with pytest.raises(ConnectionRefusedError):
        ask(registry, "/v2/")


def test_the_end_ends_connections() -> None:
    """A client that keeps its connection open finds it ended with the registry."""
    with Registry() as registry:
        connection = http.client.HTTPConnection(registry.host, timeout=HANGS)
        connection.request("GET", "/v2/")
        connection.getresponse().read()
        assert connection.sock is not None
    assert connection.sock.recv(1) == b""
    connection.close()


@pytest.mark.parametrize("name", ["1", "{digest}"])
def test_a_manifest_is_found_by_tag_and_by_digest(registry: Registry, name: str) -> None:
    """GET gives the stored bytes with their type and digest; HEAD gives the same header and no body."""
    raw = b'{"schemaVersion":2,\n  "anything": "as it was written"}'
    stored = registry.add_manifest("library/x", raw, media.DOCKER_MANIFEST, tags=["1"])
    path = f"/v2/library/x/manifests/{name.format(digest=stored.digest)}"
    status, headers, body = ask(registry, path)
    assert status == 200
    assert body == raw
    assert headers["Content-Type"] == media.DOCKER_MANIFEST
    assert headers["Docker-Content-Digest"] == f"sha256:{hashlib.sha256(raw).hexdigest()}" == str(stored.digest)
    assert headers["Content-Length"] == str(len(raw)) == str(stored.size)
    head_status, head, nothing = ask(registry, path, method="HEAD")
    assert (head_status, nothing) == (200, b"")
    assert {**head, "Date": ""} == {**headers, "Date": ""}


@pytest.mark.parametrize(
    ("accept", "status"),
    [
        (None, 200),
        ("*/*", 200),
        ("application/*", 200),
        (media.OCI_INDEX, 200),
        (f"{media.DOCKER_MANIFEST};q=0.5, {media.OCI_INDEX.upper()} ;q=0.1", 200),
        (media.OCI_MANIFEST, 404),
        ("text/*", 404),
        (f"{media.DOCKER_MANIFEST}, {media.DOCKER_LIST}", 404),
    ],
)
def test_a_manifest_of_a_type_that_is_not_accepted_is_not_found(
    registry: Registry, accept: str | None, status: int
) -> None:
    """An Accept header that allows neither the stored type nor a range with it is answered 404."""
    registry.add_index("x", "1", manifests=[])
    got, _, body = ask(registry, "/v2/x/manifests/1", {"Accept": accept} if accept else {})
    assert got == status
    assert status == 200 or codes(body) == ["MANIFEST_UNKNOWN"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v2/nope/manifests/1", 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/x/manifests/nope", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"/v2/x/manifests/{UNKNOWN}", 404, "MANIFEST_UNKNOWN"),
        ("GET", "/v2/x/manifests/sha256:00", 404, "MANIFEST_UNKNOWN"),
        ("GET", f"/v2/x/blobs/{UNKNOWN}", 404, "BLOB_UNKNOWN"),
        ("GET", "/v2/x/blobs/sha256:00", 400, "DIGEST_INVALID"),
        ("GET", "/v2/x/blobs/latest", 400, "DIGEST_INVALID"),
        ("GET", "/v2/nope/tags/list", 404, "NAME_UNKNOWN"),
        ("GET", "/v2/x/tags/list?n=many", 400, "PAGINATION_NUMBER_INVALID"),
        ("GET", "/v2/X/tags/list", 404, "NAME_INVALID"),
        ("GET", "/v2/x/tags/other", 404, "UNSUPPORTED"),
        ("GET", "/v2/x/other", 404, "UNSUPPORTED"),
        ("GET", "/other", 404, "UNSUPPORTED"),
        ("POST", "/v2/x/manifests/1", 405, "UNSUPPORTED"),
        ("DELETE", "/v2/x/tags/list", 405, "UNSUPPORTED"),
        ("DELETE", "/v2/x/manifests/nope", 404, "MANIFEST_UNKNOWN"),
        ("DELETE", f"/v2/x/blobs/{UNKNOWN}", 404, "BLOB_UNKNOWN"),
        ("PATCH", "/v2/x/blobs/uploads/nope", 404, "BLOB_UPLOAD_UNKNOWN"),
    ],
)
def test_what_is_not_there_is_refused_with_a_code(
    registry: Registry, method: str, path: str, status: int, code: str
) -> None:
    """Refusals carry the specification's JSON and code, and leave the connection usable."""
    registry.add_image("x", "1")
    got, headers, body = ask(registry, path, method=method)
    assert got == status
    assert headers["Content-Type"] == "application/json"
    assert codes(body) == [code]


def test_a_refused_push_leaves_the_connection_usable() -> None:
    """The body of a request is read, so that the next request on the connection is understood."""
    with Registry(read_only=True) as registry:
        connection = http.client.HTTPConnection(registry.host, timeout=HANGS)
        connection.request("PUT", "/v2/x/manifests/1", b"x" * 3_000_000)
        refused = connection.getresponse()
        refused.read()
        connection.request("GET", "/v2/")
        accepted = connection.getresponse()
        assert (refused.status, accepted.status, accepted.read()) == (405, 200, b"{}")
        connection.close()


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_content_is_found_under_the_digest_it_was_given(registry: Registry, algorithm: str) -> None:
    """Blobs and manifests may be stored under any algorithm, and are served with that digest."""
    digest = Digest.of(b"data", algorithm)
    assert registry.add_blob("x", b"data", digest=digest).digest == digest
    assert registry.add_manifest("x", b"data", media.OCI_MANIFEST, tags=["t"], digest=digest).digest == digest
    for path in (f"blobs/{digest}", f"manifests/{digest}", "manifests/t"):
        _, headers, body = ask(registry, f"/v2/x/{path}")
        assert (headers["Docker-Content-Digest"], body) == (str(digest), b"data")


def test_content_belongs_to_its_repository(registry: Registry) -> None:
    """What one repository holds is not found in another, and a manifest is no blob."""
    blob = registry.add_blob("x", b"data")
    manifest = registry.add_manifest("x", b"{}", media.OCI_MANIFEST)
    assert ask(registry, f"/v2/y/blobs/{blob.digest}")[0] == 404
    assert ask(registry, f"/v2/x/blobs/{manifest.digest}")[0] == 404


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_a_file_is_served_as_it_is(registry: Registry, tmp_path: Path, size: int) -> None:
    """A blob may be a file of any size, the empty one included."""
    data = bytes(i % 251 for i in range(min(size, 1000))) * (size // 1000 or 1)
    file = tmp_path / "blob"
    file.write_bytes(data)
    blob = registry.add_blob("x", file)
    assert (blob.size, blob.digest) == (len(data), Digest.of(data))
    assert ask(registry, f"/v2/x/blobs/{blob.digest}")[2] == data


@given(st.integers(0, 120), st.none() | st.integers(0, 120))
def test_a_range_is_a_slice(shared: Registry, first: int, last: int | None) -> None:
    """A closed or open range gives the same bytes as a slice, and 416 where the slice would be empty."""
    data = bytes(range(100))
    end = 100 if last is None else min(last + 1, 100)
    asked = f"bytes={first}-{'' if last is None else last}"
    status, headers, body = ask(shared, f"/v2/x/blobs/{Digest.of(data)}", {"Range": asked})
    if expected := data[first:end]:
        assert (status, body) == (206, expected)
        assert headers["Content-Range"] == f"bytes {first}-{first + len(expected) - 1}/100"
        assert headers["Content-Length"] == str(len(expected))
    else:
        assert (status, headers["Content-Range"]) == (416, "bytes */100")


@pytest.mark.parametrize(
    ("headers", "status", "size"),
    [
        ({"Range": "bytes=-10"}, 206, 10),
        ({"Range": "bytes=-1000"}, 206, 100),
        ({"Range": "bytes=-0"}, 416, None),
        ({"Range": "bytes=x"}, 416, None),
        ({"Range": "bytes=0-1,5-6"}, 200, 100),
        ({"Range": "lines=0-1"}, 200, 100),
        ({"Range": "bytes=0-9", "If-Range": '"other"'}, 200, 100),
        ({"Range": "bytes=0-9", "If-Range": '"{digest}"'}, 206, 10),
    ],
)
def test_other_ranges(shared: Registry, headers: dict[str, str], status: int, size: int | None) -> None:
    """Suffixes are served; several ranges, other units and a changed entity give the whole; nonsense gives 416."""
    data = bytes(range(100))
    digest = Digest.of(data)
    fields = {name: value.format(digest=digest) for name, value in headers.items()}
    got, _, body = ask(shared, f"/v2/x/blobs/{digest}", fields)
    assert got == status
    assert size is None or body == data[100 - size :] or body == data[:size]


def test_a_head_request_has_no_range(shared: Registry) -> None:
    """Ranges are for GET alone, as RFC 9110 has it."""
    status, headers, _ = ask(
        shared, f"/v2/x/blobs/{Digest.of(bytes(range(100)))}", {"Range": "bytes=0-1"}, method="HEAD"
    )
    assert (status, headers["Content-Length"]) == (200, "100")


def follow(registry: Registry, path: str, key: str) -> Iterator[list[str]]:
    """The names in each page, as long as there is a next one."""
    while path:
        _, headers, body = ask(registry, path)
        yield json.loads(body)[key]
        link = re.fullmatch(r'<(/[^>]+)>; rel="next"', headers.get("Link", ""))
        path = link[1] if link else ""


@pytest.mark.parametrize("query", ["", "?n=2", "?n=5", "?n=100", "?n=0", "?n=3&last=b", "?last=bb"])
@pytest.mark.parametrize("page_size", [None, 1, 3])
def test_pages_join_to_the_whole(query: str, page_size: int | None) -> None:
    """Following relative `Link` headers gives every tag after `last` once, in order, in pages no larger than asked."""
    tags = ["a", "B", "b", "c", "D", "latest", "1.0_x"]
    with Registry(page_size=page_size) as registry:
        registry.add_manifest("some/x", {}, media.OCI_MANIFEST, tags=tags)
        pages = list(follow(registry, f"/v2/some/x/tags/list{query}", "tags"))
    ordered = ["1.0_x", "a", "B", "b", "c", "D", "latest"]
    rest = {"?n=3&last=b": ordered[4:], "?last=bb": ordered[4:], "?n=0": []}.get(query, ordered)
    assert [tag for page in pages for tag in page] == rest
    asked = re.search(r"n=(\d+)", query)
    bound = min(int(asked[1]) if asked else 100, page_size or 100)
    assert all(len(page) <= bound for page in pages)


def test_the_catalog_is_paged_too() -> None:
    """The catalog lists every repository, and pages like tags."""
    with Registry(page_size=2) as registry:
        for name in ("b/c", "a", "d"):
            registry.add_blob(name, b"")
        assert list(follow(registry, "/v2/_catalog", "repositories")) == [["a", "b/c"], ["d"]]


def test_no_tags_is_an_empty_list(registry: Registry) -> None:
    """A repository without tags is known."""
    registry.add_blob("x", b"")
    assert json.loads(ask(registry, "/v2/x/tags/list")[2]) == {"name": "x", "tags": []}


@pytest.mark.parametrize(
    ("kind", "types"),
    [
        ("oci", (media.OCI_MANIFEST, media.OCI_CONFIG, [media.OCI_LAYER, media.OCI_LAYER_GZIP])),
        ("docker", (media.DOCKER_MANIFEST, media.DOCKER_CONFIG, [media.DOCKER_LAYER, media.DOCKER_LAYER_GZIP])),
    ],
)
def test_an_image_is_complete(registry: Registry, kind: str, types: tuple[str, str, list[str]]) -> None:
    """Manifest, configuration and layers refer to each other, with the media types of either family."""
    plain, packed = b"plain", gzip.compress(b"packed", mtime=0)
    image = registry.add_image("x", "1", layers=[plain, packed], media="oci" if kind == "oci" else "docker")
    manifest = json.loads(ask(registry, "/v2/x/manifests/1")[2])
    assert (image.media_type, image.platform) == (types[0], None)
    assert manifest["mediaType"] == types[0]
    assert manifest["config"]["mediaType"] == types[1]
    assert [layer["mediaType"] for layer in manifest["layers"]] == types[2]
    blobs = [ask(registry, f"/v2/x/blobs/{entry['digest']}")[2] for entry in (manifest["config"], *manifest["layers"])]
    assert blobs[1:] == [plain, packed]
    assert json.loads(blobs[0]) == {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {"type": "layers", "diff_ids": [str(Digest.of(plain)), str(Digest.of(b"packed"))]},
    }


def test_a_zstd_layer_needs_a_configuration(registry: Registry) -> None:
    """Its diff ID cannot be had from the standard library; with the caller's own configuration it is served."""
    layer = b"\x28\xb5\x2f\xfd" + b"rest"
    with pytest.raises(ValueError, match="configuration as bytes"):
        registry.add_image("x", "1", layers=[layer])
    registry.add_image("x", "1", layers=[layer], config=b"{}")
    assert json.loads(ask(registry, "/v2/x/manifests/1")[2])["layers"][0]["mediaType"] == media.OCI_LAYER_ZSTD


def test_an_index_names_its_platforms(registry: Registry) -> None:
    """Images added with a platform can be put into an index as they are."""
    images = [registry.add_image("x", platform=name) for name in ("linux/amd64", "linux/arm/v7")]
    assert images[1].platform == Platform.parse("linux/arm/v7")
    registry.add_index("x", "1", manifests=images, media="docker")
    index = json.loads(ask(registry, "/v2/x/manifests/1")[2])
    assert index["mediaType"] == media.DOCKER_LIST
    assert [(entry["digest"], entry["platform"]) for entry in index["manifests"]] == [
        (str(images[0].digest), {"os": "linux", "architecture": "amd64"}),
        (str(images[1].digest), {"os": "linux", "architecture": "arm", "variant": "v7"}),
    ]


@pytest.mark.parametrize("name", ["", "X", "a//b", "/a", "a/", "a..b", "a:1"])
def test_malformed_names_are_refused(registry: Registry, name: str) -> None:
    """A repository that no client could ask for cannot be added, nor can such a tag."""
    with pytest.raises(ValueError, match="not a repository name"):
        registry.add_blob(name, b"")
    with pytest.raises(ValueError, match="not a tag"):
        registry.add_manifest("x", b"", media.OCI_MANIFEST, tags=["a/" + name])


def challenged(registry: Registry, path: str, token: str = "") -> tuple[int, dict[str, str]]:
    """Ask with a token; return the status and the parameters of the challenge."""
    status, headers, _ = ask(registry, path, {"Authorization": f"Bearer {token}"} if token else {})
    scheme, _, parameters = headers.get("WWW-Authenticate", "Bearer ").partition(" ")
    assert scheme == "Bearer"
    return status, dict(re.findall(r'(\w+)="([^"]*)"', parameters))


def granted(challenge: Mapping[str, str]) -> str:
    """Get the token that a challenge asks for."""
    url = f"{challenge['realm']}?service={challenge['service']}&scope={challenge.get('scope', '')}"
    with urllib.request.urlopen(url, timeout=HANGS) as answer:
        reply = json.load(answer)
    assert reply["token"] == reply["access_token"]
    token = reply["token"]
    assert isinstance(token, str)
    return token


def test_a_token_opens_what_it_was_asked_for() -> None:
    """Without a token every read is challenged; the token of one repository does not open another."""
    with Registry(auth="bearer") as registry:
        for name in ("a", "b"):
            registry.add_image(name, "1")
        status, challenge = challenged(registry, "/v2/a/manifests/1")
        assert status == 401
        assert challenge == {
            "realm": f"{registry.url}/token",
            "service": "distsdk.testing",
            "scope": "repository:a:pull",
        }
        token = granted(challenge)
        assert challenged(registry, "/v2/a/manifests/1", token) == (200, {})
        assert challenged(registry, "/v2/", token) == (200, {})
        status, challenge = challenged(registry, "/v2/b/manifests/1", token)
        assert (status, challenge["error"], challenge["scope"]) == (401, "insufficient_scope", "repository:b:pull")
        status, challenge = challenged(registry, "/v2/_catalog")
        assert (status, challenge["scope"]) == (401, "registry:catalog:*")
        assert challenged(registry, "/v2/_catalog", granted(challenge)) == (200, {})


def test_tokens_end() -> None:
    """A token that was made up, is past its time or was declared worthless is refused as invalid."""
    with Registry(auth="bearer", token_lifetime=0) as registry:
        registry.add_image("a", "1")
        _, challenge = challenged(registry, "/v2/a/manifests/1")
        for token in ("made-up", granted(challenge)):
            status, answer = challenged(registry, "/v2/a/manifests/1", token)
            assert (status, answer["error"]) == (401, "invalid_token")
    with Registry(auth="bearer") as registry:
        registry.add_image("a", "1")
        token = granted(challenged(registry, "/v2/a/manifests/1")[1])
        assert challenged(registry, "/v2/a/manifests/1", token)[0] == 200
        registry.expire_tokens()
        assert challenged(registry, "/v2/a/manifests/1", token)[1]["error"] == "invalid_token"


@pytest.mark.parametrize("scope", ["", "repository:a:push", "repository:a", "nonsense"])
def test_a_token_for_something_else_opens_nothing(scope: str) -> None:
    """A token is given whatever was asked for, as real services do, and is then good for that alone."""
    with Registry(auth="bearer") as registry:
        _, challenge = challenged(registry, "/v2/a/manifests/1")
        token = granted({**challenge, "scope": scope})
        assert challenged(registry, "/v2/a/manifests/1", token)[1]["error"] == "insufficient_scope"


def test_requests_are_counted(registry: Registry) -> None:
    """Requests are kept in order with what was asked, the status and the bytes of the body."""
    blob = registry.add_blob("x", b"0123456789")
    ask(registry, f"/v2/x/blobs/{blob.digest}", {"Range": "bytes=0-3"})
    ask(registry, f"/v2/x/blobs/{blob.digest}", method="HEAD")
    ask(registry, "/v2/x/tags/list?n=1&last=a")
    first, second, third = registry.requests
    assert (first.method, first.path, first.status, first.body_bytes_sent) == (
        "GET",
        f"/v2/x/blobs/{blob.digest}",
        206,
        4,
    )
    assert (first.headers["range"], "RANGE" in first.headers) == ("bytes=0-3", True)
    assert (second.method, second.status, second.body_bytes_sent) == ("HEAD", 200, 0)
    assert (third.path, third.query) == ("/v2/x/tags/list", "n=1&last=a")
    assert registry.count() == 3
    assert registry.count("GET") == 2
    assert registry.count(path="/blobs/") == 2
    assert registry.count("HEAD", path="^/v2/x/blobs/sha256:") == 1
    assert registry.bytes_sent == 4 + third.body_bytes_sent
    registry.reset()
    assert (registry.requests, registry.count(), registry.bytes_sent) == ([], 0, 0)


def test_counts_are_right_at_once_from_many_threads(registry: Registry) -> None:
    """Whoever has read an answer finds it counted, with eight clients at work."""
    blob = registry.add_blob("x", bytes(200_000))
    errors: list[str] = []

    def work() -> None:
        for _ in range(20):
            before = registry.bytes_sent
            ask(registry, f"/v2/x/blobs/{blob.digest}")
            if registry.bytes_sent < before + blob.size:
                errors.append("a body that was read is not counted")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert (registry.count(), registry.bytes_sent) == (160, 160 * blob.size)


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("size", [0, 10, 100_000])
def test_the_body_of_a_request_is_kept(registry: Registry, chunked: bool, size: int) -> None:
    """Its first 64 KiB are, however it was framed, and the next request on the connection is served."""
    body = bytes(i % 251 for i in range(size))
    connection = http.client.HTTPConnection(registry.host, timeout=HANGS)
    # An iterable goes out in chunks, one for each of its parts.
    parts = iter([body[:7], body[7:]]) if chunked else body
    connection.request("POST", "/v2/", parts, {"Content-Type": "text/plain"}, encode_chunked=chunked)
    connection.getresponse().read()
    connection.request("GET", "/v2/")
    assert b"{}" == connection.getresponse().read()
    connection.close()
    assert [body[: 64 * 1024], b""] == [request.body for request in registry.requests]
    assert 1 == len(registry.connections)


def test_bytes_are_counted_by_path(registry: Registry) -> None:
    """Some of the bytes can be asked for, by method and path."""
    blob = registry.add_blob("x", b"0123456789")
    registry.add_manifest("x", b"{}", media.OCI_MANIFEST, tags=["1"])
    for path in (f"blobs/{blob.digest}", f"blobs/{blob.digest}", "manifests/1"):
        ask(registry, f"/v2/x/{path}")
    assert (20, 2, 22) == (registry.count_bytes(path="/blobs/"), registry.count_bytes("GET", "1$"), registry.bytes_sent)
    assert 0 == registry.count_bytes("HEAD")


def test_connections_are_counted(registry: Registry) -> None:
    """Each has a number, what it carried and whether it is open; the most at once are known, until all is forgotten."""
    blob = registry.add_blob("x", b"0123456789")
    assert ([], 0) == (registry.connections, registry.most_open)
    clients = [http.client.HTTPConnection(registry.host, timeout=HANGS) for _ in range(3)]
    for times, client in enumerate(clients):
        client.connect()
        for _ in range(times):
            client.request("GET", f"/v2/x/blobs/{blob.digest}", headers={"Authorization": f"Basic {times}"})
            client.getresponse().read()
    expected = [(0, True, 0, 0), (1, True, 1, 10), (2, True, 2, 20)]
    assert expected == [(c.number, c.open, c.requests, c.body_bytes_sent) for c in registry.connections]
    assert [(1, 0), (2, 0), (2, 10)] == [(request.connection, request.sent_before) for request in registry.requests]
    assert ["Basic 1", "Basic 2", "Basic 2"] == registry.authorizations
    for client in clients[:2]:
        client.close()
    wait_until(lambda: sum(c.open for c in registry.connections) <= 1)
    ask(registry, "/v2/")
    assert [False, False, True] == [c.open for c in registry.connections][:3]
    assert (4, 3) == (len(registry.connections), registry.most_open)
    registry.reset()
    kept = [c for c in registry.connections if c.number != 3]  # the last one may not be over yet
    assert [(2, True, 0, 0)] == [(c.number, c.open, c.requests, c.body_bytes_sent) for c in kept]
    assert registry.most_open < 3
    assert [] == registry.authorizations
    clients[2].close()


def test_connections_are_seen_at_once(registry: Registry) -> None:
    """Eight answers under way are eight open connections."""
    blob = registry.add_blob("x", b"0123456789")
    go_on = threading.Event()
    registry.fault(Stall(after=5, event=go_on))
    threads = [threading.Thread(target=ask, args=(registry, f"/v2/x/blobs/{blob.digest}")) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: registry.bytes_sent >= 40)
    assert (8, 40) == (sum(c.open for c in registry.connections), registry.bytes_sent)
    go_on.set()
    for thread in threads:
        thread.join()
    assert (8, 80) == (registry.most_open, registry.bytes_sent)


def test_content_may_be_another_registrys(registry: Registry) -> None:
    """A mirror has what its upstream has, also what is added later to either, and is asked for itself."""
    with Registry(content_of=registry) as mirror:
        blobs = [where.add_blob("x", where.host.encode()) for where in (registry, mirror)]
        for where in (registry, mirror):
            assert [200, 200] == [ask(where, f"/v2/x/blobs/{blob.digest}")[0] for blob in blobs]
    assert (2, 2) == (registry.count(), mirror.count())


SBOM, SIGNATURE = "application/spdx+json", "application/vnd.example.signature"


def artifacts(registry: Registry) -> tuple[str, dict[str, dict[str, object]]]:
    """An image with four artifacts, one of them an image in form, and two that do not belong to it; what is listed."""
    image = registry.add_image("x", "1")
    other = registry.add_image("x", "2", layers=[b"other"])
    found = [
        registry.add_artifact("x", "sbom", artifact_type=SBOM, files={"a.json": b"{}"}, subject=image),
        registry.add_artifact("x", artifact_type=SIGNATURE, subject=image, annotations={"by": "ann"}),
        registry.add_artifact("x", artifact_type=SBOM, files={"b.json": b"{}"}, subject=image),
    ]
    registry.add_artifact("x", artifact_type=SBOM, subject=other)
    registry.add_artifact("x", "alone", artifact_type=SBOM)
    fields = {"config": {"mediaType": "application/x.config"}, "subject": image.to_fields()}
    plain = registry.add_manifest("x", fields, media.OCI_MANIFEST)
    listed = {str(descriptor.digest): descriptor.to_fields() for descriptor in found}
    listed[str(plain.digest)] = {**plain.to_fields(), "artifactType": "application/x.config"}
    assert (SBOM, {"by": "ann"}) == (found[0].artifact_type, found[1].annotations)
    return str(image.digest), listed


@pytest.mark.parametrize("page_size", [None, 1])
@pytest.mark.parametrize("kind", ["", SBOM, "application/x.none"])
def test_referrers_are_listed(kind: str, page_size: int | None) -> None:
    """An index lists what has the subject, filtered by type on request, in pages that keep the filter."""
    with Registry(page_size=page_size) as registry:
        subject, listed = artifacts(registry)
        path = f"/v2/x/referrers/{subject}" + (f"?artifactType={quote(kind)}" if kind else "")
        got = []
        while path:
            status, headers, body = ask(registry, path)
            assert (200, media.OCI_INDEX) == (status, headers["Content-Type"])
            assert ("artifactType" if kind else None) == headers["OCI-Filters-Applied"]
            index = json.loads(body)
            assert (2, media.OCI_INDEX) == (index["schemaVersion"], index["mediaType"])
            assert page_size is None or len(index["manifests"]) <= page_size
            got += index["manifests"]
            path = headers.get("Link", "").partition(">")[0].removeprefix("<")
    wanted = [fields for fields in listed.values() if kind in {"", fields["artifactType"]}]
    assert sorted(wanted, key=str) == sorted(got, key=str)


def test_referrers_of_nothing_are_none(registry: Registry) -> None:
    """What is not there, in whatever repository, has an empty list; what is no digest is refused."""
    for name in ("x", "none"):
        registry.add_blob("x", b"")
        status, _, body = ask(registry, f"/v2/{name}/referrers/{UNKNOWN}")
        assert (200, []) == (status, json.loads(body)["manifests"])
    assert 400 == ask(registry, "/v2/x/referrers/latest")[0]


def test_tags_stand_in_for_referrers() -> None:
    """Without the API it answers 404, and the subject's tag has the index that clients write instead."""
    with Registry(referrers=False) as registry:
        subject, listed = artifacts(registry)
        status, _, _ = ask(registry, f"/v2/x/referrers/{subject}")
        assert 404 == status
        status, headers, body = ask(registry, f"/v2/x/manifests/{subject.replace(':', '-')}")
        assert (200, media.OCI_INDEX) == (status, headers["Content-Type"])
        # The last one was put there as a manifest alone, which no client would follow with an index.
        written = list(listed.values())[:3]
        assert sorted(written, key=str) == sorted(json.loads(body)["manifests"], key=str)


def test_an_artifact_is_complete(registry: Registry) -> None:
    """Its files are layers with titles under an empty configuration; without files the empty blob stands for them."""
    registry.add_artifact("x", "1", artifact_type=SBOM, files={"a": b"one", "b": b"two"})
    registry.add_artifact("x", "2", artifact_type=SBOM)
    manifests = [json.loads(ask(registry, f"/v2/x/manifests/{tag}")[2]) for tag in ("1", "2")]
    for manifest in manifests:
        assert (SBOM, media.OCI_EMPTY) == (manifest["artifactType"], manifest["config"]["mediaType"])
        assert b"{}" == ask(registry, f"/v2/x/blobs/{manifest['config']['digest']}")[2]
    layers = manifests[0]["layers"]
    assert ["a", "b"] == [layer["annotations"]["org.opencontainers.image.title"] for layer in layers]
    assert [b"one", b"two"] == [ask(registry, f"/v2/x/blobs/{layer['digest']}")[2] for layer in layers]
    assert [manifests[1]["config"]] == manifests[1]["layers"]


def test_headers_join_and_hide() -> None:
    """Fields of one name are joined in order; names match in any case; credentials are not shown."""
    headers = Headers([("Accept", "a"), ("ACCEPT", "b"), ("authorization", "Bearer hunter2")])
    assert headers["accept"] == "a, b"
    assert list(headers) == ["Accept", "authorization"]
    assert "Authorization" in headers
    assert "hunter2" not in repr(headers)
    assert dict(headers.without("AUTHORIZATION")) == {"Accept": "a, b"}
