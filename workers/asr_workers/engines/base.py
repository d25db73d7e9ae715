"""What an engine is: a step function over a batch of slots. It knows nothing of sessions, sockets or dialects.

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
    """How one session wants to be recognised."""

    language: str = "en"
    partials: bool = True
    look_ahead_ms: int | None = None
    """How much audio behind a word the model may wait for. Engines that leave no choice take their own."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A point from which another engine of the same kind can continue: replay audio from `sample` on top of `state`.

    The snapshots of a slot never go back: not of finals, of silence, of checkpoints, nor before the one it was opened
    with. Audio before the latest is not kept by anybody.
    """

    sample: int
    state: bytes
    unsaid_sample: int | None = None
    """Set where `state` holds words that no final has said yet: where the first of them begins."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """The samples one slot gives to a step."""

    slot: int
    pcm: Pcm16
    """int16 [chunk_samples]; shorter, possibly empty, only when `flush` is set."""
    flush: bool = False
    """Ends the utterance after these samples; the engine answers Drained when their text is out."""
    deadline_s: float = 0.0
    """When a speaker in real time would want it done, on the step's clock: earlier is more urgent."""


@dataclass(frozen=True, slots=True)
class Hypothesis:
    """Text of the current utterance of a slot. A final's `snapshot` lies behind it: nothing before is needed again.

    A partial replaces the one before it; an empty one takes it back.
    """

    slot: int
    text: str
    start_sample: int
    end_sample: int
    endpoint: EndpointKind | None = None
    """Set makes it final, and says why the utterance ended."""
    snapshot: Snapshot | None = None
    """Set exactly on finals."""
    confidence: float | None = None
    words: tuple[Word, ...] | None = None
    stable: int | None = None
    """Of a partial: so many characters of `text` will come in a final as they are. None where nobody knows."""


@dataclass(frozen=True, slots=True)
class Advanced:
    """The slot can be continued from `snapshot` although no text became final (silence, or an empty utterance)."""

    slot: int
    snapshot: Snapshot


@dataclass(frozen=True, slots=True)
class Voice:
    """The speaker of this slot began (`speaking`) or ceased to speak at `sample`."""

    slot: int
    speaking: bool
    sample: int


@dataclass(frozen=True, slots=True)
class Drained:
    """Everything up to the last flush of this slot has left the model."""

    slot: int


Output = Hypothesis | Advanced | Voice | Drained


class Engine(Protocol):
    """The whole interface between a worker and a model. Engines derive from it: what has a default, few need."""

    @property
    def spec(self) -> Spec: ...

    def chunk_samples(self, look_ahead_ms: int | None) -> int:
        """What one step takes from a session with this look-ahead. Asked from another thread than all else."""
        return self.spec.chunk_samples

    def open(self, slot: int, options: SlotOptions, snapshot: Snapshot | None) -> None:
        """Take a free slot into use, continuing from `snapshot` where given. Raises BadRequest."""

    def step(self, chunks: Sequence[Chunk], now: float) -> list[Output]:
        """One batched call: at most one chunk per slot. `now` is a monotonic clock in seconds.

        Also called with no chunks while `pending()`. Outputs of one slot are in order; a Drained comes after the
        finals it waited for, in this step or a later one, and after a snapshot that lies at the flush.
        """

    def checkpoint(self, slot: int) -> Advanced | None:
        """A snapshot of this slot as it is, in the middle of an utterance; None where the engine has none to give."""

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
        """Seconds of the last step that went into what is left out when there is too much to do."""
        return 0.0

    def close(self, slot: int) -> None:
        """Forget the slot: wipe its state and pending work."""

    def release(self) -> None:
        """Give the device back, where more than the process's memory is held. The last call."""
        return
