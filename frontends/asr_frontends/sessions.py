"""All sessions of a frontend and its standing with the broker. Pure: messages in, commands out.

It knows which lease belongs to which session, renews leases, bundles frames per worker, and says whether a new
session could succeed now.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from dataclasses import dataclass

from asr_frontends import events as e
from asr_frontends.journal import Budget
from asr_frontends.session import Command, Deliver, Limits, Session, State, ToBroker
from asr_proto import messages as m
from asr_proto.errors import AsrError, PeerError, ServiceError

REGISTER_S = 0.5
"""How often an unanswered registration is repeated."""
BROKER_SILENT_S = 10.0
"""A broker that has said nothing for this long has dropped our leases: their sessions move."""
RETRY_S = 1.0
"""When a client that was refused here may try again."""
BEATS_MISSED_MAX = 3
"""After this many unanswered heartbeats no new session is promised."""


@dataclass(slots=True)
class Counts:
    """Totals since the start."""

    sessions: int = 0
    errors: int = 0
    moves: int = 0
    finals: int = 0
    audio_samples: int = 0


class Sessions:
    """The whole state of a frontend outside its sockets."""

    def __init__(self, name: str, limits: Limits, budget: Budget, now: float) -> None:
        self.name, self._limits, self.budget = name, limits, budget
        self.counts = Counts()
        self.pool: m.Pool | None = None
        self._boot: int | None = None
        self._sessions: dict[str, Session] = {}
        self._by_lease: dict[int, Session] = {}
        self._outbox: dict[bytes, list[m.FrameIn]] = {}
        self._timers: list[tuple[float, str]] = []
        self._armed: dict[str, float] = {}
        self._heartbeat_s = REGISTER_S
        self._heartbeat_at = now
        self._heard_at = now

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def registered(self) -> bool:
        """Whether a broker has taken our registration, as far as we know."""
        return self._boot is not None

    def connected(self, now: float) -> bool:
        """Whether a broker knows us and answers."""
        return self._boot is not None and now - self._heard_at <= BEATS_MISSED_MAX * self._heartbeat_s

    def ready(self, now: float) -> bool:
        """Whether a new session could make progress now."""
        has_slot = self.pool is not None and self.pool.slots_free > 0
        return self.connected(now) and has_slot and not self.budget.exhausted

    # ---- Clients ----

    def start(self, id: str, start: e.Start, now: float) -> list[Command]:
        """A client wants a session. Raises ServiceError when it cannot even be asked for."""
        assert id not in self._sessions
        if self._boot is None:
            raise ServiceError("no broker is connected", slug="no-broker", retry_after_s=RETRY_S)
        if self.budget.exhausted:
            raise ServiceError("too much audio is waiting here", slug="overloaded", retry_after_s=RETRY_S)
        session = Session(id, start, self._limits, self.budget, now)
        self._sessions[id] = session
        self.counts.sessions += 1
        return self._moved(session, session.open())

    def client(self, id: str, event: e.ClientEvent, now: float) -> list[Command]:
        """A client's event after its start; its errors end its session."""
        session = self._sessions.get(id)
        if session is None:
            return []
        try:
            commands = session.client(event, now)
        except PeerError as error:
            commands = session.fail(error, now)
        if isinstance(event, e.Audio):
            self.counts.audio_samples += len(event.pcm) // 2
        return self._after(session, commands)

    def fail(self, id: str, error: AsrError, now: float) -> list[Command]:
        """End a session with an error."""
        session = self._sessions.get(id)
        return self._after(session, session.fail(error, now)) if session else []

    def leave(self, id: str, now: float) -> list[Command]:
        """End a session in order, because this frontend stops."""
        session = self._sessions.get(id)
        return self._after(session, session.leave(now)) if session else []

    def wanted(self, id: str) -> bool:
        """Whether this client may send; see Session.wanted."""
        session = self._sessions.get(id)
        return session is None or session.wanted()

    # ---- The broker ----

    def handle(self, message: m.FromBroker, frames: Iterable[m.Frame], now: float) -> list[Command]:
        """Take a message of the broker with its decoded frames."""
        self._heard_at = now
        match message:
            case m.Bundle():
                return [command for frame in frames for command in self._frame(frame, now)]
            case m.Pinned():
                return self._pinned(message, now)
            case m.Refused():
                session = self._sessions.get(message.session)
                return self._moved(session, session.on_refused(message, now)) if session else []
            case m.Lost(slug=m.RESUMED):
                return self._resumed_elsewhere(message.lease, now)
            case m.Lost() | m.Stale():
                return self._lost(message.lease, now)
            case m.Pool():
                self.pool = message
            case m.Welcome():
                return self._welcome(message)
            case m.Unregistered():
                return self._unregistered(now)
            case m.Rejected():
                self.pool = self._boot = None
        return []

    def _pinned(self, pinned: m.Pinned, now: float) -> list[Command]:
        session = self._sessions.get(pinned.session)
        if session is None:  # its client has left, or broken off again while it came back
            return [ToBroker(m.Detach(pinned.lease) if pinned.resumed else m.Close(pinned.lease))]
        commands = session.on_pinned(pinned, now)
        if session.pinned is pinned:
            self._by_lease[pinned.lease] = session
        return self._moved(session, commands)

    def _lost(self, lease: int, now: float) -> list[Command]:
        session = self._by_lease.pop(lease, None)
        if session is None or session.pinned is None or session.pinned.lease != lease:
            return []
        self.counts.moves += 1
        return self._moved(session, session.on_lost(now))

    def _resumed_elsewhere(self, lease: int, now: float) -> list[Command]:
        """Its client came back to another frontend before we knew that it was gone."""
        session = self._by_lease.get(lease)
        if session is None:
            return []
        return self._after(session, session.fail(ServiceError("resumed elsewhere", slug="session-lost"), now))

    def _frame(self, frame: m.Frame, now: float) -> list[Command]:
        session = self._by_lease.get(frame.lease)
        if session is None or not isinstance(frame, m.FrameOut):
            return []
        self.counts.finals += isinstance(frame, m.Final)
        return self._after(session, session.on_frame(frame, now))

    def _welcome(self, welcome: m.Welcome) -> list[Command]:
        self._heartbeat_s = welcome.heartbeat_s
        self._boot = welcome.boot
        opening = [s for s in self._sessions.values() if s.state in (State.OPENING, State.MOVING)]
        return [command for session in opening for command in self._moved(session, session.open())]

    def _unregistered(self, now: float) -> list[Command]:
        """The broker is new, or has given us up: every lease is gone; register and move what is alive."""
        if self._boot is not None:
            self._heartbeat_at = now
        self._boot, self.pool = None, None
        lost = [command for lease in list(self._by_lease) for command in self._lost(lease, now)]
        return [command for command in lost if not isinstance(command, ToBroker)]

    # ---- Time ----

    def tick(self, now: float) -> list[Command]:
        """Heartbeats, and the sessions whose deadline has come."""
        commands: list[Command] = []
        while self._timers and self._timers[0][0] <= now:
            at, id = heapq.heappop(self._timers)
            session = self._sessions.get(id)
            if session is not None and self._armed.get(id) == at:
                del self._armed[id]
                due = session.tick(now) if session.next_deadline() <= now else []
                commands += self._moved(session, due)
        if self._boot is not None and now - self._heard_at > BROKER_SILENT_S:
            commands += self._unregistered(now)
        if self._heartbeat_at <= now:
            self._heartbeat_at = now + self._heartbeat_s
            commands.append(ToBroker(self._heartbeat()))
        return commands

    def _heartbeat(self) -> m.FromFrontend:
        if self._boot is None:
            return m.RegisterFrontend(m.PROTOCOL_VERSION, self.name)
        return m.FrontendHeartbeat(tuple(self._by_lease))

    def next_deadline(self) -> float:
        """When `tick` has something to do."""
        return min(self._heartbeat_at, self._timers[0][0] if self._timers else float("inf"))

    # ---- Output ----

    def has_outgoing(self) -> bool:
        """Whether frames wait for `outgoing`."""
        return bool(self._outbox)

    def outgoing(self) -> list[tuple[m.Bundle, list[m.FrameIn]]]:
        """One bundle per worker of all frames since the last call."""
        outbox, self._outbox = self._outbox, {}
        return [
            (m.Bundle(worker, tuple(dict.fromkeys(frame.lease for frame in frames))), frames)
            for worker, frames in outbox.items()
        ]

    def check(self) -> None:
        """The invariants."""
        for session in self._sessions.values():
            session.check()
            assert session.state is not State.ENDED
            if session.state is State.ACTIVE:
                assert session.pinned is not None
                assert self._by_lease[session.pinned.lease] is session
        assert self.budget.bytes_held == 0 or self._sessions

    # ---- Private ----

    def _after(self, session: Session, commands: list[Command]) -> list[Command]:
        """Collect the frames, forget an ended session."""
        if session.posts and session.pinned is not None:
            self._outbox.setdefault(session.pinned.worker, []).extend(session.posts)
            session.posts.clear()
        for command in commands:
            self.counts.errors += isinstance(command, Deliver) and isinstance(command.event, e.Error)
        if session.state is State.ENDED:
            self._forget(session)
        return commands

    def _moved(self, session: Session, commands: list[Command]) -> list[Command]:
        """Like `_after`, where the next deadline may have come nearer: with the session's state, or with time."""
        self._after(session, commands)
        if session.state is not State.ENDED:
            self._schedule(session)
        return commands

    def _schedule(self, session: Session) -> None:
        """One timer per session: within a state deadlines move later, which the timer finds out when it fires."""
        deadline = session.next_deadline()
        if deadline < self._armed.get(session.id, float("inf")):
            self._armed[session.id] = deadline
            heapq.heappush(self._timers, (deadline, session.id))

    def _forget(self, session: Session) -> None:
        self._sessions.pop(session.id, None)
        self._armed.pop(session.id, None)
        if session.pinned is not None:
            self._by_lease.pop(session.pinned.lease, None)
