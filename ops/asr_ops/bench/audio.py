"""What the sessions say: one ring of frames, masked beforehand, that every session enters at a place of its own. Pure,
but for reading a recording.

Sharing the ring keeps a thousand sessions in a few megabytes, and still no two neighbours say the same at once.
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
"""The shortest and the longest stretch of speech, and of the silence after it."""


@dataclass(frozen=True, slots=True)
class Ring:
    """Frames of equal length; after the last one comes the first."""

    pcm: Pcm16
    """Shape [frames, samples of a frame]."""
    wire: tuple[bytes, ...]
    """Each frame as it goes over the wire."""

    @property
    def frame_samples(self) -> int:
        """Samples in each frame."""
        return int(self.pcm.shape[1])

    def entry(self, session: int, sessions: int) -> int:
        """The frame at which that session begins: evenly spread over the ring."""
        return session * len(self.wire) // sessions

    def spoken(self, entry: int, frames: int) -> Pcm16:
        """All samples of a session that begins there and says that many frames."""
        return self.pcm[np.arange(entry, entry + frames) % len(self.wire)].reshape(-1)


def ring(samples: Pcm16, frame_ms: int) -> Ring:
    """The samples in frames; what does not fill a frame at the end is left out."""
    size = SAMPLE_RATE * frame_ms // 1000
    count = len(samples) // size
    if not count:
        raise AudioError(f"the audio is shorter than one frame of {frame_ms} ms")
    pcm = samples[: count * size].reshape(count, size)
    return Ring(pcm, tuple(websocket.encode(websocket.BINARY, frame.astype("<i2").tobytes()) for frame in pcm))


def noise() -> Pcm16:
    """The same noise every time."""
    drawn: Pcm16 = np.random.default_rng(NOISE_SEED).integers(
        -NOISE_PEAK, NOISE_PEAK, size=NOISE_S * SAMPLE_RATE, dtype=np.int16
    )
    return drawn


def tone() -> Pcm16:
    """Two tones in the range of a voice, as the benches of old have it."""
    return from_float32(client_command.tone(TONE_S))


def with_pauses(samples: Pcm16, seed: int) -> Pcm16:
    """The same, with digital silence after stretches of drawn length; nothing of it is left out."""
    draw, parts, at = np.random.default_rng(seed), [], 0
    while at < len(samples):
        spoken, silent = (int(draw.uniform(*span) * SAMPLE_RATE) for span in (SPEECH_S, SILENCE_S))
        parts += [samples[at : at + spoken], np.zeros(silent, np.int16)]
        at += spoken
    return np.concatenate(parts)


def recording(path: Path) -> Pcm16:
    """A sound file at our rate; raises AudioError if it is none."""
    with AudioFile(path) as audio:
        pcm = b"".join(audio.frames(1000))
    return to_int16(pcm[: len(pcm) // BYTES_PER_SAMPLE * BYTES_PER_SAMPLE])
