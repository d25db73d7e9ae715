"""Simulated frontends and workers: they register, open sessions, send heartbeats and send bundles made in advance.

They cost far less than real ones, so one process can load a broker fully. A bundle's first frame carries the sending
time in place of its sample index. The bytes remain a valid message.
"""

from __future__ import annotations

import struct
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from types import TracebackType
from typing import Any, TypeVar

import zmq

from asr_ops.bench.micro.broker_process import BrokerProcess
from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import SetupError

FRONTENDS, WORKERS = 4, 8
PHASES = 4
"""Bundles among which one pair's sessions are divided. With one every 5 ms, each session has a frame every 20 ms."""
ANSWER_S_MAX = 20.0
QUEUE_MESSAGES_MAX = 20_000
TURN_MESSAGES = 256

T = TypeVar("T", m.Welcome, m.Pinned, m.Grant)

_STAMP = struct.Struct(">Q")
_NO_TIME = m.SAMPLES_MAX
"""A sample index that takes as many bytes as a time."""
_STAMP_AFTER_COUNT = 12
"""Bytes from the end of a body's frame count to the first frame's sample index: array, tag, lease, type of integer."""


@dataclass(frozen=True, slots=True)
class ReadyBundle:
    """An encoded bundle."""

    routing: bytes
    body: bytearray
    frames: int


@dataclass(frozen=True, slots=True)
class Arrival:
    """A bundle that a worker received."""

    frames: int
    hop_ns: int
    """Nanoseconds from before the frontend's send to after the worker's receive."""


def bundle(worker: bytes, leases: list[int], pcm: bytes) -> ReadyBundle:
    """A bundle with one frame of each of these sessions."""
    frames = [m.Audio(lease, _NO_TIME, pcm) for lease in leases]
    return ReadyBundle(wire.encode(m.Bundle(worker, tuple(leases))), bytearray(wire.encode_frames(frames)), len(frames))


def stamp(body: bytearray, now_ns: int) -> None:
    """Write the sending time into the body."""
    _STAMP.pack_into(body, _counted(body)[1] + _STAMP_AFTER_COUNT, now_ns)


def arrival(body: bytes | bytearray | memoryview, now_ns: int) -> Arrival:
    """The arrival of a stamped body."""
    frames, after = _counted(body)
    return Arrival(frames, now_ns - _STAMP.unpack_from(body, after + _STAMP_AFTER_COUNT)[0])


def _counted(body: bytes | bytearray | memoryview) -> tuple[int, int]:
    """The number of frames, and the offset after it: MessagePack's fixarray header has one byte, array 16 has three."""
    return (body[0] & 15, 1) if body[0] & 0xF0 == 0x90 else (int.from_bytes(body[1:3], "big"), 3)


