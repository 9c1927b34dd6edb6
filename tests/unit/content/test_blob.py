from __future__ import annotations

import hashlib
import io
import os
import random
import tarfile
import threading
import tracemalloc
import zipfile
from typing import TYPE_CHECKING

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from distsdk.content.blob import Blob
from distsdk.content.reader import FIRST_RANGE, SKIP_RATHER_THAN_ASK
from distsdk.content.source import CHUNK_SIZE, Stat
from distsdk.errors import DigestMismatch, LimitExceeded, MalformedDocument, SizeMismatch, Unreachable, Unsafe
from distsdk.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from distsdk.content.reader import BlobReader

MIB = 1024 * 1024
DATA = random.Random(1).randbytes(3 * MIB + 17)
DIGEST = Digest("sha256", hashlib.sha256(DATA).hexdigest())


@define(eq=False)
class Stream:
    """What `Script` opens: gives at most ``step`` bytes at a time, and raises at byte ``breaks``."""

    data: bytes
    step: int
    breaks: int | None
    error: BaseException
    at: int = 0
    closed: bool = False

    def read(self, size: int, /) -> bytes:
        """Return the next bytes."""
        assert not self.closed
        assert size > 0
        if self.breaks is not None and self.at >= self.breaks:
            raise self.error
        end = self.at + min(size, self.step)
        got = self.data[self.at : end if self.breaks is None else min(end, self.breaks)]
        self.at += len(got)
        return got

    def close(self) -> None:
        """Be closed."""
        self.closed = True


@define(eq=False)
class Script:
    """A source that does what a test says, and takes down what it was asked.

    Attributes:
        data: What it has; a list has one entry for each time it is opened, the last of which goes on.
        stat_: What it says about itself.
        step: The most bytes that one read gives.
        breaks: The byte of a stream at which it raises ``error``; by the number of the stream, from 0.
    """

    data: bytes | list[bytes] = DATA
    stat_: Stat = field(factory=Stat)
    step: int = CHUNK_SIZE
    breaks: dict[int, int] = field(factory=dict)
    error: BaseException = field(factory=lambda: Unreachable("the connection broke"))
    opened: list[tuple[int, int | None]] = field(factory=list)
    streams: list[Stream] = field(factory=list)
    asked: int = 0

    def open(self, offset: int, end: int | None) -> Stream:
        """Open a range."""
        number = len(self.streams)
        data = self.data if isinstance(self.data, bytes) else self.data[min(number, len(self.data) - 1)]
        self.opened.append((offset, end))
        self.streams.append(Stream(data[offset:end], self.step, self.breaks.get(number), self.error))
        return self.streams[-1]

    def stat(self) -> Stat:
        """Tell size and media type."""
        self.asked += 1
        return self.stat_

    @property
    def held(self) -> int:
        """How many streams are open."""
        return sum(not stream.closed for stream in self.streams)

    @property
    def read(self) -> int:
        """How many bytes were taken."""
        return sum(stream.at for stream in self.streams)


def blob_over(source: Script, size: int | None = len(DATA)) -> Blob:
    """A blob that is to be `DATA`."""
    return Blob(source, DIGEST, size=size)


def drain(reader: BlobReader, size: int) -> int:
    """Read to the end, that much at a time; returns how many bytes came."""
    return sum(map(len, iter(lambda: reader.read(size), b"")))


def trust(reader: BlobReader) -> str:
    """What the reader says now: a type checker takes it to stay what it was."""
    return reader.trust


# What is known without reading


def test_a_blob_that_is_not_used_asks_nothing() -> None:
    """Making, showing and opening a blob costs nothing, and the repr says what is not known."""
    source = Script()
    blob = blob_over(source, size=None)
    with blob.open() as reader:
        shown = repr(blob), repr(reader)
        assert 0 == reader.tell() == reader.seek(0)
    assert ([], 0) == (source.opened, source.asked)
    assert f"<Blob {DIGEST} size unknown media type unknown>" == shown[0]
    assert f"<BlobReader {DIGEST} at 0 unverified>" == shown[1]
    assert f"<BlobReader {DIGEST} closed unverified>" == repr(reader)


