"""Several hosts: a broker and a frontend on one, workers on two others, behind a real TCP that is slowed, lossy, cut.

Skipped, with the reason, where namespaces cannot be made or a tool or kernel module is missing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.clients import Native, cut, expected, noise, paced
from tests.e2e.keyring import Keyring
from tests.e2e.network import Missing, Network
from tests.e2e.service import Program, Service, eventually

NOTICED_S = 20.0
"""Longest wait for a silent link to be given up: SILENT_MS and a ping or two (asr_process.curve), and a wide margin."""
pytestmark = pytest.mark.root


class Hosts(Service):
    """The pool over a network. While it is open, all sockets of this thread are on the hub."""

    def __init__(self, network: Network, keys: Keyring) -> None:
        super().__init__()
        self.network, self.keys = network, keys
        self.workers: dict[str, Program] = {}

    def _begin(self) -> None:
        self.keys.make("broker")
        names = ("frontend", "worker1", "worker2")
        for name in names:
            self.keys.make(name, allow=True)
        hub = self.network.within("hub")
        # The frontend is on the broker's host: it needs no key, its link is a path there.
        self.broker = self.start("broker", *self.keys.broker(), within=hub)
        frontend = self.start("frontend", "--listen=127.0.0.1:0", within=hub)
        self.port = int(frontend.wait_for(r"listening .*\bport=(\d+)")[1])
        for number in (1, 2):
            self._add_worker(number)
        for worker in self.workers.values():
            worker.wait_for("registered")
        self.wait_ready()

    def _add_worker(self, number: int) -> None:
        name = f"worker{number}"
        self.keys.host = self.network.hub(number)
        args = self.keys.worker(name, f"--name={name}")
        self.workers[name] = self.start("worker", *args, name=name, within=self.network.within(f"host{number}"))

    def host_of_the_session(self) -> str:
        """The host of the worker that holds the one session."""
        status = eventually(self.status, self.story)
        (name,) = [worker.name for worker in status.workers if worker.sessions]
        return f"host{name[-1]}"

    def wait_workers(self, count: int) -> None:
        eventually(lambda: (status := self.status()) and len(status.workers) == count, self.story)


@contextmanager
def made(network: Network, folder: Path) -> Iterator[Hosts]:
    """Three hosts on an undisturbed network."""
    with ExitStack() as exits:
        try:
            exits.enter_context(network)
        except Missing as missing:
            pytest.skip(str(missing))
        exits.enter_context(network.inside("hub"))
        yield exits.enter_context(Hosts(network, Keyring(folder, host="0.0.0.0", ports={"workers": 7101})))


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with made(Network(), tmp_path) as hosts:
        yield hosts


def need(trouble: Callable[[], None]) -> None:
    """Skip the test if this machine cannot disturb its network in this way."""
    try:
        trouble()
    except Missing as missing:
        pytest.skip(str(missing))


def conversations(hosts: Hosts, count: int, seconds: float) -> list[Native]:
    """Run so many sessions at the same time, at the speed of speech, each with its own noise. Their texts are exact."""
    audio = [noise(seconds, seed=60 + number) for number in range(count)]
    clients = [Native(hosts.url) for _ in audio]
    frames = zip(*(cut(pcm, 6400) for pcm in audio), strict=True)
    for together in paced(list(frames), 0.2):  # type: ignore[arg-type]
        for client, frame in zip(clients, together, strict=True):
            client.send(frame)  # type: ignore[arg-type]
    for client, pcm in zip(clients, audio, strict=True):
        client.stop()
        client.__exit__()
        assert client.text == expected(pcm)
    return clients


def undisturbed(clients: list[Native]) -> None:
    """Check that no session has moved."""
    assert not [client for client in clients if client.of("migrating")]


def test_words_are_exact_over_a_lossy_network(hosts: Hosts) -> None:
    """Two packets of a hundred are lost in each direction. TCP repeats them, no session moves, and both hosts work."""
    for host in ("host1", "host2"):
        need(lambda host=host: hosts.network.lose(host, 2))  # type: ignore[misc]
    undisturbed(conversations(hosts, 4, 4.0))
    accepted = {line.split("address=")[1].split()[0] for line in hosts.broker.lines if "accepted a peer" in line}
    assert accepted == {"10.231.1.2", "10.231.2.2"}


def test_words_are_exact_over_a_slow_network(hosts: Hosts) -> None:
    """30 ms ± 5 ms in each direction and one lost packet of a hundred, as between cities."""
    for host in ("host1", "host2"):
        need(lambda host=host: hosts.network.slow(host, "delay", "30ms", "5ms", "loss", "1%"))  # type: ignore[misc]
    undisturbed(conversations(hosts, 4, 4.0))
    assert hosts.network.round_trip_s(1) > 0.045


def test_words_are_exact_over_slow_cables(tmp_path: Path) -> None:
    """The same on kernels without netem."""
    with made(Network(delay_s=0.03, loss=0.01), tmp_path) as hosts:
        undisturbed(conversations(hosts, 4, 4.0))
        assert hosts.network.round_trip_s(1) > 0.055


def test_a_session_leaves_a_host_that_is_cut_off(hosts: Hosts) -> None:
    """Only silence shows the cut, no reset and no FIN. The words are exact, and the worker returns with the network."""
    pcm = noise(9.1, seed=71)
    with Native(hosts.url) as client:
        client.send(pcm[:64_000])
        client.until("final")
        host = hosts.host_of_the_session()
        since = len(hosts.workers[f"worker{host[-1]}"].lines)
        need(lambda: hosts.network.partition(host))
        start = time.monotonic()
        client.send(pcm[64_000:128_000])
        client.until("migrating")
        assert time.monotonic() - start < NOTICED_S
        client.send(pcm[128_000:])
        client.stop()
    assert client.text == expected(pcm)
    hosts.wait_workers(1)
    hosts.network.heal(host)
    hosts.workers[f"worker{host[-1]}"].wait_for("registered", since)
    hosts.wait_workers(2)
    conversations(hosts, 2, 1.0)


def test_an_idle_host_that_is_cut_off_is_noticed(hosts: Hosts) -> None:
    """It has no work whose progress could stop. The link's pings detect the cut before a session is sent there."""
    start = time.monotonic()
    need(lambda: hosts.network.partition("host1"))
    hosts.wait_workers(1)
    assert time.monotonic() - start < NOTICED_S
    pcm = noise(1.0, seed=72)
    with Native(hosts.url) as client:
        client.send(pcm)
        client.stop()
    assert client.text == expected(pcm)
    assert not client.of("migrating")
