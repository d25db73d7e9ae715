"""The closed set of events between a dialect's codec and a session.

A worker's `Speech`, `Partial`, `Final` and `Flushed` are passed on unchanged; codecs ignore their lease.
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
    """Number of the first utterance whose final the client has not received."""


@dataclass(frozen=True, slots=True)
class Start:
    """Begin the session. An empty model or language means the default."""

    model: str = ""
    language: str = ""
    partials: bool = True
    look_ahead_ms: int | None = None
    """Audio after a word that the model may wait for, in ms, if the engine leaves a choice; None for the default."""
    progress_samples: int = 16000
    """Interval between Progress events, in 16 kHz samples."""
    progress_taken: bool = False
    """Whether Progress events are also sent for audio that the worker has received and not processed."""
    messages_per_s_max: int = 0
    """The dialect's rate limit, in addition to the frontend's; 0 for none."""
    whole: bool = False
    """Whether all the audio is already here (an upload); rate limits do not apply then."""
    resumable: bool = False
    """Whether the client can continue the session over another connection when this one breaks."""
    resume: Resume | None = None
    """The session to continue; None for a new one."""
    appends: bool = False
    """Whether engines whose text only grows send partials even if `partials` is False."""


@dataclass(frozen=True, slots=True)
class Audio:
    """PCM16LE, 16 kHz, mono, whole samples."""

    pcm: bytes


@dataclass(frozen=True, slots=True)
class Flush:
    """End the utterance here. The answer is Flushed."""

    marker: str


@dataclass(frozen=True, slots=True)
class KeepAlive:
    """The client is connected, though it sends no audio."""


@dataclass(frozen=True, slots=True)
class Stop:
    """End of audio. The answer is the remaining finals and Bye."""


@dataclass(frozen=True, slots=True)
class Abort:
    """The client is gone for good."""


@dataclass(frozen=True, slots=True)
class Detach:
    """The client's connection broke. The client of a resumable session may return, to any frontend."""


# ---- What the service sends ----


@dataclass(frozen=True, slots=True)
class Ready:
    """The session has its slot."""

    session: str
    engine: str
    model: str
    chunk_samples: int
    from_sample: int | None = None
    """In a resumed session: the 16 kHz sample from which the client sends its audio; else None."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the audio has come, in 16 kHz samples since the session's start."""

    accepted: int
    """Received by this frontend."""
    taken: int
    """Received by the worker."""
    done: int
    """Processed by the engine."""
    committed: int
    """Confirmed: the text before this sample is final."""


@dataclass(frozen=True, slots=True)
class Notice:
    """Information that needs no reaction: the session moves to another worker."""

    kind: str = "migrating"


@dataclass(frozen=True, slots=True)
class GoAway:
    """This frontend stops within that time. A client that can resume continues over another frontend."""

    time_left_s: float


@dataclass(frozen=True, slots=True)
class Error:
    """The session is over."""

    slug: str
    detail: str
    retry_after_s: float = 0.0

    @classmethod
    def of(cls, error: AsrError) -> Error:
        """The event for an exception."""
        retry_after_s = error.retry_after_s if isinstance(error, ServiceError) else 0.0
        return cls(error.slug, error.detail, retry_after_s)

    @property
    def is_service(self) -> bool:
        """Whether the service caused the error, and not the client."""
        return self.slug in SERVICE_SLUGS


@dataclass(frozen=True, slots=True)
class Bye:
    """The session is over here, and its client received everything that belongs to it.

    With the reason GOING_AWAY the client had not ended its audio, and the server stops. A client that can resume does
    so elsewhere. For any other client, all audio that was received from it has its finals.
    """

    reason: str = "stopped"


GOING_AWAY = "going-away"


ClientEvent = Start | Audio | Flush | KeepAlive | Stop | Abort | Detach
ServiceEvent = Ready | Progress | Speech | Partial | Final | Flushed | Notice | GoAway | Error | Bye
