"""Measures this project's Moonshine engine in a separate process: `ours.py SPEECH.wav SLOTS SHARE` prints its cost.

Every slot gets SHARE of the speech, each from another place. The clock is simulated, so that there are as many partials
as in real time, however fast this runs. The slots' chunks alternate, as they do if no chunk has to wait.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import child
import numpy as np

from asr_proto.audio import Pcm16
from asr_workers.engines.base import Chunk, Hypothesis, Output, SlotOptions
from asr_workers.engines.moonshine.config import MoonshineConfig
from asr_workers.engines.moonshine.engine import MoonshineEngine


def chunks(speech: Pcm16, slots: int, samples: int, size: int) -> list[Chunk]:
    """All chunks of all slots, each of `size` samples, in the order of their deadlines."""
    found = []
    for slot in range(slots):
        own = np.roll(speech, -slot * len(speech) // slots)[:samples]
        late_s = slot / slots * size / child.RATE
        for at in range(0, samples, size):
            pcm = own[at : at + size]
            found.append(Chunk(slot, pcm, at + size >= samples, late_s + (at + len(pcm)) / child.RATE))
    return sorted(found, key=lambda chunk: chunk.deadline_s)


def steps(engine: MoonshineEngine, fed: list[Chunk]) -> Iterator[Output]:
    """Feed the chunks. All work is done before the next chunk is fed, as on a machine that is fast enough."""
    for chunk in fed:
        yield from engine.step([chunk], chunk.deadline_s)
        while engine.pending():
            yield from engine.step([], chunk.deadline_s)


def main(wav: Path, slots: int, share: float) -> child.Printed:
    engine = MoonshineEngine(MoonshineConfig(slots=slots))
    speech = child.samples(wav)
    samples = round(len(speech) * share)
    fed = chunks(speech, slots, samples, engine.spec.chunk_samples)
    for slot in range(slots):
        engine.open(slot, SlotOptions(), None)
    began = time.process_time()
    texts = [output for output in steps(engine, fed) if isinstance(output, Hypothesis)]
    cpu_s = time.process_time() - began
    finals = sum(text.endpoint is not None for text in texts)
    return {
        "audio_s": slots * samples / child.RATE,
        "cpu_s": cpu_s,
        "partials": len(texts) - finals,
        "finals": finals,
    }


if __name__ == "__main__":
    child.show(main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
