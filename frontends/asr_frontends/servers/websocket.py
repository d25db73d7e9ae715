"""A client's WebSocket (RFC 6455) as a Transport: each message goes from the socket to its conversation (ADR 0017).

The websockets library's public sans-I/O protocol handles the handshake, control frames, fragments, errors and the
closing. `frames` reads the messages that are one frame each. There is no task, queue or timer per message.

No client delays the others (ADR 0023). A connection reads at most `TURN_FRAMES_MAX` frames and `TURN_BYTES_MAX` in one
turn of the loop. If more have arrived, it stops reading from its socket and continues in the next turn, after every
connection and timer that is ready.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
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
CLOSE_ANSWER_BYTES_MAX = 1_048_576
"""Bytes that are read after the server's close frame to find the client's. Then the socket is not read any more."""
TURN_FRAMES_MAX = 16
"""Frames that one connection reads in a turn of the loop."""
TURN_BYTES_MAX = 65_536
"""Bytes after which a connection reads no further frame in a turn of the loop."""

REQUEST, HANDSHAKE, MESSAGES, CLOSING, ENDING = range(5)
"""A connection's stages, in this order. In the first and the last, the library reads all bytes.

In CLOSING the server has sent its close frame: messages are dropped, and the library reads control frames.
"""

FRAGMENTS = (Opcode.TEXT, Opcode.BINARY, Opcode.CONT)

log = logging.getLogger("uvicorn.error")
"""uvicorn's log, with the level from its configuration."""


