"""Shared parts of the dialects over HTTP: limited bodies, places, clients that leave. Requests are ASGI messages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from asr_frontends import events as e
from asr_frontends.servers import rest
from asr_frontends.servers.rest import Places, error_of, read_body, unless_gone
from asr_proto.errors import AtCapacity, LimitExceeded, PeerError, ServiceError


class Client:
    """Sends these pieces of a body, and disconnects afterwards if its test wants that."""

    def __init__(self, pieces: Sequence[bytes], headers: Sequence[tuple[bytes, bytes]] = (), ends: bool = True) -> None:
        self._pieces, self._ends = list(pieces), ends
        self.received = 0
        self.gone = asyncio.Event()
        self.request = Request({"type": "http", "method": "POST", "headers": list(headers)}, self._receive)

    async def _receive(self) -> dict[str, Any]:
        if not self._pieces:
            await self.gone.wait()
            return {"type": "http.disconnect"}
        self.received += 1
        piece = self._pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(self._pieces) or not self._ends}


def test_a_body_within_its_limit() -> None:
    async def run() -> bytes:
        return await read_body(Client([b"ab", b"", b"cd"]).request, 4)

    assert asyncio.run(run()) == b"abcd"


def test_a_body_is_not_read_beyond_its_limit() -> None:
    async def run() -> int:
        client = Client([b"abc"] * 1000)
        with pytest.raises(LimitExceeded) as caught:
            await read_body(client.request, 7)
        assert caught.value.slug == "request-too-large"
        return client.received

    assert asyncio.run(run()) == 3


def test_an_announced_length_is_refused_unread() -> None:
    async def run() -> int:
        client = Client([b"abc"], [(b"content-length", b"8")])
        with pytest.raises(LimitExceeded):
            await read_body(client.request, 7)
        return client.received

    assert asyncio.run(run()) == 0


def test_a_body_that_stalls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "BODY_WAIT_S", 0.01)

    async def run() -> None:
        with pytest.raises(LimitExceeded) as caught:
            await read_body(Client([b"abc"], ends=False).request, 7)
        assert caught.value.slug == "idle-timeout"

    asyncio.run(run())


def test_places() -> None:
    """AMI-13: above the limit, the error contains when to try again; a failed holder returns its place."""
    places = Places(1, "batches")
    with pytest.raises(ZeroDivisionError), places.one():
        with pytest.raises(AtCapacity) as caught, places.one():
            pass
        assert caught.value.detail == "the maximum of 1 concurrent batches is reached"
        assert caught.value.retry_after_s == 1.0
        raise ZeroDivisionError
    assert places.taken == 0


def test_work_ends_when_its_client_leaves() -> None:
    async def run() -> None:
        client, places, started = Client([]), Places(1, "batches"), asyncio.Event()

        async def work() -> None:
            with places.one():
                started.set()
                await asyncio.Event().wait()

        answering = asyncio.create_task(unless_gone(client.request, work()))
        await started.wait()
        client.gone.set()
        with pytest.raises(ClientDisconnect):
            await answering
        assert places.taken == 0

    asyncio.run(run())


def test_the_result_of_work() -> None:
    async def work() -> int:
        return 7

    async def run() -> int:
        return await unless_gone(Client([]).request, work())

    assert asyncio.run(run()) == 7


@pytest.mark.parametrize(
    "slug, kind", [("at-capacity", ServiceError), ("session-lost", ServiceError), ("unsupported-language", PeerError)]
)
def test_events_become_errors_and_events_again(slug: str, kind: type[Exception]) -> None:
    event = e.Error(slug, "why", 2.0 if kind is ServiceError else 0.0)
    assert isinstance(error_of(event), kind)
    assert e.Error.of(error_of(event)) == event
