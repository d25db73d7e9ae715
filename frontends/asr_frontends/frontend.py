"""The frontend's shell between the clients' connections and the links to the brokers. It decides nothing.

It passes events and messages to the pure cores (`Sessions`, `FrontendBrokers`) and performs the commands that they
return. One timer serves all sessions.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import structlog

from asr_frontends import events as e
from asr_frontends.brokers import FrontendBrokers, Post
from asr_frontends.handed import HandedSession
from asr_frontends.journal import Budget
from asr_frontends.link import Link
from asr_frontends.outbox import Command, Credit, Deliver, KeepPoison, Pause, SendBundle, ToBroker
from asr_frontends.poison import PoisonFolder
from asr_frontends.session import NEVER, POISONOUS, Limits
from asr_frontends.sessions import Sessions
from asr_process import curve
from asr_process.logs import Seldom
from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import AsrError, DecodeError, ServiceError

log = structlog.get_logger()

RESUMED_ELSEWHERE = ("session-lost", "its client has resumed it over another connection")
ENDING_S_MAX = 5.0
"""Largest part of the time to drain that is reserved for the last texts of sessions that do not end by themselves."""
LAST_AUDIO_S = 0.5
"""How long clients are still read when the whole pool stops, in seconds: audio was on its way when it was stopped."""
BUNDLE_BYTES_MAX = 4_194_304
"""Largest body of one message to the broker."""
BODIES_BYTES_MAX = 1_073_741_824
"""Largest size of the bodies of all requests together."""


class Listener(Protocol):
    """The frontend's view of one client's connection."""

    def deliver(self, event: e.ServiceEvent) -> None:
        """Send an event to the client. Error and Bye are the last ones."""

    def pause(self) -> None:
        """Read nothing more from the client until `credit`."""

    def credit(self) -> None:
        """Read from the client again."""

    def leave(self) -> None:
        """Pass on the audio that is held for the next one: nothing more is read from the client."""


class BrokerLink(Protocol):
    """The connection to one broker: `Link`, or a test's."""

    def send(self, parts: list[bytes]) -> bool:
        """Queue a message; False when the queue is full."""

    def close(self) -> None:
        """Stop reading. Queued messages may still be sent for a moment."""


MakeLink = Callable[[curve.BrokerAt, Callable[[list[bytes]], None], Callable[[bool], None]], BrokerLink]


