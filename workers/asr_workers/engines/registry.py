"""The list of engines. `find` imports an engine's entry; making the engine imports its module."""

from __future__ import annotations

from dataclasses import fields
from importlib import import_module
from typing import Any

from asr_proto.errors import SetupError
from asr_workers.engines.base import Engine
from asr_workers.engines.entry import Entry
from asr_workers.engines.options import spelled

ENGINES = {
    "moonshine": "asr_workers.engines.moonshine",
    "fastconformer": "asr_workers.engines.fastconformer",
    "parakeet": "asr_workers.engines.parakeet",
    "card": "asr_workers.engines.card",
    "fake": "asr_workers.engines.fake",
}
"""Name of each engine, and the module that holds its ENTRY."""
DEFAULT = "moonshine"


def find(name: str) -> Entry[Any]:
    """The entry of an engine. Raises SetupError where no engine has this name."""
    if name not in ENGINES:
        raise SetupError(f"unknown engine {name!r}; there are {', '.join(ENGINES)}")
    entry: Entry[Any] = import_module(ENGINES[name]).ENTRY
    return entry


def load(name: str, **settings: Any) -> Engine:
    """A warmed-up engine. `settings` are fields of its configuration.

    Raises SetupError with one sentence where the engine cannot run here or has no such setting.
    """
    entry = find(name)
    known = {field.name for field in fields(entry.config)}
    for setting in settings:
        if setting not in known:
            raise SetupError(refusal(name, spelled(setting)))
    absent = entry.missing()
    if absent:
        raise SetupError(f"engine {name} {absent}")
    config = entry.config(**settings)
    if config.device_kind not in entry.devices:
        raise SetupError(f"engine {name} runs on {', '.join(entry.devices)}, not on {config.device}")
    return entry.make(config)


def owners(spelled: str) -> list[str]:
    """Names of the engines that have this option, such as --left-s."""
    return [name for name in ENGINES if any(spelled in option.opts for option in find(name).options())]


def refusal(engine: str, spelled: str) -> str:
    """The sentence that refuses an option, such as --left-s: other engines have it, or none has."""
    others = owners(spelled)
    if not others:
        return f"engine {engine} has no option {spelled}"
    kind = "engine" if len(others) == 1 else "engines"
    return f"{spelled} is an option of the {kind} {' and '.join(others)}, not of {engine}"
