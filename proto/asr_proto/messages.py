"""Every message between the processes: one frozen class each, in four closed unions.

A *routing message* is what the broker must see; it may carry a body that the broker never opens: for `Open` and `Grant`
a `Setup`, for `Bundle` an array of *frames*, for a registration a `Hello`. Units last: `_s` seconds, `_ms`
milliseconds; sample indexes count 16 kHz mono samples from the session's first one.

On the wire a class is the array of its fields, after its tag if it has one. proto/README.md specifies the bytes and the
rules for changes: a field is added at the end, with a default, and a tag is never given to another class.
"""

from __future__ import annotations

import sys
from typing import Annotated, Literal

from msgspec import Meta, Struct

PROTOCOL_VERSION = 2
"""Raised with every change that breaks the rules of growth: the newest version that this release understands."""
PROTOCOL_VERSION_MIN = 2
"""The oldest version that this release still understands."""

INT_MAX = 2**63 - 1
Natural = Annotated[int, Meta(ge=0, le=INT_MAX)]
Finite = Annotated[float, Meta(ge=-sys.float_info.max, le=sys.float_info.max)]
"""NaN and the infinities are outside of these bounds."""
Identity = Annotated[bytes, Meta(max_length=32)]
"""ZeroMQ identity of one process incarnation: new at every start."""
Lease = Natural
"""The grant of one slot of one worker to one epoch of one session; never reused."""
SessionId = Annotated[str, Meta(max_length=64)]
Name = Annotated[str, Meta(max_length=128)]
Label = Annotated[str, Meta(max_length=1024)]
Leases = Annotated[tuple[Natural, ...], Meta(max_length=4096)]
Text = Annotated[str, Meta(max_length=65536)]
STATE_BYTES_MAX = 8_388_608
"""Of what an engine may put into a commit."""
State = Annotated[bytes, Meta(max_length=STATE_BYTES_MAX)]
Pcm = Annotated[bytes, Meta(max_length=2_097_152)]
Marker = Annotated[str, Meta(max_length=256)]

EndpointKind = Literal["silence", "length", "flush"]
RESUMED = "resumed"
"""Why a lease is lost when its client has taken its session to another frontend."""


class Value(Struct, frozen=True, array_like=True, gc=False):
    """What all messages and their parts are. None can refer to itself, so the garbage collector need not look."""


class Hello(Value, frozen=True, tag=28):
    """Which protocol versions a process understands: read apart from everything else that it sends.

    It travels in a part of its own beside each registration and each StatusRequest. Its fields never change.
    """

    version: Natural
    version_min: Natural
    name: Name


# ---- Values inside messages ----


class Spec(Value, frozen=True):
    """What a worker's engine serves; part of its registration."""

    engine: Name
    model: Name
    languages: Annotated[tuple[Label, ...], Meta(max_length=256)]
    slots: Natural
    """Sessions served at once."""
    chunk_samples: Natural
    """Samples that one step takes from a session."""
    uncommitted_s_max: Finite
    """Longest audio that may be unconfirmed by a commit: what a move to another worker replays."""
    device: Name
    step_s_p99: Finite = 0.1
    """What all but one in a hundred steps stay below, says the engine. Four times as long without one is a hang."""
    checksum: Name = ""
    """Of the model's weights: the first 16 hexadecimal digits of their SHA-256. Empty where there is no model."""
    license: Name = ""
    """Of the weights, where their file or folder says it."""
    encode_factor: Finite = 1.0
    """How often the model encodes each second of audio: more than once where windows overlap."""
    appends: bool = False
    """An utterance's text only grows: what a partial says, its final says too."""


class Commit(Value, frozen=True):
    """A point from which another worker can continue: replay audio from `samples` into a slot opened with `state`."""

    samples: Natural
    utterance: Natural
    """Number of the next utterance: all before it are final."""
    state: State
    """Opaque: engine, VAD and endpointer."""
    confirmed: Natural | None = None
    """Set in the middle of an utterance, whose words are in the state and in no final yet: where all before was."""

    @property
    def confirmed_samples(self) -> int:
        """Audio before this is final text: nobody needs it, whatever becomes of the state."""
        return self.samples if self.confirmed is None else self.confirmed


class Word(Value, frozen=True):
    """One word of a hypothesis. `confidence` only where the engine measures it."""

    text: Name
    start_sample: Natural
    end_sample: Natural
    confidence: Finite | None


