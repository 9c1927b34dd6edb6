"""Pulling: what comes, what it costs, what is told of it, and what happens when something goes wrong in the middle."""

from __future__ import annotations

import base64
import contextlib
import errno
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attrs import evolve, frozen

import distsdk
from distsdk import Blob, Credentials, Descriptor, Digest, Hosts, Platform, Retry, Store, transfer
from distsdk.content.protocols import TagLister
from distsdk.content.source import ByteStream, Stat
from distsdk.errors import (
    DigestMismatch,
    InvalidConfig,
    LimitExceeded,
    MalformedDocument,
    NotFound,
    PlatformNotFound,
    SizeMismatch,
    Unreachable,
)
from distsdk.spec import media_types as media
from distsdk.spec.documents import Index, Manifest
from distsdk.store import store as local
from distsdk.testing import Cut, Registry, Stall, Status, WrongBytes
from distsdk.transfer.events import Advanced, Finished, Plan, Planned
from distsdk.transfer.pull import complete, pull

from ..support import COMMAND, ENVIRONMENT, HANGS, wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from distsdk.remotes.remote import Remote
    from distsdk.spec.reference import Locator, Object
    from distsdk.store.reports import Info
    from distsdk.testing import Fault, Request, Response
    from distsdk.testing.registry import Media
    from distsdk.transfer.events import Event

BIG, SMALL = (random.Random(seed).randbytes(size) for seed, size in ((1, 3_000_000), (2, 50_000)))
PLATFORMS = ("linux/amd64", "linux/arm64", "linux/arm/v7")

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals, terminals and locks as POSIX has them")


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    """An index ``7`` of three platforms that share a layer, with an attestation, and its first image by itself."""
    for name in os.environ.keys() - ENVIRONMENT.keys():
        monkeypatch.delenv(name)
    with Registry() as registry:
        images = [
            registry.add_image("library/x", name.replace("/", "-"), layers=[SMALL, name.encode() * 1000], platform=name)
            for name in PLATFORMS
        ]
        attestation = registry.add_artifact("library/x", artifact_type="text/x", files={"statement": b"all is well"})
        unknown = Platform("unknown", "unknown")
        registry.add_index("library/x", "7", manifests=[*images, evolve(attestation, artifact_type=None)])
        registry.add_index("library/x", "odd", manifests=[evolve(attestation, platform=unknown)])
        registry.add_image("library/x", "big", layers=[BIG, SMALL, b"tiny"])
        yield registry


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store that is not there yet."""
    return Store(tmp_path / "store")


def x(registry: Registry, tag: str = "7") -> str:
    """The reference of a tag."""
    return f"{registry.locator('library/x')}:{tag}"


def remote(registry: Registry, *, hosts: Hosts | None = None, attempts: int = 5) -> Remote:
    """A remote that gives up when it is told to."""
    return distsdk.connect(
        registry.locator("library/x"),
        credentials=Credentials.anonymous(),
        hosts=hosts or Hosts(),
        retry=Retry(attempts=attempts),
    )


def document(store: Store, descriptor: Descriptor) -> Index | Manifest:
    """Read a manifest or index that the store has."""
    raw = store.blob(descriptor.digest).read()
    return (Index if descriptor.media_type in media.INDEXES else Manifest).parse(raw, descriptor.media_type)


def parts(store: Store, descriptor: Descriptor) -> set[Digest]:
    """All that a document consists of, itself included, by the store's own copies."""
    found = document(store, descriptor)
    if isinstance(found, Manifest):
        return {descriptor.digest, found.config.digest, *(layer.digest for layer in found.layers)}
    return {descriptor.digest}.union(*(parts(store, child) for child in found.manifests))


def whole(store: Store) -> set[Digest]:
    """The digests that the store has; each holds what it says."""
    for info in store.blobs():
        assert info.digest == Digest.of(store.path(info.digest).read_bytes(), info.digest.algorithm)
    return {info.digest for info in store.blobs()}


