"""Which decodes come next: pure, over plain values.

One rule: the smallest `urgency` wins. A speaker in real time who waits for a final comes first, then the partials that
are due, then audio that arrives faster than real time; being late makes everything but background partials urgent in
the end, so nothing that has to be said waits for ever. This module must not know models or audio.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LIVE_FINAL_LEAD_S = 10.0
"""A live final goes before everything that became due up to this much earlier."""
BACKGROUND_FINAL_DELAY_S = 2.0
"""A background final lets live partials go first for this long."""


@dataclass(frozen=True, slots=True)
class Decode:
    """A decode that could run now."""

    slot: int
    final: bool
    live: bool
    """Whether its audio arrives in real time, from someone who waits."""
    since_s: float
    """When it became due, on the step's clock."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """How many decodes run together."""

    size_max: int = 1
    wait_ms: float = 0.0
    """Longest time that a batch that is not full waits for more decodes, while audio keeps coming."""

    def __post_init__(self) -> None:
        assert self.size_max > 0 and self.wait_ms >= 0


def urgency(decode: Decode) -> tuple[bool, float]:
    """Sorts decodes; the smallest is the most urgent."""
    if decode.final:
        return False, decode.since_s + (-LIVE_FINAL_LEAD_S if decode.live else BACKGROUND_FINAL_DELAY_S)
    return not decode.live, decode.since_s


def _order(decode: Decode) -> tuple[tuple[bool, float], int]:
    return urgency(decode), decode.slot


def most_urgent(decodes: Iterable[Decode]) -> Decode | None:
    """The decode to run now; the lower slot of equals."""
    return min(decodes, key=_order, default=None)


def next_batch(decodes: Sequence[Decode], limits: BatchLimits, others: int, now: float) -> list[Decode]:
    """The decodes to run together now, the most urgent first; none while one of so many `others` may join in time.

    Others are open slots that have no decode yet; without any there is nothing to wait for.
    """
    first = most_urgent(decodes)
    if first is None:
        return []
    may_join = others > 0 and len(decodes) < limits.size_max
    if may_join and (now - first.since_s) * 1000 < limits.wait_ms:
        return []
    return sorted(decodes, key=_order)[: limits.size_max]
