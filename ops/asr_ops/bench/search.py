"""How many sessions a server can carry: which number to try next, and what makes a number too many. Pure.

From the first number on they are doubled until the objective breaks (halved, if it breaks at once), then the gap
between what passed and what did not is halved until it is a tenth of what passed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from asr_ops.bench.report import LATENESS_MS_MAX, BenchReport

RESOLUTION = 0.1
"""How exactly the answer is looked for, as a share of it."""


@dataclass(frozen=True, slots=True)
class SearchStep:
    """One number of sessions, and how it went."""

    sessions: int
    passed: bool
    final_ms_p95: float | None
    partial_lag_ms_p95: float | None
    """None in dialects whose partials do not say of which audio they speak."""
    broken: str
    """In what way the objective was missed."""
    generator_late: bool
    """Whether the figures are the load generator's own."""

    def __str__(self) -> str:
        latencies = {"final_ms": self.final_ms_p95, "partial_lag_ms": self.partial_lag_ms_p95}
        shown = ", ".join(f"{name} p95 {value:.1f}" for name, value in latencies.items() if value is not None)
        late = " (the load generator was late)" if self.generator_late else ""
        return f"{self.sessions} at once: {shown or 'nobody served'}: {self.broken or 'passed'}{late}"


def judged(report: BenchReport, slo_ms: float) -> SearchStep:
    """Whether everybody was served within the objective."""
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
    """How many sessions to try next, None when the answer is known."""
    passed, broken = _bounds(steps)
    if broken is None:
        wanted = min(passed * 2, most) if passed else min(first, most)
        return wanted if wanted > passed else None
    if not passed:
        return broken // 2 or None
    return (passed + broken) // 2 if broken - passed > max(1, passed * RESOLUTION) else None


def conclusion(steps: Sequence[SearchStep], slo_ms: float) -> str:
    """The answer, and whether it is the server's."""
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
    """The most that passed, and the least that did not."""
    return best(steps), min((step.sessions for step in steps if not step.passed), default=None)
