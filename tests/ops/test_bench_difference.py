"""When two runs of a bench count as the same: by values, and by properties of any two runs."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_ops.bench.difference import Difference, Verdict, widest

values = st.floats(0, 1e6)


@pytest.mark.parametrize(
    ("name", "before", "after", "verdict"),
    [
        ("final_ms_p50", 100, 114.9, "same"),
        ("final_ms_p50", 100, 115.1, "worse"),
        ("final_ms_p50", 100, 80, "better"),
        ("final_ms_p50", 4.0, 4.9, "same"),  # below the clock's resolution
        ("final_ms_p50", 4.0, 5.1, "worse"),
        ("errors", 0, 0, "same"),
        ("errors", 0, 1, "worse"),
        ("errors", 1, 0, "better"),
        ("session_kb", -5, -4, "worse"),
        ("rtf p50", 1.0, 1.5, "worse"),
    ],
)
def test_verdicts(name: str, before: float, after: float, verdict: Verdict) -> None:
    assert Difference(name, before, after).verdict() == verdict


def test_more_is_better_and_zero_tolerance() -> None:
    assert Difference("served", 100, 50).verdict(more_is_better=True) == "worse"
    assert Difference("served", 50, 100).verdict(more_is_better=True) == "better"
    assert Difference("served", 100, 100).verdict(0) == "same"
    assert Difference("served", 100, 99).verdict(0, more_is_better=True) == "worse"


@given(before=values, after=values, tolerance=st.floats(0, 2))
def test_what_is_worse_one_way_is_not_worse_the_other_way(before: float, after: float, tolerance: float) -> None:
    there = Difference("server_cores", before, after).verdict(tolerance)
    back = Difference("server_cores", after, before).verdict(tolerance)
    assert (there, back) not in {("worse", "worse"), ("better", "better")}
    assert Difference("server_cores", before, before).verdict(tolerance) == "same"


def test_the_widest_difference_is_one_that_can_be_measured() -> None:
    before = {"first_partial_ms_p50": 1.0, "final_ms_p50": 50.0, "end_ms_p50": 40.0, "gone": 1.0}
    after = {"first_partial_ms_p50": 1.9, "final_ms_p50": 55.0, "end_ms_p50": 41.0}
    assert widest(before, after) == Difference("final_ms_p50", 50.0, 55.0)
    assert widest({}, after) is None


def test_from_nothing_to_something_there_is_no_share() -> None:
    assert Difference("errors", 0, 2).share == math.inf
    assert Difference("errors", 0, -2).share == -math.inf
