"""What a worker exposes to Prometheus. The loop publishes a snapshot; a scrape only reads the latest one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from asr_proto.audio import SAMPLE_RATE
from asr_proto.messages import Spec
from asr_workers.sessions import Sessions


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Totals since the start and what is held now."""

    slots: int
    sessions: int
    steps: int
    step_s: float
    audio_s: float

    @classmethod
    def of(cls, sessions: Sessions, spec: Spec) -> Snapshot:
        load = sessions.load
        audio_s = load.samples_total / SAMPLE_RATE
        return cls(spec.slots, len(sessions), load.steps_total, load.step_s_total, audio_s)


class WorkerCollector(Collector):
    """Turns the latest snapshot into metric families, labelled with the worker's name."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.latest: Snapshot | None = None

    def collect(self) -> Iterator[Metric]:
        latest = self.latest
        if latest is None:
            return
        yield self._gauge("asr_worker_slots", "Sessions this worker can hold.", latest.slots)
        yield self._gauge("asr_worker_sessions", "Sessions it holds.", latest.sessions)
        yield self._counter("asr_worker_steps", "Engine steps.", latest.steps)
        yield self._counter("asr_worker_step_seconds", "Seconds spent in steps.", latest.step_s)
        yield self._counter("asr_worker_audio_seconds", "Seconds of audio recognised.", latest.audio_s)

    def _gauge(self, name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=["worker"])
        family.add_metric([self._name], value)
        return family

    def _counter(self, name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(name, text, labels=["worker"])
        family.add_metric([self._name], value)
        return family
