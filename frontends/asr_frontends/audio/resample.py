"""Streaming resampling to 16 kHz with soxr. The samples do not depend on how the audio is cut into calls.

It computes in floating point: soxr dithers integer output, which depends on the cuts and adds noise to silence.
"""

from __future__ import annotations

from math import gcd

import soxr

from asr_frontends.portable import Portable
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE, from_float32, to_float32, to_int16

MEMORY_S = 0.2
"""Audio that determines the next samples, in seconds: more than the filter's length at every rate."""


class ResamplerState(Portable):
    """A resampler for another process. The filter itself cannot be read; it is filled again from the last audio."""

    rate: int
    last: bytes
    """The last audio that was fed. It begins at a sample that is also the time of an output sample."""
    ahead: int
    """Number of samples returned since the time at which `last` begins."""


class Resampler:
    """Resamples PCM16LE mono from `rate` Hz to 16 kHz."""

    def __init__(self, rate: int) -> None:
        self._rate = rate
        self._unit = rate // gcd(rate, SAMPLE_RATE)
        """Samples of the input after which input and output are at the same time again."""
        self._begin()

    def feed(self, pcm: bytes) -> bytes:
        """The samples that are complete now; a few milliseconds stay in the filter."""
        self._last += pcm
        self._forget()
        return self._returned(from_float32(self._stream.resample_chunk(to_float32(to_int16(pcm)))).tobytes())

    def end(self) -> bytes:
        """The rest of the samples in the filter. The next `feed` begins a new stream."""
        rest = self._stream.resample_chunk(to_float32(to_int16(b"")), last=True)
        pcm = self._returned(from_float32(rest).tobytes())
        self._begin()
        return pcm

    # ---- For another process ----

    def state(self) -> ResamplerState:
        """The state from which `continued` continues the stream. A sample may then differ by 1 of 32768 (rounding)."""
        return ResamplerState(self._rate, bytes(self._last), self._ahead)

    @classmethod
    def continued(cls, state: ResamplerState) -> Resampler:
        """A resampler that returns the samples after those that were returned before `state`."""
        resampler = cls(state.rate)
        resampler._ahead, resampler._skip = state.ahead, state.ahead * BYTES_PER_SAMPLE
        early = resampler.feed(state.last)
        resampler._ahead -= len(early) // BYTES_PER_SAMPLE  # they count when they are returned
        resampler._early = early
        return resampler

    # ---- Private ----

    def _begin(self) -> None:
        self._stream = soxr.ResampleStream(self._rate, SAMPLE_RATE, 1, dtype="float32")
        self._last = bytearray()
        self._ahead = 0
        self._skip = 0
        """Bytes of the next samples that were returned before, in another process."""
        self._early = b""
        """Samples that are complete earlier than they were in the other process."""

    def _forget(self) -> None:
        """Remove audio that is too old to matter, in whole units."""
        units = (len(self._last) // BYTES_PER_SAMPLE - int(MEMORY_S * self._rate)) // self._unit
        if units > 0:
            del self._last[: units * self._unit * BYTES_PER_SAMPLE]
            self._ahead -= units * self._unit * SAMPLE_RATE // self._rate

    def _returned(self, pcm: bytes) -> bytes:
        """Count and return the samples, after those that are early and without those that were returned before."""
        skipped = min(self._skip, len(pcm))
        self._skip -= skipped
        pcm, self._early = self._early + pcm[skipped:], b""
        self._ahead += len(pcm) // BYTES_PER_SAMPLE
        return pcm
