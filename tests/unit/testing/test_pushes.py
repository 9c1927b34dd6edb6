"""The in-process registry takes pushes as the specification says, and can misbehave on them."""

from __future__ import annotations

import base64
import http.client
import json
from typing import TYPE_CHECKING

import pytest

from distsdk.spec import media_types as media
from distsdk.spec.digest import Digest
from distsdk.testing import (
    CutUpload,
    NoMount,
    Registry,
    Status,
    UploadLocation,
    WrongUploadRange,
)

from ...support import HANGS

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = bytes(range(256)) * 4000
DIGEST = Digest.of(DATA)
UPLOADS = "/v2/x/blobs/uploads/"


@pytest.fixture
def registry() -> Iterator[Registry]:
    """An open registry."""
    with Registry() as registry:
        yield registry


def ask(
    registry: Registry, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], bytes]:
    """Send one request; return status, header fields and body."""
    connection = http.client.HTTPConnection(registry.host, timeout=HANGS)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def begin(registry: Registry) -> str:
    """Begin an upload; return where it goes on."""
    status, headers, _ = ask(registry, "POST", UPLOADS)
    assert (202, "0-0") == (status, headers["Range"])
    return headers["Location"]


def codes(body: bytes) -> list[str]:
    """The registry's codes in an error."""
    return [error["code"] for error in json.loads(body)["errors"]]


def test_a_blob_is_pushed_at_once(registry: Registry) -> None:
    """POST and PUT; then it is there, and the upload is not."""
    location = begin(registry)
    status, headers, _ = ask(registry, "PUT", f"{location}&digest={DIGEST}", DATA)
    assert (201, str(DIGEST)) == (status, headers["Docker-Content-Digest"])
    assert (200, DATA) == ask(registry, "GET", headers["Location"])[::2]
    assert 404 == ask(registry, "GET", location)[0]
    assert len(DATA) == registry.bytes_received


def test_a_blob_is_pushed_in_chunks(registry: Registry) -> None:
    """PATCH as often as one likes, in order; what is out of order is refused with what is there."""
    location = begin(registry)
    status, headers, _ = ask(registry, "PATCH", location, DATA[:1000], {"Content-Range": "0-999"})
    assert (202, "0-999") == (status, headers["Range"])
    for wrong in ("0-999", "1001-2000", "nonsense"):
        status, headers, _ = ask(registry, "PATCH", location, DATA[:1000], {"Content-Range": wrong})
        assert (416, "0-999") == (status, headers["Range"])
    assert 202 == ask(registry, "PATCH", location, DATA[1000:2000])[0]
    status, headers, _ = ask(registry, "GET", location)
    assert (204, "0-1999") == (status, headers["Range"])
    assert 400 == ask(registry, "PATCH", location, DATA[:10], {"Content-Range": "2000-2010"})[0]
    headers = {"Content-Range": f"2000-{len(DATA) - 1}"}
    assert 201 == ask(registry, "PUT", f"{location}&digest={DIGEST}", DATA[2000:], headers)[0]


@pytest.mark.parametrize("digest", ["", "sha256:00", str(Digest.of(b"other"))])
def test_a_wrong_digest_is_refused(registry: Registry, digest: str) -> None:
    """And the upload is over."""
    location = begin(registry)
    status, _, body = ask(registry, "PUT", f"{location}&digest={digest}", DATA)
    assert (400, ["DIGEST_INVALID"]) == (status, codes(body))
    assert 404 == ask(registry, "GET", location)[0]


def test_an_upload_is_given_up(registry: Registry) -> None:
    """By DELETE."""
    location = begin(registry)
    assert 204 == ask(registry, "DELETE", location)[0]
    status, _, body = ask(registry, "PATCH", location, b"x")
    assert (404, ["BLOB_UPLOAD_UNKNOWN"]) == (status, codes(body))


def test_what_came_before_a_client_hung_up_stays(registry: Registry) -> None:
    """The next request may go on from there."""
    location = begin(registry)
    connection = http.client.HTTPConnection(registry.host, timeout=HANGS)
    connection.putrequest("PATCH", location)
    connection.putheader("Content-Length", str(len(DATA)))
    connection.endheaders(DATA[:5000])
    connection.close()
    while (there := ask(registry, "GET", location)[1]["Range"]) != "0-4999":
        assert there in {"0-0", *(f"0-{n}" for n in range(5000))}
    assert 202 == ask(registry, "PATCH", location, DATA[5000:], {"Content-Range": f"5000-{len(DATA) - 1}"})[0]