def files(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def offsets(store: Store) -> dict[str, int]:
    """What is here of each ingest that is not done."""
    return {active.key: active.offset for active in store.active()}


@frozen
class After:
    """An answer comes once something is so."""

    true: Callable[[], object]

    def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
        """Return the answer of the registry, late."""
        wait_until(self.true)
        return respond(request)


# What comes


def test_by_default_it_is_this_machines_platform(
    registry: Registry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name stands for the child of the index, and nothing of the others comes, nor the index."""
    for name, platform in (("linux/arm64", None), ("linux/arm/v7", "linux/arm/v7")):
        monkeypatch.setattr(Platform, "local", classmethod(lambda _: Platform.parse("linux/arm64")))
        descriptor = pull(x(registry), store, platform=platform)
        [child] = [entry for entry in remote_index(registry).manifests if str(entry.platform) == name]
        assert child == descriptor
        assert {x(registry): descriptor} == {key: evolve(d, annotations={}) for key, d in store.images().items()}
        assert parts(store, descriptor) <= whole(store)
    assert remote_index(registry).digest not in whole(store)
    assert 7 == len(whole(store))  # two manifests, configs and layers, and the layer that both have


def remote_index(registry: Registry) -> Index:
    """The index as the registry has it."""
    return Index.parse(remote(registry).fetch("7").read(), media.OCI_INDEX)


def test_all_platforms_are_the_index(registry: Registry, store: Store) -> None:
    """Whatever it refers to comes, attestations too; the name stands for it."""
    descriptor = pull(x(registry), str(store.root), all_platforms=True)
    index = document(store, store.images()[x(registry)])
    assert isinstance(index, Index)
    assert (remote_index(registry).raw, descriptor.digest) == (index.raw, index.digest)
    assert parts(store, descriptor) == whole(store)
    assert 1 + 4 + 4 + 5 == len(whole(store))


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_a_manifest_alone_and_a_docker_list(registry: Registry, store: Store, kind: Media) -> None:
    """They come as they are, in the media types that they have."""
    image = registry.add_image("y", "one", layers=[b"1"], media=kind, platform="linux/s390x")
    listed = registry.add_index("y", "all", manifests=[image], media=kind)
    one, everything = (f"{registry.locator('y')}:{tag}" for tag in ("one", "all"))
    assert evolve(image, platform=None) == pull(one, store)
    assert image == pull(everything, store, platform="linux/s390x")
    assert listed == pull(everything, store, all_platforms=True)
    assert {one: image.digest, everything: listed.digest} == {n: d.digest for n, d in store.images().items()}
    # For Docker's, indexes of OCI's besides them, by which other tools find them.
    ways = {"oci": 0, "docker": 2}[kind]
    assert parts(store, listed) <= whole(store)
    assert len(parts(store, listed)) + ways == len(whole(store))


@pytest.mark.parametrize("kind", ["oci", "docker"])
def test_a_store_is_a_remote(registry: Registry, store: Store, tmp_path: Path, kind: Media) -> None:
    """What was pulled can be fetched from the store's folder by its tag, and pulled on; so can the only image."""
    image = registry.add_image("y", "one", layers=[b"1"], media=kind)
    pull(f"{registry.locator('y')}:one", store)
    there = distsdk.connect(str(store.root))
    assert image == there.fetch("one").descriptor == there.fetch("latest").descriptor
    assert isinstance(there, TagLister)
    assert ["one"] == list(there.tags())
    other = Store(tmp_path / "other")
    assert image == pull(f"{store.root}:one", other)
    assert {"one": image.digest} == {name: d.digest for name, d in other.images().items()}


def test_an_artifact_comes_like_an_image(registry: Registry, store: Store) -> None:
    """Its files are blobs like others, and its empty configuration is one."""
    registry.add_artifact("y", "spdx", artifact_type="application/spdx+json", files={"a": b"1", "b": b"2"})
    descriptor = pull(f"{registry.locator('y')}:spdx", store)
    assert parts(store, descriptor) == whole(store)
    assert 4 == len(whole(store))


def test_a_digest_is_asked_for_once(registry: Registry, store: Store) -> None:
    """By digest, or tag and digest, the name is the full reference; what is here is not asked for at all."""
    digest = pull(x(registry, "linux-amd64"), store).digest
    locator = registry.locator("library/x")
    registry.reset()
    for name in (f"{locator}@{digest}", f"{locator}:no-such-tag@{digest}"):
        assert digest == pull(name, store).digest == store.images()[name].digest
        plan = pull(name, store, plan=True)
        assert (0, 0, 0) == (plan.requests, plan.to_fetch, plan.missing)
    assert 0 == registry.count()
    other = Store(store.root.parent / "other")
    assert digest == pull(f"{locator}:no-such-tag@{digest}", other).digest
    assert [digest] == [descriptor.digest for descriptor in other.images().values()]
    assert 4 == registry.count()


def test_what_a_document_holds_itself_is_not_fetched(registry: Registry, store: Store) -> None:
    """`data` of a descriptor serves, for blobs and for manifests, once it is what it says."""
    config = registry.add_blob("y", b"{}", media_type=media.OCI_EMPTY)
    manifest = {
        "schemaVersion": 2,
        "mediaType": media.OCI_MANIFEST,
        "config": evolve(config, data=b"{}").to_fields(),
        "layers": [],
    }
    inner = registry.add_manifest("y", manifest, media.OCI_MANIFEST)
    raw = json.dumps(manifest, separators=(",", ":")).encode()
    registry.add_index("y", "1", manifests=[evolve(inner, data=raw)])
    plan = pull(f"{registry.locator('y')}:1", store, all_platforms=True, plan=True)
    registry.reset()
    descriptor = pull(f"{registry.locator('y')}:1", store, all_platforms=True)
    assert (1, registry.bytes_sent) == (registry.count(), plan.to_fetch)
    assert (1, 3) == (plan.requests, len(parts(store, descriptor) & whole(store)))


@pytest.mark.parametrize("where", ["config", "child"])
@pytest.mark.parametrize("lie", ["bytes", "size"])
def test_data_that_is_not_what_it_says_is_refused(registry: Registry, store: Store, where: str, lie: str) -> None:
    """Neither other bytes nor another size; the name is not set."""
    good = registry.add_image("y", layers=[b"1"], platform="linux/amd64")
    raw = remote_bytes(registry, "y", good.digest)
    manifest = json.loads(raw)
    config = distsdk.connect(registry.locator("y")).fetch(manifest["config"]["digest"]).read()
    described, own = (good.to_fields(), raw) if where == "child" else (manifest["config"], config)
    described["data"] = base64.b64encode(own if lie == "size" else own[::-1]).decode()
    if lie == "size":
        described["size"] = len(own) - 1
    if where == "child":
        fields = {"schemaVersion": 2, "manifests": [described]}
        registry.add_manifest("y", fields, media.OCI_INDEX, tags=["1"])
    else:
        registry.add_manifest("y", manifest, media.OCI_MANIFEST, tags=["1"])
    registry.reset()
    with pytest.raises(MalformedDocument, match="data embedded"):
        pull(f"{registry.locator('y')}:1", store, all_platforms=True)
    assert (1, False) == (registry.count(), store.root.exists())


def remote_bytes(registry: Registry, repository: str, digest: Digest) -> bytes:
    """A manifest as the registry has it."""
    return distsdk.connect(registry.locator(repository)).fetch(digest, f"mediatype:{media.OCI_MANIFEST}").read()


def test_platforms_exclude_each_other_and_may_be_missing(registry: Registry, store: Store) -> None:
    """Nothing is written then."""
    with pytest.raises(ValueError, match="one of them"):
        pull(x(registry), store, platform="linux/amd64", all_platforms=True)
    with pytest.raises(PlatformNotFound, match="linux/arm/v7"):
        pull(x(registry), store, platform="linux/s390x")
    with pytest.raises(PlatformNotFound):
        pull(x(registry, "odd"), store)
    with pytest.raises(NotFound):
        pull(x(registry, "nothing"), store)
    assert not store.root.exists()


# The plan


@pytest.mark.parametrize(
    "before",
    ["nothing", "one platform", "a part", "all of a part", "a damaged document", "a damaged layer", "all"],
)
@pytest.mark.parametrize("every", [False, True])
def test_a_plan_is_what_it_costs(registry: Registry, store: Store, before: str, every: bool) -> None:
    """Requests and bytes are those that the registry then counts, whatever was there; planning fetches no blob."""
    reference = x(registry)
    pull(reference, store, platform="linux/amd64")

    def planned() -> Plan:
        if every:
            return pull(reference, store, all_platforms=True, plan=True)
        return pull(reference, store, platform="linux/amd64", plan=True)

    match before:
        case "nothing":
            shutil.rmtree(store.root)
        case "a part" | "all of a part":
            digest = str(Digest.of(SMALL))
            store.delete(digest)
            leave_a_part(store, digest, SMALL if before == "all of a part" else SMALL[:20_000])
        case "a damaged document":
            damage(store, store.images()[reference].digest)
        case "a damaged layer":
            damage(store, Digest.of(SMALL))
        case "all":
            pull(reference, store, all_platforms=True)
    there = files(store.root)
    plan = planned()
    if before.startswith("a damaged"):
        assert [Digest.of(SMALL) if "layer" in before else store.images()[reference].digest] == quarantined(store)
    else:
        assert there == files(store.root)
    assert store.root.exists() == (before != "nothing")
    registry.reset()
    descriptor = pull(reference, store, **({"all_platforms": True} if every else {"platform": "linux/amd64"}))
    assert (plan.requests, plan.to_fetch) == (registry.count(), registry.bytes_sent)
    assert (plan.name, plan.target) == (reference, descriptor)
    assert parts(store, descriptor) == {step.descriptor.digest for step in plan.steps} <= whole(store)
    assert plan.size == plan.here + plan.missing == sum(store.info(step.descriptor.digest).size for step in plan.steps)
    again = planned()
    documents = {media.OCI_INDEX, media.OCI_MANIFEST}
    assert (1, 0, again.size) == (again.requests, again.missing, again.here)
    assert again.to_fetch == remote(registry).fetch("7").size
    assert documents >= {descriptor.media_type}


def leave_a_part(store: Store, digest: str, data: bytes) -> None:
    """Leave what a writer that was killed leaves of a blob."""

    def broken() -> Iterator[bytes]:
        yield data
        raise ConnectionError

    class Source:
        def open(self, offset: int, end: int | None) -> ByteStream:
            return Stream()

        def stat(self) -> Stat:
            return Stat(len(SMALL))

    class Stream:
        def __init__(self) -> None:
            self.left = broken()

        def read(self, size: int = -1, /) -> bytes:
            return next(self.left)

        def close(self) -> None:
            pass

    def at(here: int) -> None:
        if here == len(data):
            raise ConnectionError

    with contextlib.suppress(ConnectionError):
        store.ingest(Blob(Source(), Digest.parse(digest), size=len(SMALL)), on_progress=at)
    assert {digest: len(data)} == offsets(store)


def damage(store: Store, digest: Digest, *, unseen: bool = False) -> None:
    """Change a byte of a blob in its file; unseen, the file keeps its modification time."""
    path = store.path(digest)
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    before = path.stat()
    path.chmod(0o600)
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + (0 if unseen else 1)))


