"""Referrers: how registries list them, and the tag that does so where they do not, which several write at once."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from attrs import field, frozen

import distsdk
from distsdk import Remote
from distsdk.errors import LimitExceeded, MalformedDocument, MediaTypeMismatch, NotFound, RegistryError, Unsafe
from distsdk.remotes import referrers
from distsdk.spec import media_types as media
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
from distsdk.testing import Fault, Header, JsonFields, Link, Registry, Request, Response, Status

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

REPOSITORY = "library/x"
PATH = "/referrers/"


@pytest.fixture
def listing() -> Iterator[Registry]:
    """A registry that lists referrers, two to a page."""
    with Registry(page_size=2) as registry:
        yield registry


@pytest.fixture
def silent() -> Iterator[Registry]:
    """A registry that has no API for referrers, and heeds no condition."""
    with Registry(referrers=False) as registry:
        yield registry


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A list is not looked at for long, in tests that need no other writers."""
    monkeypatch.setattr(referrers, "SETTLE", 0.02)


def connected(registry: Registry) -> Remote:
    """The remote for the repository."""
    remote = distsdk.connect(registry.locator(REPOSITORY))
    return remote


def note(remote: Remote, text: str, subject: Descriptor, kind: str = "application/x-note") -> Descriptor:
    """Push a note about something, and return how it is listed."""
    config = remote.push_blob(b"{}", media_type=media.OCI_EMPTY)
    fields = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "artifactType": kind,
        "config": config.to_fields(),
        "layers": [],
        "subject": subject.to_fields(),
        "annotations": {"note": text},
    }
    pushed = remote.push_document(json.dumps(fields).encode(), media.OCI_MANIFEST)
    return Descriptor(pushed.media_type, pushed.digest, pushed.size, annotations={"note": text}, artifact_type=kind)


def by_digest(listed: Any) -> list[Descriptor]:  # noqa: ANN401 - anything to iterate over
    """The referrers in an order."""
    return sorted(listed, key=lambda one: one.digest)


# Lists of the registry


def test_pages_are_read_one_after_the_other(listing: Registry) -> None:
    """As they are needed, each time anew, and shown afterwards without reading."""
    image = listing.add_image(REPOSITORY, "1")
    remote = connected(listing)
    expected = by_digest(note(remote, str(number), image) for number in range(5))
    assert 0 == listing.count("GET", "/manifests/sha256-")  # it said that it lists them
    listed = remote.referrers(image)
    listing.reset()
    next(iter(listed))
    assert 1 == listing.count("GET", PATH)
    assert expected == by_digest(listed)
    assert 4 == listing.count("GET", PATH)
    assert repr(listed).startswith("<Referrers of ")
    assert 5 == repr(listed).count("application/x-note")


@pytest.mark.parametrize("told", [True, False])
def test_a_type_is_chosen_by_the_registry_and_by_us(listing: Registry, told: bool) -> None:
    """It is asked for, and what comes of another type is left out, whatever the registry says it did."""
    image = listing.add_image(REPOSITORY, "1")
    remote = connected(listing)
    kinds = ["application/x-one", "application/x-two"]
    one, other = (note(remote, kind, image, kind) for kind in kinds)
    assert [one] == list(remote.referrers(image, artifact_type=kinds[0]))
    assert "artifactType=application%2Fx-one" in listing.requests[-1].query
    fields = {"manifests": [one.to_fields(), other.to_fields()]}
    listing.fault(JsonFields(fields), path=PATH)
    listing.fault(Header("OCI-Filters-Applied", "artifactType" if told else None), path=PATH)
    assert [other] == list(remote.referrers(image, artifact_type=kinds[1]))


