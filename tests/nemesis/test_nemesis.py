"""The nemesis detects planted violations and reports none in a correct history; a short real run passes."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.nemesis import schedule as s
from tests.nemesis import timeline
from tests.nemesis.__main__ import attribution, caused, parser, planned, spoken
from tests.nemesis.checker import Limits, check
from tests.nemesis.gaps import gaps
from tests.nemesis.history import (
    Absence,
    Answered,
    Committed,
    Conversation,
    Cut,
    Ended,
    Event,
    Failed,
    Final,
    History,
    Hung,
    Look,
    Memory,
    Moved,
    Opened,
    Partial,
    Probe,
    Readied,
    Slots,
    Stopped,
    Strike,
)
from tests.nemesis.pool import Shape
from tests.nemesis.run import Plan, run, shaped, without_jumps
from tests.nemesis.summary import summary
from tests.nemesis.truth import Utterance, script, truth_of
from tests.nemesis.violation import Violation

# ---- Schedules ----


@given(st.integers(0, 1000), st.sampled_from(sorted(s.PROFILES)), st.integers(1, 4), st.integers(1, 3))
def test_a_seed_draws_the_same_faults_again(seed: int, name: str, workers: int, frontends: int) -> None:
    """In order, within the run's length, against processes that exist."""
    profile, names = s.PROFILES[name], s.Names(workers, frontends)
    stretch_s = s.length_s(profile, names) or 120.0
    timed = s.schedule(profile, seed, stretch_s, names)
    assert timed == s.schedule(profile, seed, stretch_s, names)
    assert [one.at_s for one in timed] == sorted(one.at_s for one in timed)
    assert all(0 <= one.at_s <= stretch_s for one in timed)
    there = {"supervisor", *names.all_brokers, *names.all_workers, *names.all_frontends}
    assert {getattr(one.fault, "name", "supervisor") for one in timed} <= there


def test_leaving_a_kind_out_moves_no_other() -> None:
    mixed = s.PROFILES["mixed"]
    all_kinds = s.schedule(mixed, 7, 300.0, s.Names(2, 2))
    kept = [one for one in all_kinds if s.kind_of(one.fault) in ("worker-kill", "delay")]
    assert s.schedule(s.only(mixed, ["worker-kill", "delay"]), 7, 300.0, s.Names(2, 2)) == kept
    assert {s.kind_of(one.fault) for one in all_kinds} == set(mixed.per_minute)


def test_the_profiles_that_count() -> None:
    workers = planned(parser().parse_args(["--profile", "workers"]))
    assert [type(one.fault) for one in workers.timed] == [s.Kill] * 200
    assert workers.shape.workers == 3
    rolling = planned(parser().parse_args(["--profile", "rolling", "--count", "1"]))
    assert [one.fault for one in rolling.timed] == [
        s.Restart(name) for name in ("worker-1", "worker-2", "frontend-1", "frontend-2", "broker-1", "broker-2")
    ]
    short = planned(parser().parse_args(["--profile", "short", "--count", "500"]))
    assert (short.profile.short_sessions, short.manner.paced, list(short.timed)) == (500, False, [])


def test_jumps_of_the_clock_have_a_control_run() -> None:
    """It lasts as long, and only promises that it keeps can be broken by the jumps."""
    plan = planned(parser().parse_args(["--profile", "clock", "--minutes", "1"]))
    control = without_jumps(plan)
    assert {s.kind_of(one.fault) for one in control.timed} == {"worker-kill"}
    assert control.shape == plan.shape and control.until_s >= plan.timed[-1].at_s
    slow, wrong = Violation("I8", "slow"), Violation("I3", "wrong")
    assert caused([slow], [slow, wrong]) == [wrong]
    assert attribution([slow], [slow, wrong]) == "broken by jumps of the clock: I3; also without them: I8"
    assert attribution([], []) == "broken by jumps of the clock: nothing"


def test_all_kinds_of_faults_are_in_the_profile_of_that_name() -> None:
    drawn = s.schedule(s.PROFILES["all"], 1, 1800.0, s.Names(2, 2))
    assert {s.kind_of(one.fault) for one in drawn} == set(s.DRAWN) - {"clock"}
    assert all(s.detail_of(one.fault) for one in drawn)


# ---- Truth ----


