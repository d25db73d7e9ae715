"""Runs one load against one of the two servers, and measures both servers in the same way.

The load generator and the reading of CPU time and memory are those of `asr bench`, in this process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

import sherpa_load
import sherpa_server
import sherpa_wire
from side_by_side import Figures

from asr_client.dialects import DIALECTS
from asr_ops.bench import audio, load, plan, processes, report, schedule, statistics
from asr_ops.bench.connection import clock
from asr_ops.own_service import Service, serving
from asr_proto.audio import Pcm16
from asr_workers.engines import fake

LEAD_S = 0.1
"""Seconds from the last session's opening to the beginning of the audio."""
MEMORY_AT = 0.75
"""When memory is read, as a share of the duration: all sessions are active then."""
MS = 1000
DIALECT = "native"
"""This project's dialect. `sherpa_load` ignores it and uses the peer's."""


@dataclass(frozen=True, slots=True)
class Work:
    """The load: number of sessions, length of their audio, frames and starts."""

    sessions: int
    duration_s: float
    frame_ms: int
    start: schedule.StartPattern
    seed: int


@dataclass(frozen=True, slots=True)
class Server:
    """One of the two servers: how to start it, its load generator, its audio and the expected text."""

    serving: Callable[[], AbstractAsyncContextManager[Service]]
    run: Callable[[plan.Plan, load.AtBegin, load.AtEnd], Awaitable[plan.LoadResult]]
    url: Callable[[str], str]
    """Gives the sessions' URL for the service's URL."""
    ring: audio.Ring
    text: Callable[[Pcm16], str]
    """Gives the expected text for some audio."""


def ours(frame_ms: int) -> Server:
    """This project with the fake engine, which takes no CPU time and commits every second."""
    ring = audio.ring(audio.noise(), frame_ms)
    return Server(lambda: serving(["--engine=fake"]), load.run, DIALECTS[DIALECT].url, ring, fake.transcript)


def peers(peer: sherpa_server.Peer, frame_ms: int) -> Server:
    """The C++ server with the toy model, whose text is always empty."""
    ring = sherpa_wire.ring(audio.noise(), frame_ms)
    return Server(lambda: sherpa_server.serving(peer), sherpa_load.run, str, ring, lambda _: "")


async def measure(server: Server, work: Work) -> Figures:
    """Start the server, run the load, stop the server. Raises AsrError if it cannot be started or reached."""
    async with server.serving() as service:
        what = _plan(server, work, server.url(service.url))
        watch = _Watch(service.pid, work.duration_s)
        done = await server.run(what, watch.at_begin, watch.at_end)
    return _figures(server, what, watch, done)


def _plan(server: Server, work: Work, url: str) -> plan.Plan:
    return plan.Plan(
        url=url,
        dialect=DIALECT,
        ring=server.ring,
        frames=max(1, round(work.duration_s * MS / work.frame_ms)),
        starts_us=schedule.starts_us(work.sessions, work.start, work.seed),
        entries=plan.entries(server.ring, work.sessions),
    )


class _Watch:
    """Reads CPU and memory of the processes: before the sessions, at the beginning, once in between and at the end."""

    def __init__(self, pid: int, duration_s: float) -> None:
        self._pid, self._duration_s = pid, duration_s
        self.idle = self.begin = self.memory = self.end = self._read()
        self._reading: asyncio.Task[None] | None = None

    async def at_begin(self) -> float:
        """Read at the beginning. Returns the time at which to begin, by `clock`."""
        self.begin = self._read()
        self._reading = asyncio.create_task(self._read_memory())
        return clock() + LEAD_S

    async def at_end(self) -> None:
        self.end = self._read()
        assert self._reading is not None
        await self._reading

    async def _read_memory(self) -> None:
        """Read memory in a thread, because reading a large process's pages would delay frames."""
        await asyncio.sleep(self._duration_s * MEMORY_AT)
        self.memory = await asyncio.to_thread(self._read)

    def _read(self) -> processes.UsageSnapshot:
        return processes.snapshot(self._pid, (), clock())


def _figures(server: Server, what: plan.Plan, watch: _Watch, done: plan.LoadResult) -> Figures:
    """The figures of one server. If no session was served, they are zero and the report shows it."""
    sessions = [_measured(server, what, number, session) for number, session in enumerate(done.sessions)]
    used = processes.usage(watch.idle, watch.begin, watch.memory, watch.end, len(sessions))
    final = statistics.spread(one.final_ms for one in sessions if one.final_ms is not None)
    late = statistics.spread(late_s * MS for late_s in done.lateness_s)
    return Figures(
        served=sum(one.outcome == "served" and bool(one.exact) for one in sessions),
        faults=report.faults(sessions),
        final_ms_p50=final.p50 if final else 0.0,
        final_ms_p95=final.p95 if final else 0.0,
        final_ms_p99=final.p99 if final else 0.0,
        cores=sum(process.cores for process in used),
        session_kb=sum(process.session_kb for process in used),
        lateness_ms_p99=late.p99 if late else 0.0,
        others_cores=processes.others_cores(watch.begin, watch.end),
    )


def _measured(
    server: Server, what: plan.Plan, number: int, session: statistics.SessionRecord
) -> statistics.SessionFigures:
    expected = server.text(what.ring.spoken(what.entries[number], what.frames))
    return statistics.measure(session, what.ring.frame_samples, expected)
