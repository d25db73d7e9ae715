"""The brokers of a worker: usually one, several where they share a pool. Decides which of them the worker serves. Pure.

The worker registers with every broker and votes for one. It accepts sessions only from its *leader*: the broker that
has its vote and has welcomed it. A broker that has lost its lead, and has not noticed this yet, can grant no slot of
this worker. When the worker votes for another broker, the sessions of the old leader end, and their frontends move
them.

As in Raft (Ongaro and Ousterhout 2014, section 5.2), a worker has one vote per term. Unlike in Raft, a vote expires.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from asr_proto import messages as m
from asr_workers.outbox import Command, Quit, Send, WorkerPost
from asr_workers.sessions import Sessions

VOTE_S = 0.6
"""How long a vote is valid after the claim arrived. The broker counts from when it sent the claim: it stops earlier."""
NO_BROKER = 0


@dataclass(slots=True)
class BrokerStanding:
    """The worker's connection and registration with one broker."""

    up: bool = True
    """False after the connection has ended, until it is up again."""
    known: bool = False
    """Whether the broker has accepted the worker's registration."""


class WorkerBrokers:
    """The whole core of a worker: its one `Sessions`, and `links` brokers, identified by their number from 0."""

    def __init__(self, sessions: Sessions, links: int) -> None:
        self.sessions = sessions
        self.leader: int | None = None
        self._outbox = sessions.outbox
        self._standings = [BrokerStanding() for _ in range(links)]
        self._term = 0
        self._boot = NO_BROKER
        """The broker that got the last vote. It may get the vote again in the same term: no other broker has got it."""
        self._voted_on: int | None = None
        self._number = 0
        self._until = -math.inf

    # ---- Events ----

    def handle(
        self, link: int, message: m.FromBroker, setup: m.Setup | None, frames: Iterable[m.Frame], now: float
    ) -> None:
        """Handle a message of one broker with its decoded body."""
        if not self._standings[link].up:
            return  # it was sent before the connection broke
        match message:
            case m.Claim():
                self._claimed(link, message, now)
            case m.Standby():
                self._standings[link].known = True
                self._dismiss(link, now)
                self._vote_to(link, now)
            case m.Unregistered():
                self._unregistered(link, now)
            case m.Welcome():
                self._welcomed(link, message, now)
            case _ if link == self.leader or isinstance(message, m.Rejected):
                self.sessions.handle(message, setup, frames, now)

    def broken(self, link: int, now: float) -> None:
        """The connection to a broker has ended. A vote for that broker ends with it, so another broker may lead now."""
        if len(self._standings) == 1 and self._boot == NO_BROKER:
            return  # a broker that has dropped this worker answers Unregistered
        self._standings[link].up = self._standings[link].known = False
        self._dismiss(link, now)
        if link == self._voted_on:
            self._until, self._voted_on = -math.inf, None
            self._vote_to_all(now)

    def restored(self, link: int) -> None:
        """The connection to a broker is up again. The broker may be a new process, so the worker registers again."""
        standing = self._standings[link]
        if not standing.up:
            standing.up = True
            self._register(link)

    # ---- Commands ----

    def outgoing(self, now: float) -> list[Command]:
        """The commands since the last call, in the order in which the shell must perform them."""
        commands: list[Command] = [] if self.leader is None else self._outbox.bundles(self.leader)
        for command in self._outbox.take():
            if isinstance(command, Send):
                commands += self._routed(command.message, now)
            else:
                commands.append(command)
        return commands

    def _routed(self, message: m.FromWorker, now: float) -> list[WorkerPost]:
        """A message of the sessions goes to the leader. A registration or heartbeat goes to each broker, in the form
        that the broker needs."""
        if isinstance(message, m.RegisterWorker | m.WorkerHeartbeat):
            return [post for link in range(len(self._standings)) for post in self._beat(link, message, now)]
        return [] if self.leader is None else [WorkerPost(self.leader, message)]

    def _beat(self, link: int, message: m.FromWorker, now: float) -> list[WorkerPost]:
        standing = self._standings[link]
        if link == self.leader:
            return [WorkerPost(link, message)]
        if standing.known:
            return [WorkerPost(link, self._vote(now))]  # after a restart the broker has no vote of this worker
        return [WorkerPost(link, self._registration())] if standing.up else []

    def check(self) -> None:
        """The invariants: only a leader has sessions, and where brokers claim votes, the leader has the vote."""
        self.sessions.check()
        assert self.leader is None or self._voted_on in (None, self.leader)
        assert self.leader is not None or not self.sessions.registered

    # ---- Votes ----

    def _claimed(self, link: int, claim: m.Claim, now: float) -> None:
        again = claim.boot == self._boot and claim.term >= self._term
        free = now >= self._until and claim.term > self._term
        if not again and not free:
            self._vote_to(link, now)
            return
        if not again and self.leader is not None:
            self._dismiss(self.leader, now)
        self._term, self._boot, self._number = claim.term, claim.boot, claim.number
        self._voted_on, self._until = link, now + VOTE_S
        self._vote_to_all(now)

    def _vote(self, now: float) -> m.Vote:
        return m.Vote(self._term, self._boot if now < self._until else NO_BROKER, self._number)

    def _vote_to(self, link: int, now: float) -> None:
        self._outbox.add(WorkerPost(link, self._vote(now)))

    def _vote_to_all(self, now: float) -> None:
        for link, standing in enumerate(self._standings):
            if standing.known or link == self._voted_on:
                self._vote_to(link, now)

    # ---- Registration ----

    def _welcomed(self, link: int, welcome: m.Welcome, now: float) -> None:
        self._standings[link].known = True
        if len(self._standings) > 1 and not welcome.term:
            self._outbox.add(Quit("it does not share the pool with another broker (--shared-lead)"))
        elif self._may_lead(welcome.boot):
            self.leader = link
            self.sessions.handle(welcome, None, (), now)

    def _may_lead(self, boot: int) -> bool:
        """Whether this broker may lead: it has the vote, or it is the only broker and no vote was ever claimed."""
        return boot == self._boot or (self._boot == NO_BROKER and len(self._standings) == 1)

    def _dismiss(self, link: int, now: float) -> None:
        """If this broker was the leader, it no longer is, and all sessions end."""
        if link == self.leader:
            self.leader = None
            self.sessions.disconnected(now)

    def _unregistered(self, link: int, now: float) -> None:
        standing = self._standings[link]
        was_known, standing.known = standing.known, False
        if link == self.leader:
            self._dismiss(link, now)  # `Sessions` repeats the registration
        elif was_known:
            self._register(link)

    def _register(self, link: int) -> None:
        self._outbox.add(WorkerPost(link, self._registration()))

    def _registration(self) -> m.RegisterWorker:
        return self.sessions.registration()
