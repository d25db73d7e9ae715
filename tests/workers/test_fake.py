"""The fake engine: its text is a function of the samples. Other tests depend on this."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_proto.audio import Pcm16
from asr_proto.errors import BadRequest
from asr_workers.engines.base import Advanced, Chunk, Drained, Engine, Hypothesis, Output, SlotOptions, Snapshot
from asr_workers.engines.fake import UTTERANCE_WORDS, WORD_SAMPLES, FakeConfig, FakeEngine, transcript, word

UTTERANCE = WORD_SAMPLES * UTTERANCE_WORDS
SLOT = 3


def noise(samples: int, seed: int = 0) -> Pcm16:
    return np.random.default_rng(seed).integers(-9000, 9000, samples).astype(np.int16)


def engine(*, partials: bool = True, snapshot: Snapshot | None = None) -> FakeEngine:
    it = FakeEngine(FakeConfig())
    it.open(SLOT, SlotOptions(partials=partials), snapshot)
    return it


def outputs_of(it: FakeEngine, pcm: Pcm16, at: Sequence[int] = (), *, flush: bool = True) -> list[Output]:
    """Step over all samples in chunks that end at these places, then flush."""
    pieces = np.split(pcm, sorted(place % (len(pcm) + 1) for place in at))
    chunks = [Chunk(SLOT, piece) for piece in pieces]
    if flush:
        chunks.append(Chunk(SLOT, pcm[:0], flush=True))
    return [output for chunk in chunks for output in it.step([chunk], 0.0)]


def finals(outputs: Sequence[Output]) -> list[Hypothesis]:
    return [output for output in outputs if isinstance(output, Hypothesis) and output.endpoint]


def text(outputs: Sequence[Output]) -> str:
    return " ".join(final.text for final in finals(outputs))


def test_it_is_an_engine() -> None:
    it: Engine = FakeEngine(FakeConfig(slots=7))
    assert it.spec.slots == 7
    assert it.spec.uncommitted_s_max == 1.0
    assert not it.pending()
    assert not it.blocked(0)


@settings(max_examples=60)
@given(samples=st.integers(0, 3 * UTTERANCE), at=st.lists(st.integers(0, 3 * UTTERANCE), max_size=20))
def test_any_chunks_give_the_same_outputs(samples: int, at: list[int]) -> None:
    pcm = noise(samples)
    outputs = outputs_of(engine(), pcm, at)
    assert outputs == outputs_of(engine(), pcm)
    assert text(outputs) == transcript(pcm)
    assert isinstance(outputs[-1], Drained)


@given(place=st.integers(0, 2 * UTTERANCE - 2))
def test_a_changed_sample_shows(place: int) -> None:
    pcm = noise(2 * UTTERANCE)
    text_of_all = transcript(pcm)
    doubled = np.insert(pcm, place, pcm[place])
    lost = np.delete(pcm, place)
    assert text_of_all not in (transcript(doubled), transcript(lost))


def test_a_word_is_pronounceable() -> None:
    assert word(noise(WORD_SAMPLES)) == word(noise(WORD_SAMPLES))
    assert word(noise(WORD_SAMPLES)).isalpha()
    assert len(word(np.empty(0, np.int16))) == 6


def test_utterances_follow_each_other() -> None:
    outputs = outputs_of(engine(), noise(2 * UTTERANCE + WORD_SAMPLES + 5))
    spans = [(f.start_sample, f.end_sample, f.endpoint, f.snapshot) for f in finals(outputs)]
    end = 2 * UTTERANCE + WORD_SAMPLES + 5
    assert spans == [
        (0, UTTERANCE, "length", Snapshot(UTTERANCE, b"")),
        (UTTERANCE, 2 * UTTERANCE, "length", Snapshot(2 * UTTERANCE, b"")),
        (2 * UTTERANCE, end, "flush", Snapshot(end, b"")),
    ]


def test_partials_grow_into_the_final() -> None:
    outputs = outputs_of(engine(), noise(UTTERANCE), flush=False)
    texts = [output.text for output in outputs if isinstance(output, Hypothesis)]
    assert [len(text.split()) for text in texts] == [1, 2, 3, 4]
    assert all(longer.startswith(shorter) for shorter, longer in pairwise(texts))
    assert [output.endpoint for output in outputs if isinstance(output, Hypothesis)] == [None, None, None, "length"]


def test_without_the_option_there_are_no_partials() -> None:
    pcm = noise(UTTERANCE + 100)
    outputs = outputs_of(engine(partials=False), pcm)
    assert outputs == [
        output for output in outputs_of(engine(), pcm) if output in finals([output]) or output == Drained(SLOT)
    ]
    assert text(outputs) == transcript(pcm)


@pytest.mark.parametrize("samples", [0, UTTERANCE, 2 * UTTERANCE])
def test_a_flush_without_text(samples: int) -> None:
    """The slot can be continued from here, although no text became final."""
    it = engine()
    outputs_of(it, noise(samples), flush=False)
    assert it.step([Chunk(SLOT, noise(0), flush=True)], 0.0) == [Advanced(SLOT, Snapshot(samples, b"")), Drained(SLOT)]


def test_a_flush_ends_the_word_and_the_utterance() -> None:
    it = engine()
    first = outputs_of(it, noise(1000))
    second = outputs_of(it, noise(WORD_SAMPLES, 1))
    (one,), (two,) = finals(first), finals(second)
    assert (one.start_sample, one.end_sample, one.text) == (0, 1000, word(noise(1000)))
    assert (two.start_sample, two.end_sample) == (1000, 1000 + WORD_SAMPLES)
    assert two.text == word(noise(WORD_SAMPLES, 1))


@settings(max_examples=40)
@given(samples=st.integers(0, 3 * UTTERANCE), lost_at=st.integers(0, 3 * UTTERANCE))
def test_another_engine_goes_on_from_the_last_snapshot(samples: int, lost_at: int) -> None:
    pcm = noise(samples)
    whole = finals(outputs_of(engine(), pcm))
    before = finals(outputs_of(engine(), pcm[:lost_at], flush=False))
    snapshot = before[-1].snapshot if before else None
    replayed = pcm[snapshot.sample if snapshot else 0 :]
    assert [*before, *finals(outputs_of(engine(snapshot=snapshot), replayed))] == whole


def test_slots_are_independent() -> None:
    it = FakeEngine(FakeConfig())
    pcms = {slot: noise(2 * UTTERANCE, slot) for slot in range(4)}
    outputs: list[Output] = []
    for slot in pcms:
        it.open(slot, SlotOptions(), None)
    for at in range(0, 2 * UTTERANCE, 960):
        outputs += it.step([Chunk(slot, pcm[at : at + 960]) for slot, pcm in pcms.items()], 0.0)
    for slot, pcm in pcms.items():
        assert text([output for output in outputs if output.slot == slot]) == transcript(pcm)


def test_a_reused_slot_is_wiped() -> None:
    it = engine()
    outputs_of(it, noise(5000), flush=False)
    it.close(SLOT)
    it.open(SLOT, SlotOptions(), None)
    assert text(outputs_of(it, noise(5000, 1))) == transcript(noise(5000, 1))


@pytest.mark.parametrize("language", ["de", "e", "english", "x" * 10_000])
def test_it_serves_english(language: str) -> None:
    it = FakeEngine(FakeConfig())
    with pytest.raises(BadRequest) as caught:
        it.open(0, SlotOptions(language), None)
    assert caught.value.slug == "unsupported-language"
    assert len(caught.value.detail) < 128


@pytest.mark.parametrize("language", ["", "en", "en-GB"])
def test_it_serves_any_english(language: str) -> None:
    FakeEngine(FakeConfig()).open(0, SlotOptions(language), None)


def test_a_snapshot_in_the_middle_of_a_word_continues_exactly() -> None:
    """Another worker that continues from it returns the text that this one would have returned."""
    samples = np.random.default_rng(5).integers(-9000, 9000, 40_000).astype(np.int16)
    config = FakeConfig(slots=1, utterance_words=40)
    engines = FakeEngine(config), FakeEngine(config)
    engines[0].open(0, SlotOptions(), None)
    engines[0].step([Chunk(0, samples[:17_000])], 0.0)
    snapshot = engines[0].snapshot(0).snapshot
    assert snapshot.sample == 17_000
    engines[1].open(0, SlotOptions(), snapshot)
    for engine in engines:
        outputs = engine.step([Chunk(0, samples[17_000:], flush=True)], 0.0)
        (final,) = [output for output in outputs if isinstance(output, Hypothesis) and output.endpoint]
        assert final.text == transcript(samples)
        assert (final.start_sample, final.end_sample) == (0, 40_000)
