"""The worker's shell: the link to the broker and the engine's thread around the pure `Sessions`. No decision in it."""

from __future__ import annotations

import math
import os
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import structlog
import zmq

from asr_process import curve, garbage
from asr_process.logs import Seldom
from asr_process.metrics import MetricsServer
from asr_process.notify import Unit
from asr_proto import messages as m
from asr_proto import wire
from asr_proto.errors import DecodeError, NotYet
from asr_workers import engine_thread as et
from asr_workers.brokers import Brokers, Post
from asr_workers.engines.base import Engine
from asr_workers.link import Link
from asr_workers.metrics import Snapshot, WorkerCollector
from asr_workers.sessions import CheckpointSlot, CloseSlot, Command, OpenSlot, Quit, Send, Sessions

log = structlog.get_logger()

TURN_MESSAGES_MAX = 256
REGISTERED_S_MAX = 5.0
"""A worker that no broker answers is ready too: that is no failure of its own."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """How one worker runs, beside its engine's own configuration."""

    brokers: tuple[curve.BrokerAt, ...]
    """The broker's side for workers; several where brokers share the pool."""
    name: str
    metrics: str | None = None
    """HOST:PORT of the Prometheus endpoint, or None."""
    drain_s: float = 30.0
    """Longest time that sessions may take to end after SIGTERM."""