def test_the_source_is_asked_once() -> None:
    """Size and media type come together, and are kept."""
    source = Script(stat_=Stat(len(DATA), "text/plain"))
    blob = blob_over(source, size=None)
    for _ in range(2):
        assert (len(DATA), "text/plain", DIGEST) == (blob.size, blob.media_type, blob.descriptor.digest)
    assert (1, []) == (source.asked, source.opened)
    assert f"<Blob {DIGEST} {len(DATA)} bytes text/plain>" == repr(blob)


def test_what_is_known_is_not_asked_for() -> None:
    """A declared size and media type are not replaced by what the source says."""
    source = Script(stat_=Stat(5, "text/plain"))
    blob = Blob(source, DIGEST, size=len(DATA), media_type="image/png")
    assert (len(DATA), "image/png") == (blob.size, blob.media_type)
    assert 0 == source.asked


def test_a_size_that_nobody_tells_is_counted() -> None:
    """Where even the source does not know, the bytes are read once, verified, and kept by nobody."""
    source = Script()
    blob = blob_over(source, size=None)
    assert len(DATA) == blob.size == blob.size
    assert [(0, None)] == source.opened
    assert "application/octet-stream" == blob.media_type
    with pytest.raises(DigestMismatch):
        _ = blob_over(Script(DATA[1:]), size=None).size


def test_a_whole_read_makes_the_size_known() -> None:
    """After the verdict nobody has to be asked."""
    source = Script()
    blob = blob_over(source, size=None)
    assert DATA == blob.read()
    assert len(DATA) == blob.size
    assert 0 == source.asked


# Whole reads


@pytest.mark.parametrize("step", [1000, 65_536, CHUNK_SIZE])
@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_a_whole_read_is_one_request(algorithm: str, step: int) -> None:
    """Bytes come in order and are verified under every algorithm, however small the pieces are."""
    source = Script(step=step)
    blob = Blob(source, Digest.of(DATA, algorithm))
    chunks = list(blob.stream())
    assert DATA == b"".join(chunks)
    assert all(0 < len(chunk) <= step for chunk in chunks)
    assert [(0, None)] == source.opened
    assert 0 == source.held


@pytest.mark.parametrize("size", [None, len(DATA)])
@pytest.mark.parametrize("at", [0, MIB, len(DATA) - 1])
def test_one_wrong_byte_is_a_mismatch_after_the_last(at: int, size: int | None) -> None:
    """Every chunk is handed out; then the iteration ends with an error that has both digests, not by itself."""
    wrong = bytearray(DATA)
    wrong[at] ^= 1
    source = Script(bytes(wrong))
    got: list[bytes] = []
    with pytest.raises(DigestMismatch) as caught:
        got.extend(blob_over(source, size).stream())
    assert (str(DIGEST), f"sha256:{hashlib.sha256(wrong).hexdigest()}") == (caught.value.expected, caught.value.got)
    assert 0 == source.held
    with pytest.raises(DigestMismatch):
        blob_over(source, size).read()


@pytest.mark.parametrize("missing", [1, MIB, len(DATA)])
def test_too_few_bytes_are_a_mismatch(missing: int) -> None:
    """A source that ends early is found out by the declared size, which the error names with what came."""
    source = Script(DATA[: len(DATA) - missing])
    with pytest.raises(SizeMismatch) as caught:
        blob_over(source).read()
    assert (len(DATA), len(DATA) - missing) == (caught.value.expected, caught.value.got)
    with pytest.raises(DigestMismatch):
        blob_over(source, size=None).read()


@pytest.mark.parametrize("more", [1, MIB, 50 * MIB])
def test_no_byte_beyond_the_declared_size_is_handed_out(more: int) -> None:
    """A source with more bytes is stopped at once: the rest is not even read."""
    source = Script(DATA + bytes(more))
    chunks: list[bytes] = []
    with pytest.raises(SizeMismatch) as caught:
        chunks.extend(blob_over(source).stream())
    assert sum(map(len, chunks)) <= len(DATA)
    assert caught.value.expected == len(DATA) < caught.value.got
    assert source.read <= len(DATA) + CHUNK_SIZE
    assert 0 == source.held


