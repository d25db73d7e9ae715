"""Streaming features equal those of the whole recording, for any chunks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_proto.audio import Pcm16
from asr_proto.errors import BadRequest, SetupError

torch = pytest.importorskip("torch", reason="needs the extra nemo")

from asr_workers.engines.fastconformer import mel  # noqa: E402 - needs torch

FILTERS = torch.rand(80, 257, generator=torch.Generator().manual_seed(1)) * 0.01
WINDOW = torch.hann_window(400, periodic=False)
WEIGHTS = {"preprocessor.featurizer.fb": FILTERS[None], "preprocessor.featurizer.window": WINDOW}
SETTINGS = mel.MelSettings(WINDOW, FILTERS)


def noise(samples: int, seed: int = 0) -> Pcm16:
    return np.random.default_rng(seed).integers(-20000, 20000, samples).astype(np.int16)


def whole(pcm: Pcm16) -> Any:
    """The definition: a centered transform of the whole recording."""
    x = torch.from_numpy(pcm.astype(np.float32) / 32768)
    x = torch.cat((x[:1], x[1:] - 0.97 * x[:-1]))
    spectrum = torch.stft(x, 512, 160, 400, WINDOW, center=True, pad_mode="constant", return_complex=True)
    return ((FILTERS @ spectrum.abs().pow(2)) + 2**-24).log().T[: pcm.size // 160]


@settings(max_examples=40)
@given(st.integers(0, 6000), st.lists(st.integers(0, 6000), max_size=12))
def test_any_cut_gives_the_whole_recordings_features(samples: int, cuts: list[int]) -> None:
    pcm = noise(samples)
    streaming = mel.StreamingMel(SETTINGS, 1)
    parts = np.split(pcm, sorted(min(cut, samples) for cut in cuts))
    got = [streaming.feed([0], [part], [index == len(parts) - 1])[0] for index, part in enumerate(parts)]
    features = torch.cat(got)
    assert features.shape == (samples // 160, 80)
    if samples >= 160:
        assert (features - whole(pcm)).abs().max() < 1e-5


def test_slots_are_independent_and_wiped_after_the_last_samples() -> None:
    streaming = mel.StreamingMel(SETTINGS, 3)
    streaming.feed([0, 1, 2], [noise(5000, seed) for seed in range(3)], [True, False, False])
    again = streaming.feed([2, 0], [noise(1000, 7), noise(2000, 9)], [False, True])
    assert torch.equal(again[1], mel.StreamingMel(SETTINGS, 1).feed([0], [noise(2000, 9)], [True])[0])


@pytest.mark.parametrize("beside", [False, True])
@pytest.mark.parametrize("samples", [0, 1, 80, 159, 160, 400])
def test_last_samples_are_not_heard_in_the_next_utterance(samples: int, beside: bool) -> None:
    """Even where they are too few for a frame."""
    streaming, pcm = mel.StreamingMel(SETTINGS, 2), noise(4000, 5)
    if beside:
        streaming.feed([0, 1], [noise(samples), noise(3000, 1)], [True, False])
    else:
        streaming.feed([0], [noise(samples)], [True])
    (alone,) = mel.StreamingMel(SETTINGS, 1).feed([0], [pcm], [True])
    assert torch.equal(streaming.feed([0], [pcm], [True])[0], alone)


def test_a_frame_is_ready_half_a_window_after_its_time() -> None:
    streaming = mel.StreamingMel(SETTINGS, 1)
    assert [len(streaming.feed([0], [noise(n)], [False])[0]) for n in (199, 1, 159, 1)] == [0, 1, 0, 1]


def test_going_on_from_an_exported_state() -> None:
    one, other = mel.StreamingMel(SETTINGS, 1), mel.StreamingMel(SETTINGS, 2)
    one.feed([0], [noise(1234)], [False])
    other.feed([1], [noise(99)], [False])
    other.restore(1, one.export(0))
    rest = noise(4321, 3)
    assert torch.equal(one.feed([0], [rest], [True])[0], other.feed([1], [rest], [True])[0])


@pytest.mark.parametrize("state", [b"", b"x" * 24, b"x" * 400])
def test_states_that_are_none(state: bytes) -> None:
    with pytest.raises(BadRequest):
        mel.StreamingMel(SETTINGS, 1).restore(0, state)


@pytest.mark.parametrize(
    "preprocessor",
    [{}, {"normalize": "per_feature"}, {"normalize": {"fixed_mean": [0]}}, {"normalize": "NA", "sample_rate": 8000}],
)
def test_features_that_cannot_be_streamed(preprocessor: dict[str, Any]) -> None:
    with pytest.raises(SetupError):
        mel.mel_settings({"preprocessor": preprocessor}, WEIGHTS)


def test_settings_come_from_the_checkpoint() -> None:
    given_ = {"normalize": "NA", "log_zero_guard_type": "clamp", "log_zero_guard_value": "eps", "preemph": None}
    made = mel.mel_settings({"preprocessor": given_}, WEIGHTS)
    assert (made.mels, made.hop_samples, made.fft_samples) == (80, 160, 512)
    assert (made.clamped, made.guard, made.preemphasis) == (True, torch.finfo(torch.float32).eps, 0.0)
    with pytest.raises(SetupError, match="does not define its log-mel"):
        mel.mel_settings({"preprocessor": given_}, {})
