"""The worker's shell: links to brokers, the engine's thread, systemd and metrics around the pure core.

The core is `WorkerBrokers` around `Sessions`. One turn of the loop passes all arrived messages and results to the core,
then performs the commands in the core's outbox.
"""

from __future__ import annotations

import math
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import ne
from typing import Any

import structlog
import zmq

from asr_process import curve, garbage
from asr_process.logs import Seldom
from asr_process.metrics import MetricsServer
from asr_process.notify import Unit
from asr_process.stopping import Order
from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import DecodeError, NotYet
from asr_workers.brokers import WorkerBrokers
from asr_workers.engine_thread import EngineThread
from asr_workers.engines.base import Engine
from asr_workers.jobs import EngineFailed
from asr_workers.link import Link
from asr_workers.metrics import WorkerCollector
from asr_workers.outbox import Command, Quit, WorkerPost
from asr_workers.sessions import Sessions
from asr_workers.unit_report import UnitReport

log = structlog.get_logger()

TURN_MESSAGES_MAX = 256
"""Largest number of messages that one turn reads from one link."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """The settings of one worker process. Those of its engine are in the engine's configuration."""

    brokers: tuple[curve.BrokerAt, ...]
    """Endpoints and keys of the brokers; several where brokers share the pool."""
    name: str
    metrics: str | None = None
    """HOST:PORT of the Prometheus endpoint, or None."""
    drain_s: float = 30.0
    """Longest time for which sessions may continue after SIGTERM."""


