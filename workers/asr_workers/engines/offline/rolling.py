"""The text of an utterance in progress, of which only the latest part is decoded again. Pure, over plain values.

A cut through audio makes the words beside it uncertain. So the old and the new text are not joined at the cut, but at a
seam: a place where both have the same few words. The idea is that of local agreement (Liu et al. 2020,
arXiv:2005.11185): text on which two decodes agree is kept. This module must not know models or audio.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import SequenceMatcher

SEAM_WORDS_MIN = 3
"""Fewest equal words that make a seam. Also the most words that the cut may spoil at the start of the new text."""
PUNCTUATION = ".,;:!?-\"'"
"""Characters that are ignored at both ends of a word when words are compared."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The text before the part that is decoded again."""

    text: str = ""
    skipped: int = 0
    """Words at the start of that part which `text` already has."""

    def joined(self, latest: str) -> str:
        """The whole text, where the text of the latest part is `latest`."""
        return " ".join([self.text, *latest.split()[self.skipped :]]).strip() if self.text else latest

    def moved(self, text: str, latest: str) -> Settled | None:
        """Settle more of the whole `text`, after the latest part became shorter and was decoded to `latest`.

        Returns None where the texts have no clear seam.
        """
        whole = text.split()
        first = len(self.text.split())
        parts = whole[first:], latest.split()
        older, newer = ([word.lower().strip(PUNCTUATION) for word in words] for words in parts)
        equal = SequenceMatcher(None, older, newer, autojunk=False).find_longest_match()
        # The new text covers more audio, so after the seam it must not have fewer words; one may differ.
        lost = (len(older) - equal.a) - (len(newer) - equal.b)
        if equal.size < SEAM_WORDS_MIN or equal.b > SEAM_WORDS_MIN or lost > 1:
            return None
        return Settled(" ".join(whole[: first + equal.a]), equal.b)
