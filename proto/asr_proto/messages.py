"""Every message between the processes: one frozen dataclass each, in four closed unions.

A *routing message* is what the broker must see; it may carry a body that the broker never opens: for `Open` and `Grant`
a `Setup`, for `Bundle` an array of *frames*. Units last: `_s` seconds, `_ms` milliseconds; sample indexes count 16 kHz
mono samples from the session's first one. proto/README.md specifies the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from asr_proto.schema import Limit

PROTOCOL_VERSION = 2
"""Raised with every incompatible change; a peer with another version is refused at registration."""

Identity = Annotated[bytes, Limit(32)]
"""ZeroMQ identity of one process incarnation: new at every start."""
Lease = int
"""The grant of one slot of one worker to one epoch of one session; never reused."""
SessionId = Annotated[str, Limit(64)]
Name = Annotated[str, Limit(128)]
Leases = Annotated[tuple[int, ...], Limit(4096)]
Text = Annotated[str, Limit(65536)]
STATE_BYTES_MAX = 8_388_608
"""Of what an engine may put into a commit."""
State = Annotated[bytes, Limit(STATE_BYTES_MAX)]
Pcm = Annotated[bytes, Limit(2_097_152)]
Marker = Annotated[str, Limit(256)]

EndpointKind = Literal["silence", "length", "flush"]
RESUMED = "resumed"
"""Why a lease is lost when its client has taken its session to another frontend."""


# ---- Values inside messages ----


@dataclass(frozen=True, slots=True)
class Spec:
    """What a worker's engine serves; part of its registration."""

    engine: Name
    model: Name
    languages: Annotated[tuple[str, ...], Limit(256)]
    slots: int
    """Sessions served at once."""
    chunk_samples: int
    """Samples that one step takes from a session."""
    uncommitted_s_max: float
    """Longest audio that may be unconfirmed by a commit: what a move to another worker replays."""
    device: Name
    step_s_p99: float = 0.1
    """What all but one in a hundred steps stay below, says the engine. Four times as long without one is a hang."""
    checksum: Name = ""
    """Of the model's weights: the first 16 hexadecimal digits of their SHA-256. Empty where there is no model."""
    license: Name = ""
    """Of the weights, where their file or folder says it."""
    encode_factor: float = 1.0
    """How often the model encodes each second of audio: more than once where windows overlap."""
    appends: bool = False
    """An utterance's text only grows: what a partial says, its final says too."""


@dataclass(frozen=True, slots=True)
class Commit:
    """A point from which another worker can continue: replay audio from `samples` into a slot opened with `state`."""

    samples: int
    utterance: int
    """Number of the next utterance: all before it are final."""
    state: State
    """Opaque: engine, VAD and endpointer."""
    confirmed: int | None = None
    """Set in the middle of an utterance, whose words are in the state and in no final yet: where all before was."""

    @property
    def confirmed_samples(self) -> int:
        """Audio before this is final text: nobody needs it, whatever becomes of the state."""
        return self.samples if self.confirmed is None else self.confirmed


@dataclass(frozen=True, slots=True)
class Word:
    """One word of a hypothesis. `confidence` only where the engine measures it."""

    text: Name
    start_sample: int
    end_sample: int
    confidence: float | None


@dataclass(frozen=True, slots=True)
class Setup:
    """How to open a session on a worker."""

    language: Name
    partials: bool
    progress_samples: int
    """Report progress each time this many samples more were done."""
    commit: Commit | None
    """Where to continue a session that was moved; None for a new one."""
    progress_taken: bool = False
    """Report it as well each time so many were taken."""
    look_ahead_ms: int | None = None
    """How much audio behind a word the model may wait for, where it leaves the choice; None for the worker's own."""
    appends: bool = False
    """Partials are wanted where they only grow, whatever `partials` says."""


@dataclass(frozen=True, slots=True)
class Load:
    """How busy a worker is, over its last heartbeat interval."""

    steps: int
    """Steps since the start."""
    pending_chunks: int
    """Complete chunks that wait for a step or are in the one under way."""
    step_ms_p50: float
    step_ms_p99: float
    busy: float
    """Share of the interval spent in steps, 0 to 1."""
    real_time_factor: float
    """Seconds spent in steps per second of audio; 0 without audio."""
    chunk_ms: float = 0.0
    """What one more chunk adds to a step, without work that an engine leaves out under load; 0 where unknown."""
    late_ms_p95: float = 0.0
    """How long after they were due chunks went into their steps."""


