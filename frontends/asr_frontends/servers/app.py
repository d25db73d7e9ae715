"""The ASGI application: clients pass the gate, WebSockets go straight to a Connection, HTTP to Starlette."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from asr_frontends.access import Gate, http_status
from asr_frontends.codecs import deepgram
from asr_frontends.codecs.amira import AmiraCodec
from asr_frontends.dialects import codec_for
from asr_frontends.frontend import Frontend
from asr_frontends.metrics import FrontendCollector, Requests
from asr_frontends.servers import openai
from asr_frontends.servers.amira import Amira
from asr_frontends.servers.connection import Connection
from asr_frontends.servers.handshake import EXTENSION, Receive, Scope, Send, refuse, request_of
from asr_proto.errors import BadRequest, PeerError

OPEN_PATHS = frozenset({"/health", "/health/detailed", "/ready", "/metrics", "/status"})
"""Answered without a key: probes and scrapers have none."""


ENDPOINTS = ("/v1/stream", "/asr/v0.1/stream", "/v2/decode/stream", "/v2/decode/batch", "/v1/audio", "/v1/models")
"""Labels of metrics by the beginning of a path; exact ones follow. Whatever else is asked for is `other`."""
EXACT_ENDPOINTS = frozenset({"/", "/ws", "/v1/listen"})


def endpoint_of(path: str) -> str:
    """The label of a path: one of a few, whatever clients ask for."""
    if path in EXACT_ENDPOINTS:
        return path
    return next((endpoint for endpoint in ENDPOINTS if path.startswith(endpoint)), "other")


class App:
    """One application for all listening sockets of a frontend."""

    def __init__(self, frontend: Frontend, gate: Gate, amira: Amira, routes: Sequence[BaseRoute] = ()) -> None:
        self._frontend, self._gate, self._amira = frontend, gate, amira
        registry = CollectorRegistry()
        registry.register(FrontendCollector(frontend))
        self._requests = Requests(registry)
        origins = sorted(gate.rules.origins)
        cors = Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
        self._http = Starlette(
            routes=[*own_routes(frontend, registry), *amira.routes(), *routes], middleware=[cors] if origins else []
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await receive()
            await self._admitted(self._websocket, _refuse_websocket, scope, receive, send)
        elif scope["path"] in OPEN_PATHS or scope["method"] == "OPTIONS":
            await self._http(scope, receive, send)
        else:
            await self._admitted(self._http, _refuse_http, scope, receive, send)

    async def _admitted(
        self,
        serve: Callable[[Scope, Receive, Send], Awaitable[None]],
        refuse: Callable[[PeerError, Scope, Receive, Send], Awaitable[None]],
        *asgi: Any,
    ) -> None:
        endpoint = endpoint_of(asgi[0]["path"])
        try:
            guest = self._gate.admit(request_of(asgi[0]))
        except PeerError as error:
            self._requests.refused.labels(endpoint, error.slug).inc()
            await refuse(error, *asgi)
            return
        self._requests.requests.labels(endpoint).inc()
        with self._requests.active.track_inprogress(), self._requests.duration.labels(endpoint).time():
            try:
                await serve(*asgi)
            finally:
                self._gate.leave(guest)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = request_of(scope)
        try:
            codec = codec_for(request)
        except BadRequest as error:
            if request.path == deepgram.PATH:
                await refuse(send, 400, deepgram.refusal(error.detail, secrets.token_hex(16)), "application/json")
            else:
                await refuse(send, 400, error.detail)
            return
        if codec is None:
            await refuse(send, 404, f"no dialect is served at {request.path[:100]}")
            return
        await send({"type": "websocket.accept", "subprotocol": codec.subprotocol})
        connection = Connection(codec, self._frontend, scope["extensions"][EXTENSION])
        if isinstance(codec, AmiraCodec):
            await self._amira.stream(connection)
        else:
            await connection.run()


def own_routes(frontend: Frontend, registry: CollectorRegistry) -> list[BaseRoute]:
    """Readiness and metrics; health is AMIRA's."""

    async def ready(_: HttpRequest) -> Response:
        is_ready = frontend.ready()
        return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)

    async def metrics(_: HttpRequest) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return [Route("/ready", ready), Route("/metrics", metrics)]


async def _refuse_websocket(error: PeerError, scope: Scope, receive: Receive, send: Send) -> None:
    await refuse(send, http_status(error), error.detail)


async def _refuse_http(error: PeerError, scope: Scope, receive: Receive, send: Send) -> None:
    status = http_status(error)
    headers = {"www-authenticate": "Bearer"} if status == 401 else {}
    response: Response = PlainTextResponse(error.detail, status, headers)
    if scope["path"].startswith(("/v1/audio/", "/v1/models")):
        code = "invalid_api_key" if status == 401 else error.slug
        response = openai.openai_error(status, error.detail, code=code)
    await response(scope, receive, send)
