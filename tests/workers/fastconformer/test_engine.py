"""The fastconformer engine with a scripted model: the text of a session depends on its samples alone."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_proto.audio import Pcm16
from asr_proto.errors import BadRequest, SetupError
from asr_workers.engines.base import (
    Advanced,
    Chunk,
    Drained,
    Engine,
    Hypothesis,
    Output,
    SlotOptions,
    Snapshot,
    Voice,
)
from tests.workers.fastconformer.scripted_model import ScriptedModel
from tests.workers.nemo.nemo_parts import commits, feed, finals, settle, silence, speech, talk

torch = pytest.importorskip("torch", reason="needs the extra nemo")
from asr_workers.engines.fastconformer.config import FastConformerConfig  # noqa: E402
from asr_workers.engines.fastconformer.engine import FastConformerEngine  # noqa: E402
from asr_workers.engines.fastconformer.streaming import ModelSettings  # noqa: E402

CHUNK = 2560


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """More cost more than they give here."""
    torch.set_num_threads(1)


def engine(slots: int = 4, **changes: object) -> FastConformerEngine:
    return FastConformerEngine(replace(FastConformerConfig(slots=slots), **changes), load=ScriptedModel)  # type: ignore[arg-type]


def hear(pcm: Pcm16, **changes: object) -> list[Output]:
    it = engine(**changes)  # type: ignore[arg-type]
    it.open(0, SlotOptions(), None)
    return feed(it, 0, pcm)


TALK = talk(1.3, -1.7, 0.8, -0.4, 0.9, -7.5, 2.0, -1.1, 0.3)


def test_it_is_an_engine() -> None:
    it: Engine = engine(7, model="some/model")
    spec = it.spec
    assert (spec.engine, spec.model, spec.slots, spec.chunk_samples) == ("fastconformer", "some/model", 7, CHUNK)
    assert (spec.languages, spec.checksum, spec.license) == (("en",), "0123456789abcdef", "CC0")
    assert spec.encode_factor == 1.0
    assert not it.pending()


def test_utterances_end_in_silence() -> None:
    """The final has endpoint `silence`, its words lie within it, and Voice reports the start and end of speech."""
    outputs = hear(TALK)
    ended = finals(outputs)
    assert [final.endpoint for final in ended] == ["silence", "silence", "silence", "flush"]
    begins = [0.0, 3.0, 12.6, 15.7]
    for final, begin in zip(ended, begins, strict=True):
        assert abs(final.start_sample / 16000 - begin) < 0.2
        assert final.words
        assert final.words[0].start_sample == final.start_sample
        assert final.words[-1].end_sample == final.end_sample
        assert [word.text for word in final.words] == final.text.split()  # a token may be a space alone
        assert all(word.confidence and 0.5 <= word.confidence <= 1 for word in final.words)
        assert final.confidence
    voices = [(voice.speaking, voice.sample) for voice in outputs if isinstance(voice, Voice)]
    assert voices == [edge for final in ended for edge in ((True, final.start_sample), (False, final.end_sample))]
    assert isinstance(outputs[-1], Drained)


def test_partials_only_grow() -> None:
    text = ""
    for output in hear(TALK):
        if isinstance(output, Hypothesis):
            assert output.text.startswith(text)
            assert output.text != text or output.endpoint
            text = "" if output.endpoint else output.text


@settings(max_examples=15, deadline=None)
@given(size=st.integers(500, 30_000))
def test_any_chunks_give_the_same_finals(size: int) -> None:
    it = engine()
    it.open(0, SlotOptions(), None)
    assert finals(feed(it, 0, TALK, size=size)) == finals(hear(TALK))


@settings(max_examples=15, deadline=None)
@given(data=st.data())
def test_sessions_in_one_batch_say_what_each_says_alone(data: st.DataObject) -> None:
    """YAP-15. For sessions of any ages and look-aheads."""
    contexts = [data.draw(st.sampled_from([None, 0, 80, 500, 2000])) for _ in range(4)]
    starts = [data.draw(st.integers(0, 20)) for _ in range(4)]
    talks = [talk(1.0 + slot / 3, -1.5, 0.5, seed=10 * slot) for slot in range(4)]
    it, together = engine(), {slot: list[Output]() for slot in range(4)}
    queues = {slot: [pcm[at : at + CHUNK] for at in range(0, len(pcm), CHUNK)] for slot, pcm in enumerate(talks)}
    for turn in range(80):
        for slot in [slot for slot, start in enumerate(starts) if start == turn]:
            it.open(slot, SlotOptions(look_ahead_ms=contexts[slot]), None)
        free = [slot for slot in range(4) if starts[slot] <= turn and queues[slot] and not it.blocked(slot)]
        chunks = [Chunk(slot, queues[slot].pop(0), flush=not queues[slot]) for slot in free]
        for output in it.step(chunks, 0.0):
            together[output.slot].append(output)
    for slot, pcm in enumerate(talks):
        alone = engine()
        alone.open(slot, SlotOptions(look_ahead_ms=contexts[slot]), None)
        assert together[slot] == feed(alone, slot, pcm)


def test_all_slots_step_at_once() -> None:
    """YAP-15, YAP-08. Its weights are loaded once, although the number of slots is decided after that."""
    models: list[ScriptedModel] = []

    def load(given: ModelSettings) -> ScriptedModel:
        models.append(ScriptedModel(given))
        return models[-1]

    it = FastConformerEngine(FastConformerConfig(slots=4), load=load)
    assert len(models) == 1
    for slot in range(4):
        it.open(slot, SlotOptions(look_ahead_ms=80), None)
    it.step([Chunk(slot, speech(0.16, slot)) for slot in range(4)], 0.0)
    assert models[-1].batches[-1] == 4


@settings(max_examples=20, deadline=None)
@given(lost_at=st.integers(0, len(TALK)))
def test_another_engine_goes_on_from_the_last_commit(lost_at: int) -> None:
    """Commits at the ends of utterances and in long silence: a sample, without any state."""
    whole = hear(TALK)
    it = engine()
    it.open(0, SlotOptions(), None)
    before = feed(it, 0, TALK[: lost_at // CHUNK * CHUNK], flush=False) if lost_at >= CHUNK else []
    snapshot = commits(before)[-1] if commits(before) else Snapshot(0, b"")
    assert snapshot.state == b""
    other = engine()
    other.open(3, SlotOptions(), snapshot)
    after = [replace(final, slot=0) for final in finals(feed(other, 3, TALK[snapshot.sample :]))]
    assert [*finals(before), *after] == finals(whole)


@settings(max_examples=20, deadline=None)
@given(turn=st.integers(1, len(TALK) // CHUNK), look_ahead_ms=st.sampled_from([None, 0, 480, 1040]))
def test_another_engine_continues_from_a_snapshot(turn: int, look_ahead_ms: int | None) -> None:
    """In the middle of an utterance, with any look-ahead: the same text, times and confidences."""
    it, other, lost_at = engine(), engine(), turn * CHUNK
    it.open(0, SlotOptions(look_ahead_ms=look_ahead_ms), None)
    before = feed(it, 0, TALK[:lost_at], flush=False)
    advanced = it.snapshot(0)
    assert advanced is not None and advanced.snapshot.sample == lost_at
    other.open(3, SlotOptions(), advanced.snapshot)
    after = [replace(final, slot=0) for final in finals(feed(other, 3, TALK[lost_at:]))]
    assert after == finals(feed(it, 0, TALK[lost_at:]))
    assert finals(before) == finals(hear(TALK))[: len(finals(before))] or look_ahead_ms is not None


@pytest.mark.parametrize("every", [1, 7])
def test_snapshots_at_every_place(every: int) -> None:
    """They change no output, and later commits do not lie before them. From each commit the rest comes once."""
    it, outputs = engine(), list[Output]()
    it.open(0, SlotOptions(), None)
    for turn, start in enumerate(range(0, len(TALK), CHUNK)):
        last = start + CHUNK >= len(TALK)
        outputs += feed(it, 0, TALK[start : start + CHUNK], flush=last)
        advanced = it.snapshot(0) if turn % every == 0 and not last else None
        outputs += [advanced] if advanced else []
    whole = finals(hear(TALK))
    assert finals(outputs) == [
        replace(final, snapshot=mine.snapshot) for final, mine in zip(whole, finals(outputs), strict=True)
    ]
    assert commits(outputs)[-1] == Snapshot(len(TALK), b"")
    ends = [number for number, output in enumerate(outputs) if finals([output]) or isinstance(output, Advanced)]
    for number in ends[:-1] if every > 1 else [number for number in ends[:-1] if finals([outputs[number]])]:
        (snapshot,) = commits([outputs[number]])
        other = engine()
        other.open(0, SlotOptions(), snapshot)
        after = feed(other, 0, TALK[snapshot.sample :])
        assert commits([outputs[number], *after])
        said = [(final.text, final.words) for final in [*finals(outputs[: number + 1]), *finals(after)]]
        assert said == [(final.text, final.words) for final in whole]


def test_silence_moves_the_commit_on() -> None:
    """Every few seconds, so that frontends can drop audio. The audio that is still needed is a second at most."""
    outputs = hear(silence(60))
    samples = [commit.sample for commit in commits(outputs)]
    assert not finals(outputs)
    assert np.diff([0, *samples]).max() <= 6 * 16000
    assert samples[-1] == 60 * 16000


def test_without_an_endpoint_only_a_flush_ends() -> None:
    (final,) = finals(hear(talk(1.0, -5.0, 1.0, -2.0), endpoint_ms=0))
    assert final.endpoint == "flush"


def test_what_was_not_flushed_may_end_in_any_pause() -> None:
    """Audio is dropped during a long silence after a word."""
    ended = finals(hear(talk(1.0, -50.0, 1.0), endpoint_ms=0))
    assert [final.endpoint for final in ended] == ["length", "flush"]


def test_a_long_utterance_ends_in_the_next_pause() -> None:
    ended = finals(hear(talk(3.0, -0.4, 3.0, -0.4, 3.0), utterance_s_max=5.0))
    assert [final.endpoint for final in ended] == ["length", "flush"]
    assert ended[0].end_sample < 6.6 * 16000


def test_without_a_pause_it_is_cut_between_words() -> None:
    """No token is lost or repeated: the state is kept, and another worker can continue there, too."""
    pcm = speech(35.0)
    whole = finals(hear(pcm, utterance_s_max=60.0))
    outputs = hear(pcm, utterance_s_max=5.0)
    ended = finals(outputs)
    assert [final.endpoint for final in ended] == ["length", "length", "flush"]
    assert " ".join(final.text for final in ended) == whole[0].text
    snapshot = ended[0].snapshot
    assert snapshot is not None and snapshot.state
    assert snapshot.unsaid_sample == ended[0].end_sample < snapshot.sample, "the next words are in the state alone"
    other = engine(utterance_s_max=5.0)
    other.open(0, SlotOptions(), snapshot)
    assert finals(feed(other, 0, pcm[snapshot.sample :])) == ended[1:]


def test_a_model_too_large_to_be_moved_within_an_utterance() -> None:
    """The engine gives no snapshot, and starts with an empty state after a cut."""
    it = FastConformerEngine(
        FastConformerConfig(slots=1, utterance_s_max=5.0), load=lambda given: ScriptedModel(given, slot_bytes=9_000_000)
    )
    it.open(0, SlotOptions(), None)
    outputs = feed(it, 0, speech(35.0))
    assert it.snapshot(0) is None
    assert [commit.state for commit in commits(outputs)] == [b""] * len(commits(outputs))
    assert [final.endpoint for final in finals(outputs)] == ["length", "length", "flush"]


def test_uncommitted_audio_has_its_limit() -> None:
    """For any speech, the uncommitted audio stays within the engine's Spec."""
    for pcm in (TALK, speech(60.0), silence(30.0), talk(*[0.3, -0.5] * 60)):
        it = engine(utterance_s_max=5.0)
        it.open(0, SlotOptions(), None)
        committed = 0
        for start in range(0, len(pcm) - CHUNK, CHUNK):
            for commit in commits(it.step([Chunk(0, pcm[start : start + CHUNK])], 0.0) + settle(it)):
                committed = commit.sample
            assert (start + CHUNK - committed) / 16000 <= it.spec.uncommitted_s_max


