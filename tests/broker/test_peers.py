"""A worker's record: when it may get sessions, when it is overloaded, and when it hangs."""

from __future__ import annotations

import pytest
from msgspec import structs

from asr_broker.peers import COST_DECAY, NO_LOAD, Timing, WorkerRecord
from asr_proto import messages as m

SPEC = m.Spec("fake", "fake", ("en",), 20, 960, 1.0, "none")
"""Chunks of 60 ms."""
TIMING = Timing()


def worker(leases: int = 0, detached: int = 0, step_s_p99: float = 0.0) -> WorkerRecord:
    one = WorkerRecord(b"W", "w", structs.replace(SPEC, step_s_p99=step_s_p99), list(range(20 - leases)), 100.0)
    one.leases = set(range(leases))
    one.detached = dict.fromkeys(range(detached))
    return one


def load(*, busy: float = 1.0, chunk_ms: float = 0.0, late_ms: float = 0.0, steps: int = 1, pending: int = 0) -> m.Load:
    return m.Load(steps, pending, 1.0, 1.0, busy, 0.0, chunk_ms, late_ms)


# ---- Overload ----


@pytest.mark.parametrize(("chunk_ms", "is_overloaded"), [(8.4, False), (8.5, True)])
def test_the_chunks_of_one_more_session_must_fit(chunk_ms: float, is_overloaded: bool) -> None:
    """0.7 of 60 ms are 42 ms: five chunks of 8.4."""
    one = worker(leases=4)
    one.reported(load(chunk_ms=chunk_ms), 100.0)
    assert one.overloaded is is_overloaded


def test_detached_sessions_cost_nothing() -> None:
    one = worker(leases=5, detached=1)
    one.reported(load(chunk_ms=8.4), 100.0)
    assert not one.overloaded
    one.detached.clear()
    assert one.overloaded


@pytest.mark.parametrize(("late_ms", "is_overloaded"), [(250.0, False), (250.1, True)])
def test_late_chunks_are_overload(late_ms: float, is_overloaded: bool) -> None:
    one = worker(leases=1)
    one.reported(load(late_ms=late_ms), 100.0)
    assert one.overloaded is is_overloaded


def test_without_a_live_session_a_worker_is_never_overloaded() -> None:
    for one in (worker(), worker(leases=3, detached=3)):
        one.reported(load(chunk_ms=100.0, late_ms=1000.0), 100.0)
        assert not one.overloaded


# ---- Heartbeats ----


@pytest.mark.parametrize(
    ("later", "expected"),
    [
        (load(busy=0.3, chunk_ms=2.0), 2.0),
        (load(busy=0.29, chunk_ms=2.0), 5.0 * COST_DECAY),
        (load(busy=1.0, chunk_ms=0.0), 5.0 * COST_DECAY),
    ],
    ids=["measured", "too idle to measure", "no measurement"],
)
def test_the_cost_of_a_chunk_is_measured_or_decays(later: m.Load, expected: float) -> None:
    one = worker(leases=1)
    one.reported(load(chunk_ms=5.0), 100.0)
    one.reported(later, 101.0)
    assert one.chunk_ms == pytest.approx(expected)
    assert one.load is later


def test_it_waits_from_the_first_report_of_work_without_a_step() -> None:
    one = worker()
    one.reported(load(steps=7, pending=1), 100.0)
    assert one.waiting_since == 100.0
    one.reported(load(steps=7, pending=2), 101.0)
    assert one.waiting_since == 100.0
    one.reported(load(steps=8, pending=2), 102.0)
    assert one.waiting_since == 102.0
    one.reported(load(steps=8, pending=0), 103.0)
    assert one.waiting_since is None


# ---- Silence and hanging ----


@pytest.mark.parametrize(("silent_s", "accepts"), [(2.5, True), (2.51, False)])
def test_a_silent_worker_gets_no_new_session(silent_s: float, accepts: bool) -> None:
    assert worker().accepts(100.0 + silent_s, TIMING) is accepts


def test_a_draining_worker_gets_no_new_session() -> None:
    one = worker()
    one.draining = True
    assert not one.accepts(100.0, TIMING)


@pytest.mark.parametrize(("silent_s", "hangs"), [(10.0, False), (10.1, True)])
def test_a_worker_without_work_hangs_only_when_it_is_silent(silent_s: float, hangs: bool) -> None:
    assert worker().hangs(100.0 + silent_s, TIMING) is hangs


@pytest.mark.parametrize(
    ("step_s_p99", "after_s", "hangs"),
    [(0.0, 1.5, False), (0.0, 1.6, True), (0.3, 1.6, True), (1.0, 4.0, False), (1.0, 4.1, True)],
)
def test_a_worker_with_work_must_make_steps(step_s_p99: float, after_s: float, hangs: bool) -> None:
    """Within 1.5 s, or four times its engine's longest step where that is longer."""
    one = worker(step_s_p99=step_s_p99)
    one.waiting_since = 100.0
    assert one.hangs(100.0 + after_s, TIMING) is hangs


def test_slots_are_counted() -> None:
    one = worker(leases=5, detached=2)
    assert (one.slots_free, one.slots_detached, one.load) == (15, 2, NO_LOAD)