class Setup(Value, frozen=True):
    """How to open a session on a worker."""

    language: Name
    partials: bool
    progress_samples: Natural
    """Report progress each time this many samples more were done."""
    commit: Commit | None
    """Where to continue a session that was moved; None for a new one."""
    progress_taken: bool = False
    """Report it as well each time so many were taken."""
    look_ahead_ms: Natural | None = None
    """How much audio behind a word the model may wait for, where it leaves the choice; None for the worker's own."""
    appends: bool = False
    """Partials are wanted where they only grow, whatever `partials` says."""


class Load(Value, frozen=True):
    """How busy a worker is, over its last heartbeat interval."""

    steps: Natural
    """Steps since the start."""
    pending_chunks: Natural
    """Complete chunks that wait for a step or are in the one under way."""
    step_ms_p50: Finite
    step_ms_p99: Finite
    busy: Finite
    """Share of the interval spent in steps, 0 to 1."""
    real_time_factor: Finite
    """Seconds spent in steps per second of audio; 0 without audio."""
    chunk_ms: Finite = 0.0
    """What one more chunk adds to a step, without work that an engine leaves out under load; 0 where unknown."""
    late_ms_p95: Finite = 0.0
    """How long after they were due chunks went into their steps."""


# ---- Frontend to broker ----


class RegisterFrontend(Value, frozen=True, tag=1):
    version: Natural
    name: Name


class Open(Value, frozen=True, tag=2):
    """Ask for a slot. Body: Setup. Answered by Pinned or Refused."""

    session: SessionId
    epoch: Natural
    """0 at first, one more with every move to another worker."""
    model: Name
    """Empty for the default model."""
    language: Name
    resumable: bool = False
    """Whether its client may come back: should the frontend die, the lease waits for Resume."""


class Close(Value, frozen=True, tag=3):
    """Give a lease back; what the worker still holds of it is dropped."""

    lease: Lease


class Detach(Value, frozen=True, tag=22):
    """The client of a resumable session is gone and may come back: the lease waits for Resume, for a limited time."""

    lease: Lease


class Resume(Value, frozen=True, tag=23):
    """Take over a session whose client has come back, from whatever frontend had it. Body: Setup, without a commit.

    Answered by Pinned, then by the worker's Resumed; or by Refused.
    """

    session: SessionId
    utterance: Natural
    """The first whose final the client has not got."""


class FrontendHeartbeat(Value, frozen=True, tag=4):
    """Renews the leases of silent sessions. Answered by Pool."""

    leases: Annotated[tuple[Natural, ...], Meta(max_length=65536)]


class Bundle(Value, frozen=True, tag=5):
    """Frames for one peer, forwarded whole. Body: array of frames, either direction."""

    to: Identity
    leases: Leases


# ---- Worker to broker ----


class RegisterWorker(Value, frozen=True, tag=6):
    version: Natural
    name: Name
    spec: Spec


class WorkerHeartbeat(Value, frozen=True, tag=7):
    load: Load


class Closed(Value, frozen=True, tag=8):
    """The slot of this lease is wiped and free."""

    lease: Lease


class Drain(Value, frozen=True, tag=9):
    """Take nothing new to me; I end when my last session has."""


class Vote(Value, frozen=True, tag=26):
    """To every broker: whom the worker serves for the next 600 ms. Answers each Claim, also one that it refuses."""

    term: Natural
    """The highest that it has voted in."""
    boot: Natural
    """The broker it votes for; 0: nobody."""
    number: Natural
    """Of the claim that was granted last."""


# ---- Broker to peers ----


class Welcome(Value, frozen=True, tag=10):
    boot: Natural
    """The broker's incarnation, the upper 31 bits of its leases."""
    heartbeat_s: Finite
    term: Natural = 0
    """In which it leads; 0 where it needs no votes."""


class Claim(Value, frozen=True, tag=25):
    """A broker asks for the worker's vote. Answered by Vote."""

    term: Natural
    boot: Natural
    number: Natural
    """One more with every claim: a vote counts from when its claim was sent."""


class Standby(Value, frozen=True, tag=27):
    """The peer is registered, but this broker does not lead: what it had pinned before is gone."""

    boot: Natural


class Unregistered(Value, frozen=True, tag=11):
    """The broker does not know the sender: register (again); what was pinned before is gone."""


class Rejected(Value, frozen=True, tag=12):
    """The registration is refused; the process cannot be used with this broker."""

    slug: Name
    detail: Name


class Pinned(Value, frozen=True, tag=13):
    """A session has a slot; its frames go to `worker` from now on."""

    session: SessionId
    epoch: Natural
    lease: Lease
    worker: Identity
    spec: Spec
    resumed: bool = False
    """The answer to Resume, not to Open."""


