"""What the registry remote does when it pushes, beyond the contract: what is sent where, and what goes wrong then."""

from __future__ import annotations

import io
import json
import os
import random
import threading
from typing import TYPE_CHECKING, Any, Literal

import pytest
from attrs import field, frozen

import distsdk
from distsdk import Remote
from distsdk.content.blob import Blob
from distsdk.errors import (
    Denied,
    DigestMismatch,
    DistError,
    IntegrityError,
    InvalidConfig,
    InvalidReference,
    LimitExceeded,
    NotFound,
    RateLimited,
    RegistryError,
    SizeMismatch,
    Unreachable,
    Unsafe,
)
from distsdk.remotes.upload import CHUNK, MAX_CHUNK
from distsdk.spec import media_types as media
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.spec.reference import Locator
from distsdk.testing import (
    Authority,
    Cut,
    CutUpload,
    Fault,
    Header,
    NoMount,
    Redirect,
    Registry,
    Request,
    Response,
    Stall,
    Status,
    UploadLocation,
    WrongDigestHeader,
    WrongUploadRange,
)
from distsdk.transport.retry import Retry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from distsdk.content.protocols import UploadSource

REPOSITORY = "library/x"
LARGE = random.Random(3).randbytes(20_000_003)  # two chunks, and a part of one
SMALL = LARGE[:300_001]
UPLOADS = "/blobs/uploads/"
MIB = 1024 * 1024


def described(raw: bytes) -> Descriptor:
    """What refers to these bytes."""
    return Descriptor(media.OCI_LAYER, Digest.of(raw), len(raw))


@pytest.fixture
def registry() -> Iterator[Registry]:
    """An open registry, with nothing in it."""
    with Registry() as registry:
        yield registry


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Nobody waits before trying again; how long they would have is here."""
    waited: list[float] = []
    monkeypatch.setattr("distsdk.transport.retry.sleep", waited.append)
    return waited


def connected(registry: Registry, repository: str = REPOSITORY, **settings: Any) -> Remote:  # noqa: ANN401 - as connect takes them
    """The remote for a repository."""
    remote = distsdk.connect(registry.locator(repository), **settings)
    return remote


def asked(registry: Registry) -> list[str]:
    """What was asked: methods, and the statuses they were answered with."""
    return [f"{request.method} {request.status}" for request in registry.requests]


def pieces(raw: bytes, size: int = 1_000_001) -> Iterator[bytes]:
    """The bytes, once."""
    return (raw[start : start + size] for start in range(0, len(raw), size))


def sources(raw: bytes, folder: Path) -> dict[str, Callable[[], UploadSource]]:
    """What can be pushed, by name; each makes a new one."""
    path = folder / "data"
    path.write_bytes(raw)
    return {
        "bytes": lambda: raw,
        "path": lambda: path,
        "file": lambda: io.BytesIO(raw),
        "pieces": lambda: pieces(raw),
        "blob": lambda: Blob.from_bytes(raw),
    }


FORMS = ["bytes", "path", "file", "pieces", "blob"]


# How many requests


def test_a_known_blob_takes_three_requests(registry: Registry) -> None:
    """It is asked for, an upload begins, and all goes at once."""
    connected(registry).push_blob(io.BytesIO(LARGE), descriptor=described(LARGE))
    assert ["HEAD 404", "POST 202", "PUT 201"] == asked(registry)
    assert len(LARGE) == registry.bytes_received


def test_what_is_there_costs_one_request(registry: Registry) -> None:
    """And no byte."""
    registry.add_blob(REPOSITORY, LARGE)
    connected(registry).push_blob(LARGE, descriptor=described(LARGE))
    connected(registry).push_blob(Blob.from_bytes(LARGE))
    assert ["HEAD 200", "HEAD 200"] == asked(registry)
    assert 0 == registry.bytes_received


def test_a_small_blob_is_asked_for_whatever_it_comes_from(registry: Registry, tmp_path: Path) -> None:
    """It is read before anything is sent, so that its name is known."""
    registry.add_blob(REPOSITORY, SMALL)
    for source in sources(SMALL, tmp_path).values():
        connected(registry).push_blob(source())
    assert ["HEAD 200"] * len(FORMS) == asked(registry)


@pytest.mark.parametrize("form", ["path", "file"])
def test_a_large_file_is_read_once(registry: Registry, tmp_path: Path, form: str) -> None:
    """Its digest is taken while it is sent, and told at the end."""
    connected(registry).push_blob(sources(LARGE, tmp_path)[form]())
    assert ["POST 202", "PATCH 202", "PUT 201"] == asked(registry)
    assert len(LARGE) == registry.bytes_received


def test_what_can_be_read_once_goes_in_chunks(registry: Registry) -> None:
    """All but the last are as long as what is kept for a second try."""
    connected(registry).push_blob(pieces(LARGE))
    received = [request.body_bytes_received for request in registry.requests]
    assert [0, CHUNK, CHUNK, len(LARGE) - 2 * CHUNK] == received
    assert ["POST 202", "PATCH 202", "PATCH 202", "PUT 201"] == asked(registry)


@pytest.mark.slow
def test_whole_chunks_end_with_an_empty_one(registry: Registry) -> None:
    """Where the bytes end with a chunk, nobody knew that it was the last."""
    raw = LARGE[: 2 * CHUNK]
    remote = connected(registry)
    assert raw == remote.fetch(remote.push_blob(pieces(raw))).read()
    assert ["POST 202", "PATCH 202", "PATCH 202", "PUT 201"] == asked(registry)[:4]
    registry.reset()
    remote.push_blob(pieces(LARGE[1 : 1 + CHUNK]), descriptor=described(LARGE[1 : 1 + CHUNK]))
    assert ["HEAD 404", "POST 202", "PUT 201"] == asked(registry)  # here somebody did


# Cuts


@pytest.mark.slow
@pytest.mark.parametrize("reset", [False, True])
@pytest.mark.parametrize("known", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_an_upload_that_is_cut_three_times_goes_on(
    registry: Registry, tmp_path: Path, form: str, known: bool, reset: bool
) -> None:
    """Each time from where the registry is: what it took is not sent again, by its own count."""
    cuts = Cuts(3, 2 * MIB, reset=reset)
    registry.fault(cuts, path=UPLOADS)
    remote = connected(registry)
    source = sources(LARGE, tmp_path)[form]()
    pushed = remote.push_blob(source, descriptor=described(LARGE) if known else None)
    assert (Digest.of(LARGE), len(LARGE)) == (pushed.digest, pushed.size)
    assert LARGE == remote.fetch(pushed.digest).read()
    assert [2 * MIB] * 3 == cuts.kept
    # Of each cut request the server has read up to a MiB more than it took.
    assert len(LARGE) <= registry.bytes_received <= len(LARGE) + 3 * MIB
    assert 1 == registry.count("POST")
    assert 3 == registry.count("GET", UPLOADS)


@frozen(eq=False)
class Cuts:
    """Cut so many uploads after so many bytes."""

    left: int
    after: int
    reset: bool = False
    kept: list[int] = field(factory=list)

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Cut it, if there is one to be cut."""
        length = int(request.headers.get("Content-Length", "0"))
        if len(self.kept) == self.left or length <= self.after:
            return respond(request)
        self.kept.append(self.after)
        return CutUpload(self.after, self.reset).answer(request, respond)


