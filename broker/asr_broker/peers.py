"""The broker's records of its workers, its frontends and the leases between them. Pure: times are arguments.

A lease changes its state only by `fire`, along the table LEASE. Bundles are checked against sets of lease numbers
(`Routing`), so the path of audio never reads a state.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum

from asr_process.states import StateMachine, TransitionTable
from asr_proto import messages as m
from asr_proto.audio import SAMPLE_RATE

NO_LOAD = m.Load(0, 0, 0.0, 0.0, 0.0, 0.0)

UTILISATION_MAX = 0.7
"""Largest share of the time between two chunks that the chunks of all sessions may take: above it, queues grow."""
MEASURED_BUSY_MIN = 0.3
"""A worker's step times are a measurement only when it spends at least this share of its time in steps."""
COST_DECAY = 0.995
"""Factor on the cost of a chunk at each heartbeat without a measurement, so that an old high cost fades."""
LATE_MS_MAX = 250.0
"""A worker whose chunks go into their steps later than this (95th percentile) gets no new session."""

TRIAL_S = 3.0
"""How long other sessions avoid a worker after a session under suspicion was pinned there, in seconds."""

Pair = tuple[bytes, bytes]
"""A frontend and a worker, by their identities."""


@dataclass(frozen=True, slots=True)
class Timing:
    """Deadlines of the broker, seconds."""

    heartbeat_s: float = 0.5
    lease_s: float = 10.0
    """A lease that is not renewed for this long is released."""
    register_s: float = 3.0
    """How long a broker that has begun waits for its workers to register. A living worker connects again within 0.2 s,
    finishes its step, and repeats a lost registration after 1 s. Frontends wait 10 s for an answer to Open."""
    grace_s: float = 30.0
    """How long a lease is kept for a client that is gone and may resume its session."""
    release_s: float = 1.0
    """Interval at which Release is repeated until it is answered."""
    hang_s: float = 1.5
    """A worker that has work is evicted after this long without a step, or after four times its engine's `step_s_p99`
    where that is longer."""
    silent_s: float = 10.0
    """A worker is evicted after this long without a message; after a quarter of it, it gets no new session."""
    sweep_s: float = 0.25
    """Interval at which the deadlines of leases and workers are checked."""
    stall_s: float = 0.5
    """A sweep that runs so much later than it was due shows that the broker itself had stalled."""


DEFAULT_TIMING = Timing()


@dataclass(slots=True)
class WorkerRecord:
    """One registered worker. Its free slots are a stack: the warmest slot is used first."""

    peer: bytes
    name: str
    spec: m.Spec
    free: list[int]
    last_message_at: float
    waiting_since: float | None = None
    """When it first had work without reporting a step. None: it has no work."""
    leases: set[int] = field(default_factory=set)
    detached: dict[int, None] = field(default_factory=dict)
    """Leases in state DETACHED, in the order in which they were detached."""
    load: m.Load = NO_LOAD
    chunk_ms: float = 0.0
    """Milliseconds that one more chunk adds to a step; 0 until the worker was busy enough to measure it."""
    draining: bool = False
    witness: bytes = b""
    """The identity of the process that reports the worker's death; empty without one."""
    stuck: tuple[int, ...] = ()
    """The leases of a job that does not end, as the last heartbeat named them."""
    trial_until: float = -math.inf
    """The worker has got a session under suspicion: until then, other sessions go elsewhere."""

    @property
    def slots_free(self) -> int:
        return len(self.free)

    @property
    def slots_detached(self) -> int:
        return len(self.detached)

    @property
    def overloaded(self) -> bool:
        """Whether one more session would make the others wait: its chunks would not fit, or chunks are late already."""
        live = len(self.leases) - len(self.detached)
        chunk_ms = self.spec.chunk_samples * 1000 / SAMPLE_RATE
        is_full = (live + 1) * self.chunk_ms > UTILISATION_MAX * chunk_ms
        return live > 0 and (is_full or self.load.late_ms_p95 > LATE_MS_MAX)

    def reported(self, load: m.Load, now: float) -> None:
        """Store the load of a heartbeat."""
        is_measured = load.busy >= MEASURED_BUSY_MIN and load.chunk_ms
        self.chunk_ms = load.chunk_ms if is_measured else self.chunk_ms * COST_DECAY
        if not load.pending_chunks:
            self.waiting_since = None
        elif load.steps != self.load.steps or self.waiting_since is None:
            self.waiting_since = now
        self.load = load

    def accepts(self, now: float, timing: Timing) -> bool:
        """Whether it may get new sessions, if it has a slot."""
        return not self.draining and now - self.last_message_at <= timing.silent_s / 4

    def hangs(self, now: float, timing: Timing) -> bool:
        """Whether to evict it: it has work and makes no step, or it sends nothing at all."""
        hang_s = max(timing.hang_s, 4 * self.spec.step_s_p99)
        waits = self.waiting_since is not None and now - self.waiting_since > hang_s
        return waits or now - self.last_message_at > timing.silent_s


