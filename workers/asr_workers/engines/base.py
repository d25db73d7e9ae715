"""The interface of an engine: a step function over a batch of slots. It knows no sessions, sockets or dialects.

A worker calls `open`, `step` and `close` from one thread. State lives in slots; `open` finds a wiped one. Sample
positions count 16 kHz samples from the start of the session; `open` with a Snapshot continues at the snapshot's sample.
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
    partials: bool = True
    look_ahead_ms: int | None = None
    """How much audio after a word the model may wait for. An engine with a fixed look-ahead ignores it."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A point from which another engine of the same kind can continue: replay audio from `sample` on top of `state`.

    Each snapshot of a slot lies at or after the one before it, whether it comes with a final, in silence or from
    `Engine.snapshot`; the first lies at or after the snapshot that the slot was opened with. Audio before the latest is
    dropped.
    """

    sample: int
    state: bytes
    unsaid_sample: int | None = None
    """Set where `state` holds words that are in no final yet: the sample at which the first of them begins."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The samples one slot gives to a step."""

    slot: int
    pcm: Pcm16
    """int16 [chunk_samples]; shorter, possibly empty, only when `flush` is set."""
    flush: bool = False
    """Ends the utterance after these samples; the engine returns Drained after their text."""
    deadline_s: float = 0.0
    """When it is due for a speaker in real time, on the step's clock: earlier is more urgent."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Text of the current utterance of a slot. A final's `snapshot` lies after it: audio before is not needed again.

    A partial replaces the one before it; an empty one withdraws it.
    """

    slot: int
    text: str
    start_sample: int
    end_sample: int
    endpoint: EndpointKind | None = None
    """Set on finals alone: why the utterance ended."""
    snapshot: Snapshot | None = None
    """Set exactly on finals."""
    confidence: float | None = None
    words: tuple[Word, ...] | None = None
    stable: int | None = None
    """Of a partial: the number of leading characters of `text` that stay as they are in the final. None: unknown."""


@dataclass(frozen=True, slots=True)
class Advanced:
    """The slot can be continued from `snapshot` although no text became final (silence, or an empty utterance)."""

    slot: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Voice:
    """The speaker of this slot began to speak (`speaking`), or stopped, at `sample`."""

    slot: int
    speaking: bool
    sample: int


@dataclass(frozen=True, slots=True)
class Drained:
    """Everything up to the last flush of this slot has left the model."""

    slot: int


Output = Hypothesis | Advanced | Voice | Drained


class Engine(Protocol):
    """The whole interface between a worker and a model. Engines derive from it; few override what has a default."""

    @property
    def spec(self) -> Spec: ...

    def chunk_samples(self, look_ahead_ms: int | None) -> int:
        """Samples that one step takes from a session with this look-ahead. Called from another thread than the rest."""
        return self.spec.chunk_samples

    def open(self, slot: int, options: SlotOptions, snapshot: Snapshot | None) -> None:
        """Take a free slot into use, continuing from `snapshot` where given. Raises BadRequest."""

    def step(self, chunks: Sequence[Chunk], now: float) -> list[Output]:
        """One batched call: at most one chunk per slot. `now` is a monotonic clock in seconds.

        Also called with no chunks while `pending()`. Outputs of one slot are in order; a Drained comes after the
        finals it waited for, in this step or a later one, and after a snapshot that lies at the flush.
        """

    def snapshot(self, slot: int) -> Advanced | None:
        """A snapshot of this slot in the middle of an utterance; None where the engine cannot make one."""

    def pending(self) -> bool:
        """Whether a step without chunks has work to do now."""

    def blocked(self, slot: int) -> bool:
        """Whether this slot takes no chunk until earlier work of it is done (asked before every step)."""

    def in_flight(self) -> Collection[int]:
        """Slots whose last chunk is still in the model: its outputs come with a later step, and so does the next chunk.

        Asked after every step. Empty where a step waits for its own chunks.
        """
        return ()

    def elective_s(self) -> float:
        """Seconds of the last step spent on work that is left out under overload."""
        return 0.0

    def close(self, slot: int) -> None:
        """Forget the slot: wipe its state and pending work."""

    def release(self) -> None:
        """Release what a device holds beyond the memory of this process. The last call."""
        return
