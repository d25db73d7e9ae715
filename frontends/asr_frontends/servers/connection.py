"""One client's conversation over any transport of messages: its codec, a bounded outbox and one writer.

A client that reads slowly stalls nobody: partials and progress are coalesced, and past `OUTBOX_BYTES_MAX` it is closed
with a reason. A client that may not send is not read from.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import Protocol

from asr_frontends import events as e
from asr_frontends.codec import Close, Codec, Frame
from asr_frontends.frontend import Frontend
from asr_proto.errors import AsrError, LimitExceeded, PeerError

OUTBOX_BYTES_MAX = 262_144
START_S_MAX = 30.0
"""Longest wait for the message that starts the session."""
CLOSE_S = 5.0
"""Longest wait for a client to take the last frames."""


class Transport(Protocol):
    """A WebSocket, a data channel: whole messages in order."""

    async def receive(self) -> str | bytes | None:
        """The client's next message; None when it is gone."""

    async def send(self, frame: Frame) -> None:
        """Hand over one frame; waits while the client does not take it. A Close ends the transport."""


@dataclass(slots=True)
class _Outgoing:
    frame: Frame
    kind: type


class Connection:
    """Runs one conversation: `await run()` returns when it is over."""

    def __init__(self, codec: Codec, frontend: Frontend, transport: Transport) -> None:
        self._codec, self._frontend, self._transport = codec, frontend, transport
        self._session: str | None = None
        self._outbox: deque[_Outgoing] = deque()
        self._outbox_bytes = 0
        self._waiting = asyncio.Event()
        self._credit = asyncio.Event()
        self._closing = asyncio.Event()
        """Set when the last frame is in the outbox: nothing is said or heard after it."""

    async def run(self) -> None:
        """Serve the conversation from its first event to its close."""
        writer = asyncio.create_task(self._write())
        reader = asyncio.create_task(self._read())
        closing = asyncio.create_task(self._closing.wait())
        try:
            await asyncio.wait((reader, writer, closing), return_when=asyncio.FIRST_COMPLETED)
            if self._closing.is_set() and not writer.done():
                await asyncio.wait((writer,), timeout=CLOSE_S)
        finally:
            closing.cancel()
            if self._session is not None:
                self._frontend.client(self._session, e.Abort())
            for task in (reader, writer):
                task.cancel()
            results = await asyncio.gather(reader, writer, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    # ---- The frontend's view: Listener ----

    def deliver(self, event: e.ServiceEvent) -> None:
        if self._closing.is_set():
            return
        kind = type(event)
        for frame in self._codec.send(event):
            self._put(frame, kind)
        if isinstance(event, e.Error | e.Bye):
            self._session = None

    def credit(self) -> None:
        self._credit.set()

    # ---- Reading ----

    async def _read(self) -> None:
        for event in self._codec.opening():
            self._on_event(event)
        start_by = asyncio.get_running_loop().call_later(START_S_MAX, self._on_no_start)
        try:
            while (frame := await self._transport.receive()) is not None:
                if not self._closing.is_set():
                    self._on_frame(frame)
                while self._session is not None and not self._frontend.wanted(self._session):
                    self._credit.clear()
                    await self._credit.wait()
        finally:
            start_by.cancel()

    def _on_no_start(self) -> None:
        if self._session is None:
            self._fail(LimitExceeded(f"no session was started within {START_S_MAX:g} s", slug="idle-timeout"))

    def _on_frame(self, frame: str | bytes) -> None:
        try:
            for event in self._codec.receive(frame):
                self._on_event(event)
            for reply in self._codec.replies():
                self._put(reply, bytes)
        except PeerError as error:
            self._fail(error)

    def _on_event(self, event: e.ClientEvent) -> None:
        if not isinstance(event, e.Start):
            if self._session is not None:
                self._frontend.client(self._session, event)
            return
        try:
            self._session = self._frontend.open(event, self)
        except AsrError as error:
            self.deliver(e.Error.of(error))

    def _fail(self, error: AsrError) -> None:
        if self._session is not None:
            self._frontend.fail(self._session, error)
        else:
            self.deliver(e.Error.of(error))

    # ---- Writing ----

    def _put(self, frame: Frame, kind: type) -> None:
        if self._outbox and kind in self._codec.coalesces and self._outbox[-1].kind is kind:
            self._outbox_bytes -= _size(self._outbox.pop().frame)
        self._outbox.append(_Outgoing(frame, kind))
        self._outbox_bytes += _size(frame)
        self._waiting.set()
        if isinstance(frame, Close):
            self._closing.set()
        elif self._outbox_bytes - _size(frame) > OUTBOX_BYTES_MAX and not self._closing.is_set():
            self._outbox.clear()
            self._outbox_bytes = 0
            self._fail(LimitExceeded(f"{OUTBOX_BYTES_MAX} bytes wait unread", slug="slow-reader"))

    async def _write(self) -> None:
        while True:
            await self._waiting.wait()
            self._waiting.clear()
            while self._outbox:
                frame = self._outbox.popleft().frame
                self._outbox_bytes -= _size(frame)
                await self._transport.send(frame)
                if isinstance(frame, Close):
                    return


def _size(frame: Frame) -> int:
    return 0 if isinstance(frame, Close) else len(frame)
