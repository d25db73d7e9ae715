"""The search for the most sessions that a server can serve: which number to try next, and whether one passed. Pure.

The search doubles the number of sessions until one does not pass (or halves it until one passes). Then it bisects
between the most that passed and the fewest that did not, until the gap is a tenth of the former.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asr_ops.bench.report import LATENESS_MS_MAX, BenchReport

RESOLUTION = 0.1
"""The largest gap at which the search ends, as a share of the most sessions that passed."""


@dataclass(frozen=True, slots=True)
class SearchStep:
    """The result of one number of sessions."""

    sessions: int
    passed: bool
    final_ms_p95: float | None
    partial_lag_ms_p95: float | None
    """None in dialects whose partials do not report which audio they cover."""
    broken: str
    """Why the objective was missed; empty if it was met."""
    generator_late: bool
    """Whether the load generator was late, so that the figures may describe it and not the server."""

    def __str__(self) -> str:
        latencies = {"final_ms": self.final_ms_p95, "partial_lag_ms": self.partial_lag_ms_p95}
        shown = ", ".join(f"{name} p95 {value:.1f}" for name, value in latencies.items() if value is not None)
        late = " (the load generator was late)" if self.generator_late else ""
        return f"{self.sessions} sessions: {shown or 'none served'}: {self.broken or 'passed'}{late}"


def judged(report: BenchReport, slo_ms: float) -> SearchStep:
    """The step for a report. It passed if every session was served and p95 latencies are at most `slo_ms`."""
    final, lag = (row.p95 if (row := report.figures.get(name)) else None for name in ("final_ms", "partial_lag_ms"))
    counts, lateness = report.counts, report.generator.lateness_ms
    failed = {"refused": counts.refused, "errors": counts.errors, "lost": counts.lost or 0}
    broken = [f"{number} {what}" for what, number in failed.items() if number]
    if max(final or 0.0, lag or 0.0) > slo_ms:
        broken.append(f"above {slo_ms:g} ms")
    return SearchStep(
        sessions=report.settings.sessions,
        passed=not broken,
        final_ms_p95=final,
        partial_lag_ms_p95=lag,
        broken=", ".join(broken),
        generator_late=lateness is not None and lateness.p99 > LATENESS_MS_MAX,
    )


def following(steps: Sequence[SearchStep], first: int, most: int) -> int | None:
    """The number of sessions to try next, from `first` to at most `most`. None when the search is finished."""
    passed, broken = _bounds(steps)
    if broken is None:
        wanted = min(passed * 2, most) if passed else min(first, most)
        return wanted if wanted > passed else None
    if not passed:
        return broken // 2 or None
    return (passed + broken) // 2 if broken - passed > max(1, passed * RESOLUTION) else None


def conclusion(steps: Sequence[SearchStep], slo_ms: float) -> str:
    """The result as a sentence, which also reports if the load generator was the limit."""
    passed, broken = _bounds(steps)
    found = f"at most {passed} sessions within {slo_ms:g} ms" if passed else f"not one session within {slo_ms:g} ms"
    if broken is None:
        return f"{found}: more were not tried"
    if any(step.generator_late for step in steps if step.sessions == broken):
        return f"{found}; at {broken} the load generator was the bottleneck: the server may carry more (--processes)"
    return f"{found}; {broken} are too many"


def best(steps: Iterable[SearchStep]) -> int:
    """The most sessions that passed, 0 if none did."""
    return max((step.sessions for step in steps if step.passed), default=0)


def _bounds(steps: Sequence[SearchStep]) -> tuple[int, int | None]:
    """The most sessions that passed, and the fewest that did not."""
    return best(steps), min((step.sessions for step in steps if not step.passed), default=None)
