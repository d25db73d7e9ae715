"""A cache-aware streaming FastConformer encoder that computes no frame twice.

Streaming follows Noroozi et al. 2023 (arXiv:2312.17279): chunked attention with limited history, causal convolutions,
and caches between steps. The encoder is that of Rekesh et al. 2023 (FastConformer, arXiv:2305.05084), with the layers
of Gulati et al. 2020 (Conformer, arXiv:2005.08100).

The caches differ from NeMo's. NeMo stores the inputs of the layers and projects them again in every step. Here the
arenas store keys and values: one ring of `left` frames per slot, written in place. The projections of the relative
positions are computed once. Frame n of an utterance is at place n % left of its ring. The length of the ring is a
multiple of every chunk's length, so a chunk never wraps around.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - as everybody calls it
from torch import Tensor

from asr_workers.engines.fastconformer.linear import make_linear
from asr_workers.engines.fastconformer.shape import FIRST_SHORT_FRAMES, SUBSAMPLING, AttentionContext, Shape
from asr_workers.engines.fastconformer.slot_model import Batch
from asr_workers.engines.fastconformer.subsampling import RowMasks, Subsampling
from asr_workers.engines.fastconformer.weights import Weights

_POSITION_BASE = 10_000.0


@dataclass(frozen=True, slots=True)
class _Attention:
    """Positions and mask of one step, which all layers share."""

    positions: Tensor
    """int64 [B, frames, left + frames]: column of the position table for each query and key."""
    hidden: Tensor | None
    """[B, 1, 1, left + frames]: -inf at keys that do not exist, else 0; None where all exist."""


class LeanEncoder:
    """The encoder's weights and the caches of every slot."""

    def __init__(self, shape: Shape, context: AttentionContext, weights: Weights, slots: int, quantized: bool) -> None:
        self.shape = shape
        self.context = context
        self.subsampling = Subsampling(shape, weights, slots, quantized)
        wide = max(context.rights) + 1
        distances = torch.arange(1 - wide, context.left + wide, dtype=torch.float32)
        self._zero_distance = wide - 1
        encodings = position_encodings(distances, shape.width)
        self._layers = [_Layer(index, shape, weights, encodings, quantized) for index in range(shape.layers)]
        like = weights.placed(torch.empty(0))
        head = shape.width // shape.heads
        self.keys = like.new_zeros(shape.layers, slots, shape.heads, context.left, head)
        self.values = torch.zeros_like(self.keys)
        self.convolved = like.new_zeros(shape.layers, slots, shape.kernel - 1, shape.width)
        """The last inputs of each depthwise convolution: [layers, slots, kernel - 1, width]."""

    def resize(self, slots: int) -> None:
        """Make caches for this number of slots, all wiped."""
        self.keys, self.values, self.convolved = (
            arena.new_zeros(arena.shape[0], slots, *arena.shape[2:])
            for arena in (self.keys, self.values, self.convolved)
        )
        self.subsampling.resize(slots)

    def state(self) -> list[Tensor]:
        """Views of all caches, each [slots, ...]."""
        arenas = (self.keys, self.values, self.convolved)
        return [arena.transpose(0, 1) for arena in arenas] + self.subsampling.histories

    def wipe(self, slot: int) -> None:
        for arena in self.state():
            arena[slot].zero_()

    def remembered(self, slot: int, frames: int) -> list[Tensor]:
        filled = min(frames, self.context.left)
        rings = [self.keys[:, slot, :, :filled], self.values[:, slot, :, :filled]]
        return [*rings, self.convolved[:, slot], *(rows[slot] for rows in self.subsampling.histories)]

    def warm_up(self, right: int) -> None:
        """Does nothing: only recorded steps need preparation."""

    def step(self, batch: Batch) -> Tensor:
        """Encoder frames [B, right + 1, width]. Frames after the end of a last chunk have undefined values."""
        frames = batch.features.shape[1] // SUBSAMPLING
        lengths = _Lengths(batch)
        masks = None if batch.whole else lengths.masks(frames, batch.features.dtype)
        x = self.subsampling(batch.features, batch.slots, masks)
        attention = self._attention(batch, frames, lengths.frames)
        history = self.convolved.index_select(1, batch.slots)
        keys, values, convolved = [], [], []
        reach = self._zero_distance + 1 - frames
        for index, layer in enumerate(self._layers):
            past = (self._past(self.keys[index], batch), self._past(self.values[index], batch))
            x, key, value, kept = layer(x, past, history[index], attention, reach)
            keys.append(key)
            values.append(value)
            convolved.append(kept)
        self.convolved.index_copy_(1, batch.slots, torch.stack(convolved))
        self._remember(batch, frames, self.keys, keys)
        self._remember(batch, frames, self.values, values)
        return x

    def _past(self, arena: Tensor, batch: Batch) -> Tensor:
        """The rings [B, heads, left, head] of the batch: a view where its slots are consecutive, else a copy."""
        return arena.index_select(0, batch.slots) if batch.span is None else arena[batch.span]

    def _remember(self, batch: Batch, frames: int, arena: Tensor, new: list[Tensor]) -> None:
        """Overwrite the oldest keys or values with the new ones of each layer, [B, heads, frames, head]."""
        places = (batch.starts % self.context.left)[:, None] + torch.arange(frames, device=batch.starts.device)
        arena[:, batch.slots[:, None], :, places] = torch.stack(new).permute(1, 3, 0, 2, 4)

    def _attention(self, batch: Batch, frames: int, ends: Tensor) -> _Attention:
        left, device = self.context.left, batch.starts.device
        queries = torch.arange(frames, device=device)[:, None]
        starts = batch.starts[:, None]
        # Place j of the ring holds the frame that is `left - ages[j]` frames before the chunk.
        ages = (torch.arange(left, device=device) - starts) % left
        past = queries + (left - ages)[:, None, :]
        new = (queries - queries.T).expand(past.shape[0], frames, frames)
        positions = torch.cat((past, new), 2) + (frames - 1)
        if batch.whole:
            return _Attention(positions, None)
        there = starts - left + ages >= 0
        new_exist = (ends - batch.starts)[:, None] > queries.T
        exists = torch.cat((there, new_exist), 1)
        hidden = torch.zeros(exists.shape, dtype=batch.features.dtype, device=device).masked_fill_(~exists, -math.inf)
        return _Attention(positions, hidden[:, None, None, :])


