"""Which decode comes next: pure, over plain values.

One rule: the smallest `urgency` wins. A speaker in real time who waits for a final comes first, then the partials that
are due, then audio that arrives faster than real time; being late makes everything but background partials urgent in
the end, so nothing that has to be said waits for ever. This module must not know models or audio.
"""

from __future__ import annotations

from collections.abc import Iterable
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


def urgency(decode: Decode) -> tuple[bool, float]:
    """Sorts decodes; the smallest is the most urgent."""
    if decode.final:
        return False, decode.since_s + (-LIVE_FINAL_LEAD_S if decode.live else BACKGROUND_FINAL_DELAY_S)
    return not decode.live, decode.since_s


def most_urgent(decodes: Iterable[Decode]) -> Decode | None:
    """The decode to run now; the lower slot of equals."""
    return min(decodes, key=lambda decode: (urgency(decode), decode.slot), default=None)
