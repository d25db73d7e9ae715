"""The metrics of a worker for Prometheus: one row of METRICS for each.

The worker's loop publishes the values. A scrape runs in another thread and only reads the values published last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from asr_proto.audio import SAMPLE_RATE
from asr_workers.sessions import Sessions


@dataclass(frozen=True, slots=True)
class WorkerMetric:
    """One metric, and the function that reads its value. Counters get the suffix `_total`."""

    family: type[GaugeMetricFamily | CounterMetricFamily]
    name: str
    help: str
    read: Callable[[Sessions], float]


METRICS = (
    WorkerMetric(GaugeMetricFamily, "asr_worker_slots", "Sessions that fit on this worker.", lambda s: s.spec.slots),
    WorkerMetric(GaugeMetricFamily, "asr_worker_sessions", "Sessions on this worker.", len),
    WorkerMetric(CounterMetricFamily, "asr_worker_steps", "Engine steps.", lambda s: s.load.steps_total),
    WorkerMetric(
        CounterMetricFamily, "asr_worker_step_seconds", "Seconds spent in steps.", lambda s: s.load.step_s_total
    ),
    WorkerMetric(
        CounterMetricFamily,
        "asr_worker_audio_seconds",
        "Seconds of audio recognized.",
        lambda s: s.load.samples_total / SAMPLE_RATE,
    ),
    WorkerMetric(
        CounterMetricFamily,
        "asr_worker_foreign_frames",
        "Frames dropped because their sender does not serve the session.",
        lambda s: s.foreign_frames,
    ),
)


class WorkerCollector(Collector):
    """The values of METRICS as metric families, labeled with the worker's name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._values: tuple[float, ...] = ()
        """One value for each metric; empty before the first `publish`."""

    def publish(self, sessions: Sessions) -> None:
        """Read all values now."""
        self._values = tuple([metric.read(sessions) for metric in METRICS])

    def collect(self) -> Iterator[Metric]:
        for metric, value in zip(METRICS, self._values, strict=False):
            family = metric.family(metric.name, metric.help, labels=["worker"])
            family.add_metric([self._name], value)
            yield family