def test_a_stream_may_be_given_up() -> None:
    """Closing the iteration, or forgetting it, closes the source's stream."""
    source = Script(step=65_536)
    stream = blob_over(source).stream()
    for _ in range(3):
        next(stream)
    assert 1 == source.held
    stream.close()  # type: ignore[attr-defined] # a generator, as far as Python is concerned
    assert 0 == source.held
    stream = blob_over(source).stream()
    next(stream)
    del stream
    assert 0 == source.held


@pytest.mark.parametrize("error", [Unreachable("cut"), KeyboardInterrupt()])
def test_an_error_of_the_source_goes_through(error: BaseException) -> None:
    """What breaks in the middle is raised as it is, and nothing is left open."""
    source = Script(breaks={0: 2 * MIB}, error=error)
    with pytest.raises(type(error)) as caught:
        blob_over(source).read()
    assert caught.value is error
    assert 0 == source.held


def test_a_read_is_bounded_by_its_limit() -> None:
    """A size over the limit is refused without a request; an unknown size, as soon as the limit is passed."""
    source = Script()
    with pytest.raises(LimitExceeded) as caught:
        blob_over(source).read(limit=len(DATA) - 1)
    assert (len(DATA) - 1, []) == (caught.value.limit, source.opened)
    with pytest.raises(LimitExceeded):
        blob_over(source, size=None).read(limit=MIB)
    assert source.read <= 2 * MIB
    assert 0 == source.held
    with pytest.raises(LimitExceeded):
        Blob.from_bytes(DATA).read(limit=MIB)
    assert DATA == blob_over(source, size=None).read(limit=len(DATA))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"<html>no JSON</html>", MalformedDocument),
        (b"", MalformedDocument),
        (b'{"a": 1, "a": 2}', MalformedDocument),
        (b"[" * 100_000, MalformedDocument),
        (b'"\xff"', MalformedDocument),
    ],
)
def test_json_is_read_strictly(data: bytes, error: type[Exception]) -> None:
    """What is no JSON, or JSON that readers could disagree about, is `MalformedDocument`."""
    with pytest.raises(error):
        Blob.from_bytes(data).json()


def test_text_is_utf_8() -> None:
    """Other bytes are Python's own error."""
    assert "größer" == Blob.from_bytes("größer".encode()).text()
    with pytest.raises(UnicodeDecodeError):
        Blob.from_bytes("größer".encode("latin-1")).text()


@pytest.mark.parametrize("algorithm", ["sha256", "sha384", "sha512"])
def test_bytes_that_are_here_are_a_blob(algorithm: str) -> None:
    """They are checked against a digest that is given, and verified from the start."""
    digest = Digest.of(b"data", algorithm)
    blob = Blob.from_bytes(b"data", digest=digest, media_type="text/plain")
    assert (digest, 4, "text/plain", b"data") == (blob.digest, blob.size, blob.media_type, blob.read())
    assert "verified" == blob.open().trust
    assert "ta" == blob.open(strict=True).read()[2:].decode()
    assert Digest.of(b"data") == Blob.from_bytes(b"data").digest
    with pytest.raises(DigestMismatch) as caught:
        Blob.from_bytes(b"other", digest=digest)
    assert str(digest) == caught.value.expected


# Readers: what is asked for


def test_reading_to_the_end_takes_few_requests() -> None:
    """Small reads ask for closed ranges that follow on each other, each twice as long as the one before."""
    source = Script()
    with blob_over(source).open() as reader:
        assert DATA == b"".join(iter(lambda: reader.read(1000), b""))
        assert "verified" == reader.trust
    expected, at, width = [], 0, FIRST_RANGE
    while at < len(DATA):
        expected.append((at, min(at + width, len(DATA))))
        at, width = at + width, width * 2
    assert expected == source.opened
    assert len(expected) <= 6
    assert 0 == source.held


