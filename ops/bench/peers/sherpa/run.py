"""Compares this project with sherpa-onnx's C++ streaming server under the same load, with models that compute nothing.

python ops/bench/peers/sherpa/run.py --sessions 20,100,200,400 --duration 10
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import side_by_side
import toy_model
import uvloop
from measuring import Work, measure, ours, peers
from rich.console import Console
from sherpa_server import VENV, Peer, check, pins
from side_by_side import Figures, Pair, middle

from asr_ops.bench import processes, schedule
from asr_ops.bench.run import FILES_SPARE, allow_files
from asr_process import settings
from asr_proto.errors import AsrError, SetupError

CHUNKS_MS = click.Choice([str(chunk_ms) for chunk_ms in toy_model.CHUNKS_MS])
STARTS: dict[str, tuple[schedule.StartPattern, ...]] = {
    "together": ("together",),
    "random": ("random",),
    "both": ("together", "random"),
}


def numbers(text: str) -> tuple[int, ...]:
    """Parse positive integers separated by commas, as in 20,100,200. Raises ValueError for other text."""
    found = tuple(int(part) for part in text.split(","))
    if min(found) < 1:
        raise ValueError(text)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerOptions:
    """The checked options of the command line."""

    sessions: tuple[int, ...]
    duration_s: float
    frame_ms: int
    start: str
    seed: int
    rounds: int
    peer: Peer


@click.command("run.py", cls=settings.Program, context_settings={"show_default": True})
@click.option("--sessions", type=numbers, default="20,100,200,400", metavar="N,N", help="Numbers of sessions.")
@click.option("--duration", "duration_s", type=click.FloatRange(1), default=10.0, metavar="S", help="Seconds of audio.")
@click.option("--frame-ms", type=click.Choice(["20", "60", "100"]), default="100", help="Milliseconds in a frame.")
@click.option("--start", type=click.Choice(list(STARTS)), default="together", help="When sessions begin.")
@click.option("--seed", type=int, default=1, help="Seed of the random starts.")
@click.option("--rounds", type=click.IntRange(1), default=1, help="Runs of each server. Figures are their medians.")
@click.option("--chunk-ms", type=CHUNKS_MS, default=str(toy_model.CHUNK_MS), help="Audio in one step of the toy model.")
@click.option(
    "--peer-arg", multiple=True, metavar="ARG", help="Pass this to the peer, as in --peer-arg=--max-batch-size=64."
)
@click.option("--peer-venv", type=click.Path(path_type=Path), default=VENV, show_default="beside this file")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures to a file."
)
def main(
    *, frame_ms: str, chunk_ms: str, peer_arg: tuple[str, ...], peer_venv: Path, json_file: Path | None, **given: Any
) -> None:
    """Run the same load on this project and on sherpa-onnx's C++ streaming server in turn, and compare the figures.

    The goals apply to sessions that begin together. A missed goal is no error. Exit code 1 means that a session failed.
    """
    options = PeerOptions(frame_ms=int(frame_ms), peer=Peer(peer_venv, int(chunk_ms), peer_arg), **given)
    check(options.peer)
    processes.psutil()
    if json_file is not None and not json_file.parent.is_dir():
        raise SetupError(f"there is no folder {json_file.parent} for {json_file.name}")
    pairs = _run(options)
    _print(options, pairs)
    if json_file is not None:
        json_file.write_text(json.dumps(_content(options, pairs), indent=1) + "\n", encoding="utf-8")
    sys.exit(0 if all(pair.served for pair in pairs) else 1)


def _run(options: PeerOptions) -> list[Pair]:
    allow_files(max(options.sessions) + FILES_SPARE)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return [runner.run(_pair(options, work)) for work in _works(options)]
    except SetupError:
        raise
    except AsrError as error:
        raise SetupError(error.detail) from error


def _works(options: PeerOptions) -> Iterator[Work]:
    for start in STARTS[options.start]:
        for sessions in options.sessions:
            yield Work(sessions, options.duration_s, options.frame_ms, start, options.seed)


async def _pair(options: PeerOptions, work: Work) -> Pair:
    """Measure both servers in every round. The order alternates from round to round."""
    servers = (peers(options.peer, options.frame_ms), ours(options.frame_ms))
    found: tuple[list[Figures], list[Figures]] = ([], [])
    for number in range(options.rounds):
        for which in (0, 1) if number % 2 == 0 else (1, 0):
            found[which].append(await measure(servers[which], work))
    return Pair(work.sessions, work.start, *map(middle, found))


def _print(options: PeerOptions, pairs: list[Pair]) -> None:
    console = Console()
    for start in STARTS[options.start]:
        console.print(side_by_side.table(pairs, start))
    lines = [side_by_side.sentence(goal) for goal in side_by_side.goals(pairs, options.frame_ms)]
    for line in (*lines, *(f"WARNING: {warning}" for warning in side_by_side.warnings(pairs))):
        console.print(line, highlight=False, markup=False)


def _content(options: PeerOptions, pairs: list[Pair]) -> dict[str, object]:
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": processes.machine(),
        "settings": {
            "duration_s": options.duration_s,
            "frame_ms": options.frame_ms,
            "rounds": options.rounds,
            "peer": pins(),
            "chunk_ms": options.peer.chunk_ms,
            "peer_arguments": options.peer.arguments,
        },
        **side_by_side.as_json(pairs, options.frame_ms),
    }


if __name__ == "__main__":
    gc.disable()  # a collection would delay frames by milliseconds
    main()
