"""When audio counts as poisonous, and when it is cleared."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_frontends.suspicion import Suspect
from asr_proto import messages as m

OTHER = m.Lost(1, "worker-lost")
BATCH = m.Lost(1, "worker-lost", suspects=5, proven=True, worker="w1")
ALONE = m.Lost(1, "worker-lost", suspects=1, proven=True, worker="w2")
KILLED = m.Lost(1, "worker-lost", suspects=1, worker="w2")


def after(*deaths: m.Lost) -> Suspect:
    suspect = Suspect()
    for death in deaths:
        assert not suspect.is_poisonous
        suspect.lost(death, 100, 900)
    return suspect


def test_a_worker_that_died_of_something_else_raises_no_suspicion() -> None:
    suspect = after(OTHER, OTHER, OTHER, OTHER)
    assert (suspect.deaths, suspect.worker, suspect.setup()) == (0, "", None)


@pytest.mark.parametrize("first", [BATCH, ALONE, KILLED])
def test_the_second_death_decides_if_the_engine_failed_for_this_session_alone(first: m.Lost) -> None:
    assert after(first).setup() == m.Suspicion(100, 900)
    assert not after(first).is_poisonous
    assert after(first, ALONE).is_poisonous


def test_a_process_that_was_killed_needs_a_third_death() -> None:
    assert not after(KILLED).is_dangerous
    assert after(KILLED, KILLED).is_dangerous and not after(KILLED, KILLED).is_poisonous
    assert after(KILLED, KILLED, KILLED).is_poisonous


def test_a_batch_never_decides() -> None:
    assert not after(BATCH, BATCH, BATCH, BATCH).is_poisonous


def test_deaths_of_others_in_between_change_nothing() -> None:
    assert after(BATCH, OTHER, OTHER, ALONE).is_poisonous


def test_audio_that_a_worker_survived_is_cleared() -> None:
    suspect = after(BATCH)
    suspect.survived(900)
    assert suspect.deaths == 1
    suspect.survived(901)
    assert (suspect.deaths, suspect.worker, suspect.setup()) == (0, "", None)
    suspect.lost(ALONE, 2000, 2500)
    assert not suspect.is_poisonous and suspect.setup() == m.Suspicion(2000, 2500)


def test_the_suspicion_covers_the_audio_of_all_deaths() -> None:
    suspect = after(BATCH)
    suspect.lost(KILLED, 50, 1200)
    suspect.lost(BATCH, 80, 1000)
    assert suspect.setup() == m.Suspicion(50, 1200)


@given(st.lists(st.sampled_from([OTHER, BATCH, ALONE, KILLED]), max_size=8))
def test_no_session_survives_more_deaths_alone_than_the_rule_says(deaths: list[m.Lost]) -> None:
    suspect = Suspect()
    blamed = 0
    for death in deaths:
        suspect.lost(death, 0, 10)
        blamed += bool(death.suspects)
        needed = 2 if death.proven else 3
        assert suspect.is_poisonous is (death.suspects == 1 and blamed >= needed) or not death.suspects
        if suspect.is_poisonous:
            return
