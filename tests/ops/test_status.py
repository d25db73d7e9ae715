"""`asr status` against a stand-in for the broker's control socket."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq
from click.testing import CliRunner, Result
from msgspec import structs

from asr_ops.cli import main
from asr_process import settings
from asr_proto import messages as m
from asr_proto import wire

SPEC = m.Spec(
    *("moonshine", "moonshine-tiny", ("en",), 8, 8000, 30.0, "cpu"),
    checksum="0123abcd",
    license="mit",
    encode_factor=7.0,
)
LOAD = m.Load(1200, 3, 21.5, 48.25, 0.42, 0.087)
STATUS = m.Status(
    uptime_s=3725.0,
    workers=(m.WorkerStatus("worker-2", SPEC, 0, True, LOAD), m.WorkerStatus("worker-1", SPEC, 5, False, LOAD)),
    frontends=(m.FrontendStatus("frontend", 5),),
    sessions_total=71,
    refused_total=2,
    lost_total=1,
)


class Broker:
    """Answers every request with the same bytes."""

    def __init__(self, run_dir: Path, number: int = 1) -> None:
        self.answer = wire.encode(STATUS)
        self.requests: list[m.Message] = []
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.bind(settings.control_endpoint(run_dir, number))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with self._router:
            while True:
                try:
                    identity, hello, request = self._router.recv_multipart()
                except zmq.ContextTerminated:
                    return
                assert wire.decode_hello([hello]) == m.Hello(m.PROTOCOL_VERSION, m.PROTOCOL_VERSION_MIN, "asr status")
                self.requests.append(wire.decode(request))
                self._router.send_multipart([identity, hello, self.answer])

    def stop(self) -> None:
        self._context.term()
        self._thread.join()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    broker = Broker(tmp_path)
    yield broker
    broker.stop()


def status(run_dir: Path, *args: str, columns: int = 160) -> Result:
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(main, ["status", "--run-dir", str(run_dir), *args])


def test_shows_workers_frontends_and_totals(broker: Broker, tmp_path: Path) -> None:
    result = status(tmp_path)
    assert result.exit_code == 0
    assert broker.requests == [m.StatusRequest(m.PROTOCOL_VERSION)]
    rows = [line.split() for line in result.stdout.splitlines()]
    figures = ["0.087", "21.5", "/", "48.2", "42%", "3"]
    assert ["worker-1", "moonshine-tiny", "cpu", "5/8", *figures] in rows
    assert ["worker-2", "moonshine-tiny", "cpu", "0/8", *figures] in rows
    assert sum(row[:1] == ["draining"] for row in rows) == 1
    assert "0123abcd, mit" in result.stdout
    assert "encodes 7.0 times" in result.stdout
    assert ["frontend", "5"] in rows
    assert "5 of 16 slots taken · up 1 h 02 min · since then 71 sessions, 2 refused, 1 lost" in result.stdout


def test_an_empty_pool_says_what_is_missing(broker: Broker, tmp_path: Path) -> None:
    broker.answer = wire.encode(m.Status(9.0, (), (), 0, 0, 0))
    output = status(tmp_path).stdout
    assert "No worker is registered" in output
    assert "No frontend is registered" in output


def test_json_is_the_whole_status(broker: Broker, tmp_path: Path) -> None:
    result = json.loads(status(tmp_path, "--json").stdout)
    assert result["sessions_total"] == 71
    assert result["workers"][0]["spec"]["slots"] == 8
    assert result["workers"][0]["load"]["step_ms_p99"] == 48.25


def test_watch_ends_when_the_broker_does(broker: Broker, tmp_path: Path) -> None:
    broker.answer = wire.encode(m.Welcome(1, 1.0))
    assert status(tmp_path, "--watch", "0.1", "--json").exit_code == 3


def test_of_two_brokers_the_leader_comes_first(tmp_path: Path) -> None:
    brokers = [Broker(tmp_path, number) for number in (1, 2)]
    try:
        brokers[0].answer = wire.encode(structs.replace(STATUS, leads=False, uptime_s=60.0))
        output = status(tmp_path).stdout
        assert "5 of 16 slots taken" in output
        assert output.splitlines()[-1] == "a standby broker is up 1 min 00 s with 2 workers and 1 frontends registered"
        lines = status(tmp_path, "--json").stdout.splitlines()
        assert [json.loads(line)["leads"] for line in lines] == [True, False]
        brokers[1].answer = brokers[0].answer
        assert "No broker leads" in status(tmp_path).stdout
    finally:
        for broker in brokers:
            broker.stop()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (wire.encode(m.Rejected("version-mismatch", "upgrade it")), "upgrade it"),
        (wire.encode(m.Unregistered()), "Unregistered"),
        (b"\xc1", "another protocol version"),
    ],
)
def test_an_answer_that_is_no_status_is_one_sentence(
    broker: Broker, tmp_path: Path, answer: bytes, reason: str
) -> None:
    broker.answer = answer
    result = status(tmp_path)
    assert result.exit_code == 3
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1


def test_no_broker_is_one_sentence_and_exit_code_3(tmp_path: Path) -> None:
    result = status(tmp_path, "--timeout-s", "0.05")
    assert result.exit_code == 3
    assert result.stdout == ""
    assert result.stderr.startswith(f"asr status: no broker answers at ipc://{tmp_path}/control.ipc")


def test_asr_lists_its_commands_without_loading_them() -> None:
    output = CliRunner().invoke(main, ["--help"]).stdout
    assert all(name in output for name in ("serve", "transcribe", "status"))
