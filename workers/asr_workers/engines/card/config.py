"""The settings of the engine `card`."""

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
    """Settings of the engine. The device `cpu` is the simulator, which computes on the processor."""

    device: str = device_option("cpu", "card")
    slots: int | None = slots_option(None, "as many as the card's capacity allows")
    threads: int | None = option(
        None, "CPU threads with which the simulator computes one step.", AT_LEAST_ONE, show_default="1"
    )
    model: Path | None = option(
        None,
        "The model's file, required: a .carm file; with --device cpu also a checkpoint that is not compiled.",
        PATH,
        also="--rnnt-checkpoint",
    )
    card_library: Path | None = option(
        None, "The vendor's library that implements asr_card.h.", PATH, show_default="the simulator"
    )
    card_options: str = option(
        "", "Options passed to the card's library, such as mode=timing,arch=base.", show_default=False
    )
    license_dir: Path | None = option(None, "Folder with the licenses of cards.", PATH)
    state_resets: bool = option(
        True,
        "Start with an empty state every 12 s, with 3 s of overlap: better text of long audio, a quarter more work.",
    )

    @property
    def file(self) -> Path:
        """The model's file, which must be set."""
        assert self.model is not None
        return self.model

    @property
    def index(self) -> int:
        """The card's number in its library. Raises SetupError for a device that is not a card."""
        if self.device == "cpu":
            return 0
        number = re.fullmatch(r"card:([0-9]{1,9})", self.device)
        if number is None:
            raise SetupError(f"{self.device} is not a card: name one with --device card:N, or cpu")
        return int(number[1])

    @property
    def rule(self) -> ResetRule | None:
        """The rule of state resets; None without them."""
        return ResetRule() if self.state_resets else None
