"""A load generator's plan and its results: plain values that are sent between processes. Pure.

A plan can be divided among several generators. Their results are merged in the order of the whole plan.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from asr_ops.bench.audio import Ring
from asr_ops.bench.statistics import SessionRecord
from asr_proto.audio import SAMPLE_RATE


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The audio to send, and when."""

    url: str
    dialect: str
    ring: Ring
    frames: int
    """Number of frames of each session."""
    starts_us: Sequence[int]
    """Start of each session's audio, in microseconds after the beginning."""
    entries: Sequence[int]
    """Index of each session's first frame in the ring."""
    pace: float = 1.0
    """Speed of the audio, as a multiple of real time."""
    opens_along: bool = False
    """Whether each session connects shortly before its start. If not, all connect before the first one starts."""
    churn_per_s: float = 0.0
    """Connections per second that send briefly and abort."""
    flood: int = 0
    """Number of connections that send as fast as the server accepts."""
    seed: int = 1

    @property
    def disturbs(self) -> bool:
        """Whether there are disturbing connections besides the paced sessions."""
        return self.churn_per_s > 0 or self.flood > 0

    @property
    def frame_us(self) -> int:
        """Microseconds between two frames of a session."""
        return round(self.ring.frame_samples * 1_000_000 / SAMPLE_RATE / self.pace)


@dataclass(slots=True)
class Aside:
    """Counts of the disturbing connections of one kind, which are not in the figures."""

    came: int = 0
    """Number of connections that were opened."""
    faults: dict[str, int] = field(default_factory=dict)
    """Reasons why connections failed, and how often."""
    audio_s: float = 0.0
    """Seconds of audio that they sent."""

    def __add__(self, other: Aside) -> Aside:
        faults = Counter(self.faults) + Counter(other.faults)
        return Aside(self.came + other.came, dict(faults), self.audio_s + other.audio_s)

    def __str__(self) -> str:
        why = "".join(f"; {number} x {reason}" for reason, number in self.faults.items())
        return f"{self.came} came and sent {self.audio_s:.1f} s of audio{why}"

    def fault(self, reason: str) -> None:
        """Count one more failed connection."""
        self.faults[reason] = self.faults.get(reason, 0) + 1


@dataclass(frozen=True, slots=True)
class LoadResult:
    """The results of a load generator."""

    sessions: list[SessionRecord]
    lateness_s: array[float]
    """Lateness of each frame in seconds: the time it was sent minus its due time."""
    asides: Mapping[str, Aside] = field(default_factory=dict)
    """Counts of the disturbing connections: `churn` and `flood`, if the plan has them."""


def entries(ring: Ring, sessions: int) -> list[int]:
    """The indices of the sessions' first frames, spread evenly over the ring."""
    return [ring.entry(session, sessions) for session in range(sessions)]


def shares(plan: Plan, parts: int) -> list[Plan]:
    """Divide the plan among `parts` generators: each gets every n-th session.

    The last generator runs all disturbing connections and no paced session, because a flood would delay paced frames.
    """
    paced = parts - plan.disturbs
    quiet = replace(plan, churn_per_s=0, flood=0)
    found = [
        replace(quiet, starts_us=plan.starts_us[part::paced], entries=plan.entries[part::paced])
        for part in range(paced)
    ]
    return [*found, replace(plan, starts_us=[], entries=[])] if plan.disturbs else found


def merged(plan: Plan, loads: Sequence[LoadResult]) -> LoadResult:
    """Merge the generators' results, in the order of the whole plan."""
    sessions = [SessionRecord()] * len(plan.starts_us)
    lateness_s, paced = array("d"), len(loads) - plan.disturbs
    for part, load in enumerate(loads[:paced]):
        sessions[part::paced] = load.sessions
        lateness_s += load.lateness_s
    return LoadResult(sessions, lateness_s, added([load.asides for load in loads]))


def added(asides: Sequence[Mapping[str, Aside]]) -> dict[str, Aside]:
    """The sums of the counts with the same name."""
    found: dict[str, Aside] = {}
    for some in asides:
        for name, aside in some.items():
            found[name] = found.get(name, Aside()) + aside
    return found