def test_a_flush_is_answered_in_its_place() -> None:
    """Drained comes after the final, whose commit lies at the flush. Later audio is decoded like a new session."""
    first, second = talk(1.1), talk(0.7, seed=5)
    it = engine()
    it.open(0, SlotOptions(), None)
    outputs = feed(it, 0, first)
    assert commits(outputs)[-1] == Snapshot(len(first), b"")
    assert it.blocked(0) is False
    (again,) = finals(feed(it, 0, second))
    (alone,) = finals(hear(second))
    assert again.text == alone.text
    assert (again.start_sample, again.end_sample) == (
        alone.start_sample + len(first),
        alone.end_sample + len(first),
    )


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("samples", [0, 1, 80, 159, 160, 400])
def test_what_a_flush_ended_is_not_heard_again(samples: int, beside: bool) -> None:
    """For any short audio, alone and beside another session."""
    it, pcm = engine(), talk(0.7, seed=5)
    it.open(0, SlotOptions(), None)
    chunks = [Chunk(0, speech(1.0, 9)[:samples], flush=True)]
    if beside:
        it.open(1, SlotOptions(), None)
        chunks.append(Chunk(1, speech(0.16)))
    it.step(chunks, 0.0)
    settle(it)
    (again,), (alone,) = finals(feed(it, 0, pcm)), finals(hear(pcm))
    assert (again.text, again.start_sample) == (alone.text, alone.start_sample + samples)


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 400, 1480, CHUNK])
def test_a_flush_with_nothing_to_say(samples: int) -> None:
    assert hear(np.zeros(samples, np.int16)) == [Advanced(0, Snapshot(samples, b"")), Drained(0)]


