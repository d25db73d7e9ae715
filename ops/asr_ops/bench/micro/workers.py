"""Cost of the worker's pure parts with many slots: the batcher, and the whole `Sessions`."""

from __future__ import annotations

from asr_ops.bench.micro.costs import CHUNK_SAMPLES, CHUNKS_PER_S, FRAME_SAMPLES, FRAMES_PER_S, ROUNDS, Cost, Laps
from asr_proto import messages as m
from asr_workers.batcher import Batcher
from asr_workers.jobs import RunStep, SlotOpened, StepDone
from asr_workers.sessions import Sessions

SLOTS = (100, 500, 2000)
CHUNK_S = CHUNK_SAMPLES / 16_000
BATCH = 32
PROGRESS_SAMPLES = 16_000


def batcher_costs() -> list[Cost]:
    """Costs of a chunk in the batcher, for steps of all slots and for steps of 32 slots."""
    return [cost for slots in SLOTS for cost in _batcher(slots)]


def sessions_costs() -> list[Cost]:
    """Costs of a frame and of a chunk in `Sessions`."""
    return [cost for slots in SLOTS for cost in _sessions(slots)]


def _batcher(slots: int) -> list[Cost]:
    laps, whole, part = Laps(), Batcher(slots), Batcher(slots, BATCH)
    for slot in range(slots):
        whole.open(slot, CHUNK_S)
        part.open(slot, CHUNK_S)
    submit, pick, pick_some = f"submit, {slots} slots", f"pick all of {slots}", f"pick {BATCH} of {slots}"

    def fill(batcher: Batcher) -> None:
        for slot in range(slots):
            batcher.submit(slot, now)

    def empty(batcher: Batcher) -> None:
        while batcher.pick():
            pass

    for number in range(ROUNDS + 1):
        now = number * CHUNK_S
        laps.lap(submit, slots, lambda: fill(whole))
        laps.lap(pick, slots, whole.pick)
        fill(part)
        laps.lap(pick_some, slots, lambda: empty(part))
    return [laps.cost(what, CHUNKS_PER_S) for what in (submit, pick, pick_some)]


def _sessions(slots: int) -> list[Cost]:
    laps, worker = Laps(), full(slots)
    frame, chunk = f"worker, a frame, {slots} slots", f"worker, a chunk, {slots} slots"

    def receive() -> None:
        worker.handle(bundle, None, frames, now)
        worker.outbox.bundles(0)

    def step() -> None:
        worker.step()
        for job in worker.outbox.take():
            if isinstance(job, RunStep):
                worker.answered(StepDone(job.chunks, (), 0.001))
        worker.outbox.bundles(0)

    for number in range(3 * (ROUNDS + 1)):
        now = number * 0.02
        frames = [m.Audio(lease, number * FRAME_SAMPLES, bytes(640)) for lease in range(1, slots + 1)]
        bundle = m.Bundle(b"W", tuple(range(1, slots + 1)))
        laps.lap(frame, slots, receive)
        if number % 3 == 2:
            laps.lap(chunk, slots, step)
    return [laps.cost(frame, FRAMES_PER_S), laps.cost(chunk, CHUNKS_PER_S)]


def full(slots: int) -> Sessions:
    """A worker whose slots are all open. The leases are numbered from 1."""
    spec = m.Spec("fake", "fake", ("en",), slots, CHUNK_SAMPLES, 1.0, "none")
    worker = Sessions("w", spec, 0.0)
    worker.handle(m.Welcome(1, 1.0), None, (), 0.0)
    for slot in range(slots):
        grant = m.Grant(slot + 1, slot, f"s{slot}", b"F")
        worker.handle(grant, m.Setup("en", True, PROGRESS_SAMPLES, None), (), 0.0)
        worker.answered(SlotOpened(slot + 1, slot))
    worker.outbox.take()
    return worker
