"""When two figures of two runs are the same, and how far two runs of the same are apart. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["same", "better", "worse"]

TOLERANCE = 0.15
"""Runs of the same that differ by less are the same."""
RESOLUTION_MS = 1.0
"""Latencies that differ by less are the same: the load generator's timers count milliseconds."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of two runs."""

    name: str
    before: float
    after: float

    @property
    def share(self) -> float:
        """Of the value before; infinite where that was nothing."""
        if self.before == self.after:
            return 0.0
        change = self.after - self.before
        return change / abs(self.before) if self.before else math.copysign(math.inf, change)

    @property
    def measurable(self) -> bool:
        """Whether it is more than the clock's grain."""
        return "_ms" not in self.name or abs(self.after - self.before) >= RESOLUTION_MS

    def verdict(self, tolerance: float = TOLERANCE, *, more_is_better: bool = False) -> Verdict:
        """What it means for whoever waits or pays."""
        if not self.measurable or abs(self.share) < tolerance or not self.share:
            return "same"
        return "better" if (self.share > 0) == more_is_better else "worse"


def widest(before: Mapping[str, float], after: Mapping[str, float]) -> Difference | None:
    """The figure that differs most among those that both have; one below the clock's grain only if all are."""
    common = [Difference(name, before[name], after[name]) for name in before if name in after]
    return max(common, key=lambda one: (one.measurable, abs(one.share)), default=None)
