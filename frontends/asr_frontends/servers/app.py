"""The ASGI application: WebSockets go straight to a Connection, HTTP to Starlette."""

from __future__ import annotations

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asr_frontends.dialects import codec_for
from asr_frontends.frontend import Frontend
from asr_frontends.metrics import FrontendCollector
from asr_frontends.servers.connection import Connection
from asr_frontends.servers.websocket import Receive, Scope, Send, WebSocketTransport, refuse, request_of
from asr_proto.errors import BadRequest


class App:
    """One application for all listening sockets of a frontend."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend
        self._http = http_routes(frontend)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await self._websocket(scope, receive, send)
        else:
            await self._http(scope, receive, send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        request = request_of(scope)
        try:
            codec = codec_for(request)
        except BadRequest as error:
            await refuse(send, 400, error.detail)
            return
        if codec is None:
            await refuse(send, 404, f"no dialect is served at {request.path[:100]}")
            return
        await send({"type": "websocket.accept", "subprotocol": codec.subprotocol})
        await Connection(codec, self._frontend, WebSocketTransport(receive, send)).run()


def http_routes(frontend: Frontend) -> Starlette:
    """Health, readiness and metrics."""
    registry = CollectorRegistry()
    registry.register(FrontendCollector(frontend))

    async def health(_: HttpRequest) -> Response:
        return JSONResponse({"status": "healthy"})

    async def ready(_: HttpRequest) -> Response:
        is_ready = frontend.ready()
        return JSONResponse({"ready": is_ready}, status_code=200 if is_ready else 503)

    async def metrics(_: HttpRequest) -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)

    return Starlette(routes=[Route("/health", health), Route("/ready", ready), Route("/metrics", metrics)])
