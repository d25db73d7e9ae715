"""Speakers of `/v1/stream` who never tire: they speak in real time, note all they hear, and come back when cut off.

A client whose connection dies comes back: it says {"type":"start","resume":{"session":...,"finals":N}}, hears
`from_sample`, and goes on from there. A server that has no such session any more, or cannot do this, leaves it cut.
Judges nothing: that is the checker's business.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage

from asr_proto.audio import SAMPLE_RATE
from tests.nemesis.history import (
    Answered,
    Committed,
    Conversation,
    Cut,
    Ended,
    Failed,
    Final,
    Hung,
    Moved,
    Opened,
    Partial,
    Readied,
    Stopped,
)
from tests.nemesis.truth import Script

HUNG_S = 60.0
"""Longer than anything that the service may take before it says something: a session is lost after 30 s."""
OPEN_S = 15.0
AGAIN_S = 0.05
UNKNOWN = "resume-unavailable"
"""The server's error for a session that it cannot resume."""
BROKEN = (OSError, EOFError, ConnectionClosed, InvalidHandshake, InvalidMessage)

Clock = Callable[[], float]
"""Seconds since the run began."""


@dataclass(frozen=True, slots=True)
class Manner:
    """How all clients of a run behave."""

    frame_s: float = 0.1
    paced: bool = True
    """Each frame leaves when it has been spoken; otherwise as fast as the server takes it."""
    resume: bool = True
    """Come back after a cut, where the server says how."""
    return_s: float = 10.0
    """How long they try to."""


class Speaker:
    """One conversation, from its first connection to its end."""

    def __init__(self, url: str, said: Script, conversation: Conversation, manner: Manner, clock: Clock) -> None:
        self._url, self._script, self._manner, self._clock = url, said, manner, clock
        self._pcm = said.pcm.astype("<i2").tobytes()
        self._conversation = conversation
        self._session: str | None = None
        self._began_s: float | None = None
        """When sample 0 was spoken."""
        self._finals = 0
        self._committed = 0
        self._answered: set[str] = set()
        self._over = False

    async def run(self) -> None:
        """Until its end, or until there is no way to go on."""
        give_up_s: float | None = None
        while not self._over:
            heard = len(self._conversation.events)
            try:
                await self._connect()
                why = "closed without a word"
            except BROKEN as error:
                why = f"{type(error).__name__}: {error}"
            except TimeoutError:
                self._note(Hung(self._clock()))
                return
            if self._over:
                return
            if len(self._conversation.events) > heard + 1 or give_up_s is None:  # it had been connected until now
                give_up_s = self._clock() + self._manner.return_s
                self._note(Cut(self._clock(), why))
            if self._session is None or not self._manner.resume or self._clock() > give_up_s:
                return
            await asyncio.sleep(AGAIN_S)

    # ---- One connection ----

    async def _connect(self) -> None:
        """Returns when the server has closed it."""
        options: dict[str, Any] = {"compression": None, "ping_interval": None, "open_timeout": OPEN_S}
        async with connect(self._url, close_timeout=1, max_queue=64, **options) as socket:
            await self._start(socket)
            speaking: asyncio.Task[None] | None = None
            try:
                while True:
                    message = json.loads(await asyncio.wait_for(socket.recv(), HUNG_S))
                    if message["type"] == "ready":
                        speaking = asyncio.create_task(self._speak(socket, self._on_ready(message)))
                    else:
                        self._hear(message)
            except ConnectionClosed:
                return
            finally:
                if speaking is not None:
                    speaking.cancel()
                    await asyncio.wait([speaking])

    async def _start(self, socket: ClientConnection) -> None:
        start: dict[str, object] = {"type": "start"}
        if self._session is not None:
            start["resume"] = {"session": self._session, "finals": self._finals}
        self._note(Opened(self._clock(), resumes=self._session is not None))
        await socket.send(json.dumps(start))

    def _on_ready(self, message: dict[str, Any]) -> int:
        self._session = message["session"]
        start = int(message.get("from_sample", 0))
        if self._began_s is None:
            self._began_s = self._clock()
        self._note(Readied(self._clock(), message["session"], start))
        return start

    async def _speak(self, socket: ClientConnection, sample: int) -> None:
        """From that sample on; what should have been said long ago is said at once."""
        with suppress(ConnectionClosed):
            await self._flush(socket, sample)
            while sample < len(self._script.pcm):
                end = self._frame_end(sample)
                await self._until_spoken(end)
                await socket.send(self._pcm[2 * sample : 2 * end])
                sample = end
                await self._flush(socket, sample)
            if not self._over:
                if self._conversation.stopped_s is None:
                    self._note(Stopped(self._clock()))
                await socket.send('{"type":"stop"}')

    def _frame_end(self, sample: int) -> int:
        """A frame ends early where a flush follows."""
        end = min(sample + round(self._manner.frame_s * SAMPLE_RATE), len(self._script.pcm))
        return min([end, *(edge for edge in self._script.flushes if sample < edge)])

    async def _until_spoken(self, sample: int) -> None:
        assert self._began_s is not None
        if self._manner.paced and (wait_s := self._began_s + sample / SAMPLE_RATE - self._clock()) > 0:
            await asyncio.sleep(wait_s)

    async def _flush(self, socket: ClientConnection, sample: int) -> None:
        marker = self._script.marker_at(sample)
        if marker is not None and marker not in self._answered:
            await socket.send(json.dumps({"type": "flush", "marker": marker}))

    # ---- What is heard ----

    def _hear(self, message: dict[str, Any]) -> None:
        now = self._clock()
        match message["type"]:
            case "partial":
                self._note(Partial(now, message["utterance"], message["text"]))
            case "final":
                self._finals += 1
                spans = message["start_s"], message["end_s"]
                self._note(Final(now, message["utterance"], *spans, message["text"]))
            case "flushed":
                self._answered.add(message["marker"])
                self._note(Answered(now, message["marker"]))
            case "ack":
                self._on_ack(message["committed"], now)
            case "migrating":
                self._note(Moved(now))
            case "end":
                self._over = True
                self._note(Ended(now, message["reason"]))
            case "error":
                self._on_error(message["code"], message.get("message", ""), now)

    def _on_error(self, code: str, message: str, now: float) -> None:
        self._over = not (code == "going-away" and self._session is not None and self._manner.resume)
        if code == UNKNOWN:
            self._note(Cut(now, f"{code}: {message}"))
        else:
            self._note(Failed(now, code, message))

    def _on_ack(self, committed: int, now: float) -> None:
        if committed != self._committed:
            self._committed = committed
            self._note(Committed(now, committed))

    def _note(self, event: Any) -> None:
        self._conversation.events.append(event)