class Worker:
    """One worker process around a ready engine. `run` returns after a drain; it raises what the engine raises."""

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
        """Links whose connection ended."""
        self._sessions = Sessions(config.name, engine.spec, time.monotonic(), engine.chunk_samples)
        self._brokers = Brokers(self._sessions, len(self._links))
        self._collector = WorkerCollector(config.name)
        self._metrics = MetricsServer(config.metrics, self._collector) if config.metrics else None
        self._engine = et.EngineThread(engine, self._nudge)
        self._jobs = 0
        """Of the engine, unanswered."""
        self._moved = True
        """Whether it has answered one since the watchdog was fed."""
        self._unit = Unit()
        self._registered: bool | None = None
        """As systemd was told; None before it was told anything."""
        self._stepping = False
        self._pending = False
        self._blocked: frozenset[int] = frozenset()
        self._stop_at: float | None = None
        self._signalled = False
        self._running = True

    def stop(self) -> None:
        """Drain, then end. Safe from a signal handler and from any thread."""
        self._signalled = True
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
        self._check_watchdog(time.monotonic())
        ready_by = time.monotonic() + REGISTERED_S_MAX
        while self._running:
            self._turn(poller)
            self._report(time.monotonic(), ready_by)

    def _turn(self, poller: zmq.Poller) -> None:
        until = min(self._sessions.next_deadline(), self._unit.feed_at if self._moves() else math.inf)
        wait_s = until - time.monotonic()
        readable = {reader for reader, _ in poller.poll(max(0, math.ceil(wait_s * 1000)))}
        with suppress(BlockingIOError):
            self._wake.recv(4096)
        self._receive_all()
        for number, link in enumerate(self._links):
            if link.monitor in readable:
                self._look_at(number)
        self._collect()
        now = time.monotonic()
        if self._signalled and self._stop_at is None:
            self._stop_at = now + self._config.drain_s
            log.info("draining", sessions=len(self._sessions))
            self._unit.stopping(f"draining {len(self._sessions)} sessions")
            self._perform(self._sessions.drain(now))
        if self._sessions.next_deadline() <= now:
            for number in range(len(self._links)):
                self._look_at(number)
            self._perform(self._brokers.tick(now))
            self._collector.latest = Snapshot.of(self._sessions, self._spec)
        if self._stop_at is not None and self._stop_at <= now:
            self._running = False
        self._flush()
        self._step()

    # ---- The engine ----

    def _step(self) -> None:
        if self._stepping:
            return
        chunks = self._sessions.batch(self._blocked, pending=self._pending)
        if chunks or self._pending:
            self._stepping = True
            self._submit(et.Step(chunks))

    def _submit(self, job: et.Job) -> None:
        self._jobs += 1
        self._engine.submit(job)

    def _collect(self) -> None:
        while self._engine.results:
            result = self._engine.results.popleft()
            self._jobs -= 1
            self._moved = True
            match result:
                case et.Stepped():
                    self._stepping, self._pending, self._blocked = False, result.pending, result.blocked
                    times = (result.elapsed_s, result.late_s, result.elective_s)
                    self._sessions.stepped(result.chunks, result.outputs, *times)
                case et.Opened(error=None):
                    self._sessions.opened(result.slot, result.lease)
                case et.Opened():
                    assert result.error is not None
                    self._sessions.failed(result.lease, result.error)
                case et.SlotClosed():
                    self._blocked -= {result.slot}
                    self._perform(self._sessions.closed(result.slot, result.lease))
                case et.Checkpointed():
                    self._sessions.checkpointed(result.slot, result.advanced)
                case et.Crashed():
                    raise result.error

    # ---- systemd ----

    def _check_watchdog(self, now: float) -> None:
        """Say at the start that steps may take longer than the watchdog allows."""
        self._unit.feed(now)
        if 2 * self._spec.step_s_p99 > self._unit.feed_at - now:
            log.warning(
                "steps may starve the watchdog: raise WatchdogSec= of the unit",
                step_s_p99=round(self._spec.step_s_p99, 1),
                watchdog_s=round(2 * (self._unit.feed_at - now), 1),
            )

    def _report(self, now: float, ready_by: float) -> None:
        """How we stand with the broker, when that changes; and that we move."""
        registered = self._sessions.registered and len(self._broken) < len(self._links)
        if registered is not self._registered and (registered or self._registered or now >= ready_by):
            if self._registered is None and not registered:
                log.warning("no broker answers the registration: is one there, and of a release that can read it?")
            tell = self._unit.ready if self._registered is None else self._unit.status
            tell("registered with a broker" if registered else "no broker answers")
            self._registered = registered
        if self._moves() and self._unit.feed(now):
            self._moved = False

    def _moves(self) -> bool:
        """Nothing to do, or something was done: an engine that hangs in a step starves the watchdog."""
        return self._moved or not self._jobs

    # ---- The link ----

    def _look_at(self, number: int) -> None:
        for is_up in self._links[number].poll(time.monotonic()):
            if is_up:
                self._broken.discard(number)
                self._perform(self._brokers.restored(number))
            else:
                self._broken.add(number)
                self._perform(self._brokers.broken(number, time.monotonic()))

    def _receive_all(self) -> None:
        """The leader first: after a stall its claim waits here, and so may another's."""
        leader = self._brokers.leader
        for number in sorted(range(len(self._links)), key=lambda number: number != leader):
            self._receive(number)

    def _receive(self, number: int) -> None:
        for _ in range(TURN_MESSAGES_MAX):
            parts = self._links[number].receive()
            if parts is None:
                return
            try:
                commands = self._decoded(number, parts)
            except DecodeError as error:
                if self._seldom.due((number, error.detail), time.monotonic()):
                    log.warning("undecodable message from the broker", reason=error.detail)
                continue
            self._perform(commands)

    def _decoded(self, number: int, parts: list[bytes]) -> list[Command | Post]:
        message = wire.decode(parts[0])
        body = parts[1] if len(parts) > 1 else None
        setup = wire.decode_setup(body) if body is not None and isinstance(message, m.Grant | m.Transfer) else None
        frames = wire.decode_frames(body) if body is not None and isinstance(message, m.Bundle) else ()
        if isinstance(message, m.Welcome):
            log.info("registered", broker=message.boot)
        return self._brokers.handle(number, message, setup, frames, time.monotonic())  # type: ignore[arg-type]

    def _send(self, number: int, message: m.FromWorker, body: bytes | None = None) -> None:
        parts = [wire.encode(message)] if body is None else [wire.encode(message), body]
        if not self._links[number].send(parts):
            # Nobody has read for longer than the queue holds: whoever comes back will not know our sessions.
            self._perform(self._brokers.handle(number, m.Unregistered(), None, (), time.monotonic()))

    def _flush(self) -> None:
        for bundle, frames in self._sessions.outgoing():
            for start in range(0, len(frames), wire.FRAMES_MAX):
                self._send_bundle(bundle, wire.encode_frames(frames[start : start + wire.FRAMES_MAX]))

    def _send_bundle(self, bundle: m.Bundle, body: bytes) -> None:
        if self._brokers.leader is not None:
            self._send(self._brokers.leader, bundle, body)

    def _perform(self, commands: Sequence[Command | Post]) -> None:
        for command in commands:
            match command:
                case Post():
                    is_registration = isinstance(command.message, m.RegisterWorker)
                    self._send(command.link, command.message, self._hello if is_registration else None)
                case Send():
                    self._perform(self._brokers.route(command.message, time.monotonic()))
                case OpenSlot():
                    self._submit(et.Open(command.lease, command.slot, command.options, command.snapshot))
                case CloseSlot():
                    self._flush()
                    self._submit(et.Close(command.lease, command.slot))
                case CheckpointSlot():
                    self._submit(et.Checkpoint(command.slot))
                case Quit():
                    self._quit(command.detail)

    def _quit(self, detail: str) -> None:
        if detail:
            # Another version, as a rule: in a rolling upgrade the broker's comes next.
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


@contextmanager
def signals(worker: Worker) -> Iterator[None]:
    """SIGTERM and SIGINT drain the worker; a second one ends it at once."""

    def on_signal(number: int, _: object) -> None:
        if worker._signalled:
            os._exit(128 + number)
        worker.stop()

    before = {sign: signal.signal(sign, on_signal) for sign in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for sign, handler in before.items():
            signal.signal(sign, handler)
