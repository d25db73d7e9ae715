"""The stop of a pool: the verdict detects planted losses, and real stops lose nothing."""

from __future__ import annotations

import random
import signal

import numpy as np
import pytest
import uvloop

from asr_proto.audio import SAMPLE_RATE
from asr_workers.engines.fake import WORD_SAMPLES, transcript
from tests.nemesis.pool import Shape
from tests.nemesis.stops import FRAME_SAMPLES, Round, Spoken, samples_of, stop_once

PCM = np.random.default_rng(1).integers(-9000, 9000, 2 * SAMPLE_RATE, dtype=np.int16)


@pytest.mark.parametrize("samples", [0, FRAME_SAMPLES, WORD_SAMPLES, 3 * FRAME_SAMPLES, 7 * FRAME_SAMPLES, len(PCM)])
def test_a_text_tells_how_much_audio_it_covers(samples: int) -> None:
    assert samples_of(transcript(PCM[:samples]), PCM) == samples


def test_a_wrong_text_is_no_prefix() -> None:
    words = transcript(PCM).split()
    for wrong in (words[1:], [*words[:2], *words[3:]], [words[0], *words], [*words[:3], "x"]):
        assert samples_of(" ".join(wrong), PCM) is None


def spoken(sent: int, delivered: int, end: str = "going-away") -> Spoken:
    return Spoken(PCM, sent, True, [transcript(PCM[:delivered])], 1.0, end)


def round_of(one: Spoken, sent_before: int, *, exit_code: int = 0, exit_at: float = 2.0) -> list[str]:
    return Round("native", [sent_before], [one], 0.5, exit_code, exit_at).faults()


def test_a_clean_stop_has_no_faults() -> None:
    assert round_of(spoken(8000, 6400), 6400) == []


def test_planted_faults_are_detected() -> None:
    assert round_of(spoken(16000, 8000), 16000) == ["session 0: 2 of 4 words lost (end: going-away)"]
    assert round_of(spoken(6400, 6400, end=""), 6400) == ["session 0: no end"]
    assert round_of(Spoken(PCM, 6400, True, ["no such words"], 1.0, "x"), 0) == [
        "session 0: a wrong text: 'no such words'"
    ]
    assert round_of(spoken(6400, 6400), 6400, exit_code=1) == ["exit code 1"]
    assert round_of(spoken(6400, 6400), 6400, exit_at=10.0) == [
        "ended 9.5 s after the signal, the slowest final came after 0.5 s"
    ]


@pytest.mark.parametrize(
    ("dialect", "number"), [("native", signal.SIGTERM), ("caiman", signal.SIGINT), ("native", signal.SIGKILL)]
)
def test_a_pool_that_stops_delivers_every_word(dialect: str, number: signal.Signals) -> None:
    one = uvloop.run(stop_once(dialect, 4, number, random.Random(1), Shape()))
    assert one.faults() == []
