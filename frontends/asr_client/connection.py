"""One WebSocket connection to `/v1/stream`, from handshake to close. It carries one session, or a part of one.

The client sends no pings, because a server that pauses its reads (back-pressure) does not answer them. TCP keep-alive
detects a lost host while nothing is sent; missing acks detect it while audio is sent.
This module does not decide what is sent again or when another connection is tried.
"""

from __future__ import annotations

import asyncio
import socket

from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_websocket
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus

from asr_client.errors import ConnectionFailed, ConnectionLost, ServerError
from asr_client.events import Event, GoAway, Ready, parse
from asr_dialects import native
from asr_proto.errors import DecodeError

MESSAGE_BYTES_MAX = 1 << 20
"""Largest message accepted from the server; a final with all its words is far smaller."""
CLOSE_TIMEOUT_S = 2.0
GOING_AWAY = 1001


class Broken(ConnectionLost):
    """The connection ended but the session did not: the server keeps the session for another connection."""


class StreamConnection:
    """Call `await StreamConnection.open(...)`, then `start`, then any number of `send` and `receive`, then `close`."""

    def __init__(self, websocket: ClientConnection) -> None:
        self._websocket = websocket
        self._must_leave = False

    @classmethod
    async def open(cls, url: str, api_key: str | None, timeout_s: float) -> StreamConnection:
        """Open the WebSocket. Raises ConnectionFailed, ServerError."""
        return cls(await open_connection(url, api_key, timeout_s))

    async def start(self, fields: native.Start, timeout_s: float) -> Ready:
        """Send `start` with these fields and wait for `ready`. Raises ConnectionLost, ServerError and DecodeError."""
        await self.send(native.start(fields))
        try:
            async with asyncio.timeout(timeout_s):
                event = await self.receive()
        except TimeoutError:
            raise ConnectionLost(f"the server took the connection but was not ready within {timeout_s:g} s") from None
        if not isinstance(event, Ready):
            raise DecodeError(f"the server sent {type(event).__name__} before it was ready")
        return event

    async def send(self, message: str | bytes) -> None:
        """Send a text or binary message; waits while the server does not read. Raises ConnectionLost."""
        try:
            await self._websocket.send(message)
        except ConnectionClosed as error:
            raise self._lost(error) from None

    async def receive(self) -> Event:
        """The next event; unknown message types are skipped. Raises ServerError, ConnectionLost and DecodeError."""
        while True:
            try:
                message = parse(await self._websocket.recv())
            except ConnectionClosed as error:
                raise self._lost(error) from None
            if isinstance(message, ServerError):
                raise self._ended(message)
            if message is not None:
                self._must_leave |= isinstance(message, GoAway)
                return message

    async def close(self) -> None:
        """Close the connection, without waiting if it is broken. May be called again."""
        # The library's own timeout does not cover a close frame queued after audio that the server does not read.
        try:
            await asyncio.wait_for(self._websocket.close(), CLOSE_TIMEOUT_S)
        except TimeoutError:
            pass
        finally:
            self._websocket.transport.abort()
        await self._websocket.wait_closed()

    def abort(self) -> None:
        """Drop the connection without a close frame, so that the server keeps the session."""
        self._websocket.transport.abort()

    def _ended(self, error: ServerError) -> ServerError | Broken:
        """Broken if the server sent `goaway` before and now closes with `going-away`: the session can be resumed."""
        is_asked_to_leave = self._must_leave and error.code == "going-away"
        return Broken(error.detail, GOING_AWAY) if is_asked_to_leave else error

    def _lost(self, error: ConnectionClosed) -> ConnectionLost:
        if error.rcvd is not None:
            reason = f" {error.rcvd.reason}" if error.rcvd.reason else ""
            detail = f"the server closed the connection early: {error.rcvd.code}{reason}"
            is_asked_to_leave = self._must_leave and error.rcvd.code == GOING_AWAY
            return (Broken if is_asked_to_leave else ConnectionLost)(detail, error.rcvd.code)
        detail = "the connection broke before the session had ended"
        return ConnectionLost(detail) if error.sent is not None else Broken(detail)


async def open_connection(url: str, api_key: str | None, timeout_s: float) -> ClientConnection:
    """A WebSocket. Raises ConnectionFailed when no server answers, ServerError when the server rejects the client."""
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
        raise ServerError(f"http-{error.response.status_code}", body or "the server rejected the connection") from error
    except InvalidHandshake as error:
        raise ServerError("no-websocket", f"the server at {url} does not support WebSocket") from error
    except TimeoutError as error:
        raise ConnectionFailed(url, f"no answer within {timeout_s:g} s") from error
    except OSError as error:
        refused = isinstance(error, ConnectionRefusedError)
        raise ConnectionFailed(url, "" if refused else error.strerror or "") from error
    _keep_alive(websocket.transport.get_extra_info("socket"))
    return websocket


def _keep_alive(tcp: socket.socket) -> None:
    """Enable TCP keep-alive: the kernel detects a lost host within about 30 s, also while the server is busy."""
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            tcp.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
