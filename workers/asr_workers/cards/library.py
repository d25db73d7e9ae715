"""The Python binding of asr_card.h: a card's shared library as Python objects. Every error code raises CardError.

Chunks and completions are passed as numpy arrays, because 2000 streams are 33,000 chunks a second. `submit` and `poll`
wrap the arrays as lists, for callers with few chunks.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from asr_workers.cards import abi
from asr_workers.cards.errors import CardError, CardStatus
from asr_workers.cards.results import CardHealth, CardIdentity, Completion, Completions, identity_of

__all__ = [
    "CHUNK_SAMPLES",
    "Card",
    "CardError",
    "CardHealth",
    "CardIdentity",
    "CardLibrary",
    "CardStatus",
    "Completion",
    "Completions",
]

CHUNK_SAMPLES = 960
"""Samples of one chunk: 60 ms at 16 kHz, one step of a slot."""
CHUNK_FEATURES = 480
"""Features of one chunk: 6 mel frames of 80."""
TOKENS_PER_STEP_MAX = 30


class CardLibrary:
    """A card vendor's shared library; the simulator if `path` is None."""

    def __init__(self, path: Path | None = None, options: str = "") -> None:
        """`options` ("key=value,...") are passed with every call, before those of `open`. Raises SetupError."""
        self._path = path
        self._options = options
        self._calls = abi.load(path)

    @property
    def is_simulator(self) -> bool:
        return self._path is None

    def count(self) -> int:
        """Number of cards that the library finds. Raises CardError."""
        count = ctypes.c_uint32()
        self._check(self._calls.asr_card_count(self._options.encode(), ctypes.byref(count)))
        return count.value

    def identity(self, index: int) -> CardIdentity:
        """The identity of card `index`, without opening it. Raises CardError."""
        identity = abi.new(abi.Identity)
        self._check(self._calls.asr_card_identify(index, self._options.encode(), ctypes.byref(identity)))
        return identity_of(identity)

    def open(self, index: int, options: str = "") -> Card:
        """Open card `index` for this process. Raises CardError.

        Every library supports top_k=0|1. The simulator also supports mode=compute|timing, threads=N, capacity=N,
        cards=N, seed=N, isa=generic|avx2|avx512|vnni, fault=hang|reset|count|drop|ecc|heat|link@STEP (STEP 1 is the
        card's first batch), and in timing mode arch=base|large and latency_ms=MEDIAN.
        """
        joined = ",".join(part for part in (self._options, options) if part)
        handle = ctypes.c_void_p()
        self._check(self._calls.asr_card_open(index, joined.encode(), ctypes.byref(handle)))
        try:
            return Card(self._calls, handle, top_k="top_k=1" in joined.split(","))
        except CardError:
            self._calls.asr_card_close(handle)  # its result is ignored: the first error matters
            raise

    def _check(self, code: int) -> None:
        abi.check(self._calls, code)