def test_short_chunks_are_refused() -> None:
    """All but the last have to be as long as the registry says."""
    with Registry(min_chunk=100) as registry:
        status, headers, _ = ask(registry, "POST", UPLOADS)
        assert (202, "100") == (status, headers["OCI-Chunk-Min-Length"])
        location = headers["Location"]
        assert 202 == ask(registry, "PATCH", location, DATA[:100])[0]
        assert 202 == ask(registry, "PATCH", location, DATA[100:199])[0]
        status, _, body = ask(registry, "PATCH", location, DATA[199:])
        assert (400, ["BLOB_UPLOAD_INVALID"]) == (status, codes(body))
        assert 201 == ask(registry, "PUT", f"{location}&digest={Digest.of(DATA[:199])}", b"")[0]


def test_a_blob_is_mounted(registry: Registry) -> None:
    """From a repository that has it; from another an upload begins."""
    registry.add_blob("y", DATA)
    query = f"?mount={DIGEST}&from="
    assert 201 == ask(registry, "POST", f"{UPLOADS}{query}y")[0]
    assert 200 == ask(registry, "GET", f"/v2/x/blobs/{DIGEST}")[0]
    assert 202 == ask(registry, "POST", f"{UPLOADS}{query}z")[0]
    registry.fault(NoMount())
    assert 202 == ask(registry, "POST", f"{UPLOADS}{query}y")[0]


def test_a_manifest_is_pushed(registry: Registry) -> None:
    """By tag and by digest, if what it refers to is there and it is what it says."""
    config = registry.add_blob("x", b"{}")
    fields = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": config.to_fields(), "layers": []}
    raw = json.dumps({**fields, "subject": config.to_fields()}).encode()
    kind = {"Content-Type": media.OCI_MANIFEST}
    status, headers, _ = ask(registry, "PUT", "/v2/x/manifests/1", raw, kind)
    assert (201, str(config.digest)) == (status, headers["OCI-Subject"])
    assert raw == ask(registry, "GET", f"/v2/x/manifests/{Digest.of(raw)}")[2]
    assert 201 == ask(registry, "PUT", f"/v2/x/manifests/{Digest.of(raw)}", raw, kind)[0]
    for path, sent, headers, code in (
        (f"/v2/x/manifests/{DIGEST}", raw, kind, "DIGEST_INVALID"),
        ("/v2/x/manifests/-", raw, kind, "TAG_INVALID"),
        ("/v2/x/manifests/1", b"{", kind, "MANIFEST_INVALID"),
        ("/v2/x/manifests/1", raw, {"Content-Type": media.OCI_INDEX}, "MANIFEST_INVALID"),
        ("/v2/y/manifests/1", raw, kind, "MANIFEST_BLOB_UNKNOWN"),
    ):
        status, _, body = ask(registry, "PUT", path, sent, headers)
        assert (400, [code]) == (status, codes(body))


@pytest.mark.parametrize("media_type", sorted(media.FOREIGN_LAYERS))
def test_non_distributable_layers_need_not_be_there(registry: Registry, media_type: str) -> None:
    """A manifest is taken without its non-distributable layers; any other layer has to be in the repository."""
    config = registry.add_blob("x", b"{}").to_fields()
    layer = {"mediaType": media_type, "digest": str(DIGEST), "size": len(DATA)}
    manifest = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": config, "layers": [layer]}
    kind = {"Content-Type": media.OCI_MANIFEST}
    assert 201 == ask(registry, "PUT", "/v2/x/manifests/1", json.dumps(manifest).encode(), kind)[0]
    layer["mediaType"] = media.OCI_LAYER
    status, _, body = ask(registry, "PUT", "/v2/x/manifests/1", json.dumps(manifest).encode(), kind)
    assert (400, ["MANIFEST_BLOB_UNKNOWN"]) == (status, codes(body))


def test_conditions_are_heeded_where_they_are() -> None:
    """``If-Match`` and ``If-None-Match``, for registries that are told to."""
    raw = json.dumps({"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": []}).encode()
    for heeds in (False, True):
        with Registry(if_match=heeds) as registry:
            kind = {"Content-Type": media.OCI_INDEX}
            path = "/v2/x/manifests/1"
            assert 201 == ask(registry, "PUT", path, raw, {**kind, "If-None-Match": "*"})[0]
            refused = 412 if heeds else 201
            assert refused == ask(registry, "PUT", path, raw, {**kind, "If-None-Match": "*"})[0]
            assert refused == ask(registry, "PUT", path, raw, {**kind, "If-Match": '"other"'})[0]
            etag = ask(registry, "GET", path)[1]["ETag"]
            assert 201 == ask(registry, "PUT", path, raw, {**kind, "If-Match": etag})[0]


