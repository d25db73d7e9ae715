"""uvicorn's WebSocket as a Transport."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from asr_frontends.codec import Close, Frame, Request

Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]


class WebSocketTransport:
    """Messages of an accepted WebSocket."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send

    async def receive(self) -> str | bytes | None:
        message = await self._receive()
        if message["type"] == "websocket.disconnect":
            return None
        data: bytes | None = message.get("bytes")
        text: str = message.get("text") or ""
        return text if data is None else data

    async def send(self, frame: Frame) -> None:
        match frame:
            case Close():
                await self._send({"type": "websocket.close", "code": frame.code, "reason": frame.reason})
            case str():
                await self._send({"type": "websocket.send", "text": frame})
            case bytes():
                await self._send({"type": "websocket.send", "bytes": frame})


def request_of(scope: Scope) -> Request:
    """What an ASGI scope says about a client's request, WebSocket or HTTP."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    address = scope["client"][0] if scope.get("client") else ""
    query = scope["query_string"].decode("latin-1")
    subprotocols = tuple(scope.get("subprotocols", ()))
    return Request(scope["path"], query, subprotocols, headers, address, unix_ms=time.time_ns() // 1_000_000)


async def refuse(send: Send, status: int, detail: str, content_type: str = "text/plain; charset=utf-8") -> None:
    """Answer a WebSocket request with plain HTTP before the upgrade."""
    headers = [(b"content-type", content_type.encode())]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": detail.encode()})
