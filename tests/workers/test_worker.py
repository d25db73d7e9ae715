"""The worker's shell with real sockets, the real engine thread and the fake engine. The test acts as the broker."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import zmq
from structlog.testing import capture_logs

from asr_process import curve, garbage
from asr_process.stopping import Order
from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import NotYet
from asr_workers.engines.base import Chunk, Output
from asr_workers.engines.fake import CHUNK_SAMPLES, FakeConfig, FakeEngine, transcript
from asr_workers.worker import Worker, WorkerConfig

WAIT_S = 30.0
SAMPLES = np.random.default_rng(5).integers(-9000, 9000, 4 * CHUNK_SAMPLES).astype(np.int16)
SETUP = wire.encode_setup(m.Setup("en", True, 100 * CHUNK_SAMPLES, None))


class Engine(FakeEngine):
    """The fake engine. Its steps wait for an event and may raise an error."""

    def __init__(self) -> None:
        super().__init__(FakeConfig(slots=4))
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def step(self, chunks: Sequence[Chunk], now: float) -> list[Output]:
        assert self.gate.wait(WAIT_S)
        if self.error is not None:
            raise self.error
        return super().step(chunks, now)


class Broker:
    """The test's end of one link."""

    def __init__(self, context: zmq.Context[Any], endpoint: str) -> None:
        self.socket: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.RCVTIMEO, round(WAIT_S * 1000))
        self.socket.bind(endpoint)
        self.worker = b""

    def receive(self, kind: type[m.Message]) -> m.Message:
        """The worker's next message of this kind."""
        return self.received(kind)[0]

    def received(self, kind: type[m.Message]) -> tuple[Any, list[m.Frame]]:
        """The worker's next message of this kind, with its frames."""
        while True:
            self.worker, routing, *body = self.socket.recv_multipart()
            message = wire.decode(routing)
            if isinstance(message, kind):
                return message, wire.decode_frames(body[0]) if isinstance(message, m.Bundle) else []

    def waiting(self) -> list[m.Message]:
        """The messages that have arrived and were not received."""
        found = []
        while self.socket.poll(0):
            found.append(wire.decode(self.socket.recv_multipart()[1]))
        return found

    def send(self, message: m.Message, body: bytes | None = None) -> None:
        self.socket.send_multipart([self.worker, wire.encode(message)] + ([] if body is None else [body]))

    def welcome(self, heartbeat_s: float = 1000.0, term: int = 0) -> None:
        """Register the worker. With a long heartbeat interval, a test sees what a turn does without one."""
        self.receive(m.RegisterWorker)
        self.send(m.Welcome(1, heartbeat_s, term))

    def grant(self, lease: int, slot: int) -> None:
        self.send(m.Grant(lease, slot, f"s{lease}", b"F"), SETUP)

    def audio(self, lease: int, *more: m.Frame) -> None:
        """Send all of SAMPLES."""
        frames = [m.Audio(lease, 0, SAMPLES.astype("<i2").tobytes()), *more]
        self.send(m.Bundle(b"W", (lease,)), wire.encode_frames(frames))

    def frames_until(self, kind: type[m.Frame]) -> list[m.Frame]:
        frames: list[m.Frame] = []
        while not any(isinstance(frame, kind) for frame in frames):
            frames += self.received(m.Bundle)[1]
        return frames


class Running:
    """A worker in its thread; the error of `run` is stored."""

    def __init__(self, endpoints: Sequence[str], drain_s: float = WAIT_S) -> None:
        self.engine = Engine()
        brokers = tuple(curve.BrokerAt(endpoint) for endpoint in endpoints)
        self.worker = Worker(WorkerConfig(brokers, "w1", drain_s=drain_s), self.engine)
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.worker.run()
        except Exception as error:
            self.error = error

    def ended(self) -> BaseException | None:
        """The error with which `run` ended, or None, when it has ended."""
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        return self.error

    def close(self) -> None:
        """End the worker immediately, also with sessions."""
        self.engine.gate.set()
        self.worker._config = replace(self.worker._config, drain_s=0.0)
        self.worker._stop_at = 0.0
        self.worker.stop()
        self.ended()
        self.worker.close()


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(garbage, "settle", lambda: None)
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield folder


