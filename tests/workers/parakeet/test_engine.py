"""The parakeet engine with a scripted model: the text of a session depends on its samples alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_proto.audio import Pcm16
from asr_proto.errors import BadRequest, SetupError
from asr_workers.engines.base import Advanced, Chunk, Drained, Engine, Hypothesis, Output, SlotOptions, Snapshot, Voice

torch = pytest.importorskip("torch", reason="needs the extra nemo")

from asr_workers.engines.parakeet.config import ParakeetConfig  # noqa: E402
from asr_workers.engines.parakeet.engine import ParakeetEngine  # noqa: E402
from asr_workers.engines.parakeet.windows import FRAME_SAMPLES  # noqa: E402
from tests.workers.nemo.nemo_parts import commits, feed, finals, settle, talk  # noqa: E402
from tests.workers.parakeet.scripted_model import ScriptedModel  # noqa: E402

CHUNK = 7680
SMALL = ParakeetConfig(slots=4, left_s=1.6, chunk_s=0.48, right_s=0.32)
TALK = talk(2.3, -2.7, 0.8, -0.4, 0.9, -8.5, 2.0, -1.9, 0.3)[:-333]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def engine(**changes: Any) -> ParakeetEngine:
    return ParakeetEngine(replace(SMALL, **changes), load=ScriptedModel)  # type: ignore[arg-type]


def hear(pcm: Pcm16, **changes: Any) -> list[Output]:
    it = engine(**changes)
    it.open(0, SlotOptions(), None)
    return feed(it, 0, pcm)


def test_it_is_an_engine() -> None:
    """PAR-21. Its largest step warms it up, and its Spec has the cost of its windows."""
    it: Engine = ParakeetEngine(ParakeetConfig(model="some/model"), load=ScriptedModel)  # type: ignore[arg-type]
    spec = it.spec
    assert (spec.engine, spec.model, spec.slots, spec.chunk_samples) == ("parakeet", "some/model", 8, 32_000)
    assert (spec.encode_factor, spec.checksum, spec.license) == (7.0, "0123456789abcdef", "CC0")


def test_utterances_end_in_silence() -> None:
    outputs = hear(TALK)
    ended = finals(outputs)
    assert [final.endpoint for final in ended] == ["silence", "silence", "silence", "flush"]
    for final in ended:
        assert final.words and final.confidence
        assert (final.words[0].start_sample, final.words[-1].end_sample) == (final.start_sample, final.end_sample)
    assert all(one.end_sample <= next_.start_sample for one, next_ in pairwise(ended))
    assert ended[-1].end_sample <= len(TALK)
    voices = [(voice.speaking, voice.sample) for voice in outputs if isinstance(voice, Voice)]
    assert voices == [edge for final in ended for edge in ((True, final.start_sample), (False, final.end_sample))]
    assert isinstance(outputs[-1], Drained)


def test_windows_say_what_one_window_says() -> None:
    """PAR-06. Left, chunk and right contexts of any sizes, odd lengths: each frame is decoded once."""
    pcm = talk(6.0)[:-77]
    (whole,) = finals(hear(pcm, chunk_s=10.0))
    for left_s, chunk_s, right_s in ((1.6, 0.48, 0.32), (0.0, 0.08, 0.0), (10.0, 0.24, 0.16), (0.4, 1.2, 2.4)):
        (final,) = finals(hear(pcm, left_s=left_s, chunk_s=chunk_s, right_s=right_s))
        assert (final.text, final.words) == (whole.text, whole.words)


def test_a_partial_goes_to_the_end_of_its_right_context() -> None:
    """Text that stays the same is not withdrawn. This model ignores context."""
    it = engine()
    it.open(0, SlotOptions(), None)
    outputs = feed(it, 0, talk(6.0), flush=False)
    partials = [output for output in outputs if isinstance(output, Hypothesis)]
    assert len(partials) > 8
    for number, partial in enumerate(partials):
        latest = (number + 1) * CHUNK + 4 * FRAME_SAMPLES
        assert latest - 3 * FRAME_SAMPLES <= partial.end_sample <= latest + 2 * FRAME_SAMPLES
    assert all(longer.text.startswith(shorter.text) for shorter, longer in pairwise(partials))
    assert all(partial.stable is not None and partial.stable < len(partial.text) for partial in partials)
    stable = [partial.text[: partial.stable] for partial in partials]
    assert stable[0] and stable == sorted(set(stable), key=len)


class LyingModel(ScriptedModel):
    """The end of each window sounds like speech until more audio follows."""

    lies = True

    def encode(self, windows: Sequence[Pcm16]) -> tuple[Any, Any]:
        encoded, lengths = super().encode(windows)
        for row, length in enumerate(lengths.tolist() if self.lies else ()):
            encoded[row, length - 2 : length] = 5000.0
        return encoded, lengths


def test_a_partial_of_nothing_is_taken_back() -> None:
    """By the next window, or before the slot advances without a final."""
    model = LyingModel(SMALL)
    it = ParakeetEngine(SMALL, load=lambda given: model)  # type: ignore[arg-type, return-value]
    it.open(0, SlotOptions(), None)
    one, other = np.zeros(CHUNK + 4 * FRAME_SAMPLES, np.int16), np.zeros(CHUNK, np.int16)
    (lie,) = feed(it, 0, one, flush=False, size=len(one))
    assert isinstance(lie, Hypothesis) and lie.text and lie.endpoint is None
    model.lies = False
    taken_back = replace(lie, text="", stable=None)
    assert feed(it, 0, other, flush=False) == [taken_back]
    assert feed(it, 0, other, flush=False) == []
    model.lies = True
    (again,) = feed(it, 0, other, flush=False)
    assert isinstance(again, Hypothesis) and again.text
    model.lies = False
    end = len(one) + 3 * len(other)
    assert feed(it, 0, other[:0]) == [replace(again, text="", stable=None), Advanced(0, Snapshot(end, b"")), Drained(0)]


@settings(max_examples=25, deadline=None)
@given(size=st.integers(500, 40_000))
def test_any_chunks_give_the_same_finals(size: int) -> None:
    it = engine()
    it.open(0, SlotOptions(), None)
    assert finals(feed(it, 0, TALK, size=size)) == finals(hear(TALK))


@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_sessions_in_one_batch_say_what_each_says_alone(data: st.DataObject) -> None:
    """At different places, however few windows a step may have."""
    starts = [data.draw(st.integers(0, 10)) for _ in range(4)]
    talks = [talk(1.0 + slot / 3, -2.5, 0.5, seed=10 * slot) for slot in range(4)]
    it, together = engine(), {slot: list[Output]() for slot in range(4)}
    it._batch = replace(it._batch, windows_max=data.draw(st.integers(1, 4)))
    queues = {slot: [pcm[at : at + CHUNK] for at in range(0, len(pcm), CHUNK)] for slot, pcm in enumerate(talks)}
    for turn in range(120):
        for slot in [slot for slot, start in enumerate(starts) if start == turn]:
            it.open(slot, SlotOptions(), None)
        free = [slot for slot in range(4) if starts[slot] <= turn and queues[slot] and not it.blocked(slot)]
        for output in it.step([Chunk(slot, queues[slot].pop(0), flush=not queues[slot]) for slot in free], 0.0):
            together[output.slot].append(output)
    for slot, pcm in enumerate(talks):
        alone = [replace(output, slot=slot) for output in hear(pcm)]
        assert together[slot] == alone


def test_the_most_urgent_go_first() -> None:
    it = engine()
    it._batch = replace(it._batch, windows_max=1)
    for slot in range(3):
        it.open(slot, SlotOptions(), None)
    pcm = talk(0.96)
    said = [it.step([Chunk(slot, pcm, deadline_s=10.0 - slot) for slot in range(3)], 0.0)]
    while it.pending():
        said.append(it.step([], 0.0))
    assert [outputs[0].slot for outputs in said] == [2, 1, 0]


@settings(max_examples=20, deadline=None)
@given(turn=st.integers(0, len(TALK) // CHUNK))
def test_another_engine_goes_on_from_the_last_commit(turn: int) -> None:
    it, lost_at = engine(), turn * CHUNK
    it.open(0, SlotOptions(), None)
    before = feed(it, 0, TALK[:lost_at], flush=False) if turn else []
    snapshot = commits(before)[-1] if commits(before) else Snapshot(0, b"")
    other = engine()
    other.open(3, SlotOptions(), snapshot)
    after = [replace(final, slot=0) for final in finals(feed(other, 3, TALK[snapshot.sample :]))]
    assert [*finals(before), *after] == finals(hear(TALK))


@settings(max_examples=20, deadline=None)
@given(turn=st.integers(1, len(TALK) // CHUNK))
def test_another_engine_continues_from_a_snapshot(turn: int) -> None:
    """In the middle of an utterance: from the left context on, with the decoder's state."""
    it, other, lost_at = engine(), engine(), turn * CHUNK
    it.open(0, SlotOptions(), None)
    feed(it, 0, TALK[:lost_at], flush=False)
    snapshot = it.snapshot(0).snapshot
    assert lost_at - snapshot.sample <= (1.6 + 0.48 + 0.32 + 0.96 + 0.48) * 16000
    other.open(3, SlotOptions(), snapshot)
    after = [replace(final, slot=0) for final in finals(feed(other, 3, TALK[snapshot.sample :]))]
    assert after == finals(feed(it, 0, TALK[lost_at:]))


