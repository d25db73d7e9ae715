"""The brokers of a frontend: usually one, several where they share a pool. Pure: it decides which broker leads.

The frontend registers with all brokers. Its *leader* is the broker that sent the latest Welcome of the latest term; all
leases come from it. Messages of the other brokers about sessions are dropped. When the leader is gone, steps down, or
another broker leads in a later term, every session moves: it is opened again at the broker that sends the next Welcome.
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
    """The state between this frontend and one broker."""

    up: bool = True
    """False from the end of a connection until the next one is up."""
    known: bool = False
    """Whether the broker has accepted this frontend's registration."""
    welcome: m.Welcome | None = None
    """The message with which the broker began to lead; None while it does not lead."""


class FrontendBrokers:
    """Connects the `Sessions` of a frontend with its brokers, which are numbered from 0 to `links` - 1."""

    def __init__(self, sessions: Sessions, links: int) -> None:
        self.sessions = sessions
        self.leader: int | None = None
        self._term = 0
        """The leader's term."""
        self._standings = [BrokerStanding() for _ in range(links)]

    def handle(self, link: int, message: m.FromBroker, frames: Iterable[m.Frame], now: float) -> list[Command | Post]:
        """Process a message of one broker with its decoded frames."""
        if not self._standings[link].up:
            return []  # sent before the connection broke
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
        """The connection to a broker has ended, and with it the leases from this broker."""
        self._standings[link] = BrokerStanding(up=False)
        return self._dismissed(link, now)

    def restored(self, link: int) -> list[Post]:
        """The connection to a broker is up again: register, since it may be another broker."""
        state = self._standings[link]
        if state.up:
            return []
        state.up = True
        return [Post(link, self._registration())]

    def route(self, command: ToBroker) -> list[Post]:
        """The messages to send, each with its broker.

        A heartbeat goes to every broker, as a registration where the broker has none yet. All else goes to the leader.
        Without a leader it is dropped; nothing is lost, because every session is opened again at the next leader.
        """
        if isinstance(command.message, m.RegisterFrontend | m.FrontendHeartbeat):
            return [post for link in range(len(self._standings)) for post in self._beat(link, command.message)]
        return [] if self.leader is None else [Post(self.leader, command.message, command.setup)]

    def check(self) -> None:
        """Assert the invariants: without a leader there is no registration, and so no lease."""
        self.sessions.check()
        assert self.leader is not None or not self.sessions.registered

    # ---- Private ----

    def _welcomed(self, link: int, welcome: m.Welcome, now: float) -> list[Command | Post]:
        self._standings[link] = BrokerStanding(known=True, welcome=welcome)
        moved: list[Command | Post] = []
        if self.leader not in (None, link) and self.sessions.registered:
            if welcome.term <= self._term:
                return []  # a former leader that has not noticed yet that another broker leads
            moved = self._lost(now)
        return [*moved, *self._follow(link, welcome, now)]

    def _follow(self, link: int, welcome: m.Welcome, now: float) -> list[Command | Post]:
        self.leader, self._term = link, welcome.term
        return list(self.sessions.handle(welcome, (), now))

    def _dismissed(self, link: int, now: float) -> list[Command | Post]:
        """This broker does not lead, or is gone. If another broker's Welcome still holds, that broker leads now."""
        if link != self.leader:
            return []
        lost = self._lost(now)
        for other, state in enumerate(self._standings):
            if state.welcome:
                return [*lost, *self._follow(other, state.welcome, now)]
        return lost

    def _lost(self, now: float) -> list[Command | Post]:
        """Drop all leases; the sessions wait for the next leader."""
        self.leader = None
        return list(self.sessions.handle(m.Unregistered(), (), now))

    def _unregistered(self, link: int, now: float) -> list[Command | Post]:
        was_known = self._standings[link].known
        self._standings[link] = BrokerStanding()
        if link == self.leader:
            return self._dismissed(link, now)  # `Sessions` registers again immediately
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
