"""The command `asr bench`: reads the options, runs the bench and writes the report."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import click
import uvloop
from rich.console import Console

from asr_client.dialects import DIALECTS
from asr_ops.bench import audio, compare, history, html, processes, report, run, scenario, search
from asr_ops.bench.micro.command import micro
from asr_ops.bench.options import FAKE, BenchOptions, check, ring
from asr_process import settings
from asr_proto.errors import AsrError, SetupError

HISTORY_FILE = "ops/bench/history.csv"
PACE_MAX = 10.0
FILE = click.Path(path_type=Path, dir_okay=False)


class Bench(settings.Program, click.Group):
    """A command that runs the bench, and a group with the subcommands `compare` and `micro`."""


def _pace(_ctx: click.Context, _param: click.Parameter, value: float) -> float:
    """A speed below 1 becomes 1, as in the older systems' clients."""
    return max(1.0, value)


@click.group(
    "asr bench",
    cls=Bench,
    commands={"compare": compare.compare, "micro": micro},
    invoke_without_command=True,
    subcommand_metavar="[compare A.json B.json | micro]",
    context_settings={"show_default": True, "max_content_width": 100},
)
@click.option(
    "--scenario",
    type=FILE,
    is_eager=True,
    expose_value=False,
    callback=scenario.read,
    help="Read options from this TOML file. Options on the command line win.",
)
@click.option(
    "--url",
    "--server",
    "url",
    metavar="URL",
    help="Measure this running service, a URL or HOST:PORT. Without it, `asr serve` is started, and its CPU time and "
    "memory are measured too.",
)
@click.option("--secure", is_flag=True, help="Connect with TLS.")
@click.option("--path", metavar="/PATH", help="The dialect's path on the server.  [default: its own path]")
@click.option("--dialect", type=click.Choice(list(DIALECTS)), default="native", help="The sessions' dialect.")
@click.option("--engine", default=FAKE, metavar="NAME", help="The engine of the service that is started.")
@click.option(
    "--sessions",
    "--streams",
    "--concurrency",
    "sessions",
    type=click.IntRange(1),
    default=100,
    metavar="N",
    help="Number of sessions at the same time.",
)
@click.option("--n", "total", type=click.IntRange(1), metavar="N", help="Total of sessions, in rounds of --sessions.")
@click.option(
    "--duration",
    "duration_s",
    type=click.FloatRange(0.1),
    default=10.0,
    metavar="S",
    help="Seconds of audio a session.",
)
@click.option("--frame-ms", type=click.IntRange(10, 1000), default=100, metavar="MS", help="Milliseconds in a frame.")
@click.option(
    "--rtf",
    "pace",
    type=click.FloatRange(max=PACE_MAX),
    default=1.0,
    callback=_pace,
    metavar="SPEED",
    help=f"Speed of the audio, as a multiple of real time: 1 to {PACE_MAX:g}.",
)
@click.option(
    "--file",
    type=FILE,
    show_default="noise for the fake engine, read speech for others",
    help="Sound file that the sessions send in a loop. Each session begins at another place.",
)
@click.option("--tone", is_flag=True, help="Send two tones, of 180 and 310 Hz.")
@click.option("--pauses", is_flag=True, help="Insert silence of 0.5 to 2.5 s after every 1 to 4 s of audio.")
@click.option(
    "--start",
    type=click.Choice(["random", "together"]),
    default="random",
    help="Whether sessions begin at random within a second, or all at the same time.",
)
@click.option(
    "--ramp", "ramp_s", type=click.FloatRange(0), default=0, metavar="S", help="Spread the sessions' starts over S s."
)
@click.option(
    "--churn",
    "churn_per_s",
    type=click.FloatRange(0),
    default=0,
    metavar="RATE",
    help="Add RATE connections a second that send for up to a second and abort. They are not in the figures.",
)
@click.option(
    "--flood",
    type=click.IntRange(0),
    default=0,
    metavar="N",
    help="Add N connections that send as fast as the server accepts. They are not in the figures.",
)
@click.option("--find-max", is_flag=True, help="Search for the most sessions within --slo-ms, from --sessions on.")
@click.option(
    "--slo-ms",
    type=click.FloatRange(0, min_open=True),
    default=500.0,
    metavar="MS",
    help="Highest p95 of final_ms and of partial_lag_ms for --find-max, in milliseconds.",
)
@click.option("--processes", type=click.IntRange(1), default=1, metavar="N", help="Processes of the load generator.")
@click.option("--seed", type=int, default=1, help="Seed of the random numbers.")
@click.option("--serve-arg", multiple=True, metavar="ARG", help="Pass this to `asr serve`, as in --serve-arg=--x=1.")
@click.option("--json", "json_file", type=FILE, help="Write all figures to this file.")
@click.option("--html", "html_file", type=FILE, help="Write a report with charts to this file.")
@click.option(
    "--history",
    "history_file",
    type=FILE,
    is_flag=False,
    flag_value=HISTORY_FILE,
    metavar="[FILE]",
    show_default=False,
    help=f"Append one line to FILE, by default {HISTORY_FILE}.",
)
@click.pass_context
def bench(
    ctx: click.Context,
    /,
    *,
    find_max: bool,
    slo_ms: float,
    json_file: Path | None,
    html_file: Path | None,
    history_file: Path | None,
    **given: Any,
) -> None:
    """Measure latencies, CPU time and memory with sessions in real time.

    Exit code 1 means that a session was refused, failed, or got a text other than the expected one, if that is known.
    With --find-max, it means that not one session was served in time.

    \b
        asr bench                                           100 sessions, no model
        asr bench --sessions 400 --start together           all sessions end at the same time
        asr bench --engine moonshine --sessions 8 --frame-ms 20 --duration 20
        asr bench --find-max --slo-ms 200 --processes 2     how many sessions can be served
        asr bench --url ws://host:8000 --file speech.wav --json figures.json --html figures.html
        asr bench --scenario ops/bench/scenarios/churn.toml
        asr bench compare before.json after.json            what became better, what worse
        asr bench micro                                     what each part costs by itself
    """
    if ctx.invoked_subcommand is not None:
        return
    processes.psutil()
    _check_folders(json_file, html_file, history_file)
    found, steps = _measured(_options(given, find_max), slo_ms if find_max else None)
    _show(found)
    content = report.as_json(found) | {"steps": [asdict(step) for step in steps]}
    if json_file is not None:
        json_file.write_text(json.dumps(content) + "\n", encoding="utf-8")
    if html_file is not None:
        html_file.write_text(html.page(content), encoding="utf-8")
    if history_file is not None:
        click.echo(history.append(history_file, found))
    sys.exit(0 if found.counts.clean and (search.best(steps) or not find_max) else 1)


