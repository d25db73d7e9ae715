"""The broker's shell: polls its sockets until the core's next deadline, hands in what came, performs what comes back.

No decision is taken here. Three ROUTER sockets: frontends, workers, control. The death of a peer is seen from the
sockets' monitors, matched by file descriptor to the peer that registered over it.
"""

from __future__ import annotations

import fcntl
import math
import os
import secrets
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import structlog
import zmq
from zmq.utils.monitor import recv_monitor_message

from asr_broker.metrics import BrokerCollector, Snapshot
from asr_broker.routing import (
    DEFAULT_TIMING,
    Command,
    Event,
    FromFrontend,
    FromWorker,
    Gone,
    Routing,
    Timing,
    ToWorker,
)
from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import DecodeError, SetupError
from asr_proto.metrics import MetricsServer

log = structlog.get_logger()

QUEUE_MESSAGES_MAX = 20_000
"""High-water mark towards one peer; a peer that lets this much pile up is taken for dead."""
TURN_MESSAGES_MAX = 256
"""Messages taken from one socket before the others get their turn."""
PUBLISH_S = 1.0


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """How one broker runs. Endpoints are ZeroMQ's: ipc://PATH or tcp://HOST:PORT."""

    frontends: str
    workers: str
    control: str
    metrics: str | None = None
    """HOST:PORT of the Prometheus endpoint, or None."""
    timing: Timing = DEFAULT_TIMING


class Side:
    """One ROUTER socket with its monitor: messages in, messages out, peers that went away."""

    def __init__(self, context: zmq.Context[Any], endpoint: str) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.SNDHWM, QUEUE_MESSAGES_MAX)
        self.socket.setsockopt(zmq.MAXMSGSIZE, wire.BODY_BYTES_MAX)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._peers: dict[int, bytes] = {}
        _bind(self.socket, endpoint)

    def receive(self) -> tuple[bytes, list[zmq.Frame]] | None:
        """One message as (peer, frames), or None when nothing waits."""
        try:
            frames = self.socket.recv_multipart(zmq.DONTWAIT, copy=False)
        except zmq.Again:
            return None
        return frames[0].bytes, frames[1:]

    def send(self, peer: bytes, parts: list[Any]) -> bool:
        """Queue a message for a peer; False when it is unknown or its queue is full."""
        try:
            self.socket.send_multipart([peer, *parts], zmq.DONTWAIT, copy=False)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise
        return True

    def connected(self, peer: bytes, frame: zmq.Frame) -> list[Gone]:
        """Remember over which descriptor `peer` came. Disconnects seen before belong to the descriptor's last user."""
        gone = self.disconnected()
        self._peers[frame.get(zmq.SRCFD)] = peer
        return gone

    def disconnected(self) -> list[Gone]:
        """The peers whose connection ended since the last call."""
        gone = []
        while self.monitor.poll(0):
            descriptor = recv_monitor_message(self.monitor)["value"]
            peer = self._peers.pop(descriptor, None)
            if peer is not None:
                gone.append(Gone(peer))
        return gone

    def close(self) -> None:
        self.socket.disable_monitor()
        self.monitor.close()
        self.socket.close()