@pytest.mark.parametrize("form", FORMS)
def test_an_answer_that_is_lost_costs_one_question(registry: Registry, tmp_path: Path, form: str) -> None:
    """The registry has the blob, and only its answer did not come: nothing is sent again."""
    registry.fault(Cut(None), method="PUT", times=1)
    remote = connected(registry)
    pushed = remote.push_blob(sources(SMALL, tmp_path)[form]())
    assert SMALL == remote.fetch(pushed.digest).read()
    assert 1 == registry.count("PUT")
    assert len(SMALL) == registry.bytes_received


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
def test_a_stalled_upload_goes_on(registry: Registry, tmp_path: Path, form: str) -> None:
    """No answer in time is as good as a cut."""
    registry.fault(Stall(None), method="PUT", times=1)
    remote = connected(registry, timeouts=distsdk.Timeouts(read=0.5))
    pushed = remote.push_blob(sources(SMALL, tmp_path)[form]())
    assert SMALL == remote.fetch(pushed.digest).read()


@pytest.mark.parametrize("form", FORMS)
def test_there_is_an_end_to_it(registry: Registry, tmp_path: Path, form: str) -> None:
    """A registry that takes nothing is left after as many attempts as there are."""
    registry.fault(CutUpload(0), path=UPLOADS)
    with pytest.raises((Unreachable, IntegrityError)):
        connected(registry, retry=Retry(attempts=3)).push_blob(sources(SMALL, tmp_path)[form]())
    assert registry.count("PUT") <= 4
    assert registry.count() <= 16


@pytest.mark.slow
@pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
@pytest.mark.parametrize("form", FORMS)
def test_a_registry_that_is_busy_is_waited_for(
    registry: Registry, tmp_path: Path, pauses: list[float], form: str, method: str
) -> None:
    """As long as it says, at each step of an upload; and then it goes on."""
    registry.fault(Status.error(429, "TOOMANYREQUESTS", headers={"Retry-After": "7"}), method=method, times=1)
    registry.fault(Status.error(503, "UNAVAILABLE"), method=method, times=1)
    remote = connected(registry)
    pushed = remote.push_blob(sources(LARGE, tmp_path)[form]())
    assert LARGE == remote.fetch(pushed.digest).read()
    if registry.count(method):
        assert 7 in pauses


