"""The load generator of `asr bench` with the peer's dialect, which `asr bench` itself does not have."""

from __future__ import annotations

import asyncio

from sherpa_wire import DIALECT, DONE

from asr_ops.bench import connection, load
from asr_ops.bench.plan import LoadResult, Plan


class SherpaConnection(connection.BenchConnection):
    """Ignores `Done!`, the only text message that is not JSON."""

    def _on_text(self, payload: bytes, now: float) -> None:
        if payload != DONE:
            super()._on_text(payload, now)


async def run(plan: Plan, at_begin: load.AtBegin, at_end: load.AtEnd) -> LoadResult:
    """Like `load.run`, with its functions for opening and pacing. Raises AsrError if no server answers."""
    connections = [SherpaConnection(DIALECT) for _ in plan.starts_us]
    await load._open_all(plan, connections)
    lateness_s = await load._speak(plan, connections, await at_begin())
    await asyncio.wait([one.over for one in connections], timeout=load.END_TIMEOUT_S)
    await at_end()
    for one in connections:
        one.fail("no end in time")
    return LoadResult([one.session for one in connections], lateness_s)
