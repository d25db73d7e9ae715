"""What a frontend exposes to Prometheus, read on its own loop when scraped."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from asr_frontends.frontend import Frontend
from asr_proto.audio import SAMPLE_RATE


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
        yield CounterMetricFamily("asr_frontend_sessions", "Sessions asked for.", counts.sessions)
        yield CounterMetricFamily("asr_frontend_errors", "Sessions that ended with an error.", counts.errors)
        yield CounterMetricFamily("asr_frontend_moves", "Leases lost under a session.", counts.moves)
        yield CounterMetricFamily("asr_frontend_finals", "Finals received.", counts.finals)
        audio_s = counts.audio_samples / SAMPLE_RATE
        yield CounterMetricFamily("asr_frontend_audio_seconds", "Audio received from clients.", audio_s)
