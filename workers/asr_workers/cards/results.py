"""The values that a card reports: its identity, its health and the results of chunks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np
from numpy.typing import NDArray

from asr_workers.cards import abi


@dataclass(frozen=True, slots=True)
class CardIdentity:
    """A card's identity and capacity."""

    id: str
    """Unique, permanent id of the card; licenses name it."""
    serial: str
    firmware: str
    name: str
    is_physical: bool
    capacity: int
    """Streams in real time with the loaded model; before a model is loaded, the most with any model."""
    slots_max: int
    """Slots that can be open at once: at least the capacity."""
    temperature_c: float
    link: str


@dataclass(frozen=True, slots=True)
class CardHealth:
    """Counters since the card was opened."""

    temperature_c: float
    is_ok: bool
    completed: int
    errors: int
    ecc_errors: int
    deadline_misses: int
    """Chunks completed more than 60 ms after they were submitted."""
    resets: int


@dataclass(frozen=True, slots=True)
class Completion:
    """The result of one chunk."""

    slot: int
    tag: int
    """The caller's number of the chunk."""
    step: int
    """Encoder steps of the slot since open or reset, before this one: 0 for the first."""
    status: int
    """0, or the CardStatus of a chunk without a result."""
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Completions:
    """The results of n chunks, as arrays; chunk i has the tokens token_offsets[i] up to token_offsets[i + 1]."""

    slots: NDArray[np.uint32]
    tags: NDArray[np.uint64]
    steps: NDArray[np.uint64]
    status: NDArray[np.int32]
    token_offsets: NDArray[np.int64]
    """Offsets into `tokens` and `log_probs` [n + 1]."""
    tokens: NDArray[np.uint32]
    log_probs: NDArray[np.float32]
    packets: NDArray[np.void]
    """abi.PACKET items of all joint evaluations, with the option top_k=1; otherwise empty."""
    packet_offsets: NDArray[np.int64]
    """Offsets into `packets` [n + 1]."""

    def __len__(self) -> int:
        return len(self.slots)

    def items(self) -> list[Completion]:
        """One object per completion."""
        ends = self.token_offsets.tolist()
        tokens, log_probs = self.tokens.tolist(), self.log_probs.tolist()
        columns = (self.slots.tolist(), self.tags.tolist(), self.steps.tolist(), self.status.tolist())
        return [
            Completion(slot, tag, step, status, tuple(tokens[start:end]), tuple(log_probs[start:end]))
            for slot, tag, step, status, start, end in zip(*columns, ends[:-1], ends[1:], strict=True)
        ]


def identity_of(identity: abi.Identity) -> CardIdentity:
    """The fields of the C struct as Python values."""
    return CardIdentity(
        id=_text(identity.id),
        serial=_text(identity.serial),
        firmware=_text(identity.firmware),
        name=_text(identity.name),
        is_physical=bool(identity.is_physical),
        capacity=identity.capacity,
        slots_max=identity.slots_max,
        temperature_c=identity.temperature_c,
        link=_text(identity.link),
    )


def _text(field: object) -> str:
    return cast(bytes, field).decode(errors="replace")
