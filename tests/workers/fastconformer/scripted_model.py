"""A streaming model without weights: each loud frame emits a token that depends on all earlier audio of its slot.

The tokens depend on every sample, on the place at which the state was empty, and on the look-ahead. So an engine that
loses, repeats or mixes up audio returns other tokens.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Literal

import numpy as np
import pytest

from asr_proto.errors import BadRequest
from asr_workers.engines.fastconformer.streaming import Emission, FeatureChunk, Geometry, ModelSettings
from tests.workers.nemo.nemo_parts import vocabulary

torch = pytest.importorskip("torch", reason="needs the extra nemo")

from asr_workers.engines.fastconformer.mel import MelSettings  # noqa: E402 - needs torch

LOUD = -4.0
"""Least mean log energy of a frame that emits a token."""


@cache
def mel() -> MelSettings:
    """Eight bands."""
    filters = np.repeat(np.eye(8, dtype=np.float32), 32, axis=1) / 32
    padded = np.concatenate((filters, np.zeros((8, 1), np.float32)), axis=1)
    return MelSettings(window=torch.hann_window(400, periodic=False), filters=torch.from_numpy(padded))


@dataclass(slots=True)
class _State:
    frames: int = 0
    heard: int = 0
    """Of all loud frames."""


@dataclass(slots=True)
class ScriptedModel:
    """StreamingModel of the engine's package."""

    settings: ModelSettings
    name: str = "scripted"
    implementation: Literal["lean", "nemo"] = "lean"
    checksum: str = "0123456789abcdef"
    license: str | None = "CC0"
    rights: tuple[int, ...] = (1, 0, 6, 13)
    left: int = 70
    slot_bytes: int = 1000
    batches: list[int] = field(default_factory=list)
    """How many chunks each step had."""
    _states: dict[int, _State] = field(default_factory=dict)

    @property
    def tokenizer(self) -> bytes:
        return vocabulary()

    @property
    def mel(self) -> MelSettings:
        return mel()

    def bytes_per_slot(self) -> int:
        return self.slot_bytes

    def geometry(self, right: int) -> Geometry:
        if right not in self.rights:
            raise BadRequest("unknown look-ahead")
        return Geometry(right, 8 * right + 1, 8 * right + 8)

    def resize(self, slots: int) -> None:
        self.settings, self._states = replace(self.settings, slots=slots), {}

    def warm_up(self, right: int) -> None:
        assert right in self.rights

    def open(self, slot: int) -> None:
        assert 0 <= slot < self.settings.slots
        self._states[slot] = _State()

    def close(self, slot: int) -> None:
        del self._states[slot]

    def step(self, chunks: Sequence[FeatureChunk]) -> dict[int, list[Emission]]:
        self.batches.append(len(chunks))
        assert len({chunk.slot for chunk in chunks}) == len(chunks)
        return {chunk.slot: self._step(chunk) for chunk in chunks}

    def _step(self, chunk: FeatureChunk) -> list[Emission]:
        state, geometry = self._states[chunk.slot], self.geometry(chunk.right)
        size = geometry.later_frames if state.frames else geometry.first_frames
        assert len(chunk.features) == size or (chunk.last and len(chunk.features) <= size)
        energy = chunk.features.mean(1).tolist()
        if not state.frames:
            energy = [energy[0]] * 7 + energy if energy else []
        emissions = []
        for start in range(0, len(energy), 8):
            loudness = sum(energy[start : start + 8]) / len(energy[start : start + 8])
            if loudness > LOUD:
                state.heard = (31 * state.heard + round(20 * loudness) + state.frames + chunk.right) % 7919
                emissions.append(Emission(3 + state.heard % 45, state.frames, 0.5 + state.heard % 50 / 100))
            state.frames += 1
        if chunk.last:
            self._states[chunk.slot] = _State()
        return emissions

    def snapshot(self, slot: int) -> bytes:
        state = self._states[slot]
        return struct.pack("<qq", state.frames, state.heard)

    def restore(self, slot: int, state: bytes) -> None:
        if len(state) != 16:
            raise BadRequest("of another model", slug="bad-snapshot")
        self._states[slot] = _State(*struct.unpack("<qq", state))
