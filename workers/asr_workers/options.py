"""The options of `asr-worker` that set up its engine: declared here, handed on as EngineSettings."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import structlog

log = structlog.get_logger()

DEVICES_NUMBERED = ("cuda", "card")
CONTEXT_ALIASES = {(70, 16): (70, 6), (70, 33): (70, 13)}
"""Circulate for the same look-ahead in other frames; they do not fit these models."""
UTTERANCE_S_MAX = 90.0
"""A frontend holds 120 s of audio: a model that gives no checkpoint must end an utterance, and commit, before that."""


class Device(click.ParamType):  # type: ignore[type-arg]  # generic in new releases of click only
    """cpu, cuda:1 or card:0; also the names that units have: cpu0, cuda1, card0."""

    name = "device"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        kind, number = value.rstrip("0123456789").rstrip(":"), value[len(value.rstrip("0123456789")) :]
        return f"{kind}:{number}" if kind in DEVICES_NUMBERED and number else kind if number else value


class AttContext(click.ParamType):  # type: ignore[type-arg]  # generic in new releases of click only
    """Left and right context in encoder frames, as in 70,1."""

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


PATH = click.Path(path_type=Path)
OPTIONS = (
    click.option("--device", type=Device(), default="cpu", metavar="cpu|cuda:N|card:N", help="The one it owns."),
    click.option("--slots", type=click.IntRange(min=1), help="Sessions served at once.  [default: the engine's]"),
    click.option("--threads", type=click.IntRange(min=1), help="Threads of one step.  [default: 1]"),
    click.option(
        "--model",
        "--rnnt-checkpoint",
        help="A hub's name, a file or a folder.  [default: the engine's, where it has one]",
    ),
    click.option(
        "--precision", type=click.Choice(["fp32", "bf16", "fp16", "int8"]), help="Of the weights.  [default: by device]"
    ),
    click.option(
        "--trust-checkpoint", is_flag=True, help="Load a checkpoint although reading it may run code that is in it."
    ),
    click.option(
        "--endpoint-ms",
        type=click.IntRange(min=0),
        help="Silence that ends an utterance (fastconformer, parakeet); 0: only its client does.  [default: 960]",
    ),
    click.option(
        "--utterance-s-max",
        type=click.FloatRange(min=1, max=UTTERANCE_S_MAX),
        help="From here on any pause ends an utterance (fastconformer, parakeet).  [default: 40]",
    ),
    click.option(
        "--update-ms",
        type=click.IntRange(min=50),
        help="How often a speaker's partial is renewed (moonshine); rarer when it cannot keep up.  [default: 500]",
    ),
    click.option(
        "--batch-size-max",
        type=click.IntRange(min=1),
        help="Decoded at once (moonshine on torch).  [default: 32; 4 on a CPU]",
    ),
    click.option(
        "--batch-wait-ms",
        type=click.IntRange(min=0),
        help="What a batch waits for others, while audio keeps coming.  [default: 10; 0 on a CPU]",
    ),
    click.option(
        "--implementation",
        type=click.Choice(["lean", "nemo"]),
        help="Of fastconformer: our own, or NeMo itself.  [default: lean where it knows the model's shape]",
    ),
    click.option(
        "--att-context",
        type=AttContext(),
        help="Look-ahead of fastconformer: 70,0 70,1 70,6 or 70,13 for 0, 80, 480 or 1040 ms.  [default: 70,1]",
    ),
    click.option("--decoder", type=click.Choice(["rnnt", "ctc"]), help="Of fastconformer.  [default: rnnt]"),
    click.option(
        "--confidence",
        type=click.Choice(["max-prob", "entropy"]),
        help="Of a token (fastconformer): its probability, or 1 - H / log V of them all.  [default: max-prob]",
    ),
    click.option("--left-s", type=click.FloatRange(0, 60), help="Left context of parakeet.  [default: 10]"),
    click.option("--chunk-s", type=click.FloatRange(min=0.08), help="What parakeet encodes at a time.  [default: 2]"),
    click.option("--right-s", type=click.FloatRange(min=0), help="Right context of parakeet.  [default: 2]"),
    click.option("--card-library", type=PATH, help="The vendor's library behind asr_card.h.  [default: the simulator]"),
    click.option("--card-options", help="Passed to the card's library, as in mode=timing,arch=base."),
    click.option("--license-dir", type=PATH, help="Where the licences of cards lie."),
    click.option(
        "--state-resets/--no-state-resets",
        default=True,
        help="Begin anew every 12 s, with 3 s of overlap: better on long audio, at a quarter more work (card).",
    ),
    click.option("--step-ms", type=click.FloatRange(min=0), help="Pretended cost of a step (fake).  [default: 0]"),
    click.option("--chunk-ms", type=click.FloatRange(min=0), help="And of each chunk in it (fake).  [default: 0]"),
)


def engine_options(function: Callable[..., None]) -> Callable[..., None]:
    """All options of the engines; the function receives them by the names of EngineSettings."""
    for option in reversed(OPTIONS):
        function = option(function)
    return function
