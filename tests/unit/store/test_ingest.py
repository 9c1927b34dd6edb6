"""Bytes come into the store whole and verified, or not at all, and an ingest goes on where the last one ended."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import random
import re
import shutil
import stat
import subprocess
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from attrs import define, field

from distsdk import Digest, DigestMismatch, DistError, InvalidConfig, NotFound, SizeMismatch, Store
from distsdk.content.blob import Blob
from distsdk.content.source import Stat
from distsdk.errors import Unreachable, UnsupportedDocument
from distsdk.layout import reader
from distsdk.spec.digest import Digest as ModelDigest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

MIB = 1024 * 1024
DATA = random.Random(23).randbytes(3 * MIB + 17)
DIGEST = Digest("sha256", hashlib.sha256(DATA).hexdigest())
STEP = 64 * 1024


@define(eq=False)
class Shelf:
    """A source that takes down what it was asked, and may break at a byte."""

    data: bytes = DATA
    breaks: int | None = None
    error: BaseException = field(factory=lambda: Unreachable("the connection broke"))
    opened: list[tuple[int, int | None]] = field(factory=list)
    count: int = 0

    def open(self, offset: int, end: int | None) -> Stream:
        """Open a range."""
        self.opened.append((offset, end))
        return Stream(self, offset, len(self.data) if end is None else min(end, len(self.data)))

    def stat(self) -> Stat:
        """Tell the size."""
        return Stat(len(self.data))

    def blob(self, digest: Digest = DIGEST, size: int | None = len(DATA)) -> Blob:
        """Return a blob over it."""
        return Blob(self, digest, size=size)


@define(eq=False)
class Stream:
    """What `Shelf` opens."""

    shelf: Shelf
    position: int
    end: int

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, or raise at the byte where the shelf breaks."""
        shelf = self.shelf
        end = min(self.end, self.position + min(size, STEP))
        if shelf.breaks is not None:
            end = min(end, shelf.breaks)
            if self.position >= shelf.breaks:
                raise shelf.error
        data = shelf.data[self.position : end]
        self.position = end
        shelf.count += len(data)
        return data

    def close(self) -> None:
        """Be closed."""


def files(store: Store) -> list[str]:
    """The files of a store after an ingest, by path, without locks and records of commits."""
    found = (path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if path.is_file())
    return sorted(
        path for path in found if path not in {"index.lock", "ingest/door"} and not path.startswith("commits/")
    )


def committed(*digests: Digest) -> list[str]:
    """What a store with these blobs and no ingest has."""
    return sorted([*(f"blobs/{d.algorithm}/{d.hex}" for d in digests), "index.json", "oci-layout"])


# What comes in


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
@pytest.mark.skipif(not shutil.which("sha512sum"), reason="needs coreutils")
def test_digests_are_those_of_coreutils(store: Store, tmp_path: Path, algorithm: str) -> None:
    """What is committed under a digest hashes to it, by another tool; its file is read-only and where it should be."""
    (tmp_path / "data").write_bytes(DATA)
    hexes = subprocess.run([f"{algorithm}sum", tmp_path / "data"], stdout=subprocess.PIPE, check=True).stdout.split()[0]
    digest = Digest(algorithm, hexes.decode())
    with (tmp_path / "data").open("rb") as file:
        got = store.ingest(file, expected_digest=str(digest))
    assert (digest, len(DATA), False) == (got.digest, got.size, got.existed)
    path = store.root / "blobs" / algorithm / digest.hex
    assert path == store.path(digest)
    again = subprocess.run([f"{algorithm}sum", path], stdout=subprocess.PIPE, check=True).stdout.split()[0]
    assert hexes == again
    assert 0 == path.stat().st_mode & 0o222
    assert committed(digest) == files(store)


