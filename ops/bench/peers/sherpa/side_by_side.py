"""The two servers' figures, their ratios, and which goals are met. Pure.

A ratio is this project's figure divided by the peer's: below 1 means that this project is better.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import median

from rich.table import Table

from asr_ops.bench.report import LATENESS_MS_MAX, OTHERS_CORES_MAX
from asr_ops.bench.schedule import StartPattern

FINAL_MS_P95_MAX = {200: 60.0, 400: 120.0}
"""Goals for p95 of final latency in milliseconds, by number of sessions, if all sessions end at the same time."""
FRAME_MS = 100
MANY = 400
"""Number of sessions for the goals of CPU and memory: a process's fixed memory is negligible there."""
SESSION_KB_MAX = 100.0
PEER, OURS, RATIO = "sherpa-onnx", "asr-pool", "ratio"


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures of one server under one load."""

    served: int
    """Number of sessions with the complete expected text."""
    faults: Mapping[str, int]
    """Number of sessions by the reason why they were not served."""
    final_ms_p50: float
    final_ms_p95: float
    final_ms_p99: float
    cores: float
    """Cores used by all processes of the server."""
    session_kb: float
    """Growth of PSS in kilobytes per session."""
    lateness_ms_p99: float
    """Lateness of the load generator's frames in milliseconds."""
    others_cores: float
    """Cores kept busy by neither the server nor the generator."""


COMPARED = ("final_ms_p50", "final_ms_p95", "final_ms_p99", "cores", "session_kb")


@dataclass(frozen=True, slots=True)
class Pair:
    """The figures of both servers under the same load."""

    sessions: int
    start: StartPattern
    peer: Figures
    ours: Figures

    @property
    def served(self) -> bool:
        """Whether every session of both servers got its complete text."""
        return self.sessions == self.peer.served == self.ours.served

    @property
    def ratios(self) -> dict[str, float | None]:
        """Our figures divided by the peer's; None if the peer's figure is zero."""
        return {name: _ratio(getattr(self.ours, name), getattr(self.peer, name)) for name in COMPARED}


@dataclass(frozen=True, slots=True)
class Goal:
    """One goal. `figure` is None if the run did not measure it."""

    name: str
    limit: float | None
    figure: float | None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None if it was not measured."""
        return None if self.figure is None or self.limit is None else self.figure <= self.limit


def middle(rounds: Sequence[Figures]) -> Figures:
    """The median of each figure over the rounds, the smallest number of served sessions, and all faults."""
    names = (*COMPARED, "lateness_ms_p99", "others_cores")
    medians = {name: median(getattr(one, name) for one in rounds) for name in names}
    faults = sum((Counter(one.faults) for one in rounds), Counter())
    return Figures(served=min(one.served for one in rounds), faults=dict(faults), **medians)


def goals(pairs: Sequence[Pair], frame_ms: int) -> list[Goal]:
    """The goals, measured if all sessions begin together and all are served. Latency also needs frames of 100 ms."""
    together = {pair.sessions: pair for pair in pairs if pair.start == "together" and pair.served}
    found = []
    for sessions, limit in FINAL_MS_P95_MAX.items():
        timed = together.get(sessions) if frame_ms == FRAME_MS else None
        found.append(Goal(f"final p95 ms at {sessions} sessions", limit, timed.ours.final_ms_p95 if timed else None))
    many = together.get(MANY)
    return [
        *found,
        Goal(f"cores at {MANY} sessions", many.peer.cores if many else None, many.ours.cores if many else None),
        Goal(f"KB per session at {MANY} sessions", SESSION_KB_MAX, many.ours.session_kb if many else None),
    ]


def warnings(pairs: Sequence[Pair]) -> list[str]:
    """Reasons why figures may not describe the server."""
    found = []
    for pair in pairs:
        for name, figures in ((PEER, pair.peer), (OURS, pair.ours)):
            which = f"{name}, {pair.sessions} sessions, {pair.start}"
            if figures.served < pair.sessions:
                reasons = "".join(f"; {number} x {reason}" for reason, number in figures.faults.items())
                found.append(f"{which}: only {figures.served} were served{reasons}")
            if figures.lateness_ms_p99 > LATENESS_MS_MAX:
                found.append(f"{which}: frames left {figures.lateness_ms_p99:.0f} ms late (p99)")
            if figures.others_cores > OTHERS_CORES_MAX:
                found.append(f"{which}: others kept {figures.others_cores:.2f} cores busy")
    return found


def table(pairs: Sequence[Pair], start: StartPattern) -> Table:
    """A table with three rows for each number of sessions: the peer, this project and the ratios."""
    drawn = Table(title=f"sessions starting {start}", title_justify="left")
    drawn.add_column("sessions", justify="right")
    drawn.add_column("server")
    for name in ("final p50 ms", "p95", "p99", "cores", "KB per session"):
        drawn.add_column(name, justify="right")
    for pair in pairs:
        if pair.start == start:
            drawn.add_row(str(pair.sessions), PEER, *_row(pair.peer))
            drawn.add_row("", OURS, *_row(pair.ours))
            drawn.add_row("", RATIO, *(_shown(ratio) for ratio in pair.ratios.values()), end_section=True)
    return drawn


def sentence(goal: Goal) -> str:
    """The goal with its figure and limit, and whether it is met."""
    if goal.figure is None or goal.limit is None:
        return f"{goal.name}: not measured"
    return f"{goal.name}: {goal.figure:.4g}, at most {goal.limit:.4g}: {'met' if goal.met else 'missed'}"


def as_json(pairs: Sequence[Pair], frame_ms: int) -> dict[str, object]:
    """All figures as plain values for JSON."""
    return {
        "pairs": [{**asdict(pair), "ratios": pair.ratios} for pair in pairs],
        "goals": [{**asdict(goal), "met": goal.met} for goal in goals(pairs, frame_ms)],
        "warnings": warnings(pairs),
    }


def _row(figures: Figures) -> list[str]:
    latencies = (figures.final_ms_p50, figures.final_ms_p95, figures.final_ms_p99)
    return [*(f"{value:.0f}" for value in latencies), f"{figures.cores:.3f}", f"{figures.session_kb:.0f}"]


def _shown(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.2f}"


def _ratio(ours: float, peers: float) -> float | None:
    return ours / peers if peers > 0 else None
