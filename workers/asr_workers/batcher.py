"""Which slots take part in the next step: those whose next chunk is complete, earliest deadline first (EDF).

A chunk's deadline is the moment at which a speaker in real time has finished it: one chunk length after the deadline of
the chunk before, and not before it arrived. Audio that arrives faster than real time has later and later deadlines.
Live speakers thereby go before uploads. State is kept as arrays over slots.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

NEVER = -np.inf
PACE = 0.9
"""Deadlines are this part of a chunk's length apart. A burst after a stall or a move has late deadlines; a speaker in
real time makes up a tenth of that delay with each chunk."""


class Batcher:
    """`slots` places, at most `batch_max` of them in one step. Times are seconds on one monotonic clock."""

    def __init__(self, slots: int, batch_max: int | None = None) -> None:
        assert slots > 0
        self._pace_s: NDArray[np.float64] = np.zeros(slots)
        self._batch_max = batch_max or slots
        self._ready: NDArray[np.bool_] = np.zeros(slots, dtype=np.bool_)
        self._due: NDArray[np.float64] = np.full(slots, NEVER)

    def open(self, slot: int, chunk_s: float) -> None:
        """A new session holds this slot; each of its chunks lasts `chunk_s` seconds."""
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
        """The slot's next chunk was complete already when the last one was picked. Idempotent until it is picked."""
        if not self._ready[slot]:
            self._ready[slot] = True
            self._due[slot] += self._pace_s[slot]

    def due(self, slot: int) -> float:
        """Deadline of the slot's next or last picked chunk."""
        return float(self._due[slot])

    def pick(self, blocked: Collection[int] = ()) -> list[int]:
        """The slots of the next step in order of their deadlines. They are ready again after the next `submit`."""
        ready = np.flatnonzero(self._ready)
        if blocked:
            ready = ready[~np.isin(ready, list(blocked))]
        order = ready[np.argsort(self._due[ready], kind="stable")][: self._batch_max]
        self._ready[order] = False
        return list(order.tolist())

    def waiting(self) -> int:
        """How many slots have a complete chunk."""
        return int(self._ready.sum())
