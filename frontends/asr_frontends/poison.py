"""Keeps poisonous audio for the operator, in a folder that the option --keep-poison names.

The audio is a client's speech. So nothing is written without the option, only the owner can read the files, and their
number and size are limited. The operator deletes what is no longer needed.
"""

from __future__ import annotations

import json
import os
import time
import wave
from pathlib import Path
from typing import Any

import structlog

from asr_frontends.outbox import KeepPoison
from asr_proto.audio import BYTES_PER_SAMPLE, SAMPLE_RATE
from asr_proto.errors import SetupError

log = structlog.get_logger()

FILES_MAX = 100
"""Largest number of recordings in the folder."""
BYTES_MAX = 256 * 1_048_576
"""Largest size of all recordings together, in bytes."""


class PoisonFolder:
    """A folder of recordings: NAME.wav, and NAME.json with what is known of the session."""

    def __init__(self, folder: Path) -> None:
        """Raises SetupError when files cannot be written there."""
        if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
            raise SetupError(f"--keep-poison needs a folder in which this process can write: {folder}")
        self._folder = folder

    def keep(self, poison: KeepPoison, slug: str) -> None:
        """Write one recording. A full folder, and a disk that takes no more, are only logged."""
        size = sum(len(piece.pcm) for piece in poison.pieces)
        kept = [path.stat().st_size for path in self._folder.glob("*.wav")]
        if len(kept) >= FILES_MAX or sum(kept) + size > BYTES_MAX:
            log.warning("poisonous audio is not kept: the folder is full", folder=str(self._folder))
            return
        name = f"{time.strftime('%Y%m%dT%H%M%S')}-{''.join(filter(str.isalnum, poison.session))[:32]}"
        try:
            self._write(name, poison, slug)
        except OSError as error:
            log.error("poisonous audio is not kept", reason=str(error))

    def _write(self, name: str, poison: KeepPoison, slug: str) -> None:
        first = poison.pieces[0].first_sample if poison.pieces else 0
        facts: dict[str, Any] = {"session": poison.session, "engine": poison.engine, "model": poison.model}
        facts |= {"slug": slug, "workers_died": poison.deaths, "first_sample": first}
        with open(self._folder / f"{name}.wav", "xb", opener=_private) as file, wave.open(file, "wb") as recording:
            recording.setparams((1, BYTES_PER_SAMPLE, SAMPLE_RATE, 0, "NONE", ""))
            recording.writeframes(b"".join(piece.pcm for piece in poison.pieces))
        with open(self._folder / f"{name}.json", "x", opener=_private, encoding="utf-8") as beside:
            json.dump(facts, beside, indent=2)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
