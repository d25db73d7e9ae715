"""The brokers of a frontend: one as a rule, several where they share a pool. Pure: which of them has the sessions.

The frontend registers with all. Its sessions are with the broker that welcomed it last in the latest term, its
*leader*; what the others say of sessions is not heard. When the leader is gone, steps down, or another one leads in a
later term, every session moves, and is opened again where the next Welcome comes from.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from asr_frontends.session import Command, ToBroker
from asr_frontends.sessions import Sessions
from asr_proto import messages as m


@dataclass(frozen=True, slots=True)
class Post:
    """To one of the brokers."""

    link: int
    message: m.FromFrontend
    setup: m.Setup | None = None


@dataclass(slots=True)
class Link:
    """How we stand with one broker."""

    up: bool = True
    """False while the connection is known to be broken."""
    known: bool = False
    """Whether the broker has taken our registration."""
    welcome: m.Welcome | None = None
    """What it said when it began to lead, until it says otherwise."""


class Brokers:
    """Around the one `Sessions` of a frontend, `links` brokers, by their number."""

    def __init__(self, sessions: Sessions, links: int) -> None:
        self.sessions = sessions
        self.leader: int | None = None
        self._term = 0
        """In which the leader leads."""
        self._links = [Link() for _ in range(links)]

    def handle(self, link: int, message: m.FromBroker, frames: Iterable[m.Frame], now: float) -> list[Command | Post]:
        """Take a message of one broker with its decoded frames."""
        if not self._links[link].up:
            return []  # it was under way when the connection broke
        match message:
            case m.Welcome():
                return self._welcomed(link, message, now)
            case m.Standby():
                self._links[link] = Link(known=True)
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
        if len(self._links) == 1:
            return []  # it says itself that it does not know us, should it not
        self._links[link] = Link(up=False)
        return self._dismissed(link, now)

    def restored(self, link: int) -> list[Post]:
        """The connection to a broker is there, again: it may be another one."""
        state = self._links[link]
        if state.up:
            return []
        state.up = True
        return [Post(link, self._registration())]

    def route(self, command: ToBroker) -> list[Post]:
        """Who hears what the sessions have to say. Their heartbeat is for all: those who do not know us are told."""
        if isinstance(command.message, m.RegisterFrontend | m.FrontendHeartbeat):
            return [post for link in range(len(self._links)) for post in self._beat(link, command.message)]
        # Without a leader nothing is lost: whoever welcomes us is asked for every session.
        return [] if self.leader is None else [Post(self.leader, command.message, command.setup)]

    def check(self) -> None:
        """The invariants: who has no leader has no lease."""
        self.sessions.check()
        assert self.leader is not None or not self.sessions.registered

    # ---- Private ----

    def _welcomed(self, link: int, welcome: m.Welcome, now: float) -> list[Command | Post]:
        self._links[link] = Link(known=True, welcome=welcome)
        moved: list[Command | Post] = []
        if self.leader not in (None, link) and self.sessions.registered:
            if welcome.term <= self._term:
                return []  # it may not have heard yet that it leads no more
            moved = self._lost(now)
        return [*moved, *self._follow(link, welcome, now)]

    def _follow(self, link: int, welcome: m.Welcome, now: float) -> list[Command | Post]:
        self.leader, self._term = link, welcome.term
        return list(self.sessions.handle(welcome, (), now))

    def _dismissed(self, link: int, now: float) -> list[Command | Post]:
        """This broker does not lead, or is gone. Should another have said that it leads, it does so now."""
        if link != self.leader:
            return []
        lost = self._lost(now)
        for other, state in enumerate(self._links):
            if state.welcome:
                return [*lost, *self._follow(other, state.welcome, now)]
        return lost

    def _lost(self, now: float) -> list[Command | Post]:
        """No lease is left; the sessions wait for the next leader."""
        self.leader = None
        return list(self.sessions.handle(m.Unregistered(), (), now))

    def _unregistered(self, link: int, now: float) -> list[Command | Post]:
        was_known = self._links[link].known
        self._links[link] = Link()
        if link == self.leader:
            return self._dismissed(link, now)  # the sessions register again by themselves, at once
        return [Post(link, self._registration())] if was_known else []

    def _beat(self, link: int, message: m.FromFrontend) -> list[Post]:
        state = self._links[link]
        if link == self.leader:
            return [Post(link, message)]
        if state.known:
            return [Post(link, m.FrontendHeartbeat(()))]  # should it be a new one, it does not know who speaks
        return [Post(link, self._registration())] if state.up else []

    def _registration(self) -> m.RegisterFrontend:
        return m.RegisterFrontend(m.PROTOCOL_VERSION, self.sessions.name)