@pytest.mark.parametrize("size", [-1, None, len(DATA), 10 * MIB])
def test_reading_all_is_one_request(size: int | None) -> None:
    """One read of everything is one request for the whole."""
    source = Script()
    with blob_over(source).open() as reader:
        assert DATA == reader.read(size)
        assert b"" == reader.read(size)
    assert [(0, None)] == source.opened


def test_a_look_at_the_end_is_one_small_request() -> None:
    """The last kilobyte costs a kilobyte."""
    source = Script()
    with blob_over(source).open() as reader:
        reader.seek(-1024, io.SEEK_END)
        assert DATA[-1024:] == reader.read()
        assert "unverified" == reader.trust
    assert [(len(DATA) - 1024, len(DATA))] == source.opened


def test_a_large_read_is_one_request() -> None:
    """Where more is wanted than the read-ahead has, it is asked for in one piece."""
    source = Script(step=10_000)
    with blob_over(source).open() as reader:
        reader.seek(1000)
        assert DATA[1000 : 1000 + MIB] == reader.read(MIB)
    assert [(1000, 1000 + MIB)] == source.opened


def test_a_short_way_forward_is_read_over() -> None:
    """Within the range that is open, and not far, a seek reads on; farther than that it asks anew."""
    source = Script()
    with blob_over(source).open() as reader:
        for _ in range(500):
            reader.read(1000)
        begun = len(source.opened)
        at = reader.seek(SKIP_RATHER_THAN_ASK, io.SEEK_CUR)
        assert DATA[at : at + 10] == reader.read(10)
        assert begun == len(source.opened)
        at = reader.seek(SKIP_RATHER_THAN_ASK + 1, io.SEEK_CUR)
        assert DATA[at : at + 10] == reader.read(10)
        assert begun + 1 == len(source.opened)
    assert 0 == source.held


def test_a_way_back_asks_anew_and_for_little() -> None:
    """After a jump the read-ahead starts small again."""
    source = Script()
    with blob_over(source).open() as reader:
        for _ in range(400):
            reader.read(1000)
        reader.seek(5)
        assert DATA[5:15] == reader.read(10)
        assert (5, 5 + FIRST_RANGE) == source.opened[-1]
        assert 1 == source.held


def test_seeking_asks_nothing() -> None:
    """Only a seek from the end needs to know the size, and no seek needs bytes."""
    source = Script(stat_=Stat(len(DATA)))
    with blob_over(source, size=None).open() as reader:
        reader.seek(1000)
        reader.seek(5, io.SEEK_CUR)
        assert 0 == source.asked
        assert len(DATA) == reader.seek(0, io.SEEK_END)
        assert (1, []) == (source.asked, source.opened)
        with pytest.raises(ValueError, match="whence"):
            reader.seek(0, 3)


def test_read1_takes_what_is_there() -> None:
    """It gives the bytes of one read of the source, and of no more."""
    source = Script(step=100)
    with blob_over(source).open() as reader:
        assert DATA[:100] == reader.read1()
        assert DATA[100:150] == reader.read1(50)
        buffer = bytearray(1000)
        assert 100 == reader.readinto1(buffer)
        assert DATA[150:250] == buffer[:100]
        assert b"" == reader.read1(0)


