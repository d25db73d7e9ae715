"""A broker that shares its pool with another: `Routing`, in use only while this broker leads. Pure.

Registrations are kept in every role. Only *adopted* peers are passed to `Routing`: while this broker leads, the workers
that vote for it, and all frontends. Every other peer gets `Standby`. So a standby has no worker on which to grant.

- When this broker wins, it adopts these peers: each gets `Welcome` and drops its sessions, as after a broker's start.
  The votes of some workers may arrive later, so new sessions wait for them, as after a broker's start.
- When it loses, it drops all peers: each gets `Standby`, and no lease is left.
- A worker that votes for another broker has dropped its sessions: their leases are lost, as if the worker had died.
- While this broker is lapsed, messages that would grant a lease wait. All others are handled: a worker that votes for
  another broker drops what does not come from its leader.
"""

from __future__ import annotations

from dataclasses import replace

from msgspec import structs

from asr_broker.events import Command, Event, FromFrontend, FromWorker, Gone, ToFrontend, ToWorker
from asr_broker.leadership import Leadership, Role
from asr_broker.peers import NO_LOAD, BrokerCounts, Lease
from asr_broker.placement import AT_CAPACITY_RETRY_S
from asr_broker.routing import Routing
from asr_broker.waiting import Waiting
from asr_proto import messages as m
from asr_proto.errors import AtCapacity

HOLDING = (Role.LEADING, Role.LAPSED)
"""The roles in which a broker may have leases."""


