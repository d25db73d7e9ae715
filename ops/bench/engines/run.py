"""Compares the lean FastConformer with NeMo and sherpa-onnx: the cost of a step, and the sessions per core.

    make bench-engines
    make bench-engines ARGS="--shape small --model ops/models/digits-fastconformer.nemo --batches 16"

Each side runs in a separate process with one thread, one after another, on the same model. A step processes one chunk
of every session: features, encoder and decoding. Costs are medians of the process's CPU time, which other load on the
machine disturbs less than wall time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import click
from rich.console import Console
from rich.table import Table
from shapes import SHAPES

HERE = Path(__file__).resolve().parent
PEER = HERE.parent / "peers/sherpa/.venv/bin/python"
FRAME_MS = 80
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
SIDES = ("lean fp32", "lean bf16", "lean int8", "nemo fp32", "sherpa fp32")


@dataclass(frozen=True, slots=True)
class Row:
    """One measurement."""

    shape: str
    right: int
    side: str
    batch: int
    step_ms: float

    @property
    def sessions(self) -> float:
        """Sessions in real time on one core."""
        return self.batch * (self.right + 1) * FRAME_MS / self.step_ms


@click.command(context_settings={"show_default": True})
@click.option("--shape", "shapes", type=click.Choice(list(SHAPES)), multiple=True, default=("small", "large"))
@click.option("--model", type=click.Path(path_type=Path, exists=True), help="Use this model, not random weights.")
@click.option("--right", "rights", type=int, multiple=True, default=(1, 13), help="Look-ahead, in encoder frames.")
@click.option("--side", "sides", type=click.Choice(SIDES), multiple=True, default=SIDES)
@click.option("--batches", default="1,4,16,64")
@click.option("--steps", type=click.IntRange(5), default=20)
@click.option(
    "--json", "json_file", type=click.Path(path_type=Path, dir_okay=False), help="Write all figures to a file."
)
def main(
    *,
    shapes: tuple[str, ...],
    model: Path | None,
    rights: tuple[int, ...],
    sides: tuple[str, ...],
    batches: str,
    steps: int,
    json_file: Path | None,
) -> None:
    """Measure all sides in turn and print a table."""
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="asr-engines-") as work:
        for shape in shapes:
            nemo = model or Path(work, f"{shape}.nemo")
            if not nemo.exists():
                _run([sys.executable, "-W", "ignore", str(HERE / "shapes.py"), shape, str(nemo)])
            for right in rights:
                for side in sides:
                    click.echo(f"{shape} 70,{right}: {side}", err=True)
                    found = _measure(side, nemo, right, batches, steps, Path(work, f"{shape}-{right}"))
                    rows += [Row(shape, right, side, int(it["batch"]), it["step_ms"]) for it in found]
    Console().print(table(rows))
    if json_file is not None:
        json_file.write_text(json.dumps([asdict(row) | {"sessions": row.sessions} for row in rows], indent=1) + "\n")


def _measure(side: str, nemo: Path, right: int, batches: str, steps: int, onnx: Path) -> list[dict[str, float]]:
    name, precision = side.split()
    common = ["--batches", batches, "--steps", str(steps)]
    if name != "sherpa":
        how = ["--implementation", name, "--precision", precision, "--right", str(right)]
        return _run([sys.executable, "-W", "ignore", str(HERE / "side_ours.py"), str(nemo), *how, *common])
    if not onnx.exists():
        _run([sys.executable, "-W", "ignore", str(HERE / "export.py"), str(nemo), str(onnx), "--right", str(right)])
    chunk_ms = str((right + 1) * FRAME_MS)
    return _run([str(PEER), str(HERE / "side_sherpa.py"), str(onnx), "--chunk-ms", chunk_ms, *common])


def _run(command: list[str]) -> list[dict[str, float]]:
    """The JSON lines that a side printed. Its other output is shown only if it fails."""
    done = subprocess.run(command, check=False, capture_output=True, text=True, env=os.environ | ONE_THREAD)
    if done.returncode:
        raise click.ClickException(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def table(rows: list[Row]) -> Table:
    """Step cost and sessions per core for each shape, look-ahead and batch, and the ratio to sherpa's sessions."""
    shown = Table(box=None, header_style="bold")
    for heading in ("shape", "context", "batch", "side", "step ms", "sessions/core", "to sherpa"):
        shown.add_column(heading, justify="right" if heading not in ("shape", "side") else "left")
    for row in sorted(rows, key=lambda it: (it.shape, it.right, it.batch, SIDES.index(it.side))):
        peer = [it for it in rows if it.side.startswith("sherpa") and (it.shape, it.right, it.batch) == _key(row)]
        ratio = f"{row.sessions / peer[0].sessions:.2f}" if peer else ""
        cells = (row.shape, f"70,{row.right}", str(row.batch), row.side, f"{row.step_ms:.1f}", f"{row.sessions:.1f}")
        shown.add_row(*cells, ratio)
    return shown


def _key(row: Row) -> tuple[str, int, int]:
    return row.shape, row.right, row.batch


if __name__ == "__main__":
    main()
