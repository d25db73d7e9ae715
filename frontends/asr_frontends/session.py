"""One client conversation from its start to its end, across moves to other workers. Pure.

Everything that the client sends goes into the journal. From there it is posted to the worker as far as the credit
allows. A new worker receives the journal again from the last commit. A commit is part of the final that it confirms, so
no final is delivered twice and none is lost. The states and their transitions are in the table `SESSION`.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import Enum

from msgspec import structs

from asr_audio.entries import Entry, Mark, Piece
from asr_frontends import events as e
from asr_frontends import handed as h
from asr_frontends.handed import HandedSession
from asr_frontends.journal import Budget, Journal
from asr_frontends.outbox import Credit, Deliver, KeepPoison, Outbox, Pause
from asr_frontends.suspicion import Suspect
from asr_process.states import StateMachine, TransitionTable
from asr_proto import messages as m
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE
from asr_proto.errors import AsrError, LimitExceeded, OutOfOrder, ServiceError

PIECE_BYTES_MAX = 524_288
"""Largest audio frame to a worker, well below the wire's limit."""
COMMIT_SHARE = 0.5
"""Share of the journal's limit above which the session requests a commit from its worker."""
COMMIT_S = 1.0
"""Shortest time between two requests for a commit, in seconds."""
STALL_S_MIN = 5.0
STALL_STEPS, STALL_MARGIN_S = 4, 2.0
"""A worker that has a chunk's audio of the session and does nothing for so many steps (its 99th percentile) and so many
seconds more, and at least STALL_S_MIN, loses the session."""
STALL_BUSY = 6
"""A worker that reports waiting chunks gets so many times as long: the audio waits for that of other sessions."""
MARKS_MAX = 32
"""Largest number of unanswered flushes of one session; with so many, its client is not read from."""
POISONOUS = "poisonous-audio"
"""The slug of a session whose audio has killed workers."""
NEVER = float("inf")


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one session. Times are seconds of wall time, except for credit, journal and audio."""

    idle_s: float = 30.0
    """Longest time without a message of a client that may send."""
    credit_s: float = 10.0
    """Audio that a client may be ahead of the model, in seconds of audio."""
    journal_s: float = 120.0
    """Largest amount of unconfirmed audio, in seconds of audio; with so much, the client is not read from."""
    open_s: float = 10.0
    """Longest wait for a slot, or for a session to be resumed."""
    move_s: float = 30.0
    """Longest wait for another worker after the lease is lost."""
    retry_s: float = 0.25
    """Time until a refused move is tried again."""
    trial_s: float = 3.0
    """Time until a session under which two workers have died is tried again: the pool has more workers then."""
    progress_s: float = 0.8
    """Longest time without a Progress event for the client."""
    audio_s: float = 4 * 3600.0
    """Longest session, in seconds of audio."""
    messages_per_s: int = 0
    """Messages that a client may send for each second of time or of its audio (`rate`); 0 for no limit."""


# ---- States ----


class State(Enum):
    OPENING = "opening"
    """The session waits for a slot."""
    RESUMING = "resuming"
    """The client has returned; the session waits for the lease of the worker that has kept its state."""
    RESTORING = "restoring"
    """The session has its lease; it waits for the sample from which its client must send."""
    ACTIVE = "active"
    """The session has a lease at a worker."""
    MOVING = "moving"
    """The lease is lost; the session waits for a slot at another worker."""
    ENDED = "ended"
    """The client was sent its last event, or is gone."""


class Cause(Enum):
    """The reason of a change of state."""

    RESUME = "resume"
    """The client returns to a session."""
    PINNED = "pinned"
    """The broker has granted a slot."""
    RESUMED = "resumed"
    """The worker has sent the commit that it kept."""
    LOST = "lost"
    """The lease ended, and the session did not end it."""
    ABANDON = "abandon"
    """The worker does nothing with its audio, or reports audio that it was never sent. The lease is given back."""
    FINISH = "finish"
    """The worker has processed all audio."""
    FAIL = "fail"
    """An error of the client, the worker, the broker or this frontend."""
    HAND_OVER = "hand-over"
    """Another frontend continues the session on the client's connection."""
    ADOPT = "adopt"
    """Another frontend has handed the session over."""
    DETACH = "detach"
    """The client's connection broke, or this frontend stops. The lease stays for the client's return."""
    ABORT = "abort"
    """The client is gone for good."""


