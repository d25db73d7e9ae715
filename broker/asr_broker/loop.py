"""The broker's shell: passes received messages to the core and sends the messages that the core returns.

It waits at its sockets until the core's next deadline, and makes no decision. It has three ROUTER sockets: frontends,
workers, control. The sockets' monitors report the end of a connection by its file descriptor, which identifies the peer
that registered over it.
"""

from __future__ import annotations

import fcntl
import math
import os
import random
import secrets
import socket
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import structlog
import zmq
from zmq.utils.monitor import recv_monitor_message

from asr_broker import authentication, versions
from asr_broker.authentication import Authenticator, HandshakeMonitor
from asr_broker.candidate import Candidate, Core
from asr_broker.events import Command, FromFrontend, FromWorker, Gone, ToWorker
from asr_broker.leadership import Leadership, Role
from asr_broker.metrics import BrokerCollector, BrokerSnapshot
from asr_broker.peers import DEFAULT_TIMING, Timing
from asr_broker.routing import Routing
from asr_process import curve
from asr_process.logs import Seldom
from asr_process.metrics import MetricsServer
from asr_process.notify import Unit
from asr_process.stopping import Order
from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import DecodeError, SetupError, cannot_listen

log = structlog.get_logger()

TURN_MESSAGES_MAX = 256
"""Messages read from one socket before the other sockets are read."""
PUBLISH_S = 1.0
"""Interval at which the metrics are published and the key files checked."""

# Plain integers: pyzmq's flags are enums, and combining these costs more than sending a part.
NOW = int(zmq.DONTWAIT)
MORE_NOW = int(zmq.DONTWAIT | zmq.SNDMORE)


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """Settings of one broker. Endpoints are ZeroMQ's: ipc://PATH or tcp://HOST:PORT."""

    frontends: str
    workers: str
    control: str
    keys: curve.BrokerKeys | None = None
    """Keys for the tcp endpoints. None: any peer may connect."""
    metrics: str | None = None
    """HOST:PORT of the Prometheus endpoint, or None."""
    timing: Timing = DEFAULT_TIMING
    shared_lead: bool = False
    """Whether another broker shares the pool. If so, this broker leads only while the workers vote for it."""


