from __future__ import annotations

import fcntl
import hashlib
import io
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from attrs import define, field
from hypothesis import given
from hypothesis import strategies as st

from distsdk.content.blob import Blob
from distsdk.content.source import Stat
from distsdk.errors import DigestMismatch, DistError, NotFound, SizeMismatch, Unreachable
from distsdk.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1024 * 1024
DATA = random.Random(5).randbytes(3 * MIB + 17)
DIGEST = Digest("sha256", hashlib.sha256(DATA).hexdigest())
PART = f".blob.sha256-{DIGEST.hex}.part"


@define(eq=False)
class Stream:
    """What `Shelf` opens."""

    shelf: Shelf
    position: int
    end: int
    to_skip: int

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, or raise at the byte where the shelf breaks."""
        self.position += self.to_skip
        self.to_skip = 0
        shelf = self.shelf
        end = min(self.end, self.position + min(size, shelf.step))
        if shelf.breaks is not None:
            end = min(end, shelf.breaks)
            if self.position >= shelf.breaks:
                raise shelf.error
        data = shelf.data[self.position : end]
        self.position = end
        with shelf.lock:
            shelf.count += len(data)
        return data

    def close(self) -> None:
        """Be closed."""


@define(eq=False)
class Shelf:
    """A source that may break at a byte, and takes down what it was asked."""

    data: bytes = DATA
    breaks: int | None = None
    error: BaseException = field(factory=lambda: Unreachable("the connection broke"))
    step: int = 64 * 1024
    ignores_ranges: bool = False
    stat_: Stat = field(factory=lambda: Stat(len(DATA)))
    opened: list[tuple[int, int | None]] = field(factory=list)
    count: int = 0
    asked: int = 0
    lock: threading.Lock = field(factory=threading.Lock)

    def open(self, offset: int, end: int | None) -> Stream:
        """Open a range."""
        self.opened.append((offset, end))
        if self.ignores_ranges:
            return Stream(self, 0, len(self.data), offset)
        return Stream(self, offset, len(self.data) if end is None else min(end, len(self.data)), 0)

    def stat(self) -> Stat:
        """Tell the size."""
        self.asked += 1
        return self.stat_


def blob_over(shelf: Shelf, size: int | None = len(DATA)) -> Blob:
    """A blob that is to be `DATA`."""
    return Blob(shelf, DIGEST, size=size)


def names(folder: Path) -> list[str]:
    """What a folder holds."""
    return sorted(path.name for path in folder.iterdir())


# Going on


@pytest.mark.parametrize("connections", [None, 1, 4])
def test_a_failed_save_is_gone_on_with(tmp_path: Path, connections: int | None) -> None:
    """What came before the break is kept beside the target, and only the rest is asked for the next time."""
    target = tmp_path / "blob"
    target.write_bytes(b"old")
    with pytest.raises(Unreachable):
        blob_over(Shelf(breaks=2 * MIB)).save(target, resume=True, connections=connections)
    assert sorted([PART, "blob"]) == names(tmp_path)
    assert b"old" == target.read_bytes()
    kept = (tmp_path / PART).read_bytes()
    assert DATA[: 2 * MIB] == kept

    shelf = Shelf()
    assert target == blob_over(shelf).save(target, resume=True, connections=connections)
    assert DATA == target.read_bytes()
    assert ["blob"] == names(tmp_path)
    assert len(DATA) - len(kept) == shelf.count
    assert min(shelf.opened)[0] == len(kept)
    assert all(end is not None for _, end in shelf.opened)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(28, "No space left on device"), ValueError("a bug")])
def test_whatever_ends_it_leaves_what_came(tmp_path: Path, error: BaseException) -> None:
    """Ctrl-C and a full disk are no reason to fetch it again."""
    with pytest.raises(type(error)):
        blob_over(Shelf(breaks=MIB, error=error)).save(tmp_path / "blob", resume=True)
    assert DATA[:MIB] == (tmp_path / PART).read_bytes()


CHILD = """
import sys, time
from distsdk.content.blob import Blob
from distsdk.content.source import Stat
from distsdk.spec.digest import Digest

class Stream:
    sent = 0
    def read(self, size):
        if self.sent >= {stops}:
            print("here", flush=True)
            time.sleep(60)
        self.sent += 65536
        return open({data!r}, "rb").read()[self.sent - 65536 : self.sent]
    def close(self): pass