def test_other_tools_can_read_it() -> None:
    """`zipfile` and `tarfile` find their members through it, the first with few bytes."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for number in range(20):
            archive.writestr(f"{number}.bin", DATA[number * 100_000 : (number + 1) * 100_000])
    source = Script(packed.getvalue())
    blob = Blob(source, Digest.of(packed.getvalue()), size=len(packed.getvalue()))
    with blob.open() as reader, zipfile.ZipFile(reader) as archive:
        assert DATA[700_000:800_000] == archive.read("7.bin")
    assert source.read < 500_000

    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as writer:
        for number in range(20):
            member = tarfile.TarInfo(f"{number}.bin")
            member.size = 100_000
            writer.addfile(member, io.BytesIO(DATA[number * 100_000 :]))
    source = Script(packed.getvalue())
    blob = Blob(source, Digest.of(packed.getvalue()), size=len(packed.getvalue()))
    with blob.open() as reader, tarfile.open(fileobj=reader) as tar:
        assert [f"{number}.bin" for number in range(20)] == tar.getnames()
        extracted = tar.extractfile("13.bin")
        assert extracted is not None
        assert DATA[1_300_000:1_400_000] == extracted.read()


@settings(max_examples=60)
@given(
    data=st.binary(max_size=300),
    step=st.integers(1, 50),
    steps=st.lists(st.tuples(st.sampled_from(["seek", "read", "read1"]), st.integers(0, 320)), max_size=20),
)
def test_a_reader_is_right_and_honest(data: bytes, step: int, steps: list[tuple[str, int]]) -> None:
    """Bytes are those of `io.BytesIO`; trust is never claimed before every byte from the front was read in order."""
    source = Script(data, step=step)
    blob = Blob(source, Digest.of(data), size=len(data))
    contiguous = 0
    with blob.open() as reader, io.BytesIO(data) as model:
        for kind, number in steps:
            if kind == "seek":
                assert model.seek(number) == reader.seek(number)
                continue
            start = model.tell()
            got = reader.read(number) if kind == "read" else reader.read1(number)
            assert model.read(len(got)) == got
            assert got or not number or start >= len(data)
            if start <= contiguous:
                contiguous = max(contiguous, start + len(got))
            if reader.trust == "verified":
                assert contiguous == len(data)
    assert source.held == 0


# Readers: trust


def test_a_reader_verifies_across_jumps() -> None:
    """A look elsewhere does not spoil what is read from front to back, and does not count as part of it."""
    with blob_over(Script()).open() as reader:
        reader.read(MIB)
        reader.seek(-10, io.SEEK_END)
        assert DATA[-10:] == reader.read()
        assert "unverified" == trust(reader)
        reader.seek(MIB)
        reader.read()
        assert "verified" == trust(reader)


def test_a_gap_leaves_it_unverified() -> None:
    """Bytes that were jumped over were not checked, so the end brings no verdict."""
    with blob_over(Script()).open() as reader:
        reader.read(1000)
        reader.seek(1, io.SEEK_CUR)
        reader.read()
        assert "unverified" == reader.trust


@pytest.mark.parametrize("by", [1000, -1])
def test_a_reader_raises_at_the_end_of_wrong_bytes(by: int) -> None:
    """The read that reaches the end of wrong bytes raises, and the reader does not come to trust them."""
    source = Script(b"\0" + DATA[1:])
    with blob_over(source).open() as reader:
        with pytest.raises(DigestMismatch) as caught:
            drain(reader, by)
        assert str(DIGEST) == caught.value.expected
        assert "unverified" == reader.trust


def test_a_reader_finds_too_few_bytes() -> None:
    """A source that ends early is an error, never an early end of the file."""
    with blob_over(Script(DATA[:-1])).open() as reader, pytest.raises(SizeMismatch) as caught:
        drain(reader, 100_000)
    assert len(DATA) == caught.value.expected


def test_a_reader_finds_too_many_bytes() -> None:
    """Where there are more bytes than declared, no byte beyond is given and the digest is another."""
    declared = len(DATA) - 1
    with blob_over(Script(), declared).open() as reader:
        with pytest.raises(DigestMismatch):
            drain(reader, 100_000)
        assert reader.tell() <= declared


def test_strict_refuses_what_cannot_be_verified() -> None:
    """Out of order, a strict reader raises before it asks; in order it is like any other."""
    source = Script()
    with blob_over(source).open(strict=True) as reader:
        reader.seek(1)
        with pytest.raises(Unsafe, match="front to back"):
            reader.read(1)
        assert [] == source.opened
        reader.seek(0)
        assert DATA[:1000] == reader.read(1000)
        reader.seek(1001)
        with pytest.raises(Unsafe):
            reader.read1(1)
        reader.seek(1000)
        assert DATA[1000:] == reader.read()
        assert "verified" == reader.trust


def test_bytes_that_are_read_again_are_not_trusted_for_the_first_ones() -> None:
    """What a source gives the second time was never hashed: the reader must not call it verified."""
    source = Script([DATA, bytes(len(DATA))])
    with blob_over(source).open() as reader:
        reader.read()
        assert "verified" == trust(reader)
        reader.seek(1000)
        assert bytes(10) == reader.read(10)
        assert "unverified" == trust(reader)


@pytest.mark.parametrize("first", [MIB, len(DATA)])
def test_strict_refuses_bytes_that_are_read_again(first: int) -> None:
    """A source that gives other bytes the second time does not get them past a strict reader."""
    source = Script([DATA, bytes(len(DATA))])
    with blob_over(source).open(strict=True) as reader:
        reader.read(first)
        reader.seek(0)
        with pytest.raises((Unsafe, DigestMismatch)):
            reader.read()
        reader.seek(1000)
        with pytest.raises((Unsafe, DigestMismatch)):
            reader.read(10)


# Readers: what breaks


def test_a_failed_read_can_be_tried_again() -> None:
    """A read that breaks gives nothing and moves nothing: the next one asks anew and loses no byte."""
    source = Script(step=1000, breaks={0: 2500})
    with blob_over(source).open() as reader:
        assert DATA[:500] == reader.read(500)
        with pytest.raises(Unreachable):
            reader.read(10_000)
        assert 500 == reader.tell()
        assert DATA[500:] == reader.read()
        assert "verified" == reader.trust  # what counts is what was handed out
    assert 0 == source.held


def test_a_failed_read_hides_no_wrong_bytes() -> None:
    """What the second try brings is what is hashed: right bytes that nobody was given do not vouch for wrong ones."""
    source = Script(step=1000, breaks={0: 2500})
    with blob_over(source).open() as reader:
        reader.read(500)
        with pytest.raises(Unreachable):
            reader.read(10_000)
        source.data = DATA[:600] + bytes([DATA[600] ^ 1]) + DATA[601:]
        with pytest.raises(DigestMismatch):
            reader.read()
        assert "unverified" == reader.trust


def test_closing_a_reader_lets_go() -> None:
    """In the middle of a range the source's stream is closed with the reader, by hand or by forgetting it."""
    source = Script()
    reader = blob_over(source).open()
    reader.read(10)
    assert 1 == source.held
    reader.close()
    assert 0 == source.held
    reader = blob_over(source).open()
    reader.read(10)
    del reader
    assert 0 == source.held


