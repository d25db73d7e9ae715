"""Random changes of voice, room, line and noise for training audio: float32 [n] at 16 kHz in and out.

Every function draws from the random generator that it is given, so the same seed gives the same audio.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

RATE_HZ = 16_000
Audio = npt.NDArray[np.float32]
_WINDOW, _HOP, _LIFTER = 512, 256, 28


def chance(rng: np.random.Generator, probability: float) -> bool:
    """True with `probability`."""
    return bool(rng.random() < probability)


def log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
    """A random factor between `low` and `high`, uniform in its logarithm."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def speed(audio: Audio, factor: float) -> Audio:
    """Play `factor` times as fast, so that tempo, pitch and formants all change (Ko et al. 2015, Interspeech).

    Samples are interpolated linearly, which is sufficient for speech.
    """
    count = max(1, round(len(audio) / factor))
    at = np.arange(count, dtype=np.float32) * factor
    return np.asarray(np.interp(at, np.arange(len(audio), dtype=np.float32), audio), np.float32)


def vocal_tract(audio: Audio, factor: float) -> Audio:
    """Move the formants up by `factor`, like a shorter vocal tract. Pitch and tempo stay.

    Each spectrum is divided by its smooth envelope (from the low cepstrum) and multiplied by the stretched envelope.
    """
    window = np.sqrt(np.hanning(_WINDOW + 1)[:-1]).astype(np.float32)
    frames = max(1, -(-len(audio) // _HOP)) + 1
    padded = np.zeros((frames + 1) * _HOP, np.float32)
    padded[_HOP : _HOP + len(audio)] = audio
    spectrum = np.fft.rfft(np.lib.stride_tricks.sliding_window_view(padded, _WINDOW)[::_HOP] * window)
    logs = np.log(np.abs(spectrum) + 1e-5)
    cepstrum = np.fft.irfft(logs)
    cepstrum[:, _LIFTER:-_LIFTER] = 0
    envelope = np.fft.rfft(cepstrum).real
    bins = envelope.shape[1]
    at = np.minimum(np.arange(bins) / factor, bins - 1)
    low = np.minimum(at.astype(int), bins - 2)
    part = at - low
    moved = envelope[:, low] * (1 - part) + envelope[:, low + 1] * part
    # At most 20 dB: outside the band of a band-limited recording there is only rounding noise to amplify.
    spectrum *= np.exp(np.clip(moved - envelope, -4.0, 2.3))
    blocks = np.fft.irfft(spectrum).astype(np.float32) * window
    whole = np.zeros_like(padded)
    whole[: frames * _HOP] += blocks[:, :_HOP].ravel()
    whole[_HOP : (frames + 1) * _HOP] += blocks[:, _HOP:].ravel()
    return whole[_HOP : _HOP + len(audio)]


def cut(audio: Audio, rng: np.random.Generator) -> Audio:
    """Cut off up to 60 ms at the beginning and 100 ms at the end, as in a recording that starts late and ends early."""
    start, end = (int(rng.uniform(0, most_s) * RATE_HZ) for most_s in (0.06, 0.1))
    return audio[start : len(audio) - end] if len(audio) - start - end > 0.12 * RATE_HZ else audio


def distort(audio: Audio, rng: np.random.Generator) -> Audio:
    """Overdrive a microphone by up to 24 dB: apply tanh with a small random offset to each sample."""
    loudest = max(1e-4, float(np.abs(audio).max()))
    drive = np.float32(10 ** (rng.uniform(0, 24) / 20) / loudest)
    offset = np.float32(rng.uniform(-0.3, 0.3))
    return (np.tanh(audio * drive + offset) - np.tanh(offset)) * np.float32(loudest)


def line(audio: Audio, rng: np.random.Generator) -> Audio:
    """A random microphone and line: a spectral tilt, three peaks or dips, at times a telephone band or a small room."""
    size = 1 << (len(audio) + RATE_HZ // 2 - 1).bit_length()
    spectrum = np.fft.rfft(audio, size)
    hertz = np.fft.rfftfreq(size, 1 / RATE_HZ).astype(np.float32)
    octaves = np.log2(np.maximum(hertz, 50.0) / 1000.0)
    gain_db = rng.uniform(-7, 7) * octaves
    for _ in range(3):
        height_db, center, width = rng.uniform(-10, 10), rng.uniform(-3.3, 2.6), rng.uniform(0.3, 1.0)
        gain_db += height_db * np.exp(-0.5 * ((octaves - center) / width) ** 2)
    if chance(rng, 0.5):
        gain_db -= 12 * np.maximum(0, np.log2(rng.uniform(60, 320) / np.maximum(hertz, 20.0)))
    if chance(rng, 0.5):
        gain_db -= 60 * np.maximum(0, np.log2(np.maximum(hertz, 20.0) / rng.uniform(3300, 7000)))
    spectrum *= 10 ** (np.clip(gain_db, -90, 30) / 20)
    if chance(rng, 0.3):
        spectrum *= np.fft.rfft(_room(rng), size)
    return np.fft.irfft(spectrum, size)[: len(audio)].astype(np.float32)


def _room(rng: np.random.Generator) -> Audio:
    """The impulse response of a room: the direct sound, then noise that decays within 0.1 to 0.5 s."""
    seconds = rng.uniform(0.1, 0.5)
    count = int(seconds * RATE_HZ)
    tail = rng.standard_normal(count) * np.exp(-6.9 * np.arange(count) / count)
    tail *= rng.uniform(0.1, 0.7) / np.sqrt(np.sum(tail**2))
    tail[0] = 1
    return tail.astype(np.float32)


def add_noise(audio: Audio, rng: np.random.Generator, babble: Callable[[int], Audio]) -> Audio:
    """Add white, colored or `babble(n)` noise 6 to 40 dB below the speech."""
    kind = rng.choice(3)
    noise = babble(len(audio)) if kind == 0 else colored(len(audio), rng, 0.0 if kind == 1 else rng.uniform(0.3, 1.5))
    loud = np.sqrt(np.mean(audio**2))
    gain = loud * 10 ** (-rng.uniform(6, 40) / 20) / max(1e-9, float(np.sqrt(np.mean(noise**2))))
    return audio + noise * np.float32(gain)


def colored(count: int, rng: np.random.Generator, slope: float) -> Audio:
    """Noise [count] whose amplitude falls as frequency to the power -`slope` (0 white, 0.5 pink, 1 brown)."""
    noise = rng.standard_normal(count, dtype=np.float32)
    if slope == 0:
        return noise
    size = 1 << (count - 1).bit_length()
    shape = np.maximum(np.arange(size // 2 + 1), size * 50 // RATE_HZ + 1.0) ** -slope
    return np.fft.irfft(np.fft.rfft(noise, size) * shape, size)[:count].astype(np.float32)
