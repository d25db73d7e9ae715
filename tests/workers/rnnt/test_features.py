"""The RNN-T's front end: the values of its definition, whole or in chunks (CAI-39)."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr_workers.engines.rnnt import features


def _noise(count: int, seed: int = 0) -> features.Floats:
    return np.random.default_rng(seed).normal(0, 0.1, count).astype(np.float32)


def _by_definition(pcm: features.Floats, window: int) -> list[list[float]]:
    """Frame by frame and band by band, as the published pipeline describes it."""
    padded = np.concatenate([np.zeros(window - 160), pcm.astype(np.float64)])
    audio = padded - 0.97 * np.concatenate([[0.0], padded[:-1]])
    shape = np.array([0.5 * (1 - np.cos(2 * np.pi / window * (at + 0.5))) for at in range(window)])
    bins = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(512)) / 512)
    edges = [_hertz(mel) for mel in np.linspace(0, 15 + 27 * np.log(8) / np.log(6.4), 82)]
    frames = []
    for start in range(0, len(audio) - window + 1, 160):
        power = np.abs(bins @ np.pad(audio[start : start + window] * shape, (0, 512 - window))) ** 2
        bands = [sum(_weight(k * 31.25, *edges[band : band + 3]) * power[k] for k in range(257)) for band in range(80)]
        frames.append([float(np.log(max(band, 1e-20))) for band in bands])
    return frames


def _hertz(mel: float) -> float:
    return mel * 200 / 3 if mel < 15 else float(1000 * 6.4 ** ((mel - 15) / 27))


def _weight(hertz: float, low: float, mid: float, high: float) -> float:
    rising, falling = (hertz - low) / (mid - low), (high - hertz) / (high - mid)
    return max(0.0, min(rising, falling)) * 2 / (high - low)


@pytest.mark.parametrize("window", [320, 400])
def test_the_values_are_those_of_the_definition(window: int) -> None:
    pcm = _noise(960)
    mels, _ = features.log_mel(pcm, features.silence(window))
    np.testing.assert_allclose(mels, _by_definition(pcm, window), atol=2e-5)


@pytest.mark.parametrize("window", [320, 400])
def test_a_chunk_of_960_samples_is_6_frames_and_carries_what_the_next_needs(window: int) -> None:
    mels, carry = features.log_mel(_noise(960), features.silence(window))
    assert mels.shape == (6, 80)
    assert carry.tail.shape == (window - 160,)
    assert features.stack(mels).shape == (2, 240)


@given(cuts=st.lists(st.integers(0, 40), max_size=6), window=st.sampled_from([320, 400]), rest=st.integers(0, 159))
def test_any_division_into_chunks_gives_the_same_values(cuts: list[int], window: int, rest: int) -> None:
    pcm = _noise(40 * 160 + rest)
    whole, _ = features.log_mel(pcm, features.silence(window))
    carry, parts = features.silence(window), []
    for start, end in zip([0, *sorted(cuts)], [*sorted(cuts), 41], strict=True):
        mels, carry = features.log_mel(pcm[start * 160 : end * 160], carry)
        parts.append(mels)
    # BLAS may use another order of summation for another number of rows.
    np.testing.assert_allclose(np.concatenate(parts), whole, atol=1e-5)


def test_digital_silence_is_the_floor() -> None:
    mels, _ = features.log_mel(np.zeros(960, np.float32), features.silence(400))
    assert np.all(mels == np.float32(np.log(1e-20)))


def test_a_chunk_is_filled_up_with_zeros() -> None:
    pcm = _noise(961)
    assert len(features.whole_chunks(pcm)) == 1920
    assert np.array_equal(features.whole_chunks(pcm)[:961], pcm)
    assert len(features.whole_chunks(pcm[:960])) == 960


def test_every_bin_is_normalized_by_its_own_statistics() -> None:
    mels = _noise(160).reshape(2, 80)
    means, variances = np.arange(80, dtype=np.float32), np.full(80, 4, np.float32)
    np.testing.assert_allclose(features.normalize(mels, means, variances), (mels - means) / 2, rtol=1e-6)
