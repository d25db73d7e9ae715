"""What systemd receives from a worker: a real notification socket, and a clock that the test sets."""

from __future__ import annotations

import math
import socket
from collections.abc import Iterator

import pytest
from structlog.testing import capture_logs

from asr_process.notify import Unit
from asr_workers.unit_report import REGISTERED_S_MAX, UnitReport

WATCHDOG = b"WATCHDOG=1"
READY = b"READY=1\nSTATUS=registered with a broker"


class Systemd:
    """A watchdog of 4 s, which the worker feeds every 2 s."""

    def __init__(self, bound: socket.socket) -> None:
        self._bound = bound
        bound.bind("")
        name = "@" + bound.getsockname()[1:].decode()
        self.report = UnitReport(Unit({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "4000000"}))

    def received(self) -> list[bytes]:
        """The datagrams so far. On one machine they have arrived when `send` returns."""
        received = []
        while True:
            try:
                received.append(self._bound.recv(4096, socket.MSG_DONTWAIT))
            except BlockingIOError:
                return received


@pytest.fixture
def systemd() -> Iterator[Systemd]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        it = Systemd(bound)
        it.report.start(100.0, 0.1)
        assert it.received() == [WATCHDOG]
        yield it


# ---- Readiness ----


def test_a_worker_is_ready_when_a_broker_has_registered_it(systemd: Systemd) -> None:
    systemd.report.report(100.5, registered=False)
    assert systemd.received() == []
    systemd.report.report(101.0, registered=True)
    systemd.report.report(101.1, registered=True)
    assert systemd.received() == [READY]


def test_a_worker_is_ready_without_a_broker_after_a_while(systemd: Systemd) -> None:
    """It reports READY once. Later changes are sent as its status."""
    systemd.report.report(100.0 + REGISTERED_S_MAX - 0.01, registered=False)
    assert systemd.received() == [WATCHDOG]
    for registered in (False, False, True, False):
        systemd.report.report(100.0 + REGISTERED_S_MAX, registered=registered)
    assert systemd.received() == [
        b"READY=1\nSTATUS=no broker answers",
        b"STATUS=registered with a broker",
        b"STATUS=no broker answers",
    ]


def test_a_lost_broker_is_reported_immediately(systemd: Systemd) -> None:
    systemd.report.report(100.1, registered=True)
    systemd.report.report(100.2, registered=False)
    assert systemd.received() == [READY, b"STATUS=no broker answers"]


def test_a_drain_is_reported(systemd: Systemd) -> None:
    systemd.report.draining(3)
    assert systemd.received() == [b"STOPPING=1\nSTATUS=draining 3 sessions"]


# ---- The watchdog ----


def fed(systemd: Systemd, now: float) -> bool:
    systemd.report.report(now, registered=False)
    return WATCHDOG in systemd.received()


def test_an_idle_worker_feeds_the_watchdog(systemd: Systemd) -> None:
    assert systemd.report.next_deadline() == 102.0
    assert not fed(systemd, 101.9)
    assert fed(systemd, 102.0)
    assert systemd.report.next_deadline() == 104.0
    assert fed(systemd, 104.0)


def test_an_engine_that_hangs_starves_the_watchdog(systemd: Systemd) -> None:
    """It is fed once for the answer before, then no more, and no deadline wakes the loop for it."""
    systemd.report.submitted()
    assert fed(systemd, 102.0)
    assert systemd.report.next_deadline() == math.inf
    assert not fed(systemd, 104.0) and not fed(systemd, 200.0)
    systemd.report.answered()
    assert systemd.report.next_deadline() == 104.0
    assert fed(systemd, 201.0)


def test_an_engine_that_answers_but_is_never_idle_feeds_the_watchdog(systemd: Systemd) -> None:
    systemd.report.submitted()
    for turn in range(1, 5):
        systemd.report.submitted()
        systemd.report.answered()
        assert fed(systemd, 100.0 + 2 * turn)


def test_one_answer_of_two_is_an_answer_but_the_engine_is_not_idle(systemd: Systemd) -> None:
    systemd.report.submitted()
    systemd.report.submitted()
    assert fed(systemd, 102.0)
    systemd.report.answered()
    assert fed(systemd, 104.0)
    assert not fed(systemd, 106.0)


@pytest.mark.parametrize("step_s_p99, warns", [(1.0, False), (1.01, True)])
def test_steps_that_last_longer_than_the_watchdog_allows(systemd: Systemd, step_s_p99: float, warns: bool) -> None:
    with capture_logs() as logs:
        systemd.report.start(200.0, step_s_p99)
    assert [line["watchdog_s"] for line in logs] == ([4.0] if warns else [])


def test_without_systemd_nothing_is_due() -> None:
    report = UnitReport(Unit({}))
    report.start(0.0, 60.0)
    report.report(1.0, registered=True)
    assert report.next_deadline() == math.inf
