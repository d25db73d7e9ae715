"""The command `asr bench`: what to run, against what, and where the report goes.

The figures are defined in `statistics`, the load is made in `load`; here they are put together.
"""

from __future__ import annotations

import asyncio
import csv
import json
import resource
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console

from asr_client.session import stream_url
from asr_ops import wer
from asr_ops.bench import audio, load, processes, report, schedule, statistics
from asr_ops.own_service import Service, serving
from asr_proto import settings
from asr_proto.audio import Pcm16
from asr_proto.errors import AsrError, SetupError
from asr_workers.engines import fake

FAKE = "fake"
FAKE_SLOTS = fake.FakeConfig().slots
HISTORY_FILE = "ops/bench/history.csv"
FILES_SPARE = 100
"""Open files besides the sessions' sockets."""
MEMORY_AT = 0.75
"""When memory is read, as a share of the duration: every session is in full flight then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The command line, checked."""

    url: str | None
    engine: str
    sessions: int
    duration_s: float
    frame_ms: int
    file: Path | None
    start: schedule.Start
    seed: int
    serve_arg: tuple[str, ...]


@click.command("asr bench", cls=settings.Program, context_settings={"show_default": True})
@click.option("--url", help="A running service. Without it, `asr serve` is started for the bench and looked into.")
@click.option("--engine", default=FAKE, metavar="NAME", help="What the started service recognises with.")
@click.option("--sessions", type=click.IntRange(1), default=100, metavar="N", help="How many speak at once.")
@click.option("--duration", "duration_s", type=click.FloatRange(0.1), default=10.0, metavar="S", help="For how long.")
@click.option("--frame-ms", type=click.Choice(["20", "60", "100"]), default="100", help="Milliseconds in a frame.")
@click.option(
    "--file",
    type=click.Path(path_type=Path, dir_okay=False),
    show_default="noise for the fake engine, read speech for others",
    help="What they say, over and over, each beginning elsewhere.",
)
@click.option(
    "--start",
    type=click.Choice(["random", "together"]),
    default="random",
    help="Whether sessions begin, and end, spread over a second or all in the same moment.",
)
@click.option("--seed", type=int, default=1, help="Of the random starts.")
@click.option("--serve-arg", multiple=True, metavar="ARG", help="Pass this on to `asr serve`, as in --serve-arg=--x=1.")
@click.option("--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures there.")
@click.option(
    "--history",
    type=click.Path(path_type=Path, dir_okay=False),
    is_flag=False,
    flag_value=HISTORY_FILE,
    metavar="[FILE]",
    show_default=False,
    help=f"Append one line to this file, {HISTORY_FILE} unless you say otherwise.",
)
def bench(*, frame_ms: str, json_file: Path | None, history: Path | None, **given: Any) -> None:
    """Measure how long speakers wait and what serving them costs, with sessions in real time.

    Exit code 1 means that a session was refused, failed or, where its text is known, was not understood exactly.

    \b
        asr bench                                           100 sessions, no model
        asr bench --sessions 400 --start together           everybody ends at once
        asr bench --engine moonshine --sessions 8 --frame-ms 20 --duration 20
        asr bench --url ws://host:8000 --file speech.wav --json figures.json
    """
    processes.psutil()
    _check_folders(json_file, history)
    found = _run(Options(frame_ms=int(frame_ms), **given))
    Console().print(report.tables(found))
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_json(found), indent=1) + "\n", encoding="utf-8")
    if history is not None:
        append(history, found)
    sys.exit(0 if found.counts.clean else 1)


def append(history: Path, found: report.Report) -> None:
    """One line more; a new file begins with the names of the columns."""
    with history.open("a", encoding="utf-8", newline="") as lines:
        rows = csv.writer(lines, lineterminator="\n")
        if lines.tell() == 0:
            rows.writerow(report.HISTORY)
        rows.writerow(report.history_row(found))


def _run(options: Options) -> report.Report:
    try:
        ring = audio.ring(_samples(options), options.frame_ms)
        allow_files(options.sessions + FILES_SPARE)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(_measure(options, ring))
    except SetupError:
        raise
    except AsrError as error:
        raise SetupError(error.detail) from error


# ---- What is needed ----


def _check_folders(*files: Path | None) -> None:
    """Before the bench, not after it."""
    for file in files:
        if file is not None and not file.parent.is_dir():
            raise SetupError(f"there is no folder {file.parent} for {file.name}")


