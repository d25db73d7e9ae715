"""One session's socket against a server that does what it is told: order, refusals, ends. Waits on events only."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from asr_ops.bench import audio, dialects, disturbance, load, plan, websocket
from asr_ops.bench.connection import BenchConnection, clock
from asr_ops.bench.plan import Plan
from asr_proto.errors import AsrError

UPGRADED = b"HTTP/1.1 101 Switching Protocols\r\n\r\n"
READY = b'{"type":"ready","engine":"fake"}'
Act = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def message(payload: bytes, opcode: int = websocket.TEXT) -> bytes:
    """As a server sends it, if it is short."""
    return bytes([0x80 | opcode, len(payload)]) + payload


def closing(code: int, reason: bytes = b"") -> bytes:
    return message(code.to_bytes(2, "big") + reason, websocket.CLOSE)


def saying(*parts: bytes) -> Act:
    """A server that answers the request with this and waits for the client to go."""

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(websocket.HANDSHAKE_END)
        writer.write(b"".join(parts))
        await reader.read()

    return act


async def with_server(act: Act, visit: Callable[[str], Awaitable[None]]) -> None:
    """A visit to such a server."""
    ended: list[asyncio.Task[None]] = []

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async def serve() -> None:
            with suppress(asyncio.IncompleteReadError, ConnectionError):  # somebody broke off
                await act(reader, writer)
            writer.close()

        ended.append(asyncio.create_task(serve()))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        async with asyncio.timeout(30):
            await visit(f"ws://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/stream")
            await asyncio.gather(*ended)
    finally:
        server.close()


@pytest.mark.parametrize(
    ("dialect", "said", "fault"),
    [
        ("native", b"HTTP/1.1 401 Unauthorized\r\n\r\n", "HTTP 401"),
        ("native", b"SSH-2.0\r\n\r\n", "cannot decode"),
        ("native", UPGRADED + message(b'{"type":"error","code":"at-capacity"}'), "at-capacity"),
        ("native", UPGRADED + message(b"[]"), "cannot decode"),
        ("yap", UPGRADED + closing(1013, b"at-capacity"), "closed with 1013 at-capacity"),
        ("caiman", UPGRADED + closing(4503), "closed with 4503"),
    ],
)
def test_who_does_not_get_to_speak_was_never_ready(dialect: str, said: bytes, fault: str) -> None:
    async def visit(url: str) -> None:
        connection = BenchConnection(dialects.prepared(dialect))
        await connection.open(url)
        await connection.over
        assert fault in (connection.session.fault or "")
        assert (connection.session.ready_s, connection.takes_audio) == (None, False)

    asyncio.run(with_server(saying(said), visit))


@pytest.mark.parametrize(("dialect", "served"), [("caiman", True), ("parakeet", False)])
def test_an_orderly_close_is_an_end_where_the_dialect_says_so(dialect: str, served: bool) -> None:
    async def visit(url: str) -> None:
        connection = BenchConnection(dialects.prepared(dialect))
        await connection.open(url)
        await connection.over
        assert (connection.session.end_s is not None, connection.session.fault is None) == (served, served)

    asyncio.run(with_server(saying(UPGRADED, closing(1000)), visit))


def test_frames_arrive_in_order_when_the_server_is_slow_to_read() -> None:
    """The first go straight to the socket, the rest wait in the transport."""
    frames = [websocket.encode(websocket.BINARY, bytes([number % 251]) * 60_000) for number in range(400)]
    written = asyncio.Event()

    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(websocket.HANDSHAKE_END)
        writer.write(UPGRADED)
        await written.wait()
        assert await reader.readexactly(sum(map(len, frames))) == b"".join(frames)
        writer.write(message(b'{"type":"final","text":"one"}'))
        await reader.read()

    async def visit(url: str) -> None:
        connection = BenchConnection(dialects.prepared("parakeet"))
        await connection.open(url)
        for frame in frames:
            connection.write(frame)
        assert not connection.writable.is_set()
        written.set()
        await connection.over
        assert connection.session.text == "one"

    asyncio.run(with_server(act, visit))


def test_a_ping_is_answered() -> None:
    async def act(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(websocket.HANDSHAKE_END)
        writer.write(UPGRADED + message(b"x", websocket.PING))
        answer = websocket.encode(websocket.PONG, b"x")
        assert await reader.readexactly(len(answer)) == answer
        writer.write(message(b'{"type":"final","text":""}'))
        await reader.read()

    async def visit(url: str) -> None:
        connection = BenchConnection(dialects.prepared("amira"))
        await connection.open(url)
        await connection.over
        assert connection.session.fault is None

    asyncio.run(with_server(act, visit))


# ---- The whole load ----


def planned(url: str, sessions: int = 2, dialect: str = "parakeet") -> Plan:
    ring = audio.ring(np.zeros(1600, np.int16), 10)
    starts, entries = [0] * sessions, plan.entries(ring, sessions)
    return Plan(url=url, dialect=dialect, ring=ring, frames=2, starts_us=starts, entries=entries)


async def at_once() -> float:
    return clock()


def test_who_is_not_ready_when_it_should_speak_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "AHEAD_S", 0.01)

    async def visit(url: str) -> None:
        done = await load.run(replace(planned(url, dialect="native"), opens_along=True), at_once, at_once)
        assert [session.fault for session in done.sessions] == ["not ready in time"] * 2
        assert not done.lateness_s

    asyncio.run(with_server(saying(UPGRADED), visit))


@pytest.mark.parametrize("opens_along", [False, True])
def test_nobody_answers(monkeypatch: pytest.MonkeyPatch, opens_along: bool) -> None:
    monkeypatch.setattr(load, "AHEAD_S", 0.01)
    silent = replace(planned("ws://127.0.0.1:9/ws"), opens_along=opens_along)
    with pytest.raises(AsrError, match="no server answers"):
        asyncio.run(load.run(silent, at_once, at_once))


def test_disturbers_come_speak_and_are_counted_apart() -> None:
    """They go on until the last paced session, of whichever generator, has ended."""

    async def visit(url: str) -> None:
        whole = replace(planned(url, sessions=0), churn_per_s=200.0, flood=1)
        async with disturbance.around(whole, dialects.prepared(whole.dialect)) as asides:
            while asides["churn"].came < 5 or asides["flood"].audio_s < 1:
                await asyncio.sleep(0)
        assert not asides["churn"].faults
        assert asides["flood"].came == 1

    asyncio.run(with_server(saying(UPGRADED), visit))


def test_disturbers_that_are_refused_are_counted_too() -> None:
    async def visit(url: str) -> None:
        whole = replace(planned(url, sessions=0), flood=2)
        async with disturbance.around(whole, dialects.prepared(whole.dialect)) as asides:
            while sum(asides["flood"].faults.values()) < 2:
                await asyncio.sleep(0)
        assert asides["flood"].faults == {"HTTP 503": 2}

    asyncio.run(with_server(saying(b"HTTP/1.1 503 Busy\r\n\r\n"), visit))
