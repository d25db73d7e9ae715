"""One session on a worker: it cuts the audio into chunks and turns the engine's outputs into frames. Pure.

It depends on neither engine nor broker. Its owner passes in frames and outputs, and sends the frames that the session
returns.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from typing import cast

from msgspec import structs

from asr_process.states import StateMachine, TransitionTable
from asr_proto import messages as m
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE, Pcm16, to_int16
from asr_proto.errors import BadRequest, DecodeError, LimitExceeded, OutOfOrder, PeerError
from asr_workers.engines.base import Advanced, Chunk, Drained, Hypothesis, Output, Snapshot, Voice

FINALS_KEPT = 32
"""Number of finals kept for a client that resumes and may have missed them. Only the last commit keeps its state."""
QUEUED_SAMPLES_MAX = 180 * SAMPLE_RATE
"""Largest number of queued samples. A frontend's credit is far below this. Above it the session fails."""
DETAIL_CHARS_MAX = 128
"""The wire's limit of a Failed message's `detail`."""


class WorkerSessionState(Enum):
    """The states of a session; the table WORKER_SESSION has the transitions."""

    RECEIVING = "receiving"
    """Audio may follow."""
    STOPPED = "stopped"
    """Stop arrived: the audio is complete, and the engine still works on it."""
    ENDED = "ended"
    """All text has been sent."""
    FAILED = "failed"
    """An error was sent: frames and outputs are dropped until the broker closes the lease."""


class WorkerSessionEvent(Enum):
    """The events that change the state of a session."""

    STOP = "stop"
    DRAINED = "drained"
    FAIL = "fail"


RECEIVING, STOPPED, ENDED, FAILED = WorkerSessionState
"""Globals, because each frame compares the state with these. In CPython 3.11 the lookup of an Enum's member takes
0.3 us, that of a global a tenth of this."""

WORKER_SESSION = TransitionTable(
    "worker-session",
    RECEIVING,
    {
        RECEIVING: {WorkerSessionEvent.STOP: STOPPED, WorkerSessionEvent.FAIL: FAILED},
        STOPPED: {WorkerSessionEvent.DRAINED: ENDED, WorkerSessionEvent.FAIL: FAILED},
        ENDED: {WorkerSessionEvent.FAIL: FAILED},
    },
)


