"""Measures how many streams the engine `card` serves in real time, with a simulated card that only keeps time.

    python ops/bench/card_streams.py MODEL.carm [--streams 2000] [--no-state-resets] [--seconds 30]

It runs batcher, engine and card in this process. Streams begin at random phases of a chunk (with state resets: of 12 s,
so that their overlaps spread). A latency is the time from a chunk's last sample to its result. The processor time is
that of this process, including the card's thread and the simulation of the streams. If it is near the wall time, the
machine limits the latencies.
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
    """Simulated streams in real time, and the latencies of their chunks."""

    next_s: np.ndarray[tuple[int], np.dtype[np.float64]]
    """Time at which each stream's next chunk is complete, in seconds; shape [streams]."""
    waiting: list[deque[float]]
    """For each stream, the completion times of chunks that were not given to the engine yet."""
    given: dict[int, float] = field(default_factory=dict)
    """Completion time of the chunk that the engine has, by slot."""
    latencies_s: list[float] = field(default_factory=list)

    def submit_due(self, batcher: Batcher, now: float) -> None:
        """Queue every chunk that is complete by now."""
        while len(due := np.flatnonzero(self.next_s <= now)):
            for slot in due.tolist():
                self.waiting[slot].append(float(self.next_s[slot]))
                if slot not in self.given:
                    batcher.submit(slot, now)
            self.next_s[due] += STEP_S

    def record(self, engine: CardEngine, batcher: Batcher, now: float) -> None:
        """Record the latencies of chunks that the engine has finished, and submit their streams' next chunks."""
        for slot in [slot for slot in self.given if slot not in engine.in_flight()]:
            self.latencies_s.append(now - self.given.pop(slot))
            if self.waiting[slot]:
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
    """Serve until `seconds` after `measured_from`. Returns the processor time since then, in seconds."""
    batcher = Batcher(engine.spec.slots, STEP_S)
    pcm = np.random.default_rng(2).integers(-3000, 3000, (61, 960)).astype(np.int16)
    steps, cpu_from = 0, 0.0
    while (now := time.monotonic()) < measured_from + seconds:
        if not cpu_from and now >= measured_from:
            speakers.latencies_s.clear()
            cpu_from = time.process_time()
        speakers.submit_due(batcher, now)
        chunks = []
        for slot in batcher.pick():
            speakers.given[slot] = speakers.waiting[slot].popleft()
            chunks.append(Chunk(slot, pcm[(slot + steps) % len(pcm)]))
        if not chunks and not engine.pending():
            time.sleep(IDLE_S)
            continue
        steps += 1
        engine.step(chunks, now)
        speakers.record(engine, batcher, time.monotonic())
    return time.process_time() - cpu_from


if __name__ == "__main__":
    main()
