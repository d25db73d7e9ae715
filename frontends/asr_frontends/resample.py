"""Streaming resampling to 16 kHz with soxr. Deterministic: however the audio is cut, the same samples come out."""

from __future__ import annotations

import soxr

from asr_proto.audio import SAMPLE_RATE, to_int16


class Resampler:
    """PCM16LE mono at `rate` Hz to PCM16LE mono at 16 kHz."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._stream = self._new()

    def feed(self, pcm: bytes) -> bytes:
        """What is complete after these samples; a few milliseconds stay in the filter."""
        resampled: bytes = self._stream.resample_chunk(to_int16(pcm)).tobytes()
        return resampled

    def end(self) -> bytes:
        """What was still in the filter. The next `feed` begins anew."""
        resampled: bytes = self._stream.resample_chunk(to_int16(b""), last=True).tobytes()
        self._stream = self._new()
        return resampled

    def _new(self) -> soxr.ResampleStream:
        return soxr.ResampleStream(self._rate, SAMPLE_RATE, 1, dtype="int16")
