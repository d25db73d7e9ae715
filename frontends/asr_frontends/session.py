"""One client conversation: from its start to its one end, across moves to other workers. Pure.

    OPENING ──Pinned──> ACTIVE ──Ended──> ENDED
       ^                  │
       │   (epoch + 1)    │ Lost, Stale
       └───── MOVING <────┘        any state ──error, Abort──> ENDED

Everything the client says goes into the journal; what the credit allows is posted from there to the worker. A new
worker gets the journal again from the last commit. A commit travels inside the final it confirms, so that no final is
delivered twice and none is lost.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from msgspec import structs

from asr_audio.entries import Entry, Mark
from asr_frontends import events as e
from asr_frontends.journal import Budget, Journal
from asr_proto import messages as m
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE
from asr_proto.errors import AsrError, LimitExceeded, OutOfOrder

PIECE_BYTES_MAX = 524_288
"""Largest audio frame to a worker, well below the wire's limit."""
CHECKPOINT_SHARE = 0.5
"""Of the journal's limit: when the worker is asked for a commit."""
CHECKPOINT_S = 1.0
"""How often it is asked again."""
MARKS_MAX = 256
"""Flushes of one session that may be unanswered; a client that asks for more is not read from."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one session may take. Seconds, of wall time or (credit, journal, audio) of audio."""

    idle_s: float = 30.0
    """Longest silence of a client whose audio is wanted."""
    credit_s: float = 10.0
    """Audio that may be ahead of the model."""
    journal_s: float = 120.0
    """Unconfirmed audio; beyond it the client is not read from."""
    open_s: float = 10.0
    """Longest wait for the broker's answer."""
    move_s: float = 30.0
    """Longest wait for another worker after a loss."""
    retry_s: float = 0.25
    """How often a move is tried again."""
    progress_s: float = 0.8
    """A client that has not heard of progress for this long hears of it."""
    audio_s: float = 4 * 3600.0
    """Longest session."""
    messages_per_s: int = 0
    """Messages a client may send in any second; 0 for no limit but its credit."""


# ---- Commands ----


@dataclass(frozen=True, slots=True)
class ToBroker:
    message: m.FromFrontend
    setup: m.Setup | None = None


@dataclass(frozen=True, slots=True)
class Deliver:
    """An event for the codec of this session's client. After Error or Bye the session is over."""

    session: str
    event: e.ServiceEvent


@dataclass(frozen=True, slots=True)
class Credit:
    """The client may send again."""

    session: str


Command = ToBroker | Deliver | Credit


class State(Enum):
    OPENING = "opening"
    ACTIVE = "active"
    MOVING = "moving"
    ENDED = "ended"


