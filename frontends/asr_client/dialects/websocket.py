"""A WebSocket as a channel."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from websockets.asyncio.client import ClientConnection
from websockets.exceptions import ConnectionClosed

from asr_client.connection import CLOSE_TIMEOUT_S, open_connection
from asr_client.dialects.conversation import READY_TIMEOUT_S, Closed
from asr_dialects.client import Message

OPEN_TIMEOUT_S = 10.0


@asynccontextmanager
async def open_channel(url: str, api_key: str | None) -> AsyncIterator[WebSocketChannel]:
    """Connect; leaving the block closes. Raises ConnectionFailed, ServerError."""
    websocket = await open_connection(url, api_key, OPEN_TIMEOUT_S)
    try:
        yield WebSocketChannel(websocket)
    finally:
        await _close(websocket)


async def _close(websocket: ClientConnection) -> None:
    """The library's own timeout does not cover a close frame that waits behind audio which nobody reads."""
    try:
        await asyncio.wait_for(websocket.close(), CLOSE_TIMEOUT_S)
    except TimeoutError:
        pass
    finally:
        websocket.transport.abort()
    await websocket.wait_closed()


class WebSocketChannel:
    """Messages of an open WebSocket."""

    ready_timeout_s = READY_TIMEOUT_S

    def __init__(self, websocket: ClientConnection) -> None:
        self._websocket = websocket

    async def send(self, message: Message) -> None:
        try:
            await self._websocket.send(message)
        except ConnectionClosed as error:
            raise _closed(error) from None

    async def receive(self) -> Message:
        try:
            return await self._websocket.recv()
        except ConnectionClosed as error:
            raise _closed(error) from None


def _closed(error: ConnectionClosed) -> Closed:
    return Closed(None) if error.rcvd is None else Closed(error.rcvd.code, error.rcvd.reason)
