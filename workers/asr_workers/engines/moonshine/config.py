"""What the engine `moonshine` can be set to, embedded and on torch."""

from __future__ import annotations

from dataclasses import dataclass

import click

from asr_workers.engines.offline.config import UtteranceConfig
from asr_workers.engines.options import device_option, option, precision_option, slots_option

PRECISIONS = ("fp32", "fp16", "bf16", "int8")
TORCH_MODEL = "UsefulSensors/moonshine-base"
SLOTS_CPU = 16
SLOTS_DEVICE = 256
"""The voice activity detection of so many takes half of a core: 1.8 ms for a second of speech."""
BATCH_SIZE_CPU = 4
"""Larger ones save little there, and chunks wait while a batch is decoded."""
BATCH_SIZE_DEVICE = 32
BATCH_WAIT_MS_DEVICE = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MoonshineConfig(UtteranceConfig):
    """How to run the engine. None means what the device is good for."""

    device: str = device_option("cpu", "cuda", "mps", "auto")
    """Of torch, but for cpu; "auto" is the first of cuda, mps and cpu that is here."""
    slots: int | None = slots_option(None, f"{SLOTS_CPU} on a CPU, {SLOTS_DEVICE} elsewhere")
    model: str | None = option(
        None,
        "Checkpoint that runs on torch: a folder, or a name on the Hugging Face hub.",
        show_default=f"tiny English, embedded; with --precision or another device {TORCH_MODEL}",
    )
    precision: str | None = precision_option(None, PRECISIONS, "fp32 on a CPU, fp16 elsewhere")
    batch_size_max: int | None = option(
        None,
        "Most utterances that torch decodes together.",
        click.IntRange(min=1),
        show_default=f"{BATCH_SIZE_CPU} on a CPU, elsewhere {BATCH_SIZE_DEVICE} or what fits into memory",
    )
    """By default as many of 32 as fit into the device's memory; on a CPU, and where memory cannot be measured, 4; on a
    CPU in int8 1."""
    batch_wait_ms: float | None = option(
        None,
        "Longest time that a batch on torch waits for more utterances, in milliseconds, while audio keeps coming.",
        click.IntRange(min=0),
        show_default=f"0 on a CPU, {BATCH_WAIT_MS_DEVICE:g} elsewhere",
    )

    @property
    def is_embedded(self) -> bool:
        """Whether the model of the wheel serves, on ONNX Runtime; else torch."""
        return self.device_kind == "cpu" and not self.model and not self.precision

    @property
    def checkpoint(self) -> str:
        """For torch: a folder, or a name on the hub."""
        return self.model or TORCH_MODEL
