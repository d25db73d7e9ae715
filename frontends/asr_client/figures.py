"""The figures of one session, with the names that the replaced systems use. Pure.

    wall_s                from the start of connecting to the moment when the text was complete
    audio_s               length of the audio sent
    rtf, xrt              wall / audio, audio / wall
    partials              how often the text changed
    avg_partial_gap_ms    mean time between two changes
    ttfw_s                from the first audio sent to the first word
    send_duration_s       from the first audio sent to the last
    post_send_final_s     from the last audio sent to the complete text; finalize_ms is the same in milliseconds
    delta_to_audio_ms     wall - audio

A figure that does not exist is None: a silent session has no first word. This module uses no dialects, sockets or
clocks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Said:
    """The whole text of the session at `at_s`, in seconds since the start of connecting."""

    at_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Run:
    """What happened in one session. Times are seconds since the start of connecting."""

    audio_s: float
    connected_s: float
    first_audio_s: float
    last_audio_s: float
    final_s: float
    """When the text was complete."""
    said: tuple[Said, ...]
    """Every text that differed from the previous one."""

    @property
    def text(self) -> str:
        """The text of the whole session."""
        return self.said[-1].text if self.said else ""


@dataclass(frozen=True, slots=True)
class Figures:
    """The figures that the module's docstring defines."""

    wall_s: float
    audio_s: float
    rtf: float | None
    xrt: float | None
    ttfw_s: float | None
    partials: int
    avg_partial_gap_ms: float | None
    send_duration_s: float
    post_send_final_s: float
    finalize_ms: float
    delta_to_audio_ms: float


def figures(run: Run) -> Figures:
    """All figures of a session."""
    wall_s, finalize_s = run.final_s, run.final_s - run.last_audio_s
    return Figures(
        wall_s=wall_s,
        audio_s=run.audio_s,
        rtf=_ratio(wall_s, run.audio_s),
        xrt=_ratio(run.audio_s, wall_s),
        ttfw_s=_first_word_s(run),
        partials=len(run.said),
        avg_partial_gap_ms=_gap_ms(run.said),
        send_duration_s=run.last_audio_s - run.first_audio_s,
        post_send_final_s=finalize_s,
        finalize_ms=finalize_s * 1000,
        delta_to_audio_ms=(wall_s - run.audio_s) * 1000,
    )


def percentile(values: Sequence[float], q: float) -> float:
    """The value at index round(q * (n - 1)) of the sorted values, as in the five systems' benches.

    Raises ValueError for no values or a `q` outside of 0..1.
    """
    if not values or not 0 <= q <= 1:
        raise ValueError(f"no percentile {q} of {len(values)} values")
    return sorted(values)[round(q * (len(values) - 1))]


def _ratio(one: float, other: float) -> float | None:
    return one / other if other > 0 else None


def _first_word_s(run: Run) -> float | None:
    spoken = (said.at_s for said in run.said if said.text.strip())
    first_s = next(spoken, None)
    return None if first_s is None else first_s - run.first_audio_s


def _gap_ms(said: Sequence[Said]) -> float | None:
    """The mean of the gaps is the whole span over their number."""
    if len(said) < 2:
        return None
    return (said[-1].at_s - said[0].at_s) / (len(said) - 1) * 1000
