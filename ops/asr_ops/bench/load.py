"""Runs N sessions of one dialect, paced by one loop.

All possible work is done in advance: connections are open, sessions are ready and frames are masked before the first
frame is sent. So a frame costs one write and two timestamps: no task, no timer, no encoding. Messages are decoded on
arrival, because they are few. This module must not know how the figures are computed.
"""

from __future__ import annotations

import asyncio
from array import array
from collections.abc import Awaitable, Callable, Sequence

from asr_ops.bench import dialects, disturbance
from asr_ops.bench.connection import BenchConnection, clock
from asr_ops.bench.plan import LoadResult, Plan
from asr_ops.bench.schedule import departures
from asr_proto.errors import AsrError

OPENING_AT_ONCE = 32
AHEAD_S = 2.0
"""Seconds from a session's connect to its first audio, with a ramp. Without a ramp all sessions connect first."""
END_TIMEOUT_S = 30.0
"""Longest wait for the sessions' ends after the last frame, in seconds."""
SLEEP_S_MIN = 0.001
"""Shortest sleep in seconds: the event loop's timers count milliseconds."""
BURST_FRAMES_MAX = 32
"""Most frames that are written before the event loop can read."""

AtBegin = Callable[[], Awaitable[float]]
"""Returns the time at which to begin, by `clock`."""
AtEnd = Callable[[], Awaitable[object]]


async def run(plan: Plan, at_begin: AtBegin, at_end: AtEnd) -> LoadResult:
    """Open all sessions, send their audio and wait for their ends.

    `at_begin` runs before the first audio is sent, `at_end` after the last session ended. Raises AsrError if no server
    answers.
    """
    dialect = dialects.prepared(plan.dialect)
    connections = [BenchConnection(dialect) for _ in plan.starts_us]
    if plan.opens_along:
        began_s = await at_begin() + AHEAD_S
        opening = asyncio.create_task(_open_along(plan, connections, began_s))
    else:
        opening = asyncio.create_task(_open_all(plan, connections))
        await opening
        began_s = await at_begin()
    async with disturbance.around(plan, dialect) as asides:
        lateness_s = await _speak(plan, connections, began_s)
        await opening
        if over := [connection.over for connection in connections]:
            await asyncio.wait(over, timeout=END_TIMEOUT_S)
        await at_end()
    for connection in connections:
        connection.fail("no end in time")
    await asyncio.sleep(0)
    return LoadResult([connection.session for connection in connections], lateness_s, asides)


# ---- Opening ----


async def _open_all(plan: Plan, connections: Sequence[BenchConnection]) -> None:
    """Open all sessions. Returns when each is ready or refused. Raises AsrError if no server answers."""
    gate = asyncio.Semaphore(OPENING_AT_ONCE)

    async def open_one(connection: BenchConnection) -> None:
        async with gate:
            await connection.open(plan.url)

    await asyncio.gather(*(open_one(connection) for connection in connections))
    _check_answered(plan, connections)


async def _open_along(plan: Plan, connections: Sequence[BenchConnection], began_s: float) -> None:
    """Open each session AHEAD_S seconds before its start. Raises AsrError if no server answers."""

    async def open_one(connection: BenchConnection, start_us: int) -> None:
        await asyncio.sleep(began_s + start_us / 1_000_000 - AHEAD_S - clock())
        await connection.open(plan.url)

    await asyncio.gather(*map(open_one, connections, plan.starts_us))
    _check_answered(plan, connections)


def _check_answered(plan: Plan, connections: Sequence[BenchConnection]) -> None:
    if connections and all(connection.transport is None for connection in connections):
        raise AsrError(f"no server answers at {plan.url} ({connections[0].session.fault})")


# ---- Sending ----


async def _speak(plan: Plan, connections: Sequence[BenchConnection], began_s: float) -> array[float]:
    """Write each frame at its due time to the sessions that still run. Returns each frame's lateness in seconds."""
    lateness_s = array("d")
    wire, entries, last, burst = plan.ring.wire, plan.entries, plan.frames - 1, 0
    for due_us, number, frame in departures(plan.starts_us, plan.frames, plan.frame_us):
        due_s, now, burst = began_s + due_us / 1_000_000, clock(), burst + 1
        if due_s > now or burst == BURST_FRAMES_MAX:
            await asyncio.sleep(max(due_s - now, SLEEP_S_MIN) if due_s > now else 0)
            now, burst = clock(), 0
        connection = connections[number]
        if not connection.takes_audio:
            connection.fail("not ready in time")
            continue
        connection.write(wire[(entries[number] + frame) % len(wire)])
        connection.session.sent_s.append(now)
        lateness_s.append(now - due_s)
        if frame == last:
            connection.stop()
    return lateness_s
