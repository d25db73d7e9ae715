"""Compares one figure of two runs: the same, better or worse, and by how much. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["same", "better", "worse"]

TOLERANCE = 0.15
"""Relative difference below which two figures count as the same."""
RESOLUTION_MS = 1.0
"""Difference in ms below which latencies count as the same: the load generator's timers have a resolution of 1 ms."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One figure of two runs."""

    name: str
    before: float
    after: float

    @property
    def share(self) -> float:
        """The change as a share of the value before; infinite if that was zero."""
        if self.before == self.after:
            return 0.0
        change = self.after - self.before
        return change / abs(self.before) if self.before else math.copysign(math.inf, change)

    @property
    def measurable(self) -> bool:
        """Whether the change is at least the clock's resolution."""
        return "_ms" not in self.name or abs(self.after - self.before) >= RESOLUTION_MS

    def verdict(self, tolerance: float = TOLERANCE, *, more_is_better: bool = False) -> Verdict:
        """Whether the figure is the same, better or worse. By default, less is better."""
        if not self.measurable or abs(self.share) < tolerance or not self.share:
            return "same"
        return "better" if (self.share > 0) == more_is_better else "worse"


def widest(before: Mapping[str, float], after: Mapping[str, float]) -> Difference | None:
    """The largest relative difference of the figures that both have; None without common figures.

    Differences below the clock's resolution count only if all are below it.
    """
    common = [Difference(name, before[name], after[name]) for name in before if name in after]
    return max(common, key=lambda one: (one.measurable, abs(one.share)), default=None)