@given(st.integers(0, 100), st.integers(0, 100))
def test_the_truth_covers_every_sample_once(seed: int, number: int) -> None:
    said = script(seed, number, 0.5, 3.0)
    truth = truth_of(said)
    spans = [(utterance.start_s, utterance.end_s) for utterance in truth.utterances]
    assert spans[0][0] == 0 and spans[-1][1] == round(len(said.pcm) / 16000, 3)
    assert all(before[1] == after[0] for before, after in itertools.pairwise(spans))
    assert len(truth.markers) == len(said.flushes)


# ---- Histories to plant violations in ----


def conversation(number: int, begin_s: float = 0.0, seconds: float = 4.0) -> Conversation:
    """As it is without any fault: a partial for each word, finals, answers, the end."""
    said = script(1, number, seconds, seconds)
    truth = truth_of(said)
    events: list[Event] = [Opened(begin_s), Readied(begin_s + 0.01, f"s{number}")]
    markers = dict(zip((edge / 16000 for edge in said.flushes), truth.markers, strict=True))
    for index, utterance in enumerate(truth.utterances):
        words = utterance.text.split()
        for count in range(1, len(words)):
            events.append(Partial(begin_s + utterance.start_s + 0.25 * count, index, " ".join(words[:count])))
        at_s = begin_s + utterance.end_s + 0.01
        events.append(Final(at_s, index, utterance.start_s, utterance.end_s, utterance.text))
        events.append(Committed(at_s, round(utterance.end_s * 16000)))
        if marker := next((mark for edge, mark in markers.items() if abs(edge - utterance.end_s) < 0.001), None):
            events.append(Answered(at_s, marker))
    over_s = begin_s + truth.utterances[-1].end_s
    return Conversation(number, truth, number, events=[*events, Stopped(over_s), Ended(over_s + 0.05, "stopped")])


def clean(sessions: int = 3) -> History:
    """A run in which everything was right: a worker was killed, and sessions of a quiet second have their slots."""
    history = History([conversation(number, seconds=30.0) for number in range(sessions)], workers=2, end_s=40.0)
    history.strikes = [Strike(s.Kill("worker-1"), 5.0, 5.0, 6.0)]
    history.absences = [Absence("worker-1", 5.0, 5.5)]
    history.conversations[0].events.insert(12, Moved(5.02))
    history.freed_s = 30.5
    history.slots = [Slots(at, at + 0.01, sessions if at < 30 else 0, 10, 2) for at in (4.0, 9.5, 15.0, 38.0)]
    history.looks = [Look(at, "frontend-1", True) for at in (3.0, 4.0, 20.0)]
    history.memory = [Memory(float(at), "broker", 10, 50.0, 30) for at in range(120)]
    history.resting = history.rested = {"broker": 30}
    history.probes = [Probe(3.0, "frontend-1", replace(conversation(1000, 3.0, 0.6), probe=True))]
    history.slots[0] = Slots(4.0, 4.01, sessions + 1, 10, 2)
    return history


def broken(history: History, limits: Limits | None = None) -> set[str]:
    return {violation.invariant for violation in check(history, limits)}


@given(st.integers(1, 6))
def test_a_clean_history_breaks_nothing(sessions: int) -> None:
    assert check(clean(sessions)) == []


# ---- Planted violations ----

Plant = Callable[[list[Event], random.Random], None]


def _any_final(events: list[Event], drawn: random.Random) -> int:
    return drawn.choice([index for index, event in enumerate(events) if isinstance(event, Final)])


def _doubled(events: list[Event], drawn: random.Random) -> None:
    index = _any_final(events, drawn)
    events.insert(index + 1, events[index])


def _changed(events: list[Event], drawn: random.Random) -> None:
    index = _any_final(events, drawn)
    final = events[index]
    assert isinstance(final, Final)
    events.insert(index + 1, replace(final, text=f"{final.text} more"))


def _lost(events: list[Event], drawn: random.Random) -> None:
    del events[_any_final(events, drawn)]


def _wrong_text(events: list[Event], drawn: random.Random) -> None:
    index = _any_final(events, drawn)
    final = events[index]
    assert isinstance(final, Final)
    events[index] = replace(final, text="another text")


def _others(events: list[Event], drawn: random.Random) -> None:
    index = _any_final(events, drawn)
    final = events[index]
    assert isinstance(final, Final)
    events[index] = replace(final, text=truth_of(script(1, 1, 30.0, 30.0)).utterances[2].text)


def _others_partial(events: list[Event], _: random.Random) -> None:
    words = truth_of(script(1, 2, 30.0, 30.0)).utterances[0].text.split()
    events.insert(2, Partial(0.1, 0, words[0]))


def _shifted(events: list[Event], drawn: random.Random) -> None:
    index = _any_final(events, drawn)
    final = events[index]
    assert isinstance(final, Final)
    events[index] = replace(final, start_s=final.start_s - 0.25)


