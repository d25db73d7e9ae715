"""The broker's brain: who is registered, which lease pins which session to which slot. Pure: events in, commands out.

Rules
- A lease is granted on a free slot and named once; its id is never used again. It ends by Closed (the worker wiped the
  slot), by the worker's death, or never: until then its slot is taken.
- `Release` is repeated until `Closed` comes, and a lease that its frontend stops renewing releases itself: a lost Close
  leaks nothing.
- A peer is one process incarnation on one connection. When the connection ends, the peer is dead: what was under way
  is lost without a trace, so its sessions move or end. Should the process live, it registers again with nothing held.
- A bundle is forwarded whole when its destination lives; leases in its header that are not current between these two
  peers are answered with Stale. The destination drops frames of leases it does not hold.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from asr_broker.placement import place
from asr_proto import messages as m
from asr_proto.errors import AsrError, ServiceError

NO_LOAD = m.Load(0, 0, 0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Timing:
    """Deadlines of the broker, seconds."""

    heartbeat_s: float = 1.0
    lease_s: float = 10.0
    """A lease that is not renewed for this long is released."""
    release_s: float = 1.0
    """Release is repeated this often until it is answered."""
    hang_s: float = 10.0
    """A worker that has work and makes no step, or says nothing at all, for this long is given up."""
    sweep_s: float = 0.25


DEFAULT_TIMING = Timing()


# ---- Events: what happened ----


@dataclass(frozen=True, slots=True)
class FromFrontend:
    peer: bytes
    message: m.FromFrontend
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class FromWorker:
    peer: bytes
    message: m.FromWorker
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class Gone:
    """The connection of this peer ended, or a message to it could not be queued."""

    peer: bytes


Event = FromFrontend | FromWorker | Gone


# ---- Commands: what the shell must do ----


@dataclass(frozen=True, slots=True)
class ToFrontend:
    peer: bytes
    message: m.FromBroker
    body: bytes | None = None


@dataclass(frozen=True, slots=True)
class ToWorker:
    peer: bytes
    message: m.FromBroker
    body: bytes | None = None


Command = ToFrontend | ToWorker


# ---- State ----


@dataclass(slots=True)
class Worker:
    """One registered worker. Its free slots are a stack: the warmest slot is used first."""

    peer: bytes
    name: str
    spec: m.Spec
    free: list[int]
    progress_at: float
    """When it last made a step, or had nothing to do."""
    leases: set[int] = field(default_factory=set)
    load: m.Load = NO_LOAD
    draining: bool = False

    @property
    def slots_free(self) -> int:
        return len(self.free)


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
    release_at: float | None = None


@dataclass(slots=True)
class Counts:
    """Totals since the start."""

    sessions: int = 0
    moves: int = 0
    refused: int = 0
    lost: int = 0
    stale: int = 0
    bundles: int = 0


class Routing:
    """The whole state of a broker. `boot` is random, below 2**31, and new at every start."""

    def __init__(self, boot: int, now: float, timing: Timing = DEFAULT_TIMING) -> None:
        assert 0 < boot < 2**31
        self.boot, self.timing = boot, timing
        self.workers: dict[bytes, Worker] = {}
        self.frontends: dict[bytes, Frontend] = {}
        self.leases: dict[int, LeaseState] = {}
        self.counts = Counts()
        self._next_lease = boot << 32
        self._sweep_at = now + timing.sweep_s
        self._started_at = now

    # ---- The four verbs ----

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event; return what to do. Messages of a type that its side never sends are ignored."""
        if isinstance(event, FromFrontend):
            return self._from_frontend(event, now)
        if isinstance(event, FromWorker):
            return self._from_worker(event, now)
        return self._fence(event.peer, now)

    def tick(self, now: float) -> list[Command]:
        """What time alone makes due: expired leases, repeated releases."""
        if now < self._sweep_at:
            return []
        self._sweep_at = now + self.timing.sweep_s
        return self._sweep(now)

    def next_deadline(self) -> float:
        """When `tick` has something to do at the latest."""
        return self._sweep_at

    def check(self) -> None:
        """The invariants: every slot is either free or under exactly one lease, and the indexes agree."""
        for worker in self.workers.values():
            taken = [self.leases[lease].slot for lease in worker.leases]
            assert sorted(taken + worker.free) == list(range(worker.spec.slots)), f"slots of {worker.name}"
        for lease in self.leases.values():
            assert lease.lease in self.workers[lease.worker].leases
            assert lease.lease >> 32 == self.boot
        for frontend in self.frontends.values():
            for session, held in frontend.leases.items():
                assert (self.leases[held].session, self.leases[held].frontend) == (session, frontend.peer)
                assert self.leases[held].release_at is None

    def status(self, now: float) -> m.Status:
        """The answer to `asr status`."""
        return m.Status(
            uptime_s=now - self._started_at,
            workers=tuple(
                m.WorkerStatus(w.name, w.spec, len(w.leases), w.draining, w.load) for w in self.workers.values()
            ),
            frontends=tuple(m.FrontendStatus(f.name, len(f.leases)) for f in self.frontends.values()),
            sessions_total=self.counts.sessions,
            refused_total=self.counts.refused,
            lost_total=self.counts.lost,
        )

    # ---- Frontends ----

    def _from_frontend(self, event: FromFrontend, now: float) -> list[Command]:
        frontend = self.frontends.get(event.peer)
        message = event.message
        if isinstance(message, m.RegisterFrontend):
            return self._register_frontend(event.peer, message, now)
        if frontend is None:
            return [ToFrontend(event.peer, m.Unregistered())]
        match message:
            case m.Bundle():
                return self._forward_in(frontend, message, event.body)
            case m.Open():
                return self._open(frontend, message, event.body, now)
            case m.Close():
                return self._close(frontend, message, now)
            case m.FrontendHeartbeat():
                return self._renew(frontend, message, now)
        return []

    def _register_frontend(self, peer: bytes, message: m.RegisterFrontend, now: float) -> list[Command]:
        if message.version != m.PROTOCOL_VERSION:
            return [ToFrontend(peer, _version_rejected(message.version))]
        gone = self._evict(peer, now)
        self.frontends[peer] = Frontend(peer, message.name)
        return [*gone, ToFrontend(peer, self._welcome()), ToFrontend(peer, self._pool())]

    def _open(self, frontend: Frontend, message: m.Open, body: bytes | None, now: float) -> list[Command]:
        commands: list[Command] = []
        held = self.leases.get(frontend.leases.get(message.session, -1))
        if held is not None:
            if held.epoch >= message.epoch:
                return [ToFrontend(frontend.peer, self._pinned(held))]
            commands += self._release(held, now)
        try:
            worker = place(self.workers.values(), message.model, message.language)
        except AsrError as error:
            self.counts.refused += 1
            retry_after_s = error.retry_after_s if isinstance(error, ServiceError) else 0.0
            refused = m.Refused(message.session, message.epoch, error.slug, error.detail, retry_after_s)
            return [*commands, ToFrontend(frontend.peer, refused)]
        lease = self._grant(frontend, worker, message, now)
        grant = m.Grant(lease.lease, lease.slot, message.session, frontend.peer)
        return [
            *commands,
            ToWorker(worker.peer, grant, body),
            ToFrontend(frontend.peer, self._pinned(lease)),
        ]

    def _grant(self, frontend: Frontend, worker: Worker, message: m.Open, now: float) -> LeaseState:
        self._next_lease += 1
        expires_at = now + self.timing.lease_s
        slot = worker.free.pop()
        lease = LeaseState(
            self._next_lease, message.session, message.epoch, slot, worker.peer, frontend.peer, expires_at
        )
        self.leases[lease.lease] = lease
        worker.leases.add(lease.lease)
        frontend.leases[message.session] = lease.lease
        if message.epoch:
            self.counts.moves += 1
        else:
            self.counts.sessions += 1
        return lease

    def _close(self, frontend: Frontend, message: m.Close, now: float) -> list[Command]:
        lease = self.leases.get(message.lease)
        if lease is None or lease.frontend != frontend.peer or lease.release_at is not None:
            return []
        return self._release(lease, now)

    def _renew(self, frontend: Frontend, message: m.FrontendHeartbeat, now: float) -> list[Command]:
        commands: list[Command] = [ToFrontend(frontend.peer, self._pool())]
        for held in message.leases:
            lease = self.leases.get(held)
            if lease is None or lease.frontend != frontend.peer or lease.release_at is not None:
                commands.append(ToFrontend(frontend.peer, self._stale(held)))
            else:
                lease.expires_at = now + self.timing.lease_s
        return commands

    # ---- Workers ----

    def _from_worker(self, event: FromWorker, now: float) -> list[Command]:
        worker = self.workers.get(event.peer)
        message = event.message
        if isinstance(message, m.RegisterWorker):
            return self._register_worker(event.peer, message, now)
        if worker is None:
            return [ToWorker(event.peer, m.Unregistered())]
        match message:
            case m.Bundle():
                return self._forward_out(worker, message, event.body)
            case m.WorkerHeartbeat():
                if message.load.steps != worker.load.steps or not message.load.pending_chunks:
                    worker.progress_at = now
                worker.load = message.load
            case m.Closed():
                self._closed(worker, message)
            case m.Drain():
                worker.draining = True
                return self._announce()
        return []

    def _register_worker(self, peer: bytes, message: m.RegisterWorker, now: float) -> list[Command]:
        if message.version != m.PROTOCOL_VERSION:
            return [ToWorker(peer, _version_rejected(message.version))]
        gone = self._evict(peer, now)
        free = list(range(message.spec.slots - 1, -1, -1))
        self.workers[peer] = Worker(peer, message.name, message.spec, free, now)
        return [*gone, ToWorker(peer, self._welcome()), *self._announce()]

    def _closed(self, worker: Worker, message: m.Closed) -> None:
        lease = self.leases.get(message.lease)
        if lease is not None and lease.worker == worker.peer:
            worker.free.append(lease.slot)
            self._forget(lease)

    # ---- Bundles ----

    def _forward_in(self, frontend: Frontend, bundle: m.Bundle, body: bytes | None) -> list[Command]:
        commands: list[Command] = []
        for held in bundle.leases:
            lease = self.leases.get(held)
            if lease is None or lease.frontend != frontend.peer or lease.worker != bundle.to:
                commands.append(ToFrontend(frontend.peer, self._stale(held)))
        if bundle.to in self.workers and len(commands) < len(bundle.leases):
            self.counts.bundles += 1
            commands.append(ToWorker(bundle.to, bundle, body))
        return commands

    def _forward_out(self, worker: Worker, bundle: m.Bundle, body: bytes | None) -> list[Command]:
        commands: list[Command] = []
        for held in bundle.leases:
            lease = self.leases.get(held)
            if lease is None or lease.worker != worker.peer or lease.frontend != bundle.to:
                commands.append(ToWorker(worker.peer, self._stale(held)))
        if bundle.to in self.frontends and len(commands) < len(bundle.leases):
            self.counts.bundles += 1
            commands.append(ToFrontend(bundle.to, bundle, body))
        return commands

    # ---- Ends ----

    def _release(self, lease: LeaseState, now: float) -> list[Command]:
        lease.release_at = now + self.timing.release_s
        frontend = self.frontends.get(lease.frontend)
        if frontend is not None and frontend.leases.get(lease.session) == lease.lease:
            del frontend.leases[lease.session]
        return [ToWorker(lease.worker, m.Release(lease.lease))]

    def _sweep(self, now: float) -> list[Command]:
        hung = [w.peer for w in self.workers.values() if now - w.progress_at > self.timing.hang_s]
        commands = [command for peer in hung for command in self._fence(peer, now)]
        for lease in list(self.leases.values()):
            if lease.release_at is None and lease.expires_at <= now:
                self.counts.lost += 1
                commands.append(ToFrontend(lease.frontend, m.Lost(lease.lease, "lease-expired")))
                commands += self._release(lease, now)
            elif lease.release_at is not None and lease.release_at <= now:
                commands += self._release(lease, now)
        return commands

    def _fence(self, peer: bytes, now: float) -> list[Command]:
        """Evict a peer; should it live after all, it must register again, with nothing held."""
        if peer in self.workers:
            return [*self._evict(peer, now), ToWorker(peer, m.Unregistered())]
        if peer in self.frontends:
            return [*self._evict(peer, now), ToFrontend(peer, m.Unregistered())]
        return []

    def _evict(self, peer: bytes, now: float) -> list[Command]:
        if peer in self.workers:
            return self._evict_worker(self.workers[peer])
        if peer in self.frontends:
            frontend = self.frontends.pop(peer)
            return [command for lease in frontend.leases.values() for command in self._release(self.leases[lease], now)]
        return []

    def _evict_worker(self, worker: Worker) -> list[Command]:
        commands: list[Command] = []
        for held in sorted(worker.leases):
            lease = self.leases[held]
            if lease.release_at is None:
                self.counts.lost += 1
                commands.append(ToFrontend(lease.frontend, m.Lost(held, "worker-lost")))
            self._forget(lease)
        del self.workers[worker.peer]
        return [*commands, *self._announce()]

    def _forget(self, lease: LeaseState) -> None:
        del self.leases[lease.lease]
        self.workers[lease.worker].leases.discard(lease.lease)
        frontend = self.frontends.get(lease.frontend)
        if frontend is not None and frontend.leases.get(lease.session) == lease.lease:
            del frontend.leases[lease.session]

    # ---- Messages ----

    def _welcome(self) -> m.Welcome:
        return m.Welcome(self.boot, self.timing.heartbeat_s)

    def _pinned(self, lease: LeaseState) -> m.Pinned:
        spec = self.workers[lease.worker].spec
        return m.Pinned(lease.session, lease.epoch, lease.lease, lease.worker, spec)

    def _pool(self) -> m.Pool:
        workers = [worker for worker in self.workers.values() if not worker.draining]
        return m.Pool(
            workers=len(workers),
            slots=sum(worker.spec.slots for worker in workers),
            slots_free=sum(worker.slots_free for worker in workers),
            models=tuple(dict.fromkeys(worker.spec.model for worker in workers)),
        )

    def _announce(self) -> list[Command]:
        pool = self._pool()
        return [ToFrontend(peer, pool) for peer in self.frontends]

    def _stale(self, lease: int) -> m.Stale:
        self.counts.stale += 1
        return m.Stale(lease)


def _version_rejected(version: int) -> m.Rejected:
    detail = f"protocol version {version} is not {m.PROTOCOL_VERSION}, the broker's"
    return m.Rejected("version-mismatch", detail)
