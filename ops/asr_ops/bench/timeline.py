"""When each latency was met: points of a moment and a latency, few enough for a report. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from asr_ops.bench.statistics import SessionFigures

Point = tuple[float, float]
"""Seconds since the first session began to speak, and milliseconds."""
POINTS_MAX = 4000
"""For each measure: a report of any run stays below a megabyte."""
SHOWN = ("first_partial_ms", "partial_lag_ms", "final_ms")


def timeline(sessions: Sequence[SessionFigures], points_max: int = POINTS_MAX) -> dict[str, list[Point]]:
    """The points of each measure in the order of their moments; a measure that nobody has is left out."""
    begin_s = min((session.began_s for session in sessions if session.began_s is not None), default=0.0)
    found: Mapping[str, list[Point]] = {name: [] for name in SHOWN}
    for session in sessions:
        for name, at_s, latency_ms in _met(session):
            found[name].append((round(at_s - begin_s, 3), round(latency_ms, 3)))
    return {name: thinned(points, points_max) for name, points in found.items() if points}


def thinned(points: Sequence[Point], points_max: int) -> list[Point]:
    """Every so many-th of them by latency, the greatest for certain: their distribution remains, and so does the worst.

    Leaving out by moment instead would always meet the same sessions, whose frames leave in turn.
    """
    ranked = sorted(points, key=lambda point: (-point[1], point[0]))
    step = -(-len(ranked) // points_max)
    return sorted(ranked[:: max(1, step)])


def _met(session: SessionFigures) -> Iterator[tuple[str, float, float]]:
    """Each latency with its measure and the moment at which it was over."""
    if session.began_s is not None and session.first_partial_ms is not None:
        yield "first_partial_ms", session.began_s + session.first_partial_ms / 1000, session.first_partial_ms
    for at_s, lag_ms in zip(session.partial_at_s, session.partial_lag_ms, strict=True):
        yield "partial_lag_ms", at_s, lag_ms
    if session.spoken_s is not None and session.final_ms is not None:
        yield "final_ms", session.spoken_s + session.final_ms / 1000, session.final_ms
