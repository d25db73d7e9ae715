"""Times of words for engines that measure none: an utterance's time, divided by the number of letters. Pure.

This is an approximation, because the audio is not looked at. Documents that describe such times must state this.
"""

from __future__ import annotations

from itertools import accumulate


def spread(text: str, start_s: float, end_s: float) -> list[tuple[str, float, float]]:
    """(word, start_s, end_s) of each word, without gaps, in proportion to its letters, rounded to the millisecond."""
    words = text.split()
    letters = sum(map(len, words))
    length_s = max(0.0, end_s - start_s)
    ends = [round(start_s + length_s * spoken / letters, 3) for spoken in accumulate(map(len, words))]
    return list(zip(words, [round(start_s, 3), *ends], ends, strict=False))
