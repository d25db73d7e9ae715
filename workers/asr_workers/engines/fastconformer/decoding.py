"""Greedy decoding of all rows of a step in one batch. The state between steps is kept per slot.

RNN-T (Graves 2012, arXiv:1211.3711, sections 2.4 and 2.5), in the order of NeMo's label looping: the joint network
scores all frames of the step with each row's current prediction. Most rows have no token and are done. The others emit
their first token and continue from its frame, until no row has a token.
CTC (Graves et al. 2006): the best token of each frame, unless it is the blank or equals that of the frame before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from asr_proto.errors import SetupError
from asr_workers.engines.fastconformer.linear import Linear, make_linear
from asr_workers.engines.fastconformer.shape import Unsupported
from asr_workers.engines.fastconformer.streaming import Confidence, Emission
from asr_workers.engines.fastconformer.weights import Weights

SYMBOLS_MAX = 10
"""Most tokens at one frame, as in NeMo's configurations. It stops a model that never emits the blank."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Encoded:
    """The encoder's output of one step."""

    frames: Tensor
    """float32 [B, frames, width]."""
    slots: Tensor
    """int64 [B]: the slot of each row."""
    counts: Ints
    """int64 [B]: number of valid frames of each row."""
    starts: Ints
    """int64 [B]: frames of the utterance before these."""


class GreedyDecoder(Protocol):
    """Finds the tokens of a step, and keeps the decoder state of each slot."""

    def decode(self, encoded: Encoded) -> list[list[Emission]]:
        """The new tokens of each of the B rows, in order."""

    def state(self) -> list[Tensor]:
        """The arenas that hold the slots' state, each [slots, ...]."""

    def wipe(self, slot: int) -> None:
        """Set the slot's state to that before an utterance."""

    def resize(self, slots: int) -> None:
        """Make arenas for this number of slots, all wiped."""

    def warm_up(self, right: int) -> None:
        """Prepare for steps with this look-ahead, in encoder frames."""


def confidences(logits: Tensor, kind: Confidence) -> Tensor:
    """Confidence of the best token of each row of logits [N, V]: float32 [N], 0 to 1.

    `entropy` is the Gibbs entropy with linear normalization of Laptev & Ginsburg 2023 (arXiv:2212.08703).
    """
    logs = logits.float().log_softmax(1)
    if kind == "max-prob":
        return logs.amax(1).exp()
    return (1 + (logs.exp() * logs).sum(1) / math.log(logs.shape[1])).clamp(0, 1)


def joint_output(names: Iterable[str]) -> str | None:
    """Name of the weight of the joint network's last layer: its number depends on whether there is a dropout layer."""
    return max((name for name in names if re.fullmatch(r"joint\.joint_net\.\d\.weight", name)), default=None)


