"""One client conversation: from its start to its one end, across moves to other workers. Pure.

All that the client sends goes into the journal; what the credit allows is posted from there to the worker. A new worker
receives the journal again from the last commit. A commit travels inside the final that it confirms, so that no final is
delivered twice and none is lost. The states and their transitions are in the table `SESSION`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from msgspec import structs

from asr_audio.entries import Entry, Mark
from asr_frontends import events as e
from asr_frontends.journal import Budget, Journal
from asr_frontends.outbox import Credit, Deliver, Outbox, Pause
from asr_process.states import StateMachine, TransitionTable
from asr_proto import messages as m
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE
from asr_proto.errors import AsrError, LimitExceeded, OutOfOrder

PIECE_BYTES_MAX = 524_288
"""Largest audio frame to a worker, well below the wire's limit."""
COMMIT_SHARE = 0.5
"""Of the journal's limit: above this share the worker is asked for a commit."""
COMMIT_S = 1.0
"""How often it is asked again."""
MARKS_MAX = 256
"""Flushes of one session that may be unanswered; a client that asks for more is not read from."""
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one session may take. Seconds, of wall time or (credit, journal, audio) of audio."""

    idle_s: float = 30.0
    """Longest silence of a client that may send."""
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
    """Longest time without a Progress event for the client."""
    audio_s: float = 4 * 3600.0
    """Longest session."""
    messages_per_s: int = 0
    """Messages a client may send in any second; 0 for no limit but its credit."""


# ---- States ----


class State(Enum):
    OPENING = "opening"
    """A slot is asked for."""
    RESUMING = "resuming"
    """The broker is asked for the worker that has kept the session of a client that returns."""
    RESTORING = "restoring"
    """The session has its lease; from which sample its client must send is not known yet."""
    ACTIVE = "active"
    """A worker has the session."""
    MOVING = "moving"
    """The lease is lost; another worker is asked for."""
    ENDED = "ended"
    """The client has received its last event, or is gone."""


class Cause(Enum):
    """Why a session changes its state."""

    RESUME = "resume"
    """The client returns to a session."""
    PINNED = "pinned"
    """The broker has granted a slot."""
    RESUMED = "resumed"
    """The worker has returned what it kept."""
    LOST = "lost"
    """The lease ended without a message of this session."""
    FINISH = "finish"
    """The worker has processed all audio."""
    FAIL = "fail"
    """An error, of whomever."""
    DETACH = "detach"
    """The client's connection broke, or this frontend stops: the lease stays for the client's return."""
    ABORT = "abort"
    """The client is gone for good."""


GIVEN_UP = {Cause.FAIL: State.ENDED, Cause.ABORT: State.ENDED}
GIVEN_BACK = {**GIVEN_UP, Cause.FINISH: State.ENDED, Cause.DETACH: State.ENDED}

# No state, because it is independent of all of these: the end of audio (a fact of the journal: `is_complete`), whether
# the client is paused (follows from credit, journal and budget), whether this frontend has written the end of audio
# itself (then what the client still sends is dropped), and whether the session has failed (its last cause).
SESSION: TransitionTable[State, Cause] = TransitionTable(
    "session",
    State.OPENING,
    {
        State.OPENING: {Cause.RESUME: State.RESUMING, Cause.PINNED: State.ACTIVE, **GIVEN_UP},
        State.RESUMING: {Cause.PINNED: State.RESTORING, **GIVEN_UP},
        State.RESTORING: {Cause.RESUMED: State.ACTIVE, **GIVEN_BACK},
        State.ACTIVE: {Cause.LOST: State.MOVING, **GIVEN_BACK},
        State.MOVING: {Cause.PINNED: State.ACTIVE, **GIVEN_UP},
    },
)

RETURNING = (State.RESUMING, State.RESTORING)
LEASED = (State.RESTORING, State.ACTIVE)


class Session(StateMachine[State, Cause]):
    """`id` is unique and random. `now` is one monotonic clock in seconds throughout. Commands go into `outbox`."""

    __slots__ = (
        "_ask_commit_at",
        "_budget",
        "_commit",
        "_credit_samples",
        "_done",
        "_drops_input",
        "_give_up_at",
        "_heard_at",
        "_journal",
        "_journal_bytes_max",
        "_limits",
        "_messages_max",
        "_outbox",
        "_partial",
        "_progress_at",
        "_retry_at",
        "_start",
        "_taken",
        "_window_at",
        "_window_messages",
        "epoch",
        "failed",
        "id",
        "paused",
        "pinned",
    )

    def __init__(self, id: str, start: e.Start, limits: Limits, budget: Budget, outbox: Outbox, now: float) -> None:
        super().__init__(SESSION)
        self.id, self._start, self._limits = id, start, limits
        self._outbox = outbox
        self.epoch = 0
        self.pinned: m.Pinned | None = None
        self.failed = False
        self.paused = False
        """What the client was sent last: Pause, or Credit."""
        self._journal = Journal(budget)
        self._budget = budget
        self._commit: m.Commit | None = None
        self._partial: m.Partial | None = None
        """What the client sees of an utterance that is not final."""
        self._taken = self._done = 0
        self._drops_input = False
        """This frontend wrote the end of audio: what the client still sends is no error of its own."""
        self._credit_samples = int(limits.credit_s * SAMPLE_RATE)
        self._journal_bytes_max = limits.journal_s * SAMPLE_RATE * BYTES_PER_SAMPLE
        self._ask_commit_at = now
        self._heard_at = now
        self._give_up_at = now + limits.open_s
        self._retry_at = NEVER
        self._progress_at = now + limits.progress_s
        rates = [rate for rate in (limits.messages_per_s, start.messages_per_s_max) if rate]
        self._messages_max = 0 if start.whole else min(rates, default=0)
        """In any second; 0 for no limit."""
        self._window_at = now
        self._window_messages = 0
        if start.resume is not None:
            self.fire(Cause.RESUME, now)

    # ---- The client ----

    def open(self) -> None:
        """Ask for a slot; again after each loss."""
        start = self._start
        if start.resume is not None and self.state is State.RESUMING:
            self._outbox.ask(m.Resume(self.id, start.resume.utterance), self._setup())
            return
        model = self.pinned.spec.model if self.pinned else start.model
        self._outbox.ask(m.Open(self.id, self.epoch, model, start.language, start.resumable), self._setup())

    def _setup(self) -> m.Setup:
        # Credit returns with progress, so progress must come well before the credit is used up.
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

    def client(self, event: e.ClientEvent, now: float) -> None:
        """What the client does after its start. Raises PeerError; the caller ends the session with it."""
        self._heard_at = now
        if self.state is State.ENDED:
            return
        match event:
            case e.Abort():
                self._end(Cause.ABORT, now)
            case e.Detach():
                self._detach(now)
            case _ if not self._drops_input:
                self._take(event, now)
                self._pump(now)
                self._balance(now)

    def _take(self, event: e.ClientEvent, now: float) -> None:
        if self.state in RETURNING and not isinstance(event, e.KeepAlive):
            raise OutOfOrder("nothing can be said before it is known from where")
        if self._messages_max:
            self._count_message(now)
        match event:
            case e.Audio():
                self._audio(event.pcm)
                if self._journal.bytes_held > COMMIT_SHARE * self._journal_bytes_max:
                    self._ask_for_commit(now)
            case e.Start():
                raise OutOfOrder("a second start")
            case e.Flush():
                self._mark(event.marker)
            case e.Stop():
                self._mark(None)

    def _audio(self, pcm: bytes) -> None:
        journal = self._journal
        if journal.is_complete:
            raise OutOfOrder("audio after the end of audio")
        if journal.end_sample + len(pcm) // BYTES_PER_SAMPLE > self._limits.audio_s * SAMPLE_RATE:
            raise LimitExceeded(f"a session is at most {self._limits.audio_s:g} s long", slug="session-too-long")
        if len(pcm) <= PIECE_BYTES_MAX:
            journal.append(pcm)
            return
        for start in range(0, len(pcm), PIECE_BYTES_MAX):
            journal.append(pcm[start : start + PIECE_BYTES_MAX])

    def _ask_for_commit(self, now: float) -> None:
        """After long without one: at the journal's limit the client must wait for it."""
        if self.state is State.ACTIVE and now >= self._ask_commit_at:
            assert self.pinned is not None
            self._ask_commit_at = now + COMMIT_S
            self._outbox.post(self.pinned.worker, m.Checkpoint(self.pinned.lease), now)

    def _mark(self, marker: str | None) -> None:
        if self._journal.is_complete:
            raise OutOfOrder("a message after the end of audio")
        self._journal.mark(marker)

    def _count_message(self, now: float) -> None:
        if now - self._window_at >= 1.0:
            self._window_at, self._window_messages = now, 0
        self._window_messages += 1
        if self._window_messages > self._messages_max:
            raise LimitExceeded(f"more than {self._messages_max} messages in a second", slug="rate-limited")

    # ---- The broker ----

    def on_pinned(self, pinned: m.Pinned, now: float) -> None:
        """A slot was granted: post what the journal holds from the last commit on."""
        if not self._expects(pinned):
            return
        first = self.pinned is None
        self.fire(Cause.PINNED, now)
        self.pinned, self.epoch = pinned, pinned.epoch
        self._heard_at = max(self._heard_at, now)
        self._taken = self._done = self._commit.samples if self._commit else 0
        self._journal.rewind()
        if first and self.state is State.ACTIVE:
            self._give_up_at = NEVER
            self._deliver_ready(pinned.spec)
        self._pump(now)
        self._balance(now)

    def _expects(self, pinned: m.Pinned) -> bool:
        """False for the answer to an earlier question: of another epoch, or from before the client returned."""
        if pinned.resumed:
            return self.state is State.RESUMING
        return self.state in (State.OPENING, State.MOVING) and pinned.epoch == self.epoch

    def _deliver_ready(self, spec: m.Spec, from_sample: int | None = None) -> None:
        ready = e.Ready(self.id, spec.engine, spec.model, spec.chunk_samples, from_sample)
        self._outbox.commands.append(Deliver(self.id, ready))

    def on_refused(self, refused: m.Refused, now: float) -> None:
        """No slot: the end for a new session, another try later for a moving one."""
        if refused.epoch != self.epoch or self.state in (*LEASED, State.ENDED):
            return
        if refused.slug == m.RESUMED:
            self._fail(e.Error("session-lost", refused.detail), now)
        elif self.state is State.MOVING:
            self._retry_at = now + self._limits.retry_s
        else:
            self._fail(e.Error(refused.slug, refused.detail, refused.retry_after_s), now)

    def on_lost(self, now: float) -> None:
        """The lease ended, not by this session: it must move to another worker. The caller calls `open`."""
        if self.state is State.RESTORING:
            self._fail(e.Error("resume-unavailable", "the worker that had the session is lost"), now)
        if self.state is not State.ACTIVE:
            return
        self.fire(Cause.LOST, now)
        self.epoch += 1
        self._give_up_at = min(self._give_up_at, now + self._limits.move_s)
        self._retry_at = NEVER
        self._outbox.commands.append(Deliver(self.id, e.Notice()))
        self._balance(now)

    # ---- The worker ----

    def on_frame(self, frame: m.FrameOut, now: float) -> None:
        """What the worker sends under the current lease."""
        if self.state not in LEASED:
            return
        match frame:
            case m.Progress():
                self._on_progress(frame, now)
            case m.Final():
                self._on_final(frame, now)
            case m.Partial():
                self._partial = frame if frame.text else None
                self._outbox.commands.append(Deliver(self.id, frame))
            case m.Speech():
                self._outbox.commands.append(Deliver(self.id, frame))
            case m.Flushed():
                self._journal.answered(frame.marker)
                self._outbox.commands.append(Deliver(self.id, frame))
                self._balance(now)
            case m.Resumed():
                self._on_resumed(frame, now)
            case m.Ended():
                self._end(Cause.FINISH, now)
                self._outbox.commands.append(Deliver(self.id, e.Bye()))
            case m.Failed():
                self._fail(e.Error(frame.slug, frame.detail), now)

    def _on_resumed(self, frame: m.Resumed, now: float) -> None:
        """The client has sent nothing yet: the audio that it must send begins at the commit."""
        if self.state is not State.RESTORING:
            return
        assert self.pinned is not None
        self.fire(Cause.RESUMED, now)
        self._commit = frame.commit
        self._give_up_at = NEVER
        sample = frame.commit.samples if frame.commit else 0
        self._taken = self._done = sample
        self._journal.begin(sample)
        self._deliver_ready(self.pinned.spec, sample)

    def _on_progress(self, frame: m.Progress, now: float) -> None:
        self._taken, self._done = max(self._taken, frame.taken), max(self._done, frame.done)
        self._give_up_at = NEVER  # it moved to a worker that works
        if frame.commit:
            self._commit_at(frame.commit)
        self._pump(now)
        self._take_back()
        self._deliver_progress(now)
        self._balance(now)

    def _take_back(self) -> None:
        """Deliver an empty partial where the client sees one of audio that is over and became no final.

        An engine takes back its own partials. After a move, the partial was of another engine.
        """
        partial = self._partial
        if partial is not None and self._confirmed_samples() >= partial.end_sample:
            self._partial = None
            self._outbox.commands.append(Deliver(self.id, structs.replace(partial, text="", stable=None)))

    def _on_final(self, final: m.Final, now: float) -> None:
        """The commit inside makes it exactly once: a move replays only what comes after."""
        self._commit_at(final.commit)
        self._partial = None
        self._outbox.commands.append(Deliver(self.id, final))
        self._balance(now)

    def _commit_at(self, commit: m.Commit) -> None:
        if self._commit is not None and commit.samples < self._commit.samples:
            return  # of a final that is repeated to a client that has returned
        self._commit = commit
        self._journal.trim(commit.samples)

    def _deliver_progress(self, now: float) -> None:
        self._progress_at = now + self._limits.progress_s
        progress = e.Progress(self._journal.end_sample, self._taken, self._done, self._confirmed_samples())
        self._outbox.commands.append(Deliver(self.id, progress))

    def _confirmed_samples(self) -> int:
        return self._commit.confirmed_samples if self._commit else 0

    # ---- Time ----

    def tick(self, now: float) -> None:
        """What time alone makes due."""
        if self.state is State.ENDED:
            return
        if self.state is not State.ACTIVE and now >= self._give_up_at:
            self._give_up(now)
        elif now >= self._idle_at():
            self._fail(e.Error("idle-timeout", f"nothing was sent for {self._limits.idle_s:g} s"), now)
        elif self.state is not State.ACTIVE:
            if now >= self._retry_at:
                self._retry_at = NEVER
                self.open()
        elif now >= self._progress_at:
            if self._journal.bytes_held > COMMIT_SHARE * self._journal_bytes_max:
                self._ask_for_commit(now)
            self._deliver_progress(now)
            self._balance(now)

    def _give_up(self, now: float) -> None:
        slugs = {State.OPENING: "no-broker", State.MOVING: "session-lost"}
        slug = slugs.get(self.state, "resume-unavailable")
        self._fail(e.Error(slug, "no worker took the session in time", 2.0), now)

    def next_deadline(self) -> float:
        """When `tick` has something to do; infinity for an ended session."""
        if self.state is State.ENDED:
            return NEVER
        if self.state is State.ACTIVE:
            return min(self._idle_at(), self._progress_at)
        return min(self._idle_at(), self._give_up_at, self._retry_at)

    def _idle_at(self) -> float:
        """A client that is paused, or has sent all, owes nothing."""
        return NEVER if self.paused or self._journal.is_complete else self._heard_at + self._limits.idle_s

    # ---- Ends ----

    def fail(self, error: AsrError, now: float) -> None:
        """End the session with an error that its client or this process made."""
        if self.state is not State.ENDED:
            self._fail(e.Error.of(error), now)

    def leave(self, now: float) -> None:
        """This frontend stops. A client that can continues elsewhere; for another, the end of its audio is here."""
        if self._start.resumable and self.state in (*RETURNING, State.ACTIVE):
            self._detach(now)
            self._outbox.commands.append(Deliver(self.id, e.Bye(e.GOING_AWAY)))
        elif self.state is not State.ENDED and not self._journal.is_complete:
            self._journal.mark(None)
            self._drops_input = True
            self._pump(now)

    def _detach(self, now: float) -> None:
        """Leave the lease to whoever resumes it. What was not posted yet, the client still has."""
        keeps_lease = self._start.resumable and self.state in LEASED
        self._end(Cause.DETACH if keeps_lease else Cause.ABORT, now)

    def _fail(self, error: e.Error, now: float) -> None:
        self._end(Cause.FAIL, now)
        self.failed = True
        self._outbox.commands.append(Deliver(self.id, error))

    def _end(self, cause: Cause, now: float) -> None:
        held = self.pinned if self.state in LEASED else None
        self.fire(cause, now)
        self._journal.clear()
        if held is not None:
            self._outbox.ask(m.Detach(held.lease) if cause is Cause.DETACH else m.Close(held.lease))
        self._balance(now)

    # ---- Credit ----

    def _pump(self, now: float) -> None:
        """Post what the credit allows."""
        if self.state is not State.ACTIVE:
            return
        assert self.pinned is not None
        limit = self._done + self._credit_samples
        while (entry := self._journal.next(limit)) is not None:
            self._outbox.post(self.pinned.worker, self._frame(entry, self.pinned.lease), now)

    def _frame(self, entry: Entry, lease: int) -> m.FrameIn:
        if isinstance(entry, Mark):
            return m.Stop(lease) if entry.marker is None else m.Flush(lease, entry.marker)
        base = self._commit.samples if self._commit else 0
        piece = entry if entry.first_sample >= base else entry.since(base)
        return m.Audio(lease, piece.first_sample, piece.pcm)

    def _balance(self, now: float) -> None:
        """Pause the client, or return its credit, when the answer to "may it send?" has changed."""
        may_send = self._has_credit()
        if may_send is not self.paused:
            return
        self.paused = not may_send
        if may_send:
            self._heard_at = now  # it could not send before: its silence begins here
        self._outbox.commands.append(Credit(self.id) if may_send else Pause(self.id))

    def _has_credit(self) -> bool:
        if self.state is State.ENDED:
            return True
        journal = self._journal
        if journal.marks_held >= MARKS_MAX:
            return False
        budget = self._budget
        if budget.bytes_held >= budget.bytes_max or journal.bytes_held >= self._journal_bytes_max:
            return False
        return self.state is State.MOVING or journal.end_sample - self._done < self._credit_samples

    def check(self) -> None:
        """The invariants."""
        self._journal.check()
        assert (self.pinned is None) <= (self.state in (State.OPENING, State.RESUMING, State.ENDED))
        # Another session may have used up the budget since.
        assert self.paused or self._has_credit() or self._budget.exhausted
        if self.state is State.ENDED:
            assert self._journal.bytes_held == 0
