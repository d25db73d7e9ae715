"""All sessions of a worker: the lease of each slot, the chunks of the next step, the receiver of each output. Pure.

Each method puts its commands into `outbox`. The engine runs in another thread: it answers jobs in their order, and a
slot may pass to another lease after a job was queued. So an output belongs to the lease that had the slot *in the
engine* when the step ran (`_holders`), not to the lease that has it now: no output of a reused slot reaches another
client.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import structs

from asr_proto import messages as m
from asr_proto.audio import SAMPLE_RATE
from asr_proto.errors import BadRequest, PeerError
from asr_workers.batcher import Batcher
from asr_workers.engines.base import Drained, SlotOptions, Snapshot
from asr_workers.jobs import (
    Answer,
    CloseSlot,
    EngineFailed,
    Job,
    OpenSlot,
    RunStep,
    SlotClosed,
    SlotOpened,
    SnapshotTaken,
    StepDone,
    TakeSnapshot,
    leases_of,
)
from asr_workers.load import LoadMeter
from asr_workers.outbox import Hang, Outbox, Quit, Send
from asr_workers.session import FAILED, Session
from asr_workers.trials import Trials
from asr_workers.work import Work

REGISTER_S = 1.0
"""Interval at which an unanswered registration is repeated."""
WIPED_S = 0.02
"""Interval at which a worker without a broker checks whether the engine has closed all slots."""
HANG_BEATS_MAX = 500
"""Number of these checks, about 10 s of a running worker, after which the engine hangs for good."""


class Sessions:
    """The whole state of a worker outside its engine."""

    def __init__(
        self,
        name: str,
        spec: m.Spec,
        now: float,
        chunk_samples: Callable[[int | None], int] | None = None,
        witness: bytes = b"",
    ) -> None:
        """`chunk_samples` maps a look-ahead in ms to the number of samples in a session's chunks. None: they are all of
        the length in `spec`. `witness` is the identity of the process that reports this worker's death."""
        self.name, self.spec, self._witness = name, spec, witness
        self._chunk_samples = chunk_samples or (lambda _: spec.chunk_samples)
        self.outbox = Outbox()
        self.load = LoadMeter(now)
        self.registered = False
        self.draining = False
        self._sessions: dict[int, Session] = {}
        self._by_slot: dict[int, Session] = {}
        self._holders: dict[int, int] = {}
        """By slot: the lease that has the slot in the engine."""
        self._batcher = Batcher(spec.slots)
        self._trials = Trials()
        self._work = Work()
        self._heartbeat_s = REGISTER_S
        self._heartbeat_at = now
        self._in_step = 0
        """Number of chunks in the current step, at least 1; 0: no step runs. The engine has one step at a time."""
        self._hang_beats = 0
        """Number of successive checks without a broker that have found the engine at work."""
        self._pending = False
        """`StepDone.pending` of the last step."""
        self._blocked: frozenset[int] = frozenset()
        """`StepDone.blocked` of the last step, without slots that were closed since."""
        self.foreign_frames = 0
        """Frames dropped since the start because their sender has another session's lease, not its own."""

    # ---- Brokers and time ----

    def handle(self, message: m.FromBroker, setup: m.Setup | None, frames: Iterable[m.Frame], now: float) -> None:
        """Handle a message of the leading broker with its decoded body; `setup` is None if it could not be read."""
        match message:
            case m.Bundle():
                self._receive(frozenset(message.leases), frames, now)
            case m.Welcome():
                # A broker that sends Welcome has no lease of this worker. This holds for a repeated Welcome, too.
                self.disconnected(now)
                self.registered, self._heartbeat_s = True, message.heartbeat_s
                if self.draining:
                    self.outbox.add(Send(m.Drain()))
            case m.Unregistered():
                self.disconnected(now)
            case m.Rejected():
                self.outbox.add(Quit(message.detail))
            case m.Grant() | m.Transfer() if message.lease not in self._sessions:
                self._granted(message, setup)
            case m.Release() | m.Stale():
                self._release(message.lease)

    def tick(self, now: float) -> None:
        """Send what is due: a heartbeat, or the registration while it is unanswered. Quit when drained."""
        if self.draining and self._is_empty():
            self.outbox.add(Quit())
        elif now >= self._heartbeat_at:
            self._beat(now)

    def next_deadline(self) -> float:
        """When `tick` has something to do."""
        return 0.0 if self.draining and self._is_empty() else self._heartbeat_at

    def drain(self, now: float, *, announce: bool = True) -> None:
        """Quit follows when the last session is closed. With `announce` the broker grants no new one here and moves
        those that it can."""
        self.draining = True
        self._heartbeat_at = now
        if self.registered and announce:
            self.outbox.add(Send(m.Drain()))

    def disconnected(self, now: float) -> None:
        """The broker has no lease of this worker any more: drop all sessions, then register again."""
        if self.registered:
            self._heartbeat_at = now
        self.registered, self._heartbeat_s = False, REGISTER_S
        self.outbox.disconnected()
        for lease in list(self._sessions):
            self._release(lease)

    # ---- The engine ----

    def step(self) -> None:
        """Begin the next step, unless a step runs already or there is no work."""
        if self._in_step:
            return
        if self._trials.tried is not None:
            self._run([])  # the rest of the work for its chunk
        elif self._trials.is_due:
            self._try() or self._batch()
        else:
            self._batch() or self._try()

    def _batch(self) -> bool:
        """Step the complete chunks of all sessions that are not under suspicion. False when there is nothing to do."""
        return self._run(self._batcher.pick(self._blocked | self._trials.slots()))

    def _try(self) -> bool:
        """Step the chunk of one suspect alone; before that, what is left in the engine. False without such a chunk."""
        slot = self._batcher.first(self._trials.slots() - self._blocked)
        if slot is None:
            return False
        if self._pending:
            return self._run([])
        self._trials.begin(self._by_slot[slot].lease)
        self._batcher.picked(slot)
        return self._run([slot])

    def _run(self, slots: list[int]) -> bool:
        """Begin a step with the next chunks of these slots. False when it would have nothing to do."""
        if not slots and not self._pending:
            return False
        chunks = [self._by_slot[slot].take(self._batcher.due(slot)) for slot in slots]
        self._in_step = max(len(chunks), 1)
        self._submit(RunStep(chunks, self._suspected(slots)))
        return True

    def _suspected(self, slots: list[int]) -> tuple[int, ...]:
        """The leases that the engine may work for in a step: while it has work of earlier steps, for any."""
        if (tried := self._trials.tried) is not None:
            return (tried,)
        return tuple(self._sessions) if self._pending else tuple([self._by_slot[slot].lease for slot in slots])

    def _submit(self, job: Job) -> None:
        self._work.given(leases_of(job))
        self.outbox.add(job)

    def failed(self, failure: EngineFailed) -> None:
        """The engine has raised an error, with which the worker ends: report the leases for which it worked.

        A failure of the device raises no suspicion against any audio.
        """
        suspects = () if failure.is_device_failure else failure.leases[: m.LEASES_MAX]
        self.outbox.add(Send(m.Crashed(suspects, proven=not failure.is_device_failure)))

    def leave(self) -> None:
        """The worker ends now, with the sessions that are left: the broker need not wait for its witness."""
        if self._sessions:
            self.outbox.add(Send(m.Crashed((), proven=False)))

    def answered(self, answer: Answer) -> None:
        """The engine has done a job."""
        self._work.answered()
        match answer:
            case StepDone():
                self._stepped(answer)
            case SlotOpened(error=None):
                self._holders[answer.slot] = answer.lease
            case SlotOpened(error=error):
                session = self._sessions.get(answer.lease)
                if session is not None and error is not None:
                    self._fail(session, error)
            case SlotClosed():
                self._closed(answer)
            case SnapshotTaken(advanced=advanced):
                session = self._receiver(answer.slot)
                if session is not None and advanced is not None:
                    self.outbox.post(session.frontend, session.snapshot_taken(advanced.snapshot))

    # ---- For tests and metrics ----

    def check(self) -> None:
        """The invariants: one session per slot."""
        assert {s.slot: s for s in self._sessions.values()} == self._by_slot
        assert len(self._by_slot) == len(self._sessions)
        for session in self._sessions.values():
            session.check()

    def __len__(self) -> int:
        return len(self._sessions)

    # ---- Private: leases ----

    def _granted(self, grant: m.Grant | m.Transfer, setup: m.Setup | None) -> None:
        from_lease = grant.from_lease if isinstance(grant, m.Transfer) else None
        if setup is None or not self._is_free(grant.slot, from_lease):
            self._refuse(grant)
        elif isinstance(grant, m.Transfer):
            self._transfer(grant, setup)
        else:
            self._grant(grant, setup)

    def _grant(self, grant: m.Grant, setup: m.Setup) -> None:
        setup = structs.replace(setup, partials=setup.partials or (setup.appends and self.spec.appends))
        chunk_samples = self._chunk_samples(setup.look_ahead_ms)
        session = Session(grant, setup, chunk_samples)
        self._sessions[grant.lease] = self._by_slot[grant.slot] = session
        self._batcher.open(grant.slot, chunk_samples / SAMPLE_RATE)
        self._trials.opened(session)
        snapshot = Snapshot(setup.commit.samples, setup.commit.state) if setup.commit else None
        options = SlotOptions(setup.language, setup.partials, setup.look_ahead_ms)
        self._submit(OpenSlot(grant.lease, grant.slot, options, snapshot))

    def _transfer(self, transfer: m.Transfer, setup: m.Setup) -> None:
        """Open the slot again from the last commit. The client sends all audio after this commit again."""
        before = self._sessions.get(transfer.from_lease)
        self._release(transfer.from_lease)
        grant = m.Grant(transfer.lease, transfer.slot, transfer.session, transfer.frontend)
        self._grant(grant, structs.replace(setup, commit=before.commit if before else None))
        session = self._sessions[transfer.lease]
        try:
            if before is None or before.machine.state is FAILED:
                raise BadRequest("this worker no longer has the session", slug="resume-unavailable")
            self.outbox.post(session.frontend, session.resume(before, transfer.utterance))
        except BadRequest as error:
            self._fail(session, error)

    def _is_free(self, slot: int, lease: int | None) -> bool:
        """Whether the engine has this slot, and no session has it, or only the session of `lease`."""
        holder = self._by_slot.get(slot)
        return slot < self.spec.slots and (holder is None or holder.lease == lease)

    def _refuse(self, grant: m.Grant | m.Transfer) -> None:
        """Fail a session that this worker cannot open, and give the slot back."""
        if isinstance(grant, m.Transfer):
            self._release(grant.from_lease)
        self.outbox.post(grant.frontend, [m.Failed(grant.lease, "bad-setup", "the options or the slot are not valid")])
        self.outbox.add(Send(m.Closed(grant.lease)))

    def _release(self, lease: int) -> None:
        session = self._sessions.pop(lease, None)
        if session is not None:
            del self._by_slot[session.slot]
            self._batcher.close(session.slot)
            self._trials.closed(session)
            self._submit(CloseSlot(lease, session.slot))

    def _closed(self, closed: SlotClosed) -> None:
        self._holders.pop(closed.slot, None)
        self._blocked -= {closed.slot}
        if self.registered:
            self.outbox.add(Send(m.Closed(closed.lease)))

    # ---- Private: frames and outputs ----

    def _receive(self, leases: frozenset[int], frames: Iterable[m.Frame], now: float) -> None:
        """Handle the frames under `leases`: the broker has checked that these are the sender's."""
        for frame in frames:
            session = self._sessions.get(frame.lease)
            if session is None or session.machine.state is FAILED or not isinstance(frame, m.FrameIn):
                continue
            if frame.lease not in leases:
                self.foreign_frames += 1
                continue
            if isinstance(frame, m.Checkpoint):
                self._submit(TakeSnapshot(session.slot, session.lease))
                continue
            try:
                answer = session.receive(frame)
            except PeerError as error:
                self._fail(session, error)
                continue
            if answer:
                self.outbox.post(session.frontend, answer)
            if session.ready():
                self._batcher.submit(session.slot, now)

    def _stepped(self, done: StepDone) -> None:
        """Progress follows the outputs, because some dialects answer a chunk with its text. It precedes Drained."""
        self._in_step, self._pending, self._blocked = 0, done.pending, done.blocked
        self._trials.stepped(done.pending)
        samples = sum([len(chunk.pcm) for chunk in done.chunks])
        self.load.stepped(done.elapsed_s, samples, done.late_s, done.elective_s)
        sessions: dict[int, Session] = {}
        progress: dict[int, list[m.FrameOut]] = {}
        for chunk in done.chunks:
            if (session := self._receiver(chunk.slot)) is not None:
                sessions[chunk.slot] = session
                progress[chunk.slot] = session.stepped()
        for output in done.outputs:
            session = sessions.get(output.slot) or self._receiver(output.slot)
            if session is not None:
                sessions[output.slot] = session
                if isinstance(output, Drained):
                    self.outbox.post(session.frontend, progress.pop(output.slot, []))
                self.outbox.post(session.frontend, session.output(output))
        for slot, session in sessions.items():
            if frames := progress.get(slot):
                self.outbox.post(session.frontend, frames)
            if session.ready():
                self._batcher.resubmit(slot)

    def _fail(self, session: Session, error: PeerError) -> None:
        """Send the error to the frontend, which closes the lease."""
        self.outbox.post(session.frontend, session.fail(error))
        self._batcher.close(session.slot)

    def _receiver(self, slot: int) -> Session | None:
        """The session that receives the outputs of this slot; None when it has ended or failed."""
        session = self._sessions.get(self._holders.get(slot, 0))
        return None if session is None or session.machine.state is FAILED else session

    # ---- Private: time ----

    def _beat(self, now: float) -> None:
        if not self.registered and (self._holders or self._in_step):
            # The engine still has dropped sessions. If it hangs, the broker must not pin new ones to this worker.
            self._heartbeat_at = now + WIPED_S
            self._hang_beats += 1
            if self._hang_beats == HANG_BEATS_MAX:
                self.outbox.add(Hang())
            return
        self._hang_beats = 0
        self._heartbeat_at = now + self._heartbeat_s
        if self.registered:
            self._work.beat()
            load = self.load.sum_up(self._batcher.waiting() + self._in_step, now)
            self.outbox.add(Send(m.WorkerHeartbeat(load, self._work.stuck())))
        else:
            self.outbox.add(Send(self.registration()))

    def registration(self) -> m.RegisterWorker:
        """The message with which this worker registers."""
        return m.RegisterWorker(m.PROTOCOL_VERSION, self.name, self.spec, self._witness)

    def _is_empty(self) -> bool:
        return not self._sessions and not self._holders
