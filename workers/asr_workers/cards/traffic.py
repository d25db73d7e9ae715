"""Chunks on their way through a card: each comes back once, in order and in time, or the card is out of order.

A card says that something is wrong in many ways: a status, a completion too few or too many, silence. All of them end
here, in one error. Nothing is tried again, for who knows what state the slots are in; but a full queue has taken
nothing, and is given time.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from asr_workers.cards.errors import CardError, CardStatus, status_name
from asr_workers.cards.failure import CardFailed
from asr_workers.cards.library import Completions

HANG_S = 1.0
"""Longest time that a chunk may take: many times what it does."""
POLL_S = 0.05
STALL_S = 0.1
"""Longest time between two polls that counts: while this process stood still itself, the card is not to blame."""

Decoded = tuple[list[int], list[float]]
"""Tokens and their log-probabilities."""
Owner = TypeVar("Owner")
NOTHING: Decoded = ([], [])


class TrafficCard(Protocol):
    """What is needed of library.Card."""

    def submit_arrays(self, slots: NDArray[np.integer], tags: NDArray[np.integer], pcm: NDArray[np.int16]) -> None: ...

    def poll_arrays(self, timeout_ms: int) -> Completions: ...


class Traffic(Generic[Owner]):
    """Of one card, whose model has `tokens_max` tokens. An owner is whatever a chunk's result is given back with."""

    def __init__(self, card: TrafficCard, name: str, tokens_max: int, hang_s: float = HANG_S) -> None:
        self._card, self._name, self._tokens_max = card, name, tokens_max
        self.hang_s = hang_s
        self._tag = 0
        self._given: dict[int, tuple[Owner, int, int]] = {}
        """Owner, slot and step, by tag; the oldest first."""
        self._back: list[tuple[Owner, Decoded]] = []
        """Polled to make room for a submit."""
        self._oldest = -1
        self._waited_s = 0.0
        """For the oldest."""
        self._polled_at = 0.0

    def __len__(self) -> int:
        """Chunks on their way, and those that `poll` has not given back yet."""
        return len(self._given) + len(self._back)

    def submit(
        self, owners: Sequence[Owner], slots: Sequence[int], steps: Sequence[int], pcm: NDArray[np.int16]
    ) -> None:
        """Give the card n chunks, int16 [n, 960], of these slots; each is its slot's chunk number `step`."""
        first, self._tag = self._tag, self._tag + len(slots)
        tags = np.arange(first, self._tag, dtype=np.uint64)
        while not self._taken(np.array(slots, np.uint32), tags, pcm):
            back, self._back = self._back, []
            self._back = back + self.poll(POLL_S)
        self._given.update(zip(tags.tolist(), zip(owners, slots, steps, strict=True), strict=True))

    def _taken(self, slots: NDArray[np.uint32], tags: NDArray[np.uint64], pcm: NDArray[np.int16]) -> bool:
        """False while the card's queue is full of what it still has to complete."""
        try:
            self._card.submit_arrays(slots, tags, pcm)
        except CardError as error:
            if error.code == CardStatus.FULL and self._given:
                return False
            raise CardFailed(f"{self._name} failed: {error}") from error
        return True

    def poll(self, wait_s: float) -> list[tuple[Owner, Decoded]]:
        """What has come back; waits so long for the first. Raises CardFailed."""
        decoded, self._back = self._back, []
        try:
            completions = self._card.poll_arrays(0 if decoded else max(int(wait_s * 1000), 0))
        except CardError as error:
            raise CardFailed(f"{self._name} failed: {error}") from error
        if not len(completions):
            self._check_age()
            return decoded
        self._check(completions)
        tags, slots, steps = (array.tolist() for array in (completions.tags, completions.slots, completions.steps))
        ends = completions.token_offsets.tolist()
        tokens, log_probs = completions.tokens.tolist(), completions.log_probs.tolist()
        for tag, slot, step, start, end in zip(tags, slots, steps, ends[:-1], ends[1:], strict=True):
            given = self._given.pop(tag, None)
            if given is None or given[1] != slot:
                raise CardFailed(f"{self._name} failed: it completed another chunk than it was given")
            if given[2] != step:
                raise CardFailed(f"{self._name} failed: it lost count of the steps of its slots")
            decoded.append((given[0], (tokens[start:end], log_probs[start:end]) if end > start else NOTHING))
        self._check_age()
        return decoded

    def all(self) -> list[tuple[Owner, Decoded]]:
        """Wait until everything has come back."""
        decoded = []
        while self:
            decoded += self.poll(POLL_S)
        return decoded

    def _check(self, completions: Completions) -> None:
        bad = completions.status[completions.status != 0]
        if len(bad):
            raise CardFailed(f"{self._name} failed: {len(bad)} chunks ended with {status_name(int(bad[0]))}")
        if len(completions.tokens) and int(completions.tokens.max()) >= self._tokens_max:
            raise CardFailed(f"{self._name} failed: it decoded a token that the model has not")

    def _check_age(self) -> None:
        now, before = time.monotonic(), self._polled_at
        self._polled_at = now
        if not self._given:
            return
        oldest, (_, slot, _) = next(iter(self._given.items()))
        if oldest != self._oldest:
            self._oldest, self._waited_s = oldest, 0.0
            return
        self._waited_s += min(now - before, STALL_S)
        if self._waited_s >= self.hang_s:
            raise CardFailed(f"{self._name} hangs: a chunk of slot {slot} was not completed within {self.hang_s:g} s")
