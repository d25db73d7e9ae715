"""The engine `card` on a fake card, whose text depends on the samples: segments on card slots, moves, failures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from asr_proto.audio import Pcm16
from asr_proto.errors import BadRequest, SetupError
from asr_workers.cards import license, selftest
from asr_workers.cards.errors import CardError, CardStatus
from asr_workers.cards.failure import CardFailed
from asr_workers.cards.library import CardIdentity
from asr_workers.engines.base import Advanced, Chunk, Drained, Hypothesis, Output, SlotOptions
from asr_workers.engines.card import setup as card_setup
from asr_workers.engines.card.config import CardConfig
from asr_workers.engines.card.engine import CardEngine
from tests.workers.card import card_parts as parts
from tests.workers.card.card_parts import CHUNK, FakeCard, finals, hear, noise, said, spoken, write_model

Make = Callable[..., tuple[CardEngine, FakeCard]]


class FakeLibrary:
    """A library with one card, which the test made. With the option `physical=1` it is a physical card."""

    card: FakeCard

    def __init__(self, path: Path | None, options: str = "") -> None:
        self.card.is_physical |= "physical=1" in options.split(",")

    def count(self) -> int:
        return 1

    def identity(self, index: int) -> object:
        return self.card.identity()

    def open(self, index: int, options: str = "") -> FakeCard:
        return self.card


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("card") / "small.carm")


@pytest.fixture(scope="module")
def make(model: Path) -> Make:
    """An engine and its card."""

    def made(card: FakeCard | None = None, **changes: object) -> tuple[CardEngine, FakeCard]:
        FakeLibrary.card = card or FakeCard()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(card_setup, "CardLibrary", FakeLibrary)
            config = {"device": "card:0", "model": model, "slots": 2, **changes}
            engine = CardEngine(CardConfig(**config))  # type: ignore[arg-type]
        FakeLibrary.card.largest_submit = 0
        return engine, FakeLibrary.card

    return made


def offline(pcm: Pcm16, *, resets: bool = True) -> str:
    """The text of one run on the fake card."""
    history = 0

    def decode(chunk: Pcm16) -> list[int]:
        nonlocal history
        history, tokens = spoken(history, chunk)
        return tokens

    def reset() -> None:
        nonlocal history
        history = 0

    return parts.offline(pcm, decode, reset, resets=resets)


def test_a_session_says_what_its_audio_says(make: Make) -> None:
    engine, card = make()
    pcm = noise(70.5)
    engine.open(0, SlotOptions(), None)
    outputs = hear(engine, 0, pcm)
    assert said(outputs) == offline(pcm)
    assert isinstance(outputs[-1], Drained)
    (last,) = finals(outputs)[-1:]
    assert last.snapshot is not None and last.snapshot.sample == len(pcm)
    engine.close(0)
    assert not card.open_slots


@pytest.mark.parametrize("chunks", [249, 250, 251, 450, 700])
def test_long_audio_is_said_in_segments(make: Make, chunks: int) -> None:
    """CAI-16, CAI-17: streaming equals the whole audio at once."""
    engine, card = make()
    pcm = noise(chunks, seed=chunks)
    engine.open(0, SlotOptions(partials=False), None)
    assert said(hear(engine, 0, pcm)) == offline(pcm)
    assert len(card.open_slots) == 1
    assert chunks > 250 or offline(pcm) == offline(pcm, resets=False)


def test_without_state_resets_a_run_is_one_segment(make: Make) -> None:
    """CAI-16: --no-state-resets."""
    engine, card = make(state_resets=False)
    pcm = noise(600, seed=4)
    engine.open(0, SlotOptions(), None)
    assert said(hear(engine, 0, pcm)) == offline(pcm, resets=False)
    assert card.reserved == 2 and card.largest_submit == 1


def test_a_flush_begins_a_new_run(make: Make) -> None:
    engine, card = make()
    first, second = noise(320.3, seed=1), noise(40, seed=2)
    engine.open(1, SlotOptions(), None)
    assert said(hear(engine, 1, first)) == offline(first)
    assert len(card.open_slots) == 1, "the overlap's slot is free again"
    outputs = hear(engine, 1, second)
    assert said(outputs) == offline(second)
    assert finals(outputs)[0].start_sample >= len(first)


def test_a_flush_of_nothing_is_answered(make: Make) -> None:
    engine, _ = make()
    engine.open(0, SlotOptions(), None)
    outputs = hear(engine, 0, noise(0))
    assert [type(output) for output in outputs] == [Advanced, Drained]


@pytest.mark.parametrize("late", [False, True])
def test_neighbors_change_nothing(make: Make, late: bool) -> None:
    """Completions that come late and in any order do not change the text either."""
    engine, card = make(FakeCard(10, 20, seed=3 if late else None), slots=8)
    pcms = {slot: noise(300 + 7 * slot, seed=slot) for slot in range(8)}
    left = {slot: list(pcm.reshape(-1, CHUNK)) for slot, pcm in pcms.items()}
    outputs: list[Output] = []
    for slot in pcms:
        engine.open(slot, SlotOptions(), None)
    while any(left.values()):
        taken = [slot for slot in left if left[slot] and slot not in engine.in_flight()]
        outputs += engine.step([Chunk(slot, left[slot].pop(0)) for slot in taken], 0.0)
    for slot, pcm in pcms.items():
        outputs += hear(engine, slot, pcm[:0])
    for slot, pcm in pcms.items():
        assert said([output for output in outputs if output.slot == slot]) == offline(pcm)
    assert late or card.largest_submit == 16


@pytest.mark.parametrize("slots_max", [2, 3])
def test_an_overlap_without_a_card_slot_catches_up(make: Make, slots_max: int) -> None:
    """Two sessions that begin together need four card slots. With fewer, the text is the same, but later."""
    engine, card = make(FakeCard(10, slots_max))
    pcms = [noise(520, seed=seed) for seed in (5, 6)]
    outputs: list[list[Output]] = [[], []]
    for slot in (0, 1):
        engine.open(slot, SlotOptions(), None)
    waited = 0
    for place in range(0, 520 * CHUNK, CHUNK):
        while engine.in_flight():
            waited += 1
            assert engine.pending()
            for output in engine.step([], 0.0):
                outputs[output.slot].append(output)
        for output in engine.step([Chunk(slot, pcms[slot][place : place + CHUNK]) for slot in (0, 1)], 0.0):
            outputs[output.slot].append(output)
    for slot in (0, 1):
        outputs[slot] += hear(engine, slot, pcms[slot][:0])
        assert said(outputs[slot]) == offline(pcms[slot])
    assert waited
    assert not engine.pending()
    for slot in (0, 1):
        engine.close(slot)
    assert not card.open_slots


def test_slots_are_used_again(make: Make) -> None:
    """A session is closed in an overlap or outside one, with chunks waiting. No card slot or text leaks."""
    engine, card = make(FakeCard(10, 3, seed=1))
    for chunks in (1, 230, 260):
        for slot in (0, 1):
            engine.open(slot, SlotOptions(), None)
            hear(engine, slot, noise(chunks, seed=slot), flush=False)
            engine.step([Chunk(slot, noise(1))], 0.0)
        for slot in (1, 0):
            engine.close(slot)
        while engine.pending():
            assert not engine.step([], 0.0)
        assert not card.open_slots and not engine.pending() and not engine.in_flight()
    pcm = noise(50, seed=9)
    engine.open(0, SlotOptions(), None)
    assert said(hear(engine, 0, pcm)) == offline(pcm)


@settings(max_examples=40)
@given(st.integers(0, 620), st.booleans(), st.booleans())
def test_a_session_that_moves_says_the_same(make: Make, at: int, resets: bool, asked: bool) -> None:
    """Another card continues from the last snapshot, or from a checkpoint, with the finals of an undisturbed run."""
    pcm = noise(620.4, seed=11)
    first, _ = make(FakeCard(seed=at), state_resets=resets)
    first.open(0, SlotOptions(), None)
    heard = hear(first, 0, pcm[: at * CHUNK], flush=False)
    given_out = [out.snapshot for out in heard if isinstance(out, Advanced | Hypothesis) and out.snapshot]
    if asked or not given_out:
        advanced = first.snapshot(0)
        assert advanced is not None
        snapshot = advanced.snapshot
    else:
        snapshot = given_out[-1]
    second, _ = make(state_resets=resets)
    second.open(1, SlotOptions(), snapshot)
    outputs = hear(second, 1, pcm[snapshot.sample :])
    text_before = [final.text for final in finals(heard)]
    assert " ".join([*text_before, *[final.text for final in finals(outputs)]]) == offline(pcm, resets=resets)
    spans = [(final.start_sample, final.end_sample) for final in [*finals(heard), *finals(outputs)]]
    assert spans == sorted(spans)
    assert at * CHUNK - snapshot.sample <= card_setup.UNCOMMITTED_S_MAX * 16000
    assert len(snapshot.state) < 20_000


# ---- What is refused ----


def test_another_language_is_refused(make: Make) -> None:
    engine, card = make()
    with pytest.raises(BadRequest, match="recognizes en"):
        engine.open(0, SlotOptions(language="de"), None)
    assert not card.open_slots


@pytest.mark.parametrize("resets", [True, False])
def test_a_snapshot_of_another_model_is_refused(make: Make, tmp_path: Path, resets: bool) -> None:
    """No card slot stays open. State resets do not help: another model has other tokens and seams."""
    first, _ = make(state_resets=resets)
    first.open(0, SlotOptions(), None)
    hear(first, 0, noise(20), flush=False)
    advanced = first.snapshot(0)
    assert advanced is not None
    second, card = make(model=write_model(tmp_path / "other.carm", seed=5), state_resets=resets)
    with pytest.raises(BadRequest, match="of another model") as refused:
        second.open(1, SlotOptions(), advanced.snapshot)
    assert refused.value.slug == "bad-snapshot"
    assert not card.open_slots
    second.open(1, SlotOptions(), None)


def test_a_state_that_the_card_refuses_is_refused(make: Make) -> None:
    """No card slot stays open."""
    engine, card = make(state_resets=False)
    engine.open(0, SlotOptions(), None)
    card.export_state = lambda slot: b"longer than ours"  # type: ignore[method-assign]
    advanced = engine.snapshot(0)
    assert advanced is not None
    snapshot = advanced.snapshot
    for _ in range(3):
        with pytest.raises(BadRequest) as refused:
            engine.open(1, SlotOptions(), snapshot)
        assert refused.value.slug == "bad-snapshot"
    assert len(card.open_slots) == 1
    engine.open(1, SlotOptions(), None)


@pytest.mark.parametrize(
    ("chunk_s", "measured_s", "batch", "slots", "expected"),
    [
        (0.02, 0.02, 64, 2000, 0.02),
        (0.02, 0.0263, 64, 2000, 0.2199),
        (0.02, 0.019, 64, 2000, 0.02),
        (0.02, 0.03, 64, 64, 0.03),
        (0.02, 0.021, 1, 1, 0.021),
    ],
)
def test_latency_is_no_work(chunk_s: float, measured_s: float, batch: int, slots: int, expected: float) -> None:
    """The card takes the same time for each chunk, for any number of chunks in it."""
    assert selftest.larger_round_s(chunk_s, measured_s, batch, slots) == pytest.approx(expected)


def test_more_sessions_than_the_card_has(make: Make) -> None:
    """CAI-05, CAI-16: the card's own capacity, less what state resets cost."""
    assert make(FakeCard(2000, 4000), slots=None)[0].spec.slots == 1600
    assert make(FakeCard(800, 800), slots=None, state_resets=False)[0].spec.slots == 800
    with pytest.raises(SetupError, match="serves 16 sessions with state resets, not 17"):
        make(FakeCard(20), slots=17)


