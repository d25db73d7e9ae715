"""The speech for all sides: recordings of read speech, each followed by a second of silence."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from asr_audio.files import AudioFile
from asr_proto.audio import SAMPLE_RATE, Pcm16, to_int16
from asr_proto.errors import SetupError
from asr_workers.engines.weights.wheel_models import wheel_file

DATA = Path(__file__).resolve().parents[4] / "tests" / "data"
SILENCE = np.zeros(SAMPLE_RATE, np.int16)


def paths(folder: Path | None) -> list[Path]:
    """The wheel's sample and the repository's clips, or the clips of a folder with a manifest."""
    directory = folder or DATA
    lines = (directory / "manifest.jsonl").read_text("utf-8").splitlines()
    clips = [directory / json.loads(line)["path"] for line in lines if line.strip()]
    return [wheel_file("moonshine_voice", "assets/two_cities.wav"), *clips] if folder is None else clips


def ring(found: list[Path], seconds_max: float) -> Pcm16:
    """The recordings in a row, cut to `seconds_max`. Raises SetupError if there are none."""
    parts: list[Pcm16] = []
    for path in found:
        with AudioFile(path) as audio:
            parts += [to_int16(b"".join(audio.frames(1000))), SILENCE]
        if sum(len(part) for part in parts) >= seconds_max * SAMPLE_RATE:
            break
    if not parts:
        raise SetupError("there is no speech")
    return np.concatenate(parts)[: round(seconds_max * SAMPLE_RATE)]
