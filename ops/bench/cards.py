"""Measures the card simulator: its speed, the agreement of its precisions, and the latencies of a card at capacity.

    python ops/bench/cards.py speed [--arch base] [--batch 16]   real-time streams per core, compared with torch
    python ops/bench/cards.py agree MODEL.pt AUDIO...            tokens of each precision, compared with torch's
    python ops/bench/cards.py timing [--streams 2000]            latencies of a simulated card that only keeps time

Speeds are computed from processor time of one thread, which other work on the machine changes little.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from asr_workers.cards import carm, limits
from asr_workers.cards.carm import CarmConfig, Precision
from asr_workers.cards.library import Card, CardLibrary
from asr_workers.engines.rnnt import checkpoint
from asr_workers.engines.rnnt.model import EncoderState, LstmState, Rnnt, RnntStream

CONSOLE = Console(width=110)
ARCHITECTURES = {
    "testing": CarmConfig(240, 1024, 2, 3, 2, 512, 2, 512, 1024, 320, "testing"),
    "base": CarmConfig(240, 1024, 2, 6, 2, 512, 2, 768, 8704, 400, "base"),
    "large": CarmConfig(240, 1536, 2, 6, 2, 768, 2, 1024, 17408, 400, "large"),
}
TOKENS_PER_STEP = 0.3
"""Tokens per step: five tokens a second, about as many as in speech. The random models emit this many."""
STEP_S = 0.06
PATIENCE_MS = 60_000


@click.group()
def main() -> None:
    """Benches of cards."""


# Speed


@dataclass(frozen=True, slots=True)
class Work:
    """The least work of one step of a model."""

    multiply_adds: float
    """Multiply-adds for one slot."""
    weight_bytes: float
    """Bytes of the 8 bit weights, which are read once for all slots."""


def work_of(config: CarmConfig) -> Work:
    sizes = {name: int(np.prod(shape)) for name, shape in config.shapes().items() if len(shape) == 2}
    times = {"encoder.pre": config.enc_stack_time_factor, "encoder.post": 1, "joint_enc": 1}
    times |= {"joint_net": 1 + TOKENS_PER_STEP, "prediction.dec": TOKENS_PER_STEP, "joint_pred": TOKENS_PER_STEP}
    counted = {name: size for name, size in sizes.items() if not name.startswith("prediction.embed")}
    products = sum(
        size * next(n for part, n in times.items() if name.startswith(part)) for name, size in counted.items()
    )
    return Work(float(products), float(sum(counted.values())))


def random_model(config: CarmConfig) -> Rnnt:
    """A random model that emits one token after every reset: a token while the predictor has none, blank after it."""
    torch.manual_seed(1)
    model = Rnnt(config).eval()
    with torch.inference_mode():
        embeddings = model.prediction.embed.weight
        embeddings.copy_(embeddings[:1] + 0.01 * embeddings)
        start = model.predict(None)[0][0, 0]
        after = model.predict(torch.tensor([[0]]), model.predict(None)[1])[0][0, 0]
        away = (after - start) / (after - start).square().sum()
        model.joint_enc.weight[0] = 0.0
        model.joint_enc.bias[0] = 0.0
        model.joint_pred.weight[0] = away
        model.joint_pred.bias[0] = -away @ start - 0.5
        last = model.joint_net[2]
        last.weight[:, 0] = 0.0
        last.weight[-1] = 0.0
        last.weight[-1, 0] = 100.0
        last.bias[-1] = -10.0
    return model


class TorchBatch:
    """The same network on torch: LSTMs and joint over the batch, and greedy decoding of the slots that still emit."""

    def __init__(self, model: Rnnt, batch: int) -> None:
        self._model = model
        self._encoder: EncoderState | None = None
        self._batch = batch
        start, (h, c) = model.predict(None)
        self._start = (model.joint_pred(start[0]), h, c)
        self._projected = self._start[0].repeat(batch, 1)
        self._state: LstmState = (h.repeat(1, batch, 1), c.repeat(1, batch, 1))

    @torch.inference_mode()
    def step(self, frames: torch.Tensor, resets: torch.Tensor) -> int:
        """Run one step on frames [batch, 2, 240], then reset the slots in `resets`. Returns the number of tokens."""
        encoded, self._encoder = self._model.encode(frames, self._encoder)
        encoded = self._model.joint_enc(encoded[:, 0])
        tokens, active = 0, torch.arange(self._batch)
        for _ in range(30):
            classes = self._model.joint_net(encoded[active] + self._projected[active]).argmax(-1)
            emits = classes != self._model.blank
            active = active[emits]
            if not len(active):
                break
            tokens += len(active)
            state = (self._state[0][:, active], self._state[1][:, active])
            predicted, (h, c) = self._model.predict(classes[emits][:, None], state)
            self._projected[active] = self._model.joint_pred(predicted[:, 0])
            self._state[0][:, active], self._state[1][:, active] = h, c
        self._projected[resets] = self._start[0]
        self._state[0][:, resets], self._state[1][:, resets] = self._start[1], self._start[2]
        return tokens


def measured(step: Callable[[int], int], seconds: float) -> tuple[float, float]:
    """Processor seconds and tokens of one step, on average, after three steps of warm-up."""
    for number in range(3):
        step(number)
    begun, steps, tokens = time.process_time(), 0, 0
    while steps < 3 or time.process_time() - begun < seconds:
        tokens += step(3 + steps)
        steps += 1
    return (time.process_time() - begun) / steps, tokens / steps


def resets_of(number: int, batch: int) -> NDArray[np.bool_]:
    """Which slots are reset after this step, and so emit a token in the next; shape [batch]."""
    chosen: NDArray[np.bool_] = np.random.default_rng(number).random(batch) < TOKENS_PER_STEP
    return chosen


def card_step(card: Card, batch: int, pcm: NDArray[np.int16]) -> Callable[[int], int]:
    slots = np.arange(batch)

    def step(number: int) -> int:
        chunks = pcm[(number * 7 + slots) % len(pcm)]
        card.submit_arrays(slots, np.full(batch, number), chunks, resets_of(number, batch))
        tokens, left = 0, batch
        while left:
            completions = card.poll_arrays(PATIENCE_MS)
            left -= len(completions)
            tokens += len(completions.tokens)
        return tokens

    return step


def torch_step(model: Rnnt, batch: int) -> Callable[[int], int]:
    runner = TorchBatch(model, batch)
    frames = torch.randn(batch, 2, model.sizes.in_feats)
    return lambda number: runner.step(frames, torch.from_numpy(np.nonzero(resets_of(number, batch))[0]))


@main.command()
@click.option("--arch", "archs", multiple=True, type=click.Choice(list(ARCHITECTURES)), default=["testing", "base"])
@click.option("--batch", "batches", multiple=True, type=click.IntRange(1, 1000), default=[1, 16, 64, 256])
@click.option("--precision", "precisions", multiple=True, type=click.Choice(carm.PRECISIONS), default=carm.PRECISIONS)
@click.option("--seconds", default=2.0, help="Processor time of a measurement, in seconds.")
def speed(archs: tuple[str, ...], batches: tuple[int, ...], precisions: tuple[Precision, ...], seconds: float) -> None:
    """Real-time streams per core of random models, compared with torch in fp32 and with the processor's int8 limit."""
    torch.set_num_threads(1)
    most = limits.measured()
    CONSOLE.print(
        f"8 bit products: {most.multiply_adds / 1e9:.0f} G/s; memory: {most.bytes_read / 1e9:.1f} GB/s; "
        f"{TOKENS_PER_STEP} tokens a step; one thread"
    )
    table = Table("model", "engine", "batch", "ms a step", "streams a core", "of torch", "of the int8 limit")
    for arch in archs:
        config = ARCHITECTURES[arch]
        model, work = random_model(config), work_of(config)
        base = {}
        for batch in batches:
            step_s, tokens = measured(torch_step(model, batch), seconds)
            base[batch] = step_s
            _row(table, arch, "torch fp32", batch, step_s, tokens, 1.0, None)
        for precision, card in _cards(config, model, precisions, max(batches)):
            for batch in batches:
                pcm = (np.random.default_rng(1).standard_normal((997, 960)) * 2000).astype(np.int16)
                step_s, tokens = measured(card_step(card, batch, pcm), seconds)
                least_s = max(work.multiply_adds * batch / most.multiply_adds, work.weight_bytes / most.bytes_read)
                share = least_s / step_s if precision == "int8" else None
                _row(table, arch, f"card {precision}", batch, step_s, tokens, base[batch] / step_s, share)
    CONSOLE.print(table)


