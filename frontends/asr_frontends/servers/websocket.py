"""uvicorn's WebSocket as a Transport: messages go straight to a conversation, past ASGI's queues and tasks.

uvicorn and the websockets library do the handshake, the closing, control frames, fragments and whatever is wrong.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import CloseCode
from websockets.frames import Frame as LibraryFrame
from websockets.protocol import State

from asr_frontends.codec import Close, Request
from asr_frontends.servers import frames
from asr_frontends.servers.connection import Receiver

Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

EXTENSION = "asr.transport"
"""Where a WebSocket's scope names its Transport."""


class Nobody:
    """A queue that keeps nothing: what uvicorn would tell its application, we are told."""

    def put_nowait(self, message: object) -> None: ...


NOBODY = Nobody()


class WebSocket(WebSocketsSansIOProtocol):
    """A Transport from `start` on; until then, and for HTTP answers, what uvicorn made it.

    Messages that are not wanted stay in `_held`, unread ones in the socket. A client that once sent what `frames` does
    not read, or anything before it was accepted, is read by the library from there on.
    """

    _receiver: Receiver | None = None
    _is_plain = False
    _is_early = False
    _is_paused = False
    _held = b""

    # ---- Transport ----

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._is_plain = not self._is_early
        while not self.queue.empty():
            message: dict[str, Any] = self.queue.get_nowait()  # type: ignore[assignment]
            if message["type"] == "websocket.disconnect":
                receiver.on_gone(broken=True)
            else:
                receiver.on_frame(message["text"] if "text" in message else message["bytes"])
        if not self._is_paused and self.read_paused:
            self.read_paused = False
            self.transport.resume_reading()
        # The handshake is over and nobody reads them again: a fifth of what an idle connection holds.
        self.queue, self.request, self.response = NOBODY, None, None  # type: ignore[assignment]

    def pause(self) -> None:
        self._is_paused = True
        if not self.transport.is_closing():
            self.transport.pause_reading()

    def resume(self) -> None:
        self._is_paused = False
        self._take()
        if not self._is_paused and not self.transport.is_closing():
            self.transport.resume_reading()

    def can_write(self) -> bool:
        return self.writable.is_set()

    def write(self, frame: str | bytes) -> None:
        if self.conn.state is not State.OPEN or self.transport.is_closing():
            return
        if isinstance(frame, str):
            self.transport.write(frames.message(frames.TEXT, frame.encode()))
        else:
            self.transport.write(frames.message(frames.BINARY, frame))

    async def finish(self, close: Close) -> None:
        self._leave_to_library()
        await self.send({"type": "websocket.close", "code": close.code, "reason": close.reason})

    # ---- asyncio.Protocol ----

    def data_received(self, data: bytes) -> None:
        if self._is_plain:
            self._held = self._held + data if self._held else data
            self._take()
        else:
            self._is_early = self.handshake_initiated
            super().data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._gone(broken=True)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._receiver is not None:
            self._receiver.on_writable()

    # ---- The library's view, and uvicorn's ----

    async def run_asgi(self) -> None:
        self.scope["extensions"][EXTENSION] = self  # type: ignore[assignment]
        await super().run_asgi()

    def send_receive_event_to_app(self) -> None:
        """A message that the library has read."""
        if self._receiver is None:
            super().send_receive_event_to_app()
            return
        data, self.frames = b"".join(self.frames), []
        if self.close_sent:
            return
        try:
            self._receiver.on_frame(data.decode() if self.curr_msg_data_type == "text" else data)
        except UnicodeDecodeError:
            self.conn.send_close(CloseCode.INVALID_DATA)
            self.handle_parser_exception()

    def handle_ping(self) -> None:
        """Pongs do not pile up for a client that reads nothing."""
        if self.writable.is_set():
            super().handle_ping()
        else:
            self.transport.abort()

    def handle_close(self, event: LibraryFrame) -> None:
        super().handle_close(event)
        self._gone(broken=False)

    def handle_parser_exception(self) -> None:
        super().handle_parser_exception()
        self._gone(broken=False)

    # ---- Private ----

    def _take(self) -> None:
        """Hand over the messages that are whole, while they are wanted."""
        assert self._receiver is not None
        held, at, size_max = self._held, 0, self.config.ws_max_size
        while self._is_plain and not self._is_paused and (found := frames.find(held, at, size_max)) is not None:
            kind, payload, end = found
            if kind == "binary":
                self._receiver.on_frame(payload)
            elif kind == "text" and (text := _text(payload)) is not None:
                self._receiver.on_frame(text)
            elif kind == "control":
                super().data_received(payload)
                self._is_plain = self.conn.state is State.OPEN
            else:
                self._is_plain = False
                break
            at = end
        self._held = held[at:]
        if not self._is_plain:
            self._leave_to_library()

    def _leave_to_library(self) -> None:
        held, self._held, self._is_plain = self._held, b"", False
        if held:
            super().data_received(held)

    def _gone(self, *, broken: bool) -> None:
        if self._receiver is not None:
            self._receiver.on_gone(broken=broken)


def _text(payload: bytes) -> str | None:
    """None for what is no UTF-8: the library knows what to say."""
    try:
        return payload.decode()
    except UnicodeDecodeError:
        return None


def request_of(scope: Scope) -> Request:
    """What an ASGI scope says about a client's request, WebSocket or HTTP."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    address = scope["client"][0] if scope.get("client") else ""
    query = scope["query_string"].decode("latin-1")
    subprotocols = tuple(scope.get("subprotocols", ()))
    return Request(scope["path"], query, subprotocols, headers, address, unix_ms=time.time_ns() // 1_000_000)


async def refuse(send: Send, status: int, detail: str, content_type: str = "text/plain; charset=utf-8") -> None:
    """Answer a WebSocket request with plain HTTP before the upgrade."""
    headers = [(b"content-type", content_type.encode())]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": detail.encode()})
