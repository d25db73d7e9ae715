"""The Prometheus metrics of a frontend, in both text forms."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.openmetrics import exposition, parser
from prometheus_client.parser import text_string_to_metric_families

from asr_frontends import events as e
from asr_frontends.frontend import Frontend
from asr_frontends.journal import Budget
from asr_frontends.metrics import FrontendCollector, Requests
from asr_frontends.session import Limits
from asr_frontends.sessions import Sessions
from asr_proto import messages as m

SPEC = m.Spec("fake", "fake", ("en",), 2, 960, 1.0, "none")


def busy() -> Sessions:
    """Three sessions were requested: one is active and has moved, one has failed, one is gone."""
    sessions = Sessions("f", Limits(), Budget(10**8), 0.0)
    sessions.handle(m.Welcome(1, 1.0), (), 0.0)
    for lease, id in enumerate("abc", 1):
        sessions.start(id, e.Start(), 0.0)
        sessions.handle(m.Pinned(id, 0, lease, b"W", SPEC), (), 0.0)
    sessions.client("a", e.Audio(b"\0\0" * 16000), 0.0)
    final = m.Final(1, 0, "text", 0, 8000, "silence", None, None, m.Commit(8000, 1, b""))
    sessions.handle(m.Bundle(b"F", (1,)), [final], 0.0)
    sessions.client("a", e.Audio(b"\0\0" * 4000), 0.0)
    sessions.handle(m.Bundle(b"f", (2,)), [m.Ended(1)], 0.0)
    sessions.handle(m.Lost(1, "worker-lost"), (), 0.0)
    sessions.client("b", e.Start(), 0.0)
    sessions.client("c", e.Abort(), 0.0)
    sessions.counts.handed_over, sessions.counts.adopted = 5, 4
    return sessions


@pytest.fixture
def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    frontend = SimpleNamespace(sessions=busy(), ready=lambda: True)
    registry.register(FrontendCollector(cast(Frontend, frontend)))
    requests = Requests(registry)
    requests.requests.labels("/v1/stream").inc()
    requests.refused.labels("/v1/stream", "unauthorized").inc()
    requests.duration.labels("/v1/stream").observe(0.3)
    requests.active.inc()
    return registry


VALUES = {
    "asr_frontend_ready": 1.0,
    "asr_frontend_sessions": 1.0,
    "asr_frontend_journal_bytes": 40_000.0,
    "asr_frontend_sessions_requested_total": 3.0,
    "asr_frontend_errors_total": 1.0,
    "asr_frontend_moves_total": 1.0,
    "asr_frontend_handed_over_total": 5.0,
    "asr_frontend_adopted_total": 4.0,
    "asr_frontend_finals_total": 1.0,
    "asr_frontend_foreign_frames_total": 1.0,
    "asr_frontend_audio_seconds_total": 1.25,
    "asr_requests_total": 1.0,
    "asr_requests_failed_total": 1.0,
    "asr_request_duration_seconds_count": 1.0,
    "asr_request_duration_seconds_sum": 0.3,
    "asr_active_connections": 1.0,
}


def test_the_openmetrics_form(registry: CollectorRegistry) -> None:
    """Its parser rejects a name that is gauge and counter at once."""
    families = list(parser.text_string_to_metric_families(exposition.generate_latest(registry).decode()))
    samples = {sample.name: sample.value for family in families for sample in family.samples}
    assert VALUES.items() <= samples.items()


def test_the_plain_form(registry: CollectorRegistry) -> None:
    text = generate_latest(registry).decode()
    samples = {
        sample.name: sample.value for family in text_string_to_metric_families(text) for sample in family.samples
    }
    assert VALUES.items() <= samples.items()
    declared = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")]
    assert len(declared) == len(set(declared))
    # One name of two kinds: the second would be the first with the suffix of counters.
    assert not {name.removesuffix("_total") for name in declared if name.endswith("_total")} & set(declared)


def test_labels(registry: CollectorRegistry) -> None:
    labeled = {
        sample.name: sample.labels
        for family in registry.collect()
        for sample in family.samples
        if sample.name in ("asr_requests_total", "asr_requests_failed_total", "asr_request_duration_seconds_count")
    }
    assert labeled == {
        "asr_requests_total": {"endpoint": "/v1/stream"},
        "asr_requests_failed_total": {"endpoint": "/v1/stream", "error": "unauthorized"},
        "asr_request_duration_seconds_count": {"endpoint": "/v1/stream"},
    }


def test_a_frontend_that_is_not_ready() -> None:
    sessions = Sessions("f", Limits(), Budget(10**8), 0.0)
    collector = FrontendCollector(cast(Frontend, SimpleNamespace(sessions=sessions, ready=lambda: False)))
    (ready, *_) = collector.collect()
    assert [sample.value for sample in ready.samples] == [0.0]
