"""The text of an utterance in progress of which only the latest part is decoded again. Pure, over plain values.

A cut through audio makes the words beside it uncertain. So the old text goes on as the new one not at the cut, but at a
seam: where both say the same for a few words. This module must not know models or audio.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher

SEAM_WORDS_MIN = 3
"""So many words that are alike are no accident; as many at the beginning of the new text may be spoiled by the cut."""
PUNCTUATION = ".,;:!?-\"'"


@dataclass(frozen=True, slots=True)
class Settled:
    """What was said before the part that is decoded again."""

    text: str = ""
    skipped: int = 0
    """Words at the beginning of that part that `text` has already."""

    def joined(self, latest: str) -> str:
        """The whole text, of what the latest part says now."""
        return " ".join([self.text, *latest.split()[self.skipped :]]).strip() if self.text else latest

    def moved(self, text: str, latest: str) -> Settled | None:
        """Settle more of the whole `text` because the latest part is shorter now and says `latest`; None if unclear."""
        said = text.split()
        first = len(self.text.split())
        older, newer = ([word.lower().strip(PUNCTUATION) for word in words] for words in (said[first:], latest.split()))
        alike = SequenceMatcher(None, older, newer, autojunk=False).find_longest_match()
        lost = (len(older) - alike.a) - (len(newer) - alike.b)  # the new text has heard more: it is not shorter
        if alike.size < SEAM_WORDS_MIN or alike.b > SEAM_WORDS_MIN or lost > 1:
            return None
        return Settled(" ".join(said[: first + alike.a]), alike.b)