def _beyond(events: list[Event], _: random.Random) -> None:
    last = max(event.utterance for event in events if isinstance(event, Final))
    events.insert(-2, Final(30.0, last + 1, 30.0, 31.0, "and on and on"))


def _went_back(events: list[Event], _: random.Random) -> None:
    events.insert(-2, Committed(29.0, 5))


def _forgotten_audio(events: list[Event], _: random.Random) -> None:
    events.insert(-2, Readied(29.0, "again", 5))


def _ended_twice(events: list[Event], _: random.Random) -> None:
    events.append(Ended(30.2, "stopped"))


def _ended_and_failed(events: list[Event], _: random.Random) -> None:
    events.append(Failed(30.2, "internal", "after its end"))


def _spoke_after_its_end(events: list[Event], _: random.Random) -> None:
    events.append(Moved(30.2))


def _never_ended(events: list[Event], _: random.Random) -> None:
    events.pop()


def _fell_silent(events: list[Event], _: random.Random) -> None:
    events[-1] = Hung(95.0)


def _cut_for_nothing(events: list[Event], _: random.Random) -> None:
    events[-1] = Cut(30.0, "closed")


def _failed(events: list[Event], _: random.Random) -> None:
    events[-1] = Failed(30.0, "session-lost", "no worker")


def _answered_twice(events: list[Event], _: random.Random) -> None:
    events[-2:-2] = [Answered(29.0, "0")] * 2


@pytest.mark.parametrize(
    ("plant", "invariant"),
    [
        (_doubled, "I2"),
        (_changed, "I2"),
        (_lost, "I1"),
        (_wrong_text, "I3"),
        (_others, "I4"),
        (_others_partial, "I4"),
        (_shifted, "I1"),
        (_beyond, "I1"),
        (_went_back, "I1"),
        (_forgotten_audio, "I1"),
        (_ended_twice, "I5"),
        (_ended_and_failed, "I5"),
        (_spoke_after_its_end, "I5"),
        (_never_ended, "I5"),
        (_fell_silent, "I5"),
        (_cut_for_nothing, "I5"),
        (_failed, "I3"),
    ],
)
@settings(max_examples=20)
@given(seed=st.integers(0, 30))
def test_a_planted_violation_of_a_session_is_caught(plant: Plant, invariant: str, seed: int) -> None:
    history = clean()
    plant(history.conversations[0].events, random.Random(seed))
    found = check(history)
    assert invariant in {violation.invariant for violation in found}
    assert any("session 0" in violation.sentence and violation.story for violation in found)


def test_an_answer_that_comes_twice_is_caught() -> None:
    history = clean()
    one = history.conversations[0]
    one.truth = replace(one.truth, markers=("0",))
    one.events = [event for event in one.events if not isinstance(event, Answered)]
    assert "I1" in broken(history)
    _answered_twice(one.events, random.Random())
    assert "I2" in broken(history)
    one.truth = replace(one.truth, markers=())
    assert "I4" in broken(history)


def _leaked_slot(history: History) -> None:
    history.slots[-1] = replace(history.slots[-1], in_use=1)


def _never_freed(history: History) -> None:
    history.freed_s = None


def _lost_slot(history: History) -> None:
    history.slots[2] = replace(history.slots[2], in_use=2)


def _crowded_queue(history: History) -> None:
    history.slots[2] = replace(history.slots[2], pending_chunks=10_000)


def _fat(history: History) -> None:
    history.memory.append(Memory(20.0, "worker-1", 11, 5000.0, 30))


def _growing(history: History) -> None:
    history.memory = [Memory(float(at), "broker", 10, 50.0 + at, 30) for at in range(120)]


def _leaked_descriptors(history: History) -> None:
    history.rested = {"broker": 40}


def _ready_without_workers(history: History) -> None:
    history.absences = [Absence("worker-1", 5.0, 9.0), Absence("worker-2", 6.0, 9.5)]
    history.looks.append(Look(8.0, "frontend-1", True))


def _ready_without_registered_workers(history: History) -> None:
    history.slots[1:1] = [Slots(at, at + 0.01, 0, 0, 0) for at in (5.1, 5.6, 6.1, 6.6)]
    history.looks.append(Look(6.4, "frontend-1", True))


def _probe_refused(history: History) -> None:
    probe = history.probes[0].conversation
    probe.events = [Opened(3.0), Failed(3.1, "no-worker", "none")]


