"""How the fields of an engine's configuration become options of `asr-worker`. No engine is known here.

A field that is declared with `option` can be set on the command line, by variable and in config files, under the
field's own name; its default is the field's. What several engines share is declared here once, or in a base class.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar, cast

import click

T = TypeVar("T")
ATTRIBUTES = "option"
"""Key of a field's metadata under which its option's attributes lie."""
NUMBERED = ("cuda", "card")
"""Kinds of device of which a machine may have several."""


def option(default: T, help: str, type: Any = None, *, also: str = "", **attributes: Any) -> T:
    """A field of a configuration that `asr-worker` has an option for; `also` is a second name of it.

    `help` is one sentence that stands alone. Further attributes are click's; `show_default` describes what None means.
    """
    names = {"names": (also,) if also else (), "help": help, "type": type}
    declared: T = field(default=default, metadata={ATTRIBUTES: names | attributes})
    return declared


def options_of(config: type) -> list[click.Option]:
    """The options of a configuration, in the order of its fields."""
    return [_option(one.name, one.default, one.metadata[ATTRIBUTES]) for one in fields(config) if one.metadata]


def spelled(name: str) -> str:
    """The option of a field."""
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
    """cpu, cuda:1 or card:0; also the names that units have: cpu0, cuda1, card0."""

    name = "device"

    def __init__(self, kinds: tuple[str, ...]) -> None:
        self.kinds = kinds

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        kind, number = value.rstrip("0123456789").rstrip(":"), value[len(value.rstrip("0123456789")) :]
        return f"{kind}:{number}" if kind in NUMBERED and number else kind if number else value


AT_LEAST_ONE = click.IntRange(min=1)


# ---- Options of several engines ----


def device_option(*kinds: str) -> str:
    """The device, of the kinds that the engine runs on; `cpu` unless another is named."""
    shown = "|".join(f"{kind}:N" if kind in NUMBERED else kind for kind in kinds)
    return option("cpu", "Device that this worker uses.", Device(kinds), metavar=shown)


def slots_option(default: T, shown: str | bool = True) -> T:
    return option(default, "Sessions that this worker serves at once.", AT_LEAST_ONE, show_default=shown)


def threads_option(default: T, shown: str | bool = True) -> T:
    return option(default, "CPU threads that compute one step.", AT_LEAST_ONE, show_default=shown)


def precision_option(default: T, precisions: Iterable[str], shown: str | bool = True) -> T:
    return option(default, "Number format of the weights.", click.Choice(list(precisions)), show_default=shown)


# ---- What all configurations have ----


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineConfig:
    """Base of every engine's configuration: a frozen dataclass whose options are declared with `option`."""

    device: str = device_option("cpu")
    slots: int | None = slots_option(None)

    @property
    def device_kind(self) -> str:
        return self.device.split(":", maxsplit=1)[0]

    @classmethod
    def device_kinds(cls) -> tuple[str, ...]:
        """The kinds of device that the engine runs on."""
        (device,) = (one for one in fields(cls) if one.name == "device")
        return cast(Device, device.metadata[ATTRIBUTES]["type"]).kinds
