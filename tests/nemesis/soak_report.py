"""What a soak has measured, and the verdict about it. Pure.

The limits, and their reasons:
- Memory of a process may grow by 1 % after the warm-up. For sessions it may grow by 4 MB, because the arenas of an
  allocator vary by this with the load. For connections it may not: a leak of 100 bytes is 10 MB after 100,000 of them.
- Descriptors return to their number before the first session, plus 2: log rotation and late closes.
- Every slot is free at the end. A slot that is not was lost for ever.
- The median latency of the last third is at most 1.5 times that of the first third plus 20 ms: a queue or a table that
  grows would show there first; 20 ms is the jitter of a shared machine.
- No text differs from the undisturbed one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

GROWTH_SHARE_MAX, GROWTH_MB_MAX = 0.01, 4.0
DESCRIPTORS_MORE_MAX = 2
DRIFT_FACTOR_MAX, DRIFT_S_MAX = 1.5, 0.02
WARM_UP_SHARE = 0.3
"""Share of the run in which memory may still grow. Of 100,000 connections, the first 25,000 filled the allocators."""
EDGE_SAMPLES = 5
"""Number of samples at each end of a process's life whose median counts."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One process at one moment."""

    at_s: float
    name: str
    pid: int
    rss_mb: float
    descriptors: int


@dataclass(frozen=True, slots=True)
class Finished:
    """One session that ended normally."""

    at_s: float
    dialect: str
    latency_s: float
    """From its last audio to its last text, in seconds."""
    right: bool
    """Whether its text is that of an undisturbed session."""


@dataclass(slots=True)
class Soak:
    """The record of a run."""

    samples: list[Sample] = field(default_factory=list)
    finished: list[Finished] = field(default_factory=list)
    failed: dict[str, int] = field(default_factory=dict)
    """Number of sessions that ended with each error."""
    aborted: int = 0
    kills: list[str] = field(default_factory=list)
    resting: Mapping[str, int] = field(default_factory=dict)
    """Descriptors by process before the first session."""
    rested: Mapping[str, int] = field(default_factory=dict)
    """Descriptors by process after the last session."""
    slots_left: int | None = None
    """Slots in use after the last session; None if no broker answered."""
    ended_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Life:
    """The memory of one process from the end of the warm-up on."""

    name: str
    pid: int
    first_mb: float
    last_mb: float
    descriptors_max: int
    seconds: float

    @property
    def growth_mb(self) -> float:
        return self.last_mb - self.first_mb

    def leaks(self, growth_mb_max: float) -> bool:
        """Whether its memory has grown beyond both limits."""
        return self.growth_mb > max(GROWTH_SHARE_MAX * self.first_mb, growth_mb_max)


def lives(soak: Soak) -> list[Life]:
    """All processes that were measured often enough after the warm-up."""
    found: dict[tuple[str, int], list[Sample]] = {}
    for sample in soak.samples:
        found.setdefault((sample.name, sample.pid), []).append(sample)
    return [life for (name, pid), samples in sorted(found.items()) if (life := _life(name, pid, samples, soak.ended_s))]


def _life(name: str, pid: int, samples: Sequence[Sample], ended_s: float) -> Life | None:
    warm = [sample for sample in samples if sample.at_s >= samples[0].at_s + WARM_UP_SHARE * ended_s]
    if len(warm) < 2 * EDGE_SAMPLES:
        return None
    return Life(
        name,
        pid,
        median(sample.rss_mb for sample in warm[:EDGE_SAMPLES]),
        median(sample.rss_mb for sample in warm[-EDGE_SAMPLES:]),
        max(sample.descriptors for sample in samples),
        samples[-1].at_s - samples[0].at_s,
    )


def thirds(finished: Sequence[Finished]) -> tuple[float, float] | None:
    """The median latency of the first and of the last third, in seconds; None for too few sessions."""
    size = len(finished) // 3
    if not size:
        return None
    latencies = [one.latency_s for one in finished]
    return median(latencies[:size]), median(latencies[-size:])


def verdict(soak: Soak, growth_mb_max: float = GROWTH_MB_MAX) -> Iterator[str]:
    """What is wrong; nothing if the run was clean. Growth up to `growth_mb_max` is accepted."""
    for life in lives(soak):
        if life.leaks(growth_mb_max):
            yield f"{life.name} ({life.pid}) grew from {life.first_mb:.1f} to {life.last_mb:.1f} MB"
    for name, before in soak.resting.items():
        if (now := soak.rested.get(name, 0)) > before + DESCRIPTORS_MORE_MAX:
            yield f"{name} has {now} descriptors at rest, {before} before the first session"
    if soak.slots_left != 0:
        yield f"{soak.slots_left} slots are in use without a session"
    if (both := thirds(soak.finished)) and both[1] > DRIFT_FACTOR_MAX * both[0] + DRIFT_S_MAX:
        yield f"the latency grew from {1000 * both[0]:.0f} to {1000 * both[1]:.0f} ms"
    if wrong := sum(not one.right for one in soak.finished):
        yield f"{wrong} sessions have a wrong text"


def table(soak: Soak) -> str:
    """The run in figures."""
    lines = [f"{'process':<14}{'pid':>8}{'min':>7}{'RSS first':>11}{'last':>8}{'growth':>9}{'descriptors':>13}"]
    lines += [
        f"{one.name:<14}{one.pid:>8}{one.seconds / 60:>7.1f}{one.first_mb:>11.1f}{one.last_mb:>8.1f}"
        f"{100 * one.growth_mb / one.first_mb:>8.2f}%{one.descriptors_max:>13}"
        for one in lives(soak)
    ]
    both = thirds(soak.finished) or (0.0, 0.0)
    lines.append(
        f"{len(soak.finished)} sessions ended, {soak.aborted} aborted, {sum(soak.failed.values())} failed; "
        f"{len(soak.kills)} kills; latency {1000 * both[0]:.0f} ms, then {1000 * both[1]:.0f} ms; "
        f"{soak.slots_left} slots left"
    )
    lines += [f"    {count} x {error}" for error, count in sorted(soak.failed.items())]
    return "\n".join(lines)


# ---- The picture ----

WIDTH, HEIGHT, EDGE = 960, 320, 40
COLORS = ("#1b6", "#36c", "#c33", "#a5a", "#b80", "#088", "#666", "#e6a")


def picture(soak: Soak) -> str:
    """The memory of every process over time, as an SVG."""
    names = sorted({sample.name for sample in soak.samples})
    top = max((sample.rss_mb for sample in soak.samples), default=1.0)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" '
        f'font-size="11"><text x="2" y="12">{top:.0f} MB</text>'
        f'<text x="{WIDTH - 2}" y="{HEIGHT - 4}" text-anchor="end">{soak.ended_s / 60:.0f} min</text>'
    ]
    for index, name in enumerate(names):
        color = COLORS[index % len(COLORS)]
        parts.append(f'<text x="{EDGE + 110 * index}" y="{HEIGHT - 4}" fill="{color}">{name}</text>')
        for pid in sorted({sample.pid for sample in soak.samples if sample.name == name}):
            points = " ".join(_point(one, top, soak.ended_s) for one in soak.samples if one.pid == pid)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{color}"/>')
    return "\n".join([*parts, "</svg>\n"])


def _point(sample: Sample, top_mb: float, ended_s: float) -> str:
    x = EDGE + (WIDTH - EDGE) * sample.at_s / max(ended_s, 1e-9)
    return f"{x:.1f},{(HEIGHT - EDGE) * (1 - sample.rss_mb / top_mb) + EDGE / 2:.1f}"
