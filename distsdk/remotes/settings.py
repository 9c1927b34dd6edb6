"""The settings that `connect` passes to a fetcher."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attrs import frozen

if TYPE_CHECKING:
    import requests

    from distsdk.transport.credentials import Credentials
    from distsdk.transport.hosts import EndpointPlan, Hosts
    from distsdk.transport.retry import Retry
    from distsdk.transport.settings import Limits, Timeouts


@frozen
class Settings:
    """What `connect` was told, for the remote that is made.

    Attributes:
        plan: What the configuration says of the locator's host: its endpoints, or the ``url`` for a plug-in's remote.
        credentials: Where logins are looked up.
        hosts: Certificate authorities and proxies.
        retry: What is tried again.
        timeouts: In seconds.
        limits: In bytes and pages.
        session: Sends the requests; None for a new one.
    """

    plan: EndpointPlan
    credentials: Credentials
    hosts: Hosts
    retry: Retry
    timeouts: Timeouts
    limits: Limits
    session: requests.Session | None = None

    @classmethod
    def of(
        cls,
        host: str,
        *,
        credentials: Credentials | None = None,
        hosts: Hosts | None = None,
        retry: Retry | None = None,
        timeouts: Timeouts | None = None,
        limits: Limits | None = None,
        session: requests.Session | None = None,
    ) -> Settings:
        """Return the settings for a host; for what is not given, those that the environment says.

        Raises:
            InvalidConfig: The environment or the host's configuration cannot be used.
        """
        from distsdk.transport.credentials import Credentials
        from distsdk.transport.hosts import Hosts
        from distsdk.transport.retry import Retry
        from distsdk.transport.settings import Limits, Timeouts

        hosts = hosts or Hosts.from_environment()
        return cls(
            plan=hosts.plan(host),
            credentials=credentials or Credentials.from_environment(),
            hosts=hosts,
            retry=retry or Retry(),
            timeouts=timeouts or Timeouts(),
            limits=limits or Limits(),
            session=session,
        )

    def portable(self) -> dict[str, Any]:
        """Return what `of` needs to make such settings elsewhere: nothing secret, and no connection."""
        return {name: getattr(self, name) for name in ("credentials", "hosts", "retry", "timeouts", "limits")}
