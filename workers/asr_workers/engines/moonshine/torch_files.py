"""A Moonshine checkpoint on disk: from a local folder or from the Hugging Face hub. No torch is needed here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import snapshot_download

from asr_proto.errors import SetupError
from asr_workers.engines.weights.checksum import checksum
from asr_workers.engines.weights.hub import refusal

FILES = ["*.json", "*.safetensors", "README.md"]
"""What is fetched: no weights in other forms, which may hold code."""
FAMILIES = ("moonshine", "moonshine_streaming")


@dataclass(frozen=True, slots=True)
class MoonshineCheckpoint:
    """What a folder says about itself."""

    name: str
    folder: Path
    family: str
    languages: tuple[str, ...]
    checksum: str
    license: str
    """Empty where it does not say."""


def find(model: str) -> MoonshineCheckpoint:
    """The checkpoint that a folder's path or a name on the hub means. Raises SetupError."""
    folder = Path(model) if Path(model).is_dir() else _fetched(model)
    config = _config(folder)
    family = config.get("model_type")
    if family not in FAMILIES:
        raise SetupError(f"{model} is no Moonshine checkpoint: its model_type is {family!r}")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise SetupError(f"{model} has no *.safetensors file; weights in other forms are not loaded")
    if not (folder / "tokenizer.json").is_file():
        raise SetupError(f"{model} has no tokenizer.json")
    card = _card(folder)
    languages = _strings(config.get("language")) or _strings(card.get("language")) or ("en",)
    license_name = " ".join(_strings(card.get("license")))
    primary = tuple(language.partition("-")[0].lower() for language in languages)
    return MoonshineCheckpoint(_name(model), folder, family, primary, checksum(weights), license_name)


def _name(model: str) -> str:
    """Without the folders around it, or the owner."""
    return Path(model).absolute().name


def _fetched(model: str) -> Path:
    """The hub's files, from its cache where they are there already."""
    try:
        return Path(snapshot_download(model, allow_patterns=FILES))
    except (ValueError, OSError) as error:
        raise refusal(model, error) from error


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise SetupError(f"{folder} has no readable config.json: {first_line(error)}") from error
    return config if isinstance(config, dict) else {}


def _card(folder: Path) -> dict[str, Any]:
    """The head of a model card; it is nobody's duty to have one."""
    try:
        _, head, _ = (folder / "README.md").read_text("utf-8").split("---", 2)
        card = yaml.safe_load(head)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return card if isinstance(card, dict) else {}


def _strings(value: object) -> tuple[str, ...]:
    """One string, or several, or none."""
    if isinstance(value, str):
        return (value,)
    return tuple(str(one) for one in value) if isinstance(value, Iterable) else ()


def first_line(error: BaseException) -> str:
    """What went wrong, without the advice that libraries give on the lines after."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
