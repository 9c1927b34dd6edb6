from __future__ import annotations

import contextlib
import gc
import hashlib
import os
import random
import signal
import threading
import time
import tracemalloc
import warnings
from typing import TYPE_CHECKING

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from distsdk.content.blob import Blob
from distsdk.content.parallel import (
    DEFAULT_CONNECTIONS,
    MAX_CONNECTIONS,
    MORE_CONNECTIONS,
    SEGMENT,
    WINDOW,
    WORTH_IT,
    Ranges,
    _budget,
)
from distsdk.content.source import CHUNK_SIZE, Stat
from distsdk.errors import Denied, DigestMismatch, DistError, RateLimited, SizeMismatch, Unreachable
from distsdk.spec.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MIB = 1024 * 1024
DATA = random.Random(3).randbytes(4 * MIB + 321)
PART = 64 * 1024

#: What takes a quarter of a second at 4 MiB/s.
SHORT = DATA[:MIB]

#: Seconds after which a test that waits for something has failed.
LONG = 300.0


class Bucket:
    """Lets so many bytes through in a second."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.since = time.monotonic()
        self.taken = 0
        self.lock = threading.Lock()

    def take(self, count: int) -> None:
        """Wait until that many more may pass."""
        with self.lock:
            self.taken += count
            due = self.since + self.taken / self.rate
        threading.Event().wait(max(0.0, due - time.monotonic()))


@define(eq=False)
class Stream:
    """What `Script` opens."""

    script: Script
    number: int
    position: int
    end: int
    to_skip: int
    bucket: Bucket | None
    size: int | None
    start: int = field(default=-1)
    closed: bool = False
    cut: threading.Event = field(factory=threading.Event)

    def read(self, size: int, /) -> bytes:
        """Return the next bytes, as the script says."""
        assert not self.closed
        assert size > 0
        script = self.script
        if (gate := script.gates.get(self.number)) is not None:
            while not gate.wait(0.005):
                if self.cut.is_set():
                    message = "shut down"
                    raise Unreachable(message)
        self.position += self.to_skip
        self.to_skip = 0
        width = min(size, script.step, self.end - self.position)
        if (breaks := script.breaks.get(self.number)) is not None and self.position + width > breaks:
            width = breaks - self.position
            if width <= 0:
                if script.error is None:
                    return b""
                raise script.error
        if self.bucket is not None:
            self.bucket.take(width)
        data = script.data[self.position : self.position + width]
        self.position += width
        with script.lock:
            script.count += width
        return data

    def close(self) -> None:
        """Be closed."""
        assert not self.closed
        self.closed = True
        with self.script.lock:
            self.script.held -= 1


@define(eq=False)
class Quick(Stream):
    """One that another thread can end."""

    def shutdown(self) -> None:
        """End a read that waits."""
        self.cut.set()


@define(eq=False)
class Script:
    """A source that does what a test says, and takes down what it was asked.

    Attributes:
        step: The most bytes that one read gives.
        kind: What is opened.
        refuses: What is raised instead of opening; by the number of the stream, from 0, and those open at the time.
        ignores: Whether a range is ignored, by the number of the stream.
        breaks: The byte of the blob at which a stream raises ``error``, or ends where that is None; by its number.
        gates: What a stream waits for before it reads; by its number.
        bucket: Makes what limits a stream.
        tells: Whether a stream tells the size.
    """

    data: bytes = field(default=DATA, repr=False)
    step: int = 16 * 1024
    kind: type[Stream] = Stream
    refuses: Callable[[int, int], BaseException | None] = lambda _number, _held: None
    ignores: Callable[[int], bool] = lambda _number: False
    breaks: dict[int, int] = field(factory=dict)
    error: BaseException | None = field(factory=lambda: Unreachable("the connection broke"))
    gates: dict[int, threading.Event] = field(factory=dict)
    bucket: Callable[[], Bucket | None] = lambda: None
    tells: bool = False
    opened: list[tuple[int, int | None]] = field(factory=list)
    streams: list[Stream] = field(factory=list)
    lock: threading.Lock = field(factory=threading.Lock)
    held: int = 0
    most: int = 0
    count: int = 0
    asked: int = 0

    def open(self, offset: int, end: int | None) -> Stream:
        """Open a range."""
        with self.lock:
            number = len(self.opened)
            self.opened.append((offset, end))
            if (error := self.refuses(number, self.held)) is not None:
                raise error
            to_skip = offset if self.ignores(number) else 0
            until = len(self.data) if end is None or self.ignores(number) else end
            size = len(self.data) if self.tells else None
            stream = self.kind(self, number, offset - to_skip, until, to_skip, self.bucket(), size)
            self.streams.append(stream)
            self.held += 1
            self.most = max(self.most, self.held)
        return stream

    def stat(self) -> Stat:
        """Tell the size."""
        self.asked += 1
        return Stat(len(self.data))


def others() -> list[threading.Thread]:
    """Threads that get ranges now."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("distsdk-range-")]


