"""A small real WebSocket server for the client's tests; it implements `/v1/stream` as in frontends/README.md.

It returns one word for every second of audio, `word0`, `word1`, ..., each followed by an endpoint. A test's `Script`
changes its behavior. It runs in a separate thread, so that blocking clients can be tested too.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.exceptions import ConnectionClosed


@dataclass
class Script:
    """Changes of the server's behavior, and a record of what it received."""

    refuse: dict[str, Any] | None = None
    """Answer `start` with this error."""
    fail_after_s: float | None = None
    """End the session with session-lost after that much audio."""
    vanish_after_s: float | None = None
    """Close with 1001 after that much audio."""
    cut_after_s: float | None = None
    """Break the first connection after that much audio. The server does not support resuming."""
    partials_per_frame: int = 1
    ready_first: bool = True
    take_audio: threading.Event = field(default_factory=threading.Event)
    """The server reads audio only while it is set; a test may clear it."""
    starts: list[dict[str, Any]] = field(default_factory=list)
    audio: list[bytes] = field(default_factory=list)
    keepalives: int = 0
    paths: list[str] = field(default_factory=list)
    open_sessions: int = 0
    sessions_max: int = 0
    left: threading.Event = field(default_factory=threading.Event)
    """Set when a session has ended, for any reason."""

    def __post_init__(self) -> None:
        self.take_audio.set()


class Conversation:
    """The server's side of one session."""

    def __init__(self, socket: ServerConnection, script: Script) -> None:
        self.socket = socket
        self.script = script
        self.bytes_per_s = 32_000
        self.partials = True
        self.taken = 0
        self.seq = 0
        self.utterance = 0
        self.start = 0.0

    async def run(self) -> None:
        message = json.loads(await self.socket.recv())
        self.script.starts.append(message)
        if message["type"] != "start" or self.script.refuse:
            await self.fail(**(self.script.refuse or {"code": "out-of-order", "message": "start comes first"}))
            return
        rate = message.get("sample_rate", 16000)
        self.bytes_per_s = rate * 2
        self.partials = message.get("partials", True)
        if self.script.ready_first:
            ready = {"session": "s-1", "model": message.get("model", "tiny"), "engine": "fake", "sample_rate": rate}
            await self.send("ready", language=message.get("language", "en"), **ready)
        await asyncio.to_thread(self.script.take_audio.wait)
        async for frame in self.socket:
            if await self.take(frame):
                return

    async def take(self, frame: str | bytes) -> bool:
        """Handle a frame; True when the session is over."""
        if isinstance(frame, bytes):
            return await self.take_audio(frame)
        message = json.loads(frame)
        if message["type"] == "flush":
            await self.final("flush")
            await self.send("flushed", marker=message["marker"])
        elif message["type"] == "keepalive":
            self.script.keepalives += 1
        elif message["type"] == "stop":
            await self.final("flush")
            await self.send("end", reason="stopped")
        return message["type"] == "stop"

    async def take_audio(self, frame: bytes) -> bool:
        self.script.audio.append(frame)
        self.taken += len(frame)
        for _ in range(self.script.partials_per_frame if self.partials else 0):
            await self.hypothesis("partial", "wor")
        while self.audio_s() - self.start >= 1.0:
            await self.final("silence", self.start + 1.0)
        await self.send("ack", samples=self.taken // 2, committed=int(self.start * self.bytes_per_s) // 2)
        if self.script.fail_after_s is not None and self.audio_s() >= self.script.fail_after_s:
            await self.send("migrating")
            await self.fail("session-lost", "the worker went away", 2.5)
            return True
        if self.script.cut_after_s is not None and self.audio_s() >= self.script.cut_after_s:
            self.script.cut_after_s = None
            self.socket.transport.abort()
            return True
        if self.script.vanish_after_s is not None and self.audio_s() >= self.script.vanish_after_s:
            await self.socket.close(1001, "restarting")
            return True
        return False

    def audio_s(self) -> float:
        return self.taken / self.bytes_per_s

    async def hypothesis(self, kind: str, text: str, end_s: float | None = None, **more: Any) -> None:
        times = {"start_s": self.start, "end_s": self.audio_s() if end_s is None else end_s}
        await self.send(kind, seq=self.seq, utterance=self.utterance, text=text, **times, **more)
        self.seq += 1

    async def final(self, endpoint: str, end_s: float | None = None) -> None:
        end_s = self.audio_s() if end_s is None else end_s
        if end_s > self.start:
            word = {"word": f"word{self.utterance}", "start_s": self.start, "end_s": end_s}
            await self.hypothesis("final", f"word{self.utterance}", end_s, endpoint=endpoint, words=[word])
            self.utterance += 1
            self.start = end_s

    async def fail(self, code: str, message: str, retry_after_s: float | None = None) -> None:
        await self.send("error", code=code, message=message, retry_after_s=retry_after_s)
        await self.socket.close(4503)

    async def send(self, kind: str, **fields: Any) -> None:
        await self.socket.send(json.dumps({"type": kind, **fields}))


@contextmanager
def serving(script: Script | None = None) -> Iterator[str]:
    """A server that runs during the block; yields its ws:// URL without a path."""
    script = script or Script()
    started: list[str] = []
    ready, ending = threading.Event(), threading.Event()
    thread = threading.Thread(target=asyncio.run, args=(_serve(script, started, ready, ending),))
    thread.start()
    assert ready.wait(30)
    try:
        yield started[0]
    finally:
        script.take_audio.set()
        ending.set()
        thread.join(10)
        assert not thread.is_alive()


async def _serve(script: Script, started: list[str], ready: threading.Event, ending: threading.Event) -> None:
    async def converse(socket: ServerConnection) -> None:
        assert socket.request is not None
        script.paths.append(socket.request.path)
        script.open_sessions += 1
        script.sessions_max = max(script.sessions_max, script.open_sessions)
        try:
            await Conversation(socket, script).run()
        except ConnectionClosed:
            pass  # the client left
        finally:
            script.open_sessions -= 1
            script.left.set()

    # Small buffers: a client that does not read blocks the server immediately, as with the real one.
    small = {"max_size": 65_536, "write_limit": 1024, "max_queue": 1}
    async with serve(converse, "127.0.0.1", 0, compression=None, close_timeout=0.2, **small) as server:
        host, port = server.sockets[0].getsockname()[:2]
        started.append(f"ws://{host}:{port}")
        ready.set()
        await asyncio.to_thread(ending.wait)
