"""How busy the worker was in its last heartbeat interval. Pure: times are arguments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asr_proto.audio import SAMPLE_RATE
from asr_proto.messages import Load

FADES = 0.8
"""Factor on the weight of all earlier steps at each heartbeat, so that the result follows the present cost."""
STEPS_MIN = 20
"""Smallest weight of steps from which a slope is computed."""
CORRELATION_MIN = 0.7
"""Smallest correlation of sizes and times at which the slope counts as a measurement."""


class ChunkCost:
    """The time that one more chunk adds to a step: the slope of the least-squares line of step times over step sizes.

    A step also has a fixed cost, which its chunks share. Only the cost that each chunk adds limits their number.
    """

    def __init__(self) -> None:
        self._sums = np.zeros(6)

    def add(self, chunks: int, elapsed_s: float) -> None:
        """Add one step: its number of chunks and its time in seconds."""
        x, y = float(chunks), elapsed_s
        self._sums += (1.0, x, y, x * x, x * y, y * y)

    def fade(self) -> None:
        """Reduce the weight of the steps so far."""
        self._sums *= FADES

    def seconds(self) -> float:
        """The slope in seconds per chunk. 0 while unknown: too few steps, equal sizes, or a weak correlation."""
        n, x, y, xx, xy, yy = self._sums
        if n < STEPS_MIN:
            return 0.0
        var_x, var_y, cov = xx - x * x / n, yy - y * y / n, xy - x * y / n
        if var_x < n / 100 or cov <= 0 or cov * cov < CORRELATION_MIN**2 * var_x * var_y:
            return 0.0
        return float(cov / var_x)


class LoadMeter:
    """Collects steps and sums them up for each heartbeat."""

    def __init__(self, now: float) -> None:
        self.steps_total = 0
        self.samples_total = 0
        self.step_s_total = 0.0
        self._since = now
        self._step_s: list[float] = []
        self._late_s: list[float] = []
        self._samples = 0
        self._chunk_cost = ChunkCost()

    def stepped(self, elapsed_s: float, samples: int, late_s: Sequence[float] = (), elective_s: float = 0.0) -> None:
        """Add one step, which took `elapsed_s` seconds and finished `samples` samples.

        `late_s`: for each chunk, seconds between its deadline and the start of the step. `elective_s`: the part of
        `elapsed_s` for work that the engine skips under load.
        """
        self.steps_total += 1
        self.samples_total += samples
        self.step_s_total += elapsed_s
        self._step_s.append(elapsed_s)
        self._late_s += late_s
        self._samples += samples
        if late_s:
            self._chunk_cost.add(len(late_s), elapsed_s - elective_s)

    def sum_up(self, pending_chunks: int, now: float) -> Load:
        """The load since the last call."""
        interval_s, busy_s = max(now - self._since, 1e-3), sum(self._step_s)
        p50, p99 = np.percentile(self._step_s, [50, 99]) * 1000 if self._step_s else (0.0, 0.0)
        late_s = max(0.0, float(np.percentile(self._late_s, 95))) if self._late_s else 0.0
        audio_s = self._samples / SAMPLE_RATE
        self._since, self._step_s, self._late_s, self._samples = now, [], [], 0
        load = Load(
            steps=self.steps_total,
            pending_chunks=pending_chunks,
            step_ms_p50=round(float(p50), 3),
            step_ms_p99=round(float(p99), 3),
            busy=round(min(1.0, busy_s / interval_s), 4),
            real_time_factor=round(busy_s / audio_s, 4) if audio_s else 0.0,
            chunk_ms=round(self._chunk_cost.seconds() * 1000, 4),
            late_ms_p95=round(late_s * 1000, 1),
        )
        self._chunk_cost.fade()
        return load
