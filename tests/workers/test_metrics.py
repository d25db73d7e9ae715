"""The metrics of a worker: every row of the table, in both formats, over the real server."""

from __future__ import annotations

import urllib.request
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from asr_process.metrics import MetricsServer
from asr_proto import messages as m
from asr_workers.engines.base import Chunk
from asr_workers.jobs import StepDone
from asr_workers.metrics import METRICS, WorkerCollector
from asr_workers.sessions import Sessions
from tests.e2e.service import free_port

SPEC = m.Spec("fake", "fake", ("en",), 4, 960, 1.0, "none")
EXPECTED = {
    "asr_worker_slots": 4.0,
    "asr_worker_sessions": 2.0,
    "asr_worker_steps_total": 3.0,
    "asr_worker_step_seconds_total": 0.75,
    "asr_worker_audio_seconds_total": 0.5,
    "asr_worker_foreign_frames_total": 1.0,
}


@pytest.fixture
def sessions() -> Sessions:
    """Two sessions, three steps of 250 ms, half a second of audio, a frame of a wrong sender."""
    core = Sessions("w", SPEC, 0.0)
    core.handle(m.Welcome(1, 1.0), None, (), 0.0)
    for lease in (1, 2):
        core.handle(m.Grant(lease, lease, "s", b"F"), m.Setup("en", True, 960, None), (), 0.0)
    for samples in (0, 4000, 4000):
        core.answered(StepDone([Chunk(1, np.zeros(samples, np.int16))], [], 0.25))
    core.handle(m.Bundle(b"w", (1,)), None, [m.Stop(2)], 0.0)
    return core


@pytest.fixture
def collector(sessions: Sessions) -> WorkerCollector:
    collector = WorkerCollector("w1")
    collector.publish(sessions)
    return collector


@pytest.fixture
def url(collector: WorkerCollector) -> Iterator[str]:
    address = f"127.0.0.1:{free_port()}"
    server = MetricsServer(address, collector)
    yield f"http://{address}/metrics"
    server.close()


def test_the_values(collector: WorkerCollector) -> None:
    registry = CollectorRegistry()
    registry.register(collector)
    for name, value in EXPECTED.items():
        assert registry.get_sample_value(name, {"worker": "w1"}) == value
    assert sum(len(family.samples) for family in registry.collect()) == len(EXPECTED) == len(METRICS)


def test_openmetrics(url: str) -> None:
    request = urllib.request.Request(url, headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    with urllib.request.urlopen(request, timeout=30) as response:
        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        families = list(parse_openmetrics(response.read().decode()))
    assert {sample.name: sample.value for family in families for sample in family.samples} == EXPECTED
    assert all(family.documentation.endswith(".") for family in families)


def test_text(url: str) -> None:
    with urllib.request.urlopen(url, timeout=30) as response:
        families = list(parse_text(response.read().decode()))
    assert {sample.name: sample.value for family in families for sample in family.samples} == EXPECTED


def test_a_name_has_one_type() -> None:
    """A gauge `x_total` beside a counter `x` would be one sample with two types."""
    exposed = [row.name + "_total" * (row.family is CounterMetricFamily) for row in METRICS]
    names = Counter([row.name for row in METRICS] + [name for name in exposed if name.endswith("_total")])
    assert max(names.values()) == 1


def test_nothing_is_exposed_before_it_was_measured() -> None:
    assert list(WorkerCollector("w1").collect()) == []


def test_a_scrape_reads_what_was_published(sessions: Sessions, collector: WorkerCollector) -> None:
    """The scrape runs in another thread while the loop changes the sessions."""
    before = {family.name: family.samples[0].value for family in collector.collect()}
    sessions.handle(m.Release(1), None, (), 0.0)
    assert {family.name: family.samples[0].value for family in collector.collect()} == before
    collector.publish(sessions)
    assert {family.name: family.samples[0].value for family in collector.collect()}["asr_worker_sessions"] == 1