def test_silence_moves_the_commit_on() -> None:
    """A replay needs little more than the left context."""
    outputs = hear(talk(-60.0))
    samples = [commit.sample for commit in commits(outputs)]
    assert not finals(outputs)
    assert np.diff([0, *samples]).max() <= 7 * 16000
    assert samples[-1] == 60 * 16000


def test_what_is_held_has_its_limit() -> None:
    """A session's memory and its windows do not grow with its length."""
    it = engine()
    it.open(0, SlotOptions(), None)
    for _ in range(40):
        feed(it, 0, TALK[:48_000], flush=False)
        held = it._slots[0].audio
        assert held.end - held.first <= (1.6 + 0.48 + 0.32 + 0.96 + 0.48) * 16000
    assert max(max(batch) for batch in it._model.windows[2:]) <= (20 + 6 + 4) * FRAME_SAMPLES  # type: ignore[attr-defined]


def test_a_long_utterance_is_cut_between_words() -> None:
    whole = finals(hear(talk(35.0), utterance_s_max=60.0))
    ended = finals(hear(talk(35.0), utterance_s_max=5.0))
    assert [final.endpoint for final in ended] == ["length", "length", "flush"]
    assert " ".join(final.text for final in ended) == whole[0].text


def test_uncommitted_audio_has_its_limit() -> None:
    for pcm in (TALK, talk(60.0), talk(-30.0)):
        it = engine(utterance_s_max=5.0)
        it.open(0, SlotOptions(), None)
        committed = 0
        for start in range(0, len(pcm) - CHUNK, CHUNK):
            for commit in commits(it.step([Chunk(0, pcm[start : start + CHUNK])], 0.0) + settle(it)):
                committed = commit.sample
            assert (start + CHUNK - committed) / 16000 <= it.spec.uncommitted_s_max


