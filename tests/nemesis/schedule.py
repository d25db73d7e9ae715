"""Which faults strike whom and when: a seed and a profile give the same list every time. Pure.

Moments are drawn on a grid: a kind that is to strike n times strikes once in each nth of the stretch, at a drawn moment
of it. So a run of any length meets every kind that it asks for, and two runs of a seed meet them alike.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

# ---- Faults: a closed family ----


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL."""

    name: str


@dataclass(frozen=True, slots=True)
class Pause:
    """SIGSTOP, then SIGCONT: a process that stands still and believes that no time has passed."""

    name: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Restart:
    """SIGTERM: it drains and ends, and its supervisor starts it again."""

    name: str


@dataclass(frozen=True, slots=True)
class Partition:
    """Nothing passes between this process and the broker; both live, and what was sent waits."""

    name: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Delay:
    """Everything between this process and the broker takes longer."""

    name: str
    delay_ms: float
    for_s: float


@dataclass(frozen=True, slots=True)
class JumpClock:
    """The clock of every process is set, as by a time server or a person; it is set back afterwards."""

    by_s: float
    for_s: float


@dataclass(frozen=True, slots=True)
class FillDisk:
    """Nobody can write to the log any more; a worker is killed meanwhile, so that there is something to log."""

    name: str
    for_s: float


@dataclass(frozen=True, slots=True)
class ExhaustDescriptors:
    """The process can open no further file or socket."""

    name: str
    for_s: float


Fault = Kill | Pause | Restart | Partition | Delay | JumpClock | FillDisk | ExhaustDescriptors


@dataclass(frozen=True, slots=True)
class Timed:
    """A fault and when it is due, in seconds since the sessions began."""

    at_s: float
    fault: Fault


def kind_of(fault: Fault) -> str:
    """What it is called in summaries: what was done to which role."""
    match fault:
        case Kill(name) | Restart(name):
            return f"{role_of(name)}-{type(fault).__name__.lower()}"
        case Pause(name):
            return f"{role_of(name)}-stop"
        case Partition() | Delay():
            return type(fault).__name__.lower()
        case JumpClock():
            return "clock"
        case FillDisk():
            return "disk"
        case ExhaustDescriptors():
            return "descriptors"


def role_of(name: str) -> str:
    """worker-2 is a worker."""
    return name.partition("-")[0]


# ---- What may be asked for ----

Kind = Literal[
    "worker-kill",
    "worker-stop",
    "broker-kill",
    "broker-stop",
    "frontend-kill",
    "frontend-stop",
    "partition",
    "delay",
    "clock",
    "disk",
    "descriptors",
]


@dataclass(frozen=True, slots=True)
class Profile:
    """What a run is for."""

    per_minute: Mapping[Kind, float] = field(default_factory=dict)
    counts: Mapping[Kind, int] = field(default_factory=dict)
    """Exactly so many, however long the run is; instead of a rate."""
    rolling: int = 0
    """So many times is every process told to end, one after the other."""
    spares: bool = False
    """A fault waits until the pool is whole but for what the supervisor still holds back: somebody can take over."""
    every_s: float = 0.0
    """How far apart counted faults are on average, where the length of the run is not given."""
    workers: int = 2
    short_sessions: int = 0
    """Instead of paced sessions: so many of a second each, as fast as they go."""


PROFILES: Mapping[str, Profile] = MappingProxyType(
    {
        "mixed": Profile(
            {
                "worker-kill": 4.0,
                "worker-stop": 0.8,
                "broker-kill": 0.8,
                "broker-stop": 0.6,
                "frontend-kill": 0.6,
                "frontend-stop": 1.0,
                "partition": 0.8,
                "delay": 1.0,
                "disk": 0.4,
                "descriptors": 0.6,
            }
        ),
        # Three workers: one that dies again and again is held back for up to five seconds by its supervisor.
        "workers": Profile(counts={"worker-kill": 200}, spares=True, every_s=2.5, workers=3),
        "stop": Profile({"worker-stop": 3.0}, spares=True),
        "broker": Profile({"broker-kill": 4.0}, spares=True),
        # By itself: the library that sets clocks makes every process several times slower.
        "clock": Profile({"clock": 4.0, "worker-kill": 1.0}),
        "rolling": Profile(rolling=2, spares=True, every_s=6.0),
        "short": Profile(short_sessions=10_000),
    }
)


