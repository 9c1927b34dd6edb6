"""The threads that carry blobs, and the jobs that they take."""

from __future__ import annotations

import contextlib
import errno
import queue
import threading
import time
from typing import TYPE_CHECKING

from attrs import define

from distsdk.transfer.events import Advanced, Finished

if TYPE_CHECKING:
    from collections.abc import Callable

    from distsdk.spec.descriptor import Descriptor
    from distsdk.transfer.events import Event

#: Blobs that are carried at once.
JOBS = 4

#: Seconds between two events of one blob.
_INTERVAL = 0.1

#: Seconds that giving up waits for the threads to see it.
_PATIENCE = 0.5


class _Stopped(Exception):
    """Ends a transfer that is no longer wanted."""


@define(eq=False)
class Job:
    """What a thread does with a blob.

    Attributes:
        descriptor: Which blob.
        here: Bytes of it that are where it goes.
        told: How many of them were told of.
        existed: Whether nothing had to be carried.
    """

    descriptor: Descriptor
    here: int
    told: int
    existed: bool = False


class WorkerPool:
    """The threads that carry blobs; the thread that called tells of them."""

    def __init__(self, name: str, todo: list[Job], run: Callable[[Job, Callable[[int], None]], None]) -> None:
        """Hire nobody yet.

        Args:
            name: Of the threads.
            todo: What there is to be done; taken from its end.
            run: Does a job, and calls what it is given with the bytes that are there; what that raises ends it.
        """
        self._name = name
        self._todo = todo
        self._left = len(todo)
        self._act = run
        self._at_work: dict[Job, None] = {}
        self._done: queue.SimpleQueue[Job | BaseException] = queue.SimpleQueue()
        self._stopped = threading.Event()

    def work(self, jobs: int, report: Callable[[Event], object]) -> None:
        """Do all of them.

        Raises:
            BaseException: The first that a thread met, or that the report raised; the other threads are told to stop.
        """
        count = max(1, min(jobs, self._left))
        threads = [
            threading.Thread(target=self._run, name=f"{self._name}-{number + 1}", daemon=True)
            for number in range(count)
        ]
        try:
            for thread in threads:
                try:
                    thread.start()
                except RuntimeError as error:  # the system has no more
                    if thread is threads[0]:
                        raise OSError(errno.EAGAIN, f"no blob can be carried: {error}") from error
                    break
            told = 0.0
            while self._left:
                done = None
                with contextlib.suppress(queue.Empty):
                    done = self._done.get(timeout=_INTERVAL)
                if isinstance(done, BaseException):
                    raise done
                if done is not None:
                    self._left -= 1
                    report(Finished(done.descriptor, done.existed))
                if time.monotonic() - told >= _INTERVAL:
                    told = time.monotonic()
                    for job in self._at_work.copy():  # at once: the threads go on
                        if job.here != job.told:
                            job.told = job.here
                            report(Advanced(job.descriptor, job.here))
        finally:
            self._stopped.set()
            until = time.monotonic() + _PATIENCE
            for thread in threads:
                if thread.is_alive():
                    thread.join(max(0.0, until - time.monotonic()))

    def _run(self) -> None:
        try:
            while not self._stopped.is_set():
                try:
                    job = self._todo.pop()
                except IndexError:
                    return
                self._at_work[job] = None
                self._act(job, self._at(job))
                del self._at_work[job]
                self._done.put(job)
        except _Stopped:
            pass
        except BaseException as error:  # noqa: BLE001 - it is raised in the thread that called
            self._done.put(error)

    def _at(self, job: Job) -> Callable[[int], None]:
        def at(here: int) -> None:
            job.here = here
            if self._stopped.is_set():
                raise _Stopped

        return at
