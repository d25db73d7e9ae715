"""One session on a worker: audio in order, cut into chunks; engine outputs turned into frames. Pure.

It knows neither the engine nor the broker: it is told what arrived and what a step gave, and answers with frames.
"""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from msgspec import structs

from asr_proto import messages as m
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE, Pcm16, to_int16
from asr_proto.errors import BadRequest, DecodeError, LimitExceeded, OutOfOrder
from asr_workers.engines.base import Advanced, Chunk, Drained, Hypothesis, Output, Snapshot, Voice

FINALS_KEPT = 32
"""For a client that comes back: what it may have missed. The state of the last commit alone is kept with them."""
QUEUED_SAMPLES_MAX = 180 * SAMPLE_RATE
"""A frontend keeps to its credit, far below this; beyond it the session fails."""


class Session:
    """State of one lease: what was taken, what was done, and the flushes on the way."""

    def __init__(self, grant: m.Grant, setup: m.Setup, chunk_samples: int) -> None:
        self.lease, self.slot, self.frontend = grant.lease, grant.slot, grant.frontend
        self.setup = setup
        self.taken = self.done = setup.commit.samples if setup.commit else 0
        self.commit = setup.commit
        """The last one."""
        self.finals: list[m.Final] = []
        """The last ones, without the states of their commits."""
        self._utterance = setup.commit.utterance if setup.commit else 0
        self._chunk_samples = chunk_samples
        self._queue: list[bytes] = []
        """PCM16 as it came: a chunk is joined once, when it is taken."""
        self._queued = 0
        self._marks: list[tuple[int, str | None]] = []
        self._in_step = 0
        self._draining = False
        self._stopped = False
        self.failed = False
        """Set by the owner after an error: the session takes and gives nothing more."""

    # ---- Input ----

    def receive(self, frame: m.Audio | m.Flush | m.Stop) -> list[m.FrameOut]:
        """Take one frame. Raises PeerError when it breaks the session's order or limits."""
        if self._stopped:
            raise OutOfOrder("a frame after the end of audio")
        if isinstance(frame, m.Audio):
            return self._audio(frame)
        self._stopped = isinstance(frame, m.Stop)
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

    # ---- A client that comes back ----

    def resume(self, before: Session, utterance: int) -> list[m.FrameOut]:
        """What comes first under this lease, which continues `before`. Raises BadRequest if it no longer can."""
        self.finals = [structs.replace(final, lease=self.lease) for final in before.finals]
        missed = [final for final in self.finals if final.utterance >= utterance]
        if len(missed) != max(0, self._utterance - utterance):
            raise BadRequest("too much was said since", slug="resume-unavailable")
        return [m.Resumed(self.lease, self.commit), *map(self._repeated, missed)]

    def _repeated(self, final: m.Final) -> m.Final:
        """As it was said, but that nothing without its state may take the place of the last commit."""
        if self.commit is None or final.commit.samples != self.commit.samples:
            return final
        return structs.replace(final, commit=self.commit)

    # ---- Chunks ----

    def ready(self) -> bool:
        """Whether a chunk can be taken now: a whole one, or what is left before a flush."""
        if self._draining or self._in_step or self.failed:
            return False
        return self._queued >= self._chunk_samples or bool(self._marks)

    def take(self, deadline_s: float) -> Chunk:
        """The next chunk; the session waits for `stepped` before it gives another."""
        assert self.ready()
        size = self._chunk_samples
        if self._marks and self._marks[0][0] - self.done <= size:
            size, self._draining = self._marks[0][0] - self.done, True
        self._in_step = size
        return Chunk(self.slot, self._dequeue(size), self._draining, deadline_s)

    def stepped(self) -> list[m.FrameOut]:
        """The chunk taken last has been through the model."""
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
        assert self._draining and not self._in_step
        self._draining = False
        _, marker = self._marks.pop(0)
        if marker is not None:
            return [m.Flushed(self.lease, marker)]
        return [self._progress(None), m.Ended(self.lease)]

    def checkpointed(self, snapshot: Snapshot) -> list[m.FrameOut]:
        """The engine was asked for a snapshot in the middle of an utterance: nothing more is final than was."""
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

    def check(self) -> None:
        """The invariants."""
        assert self._queued * BYTES_PER_SAMPLE == sum(len(piece) for piece in self._queue)
        assert self.done + self._in_step + self._queued == self.taken
        assert self.setup.progress_samples > 0
