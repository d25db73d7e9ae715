"""One run: starts a service if no URL is given, starts load generators, runs the rounds and reads CPU and memory.

`statistics` defines the figures and `load` makes the load; this module combines them.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

from asr_client.dialects import DIALECTS
from asr_ops.bench import audio, processes, report, schedule, statistics
from asr_ops.bench.connection import clock
from asr_ops.bench.generator import Generators, generating
from asr_ops.bench.load import AHEAD_S
from asr_ops.bench.options import FAKE, BenchOptions, audio_of
from asr_ops.bench.plan import LoadResult, Plan, added, entries
from asr_ops.own_service import Service, serving
from asr_proto.errors import SetupError
from asr_workers.engines import fake

FAKE_SLOTS = fake.FakeConfig().slots
FILES_SPARE = 100
"""Number of open files besides the sessions' sockets."""
SESSIONS_MAX = 20_000
"""Most sessions: one address can open not many more connections to one port."""
MEMORY_AT = 0.75
"""When memory is read, as a share of the duration: all sessions are active then."""


# ---- Preparation ----


def sessions_max(options: BenchOptions) -> int:
    """The most sessions for which the system allows enough open files."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    allowed = SESSIONS_MAX if hard == resource.RLIM_INFINITY else hard - FILES_SPARE
    return min(SESSIONS_MAX, allowed) - options.slots + options.sessions


def allow_files(wanted: int) -> None:
    """Raise the limit of open files of this process and its children to `wanted`.

    Raises SetupError if the system does not allow it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SetupError(f"the sessions need {wanted} open files, and the system allows {hard} (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@asynccontextmanager
async def _service(options: BenchOptions) -> AsyncIterator[Service | None]:
    """Start the service to measure. Yields None if a URL names a running service."""
    if options.url is not None:
        yield None
        return
    slots = [f"--slots={options.slots}"] if options.engine == FAKE and options.slots > FAKE_SLOTS else []
    async with serving([f"--engine={options.engine}", *slots, *options.serve_arg]) as service:
        yield service


# ---- Running ----


class UsageWatch:
    """Reads CPU and memory of the processes: before the sessions, at the beginning, once in between and at the end."""

    def __init__(self, pid: int | None, generators: Generators, memory_after_s: float) -> None:
        self._pid, self._generators, self._memory_after_s = pid, generators, memory_after_s
        self.idle = self.begin = self.memory = self.end = self._read()
        self._reading: asyncio.Task[None] | None = None

    async def at_begin(self) -> None:
        """Read at the beginning of the first round. Later rounds change nothing."""
        if self._reading is None:
            self.begin = self._read()
            self._reading = asyncio.create_task(self._read_memory())

    async def at_end(self) -> None:
        """Read at the end of a round. The last round's reading remains."""
        self.end = self._read()
        assert self._reading is not None
        await self._reading

    async def _read_memory(self) -> None:
        await asyncio.sleep(self._memory_after_s)
        self.memory = self._read()

    def _read(self) -> processes.UsageSnapshot:
        return processes.snapshot(self._pid, self._generators.pids, clock())


async def measure(options: BenchOptions, speech: audio.Ring) -> report.BenchReport:
    """Carry out the whole run. Raises AsrError if the service or a load generator fails."""
    allow_files(options.slots + FILES_SPARE)
    machine = processes.machine()
    async with _service(options) as service:
        plans = _plans(options, speech, service.url if service else options.url or "")
        async with generating(options.processes + plans[0].disturbs) as generators:
            watch = UsageWatch(service.pid if service else None, generators, _memory_after_s(options))
            loads = [await generators.run(plan, watch.at_begin, watch.at_end) for plan in plans]
    return _report(options, plans, loads, watch, machine)


def _memory_after_s(options: BenchOptions) -> float:
    spoken_s = options.duration_s / options.pace * MEMORY_AT
    return AHEAD_S + max(options.ramp_s, spoken_s) if options.ramp_s else spoken_s


def _plans(options: BenchOptions, speech: audio.Ring, address: str) -> list[Plan]:
    """One plan for each round."""
    url = DIALECTS[options.dialect].url(address, secure=options.secure, path=options.path)
    return [
        Plan(
            url=url,
            dialect=options.dialect,
            ring=speech,
            frames=options.frames,
            starts_us=schedule.starts_us(count, options.start, options.seed, round(options.ramp_s * 1_000_000)),
            entries=entries(speech, count),
            pace=options.pace,
            opens_along=options.ramp_s > 0,
            churn_per_s=options.churn_per_s,
            flood=options.flood,
            seed=options.seed,
        )
        for count in options.rounds
    ]


# ---- Reporting ----


def _report(
    options: BenchOptions,
    plans: Sequence[Plan],
    loads: Sequence[LoadResult],
    watch: UsageWatch,
    machine: dict[str, object],
) -> report.BenchReport:
    pairs = list(zip(plans, loads, strict=True))
    figures = [one for plan, load in pairs for one in _figures(options, plan, load)]
    own_s = watch.end.own_cpu_s - watch.begin.own_cpu_s
    return report.BenchReport(
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=_settings(options, plans[0], loads),
        machine=machine,
        counts=statistics.count(figures),
        faults=report.faults(figures),
        figures=statistics.overall(figures),
        processes=processes.usage(watch.idle, watch.begin, watch.memory, watch.end, options.sessions),
        generator=report.Generator(
            lateness_ms=statistics.spread(late * 1000 for load in loads for late in load.lateness_s),
            cores=own_s / (watch.end.at_s - watch.begin.at_s),
        ),
        others_cores=processes.others_cores(watch.begin, watch.end) if options.url is None else None,
        sessions=figures,
        asides=added([load.asides for load in loads]),
    )


def _settings(options: BenchOptions, first: Plan, loads: Sequence[LoadResult]) -> report.BenchSettings:
    engines = {session.engine for load in loads for session in load.sessions if session.engine is not None}
    return report.BenchSettings(
        url=first.url,
        own_service=options.url is None,
        engine="+".join(sorted(engines)) or options.engine,
        sessions=options.sessions,
        duration_s=options.frames * options.frame_ms / 1000,
        frame_ms=options.frame_ms,
        start=options.start,
        audio=audio_of(options),
        dialect=options.dialect,
        processes=options.processes,
        shape=options.shape,
    )


def _figures(options: BenchOptions, plan: Plan, load: LoadResult) -> list[statistics.SessionFigures]:
    return [
        statistics.measure(
            session, plan.ring.frame_samples, _expected(options, plan, number, session), pace=options.pace
        )
        for number, session in enumerate(load.sessions)
    ]


def _expected(options: BenchOptions, plan: Plan, number: int, session: statistics.SessionRecord) -> str | None:
    """The expected text, or None if it is unknown. Only the fake engine's text is known in advance.

    Not every dialect reports the engine's name. Without it, the engine is the one that the bench started.
    """
    engine = session.engine or (options.engine if options.url is None else None)
    return fake.transcript(plan.ring.spoken(plan.entries[number], plan.frames)) if engine == FAKE else None
