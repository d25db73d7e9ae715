"""What the engine `card` can be set to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import click

from asr_proto.errors import SetupError
from asr_workers.engines.card.resets import ResetRule
from asr_workers.engines.options import AT_LEAST_ONE, EngineConfig, device_option, option, slots_option

PATH = click.Path(path_type=Path)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardConfig(EngineConfig):
    """How the engine uses its card. `cpu` is the simulator, which computes on the processor."""

    device: str = device_option("cpu", "card")
    slots: int | None = slots_option(None, "what the card's capacity is good for")
    threads: int | None = option(
        None, "CPU threads with which the simulator computes one step.", AT_LEAST_ONE, show_default="1"
    )
    model: Path | None = option(
        None,
        "File of the model: a .carm file, or with --device cpu also a checkpoint that is not compiled. Required.",
        PATH,
        also="--rnnt-checkpoint",
    )
    card_library: Path | None = option(
        None, "The vendor's library that implements asr_card.h.", PATH, show_default="the simulator"
    )
    card_options: str = option(
        "", "Options passed to the card's library, as in mode=timing,arch=base.", show_default=False
    )
    license_dir: Path | None = option(None, "Folder that holds the licences of cards.", PATH)
    state_resets: bool = option(
        True,
        "Begin with an empty state every 12 s, with 3 s of overlap: better on long audio, for a quarter more work.",
    )

    @property
    def file(self) -> Path:
        """The model's, which must be set."""
        assert self.model is not None
        return self.model

    @property
    def index(self) -> int:
        """Of the card in its library. Raises SetupError."""
        if self.device == "cpu":
            return 0
        number = re.fullmatch(r"card:([0-9]{1,9})", self.device)
        if number is None:
            raise SetupError(f"{self.device} is no card: name one with --device card:N, or cpu")
        return int(number[1])

    @property
    def rule(self) -> ResetRule | None:
        return ResetRule() if self.state_resets else None
