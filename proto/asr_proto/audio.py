"""Audio arithmetic. Inside the system audio is PCM16LE, 16 kHz, mono; times are counted in samples."""

from __future__ import annotations

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

SAMPLE_RATE = 16_000
BYTES_PER_SAMPLE = 2

Pcm16 = NDArray[np.int16]
"""int16 of shape [samples], -32768 to 32767."""
Float32 = NDArray[np.float32]
"""float32 of shape [samples]; full scale is 1.0."""


def to_int16(pcm: bytes) -> Pcm16:
    """PCM16LE bytes as int16 [samples], without a copy. Raises ValueError for an odd number of bytes."""
    return np.frombuffer(pcm, dtype="<i2")


def to_float32(pcm: Pcm16) -> Float32:
    """int16 [samples] as float32 [samples] in [-1, 1)."""
    return pcm.astype(np.float32) / 32768.0


def from_float32(samples: Float32) -> Pcm16:
    """float32 [samples] as int16 [samples]: rounded, clipped to full scale."""
    clipped: Pcm16 = np.clip(np.rint(samples * 32768.0), -32768, 32767).astype("<i2")
    return clipped


def seconds(samples: int, sample_rate: int = SAMPLE_RATE) -> float:
    """Duration of a number of samples in seconds, rounded to the millisecond for display and wire."""
    return round(samples / sample_rate, 3)


class OddByte(Struct, array_like=True, forbid_unknown_fields=True):
    """Makes whole PCM16 samples of frames that may have an odd length."""

    carry: bytes = b""

    def feed(self, data: bytes) -> bytes:
        """The whole samples received so far and not returned yet. An odd last byte is kept for the next call."""
        if self.carry:
            data = self.carry + data
        if len(data) % BYTES_PER_SAMPLE:
            self.carry = data[-1:]
            return data[:-1]
        self.carry = b""
        return data
