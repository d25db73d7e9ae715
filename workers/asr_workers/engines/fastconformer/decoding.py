"""Greedy decoding of all rows of a step at once; what carries over to the next step lies per slot.

RNN-T: the joint network scores all frames of the step with each row's current prediction. Rows without a token are
done, which most are; the others take their first token and go on from its frame, until none is left.
CTC: the best token of each frame, unless it is blank or the one before it.
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
"""Tokens of one frame, as NeMo's configurations have it: a bound for a model that would emit for ever."""

Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Encoded:
    """The encoder's output of one step."""

    frames: Tensor
    """float32 [B, frames, width]."""
    slots: Tensor
    """int64 [B]."""
    counts: Ints
    """[B]: frames that exist."""
    starts: Ints
    """[B]: frames of the utterance before these."""


class GreedyDecoder(Protocol):
    """Finds tokens; keeps what each slot needs next time."""

    def decode(self, encoded: Encoded) -> list[list[Emission]]:
        """New tokens of each row."""

    def state(self) -> list[Tensor]:
        """Everything that belongs to slots, each [slots, ...]."""

    def wipe(self, slot: int) -> None:
        """As before an utterance."""

    def resize(self, slots: int) -> None:
        """So many slots, all wiped."""

    def warm_up(self, right: int) -> None:
        """Prepare for steps of this look-ahead."""


def confidences(logits: Tensor, kind: Confidence) -> Tensor:
    """How sure each row of logits [N, V] is of its best token: [N], 0 to 1."""
    logs = logits.float().log_softmax(1)
    if kind == "max-prob":
        return logs.amax(1).exp()
    return (1 + (logs.exp() * logs).sum(1) / math.log(logs.shape[1])).clamp(0, 1)


def joint_output(names: Iterable[str]) -> str | None:
    """The weight of the joint network's last layer; its number depends on whether the network drops out."""
    return max((name for name in names if re.fullmatch(r"joint\.joint_net\.\d\.weight", name)), default=None)


class PredictionNet:
    """Embedding, LSTM and the joint network."""

    def __init__(self, weights: Weights) -> None:
        rnn = "decoder.prediction.dec_rnn.lstm"
        if weights.optional(f"{rnn}.weight_hr_l0") is not None:
            raise Unsupported("the lean implementation does not know projected LSTMs: take nemo")
        self.recurrent: list[Linear] = []
        self.inputs: list[Linear] = []
        while (recurrent := weights.optional(f"{rnn}.weight_hh_l{len(self.recurrent)}")) is not None:
            layer = len(self.recurrent)
            bias = weights(f"{rnn}.bias_ih_l{layer}") + weights(f"{rnn}.bias_hh_l{layer}")
            inputs = weights(f"{rnn}.weight_ih_l{layer}")
            if layer == 0:
                # The first layer sees tokens alone, so all that it can see is computed here.
                self.table = weights("decoder.prediction.embed.weight") @ inputs.T + bias
            else:
                self.inputs.append(make_linear(inputs, bias))
            self.hidden: int = recurrent.shape[1]
            self.recurrent.append(make_linear(recurrent, None))
        if not self.recurrent:
            raise Unsupported("the lean implementation does not know transducers without an LSTM: take nemo")
        last = joint_output(weights.names("joint."))
        if last is None:
            raise SetupError("the checkpoint has no joint network")
        final, bias = weights(last), weights(last.removesuffix("weight") + "bias")
        self.blank = final.shape[0] - 1
        if self.table.shape[0] != self.blank + 1:
            raise Unsupported("the lean implementation knows transducers whose blank pads and comes last: take nemo")
        self._final = make_linear(final, bias)
        encoder = weights("joint.enc.weight")
        self.encoder_width = encoder.shape[1]
        self.project_encoder = make_linear(encoder, weights("joint.enc.bias"))
        self._project_prediction = make_linear(weights("joint.pred.weight"), weights("joint.pred.bias"))

    def predict(self, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """tokens [N], state [N, layers, 2, hidden] -> prediction as the joint takes it [N, joint], the new state."""
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
        """Projected frames [..., joint] and predictions, which may be broadcast, -> logits [..., V]."""
        return self._final((frames + predictions).relu_())


class RnntDecoder:
    """Greedy transducer decoding, as NeMo's label-looping does it."""

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
        """Nothing is prepared."""

    def decode(self, encoded: Encoded) -> list[list[Emission]]:
        net, count = self._net, encoded.counts
        projected = net.project_encoder(encoded.frames)
        found: list[list[Emission]] = [[] for _ in count]
        rows = np.arange(count.size)
        """Rows still open, and from which frame on."""
        frames = np.zeros_like(count)
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
        """Each row's first token from frame `begins` on (-1 for none), its frame, and confidences of those found."""
        places = np.arange(projected.shape[1])
        open_ = (places >= begins[:, None]) & (places < counts[rows, None])
        which, where = np.nonzero(open_)
        device = projected.device
        index, frame = torch.from_numpy(which).to(device), torch.from_numpy(where).to(device)
        logits = self._net.join(projected[torch.from_numpy(rows).to(device)[index], frame], predictions[index])
        best = logits.argmax(1)
        tokens = np.full(open_.shape, self._net.blank)
        tokens[which, where] = best.cpu().numpy()
        spoken = tokens != self._net.blank
        at = spoken.argmax(1)
        emits = spoken.any(1)
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
        """The last frame's token of each slot, on the CPU."""

    def state(self) -> list[Tensor]:
        return [self._before]

    def wipe(self, slot: int) -> None:
        self._before[slot] = self._blank

    def resize(self, slots: int) -> None:
        self._before = torch.full((slots, 1), self._blank)

    def warm_up(self, right: int) -> None:
        """Nothing is prepared."""

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
