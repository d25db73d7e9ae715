"""A server for the client's tests: a test supplies one script for each connection, in order."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from websockets.asyncio.server import Server, ServerConnection, serve

Message = dict[str, Any]


class Peer:
    """The server's side of one connection, after its `start` has arrived."""

    def __init__(self, socket: ServerConnection, start: Message) -> None:
        self._socket = socket
        self.start = start
        self.audio = b""

    @property
    def resume(self) -> Message | None:
        """The field `resume` of `start`."""
        resume: Message | None = self.start.get("resume")
        return resume

    async def ready(self, session: str = "s-1", from_sample: int | None = None) -> None:
        resumed = {} if from_sample is None else {"resumed": True, "from_sample": from_sample}
        rate = self.start["sample_rate"]
        await self.send("ready", session=session, model="m", language="en", sample_rate=rate, engine="fake", **resumed)

    async def send(self, kind: str, **fields: Any) -> None:
        await self._socket.send(json.dumps({"type": kind, **fields}))

    async def final(self, number: int, start_s: float, end_s: float, rate: int = 16000) -> None:
        """Send the final `word<number>`, which confirms the audio up to its end."""
        fields = {"start_s": start_s, "end_s": end_s, "committed": int(end_s * rate)}
        await self.send("final", seq=number, utterance=number, text=f"word{number}", endpoint="silence", **fields)

    async def receive(self, kind: str) -> Message:
        """Receive the next text message, which must be of this type; audio before it is added to `audio`."""
        while isinstance(frame := await self._socket.recv(), bytes):
            self.audio += frame
        message: Message = json.loads(frame)
        assert message["type"] == kind, message
        return message

    async def take(self, count: int) -> bytes:
        """Receive `count` bytes of audio since the connection began. Returns all its audio."""
        while len(self.audio) < count:
            frame = await self._socket.recv()
            assert isinstance(frame, bytes), frame
            self.audio += frame
        return self.audio

    async def end(self) -> None:
        await self.send("end", reason="stopped")
        await self.close(1000)

    async def refuse(self, code: str, close_code: int = 4400) -> None:
        await self.send("error", code=code, message="no")
        await self.close(close_code)

    async def close(self, code: int) -> None:
        await self._socket.close(code)

    async def closed(self) -> None:
        """Wait until the client has closed the connection."""
        await self._socket.wait_closed()

    def cut(self) -> None:
        """Break the connection without a close frame."""
        self._socket.transport.abort()


Script = Callable[[Peer], Awaitable[None]]


class ScriptedServer:
    """`peers` are the connections so far, `failures` the errors of their scripts."""

    def __init__(self, scripts: tuple[Script, ...]) -> None:
        self._scripts = list(scripts)
        self._server: Server | None = None
        self.peers: list[Peer] = []
        self.failures: list[BaseException] = []

    @property
    def url(self) -> str:
        assert self._server is not None
        port = next(iter(self._server.sockets)).getsockname()[1]
        return f"ws://127.0.0.1:{port}"

    def stop_listening(self) -> None:
        """Accept no new connections; the open ones stay open."""
        assert self._server is not None
        self._server.close(close_connections=False)

    async def _converse(self, socket: ServerConnection) -> None:
        try:
            peer = Peer(socket, json.loads(await socket.recv()))
            self.peers.append(peer)
            await self._scripts[min(len(self.peers), len(self._scripts)) - 1](peer)
        except BaseException as error:  # the library would hide it from the test
            self.failures.append(error)
            raise


@asynccontextmanager
async def scripted(*scripts: Script) -> AsyncIterator[ScriptedServer]:
    """Run a server whose n-th connection runs the n-th script; the last script is for all further connections."""
    server = ScriptedServer(scripts)
    async with serve(server._converse, "127.0.0.1", 0, compression=None, close_timeout=0.2) as listening:
        server._server = listening
        async with asyncio.timeout(60):
            yield server
    assert not server.failures, server.failures
