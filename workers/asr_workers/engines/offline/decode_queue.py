"""Chooses the decodes that run next. Pure, over plain values.

The decode with the smallest `urgency` runs first. Finals of real-time sessions come first, then their partials, then
finals of audio that arrives faster than real time. A decode becomes more urgent while it waits, so every final runs in
the end; only partials of such background audio may wait for ever. This module must not know models or audio.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

LIVE_FINAL_LEAD_S = 10.0
"""A live final runs before all decodes that became due up to this many seconds before it."""
BACKGROUND_FINAL_DELAY_S = 2.0
"""A background final runs after live partials that become due within this many seconds after it."""


@dataclass(frozen=True, slots=True)
class Decode:
    """A decode that could run now."""

    slot: int
    final: bool
    """Whether it is for a final; else it is for a partial."""
    live: bool
    """Whether its audio arrives in real time. Other audio is called background."""
    since_s: float
    """The time at which it became due, in seconds on the step's clock."""


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of a batch of decodes."""

    size_max: int = 1
    """Most decodes in a batch."""
    wait_ms: float = 0.0
    """Longest time that a batch waits for more decodes while it is not full and audio arrives, in milliseconds."""

    def __post_init__(self) -> None:
        assert self.size_max > 0 and self.wait_ms >= 0


def urgency(decode: Decode) -> tuple[bool, float]:
    """Sort key of decodes: the smallest is the most urgent."""
    if decode.final:
        return False, decode.since_s + (-LIVE_FINAL_LEAD_S if decode.live else BACKGROUND_FINAL_DELAY_S)
    return not decode.live, decode.since_s


def _order(decode: Decode) -> tuple[tuple[bool, float], int]:
    return urgency(decode), decode.slot


def most_urgent(decodes: Iterable[Decode]) -> Decode | None:
    """The decode that runs next; of equally urgent ones that of the lowest slot. None without decodes."""
    return min(decodes, key=_order, default=None)


def next_batch(decodes: Sequence[Decode], limits: BatchLimits, others: int, now: float) -> list[Decode]:
    """The decodes that run together now, the most urgent first; none while the batch waits for more.

    `others` is the number of open slots that have no decode yet. Where it is 0, the batch does not wait.
    """
    first = most_urgent(decodes)
    if first is None:
        return []
    may_join = others > 0 and len(decodes) < limits.size_max
    if may_join and (now - first.since_s) * 1000 < limits.wait_ms:
        return []
    return sorted(decodes, key=_order)[: limits.size_max]