class Candidate:
    """Has the methods of `Routing` that the shell calls."""

    def __init__(self, routing: Routing, leadership: Leadership) -> None:
        self.routing, self.leadership = routing, leadership
        self._workers: dict[bytes, FromWorker] = {}
        self._frontends: dict[bytes, FromFrontend] = {}
        self._adopted: set[bytes] = set()
        """The workers among the adopted peers. A frontend is adopted when `Routing` has it."""
        self._waiting = Waiting()
        """Messages that would grant a lease, kept while this broker is lapsed."""

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
    def counts(self) -> BrokerCounts:
        return self.routing.counts

    @property
    def leases(self) -> dict[int, Lease]:
        return self.routing.leases

    # ---- The four verbs ----

    def handle(self, event: Event, now: float) -> list[Command]:
        """Take one event; return the commands. Time is handled first: the lead may have expired during a stall."""
        commands = self._lead(list(self.leadership.tick(now)), now) if now >= self.leadership.next_deadline() else []
        if isinstance(event, Gone):
            return [*commands, *self._gone(event, now)]
        if isinstance(event.message, m.Bundle) and self._is_adopted(event):
            return [*commands, *self.routing.handle(event, now)]
        if isinstance(event, FromWorker):
            return [*commands, *self._from_worker(event, now)]
        return [*commands, *self._from_frontend(event, now)]

    def tick(self, now: float) -> list[Command]:
        """Send due claims, count votes that expired, and do what is due in `Routing`."""
        claims: list[Command] = list(self.leadership.tick(now))
        return self._lead([*claims, *self.routing.tick(now)], now)

    def next_deadline(self) -> float:
        """The latest time for the next `tick`."""
        return min(self.leadership.next_deadline(), self.routing.next_deadline())

    def check(self) -> None:
        """The invariants: `Routing` has the adopted peers, and none unless this broker leads or is lapsed."""
        self.routing.check()
        self.leadership.check()
        workers, frontends = self.routing.workers.keys(), self.routing.frontends.keys()
        assert self._adopted == workers <= self._workers.keys()
        assert frontends <= self._frontends.keys()
        if self.leadership.role not in HOLDING:
            assert not workers and not frontends and not self.leases
        assert not self._waiting or self.leadership.role is Role.LAPSED
        self._waiting.check(frontends)

    def status(self, now: float) -> m.Status:
        """The answer to `asr status`. A standby lists the registered peers."""
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

    def _is_adopted(self, event: FromWorker | FromFrontend) -> bool:
        peers = self.routing.workers if isinstance(event, FromWorker) else self.routing.frontends
        return event.peer in peers

    def _from_worker(self, event: FromWorker, now: float) -> list[Command]:
        peer, message = event.peer, event.message
        if isinstance(message, m.RegisterWorker):
            return self._register_worker(event, message, now)
        if isinstance(message, m.Vote) and self.leadership.has_voter(peer):
            return self._voted(peer, message, now)
        if isinstance(message, m.Crashed) or self._is_adopted(event):  # a witness never registers
            return self._lead(self.routing.handle(event, now), now)
        return [] if peer in self._workers else [ToWorker(peer, m.Unregistered())]

    def _register_worker(self, event: FromWorker, message: m.RegisterWorker, now: float) -> list[Command]:
        dropped = self._drop_worker(event.peer, now)
        self._workers[event.peer] = event
        claims = self.leadership.joined(event.peer, message.name, now)
        return self._lead([*dropped, ToWorker(event.peer, m.Standby(self.boot)), *claims], now)

    def _voted(self, peer: bytes, vote: m.Vote, now: float) -> list[Command]:
        # A worker that votes for no broker (0) keeps its sessions: it may vote for this broker again.
        has_defected = peer in self._adopted and vote.boot not in (0, self.boot)
        dropped = self._drop_worker(peer, now) if has_defected else []
        return self._lead([*dropped, *self.leadership.voted(peer, vote, now)], now)

    def _from_frontend(self, event: FromFrontend, now: float) -> list[Command]:
        peer, message = event.peer, event.message
        if isinstance(message, m.RegisterFrontend):
            dropped = self._drop_frontend(peer, now)
            self._frontends[peer] = event
            return self._lead([*dropped, ToFrontend(peer, m.Standby(self.boot))], now)
        if peer not in self._frontends:
            return [ToFrontend(peer, m.Unregistered())]
        if not self._is_adopted(event):
            return [ToFrontend(peer, m.Standby(self.boot))]
        if self.leadership.role is Role.LAPSED and isinstance(message, m.Open | m.Resume):
            return [] if self._waiting.add(event) else [_refuse(peer, message)]
        return self.routing.handle(event, now)

    def _gone(self, gone: Gone, now: float) -> list[Command]:
        if gone.side == "worker":
            self._workers.pop(gone.peer, None)
            self._adopted.discard(gone.peer)
            commands = self.routing.handle(gone, now)
            return self._lead([*commands, *self.leadership.left(gone.peer, now)], now)
        self._frontends.pop(gone.peer, None)
        self._waiting.drop(gone.peer)
        return self._lead(self.routing.handle(gone, now), now)

    # ---- Adopting and dropping ----

    def _lead(self, commands: list[Command], now: float) -> list[Command]:
        """Adopt or drop peers according to the current role; return `commands` and then those commands."""
        # A peer that routing has evicted must register again before it is adopted again.
        for peer in self._adopted - self.routing.workers.keys():
            self._adopted.discard(peer)
            self._workers.pop(peer, None)
        if self.leadership.role is Role.LEADING:
            return [*commands, *self._adopt(now)]
        if self.leadership.role is not Role.LAPSED and (self._adopted or self.routing.frontends):
            return [*commands, *self._drop_all(now)]
        return commands

    def _adopt(self, now: float) -> list[Command]:
        commands: list[Command] = []
        if not (self._adopted or self.routing.frontends):
            self.routing.begin(now)
        for peer, worker in self._workers.items():
            if peer not in self._adopted and self.leadership.has_vote_of(peer, now):
                self._adopted.add(peer)
                commands += self.routing.handle(worker, now)
        for peer, frontend in self._frontends.items():
            if peer not in self.routing.frontends:
                commands += self.routing.handle(frontend, now)
        for event in self._waiting.take():
            commands += self.routing.handle(event, now)
        return [self._dated(command) for command in commands]

    def _dated(self, command: Command) -> Command:
        """Add the term to a Welcome, so that peers can tell which of two leaders is the later one."""
        if not isinstance(command.message, m.Welcome):
            return command
        return replace(command, message=structs.replace(command.message, term=self.leadership.term))

    def _drop_worker(self, peer: bytes, now: float) -> list[Command]:
        """End the leases of a worker, which has dropped them itself and gets no message about it."""
        self._adopted.discard(peer)
        commands = self.routing.handle(Gone(peer, "worker"), now)
        return [one for one in commands if not (isinstance(one, ToWorker) and one.peer == peer)]

    def _drop_frontend(self, peer: bytes, now: float) -> list[Command]:
        """End the leases of a frontend that registers again, and so has dropped them itself."""
        self._waiting.drop(peer)
        commands = self.routing.handle(Gone(peer, "frontend"), now)
        return [one for one in commands if not (isinstance(one, ToFrontend) and one.peer == peer)]

    def _drop_all(self, now: float) -> list[Command]:
        for peer in sorted(self._adopted):
            self.routing.handle(Gone(peer, "worker"), now)
        for peer in sorted(self.routing.frontends):
            self.routing.handle(Gone(peer, "frontend"), now)
        self._adopted.clear()
        self._waiting.take()
        standby = m.Standby(self.boot)
        workers: list[Command] = [ToWorker(peer, standby) for peer in self._workers]
        return [*workers, *(ToFrontend(peer, standby) for peer in self._frontends)]


def _refuse(frontend: bytes, message: m.Open | m.Resume) -> ToFrontend:
    epoch = message.epoch if isinstance(message, m.Open) else 0
    detail = "too many sessions wait for a slot"
    return ToFrontend(frontend, m.Refused(message.session, epoch, AtCapacity.slug, detail, AT_CAPACITY_RETRY_S))


Core = Routing | Candidate
"""The core that the shell runs: `Routing` for a single broker, `Candidate` for one that shares its pool."""