class _Lengths:
    """Frames of each utterance up to the end of this chunk, after each stage of the sub-sampling: int64 [B]."""

    def __init__(self, batch: Batch) -> None:
        self._starts = batch.starts
        features = batch.starts * SUBSAMPLING - FIRST_SHORT_FRAMES + batch.rows
        self._first = features // 2 + 1
        self._second = self._first // 2 + 1
        self.frames = self._second // 2 + 1

    def masks(self, frames: int, dtype: torch.dtype) -> RowMasks:
        return RowMasks(
            _exists(4 * self._starts - 3, 4 * frames, self._first).to(dtype)[:, :, None, None],
            _exists(2 * self._starts - 1, 2 * frames, self._second).to(dtype)[:, :, None, None],
        )


def _exists(begins: Tensor, count: int, ends: Tensor) -> Tensor:
    rows = begins[:, None] + torch.arange(count, device=begins.device)
    return (rows >= 0) & (rows < ends[:, None])


def position_encodings(distances: Tensor, width: int) -> Tensor:
    """Sinusoidal encodings [distances, width] of the number of frames by which a key precedes its query."""
    rates = torch.exp(torch.arange(0, width, 2, dtype=torch.float32) * -(math.log(_POSITION_BASE) / width))
    angles = distances[:, None] * rates
    return torch.stack((angles.sin(), angles.cos()), 2).flatten(1)


class _Norm:
    """Layer norm."""

    def __init__(self, weights: Weights, name: str) -> None:
        self._weight, self._bias = weights(f"{name}.weight"), weights(f"{name}.bias")

    def __call__(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self._weight, self._bias)


class _FeedForward:
    """A feed-forward module with a half-step residual (Gulati et al. 2020); the factor 0.5 is in the weights."""

    def __init__(self, weights: Weights, prefix: str, name: str, quantized: bool) -> None:
        self._norm = _Norm(weights, f"{prefix}.norm_{name}")
        up, down = f"{prefix}.{name}.linear1", f"{prefix}.{name}.linear2"
        bias = weights.optional(f"{down}.bias")
        self._up = make_linear(weights(f"{up}.weight"), weights.optional(f"{up}.bias"), quantized=quantized)
        half = None if bias is None else 0.5 * bias
        self._down = make_linear(0.5 * weights(f"{down}.weight"), half, quantized=quantized)

    def __call__(self, x: Tensor) -> Tensor:
        return self._down.added(self._up(self._norm(x), "swish"), x)


