"""What a frontend exposes to Prometheus, read on its own loop when scraped."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from asr_frontends.frontend import Frontend
from asr_proto.audio import SAMPLE_RATE

REQUEST_S_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""From a probe to a long conversation."""


class Requests:
    """What clients ask for, under AMIRA's names: by the path's dialect, how many, how long, how many now."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter("asr_requests", "Requests let in.", ["endpoint"], registry=registry)
        self.refused = Counter("asr_requests_failed", "Requests refused.", ["endpoint", "error"], registry=registry)
        self.duration = Histogram(
            "asr_request_duration_seconds",
            "How long a request or conversation took.",
            ["endpoint"],
            registry=registry,
            buckets=REQUEST_S_BUCKETS,
        )
        self.active = Gauge("asr_active_connections", "Requests and conversations under way.", registry=registry)


class FrontendCollector(Collector):
    """Metric families of one frontend."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend

    def collect(self) -> Iterator[Metric]:
        sessions, counts = self._frontend.sessions, self._frontend.sessions.counts
        yield GaugeMetricFamily("asr_frontend_ready", "1 when a session could progress.", float(self._frontend.ready()))
        yield GaugeMetricFamily("asr_frontend_sessions", "Open sessions.", len(sessions))
        held = sessions.budget.bytes_held
        yield GaugeMetricFamily("asr_frontend_journal_bytes", "Unconfirmed audio held.", held)
        yield CounterMetricFamily(
            "asr_frontend_sessions_requested", "Sessions that clients asked for.", counts.sessions
        )
        yield CounterMetricFamily("asr_frontend_errors", "Sessions that ended with an error.", counts.errors)
        yield CounterMetricFamily("asr_frontend_moves", "Leases lost under a session.", counts.moves)
        yield CounterMetricFamily("asr_frontend_finals", "Finals received.", counts.finals)
        audio_s = counts.audio_samples / SAMPLE_RATE
        yield CounterMetricFamily("asr_frontend_audio_seconds", "Audio received from clients.", audio_s)
