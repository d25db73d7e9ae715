"""One client's conversation over any transport of messages: its codec and a bounded outbox. Frames need no task.

A client that reads slowly does not delay other clients: its partials and progress are coalesced, and its connection is
closed with a reason when more than `OUTBOX_BYTES_MAX` wait. A client that may not send is not read from.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from asr_frontends import events as e
from asr_frontends.codec import Close, Codec, Frame
from asr_frontends.frontend import Frontend
from asr_frontends.handed import HandedSession
from asr_frontends.rate import Rate
from asr_proto.audio import BYTES_PER_SAMPLE
from asr_proto.errors import AsrError, LimitExceeded, PeerError

OUTBOX_BYTES_MAX = 262_144
"""Largest size of the frames that wait for a client that reads slowly."""
START_S_MAX = 30.0
"""Longest wait for the message that starts the session."""
BARE_PER_S_MAX = 1000
"""Messages without audio that a client may send in a second (`rate`), whatever its frontend and dialect allow."""
CLOSE_S = 5.0
"""Longest wait for a client to read the last frames."""


class Receiver(Protocol):
    """The methods of a connection that its transport calls."""

    @property
    def is_ending(self) -> bool:
        """Whether the last message is in the outbox or already sent."""

    def on_frame(self, frame: str | bytes) -> None:
        """The client has sent a message."""

    def on_part(self, size: int) -> None:
        """The client has sent a part of a message, of so many bytes, or a control frame (0)."""

    def on_writable(self) -> None:
        """`can_write` is true again."""

    def on_gone(self, *, broken: bool) -> None:
        """The client is gone; `broken`: no close frame arrived. May be called repeatedly; the first call counts."""


class Transport(Protocol):
    """A channel of whole messages in order, in both directions: a WebSocket or a data channel."""

    def start(self, receiver: Receiver) -> None:
        """Pass all messages to the receiver from now on, beginning with those that have already arrived."""

    def pause(self) -> None:
        """Pass on no more messages."""

    def resume(self) -> None:
        """Pass on messages again. Never called from within `on_frame`."""

    def can_write(self) -> bool:
        """Whether the client reads fast enough for a write now. After False, `on_writable` is called later."""

    def write(self, frame: str | bytes) -> None:
        """Send one message to the client. Without effect when the client is gone."""

    async def finish(self, close: Close) -> None:
        """Close the transport with this close, after all written messages were sent."""


@dataclass(slots=True)
class _Outgoing:
    """A frame that waits to be sent, with the type of its event."""

    frame: str | bytes
    kind: type


class Conversation:
    """Runs one conversation: `await run()` returns when it is over."""

    def __init__(self, codec: Codec, frontend: Frontend, transport: Transport) -> None:
        self._codec, self._frontend, self._transport = codec, frontend, transport
        self._session: str | None = None
        self._loop = asyncio.get_running_loop()
        self._bare = Rate(BARE_PER_S_MAX, self._loop.time())
        self._rate = self._limit(0)
        self._outbox: list[_Outgoing] = []
        self._outbox_bytes = 0
        self._broken = False
        self._is_paused = False
        self._is_handed = False
        """Whether the conversation is being handed over: another process may have it at any time."""
        self.is_adopted = False
        """Whether it began in another process, which admitted its client."""
        self._close: Close | None = None
        """Set when the last frame is in the outbox: nothing is sent or read after it."""
        self._ending: asyncio.Future[None] = self._loop.create_future()
        """Done when the last frame is in the outbox, or the client is gone."""
        self._over: asyncio.Future[None] = self._loop.create_future()
        """Done when the client was sent everything but the close, or is gone."""

    async def run(self) -> None:
        """Serve the conversation from its first event to its close."""
        start_by = self._loop.call_later(START_S_MAX, self._on_no_start)
        try:
            self._start()
            await self._ending
            async with asyncio.timeout(CLOSE_S):
                await self._over
                if self._close is not None:
                    await self._transport.finish(self._close)
        except TimeoutError:
            pass  # the client does not read: the transport's owner closes the connection
        finally:
            start_by.cancel()
            if self._session is not None:
                self._frontend.client(self._session, e.Detach() if self._broken else e.Abort())

    async def refuse(self, error: AsrError) -> None:
        """Send the client an error and close."""
        self.fail(error)
        await self.run()

    def fail(self, error: AsrError) -> None:
        """End the conversation with an error, before or after its session has begun."""
        if self._session is not None:
            self._frontend.fail(self._session, error)
        else:
            self.deliver(e.Error.of(error))

    @property
    def is_ending(self) -> bool:
        return self._close is not None

    # ---- Handover ----

    @property
    def is_portable(self) -> bool:
        """Whether another process can continue the conversation, now or when its present state has passed."""
        return self._close is None and not self._over.done() and self._codec.state() is not None

    def hand_over(self) -> tuple[bytes, HandedSession | None] | None:
        """Stop, and return the codec's state and the session. None if that is impossible now.

        The caller then calls `let_go` or `take_back`, and passes on no message before.
        """
        codec = self._codec.state()
        if codec is None or self._outbox or not self.is_portable:
            return None
        session = None
        if self._session is not None:
            session = self._frontend.hand_over(self._session)
            if session is None:
                return None
        self._session, self._is_handed = None, True
        return codec, session

    def let_go(self) -> None:
        """The conversation continues in another process: end it here without a word."""
        _finish(self._ending)
        _finish(self._over)

    def take_back(self, session: HandedSession | None) -> None:
        """No other process took the conversation: continue here."""
        self._is_handed = self._is_paused = False
        if self._over.done():
            return  # the client is gone; the broker ends the session's lease
        self._continue(session)
        if not self._is_paused:
            self._transport.resume()

    def adopt(self, session: HandedSession | None) -> None:
        """Continue a conversation of another process, from the codec's present state. Called before `run`."""
        self.is_adopted = True
        self._continue(session)

    def _continue(self, session: HandedSession | None) -> None:
        if session is not None:
            self._session = session.id
            self._limit_more(session.start)
            self._frontend.adopt(session, self)

    # ---- Listener: called by the frontend ----

    def deliver(self, event: e.ServiceEvent) -> None:
        if self._close is not None or self._is_handed:
            return
        kind = type(event)
        for frame in self._codec.send(event):
            self._put(frame, kind)
        if kind is e.Error or kind is e.Bye:
            self._session = None

    def pause(self) -> None:
        self._is_paused = True
        self._transport.pause()

    def credit(self) -> None:
        """Resume in the next turn of the loop: this may be called from within `on_frame`."""
        self._is_paused = False
        self._loop.call_soon(self._resume)

    def leave(self) -> None:
        self._pass_on(self._codec.tail())

    def _resume(self) -> None:
        if not self._is_paused and not self._is_handed and self._close is None:
            self._transport.resume()

    # ---- Receiver: called by the transport ----

    def on_frame(self, frame: str | bytes) -> None:
        if self._close is not None:
            return
        try:
            events = self._codec.receive(frame)
            samples = 0
            for event in events:
                if isinstance(event, e.Audio):
                    samples += len(event.pcm) // BYTES_PER_SAMPLE
            self._count(samples, is_bare=not samples and not (frame and isinstance(frame, bytes)))
            self._pass_on(events)
            for reply in self._codec.replies():
                self._put(reply, bytes)
        except PeerError as error:
            self.fail(error)

    def on_part(self, size: int) -> None:
        """A part of a message counts as a message. It earns as much as audio of its size, whatever it contains."""
        if self._close is not None:
            return
        try:
            self._count(size // BYTES_PER_SAMPLE, is_bare=not size)
        except LimitExceeded as error:
            self.fail(error)

    def on_writable(self) -> None:
        while self._outbox and self._transport.can_write():
            frame = self._outbox.pop(0).frame
            self._outbox_bytes -= len(frame)
            self._transport.write(frame)
        self._end_if_written()

    def on_gone(self, *, broken: bool) -> None:
        if not self._over.done():
            self._broken = broken
        self._close = None
        _finish(self._ending)
        _finish(self._over)

    # ---- Reading ----

    def _start(self) -> None:
        if self._close is None and not self.is_adopted:
            for event in self._codec.opening():
                assert isinstance(event, e.Start), "a connection causes nothing else"
                self._open(event)
        self._transport.start(self)
        if self._is_paused:
            self._transport.pause()

    def _pass_on(self, events: Sequence[e.ClientEvent]) -> None:
        for event in events:
            if isinstance(event, e.Start):
                self._open(event)
            elif self._session is not None:
                self._frontend.client(self._session, event)

    def _on_no_start(self) -> None:
        if self._session is None and not self._is_handed:
            self.fail(LimitExceeded(f"no session was started within {START_S_MAX:g} s", slug="idle-timeout"))

    def _limit(self, messages_per_s_max: int) -> Rate | None:
        """The limit on messages: the frontend's or the dialect's, whichever is lower; None if there is none."""
        limits = [limit for limit in (self._frontend.messages_per_s, messages_per_s_max) if limit]
        return Rate(min(limits), self._loop.time()) if limits else None

    def _count(self, samples: int, *, is_bare: bool) -> None:
        """Count a message with so many samples; `is_bare`: it carries no audio. Raises LimitExceeded."""
        now = self._loop.time()
        if is_bare and not self._bare.allows(0, now):
            raise _too_many(f"{BARE_PER_S_MAX} messages without audio")
        if self._rate is not None and not self._rate.allows(samples, now):
            raise _too_many(f"{self._rate.per_s} messages")

    def _limit_more(self, start: e.Start) -> None:
        if start.messages_per_s_max:
            self._rate = self._limit(start.messages_per_s_max)

    def _open(self, start: e.Start) -> None:
        self._limit_more(start)
        try:
            self._session = self._frontend.open(start, self)
        except AsrError as error:
            self.deliver(e.Error.of(error))

    # ---- Writing ----

    def _put(self, frame: Frame, kind: type) -> None:
        if isinstance(frame, Close):
            self._close = frame
            self._transport.pause()  # nothing that the client sends now is read
            _finish(self._ending)
            self._end_if_written()
        elif not self._outbox and self._transport.can_write():
            self._transport.write(frame)
        else:
            self._hold(frame, kind)

    def _hold(self, frame: str | bytes, kind: type) -> None:
        if self._outbox and kind in self._codec.coalesces and self._outbox[-1].kind is kind:
            self._outbox_bytes -= len(self._outbox.pop().frame)
        self._outbox.append(_Outgoing(frame, kind))
        self._outbox_bytes += len(frame)
        if self._outbox_bytes - len(frame) > OUTBOX_BYTES_MAX and self._close is None:
            self._outbox.clear()
            self._outbox_bytes = 0
            error = LimitExceeded(f"{OUTBOX_BYTES_MAX} bytes wait unread", slug="slow-reader")
            self.fail(error)
            if self._close is None:  # the session was already over, and these were its last texts
                self.deliver(e.Error.of(error))

    def _end_if_written(self) -> None:
        if self._close is not None and not self._outbox:
            _finish(self._over)


def _too_many(messages: str) -> LimitExceeded:
    return LimitExceeded(f"more than {messages} in a second", slug="rate-limited")


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