def _cards(
    config: CarmConfig, model: Rnnt, precisions: tuple[Precision, ...], slots: int
) -> Iterator[tuple[Precision, Card]]:
    """A card for each precision, with open slots."""
    tensors = _tensors(model)
    for precision in precisions:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.carm"
            carm.write(
                path, config, tensors, precision, np.full(80, -9, np.float32), np.full(80, 9, np.float32), b"", ""
            )
            card = CardLibrary().open(0, f"capacity={slots}")
            card.load(path)
        for slot in range(slots):
            card.open(slot)
        yield precision, card
        card.close_card()


def _tensors(model: Rnnt) -> dict[str, NDArray[np.float32]]:
    return {name: tensor.float().numpy() for name, tensor in model.state_dict().items()}


def _row(
    table: Table, arch: str, engine: str, batch: int, step_s: float, tokens: float, gain: float, share: float | None
) -> None:
    limit = "" if share is None else f"{share:.0%}"
    streams = batch * STEP_S / step_s
    assert 0.1 < (tokens + 1) / (batch * TOKENS_PER_STEP + 1) < 10, "the model does not emit TOKENS_PER_STEP"
    table.add_row(arch, engine, str(batch), f"{1e3 * step_s:.2f}", f"{streams:.1f}", f"{gain:.1f}x", limit)