def streams(data: bytes) -> list[tuple[str, Callable[[], Any]]]:
    """The kinds of things that can be ingested, each giving the same bytes."""

    class Pipe(io.RawIOBase):
        """A file that cannot seek, and gives a few bytes at a time."""

        def __init__(self) -> None:
            self.left = io.BytesIO(data)

        def readable(self) -> bool:
            return True

        def read(self, size: int = -1, /) -> bytes:
            return self.left.read(min(size, 1000))

    return [
        ("blob", lambda: Blob.from_bytes(data)),
        ("file", lambda: io.BytesIO(data)),
        ("pipe", Pipe),
        ("list", lambda: [data[:10], b"", data[10:]]),
        ("generator", lambda: (data[at : at + 7 * MIB] for at in range(0, len(data), 7 * MIB))),
        ("views", lambda: [memoryview(data)[:100], bytearray(data[100:])]),
    ]


@pytest.mark.parametrize("expected", [None, "sha256", "sha512"])
@pytest.mark.parametrize(("name", "make"), streams(DATA), ids=[name for name, _ in streams(DATA)])
def test_all_kinds_of_streams(store: Store, name: str, make: Callable[[], Any], expected: str | None) -> None:
    """Whatever gives the bytes, with an expected digest or without."""
    digest = Digest.of(DATA, expected or "sha256")
    got = store.ingest(make(), name, expected_digest=digest if expected else None, expected_size=len(DATA))
    assert (digest, len(DATA), False) == (got.digest, got.size, got.existed)
    assert store.path(digest).read_bytes() == DATA
    assert committed(digest) == files(store)


def test_a_file_is_read_from_where_it_stands(store: Store) -> None:
    """What was read of it before is not meant."""
    for expected in (None, DIGEST):
        file = io.BytesIO(b"before" + DATA)
        file.seek(6)
        assert DIGEST == store.ingest(file, "a", expected_digest=expected).digest
        store.delete(DIGEST)


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_nothing_at_all_is_a_blob_too(store: Store, algorithm: str) -> None:
    """The empty blob comes in like others."""
    digest = Digest.of(b"", algorithm)
    got = store.ingest(Blob.from_bytes(b"", digest=digest))
    assert (digest, 0, False) == (got.digest, got.size, got.existed)
    assert b"" == store.open(digest).read()
    assert store.ingest(iter(()), expected_digest=digest).existed


def test_what_is_there_is_a_known_outcome(store: Store) -> None:
    """It is told, without an error, and nothing is read."""
    store.ingest(Shelf().blob())
    shelf = Shelf()
    got = store.ingest(shelf.blob(), "another key")
    assert (True, DIGEST, len(DATA), []) == (got.existed, got.digest, got.size, shelf.opened)
    assert got.committed == store.info(DIGEST).committed


def test_what_is_there_takes_no_write(store: Store) -> None:
    """A digest that is there is found where nothing can be written, and by who waits for no lock."""
    store.ingest(Shelf().blob())
    (store.root / "ingest").rename(store.root / "away")
    assert Store(store.root).ingest(Shelf().blob()).existed


def test_the_time_of_the_commit_is_told(store: Store) -> None:
    """Also where the last byte came long before."""

    def at(here: int) -> None:
        if here == len(DATA):
            raise KeyError

    with pytest.raises(KeyError):
        store.ingest(Shelf().blob(), on_progress=at)
    [part] = (store.root / "ingest").glob("*.data")
    assert DATA == part.read_bytes()
    os.utime(part, (0, 0))
    shelf = Shelf()
    got = store.ingest(shelf.blob())
    assert datetime.now(UTC) - got.committed < timedelta(minutes=5)
    assert [] == shelf.opened


def test_progress_is_told(store: Store) -> None:
    """Bytes that are here, up to all of them."""
    told: list[int] = []
    store.ingest(Shelf().blob(), on_progress=told.append)
    assert sorted(told) == told
    assert (0, len(DATA)) == (told[0], told[-1])


# What is refused


@pytest.mark.parametrize("key", ["", None, "a\nb", "\x1b[31m", "\udcff", "x" * 4097])
def test_keys_that_cannot_be_keys(store: Store, key: str | None) -> None:
    """They would be shown to people, and nothing is made for them."""
    with pytest.raises(ValueError, match="1 to 4096 printable characters, or a digest"):
        store.ingest(io.BytesIO(b"x"), key)
    assert not store.root.exists()


