"""What is tried again, how often, and after how long."""

from __future__ import annotations

import logging
import random
from time import sleep
from typing import TYPE_CHECKING, Any

from attrs import field, frozen

from distsdk.errors import DeadlineExceeded, DistError, InvalidConfig, RateLimited, RegistryError, Unreachable
from distsdk.model.shown import Shown

if TYPE_CHECKING:
    from collections.abc import Iterable

    from attrs import Attribute

    from distsdk.transport.deadline import Deadline

_log = logging.getLogger(__name__)


def _positive(_: object, attribute: Attribute[Any], value: float) -> None:
    if not value > 0:
        message = f"Retry: {attribute.name} must be more than 0, not {value!r}"
        raise InvalidConfig(message)


def _frozen(statuses: Iterable[int]) -> frozenset[int]:
    return frozenset(statuses)


@frozen
class Retry(Shown):
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
    """

    attempts: int = field(default=5, validator=_positive)
    backoff: float = field(default=0.25, validator=_positive)
    longest: float = field(default=30.0, validator=_positive)
    statuses: frozenset[int] = field(default=frozenset({429, 502, 503, 504}), converter=_frozen)

    def covers(self, error: DistError) -> bool:
        """Whether trying again may help."""
        if isinstance(error, Unreachable | DeadlineExceeded):
            return error.temporary
        status = 429 if isinstance(error, RateLimited) else error.status if isinstance(error, RegistryError) else None
        return status in self.statuses


#: Bytes that give the attempts at broken connections back, and those that give the attempts after time-outs back, each
#: of which may have taken half a minute.
PROGRESS, _FLOW = 16 * 1024, 256 * 1024


class Patience:
    """The attempts that are left for one transfer."""

    def __init__(self, retry: Retry) -> None:
        self._retry = retry
        self._breaks = self._stalls = 0  # since there was progress
        self._since_break = self._since_stall = 0  # bytes that arrived

    def progressed(self, size: int) -> None:
        """Give attempts back for bytes that arrived."""
        self._since_break += size
        self._since_stall += size
        if self._since_break >= PROGRESS:
            self._breaks = self._since_break = 0
        if self._since_stall >= _FLOW:
            self._stalls = self._since_stall = 0

    def wait(self, error: DistError, deadline: Deadline | None = None) -> None:
        """Wait before the next try.

        Args:
            error: Why the last one failed.
            deadline: When all has to be done.

        Raises:
            DistError: ``error``, if it is final, no attempt is left, or the wait would outlast the deadline.
        """
        if isinstance(error, DeadlineExceeded):
            self._stalls += 1
        else:
            self._breaks += 1
        failures = self._breaks + self._stalls
        if failures >= self._retry.attempts or not self._retry.covers(error):
            raise error
        pause = min(self._retry.longest, self._retry.backoff * 2 ** min(failures - 1, 60))
        pause *= random.uniform(0.5, 1)  # noqa: S311 - no secret; so that not all who were turned away come back at once
        if isinstance(error, RateLimited | RegistryError) and error.retry_after is not None:
            pause = error.retry_after  # RFC 9110 section 10.2.3
        if deadline is not None and pause >= deadline.left():
            raise error
        _log.info("trying again in %.1f s (failure %d): %s", pause, failures, error)
        sleep(pause)
