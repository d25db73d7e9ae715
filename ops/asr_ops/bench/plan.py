"""What a load generator is to do, and what came of it: plain values that travel between processes. Pure.

A plan can be shared out to several generators; what they did is put together in the order of the whole plan.
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
    """What is to be sent, and when."""

    url: str
    dialect: str
    ring: Ring
    frames: int
    """Of each session."""
    starts_us: Sequence[int]
    """When each session begins to speak."""
    entries: Sequence[int]
    """Where in the ring each session begins."""
    pace: float = 1.0
    """How fast to speak, relative to real time."""
    opens_along: bool = False
    """Sessions connect shortly before they speak, not all before the first does."""
    churn_per_s: float = 0.0
    """How many more come each second, speak a little and break off."""
    flood: int = 0
    """How many more send as fast as the server takes it."""
    seed: int = 1

    @property
    def disturbs(self) -> bool:
        """Whether there are others besides the paced sessions."""
        return self.churn_per_s > 0 or self.flood > 0

    @property
    def frame_us(self) -> int:
        """From the departure of one frame to that of the next."""
        return round(self.ring.frame_samples * 1_000_000 / SAMPLE_RATE / self.pace)


@dataclass(slots=True)
class Aside:
    """Connections that are there to disturb, and are not in the figures."""

    came: int = 0
    faults: dict[str, int] = field(default_factory=dict)
    """Why some of them could not go on, and how many."""
    audio_s: float = 0.0
    """How much they sent."""

    def __add__(self, other: Aside) -> Aside:
        faults = Counter(self.faults) + Counter(other.faults)
        return Aside(self.came + other.came, dict(faults), self.audio_s + other.audio_s)

    def __str__(self) -> str:
        why = "".join(f"; {number} x {reason}" for reason, number in self.faults.items())
        return f"{self.came} came and sent {self.audio_s:.1f} s of audio{why}"

    def fault(self, reason: str) -> None:
        """One more that could not go on."""
        self.faults[reason] = self.faults.get(reason, 0) + 1


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What happened."""

    sessions: list[SessionRecord]
    lateness_s: array[float]
    """How much later than due each frame left."""
    asides: Mapping[str, Aside] = field(default_factory=dict)
    """`churn` and `flood`, where there were such."""


def entries(ring: Ring, sessions: int) -> list[int]:
    """Places spread evenly over the ring."""
    return [ring.entry(session, sessions) for session in range(sessions)]


def shares(plan: Plan, parts: int) -> list[Plan]:
    """A part of the plan for each of several generators: every so many-th session.

    Who disturbs is left to the last of them alone: what floods a server would keep paced sessions from their pace.
    """
    paced = parts - plan.disturbs
    quiet = replace(plan, churn_per_s=0, flood=0)
    found = [
        replace(quiet, starts_us=plan.starts_us[part::paced], entries=plan.entries[part::paced])
        for part in range(paced)
    ]
    return [*found, replace(plan, starts_us=[], entries=[])] if plan.disturbs else found


def merged(plan: Plan, loads: Sequence[LoadResult]) -> LoadResult:
    """What generators did with their shares of the plan, in the plan's order."""
    sessions = [SessionRecord()] * len(plan.starts_us)
    lateness_s, paced = array("d"), len(loads) - plan.disturbs
    for part, load in enumerate(loads[:paced]):
        sessions[part::paced] = load.sessions
        lateness_s += load.lateness_s
    return LoadResult(sessions, lateness_s, added([load.asides for load in loads]))


def added(asides: Sequence[Mapping[str, Aside]]) -> dict[str, Aside]:
    """Of the same name, together."""
    found: dict[str, Aside] = {}
    for some in asides:
        for name, aside in some.items():
            found[name] = found.get(name, Aside()) + aside
    return found
