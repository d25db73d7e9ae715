"""Finds a Moonshine checkpoint in a local folder or on the Hugging Face hub. This module does not import torch."""

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
"""Patterns of the files that are downloaded. Weights in other formats are not: they may contain code."""
FAMILIES = ("moonshine", "moonshine_streaming")


@dataclass(frozen=True, slots=True)
class MoonshineCheckpoint:
    """A checkpoint's folder and the description in it."""

    name: str
    """The folder's name, or the hub name without the owner."""
    folder: Path
    family: str
    """One of FAMILIES."""
    languages: tuple[str, ...]
    """Primary language tags, such as en."""
    checksum: str
    """The first 16 hexadecimal digits of the SHA-256 of its weights."""
    license: str
    """Empty where the model card names none."""


def find(model: str) -> MoonshineCheckpoint:
    """The checkpoint in a folder or with a name on the hub. Raises SetupError, NotYet where the hub is not reached."""
    folder = Path(model) if Path(model).is_dir() else _fetched(model)
    config = _config(folder)
    family = config.get("model_type")
    if family not in FAMILIES:
        raise SetupError(f"{model} is not a Moonshine checkpoint: its model_type is {family!r}")
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise SetupError(f"{model} has no *.safetensors file; weights in other formats are not loaded")
    if not (folder / "tokenizer.json").is_file():
        raise SetupError(f"{model} has no tokenizer.json")
    card = _card(folder)
    languages = _strings(config.get("language")) or _strings(card.get("language")) or ("en",)
    license_name = " ".join(_strings(card.get("license")))
    primary = tuple(language.partition("-")[0].lower() for language in languages)
    return MoonshineCheckpoint(_name(model), folder, family, primary, checksum(weights), license_name)


def _name(model: str) -> str:
    """The last part of a path or hub name."""
    return Path(model).absolute().name


def _fetched(model: str) -> Path:
    """The folder of the hub's files, downloaded where the cache does not have them."""
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
    """The YAML header of the model card; empty where there is none."""
    try:
        _, head, _ = (folder / "README.md").read_text("utf-8").split("---", 2)
        card = yaml.safe_load(head)
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return card if isinstance(card, dict) else {}


def _strings(value: object) -> tuple[str, ...]:
    """The strings of a value that is a string, a list or missing."""
    if isinstance(value, str):
        return (value,)
    return tuple(str(one) for one in value) if isinstance(value, Iterable) else ()


def first_line(error: BaseException) -> str:
    """The first line of an error's text. Libraries put advice on the lines after it."""
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
