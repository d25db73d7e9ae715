"""The binding of asr_card.h: a card's shared library as Python objects. Every return code becomes a CardError.

Chunks and completions cross as numpy arrays: 2000 streams are 33,000 chunks a second. The lists of `submit` and `poll`
wrap the arrays for whoever has a few. Nothing here knows sessions, models or text.
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
"""60 ms of 16 kHz: what a slot takes in one step."""
CHUNK_FEATURES = 480
"""The same as features: 6 frames of 80."""
TOKENS_PER_STEP_MAX = 30


class CardLibrary:
    """A card vendor's shared library, or the simulator where `path` is None."""

    def __init__(self, path: Path | None = None, options: str = "") -> None:
        """`options` ("key=value,...") go with every call, before those given to `open`. Raises SetupError."""
        self._path = path
        self._options = options
        self._calls = abi.load(path)

    @property
    def is_simulator(self) -> bool:
        return self._path is None

    def count(self) -> int:
        """How many cards there are."""
        count = ctypes.c_uint32()
        self._check(self._calls.asr_card_count(self._options.encode(), ctypes.byref(count)))
        return count.value

    def identity(self, index: int) -> CardIdentity:
        """Who card `index` is, without opening it."""
        identity = abi.new(abi.Identity)
        self._check(self._calls.asr_card_identify(index, self._options.encode(), ctypes.byref(identity)))
        return identity_of(identity)

    def open(self, index: int, options: str = "") -> Card:
        """Take card `index` for this process.

        Every library knows top_k=0|1. The simulator knows mode=compute|timing, threads=N, capacity=N, cards=N, seed=N,
        isa=generic|avx2|avx512|vnni, fault=hang|reset|count|drop|ecc|heat|link@STEP (STEP 1 is the card's first batch)
        and in timing mode arch=base|large and latency_ms=MEDIAN.
        """
        joined = ",".join(part for part in (self._options, options) if part)
        handle = ctypes.c_void_p()
        self._check(self._calls.asr_card_open(index, joined.encode(), ctypes.byref(handle)))
        try:
            return Card(self._calls, handle, top_k="top_k=1" in joined.split(","))
        except CardError:
            self._calls.asr_card_close(handle)  # what it says is of no interest beside the first error
            raise

    def _check(self, code: int) -> None:
        abi.check(self._calls, code)


class Card:
    """An open card. Calls come from any thread; polls from one at a time; close_card is the last call."""

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
        """Answers even while the card hangs."""
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
        """Load a compiled model while no slot is open. May take seconds; meanwhile other calls but health are BUSY."""
        self._call(self._calls.asr_card_load, os.fsencode(model))
        self._in_flight = np.zeros(self.identity().slots_max, np.int64)

    def slots(self, count: int) -> None:
        """Reserve the slots 0 .. count - 1 while none is open; without this call there are slots_max."""
        self._call(self._calls.asr_card_reserve, count)

    def open(self, slot: int) -> None:
        """Take a slot into use, in its initial state."""
        self._call(self._calls.asr_card_slot_open, slot)

    def close(self, slot: int) -> None:
        """Forget a slot. CardError BUSY while it has chunks in flight; so with reset, export_state, import_state."""
        self._call(self._calls.asr_card_slot_close, slot)

    def reset(self, slot: int) -> None:
        """Back to the initial state."""
        self._call(self._calls.asr_card_slot_reset, slot)

    def submit(self, chunks: Sequence[tuple[int, int, NDArray[np.int16]]]) -> None:
        """Give (slot, tag, pcm[960]) chunks to the card: all or, with CardError FULL, none. Never blocks."""
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
        """Give n chunks: slots [n], tags [n], pcm [n, 960]. Where `last`, the slot begins anew after the chunk."""
        samples = _rows(pcm, np.int16, CHUNK_SAMPLES, len(slots))
        self._submit(self._calls.asr_card_submit, slots, tags, samples.ctypes.data, last)

    def submit_features(
        self,
        slots: NDArray[np.integer],
        tags: NDArray[np.integer],
        features: NDArray[np.float32],
        last: NDArray[np.bool_] | None = None,
    ) -> None:
        """Like submit_arrays, with normalised log-mel frames: features [n, 6, 80] or [n, 480]."""
        frames = _rows(features.reshape(len(slots), -1), np.float32, CHUNK_FEATURES, len(slots))
        self._submit(self._calls.asr_card_submit_features, slots, tags, frames.ctypes.data, last)

    def poll(self, timeout_ms: int) -> list[Completion]:
        """Wait for at least one completion, at most `timeout_ms`; then all there are."""
        return self.poll_arrays(timeout_ms).items()

    def poll_arrays(self, timeout_ms: int) -> Completions:
        """`poll`, as arrays. CardError COUNT when chunks are completed that were not given."""
        completions = self._buffers.poll(self._calls, self._handle, timeout_ms)
        known = completions.slots < len(self._in_flight)
        np.subtract.at(self._in_flight, completions.slots[known], 1)
        if not known.all() or (len(completions) and self._in_flight[completions.slots].min() < 0):
            raise CardError(CardStatus.COUNT, "the card completed more chunks than it was given")
        return completions

    def export_state(self, slot: int) -> bytes:
        """The state of a slot, bound to the loaded model."""
        size = ctypes.c_size_t()
        self._call(self._calls.asr_card_state_size, ctypes.byref(size))
        state = ctypes.create_string_buffer(size.value)
        self._call(self._calls.asr_card_state_export, slot, state, size)
        return state.raw

    def import_state(self, slot: int, state: bytes) -> None:
        """Continue an open slot from an exported state. CardError BAD_STATE where it is not this model's."""
        self._call(self._calls.asr_card_state_import, slot, state, len(state))

    def close_card(self) -> None:
        """Give the card back; chunks in flight are dropped. Closing twice is harmless."""
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
        # Counted first: another thread may poll the completions before this call is back.
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
    """What completions are polled into; copied out, so that a result outlives the next poll."""

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
            raise CardError(CardStatus.COUNT, "the card gave more than the buffers hold")
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
    """[n + 1] from [n] counts. CardError INTERNAL where the card's own offsets or `total` say something else."""
    offsets = np.zeros(len(counts) + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    if offsets[-1] != total or (offsets[:-1] != given).any():
        raise CardError(CardStatus.INTERNAL, f"the card's {what} do not lie in the order of its completions")
    return offsets


def _rows(array: NDArray[np.generic], kind: type[np.generic], width: int, count: int) -> NDArray[np.generic]:
    """`array` as the C side reads it: contiguous [count, width] of `kind`."""
    if array.dtype != kind or array.shape != (count, width):
        raise CardError(
            CardStatus.ARGUMENT,
            f"{count} chunks are {kind.__name__} [{count}, {width}], not {array.dtype} {list(array.shape)}",
        )
    return np.ascontiguousarray(array)
