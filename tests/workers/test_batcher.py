"""Which slots are in the next step: earliest deadline first, live speakers before uploads."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from asr_workers.batcher import PACE, Batcher

CHUNK_S = 0.06


def batcher(slots: int = 8, batch_max: int | None = None) -> Batcher:
    """All slots open."""
    it = Batcher(slots, batch_max)
    for slot in range(slots):
        it.open(slot, CHUNK_S)
    return it


def close(a: float, b: float) -> bool:
    return math.isclose(a, b, abs_tol=1e-9)


def test_the_earliest_deadline_is_first() -> None:
    it = batcher()
    for slot, now in ((3, 1.0), (1, 1.2), (2, 1.1)):
        it.submit(slot, now)
    assert it.waiting() == 3
    assert it.pick() == [3, 2, 1]
    assert it.waiting() == 0
    assert it.pick() == []


def test_one_slot_can_be_picked_alone() -> None:
    it = batcher()
    for slot, now in ((1, 3.0), (2, 2.0), (3, 1.0)):
        it.submit(slot, now)
    assert it.first({1, 2}) == 2
    it.picked(2)
    assert it.first({1, 2}) == 1
    assert it.first({2}) is None
    assert it.pick() == [3, 1]


def test_equal_deadlines_go_by_slot() -> None:
    it = batcher()
    for slot in (5, 0, 3):
        it.submit(slot, 1.0)
    assert it.pick() == [0, 3, 5]


def test_a_first_chunk_is_due_when_it_comes() -> None:
    it = batcher()
    it.submit(0, 7.0)
    assert it.due(0) == 7.0


def test_chunks_in_real_time_are_due_when_they_come() -> None:
    it = batcher()
    for turn in range(10):
        it.submit(0, 5.0 + turn * CHUNK_S)
        assert close(it.due(0), 5.0 + turn * CHUNK_S)
        assert it.pick() == [0]


def test_an_early_chunk_is_due_when_a_live_speaker_would_finish_it() -> None:
    it = batcher()
    for turn in range(10):
        it.submit(0, 5.0)
        assert close(it.due(0), 5.0 + turn * PACE * CHUNK_S)
        it.pick()


def test_an_upload_drifts_into_the_future() -> None:
    it = batcher()
    it.submit(0, 5.0)
    for turn in range(1, 10):
        it.pick()
        it.resubmit(0)
        assert close(it.due(0), 5.0 + turn * PACE * CHUNK_S)


def test_after_a_pause_the_clock_of_a_slot_starts_anew() -> None:
    it = batcher()
    it.submit(0, 5.0)
    it.pick()
    it.submit(0, 65.0)
    assert it.due(0) == 65.0
    it.pick()
    it.resubmit(0)
    assert close(it.due(0), 65.0 + PACE * CHUNK_S)


def test_the_delay_of_a_burst_is_made_up() -> None:
    """After a burst of three seconds (a stall, a replay), chunks of a live speaker are soon due on arrival again."""
    it = batcher()
    for _ in range(50):
        it.submit(0, 5.0)
        it.pick()
    now = 5.0
    assert it.due(0) > now + 2.0
    for _ in range(600):
        now += CHUNK_S
        it.submit(0, now)
        it.pick()
    assert close(it.due(0), now)


def test_submitting_twice_changes_nothing() -> None:
    it = batcher()
    it.submit(0, 5.0)
    it.submit(0, 6.0)
    it.resubmit(0)
    assert it.due(0) == 5.0
    assert it.waiting() == 1
    assert it.pick() == [0]
    assert it.pick() == []


def test_at_most_batch_max_in_one_step() -> None:
    it = batcher(batch_max=3)
    for slot in range(8):
        it.submit(slot, 1.0 - slot * 0.01)
    assert it.pick() == [7, 6, 5]
    assert it.waiting() == 5
    assert it.pick() == [4, 3, 2]
    assert it.pick() == [1, 0]


def test_a_blocked_slot_stays_ready() -> None:
    it = batcher()
    for slot in range(3):
        it.submit(slot, 1.0 + slot)
    assert it.pick(blocked={0, 2}) == [1]
    assert it.waiting() == 2
    assert it.due(0) == 1.0
    assert it.pick(blocked=frozenset()) == [0, 2]


def test_blocked_slots_take_no_place_of_the_batch() -> None:
    it = batcher(batch_max=2)
    for slot in range(4):
        it.submit(slot, 1.0)
    assert it.pick(blocked={0, 1}) == [2, 3]


def test_a_reused_slot_has_no_deadline_of_its_last_user() -> None:
    it = batcher()
    it.submit(0, 5.0)
    for _ in range(1000):
        it.pick()
        it.resubmit(0)
    it.close(0)
    assert it.waiting() == 0
    assert it.pick() == []
    it.open(0, CHUNK_S)
    assert it.pick() == []
    it.submit(0, 6.0)
    assert it.due(0) == 6.0


@given(uploads=st.integers(1, 6), live=st.integers(1, 6), turns=st.integers(2, 40))
def test_no_upload_goes_before_a_live_speaker(uploads: int, live: int, turns: int) -> None:
    """Uploads that are ahead of real time get no place in a step that live speakers fill."""
    it = batcher(uploads + live, batch_max=live)
    speakers = set(range(uploads, uploads + live))
    now = 100.0
    for slot in range(uploads):
        it.submit(slot, now)
    while min(it.due(slot) for slot in range(uploads)) < now + (turns + 1) * CHUNK_S:
        for slot in it.pick():
            it.resubmit(slot)
    for _ in range(turns):
        now += CHUNK_S / 8
        for slot in speakers:
            it.submit(slot, now)
        assert set(it.pick()) == speakers
        now += CHUNK_S * 7 / 8


def test_an_upload_is_not_starved_below_real_time() -> None:
    """The deadlines of its first second are those of a live speaker, so it waits no longer than one."""
    it = batcher(2, batch_max=1)
    it.submit(0, 100.0)
    picked = []
    for turn in range(40):
        it.submit(1, 100.0 + turn * CHUNK_S / 2)
        (slot,) = it.pick()
        picked.append(slot)
        if slot == 0:
            it.resubmit(0)
    assert picked.count(0) >= 18


@given(batch_max=st.integers(1, 8), turns=st.integers(1, 30))
def test_uploads_share_what_is_left(batch_max: int, turns: int) -> None:
    it = batcher(8, batch_max)
    counts = [0] * 8
    for slot in range(8):
        it.submit(slot, 1.0)
    for _ in range(turns):
        for slot in it.pick():
            counts[slot] += 1
            it.resubmit(slot)
    assert max(counts) - min(counts) <= 1


def test_each_slot_has_its_own_pace() -> None:
    """The second chunk is due one chunk length of that session after the first, times PACE."""
    it = Batcher(2)
    for slot, chunk_s in ((0, 0.08), (1, 1.12)):
        it.open(slot, chunk_s)
        it.submit(slot, 5.0)
    assert it.pick() == [0, 1]
    for slot in (1, 0):
        it.resubmit(slot)
    assert close(it.due(0), 5.0 + PACE * 0.08) and close(it.due(1), 5.0 + PACE * 1.12)
    assert it.pick() == [0, 1]