def test_what_is_there_is_deleted(registry: Registry) -> None:
    """A tag alone, a manifest with its tags, a blob."""
    image = registry.add_image("x", "1", layers=[DATA])
    assert 202 == ask(registry, "DELETE", "/v2/x/manifests/1")[0]
    assert 404 == ask(registry, "GET", "/v2/x/manifests/1")[0]
    assert 200 == ask(registry, "GET", f"/v2/x/manifests/{image.digest}")[0]
    registry.add_image("x", "2", layers=[DATA])
    assert 202 == ask(registry, "DELETE", f"/v2/x/manifests/{image.digest}")[0]
    assert 404 == ask(registry, "GET", "/v2/x/manifests/2")[0]
    assert 202 == ask(registry, "DELETE", f"/v2/x/blobs/{DIGEST}")[0]
    assert 404 == ask(registry, "GET", f"/v2/x/blobs/{DIGEST}")[0]


def test_a_registry_may_be_read_only() -> None:
    """All that writes is refused then."""
    with Registry(read_only=True) as registry:
        for method, path in (("POST", UPLOADS), ("PUT", "/v2/x/manifests/1"), ("DELETE", "/v2/x/manifests/1")):
            status, _, body = ask(registry, method, path, b"")
            assert (405, ["UNSUPPORTED"]) == (status, codes(body))


def test_writing_takes_a_login_where_there_are_some() -> None:
    """Also in repositories that anyone may read; tokens are good for what they were granted for."""
    with Registry(auth="basic", logins={"ann": "pw"}, private="^private/") as registry:
        login = {"Authorization": "Basic " + base64.b64encode(b"ann:pw").decode()}
        assert [401, 202] == [ask(registry, "POST", UPLOADS, headers=headers)[0] for headers in ({}, login)]
    with Registry(auth="bearer", logins={"ann": "pw"}, private="^private/") as registry:
        for headers, expected in (({}, 401), (login, 202)):
            path = "/token?service=distsdk.testing&scope=repository:x:pull,push"
            token = json.loads(ask(registry, "GET", path, headers=headers)[2])["token"]
            status, fields, _ = ask(registry, "POST", UPLOADS, headers={"Authorization": f"Bearer {token}"})
            assert expected == status
            assert status == 202 or 'scope="repository:x:pull,push"' in fields["WWW-Authenticate"]


# Faults


@pytest.mark.parametrize("reset", [False, True])
def test_an_upload_is_cut(registry: Registry, reset: bool) -> None:
    """In the middle of its body, whose first bytes are there; shorter ones pass."""
    location = begin(registry)
    registry.fault(CutUpload(1000, reset), times=1)
    assert 202 == ask(registry, "PATCH", location, DATA[:1000])[0]
    with pytest.raises(ConnectionError):
        ask(registry, "PATCH", location, DATA[1000:])
    assert "0-1999" == ask(registry, "GET", location)[1]["Range"]
    assert registry.requests[2].status == 0
    assert 201 == ask(registry, "PUT", f"{location}&digest={DIGEST}", DATA[2000:])[0]


@pytest.mark.parametrize(
    ("value", "expected"),
    [("https://a.example{path}&x=1", "https://a.example/v2/x/blobs/uploads/{id}&x=1"), ("{id}", "{id}"), ("", "")],
)
def test_an_upload_goes_on_elsewhere(registry: Registry, value: str, expected: str) -> None:
    """As the fault says; nothing else is changed."""
    registry.fault(UploadLocation(value))
    location = ask(registry, "POST", UPLOADS)[1]["Location"]
    key = location.rpartition("/")[2].partition("&")[0]
    assert expected.replace("{id}", key) == location
    registry.add_blob("y", DATA)
    assert "/blobs/sha256:" in ask(registry, "POST", f"{UPLOADS}?mount={DIGEST}&from=y")[1]["Location"]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (WrongUploadRange(1), "0-1000"),
        (WrongUploadRange(-5000), "0-0"),
        (WrongUploadRange(value="x"), "x"),
        (WrongUploadRange(value=None), None),
    ],
)
def test_the_range_is_wrong(registry: Registry, fault: WrongUploadRange, expected: str | None) -> None:
    """It says more, less, nonsense, or nothing."""
    location = begin(registry)
    registry.fault(fault)
    assert expected == ask(registry, "PATCH", location, DATA[:1000])[1].get("Range")


def test_other_faults_act_on_pushes_too(registry: Registry) -> None:
    """A 404 is a lost upload, a 429 a busy registry; the body is passed over, and the connection stays usable."""
    location = begin(registry)
    registry.fault(Status.error(429, "TOOMANYREQUESTS", headers={"Retry-After": "1"}), method="PATCH", times=1)
    connection = http.client.HTTPConnection(registry.host, timeout=HANGS)
    statuses = []
    for _ in range(2):
        connection.request("PATCH", location, DATA)
        answer = connection.getresponse()
        answer.read()
        statuses.append(answer.status)
    connection.close()
    assert [429, 202] == statuses
