"""One client's conversation over any transport of messages: its codec and a bounded outbox. Frames need no task.

A client that reads slowly does not delay other clients: its partials and progress are coalesced, and its connection is
closed with a reason when more than `OUTBOX_BYTES_MAX` wait. A client that may not send is not read from.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from asr_frontends import events as e
from asr_frontends.codec import Close, Codec, Frame
from asr_frontends.frontend import Frontend
from asr_proto.errors import AsrError, LimitExceeded, PeerError

OUTBOX_BYTES_MAX = 262_144
"""Largest size of the frames that wait for a client that reads slowly."""
START_S_MAX = 30.0
"""Longest wait for the message that starts the session."""
CLOSE_S = 5.0
"""Longest wait for a client to read the last frames."""


class Receiver(Protocol):
    """The methods of a connection that its transport calls."""

    @property
    def is_ending(self) -> bool:
        """Whether the last message is in the outbox or already sent."""

    def on_frame(self, frame: str | bytes) -> None:
        """The client has sent a message."""

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
        self._outbox: list[_Outgoing] = []
        self._outbox_bytes = 0
        self._broken = False
        self._is_paused = False
        self._close: Close | None = None
        """Set when the last frame is in the outbox: nothing is sent or read after it."""
        loop = asyncio.get_running_loop()
        self._ending: asyncio.Future[None] = loop.create_future()
        """Done when the last frame is in the outbox, or the client is gone."""
        self._over: asyncio.Future[None] = loop.create_future()
        """Done when the client was sent everything but the close, or is gone."""

    async def run(self) -> None:
        """Serve the conversation from its first event to its close."""
        start_by = asyncio.get_running_loop().call_later(START_S_MAX, self._on_no_start)
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

    # ---- Listener: called by the frontend ----

    def deliver(self, event: e.ServiceEvent) -> None:
        if self._close is not None:
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
        asyncio.get_running_loop().call_soon(self._resume)

    def leave(self) -> None:
        for event in self._codec.tail():
            self._on_event(event)

    def _resume(self) -> None:
        if not self._is_paused:
            self._transport.resume()

    # ---- Receiver: called by the transport ----

    def on_frame(self, frame: str | bytes) -> None:
        if self._close is not None:
            return
        try:
            for event in self._codec.receive(frame):
                self._on_event(event)
            for reply in self._codec.replies():
                self._put(reply, bytes)
        except PeerError as error:
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
        if self._close is None:
            for event in self._codec.opening():
                self._on_event(event)
        self._transport.start(self)

    def _on_no_start(self) -> None:
        if self._session is None:
            self.fail(LimitExceeded(f"no session was started within {START_S_MAX:g} s", slug="idle-timeout"))

    def _on_event(self, event: e.ClientEvent) -> None:
        if not isinstance(event, e.Start):
            if self._session is not None:
                self._frontend.client(self._session, event)
            return
        try:
            self._session = self._frontend.open(event, self)
        except AsrError as error:
            self.deliver(e.Error.of(error))

    # ---- Writing ----

    def _put(self, frame: Frame, kind: type) -> None:
        if isinstance(frame, Close):
            self._close = frame
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


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
