"""One run: a service where none is named, load generators, sessions in rounds, and a look into the processes.

The figures are defined in `statistics`, the load is made in `load`; here they are put together.
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
"""Open files besides the sessions' sockets."""
SESSIONS_MAX = 20_000
"""Towards one port there are not many more connections."""
MEMORY_AT = 0.75
"""When memory is read, as a share of the duration: every session is in full flight then."""


# ---- What is needed ----


def sessions_max(options: BenchOptions) -> int:
    """As many as the system allows files for."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    allowed = SESSIONS_MAX if hard == resource.RLIM_INFINITY else hard - FILES_SPARE
    return min(SESSIONS_MAX, allowed) - options.slots + options.sessions


def allow_files(wanted: int) -> None:
    """Let this process, and those it starts, open that many files; raises SetupError if the system does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SetupError(f"so many sessions need {wanted} open files, and the system allows {hard} (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@asynccontextmanager
async def _service(options: BenchOptions) -> AsyncIterator[Service | None]:
    """The service to measure, None for one that is not ours."""
    if options.url is not None:
        yield None
        return
    slots = [f"--slots={options.slots}"] if options.engine == FAKE and options.slots > FAKE_SLOTS else []
    async with serving([f"--engine={options.engine}", *slots, *options.serve_arg]) as service:
        yield service


# ---- Running ----


class UsageWatch:
    """Reads what the processes use: before, at the beginning, in full flight and at the end."""

    def __init__(self, pid: int | None, generators: Generators, memory_after_s: float) -> None:
        self._pid, self._generators, self._memory_after_s = pid, generators, memory_after_s
        self.idle = self.begin = self.memory = self.end = self._read()
        self._reading: asyncio.Task[None] | None = None

    async def at_begin(self) -> None:
        """Of the first round."""
        if self._reading is None:
            self.begin = self._read()
            self._reading = asyncio.create_task(self._read_memory())

    async def at_end(self) -> None:
        """Of the last round, in the end."""
        self.end = self._read()
        assert self._reading is not None
        await self._reading

    async def _read_memory(self) -> None:
        await asyncio.sleep(self._memory_after_s)
        self.memory = self._read()

    def _read(self) -> processes.UsageSnapshot:
        return processes.snapshot(self._pid, self._generators.pids, clock())


async def measure(options: BenchOptions, speech: audio.Ring) -> report.BenchReport:
    """The whole run. Raises AsrError."""
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
    """One for each round."""
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
    """Only the fake engine's text is known beforehand; not every dialect says which engine answers."""
    engine = session.engine or (options.engine if options.url is None else None)
    return fake.transcript(plan.ring.spoken(plan.entries[number], plan.frames)) if engine == FAKE else None
