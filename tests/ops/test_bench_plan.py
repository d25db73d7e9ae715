"""What load generators are told: shares of a plan, rounds, ramps, pauses. Plain values, no sockets."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_ops.bench import audio, options, plan, schedule
from asr_ops.bench.plan import Aside, LoadResult, Plan
from asr_ops.bench.statistics import SessionRecord
from asr_proto.audio import SAMPLE_RATE
from asr_proto.errors import SetupError

RING = audio.ring(np.arange(8, dtype=np.int16).repeat(160), 10)


def planned(sessions: int, churn: float = 0.0, flood: int = 0) -> Plan:
    return Plan(
        url="ws://here",
        dialect="native",
        ring=RING,
        frames=3,
        starts_us=list(range(sessions)),
        entries=plan.entries(RING, sessions),
        churn_per_s=churn,
        flood=flood,
    )


def carried_out(share: Plan) -> LoadResult:
    """As a generator would answer; a session's entry tells which it was."""
    sessions = [SessionRecord(connecting_s=start) for start in share.starts_us]
    return LoadResult(sessions, array("d", share.starts_us), {"churn": Aside(came=1)} if share.disturbs else {})


# ---- Shares ----


@given(sessions=st.integers(1, 40), parts=st.integers(1, 6), churn=st.sampled_from([0.0, 2.5]), flood=st.integers(0, 2))
def test_shares_are_the_whole_plan_and_are_put_together_in_its_order(
    sessions: int, parts: int, churn: float, flood: int
) -> None:
    whole = planned(sessions, churn, flood)
    shares = plan.shares(whole, parts + whole.disturbs)
    assert len(shares) == parts + whole.disturbs
    assert sum(share.churn_per_s for share in shares) == churn
    assert sum(share.flood for share in shares) == flood
    assert not any(share.disturbs and share.starts_us for share in shares)
    found = plan.merged(whole, [carried_out(share) for share in shares])
    assert [session.connecting_s for session in found.sessions] == whole.starts_us
    assert sorted(found.lateness_s) == whole.starts_us
    assert set(found.asides) == ({"churn"} if whole.disturbs else set())


def test_asides_of_several_generators_add_up() -> None:
    one, other = Aside(2, {"at-capacity": 1}, 0.5), Aside(1, {"at-capacity": 1, "HTTP 401": 1}, 1.0)
    found = plan.added([{"churn": one}, {"churn": other, "flood": Aside(1)}])
    assert found == {"churn": Aside(3, {"at-capacity": 2, "HTTP 401": 1}, 1.5), "flood": Aside(1)}
    assert str(found["churn"]) == "3 came and sent 1.5 s of audio; 2 x at-capacity; 1 x HTTP 401"


def test_faster_than_real_time_frames_leave_more_often() -> None:
    assert [options.BenchOptions(frame_ms=20, duration_s=1).frames, planned(1).frame_us] == [50, 10_000]
    quick = Plan(url="", dialect="yap", ring=RING, frames=1, starts_us=[], entries=[], pace=2.5)
    assert quick.frame_us == 4000


def test_a_ramp_is_spread_evenly() -> None:
    assert schedule.starts_us(4, "together", 1, 8_000_000) == [0, 2_000_000, 4_000_000, 6_000_000]
    late = np.subtract(schedule.starts_us(4, "random", 1, 8_000_000), schedule.starts_us(4, "random", 1))
    assert late.tolist() == [0, 2_000_000, 4_000_000, 6_000_000]


# ---- Options ----


@pytest.mark.parametrize(
    ("sessions", "total", "rounds"), [(5, None, [5]), (5, 20, [5] * 4), (5, 12, [5, 5, 2]), (5, 5, [5])]
)
def test_a_total_is_spoken_in_rounds(sessions: int, total: int | None, rounds: list[int]) -> None:
    assert options.BenchOptions(sessions=sessions, total=total).rounds == rounds


def test_the_shape_of_a_load_in_words() -> None:
    assert options.BenchOptions().shape == ""
    unusual = options.BenchOptions(pace=2, pauses=True, ramp_s=5, total=20, churn_per_s=2, flood=3)
    assert unusual.shape == ("at 2 times real time, with pauses, ramp of 5 s, 20 in rounds, churn of 2/s, flood of 3")
    assert unusual.slots == 100 + 3 + 6


@pytest.mark.parametrize(
    ("asked", "find_max", "said"),
    [
        (options.BenchOptions(dialect="amira", frame_ms=10), False, "--frame-ms 13 or more"),
        (options.BenchOptions(dialect="moonshine", churn_per_s=1), False, "WebSockets only"),
        (options.BenchOptions(total=20), True, "give one of them"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(asked: options.BenchOptions, find_max: bool, said: str) -> None:
    with pytest.raises(SetupError, match=said):
        options.check(asked, find_max=find_max)


# ---- Audio ----


def test_pauses_leave_nothing_out_and_are_the_same_every_time() -> None:
    spoken = audio.noise()[: 20 * SAMPLE_RATE]
    spoken[spoken == 0] = 1
    found = audio.with_pauses(spoken, 1)
    assert np.array_equal(found[found != 0], spoken)
    assert np.array_equal(found, audio.with_pauses(spoken, 1))
    assert len(found) != len(audio.with_pauses(spoken, 2))
    silences = np.diff(np.flatnonzero(found))
    longest_s = (silences.max() - 1) / SAMPLE_RATE
    assert 0.5 <= longest_s <= 2.5


def test_the_tone_is_two_tones() -> None:
    found = audio.tone()
    loudest = np.argsort(np.abs(np.fft.rfft(found)))[-2:] * SAMPLE_RATE / len(found)
    assert sorted(loudest.tolist()) == [180, 310]