def test_threads_may_share_a_reader() -> None:
    """Reads of several threads do not overlap: together they are the bytes, each once."""
    source = Script(step=777)
    with blob_over(source).open() as reader:
        parts: list[bytes] = []

        def work() -> None:
            while part := reader.read(10_007):
                parts.append(part)

        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert "verified" == reader.trust
    assert sorted(DATA[at : at + 10_007] for at in range(0, len(DATA), 10_007)) == sorted(parts)


# Saving


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Set the umask for a test."""
    import os

    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_a_saved_file_has_the_usual_permissions(tmp_path: Path, umask: Callable[[int], int], mask: int) -> None:
    """They are what the umask leaves, as for a file made by `open`."""
    umask(mask)
    path = blob_over(Script()).save(tmp_path / "blob")
    assert DATA == path.read_bytes()
    assert 0o666 & ~mask == path.stat().st_mode & 0o777


def test_a_verified_file_replaces_an_older_one(tmp_path: Path) -> None:
    """The old content is there until the new one is whole."""
    target = tmp_path / "blob"
    target.write_bytes(b"old")
    seen: list[bytes] = []

    class Watched(Script):
        def open(self, offset: int, end: int | None) -> Stream:
            seen.append(target.read_bytes())
            return super().open(offset, end)

    assert target == blob_over(Watched()).save(str(target))
    assert [b"old"] == seen
    assert DATA == target.read_bytes()


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize(
    ("source", "error"),
    [
        (Script(b"\0" + DATA[1:]), DigestMismatch),
        (Script(DATA[:-1]), SizeMismatch),
        (Script(DATA + b"\0"), SizeMismatch),
        (Script(breaks=dict.fromkeys(range(9), 2 * MIB)), Unreachable),
        (Script(breaks=dict.fromkeys(range(9), 2 * MIB), error=KeyboardInterrupt()), KeyboardInterrupt),
    ],
    ids=["wrong", "short", "long", "broken", "interrupted"],
)
def test_a_failed_save_leaves_nothing(
    tmp_path: Path, source: Script, error: type[BaseException], existing: bool
) -> None:
    """Neither a file under the name nor a part of it is left; one that was there before is kept."""
    if existing:
        (tmp_path / "blob").write_bytes(b"old")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(error):
        blob_over(source).save(tmp_path / "blob")
    assert before == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert 0 == source.held


def test_a_place_that_cannot_be_written_is_an_oserror(tmp_path: Path) -> None:
    """A folder that does not exist, or one in the file's place, is Python's own error, and nothing is left."""
    with pytest.raises(FileNotFoundError):
        blob_over(Script()).save(tmp_path / "no" / "blob")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError, match="folder"):
        blob_over(Script()).save(tmp_path / "folder")
    assert ["folder"] == [path.name for path in tmp_path.rglob("*")]


def test_progress_is_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nobody looks, a bar that was asked for shows nothing, and stdout is left alone in any case."""
    blob_over(Script()).save(tmp_path / "blob", progress=True)
    assert ("", "") == capsys.readouterr()


