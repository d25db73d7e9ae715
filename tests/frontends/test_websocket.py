"""A WebSocket as a Transport: a client's messages arrive in order, however its frames are cut and mixed."""

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


class RecordingReceiver:
    """A Receiver that keeps the messages it receives. It can pause after a number of them."""

    is_ending = False

    def __init__(self, transport: WebSocket) -> None:
        self.transport = transport
        self.received: list[str | bytes] = []
        self.pause_after: int | None = None
        self.changed = asyncio.Condition()
        self.gone = asyncio.Event()
        self.closing: asyncio.Future[Close] = asyncio.get_running_loop().create_future()

    def on_frame(self, frame: str | bytes) -> None:
        self.received.append(frame)
        if len(self.received) == self.pause_after:
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
    """One client's raw socket, and the receiver at its other end."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, conversation: RecordingReceiver
    ) -> None:
        self.reader, self.writer, self.conversation = reader, writer, conversation

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def marker(self) -> None:
        """Wait until the server has read everything so far: it answers pings in order."""
        await self.send(wire(Opcode.PING, b"marker"))
        assert await self.reader.readexactly(8) == b"\x8a\x06marker"

    async def close_code(self) -> int:
        head = await self.reader.readexactly(4)
        assert head[0] == 0x88
        return int.from_bytes(head[2:])


def wire(opcode: Opcode, payload: bytes, *, fin: bool = True) -> bytes:
    return Frame(opcode, payload, fin=fin).serialize(mask=True)


def run(test: Callable[[Served], Awaitable[None]]) -> None:
    async def main() -> None:
        begun: asyncio.Future[RecordingReceiver] = asyncio.get_running_loop().create_future()

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await receive()
            await send({"type": "websocket.accept"})
            conversation = RecordingReceiver(scope["extensions"][EXTENSION])
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
RECEIVED = [b"\x01\x02" * 320, "grüß", b"", "", bytes(66_000)]


@pytest.mark.parametrize("piece", [1, 7, 1000, 100_000])
def test_messages_in_pieces_of_any_size(piece: int) -> None:
    async def test(served: Served) -> None:
        data = b"".join(MIXED if piece > 1 else MIXED[:-1])
        await served.send(*(data[start : start + piece] for start in range(0, len(data), piece)))
        await served.marker()
        assert served.conversation.received == (RECEIVED if piece > 1 else RECEIVED[:-1])

    run(test)


def test_a_client_that_fragments() -> None:
    """The fragments are one message, and later messages are received too."""

    async def test(served: Served) -> None:
        pieces = [
            wire(Opcode.BINARY, b"a"),
            wire(Opcode.BINARY, b"b", fin=False),
            wire(Opcode.PONG, b""),
            wire(Opcode.CONT, b"c"),
            wire(Opcode.TEXT, b"d"),
        ]
        await served.send(b"".join(pieces))
        await served.marker()
        assert served.conversation.received == [b"a", b"bc", "d"]

    run(test)


def test_messages_wait_during_a_pause() -> None:
    async def test(served: Served) -> None:
        conversation = served.conversation
        conversation.pause_after = 2
        await served.send(b"".join(wire(Opcode.TEXT, b"%d" % number) for number in range(5)))
        while len(conversation.received) < 2:
            await asyncio.sleep(0)
        await served.send(wire(Opcode.TEXT, b"5"))
        assert conversation.received == ["0", "1"]
        conversation.pause_after = 4
        conversation.transport.resume()
        assert conversation.received == ["0", "1", "2", "3"]
        conversation.transport.resume()
        await served.marker()
        assert conversation.received == ["0", "1", "2", "3", "4", "5"]

    run(test)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (wire(Opcode.TEXT, b"\xff\xfe"), 1007),
        (wire(Opcode.TEXT, b"\xff", fin=False) + wire(Opcode.CONT, b"\xfe"), 1007),
        (wire(Opcode.BINARY, bytes(MESSAGE_BYTES_MAX + 1)), 1009),
        (b"\x83\x80\x00\x00\x00\x00", 1002),
        (wire(Opcode.CLOSE, b"\x03\xe8"), 1000),
    ],
    ids=["invalid UTF-8", "invalid UTF-8 in two fragments", "too large", "opcode 3", "close"],
)
def test_a_client_ends_the_connection(data: bytes, code: int) -> None:
    async def test(served: Served) -> None:
        await served.send(wire(Opcode.TEXT, b"before") + data)
        assert await served.close_code() == code
        await served.conversation.gone.wait()
        assert served.conversation.received == ["before"]

    run(test)


def test_the_server_ends_the_connection() -> None:
    """After the server's close nothing is received, and the client's close ends the connection."""

    async def test(served: Served) -> None:
        await served.send(wire(Opcode.TEXT, b"before") + wire(Opcode.TEXT, b"half")[:4])
        while not served.conversation.received:
            await asyncio.sleep(0)
        served.conversation.closing.set_result(Close(4400, "why"))
        assert await served.close_code() == 4400
        assert await served.reader.readexactly(3) == b"why"
        await served.send(wire(Opcode.TEXT, b"half")[4:] + wire(Opcode.CLOSE, b"\x11\x30"))
        assert await served.reader.read() == b""
        assert served.conversation.received == ["before"]

    run(test)


def test_a_write_to_a_client_that_is_gone_has_no_effect() -> None:
    """uvloop raises where asyncio only warns, and the frontend may write at any time."""

    async def test(served: Served) -> None:
        served.writer.transport.abort()
        await served.conversation.gone.wait()
        served.conversation.transport.write("lost")

    run(test)