def test_what_cannot_be_a_referrer_is_left_out(listing: Registry) -> None:
    """What has no subject, a blob say, and the document itself; what is listed twice counts once."""
    image = listing.add_image(REPOSITORY, "1")
    remote = connected(listing)
    one = note(remote, "1", image)
    blob = Descriptor(media.OCI_LAYER, Digest.of(b"x"), 1)
    entries = [blob.to_fields(), image.to_fields(), one.to_fields(), one.to_fields()]
    listing.fault(JsonFields({"manifests": entries}), path=PATH)
    assert [one] == list(remote.referrers(image))


@pytest.mark.parametrize(
    "fields",
    [{"manifests": {}}, {"manifests": [1]}, {"manifests": [{"digest": "x"}]}, {"mediaType": media.OCI_MANIFEST}],
)
def test_a_list_that_is_none_is_malformed(listing: Registry, fields: dict[str, object]) -> None:
    """And no traceback."""
    image = listing.add_image(REPOSITORY, "1")
    listing.fault(JsonFields(fields), path=PATH)
    with pytest.raises(MalformedDocument):
        list(connected(listing).referrers(image))


def test_an_empty_list_may_be_null(listing: Registry) -> None:
    """As Go writes it."""
    image = listing.add_image(REPOSITORY, "1")
    listing.fault(JsonFields({"manifests": None}), path=PATH)
    assert [] == list(connected(listing).referrers(image))


@pytest.mark.parametrize(
    "link", ["<https://elsewhere.example{next}>", "</v2/other/referrers/x>", "<http://a:b@{host}{next}>"]
)
def test_a_page_elsewhere_is_not_read(listing: Registry, link: str) -> None:
    """As with pages of tags."""
    image = listing.add_image(REPOSITORY, "1")
    remote = connected(listing)
    for number in range(3):
        note(remote, str(number), image)
    listing.fault(Link(f"{link.replace('{host}', listing.host)}; rel=next"), path=PATH)
    with pytest.raises(Unsafe):
        list(remote.referrers(image))


def test_pages_that_lead_in_a_circle_are_left(listing: Registry) -> None:
    """With an error."""
    image = listing.add_image(REPOSITORY, "1")
    listing.fault(Link("<{path}>; rel=next"), path=PATH)
    with pytest.raises(MalformedDocument, match="circle"):
        list(connected(listing).referrers(image))


# The tag


@pytest.mark.parametrize("status", [404, 405, 501])
def test_without_an_api_the_tag_is_read(silent: Registry, status: int) -> None:
    """Whatever the registry says to a path that it does not know."""
    image = silent.add_image(REPOSITORY, "1")
    remote = connected(silent)
    assert [] == list(remote.referrers(image))
    one = note(remote, "1", image)
    other = note(remote, "2", image, "application/x-other")
    silent.fault(Status(status), path=PATH)
    assert by_digest([one, other]) == by_digest(remote.referrers(image))
    assert [other] == list(remote.referrers(image, artifact_type="application/x-other"))


def test_a_longer_digest_is_cut_for_the_tag(silent: Registry) -> None:
    """To what a tag can hold."""
    subject = Descriptor(media.OCI_MANIFEST, Digest.of(b"x", "sha512"), 1)
    remote = connected(silent)
    one = note(remote, "1", subject)
    assert [one] == list(remote.referrers(subject))
    assert f"sha512-{subject.digest.hex[:64]}" in list(remote.tags())


def test_what_is_in_the_list_stays(silent: Registry) -> None:
    """Entries and fields that others wrote, known or not."""
    image = silent.add_image(REPOSITORY, "1")
    tag = str(image.digest).replace(":", "-")
    entry = {**silent.add_artifact(REPOSITORY, artifact_type="a/b").to_fields(), "unknown": 1}
    silent.add_manifest(
        REPOSITORY,
        {
            "schemaVersion": 2,
            "mediaType": media.OCI_INDEX,
            "manifests": [entry],
            "annotations": {"a": "b"},
            "more": [1],
        },
        media.OCI_INDEX,
        tags=[tag],
    )
    remote = connected(silent)
    one = note(remote, "1", image)
    fields = json.loads(remote.fetch(tag).read())
    assert [entry, one.to_fields()] == fields["manifests"]
    assert ({"a": "b"}, [1]) == (fields["annotations"], fields["more"])


