"""The cost of a chunk, measured from the sizes and times of steps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_workers.load import ChunkCost, LoadMeter


def meter(fixed_ms: float, chunk_ms: float, noise_ms: float = 0.0, sizes: int = 20, steps: int = 200) -> LoadMeter:
    drawn = np.random.default_rng(3)
    found = LoadMeter(0.0)
    for _ in range(steps):
        chunks = int(drawn.integers(1, sizes + 1))
        elapsed_ms = fixed_ms + chunk_ms * chunks + drawn.uniform(0, noise_ms)
        found.stepped(elapsed_ms / 1000, 960 * chunks, [0.0] * chunks)
    return found


@given(st.floats(0, 50), st.floats(0.05, 20))
def test_the_fixed_cost_of_a_step_does_not_count(fixed_ms: float, chunk_ms: float) -> None:
    assert meter(fixed_ms, chunk_ms).sum_up(0, 1.0).chunk_ms == pytest.approx(chunk_ms, rel=0.01, abs=0.001)


def test_a_little_noise_changes_little() -> None:
    assert meter(5.0, 1.0, noise_ms=5.0).sum_up(0, 1.0).chunk_ms == pytest.approx(1.0, rel=0.2)


@pytest.mark.parametrize(
    "found",
    [
        meter(15.0, 0.0, noise_ms=5.0),
        meter(15.0, 0.02, noise_ms=10.0),
        meter(5.0, 1.0, sizes=1),
        meter(5.0, 1.0, steps=10),
        LoadMeter(0.0),
    ],
    ids=["a batch costs what one does", "noise", "always one", "few steps", "none"],
)
def test_an_unknown_cost_is_zero(found: LoadMeter) -> None:
    assert found.sum_up(0, 1.0).chunk_ms == 0.0


def test_elective_work_does_not_count() -> None:
    found = LoadMeter(0.0)
    for step in range(100):
        chunks = 1 + step % 5
        found.stepped(0.002 * chunks + 0.1 * (step % 2), 960, [0.0] * chunks, elective_s=0.1 * (step % 2))
    assert found.sum_up(0, 1.0).chunk_ms == pytest.approx(2.0)


def test_old_steps_lose_their_weight() -> None:
    cost = ChunkCost()
    for chunk_s in (0.020, 0.001):
        for step in range(1500):
            cost.add(1 + step % 7, chunk_s * (1 + step % 7))
            if step % 20 == 0:
                cost.fade()
    assert cost.seconds() == pytest.approx(0.001, rel=0.05)


def test_a_heartbeat_sums_up_its_interval() -> None:
    """Twenty steps of 10 to 200 ms in 4 s, half of the chunks 100 to 1000 ms late; the next interval is empty."""
    found = LoadMeter(100.0)
    for step in range(1, 21):
        found.stepped(step / 100, 1600, [step / 20 if step > 10 else -1.0])
    load = found.sum_up(3, 104.0)
    assert (load.steps, load.pending_chunks) == (20, 3)
    assert (load.step_ms_p50, load.step_ms_p99) == (105.0, 198.1)
    assert load.busy == pytest.approx(2.1 / 4)
    assert load.real_time_factor == pytest.approx(2.1 / 2.0)
    assert load.late_ms_p95 == 952.5
    later = found.sum_up(0, 104.5)
    assert (later.steps, later.step_ms_p99, later.busy, later.real_time_factor, later.late_ms_p95) == (20, 0, 0, 0, 0)


@pytest.mark.parametrize("interval_s, busy", [(0.5, 0.5), (0.1, 1.0), (0.0, 1.0)])
def test_busy_is_at_most_one(interval_s: float, busy: float) -> None:
    """A step may have begun before the interval."""
    found = LoadMeter(1.0)
    found.stepped(0.25, 0)
    assert found.sum_up(0, 1.0 + interval_s).busy == busy


def test_chunks_that_are_early_are_not_late() -> None:
    found = LoadMeter(0.0)
    found.stepped(0.01, 960, [-0.5, -0.2])
    assert found.sum_up(0, 1.0).late_ms_p95 == 0.0
