"""Three hosts on one machine: network namespaces joined by virtual cables, which can be slowed, made lossy and cut.

It needs root and the tools ip, nft and tc; it raises `Missing` if one is missing. Names are unique to a run, and the
namespaces are removed with their `Network`, even after a failure.

On kernels without netem a `SlowCable` causes the delay: a thread here carries the packets between two hosts.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import random
import secrets
import select
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

CLONE_NEWNET = 0x40000000
NAMESPACES = Path("/run/netns")
TUNSETIFF = 0x400454CA
IFF_TAP, IFF_NO_PI = 0x0002, 0x1000
CUT = """table inet cut {
  chain in { type filter hook input priority 0; policy drop; }
  chain out { type filter hook output priority 0; policy drop; }
}
"""


class Missing(Exception):
    """This machine lacks something that the network needs; the message names it."""


class Network:
    """A hub and worker hosts 1..count. Host N has its own cable: there the hub is 10.231.N.1, the host 10.231.N.2."""

    def __init__(self, count: int = 2, *, delay_s: float | None = None, loss: float = 0.0) -> None:
        """With `delay_s` the cables are `SlowCable`s, which also lose the given share of the packets."""
        self._prefix = f"asr-{secrets.token_hex(3)}"
        self._count = count
        self._trouble = (delay_s, loss)
        self._cables: list[SlowCable] = []
        self._made: list[str] = []

    def __enter__(self) -> Self:
        if os.getuid() != 0:
            raise Missing("network namespaces need root")
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _build(self) -> None:
        self._add_host("hub")
        for number in range(1, self._count + 1):
            host = f"host{number}"
            self._add_host(host)
            hub, end = self.name("hub"), self.name(host)
            self._join(host)
            for namespace, device, address in ((hub, host, self.hub(number)), (end, "hub", f"10.231.{number}.2")):
                run("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", device)
                run("ip", "-n", namespace, "link", "set", device, "up")

    def _join(self, host: str) -> None:
        delay_s, loss = self._trouble
        hub, end = self.name("hub"), self.name(host)
        if delay_s is None:
            run("ip", "-n", hub, "link", "add", host, "type", "veth", "peer", "name", "hub", "netns", end)
            return
        with self.inside("hub"):
            here = open_tap(host)
        with self.inside(host):
            self._cables.append(SlowCable((here, open_tap("hub")), delay_s, loss))

    def _add_host(self, host: str) -> None:
        run("ip", "netns", "add", self.name(host))
        self._made.append(self.name(host))
        run("ip", "-n", self.name(host), "link", "set", "lo", "up")

    def close(self) -> None:
        """Remove the namespaces and so their devices. A namespace with processes in it only loses its name."""
        for cable in self._cables:
            cable.close()
        while self._made:
            with suppress(Missing):
                run("ip", "netns", "delete", self._made.pop())

    # ---- Hosts ----

    def name(self, host: str) -> str:
        return f"{self._prefix}-{host}"

    def hub(self, number: int) -> str:
        """The hub's address on the cable of worker host `number`."""
        return f"10.231.{number}.1"

    def within(self, host: str) -> list[str]:
        """A command that executes its arguments on a host."""
        return ["ip", "netns", "exec", self.name(host)]

    @contextmanager
    def inside(self, host: str) -> Iterator[None]:
        """Sockets that this thread makes in the block are on the host."""
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        there = os.open(NAMESPACES / self.name(host), os.O_RDONLY)
        try:
            _enter(there)
            yield
        finally:
            _enter(home)
            os.close(there)
            os.close(home)

    def round_trip_s(self, number: int) -> float:
        """The time for a refused connection from the hub to a worker host, in seconds: the shortest of three."""
        times = []
        for _ in range(3):
            start = time.monotonic()
            with suppress(ConnectionRefusedError):
                socket.create_connection((f"10.231.{number}.2", 9), timeout=5).close()
            times.append(time.monotonic() - start)
        return min(times)

    # ---- Trouble ----

    def partition(self, host: str) -> None:
        """Drop every packet to and from a host, silently."""
        run(*self.within(host), "nft", "-f", "-", text=CUT)

    def heal(self, host: str) -> None:
        run(*self.within(host), "nft", "delete", "table", "inet", "cut")

    def lose(self, host: str, percent: int) -> None:
        """Lose packets at random, in both directions."""
        hooks = ("input", "output")
        drop = f"numgen random mod 100 < {percent} drop"
        chains = (f"chain {hook} {{ type filter hook {hook} priority 0; {drop}; }};" for hook in hooks)
        run(*self.within(host), "nft", "-f", "-", text=f"table inet lose {{ {' '.join(chains)} }};\n")

    def slow(self, host: str, *netem: str) -> None:
        """Set netem's parameters on both ends of a host's cable."""
        for namespace, device in ((self.name("hub"), host), (self.name(host), "hub")):
            run("tc", "-n", namespace, "qdisc", "replace", "dev", device, "root", "netem", *netem)


class SlowCable:
    """Two network devices, joined by a thread that delays or drops each packet."""

    def __init__(self, ends: tuple[int, int], delay_s: float, loss: float) -> None:
        self._ends, self._delay_s, self._loss = ends, delay_s, loss
        self._random = random.Random(1)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._carry, daemon=True)
        self._thread.start()

    def _carry(self) -> None:
        here, there = self._ends
        under_way: deque[tuple[float, int, bytes]] = deque()
        while not self._closing.is_set():
            wait_s = under_way[0][0] - time.monotonic() if under_way else 0.1
            for end in select.select(self._ends, (), (), max(0.0, wait_s))[0]:
                packet = os.read(end, 65_536)
                if self._random.random() >= self._loss:
                    under_way.append((time.monotonic() + self._delay_s, there if end == here else here, packet))
            while under_way and under_way[0][0] <= time.monotonic():
                _, end, packet = under_way.popleft()
                os.write(end, packet)

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        for end in self._ends:
            os.close(end)


def open_tap(name: str) -> int:
    """A network device whose packets are read and written here. Raises Missing."""
    try:
        descriptor = os.open("/dev/net/tun", os.O_RDWR)
    except OSError as error:
        raise Missing(f"no TAP devices: {error.strerror}") from error
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    return descriptor


def run(*argv: str, text: str | None = None) -> None:
    """Run a tool. Raises Missing with the tool's error output."""
    if shutil.which(argv[0]) is None:
        raise Missing(f"{argv[0]} is not installed")
    done = subprocess.run(argv, capture_output=True, text=True, input=text, check=False, timeout=20)
    if done.returncode:
        raise Missing(f"{' '.join(argv)}: {' '.join((done.stderr or done.stdout).split())}")


def _enter(descriptor: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
