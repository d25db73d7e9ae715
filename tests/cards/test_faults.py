"""Injected faults and the timing mode: each fault appears as asr_card.h specifies, and no call hangs."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from asr_workers.cards.library import Card, CardError, CardLibrary, CardStatus, Completion, _Buffers
from tests.cards.reference import speechlike

MODES = ("compute", "timing")
PATIENCE_MS = 30_000
SLOTS = 3
STEP = 2
"""The submit with which the fault happens."""


@contextmanager
def faulty(library: CardLibrary, model: Path, mode: str, fault: str) -> Iterator[Card]:
    """A card with SLOTS open slots, and its first STEP - 1 submits done."""
    card = library.open(0, f"mode={mode},capacity=40,fault={fault}@{STEP}" + (",latency_ms=1" * (mode == "timing")))
    try:
        card.load(model)
        for slot in range(SLOTS):
            card.open(slot)
        for tag in range(STEP - 1):
            submit(card, tag)
            assert [completion.status for completion in polled(card, SLOTS)] == [0] * SLOTS
        yield card
    finally:
        card.close_card()


def submit(card: Card, tag: int) -> None:
    card.submit([(slot, tag, pcm) for slot, pcm in enumerate(speechlike(3, SLOTS))])


def polled(card: Card, count: int) -> list[Completion]:
    completions: list[Completion] = []
    while len(completions) < count:
        more = card.poll(PATIENCE_MS)
        assert more, "the card completes nothing"
        completions += more
    return completions


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_a_card_that_hangs(simulator: CardLibrary, lively: Path, mode: str) -> None:
    """Its health does not show it; only the missing completions do."""
    with faulty(simulator, lively, mode, "hang") as card:
        submit(card, 1)
        assert card.poll(100) == []
        assert card.health().is_ok
        with pytest.raises(CardError) as error:
            card.close(0)
        assert error.value.code == CardStatus.BUSY


def test_a_lost_link(simulator: CardLibrary, lively: Path, mode: str) -> None:
    with faulty(simulator, lively, mode, "link") as card:
        for call in (lambda: submit(card, 1), lambda: card.poll(0), lambda: card.reset(0), card.identity):
            with pytest.raises(CardError) as error:
                call()
            assert error.value.code == CardStatus.LINK
        assert not card.health().is_ok


def test_a_lost_link_ends_a_poll_that_waits(simulator: CardLibrary, lively: Path, mode: str) -> None:
    codes: list[int] = []
    started = threading.Event()

    def wait(card: Card) -> None:
        started.set()
        with pytest.raises(CardError) as error:
            card.poll(PATIENCE_MS)
        codes.append(error.value.code)

    with faulty(simulator, lively, mode, "link") as card:
        waiting = threading.Thread(target=wait, args=(card,))
        waiting.start()
        assert started.wait(PATIENCE_MS / 1000)
        with pytest.raises(CardError):
            submit(card, 1)
        waiting.join(PATIENCE_MS / 3000)
        is_waiting = waiting.is_alive()
        waiting.join()
        assert (is_waiting, codes) == (False, [CardStatus.LINK])


def test_heat(simulator: CardLibrary, lively: Path, mode: str) -> None:
    with faulty(simulator, lively, mode, "heat") as card:
        for tag in (1, 2):
            submit(card, tag)
            assert {completion.status for completion in polled(card, SLOTS)} == {CardStatus.HEAT}
        health = card.health()
        assert not health.is_ok
        assert health.temperature_c > 100
        assert health.errors == 2 * SLOTS


def test_a_memory_error(simulator: CardLibrary, lively: Path, mode: str) -> None:
    with faulty(simulator, lively, mode, "ecc") as card:
        submit(card, 1)
        statuses = {completion.slot: completion.status for completion in polled(card, SLOTS)}
        assert statuses == {0: CardStatus.ECC, 1: 0, 2: 0}
        assert (card.health().ecc_errors, card.health().is_ok) == (1, False)


def test_a_card_that_resets_itself(simulator: CardLibrary, lively: Path, mode: str) -> None:
    """Chunks in flight and all states are lost: the next chunk is step 0."""
    with faulty(simulator, lively, mode, "reset") as card:
        submit(card, 1)
        assert {completion.status for completion in polled(card, SLOTS)} == {CardStatus.RESET}
        submit(card, 2)
        assert {(completion.status, completion.step) for completion in polled(card, SLOTS)} == {(0, 0)}
        assert (card.health().resets, card.health().errors) == (1, SLOTS)


def test_a_completion_too_many(simulator: CardLibrary, lively: Path, mode: str) -> None:
    with faulty(simulator, lively, mode, "count") as card:
        submit(card, 1)
        with pytest.raises(CardError) as error:
            polled(card, SLOTS + 1)
        assert error.value.code == CardStatus.COUNT


def test_a_completion_too_many_frees_no_slot(
    simulator: CardLibrary, lively: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunk after the one that completes twice is still in flight."""
    pcm = speechlike(3, 1)[0]
    with faulty(simulator, lively, mode, "count") as card:
        monkeypatch.setattr(card, "_buffers", _Buffers(1, top_k=False))
        card.submit([(0, 1, pcm)])
        card.submit([(0, 2, pcm)])
        assert [completion.tag for completion in polled(card, 1) + polled(card, 1)] == [1, 1]
        with pytest.raises(CardError) as error:
            card.close(0)
        assert error.value.code == CardStatus.BUSY


