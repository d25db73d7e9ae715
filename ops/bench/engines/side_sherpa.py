"""sherpa-onnx's side of the engine bench: one thread, N streams in each step. Runs in the peer's environment.

    python side_sherpa.py FOLDER --batches 1,4,16,64 --steps 40

Prints a line of JSON for each batch: the process's CPU milliseconds of one step, features and decoding included.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import numpy as np
import sherpa_onnx

RATE = 16_000
WARM_UP = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--chunk-ms", type=int, default=160)
    parser.add_argument("--batches", default="1,4,16,64")
    parser.add_argument("--steps", type=int, default=40)
    options = parser.parse_args()
    recognizer = sherpa_onnx.OnlineRecognizer.from_transducer(
        tokens=str(options.folder / "tokens.txt"),
        encoder=str(options.folder / "encoder.onnx"),
        decoder=str(options.folder / "decoder.onnx"),
        joiner=str(options.folder / "joiner.onnx"),
        num_threads=1,
        sample_rate=RATE,
        feature_dim=80,
        decoding_method="greedy_search",
        model_type="nemo_transducer",
    )
    for batch in map(int, options.batches.split(",")):
        figures = measure(recognizer, batch, options.steps, options.chunk_ms * RATE // 1000)
        print(json.dumps({"batch": batch, **figures}), flush=True)


def measure(recognizer: "sherpa_onnx.OnlineRecognizer", batch: int, steps: int, samples: int) -> dict[str, float]:
    """Feed each stream chunks of noise, and decode all ready streams together. Returns the median step time."""
    rng = np.random.default_rng(1)
    noise = (rng.standard_normal((batch, samples * (steps + WARM_UP + 4))) * 0.1).astype(np.float32)
    streams = [recognizer.create_stream() for _ in range(batch)]
    costs, at = [], 0
    while len(costs) < steps + WARM_UP:
        started = time.process_time()
        for stream, row in zip(streams, noise, strict=True):
            stream.accept_waveform(RATE, row[at : at + samples])
        at += samples
        ready = [stream for stream in streams if recognizer.is_ready(stream)]
        if ready:
            recognizer.decode_streams(ready)
        elapsed = time.process_time() - started
        if len(ready) == batch:
            costs.append(elapsed * 1000)
        elif at >= noise.shape[1]:
            raise SystemExit("the streams never became ready together")
    tokens = sum(len(recognizer.tokens(stream)) for stream in streams)
    return {"step_ms": statistics.median(costs[WARM_UP:]), "tokens_per_s": tokens / batch / (at / RATE)}


if __name__ == "__main__":
    main()
