"""The settings of the engine `moonshine`, for the embedded model and for models on torch."""

from __future__ import annotations

from dataclasses import dataclass

import click

from asr_workers.engines.offline.config import UtteranceConfig
from asr_workers.engines.options import device_option, option, precision_option, slots_option

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
TORCH_MODEL = "UsefulSensors/moonshine-base"
SLOTS_CPU = 16
SLOTS_DEVICE = 256
"""Voice activity detection of this many slots takes half of a core: 1.8 ms for each second of audio."""
BATCH_SIZE_CPU = 4
"""Larger batches save little on a CPU, and chunks wait while a batch is decoded."""
BATCH_SIZE_DEVICE = 32
BATCH_WAIT_MS_DEVICE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MoonshineConfig(UtteranceConfig):
    """Settings of the engine. None is a default that depends on the device."""

    device: str = device_option("cpu", "cuda", "mps", "auto")
    """A device of torch, or cpu. "auto" is the first of cuda, mps and cpu that this machine has."""
    slots: int | None = slots_option(None, f"{SLOTS_CPU} on a CPU, {SLOTS_DEVICE} elsewhere")
    model: str | None = option(
        None,
        "Checkpoint that runs on torch: a folder, or a name on the Hugging Face hub.",
        show_default=f"the embedded tiny English model; with --precision or another device {TORCH_MODEL}",
    )
    precision: str | None = precision_option(None, PRECISIONS, "fp32 on a CPU, fp16 elsewhere")
    batch_size_max: int | None = option(
        None,
        "Most utterances in a batch that torch decodes.",
        click.IntRange(min=1),
        show_default=f"{BATCH_SIZE_CPU} on a CPU, elsewhere {BATCH_SIZE_DEVICE} or what fits into memory",
    )
    """By default at most 32, as many as fit into the device's memory. The default is 4 on a CPU and where memory cannot
    be measured; on a CPU in int8 it is 1."""
    batch_wait_ms: float | None = option(
        None,
        "Longest time that a batch on torch waits for more utterances while audio arrives, in milliseconds.",
        click.IntRange(min=0),
        show_default=f"0 on a CPU, {BATCH_WAIT_MS_DEVICE:g} elsewhere",
    )

    @property
    def is_embedded(self) -> bool:
        """Whether the embedded model is used, on ONNX Runtime. If not, a checkpoint is used on torch."""
        return self.device_kind == "cpu" and not self.model and not self.precision

    @property
    def checkpoint(self) -> str:
        """The checkpoint for torch: a folder, or a name on the hub."""
        return self.model or TORCH_MODEL