def test_what_is_no_list_is_left_alone(silent: Registry) -> None:
    """The tag may name something else: then there is an error, and it still names that."""
    image = silent.add_image(REPOSITORY, "1")
    tag = str(image.digest).replace(":", "-")
    other = silent.add_image(REPOSITORY, tag, layers=[b"x"])
    remote = connected(silent)
    with pytest.raises(MediaTypeMismatch, match="left alone"):
        note(remote, "1", image)
    assert other == remote.fetch(tag).descriptor


def test_what_is_listed_already_is_not_written(silent: Registry) -> None:
    """Pushing it again costs a look."""
    image = silent.add_image(REPOSITORY, "1")
    remote = connected(silent)
    one = note(remote, "1", image)
    silent.reset()
    assert one == note(remote, "1", image)
    assert 1 == silent.count("PUT")


def test_a_list_is_bounded(silent: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that nobody could read any more is not written."""
    image = silent.add_image(REPOSITORY, "1")
    remote = distsdk.connect(silent.locator(REPOSITORY), limits=distsdk.Limits(document=1000))
    for number in range(2):
        note(remote, str(number), image)
    with pytest.raises(LimitExceeded, match="list of referrers"):
        note(remote, "x" * 300, image)
    assert 2 == len(list(remote.referrers(image)))


def test_what_is_deleted_is_listed_no_more(silent: Registry, listing: Registry) -> None:
    """In the tag's list as in the registry's own, which nobody has to change."""
    for registry in (silent, listing):
        image = registry.add_image(REPOSITORY, "1")
        remote = connected(registry)
        one, other = (note(remote, text, image) for text in "ab")
        remote.delete(one.digest)
        assert [other] == list(remote.referrers(image))
        with pytest.raises(NotFound):
            remote.fetch(one).read()
    assert 0 == listing.count("PUT", "/manifests/sha256-")


def test_what_is_gone_is_dropped_from_the_list(silent: Registry) -> None:
    """Registries take no index of what is not there: an entry that was left behind would keep all others out."""
    image = silent.add_image(REPOSITORY, "1")
    remote = connected(silent)
    one, other = (note(remote, text, image) for text in "ab")
    silent.fault(Status(404), path=f"/manifests/{one.digest}", method="GET")  # as one that knows of no subjects would
    remote.delete(one.digest)
    silent.clear_faults()
    assert by_digest([one, other]) == by_digest(remote.referrers(image))
    third = note(remote, "c", image)
    assert by_digest([other, third]) == by_digest(remote.referrers(image))


# Several writers


@frozen(eq=False)
class Overwriting:
    """Right after the list was written, somebody else writes one that has never heard of it."""

    registry: Registry
    entries: list[dict[str, object]]
    left: list[int] = field(factory=lambda: [3])

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Answer, once that has happened."""
        response = respond(request)
        if self.left[0]:
            self.left[0] -= 1
            fields = {"schemaVersion": 2, "mediaType": media.OCI_INDEX, "manifests": self.entries}
            tag = request.path.rpartition("/")[2]
            self.registry.add_manifest(REPOSITORY, fields, media.OCI_INDEX, tags=[tag])
        return response


def test_an_entry_that_got_lost_is_written_again(silent: Registry) -> None:
    """As often as it takes, with what is there by then."""
    image = silent.add_image(REPOSITORY, "1")
    remote = connected(silent)
    theirs = silent.add_artifact(REPOSITORY, artifact_type="a/b")
    silent.fault(Overwriting(silent, [theirs.to_fields()]), path="/manifests/sha256-", method="PUT")
    ours = note(remote, "1", image)
    assert by_digest([theirs, ours]) == by_digest(remote.referrers(image))
    assert 4 == silent.count("PUT", "/manifests/sha256-")


def test_who_writes_without_end_is_given_way(silent: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is an end to trying."""
    monkeypatch.setattr(referrers, "MAX_ROUNDS", 4)
    image = silent.add_image(REPOSITORY, "1")
    silent.fault(Overwriting(silent, [], [99]), path="/manifests/sha256-", method="PUT")
    with pytest.raises(RegistryError, match="without end"):
        note(connected(silent), "1", image)
    assert 4 == silent.count("PUT", "/manifests/sha256-")


def test_a_condition_that_is_heeded_saves_the_others_entry() -> None:
    """``If-Match`` and ``If-None-Match`` are sent, and 412 is read as: read once more."""
    with Registry(referrers=False, if_match=True) as registry:
        image = registry.add_image(REPOSITORY, "1")
        remotes = [connected(registry), connected(registry)]
        for remote in remotes:
            remote.push_blob(b"{}")
        gate: Fault = Together(2)
        registry.fault(gate, path="/manifests/sha256-", method="GET", times=2)
        with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
            patch.setattr(referrers, "_lock", lambda _: threading.Lock())  # as if they were two processes
            listed = list(pool.map(lambda pair: note(pair[0], pair[1], image), zip(remotes, "ab", strict=True)))
        assert by_digest(listed) == by_digest(remotes[0].referrers(image))
        puts = [request for request in registry.requests if request.method == "PUT" and "sha256-" in request.path]
        assert 412 in {request.status for request in puts}
        assert all("If-Match" in put.headers or put.headers["If-None-Match"] == "*" for put in puts)


@frozen(eq=False)
class Together:
    """Nobody is answered before so many have asked."""

    count: int
    barrier: threading.Barrier = field(init=False)

    def __attrs_post_init__(self) -> None:
        object.__setattr__(self, "barrier", threading.Barrier(self.count))

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Answer, once all are there."""
        response = respond(request)
        self.barrier.wait(10)
        return response.with_header("X-Waited", "yes")  # so that it counts


def test_threads_lose_no_entry(silent: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one remote and of several, on a registry that heeds no condition."""
    image = silent.add_image(REPOSITORY, "1")
    remotes = [connected(silent) for _ in range(2)]
    remotes[0].push_blob(b"{}")
    with ThreadPoolExecutor(8) as pool:
        listed = list(pool.map(lambda number: note(remotes[number % 2], str(number), image), range(24)))
    assert by_digest(listed) == by_digest(remotes[0].referrers(image))


WRITER = """
import json, sys
import distsdk
from distsdk.spec import media_types as media
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.digest import Digest
remote, name = distsdk.connect(sys.argv[1]), sys.argv[2]
config = remote.push_blob(b"{}", media_type=media.OCI_EMPTY)
print("ready", flush=True)
sys.stdin.readline()
for number in range(4):
    fields = {"schemaVersion": 2, "mediaType": media.OCI_MANIFEST, "artifactType": "a/b", "config": config.to_fields(),
              "layers": [], "subject": json.loads(sys.argv[3]), "annotations": {"note": f"{name} {number}"}}
    print(remote.push_document(json.dumps(fields).encode(), media.OCI_MANIFEST).digest, flush=True)
"""


@pytest.mark.slow
def test_processes_lose_no_entry(silent: Registry, tmp_path: Path) -> None:
    """Two that write at once, on a registry that heeds no condition."""
    image = silent.add_image(REPOSITORY, "1")
    command = [sys.executable, "-c", WRITER, silent.locator(REPOSITORY)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "cwd": tmp_path}
    writers = [subprocess.Popen([*command, name, json.dumps(image.to_fields())], **pipes) for name in "ab"]
    for writer in writers:
        assert writer.stdout is not None
        assert "ready\n" == writer.stdout.readline()
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    digests = [line for writer in writers for line in writer.communicate()[0].split()]
    assert 8 == len(set(digests))
    assert sorted(digests) == sorted(str(one.digest) for one in connected(silent).referrers(image))