class Session:
    """The session of one lease: the samples that it has taken and done, its waiting flushes, and its state."""

    def __init__(self, grant: m.Grant, setup: m.Setup, chunk_samples: int) -> None:
        self.lease, self.slot, self.frontend = grant.lease, grant.slot, grant.frontend
        self.setup = setup
        self.taken = self.done = setup.commit.samples if setup.commit else 0
        self.commit = setup.commit
        """The last commit."""
        self.finals: list[m.Final] = []
        """The last FINALS_KEPT finals, without the states of their commits."""
        self.machine = StateMachine(WORKER_SESSION)
        self._utterance = setup.commit.utterance if setup.commit else 0
        self._chunk_samples = chunk_samples
        self._queue: list[bytes] = []
        """PCM16 in the pieces in which it arrived. The pieces of a chunk are joined once, when the chunk is taken."""
        self._queued = 0
        """Number of samples in `_queue`."""
        self._marks: list[tuple[int, str | None]] = []
        """Waiting flushes: the sample at which each ends the utterance, and its marker. Stop has the marker None."""
        self._in_step = 0
        """Number of samples of the chunk in the engine."""
        self._flushing = False
        """Whether a flush is in the engine: no chunk is taken until the engine returns Drained."""

    # ---- Input ----

    def receive(self, frame: m.Audio | m.Flush | m.Stop) -> list[m.FrameOut]:
        """Take one frame. Raises PeerError when it breaks the session's order or limits."""
        if self.machine.state is not RECEIVING:
            raise OutOfOrder("a frame after the end of audio")
        if isinstance(frame, m.Audio):
            return self._audio(frame)
        if isinstance(frame, m.Stop):
            self._fire(WorkerSessionEvent.STOP)
        self._marks.append((self.taken, None if isinstance(frame, m.Stop) else frame.marker))
        return []

    def _audio(self, frame: m.Audio) -> list[m.FrameOut]:
        if frame.first_sample != self.taken:
            raise OutOfOrder(f"sample {frame.first_sample} where {self.taken} is due", slug="audio-gap")
        samples, rest = divmod(len(frame.pcm), BYTES_PER_SAMPLE)
        if rest:
            raise DecodeError("half a sample")
        if self._queued + samples > QUEUED_SAMPLES_MAX:
            raise LimitExceeded("audio beyond the credit", slug="credit-exceeded")
        if samples:
            self._queue.append(frame.pcm)
        before, self.taken = self.taken, self.taken + samples
        self._queued += samples
        return self._progress_after(before, self.taken) if self.setup.progress_taken else []

    def fail(self, error: PeerError) -> list[m.FrameOut]:
        """End the session with this error. Only the first error is sent."""
        if self.machine.state is FAILED:
            return []
        self._fire(WorkerSessionEvent.FAIL)
        return [m.Failed(self.lease, error.slug, error.detail[:DETAIL_CHARS_MAX])]

    # ---- A client that resumes ----

    def resume(self, before: Session, utterance: int) -> list[m.FrameOut]:
        """The first frames of this lease, which continues the session `before`. The client needs the finals from
        `utterance` on. Raises BadRequest when `before` has dropped some of them."""
        self.finals = [structs.replace(final, lease=self.lease) for final in before.finals]
        missed = [final for final in self.finals if final.utterance >= utterance]
        if len(missed) != max(0, self._utterance - utterance):
            raise BadRequest("some finals since then are no longer stored", slug="resume-unavailable")
        return [m.Resumed(self.lease, self.commit), *map(self._repeated, missed)]

    def _repeated(self, final: m.Final) -> m.Final:
        """A final to send again. The final of the last commit gets its state back: the frontend must not replace this
        commit by one without a state."""
        if self.commit is None or final.commit.samples != self.commit.samples:
            return final
        return structs.replace(final, commit=self.commit)

    # ---- Chunks ----

    def ready(self) -> bool:
        """Whether a chunk can be taken now: a whole one, or the rest of the audio before a flush."""
        if self._flushing or self._in_step or self.machine.state is FAILED:
            return False
        return self._queued >= self._chunk_samples or bool(self._marks)

    def take(self, deadline_s: float) -> Chunk:
        """Take the next chunk. No other chunk can be taken before `stepped`."""
        assert self.ready()
        size = self._chunk_samples
        if self._marks and self._marks[0][0] - self.done <= size:
            size, self._flushing = self._marks[0][0] - self.done, True
        self._in_step = size
        return Chunk(self.slot, self._dequeue(size), self._flushing, deadline_s)

    def stepped(self) -> list[m.FrameOut]:
        """The chunk that was taken last has left the model."""
        before, self.done = self.done, self.done + self._in_step
        self._in_step = 0
        return self._progress_after(before, self.done)

    def _dequeue(self, size: int) -> Pcm16:
        pieces: list[bytes] = []
        self._queued -= size
        wanted = size * BYTES_PER_SAMPLE
        while wanted:
            piece = self._queue.pop(0)
            if len(piece) > wanted:
                self._queue.insert(0, piece[wanted:])
                piece = piece[:wanted]
            pieces.append(piece)
            wanted -= len(piece)
        return to_int16(b"".join(pieces))

    # ---- Suspicion ----

    def is_suspect(self) -> bool:
        """Whether the next chunk has audio that may have killed another worker."""
        suspicion = self.setup.suspicion
        return suspicion is not None and self.done + self._chunk_samples > suspicion.from_sample

    def is_cleared(self) -> bool:
        """Whether this worker has survived all audio that the other worker had."""
        suspicion = self.setup.suspicion
        return suspicion is None or self.done > suspicion.until_sample

    # ---- Output ----

    def output(self, output: Output) -> list[m.FrameOut]:
        """Frames for one output of the engine."""
        if isinstance(output, Drained):
            return self._drained()
        if isinstance(output, Advanced):
            return [self._progress(self._commit(output.snapshot))]
        if isinstance(output, Voice):
            return [m.Speech(self.lease, "start" if output.speaking else "end", output.sample)]
        if output.endpoint is None:
            return [self._partial(output)] if self.setup.partials else []
        return [self._final(output)]

    def _partial(self, output: Hypothesis) -> m.Partial:
        span = (output.start_sample, output.end_sample)
        return m.Partial(self.lease, self._utterance, output.text, *span, output.stable)

    def _final(self, output: Hypothesis) -> m.Final:
        utterance, self._utterance = self._utterance, self._utterance + 1
        final = m.Final(
            self.lease,
            utterance,
            output.text,
            output.start_sample,
            output.end_sample,
            cast(m.EndpointKind, output.endpoint),
            output.confidence,
            output.words,
            self._commit(cast(Snapshot, output.snapshot)),
        )
        kept = structs.replace(final, commit=structs.replace(final.commit, state=b""))
        self.finals = [*self.finals[1 - FINALS_KEPT :], kept]
        return final

    def _drained(self) -> list[m.FrameOut]:
        assert self._flushing and not self._in_step
        self._flushing = False
        _, marker = self._marks.pop(0)
        if marker is not None:
            return [m.Flushed(self.lease, marker)]
        self._fire(WorkerSessionEvent.DRAINED)
        return [self._progress(None), m.Ended(self.lease)]

    def snapshot_taken(self, snapshot: Snapshot) -> list[m.FrameOut]:
        """A commit from a snapshot in the middle of an utterance: it confirms no more samples than the last commit."""
        return [self._progress(self._commit(replace(snapshot, unsaid_sample=self._confirmed_samples())))]

    def _confirmed_samples(self) -> int:
        return self.commit.confirmed_samples if self.commit else 0

    def _commit(self, snapshot: Snapshot) -> m.Commit:
        confirmed, unsaid = None, snapshot.unsaid_sample
        if unsaid is not None and unsaid < snapshot.sample:
            confirmed = max(unsaid, self._confirmed_samples())
        self.commit = m.Commit(snapshot.sample, self._utterance, snapshot.state, confirmed)
        return self.commit

    def _progress(self, commit: m.Commit | None) -> m.Progress:
        return m.Progress(self.lease, self.taken, self.done, commit)

    def _progress_after(self, before: int, after: int) -> list[m.FrameOut]:
        every = self.setup.progress_samples
        return [self._progress(None)] if before // every != after // every else []

    def _fire(self, event: WorkerSessionEvent) -> None:
        """Change the state. A session has no clock: the times in its story are seconds of received audio."""
        self.machine.fire(event, self.taken / SAMPLE_RATE)

    def check(self) -> None:
        """The invariants."""
        assert self.machine.state is not ENDED or not (self._marks or self._queue or self._in_step)
        assert self._queued * BYTES_PER_SAMPLE == sum(len(piece) for piece in self._queue)
        assert self.done + self._in_step + self._queued == self.taken
        assert self.setup.progress_samples > 0
