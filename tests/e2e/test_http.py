"""Health, readiness, metrics and `asr status`: what monitoring sees of the real processes."""

from __future__ import annotations

import json
import re
import signal

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.clients import Native, converse, cut, noise
from tests.e2e.service import Pool, Program, asr, eventually, free_port


def samples(body: str) -> dict[str, float]:
    """Values by name; labels do not matter with one process of a kind."""
    families = text_string_to_metric_families(body)
    return {sample.name: sample.value for family in families for sample in family.samples}


def by_endpoint(body: str) -> dict[tuple[str, str], float]:
    """Values by name and endpoint."""
    families = text_string_to_metric_families(body)
    return {(one.name, one.labels.get("endpoint", "")): one.value for family in families for one in family.samples}


def kill(pool: Pool, program: Program) -> None:
    """End one of the pool's programs for good."""
    program.process.send_signal(signal.SIGKILL)
    program.wait()
    pool.programs.remove(program)
    program.close()


def test_health(fake: Pool) -> None:
    status, body = fake.get("/health")
    assert status == 200
    assert json.loads(body)["status"] == "healthy"


def test_readiness_follows_the_workers() -> None:
    """503 before there is a worker, 200 with one, 503 when it is gone; healthy all the time."""
    with Pool(workers=[]) as pool:
        assert pool.get("/ready") == (503, '{"ready":false}')
        worker = pool.add_worker("--engine=fake")
        eventually(lambda: pool.get("/ready") == (200, '{"ready":true}'), "readiness with a worker")
        kill(pool, worker)
        eventually(lambda: pool.get("/ready")[0] == 503, "no readiness without a worker")
        pool.add_worker("--engine=fake")
        eventually(lambda: pool.get("/ready")[0] == 200, "readiness with another worker")
        kill(pool, pool.broker)
        eventually(lambda: pool.get("/ready")[0] == 503, "no readiness without a broker", 10)
        assert pool.get("/health")[0] == 200
        pool.start("broker")
        eventually(lambda: pool.get("/ready")[0] == 200, "readiness with another broker")


def test_readiness_without_a_broker() -> None:
    with Pool() as pool:
        other, port = pool.add_frontend(f"--broker=ipc://{pool.run_dir}/nobody.ipc")
        assert pool.get("/ready", port)[0] == 503
        assert pool.get("/health", port)[0] == 200
        assert other.process.poll() is None


def test_readiness_when_full() -> None:
    with Pool(workers=[["--engine=fake", "--slots=1"]]) as pool:
        with Native(pool.url) as client:
            client.ready()
            eventually(lambda: pool.get("/ready")[0] == 503, "no readiness without a free slot")
        eventually(lambda: pool.get("/ready")[0] == 200, "readiness with a free slot")


def test_metrics_of_all_processes() -> None:
    """They count the same sessions and the same audio."""
    at_broker, at_worker = free_port(), free_port()
    worker = ["--engine=fake", "--slots=7", f"--metrics=127.0.0.1:{at_worker}"]
    with Pool(workers=[worker], broker=[f"--metrics=127.0.0.1:{at_broker}"]) as pool:

        def metrics(port: int | None = None) -> dict[str, float]:
            status, body = pool.get("/metrics", port)
            assert status == 200
            return samples(body)

        def settled(port: int, wanted: dict[str, float]) -> dict[str, float]:
            """The metrics, once they say this: they are of up to a second ago."""

            def found() -> dict[str, float] | None:
                said = metrics(port)
                return said if {name: said.get(name) for name in wanted} == pytest.approx(wanted) else None

            read: dict[str, float] = eventually(found, lambda: f"{wanted} in {metrics(port)}")
            return read

        assert metrics()["asr_frontend_ready"] == 1
        for seed in range(3):
            converse(pool.url, cut(noise(2.0, seed), 3200))
        with Native(pool.url) as client:
            client.ready()
            front = metrics()
            assert front["asr_frontend_sessions"] == 1
            assert front["asr_frontend_sessions_requested_total"] == 4
            assert front["asr_frontend_finals_total"] == 6
            assert front["asr_frontend_audio_seconds_total"] == pytest.approx(6.0)
            assert front["asr_frontend_errors_total"] == 0
            broker = settled(at_broker, {"asr_broker_leases": 1, "asr_broker_sessions_total": 4})
            assert broker["asr_broker_workers"] == 1
            assert broker["asr_broker_frontends"] == 1
            assert broker["asr_broker_slots"] == 7
            assert broker["asr_broker_worker_sessions"] == 1
            counted = settled(at_worker, {"asr_worker_sessions": 1, "asr_worker_audio_seconds_total": 6.0})
            assert counted["asr_worker_slots"] == 7
            assert counted["asr_worker_steps_total"] > 0
            client.socket.send("no message")
            client.error()
        assert metrics()["asr_frontend_errors_total"] == 1
        assert metrics()["asr_frontend_sessions"] == 0
        eventually(lambda: metrics(at_broker)["asr_broker_leases"] == 0, "no session at the broker")


def test_requests_are_counted_by_endpoint(fake: Pool) -> None:
    """AMI-08: AMIRA's names, with Prometheus' forms; whatever path is asked for, the labels are few."""
    before = by_endpoint(fake.get("/metrics")[1])
    name, active = ("asr_requests_total", "/v1/stream"), ("asr_active_connections", "")
    with Native(fake.url) as client:
        client.ready()
        assert fake.get("/nonsense/of/a/scanner")[0] == 404
        during = by_endpoint(fake.get("/metrics")[1])
        assert during[active] == before[active] + 1
        assert during[name] == before.get(name, 0) + 1
    assert during[("asr_requests_total", "other")] >= 1
    done = ("asr_request_duration_seconds_count", "/v1/stream")

    def counted() -> bool:
        return by_endpoint(fake.get("/metrics")[1]).get(done, 0) == during.get(done, 0) + 1

    eventually(counted, "the duration of a conversation that is over")


def test_content_type_of_metrics(fake: Pool) -> None:
    status, body = fake.get("/metrics")
    assert status == 200
    assert re.search(r"^# TYPE asr_frontend_sessions gauge$", body, re.MULTILINE)


def test_status_as_json() -> None:
    with Pool(workers=[["--engine=fake", "--slots=3"], ["--engine=fake", "--slots=5"]]) as pool:
        with Native(pool.url) as client:
            client.ready()
            result = asr("status", "--run-dir", pool.run_dir, "--json")
            assert (result.returncode, result.stderr) == (0, "")
            status = json.loads(result.stdout)
        assert {worker["name"]: worker["spec"]["slots"] for worker in status["workers"]} == {
            "worker-1": 3,
            "worker-2": 5,
        }
        assert sum(worker["sessions"] for worker in status["workers"]) == 1
        assert [frontend["sessions"] for frontend in status["frontends"]] == [1]
        assert status["sessions_total"] == 1
        assert status["workers"][0]["spec"]["model"] == "fake"
        tables = asr("status", "--run-dir", pool.run_dir)
        assert tables.returncode == 0
        assert "worker-1" in tables.stdout and "0/5" in tables.stdout
        run_dir = pool.run_dir
    assert asr("status", "--run-dir", run_dir, "--json", "--timeout-s", "0.2").returncode == 3
    run_dir.rmdir()
