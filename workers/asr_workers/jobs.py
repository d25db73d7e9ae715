"""What the engine's thread is asked to do, and its answers. Pure: `Sessions` makes jobs, `EngineThread` does them.

Jobs are done in the order in which they were submitted, and each is answered once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from asr_proto.errors import PeerError
from asr_workers.engines.base import Advanced, Chunk, Output, SlotOptions, Snapshot

# ---- Jobs ----


@dataclass(frozen=True, slots=True)
class OpenSlot:
    """Take a free slot into use for a lease. Answered by SlotOpened."""

    lease: int
    slot: int
    options: SlotOptions
    snapshot: Snapshot | None


@dataclass(frozen=True, slots=True)
class CloseSlot:
    """Wipe a slot. Answered by SlotClosed."""

    lease: int
    slot: int


@dataclass(frozen=True, slots=True)
class TakeSnapshot:
    """Take a snapshot of a slot in the middle of an utterance. Answered by SnapshotTaken."""

    slot: int


@dataclass(frozen=True, slots=True)
class RunStep:
    """One step of the engine with these chunks. Answered by StepDone."""

    chunks: Sequence[Chunk]


Job = OpenSlot | CloseSlot | TakeSnapshot | RunStep

# ---- Answers ----


@dataclass(frozen=True, slots=True)
class SlotOpened:
    """The slot belongs to the lease now; with `error` it does not: the engine refused the options."""

    lease: int
    slot: int
    error: PeerError | None = None


@dataclass(frozen=True, slots=True)
class SlotClosed:
    """Nothing of the lease is left in the engine."""

    lease: int
    slot: int


@dataclass(frozen=True, slots=True)
class SnapshotTaken:
    """`advanced` is None where the engine had no snapshot to give."""

    slot: int
    advanced: Advanced | None


@dataclass(frozen=True, slots=True)
class StepDone:
    """One step has run."""

    chunks: Sequence[Chunk]
    """Those that have been through the model. Some may have been submitted with an earlier step."""
    outputs: Sequence[Output]
    elapsed_s: float = 0.0
    late_s: Sequence[float] = ()
    """For each chunk of the step: how long after its deadline the step began."""
    elective_s: float = 0.0
    """The part of `elapsed_s` that the engine spent on work which it leaves out under load."""
    pending: bool = False
    """Whether the engine has work for a step without chunks."""
    blocked: frozenset[int] = frozenset()
    """Slots that take no chunk in the next step."""


@dataclass(frozen=True, slots=True)
class EngineFailed:
    """The engine raised an error that no session caused. The worker ends with it."""

    error: BaseException


Answer = SlotOpened | SlotClosed | SnapshotTaken | StepDone
Result = Answer | EngineFailed
