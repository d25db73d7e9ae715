"""How many streams the engine `card` serves in real time on a card that only keeps time: batcher, engine and card.

    python ops/bench/card_streams.py MODEL.carm [--streams 2000] [--no-state-resets] [--seconds 30]

Streams begin at random places of a chunk (and, with state resets, of 12 s, so that their overlaps spread). A latency
runs from when a chunk's last sample was said to when what it says is there. The processor time is of this process, with
the card's own thread and the making of the streams: where it comes near the wall time, latencies tell of the machine.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np

from asr_process import garbage
from asr_workers.batcher import Batcher
from asr_workers.engines.base import Chunk, SlotOptions
from asr_workers.engines.card.config import CardConfig
from asr_workers.engines.card.engine import CardEngine
from asr_workers.engines.card.resets import STEP_S, ResetRule

WARM_S = 1.0
DEADLINE_S = 0.06
IDLE_S = 0.0005


@dataclass(slots=True)
class Streams:
    """Speakers in real time, and what became of their chunks."""

    next_s: np.ndarray[tuple[int], np.dtype[np.float64]]
    """When each has said its next chunk."""
    said: list[deque[float]]
    """When those chunks were said that were not given yet."""
    given: dict[int, float] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)

    def speak(self, batcher: Batcher, now: float) -> None:
        """Every chunk that was said by now."""
        while len(due := np.flatnonzero(self.next_s <= now)):
            for slot in due.tolist():
                self.said[slot].append(float(self.next_s[slot]))
                if slot not in self.given:
                    batcher.submit(slot, now)
            self.next_s[due] += STEP_S

    def heard(self, engine: CardEngine, batcher: Batcher, now: float) -> None:
        """What a step has brought."""
        for slot in [slot for slot in self.given if slot not in engine.in_flight()]:
            self.latencies_s.append(now - self.given.pop(slot))
            if self.said[slot]:
                batcher.submit(slot, now)


@click.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.option("--streams", default=2000)
@click.option("--state-resets/--no-state-resets", default=True)
@click.option("--seconds", default=30.0)
@click.option("--card-options", default="")
def main(model: Path, streams: int, state_resets: bool, seconds: float, card_options: str) -> None:
    """Serve STREAMS for SECONDS and print the latencies."""
    options = ",".join(filter(None, ["mode=timing", card_options]))
    config = CardConfig(device="card:0", model=model, state_resets=state_resets, card_options=options)
    engine = CardEngine(config)
    garbage.settle()  # as asr-worker does
    for slot in range(streams):
        engine.open(slot, SlotOptions(partials=False), None)
    random = np.random.default_rng(1)
    spread_s = ResetRule().hop_steps * STEP_S if state_resets else STEP_S
    begin = time.monotonic() + 0.1
    speakers = Streams(begin + random.random(streams) * spread_s, [deque() for _ in range(streams)])
    cpu_s = _serve(engine, speakers, begin + spread_s + WARM_S, seconds)
    latencies = np.array(speakers.latencies_s) * 1000
    p50, p99 = np.percentile(latencies, [50, 99])
    late = int((latencies > DEADLINE_S * 1000).sum())
    click.echo(f"{streams} of {engine.spec.slots} streams, state resets {'on' if state_resets else 'off'}")
    click.echo(
        f"{len(latencies)} chunks: p50 {p50:.1f} ms, p99 {p99:.1f} ms, max {latencies.max():.1f} ms, {late} late"
    )
    click.echo(f"processor {cpu_s / seconds:.2f} of one core, {cpu_s / len(latencies) * 1e6:.1f} us a chunk")


def _serve(engine: CardEngine, speakers: Streams, measured_from: float, seconds: float) -> float:
    """Runs until `seconds` after `measured_from`; the processor time since then."""
    batcher = Batcher(engine.spec.slots, STEP_S)
    pcm = np.random.default_rng(2).integers(-3000, 3000, (61, 960)).astype(np.int16)
    steps, cpu_from = 0, 0.0
    while (now := time.monotonic()) < measured_from + seconds:
        if not cpu_from and now >= measured_from:
            speakers.latencies_s.clear()
            cpu_from = time.process_time()
        speakers.speak(batcher, now)
        chunks = []
        for slot in batcher.pick():
            speakers.given[slot] = speakers.said[slot].popleft()
            chunks.append(Chunk(slot, pcm[(slot + steps) % len(pcm)]))
        if not chunks and not engine.pending():
            time.sleep(IDLE_S)
            continue
        steps += 1
        engine.step(chunks, now)
        speakers.heard(engine, batcher, time.monotonic())
    return time.process_time() - cpu_from


if __name__ == "__main__":
    main()
