"""The interface of an engine: a step function over a batch of slots. Engines know no sessions, sockets or dialects.

A worker calls `open`, `step` and `close` from one thread. All state of a session is in its slot, and `close` wipes it.
Sample positions count 16 kHz samples from the start of the session. `open` with a Snapshot continues at its `sample`.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from asr_proto.audio import Pcm16
from asr_proto.messages import EndpointKind, Spec, Word


@dataclass(frozen=True, slots=True)
class SlotOptions:
    """The settings of one session."""

    language: str = "en"
    """A language tag such as en or en-GB; empty for any."""
    partials: bool = True
    """Whether the engine returns partials."""
    look_ahead_ms: int | None = None
    """Milliseconds of audio after a word that the model may wait for. An engine with a fixed look-ahead ignores it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A point from which another engine of the same kind can continue: replay audio from `sample` on top of `state`.

    Snapshots come with finals, in silence and from `Engine.snapshot`. The `sample` of a slot's snapshots never
    decreases. It never lies before that of the snapshot with which the slot was opened. Audio before the latest one is
    dropped.
    """

    sample: int
    """The first sample to replay."""
    state: bytes
    """Opaque state of the engine; empty where none is needed."""
    unsaid_sample: int | None = None
    """The sample at which the first word begins that is in `state` and in no final yet; None where there is none."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The samples of one slot for one step."""

    slot: int
    pcm: Pcm16
    """int16 [chunk_samples]; shorter, possibly empty, only when `flush` is set."""
    flush: bool = False
    """Whether the utterance ends after these samples. The engine then returns Drained after their text."""
    deadline_s: float = 0.0
    """Seconds on the step's clock at which a client in real time expects its text. Earlier is more urgent."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Text of a slot's current utterance: a final where `endpoint` is set, else a partial.

    A partial replaces the partial before it; an empty one withdraws it. Audio before a final's snapshot is not needed
    again.
    """

    slot: int
    text: str
    start_sample: int
    end_sample: int
    endpoint: EndpointKind | None = None
    """Why the utterance ended; None on partials."""
    snapshot: Snapshot | None = None
    """The point after the utterance; None on partials."""
    confidence: float | None = None
    """0 to 1; None where the engine does not measure it."""
    words: tuple[Word, ...] | None = None
    """The words of `text` with their times; None where the engine does not measure them."""
    stable: int | None = None
    """Number of leading characters of a partial's `text` that the final keeps; None where that is unknown."""


@dataclass(frozen=True, slots=True)
class Advanced:
    """The slot can be continued from `snapshot`. No text became final: there was silence, or an empty utterance."""

    slot: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Voice:
    """Speech in this slot began (`speaking` is true) or ended at `sample`."""

    slot: int
    speaking: bool
    sample: int


@dataclass(frozen=True, slots=True)
class Drained:
    """All text of the audio up to this slot's last flush has been returned."""

    slot: int


Output = Hypothesis | Advanced | Voice | Drained


class Engine(Protocol):
    """The whole interface between a worker and a model. Engines derive from it; methods with a body are defaults."""

    @property
    def spec(self) -> Spec: ...

    def chunk_samples(self, look_ahead_ms: int | None) -> int:
        """Samples that one step takes from a session with this look-ahead.

        The only method that is called from another thread.
        """
        return self.spec.chunk_samples

    def open(self, slot: int, options: SlotOptions, snapshot: Snapshot | None) -> None:
        """Use a free slot for a session, which continues from `snapshot` where there is one.

        Raises BadRequest for a language or look-ahead that the model does not have, and for a snapshot that is not of
        this engine and model.
        """

    def step(self, chunks: Sequence[Chunk], now: float) -> list[Output]:
        """One batched call with at most one chunk of each slot. `now` is a monotonic clock in seconds.

        While `pending()`, it is also called without chunks. The outputs of one slot are in order. A Drained comes in
        this step or a later one: after all finals of the flushed audio, and after a snapshot that lies at the flush.
        """

    def snapshot(self, slot: int) -> Advanced | None:
        """A snapshot of this slot in the middle of an utterance; None where the engine cannot make one."""

    def pending(self) -> bool:
        """Whether a step without chunks has work to do now."""

    def blocked(self, slot: int) -> bool:
        """Whether this slot takes no chunk until its earlier work is done. Called before every step."""

    def in_flight(self) -> Collection[int]:
        """Slots whose last chunk is still in the model: they get no chunk until a later step returns its outputs.

        Called after every step. Empty for engines whose step waits for its own chunks.
        """
        return ()

    def elective_s(self) -> float:
        """Seconds of the last step that went into work which is left out under overload."""
        return 0.0

    def is_device_failure(self, error: Exception) -> bool:
        """Whether an error that this engine raised is one of its device, and not of the audio."""
        return False

    def close(self, slot: int) -> None:
        """Wipe the slot's state and its pending work."""

    def release(self) -> None:
        """Release what a device holds outside the memory of this process. No call follows."""
        return