class Frontend:
    """One frontend process. It must be made, used and closed inside one running asyncio loop."""

    def __init__(
        self,
        brokers: Sequence[curve.BrokerAt],
        name: str,
        limits: Limits,
        journal_bytes_max: int,
        make_link: MakeLink = Link,
        bodies_bytes_max: int = BODIES_BYTES_MAX,
        keep_poison: PoisonFolder | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self.messages_per_s = limits.messages_per_s
        """The limit on messages of every client; 0 for none."""
        self.sessions = Sessions(name, limits, Budget(journal_bytes_max), self._loop.time())
        self.bodies = Budget(bodies_bytes_max)
        """The bytes of the bodies of all requests, in memory and on disk."""
        self._listeners: dict[str, Listener] = {}
        self._brokers = FrontendBrokers(self.sessions, len(brokers))
        self._links = [
            make_link(broker, partial(self._on_message, number), partial(self._on_change, number))
            for number, broker in enumerate(brokers)
        ]
        self._keep_poison = keep_poison
        self._hello = wire.encode_hello(name)
        self._seldom = Seldom()
        self._closes: list[ToBroker] = []
        self._closed = False
        self.draining = False
        """Whether this frontend stops. It is not ready then."""
        self._refuses = False
        self._timer: asyncio.Handle | None = None
        self._timer_at = NEVER
        self._idle = asyncio.Event()
        self._idle.set()
        self._arm()

    # ---- Clients ----

    def open(self, start: e.Start, listener: Listener) -> str:
        """Open a new session for a connection, or resume one; returns the session's id. Raises ServiceError."""
        if self._refuses:
            raise ServiceError("this server is going away", slug=e.GOING_AWAY)
        id = start.resume.session if start.resume else secrets.token_hex(16)
        self._detach(id)
        commands = self.sessions.start(id, start, self._loop.time())
        self._listeners[id] = listener
        self._idle.clear()
        self._perform(commands)
        return id

    def client(self, id: str, event: e.ClientEvent) -> None:
        """Process an event of the client of session `id`."""
        if commands := self.sessions.client(id, event, self._loop.time()):
            self._perform(commands)
        else:
            self._arm()  # a frame may wait for its bundle
        match event:
            case e.Abort() | e.Detach():
                self._forget(id)

    def _detach(self, id: str) -> None:
        """End the old connection of a client that resumes its session, if this frontend still has that connection."""
        if (listener := self._listeners.get(id)) is not None:
            self.client(id, e.Detach())
            listener.deliver(e.Error(*RESUMED_ELSEWHERE))

    def fail(self, id: str, error: AsrError) -> None:
        """End session `id` with an error."""
        self._perform(self.sessions.fail(id, error, self._loop.time()))

    def ready(self) -> bool:
        """Whether a new session could make progress now."""
        return not self.draining and self.sessions.ready(self._loop.time())

    def connected(self) -> bool:
        """Whether a broker answers."""
        return self.sessions.connected(self._loop.time())

    # ---- Handover ----

    def hand_over(self, id: str) -> HandedSession | None:
        """End session `id` here, for another frontend to continue it; None if that is impossible now."""
        handed = self.sessions.hand_over(id, self._loop.time())
        if handed is not None:
            self._forget(id)
        return handed

    def adopt(self, handed: HandedSession, listener: Listener) -> None:
        """Continue a session that was handed over, on the connection of `listener`."""
        if handed.id in self.sessions:
            listener.deliver(e.Error(*RESUMED_ELSEWHERE))  # the client has come back to this frontend meanwhile
            return
        self._listeners[handed.id] = listener
        self._idle.clear()
        self._perform(self.sessions.adopt(handed, self._loop.time()))

    # ---- The broker ----

    def _on_change(self, link: int, is_up: bool) -> None:
        self._perform(self._brokers.restored(link) if is_up else self._brokers.broken(link, self._loop.time()))

    def _on_message(self, link: int, parts: list[bytes]) -> None:
        frames: list[m.Frame] = []
        try:
            message = wire.decode(parts[0])
            if isinstance(message, m.Bundle):
                frames = wire.decode_frames(parts[1]) if len(parts) > 1 else []
            elif not isinstance(message, m.Rejected):
                _log(message)
            elif (more := self._seldom.line((link, message), self._loop.time())) is not None:
                log.error("the broker refuses this frontend", reason=message.detail, **more)
        except DecodeError as error:
            if (more := self._seldom.line((link, error.detail), self._loop.time())) is not None:
                log.warning("undecodable message from the broker", reason=error.detail, **more)
            return
        before = self.sessions.counts.foreign_frames
        self._perform(self._brokers.handle(link, message, frames, self._loop.time()))  # type: ignore[arg-type]
        if self.sessions.counts.foreign_frames > before:
            self._log_foreign_frames()

    def _log_foreign_frames(self) -> None:
        if (more := self._seldom.line("foreign", self._loop.time())) is not None:
            log.error("dropped frames of a worker for a session that it does not serve", **more)

    def _perform(self, commands: Sequence[Command | Post]) -> None:
        for command in commands:
            match command:
                case Deliver():
                    self._deliver(command)
                case ToBroker(message=m.Close()):
                    self._close_soon(command)
                case SendBundle():
                    self._send_frames(wire.encode(command.bundle), command.frames)
                case ToBroker():
                    self._route(command)
                case Post():
                    self._post(command)
                case Pause() | Credit():
                    self._steer(command)
                case KeepPoison():
                    self._poisonous(command)
        self._arm()

    def _poisonous(self, poison: KeepPoison) -> None:
        """Log a session whose audio has killed workers, and write its audio, in a thread, if the operator wants it."""
        facts = {"engine": poison.engine, "model": poison.model, "workers_died": poison.deaths}
        log.error("poisonous audio: its session ends", session=poison.session, **facts)
        if self._keep_poison:
            self._loop.run_in_executor(None, self._keep_poison.keep, poison, POISONOUS)

    def _steer(self, command: Pause | Credit) -> None:
        if listener := self._listeners.get(command.session):
            if isinstance(command, Pause):
                listener.pause()
            else:
                listener.credit()

    def _close_soon(self, command: ToBroker) -> None:
        """Send a Close in the next turn of the loop: when many sessions end together, their last texts go first."""
        if not self._closes:
            self._loop.call_soon(self._send_closes)
        self._closes.append(command)

    def _send_closes(self) -> None:
        closes, self._closes = self._closes, []
        for command in closes:
            self._route(command)

    def _route(self, command: ToBroker) -> None:
        for post in self._brokers.route(command):
            self._post(post)

    def _post(self, post: Post) -> None:
        parts = [wire.encode(post.message)]
        if post.setup:
            parts.append(wire.encode_setup(post.setup))
        elif isinstance(post.message, m.RegisterFrontend):
            parts.append(self._hello)
        self._send(post.link, parts)

    def _deliver(self, command: Deliver) -> None:
        listener = self._listeners.get(command.session)
        match command.event:
            case e.Error() | e.Bye():
                self._forget(command.session)
        if listener:
            listener.deliver(command.event)

    def _forget(self, id: str) -> None:
        self._listeners.pop(id, None)
        if not self._listeners:
            self._idle.set()

    def _send_frames(self, bundle: bytes, frames: Sequence[m.FrameIn]) -> None:
        """Send frames to the leader, if there is one: in one message, or in several if the wire's limits demand it."""
        if self._brokers.leader is None:
            return
        body = wire.encode_frames(frames) if len(frames) <= wire.FRAMES_MAX else b""
        if body and (len(body) <= BUNDLE_BYTES_MAX or len(frames) == 1):
            self._send(self._brokers.leader, [bundle, body])
            return
        half = len(frames) // 2
        self._send_frames(bundle, frames[:half])
        self._send_frames(bundle, frames[half:])

    def _send(self, link: int, parts: list[bytes]) -> None:
        if self._closed:
            return  # the broker ends all leases with the connection
        if not self._links[link].send(parts) and link == self._brokers.leader:
            # The queue is full: the broker has read nothing for so long that it has dropped these sessions.
            self._loop.call_soon(self._on_message, link, [wire.encode(m.Unregistered())])

    # ---- Time ----

    def _arm(self) -> None:
        deadline = self.sessions.next_deadline()
        if self._timer_at <= deadline:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._timer_at = self._loop.call_at(deadline, self._tick), deadline

    def _tick(self) -> None:
        # uvloop's clock counts whole milliseconds, so it may show a time just before the deadline.
        now, self._timer, self._timer_at = max(self._loop.time(), self._timer_at), None, NEVER
        self._perform(self.sessions.tick(now))

    # ---- The end ----

    async def drain(self, timeout_s: float) -> None:
        """Refuse new sessions and serve the open ones until they end, at most `timeout_s`.

        Before the end of this time, clients that are still sending are not read any more: all that they have sent is
        transcribed and delivered. Sessions that are still open at the end are given up.
        """
        self.draining = self._refuses = True
        for listener in list(self._listeners.values()):
            listener.deliver(e.GoAway(round(timeout_s, 1)))
        ending_s = min(ENDING_S_MAX, timeout_s / 2)
        if not await self._is_idle_within(timeout_s - ending_s):
            self._leave_clients()
            self._perform(self.sessions.leave(self._loop.time()))
        if not await self._is_idle_within(ending_s):
            self._perform(self.sessions.abandon(self._loop.time()))

    async def stop(self, timeout_s: float) -> None:
        """The whole pool stops. Refuse new sessions, and end the audio of all others, because no other process can
        serve them. Deliver their last texts, and give up those that are still open after `timeout_s`."""
        self.draining = self._refuses = True
        for listener in list(self._listeners.values()):
            listener.deliver(e.GoAway(round(timeout_s, 1)))
        last_audio_s = min(LAST_AUDIO_S, timeout_s / 2)
        if not await self._is_idle_within(last_audio_s):
            self._leave_clients()
            self._perform(self.sessions.finish(self._loop.time()))
        if not await self._is_idle_within(timeout_s - last_audio_s):
            self._perform(self.sessions.abandon(self._loop.time()))

    def _leave_clients(self) -> None:
        for listener in list(self._listeners.values()):
            listener.leave()

    async def _is_idle_within(self, timeout_s: float) -> bool:
        try:
            await asyncio.wait_for(self._idle.wait(), timeout_s)
        except TimeoutError:
            return False
        return True

    def close(self) -> None:
        """Close the links. Sessions that are still open are lost."""
        self._perform(self.sessions.flush())
        self._send_closes()
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for link in self._links:
            link.close()


def _log(message: m.Message) -> None:
    match message:
        case m.Welcome():
            log.info("registered", broker=message.boot)
        case m.Unregistered():
            # The broker sends one for each message that it receives before the registration.
            log.debug("the broker has no registration of this frontend: registering, moving every session")
        case m.Lost():
            log.warning("lease lost, moving its session", lease=message.lease, reason=message.slug)
