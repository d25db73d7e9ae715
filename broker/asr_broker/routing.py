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

from msgspec import structs

from asr_broker.events import Command, Event, FromFrontend, FromWorker, ToFrontend, ToWorker
from asr_broker.peers import DEFAULT_TIMING, Counts, Frontend, LeaseState, Pair, Timing, Worker
from asr_broker.placement import place
from asr_proto import messages as m
from asr_proto.errors import AsrError, ServiceError


class Routing:
    """The whole state of a broker. `boot` is random, below 2**31, and new at every start."""

    def __init__(self, boot: int, now: float, timing: Timing = DEFAULT_TIMING) -> None:
        assert 0 < boot < 2**31
        self.boot, self.timing = boot, timing
        self.workers: dict[bytes, Worker] = {}
        self.frontends: dict[bytes, Frontend] = {}
        self.leases: dict[int, LeaseState] = {}
        self._pairs: dict[Pair, set[int]] = {}
        """The leases between a frontend and a worker: what their bundles may name."""
        self._resumable: dict[str, int] = {}
        """The lease of each session whose client may come back."""
        self.counts = Counts()
        self._announced = self._pool(now)
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
        if now - self._sweep_at > self.timing.stall_s:
            self._excuse(now)
        self._sweep_at = now + self.timing.sweep_s
        commands = self._sweep(now)
        # A worker that falls silent sends no message on which to say so.
        is_changed = len(self._offering(now)) != self._announced.workers
        return [*commands, *self._announce(now)] if is_changed else commands

    def _excuse(self, now: float) -> None:
        """We stood still ourselves: what was said meanwhile lies unread, and nobody is late until it is read."""
        for worker in self.workers.values():
            worker.heard_at = now
            worker.waiting_since = now if worker.waiting_since is not None else None
        for lease in self.leases.values():
            lease.expires_at = max(lease.expires_at, now + self.timing.lease_s / 2)

    def next_deadline(self) -> float:
        """When `tick` has something to do at the latest."""
        return self._sweep_at

    def check(self) -> None:
        """The invariants: every slot is either free or under exactly one lease, and the indexes agree."""
        for worker in self.workers.values():
            taken = [self.leases[lease].slot for lease in worker.leases]
            assert sorted(taken + worker.free) == list(range(worker.spec.slots)), f"slots of {worker.name}"
            assert all(self.leases[lease].detached and not self.leases[lease].release_at for lease in worker.detached)
        for lease in self.leases.values():
            assert lease.lease in self.workers[lease.worker].leases
            assert lease.lease >> 32 == self.boot
            assert lease.lease in self._pairs[lease.pair]
        assert sum(map(len, self._pairs.values())) == len(self.leases) and all(self._pairs.values())
        for session, held in self._resumable.items():
            assert self.leases[held].session == session and self.leases[held].resumable
        for frontend in self.frontends.values():
            for session, held in frontend.leases.items():
                assert not self.leases[held].detached
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
            # The end of its connection may be seen before the last that it said.
            closed = self._close(event.peer, message, now) if isinstance(message, m.Close) else []
            return [*closed, ToFrontend(event.peer, m.Unregistered())]
        match message:
            case m.Bundle():
                return self._forward_in(frontend, message, event.body, now)
            case m.Open():
                return self._open(frontend, message, event.body, now)
            case m.Close():
                return self._close(frontend.peer, message, now)
            case m.Detach():
                self._detach(frontend, message, now)
            case m.Resume():
                return self._resume(frontend, message, event.body, now)
            case m.FrontendHeartbeat():
                return self._renew(frontend, message, now)
        return []

    def _register_frontend(self, peer: bytes, message: m.RegisterFrontend, now: float) -> list[Command]:
        if message.version != m.PROTOCOL_VERSION:
            return [ToFrontend(peer, _version_rejected(message.version))]
        gone = self._evict(peer, now)
        self.frontends[peer] = Frontend(peer, message.name)
        return [*gone, ToFrontend(peer, self._welcome()), ToFrontend(peer, self._pool(now))]

    def _open(self, frontend: Frontend, message: m.Open, body: bytes | None, now: float) -> list[Command]:
        commands: list[Command] = []
        held = self.leases.get(frontend.leases.get(message.session, -1))
        if held is not None:
            if held.epoch >= message.epoch:
                return [ToFrontend(frontend.peer, self._pinned(held))]
            commands += self._release(held, now)
        other = self.leases.get(self._resumable.get(message.session, -1))
        if other is not None and other.release_at is None:
            if other.epoch >= message.epoch:
                detail = "its client has resumed it elsewhere"
                return [ToFrontend(frontend.peer, m.Refused(message.session, message.epoch, m.RESUMED, detail, 0.0))]
            commands += [*self._resumed_elsewhere(other), *self._release(other, now)]
        try:
            worker = place(self._offering(now), message.model, message.language, moving=message.epoch > 0)
        except AsrError as error:
            self.counts.refused += 1
            retry_after_s = error.retry_after_s if isinstance(error, ServiceError) else 0.0
            refused = m.Refused(message.session, message.epoch, error.slug, error.detail, retry_after_s)
            return [*commands, ToFrontend(frontend.peer, refused)]
        commands += self._yield(worker)
        slot = worker.free.pop()
        lease = self._grant(frontend, worker, slot, message.session, message.epoch, now)
        lease.resumable = message.resumable
        self._remember(lease)
        if message.epoch:
            self.counts.moves += 1
        else:
            self.counts.sessions += 1
        grant = m.Grant(lease.lease, lease.slot, message.session, frontend.peer)
        return [
            *commands,
            ToWorker(worker.peer, grant, body),
            ToFrontend(frontend.peer, self._pinned(lease)),
        ]

    def _grant(self, frontend: Frontend, worker: Worker, slot: int, session: str, epoch: int, now: float) -> LeaseState:
        self._next_lease += 1
        expires_at = now + self.timing.lease_s
        lease = LeaseState(self._next_lease, session, epoch, slot, worker.peer, frontend.peer, expires_at)
        self.leases[lease.lease] = lease
        self._pairs.setdefault(lease.pair, set()).add(lease.lease)
        worker.leases.add(lease.lease)
        frontend.leases[session] = lease.lease
        return lease

    # ---- Clients that come back ----

    def _yield(self, worker: Worker) -> list[Command]:
        """Without a free slot, one of a client that is gone: the worker wipes it before it opens it again."""
        if worker.free:
            return []
        lease = self.leases[next(iter(worker.detached))]
        self.counts.lost += 1
        self._forget(lease)
        worker.free.append(lease.slot)
        return [ToWorker(worker.peer, m.Release(lease.lease))]

    def _remember(self, lease: LeaseState) -> None:
        if lease.resumable:
            self._resumable[lease.session] = lease.lease

    def _detach(self, frontend: Frontend, message: m.Detach, now: float) -> None:
        lease = self.leases.get(message.lease)
        if lease is not None and lease.frontend == frontend.peer and lease.release_at is None and lease.resumable:
            self._leave(lease, now)

    def _leave(self, lease: LeaseState, now: float) -> None:
        """Nobody listens to this session now. Its worker keeps it; what it says meanwhile it keeps too."""
        lease.detached, lease.expires_at = True, now + self.timing.grace_s
        self.workers[lease.worker].detached[lease.lease] = None
        frontend = self.frontends.get(lease.frontend)
        if frontend is not None and frontend.leases.get(lease.session) == lease.lease:
            del frontend.leases[lease.session]

    def _resumed_elsewhere(self, lease: LeaseState) -> list[Command]:
        """Tell the frontend that serves it, if one does: its client is not there any more."""
        return [] if lease.detached else [ToFrontend(lease.frontend, m.Lost(lease.lease, m.RESUMED))]

    def _resume(self, frontend: Frontend, message: m.Resume, body: bytes | None, now: float) -> list[Command]:
        held = self.leases.get(self._resumable.get(message.session, -1))
        if held is None or held.release_at is not None:
            self.counts.refused += 1
            detail = "no such session is waiting here"
            return [ToFrontend(frontend.peer, m.Refused(message.session, 0, "resume-unavailable", detail, 0.0))]
        commands = self._resumed_elsewhere(held) if held.frontend != frontend.peer else []
        worker = self.workers[held.worker]
        self._forget(held)
        lease = self._grant(frontend, worker, held.slot, held.session, held.epoch + 1, now)
        lease.resumable = True
        self._remember(lease)
        self.counts.resumes += 1
        transfer = m.Transfer(held.lease, lease.lease, lease.slot, lease.session, frontend.peer, message.utterance)
        pinned = structs.replace(self._pinned(lease), resumed=True)
        return [*commands, ToWorker(worker.peer, transfer, body), ToFrontend(frontend.peer, pinned)]

    def _close(self, frontend: bytes, message: m.Close, now: float) -> list[Command]:
        lease = self.leases.get(message.lease)
        if lease is None or lease.frontend != frontend or lease.release_at is not None:
            return []
        return self._release(lease, now)

    def _renew(self, frontend: Frontend, message: m.FrontendHeartbeat, now: float) -> list[Command]:
        commands: list[Command] = [ToFrontend(frontend.peer, self._pool(now))]
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
        worker.heard_at = now
        match message:
            case m.Bundle():
                return self._forward_out(worker, message, event.body)
            case m.WorkerHeartbeat():
                worker.reported(message.load, now)
            case m.Closed():
                self._closed(worker, message)
            case m.Drain():
                worker.draining = True
                return self._announce(now)
        return []

    def _register_worker(self, peer: bytes, message: m.RegisterWorker, now: float) -> list[Command]:
        if message.version != m.PROTOCOL_VERSION:
            return [ToWorker(peer, _version_rejected(message.version))]
        gone = self._evict(peer, now)
        free = list(range(message.spec.slots - 1, -1, -1))
        self.workers[peer] = Worker(peer, message.name, message.spec, free, now)
        return [*gone, ToWorker(peer, self._welcome()), *self._announce(now)]

    def _closed(self, worker: Worker, message: m.Closed) -> None:
        lease = self.leases.get(message.lease)
        if lease is not None and lease.worker == worker.peer:
            worker.free.append(lease.slot)
            self._forget(lease)

    # ---- Bundles ----

    def _forward_in(self, frontend: Frontend, bundle: m.Bundle, body: bytes | None, now: float) -> list[Command]:
        foreign = self._foreign(bundle.leases, (frontend.peer, bundle.to))
        commands: list[Command] = [ToFrontend(frontend.peer, self._stale(lease)) for lease in foreign]
        worker = self.workers.get(bundle.to)
        if worker is not None and len(foreign) < len(bundle.leases):
            self.counts.bundles += 1
            if worker.waiting_since is None:
                worker.waiting_since = now
            commands.append(ToWorker(bundle.to, bundle, body))
        return commands

    def _forward_out(self, worker: Worker, bundle: m.Bundle, body: bytes | None) -> list[Command]:
        foreign = self._foreign(bundle.leases, (bundle.to, worker.peer))
        commands: list[Command] = [ToWorker(worker.peer, self._stale(lease)) for lease in foreign]
        if bundle.to in self.frontends and len(foreign) < len(bundle.leases):
            self.counts.bundles += 1
            commands.append(ToFrontend(bundle.to, bundle, body))
        return commands

    def _foreign(self, leases: tuple[int, ...], pair: Pair) -> list[int]:
        """Those that are not current between these two. Mostly there are none, which one call finds out for all."""
        current = self._pairs.get(pair) or set()
        return [] if current.issuperset(leases) else [lease for lease in leases if lease not in current]

    # ---- Ends ----

    def _release(self, lease: LeaseState, now: float) -> list[Command]:
        lease.release_at = now + self.timing.release_s
        self.workers[lease.worker].detached.pop(lease.lease, None)
        frontend = self.frontends.get(lease.frontend)
        if frontend is not None and frontend.leases.get(lease.session) == lease.lease:
            del frontend.leases[lease.session]
        return [ToWorker(lease.worker, m.Release(lease.lease))]

    def _sweep(self, now: float) -> list[Command]:
        hung = [worker.peer for worker in self.workers.values() if worker.hangs(now, self.timing)]
        commands = [command for peer in hung for command in self._fence(peer, now, "worker-hangs")]
        for lease in list(self.leases.values()):
            if lease.release_at is None and lease.expires_at <= now:
                self.counts.lost += 1
                if not lease.detached:
                    commands.append(ToFrontend(lease.frontend, m.Lost(lease.lease, "lease-expired")))
                commands += self._release(lease, now)
            elif lease.release_at is not None and lease.release_at <= now:
                commands += self._release(lease, now)
        return commands

    def _fence(self, peer: bytes, now: float, reason: str = "worker-lost") -> list[Command]:
        """Evict a peer; should it live after all, it must register again, with nothing held."""
        if peer in self.workers:
            return [*self._evict_worker(self.workers[peer], now, reason), ToWorker(peer, m.Unregistered())]
        if peer in self.frontends:
            return [*self._evict(peer, now), ToFrontend(peer, m.Unregistered())]
        return []

    def _evict(self, peer: bytes, now: float) -> list[Command]:
        if peer in self.workers:
            return self._evict_worker(self.workers[peer], now)
        if peer in self.frontends:
            return self._evict_frontend(self.frontends.pop(peer), now)
        return []

    def _evict_frontend(self, frontend: Frontend, now: float) -> list[Command]:
        commands: list[Command] = []
        for held in frontend.leases.values():
            if self.leases[held].resumable:
                self._leave(self.leases[held], now)
            else:
                commands += self._release(self.leases[held], now)
        return commands

    def _evict_worker(self, worker: Worker, now: float, reason: str = "worker-lost") -> list[Command]:
        commands: list[Command] = []
        for held in sorted(worker.leases):
            lease = self.leases[held]
            if lease.release_at is None:
                self.counts.lost += 1
                if not lease.detached:
                    commands.append(ToFrontend(lease.frontend, m.Lost(held, reason)))
            self._forget(lease)
        del self.workers[worker.peer]
        return [*commands, *self._announce(now)]

    def _forget(self, lease: LeaseState) -> None:
        del self.leases[lease.lease]
        self._pairs[lease.pair].discard(lease.lease)
        if not self._pairs[lease.pair]:
            del self._pairs[lease.pair]
        if self._resumable.get(lease.session) == lease.lease:
            del self._resumable[lease.session]
        worker = self.workers[lease.worker]
        worker.leases.discard(lease.lease)
        worker.detached.pop(lease.lease, None)
        frontend = self.frontends.get(lease.frontend)
        if frontend is not None and frontend.leases.get(lease.session) == lease.lease:
            del frontend.leases[lease.session]

    # ---- Messages ----

    def _welcome(self) -> m.Welcome:
        return m.Welcome(self.boot, self.timing.heartbeat_s)

    def _pinned(self, lease: LeaseState) -> m.Pinned:
        spec = self.workers[lease.worker].spec
        return m.Pinned(lease.session, lease.epoch, lease.lease, lease.worker, spec)

    def _offering(self, now: float) -> list[Worker]:
        return [worker for worker in self.workers.values() if worker.offers(now, self.timing)]

    def _pool(self, now: float) -> m.Pool:
        workers = self._offering(now)
        open_to_all = [worker for worker in workers if not worker.overloaded]
        return m.Pool(
            workers=len(workers),
            slots=sum(worker.spec.slots for worker in workers),
            slots_free=sum(worker.slots_free + worker.slots_detached for worker in open_to_all),
            models=tuple(dict.fromkeys(worker.spec.model for worker in workers)),
        )

    def _announce(self, now: float) -> list[Command]:
        self._announced = self._pool(now)
        return [ToFrontend(peer, self._announced) for peer in self.frontends]

    def _stale(self, lease: int) -> m.Stale:
        self.counts.stale += 1
        return m.Stale(lease)


def _version_rejected(version: int) -> m.Rejected:
    detail = f"protocol version {version} is not {m.PROTOCOL_VERSION}, the broker's"
    return m.Rejected("version-mismatch", detail)
