"""Sessions under suspicion are stepped alone, and a job that does not end is named."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from asr_proto import messages as m
from asr_proto.messages import LEASES_MAX
from asr_workers.engines.base import Chunk
from asr_workers.jobs import CloseSlot, EngineFailed, RunStep, SlotOpened, StepDone, TakeSnapshot, leases_of
from asr_workers.outbox import Hang, Send
from asr_workers.sessions import HANG_BEATS_MAX, WIPED_S, Sessions
from asr_workers.work import Work

CHUNK = 960
SPEC = m.Spec("fake", "fake", ("en",), 8, CHUNK, 1.0, "none")


class Bench:
    """A worker's sessions; the test acts as broker and engine. Slot n has lease n + 10."""

    def __init__(self) -> None:
        self.core = Sessions("w", SPEC, 0.0, witness=b"X")
        self.core.handle(m.Welcome(1, 1.0), None, (), 0.0)

    def hold(self, slot: int, chunks: int, suspicion: m.Suspicion | None = None) -> None:
        """A session with so many chunks."""
        lease = slot + 10
        setup = m.Setup("en", True, CHUNK, None, suspicion=suspicion)
        self.core.handle(m.Grant(lease, slot, f"s{slot}", b"F"), setup, (), 0.0)
        self.core.answered(SlotOpened(lease, slot))
        audio = m.Audio(lease, 0, bytes(2 * CHUNK * chunks))
        self.core.handle(m.Bundle(b"w", (lease,)), None, (audio,), 0.0)
        self.core.outbox.take()

    def begin(self) -> RunStep:
        self.core.step()
        (job,) = self.core.outbox.take()
        assert isinstance(job, RunStep)
        return job

    def end(self, chunks: list[Chunk], *, pending: bool = False) -> None:
        self.core.answered(StepDone(chunks, (), 0.01, pending=pending))

    def step(self, *, pending: bool = False) -> list[int]:
        """One step; returns its slots."""
        job = self.begin()
        self.end(list(job.chunks), pending=pending)
        return [chunk.slot for chunk in job.chunks]


@pytest.fixture
def bench() -> Iterator[Bench]:
    it = Bench()
    yield it
    it.core.check()


ALL = m.Suspicion(0, 100 * CHUNK)


def test_suspects_take_turns_with_the_batch_of_the_others(bench: Bench) -> None:
    for slot, suspicion in enumerate([None, ALL, None, ALL]):
        bench.hold(slot, 3, suspicion)
    steps = [bench.step() for _ in range(9)]
    assert steps == [[0, 2], [1], [0, 2], [3], [0, 2], [1], [3], [1], [3]]


def test_a_job_names_the_leases_for_which_the_engine_works(bench: Bench) -> None:
    bench.hold(0, 1)
    bench.hold(1, 1)
    bench.hold(2, 1, ALL)
    together = bench.begin()
    assert together.leases == (10, 11)
    bench.end(list(together.chunks))
    assert bench.begin().leases == (12,)


def test_only_the_audio_under_suspicion_is_stepped_alone(bench: Bench) -> None:
    bench.hold(0, 6)
    bench.hold(1, 6, m.Suspicion(2 * CHUNK, 3 * CHUNK))
    steps = [sorted(bench.step()) for _ in range(8)]
    assert steps == [[0, 1], [0, 1], [1], [0], [1], [0, 1], [0, 1], [0]]


def test_an_engine_that_goes_on_with_a_chunk_is_emptied_before_and_after(bench: Bench) -> None:
    bench.hold(0, 3)
    bench.hold(1, 3, m.Suspicion(5 * CHUNK, 9 * CHUNK))
    assert bench.step(pending=True) == [0, 1], "not suspected yet, as this engine has gone on with nothing so far"
    before = bench.begin()
    assert (before.chunks, before.leases) == ([], (10, 11)), "any session may be the one that the engine works for"
    bench.end([])
    alone = bench.begin()
    assert ([chunk.slot for chunk in alone.chunks], alone.leases) == ([1], (11,))
    bench.end(list(alone.chunks), pending=True)
    after = bench.begin()
    assert (after.chunks, after.leases) == ([], (11,))
    bench.end([])
    assert bench.step() == [0]


def test_a_suspect_that_ends_leaves_the_others_alone(bench: Bench) -> None:
    bench.hold(0, 2)
    bench.hold(1, 2, ALL)
    bench.core.handle(m.Release(11), None, (), 0.0)
    bench.core.outbox.take()
    assert [bench.step(), bench.step()] == [[0], [0]]
    bench.core.step()
    assert bench.core.outbox.take() == []


def test_an_exception_is_reported_with_its_leases(bench: Bench) -> None:
    bench.core.failed(EngineFailed(ValueError(), (10, 11)))
    assert bench.core.outbox.take() == [Send(m.Crashed((10, 11), proven=True))]


def test_a_failure_of_the_device_raises_no_suspicion(bench: Bench) -> None:
    bench.core.failed(EngineFailed(ValueError(), (10,), is_device_failure=True))
    assert bench.core.outbox.take() == [Send(m.Crashed((), proven=False))]


def test_a_worker_that_leaves_sessions_says_so(bench: Bench) -> None:
    bench.core.leave()
    assert bench.core.outbox.take() == []
    bench.hold(0, 1)
    bench.core.leave()
    assert bench.core.outbox.take() == [Send(m.Crashed((), proven=False))]


def test_the_registration_names_the_witness() -> None:
    assert Bench().core.registration().witness == b"X"


def test_heartbeats_name_a_job_that_does_not_end(bench: Bench) -> None:
    bench.hold(0, 2)
    job = bench.begin()
    assert [stuck(bench, at) for at in (1.0, 2.0, 3.0)] == [(), (10,), (10,)]
    bench.end(list(job.chunks))
    bench.begin()
    assert stuck(bench, 4.0) == ()


def stuck(bench: Bench, now: float) -> tuple[int, ...]:
    bench.core.tick(now)
    (sent,) = bench.core.outbox.take()
    assert isinstance(sent, Send) and isinstance(sent.message, m.WorkerHeartbeat)
    return sent.message.stuck


def test_a_worker_that_was_given_up_ends_if_its_engine_still_hangs(bench: Bench) -> None:
    bench.hold(0, 1)
    bench.begin()
    bench.core.disconnected(0.0)
    bench.core.outbox.take()
    for number in range(HANG_BEATS_MAX):
        assert bench.core.outbox.take() == []
        bench.core.tick(2 * number * WIPED_S)
    assert bench.core.outbox.take() == [Hang()]


# ---- Work ----


def test_the_first_job_is_in_the_engine() -> None:
    work = Work()
    for leases in ((1,), (2, 3)):
        work.given(leases)
    for _ in range(2):
        work.beat()
    assert work.stuck() == (1,)
    work.answered()
    assert work.stuck() == ()
    for _ in range(2):
        work.beat()
    assert work.stuck() == (2, 3)
    work.answered()
    work.beat()
    assert work.stuck() == ()


def test_a_report_has_no_more_leases_than_the_wire_allows() -> None:
    work = Work()
    work.given(tuple(range(LEASES_MAX + 5)))
    for _ in range(2):
        work.beat()
    assert len(work.stuck()) == LEASES_MAX


def test_the_leases_of_every_job() -> None:
    jobs = CloseSlot(5, 0), TakeSnapshot(0, 6), RunStep([], (7, 8))
    assert [leases_of(job) for job in jobs] == [(5,), (6,), (7, 8)]