def eventually(condition: Callable[[], bool]) -> bool:
    """Whether it comes true."""
    until = time.monotonic() + LONG
    while not condition() and time.monotonic() < until:
        threading.Event().wait(0.005)
    return condition()


@pytest.fixture(autouse=True)
def nobody_left() -> Iterator[None]:
    """No thread outlives its test."""
    yield
    gc.collect()
    assert eventually(lambda: not others()), others()


def ranges(script: Script, connections: int | None, *, at: int = 0, segment: int = PART, **more: float) -> Ranges:
    """Read a script in small parts."""
    interval = more.get("interval", 0.05)
    worth_it = int(more.get("worth_it", 4 * segment))
    return Ranges(
        script.open,
        at,
        len(script.data),
        connections=connections,
        segment=segment,
        worth_it=worth_it,
        interval=interval,
    )


# Several connections that were asked for


@pytest.mark.slow
@pytest.mark.parametrize("at", [0, 1, 1_000_000, len(DATA) - 1, len(DATA)])
@pytest.mark.parametrize("connections", [1, 2, 3, 8, 64])
def test_the_bytes_come_in_order(at: int, connections: int) -> None:
    """Each byte is asked for once, in closed ranges for several connections; nothing is left open, and no thread."""
    script = Script()
    chunks = list(ranges(script, connections, at=at))
    assert DATA[at:] == b"".join(chunks)
    assert all(0 < len(chunk) <= CHUNK_SIZE for chunk in chunks)
    assert eventually(lambda: (script.held, others()) == (0, []))
    if connections == 1 or len(DATA) - at <= 1:
        assert [(at, None if at == 0 else len(DATA))] == script.opened
        return
    asked = sorted((offset, end or 0) for offset, end in script.opened)
    assert [at, *(end for _, end in asked)] == [*(offset for offset, _ in asked), len(DATA)]
    assert len(DATA) - at == script.count
    assert script.most <= connections


@pytest.mark.parametrize("connections", [2, 8])
def test_connections_are_used_at_once(connections: int) -> None:
    """Every one of them waits for all the others to be there."""
    meeting = threading.Barrier(connections)

    class Meeting(Stream):
        def read(self, size: int, /) -> bytes:
            if self.number < connections and self.position == self.script.opened[self.number][0]:
                meeting.wait(LONG)
            return super().read(size)

    script = Script(kind=Meeting)
    assert DATA == b"".join(ranges(script, connections))
    assert connections == script.most


def test_what_is_at_the_front_is_handed_on_as_it_arrives() -> None:
    """The head of a range does not wait for its tail, nor for another range."""
    script = Script(breaks={}, gates={2: threading.Event()})
    iteration = iter(ranges(script, 4))
    got = b""
    while len(got) < script.opened[2][0] if len(script.opened) > 2 else True:
        got += next(iteration)
    assert DATA[: len(got)] == got
    script.gates[2].set()
    assert DATA == got + b"".join(iteration)


