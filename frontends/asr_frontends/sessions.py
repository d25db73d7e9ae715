"""All sessions of a frontend, and its registration with the broker that leads. Pure: messages in, commands out.

`Sessions` stores which lease belongs to which session, renews leases, returns the bundles that are due, and decides
whether a new session could succeed now. Every method that changes something returns the commands that follow from it.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from asr_frontends import events as e
from asr_frontends.handed import HandedSession
from asr_frontends.journal import Budget
from asr_frontends.outbox import Command, Outbox
from asr_frontends.session import NEVER, Limits, Session, State
from asr_proto import messages as m
from asr_proto.audio import BYTES_PER_SAMPLE
from asr_proto.errors import AsrError, PeerError, ServiceError

REGISTER_S = 0.5
"""Time after which an unanswered registration is repeated."""
BROKER_SILENT_S = 10.0
"""A broker that has sent nothing for so long has dropped this frontend's leases: their sessions move."""
WITHOUT_BROKER_S = 5.0
"""Time after the loss of a broker during which a new session waits for the next one. Later, it is refused at once."""
RETRY_S = 1.0
"""Time after which a client that was refused here may try again."""
BEATS_MISSED_MAX = 3
"""Number of unanswered heartbeats after which the broker counts as not connected."""
ANSWER_BEATS_MAX = 2
"""Largest number of heartbeats that one answer of the broker advances the clock of `Session.watch`."""
WATCH_S = 1.0
"""Shortest time between two searches for workers that do nothing."""
WITHOUT_LEASE = (State.OPENING, State.RESUMING, State.MOVING)


@dataclass(slots=True)
class Counts:
    """Totals since the start of the process."""

    sessions: int = 0
    errors: int = 0
    moves: int = 0
    poisonous: int = 0
    finals: int = 0
    audio_samples: int = 0
    handed_over: int = 0
    adopted: int = 0
    foreign_frames: int = 0
    """Frames dropped because the worker that sent them has another session's lease, not its own."""