def test_a_card_that_fails_its_self_test_does_not_serve(make: Make) -> None:
    card = FakeCard()
    card.trouble = int(CardStatus.ECC)
    with pytest.raises(CardFailed, match=r"card:0 failed: 1 chunks ended with ECC"):
        make(card)
    card = FakeCard()
    card.reset = lambda slot: None  # type: ignore[method-assign]
    with pytest.raises(CardFailed, match="lost count"):
        make(card)
    card = FakeCard()
    card.import_state = lambda slot, state: card.open_slots.update({slot: (1, 12)})  # type: ignore[method-assign]
    with pytest.raises(CardFailed, match="did not survive a move"):
        make(card)


def test_a_vocabulary_of_another_size_does_not_serve(make: Make, tmp_path: Path) -> None:
    larger = write_model(tmp_path / "larger.carm", replace(parts.SMALL, n_classes=parts.N_CLASSES + 44))
    with pytest.raises(SetupError, match=r"larger.carm has a vocabulary of 255 tokens, and its network has 299"):
        make(model=larger)


# ---- Troubles ----


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        (int(CardStatus.RESET), "1 chunks ended with RESET"),
        (int(CardStatus.ECC), "ECC"),
        (int(CardStatus.HEAT), "HEAT"),
        (1234, "code 1234"),
        ("hang", "hangs: a chunk of slot 0"),
        ("drop", "hangs: a chunk of slot 1"),
        ("twice", "another chunk than it was given"),
        ("step", "lost count"),
    ],
)
def test_a_card_in_trouble_is_out_of_order(make: Make, trouble: int | str, sentence: str) -> None:
    """Completions that must not come, and missing ones."""
    engine, card = make()
    engine._traffic.hang_s = 0.01
    for slot in (0, 1):
        engine.open(slot, SlotOptions(), None)
    card.trouble = trouble
    chunks = [Chunk(slot, noise(1, seed=slot)) for slot in (0, 1)]
    with pytest.raises(CardFailed, match=sentence):
        engine.step(chunks, 0.0)
        while engine.pending():
            engine.step([], 0.0)


