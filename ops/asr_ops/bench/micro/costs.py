"""Measures the cost of a part: CPU time per unit over several rounds, and the cores it takes for 1,000 sessions."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median

FRAME_MS = 20
FRAMES_PER_S = 1000 / FRAME_MS
FRAME_SAMPLES = 16 * FRAME_MS
CHUNK_SAMPLES = 960
"""Samples in a chunk of the fake engine and of most engines: three frames."""
CHUNKS_PER_S = 16_000 / CHUNK_SAMPLES
PARTIALS_PER_S = 4.0
"""Partials a second of the fake engine."""

ROUND_S = 0.01
"""Seconds of a round: short enough to be mostly undisturbed, and long enough for the clock's resolution."""
ROUNDS = 15


@dataclass(frozen=True, slots=True)
class Cost:
    """Microseconds of CPU time for one unit of work. A session has `per_s` units a second."""

    what: str
    us: float
    best_us: float
    per_s: float

    @property
    def cores(self) -> float:
        """Cores for 1,000 sessions."""
        return self.us * self.per_s / 1000


@dataclass(slots=True)
class Laps:
    """CPU seconds per unit of several parts that run in turn, because each needs the state that the one before left."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def lap(self, what: str, units: int, work: Callable[[], object]) -> None:
        """Run one part of a round, `units` units of work, and record its CPU time."""
        began = time.thread_time()
        work()
        self.seconds.setdefault(what, []).append((time.thread_time() - began) / units)

    def cost(self, what: str, per_s: float) -> Cost:
        """The cost over all rounds except the first, which is a warm-up."""
        rounds = self.seconds[what][1:]
        return Cost(what, median(rounds) * 1e6, min(rounds) * 1e6, per_s)


def measure(what: str, work: Callable[[], object], units: int, per_s: float) -> Cost:
    """The cost of one unit, if each call of `work` does `units` units."""
    laps, calls = Laps(), _calls(work)

    def again() -> None:
        for _ in range(calls):
            work()

    for _ in range(ROUNDS + 1):
        laps.lap(what, units * calls, again)
    return laps.cost(what, per_s)


def _calls(work: Callable[[], object]) -> int:
    """The number of calls that fill a round."""
    began = time.thread_time()
    work()
    return max(1, round(ROUND_S / max(time.thread_time() - began, 1e-7)))