def quarantined(store: Store) -> list[Digest]:
    """The digests of the blobs that are in quarantine."""
    return [Digest.parse(path.name.replace("-", ":")) for path in sorted(store.root.glob("quarantine/*"))]


def test_a_plan_tells_people(registry: Registry, store: Store) -> None:
    """A line for all of it, and a line for each part, with what is here."""
    pull(x(registry, "linux-amd64"), store)
    plan = pull(x(registry), store, platform="linux/arm64", plan=True)
    assert f"<Plan {x(registry)}: 4 requests for " in repr(plan)
    first, *steps, last = plan.lines()
    assert f"{x(registry)} is {plan.target.media_type} {plan.target.digest}" == first
    assert [str(step.descriptor.digest) for step in plan.steps] == [line.split()[0] for line in steps]
    assert {str(Digest.of(SMALL))} == {line.split()[0] for line in steps if re.search(r" here ", line)}
    assert last.startswith("4 requests for ")
    assert last.endswith("; 48.8 KiB are here")


def test_an_empty_layer_costs_a_request(registry: Registry, store: Store) -> None:
    """It has no bytes, but it has to be there."""
    registry.add_image("y", "1", layers=[b""])
    name = f"{registry.locator('y')}:1"
    plan = pull(name, store, plan=True)
    registry.reset()
    descriptor = pull(name, store)
    assert (plan.requests, plan.to_fetch) == (registry.count(), registry.bytes_sent)
    assert parts(store, descriptor) == whole(store)


# The events


def test_events_come_in_order_and_in_the_calling_thread(registry: Registry, store: Store) -> None:
    """First the plan, then what comes, each part done once and the documents last; nothing is told of it afterwards."""
    events: list[Event] = []
    threads: set[threading.Thread] = set()

    def tell(event: Event) -> None:
        events.append(event)
        threads.add(threading.current_thread())

    descriptor = pull(x(registry), store, all_platforms=True, progress=tell)
    assert {threading.current_thread()} == threads
    [first, *rest] = events
    assert isinstance(first, Planned)
    done = [event.descriptor.digest for event in rest if isinstance(event, Finished)]
    assert sorted(map(str, parts(store, descriptor))) == sorted(map(str, done))
    assert [step.descriptor.digest for step in first.plan.steps if step.missing] != []
    assert {step.descriptor.digest: False for step in first.plan.steps} == {
        event.descriptor.digest: event.existed for event in rest if isinstance(event, Finished)
    }
    is_document = [event.descriptor.media_type in media.DOCUMENTS for event in rest if isinstance(event, Finished)]
    assert sorted(is_document) == is_document
    assert descriptor.digest == done[-1]
    for number, event in enumerate(rest):
        assert not isinstance(event, Planned)
        if isinstance(event, Advanced):
            assert 0 < event.here <= event.descriptor.size
            assert event.descriptor.digest in done[sum(isinstance(e, Finished) for e in rest[:number]) :]
    events.clear()
    pull(x(registry), store, all_platforms=True, progress=tell)
    [first] = events
    assert isinstance(first, Planned)
    assert 0 == first.plan.missing


def test_bytes_are_told_while_they_come(registry: Registry, store: Store) -> None:
    """Also those that somebody else brings: the second pull waits, is told of it, and fetches nothing itself."""
    first_half, second_half = threading.Event(), threading.Event()
    big = str(Digest.of(BIG))
    registry.fault(Stall(after=1_000_000, event=first_half), path=big, times=1)
    registry.fault(Stall(after=2_000_000, event=second_half), path=big, times=1)
    told: dict[str, list[Event]] = {"first": [], "second": []}

    def seen(who: str, here: int) -> bool:
        return any(isinstance(event, Advanced) and event.here >= here for event in told[who])

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(pull, x(registry, "big"), store, progress=told["first"].append)
        try:
            wait_until(lambda: seen("first", 900_000))
            second = pool.submit(pull, x(registry, "big"), Store(store.root), progress=told["second"].append)
            wait_until(lambda: told["second"])
            first_half.set()
            wait_until(lambda: seen("second", 1_900_000))
        finally:
            first_half.set()
            second_half.set()
        assert first.result(30) == second.result(30)
    assert 1 == registry.count(path=big)
    existed = {
        who: [e.existed for e in events if isinstance(e, Finished) and str(e.descriptor.digest) == big]
        for who, events in told.items()
    }
    assert {"first": [False], "second": [True]} == existed


