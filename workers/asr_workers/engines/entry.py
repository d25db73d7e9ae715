"""The description of an engine that can be read before its module is loaded: packages, options, and how it is made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Generic, TypeVar

import click

from asr_workers.engines.base import Engine
from asr_workers.engines.options import EngineConfig, options_of

C = TypeVar("C", bound=EngineConfig)


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Generic[C]):
    """One engine."""

    summary: str
    """One line for `asr-worker --list-engines`."""
    packages: tuple[str, ...] = ()
    """Packages that this engine needs and that not every worker needs."""
    install: str = ""
    """Command that installs them."""
    config: type[C]
    """The class of its configuration."""
    make: Callable[[C], Engine]
    """Imports the engine's module, and with it torch and similar packages, and returns the engine."""

    @property
    def devices(self) -> tuple[str, ...]:
        """The kinds of device that it runs on, such as cpu and cuda."""
        return self.config.device_kinds()

    def options(self) -> list[click.Option]:
        return options_of(self.config)

    def missing(self) -> str | None:
        """One sentence about the packages that are not installed; None when the engine is usable."""
        return missing(self.packages, self.install)


def missing(packages: Iterable[str], install: str) -> str | None:
    """One sentence about those of `packages` that are not installed; None where all are."""
    absent = [package for package in packages if find_spec(package) is None]
    return f"needs {', '.join(absent)}: {install}" if absent else None