class WebSocket(asyncio.Protocol):
    """A Transport from `start` on. uvicorn makes one after each upgrade (`uvicorn.Config(ws=WebSocket)`).

    uvicorn calls `connection_made`, then `data_received` with exactly the request's head, and `shutdown` when the
    server ends. Before it ends, uvicorn waits for the connections and tasks in `server_state`.
    """

    __slots__ = (
        "_answer_bytes_left",
        "_close_timer",
        "_config",
        "_drained",
        "_fragmented",
        "_fragments",
        "_held",
        "_is_behind",
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
        self._held = bytearray()
        """Bytes received and not read yet: an incomplete frame, messages of the next turn or of a pause."""
        self._fragments = bytearray()
        """The payload received so far of a message in several frames."""
        self._fragmented: Opcode | None = None
        """The type of that message; None when there is none."""
        self._is_paused = False
        self._is_behind = False
        """Whether the rest of `_held` is left to the next turn."""
        self._answer_bytes_left = CLOSE_ANSWER_BYTES_MAX
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
        if not self._is_behind:
            self._continue()

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
        self._flush()
        self._stage = CLOSING
        self.resume()
        if not self._transport.is_closing():
            timer = asyncio.get_running_loop().call_later(CLOSE_ANSWER_S_MAX, self._transport.close)
            self._close_timer = timer

    # ---- asyncio.Protocol ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._server_state.connections.add(self)  # type: ignore[arg-type]  # typed as uvicorn's own classes

    def data_received(self, data: bytes) -> None:
        if self._stage == MESSAGES:
            if not self._held:
                self._take(data)
                return
            self._held += data
            if not self._is_behind:
                self._take(self._held)
        elif self._stage == CLOSING:
            self._await_close(data)
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

    # ---- Handover ----

    @property
    def is_portable(self) -> bool:
        """Whether another process can continue the connection, now or soon. The state of TLS cannot be passed on."""
        return not self._transport.is_closing() and self._transport.get_extra_info("sslcontext") is None

    def fileno(self) -> int:
        """The descriptor of the client's socket."""
        descriptor: int = self._transport.get_extra_info("socket").fileno()
        return descriptor

    def hand_over(self) -> bytes | None:
        """Stop reading, and return the bytes that no conversation has received. None if that is impossible now.

        What is not written to the socket yet cannot be passed on. The caller then calls `let_go`, or `take_back`, or
        continues the conversation.
        """
        is_busy = self._stage != MESSAGES or self._is_behind or self._transport.get_write_buffer_size()
        if is_busy or not self.is_portable:
            return None
        self._transport.pause_reading()
        return self._begun_message() + self._held

    def _begun_message(self) -> bytes:
        """The payload received so far of a message in several frames, as one frame."""
        if self._fragmented is None:
            return b""
        return Frame(self._fragmented, bytes(self._fragments), fin=False).serialize(mask=True)

    def take_back(self) -> None:
        """The connection stays here."""
        if not self._is_paused and not self._transport.is_closing():
            self._transport.resume_reading()

    def let_go(self) -> None:
        """Another process has the connection: close this process's descriptor, without a word to the client."""
        self._stage = ENDING
        self._transport.abort()

    def adopt(self, unread: bytes) -> None:
        """Continue the open WebSocket of another process. Called before `connection_made`."""
        self._protocol = ServerProtocol(state=State.OPEN, max_size=self._config.ws_max_size, logger=log)
        self._stage, self._held = HANDSHAKE, bytearray(unread)

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
        self.run(self._config.loaded_app(scope, handshake.receive, handshake.send))

    def _respond(self, response: Response) -> None:
        if not self._transport.is_closing():
            self._protocol.send_response(response)
            self._flush()

    def run(self, serving: Awaitable[None]) -> None:
        """Run the application in a task: to the end of its conversation, from its answer to the request if there was
        one here."""
        task = asyncio.get_running_loop().create_task(self._run(serving))
        self._server_state.tasks.add(task)
        task.add_done_callback(self._server_state.tasks.discard)

    async def _run(self, serving: Awaitable[None]) -> None:
        try:
            await serving
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

    def _take(self, held: bytes | bytearray) -> None:
        """Pass on the complete messages, until the turn is over, the conversation pauses or the connection ends.

        `held` is `_held`, or new bytes if nothing is held.
        """
        receiver, at, size_max, left = self._receiver, 0, self._config.ws_max_size, TURN_FRAMES_MAX
        assert receiver is not None
        while self._stage == MESSAGES and not self._is_paused and (found := frames.find(held, at, size_max)):
            if not left or at > TURN_BYTES_MAX:
                self._fall_behind()
                break
            left -= 1
            kind, payload, end = found
            if kind == "binary" and self._fragmented is None:
                receiver.on_frame(payload)
            elif kind == "text" and self._fragmented is None:
                self._on_text(payload)
            else:
                self._read(bytes(held[at:end]))
            if kind == "broken":
                self._stage = ENDING
            at = end
        if held is self._held:
            del self._held[:at]
        elif at < len(held):
            self._held += held[at:]

    def _fall_behind(self) -> None:
        """Leave the rest to the next turn, and read nothing until then."""
        self._is_behind = True
        if not self._transport.is_closing():
            self._transport.pause_reading()
        asyncio.get_running_loop().call_soon(self._continue)

    def _continue(self) -> None:
        """Read on after a pause, or in the next turn."""
        self._is_behind = False
        if self._stage == CLOSING:
            self._drop()
        else:
            self._take(self._held)
        if not self._is_paused and not self._is_behind and not self._transport.is_closing():
            self._transport.resume_reading()

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
        is_fragment = frame.opcode in FRAGMENTS
        if self._stage == MESSAGES and self._receiver is not None:
            self._receiver.on_part(len(frame.data) if is_fragment else 0)
            if is_fragment:
                self._on_fragment(frame)
        if frame.opcode is Opcode.PING and not self._is_writable:
            self._transport.abort()  # else pongs would accumulate for a client that does not read

    def _on_fragment(self, frame: Frame) -> None:
        assert self._receiver is not None
        if self._fragmented is None:
            self._fragmented = frame.opcode
        self._fragments += frame.data
        if not frame.fin:
            return
        kind, payload = self._fragmented, bytes(self._fragments)
        self._fragmented = None
        self._fragments.clear()
        if kind is Opcode.TEXT:
            self._on_text(payload)
        else:
            self._receiver.on_frame(payload)

    # ---- After the server's close ----

    def _await_close(self, data: bytes) -> None:
        """Read further bytes, until so many have arrived without the client's close that it is not awaited."""
        self._answer_bytes_left -= len(data)
        if self._answer_bytes_left < 0:
            self._held.clear()
            self.pause()
            return
        self._held += data
        if not self._is_behind:
            self._drop()

    def _drop(self) -> None:
        """Drop messages; the library reads the client's close, which ends the connection."""
        held, at, size_max, left = self._held, 0, self._config.ws_max_size, TURN_FRAMES_MAX
        while self._stage == CLOSING and (found := frames.find(held, at, size_max)):
            if not left:
                self._fall_behind()
                break
            left -= 1
            kind, _, end = found
            if kind in ("control", "broken"):
                self._read(bytes(held[at:end]))
            if kind == "broken":
                self._stage = ENDING
            at = end
        del held[:at]

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