def test_a_registry_that_stays_busy_is_left(registry: Registry) -> None:
    """With its own error."""
    registry.fault(Status.error(429, "TOOMANYREQUESTS"), path=UPLOADS)
    with pytest.raises(RateLimited):
        connected(registry).push_blob(SMALL)
    assert 5 == registry.count("POST")


@pytest.mark.parametrize(
    ("method", "form"),
    [("POST", "bytes"), ("PUT", "bytes"), ("POST", "pieces"), ("PATCH", "pieces"), ("PUT", "pieces")],
)
@pytest.mark.parametrize(("status", "error"), [(429, RateLimited), (503, RegistryError)])
def test_upload_refuses_a_wait_of_years(
    registry: Registry,
    tmp_path: Path,
    pauses: list[float],
    method: str,
    form: str,
    status: int,
    error: type[DistError],
) -> None:
    """A write waits by the rule of reads: a wait beyond `Retry.max_wait` fails at once, with its length for people."""
    registry.fault(Status(status, headers={"Retry-After": "99999999"}), method=method)
    with pytest.raises(error, match="try again in 1,158 days"):
        connected(registry).push_blob(sources(LARGE, tmp_path)[form]())
    assert [] == pauses
    assert 1 == sum(request.method == method for request in registry.requests)


def test_waits_of_one_upload_add_up(registry: Registry, tmp_path: Path, pauses: list[float]) -> None:
    """The POST, the PATCH and the request for the state of an upload share one limit."""
    for method in ("POST", "PATCH", "GET"):
        registry.fault(Status(503, headers={"Retry-After": "25"}), method=method, times=1)
    with pytest.raises(RegistryError, match="try again in 25 seconds"):
        connected(registry).push_blob(sources(LARGE, tmp_path)["pieces"]())
    assert [25, 25] == pauses


@pytest.mark.parametrize("status", [400, 403, 413, 500])
def test_a_refusal_is_final(registry: Registry, status: int) -> None:
    """It is not tried again, and said with the registry's words."""
    registry.fault(Status.error(status, "QUOTA", "there is no room left"), method="PUT")
    with pytest.raises((RegistryError, Denied), match="there is no room left"):
        connected(registry).push_blob(SMALL)
    assert 1 == registry.count("PUT")


# What the registry says of the upload


@pytest.mark.parametrize("form", ["bytes", "path", "file", "blob"])
def test_a_lost_upload_starts_over(registry: Registry, tmp_path: Path, form: str) -> None:
    """What can be read again is sent again, from the first byte, to a new place."""
    registry.fault(CutUpload(3 * MIB), path=UPLOADS, times=1)
    registry.fault(Status.error(404, "BLOB_UPLOAD_UNKNOWN"), path=UPLOADS, method="GET", times=1)
    registry.fault(Status.error(404, "BLOB_UPLOAD_UNKNOWN"), path=UPLOADS, method="PATCH", times=1)
    remote = connected(registry)
    pushed = remote.push_blob(sources(LARGE, tmp_path)[form]())
    assert LARGE == remote.fetch(pushed.digest).read()
    assert registry.count("POST") in {2, 3}


def test_a_lost_upload_of_what_cannot_be_read_again_is_an_error(registry: Registry) -> None:
    """The first chunk is still there to start over with; later ones are not."""
    remote = connected(registry)
    registry.fault(Status.error(404, "BLOB_UPLOAD_UNKNOWN"), path=UPLOADS, method="PATCH", times=1)
    assert LARGE == remote.fetch(remote.push_blob(pieces(LARGE))).read()
    registry.clear_faults()
    registry.fault(Status.error(404, "BLOB_UPLOAD_UNKNOWN"), path=UPLOADS, method="PUT", times=1)
    with pytest.raises(Unreachable, match="push it from a file"):
        remote.push_blob(pieces(LARGE[1:]))


def test_uploads_that_are_lost_again_and_again_are_given_up(registry: Registry) -> None:
    """As often as there are attempts."""
    registry.fault(Status.error(404, "BLOB_UPLOAD_UNKNOWN"), path=UPLOADS, method="PUT")
    with pytest.raises(NotFound):
        connected(registry, retry=Retry(attempts=3)).push_blob(SMALL)
    assert 3 == registry.count("POST")


@pytest.mark.parametrize("form", FORMS)
def test_a_refused_range_is_asked_about(registry: Registry, tmp_path: Path, form: str) -> None:
    """416 without a word is followed by a question, and the chunk is sent once more."""
    registry.fault(CutUpload(3 * MIB), path=UPLOADS, times=1)
    registry.fault(Status(416), path=UPLOADS, method="PATCH", times=1)
    remote = connected(registry)
    pushed = remote.push_blob(sources(LARGE, tmp_path)[form]())
    assert LARGE == remote.fetch(pushed.digest).read()


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("by", [-1, -100_000])
def test_a_registry_that_has_less_gets_the_rest(registry: Registry, tmp_path: Path, form: str, by: int) -> None:
    """Where ``Range`` says less than is there, the registry refuses what it has, and says where it is."""
    registry.fault(WrongUploadRange(by), method="PATCH", times=1)
    remote = connected(registry)
    pushed = remote.push_blob(sources(LARGE, tmp_path)[form]())
    assert LARGE == remote.fetch(pushed.digest).read()


