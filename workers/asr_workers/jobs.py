"""The jobs of the engine's thread and its answers. `Sessions` makes jobs, `EngineThread` does them. Pure.

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
    """Open a free slot for a lease. Answered by SlotOpened."""

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
    lease: int = 0


@dataclass(frozen=True, slots=True)
class RunStep:
    """One step of the engine with these chunks. Answered by StepDone."""

    chunks: Sequence[Chunk]
    leases: tuple[int, ...] = ()
    """The leases for which the engine may work in this step."""


Job = OpenSlot | CloseSlot | TakeSnapshot | RunStep


def leases_of(job: Job) -> tuple[int, ...]:
    """The leases that are suspected if the engine fails in this job."""
    return job.leases if isinstance(job, RunStep) else (job.lease,)


# ---- Answers ----


@dataclass(frozen=True, slots=True)
class SlotOpened:
    """The slot belongs to the lease now. With `error` it does not: the engine rejected the options."""

    lease: int
    slot: int
    error: PeerError | None = None


@dataclass(frozen=True, slots=True)
class SlotClosed:
    """The engine has no state of the lease any more."""

    lease: int
    slot: int


@dataclass(frozen=True, slots=True)
class SnapshotTaken:
    """A snapshot. `advanced` is None when the engine could not make one."""

    slot: int
    advanced: Advanced | None


@dataclass(frozen=True, slots=True)
class StepDone:
    """One step has run."""

    chunks: Sequence[Chunk]
    """Chunks that have left the model. Some may have been submitted with an earlier step."""
    outputs: Sequence[Output]
    elapsed_s: float = 0.0
    late_s: Sequence[float] = ()
    """For each chunk of the step: seconds between its deadline and the start of the step."""
    elective_s: float = 0.0
    """The part of `elapsed_s` that the engine spent on work that it skips under load."""
    pending: bool = False
    """Whether the engine has work for a step without chunks."""
    blocked: frozenset[int] = frozenset()
    """Slots that take no chunk in the next step."""


@dataclass(frozen=True, slots=True)
class EngineFailed:
    """The engine raised an error that is not about the options of a session. The worker raises it and ends."""

    error: BaseException
    leases: tuple[int, ...] = ()
    """The leases for which the engine worked."""
    is_device_failure: bool = False
    """Whether the device has failed, and not because of the audio."""


Answer = SlotOpened | SlotClosed | SnapshotTaken | StepDone
Result = Answer | EngineFailed
