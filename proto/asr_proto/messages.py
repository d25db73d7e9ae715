"""Every message between the processes: one frozen class each, in closed unions.

The broker reads *routing messages*. A routing message may carry a body that the broker never decodes: a `Setup` for
`Open`, `Resume`, `Grant` and `Transfer`, an array of *frames* for `Bundle`. A registration carries a `Hello`. The last
part of a field's name is its unit: `_s` seconds, `_ms` milliseconds, `_sample` an index of samples. Sample indexes
count 16 kHz mono samples from the session's first one.

On the wire a class is the array of its fields, after its tag if it has one. proto/README.md specifies the bytes and the
rules for changes: a field is added at the end, with a default, and a tag is never given to another class.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

PROTOCOL_VERSION = 2
"""The newest version that this release understands. A change that breaks the rules of growth raises it."""
PROTOCOL_VERSION_MIN = 2
"""The oldest version that this release still understands."""

INT_MAX = 2**63 - 1
SLOTS_MAX = 4096
"""Most slots of one worker: as many leases as one bundle may name."""
SAMPLES_MAX = 7 * 24 * 3600 * 16_000
"""Longest session, in samples: one week."""
CHUNK_SAMPLES_MAX = 180 * 16_000
"""Longest chunk, in samples: the audio that a worker queues for one session."""
LOOK_AHEAD_MS_MAX = 60_000
MODELS_MAX = 256
WORKERS_MAX = 4096

Natural = Annotated[int, Meta(ge=0, le=INT_MAX)]
"""A number that is compared, and neither allocates nor divides: versions, terms, leases."""
Count = Annotated[int, Meta(ge=0, le=2**53)]
"""A total. A float holds it exactly."""
Epoch = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Boot = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Sample = Annotated[int, Meta(ge=0, le=SAMPLES_MAX)]
Utterance = Sample
"""The number of an utterance. Each has at least one sample."""
Slot = Annotated[int, Meta(ge=0, le=SLOTS_MAX - 1)]
Factor = Annotated[float, Meta(ge=0, le=1e9)]
"""How often one thing fits into another."""
Seconds = Annotated[float, Meta(ge=0, le=86_400.0)]
Uptime = Annotated[float, Meta(ge=0, le=1e10)]
"""Seconds since a start: up to three centuries."""
Milliseconds = Annotated[float, Meta(ge=0, le=86_400_000.0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Identity = Annotated[bytes, Meta(max_length=32)]
"""The ZeroMQ identity of one run of a process: new at every start."""
Lease = Natural
"""The grant of one slot of one worker to one epoch of one session; never reused."""
SessionId = Annotated[str, Meta(max_length=64)]
Name = Annotated[str, Meta(max_length=128)]
Label = Annotated[str, Meta(max_length=1024)]
LEASES_MAX = 4096
"""Largest number of leases in one message."""
Leases = Annotated[tuple[Natural, ...], Meta(max_length=LEASES_MAX)]
Text = Annotated[str, Meta(max_length=65536)]
STATE_BYTES_MAX = 8_388_608
"""Largest state that an engine may put into a commit, in bytes."""
State = Annotated[bytes, Meta(max_length=STATE_BYTES_MAX)]
Pcm = Annotated[bytes, Meta(max_length=2_097_152)]
Marker = Annotated[str, Meta(max_length=256)]

EndpointKind = Literal["silence", "length", "flush"]
RESUMED = "resumed"
"""The slug of Lost and Refused when the client has resumed its session at another frontend."""
DRAINS = "worker-drains"
"""The slug of Lost for a lease that still exists, at a worker that drains while another has room: the session should
move."""


class Value(Struct, frozen=True, array_like=True, gc=False):
    """Base of all messages and their parts. None contains itself, so the garbage collector need not track them."""


class Hello(Value, frozen=True, tag=28):
    """The protocol versions that a process understands. A broker can read it without the message beside it.

    A process sends it in a separate part with each registration and each StatusRequest. Its fields never change.
    """

    version: Natural
    """The newest version."""
    version_min: Natural
    """The oldest version."""
    name: Name


# ---- Values inside messages ----


class Spec(Value, frozen=True):
    """The properties of a worker's engine. Part of its registration."""

    engine: Name
    model: Name
    languages: Annotated[tuple[Label, ...], Meta(max_length=256)]
    slots: Annotated[int, Meta(ge=1, le=SLOTS_MAX)]
    """Number of sessions that the worker serves at the same time."""
    chunk_samples: Annotated[int, Meta(ge=1, le=CHUNK_SAMPLES_MAX)]
    """Number of samples that one step takes from a session."""
    uncommitted_s_max: Seconds
    """Longest audio that no commit has confirmed yet, in seconds. A move to another worker replays this audio."""
    device: Name
    step_s_p99: Annotated[float, Meta(ge=0, le=600)] = 0.1
    """99th percentile of the step time, in seconds, as the engine states it. A worker that has work and makes no step
    for four times as long hangs."""
    checksum: Name = ""
    """The first 16 hexadecimal digits of the SHA-256 of the model's weights. Empty for an engine without a model."""
    license: Name = ""
    """License of the weights. Empty when their file or folder states none."""
    encode_factor: Factor = 1.0
    """How often the model encodes each second of audio. Above 1 when its windows overlap."""
    appends: bool = False
    """Whether an utterance's text only grows: each partial is the beginning of its final."""


