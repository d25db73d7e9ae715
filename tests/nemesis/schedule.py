"""The schedule of faults, with their victims and times: a seed and a profile always give the same list. Pure.

Times are drawn on a grid: a kind with n faults strikes once in each nth of the run, at a random moment. So a run of any
length contains every requested kind, and two runs with the same seed are the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

from tests.floods.flooder import KINDS

# ---- Faults: a closed family ----


@dataclass(frozen=True, slots=True)
class Kill:
    """SIGKILL."""

    name: str


@dataclass(frozen=True, slots=True)
class Pause:
    """SIGSTOP, then SIGCONT: the process is frozen and does not notice that time passes."""

    name: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Restart:
    """SIGTERM: the process drains and ends, and its supervisor starts it again."""

    name: str


@dataclass(frozen=True, slots=True)
class Partition:
    """No data passes between this process and the broker; both live, and sent data waits."""

    name: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Delay:
    """All data between this process and the broker is delayed."""

    name: str
    delay_ms: float
    for_s: float


@dataclass(frozen=True, slots=True)
class JumpClock:
    """The clock of every process jumps, as after a time server's correction; later it is set back."""

    by_s: float
    for_s: float


@dataclass(frozen=True, slots=True)
class FillDisk:
    """No process can write to the log; meanwhile a worker is killed, which causes log lines."""

    name: str
    for_s: float


@dataclass(frozen=True, slots=True)
class ExhaustDescriptors:
    """The process can open no further file or socket."""

    name: str
    for_s: float


@dataclass(frozen=True, slots=True)
class KillSupervisor:
    """SIGKILL of `asr serve` itself. Its children must end; then a new one is started with the same options."""

    name: str = "supervisor"


@dataclass(frozen=True, slots=True)
class LimitMemory:
    """The process may take only so much more memory than it has; beyond it, the kernel kills it."""

    name: str
    more_mb: float
    for_s: float


POISONS = (-32001, -32002, -32003, -32004)
"""The fake engine's poisonous samples: an exception, a segmentation fault, SIGKILL, a hang."""


@dataclass(frozen=True, slots=True)
class Flood:
    """Other clients send this as fast as they can, see tests.floods.flooder."""

    kind: str
    for_s: float


@dataclass(frozen=True, slots=True)
class Poison:
    """A session whose audio makes the engine fail, with this sample value; see the fake engine."""

    value: int


@dataclass(frozen=True, slots=True)
class BadPeer:
    """A process at the broker's endpoint of that side sends garbage, hostile numbers and others' leases."""

    side: Literal["workers", "frontends"]
    for_s: float


Fault = (
    Kill
    | Pause
    | Restart
    | Partition
    | Delay
    | JumpClock
    | FillDisk
    | ExhaustDescriptors
    | KillSupervisor
    | LimitMemory
    | Flood
    | Poison
    | BadPeer
)


@dataclass(frozen=True, slots=True)
class Timed:
    """A fault and when it is due, in seconds since the sessions began."""

    at_s: float
    fault: Fault


def kind_of(fault: Fault) -> str:
    """The fault's name in summaries: the victim's role and the action."""
    match fault:
        case Kill(name) | Restart(name):
            return f"{role_of(name)}-{type(fault).__name__.lower()}"
        case Pause(name):
            return f"{role_of(name)}-stop"
        case _:
            return _KINDS[type(fault)]


_KINDS: Mapping[type[Fault], Kind] = {
    Partition: "partition",
    Delay: "delay",
    JumpClock: "clock",
    FillDisk: "disk",
    ExhaustDescriptors: "descriptors",
    KillSupervisor: "supervisor-kill",
    LimitMemory: "memory",
    Flood: "flood",
    Poison: "poison",
    BadPeer: "bad-peer",
}


def detail_of(fault: Fault) -> str:
    """What distinguishes the fault from others of its kind, for labels: its victim or its own kind."""
    match fault:
        case Flood(kind):
            return kind
        case Poison(value):
            return str(value)
        case BadPeer(side):
            return f"of the {side}"
        case JumpClock(by_s):
            return f"{by_s:+g} s"
        case _:
            return fault.name


