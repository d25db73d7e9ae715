"""All sessions of a worker, without broker or engine: messages in, commands and frames out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from asr_proto import messages as m
from asr_proto.errors import BadRequest
from asr_workers.engines.base import Advanced, Chunk, Drained, Hypothesis, Output, SlotOptions, Snapshot
from asr_workers.engines.fake import FakeConfig, FakeEngine, transcript
from asr_workers.jobs import (
    Answer,
    CloseSlot,
    OpenSlot,
    RunStep,
    SlotClosed,
    SlotOpened,
    SnapshotTaken,
    StepDone,
    TakeSnapshot,
)
from asr_workers.outbox import Command, Quit, Send, WorkerPost
from asr_workers.session import FINALS_KEPT
from asr_workers.sessions import REGISTER_S, Sessions

CHUNK = 960
SPEC = m.Spec("fake", "fake", ("en",), 4, CHUNK, 1.0, "none")
SETUP = m.Setup("en", True, CHUNK, None, progress_taken=True)
WELCOME = m.Welcome(1, 1.0)
F1, F2 = b"F1", b"F2"
REGISTER = Send(m.RegisterWorker(m.PROTOCOL_VERSION, "w", SPEC))


def pcm(samples: int) -> bytes:
    return np.random.default_rng(samples).integers(-9000, 9000, samples).astype("<i2").tobytes()


def text(slot: int, words: str = "text") -> Hypothesis:
    return Hypothesis(slot, words, 0, CHUNK)


class Bench:
    """A worker's sessions with a clock that the test sets. The test acts as the engine."""

    def __init__(self) -> None:
        self.now = 50.0
        self.core = Sessions("w", SPEC, self.now)

    def taken(self) -> list[Command | Send]:
        """The commands since the last call; frames stay in the outbox."""
        return self.core.outbox.take()

    def deliver(self, message: m.FromBroker, setup: m.Setup | None = None, *frames: m.Frame) -> list[Command | Send]:
        self.core.handle(message, setup, frames, self.now)
        return self.taken()

    def tick(self, after_s: float = 0.0) -> list[Command | Send]:
        self.now += after_s
        self.core.tick(self.now)
        return self.taken()

    def drain(self) -> list[Command | Send]:
        self.core.drain(self.now)
        return self.taken()

    def grant(self, lease: int, slot: int, frontend: bytes = F1, setup: m.Setup = SETUP) -> list[Command | Send]:
        return self.deliver(m.Grant(lease, slot, f"s{lease}", frontend), setup)

    def hold(self, lease: int, slot: int, frontend: bytes = F1) -> None:
        """A session that was granted and opened by the engine."""
        self.grant(lease, slot, frontend)
        self.answer(SlotOpened(lease, slot))

    def answer(self, answer: Answer) -> list[Command | Send]:
        self.core.answered(answer)
        return self.taken()

    def closed(self, lease: int, slot: int) -> list[Command | Send]:
        return self.answer(SlotClosed(lease, slot))

    def send(self, *frames: m.Frame) -> None:
        assert self.deliver(m.Bundle(b"w", tuple({frame.lease for frame in frames})), None, *frames) == []

    def audio(self, lease: int, samples: int = CHUNK, first: int = 0) -> None:
        self.send(m.Audio(lease, first, pcm(samples)))

    def begin(self) -> list[Chunk]:
        """The chunks of a step that begins now; empty when no step begins."""
        self.core.step()
        jobs = self.taken()
        assert all(isinstance(job, RunStep) for job in jobs) and len(jobs) <= 1
        return [chunk for job in jobs if isinstance(job, RunStep) for chunk in job.chunks]

    def end(self, chunks: Sequence[Chunk], *outputs: Output) -> None:
        self.core.answered(StepDone(chunks, outputs, 0.01))

    def step(self, *outputs: Output) -> list[Chunk]:
        """One whole step."""
        chunks = self.begin()
        self.end(chunks, *outputs)
        return chunks

    def bundles(self) -> list[tuple[m.Bundle, list[m.FrameOut]]]:
        posts = [post for post in self.core.outbox.bundles(0) if isinstance(post, WorkerPost)]
        return [(post.message, post.frames or []) for post in posts if isinstance(post.message, m.Bundle)]

    def sent(self) -> list[m.FrameOut]:
        """The frames since the last call."""
        return [frame for _, frames in self.bundles() for frame in frames]


