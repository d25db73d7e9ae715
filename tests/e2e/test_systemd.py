"""What the processes say to systemd, heard on real notification sockets, as a unit of Type=notify would be heard."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator
from typing import Self

import pytest

from tests.e2e.clients import Native, noise
from tests.e2e.service import WAIT_S, Program, Service, eventually

WATCHDOG_USEC = 400_000


class Systemd:
    """One notification socket and all that was said on it."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self._said = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("")  # the kernel picks an abstract name
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def env(self) -> dict[str, str]:
        """What a unit of Type=notify with a watchdog has in its environment."""
        name = self._socket.getsockname()[1:].decode()
        return {"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": str(WATCHDOG_USEC)}

    def feeds(self) -> int:
        with self._said:
            return self.heard.count("WATCHDOG=1")

    def wait_for(self, line: str, count: int = 1) -> None:
        """Until the line was said so often."""
        with self._said:
            said = self._said.wait_for(lambda: self.heard.count(line) >= count, WAIT_S)
            assert said, f"{line!r} was not said {count} times: {self.heard}"

    def wait_for_feeds(self, more: int) -> None:
        self.wait_for("WATCHDOG=1", self.feeds() + more)

    def _read(self) -> None:
        while message := self._socket.recv(4096):
            with self._said:
                self.heard += message.decode().split("\n")
                self._said.notify_all()

    def close(self) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", self._socket.getsockname())
        self._reader.join()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Units(Service):
    """A pool of which every process has a systemd of its own."""

    def __init__(self, *worker: str) -> None:
        super().__init__()
        self._worker_args = worker
        self.systemd = {role: Systemd() for role in ("broker", "worker", "frontend")}

    def _begin(self) -> None:
        self.broker = self.unit("broker")
        self.worker = self.unit("worker", "--engine=fake", *self._worker_args)
        self.frontend = self.unit("frontend", "--listen=127.0.0.1:0")
        self.port = int(self.frontend.wait_for(r"listening .*\bport=(\d+)")[1])
        self.wait_ready()

    def unit(self, role: str, *args: str) -> Program:
        return self.start(role, *args, env=self.systemd[role].env)

    def close(self) -> None:
        try:
            super().close()
        finally:
            for systemd in self.systemd.values():
                systemd.close()


@pytest.fixture
def units() -> Iterator[Units]:
    with Units() as units:
        yield units


def test_ready_fed_and_stopping(units: Units) -> None:
    statuses = {"broker": "serving", "worker": "registered with a broker", "frontend": "listening on 127.0.0.1:0"}
    for role, systemd in units.systemd.items():
        systemd.wait_for("READY=1")
        systemd.wait_for(f"STATUS={statuses[role]}")
        systemd.wait_for_feeds(5)
    for program in (units.frontend, units.worker, units.broker):
        program.process.send_signal(signal.SIGTERM)
        assert program.wait() == 0, units.story()
        systemd = units.systemd[program.name]
        systemd.wait_for("STOPPING=1")
        assert systemd.heard.count("READY=1") == 1
    assert "STATUS=draining 0 sessions" in units.systemd["worker"].heard


def test_a_worker_without_a_broker_is_ready_and_says_so() -> None:
    with Service() as service, Systemd() as systemd:
        service.start("worker", "--engine=fake", env=systemd.env)
        systemd.wait_for("READY=1")
        systemd.wait_for("STATUS=no broker answers")
        systemd.wait_for_feeds(3)
        service.start("broker")
        systemd.wait_for("STATUS=registered with a broker")
        assert systemd.heard.count("READY=1") == 1


def test_a_worker_that_outlives_its_broker_says_so(units: Units) -> None:
    units.broker.process.kill()
    units.systemd["worker"].wait_for("STATUS=no broker answers")
    units.systemd["worker"].wait_for_feeds(3)


def test_a_busy_engine_feeds_the_watchdog() -> None:
    with Units("--step-ms=50") as units, Native(units.url) as client:
        client.ready()
        client.send(noise(4))
        client.until("partial")
        before = units.systemd["worker"].feeds()
        client.stop()
        assert units.systemd["worker"].feeds() > before


def test_an_engine_that_hangs_in_a_step_starves_it() -> None:
    """Time is told by the frontend's feeds, which go on at the same pace."""
    with Units("--step-ms=1e9") as units, Native(units.url) as client:
        client.ready()
        units.systemd["worker"].wait_for_feeds(3)
        client.send(noise(1))

        def starved() -> bool:
            before = units.systemd["worker"].feeds()
            units.systemd["frontend"].wait_for_feeds(10)
            return units.systemd["worker"].feeds() == before

        eventually(starved, units.story)
        assert units.worker.process.poll() is None