def _check_folders(*files: Path | None) -> None:
    """Raise SetupError if a file's folder is missing, before the bench runs."""
    for file in files:
        if file is not None and not file.parent.is_dir():
            raise SetupError(f"there is no folder {file.parent} for {file.name}")


def _options(given: dict[str, Any], find_max: bool) -> BenchOptions:
    options = BenchOptions(**given)
    check(options, find_max=find_max)
    return replace(options, sessions=min(options.sessions, options.total or options.sessions))


def _show(found: report.BenchReport) -> None:
    Console().print(report.tables(found))
    for name, aside in found.asides.items():
        click.echo(f"{name}: {aside}")


# ---- Running ----


def _measured(options: BenchOptions, slo_ms: float | None) -> tuple[report.BenchReport, list[search.SearchStep]]:
    """The report of one run and no steps; or, with `slo_ms`, the best report of a search and all its steps."""
    try:
        speech = ring(options)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            if slo_ms is None:
                return runner.run(run.measure(options, speech)), []
            return runner.run(_search(options, speech, slo_ms))
    except SetupError:
        raise
    except AsrError as error:
        raise SetupError(error.detail) from error


async def _search(
    options: BenchOptions, speech: audio.Ring, slo_ms: float
) -> tuple[report.BenchReport, list[search.SearchStep]]:
    """The report of the most sessions that passed (or of the fewest, if none passed), and all steps."""
    steps: list[search.SearchStep] = []
    found: dict[int, report.BenchReport] = {}
    while (sessions := search.following(steps, options.sessions, run.sessions_max(options))) is not None:
        found[sessions] = await run.measure(replace(options, sessions=sessions), speech)
        steps.append(search.judged(found[sessions], slo_ms))
        click.echo(str(steps[-1]))
    click.echo(search.conclusion(steps, slo_ms))
    return found[search.best(steps) or min(found)], steps
