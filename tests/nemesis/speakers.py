"""Clients of every dialect that send in real time and record all events. They cannot resume, and check nothing.

The messages are those of the test clients (`asr_dialects`). A speaker records the whole text after each message of the
server, and how the session ended: completed, with an error or a goodbye, or by a broken connection.
"""

from __future__ import annotations

import asyncio
import re
from typing import Any

from asr_client.dialects import DIALECTS, DialectClient
from asr_client.dialects.conversation import NORMAL, Channel, Closed
from asr_client.errors import ClientError, ServerError
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE
from asr_proto.errors import DecodeError
from tests.nemesis.clients import HUNG_S, Clock, Manner, StreamClient
from tests.nemesis.history import (
    GOING_AWAY,
    NATIVE,
    Conversation,
    Cut,
    Ended,
    Failed,
    Heard,
    Hung,
    Opened,
    Readied,
    Stopped,
)
from tests.nemesis.truth import Script

AWAY_CODES = frozenset({1001, 1012})
"""WebSocket close codes that say that the server goes away or restarts."""
AWAY_WORDS = ("going-away", "going_away", "going away")
TRANSCRIBED = re.compile(r"(\d+\.\d+) s of audio are transcribed")
CLOSE_S = 5.0
"""Longest wait for the close after an error, in seconds."""
SILENT_S = 20.0
"""A data channel to a dead process does not close: without a message for this long, it counts as broken."""


def client(
    dialect: str, address: str, said: Script, conversation: Conversation, manner: Manner, clock: Clock
) -> StreamClient | Speaker:
    """The client of a dialect for one session with the server at HOST:PORT."""
    if dialect == NATIVE:
        return StreamClient(f"ws://{address}/v1/stream", said, conversation, manner, clock)
    return Speaker(DIALECTS[dialect], address, said, conversation, manner, clock)


class Speaker:
    """One session of a dialect, on one connection."""

    def __init__(
        self,
        dialect: DialectClient,
        address: str,
        said: Script,
        conversation: Conversation,
        manner: Manner,
        clock: Clock,
    ) -> None:
        self._dialect, self._address, self._manner, self._clock = dialect, address, manner, clock
        self._pcm = said.pcm.astype("<i2").tobytes()
        self._conversation = conversation
        self._session = dialect.session(None)
        self._ready = asyncio.Event()
        self._all_sent = self._said_its_end = False
        self._text = ""
        self._sent_when_heard = 0
        """How much audio had been sent when the last message arrived, in samples."""

    async def run(self) -> None:
        """Run the session to its end, however it ends."""
        self._note(Opened(self._clock()))
        try:
            async with self._dialect.open_channel(self._dialect.url(self._address), None) as channel:
                await self._converse(channel)
        except ServerError as error:  # the server refused the connection
            self._over(_failed(self._clock(), error.code, error.message))
        except (ClientError, DecodeError) as error:
            self._over(Cut(self._clock(), f"{type(error).__name__}: {error}"))

    async def _converse(self, channel: Channel) -> None:
        sending = asyncio.create_task(self._send(channel))
        try:
            while not (self._all_sent and self._said_its_end):
                self._read(await asyncio.wait_for(channel.receive(), self._patience_s()))
            self._over(Ended(self._clock(), "complete"))
        except Closed as closed:
            self._over(self._end_of(closed))
        except ServerError as error:
            sending.cancel()
            reason = await _close_reason(channel)
            self._over(_failed(self._clock(), error.code, f"{error.message} {reason}".strip()))
        except TimeoutError:
            self._over(self._silence())
        finally:
            sending.cancel()
            await asyncio.wait([sending])

    # ---- Sent messages ----

    async def _send(self, channel: Channel) -> None:
        try:
            for message in self._session.opening():
                await channel.send(message)
            if self._session.waits_for_ready:
                await self._ready.wait()
            await self._send_audio(channel)
            self._all_sent = True
            self._note(Stopped(self._clock()))
            for message in self._session.ending():
                await channel.send(message)
        except Closed:  # the reader receives the reason
            return

    async def _send_audio(self, channel: Channel) -> None:
        size = round(self._manner.frame_s * SAMPLE_RATE) * BYTES_PER_SAMPLE
        began_s = self._clock()
        for start in range(0, len(self._pcm), size):
            frame = self._pcm[start : start + size]
            due_s = began_s + (start + len(frame)) / (SAMPLE_RATE * BYTES_PER_SAMPLE)
            await asyncio.sleep(max(0.0, due_s - self._clock()) if self._manner.paced else 0.0)
            await channel.send(frame)
            self._conversation.sent_samples += len(frame) // BYTES_PER_SAMPLE

    # ---- Received messages ----

    def _read(self, message: str | bytes) -> None:
        update = self._session.read(message)
        self._sent_when_heard = self._conversation.sent_samples
        now = self._clock()
        if (update.ready or update.text) and self._conversation.ready_s is None:
            self._note(Readied(now, ""))
        if update.ready:
            self._ready.set()
        if update.text is not None and update.text != self._text:
            self._text = update.text
            self._note(Heard(now, update.text))
        self._said_its_end |= update.ended

    def _end_of(self, closed: Closed) -> Ended | Failed | Cut:
        """What a close means in this dialect."""
        now = self._clock()
        if closed.code == NORMAL or (closed.code is None and self._said_its_end):
            return Ended(now, "complete")
        if closed.code is None:
            return Cut(now, "the connection broke")
        return _failed(now, f"closed-{closed.code}", closed.reason, closed.code)

    def _patience_s(self) -> float:
        return SILENT_S if self._dialect.channel == "webrtc" else HUNG_S

    def _silence(self) -> Cut | Hung:
        if self._dialect.channel == "webrtc":
            self._conversation.sent_samples = self._sent_when_heard
            return Cut(self._clock(), "nothing arrived any more", SILENT_S)
        return Hung(self._clock())

    def _over(self, event: Ended | Failed | Cut | Hung) -> None:
        self._conversation.all_sent = self._all_sent
        self._note(event)

    def _note(self, event: Any) -> None:
        self._conversation.events.append(event)


async def _close_reason(channel: Channel) -> str:
    """The reason of the close that follows an error; empty if none comes soon."""
    try:
        async with asyncio.timeout(CLOSE_S):
            while True:
                await channel.receive()
    except Closed as closed:
        return closed.reason
    except TimeoutError:
        return ""


def _failed(at_s: float, code: str, reason: str, number: int | None = None) -> Failed:
    """The failure, with GOING_AWAY for every way in which a dialect says it."""
    words = f"{code} {reason}".lower()
    away = number in AWAY_CODES or any(one in words for one in AWAY_WORDS)
    transcribed = TRANSCRIBED.search(reason)
    return Failed(at_s, GOING_AWAY if away else code, reason, float(transcribed[1]) if transcribed else None)
