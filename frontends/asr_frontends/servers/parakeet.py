"""Parakeet-TDT's HTTP side: `GET /status`, which its clients and probes ask (PAR-05)."""

from __future__ import annotations

from starlette.requests import Request as HttpRequest
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute, Route


async def _status(_: HttpRequest) -> Response:
    return PlainTextResponse("ok")


def routes() -> list[BaseRoute]:
    """Of the dialect, beside its WebSocket."""
    return [Route("/status", _status)]
