"""The record of a run for the checker: the events of all sessions, all faults, and all measurements. Pure.

All times are seconds since the run began, by one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tests.nemesis.schedule import Fault, kind_of
from tests.nemesis.truth import Truth

# ---- One conversation ----


@dataclass(frozen=True, slots=True)
class Opened:
    """A connection was made and `start` sent."""

    at_s: float
    resumes: bool = False


@dataclass(frozen=True, slots=True)
class Readied:
    """`ready`: the server accepts audio, from this sample on."""

    at_s: float
    session: str
    from_sample: int = 0


@dataclass(frozen=True, slots=True)
class Partial:
    at_s: float
    utterance: int
    text: str


@dataclass(frozen=True, slots=True)
class Final:
    at_s: float
    utterance: int
    start_s: float
    end_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Heard:
    """The whole text so far, in a dialect other than the native one."""

    at_s: float
    text: str


@dataclass(frozen=True, slots=True)
class Answered:
    """`flushed` was received."""

    at_s: float
    marker: str


@dataclass(frozen=True, slots=True)
class Committed:
    """`ack` with a new commit: the client drops the audio before that sample."""

    at_s: float
    samples: int


@dataclass(frozen=True, slots=True)
class Moved:
    """`migrating` was received."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """The client has sent all audio and `stop`."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """`end` was received."""

    at_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """`error` was received, or another message or close that says why the session failed."""

    at_s: float
    code: str
    message: str
    audio_s: float | None = None
    """How much audio the server says is transcribed, in seconds, if it says so."""


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection broke. If no event follows, the client gave up."""

    at_s: float
    why: str
    silent_s: float = 0.0
    """How long nothing had arrived, where only this shows that the connection is dead."""


@dataclass(frozen=True, slots=True)
class Hung:
    """No message arrived for so long that the client closed the connection."""

    at_s: float


Event = (
    Opened | Readied | Partial | Final | Heard | Answered | Committed | Moved | Stopped | Ended | Failed | Cut | Hung
)
TERMINAL = (Ended, Failed)
NATIVE = "native"
GOING_AWAY = "going-away"
"""The code of a Failed that says that the server stops; speakers use it for every dialect."""


@dataclass(slots=True)
class Conversation:
    """One client's session with all its connections."""

    number: int
    truth: Truth
    seat: int = 0
    """Number of its seat: the sessions of a seat follow each other."""
    probe: bool = False
    """Whether it only checks that a ready frontend serves sessions."""
    events: list[Event] = field(default_factory=list)
    dialect: str = NATIVE
    sent_samples: int = 0
    """How much audio the client has sent, from the first sample on."""
    said_goodbye: bool = False
    """Whether the server closed the last connection in order."""
    all_sent: bool = False
    """Whether the client had sent all its audio when the session was over."""

    @property
    def name(self) -> str:
        """Its number and the server's session id, so that logs can be searched; or its dialect."""
        ids = [event.session for event in self.events if isinstance(event, Readied)]
        known = self.dialect if self.dialect != NATIVE else (ids or [""])[-1]
        return f"session {self.number}" + (f" ({known})" if known else "")

    @property
    def opened_s(self) -> float | None:
        return next((event.at_s for event in self.events if isinstance(event, Opened)), None)

    @property
    def ready_s(self) -> float | None:
        return next((event.at_s for event in self.events if isinstance(event, Readied)), None)

    @property
    def stopped_s(self) -> float | None:
        return next((event.at_s for event in self.events if isinstance(event, Stopped)), None)

    @property
    def over_s(self) -> float | None:
        """When it was over for its client; None while it runs."""
        if self.events and isinstance(self.events[-1], Ended | Failed | Cut | Hung):
            silent_s = getattr(self.events[-1], "silent_s", 0.0)
            return self.events[-1].at_s - silent_s
        return None

    @property
    def whole(self) -> bool:
        """Whether it received `end`."""
        return any(isinstance(event, Ended) for event in self.events)

    @property
    def refused(self) -> Failed | Cut | None:
        """The error or cut of a session that never became ready; None for others."""
        last = self.events[-1] if self.events else None
        return last if isinstance(last, Failed | Cut) and self.ready_s is None else None

    @property
    def cut(self) -> Cut | None:
        """The cut that ended a session after it was ready; None for others."""
        last = self.events[-1] if self.events else None
        return last if isinstance(last, Cut) and self.ready_s is not None else None

    def finals(self) -> Iterator[Final]:
        return (event for event in self.events if isinstance(event, Final))

    def texts_at(self) -> list[float]:
        """The times of all texts."""
        return [event.at_s for event in self.events if isinstance(event, Partial | Final | Heard)]

    def text(self) -> str:
        """The whole text that its client has at its end; in the native dialect, all finals."""
        if self.dialect == NATIVE:
            return " ".join(final.text for final in self.finals())
        return next((event.text for event in reversed(self.events) if isinstance(event, Heard)), "")

    def story(self, around: int | None = None, length: int = 6) -> str:
        """The last `length` events up to the event with that index, as text; by default up to the last event."""
        end = len(self.events) if around is None else around + 1
        return "\n".join(f"      {_line(event)}" for event in self.events[max(0, end - length) : end])


