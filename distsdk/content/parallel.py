"""Read a content source in order, over one connection or over several closed ranges at once."""

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


#: Connections that a caller may request, and that the default uses at most.
MAX_CONNECTIONS = 64
DEFAULT_CONNECTIONS = 8

#: Connections that the default opens in a whole process, besides the first one of each blob: a process that reads
#: sixteen blobs at once has sixteen connections already.
MORE_CONNECTIONS = 8

#: Bytes of one range, at most and at least. Larger ranges take fewer requests and more memory.
SEGMENT = 8 * 1024 * 1024
SMALLEST_SEGMENT = 1024 * 1024

#: Bytes to hold in memory at most: enough for eight connections.
WINDOW = 10 * SEGMENT

#: Remaining bytes from which the default opens another connection.
WORTH_IT = 32 * 1024 * 1024

#: Seconds of one measurement of the default.
INTERVAL = 0.4

#: The default opens more connections only while the reader spends more than this share of time waiting for data, …
_WAITING = 0.5

#: … while all readers of the process together use less than this share of a core (otherwise they wait for each other
#: and not for the network), …
_BUSY = 0.6

#: … and as long as each doubling raises the throughput by this factor: connections that are limited each on its own
#: give 2.0, connections that share a limit 1.0.
_GAIN = 1.25

#: Bytes that a thread reads from its range at a time.
_PIECE = 256 * 1024

#: Seconds that `Ranges.close` waits for the threads to end.
_CLOSE_SECONDS = 0.5

_log = logging.getLogger(__name__)


class _Budget:
    """The connections that the default may still open in this process, and the load of its readers."""

    def __init__(self) -> None:
        self._left = MORE_CONNECTIONS
        self._shares: dict[int, float] = {}
        self._lock = threading.RLock()  # as in Ranges

    def take(self, wanted: int) -> int:
        """Reserve up to ``wanted`` connections and return how many were reserved."""
        with self._lock:
            taken = min(wanted, self._left)
            self._left -= taken
        return taken

    def give_back(self, taken: int) -> None:
        """Release reserved connections."""
        with self._lock:
            self._left += taken

    def busy(self, reader: int, share: float | None) -> float:
        """Record the share of a core that a reader uses (None at its end), and return the sum of all readers."""
        with self._lock:
            self._shares.pop(reader, None)
            if share is not None:
                self._shares[reader] = share
            return sum(self._shares.values())


_budget = _Budget()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_budget.__init__)  # type: ignore[misc] # a child has no connections


@define(eq=False)
class _Segment:
    """A range that a thread reads into memory."""

    start: int
    end: int
    buffer: bytearray  # longer than the segment if that is the last
    filled: int = 0
    taken: int = 0  # bytes that were yielded
    claimed: bool = True  # by a thread that reads it
    begun: bool = False  # the source opened the range
    ended: bool = False  # the stream ended, whether or not the segment is full
    dropped: bool = False  # discarded before the range was opened


