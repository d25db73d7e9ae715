"""The messages of the processes to systemd (units of Type=notify), received on real notification sockets."""

from __future__ import annotations

import platform
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Self

import pytest
import zmq

from asr_process import settings
from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import NotYet, SetupError
from tests.e2e.address_families import SYSCALL_SOCKET
from tests.e2e.clients import Native, noise
from tests.e2e.service import ROOT, WAIT_S, Program, Service, eventually, free_port

WATCHDOG_USEC = 400_000
UNITS = ROOT / "ops/systemd"
ONLY_FAMILIES = Path(__file__).with_name("address_families.py")


class Systemd:
    """One notification socket and all messages that it has received."""

    def __init__(self) -> None:
        self.received: list[str] = []
        self._changed = threading.Condition()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind("")  # the kernel picks an abstract name
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    @property
    def env(self) -> dict[str, str]:
        """The environment of a unit of Type=notify with a watchdog."""
        name = self._socket.getsockname()[1:].decode()
        return {"NOTIFY_SOCKET": f"@{name}", "WATCHDOG_USEC": str(WATCHDOG_USEC)}

    def feeds(self) -> int:
        with self._changed:
            return self.received.count("WATCHDOG=1")

    def wait_for(self, line: str, count: int = 1) -> None:
        """Wait until the line was received so often."""
        with self._changed:
            enough = self._changed.wait_for(lambda: self.received.count(line) >= count, WAIT_S)
            assert enough, f"{line!r} was not received {count} times: {self.received}"

    def wait_for_feeds(self, more: int) -> None:
        self.wait_for("WATCHDOG=1", self.feeds() + more)

    def _read(self) -> None:
        while message := self._socket.recv(4096):
            with self._changed:
                self.received += message.decode().split("\n")
                self._changed.notify_all()

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
    """A pool whose processes each have their own notification socket."""

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
        assert systemd.received.count("READY=1") == 1
    assert "STATUS=draining 0 sessions" in units.systemd["worker"].received


def test_a_worker_without_a_broker_is_ready_and_says_so() -> None:
    with Service() as service, Systemd() as systemd:
        service.start("worker", "--engine=fake", env=systemd.env)
        systemd.wait_for("READY=1")
        systemd.wait_for("STATUS=no broker answers")
        systemd.wait_for_feeds(3)
        service.start("broker")
        systemd.wait_for("STATUS=registered with a broker")
        assert systemd.received.count("READY=1") == 1


def test_a_worker_that_outlives_its_broker_says_so(units: Units) -> None:
    units.broker.process.kill()
    units.systemd["worker"].wait_for("STATUS=no broker answers")
    units.systemd["worker"].wait_for_feeds(3)


def test_a_busy_engine_feeds_the_watchdog() -> None:
    """A step is always running: the audio takes ten seconds, its first partial 1.5 s and its first final five."""
    with Units("--step-ms=300") as units, Native(units.url) as client:
        client.ready()
        client.send(noise(2))
        client.until("partial")
        units.systemd["worker"].wait_for_feeds(3)
        with suppress(TimeoutError):
            while client.receive(0):
                pass
        assert not client.of("final")


def test_an_engine_that_hangs_in_a_step_does_not_feed_the_watchdog() -> None:
    """The frontend's feeds, which continue at the same pace, serve as the clock."""
    with Units("--step-ms=6e5") as units, Native(units.url) as client:
        client.ready()
        units.worker.wait_for("steps may starve the watchdog: raise WatchdogSec=")
        units.systemd["worker"].wait_for_feeds(3)
        client.send(noise(1))

        def starved() -> bool:
            before = units.systemd["worker"].feeds()
            units.systemd["frontend"].wait_for_feeds(10)
            return units.systemd["worker"].feeds() == before

        eventually(starved, units.story)
        assert units.worker.process.poll() is None


# ---- Ends ----


def test_a_worker_that_the_broker_refuses_is_tried_again() -> None:
    """This happens in an upgrade between the restarts of the worker and of the broker."""
    with Service() as service, zmq.Context() as context, context.socket(zmq.ROUTER) as broker:
        broker.linger = 0
        broker.rcvtimeo = int(WAIT_S * 1000)
        broker.bind(settings.workers_endpoint(service.run_dir))
        worker = service.start("worker", "--engine=fake")
        peer, registration, hello = broker.recv_multipart()
        assert wire.decode_hello([hello]) is not None
        assert isinstance(wire.decode(registration), m.RegisterWorker)
        broker.send_multipart([peer, wire.encode(m.Rejected("version-mismatch", "it speaks another version"))])
        assert worker.wait() == NotYet.exit_code, worker.story()
        worker.wait_for("^asr-worker: the broker refuses this worker: it speaks another version$")


@pytest.mark.parametrize(("role", "option"), [("broker", "--workers=tcp://"), ("frontend", "--listen=")])
def test_an_address_in_use_is_tried_again(role: str, option: str) -> None:
    with Service() as service, socket.create_server(("127.0.0.1", 0)) as taken:
        program = service.start(role, f"{option}127.0.0.1:{taken.getsockname()[1]}")
        assert program.wait() == NotYet.exit_code, program.story()
        program.wait_for(f"^asr-{role}: cannot listen on .*in use")


def test_a_run_directory_with_another_broker_is_not() -> None:
    with Service() as service:
        service.start("broker").wait_for("broker ready")
        second = service.start("broker")
        assert second.wait() == SetupError.exit_code, second.story()
        second.wait_for("^asr-broker: another broker is running in ")


# ---- Confinement ----


@pytest.mark.skipif(platform.machine() not in SYSCALL_SOCKET, reason="no filter of system calls for this machine")
def test_processes_need_no_other_address_families_than_their_units_allow() -> None:
    """The links use tcp: ZeroMQ aborts a process that may not query this host's addresses."""
    with Service() as service:
        link = f"tcp://127.0.0.1:{free_port()}"

        def start(role: str, unit: str, *args: str) -> Program:
            (families,) = re.findall(r"^RestrictAddressFamilies=(.+)$", (UNITS / unit).read_text(), re.MULTILINE)
            return service.start(role, *args, within=[sys.executable, str(ONLY_FAMILIES), families])

        start("broker", "asr-broker.service", f"--workers={link}").wait_for("broker ready")
        start("worker", "asr-worker@.service", f"--broker={link}", "--engine=fake").wait_for("registered")
        frontend = start("frontend", "asr-frontend@.service", "--listen=127.0.0.1:0")
        service.port = int(frontend.wait_for(r"listening .*\bport=(\d+)")[1])
        service.wait_ready()
