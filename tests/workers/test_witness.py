"""What the witness of a worker reports after which end. The worker is a real process, the test acts as the broker."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

import pytest
import zmq

from asr_proto import messages as m
from asr_proto import wire
from asr_proto.messages import LEASES_MAX
from asr_workers.witness import SharedDiary

WAIT_MS = 30_000
WORKER = """
import os, signal, sys
from asr_process.curve import BrokerAt
from asr_workers.witness import Witness

with Witness([BrokerAt(sys.argv[1])]) as witness:
    witness.wait()
    print(witness.identity.hex(), flush=True)
    witness.diary.begin([1, 2])
    witness.diary.end()
    witness.diary.begin([2**62 + 7, 5, 6])
    exec(sys.argv[2])
"""


class Broker:
    def __init__(self) -> None:
        folder = tempfile.mkdtemp(prefix="asr-", dir="/tmp")
        self.endpoint = f"ipc://{folder}/w.ipc"
        self.context = zmq.Context[zmq.Socket[bytes]]()
        self.socket = self.context.socket(zmq.ROUTER)
        self.socket.bind(self.endpoint)

    def worker(self, end: str) -> tuple[str, int]:
        """Run a worker that ends in this way. Returns the identity of its witness, and the exit code."""
        argv = [sys.executable, "-c", WORKER, self.endpoint, end]
        done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
        return done.stdout.strip(), done.returncode

    def report(self) -> tuple[str, m.Message] | None:
        if not self.socket.poll(WAIT_MS):
            return None
        peer, message = self.socket.recv_multipart()
        return peer.hex(), wire.decode(message)


@pytest.fixture
def broker() -> Iterator[Broker]:
    it = Broker()
    yield it
    it.socket.close()
    it.context.term()


@pytest.mark.parametrize(
    "end, proven",
    [
        ("signal.raise_signal(signal.SIGSEGV)", True),
        ("os.abort()", True),
        ("os.kill(os.getpid(), signal.SIGKILL)", False),
        ("os._exit(3)", False),
    ],
)
def test_it_reports_what_the_engine_did(broker: Broker, end: str, proven: bool) -> None:
    identity, code = broker.worker(end)
    assert code
    assert broker.report() == (identity, m.Crashed((2**62 + 7, 5, 6), proven))


def test_it_survives_the_signals_that_end_its_worker(broker: Broker) -> None:
    identity, _ = broker.worker("os.killpg(os.getpgid(witness._process.pid), signal.SIGTERM); os._exit(3)")
    assert broker.report() == (identity, m.Crashed((2**62 + 7, 5, 6), proven=False))


def test_an_error_of_the_worker_itself_blames_nobody(broker: Broker) -> None:
    identity, code = broker.worker("witness.diary.end(); raise ValueError")
    assert code == 1
    assert broker.report() == (identity, m.Crashed((), proven=False))


def test_a_worker_that_ends_in_order_has_no_report(broker: Broker) -> None:
    _, code = broker.worker("pass")
    assert code == 0
    broker.worker("os._exit(3)")
    report = broker.report()
    assert report is not None and report[1] == m.Crashed((2**62 + 7, 5, 6), proven=False), "that of the second worker"


def test_the_diary_has_room_for_the_leases_of_one_message() -> None:
    descriptor = os.memfd_create("test")
    diary = SharedDiary(descriptor)
    diary.begin(range(LEASES_MAX + 1))
    assert SharedDiary(descriptor).leases() == tuple(range(LEASES_MAX))
    diary.end()
    assert diary.leases() == ()
    os.close(descriptor)
