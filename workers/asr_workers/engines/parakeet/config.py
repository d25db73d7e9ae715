"""The settings of the engine `parakeet`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import click

from asr_workers.engines.nemo.config import PRECISION_SHOWN, NemoConfig, model_option
from asr_workers.engines.options import option, precision_option, slots_option
from asr_workers.engines.parakeet.windows import WindowContext

Precision = Literal["fp32", "bf16", "fp16", "int8"]
"""`int8` quantizes the encoder's linear layers dynamically, on CPU only. `fp16` needs CUDA."""
SLOTS_CPU = 8
SLOTS_DEVICE = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class ParakeetConfig(NemoConfig):
    """Settings of the engine."""

    slots: int | None = slots_option(None, f"{SLOTS_CPU} on a CPU, {SLOTS_DEVICE} elsewhere")
    """A slot needs little memory. Encoding its windows needs the time."""
    model: str = model_option("nvidia/parakeet-tdt-0.6b-v2")
    precision: Precision | None = precision_option(None, get_args(Precision), PRECISION_SHOWN)
    left_s: float = option(
        10.0, "Audio before each chunk that is encoded again with it, in seconds.", click.FloatRange(0, 60)
    )
    chunk_s: float = option(2.0, "Audio whose tokens one step fixes, in seconds.", click.FloatRange(min=0.08))
    right_s: float = option(
        2.0,
        "Audio after each chunk that is encoded with it, in seconds: a chunk waits for it.",
        click.FloatRange(min=0),
    )

    @property
    def context(self) -> WindowContext:
        """The parts of a window in frames. Raises SetupError where the settings allow no window."""
        return WindowContext.of(self.left_s, self.chunk_s, self.right_s)

    @property
    def weights_precision(self) -> Precision:
        """The precision that is set, else the device's default."""
        return self.precision or self.usual_precision

    @property
    def slots_wanted(self) -> int:
        """The number of slots that is set, else the device's default."""
        return self.slots or (SLOTS_CPU if self.device == "cpu" else SLOTS_DEVICE)
