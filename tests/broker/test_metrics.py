"""The broker's metrics: every value comes from the snapshot, and both parsers of Prometheus read the exposition."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterator

import pytest
from msgspec import structs
from prometheus_client import Metric
from prometheus_client.openmetrics.exposition import CONTENT_TYPE_LATEST
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from asr_broker.events import FromFrontend, FromWorker
from asr_broker.metrics import BrokerCollector, BrokerSnapshot
from asr_broker.peers import NO_LOAD, BrokerCounts
from asr_broker.routing import Routing
from asr_process.metrics import MetricsServer
from asr_proto import messages as m

SPEC = m.Spec("fake", "fake", ("en",), 3, 960, 1.0, "none")
STATUS = m.Status(
    uptime_s=1.0,
    workers=(m.WorkerStatus("w1", SPEC, 2, False, NO_LOAD), m.WorkerStatus("w2", SPEC, 1, False, NO_LOAD)),
    frontends=(m.FrontendStatus("f", 3),),
    sessions_total=0,
    refused_total=0,
    lost_total=0,
)
COUNTS = BrokerCounts(sessions=11, moves=12, refused=13, lost=14, resumes=15, stale=16, bundles=17)

EXPECTED = {
    ("asr_broker_workers", ()): 2.0,
    ("asr_broker_frontends", ()): 1.0,
    ("asr_broker_slots", ()): 6.0,
    ("asr_broker_leases", ()): 4.0,
    ("asr_broker_leads", ()): 1.0,
    ("asr_broker_sessions_total", ()): 11.0,
    ("asr_broker_moves_total", ()): 12.0,
    ("asr_broker_refused_total", ()): 13.0,
    ("asr_broker_lost_total", ()): 14.0,
    ("asr_broker_stale_total", ()): 16.0,
    ("asr_broker_bundles_total", ()): 17.0,
    ("asr_broker_worker_sessions", (("worker", "w1"),)): 2.0,
    ("asr_broker_worker_sessions", (("worker", "w2"),)): 1.0,
}


def values(families: Iterator[Metric]) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sample.labels.items())): sample.value
        for family in families
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


@pytest.fixture
def collector() -> BrokerCollector:
    collector = BrokerCollector()
    collector.latest = BrokerSnapshot(STATUS, COUNTS, 4)
    return collector


def test_every_value_comes_from_the_snapshot(collector: BrokerCollector) -> None:
    assert values(iter(collector.collect())) == EXPECTED


def test_a_standby_does_not_lead(collector: BrokerCollector) -> None:
    collector.latest = BrokerSnapshot(structs.replace(STATUS, leads=False), COUNTS, 0)
    assert values(iter(collector.collect()))["asr_broker_leads", ()] == 0.0


def test_before_the_first_snapshot_there_is_nothing() -> None:
    assert list(BrokerCollector().collect()) == []


def test_no_name_is_gauge_and_counter_at_once(collector: BrokerCollector) -> None:
    names = [family.name for family in collector.collect()]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("is_openmetrics", [True, False])
def test_the_exposition_is_read_by_the_parser_of_its_form(collector: BrokerCollector, is_openmetrics: bool) -> None:
    """Over HTTP, with the Accept header of Prometheus. OpenMetrics forbids one name for two families."""
    server = MetricsServer("127.0.0.1:0", collector)
    try:
        url = f"http://127.0.0.1:{server._server.server_port}/metrics"
        accept = CONTENT_TYPE_LATEST if is_openmetrics else "text/plain"
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Accept": accept}), timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith(accept.split(";")[0])
            text = answer.read().decode()
    finally:
        server.close()
    assert values((parse_openmetrics if is_openmetrics else parse_text)(text)) == EXPECTED


def test_the_snapshot_does_not_change_with_the_core() -> None:
    core = Routing(7, 0.0)
    core.handle(FromWorker(b"W", m.RegisterWorker(m.PROTOCOL_VERSION, "w", SPEC)), 0.0)
    core.handle(FromFrontend(b"F", m.RegisterFrontend(m.PROTOCOL_VERSION, "f")), 0.0)
    core.handle(FromFrontend(b"F", m.Open("s", 0, "", "")), 0.0)
    snapshot = BrokerSnapshot.of(core, 2.0)
    core.handle(FromFrontend(b"F", m.Open("t", 0, "", "")), 0.0)
    assert (snapshot.leases, snapshot.counts.sessions, snapshot.status.uptime_s) == (1, 1, 2.0)