@posix
@pytest.mark.parametrize("how", ["terminal", "pipe", "DISTSDK_DISABLE_PROGRESS", "--quiet"])
def test_a_bar_is_shown_in_a_terminal(registry: Registry, tmp_path: Path, how: str) -> None:
    """It names what is pulled and ends with all of it; there is none for pipes, and none for who wants none."""
    import pty
    import termios

    ours, theirs = pty.openpty() if how != "pipe" else os.pipe()
    if how != "pipe":
        termios.tcsetwinsize(theirs, (24, 120))  # a new one has no columns
    variables = {"DISTSDK_DISABLE_PROGRESS": "1"} if how.startswith("DISTSDK") else {}
    command = [*COMMAND, "--store", str(tmp_path / "store"), "pull", x(registry, "big")]
    if how == "--quiet":
        command.append(how)
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=theirs, check=False, timeout=HANGS, env={**ENVIRONMENT, **variables}
    )
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError), open(ours, "rb", buffering=0) as terminal:  # noqa: PTH123 - a descriptor
        while data := terminal.read(1 << 16):
            said += data
    assert 0 == done.returncode
    assert re.fullmatch(rb"sha256:[0-9a-f]{64}\n", done.stdout)
    if how == "terminal":
        last = said.decode().strip().rpartition("\r")[2]
        assert re.match(r"\S*:big: 100%", last)
        assert "2.91MiB/2.91MiB" in last
    else:
        assert b"" == said


# What is here already


def test_what_is_here_is_not_fetched_again(registry: Registry, store: Store) -> None:
    """A pull of an image that is all here costs one request for its tag; another platform costs what it adds."""
    pull(x(registry), store, platform="linux/amd64")
    before = files(store.root / "blobs")
    registry.reset()
    pull(x(registry), store, platform="linux/amd64")
    assert (1, 0) == (registry.count(), registry.count(path="/blobs/"))
    assert before == files(store.root / "blobs")
    pull(x(registry), store, platform="linux/arm64")
    assert (1 + 2, 2) == (registry.count(path="/manifests/"), registry.count(path="/blobs/"))
    assert 0 == registry.count(path=str(Digest.of(SMALL)))


@pytest.mark.parametrize("how", ["plan first", "at once", "all platforms"])
def test_pull_heals_a_blob_that_was_changed(registry: Registry, store: Store, how: str) -> None:
    """A wrong byte in a layer, its size kept, is found since the file is not the one committed; only it is fetched."""
    everything = {"all_platforms": True} if how == "all platforms" else {"platform": "linux/amd64"}
    descriptor = pull(x(registry), store, **everything)
    damage(store, Digest.of(SMALL))
    if how == "plan first":
        plan = pull(x(registry), store, platform="linux/amd64", plan=True)
        assert [len(SMALL)] == [step.missing for step in plan.steps if step.missing]
    registry.reset()
    assert descriptor == pull(x(registry), store, **everything)
    assert [Digest.of(SMALL)] == quarantined(store)
    assert parts(store, descriptor) <= whole(store)
    assert ["7", str(Digest.of(SMALL))] == [request.path.rpartition("/")[2] for request in registry.requests]


@pytest.mark.parametrize("finder", ["rehash", "a read", "verify"])
def test_pull_heals_damage_that_no_status_shows(registry: Registry, store: Store, finder: str) -> None:
    """With size, time and inode kept, a pull trusts the file until it is told to rehash, or the damage is found."""
    descriptor = pull(x(registry, "linux-amd64"), store)
    damage(store, Digest.of(SMALL), unseen=True)
    registry.reset()
    assert descriptor == pull(x(registry, "linux-amd64"), store)
    assert (0, []) == (registry.count(path="/blobs/"), quarantined(store))
    if finder == "a read":
        with pytest.raises(DigestMismatch, match="pull its image again"):
            distsdk.image(x(registry, "linux-amd64"), store=store).layers[0].blob.read()
    elif finder == "verify":
        assert (Digest.of(SMALL),) == store.verify().damaged
    assert descriptor == pull(x(registry, "linux-amd64"), store, rehash=finder == "rehash")
    assert (1, [Digest.of(SMALL)]) == (registry.count(path="/blobs/"), quarantined(store))
    assert parts(store, descriptor) == whole(store)


@pytest.mark.parametrize("changed", ["another time", "another inode", "no record", "a damaged record"])
def test_pull_hashes_a_file_that_is_not_the_one_committed(
    registry: Registry, store: Store, monkeypatch: pytest.MonkeyPatch, changed: str
) -> None:
    """Its blob is hashed once, then the file is known again; nothing is fetched for it."""
    pull(x(registry, "linux-amd64"), store)
    path, record = store.path(Digest.of(SMALL)), store.root / "commits" / f"sha256-{Digest.of(SMALL).hex}"
    match changed:
        case "another time":
            os.utime(path, (1, 1))
        case "another inode":
            status = path.stat()
            copy = path.with_name("copy")
            shutil.copy2(path, copy)
            copy.replace(path)
            assert (status.st_mtime_ns, status.st_size) == (path.stat().st_mtime_ns, path.stat().st_size)
        case "no record":
            record.unlink()
        case "a damaged record":
            record.write_bytes(record.read_bytes()[:-2])
    hashed: list[Digest] = []
    original = local._hashed

    def count(digests: Iterable[Digest], path: Callable[[Digest], Path]) -> Iterator[local._Hashed | None]:
        digests = list(digests)
        hashed.extend(digests)
        return original(digests, path)

    monkeypatch.setattr(local, "_hashed", count)
    registry.reset()
    for _ in range(2):
        pull(x(registry, "linux-amd64"), store)
    assert [Digest.of(SMALL)] == hashed
    assert (0, []) == (registry.count(path="/blobs/"), quarantined(store))


def test_damage_heals(registry: Registry, store: Store) -> None:
    """A document with a wrong byte, and a blob that lost some, are fetched again; what was wrong is out of the way."""
    descriptor = pull(x(registry, "linux-amd64"), store)
    damage(store, descriptor.digest)
    layer = store.path(Digest.of(SMALL))
    layer.chmod(0o600)
    os.truncate(layer, 100)
    registry.reset()
    assert descriptor == pull(x(registry, "linux-amd64"), store)
    assert parts(store, descriptor) == whole(store)
    assert ["linux-amd64", str(Digest.of(SMALL))] == [request.path.rpartition("/")[2] for request in registry.requests]


