"""The settings of the engine `fastconformer`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import click
import structlog

from asr_proto.errors import SetupError
from asr_workers.engines.fastconformer.streaming import (
    DEFAULT_MODEL,
    Confidence,
    Decoder,
    Implementation,
    ModelSettings,
    Precision,
)
from asr_workers.engines.nemo.config import PRECISION_SHOWN, NemoConfig, model_option
from asr_workers.engines.options import option, precision_option, slots_option

log = structlog.get_logger()

CONTEXT_ALIASES = {(70, 16): (70, 6), (70, 33): (70, 13)}
"""Attention contexts that are sometimes published for these models, in frames of another length, and the real ones."""


class AttContext(click.ParamType):  # type: ignore[type-arg]  # generic in new releases of click only
    """Left and right context in encoder frames, such as 70,1."""

    name = "left,right"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        try:
            left, right = (int(part) for part in value.strip("[] ").split(","))
        except ValueError:
            self.fail(f"{value!r} is not two whole numbers, as in 70,1", param, ctx)
        if (left, right) in CONTEXT_ALIASES:
            known = CONTEXT_ALIASES[left, right]
            log.warning("attention context read as another", given=f"{left},{right}", used=f"{known[0]},{known[1]}")
            return known
        return left, right


@dataclass(frozen=True, slots=True, kw_only=True)
class FastConformerConfig(NemoConfig):
    """Settings of the engine."""

    slots: int | None = slots_option(None, "what the device's memory holds")
    model: str = model_option(DEFAULT_MODEL)
    precision: Precision | None = precision_option(None, get_args(Precision), PRECISION_SHOWN)
    implementation: Implementation = option(
        "auto",
        "Code that runs the model: lean is this project's, nemo is NeMo's; auto is lean where it supports the model.",
        click.Choice(get_args(Implementation)),
    )
    att_context: tuple[int, int] | None = option(
        None,
        "Frames of 80 ms that the model attends to before and after each frame. The look-ahead of 70,0 70,1 70,6 and "
        "70,13 is 0, 80, 480 and 1040 ms.",
        AttContext(),
        show_default="the model's own left, and 1 after",
    )
    decoder: Decoder = option("rnnt", "Decoder to use of a hybrid model.", click.Choice(get_args(Decoder)))
    confidence: Confidence = option(
        "max-prob",
        "Confidence of a token: its probability, or 1 - H / log V, where H is the entropy of all V outputs.",
        click.Choice(get_args(Confidence)),
    )

    @property
    def settings(self) -> ModelSettings:
        """The model's settings, with the default number of slots. Raises SetupError for an unknown precision."""
        if self.precision not in (None, *get_args(Precision)):
            raise SetupError(f"fastconformer does not run in {self.precision}: use {', '.join(get_args(Precision))}")
        return ModelSettings(
            model=self.model,
            implementation=self.implementation,
            decoder=self.decoder,
            precision=self.precision or self.usual_precision,
            device=self.device,
            threads=self.threads,
            confidence=self.confidence,
            trust_checkpoint=self.trust_checkpoint,
        )
