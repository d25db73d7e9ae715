"""The name of a NeMo model, and its languages. Checkpoints do not state their languages; their names do."""

from __future__ import annotations

import re
from pathlib import Path

from asr_proto.errors import BadRequest

NAME_CHARACTERS_MAX = 128
ENGLISH = ("en",)
PARAKEET_V3 = "bg cs da de el en es et fi fr hr hu it lt lv mt nl pl pt ro ru sk sl sv uk"


def served_name(model: str) -> str:
    """The name shown to clients: a hub name unchanged; of a file or folder on disk its name without the path."""
    path = Path(model).expanduser()
    return (path.name.removesuffix(".nemo") if path.exists() else model)[:NAME_CHARACTERS_MAX]


def languages_of(model: str) -> tuple[str, ...]:
    """Languages of a model with this hub name or path: `stt_de_...` is German. The default is English."""
    name = served_name(model).rpartition("/")[2].lower()
    if re.fullmatch(r"parakeet-tdt.*v3", name):
        return tuple(PARAKEET_V3.split())
    named = re.match(r"stt_([a-z]{2,3})_", name)
    return (named[1],) if named else ENGLISH


def check_language(language: str, languages: tuple[str, ...]) -> None:
    """Raises BadRequest for a language that the model does not know. An empty language is always accepted."""
    if language.partition("-")[0].lower() not in ("", *languages):
        raise BadRequest(
            f"language {language[:20]!r} is not supported: this model recognizes {', '.join(languages)}"[:128],
            slug="unsupported-language",
        )
