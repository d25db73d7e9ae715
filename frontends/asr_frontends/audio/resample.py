"""Streaming resampling to 16 kHz with soxr. The samples do not depend on how the audio is cut into calls.

It computes in floating point: soxr dithers integer output, which depends on the cuts and adds noise to silence.
"""

from __future__ import annotations

import soxr

from asr_proto.audio import SAMPLE_RATE, from_float32, to_float32, to_int16


class Resampler:
    """Resamples PCM16LE mono from `rate` Hz to 16 kHz."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._stream = self._new()

    def feed(self, pcm: bytes) -> bytes:
        """The samples that are complete now; a few milliseconds stay in the filter."""
        return from_float32(self._stream.resample_chunk(to_float32(to_int16(pcm)))).tobytes()

    def end(self) -> bytes:
        """The rest of the samples in the filter. The next `feed` begins a new stream."""
        rest = self._stream.resample_chunk(to_float32(to_int16(b"")), last=True)
        self._stream = self._new()
        return from_float32(rest).tobytes()

    def _new(self) -> soxr.ResampleStream:
        return soxr.ResampleStream(self._rate, SAMPLE_RATE, 1, dtype="float32")
