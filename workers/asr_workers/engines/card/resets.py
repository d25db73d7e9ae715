"""State resets: long audio is recognised in overlapping segments that each begin with an empty state. Pure.

An utterance that never ends drifts: an RNN-T trained on 15 s loses its way. So after every 12 s a new segment begins,
beside the one before, which goes on for 3 s more. Tokens of a segment's overlap are dropped: the segment before says
them, and knows better. At the seam both may say the same token, one a little before it and the other a little after:
of the first three tokens behind a seam, those that are among the last three before it are dropped too. Each token is
decided when it comes, so streaming gives the same text as the whole audio at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STEP_S = 0.06
"""An encoder step."""
SEAM_TOKENS = 3
"""How far a token is looked for, on both sides of a seam."""


@dataclass(frozen=True, slots=True)
class ResetRule:
    """Lengths in encoder steps."""

    segment_steps: int = 250
    overlap_steps: int = 50

    @property
    def hop_steps(self) -> int:
        """From one segment's start to the next one's."""
        return self.segment_steps - self.overlap_steps

    @property
    def cost(self) -> float:
        """Work for a second of audio, in seconds of audio."""
        return self.segment_steps / self.hop_steps

    def start(self, segment: int) -> int:
        """First step of a segment."""
        return segment * self.hop_steps

    def end(self, segment: int) -> int:
        """Behind its last step: from there on the next one is heard."""
        return self.start(segment) + self.segment_steps

    def kept_from(self, segment: int) -> int:
        """The first step whose tokens count."""
        return self.end(segment - 1) if segment else 0


class Seam:
    """Drops what was said twice at the start of a segment. `trusted`: the last tokens kept of the one before."""

    __slots__ = ("_left", "_trusted")

    def __init__(self, trusted: Sequence[int] = ()) -> None:
        self._trusted = list(trusted[-SEAM_TOKENS:])
        self._left = SEAM_TOKENS

    def keeps(self, token: int) -> bool:
        """Whether the segment's next token is new. Asked once for each, in their order."""
        if not self._left:
            return True
        self._left -= 1
        if token not in self._trusted:
            return True
        del self._trusted[: self._trusted.index(token) + 1]
        return False


def joined(rule: ResetRule, segments: Iterable[Sequence[tuple[int, int]]]) -> list[tuple[int, int]]:
    """All segments of an utterance as one: (step, token) pairs, counted in each segment's steps, then in all.

    What a stream must come to, told in the simplest way.
    """
    kept: list[tuple[int, int]] = []
    trusted: list[int] = []
    for number, segment in enumerate(segments):
        seam = Seam(trusted)
        placed = [(rule.start(number) + step, token) for step, token in segment]
        counted = [(step, token) for step, token in placed if rule.kept_from(number) <= step < rule.end(number)]
        new = [(step, token) for step, token in counted if seam.keeps(token)]
        trusted = [token for _, token in new]
        kept += new
    return kept