class Commit(Value, frozen=True):
    """A point from which another worker can continue: replay audio from `samples` into a slot opened with `state`."""

    samples: Sample
    utterance: Utterance
    """Number of the next utterance. All utterances before it are final."""
    state: State
    """Opaque state of the engine, its VAD and its endpointer."""
    confirmed: Sample | None = None
    """Mid-utterance commits only: the last sample whose text is already final."""

    @property
    def confirmed_samples(self) -> int:
        """All text before this sample is final: the audio before it is not needed again, even if the state is lost."""
        return self.samples if self.confirmed is None else self.confirmed


class Word(Value, frozen=True):
    """One word of a hypothesis."""

    text: Name
    start_sample: Sample
    end_sample: Sample
    confidence: Share | None
    """None when the engine does not measure it."""


class Suspicion(Value, frozen=True):
    """The audio of a session that may have caused the death of a worker: the worker steps it alone."""

    from_sample: Sample
    """Audio before this sample has left a model without harm."""
    until_sample: Sample
    """The end of the audio that the lost worker had, or may have had."""


class Setup(Value, frozen=True):
    """The options of a session, for the worker that opens it."""

    language: Name
    """For example `en` or `en-GB`. Empty: unspecified."""
    partials: bool
    """Whether the client wants partials."""
    progress_samples: Annotated[int, Meta(ge=1, le=SAMPLES_MAX)]
    """The worker sends Progress each time the model has done this many more samples."""
    commit: Commit | None
    """Where to continue a session that has moved. None for a new session."""
    progress_taken: bool = False
    """Whether the worker also sends Progress each time it has received `progress_samples` more samples."""
    look_ahead_ms: Annotated[int, Meta(ge=0, le=LOOK_AHEAD_MS_MAX)] | None = None
    """How much audio after a word the model may wait for, in milliseconds, if the model offers a choice. None: the
    worker's default."""
    appends: bool = False
    """Whether the client wants partials from an engine whose text only grows, even if `partials` is false."""
    suspicion: Suspicion | None = None
    """The session's audio that may be poisonous. None: no worker has died under the session."""


class Load(Value, frozen=True):
    """How busy a worker was in its last heartbeat interval."""

    steps: Count
    """Number of steps since the worker's start."""
    pending_chunks: Count
    """Number of complete chunks that wait for a step or are in the current step."""
    step_ms_p50: Milliseconds
    step_ms_p99: Milliseconds
    busy: Share
    """Share of the interval spent in steps, 0 to 1."""
    real_time_factor: Factor
    """Seconds spent in steps per second of audio. 0 without audio."""
    chunk_ms: Milliseconds = 0.0
    """Milliseconds that one more chunk adds to a step, without work that the engine skips under load. 0: unknown."""
    late_ms_p95: Milliseconds = 0.0
    """Milliseconds between a chunk's deadline and the start of its step, 95th percentile."""


# ---- Frontend to broker ----


class RegisterFrontend(Value, frozen=True, tag=1):
    version: Natural
    name: Name


class Open(Value, frozen=True, tag=2):
    """Requests a slot for a session. Body: Setup. Answered by Pinned or Refused."""

    session: SessionId
    epoch: Epoch
    """0 at first; each move to another worker adds 1."""
    model: Name
    """Empty for the default model."""
    language: Name
    resumable: bool = False
    """Whether the client may come back. If the frontend dies, the broker keeps the lease for a Resume."""
    avoid: Identity = b""
    """The worker that the session leaves because it did nothing. It gets the session only if no other worker can."""
    suspected_at: Name = ""
    """Name of the worker that the session may have killed last. Empty: the session is not under suspicion."""
    replaces: Lease = 0
    """A lease of the same session at a frontend that has handed the session over. It ends now, and its slot is free
    for this Open. 0: none."""


class Close(Value, frozen=True, tag=3):
    """Ends a lease. The worker drops what it still holds of the session."""

    lease: Lease


class Detach(Value, frozen=True, tag=22):
    """The client of a resumable session is gone and may come back. The broker keeps the lease for a limited time."""

    lease: Lease


