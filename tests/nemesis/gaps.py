"""How long clients waited for text, and which fault caused each wait. Pure.

The fake engine outputs text for every 250 ms of audio, of which CAIMAN's clients receive only whole utterances. A gap
is the time between two texts beyond that. A gap belongs to the fault that struck in it or shortly before it. Gaps
without a fault are delays of the machine itself.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.nemesis.history import Conversation, Cut, History, Moved, Strike

BASELINE_S = 0.25
FINALS_S = 1.0
"""The same for a dialect without partials."""
WITHOUT_PARTIALS = frozenset({"caiman"})
FELT_S = 0.25
"""Shortest gap that counts, in seconds, unless the session moved: shorter ones may be delays of the machine."""
REACH_S = 1.0
"""Longest time from a fault to the start of its gap, in seconds: text in transit still arrives."""
UNDISTURBED = "none"


@dataclass(frozen=True, slots=True)
class Gap:
    """The time from one text to the next; `length_s` is without the baseline."""

    seat: int
    session: int
    from_s: float
    until_s: float
    kind: str
    moved: bool
    baseline_s: float = BASELINE_S

    @property
    def length_s(self) -> float:
        return max(0.0, self.until_s - self.from_s - self.baseline_s)


def gaps(history: History, felt_s: float = FELT_S) -> list[Gap]:
    """Every gap of at least `felt_s` seconds, and every gap in which a session moved."""
    found: list[Gap] = []
    for conversation in history.conversations:
        found += [gap for gap in _gaps(conversation, history.strikes) if gap.moved or gap.length_s >= felt_s]
    return found


def _gaps(conversation: Conversation, strikes: Sequence[Strike]) -> Iterator[Gap]:
    if conversation.ready_s is None:
        return
    interrupted = [event.at_s for event in conversation.events if isinstance(event, Moved | Cut)]
    stopped = conversation.stopped_s if conversation.stopped_s is not None else conversation.over_s
    baseline_s = FINALS_S if conversation.dialect in WITHOUT_PARTIALS else BASELINE_S
    times = [conversation.ready_s, *conversation.texts_at()]
    for begin, end in itertools.pairwise(times):
        if stopped is not None and begin >= stopped:
            return
        moved = any(begin <= at <= end for at in interrupted)
        cause = _cause(begin, end, strikes)
        yield Gap(conversation.seat, conversation.number, begin, end, cause, moved, baseline_s)


def _cause(begin: float, end: float, strikes: Sequence[Strike]) -> str:
    """The kind of the first fault in the gap or shortly before it; else of one that still lasted when it began."""
    inside = [strike for strike in strikes if begin - REACH_S <= strike.at_s <= end]
    if inside:
        return min(inside, key=lambda strike: (strike.at_s < begin, strike.at_s)).kind
    lasting = [strike for strike in strikes if strike.at_s <= begin <= strike.whole_s + REACH_S]
    return lasting[-1].kind if lasting else UNDISTURBED
