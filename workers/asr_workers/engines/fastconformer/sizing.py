"""The number of slots that a device holds, decided before the worker serves, and a first step that warms it up."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from asr_proto.errors import SetupError
from asr_workers.engines.fastconformer.streaming import FeatureChunk, ModelSettings, StreamingModel
from asr_workers.engines.memory import free_bytes
from asr_workers.engines.nemo.building import building

MEMORY_SHARE = 0.8
"""Share of the free memory that slots may take; the rest is for other allocations."""
SLOTS_CUDA = 512
SLOTS_CPU_MIN, SLOTS_CPU_MAX = 16, 64
SLOTS_CPU_BYTES = 100_000_000
"""Bytes of all slots' state on a CPU. A larger model has a larger state, and a CPU serves fewer of its sessions."""
RECORDED = 4
"""Recorded rows for each slot: the sizes of recorded steps double, up to the first that holds all slots."""
STEP_S_MARGIN = 2.0
STEP_S_MIN = 0.1


@dataclass(frozen=True, slots=True)
class Sized:
    """A model with its number of slots, and its default look-ahead in encoder frames (`right`)."""

    model: StreamingModel
    slots: int
    right: int

    def warm_up(self) -> float:
        """Run the largest step of each look-ahead; the expected 99th percentile of a step's time, in seconds."""
        with building(f"{self.model.name} cannot take a step"):
            return max(STEP_S_MIN, *[STEP_S_MARGIN * self._largest(right) for right in self.model.rights])

    def _largest(self, right: int) -> float:
        """Seconds of a step of all slots with this look-ahead."""
        self.model.warm_up(right)
        geometry = self.model.geometry(right)
        for slot in range(self.slots):
            self.model.open(slot)
        elapsed_s = [self._step(frames, right) for frames in (geometry.first_frames, *[geometry.later_frames] * 2)]
        for slot in range(self.slots):
            self.model.close(slot)
        return elapsed_s[-1]

    def _step(self, frames: int, right: int) -> float:
        features = torch.zeros(frames, self.model.mel.mels)
        started = time.perf_counter()
        self.model.step([FeatureChunk(slot, features, right) for slot in range(self.slots)])
        return time.perf_counter() - started


def sized(
    settings: ModelSettings,
    wanted: int | None,
    load: Callable[[ModelSettings], StreamingModel],
    right: Callable[[StreamingModel], int],
) -> Sized:
    """Load the model with `wanted` slots, or with a default number. Raises SetupError where they do not fit.

    `right` returns the default look-ahead of a model, in encoder frames.
    """
    model = load(replace(settings, slots=1))
    look_ahead = right(model)
    with building(f"{model.name} cannot take a step"):
        fit = _fit(model, torch.device(settings.device))
    if fit < (wanted or 1):
        sentence = f"{wanted or 1} slots of {model.name} do not fit on {settings.device}"
        raise SetupError(f"{sentence}: {fit} would; set fewer with --slots")
    slots = wanted or min(fit, _default_slots(model, settings))
    with building(f"{slots} slots of {model.name} cannot be allocated on {settings.device}"):
        model.resize(slots)
    if settings.device.startswith("cuda"):
        torch.cuda.empty_cache()
    return Sized(model, slots, look_ahead)


def _default_slots(model: StreamingModel, settings: ModelSettings) -> int:
    if settings.device.startswith("cuda"):
        return SLOTS_CUDA
    return max(SLOTS_CPU_MIN, min(SLOTS_CPU_MAX, SLOTS_CPU_BYTES // model.bytes_per_slot()))


def _fit(model: StreamingModel, device: torch.device) -> int:
    """Slots that fit into the free memory, each with its share of the memory of recorded steps."""
    if device.type != "cuda":
        return int(MEMORY_SHARE * free_bytes()) // model.bytes_per_slot()
    torch.cuda.reset_peak_memory_stats(device)
    held = torch.cuda.memory_allocated(device)
    for right in model.rights:
        model.warm_up(right)
    step_bytes = torch.cuda.max_memory_allocated(device) - held
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(device)[0]
    return int(MEMORY_SHARE * free) // (model.bytes_per_slot() + RECORDED * step_bytes)
