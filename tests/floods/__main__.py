"""`python -m tests.floods`: what paced sessions feel of flooders beside them. Prints one line for each kind of flood.

Every kind gets a pool of its own: a broker, a worker with the fake engine, a frontend, all real processes. `asr bench`
measures the paced sessions. The flooders have a low priority, as if they came from another machine.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import psutil

from tests.e2e.service import MODULES, ROOT, Pool, environment
from tests.floods.flooder import KINDS

NONE = "none"
FALSE_ALARMS = re.compile("lease-expired|worker-hangs|worker-silent|broker-lost")


@dataclass(frozen=True, slots=True)
class Measured:
    """One run beside one kind of flood."""

    kind: str
    partial_ms: tuple[float, float]
    """p50 and p99 of `partial_lag_ms`, as `asr bench` measures it."""
    final_ms: tuple[float, float]
    lost: int
    """Sessions that were refused, failed, or got another text than expected."""
    moves: int
    alarms: int
    """Leases that were lost though no process had died or hung."""
    cores: list[float]
    """CPU of the frontend, the broker and the worker."""
    flooders: str

    def __str__(self) -> str:
        p50, p99 = self.partial_ms
        final = f"{self.final_ms[0]:7.0f} {self.final_ms[1]:7.0f}"
        cores = " ".join(f"{one:.2f}" for one in self.cores)
        return (
            f"{self.kind:13} {p50:7.0f} {p99:7.0f} {final} {self.lost:5} {self.moves:6} {self.alarms:7} "
            f" {cores}  {self.flooders}"
        )


HEAD = (
    f"{'flood':13} {'partial p50':>9} {'p99':>5} {'final p50':>9} {'p99':>5}  lost  moves  alarms  "
    "CPU of frontend, broker, worker; flooders"
)


def measure(kind: str, flooders: int, sessions: int, duration_s: float, args: Sequence[str]) -> Measured:
    """Start a pool, flood it, and run the paced sessions."""
    with Pool(workers=[["--engine=fake", "--slots=256"]], frontend=args) as pool:
        processes = [psutil.Process(program.pid) for program in (pool.frontend, pool.broker, *pool.workers)]
        flooding = start_flood(pool.port, kind, flooders) if kind != NONE else None
        try:
            before, began = cpu_s(processes), time.monotonic()
            figures = bench(pool, sessions, duration_s)
            took_s = time.monotonic() - began
            cores = [(after - earlier) / took_s for after, earlier in zip(cpu_s(processes), before, strict=True)]
        finally:
            told = flooding.communicate(timeout=60)[0].strip() if flooding else ""
        lines = [line for program in pool.programs for line in program.lines]
        counts = figures["counts"]
        return Measured(
            kind,
            _tails(figures, "partial_lag_ms"),
            _tails(figures, "final_ms"),
            sum(counts[name] or 0 for name in ("refused", "errors", "lost")),
            sum("lease lost" in line for line in lines),
            sum(bool(FALSE_ALARMS.search(line)) for line in lines),
            cores,
            told,
        )


def start_flood(port: int, kind: str, count: int) -> subprocess.Popen[str]:
    """Start flooders in a process of their own. They end at the end of its stdin."""
    argv = [sys.executable, "-m", "tests.floods.flooder", str(port), kind, str(count)]
    return subprocess.Popen(
        ["nice", "-n", "10", *argv], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )


def bench(pool: Pool, sessions: int, duration_s: float) -> dict[str, dict[str, dict[str, float]]]:
    """The figures of paced sessions of 20 ms frames."""
    file = Path(pool.run_dir) / "figures.json"
    load = [f"--sessions={sessions}", f"--duration={duration_s}", "--frame-ms=20", f"--json={file}"]
    argv = [sys.executable, "-m", MODULES["asr"], "bench", f"--url={pool.url}", *load]
    subprocess.run(argv, check=False, env=environment(), capture_output=True, timeout=300)
    return json.loads(file.read_text())


def cpu_s(processes: Sequence[psutil.Process]) -> list[float]:
    """The CPU time of each process so far, in seconds."""
    return [sum(process.cpu_times()[:2]) for process in processes]


def _tails(figures: dict[str, dict[str, dict[str, float]]], name: str) -> tuple[float, float]:
    found = figures["figures"].get(name, {})
    return found.get("p50", float("nan")), found.get("p99", float("nan"))


@click.command()
@click.option("--sessions", default=16, help="Paced sessions.")
@click.option("--flooders", default=8)
@click.option("--duration", default=6.0, help="Seconds of audio of each paced session.")
@click.option("--frontend-arg", multiple=True, help="Pass this to the frontend.")
@click.argument("kinds", nargs=-1)
def main(sessions: int, flooders: int, duration: float, frontend_arg: tuple[str, ...], kinds: tuple[str, ...]) -> None:
    """Measure KINDS of floods; all of them by default."""
    click.echo(HEAD)
    for kind in kinds or (NONE, *KINDS):
        click.echo(str(measure(kind, flooders, sessions, duration, frontend_arg)))


if __name__ == "__main__":
    main()
