"""The bytes of a source in order, over one connection or over several closed ranges at once."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from attrs import define

from distsdk.content.source import CHUNK_SIZE, ByteStream
from distsdk.errors import DistError, SizeMismatch

if TYPE_CHECKING:
    from collections.abc import Callable, Generator


#: Connections that may be asked for, and that the default goes up to by itself.
MAX_CONNECTIONS = 64
DEFAULT_CONNECTIONS = 8

#: Connections that the default opens beside the first ones of all blobs that a process reads: who reads sixteen at once
#: has sixteen connections already.
MORE_CONNECTIONS = 8

#: Bytes of one range, at most and at least. Larger ones cost fewer requests and more memory.
SEGMENT = 8 * 1024 * 1024
SMALLEST_SEGMENT = 1024 * 1024

#: Bytes that are held in memory at most: what eight connections need.
WINDOW = 10 * SEGMENT

#: Bytes that have to be left for the default to open another connection.
WORTH_IT = 32 * 1024 * 1024

#: Seconds over which the default measures before it decides.
INTERVAL = 0.4

#: It opens more connections only while the reader spends more than this share of its time waiting for the network …
_WAITING = 0.5

#: … while all readers of the process together use less than this much of a core: otherwise, what looks like waiting for
#: the network is waiting for each other …
_BUSY = 0.6

#: … and as long as each doubling raises the throughput by this factor: connections that are limited each on its own
#: give 2.0, connections that share a limit 1.0.
_GAIN = 1.25

#: Bytes a thread asks of its range at a time.
_PIECE = 256 * 1024

#: Seconds that giving up waits for the threads to see it.
_PATIENCE = 0.5

_log = logging.getLogger(__name__)


class _Budget:
    """The connections that the default may still open in this process, and how busy those are who would."""

    def __init__(self) -> None:
        self._left = MORE_CONNECTIONS
        self._shares: dict[int, float] = {}
        self._lock = threading.RLock()  # as in Ranges

    def take(self, wanted: int) -> int:
        """Return how many of them may be opened."""
        with self._lock:
            taken = min(wanted, self._left)
            self._left -= taken
        return taken

    def give_back(self, taken: int) -> None:
        """Let others have them."""
        with self._lock:
            self._left += taken

    def busy(self, reader: int, share: float | None) -> float:
        """Take note of how much of a core a reader uses, None for its end; return what all use together."""
        with self._lock:
            self._shares.pop(reader, None)
            if share is not None:
                self._shares[reader] = share
            return sum(self._shares.values())


_budget = _Budget()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_budget.__init__)  # type: ignore[misc] # a child has no connection of ours


@define(eq=False)
class _Segment:
    """A part of the bytes that a thread gets into memory."""

    start: int
    end: int
    buffer: bytearray  # has room for more where the segment is the last
    filled: int = 0
    taken: int = 0  # handed out
    claimed: bool = True  # by a thread that works on it
    begun: bool = False  # the source gave it
    ended: bool = False  # nothing more comes, whether or not it is full
    dropped: bool = False  # no longer wanted, before it was begun


class Ranges:
    """The bytes from an offset to the end, in order, once.

    The first stream is read by the thread that iterates; with one connection it is all there is. Each further
    connection has a thread, which gets one closed range after the other into memory, as far ahead as the window allows.
    The first stream is given up where it comes to bytes that a thread has begun to get. Where the threads get nothing,
    because the other side refuses them or ignores ranges, the iterating thread reads on alone.

    By default there is one connection until the reader was seen to wait for it; then their number doubles for as long
    as that raises the throughput.

    Counting and hashing is up to whoever iterates: a source that ends early merely ends the iteration.
    """

    def __init__(
        self,
        open: Callable[[int, int | None], ByteStream],
        at: int,
        size: int | None,
        *,
        connections: int | None = None,
        segment: int = SEGMENT,
        worth_it: int = WORTH_IT,
        interval: float = INTERVAL,
    ) -> None:
        """Ask for nothing yet.

        Args:
            open: Opens a range: its offset and its end, which is None for all there is.
            at: The first byte wanted.
            size: Bytes of the whole; None where nobody knows, and then ``at`` is 0.
            connections: How many at once, from 1 to `MAX_CONNECTIONS`; None for as many as help.
            segment: Bytes of a range, at most.
            worth_it: Bytes that have to be left for the default to open another connection.
            interval: Seconds over which the default measures before it decides.
        """
        self._open = open
        self._at = at
        self._size = size
        self._wanted = connections or 1
        self._adapts = connections is None
        self._segment = segment
        self._worth_it = worth_it
        self._interval = interval
        self._pid = os.getpid()
        self._first: ByteStream | None = None
        self._first_end: int | None = None
        # A forgotten iteration is closed by the collector, in any thread, one that has the lock included: an RLock.
        self._lock = threading.RLock()
        self._arrived = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        # What follows is guarded by the lock.
        self._segments: deque[_Segment] = deque()  # those that are not handed out, without a gap between them
        self._next = 0  # where the next one begins
        self._gap = segment  # bytes the first stream is given until it comes to the first segment
        self._spare: list[bytearray] = []
        self._threads: list[threading.Thread] = []
        self._streams: dict[int, ByteStream] = {}  # those the threads read
        self._working = 0  # threads that have not ended
        self._opening = 0  # threads that do not have their first stream yet
        self._proven = False  # ranges are given beside the first stream
        self._failure: BaseException | None = None  # why the last thread ended, unless it was refused
        self._taken = 0  # of the budget
        self._closed = False
        # Since the last decision:
        self._since = 0.0
        self._busy_since = 0.0
        self._waited = 0.0
        self._received = 0
        self._rate = 0.0  # bytes a second at the last doubling

    def __iter__(self) -> Generator[bytes, None, None]:
        """Yield chunks of at least one byte and at most `CHUNK_SIZE`.

        Raises:
            SizeMismatch: The source gave more than it was asked for.
            Exception: Whatever the source raised, once the bytes before it are handed out.
        """
        try:
            self._begin()
            while chunk := self._from_segments() if self._first is None else self._from_first(self._first):
                self._at += len(chunk)
                yield chunk
                if self._threads and os.getpid() != self._pid:
                    message = "this iteration was begun before a fork, and its threads are not here: begin another"
                    raise RuntimeError(message)
                if self._adapts:
                    self._consider()
        finally:
            self.close()

    def close(self) -> None:
        """Close every stream and end the threads."""
        self._drop_first()
        if os.getpid() == self._pid:
            _budget.busy(id(self), None)
        if not self._threads or os.getpid() != self._pid:
            return  # a forked child shares the streams, and the lock may be held by a thread that is not there
        with self._lock:
            self._closed = True
            _budget.give_back(self._taken)
            self._taken = 0
            self._room.notify_all()
            for stream in self._streams.values():
                if (shutdown := getattr(stream, "shutdown", None)) is not None:
                    with contextlib.suppress(Exception):  # nobody waits for what it was to bring
                        shutdown()
        until = time.monotonic() + _PATIENCE
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    # In the iterating thread

    def _begin(self) -> None:
        if self._wanted > 1 and self._size is not None and self._size - self._at > 1:
            # A part for each, neither so small that the requests outweigh it nor too large for the window.
            largest = min(self._segment, WINDOW // _depth(self._wanted))
            share = -(-(self._size - self._at) // self._wanted)
            self._segment = max(1, min(largest, max(share, min(self._segment, SMALLEST_SEGMENT))))
            self._next = min(self._size, self._at + self._segment)
            self._open_first(self._next)  # before the others: what is not there is asked for once
            self._start_threads()
            return
        self._open_first(self._size if self._at else None)
        told = getattr(self._first, "size", None)
        if self._size is None and isinstance(told, int):
            self._size = told
        self._next = self._size or 0
        self._adapts = self._adapts and self._size is not None
        self._since, self._busy_since = time.perf_counter(), time.thread_time()

    def _open_first(self, end: int | None) -> None:
        self._first = self._open(self._at, end)
        self._first_end = end

    def _drop_first(self) -> None:
        if self._first is not None:
            self._first.close()
            self._first = None

    def _from_first(self, stream: ByteStream) -> bytes:
        limit = CHUNK_SIZE
        if self._first_end is not None:
            limit = min(limit, self._first_end - self._at)
        if limit and self._threads:
            limit = self._first_may_take(limit)
        if not limit:
            self._drop_first()
            with self._lock:
                if self._working:  # one of them takes the place of the first stream
                    self._start_threads()
            return self._from_segments()
        if not self._adapts and not self._threads:
            data = stream.read(limit)
        else:
            wall, busy = time.perf_counter(), time.thread_time()
            data = stream.read(limit)
            waited = (time.perf_counter() - wall) - (time.thread_time() - busy)
            with self._lock:
                self._waited += waited
                self._received += len(data)
        if len(data) > limit:
            raise self._too_many(limit, len(data))
        return data

    def _first_may_take(self, limit: int) -> int:
        """Return how much of ``limit`` the first stream is to read; 0 where a thread has what comes now."""
        assert self._size is not None  # noqa: S101 - or there would be no threads
        with self._lock:
            border = self._segments[0].start if self._segments else self._next
            if self._at == border < self._size:
                if self._working and any(segment.begun for segment in self._segments):
                    return 0
                # They are too slow to begin, or gone: read on, and let those that are there begin farther ahead.
                for segment in self._segments:
                    segment.dropped = True
                self._segments.clear()
                self._gap *= 2
                self._next = border = min(self._size, self._at + self._gap) if self._working else self._size
                self._room.notify_all()
            return limit if border >= self._size else min(limit, border - self._at)

    def _from_segments(self) -> bytes:
        if self._size is None or self._at >= self._size:
            return b""
        with self._lock:
            while True:
                head = self._segments[0] if self._segments else None
                if head is not None and head.taken < head.filled:
                    return self._take(head)
                if head is not None and head.ended:
                    return b""
                if not self._working:
                    break
                wall = time.perf_counter()
                self._arrived.wait()
                self._waited += time.perf_counter() - wall
            if self._failure is not None:
                raise self._failure
            # The threads were all refused: what was fetched ahead is dropped, one stream goes on to the end.
            self._segments.clear()
            self._next = self._size
            self._wanted = 1
        self._open_first(self._size)
        assert self._first is not None  # noqa: S101 - for the type checker
        return self._from_first(self._first)

    def _take(self, head: _Segment) -> bytes:
        end = min(head.filled, head.taken + CHUNK_SIZE)
        data = bytes(memoryview(head.buffer)[head.taken : end])
        head.taken = end
        if head.start + end == head.end:
            self._spare.append(head.buffer)
            self._segments.popleft()
            self._room.notify_all()
        return data

    def _consider(self) -> None:
        """Open more connections if the reader waits for the network, and the last ones that were opened have helped."""
        assert self._size is not None  # noqa: S101 - or it could not adapt
        now = time.perf_counter()
        with self._lock:
            lasted = now - self._since
            if lasted < self._interval and not self._opening:
                return
            received, waited = self._received, self._waited
            self._since, self._received, self._waited = now, 0, 0.0
            used = time.thread_time()
            busy = _budget.busy(id(self), max(0.0, used - self._busy_since) / lasted)
            self._busy_since = used
            if self._opening or waited <= lasted * _WAITING or busy >= _BUSY:
                return
            rate = received / lasted
            helped = rate >= self._rate * _GAIN
            enough = self._wanted >= DEFAULT_CONNECTIONS or self._size - self._at < self._worth_it
            if enough or not helped:
                self._adapts = False
                return
            more = _budget.take(min(self._wanted, DEFAULT_CONNECTIONS - self._wanted))
            if not more:
                return
            _log.debug("%d connections bring %.1f MB/s: trying %d more", self._wanted, rate / 1e6, more)
            self._taken += more
            self._wanted += more
            self._rate = rate
            if not self._threads:
                self._next = min(self._size, self._at + self._gap)
        self._start_threads()

    def _start_threads(self) -> None:
        """Start as many threads as are wanted beside the first stream; one, until it has been given a range."""
        with self._lock:
            while (
                not self._closed
                and self._working + (self._first is not None) < self._wanted
                and (self._proven or not self._working)
            ):
                number = len(self._threads)
                thread = threading.Thread(
                    target=self._work, args=(number,), name=f"distsdk-range-{number + 1}", daemon=True
                )
                try:
                    thread.start()
                except RuntimeError as error:  # the system has no more
                    _log.debug("no thread for another connection: %s", error)
                    self._wanted = self._working + (self._first is not None)
                    self._adapts = False
                    return
                self._threads.append(thread)
                self._working += 1
                self._opening += 1

    # In the other threads

    def _work(self, number: int) -> None:
        """Get one segment after the other until none is left, a range is refused, or one breaks."""
        segment: _Segment | None = None
        failure: BaseException | None = None
        had_one = False
        try:
            while (segment := self._claim()) is not None:
                try:
                    stream = self._open(segment.start + segment.filled, segment.end)
                except (DistError, OSError) as error:
                    _log.debug("no range beside the others: %s", error)
                    break
                try:
                    if getattr(stream, "to_skip", 0):
                        _log.debug("ranges are ignored: one connection goes on alone")
                        break
                    with self._lock:
                        self._opening -= not had_one
                        had_one = True
                        if not self._proven:
                            self._proven = True
                            self._start_threads()
                        if self._closed or segment.dropped:
                            continue
                        segment.begun = True
                        self._streams[number] = stream
                    self._fill(segment, stream)
                finally:
                    with self._lock:
                        self._streams.pop(number, None)
                    stream.close()
        except BaseException as error:  # noqa: BLE001 - it is raised in the iterating thread
            failure = error
        with self._lock:
            if segment is not None:  # ended before its time: others may go on with it
                segment.claimed = False
                self._wanted -= 1
                self._adapts = False
                self._failure = failure
            self._opening -= not had_one
            self._working -= 1
            self._arrived.notify_all()
            self._room.notify_all()

    def _claim(self) -> _Segment | None:
        """Return the first segment that nobody works on; None once there is nothing left to do."""
        assert self._size is not None  # noqa: S101 - or there would be no threads
        with self._lock:
            while not self._closed:
                for segment in self._segments:
                    if not segment.claimed and not segment.ended:
                        segment.claimed = True
                        return segment
                if self._next < self._size and len(self._segments) < _depth(self._wanted):
                    end = min(self._size, self._next + self._segment)
                    buffer = self._spare.pop() if self._spare else bytearray(self._segment)
                    segment = _Segment(self._next, end, buffer)
                    self._segments.append(segment)
                    self._next = end
                    return segment
                if self._next >= self._size and all(segment.ended for segment in self._segments):
                    return None
                self._room.wait()
        return None

    def _fill(self, segment: _Segment, stream: ByteStream) -> None:
        while left := segment.end - segment.start - segment.filled:
            data = stream.read(min(_PIECE, left))
            if len(data) > left:
                raise self._too_many(left, len(data))
            with self._lock:
                if self._closed:
                    return
                segment.buffer[segment.filled : segment.filled + len(data)] = data
                segment.filled += len(data)
                self._received += len(data)
                if not data or len(data) == left:
                    segment.ended = True
                    self._room.notify_all()
                if segment is self._segments[0]:
                    self._arrived.notify_all()
            if not data:
                return

    def _too_many(self, asked: int, got: int) -> SizeMismatch:
        message = f"a source gave {got} bytes where it was asked for {asked} at most"
        return SizeMismatch(message, expected=asked, got=got)


def _depth(connections: int) -> int:
    """Return how many segments may be in memory: one for each connection, and some that wait for their turn."""
    return connections + max(1, connections // 4)