class _Layer:
    """One Conformer layer."""

    def __init__(self, index: int, shape: Shape, weights: Weights, encodings: Tensor, quantized: bool) -> None:
        prefix = f"encoder.layers.{index}"
        self._feed1 = _FeedForward(weights, prefix, "feed_forward1", quantized)
        self._feed2 = _FeedForward(weights, prefix, "feed_forward2", quantized)
        self._attend = _SelfAttention(shape, weights, prefix, encodings, quantized)
        self._convolve = _Convolution(shape, weights, prefix, quantized)
        self._norm = _Norm(weights, f"{prefix}.norm_out")

    def __call__(
        self, x: Tensor, past: tuple[Tensor, Tensor], history: Tensor, shared: _Attention, reach: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """x [B, frames, width] -> outputs of that shape, new keys and values, and the convolution's new history.

        `past` are keys and values [B, heads, left, head]; `history` is [B, kernel - 1, width]; `reach` is the number of
        columns that this step leaves out at both ends of the position table.
        """
        x = self._feed1(x)
        x, key, value = self._attend(x, past, shared, reach)
        x, kept = self._convolve(x, history)
        return self._norm(self._feed2(x)), key, value, kept


class _SelfAttention:
    """Attention with relative positions (Dai et al. 2019, Transformer-XL, arXiv:1901.02860, section 3.3).

    The scale of the scores is in the queries' weights.
    """

    def __init__(self, shape: Shape, weights: Weights, prefix: str, encodings: Tensor, quantized: bool) -> None:
        self._norm = _Norm(weights, f"{prefix}.norm_self_att")
        self._heads, name = shape.heads, f"{prefix}.self_attn"
        scale = (shape.width // shape.heads) ** -0.5
        parts = [weights(f"{name}.linear_{part}.weight") for part in "qkv"]
        biases = [weights.optional(f"{name}.linear_{part}.bias") for part in "qkv"]
        given = [parts[0].new_zeros(shape.width) if bias is None else bias for bias in biases]
        self._project = make_linear(
            torch.cat((parts[0] * scale, *parts[1:])), torch.cat((given[0] * scale, *given[1:])), quantized=quantized
        )
        content, position = weights(f"{name}.pos_bias_u"), weights(f"{name}.pos_bias_v")
        self._content, self._position = content[:, None] * scale, position[:, None] * scale
        table = encodings @ weights.raw(f"{name}.linear_pos.weight").T
        self._table = weights.placed(table.view(-1, shape.heads, shape.width // shape.heads).permute(1, 2, 0))
        """The projected encodings of all distances: [heads, head, distances]."""
        out = f"{name}.linear_out"
        self._out = make_linear(weights(f"{out}.weight"), weights.optional(f"{out}.bias"), quantized=quantized)

    def __call__(
        self, x: Tensor, past: tuple[Tensor, Tensor], shared: _Attention, reach: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        batch, frames, width = x.shape
        projected = self._project(self._norm(x)).view(batch, frames, 3, self._heads, -1)
        query, key, value = projected.permute(2, 0, 3, 1, 4).unbind(0)
        scores = self._positional(query, shared, reach)
        content = query + self._content
        scores += torch.cat((content @ past[0].transpose(2, 3), content @ key.transpose(2, 3)), 3)
        if shared.hidden is not None:
            scores += shared.hidden
        shares = scores.softmax(3)
        left = past[0].shape[2]
        attended = shares[..., :left] @ past[1] + shares[..., left:] @ value
        return self._out.added(attended.transpose(1, 2).reshape(batch, frames, width), x), key, value

    def _positional(self, query: Tensor, shared: _Attention, reach: int) -> Tensor:
        """The part of the scores that depends on the distance: [B, heads, frames, left + frames]."""
        batch, heads, frames, head = query.shape
        rows = (query + self._position).transpose(0, 1).reshape(heads, batch * frames, head)
        table = self._table[:, :, reach : self._table.shape[2] - reach]
        by_distance = torch.bmm(rows, table).view(heads, batch, frames, -1).transpose(0, 1)
        return by_distance.gather(3, shared.positions[:, None].expand(-1, heads, -1, -1))


class _Convolution:
    """The convolution module, causal: its depthwise convolution covers earlier frames only."""

    def __init__(self, shape: Shape, weights: Weights, prefix: str, quantized: bool) -> None:
        self._norm = _Norm(weights, f"{prefix}.norm_conv")
        name = f"{prefix}.conv"
        ends = [
            make_linear(
                weights(f"{name}.pointwise_conv{n}.weight")[:, :, 0],
                weights.optional(f"{name}.pointwise_conv{n}.bias"),
                quantized=quantized,
            )
            for n in (1, 2)
        ]
        self._open, self._close = ends
        kernel, bias = weights(f"{name}.depthwise_conv.weight"), weights.optional(f"{name}.depthwise_conv.bias")
        self._inner: _Norm | None = None
        if shape.batch_norm:
            kernel, bias = _folded(weights, f"{name}.batch_norm", kernel, bias)
        else:
            self._inner = _Norm(weights, f"{name}.batch_norm")
        self._kernel, self._bias = kernel, bias

    def __call__(self, x: Tensor, history: Tensor) -> tuple[Tensor, Tensor]:
        gated = torch.cat((history, F.glu(self._open(self._norm(x)), 2)), 1)
        y = F.conv1d(gated.transpose(1, 2), self._kernel, self._bias, groups=gated.shape[2]).transpose(1, 2)
        y = y if self._inner is None else self._inner(y)
        return self._close.added(F.silu(y), x), gated[:, -history.shape[1] :]


def _folded(weights: Weights, name: str, kernel: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """Kernel and bias of the convolution with the batch norm after it folded in."""
    spread = (weights.raw(f"{name}.running_var") + 1e-5).sqrt()
    scale = weights.raw(f"{name}.weight") / spread
    given = torch.zeros_like(scale) if bias is None else bias.float().cpu()
    shift = weights.raw(f"{name}.bias") + (given - weights.raw(f"{name}.running_mean")) * scale
    return weights.placed(kernel.float().cpu() * scale[:, None, None]), weights.placed(shift)
