"""The broker's shell: polls its sockets until the core's next deadline, hands in what came, performs what comes back.

No decision is taken here. Three ROUTER sockets: frontends, workers, control. The death of a peer is seen from the
sockets' monitors, matched by file descriptor to the peer that registered over it.
"""

from __future__ import annotations

import fcntl
import math
import os
import random
import secrets
import signal
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import structlog
import zmq
from zmq.utils.monitor import recv_monitor_message

from asr_broker import door as doors
from asr_broker import versions
from asr_broker.candidate import Candidate
from asr_broker.door import Door
from asr_broker.events import Command, FromFrontend, FromWorker, Gone, ToWorker
from asr_broker.leadership import Leadership, Role
from asr_broker.metrics import BrokerCollector, Snapshot
from asr_broker.peers import DEFAULT_TIMING, Timing
from asr_broker.routing import Routing
from asr_process import curve
from asr_process.logs import Seldom
from asr_process.metrics import MetricsServer
from asr_process.notify import Unit
from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import DecodeError, SetupError, cannot_listen

log = structlog.get_logger()

TURN_MESSAGES_MAX = 256
"""Messages taken from one socket before the others get their turn."""
PUBLISH_S = 1.0

# Plain integers: pyzmq's own are enums, and combining those costs more than sending a part.
NOW = int(zmq.DONTWAIT)
MORE_NOW = int(zmq.DONTWAIT | zmq.SNDMORE)


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """How one broker runs. Endpoints are ZeroMQ's: ipc://PATH or tcp://HOST:PORT."""

    frontends: str
    workers: str
    control: str
    keys: curve.BrokerKeys | None = None
    """For the tcp endpoints; None leaves them open."""
    metrics: str | None = None
    """HOST:PORT of the Prometheus endpoint, or None."""
    timing: Timing = DEFAULT_TIMING
    shared_lead: bool = False
    """Whether another broker shares the pool: then this one leads by the workers' votes only."""


