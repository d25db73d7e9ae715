"""The settings that both engines of NeMo checkpoints have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import click

from asr_workers.engines.options import EngineConfig, device_option, option, threads_option

UTTERANCE_S_MAX = 90.0
"""Largest `utterance_s_max`. A frontend keeps 120 s of audio, so an utterance must end and be committed before that,
because a model may give no checkpoint."""
PRECISION_SHOWN = "bf16 on CUDA, fp32 elsewhere"


def model_option(default: str) -> str:
    return option(
        default, "Checkpoint: a name on the Hugging Face hub, a .nemo file, or the folder of an extracted one."
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class NemoConfig(EngineConfig):
    """Settings of fastconformer and parakeet. Each engine adds `model`, `precision` and its own default of `slots`."""

    device: str = device_option("cpu", "cuda")
    threads: int = threads_option(1)
    trust_checkpoint: bool = option(
        False, "Load a checkpoint even if it contains a pickle. Reading a pickle can run any code that is in it."
    )
    endpoint_ms: int = option(
        960,
        "Silence that ends an utterance, in milliseconds. With 0, only the client or --utterance-s-max ends it.",
        click.IntRange(min=0),
    )
    utterance_s_max: float = option(
        40.0,
        "Length of an utterance, in seconds, after which the next short pause ends it.",
        click.FloatRange(min=1, max=UTTERANCE_S_MAX),
    )

    @property
    def usual_precision(self) -> Literal["bf16", "fp32"]:
        """The precision where none is set. PRECISION_SHOWN describes it in the help text."""
        return "bf16" if self.device_kind == "cuda" else "fp32"
