"""The closed set of events between a dialect's codec and the session model.

What a worker says (`Speech`, `Partial`, `Final`, `Flushed`) passes as it came; its lease means nothing to a codec.
"""

from __future__ import annotations

from dataclasses import dataclass

from asr_proto.errors import SERVICE_SLUGS, AsrError, ServiceError
from asr_proto.messages import Final, Flushed, Partial, Speech

# ---- What a client does ----


@dataclass(frozen=True, slots=True)
class Resume:
    """The session that a client continues after its connection broke."""

    session: str
    utterance: int
    """The first whose final it has not got."""


@dataclass(frozen=True, slots=True)
class Start:
    """Begin the session. An empty model or language means the default."""

    model: str = ""
    language: str = ""
    partials: bool = True
    look_ahead_ms: int | None = None
    """How much audio behind a word the model may wait for, where it leaves the choice; None for the worker's own."""
    progress_samples: int = 16000
    """How often the codec wants to hear of progress, in 16 kHz samples."""
    progress_taken: bool = False
    """It wants to hear of audio that was taken and is not done, too."""
    messages_per_s_max: int = 0
    """A rate limit of the dialect itself, beside the frontend's; 0 for none."""
    whole: bool = False
    """All the audio is here already: how often a piece of it comes means nothing."""
    resumable: bool = False
    """The client can continue the session over another connection, should this one break."""
    resume: Resume | None = None
    """Set: it does."""
    appends: bool = False
    """Partials are wanted of engines whose text only grows, whatever `partials` says."""


@dataclass(frozen=True, slots=True)
class Audio:
    """PCM16LE, 16 kHz, mono, whole samples."""

    pcm: bytes


@dataclass(frozen=True, slots=True)
class Flush:
    """End the utterance here; answered by Flushed."""

    marker: str


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """The client is there, though it says nothing."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End of audio; answered by the remaining finals and Bye."""


@dataclass(frozen=True, slots=True)
class Abort:
    """The client is gone: nobody listens any more."""


@dataclass(frozen=True, slots=True)
class Detach:
    """The client's connection broke; if the session is resumable it may come back, to any frontend."""


# ---- What the service says ----


@dataclass(frozen=True, slots=True)
class Ready:
    """The session has its slot."""

    session: str
    engine: str
    model: str
    chunk_samples: int
    from_sample: int | None = None
    """Set in a resumed session: from where its client sends audio, in 16 kHz samples."""


@dataclass(frozen=True, slots=True)
class Progress:
    """16 kHz samples since the session's start: accepted here, received by the worker, stepped, confirmed."""

    accepted: int
    taken: int
    done: int
    committed: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Something a client may like to know: the session is moving to another worker."""

    kind: str = "migrating"


@dataclass(frozen=True, slots=True)
class GoAway:
    """This frontend stops within that time; who can, goes on over another one."""

    time_left_s: float


@dataclass(frozen=True, slots=True)
class Error:
    """The session is over."""

    slug: str
    detail: str
    retry_after_s: float = 0.0

    @classmethod
    def of(cls, error: AsrError) -> Error:
        """The event for an error of ours."""
        retry_after_s = error.retry_after_s if isinstance(error, ServiceError) else 0.0
        return cls(error.slug, error.detail, retry_after_s)

    @property
    def is_service(self) -> bool:
        """Whether it is the service's fault, not the client's."""
        return self.slug in SERVICE_SLUGS


@dataclass(frozen=True, slots=True)
class Bye:
    """Everything was said; the session is over. With the reason GOING_AWAY it waits for its client elsewhere."""

    reason: str = "stopped"


GOING_AWAY = "going-away"


ClientEvent = Start | Audio | Flush | KeepAlive | Stop | Abort | Detach
ServiceEvent = Ready | Progress | Speech | Partial | Final | Flushed | Notice | GoAway | Error | Bye
