"""The engine's thread: a real thread, with small engines that record their calls."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from asr_proto.errors import BadRequest
from asr_proto.messages import Spec
from asr_workers.engine_thread import EngineThread
from asr_workers.engines.base import Chunk, Drained, Output, SlotOptions, Snapshot
from asr_workers.jobs import CloseSlot, EngineFailed, OpenSlot, Result, RunStep, SlotClosed, SlotOpened, StepDone

OPTIONS = SlotOptions()
WAIT_S = 30.0


class Noting:
    """An engine that records every call. It answers every chunk; some slots cannot be opened or raise an error."""

    spec = Spec("noting", "noting", ("en",), 8, 960, 1.0, "none")

    def __init__(self) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.threads: set[int] = set()
        self.gate = threading.Event()
        self.gate.set()
        self.waiting = False
        self.held: tuple[int, ...] = ()

    def open(self, slot: int, options: SlotOptions, snapshot: Snapshot | None) -> None:
        self._note("open", slot, options, snapshot)
        if slot == 6:
            raise BadRequest("not this one", slug="unsupported-language")
        if slot == 7:
            raise RuntimeError("out of memory")
        if slot == 8:
            raise ConnectionError("the device does not answer")

    def step(self, chunks: Sequence[Chunk], now: float) -> list[Output]:
        assert self.gate.wait(WAIT_S)
        self._note("step", *[chunk.slot for chunk in chunks])
        return [Drained(chunk.slot) for chunk in chunks]

    def pending(self) -> bool:
        return self.waiting

    def in_flight(self) -> tuple[int, ...]:
        return self.held

    def chunk_samples(self, look_ahead_ms: int | None) -> int:
        return self.spec.chunk_samples

    def release(self) -> None:
        self._note("release")

    def elective_s(self) -> float:
        return 0.0

    def snapshot(self, slot: int) -> None:
        return None

    def blocked(self, slot: int) -> bool:
        return slot == 1

    def is_device_failure(self, error: Exception) -> bool:
        return isinstance(error, ConnectionError)

    def close(self, slot: int) -> None:
        self._note("close", slot)

    def _note(self, *call: object) -> None:
        self.threads.add(threading.get_ident())
        self.calls.append(call)


class Running:
    """An engine thread with a recording engine."""

    def __init__(self) -> None:
        self.engine = Noting()
        self._woken = threading.Semaphore(0)
        self.thread = EngineThread(self.engine, self._woken.release)

    def results(self, count: int) -> list[Result]:
        """The next results; each must have called `wake` once."""
        for _ in range(count):
            assert self._woken.acquire(timeout=WAIT_S)
        return [self.thread.results.popleft() for _ in range(count)]

    def open(self, *slots: int) -> None:
        for slot in slots:
            self.thread.submit(OpenSlot(slot + 100, slot, OPTIONS, None))
        self.results(len(slots))


@pytest.fixture
def running() -> Iterator[Running]:
    it = Running()
    yield it
    it.engine.gate.set()
    it.thread.stop()


def chunk(slot: int) -> Chunk:
    return Chunk(slot, np.zeros(960, np.int16))


def test_results_come_in_the_order_of_the_jobs(running: Running) -> None:
    chunks = [chunk(0), chunk(2)]
    snapshot = Snapshot(5, b"st")
    running.engine.gate.clear()
    for job in (
        OpenSlot(100, 0, OPTIONS, None),
        OpenSlot(102, 2, SlotOptions("en-GB", partials=False), snapshot),
        RunStep(chunks),
        CloseSlot(100, 0),
        OpenSlot(103, 0, OPTIONS, None),
        RunStep([chunk(0)]),
    ):
        running.thread.submit(job)
    running.engine.gate.set()
    first, second, step, closed, again, last = running.results(6)
    assert (first, second) == (SlotOpened(100, 0), SlotOpened(102, 2))
    assert isinstance(step, StepDone)
    assert step.chunks is chunks
    assert step.outputs == [Drained(0), Drained(2)]
    assert step.elapsed_s >= 0
    assert (closed, again) == (SlotClosed(100, 0), SlotOpened(103, 0))
    assert isinstance(last, StepDone)
    assert running.engine.calls == [
        ("open", 0, OPTIONS, None),
        ("open", 2, SlotOptions("en-GB", partials=False), snapshot),
        ("step", 0, 2),
        ("close", 0),
        ("open", 0, OPTIONS, None),
        ("step", 0),
    ]


def test_the_engine_is_called_in_one_thread(running: Running) -> None:
    running.open(0)
    running.thread.submit(RunStep([chunk(0)]))
    running.thread.submit(CloseSlot(100, 0))
    running.results(2)
    assert len(running.engine.threads) == 1
    assert threading.get_ident() not in running.engine.threads


def test_submitting_never_waits_for_a_step(running: Running) -> None:
    running.open(0)
    running.engine.gate.clear()
    for _ in range(100):
        running.thread.submit(RunStep([chunk(0)]))
    assert not running.thread.results
    running.engine.gate.set()
    assert len(running.results(100)) == 100


def test_a_slot_that_cannot_be_opened(running: Running) -> None:
    running.thread.submit(OpenSlot(106, 6, OPTIONS, None))
    (result,) = running.results(1)
    assert isinstance(result, SlotOpened)
    assert result.lease == 106
    assert isinstance(result.error, BadRequest)
    assert result.error.slug == "unsupported-language"
    running.thread.submit(RunStep([chunk(6)]))
    running.thread.submit(CloseSlot(106, 6))
    step, closed = running.results(2)
    assert isinstance(step, StepDone)
    assert step.outputs == []
    assert closed == SlotClosed(106, 6)
    assert running.engine.calls[1:] == [("step",)]


def test_a_step_drops_the_chunks_of_closed_slots(running: Running) -> None:
    """The worker took them before the slot was closed. StepDone still names them."""
    running.open(0, 2)
    running.thread.submit(CloseSlot(100, 0))
    running.thread.submit(RunStep([chunk(0), chunk(2)]))
    _, step = running.results(2)
    assert isinstance(step, StepDone)
    assert [taken.slot for taken in step.chunks] == [0, 2]
    assert step.outputs == [Drained(2)]
    assert running.engine.calls[-1] == ("step", 2)


def test_a_slot_is_closed_once(running: Running) -> None:
    running.open(0)
    running.thread.submit(CloseSlot(100, 0))
    running.thread.submit(CloseSlot(100, 0))
    assert running.results(2) == [SlotClosed(100, 0)] * 2
    assert running.engine.calls.count(("close", 0)) == 1


def test_a_chunk_is_done_when_the_engine_no_longer_holds_it(running: Running) -> None:
    """This may be a later step. A chunk of a closed slot is never done."""
    running.open(0, 1, 2)
    first, second, third = chunk(0), chunk(1), chunk(2)
    for chunks, held in (([first, second], (0, 1)), ([third], (1,))):
        running.engine.held = held
        running.thread.submit(RunStep(chunks))
        (step,) = running.results(1)
        assert isinstance(step, StepDone)
        assert step.chunks == ([] if chunks == [first, second] else [first, third])
    running.thread.submit(CloseSlot(101, 1))
    running.engine.held = ()
    running.thread.submit(RunStep([]))
    _, step = running.results(2)
    assert isinstance(step, StepDone)
    assert not step.chunks


def test_a_step_reports_what_is_pending_and_blocked(running: Running) -> None:
    running.open(0, 1, 2)
    running.engine.waiting = True
    running.thread.submit(RunStep([]))
    (step,) = running.results(1)
    assert isinstance(step, StepDone)
    assert step.pending
    assert step.blocked == {1}
    running.engine.waiting = False
    running.thread.submit(CloseSlot(101, 1))
    running.thread.submit(RunStep([]))
    _, step = running.results(2)
    assert isinstance(step, StepDone)
    assert not step.pending
    assert step.blocked == frozenset()


def test_an_engine_that_raises_an_error(running: Running) -> None:
    running.thread.submit(OpenSlot(107, 7, OPTIONS, None))
    (result,) = running.results(1)
    assert isinstance(result, EngineFailed)
    assert isinstance(result.error, RuntimeError)
    assert result.leases == (107,) and not result.is_device_failure


def test_a_device_that_fails(running: Running) -> None:
    running.thread.submit(OpenSlot(108, 8, OPTIONS, None))
    (result,) = running.results(1)
    assert isinstance(result, EngineFailed) and result.is_device_failure


def test_stop_waits_for_the_jobs_before() -> None:
    running = Running()
    running.thread.submit(OpenSlot(100, 0, OPTIONS, None))
    running.thread.submit(RunStep([chunk(0)]))
    running.thread.stop()
    assert [type(result) for result in running.thread.results] == [SlotOpened, StepDone]
    running.thread.submit(RunStep([]))
    assert len(running.thread.results) == 2
    assert running.engine.calls[-1] == ("release",)
