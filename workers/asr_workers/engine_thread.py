"""The thread that owns the engine: it does jobs in their order and returns results in this order.

The worker's loop, and with it heartbeats, does not wait for a step.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from asr_proto.errors import PeerError
from asr_workers.engines.base import Chunk, Engine
from asr_workers.jobs import (
    Answer,
    CloseSlot,
    EngineFailed,
    Job,
    OpenSlot,
    Result,
    RunStep,
    SlotClosed,
    SlotOpened,
    SnapshotTaken,
    StepDone,
    TakeSnapshot,
    leases_of,
)


class Diary(Protocol):
    """Where the thread notes what it does, for the case that it does not survive it."""

    def begin(self, leases: Sequence[int]) -> None:
        """The engine works for these leases from now on."""

    def end(self) -> None:
        """The engine has done its job."""


class NoDiary:
    """The diary of a worker without a witness."""

    def begin(self, leases: Sequence[int]) -> None:
        """Note nothing."""

    def end(self) -> None:
        """Note nothing."""


class EngineThread:
    """Does jobs with `engine` until `stop`. Calls `wake` in the engine's thread after each result."""

    def __init__(self, engine: Engine, wake: Callable[[], None], diary: Diary | None = None) -> None:
        self._engine, self._wake, self._diary = engine, wake, diary or NoDiary()
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self.results: deque[Result] = deque()
        self._open: set[int] = set()
        self._in_flight: list[Chunk] = []
        """Chunks that were given to the engine and that no step has finished yet."""
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job. Its result is appended to `results`."""
        self._jobs.put(job)

    def stop(self) -> None:
        """End the thread after the jobs queued so far; wait for its end."""
        self._jobs.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            leases = leases_of(job)
            self._diary.begin(leases)
            try:
                result: Result = self._perform(job)
            except Exception as error:
                result = EngineFailed(error, leases, is_device_failure=self._engine.is_device_failure(error))
            self._diary.end()
            self.results.append(result)
            self._wake()
        self._engine.release()

    def _perform(self, job: Job) -> Answer:
        match job:
            case RunStep():
                return self._step(job.chunks)
            case OpenSlot():
                return self._open_slot(job)
            case CloseSlot():
                return self._close_slot(job)
            case TakeSnapshot(slot=slot):
                return SnapshotTaken(slot, self._engine.snapshot(slot) if slot in self._open else None)

    def _open_slot(self, job: OpenSlot) -> SlotOpened:
        try:
            self._engine.open(job.slot, job.options, job.snapshot)
        except PeerError as error:
            return SlotOpened(job.lease, job.slot, error)
        self._open.add(job.slot)
        return SlotOpened(job.lease, job.slot)

    def _close_slot(self, job: CloseSlot) -> SlotClosed:
        if job.slot in self._open:
            self._open.remove(job.slot)
            self._in_flight = [chunk for chunk in self._in_flight if chunk.slot != job.slot]
            self._engine.close(job.slot)
        return SlotClosed(job.lease, job.slot)

    def _step(self, chunks: Sequence[Chunk]) -> StepDone:
        started = time.monotonic()
        live = [chunk for chunk in chunks if chunk.slot in self._open]
        outputs = self._engine.step(live, started)
        elapsed_s = time.monotonic() - started
        blocked = frozenset([slot for slot in self._open if self._engine.blocked(slot)])
        late_s = [started - chunk.deadline_s for chunk in chunks]
        elective_s = min(elapsed_s, self._engine.elective_s())
        done = self._done(chunks)
        return StepDone(done, outputs, elapsed_s, late_s, elective_s, self._engine.pending(), blocked)

    def _done(self, chunks: Sequence[Chunk]) -> Sequence[Chunk]:
        in_flight = self._engine.in_flight()
        if not in_flight and not self._in_flight:
            return chunks
        given = [*self._in_flight, *chunks]
        self._in_flight = [chunk for chunk in given if chunk.slot in in_flight]
        return [chunk for chunk in given if chunk.slot not in in_flight]
