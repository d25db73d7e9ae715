"""Shared by both measured processes: reading the speech, and printing the result."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
Printed = dict[str, float]


def samples(wav: Path) -> NDArray[np.int16]:
    """All samples [n] of a file that `run.py` wrote, at 16 kHz."""
    with wave.open(str(wav)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def show(found: Printed) -> None:
    """Print the result as JSON in the last line of the output. Libraries may print lines before it."""
    print(json.dumps(found), flush=True)
