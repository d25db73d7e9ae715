"""What is known of an engine before its module is loaded: what it is, what it needs, what can be set, who makes it."""

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
    """One engine. `make` imports the engine's module when it is called: only then are torch and the like loaded."""

    summary: str
    packages: tuple[str, ...] = ()
    """Packages that must be there, beside those that every worker needs."""
    install: str = ""
    """Command that installs them."""
    config: type[C]
    make: Callable[[C], Engine]

    @property
    def devices(self) -> tuple[str, ...]:
        return self.config.device_kinds()

    def options(self) -> list[click.Option]:
        return options_of(self.config)

    def missing(self) -> str | None:
        """One sentence about the packages that are absent here, or None when the engine is usable."""
        return missing(self.packages, self.install)


def missing(packages: Iterable[str], install: str) -> str | None:
    """One sentence about those of the packages that are absent here, or None where all are there."""
    absent = [package for package in packages if find_spec(package) is None]
    return f"needs {', '.join(absent)}: {install}" if absent else None
