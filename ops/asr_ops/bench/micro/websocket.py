"""A client's WebSocket between the socket and its conversation: a frame of audio received, an answer sent."""

from __future__ import annotations

import asyncio
from typing import Any

import uvicorn
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from asr_frontends.servers.conversation import Transport
from asr_frontends.servers.handshake import EXTENSION
from asr_frontends.servers.websocket import WebSocket
from asr_ops.bench.micro.costs import FRAME_SAMPLES, FRAMES_PER_S, PARTIALS_PER_S, Cost, measure

MESSAGE_BYTES_MAX = 1_048_576
FRAMES = 50
HEAD = (
    b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: YXNyIGJlbmNoIGNsaWVudA==\r\n\r\n"
)
ANSWER = '{"type":"partial","text":"the birch canoe slid on the smooth planks"}'


class Socket(asyncio.Transport):
    """Discards what is written."""

    def write(self, data: object) -> None: ...

    def is_closing(self) -> bool:
        return False

    def close(self) -> None: ...

    def pause_reading(self) -> None: ...

    def resume_reading(self) -> None: ...


class Discarding:
    """A conversation that discards what it receives."""

    is_ending = False

    def on_frame(self, frame: str | bytes) -> None: ...

    def on_writable(self) -> None: ...

    def on_gone(self, *, broken: bool) -> None: ...


def costs() -> list[Cost]:
    """With one frame of 20 ms in each read, as clients in real time send them."""
    with asyncio.Runner() as runner:
        websocket, transport = runner.run(_opened())
    received = Frame(Opcode.BINARY, bytes(range(128)) * (2 * FRAME_SAMPLES // 128)).serialize(mask=True)

    def receive() -> None:
        for _ in range(FRAMES):
            websocket.data_received(received)

    def send() -> None:
        for _ in range(FRAMES):
            transport.write(ANSWER)

    return [
        measure("websocket, a frame of 20 ms", receive, FRAMES, FRAMES_PER_S),
        measure("websocket, an answer", send, FRAMES, PARTIALS_PER_S),
    ]


async def _opened() -> tuple[WebSocket, Transport]:
    """A connection whose messages are discarded, and its Transport."""
    started: asyncio.Future[Transport] = asyncio.get_running_loop().create_future()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        transport: Transport = scope["extensions"][EXTENSION]
        transport.start(Discarding())
        started.set_result(transport)

    config = uvicorn.Config(app, ws=WebSocket, ws_max_size=MESSAGE_BYTES_MAX, log_config=None)
    config.load()
    websocket = WebSocket(config=config, server_state=ServerState(), app_state={})
    websocket.connection_made(Socket())
    websocket.data_received(HEAD)
    return websocket, await started