class Resume(Value, frozen=True, tag=23):
    """Takes over a session whose client has come back, also from another frontend. Body: Setup, without a commit.

    Answered by Refused, or by Pinned and then by the worker's Resumed.
    """

    session: SessionId
    utterance: Utterance
    """Number of the first utterance whose final the client has not received."""


class FrontendHeartbeat(Value, frozen=True, tag=4):
    """Renews these leases. Answered by Pool, and by Stale for each lease that is over."""

    leases: Annotated[tuple[Natural, ...], Meta(max_length=65536)]


class Bundle(Value, frozen=True, tag=5):
    """Frames for one peer, in either direction. The broker forwards the bundle whole. Body: array of frames."""

    to: Identity
    """The worker or frontend that receives the bundle."""
    leases: Leases
    """The leases of the frames in the body, each once."""


# ---- Worker to broker ----


class RegisterWorker(Value, frozen=True, tag=6):
    version: Natural
    name: Name
    spec: Spec
    witness: Identity = b""
    """The identity with which the worker's witness sends Crashed after the worker's death. Empty: no witness."""


class WorkerHeartbeat(Value, frozen=True, tag=7):
    load: Load
    stuck: Leases = ()
    """The leases whose job has been in the engine for more than one heartbeat, while the worker itself was running."""


class Closed(Value, frozen=True, tag=8):
    """The worker has wiped the slot of this lease. The slot is free."""

    lease: Lease


class Drain(Value, frozen=True, tag=9):
    """The worker takes no new session from now on, and ends after its last one. The broker lets its sessions move."""


class Crashed(Value, frozen=True, tag=31):
    """The worker is about to end because its engine failed; or, sent by its witness, the worker has ended."""

    leases: Leases
    """The leases for which the engine worked at that time. Empty: the engine did nothing, or its device has
    failed."""
    proven: bool
    """Whether the engine failed: an exception or a fatal signal. False: the process may have been killed."""


class Vote(Value, frozen=True, tag=26):
    """The broker that the worker serves for the next 600 ms. Sent to every broker, and as the answer to each Claim."""

    term: Natural
    """The highest term in which the worker has voted."""
    boot: Boot
    """The broker that has the vote. 0: no broker."""
    number: Natural
    """The number of the claim that the worker granted last."""


# ---- Broker to peers ----


class Welcome(Value, frozen=True, tag=10):
    boot: Boot
    """Random number of one run of the broker: the upper 31 bits of its leases."""
    heartbeat_s: Annotated[float, Meta(ge=0.01, le=3600)]
    """How often the peer sends a heartbeat."""
    term: Natural = 0
    """The term in which the broker leads. 0 for a broker that needs no votes."""


class Claim(Value, frozen=True, tag=25):
    """A broker requests the worker's vote. Answered by Vote."""

    term: Natural
    boot: Boot
    number: Natural
    """Each claim adds 1. It names the claim that a vote answers: the vote counts from the time the claim was sent."""


class Standby(Value, frozen=True, tag=27):
    """The peer is registered, but this broker does not lead. All leases that it granted to the peer have ended."""

    boot: Boot


class Unregistered(Value, frozen=True, tag=11):
    """The sender is not registered: it must register. All its leases of before have ended."""


class Rejected(Value, frozen=True, tag=12):
    """The broker does not accept the registration. The process cannot work with this broker."""

    slug: Name
    detail: Name


class Pinned(Value, frozen=True, tag=13):
    """The session has a slot. The frontend sends its frames to `worker` from now on."""

    session: SessionId
    epoch: Epoch
    lease: Lease
    worker: Identity
    spec: Spec
    resumed: bool = False
    """Whether this answers Resume and not Open."""


class Refused(Value, frozen=True, tag=14):
    session: SessionId
    epoch: Epoch
    slug: Name
    detail: Name
    retry_after_s: Annotated[float, Meta(ge=0, le=3600)]


class Lost(Value, frozen=True, tag=15):
    """The lease has ended, but not by Close: its worker died, it expired, or the client resumed elsewhere.

    With the slug DRAINS it ends when its session has moved.
    """

    lease: Lease
    slug: Name
    suspects: Count = 0
    """Number of leases for which the engine worked when the worker died, if this lease was one of them; else 0."""
    proven: bool = False
    """Whether the engine failed. False: the process may have been killed."""
    worker: Name = ""
    """Name of the worker that died."""


class Pool(Value, frozen=True, tag=16):
    """What the workers offer now. Answers a frontend's heartbeat; also sent when it changes."""

    workers: Count
    """Number of workers that take new sessions."""
    slots: Count
    slots_free: Count
    models: Annotated[tuple[Label, ...], Meta(max_length=MODELS_MAX)]
    busy: Annotated[tuple[Identity, ...], Meta(max_length=WORKERS_MAX)] = ()
    """The workers that reported waiting chunks in their last heartbeat."""