# Memory


class Endless:
    """A source of 256 MiB that are made as they are read."""

    SIZE = 256 * MIB

    def __init__(self) -> None:
        self.left = self.SIZE

    def open(self, offset: int, end: int | None) -> Endless:
        """Open a range."""
        self.left = (self.SIZE if end is None else end) - offset
        return self

    def read(self, size: int, /) -> bytes:
        """Return new bytes."""
        size = min(size, self.left)
        self.left -= size
        return bytes(size)

    def close(self) -> None:
        """Hold nothing."""

    def stat(self) -> Stat:
        """Tell the size."""
        return Stat(self.SIZE)


@pytest.fixture(scope="module")
def endless_digest() -> Digest:
    """The digest of what `Endless` has."""
    hasher = hashlib.sha256()
    for _ in range(Endless.SIZE // MIB):
        hasher.update(bytes(MIB))
    return Digest("sha256", hasher.hexdigest())


def by_stream(blob: Blob, _: Path) -> None:
    """Read by chunks."""
    for _chunk in blob.stream():
        pass


def by_reader(blob: Blob, _: Path) -> None:
    """Read as a file."""
    with blob.open() as reader:
        while reader.read(MIB):
            pass
        assert "verified" == reader.trust


def by_save(blob: Blob, path: os.PathLike[str]) -> None:
    """Save."""
    blob.save(path)


@pytest.mark.slow
@pytest.mark.parametrize("way", [by_stream, by_reader, by_save])
def test_memory_does_not_grow_with_a_blob(
    endless_digest: Digest, tmp_path: Path, way: Callable[[Blob, Path], None]
) -> None:
    """A quarter of a gigabyte goes through 16 MiB."""
    blob = Blob(Endless(), endless_digest)
    tracemalloc.start()
    try:
        way(blob, tmp_path / "blob")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 16 * MIB


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_a_forked_child_does_not_take_its_parents_bytes(tmp_path: Path) -> None:
    """A reader that was open at a fork goes on in both: what is open is the parent's, and has one position."""

    class Files:
        def open(self, offset: int, end: int | None) -> io.FileIO:
            file = io.FileIO(tmp_path / "data")
            file.seek(offset)
            return file

        def stat(self) -> Stat:
            return Stat(size=len(DATA))

    (tmp_path / "data").write_bytes(DATA)
    with Blob(Files(), DIGEST).open() as reader:
        begun = reader.read(1000)
        child = os.fork()
        if not child:
            os._exit(begun + reader.read() != DATA)
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert begun + reader.read() == DATA
        assert "verified" == reader.trust