@pytest.mark.parametrize("fault", [WrongUploadRange(1), WrongUploadRange(10**9), WrongUploadRange(value="0-x")])
@pytest.mark.parametrize("form", ["path", "pieces"])
def test_a_registry_that_cannot_have_that_much_is_left(
    registry: Registry, tmp_path: Path, form: str, fault: WrongUploadRange
) -> None:
    """Bytes that were not sent are not there: nothing is completed, and the upload is given up."""
    registry.fault(fault, method="PATCH")
    with pytest.raises(IntegrityError, match=r"Range|bytes"):
        connected(registry).push_blob(sources(LARGE, tmp_path)[form]())
    assert 0 == registry.count("PUT")
    assert "DELETE 204" == asked(registry)[-1]


@pytest.mark.parametrize("form", ["path", "pieces"])
def test_a_registry_that_stands_still_is_left(registry: Registry, tmp_path: Path, form: str) -> None:
    """Where ``Range`` never grows, it is not tried without end."""
    registry.fault(WrongUploadRange(value="0-4"), path=UPLOADS)
    with pytest.raises(IntegrityError, match="stays at byte"):
        connected(registry).push_blob(sources(LARGE, tmp_path)[form]())
    assert registry.count() < 40


def test_no_range_is_taken_for_all(registry: Registry) -> None:
    """A 202 that says nothing of what is there has taken what was sent; after a cut it has to say."""
    remote = connected(registry)
    registry.fault(WrongUploadRange(value=None), path=UPLOADS)
    assert LARGE == remote.fetch(remote.push_blob(pieces(LARGE))).read()
    raw = LARGE[2:]
    registry.fault(CutUpload(MIB), path=UPLOADS, times=1)
    assert raw == remote.fetch(remote.push_blob(io.BytesIO(raw))).read()
    assert 3 == registry.count("POST")  # it did not say, so it started over


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_registry_that_says_it_has_something_else_is_believed(registry: Registry, method: str) -> None:
    """A digest of the same algorithm that is another one is a mismatch, at the end of an upload and of a mount."""
    registry.add_blob("library/other", SMALL)
    registry.fault(WrongDigestHeader(), method=method)
    mount = Locator.parse(registry.locator("library/other")) if method == "POST" else None
    with pytest.raises(DigestMismatch) as caught:
        connected(registry).push_blob(SMALL, descriptor=described(SMALL), mount_from=mount)
    assert (str(Digest.of(SMALL)), "sha256:" + "0" * 64) == (caught.value.expected, caught.value.got)


def test_the_place_of_the_blob_is_held_against_it(registry: Registry) -> None:
    """A ``Location`` that ends in another digest is a mismatch; one that ends in anything else says nothing."""
    registry.fault(Header("Location", f"/v2/x/blobs/{Digest.of(b'other')}"), method="PUT", times=1)
    with pytest.raises(DigestMismatch):
        connected(registry).push_blob(SMALL)
    registry.fault(Header("Location", "https://cdn.example/somewhere?else"), method="PUT", times=1)
    registry.fault(WrongDigestHeader(f"{Digest.of(b'x', 'sha512')}"), method="PUT", times=1)
    connected(registry).push_blob(SMALL[1:])


def test_a_put_that_is_merely_accepted_has_to_show_it(registry: Registry) -> None:
    """Any success but 201 counts if the blob is there."""
    remote = connected(registry)
    registry.fault(Status(202), method="PUT", times=1)
    with pytest.raises(RegistryError, match="202"):
        remote.push_blob(SMALL)
    registry.fault(Status(200), method="POST", times=1)
    with pytest.raises(RegistryError, match="200"):
        remote.push_blob(SMALL)


# Chunks as the registry wants them


@pytest.mark.slow
def test_chunks_are_as_long_as_the_registry_wants_them() -> None:
    """``OCI-Chunk-Min-Length`` holds for all chunks but the last, also after a cut."""
    with Registry(min_chunk=CHUNK + 5) as registry:
        remote = connected(registry)
        registry.fault(CutUpload(CHUNK), path=UPLOADS, times=1)
        pushed = remote.push_blob(pieces(LARGE))
        assert LARGE == remote.fetch(pushed.digest).read()
        raw = LARGE[5:]
        registry.fault(CutUpload(len(raw) - 10), path=UPLOADS, times=1)
        assert raw == remote.fetch(remote.push_blob(io.BytesIO(raw))).read()


