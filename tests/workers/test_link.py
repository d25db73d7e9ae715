"""A worker's link on real sockets: a ROUTER is the broker."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from asr_process import curve
from asr_workers.link import Link

WAIT_MS = 30_000


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    context: zmq.Context[Any] = zmq.Context()
    yield context
    context.destroy(linger=0)


@pytest.fixture
def endpoint() -> Iterator[str]:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield f"ipc://{folder}/b"


@pytest.fixture
def broker(context: zmq.Context[Any], endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    router = bound(context, endpoint)
    yield router
    router.close(linger=0)


def bound(context: zmq.Context[Any], endpoint: str) -> zmq.Socket[bytes]:
    router: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.RCVTIMEO, WAIT_MS)
    router.setsockopt(zmq.ROUTER_MANDATORY, 1)
    router.bind(endpoint)
    return router


@pytest.fixture
def link(context: zmq.Context[Any], endpoint: str) -> Iterator[Link]:
    link = Link(context, curve.BrokerAt(endpoint))
    yield link
    link.close()


def changes(link: Link) -> list[bool]:
    """The changes of the connection, as soon as there are some."""
    assert link.monitor.poll(WAIT_MS)
    return link.poll(time.monotonic())


def test_messages_both_ways(link: Link, broker: zmq.Socket[bytes]) -> None:
    assert link.send([b"routing", b"body"])
    identity, *parts = broker.recv_multipart()
    assert parts == [b"routing", b"body"]
    assert link.receive() is None
    broker.send_multipart([identity, b"one"])
    broker.send_multipart([identity, b"two", b"body"])
    assert link.socket.poll(WAIT_MS)
    assert link.receive() == [b"one"]
    assert link.socket.poll(WAIT_MS)
    assert link.receive() == [b"two", b"body"]
    assert link.receive() is None


def test_each_link_is_a_peer_of_its_own(
    context: zmq.Context[Any], endpoint: str, link: Link, broker: zmq.Socket[bytes]
) -> None:
    """The broker distinguishes two runs of a worker by the identity."""
    again = Link(context, curve.BrokerAt(endpoint))
    identities = set()
    for one in (link, again):
        one.send([b"x"])
        identities.add(broker.recv_multipart()[0])
    again.close()
    assert len(identities) == 2
    assert {(identity[:1], len(identity)) for identity in identities} == {(b"W", 9)}


def test_send_fails_when_the_queue_is_full(
    context: zmq.Context[Any], endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curve, "QUEUE_MESSAGES_MAX", 3)
    link = Link(context, curve.BrokerAt(endpoint))
    assert [link.send([b"x"]) for _ in range(4)] == [True, True, True, False]
    link.socket.setsockopt(zmq.LINGER, 0)
    link.close()


def test_the_connection_comes_and_goes(
    context: zmq.Context[Any], endpoint: str, link: Link, broker: zmq.Socket[bytes]
) -> None:
    assert changes(link) == [True]
    assert link.poll(time.monotonic()) == []
    broker.close(linger=0)
    assert changes(link) == [False]
    again = bound(context, endpoint)
    assert changes(link) == [True]
    again.close(linger=0)


def test_a_closed_link_has_no_sockets(link: Link) -> None:
    """Queued messages may still be sent for at most a second."""
    assert link.socket.getsockopt(zmq.LINGER) == 1000
    link.close()
    assert link.socket.closed and link.monitor.closed
    assert link.poll(time.monotonic()) == []