def only(profile: Profile, kinds: Sequence[str]) -> Profile:
    """The profile without what was not asked for."""
    return replace(
        profile,
        per_minute={kind: rate for kind, rate in profile.per_minute.items() if kind in kinds},
        counts={kind: count for kind, count in profile.counts.items() if kind in kinds},
    )


# ---- Drawing ----


def length_s(profile: Profile, workers: int, frontends: int) -> float:
    """How long the faults of a profile go on that knows their number, not their time."""
    count = sum(profile.counts.values()) + profile.rolling * (workers + frontends + 1)
    return count * profile.every_s


def schedule(profile: Profile, seed: int, stretch_s: float, workers: int, frontends: int) -> list[Timed]:
    """The faults of that stretch of time, in order."""
    names = Names(workers, frontends)
    timed = _rolled(profile, names, stretch_s)
    for kind in DRAWN:
        count = profile.counts.get(kind, 0)
        if rate := profile.per_minute.get(kind, 0.0):
            count = max(1, round(rate * stretch_s / 60))
        # Each kind has a stream of its own: leaving one out moves no other.
        drawn = random.Random(f"{seed} {kind}")
        moments = [(number + drawn.random()) * stretch_s / count for number in range(count)]
        timed += [Timed(round(moment, 3), DRAWN[kind](drawn, names)) for moment in moments]
    return sorted(timed, key=lambda one: one.at_s)


@dataclass(frozen=True, slots=True)
class Names:
    """Who can be struck."""

    workers: int
    frontends: int

    @property
    def all_workers(self) -> list[str]:
        return [f"worker-{number + 1}" for number in range(self.workers)]

    @property
    def all_frontends(self) -> list[str]:
        """`asr serve` numbers them only where there are several."""
        return [f"frontend-{number + 1}" for number in range(self.frontends)] if self.frontends > 1 else ["frontend"]

    def worker(self, drawn: random.Random) -> str:
        return drawn.choice(self.all_workers)

    def frontend(self, drawn: random.Random) -> str:
        return drawn.choice(self.all_frontends)

    def peer(self, drawn: random.Random) -> str:
        """Whoever has a connection to the broker."""
        return drawn.choice([*self.all_workers, *self.all_frontends])


def _rolled(profile: Profile, names: Names, stretch_s: float) -> list[Timed]:
    each = [*names.all_workers, *names.all_frontends, "broker"] * profile.rolling
    return [Timed(round(number * stretch_s / len(each), 3), Restart(name)) for number, name in enumerate(each)]


def _seconds(drawn: random.Random, least: float, most: float) -> float:
    return round(drawn.uniform(least, most), 2)


DRAWN: Mapping[Kind, Callable[[random.Random, Names], Fault]] = MappingProxyType(
    {
        "worker-kill": lambda drawn, names: Kill(names.worker(drawn)),
        # From a hiccup that nobody need notice to longer than any hang detection.
        "worker-stop": lambda drawn, names: Pause(names.worker(drawn), _seconds(drawn, 0.3, 12.0)),
        "broker-kill": lambda _, __: Kill("broker"),
        "broker-stop": lambda drawn, _: Pause("broker", _seconds(drawn, 0.2, 3.0)),
        "frontend-kill": lambda drawn, names: Kill(names.frontend(drawn)),
        "frontend-stop": lambda drawn, names: Pause(names.frontend(drawn), _seconds(drawn, 0.2, 3.0)),
        "partition": lambda drawn, names: Partition(names.peer(drawn), _seconds(drawn, 0.5, 12.0)),
        "delay": lambda drawn, names: Delay(names.peer(drawn), _seconds(drawn, 5, 250), _seconds(drawn, 1.0, 5.0)),
        "clock": lambda drawn, _: JumpClock(drawn.choice((-86_400.0, -30.0, 30.0, 86_400.0)), _seconds(drawn, 2, 5)),
        "disk": lambda drawn, names: FillDisk(names.worker(drawn), _seconds(drawn, 2.0, 5.0)),
        "descriptors": lambda drawn, names: ExhaustDescriptors(names.frontend(drawn), _seconds(drawn, 1.0, 4.0)),
    }
)
