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
    OpenSlot,
    RunStep,
    SlotClosed,
    SlotOpened,
    SnapshotTaken,
    StepDone,
    TakeSnapshot,
)
from asr_workers.load import LoadMeter
from asr_workers.outbox import Outbox, Quit, Send
from asr_workers.session import FAILED, Session

REGISTER_S = 1.0
"""Interval at which an unanswered registration is repeated."""
WIPED_S = 0.02
"""Interval at which a worker without a broker checks whether the engine has closed all slots."""


class Sessions:
    """The whole state of a worker outside its engine."""

    def __init__(
        self, name: str, spec: m.Spec, now: float, chunk_samples: Callable[[int | None], int] | None = None
    ) -> None:
        """`chunk_samples` maps a look-ahead in ms to the number of samples in a session's chunks. None: they are all of
        the length in `spec`."""
        self.name, self.spec = name, spec
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
        self._heartbeat_s = REGISTER_S
        self._heartbeat_at = now
        self._in_step = 0
        """Number of chunks in the current step, at least 1; 0: no step runs. The engine has one step at a time."""
        self._pending = False
        """`StepDone.pending` of the last step."""
        self._blocked: frozenset[int] = frozenset()
        """`StepDone.blocked` of the last step, without slots that were closed since."""

    # ---- Brokers and time ----

    def handle(self, message: m.FromBroker, setup: m.Setup | None, frames: Iterable[m.Frame], now: float) -> None:
        """Handle a message of the leading broker with its decoded body."""
        match message:
            case m.Bundle():
                self._receive(frames, now)
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
            case m.Grant() if setup is not None:
                self._grant(message, setup)
            case m.Transfer() if setup is not None:
                self._transfer(message, setup)
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
        picked = self._batcher.pick(self._blocked)
        if not picked and not self._pending:
            return
        chunks = [self._by_slot[slot].take(self._batcher.due(slot)) for slot in picked]
        self._in_step = max(len(chunks), 1)
        self.outbox.add(RunStep(chunks))

    def answered(self, answer: Answer) -> None:
        """The engine has done a job."""
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

    def _grant(self, grant: m.Grant, setup: m.Setup) -> None:
        setup = structs.replace(setup, partials=setup.partials or (setup.appends and self.spec.appends))
        chunk_samples = self._chunk_samples(setup.look_ahead_ms)
        session = Session(grant, setup, chunk_samples)
        self._sessions[grant.lease] = self._by_slot[grant.slot] = session
        self._batcher.open(grant.slot, chunk_samples / SAMPLE_RATE)
        snapshot = Snapshot(setup.commit.samples, setup.commit.state) if setup.commit else None
        options = SlotOptions(setup.language, setup.partials, setup.look_ahead_ms)
        self.outbox.add(OpenSlot(grant.lease, grant.slot, options, snapshot))

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

    def _release(self, lease: int) -> None:
        session = self._sessions.pop(lease, None)
        if session is not None:
            del self._by_slot[session.slot]
            self._batcher.close(session.slot)
            self.outbox.add(CloseSlot(lease, session.slot))

    def _closed(self, closed: SlotClosed) -> None:
        self._holders.pop(closed.slot, None)
        self._blocked -= {closed.slot}
        if self.registered:
            self.outbox.add(Send(m.Closed(closed.lease)))

    # ---- Private: frames and outputs ----

    def _receive(self, frames: Iterable[m.Frame], now: float) -> None:
        for frame in frames:
            session = self._sessions.get(frame.lease)
            if session is None or session.machine.state is FAILED or not isinstance(frame, m.FrameIn):
                continue
            if isinstance(frame, m.Checkpoint):
                self.outbox.add(TakeSnapshot(session.slot))
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
            return
        self._heartbeat_at = now + self._heartbeat_s
        if self.registered:
            load = self.load.sum_up(self._batcher.waiting() + self._in_step, now)
            self.outbox.add(Send(m.WorkerHeartbeat(load)))
        else:
            self.outbox.add(Send(m.RegisterWorker(m.PROTOCOL_VERSION, self.name, self.spec)))

    def _is_empty(self) -> bool:
        return not self._sessions and not self._holders
