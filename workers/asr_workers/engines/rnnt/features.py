"""The RNN-T's log-mel front end in numpy: 16 kHz samples to 80 normalized log-mel values every 10 ms.

It reproduces the front end of CAIMAN-ASR. (window - hop) zeros precede the audio, so n samples give exactly n // 160
frames, and no frame depends on later samples. A chunk of 960 samples is 6 frames. Three frames are stacked (30 ms), and
the network stacks two of those (an encoder step of 60 ms). A stream carries the last (window - hop) samples after
pre-emphasis, and the last sample before it. There is no dither: the same audio must give the same text.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

RATE_HZ = 16_000
HOP_SAMPLES = 160
MELS = 80
STACK_FRAMES = 3
CHUNK_SAMPLES = 960
PREEMPHASIS = 0.97
_FFT = 512
_POWER_MIN = 1e-20

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Carry:
    """The samples that the front end keeps between two chunks of a stream."""

    tail: Floats
    """float32 [window - hop]: the last samples after pre-emphasis."""
    sample: np.float32
    """The last sample before pre-emphasis."""


def silence(window_samples: int) -> Carry:
    """The carry before the first sample of a stream."""
    return Carry(np.zeros(window_samples - HOP_SAMPLES, np.float32), np.float32(0))


def log_mel(pcm: Floats, carry: Carry) -> tuple[Floats, Carry]:
    """Log-mel frames, float32 [n // 160, 80], of float32 [n] in -1..1, and the carry after the last whole frame.

    The frames are not normalized. A stream gives multiples of 160 samples; other samples at the end are dropped.
    """
    count = len(pcm) // HOP_SAMPLES
    pcm = pcm[: count * HOP_SAMPLES]
    if not count:
        return np.zeros((0, MELS), np.float32), carry
    before = np.concatenate([[carry.sample], pcm[:-1]])
    audio = np.concatenate([carry.tail, pcm - np.float32(PREEMPHASIS) * before]).astype(np.float32)
    window_samples = len(carry.tail) + HOP_SAMPLES
    windows = np.lib.stride_tricks.sliding_window_view(audio, window_samples)[::HOP_SAMPLES]
    spectrum = np.fft.rfft(windows * _hann(window_samples), _FFT)
    power = spectrum.real**2 + spectrum.imag**2
    mels = np.log(np.maximum(power @ mel_filters().T, _POWER_MIN)).astype(np.float32)
    return mels, Carry(audio[len(audio) - len(carry.tail) :], pcm[-1])


def normalize(mels: Floats, means: Floats, variances: Floats) -> Floats:
    """Frames [t, 80] with each band normalized by the training data's mean and variance, [80] each."""
    return ((mels - means) / np.sqrt(variances)).astype(np.float32)


def stack(mels: Floats) -> Floats:
    """Stack every three frames: [t, 80] to [t // 3, 240]."""
    count = len(mels) // STACK_FRAMES
    return mels[: count * STACK_FRAMES].reshape(count, STACK_FRAMES * mels.shape[1])


def whole_chunks(pcm: Floats) -> Floats:
    """The samples [n], followed by zeros up to a multiple of 960."""
    return np.pad(pcm, (0, -len(pcm) % CHUNK_SAMPLES))


@lru_cache
def _hann(window_samples: int) -> npt.NDArray[np.float64]:
    """A Hann window [window_samples], sampled at half steps: it is symmetric and never zero."""
    return 0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(window_samples) + 0.5) / window_samples)


@lru_cache
def mel_filters() -> npt.NDArray[np.float64]:
    """Triangular filters [80, 257] of equal area, evenly spaced from 0 to 8000 Hz on Slaney's mel scale."""
    edges = _mel_to_hz(np.linspace(0, _hz_to_mel(RATE_HZ / 2), MELS + 2))
    low, mid, high = edges[:-2, None], edges[1:-1, None], edges[2:, None]
    hertz = np.arange(_FFT // 2 + 1) * RATE_HZ / _FFT
    triangles = np.maximum(0, np.minimum((hertz - low) / (mid - low), (high - hertz) / (high - mid)))
    return np.asarray(triangles * 2 / (high - low))


# The mel scale of Slaney 1998 (Auditory Toolbox): 200/3 Hz per mel up to 1000 Hz, then 27 mels per factor of 6.4.
_LINEAR_HZ, _KNEE_HZ = 200 / 3, 1000.0
_KNEE_MEL, _LOG_STEP = _KNEE_HZ / _LINEAR_HZ, np.log(6.4) / 27


def _hz_to_mel(hertz: float) -> float:
    return float(_KNEE_MEL + np.log(hertz / _KNEE_HZ) / _LOG_STEP) if hertz > _KNEE_HZ else hertz / _LINEAR_HZ


def _mel_to_hz(mels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    above = _KNEE_HZ * np.exp(_LOG_STEP * (mels - _KNEE_MEL))
    return np.where(mels > _KNEE_MEL, above, mels * _LINEAR_HZ)
