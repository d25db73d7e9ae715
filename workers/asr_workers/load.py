"""How busy the worker was over its last heartbeat interval. Pure: times are handed in."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asr_proto.audio import SAMPLE_RATE
from asr_proto.messages import Load


class LoadMeter:
    """Collects steps and sums them up for each heartbeat."""

    def __init__(self, now: float) -> None:
        self.steps_total = 0
        self.samples_total = 0
        self.step_s_total = 0.0
        self._since = now
        self._step_s: list[float] = []
        self._late_s: list[float] = []
        self._elective_s = 0.0
        self._samples = 0

    def stepped(self, elapsed_s: float, samples: int, late_s: Sequence[float] = (), elective_s: float = 0.0) -> None:
        """One step took `elapsed_s` seconds and consumed `samples`; its chunks went in `late_s` after they were due.

        `elective_s` of it went into what the engine leaves out when there is too much to do.
        """
        self.steps_total += 1
        self.samples_total += samples
        self.step_s_total += elapsed_s
        self._step_s.append(elapsed_s)
        self._late_s += late_s
        self._elective_s += elective_s
        self._samples += samples

    def sum_up(self, pending_chunks: int, now: float) -> Load:
        """The load since the last call."""
        interval_s, busy_s = max(now - self._since, 1e-3), sum(self._step_s)
        p50, p99 = np.percentile(self._step_s, [50, 99]) * 1000 if self._step_s else (0.0, 0.0)
        late_s = max(0.0, float(np.percentile(self._late_s, 95))) if self._late_s else 0.0
        audio_s, required_s = self._samples / SAMPLE_RATE, busy_s - self._elective_s
        self._since, self._step_s, self._late_s, self._elective_s, self._samples = now, [], [], 0.0, 0
        return Load(
            steps=self.steps_total,
            pending_chunks=pending_chunks,
            step_ms_p50=round(float(p50), 3),
            step_ms_p99=round(float(p99), 3),
            busy=round(min(1.0, busy_s / interval_s), 4),
            real_time_factor=round(busy_s / audio_s, 4) if audio_s else 0.0,
            required_factor=round(required_s / audio_s, 4) if audio_s else 0.0,
            late_ms_p95=round(late_s * 1000, 1),
        )