def test_a_document_of_the_index_heals_too(registry: Registry, store: Store) -> None:
    """It is asked for by its digest."""
    descriptor = pull(x(registry), store, all_platforms=True)
    index = document(store, descriptor)
    assert isinstance(index, Index)
    child = index.manifests[1].digest
    damage(store, child)
    registry.reset()
    pull(x(registry), store, all_platforms=True)
    assert ["7", str(child)] == [request.path.rpartition("/")[2] for request in registry.requests]
    assert parts(store, descriptor) == whole(store)


def test_two_may_heal_the_same_document(registry: Registry, store: Store) -> None:
    """That somebody else has put it out of the way meanwhile is no failure."""
    descriptor = pull(x(registry, "linux-amd64"), store)
    damage(store, descriptor.digest)

    def tell(event: Event) -> None:
        if isinstance(event, Planned):
            store.verify()

    pull(x(registry, "linux-amd64"), store, progress=tell)
    assert parts(store, descriptor) == whole(store)


def test_an_image_is_completed(registry: Registry, store: Store) -> None:
    """`complete` brings what was deleted, wherever it was, and changes no name."""
    descriptor = pull(x(registry), store, all_platforms=True)
    names = store.images()
    everything = whole(store)
    manifest = next(child for child in remote_index(registry).manifests if child.platform)
    for digest in (descriptor.digest, manifest.digest, Digest.of(SMALL)):
        store.delete(digest)
    registry.reset()
    fetched = complete(names[x(registry)], store, remote(registry))
    assert {descriptor.digest, manifest.digest, Digest.of(SMALL)} == set(fetched)
    assert (3, everything, names) == (registry.count(), whole(store), store.images())
    assert () == complete(names[x(registry)], store, remote(registry))


# What goes wrong


@pytest.mark.slow
def test_a_missing_layer_leaves_the_rest(registry: Registry, store: Store) -> None:
    """It is not found, there is no name, and what came of the others is gone on with the next time."""
    big = str(Digest.of(BIG))
    registry.fault(After(lambda: offsets(store).get(big, 0) >= 1_000_000), path=str(Digest.of(b"tiny")), times=1)
    registry.fault(Status.error(404, "BLOB_UNKNOWN"), path=str(Digest.of(b"tiny")))
    go_on = threading.Event()
    registry.fault(Stall(after=1_000_000, event=go_on), path=big, times=1)
    with pytest.raises(NotFound, match=str(Digest.of(b"tiny"))):
        pull(x(registry, "big"), store)
    assert {} == store.images()
    go_on.set()
    wait_until(lambda: not busy())
    assert offsets(store)[big] >= 1_000_000
    assert Digest.of(BIG) not in whole(store)
    had = offsets(store)[big]
    registry.clear_faults()
    registry.reset()
    plan = pull(x(registry, "big"), store, plan=True)
    assert had == next(step.here for step in plan.steps if step.descriptor.size == len(BIG))
    descriptor = pull(x(registry, "big"), store)
    assert len(BIG) - had == registry.count_bytes(path=big)
    assert (parts(store, descriptor), {}) == (whole(store), offsets(store))


def busy() -> list[str]:
    """The names of threads that still bring something."""
    return [
        thread.name for thread in threading.enumerate() if thread.name.startswith(("distsdk-pull", "distsdk-range"))
    ]


@pytest.mark.parametrize("attempts", [1, 5])
def test_a_cut_blob_goes_on(registry: Registry, store: Store, attempts: int) -> None:
    """In the same run where it may be tried again, otherwise in the next one: no byte is sent twice."""
    registry.fault(Cut(1_000_000), path=str(Digest.of(BIG)), times=2)
    given = remote(registry, attempts=attempts)
    for _ in range(2 if attempts == 1 else 0):
        with pytest.raises(Unreachable):
            pull(x(registry, "big"), store, remote=given)
        assert {} == store.images()
    descriptor = pull(x(registry, "big"), store, remote=given)
    assert parts(store, descriptor) == whole(store)
    assert len(BIG) == registry.count_bytes(path=str(Digest.of(BIG)))
    assert 3 == registry.count(path=str(Digest.of(BIG)))


@pytest.mark.parametrize("retry_after", ["1", "Thu, 01 Jan 1970 00:00:00 GMT"])
def test_too_many_requests_are_waited_for(
    registry: Registry, store: Store, retry_after: str, pauses: list[float]
) -> None:
    """A 429 in the middle is honoured and survived; threads that met none wait for what is left of the pause."""
    limited = Status.error(429, "TOOMANYREQUESTS", headers={"Retry-After": retry_after})
    registry.fault(limited, path="/blobs/", times=4)  # one blob may meet them all
    descriptor = pull(x(registry, "big"), store)
    assert parts(store, descriptor) == whole(store)
    asked = 1 if retry_after == "1" else 0
    assert 4 == sum(pause == asked for pause in pauses)
    assert all(0 <= pause <= asked for pause in pauses)
    assert 4 + 4 == registry.count(path="/blobs/")


@pytest.mark.parametrize("how", ["one use", "expired"])
def test_tokens_may_end_at_any_time(store: Store, how: str) -> None:
    """They are renewed in the middle of blobs too, and all comes."""
    with Registry(auth="bearer", token_uses=1 if how == "one use" else None) as registry:
        registry.add_image("library/x", "big", layers=[BIG, SMALL, b"tiny"])
        registry.fault(Cut(1_000_000), path=str(Digest.of(BIG)), times=1)

        def tell(event: Event) -> None:
            if isinstance(event, Finished):
                registry.expire_tokens()

        descriptor = pull(x(registry, "big"), store, remote=remote(registry), jobs=1, progress=tell)
        assert parts(store, descriptor) == whole(store)
        assert registry.count(path="/token") >= (6 if how == "one use" else 2)
        served = [r for r in registry.requests if r.path.endswith(str(Digest.of(BIG))) and r.status in {200, 206}]
        assert len(BIG) == sum(request.body_bytes_sent for request in served)


def mirrored(registry: Registry, mirror: Registry, folder: Path) -> Hosts:
    """Hosts that ask the mirror for what has a digest."""
    (folder / registry.host).mkdir(parents=True)
    (folder / registry.host / "hosts.toml").write_text(f'[host."{mirror.url}"]\ncapabilities = ["pull"]')
    return Hosts(hosts_dir=folder)