class Card:
    """An open card. Any thread may call it, but only one at a time may poll; close_card is the last call.

    Every method raises CardError.
    """

    def __init__(self, calls: abi.Calls, handle: ctypes.c_void_p, *, top_k: bool) -> None:
        self._calls = calls
        self._handle = handle
        self._top_k = top_k
        identity = self.identity()
        self._in_flight = np.zeros(identity.slots_max, np.int64)
        self._buffers = _Buffers(max(identity.slots_max, 64), top_k)

    def identity(self) -> CardIdentity:
        identity = abi.new(abi.Identity)
        self._call(self._calls.asr_card_get_identity, ctypes.byref(identity))
        return identity_of(identity)

    def health(self) -> CardHealth:
        """The card's health; works even while the card hangs."""
        health = abi.new(abi.Health)
        self._call(self._calls.asr_card_get_health, ctypes.byref(health))
        return CardHealth(
            temperature_c=health.temperature_c,
            is_ok=bool(health.is_ok),
            completed=health.completed,
            errors=health.errors,
            ecc_errors=health.ecc_errors,
            deadline_misses=health.deadline_misses,
            resets=health.resets,
        )

    def load(self, model: Path) -> None:
        """Load a compiled model while no slot is open. May take seconds; meanwhile all calls but health are BUSY."""
        self._call(self._calls.asr_card_load, os.fsencode(model))
        self._in_flight = np.zeros(self.identity().slots_max, np.int64)

    def slots(self, count: int) -> None:
        """Reserve the slots 0 .. count - 1 while no slot is open. Without this call there are slots_max slots."""
        self._call(self._calls.asr_card_reserve, count)

    def open(self, slot: int) -> None:
        """Open a slot in its initial state."""
        self._call(self._calls.asr_card_slot_open, slot)

    def close(self, slot: int) -> None:
        """Close a slot and drop its state.

        CardError BUSY while it has chunks in flight; the same holds for reset, export_state and import_state.
        """
        self._call(self._calls.asr_card_slot_close, slot)

    def reset(self, slot: int) -> None:
        """Set a slot back to its initial state."""
        self._call(self._calls.asr_card_slot_reset, slot)

    def submit(self, chunks: Sequence[tuple[int, int, NDArray[np.int16]]]) -> None:
        """Submit (slot, tag, pcm[960]) chunks: the card accepts all or, with CardError FULL, none. Never blocks."""
        if not chunks:
            return
        slots, tags, pcm = zip(*chunks, strict=True)
        self.submit_arrays(np.array(slots, np.uint32), np.array(tags, np.uint64), np.stack(pcm))

    def submit_arrays(
        self,
        slots: NDArray[np.integer],
        tags: NDArray[np.integer],
        pcm: NDArray[np.int16],
        last: NDArray[np.bool_] | None = None,
    ) -> None:
        """Submit n chunks: slots [n], tags [n], pcm int16 [n, 960], as `submit` does.

        `last` bool [n]: the slot is reset after the chunk.
        """
        samples = _rows(pcm, np.int16, CHUNK_SAMPLES, len(slots))
        self._submit(self._calls.asr_card_submit, slots, tags, samples.ctypes.data, last)

    def submit_features(
        self,
        slots: NDArray[np.integer],
        tags: NDArray[np.integer],
        features: NDArray[np.float32],
        last: NDArray[np.bool_] | None = None,
    ) -> None:
        """Like submit_arrays, with normalized log-mel frames: features float32 [n, 6, 80] or [n, 480]."""
        frames = _rows(features.reshape(len(slots), -1), np.float32, CHUNK_FEATURES, len(slots))
        self._submit(self._calls.asr_card_submit_features, slots, tags, frames.ctypes.data, last)

    def poll(self, timeout_ms: int) -> list[Completion]:
        """Wait up to `timeout_ms` for at least one completion, then return all available ones."""
        return self.poll_arrays(timeout_ms).items()

    def poll_arrays(self, timeout_ms: int) -> Completions:
        """`poll`, as arrays. CardError COUNT for completions of chunks that were not submitted."""
        completions = self._buffers.poll(self._calls, self._handle, timeout_ms)
        known = completions.slots < len(self._in_flight)
        np.subtract.at(self._in_flight, completions.slots[known], 1)
        if not known.all() or (len(completions) and self._in_flight[completions.slots].min() < 0):
            raise CardError(CardStatus.COUNT, "the card completed more chunks than were submitted")
        return completions

    def export_state(self, slot: int) -> bytes:
        """The state of a slot; only a card with the same model can import it."""
        size = ctypes.c_size_t()
        self._call(self._calls.asr_card_state_size, ctypes.byref(size))
        state = ctypes.create_string_buffer(size.value)
        self._call(self._calls.asr_card_state_export, slot, state, size)
        return state.raw

    def import_state(self, slot: int, state: bytes) -> None:
        """Set an open slot to an exported state. CardError BAD_STATE for damaged bytes or another model's state."""
        self._call(self._calls.asr_card_state_import, slot, state, len(state))

    def close_card(self) -> None:
        """Close the card; chunks in flight are dropped. Closing twice is harmless."""
        if self._handle.value is not None:
            handle, self._handle = self._handle, ctypes.c_void_p()
            abi.check(self._calls, self._calls.asr_card_close(handle))

    def _submit(
        self,
        call: abi.Call,
        slots: NDArray[np.integer],
        tags: NDArray[np.integer],
        data: int,
        last: NDArray[np.bool_] | None,
    ) -> None:
        chunks = np.zeros(len(slots), abi.CHUNK)
        chunks["slot"], chunks["tag"] = slots, tags
        if last is not None:
            chunks["flags"] = last
        # Counted before the call: another thread may poll the completions before the call returns.
        in_flight = np.asarray(slots)[chunks["slot"] < len(self._in_flight)]
        np.add.at(self._in_flight, in_flight, 1)
        try:
            self._call(call, chunks.ctypes.data, len(chunks), data)
        except CardError:
            np.subtract.at(self._in_flight, in_flight, 1)
            raise

    def _call(self, call: abi.Call, *arguments: object) -> None:
        if self._handle.value is None:
            raise CardError(CardStatus.STATE, "the card is closed")
        abi.check(self._calls, call(self._handle, *arguments))