def test_no_token_stands_for_audio_that_there_is_not() -> None:
    for samples in range(16_000, 17_300, 97):
        (final,) = finals(hear(speech(samples / 16000)))
        assert final.end_sample <= samples


def test_a_blocked_slot_takes_nothing() -> None:
    it = engine()
    it.open(0, SlotOptions(), None)
    it.step([Chunk(0, speech(3.0))], 0.0)
    assert it.blocked(0) and it.pending()
    settle(it)
    assert not it.blocked(0)


def test_no_partials_for_who_wants_none() -> None:
    it = engine()
    it.open(0, SlotOptions(partials=False), None)
    outputs = feed(it, 0, TALK)
    assert finals(outputs) == [output for output in outputs if isinstance(output, Hypothesis)]
    assert finals(outputs) == finals(hear(TALK))


def test_a_reused_slot_is_wiped() -> None:
    it = engine()
    it.open(0, SlotOptions(), None)
    feed(it, 0, speech(1.0, 3), flush=False)
    it.close(0)
    it.open(0, SlotOptions(), None)
    assert feed(it, 0, TALK) == hear(TALK)


def test_a_chunk_is_a_step_of_the_sessions_look_ahead() -> None:
    """80 ms of audio are a frame; the look-ahead comes with it."""
    it = engine()
    assert it.chunk_samples(None) == it.spec.chunk_samples == 2 * 1280
    assert [it.chunk_samples(ms) for ms in (0, 80, 480, 1040, 5000)] == [1280, 2560, 8960, 17_920, 17_920]


