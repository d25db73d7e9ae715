"""Measures the broker under load: at the pace of live sessions, and at full speed."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from asr_ops.bench.micro.broker_process import BrokerProcess, broker_process
from asr_ops.bench.micro.peers import FRONTENDS, PHASES, Arrival, BenchPeers, ReadyBundle, round_robin
from asr_ops.bench.processes import UsageSnapshot, others_cores, snapshot
from asr_ops.bench.statistics import Spread, spread

BUNDLE_S = 0.005
WARM_UP_S = 0.5
DRAIN_S = 0.5
UNDER_WAY = 64
"""Bundles under way in a run at full speed: two for each pair of frontend and worker."""
MESSAGES_UNDER_WAY = 1024
FRAME = bytes(640)
SMALL = bytes(6)
MESSAGE_SESSIONS = 32
"""One session for each pair of frontend and worker, so that every message has one frame."""
BUSY = 0.9
"""Share of a core. A broker thread that used less waited for the generator."""


@dataclass(frozen=True, slots=True)
class BrokerRow:
    """The figures of one run. Frames and bundles are those that arrived in `seconds`."""

    name: str
    sessions: int | None
    """Number of sessions in real time. None for a run at full speed."""
    seconds: float
    frames: int
    bundles: int
    main_s: float
    """CPU seconds of the broker's own thread."""
    io_s: float
    """CPU seconds of ZeroMQ's threads."""
    hop_ms: Spread | None
    late_ms: Spread | None
    missing: int
    """Bundles that were sent and had not arrived DRAIN_S seconds after the end."""
    others_cores: float
    """Cores kept busy by neither the broker nor this process."""

    @property
    def frames_per_s(self) -> float:
        return self.frames / self.seconds

    @property
    def bundles_per_s(self) -> float:
        return self.bundles / self.seconds

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all threads of the broker."""
        return self.main_s + self.io_s

    @property
    def cores_per_1000(self) -> float | None:
        """Cores used for 1,000 sessions. None for a run at full speed."""
        return self.cpu_s / self.seconds / self.sessions * 1000 if self.sessions else None

    @property
    def busiest(self) -> float:
        """The share of a core that the busier of the two used."""
        return max(self.main_s, self.io_s) / self.seconds

    @property
    def generator_was_slow(self) -> bool:
        """Whether, in a run at full speed, the generator was the limit and not a thread of the broker."""
        return self.sessions is None and self.busiest < BUSY


@dataclass(slots=True)
class Tally:
    """Counts and times of a run."""

    frames: int = 0
    bundles: int = 0
    sent: int = 0
    hops_ms: list[float] = field(default_factory=list)
    late_ms: list[float] = field(default_factory=list)

    def take(self, arrivals: Iterable[Arrival]) -> int:
        """Count the arrivals. Returns their number."""
        before = self.bundles
        for one in arrivals:
            self.bundles += 1
            self.frames += one.frames
            self.hops_ms.append(one.hop_ns / 1e6)
        return self.bundles - before


Drive = Callable[[BenchPeers, Tally, float], None]
"""Loads the broker until a time of the monotonic clock."""


def rows(sessions: Sequence[int], seconds: float) -> list[BrokerRow]:
    """Measure each number of sessions in real time, then full speed with the largest bundles and with messages."""
    live = [paced(count, seconds) for count in sessions]
    return [*live, full_speed(max(sessions), seconds), messages(seconds)]


def paced(sessions: int, seconds: float) -> BrokerRow:
    """Measure live sessions, each with a frame every 20 ms."""
    with broker_process() as broker, BenchPeers(broker, sessions) as peers:
        bundles = peers.bundles(FRAME)
        return _run(f"{sessions:,} sessions", sessions, broker, peers, lambda *run: _paced(bundles, *run), seconds)


def full_speed(sessions: int, seconds: float) -> BrokerRow:
    """Measure the bundles of that many sessions at full speed."""
    return _full_speed(f"full speed, bundles of {sessions:,} sessions", sessions, FRAME, UNDER_WAY, seconds)


def messages(seconds: float) -> BrokerRow:
    """Measure bundles of one small frame each at full speed."""
    return _full_speed("full speed, messages", MESSAGE_SESSIONS, SMALL, MESSAGES_UNDER_WAY, seconds)


def _full_speed(name: str, sessions: int, pcm: bytes, under_way: int, seconds: float) -> BrokerRow:
    with broker_process() as broker, BenchPeers(broker, sessions) as peers:
        queue = round_robin(peers.bundles(pcm))
        return _run(name, None, broker, peers, lambda *run: _refilled(queue, under_way, *run), seconds)


# ---- One run ----


def _run(
    name: str, sessions: int | None, broker: BrokerProcess, peers: BenchPeers, drive: Drive, seconds: float
) -> BrokerRow:
    with _no_collection():
        drive(peers, Tally(), time.monotonic() + WARM_UP_S)
        _drain(peers, Tally())
        tally, before, threads = Tally(), _now(broker), broker.threads_s()
        drive(peers, tally, before.at_s + seconds)
        main_s, io_s = (end - begin for begin, end in zip(threads, broker.threads_s(), strict=True))
        after, arrived = _now(broker), (tally.frames, tally.bundles)
        _drain(peers, tally)
    return BrokerRow(
        name,
        sessions,
        after.at_s - before.at_s,
        *arrived,
        main_s,
        io_s,
        hop_ms=spread(tally.hops_ms) if sessions is not None else None,
        late_ms=spread(tally.late_ms),
        missing=tally.sent - tally.bundles,
        others_cores=others_cores(before, after),
    )


def _now(broker: BrokerProcess) -> UsageSnapshot:
    return snapshot(broker.pid, (), time.monotonic())


def _paced(bundles: list[list[list[ReadyBundle]]], peers: BenchPeers, tally: Tally, end: float) -> None:
    """Send at the pace of live sessions. The frontends take turns; each sends all bundles of one phase together."""
    began, number = time.monotonic(), 0
    while (due := began + number * BUNDLE_S / FRONTENDS) < end:
        tally.take(peers.receive(math.ceil(max(0.0, due - time.monotonic()) * 1000)))
        peers.keep()
        if (late_s := time.monotonic() - due) >= 0:
            phase, frontend = divmod(number, FRONTENDS)
            for one in bundles[frontend][phase % PHASES]:
                peers.send(frontend, one)
                tally.sent += 1
            tally.late_ms.append(late_s * 1000)
            number += 1


def _refilled(
    queue: Iterator[tuple[int, ReadyBundle]], under_way: int, peers: BenchPeers, tally: Tally, end: float
) -> None:
    """Send one bundle for each that arrives, so that `under_way` bundles are always under way."""
    while time.monotonic() < end:
        while tally.sent - tally.bundles < under_way:
            peers.send(*next(queue))
            tally.sent += 1
        tally.take(peers.receive(1))
        peers.keep()


def _drain(peers: BenchPeers, tally: Tally) -> None:
    """Receive the bundles that are still under way, for DRAIN_S seconds."""
    end = time.monotonic() + DRAIN_S
    while time.monotonic() < end:
        tally.take(peers.receive(10))


@contextmanager
def _no_collection() -> Iterator[None]:
    """Disable the garbage collector while the block runs, because its pauses would show in the latencies."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