class Grant(Value, frozen=True, tag=17):
    """The worker opens `slot` for `lease` and sends results to `frontend`. Body: the Setup of the Open, unchanged."""

    lease: Lease
    slot: Slot
    session: SessionId
    frontend: Identity


class Transfer(Value, frozen=True, tag=24):
    """The worker continues the session of `from_lease` from its last commit, under `lease` in the same slot.

    It sends Resumed to `frontend`, then again the finals from `utterance` on. Body: the Setup of the Resume, unchanged.
    """

    from_lease: Lease
    lease: Lease
    slot: Slot
    session: SessionId
    frontend: Identity
    utterance: Utterance


class Release(Value, frozen=True, tag=18):
    """The worker wipes the slot of this lease and answers Closed. The broker repeats Release until then."""

    lease: Lease


class Stale(Value, frozen=True, tag=19):
    """The sender of a bundle or heartbeat does not hold this lease."""

    lease: Lease


# ---- Control socket ----


class StatusRequest(Value, frozen=True, tag=20):
    version: Natural


class WorkerStatus(Value, frozen=True):
    name: Name
    spec: Spec
    sessions: Count
    draining: bool
    load: Load


class FrontendStatus(Value, frozen=True):
    name: Name
    sessions: Count


class Status(Value, frozen=True, tag=21):
    uptime_s: Uptime
    workers: Annotated[tuple[WorkerStatus, ...], Meta(max_length=WORKERS_MAX)]
    frontends: Annotated[tuple[FrontendStatus, ...], Meta(max_length=4096)]
    sessions_total: Count
    refused_total: Count
    lost_total: Count
    leads: bool = True
    """False for a standby."""


# ---- Frames: the body of a bundle ----


class Audio(Value, frozen=True, tag=1):
    """A piece of the session's audio, without a gap after the piece before."""

    lease: Lease
    first_sample: Sample
    """Index of the first sample of `pcm`."""
    pcm: Pcm
    """PCM16LE, 16 kHz, mono."""


class Flush(Value, frozen=True, tag=2):
    """The utterance ends here. Answered by Flushed when all audio before it has left the model."""

    lease: Lease
    marker: Marker
    """Any text. Flushed returns it."""


class Checkpoint(Value, frozen=True, tag=12):
    """Requests a commit in the middle of an utterance. If the engine can make one, Progress carries it."""

    lease: Lease


class Stop(Value, frozen=True, tag=3):
    """End of the audio. The worker sends the remaining finals, then Ended."""

    lease: Lease


class Progress(Value, frozen=True, tag=4):
    """How much audio of the session the worker has received and the model has done."""

    lease: Lease
    taken: Sample
    """Number of samples received since the session's first one."""
    done: Sample
    """Number of samples that have left the model since the session's first one."""
    commit: Commit | None
    """A commit that comes without a final, if there is one."""


class Partial(Value, frozen=True, tag=5):
    """The current utterance's text so far. The next Partial or Final of the utterance replaces it."""

    lease: Lease
    utterance: Utterance
    text: Text
    start_sample: Sample
    end_sample: Sample
    stable: Annotated[int, Meta(ge=0, le=65536)] | None = None
    """Number of characters at the beginning of the text that will not change. None: unknown."""


class Final(Value, frozen=True, tag=6):
    """An utterance's text, which never changes. Its commit confirms it."""

    lease: Lease
    utterance: Utterance
    text: Text
    start_sample: Sample
    end_sample: Sample
    endpoint: EndpointKind
    """Why the utterance ended: the speaker fell silent, it reached its greatest length, or a flush ended it."""
    confidence: Share | None
    """None when the engine does not measure it."""
    words: Annotated[tuple[Word, ...], Meta(max_length=4096)] | None
    """None when the engine has no times of words."""
    commit: Commit


class Speech(Value, frozen=True, tag=10):
    """The speaker began or stopped speaking at `sample`. It has no text."""

    lease: Lease
    kind: Literal["start", "end"]
    sample: Sample


class Flushed(Value, frozen=True, tag=7):
    lease: Lease
    marker: Marker


class Resumed(Value, frozen=True, tag=11):
    """The first frame of a resumed session. The client sends its audio again from the commit on."""

    lease: Lease
    commit: Commit | None
    """None: from the beginning of the session."""


class Ended(Value, frozen=True, tag=8):
    """The session is complete. The worker has sent all its finals."""

    lease: Lease


class Failed(Value, frozen=True, tag=9):
    """The worker cannot continue this session."""

    lease: Lease
    slug: Name
    detail: Name


FromFrontend = RegisterFrontend | Open | Close | Detach | Resume | FrontendHeartbeat | Bundle
FromWorker = RegisterWorker | WorkerHeartbeat | Bundle | Closed | Drain | Crashed | Vote
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