class Sessions:
    """The sessions of one frontend, their leases and their timers."""

    def __init__(self, name: str, limits: Limits, budget: Budget, now: float) -> None:
        self.name, self._limits, self.budget = name, limits, budget
        self.counts = Counts()
        self.pool: m.Pool | None = None
        self._boot: int | None = None
        self._lost_at = -NEVER
        """When the last broker was lost."""
        self._sessions: dict[str, Session] = {}
        self._by_lease: dict[int, Session] = {}
        self._outbox = Outbox()
        self._timers: list[tuple[float, str]] = []
        self._armed: dict[str, float] = {}
        self._heartbeat_s = REGISTER_S
        self._heartbeat_at = now
        self._last_received_at = now
        self._answered_at, self._answered_s = now, 0.0
        """When the last Pool arrived, and the clock of `Session.watch`: it advances only with the broker's answers."""
        self._watch_at_s = WATCH_S

    def __len__(self) -> int:
        return len(self._sessions)

    def __contains__(self, id: str) -> bool:
        return id in self._sessions

    @property
    def registered(self) -> bool:
        """Whether a broker has accepted this frontend's registration, as far as this frontend has been informed."""
        return self._boot is not None

    def connected(self, now: float) -> bool:
        """Whether a broker has registered this frontend and answers its heartbeats."""
        return self._boot is not None and now - self._last_received_at <= BEATS_MISSED_MAX * self._heartbeat_s

    def ready(self, now: float) -> bool:
        """Whether a new session could make progress now."""
        has_slot = self.pool is not None and self.pool.slots_free > 0
        return self.connected(now) and has_slot and not self.budget.exhausted

    # ---- Clients ----

    def start(self, id: str, start: e.Start, now: float) -> list[Command]:
        """Open a session for a client. Raises ServiceError when no slot can be requested soon."""
        assert id not in self._sessions
        if self._boot is None and now - self._lost_at > WITHOUT_BROKER_S:
            raise ServiceError("no broker is connected", slug="no-broker", retry_after_s=RETRY_S)
        if self.budget.exhausted:
            raise ServiceError("too much unconfirmed audio is held here", slug="overloaded", retry_after_s=RETRY_S)
        session = Session(id, start, self._limits, self.budget, self._outbox, now)
        self._sessions[id] = session
        self.counts.sessions += 1
        if self._boot is not None:
            session.open()
        self._schedule(session)
        return self._outbox.take()

    def client(self, id: str, event: e.ClientEvent, now: float) -> list[Command]:
        """Process a client's event after its start. A PeerError of the event ends the session."""
        session = self._sessions.get(id)
        if session is None:
            return []
        try:
            session.client(event, now)
        except PeerError as error:
            session.fail(error, now)
        if isinstance(event, e.Audio):
            self.counts.audio_samples += len(event.pcm) // BYTES_PER_SAMPLE
        if session.state is State.ENDED:
            self._forget(session)
        return self._outbox.take() if self._outbox.commands else []

    def fail(self, id: str, error: AsrError, now: float) -> list[Command]:
        """End a session with an error."""
        if session := self._sessions.get(id):
            session.fail(error, now)
            self._settle(session)
        return self._outbox.take()

    def leave(self, now: float) -> list[Command]:
        """This frontend stops soon: read nothing more of clients that are still sending; see `Session.leave`."""
        return self._for_all(Session.leave, now)

    def finish(self, now: float) -> list[Command]:
        """The whole pool stops soon: end the audio of every client that is still sending; see `Session.finish`."""
        return self._for_all(Session.finish, now)

    def abandon(self, now: float) -> list[Command]:
        """This frontend stops now: end every session; see `Session.abandon`."""
        return self._for_all(Session.abandon, now)

    def _for_all(self, act: Callable[[Session, float], None], now: float) -> list[Command]:
        for session in list(self._sessions.values()):
            act(session, now)
            self._settle(session)
        return self._outbox.take()

    # ---- Handover ----

    @property
    def boot(self) -> int | None:
        """The number of the broker that has registered this frontend; None without one."""
        return self._boot

    def hand_over(self, id: str, now: float) -> HandedSession | None:
        """Remove a session that another frontend continues. None if it must stay here, for now or to its end.

        Its lease is left to the other frontend. If nobody takes the session, the lease expires.
        """
        session = self._sessions.get(id)
        if session is None or not session.may_be_handed_over:
            return None
        handed = session.hand_over(now)
        self.counts.handed_over += 1
        self._forget(session)
        return handed

    def adopt(self, handed: HandedSession, now: float) -> list[Command]:
        """Continue a session that another frontend has handed over, or that no other frontend took."""
        assert handed.id not in self._sessions
        session = Session.adopted(handed, self._limits, self.budget, self._outbox, now)
        self._sessions[session.id] = session
        self.counts.adopted += 1
        if self._boot is not None:
            session.open()
        self._settle(session)
        return self._outbox.take()

    # ---- The broker ----

    def handle(self, message: m.FromBroker, frames: Iterable[m.Frame], now: float) -> list[Command]:
        """Process a message of the broker with its decoded frames."""
        self._last_received_at = now
        if isinstance(message, m.Bundle):
            leases = frozenset(message.leases)
            for frame in frames:
                self._frame(frame, leases, now)
        else:
            self._control(message, now)
        return self._outbox.take()

    def _control(self, message: m.FromBroker, now: float) -> None:
        match message:
            case m.Pinned():
                self._pinned(message, now)
            case m.Refused():
                self._refused(message, now)
            case m.Lost():
                self._on_lost(message, now)
            case m.Stale():
                self._lost(message, now)
            case m.Pool():
                self.pool = message
                self._watch(now)
            case m.Welcome():
                self._welcome(message)
            case m.Unregistered():
                self._unregistered(now)
            case m.Rejected():
                self.pool, self._boot, self._lost_at = None, None, -NEVER

    def _frame(self, frame: m.Frame, leases: frozenset[int], now: float) -> None:
        """Process a frame under one of `leases`: the broker has checked that these are the sender's."""
        session = self._by_lease.get(frame.lease)
        if session is None or not isinstance(frame, m.FrameOut):
            return
        if frame.lease not in leases:
            self.counts.foreign_frames += 1
            return
        self.counts.finals += isinstance(frame, m.Final)
        session.on_frame(frame, now)
        if session.state is not State.ACTIVE:
            self._settle(session)

    def _pinned(self, pinned: m.Pinned, now: float) -> None:
        session = self._sessions.get(pinned.session)
        if session is None:  # its client is gone, or its connection broke again before the session was resumed
            self._outbox.send(m.Detach(pinned.lease) if pinned.resumed else m.Close(pinned.lease))
            return
        session.on_pinned(pinned, now)
        if session.pinned is pinned:
            self._by_lease[pinned.lease] = session
        self._settle(session)

    def _refused(self, refused: m.Refused, now: float) -> None:
        if session := self._sessions.get(refused.session):
            session.on_refused(refused, now)
            self._settle(session)

    def _on_lost(self, lost: m.Lost, now: float) -> None:
        session = self._by_lease.get(lost.lease)
        if lost.slug == m.RESUMED:
            self._resumed_elsewhere(lost.lease, now)
        elif lost.slug != m.DRAINS or (session is not None and session.may_move()):
            self._lost(lost, now)

    def _lost(self, lost: m.Lost | m.Stale, now: float) -> None:
        session = self._by_lease.get(lost.lease)
        if session is None or session.pinned is None or session.pinned.lease != lost.lease:
            return
        session.on_lost(lost, now)
        self.counts.poisonous += session.is_poisonous
        self._settle(session)

    def _watch(self, now: float) -> None:
        """Find the workers that do nothing with the audio that they have. Their sessions move."""
        self._answered_s += min(now - self._answered_at, ANSWER_BEATS_MAX * self._heartbeat_s)
        self._answered_at = now
        if self._answered_s < self._watch_at_s or self.pool is None:
            return
        self._watch_at_s = self._answered_s + WATCH_S
        for session in list(self._by_lease.values()):
            session.watch(self._answered_s, self.pool.busy, now)
            if session.state is State.MOVING:
                self._settle(session)

    def _resumed_elsewhere(self, lease: int, now: float) -> None:
        """The client has resumed its session through another frontend: end it on the old connection here."""
        if session := self._by_lease.get(lease):
            session.fail(ServiceError("resumed elsewhere", slug="session-lost"), now)
            self._settle(session)

    def _welcome(self, welcome: m.Welcome) -> None:
        self._heartbeat_s = welcome.heartbeat_s
        self._boot = welcome.boot
        for session in self._sessions.values():
            if session.state in WITHOUT_LEASE:
                session.open()
                self._schedule(session)

    def _unregistered(self, now: float) -> None:
        """The broker is new, or has removed this frontend: every lease is gone. Register, and move the sessions.

        The sessions request their slots when the broker's Welcome arrives.
        """
        if self._boot is not None:
            self._heartbeat_at = self._lost_at = now
        self._boot, self.pool = None, None
        for lease in list(self._by_lease):
            self._lost(m.Stale(lease), now)

    # ---- Time ----

    def tick(self, now: float) -> list[Command]:
        """Do what is due at `now`: bundles, heartbeats, and the sessions whose deadline has come."""
        if self._outbox.bundles_at <= now:
            self._outbox.seal()
        while self._timers and self._timers[0][0] <= now:
            at, id = heapq.heappop(self._timers)
            session = self._sessions.get(id)
            if session is not None and self._armed.get(id) == at:
                del self._armed[id]
                if session.next_deadline() <= now:
                    session.tick(now)
                self._settle(session)
        if self._boot is not None and now - self._last_received_at > BROKER_SILENT_S:
            self._unregistered(now)
        if self._heartbeat_at <= now:
            self._heartbeat_at = now + self._heartbeat_s
            self._outbox.send(self._heartbeat())
        return self._outbox.take()

    def flush(self) -> list[Command]:
        """Return the waiting bundles before they are due."""
        self._outbox.seal()
        return self._outbox.take()

    def _heartbeat(self) -> m.FromFrontend:
        if self._boot is None:
            return m.RegisterFrontend(m.PROTOCOL_VERSION, self.name)
        return m.FrontendHeartbeat(tuple(self._by_lease))

    def next_deadline(self) -> float:
        """The time at which `tick` has something to do."""
        return min(self._heartbeat_at, self._outbox.bundles_at, self._timers[0][0] if self._timers else NEVER)

    def check(self) -> None:
        """Assert the invariants."""
        for session in self._sessions.values():
            session.check()
            assert session.state is not State.ENDED
            if session.state is State.ACTIVE:
                assert session.pinned is not None
                assert self._by_lease[session.pinned.lease] is session
        assert self.budget.bytes_held == 0 or self._sessions

    # ---- Private ----

    def _settle(self, session: Session) -> None:
        """Remove a session that has ended; else schedule it, since its next deadline may be earlier now.

        A session that has just lost or left its worker requests another slot.
        """
        if session.state is State.ENDED:
            self._forget(session)
            return
        if session.state is State.MOVING and session.pinned and self._by_lease.pop(session.pinned.lease, None):
            self.counts.moves += 1
            if self._boot is not None and not session.waits:
                session.open()
        self._schedule(session)

    def _schedule(self, session: Session) -> None:
        """Arm the session's one timer if its deadline is earlier. A later deadline is armed when the timer fires."""
        deadline = session.next_deadline()
        if deadline < self._armed.get(session.id, NEVER):
            self._armed[session.id] = deadline
            heapq.heappush(self._timers, (deadline, session.id))

    def _forget(self, session: Session) -> None:
        self.counts.errors += session.failed
        self._sessions.pop(session.id, None)
        self._armed.pop(session.id, None)
        if session.pinned is not None:
            self._by_lease.pop(session.pinned.lease, None)