class RouterSocket:
    """One ROUTER socket with its monitor: receives, sends, and reports peers that disconnected."""

    def __init__(self, context: zmq.Context[Any], endpoint: str, authenticator: Authenticator | None = None) -> None:
        self.socket = context.socket(zmq.ROUTER)
        self.socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self.socket.setsockopt(zmq.LINGER, 0)
        curve.tune(self.socket, endpoint)
        self._authenticator = authenticator if curve.is_tcp(endpoint) else None
        self._handshakes = HandshakeMonitor() if self._authenticator else None
        events = zmq.EVENT_DISCONNECTED | (authentication.EVENTS if self._authenticator else 0)
        self.monitor = self.socket.get_monitor_socket(events)
        self._peers: dict[int, bytes] = {}
        self._keys: dict[int, bytes] = {}
        if self._authenticator:
            self._authenticator.listen(self.socket, endpoint)
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
        """Queue a message for a peer. False when it is unknown or its queue is full: sending the first part fails."""
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
        """Store the descriptor of `peer`. Disconnects reported before this belong to the descriptor's last user."""
        gone = self.disconnected()
        descriptor = frame.get(zmq.SRCFD)
        self._peers[descriptor] = peer
        if self._authenticator:
            self._keys[descriptor] = str(frame.get("User-Id")).encode()
            self.revoke()
        return gone

    def disconnected(self) -> list[Gone]:
        """The peers whose connection ended since the last call."""
        gone = []
        with suppress(zmq.Again):
            while True:
                event = recv_monitor_message(self.monitor, NOW)
                if self._handshakes:
                    self._handshakes.observe(event)
                if event["event"] != zmq.EVENT_DISCONNECTED:
                    continue
                self._keys.pop(event["value"], None)
                peer = self._peers.pop(event["value"], None)
                if peer is not None:
                    gone.append(Gone(peer))
        return gone

    def revoke(self) -> None:
        """Disconnect the peers whose key is no longer allowed; `disconnected` returns them next."""
        for descriptor, key in self._keys.items():
            if self._authenticator and not self._authenticator.allows(key):
                log.error("disconnected a peer: its key is no longer allowed", peer=self._peers[descriptor].hex())
                authentication.disconnect(descriptor)

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
        self._authenticator = Authenticator(self._context, config.keys) if config.keys else None
        self._frontends = RouterSocket(self._context, config.frontends, self._authenticator)
        self._workers = RouterSocket(self._context, config.workers, self._authenticator)
        self._control = self._context.socket(zmq.ROUTER)
        self._control.setsockopt(zmq.LINGER, 200)
        _bind(self._control, config.control)
        boot = secrets.randbelow(2**31 - 1) + 1
        self.core = _core(boot, time.monotonic(), config)
        self._role: Role | None = None
        self._collector = BrokerCollector()
        self._metrics = MetricsServer(config.metrics, self._collector) if config.metrics else None
        self._unit = Unit()
        self._publish_at = 0.0
        self._seldom = Seldom()
        self._drain_s: float | None = None
        """For how long frontends may still need this broker, once it is stopped."""
        self._stop_at = math.inf
        self._wake, self._waker = socket.socketpair()
        for end in (self._wake, self._waker):
            end.setblocking(False)

    def stop(self) -> None:
        """End `run` soon. Safe from any thread and from a signal handler."""
        self._stop_within(0.0)

    def obey(self, order: Order) -> None:
        """Stop together with the whole pool: end `run` after the last frontend. Safe from any thread."""
        self._stop_within(order.drain_s)

    def _stop_within(self, drain_s: float) -> None:
        self._drain_s = drain_s
        with suppress(OSError):
            self._waker.send(b"\0")

    def run(self) -> None:
        """Serve until stopped."""
        log.info("broker ready", boot=self.core.boot, frontends=self._config.frontends, workers=self._config.workers)
        poller = zmq.Poller()
        readers = (self._frontends.socket, self._workers.socket, self._frontends.monitor, self._workers.monitor)
        for reader in (
            *readers,
            self._control,
            self._wake,
            *((self._authenticator.zap,) if self._authenticator else ()),
        ):
            poller.register(reader, zmq.POLLIN)
        self._unit.ready("serving")
        while not self._is_over(time.monotonic()):
            self._turn(poller)
            self._unit.feed(time.monotonic())
        self._unit.stopping("ending")

    def _is_over(self, now: float) -> bool:
        """Whether the broker was stopped and no frontend needs it any more."""
        if self._drain_s is None:
            return False
        self._stop_at = min(self._stop_at, now + self._drain_s)
        return self._stop_at <= now or not self.core.status(now).frontends

    def _turn(self, poller: zmq.Poller) -> None:
        wait_s = min(self.core.next_deadline(), self._publish_at, self._unit.feed_at, self._stop_at) - time.monotonic()
        readable = {reader for reader, _ in poller.poll(max(0, math.ceil(wait_s * 1000)))}
        for side, event_type in ((self._workers, FromWorker), (self._frontends, FromFrontend)):
            if side.monitor in readable:
                self._gone(side.disconnected())
            if side.socket in readable:
                self._receive(side, event_type)
        if self._authenticator and self._authenticator.zap in readable:
            self._authenticator.answer()
        if self._control in readable:
            self._answer()
        if self._wake.fileno() in readable:
            self._wake.recv(4096)
        now = time.monotonic()
        if self.core.next_deadline() <= now:
            self._perform(self.core.tick(now))
        if isinstance(self.core, Candidate):
            self._log_role(self.core)
        if self._publish_at <= now:
            self._publish_at = now + PUBLISH_S
            self._collector.latest = BrokerSnapshot.of(self.core, now)
            self._poll_keys()

    def _log_role(self, candidate: Candidate) -> None:
        if candidate.role is not self._role:
            self._role = candidate.role
            log.info(self._role.value, term=candidate.leadership.term, boot=candidate.boot)
            self._unit.status(self._role.value)

    def _poll_keys(self) -> None:
        if self._authenticator and self._authenticator.poll():
            for side in (self._frontends, self._workers):
                side.revoke()

    def _receive(self, side: RouterSocket, event_type: type[FromWorker] | type[FromFrontend]) -> None:
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
            commands = self.core.handle(event_type(peer, message, body), time.monotonic())  # type: ignore[arg-type]
            self._perform(commands, message, parts[0])

    def _reject(self, side: RouterSocket, peer: bytes, rejected: m.Rejected | None) -> None:
        if rejected:
            self._warn("rejected a peer", peer, rejected.detail)
            side.send(peer, [wire.encode(rejected)])

    def _warn(self, event: str, peer: bytes, reason: str) -> None:
        if self._seldom.due((event, peer, reason), time.monotonic()):
            log.warning(event, peer=peer.hex(), reason=reason)

    def _gone(self, peers: list[Gone]) -> None:
        for gone in peers:
            self._perform(self.core.handle(gone, time.monotonic()))

    def _perform(
        self, commands: list[Command], received: m.Message | None = None, part: zmq.Frame | None = None
    ) -> None:
        """Send the messages of `commands`. No other method sends messages of the core.

        If a command forwards the message `received`, its bytes are sent unchanged: they are in `part`.
        """
        queue = deque(commands)
        while queue:
            command = queue.popleft()
            if isinstance(command.message, m.Lost):
                log.warning("lease lost", lease=command.message.lease, reason=command.message.slug)
            side = self._workers if isinstance(command, ToWorker) else self._frontends
            head = part if command.message is received else wire.encode(command.message)
            if not side.send(command.peer, (head,) if command.body is None else (head, command.body)):
                queue.extend(self.core.handle(Gone(command.peer), time.monotonic()))

    def _answer(self) -> None:
        """Answer the last part of a control message. The answer repeats the parts before it (an envelope, a Hello)."""
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
        return versions.rejection(parts) or self.core.status(time.monotonic())

    def close(self) -> None:
        """Close the sockets and the metrics port; release the lock on the run directory."""
        if self._metrics:
            self._metrics.close()
        self._frontends.close()
        self._workers.close()
        if self._authenticator:
            self._authenticator.close()
        self._control.close()
        self._context.term()
        self._wake.close()
        self._waker.close()
        if self._lock:
            self._lock.close()


def _core(boot: int, now: float, config: BrokerConfig) -> Core:
    routing = Routing(boot, now, config.timing)
    return Candidate(routing, Leadership(boot, now, random.random)) if config.shared_lead else routing


def _bind(sock: zmq.Socket[Any], endpoint: str) -> None:
    try:
        sock.bind(endpoint)
    except zmq.ZMQError as error:
        raise cannot_listen(endpoint, error) from error


def _lock(control: str) -> IO[bytes] | None:
    """Lock a file beside the control endpoint. Without it, a second broker that binds the same ipc path would take it
    over without an error. Raises SetupError when another broker holds the lock."""
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
