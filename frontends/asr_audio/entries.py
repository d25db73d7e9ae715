"""What a client has sent, in order: pieces of audio, with flushes and the stop between them. Pure.

A frontend's journal keeps these entries to move a session to another worker; a client's replay, to reconnect.
"""

from __future__ import annotations

from dataclasses import dataclass

from asr_proto.audio import BYTES_PER_SAMPLE


@dataclass(frozen=True, slots=True)
class Piece:
    """PCM16LE audio that starts at sample `first_sample` of the session."""

    first_sample: int
    pcm: bytes

    @property
    def end_sample(self) -> int:
        return self.first_sample + len(self.pcm) // BYTES_PER_SAMPLE

    def since(self, sample: int) -> Piece:
        """The part from `sample` on."""
        skipped = max(0, sample - self.first_sample)
        return self if not skipped else Piece(sample, self.pcm[skipped * BYTES_PER_SAMPLE :])


@dataclass(frozen=True, slots=True)
class Mark:
    """A flush at sample `at_sample`, or the end of audio if `marker` is None."""

    at_sample: int
    marker: str | None


Entry = Piece | Mark