def test_a_reader_that_waits_does_not_fill_memory() -> None:
    """What is fetched ahead is bounded, and goes on once there is room."""
    script = Script()
    iteration = iter(ranges(script, 4))
    got = next(iteration)
    # Five ranges for four connections; what stays open is the first stream, which only the reader reads.
    assert eventually(lambda: (len(script.opened), script.held) == (6, 1))
    assert eventually(lambda: script.count == 5 * PART + len(got))
    threading.Event().wait(0.02)
    assert 6 == len(script.opened)
    assert DATA == got + b"".join(iteration)


def closed(asked: tuple[int, int | None]) -> tuple[int, int]:
    """A range that has an end."""
    assert asked[1] is not None
    return asked[0], asked[1]


@pytest.mark.parametrize("connections", [2, 8, MAX_CONNECTIONS])
def test_memory_is_bounded_however_many_there_are(connections: int) -> None:
    """A quarter of a gigabyte goes through the window."""

    class Zeros(Stream):
        def read(self, size: int, /) -> bytes:
            size = min(size, self.end - self.position)
            self.position += size
            return bytes(size)

    total = 256 * MIB
    script = Script(kind=Zeros)
    read = 0
    tracemalloc.start()
    try:
        for chunk in Ranges(script.open, 0, total, connections=connections):
            read += len(chunk)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == read
    assert peak < WINDOW + (connections + 8) * MIB
    assert len(script.opened) <= total / MIB
    assert all(end - start <= SEGMENT for start, end in map(closed, script.opened))


