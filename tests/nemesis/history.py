"""What happened in a run, as the checker reads it: what every session said and heard, every fault, every look. Pure.

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
    """Audio is taken, from this sample on."""

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
class Answered:
    """`flushed`."""

    at_s: float
    marker: str


@dataclass(frozen=True, slots=True)
class Committed:
    """`ack` with another commit than before: the client forgets what lies before that sample."""

    at_s: float
    samples: int


@dataclass(frozen=True, slots=True)
class Moved:
    """`migrating`."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Stopped:
    """Everything has been said."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """`end`."""

    at_s: float
    reason: str


@dataclass(frozen=True, slots=True)
class Failed:
    """`error`."""

    at_s: float
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection broke; the last of these, if nothing follows, means that the client gave up."""

    at_s: float
    why: str


@dataclass(frozen=True, slots=True)
class Hung:
    """Nothing came for so long that the client went away."""

    at_s: float


Event = Opened | Readied | Partial | Final | Answered | Committed | Moved | Stopped | Ended | Failed | Cut | Hung
TERMINAL = (Ended, Failed)


@dataclass(slots=True)
class Conversation:
    """One client's session with all its connections."""

    number: int
    truth: Truth
    seat: int = 0
    """Sessions of a seat follow each other."""
    probe: bool = False
    """Asked only whether readiness had told the truth."""
    events: list[Event] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The server's name for it too, so that logs can be searched."""
        ids = [event.session for event in self.events if isinstance(event, Readied)]
        return f"session {self.number}" + (f" ({ids[-1]})" if ids else "")

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
        """When it was over for its client; None while it goes on."""
        if self.events and isinstance(self.events[-1], Ended | Failed | Cut | Hung):
            return self.events[-1].at_s
        return None

    @property
    def whole(self) -> bool:
        """Whether it came to its proper end."""
        return any(isinstance(event, Ended) for event in self.events)

    @property
    def refused(self) -> Failed | Cut | None:
        """Why it never began, if so."""
        last = self.events[-1] if self.events else None
        return last if isinstance(last, Failed | Cut) and self.ready_s is None else None

    @property
    def cut(self) -> Cut | None:
        """How it ended before its end without a word."""
        last = self.events[-1] if self.events else None
        return last if isinstance(last, Cut) and self.ready_s is not None else None

    def finals(self) -> Iterator[Final]:
        return (event for event in self.events if isinstance(event, Final))

    def texts_at(self) -> list[float]:
        """When text came, of whatever kind."""
        return [event.at_s for event in self.events if isinstance(event, Partial | Final)]

    def story(self, around: int | None = None, length: int = 6) -> str:
        """What led to the event of that index; to the last one if none is given."""
        end = len(self.events) if around is None else around + 1
        return "\n".join(f"      {_told(event)}" for event in self.events[max(0, end - length) : end])


def _told(event: Event) -> str:
    fields = ", ".join(f"{name}={getattr(event, name)!r}" for name in event.__dataclass_fields__ if name != "at_s")
    return f"{event.at_s:8.3f} s  {type(event).__name__}({fields})"


# ---- What was done to the pool ----


@dataclass(slots=True)
class Strike:
    """A fault that was injected."""

    fault: Fault
    at_s: float
    released_s: float
    """When the fault itself was over; at once for a signal that kills."""
    whole_s: float
    """When everything that it had hit was there again."""

    @property
    def kind(self) -> str:
        return kind_of(self.fault)


@dataclass(frozen=True, slots=True)
class Absence:
    """No process of this name was running. A bound from within: from its death to the start of the next one."""

    name: str
    from_s: float
    until_s: float


# ---- What was seen of it ----


@dataclass(frozen=True, slots=True)
class Slots:
    """The broker's answer to `asr status`."""

    asked_s: float
    at_s: float
    in_use: int
    pending_chunks: int
    workers: int


@dataclass(frozen=True, slots=True)
class Look:
    """GET /ready of one frontend; None if it did not answer."""

    at_s: float
    frontend: str
    ready: bool | None


@dataclass(frozen=True, slots=True)
class Probe:
    """A session that was opened at a frontend as soon as it had said that it was ready."""

    at_s: float
    frontend: str
    conversation: Conversation


@dataclass(frozen=True, slots=True)
class Memory:
    """One process at one moment."""

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
    """Faults that this machine cannot have, or that found nobody, and why."""
    absences: list[Absence] = field(default_factory=list)
    slots: list[Slots] = field(default_factory=list)
    looks: list[Look] = field(default_factory=list)
    probes: list[Probe] = field(default_factory=list)
    memory: list[Memory] = field(default_factory=list)
    workers: int = 0
    resting: dict[str, int] = field(default_factory=dict)
    """Descriptors of each process before the first session."""
    rested: dict[str, int] = field(default_factory=dict)
    """And after the last one."""
    freed_s: float | None = None
    """When, after the last session, no slot was in use any more."""
    speaking_s: float = 0.0
    """When the first session could begin: what comes before is start-up."""
    end_s: float = 0.0

    def everybody(self) -> Iterable[Conversation]:
        """All conversations, those of the probes too."""
        return [*self.conversations, *(probe.conversation for probe in self.probes)]

    def struck(self, from_s: float, until_s: float) -> list[Strike]:
        """The faults that began in that time."""
        return [strike for strike in self.strikes if from_s <= strike.at_s <= until_s]

    def disturbed(self, from_s: float, until_s: float) -> list[Strike]:
        """The faults of which anything was to be felt in that time."""
        return [strike for strike in self.strikes if strike.at_s <= until_s and strike.whole_s >= from_s]
