"""The most windows of one step, measured with full windows before the worker serves. This also warms the model up."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import torch

from asr_proto.errors import SetupError
from asr_workers.engines.nemo.building import building
from asr_workers.engines.parakeet.model import ParakeetModel
from asr_workers.engines.parakeet.windows import FRAME_SAMPLES, WindowContext, frames_of

STEP_S_WANTED = 1.0
"""Longest time of a CPU step, in seconds. A larger batch saves little for each window, and all wait for its end."""
WINDOWS_MAX = 64
MEMORY_SHARE = 0.8
"""Share of the device's free memory that is used; the allocator needs the rest."""
STEP_S_MARGIN = 2.0
STEP_S_MIN = 0.1


@dataclass(frozen=True, slots=True)
class WindowBatch:
    """The size of the largest step."""

    windows_max: int
    step_s_p99: float
    """Expected 99th percentile of its time, in seconds."""


def batch_windows(model: ParakeetModel, context: WindowContext, slots: int) -> WindowBatch:
    """Measure the largest step. Raises SetupError where not one window fits, or not all `slots`."""
    with building(f"no slot fits on {model.device}: the model cannot encode a window"):
        for missing in (0, FRAME_SAMPLES // 2 + 1):
            _check_frames(model, context.frames * FRAME_SAMPLES - missing)
        _run(model, context, 1)
        if model.device.type == "cuda":
            windows = min(WINDOWS_MAX, slots, _windows_that_fit(model, context, slots))
        else:
            windows = max(1, min(WINDOWS_MAX, slots, int(STEP_S_WANTED / _run(model, context, 1))))
        return WindowBatch(windows, max(STEP_S_MIN, STEP_S_MARGIN * _run(model, context, windows)))


def _windows_that_fit(model: ParakeetModel, context: WindowContext, slots: int) -> int:
    torch.cuda.reset_peak_memory_stats(model.device)
    held = torch.cuda.memory_allocated(model.device)
    _run(model, context, 1)
    window_bytes = max(1, torch.cuda.max_memory_allocated(model.device) - held)
    torch.cuda.empty_cache()
    free = int(MEMORY_SHARE * torch.cuda.mem_get_info(model.device)[0])
    slot_bytes = model.decoder.initial(1).bytes
    fit = max(0, free - window_bytes) // slot_bytes
    if slots > fit:
        raise SetupError(f"{slots} slots do not fit on {model.device}: {fit} would; set fewer with --slots")
    return max(1, (free - slots * slot_bytes) // window_bytes)


def _check_frames(model: ParakeetModel, samples: int) -> None:
    """Raises SetupError where the model makes another number of frames of a window than `frames_of` returns."""
    _, frames = model.encode([np.zeros(samples, np.int16)])
    if frames.tolist() != [frames_of(samples)]:
        raise SetupError(
            f"the model makes {int(frames[0])} frames of {samples} samples, not {frames_of(samples)}: "
            "only the frames of Parakeet-TDT are supported"
        )


def _run(model: ParakeetModel, context: WindowContext, windows: int) -> float:
    """Seconds to encode and decode this number of full windows of noise."""
    pcm = np.random.default_rng(0).integers(-1000, 1000, context.frames * FRAME_SAMPLES).astype(np.int16)
    started = time.perf_counter()
    encoded, frames = model.encode([pcm] * windows)
    model.decoder.decode(encoded, frames, model.decoder.initial(windows))
    return time.perf_counter() - started
