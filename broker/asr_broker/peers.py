"""What a broker knows of its workers, its frontends and the leases between them. Pure: times are handed in."""

from __future__ import annotations

from dataclasses import dataclass, field

from asr_proto import messages as m
from asr_proto.audio import SAMPLE_RATE

NO_LOAD = m.Load(0, 0, 0.0, 0.0, 0.0, 0.0)

UTILISATION_MAX = 0.7
"""Of the time between two chunks, by the chunks of all sessions: beyond it, queues grow faster than the work."""
MEASURED_BUSY_MIN = 0.3
"""Share of its time that a worker spends in steps when their times tell anything."""
COST_FADES = 0.995
"""With each heartbeat of a worker that has little to do: bad times are not held against it for long."""
LATE_MS_MAX = 250.0

Pair = tuple[bytes, bytes]
"""A frontend and a worker, by their identities."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Deadlines of the broker, seconds."""

    heartbeat_s: float = 0.5
    lease_s: float = 10.0
    """A lease that is not renewed for this long is released."""
    grace_s: float = 30.0
    """How long the lease of a session whose client is gone waits for its return."""
    release_s: float = 1.0
    """Release is repeated this often until it is answered."""
    hang_s: float = 1.5
    """A worker with work that makes no step for this long, or for four times its engine's longest, is given up."""
    silent_s: float = 10.0
    """So is one that says nothing at all for this long; after a quarter of it, it gets no new session."""
    sweep_s: float = 0.25
    stall_s: float = 0.5
    """A sweep so much later than due means that the broker itself stood still."""


DEFAULT_TIMING = Timing()


@dataclass(slots=True)
class Worker:
    """One registered worker. Its free slots are a stack: the warmest slot is used first."""

    peer: bytes
    name: str
    spec: m.Spec
    free: list[int]
    heard_at: float
    waiting_since: float | None = None
    """Since when it has had work without making a step, as far as we know."""
    leases: set[int] = field(default_factory=set)
    detached: dict[int, None] = field(default_factory=dict)
    """Leases whose clients are gone and may come back, the longest gone first."""
    load: m.Load = NO_LOAD
    chunk_ms: float = 0.0
    """What a live session's chunk adds to a step; 0 until the worker was busy enough to tell."""
    draining: bool = False

    @property
    def slots_free(self) -> int:
        return len(self.free)

    @property
    def slots_detached(self) -> int:
        return len(self.detached)

    @property
    def overloaded(self) -> bool:
        """Whether one more live session would make all wait: by what each adds to a step, or by late chunks."""
        live = len(self.leases) - len(self.detached)
        chunk_ms = self.spec.chunk_samples * 1000 / SAMPLE_RATE
        is_full = (live + 1) * self.chunk_ms > UTILISATION_MAX * chunk_ms
        return live > 0 and (is_full or self.load.late_ms_p95 > LATE_MS_MAX)

    def reported(self, load: m.Load, now: float) -> None:
        """A heartbeat came."""
        is_telling = load.busy >= MEASURED_BUSY_MIN and load.chunk_ms
        self.chunk_ms = load.chunk_ms if is_telling else self.chunk_ms * COST_FADES
        if not load.pending_chunks:
            self.waiting_since = None
        elif load.steps != self.load.steps or self.waiting_since is None:
            self.waiting_since = now
        self.load = load

    def offers(self, now: float, timing: Timing) -> bool:
        """Whether it takes new sessions, if it has a slot."""
        return not self.draining and now - self.heard_at <= timing.silent_s / 4

    def hangs(self, now: float, timing: Timing) -> bool:
        """Whether it is to be given up: a busy worker makes steps, and one without work owes none."""
        hang_s = max(timing.hang_s, 4 * self.spec.step_s_p99)
        waits = self.waiting_since is not None and now - self.waiting_since > hang_s
        return waits or now - self.heard_at > timing.silent_s


@dataclass(slots=True)
class Frontend:
    """One registered frontend, with the leases of its sessions."""

    peer: bytes
    name: str
    leases: dict[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class LeaseState:
    """One grant. `release_at` is set once the lease is being released: when to repeat Release."""

    lease: int
    session: str
    epoch: int
    slot: int
    worker: bytes
    frontend: bytes
    expires_at: float
    resumable: bool = False
    detached: bool = False
    """Nobody listens: its client may come back until it expires."""
    release_at: float | None = None

    @property
    def pair(self) -> Pair:
        return self.frontend, self.worker


@dataclass(slots=True)
class Counts:
    """Totals since the start."""

    sessions: int = 0
    moves: int = 0
    refused: int = 0
    lost: int = 0
    resumes: int = 0
    stale: int = 0
    bundles: int = 0