GIVEN_UP = {Cause.FAIL: State.ENDED, Cause.ABORT: State.ENDED}
GIVEN_BACK = {**GIVEN_UP, Cause.FINISH: State.ENDED, Cause.DETACH: State.ENDED}

# Four facts are no states, because each is independent of them: the end of audio (the journal's `is_complete`), whether
# the client is paused (computed from credit, journal and budget), whether this frontend has ended the audio itself
# (then its client is not read any more), and whether the session has failed (its last cause).
SESSION: TransitionTable[State, Cause] = TransitionTable(
    "session",
    State.OPENING,
    {
        State.OPENING: {
            Cause.RESUME: State.RESUMING,
            Cause.ADOPT: State.MOVING,
            Cause.PINNED: State.ACTIVE,
            **GIVEN_UP,
        },
        State.RESUMING: {Cause.PINNED: State.RESTORING, **GIVEN_UP},
        State.RESTORING: {Cause.RESUMED: State.ACTIVE, **GIVEN_BACK},
        State.ACTIVE: {
            Cause.LOST: State.MOVING,
            Cause.ABANDON: State.MOVING,
            Cause.HAND_OVER: State.ENDED,
            **GIVEN_BACK,
        },
        State.MOVING: {Cause.PINNED: State.ACTIVE, Cause.HAND_OVER: State.ENDED, **GIVEN_UP},
    },
)

RETURNING = (State.RESUMING, State.RESTORING)
LEASED = (State.RESTORING, State.ACTIVE)
TEXTS = (m.Progress, m.Final, m.Partial, m.Speech, m.Flushed)
"""The frames that a worker sends after Resumed."""


