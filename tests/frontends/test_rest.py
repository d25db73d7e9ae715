"""Shared parts of the dialects over HTTP: limited bodies, places, clients that leave. Requests are ASGI messages."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest
from starlette.requests import ClientDisconnect, Request

from asr_frontends import codec
from asr_frontends import events as e
from asr_frontends.access import Gate, Rules, digest
from asr_frontends.journal import Budget
from asr_frontends.servers import rest
from asr_frontends.servers.handshake import ADMISSION
from asr_frontends.servers.rest import Body, Places, body_of, error_of, unless_gone
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


def body(client: Client, budget: Budget | None = None, bytes_max: int = 7) -> Body:
    return Body(client.request, budget or Budget(10**9), bytes_max)


def read(make: Callable[[], Body]) -> bytes:
    async def run() -> bytes:
        with await make().spooled() as file:
            return file.read()

    return asyncio.run(run())


def test_a_body_within_its_limit() -> None:
    assert read(lambda: body(Client([b"ab", b"", b"cd"]), bytes_max=4)) == b"abcd"


def test_a_body_is_not_read_beyond_its_limit() -> None:
    client = Client([b"abc"] * 1000)
    with pytest.raises(LimitExceeded) as caught:
        read(lambda: body(client))
    assert caught.value.slug == "request-too-large"
    assert client.received == 3


def test_an_announced_length_is_refused_unread() -> None:
    client = Client([b"abc"], [(b"content-length", b"8")])
    with pytest.raises(LimitExceeded):
        read(lambda: body(client))
    assert client.received == 0


def test_a_long_body_is_stored_on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    rolled: list[int] = []

    class Spool(tempfile.SpooledTemporaryFile[bytes]):
        def rollover(self) -> None:
            rolled.append(self.tell())
            super().rollover()

    monkeypatch.setattr(rest, "SpooledTemporaryFile", Spool)
    assert len(read(lambda: body(Client([b"x" * 65536] * 16), bytes_max=10**7))) == rest.SPOOL_BYTES
    assert not rolled
    assert len(read(lambda: body(Client([b"x" * 65536] * 17), bytes_max=10**7))) > rest.SPOOL_BYTES
    assert rolled


def test_all_bodies_share_a_budget() -> None:
    budget = Budget(10)
    first = body(Client([b"abc"] * 2), budget)
    assert read(lambda: first) == b"abcabc"
    assert budget.bytes_held == 6
    for refused in ([(b"content-length", b"5")], []):
        with pytest.raises(ServiceError) as caught:
            read(partial(body, Client([b"abcde"], refused), budget))
        assert (caught.value.slug, caught.value.retry_after_s) == ("overloaded", 1.0)
    first.release()
    assert budget.bytes_held == 0


def test_a_request_without_a_place_is_not_read() -> None:
    places, budget = Places(1, "batches"), Budget(10)
    first, second = (body_of(Client([b"abc"]).request, places, budget, 7) for _ in range(2))
    with first, pytest.raises(AtCapacity), second:
        pass
    assert places.taken == budget.bytes_held == 0


class SlowClient(Client):
    """Waits before each piece."""

    wait_s = 0.02

    async def _receive(self) -> dict[str, Any]:
        if self._pieces:
            await asyncio.sleep(self.wait_s)
        return await super()._receive()


@pytest.fixture
def short_window(monkeypatch: pytest.MonkeyPatch) -> None:
    """A window of 0.1 s needs 409.6 bytes."""
    monkeypatch.setattr(rest, "WINDOW_S", 0.1)
    monkeypatch.setattr(rest, "PATIENCE_S", 0.01)


@pytest.mark.usefixtures("short_window")
@pytest.mark.parametrize("kind", [Client, SlowClient], ids=["stalled", "trickling"])
def test_a_body_that_is_too_slow(kind: type[Client]) -> None:
    client = kind([b"x"] * 1000 if kind is SlowClient else [b"abc"], ends=False)
    with pytest.raises(LimitExceeded) as caught:
        read(lambda: body(client, bytes_max=10**6))
    assert caught.value.slug == "idle-timeout"
    assert client.received < 50


@pytest.mark.usefixtures("short_window")
def test_a_body_that_is_fast_enough_may_take_long() -> None:
    client = SlowClient([b"x" * 500] * 20)
    assert len(read(lambda: body(client, bytes_max=10**6))) == 10_000


@pytest.mark.usefixtures("short_window")
def test_the_last_piece_of_a_slow_body_is_taken() -> None:
    client = SlowClient([b"x"])
    client.wait_s = 0.105
    assert read(lambda: body(client)) == b"x"


def test_a_removed_key_ends_a_body() -> None:
    client = Client([b"abc", b"abc"])
    gate = Gate(Rules({digest("k"): "alice"}))
    admission = gate.admit(codec.Request("/", headers={"x-api-key": "k"}))
    client.request.scope[ADMISSION] = admission
    gate.rules = Rules({})
    assert gate.revoke() == 1
    with pytest.raises(PeerError) as caught:
        read(lambda: body(client))
    assert caught.value.slug == "key-revoked"


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
