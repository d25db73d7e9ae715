"""The embedded engine on recorded speech, through the interface that workers use."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_proto.audio import Pcm16
from asr_proto.errors import BadRequest
from asr_workers.engines.base import Advanced, Chunk, Drained, Hypothesis, Output, SlotOptions, Snapshot, Voice
from asr_workers.engines.moonshine.config import MoonshineConfig
from asr_workers.engines.moonshine.engine import MoonshineEngine
from asr_workers.engines.moonshine.model import MoonshineModel

DATA = Path(__file__).parents[2] / "data"
SILENCE = np.zeros(16_000, np.int16)
WORDS = {
    "speechbrain__spk1_snt1.wav": "the child almost hurt the small dog",
    "speechbrain__spk1_snt4.wav": "a thin stripe runs down the middle",
    "speechbrain__spk2_snt2.wav": "what joy there is in living",
    "speechbrain__spk2_snt5.wav": "jump the fence and hurry up the bank",
}
CLIPS = list(WORDS)
FINALS_ONLY = SlotOptions(partials=False)


def clip(name: str) -> Pcm16:
    return soundfile.read(DATA / name, dtype="int16")[0]


@pytest.fixture(scope="module")
def conversation() -> Pcm16:
    """The four clips with a second of silence around each."""
    return np.concatenate([part for name in CLIPS for part in (SILENCE, clip(name))] + [SILENCE])


@pytest.fixture(scope="module")
def shared_engine() -> MoonshineEngine:
    return MoonshineEngine(MoonshineConfig(slots=6))


@pytest.fixture
def engine(shared_engine: MoonshineEngine) -> Iterator[MoonshineEngine]:
    """The engine with every slot closed, before and after."""
    yield shared_engine
    for slot in range(shared_engine.spec.slots):
        shared_engine.close(slot)
    assert not shared_engine.pending()


def words(outputs: Iterable[Output]) -> str:
    """The finals' words, without case and punctuation."""
    text = " ".join(final.text for final in finals(outputs))
    return re.sub(r"[^a-z ]", "", text.lower())


def finals(outputs: Iterable[Output]) -> list[Hypothesis]:
    return [output for output in outputs if isinstance(output, Hypothesis) and output.endpoint]


def partials(outputs: Iterable[Output]) -> list[Hypothesis]:
    return [output for output in outputs if isinstance(output, Hypothesis) and not output.endpoint]


def in_chunks(engine: MoonshineEngine, slot: int, pcm: Pcm16) -> list[Chunk]:
    """As a session gives it, with a flush at the end and the deadlines of a speaker in real time."""
    size = engine.spec.chunk_samples
    whole = [pcm[at : at + size] for at in range(0, len(pcm) - size + 1, size)]
    rest = pcm[len(whole) * size :]
    chunks = [Chunk(slot, part, deadline_s=(at + 1) * size / 16_000) for at, part in enumerate(whole)]
    return [*chunks, Chunk(slot, rest, flush=True, deadline_s=len(pcm) / 16_000)]


def run(engine: MoonshineEngine, sessions: dict[int, Pcm16]) -> dict[int, list[Output]]:
    """Feed open slots in real time until each is drained. Returns the outputs by slot."""
    waiting = {slot: in_chunks(engine, slot, pcm) for slot, pcm in sessions.items()}
    outputs: dict[int, list[Output]] = {slot: [] for slot in sessions}
    now = 0.0
    while any(waiting.values()) or engine.pending():
        ready = [chunks.pop(0) for slot, chunks in waiting.items() if chunks and not engine.blocked(slot)]
        now += engine.spec.chunk_samples / 16_000
        for output in engine.step(ready, now) + (engine.step([], now) if engine.pending() else []):
            outputs[output.slot].append(output)
    assert all(isinstance(found[-1], Drained) for found in outputs.values())
    return outputs


def transcribe(
    engine: MoonshineEngine, pcm: Pcm16, options: SlotOptions = FINALS_ONLY, snapshot: Snapshot | None = None
) -> list[Output]:
    """A whole session in slot 0."""
    engine.open(0, options, snapshot)
    outputs = run(engine, {0: pcm})[0]
    engine.close(0)
    return outputs


def test_spec(engine: MoonshineEngine) -> None:
    spec = engine.spec
    assert (spec.engine, spec.model, spec.languages, spec.slots) == ("moonshine", "moonshine-tiny-en", ("en",), 6)
    assert spec.chunk_samples % 512 == 0
    assert spec.uncommitted_s_max >= MoonshineConfig().segment_s_max


@pytest.mark.parametrize("name", CLIPS)
def test_a_clip_is_understood(engine: MoonshineEngine, name: str) -> None:
    assert words(transcribe(engine, clip(name))) == WORDS[name]


