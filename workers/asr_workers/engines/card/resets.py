"""State resets, as in CAIMAN-ASR: long audio is decoded in overlapping segments that start with an empty state. Pure.

An RNN-T trained on 15 s of audio makes more errors when its state grows older than that. So every 12 s a new segment
starts. The segment before it continues for 3 s, the overlap. In the overlap the tokens of the earlier segment count,
because its state has more context; those of the later one are dropped. The place where the later segment takes over is
the seam. There both segments may emit the same token, one shortly before the seam and the other shortly after it. So of
the first three tokens after a seam, those that are among the last three before it are dropped, too. The decision on a
token needs no later token, so streaming gives the same text as the whole audio.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

STEP_S = 0.06
"""Seconds of audio of an encoder step."""
SEAM_TOKENS = 3
"""Number of tokens that are compared on each side of a seam."""


@dataclass(frozen=True, slots=True)
class ResetRule:
    """The lengths of segments and overlaps, in encoder steps."""

    segment_steps: int = 250
    overlap_steps: int = 50

    @property
    def hop_steps(self) -> int:
        """Steps from the start of a segment to the start of the next one."""
        return self.segment_steps - self.overlap_steps

    @property
    def cost(self) -> float:
        """Seconds of audio that are decoded for each second of audio."""
        return self.segment_steps / self.hop_steps

    def start(self, segment: int) -> int:
        """First step of a segment."""
        return segment * self.hop_steps

    def end(self, segment: int) -> int:
        """The step after a segment's last one. From there on the next segment counts."""
        return self.start(segment) + self.segment_steps

    def kept_from(self, segment: int) -> int:
        """The first step of a segment whose tokens count."""
        return self.end(segment - 1) if segment else 0


class Seam:
    """Drops repeated tokens after a seam. `trusted` are the last tokens that were kept of the segment before it."""

    __slots__ = ("_left", "_trusted")

    def __init__(self, trusted: Sequence[int] = ()) -> None:
        self._trusted = list(trusted[-SEAM_TOKENS:])
        self._left = SEAM_TOKENS

    def keeps(self, token: int) -> bool:
        """Whether the segment's next token is not a repetition. Call it once for each token, in order."""
        if not self._left:
            return True
        self._left -= 1
        if token not in self._trusted:
            return True
        del self._trusted[: self._trusted.index(token) + 1]
        return False


def joined(rule: ResetRule, segments: Iterable[Sequence[tuple[int, int]]]) -> list[tuple[int, int]]:
    """The kept tokens of all segments, as (step, token) pairs. Steps count from the segment's start in the input, and
    from the start of the first segment in the result.

    A simple definition of the result of a CardStream.
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
