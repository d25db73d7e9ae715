"""Joining the text of an utterance in progress whose beginning is no longer decoded."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_workers.engines.offline.rolling import SEAM_WORDS_MIN, Settled

WORDS = [f"w{number}" for number in range(40)]


def test_nothing_is_settled_at_first() -> None:
    assert Settled().joined("It was.") == "It was."
    assert Settled().joined("") == ""


@pytest.mark.parametrize(
    ("text", "latest", "whole"),
    [
        ("one two three four five", "three four five six", "one two three four five six"),
        ("One, two. Three four five", "Three, four five six", "One, two. Three, four five six"),
        ("so that some of its noisy", "the sum of its noisy ones", "so that some of its noisy ones"),
        ("one two three four fiv", "two three four five six", "one two three four five six"),
    ],
)
def test_a_text_goes_on_where_both_say_the_same(text: str, latest: str, whole: str) -> None:
    settled = Settled().moved(text, latest)
    assert settled is not None and settled.joined(latest) == whole


@pytest.mark.parametrize(
    ("text", "latest"),
    [
        ("", "one two three"),
        ("one two three four", ""),
        ("one two three four", "three four five six"),  # too little in common
        ("one two three", "a b c d one two three"),  # far behind the cut
        ("it was the age of wit it was the age", "it was the age of"),  # words would be lost
    ],
)
def test_where_they_do_not_fit_nothing_is_settled(text: str, latest: str) -> None:
    assert Settled().moved(text, latest) is None


def test_what_is_settled_is_not_looked_at_again() -> None:
    first = Settled().moved("one two three four five", "three four five six seven")
    assert first is not None
    again = first.moved(first.joined("three four five six seven eight"), "six seven eight nine")
    assert again is not None and again.joined("six seven eight nine") == "one two three four five six seven eight nine"


@given(st.integers(1, 20), st.integers(SEAM_WORDS_MIN, 20), st.integers(0, 20))
def test_no_word_is_lost_or_said_twice(before: int, common: int, after: int) -> None:
    text, latest = WORDS[: before + common], WORDS[before : before + common + after]
    settled = Settled().moved(" ".join(text), " ".join(latest))
    assert settled is not None
    assert settled.joined(" ".join(latest)).split() == (text + latest[common:])
