"""Steps over static buffers that are recorded once as CUDA graphs and then replayed.

A step has thousands of small kernels, and launching them one by one takes longer than running them. Batches are filled
up to the next power of two, so that few graphs are needed. The added rows use a scratch slot, the last one of each
arena. On other devices the same code runs without recording.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor

from asr_workers.engines.fastconformer.decoding import SYMBOLS_MAX, Encoded, PredictionNet, RnntDecoder, confidences
from asr_workers.engines.fastconformer.lean_encoder import LeanEncoder
from asr_workers.engines.fastconformer.shape import SUBSAMPLING
from asr_workers.engines.fastconformer.slot_model import Batch
from asr_workers.engines.fastconformer.streaming import Confidence, Emission

BURST = 4
"""Tokens that each row can emit before the host checks whether any row has more."""
_WARM_UPS = 3
"""Runs before recording. In the first runs libraries choose their kernels and allocate memory."""


class RecordedProgram:
    """A function without arguments whose buffers keep their addresses; on CUDA it is recorded as a graph."""

    def __init__(self, run: Callable[[], None], device: torch.device) -> None:
        self._run = run
        if device.type != "cuda":
            return
        stream = cast(Any, torch.cuda).Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                run()
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        self._run = graph.replay

    def __call__(self) -> None:
        self._run()


def buckets(slots: int) -> list[int]:
    """The batch sizes that are recorded: powers of two, up to the first that holds all slots."""
    sizes = [1]
    while sizes[-1] < slots:
        sizes.append(2 * sizes[-1])
    return sizes


def bucket(rows: int) -> int:
    """The smallest recorded batch size for this number of rows."""
    return 1 << (rows - 1).bit_length()


class GraphedEncoder:
    """A StreamingEncoder over a LeanEncoder, which has a scratch slot after the `slots` that are served."""

    def __init__(self, encoder: LeanEncoder, slots: int, like: Tensor) -> None:
        self._encoder = encoder
        self._slots = slots
        self._like = like
        """An empty tensor of the encoder's precision and device."""
        self._steps: dict[tuple[int, int], _EncoderStep] = {}

    def state(self) -> list[Tensor]:
        return self._encoder.state()

    def wipe(self, slot: int) -> None:
        self._encoder.wipe(slot)

    def resize(self, slots: int) -> None:
        """Drops the recorded steps first: they hold the memory of the old arenas."""
        self._steps.clear()
        self._slots = slots
        self._encoder.resize(slots + 1)

    def remembered(self, slot: int, frames: int) -> list[Tensor]:
        return self._encoder.remembered(slot, frames)

    def warm_up(self, right: int) -> None:
        for size in buckets(self._slots):
            self._step(size, right + 1)

    def step(self, batch: Batch) -> Tensor:
        rows, frames = batch.slots.shape[0], batch.features.shape[1] // SUBSAMPLING
        return self._step(bucket(rows), frames)(batch)[:rows]

    def _step(self, size: int, frames: int) -> _EncoderStep:
        found = self._steps.get((size, frames))
        if found is None:
            found = self._steps[size, frames] = _EncoderStep(self._encoder, size, frames, self._slots, self._like)
        return found


class _EncoderStep:
    """The recorded step of one batch size and one look-ahead."""

    def __init__(self, encoder: LeanEncoder, size: int, frames: int, scratch: int, like: Tensor) -> None:
        mels, device = encoder.shape.mels, like.device
        self._scratch = scratch
        self._features = like.new_zeros(size, frames * SUBSAMPLING, mels)
        self._slots = torch.full((size,), scratch, device=device)
        self._starts = torch.zeros(size, dtype=torch.int64, device=device)
        self._rows = torch.full_like(self._starts, frames * SUBSAMPLING)
        self._output = like.new_zeros(size, frames, encoder.shape.width)
        batch = Batch(self._features, self._slots, self._starts, self._rows)
        self._program = RecordedProgram(lambda: _into(self._output, encoder.step(batch)), device)

    def __call__(self, batch: Batch) -> Tensor:
        rows = batch.slots.shape[0]
        self._features[:rows] = batch.features
        self._slots[:rows] = batch.slots
        self._slots[rows:] = self._scratch
        self._starts[:rows] = batch.starts
        self._rows[:rows] = batch.rows
        self._program()
        return self._output