class Source:
    def open(self, offset, end):
        assert offset == 0
        return Stream()
    def stat(self): return Stat({size})

Blob(Source(), Digest.parse({digest!r}), size={size}).save({target!r}, resume=True)
"""


def test_a_killed_process_is_gone_on_with(tmp_path: Path) -> None:
    """After kill -9 nothing is under the name, and the next process asks for what is missing."""
    folder = tmp_path / "there"
    folder.mkdir()
    (tmp_path / "data").write_bytes(DATA)
    stops = 20 * 65536
    script = CHILD.format(
        data=str(tmp_path / "data"), size=len(DATA), digest=str(DIGEST), target=str(folder / "blob"), stops=stops
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert "here\n" == child.stdout.readline()
        child.send_signal(signal.SIGKILL)
    assert [PART] == names(folder)
    shelf = Shelf()
    blob_over(shelf).save(folder / "blob", resume=True)
    assert DATA == (folder / "blob").read_bytes()
    assert ([(stops, len(DATA))], len(DATA) - stops) == (shelf.opened, shelf.count)
    assert ["blob"] == names(folder)


@pytest.mark.parametrize("size", [None, len(DATA)])
def test_what_is_whole_already_is_not_asked_for(tmp_path: Path, size: int | None) -> None:
    """A file that could not be renamed needs no request, not even for its size."""
    (tmp_path / PART).write_bytes(DATA)
    shelf = Shelf()
    blob_over(shelf, size).save(tmp_path / "blob", resume=True)
    assert ([], 0) == (shelf.opened, shelf.asked)
    assert DATA == (tmp_path / "blob").read_bytes()
    assert ["blob"] == names(tmp_path)


def test_a_place_that_cannot_be_written_keeps_what_came(tmp_path: Path) -> None:
    """A folder in the file's place is Python's own error; once it is gone nothing has to be fetched again."""
    (tmp_path / "blob").mkdir()
    with pytest.raises(OSError, match="blob"):
        blob_over(Shelf()).save(tmp_path / "blob", resume=True)
    (tmp_path / "blob").rmdir()
    shelf = Shelf()
    blob_over(shelf).save(tmp_path / "blob", resume=True)
    assert (DATA, []) == ((tmp_path / "blob").read_bytes(), shelf.opened)


@pytest.mark.parametrize("told", [len(DATA), None])
def test_going_on_needs_the_size(tmp_path: Path, told: int | None) -> None:
    """It is asked for where it is not known, for a closed range; where nobody tells, all is fetched again."""
    (tmp_path / PART).write_bytes(DATA[:MIB])
    shelf = Shelf(stat_=Stat(told))
    blob_over(shelf, None).save(tmp_path / "blob", resume=True)
    assert [(0, None) if told is None else (MIB, told)] == shelf.opened
    assert DATA == (tmp_path / "blob").read_bytes()


def test_a_source_that_ignores_ranges_is_read_over(tmp_path: Path) -> None:
    """Its bytes are taken from where they are missing."""
    (tmp_path / PART).write_bytes(DATA[:MIB])
    shelf = Shelf(ignores_ranges=True)
    blob_over(shelf).save(tmp_path / "blob", resume=True)
    assert DATA == (tmp_path / "blob").read_bytes()
    assert [(MIB, len(DATA))] == shelf.opened


# Bytes that are not right


@pytest.mark.parametrize(
    ("kept", "asked"),
    [
        (bytes(MIB), [(MIB, len(DATA)), (0, None)]),
        (DATA[: MIB - 1] + b"\0", [(MIB, len(DATA)), (0, None)]),
        (DATA[:-1] + b"\0", [(0, None)]),
        (DATA + b"\0", [(0, None)]),
        (b"", [(0, None)]),
    ],
    ids=["zeros", "last byte", "whole", "longer", "empty"],
)
def test_wrong_bytes_are_fetched_again(tmp_path: Path, kept: bytes, asked: list[tuple[int, int | None]]) -> None:
    """What was kept and turns out to be wrong is not used, and the same call brings the right bytes."""
    (tmp_path / PART).write_bytes(kept)
    shelf = Shelf()
    blob_over(shelf).save(tmp_path / "blob", resume=True)
    assert DATA == (tmp_path / "blob").read_bytes()
    assert asked == shelf.opened
    assert ["blob"] == names(tmp_path)


@pytest.mark.parametrize(
    ("data", "error"), [(b"\0" + DATA[1:], DigestMismatch), (DATA[:-1] + b"\0", DigestMismatch), (b"", SizeMismatch)]
)
@pytest.mark.parametrize("kept", [b"", b"\0" * MIB, b"\0" * len(DATA)], ids=["nothing", "some", "all"])
def test_a_source_that_is_wrong_is_not_asked_for_ever(
    tmp_path: Path, kept: bytes, data: bytes, error: type[DistError]
) -> None:
    """Where something was kept, all is fetched once more; what came then is kept no longer."""
    (tmp_path / PART).write_bytes(kept)
    shelf = Shelf(data)
    with pytest.raises(error):
        blob_over(shelf).save(tmp_path / "blob", resume=True)
    assert [*([(MIB, len(DATA))] if len(kept) == MIB else []), (0, None)] == shelf.opened
    assert [] == names(tmp_path)


class Wrong(Shelf):
    """One whose ranges hold zeros, fewer of them than there should be, or more."""

    zeros = len(DATA)

    def open(self, offset: int, end: int | None) -> Stream:
        """Open a range."""
        self.data = DATA if end is None else bytes(self.zeros)
        return super().open(offset, end)


@pytest.mark.parametrize("zeros", [len(DATA), MIB, 2 * len(DATA)])
@pytest.mark.parametrize("size", [None, len(DATA)])
@pytest.mark.parametrize("connections", [None, 4])
def test_wrong_ranges_are_done_without(tmp_path: Path, size: int | None, zeros: int, connections: int | None) -> None:
    """Where what was kept is right, and the range is not, one request for everything brings the bytes."""
    (tmp_path / PART).write_bytes(DATA[:MIB])
    shelf = Wrong()
    shelf.zeros = zeros
    blob_over(shelf, size).save(tmp_path / "blob", resume=True, connections=connections)
    assert DATA == (tmp_path / "blob").read_bytes()
    assert (0, None) == shelf.opened[-1]


def test_what_was_wrong_is_not_kept_behind_what_is_right(tmp_path: Path) -> None:
    """When fetching again breaks, what is there is what came."""
    (tmp_path / PART).write_bytes(bytes(2 * MIB))

    class Breaking(Wrong):
        def open(self, offset: int, end: int | None) -> Stream:
            self.breaks = MIB if end is None else None
            return super().open(offset, end)

    with pytest.raises(Unreachable):
        blob_over(Breaking()).save(tmp_path / "blob", resume=True)
    assert DATA[:MIB] == (tmp_path / PART).read_bytes()


def test_an_empty_blob_is_asked_for(tmp_path: Path) -> None:
    """That there is nothing yet is not taken for all there is."""
    shelf = Shelf(b"", breaks=0, error=NotFound("404"))
    for resume in (False, True):
        with pytest.raises(NotFound):
            Blob(shelf, Digest.of(b""), size=0).save(tmp_path / "blob", resume=resume)
    Blob(Shelf(b""), Digest.of(b""), size=0).save(tmp_path / "blob", resume=True)
    assert b"" == (tmp_path / "blob").read_bytes()


def test_a_declared_size_counts_for_what_was_kept(tmp_path: Path) -> None:
    """Bytes with the right digest and another size than declared are as wrong as when they are fetched."""
    for declared in (len(DATA) - 1, len(DATA) + 1):
        (tmp_path / PART).write_bytes(DATA)
        with pytest.raises(SizeMismatch):
            blob_over(Shelf(), declared).save(tmp_path / "blob", resume=True)
        assert [] == names(tmp_path)


def test_what_is_not_there_leaves_nothing(tmp_path: Path) -> None:
    """A blob of which no byte came has nothing to go on with."""
    with pytest.raises(NotFound):
        blob_over(Shelf(breaks=0, error=NotFound("404"))).save(tmp_path / "blob", resume=True)
    assert [] == names(tmp_path)


def test_other_bytes_have_another_file(tmp_path: Path) -> None:
    """What was kept for another digest is not mixed in."""
    other = f".blob.sha256-{'0' * 64}.part"
    (tmp_path / other).write_bytes(b"other")
    blob_over(Shelf()).save(tmp_path / "blob", resume=True)
    assert DATA == (tmp_path / "blob").read_bytes()
    assert b"other" == (tmp_path / other).read_bytes()


# A part that is not ours


def make_link(part: Path, victim: Path) -> None:
    """A link to another file."""
    part.symlink_to(victim)


def make_dangling(part: Path, victim: Path) -> None:
    """A link to a file that is not there."""
    part.symlink_to(victim.with_name("not there"))


def make_hard_link(part: Path, victim: Path) -> None:
    """Another file under this name."""
    part.hardlink_to(victim)


def make_fifo(part: Path, _: Path) -> None:
    """A pipe that nobody reads."""
    os.mkfifo(part)


def make_folder(part: Path, _: Path) -> None:
    """A folder."""
    part.mkdir()


@pytest.mark.parametrize("make", [make_link, make_dangling, make_hard_link, make_fifo, make_folder])
def test_what_is_no_file_of_its_own_is_left_alone(tmp_path: Path, make: Callable[[Path, Path], None]) -> None:
    """Nothing is written through a link, and what lies there does not keep the bytes from coming."""
    victim = tmp_path / "victim"
    victim.write_bytes(DATA[:1000])
    folder = tmp_path / "there"
    folder.mkdir()
    make(folder / PART, victim)
    before = (folder / PART).lstat()
    shelf = Shelf()
    blob_over(shelf).save(folder / "blob", resume=True)
    assert DATA == (folder / "blob").read_bytes()
    assert stat.S_ISREG((folder / "blob").lstat().st_mode)
    assert [(0, None)] == shelf.opened
    assert DATA[:1000] == victim.read_bytes()
    assert (before.st_ino, before.st_mode) == ((folder / PART).lstat().st_ino, (folder / PART).lstat().st_mode)
    assert sorted([PART, "blob"]) == names(folder)
    assert ["there", "victim"] == names(tmp_path)


def test_another_process_is_not_disturbed(tmp_path: Path) -> None:
    """While somebody has the part, it is left alone and the bytes are fetched apart from it."""
    (tmp_path / PART).write_bytes(DATA[:MIB])
    with (tmp_path / PART).open("rb+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        shelf = Shelf()
        blob_over(shelf).save(tmp_path / "blob", resume=True)
        assert [(0, None)] == shelf.opened
    assert DATA == (tmp_path / "blob").read_bytes()
    assert DATA[:MIB] == (tmp_path / PART).read_bytes()
    with (tmp_path / PART).open("rb+") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(Unreachable):
            blob_over(Shelf(breaks=MIB)).save(tmp_path / "blob", resume=True)
    assert sorted([PART, "blob"]) == names(tmp_path)


def test_what_was_taken_away_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where another process finishes between opening and locking, its file is not the part any more."""
    (tmp_path / PART).write_bytes(DATA[:MIB])
    lock = fcntl.flock

    def late(file: io.FileIO, how: int) -> None:
        (tmp_path / PART).rename(tmp_path / "theirs")
        lock(file, how)

    monkeypatch.setattr(fcntl, "flock", late)
    blob_over(Shelf()).save(tmp_path / "blob", resume=True)
    assert (DATA, DATA[:MIB]) == ((tmp_path / "blob").read_bytes(), (tmp_path / "theirs").read_bytes())
    assert ["blob", "theirs"] == names(tmp_path)


