"""All sessions of a worker: which lease holds which slot, what the next step takes, who hears its outputs. Pure.

The engine runs in a thread of its own and answers in order. An output belongs to the lease that held the slot *in the
engine* when the step ran (`speaking`), not to the one that holds it now: a reused slot never speaks to its last user.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from msgspec import structs

from asr_proto import messages as m
from asr_proto.audio import SAMPLE_RATE
from asr_proto.errors import BadRequest, PeerError
from asr_workers.batcher import Batcher
from asr_workers.engines.base import Advanced, Chunk, Drained, Output, SlotOptions, Snapshot
from asr_workers.load import LoadMeter
from asr_workers.session import Session

REGISTER_S = 1.0
"""How often an unanswered registration is repeated."""
WIPED_S = 0.02
"""How often to look whether the engine has let go of all slots."""


# ---- Commands: what the shell must do ----


@dataclass(frozen=True, slots=True)
class Send:
    """To the broker."""

    message: m.FromWorker


@dataclass(frozen=True, slots=True)
class OpenSlot:
    lease: int
    slot: int
    options: SlotOptions
    snapshot: Snapshot | None


@dataclass(frozen=True, slots=True)
class CloseSlot:
    lease: int
    slot: int


@dataclass(frozen=True, slots=True)
class CheckpointSlot:
    slot: int


@dataclass(frozen=True, slots=True)
class Quit:
    """The worker is drained, or the broker will not have it (`detail` says why)."""

    detail: str = ""


Command = Send | OpenSlot | CloseSlot | CheckpointSlot | Quit


class Sessions:
    """The whole state of a worker outside its engine."""

    def __init__(
        self, name: str, spec: m.Spec, now: float, chunk_samples: Callable[[int | None], int] | None = None
    ) -> None:
        """`chunk_samples`: of a session with that look-ahead in ms, where it is not the same for all."""
        self.name, self.spec = name, spec
        self._chunk_samples = chunk_samples or (lambda _: spec.chunk_samples)
        self.load = LoadMeter(now)
        self.registered = False
        self.draining = False
        self._sessions: dict[int, Session] = {}
        self._by_slot: dict[int, Session] = {}
        self._speaking: dict[int, int] = {}
        self._batcher = Batcher(spec.slots)
        self._outbox: dict[bytes, list[m.FrameOut]] = {}
        self._heartbeat_s = REGISTER_S
        self._heartbeat_at = now
        self._in_step = 0
        """Work of the step under way."""

    # ---- The four verbs ----

    def handle(
        self, message: m.FromBroker, setup: m.Setup | None, frames: Iterable[m.Frame], now: float
    ) -> list[Command]:
        """Take a message of the broker with its decoded body."""
        match message:
            case m.Welcome():
                # A broker that welcomes us holds nothing of ours, however often it does.
                commands = self.disconnected(now)
                self.registered, self._heartbeat_s = True, message.heartbeat_s
                return [*commands, *([Send(m.Drain())] if self.draining else [])]
            case m.Unregistered():
                return self.disconnected(now)
            case m.Rejected():
                return [Quit(message.detail)]
            case m.Grant() if setup is not None:
                return self._granted(message, setup)
            case m.Transfer() if setup is not None:
                return self._transferred(message, setup)
            case m.Release() | m.Stale():
                return self._release(message.lease)
            case m.Bundle():
                return [command for frame in frames if (command := self._frame(frame, now))]
        return []

    def tick(self, now: float) -> list[Command]:
        """Heartbeats, or the registration again while it is unanswered; the end of a drain."""
        if self._drained():
            return [Quit()]
        if now < self._heartbeat_at:
            return []
        if not self.registered and (self._speaking or self._in_step):
            # The engine still holds what was dropped. Should it hang, we would be given the sessions of others.
            self._heartbeat_at = now + WIPED_S
            return []
        self._heartbeat_at = now + self._heartbeat_s
        if not self.registered:
            return [Send(m.RegisterWorker(m.PROTOCOL_VERSION, self.name, self.spec))]
        return [Send(m.WorkerHeartbeat(self.load.sum_up(self._batcher.waiting() + self._in_step, now)))]

    def next_deadline(self) -> float:
        """When `tick` has something to do."""
        return 0.0 if self._drained() else self._heartbeat_at

    def check(self) -> None:
        """The invariants: one session per slot."""
        assert {s.slot: s for s in self._sessions.values()} == self._by_slot
        assert len(self._by_slot) == len(self._sessions)
        for session in self._sessions.values():
            session.check()

    # ---- Steps ----

    def batch(self, blocked: Collection[int] = (), *, pending: bool = False) -> list[Chunk]:
        """The chunks of the next step; `pending`: the engine steps without any, too."""
        chunks = [self._by_slot[slot].take(self._batcher.due(slot)) for slot in self._batcher.pick(blocked)]
        self._in_step = max(len(chunks), int(pending))
        return chunks

    def opened(self, slot: int, lease: int) -> None:
        """The engine opened `slot` for `lease`."""
        self._speaking[slot] = lease

    def checkpointed(self, slot: int, advanced: Advanced | None) -> None:
        """The engine was asked for a snapshot, which it may not have."""
        session = self._speaker(slot)
        if session is not None and advanced is not None:
            self._post(session, session.checkpointed(advanced.snapshot))

    def closed(self, slot: int, lease: int) -> list[Command]:
        """The engine wiped `slot`."""
        self._speaking.pop(slot, None)
        return [Send(m.Closed(lease))] if self.registered else []

    def failed(self, lease: int, error: PeerError) -> None:
        """The engine refused to open the slot."""
        session = self._sessions.get(lease)
        if session is not None:
            self._fail(session, error)

    def stepped(
        self,
        chunks: Sequence[Chunk],
        outputs: Iterable[Output],
        elapsed_s: float,
        late_s: Sequence[float] = (),
        elective_s: float = 0.0,
    ) -> None:
        """A step has run: its outputs go to the sessions that were speaking. See LoadMeter for the times."""
        self._in_step = 0
        self.load.stepped(elapsed_s, sum(len(chunk.pcm) for chunk in chunks), late_s, elective_s)
        speakers: dict[int, Session] = {}
        progress: dict[int, list[m.FrameOut]] = {}
        """Behind what the chunk said: some dialects answer a chunk with its text."""
        for chunk in chunks:
            if (session := self._speaker(chunk.slot)) is not None:
                speakers[chunk.slot] = session
                progress[chunk.slot] = session.stepped()
        for output in outputs:
            if (session := self._speaker(output.slot)) is not None:
                speakers[output.slot] = session
                if isinstance(output, Drained):
                    self._post(session, progress.pop(output.slot, []))
                self._post(session, session.output(output))
        for slot, session in speakers.items():
            self._post(session, progress.get(slot, []))
            if session.ready():
                self._batcher.resubmit(slot)

    # ---- Output ----

    def outgoing(self) -> list[tuple[m.Bundle, list[m.FrameOut]]]:
        """One bundle per frontend of all frames since the last call."""
        outbox, self._outbox = self._outbox, {}
        return [
            (m.Bundle(frontend, tuple(dict.fromkeys(frame.lease for frame in frames))), frames)
            for frontend, frames in outbox.items()
        ]

    # ---- Ends ----

    def drain(self, now: float) -> list[Command]:
        """Take nothing new; Quit follows when the last session is closed."""
        self.draining = True
        self._heartbeat_at = now
        return [Send(m.Drain())] if self.registered else []

    def disconnected(self, now: float) -> list[Command]:
        """The broker does not know us (any more): drop everything, register again at once."""
        if self.registered:
            self._heartbeat_at = now
        self.registered, self._heartbeat_s = False, REGISTER_S
        self._outbox.clear()
        return [command for lease in list(self._sessions) for command in self._release(lease)]

    def __len__(self) -> int:
        return len(self._sessions)

    # ---- Private ----

    def _granted(self, grant: m.Grant, setup: m.Setup) -> list[Command]:
        setup = structs.replace(setup, partials=setup.partials or (setup.appends and self.spec.appends))
        chunk_samples = self._chunk_samples(setup.look_ahead_ms)
        session = Session(grant, setup, chunk_samples)
        self._sessions[grant.lease] = self._by_slot[grant.slot] = session
        self._batcher.open(grant.slot, chunk_samples / SAMPLE_RATE)
        snapshot = Snapshot(setup.commit.samples, setup.commit.state) if setup.commit else None
        options = SlotOptions(setup.language, setup.partials, setup.look_ahead_ms)
        return [OpenSlot(grant.lease, grant.slot, options, snapshot)]

    def _transferred(self, transfer: m.Transfer, setup: m.Setup) -> list[Command]:
        """The slot begins anew from the last commit: whatever came after it, its client says again."""
        before = self._sessions.get(transfer.from_lease)
        closing = self._release(transfer.from_lease)
        grant = m.Grant(transfer.lease, transfer.slot, transfer.session, transfer.frontend)
        opening = self._granted(grant, structs.replace(setup, commit=before.commit if before else None))
        session = self._sessions[transfer.lease]
        try:
            if before is None or before.failed:
                raise BadRequest("the session is not here any more", slug="resume-unavailable")
            self._post(session, session.resume(before, transfer.utterance))
        except BadRequest as error:
            self._fail(session, error)
        return [*closing, *opening]

    def _release(self, lease: int) -> list[Command]:
        session = self._sessions.pop(lease, None)
        if session is None:
            return []
        del self._by_slot[session.slot]
        self._batcher.close(session.slot)
        return [CloseSlot(lease, session.slot)]

    def _frame(self, frame: m.Frame, now: float) -> Command | None:
        session = self._sessions.get(frame.lease)
        if session is None or session.failed or not isinstance(frame, m.FrameIn):
            return None
        if isinstance(frame, m.Checkpoint):
            return CheckpointSlot(session.slot)
        try:
            self._post(session, session.receive(frame))
        except PeerError as error:
            self._fail(session, error)
            return None
        if session.ready():
            self._batcher.submit(session.slot, now)
        return None

    def _fail(self, session: Session, error: PeerError) -> None:
        """Tell the frontend, which closes the lease; until then the session's frames are dropped."""
        session.failed = True
        self._post(session, [m.Failed(session.lease, error.slug, error.detail[:128])])
        self._batcher.close(session.slot)

    def _drained(self) -> bool:
        return self.draining and not self._sessions and not self._speaking

    def _speaker(self, slot: int) -> Session | None:
        session = self._sessions.get(self._speaking.get(slot, 0))
        return None if session is None or session.failed else session

    def _post(self, session: Session, frames: list[m.FrameOut]) -> None:
        if frames:
            self._outbox.setdefault(session.frontend, []).extend(frames)
