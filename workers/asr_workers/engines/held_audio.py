"""The audio of a session that its engine still needs."""

from __future__ import annotations

from asr_proto.audio import BYTES_PER_SAMPLE, Pcm16, to_int16


class HeldAudio:
    """The samples of a session from `first` up to `end`. Both, and all arguments, count from the session's start."""

    __slots__ = ("_pcm", "first")

    def __init__(self, first: int) -> None:
        self.first = first
        self._pcm = bytearray()

    @property
    def end(self) -> int:
        return self.first + len(self._pcm) // BYTES_PER_SAMPLE

    def append(self, pcm: Pcm16) -> None:
        self._pcm += pcm.astype("<i2", copy=False).tobytes()

    def read(self, start: int, end: int) -> Pcm16:
        """A copy of the samples from `start` up to `end`: int16 [end - start]."""
        first, last = (BYTES_PER_SAMPLE * (sample - self.first) for sample in (start, end))
        return to_int16(bytes(self._pcm[first:last]))

    def drop_before(self, sample: int) -> None:
        del self._pcm[: BYTES_PER_SAMPLE * max(sample - self.first, 0)]
        self.first = max(sample, self.first)
