"""Health and readiness of a frontend, by what its broker has reported."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry
from starlette.requests import Request

from asr_frontends.frontend import Frontend
from asr_frontends.servers.health import DETAILED, HEALTH, READY, Health
from asr_proto.messages import Pool


@dataclass
class Sessions:
    pool: Pool | None = None
    open: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.open)


def frontend(*, ready: bool, pool: Pool | None = None, draining: bool = False) -> Frontend:
    stand_in = SimpleNamespace(
        sessions=Sessions(pool), ready=lambda: ready, connected=lambda: pool is not None, draining=draining
    )
    return cast(Frontend, stand_in)


def pool(workers: int, slots_free: int) -> Pool:
    return Pool(workers, 4, slots_free, ("m",))


def ask(path: str, of: Frontend) -> tuple[int, dict[str, Any]]:
    routes = {route.path: route for route in Health(of, CollectorRegistry(), [lambda: {"more": 1}]).routes()}
    response = asyncio.run(routes[path].endpoint(Request({"type": "http"})))
    return response.status_code, json.loads(response.body)


@pytest.mark.parametrize(
    ("of", "status", "word"),
    [
        (frontend(ready=True, pool=pool(1, 2)), 200, "healthy"),
        (frontend(ready=False, pool=pool(1, 0)), 200, "degraded"),
        (frontend(ready=False, pool=pool(1, 2)), 503, "unhealthy"),
        (frontend(ready=False, pool=pool(0, 0)), 503, "unhealthy"),
        (frontend(ready=False), 503, "unhealthy"),
        (frontend(ready=False, pool=pool(1, 2), draining=True), 503, "draining"),
        (frontend(ready=False, pool=pool(1, 0), draining=True), 503, "draining"),
    ],
)
def test_detailed_health(of: Frontend, status: int, word: str) -> None:
    """AMI-02: degraded while every slot is taken; unhealthy without a broker or a worker.

    A process that drains is alive too, but gets no new clients, also while every slot is taken.
    """
    code, body = ask(DETAILED, of)
    assert (code, body["status"], body["more"]) == (status, word, 1)
    assert ask(HEALTH, of)[0] == 200


def test_detailed_health_reports_broker_and_workers() -> None:
    _, body = ask(DETAILED, frontend(ready=True, pool=pool(1, 2)))
    workers = {"status": "healthy", "count": 1, "slots": 4, "slots_free": 2, "models": ["m"]}
    assert body["dependencies"] == {"broker": {"status": "healthy"}, "workers": workers}
    _, body = ask(DETAILED, frontend(ready=False))
    nobody = {"status": "unhealthy", "count": 0, "slots": 0, "slots_free": 0, "models": []}
    assert body["dependencies"] == {"broker": {"status": "unhealthy"}, "workers": nobody}


@pytest.mark.parametrize(("is_ready", "status"), [(True, 200), (False, 503)])
def test_ready(is_ready: bool, status: int) -> None:
    assert ask(READY, frontend(ready=is_ready)) == (status, {"ready": is_ready})
