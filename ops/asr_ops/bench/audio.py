"""The audio that the sessions send: one ring of frames, masked in advance, which each session enters at another place.

Pure, except for reading a recording. A shared ring keeps the audio of a thousand sessions in a few megabytes, and
neighboring sessions still send different audio at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr_audio.files import AudioFile
from asr_client import client_command
from asr_ops.bench import websocket
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE, Pcm16, from_float32, to_int16
from asr_proto.errors import AudioError

NOISE_S = 60
NOISE_PEAK = 8000
NOISE_SEED = 1
TONE_S = 3.0
SPEECH_S, SILENCE_S = (1.0, 4.0), (0.5, 2.5)
"""Shortest and longest stretch of speech, and of the silence after it, in seconds."""


@dataclass(frozen=True, slots=True)
class Ring:
    """Frames of equal length. The first frame follows the last."""

    pcm: Pcm16
    """Samples, shape [frames, samples of a frame]."""
    wire: tuple[bytes, ...]
    """Each frame as the bytes to send."""

    @property
    def frame_samples(self) -> int:
        """Samples in each frame."""
        return int(self.pcm.shape[1])

    def entry(self, session: int, sessions: int) -> int:
        """The index of the first frame of session number `session`: the entries are spread evenly over the ring."""
        return session * len(self.wire) // sessions

    def session_samples(self, entry: int, frames: int) -> Pcm16:
        """All samples of a session that begins at frame `entry` and sends `frames` frames."""
        return self.pcm[np.arange(entry, entry + frames) % len(self.wire)].reshape(-1)


def ring(samples: Pcm16, frame_ms: int) -> Ring:
    """Split samples [n] at 16 kHz into frames. The rest that does not fill a frame is dropped.

    Raises AudioError if there is less than one frame.
    """
    size = SAMPLE_RATE * frame_ms // 1000
    count = len(samples) // size
    if not count:
        raise AudioError(f"the audio is shorter than one frame of {frame_ms} ms")
    pcm = samples[: count * size].reshape(count, size)
    return Ring(pcm, tuple(websocket.encode(websocket.BINARY, frame.astype("<i2").tobytes()) for frame in pcm))


def noise() -> Pcm16:
    """NOISE_S seconds of noise, the same on every call."""
    drawn: Pcm16 = np.random.default_rng(NOISE_SEED).integers(
        -NOISE_PEAK, NOISE_PEAK, size=NOISE_S * SAMPLE_RATE, dtype=np.int16
    )
    return drawn


def tone() -> Pcm16:
    """TONE_S seconds of two tones in the range of a voice, as in the older systems' benches."""
    return from_float32(client_command.tone(TONE_S))


def with_pauses(samples: Pcm16, seed: int) -> Pcm16:
    """All samples, with digital silence inserted after stretches of random length."""
    draw, parts, at = np.random.default_rng(seed), [], 0
    while at < len(samples):
        spoken, silent = (int(draw.uniform(*span) * SAMPLE_RATE) for span in (SPEECH_S, SILENCE_S))
        parts += [samples[at : at + spoken], np.zeros(silent, np.int16)]
        at += spoken
    return np.concatenate(parts)


def recording(path: Path) -> Pcm16:
    """A sound file as int16 samples at 16 kHz. Raises AudioError if it cannot be read."""
    with AudioFile(path) as audio:
        pcm = b"".join(audio.frames(1000))
    return to_int16(pcm[: len(pcm) // BYTES_PER_SAMPLE * BYTES_PER_SAMPLE])
