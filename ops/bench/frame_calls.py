"""What one 20 ms frame costs a frontend: calls of our own functions, and CPU time.

    python ops/bench/frame_calls.py [--modules]

One client speaks the native dialect to a real server on loopback; in place of the broker stands a link that keeps what
is sent. Counted is every call of a function of our packages, generated ones of dataclasses too, on three ways:
`in` (WebSocket bytes to bundle), and back from a bundle with one partial or one progress to WebSocket bytes.
CPU time covers the whole process: the event loop, uvicorn and the client's socket too.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from types import FrameType
from typing import Any

import click
import uvloop
from websockets.frames import Frame, Opcode

from asr_dialects.native import PATH
from asr_frontends.codec import Request
from asr_frontends.dialects.native.codec import NativeCodec
from asr_frontends.frontend import Frontend
from asr_frontends.servers.connection import Connection
from asr_frontends.servers.handshake import EXTENSION
from asr_frontends.servers.serve import listen, make_server
from asr_frontends.session import Limits
from asr_process import curve
from asr_proto import messages as m
from asr_proto import wire

FRAME = Frame(Opcode.BINARY, bytes(640)).serialize(mask=True)
SPEC = m.Spec("fake", "fake", ("en",), 1, 960, 1.0, "none")
ROUNDS = 400
REQUEST = (
    f"GET {PATH} HTTP/1.1\r\nhost: x\r\nupgrade: websocket\r\nconnection: upgrade\r\n"
    "sec-websocket-version: 13\r\nsec-websocket-key: YXNyIGJlbmNoIGNsaWVudA==\r\n\r\n"
)


class KeptLink:
    """A link to a broker that keeps what is sent to it."""

    def __init__(self, on_message: Callable[[list[bytes]], None]) -> None:
        self._on_message = on_message
        self.sent: asyncio.Queue[list[bytes]] = asyncio.Queue()

    def send(self, parts: list[bytes]) -> bool:
        self.sent.put_nowait(parts)
        return True

    def receive(self, message: m.Message, frames: list[m.FrameOut]) -> None:
        self._on_message([wire.encode(message), wire.encode_frames(frames)] if frames else [wire.encode(message)])

    def close(self) -> None:
        pass


class Links:
    """Makes the frontend's links, and keeps them."""

    def __init__(self) -> None:
        self.made: list[KeptLink] = []

    def __call__(
        self, broker: curve.BrokerAt, on_message: Callable[[list[bytes]], None], on_change: Callable[[bool], None]
    ) -> KeptLink:
        self.made.append(KeptLink(on_message))
        return self.made[-1]


class Calls:
    """Counts calls of functions of our packages, by module, while it is on; its own module's are not counted."""

    def __init__(self) -> None:
        self.by_module: Counter[str] = Counter()

    def __enter__(self) -> Calls:
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _count(self, frame: FrameType, event: str, _: Any) -> None:
        name = frame.f_globals.get("__name__", "")
        if event == "call" and name.startswith("asr_"):
            self.by_module[name] += 1


class Way:
    """One session, and the ways of its frames: each method returns when the frame has arrived."""

    def __init__(self, link: KeptLink, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._link, self._reader, self._writer = link, reader, writer
        self._samples = 0

    async def open(self) -> None:
        """The session has its slot, and its client knows."""
        self._link.receive(m.Welcome(1, 1000.0), [])
        self._writer.write(Frame(Opcode.TEXT, b'{"type":"start"}').serialize(mask=True))
        while not isinstance(opening := wire.decode((await self._link.sent.get())[0]), m.Open):
            pass
        self._link.receive(m.Pinned(opening.session, 0, 1, b"W", SPEC), [])
        await self._read()

    async def audio(self) -> None:
        self._samples += 320
        self._writer.write(FRAME)
        while len(await self._link.sent.get()) < 2:
            pass

    async def partial(self) -> None:
        self._link.receive(m.Bundle(b"F", (1,)), [m.Partial(1, 0, "the birch canoe slid", 0, 320)])
        await self._read()

    async def progress(self) -> None:
        commit = m.Commit(self._samples, 0, b"")
        self._link.receive(m.Bundle(b"F", (1,)), [m.Progress(1, self._samples, self._samples, commit)])
        await self._read()

    async def _read(self) -> None:
        head = await self._reader.readexactly(2)
        size = head[1] if head[1] < 126 else int.from_bytes(await self._reader.readexactly(2))
        await self._reader.readexactly(size)


async def measure(way: Way, *, modules: bool) -> None:
    """Take each way once counted and `ROUNDS` times timed."""
    await way.open()
    for name, take in (("in", way.audio), ("back, a partial", way.partial), ("back, a progress", way.progress)):
        for _ in range(10):
            await take()
        with Calls() as calls:
            await take()
        cpu_s = await _cpu_s(take)
        click.echo(f"{name}: {calls.by_module.total()} calls, {cpu_s * 1e6:.1f} us of the whole process")
        for module, count in calls.by_module.most_common() if modules else ():
            click.echo(f"    {count:4} {module}")
        await way.progress()


async def _cpu_s(take: Callable[[], Awaitable[None]]) -> float:
    began = time.process_time()
    for _ in range(ROUNDS):
        await take()
    return (time.process_time() - began) / ROUNDS


async def run(*, modules: bool) -> None:
    """Serve one client, and be it."""
    limits, links = Limits(credit_s=3600.0, journal_s=3600.0), Links()
    frontend = Frontend([curve.BrokerAt("ipc://nowhere")], "f", limits, 1 << 30, links)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await receive()
        await send({"type": "websocket.accept"})
        codec = NativeCodec(Request(PATH))
        await Connection(codec, frontend, scope["extensions"][EXTENSION]).run()

    sock = listen("127.0.0.1:0")
    server = make_server(app, 1 << 20)
    serving = asyncio.create_task(server.serve([sock]))
    reader, writer = await asyncio.open_connection(*sock.getsockname())
    writer.write(REQUEST.encode())
    await reader.readuntil(b"\r\n\r\n")
    await measure(Way(links.made[0], reader, writer), modules=modules)
    writer.transport.abort()
    server.should_exit = True
    await serving
    frontend.close()


@click.command()
@click.option("--modules", is_flag=True, help="Print the calls of each module too.")
def main(modules: bool) -> None:
    """Count what one 20 ms frame costs a frontend."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(modules=modules))


if __name__ == "__main__":
    main()
