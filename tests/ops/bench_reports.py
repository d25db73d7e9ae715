"""A session and a report, for the tests of `asr bench`."""

from __future__ import annotations

from array import array
from typing import Any

from click.testing import CliRunner, Result

from asr_ops.bench import processes, report, statistics
from asr_ops.cli import main

SERVED_MEASURES = tuple(name for name in statistics.MEASURES if name != "refused_ms")
"""What is measured where nobody is refused."""

FRAME = 1600
"""Samples in 100 ms."""


def spoken(**changed: Any) -> statistics.SessionRecord:
    """A second in ten frames, the first of which left at 10.1: two partials, one final in time, one after the end."""
    session = statistics.SessionRecord(connecting_s=9.0, ready_s=9.05, engine="fake")
    session.sent_s = array("d", [10.1 + frame * 0.1 for frame in range(10)])
    session.partials = [(10.35, 0.25), (10.65, 0.5)]
    session.finals = [(10.9, "one two"), (11.03, "three")]
    session.end_s = 11.04
    for name, value in changed.items():
        setattr(session, name, value)
    return session


def reported(*, late_ms: float = 1.0, others: float | None = 0.0, own_service: bool = True) -> report.BenchReport:
    sessions = [statistics.measure(spoken(), FRAME, "one two three")]
    use = processes.Usage("broker", 1.0, 0.5, 30.0, 20.0, 12.0)
    return report.BenchReport(
        when="2026-01-01T00:00:00+00:00",
        settings=report.BenchSettings("ws://here", own_service, "fake", 1, 1.0, 100, "random", "noise"),
        machine={"cpu": "a, b", "cores": 2, "memory_gb": 8, "system": "x", "python": "3", "load_before": 0.1},
        counts=statistics.count(sessions),
        faults={"at-capacity": 2},
        figures=statistics.overall(sessions),
        processes=[use, use] if own_service else [],
        generator=report.Generator(statistics.Spread(1, *[late_ms] * 6), 0.1),
        others_cores=others,
        sessions=sessions,
    )


def ran(*args: str) -> Result:
    """What the command answered."""
    return CliRunner(env={"COLUMNS": "160"}).invoke(main, ["bench", *args])