def test_finals_are_in_order_and_advance_the_snapshot(engine: MoonshineEngine, conversation: Pcm16) -> None:
    outputs = transcribe(engine, conversation)
    assert words(outputs) == " ".join(WORDS.values())
    ends = [final.end_sample for final in finals(outputs)]
    assert ends == sorted(ends) and len(ends) >= 4
    samples = [output.snapshot.sample for output in outputs if isinstance(output, Hypothesis | Advanced)]
    assert samples == sorted(samples)
    for final in finals(outputs):
        assert final.snapshot is not None and final.snapshot.sample >= final.end_sample
        assert (final.confidence, final.words) == (None, None)


def test_every_snapshot_goes_on_alike_elsewhere(engine: MoonshineEngine, conversation: Pcm16) -> None:
    """Another engine, whose chunks begin at other samples, returns exactly the remaining finals."""
    other = MoonshineEngine(MoonshineConfig(slots=1))
    outputs = transcribe(engine, conversation)
    done = 0
    for output in outputs:
        done += isinstance(output, Hypothesis)
        if isinstance(output, Hypothesis | Advanced) and output.snapshot and done % 2:
            replayed = transcribe(other, conversation[output.snapshot.sample :], snapshot=output.snapshot)
            assert finals(replayed) == finals(outputs)[done:]


def test_finals_are_the_same_beside_others_and_with_partials(engine: MoonshineEngine, conversation: Pcm16) -> None:
    alone = finals(transcribe(engine, conversation))
    shifted = {slot: np.roll(conversation, -30_011 * slot) for slot in (2, 3, 4)}
    for slot in (0, *shifted):
        engine.open(slot, SlotOptions(partials=slot < 3), None)
    assert finals(run(engine, {0: conversation, **shifted})[0]) == alone


def test_partials_grow_into_the_final(engine: MoonshineEngine) -> None:
    outputs = transcribe(engine, clip(CLIPS[0]), SlotOptions(partials=True))
    (final,) = finals(outputs)
    texts = [partial.text for partial in partials(outputs)]
    assert 2 <= len(texts) <= 6 and all(texts)
    assert all(one != next_one for one, next_one in pairwise(texts))
    assert {partial.start_sample for partial in partials(outputs)} == {final.start_sample}
    assert final.text.lower().startswith(texts[-1].lower()[:12])
    assert all(partial.snapshot is None for partial in partials(outputs))
    assert outputs.index(final) > max(outputs.index(partial) for partial in partials(outputs))


