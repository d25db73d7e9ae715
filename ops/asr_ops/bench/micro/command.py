"""The command `asr bench micro`: measures the parts and writes the figures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import click
from rich.console import Console

from asr_ops.bench.micro import broker, codec, frontends, report, websocket, wire, workers
from asr_ops.bench.micro.costs import Cost
from asr_process import settings

PARTS: dict[str, Callable[[], list[Cost]]] = {
    "wire": wire.costs,
    "codec": codec.costs,
    "websocket": websocket.costs,
    "batcher": workers.batcher_costs,
    "sessions": lambda: [*workers.sessions_costs(), *frontends.costs()],
}
BROKER = "broker"
SESSIONS = (100, 1_000, 5_000, 10_000)


@click.command("asr bench micro", cls=settings.Program, context_settings={"show_default": True})
@click.argument("parts", nargs=-1, type=click.Choice([*PARTS, BROKER]), metavar="[PART]...")
@click.option(
    "--sessions",
    type=click.IntRange(1),
    multiple=True,
    default=SESSIONS,
    metavar="N",
    help="Number of sessions that load the broker; repeatable.",
)
@click.option(
    "--seconds", type=click.FloatRange(0.1), default=4.0, metavar="S", help="Seconds of each load of the broker."
)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures to this file."
)
def micro(parts: tuple[str, ...], sessions: tuple[int, ...], seconds: float, json_file: Path | None) -> None:
    """Measure the cost of each part on a frame's way alone: wire, codec, websocket, batcher, sessions, broker; or all.

    \b
        asr bench micro                             all parts, about a minute
        asr bench micro wire codec                  the CPU time of these parts
        asr bench micro broker --sessions 10000     a broker under the load of 10,000 sessions
    """
    console = Console()
    costs: dict[str, list[Cost]] = {}
    for part, measure in PARTS.items():
        if part in parts or not parts:
            costs[part] = measure()
            console.print(report.costs_table(part, costs[part]))
    rows = broker.rows(sessions, seconds) if BROKER in parts or not parts else []
    if rows:
        console.print(report.broker_table(rows))
    if json_file is not None:
        json_file.write_text(json.dumps(report.as_json(costs, rows), indent=1) + "\n", encoding="utf-8")
