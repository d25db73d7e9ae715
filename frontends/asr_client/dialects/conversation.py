"""One session over any channel: send the frames at a pace and read the server's messages at the same time.

The dialect is in DialectSession and the transport in a Channel; this module contains neither.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Protocol

from asr_client.dialects.dialect_session import DialectSession
from asr_client.dialects.recorder import BYTES_PER_S, Recorder
from asr_client.errors import ConnectionLost, ServerError
from asr_dialects.client import Message

READY_TIMEOUT_S = 30.0
ANSWER_TIMEOUT_S = 30.0
"""Longest time without a message of the server after all audio was sent."""
NORMAL, PRIVATE = 1000, 4000
"""The orderly close code, and the first code for private use (RFC 6455, section 7.4.2)."""


class Closed(Exception):
    """The server has closed the channel. `code` is the WebSocket's, None where the connection broke."""

    def __init__(self, code: int | None, reason: str = "") -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Channel(Protocol):
    """A connection that carries messages. Both methods raise Closed."""

    ready_timeout_s: float

    async def send(self, message: Message) -> None:
        """Send a message. Waits while the server reads too slowly."""

    async def receive(self) -> Message:
        """The next message. Canceling the call loses no message."""


async def converse(
    channel: Channel, session: DialectSession, frames: Iterable[bytes], pace: float, recorder: Recorder
) -> None:
    """Run the whole session. Raises ServerError, ConnectionLost, DecodeError."""
    ready = asyncio.Event()
    tasks = (
        asyncio.create_task(_read(channel, session, recorder, ready)),
        asyncio.create_task(_send(channel, session, frames, pace, recorder, ready)),
    )
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    if not recorder.all_sent:
        raise ConnectionLost("the server ended the session before all audio was sent")


async def _send(
    channel: Channel,
    session: DialectSession,
    frames: Iterable[bytes],
    pace: float,
    recorder: Recorder,
    ready: asyncio.Event,
) -> None:
    """Send the whole session. When the channel closes, this returns: `_read` receives the reason and raises it."""
    try:
        for message in session.opening():
            await channel.send(message)
        if session.waits_for_ready:
            await _wait_for(ready, channel.ready_timeout_s)
        await _send_audio(channel, frames, pace, recorder)
        recorder.all_sent = True
        for message in session.ending():
            await channel.send(message)
    except Closed:
        return


async def _wait_for(ready: asyncio.Event, timeout_s: float) -> None:
    try:
        await asyncio.wait_for(ready.wait(), timeout_s)
    except TimeoutError:
        raise ConnectionLost(f"the server accepted the connection but was not ready within {timeout_s:g} s") from None


async def _send_audio(channel: Channel, frames: Iterable[bytes], pace: float, recorder: Recorder) -> None:
    """Send each frame at its time in the recording, counted from the first frame, so that delays do not add up."""
    clock = asyncio.get_running_loop().time
    start, position_s = clock(), 0.0
    for frame in frames:
        position_s += len(frame) / BYTES_PER_S
        await asyncio.sleep(max(0.0, start + position_s / pace - clock()) if pace > 0 else 0.0)
        recorder.sending(frame)
        await channel.send(frame)
        recorder.sent()


async def _read(channel: Channel, session: DialectSession, recorder: Recorder, ready: asyncio.Event) -> None:
    while True:
        try:
            update = session.read(await _next(channel, recorder))
        except Closed as closed:
            if not (session.ends_with_close and closed.code == NORMAL):
                raise _why(closed) from None
            recorder.ended()
            return
        if update.text is not None:
            recorder.said(update.text)
        if update.ready:
            ready.set()
        if update.ended:
            recorder.ended()
            return


async def _next(channel: Channel, recorder: Recorder) -> Message:
    """The next message. Raises ConnectionLost when the server has all audio and sends nothing for too long."""
    while True:
        try:
            return await asyncio.wait_for(channel.receive(), ANSWER_TIMEOUT_S)
        except TimeoutError:
            if recorder.all_sent and recorder.silent_s() >= ANSWER_TIMEOUT_S:
                raise ConnectionLost(f"the server has sent nothing for {ANSWER_TIMEOUT_S:g} s") from None


def _why(closed: Closed) -> ServerError | ConnectionLost:
    if closed.code is None:
        return ConnectionLost("the connection broke before the session had ended")
    if closed.code >= PRIVATE:
        return ServerError(f"closed-{closed.code}", closed.reason)
    reason = f" {closed.reason}" if closed.reason else ""
    return ConnectionLost(f"the server closed the connection early: {closed.code}{reason}", closed.code)