@dataclass(slots=True)
class FrontendRecord:
    """One registered frontend, with the leases of its sessions."""

    peer: bytes
    name: str
    leases: dict[str, int] = field(default_factory=dict)


# ---- Leases ----


class LeaseState(Enum):
    PINNED = "pinned"
    """Its frontend serves the session. It ends with its frontend."""
    RESUMABLE = "resumable"
    """Its frontend serves the session, and its client may resume it at any frontend."""
    DETACHED = "detached"
    """No client is connected. The worker keeps the session until the client resumes it or the lease expires."""
    RELEASING = "releasing"
    """Release was sent; the slot is taken until Closed arrives."""
    ENDED = "ended"


class LeaseEvent(Enum):
    ALLOW_RESUME = "allow-resume"
    DETACH = "detach"
    """Its client or its frontend is gone. A repeated Detach starts the grace period again."""
    RELEASE = "release"
    """Closed by its frontend, replaced by a later epoch, or expired."""
    RESUME = "resume"
    """The slot passes to a new lease of the same session."""
    RECLAIM = "reclaim"
    """The slot passes to another session."""
    REPLACE = "replace"
    """Its frontend has handed the session over, and the other frontend requests a slot for it."""
    CLOSED = "closed"
    """The worker has wiped the slot. It may do so without a Release."""
    WORKER_LOST = "worker-lost"


_ENDS = {
    LeaseEvent.CLOSED: LeaseState.ENDED,
    LeaseEvent.WORKER_LOST: LeaseState.ENDED,
    LeaseEvent.REPLACE: LeaseState.ENDED,
}

LEASE: TransitionTable[LeaseState, LeaseEvent] = TransitionTable(
    "lease",
    LeaseState.PINNED,
    {
        LeaseState.PINNED: {
            LeaseEvent.ALLOW_RESUME: LeaseState.RESUMABLE,
            LeaseEvent.RELEASE: LeaseState.RELEASING,
            **_ENDS,
        },
        LeaseState.RESUMABLE: {
            LeaseEvent.DETACH: LeaseState.DETACHED,
            LeaseEvent.RELEASE: LeaseState.RELEASING,
            LeaseEvent.RESUME: LeaseState.ENDED,
            **_ENDS,
        },
        LeaseState.DETACHED: {
            LeaseEvent.DETACH: LeaseState.DETACHED,
            LeaseEvent.RELEASE: LeaseState.RELEASING,
            LeaseEvent.RESUME: LeaseState.ENDED,
            LeaseEvent.RECLAIM: LeaseState.ENDED,
            **_ENDS,
        },
        LeaseState.RELEASING: _ENDS,
    },
)

SERVED = (LeaseState.PINNED, LeaseState.RESUMABLE)
"""The states in which a frontend serves the session."""


@dataclass(slots=True, eq=False)
class Lease(StateMachine[LeaseState, LeaseEvent]):
    """One grant of a slot to a session."""

    lease: int
    session: str
    epoch: int
    slot: int
    worker: bytes
    frontend: bytes
    due_at: float
    """When it expires; in RELEASING, when Release is sent again."""

    def __post_init__(self) -> None:
        StateMachine.__init__(self, LEASE)

    @property
    def pair(self) -> Pair:
        return self.frontend, self.worker


@dataclass(slots=True)
class BrokerCounts:
    """Totals since the start."""

    sessions: int = 0
    moves: int = 0
    refused: int = 0
    lost: int = 0
    resumes: int = 0
    stale: int = 0
    bundles: int = 0
