"""A client's WebSocket (RFC 6455) as a Transport: each message goes from the socket to its conversation (ADR 0017).

The websockets library's public sans-I/O protocol handles the handshake, control frames, fragments, errors and the
closing. `frames` reads the messages that are one frame each. There is no task, queue or timer per message.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any, cast

from uvicorn import Config
from uvicorn.server import ServerState
from websockets.frames import CloseCode, Frame, Opcode
from websockets.http11 import Request, Response
from websockets.protocol import State
from websockets.server import ServerProtocol

from asr_frontends.codec import Close
from asr_frontends.servers import frames
from asr_frontends.servers.conversation import Receiver
from asr_frontends.servers.handshake import EXTENSION, SWITCHING_PROTOCOLS, Handshake, scope_of

CLOSE_ANSWER_S_MAX = 10.0
"""Longest wait for the client's close frame after the server's. Then the connection is closed."""

REQUEST, HANDSHAKE, MESSAGES, ENDING = range(4)
"""A connection's stages, in this order. In the first and the last, the library reads all bytes."""

log = logging.getLogger("uvicorn.error")
"""uvicorn's log, with the level from its configuration."""


class WebSocket(asyncio.Protocol):
    """A Transport from `start` on. uvicorn makes one after each upgrade (`uvicorn.Config(ws=WebSocket)`).

    uvicorn calls `connection_made`, then `data_received` with exactly the request's head, and `shutdown` when the
    server ends. Before it ends, uvicorn waits for the connections and tasks in `server_state`.
    """

    __slots__ = (
        "_close_timer",
        "_config",
        "_drained",
        "_fragments",
        "_held",
        "_is_paused",
        "_is_writable",
        "_protocol",
        "_receiver",
        "_server_state",
        "_stage",
        "_transport",
    )

    def __init__(self, config: Config, server_state: ServerState, app_state: dict[str, Any]) -> None:
        self._config, self._server_state = config, server_state
        self._protocol = ServerProtocol(max_size=config.ws_max_size, logger=log)
        self._transport: asyncio.Transport
        self._stage = REQUEST
        self._receiver: Receiver | None = None
        self._held = b""
        """Bytes received and not read yet: an incomplete frame, or messages that arrived during a pause."""
        self._fragments: list[Frame] = []
        """The frames received so far of a message in several frames."""
        self._is_paused = False
        self._is_writable = True
        self._drained: asyncio.Future[None] | None = None
        """Done when the socket can be written again; set only while `finish` waits for that."""
        self._close_timer: asyncio.TimerHandle | None = None

    # ---- Transport ----

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        if self._transport.is_closing():
            receiver.on_gone(broken=True)
        else:
            self._stage = MESSAGES
            self.resume()

    def pause(self) -> None:
        self._is_paused = True
        if not self._transport.is_closing():
            self._transport.pause_reading()

    def resume(self) -> None:
        self._is_paused = False
        self._take()
        if not self._is_paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def can_write(self) -> bool:
        return self._is_writable

    def write(self, frame: str | bytes) -> None:
        if self._protocol.state is not State.OPEN or self._transport.is_closing():
            return
        if isinstance(frame, str):
            self._transport.write(frames.message(frames.TEXT, frame.encode()))
        else:
            self._transport.write(frames.message(frames.BINARY, frame))

    async def finish(self, close: Close) -> None:
        if not self._is_writable:
            self._drained = asyncio.get_running_loop().create_future()
            await self._drained
        if self._protocol.state is not State.OPEN or self._transport.is_closing():
            return
        self._protocol.send_close(close.code, close.reason)
        self._leave_to_library()
        if not self._transport.is_closing():
            self._transport.resume_reading()
            timer = asyncio.get_running_loop().call_later(CLOSE_ANSWER_S_MAX, self._transport.close)
            self._close_timer = timer

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # typed as uvicorn's own classes

    def data_received(self, data: bytes) -> None:
        if self._stage == MESSAGES:
            self._held = self._held + data if self._held else data
            self._take()
        elif self._stage == HANDSHAKE:
            self._held += data
            self._transport.pause_reading()
        else:
            self._read(data)

    def pause_writing(self) -> None:
        self._is_writable = False

    def resume_writing(self) -> None:
        self._set_writable()
        if self._receiver is not None:
            self._receiver.on_writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server_state.connections.discard(self)
        self._stage = ENDING
        if self._close_timer is not None:
            self._close_timer.cancel()
        self._set_writable()
        self._gone(broken=True)

    # ---- uvicorn's view ----

    def shutdown(self) -> None:
        """The server ends: close the connection. A conversation that is ending sends its last messages and closes."""
        if self._receiver is not None and self._receiver.is_ending:
            return
        if self._protocol.state is State.OPEN:
            self._protocol.send_close(CloseCode.SERVICE_RESTART)
            self._flush()
        self._fail_handshake()
        self._transport.close()

    # ---- The handshake ----

    def _on_request(self, request: Request) -> None:
        response = self._protocol.accept(request)
        if response.status_code != SWITCHING_PROTOCOLS:
            self._respond(response)
            return
        self._stage = HANDSHAKE
        scope = scope_of(request, self._transport)
        scope["extensions"][EXTENSION] = self
        handshake = Handshake(self._protocol, response, self._respond)
        task = asyncio.get_running_loop().create_task(self._run(scope, handshake))
        self._server_state.tasks.add(task)
        task.add_done_callback(self._server_state.tasks.discard)

    def _respond(self, response: Response) -> None:
        if not self._transport.is_closing():
            self._protocol.send_response(response)
            self._flush()

    async def _run(self, scope: Any, handshake: Handshake) -> None:
        """Run the application, from its answer to the request to the end of its conversation."""
        try:
            await self._config.loaded_app(scope, handshake.receive, handshake.send)
        except Exception:
            log.exception("a WebSocket's conversation failed")
        finally:
            self._fail_handshake()
            if self._close_timer is None:
                self._transport.close()

    def _fail_handshake(self) -> None:
        """Answer with 500 a request that the application has not answered."""
        if self._protocol.state is State.CONNECTING:
            self._respond(self._protocol.reject(500, "Internal Server Error"))

    # ---- Messages ----

    def _take(self) -> None:
        """Pass on the complete messages, until the conversation pauses or the connection ends."""
        receiver, held, at, size_max = self._receiver, self._held, 0, self._config.ws_max_size
        assert receiver is not None
        while self._stage == MESSAGES and not self._is_paused and (found := frames.find(held, at, size_max)):
            kind, payload, end = found
            if kind == "binary" and not self._fragments:
                receiver.on_frame(payload)
            elif kind == "text" and not self._fragments:
                self._on_text(payload)
            else:
                self._read(held[at:end])
            if kind == "broken":
                self._stage = ENDING
            at = end
        self._held = held[at:]

    def _on_text(self, payload: bytes) -> None:
        assert self._receiver is not None
        try:
            text = payload.decode()
        except UnicodeDecodeError:
            self._protocol.fail(CloseCode.INVALID_DATA)
            self._flush()
        else:
            self._receiver.on_frame(text)

    # ---- What the library reads ----

    def _read(self, data: bytes) -> None:
        """Pass bytes to the library: a request, one frame, or everything after the end of the messages."""
        self._protocol.receive_data(data)
        for event in self._protocol.events_received():
            if isinstance(event, Request):
                self._on_request(event)
            elif isinstance(event, Frame):
                self._on_frame(event)
        self._flush()

    def _on_frame(self, frame: Frame) -> None:
        """Process a frame that the library has read. Data frames are fragments; the library answers a close itself."""
        if frame.opcode is Opcode.PING:
            if not self._is_writable:
                self._transport.abort()  # else pongs would accumulate for a client that does not read
        elif frame.opcode in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT) and self._stage == MESSAGES:
            self._fragments.append(frame)
            if frame.fin:
                self._on_last_fragment()

    def _on_last_fragment(self) -> None:
        assert self._receiver is not None
        fragments, self._fragments = self._fragments, []
        payload = b"".join(fragment.data for fragment in fragments)
        if fragments[0].opcode is Opcode.TEXT:
            self._on_text(payload)
        else:
            self._receiver.on_frame(payload)

    def _leave_to_library(self) -> None:
        held, self._held, self._stage = self._held, b"", ENDING
        self._read(held)

    # ---- Private ----

    def _flush(self) -> None:
        """Write the library's output. An empty piece means the end of the stream and closes the connection."""
        for data in self._protocol.data_to_send():
            if not data:
                self._stage = ENDING
                self._transport.close()
                self._gone(broken=False)
            elif not self._transport.is_closing():
                self._transport.write(data)

    def _set_writable(self) -> None:
        self._is_writable = True
        if self._drained is not None and not self._drained.done():
            self._drained.set_result(None)

    def _gone(self, *, broken: bool) -> None:
        if self._receiver is not None:
            self._receiver.on_gone(broken=broken)
