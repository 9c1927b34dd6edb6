"""What the tests of the store share: a store, images to put into it, and children that may end in any way."""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from typing import TYPE_CHECKING, Protocol

import pytest

from distsdk import Store
from distsdk.content.blob import Blob
from distsdk.spec.descriptor import Descriptor
from distsdk.spec.media_types import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A store that is not there yet."""
    return Store(tmp_path / "store")


def put(store: Store, data: bytes, media_type: str = OCI_LAYER) -> Descriptor:
    """Ingest bytes and return what a document says of them."""
    info = store.ingest(Blob.from_bytes(data))
    return Descriptor(media_type, info.digest, info.size)


class Put(Protocol):
    """Ingests bytes, and returns what a document says of them."""

    def __call__(self, data: bytes, media_type: str = ...) -> Descriptor:
        """Take the bytes and what they are."""
        ...


@pytest.fixture(name="put")
def _put(store: Store) -> Put:
    return lambda data, media_type=OCI_LAYER: put(store, data, media_type)


@pytest.fixture
def image(store: Store) -> Callable[[str], Descriptor]:
    """Make an image of one layer in the store, and return the descriptor of its manifest; it gets no name."""

    def make(text: str) -> Descriptor:
        config = put(store, b'{"architecture":"amd64","os":"linux"}', OCI_CONFIG)
        layer = put(store, f"layer of {text}".encode())
        manifest = {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": config.to_fields(),
            "layers": [layer.to_fields()],
        }
        return put(store, json.dumps(manifest).encode(), OCI_MANIFEST)

    return make


class Child:
    """A forked child that does some work.

    Args:
        work: What it does; it ends with 0 then, with 1 after an exception, whose traceback it prints.
        user: The user it becomes, where the parent is root.
    """

    def __init__(self, work: Callable[[], object], *, user: int | None = None) -> None:
        self._status: int | None = None
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                if user is not None and os.geteuid() == 0:
                    os.setgroups([])
                    os.setgid(user)
                    os.setuid(user)
                work()
                code = 0
            except BaseException:  # noqa: BLE001 - the child must not go on as a second pytest
                traceback.print_exc(file=sys.stderr)
            finally:
                sys.stderr.flush()
                os._exit(code)

    def wait(self) -> int:
        """Return its exit code, negative after a signal."""
        if self._status is None:
            _, self._status = os.waitpid(self.pid, 0)
        return os.waitstatus_to_exitcode(self._status)

    def kill(self) -> None:
        """End it, whatever it does."""
        if self._status is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


class InChild(Protocol):
    """Starts a child."""

    def __call__(self, work: Callable[[], object], *, user: int | None = None) -> Child:
        """Take what `Child` takes."""
        ...


@pytest.fixture
def in_child() -> Iterator[InChild]:
    """Start forked children; those that are left at the end are killed."""
    if not hasattr(os, "fork"):
        pytest.skip("this system does not fork")
    children: list[Child] = []

    def start(work: Callable[[], object], *, user: int | None = None) -> Child:
        children.append(Child(work, user=user))
        return children[-1]

    yield start
    for child in children:
        child.kill()