@pytest.mark.parametrize(
    ("data", "size", "error"),
    [
        (DATA[:-1] + b"\0", None, DigestMismatch),
        (DATA[:-1], None, DistError),
        (DATA + b"\0", len(DATA), SizeMismatch),
        (DATA, len(DATA) + 1, SizeMismatch),
        (DATA, len(DATA) - 1, SizeMismatch),
        (b"", None, DistError),
    ],
)
@pytest.mark.parametrize("kind", ["blob", "file", "list"])
def test_other_bytes_than_expected_are_not_kept(
    store: Store, data: bytes, size: int | None, error: type[DistError], kind: str
) -> None:
    """Nothing of them is left."""
    kinds: dict[str, Any] = {"blob": Shelf(data).blob(size=None), "file": io.BytesIO(data), "list": [data]}
    with pytest.raises(error):
        store.ingest(kinds[kind], expected_digest=DIGEST, expected_size=size)
    assert committed() == files(store)


def test_an_expected_size_counts_without_a_digest(store: Store) -> None:
    """More or fewer bytes are not committed under whatever they hash to."""
    for size in (len(DATA) - 1, len(DATA) + 1):
        with pytest.raises(SizeMismatch):
            store.ingest(io.BytesIO(DATA), "a", expected_size=size)
    assert committed() == files(store)


@pytest.mark.parametrize("kind", ["blob", "list", "file", "no digest"])
def test_no_more_is_taken_than_expected(store: Store, kind: str) -> None:
    """A source that does not end is given up soon after the expected size."""
    taken = 0

    class Endless(Shelf):
        def stat(self) -> Stat:
            return Stat()

        def open(self, offset: int, end: int | None) -> Any:  # noqa: ANN401 - a stream of another kind
            return self

        def read(self, size: int, /) -> bytes:
            nonlocal taken
            taken += size
            assert taken < 64 * MIB
            return bytes(size)

        def close(self) -> None:
            pass

    shelf: Any = Endless()
    stream = Blob(shelf, DIGEST) if kind == "blob" else iter(lambda: shelf.read(MIB), b"") if kind == "list" else shelf
    digest = None if kind == "no digest" else DIGEST
    with pytest.raises(SizeMismatch):
        store.ingest(stream, "endless", expected_digest=digest, expected_size=MIB)
    assert taken <= 8 * MIB
    assert committed() == files(store)


def test_another_size_of_what_is_there(store: Store) -> None:
    """It is an error where the blob is right, and where it is not, the blob is brought anew."""
    store.ingest(Shelf().blob())
    with pytest.raises(SizeMismatch, match=f"is {len(DATA)} bytes, expected 5"):
        store.ingest(Shelf().blob(), expected_size=5)
    damage(store.path(DIGEST), DATA[:-1])
    got = store.ingest(Shelf().blob(), expected_size=len(DATA))
    assert (False, DATA) == (got.existed, store.open(DIGEST, verify=True).read())