@pytest.mark.parametrize(
    ("fault", "twice"),
    [(Cut(1_000_000), False), (Cut(None), False), (Status(503), False), (WrongBytes(2_000_000), True)],
)
def test_a_mirror_may_die_in_the_middle(
    registry: Registry, store: Store, tmp_path: Path, fault: Fault, twice: bool
) -> None:
    """The registry goes on where it was; only what the mirror got wrong is fetched again."""
    with Registry(content_of=registry) as mirror:
        hosts = mirrored(registry, mirror, tmp_path / "hosts")
        mirror.fault(fault, path=str(Digest.of(BIG)))
        descriptor = pull(x(registry, "big"), store, remote=remote(registry, hosts=hosts))
        assert parts(store, descriptor) == whole(store)
        assert mirror.count() > 0
        sent = sum(server.count_bytes(path=str(Digest.of(BIG))) for server in (registry, mirror))
        assert (2 * len(BIG) if twice else len(BIG)) == sent


@pytest.mark.parametrize("by", [-1, 1])
@pytest.mark.parametrize("what", ["layer", "config", "manifest"])
def test_a_wrong_size_is_refused(registry: Registry, store: Store, what: str, by: int) -> None:
    """What a document says of a size holds, up to the byte; nothing of it is kept, and nothing gets a name."""
    image = registry.add_image("y", layers=[SMALL], platform="linux/amd64")
    fields = json.loads(remote_bytes(registry, "y", image.digest))
    for entry in {"layer": fields["layers"], "config": [fields["config"]], "manifest": []}[what]:
        entry["size"] += by
    changed = evolve(registry.add_manifest("y", fields, media.OCI_MANIFEST), platform=image.platform)
    if what == "manifest":
        changed = evolve(image, size=image.size + by)
    registry.add_index("y", "1", manifests=[changed])
    with pytest.raises((SizeMismatch, Unreachable)):
        pull(f"{registry.locator('y')}:1", store, platform="linux/amd64")
    wait_until(lambda: not busy())
    assert {} == store.images()
    whole(store)


def test_wrong_bytes_are_not_kept(registry: Registry, store: Store) -> None:
    """Nothing of them is left, the good blobs stay, and there is no name."""
    registry.fault(WrongBytes(2_500_000), path=str(Digest.of(BIG)))
    with pytest.raises(DigestMismatch):
        pull(x(registry, "big"), store, jobs=1)
    assert ({}, {}) == (store.images(), offsets(store))
    assert Digest.of(BIG) not in whole(store)


def test_indexes_are_followed_so_far(registry: Registry, store: Store) -> None:
    """An index in an index in an index is; one more is refused, by platform and as a whole, before blobs come."""
    inner = registry.add_image("y", layers=[b"1"], platform="linux/amd64")
    platform = inner.platform
    for depth in range(1, 6):
        inner = evolve(registry.add_index("y", str(depth), manifests=[inner]), platform=platform)
    for depth in (1, 2, 3):
        pull(f"{registry.locator('y')}:{depth}", store, all_platforms=True)
        pull(f"{registry.locator('y')}:{depth}", store, platform="linux/amd64")
    other = Store(store.root.parent / "other")
    registry.reset()
    for depth in (4, 5):
        with pytest.raises(LimitExceeded, match="deep"):
            pull(f"{registry.locator('y')}:{depth}", other, all_platforms=True)
        with pytest.raises(LimitExceeded, match="deep"):
            pull(f"{registry.locator('y')}:{depth}", other, platform="linux/amd64")
    assert (0, False) == (registry.count(path="/blobs/"), other.root.exists())


@pytest.mark.parametrize(
    ("bound", "value", "match"),
    [
        ("MAX_DOCUMENTS", 3, "more than 3 manifests"),
        ("MAX_DOCUMENT_BYTES", 3000, "more than 3000 bytes"),
        ("MAX_BLOBS", 6, "more than 6 blobs"),
    ],
)
def test_an_image_has_bounds(
    registry: Registry, store: Store, monkeypatch: pytest.MonkeyPatch, bound: str, value: int, match: str
) -> None:
    """Documents, their bytes and blobs are counted, and no blob is asked for when there are too many."""
    monkeypatch.setattr(transfer.graph, bound, value)
    with pytest.raises(LimitExceeded, match=match):
        pull(x(registry), store, all_platforms=True)
    assert (0, False) == (registry.count(path="/blobs/"), store.root.exists())
    assert registry.count() <= 6


@pytest.mark.parametrize("case", ["two layers", "layer and manifest", "two children", "child and itself"])
def test_one_digest_has_one_size(registry: Registry, store: Store, case: str) -> None:
    """Who says two sizes of one digest is refused before a blob is asked for."""
    image = registry.add_image("y", layers=[b"1"], platform="linux/amd64")
    layer = registry.add_blob("y", SMALL, media_type=media.OCI_LAYER)
    config = registry.add_blob("y", b"{}", media_type=media.OCI_CONFIG)

    def manifest(*layers: Descriptor) -> Descriptor:
        fields = {
            "schemaVersion": 2,
            "config": config.to_fields(),
            "layers": [one.to_fields() for one in layers],
        }
        return registry.add_manifest("y", fields, media.OCI_MANIFEST)

    children = {
        "two layers": [manifest(layer, evolve(layer, size=1))],
        "layer and manifest": [image, manifest(evolve(image, media_type=media.OCI_LAYER, size=1, platform=None))],
        "two children": [image, evolve(image, size=image.size + 1)],
        "child and itself": [image, evolve(image, media_type="text/plain", size=1)],
    }
    registry.add_index("y", "1", manifests=children[case])
    with pytest.raises(MalformedDocument, match="is said to have"):
        pull(f"{registry.locator('y')}:1", store, all_platforms=True)
    assert 0 == registry.count(path="/blobs/")


@pytest.mark.slow
def test_a_document_is_fetched_once(registry: Registry, store: Store) -> None:
    """However often indexes refer to it, and where a manifest has it among its layers, too."""
    image = registry.add_image("y", layers=[b"1"], platform="linux/amd64")
    fields = json.loads(remote_bytes(registry, "y", image.digest))
    # As a bundle of images has it: the layers of the one in it have to come all the same.
    fields["layers"] = [evolve(image, platform=None).to_fields()]
    hiding = registry.add_manifest("y", fields, media.OCI_MANIFEST)
    inner = registry.add_index("y", manifests=[image] * 100)
    registry.add_index("y", "1", manifests=[hiding, *[image] * 50, *[inner] * 50])
    registry.reset()
    descriptor = pull(f"{registry.locator('y')}:1", store, all_platforms=True)
    assert 4 == registry.count(path="/manifests/")
    assert 2 == registry.count(path="/blobs/")
    assert Digest.of(b"1") in whole(store)
    assert parts(store, descriptor) == whole(store)


