"""One session of the `/v1/stream` dialect, for asyncio.

    async with connect("ws://127.0.0.1:8000", language="en") as session:
        await session.send(pcm)          # PCM16LE mono bytes, any length
        await session.stop()
        async for event in session:      # Partial, Final, Flushed, Ack, Migrating, GoAway, Reconnected, End
            print(event)

Back-pressure: the server withholds its reads when it is behind, and `send` then waits. Its events are read all the
time, whether the program asks for them or not (see `inbox`).

A connection that breaks is replaced: what the server has not confirmed is kept and said again (see `continuity`), and
the verbs wait meanwhile. Two tasks serve a connection: one hears, and lives as long as the session; one tells it what
the verbs have left in the replay.
This module must not know where audio comes from or how text is shown.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

from asr_audio.entries import Entry, Mark, Piece
from asr_client.connection import Broken, Connection
from asr_client.continuity import Continuity
from asr_client.dialer import Dialer, Outage
from asr_client.errors import ConnectionLost, InvalidUrl, ServerError
from asr_client.events import End, Event, Ready, Reconnected
from asr_client.inbox import Inbox
from asr_dialects import native
from asr_proto.audio import SAMPLE_RATE
from asr_proto.errors import AsrError

FRAME_BYTES_MAX = 32_768
"""Largest frame sent, about a second at 16 kHz: longer audio is cut, so that no server finds a message too large."""
RESUME_S = 30.0
"""How long a server keeps a session whose connection broke."""
KEPT_S_MAX = 120.0
"""Audio kept for another connection. A server confirms more every few seconds; should it not, `send` waits."""
SILENT_S = 15.0
"""A server says something every second. One that is silent for this long is on a connection that leads nowhere."""


def stream_url(url: str) -> str:
    """The WebSocket URL meant by `host:port`, `ws://host`, `http://host` and the like; raises InvalidUrl."""
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
    """Open a session and wait until it is ready; leaving the block closes the connection, finished or not.

    `sample_rate` is that of the audio that will be sent, in Hz. A URL without a path gets `/v1/stream`. `api_key` is
    sent as a Bearer token. `look_ahead_ms`: how much audio behind a word the model may wait for, where it leaves the
    choice. For `resume_s` after a connection broke another one is tried; 0 does without.
    Raises InvalidUrl, ConnectionFailed, ServerError (refused), ConnectionLost, DecodeError.
    """
    start: native.Start = {"sample_rate": sample_rate, "partials": partials}
    if model is not None:
        start["model"] = model
    if language is not None:
        start["language"] = language
    if look_ahead_ms is not None:
        start["look_ahead_ms"] = look_ahead_ms
    session = Session(Dialer(stream_url(url), api_key, start, open_timeout_s, ready_timeout_s), sample_rate, resume_s)
    try:
        await session._open()
        yield session
    finally:
        await session.close()


class Session:
    """An open session. Iterate over it for its events, in one task; the verbs may be called from others.

    Iteration stops after End. It raises ServerError when the server ends the session and ConnectionLost when the
    connection ends first and no other one is had in time, after the events that came before; a verb that meets the
    end of the session raises the same. What a verb said before it was cancelled may be said nevertheless.
    """

    ready: Ready
    """The server's first answer to `start`."""

    def __init__(self, dialer: Dialer, sample_rate: int, resume_s: float) -> None:
        self._dialer = dialer
        self._resume_s = resume_s
        self._continuity = Continuity(sample_rate, KEPT_S_MAX)
        self._replay = self._continuity.replay
        self._inbox = Inbox()
        self._connection: Connection | None = None
        self._life: asyncio.Task[None] | None = None
        self._outage: Outage | None = None
        self._written = 0
        """Entries of the replay that have left: `send` returns when its own have."""
        self._changed = asyncio.Event()

    # Out

    async def send(self, pcm: bytes | bytearray | memoryview) -> None:
        """Send audio: PCM16LE mono at the session's sample rate, any length. Waits while the server is behind."""
        audio = memoryview(pcm).cast("B")
        for start in range(0, len(audio), FRAME_BYTES_MAX):
            self._raise_if_over()
            await self._until(lambda: self._replay.has_room)
            self._replay.add_audio(bytes(audio[start : start + FRAME_BYTES_MAX]))
            await self._said()

    async def flush(self, marker: str) -> None:
        """End the utterance here; `Flushed(marker)` comes when all text of the audio sent so far has come."""
        self._raise_if_over()
        self._replay.add_flush(marker)
        await self._said()

    async def keepalive(self) -> None:
        """Keep a session open that has no audio to send."""
        self._raise_if_over()
        connection = self._connected()
        try:
            await connection.send(native.keepalive())
        except ConnectionLost:
            await self._until(lambda: self._connection is not connection)

    async def stop(self) -> None:
        """No more audio: the remaining finals follow, then End."""
        self._raise_if_over()
        self._replay.add_stop()
        await self._said()

    # In

    async def receive(self) -> Event | None:
        """The next event, None after the end. Raises as iteration does."""
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
        """Close the connection, finished or not; the server drops a session that was not stopped."""
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
        telling = asyncio.create_task(self._tell(self._connected()))
        try:
            await self._hear(self._connected())
            return True
        except Broken as error:
            broken = error
        finally:
            telling.cancel()
            await asyncio.wait([telling])
        await self._reconnect(broken)
        return False

    async def _hear(self, connection: Connection) -> None:
        """Fill the inbox up to the end of the session."""
        event: Event | None = None
        while not isinstance(event, End):
            try:
                async with asyncio.timeout(SILENT_S if self._resume_s else None):
                    event = await connection.receive()
            except TimeoutError:
                raise Broken(f"the server was silent for {SILENT_S:g} s") from None
            self._outage = None
            for shown in self._continuity.heard(event):
                self._inbox.put(shown)
            self._changed.set()

    async def _tell(self, connection: Connection) -> None:
        """Send what is in the replay, from where this connection begins. That it has ended is heard elsewhere."""
        while True:
            await self._until(lambda: self._replay.told < self._replay.added)
            entry = self._replay.next()
            told = self._replay.told
            try:
                await _say(connection, entry)
            except ConnectionLost:
                return
            if not self._resume_s:
                self._replay.forget()
            self._wrote(told)

    # Another connection

    async def _reconnect(self, broken: Broken) -> None:
        self._connected().abort()
        ready = await self._dial_again(broken)
        assert self._outage is not None
        gap_s = asyncio.get_running_loop().time() - self._outage.began_at
        resumed = self._continuity.begin(ready)
        self._inbox.put(Reconnected(resumed, round(gap_s, 3)))
        self._wrote(self._replay.told)

    async def _dial_again(self, broken: Broken) -> Ready:
        if not self._resume_s:
            raise broken
        if self._outage is None:
            self._outage = Outage(broken, self._resume_s, asyncio.get_running_loop().time())
        return await self._outage.end(self._dial)

    async def _dial(self) -> Ready:
        """A connection for this session, or for a new one where the server has lost it."""
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

    def _connected(self) -> Connection:
        """The connection, broken or not."""
        assert self._connection is not None
        return self._connection

    async def _said(self) -> None:
        """Wait until all that was said so far has left."""
        said = self._replay.added
        self._changed.set()
        await self._until(lambda: self._written >= said)

    def _wrote(self, told: int) -> None:
        self._written = max(self._written, told)
        self._changed.set()

    async def _until(self, is_so: Callable[[], bool]) -> None:
        """Wait for it; raises what ended the session if that comes first."""
        while not is_so():
            self._raise_if_over()
            self._changed.clear()
            await self._changed.wait()

    def _raise_if_over(self) -> None:
        if self._inbox.is_closed:
            raise self._inbox.failure or ConnectionLost("the session is over")


async def _say(connection: Connection, entry: Entry) -> None:
    match entry:
        case Piece():
            await connection.send(entry.pcm)
        case Mark(marker=str(marker)):
            await connection.send(native.flush(marker))
        case Mark():
            await connection.send(native.stop())
