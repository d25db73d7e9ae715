"""Clients of `/v1/stream` that send in real time, record all events, and resume after a broken connection.

A client whose connection breaks connects again: it sends {"type":"start","resume":{"session":...,"finals":N}},
receives `from_sample`, and continues from there. If the server has lost the session or cannot resume it, the client
stays cut. The clients check nothing; the checker does.
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
"""Longest wait for a message, in seconds: longer than the service needs to lose a session, which takes 30 s."""
OPEN_S = 15.0
AGAIN_S = 0.05
UNKNOWN = "resume-unavailable"
"""The server's error for a session that it cannot resume."""
BROKEN = (OSError, EOFError, ConnectionClosed, InvalidHandshake, InvalidMessage)

Clock = Callable[[], float]
"""Seconds since the run began."""


@dataclass(frozen=True, slots=True)
class Manner:
    """The behavior of all clients of a run."""

    frame_s: float = 0.1
    paced: bool = True
    """Send each frame in real time; otherwise as fast as the server accepts it."""
    resume: bool = True
    """Resume after a cut, if the server supports it."""
    return_s: float = 10.0
    """How long to try to resume, in seconds."""


class StreamClient:
    """One conversation, from its first connection to its end."""

    def __init__(self, url: str, said: Script, conversation: Conversation, manner: Manner, clock: Clock) -> None:
        self._url, self._script, self._manner, self._clock = url, said, manner, clock
        self._pcm = said.pcm.astype("<i2").tobytes()
        self._conversation = conversation
        self._session: str | None = None
        self._began_s: float | None = None
        """When sample 0 was due."""
        self._finals = 0
        self._committed = 0
        self._answered: set[str] = set()
        self._over = False

    async def run(self) -> None:
        """Run the session to its end, or until it cannot be resumed."""
        give_up_s: float | None = None
        while not self._over:
            events = len(self._conversation.events)
            try:
                await self._connect()
                why = "closed without an end or error"
            except BROKEN as error:
                why = f"{type(error).__name__}: {error}"
            except TimeoutError:
                self._note(Hung(self._clock()))
                return
            if self._over:
                return
            if len(self._conversation.events) > events + 1 or give_up_s is None:  # the connection was open until now
                give_up_s = self._clock() + self._manner.return_s
                self._note(Cut(self._clock(), why))
            if self._session is None or not self._manner.resume or self._clock() > give_up_s:
                return
            await asyncio.sleep(AGAIN_S)

    # ---- One connection ----

    async def _connect(self) -> None:
        """Open a connection and serve it; returns when the server has closed it."""
        options: dict[str, Any] = {"compression": None, "ping_interval": None, "open_timeout": OPEN_S}
        async with connect(self._url, close_timeout=1, max_queue=64, **options) as socket:
            await self._start(socket)
            sending: asyncio.Task[None] | None = None
            try:
                while True:
                    message = json.loads(await asyncio.wait_for(socket.recv(), HUNG_S))
                    if message["type"] == "ready":
                        sending = asyncio.create_task(self._send_audio(socket, self._on_ready(message)))
                    else:
                        self._on_message(message)
            except ConnectionClosed as error:
                self._conversation.said_goodbye = error.rcvd is not None
                return
            finally:
                if sending is not None:
                    sending.cancel()
                    await asyncio.wait([sending])

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

    async def _send_audio(self, socket: ClientConnection, sample: int) -> None:
        """Send the audio from `sample` on; audio that was due before now is sent immediately."""
        with suppress(ConnectionClosed):
            await self._flush(socket, sample)
            while sample < len(self._script.pcm):
                end = self._frame_end(sample)
                await self._until_due(end)
                await socket.send(self._pcm[2 * sample : 2 * end])
                sample = end
                self._conversation.sent_samples = max(self._conversation.sent_samples, sample)
                await self._flush(socket, sample)
            if not self._over:
                self._conversation.all_sent = True
                if self._conversation.stopped_s is None:
                    self._note(Stopped(self._clock()))
                await socket.send('{"type":"stop"}')

    def _frame_end(self, sample: int) -> int:
        """The end of the frame that starts at `sample`; a flush ends it early."""
        end = min(sample + round(self._manner.frame_s * SAMPLE_RATE), len(self._script.pcm))
        return min([end, *(edge for edge in self._script.flushes if sample < edge)])

    async def _until_due(self, sample: int) -> None:
        assert self._began_s is not None
        if self._manner.paced and (wait_s := self._began_s + sample / SAMPLE_RATE - self._clock()) > 0:
            await asyncio.sleep(wait_s)

    async def _flush(self, socket: ClientConnection, sample: int) -> None:
        marker = self._script.marker_at(sample)
        if marker is not None and marker not in self._answered:
            await socket.send(json.dumps({"type": "flush", "marker": marker}))

    # ---- Received messages ----

    def _on_message(self, message: dict[str, Any]) -> None:
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