# ---- Frontend to broker ----


@dataclass(frozen=True, slots=True)
class RegisterFrontend:
    version: int
    name: Name


@dataclass(frozen=True, slots=True)
class Open:
    """Ask for a slot. Body: Setup. Answered by Pinned or Refused."""

    session: SessionId
    epoch: int
    """0 at first, one more with every move to another worker."""
    model: Name
    """Empty for the default model."""
    language: Name
    resumable: bool = False
    """Whether its client may come back: should the frontend die, the lease waits for Resume."""


@dataclass(frozen=True, slots=True)
class Close:
    """Give a lease back; what the worker still holds of it is dropped."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Detach:
    """The client of a resumable session is gone and may come back: the lease waits for Resume, for a limited time."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Resume:
    """Take over a session whose client has come back, from whatever frontend had it. Body: Setup, without a commit.

    Answered by Pinned, then by the worker's Resumed; or by Refused.
    """

    session: SessionId
    utterance: int
    """The first whose final the client has not got."""


@dataclass(frozen=True, slots=True)
class FrontendHeartbeat:
    """Renews the leases of silent sessions. Answered by Pool."""

    leases: Annotated[tuple[int, ...], Limit(65536)]


@dataclass(frozen=True, slots=True)
class Bundle:
    """Frames for one peer, forwarded whole. Body: array of frames, either direction."""

    to: Identity
    leases: Leases


# ---- Worker to broker ----


@dataclass(frozen=True, slots=True)
class RegisterWorker:
    version: int
    name: Name
    spec: Spec


@dataclass(frozen=True, slots=True)
class WorkerHeartbeat:
    load: Load


@dataclass(frozen=True, slots=True)
class Closed:
    """The slot of this lease is wiped and free."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Drain:
    """Take nothing new to me; I end when my last session has."""


@dataclass(frozen=True, slots=True)
class Vote:
    """To every broker: whom the worker serves for the next 600 ms. Answers each Claim, also one that it refuses."""

    term: int
    """The highest that it has voted in."""
    boot: int
    """The broker it votes for; 0: nobody."""
    number: int
    """Of the claim that was granted last."""


# ---- Broker to peers ----


@dataclass(frozen=True, slots=True)
class Welcome:
    boot: int
    """The broker's incarnation, the upper 31 bits of its leases."""
    heartbeat_s: float
    term: int = 0
    """In which it leads; 0 where it needs no votes."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A broker asks for the worker's vote. Answered by Vote."""

    term: int
    boot: int
    number: int
    """One more with every claim: a vote counts from when its claim was sent."""


@dataclass(frozen=True, slots=True)
class Standby:
    """The peer is registered, but this broker does not lead: what it had pinned before is gone."""

    boot: int


@dataclass(frozen=True, slots=True)
class Unregistered:
    """The broker does not know the sender: register (again); what was pinned before is gone."""


@dataclass(frozen=True, slots=True)
class Rejected:
    """The registration is refused; the process cannot be used with this broker."""

    slug: Name
    detail: Name


@dataclass(frozen=True, slots=True)
class Pinned:
    """A session has a slot; its frames go to `worker` from now on."""

    session: SessionId
    epoch: int
    lease: Lease
    worker: Identity
    spec: Spec
    resumed: bool = False
    """The answer to Resume, not to Open."""


@dataclass(frozen=True, slots=True)
class Refused:
    session: SessionId
    epoch: int
    slug: Name
    detail: Name
    retry_after_s: float


@dataclass(frozen=True, slots=True)
class Lost:
    """The lease is over through no doing of its session: its worker died or the lease expired."""

    lease: Lease
    slug: Name


@dataclass(frozen=True, slots=True)
class Pool:
    """What the workers offer now; answers a frontend's heartbeat and is sent when it changes."""

    workers: int
    slots: int
    slots_free: int
    models: Annotated[tuple[str, ...], Limit(256)]


@dataclass(frozen=True, slots=True)
class Grant:
    """Open `slot` for `lease`; results go to `frontend`. Body: Setup, as it came with Open."""

    lease: Lease
    slot: int
    session: SessionId
    frontend: Identity


