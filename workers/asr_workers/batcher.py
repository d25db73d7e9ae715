"""Which slots take part in the next step: the ones whose next chunk is complete, earliest deadline first.

A chunk is due when a speaker in real time would have finished saying it: one chunk length after the one before, and
not before it arrived. Audio that comes faster than real time is thereby due in the future, and so is background: live
speakers go first, whatever is uploaded beside them. State is kept as arrays over slots.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

NEVER = -np.inf
PACE = 0.9
"""A speaker in real time wins back a tenth: a burst after a stall or a move is background for a while, not for ever."""


class Batcher:
    """`slots` places, at most `batch_max` of them in one step. Times are seconds on one monotonic clock."""

    def __init__(self, slots: int, batch_max: int | None = None) -> None:
        assert slots > 0
        self._pace_s: NDArray[np.float64] = np.zeros(slots)
        self._batch_max = batch_max or slots
        self._ready: NDArray[np.bool_] = np.zeros(slots, dtype=np.bool_)
        self._due: NDArray[np.float64] = np.full(slots, NEVER)

    def open(self, slot: int, chunk_s: float) -> None:
        """A fresh session took this slot; its chunks last so long."""
        assert chunk_s > 0
        self.close(slot)
        self._pace_s[slot] = PACE * chunk_s

    def close(self, slot: int) -> None:
        """The slot is free."""
        self._ready[slot] = False
        self._due[slot] = NEVER

    def submit(self, slot: int, now: float) -> None:
        """The slot's next chunk is complete. Idempotent until it is picked."""
        if not self._ready[slot]:
            self._ready[slot] = True
            self._due[slot] = max(self._due[slot] + self._pace_s[slot], now)

    def resubmit(self, slot: int) -> None:
        """One more chunk was complete already when the last one was picked. Idempotent like `submit`."""
        if not self._ready[slot]:
            self._ready[slot] = True
            self._due[slot] += self._pace_s[slot]

    def due(self, slot: int) -> float:
        """Deadline of the slot's next or last picked chunk."""
        return float(self._due[slot])

    def pick(self, blocked: Collection[int] = ()) -> list[int]:
        """The slots of the next step in order of their deadlines; they count as taken."""
        ready = np.flatnonzero(self._ready)
        if blocked:
            ready = ready[~np.isin(ready, list(blocked))]
        order = ready[np.argsort(self._due[ready], kind="stable")][: self._batch_max]
        self._ready[order] = False
        return [int(slot) for slot in order]

    def waiting(self) -> int:
        """How many slots have a complete chunk."""
        return int(self._ready.sum())