def test_what_is_shorter_than_any_chunk_goes_at_once() -> None:
    """A file is read for its digest first, and sent under it."""
    with Registry(min_chunk=len(LARGE) + 1) as registry:
        remote = connected(registry)
        pushed = remote.push_blob(io.BytesIO(LARGE))
        assert ["POST 202", "PUT 201"] == asked(registry)
        assert LARGE == remote.fetch(pushed.digest).read()


def test_chunks_that_are_too_long_to_be_kept_are_refused() -> None:
    """Of what cannot be read again: the message says what to do."""
    with Registry(min_chunk=MAX_CHUNK + 1) as registry:
        with pytest.raises(LimitExceeded, match="write it to a file first"):
            connected(registry).push_blob(pieces(LARGE))
        connected(registry).push_blob(io.BytesIO(LARGE))


# Where an upload goes on


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> distsdk.Credentials:
    """A login that belongs to the registry."""
    return distsdk.Credentials(username="ann", password="hunter2-secret")


@pytest.mark.slow
@pytest.mark.parametrize("auth", ["basic", "bearer"])
@pytest.mark.parametrize("form", FORMS)
def test_an_upload_may_go_on_elsewhere_without_the_login(
    tmp_path: Path, secret: distsdk.Credentials, auth: Literal["basic", "bearer"], form: str
) -> None:
    """The bytes go where ``Location`` says, query and all; login, tokens and the endpoint's headers stay at home."""
    with Registry(auth=auth, logins={"ann": "hunter2-secret"}) as registry, Registry(content_of=registry) as storage:
        registry.fault(UploadLocation(storage.url + "{path}&signature=s3cr3t"), path=UPLOADS)
        storage.fault(UploadLocation("{path}&signature=s3cr3t"), path=UPLOADS)
        storage.fault(CutUpload(MIB), path=UPLOADS, times=1)
        hosts = hosts_with(tmp_path, registry, f'[host."{registry.url}".header]\nx-token = "hunter2-header"\n')
        remote = connected(registry, credentials=secret, hosts=hosts)
        pushed = remote.push_blob(sources(LARGE, tmp_path)[form]())
        assert LARGE == remote.fetch(pushed.digest).read()
        assert [] == storage.authorizations
        assert all("x-token" not in request.headers for request in storage.requests)
        assert {"hunter2-header"} == {
            request.headers["x-token"] for request in registry.requests if "/v2/" in request.path
        }
        assert all(request.query.startswith("_state=") for request in storage.requests)
        assert all("signature=s3cr3t" in request.query for request in storage.requests)
        assert registry.authorizations
        assert storage.bytes_received >= len(LARGE)
        assert registry.bytes_received < 1000


def test_a_storage_that_asks_for_a_login_gets_none(secret: distsdk.Credentials) -> None:
    """A 401 from where an upload goes on is not met with the registry's login, whatever it names as its realm."""
    with Registry(auth="basic", logins={"ann": "hunter2-secret"}) as registry, Registry(content_of=registry) as storage:
        registry.fault(UploadLocation(storage.url + "{path}"), path=UPLOADS)
        storage.fault(Status(401, headers={"WWW-Authenticate": f'Bearer realm="{storage.url}/token"'}))
        storage.fault(Status(401, headers={"WWW-Authenticate": 'Basic realm="x"'}))
        with pytest.raises(Denied):
            connected(registry, credentials=secret).push_blob(SMALL)
        assert [] == storage.authorizations
        assert ["PUT 401"] == asked(storage)


@pytest.mark.parametrize("location", ["{id}", "../uploads/{id}", "{path}", "//{host}{path}", "HTTP://{host}{path}"])
def test_a_relative_location_is_one_of_the_registry(registry: Registry, location: str) -> None:
    """It is relative to what was asked (RFC 3986), and at home."""
    registry.fault(UploadLocation(location.replace("{host}", registry.host)), path=UPLOADS)
    remote = connected(registry)
    assert LARGE == remote.fetch(remote.push_blob(pieces(LARGE))).read()


@pytest.mark.parametrize(
    "location",
    [
        "http://ann:hunter2@{host}{path}",
        "ftp://{host}{path}",
        "file:///etc/passwd",
        "http://{host}:99999/",
        "",
        "/v2/library/other/blobs/uploads/{id}",
        "/v2/library/x/../other/blobs/uploads/{id}",
        "/v2/library/x/%2e%2e/other/blobs/uploads/{id}",
        "/v2/_catalog?{id}",
    ],
)
def test_an_upload_does_not_go_on_just_anywhere(registry: Registry, location: str) -> None:
    """Not with a login in the URL, not where no HTTP is, not in another repository: no byte is sent."""
    registry.fault(UploadLocation(location.replace("{host}", registry.host)), path=UPLOADS)
    with pytest.raises(Unsafe) as caught:
        connected(registry).push_blob(SMALL)
    assert ["HEAD 404", "POST 202"] == asked(registry)
    assert "hunter2" not in str(caught.value)


