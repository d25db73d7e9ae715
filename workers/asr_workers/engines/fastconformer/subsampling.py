"""Sub-sampling of feature frames by eight (Rekesh et al. 2023, FastConformer), without computing any frame twice.

The three convolutions of stride 2 are causal, so each needs one row of its earlier input: its history. With it, first,
later and short last chunks have the same shape. A first chunk is aligned to the end of its rows. Rows before the
utterance or after its end are set to zero, as in training.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor

from asr_workers.engines.fastconformer.linear import make_linear
from asr_workers.engines.fastconformer.shape import Shape
from asr_workers.engines.fastconformer.weights import Weights

KERNEL = 3


@dataclass(frozen=True, slots=True)
class RowMasks:
    """1 for rows that exist, else 0, after the first two convolutions."""

    first: Tensor
    """[B, 4 * frames out, 1, 1]"""
    second: Tensor
    """[B, 2 * frames out, 1, 1]"""


class Subsampling:
    """The convolutions, and their histories in every slot."""

    def __init__(self, shape: Shape, weights: Weights, slots: int, quantized: bool) -> None:
        self._bands = [shape.mels]
        for _ in range(3):
            self._bands.append(self._bands[-1] // 2 + 1)
        channels, prefix = shape.channels, "encoder.pre_encode.conv"
        self._kernels = [weights(f"{prefix}.{index}.weight") for index in (0, 2, 5)]
        self._kernels = [kernel.contiguous(memory_format=torch.channels_last) for kernel in self._kernels]
        self._biases = [weights.optional(f"{prefix}.{index}.bias") for index in (0, 2, 5)]
        self._pointwise = [
            make_linear(
                weights(f"{prefix}.{index}.weight")[:, :, 0, 0],
                weights.optional(f"{prefix}.{index}.bias"),
                quantized=quantized,
            )
            for index in (3, 6)
        ]
        # Here the bands come before the channels; in the checkpoint they come after them.
        out = weights("encoder.pre_encode.out.weight")
        out = out.view(-1, channels, self._bands[3]).transpose(1, 2).flatten(1)
        bias = weights("encoder.pre_encode.out.bias")
        scale = shape.width**0.5 if shape.scaled else 1.0
        self._out = make_linear(out * scale, bias * scale, quantized=quantized)
        rows = [(shape.mels, 1), (self._bands[1], channels), (self._bands[2], channels)]
        self.histories = [out.new_zeros(slots, bands, depth) for bands, depth in rows]
        """The last row of each convolution's input: [slots, bands, channels] each."""

    def resize(self, slots: int) -> None:
        """Make histories for this number of slots, all wiped."""
        self.histories = [rows.new_zeros(slots, *rows.shape[1:]) for rows in self.histories]

    def __call__(self, features: Tensor, slots: Tensor, masks: RowMasks | None) -> Tensor:
        """features [B, 8 * frames, mels] -> [B, frames, width]. Updates the histories. Without masks all rows exist."""
        x = F.relu_(self._convolved(0, features.unsqueeze(-1), slots))
        x = x if masks is None else x.mul_(masks.first)
        x = self._pointwise[0](self._convolved(1, x, slots), "relu")
        x = x if masks is None else x.mul_(masks.second)
        x = self._pointwise[1](self._convolved(2, x, slots), "relu")
        return self._out(x.flatten(2))

    def _convolved(self, stage: int, x: Tensor, slots: Tensor) -> Tensor:
        """x [B, rows, bands, channels in] -> [B, rows / 2, (bands + 1) / 2, channels out]."""
        batch, rows, bands, depth = x.shape
        padded = x.new_zeros(batch, rows + 1, bands + KERNEL, depth)
        padded[:, 0, KERNEL - 1 : -1] = self.histories[stage].index_select(0, slots)
        padded[:, 1:, KERNEL - 1 : -1] = x
        self.histories[stage].index_copy_(0, slots, x[:, -1])
        kernel = self._kernels[stage]
        groups = 1 if stage == 0 else depth
        y = F.conv2d(padded.permute(0, 3, 1, 2), kernel, self._biases[stage], stride=2, groups=groups)
        return y.permute(0, 2, 3, 1)