class Ranges:
    """Iterates once over the bytes from an offset to the end, in order.

    The iterating thread reads the first stream; with one connection there is no other. Each further connection has a
    thread, which reads one closed range after the other into memory, as far ahead as the window allows. The first
    stream is closed when it reaches bytes that a thread has begun to read. If the server refuses the threads' requests
    or ignores ranges, the iterating thread reads the rest alone.

    By default there is one connection until the reader waits for it. Then the number doubles for as long as that raises
    the throughput.

    The caller counts and hashes: a source that ends early ends the iteration without an error.
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
        """Prepare the iteration; no request is sent.

        Args:
            open: Opens a range from an offset to an end; None as the end means all bytes.
            at: Offset of the first byte.
            size: Bytes of the whole blob; None if unknown: ``at`` must be 0 then.
            connections: Connections to use at once, from 1 to `MAX_CONNECTIONS`; None to adapt.
            segment: Bytes of a range at most.
            worth_it: Remaining bytes from which the default opens another connection.
            interval: Seconds of one measurement of the default.
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
        # An RLock: the garbage collector may close an abandoned iteration in any thread, even in one that holds it.
        self._lock = threading.RLock()
        self._arrived = threading.Condition(self._lock)
        self._room = threading.Condition(self._lock)
        # The lock guards the attributes below.
        self._segments: deque[_Segment] = deque()  # contiguous, not yet fully yielded
        self._next = 0  # offset of the next segment
        self._gap = segment  # bytes between the first stream's position and the first segment, when they are planned
        self._spare: list[bytearray] = []
        self._threads: list[threading.Thread] = []
        self._streams: dict[int, ByteStream] = {}  # of the threads
        self._working = 0  # threads that have not ended
        self._opening = 0  # threads that do not have their first stream yet
        self._proven = False  # the server sent a range while the first stream was open
        self._failure: BaseException | None = None  # of the last thread to fail, unless its request was refused
        self._taken = 0  # connections reserved from the budget
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
            SizeMismatch: The source returned more bytes than requested.
            Exception: An error of the source, after the bytes before it were yielded.
        """
        try:
            self._begin()
            while chunk := self._from_segments() if self._first is None else self._from_first(self._first):
                self._at += len(chunk)
                yield chunk
                if self._threads and os.getpid() != self._pid:
                    message = "read failed: the process was forked during the iteration; start a new one in the child"
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
            return  # a forked child shares the streams, and a thread of the parent may hold the lock
        with self._lock:
            self._closed = True
            _budget.give_back(self._taken)
            self._taken = 0
            self._room.notify_all()
            for stream in self._streams.values():
                if (shutdown := getattr(stream, "shutdown", None)) is not None:
                    with contextlib.suppress(Exception):  # its bytes are no longer needed
                        shutdown()
        until = time.monotonic() + _CLOSE_SECONDS
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, until - time.monotonic()))

    # In the iterating thread

    def _begin(self) -> None:
        if self._wanted > 1 and self._size is not None and self._size - self._at > 1:
            # One part for each connection, within the limits of a segment and of the window.
            largest = min(self._segment, WINDOW // _depth(self._wanted))
            share = -(-(self._size - self._at) // self._wanted)
            self._segment = max(1, min(largest, max(share, min(self._segment, SMALLEST_SEGMENT))))
            self._next = min(self._size, self._at + self._segment)
            self._open_first(self._next)  # before the others: a missing blob costs one request
            self._start_threads()
            return
        self._open_first(self._size if self._at else None)
        reported = getattr(self._first, "size", None)
        if self._size is None and isinstance(reported, int):
            self._size = reported
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
                if self._working:  # another thread replaces the first stream
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
        """Return how many bytes up to ``limit`` the first stream may read; 0 if a thread reads the next bytes."""
        assert self._size is not None  # noqa: S101 - or there would be no threads
        with self._lock:
            border = self._segments[0].start if self._segments else self._next
            if self._at == border < self._size:
                if self._working and any(segment.begun for segment in self._segments):
                    return 0
                # The threads are slow to open their ranges, or ended: read on, and let the others start farther ahead.
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
            # All threads were refused: discard the segments, and read the rest with one stream.
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
        """Open more connections if the reader waits for the network and the previous increase raised the throughput."""
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
            _log.debug("%d connections read %.1f MB/s; opening %d more", self._wanted, rate / 1e6, more)
            self._taken += more
            self._wanted += more
            self._rate = rate
            if not self._threads:
                self._next = min(self._size, self._at + self._gap)
        self._start_threads()

    def _start_threads(self) -> None:
        """Start the threads for the further connections; only one until the server has sent it a range."""
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
                except RuntimeError as error:  # a limit of the system
                    _log.debug("cannot start a thread for another connection: %s", error)
                    self._wanted = self._working + (self._first is not None)
                    self._adapts = False
                    return
                self._threads.append(thread)
                self._working += 1
                self._opening += 1

    # In the other threads

    def _work(self, number: int) -> None:
        """Read one segment after the other until no segment is left or a request fails."""
        segment: _Segment | None = None
        failure: BaseException | None = None
        had_one = False
        try:
            while (segment := self._claim()) is not None:
                try:
                    stream = self._open(segment.start + segment.filled, segment.end)
                except (DistError, OSError) as error:
                    _log.debug("further range refused: %s", error)
                    break
                try:
                    if getattr(stream, "to_skip", 0):
                        _log.debug("server ignores ranges; using one connection")
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
        except BaseException as error:  # noqa: BLE001 - raised again in the iterating thread
            failure = error
        with self._lock:
            if segment is not None:  # unfinished: another thread may claim it
                segment.claimed = False
                self._wanted -= 1
                self._adapts = False
                self._failure = failure
            self._opening -= not had_one
            self._working -= 1
            self._arrived.notify_all()
            self._room.notify_all()

    def _claim(self) -> _Segment | None:
        """Claim the first unclaimed or the next new segment; return None once all segments have ended."""
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
        message = f"read of a content source returned {got} bytes, expected at most {asked}"
        return SizeMismatch(message, expected=asked, got=got)


def _depth(connections: int) -> int:
    """Return how many segments may be in memory: one for each connection, and a quarter more that wait."""
    return connections + max(1, connections // 4)
