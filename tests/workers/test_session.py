"""One lease on a worker: audio in, chunks out; outputs in, frames out."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr_process.states import ForbiddenTransition
from asr_proto import messages as m
from asr_proto.audio import Pcm16, to_int16
from asr_proto.errors import DecodeError, LimitExceeded, OutOfOrder
from asr_workers.engines.base import Advanced, Chunk, Drained, Hypothesis, Snapshot, Voice
from asr_workers.session import ENDED, FAILED, QUEUED_SAMPLES_MAX, RECEIVING, STOPPED, Session

LEASE, SLOT, CHUNK = 9, 4, 100
GRANT = m.Grant(LEASE, SLOT, "s1", b"F")


def session(*, partials: bool = True, progress: int = 250, commit: m.Commit | None = None) -> Session:
    return Session(GRANT, m.Setup("en", partials, progress, commit, progress_taken=True), CHUNK)


def samples(count: int) -> bytes:
    """Samples that all differ, so that a lost or repeated one is found."""
    return (np.arange(count) % 30_000 + 1).astype("<i2").tobytes()


def audio(first: int, pcm: bytes) -> m.Audio:
    return m.Audio(LEASE, first, pcm)


def drain(it: Session) -> tuple[list[Chunk], list[m.FrameOut]]:
    """Take, step and answer flushes until nothing is ready."""
    chunks: list[Chunk] = []
    frames: list[m.FrameOut] = []
    while it.ready():
        chunk = it.take(0.0)
        chunks.append(chunk)
        it.check()
        frames += it.stepped()
        if chunk.flush:
            frames += it.output(Drained(SLOT))
        it.check()
    return chunks, frames


def joined(chunks: Sequence[Chunk]) -> Pcm16:
    return np.concatenate([np.empty(0, np.int16), *[chunk.pcm for chunk in chunks]])


# ---- Chunks ----


def test_a_chunk_is_whole() -> None:
    it = session()
    it.receive(audio(0, samples(99)))
    assert not it.ready()
    it.receive(audio(99, samples(2)))
    assert it.ready()
    chunk = it.take(1.5)
    assert (chunk.slot, len(chunk.pcm), chunk.flush, chunk.deadline_s) == (SLOT, CHUNK, False, 1.5)
    assert not it.ready()
    it.stepped()
    assert not it.ready()
    assert (it.taken, it.done) == (101, 100)


def test_one_chunk_at_a_time() -> None:
    it = session()
    it.receive(audio(0, samples(1000)))
    it.take(0.0)
    assert not it.ready()
    it.stepped()
    assert it.ready()


Cuts = list[tuple[int, bool]]
"""Lengths of frames, and whether a chunk is taken after each."""


@settings(max_examples=200)
@given(cuts=st.lists(st.tuples(st.integers(0, 350), st.booleans()), max_size=20))
def test_any_cut_gives_the_same_chunks(cuts: Cuts) -> None:
    total = sum(length for length, _ in cuts)
    data = samples(total)
    it = session()
    chunks: list[Chunk] = []
    at = 0
    for length, eager in cuts:
        it.receive(audio(at, data[2 * at : 2 * (at + length)]))
        at += length
        it.check()
        if eager:
            chunks += drain(it)[0]
    it.receive(m.Stop(LEASE))
    chunks += drain(it)[0]
    assert [len(chunk.pcm) for chunk in chunks[:-1]] == [CHUNK] * (len(chunks) - 1)
    assert [chunk.flush for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
    assert 0 <= len(chunks[-1].pcm) <= CHUNK
    assert joined(chunks).tobytes() == data
    assert all(chunk.pcm.dtype == np.int16 for chunk in chunks)
    assert it.taken == it.done == total


# The frames of a client: a number of samples, or a flush.
Script = list[int | None]


def play(script: Script, *, eager: bool) -> tuple[list[Chunk], list[m.FrameOut]]:
    it = session(progress=10**9)
    chunks: list[Chunk] = []
    frames: list[m.FrameOut] = []
    data = samples(sum(entry or 0 for entry in script))
    at = flushes = 0
    for entry in [*script, -1]:
        if entry is None:
            frames += it.receive(m.Flush(LEASE, str(flushes)))
            flushes += 1
        elif entry < 0:
            frames += it.receive(m.Stop(LEASE))
        else:
            frames += it.receive(audio(at, data[2 * at : 2 * (at + entry)]))
            at += entry
        if eager:
            more = drain(it)
            chunks, frames = chunks + more[0], frames + more[1]
    more = drain(it)
    return chunks + more[0], frames + more[1]


def cut_points(chunks: Sequence[Chunk]) -> list[int]:
    """The samples at which the model is flushed."""
    ends = np.cumsum([len(chunk.pcm) for chunk in chunks])
    return [int(end) for chunk, end in zip(chunks, ends, strict=True) if chunk.flush]


@settings(max_examples=200)
@given(script=st.lists(st.one_of(st.none(), st.integers(0, 350)), max_size=14), eager=st.booleans())
def test_flushes_at_any_place(script: Script, eager: bool) -> None:
    """Each flush ends an utterance exactly at its sample and is answered in order; Ended comes last."""
    chunks, frames = play(script, eager=eager)
    total = sum(entry or 0 for entry in script)
    places = [sum(entry or 0 for entry in script[:index]) for index, entry in enumerate(script) if entry is None]
    assert cut_points(chunks) == [*places, total]
    assert joined(chunks).tobytes() == samples(total)
    assert all(len(chunk.pcm) == CHUNK for chunk in chunks if not chunk.flush)
    assert all(len(chunk.pcm) <= CHUNK for chunk in chunks)
    flushed = [frame for frame in frames if isinstance(frame, m.Flushed)]
    assert flushed == [m.Flushed(LEASE, str(index)) for index in range(len(places))]
    assert frames[-2:] == [m.Progress(LEASE, total, total, None), m.Ended(LEASE)]


def test_nothing_is_taken_between_a_flush_and_its_answer() -> None:
    it = session()
    it.receive(audio(0, samples(250)))
    it.receive(m.Flush(LEASE, "x"))
    it.receive(audio(250, samples(500)))
    for expected in (CHUNK, CHUNK, 50):
        chunk = it.take(0.0)
        assert len(chunk.pcm) == expected
        it.stepped()
    assert chunk.flush
    assert not it.ready()
    assert it.output(Drained(SLOT)) == [m.Flushed(LEASE, "x")]
    assert it.ready()
    assert not it.take(0.0).flush


def test_a_flush_of_a_whole_chunk_goes_with_it() -> None:
    it = session()
    it.receive(audio(0, samples(CHUNK)))
    it.receive(m.Flush(LEASE, "x"))
    chunk = it.take(0.0)
    assert (len(chunk.pcm), chunk.flush) == (CHUNK, True)


def test_a_flush_without_audio_is_an_empty_chunk() -> None:
    it = session()
    it.receive(m.Flush(LEASE, ""))
    chunk = it.take(0.0)
    assert (len(chunk.pcm), chunk.flush) == (0, True)
    assert chunk.pcm.dtype == np.int16
    assert it.stepped() == []
    assert it.output(Drained(SLOT)) == [m.Flushed(LEASE, "")]


# ---- Refusals ----


@pytest.mark.parametrize("first", [0, 99, 101, 2**40])
def test_a_gap_in_the_audio(first: int) -> None:
    it = session()
    it.receive(audio(0, samples(100)))
    with pytest.raises(OutOfOrder) as caught:
        it.receive(audio(first, samples(10)))
    assert caught.value.slug == "audio-gap"
    it.check()
    assert it.taken == 100


def test_half_a_sample() -> None:
    it = session()
    with pytest.raises(DecodeError):
        it.receive(audio(0, b"\0\0\0"))
    it.check()
    assert it.taken == 0


def test_audio_beyond_the_credit() -> None:
    it = session()
    second = bytes(32_000)
    for at in range(0, QUEUED_SAMPLES_MAX, 16_000):
        it.receive(audio(at, second))
    with pytest.raises(LimitExceeded) as caught:
        it.receive(audio(QUEUED_SAMPLES_MAX, b"\0\0"))
    assert caught.value.slug == "credit-exceeded"
    it.take(0.0)
    it.receive(audio(QUEUED_SAMPLES_MAX, b"\0\0"))
    it.check()


@pytest.mark.parametrize("frame", [audio(0, b""), audio(0, b"\0\0"), m.Flush(LEASE, "x"), m.Stop(LEASE)], ids=repr)
def test_nothing_after_stop(frame: m.FrameIn) -> None:
    it = session()
    it.receive(m.Stop(LEASE))
    with pytest.raises(OutOfOrder) as caught:
        it.receive(frame)
    assert caught.value.slug == "out-of-order"


def test_a_failed_session_gives_no_chunk() -> None:
    it = session()
    it.receive(audio(0, samples(1000)))
    assert it.fail(DecodeError("half a sample")) == [m.Failed(LEASE, "bad-message", "half a sample")]
    assert not it.ready()
    assert it.fail(DecodeError("again")) == []


# ---- States ----


def test_the_states_of_a_session() -> None:
    it = session()
    states = [it.machine.state]
    it.receive(audio(0, samples(32)))
    it.receive(m.Flush(LEASE, "x"))
    it.receive(m.Stop(LEASE))
    for _ in range(2):
        states.append(it.machine.state)
        it.take(0.0)
        it.stepped()
        it.output(Drained(SLOT))
    states.append(it.machine.state)
    it.fail(OutOfOrder("a frame after the end of audio"))
    states.append(it.machine.state)
    assert states == [RECEIVING, STOPPED, STOPPED, ENDED, FAILED]
    assert it.machine.story() == "before: 0.002 receiving stop, 0.002 stopped drained, 0.002 ended fail"


def test_a_failed_session_has_no_end() -> None:
    it = session()
    it.receive(m.Stop(LEASE))
    it.take(0.0)
    it.stepped()
    it.fail(DecodeError("half a sample"))
    with pytest.raises(ForbiddenTransition, match=r"worker-session: drained is not allowed in state failed; .*stop"):
        it.output(Drained(SLOT))


# ---- Progress ----


@pytest.mark.parametrize("every", [1, 60, 100, 250, 960])
@pytest.mark.parametrize("length", [1, 7, 100, 333, 2000])
def test_progress_is_sent_after_every_so_many_samples(every: int, length: int) -> None:
    it = session(progress=every)
    for at in range(0, 2000, length):
        frames = it.receive(audio(at, samples(length)))
        crossed = (at + length) // every != at // every
        assert frames == ([m.Progress(LEASE, at + length, 0, None)] if crossed else [])
    while it.ready():
        before = it.done
        it.take(0.0)
        frames = it.stepped()
        crossed = it.done // every != before // every
        assert frames == ([m.Progress(LEASE, it.taken, it.done, None)] if crossed else [])


def test_the_last_progress_comes_before_the_end() -> None:
    """A dialect that answers by progress has received all of it before the end."""
    it = session(progress=10**6)
    it.receive(audio(0, samples(130)))
    it.receive(m.Stop(LEASE))
    assert drain(it)[1] == [m.Progress(LEASE, 130, 130, None), m.Ended(LEASE)]


# ---- Output ----


def test_texts_are_numbered_by_utterance() -> None:
    it = session()
    partial = Hypothesis(SLOT, "on", 0, 50, stable=1)
    final = Hypothesis(SLOT, "one", 0, 80, "silence", Snapshot(90, b"st"), 0.5, (m.Word("one", 0, 80, None),))
    assert it.output(partial) == [m.Partial(LEASE, 0, "on", 0, 50, stable=1)]
    assert it.output(final) == [
        m.Final(LEASE, 0, "one", 0, 80, "silence", 0.5, (m.Word("one", 0, 80, None),), m.Commit(90, 1, b"st"))
    ]
    assert it.output(partial) == [m.Partial(LEASE, 1, "on", 0, 50, stable=1)]
    (second,) = it.output(final)
    assert isinstance(second, m.Final)
    assert (second.utterance, second.commit.utterance) == (1, 2)


def test_partials_are_sent_only_with_the_option() -> None:
    it = session(partials=False)
    assert it.output(Hypothesis(SLOT, "on", 0, 50, stable=1)) == []
    assert len(it.output(Hypothesis(SLOT, "one", 0, 80, "flush", Snapshot(80, b"")))) == 1


def test_where_speech_begins_and_ends() -> None:
    it = session(partials=False)
    assert it.output(Voice(SLOT, True, 30)) == [m.Speech(LEASE, "start", 30)]
    assert it.output(Voice(SLOT, False, 70)) == [m.Speech(LEASE, "end", 70)]


def test_words_in_a_state_are_not_confirmed() -> None:
    """A final that cuts a long utterance: the state of its commit has the next words, which are in no final yet."""
    it = session()
    final = Hypothesis(SLOT, "one", 0, 60, "length", Snapshot(100, b"two", unsaid_sample=60))
    (sent,) = it.output(final)
    assert isinstance(sent, m.Final) and sent.commit == m.Commit(100, 1, b"two", confirmed=60)
    (progress,) = it.snapshot_taken(Snapshot(140, b"two three"))
    assert isinstance(progress, m.Progress) and progress.commit == m.Commit(140, 1, b"two three", confirmed=60)
    (later,) = it.output(Hypothesis(SLOT, "two three", 60, 150, "silence", Snapshot(180, b"")))
    assert isinstance(later, m.Final) and later.commit.confirmed_samples == 180


def test_a_commit_without_text() -> None:
    it = session()
    it.receive(audio(0, samples(120)))
    drain(it)
    commit = m.Commit(100, 0, b"quiet")
    assert it.output(Advanced(SLOT, Snapshot(100, b"quiet"))) == [m.Progress(LEASE, 120, 100, commit)]
    it.output(Hypothesis(SLOT, "one", 0, 80, "length", Snapshot(100, b"")))
    (progress,) = it.output(Advanced(SLOT, Snapshot(100, b"")))
    assert isinstance(progress, m.Progress)
    assert progress.commit == m.Commit(100, 1, b"")


def test_a_moved_session_goes_on_where_it_was() -> None:
    it = session(commit=m.Commit(5000, 7, b"state"))
    assert (it.taken, it.done) == (5000, 5000)
    it.check()
    with pytest.raises(OutOfOrder):
        it.receive(audio(0, samples(10)))
    it.receive(audio(5000, samples(100)))
    assert np.array_equal(it.take(0.0).pcm, to_int16(samples(100)))
    it.stepped()
    assert it.done == 5100
    (final,) = it.output(Hypothesis(SLOT, "x", 5000, 5100, "silence", Snapshot(5100, b"")))
    assert isinstance(final, m.Final)
    assert (final.utterance, final.commit) == (7, m.Commit(5100, 8, b""))
