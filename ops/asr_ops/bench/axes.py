"""Axes of charts: map values to places on an axis, and choose its marks. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

MARKS_MAX = 7
LATENCY_MS_MIN = 0.1
"""The lowest value on a logarithmic axis, in milliseconds."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Maps values from `low` to `high` to places from 0 to 1."""

    title: str
    low: float
    high: float
    marks: Sequence[float]
    log: bool = False

    def place(self, value: float) -> float:
        """The place of a value. A value outside the axis is placed at its end."""
        low, high, at = self.low, self.high, min(max(value, self.low), self.high)
        if self.log:
            return math.log(at / low) / math.log(high / low)
        return (at - low) / (high - low)


def linear(title: str, highest: float) -> Axis:
    """An axis from zero to at least `highest`."""
    step = round_up(max(highest, 1) / MARKS_MAX)
    count = max(1, math.ceil(highest / step))
    return Axis(title, 0.0, count * step, [step * number for number in range(count + 1)])


def logarithmic(title: str, values: Iterable[float]) -> Axis:
    """A logarithmic axis around positive values, with marks at 1, 2 and 5 times each power of ten.

    If these are too many, only the powers are marked.
    """
    ranked = sorted(max(value, LATENCY_MS_MIN) for value in values)
    first, last = math.floor(math.log10(ranked[0])), math.ceil(math.log10(ranked[-1] * 1.01))
    marks = [factor * 10.0**power for power in range(first - 1, last + 1) for factor in (1, 2, 5)]
    low = max(mark for mark in marks if mark <= ranked[0])
    high = min(mark for mark in marks if mark > ranked[-1])
    within = [mark for mark in marks if low <= mark <= high]
    sparse = [mark for mark in within if math.log10(mark).is_integer()] if len(within) > 2 * MARKS_MAX else within
    return Axis(title, low, high, sparse, log=True)


def round_up(step: float) -> float:
    """The smallest of ..., 0.5, 1, 2, 5, 10, ... that is not below `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)