class BenchPeers:
    """4 frontends and 8 workers of one broker, with sessions between all of them."""

    def __init__(self, broker: BrokerProcess, sessions: int) -> None:
        self._stack = ExitStack()
        self._context: zmq.Context[Any] = self._stack.enter_context(zmq.Context())
        self._names = [b"W%08d" % number for number in range(WORKERS)]
        self._frontends = [self._connect(broker.frontends, b"F%08d" % number) for number in range(FRONTENDS)]
        self._workers = [self._connect(broker.workers, name) for name in self._names]
        self._leases: list[dict[bytes, list[int]]] = [{name: [] for name in self._names} for _ in self._frontends]
        self._poller = zmq.Poller()
        self._heartbeat_at = 0.0
        self._steps = 0
        self._register(sessions)
        self._open(sessions)
        for socket in (*self._workers, *self._frontends):
            self._poller.register(socket, zmq.POLLIN)

    def __enter__(self) -> BenchPeers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.close()

    # ---- Preparation ----

    def bundles(self, pcm: bytes) -> list[list[list[ReadyBundle]]]:
        """For each frontend and each phase, the bundles that it sends together: at most one for each worker."""
        return [
            [
                [bundle(worker, held[phase::PHASES], pcm) for worker, held in leases.items() if held[phase::PHASES]]
                for phase in range(PHASES)
            ]
            for leases in self._leases
        ]

    def _connect(self, endpoint: str, identity: bytes) -> zmq.Socket[bytes]:
        socket: zmq.Socket[bytes] = self._stack.enter_context(self._context.socket(zmq.DEALER))
        for option, value in ((zmq.LINGER, 0), (zmq.SNDHWM, QUEUE_MESSAGES_MAX), (zmq.RCVHWM, QUEUE_MESSAGES_MAX)):
            socket.setsockopt(option, value)
        socket.setsockopt(zmq.IDENTITY, identity)
        socket.connect(endpoint)
        return socket

    def _register(self, sessions: int) -> None:
        spec = m.Spec("raw", "raw", ("en",), -(-sessions // WORKERS), 960, 1.0, "none")
        for number, worker in enumerate(self._workers):
            worker.send(wire.encode(m.RegisterWorker(m.PROTOCOL_VERSION, f"w{number}", spec)))
            _await(worker, m.Welcome)
        for number, frontend in enumerate(self._frontends):
            frontend.send(wire.encode(m.RegisterFrontend(m.PROTOCOL_VERSION, f"f{number}")))
            self._heartbeat_s = _await(frontend, m.Welcome).heartbeat_s

    def _open(self, sessions: int) -> None:
        """Open the sessions of one frontend after the other, so that each has equally many on every worker."""
        for session in range(sessions):
            self.keep()
            number = session * FRONTENDS // sessions
            pinned = self._pin(self._frontends[number], str(session))
            self._leases[number][pinned.worker].append(pinned.lease)
        for name, worker in zip(self._names, self._workers, strict=True):
            for _ in range(sum(len(leases[name]) for leases in self._leases)):
                _await(worker, m.Grant)

    def _pin(self, frontend: zmq.Socket[bytes], session: str) -> m.Pinned:
        setup = m.Setup("en", True, 16_000, None)
        frontend.send_multipart([wire.encode(m.Open(session, 0, "", "en")), wire.encode_setup(setup)])
        return _await(frontend, m.Pinned)

    # ---- Under load ----

    def send(self, frontend: int, one: ReadyBundle) -> None:
        """Stamp the bundle with the time and send it."""
        stamp(one.body, time.monotonic_ns())
        self._frontends[frontend].send_multipart([one.routing, one.body])

    def receive(self, wait_ms: int) -> Iterator[Arrival]:
        """The bundles that reached the workers. Waits up to `wait_ms` for a message to any worker or frontend."""
        readable = dict(self._poller.poll(wait_ms))
        for worker in self._workers:
            if worker in readable:
                yield from _arrivals(worker)
        for frontend in self._frontends:
            if frontend in readable:
                _drain(frontend)

    def keep(self) -> None:
        """Send heartbeats, if they are due."""
        now = time.monotonic()
        if now < self._heartbeat_at:
            return
        self._heartbeat_at, self._steps = now + self._heartbeat_s, self._steps + 1
        for frontend, leases in zip(self._frontends, self._leases, strict=True):
            held = tuple(lease for pinned in leases.values() for lease in pinned)
            frontend.send(wire.encode(m.FrontendHeartbeat(held)))
        for worker in self._workers:
            worker.send(wire.encode(m.WorkerHeartbeat(m.Load(self._steps, 0, 1.0, 1.0, 0.1, 0.1))))


def round_robin(bundles: list[list[list[ReadyBundle]]]) -> Iterator[tuple[int, ReadyBundle]]:
    """All bundles with the numbers of their frontends, in an endless loop. Consecutive bundles alternate frontends."""
    queues = [deque((number, one) for phase in phases for one in phase) for number, phases in enumerate(bundles)]
    ready = [queue for queue in queues if queue]
    for queue in cycle(ready):
        yield queue[0]
        queue.rotate(-1)


def _arrivals(worker: zmq.Socket[bytes]) -> Iterator[Arrival]:
    for _ in range(TURN_MESSAGES):
        try:
            parts = worker.recv_multipart(zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return
        if len(parts) == 2:  # other messages have no body
            yield arrival(parts[1].buffer, time.monotonic_ns())


def _drain(peer: zmq.Socket[bytes]) -> None:
    """Discard the broker's answers to heartbeats. Raises SetupError if a lease ended, which makes the run invalid."""
    for _ in range(TURN_MESSAGES):
        try:
            parts = peer.recv_multipart(zmq.DONTWAIT)
        except zmq.Again:
            return
        message = wire.decode(parts[0])
        if isinstance(message, m.Lost | m.Stale | m.Release | m.Unregistered):
            raise SetupError(f"the broker could not keep up: {message}")


def _await(peer: zmq.Socket[bytes], kind: type[T]) -> T:
    """The next message of this kind. Messages of other kinds are discarded. Raises SetupError after ANSWER_S_MAX s."""
    while peer.poll(int(ANSWER_S_MAX * 1000)):
        message = wire.decode(peer.recv_multipart()[0])
        if isinstance(message, kind):
            return message
    raise SetupError(f"the broker did not answer with {kind.__name__}")