def test_a_flush_is_answered_in_its_place() -> None:
    """PAR-22. The tail is decoded to its last frame, without zeros after it. It does not change the audio after it."""
    first, second = talk(1.1)[:-5], talk(0.7, seed=5)
    it = engine()
    it.open(0, SlotOptions(), None)
    outputs = feed(it, 0, first)
    assert commits(outputs)[-1] == Snapshot(len(first), b"")
    (again,), (alone,) = finals(feed(it, 0, second)), finals(hear(second))
    assert (again.text, again.start_sample) == (alone.text, alone.start_sample + len(first))
    assert it._model.windows[-1] == [len(second)]  # type: ignore[attr-defined]


@pytest.mark.parametrize("samples", [0, 1, 159, 160, 319, 320, CHUNK])
def test_a_flush_with_nothing_to_say(samples: int) -> None:
    assert hear(np.zeros(samples, np.int16)) == [Advanced(0, Snapshot(samples, b"")), Drained(0)]


def test_a_reused_slot_is_wiped() -> None:
    it = engine()
    it.open(0, SlotOptions(), None)
    feed(it, 0, talk(1.7, seed=3), flush=False)
    it.close(0)
    it.open(0, SlotOptions(), None)
    assert feed(it, 0, TALK) == hear(TALK)


def test_no_partials_for_who_wants_none() -> None:
    it = engine()
    it.open(0, SlotOptions(partials=False), None)
    outputs = feed(it, 0, TALK)
    assert finals(outputs) == [output for output in outputs if isinstance(output, Hypothesis)]
    assert finals(outputs) == finals(hear(TALK))


def test_foreign_snapshots_and_languages_are_refused() -> None:
    it = engine()
    for state in (b"x", b"\x94\x01\xa1x\x90\xc0", b"\x90"):
        with pytest.raises(BadRequest) as caught:
            it.open(0, SlotOptions(), Snapshot(5, state))
        assert caught.value.slug == "bad-snapshot"
    with pytest.raises(BadRequest) as caught:
        it.open(0, SlotOptions("de"), None)
    assert caught.value.slug == "unsupported-language"


def test_between_utterances_a_session_goes_on_with_another_checkpoint() -> None:
    """As in a rolling update to a new file of the same name: only a decoder state belongs to one file."""
    it, other = engine(), engine()
    it.open(0, SlotOptions(), None)
    before = feed(it, 0, TALK)
    other._model.checksum = "another"
    restored = 0
    for snapshot in commits(before):
        if not snapshot.state:
            continue
        _, _, fields, state = msgpack.unpackb(snapshot.state)
        if state is None and not fields[-1]:
            other.open(3, SlotOptions(), snapshot)
            other.close(3)
            restored += 1
        else:
            with pytest.raises(BadRequest):
                other.open(3, SlotOptions(), snapshot)
    assert restored


def test_windows_that_cannot_be_do_not_start() -> None:
    with pytest.raises(SetupError, match="chunk"):
        engine(chunk_s=0.0)