@dataclass(frozen=True, slots=True)
class Transfer:
    """Continue the session of `from_lease`, from its last commit, as `lease` in the same slot. Body: Setup.

    Results go to `frontend`: Resumed, then the finals from `utterance` on that were made before.
    """

    from_lease: Lease
    lease: Lease
    slot: int
    session: SessionId
    frontend: Identity
    utterance: int


@dataclass(frozen=True, slots=True)
class Release:
    """Close this lease's slot, drop what it holds, answer Closed. Repeated until answered."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Stale:
    """A bundle named a lease that is not current for its sender."""

    lease: Lease


# ---- Control socket ----


@dataclass(frozen=True, slots=True)
class StatusRequest:
    version: int


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    name: Name
    spec: Spec
    sessions: int
    draining: bool
    load: Load


@dataclass(frozen=True, slots=True)
class FrontendStatus:
    name: Name
    sessions: int


@dataclass(frozen=True, slots=True)
class Status:
    uptime_s: float
    workers: Annotated[tuple[WorkerStatus, ...], Limit(4096)]
    frontends: Annotated[tuple[FrontendStatus, ...], Limit(4096)]
    sessions_total: int
    refused_total: int
    lost_total: int
    leads: bool = True
    """False for a standby."""


# ---- Frames: the body of a bundle ----


@dataclass(frozen=True, slots=True)
class Audio:
    """PCM16LE, 16 kHz, mono; `first_sample` is its place in the session."""

    lease: Lease
    first_sample: int
    pcm: Pcm


@dataclass(frozen=True, slots=True)
class Flush:
    """End the utterance here; answered by Flushed when all audio before it has left the model."""

    lease: Lease
    marker: Marker


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Ask for a commit here, in the middle of an utterance, if the engine can; answered by Progress with it."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Stop:
    """End of audio: the remaining finals follow, then Ended."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Progress:
    """Samples received and stepped since the session's start; `commit` when it advanced without a final."""

    lease: Lease
    taken: int
    done: int
    commit: Commit | None


@dataclass(frozen=True, slots=True)
class Partial:
    """The current utterance's text so far; replaced by the next Partial or Final."""

    lease: Lease
    utterance: int
    text: Text
    start_sample: int
    end_sample: int
    stable: int | None = None
    """So many characters of the text will come in a final as they are. None: the engine does not know."""


@dataclass(frozen=True, slots=True)
class Final:
    """An utterance's text; never changes. Its commit confirms it."""

    lease: Lease
    utterance: int
    text: Text
    start_sample: int
    end_sample: int
    endpoint: EndpointKind
    """Why the utterance ended: the speaker fell silent, it reached the longest length, or a flush."""
    confidence: float | None
    words: Annotated[tuple[Word, ...], Limit(4096)] | None
    commit: Commit


@dataclass(frozen=True, slots=True)
class Speech:
    """The speaker began or ceased to speak, there; says nothing about text."""

    lease: Lease
    kind: Literal["start", "end"]
    sample: int


@dataclass(frozen=True, slots=True)
class Flushed:
    lease: Lease
    marker: Marker


@dataclass(frozen=True, slots=True)
class Resumed:
    """First of all in a resumed session: from where its audio is needed again."""

    lease: Lease
    commit: Commit | None
    """None: from the beginning."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The session is complete: every final before has been sent."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Failed:
    """The worker cannot go on with this session."""

    lease: Lease
    slug: Name
    detail: Name


FromFrontend = RegisterFrontend | Open | Close | Detach | Resume | FrontendHeartbeat | Bundle
FromWorker = RegisterWorker | WorkerHeartbeat | Bundle | Closed | Drain | Vote
FromBroker = (
    Welcome
    | Unregistered
    | Rejected
    | Standby
    | Claim
    | Pinned
    | Refused
    | Lost
    | Pool
    | Grant
    | Transfer
    | Release
    | Stale
    | Bundle
)
Control = StatusRequest | Status
FrameIn = Audio | Flush | Checkpoint | Stop
FrameOut = Progress | Speech | Partial | Final | Flushed | Resumed | Ended | Failed
Message = FromFrontend | FromWorker | FromBroker | Control
Frame = FrameIn | FrameOut