class PredictionNet:
    """The prediction network (an embedding and an LSTM) and the joint network."""

    def __init__(self, weights: Weights) -> None:
        rnn = "decoder.prediction.dec_rnn.lstm"
        if weights.optional(f"{rnn}.weight_hr_l0") is not None:
            raise Unsupported("the lean implementation does not support projected LSTMs: use nemo")
        self.recurrent: list[Linear] = []
        self.inputs: list[Linear] = []
        while (recurrent := weights.optional(f"{rnn}.weight_hh_l{len(self.recurrent)}")) is not None:
            layer = len(self.recurrent)
            bias = weights(f"{rnn}.bias_ih_l{layer}") + weights(f"{rnn}.bias_hh_l{layer}")
            inputs = weights(f"{rnn}.weight_ih_l{layer}")
            if layer == 0:
                # The first layer's only inputs are tokens, so its products with all tokens are computed here.
                self.table = weights("decoder.prediction.embed.weight") @ inputs.T + bias
            else:
                self.inputs.append(make_linear(inputs, bias))
            self.hidden: int = recurrent.shape[1]
            self.recurrent.append(make_linear(recurrent, None))
        if not self.recurrent:
            raise Unsupported("the lean implementation does not support transducers without an LSTM: use nemo")
        last = joint_output(weights.names("joint."))
        if last is None:
            raise SetupError("the checkpoint has no joint network")
        final, bias = weights(last), weights(last.removesuffix("weight") + "bias")
        self.blank = final.shape[0] - 1
        if self.table.shape[0] != self.blank + 1:
            raise Unsupported("the lean implementation needs a blank that pads and comes last: use nemo")
        self._final = make_linear(final, bias)
        encoder = weights("joint.enc.weight")
        self.encoder_width = encoder.shape[1]
        self.project_encoder = make_linear(encoder, weights("joint.enc.bias"))
        self._project_prediction = make_linear(weights("joint.pred.weight"), weights("joint.pred.bias"))

    def predict(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """tokens int64 [N] and state [N, layers, 2, hidden] -> projected predictions [N, joint] and the new state.

        The state holds the hidden and the cell values of each LSTM layer.
        """
        layers = []
        x = self.table[tokens]
        for layer, recurrent in enumerate(self.recurrent):
            gates = self.inputs[layer - 1](x) if layer else x
            take, forget, cell, give = (gates + recurrent(state[:, layer, 0])).chunk(4, 1)
            kept = forget.sigmoid() * state[:, layer, 1] + take.sigmoid() * cell.tanh()
            x = give.sigmoid() * kept.tanh()
            layers.append(torch.stack((x, kept), 1))
        return self._project_prediction(x), torch.stack(layers, 1)

    def join(self, frames: Tensor, predictions: Tensor) -> Tensor:
        """Projected frames and projected predictions, [..., joint] each and broadcast, -> logits [..., V]."""
        return self._final((frames + predictions).relu_())


class RnntDecoder:
    """Greedy RNN-T decoding in the order of NeMo's label looping."""

    def __init__(self, net: PredictionNet, slots: int, device: torch.device, confidence: Confidence) -> None:
        self._net = net
        self._confidence: Confidence = confidence
        start = torch.full((1,), net.blank, device=device)
        nothing = torch.zeros(1, len(net.recurrent), 2, net.hidden, device=device)
        first = net.predict(start, nothing)
        self._first = first[0][0], first[1][0]
        self.predictions, self.states = (part.repeat(slots, *[1] * part.dim()) for part in self._first)

    def state(self) -> list[Tensor]:
        return [self.predictions, self.states]

    def wipe(self, slot: int) -> None:
        self.predictions[slot], self.states[slot] = self._first

    def resize(self, slots: int) -> None:
        self.predictions, self.states = (part.repeat(slots, *[1] * part.dim()) for part in self._first)

    def warm_up(self, right: int) -> None:
        """Does nothing."""

    def decode(self, encoded: Encoded) -> list[list[Emission]]:
        net, count = self._net, encoded.counts
        projected = net.project_encoder(encoded.frames)
        found: list[list[Emission]] = [[] for _ in count]
        rows = np.arange(count.size)
        """The rows that may have more tokens."""
        frames = np.zeros_like(count)
        """The frame from which each of them continues."""
        symbols = np.zeros_like(count)
        predictions = self.predictions[encoded.slots]
        while rows.size:
            tokens, at, sure = self._next(projected, predictions, rows, frames, count)
            emitted = tokens >= 0
            rows, tokens, at = rows[emitted], tokens[emitted], at[emitted]
            if not rows.size:
                break
            for row, token, frame, value in zip(rows.tolist(), tokens.tolist(), at.tolist(), sure, strict=True):
                found[row].append(Emission(token, int(encoded.starts[row]) + frame, value))
            slots = encoded.slots[torch.from_numpy(rows)]
            predictions, states = net.predict(torch.from_numpy(tokens).to(slots.device), self.states[slots])
            self.predictions[slots], self.states[slots] = predictions, states
            symbols = np.where(at == frames[emitted], symbols[emitted], 0) + 1
            full = symbols >= SYMBOLS_MAX
            frames = at + full
            symbols[full] = 0
            still = frames < count[rows]
            if not still.all():
                keep = torch.from_numpy(np.flatnonzero(still)).to(slots.device)
                predictions, rows, frames, symbols = predictions[keep], rows[still], frames[still], symbols[still]
        return found

    def _next(
        self, projected: Tensor, predictions: Tensor, rows: Ints, begins: Ints, counts: Ints
    ) -> tuple[Ints, Ints, list[float]]:
        """Each row's first token from frame `begins` on (-1 for none), its frame, and the confidences of the tokens."""
        places = np.arange(projected.shape[1])
        open_ = (places >= begins[:, None]) & (places < counts[rows, None])
        which, where = np.nonzero(open_)
        device = projected.device
        index, frame = torch.from_numpy(which).to(device), torch.from_numpy(where).to(device)
        logits = self._net.join(projected[torch.from_numpy(rows).to(device)[index], frame], predictions[index])
        best = logits.argmax(1)
        tokens = np.full(open_.shape, self._net.blank)
        tokens[which, where] = best.cpu().numpy()
        emitted = tokens != self._net.blank
        at = emitted.argmax(1)
        emits = emitted.any(1)
        first = np.where(emits, tokens[np.arange(rows.size), at], -1)
        if not emits.any():
            return first, at, []
        flat = np.cumsum(open_).reshape(open_.shape)[np.arange(rows.size), at][emits] - 1
        taken = torch.from_numpy(flat).to(device)
        return first, at, confidences(logits[taken], self._confidence).tolist()


class CtcDecoder:
    """Greedy CTC decoding."""

    def __init__(self, head: Callable[[Tensor], Tensor], blank: int, slots: int, confidence: Confidence) -> None:
        self._head = head
        self._blank = blank
        self._confidence: Confidence = confidence
        self._before = torch.full((slots, 1), blank)
        """The token or blank of each slot's last frame: int64 [slots, 1], on the CPU."""

    def state(self) -> list[Tensor]:
        return [self._before]

    def wipe(self, slot: int) -> None:
        self._before[slot] = self._blank

    def resize(self, slots: int) -> None:
        self._before = torch.full((slots, 1), self._blank)

    def warm_up(self, right: int) -> None:
        """Does nothing."""

    def decode(self, encoded: Encoded) -> list[list[Emission]]:
        logits = self._head(encoded.frames)
        best = logits.argmax(2).cpu()
        slots = encoded.slots.cpu()
        count = torch.from_numpy(encoded.counts)
        shifted = torch.cat((self._before[slots], best[:, :-1]), 1)
        exists = torch.arange(best.shape[1]) < count[:, None]
        rows, frames = ((best != shifted) & (best != self._blank) & exists).nonzero(as_tuple=True)
        last = torch.cat((self._before[slots], best), 1).gather(1, count[:, None])
        self._before[slots] = last
        found: list[list[Emission]] = [[] for _ in encoded.counts]
        if rows.numel():
            tokens = best[rows, frames]
            sure = confidences(logits[rows, frames], self._confidence).tolist()
            for row, frame, token, value in zip(rows.tolist(), frames.tolist(), tokens.tolist(), sure, strict=True):
                found[row].append(Emission(token, int(encoded.starts[row]) + frame, value))
        return found