class NarrowCard(FakeCard):
    """A card whose queue holds `room` chunks, which are returned a few at a time."""

    room = 1000
    refused = 0

    def submit_arrays(self, slots: NDArray[np.integer], tags: NDArray[np.integer], pcm: NDArray[np.int16]) -> None:
        if len(self._done) + len(slots) > self.room:
            self.refused += 1
            raise CardError(CardStatus.FULL, "the queue is full")
        super().submit_arrays(slots, tags, pcm)


def test_a_full_queue_is_no_trouble(make: Make) -> None:
    """The card takes nothing of a refused batch. The batch is submitted again after chunks came back; none is lost."""
    engine, card = make(NarrowCard(10, 20, seed=7), slots=4)
    assert isinstance(card, NarrowCard)
    card.room = 4
    pcms = [noise(220, seed=slot) for slot in range(4)]
    outputs: list[Output] = []
    for slot in range(4):
        engine.open(slot, SlotOptions(), None)
    for place in range(0, 220 * CHUNK, CHUNK):
        for slot in range(4):
            while slot in engine.in_flight():
                assert engine.pending()
                outputs += engine.step([], 0.0)
            outputs += engine.step([Chunk(slot, pcms[slot][place : place + CHUNK])], 0.0)
    for slot in range(4):
        outputs += hear(engine, slot, pcms[slot][:0])
    assert card.refused
    assert not engine.pending()
    for slot, pcm in enumerate(pcms):
        assert said([output for output in outputs if output.slot == slot]) == offline(pcm)