class Session(StateMachine[State, Cause]):
    """One session. `id` is unique and random; every `now` is read from one monotonic clock, in seconds.

    The commands that follow from an event go into `outbox`.
    """

    __slots__ = (
        "_avoid",
        "_budget",
        "_commit",
        "_credit_samples",
        "_done",
        "_give_up_at",
        "_journal",
        "_journal_bytes_max",
        "_last_received_at",
        "_left",
        "_limits",
        "_model",
        "_outbox",
        "_partial",
        "_progress_at",
        "_replaces",
        "_request_commit_at",
        "_retry_at",
        "_start",
        "_suspect",
        "_taken",
        "_waits_since",
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
        self._model: str | None = None
        """The model of the session's worker; None before the first one."""
        self._replaces = 0
        """The lease that the session had at the frontend that handed it over; 0 for none."""
        self.failed = False
        self.paused = False
        """Whether the client's reading is paused: the last of Pause and Credit in the outbox."""
        self._journal = Journal(budget)
        self._budget = budget
        self._commit: m.Commit | None = None
        self._suspect = Suspect()
        self._partial: m.Partial | None = None
        """The last partial that the client received of an utterance that is not final."""
        self._taken = self._done = 0
        """16 kHz samples that the worker has received, and that it has processed."""
        self._waits_since: float | None = None
        """When the worker first had work for this session without doing any; None while it works. See `watch`."""
        self._avoid = b""
        """The worker that the session left last because it did nothing."""
        self._left = False
        """Whether this frontend has ended the audio itself. Later events of the client are dropped, not errors."""
        self._credit_samples = int(limits.credit_s * SAMPLE_RATE)
        self._journal_bytes_max = limits.journal_s * SAMPLE_RATE * BYTES_PER_SAMPLE
        self._request_commit_at = now
        self._last_received_at = now
        self._give_up_at = now + limits.open_s
        self._retry_at = NEVER
        self._progress_at = now + limits.progress_s
        if start.resume is not None:
            self.fire(Cause.RESUME, now)

    # ---- The client ----

    def open(self) -> None:
        """Ask for a slot; again after each loss."""
        start = self._start
        if start.resume is not None and self.state is State.RESUMING:
            self._outbox.send(m.Resume(self.id, start.resume.utterance), self._setup())
            return
        model = start.model if self._model is None else self._model
        avoid, suspected_at = self._avoid, self._suspect.worker
        request = m.Open(
            self.id, self.epoch, model, start.language, start.resumable, avoid, suspected_at, self._replaces
        )
        self._outbox.send(request, self._setup())

    def _setup(self) -> m.Setup:
        start = self._start
        return m.Setup(
            start.language,
            start.partials,
            self._progress_samples(),
            self._commit,
            start.progress_taken,
            start.look_ahead_ms,
            start.appends,
            self._suspect.setup(),
        )

    def _progress_samples(self) -> int:
        """Credit returns with progress, so progress must come well before the credit is used up."""
        return min(self._start.progress_samples, int(self._limits.credit_s * SAMPLE_RATE / 2))

    def client(self, event: e.ClientEvent, now: float) -> None:
        """Process an event of the client after its start. Raises PeerError, with which the caller ends the session."""
        self._last_received_at = now
        if self.state is State.ENDED:
            return
        match event:
            case e.Abort():
                self._end(Cause.ABORT, now)
            case e.Detach():
                self._detach(now)
            case _ if not self._left:
                self._take(event, now)
                self._pump(now)
                self._balance(now)

    def _take(self, event: e.ClientEvent, now: float) -> None:
        if self.state in RETURNING and not isinstance(event, e.KeepAlive):
            raise OutOfOrder("a message before the session is resumed: wait for its first sample")
        match event:
            case e.Audio():
                self._audio(event.pcm)
                if self._journal.bytes_held > COMMIT_SHARE * self._journal_bytes_max:
                    self._request_commit(now)
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

    def _request_commit(self, now: float) -> None:
        """Request a commit, so that the journal does not reach its limit, at which the client is paused."""
        if self.state is State.ACTIVE and now >= self._request_commit_at:
            assert self.pinned is not None
            self._request_commit_at = now + COMMIT_S
            self._outbox.post(self.pinned.worker, m.Checkpoint(self.pinned.lease), now)

    def _mark(self, marker: str | None) -> None:
        if self._journal.is_complete:
            raise OutOfOrder("a message after the end of audio")
        self._journal.mark(marker)

    # ---- The broker ----

    def on_pinned(self, pinned: m.Pinned, now: float) -> None:
        """A slot was granted: post the journal, which begins at the last commit."""
        if not self._expects(pinned):
            return
        first = self._model is None
        self.fire(Cause.PINNED, now)
        self.pinned, self.epoch, self._model = pinned, pinned.epoch, pinned.spec.model
        self._replaces = 0
        self._last_received_at = max(self._last_received_at, now)
        self._taken = self._done = self._commit.samples if self._commit else 0
        self._waits_since = None
        self._journal.rewind()
        if first and self.state is State.ACTIVE:
            self._give_up_at = NEVER
            self._deliver_ready(pinned.spec)
        self._pump(now)
        self._balance(now)

    def _expects(self, pinned: m.Pinned) -> bool:
        """False for the answer to an earlier request: of another epoch, or from before the client returned."""
        if pinned.resumed:
            return self.state is State.RESUMING
        return self.state in (State.OPENING, State.MOVING) and pinned.epoch == self.epoch

    def _deliver_ready(self, spec: m.Spec, from_sample: int | None = None) -> None:
        ready = e.Ready(self.id, spec.engine, spec.model, spec.chunk_samples, from_sample)
        self._outbox.commands.append(Deliver(self.id, ready))

    def on_refused(self, refused: m.Refused, now: float) -> None:
        """No slot was granted: a new session ends, a moving one tries again later."""
        if refused.epoch != self.epoch or self.state in (*LEASED, State.ENDED):
            return
        if refused.slug == m.RESUMED:
            self._fail(e.Error("session-lost", refused.detail), now)
        elif self.state is State.MOVING:
            self._retry_at = now + self._limits.retry_s
        else:
            self._fail(e.Error(refused.slug, refused.detail, refused.retry_after_s), now)

    def may_move(self) -> bool:
        """Whether a move is better than to wait: more audio may come. Otherwise the session soon ends by itself."""
        return self.state is State.ACTIVE and not self._journal.is_complete

    def on_lost(self, lost: m.Lost | m.Stale, now: float) -> None:
        """The worker or the broker ended the lease. An active session moves: the caller then calls `open`."""
        if self.state is State.RESTORING:
            self._fail(e.Error("resume-unavailable", "the worker that had the session is lost"), now)
        if self.state is not State.ACTIVE:
            return
        if isinstance(lost, m.Lost):
            self._suspect.lost(lost, self._done, self._journal.posted_sample)
        if self.is_poisonous:
            self._end_as_poisonous(now)
        else:
            self._move(Cause.LOST, now)

    def _move(self, cause: Cause, now: float) -> None:
        self.fire(cause, now)
        self.epoch += 1
        self._give_up_at = min(self._give_up_at, now + self._limits.move_s)
        self._retry_at = now + self._limits.trial_s if self._suspect.is_dangerous else NEVER
        self._outbox.commands.append(Deliver(self.id, e.Notice()))
        self._balance(now)

    @property
    def waits(self) -> bool:
        """Whether the session, which moves, must not be opened again yet."""
        return self._retry_at != NEVER

    @property
    def is_poisonous(self) -> bool:
        """Whether the session ended because its audio has killed workers."""
        return self._suspect.is_poisonous

    def _end_as_poisonous(self, now: float) -> None:
        """No other worker gets this audio."""
        assert self.pinned is not None
        spec, deaths = self.pinned.spec, self._suspect.deaths
        pieces = tuple(entry for entry in self._journal if isinstance(entry, Piece))
        self._outbox.commands.append(KeepPoison(self.id, spec.engine, spec.model, deaths, pieces))
        self._fail(e.Error(POISONOUS, f"{deaths} workers have died at this audio"), now)

    # ---- The worker ----

    def on_frame(self, frame: m.FrameOut, now: float) -> None:
        """Process a frame of the worker under the current lease."""
        if self._drops(frame, now):
            return
        match frame:
            case m.Progress():
                self._on_progress(frame, now)
            case m.Final():
                self._on_final(frame, now)
            case m.Partial():
                self._partial, self._waits_since = frame if frame.text else None, None
                self._outbox.commands.append(Deliver(self.id, frame))
            case m.Speech():
                self._outbox.commands.append(Deliver(self.id, frame))
            case m.Flushed():
                self._on_flushed(frame, now)
            case m.Resumed():
                self._on_resumed(frame, now)
            case m.Ended():
                self._end(Cause.FINISH, now)
                self._outbox.commands.append(Deliver(self.id, e.Bye(e.GOING_AWAY) if self._left else e.Bye()))
            case m.Failed():
                self._fail(e.Error(frame.slug, frame.detail), now)

    def _on_flushed(self, frame: m.Flushed, now: float) -> None:
        """Deliver the answer to a flush. One that the client has not requested is dropped."""
        self._waits_since = None
        if self._journal.answered(frame.marker):
            self._outbox.commands.append(Deliver(self.id, frame))
        self._balance(now)

    def _on_resumed(self, frame: m.Resumed, now: float) -> None:
        """The worker has the session again. The client has sent nothing yet; it must send from the commit on."""
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

    def _drops(self, frame: m.FrameOut, now: float) -> bool:
        """Whether not to process a frame. A worker that reports audio that it was never sent loses the session."""
        if self.state is not State.ACTIVE:
            return self.state is not State.RESTORING or isinstance(frame, TEXTS)
        if isinstance(frame, m.Progress | m.Final) and not self._is_possible(frame):
            self._abandon(now)
            return True
        return False

    def _is_possible(self, frame: m.Progress | m.Final) -> bool:
        """Whether this frame is about audio that was posted to the worker."""
        posted = max(self._journal.posted_sample, self._commit.samples if self._commit else 0)
        if frame.commit is not None and frame.commit.samples > posted:
            return False
        return isinstance(frame, m.Final) or frame.done <= frame.taken <= posted

    def _on_progress(self, frame: m.Progress, now: float) -> None:
        if frame.done > self._done:
            self._waits_since = None
        self._taken, self._done = max(self._taken, frame.taken), max(self._done, frame.done)
        self._suspect.survived(self._done)
        self._give_up_at = NEVER  # the worker makes progress, so the move has succeeded
        if frame.commit:
            self._commit_at(frame.commit)
        self._pump(now)
        self._take_back()
        self._deliver_progress(now)
        self._balance(now)

    def _take_back(self) -> None:
        """Deliver an empty partial if the client's last partial is of confirmed audio that has no final.

        Engines withdraw their own partials. After a move, the last partial may be another engine's.
        """
        partial = self._partial
        if partial is not None and self._confirmed_samples() >= partial.end_sample:
            self._partial = None
            self._outbox.commands.append(Deliver(self.id, structs.replace(partial, text="", stable=None)))

    def _on_final(self, final: m.Final, now: float) -> None:
        """Deliver a final, and commit it. A move replays only later audio, so the client receives each final once."""
        self._commit_at(final.commit)
        self._partial = self._waits_since = None
        self._outbox.commands.append(Deliver(self.id, final))
        self._balance(now)

    def _commit_at(self, commit: m.Commit) -> None:
        if self._commit is not None and commit.samples < self._commit.samples:
            return  # the commit of a final that is repeated for a client that has returned
        self._commit = commit
        self._journal.trim(commit.samples)

    def _deliver_progress(self, now: float) -> None:
        self._progress_at = now + self._limits.progress_s
        progress = e.Progress(self._journal.end_sample, self._taken, self._done, self._confirmed_samples())
        self._outbox.commands.append(Deliver(self.id, progress))

    def _confirmed_samples(self) -> int:
        return self._commit.confirmed_samples if self._commit else 0

    # ---- A worker that does nothing ----

    def watch(self, answered_s: float, busy: Collection[bytes], now: float) -> None:
        """Leave a worker that has had work for too long and done none. The caller then calls `open`.

        `answered_s` is a clock in seconds that stands still while the broker, or this process, does. So answers of a
        worker that wait somewhere between do not count as missing. `busy`: the workers that reported waiting chunks.
        """
        if self.state is not State.ACTIVE or not self._has_work():
            self._waits_since = None
        elif self._waits_since is None:
            self._waits_since = answered_s
        elif answered_s - self._waits_since > self._stall_s(busy):
            self._abandon(now)

    def _has_work(self) -> bool:
        """Whether the worker could report progress: it has all audio up to a mark, or a chunk beyond a report's due."""
        assert self.pinned is not None
        look_ahead_samples = (self._start.look_ahead_ms or 0) * SAMPLE_RATE // 1000
        due_samples = self._progress_samples() + self.pinned.spec.chunk_samples + look_ahead_samples
        journal = self._journal
        return journal.awaits_answer or journal.posted_sample - self._done >= due_samples

    def _stall_s(self, busy: Collection[bytes]) -> float:
        assert self.pinned is not None
        stall_s = max(STALL_S_MIN, STALL_STEPS * self.pinned.spec.step_s_p99 + STALL_MARGIN_S)
        return stall_s * STALL_BUSY if self.pinned.worker in busy else stall_s

    def _abandon(self, now: float) -> None:
        """Give the lease of an active session back, and move to another worker if there is one."""
        assert self.pinned is not None
        self._outbox.send(m.Close(self.pinned.lease))
        self._avoid = self.pinned.worker
        self._move(Cause.ABANDON, now)

    # ---- Time ----

    def tick(self, now: float) -> None:
        """Do what is due at `now`: time limits, retries, Progress events."""
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
                self._request_commit(now)
            self._deliver_progress(now)
            self._balance(now)

    def _give_up(self, now: float) -> None:
        slugs = {State.OPENING: "no-broker", State.MOVING: "session-lost"}
        slug = slugs.get(self.state, "resume-unavailable")
        self._fail(e.Error(slug, "no worker took the session in time", 2.0), now)

    def next_deadline(self) -> float:
        """The time at which `tick` has something to do; infinity for an ended session."""
        if self.state is State.ENDED:
            return NEVER
        if self.state is State.ACTIVE:
            return min(self._idle_at(), self._progress_at)
        return min(self._idle_at(), self._give_up_at, self._retry_at)

    def _idle_at(self) -> float:
        """The end of the idle time; infinity for a client that is paused or has sent all its audio."""
        if self.paused or self._journal.is_complete:
            return NEVER
        return self._last_received_at + self._limits.idle_s

    # ---- Handover ----

    @property
    def may_be_handed_over(self) -> bool:
        """Whether another frontend can continue the session now; a session that begins is handed over later."""
        return self.can(Cause.HAND_OVER) and not self._start.whole and not self._left

    def hand_over(self, now: float) -> HandedSession:
        """End the session here and return it for another frontend, or for `adopted`. Its lease is left for that one."""
        lease = self.pinned.lease if self.state is State.ACTIVE and self.pinned else self._replaces
        entries = [_handed(entry) for entry in self._journal]
        handed = HandedSession(
            self.id,
            replace(self._start, resume=None),  # that is done
            self.epoch,
            lease,
            self._model,
            self._commit,
            self._partial,
            self._journal.end_sample,
            entries,
            self._journal.is_complete,
            self._suspect.setup(),
            self._suspect.deaths,
            self._suspect.worker,
        )
        self.fire(Cause.HAND_OVER, now)
        self._journal.clear()
        return handed

    @classmethod
    def adopted(cls, handed: HandedSession, limits: Limits, budget: Budget, outbox: Outbox, now: float) -> Session:
        """A session that another frontend has handed over. It moves: the caller then calls `open`."""
        session = cls(handed.id, handed.start, limits, budget, outbox, now)
        session._adopt(handed, now)
        return session

    def _adopt(self, handed: HandedSession, now: float) -> None:
        self.fire(Cause.ADOPT, now)
        self.epoch, self._replaces, self._model = handed.epoch + 1, handed.lease, handed.model
        self._commit, self._partial = handed.commit, handed.partial
        self._suspect.adopt(handed.suspicion, handed.deaths, handed.suspected_at)
        self._give_up_at = now + self._limits.move_s
        self._journal.take_over(map(_taken, handed.entries), handed.end_sample, is_complete=handed.is_complete)
        self._balance(now)

    # ---- Ends ----

    def fail(self, error: AsrError, now: float) -> None:
        """End the session with an error of its client or of this process."""
        if self.state is not State.ENDED:
            self._fail(e.Error.of(error), now)

    def leave(self, now: float) -> None:
        """This frontend stops. A client that is still sending is not read any more; its Bye has the reason GOING_AWAY.

        The session of a client that can resume is left for its return. The audio of another ends here: the texts of all
        audio received so far come before the Bye. Nothing changes for a client that has sent all its audio.
        """
        if self._start.resumable and self._may_send():
            self._part(now)
        else:
            self._end_audio(now)

    def finish(self, now: float) -> None:
        """The whole pool stops, so no other process can serve this session: it ends like one that cannot be resumed.

        Its client may begin anew later, from its last commit, which is the end of its audio.
        """
        if self.state in RETURNING:
            self._part(now)
        else:
            self._end_audio(now)

    def _may_send(self) -> bool:
        """Whether audio may follow."""
        return self.state is not State.ENDED and not self._journal.is_complete and not self._start.whole

    def _end_audio(self, now: float) -> None:
        """If audio may follow, read nothing more of the client, and request the texts of what was received."""
        if self._may_send():
            self._journal.mark(None)
            self._left = True
            self._pump(now)
            self._balance(now)

    def abandon(self, now: float) -> None:
        """This frontend ends now. A client that can resume does so elsewhere; another one receives an error."""
        if self._start.resumable:
            self._part(now)
        else:
            self.fail(ServiceError("this server is going away", slug=e.GOING_AWAY), now)

    def _part(self, now: float) -> None:
        """End the session here, for its client to resume it elsewhere."""
        self._detach(now)
        self._outbox.commands.append(Deliver(self.id, e.Bye(e.GOING_AWAY)))

    def _detach(self, now: float) -> None:
        """End the session here; its lease stays for the client's return. The client still has the unposted audio."""
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
            self._outbox.send(m.Detach(held.lease) if cause is Cause.DETACH else m.Close(held.lease))
        self._balance(now)

    # ---- Credit ----

    def _pump(self, now: float) -> None:
        """Post journal entries to the worker as far as the credit allows."""
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
        """Pause the client when its credit is used up, and return the credit when it may send again."""
        may_send = self._has_credit()
        if may_send is not self.paused:
            return
        self.paused = not may_send
        if may_send:
            self._last_received_at = now  # the client could not send before: its idle time begins here
        self._outbox.commands.append(Credit(self.id) if may_send else Pause(self.id))

    def _has_credit(self) -> bool:
        if self.state is State.ENDED:
            return True
        if self._left:
            return False
        journal = self._journal
        if journal.marks_held >= MARKS_MAX:
            return False
        budget = self._budget
        if budget.bytes_held >= budget.bytes_max or journal.bytes_held >= self._journal_bytes_max:
            return False
        return self.state is State.MOVING or journal.end_sample - self._done < self._credit_samples

    def check(self) -> None:
        """Assert the invariants."""
        self._journal.check()
        assert self.pinned is not None or self.state not in LEASED
        # Another session may have used up the shared budget since the last `_balance`.
        assert self.paused or self._has_credit() or self._budget.exhausted
        if self.state is State.ENDED:
            assert self._journal.bytes_held == 0


def _handed(entry: Entry) -> h.Entry:
    return (entry.at_sample, None, entry.marker) if isinstance(entry, Mark) else (entry.first_sample, entry.pcm, None)


def _taken(entry: h.Entry) -> Entry:
    sample, pcm, marker = entry
    return Mark(sample, marker) if pcm is None else Piece(sample, pcm)