def test_a_stream_that_has_nothing_yet(store: Store) -> None:
    """A file that does not wait for its bytes is not taken to have ended."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    with io.FileIO(reading) as pipe, io.FileIO(writing, "w"):
        os.write(writing, b"the first bytes")
        with pytest.raises(BlockingIOError, match="no bytes yet"):
            store.ingest(pipe, "pipe")
    assert [] == list(store.blobs())


def test_an_error_of_the_source_keeps_its_message(store: Store) -> None:
    """Which of our files was written when a connection broke says nothing."""
    for error in (Unreachable("the connection broke"), BrokenPipeError(errno.EPIPE, "Broken pipe")):
        said = str(error)
        with pytest.raises(type(error)) as caught:
            store.ingest(Shelf(breaks=MIB, error=error).blob())
        assert said == str(caught.value)


def test_writing_that_fails_names_the_file(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system does not say which one it was."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store.ingest(Blob.from_bytes(b"the store is there"))
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(OSError, match=r"No space left on device.*ingest.*\.data"):
            store.ingest(Shelf().blob())
    shelf = Shelf()
    store.ingest(shelf.blob())
    assert [] == shelf.opened


# Going on


def interrupted(store: Store, at: int = 2 * MIB, key: str | None = None) -> Path:
    """Begin to ingest, and return the file with what came."""
    with pytest.raises(Unreachable):
        store.ingest(Shelf(breaks=at).blob(), key, expected_size=len(DATA))
    [part] = (store.root / "ingest").glob("*.data")
    assert DATA[:at] == part.read_bytes()
    return part


def test_an_ingest_goes_on_where_it_was(store: Store) -> None:
    """Each byte comes once, although another store object does the rest."""
    interrupted(store)
    assert [] == list(store.blobs())
    shelf = Shelf()
    got = Store(store.root).ingest(shelf.blob())
    assert ([(2 * MIB, len(DATA))], len(DATA) - 2 * MIB) == (shelf.opened, shelf.count)
    assert (False, DATA) == (got.existed, store.path(DIGEST).read_bytes())
    assert committed(DIGEST) == files(store)


def test_an_ingest_under_another_key_goes_on_too(store: Store) -> None:
    """It is the digest that counts."""
    interrupted(store, key="one")
    shelf = Shelf()
    store.ingest(shelf.blob(), "two")
    assert len(DATA) - 2 * MIB == shelf.count


def test_another_digest_under_the_same_key_is_another_ingest(store: Store) -> None:
    """What came of one is not taken for the beginning of the other, nor lost to it."""
    interrupted(store, key="one")
    other = Shelf(b"other")
    store.ingest(other.blob(Digest.of(b"other"), 5), "one")
    shelf = Shelf()
    store.ingest(shelf.blob(), "one")
    assert (5, len(DATA) - 2 * MIB) == (other.count, shelf.count)


def test_a_file_goes_on_where_it_was(store: Store) -> None:
    """One that can seek, and of which it is known what it is to become; other streams are read once more."""

    class File(io.BytesIO):
        count = 0

        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            self.count += len(data)
            return data

    interrupted(store)
    file = File(DATA)
    store.ingest(file, expected_digest=DIGEST)
    assert len(DATA) - 2 * MIB == file.count
    store.delete(DIGEST)
    interrupted(store)
    store.ingest(iter([DATA[:5], DATA[5:]]), expected_digest=DIGEST)
    assert DATA == store.path(DIGEST).read_bytes()


@pytest.mark.parametrize("kept", [bytes(MIB), DATA[: MIB - 1] + b"\0", DATA[:-1] + b"\0", DATA + b"\0", b"\0"], ids=len)
@pytest.mark.parametrize("size", [len(DATA), None])
def test_damaged_bytes_are_fetched_again(store: Store, kept: bytes, size: int | None) -> None:
    """The same call brings the right ones."""
    interrupted(store).write_bytes(kept)
    store.ingest(Shelf().blob(size=size))
    assert DATA == store.path(DIGEST).read_bytes()
    assert committed(DIGEST) == files(store)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), OSError(errno.EIO, "Input/output error"), ValueError("a bug")])
def test_whatever_ends_it_leaves_what_came(store: Store, error: BaseException) -> None:
    """Ctrl-C and a broken source are no reason to fetch it again."""
    with pytest.raises(type(error)):
        store.ingest(Shelf(breaks=MIB, error=error).blob())
    shelf = Shelf()
    store.ingest(shelf.blob())
    assert len(DATA) - MIB == shelf.count


def test_what_is_not_there_leaves_nothing(store: Store) -> None:
    """An ingest to which no byte came has nothing to go on from."""
    with pytest.raises(NotFound):
        store.ingest(Shelf(breaks=0, error=NotFound("404")).blob())
    assert committed() == files(store)


def test_ingests_are_told_of(store: Store) -> None:
    """With what is known of them, the oldest first; there are none of what is done."""
    assert [] == store.active()
    before = datetime.now(UTC) - timedelta(seconds=1)
    interrupted(store, key="first")
    seen = []
    rest = iter([DATA[:MIB], DATA[MIB:]])

    def chunks() -> Iterator[bytes]:
        for chunk in rest:
            seen.append(store.active())
            yield chunk

    with pytest.raises(DigestMismatch):
        store.ingest(chunks(), "second", expected_digest=Digest.of(b""))
    [first, second] = seen[1]
    assert ("first", 2 * MIB, len(DATA), os.getpid()) == (first.key, first.offset, first.total, first.pid)
    assert ("second", MIB, None) == (second.key, second.offset, second.total)
    assert before <= first.started <= first.updated <= second.updated <= datetime.now(UTC) + timedelta(seconds=1)
    assert [first] == store.active()
    store.ingest(Shelf().blob())
    assert [] == store.active()


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"key":"\\u001b[31m","total":null,"started":0,"pid":1}',
        b'{"key":"k","total":"x","started":0,"pid":1}',
        b'{"key":"k","total":null,"started":1e300,"pid":1}',
        b'{"key":"k","total":null,"started":null,"pid":1}',
        b"\xff",
        None,
    ],
)
def test_an_ingest_whose_note_is_damaged(store: Store, state: bytes | None) -> None:
    """It is known by its file, goes on, and goes away with the others when it is old."""
    part = interrupted(store)
    note = part.with_suffix(".json")
    note.unlink()
    if state is not None:
        note.write_bytes(state)
    [active] = store.active()
    assert (part.name, 2 * MIB, None, 0) == (active.key, active.offset, active.total, active.pid)
    os.utime(part, (0, 0))
    assert [part.name] == [ingest.key for ingest in store.gc(dry_run=True).ingests]
    shelf = Shelf()
    store.ingest(shelf.blob())
    assert len(DATA) - 2 * MIB == shelf.count
    assert committed(DIGEST) == files(store)


# What is there


def damage(path: Path, data: bytes) -> None:
    """Let a blob be other bytes."""
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_blob_is_read_like_one_of_a_remote(store: Store) -> None:
    """Whole, verified; as a file that can seek, by its path."""
    store.ingest(Shelf().blob())
    info = store.info(str(DIGEST))
    assert (DIGEST, len(DATA)) == (info.digest, info.size)
    assert [info] == list(store.blobs())
    blob = store.blob(DIGEST, media_type="text/plain")
    assert (DATA, "text/plain", len(DATA)) == (blob.read(), blob.media_type, blob.size)
    with store.open(DIGEST) as file:
        assert ("unverified", True) == (file.trust, file.seekable())
        file.seek(-5, io.SEEK_END)
        assert DATA[-5:] == file.read()
        file.seek(0)
        assert DATA == file.read()
        assert "verified" == file.trust
    with store.open(DIGEST, verify=True) as file:
        file.seek(MIB)
        assert ("verified", DATA[MIB : MIB + 5]) == (file.trust, file.read(5))


@pytest.mark.parametrize("data", [DATA[:-1] + b"\0", DATA[:-1], b"", DATA + b"\0"], ids=len)
@pytest.mark.parametrize("how", ["open and verify", "open", "blob", "stream"])
def test_a_read_quarantines_a_damaged_blob(store: Store, data: bytes, how: str) -> None:
    """The error of a whole read says where the damaged blob is now, and an ingest brings it again."""
    reads: dict[str, Callable[[], object]] = {
        "open and verify": lambda: store.open(DIGEST, verify=True),
        "open": lambda: store.open(DIGEST).read(),
        "blob": lambda: store.blob(DIGEST).read(),
        "stream": lambda: list(store.blob(DIGEST).stream()),
    }
    store.ingest(Shelf().blob())
    damage(store.path(DIGEST), data)
    opened = store.blob(DIGEST)
    quarantine = store.root / "quarantine"
    message = f"^blob {DIGEST} is damaged: .* moved to {re.escape(str(quarantine))}; pull its image again$"
    with pytest.raises(DigestMismatch, match=message) as caught:
        reads[how]()
    assert (str(DIGEST), str(Digest.of(data))) == (caught.value.expected, caught.value.got)
    assert data == (quarantine / f"sha256-{DIGEST.hex}").read_bytes()
    for missing in (lambda: store.info(DIGEST), opened.read):
        with pytest.raises(NotFound, match=r"moved to quarantine; pull its image again$"):
            missing()
    assert not store.ingest(Shelf().blob()).existed
    assert DATA == store.blob(DIGEST).read()


def test_two_readers_of_a_damaged_blob_get_the_same_error(store: Store) -> None:
    """The second one, whose blob is in quarantine by the time it ends, says so too."""
    store.ingest(Shelf().blob())
    damage(store.path(DIGEST), DATA[:-1] + b"\0")
    streams = [store.blob(DIGEST).stream(connections=1) for _ in range(2)]
    for stream in streams:
        next(stream)
    for stream in streams:
        with pytest.raises(DigestMismatch, match=r"was moved to .*quarantine"):
            list(stream)


def test_a_refused_blob_that_is_sound_stays(store: Store) -> None:
    """A reader that cannot use the content, a layer that is no archive, says nothing about its bytes."""
    store.ingest(Shelf().blob())
    assert not store.blob(DIGEST).distrust()
    assert DATA == store.blob(DIGEST).read()


def test_what_is_not_there(store: Store) -> None:
    """Is said by name, in a store that is not there too, and that is not made for it."""
    for _ in range(2):
        for ask in (store.info, store.open, store.path, store.delete, store.blob):
            with pytest.raises(NotFound, match=f"{DIGEST} is not in "):
                ask(DIGEST)
            with pytest.raises(ValueError, match="is not a digest"):
                ask("../../../etc/passwd")
        assert ([], {}, []) == (list(store.blobs()), store.images(), store.active())
        store.root.mkdir(exist_ok=True)


def test_deleting(store: Store) -> None:
    """Takes the blob away for good; it can come again."""
    store.ingest(Shelf().blob())
    store.delete(str(DIGEST))
    assert committed() == files(store)
    with pytest.raises(NotFound):
        store.delete(DIGEST)
    assert not store.ingest(Shelf().blob()).existed


def test_blobs_are_listed_as_they_are_found(store: Store) -> None:
    """The first is there before the last was looked at, and what has no digest's name is passed over."""
    for number in range(20):
        store.ingest(Blob.from_bytes(b"%d" % number, digest=Digest.of(b"%d" % number, "sha512")))
    folder = store.root / "blobs" / "sha512"
    for name in ("x", "0" * 127, "A" * 128, "oci-put-blob1", "é\udcff" if os.name == "posix" else "é"):
        (folder / name).touch()
    (store.root / "blobs" / "md5").mkdir()
    (store.root / "blobs" / "md5" / ("0" * 32)).touch()
    (store.root / "blobs" / "file").touch()
    found = store.blobs()
    first = next(found)
    rest = list(found)
    assert {Digest.of(b"%d" % number, "sha512") for number in range(20)} == {info.digest for info in [first, *rest]}