def role_of(name: str) -> str:
    """The role of a process: "worker" for "worker-2"."""
    return name.partition("-")[0]


# ---- Profiles ----

Kind = Literal[
    "worker-kill",
    "worker-stop",
    "worker-restart",
    "broker-kill",
    "broker-stop",
    "broker-restart",
    "frontend-kill",
    "frontend-stop",
    "frontend-restart",
    "supervisor-kill",
    "partition",
    "delay",
    "clock",
    "disk",
    "descriptors",
    "memory",
    "flood",
    "poison",
    "bad-peer",
]


@dataclass(frozen=True, slots=True)
class Profile:
    """The kinds and numbers of a run's faults."""

    per_minute: Mapping[Kind, float] = field(default_factory=dict)
    """Faults of each kind per minute."""
    counts: Mapping[Kind, int] = field(default_factory=dict)
    """Number of faults of each kind, independent of the run's length; instead of a rate."""
    rolling: int = 0
    """How many times each process is restarted, one after the other."""
    spares: bool = False
    """Whether each fault waits until another process can take over, see Nemesis.run."""
    every_s: float = 0.0
    """Average time between counted faults, in seconds; it gives the length of the run."""
    workers: int = 2
    short_sessions: int = 0
    """If not 0: this many sessions of one second each, as fast as possible, instead of paced sessions."""


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
        # Three workers: the supervisor delays the restart of one that dies repeatedly, by up to five seconds.
        # Every kind of fault but jumps of the clock, see "clock".
        "all": Profile(
            {
                "worker-kill": 2.0,
                "worker-stop": 0.5,
                "worker-restart": 0.4,
                "broker-kill": 0.5,
                "broker-stop": 0.4,
                "broker-restart": 0.4,
                "frontend-kill": 0.4,
                "frontend-stop": 0.5,
                "frontend-restart": 0.4,
                "supervisor-kill": 0.1,
                "partition": 0.5,
                "delay": 0.5,
                "disk": 0.2,
                "descriptors": 0.4,
                "memory": 0.3,
                "flood": 0.7,
                "poison": 0.3,
                "bad-peer": 0.4,
            }
        ),
        "neighbors": Profile({"flood": 4.0, "poison": 0.5}, spares=True),
        "peers": Profile({"bad-peer": 4.0}, spares=True),
        "supervisor": Profile({"supervisor-kill": 2.0}, spares=True),
        "workers": Profile(counts={"worker-kill": 200}, spares=True, every_s=2.5, workers=3),
        "stop": Profile({"worker-stop": 3.0}, spares=True),
        "broker": Profile({"broker-kill": 4.0}, spares=True),
        # A separate profile: the library that sets clocks makes every process several times slower.
        "clock": Profile({"clock": 4.0, "worker-kill": 1.0}),
        "rolling": Profile(rolling=2, spares=True, every_s=6.0),
        "short": Profile(short_sessions=10_000),
    }
)


def only(profile: Profile, kinds: Sequence[str]) -> Profile:
    """The profile with only these kinds of faults."""
    return replace(
        profile,
        per_minute={kind: rate for kind, rate in profile.per_minute.items() if kind in kinds},
        counts={kind: count for kind, count in profile.counts.items() if kind in kinds},
    )


# ---- Drawing ----


def length_s(profile: Profile, names: Names) -> float:
    """The length in seconds of a profile with counted faults; 0 for others."""
    count = sum(profile.counts.values()) + profile.rolling * len(_rolled_names(names))
    return count * profile.every_s


def schedule(profile: Profile, seed: int, stretch_s: float, names: Names) -> list[Timed]:
    """The faults of a run of `stretch_s` seconds, in order."""
    timed = _rolled(profile, names, stretch_s)
    for kind in DRAWN:
        count = profile.counts.get(kind, 0)
        if rate := profile.per_minute.get(kind, 0.0):
            count = max(1, round(rate * stretch_s / 60))
        # Each kind has a separate random stream: without one kind, the others stay the same.
        drawn = random.Random(f"{seed} {kind}")
        moments = [(number + drawn.random()) * stretch_s / count for number in range(count)]
        timed += [Timed(round(moment, 3), DRAWN[kind](drawn, names)) for moment in moments]
    return sorted(timed, key=lambda one: one.at_s)