def _line(event: Event) -> str:
    fields = ", ".join(f"{name}={getattr(event, name)!r}" for name in event.__dataclass_fields__ if name != "at_s")
    return f"{event.at_s:8.3f} s  {type(event).__name__}({fields})"


# ---- Faults ----


@dataclass(slots=True)
class Strike:
    """A fault that was injected."""

    fault: Fault
    at_s: float
    released_s: float
    """When the fault itself was over; for a kill, immediately."""
    whole_s: float
    """When the pool was whole again: all processes run and are registered."""
    said: str = ""
    """What else is worth to be shown of it."""

    @property
    def kind(self) -> str:
        return kind_of(self.fault)


@dataclass(frozen=True, slots=True)
class Poisoned:
    """What became of a session with poisonous audio."""

    strike: Strike
    end: str
    """The code of its error, or how else it ended."""
    deaths: int
    """How many worker processes were replaced meanwhile."""


@dataclass(frozen=True, slots=True)
class Absence:
    """A span in which no process of this name was running; the real span may be slightly longer."""

    name: str
    from_s: float
    until_s: float


# ---- Measurements ----


@dataclass(frozen=True, slots=True)
class Slots:
    """The broker's answer to a status request."""

    asked_s: float
    at_s: float
    in_use: int
    pending_chunks: int
    workers: int


@dataclass(frozen=True, slots=True)
class Look:
    """The answer of one frontend to GET /ready; None if it did not answer."""

    at_s: float
    frontend: str
    ready: bool | None


@dataclass(frozen=True, slots=True)
class Probe:
    """A session that was opened at a frontend immediately after it had reported that it was ready."""

    at_s: float
    frontend: str
    conversation: Conversation


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory and descriptors of one process at one moment."""

    at_s: float
    name: str
    pid: int
    rss_mb: float
    descriptors: int


@dataclass(slots=True)
class History:
    """A whole run."""

    conversations: list[Conversation] = field(default_factory=list)
    strikes: list[Strike] = field(default_factory=list)
    skipped: list[tuple[Fault, str]] = field(default_factory=list)
    """Faults that were impossible, with the reasons: not supported by this machine, or no victim."""
    absences: list[Absence] = field(default_factory=list)
    poisoned: list[Poisoned] = field(default_factory=list)
    slots: list[Slots] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    workers: int = 0
    resting: dict[str, int] = field(default_factory=dict)
    """Open descriptors of each process before the first session."""
    rested: dict[str, int] = field(default_factory=dict)
    """Open descriptors of each process after the last session."""
    freed_s: float | None = None
    """When, after the last session, no slot was in use any more."""
    sessions_from_s: float = 0.0
    """When the first session could begin: the time before is start-up."""
    end_s: float = 0.0

    def all_conversations(self) -> Iterable[Conversation]:
        """All conversations, including those of the probes."""
        return [*self.conversations, *(probe.conversation for probe in self.probes)]

    def struck(self, from_s: float, until_s: float) -> list[Strike]:
        """The faults that began in that time."""
        return [strike for strike in self.strikes if from_s <= strike.at_s <= until_s]

    def disturbed(self, from_s: float, until_s: float) -> list[Strike]:
        """The faults that had an effect in that time: from a fault's start until the pool was whole again."""
        return [strike for strike in self.strikes if strike.at_s <= until_s and strike.whole_s >= from_s]