def test_readers_do_not_get_in_each_others_way() -> None:
    """Several threads read the same source at once."""
    script = Script()
    got: list[bytes] = []

    def read(connections: int) -> None:
        got.append(b"".join(ranges(script, connections)))

    threads = [threading.Thread(target=read, args=(connections,)) for connections in (2, 3, 4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [DATA] * 3 == got
    assert 0 == script.held


# Where several are not to be had


def refusing(error: BaseException, *, first: int = 1) -> Callable[[int, int], BaseException | None]:
    """Refuse streams from the ``first`` on, but for one that is alone."""
    return lambda number, held: error if number >= first and held else None


@pytest.mark.parametrize(
    "error", [RateLimited("429"), Denied("403", status=403), Unreachable("no more"), ConnectionResetError("reset")]
)
def test_refused_connections_do_without(error: BaseException) -> None:
    """Where none but the first is given, one connection brings the bytes, and one other is tried."""
    asked = threading.Event()

    def refuse(number: int, _: int) -> BaseException | None:
        if number == 1:
            asked.set()
        return error if number == 1 else None

    script = Script(refuses=refuse, gates={0: asked})
    assert DATA == b"".join(ranges(script, 8))
    assert 1 == script.most
    assert [(0, PART), (PART, 2 * PART), (PART, len(DATA))] == script.opened


@pytest.mark.slow
def test_fewer_connections_than_asked_for_share_the_rest() -> None:
    """A server that gives three at once is read over three."""
    script = Script(refuses=lambda _, held: RateLimited("429") if held >= 3 else None, bucket=each(8 * MIB))
    assert DATA == b"".join(ranges(script, 8))
    assert 3 == script.most
    assert len(script.opened) <= len(DATA) / PART + 1 + 7


def test_ignored_ranges_are_not_read() -> None:
    """A stream that would have to pass over what comes before is closed; one connection goes on to the end."""
    script = Script(ignores=lambda number: number > 0)
    assert DATA == b"".join(ranges(script, 8))
    assert [(0, PART), (PART, 2 * PART), (PART, len(DATA))] == script.opened
    assert len(DATA) == script.count


def test_a_blob_that_is_not_there_is_asked_for_once() -> None:
    """What the first stream is answered goes through before there are others."""
    script = Script(refuses=lambda _number, _held: Denied("403"))
    with pytest.raises(Denied):
        list(ranges(script, 8))
    assert 1 == len(script.opened)


# Errors


@pytest.mark.parametrize("error", [Unreachable("cut"), ValueError("a bug"), MemoryError()])
def test_an_error_comes_when_its_byte_is_due(error: BaseException) -> None:
    """Ranges that break far ahead are reported after all bytes that come before."""
    script = Script(breaks=dict.fromkeys(range(1, 200), 500_000), error=error)
    got: list[bytes] = []
    with pytest.raises(type(error)) as caught:
        got.extend(ranges(script, 4))
    assert caught.value is error
    assert DATA[:500_000] == b"".join(got)
    assert 0 == script.held
    assert all(end - start <= PART for start, end in map(closed, script.opened))  # nobody tried once more


@pytest.mark.slow
def test_a_range_that_breaks_for_good_is_taken_over() -> None:
    """Where others are at work, one of them goes on at the byte where it broke."""
    script = Script(breaks={2: 150_001})
    assert DATA == b"".join(ranges(script, 4))
    assert 1 == sum(offset == 150_001 for offset, _ in script.opened)
    assert len(DATA) == script.count


@pytest.mark.slow
def test_a_range_that_ends_early_ends_the_iteration() -> None:
    """What is missing is not made up from elsewhere; whoever counts finds out."""
    script = Script(breaks={2: 150_001}, error=None)
    assert DATA[:150_001] == b"".join(ranges(script, 4))


@pytest.mark.slow
@pytest.mark.parametrize("connections", [2, 8])
def test_more_than_was_asked_for_is_refused(connections: int) -> None:
    """A source that gives more bytes than a read may have does not write over what comes next."""

    class Generous(Stream):
        def read(self, size: int, /) -> bytes:
            return super().read(size) + b"more" if self.number else super().read(size)

    script = Script(kind=Generous, step=10 * MIB)
    with pytest.raises(SizeMismatch):
        list(ranges(script, connections))
    assert 0 == script.held


# Giving up


@pytest.mark.slow
@pytest.mark.parametrize("way", ["close", "forget", "cycle"])
def test_giving_up_ends_everything(way: str) -> None:
    """Closed, forgotten, or found by the collector: no stream and no thread is left."""
    script = Script()
    iteration = iter(ranges(script, 4))
    next(iteration)
    assert eventually(lambda: len(others()) == 3)
    assert all(thread.daemon for thread in others())
    if way == "close":
        iteration.close()
    else:
        if way == "cycle":
            holder: list[object] = [iteration]
            holder.append(holder)
            del holder
        del iteration
        gc.collect()
    assert eventually(lambda: (script.held, others()) == (0, []))


def test_giving_up_ends_reads_that_wait() -> None:
    """A stream that can be shut down from elsewhere is, and its own thread closes it."""
    never = threading.Event()
    script = Script(kind=Quick, gates=dict.fromkeys(range(1, 9), never))
    iteration = iter(ranges(script, 4))
    next(iteration)
    assert eventually(lambda: script.held == 4)
    iteration.close()
    assert eventually(lambda: (script.held, others()) == (0, []))


@pytest.mark.slow
def test_giving_up_does_not_wait_for_a_stream_that_cannot_be_ended() -> None:
    """It ends with its next byte."""
    gate = threading.Event()
    script = Script(gates=dict.fromkeys(range(1, 9), gate))
    iteration = iter(ranges(script, 4))
    next(iteration)
    assert eventually(lambda: script.held == 4)
    iteration.close()
    read = script.count
    gate.set()
    assert eventually(lambda: script.held == 0)
    assert script.count <= read + 3 * script.step


@pytest.mark.slow
def test_giving_up_does_not_wait_for_a_stream_that_is_being_opened() -> None:
    """When it is there, it is closed unread."""
    asked, late = threading.Event(), threading.Event()

    class Late(Script):
        def open(self, offset: int, end: int | None) -> Stream:
            if offset:
                asked.set()
                late.wait(LONG)
            return super().open(offset, end)

    script = Late(gates={1: threading.Event()})
    iteration = iter(ranges(script, 4))
    next(iteration)
    assert asked.wait(LONG)
    iteration.close()
    late.set()
    assert eventually(lambda: not others())
    assert (2, 0) == (len(script.opened), script.held)


@pytest.mark.slow
def test_an_interrupt_ends_everything() -> None:
    """Ctrl-C while the reader waits for a range is a KeyboardInterrupt at once."""
    never = threading.Event()
    script = Script(kind=Quick, gates=dict.fromkeys(range(1, 9), never))
    previous = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.setitimer(signal.ITIMER_REAL, 0.2)
    try:
        with pytest.raises(KeyboardInterrupt):
            list(ranges(script, 4))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert eventually(lambda: (script.held, others()) == (0, []))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_fork_gets_no_half_of_it() -> None:
    """A child that goes on with it is told so, and whether it does or not, the parent's streams stay as they are."""
    script = Script(kind=Quick, gates=dict.fromkeys(range(3, 9), threading.Event()))
    iteration = iter(ranges(script, 4))
    got = next(iteration)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on, forking with threads
        pid = os.fork()
    if not pid:
        code = 1
        with contextlib.suppress(BaseException):
            try:
                next(iteration)
            except RuntimeError:
                iteration.close()
                code = 0 if not any(stream.cut.is_set() for stream in script.streams) else 2
        os._exit(code)
    until = time.monotonic() + LONG
    while (ended := os.waitpid(pid, os.WNOHANG)) == (0, 0) and time.monotonic() < until:
        threading.Event().wait(0.01)
    if ended == (0, 0):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert (pid, 0) == ended
    for gate in script.gates.values():
        gate.set()
    assert DATA == got + b"".join(iteration)


# By default


def each(rate: float) -> Callable[[], Bucket]:
    """A limit for every connection."""
    return lambda: Bucket(rate)


def shared(rate: float) -> Callable[[], Bucket]:
    """A limit for all connections together."""
    bucket = Bucket(rate)
    return lambda: bucket


@pytest.mark.slow
def test_more_connections_are_opened_while_they_help() -> None:
    """Where each connection has its own limit, the default comes to eight of them, and is several times as fast."""
    rate = 2 * MIB
    script = Script(bucket=each(rate), step=8 * 1024)
    assert DATA == b"".join(ranges(script, None, worth_it=MIB))
    assert DEFAULT_CONNECTIONS == script.most
    assert (0, None) == script.opened[0]
    assert script.streams[0].position < len(DATA) / 2.5  # the others brought the rest in the same time
    assert script.count <= len(DATA) + 8 * PART
    assert 0 == script.held


@pytest.mark.slow
def test_connections_that_share_a_limit_are_not_multiplied() -> None:
    """Where a second one brings nothing, there are no more than two."""
    script = Script(bucket=shared(6 * MIB), step=8 * 1024)
    assert DATA == b"".join(ranges(script, None, interval=0.15))
    assert 2 == script.most


@pytest.mark.slow
def test_blobs_that_are_read_at_once_share_more_connections() -> None:
    """Sixteen readers have their own connection each, and a few more together; the next reader has them again."""
    scripts = [Script(DATA[:MIB], bucket=each(MIB), step=8 * 1024) for _ in range(16)]
    got: list[bytes] = []
    most: list[int] = []

    def read(script: Script) -> None:
        for chunk in ranges(script, None, worth_it=1):
            got.append(chunk)
            most.append(sum(script.held for script in scripts))

    threads = [threading.Thread(target=read, args=(script,)) for script in scripts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 16 * MIB == sum(map(len, got))
    assert 16 < max(most) <= 16 + MORE_CONNECTIONS
    test_more_connections_are_opened_while_they_help()


@pytest.mark.slow
def test_a_slow_reader_causes_no_connections() -> None:
    """It is the reader that is waited for, not the network."""
    script = Script()
    got = []
    for chunk in ranges(script, None, interval=0.2):
        got.append(chunk)
        threading.Event().wait(0.003)
    assert DATA == b"".join(got)
    assert [(0, None)] == script.opened


def test_a_source_that_computes_has_one_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time that the reading thread works is no time that it waits: no thread is started."""
    monkeypatch.setattr(time, "perf_counter", time.thread_time)  # or it would count when others have the processor
    script = Script(step=1024)
    assert DATA == b"".join(ranges(script, None, interval=0.001))
    assert [(0, None)] == script.opened


@pytest.mark.slow
def test_busy_readers_cause_no_connections() -> None:
    """Where other readers of the process keep a core busy, a wait is none for the network; they are forgotten later."""
    script = Script(DATA[:MIB], bucket=each(MIB), step=8 * 1024)
    _budget.busy(0, 0.7)
    try:
        assert DATA[:MIB] == b"".join(ranges(script, None, worth_it=1))
    finally:
        assert 0 == _budget.busy(0, None)
    assert [(0, None)] == script.opened
    assert DATA[:MIB] == b"".join(ranges(script, None, worth_it=1))
    assert script.most > 1


@pytest.mark.slow
def test_a_small_blob_has_one_connection() -> None:
    """It is over before others would help."""
    script = Script(DATA[:PART], bucket=each(MIB / 4), step=1024)
    assert DATA[:PART] == b"".join(ranges(script, None, segment=4096, worth_it=PART + 1))
    assert [(0, None)] == script.opened
    assert DATA[:PART] == b"".join(ranges(script, None, segment=4096, worth_it=4096))
    assert script.most > 1
    assert 32 * MIB == WORTH_IT


@pytest.mark.slow
@pytest.mark.parametrize("tells", [False, True])
def test_ranges_need_a_size(tells: bool) -> None:
    """Where it is not declared, it is what the first stream tells, or there is one connection."""
    script = Script(SHORT, bucket=each(4 * MIB), tells=tells)
    read = Ranges(script.open, 0, None, segment=PART, worth_it=PART, interval=0.05)
    assert SHORT == b"".join(read)
    assert tells == (script.most > 1)


@pytest.mark.slow
@pytest.mark.parametrize("size", [-1, 0, 1, len(SHORT) - 1, len(SHORT) + 1, 1 << 62])
def test_a_size_that_is_told_is_not_believed(size: int) -> None:
    """Where it is wrong, the bytes are wrong too, or there are fewer of them; never is it taken for the end of all."""

    class Liar(Stream):
        pass

    script = Script(SHORT, kind=Liar, bucket=each(4 * MIB), tells=True)

    def lie(offset: int, end: int | None) -> Stream:
        stream = script.open(offset, end)
        stream.size = size
        stream.end = min(stream.end, len(SHORT))
        return stream

    chunks = b"".join(Ranges(lie, 0, None, segment=PART, worth_it=PART, interval=0.05))
    assert SHORT[: len(chunks)] == chunks


@pytest.mark.slow
@pytest.mark.parametrize("error", [RateLimited("429"), Denied("403", status=403), Unreachable("no more")])
def test_the_first_connection_goes_on_where_others_are_refused(error: BaseException) -> None:
    """Nobody asked for several, so that they are refused is no error, and they are not asked for again."""
    script = Script(SHORT, bucket=each(4 * MIB), refuses=refusing(error))
    assert SHORT == b"".join(ranges(script, None))
    assert 2 == len(script.opened)
    assert [(0, None)] == script.opened[:1]


@pytest.mark.slow
def test_the_first_connection_goes_on_where_ranges_are_ignored() -> None:
    """The stream that would have to pass over the beginning is closed unread."""
    script = Script(SHORT, bucket=each(4 * MIB), ignores=lambda number: number > 0)
    assert SHORT == b"".join(ranges(script, None))
    assert 2 == len(script.opened)
    assert len(SHORT) == script.count


@pytest.mark.slow
def test_the_first_connection_goes_on_where_others_break() -> None:
    """A range that breaks before the first stream has come to it costs nothing but itself."""
    script = Script(SHORT, bucket=each(4 * MIB), breaks={1: 0})
    assert SHORT == b"".join(ranges(script, None))
    assert 2 == len(script.opened)


@pytest.mark.slow
def test_the_first_connection_does_not_wait_for_others_to_begin() -> None:
    """It passes by ranges that are slow to open; they are begun farther ahead each time, until they are in time."""

    class Late(Script):
        def open(self, offset: int, end: int | None) -> Stream:
            if offset:
                threading.Event().wait(0.06)  # four ranges' worth
            return super().open(offset, end)

    script = Late(bucket=each(4 * MIB), step=8 * 1024)
    assert DATA == b"".join(ranges(script, None))
    first, *more = script.streams
    assert first.position < len(DATA)
    unread = sum(stream.position == script.opened[stream.number][0] for stream in more)
    assert 1 <= unread <= 8


# Whatever happens


HAPPENINGS = st.sampled_from(["well", "well", "refused", "ignored", "broken", "short", "generous"])


@settings(max_examples=150)
@given(
    data=st.binary(min_size=1, max_size=400),
    at=st.integers(0, 400),
    segment=st.integers(1, 60),
    step=st.integers(1, 50),
    connections=st.sampled_from([None, 1, 2, 3, 8]),
    what=st.lists(HAPPENINGS, max_size=12),
    where=st.integers(0, 400),
)
def test_it_is_the_bytes_or_an_error(
    data: bytes, at: int, segment: int, step: int, connections: int | None, what: list[str], where: int
) -> None:
    """However streams behave, what is handed out is a beginning of the bytes; one that ends early may end it early."""
    at = min(at, len(data))

    def now(number: int) -> str:
        return what[number] if number < len(what) else "well"

    class Moody(Stream):
        def read(self, size: int, /) -> bytes:
            mood, begun = now(self.number), self.position > self.script.opened[self.number][0]
            if mood == "short" and begun and self.position >= where:
                return b""
            if mood == "broken" and begun and self.position >= where:
                message = "broken"
                raise Unreachable(message)
            return super().read(size) + (b"x" * size if mood == "generous" else b"")

    script = Script(
        data,
        step=step,
        kind=Moody,
        refuses=lambda number, _: RateLimited("429") if now(number) == "refused" else None,
        ignores=lambda number: now(number) == "ignored",
    )
    got = bytearray()
    try:
        # The default measures at every chunk, and doubles whenever it may.
        for chunk in ranges(script, connections, at=at, segment=segment, worth_it=1, interval=0.0):
            got += chunk
    except DistError:
        pass
    else:
        assert len(data) - at == len(got) or "short" in what
    assert data[at : at + len(got)] == got
    assert eventually(lambda: script.held == 0)


# As a blob


@pytest.mark.parametrize("connections", [0, -1, MAX_CONNECTIONS + 1])
def test_an_impossible_number_of_connections(connections: int) -> None:
    """It is refused at once, before anything is asked for."""
    script = Script()
    with pytest.raises(ValueError, match="connections"):
        Blob(script, Digest.of(DATA)).stream(connections=connections)
    assert [] == script.opened


@pytest.mark.parametrize(("connections", "asked"), [(None, 0), (1, 0), (2, 1), (8, 1)])
def test_a_blob_asks_for_its_size_where_ranges_need_it(connections: int | None, asked: int) -> None:
    """Several connections that were asked for are worth a question; the default asks none."""
    script = Script()
    assert DATA == b"".join(Blob(script, Digest.of(DATA)).stream(connections=connections))
    assert asked == script.asked


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
@pytest.mark.parametrize("at", [0, 3 * MIB, len(DATA) - 1])
def test_several_connections_are_verified(algorithm: str, at: int) -> None:
    """One wrong byte anywhere is a mismatch after the last."""
    wrong = bytearray(DATA)
    wrong[at] ^= 1
    script = Script(bytes(wrong))
    got: list[bytes] = []
    with pytest.raises(DigestMismatch):
        got.extend(Blob(script, Digest.of(DATA, algorithm), size=len(DATA)).stream(connections=4))
    assert wrong == b"".join(got)
    assert len(script.opened) > 1


@pytest.mark.parametrize("declared", [len(DATA) - 1, len(DATA) + 1])
def test_several_connections_are_counted(declared: int) -> None:
    """With another size than declared the digest is another, or bytes are missing; none beyond is handed out."""
    script = Script()
    blob = Blob(script, Digest("sha256", hashlib.sha256(DATA).hexdigest()), size=declared)
    got: list[bytes] = []
    with pytest.raises((SizeMismatch, DigestMismatch)):
        got.extend(blob.stream(connections=4))
    assert DATA[:declared] == b"".join(got)
