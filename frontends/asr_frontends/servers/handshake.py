"""A WebSocket's opening handshake as ASGI: the client's request is the scope, the application's answer the response.

The websockets library checks the request and writes the responses. Messages do not pass through ASGI.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import unquote

from websockets.http11 import Request as HttpRequest
from websockets.http11 import Response
from websockets.server import ServerProtocol

from asr_frontends.codec import Request

Scope = Any
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]

EXTENSION = "asr.transport"
"""The key under which a WebSocket's scope holds its Transport."""
ADMISSION = "asr.admission"
"""The key under which the scope of an admitted request holds its Admission."""
SWITCHING_PROTOCOLS = 101


class Handshake:
    """The ASGI side of one valid request. The application answers it once: accepts it, or refuses it over HTTP."""

    def __init__(self, protocol: ServerProtocol, acceptance: Response, respond: Callable[[Response], None]) -> None:
        self._protocol, self._acceptance, self._respond = protocol, acceptance, respond
        self._refusal: dict[str, Any] = {}

    async def receive(self) -> dict[str, Any]:
        return {"type": "websocket.connect"}

    async def send(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "websocket.accept":
                self._respond(self._accepted(message.get("subprotocol")))
            case "websocket.http.response.start":
                self._refusal = message
            case "websocket.http.response.body":
                self._respond(self._refused(message["body"]))
            case other:
                raise RuntimeError(f"{other} cannot answer a handshake: messages go through scope {EXTENSION!r}")

    def _accepted(self, subprotocol: str | None) -> Response:
        if subprotocol:
            self._acceptance.headers["Sec-WebSocket-Protocol"] = subprotocol
        return self._acceptance

    def _refused(self, body: bytes) -> Response:
        response = self._protocol.reject(self._refusal["status"], body.decode())
        for name, value in self._refusal["headers"]:
            response.headers.pop(name.decode(), None)  # assignment would add a second header of the same name
            response.headers[name.decode()] = value.decode()
        return response


async def refuse(send: Send, status: int, detail: str, content_type: str = "text/plain; charset=utf-8") -> None:
    """Answer a WebSocket request with plain HTTP before the upgrade."""
    headers = [(b"content-type", content_type.encode())]
    await send({"type": "websocket.http.response.start", "status": status, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": detail.encode()})


def scope_of(request: HttpRequest, transport: asyncio.BaseTransport) -> Scope:
    """The ASGI scope of a WebSocket request."""
    path, _, query = request.path.partition("?")
    offered = ",".join(request.headers.get_all("Sec-WebSocket-Protocol"))
    return {
        "type": "websocket",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "scheme": "ws" if transport.get_extra_info("sslcontext") is None else "wss",
        "server": _address(transport, "sockname"),
        "client": _address(transport, "peername"),
        "root_path": "",
        "path": unquote(path),
        "raw_path": _bytes(path),
        "query_string": _bytes(query),
        "headers": [(_bytes(name).lower(), _bytes(value)) for name, value in request.headers.raw_items()],
        "subprotocols": [name.strip() for name in offered.split(",")] if offered else [],
        "extensions": {},
    }


def request_of(scope: Scope) -> Request:
    """The client's request, WebSocket or HTTP, from its ASGI scope."""
    headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
    address = scope["client"][0] if scope.get("client") else ""
    query = scope["query_string"].decode("latin-1")
    subprotocols = tuple(scope.get("subprotocols", ()))
    return Request(scope["path"], query, subprotocols, headers, address, unix_ms=time.time_ns() // 1_000_000)


def _address(transport: asyncio.BaseTransport, side: str) -> tuple[str, int] | None:
    address = transport.get_extra_info(side)
    return (str(address[0]), int(address[1])) if address else None


def _bytes(text: str) -> bytes:
    """The bytes of a head as received. Before release 17, the library decodes non-ASCII bytes as surrogates."""
    return text.encode("latin-1", "surrogateescape")
