"""One session of the `/v1/stream` dialect, for asyncio.

    async with connect("ws://127.0.0.1:8000", language="en") as session:
        await session.send(pcm)          # PCM16LE mono bytes, any length
        await session.stop()
        async for event in session:      # Partial, Final, Flushed, Ack, Migrating, GoAway, Reconnected, End
            print(event)

Back-pressure: the server stops reading when it falls behind, and `send` then waits. The session reads the server's
events all the time, also while the program does not read them (see `inbox`).

A connection that breaks is replaced: unconfirmed audio and flushes are kept and sent again (see `continuity`), and the
methods wait meanwhile. Two tasks serve a connection: one receives events and runs as long as the session; one sends the
entries that the methods have added to the replay.
This module does not read audio sources or show text.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

from asr_audio.entries import Entry, Mark, Piece
from asr_client.connection import Broken, StreamConnection
from asr_client.continuity import Continuity
from asr_client.dialer import Outage, StreamDialer
from asr_client.errors import ConnectionLost, InvalidUrl, ServerError
from asr_client.events import End, Event, Ready, Reconnected
from asr_client.inbox import Inbox
from asr_dialects import native
from asr_proto.audio import SAMPLE_RATE
from asr_proto.errors import AsrError

FRAME_BYTES_MAX = 32_768
"""Largest frame sent, about a second at 16 kHz: longer audio is split, so that every server accepts the message."""
RESUME_S = 30.0
"""How long a server keeps a session whose connection broke, in seconds."""
KEPT_S_MAX = 120.0
"""Longest audio kept to be sent again, in seconds. Servers confirm audio every few seconds; otherwise `send` waits."""
SILENT_S = 15.0
"""Longest time without a message, in seconds, before the connection counts as broken: servers send one every second."""


def stream_url(url: str) -> str:
    """The WebSocket URL for `host:port`, `ws://host`, `http://host` and the like; raises InvalidUrl."""
    try:
        parts = urlsplit(url if "://" in url else f"ws://{url}")
        valid = bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, unbalanced brackets
        valid = False
    scheme = {"http": "ws", "https": "wss"}.get(parts.scheme, parts.scheme) if valid else ""
    if scheme not in ("ws", "wss"):
        raise InvalidUrl(f"{url!r} is no address of a server (try ws://127.0.0.1:8000)")
    path = parts.path if parts.path.strip("/") else native.PATH
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


@asynccontextmanager
async def connect(
    url: str,
    *,
    model: str | None = None,
    language: str | None = None,
    sample_rate: int = SAMPLE_RATE,
    partials: bool = True,
    look_ahead_ms: int | None = None,
    api_key: str | None = None,
    open_timeout_s: float = 10.0,
    ready_timeout_s: float = 30.0,
    resume_s: float = RESUME_S,
) -> AsyncIterator[Session]:
    """Open a session and wait until it is ready; the end of the block closes the connection, also before the end.

    `sample_rate` is that of the audio to send, in Hz. A URL without a path gets `/v1/stream`. `api_key` is sent as a
    Bearer token. `look_ahead_ms`: how much audio after a word the model may wait for, if the model offers the choice.
    After a connection broke, the session reconnects for up to `resume_s` seconds; 0 turns this off.
    Raises InvalidUrl, ConnectionFailed, ServerError (rejected), ConnectionLost, DecodeError.
    """
    start: native.Start = {"sample_rate": sample_rate, "partials": partials}
    if model is not None:
        start["model"] = model
    if language is not None:
        start["language"] = language
    if look_ahead_ms is not None:
        start["look_ahead_ms"] = look_ahead_ms
    dialer = StreamDialer(stream_url(url), api_key, start, open_timeout_s, ready_timeout_s)
    session = Session(dialer, sample_rate, resume_s)
    try:
        await session._open()
        yield session
    finally:
        await session.close()


class Session:
    """An open session. Iterate over it for its events, in one task; other tasks may call its methods.

    Iteration stops after End. After all received events, it raises ServerError if the server ended the session, and
    ConnectionLost if the connection ended first and the session could not reconnect in time. A method called after
    the end of the session raises the same error. Audio of a cancelled `send` may still be sent.
    """

    ready: Ready
    """The server's first answer to `start`."""

    def __init__(self, dialer: StreamDialer, sample_rate: int, resume_s: float) -> None:
        self._dialer = dialer
        self._resume_s = resume_s
        self._continuity = Continuity(sample_rate, KEPT_S_MAX)
        self._replay = self._continuity.replay
        self._inbox = Inbox()
        self._connection: StreamConnection | None = None
        self._life: asyncio.Task[None] | None = None
        self._outage: Outage | None = None
        self._sent = 0
        """Number of replay entries sent so far: `send` returns when its own entries are among them."""
        self._changed = asyncio.Event()

    # Out

    async def send(self, pcm: bytes | bytearray | memoryview) -> None:
        """Send audio: PCM16LE mono at the session's sample rate, any length. Waits while the server is behind.

        Raises as iteration does; so do the other methods.
        """
        audio = memoryview(pcm).cast("B")
        for start in range(0, len(audio), FRAME_BYTES_MAX):
            self._raise_if_over()
            await self._until(lambda: self._replay.has_room)
            self._replay.add_audio(bytes(audio[start : start + FRAME_BYTES_MAX]))
            await self._until_sent()

    async def flush(self, marker: str) -> None:
        """End the utterance here; `Flushed(marker)` follows all text of the audio sent so far."""
        self._raise_if_over()
        self._replay.add_flush(marker)
        await self._until_sent()

    async def keepalive(self) -> None:
        """Keep the session open while there is no audio to send."""
        self._raise_if_over()
        connection = self._connected()
        try:
            await connection.send(native.keepalive())
        except ConnectionLost:
            await self._until(lambda: self._connection is not connection)

    async def stop(self) -> None:
        """End the audio: the remaining finals follow, then End."""
        self._raise_if_over()
        self._replay.add_stop()
        await self._until_sent()

    # In

    async def receive(self) -> Event | None:
        """The next event, None after End. Raises as iteration does."""
        return await self._inbox.get()

    def __aiter__(self) -> Session:
        return self

    async def __anext__(self) -> Event:
        event = await self.receive()
        if event is None:
            raise StopAsyncIteration
        return event

    # The session's own life

    async def close(self) -> None:
        """Close the connection, also before the end; the server drops a session that was not stopped."""
        if self._life is not None:
            if not self._inbox.is_closed:
                self._life.cancel()
            await asyncio.wait([self._life])
        self._over(ConnectionLost("the session was closed"))
        if self._connection is not None:
            await self._connection.close()

    async def _open(self) -> None:
        try:
            self.ready = await self._dial()
        except Broken as error:
            self.ready = await self._dial_again(error)
        self._continuity.begin(self.ready)
        self._life = asyncio.create_task(self._live())

    async def _live(self) -> None:
        failure: AsrError | None = None
        try:
            while not await self._converse():
                pass
        except AsrError as error:
            failure = error
        self._over(failure)
        await self._connected().close()

    def _over(self, failure: AsrError | None) -> None:
        self._inbox.close(failure)
        self._changed.set()

    async def _converse(self) -> bool:
        """Serve this connection: True at the end of the session, False when another connection follows."""
        sending = asyncio.create_task(self._send_entries(self._connected()))
        try:
            await self._receive_events(self._connected())
            return True
        except Broken as error:
            broken = error
        finally:
            sending.cancel()
            await asyncio.wait([sending])
        await self._reconnect(broken)
        return False

    async def _receive_events(self, connection: StreamConnection) -> None:
        """Put received events into the inbox until the session ends."""
        event: Event | None = None
        while not isinstance(event, End):
            try:
                async with asyncio.timeout(SILENT_S if self._resume_s else None):
                    event = await connection.receive()
            except TimeoutError:
                raise Broken(f"the server was silent for {SILENT_S:g} s") from None
            self._outage = None
            for shown in self._continuity.received(event):
                self._inbox.put(shown)
            self._changed.set()

    async def _send_entries(self, connection: StreamConnection) -> None:
        """Send the replay's entries. Returns when the connection is lost: `_receive_events` raises the error."""
        while True:
            await self._until(lambda: self._replay.sent < self._replay.added)
            entry = self._replay.next()
            sent = self._replay.sent
            try:
                await _send_entry(connection, entry)
            except ConnectionLost:
                return
            if not self._resume_s:
                self._replay.forget()
            self._mark_sent(sent)

    # Another connection

    async def _reconnect(self, broken: Broken) -> None:
        self._connected().abort()
        ready = await self._dial_again(broken)
        assert self._outage is not None
        gap_s = asyncio.get_running_loop().time() - self._outage.began_at
        resumed = self._continuity.begin(ready)
        self._inbox.put(Reconnected(resumed, round(gap_s, 3)))
        self._mark_sent(self._replay.sent)

    async def _dial_again(self, broken: Broken) -> Ready:
        if not self._resume_s:
            raise broken
        if self._outage is None:
            self._outage = Outage(broken, self._resume_s, asyncio.get_running_loop().time())
        return await self._outage.end(self._dial)

    async def _dial(self) -> Ready:
        """Connect to resume the session; if the server has lost it, to begin a new one."""
        resume = self._continuity.resume()
        try:
            self._connection, ready = await self._dialer.dial(resume)
        except ServerError as error:
            if resume is None or error.code != "resume-unavailable":
                raise
            self._continuity.lost()
            self._connection, ready = await self._dialer.dial()
        return ready

    # Waiting

    def _connected(self) -> StreamConnection:
        """The current connection, which may be broken."""
        assert self._connection is not None
        return self._connection

    async def _until_sent(self) -> None:
        """Wait until all entries added so far are sent."""
        added = self._replay.added
        self._changed.set()
        await self._until(lambda: self._sent >= added)

    def _mark_sent(self, entries: int) -> None:
        self._sent = max(self._sent, entries)
        self._changed.set()

    async def _until(self, is_so: Callable[[], bool]) -> None:
        """Wait until the condition holds; raises the session's error if the session ends first."""
        while not is_so():
            self._raise_if_over()
            self._changed.clear()
            await self._changed.wait()

    def _raise_if_over(self) -> None:
        if self._inbox.is_closed:
            raise self._inbox.failure or ConnectionLost("the session is over")


async def _send_entry(connection: StreamConnection, entry: Entry) -> None:
    match entry:
        case Piece():
            await connection.send(entry.pcm)
        case Mark(marker=str(marker)):
            await connection.send(native.flush(marker))
        case Mark():
            await connection.send(native.stop())