@pytest.fixture
def bench() -> Iterator[Bench]:
    """A registered worker; the invariants hold at the end."""
    it = Bench()
    it.deliver(WELCOME)
    yield it
    it.core.check()


# ---- Registration and heartbeats ----


def test_a_worker_registers_until_it_is_welcomed() -> None:
    it = Bench()
    assert it.tick() == [REGISTER]
    assert it.tick(REGISTER_S / 2) == []
    assert it.core.next_deadline() == it.now + REGISTER_S / 2
    assert it.tick(REGISTER_S / 2) == [REGISTER]
    assert it.deliver(m.Welcome(1, 5.0)) == []
    assert it.core.registered
    (heartbeat,) = it.tick(REGISTER_S)
    assert isinstance(heartbeat, Send)
    assert isinstance(heartbeat.message, m.WorkerHeartbeat)
    assert it.tick(4.9) == []
    assert len(it.tick(0.1)) == 1


def test_a_session_waits_for_a_chunk_of_its_own_look_ahead() -> None:
    """YAP-24. It does not wait for the worker's default, which would delay sessions with a short look-ahead."""
    it = Bench()
    it.core = Sessions("w", SPEC, it.now, lambda look_ahead_ms: CHUNK if look_ahead_ms is None else CHUNK // 2)
    it.deliver(WELCOME)
    for lease, look_ahead_ms in ((1, None), (2, 0)):
        it.grant(lease, lease - 1, setup=structs.replace(SETUP, look_ahead_ms=look_ahead_ms))
        it.answer(SlotOpened(lease, lease - 1))
        it.audio(lease, CHUNK // 2)
    assert [(chunk.slot, len(chunk.pcm)) for chunk in it.step()] == [(1, CHUNK // 2)]
    it.audio(1, CHUNK // 2, first=CHUNK // 2)
    assert [(chunk.slot, len(chunk.pcm)) for chunk in it.step()] == [(0, CHUNK)]


def test_heartbeats_carry_the_load(bench: Bench) -> None:
    bench.tick()
    bench.hold(1, 0)
    bench.hold(2, 1)
    bench.audio(1, 3 * CHUNK)
    bench.audio(2)
    bench.step()
    bench.step()
    (command,) = bench.tick(1.0)
    assert isinstance(command, Send)
    load = command.message
    assert isinstance(load, m.WorkerHeartbeat)
    assert load.load == m.Load(2, 1, 10.0, 10.0, 0.02, round(0.02 / (3 * 0.06), 4))
    (command,) = bench.tick(1.0)
    assert command == Send(m.WorkerHeartbeat(m.Load(2, 1, 0.0, 0.0, 0.0, 0.0)))


def test_a_refused_worker_quits(bench: Bench) -> None:
    assert bench.deliver(m.Rejected("version", "its protocol version is 2")) == [Quit("its protocol version is 2")]


def test_an_unregistered_worker_drops_all_sessions_and_registers_again(bench: Bench) -> None:
    bench.hold(1, 0)
    bench.hold(2, 1)
    bench.audio(1)
    bench.step(text(0))
    bench.audio(2)
    assert bench.deliver(m.Unregistered()) == [CloseSlot(1, 0), CloseSlot(2, 1)]
    assert not bench.core.registered
    assert len(bench.core) == 0
    assert bench.sent() == []
    assert bench.step() == []
    assert bench.core.next_deadline() <= bench.now
    assert bench.tick() == []
    assert bench.closed(1, 0) == bench.closed(2, 1) == []
    assert bench.tick(0.1) == [REGISTER]
    bench.deliver(WELCOME)
    bench.audio(1, first=CHUNK)
    assert bench.sent() == []


def test_the_link_is_lost(bench: Bench) -> None:
    bench.hold(1, 0)
    bench.core.disconnected(bench.now)
    assert bench.taken() == [CloseSlot(1, 0)]
    bench.closed(1, 0)
    assert bench.tick() == [REGISTER]


def test_an_unanswered_registration_is_repeated_at_its_own_pace(bench: Bench) -> None:
    """The interval of the last broker's heartbeats does not matter."""
    bench.deliver(m.Welcome(1, 30.0))
    bench.deliver(m.Unregistered())
    assert bench.tick() == [REGISTER]
    assert bench.tick(REGISTER_S) == [REGISTER]


def test_a_second_welcome_ends_all_sessions(bench: Bench) -> None:
    """The broker treated a repeated registration as that of a new process: the leases of before have ended."""
    bench.hold(1, 0)
    assert bench.deliver(WELCOME) == [CloseSlot(1, 0)]
    assert len(bench.core) == 0
    bench.grant(2, 0)
    bench.core.check()


# ---- Leases ----


def test_a_grant_opens_a_slot(bench: Bench) -> None:
    assert bench.grant(1, 2) == [OpenSlot(1, 2, SlotOptions("en", True), None)]
    setup = m.Setup("en-GB", False, CHUNK, m.Commit(5000, 3, b"state"))
    assert bench.grant(2, 3, setup=setup) == [OpenSlot(2, 3, SlotOptions("en-GB", False), Snapshot(5000, b"state"))]
    assert len(bench.core) == 2


@pytest.mark.parametrize("message", [m.Release(1), m.Stale(1)], ids=repr)
def test_the_end_of_a_lease(bench: Bench, message: m.FromBroker) -> None:
    bench.hold(1, 2)
    assert bench.deliver(message) == [CloseSlot(1, 2)]
    assert len(bench.core) == 0
    assert bench.deliver(message) == []
    assert bench.closed(1, 2) == [Send(m.Closed(1))]


def test_a_lease_that_is_not_held(bench: Bench) -> None:
    bench.hold(1, 0)
    for message in (m.Release(7), m.Stale(7)):
        assert bench.deliver(message) == []
    bench.send(m.Audio(7, 0, pcm(CHUNK)), m.Flush(7, "x"), m.Stop(7))
    assert bench.step() == []
    assert bench.sent() == []


def test_frames_of_the_other_direction_are_dropped(bench: Bench) -> None:
    bench.hold(1, 0)
    bench.send(m.Ended(1), m.Failed(1, "x", "y"))
    assert bench.sent() == []
    assert len(bench.core) == 1


# ---- Steps ----


def test_audio_becomes_chunks_and_outputs_become_frames(bench: Bench) -> None:
    bench.hold(1, 0)
    bench.audio(1, CHUNK // 2)
    assert bench.begin() == []
    bench.audio(1, CHUNK // 2, CHUNK // 2)
    (chunk,) = bench.step(text(0))
    assert (chunk.slot, len(chunk.pcm)) == (0, CHUNK)
    assert bench.sent() == [
        m.Progress(1, CHUNK, 0, None),
        m.Partial(1, 0, "text", 0, CHUNK),
        m.Progress(1, CHUNK, CHUNK, None),
    ]


def test_chunks_that_wait_are_stepped_without_more_audio(bench: Bench) -> None:
    bench.hold(1, 0)
    bench.audio(1, 3 * CHUNK + 5)
    assert [len(bench.step()) for _ in range(5)] == [1, 1, 1, 0, 0]


def test_a_slot_has_one_chunk_in_the_engine(bench: Bench) -> None:
    bench.hold(1, 0)
    bench.audio(1, 2 * CHUNK)
    first = bench.begin()
    assert len(first) == 1
    assert bench.begin() == []
    bench.audio(1, CHUNK, 2 * CHUNK)
    assert bench.begin() == []
    bench.end(first)
    assert len(bench.begin()) == 1


def test_a_flush_and_what_follows_it(bench: Bench) -> None:
    bench.hold(1, 0)
    bench.send(m.Audio(1, 0, pcm(100)), m.Flush(1, "x"), m.Audio(1, 100, pcm(100)), m.Stop(1))
    (chunk,) = bench.step()
    assert (len(chunk.pcm), chunk.flush) == (100, True)
    assert bench.begin() == []
    bench.end([], Drained(0))
    (chunk,) = bench.step(Drained(0))
    assert (len(chunk.pcm), chunk.flush) == (100, True)
    assert bench.sent() == [m.Flushed(1, "x"), m.Progress(1, 200, 200, None), m.Ended(1)]


def test_blocked_slots_wait(bench: Bench) -> None:
    """A slot stays blocked until the next step, or until it is closed."""
    bench.hold(1, 0)
    bench.hold(2, 1)
    bench.answer(StepDone([], [], blocked=frozenset({0})))
    bench.audio(1)
    bench.audio(2)
    assert [chunk.slot for chunk in bench.step()] == [1]
    assert [chunk.slot for chunk in bench.step()] == [0]


def test_a_closed_slot_is_no_longer_blocked(bench: Bench) -> None:
    bench.hold(1, 0)
    bench.answer(StepDone([], [], blocked=frozenset({0, 1})))
    bench.deliver(m.Release(1))
    bench.closed(1, 0)
    for lease, slot in ((2, 0), (3, 1)):
        bench.hold(lease, slot)
        bench.audio(lease)
    assert [chunk.slot for chunk in bench.begin()] == [0]


def test_work_that_is_pending_gets_steps_without_chunks(bench: Bench) -> None:
    bench.answer(StepDone([], [], pending=True))
    bench.core.step()
    assert bench.taken() == [RunStep([])]
    bench.core.step()
    assert bench.taken() == []
    bench.answer(StepDone([], []))
    bench.core.step()
    assert bench.taken() == []


def test_one_step_at_a_time(bench: Bench) -> None:
    bench.hold(1, 0)
    bench.hold(2, 1)
    bench.audio(1)
    chunks = bench.begin()
    bench.audio(2)
    assert bench.begin() == []
    bench.end(chunks)
    assert [chunk.slot for chunk in bench.begin()] == [1]


def test_live_speakers_go_first(bench: Bench) -> None:
    bench.hold(1, 0)
    bench.hold(2, 1)
    bench.audio(1, 10 * CHUNK)
    bench.step()
    bench.step()
    bench.now += 0.06
    bench.audio(2)
    assert [chunk.slot for chunk in bench.begin()] == [1, 0]


def test_one_bundle_for_each_frontend(bench: Bench) -> None:
    for lease, slot, frontend in ((1, 0, F1), (2, 1, F2), (3, 2, F1)):
        bench.hold(lease, slot, frontend)
        bench.audio(lease)
    bench.step(text(2), text(1), text(0), text(0))
    bundles = {bundle.to: (bundle.leases, frames) for bundle, frames in bench.bundles()}
    assert bundles.keys() == {F1, F2}
    assert bundles[F1][0] == (1, 3)
    assert bundles[F2][0] == (2,)
    assert {frame.lease for frame in bundles[F1][1]} == {1, 3}
    assert [type(frame) for frame in bundles[F2][1]] == [m.Progress, m.Partial, m.Progress]
    assert bench.bundles() == []


# ---- A reused slot ----


def test_the_last_user_of_a_reused_slot_receives_none_of_its_outputs(bench: Bench) -> None:
    """The step of the old lease ends after the slot was granted again."""
    bench.hold(1, 0)
    bench.audio(1)
    chunks = bench.begin()
    bench.sent()
    assert bench.deliver(m.Release(1)) == [CloseSlot(1, 0)]
    assert bench.grant(2, 0, F2)[0] == OpenSlot(2, 0, SlotOptions("en", True), None)
    bench.end(chunks, text(0, "secret"))
    assert bench.sent() == []
    assert bench.closed(1, 0) == [Send(m.Closed(1))]
    bench.end([], text(0, "secret"))
    assert bench.sent() == []
    bench.answer(SlotOpened(2, 0))
    bench.audio(2)
    bench.step(text(0, "mine"))
    assert [frame.text for frame in bench.sent() if isinstance(frame, m.Partial)] == ["mine"]


def test_a_chunk_of_the_last_user_counts_for_no_session(bench: Bench) -> None:
    """It is no progress of the new user, whose own chunk is taken afterwards."""
    bench.hold(1, 0)
    bench.audio(1)
    old = bench.begin()
    bench.deliver(m.Release(1))
    bench.grant(2, 0)
    bench.audio(2, 2 * CHUNK)
    bench.sent()
    bench.end(old, text(0))
    assert bench.sent() == []
    (new,) = bench.begin()
    bench.closed(1, 0)
    bench.answer(SlotOpened(2, 0))
    bench.end([new])
    assert bench.sent() == [m.Progress(2, 2 * CHUNK, CHUNK, None)]
    assert len(bench.begin()) == 1


def test_outputs_without_chunks_belong_to_the_slots_session(bench: Bench) -> None:
    bench.hold(1, 0)
    bench.end([], text(0), text(3))
    assert bench.sent() == [m.Partial(1, 0, "text", 0, CHUNK)]


# ---- Failures ----


def test_a_slot_that_cannot_be_opened(bench: Bench) -> None:
    bench.grant(1, 0)
    bench.audio(1)
    chunks = bench.begin()
    bench.sent()
    bench.answer(SlotOpened(1, 0, BadRequest("fake serves en", slug="unsupported-language")))
    assert bench.sent() == [m.Failed(1, "unsupported-language", "fake serves en")]
    bench.end(chunks)
    bench.audio(1, CHUNK, CHUNK)
    assert bench.begin() == []
    assert bench.sent() == []
    assert bench.deliver(m.Release(1)) == [CloseSlot(1, 0)]
    assert bench.closed(1, 0) == [Send(m.Closed(1))]


def test_a_session_fails_once(bench: Bench) -> None:
    """Its audio was wrong, and then its slot could not be opened. The client receives only the first error."""
    bench.grant(1, 0)
    bench.send(m.Audio(1, 5, pcm(2)))
    (failed,) = bench.sent()
    assert isinstance(failed, m.Failed) and failed.slug == "audio-gap"
    bench.answer(SlotOpened(1, 0, BadRequest("fake serves en", slug="unsupported-language")))
    assert bench.sent() == []


def test_a_failure_of_a_lease_that_is_over(bench: Bench) -> None:
    bench.grant(1, 0)
    bench.deliver(m.Release(1))
    bench.answer(SlotOpened(1, 0, BadRequest("too late")))
    assert bench.sent() == []


@pytest.mark.parametrize(
    "frame, slug",
    [
        (m.Audio(1, CHUNK + 1, pcm(2)), "audio-gap"),
        (m.Audio(1, CHUNK, b"\0"), "bad-message"),
    ],
)
def test_a_session_that_fails_is_silent_afterwards(bench: Bench, frame: m.Frame, slug: str) -> None:
    """This includes outputs for chunks that are in the engine at that time."""
    bench.hold(1, 0)
    bench.hold(2, 1)
    bench.audio(1)
    bench.audio(2)
    chunks = bench.begin()
    bench.sent()
    bench.send(frame)
    (failed,) = bench.sent()
    assert isinstance(failed, m.Failed)
    assert (failed.lease, failed.slug) == (1, slug)
    bench.end(chunks, text(0), text(1))
    assert {frame.lease for frame in bench.sent()} == {2}
    bench.send(frame, m.Audio(1, CHUNK, pcm(CHUNK)), m.Stop(1))
    assert bench.begin() == []
    assert bench.sent() == []


def test_a_failed_session_gives_no_chunk(bench: Bench) -> None:
    bench.hold(1, 0)
    bench.audio(1, 5 * CHUNK)
    bench.send(m.Audio(1, 0, b""))
    assert bench.step() == []


def test_a_long_detail_is_cut_to_the_limit_of_the_wire(bench: Bench) -> None:
    bench.grant(1, 0)
    bench.answer(SlotOpened(1, 0, BadRequest("x" * 1000)))
    (failed,) = bench.sent()
    assert isinstance(failed, m.Failed)
    assert len(failed.detail) == 128


# ---- Drain ----


def test_a_drained_worker_quits_after_its_last_session(bench: Bench) -> None:
    bench.hold(1, 0)
    assert bench.drain() == [Send(m.Drain())]
    assert all(not isinstance(command, Quit) for command in bench.tick())
    bench.audio(1)
    assert len(bench.step()) == 1
    bench.deliver(m.Release(1))
    assert all(not isinstance(command, Quit) for command in bench.tick(5.0))
    assert bench.closed(1, 0) == [Send(m.Closed(1))]
    assert bench.core.next_deadline() <= bench.now
    assert bench.tick() == [Quit()]


def test_an_idle_worker_quits_immediately(bench: Bench) -> None:
    assert bench.drain() == [Send(m.Drain())]
    assert bench.core.next_deadline() <= bench.now
    assert bench.tick() == [Quit()]


def test_a_drain_survives_the_loss_of_the_broker(bench: Bench) -> None:
    """It does not register again only to send Drain."""
    bench.hold(1, 0)
    bench.drain()
    bench.deliver(m.Unregistered())
    assert bench.tick() == []
    bench.closed(1, 0)
    assert bench.tick(0.1) == [Quit()]


def test_a_drain_without_a_broker() -> None:
    it = Bench()
    assert it.drain() == []
    assert it.tick() == [Quit()]


# ---- With the fake engine ----


Moves = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3000), st.booleans()), max_size=25)


@settings(max_examples=80)
@given(moves=Moves, late=st.booleans())
def test_each_lease_receives_its_own_text_and_no_other(moves: Sequence[tuple[int, int, bool]], late: bool) -> None:
    """Slots are granted again while steps run. Outputs are compared with the samples of each lease."""
    bench = Bench()
    bench.deliver(WELCOME)
    engine = FakeEngine(FakeConfig(slots=4))
    rng = np.random.default_rng(7)
    sent: dict[int, bytes] = {}
    holder: dict[int, int] = {}
    received: list[m.FrameOut] = []

    def perform(commands: Sequence[Command | Send]) -> None:
        for command in commands:
            if isinstance(command, OpenSlot):
                engine.open(command.slot, command.options, command.snapshot)
                bench.answer(SlotOpened(command.lease, command.slot))
            elif isinstance(command, CloseSlot):
                engine.close(command.slot)
                bench.closed(command.lease, command.slot)

    def finish(chunks: Sequence[Chunk]) -> None:
        bench.end(chunks, *engine.step(chunks, bench.now))
        bench.core.check()
        received.extend(bench.sent())

    for slot, samples, hand_on in moves:
        chunks = bench.begin() if late else []
        handed: list[Command | Send] = []
        if hand_on or slot not in holder:
            handed = bench.deliver(m.Release(holder[slot])) if slot in holder else []
            holder[slot] = len(sent) + 1
            sent[holder[slot]] = b""
            handed += bench.grant(holder[slot], slot)
        # The engine's thread finishes the current step before it does the next job.
        finish(chunks)
        perform(handed)
        lease = holder[slot]
        piece = rng.integers(-9000, 9000, samples).astype("<i2").tobytes()
        bench.send(m.Audio(lease, len(sent[lease]) // 2, piece))
        sent[lease] += piece
        finish(bench.begin())
    for lease in holder.values():
        bench.send(m.Stop(lease))
    while chunks := bench.begin():
        finish(chunks)
    for lease, data in sent.items():
        texts = [frame.text for frame in received if isinstance(frame, m.Final) and frame.lease == lease]
        whole = transcript(np.frombuffer(data, "<i2"))
        if lease in holder.values():
            assert " ".join(texts) == whole
            assert m.Ended(lease) in received
        else:
            assert whole.startswith(" ".join(texts))


# ---- Clients that come back ----


def final(slot: int, end: int) -> Hypothesis:
    return Hypothesis(slot, f"until {end}", end - CHUNK, end, "length", snapshot=Snapshot(end, b"state"))


def transfer(bench: Bench, utterance: int, frontend: bytes = F2) -> list[Command | Send]:
    return bench.deliver(m.Transfer(1, 2, 0, "s", frontend, utterance), SETUP)


def test_a_transferred_session_continues_from_its_last_commit(bench: Bench) -> None:
    """The client receives the finals that it missed, and sends the audio after the commit again."""
    bench.hold(1, 0)
    for number in range(3):
        bench.audio(1, first=number * CHUNK)
        bench.step(final(0, (number + 1) * CHUNK))
    bench.audio(1, 100, first=3 * CHUNK)
    bench.sent()
    commands = transfer(bench, utterance=1)
    snapshot = Snapshot(3 * CHUNK, b"state")
    assert commands == [CloseSlot(1, 0), OpenSlot(2, 0, SlotOptions("en", True), snapshot)]
    ((bundle, frames),) = bench.bundles()
    assert bundle == m.Bundle(F2, (2,))
    assert frames[0] == m.Resumed(2, m.Commit(3 * CHUNK, 3, b"state"))
    assert [(frame.lease, frame.utterance) for frame in frames[1:] if isinstance(frame, m.Final)] == [(2, 1), (2, 2)]
    assert bench.closed(1, 0) == [Send(m.Closed(1))]
    bench.answer(SlotOpened(2, 0))
    bench.audio(2, first=3 * CHUNK)
    bench.step(final(0, 4 * CHUNK))
    assert [frame.utterance for frame in bench.sent() if isinstance(frame, m.Final)] == [3]


def test_of_all_finals_only_the_last_keeps_its_state(bench: Bench) -> None:
    """A state may have megabytes. A repeated final must not replace the last commit by one without a state."""
    bench.hold(1, 0)
    for number in range(3):
        bench.audio(1, first=number * CHUNK)
        bench.step(final(0, (number + 1) * CHUNK))
    bench.sent()
    transfer(bench, utterance=0)
    resumed, *repeated = bench.sent()
    assert isinstance(resumed, m.Resumed)
    commits = [frame.commit for frame in repeated if isinstance(frame, m.Final)]
    assert commits == [m.Commit(CHUNK, 1, b""), m.Commit(2 * CHUNK, 2, b""), resumed.commit]
    assert resumed.commit == m.Commit(3 * CHUNK, 3, b"state")


def test_a_transferred_session_without_a_commit_continues_from_its_beginning(bench: Bench) -> None:
    bench.hold(1, 0)
    bench.audio(1)
    bench.sent()
    assert transfer(bench, utterance=0)[-1] == OpenSlot(2, 0, SlotOptions("en", True), None)
    assert bench.sent() == [m.Resumed(2, None)]


def test_outputs_of_the_old_lease_are_dropped(bench: Bench) -> None:
    bench.hold(1, 0)
    bench.audio(1)
    chunks = bench.begin()
    transfer(bench, utterance=0)
    bench.sent()
    bench.end(chunks, text(0))
    assert bench.sent() == []


def test_a_session_that_the_worker_does_not_have_cannot_be_transferred(bench: Bench) -> None:
    transfer(bench, utterance=0)
    (failed,) = bench.sent()
    assert isinstance(failed, m.Failed) and (failed.lease, failed.slug) == (2, "resume-unavailable")
    assert bench.deliver(m.Release(2)) == [CloseSlot(2, 0)]


def test_only_the_last_finals_are_kept(bench: Bench) -> None:
    bench.hold(1, 0)
    for number in range(FINALS_KEPT + 1):
        bench.audio(1, first=number * CHUNK)
        bench.step(final(0, (number + 1) * CHUNK))
    bench.sent()
    transfer(bench, utterance=0)
    (failed,) = bench.sent()
    assert isinstance(failed, m.Failed) and failed.slug == "resume-unavailable"


# ---- Commits on request ----


def test_a_requested_commit_is_sent_as_progress(bench: Bench) -> None:
    bench.hold(1, 0)
    bench.audio(1)
    bench.step()
    bench.sent()
    assert bench.deliver(m.Bundle(b"w", (1,)), None, m.Checkpoint(1)) == [TakeSnapshot(0, 1)]
    bench.answer(SnapshotTaken(0, Advanced(0, Snapshot(CHUNK, b"middle"))))
    assert bench.sent() == [m.Progress(1, CHUNK, CHUNK, m.Commit(CHUNK, 0, b"middle", confirmed=0))]


def test_an_engine_may_have_no_snapshot_to_give(bench: Bench) -> None:
    bench.hold(1, 0)
    bench.answer(SnapshotTaken(0, None))
    bench.answer(SnapshotTaken(3, Advanced(3, Snapshot(0, b""))))
    assert bench.sent() == []


def test_lateness_is_reported(bench: Bench) -> None:
    bench.tick()
    bench.hold(1, 0)
    bench.audio(1)
    chunks = bench.begin()
    bench.answer(StepDone(chunks, [], 0.03, [0.2]))
    (command,) = bench.tick(1.0)
    assert isinstance(command, Send) and isinstance(command.message, m.WorkerHeartbeat)
    assert command.message.load.late_ms_p95 == 200.0


def test_progress_is_sent_for_received_samples_only_with_the_option(bench: Bench) -> None:
    bench.grant(1, 0, setup=m.Setup("en", True, CHUNK, None))
    bench.answer(SlotOpened(1, 0))
    bench.audio(1)
    assert bench.sent() == []
    bench.step()
    assert bench.sent() == [m.Progress(1, CHUNK, CHUNK, None)]


def test_a_worker_registers_again_when_its_engine_has_closed_all_slots(bench: Bench) -> None:
    """Otherwise a worker whose engine hangs would get new sessions again and again."""
    bench.hold(1, 0)
    assert bench.deliver(m.Unregistered()) == [CloseSlot(1, 0)]
    assert bench.tick(2.0) == []
    bench.closed(1, 0)
    assert bench.tick(1.0) == [REGISTER]


def test_a_worker_does_not_register_again_while_a_step_runs(bench: Bench) -> None:
    """This holds even if the engine has not opened the slot yet."""
    bench.grant(1, 0)
    bench.audio(1)
    chunks = bench.begin()
    bench.deliver(m.Unregistered())
    assert bench.tick(2.0) == []
    bench.end(chunks)
    assert bench.tick(1.0) == [REGISTER]


def test_unregistered_does_not_hasten_a_repeated_registration() -> None:
    """A registration and an Unregistered may cross. Answering each immediately would flood the broker."""
    it = Bench()
    assert it.tick() == [REGISTER]
    assert it.deliver(m.Unregistered()) == []
    assert it.tick(REGISTER_S - 0.01) == []
    assert it.tick(0.01) == [REGISTER]


def test_a_draining_worker_sends_drain_to_each_broker_that_welcomes_it(bench: Bench) -> None:
    bench.hold(1, 0)
    assert bench.drain() == [Send(m.Drain())]
    assert bench.deliver(WELCOME) == [CloseSlot(1, 0), Send(m.Drain())]


def test_a_session_that_has_failed_cannot_be_transferred(bench: Bench) -> None:
    bench.hold(1, 0)
    bench.send(m.Audio(1, 5, pcm(2)))
    bench.sent()
    transfer(bench, utterance=0)
    (failed,) = bench.sent()
    assert isinstance(failed, m.Failed) and (failed.lease, failed.slug) == (2, "resume-unavailable")


# ---- Bad peers ----


def test_a_frame_under_another_sessions_lease_is_dropped(bench: Bench) -> None:
    """The broker leaves only the sender's own leases in the header of a bundle."""
    bench.hold(1, 0)
    bench.hold(2, 1)
    frames: list[m.Frame] = [m.Audio(2, 0, pcm(CHUNK)), m.Flush(2, "x"), m.Checkpoint(2), m.Stop(2)]
    assert bench.deliver(m.Bundle(b"w", (1,)), None, *frames) == []
    assert bench.sent() == [] and bench.core.foreign_frames == 4
    assert bench.deliver(m.Bundle(b"w", (2,)), None, m.Audio(2, 0, pcm(CHUNK))) == []
    assert bench.sent() == [m.Progress(2, CHUNK, 0, None)] and bench.core.foreign_frames == 4


def test_a_frame_of_an_ended_session_is_no_offense(bench: Bench) -> None:
    bench.deliver(m.Bundle(b"w", (1,)), None, m.Stop(7))
    assert bench.core.foreign_frames == 0


def test_a_session_whose_options_cannot_be_read_gives_its_slot_back(bench: Bench) -> None:
    """Otherwise its frontend could take every slot for ever: a worker answers no Release of what it never opened."""
    assert bench.deliver(m.Grant(1, 0, "s", F1), None) == [Send(m.Closed(1))]
    assert [type(frame) for frame in bench.sent()] == [m.Failed]
    bench.core.check()


def test_a_return_whose_options_cannot_be_read_ends_the_session(bench: Bench) -> None:
    bench.hold(1, 0)
    commands = bench.deliver(m.Transfer(1, 2, 0, "s", F1, 0), None)
    assert commands == [CloseSlot(1, 0), Send(m.Closed(2))]
    assert len(bench.core) == 0


# ---- Grants that cannot be served ----


@pytest.mark.parametrize("slot, setup", [(1, None), (4, SETUP), (m.SLOTS_MAX - 1, SETUP)])
def test_a_grant_that_cannot_be_served_fails_and_frees_the_slot(bench: Bench, slot: int, setup: m.Setup | None) -> None:
    assert bench.deliver(m.Grant(9, slot, "s9", F1), setup) == [Send(m.Closed(9))]
    assert [(frame.lease, type(frame)) for frame in bench.sent()] == [(9, m.Failed)]
    assert len(bench.core) == 0


def test_a_grant_for_a_taken_slot_leaves_its_session_alone(bench: Bench) -> None:
    bench.hold(1, 0)
    assert bench.grant(2, 0) == [Send(m.Closed(2))]
    bench.audio(1)
    assert [chunk.slot for chunk in bench.step()] == [0]


def test_a_repeated_grant_changes_nothing(bench: Bench) -> None:
    bench.hold(1, 0)
    assert bench.grant(1, 1) == []
