"""Processes and threads share a store: one download of a digest however many ask, one writer of the index at a time."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from distsdk import Digest, Store
from distsdk.content.blob import Blob
from distsdk.content.source import Stat
from distsdk.layout import locks
from distsdk.store import store as local

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from distsdk import Descriptor
    from tests.unit.store.conftest import InChild, Put

    MakeImage = Callable[[str], Descriptor]

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]

#: What a process of its own ingests: it says so when it is about to, waits to be told, and takes down what it read.
ASKER = """
import os, sys, time
from distsdk import Digest, Store
from distsdk.content.blob import Blob
from distsdk.content.source import Stat

root, data, log, digest, key = sys.argv[1:]

class Stream:
    def __init__(self, offset, end):
        self.file = open(data, "rb")
        self.file.seek(offset)
    def read(self, size):
        time.sleep(0.005)
        chunk = self.file.read(min(size, 65536))
        with open(log, "ab") as file:
            file.write(bytes(len(chunk)))
        return chunk
    def close(self):
        self.file.close()

class Source:
    def open(self, offset, end): return Stream(offset, end)
    def stat(self): return Stat(os.stat(data).st_size)

print("ready", flush=True)
sys.stdin.readline()
got = Store(root).ingest(Blob(Source(), Digest.parse(digest)), key or None)
print("existed" if got.existed else "brought")
"""


@pytest.mark.slow
def test_twenty_processes_make_one_download(tmp_path: Path) -> None:
    """Of one digest, into a store that is not there yet, and whatever each of them calls it."""
    data = os.urandom(1_000_000)
    digest = Digest("sha256", hashlib.sha256(data).hexdigest())
    (tmp_path / "data").write_bytes(data)
    root, log = tmp_path / "store", tmp_path / "log"
    arguments = [str(root), str(tmp_path / "data"), str(log), str(digest)]
    askers = [
        subprocess.Popen(
            [sys.executable, "-c", ASKER, *arguments, f"key {number}" if number % 4 == 0 else ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(20)
    ]
    try:
        for asker in askers:
            assert asker.stdout is not None
            assert "ready\n" == asker.stdout.readline()
        for asker in askers:
            assert asker.stdin is not None
            asker.stdin.write("\n")
            asker.stdin.flush()
        said = [asker.communicate(timeout=120)[0].strip() for asker in askers]
    finally:
        for asker in askers:
            asker.kill()
            asker.communicate()
    assert [0] * 20 == [asker.returncode for asker in askers]
    assert (19, 1) == (said.count("existed"), said.count("brought"))
    assert len(data) == log.stat().st_size
    store = Store(root)
    assert data == store.open(digest, verify=True).read()
    assert ([], ()) == (store.active(), store.verify().damaged)
    assert {"door"} >= {path.name for path in (root / "ingest").iterdir()}


def test_twenty_threads_make_one_download(store: Store) -> None:
    """The same within a process."""
    data = os.urandom(300_000)
    taken = []

    def chunks() -> Iterator[bytes]:
        for at in range(0, len(data), 30_000):
            taken.append(at)
            time.sleep(0.002)
            yield data[at : at + 30_000]

    digest = Digest.of(data)
    with ThreadPoolExecutor(20) as pool:
        got = list(pool.map(lambda _: store.ingest(chunks(), expected_digest=digest), range(20)))
    assert (10, 19) == (len(taken), sum(ingested.existed for ingested in got))
    assert {digest} == {ingested.digest for ingested in got}


def test_who_waits_goes_on_when_the_writer_is_killed(store: Store, in_child: InChild) -> None:
    """With what is missing; and is told meanwhile what is here."""
    data = os.urandom(300_000)
    digest = Digest.of(data)
    reading, writing = os.pipe()

    class Source:
        offset: int | None = None

        def open(self, offset: int, end: int | None) -> Any:  # noqa: ANN401 - a stream
            self.offset = offset
            return self

        def read(self, size: int, /) -> bytes:
            assert self.offset is not None
            at, self.offset = self.offset, self.offset + min(size, 50_000)
            return data[at : self.offset]

        def close(self) -> None:
            pass

        def stat(self) -> Stat:
            return Stat(len(data))

    class Stuck(Source):
        def read(self, size: int, /) -> bytes:
            if self.offset == 200_000:
                os.write(writing, b"x")
                signal.pause()
            return super().read(size)

    writer = in_child(lambda: store.ingest(Blob(Stuck(), digest)))
    os.read(reading, 1)
    told: list[int] = []

    def at(here: int) -> None:
        told.append(here)
        if len(told) == 2:
            writer.kill()

    source = Source()
    asked: list[int] = []
    opened = source.open

    def note(offset: int, end: int | None) -> Any:  # noqa: ANN401 - a stream
        asked.append(offset)
        return opened(offset, end)

    source.open = note  # type: ignore[method-assign]
    assert not store.ingest(Blob(source, digest), on_progress=at).existed
    assert [200_000] == asked
    assert [200_000, 200_000] == told[:2]
    assert data == store.open(digest).read()


def test_who_waits_can_give_up(store: Store, in_child: InChild) -> None:
    """An error from the function that is told ends the wait; the writer is not disturbed."""
    reading, writing = os.pipe()
    go_on, gone_on = os.pipe()

    def chunks() -> Iterator[bytes]:
        yield b"abc"
        os.write(writing, b"x")
        os.read(go_on, 1)
        yield b"def"

    digest = Digest.of(b"abcdef")
    writer = in_child(lambda: store.ingest(chunks(), expected_digest=digest))
    os.read(reading, 1)
    told: list[int] = []

    def at(here: int) -> None:
        told.append(here)
        raise TimeoutError

    with pytest.raises(TimeoutError):
        store.ingest([b"abcdef"], expected_digest=digest, on_progress=at)
    assert [3] == told
    os.write(gone_on, b"x")
    assert 0 == writer.wait()
    assert store.ingest([], expected_digest=digest).existed


class Clock:
    """Time that passes only during sleep.

    Args:
        at: What happens after so many seconds.
    """

    def __init__(self, on_progress: dict[float, Callable[[], object]] | None = None) -> None:
        self.now = 0.0
        self._at = dict(sorted((on_progress or {}).items()))

    def monotonic(self) -> float:
        """Return the seconds that have passed."""
        return self.now

    def time(self) -> float:
        """Return the time of day, which stands."""
        return 0.0

    def sleep(self, seconds: float) -> None:
        """Let time pass; a wait of a quarter of an hour is one without end."""
        self.now += seconds
        assert self.now < 900
        for second in [second for second in self._at if second <= self.now]:
            self._at.pop(second)()


class Holder:
    """A thread or a process that holds the ingest of a digest, and brings bytes when it is told to."""

    def __init__(self, store: Store, data: bytes) -> None:
        self._data, self._part = data, store.root / "ingest"
        self._reader, self._writer = os.pipe()
        self._started, self._starting = os.pipe()
        self._store = store

    def run(self) -> None:
        """Ingest what `bring` lets come."""

        def chunks() -> Iterator[bytes]:
            at = 0
            os.write(self._starting, b"x")
            while at < len(self._data):
                size = int.from_bytes(os.read(self._reader, 4), "big")
                yield self._data[at : at + size]
                os.write(self._starting, b"x")
                at += size

        self._store.ingest(chunks(), expected_digest=Digest.of(self._data))

    def wait(self) -> None:
        """Wait until it has begun, or written what it was told to bring."""
        os.read(self._started, 1)

    def bring(self, size: int) -> None:
        """Let it bring so many bytes."""
        os.write(self._writer, size.to_bytes(4, "big"))
        self.wait()


def test_ingest_fetches_itself_when_the_writer_is_stopped(
    store: Store, in_child: InChild, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """After 2 s the wait is reported, after a minute without bytes it ends; the stopped writer may still go on."""
    data = os.urandom(300_000)
    holder = Holder(store, data)
    writer = in_child(holder.run)
    holder.wait()
    holder.bring(100_000)
    os.kill(writer.pid, signal.SIGSTOP)
    clock, told = Clock(), []
    monkeypatch.setattr(local, "time", clock)

    def note(here: int) -> None:
        told.append((clock.now, here))

    got = store.ingest([data], expected_digest=Digest.of(data), on_progress=note)
    assert (False, data) == (got.existed, store.blob(got.digest).read())
    assert 60 <= clock.now < 61
    assert {100_000} == {here for now, here in told if now < 60}
    waited, moved = (record.getMessage() for record in caplog.records)
    assert f"waiting for another process (pid {writer.pid}) to bring {got.digest}" == waited
    assert f"another process (pid {writer.pid}) makes no progress with {got.digest}; fetching it here" == moved
    os.kill(writer.pid, signal.SIGCONT)
    holder.bring(200_000)
    assert 0 == writer.wait()
    assert (data, ()) == (store.blob(got.digest).read(), store.verify().damaged)
    assert ([], True) == (store.active(), store.ingest([], expected_digest=got.digest).existed)


@pytest.mark.parametrize(("size", "fetches"), [(50_000, True), (70_000, False)])
def test_ingest_waits_for_a_writer_that_makes_progress(
    store: Store, in_child: InChild, monkeypatch: pytest.MonkeyPatch, size: int, fetches: bool
) -> None:
    """However long all of it takes, as long as 60 KiB come in each minute; a slower writer is not waited for."""
    data = os.urandom(500_000)
    holder = Holder(store, data)
    writer = in_child(holder.run)
    holder.wait()
    clock = Clock({second: partial(holder.bring, size) for second in range(50, 600, 50)})
    monkeypatch.setattr(local, "time", clock)
    got = store.ingest([data], expected_digest=Digest.of(data))
    assert (not fetches, data) == (got.existed, store.blob(got.digest).read())
    assert (clock.now < 130) == fetches
    writer.kill()


def test_one_of_many_fetches_for_a_stopped_writer(
    store: Store, in_child: InChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that waited for the stopped one wait for the first of them that fetches; there are two downloads in all."""
    data = os.urandom(300_000)
    digest = Digest.of(data)
    holder = Holder(store, data)
    writer = in_child(holder.run)
    holder.wait()
    os.kill(writer.pid, signal.SIGSTOP)
    monkeypatch.setattr(local, "_STALLED", 0.3)
    downloads = []

    def chunks() -> Iterator[bytes]:
        downloads.append(threading.get_ident())
        yield data

    with ThreadPoolExecutor(10) as pool:
        got = list(pool.map(lambda _: store.ingest(chunks(), expected_digest=digest), range(10)))
    assert (1, 9) == (len(downloads), sum(ingested.existed for ingested in got))
    os.kill(writer.pid, signal.SIGCONT)


