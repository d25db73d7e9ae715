"""When each session starts and when each of its frames is sent. Pure. Times are whole microseconds, so order is exact.

A frame is sent at the time of its last sample: frame 0 of a session that starts at 0 is sent one frame later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

StartPattern = Literal["random", "together"]
Departure = tuple[int, int, int]
"""(microseconds after the beginning, session, frame). A plain tuple for speed: one is made for each frame."""
SPREAD_US = 1_000_000
"""Random starts lie within this many microseconds: longer than any frame and any engine's time between partials."""


def starts_us(sessions: int, start: StartPattern, seed: int, ramp_us: int = 0) -> list[int]:
    """The start of each session's audio, in microseconds. With a ramp, the sessions start one after the other."""
    ramp = [ramp_us * session // sessions for session in range(sessions)]
    if start == "together":
        return ramp
    drawn: list[int] = np.random.default_rng(seed).integers(0, SPREAD_US, size=sessions).tolist()
    return [later + phase for later, phase in zip(ramp, drawn, strict=True)]


def departures(starts: Sequence[int], frames: int, frame_us: int) -> Iterator[Departure]:
    """Every frame of every session, in the order of sending.

    All sessions have the same frame period, so their order within a period never changes. No heap and no list of all
    frames is needed.
    """
    waits = [divmod(start, frame_us) for start in starts]
    order = sorted(range(len(starts)), key=lambda session: waits[session][1])
    turns = [(session, *waits[session]) for session in order]
    for period in range(max((periods for periods, _ in waits), default=0) + frames):
        due_us = (period + 1) * frame_us
        for session, periods, phase_us in turns:
            if 0 <= (frame := period - periods) < frames:
                yield due_us + phase_us, session, frame


def frame_holding(end_sample: int, frame_samples: int, frames: int) -> int:
    """The index of the frame that completes the audio up to (not including) `end_sample`."""
    return min(max(0, (end_sample - 1) // frame_samples), frames - 1)