class _Buffers:
    """The buffers for polled completions. Results are copies, so that they stay valid after the next poll."""

    def __init__(self, completions_max: int, top_k: bool) -> None:
        tokens_max = completions_max * TOKENS_PER_STEP_MAX
        packets_max = 1 << 14 if top_k else 0
        self._completions = np.zeros(completions_max, abi.COMPLETION)
        self._tokens = np.zeros(tokens_max, np.uint32)
        self._log_probs = np.zeros(tokens_max, np.float32)
        self._packets = np.zeros(packets_max, abi.PACKET)
        self._results = abi.new(abi.Results)
        self._results.completion_max = completions_max
        self._results.token_max = tokens_max
        self._results.packet_max = packets_max
        self._results.completions = self._completions.ctypes.data
        self._results.tokens = self._tokens.ctypes.data
        self._results.log_probs = self._log_probs.ctypes.data
        self._results.packets = self._packets.ctypes.data

    def poll(self, calls: abi.Calls, handle: ctypes.c_void_p, timeout_ms: int) -> Completions:
        if handle.value is None:
            raise CardError(CardStatus.STATE, "the card is closed")
        results = self._results
        abi.check(calls, calls.asr_card_poll(handle, timeout_ms, ctypes.byref(results)))
        count, tokens, packets = results.completion_count, results.token_count, results.packet_count
        if count > results.completion_max or tokens > results.token_max or packets > results.packet_max:
            raise CardError(CardStatus.COUNT, "the card returned more than the buffers hold")
        completions = self._completions[:count]
        token_offsets = _offsets(completions["token_offset"], completions["token_count"], tokens, "tokens")
        packet_offsets = _offsets(completions["packet_offset"], completions["packet_count"], packets, "packets")
        return Completions(
            slots=completions["slot"].copy(),
            tags=completions["tag"].copy(),
            steps=completions["step"].copy(),
            status=completions["status"].copy(),
            token_offsets=token_offsets,
            tokens=self._tokens[:tokens].copy(),
            log_probs=self._log_probs[:tokens].copy(),
            packets=self._packets[:packets].copy(),
            packet_offsets=packet_offsets,
        )


def _offsets(given: NDArray[np.uint32], counts: NDArray[np.uint32], total: int, what: str) -> NDArray[np.int64]:
    """Offsets [n + 1] from counts [n]. CardError INTERNAL if the card's offsets `given` or `total` differ."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    if offsets[-1] != total or (offsets[:-1] != given).any():
        raise CardError(CardStatus.INTERNAL, f"the card's {what} do not lie in the order of its completions")
    return offsets


def _rows(array: NDArray[np.generic], kind: type[np.generic], width: int, count: int) -> NDArray[np.generic]:
    """`array` as the C library reads it: contiguous [count, width] of `kind`. CardError ARGUMENT for another shape."""
    if array.dtype != kind or array.shape != (count, width):
        raise CardError(
            CardStatus.ARGUMENT,
            f"{count} chunks are {kind.__name__} [{count}, {width}], not {array.dtype} {list(array.shape)}",
        )
    return np.ascontiguousarray(array)