@pytest.fixture
def listen(folder: str) -> Iterator[Callable[[str], Broker]]:
    """Start a broker at a name in the folder."""
    context: zmq.Context[Any] = zmq.Context()
    listening: list[Broker] = []

    def listen(name: str) -> Broker:
        listening.append(Broker(context, f"ipc://{folder}/{name}"))
        return listening[-1]

    yield listen
    for broker in listening:
        broker.socket.close(linger=0)
    context.term()


@pytest.fixture
def broker(listen: Callable[[str], Broker]) -> Broker:
    return listen("a")


@pytest.fixture
def start(folder: str, broker: Broker) -> Iterator[Callable[..., Running]]:
    started: list[Running] = []

    def start(*names: str, **options: Any) -> Running:
        started.append(Running([f"ipc://{folder}/{name}" for name in names or ("a",)], **options))
        return started[-1]

    yield start
    for running in started:
        running.close()


Start = Callable[..., Running]


def serving(start: Start, broker: Broker) -> Running:
    """A worker with one session, whose first audio has its text."""
    running = start()
    broker.welcome()
    broker.grant(1, 0)
    broker.audio(1, m.Flush(1, "x"))
    broker.frames_until(m.Flushed)
    return running


def test_a_session_from_grant_to_closed(start: Start, broker: Broker) -> None:
    running = start()
    broker.welcome()
    broker.grant(1, 2)
    broker.audio(1, m.Stop(1))
    frames = broker.frames_until(m.Ended)
    assert " ".join(frame.text for frame in frames if isinstance(frame, m.Final)) == transcript(SAMPLES)
    assert frames[-1] == m.Ended(1)
    broker.send(m.Release(1))
    assert broker.receive(m.Closed) == m.Closed(1)
    running.worker.stop()
    assert broker.receive(m.Drain) == m.Drain()
    assert running.ended() is None


def test_a_worker_that_stops_serves_its_sessions_to_their_end(start: Start, broker: Broker) -> None:
    running = serving(start, broker)
    running.worker.stop()
    broker.receive(m.Drain)
    running.worker.stop()
    broker.send(m.Bundle(b"W", (1,)), wire.encode_frames([m.Stop(1)]))
    assert m.Ended(1) in broker.frames_until(m.Ended)
    broker.send(m.Release(1))
    broker.receive(m.Closed)
    assert running.ended() is None


def test_a_drain_has_an_end(start: Start, broker: Broker) -> None:
    """This holds with a session, and when no heartbeat is due for a long time."""
    running = start(drain_s=0.05)
    broker.welcome()
    broker.grant(1, 0)
    broker.audio(1, m.Flush(1, "x"))
    broker.frames_until(m.Flushed)
    running.worker.stop()
    broker.receive(m.Drain)
    assert running.ended() is None
    assert len(running.worker._sessions) == 1


def test_heartbeats_do_not_wait_for_a_step(start: Start, broker: Broker) -> None:
    running = start()
    running.engine.gate.clear()
    broker.welcome(heartbeat_s=0.01)
    broker.grant(1, 0)
    broker.audio(1)
    pending: list[int] = []
    while pending.count(1) < 3:
        heartbeat = broker.receive(m.WorkerHeartbeat)
        assert isinstance(heartbeat, m.WorkerHeartbeat)
        assert heartbeat.load.steps == 0
        pending.append(heartbeat.load.pending_chunks)


def test_a_worker_that_is_rejected_ends(start: Start, broker: Broker) -> None:
    running = start()
    broker.receive(m.RegisterWorker)
    broker.send(m.Rejected("version", "its protocol version is 9"))
    error = running.ended()
    assert isinstance(error, NotYet)
    assert error.detail == "the broker refuses this worker: its protocol version is 9"


def test_an_engine_that_fails_ends_the_worker(start: Start, broker: Broker) -> None:
    running = start()
    running.engine.error = RuntimeError("out of memory")
    broker.welcome()
    broker.grant(1, 0)
    broker.audio(1)
    assert running.ended() is running.engine.error


