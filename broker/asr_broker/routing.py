"""The broker's core: which peers are registered, and which lease pins which session to which slot. Pure: it receives
events and returns commands.

Rules
- A lease is granted on a free slot, under a number that is never used again. Its states are the table `peers.LEASE`.
  The slot stays taken until the worker has wiped it (Closed), is gone, or gets another lease for the same slot.
- `Release` is repeated until `Closed` arrives, and a lease that its frontend does not renew is released: a lost Close
  leaks no slot.
- A peer is one process on one connection. When the connection ends, the peer counts as dead and the messages in transit
  are lost, so its sessions move or end. If the process is still alive, it registers again and has no session.
- A broker that has just begun has no workers yet, though they may live. Until `Timing.register_s` has passed, an Open
  that no registered worker can take waits (`Waiting`). Later, it is refused at once.
- A bundle is forwarded when its destination is registered. The broker answers Stale for each lease in the header that
  is not current between these two peers, and removes it from the header. The destination drops frames whose lease is
  not in the header: so a peer can send frames only under its own leases, though the broker never reads a body.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial

from msgspec import structs

from asr_broker.deaths import WITNESS_S, Death, Deaths
from asr_broker.events import Command, Event, FromFrontend, FromWorker, ToFrontend, ToWorker
from asr_broker.peers import (
    DEFAULT_TIMING,
    SERVED,
    TRIAL_S,
    BrokerCounts,
    FrontendRecord,
    Lease,
    LeaseEvent,
    LeaseState,
    Pair,
    Timing,
    WorkerRecord,
)
from asr_broker.placement import place
from asr_broker.waiting import Waiting
from asr_proto import messages as m
from asr_proto.errors import AsrError, ServiceError

MOVES_MAX = 32
"""Most sessions of a draining worker that one sweep lets move: each sends its audio since the last commit again."""


class Routing:
    """The whole state of a broker. `boot` is random, from 1 to 2**31 - 1, and new at every start."""

    def __init__(self, boot: int, now: float, timing: Timing = DEFAULT_TIMING) -> None:
        assert 0 < boot < 2**31
        self.boot, self.timing = boot, timing
        self.workers: dict[bytes, WorkerRecord] = {}
        self.frontends: dict[bytes, FrontendRecord] = {}
        self.leases: dict[int, Lease] = {}
        self._pairs: dict[Pair, set[int]] = {}
        """By frontend and worker: the leases that bundles between these two may name."""
        self._resumable: dict[str, int] = {}
        """By session: the lease that a client may resume, in state RESUMABLE or DETACHED."""
        self._waiting = Waiting()
        """The Opens that wait for a worker to register."""
        self._deaths = Deaths()
        self.counts = BrokerCounts()
        self._announced = self._pool(now)
        self._next_lease = boot << 32
        self._sweep_at = now + timing.sweep_s
        self._started_at = now
        self._registered_by = now + timing.register_s
        """When every living worker has registered."""

    def begin(self, now: float) -> None:
        """This broker leads from now on: give its workers the time to register that they have after its start."""
        self._registered_by = now + self.timing.register_s

    # ---- The four verbs ----

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event; return the commands. A message that its side never sends is ignored."""
        if isinstance(event, FromFrontend):
            return self._from_frontend(event, now)
        if isinstance(event, FromWorker):
            return self._from_worker(event, now)
        return self._fence_worker(event.peer, now) if event.side == "worker" else self._fence_frontend(event.peer, now)

    def tick(self, now: float) -> list[Command]:
        """Release expired leases, repeat unanswered releases, evict workers that hang."""
        if now < self._sweep_at:
            return list(self._deaths.due(now))
        if now - self._sweep_at > self.timing.stall_s:
            self._extend_deadlines(now)
        self._sweep_at = now + self.timing.sweep_s
        commands = [*self._deaths.due(now), *self._sweep(now), *self._serve_waiting(now)]
        # A worker that falls silent changes the pool without a message.
        is_changed = len(self._accepting(now)) != self._announced.workers
        return [*commands, *self._announce(now)] if is_changed else commands

    def _extend_deadlines(self, now: float) -> None:
        """This broker stalled. Messages that arrived in that time are not read yet, so no peer counts as late."""
        for worker in self.workers.values():
            worker.last_message_at = now
            worker.waiting_since = now if worker.waiting_since is not None else None
        for lease in self.leases.values():
            if lease.state is not LeaseState.RELEASING:
                lease.due_at = max(lease.due_at, now + self.timing.lease_s / 2)
        if self._sweep_at < self._registered_by:
            self.begin(now)

    def next_deadline(self) -> float:
        """The latest time for the next `tick`."""
        return min(self._sweep_at, self._deaths.next_deadline())

    def check(self) -> None:
        """The invariants: every slot is either free or under exactly one lease, and the indexes agree."""
        for worker in self.workers.values():
            taken = [self.leases[lease].slot for lease in worker.leases]
            assert sorted(taken + worker.free) == list(range(worker.spec.slots)), f"slots of {worker.name}"
            detached = {lease for lease in worker.leases if self.leases[lease].state is LeaseState.DETACHED}
            assert worker.detached.keys() == detached
        for lease in self.leases.values():
            assert lease.state is not LeaseState.ENDED
            assert lease.lease in self.workers[lease.worker].leases
            assert lease.lease >> 32 == self.boot
            assert lease.lease in self._pairs[lease.pair]
        assert sum(map(len, self._pairs.values())) == len(self.leases) and all(self._pairs.values())
        waiting = (LeaseState.RESUMABLE, LeaseState.DETACHED)
        assert self._resumable == {one.session: one.lease for one in self.leases.values() if one.state in waiting}
        self._waiting.check(self.frontends)
        for frontend in self.frontends.values():
            mine = [one for one in self.leases.values() if one.frontend == frontend.peer and one.state in SERVED]
            assert frontend.leases == {one.session: one.lease for one in mine}
        assert sum(one.state in SERVED for one in self.leases.values()) == sum(
            len(frontend.leases) for frontend in self.frontends.values()
        )

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
            # The end of its connection may be noticed before its last message.
            closed = self._close(event.peer, message, now) if isinstance(message, m.Close) else []
            return [*closed, ToFrontend(event.peer, m.Unregistered())]
        match message:
            case m.Bundle():
                return self._forward_in(frontend, message, event.body, now)
            case m.Open():
                return self._open(frontend, event, message, now)
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
        gone = self._evict_frontend(self.frontends.pop(peer), now) if peer in self.frontends else []
        self.frontends[peer] = FrontendRecord(peer, message.name)
        return [*gone, ToFrontend(peer, self._welcome()), ToFrontend(peer, self._pool(now))]

    def _open(self, frontend: FrontendRecord, event: FromFrontend, message: m.Open, now: float) -> list[Command]:
        commands = self._replace(message, now)
        held = self.leases.get(frontend.leases.get(message.session, -1))
        if held is not None:
            if held.epoch >= message.epoch:
                return [ToFrontend(frontend.peer, self._pinned(held))]
            commands += self._release(held, now)
        other = self.leases.get(self._resumable.get(message.session, -1))
        if other is not None:
            if other.epoch >= message.epoch:
                detail = "its client has resumed it elsewhere"
                return [ToFrontend(frontend.peer, m.Refused(message.session, message.epoch, m.RESUMED, detail, 0.0))]
            commands += [*self._notify_resumed(other), *self._release(other, now)]
        if self._waiting.precedes(event) and self._waiting.add(event):
            return commands
        try:
            worker = self._place(message, now)
        except AsrError as error:
            if now < self._registered_by and self._waiting.add(event):
                return commands
            return [*commands, self._refuse(frontend, message, error)]
        commands += self._reclaim(worker, now)
        slot = worker.free.pop()
        lease = self._grant(frontend, worker, slot, message.session, message.epoch, message.resumable, now)
        if message.suspected_at:
            worker.trial_until = now + TRIAL_S
        if message.epoch:
            self.counts.moves += 1
        else:
            self.counts.sessions += 1
        grant = m.Grant(lease.lease, lease.slot, message.session, frontend.peer)
        return [
            *commands,
            ToWorker(worker.peer, grant, event.body),
            ToFrontend(frontend.peer, self._pinned(lease)),
        ]

    def _refuse(self, frontend: FrontendRecord, message: m.Open, error: AsrError) -> Command:
        self.counts.refused += 1
        retry_after_s = error.retry_after_s if isinstance(error, ServiceError) else 0.0
        refused = m.Refused(message.session, message.epoch, error.slug, error.detail, retry_after_s)
        return ToFrontend(frontend.peer, refused)

    def _serve_waiting(self, now: float) -> list[Command]:
        """Grant slots to the Opens that wait, as far as there are slots. The others wait on, or are refused."""
        commands: list[Command] = []
        for event in self._waiting.take():
            commands += self._from_frontend(event, now)
        return commands

    def _place(self, message: m.Open, now: float) -> WorkerRecord:
        """Choose a worker: not the one that the session left, unless no other can take the session."""
        choose = partial(
            place,
            model=message.model,
            language=message.language,
            moving=message.epoch > 0,
            suspected_at=message.suspected_at,
            trying={worker.name for worker in self.workers.values() if worker.trial_until > now},
        )
        workers = self._accepting(now)
        others = [worker for worker in workers if worker.peer != message.avoid]
        if len(others) < len(workers):
            with suppress(AsrError):
                return choose(others)
        return choose(workers)

    def _replace(self, message: m.Open, now: float) -> list[Command]:
        """End the lease of a session that another frontend has handed over, and free its slot for this Open.

        The worker wipes the slot before it opens it again. Without this, a new session could take the slot first.
        """
        lease = self.leases.get(message.replaces)
        if lease is None or lease.session != message.session:
            return []
        self._end(lease, LeaseEvent.REPLACE, now)
        self.workers[lease.worker].free.append(lease.slot)
        return [ToWorker(lease.worker, m.Release(lease.lease))]

    def _grant(
        self,
        frontend: FrontendRecord,
        worker: WorkerRecord,
        slot: int,
        session: str,
        epoch: int,
        is_resumable: bool,
        now: float,
    ) -> Lease:
        self._next_lease += 1
        lease = Lease(self._next_lease, session, epoch, slot, worker.peer, frontend.peer, now + self.timing.lease_s)
        self.leases[lease.lease] = lease
        self._pairs.setdefault(lease.pair, set()).add(lease.lease)
        worker.leases.add(lease.lease)
        frontend.leases[session] = lease.lease
        if is_resumable:
            lease.fire(LeaseEvent.ALLOW_RESUME, now)
            self._resumable[session] = lease.lease
        return lease

    # ---- Clients that come back ----

    def _reclaim(self, worker: WorkerRecord, now: float) -> list[Command]:
        """If no slot is free, free that of the lease detached first. The worker wipes it before it opens it again."""
        if worker.free:
            return []
        lease = self.leases[next(iter(worker.detached))]
        self.counts.lost += 1
        self._end(lease, LeaseEvent.RECLAIM, now)
        worker.free.append(lease.slot)
        return [ToWorker(worker.peer, m.Release(lease.lease))]

    def _detach(self, frontend: FrontendRecord, message: m.Detach, now: float) -> None:
        lease = self.leases.get(message.lease)
        if lease is not None and lease.frontend == frontend.peer and lease.can(LeaseEvent.DETACH):
            self._suspend(lease, now)

    def _suspend(self, lease: Lease, now: float) -> None:
        """No frontend serves this session now. Its worker keeps the session and stores its finals."""
        lease.fire(LeaseEvent.DETACH, now)
        lease.due_at = now + self.timing.grace_s
        self.workers[lease.worker].detached[lease.lease] = None
        self._unserve(lease)

    def _notify_resumed(self, lease: Lease) -> list[Command]:
        """Send Lost to the frontend that serves the session, if one does: its client is at another frontend."""
        return [ToFrontend(lease.frontend, m.Lost(lease.lease, m.RESUMED))] if lease.state in SERVED else []

    def _resume(self, frontend: FrontendRecord, message: m.Resume, body: bytes | None, now: float) -> list[Command]:
        held = self.leases.get(self._resumable.get(message.session, -1))
        if held is None:
            self.counts.refused += 1
            detail = "no such session is waiting here"
            return [ToFrontend(frontend.peer, m.Refused(message.session, 0, "resume-unavailable", detail, 0.0))]
        commands = self._notify_resumed(held) if held.frontend != frontend.peer else []
        worker = self.workers[held.worker]
        self._end(held, LeaseEvent.RESUME, now)
        lease = self._grant(frontend, worker, held.slot, held.session, held.epoch + 1, True, now)
        self.counts.resumes += 1
        transfer = m.Transfer(held.lease, lease.lease, lease.slot, lease.session, frontend.peer, message.utterance)
        pinned = structs.replace(self._pinned(lease), resumed=True)
        return [*commands, ToWorker(worker.peer, transfer, body), ToFrontend(frontend.peer, pinned)]

    def _close(self, frontend: bytes, message: m.Close, now: float) -> list[Command]:
        lease = self.leases.get(message.lease)
        if lease is None or lease.frontend != frontend or not lease.can(LeaseEvent.RELEASE):
            return []
        return self._release(lease, now)

    def _renew(self, frontend: FrontendRecord, message: m.FrontendHeartbeat, now: float) -> list[Command]:
        commands: list[Command] = [ToFrontend(frontend.peer, self._pool(now))]
        for held in message.leases:
            lease = self.leases.get(held)
            if held in self._deaths:
                continue  # its Lost follows
            if lease is None or lease.frontend != frontend.peer or lease.state is LeaseState.RELEASING:
                commands.append(ToFrontend(frontend.peer, self._stale(held)))
            else:
                lease.due_at = now + self.timing.lease_s
        return commands

    # ---- Workers ----

    def _from_worker(self, event: FromWorker, now: float) -> list[Command]:
        worker = self.workers.get(event.peer)
        message = event.message
        if isinstance(message, m.RegisterWorker):
            return self._register_worker(event.peer, message, now)
        if isinstance(message, m.Crashed):
            return self._crashed(event.peer, message, now)
        if worker is None:
            return [ToWorker(event.peer, m.Unregistered())]
        worker.last_message_at = now
        match message:
            case m.Bundle():
                return self._forward_out(worker, message, event.body)
            case m.WorkerHeartbeat():
                worker.reported(message.load, now)
                worker.stuck = message.stuck
            case m.Closed():
                self._closed(worker, message, now)
            case m.Drain():
                worker.draining = True
                return self._announce(now)
        return []

    def _register_worker(self, peer: bytes, message: m.RegisterWorker, now: float) -> list[Command]:
        gone = self._evict_worker(self.workers[peer], now) if peer in self.workers else []
        free = list(range(message.spec.slots - 1, -1, -1))
        record = WorkerRecord(peer, message.name, message.spec, free, now, witness=message.witness)
        self.workers[peer] = record
        return [*gone, ToWorker(peer, self._welcome()), *self._serve_waiting(now), *self._announce(now)]

    def _crashed(self, peer: bytes, message: m.Crashed, now: float) -> list[Command]:
        """A worker ends, or its witness reports that it has ended. The connection may still seem to be up."""
        worker = next((one for one in self.workers.values() if peer in (one.peer, one.witness)), None)
        if worker is None:
            return list(self._deaths.reported(peer, message.leases, proven=message.proven))
        return self._evict_worker(worker, now, suspects=message.leases, proven=message.proven)

    def _closed(self, worker: WorkerRecord, message: m.Closed, now: float) -> None:
        lease = self.leases.get(message.lease)
        if lease is not None and lease.worker == worker.peer:
            worker.free.append(lease.slot)
            self._end(lease, LeaseEvent.CLOSED, now)

    # ---- Bundles ----

    def _forward_in(self, frontend: FrontendRecord, bundle: m.Bundle, body: bytes | None, now: float) -> list[Command]:
        missing = self._not_current(bundle.leases, (frontend.peer, bundle.to))
        stale = [lease for lease in missing if lease not in self._deaths]
        commands: list[Command] = [ToFrontend(frontend.peer, self._stale(lease)) for lease in stale]
        worker = self.workers.get(bundle.to)
        if worker is not None and len(missing) < len(bundle.leases):
            self.counts.bundles += 1
            if worker.waiting_since is None:
                worker.waiting_since = now
            commands.append(ToWorker(bundle.to, _without(bundle, missing), body))
        return commands

    def _forward_out(self, worker: WorkerRecord, bundle: m.Bundle, body: bytes | None) -> list[Command]:
        stale = self._not_current(bundle.leases, (bundle.to, worker.peer))
        commands: list[Command] = [ToWorker(worker.peer, self._stale(lease)) for lease in stale]
        if bundle.to in self.frontends and len(stale) < len(bundle.leases):
            self.counts.bundles += 1
            commands.append(ToFrontend(bundle.to, _without(bundle, stale), body))
        return commands

    def _not_current(self, leases: tuple[int, ...], pair: Pair) -> list[int]:
        """The leases that are not current between these two peers. In the usual case, none, this is one call of C."""
        current = self._pairs.get(pair) or set()
        return [] if current.issuperset(leases) else [lease for lease in leases if lease not in current]

    # ---- Ends ----

    def _release(self, lease: Lease, now: float) -> list[Command]:
        lease.fire(LeaseEvent.RELEASE, now)
        self._withdraw(lease)
        return self._send_release(lease, now)

    def _send_release(self, lease: Lease, now: float) -> list[Command]:
        lease.due_at = now + self.timing.release_s
        return [ToWorker(lease.worker, m.Release(lease.lease))]

    def _sweep(self, now: float) -> list[Command]:
        hung = [worker for worker in self.workers.values() if worker.hangs(now, self.timing)]
        commands = [command for worker in hung for command in self._give_up(worker, now)]
        commands += [command for worker in self.workers.values() for command in self._move_away(worker, now)]
        for lease in [lease for lease in self.leases.values() if lease.due_at <= now]:
            is_releasing = lease.state is LeaseState.RELEASING
            commands += self._send_release(lease, now) if is_releasing else self._expire(lease, now)
        return commands

    def _move_away(self, worker: WorkerRecord, now: float) -> list[Command]:
        """Ask frontends to move sessions of a draining worker to those that have room. Repeated with each sweep.

        Half of the free slots stay free for new sessions. A session that cannot move now ends by itself, or moves when
        its worker has ended.
        """
        if not worker.draining:
            return []
        others = [one for one in self._accepting(now) if one.spec.model == worker.spec.model and not one.overloaded]
        leaving = sum(one.draining for one in self.workers.values())
        room = min(MOVES_MAX, sum(one.slots_free for one in others) // (2 * leaving))
        served = [lease for held in sorted(worker.leases) if (lease := self.leases[held]).state in SERVED]
        return [ToFrontend(lease.frontend, m.Lost(lease.lease, m.DRAINS)) for lease in served[:room]]

    def _expire(self, lease: Lease, now: float) -> list[Command]:
        return [*self._lose(lease, "lease-expired"), *self._release(lease, now)]

    def _lose(self, lease: Lease, reason: str) -> list[Command]:
        """Count the session as lost; send Lost to the frontend that serves it, if one does."""
        self.counts.lost += 1
        return [ToFrontend(lease.frontend, m.Lost(lease.lease, reason))] if lease.state in SERVED else []

    def _give_up(self, worker: WorkerRecord, now: float) -> list[Command]:
        """Evict a worker that hangs. If it has named the leases of the job that does not end, these are suspected."""
        lost = self._evict_worker(worker, now, "worker-hangs", suspects=worker.stuck, proven=bool(worker.stuck))
        return [*lost, ToWorker(worker.peer, m.Unregistered())]

    def _fence_worker(self, peer: bytes, now: float) -> list[Command]:
        """Evict a worker. If it is still alive, Unregistered makes it drop its sessions and register again."""
        worker = self.workers.get(peer)
        return [*self._evict_worker(worker, now, wait=True), ToWorker(peer, m.Unregistered())] if worker else []

    def _fence_frontend(self, peer: bytes, now: float) -> list[Command]:
        frontend = self.frontends.pop(peer, None)
        return [*self._evict_frontend(frontend, now), ToFrontend(peer, m.Unregistered())] if frontend else []

    def _evict_frontend(self, frontend: FrontendRecord, now: float) -> list[Command]:
        self._waiting.drop(frontend.peer)
        commands: list[Command] = []
        for lease in [self.leases[held] for held in frontend.leases.values()]:
            if lease.can(LeaseEvent.DETACH):
                self._suspend(lease, now)
            else:
                commands += self._release(lease, now)
        return commands

    def _evict_worker(
        self,
        worker: WorkerRecord,
        now: float,
        slug: str = "worker-lost",
        *,
        suspects: tuple[int, ...] = (),
        proven: bool = False,
        wait: bool = False,
    ) -> list[Command]:
        """End all leases of a worker. With `wait`, their Lost waits for the report of the worker's witness."""
        death = Death(worker.peer, worker.name, {}, slug, now + WITNESS_S)
        for lease in [self.leases[held] for held in sorted(worker.leases)]:
            self.counts.lost += lease.state is not LeaseState.RELEASING
            if lease.state in SERVED:
                death.leases[lease.lease] = lease.frontend
            self._end(lease, LeaseEvent.WORKER_LOST, now)
        del self.workers[worker.peer]
        if wait and worker.witness and death.leases:
            self._deaths.wait(worker.witness, death)
            return self._announce(now)
        return [*death.lost(suspects, proven=proven), *self._announce(now)]

    def _end(self, lease: Lease, event: LeaseEvent, now: float) -> None:
        """Remove the lease; `event` must lead to ENDED. The caller decides what happens to the slot."""
        lease.fire(event, now)
        self._withdraw(lease)
        del self.leases[lease.lease]
        self.workers[lease.worker].leases.discard(lease.lease)
        self._pairs[lease.pair].discard(lease.lease)
        if not self._pairs[lease.pair]:
            del self._pairs[lease.pair]

    def _withdraw(self, lease: Lease) -> None:
        """Neither a frontend nor a returning client may use the lease any more."""
        if self._resumable.get(lease.session) == lease.lease:
            del self._resumable[lease.session]
        self.workers[lease.worker].detached.pop(lease.lease, None)
        self._unserve(lease)

    def _unserve(self, lease: Lease) -> None:
        frontend = self.frontends.get(lease.frontend)
        if frontend is not None and frontend.leases.get(lease.session) == lease.lease:
            del frontend.leases[lease.session]

    # ---- Messages ----

    def _welcome(self) -> m.Welcome:
        return m.Welcome(self.boot, self.timing.heartbeat_s)

    def _pinned(self, lease: Lease) -> m.Pinned:
        spec = self.workers[lease.worker].spec
        return m.Pinned(lease.session, lease.epoch, lease.lease, lease.worker, spec)

    def _accepting(self, now: float) -> list[WorkerRecord]:
        return [worker for worker in self.workers.values() if worker.accepts(now, self.timing)]

    def _pool(self, now: float) -> m.Pool:
        workers = self._accepting(now)
        open_to_all = [worker for worker in workers if not worker.overloaded]
        return m.Pool(
            workers=len(workers),
            slots=sum(worker.spec.slots for worker in workers),
            slots_free=sum(worker.slots_free + worker.slots_detached for worker in open_to_all),
            models=tuple(dict.fromkeys(worker.spec.model for worker in workers))[: m.MODELS_MAX],
            busy=tuple(worker.peer for worker in self.workers.values() if worker.load.pending_chunks)[: m.WORKERS_MAX],
        )

    def _announce(self, now: float) -> list[Command]:
        self._announced = self._pool(now)
        return [ToFrontend(peer, self._announced) for peer in self.frontends]

    def _stale(self, lease: int) -> m.Stale:
        self.counts.stale += 1
        return m.Stale(lease)


def _without(bundle: m.Bundle, leases: list[int]) -> m.Bundle:
    """The bundle with the other leases only; the same object if there are none to remove."""
    if not leases:
        return bundle
    removed = set(leases)
    return structs.replace(bundle, leases=tuple([lease for lease in bundle.leases if lease not in removed]))