def test_an_upload_does_not_go_on_without_tls(tmp_path: Path) -> None:
    """From https to http nothing is followed."""
    authority = Authority(tmp_path)
    with Registry(ssl_context=authority.server_context()) as registry, Registry(content_of=registry) as plain:
        registry.fault(UploadLocation(f"http://{plain.host}{{path}}"), path=UPLOADS)
        hosts = hosts_with(tmp_path, registry, f'ca = "{authority.file}"\n')
        with pytest.raises(Unsafe, match="from https to http"):
            connected(registry, hosts=hosts).push_blob(SMALL)
        assert [] == plain.requests


@pytest.mark.parametrize(("code", "ok"), [(307, True), (308, True), (301, False), (302, False), (303, False)])
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_a_redirect_keeps_the_method_or_is_not_followed(
    registry: Registry, secret: distsdk.Credentials, method: str, code: int, ok: bool
) -> None:
    """With method and body where the status says so (RFC 9110), with the login nowhere but at home."""
    with Registry(content_of=registry) as other:
        registry.fault(Redirect(other.url + "{path}", code), path=UPLOADS, method=method, times=1)
        remote = connected(registry, credentials=secret)
        if ok:
            assert SMALL == remote.fetch(remote.push_blob(SMALL)).read()
        else:
            with pytest.raises(RegistryError, match=f"redirect {code}"):
                remote.push_blob(SMALL)
        assert [] == other.authorizations
        assert ok == bool(other.requests)


# Mounts


def test_a_blob_of_a_neighbour_is_mounted(registry: Registry) -> None:
    """No byte is read or sent."""
    registry.add_blob("library/other", LARGE)
    remote = connected(registry)
    counts: list[int] = []
    other = Locator.parse(registry.locator("library/other"))
    remote.push_blob(
        map(pytest.fail, ["it is read"]), descriptor=described(LARGE), mount_from=other, on_progress=counts.append
    )
    assert ["HEAD 404", "POST 201"] == asked(registry)
    assert [len(LARGE)] == counts
    assert LARGE == remote.fetch(Digest.of(LARGE)).read()


@pytest.mark.parametrize(
    "fault", [NoMount(), Status.error(404, "NAME_UNKNOWN"), Status.error(403, "DENIED"), Status(500)]
)
def test_a_blob_that_is_not_mounted_is_sent(registry: Registry, fault: Fault) -> None:
    """Where the registry begins an upload instead, that is gone on with; where it refuses, another is begun."""
    registry.add_blob("library/other", SMALL)
    registry.fault(fault, method="POST", times=1)
    remote = connected(registry)
    remote.push_blob(SMALL, descriptor=described(SMALL), mount_from=Locator.parse(registry.locator("library/other")))
    assert SMALL == remote.fetch(Digest.of(SMALL)).read()
    assert (1 if isinstance(fault, NoMount) else 2) == registry.count("POST")
    assert len(SMALL) == registry.bytes_received


def test_a_mount_asks_for_a_token_that_is_good_for_both(secret: distsdk.Credentials) -> None:
    """To push to one repository, and to pull from the other."""
    with Registry(auth="bearer", logins={"ann": "hunter2-secret"}) as registry:
        registry.add_blob("library/other", LARGE)
        other = Locator.parse(registry.locator("library/other"))
        connected(registry, credentials=secret).push_blob(LARGE, descriptor=described(LARGE), mount_from=other)
        assert 0 == registry.bytes_received
        assert "POST 201" == asked(registry)[-1]


def test_only_a_neighbour_is_asked_for(registry: Registry) -> None:
    """A repository of another host, or the repository itself, is not mounted from."""
    for other in ("elsewhere.example/library/other", registry.locator(REPOSITORY)):
        raw = other.encode()
        connected(registry).push_blob(raw, descriptor=described(raw), mount_from=Locator.parse(other))
    assert all(not request.query.startswith("mount") for request in registry.requests)


# Logins and endpoints


@pytest.mark.parametrize("form", FORMS)
def test_tokens_that_end_in_the_middle_are_renewed(tmp_path: Path, secret: distsdk.Credentials, form: str) -> None:
    """Each request of an upload may find its token worthless."""
    with Registry(auth="bearer", logins={"ann": "hunter2-secret"}) as registry:
        remote = connected(registry, credentials=secret)
        registry.fault(CutUpload(MIB), path=UPLOADS, times=1)
        pushed = remote.push_blob(sources(LARGE, tmp_path)[form](), on_progress=lambda _: registry.expire_tokens())
        assert LARGE == remote.fetch(pushed.digest).read()


