"""Latencies over time: points of (time, latency), thinned to a number that fits a report. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from asr_ops.bench.statistics import SessionFigures

Point = tuple[float, float]
"""Seconds since the start of the first session's audio, and the latency in milliseconds."""
POINTS_MAX = 4000
"""Most points of a measure: the report of any run stays below a megabyte."""
SHOWN = ("first_partial_ms", "partial_lag_ms", "final_ms")


def timeline(sessions: Sequence[SessionFigures], points_max: int = POINTS_MAX) -> dict[str, list[Point]]:
    """The points of each measure, sorted by time. A measure without values is left out."""
    begin_s = min((session.began_s for session in sessions if session.began_s is not None), default=0.0)
    found: Mapping[str, list[Point]] = {name: [] for name in SHOWN}
    for session in sessions:
        for name, at_s, latency_ms in _met(session):
            found[name].append((round(at_s - begin_s, 3), round(latency_ms, 3)))
    return {name: thinned(points, points_max) for name, points in found.items() if points}


def thinned(points: Sequence[Point], points_max: int) -> list[Point]:
    """Every n-th point in the order of latency, always with the highest, sorted by time.

    This keeps the distribution and the worst latency. Thinning in the order of time would always keep the same
    sessions, because sessions send their frames in turn.
    """
    ranked = sorted(points, key=lambda point: (-point[1], point[0]))
    step = -(-len(ranked) // points_max)
    return sorted(ranked[:: max(1, step)])


def _met(session: SessionFigures) -> Iterator[tuple[str, float, float]]:
    """(measure, time at which the latency ended, latency) of each latency of a session."""
    if session.began_s is not None and session.first_partial_ms is not None:
        yield "first_partial_ms", session.began_s + session.first_partial_ms / 1000, session.first_partial_ms
    for at_s, lag_ms in zip(session.partial_at_s, session.partial_lag_ms, strict=True):
        yield "partial_lag_ms", at_s, lag_ms
    if session.spoken_s is not None and session.final_ms is not None:
        yield "final_ms", session.spoken_s + session.final_ms / 1000, session.final_ms
