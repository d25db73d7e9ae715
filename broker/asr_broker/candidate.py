"""A broker that shares its pool with another: the routing core behind the votes of the workers. Pure.

Registrations are kept whether it leads or not. `Routing` knows only peers that are *adopted*: workers that vote for us,
and frontends, while we lead; the others hear `Standby`. So a standby grants nothing because it has nothing to grant.

- Winning adopts everybody: each peer hears `Welcome` and holds nothing, as from a broker that has just started.
- Losing forgets everybody: each peer hears `Standby`, and no lease is left.
- A worker whose vote goes to another broker has dropped our sessions: its leases are lost, as if it had died.
- Lapsed, what would grant a lease waits; the rest goes on: a worker that has gone over drops what is not its leader's.
"""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from asr_broker.events import Command, Event, FromFrontend, FromWorker, Gone, ToFrontend, ToWorker
from asr_broker.leadership import Leadership, Role
from asr_broker.peers import NO_LOAD, Counts, LeaseState
from asr_broker.routing import Routing
from asr_proto import messages as m

HOLDING = (Role.LEADING, Role.LAPSED)
"""The roles in which there are leases."""


class Candidate:
    """Has the verbs of `Routing` and stands in its place."""

    def __init__(self, routing: Routing, leadership: Leadership) -> None:
        self.routing, self.leadership = routing, leadership
        self._workers: dict[bytes, FromWorker] = {}
        self._frontends: dict[bytes, FromFrontend] = {}
        self._adopted: set[bytes] = set()
        self._waiting: list[FromFrontend] = []
        """What would have granted leases while we were lapsed."""

    @property
    def boot(self) -> int:
        return self.routing.boot

    @property
    def role(self) -> Role:
        return self.leadership.role

    def leads(self, now: float) -> bool:
        """Whether a lease would be granted at this moment."""
        return self.leadership.leads(now)

    @property
    def counts(self) -> Counts:
        return self.routing.counts

    @property
    def leases(self) -> dict[int, LeaseState]:
        return self.routing.leases

    # ---- The four verbs ----

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event; return what to do. Time comes first: a broker that stood still does not lead any more."""
        commands = self._lead(list(self.leadership.tick(now)), now) if now >= self.leadership.next_deadline() else []
        if isinstance(event, Gone):
            return [*commands, *self._gone(event, now)]
        if isinstance(event.message, m.Bundle) and event.peer in self._adopted:
            return [*commands, *self.routing.handle(event, now)]
        if isinstance(event, FromWorker):
            return [*commands, *self._from_worker(event, now)]
        return [*commands, *self._from_frontend(event, now)]

    def tick(self, now: float) -> list[Command]:
        """What time alone makes due."""
        claims: list[Command] = list(self.leadership.tick(now))
        return self._lead([*claims, *self.routing.tick(now)], now)

    def next_deadline(self) -> float:
        """When `tick` has something to do at the latest."""
        return min(self.leadership.next_deadline(), self.routing.next_deadline())

    def check(self) -> None:
        """The invariants: only who is adopted is routed, and nobody is where we hold nothing."""
        self.routing.check()
        self.leadership.check()
        assert self._adopted == self.routing.workers.keys() | self.routing.frontends.keys()
        assert self._adopted <= self._workers.keys() | self._frontends.keys()
        if self.leadership.role not in HOLDING:
            assert not self._adopted and not self.leases
        assert not self._waiting or self.leadership.role is Role.LAPSED

    def status(self, now: float) -> m.Status:
        """The answer to `asr status`; a standby names who would serve and be served."""
        status = self.routing.status(now)
        if self.leadership.role in HOLDING:
            return structs.replace(status, leads=self.leadership.role is Role.LEADING)
        return structs.replace(
            status,
            leads=False,
            workers=tuple(
                m.WorkerStatus(one.message.name, one.message.spec, 0, False, NO_LOAD)
                for one in self._workers.values()
                if isinstance(one.message, m.RegisterWorker)
            ),
            frontends=tuple(
                m.FrontendStatus(one.message.name, 0)
                for one in self._frontends.values()
                if isinstance(one.message, m.RegisterFrontend)
            ),
        )

    # ---- Peers ----

    def _from_worker(self, event: FromWorker, now: float) -> list[Command]:
        peer, message = event.peer, event.message
        if isinstance(message, m.RegisterWorker):
            return self._register_worker(event, message, now)
        if isinstance(message, m.Vote) and self.leadership.knows(peer):
            return self._voted(peer, message, now)
        if peer in self._adopted:
            return self._lead(self.routing.handle(event, now), now)
        return [] if peer in self._workers else [ToWorker(peer, m.Unregistered())]

    def _register_worker(self, event: FromWorker, message: m.RegisterWorker, now: float) -> list[Command]:
        if message.version != m.PROTOCOL_VERSION:
            return self.routing.handle(event, now)
        dropped = self._drop(event.peer, now)
        self._workers[event.peer] = event
        claims = self.leadership.joined(event.peer, message.name, now)
        return self._lead([*dropped, ToWorker(event.peer, m.Standby(self.boot)), *claims], now)

    def _voted(self, peer: bytes, vote: m.Vote, now: float) -> list[Command]:
        # Nobody's is no loss yet: it may be ours again, and till then its sessions live.
        gone_over = peer in self._adopted and vote.boot not in (0, self.boot)
        dropped = self._drop(peer, now) if gone_over else []
        return self._lead([*dropped, *self.leadership.voted(peer, vote, now)], now)

    def _from_frontend(self, event: FromFrontend, now: float) -> list[Command]:
        peer, message = event.peer, event.message
        if isinstance(message, m.RegisterFrontend):
            if message.version != m.PROTOCOL_VERSION:
                return self.routing.handle(event, now)
            dropped = self._drop(peer, now)
            self._frontends[peer] = event
            return self._lead([*dropped, ToFrontend(peer, m.Standby(self.boot))], now)
        if peer not in self._frontends:
            return [ToFrontend(peer, m.Unregistered())]
        if peer not in self._adopted:
            return [ToFrontend(peer, m.Standby(self.boot))]
        if self.leadership.role is Role.LAPSED and isinstance(message, m.Open | m.Resume):
            self._waiting.append(event)
            return []
        return self.routing.handle(event, now)

    def _gone(self, gone: Gone, now: float) -> list[Command]:
        self._workers.pop(gone.peer, None)
        self._frontends.pop(gone.peer, None)
        self._adopted.discard(gone.peer)
        commands = self.routing.handle(gone, now)
        return self._lead([*commands, *self.leadership.left(gone.peer, now)], now)

    # ---- What the votes mean ----

    def _lead(self, commands: list[Command], now: float) -> list[Command]:
        """Adopt or forget peers as our role has it now; `commands` go first."""
        # Whom routing has given up itself must register again before it is of use.
        for peer in self._adopted - self.routing.workers.keys() - self.routing.frontends.keys():
            self._adopted.discard(peer)
            self._workers.pop(peer, None)
        if self.leadership.role is Role.LEADING:
            return [*commands, *self._adopt(now)]
        if self.leadership.role is not Role.LAPSED and (self._adopted or self._waiting):
            return [*commands, *self._forget(now)]
        return commands

    def _adopt(self, now: float) -> list[Command]:
        commands: list[Command] = []
        workers = [peer for peer in self._workers if self.leadership.has_vote_of(peer, now)]
        for peer in [*workers, *self._frontends]:
            if peer not in self._adopted:
                self._adopted.add(peer)
                registration = self._workers.get(peer) or self._frontends[peer]
                commands += self.routing.handle(registration, now)
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            commands += self.routing.handle(event, now) if event.peer in self._adopted else []
        return [self._dated(command) for command in commands]

    def _dated(self, command: Command) -> Command:
        """A Welcome says in which term we lead, so that peers can tell which of two is the later one."""
        if not isinstance(command.message, m.Welcome):
            return command
        return replace(command, message=structs.replace(command.message, term=self.leadership.term))

    def _drop(self, peer: bytes, now: float) -> list[Command]:
        """Its leases are lost; it knows so itself."""
        if peer not in self._adopted:
            return []
        self._adopted.discard(peer)
        return [command for command in self.routing.handle(Gone(peer), now) if command.peer != peer]

    def _forget(self, now: float) -> list[Command]:
        for peer in sorted(self._adopted):
            self.routing.handle(Gone(peer), now)
        self._adopted.clear()
        self._waiting.clear()
        standby = m.Standby(self.boot)
        workers: list[Command] = [ToWorker(peer, standby) for peer in self._workers]
        return [*workers, *(ToFrontend(peer, standby) for peer in self._frontends)]