def _samples(options: Options) -> Pcm16:
    if options.file is not None:
        return audio.recording(options.file)
    if options.engine == FAKE:
        return audio.noise()
    clips = wer.two_cities()
    if not clips:
        raise SetupError("the package moonshine-voice, whose sample would be spoken, is missing: give --file")
    return audio.recording(clips[0].path)


def allow_files(wanted: int) -> None:
    """Let this process, and the service it starts, open that many files; raises SetupError if the system does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted or soft == resource.RLIM_INFINITY:
        return
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SetupError(f"so many sessions need {wanted} open files, and the system allows {hard} (ulimit -n)")
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@asynccontextmanager
async def _service(options: Options) -> AsyncIterator[Service | None]:
    """The service to measure, None for one that is not ours."""
    if options.url is not None:
        yield None
        return
    slots = [f"--slots={options.sessions}"] if options.engine == FAKE and options.sessions > FAKE_SLOTS else []
    async with serving([f"--engine={options.engine}", *slots, *options.serve_arg]) as service:
        yield service


# ---- One run ----


class Watch:
    """Reads what the processes use: before, at the beginning, in full flight and at the end."""

    def __init__(self, pid: int | None, duration_s: float) -> None:
        self._pid, self._duration_s = pid, duration_s
        self.idle = self.begin = self.memory = self.end = self._read()
        self._reading: asyncio.Task[None] | None = None

    async def at_begin(self) -> None:
        self.begin = self._read()
        self._reading = asyncio.create_task(self._read_memory())

    async def at_end(self) -> None:
        self.end = self._read()
        assert self._reading is not None
        await self._reading

    async def _read_memory(self) -> None:
        """In a thread: adding up a large process's pages takes longer than a frame may be late."""
        await asyncio.sleep(self._duration_s * MEMORY_AT)
        self.memory = await asyncio.to_thread(self._read)

    def _read(self) -> processes.Snapshot:
        return processes.snapshot(self._pid, load.clock())


async def _measure(options: Options, ring: audio.Ring) -> report.Report:
    machine = processes.machine()
    async with _service(options) as service:
        url = stream_url(service.url if service else options.url or "")
        frames = max(1, round(options.duration_s * 1000 / options.frame_ms))
        starts = schedule.starts_us(options.sessions, options.start, options.seed)
        plan = load.Plan(url, ring, starts, frames)
        watch = Watch(service.pid if service else None, options.duration_s)
        done = await load.run(plan, watch.at_begin, watch.at_end)
    return _report(options, plan, watch, done, machine)


def _report(
    options: Options, plan: load.Plan, watch: Watch, done: load.Load, machine: dict[str, object]
) -> report.Report:
    figures = [_figures(plan, number, session) for number, session in enumerate(done.sessions)]
    generator_s = watch.end.own_cpu_s - watch.begin.own_cpu_s
    own_service = options.url is None
    return report.Report(
        when=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=_settings(options, plan, done.sessions),
        machine=machine,
        counts=statistics.count(figures),
        faults=report.faults(figures),
        figures=statistics.overall(figures),
        processes=processes.usage(watch.idle, watch.begin, watch.memory, watch.end, options.sessions),
        generator=report.Generator(
            lateness_ms=statistics.spread(late * 1000 for late in done.lateness_s),
            cores=generator_s / (watch.end.at_s - watch.begin.at_s),
        ),
        others_cores=processes.others_cores(watch.begin, watch.end) if own_service else None,
        sessions=figures,
    )


def _settings(options: Options, plan: load.Plan, sessions: Sequence[statistics.Session]) -> report.Settings:
    engines = {session.engine for session in sessions if session.engine is not None}
    said = str(options.file) if options.file else "noise" if options.engine == FAKE else wer.TWO_CITIES
    return report.Settings(
        url=plan.url,
        own_service=options.url is None,
        engine="+".join(sorted(engines)) or options.engine,
        sessions=options.sessions,
        duration_s=plan.frames * plan.frame_us / 1_000_000,
        frame_ms=options.frame_ms,
        start=options.start,
        audio=said,
    )


def _figures(plan: load.Plan, number: int, session: statistics.Session) -> statistics.SessionFigures:
    """Only the fake engine's text is known beforehand."""
    expected = None
    if session.engine == FAKE:
        expected = fake.transcript(plan.ring.spoken(plan.entry(number), plan.frames))
    return statistics.measure(session, plan.ring.frame_samples, expected)