def test_a_queue_that_is_full_of_nothing_is_trouble(make: Make) -> None:
    engine, card = make(NarrowCard(10, 20), slots=1)
    assert isinstance(card, NarrowCard)
    card.room = 0
    engine.open(0, SlotOptions(), None)
    with pytest.raises(CardFailed, match=r"the queue is full \(FULL\)"):
        engine.step([Chunk(0, noise(1))], 0.0)


def test_a_call_that_fails_is_trouble_too(make: Make) -> None:
    engine, card = make()

    def fail(*_: object) -> None:
        raise CardError(CardStatus.LINK, "the card cannot be reached")

    card.open = fail  # type: ignore[method-assign]
    with pytest.raises(CardFailed, match="cannot be reached"):
        engine.open(0, SlotOptions(), None)


# ---- Licenses ----


def test_the_card_with_its_options_is_licensed(make: Make) -> None:
    with pytest.raises(SetupError, match="card fake-1 needs a license"):
        make(card_options="physical=1")


@pytest.mark.parametrize(
    ("change", "found"), [({"id": "fake-2"}, "simulated card fake-2"), ({"is_physical": True}, "physical card fake-1")]
)
def test_another_card_than_was_licensed_does_not_serve(make: Make, change: dict[str, object], found: str) -> None:
    card = FakeCard()
    listed = card.identity()

    def identity() -> CardIdentity:
        card.identity = lambda: replace(listed, **change)  # type: ignore[method-assign, arg-type]
        return listed

    card.identity = identity  # type: ignore[method-assign]
    with pytest.raises(SetupError, match=f"card:0 is {found}, and was simulated card fake-1 when it was looked up"):
        make(card)


def test_a_physical_card_needs_a_license(make: Make, tmp_path: Path) -> None:
    """CAI-13: for its id, of the folder's issuer, and not expired."""
    card = FakeCard()
    card.is_physical = True
    with pytest.raises(SetupError, match="card fake-1 needs a license: name its folder with --license-dir"):
        make(card)
    with pytest.raises(SetupError, match="issuer's public key"):
        make(card, license_dir=tmp_path)
    secret, _ = license.new_issuer(tmp_path, "example")
    key = license.read_secret(secret)
    day = date(2000, 1, 1)
    path = tmp_path / f"one{license.SUFFIX}"
    path.write_text(license.License("another", "Example", date.max, "", day).encode(key))
    with pytest.raises(SetupError, match=r"no license .* is good for card fake-1: one.license is for card another"):
        make(card, license_dir=tmp_path)
    path.write_text(license.License("fake-1", "Example", day, "", day).encode(key))
    with pytest.raises(SetupError, match="expired on 2000-01-01"):
        make(card, license_dir=tmp_path)
    path.write_text(license.License("fake-1", "Example", date.max, "", day).encode(key))
    assert make(card, license_dir=tmp_path)[0].spec.engine == "card"
