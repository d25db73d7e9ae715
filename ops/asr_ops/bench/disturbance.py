"""Connections that disturb the paced sessions: some send briefly and abort (churn), some send without pause (flood).

They are counted separately. Their effect shows in the figures of the paced sessions.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

from asr_ops.bench.connection import BenchConnection
from asr_ops.bench.dialects import WireDialect
from asr_ops.bench.plan import Aside, Plan
from asr_proto.audio import SAMPLE_RATE

VISIT_S_MAX = 1.0
"""Longest time that a churn connection sends before it aborts, in seconds."""


@asynccontextmanager
async def around(plan: Plan, dialect: WireDialect) -> AsyncIterator[dict[str, Aside]]:
    """Run the plan's disturbances while the block runs. Yields their counts by name, `churn` and `flood`."""
    asides: dict[str, Aside] = {}
    tasks: list[asyncio.Task[None]] = []

    def start(name: str, work: Coroutine[Any, Any, None]) -> None:
        tasks.append(asyncio.create_task(work, name=name))

    if plan.churn_per_s:
        start("churn", _churn(plan, dialect, asides.setdefault("churn", Aside())))
    for number in range(plan.flood):
        start("flood", _flood(plan, dialect, asides.setdefault("flood", Aside()), number))
    try:
        yield asides
    finally:
        await _end(tasks)


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    """Cancel the tasks. Raises an exception that ended one of them earlier."""
    for task in tasks:
        task.cancel()
    for task in tasks:
        with suppress(asyncio.CancelledError):
            await task


async def _churn(plan: Plan, dialect: WireDialect, aside: Aside) -> None:
    """Open connections at random moments (a Poisson process), on average `plan.churn_per_s` a second."""
    draw = random.Random(plan.seed)
    async with asyncio.TaskGroup() as visits:
        while True:
            await asyncio.sleep(draw.expovariate(plan.churn_per_s))
            visits.create_task(_visit(plan, dialect, aside, draw.uniform(0, VISIT_S_MAX)))


async def _visit(plan: Plan, dialect: WireDialect, aside: Aside, length_s: float) -> None:
    """One connection that sends for `length_s` seconds and aborts."""
    connection = BenchConnection(dialect)
    aside.came += 1
    try:
        await connection.open(plan.url)
        for number in range(round(length_s * 1_000_000 / plan.frame_us)):
            await asyncio.sleep(plan.frame_us / 1_000_000)
            if not _send_frame(plan, connection, aside, number):
                return
    finally:
        connection.abort()


async def _flood(plan: Plan, dialect: WireDialect, aside: Aside, number: int) -> None:
    """One connection that sends as fast as the server accepts."""
    connection = BenchConnection(dialect)
    aside.came += 1
    try:
        await connection.open(plan.url)
        while _send_frame(plan, connection, aside, number):
            number += 1
            await connection.writable.wait()
            await asyncio.sleep(0)
    finally:
        connection.abort()


def _send_frame(plan: Plan, connection: BenchConnection, aside: Aside, number: int) -> bool:
    """Send one frame of the ring. Returns False, and counts the fault, if the session is over."""
    if not connection.takes_audio:
        aside.fault(connection.session.fault or "ended")
        return False
    connection.write(plan.ring.wire[number % len(plan.ring.wire)])
    aside.audio_s += plan.ring.frame_samples / SAMPLE_RATE
    return True