def test_an_index_cannot_contain_itself(registry: Registry, store: Store) -> None:
    """Its digest would have to be in its own bytes: a registry that says so is caught at the first document."""
    own = Digest.of(b"chosen")
    fields = {"schemaVersion": 2, "mediaType": media.OCI_INDEX}
    itself = {"mediaType": media.OCI_INDEX, "digest": str(own), "size": 230}
    raw = json.dumps({**fields, "manifests": [itself]}).encode()
    itself["size"] = len(raw)
    registry.add_manifest("y", {**fields, "manifests": [itself]}, media.OCI_INDEX, digest=own, tags=["1"])
    with pytest.raises(DigestMismatch):
        pull(f"{registry.locator('y')}:1", store, all_platforms=True)
    assert (1, False) == (registry.count(), store.root.exists())


def test_another_kind_of_remote_is_held_to_the_same(store: Store) -> None:
    """Who only fetches is enough; what it gives is verified, and so is the size that the index says."""

    class Folder:
        def __init__(self, by: int = 0) -> None:
            self.locator: Locator = distsdk.Locator.parse("models.invalid/x")
            config, layer = (Blob.from_bytes(data, media_type=media.OCI_LAYER) for data in (b"{}", SMALL))
            fields = {
                "schemaVersion": 2,
                "config": config.descriptor.to_fields(),
                "layers": [layer.descriptor.to_fields()],
            }
            manifest = Blob.from_bytes(json.dumps(fields).encode(), media_type=media.OCI_MANIFEST)
            child = evolve(manifest.descriptor, size=manifest.size + by)
            raw = json.dumps({"schemaVersion": 2, "manifests": [child.to_fields()]}).encode()
            index = Blob.from_bytes(raw, media_type=media.OCI_INDEX)
            self.blobs = {str(blob.digest): blob for blob in (config, layer, manifest)} | {"1": index}

        def fetch(self, object: str | Object | Digest | Descriptor, *hints: str | distsdk.Hint) -> Blob:
            return self.blobs[str(object.digest if isinstance(object, Descriptor) else object)]

    descriptor = pull("models.invalid/x:1", store, remote=Folder(), all_platforms=True)
    assert parts(store, descriptor) == whole(store)
    other = Store(store.root.parent / "other")
    with pytest.raises(SizeMismatch):
        pull("models.invalid/x:1", other, remote=Folder(by=1), all_platforms=True)
    assert {} == other.images()


# How it ends


@pytest.mark.slow
@posix
def test_an_interrupt_ends_it_and_the_next_one_goes_on(registry: Registry, store: Store) -> None:
    """In the middle of blobs that do not come: 130, soon and without a word; what was here is not sent again."""
    big = str(Digest.of(BIG))
    registry.fault(Stall(after=2_000_000), path=big, times=1)
    registry.fault(Stall(after=None), path=str(Digest.of(SMALL)), times=1)
    command = [*COMMAND, "--store", str(store.root), "pull", x(registry, "big")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
        try:
            wait_until(lambda: offsets(store).get(big, 0) >= 1_900_000 and registry.count(path=str(Digest.of(SMALL))))
            process.send_signal(signal.SIGINT)
            out, said = process.communicate(timeout=HANGS)
        finally:
            process.kill()
    assert (130, b"", b"") == (process.returncode, out, said.strip())
    assert {} == store.images()
    had = offsets(store)[big]
    registry.reset()
    descriptor = pull(x(registry, "big"), store)
    assert parts(store, descriptor) == whole(store)
    [request] = [request for request in registry.requests if request.path.endswith(big)]
    assert (f"bytes={had}-{len(BIG) - 1}", len(BIG) - had) == (request.headers["Range"], request.body_bytes_sent)


@pytest.mark.slow
@posix
def test_a_killed_one_leaves_nothing_half(registry: Registry, store: Store) -> None:
    """SIGKILL at any time: what is visible is whole, the next one goes on, and all in all little is sent twice."""
    command = [*COMMAND, "--store", str(store.root), "pull", x(registry, "big")]
    big = str(Digest.of(BIG))
    for offset in (0, 700_000, 1_500_000, 2_900_000):
        registry.fault(Stall(after=max(offset - offsets(store).get(big, 0), 0), seconds=60), path=big, times=1)
        before = registry.count(path=big)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT) as process:
            try:
                wait_until(lambda before=before: registry.count(path=big) > before)  # type: ignore[misc] # a default
                wait_until(lambda offset=offset: offsets(store).get(big, 0) >= offset)  # type: ignore[misc] # as above
            finally:
                process.kill()
        assert {} == store.images()
        assert Digest.of(BIG) not in whole(store)
        registry.clear_faults()
    done = subprocess.run(command, capture_output=True, check=False, timeout=HANGS, env=ENVIRONMENT)
    assert (0, b"") == (done.returncode, done.stderr)
    assert parts(store, store.images()[x(registry, "big")]) == whole(store)
    assert {} == offsets(store)
    assert registry.count_bytes(path="/blobs/") <= 1.2 * sum(info.size for info in store.blobs())


@pytest.mark.slow
@posix
def test_two_processes_fetch_each_blob_once(registry: Registry, store: Store) -> None:
    """They pull the same image at once, and more of them too: the blobs are shared out among them."""
    go_on = threading.Event()
    registry.fault(Stall(after=10, event=go_on), path=str(Digest.of(BIG)))
    command = [*COMMAND, "--store", str(store.root), "pull", x(registry, "big")]
    pipe = subprocess.PIPE
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(command, stdout=pipe, stderr=pipe, env=ENVIRONMENT)) for _ in range(3)
        ]
        for process in processes:
            stack.callback(process.kill)
        try:
            wait_until(lambda: registry.count(path="/manifests/") == len(processes))
        finally:
            go_on.set()
        said = [process.communicate(timeout=HANGS) for process in processes]
    assert 1 == len(set(said))
    assert [0, 0, 0] == [process.returncode for process in processes]
    paths = [request.path for request in registry.requests if "/blobs/" in request.path]
    assert sorted(set(paths)) == sorted(paths)
    assert parts(store, store.images()[x(registry, "big")]) == whole(store)


