"""Searches for the most sessions of one GPU: the most for which the p99 of step times is shorter than a chunk.

    python ops/bench/engines/gpu.py --json gpu.json
    python ops/bench/engines/gpu.py --device cpu --shape small --right 1 --sessions-max 64     a trial on the CPU

The weights are random. Every step has a chunk of every session, features and decoding included. Times are wall time.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from shapes import SHAPES
from shapes import write as write_shape
from side_ours import Steps, clock_s

from asr_proto.errors import SetupError
from asr_workers.engines.fastconformer.load import load
from asr_workers.engines.fastconformer.streaming import ModelSettings

FRAME_MS = 80
RIGHTS = {"small": (1, 13), "large": (1, 13), "nemotron": (0, 1, 3, 6)}
"""Look-aheads in encoder frames: chunks of 160 and 1120 ms; for the Nemotron family, 80, 160, 320 and 560 ms."""


@dataclass(frozen=True, slots=True)
class Row:
    """The result of one search."""

    shape: str
    chunk_ms: int
    precision: str
    steps: str
    """How steps run: CUDA graphs or eager."""
    sessions: int
    step_ms_p50: float
    step_ms_p99: float
    memory_mb: float
    """Peak memory on the device in megabytes, weights included."""


@click.command(context_settings={"show_default": True})
@click.option("--device", default="cuda")
@click.option("--shape", "shapes", type=click.Choice(list(SHAPES)), multiple=True, default=("large", "nemotron"))
@click.option("--precision", "precisions", multiple=True, default=("fp32", "bf16"))
@click.option("--mode", "modes", type=click.Choice(["graphs", "eager"]), multiple=True, default=("graphs", "eager"))
@click.option(
    "--right", "rights", type=int, multiple=True, help="Look-ahead in encoder frames.  [default: those of the shape]"
)
@click.option("--sessions-max", type=click.IntRange(1), default=4096)
@click.option("--steps", type=click.IntRange(10), default=100, help="Steps to measure for each number of sessions.")
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures to a file."
)
def main(
    *,
    device: str,
    shapes: tuple[str, ...],
    precisions: tuple[str, ...],
    modes: tuple[str, ...],
    rights: tuple[int, ...],
    sessions_max: int,
    steps: int,
    json_file: Path | None,
) -> None:
    """Search for every shape, precision, mode and look-ahead, and print a table."""
    rows = []
    with tempfile.TemporaryDirectory(prefix="asr-gpu-") as work:
        for shape in shapes:
            nemo = Path(work, f"{shape}.nemo")
            write_shape(SHAPES[shape], nemo)
            for precision in precisions:
                for mode in modes:
                    for right in rights or RIGHTS[shape]:
                        settings = ModelSettings(str(nemo), "lean", "rnnt", precision, device, graphs=mode == "graphs")  # type: ignore[arg-type]
                        row = search(shape, settings, right, sessions_max, steps)
                        click.echo(f"{row}", err=True)
                        rows.append(row)
    Console().print(table(rows, device))
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n", encoding="utf-8")


def search(shape: str, settings: ModelSettings, right: int, sessions_max: int, steps: int) -> Row:
    """Double the sessions while steps are short enough, then bisect until the gap is a sixteenth of the result."""
    chunk_ms = (right + 1) * FRAME_MS
    good, bad = Row(shape, chunk_ms, settings.precision, _mode(settings), 0, 0.0, 0.0, 0.0), sessions_max + 1
    tried = 1
    while good.sessions < tried < bad:
        row = measure(good, settings, right, tried, steps)
        if row is not None and row.step_ms_p99 < chunk_ms:
            good = row
            tried = min(2 * tried, sessions_max) if bad > sessions_max else (tried + bad) // 2
        else:
            bad = tried
            tried = (good.sessions + bad) // 2
        if bad - good.sessions <= max(1, good.sessions // 16):
            break
    return good


def measure(like: Row, settings: ModelSettings, right: int, sessions: int, steps: int) -> Row | None:
    """Measure steps of that many sessions. None if they do not fit into the device's memory."""
    is_cuda = settings.device.startswith("cuda")
    if is_cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    try:
        model = load(_with_slots(settings, sessions))
        model.warm_up(right)
        found = Steps(model, sessions, right).measure(steps, clock_s)
    except (SetupError, torch.OutOfMemoryError):
        return None
    memory_mb = torch.cuda.max_memory_allocated() / 1e6 if is_cuda else 0.0
    p50, p99 = (float(value) for value in np.percentile(found, (50, 99)))
    return Row(like.shape, like.chunk_ms, like.precision, like.steps, sessions, p50, p99, memory_mb)


def _with_slots(settings: ModelSettings, slots: int) -> ModelSettings:
    return ModelSettings(**(asdict(settings) | {"slots": slots}))


def _mode(settings: ModelSettings) -> str:
    return "graphs" if settings.graphs and settings.device.startswith("cuda") else "eager"


def table(rows: list[Row], device: str) -> Table:
    """A table with one line for each search."""
    name = torch.cuda.get_device_name() if device.startswith("cuda") else device
    shown = Table(title=f"sessions on {name}", box=None, header_style="bold")
    for heading in ("shape", "chunk ms", "precision", "steps", "sessions", "step ms p50", "p99", "memory MB"):
        shown.add_column(heading, justify="left" if heading in ("shape", "precision", "steps") else "right")
    for row in rows:
        figures = (str(row.sessions), f"{row.step_ms_p50:.1f}", f"{row.step_ms_p99:.1f}", f"{row.memory_mb:.0f}")
        shown.add_row(row.shape, str(row.chunk_ms), row.precision, row.steps, *figures)
    return shown


if __name__ == "__main__":
    main()
