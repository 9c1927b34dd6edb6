"""Choose among the endpoints of a host: mirrors first, then the registry, each within its capabilities."""

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

#: Errors after which an endpoint is skipped for `REST` seconds: wrong content, and no connection.
_WRONG = (DigestMismatch, SizeMismatch)
_GONE = (Unreachable, DeadlineExceeded)

_log = logging.getLogger(__name__)

#: Seconds for which an endpoint that cannot be reached, or sent wrong content, is skipped if there is another one.
REST = 30.0


class Endpoints:
    """The endpoints that serve one repository.

    Args:
        plan: The endpoints, in order.
        repository: Repository whose login is looked up; empty for the host as a whole.
        credentials: Where logins are looked up.
        hosts: Certificate authorities and proxies.
        retry: Which failures of the last endpoint are retried.
        timeouts: How long to wait.
        limits: Largest sizes of responses.
        session: As for `Transport`.
        pools: Connections, tokens and pauses shared with other repositories.
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
        self._resting: dict[Transport, float] = {}  # until a time on the monotonic clock
        self._transports = [
            Transport(
                endpoint,
                hosts=hosts,
                login=_login(credentials, endpoint, plan, repository),
                # Token services that the user configured for the host are not trusted with the logins of mirrors.
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
        """The host's own endpoint, the last one."""
        return self._transports[-1]

    def __reduce__(self) -> tuple[object, ...]:
        # The plan may hold secrets, so that unpickling makes a new one.
        policies = (self._credentials, self._hosts, self.retry, self.timeouts, self.limits)
        return _plan_again, (self.plan.host, self._repository, *policies)

    @property
    def rate_limit(self) -> RateLimitStatus | None:
        """The rate limit that the registry last reported; None if it reported none."""
        return next((t.rate_limit for t in reversed(self._transports) if t.rate_limit), None)

    def rest(self, transport: Transport) -> None:
        """Skip an endpoint for `REST` seconds, if there is another one.

        Args:
            transport: The endpoint's.
        """
        self._resting[transport] = time.monotonic() + REST

    def distrust(self, capability: str, urls: Collection[str]) -> bool:
        """Skip the mirrors that sent wrong content for `REST` seconds.

        Args:
            capability: Capability that the next endpoint needs.
            urls: URLs of the wrong content, before redirects.

        Returns:
            Whether the next request reaches another endpoint.
        """
        *mirrors, _ = self._capable(capability)
        wrong = [t for t in mirrors if any(url.startswith(f"{t.endpoint.base}/") for url in urls)]
        for transport in wrong:
            _log.warning("%s sent wrong content; trying the next endpoint", transport.origin)
            self.rest(transport)
        return bool(wrong)

    def first(
        self, capability: str, request: Callable[[Transport, RetryState], T], retry_state: RetryState | None = None
    ) -> T:
        """Try the endpoints in order, and return the first result.

        Args:
            capability: Capability that the endpoint needs: ``pull`` for content by digest, ``resolve`` for tags.
            request: Sends the request through one endpoint.
            retry_state: The remaining attempts at the last endpoint; endpoints before it have one attempt.

        Raises:
            InvalidConfig: No endpoint has the capability.
            DistError: The last endpoint failed, or another one failed in a way that skipping it cannot mend.
        """
        *mirrors, last = self._capable(capability)
        for transport in mirrors:
            if self._resting.get(transport, 0) > time.monotonic():
                continue
            try:
                result = request(transport, RetryState(evolve(self.retry, attempts=1)))
            except (*_WRONG, *_GONE, Denied, NotFound, RateLimited, RegistryError) as error:
                if isinstance(error, (*_WRONG, *_GONE)):
                    self.rest(transport)
                _log.info("%s failed: %s; trying the next endpoint", transport.origin, error)
            else:
                _log.info("served by %s", transport.origin)
                return result
        return request(last, retry_state or RetryState(self.retry))

    def one(self, capability: str) -> Transport:
        """Return the first endpoint with a capability, for requests that must all reach the same endpoint.

        Args:
            capability: ``push``.

        Raises:
            InvalidConfig: No endpoint has the capability.
        """
        return self._capable(capability)[0]

    def _capable(self, capability: str) -> list[Transport]:
        """Return the endpoints with a capability, at least one."""
        capable = [t for t in self._transports if capability in t.endpoint.capabilities]
        if not capable:
            message = f"no endpoint of {self.plan.host} has the capability {capability!r}: see {self.plan.why}"
            raise InvalidConfig(message)
        return capable


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
    """Return a function that looks up the login of an endpoint: the host's own, or the mirror's."""
    own = endpoint.namespace is None
    host = plan.host if own else endpoint.origin.partition("://")[2]

    def look_up() -> Login | None:
        return credentials.login(host, repository, given=own)

    return look_up
