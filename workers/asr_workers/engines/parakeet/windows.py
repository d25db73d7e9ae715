"""Windows of buffered streaming: the samples that a step encodes, and the frames that it decodes. Pure arithmetic.

The model is made for whole recordings, so each step encodes a window. A window has `left` frames of context that were
decoded before, a `chunk` whose tokens are fixed now, and `right` frames of context whose tokens are for partials only.
NeMo calls this buffered (chunked) inference. Frames are encoder frames. Samples count from the start of the session.
"""

from __future__ import annotations

from dataclasses import dataclass

from asr_proto.audio import SAMPLE_RATE
from asr_proto.errors import SetupError

FEATURE_SAMPLES = 160
FRAME_FEATURES = 8
FRAME_SAMPLES = FEATURE_SAMPLES * FRAME_FEATURES
WINDOW_SAMPLES_MIN = 2 * FEATURE_SAMPLES
"""Fewest samples of a window. Features are normalized over the window, and one feature has no standard deviation."""


@dataclass(frozen=True, slots=True)
class WindowContext:
    """The parts of a full window, in frames."""

    left: int
    chunk: int
    right: int

    @classmethod
    def of(cls, left_s: float, chunk_s: float, right_s: float) -> WindowContext:
        """From seconds, each to the nearest frame. Raises SetupError for an empty chunk or a negative context."""
        left, chunk, right = (round(seconds * SAMPLE_RATE / FRAME_SAMPLES) for seconds in (left_s, chunk_s, right_s))
        if chunk < 1 or left < 0 or right < 0:
            raise SetupError(
                f"a window of {left_s:g} s left, {chunk_s:g} s chunk and {right_s:g} s right context is not possible: "
                "the chunk takes at least 0.08 s, the contexts 0 s"
            )
        return cls(left, chunk, right)

    @property
    def frames(self) -> int:
        """Frames of a full window."""
        return self.left + self.chunk + self.right

    @property
    def encode_factor(self) -> float:
        """The number of times that each frame is encoded."""
        return self.frames / self.chunk

    @property
    def latency_s(self) -> float:
        """Longest time from a word's end until its tokens are fixed, in seconds, without the time of computation."""
        return (self.chunk + self.right) * FRAME_SAMPLES / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Window:
    """The part of a slot that one step encodes: samples [start, end), with `left`, `chunk` and `right` frames."""

    start: int
    end: int
    left: int
    chunk: int
    right: int


@dataclass(frozen=True, slots=True)
class WindowPlace:
    """The position of a slot in its audio."""

    sample: int
    """The sample up to which all audio is decoded."""
    first: int
    """The first sample that may be left context, a whole number of frames before `sample`."""

    def left(self, context: WindowContext) -> int:
        """Frames of left context that are available."""
        return min(context.left, (self.sample - self.first) // FRAME_SAMPLES)

    def needed(self, context: WindowContext) -> int:
        """The first sample of the next window."""
        return self.sample - self.left(context) * FRAME_SAMPLES


def frames_of(samples: int) -> int:
    """Number of encoder frames of this many samples; the last frame may cover fewer samples."""
    return -(-(samples // FEATURE_SAMPLES) // FRAME_FEATURES)


def next_window(context: WindowContext, place: WindowPlace, end: int, *, flush: bool = False) -> Window | None:
    """The next window of a slot whose audio ends at the sample `end`; None while that window is not complete.

    With `flush` no audio follows: where no full window is left, the chunk takes all remaining frames.
    """
    left = place.left(context)
    start = place.sample - left * FRAME_SAMPLES
    full = place.sample + (context.chunk + context.right) * FRAME_SAMPLES
    if end >= full:
        return Window(start, full, left, context.chunk, context.right)
    rest = frames_of(end - start) - left
    if not flush or rest <= 0 or end - start < WINDOW_SAMPLES_MIN:
        return None
    return Window(start, end, left, rest, 0)
