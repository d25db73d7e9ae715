"""What both measured processes share: the speech, and how they answer."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

RATE = 16_000
Printed = dict[str, float]


def samples(wav: Path) -> NDArray[np.int16]:
    """All of a file that `run.py` wrote."""
    with wave.open(str(wav)) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (RATE, 1, 2)
        return np.frombuffer(file.readframes(file.getnframes()), "<i2")


def show(found: Printed) -> None:
    """The last line of the output: libraries may print before."""
    print(json.dumps(found), flush=True)
