"""The segments of sessions and the card slots that they run in: which audio goes where next. Pure.

A session always has a card slot for the segment that is heard. In an overlap it takes a second one, while there is one
that no session could need for its first. Without, the later segment keeps its audio until there is one; at its seam it
takes over the card slot of the segment before, and the session waits until it has caught up. That changes when text
comes, never which.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from asr_proto.audio import Pcm16
from asr_workers.engines.card.resets import ResetRule
from asr_workers.engines.card.stream import STEP_SAMPLES, CardStream

CHUNKS_ON_THEIR_WAY_MAX = 4
"""Of a segment that catches up; a card takes at least 8 of a slot."""


class CardSlots:
    """`sessions` of the card's `total` slots are promised to segments that are heard; overlaps share the others."""

    def __init__(self, total: int, sessions: int) -> None:
        assert total >= sessions
        self._free = list(range(total - 1, -1, -1))
        self.spare = total - sessions
        """How many overlaps may take."""

    def take(self) -> int | None:
        """For a session's first segment; None while sessions that are gone still hold theirs."""
        return self._free.pop() if self._free else None

    def take_spare(self) -> int | None:
        """For an overlap; None while there is none."""
        if not self.spare or not self._free:
            return None
        self.spare -= 1
        return self._free.pop()

    def give(self, card_slot: int) -> None:
        """Free again, of a session's first segment."""
        self._free.append(card_slot)

    def give_spare(self, card_slot: int) -> None:
        """Free again, of an overlap."""
        self.spare += 1
        self._free.append(card_slot)


@dataclass(slots=True)
class CardSegment:
    """One segment of a session."""

    number: int
    first_step: int
    """Where in the run it began, which is what the card counts from."""
    step: int
    """The next one that comes back, in the run's count."""
    card_slot: int | None
    given: int = 0
    """Chunks on their way."""
    backlog: deque[Pcm16] = field(default_factory=deque)
    """Chunks int16 [960] that the card has not got yet."""


class CardSpeaker:
    """A session: its stream and its segments in their order. The first is heard, a second one overlaps it."""

    __slots__ = ("_rule", "_steps", "end_sample", "flushing", "segments", "slot", "stream")

    def __init__(self, slot: int, stream: CardStream, rule: ResetRule | None, card_slot: int, sample: int) -> None:
        """`stream` is where it shall begin or continue: at this sample of the session."""
        self.slot, self.stream, self._rule = slot, stream, rule
        self.end_sample = sample
        """Behind the last sample taken."""
        self.flushing = False
        """The utterance ends with what was taken."""
        self._steps = stream.step
        first = rule.start(stream.segment) if rule else 0
        self.segments = [CardSegment(stream.segment, first, stream.step, card_slot)]

    def take(self, pcm: Pcm16) -> None:
        """The next chunk, int16 [960]; shorter before a flush: then there is silence behind it."""
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

    def is_on_the_way(self) -> bool:
        """Whether the card has chunks of it: then its card slots cannot be wiped."""
        return any(segment.given for segment in self.segments)

    def turn(self) -> CardSegment:
        """The first segment is over, and the stream has gone on to the next; what was the first."""
        over = self.segments.pop(0)
        assert not over.backlog and not over.given
        self.stream.lag(self.segments[0].step)
        return over

    def begin_again(self) -> None:
        """A flush has ended the run; the first segment's card slot was reset."""
        self._steps = 0
        self.flushing = False
        self.segments = [CardSegment(0, 0, 0, self.segments[0].card_slot)]
