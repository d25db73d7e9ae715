"""G.711: mu-law and A-law bytes to 16-bit samples, by table. Values as in ITU-T G.711, scaled to 16 bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from asr_proto.audio import Pcm16

MULAW_BIAS = 132
"""Added before the logarithm, so subtracted after it; 33 in G.711's own 14-bit scale."""


def _mulaw_table() -> Pcm16:
    """int16 [256]: all bits are sent inverted; sign, 3 bits of segment, 4 bits of step."""
    code = ~np.arange(256) & 0xFF
    magnitude = ((code & 0x0F) * 8 + MULAW_BIAS << (code >> 4 & 7)) - MULAW_BIAS
    return _signed(magnitude, code & 0x80 == 0)


def _alaw_table() -> Pcm16:
    """int16 [256]: every other bit is sent inverted; segment 0 is linear, the others have a leading one."""
    code = np.arange(256) ^ 0x55
    segment = code >> 4 & 7
    step = (code & 0x0F) * 16 + 8
    magnitude = np.where(segment == 0, step, step + 256 << np.maximum(segment - 1, 0))
    return _signed(magnitude, code & 0x80 != 0)


def _signed(magnitude: NDArray[np.int_], positive: NDArray[np.bool_]) -> Pcm16:
    return np.where(positive, magnitude, -magnitude).astype(np.int16)


MULAW = _mulaw_table()
ALAW = _alaw_table()


def from_mulaw(data: bytes) -> Pcm16:
    """One sample a byte: int16 [samples]."""
    return MULAW[np.frombuffer(data, np.uint8)]


def from_alaw(data: bytes) -> Pcm16:
    """One sample a byte: int16 [samples]."""
    return ALAW[np.frombuffer(data, np.uint8)]
