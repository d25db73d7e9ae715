"""One session of the `/v1/stream` dialect over a WebSocket, for asyncio.

    async with connect("ws://127.0.0.1:8000", language="en") as session:
        await session.send(pcm)          # PCM16LE mono bytes, any length
        await session.stop()
        async for event in session:      # Partial, Final, Flushed, Ack, Migrating, End
            print(event)

Back-pressure: the server withholds its reads when it is behind, and `send` then waits. Its events are read all the
time, whether the program asks for them or not (see `inbox`). A server that withholds its reads answers no pings, so
none are sent; TCP keep-alive notices a host that has gone.
This module must not know where audio comes from or how text is shown.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from asr_client.errors import ConnectionFailed, ConnectionLost, InvalidUrl, ServerError
from asr_client.events import End, Event, Ready, parse
from asr_client.inbox import Inbox
from asr_proto.audio import SAMPLE_RATE
from asr_proto.errors import AsrError, DecodeError

STREAM_PATH = "/v1/stream"
MESSAGE_BYTES_MAX = 1 << 20
"""Largest message taken from the server: a final with all its words stays far below."""
FRAME_BYTES_MAX = 32_768
"""Largest frame sent, about a second at 16 kHz: longer audio is cut, so that no server finds a message too large."""
CLOSE_TIMEOUT_S = 2.0


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
    path = parts.path if parts.path.strip("/") else STREAM_PATH
    return urlunsplit((scheme, parts.netloc, path, parts.query, ""))


@asynccontextmanager
async def connect(
    url: str,
    *,
    model: str | None = None,
    language: str | None = None,
    sample_rate: int = SAMPLE_RATE,
    partials: bool = True,
    api_key: str | None = None,
    open_timeout_s: float = 10.0,
    ready_timeout_s: float = 30.0,
) -> AsyncIterator[Session]:
    """Open a session and wait until it is ready; leaving the block closes the connection, finished or not.

    `sample_rate` is that of the audio that will be sent, in Hz. A URL without a path gets `/v1/stream`. `api_key` is
    sent as a Bearer token.
    Raises InvalidUrl, ConnectionFailed, ServerError (refused), ConnectionLost, DecodeError.
    """
    session = Session(await open_connection(stream_url(url), api_key, open_timeout_s))
    options: dict[str, object] = {
        "model": model,
        "language": language,
        "sample_rate": sample_rate,
        "partials": partials,
    }
    try:
        await session._start(options, ready_timeout_s)
        yield session
    finally:
        await session.close()


async def open_connection(url: str, api_key: str | None, timeout_s: float) -> ClientConnection:
    try:
        websocket = await open_websocket(
            url,
            additional_headers={"Authorization": f"Bearer {api_key}"} if api_key else None,
            compression=None,
            ping_interval=None,
            max_size=MESSAGE_BYTES_MAX,
            open_timeout=timeout_s,
            close_timeout=CLOSE_TIMEOUT_S,
        )
    except InvalidStatus as error:
        body = (error.response.body or b"").decode(errors="replace").strip()
        raise ServerError(f"http-{error.response.status_code}", body or "the server refused the connection") from error
    except InvalidHandshake as error:
        raise ServerError("no-websocket", f"what answers at {url} speaks no WebSocket") from error
    except TimeoutError as error:
        raise ConnectionFailed(url, f"no answer within {timeout_s:g} s") from error
    except OSError as error:
        refused = isinstance(error, ConnectionRefusedError)
        raise ConnectionFailed(url, "" if refused else error.strerror or "") from error
    _keep_alive(websocket.transport.get_extra_info("socket"))
    return websocket


def _keep_alive(tcp: socket.socket) -> None:
    """Let the kernel notice within about 30 s that the other host is gone; it answers where a busy server would not."""
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            tcp.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


class Session:
    """An open session. Iterate over it for its events, in one task; the verbs may be called from others.

    Iteration stops after End. It raises ServerError when the server ends the session and ConnectionLost when the
    connection ends first, after the events that came before; a verb that meets the closed connection raises the same.
    """

    ready: Ready
    """The server's answer to `start`."""

    def __init__(self, websocket: ClientConnection) -> None:
        self._websocket = websocket
        self._inbox = Inbox()
        self._reader = asyncio.create_task(self._read())

    # Out

    async def send(self, pcm: bytes | bytearray | memoryview) -> None:
        """Send audio: PCM16LE mono at the session's sample rate, any length. Waits while the server is behind."""
        audio = memoryview(pcm).cast("B")
        for start in range(0, len(audio), FRAME_BYTES_MAX):
            await self._send(audio[start : start + FRAME_BYTES_MAX])

    async def flush(self, marker: str) -> None:
        """End the utterance here; `Flushed(marker)` comes when all text of the audio sent so far has come."""
        await self._send_control({"type": "flush", "marker": marker})

    async def keepalive(self) -> None:
        """Keep a session open that has no audio to send."""
        await self._send_control({"type": "keepalive"})

    async def stop(self) -> None:
        """No more audio: the remaining finals follow, then End."""
        await self._send_control({"type": "stop"})

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
        try:
            await self._close_websocket()
        finally:
            self._reader.cancel()
            await asyncio.wait([self._reader])

    async def _close_websocket(self) -> None:
        # The library's own timeout does not cover a close frame that waits behind audio which nobody reads.
        try:
            await asyncio.wait_for(self._websocket.close(), CLOSE_TIMEOUT_S)
        except TimeoutError:
            pass
        finally:
            self._websocket.transport.abort()
        await self._websocket.wait_closed()

    async def _start(self, options: dict[str, object], timeout_s: float) -> None:
        await self._send_control(
            {"type": "start", **{key: value for key, value in options.items() if value is not None}}
        )
        try:
            event = await asyncio.wait_for(self._inbox.get(), timeout_s)
        except TimeoutError:
            raise ConnectionLost(f"the server took the connection but was not ready within {timeout_s:g} s") from None
        if not isinstance(event, Ready):
            raise DecodeError(f"the server sent {type(event).__name__} before it was ready")
        self.ready = event

    async def _send_control(self, message: dict[str, object]) -> None:
        await self._send(json.dumps(message, ensure_ascii=False))

    async def _send(self, message: str | memoryview) -> None:
        try:
            await self._websocket.send(message)
        except ConnectionClosed:
            await asyncio.wait([self._reader])
            raise self._inbox.failure or ConnectionLost("the session is over") from None

    async def _read(self) -> None:
        failure: AsrError | None = ConnectionLost("the session was closed")
        try:
            failure = await self._take_messages()
        except DecodeError as error:
            failure = error
        except ConnectionClosed as error:
            failure = _lost(error)
        finally:
            self._inbox.close(failure)
        await self._close_websocket()

    async def _take_messages(self) -> AsrError | None:
        """Fill the inbox up to the end of the session: None for an orderly one."""
        while True:
            message = parse(await self._websocket.recv())
            if isinstance(message, ServerError):
                return message
            if message is not None:
                self._inbox.put(message)
            if isinstance(message, End):
                return None


def _lost(error: ConnectionClosed) -> ConnectionLost:
    if error.rcvd is None:
        return ConnectionLost("the connection broke before the session had ended")
    reason = f" {error.rcvd.reason}" if error.rcvd.reason else ""
    return ConnectionLost(f"the server closed the connection early: {error.rcvd.code}{reason}", error.rcvd.code)