def test_several_may_save_the_same(tmp_path: Path) -> None:
    """Threads that want the same file at once all get it, and leave nothing else."""
    (tmp_path / PART).write_bytes(DATA[:MIB])
    failures: list[BaseException] = []

    def save() -> None:
        try:
            blob_over(Shelf(step=1000)).save(tmp_path / "blob", resume=True)
        except BaseException as error:  # noqa: BLE001 - any of them is a failure of the test
            failures.append(error)

    threads = [threading.Thread(target=save) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [] == failures
    assert DATA == (tmp_path / "blob").read_bytes()
    assert ["blob"] == names(tmp_path)


# Names and places


@pytest.mark.parametrize(
    "name",
    ["b", "n" * 255, "ü" * 127, "\N{GRINNING FACE}" * 63, "bad\udcff" * 20, ".part"],
    ids=["short", "long", "two bytes", "four bytes", "no UTF-8", "hidden"],
)
@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_any_name_that_a_file_may_have(tmp_path: Path, name: str, algorithm: str) -> None:
    """What is kept has a name that fits beside it, hidden, with the digest in it."""
    digest = Digest.of(DATA, algorithm)
    with pytest.raises(Unreachable):
        Blob(Shelf(breaks=MIB), digest, size=len(DATA)).save(tmp_path / name, resume=True)
    [kept] = names(tmp_path)
    assert kept.startswith(".")
    assert kept.endswith(f".{algorithm}-{digest.hex}.part")
    shelf = Shelf()
    Blob(shelf, digest, size=len(DATA)).save(tmp_path / name, resume=True)
    assert [(MIB, len(DATA))] == shelf.opened
    assert [name] == names(tmp_path)


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Set the umask for a test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_file_has_the_usual_permissions(tmp_path: Path, umask: Callable[[int], int], mask: int) -> None:
    """They are what the umask leaves, as for a file made by `open`."""
    umask(mask)
    path = blob_over(Shelf()).save(tmp_path / "blob", resume=True)
    assert 0o666 & ~mask == path.stat().st_mode & 0o777


def test_a_missing_folder_is_an_oserror(tmp_path: Path) -> None:
    """As without resuming, before anything is asked for."""
    shelf = Shelf()
    with pytest.raises(FileNotFoundError):
        blob_over(shelf).save(tmp_path / "no" / "blob", resume=True)
    assert ([], []) == (shelf.opened, names(tmp_path))


@pytest.mark.parametrize("resume", [False, True])
def test_the_name_comes_after_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool) -> None:
    """First the file is brought to disk, then it gets its name, then the folder is brought to disk."""
    steps: list[tuple[str, bool]] = []
    sync = os.fsync

    def note(descriptor: int) -> None:
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        steps.append((kind, (tmp_path / "blob").exists()))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", note)
    blob_over(Shelf()).save(tmp_path / "blob", resume=resume)
    assert [("file", False), ("folder", True)] == steps


