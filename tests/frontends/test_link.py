"""The ZeroMQ leg to a broker, with a real socket at its other end."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import zmq
import zmq.asyncio

from asr_frontends import link as module
from asr_frontends.link import Link
from asr_process import curve


class Ends:
    """A link, and the broker's ROUTER that it connects to."""

    def __init__(self, endpoint: str) -> None:
        self.context: zmq.asyncio.Context = zmq.asyncio.Context()
        self.broker = self.context.socket(zmq.ROUTER)
        self.broker.setsockopt(zmq.LINGER, 0)
        self.broker.bind(endpoint)
        self.received: asyncio.Queue[list[bytes]] = asyncio.Queue()
        self.changes: asyncio.Queue[bool] = asyncio.Queue()
        self.link = Link(curve.BrokerAt(endpoint), self.received.put_nowait, self.changes.put_nowait)

    def close(self) -> None:
        self.link.close()
        self.broker.close()
        self.context.term()


@pytest.fixture(autouse=True)
def unwatched(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read for the only reason that the connection is looked at once a second."""
    monkeypatch.setattr(module, "WATCH_S", 1000.0)


def run(tmp_path: Path, test: Callable[[Ends], Awaitable[None]]) -> None:
    async def main() -> None:
        ends = Ends(f"ipc://{tmp_path}/b")
        try:
            async with asyncio.timeout(30):
                await test(ends)
        finally:
            ends.close()

    asyncio.run(main())


def test_messages_both_ways(tmp_path: Path) -> None:
    """The link's identity is its own, and marks it as a frontend's."""

    async def test(ends: Ends) -> None:
        assert ends.link.send([b"one", b"body"])
        identity, *parts = await ends.broker.recv_multipart()
        assert parts == [b"one", b"body"]
        assert identity.startswith(b"F") and len(identity) == 9
        await ends.broker.send_multipart([identity, b"two", b"body"])
        assert await ends.received.get() == [b"two", b"body"]

    run(tmp_path, test)


@pytest.mark.parametrize("count", [1, 50])
def test_more_messages_than_one_turn_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """The descriptor is edge-triggered: what a turn leaves is read in the next one."""
    monkeypatch.setattr(module, "TURN_MESSAGES_MAX", 3)

    async def test(ends: Ends) -> None:
        ends.link.send([b"hello"])
        identity, _ = await ends.broker.recv_multipart()
        for number in range(count):
            await ends.broker.send_multipart([identity, b"%d" % number])
        assert [await ends.received.get() for _ in range(count)] == [[b"%d" % number] for number in range(count)]

    run(tmp_path, test)


def test_a_message_that_arrives_while_the_link_sends_is_read(tmp_path: Path) -> None:
    async def test(ends: Ends) -> None:
        ends.link.send([b"hello"])
        identity, _ = await ends.broker.recv_multipart()
        for number in range(100):
            await ends.broker.send_multipart([identity, b"%d" % number])
            ends.link.send([b"more"])
            await ends.broker.recv_multipart()
            assert await ends.received.get() == [b"%d" % number]

    run(tmp_path, test)


def test_the_link_reports_its_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WATCH_S", 0.01)

    async def test(ends: Ends) -> None:
        assert await ends.changes.get() is True
        ends.broker.close()
        assert await ends.changes.get() is False

    run(tmp_path, test)


def test_a_full_queue_takes_no_message(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(curve, "QUEUE_MESSAGES_MAX", 10)

    async def main() -> None:
        link = Link(curve.BrokerAt(f"ipc://{tmp_path}/nobody"), lambda parts: None, lambda is_up: None)
        assert [link.send([b"x"]) for _ in range(12)].count(True) == 10
        link.close()

    asyncio.run(main())


def test_a_closed_link_reads_nothing_more(tmp_path: Path) -> None:
    async def test(ends: Ends) -> None:
        ends.link.send([b"last"])
        identity, _ = await ends.broker.recv_multipart()
        await ends.broker.send_multipart([identity, b"late"])
        closing = ends.link.close
        ends.link._schedule()  # a turn is due when it closes
        closing()
        ends.close = lambda: (ends.broker.close(), ends.context.term())  # type: ignore[method-assign, assignment]
        await asyncio.sleep(0)
        assert ends.received.empty()

    run(tmp_path, test)