def test_a_completion_too_few(simulator: CardLibrary, lively: Path, mode: str) -> None:
    with faulty(simulator, lively, mode, "drop") as card:
        submit(card, 1)
        assert {completion.slot for completion in polled(card, SLOTS - 1)} == {1, 2}
        assert card.poll(50) == []


# The timing mode


def test_capacities(simulator: CardLibrary) -> None:
    """CAI-05: 2000 streams of base, 800 of large."""
    for options, capacity in (("arch=base", 2000), ("arch=large", 800), ("capacity=10", 10), ("", 2000)):
        card = simulator.open(0, f"mode=timing,{options}".rstrip(","))
        identity = card.identity()
        assert (identity.capacity, identity.slots_max) == (capacity, capacity + -(-capacity // 4))
        card.close_card()


def test_too_many_streams_miss_their_deadline(simulator: CardLibrary) -> None:
    """A card for 10 streams gets 8 chunks of each of 12 slots: at the speed of 12.5 streams this exceeds 60 ms."""
    card = simulator.open(0, "mode=timing,capacity=10,latency_ms=1")
    for slot in range(12):
        card.open(slot)
    card.submit_arrays(np.tile(np.arange(12), 8), np.repeat(np.arange(8), 12), np.zeros((96, 960), np.int16))
    polled(card, 96)
    health = card.health()
    assert health.completed == 96
    assert 70 < health.deadline_misses < 96
    card.close_card()


def test_the_full_card_at_once(simulator: CardLibrary) -> None:
    """All 2000 streams submit a chunk in one call; the card takes the simulated time and misses no deadline."""
    card = simulator.open(0, "mode=timing")
    slots = np.arange(2000)
    for slot in slots.tolist():
        card.open(slot)
    card.submit_arrays(slots, slots + 7, np.zeros((2000, 960), np.int16))
    seen = np.zeros(2000, np.int64)
    while seen.sum() < 2000:
        completions = card.poll_arrays(PATIENCE_MS)
        assert len(completions) and not completions.status.any()
        assert (completions.tags == completions.slots + np.uint64(7)).all()
        np.add.at(seen, completions.slots, 1)
    assert (seen == 1).all()
    card.close_card()


def test_tokens_of_the_timing_mode_depend_on_the_audio_alone(simulator: CardLibrary) -> None:
    """A session that moves to another card gets the same tokens again."""
    decoded = []
    for seed in (1, 2):
        card = simulator.open(0, f"mode=timing,capacity=10,latency_ms=0,seed={seed}")
        card.open(seed)
        tokens = []
        for tag, pcm in enumerate(speechlike(3, 40)):
            card.submit([(seed, tag, pcm)])
            tokens += [completion.tokens for completion in polled(card, 1)]
        decoded.append(tokens)
        card.close_card()
    assert decoded[0] == decoded[1]
    assert any(decoded[0])