class Terminal(io.StringIO):
    """Somebody looks at it."""

    def isatty(self) -> bool:
        """Return True."""
        return True


def test_progress_begins_where_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bar counts what is there already."""
    (tmp_path / PART).write_bytes(DATA[: 2 * MIB])
    monkeypatch.setattr(sys, "stderr", screen := Terminal())
    blob_over(Shelf()).save(tmp_path / "blob", resume=True, progress=True)
    assert "67%" in screen.getvalue().split("\r")[1]
    assert "100%" in screen.getvalue()


@pytest.mark.parametrize("connections", [0, 65])
def test_an_impossible_number_of_connections(tmp_path: Path, connections: int) -> None:
    """It is refused before anything is written or asked for."""
    shelf = Shelf()
    with pytest.raises(ValueError, match="connections"):
        blob_over(shelf).save(tmp_path / "blob", connections=connections)
    assert ([], []) == (shelf.opened, names(tmp_path))


# Whatever happens


@pytest.mark.slow
@given(
    data=st.binary(max_size=300),
    kept=st.one_of(st.integers(0, 300), st.binary(max_size=320)),
    runs=st.lists(st.integers(0, 300), max_size=4),
    connections=st.sampled_from([None, 1, 2]),
    known=st.booleans(),
)
def test_it_comes_to_be_the_bytes(
    data: bytes, kept: int | bytes, runs: list[int], connections: int | None, known: bool
) -> None:
    """Whatever was there, and wherever it breaks how often, the file appears with the right bytes, and then alone."""
    digest = Digest.of(data)
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "blob"
        part = Path(folder) / f".blob.sha256-{digest.hex}.part"
        part.write_bytes(kept if isinstance(kept, bytes) else data[:kept])
        for breaks in [*runs, None]:
            shelf = Shelf(data, breaks=breaks, step=7, stat_=Stat(len(data)))
            blob = Blob(shelf, digest, size=len(data) if known else None)
            try:
                blob.save(target, resume=True, connections=connections)
            except Unreachable:
                assert not target.exists()
            else:
                break
        assert data == target.read_bytes()
        assert ["blob"] == names(Path(folder))
