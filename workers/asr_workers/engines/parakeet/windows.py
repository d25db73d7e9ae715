"""Which samples a step of a buffered model encodes, and which of the frames that come out count. Pure arithmetic.

The model is made for whole recordings, so each step encodes a window anew: `left` frames of context that were decoded
before, a `chunk` that is decoded for good, and `right` frames of context, whose text is only a partial. Frames are the
encoder's; samples are counted from the start of the session.
"""

from __future__ import annotations

from dataclasses import dataclass

from asr_proto.audio import SAMPLE_RATE
from asr_proto.errors import SetupError

FEATURE_SAMPLES = 160
FRAME_FEATURES = 8
FRAME_SAMPLES = FEATURE_SAMPLES * FRAME_FEATURES
WINDOW_SAMPLES_MIN = 2 * FEATURE_SAMPLES
"""Features are normalised over their window: one alone has no deviation."""


@dataclass(frozen=True, slots=True)
class WindowContext:
    """The parts of a full window, in frames."""

    left: int
    chunk: int
    right: int

    @classmethod
    def of(cls, left_s: float, chunk_s: float, right_s: float) -> WindowContext:
        """From seconds, each to the nearest frame. Raises SetupError."""
        left, chunk, right = (round(seconds * SAMPLE_RATE / FRAME_SAMPLES) for seconds in (left_s, chunk_s, right_s))
        if chunk < 1 or left < 0 or right < 0:
            raise SetupError(
                f"a window of {left_s:g} s left, {chunk_s:g} s chunk and {right_s:g} s right context cannot be: "
                "the chunk takes at least 0.08 s, the contexts 0 s"
            )
        return cls(left, chunk, right)

    @property
    def frames(self) -> int:
        """Of a full window."""
        return self.left + self.chunk + self.right

    @property
    def encode_factor(self) -> float:
        """How often each frame is encoded."""
        return self.frames / self.chunk

    @property
    def latency_s(self) -> float:
        """Longest time from a word's end to its place among the text that never changes, without computation."""
        return (self.chunk + self.right) * FRAME_SAMPLES / SAMPLE_RATE


@dataclass(frozen=True, slots=True)
class Window:
    """What one step encodes of a slot: samples [start, end), whose frames are `left`, then `chunk`, then `right`."""

    start: int
    end: int
    left: int
    chunk: int
    right: int


@dataclass(frozen=True, slots=True)
class Place:
    """How far a slot is."""

    sample: int
    """Everything before it is decoded."""
    first: int
    """The first sample that may be left context, whole frames before `sample`."""

    def left(self, context: WindowContext) -> int:
        """Frames of left context that there are."""
        return min(context.left, (self.sample - self.first) // FRAME_SAMPLES)

    def needed(self, context: WindowContext) -> int:
        """The first sample that the next window will begin with."""
        return self.sample - self.left(context) * FRAME_SAMPLES


def frames_of(samples: int) -> int:
    """Frames that come out of so many samples: the last may stand for less than a whole one."""
    return -(-(samples // FEATURE_SAMPLES) // FRAME_FEATURES)


def next_window(context: WindowContext, place: Place, end: int, *, flush: bool = False) -> Window | None:
    """The window after what was decoded, when there is audio up to `end`; None while it is not complete.

    With `flush` nothing follows: all that is left becomes the chunk, once no full window is.
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