def test_look_aheads_are_the_models() -> None:
    """YAP-04, YAP-24. The longest within what the session allows; other contexts do not start."""
    it = engine(att_context=(70, 13))
    assert it.spec.chunk_samples == 17_920
    for context in ((70, 2), (56, 1)):
        with pytest.raises(SetupError, match="70,0, 70,1, 70,6, 70,13"):
            engine(att_context=context)


@pytest.mark.parametrize("language", ["de", "x" * 1000])
def test_other_languages_are_refused(language: str) -> None:
    with pytest.raises(BadRequest) as caught:
        engine().open(0, SlotOptions(language), None)
    assert caught.value.slug == "unsupported-language"
    assert len(caught.value.detail) <= 128


@pytest.mark.parametrize("state", [b"x", b"\x90", b"\x99" + bytes(9)])
def test_a_foreign_snapshot_is_refused(state: bytes) -> None:
    it = engine()
    with pytest.raises(BadRequest) as caught:
        it.open(0, SlotOptions(), Snapshot(5, state))
    assert caught.value.slug == "bad-snapshot"
    it.open(0, SlotOptions(), None)


def test_more_slots_than_fit_do_not_start() -> None:
    with pytest.raises(SetupError, match=r"1000000000000 slots of scripted do not fit on cpu: \d+ would"):
        engine(10**12)


def test_a_precision_that_is_none_of_its_own() -> None:
    """YAP-14."""
    with pytest.raises(SetupError, match="does not run in fp16: use fp32, bf16, int8"):
        engine(precision="fp16")


def test_slots_are_sized_from_memory() -> None:
    config = FastConformerConfig()
    small = FastConformerEngine(config, load=ScriptedModel).spec.slots
    large = FastConformerEngine(config, load=lambda given: ScriptedModel(given, slot_bytes=5_000_000)).spec.slots
    assert (small, large) == (64, 20)
