"""Things in the place of the store's files, full disks, folders that cannot be written, a kill at every call."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import random
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from distsdk import Descriptor, Digest, DistError, NotFound, Store, Unsafe
from distsdk.content.blob import Blob
from distsdk.content.source import Stat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.unit.store.conftest import InChild, Put

    MakeImage = Callable[[str], Descriptor]

DATA = random.Random(7).randbytes(300_000)
DIGEST = Digest("sha256", hashlib.sha256(DATA).hexdigest())
NOBODY = 65534

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file that is not the store's; it is the same at the end."""
    path = tmp_path / "victim"
    path.write_bytes(b"precious")
    path.chmod(0o640)
    yield path
    found = path.lstat()
    assert (b"precious", 0o640, 1) == (path.read_bytes(), stat.S_IMODE(found.st_mode), found.st_nlink)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Path]:
    """A folder that is not the store's, with a file that has the name of a blob; it is the same at the end."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    for name in (DIGEST.hex, Digest.of(b"", "sha512").hex, "thesis.tex"):
        (folder / name).write_bytes(b"precious")
    before = sorted(folder.iterdir())
    yield folder
    assert before == sorted(folder.iterdir())
    assert {b"precious"} == {path.read_bytes() for path in before}


def symlink(path: Path, victim: Path) -> None:
    """Plant a link to somebody's file."""
    path.symlink_to(victim)


def dangling(path: Path, victim: Path) -> None:
    """Plant a link to where somebody's file might come."""
    path.symlink_to(victim.with_name("not there"))


def fifo(path: Path, _: Path) -> None:
    """Plant a pipe that nobody writes to."""
    os.mkfifo(path)


def unix_socket(path: Path, _: Path) -> None:
    """Plant a socket."""
    with socket.socket(socket.AF_UNIX) as server, tempfile.TemporaryDirectory() as short:
        server.bind(f"{short}/s")
        Path(short, "s").rename(path)


def directory(path: Path, _: Path) -> None:
    """Plant a folder that is not empty."""
    path.mkdir()
    (path / "x").touch()


PLANTS = [symlink, dangling, fifo, unix_socket, directory]


def part_of(store: Store, suffix: str, digest: Digest = DIGEST) -> Path:
    """A file of an ingest."""
    return store.root / "ingest" / f"{hashlib.sha256(str(digest).encode()).hexdigest()[:32]}{suffix}"


def ingest(store: Store) -> None:
    """Ingest, with a time limit on whatever waits."""
    signal.alarm(20)
    try:
        store.ingest(io.BytesIO(DATA), expected_digest=DIGEST)
    finally:
        signal.alarm(0)


def named_if_it_fails(path: Path, work: Callable[[], object]) -> bool:
    """Whether something could be done; where not, one line of an error names the path."""
    try:
        work()
    except (OSError, DistError) as error:
        said = str(error)
    else:
        return True
    assert path.name in said
    assert "\n" not in said
    return False


# Planted


@pytest.mark.parametrize("plant", PLANTS)
@pytest.mark.parametrize("where", ["data", "json", "lock", "blob", "index.json", "oci-layout", "index.lock", "door"])
def test_nothing_planted_is_followed(
    store: Store, put: Put, victim: Path, where: str, plant: Callable[[Path, Path], None]
) -> None:
    """What is in the place of a file is done without, or an error that names it; nothing elsewhere is touched."""
    store.tag("x", put(b"{}"))
    places = {
        "blob": store.root / "blobs/sha256" / DIGEST.hex,
        "door": store.root / "ingest/door",
        **{kind: part_of(store, f".{kind}") for kind in ("data", "json", "lock")},
    }
    path = places.get(where, store.root / where)
    path.unlink(missing_ok=True)
    plant(path, victim)
    fresh = Store(store.root)
    if named_if_it_fails(path, lambda: ingest(fresh)):
        assert DATA == fresh.open(DIGEST, verify=True).read()
    assert not victim.with_name("not there").exists()
    for care in (fresh.images, fresh.active, fresh.gc, fresh.verify, lambda: list(fresh.blobs())):
        named_if_it_fails(path, care)
    assert not victim.with_name("not there").exists()


@pytest.mark.parametrize("plant", [symlink, dangling, fifo, unix_socket])
def test_what_was_planted_for_the_bytes_is_done_without(
    store: Store, put: Put, victim: Path, plant: Callable[[Path, Path], None]
) -> None:
    """The ingest has a file of its own all the same."""
    put(b"the store is there")
    plant(part_of(store, ".data"), victim)
    plant(part_of(store, ".json"), victim)
    ingest(store)
    assert DATA == store.open(DIGEST, verify=True).read()
    assert {"door"} >= {path.name for path in (store.root / "ingest").iterdir()}


