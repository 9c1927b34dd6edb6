"""What is tried again, how often, and after how long."""

from __future__ import annotations

import logging
import random
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from distsdk._moved import restore_fields
from distsdk._repr import Displayed
from distsdk._text import human_time
from distsdk.errors import DeadlineExceeded, DistError, InvalidConfig, RateLimited, RegistryError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from attrs import Attribute

    from distsdk.transport.deadline import Deadline
    from distsdk.transport.pool import HostPool

_log = logging.getLogger(__name__)


def _positive(_: object, attribute: Attribute[Any], value: float) -> None:
    if not value > 0:
        message = f"Retry: {attribute.name} must be more than 0, not {value!r}"
        raise InvalidConfig(message)


def _not_negative(_: object, attribute: Attribute[Any], value: float) -> None:
    if not value >= 0:
        message = f"Retry: {attribute.name} must be 0 or more, not {value!r}"
        raise InvalidConfig(message)


def _frozen(statuses: Iterable[int]) -> frozenset[int]:
    return frozenset(statuses)


@frozen
class Retry(Displayed):
    """Which failures are tried again, and when.

    Broken connections and time-outs are; refused ones, certificates that do not convince, 403, 404 and wrong digests
    are not. Progress gives the attempts back, if there is enough of it: who sends a few bytes each time keeps nobody
    for ever.

    Attributes:
        attempts: Tries without progress, the first one included; 1 tries nothing again.
        backoff: Seconds before the second try; each further pause is twice as long, and shortened by chance to between
            half and all of it. Where the registry says how long to wait (``Retry-After``), that counts.
        longest: Seconds that a pause grows to.
        statuses: HTTP statuses that are tried again.
        max_wait: Seconds to wait in all because registries ask for it (``Retry-After``), while one document, listing or
            blob is read or pushed. A wait that does not fit into what is left fails at once.
    """

    attempts: int = field(default=5, validator=_positive)
    backoff: float = field(default=0.25, validator=_positive)
    longest: float = field(default=30.0, validator=_positive)
    statuses: frozenset[int] = field(default=frozenset({429, 502, 503, 504}), converter=_frozen)
    max_wait: float = field(default=60.0, validator=_not_negative)

    def __setstate__(self, state: object) -> None:
        restore_fields(self, state)

    def covers(self, error: DistError) -> bool:
        """Whether trying again may help."""
        if isinstance(error, Unreachable | DeadlineExceeded):
            return error.temporary
        status = 429 if isinstance(error, RateLimited) else error.status if isinstance(error, RegistryError) else None
        return status in self.statuses


#: Bytes that give the attempts at broken connections back, and those that give the attempts after time-outs back, each
#: of which may have taken half a minute.
PROGRESS, _FLOW = 16 * 1024, 256 * 1024

#: Seconds of a wait that is reported as a warning.
_LONG = 2.0


@define(eq=False)
class _Waited:
    """What one operation has waited.

    Attributes:
        seconds: In all, because servers asked for it.
        until: The moment up to which pauses of a host were waited out, on the monotonic clock.
    """

    seconds: float = 0.0
    until: float = 0.0


class RetryState:
    """The attempts that are left for one transfer, and the time it may still wait because servers ask for it.

    Args:
        retry: How many attempts there are, and what they cover.
        attempts: Counts in place of the policy's attempts.
        part_of: A transfer that this one is a part of: what both wait is one sum.
    """

    def __init__(self, retry: Retry, *, attempts: int | None = None, part_of: RetryState | None = None) -> None:
        self._retry = retry
        self._attempts = retry.attempts if attempts is None else attempts
        self._waited: _Waited = _Waited() if part_of is None else part_of._waited
        self._breaks = self._stalls = 0  # since there was progress
        self._slow = 0  # since a connection kept its pace
        self._since_break = self._since_stall = 0  # bytes that arrived

    def renewed(self, attempts: int | None = None) -> RetryState:
        """Return all attempts, or so many, for a part of the same transfer."""
        return RetryState(self._retry, attempts=attempts, part_of=self)

    def progressed(self, size: int) -> None:
        """Give attempts back for bytes that arrived."""
        self._since_break += size
        self._since_stall += size
        if self._since_break >= PROGRESS:
            self._breaks = self._since_break = 0
        if self._since_stall >= _FLOW:
            self._stalls = self._since_stall = 0

    def kept_pace(self) -> None:
        """Give attempts at connections that were too slow back: bytes alone do not, as slow ones bring some too."""
        self._slow = 0

    def wait(
        self,
        error: DistError,
        deadline: Deadline | None = None,
        pool: HostPool | None = None,
        *,
        is_slow: bool = False,
    ) -> None:
        """Wait before the next try.

        Args:
            error: Why the last one failed.
            deadline: When all has to be done.
            pool: Of the host, for which a 429 is a pause of all requests.
            is_slow: Whether it failed because the connection was too slow.

        Raises:
            DistError: ``error``, if it is final, no attempt is left, or the wait would outlast the deadline or
                `Retry.max_wait`.
        """
        if is_slow:
            self._slow += 1
        elif isinstance(error, DeadlineExceeded):
            self._stalls += 1
        else:
            self._breaks += 1
        failures = self._breaks + self._stalls + self._slow
        pause = min(self._retry.longest, self._retry.backoff * 2 ** min(failures - 1, 60))
        pause *= random.uniform(0.5, 1)  # noqa: S311 - no secret; so that not all who were turned away come back at once
        asked = error.retry_after if isinstance(error, RateLimited | RegistryError) else None
        if asked is not None:
            pause = asked  # RFC 9110 section 10.2.3
        is_news = True
        if pool is not None and isinstance(error, RateLimited):
            is_news = pool.pause(pause)
        if failures >= self._attempts or not self._retry.covers(error):
            raise error
        self._sleep(pause, error, deadline, is_asked=asked is not None, is_news=is_news)

    def wait_for(self, pool: HostPool, host: str, deadline: Deadline) -> None:
        """Wait for the end of the pause that a host asked for, before a request is sent to it.

        Args:
            pool: Of the host.
            host: Its name, for the message.
            deadline: When all has to be done.

        Raises:
            RateLimited: The policy tries no 429 again, or the wait would outlast the deadline or `Retry.max_wait`.
        """
        while pause := pool.paused(self._waited.until):
            message = f"{host} asked for a pause (429); try again in {human_time(pause)}"
            error = RateLimited(message, retry_after=pause)
            if self._retry.attempts == 1 or not self._retry.covers(error):
                raise error
            self._sleep(pause, error, deadline, is_asked=True, is_news=False)

    def _sleep(
        self, pause: float, error: DistError, deadline: Deadline | None, *, is_asked: bool, is_news: bool
    ) -> None:
        if deadline is not None and pause >= deadline.left():
            raise error
        if is_asked:
            if self._waited.seconds + pause > self._retry.max_wait:
                raise error
            self._waited.seconds += pause
        self._waited.until = max(self._waited.until, monotonic() + pause)
        level = logging.WARNING if pause > _LONG and is_news else logging.INFO
        _log.log(level, "waiting %s before the next try: %s", human_time(pause), error)
        sleep(pause)
