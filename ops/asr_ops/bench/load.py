"""N sessions of one dialect, paced by one loop.

Everything that can be done beforehand is: connections are open and sessions ready before their first frame leaves, and
frames are masked already. Per frame there remain one write and two timestamps: no task, no timer, no encoding.
Messages are decoded as they come, because there are few of them. What the figures mean is not this module's business.
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
"""How long before it speaks a session connects, where not all connect before the first speaks."""
END_TIMEOUT_S = 30.0
"""Longest wait for texts after the last frame."""
SLEEP_S_MIN = 0.001
"""Finer sleeps cost more than they gain: the loop's timers count milliseconds."""
BURST_FRAMES_MAX = 32
"""Frames written before the loop may read."""

AtBegin = Callable[[], Awaitable[float]]
"""Answers when to begin, by `clock`."""
AtEnd = Callable[[], Awaitable[object]]


async def run(plan: Plan, at_begin: AtBegin, at_end: AtEnd) -> LoadResult:
    """Open all sessions, speak, wait for all ends. The callbacks frame the time in which audio is spoken."""
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
    """All sessions, ready or refused. Raises AsrError if nobody answers at all."""
    gate = asyncio.Semaphore(OPENING_AT_ONCE)

    async def open_one(connection: BenchConnection) -> None:
        async with gate:
            await connection.open(plan.url)

    await asyncio.gather(*(open_one(connection) for connection in connections))
    _check_answered(plan, connections)


async def _open_along(plan: Plan, connections: Sequence[BenchConnection], began_s: float) -> None:
    """Each session shortly before it is to speak."""

    async def open_one(connection: BenchConnection, start_us: int) -> None:
        await asyncio.sleep(began_s + start_us / 1_000_000 - AHEAD_S - clock())
        await connection.open(plan.url)

    await asyncio.gather(*map(open_one, connections, plan.starts_us))
    _check_answered(plan, connections)


def _check_answered(plan: Plan, connections: Sequence[BenchConnection]) -> None:
    if connections and all(connection.transport is None for connection in connections):
        raise AsrError(f"no server answers at {plan.url} ({connections[0].session.fault})")


# ---- Speaking ----


async def _speak(plan: Plan, connections: Sequence[BenchConnection], began_s: float) -> array[float]:
    """Write each frame when it is due, to the sessions that still run; answers how late each was."""
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