# Agreement


@main.command()
@click.argument("model", type=click.Path(path_type=Path, exists=True))
@click.argument("audio", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
def agree(model: Path, audio: tuple[Path, ...]) -> None:
    """Compare the simulator's tokens in each precision with torch's. The agreement is 1 - errors / torch's tokens."""
    torch.set_num_threads(1)
    loaded = checkpoint.load(model)
    network = Rnnt(loaded.sizes).eval()
    network.load_state_dict(loaded.tensors)
    recordings = [_recording(path) for path in audio]
    expected = [_torch_tokens(network, loaded, pcm) for pcm in recordings]
    table = Table("engine", "recordings", "tokens", "wrong, missing or too many", "agreement")
    for precision in carm.PRECISIONS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.carm"
            means, variances = np.float32(loaded.means), np.float32(loaded.variances)
            carm.write(path, loaded.sizes, _tensors(network), precision, means, variances, b"", "")
            card = CardLibrary().open(0)
            card.load(path)
        card.open(0)
        errors = sum(
            _distance(_card_tokens(card, pcm), tokens) for pcm, tokens in zip(recordings, expected, strict=True)
        )
        card.close_card()
        total = sum(len(tokens) for tokens in expected)
        table.add_row(f"card {precision}", str(len(audio)), str(total), str(errors), f"{1 - errors / total:.2%}")
    CONSOLE.print(table)


def _recording(path: Path) -> NDArray[np.int16]:
    """A recording as int16 chunks [chunks, 960] at 16 kHz, padded with at least a quarter of a second of silence."""
    sound, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = soxr.resample(sound.mean(axis=1), rate, 16000)
    pcm = np.clip(mono * 32768, -32768, 32767).astype(np.int16)
    return np.pad(pcm, (0, 4000 + -(len(pcm) + 4000) % 960)).reshape(-1, 960)


def _torch_tokens(model: Rnnt, loaded: checkpoint.RnntCheckpoint, pcm: NDArray[np.int16]) -> list[int]:
    stream = RnntStream(model, loaded.means, loaded.variances)
    return [emission.token for emission in stream.feed(pcm.ravel().astype(np.float32) / 32768)]


def _card_tokens(card: Card, pcm: NDArray[np.int16]) -> list[int]:
    tokens: list[int] = []
    for number in range(len(pcm)):
        last = np.array([number == len(pcm) - 1])
        card.submit_arrays(np.zeros(1, np.uint32), np.array([number]), pcm[number : number + 1], last)
        tokens += card.poll_arrays(PATIENCE_MS).tokens.tolist()
    return tokens


def _distance(a: list[int], b: list[int]) -> int:
    """The edit distance of two token sequences (Levenshtein 1966; the algorithm of Wagner and Fischer 1974)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (x != y))
    return row[-1]


# Timing


@main.command()
@click.option("--streams", default=2000)
@click.option("--arch", type=click.Choice(["base", "large"]), default="base")
@click.option("--seconds", default=10.0)
def timing(streams: int, arch: str, seconds: float) -> None:
    """Latencies from a chunk's due time to its polled completion, for streams in real time at random phases."""
    card = CardLibrary().open(0, f"mode=timing,arch={arch}")
    for slot in range(streams):
        card.open(slot)
    due_s = np.random.default_rng(1).uniform(0, STEP_S, streams)
    pcm = np.zeros((streams, 960), np.int16)
    latencies, begun, cpu = [], time.perf_counter(), time.process_time()
    while (now := time.perf_counter() - begun) < seconds:
        ready = np.nonzero(due_s <= now)[0]
        if len(ready):
            card.submit_arrays(ready, (due_s[ready] * 1e9).astype(np.uint64), pcm[: len(ready)])
            due_s[ready] += STEP_S
        completions = card.poll_arrays(1)
        latencies.append((time.perf_counter() - begun) - completions.tags / 1e9)
    used = (time.process_time() - cpu) / seconds
    latency_ms = 1e3 * np.concatenate(latencies)
    health = card.health()
    card.close_card()
    table = Table("streams", "chunks", "p50 ms", "p99 ms", "max ms", "deadlines missed", "cores used")
    figures = [*np.percentile(latency_ms, [50, 99]), latency_ms.max()]
    table.add_row(
        str(streams),
        str(len(latency_ms)),
        *(f"{figure:.1f}" for figure in figures),
        str(health.deadline_misses),
        f"{used:.2f}",
    )
    CONSOLE.print(table)


if __name__ == "__main__":
    main()
