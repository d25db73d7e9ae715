"""Streaming resampling to 16 kHz with soxr. Deterministic: however the audio is cut, the same samples come out.

In floating point: soxr's integer output is dithered, which depends on the cuts and puts noise on silence.
"""

from __future__ import annotations

import soxr

from asr_proto.audio import SAMPLE_RATE, from_float32, to_float32, to_int16


class Resampler:
    """PCM16LE mono at `rate` Hz to PCM16LE mono at 16 kHz."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._stream = self._new()

    def feed(self, pcm: bytes) -> bytes:
        """What is complete after these samples; a few milliseconds stay in the filter."""
        return from_float32(self._stream.resample_chunk(to_float32(to_int16(pcm)))).tobytes()

    def end(self) -> bytes:
        """What was still in the filter. The next `feed` begins anew."""
        rest = self._stream.resample_chunk(to_float32(to_int16(b"")), last=True)
        self._stream = self._new()
        return from_float32(rest).tobytes()

    def _new(self) -> soxr.ResampleStream:
        return soxr.ResampleStream(self._rate, SAMPLE_RATE, 1, dtype="float32")
