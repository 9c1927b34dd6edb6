"""The endpoints that serve a host, mirrors and the registry: asked in order, each for what it is trusted with."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, TypeVar

from attrs import evolve

from distsdk.errors import (
    DeadlineExceeded,
    Denied,
    DigestMismatch,
    InvalidConfig,
    NotFound,
    RateLimited,
    RegistryError,
    SizeMismatch,
    Unreachable,
)
from distsdk.transport.client import Transport
from distsdk.transport.origin import Origin
from distsdk.transport.pool import SHARED, HostPools
from distsdk.transport.retry import RetryState

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    import requests

    from distsdk.transport.credentials import Credentials, Login
    from distsdk.transport.hosts import Endpoint, EndpointPlan, Hosts
    from distsdk.transport.response import RateLimitStatus
    from distsdk.transport.retry import Retry
    from distsdk.transport.settings import Limits, Timeouts

T = TypeVar("T")

#: What an endpoint is passed over for: it may do better later.
_WRONG = (DigestMismatch, SizeMismatch)
_GONE = (Unreachable, DeadlineExceeded)

_log = logging.getLogger(__name__)

#: Seconds for which an endpoint that cannot be reached, or gave wrong bytes, is passed over, if there is another one.
REST = 30.0


class Endpoints:
    """Where a repository's host answers.

    Args:
        plan: The endpoints, in order.
        repository: Whose login is looked up; empty for the host as a whole.
        credentials: Where logins are looked up.
        hosts: Certificate authorities and proxies.
        retry: What is tried again, at the last endpoint there is.
        timeouts: How long to wait.
        limits: How much to take.
        session: As `Transport` takes it.
        pools: Where connections, tokens and pauses are shared with other repositories.
    """

    def __init__(
        self,
        plan: EndpointPlan,
        repository: str,
        *,
        credentials: Credentials,
        hosts: Hosts,
        retry: Retry,
        timeouts: Timeouts,
        limits: Limits,
        session: requests.Session | None,
        pools: HostPools = SHARED,
    ) -> None:
        self.plan = plan
        self._repository = repository
        self._credentials = credentials
        self._hosts = hosts
        self.retry = retry
        self.timeouts = timeouts
        self.limits = limits
        self._resting: dict[Transport, float] = {}  # until when
        self._transports = [
            Transport(
                endpoint,
                hosts=hosts,
                login=_login(credentials, endpoint, plan, repository),
                # What the user said of the host's token services holds for the host, and for no mirror of it.
                realms=frozenset(map(Origin.of, plan.realms)) if endpoint.namespace is None else frozenset(),
                retry=retry,
                timeouts=timeouts,
                limits=limits,
                session=session,
                host=plan.host if endpoint.namespace is None else "",
                repository=repository,
                pools=pools,
                login_key=credentials,
            )
            for endpoint in plan.endpoints
        ]

    @property
    def home(self) -> Transport:
        """The host's own endpoint, which comes after its mirrors."""
        return self._transports[-1]

    def __reduce__(self) -> tuple[object, ...]:
        # The plan may hold secrets: whoever unpickles makes one there.
        policies = (self._credentials, self._hosts, self.retry, self.timeouts, self.limits)
        return _plan_again, (self.plan.host, self._repository, *policies)

    @property
    def rate_limit(self) -> RateLimitStatus | None:
        """What the registry last said of its limits."""
        return next((t.rate_limit for t in reversed(self._transports) if t.rate_limit), None)

    def rest(self, transport: Transport) -> None:
        """Pass an endpoint over for a while, where there is another one."""
        self._resting[transport] = time.monotonic() + REST

    def distrust(self, capability: str, urls: Collection[str]) -> bool:
        """Pass the endpoints of these URLs over; return whether that leads to others, as long as they rest."""
        *mirrors, _ = self._able(capability)
        wrong = [t for t in mirrors if any(url.startswith(f"{t.endpoint.base}/") for url in urls)]
        for transport in wrong:
            _log.warning("%s gave other bytes than asked for; asking the next endpoint", transport.origin)
            self.rest(transport)
        return bool(wrong)

    def first(
        self, capability: str, ask: Callable[[Transport, RetryState], T], retry_state: RetryState | None = None
    ) -> T:
        """Return what the first endpoint that has it gives.

        Args:
            capability: What the endpoint has to be trusted with: ``pull`` for what goes by its digest, ``resolve`` for
                what goes by a name.
            ask: Asks one endpoint.
            retry_state: The attempts there are at the last endpoint; at those before it there is one.

        Raises:
            InvalidConfig: No endpoint is trusted with it.
            DistError: Of the last endpoint, or of any that was no mere failure to serve.
        """
        *mirrors, last = self._able(capability)
        for transport in mirrors:
            if self._resting.get(transport, 0) > time.monotonic():
                continue
            try:
                result = ask(transport, RetryState(evolve(self.retry, attempts=1)))
            except (*_WRONG, *_GONE, Denied, NotFound, RateLimited, RegistryError) as error:
                if isinstance(error, (*_WRONG, *_GONE)):
                    self.rest(transport)
                _log.info("%s did not serve: %s; asking the next endpoint", transport.origin, error)
            else:
                _log.info("served by %s", transport.origin)
                return result
        return ask(last, retry_state or RetryState(self.retry))

    def one(self, capability: str) -> Transport:
        """Return the first endpoint that is trusted with something: what is changed there is to be seen there.

        Args:
            capability: ``push``.

        Raises:
            InvalidConfig: No endpoint is trusted with it.
        """
        return self._able(capability)[0]

    def _able(self, capability: str) -> list[Transport]:
        """Return the endpoints that are trusted with something, one at least."""
        able = [t for t in self._transports if capability in t.endpoint.capabilities]
        if not able:
            message = f"no endpoint of {self.plan.host} may {capability}: {self.plan.why} allows none to"
            raise InvalidConfig(message)
        return able


def _plan_again(  # noqa: PLR0917 - as pickled
    host: str,
    repository: str,
    credentials: Credentials,
    hosts: Hosts,
    retry: Retry,
    timeouts: Timeouts,
    limits: Limits,
) -> Endpoints:
    return Endpoints(
        hosts.plan(host),
        repository,
        credentials=credentials,
        hosts=hosts,
        retry=retry,
        timeouts=timeouts,
        limits=limits,
        session=None,
    )


def _login(
    credentials: Credentials, endpoint: Endpoint, plan: EndpointPlan, repository: str
) -> Callable[[], Login | None]:
    """Return what looks up the login of an endpoint: the host's own, or that of the mirror's name."""
    own = endpoint.namespace is None
    host = plan.host if own else endpoint.origin.partition("://")[2]

    def look_up() -> Login | None:
        return credentials.login(host, repository, given=own)

    return look_up
