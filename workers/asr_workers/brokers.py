"""The brokers of a worker: one as a rule, several where they share a pool. Pure: which of them it serves.

The worker registers with all and votes for one. It takes sessions from the broker that it voted for and that has
welcomed it, its *leader*, and from no other: a broker that has lost its lead, and does not know it yet, grants nothing
here. When its vote goes to another, the sessions of the old leader end; their frontends move them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from asr_proto import messages as m
from asr_workers.sessions import Command, Quit, Send, Sessions

VOTE_S = 0.6
"""How long a vote lives. No longer than a broker counts on it from its claim, which comes before."""
NOBODY = 0


@dataclass(frozen=True, slots=True)
class Post:
    """To one of the brokers."""

    link: int
    message: m.FromWorker


@dataclass(slots=True)
class Link:
    """How we stand with one broker."""

    up: bool = True
    """False while the connection is known to be broken."""
    known: bool = False
    """Whether the broker has taken our registration."""


class Brokers:
    """Around the one `Sessions` of a worker, `links` brokers, by their number."""

    def __init__(self, sessions: Sessions, links: int) -> None:
        self.sessions = sessions
        self.leader: int | None = None
        self._links = [Link() for _ in range(links)]
        self._term = 0
        self._boot = NOBODY
        """For whom the last vote was. It may have it again in the same term, as nobody else has had it since."""
        self._voted_on: int | None = None
        self._number = 0
        self._until = -math.inf

    # ---- What happens ----

    def handle(
        self, link: int, message: m.FromBroker, setup: m.Setup | None, frames: Iterable[m.Frame], now: float
    ) -> list[Command | Post]:
        """Take a message of one broker with its decoded body."""
        if not self._links[link].up:
            return []  # it was under way when the connection broke
        match message:
            case m.Claim():
                return self._claimed(link, message, now)
            case m.Standby():
                self._links[link].known = True
                return [*self._dismissed(link, now), Post(link, self._vote(now))]
            case m.Unregistered():
                return self._unregistered(link, now)
            case m.Welcome():
                self._links[link].known = True
                if len(self._links) > 1 and not message.term:
                    return [Quit("it does not share the pool with another broker (--shared-lead)")]
                if not self._serves(message.boot):
                    return []
                self.leader = link
            case m.Rejected():
                pass
            case _ if link != self.leader:
                return []
        return self._routed(self.sessions.handle(message, setup, frames, now), now)

    def tick(self, now: float) -> list[Command | Post]:
        """What time alone makes due."""
        return self._routed(self.sessions.tick(now), now)

    def broken(self, link: int, now: float) -> list[Command | Post]:
        """The connection to a broker has ended. With it ends our vote for that broker: another may lead at once."""
        if len(self._links) == 1 and self._boot == NOBODY:
            return []  # it says itself that it does not know us, should it not
        self._links[link].up = self._links[link].known = False
        commands = self._dismissed(link, now)
        if link == self._voted_on:
            self._until, self._voted_on = -math.inf, None
            commands += self._tell(now)
        return commands

    def restored(self, link: int) -> list[Post]:
        """The connection to a broker is there, again: it may be another one."""
        state = self._links[link]
        if state.up:
            return []
        state.up = True
        return [Post(link, self._registration())]

    def route(self, message: m.FromWorker, now: float) -> list[Post]:
        """Who hears what the sessions have to say. Their heartbeat is for all: those who do not know us are told."""
        if isinstance(message, m.RegisterWorker | m.WorkerHeartbeat):
            return [post for link in range(len(self._links)) for post in self._beat(link, message, now)]
        return [] if self.leader is None else [Post(self.leader, message)]

    def check(self) -> None:
        """The invariants: sessions have the leader for which we voted, if votes are asked for."""
        self.sessions.check()
        assert self.leader is None or self._voted_on in (None, self.leader)
        assert self.leader is not None or not self.sessions.registered

    # ---- Votes ----

    def _claimed(self, link: int, claim: m.Claim, now: float) -> list[Command | Post]:
        again = claim.boot == self._boot and claim.term >= self._term
        free = now >= self._until and claim.term > self._term
        if not again and not free:
            return [Post(link, self._vote(now))]
        commands = [] if again or self.leader is None else self._dismissed(self.leader, now)
        self._term, self._boot, self._number = claim.term, claim.boot, claim.number
        self._voted_on, self._until = link, now + VOTE_S
        return [*commands, *self._tell(now)]

    def _vote(self, now: float) -> m.Vote:
        return m.Vote(self._term, self._boot if now < self._until else NOBODY, self._number)

    def _tell(self, now: float) -> list[Post]:
        told = [link for link, state in enumerate(self._links) if state.known or link == self._voted_on]
        return [Post(link, self._vote(now)) for link in told]

    def _serves(self, boot: int) -> bool:
        """Whether this broker may lead us. One alone may without a vote: it does not ask for any."""
        return boot == self._boot or (self._boot == NOBODY and len(self._links) == 1)

    # ---- Standing ----

    def _dismissed(self, link: int, now: float) -> list[Command | Post]:
        """Nothing is held for this broker any more."""
        if link != self.leader:
            return []
        self.leader = None
        return self._routed(self.sessions.disconnected(now), now)

    def _unregistered(self, link: int, now: float) -> list[Command | Post]:
        state = self._links[link]
        was_known, state.known = state.known, False
        if link == self.leader:
            return self._dismissed(link, now)  # the sessions register again by themselves, at once
        return [Post(link, self._registration())] if was_known else []

    def _beat(self, link: int, message: m.FromWorker, now: float) -> list[Post]:
        state = self._links[link]
        if link == self.leader:
            return [Post(link, message)]
        if state.known:
            return [Post(link, self._vote(now))]  # should it be a new one, it does not know who speaks
        return [Post(link, self._registration())] if state.up else []

    def _registration(self) -> m.RegisterWorker:
        return m.RegisterWorker(m.PROTOCOL_VERSION, self.sessions.name, self.sessions.spec)

    def _routed(self, commands: list[Command], now: float) -> list[Command | Post]:
        routed: list[Command | Post] = []
        for command in commands:
            routed += self.route(command.message, now) if isinstance(command, Send) else [command]
        return routed
