"""When each session starts and when each of its frames leaves. Pure; whole microseconds, so that order is exact.

A frame leaves when its last sample has been spoken: frame 0 of a session that starts at 0 leaves one frame later.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np

StartPattern = Literal["random", "together"]
Departure = tuple[int, int, int]
"""Microseconds after the beginning, session, frame. A plain tuple: one is made for each frame."""
SPREAD_US = 1_000_000
"""Random starts lie within a second: longer than any frame and any engine's update."""


def starts_us(sessions: int, start: StartPattern, seed: int, ramp_us: int = 0) -> list[int]:
    """The moment at which each session begins to speak; with a ramp, one after the other over that time."""
    ramp = [ramp_us * session // sessions for session in range(sessions)]
    if start == "together":
        return ramp
    drawn: list[int] = np.random.default_rng(seed).integers(0, SPREAD_US, size=sessions).tolist()
    return [later + phase for later, phase in zip(ramp, drawn, strict=True)]


def departures(starts: Sequence[int], frames: int, frame_us: int) -> Iterator[Departure]:
    """Every frame of every session, in the order of leaving.

    All sessions share one period, so their order within a period never changes: no heap, no list of all frames.
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
    """The frame whose departure completes the audio up to (not including) `end_sample`."""
    return min(max(0, (end_sample - 1) // frame_samples), frames - 1)
