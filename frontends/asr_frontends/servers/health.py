"""HTTP routes for the frontend's health, readiness and metrics."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from asr_frontends.frontend import Frontend

SERVICE = "asr-pool"
HEALTH, DETAILED, READY, METRICS = "/health", "/health/detailed", "/ready", "/metrics"
OPEN_PATHS = frozenset({HEALTH, DETAILED, READY, METRICS})
"""Paths that need no API key: probes and scrapers have none."""

Report = Callable[[], Mapping[str, Any]]


class Health:
    """The routes for probes and scrapers. `reports` return the fields that dialects add to the detailed form."""

    def __init__(self, frontend: Frontend, registry: CollectorRegistry, reports: Sequence[Report] = ()) -> None:
        self._frontend, self._registry, self._reports = frontend, registry, reports
        self._started_at = time.monotonic()

    def routes(self) -> list[Route]:
        """All routes of this class."""
        return [
            Route(HEALTH, self._health),
            Route(DETAILED, self._detailed),
            Route(READY, self._ready),
            Route(METRICS, self._metrics),
        ]

    async def _health(self, _: Request) -> Response:
        return JSONResponse({"status": "healthy", "service": SERVICE, "version": _version()})

    async def _detailed(self, _: Request) -> Response:
        """Status 503 if no session could begin now, however many slots become free."""
        pool = self._frontend.sessions.pool
        status = self._status()
        body = {
            "status": status,
            "service": SERVICE,
            "version": _version(),
            "uptime_seconds": round(time.monotonic() - self._started_at, 1),
            "dependencies": {
                "broker": {"status": _up(self._frontend.connected())},
                "workers": {
                    "status": _up(pool is not None and pool.workers > 0),
                    "count": pool.workers if pool else 0,
                    "slots": pool.slots if pool else 0,
                    "slots_free": pool.slots_free if pool else 0,
                    "models": list(pool.models) if pool else [],
                },
            },
            "sessions": len(self._frontend.sessions),
        }
        for report in self._reports:
            body |= report()
        return JSONResponse(body, 200 if status in ("healthy", "degraded") else 503)

    def _status(self) -> str:
        """`draining` while this process stops, `degraded` while no slot is free, else whether it could serve."""
        pool = self._frontend.sessions.pool
        if self._frontend.draining:
            return "draining"
        if self._frontend.ready():
            return "healthy"
        return "degraded" if pool is not None and pool.workers > 0 and pool.slots_free == 0 else "unhealthy"

    async def _ready(self, _: Request) -> Response:
        is_ready = self._frontend.ready()
        return JSONResponse({"ready": is_ready}, 200 if is_ready else 503)

    async def _metrics(self, _: Request) -> Response:
        return Response(generate_latest(self._registry), media_type=CONTENT_TYPE_LATEST)


def _up(is_up: bool) -> str:
    return "healthy" if is_up else "unhealthy"


def _version() -> str:
    try:
        return version(SERVICE)
    except PackageNotFoundError:
        return "unknown"