@dataclass(frozen=True, slots=True)
class Names:
    """The names of the processes that faults can hit."""

    workers: int
    frontends: int
    brokers: int = 2

    @property
    def all_brokers(self) -> list[str]:
        """`asr serve` numbers brokers and frontends only if there are several."""
        return [f"broker-{number + 1}" for number in range(self.brokers)] if self.brokers > 1 else ["broker"]

    @property
    def all_workers(self) -> list[str]:
        return [f"worker-{number + 1}" for number in range(self.workers)]

    @property
    def all_frontends(self) -> list[str]:
        return [f"frontend-{number + 1}" for number in range(self.frontends)] if self.frontends > 1 else ["frontend"]

    def broker(self, drawn: random.Random) -> str:
        return drawn.choice(self.all_brokers)

    def worker(self, drawn: random.Random) -> str:
        return drawn.choice(self.all_workers)

    def frontend(self, drawn: random.Random) -> str:
        return drawn.choice(self.all_frontends)

    def peer(self, drawn: random.Random) -> str:
        """A process with a connection to the broker."""
        return drawn.choice([*self.all_workers, *self.all_frontends])


def _rolled(profile: Profile, names: Names, stretch_s: float) -> list[Timed]:
    each = _rolled_names(names) * profile.rolling
    return [Timed(round(number * stretch_s / len(each), 3), Restart(name)) for number, name in enumerate(each)]


def _rolled_names(names: Names) -> list[str]:
    return [*names.all_workers, *names.all_frontends, *names.all_brokers]


def _seconds(drawn: random.Random, least: float, most: float) -> float:
    return round(drawn.uniform(least, most), 2)


DRAWN: Mapping[Kind, Callable[[random.Random, Names], Fault]] = MappingProxyType(
    {
        "worker-kill": lambda drawn, names: Kill(names.worker(drawn)),
        # From a short pause that need not be detected to one longer than every hang detection.
        "worker-stop": lambda drawn, names: Pause(names.worker(drawn), _seconds(drawn, 0.3, 12.0)),
        "worker-restart": lambda drawn, names: Restart(names.worker(drawn)),
        "broker-kill": lambda drawn, names: Kill(names.broker(drawn)),
        "broker-stop": lambda drawn, names: Pause(names.broker(drawn), _seconds(drawn, 0.2, 3.0)),
        "broker-restart": lambda drawn, names: Restart(names.broker(drawn)),
        "frontend-kill": lambda drawn, names: Kill(names.frontend(drawn)),
        "frontend-stop": lambda drawn, names: Pause(names.frontend(drawn), _seconds(drawn, 0.2, 3.0)),
        "frontend-restart": lambda drawn, names: Restart(names.frontend(drawn)),
        "supervisor-kill": lambda _, __: KillSupervisor(),
        "partition": lambda drawn, names: Partition(names.peer(drawn), _seconds(drawn, 0.5, 12.0)),
        "delay": lambda drawn, names: Delay(names.peer(drawn), _seconds(drawn, 5, 250), _seconds(drawn, 1.0, 5.0)),
        "clock": lambda drawn, _: JumpClock(drawn.choice((-86_400.0, -30.0, 30.0, 86_400.0)), _seconds(drawn, 2, 5)),
        "disk": lambda drawn, names: FillDisk(names.worker(drawn), _seconds(drawn, 2.0, 5.0)),
        "descriptors": lambda drawn, names: ExhaustDescriptors(names.frontend(drawn), _seconds(drawn, 1.0, 4.0)),
        "memory": lambda drawn, names: LimitMemory(
            drawn.choice([*names.all_workers, *names.all_frontends]), _seconds(drawn, 1, 30), _seconds(drawn, 2.0, 5.0)
        ),
        "flood": lambda drawn, _: Flood(drawn.choice(sorted(KINDS)), _seconds(drawn, 2.0, 6.0)),
        "poison": lambda drawn, _: Poison(drawn.choice(POISONS)),
        "bad-peer": lambda drawn, _: BadPeer(drawn.choice(("workers", "frontends")), _seconds(drawn, 1.0, 3.0)),
    }
)