class Broker:
    """One broker process. `run` returns after `stop`."""

    def __init__(self, config: BrokerConfig) -> None:
        self._config = config
        self._context: zmq.Context[Any] = zmq.Context()
        self._lock = _lock(config.control)
        self._frontends = Side(self._context, config.frontends)
        self._workers = Side(self._context, config.workers)
        self._control = self._context.socket(zmq.ROUTER)
        self._control.setsockopt(zmq.LINGER, 200)
        _bind(self._control, config.control)
        boot = secrets.randbelow(2**31 - 1) + 1
        self.routing = Routing(boot, time.monotonic(), config.timing)
        self._collector = BrokerCollector()
        self._metrics = MetricsServer(config.metrics, self._collector) if config.metrics else None
        self._publish_at = 0.0
        self._wake, self._waker = socket.socketpair()
        for end in (self._wake, self._waker):
            end.setblocking(False)

    def stop(self) -> None:
        """End `run` soon. Safe from any thread and from a signal handler."""
        with suppress(OSError):
            self._waker.send(b"\0")

    def run(self) -> None:
        """Serve until stopped."""
        log.info("broker ready", boot=self.routing.boot, frontends=self._config.frontends, workers=self._config.workers)
        poller = zmq.Poller()
        readers = (self._frontends.socket, self._workers.socket, self._frontends.monitor, self._workers.monitor)
        for reader in (*readers, self._control, self._wake):
            poller.register(reader, zmq.POLLIN)
        while self._wake.fileno() not in self._turn(poller):
            pass

    def _turn(self, poller: zmq.Poller) -> set[Any]:
        wait_s = min(self.routing.next_deadline(), self._publish_at) - time.monotonic()
        readable = {reader for reader, _ in poller.poll(max(0, math.ceil(wait_s * 1000)))}
        for side, event_type in ((self._workers, FromWorker), (self._frontends, FromFrontend)):
            for gone in side.disconnected():
                self._handle(gone)
            if side.socket in readable:
                self._receive(side, event_type)
        if self._control in readable:
            self._answer()
        now = time.monotonic()
        if self.routing.next_deadline() <= now:
            self._perform(self.routing.tick(now))
        if self._publish_at <= now:
            self._publish_at = now + PUBLISH_S
            self._collector.latest = Snapshot.of(self.routing, now)
        return readable

    def _receive(self, side: Side, event_type: type[FromWorker] | type[FromFrontend]) -> None:
        for _ in range(TURN_MESSAGES_MAX):
            received = side.receive()
            if received is None:
                return
            peer, frames = received
            try:
                message = wire.decode(frames[0].buffer if frames else b"")
            except DecodeError as error:
                log.warning("undecodable message", peer=peer.hex(), reason=error.detail)
                continue
            if isinstance(message, m.RegisterFrontend | m.RegisterWorker):
                for gone in side.connected(peer, frames[0]):
                    self._handle(gone)
                log.info("registered", name=message.name, peer=peer.hex())
            body: Any = frames[1] if len(frames) > 1 else None
            self._handle(event_type(peer, message, body))  # type: ignore[arg-type]

    def _handle(self, event: Event) -> None:
        self._perform(self.routing.handle(event, time.monotonic()))

    def _perform(self, commands: list[Command]) -> None:
        queue = deque(commands)
        while queue:
            command = queue.popleft()
            side = self._workers if isinstance(command, ToWorker) else self._frontends
            parts: list[Any] = [wire.encode(command.message)]
            if command.body is not None:
                parts.append(command.body)
            if isinstance(command.message, m.Lost):
                log.warning("lease lost", lease=command.message.lease, reason=command.message.slug)
            if not side.send(command.peer, parts):
                queue.extend(self.routing.handle(Gone(command.peer), time.monotonic()))

    def _answer(self) -> None:
        peer, *parts = self._control.recv_multipart()
        try:
            request = wire.decode(parts[-1] if parts else b"")
        except DecodeError:
            return
        if isinstance(request, m.StatusRequest):
            status = self.routing.status(time.monotonic())
            with suppress(zmq.Again):
                self._control.send_multipart([peer, *parts[:-1], wire.encode(status)], zmq.DONTWAIT)

    def close(self) -> None:
        """Release the sockets, the metrics port and the run directory's lock."""
        if self._metrics:
            self._metrics.close()
        self._frontends.close()
        self._workers.close()
        self._control.close()
        self._context.term()
        self._wake.close()
        self._waker.close()
        if self._lock:
            self._lock.close()


@contextmanager
def signals(broker: Broker) -> Iterator[None]:
    """SIGTERM and SIGINT stop the broker."""
    before = {sign: signal.signal(sign, lambda *_: broker.stop()) for sign in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)


def _bind(sock: zmq.Socket[Any], endpoint: str) -> None:
    try:
        sock.bind(endpoint)
    except zmq.ZMQError as error:
        raise SetupError(f"cannot listen on {endpoint}: {error}") from error


def _lock(control: str) -> IO[bytes] | None:
    """Binding an ipc path silently takes it from a living broker; a file lock beside it does not."""
    if not control.startswith("ipc://"):
        return None
    path = Path(control.removeprefix("ipc://") + ".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = path.open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise SetupError(f"another broker is running in {path.parent}") from error
    os.truncate(path, 0)
    lock.write(str(os.getpid()).encode())
    lock.flush()
    return lock