def test_bytes_that_are_no_message_are_dropped(start: Start, broker: Broker) -> None:
    """One line is logged, and the messages after them are handled in the same turn."""
    with capture_logs() as logs:
        start()
        broker.receive(m.RegisterWorker)
        broker.socket.send_multipart([broker.worker, b"\xc1"])
        broker.send(m.Welcome(1, 1000.0))
        broker.grant(1, 0)
        broker.audio(1, m.Flush(1, "x"))
        broker.frames_until(m.Flushed)
    assert [line["event"] for line in logs if line["log_level"] == "warning"] == ["undecodable message from the broker"]


def test_a_queue_that_is_full_ends_the_sessions(start: Start, broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that continues later will have evicted this worker."""
    running = serving(start, broker)
    (link,) = running.worker._links
    send = link.send
    full = [b"full"]
    monkeypatch.setattr(link, "send", lambda parts: not full.pop() if full else send(parts))
    broker.send(m.Bundle(b"W", (1,)), wire.encode_frames([m.Flush(1, "y")]))
    broker.welcome()
    assert len(running.worker._sessions) == 0
    broker.grant(2, 0)
    broker.audio(2, m.Flush(2, "z"))
    assert broker.frames_until(m.Flushed)[-1] == m.Flushed(2, "z")


def test_a_broken_connection_is_noticed_and_restored(start: Start, listen: Callable[[str], Broker]) -> None:
    """A worker with two brokers drops the sessions of the one whose connection ends, and registers again."""
    first, second = listen("b"), listen("c")
    start("b", "c")
    first.receive(m.RegisterWorker)
    second.receive(m.RegisterWorker)
    second.send(m.Standby(2))
    first.send(m.Claim(1, 1, 1))
    assert first.receive(m.Vote) == m.Vote(1, 1, 1)
    first.send(m.Welcome(1, 1000.0, 1))
    first.grant(1, 0)
    first.audio(1, m.Flush(1, "x"))
    first.frames_until(m.Flushed)
    first.socket.close(linger=0)
    while second.receive(m.Vote) != m.Vote(1, 0, 1):
        pass
    listen("b").receive(m.RegisterWorker)


def test_the_leaders_messages_come_first(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = Worker(WorkerConfig(tuple(curve.BrokerAt(f"ipc://{folder}/{n}") for n in range(3)), "w1"), Engine())
    received: list[int] = []
    monkeypatch.setattr(worker, "_receive", received.append)
    for leader in (None, 0, 1, 2):
        worker._brokers.leader = leader
        worker._receive_all()
    assert received == [0, 1, 2, 0, 1, 2, 1, 0, 2, 2, 0, 1]
    worker.close()


@contextmanager
def idle(folder: str) -> Iterator[Worker]:
    worker = Worker(WorkerConfig((curve.BrokerAt(f"ipc://{folder}/x"),), "w1"), Engine())
    yield worker
    worker.close()


def test_a_worker_that_stops_with_its_pool_ends_without_a_drain(start: Start, broker: Broker) -> None:
    """The frontends have ended, so nobody waits for its sessions, and no other worker may get them."""
    running = serving(start, broker)
    running.worker.obey(Order(0.0, 5.0))
    assert running.ended() is None
    assert len(running.worker._sessions) == 1
    assert m.Drain() not in broker.waiting()


def test_an_orphaned_worker_serves_its_sessions_to_their_end(start: Start, broker: Broker) -> None:
    running = serving(start, broker)
    running.worker.obey(Order(WAIT_S, 0.0))
    broker.send(m.Bundle(b"W", (1,)), wire.encode_frames([m.Stop(1)]))
    assert m.Ended(1) in broker.frames_until(m.Ended)
    broker.send(m.Release(1))
    broker.receive(m.Closed)
    assert running.ended() is None


def test_an_order_ends_a_drain(start: Start, broker: Broker) -> None:
    running = serving(start, broker)
    running.worker.stop()
    broker.receive(m.Drain)
    running.worker.obey(Order(0.0, 5.0))
    assert running.ended() is None


def test_a_worker_without_a_broker_ends_when_it_is_stopped(start: Start, broker: Broker) -> None:
    broker.socket.close(linger=0)
    running = start()
    running.worker.stop()
    assert running.ended() is None
