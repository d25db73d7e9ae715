"""How many sessions to try next, and when a number is too many. Pure."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_ops.bench import search, statistics
from asr_ops.bench.search import SearchStep
from tests.ops.bench_reports import reported

MOST = 5000


def step(sessions: int, *, passed: bool = True, late: bool = False) -> SearchStep:
    return SearchStep(sessions, passed, 10.0, 20.0, "" if passed else "3 refused", late)


def searched(capacity: int, first: int) -> list[SearchStep]:
    """The steps with a server that carries so many."""
    steps: list[SearchStep] = []
    while (sessions := search.following(steps, first, MOST)) is not None:
        steps.append(step(sessions, passed=sessions <= capacity))
    return steps


@given(capacity=st.integers(0, 2 * MOST), first=st.integers(1, 2 * MOST))
def test_the_capacity_is_found_to_a_tenth(capacity: int, first: int) -> None:
    steps, reachable = searched(capacity, first), min(capacity, MOST)
    assert search.best(steps) <= reachable <= max(search.best(steps) * (1 + search.RESOLUTION), search.best(steps) + 1)
    assert len({step.sessions for step in steps}) == len(steps) < 35
    assert all(1 <= step.sessions <= MOST for step in steps)


def test_doubling_then_halving_the_gap() -> None:
    assert [step.sessions for step in searched(130, 20)] == [20, 40, 80, 160, 120, 140, 130]
    assert [step.sessions for step in searched(3, 20)] == [20, 10, 5, 2, 3, 4]
    assert [step.sessions for step in searched(0, 4)] == [4, 2, 1]
    assert [step.sessions for step in searched(9999, 3000)] == [3000, MOST]


@pytest.mark.parametrize(
    ("slo_ms", "broken"), [(200, ""), (149, "above 149 ms"), (100, "above 100 ms"), (10, "above 10 ms")]
)
def test_an_objective_is_about_finals_and_partials(slo_ms: float, broken: str) -> None:
    found = search.judged(reported(), slo_ms)
    assert (found.sessions, found.final_ms_p95, found.partial_lag_ms_p95) == pytest.approx((1, 30, 150))
    assert (found.broken, found.passed) == (broken, not broken)


def test_whoever_was_not_served_breaks_it_and_no_lag_is_no_objection() -> None:
    counts = statistics.SessionCounts(sessions=9, served=6, refused=2, errors=1, lost=None)
    whole = reported()
    silent = {name: row for name, row in whole.figures.items() if name != "partial_lag_ms"}
    found = search.judged(replace(whole, counts=counts, figures=silent), 100)
    assert (found.broken, found.partial_lag_ms_p95) == ("2 refused, 1 errors", None)
    assert str(found) == "1 sessions: final_ms p95 30.0: 2 refused, 1 errors"


def test_a_late_generator_is_named() -> None:
    found = search.judged(reported(late_ms=11), 500)
    assert found.generator_late
    assert str(found).endswith("passed (the load generator was late)")


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        ([step(20), step(40, passed=False), step(30)], "at most 30 sessions within 99 ms; 40 are too many"),
        ([step(20), step(40)], "at most 40 sessions within 99 ms: more were not tried"),
        ([step(1, passed=False)], "not one session within 99 ms; 1 are too many"),
        (
            [step(20), step(40, passed=False, late=True)],
            "at most 20 sessions within 99 ms; at 40 the load generator was the bottleneck: the server may carry more "
            "(--processes)",
        ),
    ],
)
def test_the_answer_in_words(steps: list[SearchStep], said: str) -> None:
    assert search.conclusion(steps, 99) == said
