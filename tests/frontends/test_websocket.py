"""A WebSocket as a Transport: whatever way a client cuts and mixes its frames, its messages arrive in their order."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop
from websockets.frames import Frame, Opcode

from asr_frontends.codec import Close
from asr_frontends.servers.handshake import EXTENSION
from asr_frontends.servers.serve import listen, make_server
from asr_frontends.servers.websocket import WebSocket

MESSAGE_BYTES_MAX = 100_000
REQUEST = (
    b"GET / HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    b"sec-websocket-version: 13\r\nsec-websocket-key: YXNyIGJlbmNoIGNsaWVudA==\r\n\r\n"
)


class Conversation:
    """Remembers what it hears; its test may pause it."""

    def __init__(self, transport: WebSocket) -> None:
        self.transport = transport
        self.heard: list[str | bytes] = []
        self.pause_after: int | None = None
        self.changed = asyncio.Condition()
        self.gone = asyncio.Event()
        self.closing: asyncio.Future[Close] = asyncio.get_running_loop().create_future()

    def on_frame(self, frame: str | bytes) -> None:
        self.heard.append(frame)
        if len(self.heard) == self.pause_after:
            self.transport.pause()

    def on_writable(self) -> None: ...

    def on_gone(self, *, broken: bool) -> None:
        self.gone.set()

    async def run(self) -> None:
        self.transport.start(self)
        gone = asyncio.create_task(self.gone.wait())
        await asyncio.wait((gone, self.closing), return_when=asyncio.FIRST_COMPLETED)
        if self.closing.done():
            await self.transport.finish(self.closing.result())
        gone.cancel()


class Served:
    """One client's raw socket, and the conversation at its other end."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, conversation: Conversation) -> None:
        self.reader, self.writer, self.conversation = reader, writer, conversation

    async def say(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def marker(self) -> None:
        """Everything before has been read: the server answers pings in their turn."""
        await self.say(wire(Opcode.PING, b"marker"))
        assert await self.reader.readexactly(8) == b"\x8a\x06marker"

    async def close_code(self) -> int:
        head = await self.reader.readexactly(4)
        assert head[0] == 0x88
        return int.from_bytes(head[2:])


def wire(opcode: Opcode, payload: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin=fin).serialize(mask=True)


def run(test: Callable[[Served], Awaitable[None]]) -> None:
    async def main() -> None:
        begun: asyncio.Future[Conversation] = asyncio.get_running_loop().create_future()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            conversation = Conversation(scope["extensions"][EXTENSION])
            begun.set_result(conversation)
            await conversation.run()

        sock = listen("127.0.0.1:0")
        server = make_server(app, MESSAGE_BYTES_MAX)
        serving = asyncio.create_task(server.serve([sock]))
        async with asyncio.timeout(60):
            reader, writer = await asyncio.open_connection(*sock.getsockname())
            writer.write(REQUEST)
            await reader.readuntil(b"\r\n\r\n")
            conversation = await begun
            try:
                await test(Served(reader, writer, conversation))
            finally:
                writer.transport.abort()
                await conversation.gone.wait()
                server.should_exit = True
                await serving

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())


MIXED = [
    wire(Opcode.BINARY, b"\x01\x02" * 320),
    wire(Opcode.TEXT, "grüß".encode()),
    wire(Opcode.BINARY, b""),
    wire(Opcode.PONG, b"by the way"),
    wire(Opcode.TEXT, b""),
    wire(Opcode.BINARY, bytes(66_000)),
]
HEARD = [b"\x01\x02" * 320, "grüß", b"", "", bytes(66_000)]


@pytest.mark.parametrize("piece", [1, 7, 1000, 100_000])
def test_messages_however_they_are_cut(piece: int) -> None:
    async def test(served: Served) -> None:
        data = b"".join(MIXED if piece > 1 else MIXED[:-1])
        await served.say(*(data[start : start + piece] for start in range(0, len(data), piece)))
        await served.marker()
        assert served.conversation.heard == (HEARD if piece > 1 else HEARD[:-1])

    run(test)


def test_a_client_that_fragments() -> None:
    """Its message is one, and what follows is heard too."""

    async def test(served: Served) -> None:
        pieces = [
            wire(Opcode.BINARY, b"a"),
            wire(Opcode.BINARY, b"b", fin=False),
            wire(Opcode.PONG, b""),
            wire(Opcode.CONT, b"c"),
            wire(Opcode.TEXT, b"d"),
        ]
        await served.say(b"".join(pieces))
        await served.marker()
        assert served.conversation.heard == [b"a", b"bc", "d"]

    run(test)


def test_what_is_not_wanted_waits() -> None:
    async def test(served: Served) -> None:
        conversation = served.conversation
        conversation.pause_after = 2
        await served.say(b"".join(wire(Opcode.TEXT, b"%d" % number) for number in range(5)))
        while len(conversation.heard) < 2:
            await asyncio.sleep(0)
        await served.say(wire(Opcode.TEXT, b"5"))
        assert conversation.heard == ["0", "1"]
        conversation.pause_after = 4
        conversation.transport.resume()
        assert conversation.heard == ["0", "1", "2", "3"]
        conversation.transport.resume()
        await served.marker()
        assert conversation.heard == ["0", "1", "2", "3", "4", "5"]

    run(test)


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (wire(Opcode.TEXT, b"\xff\xfe"), 1007),
        (wire(Opcode.TEXT, b"\xff", fin=False) + wire(Opcode.CONT, b"\xfe"), 1007),
        (wire(Opcode.BINARY, bytes(MESSAGE_BYTES_MAX + 1)), 1009),
        (b"\x83\x80\x00\x00\x00\x00", 1002),
        (wire(Opcode.CLOSE, b"\x03\xe8"), 1000),
    ],
    ids=["text that is none", "in two fragments", "too large", "opcode 3", "close"],
)
def test_the_end_that_a_client_makes(said: bytes, code: int) -> None:
    async def test(served: Served) -> None:
        await served.say(wire(Opcode.TEXT, b"before") + said)
        assert await served.close_code() == code
        await served.conversation.gone.wait()
        assert served.conversation.heard == ["before"]

    run(test)


def test_the_end_that_we_make() -> None:
    """After it nothing is heard, and the client's answer ends the connection."""

    async def test(served: Served) -> None:
        await served.say(wire(Opcode.TEXT, b"before") + wire(Opcode.TEXT, b"half")[:4])
        while not served.conversation.heard:
            await asyncio.sleep(0)
        served.conversation.closing.set_result(Close(4400, "why"))
        assert await served.close_code() == 4400
        assert await served.reader.readexactly(3) == b"why"
        await served.say(wire(Opcode.TEXT, b"half")[4:] + wire(Opcode.CLOSE, b"\x11\x30"))
        assert await served.reader.read() == b""
        assert served.conversation.heard == ["before"]

    run(test)


def test_what_is_said_to_a_client_that_has_gone_is_lost_without_harm() -> None:
    """uvloop raises where asyncio only warns, and the frontend says things from wherever they come."""

    async def test(served: Served) -> None:
        served.writer.transport.abort()
        await served.conversation.gone.wait()
        served.conversation.transport.write("to nobody")

    run(test)
