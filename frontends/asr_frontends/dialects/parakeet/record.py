"""The record of Parakeet-TDT's dialect, and `GET /status`, which its clients and probes ask (PAR-05)."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from asr_dialects import parakeet
from asr_frontends.access import Gate
from asr_frontends.dialect import Dialect, Endpoint, Serving, Settings
from asr_frontends.dialects.parakeet.codec import ParakeetCodec
from asr_frontends.frontend import Frontend


async def status(_: HttpRequest) -> Response:
    return PlainTextResponse("ok")


def _serve(_frontend: Frontend, _gate: Gate, _settings: Settings) -> Serving:
    return Serving(routes=[Route(parakeet.STATUS_PATH, status)])


PARAKEET = Dialect(
    name="parakeet",
    transport="websocket",
    path=parakeet.PATH,
    codec=ParakeetCodec,
    open_paths=frozenset({parakeet.STATUS_PATH}),
    endpoints=(Endpoint(parakeet.PATH),),
    serve=_serve,
)