# The folder


def test_a_store_is_where_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By argument, by variable, else where the system keeps a user's data; a home is expanded, nothing is made."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.delenv("DISTSDK_STORE", raising=False)
    default = Store().root
    assert "distsdk" == default.name
    monkeypatch.setenv("DISTSDK_STORE", "~/mine")
    assert tmp_path / "mine" == Store().root
    assert tmp_path / "other" == Store("~/other").root
    monkeypatch.chdir(tmp_path)
    relative = Store("here")
    monkeypatch.chdir("/")
    assert (tmp_path / "here", f"Store({str(tmp_path / 'here')!r})") == (relative.root, repr(relative))
    assert [] == list(tmp_path.iterdir())


def test_a_folder_that_is_something_else_is_refused(tmp_path: Path) -> None:
    """Nothing is written into somebody's home, or into a layout of a version to come."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(InvalidConfig, match=r"not an OCI image layout.*\(it holds 'thesis"):
        Store(tmp_path).ingest(Shelf().blob())
    assert ["thesis.tex"] == [path.name for path in tmp_path.iterdir()]
    later = tmp_path / "later"
    later.mkdir()
    (later / "oci-layout").write_text('{"imageLayoutVersion":"2.0.0"}')
    with pytest.raises(UnsupportedDocument, match=r"version '2\.0\.0': distsdk reads and writes version 1"):
        Store(later).ingest(Shelf().blob())


@pytest.mark.parametrize("layout", [b"", b"{", b"null", b"[" * 100_000, b'{"imageLayoutVersion":"1.0.0",' * 2])
def test_a_layout_file_that_is_damaged(store: Store, layout: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names it."""
    monkeypatch.setattr(reader, "BEING_WRITTEN", 0)
    store.root.mkdir()
    path = store.root / "oci-layout"
    path.write_bytes(layout)
    with pytest.raises(DistError) as caught:
        store.ingest(Shelf().blob())
    assert str(path)[:60] in str(caught.value)  # a long path is cut


