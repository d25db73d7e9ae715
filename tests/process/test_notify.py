"""The notifications to systemd, on real sockets, and that none is sent outside a unit."""

from __future__ import annotations

import math
import os
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from asr_process.notify import Unit


@pytest.fixture(params=["path", "abstract"])
def systemd(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, str]]:
    """A notification socket and its value of NOTIFY_SOCKET."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.settimeout(30)
        if request.param == "path":
            name = str(Path(folder) / "notify")
            bound.bind(name)
        else:
            bound.bind("")  # the kernel picks a name
            address = bound.getsockname()
            name = "@" + address[1:].decode()
        yield bound, name


def test_messages(systemd: tuple[socket.socket, str]) -> None:
    bound, name = systemd
    unit = Unit({"NOTIFY_SOCKET": name})
    unit.ready("serving")
    unit.status("busy")
    unit.stopping("draining")
    assert [bound.recv(4096) for _ in range(3)] == [
        b"READY=1\nSTATUS=serving",
        b"STATUS=busy",
        b"STOPPING=1\nSTATUS=draining",
    ]


def test_the_watchdog_is_fed_after_half_of_its_time(systemd: tuple[socket.socket, str]) -> None:
    bound, name = systemd
    unit = Unit({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())})
    assert unit.feed(100.0)
    assert unit.feed_at == 102.0
    assert not unit.feed(101.9)
    assert unit.feed(102.5)
    assert unit.feed_at == 104.5
    unit.status("end")
    assert [bound.recv(4096) for _ in range(3)] == [b"WATCHDOG=1", b"WATCHDOG=1", b"STATUS=end"]


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"WATCHDOG_USEC": "0"},
        {"WATCHDOG_USEC": "soon"},
        {"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1"},
    ],
)
def test_nobody_watches(systemd: tuple[socket.socket, str], environ: dict[str, str]) -> None:
    bound, name = systemd
    unit = Unit({"NOTIFY_SOCKET": name} | environ)
    assert unit.feed_at == math.inf
    assert not unit.feed(1e9)
    unit.status("end")
    assert bound.recv(4096) == b"STATUS=end"


@pytest.mark.parametrize("name", ["", "vsock:2:1234", "/nowhere/to/be/found"])
def test_no_systemd(name: str) -> None:
    unit = Unit({"NOTIFY_SOCKET": name, "WATCHDOG_USEC": "4000000"})
    unit.ready("serving")
    unit.stopping("draining")
    unit.feed(1.0)


def test_a_queue_that_is_full_holds_nobody_up(systemd: tuple[socket.socket, str]) -> None:
    bound, name = systemd
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other, pytest.raises(BlockingIOError):
        other.setblocking(False)
        while True:
            other.sendto(b"STATUS=full", bound.getsockname())
    Unit({"NOTIFY_SOCKET": name}).status("dropped")