def test_bytes_that_others_can_touch_are_not_gone_on_with(store: Store, put: Put, tmp_path: Path) -> None:
    """A hard link may be changed by its other name when it was verified."""
    put(b"the store is there")
    other = tmp_path / "other"
    other.write_bytes(DATA[:1000])
    part_of(store, ".data").hardlink_to(other)
    ingest(store)
    assert (DATA[:1000], 1) == (other.read_bytes(), store.path(DIGEST).stat().st_nlink)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs root")
def test_bytes_of_another_user_are_not_gone_on_with(store: Store, put: Put) -> None:
    """They may be changed by their owner when they were verified."""
    put(b"the store is there")
    part = part_of(store, ".data")
    part.write_bytes(DATA[:1000])
    os.chown(part, NOBODY, NOBODY)
    ingest(store)
    assert (DATA, 0) == (store.path(DIGEST).read_bytes(), store.path(DIGEST).stat().st_uid)


@pytest.mark.parametrize("name", ["blobs", "blobs/sha256", "ingest"])
def test_linked_folders_are_not_written_to(store: Store, elsewhere: Path, name: str) -> None:
    """They are refused by name."""
    folder = store.root / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.symlink_to(elsewhere)
    for write in (lambda: store.ingest(Blob.from_bytes(b"x")), store.gc, lambda: store.lease().__enter__()):
        with pytest.raises(Unsafe, match=f"{name} is a link or a file, not a directory"):
            write()


@pytest.mark.parametrize("algorithm", ["sha384", "sha512"])
def test_linked_folders_of_other_algorithms(store: Store, put: Put, elsewhere: Path, algorithm: str) -> None:
    """Neither written to, nor emptied: what is in them is not the store's."""
    put(b"the store is there")
    (store.root / "blobs" / algorithm).symlink_to(elsewhere)
    with pytest.raises(Unsafe, match=f"{algorithm} is a link or a file, not a directory"):
        store.ingest(Blob.from_bytes(DATA, digest=Digest.of(DATA, algorithm)))
    assert [Digest.of(b"the store is there")] == [info.digest for info in store.gc().blobs]
    assert () == store.verify().damaged


def test_a_linked_quarantine(store: Store, put: Put, elsewhere: Path) -> None:
    """Nothing is put into it, and it is not emptied."""
    digest = put(b"x").digest
    (store.root / "quarantine").symlink_to(elsewhere)
    store.path(digest).chmod(0o644)
    store.path(digest).write_bytes(b"y")
    with pytest.raises(Unsafe, match="quarantine is a link or a file, not a directory"):
        store.verify()
    store.gc()


def test_a_folder_in_the_quarantine(store: Store, put: Put) -> None:
    """Is left, and hinders nothing."""
    put(b"x")
    (store.root / "quarantine" / "x").mkdir(parents=True)
    assert 1 == len(store.gc().blobs)
    assert (store.root / "quarantine" / "x").is_dir()


def test_a_link_in_the_place_of_a_blob(store: Store, put: Put, victim: Path) -> None:
    """Is not read; it can be deleted, or put out of the way, and the blob comes again."""
    put(b"the store is there")
    path = store.root / "blobs/sha256" / DIGEST.hex
    for heal in (lambda: store.delete(DIGEST), lambda: store.verify([DIGEST]), store.verify):
        path.symlink_to(victim)
        for read in (store.info, store.open, store.path, store.blob):
            with pytest.raises(Unsafe, match=f"{DIGEST.hex} is no file of its own, but a link"):
                read(DIGEST)
        assert DIGEST not in {info.digest for info in store.blobs()}
        heal()
        with pytest.raises(NotFound):
            store.info(DIGEST)
        ingest(store)
        assert DATA == store.open(DIGEST, verify=True).read()
        store.delete(DIGEST)


