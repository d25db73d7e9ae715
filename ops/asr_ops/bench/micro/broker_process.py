"""Runs a real `asr-broker` in a temporary directory, and reads the CPU time of its threads."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from asr_ops.bench.processes import psutil
from asr_process.settings import frontends_endpoint, workers_endpoint
from asr_process.supervised import VARIABLE

STOP_S_MAX = 5.0


@dataclass(frozen=True, slots=True)
class BrokerProcess:
    """A broker and its endpoints. It may not listen yet: ZeroMQ peers connect when it does."""

    pid: int
    frontends: str
    workers: str

    def threads_s(self) -> tuple[float, float]:
        """CPU seconds so far of the broker's own thread, and of all other threads (ZeroMQ's)."""
        spent = {one.id: one.user_time + one.system_time for one in psutil().Process(self.pid).threads()}
        main_s = spent.pop(self.pid)
        return main_s, sum(spent.values())


@contextmanager
def broker_process() -> Iterator[BrokerProcess]:
    """Run a broker while the block runs. It also ends if this process ends first, because that closes its stdin."""
    with tempfile.TemporaryDirectory(prefix="asr-micro-") as run_dir:
        command = [sys.executable, "-m", "asr_broker.cli", f"--run-dir={run_dir}", "--log-level=error"]
        environment = {**os.environ, VARIABLE: "1"}
        with subprocess.Popen(command, stdin=subprocess.PIPE, env=environment) as process:
            try:
                folder = Path(run_dir)
                yield BrokerProcess(process.pid, frontends_endpoint(folder), workers_endpoint(folder))
            finally:
                _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_S_MAX)
    except subprocess.TimeoutExpired:
        process.kill()
