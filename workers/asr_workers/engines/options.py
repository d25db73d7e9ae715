"""Turns the fields of an engine's configuration into options of `asr-worker`. Knows no engine.

A field that is declared with `option` can be set on the command line, by variable and in config files. The option has
the field's name and default. Options of several engines are declared once: here, or in a base class.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, cast

import click

from asr_proto.messages import SLOTS_MAX

T = TypeVar("T")
ATTRIBUTES = "option"
"""Key of a field's metadata that holds the attributes of its option."""
NUMBERED = ("cuda", "card")
"""Kinds of device that have a number, because a machine may have several."""


def option(default: T, help: str, type: Any = None, *, also: str = "", **attributes: Any) -> T:
    """A field of a configuration that is also an option of `asr-worker`; `also` is a second name of the option.

    `help` is a sentence that is understood without the others. Further attributes are passed to click; `show_default`
    describes the meaning of None.
    """
    names = {"names": (also,) if also else (), "help": help, "type": type}
    declared: T = field(default=default, metadata={ATTRIBUTES: names | attributes})
    return declared


def options_of(config: type) -> list[click.Option]:
    """The options of a configuration class, in the order of its fields."""
    return [_option(one.name, one.default, one.metadata[ATTRIBUTES]) for one in fields(config) if one.metadata]


def spelled(name: str) -> str:
    """The option's name for a field's name: --left-s for left_s."""
    return f"--{name.replace('_', '-')}"


def _option(name: str, default: Any, attributes: dict[str, Any]) -> click.Option:
    others = {key: value for key, value in attributes.items() if key != "names"}
    long = spelled(name)
    if isinstance(default, bool):
        others["is_flag"] = True
        long = f"{long}/--no-{long.removeprefix('--')}" if default else long
    return click.Option([name, long, *attributes["names"]], default=default, **others)


# ---- Types ----


class Device(click.ParamType):  # type: ignore[type-arg]  # generic in new releases of click only
    """A device such as cpu, cuda:1 or card:0. The names of systemd units are accepted, too: cpu0, cuda1, card0."""

    name = "device"

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.kinds = kinds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        kind, number = value.rstrip("0123456789").rstrip(":"), value[len(value.rstrip("0123456789")) :]
        return f"{kind}:{number}" if kind in NUMBERED and number else kind if number else value


AT_LEAST_ONE = click.IntRange(min=1)
SLOTS = click.IntRange(min=1, max=SLOTS_MAX)


# ---- Options of several engines ----


def device_option(*kinds: str) -> str:
    """The option --device of an engine that runs on these kinds of device; its default is cpu."""
    shown = "|".join(f"{kind}:N" if kind in NUMBERED else kind for kind in kinds)
    return option("cpu", "Device that this worker uses.", Device(kinds), metavar=shown)


def slots_option(default: T, shown: str | bool = True) -> T:
    return option(default, "Most sessions that this worker serves at the same time.", SLOTS, show_default=shown)


def threads_option(default: T, shown: str | bool = True) -> T:
    return option(default, "CPU threads that compute one step.", AT_LEAST_ONE, show_default=shown)


def precision_option(default: T, precisions: Iterable[str], shown: str | bool = True) -> T:
    return option(default, "Number format of the weights.", click.Choice(list(precisions)), show_default=shown)


# ---- What all configurations have ----


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Base class of every engine's configuration. Subclasses are frozen dataclasses, too, with fields of `option`."""

    device: str = device_option("cpu")
    slots: int | None = slots_option(None)

    @property
    def device_kind(self) -> str:
        """The device without its number: cuda for cuda:1."""
        return self.device.split(":", maxsplit=1)[0]

    @classmethod
    def device_kinds(cls) -> tuple[str, ...]:
        """The kinds of device that the engine runs on."""
        (device,) = (one for one in fields(cls) if one.name == "device")
        return cast(Device, device.metadata[ATTRIBUTES]["type"]).kinds