class Session:
    """`id` is unique and random. `now` is one monotonic clock in seconds throughout."""

    def __init__(self, id: str, start: e.Start, limits: Limits, budget: Budget, now: float) -> None:
        self.id, self._start, self._limits = id, start, limits
        self.state = State.OPENING
        self.epoch = 0
        self.pinned: m.Pinned | None = None
        self._resuming = start.resume
        """Until the worker has said from where its audio is needed."""
        self.posts: list[m.FrameIn] = []
        """Frames for the pinned worker. Whoever calls takes them away: a command for each would cost more than it."""
        self._journal = Journal(budget)
        self._budget = budget
        self._commit: m.Commit | None = None
        self._partial: m.Partial | None = None
        """What the client sees of an utterance that is not final."""
        self._taken = self._done = 0
        self._stopping = self._leaving = False
        self._withheld = False
        self._credit_samples = int(limits.credit_s * SAMPLE_RATE)
        self._journal_bytes_max = limits.journal_s * SAMPLE_RATE * BYTES_PER_SAMPLE
        self._checkpoint_at = now
        self._heard_at = now
        self._give_up_at = now + limits.open_s
        self._retry_at = float("inf")
        self._progress_at = now + limits.progress_s
        rates = [rate for rate in (limits.messages_per_s, start.messages_per_s_max) if rate]
        self._messages_max = 0 if start.whole else min(rates, default=0)
        """In any second; 0 for no limit."""
        self._window_at = now
        self._window_messages = 0

    # ---- The client ----

    def open(self) -> list[Command]:
        """Ask for a slot; again after each loss."""
        if self._resuming is not None:
            return [ToBroker(m.Resume(self.id, self._resuming.utterance), self._setup())]
        model = self.pinned.spec.model if self.pinned else self._start.model
        opening = m.Open(self.id, self.epoch, model, self._start.language, self._start.resumable)
        return [ToBroker(opening, self._setup())]

    def _setup(self) -> m.Setup:
        # Credit returns with progress: it must be heard of well before the credit is used up.
        progress_samples = min(self._start.progress_samples, int(self._limits.credit_s * SAMPLE_RATE / 2))
        start = self._start
        return m.Setup(
            start.language,
            start.partials,
            progress_samples,
            self._commit,
            start.progress_taken,
            start.look_ahead_ms,
            start.appends,
        )

    def client(self, event: e.ClientEvent, now: float) -> list[Command]:
        """What the client does after its start. Raises PeerError; the caller ends the session with it."""
        self._heard_at = now
        if self.state is State.ENDED:
            return []
        if isinstance(event, e.Abort):
            return self._end(now)
        if isinstance(event, e.Detach):
            return self._detach(now)
        if not self._leaving:  # else the end of audio was said for it: what it still says is no error of its own
            self._hear(event, now)
            self._pump()
        return []

    def _hear(self, event: e.ClientEvent, now: float) -> None:
        if self._resuming is not None and not isinstance(event, e.KeepAlive):
            raise OutOfOrder("nothing can be said before it is known from where")
        if self._messages_max:
            self._count_message(now)
        match event:
            case e.Audio():
                self._audio(event.pcm)
                self._ask_for_checkpoint(now)
            case e.Start():
                raise OutOfOrder("a second start")
            case e.Flush():
                self._mark(event.marker)
            case e.Stop():
                self._mark(None)

    def _audio(self, pcm: bytes) -> None:
        if self._stopping:
            raise OutOfOrder("audio after the end of audio")
        if self._journal.end_sample + len(pcm) // BYTES_PER_SAMPLE > self._limits.audio_s * SAMPLE_RATE:
            raise LimitExceeded(f"a session is at most {self._limits.audio_s:g} s long", slug="session-too-long")
        for start in range(0, len(pcm), PIECE_BYTES_MAX):
            self._journal.append(pcm[start : start + PIECE_BYTES_MAX])

    def _ask_for_checkpoint(self, now: float) -> None:
        """After long without a commit: at the journal's limit the client must wait for one."""
        if self._journal.bytes_held <= CHECKPOINT_SHARE * self._journal_bytes_max:
            return
        if self.state is State.ACTIVE and now >= self._checkpoint_at:
            assert self.pinned is not None
            self._checkpoint_at = now + CHECKPOINT_S
            self.posts.append(m.Checkpoint(self.pinned.lease))

    def _mark(self, marker: str | None) -> None:
        if self._stopping:
            raise OutOfOrder("a message after the end of audio")
        self._stopping = marker is None
        self._journal.mark(marker)

    def _count_message(self, now: float) -> None:
        if now - self._window_at >= 1.0:
            self._window_at, self._window_messages = now, 0
        self._window_messages += 1
        if self._window_messages > self._messages_max:
            raise LimitExceeded(f"more than {self._messages_max} messages in a second", slug="rate-limited")

    def wanted(self) -> bool:
        """Whether the client may send. While it may not, a Credit follows when it may again."""
        self._withheld = not self._has_credit()
        return not self._withheld

    def _has_credit(self) -> bool:
        if self.state is State.ENDED:
            return True
        journal = self._journal
        if journal.marks_held >= MARKS_MAX:
            return False
        if self._budget.exhausted or journal.bytes_held >= self._journal_bytes_max:
            return False
        return self.state is State.MOVING or journal.end_sample - self._done < self._credit_samples

    # ---- The broker ----

    def on_pinned(self, pinned: m.Pinned, now: float) -> list[Command]:
        """A slot was granted: post what the journal holds from the last commit on."""
        if pinned.resumed != (self._resuming is not None):
            return []  # the answer to what was asked before the client came back
        if pinned.resumed:
            self.epoch = pinned.epoch
        if pinned.epoch != self.epoch or self.state not in (State.OPENING, State.MOVING):
            return []
        first = self.pinned is None and self._resuming is None
        self.pinned, self.state = pinned, State.ACTIVE
        if first:
            self._give_up_at = float("inf")
        self._heard_at = max(self._heard_at, now)
        self._taken = self._done = self._commit.samples if self._commit else 0
        self._journal.rewind()
        ready: list[Command] = []
        if first:
            spec = pinned.spec
            ready = [Deliver(self.id, e.Ready(self.id, spec.engine, spec.model, spec.chunk_samples))]
        self._pump()
        return [*ready, *self._credit(now)]

    def on_refused(self, refused: m.Refused, now: float) -> list[Command]:
        """No slot: the end for a new session, another try later for a moving one."""
        if refused.epoch != self.epoch or self.state not in (State.OPENING, State.MOVING):
            return []
        if refused.slug == m.RESUMED:
            return self._fail(e.Error("session-lost", refused.detail), now)
        if self.state is State.OPENING:
            return self._fail(e.Error(refused.slug, refused.detail, refused.retry_after_s), now)
        self._retry_at = now + self._limits.retry_s
        return []

    def on_lost(self, now: float) -> list[Command]:
        """The lease is over without our doing: move to another worker."""
        if self.state is not State.ACTIVE:
            return []
        if self._resuming is not None:
            return self._fail(e.Error("resume-unavailable", "the worker that had the session is lost"), now)
        self.state = State.MOVING
        self.epoch += 1
        self._give_up_at = min(self._give_up_at, now + self._limits.move_s)
        self._retry_at = float("inf")
        return [Deliver(self.id, e.Notice()), *self.open()]

    # ---- The worker ----

    def on_frame(self, frame: m.FrameOut, now: float) -> list[Command]:
        """What the worker says under the current lease."""
        if self.state is not State.ACTIVE:
            return []
        match frame:
            case m.Progress():
                return self._on_progress(frame, now)
            case m.Final():
                return self._on_final(frame, now)
            case m.Partial() | m.Speech():
                if isinstance(frame, m.Partial):
                    self._partial = frame if frame.text else None
                return [Deliver(self.id, frame)]
            case m.Flushed():
                self._journal.answered(frame.marker)
                return [Deliver(self.id, frame), *self._credit(now)]
            case m.Resumed():
                return self._on_resumed(frame)
            case m.Ended():
                return [*self._end(now), Deliver(self.id, e.Bye())]
            case m.Failed():
                return self._fail(e.Error(frame.slug, frame.detail), now)

    def _on_resumed(self, frame: m.Resumed) -> list[Command]:
        """Only now does the client know what to send; it has sent nothing yet."""
        if self._resuming is None:
            return []
        assert self.pinned is not None
        self._resuming, self._commit = None, frame.commit
        self._give_up_at = float("inf")
        sample = frame.commit.samples if frame.commit else 0
        self._taken = self._done = sample
        self._journal.begin(sample)
        spec = self.pinned.spec
        return [Deliver(self.id, e.Ready(self.id, spec.engine, spec.model, spec.chunk_samples, sample))]

    def _on_progress(self, frame: m.Progress, now: float) -> list[Command]:
        self._taken, self._done = max(self._taken, frame.taken), max(self._done, frame.done)
        self._give_up_at = float("inf")  # it moved to a worker that works
        if frame.commit:
            self._commit_at(frame.commit)
        self._pump()
        return [*self._take_back(), self._deliver_progress(now), *self._credit(now)]

    def _take_back(self) -> list[Command]:
        """An empty partial, where the client sees one of audio that is over and became no final.

        An engine takes back what it said; after a move, this was said by another.
        """
        partial, confirmed = self._partial, self._confirmed_samples()
        if partial is None or confirmed < partial.end_sample:
            return []
        self._partial = None
        return [Deliver(self.id, structs.replace(partial, text="", stable=None))]

    def _on_final(self, final: m.Final, now: float) -> list[Command]:
        """The commit inside makes it exactly once: a move replays only what comes after."""
        self._commit_at(final.commit)
        self._partial = None
        return [Deliver(self.id, final), *self._credit(now)]

    def _commit_at(self, commit: m.Commit) -> None:
        if self._commit is not None and commit.samples < self._commit.samples:
            return  # of a final that is repeated to a client that has come back
        self._commit = commit
        self._journal.trim(commit.samples)

    def _deliver_progress(self, now: float) -> Deliver:
        self._progress_at = now + self._limits.progress_s
        progress = e.Progress(self._journal.end_sample, self._taken, self._done, self._confirmed_samples())
        return Deliver(self.id, progress)

    def _confirmed_samples(self) -> int:
        return self._commit.confirmed_samples if self._commit else 0

    # ---- Time ----

    def tick(self, now: float) -> list[Command]:
        """What time alone makes due."""
        if self.state is State.ENDED:
            return []
        if now >= self._idle_at():
            detail = f"nothing was sent for {self._limits.idle_s:g} s"
            return self._fail(e.Error("idle-timeout", detail), now)
        if self._is_waiting():
            return self._tick_waiting(now)
        if now >= self._progress_at:
            self._ask_for_checkpoint(now)
            return [self._deliver_progress(now), *self._credit(now)]
        return []

    def _tick_waiting(self, now: float) -> list[Command]:
        if now >= self._give_up_at:
            slug = "no-broker" if self.state is State.OPENING else "session-lost"
            if self._resuming is not None:
                slug = "resume-unavailable"
            return self._fail(e.Error(slug, "no worker took the session in time", 2.0), now)
        if now >= self._retry_at:
            self._retry_at = float("inf")
            return self.open()
        return []

    def next_deadline(self) -> float:
        """When `tick` has something to do; infinity for an ended session."""
        if self.state is State.ENDED:
            return float("inf")
        waiting = min(self._give_up_at, self._retry_at)
        return min(self._idle_at(), waiting if self._is_waiting() else self._progress_at)

    def _is_waiting(self) -> bool:
        """For a slot, or for what the worker has kept."""
        return self.state is not State.ACTIVE or self._resuming is not None

    def _idle_at(self) -> float:
        """A client whose audio is withheld, or that has said all, owes nothing."""
        return float("inf") if self._withheld or self._stopping else self._heard_at + self._limits.idle_s

    # ---- Ends ----

    def fail(self, error: AsrError, now: float) -> list[Command]:
        """End the session with an error that its client or this process made."""
        return self._fail(e.Error.of(error), now) if self.state is not State.ENDED else []

    def _detach(self, now: float) -> list[Command]:
        """Leave the lease to whoever resumes it. What was not posted yet, the client still has."""
        if not self._start.resumable or self.state is not State.ACTIVE:
            return self._end(now)
        assert self.pinned is not None
        self.state = State.ENDED
        self._journal.clear()
        return [ToBroker(m.Detach(self.pinned.lease))]

    def leave(self, now: float) -> list[Command]:
        """This frontend stops: a client that can goes on elsewhere, another hears the rest of what it has said."""
        if self.state is State.ACTIVE and self._start.resumable:
            return [*self._detach(now), Deliver(self.id, e.Bye(e.GOING_AWAY))]
        if self.state is not State.ENDED and not self._stopping:
            self._mark(None)
            self._leaving = True
            self._pump()
        return []

    def _fail(self, error: e.Error, now: float) -> list[Command]:
        return [*self._end(now), Deliver(self.id, error)]

    def _end(self, now: float) -> list[Command]:
        held = self.pinned if self.state is State.ACTIVE else None
        self.state = State.ENDED
        self._journal.clear()
        closing: list[Command] = [ToBroker(m.Close(held.lease))] if held else []
        return [*closing, *self._credit(now)]

    # ---- Credit ----

    def _pump(self) -> None:
        """Post what the credit allows."""
        if self.state is not State.ACTIVE:
            return
        limit = self._done + self._credit_samples
        while (entry := self._journal.next(limit)) is not None:
            self.posts.append(self._frame(entry))

    def _frame(self, entry: Entry) -> m.FrameIn:
        assert self.pinned is not None
        lease = self.pinned.lease
        if isinstance(entry, Mark):
            return m.Stop(lease) if entry.marker is None else m.Flush(lease, entry.marker)
        base = self._commit.samples if self._commit else 0
        piece = entry if entry.first_sample >= base else entry.since(base)
        return m.Audio(lease, piece.first_sample, piece.pcm)

    def _credit(self, now: float) -> list[Command]:
        if self._withheld and self._has_credit():
            self._withheld = False
            self._heard_at = now  # it could not speak before: its silence begins here
            return [Credit(self.id)]
        return []

    def check(self) -> None:
        """The invariants."""
        self._journal.check()
        assert (self.pinned is not None) or self.state in (State.OPENING, State.ENDED)
        if self.state is State.ENDED:
            assert self._journal.bytes_held == 0
