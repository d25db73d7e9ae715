"""A client that never finishes its request, or never reads, is disconnected before it uses much memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import uvloop
import websockets
from websockets.frames import Frame, Opcode

from asr_frontends.servers import protocols
from asr_frontends.servers.conversation import Transport
from asr_frontends.servers.handshake import EXTENSION
from asr_frontends.servers.serve import listen, make_server


class Ignoring:
    """A conversation that answers nothing, until its client is gone."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._gone = asyncio.Event()

    def on_frame(self, frame: str | bytes) -> None: ...

    def on_part(self, size: int) -> None: ...

    def on_writable(self) -> None: ...

    def on_gone(self, *, broken: bool) -> None:
        self._gone.set()

    async def run(self) -> None:
        self._transport.start(self)
        await self._gone.wait()


async def app(scope: Any, receive: Any, send: Any) -> None:
    """Over WebSocket ignores every message; in HTTP reads the body and answers "ok"."""
    message = await receive()
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        await Ignoring(scope["extensions"][EXTENSION]).run()
        return
    while message.get("more_body"):
        message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[int]:
    sock = listen("127.0.0.1:0")
    server = make_server(app, 1_048_576)
    task = asyncio.create_task(server.serve([sock]))
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        await task


def run(test: Callable[[int], Awaitable[None]]) -> None:
    async def main() -> None:
        async with serving() as port, asyncio.timeout(60):
            await test(port)

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


async def flood(port: int, first: bytes, piece: bytes, bytes_max: int) -> int:
    """Send until the server closes the connection; returns the number of bytes sent."""
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = len(first)
    try:
        writer.write(first)
        while sent < bytes_max:
            writer.write(piece)
            sent += len(piece)
            await writer.drain()
    except ConnectionError:
        pass
    finally:
        writer.transport.abort()
    return sent


@pytest.mark.parametrize("piece", [b"x-more: " + b"v" * 8000 + b"\r\n", b"v" * 8192], ids=["headers", "one header"])
def test_endless_headers(piece: bytes) -> None:
    async def test(port: int) -> None:
        first = b"GET / HTTP/1.1\r\nhost: x\r\nx-first: "
        assert await flood(port, first, piece, 64_000_000) < 32_000_000

    run(test)


@pytest.mark.parametrize(
    "data", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nhost: x\r\n"], ids=["nothing", "a word", "half"]
)
def test_a_request_that_is_never_finished(data: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocols, "HEAD_S_MAX", 0.2)

    async def test(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(data)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.transport.abort()

    run(test)


def test_requests_and_conversations_that_take_their_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the head is timed: a body and a WebSocket may last."""
    monkeypatch.setattr(protocols, "HEAD_S_MAX", 0.2)

    async def test(port: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 4\r\n\r\nab")
        async with websockets.connect(f"ws://127.0.0.1:{port}") as websocket:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(websocket.recv(), 0.5)
            await (await websocket.ping())
        writer.write(b"cd")
        assert (await reader.readuntil(b"ok")).startswith(b"HTTP/1.1 200")
        writer.transport.abort()

    run(test)


def test_more_requests_than_may_wait() -> None:
    """They would be parsed in one turn of the loop. As many as may wait are answered."""

    async def test(port: int) -> None:
        request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
        for count, status in ((protocols.PIPELINED_MAX + 1, b"200"), (1000, b"400")):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(request * count)
            assert (await reader.readuntil(b"\r\n")).split()[1] == status
            for _ in range(count - 1 if status == b"200" else 0):
                await reader.readuntil(b"HTTP/1.1 200")
            writer.transport.abort()

    run(test)


def test_pings_of_a_client_that_reads_nothing() -> None:
    async def test(port: int) -> None:
        handshake = (
            b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
            b"sec-websocket-version: 13\r\nsec-websocket-key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        pings = Frame(Opcode.PING, b"p" * 125).serialize(mask=True) * 500
        assert await flood(port, handshake, pings, 64_000_000) < 48_000_000

    run(test)
