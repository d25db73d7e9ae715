"""From numbers to places on an axis, and where its marks are. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MARKS_MAX = 7
LATENCY_MS_MIN = 0.1
"""Where a logarithmic axis begins at the earliest."""


@dataclass(frozen=True, slots=True)
class Axis:
    """From numbers to places between 0 and 1."""

    title: str
    low: float
    high: float
    marks: Sequence[float]
    log: bool = False

    def place(self, value: float) -> float:
        """What lies outside is drawn at the edge."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            return math.log(at / low) / math.log(high / low)
        return (at - low) / (high - low)


def linear(title: str, highest: float) -> Axis:
    """From zero to at least there."""
    step = round_up(max(highest, 1) / MARKS_MAX)
    count = max(1, math.ceil(highest / step))
    return Axis(title, 0.0, count * step, [step * number for number in range(count + 1)])


def logarithmic(title: str, values: Iterable[float]) -> Axis:
    """Around positive values, with marks at 1, 2 and 5 of each power of ten, or at the powers alone."""
    ranked = sorted(max(value, LATENCY_MS_MIN) for value in values)
    first, last = math.floor(math.log10(ranked[0])), math.ceil(math.log10(ranked[-1] * 1.01))
    marks = [factor * 10.0**power for power in range(first - 1, last + 1) for factor in (1, 2, 5)]
    low = max(mark for mark in marks if mark <= ranked[0])
    high = min(mark for mark in marks if mark > ranked[-1])
    within = [mark for mark in marks if low <= mark <= high]
    sparse = [mark for mark in within if math.log10(mark).is_integer()] if len(within) > 2 * MARKS_MAX else within
    return Axis(title, low, high, sparse, log=True)


def round_up(step: float) -> float:
    """The next of ..., 0.5, 1, 2, 5, 10, ..."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)