def test_a_wait_for_another_thread_says_so(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """No process is named where it is this one."""
    data = os.urandom(1000)
    holder = Holder(store, data)
    thread = threading.Thread(target=holder.run)
    thread.start()
    holder.wait()
    monkeypatch.setattr(local, "time", Clock({3: partial(holder.bring, 1000)}))
    assert store.ingest([], expected_digest=Digest.of(data)).existed
    thread.join()
    assert [f"waiting for another thread to bring {Digest.of(data)}"] == [r.getMessage() for r in caplog.records]


def test_a_lock_that_is_never_released_ends_the_wait(
    store: Store, put: Put, image: MakeImage, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A process that was stopped while it held the index cannot be done without: the error names its lock."""
    put(b"the store is there")
    descriptor = image("x")
    monkeypatch.setattr(locks, "SILENT_WAIT", 0)
    monkeypatch.setattr(locks, "_LONGEST_WAIT", 0)
    with (
        Store(store.root)._layout.locked(),
        pytest.raises(BlockingIOError, match=r"another process has held .*index\.lock"),
    ):
        store.tag("x", descriptor)
    assert [f"waiting for another process that holds {store.root / 'index.lock'}"] == [
        record.getMessage() for record in caplog.records
    ]
    store.tag("x", descriptor)


def test_nothing_is_removed_under_another_process(store: Store, put: Put, in_child: InChild) -> None:
    """An ingest and a lease of another process keep `gc` away until they end, or are killed."""
    loose = put(b"loose")

    def hold(writing: int) -> None:
        with store.lease():
            os.write(writing, b"x")
            signal.pause()

    def ingest(writing: int) -> None:
        def chunks() -> Iterator[bytes]:
            yield b"abc"
            os.write(writing, b"x")
            signal.pause()

        store.ingest(chunks(), "theirs")

    for work, what in ((hold, "a pull"), (ingest, "the ingest of theirs")):
        reading, writing = os.pipe()
        other = in_child(partial(work, writing))
        os.read(reading, 1)
        for dry_run in (True, False):
            with pytest.raises(BlockingIOError, match=f"{what} is going on"):
                store.gc(dry_run=dry_run)
        assert loose.digest == store.info(loose.digest).digest
        other.kill()
    assert [loose.digest] == [info.digest for info in store.gc().blobs]
    assert ["theirs"] == [active.key for active in store.active()]


def test_a_forked_child_does_not_end_the_lease_of_its_parent(store: Store, put: Put) -> None:
    """Not even if it leaves the block like its parent does."""
    put(b"loose")
    child = 0
    try:
        with store.lease():
            child = os.fork()
            if child == 0:
                sys.exit()
            assert 0 == os.waitpid(child, 0)[1]
            with pytest.raises(BlockingIOError):
                store.gc()
    except SystemExit:
        os._exit(0)
    assert 1 == len(store.gc().blobs)


def test_a_name_comes_before_or_after_the_garbage_is_removed(
    store: Store, image: MakeImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that is given while garbage is removed keeps its image or is refused: it never stands for nothing."""
    descriptor = image("x")
    started, result = threading.Event(), []

    def name() -> None:
        started.set()
        try:
            Store(store.root).tag("x", descriptor)
            result.append("named")
        except LookupError:
            result.append("refused")

    thread = threading.Thread(target=name)
    reached = store._reached

    def meanwhile() -> set[Digest]:
        found = reached()
        thread.start()
        started.wait()
        thread.join(0.3)  # longer than it takes, if nothing keeps it
        return found

    monkeypatch.setattr(store, "_reached", meanwhile)
    store.gc()
    thread.join()
    assert ["refused"] == result
    assert ({}, []) == (store.images(), list(store.blobs()))


@pytest.mark.parametrize("what", ["lease", "ingest"])
def test_nothing_begins_while_garbage_is_removed(
    store: Store, put: Put, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """What begins then would count on what is about to be removed: it waits."""
    put(b"loose")
    other, about_to, begun = Store(store.root), threading.Event(), threading.Event()
    with other.lease():
        pass  # it has seen that the folder is a layout, and takes no lock for that

    def chunks() -> Iterator[bytes]:
        begun.set()
        yield b"new"

    def begin() -> None:
        about_to.set()
        if what == "ingest":
            other.ingest(chunks(), "x")
        else:
            with other.lease():
                begun.set()

    thread = threading.Thread(target=begin)
    reached = store._reached
    meanwhile: list[bool] = []

    def wait() -> set[Digest]:
        thread.start()
        about_to.wait()
        meanwhile.append(begun.wait(0.3))  # longer than it takes, if nothing keeps it
        return reached()

    monkeypatch.setattr(store, "_reached", wait)
    assert [Digest.of(b"loose")] == [info.digest for info in store.gc().blobs]
    thread.join()
    assert ([False], True) == (meanwhile, begun.is_set())


@pytest.mark.slow
def test_no_name_is_lost(store: Store, image: MakeImage, in_child: InChild) -> None:
    """Of several processes that name and rename at the same time."""
    descriptor = image("x")

    def work(number: int) -> None:
        mine = Store(store.root)
        for turn in range(10):
            mine.tag(f"{number}-{turn}", descriptor)
            if turn % 2:
                mine.untag(f"{number}-{turn - 1}")

    children = [in_child(partial(work, number)) for number in range(6)]
    assert [0] * 6 == [child.wait() for child in children]
    assert {f"{number}-{turn}" for number in range(6) for turn in range(1, 10, 2)} == set(store.images())


def test_a_store_is_made_once(store: Store, in_child: InChild) -> None:
    """By however many begin at the same time; none takes it for something else, and none loses what another named."""

    def work(number: int) -> None:
        info = store.ingest([b"%d" % number], f"key {number}")
        blob = store.blob(info.digest, media_type="a/b")
        store.tag(f"image{number}", blob.descriptor)

    children = [in_child(partial(work, number)) for number in range(12)]
    assert [0] * 12 == [child.wait() for child in children]
    assert {f"image{number}" for number in range(12)} == set(store.images())
    assert () == store.gc().blobs


@pytest.mark.slow
def test_garbage_and_ingests_at_the_same_time(store: Store, in_child: InChild) -> None:
    """Whatever has a name at the end is whole, however often garbage was removed meanwhile."""

    def work(number: int) -> None:
        for turn in range(8):
            with store.lease():
                text = b"%d %d" % (number, turn)
                layer = store.ingest([text], expected_digest=Digest.of(text))
                manifest = b'{"layers":[{"digest":"%s"}]}' % str(layer.digest).encode()
                got = store.ingest(Blob.from_bytes(manifest))
                store.tag(f"{number}-{turn % 3}", store.blob(got.digest, media_type="a/b").descriptor)

    def collect() -> None:
        done = 0
        while done < 10:
            try:
                store.gc()
                done += 1
            except BlockingIOError:
                time.sleep(0.001)

    children = [in_child(partial(work, number)) for number in range(4)]
    collector = in_child(collect)
    assert [0] * 4 == [child.wait() for child in children]
    assert 0 == collector.wait()
    store.gc()
    images = store.images()
    assert {f"{number}-{turn}" for number in range(4) for turn in range(3)} == set(images)
    for descriptor in images.values():
        [layer] = store.blob(descriptor.digest).json()["layers"]
        assert b" " in store.blob(layer["digest"]).read()
    assert 2 * len(images) == len(list(store.blobs()))


@pytest.mark.slow
def test_locks_are_taken_by_one_at_a_time(store: Store, put: Put, in_child: InChild) -> None:
    """Writers of one key that come and go, each leaving nothing, never write at the same time."""
    put(b"the store is there")
    busy = store.root.parent / "busy"

    def broken() -> Iterator[bytes]:
        raise KeyError

    def chunks() -> Iterator[bytes]:
        descriptor = os.open(busy, os.O_CREAT | os.O_EXCL)
        try:
            time.sleep(0.0005)
        finally:
            os.close(descriptor)
            busy.unlink()
        yield from broken()

    def work() -> None:
        mine = Store(store.root)
        for _ in range(60):
            with pytest.raises(KeyError):
                mine.ingest(chunks(), "one key")

    children = [in_child(work) for _ in range(6)]
    assert [0] * 6 == [child.wait() for child in children]
