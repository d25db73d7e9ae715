"""Times of words for engines that have none: an utterance's time, shared out by characters. Pure.

An approximation, and to be declared as one wherever it is shown: nothing here has heard the audio.
"""

from __future__ import annotations

from itertools import accumulate


def spread(text: str, start_s: float, end_s: float) -> list[tuple[str, float, float]]:
    """(word, start, end) of each word: without gaps, in proportion to its letters, rounded to the millisecond."""
    words = text.split()
    letters = sum(map(len, words))
    length_s = max(0.0, end_s - start_s)
    ends = [round(start_s + length_s * spoken / letters, 3) for spoken in accumulate(map(len, words))]
    return list(zip(words, [round(start_s, 3), *ends], ends, strict=False))
