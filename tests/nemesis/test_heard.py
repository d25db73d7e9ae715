"""The checks of dialects that cannot resume find planted faults, and report none in a correct history."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_workers.engines.fake import WORD_SAMPLES, word
from tests.nemesis import schedule as s
from tests.nemesis.checker import Limits, check
from tests.nemesis.history import (
    GOING_AWAY,
    Conversation,
    Cut,
    Ended,
    Failed,
    Heard,
    History,
    Opened,
    Poisoned,
    Readied,
    Stopped,
    Strike,
)
from tests.nemesis.truth import Script, noise, truth_of
from tests.nemesis.words import Words, compare, due_words, words_of

WORDS = 40
FRAME_SAMPLES = 1600


def conversation(number: int = 0, words: int = WORDS) -> Conversation:
    """A session of a dialect without any fault: its whole text grows by a word each 250 ms, and it completes."""
    truth = truth_of(Script(noise(1, number, words * WORD_SAMPLES)))
    text = " ".join(utterance.text for utterance in truth.utterances).split()
    heard = [Heard(0.25 * count, " ".join(text[:count])) for count in range(1, words + 1)]
    over_s = 0.25 * words
    events = [Opened(0.0), Readied(0.1, ""), *heard, Stopped(over_s), Ended(over_s + 0.1, "complete")]
    return Conversation(
        number, truth, number, events=events, dialect="caiman", sent_samples=truth.samples, all_sent=True
    )


def history(*conversations: Conversation) -> History:
    made = History([*conversations, conversation(99)], workers=2, end_s=60.0)
    made.freed_s = 10.0
    return made


def broken(made: History, limits: Limits | None = None) -> set[str]:
    return {violation.invariant for violation in check(made, limits)}


def cut_after(one: Conversation, words: int, sent_words: float, end: Cut | Failed | Ended) -> Conversation:
    """The session ends after so many words were received, and audio of so many was sent."""
    texts = [event for event in one.events if isinstance(event, Heard)][:words]
    one.events = [*one.events[:2], *texts, end]
    one.sent_samples, one.all_sent = round(sent_words * WORD_SAMPLES), False
    return one


# ---- Planted faults ----

Plant = Callable[[list[str], random.Random], list[str]]


def _lose(words: list[str], drawn: random.Random) -> list[str]:
    at = drawn.randrange(len(words))
    return words[:at] + words[at + 1 :]


def _double(words: list[str], drawn: random.Random) -> list[str]:
    at = drawn.randrange(len(words))
    return [*words[:at], words[at], *words[at:]]


def _change(words: list[str], drawn: random.Random) -> list[str]:
    at = drawn.randrange(len(words))
    return [*words[:at], "changed", *words[at + 1 :]]


def _swap(words: list[str], drawn: random.Random) -> list[str]:
    at = drawn.randrange(len(words) - 1)
    return [*words[:at], words[at + 1], words[at], *words[at + 2 :]]


def _others(words: list[str], drawn: random.Random) -> list[str]:
    at = drawn.randrange(len(words))
    return [
        *words[:at],
        truth_of(Script(noise(1, 99, 9 * WORD_SAMPLES))).utterances[0].text.split()[0],
        *words[at + 1 :],
    ]


@pytest.mark.parametrize(
    ("plant", "invariants"),
    [(_lose, {"I1"}), (_double, {"I2"}), (_change, {"I3"}), (_swap, {"I2"}), (_others, {"I4"})],
)
@settings(max_examples=20)
@given(seed=st.integers(0, 200))
def test_a_planted_word_is_found(plant: Plant, invariants: set[str], seed: int) -> None:
    one = conversation()
    index = len(one.events) - 3
    text = one.events[index]
    assert isinstance(text, Heard)
    one.events[index] = replace(text, text=" ".join(plant(text.text.split(), random.Random(seed))))
    assert broken(history(one)) == invariants


def test_a_correct_history_breaks_nothing() -> None:
    assert broken(history(conversation())) == set()


def test_a_repeated_partial_is_no_fault() -> None:
    """After a move, a text may be shorter for a moment."""
    one = conversation()
    one.events.insert(20, one.events[10])
    assert broken(history(one)) == set()


def test_a_session_that_ends_as_if_complete_is_found() -> None:
    one = cut_after(conversation(), 20, 20, Ended(5.1, "complete"))
    assert broken(history(one)) == {"I5"}


def test_a_goodbye_is_excused_only_by_a_stop_and_covers_all_that_was_sent() -> None:
    away = Failed(5.1, GOING_AWAY, "")
    one = cut_after(conversation(), 20, 23.9, away)
    assert broken(history(one)) == {"I3"}
    made = history(one)
    made.strikes = [Strike(s.Restart("frontend-1"), 4.0, 6.0, 7.0)]
    assert broken(made) == set()
    cut_after(one, 20, 25, away)
    assert broken(made) == {"I1"}


def test_a_goodbye_may_end_in_the_middle_of_a_word() -> None:
    one = cut_after(conversation(), 20, 20.5, Failed(5.2, GOING_AWAY, ""))
    last = one.events[-2]
    assert isinstance(last, Heard)
    one.events.insert(-1, Heard(5.1, f"{last.text} half"))
    made = history(one)
    made.strikes = [Strike(s.Restart("frontend-1"), 4.0, 6.0, 7.0)]
    assert broken(made) == set()
    one.events.insert(-1, Heard(5.15, f"{last.text} wrong half"))
    assert broken(made) == {"I3"}


def test_a_cut_needs_a_dead_frontend_and_loses_the_last_moment_only() -> None:
    one = cut_after(conversation(), 20, 24, Cut(6.0, "reset"))
    assert broken(history(one)) == {"I1", "I5"} - {"I1"}
    made = history(one)
    made.strikes = [Strike(s.Kill("frontend-1"), 5.9, 5.9, 7.0)]
    assert broken(made) == set()
    cut_after(one, 20, 36, Cut(6.0, "reset"))
    assert broken(made) == {"I1"}
    made.strikes.append(Strike(s.Pause("worker-1", 4.0), 4.0, 8.0, 8.5))
    assert broken(made) == set()


def test_a_silent_channel_is_excused_by_a_death_before_the_silence() -> None:
    one = cut_after(conversation(), 20, 20, Cut(25.0, "nothing arrived any more", 20.0))
    made = history(one)
    made.strikes = [Strike(s.Kill("frontend-1"), 5.2, 5.2, 6.0)]
    assert one.over_s == 5.0
    assert broken(made) == set()
    made.strikes = [Strike(s.Kill("frontend-1"), 15.0, 15.0, 16.0)]
    assert broken(made) == {"I5"}


def test_poison_and_orphans() -> None:
    made = history(conversation())
    strike = Strike(s.Poison(-32002), 3.0, 3.0, 6.0)
    made.strikes, made.poisoned = [strike], [Poisoned(strike, "poisonous-audio", 2)]
    assert broken(made) == set()
    made.poisoned = [Poisoned(strike, "poisonous-audio", 3)]
    assert broken(made) == {"I9"}
    made.poisoned = [Poisoned(strike, "session-lost", 2)]
    assert broken(made) == {"I9"}
    made = history(conversation())
    made.strikes = [Strike(s.KillSupervisor(), 3.0, 8.0, 12.0)]
    assert broken(made) == set()
    made.strikes = [Strike(s.KillSupervisor(), 3.0, 18.0, 22.0)]
    assert broken(made) == {"I10"}


def test_a_bad_peer_excuses_no_refusal() -> None:
    made = history(conversation())
    refused = Conversation(7, conversation().truth, dialect="yap", events=[Opened(4.0), Failed(4.1, "closed-1013", "")])
    made.conversations.append(refused)
    made.strikes = [Strike(s.Flood("pings", 2.0), 3.0, 5.0, 5.5)]
    assert broken(made) == set()
    made.strikes = [Strike(s.BadPeer("workers", 2.0), 3.0, 5.0, 5.5)]
    assert broken(made) == {"I8"}


# ---- Counts of words ----


@given(st.lists(st.sampled_from([_lose, _double, _change]), max_size=6), st.integers(0, 100))
def test_planted_words_are_counted(plants: list[Plant], seed: int) -> None:
    """Each plant in a stretch of its own, so that they do not meet."""
    drawn = random.Random(seed)
    stretches = [[f"{number}-{index}" for index in range(8)] for number in range(len(plants))]
    heard = [
        word for plant, stretch in zip(plants, stretches, strict=True) for word in ["x", *plant(stretch, drawn), "y"]
    ]
    expected = [word for stretch in stretches for word in ["x", *stretch, "y"]]
    counts = [plants.count(plant) for plant in (_lose, _double, _change)]
    assert compare(expected, heard) == Words(len(expected), *counts)


def test_what_is_due() -> None:
    one = conversation()
    assert due_words(one) == WORDS
    assert due_words(cut_after(one, 20, 24.5, Cut(6.0, "reset"))) == 24
    assert due_words(cut_after(one, 20, 24.5, Failed(6.0, GOING_AWAY, ""))) == 20
    assert due_words(cut_after(one, 20, 24.5, Failed(6.0, GOING_AWAY, "", 5.8))) == 23
    assert due_words(cut_after(one, 20, 24.5, Ended(6.0, "complete"))) == WORDS


@pytest.mark.parametrize(
    ("end", "expected"),
    [
        (Cut(6.0, "reset"), Words(24, 4)),
        (Failed(6.0, GOING_AWAY, ""), Words(20)),
        (Failed(6.0, GOING_AWAY, "", 5.6), Words(22, 2)),
        (Ended(6.0, "complete"), Words(WORDS, 20)),
    ],
)
def test_words_that_a_client_lacks_at_its_end(end: Cut | Failed | Ended, expected: Words) -> None:
    one = cut_after(conversation(), 20, 24.5, end)
    assert words_of(one, noise(1, 0, WORDS * WORD_SAMPLES), FRAME_SAMPLES) == expected


def test_the_beginning_of_a_word_is_not_a_changed_word() -> None:
    pcm = noise(1, 0, WORDS * WORD_SAMPLES)
    one = cut_after(conversation(), 20, 20.6, Failed(6.0, GOING_AWAY, ""))
    half = word(pcm[20 * WORD_SAMPLES : 51 * FRAME_SAMPLES])
    text = one.text()
    one.events.insert(-1, Heard(5.9, f"{text} {half}"))
    assert words_of(one, pcm, FRAME_SAMPLES) == Words(16)
    other = word(np.ones(9, np.int16))
    one.events.insert(-1, Heard(5.9, f"{text} {other}"))
    assert words_of(one, pcm, FRAME_SAMPLES).changed == 1