class Refused(Value, frozen=True, tag=14):
    session: SessionId
    epoch: Natural
    slug: Name
    detail: Name
    retry_after_s: Finite


class Lost(Value, frozen=True, tag=15):
    """The lease is over through no doing of its session: its worker died or the lease expired."""

    lease: Lease
    slug: Name


class Pool(Value, frozen=True, tag=16):
    """What the workers offer now; answers a frontend's heartbeat and is sent when it changes."""

    workers: Natural
    slots: Natural
    slots_free: Natural
    models: Annotated[tuple[Label, ...], Meta(max_length=256)]


class Grant(Value, frozen=True, tag=17):
    """Open `slot` for `lease`; results go to `frontend`. Body: Setup, as it came with Open."""

    lease: Lease
    slot: Natural
    session: SessionId
    frontend: Identity


class Transfer(Value, frozen=True, tag=24):
    """Continue the session of `from_lease`, from its last commit, as `lease` in the same slot. Body: Setup.

    Results go to `frontend`: Resumed, then the finals from `utterance` on that were made before.
    """

    from_lease: Lease
    lease: Lease
    slot: Natural
    session: SessionId
    frontend: Identity
    utterance: Natural


class Release(Value, frozen=True, tag=18):
    """Close this lease's slot, drop what it holds, answer Closed. Repeated until answered."""

    lease: Lease


class Stale(Value, frozen=True, tag=19):
    """A bundle named a lease that is not current for its sender."""

    lease: Lease


# ---- Control socket ----


class StatusRequest(Value, frozen=True, tag=20):
    version: Natural


class WorkerStatus(Value, frozen=True):
    name: Name
    spec: Spec
    sessions: Natural
    draining: bool
    load: Load


class FrontendStatus(Value, frozen=True):
    name: Name
    sessions: Natural


class Status(Value, frozen=True, tag=21):
    uptime_s: Finite
    workers: Annotated[tuple[WorkerStatus, ...], Meta(max_length=4096)]
    frontends: Annotated[tuple[FrontendStatus, ...], Meta(max_length=4096)]
    sessions_total: Natural
    refused_total: Natural
    lost_total: Natural
    leads: bool = True
    """False for a standby."""


# ---- Frames: the body of a bundle ----


class Audio(Value, frozen=True, tag=1):
    """PCM16LE, 16 kHz, mono; `first_sample` is its place in the session."""

    lease: Lease
    first_sample: Natural
    pcm: Pcm


class Flush(Value, frozen=True, tag=2):
    """End the utterance here; answered by Flushed when all audio before it has left the model."""

    lease: Lease
    marker: Marker


class Checkpoint(Value, frozen=True, tag=12):
    """Ask for a commit here, in the middle of an utterance, if the engine can; answered by Progress with it."""

    lease: Lease


class Stop(Value, frozen=True, tag=3):
    """End of audio: the remaining finals follow, then Ended."""

    lease: Lease


class Progress(Value, frozen=True, tag=4):
    """Samples received and stepped since the session's start; `commit` when it advanced without a final."""

    lease: Lease
    taken: Natural
    done: Natural
    commit: Commit | None


class Partial(Value, frozen=True, tag=5):
    """The current utterance's text so far; replaced by the next Partial or Final."""

    lease: Lease
    utterance: Natural
    text: Text
    start_sample: Natural
    end_sample: Natural
    stable: Natural | None = None
    """So many characters of the text will come in a final as they are. None: the engine does not know."""


class Final(Value, frozen=True, tag=6):
    """An utterance's text; never changes. Its commit confirms it."""

    lease: Lease
    utterance: Natural
    text: Text
    start_sample: Natural
    end_sample: Natural
    endpoint: EndpointKind
    """Why the utterance ended: the speaker fell silent, it reached the longest length, or a flush."""
    confidence: Finite | None
    words: Annotated[tuple[Word, ...], Meta(max_length=4096)] | None
    commit: Commit


class Speech(Value, frozen=True, tag=10):
    """The speaker began or ceased to speak, there; says nothing about text."""

    lease: Lease
    kind: Literal["start", "end"]
    sample: Natural


class Flushed(Value, frozen=True, tag=7):
    lease: Lease
    marker: Marker


class Resumed(Value, frozen=True, tag=11):
    """First of all in a resumed session: from where its audio is needed again."""

    lease: Lease
    commit: Commit | None
    """None: from the beginning."""


class Ended(Value, frozen=True, tag=8):
    """The session is complete: every final before has been sent."""

    lease: Lease


class Failed(Value, frozen=True, tag=9):
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
