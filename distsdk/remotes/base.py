"""The protocols of remotes, and `connect`, which finds the remote for a locator."""

from __future__ import annotations

import functools
import os
from typing import TYPE_CHECKING, Protocol, cast, runtime_checkable

from attrs import frozen

from distsdk.errors import InvalidConfig
from distsdk.model.reference import Locator

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from importlib.metadata import EntryPoint

    import requests

    from distsdk.blob import Blob
    from distsdk.model.descriptor import Descriptor
    from distsdk.model.digest import Digest
    from distsdk.model.reference import Hint, Object
    from distsdk.transport.hosts import Hosts
    from distsdk.transport.http import Limits, Timeouts

#: The entry-point group in which packages offer remotes. An entry point's name is the host that it claims; what it
#: points to is called with a `Locator` and `Settings`, and returns a `Remote`.
PLUGIN_GROUP = "distsdk.remotes"


@runtime_checkable
class Remote(Protocol):
    """Fetches objects by name: the one power every remote has."""

    @property
    def locator(self) -> Locator:
        """What the remote was made for."""
        ...

    def fetch(self, object: str | Object | Digest | Descriptor, *hints: str | Hint) -> Blob:
        """Return the bytes of an object as a blob.

        Args:
            object: A tag, a digest, ``tag@digest``, or a descriptor.
            hints: ``kind:value``, each a help that need not be taken. ``mediatype:`` says what is expected, in order of
                preference; ``size:`` how many bytes; ``platform:`` which child of an index is meant.

        Raises:
            NotFound: There is no such object.
            MediaTypeMismatch: There is, but of none of the hinted media types.
            PlatformNotFound: There is, but not for the hinted platform.
            InvalidReference, InvalidDigest, InvalidHint: What was asked for cannot be.
        """
        ...


@runtime_checkable
class Resolver(Protocol):
    """Tells what an object's name stands for, without reading it."""

    def resolve(self, object: str | Object | Digest | Descriptor, *hints: str | Hint) -> Descriptor:
        """Return media type, digest and size of an object; arguments and errors as `Remote.fetch`."""
        ...


@runtime_checkable
class TagLister(Protocol):
    """Lists the tags of a repository."""

    def tags(self) -> Iterable[str]:
        """Return the tags, lazily, in the remote's order."""
        ...


@runtime_checkable
class Catalog(Protocol):
    """Lists the repositories of a host."""

    def catalog(self) -> Iterable[str]:
        """Return the repositories, lazily, in the remote's order."""
        ...


@frozen
class Settings:
    """What `connect` was told, for the remote that is made."""

    hosts: Hosts
    timeouts: Timeouts
    limits: Limits
    session: requests.Session | None


def connect(
    locator: str | Locator,
    *,
    session: requests.Session | None = None,
    hosts: Hosts | None = None,
    timeouts: Timeouts | None = None,
    limits: Limits | None = None,
) -> Remote:
    """Return the remote for a locator. Nothing is asked of anybody yet.

    A host that an installed package claims (entry-point group ``distsdk.remotes``) gets that package's remote; every
    other host is taken to be a registry that speaks the OCI distribution protocol.

    Args:
        locator: Host and path without a scheme, ``docker.io/library/redis``; a familiar name such as ``redis`` will do.
            A host alone, ``localhost:5000``, gives a remote that can list its repositories and nothing else.
        session: Sends the requests; its adapters, ``verify`` and ``cert`` count. By default a new one does.
        hosts: TLS and proxies; by default what the environment says.
        timeouts: In seconds.
        limits: In bytes and pages.

    Raises:
        InvalidReference: The locator is none.
        InvalidConfig: The environment, or a package that claims the host, cannot be used.
    """
    from distsdk.transport.hosts import Hosts
    from distsdk.transport.http import Limits, Timeouts

    if isinstance(locator, str):
        locator = Locator.parse(locator)
    if session is None:
        session = _replay_session()
    settings = Settings(hosts or Hosts.from_environment(), timeouts or Timeouts(), limits or Limits(), session)
    return _factory(locator.host)(locator, settings)


def _factory(host: str) -> Callable[[Locator, Settings], Remote]:
    entry_point = _plugins().get(host) or _plugins().get(host.rpartition(":")[0])
    if entry_point is None:
        from distsdk.remotes.registry import RegistryRemote

        return RegistryRemote
    try:
        return cast("Callable[[Locator, Settings], Remote]", entry_point.load())
    except (ImportError, AttributeError) as error:
        message = f"the plug-in {entry_point.value!r}, which claims {host}, cannot be loaded: {error}"
        raise InvalidConfig(message) from error


@functools.cache
def _plugins() -> dict[str, EntryPoint]:
    """Return the plug-ins by the host they claim. The installed packages are looked through once a process."""
    from importlib.metadata import entry_points

    return {entry_point.name: entry_point for entry_point in entry_points(group=PLUGIN_GROUP)}


def _replay_session() -> requests.Session | None:
    """Return a session that replays a cassette, where `distsdk.replay` or ``DISTSDK_REPLAY`` says so."""
    from distsdk.transport.replay import active_session

    return active_session(os.environ.get("DISTSDK_REPLAY"))
