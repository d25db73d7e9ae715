"""The brokers of a frontend: usually one, several where they share a pool. Pure: which of them has the sessions.

The frontend registers with all of them. Its sessions are with its *leader*: the broker that welcomed it last in the
latest term. Messages of the others about sessions are dropped. When the leader is gone, steps down, or another one
leads in a later term, every session moves; it is opened again at the broker that sends the next Welcome.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from asr_frontends.outbox import Command, ToBroker
from asr_frontends.sessions import Sessions
from asr_proto import messages as m


@dataclass(frozen=True, slots=True)
class Post:
    """A message for one of the brokers."""

    link: int
    message: m.FromFrontend
    setup: m.Setup | None = None


@dataclass(slots=True)
class BrokerStanding:
    """What this frontend is to one broker, and the broker to it."""

    up: bool = True
    """False while the connection is known to be broken."""
    known: bool = False
    """Whether the broker has taken our registration."""
    welcome: m.Welcome | None = None
    """The broker's message when it began to lead; None when it leads no more."""


class FrontendBrokers:
    """Around the one `Sessions` of a frontend, `links` brokers, by their number."""

    def __init__(self, sessions: Sessions, links: int) -> None:
        self.sessions = sessions
        self.leader: int | None = None
        self._term = 0
        """In which the leader leads."""
        self._standings = [BrokerStanding() for _ in range(links)]

    def handle(self, link: int, message: m.FromBroker, frames: Iterable[m.Frame], now: float) -> list[Command | Post]:
        """Take a message of one broker with its decoded frames."""
        if not self._standings[link].up:
            return []  # it was under way when the connection broke
        match message:
            case m.Welcome():
                return self._welcomed(link, message, now)
            case m.Standby():
                self._standings[link] = BrokerStanding(known=True)
                return self._dismissed(link, now)
            case m.Unregistered():
                return self._unregistered(link, now)
            case m.Rejected() if self.leader is None:
                pass
            case _ if link != self.leader:
                return []
        return list(self.sessions.handle(message, frames, now))

    def broken(self, link: int, now: float) -> list[Command | Post]:
        """The connection to a broker has ended."""
        if len(self._standings) == 1:
            return []  # a broker that has removed this frontend sends Unregistered
        self._standings[link] = BrokerStanding(up=False)
        return self._dismissed(link, now)

    def restored(self, link: int) -> list[Post]:
        """The connection to a broker is there, again: it may be another one."""
        state = self._standings[link]
        if state.up:
            return []
        state.up = True
        return [Post(link, self._registration())]

    def route(self, command: ToBroker) -> list[Post]:
        """Which brokers receive it: all a heartbeat, or a registration where it is missing; the leader the rest.

        Without a leader a message is dropped, and nothing is lost: the next leader is asked for every session.
        """
        if isinstance(command.message, m.RegisterFrontend | m.FrontendHeartbeat):
            return [post for link in range(len(self._standings)) for post in self._beat(link, command.message)]
        return [] if self.leader is None else [Post(self.leader, command.message, command.setup)]

    def check(self) -> None:
        """The invariants: who has no leader has no lease."""
        self.sessions.check()
        assert self.leader is not None or not self.sessions.registered

    # ---- Private ----

    def _welcomed(self, link: int, welcome: m.Welcome, now: float) -> list[Command | Post]:
        self._standings[link] = BrokerStanding(known=True, welcome=welcome)
        moved: list[Command | Post] = []
        if self.leader not in (None, link) and self.sessions.registered:
            if welcome.term <= self._term:
                return []  # a former leader that has not noticed yet that another leads
            moved = self._lost(now)
        return [*moved, *self._follow(link, welcome, now)]

    def _follow(self, link: int, welcome: m.Welcome, now: float) -> list[Command | Post]:
        self.leader, self._term = link, welcome.term
        return list(self.sessions.handle(welcome, (), now))

    def _dismissed(self, link: int, now: float) -> list[Command | Post]:
        """This broker does not lead, or is gone. Another broker whose Welcome still counts leads now."""
        if link != self.leader:
            return []
        lost = self._lost(now)
        for other, state in enumerate(self._standings):
            if state.welcome:
                return [*lost, *self._follow(other, state.welcome, now)]
        return lost

    def _lost(self, now: float) -> list[Command | Post]:
        """No lease is left; the sessions wait for the next leader."""
        self.leader = None
        return list(self.sessions.handle(m.Unregistered(), (), now))

    def _unregistered(self, link: int, now: float) -> list[Command | Post]:
        was_known = self._standings[link].known
        self._standings[link] = BrokerStanding()
        if link == self.leader:
            return self._dismissed(link, now)  # `Sessions` registers again, at once
        return [Post(link, self._registration())] if was_known else []

    def _beat(self, link: int, message: m.FromFrontend) -> list[Post]:
        state = self._standings[link]
        if link == self.leader:
            return [Post(link, message)]
        if state.known:
            return [Post(link, m.FrontendHeartbeat(()))]  # a restarted broker answers Unregistered
        return [Post(link, self._registration())] if state.up else []

    def _registration(self) -> m.RegisterFrontend:
        return m.RegisterFrontend(m.PROTOCOL_VERSION, self.sessions.name)
