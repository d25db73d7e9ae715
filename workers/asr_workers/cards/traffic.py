"""Chunks in flight on a card: each must complete once, in order and in time, or the card has failed.

A card's faults appear in many ways: an error status, a missing or extra completion, or no answer. All of them raise
CardFailed here. Nothing is retried, because the slots' states are then unknown. Only a full queue is no fault: the
card has accepted no chunk, so the submit waits and tries again.
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
"""Longest time of a chunk on the card, in seconds: many times the usual time."""
POLL_S = 0.05
STALL_S = 0.1
"""Longest time between two polls that counts, in seconds: a pause of this process must not look like a card's hang."""

Decoded = tuple[list[int], list[float]]
"""Tokens and their log-probabilities (natural logarithm)."""
Owner = TypeVar("Owner")
NOTHING: Decoded = ([], [])


class TrafficCard(Protocol):
    """The methods of library.Card that Traffic uses."""

    def submit_arrays(self, slots: NDArray[np.integer], tags: NDArray[np.integer], pcm: NDArray[np.int16]) -> None: ...

    def poll_arrays(self, timeout_ms: int) -> Completions: ...


class Traffic(Generic[Owner]):
    """The chunks in flight on one card, whose model has `tokens_max` tokens.

    `submit` takes an owner for each chunk; `poll` returns it with the chunk's result.
    """

    def __init__(self, card: TrafficCard, name: str, tokens_max: int, hang_s: float = HANG_S) -> None:
        self._card, self._name, self._tokens_max = card, name, tokens_max
        self.hang_s = hang_s
        self._tag = 0
        self._given: dict[int, tuple[Owner, int, int]] = {}
        """Owner, slot and step of each chunk in flight, by tag; the oldest first."""
        self._back: list[tuple[Owner, Decoded]] = []
        """Results that `submit` polled to make room and `poll` has not returned yet."""
        self._oldest = -1
        """Tag of the oldest chunk in flight at the last poll."""
        self._waited_s = 0.0
        """How long that chunk has been the oldest, in seconds."""
        self._polled_at = 0.0

    def __len__(self) -> int:
        """Number of chunks whose result `poll` has not returned yet."""
        return len(self._given) + len(self._back)

    def submit(
        self, owners: Sequence[Owner], slots: Sequence[int], steps: Sequence[int], pcm: NDArray[np.int16]
    ) -> None:
        """Submit n chunks, int16 [n, 960], for `slots` [n]; `steps` [n] are their numbers within their slots.

        Waits while the card's queue is full. Raises CardFailed.
        """
        first, self._tag = self._tag, self._tag + len(slots)
        tags = np.arange(first, self._tag, dtype=np.uint64)
        while not self._taken(np.array(slots, np.uint32), tags, pcm):
            back, self._back = self._back, []
            self._back = back + self.poll(POLL_S)
        self._given.update(zip(tags.tolist(), zip(owners, slots, steps, strict=True), strict=True))

    def _taken(self, slots: NDArray[np.uint32], tags: NDArray[np.uint64], pcm: NDArray[np.int16]) -> bool:
        """Submit to the card; False if its queue is full. Raises CardFailed."""
        try:
            self._card.submit_arrays(slots, tags, pcm)
        except CardError as error:
            if error.code == CardStatus.FULL and self._given:
                return False
            raise CardFailed(f"{self._name} failed: {error}") from error
        return True

    def poll(self, wait_s: float) -> list[tuple[Owner, Decoded]]:
        """Owners and results of completed chunks; waits up to `wait_s` seconds for the first. Raises CardFailed."""
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
        """Wait until all chunks are complete, and return their results. Raises CardFailed."""
        decoded = []
        while self:
            decoded += self.poll(POLL_S)
        return decoded

    def _check(self, completions: Completions) -> None:
        bad = completions.status[completions.status != 0]
        if len(bad):
            raise CardFailed(f"{self._name} failed: {len(bad)} chunks ended with {status_name(int(bad[0]))}")
        if len(completions.tokens) and int(completions.tokens.max()) >= self._tokens_max:
            raise CardFailed(f"{self._name} failed: it decoded a token that is not in the model")

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