class Worker:
    """One worker process around a loaded engine. `run` returns after a drain. It raises the error of an engine that
    fails, and NotYet when a broker rejects the worker."""

    def __init__(self, config: WorkerConfig, engine: Engine) -> None:
        self._config, self._spec = config, engine.spec
        self._wake, self._waker = socket.socketpair()
        for end in (self._wake, self._waker):
            end.setblocking(False)
        self._context: zmq.Context[Any] = zmq.Context()
        self._links = [Link(self._context, broker) for broker in config.brokers]
        self._hello = wire.encode_hello(config.name)
        self._seldom = Seldom()
        self._broken: set[int] = set()
        """Numbers of the links whose connection has ended."""
        self._sessions = Sessions(config.name, engine.spec, time.monotonic(), engine.chunk_samples)
        self._brokers = WorkerBrokers(self._sessions, len(self._links))
        self._collector = WorkerCollector(config.name)
        self._metrics = MetricsServer(config.metrics, self._collector) if config.metrics else None
        self._engine = EngineThread(engine, self._nudge)
        self._report = UnitReport(Unit())
        self._stop_at = math.inf
        """When the worker ends even if sessions are left."""
        self._drain_s: float | None = None
        """For how long sessions may continue, once the worker is stopped."""
        self._ordered = False
        """Whether the whole pool stops."""
        self._running = True

    def stop(self) -> None:
        """Drain, then end. Safe from a signal handler and from any thread."""
        if self._drain_s is None:
            self._drain_s = self._config.drain_s
        self._nudge()

    def obey(self, order: Order) -> None:
        """Stop together with the whole pool. Safe from any thread."""
        self._ordered, self._drain_s = True, order.drain_s
        self._nudge()

    def run(self) -> None:
        """Serve until stopped and drained."""
        poller = zmq.Poller()
        for link in self._links:
            poller.register(link.socket, zmq.POLLIN)
            poller.register(link.monitor, zmq.POLLIN)
        poller.register(self._wake, zmq.POLLIN)
        garbage.settle()
        log.info("worker ready", engine=self._spec.engine, model=self._spec.model, slots=self._spec.slots)
        self._report.start(time.monotonic(), self._spec.step_s_p99)
        while self._running:
            self._turn(poller)
            self._report.report(time.monotonic(), registered=self._is_registered())

    def _turn(self, poller: zmq.Poller) -> None:
        """Wait for a message, a result or a deadline; pass it to the core; perform the core's commands."""
        deadline = min(self._sessions.next_deadline(), self._report.next_deadline(), self._stop_at)
        wait_s = deadline - time.monotonic()
        readable = dict(poller.poll(max(0, math.ceil(wait_s * 1000))))
        with suppress(BlockingIOError):
            self._wake.recv(4096)
        self._receive_all()
        for number, link in enumerate(self._links):
            if link.monitor in readable:
                self._check_connection(number)
        self._collect()
        now = time.monotonic()
        self._check_stop(now)
        if self._sessions.next_deadline() <= now:
            self._tick(now)
        self._sessions.step()
        self._flush()

    def _check_stop(self, now: float) -> None:
        """Begin to drain after `stop` or `obey`; end when draining has lasted its time."""
        if self._drain_s is not None:
            self._stop_at = min(self._stop_at, now + self._drain_s)
            if not self._sessions.draining:
                log.info("draining", sessions=len(self._sessions))
                self._report.draining(len(self._sessions))
                self._sessions.drain(now, announce=not self._ordered)
        if self._stop_at <= now:
            self._running = False

    def _tick(self, now: float) -> None:
        for number in range(len(self._links)):
            self._check_connection(number)
        self._sessions.tick(now)
        self._collector.publish(self._sessions)

    def _collect(self) -> None:
        """Pass the engine's answers to the core."""
        while self._engine.results:
            result = self._engine.results.popleft()
            if isinstance(result, EngineFailed):
                raise result.error
            self._report.answered()
            self._sessions.answered(result)

    # ---- Links ----

    def _check_connection(self, number: int) -> None:
        now = time.monotonic()
        for is_up in self._links[number].poll(now):
            if is_up:
                self._broken.discard(number)
                self._brokers.restored(number)
            else:
                self._broken.add(number)
                self._brokers.broken(number, now)

    def _is_registered(self) -> bool:
        """Whether a broker has registered this worker and at least one connection may be up."""
        return self._sessions.registered and len(self._broken) < len(self._links)

    def _receive_all(self) -> None:
        """Read the leader's messages first: after a stall its claim and the claim of another broker may both wait."""
        for number in sorted(range(len(self._links)), key=partial(ne, self._brokers.leader)):
            self._receive(number)

    def _receive(self, number: int) -> None:
        for _ in range(TURN_MESSAGES_MAX):
            parts = self._links[number].receive()
            if parts is None:
                return
            try:
                self._handle(number, parts)
            except DecodeError as error:
                if self._seldom.due((number, error.detail), time.monotonic()):
                    log.warning("undecodable message from the broker", reason=error.detail)

    def _handle(self, number: int, parts: list[bytes]) -> None:
        message = wire.decode(parts[0])
        body = parts[1] if len(parts) > 1 else None
        setup = wire.decode_setup(body) if body is not None and isinstance(message, m.Grant | m.Transfer) else None
        frames = wire.decode_frames(body) if body is not None and isinstance(message, m.Bundle) else ()
        if isinstance(message, m.Welcome):
            log.info("registered", broker=message.boot)
        self._brokers.handle(number, message, setup, frames, time.monotonic())  # type: ignore[arg-type]

    # ---- Commands of the core ----

    def _flush(self) -> None:
        """Perform all commands. A message that cannot be sent may cause more commands: these come last."""
        while commands := self._brokers.outgoing(time.monotonic()):
            for command in commands:
                self._perform(command)

    def _perform(self, command: Command) -> None:
        if isinstance(command, WorkerPost):
            self._send(command)
        elif isinstance(command, Quit):
            self._quit(command.detail)
        else:
            self._report.submitted()
            self._engine.submit(command)

    def _send(self, post: WorkerPost) -> None:
        parts = [wire.encode(post.message)]
        if post.frames is not None:
            parts.append(wire.encode_frames(post.frames))
        if isinstance(post.message, m.RegisterWorker):
            parts.append(self._hello)
        if not self._links[post.link].send(parts):
            # The queue is full: the broker has not read for long and will treat this worker as dead.
            self._brokers.handle(post.link, m.Unregistered(), None, (), time.monotonic())

    def _quit(self, detail: str) -> None:
        if detail:
            # Usually the versions differ. In a rolling upgrade the broker is replaced next, so a restart may succeed.
            raise NotYet(f"the broker refuses this worker: {detail}")
        log.info("drained")
        self._running = False

    def _nudge(self) -> None:
        with suppress(OSError):
            self._waker.send(b"\0")

    def close(self) -> None:
        """End the engine's thread and release the sockets."""
        self._engine.stop()
        if self._metrics:
            self._metrics.close()
        for link in self._links:
            link.close()
        self._context.term()
        self._wake.close()
        self._waker.close()
