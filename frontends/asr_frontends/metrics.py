"""The Prometheus metrics of a frontend. They are read on its asyncio loop when they are scraped."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from asr_frontends.frontend import Frontend
from asr_proto.audio import SAMPLE_RATE

REQUEST_S_BUCKETS = (0.005, 0.025, 0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0)
"""Bucket edges in seconds, from a probe to a long conversation."""


class Requests:
    """Metrics of the clients' requests, under AMIRA's names. `endpoint` is the label of the dialect's path."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.requests = Counter("asr_requests", "Requests admitted.", ["endpoint"], registry=registry)
        self.refused = Counter("asr_requests_failed", "Requests refused.", ["endpoint", "error"], registry=registry)
        self.duration = Histogram(
            "asr_request_duration_seconds",
            "Duration of a request or conversation.",
            ["endpoint"],
            registry=registry,
            buckets=REQUEST_S_BUCKETS,
        )
        self.active = Gauge("asr_active_connections", "Requests and conversations under way.", registry=registry)


class FrontendCollector(Collector):
    """The metric families of one frontend."""

    def __init__(self, frontend: Frontend) -> None:
        self._frontend = frontend

    def collect(self) -> Iterator[Metric]:
        sessions, counts = self._frontend.sessions, self._frontend.sessions.counts
        ready = float(self._frontend.ready())
        yield GaugeMetricFamily("asr_frontend_ready", "1 when a new session could make progress.", ready)
        yield GaugeMetricFamily("asr_frontend_sessions", "Open sessions.", len(sessions))
        held = sessions.budget.bytes_held
        yield GaugeMetricFamily("asr_frontend_journal_bytes", "Unconfirmed audio held, in bytes.", held)
        yield CounterMetricFamily(
            "asr_frontend_sessions_requested", "Sessions that clients requested.", counts.sessions
        )
        yield CounterMetricFamily("asr_frontend_errors", "Sessions that ended with an error.", counts.errors)
        yield CounterMetricFamily("asr_frontend_moves", "Leases that open sessions have lost.", counts.moves)
        yield CounterMetricFamily("asr_frontend_poisonous", "Sessions whose audio killed workers.", counts.poisonous)
        yield CounterMetricFamily(
            "asr_frontend_handed_over", "Sessions passed to another frontend.", counts.handed_over
        )
        yield CounterMetricFamily("asr_frontend_adopted", "Sessions taken from another frontend.", counts.adopted)
        yield CounterMetricFamily("asr_frontend_finals", "Finals received.", counts.finals)
        audio_s = counts.audio_samples / SAMPLE_RATE
        yield CounterMetricFamily("asr_frontend_audio_seconds", "Audio received from clients.", audio_s)
        foreign = "Frames dropped because their sender does not serve the session."
        yield CounterMetricFamily("asr_frontend_foreign_frames", foreign, counts.foreign_frames)