def _unready_though_whole(history: History) -> None:
    history.looks.append(Look(20.0, "frontend-1", False))


def _refused_though_whole(history: History) -> None:
    truth = history.conversations[0].truth
    history.conversations.append(Conversation(9, truth, events=[Opened(20.0), Failed(20.1, "no-worker", "none")]))


@pytest.mark.parametrize(
    ("plant", "invariant"),
    [
        (_leaked_slot, "I6"),
        (_never_freed, "I6"),
        (_lost_slot, "I6"),
        (_crowded_queue, "I7"),
        (_fat, "I7"),
        (_growing, "I7"),
        (_leaked_descriptors, "I7"),
        (_ready_without_workers, "I8"),
        (_ready_without_registered_workers, "I8"),
        (_probe_refused, "I8"),
        (_unready_though_whole, "I8"),
        (_refused_though_whole, "I8"),
    ],
)
def test_a_planted_violation_of_the_pool_is_caught(plant: Callable[[History], None], invariant: str) -> None:
    history = clean()
    plant(history)
    assert broken(history) == {invariant}


# ---- What faults excuse ----


def test_a_client_is_cut_with_its_frontend_and_only_then() -> None:
    """The events that it received are still checked."""
    history = clean()
    history.strikes.append(Strike(s.Kill("frontend-1"), 20.0, 20.0, 21.0))
    one = history.conversations[0]
    one.events = [*(event for event in one.events if event.at_s < 20.0), Cut(20.1, "reset")]
    history.slots = []
    assert check(history) == []
    assert broken(history, Limits(resumes=True)) == {"I5"}
    _doubled(one.events, random.Random(1))
    assert broken(history) == {"I2"}


def test_a_text_that_the_death_of_the_pool_cut_is_no_wrong_text() -> None:
    history = clean()
    one = history.conversations[0]
    events = [event for event in one.events if event.at_s < 20.0]
    number = sum(isinstance(event, Final) for event in events)
    one.events = [*events, Final(20.3, number, 20.0, 20.1, "half"), Cut(20.4, "reset")]
    history.slots = []
    history.strikes.append(Strike(s.KillSupervisor(), 20.2, 21.0, 25.0))
    assert check(history) == []
    history.strikes[-1] = Strike(s.Kill("frontend-1"), 20.2, 20.2, 25.0)
    assert "I3" in broken(history)


def test_a_lost_clients_slot_is_kept_for_its_grace_period_only() -> None:
    history = clean(1)
    history.strikes = [Strike(s.Kill("frontend-1"), 5.0, 5.0, 6.0)]
    one = history.conversations[0]
    one.events = [*(event for event in one.events if event.at_s < 5.0), Cut(5.1, "reset")]
    history.slots = [Slots(12.0, 12.0, 1, 0, 2)]
    history.freed_s = 15.0
    assert broken(history, Limits(grace_s=10.0)) == set()
    assert broken(history, Limits(grace_s=0.0)) == {"I6"}


def test_a_client_that_resumes_is_one_session() -> None:
    """Finals across connections form one sequence; a frontend that goes away does not end the session."""
    history = clean()
    one = history.conversations[0]
    half = next(index for index, event in enumerate(one.events) if event.at_s > 15.0)
    away: list[Event] = [Failed(15.0, "going-away", "bye"), Opened(15.1, True), Readied(15.2, "s0", 16 * 15_000)]
    one.events[half:half] = away
    assert check(history) == []
    final = next(event for event in one.events if isinstance(event, Final))
    one.events.insert(half + 3, final)
    assert broken(history) == {"I2"}


def test_a_session_may_be_refused_while_the_pool_is_not_whole() -> None:
    history = clean()
    truth = history.conversations[0].truth
    refused: list[Event] = [Opened(5.2), Failed(5.3, "no-worker", "none")]
    history.conversations.append(Conversation(9, truth, events=refused))
    assert check(history) == []
    refused[-1] = Failed(5.3, "bad-message", "what?")
    assert broken(history) == {"I3"}


def test_an_orderly_restart_excuses_no_refusal_where_clients_resume() -> None:
    """Another frontend could have served the session that a draining frontend refused."""
    history = clean()
    history.strikes = [Strike(s.Restart("frontend-1"), 5.0, 10.0, 11.0)]
    history.absences, history.slots = [], []
    refused: list[Event] = [Opened(7.2), Failed(7.3, "going-away", "bye")]
    history.conversations.append(Conversation(9, history.conversations[0].truth, events=refused))
    assert check(history) == []
    assert broken(history, Limits(resumes=True)) == {"I8"}