def test_who_may_not_push_is_denied() -> None:
    """Without a login, where pushing takes one; nothing is sent."""
    auths: list[Literal["basic", "bearer"]] = ["basic", "bearer"]
    for auth in auths:
        with Registry(auth=auth, logins={"ann": "hunter2-secret"}, private="nothing") as registry:
            with pytest.raises(Denied):
                connected(registry, credentials=distsdk.Credentials.anonymous()).push_blob(SMALL)
            with pytest.raises(Denied):
                connected(registry, credentials=distsdk.Credentials.anonymous()).push_document(
                    b'{"schemaVersion":2,"manifests":[]}', media.OCI_INDEX
                )
            assert {401} == {request.status for request in registry.requests if request.method in {"POST", "PUT"}}


def hosts_with(folder: Path, registry: Registry, text: str) -> distsdk.Hosts:
    """The configuration of the registry's host."""
    place = folder / "certs.d" / registry.host
    place.mkdir(parents=True)
    (place / "hosts.toml").write_text(f'server = "{registry.url}"\n{text}')
    return distsdk.Hosts(hosts_dir=folder / "certs.d")


def test_a_mirror_that_takes_no_pushes_is_not_asked(tmp_path: Path, registry: Registry) -> None:
    """Neither what is pushed nor the questions around it go there, nor what is read back of a list of referrers."""
    with Registry() as mirror:
        hosts = hosts_with(
            tmp_path, registry, f'[host."{mirror.url}"]\ncapabilities = ["pull", "resolve", "referrers"]\n'
        )
        remote = connected(registry, hosts=hosts)
        pushed = remote.push_blob(SMALL)
        raw = json.dumps({"schemaVersion": 2, "manifests": []}).encode()
        remote.push_document(raw, media.OCI_INDEX, tag="1")
        assert remote.has(pushed)
        remote.delete(pushed.digest)
        assert [] == mirror.requests
        assert registry.requests


def test_a_mirror_that_takes_pushes_gets_them(tmp_path: Path, registry: Registry) -> None:
    """The first endpoint that may be pushed to, and no other; it is no way around it if it is down."""
    with Registry() as mirror:
        hosts = hosts_with(tmp_path, registry, f'[host."{mirror.url}"]\ncapabilities = ["push"]\n')
        remote = connected(registry, hosts=hosts)
        remote.push_blob(SMALL)
        assert ["HEAD 404", "POST 202", "PUT 201"] == asked(mirror)
        mirror.fault(Status(500))
        with pytest.raises(RegistryError):
            remote.push_blob(SMALL[1:])
        assert [] == registry.requests


def test_where_nobody_takes_pushes_that_is_said(tmp_path: Path, registry: Registry) -> None:
    """It is a matter of configuration."""
    place = tmp_path / "certs.d" / registry.host
    place.mkdir(parents=True)
    (place / "hosts.toml").write_text(f'server = "{registry.url}"\ncapabilities = ["pull"]\n')
    with pytest.raises(InvalidConfig, match="capability 'push'"):
        connected(registry, hosts=distsdk.Hosts(hosts_dir=tmp_path / "certs.d")).push_blob(SMALL)
    assert [] == registry.requests


# Sources


def test_a_file_is_read_from_where_it_stands(registry: Registry) -> None:
    """To its end; and it stays open."""
    file = io.BytesIO(b"skipped" + LARGE)
    file.seek(7)
    pushed = connected(registry).push_blob(file)
    assert Digest.of(LARGE) == pushed.digest
    assert not file.closed


def test_a_file_that_changes_is_an_error(registry: Registry, tmp_path: Path) -> None:
    """One that is longer or shorter than it was is not pushed."""
    path = tmp_path / "data"
    for size in (len(LARGE) - 1, len(LARGE) + 1):
        path.write_bytes(LARGE)
        changed = threading.Event()

        def change(_: int, size: int = size, changed: threading.Event = changed) -> None:
            if not changed.is_set():
                changed.set()
                with path.open("r+b") as file:
                    file.truncate(size)

        with pytest.raises(SizeMismatch, match="do not change it"):
            connected(registry).push_blob(path, on_progress=change)
    assert 0 == registry.count("PUT")


