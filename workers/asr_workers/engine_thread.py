"""The thread that owns the engine: jobs in order, results in order. A step never keeps the link from its heartbeats."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from asr_proto.errors import PeerError
from asr_workers.engines.base import Advanced, Chunk, Engine, Output, SlotOptions, Snapshot

# ---- Jobs ----


@dataclass(frozen=True, slots=True)
class Open:
    lease: int
    slot: int
    options: SlotOptions
    snapshot: Snapshot | None


@dataclass(frozen=True, slots=True)
class Close:
    lease: int
    slot: int


@dataclass(frozen=True, slots=True)
class Checkpoint:
    slot: int


@dataclass(frozen=True, slots=True)
class Step:
    chunks: Sequence[Chunk]


Job = Open | Close | Checkpoint | Step

# ---- Results ----


@dataclass(frozen=True, slots=True)
class Opened:
    lease: int
    slot: int
    error: PeerError | None = None


@dataclass(frozen=True, slots=True)
class SlotClosed:
    lease: int
    slot: int


@dataclass(frozen=True, slots=True)
class Stepped:
    chunks: Sequence[Chunk]
    """Those that have been through the model; some may have gone in with an earlier step."""
    outputs: Sequence[Output]
    elapsed_s: float
    late_s: Sequence[float]
    """How long after it was due each chunk went in."""
    elective_s: float
    """Of the elapsed time: for what the engine leaves out when there is too much to do."""
    pending: bool
    """The engine has work for a step without chunks."""
    blocked: frozenset[int]
    """Slots that take no chunk in the next step."""


@dataclass(frozen=True, slots=True)
class Checkpointed:
    slot: int
    advanced: Advanced | None


@dataclass(frozen=True, slots=True)
class Crashed:
    error: BaseException


Result = Opened | SlotClosed | Checkpointed | Stepped | Crashed


class EngineThread:
    """Runs `engine` until `stop`; calls `wake` after each result, from its own thread."""

    def __init__(self, engine: Engine, wake: Callable[[], None]) -> None:
        self._engine, self._wake = engine, wake
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.results: deque[Result] = deque()
        self._open: set[int] = set()
        self._in_flight: list[Chunk] = []
        """Given to the engine and not through it yet."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job; its result appears in `results`."""
        self._jobs.put(job)

    def stop(self) -> None:
        """End after the jobs queued so far."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                result = self._perform(job)
            except Exception as error:
                result = Crashed(error)
            self.results.append(result)
            self._wake()
        self._engine.release()

    def _perform(self, job: Job) -> Result:
        if isinstance(job, Step):
            return self._step(job.chunks)
        if isinstance(job, Checkpoint):
            return Checkpointed(job.slot, self._engine.checkpoint(job.slot) if job.slot in self._open else None)
        if isinstance(job, Close):
            if job.slot in self._open:
                self._open.remove(job.slot)
                self._in_flight = [chunk for chunk in self._in_flight if chunk.slot != job.slot]
                self._engine.close(job.slot)
            return SlotClosed(job.lease, job.slot)
        try:
            self._engine.open(job.slot, job.options, job.snapshot)
        except PeerError as error:
            return Opened(job.lease, job.slot, error)
        self._open.add(job.slot)
        return Opened(job.lease, job.slot)

    def _step(self, chunks: Sequence[Chunk]) -> Stepped:
        started = time.monotonic()
        live = [chunk for chunk in chunks if chunk.slot in self._open]
        outputs = self._engine.step(live, started)
        elapsed_s = time.monotonic() - started
        blocked = frozenset(slot for slot in self._open if self._engine.blocked(slot))
        late_s = [started - chunk.deadline_s for chunk in chunks]
        elective_s = min(elapsed_s, self._engine.elective_s())
        done = self._done(chunks)
        return Stepped(done, outputs, elapsed_s, late_s, elective_s, self._engine.pending(), blocked)

    def _done(self, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        in_flight = self._engine.in_flight()
        if not in_flight and not self._in_flight:
            return chunks
        given = [*self._in_flight, *chunks]
        self._in_flight = [chunk for chunk in given if chunk.slot in in_flight]
        return [chunk for chunk in given if chunk.slot not in in_flight]
