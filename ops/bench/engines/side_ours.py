"""Our side of the engine bench, and NeMo's: one thread, N slots in each step.

    python side_ours.py MODEL.nemo --implementation lean --precision fp32 --right 1 --batches 1,4,16,64 --steps 40

Prints a line of JSON for each batch: the process's CPU milliseconds of one step, features and decoding included.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import click
import numpy as np
import torch

from asr_workers.engines.fastconformer.load import load
from asr_workers.engines.fastconformer.mel import StreamingMel
from asr_workers.engines.fastconformer.streaming import FeatureChunk, ModelSettings, StreamingModel

RATE, HOP = 16_000, 160
WARM_UP = 5


@click.command(context_settings={"show_default": True})
@click.argument("model")
@click.option("--implementation", type=click.Choice(["lean", "nemo"]), default="lean")
@click.option("--precision", default="fp32")
@click.option("--device", default="cpu")
@click.option("--right", type=int, default=1, help="Look-ahead, in encoder frames.")
@click.option("--batches", default="1,4,16,64")
@click.option("--steps", type=click.IntRange(1), default=40)
def main(*, model: str, batches: str, right: int, steps: int, **settings: Any) -> None:
    """Measure one implementation and print a line of JSON for each batch."""
    sizes = [int(size) for size in batches.split(",")]
    loaded = load(ModelSettings(model=model, slots=max(sizes), **settings))
    for batch in sizes:
        found = Steps(loaded, batch, right).measure(steps, cpu_s)
        print(
            json.dumps({"batch": batch, "step_ms": statistics.median(found), "bytes": loaded.bytes_per_slot()}),
            flush=True,
        )


def cpu_s() -> float:
    """The process's CPU time in seconds."""
    return time.process_time()


def clock_s() -> float:
    """Wall time in seconds."""
    return time.perf_counter()


class Steps:
    """`batch` slots that get noise. Each measured step is one chunk of every slot, after the slots' first chunk."""

    def __init__(self, model: StreamingModel, batch: int, right: int) -> None:
        self._model, self._right, self._slots = model, right, range(batch)
        self._geometry = model.geometry(right)
        self._mel = StreamingMel(model.mel, batch)
        self._rng = np.random.default_rng(1)
        self._features = [torch.empty(0, model.mel.mels) for _ in self._slots]
        for slot in self._slots:
            self._mel.reset(slot)
            model.open(slot)

    def measure(self, steps: int, clock: Callable[[], float], warm_up: int = WARM_UP) -> list[float]:
        """Milliseconds of each step by `clock`. The slots are closed afterwards."""
        found = []
        self._step(self._geometry.first_frames)
        for _ in range(warm_up + steps):
            pcm = self._noise(self._geometry.later_frames)
            started = clock()
            self._step(self._geometry.later_frames, pcm)
            found.append((clock() - started) * 1000)
        for slot in self._slots:
            self._model.close(slot)
        return found[warm_up:]

    def _noise(self, frames: int) -> list[Any]:
        loud = self._rng.standard_normal((len(self._slots), frames * HOP)) * 3000
        return list(loud.astype(np.int16))

    def _step(self, frames: int, pcm: list[Any] | None = None) -> None:
        """Feed noise until every slot has `frames` feature frames, then step once."""
        while True:
            fresh = self._mel.feed(self._slots, pcm or self._noise(frames), [False] * len(self._slots))
            self._features = [torch.cat(pair) for pair in zip(self._features, fresh, strict=True)]
            if len(self._features[0]) >= frames:
                break
            pcm = None
        chunks = [FeatureChunk(slot, self._features[slot][:frames], self._right) for slot in self._slots]
        self._features = [features[frames:] for features in self._features]
        self._model.step(chunks)


if __name__ == "__main__":
    main()