def test_a_pipe_is_read_once(registry: Registry, tmp_path: Path) -> None:
    """By its path, as a file that has no size."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_bytes(LARGE))
    writer.start()
    pushed = connected(registry).push_blob(path)
    writer.join()
    assert Digest.of(LARGE) == pushed.digest


def test_a_blob_of_another_remote_is_passed_on(registry: Registry) -> None:
    """What it was cut off from is asked for again, at the source as at the destination."""
    with Registry() as source:
        source.add_blob("a/b", LARGE)
        source.fault(Cut(3 * MIB), method="GET", times=1)
        registry.fault(CutUpload(7 * MIB), path=UPLOADS, times=2)
        blob = connected(source, "a/b").fetch(described(LARGE))
        remote = connected(registry)
        assert described(LARGE) == remote.push_blob(blob)
        assert LARGE == remote.fetch(Digest.of(LARGE)).read()
        assert len(LARGE) <= registry.bytes_received <= len(LARGE) + 2 * MIB


def test_a_damaged_blob_is_not_passed_on(registry: Registry) -> None:
    """What the source finds wrong with it ends the upload before its last bytes."""
    with Registry() as source:
        wrong = LARGE[:-1] + b"?"
        source.add_blob("a/b", wrong, digest=Digest.of(LARGE))
        with pytest.raises(DigestMismatch):
            connected(registry).push_blob(connected(source, "a/b").fetch(described(LARGE)))
    assert registry.bytes_received < len(LARGE)
    assert "DELETE 204" == asked(registry)[-1]
    assert not connected(registry).has(described(LARGE))


class Interrupted(OSError):
    """What a progress bar raises when its terminal is gone."""


@pytest.mark.parametrize("form", FORMS)
def test_what_the_progress_raises_ends_the_push(registry: Registry, tmp_path: Path, form: str) -> None:
    """It is no fault of the connection, whatever class it is of."""

    def at(count: int) -> None:
        if count:
            raise Interrupted

    with pytest.raises(Interrupted):
        connected(registry).push_blob(sources(LARGE, tmp_path)[form](), on_progress=at)
    assert registry.count("GET") == 0


# Documents and deletes


def test_a_manifest_whose_blobs_are_missing_is_refused_by_name(registry: Registry) -> None:
    """With the registry's own code."""
    fields = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "config": described(SMALL).to_fields(), "layers": []}
    with pytest.raises(RegistryError) as caught:
        connected(registry).push_document(json.dumps(fields).encode(), media.OCI_MANIFEST)
    assert ("MANIFEST_BLOB_UNKNOWN",) == caught.value.codes


def test_a_registry_that_takes_another_document_is_found_out(registry: Registry) -> None:
    """A digest of the same algorithm that is another one is a mismatch."""
    registry.fault(WrongDigestHeader(), method="PUT")
    with pytest.raises(DigestMismatch):
        connected(registry).push_document(b'{"schemaVersion": 2, "manifests": []}', media.OCI_INDEX, tag="1")


def test_a_document_is_sent_again_where_that_helps(registry: Registry) -> None:
    """It has the same name each time."""
    registry.fault(Status(503), method="PUT", times=1)
    registry.fault(Cut(None), method="PUT", times=1)
    remote = connected(registry)
    pushed = remote.push_document(b'{"schemaVersion": 2, "manifests": []}', media.OCI_INDEX, tag="1")
    assert pushed == remote.fetch("1").descriptor
    assert 3 == registry.count("PUT")


def test_a_document_that_nobody_would_read_is_not_sent(registry: Registry) -> None:
    """It is bounded as it is when it is fetched."""
    raw = b'{"schemaVersion": 2, "manifests": [], "x": "' + b"x" * (4 * MIB) + b'"}'
    with pytest.raises(LimitExceeded):
        connected(registry).push_document(raw, media.OCI_INDEX)
    assert [] == registry.requests


@pytest.mark.parametrize("status", [400, 405])
def test_a_registry_that_does_not_delete_is_named(registry: Registry, status: int) -> None:
    """And the message says what can be done about a tag."""
    registry.add_image(REPOSITORY, "1")
    registry.fault(Status.error(status, "UNSUPPORTED"), method="DELETE")
    remote = connected(registry)
    with pytest.raises(RegistryError, match="give the digest") as caught:
        remote.delete("1")
    assert (status, ("UNSUPPORTED",)) == (caught.value.status, caught.value.codes)
    with pytest.raises(RegistryError, match="does not delete"):
        remote.delete(remote.resolve("1").digest)


def test_a_host_alone_takes_nothing(registry: Registry) -> None:
    """There has to be a repository."""
    remote = distsdk.connect(registry.host)
    calls: list[Callable[[], object]] = [
        lambda: remote.push_blob(b""),
        lambda: remote.push_document(b"", media.OCI_INDEX),
        lambda: remote.has(described(b"")),
        lambda: remote.delete("1"),
        lambda: remote.referrers(Digest.of(b"")),
    ]
    for call in calls:
        with pytest.raises(InvalidReference, match="is a host"):
            call()


def test_has_asks_by_get_where_there_is_no_head(registry: Registry) -> None:
    """And does not read what comes."""
    registry.add_blob(REPOSITORY, LARGE)
    registry.fault(Status(405), method="HEAD")
    remote = connected(registry)
    assert remote.has(described(LARGE))
    assert not remote.has(described(SMALL))


def test_errors_of_a_push_can_be_told_apart(registry: Registry) -> None:
    """All that can go wrong is a DistError, or the source's own."""
    registry.fault(Status(418), method="POST")
    with pytest.raises(DistError) as caught:
        connected(registry).push_blob(SMALL)
    assert "418" in str(caught.value)
