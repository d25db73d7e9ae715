"""Times of words, spread over an utterance."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_frontends.words import spread


def test_in_proportion_to_letters() -> None:
    assert spread("a bcd  ef", 1.0, 4.0) == [("a", 1.0, 1.5), ("bcd", 1.5, 3.0), ("ef", 3.0, 4.0)]


@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_no_words(text: str) -> None:
    assert spread(text, 0.0, 1.0) == []


def test_one_word_has_all_the_time() -> None:
    assert spread("yes", 0.25, 0.75) == [("yes", 0.25, 0.75)]


def test_an_end_before_the_start_gives_no_time() -> None:
    assert spread("so be it", 2.0, 1.0) == [("so", 2.0, 2.0), ("be", 2.0, 2.0), ("it", 2.0, 2.0)]


@given(text=st.text(max_size=60), start_ms=st.integers(0, 10**8), length_ms=st.integers(0, 10**6))
def test_all_words_in_order_without_gaps(text: str, start_ms: int, length_ms: int) -> None:
    start_s, end_s = start_ms / 1000, (start_ms + length_ms) / 1000
    words = spread(text, start_s, end_s)
    assert [word for word, _, _ in words] == text.split()
    assert all(start <= end for _, start, end in words)
    assert all(before[2] == after[1] for before, after in pairwise(words))
    assert not words or (words[0][1], words[-1][2]) == (start_s, end_s)