class GraphedRnntDecoder(RnntDecoder):
    """An RnntDecoder with a scratch slot, in which every row takes part in every turn, with or without a token."""

    def __init__(self, net: PredictionNet, slots: int, device: torch.device, confidence: Confidence) -> None:
        super().__init__(net, slots + 1, device, confidence)
        self._served = slots
        self._device = device
        self._bursts: dict[tuple[int, ...], _Bursts] = {}

    def resize(self, slots: int) -> None:
        self._bursts.clear()
        self._served = slots
        super().resize(slots + 1)

    def warm_up(self, right: int) -> None:
        for size in buckets(self._served):
            self._burst(size, right + 1, self._net.encoder_width)

    def decode(self, encoded: Encoded) -> list[list[Emission]]:
        rows, frames, width = encoded.frames.shape
        bursts = self._burst(bucket(rows), frames, width)
        bursts.take(encoded)
        found: list[list[Emission]] = [[] for _ in range(rows)]
        bursts.first()
        while True:
            tokens, at, sure = (out[:, :rows].tolist() for out in (bursts.tokens, bursts.at, bursts.sure))
            for turn in range(BURST):
                for row in range(rows):
                    if (token := tokens[turn][row]) >= 0:
                        start = int(encoded.starts[row])
                        found[row].append(Emission(token, start + at[turn][row], sure[turn][row]))
            if max(tokens[-1]) < 0:
                return found
            bursts.next()

    def _burst(self, size: int, frames: int, width: int) -> _Bursts:
        found = self._bursts.get((size, frames))
        if found is None:
            found = self._bursts[size, frames] = _Bursts(self, size, frames, width, self._served, self._device)
        return found

    @property
    def net(self) -> PredictionNet:
        return self._net

    @property
    def confidence(self) -> Confidence:
        return self._confidence


class _Bursts:
    """Decoding of one batch size and number of frames: each run makes BURST turns of label looping."""

    def __init__(
        self, decoder: GraphedRnntDecoder, size: int, frames: int, width: int, scratch: int, device: torch.device
    ) -> None:
        self._decoder, self._net, self._scratch = decoder, decoder.net, scratch
        self._frames = torch.zeros(size, frames, width, device=device)
        self._slots = torch.full((size,), scratch, device=device)
        self._counts = torch.zeros(size, dtype=torch.int64, device=device)
        self._places = torch.arange(frames, device=device)
        self._projected = self._net.project_encoder(self._frames)
        self._predictions = decoder.predictions[self._slots]
        self._states = decoder.states[self._slots]
        self._from = torch.zeros_like(self._counts)
        self._symbols = torch.zeros_like(self._counts)
        self.tokens = torch.full((BURST, size), -1, device=device)
        """The token of each turn and row, -1 for none: int64 [BURST, size]."""
        self.at = torch.zeros_like(self.tokens)
        """The frame of each token: int64 [BURST, size]."""
        self.sure = torch.zeros(BURST, size, device=device)
        """The confidence of each token, 0 to 1: float32 [BURST, size]."""
        self.first = RecordedProgram(self._first, device)
        self.next = RecordedProgram(self._next, device)

    def take(self, encoded: Encoded) -> None:
        rows = encoded.slots.shape[0]
        self._frames[:rows] = encoded.frames
        self._slots[:rows] = encoded.slots
        self._slots[rows:] = self._scratch
        self._counts[:rows] = torch.from_numpy(encoded.counts)
        self._counts[rows:] = 0

    def _first(self) -> None:
        self._projected.copy_(self._net.project_encoder(self._frames))
        self._predictions.copy_(self._decoder.predictions[self._slots])
        self._states.copy_(self._decoder.states[self._slots])
        self._from.zero_()
        self._symbols.zero_()
        self._next()

    def _next(self) -> None:
        for turn in range(BURST):
            self._turn(turn)
        self._decoder.predictions.index_copy_(0, self._slots, self._predictions)
        self._decoder.states.index_copy_(0, self._slots, self._states)

    def _turn(self, turn: int) -> None:
        logits = self._net.join(self._projected, self._predictions[:, None])
        best = logits.argmax(2)
        exists = (self._places >= self._from[:, None]) & (self._places < self._counts[:, None])
        emitted = (best != self._net.blank) & exists
        emits = emitted.any(1)
        at = emitted.int().argmax(1)
        tokens = best.gather(1, at[:, None])[:, 0]
        chosen = logits.gather(1, at[:, None, None].expand(-1, -1, logits.shape[2]))[:, 0]
        predictions, states = self._net.predict(tokens, self._states)
        self._predictions.copy_(torch.where(emits[:, None], predictions, self._predictions))
        self._states.copy_(torch.where(emits[:, None, None, None], states, self._states))
        symbols = torch.where(at == self._from, self._symbols, 0) + 1
        full = symbols >= SYMBOLS_MAX
        self._symbols.copy_(symbols.masked_fill(full, 0))
        self._from.copy_(torch.where(emits, at + full, self._places.numel()))
        self.tokens[turn].copy_(tokens.masked_fill(~emits, -1))
        self.at[turn].copy_(at)
        self.sure[turn].copy_(confidences(chosen, self._decoder.confidence))


def _into(buffer: Tensor, value: Tensor) -> None:
    buffer.copy_(value)
