"""The protocols of remotes, and `connect`, which finds the remote for a locator."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, cast

from distsdk.errors import InvalidConfig
from distsdk.remotes.remote import Remote
from distsdk.remotes.settings import Settings
from distsdk.spec.reference import Locator

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.metadata import EntryPoint

    import requests

    from distsdk.content.protocols import Fetcher
    from distsdk.transport.credentials import Credentials
    from distsdk.transport.hosts import EndpointPlan, Hosts
    from distsdk.transport.retry import Retry
    from distsdk.transport.settings import Limits, Timeouts


#: The entry-point group in which packages offer remotes. An entry point's name is the host that it claims; what it
#: points to is called with a `Locator` and `Settings`, and returns a `Fetcher`.
PLUGIN_GROUP = "distsdk.remotes"


#: What a hosts.toml calls the remote for layouts and archives, which needs no plug-in.
LAYOUT = "layout"


def connect(
    locator: str | Locator,
    *,
    session: requests.Session | None = None,
    credentials: Credentials | None = None,
    hosts: Hosts | None = None,
    retry: Retry | None = None,
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
) -> Remote:
    """Return the remote for a locator. Nothing is asked of anybody yet, and no file is read.

    A path or a URL is an image layout or an archive. A host that configuration gives to another kind of remote
    (``remote`` in its hosts.toml), or that an installed package claims (entry-point group ``distsdk.remotes``), gets
    that; every other host is taken to be a registry that speaks the OCI distribution protocol.

    Args:
        locator: Host and path without a scheme, ``docker.io/library/redis``; a familiar name such as ``redis`` will do.
            A host alone, ``localhost:5000``, gives a remote that can list its repositories and nothing else. Or the
            path of files, ``./layout``, or their URL, ``s3://bucket/layout``: of what follows, only ``limits`` counts
            then.
        session: Sends the requests; its adapters, ``verify`` and ``cert`` count. By default a new one does.
        credentials: The login for the host, or where to look it up; by default in the files and through the helpers
            that docker, podman and skopeo use.
        hosts: Mirrors, TLS and proxies; by default what the environment says.
        retry: What is tried again, and when.
        timeouts: In seconds.
        limits: In bytes and pages.

    Raises:
        InvalidReference: The locator is none.
        InvalidConfig: The environment, the host's configuration, or a package that claims the host, cannot be used.

    Examples:
        >>> remote = distsdk.connect("docker.io/library/redis")
        >>> remote.resolve("7").media_type
        'application/vnd.oci.image.index.v1+json'
    """
    if isinstance(locator, str):
        locator = Locator.parse(locator)
    if locator.names_files:
        from distsdk.layout.documents import MAX_DOCUMENT
        from distsdk.remotes.files import files_at
        from distsdk.remotes.layout import layout_fetcher

        return Remote(
            layout_fetcher(locator, files_at(locator.path), MAX_DOCUMENT if limits is None else limits.document)
        )
    settings = Settings.of(
        locator.host,
        credentials=credentials,
        hosts=hosts,
        retry=retry,
        timeouts=timeouts,
        limits=limits,
        session=session,
    )
    return Remote(_factory(locator.host, settings.plan)(locator, settings))


def _factory(host: str, plan: EndpointPlan) -> Callable[[Locator, Settings], Fetcher]:
    if plan.remote == LAYOUT:
        from distsdk.remotes.layout import LayoutFetcher

        return LayoutFetcher.configured
    if plan.remote is not None:
        entry_point = _plugins().get(plan.remote)
        if entry_point is None:
            message = f"{plan.why} gives {host} to the remote {plan.remote!r}, which no installed package offers"
            raise InvalidConfig(message)
    else:
        entry_point = _plugins().get(host) or _plugins().get(host.rpartition(":")[0])
    if entry_point is None:
        from distsdk.remotes.registry import RegistryFetcher

        return RegistryFetcher
    try:
        return cast("Callable[[Locator, Settings], Fetcher]", entry_point.load())
    except (ImportError, AttributeError) as error:
        message = f"the plug-in {entry_point.value!r}, which claims {host}, cannot be loaded: {error}"
        raise InvalidConfig(message) from error


@functools.cache
def _plugins() -> dict[str, EntryPoint]:
    """Return the plug-ins by the host they claim. The installed packages are looked through once a process."""
    from importlib.metadata import entry_points

    return {entry_point.name: entry_point for entry_point in entry_points(group=PLUGIN_GROUP)}