def test_a_layout_that_somebody_else_made(store: Store) -> None:
    """What it has is found, and what is missing in it is made."""
    folder = store.root / "blobs" / "sha256"
    folder.mkdir(parents=True)
    (folder / DIGEST.hex).write_bytes(DATA)
    (store.root / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (store.root / "index.json").write_text('{"schemaVersion":2,"manifests":[]}')
    (store.root / "README").touch()
    assert store.ingest(Shelf().blob()).existed
    assert not store.ingest(Blob.from_bytes(b"x")).existed
    damage(folder / DIGEST.hex, DATA[:-1] + b"\0")
    assert not store.ingest(Shelf().blob()).existed
    assert '{"schemaVersion":2,"manifests":[]}' == (store.root / "index.json").read_text()


def test_a_folder_that_was_removed_is_made_again(store: Store) -> None:
    """By the same store, which has seen it."""
    store.ingest(Shelf().blob())
    shutil.rmtree(store.root)
    assert not store.ingest(Shelf().blob()).existed
    assert committed(DIGEST) == files(store)


@pytest.mark.skipif(os.name != "posix", reason="modes are POSIX's")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o444), (0o077, 0o400), (0o027, 0o440)])
def test_modes_follow_the_umask(store: Store, umask: int, mode: int) -> None:
    """Who may not look into the folder may not read a blob; while it comes in it is its owner's alone."""
    before = os.umask(umask)
    try:
        part = interrupted(store)
        assert 0o600 == stat.S_IMODE(part.stat().st_mode)
        store.ingest(Shelf().blob())
    finally:
        os.umask(before)
    assert mode == stat.S_IMODE(store.path(DIGEST).stat().st_mode)


def test_digests_are_one_class() -> None:
    """The public name is the model's."""
    assert ModelDigest is Digest


def test_a_blob_under_another_digest(store: Store) -> None:
    """A blob may be ingested under a digest of another algorithm; both are checked."""
    digest = Digest.of(DATA, "sha512")
    assert digest == store.ingest(Shelf().blob(), expected_digest=digest).digest
    damaged = Shelf(DATA[:-1] + b"\0")
    for expected in (Digest.of(damaged.data, "sha512"), Digest.of(b"", "sha512")):
        with pytest.raises(DigestMismatch):
            store.ingest(damaged.blob(), expected_digest=expected)
    assert [digest] == [info.digest for info in store.blobs()]


def chunked(data: bytes) -> Iterable[bytes]:
    """Return bytes in parts."""
    return (data[at : at + STEP] for at in range(0, len(data), STEP))


def test_what_is_damaged_is_replaced_by_an_ingest_that_expects_nothing(store: Store) -> None:
    """Bytes that came and were hashed take the place of what is there."""
    store.ingest(Shelf().blob())
    damage(store.path(DIGEST), b"damaged")
    got = store.ingest(chunked(DATA), "again")
    assert (True, DATA) == (got.existed, store.path(DIGEST).read_bytes())