def test_a_linked_root_is_somebodys_choice(tmp_path: Path) -> None:
    """A store may be on another disk."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "store").symlink_to(tmp_path / "disk")
    ingest(Store(tmp_path / "store"))
    assert DATA == Store(tmp_path / "disk").path(DIGEST).read_bytes()


# Full, or not to be written


@pytest.mark.parametrize("call", ["os.fsync", "os.replace", "os.mkdir", "os.open"])
def test_a_full_disk_at_every_call(store: Store, image: MakeImage, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """At whichever it happens, the store is as before, or further; and once there is room, all of it is done."""
    original = getattr(os, call.removeprefix("os."))
    store.tag("old", image("old"))
    allowed = 0
    while True:
        left = allowed

        def limited(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - in place of anything
            nonlocal left
            writes = call != "os.open" or arguments[1] & os.O_CREAT
            if writes and left == 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), arguments[0])
            left -= bool(writes)
            return original(*arguments, **options)

        fresh = Store(store.root)
        with monkeypatch.context() as patch:
            patch.setattr(call, limited)
            try:
                fresh.ingest(Blob.from_bytes(DATA, digest=Digest.of(DATA, "sha384")))
                fresh.tag("new", fresh.images()["old"])
            except OSError as error:
                assert errno.ENOSPC == error.errno  # noqa: PT017 - which calls there are is not known beforehand
                failed = True
            else:
                failed = False
        json.loads((store.root / "index.json").read_bytes())
        assert () == store.verify().damaged
        assert "old" in store.images()
        assert [] == list((store.root / "ingest").glob("*.tmp"))
        if not failed:
            break
        allowed += 1
    assert allowed >= 1
    assert ["old", "new"] == list(store.images())
    assert DATA == store.open(Digest.of(DATA, "sha384")).read()


@pytest.mark.skipif(sys.platform != "linux", reason="counts on how Linux ends a write")
def test_a_file_that_may_not_grow(store: Store, put: Put, in_child: InChild) -> None:
    """A write that takes a part and then fails: what came is gone on from, by the byte."""
    put(b"the store is there")

    def work() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_001, 100_001))
        with pytest.raises(OSError, match=r"File too large.*\.data"):
            store.ingest(io.BytesIO(DATA), expected_digest=DIGEST)

    assert 0 == in_child(work).wait()
    [active] = store.active()
    assert 100_001 == active.offset
    file = io.BytesIO(DATA)
    ingest(store)
    file.seek(0)
    assert DATA == store.open(DIGEST, verify=True).read()


@pytest.fixture
def open_folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that every user can reach; children become nobody in it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(folder, NOBODY, NOBODY)
        monkeypatch.chdir(folder)
        yield folder


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are POSIX's")
def test_a_folder_that_cannot_be_written(open_folder: Path, in_child: InChild) -> None:
    """All that reads still reads, what is there is a known outcome, and the rest is an error that names a path."""

    def work() -> None:
        store = Store(open_folder / "store")
        ingest(store)
        store.tag("x", Descriptor("a/b", DIGEST, len(DATA)))
        store.ingest(Blob.from_bytes(b"damaged"))
        damaged = Digest.of(b"damaged")
        store.path(damaged).chmod(0o644)
        store.path(damaged).write_bytes(b"DAMAGED")
        for path in [*store.root.rglob("*"), store.root]:
            path.chmod(0o555 if path.is_dir() else 0o444)
        fresh = Store(store.root)
        assert DATA == fresh.open(DIGEST, verify=True).read()
        assert (["x"], [], 2) == (list(fresh.images()), fresh.active(), len(list(fresh.blobs())))
        assert fresh.ingest(io.BytesIO(DATA), expected_digest=DIGEST).existed
        for write in (
            lambda: fresh.ingest(Blob.from_bytes(b"new")),
            lambda: fresh.tag("y", fresh.images()["x"]),
            lambda: fresh.untag("x"),
            lambda: fresh.delete(DIGEST),
            fresh.gc,
            lambda: fresh.lease().__enter__(),
            fresh.verify,
        ):
            with pytest.raises(PermissionError, match=str(store.root)):
                write()
        for path in [store.root, *store.root.rglob("*")]:
            path.chmod(0o755)

    assert 0 == in_child(work, user=NOBODY).wait()


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="permissions are POSIX's")
def test_a_kill_between_read_only_and_its_name(open_folder: Path, in_child: InChild) -> None:
    """Bytes that were made read-only and got no name are gone on with, by a user whom modes bind."""
    store = Store(open_folder / "store")

    def killed() -> None:
        replace = os.replace

        def kill(source: Path, target: Path) -> None:
            if target.name == DIGEST.hex:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(source, target)

        os.replace = kill  # type: ignore[assignment]
        ingest(store)

    def again() -> None:
        [active] = store.active()
        assert (len(DATA), 0o400) == (active.offset, stat.S_IMODE(part_of(store, ".data").stat().st_mode) & 0o600)
        shelf = Counted()
        store.ingest(Blob(shelf, DIGEST, size=len(DATA)))
        assert 0 == shelf.count
        assert (DATA, 0o444) == (store.path(DIGEST).read_bytes(), stat.S_IMODE(store.path(DIGEST).stat().st_mode))

    assert 0 == in_child(lambda: store.ingest(Blob.from_bytes(b"the store is there")), user=NOBODY).wait()
    assert -signal.SIGKILL == in_child(killed, user=NOBODY).wait()
    assert 0 == in_child(again, user=NOBODY).wait()


# Killed


class Counted:
    """A source that counts the bytes it gives, in a file that survives its process."""

    def __init__(self, log: Path | None = None, data: bytes = DATA) -> None:
        self._log = log
        self._data = data
        self.count = 0

    def open(self, offset: int, end: int | None) -> Any:  # noqa: ANN401 - a stream
        """Open a range."""
        source, left = self, io.BytesIO(self._data[offset:end])

        class Stream:
            def read(self, size: int, /) -> bytes:
                data = left.read(min(size, 50_000))
                source.count += len(data)
                if source._log is not None:
                    with source._log.open("ab") as file:
                        file.write(bytes(len(data)))
                return data

            def close(self) -> None:
                pass

        return Stream()

    def stat(self) -> Stat:
        """Tell the size."""
        return Stat(len(self._data))


def intact(store: Store) -> None:
    """Assert what holds at any moment: no wrong blob, and an index and a layout that can be read if they are there."""
    for path in (store.root / "blobs").glob("*/*"):
        assert path.name == hashlib.new(path.parent.name, path.read_bytes()).hexdigest()
        assert 0 == path.stat().st_mode & 0o222
    for name in ("index.json", "oci-layout"):
        if (store.root / name).exists():
            json.loads((store.root / name).read_bytes())


@pytest.mark.slow
def test_a_kill_before_every_call(store: Store, tmp_path: Path, in_child: InChild) -> None:
    """From an empty folder to a named image: the next process ends what the last began, without a byte that was here.

    Calls are those that open, lock, rename, remove, synchronise, or change a mode.
    """
    log = tmp_path / "log"
    manifest = json.dumps({"layers": [Descriptor("a/b", DIGEST, len(DATA)).to_fields()]}).encode()
    descriptor = Descriptor("application/vnd.oci.image.manifest.v1+json", Digest.of(manifest), len(manifest))
    events = {"open", "os.rename", "os.remove", "os.mkdir", "os.chmod", "os.utime", "fcntl.flock", "os.truncate"}

    def work(killed_at: int) -> None:
        with store.lease():
            left = killed_at

            def count(event: str, arguments: tuple[object, ...]) -> None:
                nonlocal left
                if event in events and (event != "open" or str(arguments[0]).startswith(str(store.root))):
                    left -= 1
                    if left == 0:
                        os.kill(os.getpid(), signal.SIGKILL)

            fsync = os.fsync

            def synchronise(file: int) -> None:
                count("fcntl.flock", ())
                fsync(file)

            os.fsync = synchronise  # type: ignore[assignment]
            sys.addaudithook(count)
            fresh = Store(store.root)
            fresh.ingest(Blob(Counted(log), DIGEST, size=len(DATA)))
            fresh.ingest(Blob.from_bytes(manifest))
            fresh.tag("x", descriptor)

    store.ingest(Blob.from_bytes(b""))  # what is imported late is imported now
    moments = 0
    while True:
        moments += 1
        shutil.rmtree(store.root, ignore_errors=True)
        log.write_bytes(b"")
        code = in_child(partial(work, moments)).wait()
        intact(store)
        if code == 0:
            break
        assert -signal.SIGKILL == code
        assert 0 == in_child(lambda: work(0)).wait()
        intact(store)
        assert log.stat().st_size <= len(DATA) + 50_000
        assert {"x": Digest.of(manifest)} == {name: found.digest for name, found in store.images().items()}
        assert 2 == len(list(store.blobs()))
        assert [] == store.active()
        assert () == store.gc().blobs
        assert {"door"} >= {path.name for path in (store.root / "ingest").iterdir()}
        assert {"blobs", "commits", "ingest", "index.json", "index.lock", "oci-layout"} >= {
            path.name for path in store.root.iterdir()
        }
    assert moments > 30


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("jq") or not shutil.which("sha256sum"), reason="needs jq and coreutils")
def test_thirty_kills() -> None:
    """The kill loop of `make soak`, in short: it fails where a phase was never hit, and tells what it found."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.kills", "30"],
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert "30 kills" in done.stdout
