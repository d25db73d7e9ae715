"""Assigns card slots to the segments of sessions, and decides which audio each gets next. Pure.

A session always has a card slot for its first segment, the one whose tokens count. In an overlap its later segment
takes a second card slot, if one is free beyond those reserved for first segments. If none is free, the later segment
keeps its audio. At the seam it takes over the card slot of the segment before it, and the session waits until it has
caught up. This delays text, but does not change it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from asr_proto.audio import Pcm16
from asr_workers.engines.card.resets import ResetRule
from asr_workers.engines.card.stream import STEP_SAMPLES, CardStream

CHUNKS_IN_CARD_MAX = 4
"""Most chunks of a segment that the card has at the same time. A card takes at least 8 of a slot."""


class CardSlots:
    """The card's `total` slots. `sessions` of them are reserved for first segments; overlaps share the rest."""

    def __init__(self, total: int, sessions: int) -> None:
        assert total >= sessions
        self._free = list(range(total - 1, -1, -1))
        self.spare = total - sessions
        """Number of free card slots that overlaps may take."""

    def take(self) -> int | None:
        """A card slot for a session's first segment; None while closed sessions still hold theirs."""
        return self._free.pop() if self._free else None

    def take_spare(self) -> int | None:
        """A card slot for an overlap; None while none is free."""
        if not self.spare or not self._free:
            return None
        self.spare -= 1
        return self._free.pop()

    def give(self, card_slot: int) -> None:
        """Free the card slot of a session's first segment."""
        self._free.append(card_slot)

    def give_spare(self, card_slot: int) -> None:
        """Free the card slot of an overlap."""
        self.spare += 1
        self._free.append(card_slot)


@dataclass(slots=True)
class CardSegment:
    """One segment of a session."""

    number: int
    first_step: int
    """The step of the run at which it began. The card counts steps from there."""
    step: int
    """The next step that the card returns, counted in the run."""
    card_slot: int | None
    """None while the segment waits for a card slot."""
    given: int = 0
    """Number of chunks that the card has not returned yet."""
    backlog: deque[Pcm16] = field(default_factory=deque)
    """Chunks, int16 [960], that were not submitted to the card yet."""


class CardSession:
    """A session's stream and its one or two segments. The tokens of the first count; the second overlaps it."""

    __slots__ = ("_rule", "_steps", "end_sample", "flushing", "segments", "slot", "stream")

    def __init__(self, slot: int, stream: CardStream, rule: ResetRule | None, card_slot: int, sample: int) -> None:
        """`stream` begins or continues at this sample of the session."""
        self.slot, self.stream, self._rule = slot, stream, rule
        self.end_sample = sample
        """The sample after the last one taken."""
        self.flushing = False
        """Whether the utterance ends with the last sample taken."""
        self._steps = stream.step
        first = rule.start(stream.segment) if rule else 0
        self.segments = [CardSegment(stream.segment, first, stream.step, card_slot)]

    def take(self, pcm: Pcm16) -> None:
        """Take the next chunk, int16 [960]. A shorter one, before a flush, is filled up with zeros."""
        self.end_sample += len(pcm)
        if len(pcm) < STEP_SAMPLES:
            pcm = np.concatenate([pcm, np.zeros(STEP_SAMPLES - len(pcm), np.int16)])
        for segment in self.segments:
            segment.backlog.append(pcm)
        self._steps += 1
        last = self.segments[-1].number
        if self._rule and self._steps == self._rule.start(last + 1):
            self.segments.append(CardSegment(last + 1, self._steps, self._steps, None))
        assert len(self.segments) <= 2

    def has_chunks_in_card(self) -> bool:
        """Whether the card still has chunks of this session. Until it returns them, the card slots cannot be wiped."""
        return any(segment.given for segment in self.segments)

    def turn(self) -> CardSegment:
        """Remove the first segment, after the stream continued with the next one. Returns the removed segment."""
        over = self.segments.pop(0)
        assert not over.backlog and not over.given
        self.stream.lag(self.segments[0].step)
        return over

    def restart(self) -> None:
        """Start a new run after a flush, with the first segment's card slot, which was reset."""
        self._steps = 0
        self.flushing = False
        self.segments = [CardSegment(0, 0, 0, self.segments[0].card_slot)]