class Side:
    """One ROUTER socket with its monitor: messages in, messages out, peers that went away."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, door: Door | None = None) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.LINGER, 0)
        curve.tune(self.socket, endpoint)
        self._door = door if curve.is_tcp(endpoint) else None
        self._watch = doors.Watch() if self._door else None
        self.monitor = self.socket.get_monitor_socket(zmq.EVENT_DISCONNECTED | (doors.EVENTS if self._door else 0))
        self._peers: dict[int, bytes] = {}
        self._keys: dict[int, bytes] = {}
        if self._door:
            self._door.listen(self.socket, endpoint)
        else:
            _bind(self.socket, endpoint)

    def receive(self) -> tuple[bytes, list[zmq.Frame]] | None:
        """One message as (peer, parts), at least one part; None when nothing waits."""
        try:
            peer = self.socket.recv(NOW)
        except zmq.Again:
            return None
        parts = [self.socket.recv(NOW, copy=False)]
        while parts[-1].more:
            parts.append(self.socket.recv(NOW, copy=False))
        return peer, parts

    def send(self, peer: bytes, parts: Sequence[Any]) -> bool:
        """Queue a message for a peer; False when it is unknown or its queue is full, which its first part finds out."""
        try:
            self.socket.send(peer, MORE_NOW)
            for part in parts[:-1]:
                self.socket.send(part, MORE_NOW, copy=False)
            self.socket.send(parts[-1], NOW, copy=False)
        except zmq.ZMQError as error:
            if error.errno in (zmq.EAGAIN, zmq.EHOSTUNREACH):
                return False
            raise
        return True

    def connected(self, peer: bytes, frame: zmq.Frame) -> list[Gone]:
        """Remember over which descriptor `peer` came. Disconnects seen before belong to the descriptor's last user."""
        gone = self.disconnected()
        descriptor = frame.get(zmq.SRCFD)
        self._peers[descriptor] = peer
        if self._door:
            self._keys[descriptor] = str(frame.get("User-Id")).encode()
            self.revoke()
        return gone

    def disconnected(self) -> list[Gone]:
        """The peers whose connection ended since the last call."""
        gone = []
        with suppress(zmq.Again):
            while True:
                event = recv_monitor_message(self.monitor, NOW)
                if self._watch:
                    self._watch.note(event)
                if event["event"] != zmq.EVENT_DISCONNECTED:
                    continue
                self._keys.pop(event["value"], None)
                peer = self._peers.pop(event["value"], None)
                if peer is not None:
                    gone.append(Gone(peer))
        return gone

    def revoke(self) -> None:
        """Cut the connections of peers whose key is allowed no longer; `disconnected` tells of them next."""
        for descriptor, key in self._keys.items():
            if self._door and not self._door.allows(key):
                log.error("cut off a peer: its key is allowed no longer", peer=self._peers[descriptor].hex())
                doors.cut(descriptor)

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
        self._door = Door(self._context, config.keys) if config.keys else None
        self._frontends = Side(self._context, config.frontends, self._door)
        self._workers = Side(self._context, config.workers, self._door)
        self._control = self._context.socket(zmq.ROUTER)
        self._control.setsockopt(zmq.LINGER, 200)
        _bind(self._control, config.control)
        boot = secrets.randbelow(2**31 - 1) + 1
        self.routing = _core(boot, time.monotonic(), config)
        self._role: Role | None = None
        self._collector = BrokerCollector()
        self._metrics = MetricsServer(config.metrics, self._collector) if config.metrics else None
        self._unit = Unit()
        self._publish_at = 0.0
        self._seldom = Seldom()
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
        for reader in (*readers, self._control, self._wake, *((self._door.zap,) if self._door else ())):
            poller.register(reader, zmq.POLLIN)
        self._unit.ready("serving")
        while self._wake.fileno() not in self._turn(poller):
            self._unit.feed(time.monotonic())
        self._unit.stopping("ending")

    def _turn(self, poller: zmq.Poller) -> set[Any]:
        wait_s = min(self.routing.next_deadline(), self._publish_at, self._unit.feed_at) - time.monotonic()
        readable = {reader for reader, _ in poller.poll(max(0, math.ceil(wait_s * 1000)))}
        for side, event_type in ((self._workers, FromWorker), (self._frontends, FromFrontend)):
            if side.monitor in readable:
                self._gone(side.disconnected())
            if side.socket in readable:
                self._receive(side, event_type)
        if self._door and self._door.zap in readable:
            self._door.answer()
        if self._control in readable:
            self._answer()
        now = time.monotonic()
        if self.routing.next_deadline() <= now:
            self._perform(self.routing.tick(now))
        if isinstance(self.routing, Candidate):
            self._note_role(self.routing)
        if self._publish_at <= now:
            self._publish_at = now + PUBLISH_S
            self._collector.latest = Snapshot.of(self.routing, now)
            self._look_at_keys()
        return readable

    def _note_role(self, candidate: Candidate) -> None:
        if candidate.role is not self._role:
            self._role = candidate.role
            log.info(self._role.value, term=candidate.leadership.term, boot=candidate.boot)
            self._unit.status(self._role.value)

    def _look_at_keys(self) -> None:
        if self._door and self._door.poll():
            for side in (self._frontends, self._workers):
                side.revoke()

    def _receive(self, side: Side, event_type: type[FromWorker] | type[FromFrontend]) -> None:
        for _ in range(TURN_MESSAGES_MAX):
            received = side.receive()
            if received is None:
                return
            peer, parts = received
            try:
                message = wire.decode(parts[0].buffer)
            except DecodeError as error:
                self._warn("undecodable message", peer, error.detail)
                self._reject(side, peer, versions.rejection([part.buffer for part in parts], error))
                continue
            if isinstance(message, m.RegisterFrontend | m.RegisterWorker):
                if rejected := versions.rejection([part.buffer for part in parts]):
                    self._reject(side, peer, rejected)
                    continue
                self._gone(side.connected(peer, parts[0]))
                log.info("registered", name=message.name, peer=peer.hex())
            body: Any = parts[1] if len(parts) > 1 else None
            commands = self.routing.handle(event_type(peer, message, body), time.monotonic())  # type: ignore[arg-type]
            self._perform(commands, message, parts[0])

    def _reject(self, side: Side, peer: bytes, rejected: m.Rejected | None) -> None:
        if rejected:
            self._warn("rejected a peer", peer, rejected.detail)
            side.send(peer, [wire.encode(rejected)])

    def _warn(self, event: str, peer: bytes, reason: str) -> None:
        if self._seldom.due((event, peer, reason), time.monotonic()):
            log.warning(event, peer=peer.hex(), reason=reason)

    def _gone(self, peers: list[Gone]) -> None:
        for gone in peers:
            self._perform(self.routing.handle(gone, time.monotonic()))

    def _perform(
        self, commands: list[Command], received: m.Message | None = None, part: zmq.Frame | None = None
    ) -> None:
        """A message that is passed on as it was `received` leaves as the `part` it came in."""
        queue = deque(commands)
        while queue:
            command = queue.popleft()
            message = command.message
            side = self._workers if isinstance(command, ToWorker) else self._frontends
            routing = part if message is received else wire.encode(message)
            if isinstance(message, m.Lost):
                log.warning("lease lost", lease=message.lease, reason=message.slug)
            if not side.send(command.peer, (routing,) if command.body is None else (routing, command.body)):
                queue.extend(self.routing.handle(Gone(command.peer), time.monotonic()))

    def _answer(self) -> None:
        """To the last part; what is before it (an envelope, a Hello) returns as it came."""
        peer, *parts = self._control.recv_multipart()
        if answer := self._status(parts):
            with suppress(zmq.Again):
                self._control.send_multipart([peer, *parts[:-1], wire.encode(answer)], zmq.DONTWAIT)

    def _status(self, parts: list[bytes]) -> m.Status | m.Rejected | None:
        try:
            request = wire.decode(parts[-1] if parts else b"")
        except DecodeError as error:
            return versions.rejection(parts, error)
        if not isinstance(request, m.StatusRequest):
            return None
        return versions.rejection(parts) or self.routing.status(time.monotonic())

    def close(self) -> None:
        """Release the sockets, the metrics port and the run directory's lock."""
        if self._metrics:
            self._metrics.close()
        self._frontends.close()
        self._workers.close()
        if self._door:
            self._door.close()
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


def _core(boot: int, now: float, config: BrokerConfig) -> Routing | Candidate:
    routing = Routing(boot, now, config.timing)
    return Candidate(routing, Leadership(boot, now, random.random)) if config.shared_lead else routing


def _bind(sock: zmq.Socket[Any], endpoint: str) -> None:
    try:
        sock.bind(endpoint)
    except zmq.ZMQError as error:
        raise cannot_listen(endpoint, error) from error


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
