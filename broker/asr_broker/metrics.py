"""The broker's metrics for Prometheus. The loop publishes snapshots; a scrape reads the latest one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from asr_broker.candidate import Core
from asr_broker.peers import BrokerCounts
from asr_proto.messages import Status


@dataclass(frozen=True, slots=True)
class BrokerSnapshot:
    status: Status
    counts: BrokerCounts
    leases: int

    @classmethod
    def of(cls, core: Core, now: float) -> BrokerSnapshot:
        return cls(core.status(now), replace(core.counts), len(core.leases))


class BrokerCollector(Collector):
    """Turns the latest snapshot into metric families."""

    def __init__(self) -> None:
        self.latest: BrokerSnapshot | None = None

    def collect(self) -> Iterator[Metric]:
        latest = self.latest
        if latest is None:
            return
        workers = latest.status.workers
        slots = sum(worker.spec.slots for worker in workers)
        yield _gauge("asr_broker_workers", "Registered workers.", len(workers))
        yield _gauge("asr_broker_frontends", "Registered frontends.", len(latest.status.frontends))
        yield _gauge("asr_broker_slots", "Slots of all workers.", slots)
        yield _gauge("asr_broker_leases", "Leases that hold a slot.", latest.leases)
        yield _gauge("asr_broker_leads", "1 where this broker leads, 0 for a standby.", latest.status.leads)
        counts = latest.counts
        yield _counter("asr_broker_sessions", "Sessions pinned for the first time.", counts.sessions)
        yield _counter("asr_broker_moves", "Sessions pinned again to another worker.", counts.moves)
        yield _counter("asr_broker_refused", "Sessions refused.", counts.refused)
        yield _counter("asr_broker_lost", "Leases lost with their worker or by expiry.", counts.lost)
        yield _counter("asr_broker_stale", "Frames under a lease that was not current.", counts.stale)
        yield _counter("asr_broker_bundles", "Bundles forwarded.", counts.bundles)
        per_worker = GaugeMetricFamily("asr_broker_worker_sessions", "Sessions by worker.", labels=["worker"])
        for worker in workers:
            per_worker.add_metric([worker.name], worker.sessions)
        yield per_worker


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _counter(name: str, text: str, value: float) -> Metric:
    return CounterMetricFamily(name, text, value=value)
