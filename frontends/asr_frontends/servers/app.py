"""The ASGI application. The gate admits clients; a Conversation then serves a WebSocket, and Starlette serves HTTP.

It contains no dialect: it iterates over the dialects' records.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute

from asr_frontends.access import Admission, Gate, http_status
from asr_frontends.codec import Codec, Request
from asr_frontends.dialect import Dialect, Refusal, Settings
from asr_frontends.dialects.registry import DIALECTS, dialect_for, endpoint_of
from asr_frontends.frontend import Frontend
from asr_frontends.handed import HandedConnection
from asr_frontends.metrics import FrontendCollector, Requests
from asr_frontends.servers import health
from asr_frontends.servers.conversation import Conversation
from asr_frontends.servers.handshake import ADMISSION, EXTENSION, Receive, Scope, Send, refuse, request_of
from asr_frontends.servers.websocket import WebSocket
from asr_proto.errors import BadRequest, DecodeError, PeerError

NO_SETTINGS: Settings = MappingProxyType({})


@dataclass(frozen=True, slots=True, eq=False)
class Live:
    """One WebSocket whose conversation runs."""

    dialect: str
    request: Request
    admission: Admission
    conversation: Conversation
    transport: WebSocket


class App:
    """One application for all listening sockets of a frontend."""

    def __init__(
        self, frontend: Frontend, gate: Gate, settings: Settings = NO_SETTINGS, dialects: Sequence[Dialect] = DIALECTS
    ) -> None:
        self._frontend, self._gate, self._dialects = frontend, gate, dialects
        self._serving = {dialect.name: dialect.serve(frontend, gate, settings) for dialect in dialects}
        self._open_paths = health.OPEN_PATHS.union(*(dialect.open_paths for dialect in dialects))
        registry = CollectorRegistry()
        registry.register(FrontendCollector(frontend))
        self._requests = Requests(registry)
        self.live: set[Live] = set()
        """The WebSockets whose conversations run."""
        self._http = self._starlette(registry)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await self._admitted(self._websocket, _refuse_websocket, scope, receive, send)
        elif scope["path"] in self._open_paths or scope["method"] == "OPTIONS":
            await self._http(scope, receive, send)
        else:
            await self._admitted(self._http, self._refuse_http, scope, receive, send)

    async def close(self) -> None:
        """Close the dialects' connections that are still open. Called after the sessions have ended."""
        await asyncio.gather(*(serving.close() for serving in self._serving.values()))

    async def _admitted(
        self,
        serve: Callable[[Scope, Receive, Send], Awaitable[None]],
        refuse: Callable[[PeerError, Scope, Receive, Send], Awaitable[None]],
        *asgi: Any,
    ) -> None:
        endpoint = endpoint_of(asgi[0]["path"], self._dialects)
        try:
            admission = self._gate.admit(request_of(asgi[0]))
        except PeerError as error:
            self._requests.refused.labels(endpoint, error.slug).inc()
            await refuse(error, *asgi)
            return
        self._requests.requests.labels(endpoint).inc()
        asgi[0][ADMISSION] = admission
        with self._counted(endpoint, admission):
            await serve(*asgi)

    @contextmanager
    def _counted(self, endpoint: str, admission: Admission) -> Iterator[None]:
        with self._requests.active.track_inprogress(), self._requests.duration.labels(endpoint).time():
            try:
                yield
            finally:
                self._gate.leave(admission)

    # ---- Handover ----

    def codec_of(self, handed: HandedConnection) -> Codec:
        """The codec that continues another frontend's conversation. Raises PeerError."""
        dialect = next((one for one in self._dialects if one.name == handed.dialect), None)
        if dialect is None or dialect.codec is None or dialect.transport != "websocket":
            raise DecodeError(f"no dialect {handed.dialect[:40]!r} over WebSocket")
        codec = dialect.codec(handed.request)
        codec.restore(handed.codec)
        return codec

    async def adopt(self, handed: HandedConnection, codec: Codec, transport: WebSocket) -> None:
        """Serve another frontend's client to the end of its conversation. It counts for all limits, as it did there."""
        conversation = Conversation(codec, self._frontend, transport)
        admission = self._gate.count(handed.client)
        with self._counted(endpoint_of(handed.request.path, self._dialects), admission):
            conversation.adopt(handed.session)
            await self._converse(Live(handed.dialect, handed.request, admission, conversation, transport))

    # ---- WebSockets ----

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = request_of(scope)
        begun = self._begin(request)
        if isinstance(begun, Refusal):
            await refuse(send, begun.status, begun.body, begun.content_type)
            return
        dialect, codec = begun
        await send({"type": "websocket.accept", "subprotocol": codec.subprotocol})
        transport = scope["extensions"][EXTENSION]
        conversation = Conversation(codec, self._frontend, transport)
        await self._converse(Live(dialect.name, request, scope[ADMISSION], conversation, transport))

    async def _converse(self, live: Live) -> None:
        self.live.add(live)
        try:
            with live.admission.ending(live.conversation.fail):
                await self._serving[live.dialect].converse(live.conversation)
        finally:
            self.live.discard(live)

    def _begin(self, request: Request) -> tuple[Dialect, Codec] | Refusal:
        """The dialect of a request and its codec, or the refusal."""
        dialect = dialect_for(request, self._dialects)
        if dialect is None or dialect.codec is None:
            return Refusal(404, f"no dialect is served at {request.path[:100]}")
        try:
            return dialect, dialect.codec(request)
        except BadRequest as error:
            return dialect.refusal(error)

    # ---- HTTP ----

    def _starlette(self, registry: CollectorRegistry) -> Starlette:
        own = health.Health(self._frontend, registry, [serving.health for serving in self._serving.values()])
        routes: list[BaseRoute] = [*own.routes()]
        for serving in self._serving.values():
            routes += serving.routes
        origins = sorted(self._gate.rules.origins)
        cors = Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
        return Starlette(routes=routes, middleware=[cors] if origins else [])

    async def _refuse_http(self, error: PeerError, scope: Scope, receive: Receive, send: Send) -> None:
        status = http_status(error)
        for dialect in self._dialects:
            if dialect.http_refusal is not None and scope["path"].startswith(dialect.http_prefixes):
                await dialect.http_refusal(error, status)(scope, receive, send)
                return
        await _plain(error, status)(scope, receive, send)


def _plain(error: PeerError, status: int) -> Response:
    return PlainTextResponse(error.detail, status, {"www-authenticate": "Bearer"} if status == 401 else {})


async def _refuse_websocket(error: PeerError, scope: Scope, receive: Receive, send: Send) -> None:
    await refuse(send, http_status(error), error.detail)