def test_a_probe_is_excused_only_by_a_fault_that_need_not_be_detected_yet() -> None:
    history = clean()
    history.probes[0].conversation.events = [Opened(4.9), Failed(5.1, "no-worker", "none")]
    history.probes[0] = replace(history.probes[0], at_s=4.9)
    del history.slots[0]
    assert check(history) == []
    history.strikes[0].at_s = 2.0
    assert broken(history) == {"I8"}


def test_texts_of_an_engine_that_is_not_exact_are_compared_as_wholes() -> None:
    history = clean()
    for one in history.conversations:
        one.truth = replace(one.truth, grows=False)
        one.events.insert(2, Partial(0.1, 0, "still guessing"))
    assert check(history) == []
    one.truth = replace(one.truth, utterances=(*one.truth.utterances, Utterance(30.0, 31.0, "missing")))
    assert broken(history) == {"I1"}


# ---- Gaps ----


def test_a_gap_belongs_to_the_fault_in_it() -> None:
    history = clean(1)
    one = history.conversations[0]
    one.events = [event for event in one.events if not (isinstance(event, Partial) and 5.0 < event.at_s < 6.5)]
    one.events = [event for event in one.events if not (isinstance(event, Final) and 5.0 < event.at_s < 6.5)]
    (gap,) = gaps(history)
    assert (gap.kind, gap.moved) == ("worker-kill", True)
    assert 1.0 < gap.length_s < 2.5
    history.strikes = []
    assert [gap.kind for gap in gaps(history)] == ["none"]


# ---- What is shown ----


def test_a_run_is_told_and_drawn() -> None:
    history = clean()
    violations = [Violation("I1", "session 1: <lost>", "  story")]
    text = summary(history, violations, gaps(history), [0.001], ["Traceback (most recent call last):", "  boom"])
    assert "3 whole" in text and "worker-kill 1" in text
    assert "BROKEN 1 times" in text and "I2 finals never change or repeat: OK" in text
    assert "tracebacks in the log: 1" in text
    drawn = timeline.page("a <title>", history, violations)
    assert drawn.startswith("<!doctype html>")
    assert "worker-kill" in drawn and "a &lt;title&gt;" in drawn and "&lt;lost&gt;" in drawn
    assert "http" not in drawn.replace("http://www.w3.org", "")


# ---- For real ----

PATIENT = Limits(quiet_s=30.0, notice_s=30.0, settle_s=30.0, descriptors_more_max=8, cut_s_max=10.0, orphans_s=25.0)
"""Generous times: on a busy machine the promises are checked, not how fast they are kept."""


@pytest.mark.timeout(600)
def test_a_mix_of_all_faults_keeps_all_promises() -> None:
    """Two minutes: sessions of every dialect, real processes, and faults of each kind that this machine supports."""
    faults: list[s.Fault] = [
        s.Delay("worker-2", 30.0, 1.0),
        s.Kill("worker-1"),
        s.Pause("worker-2", 0.5),
        s.Kill("frontend-1"),
        s.FillDisk("worker-2", 0.5),
        s.ExhaustDescriptors("frontend-2", 0.5),
        s.Partition("frontend-2", 0.5),
        s.Kill("broker-1"),
        s.BadPeer("workers", 1.0),
        s.BadPeer("frontends", 1.0),
        s.Flood("keepalive", 1.5),
        s.Flood("slow-body", 1.5),
        s.Poison(s.POISONS[1]),
        s.Restart("worker-1"),
        s.Restart("frontend-2"),
        s.Restart("broker-2"),
        s.LimitMemory("worker-2", 2.0, 1.0),
        s.KillSupervisor(),
    ]
    timed = [s.Timed(1.0 * number, fault) for number, fault in enumerate(faults)]
    dialects = spoken()
    plan = Plan(5, s.Profile(spares=True), timed, Shape(), len(dialects), 2.0, 5.0, dialects=dialects)
    outcome = asyncio.run(run(shaped(plan)))
    found = check(outcome.history, PATIENT)
    assert not found, "\n".join(map(str, found)) + "\n".join(outcome.log[-60:])
    impossible = {fault for fault, _ in outcome.history.skipped}
    assert impossible <= {fault for fault in faults if isinstance(fault, s.LimitMemory)}, outcome.history.skipped
    assert len(outcome.history.strikes) == len(faults) - len(impossible)
    assert any(isinstance(event, Moved) for one in outcome.history.conversations for event in one.events)
    assert {one.dialect for one in outcome.history.conversations if one.whole} == set(dialects)