def test_partials_of_a_long_utterance_hear_its_end_again_not_all_of_it(
    engine: MoonshineEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ("0870", "0890")
    said = [clip(f"librivox_ps__sense_and_sensibility_01_austen_64kb-{name}.wav")[2000:-4000] for name in names]
    plain, heard = engine._model.decode, []
    monkeypatch.setattr(engine._model, "decode", lambda pcm, *draft: heard.append(len(pcm)) or plain(pcm, *draft))
    outputs = transcribe(engine, np.concatenate(said), SlotOptions())
    (final,) = finals(outputs)
    assert heard[-1] == final.end_sample - final.start_sample > 11 * 16_000
    assert 3 * 16_000 <= heard[-2] < 6 * 16_000  # of the last partial
    last, whole = partials(outputs)[-1], words([final])
    assert last.start_sample == final.start_sample
    assert whole.startswith(re.sub(r"[^a-z ]", "", last.text.lower())[:80])
    assert 0.8 < len(last.text.split()) / len(final.text.split()) <= 1


def test_no_partials_unless_wanted(engine: MoonshineEngine) -> None:
    assert not partials(transcribe(engine, clip(CLIPS[0]), FINALS_ONLY))


def test_partials_wait_while_live_audio_does(engine: MoonshineEngine) -> None:
    """A step with live audio decodes no partial: the audio of other sessions would become later and later."""
    engine.open(0, SlotOptions(), None)
    for chunk in in_chunks(engine, 0, clip(CLIPS[0]))[:20]:
        assert not partials(engine.step([chunk], chunk.deadline_s))
    assert engine.pending() and not engine.blocked(0)
    assert len(partials(engine.step([], 1.3))) == 1
    assert not engine.pending()


NOISE = np.random.default_rng(7)
NO_SPEECH = {
    "zeros": np.zeros(80_000),
    "hiss": NOISE.normal(0, 1000, 80_000),
    "bursts": NOISE.normal(0, 6000, 80_000) * (np.arange(80_000) % 32_000 < 5000),
    "tone": 8000 * np.sin(np.arange(80_000) * 0.17),
}


@pytest.mark.parametrize("name", NO_SPEECH)
def test_what_is_not_speech_has_no_text(engine: MoonshineEngine, name: str) -> None:
    pcm = np.clip(NO_SPEECH[name], -32768, 32767).astype(np.int16)
    outputs = transcribe(engine, pcm, SlotOptions())
    assert all(isinstance(output, Advanced | Drained) for output in outputs)


def test_a_flush_ends_the_utterance_and_is_answered_behind_its_final(engine: MoonshineEngine) -> None:
    engine.open(0, FINALS_ONLY, None)
    pcm = clip(CLIPS[2])
    first = run(engine, {0: pcm})[0]
    second = run(engine, {0: pcm})[0]
    (final,), (again,) = finals(first), finals(second)
    assert first[-2:] == [final, Drained(0)]
    assert final.endpoint == "flush" and final.snapshot is not None
    assert final.snapshot.sample == len(pcm)
    assert (again.text, again.start_sample - final.start_sample) == (final.text, len(pcm))


def test_a_flush_without_speech_is_answered_at_once(engine: MoonshineEngine) -> None:
    engine.open(0, FINALS_ONLY, None)
    advanced, drained = engine.step([Chunk(0, SILENCE[:600], flush=True)], 0.0)
    assert isinstance(advanced, Advanced) and advanced.snapshot.sample == 600
    assert drained == Drained(0)


def test_a_slot_is_blocked_while_its_final_waits(engine: MoonshineEngine) -> None:
    """Three utterances end in one step: one decode in it, one in each of the next, and nothing is pending after."""
    pcm = clip(CLIPS[2])
    for slot in (0, 1, 2):
        engine.open(slot, FINALS_ONLY, None)
    outputs = engine.step([Chunk(slot, pcm, flush=True) for slot in (0, 1, 2)], 0.0)
    assert [output.slot for output in finals(outputs)] == [0]
    assert [engine.blocked(slot) for slot in (0, 1, 2)] == [False, True, True]
    with pytest.raises(AssertionError, match="waits"):
        engine.step([Chunk(1, pcm)], 0.0)
    while engine.pending():
        outputs += engine.step([], 0.0)
    assert [type(output) for output in outputs] == [Hypothesis, Drained] * 3
    assert not any(engine.blocked(slot) for slot in (0, 1, 2))


def test_audio_faster_than_real_time_lets_live_speech_go_first(engine: MoonshineEngine) -> None:
    pcm = clip(CLIPS[2])
    for slot in (0, 1):
        engine.open(slot, FINALS_ONLY, None)
    outputs = engine.step([Chunk(0, pcm, flush=True, deadline_s=60.0), Chunk(1, pcm, flush=True)], 0.0)
    assert [output.slot for output in finals(outputs)] == [1]
    assert engine.blocked(0)


def test_a_reused_slot_is_wiped(engine: MoonshineEngine) -> None:
    expected = transcribe(engine, clip(CLIPS[3]))
    engine.open(0, SlotOptions(), None)
    engine.step([Chunk(0, clip(CLIPS[0])[:40_000])], 0.0)
    engine.close(0)
    assert transcribe(engine, clip(CLIPS[3])) == expected


def test_closing_drops_what_waits(engine: MoonshineEngine) -> None:
    for slot in (0, 1):
        engine.open(slot, FINALS_ONLY, None)
    engine.step([Chunk(slot, clip(CLIPS[2]), flush=True) for slot in (0, 1)], 0.0)
    assert engine.pending()
    engine.close(1)
    assert not engine.pending()


def test_an_utterance_without_text_only_advances(engine: MoonshineEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine._model, "decode", lambda pcm, draft=(): [])
    outputs = transcribe(engine, clip(CLIPS[2]))
    assert [type(output) for output in outputs] == [Voice, Voice, Advanced, Drained]


def test_the_first_decode_is_not_a_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """PAR-21: the engine warms up when it is made, and returns no text of that."""
    decoded: list[int] = []
    plain = MoonshineModel.decode
    monkeypatch.setattr(
        MoonshineModel, "decode", lambda self, pcm, *rest: decoded.append(len(pcm)) or plain(self, pcm, *rest)
    )
    made = MoonshineEngine(MoonshineConfig(slots=1))
    assert len(decoded) == 1
    made.open(0, SlotOptions(), None)
    assert made.step([], 0.0) == [] and len(decoded) == 1


def test_the_speaker_begins_and_ceases_around_each_utterance(engine: MoonshineEngine) -> None:
    pause = np.zeros(24_000, np.int16)
    outputs = transcribe(engine, np.concatenate([pause, clip(CLIPS[0]), pause, clip(CLIPS[2]), pause]))
    voices = [output for output in outputs if isinstance(output, Voice)]
    finals = [output for output in outputs if isinstance(output, Hypothesis) and output.endpoint]
    assert [voice.speaking for voice in voices] == [True, False] * len(finals)
    assert [voice.sample for voice in voices[1::2]] == [final.end_sample for final in finals]
    assert [voice.sample for voice in voices[::2]] == [final.start_sample for final in finals]


@pytest.mark.parametrize("language", ["", "en", "en-GB"])
def test_english_is_known(engine: MoonshineEngine, language: str) -> None:
    engine.open(0, SlotOptions(language), None)


@pytest.mark.parametrize("language", ["de", "eng", "xx-en"])
def test_other_languages_are_refused(engine: MoonshineEngine, language: str) -> None:
    with pytest.raises(BadRequest) as raised:
        engine.open(0, SlotOptions(language), None)
    assert raised.value.slug == "unsupported-language"
    engine.open(0, SlotOptions(), None)
