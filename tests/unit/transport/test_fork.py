"""A forked child and its parent share no connection and wait for none of each other's locks."""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

import pytest
import requests

from distsdk.testing import Registry, Stall

if TYPE_CHECKING:
    import socket

    from distsdk.transport.client import Transport
    from tests.unit.transport.conftest import Ask, Asked, InChild, MakeTransport, Peer, Reply, Serve

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork"),
    # Python 3.12 and newer warn of what these tests are about.
    pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning"),
]


@pytest.fixture
def numbered(serve: Serve, reply: Reply) -> Peer:
    """A registry whose answers repeat what was asked for."""

    def answer(asked: Asked, stream: socket.socket) -> bool:
        stream.sendall(reply(200, asked.target.encode() * 1000))
        return True

    return serve(answer)


def read(transport: Transport, ask: Ask, name: str, times: int = 20) -> None:
    """Ask for something of one's own again and again, and look whether that is what comes."""
    for number in range(times):
        path = f"/{name}/{number}"
        assert path.encode() * 1000 == ask(transport, path)


def by(peer: Peer, name: str) -> set[int]:
    """The connections over which one of the processes asked."""
    return {asked.connection for asked in peer.asked if asked.target.startswith(f"/{name}/")}


@pytest.mark.parametrize("given", [False, True])
def test_a_child_makes_connections_of_its_own(
    numbered: Peer, transport: MakeTransport, ask: Ask, given: bool, in_child: InChild
) -> None:
    """A transport that was used before a fork works on both sides at the same time, over connections of their own."""
    shared = transport(numbered.url, session=requests.Session() if given else None)
    read(shared, ask, "before")
    wait = in_child(lambda: read(shared, ask, "child"))
    read(shared, ask, "parent")
    wait()
    assert by(numbered, "before") == by(numbered, "parent")
    assert by(numbered, "child").isdisjoint(by(numbered, "parent"))


def test_a_session_that_another_transport_used(
    numbered: Peer, transport: MakeTransport, ask: Ask, in_child: InChild
) -> None:
    """Two transports share a session; only the one that was not used before is used in the child."""
    session = requests.Session()
    first, second = (transport(numbered.url, session=session) for _ in range(2))
    read(first, ask, "parent")
    in_child(lambda: read(second, ask, "child"))()
    assert by(numbered, "child").isdisjoint(by(numbered, "parent"))


def test_a_grandchild(numbered: Peer, transport: MakeTransport, ask: Ask, in_child: InChild) -> None:
    """The same for the child of a child."""
    shared = transport(numbered.url)
    read(shared, ask, "parent")

    def child() -> None:
        read(shared, ask, "child")
        in_child(lambda: read(shared, ask, "grandchild"))()
        read(shared, ask, "child")

    in_child(child)()
    connections = [by(numbered, name) for name in ("parent", "child", "grandchild")]
    assert [1, 1, 1] == [len(numbers) for numbers in connections]
    assert len(set.union(*connections)) == 3


def test_a_body_that_is_read_across_a_fork_stays_the_parents(
    numbered: Peer, transport: MakeTransport, ask: Ask, in_child: InChild
) -> None:
    """A child that asks for something of its own does not disturb a body that its parent is reading."""
    shared = transport(numbered.url)
    with shared.request("GET", "/parent/0", scope="") as answer:
        start = answer.read(10)
        in_child(lambda: read(shared, ask, "child"))()
        rest = b"".join(iter(lambda: answer.read(1000), b""))
    assert b"/parent/0" * 1000 == start + rest


def test_a_fork_while_a_token_is_asked_for(transport: MakeTransport, ask: Ask, in_child: InChild) -> None:
    """A child that is born while another thread waits for a token does not wait for that thread, which it has not."""
    raw = b'{"schemaVersion": 2}'
    with Registry(auth="bearer") as registry:
        registry.add_manifest("x", raw, "application/json", tags=["1"])
        held = threading.Event()
        registry.fault(Stall(after=None, event=held), path="/token", times=1)
        shared = transport(registry.url)
        thread = threading.Thread(target=ask, args=(shared,))
        thread.start()
        while not registry.count(path="/token"):
            time.sleep(0.01)

        def work() -> None:
            assert raw == ask(shared)

        try:
            in_child(work)()
        finally:
            held.set()
            thread.join()
