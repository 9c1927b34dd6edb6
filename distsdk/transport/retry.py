"""Decide which failed requests are retried, how often, and after how long."""

from __future__ import annotations

import logging
import random
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any

from attrs import define, field, frozen

from distsdk._moved import restore_fields, saved_fields
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
    """Which failures are retried, and when.

    Broken connections and time-outs are retried; refused connections, failed certificate verification, 403, 404 and
    wrong digests are not. Enough progress restores the attempts; a server that sends only a few bytes each time cannot
    keep a client busy for ever.

    Attributes:
        attempts: Attempts without progress, including the first; 1 disables retries.
        backoff: Seconds before the second attempt. Each further pause is twice as long; a random factor between 0.5
            and 1 applies. A ``Retry-After`` of the registry takes precedence.
        longest: Longest pause in seconds.
        statuses: HTTP statuses that are retried.
        max_wait: Total seconds to wait for ``Retry-After`` while one document, listing or blob is read or pushed. A
            wait that exceeds the rest of it fails at once.
    """

    attempts: int = field(default=5, validator=_positive)
    backoff: float = field(default=0.25, validator=_positive)
    longest: float = field(default=30.0, validator=_positive)
    statuses: frozenset[int] = field(default=frozenset({429, 502, 503, 504}), converter=_frozen)
    max_wait: float = field(default=60.0, validator=_not_negative)

    def __getstate__(self) -> dict[str, object]:
        return saved_fields(self)

    def __setstate__(self, state: object) -> None:
        restore_fields(self, state)

    def covers(self, error: DistError) -> bool:
        """Return whether a retry may help.

        Args:
            error: Why the last attempt failed.
        """
        if isinstance(error, Unreachable | DeadlineExceeded):
            return error.temporary
        status = 429 if isinstance(error, RateLimited) else error.status if isinstance(error, RegistryError) else None
        return status in self.statuses


#: Bytes that must arrive to restore the attempts after broken connections.
PROGRESS = 16 * 1024

#: Bytes that must arrive to restore the attempts after time-outs; more, as each may have taken half a minute.
_FLOW = 256 * 1024

#: Waits of more seconds are logged as a warning.
_LONG = 2.0


@define(eq=False)
class _WaitTotal:
    """The waits of one operation.

    Attributes:
        seconds: Total time waited because of ``Retry-After``.
        until: Time on the monotonic clock up to which pauses of a host were waited out.
    """

    seconds: float = 0.0
    until: float = 0.0


class RetryState:
    """The remaining attempts and waiting time of one transfer.

    Args:
        retry: The policy.
        attempts: Number of attempts, instead of the policy's.
        part_of: A transfer that this one is a part of; their waits are added up.
    """

    def __init__(self, retry: Retry, *, attempts: int | None = None, part_of: RetryState | None = None) -> None:
        self._retry = retry
        self._attempts = retry.attempts if attempts is None else attempts
        self._waited: _WaitTotal = _WaitTotal() if part_of is None else part_of._waited
        self._breaks = self._stalls = 0  # since the last progress
        self._slow = 0  # since a connection was last fast enough
        self._since_break = self._since_stall = 0  # bytes that arrived

    def renewed(self, attempts: int | None = None) -> RetryState:
        """Return a new state for a part of the same transfer.

        Args:
            attempts: Number of attempts; by default the policy's.
        """
        return RetryState(self._retry, attempts=attempts, part_of=self)

    def progressed(self, size: int) -> None:
        """Restore attempts after progress.

        Args:
            size: Number of bytes that arrived.
        """
        self._since_break += size
        self._since_stall += size
        if self._since_break >= PROGRESS:
            self._breaks = self._since_break = 0
        if self._since_stall >= _FLOW:
            self._stalls = self._since_stall = 0

    def kept_pace(self) -> None:
        """Restore the attempts after slow connections; `progressed` does not, since slow connections progress too."""
        self._slow = 0

    def wait(
        self,
        error: DistError,
        deadline: Deadline | None = None,
        pool: HostPool | None = None,
        *,
        is_slow: bool = False,
    ) -> None:
        """Wait before the next attempt.

        Args:
            error: Why the last attempt failed.
            deadline: When the operation must have ended.
            pool: Pool of the host; a 429 pauses all requests of the pool.
            is_slow: Whether the attempt failed because the connection was too slow.

        Raises:
            DistError: ``error``, if it is not retried, no attempt is left, or the wait would exceed the deadline or
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
        pause *= random.uniform(0.5, 1)  # noqa: S311 - not a secret; spreads the retries of many clients
        requested = error.retry_after if isinstance(error, RateLimited | RegistryError) else None
        if requested is not None:
            pause = requested  # RFC 9110 section 10.2.3
        is_news = True
        if pool is not None and isinstance(error, RateLimited):
            is_news = pool.pause(pause)
        if failures >= self._attempts or not self._retry.covers(error):
            raise error
        self._sleep(pause, error, deadline, is_requested=requested is not None, is_news=is_news)

    def wait_for(self, pool: HostPool, host: str, deadline: Deadline) -> None:
        """Wait until the pause of a host has ended, before a request is sent to it.

        Args:
            pool: Pool of the host.
            host: Name of the host, for the message.
            deadline: When the operation must have ended.

        Raises:
            RateLimited: The policy does not retry 429, or the wait would exceed the deadline or `Retry.max_wait`.
        """
        while pause := pool.paused(self._waited.until):
            message = f"{host} requested a pause (429); try again in {human_time(pause)}"
            error = RateLimited(message, retry_after=pause)
            if self._retry.attempts == 1 or not self._retry.covers(error):
                raise error
            self._sleep(pause, error, deadline, is_requested=True, is_news=False)

    def _sleep(
        self, pause: float, error: DistError, deadline: Deadline | None, *, is_requested: bool, is_news: bool
    ) -> None:
        if deadline is not None and pause >= deadline.left():
            raise error
        if is_requested:
            if self._waited.seconds + pause > self._retry.max_wait:
                raise error
            self._waited.seconds += pause
        self._waited.until = max(self._waited.until, monotonic() + pause)
        level = logging.WARNING if pause > _LONG and is_news else logging.INFO
        _log.log(level, "waiting %s before the next attempt: %s", human_time(pause), error)
        sleep(pause)
