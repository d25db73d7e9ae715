"""Segmenting recorded speech: the utterances depend on the samples alone."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_proto.audio import Pcm16
from asr_proto.errors import BadRequest, SetupError
from asr_workers.engines.base import Advanced, Chunk, Drained, Snapshot
from asr_workers.engines.moonshine.config import MoonshineConfig
from asr_workers.engines.moonshine.model import session_options
from asr_workers.engines.offline.segmenter import Found, Segment, Segmenter
from asr_workers.engines.weights.wheel_models import wheel_file

DATA = Path(__file__).parents[2] / "data"
SILENCE = np.zeros(24_000, np.int16)

Span = tuple[int, int, str]


def clip(name: str) -> Pcm16:
    return soundfile.read(DATA / name, dtype="int16")[0]


@pytest.fixture(scope="module")
def speech() -> Pcm16:
    """Utterances between pauses, the third (of clips without pauses) longer than an utterance may be: 33 s."""
    one = clip("speechbrain__spk1_snt1.wav")
    two = clip("librivox_ps__sense_and_sensibility_01_austen_64kb-0880.wav")
    long = [clip(f"librivox_ps__sense_and_sensibility_01_austen_64kb-0{n}.wav") for n in (870, 890, 870)]
    return np.concatenate([SILENCE, one, SILENCE, two, SILENCE, *[part[2000:-4000] for part in long], SILENCE])


@pytest.fixture(scope="module")
def segmenter() -> Segmenter:
    return Segmenter(MoonshineConfig().endpointing, 4, session_options(1))


def chunks(pcm: Pcm16, size: int, slot: int) -> list[Chunk]:
    """Feed all of it, with a flush at the end."""
    cut = [Chunk(slot, pcm[at : at + size]) for at in range(0, len(pcm), size)]
    return [*cut, Chunk(slot, pcm[:0], flush=True)]


def listen(segmenter: Segmenter, pcm: Pcm16, *, size: int = 1024, snapshot: Snapshot | None = None) -> list[Found]:
    segmenter.open(1, snapshot)
    found = [found for chunk in chunks(pcm, size, 1) for found in segmenter.feed([chunk])]
    segmenter.close(1)
    return found


def spans(found: list[Found]) -> list[Span]:
    return [(f.start_sample, f.end_sample, f.endpoint) for f in found if isinstance(f, Segment)]


def test_the_speech_is_found(segmenter: Segmenter, speech: Pcm16) -> None:
    found = listen(segmenter, speech)
    endpoints = [endpoint for _, _, endpoint in spans(found)]
    assert endpoints.count("length") == 1 and endpoints[:2] == ["silence", "silence"]
    assert all(end - start <= 15 * 16_000 for start, end, _ in spans(found))
    for segment in found:
        if isinstance(segment, Segment):
            assert (segment.pcm == speech[segment.start_sample : segment.end_sample]).all()
    assert isinstance(found[-1], Drained)


@pytest.mark.parametrize("size", [160, 700, 512, 4801])
def test_chunk_boundaries_do_not_matter(segmenter: Segmenter, speech: Pcm16, size: int) -> None:
    assert spans(listen(segmenter, speech, size=size)) == spans(listen(segmenter, speech))


def test_every_snapshot_goes_on_alike(segmenter: Segmenter, speech: Pcm16) -> None:
    found = listen(segmenter, speech)
    done = 0
    for one in found:
        done += isinstance(one, Segment)
        if isinstance(one, Segment | Advanced):
            assert len(one.snapshot.state) < 4096
            rest = listen(segmenter, speech[one.snapshot.sample :], size=1000, snapshot=one.snapshot)
            assert spans(rest) == spans(found)[done:]
    assert sum(isinstance(one, Advanced) for one in found) >= 3


def test_silent_slots_are_snapshot_once_a_second_and_hold_little(segmenter: Segmenter) -> None:
    segmenter.open(0, None)
    found: list[Found] = []
    for _ in range(160):
        found += segmenter.feed([Chunk(0, SILENCE[:1024])])
        audio = segmenter._streams[0].audio
        assert audio.end - audio.first < 8000
    samples = [one.snapshot.sample for one in found if isinstance(one, Advanced)]
    assert len(samples) == len(found) and 8 <= len(samples) <= 10
    assert all(later - earlier >= 16_000 for earlier, later in pairwise(samples))


def test_a_flush_begins_anew(segmenter: Segmenter, speech: Pcm16) -> None:
    """What follows a flush is segmented as in a new session, wherever the flush fell."""
    segmenter.open(2, None)
    flushed = segmenter.feed([Chunk(2, speech[:50_003], flush=True)])
    assert spans(flushed)[-1][1:] == (50_003, "flush")
    assert flushed[-2].snapshot.sample == 50_003
    found = [f for chunk in chunks(speech[:200_000], 1024, 2) for f in segmenter.feed([chunk])]
    alone = spans(listen(segmenter, speech[:200_000]))
    assert spans(found) == [(start + 50_003, end + 50_003, endpoint) for start, end, endpoint in alone]


def test_an_utterance_that_ends_in_the_window_that_a_flush_fills_up(segmenter: Segmenter, speech: Pcm16) -> None:
    """Its snapshot lies after samples that never came. A replay up to the same flush continues in the same way."""
    first = next(one for one in listen(segmenter, speech) if isinstance(one, Segment))
    heard = first.snapshot.sample + int.from_bytes(first.snapshot.state[1:5], "little")
    segmenter.open(1, None)
    segment, *rest = segmenter.feed([Chunk(1, speech[: heard - 100], flush=True)])[-3:]
    assert isinstance(segment, Segment) and segment.endpoint == "silence"
    segmenter.open(2, segment.snapshot)
    replayed = segmenter.feed([Chunk(2, speech[segment.snapshot.sample : heard - 100], flush=True)])
    assert [type(one) for one in replayed] == [Advanced, Drained]
    assert replayed[0].snapshot == rest[0].snapshot


def test_a_flush_in_silence_drains_at_once(segmenter: Segmenter) -> None:
    segmenter.open(3, None)
    advanced, drained = segmenter.feed([Chunk(3, SILENCE[:700], flush=True)])
    assert isinstance(advanced, Advanced) and advanced.snapshot.sample == 700
    assert drained == Drained(3)
    assert isinstance(segmenter.feed([Chunk(3, SILENCE[:0], flush=True)])[-1], Drained)


def test_pauses_lie_in_held_audio_and_do_not_depend_on_chunks(segmenter: Segmenter, speech: Pcm16) -> None:
    """A pause inside of an utterance is known until its audio is dropped; it is quieter there than around it."""
    seen: list[set[int]] = []
    for size in (1024, 700):
        segmenter.open(1, None)
        known = set()
        for chunk in chunks(speech, size, 1)[:-1]:
            segmenter.feed([chunk])
            audio = segmenter._streams[1].audio
            assert all(audio.first <= at < audio.end for at in segmenter.pauses(1))
            if segmenter.utterance(1):
                known |= set(segmenter.pauses(1))
        seen.append(known)
        segmenter.feed([Chunk(1, speech[:0], flush=True)])
        assert not segmenter.pauses(1)
        segmenter.close(1)
    assert seen[0] and seen[0] >= seen[1]
    loud = np.abs(speech.astype(np.int32))
    assert np.mean([loud[at - 512 : at + 512].mean() for at in seen[1]]) < loud.mean() / 2


def test_other_snapshots_are_refused(segmenter: Segmenter) -> None:
    for state in (b"", b"\x01", b"\xff" * 1802):
        with pytest.raises(BadRequest) as raised:
            segmenter.open(0, Snapshot(0, state))
        assert raised.value.slug == "bad-snapshot"


def test_a_missing_model_is_one_sentence() -> None:
    with pytest.raises(SetupError, match="install the release"):
        wheel_file("no_such_package", "model.onnx")