@pytest.mark.parametrize("at", [Planned, Advanced, Finished])
@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_what_a_callback_raises_ends_it(
    registry: Registry, store: Store, at: type[Event], error: type[BaseException]
) -> None:
    """It comes out as it is; no thread stays, no name is set, and the next one goes on."""
    go_on = threading.Event()
    registry.fault(Stall(after=2_000_000, event=go_on), path=str(Digest.of(BIG)))

    def tell(event: Event) -> None:
        if isinstance(event, at):
            go_on.set()
            raise error("enough")

    with pytest.raises(error, match="enough"):
        pull(x(registry, "big"), store, progress=tell)
    wait_until(lambda: not busy())
    assert {} == store.images()
    if at is Planned:
        assert 0 == registry.count(path="/blobs/")
    descriptor = pull(x(registry, "big"), store)
    assert parts(store, descriptor) == whole(store)


def test_garbage_is_not_collected_while_something_comes(registry: Registry, store: Store) -> None:
    """A blob that no image leads to yet would be taken for it; afterwards nothing of the image is."""
    refused: list[Event] = []

    def tell(event: Event) -> None:
        with pytest.raises(BlockingIOError):
            store.gc()
        refused.append(event)

    descriptor = pull(x(registry, "big"), store, progress=tell)
    assert len(refused) > 3
    assert () == store.gc().blobs
    assert parts(store, descriptor) == whole(store)


def test_a_pull_waits_for_the_collection_of_garbage(registry: Registry, store: Store) -> None:
    """What was here when it was planned, and is removed before it begins, is fetched again."""
    pull(x(registry, "big"), store)
    store.untag(x(registry, "big"))
    collecting, planned, removed = (threading.Event() for _ in range(3))

    class Slow(Store):
        def blobs(self) -> Iterator[Info]:
            collecting.set()
            assert planned.wait(HANGS)
            time.sleep(0.2)  # the longer, the more the other one could do if it did not wait
            yield from super().blobs()
            removed.set()

    class Watching(Store):
        @contextlib.contextmanager
        def lease(self) -> Iterator[None]:
            planned.set()
            with super().lease():
                yield

    with ThreadPoolExecutor(2) as pool:
        gc = pool.submit(Slow(store.root).gc)
        assert collecting.wait(HANGS)
        pulling = pool.submit(pull, x(registry, "big"), Watching(store.root))
        descriptor = pulling.result(HANGS)
        assert removed.is_set()
        assert 5 == len(gc.result(HANGS).blobs)
    assert parts(store, descriptor) == whole(store)
    assert [x(registry, "big")] == list(store.images())


def test_no_room_is_told_beforehand(registry: Registry, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before a blob is asked for, with what it takes and what there is; what is here already takes no more."""
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1 << 40, 1 << 40, 60_000))
    with pytest.raises(OSError, match=r"2\.9 MiB are still to come, and there is room for 58\.6 KiB") as caught:
        pull(x(registry, "big"), store)
    assert (errno.ENOSPC, 0) == (caught.value.errno, registry.count(path="/blobs/"))
    assert {} == store.images()
    store.ingest(Blob.from_bytes(BIG))
    pull(x(registry, "big"), store)


def test_a_folder_that_is_something_else_is_refused(registry: Registry, store: Store) -> None:
    """Nothing is written into it, and nothing is fetched but documents."""
    store.root.mkdir()
    (store.root / "thesis.txt").write_text("chapter 1")
    with pytest.raises(InvalidConfig, match=r"thesis\.txt"):
        pull(x(registry, "big"), store)
    assert ({"thesis.txt": b"chapter 1"}, 0) == (files(store.root), registry.count(path="/blobs/"))


@posix
def test_a_folder_that_cannot_be_written_is_told(registry: Registry, store: Store) -> None:
    """As an error of the system that names the file, before a blob is asked for."""
    pull(x(registry, "linux-amd64"), store)  # what is imported late, somebody without rights could not
    registry.reset()
    with tempfile.TemporaryDirectory() as folder, powerless():
        for place in (Path(folder), Path(folder, "store")):
            with pytest.raises(PermissionError) as caught:
                pull(x(registry, "big"), place)
            assert str(caught.value.filename).startswith(folder)
    assert 0 == registry.count(path="/blobs/")


@contextlib.contextmanager
def powerless() -> Iterator[None]:
    """Be somebody who may write nothing; root is let into every folder."""
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_threads_may_share_a_store(registry: Registry, store: Store) -> None:
    """Several images into one store at once: what they have in common comes once."""
    names = [x(registry, platform.replace("/", "-")) for platform in PLATFORMS] * 2
    with ThreadPoolExecutor(len(names)) as pool:
        descriptors = list(pool.map(lambda name: pull(name, store), names))
    assert set(names) == store.images().keys()
    assert set[Digest]().union(*(parts(store, descriptor) for descriptor in descriptors)) == whole(store)
    paths = [request.path for request in registry.requests if "/blobs/" in request.path]
    assert sorted(set(paths)) == sorted(paths)


@pytest.mark.parametrize("there_are", [0, 1])
def test_few_threads_are_enough(
    registry: Registry, store: Store, monkeypatch: pytest.MonkeyPatch, there_are: int
) -> None:
    """Where the system gives no more, those that there are bring it all; none at all is an error of the system."""
    start = threading.Thread.start
    started: list[threading.Thread] = []

    def begin(thread: threading.Thread) -> None:
        if thread.name.startswith("distsdk-pull"):
            if len(started) == there_are:
                raise RuntimeError("can't start new thread")
            started.append(thread)
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", begin)
    if not there_are:
        with pytest.raises(OSError, match="can't start new thread"):
            pull(x(registry), store, all_platforms=True)
        assert {} == store.images()
        return
    descriptor = pull(x(registry), store, all_platforms=True)
    assert parts(store, descriptor) == whole(store)


@pytest.mark.slow
def test_so_many_blobs_come_at_once(registry: Registry, store: Store) -> None:
    """As many as `jobs` says, and no thread is left."""
    jobs = most = 0
    lock = threading.Lock()
    now: list[str] = []

    class Counting:
        def answer(self, request: Request, respond: Callable[[Request], Response]) -> Response:
            nonlocal most
            with lock:
                now.append(request.path)
                most = max(most, len(now))
            wait_until(lambda: most >= jobs)
            time.sleep(0.1)  # one too many would show
            with lock:
                now.remove(request.path)
            return respond(request)

    registry.fault(Counting(), path="/blobs/")
    for jobs in (1, 3):
        most = 0
        pull(x(registry), Store(store.root / str(jobs)), all_platforms=True, jobs=jobs)
        assert (jobs, []) == (most, busy())
