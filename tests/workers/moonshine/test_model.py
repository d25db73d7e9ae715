"""Decoding one utterance."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr_proto.audio import Pcm16
from asr_workers.engines.moonshine.model import MoonshineModel, read_pieces, session_options

CLIP = Path(__file__).parents[2] / "data" / "speechbrain__spk1_snt1.wav"


@pytest.fixture(scope="module")
def model() -> MoonshineModel:
    return MoonshineModel(session_options(1), 0.25)


@pytest.fixture(scope="module")
def pcm() -> Pcm16:
    return soundfile.read(CLIP, dtype="int16")[0]


def test_pieces_are_read_with_both_kinds_of_length() -> None:
    long = b"x" * 300
    assert read_pieces(b"\x02ab" + bytes([300 % 128 + 128, 300 // 128]) + long + b"\x00") == [b"ab", long, b""]


def test_a_draft_saves_work_and_does_not_change_the_tokens(model: MoonshineModel, pcm: Pcm16) -> None:
    tokens = model.decode(pcm)
    assert model.text(tokens) == "The child almost hurt the small dog."
    assert model.decode(pcm, tokens) == tokens
    assert model.decode(pcm, tokens[:3]) == tokens
    assert model.decode(pcm, [*tokens[:3], 5000, *tokens[3:]]) == tokens
    assert model.decode(pcm, tokens * 9) == tokens


@pytest.mark.parametrize("samples", [1, 800, 4000])
def test_short_audio_has_few_tokens(model: MoonshineModel, pcm: Pcm16, samples: int) -> None:
    tokens_max = -(-samples * 13 // 32_000)
    for draft in ([], [100] * 50):
        assert len(model.decode(pcm[9000 : 9000 + samples], draft)) <= tokens_max


def test_the_same_samples_give_the_same_tokens(model: MoonshineModel, pcm: Pcm16) -> None:
    first = model.decode(pcm)
    model.decode(np.zeros(50_000, np.int16))
    assert model.decode(pcm) == first
