"""Which slots take part in the next step: those whose next chunk is complete, earliest deadline first.

The order is that of EDF (Liu and Layland 1973, "Scheduling Algorithms for Multiprogramming in a Hard-Real-Time
Environment", section 7), without preemption. A chunk's deadline is the time at which a live speaker would have finished
it: one chunk length after the deadline of the chunk before, and not before it arrived. Audio that arrives faster than
real time gets later and later deadlines, so live speakers go before uploads. State is kept as arrays over slots.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

NEVER = -np.inf
PACE = 0.9
"""Distance between two deadlines, as a share of the chunk's length. After a stall or a move, a burst of audio has late
deadlines. Each chunk of a live speaker then makes up a tenth of its length."""


class Batcher:
    """The chunks of `slots` slots. One step takes at most `batch_max`. Times are seconds on one monotonic clock."""

    def __init__(self, slots: int, batch_max: int | None = None) -> None:
        assert slots > 0
        self._pace_s: NDArray[np.float64] = np.zeros(slots)
        self._batch_max = batch_max or slots
        self._ready: NDArray[np.bool_] = np.zeros(slots, dtype=np.bool_)
        self._due: NDArray[np.float64] = np.full(slots, NEVER)

    def open(self, slot: int, chunk_s: float) -> None:
        """A new session has this slot; each of its chunks lasts `chunk_s` seconds."""
        assert chunk_s > 0
        self.close(slot)
        self._pace_s[slot] = PACE * chunk_s

    def close(self, slot: int) -> None:
        """The slot is free."""
        self._ready[slot] = False
        self._due[slot] = NEVER

    def submit(self, slot: int, now: float) -> None:
        """The slot's next chunk is complete. A repeated call has no effect until the chunk is picked."""
        if not self._ready[slot]:
            self._ready[slot] = True
            self._due[slot] = max(self._due[slot] + self._pace_s[slot], now)

    def resubmit(self, slot: int) -> None:
        """The slot's next chunk was already complete when the last one was picked. Repeated calls have no effect."""
        if not self._ready[slot]:
            self._ready[slot] = True
            self._due[slot] += self._pace_s[slot]

    def due(self, slot: int) -> float:
        """Deadline of the slot's complete chunk; without one, that of the chunk picked last."""
        return float(self._due[slot])

    def pick(self, blocked: Collection[int] = ()) -> list[int]:
        """The slots of the next step in order of their deadlines, without those in `blocked`.

        A picked slot takes part again after the next `submit` or `resubmit`.
        """
        ready = np.flatnonzero(self._ready)
        if blocked:
            ready = ready[~np.isin(ready, list(blocked))]
        order = ready[np.argsort(self._due[ready], kind="stable")][: self._batch_max]
        self._ready[order] = False
        return list(order.tolist())

    def first(self, slots: Collection[int]) -> int | None:
        """The one of these slots whose complete chunk is due first; None when none of them has a complete chunk."""
        return min((slot for slot in slots if self._ready[slot]), key=self.due, default=None)

    def picked(self, slot: int) -> None:
        """This slot alone is picked."""
        self._ready[slot] = False

    def waiting(self) -> int:
        """Number of slots that have a complete chunk."""
        return int(self._ready.sum())
