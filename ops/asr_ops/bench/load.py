"""N sessions of the `/v1/stream` dialect, paced by one loop.

Everything that can be done beforehand is: connections are opened and sessions ready before the first frame leaves, and
frames are masked already. Per frame there remain one write and two timestamps: no task, no timer, no encoding.
Messages are decoded as they come, because there are few of them. What the figures mean is not this module's business.
"""

from __future__ import annotations

import asyncio
import json
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

from asr_ops.bench import websocket
from asr_ops.bench.audio import Ring
from asr_ops.bench.schedule import departures
from asr_ops.bench.statistics import Session
from asr_proto.audio import SAMPLE_RATE
from asr_proto.errors import AsrError, DecodeError

OPENING_AT_ONCE = 32
OPEN_TIMEOUT_S = 30.0
END_TIMEOUT_S = 30.0
"""Longest wait for texts after the last frame."""
LEAD_S = 0.1
"""Between the last session's `ready` and the beginning."""
SLEEP_S_MIN = 0.001
"""Finer sleeps cost more than they gain: the loop's timers count milliseconds."""
BURST_FRAMES_MAX = 32
"""Frames written before the loop may send them and read."""
START = websocket.encode(websocket.TEXT, b'{"type":"start"}')
STOP = websocket.encode(websocket.TEXT, b'{"type":"stop"}')
CLOSE = websocket.encode(websocket.CLOSE, b"\x03\xe8")

clock = time.perf_counter


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be sent, and when."""

    url: str
    ring: Ring
    starts_us: Sequence[int]
    frames: int

    @property
    def frame_us(self) -> int:
        """How long a frame is."""
        return self.ring.frame_samples * 1_000_000 // SAMPLE_RATE

    def entry(self, session: int) -> int:
        """Where in the ring that session begins."""
        return self.ring.entry(session, len(self.starts_us))


@dataclass(frozen=True, slots=True)
class Load:
    """What happened."""

    sessions: list[Session]
    lateness_s: array[float]
    """How much later than due each frame left."""


class Connection(asyncio.Protocol):
    """One session's socket; writes what happens into its record."""

    def __init__(self, host: str, target: str) -> None:
        self.session = Session(connecting_s=clock())
        loop = asyncio.get_running_loop()
        self.ready: asyncio.Future[None] = loop.create_future()
        """Done when the session is ready or over."""
        self.over: asyncio.Future[None] = loop.create_future()
        self.transport: asyncio.Transport | None = None
        self._request = websocket.request(host, target)
        self._reader = websocket.Reader()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is not derived from it
        self.write(self._request)

    def data_received(self, data: bytes) -> None:
        now, before = clock(), self._reader.status
        try:
            for frame in self._reader.feed(data):
                self._on_frame(frame, now)
        except (DecodeError, ValueError, KeyError) as error:
            self.fail(f"cannot understand the server: {error}")
        if before is None and self._reader.status is not None:
            self._on_status(self._reader.status)

    def connection_lost(self, exc: Exception | None) -> None:
        self.fail("the connection was lost" if exc is None else f"the connection was lost: {exc}")

    def write(self, data: bytes) -> None:
        """Send it as soon as the loop runs."""
        assert self.transport is not None
        self.transport.write(data)

    def fail(self, reason: str) -> None:
        """The session is over without its end, unless it is over already."""
        if self.session.end_s is None and self.session.fault is None:
            self.session.fault = reason
        self.finish()

    def finish(self) -> None:
        """Nothing more will happen here."""
        for future in (self.ready, self.over):
            if not future.done():
                future.set_result(None)
        if self.transport is not None:
            self.transport.close()

    def _on_status(self, status: int) -> None:
        if status == 101:
            self.write(START)
        else:
            self.fail(f"HTTP {status}")

    def _on_frame(self, frame: websocket.Frame, now: float) -> None:
        if frame.opcode == websocket.TEXT:
            self._on_message(json.loads(frame.payload), now)
        elif frame.opcode == websocket.PING:
            self.write(websocket.encode(websocket.PONG, frame.payload))
        elif frame.opcode == websocket.CLOSE:
            self.fail(f"closed with {int.from_bytes(frame.payload[:2], 'big')}")

    def _on_message(self, message: dict[str, Any], now: float) -> None:
        session = self.session
        match message["type"]:
            case "partial":
                session.partials.append((now, message["end_s"]))
            case "final":
                session.finals.append((now, message["text"]))
            case "ready":
                session.ready_s, session.engine = now, message["engine"]
                self.ready.set_result(None)
            case "error":
                self.fail(message["code"])
            case "end":
                session.end_s = now
                self.write(CLOSE)
                self.finish()


async def run(plan: Plan, at_begin: Callable[[], Awaitable[None]], at_end: Callable[[], Awaitable[None]]) -> Load:
    """Open all sessions, speak, wait for all ends. The callbacks frame the time in which audio is spoken."""
    connections = await _open_all(plan)
    await at_begin()
    lateness_s = await _speak(plan, connections)
    over = [connection.over for connection in connections]
    await asyncio.wait(over, timeout=END_TIMEOUT_S)
    await at_end()
    for connection in connections:
        connection.fail("no end in time")
    await asyncio.sleep(0)
    return Load([connection.session for connection in connections], lateness_s)


# ---- Opening ----


async def _open_all(plan: Plan) -> list[Connection]:
    """All sessions, ready or refused. Raises AsrError if nobody answers at all."""
    gate = asyncio.Semaphore(OPENING_AT_ONCE)

    async def open_one() -> Connection:
        async with gate:
            return await _open(plan.url)

    connections = await asyncio.gather(*(open_one() for _ in plan.starts_us))
    if all(connection.transport is None for connection in connections):
        raise AsrError(f"no server answers at {plan.url} ({connections[0].session.fault})")
    return list(connections)


async def _open(url: str) -> Connection:
    parts = urlsplit(url)
    target = parts.path + (f"?{parts.query}" if parts.query else "")
    connection = Connection(parts.netloc.rpartition("@")[2], target)
    secure = parts.scheme == "wss"
    port = parts.port or (443 if secure else 80)
    try:
        async with asyncio.timeout(OPEN_TIMEOUT_S):
            await asyncio.get_running_loop().create_connection(
                lambda: connection, parts.hostname or "", port, ssl=secure or None
            )
            await connection.ready
    except TimeoutError:
        connection.fail("not ready in time")
    except OSError as error:
        connection.fail(error.strerror or str(error))
    return connection


# ---- Speaking ----


async def _speak(plan: Plan, connections: Sequence[Connection]) -> array[float]:
    """Write each frame when it is due, to the sessions that still run; answers how late each was."""
    lateness_s = array("d")
    began_s, burst = clock() + LEAD_S, 0
    wire, entries = plan.ring.wire, [plan.entry(session) for session in range(len(connections))]
    for due_us, number, frame in departures(plan.starts_us, plan.frames, plan.frame_us):
        due_s = began_s + due_us / 1_000_000
        burst += 1
        if (wait_s := due_s - clock()) > 0 or burst == BURST_FRAMES_MAX:
            await asyncio.sleep(max(wait_s, SLEEP_S_MIN) if wait_s > 0 else 0)
            burst = 0
        connection = connections[number]
        if connection.over.done():
            continue
        now = clock()
        connection.write(wire[(entries[number] + frame) % len(wire)])
        connection.session.sent_s.append(now)
        lateness_s.append(now - due_s)
        if frame == plan.frames - 1:
            connection.write(STOP)
    return lateness_s
